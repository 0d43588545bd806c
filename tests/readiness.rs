//! Which listener is the service's own: on a port that several services share, after an update, on
//! a device that was made anew.

mod harness;

use std::path::Path;
use std::time::Duration;

use harness::{Backend, Outcome, SOON, call, ms, python, words};
use serde_json::{Value, json};
use testkit::services::Serve;
use testkit::{Host, Load, Pair, RunningLoad, SERVER, slow, wait_until};

const LONG: Duration = Duration::from_secs(60);
/// Longer than an address is waited for whose service listens without it.
const LATE: Duration = Duration::from_millis(1_400);
/// What it takes to look, decide and open, on a busy machine. Less than any settle time.
const AT_ONCE_MS: f64 = 80.0;

fn sh(script: impl Into<String>) -> Vec<String> {
    vec!["sh".to_owned(), "-c".to_owned(), script.into()]
}

/// A small server in shell scripts, started in the background: the script does not wait for it.
#[derive(Clone)]
struct Server {
    name: &'static str,
    serve: Serve,
    by: &'static str,
}

impl Server {
    fn on(name: &'static str, address: &str) -> Server {
        Server {
            name,
            serve: Serve::on(address),
            by: "",
        }
    }

    fn and_on(mut self, address: &str) -> Server {
        self.serve = self.serve.and_on(address);
        self
    }

    fn late(mut self) -> Server {
        self.serve = self.serve.start_delay(LATE);
        self
    }

    /// Started by another program, such as setpriv(1).
    fn by(mut self, program: &'static str) -> Server {
        self.by = program;
        self
    }

    fn pid_file(&self, host: &Host) -> String {
        let file = host.dir().join(format!("{}.pid", self.name));
        file.to_str().unwrap().to_owned()
    }

    fn starts(&self, host: &Host) -> String {
        let argv = self.serve.argv().unwrap().join(" ");
        let pid_file = self.pid_file(host);
        format!("{} {argv} >/dev/null 2>&1 & echo $! >{pid_file}", self.by)
    }

    fn stops(&self, host: &Host) -> String {
        format!("kill $(cat {})", self.pid_file(host))
    }

    fn start(&self, host: &Host) {
        let before = listeners(host);
        host.must(sh(self.starts(host)));
        wait_until(SOON, "its listener", || listeners(host) > before).unwrap();
    }
}

fn listeners(host: &Host) -> usize {
    host.must(["ss", "-Hltn"]).lines().count()
}

fn load(pair: &Pair) -> RunningLoad {
    let load = Load::to(format!("{SERVER}:8053")).rate(200).duration(LONG);
    let mut load = load.start(&pair.client).unwrap();
    load.wait_flowing().unwrap();
    load
}

fn run(pair: &Pair, options: &str, script: String) -> Outcome {
    let options = format!("--port 8053 {options}");
    call(&pair.server, words(&options)).run(sh(script))
}

fn ready_ms(outcome: &Outcome) -> f64 {
    ms(&outcome.report["phases"], "ready_ms")
}

fn here() -> String {
    format!("{SERVER}:8053")
}

/// A stub resolver and a name server: the one that is left alone says nothing about the other.
#[test]
fn another_service_on_the_port_vouches_for_nobody() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    Server::on("stub", "127.0.0.53:8053").start(host);
    let name = Server::on("name", &here());
    name.start(host);
    let running = load(&pair);
    let script = format!("{}; {}", name.stops(host), name.clone().late().starts(host));
    let outcome = run(&pair, "", script);
    let report = running.stop().unwrap();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(outcome.report["warnings"], json!([]), "{outcome:?}");
    assert!(ready_ms(&outcome) >= LATE.as_millis() as f64 - 100.0);

    // One that does not come back is no success.
    let outcome = run(&pair, "--ready-timeout 300ms", name.stops(host));
    assert_eq!(outcome.code, 124, "{outcome:?}");
    assert_eq!(outcome.report["reason"], "no_listener", "{outcome:?}");
    let line = outcome.stderr.lines().last().unwrap();
    assert!(
        line.contains(&format!("nobody listens on {} ", here())),
        "{line}"
    );
}

/// Nothing has to settle, since nothing has become of the other one.
#[test]
fn another_service_on_the_port_is_not_waited_for() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    Server::on("stub", "127.0.0.53:8053").start(host);
    let name = Server::on("name", &here());
    name.start(host);
    let up = format!("until ss -Hltn src {SERVER} | grep -q .; do sleep 0.01; done");
    let script = format!("{}; {}; {up}", name.stops(host), name.starts(host));
    let outcome = run(&pair, "", script);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.report["warnings"], json!([]), "{outcome:?}");
    let ready = ready_ms(&outcome);
    assert!(ready <= AT_ONCE_MS * f64::from(slow()), "{ready} ms");
}

/// Another user's process begins to listen on the port, on another address, during the restart.
#[test]
fn a_newcomer_of_another_user_is_not_the_service() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let name = Server::on("name", &here());
    name.start(host);
    let other = Server::on("other", "127.0.0.1:8053").by("setpriv --reuid 65534 --clear-groups");
    let running = load(&pair);
    let script = format!(
        "{}; {}; {}",
        name.stops(host),
        other.starts(host),
        name.clone().late().starts(host)
    );
    let outcome = run(&pair, "", script);
    let report = running.stop().unwrap();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(outcome.report["warnings"], json!([]), "{outcome:?}");
}

/// The same user's listener on another address looks like a service that has moved. When the old address is
/// back after all, behind the open gate, the run tells that clients were refused.
#[test]
fn an_address_that_comes_back_behind_the_open_gate_is_told() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    Server::on("stub", "127.0.0.53:8053").start(host);
    let name = Server::on("name", &here());
    name.start(host);
    let other = Server::on("other", "127.0.0.1:8053");
    let mut late = name.clone();
    late.serve = late.serve.start_delay(LATE + LATE / 2);
    let running = load(&pair);
    let script = [name.stops(host), other.starts(host), late.starts(host)].join("; ");
    let outcome = run(&pair, "", script);
    let report = running.stop().unwrap();
    assert!(report.refused > 0, "{report}");
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let told = format!(
        "nobody listened on {} for a time after its port had opened: new connections there were refused",
        here()
    );
    assert_eq!(outcome.report["warnings"], json!([told]), "{outcome:?}");
}

/// The update has given the service a user of its own: that is told, and nobody waits for it.
#[test]
fn a_service_may_come_back_as_another_user() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let name = Server::on("name", &here());
    name.start(host);
    let updated = name.clone().by("setpriv --reuid 65534 --clear-groups");
    let up = format!("until ss -Hltn src {SERVER} | grep -q .; do sleep 0.01; done");
    let script = format!("{}; {}; {up}", name.stops(host), updated.starts(host));
    let outcome = run(&pair, "", script);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let told = format!(
        "the listener on {} now belongs to uid 65534; before COMMAND it belonged to uid 0",
        here()
    );
    assert_eq!(outcome.report["warnings"], json!([told]), "{outcome:?}");
    let ready = ready_ms(&outcome);
    assert!(ready <= AT_ONCE_MS * f64::from(slow()), "{ready} ms");
}

/// The moment that an address is granted begins when the service is back, not when COMMAND exits.
#[test]
fn an_address_may_come_a_moment_after_the_first() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let both = Server::on("name", "127.0.0.53:8053").and_on(&here());
    both.start(host);
    let first = Server::on("first", "127.0.0.53:8053").late();
    let mut second = Server::on("second", &here());
    second.serve = second.serve.start_delay(LATE + LATE / 4);
    let running = load(&pair);
    let script = [both.stops(host), first.starts(host), second.starts(host)].join("; ");
    let outcome = run(&pair, "", script);
    let report = running.stop().unwrap();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(report.failed(), 0, "{report}");
}

/// A tunnel that was taken down and up again has another index; the listener is bound to the old one
/// until the restart that mends it.
#[test]
fn a_device_that_was_made_anew_is_the_same() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let tunnel = "ip link add tun0 type veth peer name tun1; ip address add 10.88.0.1/24 dev tun0; ip link set tun0 up";
    host.must(sh(tunnel));
    let pid_file = host.dir().join("bound.pid");
    let program = "import socket, time
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.setsockopt(socket.SOL_SOCKET, 25, b'tun0'); l.bind(('0.0.0.0', 8053)); l.listen(9); time.sleep(60)";
    let bound = format!(
        "python3 -c \"{program}\" >/dev/null 2>&1 & echo $! >{}",
        pid_file.display()
    );
    let up = "until ss -Hltn | grep -q %tun0; do sleep 0.01; done";
    host.must(sh(format!("{bound}; {up}")));
    host.must(sh(format!("ip link del tun0; {tunnel}")));
    let restart = format!("kill $(cat {}); {bound}; {up}", pid_file.display());
    let outcome = run(&pair, "", restart);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.report["listeners_lost"], json!([]), "{outcome:?}");
    assert_eq!(outcome.report["warnings"], json!([]), "{outcome:?}");
    assert_eq!(outcome.report["listeners_after"][0]["device"], "tun0");
    let ready = ready_ms(&outcome);
    assert!(ready <= AT_ONCE_MS * f64::from(slow()), "{ready} ms");

    // Messages name the device.
    let stop = format!("kill $(cat {})", pid_file.display());
    let other = Server::on("other", "127.0.0.1:8053");
    let outcome = run(
        &pair,
        "",
        format!("{stop}; {}; sleep 0.2", other.starts(host)),
    );
    let lost = json!(["0.0.0.0%tun0:8053"]);
    assert_eq!(outcome.report["listeners_lost"], lost, "{outcome:?}");
}

// A COMMAND that returns before the restart begins --------------------------------------------------

/// Like s6-svc -r, or systemctl --no-block: the old process goes 400 ms after COMMAND has returned, and
/// the new one comes 300 ms later.
fn a_command_that_returns_early(backend: Backend, syn: &str) {
    const RATE: u32 = 1_000;
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let name = Server::on("name", &here());
    name.start(host);
    let mut again = name.clone();
    again.serve = again.serve.start_delay(Duration::from_millis(300));
    let (stops, starts) = (name.stops(host), again.starts(host));
    let load = Load::to(here()).rate(RATE / slow()).duration(LONG);
    let mut running = load.start(&pair.client).unwrap();
    running.wait_flowing().unwrap();
    let script = format!("(sleep 0.4; {stops}; {starts}) >/dev/null 2>&1 &");
    let options = words(&format!("--port 8053 --syn {syn}"));
    let outcome = call(host, options).on(backend).run(sh(script));
    let report = running.stop().unwrap();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(
        outcome.report["ports_closed_again"],
        json!(["8053"]),
        "{outcome:?}"
    );
    assert!(
        outcome
            .stderr
            .contains("COMMAND exited before the restart was done: a listener on 8053 ended"),
        "{outcome:?}"
    );
    // What comes before the gate is closed again: none in some 0.1 ms, more on a busy machine. All of
    // 300 ms are refused without that, and more than 90 where programs of iptables run first.
    assert!(report.refused <= 60, "{report}");
    harness::tell(&format!("{} {syn}: {report}", backend.name()));
}

#[test]
fn a_command_that_returns_early_is_noticed() {
    a_command_that_returns_early(Backend::of_the_suite(), "drop");
}

#[test]
fn a_command_that_returns_early_holds_again() {
    a_command_that_returns_early(Backend::of_the_suite(), "hold");
}

/// The programs of iptables take longer than clients may be refused for: they run behind the closed gate.
#[test]
fn a_command_that_returns_early_is_noticed_with_iptables() {
    a_command_that_returns_early(Backend::IptablesNft, "drop");
    a_command_that_returns_early(Backend::IptablesLegacy, "drop");
}

/// A service that stops accepting long before it closes its listener.
const LAZY: &str = "
import os, signal, socket, time
open('PID', 'w').write(str(os.getpid()))
def listener():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('', 8053))
    s.listen(512)
    return s
class Stop(Exception): pass
def stop(*_): raise Stop
signal.signal(signal.SIGTERM, stop)
s = listener()
print('up', flush=True)
while True:
    try:
        k = s.accept()[0]
        try:
            k.recv(999)
            k.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\nConnection: close\\r\\n\\r\\nok\\n')
        except OSError: pass
        k.close()
    except Stop:
        time.sleep(0.6)
        s.close()
        s = listener()
";

/// COMMAND has returned at once, so the port opens again while the service accepts nobody any more. When it closes
/// its listener, the kernel resets the clients that wait.
#[test]
fn who_was_not_accepted_when_the_listener_ended_is_told() {
    let pair = Pair::new().unwrap();
    let pid = pair.server.dir().join("lazy.pid");
    let pid = pid.to_str().unwrap();
    let _server = python(&pair.server, &LAZY.replace("PID", pid));
    let load = Load::to(here()).rate(200 / slow()).duration(LONG);
    let mut running = load.start(&pair.client).unwrap();
    running.wait_flowing().unwrap();
    let stop = sh(format!("kill -TERM $(cat {pid})"));
    let outcome = call(&pair.server, words("--port 8053")).run(stop);
    let report = running.stop().unwrap();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(report.failed() > 0, "{report}");
    let told = " in the accept queue of a listener on 8053 shortly before that ended";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
}

/// How long a service is down at least that comes back late.
const DOWN: Duration = Duration::from_millis(1_200);

/// By the clients of `to`: COMMAND has returned before `script` runs. Returns the report.
fn a_late_restart_is_noticed(pair: &Pair, to: &str, script: &str) -> Value {
    let load = Load::to(to).rate(500 / slow()).duration(LONG);
    let mut running = load.start(&pair.client).unwrap();
    running.wait_flowing().unwrap();
    let script = format!("({script}) >/dev/null 2>&1 &");
    let options = words("--port 8053,8054");
    let outcome = call(&pair.server, options).run(sh(script));
    let report = running.stop().unwrap();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    // Closing again takes some 0.1 ms, and more on a busy machine. Without that, all are refused while it is down.
    let came = DOWN.as_millis() as u64 / 2 / u64::from(slow());
    assert!(report.refused <= came / 2, "{report}");
    outcome.report
}

/// A supervisor restarts one service after the other: s6-svc -r a b. Once the first has changed, nothing
/// is known of the second.
#[test]
fn each_of_two_services_that_come_back_late_is_noticed() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let first = Server::on("first", &here());
    let second = Server::on("second", &format!("{SERVER}:8054"));
    // The gate is open when a client is let in.
    let open =
        |port| format!("until timeout 0.1 bash -c ': >/dev/tcp/{SERVER}/{port}'; do :; done");
    let restart = |server: &Server, port| {
        server.start(host);
        let mut late = server.clone();
        late.serve = late.serve.start_delay(DOWN);
        let (stop, start) = (server.stops(host), late.starts(host));
        format!("{}; {stop}; {start}", open(port))
    };
    let (of_first, of_second) = (restart(&first, 8053), restart(&second, 8054));
    let to = format!("{SERVER}:8054");
    let script = format!("{of_first}; {}; {of_second}", open(8053));
    let report = a_late_restart_is_noticed(&pair, &to, &script);
    assert_eq!(report["ports_closed_again"], json!(["8053-8054"]));
}

/// Shell script: starts a server that is written in Python, and waits until this one listens: the one before may
/// still be about to end. Its pid is in the file.
fn python_starts(program: &Path, arguments: &str, pid_file: &Path, port: u16) -> String {
    let (program, pid_file) = (program.display(), pid_file.display());
    format!(
        "setsid python3 {program} {arguments} >/dev/null 2>&1 & echo $! >{pid_file}; \
         until ss -Hltnp sport {port} | grep -q pid=$!,; do sleep 0.01; done"
    )
}

/// A server whose processes have one socket in common. USR2 makes a process more.
const PREFORK: &str = "
import os, signal, socket, sys, time
time.sleep(float(sys.argv[1]))
def listener():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if 'group' in sys.argv: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(('', 8053))
    s.listen(512)
    return s
listeners = [listener() for _ in range(2 if 'group' in sys.argv else 1)]
def work(s):
    while True:
        k = s.accept()[0]
        try:
            k.recv(999)
            k.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\nConnection: close\\r\\n\\r\\nok\\n')
        except OSError: pass
        k.close()
workers = []
def fork(s):
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work(s)
    workers.append(pid)
def end(*_):
    for pid in workers: os.kill(pid, signal.SIGKILL)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGUSR2, lambda *_: fork(listeners[0]))
for s in listeners * 2: fork(s)
print('listening', flush=True)
while True: time.sleep(9)
";

/// A process is born while the restart is still to come, as Apache's prefork has them.
fn a_newborn_process_shows_no_restart(group: &str) -> Value {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let server = host.write("prefork.py", PREFORK);
    let pid_file = host.dir().join("prefork.pid");
    let starts = |delay: &str| python_starts(&server, &format!("{delay} {group}"), &pid_file, 8053);
    host.must(sh(starts("0")));
    Server::on("other", &format!("{SERVER}:8054")).start(host);
    let pid = format!("$(cat {})", pid_file.display());
    let script = format!(
        "sleep 0.3; kill -USR2 {pid}; sleep 0.7; kill {pid}; {}",
        starts(&DOWN.as_secs_f64().to_string())
    );
    a_late_restart_is_noticed(&pair, &here(), &script)
}

#[test]
fn a_newborn_process_of_one_socket_shows_no_restart() {
    let report = a_newborn_process_shows_no_restart("");
    assert_eq!(report["ports_closed_again"], json!(["8053"]));
}

#[test]
fn a_newborn_process_of_a_group_shows_no_restart() {
    let report = a_newborn_process_shows_no_restart("group");
    assert_eq!(report["ports_closed_again"], json!([]));
}

/// PostgreSQL's, for one: clients are kept out for no longer than a socket settles.
#[test]
fn a_reload_that_nothing_shows_is_told_of() {
    let pair = Pair::new().unwrap();
    Server::on("name", &here()).start(&pair.server);
    let outcome = run(&pair, "", "true".to_owned());
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let ready = ready_ms(&outcome);
    assert!(
        ready <= 100.0 + AT_ONCE_MS * f64::from(slow()),
        "{ready} ms"
    );
    assert_eq!(
        outcome.report["ports_unchanged"],
        json!(["8053"]),
        "{outcome:?}"
    );
    let says =
        "nothing changed on 8053 within 3s of COMMAND's exit: the same processes listen as before";
    let warnings = outcome.report["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{outcome:?}");
    let warning = warnings[0].as_str().unwrap();
    assert!(warning.starts_with(says), "{warning}");
    // From cron, nobody sees more than what is printed with -q.
    let outcome = run(&pair, "-q", "true".to_owned());
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let said = outcome.stderr.trim_end();
    assert_eq!(said, format!("syngate: warning: {warning}"));
}

// Listeners of sessions -----------------------------------------------------------------------------

/// A process for each session, as FTP daemons have. It listens where its client has come to.
const FTPD: &str = "
import os, socket, sys
control = socket.create_server(('', 8021))
lasting = socket.create_server(('', 30001)) if 'lasting' in sys.argv else None
while True:
    client, _ = control.accept()
    if os.fork() == 0:
        control.close()
        if lasting: lasting.close()
        data = socket.socket()
        data.bind((client.getsockname()[0], 30066))
        data.listen(1)
        client.sendall(b'227 Entering Passive Mode\\r\\n')
        client.recv(99)
        os._exit(0)
    client.close()
";

/// The passive ports of FTP: a session's listener goes with it, and is not waited for.
#[test]
fn a_session_s_listener_is_not_waited_for() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let ftpd = host.write("ftpd.py", FTPD);
    let pid_file = host.dir().join("ftpd.pid");
    let starts = |argument: &str| python_starts(&ftpd, argument, &pid_file, 8021);
    let client = format!(
        "import socket, time
k = socket.create_connection(('{SERVER}', 8021)); k.recv(99); print('up', flush=True); time.sleep(60)"
    );
    let pid = format!("$(cat {})", pid_file.display());
    host.must(sh(starts("lasting")));
    // The sessions go too, as with systemd; or they stay.
    for stops in [format!("kill -- -{pid}"), format!("kill {pid}")] {
        let _session = python(&pair.client, &client);
        let script = format!("{stops}; {}", starts("lasting"));
        let options = words("--port 8021,30000-30100 --ready-timeout 2s --drain 0");
        let outcome = call(host, options).run(sh(script));
        assert_eq!(outcome.code, 0, "{stops}: {outcome:?}");
        assert_eq!(outcome.report["listeners_lost"], json!([]), "{outcome:?}");
        let before = outcome.report["listeners_before"].as_array().unwrap();
        assert_eq!(before.len(), 3, "{outcome:?}");
        let ready = ready_ms(&outcome);
        assert!(ready <= AT_ONCE_MS * f64::from(slow()), "{ready} ms");
    }
    // The service's own is, in the same range.
    let script = format!("kill {pid}; {}", starts(""));
    let options = words("--port 8021,30000-30100 --ready-timeout 300ms --drain 0");
    let outcome = call(host, options).run(sh(script));
    assert_eq!(outcome.code, 124, "{outcome:?}");
    assert_eq!(
        outcome.report["ports_not_ready"],
        json!(["30001"]),
        "{outcome:?}"
    );
}

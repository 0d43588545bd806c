//! `--drain-cmd`, `--ready-check` and `--ready-url` ask the service behind the closed gate, and nobody else gets there.
//! Real clients tell.

mod harness;

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdout, Stdio};
use std::time::{Duration, Instant};

use harness::instance::Instance;
use harness::latch::Latch;
use harness::rooms::GROUPS_HIDDEN;
use harness::{Backend, Call, Outcome, SOON, call, syngate, words};
use nix::sys::signal::Signal;
use serde_json::json;
use testkit::services::Serve;
use testkit::{Host, Load, Pair, Running, SERVER, wait_until};

const STANDBY: u16 = 8080;
const LONG: Duration = Duration::from_secs(60);

/// How long a client waits that is served in the end.
const ASK: &str = "curl -sf -m 20 -o /dev/null";
/// curl(1) gives up, with status 28, before its kernel sends the SYN again.
const ASK_BRIEFLY: &str = "curl -sf -m 0.8 -o /dev/null";

/// Whether a client gets no answer at port 80.
fn is_silent(client: &Host, to: &str) -> bool {
    let asked = client.sh(&format!("{ASK_BRIEFLY} http://{to}/; echo $?"));
    let asked = asked.unwrap();
    match asked.stdout.trim() {
        "0" => false,
        "28" => true,
        other => panic!("{to}: {other}"),
    }
}

#[track_caller]
fn is_served(client: &Host, to: &str) {
    client.must(["sh", "-c", &format!("{ASK} http://{to}/")]);
}

fn service(host: &Host) -> Instance {
    let server = Serve::on("0.0.0.0:80").and_on("[::]:80");
    Instance::start(host, "main", server)
}

/// Asserts that the run's control group is gone.
fn no_group_is_left(host: &Host, outcome: &Outcome) {
    let name = outcome.report["run"].as_str().unwrap();
    let groups = format!("find /sys/fs/cgroup -name 'syngate_{name}*'");
    assert_eq!(host.sh(&groups).unwrap().stdout, "");
}

/// Runs it with a check that asks the service and then waits until `meanwhile` has returned.
fn checked(host: &Host, call: Call, meanwhile: impl FnOnce()) -> Outcome {
    let mut asked = Latch::new(host, "asked");
    let check = format!(
        "{ASK} http://127.0.0.1/ && {ASK} 'http://[::1]/' && {{ {}; }}",
        asked.hold()
    );
    let call = call.args(["--ready-check", &check]);
    let run = call.start(["true"]);
    asked.wait();
    meanwhile();
    asked.release();
    call.end(run)
}

#[test]
fn a_check_passes_the_rules_and_nobody_else_does() {
    std::thread::scope(|threads| {
        for backend in Backend::ALL {
            for options in ["", "--hook prerouting", "--syn hold"] {
                threads.spawn(move || {
                    let pair = Pair::new().unwrap();
                    let host = &pair.server;
                    let main = service(host);
                    let options = format!("--port 80 --drain 0 --settle 0 {options}");
                    let call = call(host, words(&options)).on(backend);
                    let outcome = checked(host, call, || {
                        assert_eq!(main.count(), 2, "the check alone");
                        for (client, to) in
                            [(host, "127.0.0.1"), (host, "[::1]"), (&pair.client, SERVER)]
                        {
                            assert!(is_silent(client, to), "{backend:?} {options}: {to}");
                        }
                        assert_eq!(main.count(), 2, "{backend:?} {options}");
                    });
                    assert_eq!(outcome.code, 0, "{backend:?} {options}: {outcome:?}");
                    assert!(!outcome.stderr.contains("bypassed"), "{outcome:?}");
                    is_served(host, "127.0.0.1");
                    no_group_is_left(host, &outcome);
                });
            }
        }
    });
}

#[test]
fn a_check_asks_the_service_while_the_standby_serves_all_others() {
    for backend in Backend::ALL {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let main = service(host);
        let server = Serve::on(format!("0.0.0.0:{STANDBY}")).and_on(format!("[::]:{STANDBY}"));
        let standby = Instance::start(host, "standby", server);
        let options = format!("--port 80 --drain 0 --settle 0 --syn redirect={STANDBY}");
        let call = call(host, words(&options)).on(backend);
        let before = standby.count();
        let outcome = checked(host, call, || {
            assert_eq!(
                (main.count(), standby.count()),
                (2, before),
                "the check alone"
            );
            is_served(host, "127.0.0.1");
            is_served(&pair.client, SERVER);
            assert_eq!((main.count(), standby.count()), (2, before + 2));
        });
        assert_eq!(outcome.code, 0, "{backend:?}: {outcome:?}");
        assert_eq!(outcome.report["warnings"], json!([]), "{outcome:?}");
        no_group_is_left(host, &outcome);
    }
}

/// Nobody waits any more for the answer of this check.
#[test]
fn a_check_ends_with_a_run_that_is_killed() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _main = service(host);
    let latch = Latch::new(host, "asked");
    let call = call(host, words("--port 80 --drain 0 --settle 0"));
    let call = call.args(["--ready-check", &latch.hold()]);
    let mut run = call.start(["true"]);
    let pid = latch.wait();
    let group = host.must(["sed", "-n", "s|^0::.*/||p", &format!("/proc/{pid}/cgroup")]);
    assert!(group.starts_with("syngate_"), "{group}");
    run.signal(Signal::SIGKILL).unwrap();
    run.wait().unwrap();
    let alive = || host.sh(&format!("kill -0 {pid}")).unwrap().ok();
    wait_until(SOON, "the end of the check", || !alive()).unwrap();
    // Only the check's control group is left.
    assert_eq!(syngate(host, "clear").code(), 0);
    let groups = format!("find /sys/fs/cgroup -name '{}'", group.trim());
    let gone = || host.sh(&groups).unwrap().stdout.is_empty();
    wait_until(SOON, "no group that is left", gone).unwrap();
}

/// Nobody can tell the check's connections from those of others, so they wait.
#[test]
fn where_there_are_no_control_groups_a_check_waits_as_all_others_do() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let main = service(host);
    let options = "--port 80 --drain 0 --settle 0 --ready-timeout 1500ms -v";
    let call = call(host, words(options))
        .by(GROUPS_HIDDEN)
        .fault("no-own-mount");
    let outcome = call
        .args([
            "--ready-check",
            "curl -s -m 9 -o /dev/null http://127.0.0.1/",
        ])
        .run(["true"]);
    assert_eq!(outcome.code, 124, "{outcome:?}");
    assert!(
        outcome
            .stderr
            .contains("--ready-check can't pass the gate's rules here"),
        "{outcome:?}"
    );
    assert!(
        outcome
            .stderr
            .contains("--ready-check waits for the gate: curl"),
        "{outcome:?}"
    );
    assert_eq!(main.count(), 0);
}

/// Otherwise COMMAND waits for the gate to open, and the gate waits for COMMAND to end.
#[test]
fn a_command_that_asks_the_process_that_it_has_started_gets_its_answer() {
    for action in ["drop", "hold"] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let served = Serve::on("0.0.0.0:80").start_daemon(host).unwrap();
        let restart = served.restart_argv();
        let script =
            "\"$@\"; until curl -sf -m 20 -o /dev/null http://127.0.0.1/; do sleep 0.1; done";
        let call = call(host, words(&format!("--port 80 --drain 0 --syn {action}")));
        let outcome = call.run(
            ["sh", "-c", script, "sh"]
                .map(str::to_owned)
                .into_iter()
                .chain(restart),
        );
        assert_eq!(outcome.code, 0, "{action}: {outcome:?}");
        assert!(
            outcome.stderr.contains("COMMAND waits for the gate: curl"),
            "{action}: {outcome:?}"
        );
        let closed = outcome.report["closed_ms"].as_f64().unwrap();
        assert!(closed < 10_000.0, "{action}: {outcome:?}");
        is_served(host, "127.0.0.1");
    }
}

// --ready-url -------------------------------------------------------------------------------------

/// Python: an HTTP server that is warm, and answers 200, a while after it listens, or as a file says. Until then it
/// answers 503.
const WARMS_UP: &str = r#"
import http.server, os, socket, ssl, sys, time
_, warm, pid, *certificate = sys.argv
if os.fork(): os._exit(0)
os.setsid()
began = time.monotonic()
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        is_warm = time.monotonic() > began + float(warm) if warm[0].isdigit() else os.path.exists(warm)
        self.send_response(200 if is_warm else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    address_family, request_queue_size = socket.AF_INET, 1024
server = Server(("0.0.0.0", 80), Answer)
if certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
open(pid, "w").write(str(os.getpid()))
server.serve_forever()
"#;

struct WarmsUp {
    stop: String,
    start: String,
}

impl WarmsUp {
    fn new(host: &Host, arguments: &str) -> WarmsUp {
        let (script, pid) = (
            host.write("warms-up.py", WARMS_UP),
            host.dir().join("warms-up.pid"),
        );
        let (script, pid) = (script.display(), pid.display());
        let (warm, certificate) = arguments.split_once(' ').unwrap_or((arguments, ""));
        WarmsUp {
            stop: format!("kill $(cat {pid}); rm {pid}"),
            start: format!(
                "/usr/bin/python3 {script} {warm} {pid} {certificate} </dev/null >/dev/null 2>&1; \
                 until [ -s {pid} ]; do sleep 0.01; done"
            ),
        }
    }

    fn start(&self, host: &Host) {
        host.must(["sh", "-c", &self.start]);
    }

    fn restart(&self) -> [String; 3] {
        [
            "sh".into(),
            "-c".into(),
            format!("{}; {}", self.stop, self.start),
        ]
    }
}

/// How often the service is restarted: more by hand.
fn restarts() -> u32 {
    let given = std::env::var("SYNGATE_RESTARTS");
    given.map_or(1, |given| given.parse().unwrap())
}

/// Dropped SYNs are sent again after ever longer times: clients would give up where one gate closes after the other.
/// So this waits until the clients of the last one have connected.
fn wait_until_all_are_in(client: &Host) {
    let connecting = || client.must(["ss", "-Htn", "state", "syn-sent"]);
    wait_until(LONG, "the clients to connect", || connecting().is_empty()).unwrap();
}

/// Longer than all restarts together.
const VERY_LONG: Duration = Duration::from_secs(1800);

/// The service listens long before it can serve.
#[test]
fn no_client_meets_a_service_that_listens_and_can_t_serve_yet() {
    std::thread::scope(|threads| {
        for action in ["drop", "hold", "park"] {
            threads.spawn(move || {
                let pair = Pair::new().unwrap();
                let host = &pair.server;
                let service = WarmsUp::new(host, "2");
                service.start(host);
                let url = "http://127.0.0.1/health";
                host.must([
                    "sh",
                    "-c",
                    &format!("until {ASK} {url}; do sleep 0.01; done"),
                ]);
                // Clients of this host wait for the gate, too, though they are no part of the check.
                let (client, to) = match action {
                    "hold" => (host, "127.0.0.1"),
                    _ => (&pair.client, SERVER),
                };
                let load = Load::to(format!("{to}:80"))
                    .rate(100)
                    .timeout(LONG)
                    .duration(VERY_LONG);
                let mut load = load.start(client).unwrap();
                load.wait_flowing().unwrap();
                for _ in 0..restarts() {
                    wait_until_all_are_in(client);
                    let call = call(host, words(&format!("--port 80 --syn {action} -v")));
                    let call = call.args(["--ready-url", url]);
                    let outcome = call.run(service.restart());
                    assert_eq!(outcome.code, 0, "{action}: {outcome:?}");
                    assert_eq!(
                        outcome.report["warnings"],
                        json!([]),
                        "{action}: {outcome:?}"
                    );
                    let told = "ready check: it answered 503 Service Unavailable";
                    assert!(outcome.stderr.contains(told), "{action}: {outcome:?}");
                    let waited = outcome.report["phases"]["ready_check_ms"].as_f64().unwrap();
                    assert!(waited > 500.0, "{action}: {outcome:?}");
                }
                let report = load.stop().unwrap();
                harness::tell(&format!("{action}: {} restarts: {report}", restarts()));
                assert_eq!(report.failed(), 0, "{action}: {report}");
                assert!(report.ok > 50, "{action}: {report}");
                host.must(["sh", "-c", &service.stop]);
            });
        }
    });
}

#[test]
fn a_url_that_never_answers_2xx_is_told_with_its_last_answer() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let service = WarmsUp::new(host, "never");
    service.start(host);
    for (url, told) in [
        (
            "http://127.0.0.1/",
            "the last result: it answered 503 Service Unavailable",
        ),
        (
            "http://127.0.0.1:81/",
            "the last result: Connection refused",
        ),
        ("tcp:81", "the last result: Connection refused"),
        (
            "https://127.0.0.1:80/",
            "the last result: TLS fails: received corrupt message",
        ),
    ] {
        let call = call(
            host,
            words("--port 80 --drain 0 --settle 0 --ready-timeout 3s"),
        );
        let outcome = call.args(["--ready-url", url]).run(["true"]);
        assert_eq!(outcome.code, 124, "{outcome:?}");
        assert_eq!(outcome.report["reason"], "ready_check", "{outcome:?}");
        let message = outcome.report["message"].as_str().unwrap();
        let shown = url.replace("tcp:", "tcp:localhost:");
        let begins = format!(
            "--ready-url {shown} did not succeed within 3s after true exited with status 0 ("
        );
        assert!(
            message.starts_with(&begins) && message.contains(told),
            "{outcome:?}"
        );
    }
    let call = call(
        host,
        words("--port 80 --drain 0 --settle 0 --ready-url tcp:80"),
    );
    assert_eq!(call.run(["true"]).code, 0);
    host.must(["sh", "-c", &service.stop]);
}

/// The certificate is for another name, and nobody has signed it.
#[test]
fn a_url_with_a_certificate_that_nobody_knows() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let [certificate, key] =
        ["cert.pem", "key.pem"].map(|name| host.dir().join(name).display().to_string());
    let made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=web";
    let words_of = ["openssl"].into_iter().chain(made.split(' '));
    host.must(words_of.chain(["-out", &certificate, "-keyout", &key]));
    let service = WarmsUp::new(host, &format!("0 {certificate} {key}"));
    service.start(host);
    let ask = |options: &str| {
        let options = format!(
            "--port 80 --drain 0 --settle 0 --ready-timeout 2s --ready-url https://127.0.0.1:80/ {options}"
        );
        call(host, words(&options)).run(["true"])
    };
    let outcome = ask("");
    assert_eq!(outcome.code, 124, "{outcome:?}");
    assert!(
        outcome.report["message"]
            .as_str()
            .unwrap()
            .contains("certificate"),
        "{outcome:?}"
    );
    let outcome = ask("--ready-insecure");
    assert_eq!(outcome.code, 0, "{outcome:?}");
    host.must(["sh", "-c", &service.stop]);
}

#[test]
fn urls_that_make_no_sense_are_refused() {
    let host = Host::new().unwrap();
    for (options, told) in [
        (
            "--ready-url localhost:80",
            "--ready-url: 'localhost:80': expected http://HOST/PATH",
        ),
        ("--ready-url tcp:0", "--ready-url: 'tcp:0': expected"),
        (
            "--ready-url tcp:80 --ready-check true",
            "--ready-check and --ready-url exclude each other",
        ),
        (
            "--ready-url tcp:80 --ready-timeout 0",
            "--ready-url and --ready-timeout 0 exclude each other",
        ),
        (
            "--ready-url http://a/ --ready-insecure",
            "--ready-insecure has no effect without --ready-url https://",
        ),
        (
            "--ready-insecure",
            "--ready-insecure has no effect without --ready-url https://",
        ),
    ] {
        let outcome = call(&host, words(&format!("--port 80 {options}"))).run(["true"]);
        assert_eq!(outcome.code, 125, "{outcome:?}");
        assert!(outcome.stderr.contains(told), "{options}: {outcome:?}");
    }
}

/// The check fails many times for one reason, and prints that once.
#[test]
fn what_a_check_prints_is_told_when_it_changes() {
    let host = Host::new().unwrap();
    let tries = host.write("tries", "").display().to_string();
    let script = format!(
        "echo >>{tries}; n=$(wc -l <{tries}); [ $n -lt 9 ] || exit 0; [ $n -lt 5 ] && echo down || echo up soon >&2; \
         exit 3"
    );
    let call = call(&host, words("--port 80 --settle 0 -v"));
    let outcome = call.args(["--ready-check", &script]).run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let lines = |line: &str| outcome.stderr.lines().filter(|l| *l == line).count();
    assert_eq!((lines("down"), lines("up soon")), (1, 1), "{outcome:?}");
    let told = |said: &str| {
        outcome
            .stderr
            .matches(&format!("ready check: status {said}\n"))
            .count()
    };
    assert_eq!((told("3"), told("0")), (1, 1), "{outcome:?}");
    // A check that still runs when the time is over is shown with its output, too.
    let call = harness::call(&host, words("--port 80 --settle 0 --ready-timeout 1s"));
    let outcome = call
        .args(["--ready-check", "echo asking; exec sleep 1000"])
        .run(["true"]);
    assert_eq!(outcome.code, 124, "{outcome:?}");
    assert_eq!(outcome.stderr.matches("asking\n").count(), 1, "{outcome:?}");
}

// --drain-cmd -------------------------------------------------------------------------------------

/// How many POSTs are made meanwhile: more by hand.
fn posts() -> u32 {
    let given = std::env::var("SYNGATE_POSTS");
    given.map_or(400, |given| given.parse().unwrap())
}

/// No POST of clients that keep their connections is lost, though none may be sent again.
#[test]
fn clients_that_keep_connections_are_told_goodbye() {
    std::thread::scope(|threads| {
        for action in ["drop", "hold", "park"] {
            threads.spawn(move || {
                let pair = Pair::new().unwrap();
                let host = &pair.server;
                let serve = Serve::on("0.0.0.0:80").keep_alive();
                let served = serve.start_daemon(host).unwrap();
                let goodbye = format!("kill -USR1 $(cat {})", served.pid_file().display());
                let rate = (posts() / 200).max(200);
                let duration = Duration::from_secs((posts() / rate).into());
                let load = Load::to(format!("{SERVER}:80")).rate(rate);
                let load = load.keep_alive(20).post().timeout(LONG).duration(duration);
                let mut load = load.start(&pair.client).unwrap();
                load.wait_flowing().unwrap();
                let (began, restarts) = (Instant::now(), restarts());
                for n in 1..=restarts {
                    let options = "--port 80 --drain 5s --drain-until connections";
                    let call = call(host, words(&format!("{options} --syn {action}")));
                    let call = call.args(["--drain-cmd", &goodbye]);
                    let outcome = call.run(served.restart_argv());
                    assert_eq!(outcome.code, 0, "{action}: {outcome:?}");
                    let report = &outcome.report;
                    assert_eq!(
                        report["drain_left"]["established"], 0,
                        "{action}: {outcome:?}"
                    );
                    assert_eq!(report["idle_closed"], 0, "{action}: {outcome:?}");
                    assert_eq!(report["warnings"], json!([]), "{action}: {outcome:?}");
                    // Many are spread over the time of the load.
                    let next = began + duration * n / (restarts + 1);
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                let report = load.finish().unwrap();
                harness::tell(&format!("{action}: {restarts} restarts: {report}"));
                assert_eq!(
                    (report.failed(), report.resent),
                    (0, 0),
                    "{action}: {report}"
                );
                assert_eq!(report.ok, u64::from(posts()), "{action}: {report}");
            });
        }
    });
}

/// A service that says no goodbye loses some of the POSTs. As many connections at least are in the reports.
#[test]
fn what_a_service_without_a_goodbye_loses_is_in_the_reports() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let served = Serve::on("0.0.0.0:80").keep_alive();
    let served = served.start_daemon(host).unwrap();
    let load = Load::to(format!("{SERVER}:80")).rate(1000).keep_alive(200);
    let load = load.post().timeout(LONG).duration(VERY_LONG);
    let mut load = load.start(&pair.client).unwrap();
    load.wait_flowing().unwrap();
    let (mut closed, mut lost) = (0, 0);
    for _ in 0..restarts() {
        let outcome = call(host, words("--port 80 --syn hold")).run(served.restart_argv());
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let of = |row: &serde_json::Value| row.as_u64().unwrap();
        closed += of(&outcome.report["idle_closed"]);
        lost += of(&outcome.report["drain_left"]["busy"]);
    }
    let report = load.stop().unwrap();
    harness::tell(&format!(
        "{closed} idle and {lost} busy ones closed: {report}"
    ));
    assert!(closed > 0, "{report}");
    assert!(report.failed() <= closed + lost, "{report}");
}

/// Python: clients that keep their connections. Each asks once. When they are told by stdin, they all POST, and the
/// last line tells how many got no answer.
const KEPT: &str = r#"
import socket, sys
kept = [socket.create_connection((sys.argv[1], 80)) for _ in range(int(sys.argv[2]))]
def ask(s, head): s.sendall(head + b" / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
def answered(s):
    try: return s.recv(1000).endswith(b"ok\n")
    except ConnectionResetError: return False
for s in kept:
    ask(s, b"GET")
    assert answered(s)
print("kept", flush=True)
if sys.stdin.readline():
    for s in kept: ask(s, b"POST")
    print(sum(not answered(s) for s in kept), flush=True)
"#;

const CONNECTIONS: usize = 20;

/// Clients with idle connections.
struct Kept {
    process: Running,
    lines: BufReader<ChildStdout>,
}

impl Kept {
    fn start(client: &Host) -> Kept {
        let mut python = client.command("/usr/bin/python3");
        python.args(["-c", KEPT, SERVER, &CONNECTIONS.to_string()]);
        python.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = client.spawn(&mut python).unwrap();
        let lines = BufReader::new(process.stdout().unwrap());
        let mut kept = Kept { process, lines };
        assert_eq!(kept.line(), "kept");
        kept
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Has them POST.
    fn ask(&mut self) {
        self.process.stdin().unwrap().write_all(b"go\n").unwrap();
    }

    /// How many POSTs were lost.
    fn lost(mut self) -> usize {
        self.line().parse().unwrap()
    }
}

/// The service's established connections as ss(8) has them, with those in which a request is unread.
fn shown(host: &Host) -> (usize, usize) {
    let rows = host.must(["ss", "-Htn", "state", "established", "sport", "=", ":80"]);
    let unread = |row: &&str| !row.trim_start().starts_with("0 ");
    (rows.lines().count(), rows.lines().filter(unread).count())
}

/// A service that is killed loses what its clients send just before over connections that were idle. The report
/// counts these connections.
#[test]
fn idle_connections_that_the_service_closes_are_counted() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let served = Serve::on("0.0.0.0:80").keep_alive();
    let served = served.start_daemon(host).unwrap();
    let restart = &served.restart_argv()[2];
    for (options, warns) in [("-v", false), ("--drain-cmd true", true), ("", false)] {
        let mut kept = Kept::start(&pair.client);
        assert_eq!(shown(host), (CONNECTIONS, 0));
        let mut latch = Latch::new(host, "restarts");
        let pid = format!("$(cat {})", served.pid_file().display());
        let script = format!(
            "kill -STOP {pid}; {}; kill -KILL {pid}; {restart}",
            latch.hold()
        );
        let call = call(host, words(&format!("--port 80 --drain 5s {options}")));
        let run = call.start(["sh", "-c", &script]);
        latch.wait();
        assert_eq!(shown(host), (CONNECTIONS, 0), "{options}");
        kept.ask();
        let all = (CONNECTIONS, CONNECTIONS);
        wait_until(SOON, "the POSTs", || shown(host) == all).unwrap();
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(shown(host), (0, 0), "{options}");
        assert_eq!(kept.lost(), CONNECTIONS, "{options}");
        assert_eq!(outcome.report["idle_closed"], CONNECTIONS, "{outcome:?}");
        let told = format!("{CONNECTIONS} idle connections");
        assert_eq!(
            outcome.stderr.contains(&told),
            !options.is_empty(),
            "{outcome:?}"
        );
        let warnings = outcome.report["warnings"].as_array().unwrap();
        let expected = "--drain-until connections waits for them";
        let warned = warnings
            .iter()
            .any(|w| w.as_str().unwrap().contains(expected));
        assert_eq!(
            (warned, warnings.len()),
            (warns, warns.into()),
            "{outcome:?}"
        );
    }
}

#[test]
fn connections_that_stay_or_that_clients_have_closed_are_not_counted() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let served = Serve::on("0.0.0.0:80").keep_alive();
    let served = served.start_daemon(host).unwrap();
    let kept = Kept::start(&pair.client);
    let run = |options: &str, command: &str| {
        let call = call(host, words(&format!("--port 80 --settle 0 {options}")));
        let outcome = call.run(["sh", "-c", command]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        outcome.report["idle_closed"].clone()
    };
    assert_eq!(run("", "true"), 0);
    assert_eq!(run("--drain-until handshakes", "true"), json!(null));
    assert_eq!(run("--drain 0", "true"), json!(null));
    assert_eq!(shown(host), (CONNECTIONS, 0));

    // A service that is stopped does not notice that its clients have gone.
    let mut latch = Latch::new(host, "stopped");
    let pid = format!("$(cat {})", served.pid_file().display());
    let stop = format!("kill -STOP {pid}; {}", latch.hold());
    let call = call(host, words("--port 80 --settle 0"));
    let run = call.start(["sh", "-c", &stop]);
    latch.wait();
    drop(kept);
    wait_until(SOON, "the clients to go", || shown(host) == (0, 0)).unwrap();
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.report["idle_closed"], 0, "{outcome:?}");
    host.must(["sh", "-c", &format!("kill -CONT {pid}")]);
}

/// It reaches the old process, while a check reaches the new one.
#[test]
fn what_tells_the_service_to_drain_passes_the_gate() {
    for action in ["drop", "hold", "park"] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let main = service(host);
        let options = format!("--port 80 --settle 0 --syn {action} -v");
        let call = call(host, words(&options));
        let call = call.args(["--drain-cmd", &format!("{ASK} http://127.0.0.1/")]);
        let outcome = call.run(["true"]);
        assert_eq!(outcome.code, 0, "{action}: {outcome:?}");
        assert!(
            outcome.stderr.contains("--drain-cmd: status 0"),
            "{action}: {outcome:?}"
        );
        assert_eq!(main.count(), 1);
        no_group_is_left(host, &outcome);
    }
}

#[test]
fn a_drain_command_that_fails_or_hangs_is_told_and_stops_nothing() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _main = service(host);
    for (drain, line, told) in [
        ("5s", "exit 3", "--drain-cmd failed: status 3"),
        (
            "300ms",
            "sleep 1000",
            "--drain-cmd still ran when --drain was over, and syngate killed it",
        ),
    ] {
        let call = call(
            host,
            words(&format!("--port 80 --drain {drain} --settle 0")),
        );
        let outcome = call.args(["--drain-cmd", line]).run(["true"]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert!(outcome.stderr.contains(told), "{outcome:?}");
    }
    for (options, told) in [
        ("--drain 0", "--drain-cmd and --drain 0 exclude each other"),
        (
            "--syn handover",
            "--drain-cmd and --syn handover exclude each other",
        ),
        (
            "--syn auto --reload",
            "--drain-cmd and --reload exclude each other",
        ),
    ] {
        let call = call(host, words(&format!("--port 80 {options}")));
        let outcome = call.args(["--drain-cmd", "true"]).run(["true"]);
        assert_eq!(outcome.code, 125, "{outcome:?}");
        assert!(outcome.stderr.contains(told), "{options}: {outcome:?}");
    }
}

//! What syngate guarantees, also if it is killed, is stopped, hangs or panics, or if somebody flushes its rules. The
//! gate is gone when syngate is gone, and open after --max-closed.

mod harness;
mod killing;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::{
    Backend, SOON, backend_of_the_suite, call, gated, ms, shut, stopped_syns, wait_open, wait_shut,
    words,
};
use killing::{Killed, Killing, Moment};
use nix::sys::signal::Signal;
use testkit::services::{Haproxy, HaproxyConfig, Serve};
use testkit::{Hold, Host, Load, Pair, SERVER, slow, wait_until};

/// How long a gate may outlive its owner.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// One request from the client to the server's port 80, and how long it took to connect.
fn ask(pair: &Pair) -> Result<f64, String> {
    let load = Load::to(format!("{SERVER}:80"))
        .rate(100)
        .duration(Duration::from_millis(10))
        .timeout(SOON);
    let report = load.start(&pair.client).unwrap().finish().unwrap();
    if report.ok == report.sent {
        Ok(report.connect.max_ms)
    } else {
        Err(report.to_string())
    }
}

/// A pair with a plain server on port 80.
fn served() -> (Pair, testkit::Running) {
    let pair = Pair::new().unwrap();
    let server = Serve::on("0.0.0.0:80")
        .and_on("[::]:80")
        .start(&pair.server)
        .unwrap();
    (pair, server)
}

/// COMMAND that says when it runs, and ends when it is told to (a fifo of the host).
fn until_told(host: &Host) -> Vec<String> {
    let fifo = host.dir().join("go-on");
    host.must(["mkfifo", fifo.to_str().unwrap()]);
    let script = format!("touch {0}.runs; read line < {0}", fifo.display());
    vec!["sh".to_owned(), "-c".to_owned(), script]
}

fn wait_running(host: &Host) {
    let runs = host.dir().join("go-on.runs");
    wait_until(SOON, "COMMAND to run", || runs.exists()).unwrap();
}

fn go_on(host: &Host) {
    std::fs::write(host.dir().join("go-on"), "go on\n").unwrap();
}

// Killed ------------------------------------------------------------------------------------------

/// COMMAND becomes a daemon that keeps all files it inherits; syngate is killed while it runs.
#[test]
fn killed_with_a_daemonising_command() {
    let pair = Pair::new().unwrap();
    let haproxy = Haproxy::debian_init(&pair.server, &HaproxyConfig::port(80)).unwrap();
    haproxy.start().unwrap();
    let call = call(&pair.server, words("--port 80"));
    let before = pair.server.ruleset();
    let script = "haproxy -D -f /etc/haproxy/haproxy.cfg -p /run/second.pid -sf $(cat /run/haproxy.pid) \
                  && touch $0.started && exec sleep 60";
    let marker = pair.server.dir().join("daemon");
    let mut run = call.start(["sh", "-c", script, marker.to_str().unwrap()]);
    let started = pair.server.dir().join("daemon.started");
    wait_until(SOON, "the daemon", || started.exists()).unwrap();
    assert!(gated(&pair.server));
    run.signal(Signal::SIGKILL).unwrap();
    wait_open(&pair.server, GONE_WITHIN);
    assert_eq!(pair.server.ruleset(), before);
    ask(&pair).unwrap();
    assert!(
        !pair.server.must(["pgrep", "haproxy"]).is_empty(),
        "the daemon lives on"
    );
}

fn killing(pair: &Pair) -> Killing<'_> {
    let server = Serve::on("0.0.0.0:80").start_daemon(&pair.server).unwrap();
    Killing {
        host: &pair.server,
        call: call(&pair.server, words("-v --port 80")),
        command: server.restart_argv(),
        gone_within: GONE_WITHIN,
    }
}

/// Kills one, and sees that the port is open: at once for those who come then.
fn kill(pair: &Pair, killing: &Killing, moment: &Moment) -> Killed {
    let killed = killing.kill(moment);
    // Killed between COMMAND's kill and its start, there is no server for a moment: that is COMMAND's.
    pair.server.wait_listen(80).unwrap();
    let connect_ms = ask(pair).unwrap_or_else(|e| panic!("{moment:?}: {e}"));
    assert!(
        connect_ms < GONE_WITHIN.as_secs_f64() * 1e3,
        "{moment:?}: {connect_ms} ms"
    );
    killed
}

/// At random moments of a hard restart. `make test-long` does it 200 times.
#[test]
fn killed_at_random_moments() {
    let times = std::env::var("SYNGATE_KILLS").map_or(20, |n| n.parse().unwrap());
    let pair = Pair::new().unwrap();
    let killing = killing(&pair);
    let span = killing.span();
    let (mut kills, mut closed) = (0, 0);
    while killing::go_on(kills, closed, times) {
        kills += 1;
        let moment = Moment::random(span);
        let killed = kill(&pair, &killing, &moment);
        killing::record("random", &moment, &killed);
        closed += u64::from(killed.was_closed);
    }
    assert!(closed > 0, "none of {kills} kills met a closed gate");
}

/// At the system calls that matter: netlink, signals, waiting, locks.
#[test]
fn killed_at_each_system_call_that_matters() {
    const AT_MOST: u32 = 20;
    let pair = Pair::new().unwrap();
    let killing = killing(&pair);
    let mut closed = 0;
    for name in [
        "sendto",
        "sendmsg",
        "recvmsg",
        "ppoll",
        "wait4",
        "fcntl",
        "signalfd4",
    ] {
        for nth in 1..=AT_MOST {
            let moment = Moment::Call { name, nth };
            let killed = kill(&pair, &killing, &moment);
            killing::record("system call", &moment, &killed);
            closed += u32::from(killed.was_closed);
            if !killed.in_time {
                assert!(nth > 1, "{name} is never called");
                break;
            }
        }
    }
    assert!(closed > 10, "{closed} kills met a closed gate");
}

// Hung, stopped, panicking ------------------------------------------------------------------------

/// While it is stopped syngate can do nothing: the kernel opens the gate at --max-closed.
#[test]
fn stopped_syngate_opens_in_time() {
    let (pair, _server) = served();
    let options = words("--port 80 --max-closed 1500ms --drain 0");
    let mut run = call(&pair.server, options).start(until_told(&pair.server));
    wait_running(&pair.server);
    let stopped_at = Instant::now();
    run.signal(Signal::SIGSTOP).unwrap();
    let connect_ms = ask(&pair).unwrap();
    assert!(
        stopped_at.elapsed() < Duration::from_millis(3_500),
        "opened by the kernel"
    );
    assert!(connect_ms > 900.0, "it was closed before: {connect_ms} ms");
    assert!(ask(&pair).unwrap() < 500.0, "and stays open");
    if backend_of_the_suite() == Backend::Nft {
        assert!(gated(&pair.server), "the table is still syngate's");
    }

    run.signal(Signal::SIGCONT).unwrap();
    wait_open(&pair.server, GONE_WITHIN);
    go_on(&pair.server);
    assert_eq!(run.wait().unwrap().code(), Some(124));
}

/// Stopped during the drain for longer than the gate may be closed: COMMAND is not run any more.
#[test]
fn stopped_too_long_during_the_drain() {
    let (pair, _server) = served();
    let _busy = busy_connection(&pair);
    let options = words("--port 80 --max-closed 3s --drain 2900ms");
    let marker = pair.server.dir().join("ran");
    let call = call(&pair.server, options);
    let mut run = call.start(["touch", marker.to_str().unwrap()]);
    wait_shut(&pair.server, &[80]);
    run.signal(Signal::SIGSTOP).unwrap();
    // Open, by the kernel or the watchdog.
    wait_until(SOON, "an open port", || shut(&pair.server).is_empty()).unwrap();
    run.signal(Signal::SIGCONT).unwrap();
    let status = run.wait().unwrap();
    let report = call.report();
    assert_eq!(status.code(), Some(125), "{report:#}");
    assert_eq!(report["outcome"], "not_run", "{report:#}");
    assert_eq!(report["reason"], "max_closed", "{report:#}");
    assert!(!marker.exists());
}

/// A connection whose request is never answered: the drain waits for it.
fn busy_connection(pair: &Pair) -> testkit::Running {
    let script = format!("exec 3<>/dev/tcp/{SERVER}/80; echo GET >&3; echo sent; read line <&3");
    let mut client = pair.client.command("bash");
    client.args(["-c", &script]).stdout(Stdio::piped());
    let mut client = pair.client.spawn(&mut client).unwrap();
    let mut stdout = std::io::BufReader::new(client.stdout().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    client
}

#[test]
fn hung_syngate_opens_in_time() {
    for place in ["Look", "Check", "Start", "Open"] {
        let (pair, _server) = served();
        // COMMAND changes nothing: by default the port would open in doubt, before the task Open.
        let options = words("--port 80 --max-closed 1200ms --drain 100ms --settle 0");
        let hung = call(&pair.server, options).env("SYNGATE_FAULT", &format!("hang:{place}"));
        let mut run = hung.start(["true"]);
        wait_shut(&pair.server, &[80]);
        let closed_at = Instant::now();
        ask(&pair).unwrap();
        assert!(closed_at.elapsed() < Duration::from_secs(3), "{place}");
        run.signal(Signal::SIGKILL).unwrap();
        wait_open(&pair.server, GONE_WITHIN);
    }
}

#[test]
fn a_panic_opens_the_gate() {
    let (pair, _server) = served();
    for (place, code, outcome) in [
        ("Look", 125, "not_run"),
        ("Check", 125, "not_run"),
        ("Start", 125, "not_run"),
        ("Open", 124, "open_failed"),
    ] {
        let fault = format!("panic:{place}");
        let call = call(&pair.server, words("--port 80")).env("SYNGATE_FAULT", &fault);
        let marker = pair.server.dir().join(place);
        let panicked = call.run(["touch", marker.to_str().unwrap()]);
        assert_eq!(panicked.code, code, "{place}: {panicked:?}");
        assert_eq!(panicked.report["outcome"], outcome, "{place}: {panicked:?}");
        assert_eq!(panicked.report["reason"], "bug", "{place}: {panicked:?}");
        assert!(panicked.stderr.contains("as a bug would"), "{panicked:?}");
        assert_eq!(marker.exists(), code == 124, "{place}");
        assert!(ask(&pair).unwrap() < 500.0, "{place}");
    }
}

// Neighbours --------------------------------------------------------------------------------------

/// `nft flush ruleset`, and attempts at our very table, by somebody else while the gate is closed.
#[test]
fn foreign_changes_neither_open_the_gate_nor_break_the_run() {
    let (pair, _server) = served();
    let host = &pair.server;
    host.must(["nft", "add table inet theirs"]);
    let call = call(host, words("--port 80")).on_nft();
    let mut run = call.start(until_told(host));
    wait_running(host);
    host.must(["nft", "flush", "ruleset"]);
    assert!(!host.ruleset().contains("theirs"), "it did flush");
    let table = our_table(host);
    for change in ["delete table", "flush table", "flush set", "delete chain"] {
        let object = match change.split_once(' ').unwrap().1 {
            "set" => " ports",
            "chain" => " input",
            _ => "",
        };
        let ran = host
            .sh(&format!("nft {change} inet {table}{object}"))
            .unwrap();
        assert!(!ran.ok(), "{change}: {ran:?}");
    }
    let load = Load::to(format!("{SERVER}:80"))
        .rate(100)
        .duration(Duration::from_millis(50));
    let load = load.start(&pair.client).unwrap();
    wait_until(SOON, "stopped SYNs", || stopped_syns(host) >= 5).unwrap();
    go_on(host);
    assert_eq!(run.wait().unwrap().code(), Some(0));
    let report = load.finish().unwrap();
    assert_eq!(report.ok, 5, "{report}");
    let told = call.report();
    let waited = match told["action"] == "hold" {
        true => told["hold"]["held"].as_u64().unwrap(),
        false => report.delayed,
    };
    assert_eq!(waited, 5, "the gate stood: {report} {told:#}");
    assert!(told["syns_stopped"].as_u64().unwrap() >= 5);
    assert!(!gated(host));
}

/// Somebody flushes the ruleset again and again, in each phase of a run: it goes its way, and its
/// own reading of the ruleset, torn by these changes, is read again.
#[test]
fn a_neighbour_that_never_stops_flushing() {
    let (pair, _server) = served();
    let host = &pair.server;
    let flush = "while :; do nft 'add table inet theirs; flush ruleset'; done";
    let _neighbour = host.spawn(host.command("sh").args(["-c", flush])).unwrap();
    for _ in 0..10 {
        let call = call(host, words("--port 80 --settle 0")).on_nft();
        let mut run = call.start(["true"]);
        assert_eq!(run.wait().unwrap().code(), Some(0));
        let report = call.report();
        assert_eq!(report["outcome"], "ok", "{report:#}");
        assert_eq!(report["backend"], "nft", "{report:#}");
    }
    ask(&pair).unwrap();
}

fn our_table(host: &Host) -> String {
    let json = host.nft_json();
    let tables = json["nftables"].as_array().unwrap().iter();
    let mut names = tables.filter_map(|o| o["table"]["name"].as_str());
    names
        .find(|name| name.starts_with("syngate_"))
        .unwrap()
        .to_owned()
}

#[test]
fn an_established_connection_never_stalls() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _server = Serve::on("0.0.0.0:80").echo().start(host).unwrap();
    let to = format!("{SERVER}:80");
    let hold = Hold::start(&pair.client, &to, Duration::from_millis(5), SOON).unwrap();
    let call = call(host, words("--port 80 --ready-timeout 0"));
    let mut run = call.start(until_told(host));
    wait_running(host);
    // Closed for at least as long as it takes a new connection to notice.
    let load = Load::to(&to)
        .rate(10)
        .duration(Duration::from_millis(100))
        .timeout(SOON);
    let load = load.start(&pair.client).unwrap();
    wait_until(SOON, "a retransmitted SYN", || stopped_syns(host) >= 2).unwrap();
    go_on(host);
    assert_eq!(run.wait().unwrap().code(), Some(0));
    drop(load);
    let report = hold.stop().unwrap();
    assert_eq!(report.broken, None);
    assert!(report.echoes > 100, "{report:?}");
    let at_most_ms = 100.0 * f64::from(slow());
    assert!(report.longest_stall_ms < at_most_ms, "{report:?}");
    assert!(ms(&call.report(), "closed_ms") > 900.0);
}

/// Two runs with the same pid, in two pid namespaces that share the network namespace.
#[test]
fn two_pid_namespaces_share_a_network() {
    let (pair, _server) = served();
    let host = &pair.server;
    let own_pids = |call: &harness::Call, command: Vec<String>| {
        let mut unshare = host.command("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
        unshare
            .args(call.argv(command))
            .stderr(Stdio::piped())
            .stdin(Stdio::null());
        host.spawn(&mut unshare).unwrap()
    };
    let told = until_told(host);
    let first = call(host, words("--port 80"));
    let mut one = own_pids(&first, told);
    wait_running(host);
    // Another port: at the same time.
    let second = call(host, words("--port 81"));
    let mut two = own_pids(&second, vec!["true".to_owned()]);
    assert_eq!(two.wait().unwrap().code(), Some(0));
    assert_eq!(second.report()["outcome"], "ok");
    assert!(gated(host), "the first one's gate still stands");
    // The same port: it waits, and says for whom as well as it can.
    let third = call(host, words("--port 80 --lock-timeout 50ms"));
    let three = own_pids(&third, vec!["true".to_owned()]);
    let said = String::from_utf8(three.output().unwrap().stderr).unwrap();
    assert!(said.contains("another pid namespace"), "{said}");
    go_on(host);
    assert_eq!(one.wait().unwrap().code(), Some(0));
    assert!(!gated(host));
}

/// Everything happens in the namespaces of the test: the machine's own ruleset is not touched, not
/// even while a gate is closed.
#[test]
fn the_machine_itself_is_never_touched() {
    let machine = || {
        let nft = Command::new("nft")
            .args(["-j", "list", "ruleset"])
            .output()
            .unwrap();
        assert!(nft.status.success() || testkit::rootless(), "{nft:?}");
        let tables = std::fs::read_to_string("/proc/net/ip_tables_names").ok();
        (nft.stdout, nft.stderr, tables)
    };
    let before = machine();
    let (pair, _server) = served();
    let mut run = call(&pair.server, words("--port 80")).start(until_told(&pair.server));
    wait_running(&pair.server);
    assert!(gated(&pair.server));
    assert_eq!(machine(), before);
    go_on(&pair.server);
    run.wait().unwrap();
    assert_eq!(machine(), before);
}

// Modesty -----------------------------------------------------------------------------------------

#[test]
fn peak_memory_stays_below_8_mib() {
    let host = Host::new().unwrap();
    let odd: Vec<String> = (1..=65_535u32).step_by(2).map(|p| p.to_string()).collect();
    let odd: Vec<String> = odd.chunks(5_000).map(|ports| ports.join(",")).collect();
    let mut kinds = vec![vec!["80".to_owned()]];
    if !testkit::rootless() {
        kinds.push(odd); // only the host's root may send that much at once
    }
    for ports in kinds {
        let options = ports.iter().flat_map(|ports| ["--port", ports]);
        let command = ["sh", "-c", "grep VmHWM /proc/$PPID/status"];
        let outcome = call(&host, options).run(command);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let peak = outcome.stdout.split_whitespace().nth(1);
        let peak: u64 = peak.unwrap().parse().unwrap();
        // An unoptimised build is larger by itself (17 MB of code, and the kernel maps around what it touches), and
        // takes more for the most there can be.
        let bound = match (cfg!(debug_assertions), ports.len()) {
            (false, _) => 8 * 1024,
            (true, 1) => 22 * 1024,
            (true, _) => 29 * 1024,
        };
        assert!(peak < bound, "{peak} KiB with {} items", ports.len());
    }
}

//! What becomes of a service's listeners, and when their ports open: as nft lists it, and as a
//! client sees it.

mod harness;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::latch::Latch;
use harness::{Outcome, SOON, call, ms, shut, wait_open, wait_shut, words};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::services::{Haproxy, HaproxyConfig, Nginx, NginxConfig, Serve};
use testkit::{Host, Load, Pair, RunningLoad, SERVER, SERVER6, slow, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// No waiting for anything: what it takes to look, decide and open, on a busy machine.
const AT_ONCE_MS: f64 = 80.0;
/// A time that was to be waited may take this much longer.
const LATE_MS: f64 = 900.0;

/// What a client gets that knocks.
#[derive(Debug, PartialEq)]
enum Knock {
    Answered,
    Refused,
    /// Its SYN was dropped. It is given up before the kernel sends it again after 1 s.
    Silent,
}

fn knock(client: &Host, address: &str, port: u16) -> Knock {
    let connect = format!("timeout 0.9 bash -c 'exec 3<>/dev/tcp/{address}/{port}'");
    let ran = client.sh(&connect).unwrap();
    match ran.code() {
        0 => Knock::Answered,
        124 => Knock::Silent,
        _ if ran.stderr.contains("Connection refused") => Knock::Refused,
        _ => panic!("{ran:?}"),
    }
}

fn sh(script: impl Into<String>) -> Vec<String> {
    vec!["sh".to_owned(), "-c".to_owned(), script.into()]
}

fn phase_ms(outcome: &Outcome, phase: &str) -> f64 {
    ms(&outcome.report["phases"], phase)
}

/// From COMMAND's exit to the open gate.
#[track_caller]
fn assert_ready_in(outcome: &Outcome, at_least_ms: f64, at_most_ms: f64) {
    let at_most_ms = at_least_ms + (at_most_ms - at_least_ms) * f64::from(slow());
    let ready_ms = phase_ms(outcome, "ready_ms");
    assert!(
        (at_least_ms..=at_most_ms).contains(&ready_ms),
        "{ready_ms} ms: {outcome:?}"
    );
}

#[track_caller]
fn assert_ok(outcome: &Outcome, warnings: &[&str]) {
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.report["outcome"], "ok", "{outcome:?}");
    assert_eq!(outcome.report["warnings"], json!(warnings), "{outcome:?}");
    // Services say things, too.
    let ours = outcome
        .stderr
        .lines()
        .filter(|l| l.starts_with("syngate: "));
    assert_eq!(ours.count(), 1 + warnings.len(), "{outcome:?}");
}

/// Nobody listens on these ports at the end of --ready-timeout, and the line says what to know.
#[track_caller]
fn assert_deserted(outcome: &Outcome, ports: &str, before: &str) {
    assert_eq!(outcome.code, 124, "{outcome:?}");
    assert_eq!(outcome.report["outcome"], "not_ready", "{outcome:?}");
    assert_eq!(outcome.report["reason"], "no_listener", "{outcome:?}");
    assert_eq!(outcome.report["command_status"], 0, "{outcome:?}");
    assert_eq!(outcome.report["ports_not_ready"], json!([ports]));
    let line = outcome.stderr.lines().last().unwrap();
    let ports = format!("nobody listens on {ports} ");
    for says in [&ports, &format!("{before} (pid"), "--ready-timeout 0"] {
        assert!(line.contains(says), "{says}: {line}");
    }
}

fn addresses_after(outcome: &Outcome) -> Vec<String> {
    let rows = outcome.report["listeners_after"].as_array().unwrap();
    let address = |row: &Value| format!("{} {}", row["address"].as_str().unwrap(), row["port"]);
    let mut addresses: Vec<String> = rows.iter().map(address).collect();
    addresses.sort();
    addresses
}

/// haproxy that listens there, started.
fn haproxy<'a>(host: &'a Host, config: &HaproxyConfig) -> Haproxy<'a> {
    let haproxy = Haproxy::debian_init(host, config).unwrap();
    haproxy.start().unwrap();
    haproxy
}

fn binds(lines: &[&str]) -> HaproxyConfig {
    let (first, rest) = lines.split_first().unwrap();
    rest.iter()
        .fold(HaproxyConfig::bind(*first), |config, line| {
            config.and_bind(*line)
        })
}

/// The small server on port 80, as a daemon, in shell scripts.
struct Small {
    pid_file: PathBuf,
}

impl Small {
    fn start(host: &Host) -> Small {
        let small = Small {
            pid_file: host.dir().join("small.pid"),
        };
        host.must(sh(small.starts()));
        small
    }

    /// Returns when it listens.
    fn starts(&self) -> String {
        Serve::on("0.0.0.0:80")
            .daemon_argv(&self.pid_file)
            .unwrap()
            .join(" ")
    }

    fn stops(&self) -> String {
        format!("kill $(cat {})", self.pid_file.display())
    }

    /// Stops it and becomes another one that stays in the foreground.
    fn restarts_in_the_foreground(&self) -> String {
        let serve = Serve::on("0.0.0.0:80").argv().unwrap().join(" ");
        format!("{}; exec {serve} >/dev/null", self.stops())
    }
}

/// A stream of clients.
fn load(pair: &Pair, rate: u32) -> RunningLoad {
    let load = Load::to(format!("{SERVER}:80")).rate(rate).duration(LONG);
    let mut load = load.start(&pair.client).unwrap();
    load.wait_flowing().unwrap();
    load
}

// Ports and addresses that come and go -------------------------------------------------------------

#[test]
fn a_port_taken_out_keeps_only_itself_shut() {
    let pair = Pair::new().unwrap();
    let haproxy = haproxy(&pair.server, &binds(&["ipv4@:80", "ipv4@:8080"]));
    haproxy.configure(&binds(&["ipv4@:80"])).unwrap();

    let timeout = 3 * slow();
    let options = format!("--port 80,8080 --ready-timeout {timeout}s");
    let call = call(&pair.server, words(&options));
    let mut run = call.start(haproxy.reload_argv());
    wait_shut(&pair.server, &[8080]);
    assert_eq!(knock(&pair.client, SERVER, 80), Knock::Answered);
    assert_eq!(knock(&pair.client, SERVER, 8080), Knock::Silent);
    assert!(run.is_running());
    let outcome = call.end(run);
    assert_deserted(&outcome, "8080", "haproxy");
    let timeout_ms = 1e3 * f64::from(timeout);
    assert_ready_in(&outcome, timeout_ms, timeout_ms + LATE_MS);
    assert_eq!(knock(&pair.client, SERVER, 80), Knock::Answered);
    assert_eq!(knock(&pair.client, SERVER, 8080), Knock::Refused);
}

#[test]
fn a_port_that_comes_new_is_reported() {
    let pair = Pair::new().unwrap();
    let haproxy = haproxy(&pair.server, &binds(&["ipv4@:80"]));
    haproxy
        .configure(&binds(&["ipv4@:80", "ipv4@:8080"]))
        .unwrap();

    let outcome = call(&pair.server, words("--port 80,8080")).run(haproxy.restart_argv());
    assert_ok(
        &outcome,
        &["nobody listens on 8080 now: is the service down, or the port wrong?"],
    );
    assert_ready_in(&outcome, 0.0, AT_ONCE_MS);
    assert_eq!(addresses_after(&outcome), ["0.0.0.0 80", "0.0.0.0 8080"]);
    assert_eq!(knock(&pair.client, SERVER, 8080), Knock::Answered);
}

#[test]
fn a_dual_stack_socket_takes_an_ipv4_ones_place() {
    let pair = Pair::new().unwrap();
    let haproxy = haproxy(&pair.server, &binds(&["0.0.0.0:80"]));
    assert_eq!(knock(&pair.client, SERVER6, 80), Knock::Refused);
    haproxy.configure(&binds(&[":::80 v4v6"])).unwrap();

    let outcome = call(&pair.server, words("--port 80")).run(haproxy.restart_argv());
    assert_ok(&outcome, &[]);
    assert_ready_in(&outcome, 0.0, AT_ONCE_MS);
    assert_eq!(addresses_after(&outcome), [":: 80"]);
    assert_eq!(outcome.report["listeners_lost"], json!([]));
    for address in [SERVER, SERVER6] {
        assert_eq!(
            knock(&pair.client, address, 80),
            Knock::Answered,
            "{address}"
        );
    }
}

#[test]
fn an_address_taken_out_is_reported_and_no_failure() {
    let pair = Pair::new().unwrap();
    let both = [&format!("{SERVER}:80"), "127.0.0.1:80"];
    let haproxy = haproxy(&pair.server, &binds(&both));
    haproxy.configure(&binds(&both[..1])).unwrap();

    let outcome = call(&pair.server, words("--port 80")).run(haproxy.restart_argv());
    assert_ok(
        &outcome,
        &["nobody listens on 127.0.0.1:80 any more: new connections there are refused"],
    );
    // It might have come late: --settle auto grants it a second.
    assert_ready_in(&outcome, 1_000.0, 1_000.0 + LATE_MS);
    assert_eq!(outcome.report["listeners_lost"], json!(["127.0.0.1:80"]));
    assert_eq!(knock(&pair.client, SERVER, 80), Knock::Answered);
}

/// Each IP version of a port is waited for; without one the port is still listened on.
#[test]
fn an_ip_version_taken_out_is_waited_for() {
    let pair = Pair::new().unwrap();
    let haproxy = haproxy(&pair.server, &HaproxyConfig::port(80));
    haproxy.configure(&binds(&["ipv4@:80"])).unwrap();

    let timed = call(&pair.server, words("--port 80 --ready-timeout 500ms"));
    let outcome = timed.run(haproxy.restart_argv());
    assert_ok(
        &outcome,
        &["nobody listens on [::]:80 any more: new connections there are refused"],
    );
    assert_ready_in(&outcome, 500.0, 500.0 + LATE_MS);
    assert_eq!(knock(&pair.client, SERVER, 80), Knock::Answered);
    assert_eq!(knock(&pair.client, SERVER6, 80), Knock::Refused);
}

// Starts and stops --------------------------------------------------------------------------------

#[test]
fn a_stop_is_told_apart_from_a_restart() {
    let pair = Pair::new().unwrap();
    let haproxy = haproxy(&pair.server, &HaproxyConfig::port(80));
    let stop = ["service", "haproxy", "stop"];
    let call = |options: &str| call(&pair.server, words(options));

    let outcome = call("--port 80 --ready-timeout 1s").run(stop);
    assert_deserted(&outcome, "80", "haproxy");
    assert_ready_in(&outcome, 1_000.0, 1_000.0 + LATE_MS);
    assert_eq!(knock(&pair.client, SERVER, 80), Knock::Refused);

    haproxy.start().unwrap();
    let outcome = call("--port 80 --ready-timeout 0").run(stop);
    assert_ok(&outcome, &[]);
    assert_ready_in(&outcome, 0.0, AT_ONCE_MS);
    assert_eq!(knock(&pair.client, SERVER, 80), Knock::Refused);
}

#[test]
fn a_first_start_is_not_waited_for() {
    let pair = Pair::new().unwrap();
    let _haproxy = Haproxy::debian_init(&pair.server, &HaproxyConfig::port(80)).unwrap();
    let start = ["service", "haproxy", "start"];
    let outcome = call(&pair.server, words("--port 80")).run(start);
    assert_ok(
        &outcome,
        &["nobody listens on 80 now: is the service down, or the port wrong?"],
    );
    assert_ready_in(&outcome, 0.0, AT_ONCE_MS);
    assert_eq!(addresses_after(&outcome), ["0.0.0.0 80", ":: 80"]);
    assert_eq!(outcome.report["listeners_before"], json!([]));
    assert_eq!(knock(&pair.client, SERVER, 80), Knock::Answered);
}

/// nginx's restart stops it before it looks at the new configuration: then nobody listens, and
/// clients are to know at once. haproxy's reload looks first, and the old one goes on.
#[test]
fn a_command_that_fails_opens_at_once() {
    let pair = Pair::new().unwrap();
    let nginx = Nginx::new(&pair.server, &NginxConfig::default()).unwrap();
    nginx.start().unwrap();
    let broken = NginxConfig {
        http: "no_such_directive;".to_owned(),
        ..NginxConfig::default()
    };
    nginx.configure(&broken).unwrap();
    let haproxy = haproxy(&pair.server, &HaproxyConfig::port(8080));
    haproxy
        .configure(&HaproxyConfig::port(8080).global("no-such-keyword"))
        .unwrap();
    for (port, command, knocks) in [
        (80, nginx.restart_argv(), Knock::Refused),
        (8080, haproxy.reload_argv(), Knock::Answered),
    ] {
        assert_eq!(knock(&pair.client, SERVER, port), Knock::Answered);
        let outcome = call(&pair.server, words(&format!("--port {port}"))).run(command);
        assert_eq!(outcome.code, 1, "{outcome:?}");
        assert_eq!(outcome.report["outcome"], "command_failed");
        assert_eq!(outcome.report["command_status"], 1);
        assert_ready_in(&outcome, 0.0, AT_ONCE_MS);
        assert_eq!(knock(&pair.client, SERVER, port), knocks);
    }
}

/// COMMAND returns before the service is up.
#[test]
fn a_slow_starter_is_waited_for() {
    let pair = Pair::new().unwrap();
    let small = Small::start(&pair.server);
    let slow = Serve::on("0.0.0.0:80")
        .start_delay(Duration::from_secs(2))
        .argv()
        .unwrap();
    let load = load(&pair, 100);
    let command = format!("{}; {} >/dev/null 2>&1 &", small.stops(), slow.join(" "));
    let outcome = call(&pair.server, words("--port 80")).run(sh(command));
    assert_ok(&outcome, &[]);
    assert_ready_in(&outcome, 1_900.0, 2_000.0 + LATE_MS);
    let report = load.stop().unwrap();
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.delayed > 0, "they did wait: {report}");
}

// A COMMAND that stays in the foreground ----------------------------------------------------------

#[test]
fn open_on_ready_opens_while_command_runs() {
    let pair = Pair::new().unwrap();
    let small = Small::start(&pair.server);
    let call = call(&pair.server, words("--port 80 --open-on ready"));
    let mut run = call.start(sh(small.restarts_in_the_foreground()));
    wait_shut(&pair.server, &[]);
    // Open it stays.
    let second = Load::to(format!("{SERVER}:80"))
        .rate(200)
        .duration(Duration::from_secs(1));
    let report = second.start(&pair.client).unwrap().finish().unwrap();
    assert_eq!((report.failed(), report.delayed), (0, 0), "{report}");
    assert!(run.is_running());

    run.signal(Signal::SIGTERM).unwrap();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 128 + 15, "{outcome:?}");
    assert_eq!(outcome.report["outcome"], "command_signalled");
    // The time in which it was open is none in which it was closed.
    assert!(ms(&outcome.report, "closed_ms") < 900.0, "{outcome:?}");
}

#[test]
fn a_listener_that_vanishes_again_shuts_the_port_again() {
    let pair = Pair::new().unwrap();
    let small = Small::start(&pair.server);
    let mut latch = Latch::new(&pair.server, "latch");
    let (start, stop, hold) = (small.starts(), small.stops(), latch.hold());
    let command = format!("{stop}; {start}; {hold}; {stop}; {hold}; {start}; {hold}");
    let call = call(&pair.server, words("--port 80 --open-on ready"));
    let run = call.start(sh(command));

    latch.wait();
    wait_shut(&pair.server, &[]);
    assert_eq!(knock(&pair.client, SERVER, 80), Knock::Answered);
    latch.release();
    latch.wait();
    wait_shut(&pair.server, &[80]);
    assert_eq!(knock(&pair.client, SERVER, 80), Knock::Silent);
    latch.release();
    latch.wait();
    wait_shut(&pair.server, &[]);
    assert_eq!(knock(&pair.client, SERVER, 80), Knock::Answered);
    latch.release();
    let told = "a listener on 80 ended after its port had opened: new connections were refused until there was \
                another one";
    assert_ok(&call.end(run), &[told]);
}

/// Without --open-on ready: the kernel's deadline opens, COMMAND is waited for all the same, and
/// the promise was not kept.
#[test]
fn a_foreground_command_is_opened_by_the_deadline() {
    let pair = Pair::new().unwrap();
    let small = Small::start(&pair.server);
    let mut latch = Latch::new(&pair.server, "latch");
    let command = format!("{}; {}; {}", small.stops(), small.starts(), latch.hold());
    let max_closed = 2 * slow();
    let call = call(
        &pair.server,
        words(&format!("--port 80 --max-closed {max_closed}s")),
    );
    let started = Instant::now();
    let mut run = call.start(sh(command));
    latch.wait();
    assert_eq!(shut(&pair.server), [80]);
    assert_eq!(
        knock(&pair.client, SERVER, 80),
        Knock::Silent,
        "ready or not"
    );
    // The kernel's clock is coarse, and may be a few ms ahead of syngate's: both have opened when
    // the table is gone.
    wait_open(&pair.server, SOON);
    let took = started.elapsed().as_secs_f64() * 1e3;
    let slow = f64::from(slow());
    let expected = 2_000.0 * slow - 100.0..(2_000.0 + LATE_MS) * slow;
    assert!(expected.contains(&took), "{took} ms");
    assert_eq!(knock(&pair.client, SERVER, 80), Knock::Answered);
    assert!(run.is_running() && latch.reached());

    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 124, "{outcome:?}");
    assert_eq!(outcome.report["outcome"], "deadline");
    assert!(outcome.stderr.contains("--max-closed"), "{outcome:?}");
}

// How long it settles -----------------------------------------------------------------------------

const NO_CHANGE: &str = "nothing changed on 80 within 3s of COMMAND's exit: the same processes listen as before, so a \
                         reload that starts new processes may have failed (see the service's log; if it reloads in place, give --settle 0)";

/// A COMMAND that leaves the sockets as they are, and the times that it may take then.
#[test]
fn an_inherited_socket_settles() {
    let pair = Pair::new().unwrap();
    let _small = Small::start(&pair.server);
    for (options, settle_ms) in [
        ("--port 80", 100.0),
        ("--port 80 --settle 300ms", 300.0),
        ("--port 80 --settle 0", 0.0),
        // Listeners are not watched.
        ("--port 80 --ready-timeout 0", 0.0),
        ("--port 80 --ready-timeout 0 --settle 300ms", 300.0),
    ] {
        let outcome = call(&pair.server, words(options)).run(["true"]);
        let waits_for_a_change = options == "--port 80";
        let warnings: &[&str] = if waits_for_a_change {
            &[NO_CHANGE]
        } else {
            &[]
        };
        assert_ok(&outcome, warnings);
        assert_ready_in(&outcome, settle_ms, settle_ms + AT_ONCE_MS);
    }
}

#[test]
fn a_replaced_one_does_not_unless_it_is_told_to() {
    let pair = Pair::new().unwrap();
    let small = Small::start(&pair.server);
    let restart = sh(format!("{}; {}", small.stops(), small.starts()));
    for (options, settle_ms) in [("--port 80", 0.0), ("--port 80 --settle 300ms", 300.0)] {
        let outcome = call(&pair.server, words(options)).run(restart.clone());
        assert_ok(&outcome, &[]);
        assert_ready_in(&outcome, settle_ms, settle_ms + AT_ONCE_MS);
    }
}

/// The settle time counts from when the service listens, not from COMMAND's exit.
#[test]
fn a_slow_starter_settles_as_well() {
    let pair = Pair::new().unwrap();
    let small = Small::start(&pair.server);
    let slow = Serve::on("0.0.0.0:80")
        .start_delay(Duration::from_millis(500))
        .argv()
        .unwrap();
    let command = format!("{}; {} >/dev/null 2>&1 &", small.stops(), slow.join(" "));
    let outcome = call(&pair.server, words("--port 80 --settle 400ms")).run(sh(command));
    assert_ok(&outcome, &[]);
    assert_ready_in(&outcome, 850.0, 900.0 + LATE_MS);
}

fn workers(host: &Host, master: &str) -> String {
    host.must(["pgrep", "--parent", master])
}

#[test]
fn a_master_worker_reload_is_not_noticed() {
    let pair = Pair::new().unwrap();
    let config = HaproxyConfig::port(80).global("master-worker");
    let _haproxy = haproxy(&pair.server, &config);
    let master = pair.server.must(["cat", "/run/haproxy.pid"]);
    let before = workers(&pair.server, master.trim());
    let load = load(&pair, 500);
    let call = call(&pair.server, words("--port 80 --drain-until handshakes"));
    let outcome = call.run(["kill", "-USR2", master.trim()]);
    let report = load.stop().unwrap();
    assert_ok(&outcome, &[]);
    assert_eq!(report.failed(), 0, "{report}");
    let changed = || workers(&pair.server, master.trim()) != before;
    wait_until(SOON, "a new worker", changed).unwrap();
}

/// nginx needs a while to read its configuration; then it closes the listeners of the workers that
/// it no longer has. The gate waits for that.
#[test]
fn a_slow_reload_with_fewer_workers_is_waited_for() {
    let pair = Pair::new().unwrap();
    let networks: String = (0..150_000u32)
        .map(|n| format!("10.{}.{}.{} {n};\n", n >> 16, n >> 8 & 255, n & 255))
        .collect();
    let config = |workers| NginxConfig {
        workers,
        reuseport: true,
        http: format!("geo $net {{\n{networks}}}"),
        ..NginxConfig::default()
    };
    let nginx = Nginx::new(&pair.server, &config(4)).unwrap();
    nginx.start().unwrap();
    nginx.configure(&config(2)).unwrap();
    let listeners = || pair.server.must(["ss", "-Hltn4"]).lines().count();
    assert_eq!(listeners(), 4);
    let load = load(&pair, 1_000);
    let call = call(&pair.server, words("--port 80 --drain-until handshakes"));
    let outcome = call.run(nginx.reload_argv());
    assert_eq!(listeners(), 2, "the gate opened too early: {outcome:?}");
    assert_ok(&outcome, &[]);
    let report = load.stop().unwrap();
    assert_eq!(report.failed(), 0, "{report}");
}

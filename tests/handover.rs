//! `--syn handover`: reloads. New connections reach the service all the time; real clients tell whether they
//! noticed.

mod harness;

use std::time::Duration;

use harness::latch::Latch;
use harness::rooms::{
    GROUPS_HIDDEN, GUARD, SHARES_PORT, all_served, figure, listeners, load, no_syn_was_lost,
    nothing_is_left,
};
use harness::{Call, Outcome, SOON, SYNGATE, all_refused, call, words};
use nix::sys::signal::Signal;
use testkit::services::{Haproxy, HaproxyConfig, Nginx, NginxConfig, Serve};
use testkit::{Delay, Host, Load, LoadReport, Pair, Running, RunningLoad, wait_until};

const LONG: Duration = Duration::from_secs(60);

fn handover<'a>(host: &'a Host, options: &str) -> Call<'a> {
    let call = call(host, words("--port 80 --syn handover")).unhurried();
    call.args(words(options))
}

#[track_caller]
fn all_served_at_once(client: &Host, report: &LoadReport) {
    all_served(report);
    no_syn_was_lost(client);
}

// Reloads ------------------------------------------------------------------------------------------

#[test]
fn reloads_of_haproxy_are_noticed_by_nobody() {
    for master_worker in [false, true] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let config = HaproxyConfig::port(80);
        let config = match master_worker {
            true => config.global("master-worker"),
            false => config,
        };
        let haproxy = Haproxy::debian_init(host, &config).unwrap();
        haproxy.start().unwrap();
        let load = load(&pair, 500);
        for _ in 0..2 {
            let outcome = handover(host, "").run(haproxy.reload_argv());
            assert_eq!(outcome.code, 0, "{outcome:?}");
            assert_eq!(figure(&outcome, "handover", "reset"), 0, "{outcome:?}");
            assert!(
                !outcome.stderr.contains("was COMMAND a restart"),
                "{outcome:?}"
            );
        }
        all_served_at_once(&pair.client, &load.stop().unwrap());
        nothing_is_left(host, 2);
    }
}

/// haproxy makes its old process stop listening when an address is in use, and listen again as it gives up.
#[test]
fn a_reload_of_haproxy_that_fails_takes_nobody_along() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _other = Serve::on("0.0.0.0:81").start(host).unwrap();
    let haproxy = Haproxy::debian_init(host, &HaproxyConfig::port(80)).unwrap();
    haproxy.start().unwrap();
    let load = load(&pair, 500);
    let in_use = HaproxyConfig::port(80).and_bind("0.0.0.0:81");
    haproxy.configure(&in_use).unwrap();
    let outcome = handover(host, "").run(haproxy.reload_argv());
    assert_ne!(outcome.code, 0, "{outcome:?}");
    assert_eq!(figure(&outcome, "handover", "reset"), 0, "{outcome:?}");
    all_served_at_once(&pair.client, &load.stop().unwrap());
    nothing_is_left(host, 2);
}

/// The kernel empties the listener's place in a program's array as it stops listening.
#[test]
fn a_listener_that_stops_listening_and_begins_again_is_preferred_again() {
    let host = Host::new().unwrap();
    let config = HaproxyConfig::bind("0.0.0.0:80");
    let haproxy = Haproxy::debian_init(&host, &config).unwrap();
    haproxy.start().unwrap();
    let (mut paused, mut again) = (Latch::new(&host, "paused"), Latch::new(&host, "again"));
    let script = format!(
        "pkill -TTOU haproxy; {}; pkill -TTIN haproxy; {}",
        paused.hold(),
        again.hold()
    );
    let call = handover(&host, "");
    let run = call.start(["sh", "-c", &script]);
    paused.wait();
    // A signal takes effect a moment later.
    let listens = || {
        host.must(words("ss -Hltnp sport = :80"))
            .contains("haproxy")
    };
    wait_until(SOON, "haproxy to stop listening", || !listens()).unwrap();
    let waits = burst(&host);
    paused.release();
    again.wait();
    all_served(&waits.finish().unwrap());
    let load = Load::to("127.0.0.1:80").rate(500).timeout(LONG);
    let load = load
        .duration(Duration::from_millis(500))
        .start(&host)
        .unwrap();
    all_served(&load.finish().unwrap());
    again.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    // The old listener is back.
    assert!(
        !outcome.stderr.contains("was COMMAND a restart"),
        "{outcome:?}"
    );
    let parked = figure(&outcome, "handover", "parked");
    assert!((20..150).contains(&parked), "{outcome:?}");
    nothing_is_left(&host, 1);
}

/// As with `haproxy -st`: whom the old process has accepted is cut, as without syngate, and nobody else.
#[test]
fn the_queue_of_a_process_that_stops_at_once_moves_to_the_new_one() {
    let host = Host::new().unwrap();
    let server = Serve::on("0.0.0.0:80").reuseport();
    let (old, new) = (host.dir().join("old.pid"), host.dir().join("new.pid"));
    // It accepts one connection each second.
    let start = server.clone().accept_rate(1).daemon_argv(&old).unwrap();
    host.must(start);
    let mut latch = Latch::new(&host, "filled");
    let script = format!(
        "{}; {}; kill $(cat {})",
        latch.hold(),
        server.daemon_argv(&new).unwrap().join(" "),
        old.display()
    );
    let call = handover(&host, "");
    let run = call.start(["sh", "-c", &script]);
    latch.wait();
    let load = Load::to("127.0.0.1:80").rate(1_000).timeout(LONG);
    let load = load
        .duration(Duration::from_millis(20))
        .start(&host)
        .unwrap();
    wait_queued(&host, 18);
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let report = load.finish().unwrap();
    assert!(report.failed() <= 2, "{report}: {:?}", report.failures);
    nothing_is_left(&host, 1);
}

const ROUND_TRIP: Duration = Duration::from_millis(200);

/// The old process goes on listening for a while beside the new one. Handshakes that have begun there move, too,
/// when it stops; their clients are far away.
#[test]
fn handshakes_of_a_listener_that_closes_after_the_release_move() {
    std::thread::scope(|threads| {
        for killed in [false, true] {
            threads.spawn(move || handshakes_move(killed));
        }
    });
}

fn handshakes_move(killed: bool) {
    let pair = Pair::steered_by_flow().unwrap();
    let host = &pair.server;
    let haproxy = Haproxy::debian_init(host, &HaproxyConfig::bind("0.0.0.0:80")).unwrap();
    haproxy.start().unwrap();
    let old = host.must(words("pgrep -ox haproxy")).trim().to_owned();
    let _far = Delay::start(&pair.client, ROUND_TRIP).unwrap();
    let load = load(&pair, 1_000);
    let mut latch = Latch::new(host, "kill");
    let start = "haproxy -D -f /etc/haproxy/haproxy.cfg -p /run/new.pid";
    let mut run = handover(host, "").start(["sh", "-c", &format!("{}; {start}", latch.hold())]);
    latch.wait();
    if killed {
        run.signal(Signal::SIGKILL).unwrap();
    }
    latch.release();
    let both = || {
        host.must(words("ss -Hltnp sport = :80"))
            .matches("haproxy")
            .count()
            == 2
    };
    wait_until(SOON, "the new listener", both).unwrap();
    wait_until(SOON, "the release", || listeners(host).len() == 2).unwrap();
    std::thread::sleep(ROUND_TRIP / 10); // a moment of the reload is what is wanted here, not a state
    host.must(["kill", "-USR1", &old]);
    run.wait().unwrap();
    let gone = || !host.must(words("ps -eo comm")).contains("gate-room");
    wait_until(SOON, "the end of the guard", gone).unwrap();
    all_served(&load.stop().unwrap());
    nothing_is_left(host, 1);
}

#[test]
fn nginx_with_a_socket_for_each_worker_and_fewer_or_more_of_them() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let config = |workers| NginxConfig {
        workers,
        reuseport: true,
        ..NginxConfig::default()
    };
    let nginx = Nginx::new(host, &config(4)).unwrap();
    nginx.start().unwrap();
    let load = load(&pair, 500);
    for workers in [2, 4, 2] {
        nginx.configure(&config(workers)).unwrap();
        let outcome = handover(host, "").run(nginx.reload_argv());
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(figure(&outcome, "handover", "parked"), 0, "{outcome:?}");
        nothing_is_left(host, 2 * workers as usize);
    }
    all_served_at_once(&pair.client, &load.stop().unwrap());
}

/// The new process has the same socket as the old one, which stays what it was.
#[test]
fn a_socket_that_is_handed_on_is_left_alone() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let nginx = Nginx::new(host, &NginxConfig::default()).unwrap();
    nginx.start().unwrap();
    let before = cookies(host);
    let load = load(&pair, 500);
    let (pid, old) = (nginx.pid_file(), nginx.pid_file().with_extension("oldbin"));
    let (pid, old) = (pid.display(), old.display());
    let upgrade = format!(
        "kill -USR2 $(cat {pid}); until [ -s {old} -a -s {pid} ]; do sleep 0.01; done; \
         kill -QUIT $(cat {old}); while [ -e {old} ]; do sleep 0.01; done"
    );
    for command in [
        nginx.reload_argv(),
        words("sh -c").into_iter().chain([upgrade]).collect(),
    ] {
        let outcome = handover(host, "").run(command);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        // One may come in the moment between the room's listen() and its program: it is handed over at once.
        assert!(figure(&outcome, "handover", "parked") <= 2, "{outcome:?}");
        assert_eq!(figure(&outcome, "handover", "reset"), 0, "{outcome:?}");
        assert_eq!(cookies(host), before);
        let pid = std::fs::read_to_string(nginx.pid_file()).unwrap();
        let shares = host.must(["python3", "-c", SHARES_PORT, pid.trim()]);
        assert_eq!(shares, "0\n0\n");
    }
    all_served_at_once(&pair.client, &load.stop().unwrap());
}

/// The kernel's names of the listeners.
fn cookies(host: &Host) -> Vec<String> {
    let shown = host.must(words("ss -Hltne sport = :80"));
    let mut cookies: Vec<String> = shown
        .split_ascii_whitespace()
        .filter(|word| word.starts_with("sk:"))
        .map(str::to_owned)
        .collect();
    cookies.sort();
    cookies
}

/// Without control groups it can't be given SO_REUSEPORT while COMMAND runs.
#[test]
fn a_listener_that_can_not_have_a_room_is_left_alone_and_its_gap_is_told() {
    let host = Host::new().unwrap();
    let mut gap = Gap::of(&host, Serve::on("0.0.0.0:80"));
    let call = handover(&host, "-v --ready-timeout 0s")
        .by(GROUPS_HIDDEN)
        .fault("no-own-mount");
    let outcome = call.run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let says =
        |outcome: &Outcome, what: &str| assert!(outcome.stderr.contains(what), "{outcome:?}");
    says(
        &outcome,
        "0.0.0.0:80 is left alone: the service does not set SO_REUSEPORT",
    );
    assert_eq!(outcome.report["warnings"].as_array().unwrap().len(), 0);
    let call = handover(&host, "").by(GROUPS_HIDDEN).fault("no-own-mount");
    let (pid, hold, start) = (gap.pid.display(), gap.latch.hold(), &gap.start);
    let run = call.start([
        "sh",
        "-c",
        &format!("kill $(cat {pid}); {hold}; exec {start}"),
    ]);
    gap.latch.wait();
    gap.latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    says(&outcome, "nobody listened on 0.0.0.0:80 for a time");
}

// A gap --------------------------------------------------------------------------------------------

/// It closes its listener, and makes another one later, in the middle of COMMAND.
struct Gap<'a> {
    host: &'a Host,
    pid: std::path::PathBuf,
    start: String,
    latch: Latch,
}

impl<'a> Gap<'a> {
    fn of(host: &'a Host, server: Serve) -> Gap<'a> {
        let pid = host.dir().join("server.pid");
        let start = server.daemon_argv(&pid).unwrap().join(" ");
        host.must(["sh", "-c", &start]);
        let latch = Latch::new(host, "gap");
        Gap {
            host,
            pid,
            start,
            latch,
        }
    }

    /// Nobody listens when this returns.
    fn begin(&self, then: &str) -> (Call<'a>, Running) {
        let (pid, hold, start) = (self.pid.display(), self.latch.hold(), &self.start);
        let script = format!("kill $(cat {pid}); {hold}; {start}; {then}");
        let call = handover(self.host, "");
        let run = call.start(["sh", "-c", &script]);
        self.latch.wait();
        (call, run)
    }
}

fn burst(host: &Host) -> RunningLoad {
    let load = Load::to("127.0.0.1:80").rate(1_000).timeout(LONG);
    let load = load
        .duration(Duration::from_millis(20))
        .start(host)
        .unwrap();
    wait_queued(host, 20);
    load
}

fn wait_queued(host: &Host, count: u32) {
    let queued = || -> u32 {
        let all = host.must(words("ss -Hltn sport = :80"));
        let queues = all
            .lines()
            .filter_map(|line| line.split_ascii_whitespace().nth(1));
        queues.filter_map(|queue| queue.parse::<u32>().ok()).sum()
    };
    wait_until(SOON, "waiting connections", || queued() >= count).unwrap();
}

/// The run has looked at the listeners again: it sleeps after each look.
fn wait_looked(host: &Host) {
    let sleeps = || -> u64 {
        let count = "awk '/^voluntary/ { print $2 }' /proc/$(pgrep -ox syngate)/status";
        host.must(["sh", "-c", count]).trim().parse().unwrap()
    };
    let before = sleeps();
    wait_until(SOON, "a look of the run", || sleeps() >= before + 5).unwrap();
}

/// They need not wait for the end of COMMAND, which may ask the service.
#[test]
fn who_comes_in_a_gap_waits_until_the_service_listens_again() {
    for reuseport in [true, false] {
        let host = Host::new().unwrap();
        let server = Serve::on("0.0.0.0:80");
        let server = match reuseport {
            true => server.reuseport(),
            false => server,
        };
        let mut gap = Gap::of(&host, server);
        let mut asking = Latch::new(&host, "asking");
        // It is refused until the run has seen the new listener.
        let asks = format!(
            "until curl -sf -o /dev/null http://127.0.0.1/; do sleep 0.01; done; {}",
            asking.hold()
        );
        let (call, run) = gap.begin(&asks);
        let load = burst(&host);
        wait_looked(&host);
        gap.latch.release();
        all_served_at_once(&host, &load.finish().unwrap());
        asking.wait();
        asking.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let [parked, handed_over, reset] =
            ["parked", "handed_over", "reset"].map(|name| figure(&outcome, "handover", name));
        // COMMAND's own may come before the run has seen the new listener.
        assert!((20..=21).contains(&parked), "{outcome:?}");
        assert_eq!((handed_over, reset), (parked, 0), "{outcome:?}");
        assert_eq!(outcome.report["action"], "handover");
        let says = outcome.report["message"].to_string();
        assert!(says.contains("80 was watched for "), "{says}");
        let waited = format!(", in case nobody listened: {parked} connections waited (for ");
        assert!(says.contains(&waited), "{says}");
        let restart =
            "nobody listened on 0.0.0.0:80 for a time, and clients waited: was COMMAND a restart?";
        assert!(outcome.stderr.contains(restart), "{outcome:?}");
        nothing_is_left(&host, 1);
    }
}

#[test]
fn a_killed_or_stopped_run_leaves_a_guard_that_hands_over() {
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        let host = Host::new().unwrap();
        let mut gap = Gap::of(&host, Serve::on("0.0.0.0:80"));
        let (_, mut run) = gap.begin("true");
        let load = burst(&host);
        run.signal(signal).unwrap();
        gap.latch.release();
        all_served_at_once(&host, &load.finish().unwrap());
        let _ = run.signal(Signal::SIGKILL);
        run.wait().unwrap();
        let gone = || host.must(words("ss -Hltn sport = :80")).lines().count() == 1;
        wait_until(SOON, "the end of the rooms", gone).unwrap();
        nothing_is_left(&host, 1);
    }
}

#[test]
fn a_failed_reload_changes_nothing_and_a_service_that_stays_away_is_told_of() {
    let host = Host::new().unwrap();
    let gap = Gap::of(&host, Serve::on("0.0.0.0:80").reuseport());
    let call = handover(&host, "");
    let outcome = call.run(words("sh -c").into_iter().chain(["exit 3".to_owned()]));
    assert_eq!(outcome.code, 3, "{outcome:?}");
    nothing_is_left(&host, 1);
    let stop = format!(
        "kill $(cat {}); {}; exit 3",
        gap.pid.display(),
        gap.latch.hold()
    );
    let run = call.start(["sh", "-c", &stop]);
    gap.latch.wait();
    let load = burst(&host);
    let mut latch = gap.latch;
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 3, "{outcome:?}");
    assert_eq!(load.finish().unwrap().failed(), 20);
    assert_eq!(figure(&outcome, "handover", "reset"), 20);
    assert!(
        outcome.stderr.contains("20 connections were reset"),
        "{outcome:?}"
    );
    nothing_is_left(&host, 0);
}

/// The kernel resets a client whose handshake ends just as its listener is closed. So a listener that the service closes
/// stays, until the run has seen that and its handshakes are over.
#[test]
fn a_listener_that_the_service_closes_stays_for_a_moment() {
    for goes_on in [true, false] {
        let host = Host::new().unwrap();
        let server = Serve::on("0.0.0.0:80").reuseport();
        let mut old = server.start(&host).unwrap();
        let before = cookies(&host);
        let mut latch = Latch::new(&host, "command");
        let call = handover(&host, "");
        let mut run = call.start(["sh", "-c", &latch.hold()]);
        latch.wait();
        let _new = server.start(&host).unwrap();
        wait_looked(&host);
        let guard = |signal| host.must(["pkill", signal, "-x", GUARD]);
        run.signal(Signal::SIGSTOP).unwrap();
        // Else it would soon take over.
        guard("-STOP");
        old.signal(Signal::SIGKILL).unwrap();
        old.wait().unwrap();
        let stays = || before.iter().all(|old| cookies(&host).contains(old));
        assert!(stays(), "{before:?} {:?}", cookies(&host));
        let load = burst(&host);
        if goes_on {
            run.signal(Signal::SIGCONT).unwrap();
            wait_until(SOON, "the end of the old listener", || !stays()).unwrap();
        }
        guard("-CONT");
        all_served(&load.finish().unwrap());
        wait_until(SOON, "the end of the old listener", || !stays()).unwrap();
        run.signal(Signal::SIGCONT).unwrap();
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(figure(&outcome, "handover", "reset"), 0, "{outcome:?}");
        nothing_is_left(&host, 1);
    }
}

/// The program that stays must not keep connections from a listener that it does not know.
#[test]
fn a_listener_that_comes_after_a_double_kill_has_its_share() {
    let host = Host::new().unwrap();
    let server = Serve::on("0.0.0.0:80").reuseport();
    let _first = server.start(&host).unwrap();
    let latch = Latch::new(&host, "under-way");
    let mut run = handover(&host, "").start(["sh", "-c", &latch.hold()]);
    latch.wait();
    // It would put another one in the place of its guard.
    run.signal(Signal::SIGSTOP).unwrap();
    host.must(["sh", "-c", "kill -9 $(pgrep gate-room)"]);
    run.signal(Signal::SIGKILL).unwrap();
    run.wait().unwrap();
    let gone = || listeners(&host).len() == 1;
    wait_until(SOON, "the end of the rooms", gone).unwrap();
    let accepted = host.dir().join("accepted");
    let _second = server.log_accepts(&accepted).start(&host).unwrap();
    let load = Load::to("127.0.0.1:80").rate(1_000).timeout(LONG);
    let load = load.duration(Duration::from_millis(100)).start(&host);
    all_served(&load.unwrap().finish().unwrap());
    let count = std::fs::read_to_string(&accepted).unwrap().lines().count();
    assert!((10..=90).contains(&count), "{count} of 100");
    host.sh(&format!("{SYNGATE} clear")).unwrap();
    nothing_is_left(&host, 2);
}

/// The new listener is in the array of the program that the kill has left, and no note tells of it.
#[test]
fn the_run_after_a_double_kill_is_done() {
    for action in ["park", "handover"] {
        let host = Host::new().unwrap();
        let server = Serve::on("0.0.0.0:80").reuseport();
        let served = server.start_daemon(&host).unwrap();
        let restart = served.restart_argv();
        let latch = Latch::new(&host, "killed");
        let call = call(&host, words(&format!("--port 80 --syn {action}"))).unhurried();
        let script = format!("{}; {}", restart[2].replace("exec ", ""), latch.hold());
        let mut run = call.start(["sh", "-c", &script]);
        latch.wait();
        wait_looked(&host);
        // It would put another one in the place of its guard.
        run.signal(Signal::SIGSTOP).unwrap();
        host.must(["sh", "-c", "kill -9 $(pgrep gate-room)"]);
        run.signal(Signal::SIGKILL).unwrap();
        run.wait().unwrap();
        let outcome = call.run(&restart);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        nothing_is_left(&host, 1);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let host = Host::new().unwrap();
    let _service = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let refused = |options| (options, "options", "--syn handover and ");
    all_refused(
        &host,
        &[
            refused("--syn handover --allow-local"),
            refused("--syn handover --backend nft"),
            refused("--syn handover --queue-num 7"),
            refused("--syn handover --drain 1s"),
            refused("--syn handover --drain-until handshakes"),
            refused("--syn handover --open-on ready"),
            refused("--syn handover --open-on exit"),
        ],
    );
    // The default of --drain is longer, and has no meaning here.
    for options in ["--max-closed 1s", "--drain 0s"] {
        let outcome = handover(&host, options)
            .arg("--ready-timeout=0")
            .run(["true"]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
    }
}

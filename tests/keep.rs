//! `syngate keep`: restarts and crashes by anybody. Real clients tell whether they noticed.

mod harness;

use std::time::{Duration, Instant};

use harness::group::Group;
use harness::keep::{
    Keep, LONG, SHARES, TAKEN, client, looks, monotonic_ms, nobody_noticed, second, shared,
    wait_kept, wait_queued, waiting_client,
};
use harness::kept;
use harness::latch::Latch;
use harness::rooms::{
    GUARD, all_served, listeners, listeners_on, load, nothing_is_left, programs, queued,
};
use harness::{SOON, SYNGATE, call, status, syngate, tell, words};
use nix::sys::signal::Signal;
use testkit::services::{Haproxy, HaproxyConfig, Serve};
use testkit::{Host, Load, Pair, RunningLoad, slow, wait_until};

/// `SIGKILL`, and a start a moment later; then a restart by somebody who knows nothing of syngate.
#[test]
fn crashes_and_restarts_of_haproxy_are_noticed_by_nobody() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let haproxy = Haproxy::debian_init(host, &HaproxyConfig::port(80)).unwrap();
    haproxy.start().unwrap();
    let keep = Keep::on(host, "");
    let clients = load(&pair, 500);
    host.must(words("pkill -KILL haproxy"));
    let died = monotonic_ms();
    std::thread::sleep(Duration::from_millis(300)); // as a supervisor may wait
    haproxy.start().unwrap();
    keep.says(1, "nobody listened");
    nobody_noticed(&clients.stop().unwrap(), died);
    let clients = load(&pair, 500);
    haproxy.stop().unwrap();
    let died = monotonic_ms();
    haproxy.start().unwrap();
    keep.says(2, "nobody listened");
    nobody_noticed(&clients.stop().unwrap(), died);
    let said = keep.ends(2);
    for word in [
        "80: nobody listened for ",
        " connections waited",
        "haproxy (pid ",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

/// In a crash loop, who comes while nobody listens waits for the next one.
#[test]
fn a_crash_loop_costs_nobody_who_waits() {
    let host = &Host::new().unwrap();
    let server = shared().start_daemon(host).unwrap();
    let keep = Keep::on(host, "");
    let kill = format!("kill -9 $(cat {})", host.dir().join("serve.pid").display());
    let files = || host.must(["sh", "-c", "ls /proc/$(pgrep -x syngate)/fd | wc -l"]);
    let before = files();
    for times in 1..=5 {
        host.sh(&kill).unwrap();
        let waits = waiting_client(host);
        // Its own kill finds nobody.
        host.must(server.restart_argv());
        all_served(&waits.finish().unwrap());
        keep.says(times, "; 1 connection waited, ");
    }
    assert_eq!(files(), before, "maps and programs are descriptors, too");
    keep.ends(1);
}

/// The kernel resets who has waited for too long; then the port refuses as it would without syngate, until
/// somebody listens.
#[test]
fn nobody_waits_longer_than_max_wait() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let keep = Keep::on(host, "--max-wait 300ms");
    let load = Load::to("127.0.0.1:80")
        .rate(200)
        .timeout(LONG)
        .duration(LONG);
    let mut load = load.start(host).unwrap();
    load.wait_flowing().unwrap();
    drop(server);
    keep.says(1, ", and then reset; new connections are refused");
    assert_eq!(listeners(host), Vec::<String>::new());
    let report = load.stop().unwrap();
    assert!(report.cut + report.reset > 1, "{report}");
    let report = client(host).finish().unwrap();
    assert_eq!(report.refused, 1, "{report}");
    // Now somebody may bind the port who does not share it.
    drop(Serve::on("0.0.0.0:80").start(host).unwrap());

    let _server = shared().start(host).unwrap();
    wait_kept(host);
    keep.ends(1);
}

/// Who reads the journal hears of it before it is over, and once.
#[test]
fn a_gap_that_goes_on_is_told() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let keep = Keep::on(host, "");
    drop(server);
    let waits = waiting_client(host);
    keep.says(1, "80: nobody listens, since ");
    keep.says(1, "Z; 1 connection waits");
    let _server = shared().start(host).unwrap();
    assert_eq!(waits.finish().unwrap().failed(), 0);
    keep.says(1, "80: nobody listened for ");
    keep.says(1, "80: nobody listens, since ");
    keep.ends(1);
}

/// Who waits can't be moved there, and must not keep clients from a service that listens.
#[test]
fn a_service_that_comes_back_on_another_address_is_told() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let keep = Keep::on(host, "");
    drop(server);
    let waits = waiting_client(host);
    let _server = Serve::on("127.0.0.1:80").reuseport().start(host).unwrap();
    keep.says(1, "and the service listens on 127.0.0.1:80 now; the kernel can't move connections to there; 1 connection waited");
    assert_eq!(waits.finish().unwrap().failed(), 1);
    let later = Load::to("127.0.0.2:80")
        .timeout(LONG)
        .duration(Duration::ZERO);
    let report = later.start(host).unwrap().finish().unwrap();
    assert_eq!(report.refused, report.sent, "as without keep: {report}");
    wait_kept(host);
    keep.ends(1);
}

/// The new one keeps the other port at once, and this one when the service is back.
#[test]
fn who_waits_behind_a_dead_keep_waits_on_beside_a_new_one() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let _other = Serve::on("0.0.0.0:81").reuseport().start(host).unwrap();
    let begin = || Keep::begun(host, "--port 80,81", &[]);
    let mut keep = begin();
    drop(server);
    let waits = waiting_client(host);
    keep.running.signal(Signal::SIGKILL).unwrap();
    keep.running.wait().unwrap();
    let keep = begin();
    keep.says(1, "nobody listens yet on 80, where");
    assert!(listeners_on(host, 81).len() > 1, "kept");
    let _server = shared().start(host).unwrap();
    all_served(&waits.finish().unwrap());
    wait_kept(host);
    keep.ends(1);
}

/// A keep whose service has died, and a client that waits.
fn in_gap(host: &Host) -> (Keep<'_>, RunningLoad) {
    let server = shared().start(host).unwrap();
    let keep = Keep::on(host, "");
    drop(server);
    let waits = waiting_client(host);
    (keep, waits)
}

/// The same, and somebody has stopped the keep before.
fn stopped_before_gap(host: &Host) -> (Keep<'_>, RunningLoad) {
    let server = shared().start(host).unwrap();
    let mut keep = Keep::on(host, "");
    keep.running.signal(Signal::SIGSTOP).unwrap();
    drop(server);
    let waits = waiting_client(host);
    (keep, waits)
}

/// It is made longer for those who waited.
#[test]
fn the_service_has_its_own_backlog_back_when_it_has_accepted_them() {
    let host = &Host::new().unwrap();
    let (keep, waits) = in_gap(host);
    let _server = shared().backlog(16).start(host).unwrap();
    all_served(&waits.finish().unwrap());
    let own = || listeners(host).iter().any(|line| line.contains(" 16 "));
    wait_until(SOON, "its own backlog", own).unwrap();
    keep.ends(1);
}

const ENDS_LATER: &str = "nobody listens: keep ends once it has handed the waiting connections over to the service, \
    or when nobody has";

/// Who waits as keep is told to end is served first.
#[test]
fn it_ends_in_order() {
    let host = &Host::new().unwrap();
    let (mut keep, waits) = in_gap(host);
    keep.running.signal(Signal::SIGTERM).unwrap();
    keep.says(1, ENDS_LATER);
    let server = shared().start(host).unwrap();
    all_served(&waits.finish().unwrap());
    assert!(keep.running.wait().unwrap().success());
    nothing_is_left(host, 1);
    drop(server);

    let (mut keep, waits) = in_gap(host);
    keep.running.signal(Signal::SIGTERM).unwrap();
    keep.running.signal(Signal::SIGINT).unwrap();
    assert!(keep.running.wait().unwrap().success());
    let report = waits.finish().unwrap();
    assert_eq!(
        report.failed(),
        1,
        "the second signal does not wait: {report}"
    );
    nothing_is_left(host, 0);
}

/// The new one could make no rooms in a gap: the one before stays for it, also where nobody waits yet.
#[test]
fn a_restart_of_keep_in_a_gap_refuses_nobody() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let mut keep = Keep::on(host, "");
    drop(server);
    keep.running.signal(Signal::SIGTERM).unwrap();
    keep.says(1, ENDS_LATER);
    let waits = waiting_client(host);
    let _server = shared().start(host).unwrap();
    assert!(keep.running.wait().unwrap().success());
    let keep = Keep::on(host, "");
    all_served(&waits.finish().unwrap());
    keep.ends(1);
}

/// Its guard has the rooms, too. The next keep takes the port up again.
#[test]
fn a_keep_that_is_killed_leaves_nobody_alone() {
    let host = &Host::new().unwrap();
    for in_gap in [true, false] {
        let (server, waits) = kept::killed(host, &shared(), "", in_gap);
        let server = server.unwrap_or_else(|| shared().start(host).unwrap());
        if let Some(waits) = waits {
            all_served(&waits.finish().unwrap());
        }
        let keep = Keep::on(host, "");
        let _server = keep.bridges(server);
        keep.ends(1);
    }
}

/// One that is stopped for longer than a guard waits for its run; while it is, the guard hands over.
#[test]
fn a_keep_that_was_stopped_goes_on() {
    let host = &Host::new().unwrap();
    let (mut keep, waits) = stopped_before_gap(host);
    let server = shared().start(host).unwrap();
    all_served(&waits.finish().unwrap());
    keep.running.signal(Signal::SIGCONT).unwrap();
    keep.says(
        1,
        "the guard of the waiting rooms has handed the waiting connections over",
    );
    keep.says(1, "somebody had stopped it");
    wait_kept(host);
    let _server = keep.bridges(server);
    keep.ends(1);
}

/// Its guard sees that it is stopped before it would take it for one that hangs, which is after 2 s.
#[test]
fn who_waits_for_a_keep_that_was_stopped_waits_no_longer_than_a_second() {
    let host = &Host::new().unwrap();
    let served_after = || {
        let (mut keep, waits) = stopped_before_gap(host);
        let stopped = Instant::now();
        let _server = shared().start(host).unwrap();
        all_served(&waits.finish().unwrap());
        let took = stopped.elapsed();
        keep.running.signal(Signal::SIGCONT).unwrap();
        keep.says(1, "somebody had stopped it");
        wait_kept(host);
        keep.ends(1);
        took
    };
    let took: Vec<Duration> = (0..3).map(|_| served_after()).collect();
    tell(&format!("{took:?}"));
    let fastest = *took.iter().min().unwrap();
    assert!(fastest < Duration::from_secs(1) * slow(), "{took:?}");
}

/// It is told by what became of those who waited: no look has shown that nobody listened.
#[test]
fn a_gap_that_is_over_before_keep_looks_is_told() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let mut keep = Keep::on(host, "");
    // The guard would hand over for a keep that is stopped.
    host.must(["pkill", "-STOP", "-x", GUARD]);
    keep.running.signal(Signal::SIGSTOP).unwrap();
    drop(server);
    let waits = waiting_client(host);
    let _server = shared().start(host).unwrap();
    keep.running.signal(Signal::SIGCONT).unwrap();
    keep.says(1, "keep knew of no listener; 1 connection waited, for ");
    all_served(&waits.finish().unwrap());
    let counted = || status(host).0[0]["kept"]["gaps"] == 1;
    wait_until(SOON, "the gap to be counted", counted).unwrap();
    host.must(["pkill", "-CONT", "-x", GUARD]);
    keep.ends(1);
}

/// As udpgrm or Envoy give it to their listeners: a room would disturb it, and keep leaves the listeners alone.
#[test]
fn a_program_that_the_service_brings_along_stays_where_nobody_waits() {
    for waits in [false, true] {
        let host = &Host::new().unwrap();
        let script = host.write("sockets.py", include_str!("harness/sockets.py"));
        let pids = host.dir().join("pids");
        let start = |more: &str| {
            let spec = format!(r#"[{{"address": "0.0.0.0", "share": 1{more}}}]"#);
            let (script, pids) = (script.to_str().unwrap(), pids.to_str().unwrap());
            host.must(["/usr/bin/python3", script, pids, &spec]);
        };
        start("");
        let keep = Keep::on(host, "");
        host.must([
            "sh",
            "-c",
            &format!("kill -9 $(cat {0}); rm {0}", pids.display()),
        ]);
        let client = waits.then(|| client(host));
        wait_queued(host, usize::from(waits));
        looks(host);
        start(r#", "program": 1"#);
        if let Some(client) = client {
            all_served(&client.finish().unwrap());
            drop(keep);
            continue;
        }
        keep.says(1, "0.0.0.0:80 is not kept: connections to the listener on 0.0.0.0:80 can't wait elsewhere: a program");
        let alone = || listeners(host).len() == 1;
        wait_until(SOON, "the rooms to go", alone).unwrap();
        assert!(!programs(host).is_empty(), "it was replaced");
        host.must(["sh", "-c", &format!("kill -9 $(cat {})", pids.display())]);
        keep.ends(0);
    }
}

#[test]
fn a_guard_that_is_killed_is_replaced() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let keep = Keep::on(host, "");
    host.must(["pkill", "-KILL", GUARD]);
    keep.says(1, "syngate has started another one");
    let _server = keep.bridges(server);
    keep.ends(1);
}

/// What keep can't do it says before it has changed anything.
#[test]
fn what_can_t_be_kept_is_refused() {
    let host = &Host::new().unwrap();
    let refused = |says: &str| {
        let ran = syngate(host, "keep --port 80");
        assert_eq!(ran.code(), 125, "{ran:?}");
        assert!(ran.stderr.contains(says), "{ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    };
    let alone = Serve::on("0.0.0.0:80").start(host).unwrap();
    refused("does not set SO_REUSEPORT");
    nothing_is_left(host, 1);
    drop(alone);
    let _server = shared().start(host).unwrap();
    let keep = Keep::on(host, "--port 81");
    refused("--port 80: another keep has a part of it: pid ");
    keep.ends(1);
    let by = format!("setpriv --reuid 65534 --clear-groups {SYNGATE} keep --port 80");
    let ran = host.sh(&by).unwrap();
    assert_eq!(ran.code(), 125, "{ran:?}");
    assert!(
        ran.stderr
            .starts_with("syngate: keep needs root of this host"),
        "{ran:?}"
    );
}

/// A second service that starts by mistake is refused by the kernel, as without keep, and all clients have the first one.
#[test]
fn a_second_service_is_refused_as_without_keep() {
    let host = &Host::new().unwrap();
    host.must(words("sysctl -qw net.ipv4.ip_unprivileged_port_start=0"));
    let _server = shared().start(host).unwrap();
    let by_another_user = format!("os.setuid(65534); s = socket.socket()\n{SHARES}");
    let tried = |when: &str| {
        for address in ["0.0.0.0", "127.0.0.1"] {
            for more in ["", &by_another_user] {
                let became = second(host, address, more);
                assert_eq!(became, TAKEN, "{when} {address} {more}");
            }
        }
    };
    tried("without keep");
    let keep = Keep::on(host, "");
    let clients = kept::flowing(host, 50);
    tried("kept");
    all_served(&clients.stop().unwrap());
    keep.ends(1);
}

/// The port is kept with those that there are, and that is told.
#[test]
fn rooms_that_can_t_be_made_in_the_services_new_control_group_stay() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let mut keep = Keep::on(host, "");
    let group = Group::of(host);
    keep.running.signal(Signal::SIGSTOP).unwrap();
    drop(server);
    let by = words(&group.entered(host));
    let server = shared().start_by(host, &by).unwrap();
    group.freeze(true);
    keep.running.signal(Signal::SIGCONT).unwrap();
    let why = "it lets no process run";
    keep.says(1, why);
    group.freeze(false);
    assert!(
        keep.said()
            .contains("wait for 0.0.0.0:80 stay in the control group of")
    );
    let _server = keep.bridges(server);
    keep.says(1, why);
    keep.ends(1);
}

/// New listeners have their share within 200 ms, although the old ones stay: as when nginx gets more workers. One of
/// five may be late on a machine that is busy.
#[test]
fn new_listeners_get_their_share() {
    let host = &Host::new().unwrap();
    let _old = shared().start(host).unwrap();
    let keep = Keep::on(host, "");
    let mut took: Vec<Duration> = (0..5).map(|number| first_share(host, number)).collect();
    took.sort_unstable();
    assert!(took[3] < Duration::from_millis(200) * slow(), "{took:?}");
    keep.ends(1);
}

/// How long a new listener waits for its first connection.
fn first_share(host: &Host, number: u32) -> Duration {
    let log = host.dir().join(format!("accepted-{number}"));
    let _new = shared().log_accepts(&log).start(host).unwrap();
    let since = Instant::now();
    let accepted = || std::fs::read_to_string(&log).is_ok_and(|log| !log.is_empty());
    let load = Load::to("127.0.0.1:80").rate(500).duration(SOON);
    let load = load.start(host).unwrap();
    wait_until(SOON, "connections to the new listener", accepted).unwrap();
    let took = since.elapsed();
    all_served(&load.stop().unwrap());
    took
}

/// Services that listen once keep is there, on several addresses, are taken up.
#[test]
fn a_service_that_comes_later_is_taken_up() {
    let host = &Host::new().unwrap();
    let keep = Keep::on(host, "");
    keep.says(1, "keeping 80: nobody listens there yet, so new");
    let both = shared().and_on("[::]:80");
    let server = both.start(host).unwrap();
    let rooms = || listeners(host).len() > 2;
    wait_until(SOON, "rooms on both addresses", rooms).unwrap();
    drop(server);
    let waits = waiting_client(host);
    let _server = both.start(host).unwrap();
    all_served(&waits.finish().unwrap());
    keep.ends(2);
}

/// A run does on a kept port what it does elsewhere; keep stands back, and comes again.
#[test]
fn runs_work_on_a_kept_port() {
    kept::beside_runs(&shared(), "");
}

#[test]
fn a_run_on_one_port_leaves_the_others_kept() {
    for is_dead in [false, true] {
        kept::beside_runs_on_one_port(|at| Serve::on(at).reuseport(), "", is_dead);
    }
}

/// In a gap keep stays, and those who wait get the service that the run starts.
#[test]
fn a_run_that_starts_the_service_ends_the_gap() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let keep = Keep::on(host, "");
    drop(server);
    let waits = waiting_client(host);
    let pid = host.dir().join("serve.pid");
    let outcome = call(host, words("--port 80")).run(shared().daemon_argv(&pid).unwrap());
    assert_eq!(outcome.code, 0, "{outcome:?}");
    all_served(&waits.finish().unwrap());
    wait_kept(host);
    keep.ends(1);
}

/// Such a run has seen no listener, and does not wait for one after COMMAND.
#[test]
fn a_run_that_begins_in_a_gap_leaves_keep_there() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let keep = Keep::on(host, "");
    let load = kept::flowing(host, 50);
    drop(server);
    wait_queued(host, 1);
    let mut latch = Latch::new(host, "begun");
    let later = shared().start_delay(Duration::from_millis(700));
    let (pid, later_pid) = (host.dir().join("serve.pid"), host.dir().join("later.pid"));
    let script = format!(
        "{}; kill $(cat {}); ({}) >/dev/null 2>&1 </dev/null &",
        latch.hold(),
        pid.display(),
        later.daemon_argv(&later_pid).unwrap().join(" ")
    );
    let call = call(host, words("--port 80 --syn hold --drain 0"));
    let run = call.start(["sh", "-c", &script]);
    latch.wait();
    // Somebody else starts the service, and the gap is over.
    host.must(shared().daemon_argv(&pid).unwrap());
    wait_until(SOON, "the end of the gap", || queued(host) == 0).unwrap();
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let listens = || std::fs::read_to_string(&later_pid).is_ok_and(|pid| !pid.is_empty());
    wait_until(SOON, "the service", listens).unwrap();
    all_served(&load.stop().unwrap());
    keep.ends(1);
}

/// Keep has not seen yet that the service listens again.
#[test]
fn keep_stands_back_for_a_run_that_begins_just_as_a_gap_ends() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let mut keep = Keep::on(host, "");
    drop(server);
    let noted = || {
        host.sh("grep -q cookie /run/syngate/*rooms-*")
            .unwrap()
            .ok()
    };
    wait_until(SOON, "keep to see the gap", || !noted()).unwrap();
    keep.running.signal(Signal::SIGSTOP).unwrap();
    let server = shared().start(host).unwrap();
    let call = call(host, words("--port 80 --syn park"));
    let run = call.start(["true"]);
    let locked = || host.must(words("cat /proc/locks")).contains(" 80 80");
    wait_until(SOON, "the run", locked).unwrap();
    keep.running.signal(Signal::SIGCONT).unwrap();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    wait_kept(host);
    drop(server);
    keep.ends(0);
}

/// Keep has not looked since the gap began: it looks again before it stands back.
#[test]
fn a_gap_that_begins_as_a_run_does_is_bridged() {
    let host = &Host::new().unwrap();
    let (mut keep, waits) = stopped_before_gap(host);
    let mut latch = Latch::new(host, "start");
    let call = call(host, words("--port 80"));
    let start = shared().daemon_argv(&host.dir().join("serve.pid")).unwrap();
    let script = format!("{}; exec {}", latch.hold(), start.join(" "));
    let run = call.start(["sh", "-c", &script]);
    latch.wait();
    keep.running.signal(Signal::SIGCONT).unwrap();
    let listeners = "grep -q cookie /run/syngate/*rooms-*";
    let noticed = || !host.sh(listeners).unwrap().ok();
    wait_until(SOON, "keep to look", noticed).unwrap();
    latch.release();
    assert_eq!(call.end(run).code, 0);
    all_served(&waits.finish().unwrap());
    keep.says(1, "nobody listened");
    wait_kept(host);
    keep.ends(1);
}

/// Nothing is shut on a kept port, and clear ends a keep only if it is told to.
#[test]
fn status_and_clear_know_keeps() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let mut keep = Keep::on(host, "");
    let (gates, code) = status(host);
    assert_eq!((gates.len(), code), (1, 0), "{gates:#?}");
    let shown = |gate: &serde_json::Value| {
        [
            "state",
            "stale",
            "ports",
            "action",
            "waiting",
            "opens_in_ms",
        ]
        .map(|f| gate[f].to_string())
    };
    let kept = [r#""kept""#, "false", r#"["80"]"#, r#""keep""#, "0", "null"];
    assert_eq!(shown(&gates[0]), kept);
    let said = syngate(host, "status").stdout;
    for words in ["80 is kept: ", "syngate keep --port 80", "since ", "0 gaps"] {
        assert!(said.contains(words), "{words}: {said}");
    }

    drop(server);
    let waits = waiting_client(host);
    let said = syngate(host, "status").stdout;
    let until = "1 connection waits; nobody listens now: they are reset when that has lasted 30s (--max-wait)";
    assert!(said.contains(until), "{said}");
    let ran = syngate(host, "clear");
    assert_eq!(ran.code(), 0, "{ran:?}");
    assert!(
        ran.stderr.contains("keeps it (--force ends that)"),
        "{ran:?}"
    );
    assert!(keep.running.is_running());
    let server = shared().start(host).unwrap();
    all_served(&waits.finish().unwrap());
    keep.says(1, "nobody listened");
    let bridged = || status(host).0[0]["kept"]["gaps"] == 1;
    wait_until(SOON, "the gap to be counted", bridged).unwrap();
    let counts = &status(host).0[0]["kept"];
    assert_eq!(
        (&counts["waited"], &counts["reset"]),
        (&1.into(), &0.into())
    );
    let ran = syngate(host, "clear --force");
    assert_eq!(ran.code(), 0, "{ran:?}");
    keep.running.wait().unwrap();
    nothing_is_left(host, 1);
    drop(server);

    let keep = Keep::on(host, "");
    let said = syngate(host, "status").stdout;
    assert!(
        said.contains("80 is not kept yet: nobody listens"),
        "{said}"
    );
    keep.ends(0);
}

/// The guard of a keep that was killed is told of, and hands over when it is told to.
#[test]
fn a_dead_keep_is_told_of_and_cleared() {
    let host = &Host::new().unwrap();
    let (mut keep, waits) = in_gap(host);
    keep.running.signal(Signal::SIGKILL).unwrap();
    keep.running.wait().unwrap();
    let (gates, _) = status(host);
    assert_eq!(
        (gates.len(), &gates[0]["stale"]),
        (1, &true.into()),
        "{gates:#?}"
    );
    let said = syngate(host, "status").stdout;
    assert!(said.contains("by a keep that is dead"), "{said}");
    let ran = syngate(host, "clear");
    assert_eq!(ran.code(), 0, "{ran:?}");
    assert!(ran.stderr.contains("1 connection reset"), "{ran:?}");
    assert_eq!(waits.finish().unwrap().failed(), 1);
    nothing_is_left(host, 0);
}

/// It looks at the sockets some times a second, and is small.
#[test]
fn it_costs_next_to_nothing_while_nothing_happens() {
    let host = &Host::new().unwrap();
    let _server = shared().start(host).unwrap();
    let keep = Keep::on(host, "");
    let shown = "for pid in $(pgrep -x 'syngate|gate-room'); do \
                 grep -E '^(VmRSS|RssAnon|voluntary_ctxt)' /proc/$pid/status; done";
    let figure = |name: &str| -> Vec<u64> {
        let shown = host.must(["sh", "-c", shown]);
        let lines = shown.lines().filter(|line| line.starts_with(name));
        lines
            .map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
            .collect()
    };
    let before: u64 = figure("voluntary").iter().sum();
    std::thread::sleep(Duration::from_secs(2)); // a time is what is measured here
    let wakes = figure("voluntary").iter().sum::<u64>() - before;
    assert!(
        wakes <= 2 * 14,
        "{wakes} times in two seconds, its guard included"
    );
    // Of all that is resident, the program itself is the rest. It is large as built for tests.
    let own = figure("RssAnon").into_iter().max().unwrap();
    assert!(own < 4 * 1_024, "{own} KiB of its own");
    if std::env::var_os("SYNGATE_TEST_BINARY").is_some() {
        let most = figure("VmRSS").into_iter().max().unwrap();
        assert!(most < 8 * 1_024, "{most} KiB, {own} of them its own");
    }
    keep.ends(1);
}

/// systemd takes the datagrams in a unit with `Type=notify` (sd_notify(3)).
#[test]
fn systemd_is_told_when_the_rooms_stand() {
    let host = &Host::new().unwrap();
    let file = host.dir().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&file).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let heard = || {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let server = shared().start(host).unwrap();
    let variable = ("NOTIFY_SOCKET", file.to_str().unwrap());
    let mut keep = Keep::begun(host, "--port 80", &[variable]);
    assert_eq!(heard(), "READY=1\nSTATUS=keeping 80; 0 gaps so far");
    assert!(listeners(host).len() > 1, "the service and its rooms");
    drop(server);
    let waits = waiting_client(host);
    let _server = shared().start(host).unwrap();
    all_served(&waits.finish().unwrap());
    assert_eq!(heard(), "STATUS=keeping 80; 1 gap so far");
    keep.running.signal(Signal::SIGTERM).unwrap();
    assert_eq!(heard(), "STOPPING=1");
    assert!(keep.running.wait().unwrap().success());
    nothing_is_left(host, 1);
}

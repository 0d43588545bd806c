//! A service that comes back in another SO_REUSEPORT group: on another IP version, a wildcard instead of an address, no
//! device any more. The kernel can't move there who waits, and gives new connections to the rooms as long as these are
//! there. Clients tell that they are not for long.

mod harness;

use std::fmt::Write;
use std::time::Duration;

use harness::keep::{Keep, LONG, monotonic_ms, shared, wait_kept, wait_queued, waiting_client};
use harness::latch::Latch;
use harness::rooms::{GUARD, all_served, figure, listeners, load, nothing_is_left};
use harness::{Call, SOON, call, tell, words};
use nix::sys::signal::Signal;
use testkit::services::{Haproxy, HaproxyConfig, Serve};
use testkit::{Failure, Host, Load, LoadReport, Pair, Running, RunningLoad, wait_until};

const SOCKETS: &str = include_str!("harness/sockets.py");

/// Where a service listens before and after, and what clients ask all the time.
#[derive(Debug, Clone, Copy)]
struct Move {
    before: &'static str,
    after: &'static str,
    /// `after`, as it is told.
    shown: &'static str,
    to: &'static str,
}

const MOVES: [Move; 4] = [
    Move {
        before: r#"{"address": "0.0.0.0"}"#,
        after: r#"{"address": "::", "v6only": 0}"#,
        shown: "[::]:80",
        to: "127.0.0.1:80",
    },
    Move {
        before: r#"{"address": "127.0.0.1"}"#,
        after: r#"{"address": "0.0.0.0"}"#,
        shown: "0.0.0.0:80",
        to: "127.0.0.1:80",
    },
    Move {
        before: r#"{"address": "::", "v6only": 0}"#,
        after: r#"{"address": "::"}"#,
        shown: "[::]:80",
        to: "[::1]:80",
    },
    Move {
        before: r#"{"address": "0.0.0.0", "device": "lo"}"#,
        after: r#"{"address": "0.0.0.0"}"#,
        shown: "0.0.0.0:80",
        to: "127.0.0.1:80",
    },
];

/// The command that starts a service with such a listener in the background, as the one of that name.
fn start(host: &Host, name: &str, listener: &str) -> String {
    let script = host.write("sockets.py", SOCKETS);
    let pids = host.dir().join(name);
    let (script, pids) = (script.display(), pids.display());
    format!("/usr/bin/python3 {script} {pids} '[{listener}]'")
}

fn stop(host: &Host, name: &str) -> String {
    format!("kill $(cat {})", host.dir().join(name).display())
}

fn flowing(host: &Host, to: &str) -> RunningLoad {
    let load = Load::to(to).rate(100).timeout(LONG).duration(LONG);
    let mut load = load.start(host).unwrap();
    load.wait_flowing().unwrap();
    load
}

/// Those that come while nobody listens.
fn begun(host: &Host) -> RunningLoad {
    let load = Load::to("127.0.0.1:80").rate(100).timeout(LONG);
    load.duration(LONG).start(host).unwrap()
}

/// So many clients a hundredth of a second apart, and all are served.
#[track_caller]
fn served(host: &Host, to: &str) {
    let load = Load::to(to).rate(100).timeout(LONG);
    let load = load.duration(Duration::from_millis(300)).start(host);
    all_served(&load.unwrap().finish().unwrap());
}

fn rooms<'a>(host: &'a Host, action: &str) -> Call<'a> {
    let call = call(host, words("--port 80 --drain 0s --syn")).unhurried();
    call.arg(action)
}

/// A COMMAND that stops the service, starts it elsewhere, and goes on, and where that is held.
struct Restart {
    gone: Latch,
    there: Latch,
    script: String,
}

impl Restart {
    fn new(host: &Host, moved: Move) -> Restart {
        let (gone, there) = (Latch::new(host, "gone"), Latch::new(host, "there"));
        let script = [
            &stop(host, "before"),
            &gone.hold(),
            &start(host, "after", moved.after),
            &there.hold(),
        ];
        Restart {
            script: script.map(String::as_str).join("; "),
            gone,
            there,
        }
    }

    fn command(&self) -> [&str; 3] {
        ["sh", "-c", &self.script]
    }

    /// Until clients wait.
    fn await_gap(&self, host: &Host) {
        self.gone.wait();
        wait_queued(host, 10);
    }

    /// The service listens elsewhere, and COMMAND goes on. Returns since when.
    fn comes_back(&mut self) -> f64 {
        self.gone.release();
        self.there.wait();
        monotonic_ms()
    }
}

/// Until the service alone listens. Returns since when.
#[track_caller]
fn await_way(host: &Host) -> f64 {
    let alone = || listeners(host).len() == 1;
    let cleared = wait_until(SOON, "the rooms to be shut", alone);
    cleared.unwrap_or_else(|error| panic!("{error:#}: {:?}", listeners(host)));
    monotonic_ms()
}

fn failed_after(report: &LoadReport, ms: f64) -> Vec<&Failure> {
    let failures = report.failures.iter();
    failures
        .filter(|failure| report.started_ms + failure.due_ms > ms)
        .collect()
}

/// Clients came all the time; some waited as the service came back elsewhere, and were reset.
#[track_caller]
fn only_who_waited_has_failed(report: &LoadReport, came_back: f64, cleared: f64, of: &str) {
    let after = failed_after(report, cleared);
    assert!(after.is_empty(), "{of}: {report}: {after:?}");
    // The test has seen the new listener a moment after it was there.
    let late = failed_after(report, came_back).len() as u64;
    tell(&format!(
        "{of}: {} of {} failed, {late} of them later",
        report.failed(),
        report.sent
    ));
    assert!(report.failed() >= 10, "{of}: {report}");
    assert!(late < report.failed() / 2, "{of}: {late} of {report}");
    assert_eq!(report.timed_out, 0, "{of}: {report}");
}

#[test]
fn new_connections_reach_the_service_while_command_goes_on() {
    std::thread::scope(|threads| {
        for moved in MOVES {
            threads.spawn(move || ["park", "handover"].map(|action| goes_on(moved, action)));
        }
    });
}

fn goes_on(moved: Move, action: &str) {
    let host = &Host::new().unwrap();
    host.must(["sh", "-c", &start(host, "before", moved.before)]);
    let load = flowing(host, moved.to);
    let mut restart = Restart::new(host, moved);
    let call = rooms(host, action);
    let run = call.start(restart.command());
    restart.await_gap(host);
    let came_back = restart.comes_back();
    let cleared = await_way(host);
    served(host, moved.to);
    restart.there.release();
    let outcome = call.end(run);
    let report = load.stop().unwrap();
    let of = format!("{action}, {moved:?}");
    only_who_waited_has_failed(&report, came_back, cleared, &of);
    assert_eq!(outcome.code, 124, "{of}: {outcome:?}");
    let told = format!("the service listens on {} now", moved.shown);
    assert!(outcome.stderr.contains(&told), "{of}: {outcome:?}");
    let reset = figure(&outcome, action, "reset");
    assert!(
        reset >= 10 && reset <= report.failed(),
        "{of}: {outcome:?}: {report}"
    );
    nothing_is_left(host, 1);
    host.must(["sh", "-c", &stop(host, "after")]);
}

/// The guard does that for a run that was killed, or that somebody has stopped.
#[test]
fn the_guard_gives_way_to_the_service() {
    std::thread::scope(|threads| {
        for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
            for action in ["park", "handover"] {
                threads.spawn(move || guarded(signal, action));
            }
        }
    });
}

fn guarded(signal: Signal, action: &str) {
    let (host, moved) = (&Host::new().unwrap(), MOVES[0]);
    host.must(["sh", "-c", &start(host, "before", moved.before)]);
    let load = flowing(host, moved.to);
    let mut restart = Restart::new(host, moved);
    let call = rooms(host, action).args(["--max-closed", "1h"]);
    let mut run = call.start(restart.command());
    restart.await_gap(host);
    run.signal(signal).unwrap();
    let came_back = restart.comes_back();
    let cleared = await_way(host);
    served(host, moved.to);
    let report = load.stop().unwrap();
    let of = format!("{action}, {signal}");
    match signal {
        // A run that hangs is taken for one after 2 s only.
        Signal::SIGSTOP => assert!(failed_after(&report, cleared).is_empty(), "{of}: {report}"),
        _ => only_who_waited_has_failed(&report, came_back, cleared, &of),
    }
    if signal == Signal::SIGSTOP {
        run.signal(Signal::SIGCONT).unwrap();
    }
    restart.there.release();
    run.output().unwrap();
    nothing_is_left(host, 1);
    host.must(["sh", "-c", &stop(host, "after")]);
}

/// The old process of haproxy listens until the new one does. Without syngate nobody notices that.
#[test]
fn a_reload_of_haproxy_to_another_ip_version_costs_next_to_nobody() {
    let mut figures = String::new();
    for action in ["handover", "park"] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let haproxy = Haproxy::debian_init(host, &HaproxyConfig::bind("*:80")).unwrap();
        haproxy.start().unwrap();
        let load = load(&pair, 300);
        haproxy
            .configure(&HaproxyConfig::bind(":::80 v4v6"))
            .unwrap();
        let mut there = Latch::new(host, "there");
        let script = format!("{}; {}", haproxy.reload_argv().join(" "), there.hold());
        let call = rooms(host, action);
        let run = call.start(["sh", "-c", &script]);
        there.wait();
        let rooms_gone = || {
            !listeners(host)
                .iter()
                .any(|line| line.contains("0.0.0.0:80"))
        };
        wait_until(SOON, "the rooms to be shut", rooms_gone).unwrap();
        let cleared = monotonic_ms();
        served(&pair.client, &format!("{}:80", testkit::SERVER));
        there.release();
        let outcome = call.end(run);
        let report = load.stop().unwrap();
        let after = failed_after(&report, cleared);
        assert!(
            after.is_empty(),
            "{action}: {report}: {after:?}: {outcome:?}"
        );
        let lost = report.failed();
        write!(figures, "{action}: {lost} of {} failed; ", report.sent).unwrap();
        // Those that waited are reset, and no others.
        let reset = figure(&outcome, action, "reset");
        assert_eq!(outcome.code, if reset > 0 { 124 } else { 0 }, "{outcome:?}");
        nothing_is_left(host, 1);
    }
    tell(&figures);
}

// Where they wait on ------------------------------------------------------------------------------

/// Other listeners are not in the way of that: one that can't have these connections, and one that was there before.
#[test]
fn they_wait_on_for_a_service_that_is_just_starting() {
    std::thread::scope(|threads| {
        for action in ["park", "handover"] {
            threads.spawn(move || an_address_of_its_own(action));
            threads.spawn(move || there_before(action));
            threads.spawn(move || both_come_back(action));
        }
    });
}

fn an_address_of_its_own(action: &str) {
    let host = &Host::new().unwrap();
    let on =
        |name: &str, address: &str| start(host, name, &format!(r#"{{"address": "{address}"}}"#));
    host.must(["sh", "-c", &on("before", "127.0.0.1")]);
    let mut other = Latch::new(host, "other");
    let script = format!(
        "{}; {}; {}; {}",
        stop(host, "before"),
        on("other", "127.0.0.2"),
        other.hold(),
        on("after", "127.0.0.1")
    );
    let call = rooms(host, action);
    let run = call.start(["sh", "-c", &script]);
    other.wait();
    let load = begun(host);
    served(host, "127.0.0.2:80");
    wait_queued(host, 20);
    other.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{action}: {outcome:?}");
    all_served(&load.stop().unwrap());
    nothing_is_left(host, 2);
    ["other", "after"]
        .iter()
        .for_each(|name| drop(host.must(["sh", "-c", &stop(host, name)])));
}

fn shares(address: &str) -> String {
    format!(r#"{{"address": "{address}", "share": 1}}"#)
}

/// COMMAND stops the service, and starts it `again` later: who comes in between waits, and is served.
fn served_after_a_gap(host: &Host, action: &str, again: &str) {
    let mut gone = Latch::new(host, "gone");
    let script = format!("{}; {}; {again}", stop(host, "before"), gone.hold());
    let call = rooms(host, action);
    let run = call.start(["sh", "-c", &script]);
    gone.wait();
    let load = begun(host);
    wait_queued(host, 20);
    gone.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{action}: {outcome:?}");
    all_served(&load.stop().unwrap());
    nothing_is_left(host, 2);
}

fn there_before(action: &str) {
    let host = &Host::new().unwrap();
    let on = |name: &str, address: &str| start(host, name, &shares(address));
    host.must(["sh", "-c", &on("before", "127.0.0.1")]);
    host.must(["sh", "-c", &on("wildcard", "0.0.0.0")]);
    served_after_a_gap(host, action, &on("after", "127.0.0.1"));
    ["wildcard", "after"]
        .iter()
        .for_each(|name| drop(host.must(["sh", "-c", &stop(host, name)])));
}

/// The wildcard first. It is none of the places that are new.
fn both_come_back(action: &str) {
    let host = &Host::new().unwrap();
    let both = |name: &str| {
        let listeners = format!("{}, {}", shares("0.0.0.0"), shares("127.0.0.1"));
        start(host, name, &listeners)
    };
    host.must(["sh", "-c", &both("before")]);
    served_after_a_gap(host, action, &both("before"));
    host.must(["sh", "-c", &stop(host, "before")]);
}

// syngate keep ------------------------------------------------------------------------------------

fn on_loopback() -> Serve {
    Serve::on("127.0.0.1:80").reuseport()
}

/// Only who waits then is reset. Keep stands beside the new listener after that.
#[test]
fn keep_and_its_guard_give_way() {
    for is_dead in [false, true] {
        let host = &Host::new().unwrap();
        let server = on_loopback().start(host).unwrap();
        let mut keep = Keep::on(host, "--max-wait 1h");
        if is_dead {
            kill(&mut keep.running);
        }
        drop(server);
        let load = begun(host);
        // The guard alone shuts the room some 250 ms after the service is there. Many more have waited by then.
        wait_queued(host, 80);
        let _server = shared().start(host).unwrap();
        let came_back = monotonic_ms();
        let cleared = no_rooms_on_loopback(host);
        served(host, "127.0.0.1:80");
        let report = load.stop().unwrap();
        only_who_waited_has_failed(
            &report,
            came_back,
            cleared,
            &format!("keep, dead: {is_dead}"),
        );
        if is_dead {
            let gone = || !host.sh(&format!("pgrep -x {GUARD}")).unwrap().ok();
            wait_until(SOON, "the end of the guard", gone).unwrap();
            nothing_is_left(host, 1);
        } else {
            keep.says(1, "and the service listens on 0.0.0.0:80 now");
            wait_kept(host);
            keep.ends(1);
        }
    }
}

/// The old process listens until the new one does.
#[test]
fn a_reload_that_ends_elsewhere_is_no_gap_for_keep() {
    let host = &Host::new().unwrap();
    let server = on_loopback().start(host).unwrap();
    let keep = Keep::on(host, "--max-wait 1h");
    let load = flowing(host, "127.0.0.1:80");
    let _new = shared().start(host).unwrap();
    let wildcard_kept = || {
        listeners(host)
            .iter()
            .filter(|line| line.contains("0.0.0.0:80"))
            .count()
            > 1
    };
    wait_until(SOON, "rooms beside the new listener", wildcard_kept).unwrap();
    drop(server);
    let cleared = no_rooms_on_loopback(host);
    served(host, "127.0.0.1:80");
    let report = load.stop().unwrap();
    let after = failed_after(&report, cleared);
    assert!(after.is_empty(), "{report}: {after:?}");
    tell(&format!(
        "a reload beside keep: {} of {} failed",
        report.failed(),
        report.sent
    ));
    keep.ends(1);
}

/// The guard of a dead keep does not know whose that is.
#[test]
fn a_guard_waits_beside_a_listener_that_was_there_before() {
    let host = &Host::new().unwrap();
    let _wildcard = shared().start(host).unwrap();
    let server = on_loopback().start(host).unwrap();
    let mut keep = Keep::on(host, "--max-wait 1h");
    kill(&mut keep.running);
    drop(server);
    let waits = waiting_client(host);
    let _server = on_loopback().start(host).unwrap();
    all_served(&waits.finish().unwrap());
}

#[track_caller]
fn no_rooms_on_loopback(host: &Host) -> f64 {
    let there = || {
        listeners(host)
            .iter()
            .any(|line| line.contains("127.0.0.1:80"))
    };
    wait_until(SOON, "the rooms to be shut", || !there()).unwrap();
    monotonic_ms()
}

fn kill(running: &mut Running) {
    running.signal(Signal::SIGKILL).unwrap();
    running.wait().unwrap();
}

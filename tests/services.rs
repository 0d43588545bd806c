//! Real haproxy and nginx, restarted and reloaded behind the gate, under load from a second host.
//! Beside each the same without syngate, to see that the load finds what the gate prevents.

mod harness;

use std::time::{Duration, Instant};

use harness::{Outcome, call, ms, suite_holds, tell, words};
use testkit::services::{Haproxy, HaproxyConfig, Nginx, NginxConfig, Serve};
use testkit::{Gaps, Host, Load, LoadReport, Pair, RunningLoad, SERVER, slow};

const LONG: Duration = Duration::from_secs(60);

/// The load on port 80 of the server, flowing.
fn load(pair: &Pair, rate: u32) -> RunningLoad {
    let load = Load::to(format!("{SERVER}:80")).rate(rate).duration(LONG);
    let mut load = load.start(&pair.client).unwrap();
    load.wait_flowing().unwrap();
    load
}

/// Runs `step` so often under load.
fn under_load(pair: &Pair, rate: u32, times: usize, mut step: impl FnMut(usize)) -> LoadReport {
    let load = load(pair, rate);
    (0..times).for_each(&mut step);
    load.stop().unwrap()
}

/// One call of syngate, which has to succeed.
#[track_caller]
fn gate(host: &Host, options: &str, command: Vec<String>) -> Outcome {
    let outcome = call(host, words(options)).run(command);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.report["outcome"], "ok", "{outcome:?}");
    outcome
}

/// The same so often under load: what the clients saw, and how long the gate was closed in all.
fn gated(
    pair: &Pair,
    rate: u32,
    times: usize,
    options: &str,
    mut command: impl FnMut(usize) -> Vec<String>,
) -> (LoadReport, f64) {
    let mut closed_ms = 0.0;
    let report = under_load(pair, rate, times, |n| {
        let outcome = gate(&pair.server, options, command(n));
        closed_ms += ms(&outcome.report, "closed_ms");
    });
    show("syngate", &report, closed_ms);
    (report, closed_ms)
}

#[allow(clippy::disallowed_macros)] // figures, for a run by hand
fn show(way: &str, report: &LoadReport, closed_ms: f64) {
    eprintln!("{way}: {report}; closed {closed_ms:.0} ms in all");
}

/// Nobody failed, and no more were delayed than the closed gate explains; those that the client
/// began too late, on a machine that could not keep up, may all be among them.
#[track_caller]
fn assert_unnoticed(pair: &Pair, report: &LoadReport, closed_ms: f64, rate: u32) {
    if report.failed() > 0 {
        tell(&pair.server.must(["nstat", "-a"])); // which of the kernel's ways it was
    }
    assert_eq!(report.failed(), 0, "{report}");
    if suite_holds() {
        let sent_again = pair.client.tcp_counter("TCPSynRetrans").unwrap();
        let held_long = report.connect.max_ms >= 1_000.0;
        assert!(sent_again == 0 || held_long, "{report}: {sent_again}");
    }
    let rate = f64::from(rate) / f64::from(slow());
    let explained = 1.3 * rate * closed_ms / 1e3 + 10.0 + report.late as f64;
    assert!(
        report.delayed as f64 <= explained,
        "{report}: at most {explained:.0} delayed"
    );
}

fn haproxy(pair: &Pair) -> Haproxy<'_> {
    let haproxy = Haproxy::debian_init(&pair.server, &HaproxyConfig::port(80)).unwrap();
    haproxy.start().unwrap();
    haproxy
}

/// 1,000 fresh connections a second for 12 s, with a restart every 2.4 s.
#[test]
fn haproxy_restart() {
    let pair = Pair::steered_by_flow().unwrap();
    let haproxy = haproxy(&pair);
    let began = Instant::now();
    // Delayed connections of the last restart are back, and must not fail in the next one.
    let at = |n: usize| Duration::from_millis(2_400) * slow() * n as u32;
    let running = load(&pair, 1_000);
    let mut closed_ms = 0.0;
    for n in 0..5 {
        std::thread::sleep(at(n).saturating_sub(began.elapsed()));
        let outcome = gate(&pair.server, "--port 80", haproxy.restart_argv());
        closed_ms += ms(&outcome.report, "closed_ms");
    }
    std::thread::sleep(at(5).saturating_sub(began.elapsed()));
    let report = running.stop().unwrap();
    show("syngate", &report, closed_ms);
    assert_unnoticed(&pair, &report, closed_ms, 1_000);

    let bare = under_load(&pair, 1_000, 2, |_| haproxy.restart().unwrap());
    show("bare", &bare, 0.0);
    assert!(bare.refused > 0, "the control has to fail: {bare}");

    // The folk recipe fails nobody, and delays everybody who comes in more than a second.
    let recipe = under_load(&pair, 1_000, 1, |_| folk_recipe(&pair.server, &haproxy));
    show("folk recipe", &recipe, 0.0);
    assert_eq!(recipe.failed(), 0, "{recipe}");
    assert!(
        report.delayed / 5 < recipe.delayed / 2,
        "{report} against {recipe}"
    );
}

/// `iptables -I … --syn -j DROP; sleep 1; restart; iptables -D …`, by nft.
fn folk_recipe(host: &Host, haproxy: &Haproxy) {
    let rules = "add table inet folk; \
        add chain inet folk in { type filter hook input priority 0; }; \
        add rule inet folk in tcp dport 80 tcp flags & (fin|syn|rst|ack) == syn drop";
    host.must(["nft", rules]);
    host.must(["sleep", &slow().to_string()]); // one second, the recipe says
    haproxy.restart().unwrap();
    host.must(["nft", "delete table inet folk"]);
}

/// Bare, folk recipe, drop and hold, side by side; `make test-long` restarts 20 times in each way.
#[test]
fn a_held_client_waits_no_longer_than_the_gate_is_closed() {
    let times: usize = std::env::var("SYNGATE_RESTARTS").map_or(3, |n| n.parse().unwrap());
    let others = if times < 20 { 1 } else { times };
    let pair = Pair::steered_by_flow().unwrap();
    let haproxy = haproxy(&pair);
    let bare = spaced(&pair, others, || haproxy.restart().unwrap());
    let recipe = spaced(&pair, others, || folk_recipe(&pair.server, &haproxy));
    let drop = spaced(&pair, others, || {
        gate(&pair.server, "--port 80 --syn drop", haproxy.restart_argv());
    });

    let gaps = Gaps::start(&pair.server, 80).unwrap();
    let (mut drain_ms, mut held, mut copies) = (0.0_f64, 0, 0);
    let hold = spaced(&pair, times, || {
        let outcome = gate(&pair.server, "--port 80 --syn hold", haproxy.restart_argv());
        drain_ms = drain_ms.max(ms(&outcome.report["phases"], "drain_ms"));
        let hold = &outcome.report["hold"];
        held += hold["held"].as_u64().unwrap();
        copies += hold["duplicates"].as_u64().unwrap();
        assert_eq!(hold["released"], hold["held"], "{outcome:?}");
    });
    let gaps = gaps.stop().unwrap();
    assert_eq!(gaps.gaps_ms.len(), times, "{gaps:?}");

    for (way, report) in [
        ("bare", &bare),
        ("folk", &recipe),
        ("drop", &drop),
        ("hold", &hold),
    ] {
        show(way, report, 0.0);
    }
    assert!(bare.failed() > 0, "the control has to fail: {bare}");
    for report in [&recipe, &drop] {
        assert_eq!(report.failed(), 0, "{report}");
        assert!(report.delayed > 0, "{report}");
    }
    assert_eq!((hold.failed(), hold.delayed), (0, 0), "{hold}");
    assert!(held > 0 && copies == 0, "{held} held, {copies} copies");
    let gap_ms = gaps.gaps_ms.iter().copied().fold(0.0, f64::max);
    let calm_ms = calm(&hold);
    tell(&format!(
        "worst connect {:.1} ms; longest gap {gap_ms:.1}, drain {drain_ms:.1}, calm {calm_ms:.1} ms",
        hold.connect.max_ms
    ));
    // What COMMAND does before and after; twice as much where other tests run beside.
    let around_ms = if times < 20 { 50.0 } else { 25.0 };
    let most = gap_ms + drain_ms + around_ms * f64::from(slow()) + calm_ms;
    assert!(hold.connect.max_ms <= most, "{hold}: at most {most:.1} ms");
}

/// A load is calm for so long before the first restart, and for as long between two.
const CALM: Duration = Duration::from_secs(1);

/// So many restarts under one load, far enough apart that none meets what the last has delayed.
fn spaced(pair: &Pair, times: usize, mut restart: impl FnMut()) -> LoadReport {
    under_load(pair, 1_000, times, |_| {
        std::thread::sleep(CALM * slow());
        restart();
    })
}

/// The worst connect before the first restart, in ms.
fn calm(report: &LoadReport) -> f64 {
    let bins = (CALM * slow()).as_millis() as usize / 10;
    let calm = report.timeline_ms.iter().take(bins);
    calm.copied().fold(0.0, f64::max)
}

#[test]
fn haproxy_restart_is_seen_by_ipv6_clients_neither() {
    let pair = Pair::steered_by_flow().unwrap();
    let haproxy = haproxy(&pair);
    let load = |_: &Pair| {
        let load = Load::to(format!("[{}]:80", testkit::SERVER6))
            .rate(500)
            .duration(LONG);
        let mut load = load.start(&pair.client).unwrap();
        load.wait_flowing().unwrap();
        load
    };
    let running = load(&pair);
    let outcome = gate(&pair.server, "--port 80", haproxy.restart_argv());
    let report = running.stop().unwrap();
    assert_unnoticed(&pair, &report, ms(&outcome.report, "closed_ms"), 500);

    let running = load(&pair);
    haproxy.restart().unwrap();
    let bare = running.stop().unwrap();
    assert!(bare.refused > 0, "{bare}");
}

/// There is no control that is sure to fail: `haproxy -sf` hands over nearly whole by itself.
#[test]
fn haproxy_reload() {
    let pair = Pair::steered_by_flow().unwrap();
    let haproxy = haproxy(&pair);
    let options = "--port 80 --drain-until handshakes";
    let (report, closed_ms) = gated(&pair, 1_000, 5, options, |_| haproxy.reload_argv());
    assert_unnoticed(&pair, &report, closed_ms, 1_000);
}

fn nginx<'a>(pair: &'a Pair, config: &NginxConfig) -> Nginx<'a> {
    let nginx = Nginx::new(&pair.server, config).unwrap();
    nginx.start().unwrap();
    nginx
}

#[test]
fn nginx_restart() {
    let pair = Pair::steered_by_flow().unwrap();
    let nginx = nginx(&pair, &NginxConfig::default());
    let (report, closed_ms) = gated(&pair, 1_000, 5, "--port 80", |_| nginx.restart_argv());
    assert_unnoticed(&pair, &report, closed_ms, 1_000);

    let bare = under_load(&pair, 2_000, 5, |_| nginx.restart().unwrap());
    assert!(bare.failed() > 0, "the control has to fail: {bare}");
}

/// There is no control that fails: with one shared socket nginx hands over whole by itself.
#[test]
fn nginx_reload() {
    let pair = Pair::steered_by_flow().unwrap();
    let nginx = nginx(&pair, &NginxConfig::default());
    let options = "--port 80 --drain-until handshakes";
    let (report, closed_ms) = gated(&pair, 1_000, 5, options, |_| nginx.reload_argv());
    assert_unnoticed(&pair, &report, closed_ms, 1_000);
}

/// Closing a listener of a SO_REUSEPORT group resets what is in its accept queue.
#[test]
fn nginx_reload_with_reuseport_and_fewer_workers() {
    let pair = Pair::steered_by_flow().unwrap();
    let config = |workers| NginxConfig {
        workers,
        reuseport: true,
        ..NginxConfig::default()
    };
    let nginx = nginx(&pair, &config(4));
    let options = "--port 80 --drain-until handshakes";
    let workers = |n: usize| if n.is_multiple_of(2) { 2 } else { 4 };
    let (report, closed_ms) = gated(&pair, 3_000, 4, options, |n| {
        nginx.configure(&config(workers(n))).unwrap();
        nginx.reload_argv()
    });
    assert_unnoticed(&pair, &report, closed_ms, 3_000);

    // Some of these reloads cut somebody off, not each of them.
    let mut failed = 0;
    for n in 0..MANY {
        if failed > 0 {
            break;
        }
        let bare = under_load(&pair, 3_000, 4, |m| {
            nginx.configure(&config(workers(n + m))).unwrap();
            nginx.reload().unwrap();
            wait_for_listeners(&pair.server, workers(n + m));
        });
        failed += bare.failed();
    }
    assert!(failed > 0, "the control has to fail");
}

/// How often a control is tried that fails sometimes.
const MANY: usize = 40;

fn wait_for_listeners(host: &Host, count: u32) {
    let listeners = || {
        host.must(["ss", "-Hltn4", "sport", "=", ":80"])
            .lines()
            .count()
    };
    testkit::wait_until(harness::SOON, "listeners", || listeners() == count as usize).unwrap();
}

/// haproxy before a backend that takes 250 ms: a hard restart cuts what is in flight, also where it takes a
/// while to begin.
#[test]
fn requests_in_flight_are_let_finish() {
    let pair = Pair::steered_by_flow().unwrap();
    let slow = Serve::on("127.0.0.1:8080").delay(Duration::from_millis(250));
    let _backend = slow.start(&pair.server).unwrap();
    let config = HaproxyConfig::port(80).backend("127.0.0.1:8080");
    let haproxy = Haproxy::debian_init(&pair.server, &config).unwrap();
    haproxy.start().unwrap();
    let (report, closed_ms) = gated(&pair, 300, 3, "--port 80", |_| haproxy.restart_argv());
    assert_unnoticed(&pair, &report, closed_ms, 300);

    let handshakes = "--port 80 --drain-until handshakes";
    let (control, _) = gated(&pair, 300, 3, handshakes, |_| haproxy.restart_argv());
    assert!(control.cut > 0, "the control has to cut some: {control}");
}

/// 200 accepts a second, and about 100 connections in the accept queue when the gate closes.
#[test]
fn an_accept_queue_is_let_drain() {
    let slow = Serve::on("0.0.0.0:80").accept_rate(200).greeting();
    let burst = |drain: &str| {
        let pair = Pair::steered_by_flow().unwrap();
        let server = slow.start_daemon(&pair.server).unwrap();
        let load = Load::to(format!("{SERVER}:80"))
            .greeting()
            .rate(2_000)
            .duration(Duration::from_millis(70));
        let load = load.start(&pair.client).unwrap();
        wait_for_queue(&pair.server, 100);
        let options = format!("--port 80 --drain {drain} --settle 0s");
        let outcome = gate(&pair.server, &options, server.restart_argv());
        let report = load.finish().unwrap();
        show(drain, &report, ms(&outcome.report, "closed_ms"));
        report
    };
    let drained = burst(&format!("{}s", 2 * testkit::slow()));
    assert_eq!(drained.failed(), 0, "{drained}");
    let control = burst("0");
    assert!(
        control.reset > 0,
        "the control has to reset some: {control}"
    );
}

fn wait_for_queue(host: &Host, length: u32) {
    testkit::wait_until(harness::SOON, "a full accept queue", || {
        let listeners = host.must(["ss", "-Hltn", "sport", "=", ":80"]);
        let queue = listeners.split_whitespace().nth(1);
        queue.is_some_and(|n| n.parse::<u32>().unwrap() >= length)
    })
    .unwrap();
}

/// A scanner leaves half-open connections behind all the time: they are not waited for.
#[test]
fn scanners_do_not_hold_the_drain_up() {
    let pair = Pair::steered_by_flow().unwrap();
    let haproxy = haproxy(&pair);
    let _scan = testkit::Scan::start(&pair.client, &format!("{SERVER}:80"), 50).unwrap();
    let half_open = || {
        let rows = pair.server.must(["ss", "-Htn", "state", "syn-recv"]);
        rows.lines().count()
    };
    // Among them are some that are as old as a second.
    testkit::wait_until(harness::SOON, "half-open connections", || half_open() >= 60).unwrap();
    let outcome = gate(&pair.server, "--port 80", haproxy.restart_argv());
    let drain_ms = ms(&outcome.report["phases"], "drain_ms");
    assert!(drain_ms < 350.0, "{drain_ms} ms");
    let stale = outcome.report["stale_half_open"].as_u64().unwrap();
    assert!(stale > 0, "they were seen: {:#}", outcome.report);
}

/// A round trip of 600 ms: nobody is reset, whether there are scanners too or not.
#[test]
fn clients_far_away_finish_their_handshakes() {
    let pair = Pair::steered_by_flow().unwrap();
    let haproxy = haproxy(&pair);
    let half_open = || {
        let rows = pair.server.must(["ss", "-Htn", "state", "syn-recv"]);
        rows.lines().count()
    };
    let far = testkit::Delay::start(&pair.client, Duration::from_millis(600)).unwrap();
    let running = load(&pair, 100);
    let outcome = gate(&pair.server, "--port 80 --drain 2s", haproxy.restart_argv());
    assert_eq!(outcome.report["drain_left"]["handshakes"], 0);

    let _scan = testkit::Scan::start(&pair.client, &format!("{SERVER}:80"), 50).unwrap();
    testkit::wait_until(harness::SOON, "half-open connections", || {
        half_open() >= 130
    })
    .unwrap();
    let scanned = gate(&pair.server, "--port 80 --drain 2s", haproxy.restart_argv());
    let drain_ms = ms(&scanned.report["phases"], "drain_ms");
    assert!(drain_ms < 1_050.0, "{drain_ms} ms");
    let stale = scanned.report["stale_half_open"].as_u64().unwrap();
    assert!(stale > 0, "they were seen: {:#}", scanned.report);
    let report = running.stop().unwrap();
    assert_eq!(report.failed(), 0, "{report}");
    far.stop().unwrap();
}

/// A handshake that was answered with a SYN cookie leaves no trace until it is complete: while
/// cookies are sent, the drain waits for them.
#[test]
fn syn_cookies_prolong_the_drain() {
    let pair = Pair::steered_by_flow().unwrap();
    let haproxy = haproxy(&pair);
    let drain_ms = |outcome: &Outcome| ms(&outcome.report["phases"], "drain_ms");
    let cookies = |how: &str| {
        let setting = format!("net.ipv4.tcp_syncookies={how}");
        pair.server.must(["sysctl", "-w", &setting]);
    };

    cookies("2"); // always
    let running = load(&pair, 500);
    let sending = gate(&pair.server, "--port 80", haproxy.restart_argv());
    let report = running.stop().unwrap();
    assert_unnoticed(&pair, &report, ms(&sending.report, "closed_ms"), 500);
    assert!(drain_ms(&sending) >= 300.0, "{}", drain_ms(&sending));
    // Nor are those who come meanwhile a reason to keep the others back.
    let hold = &sending.report["hold"];
    assert!(!suite_holds() || hold["release_stalled"] == false, "{hold}");

    // That it once did is no reason to wait.
    cookies("1");
    let quiet = gate(&pair.server, "--port 80", haproxy.restart_argv());
    assert!(drain_ms(&quiet) < 200.0, "{}", drain_ms(&quiet));
}

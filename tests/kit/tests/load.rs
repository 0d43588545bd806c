//! The load client tells apart what servers do to clients.

use std::{
    fs,
    io::Read,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::sys::signal::Signal;
use testkit::{
    Fate, Flood, Hold, Load, LoadReport, Pair, Running, SERVER, Scan,
    services::{Haproxy, HaproxyConfig, Nginx, NginxConfig, Serve},
    wait_until,
};

const SOON: Duration = Duration::from_secs(5);
const RATE: u32 = 200;
/// What [`load`] makes.
const COUNT: u64 = 40;

/// Forty requests within 200 ms.
fn load() -> Load {
    Load::to(format!("{SERVER}:80"))
        .rate(RATE)
        .duration(Duration::from_millis(200))
        .timeout(Duration::from_secs(2))
}

/// All forty have failed in this way only.
#[track_caller]
fn all_failed(report: &LoadReport, fate: Fate, count: u64) {
    assert_eq!((report.sent, report.ok), (COUNT, 0), "{report}");
    assert_eq!((report.failed(), count), (COUNT, COUNT), "{report}");
    assert_eq!(report.failures.len() as u64, COUNT);
    assert!(report.failures.iter().all(|f| f.kind == fate), "{report}");
}

#[test]
fn answered() -> Result<()> {
    let pair = Pair::new()?;
    let _server = Serve::on("0.0.0.0:80").start(&pair.server)?;
    let mut load = load().start(&pair.client)?;
    load.wait_flowing()?;
    let report = load.finish()?;
    assert_eq!((report.sent, report.ok, report.failed()), (COUNT, COUNT, 0));
    assert_eq!(report.connects, COUNT);
    assert_eq!(report.delayed, 0, "{report}");
    assert!(report.connect.min_ms > 0.0, "{report}");
    assert!(report.connect.max_ms <= report.total.max_ms, "{report}");
    assert!(
        report.timeline_ms.len() <= 20 * testkit::slow() as usize,
        "{report}"
    );
    assert!(
        report.timeline_ms.contains(&report.connect.max_ms),
        "{report}"
    );
    Ok(())
}

#[test]
fn refused() -> Result<()> {
    let pair = Pair::new()?;
    let mut load = load().start(&pair.client)?;
    assert!(load.wait_flowing().is_err());
    let pair = Pair::new()?;
    let report = self::load().start(&pair.client)?.finish()?;
    all_failed(&report, Fate::Refused, report.refused);
    Ok(())
}

#[test]
fn reset_before_accept() -> Result<()> {
    let pair = Pair::new()?;
    // One is accepted; the others wait in the queue until the server dies.
    let server = Serve::on("0.0.0.0:80").greeting().cut().delay(SOON);
    let mut server = server.accept_rate(1).start(&pair.server)?;
    let load = load().greeting().start(&pair.client)?;
    let queued = || pair.server.must(["ss", "-Htn", "state", "established"]);
    wait_until(SOON, "all to be connected", || {
        queued().lines().count() as u64 == COUNT
    })?;
    server.signal(Signal::SIGTERM)?;
    let report = load.finish()?;
    assert_eq!(report.failed(), COUNT, "{report}");
    // Without a request in it, an accepted connection is closed, not reset.
    assert!(report.cut <= 1 && report.reset >= COUNT - 1, "{report}");
    Ok(())
}

#[test]
fn cut_midway() -> Result<()> {
    let pair = Pair::new()?;
    let _server = Serve::on("0.0.0.0:80").cut().start(&pair.server)?;
    let report = load().start(&pair.client)?.finish()?;
    all_failed(&report, Fate::Cut, report.cut);
    Ok(())
}

#[test]
fn cut_before_the_answer() -> Result<()> {
    let pair = Pair::new()?;
    let mut server = Serve::on("0.0.0.0:80").delay(SOON).start(&pair.server)?;
    let load = load().start(&pair.client)?;
    let asked = || pair.server.must(["ss", "-Htn", "state", "established"]);
    wait_until(SOON, "all to be connected", || {
        asked().lines().count() as u64 == COUNT
    })?;
    server.signal(Signal::SIGKILL)?;
    let report = load.finish()?;
    all_failed(&report, Fate::Cut, report.cut);
    Ok(())
}

#[test]
fn timed_out_while_connecting() -> Result<()> {
    let pair = Pair::new()?;
    let rules = "table inet hole { chain in { type filter hook input priority 0;
                 tcp dport 80 drop; }; }";
    pair.server.must(["nft", rules]);
    let report = load()
        .timeout(Duration::from_millis(300))
        .start(&pair.client)?
        .finish()?;
    all_failed(&report, Fate::TimedOut, report.timed_out);
    let detail = &report.failures[0].detail;
    assert!(detail.starts_with("connecting, 0 bytes"), "{detail}");
    assert!(detail.contains("from 10.77.0.2:"), "{detail}");
    assert!(detail.ends_with("connected never"), "{detail}");
    Ok(())
}

#[test]
fn timed_out_while_waiting() -> Result<()> {
    let pair = Pair::new()?;
    let _server = Serve::on("0.0.0.0:80").delay(SOON).start(&pair.server)?;
    let report = load()
        .timeout(Duration::from_millis(300))
        .start(&pair.client)?
        .finish()?;
    all_failed(&report, Fate::TimedOut, report.timed_out);
    let detail = &report.failures[0].detail;
    assert!(
        detail.starts_with("waiting for the answer, 0 bytes"),
        "{detail}"
    );
    assert!(!detail.ends_with("never"), "{detail}");
    Ok(())
}

#[test]
fn delayed() -> Result<()> {
    let pair = Pair::new()?;
    let slow = Serve::on("0.0.0.0:80").delay(Duration::from_millis(950));
    let _server = slow.start(&pair.server)?;
    let report = load().start(&pair.client)?.finish()?;
    assert_eq!((report.ok, report.delayed), (COUNT, COUNT), "{report}");
    assert!(report.connect.max_ms < 900.0, "{report}");
    Ok(())
}

#[test]
fn too_slow_a_client_is_reported() -> Result<()> {
    let pair = Pair::new()?;
    let _server = Serve::on("0.0.0.0:80").start(&pair.server)?;
    // No thread makes a million connections a second. `times` tells what it has cost.
    let words = format!("load --to {SERVER}:80 --rate 1000000 --for 10ms");
    let ran = pair
        .client
        .sh(&format!("{} {words} && times", testkit::bin()?.display()))?;
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let [.., report, _, times] = lines[..] else {
        panic!("{ran:?}");
    };
    let report: LoadReport = serde_json::from_str(report)?;
    assert_eq!((report.sent, report.connects), (10_000, 10_000), "{report}");
    assert!(report.late > report.sent / 2, "{report}");

    let used: f64 = times.split_whitespace().map(times_ms).sum();
    // It has ended only after its report.
    assert!(report.cpu_ms > 0.5 * used, "{used} {report}");
    // Both of its numbers are in whole ticks of 10 ms.
    assert!(report.cpu_ms < used + 21.0, "{used} {report}");
    assert!(report.elapsed_ms >= 10.0, "{report}");
    Ok(())
}

/// Of the shell's `1m2.34s`.
fn times_ms(text: &str) -> f64 {
    let (minutes, seconds) = text.split_once('m').unwrap();
    let seconds: f64 = seconds.trim_end_matches('s').parse().unwrap();
    (minutes.parse::<f64>().unwrap() * 60.0 + seconds) * 1e3
}

/// Four connections, kept.
const KEPT: u64 = 4;

/// How many connections a server has accepted, by its log.
fn accepts(log: &Path) -> u64 {
    fs::read_to_string(log).unwrap().lines().count() as u64
}

/// The load was answered over [`KEPT`] connections.
#[track_caller]
fn kept(report: &LoadReport) {
    assert_eq!((report.sent, report.ok), (COUNT, COUNT), "{report}");
    assert_eq!((report.failed(), report.connects), (0, KEPT), "{report}");
}

#[test]
fn few_connections_for_many_requests() -> Result<()> {
    let pair = Pair::new()?;
    let log = pair.server.dir().join("accepts");
    let serve = Serve::on("0.0.0.0:80").keep_alive().log_accepts(&log);
    let _server = serve.start(&pair.server)?;
    let mut load = load().keep_alive(KEPT as u32).start(&pair.client)?;
    load.wait_flowing()?;
    let report = load.finish()?;
    kept(&report);
    assert_eq!(accepts(&log), KEPT);

    // Who asks to close is let go by the same server.
    let report = self::load().start(&pair.client)?.finish()?;
    assert_eq!((report.ok, report.connects), (COUNT, COUNT), "{report}");
    assert_eq!(accepts(&log), KEPT + COUNT);
    Ok(())
}

#[test]
fn kept_connections_to_real_servers() -> Result<()> {
    let pair = Pair::new()?;
    let load = |port| {
        Load::to(format!("{SERVER}:{port}"))
            .rate(RATE)
            .duration(Duration::from_millis(200))
            .keep_alive(KEPT as u32)
    };
    // Counted by the kernel, not by the client.
    let opened = |pair: &Pair| pair.server.tcp_counter("PassiveOpens");
    let haproxy = Haproxy::debian_init(&pair.server, &HaproxyConfig::port(80))?;
    haproxy.start()?;
    let before = opened(&pair)?;
    kept(&load(80).start(&pair.client)?.finish()?);
    assert_eq!(opened(&pair)?, before + KEPT);

    let port = 8080;
    let config = NginxConfig {
        port,
        ..NginxConfig::default()
    };
    let nginx = Nginx::new(&pair.server, &config)?;
    nginx.start()?;
    let before = opened(&pair)?;
    kept(&load(port).start(&pair.client)?.finish()?);
    assert_eq!(opened(&pair)?, before + KEPT);

    // The fifth answer on each connection says `Connection: close`. A request goes to any
    // connection that is idle, so the last one of each may have answered fewer.
    let http = "keepalive_requests 5;".to_owned();
    nginx.configure(&NginxConfig { http, ..config })?;
    nginx.restart()?;
    let before = opened(&pair)?;
    let report = load(port).start(&pair.client)?.finish()?;
    assert_eq!((report.ok, report.failed()), (COUNT, 0), "{report}");
    let fewest = COUNT / 5;
    assert!(
        (fewest..fewest + KEPT).contains(&report.connects),
        "{report}"
    );
    assert_eq!(opened(&pair)?, before + report.connects, "{report}");
    nginx.stop()
}

#[test]
fn a_server_that_closes_each_connection_fails_nobody() -> Result<()> {
    let pair = Pair::new()?;
    let _server = Serve::on("0.0.0.0:80").start(&pair.server)?;
    let load = load().keep_alive(KEPT as u32).start(&pair.client)?;
    let report = load.finish()?;
    assert_eq!((report.ok, report.failed()), (COUNT, 0), "{report}");
    assert_eq!(report.connects, COUNT, "{report}");
    Ok(())
}

#[test]
fn a_connection_closed_while_idle_fails_nobody() -> Result<()> {
    let pair = Pair::new()?;
    let serve = Serve::on("0.0.0.0:80").keep_alive();
    let mut server = serve.start(&pair.server)?;
    // For most of the half seconds between two requests, the connection is idle.
    let load = Load::to(format!("{SERVER}:80")).rate(2).keep_alive(1);
    let load = load.duration(Duration::from_millis(1500));
    let mut load = load.start(&pair.client)?;
    load.wait_flowing()?;
    server.signal(Signal::SIGKILL)?;
    server.wait()?;
    let _server = serve.start(&pair.server)?;
    let report = load.finish()?;
    assert!(report.sent >= 3, "{report}");
    assert_eq!((report.ok, report.failed()), (report.sent, 0), "{report}");
    assert_eq!(report.connects, 2, "{report}");
    Ok(())
}

/// Answers one request on each connection, and sends one byte more when the answer has been read.
const TALKATIVE: &str = "
import socket, time
listener = socket.create_server(('0.0.0.0', 80))
while True:
    client, _ = listener.accept()
    client.recv(1000)
    client.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n')
    time.sleep(0.05)
    client.sendall(b'x')
    client.recv(1000)
";

#[test]
fn what_comes_unasked_fails_the_next() -> Result<()> {
    let pair = Pair::new()?;
    let mut command = pair.server.command("python3");
    let _server = pair.server.spawn(command.args(["-c", TALKATIVE]))?;
    pair.server.wait_listen(80)?;
    let load = Load::to(format!("{SERVER}:80")).rate(4).keep_alive(1);
    let load = load.duration(Duration::from_secs(1));
    let report = load.start(&pair.client)?.finish()?;
    assert_eq!(report.other, report.sent / 2, "{report}");
    assert_eq!(report.ok, report.sent - report.other, "{report}");
    assert_eq!(report.connects, report.ok, "{report}");
    assert_eq!(report.failures[0].detail, "1 bytes came unasked");
    Ok(())
}

#[test]
fn kept_connections_break_with_the_server() -> Result<()> {
    let pair = Pair::new()?;
    let log = pair.server.dir().join("accepts");
    let serve = Serve::on("0.0.0.0:80").keep_alive().log_accepts(&log);
    // That is 80 answers a second: all connections are always busy.
    let serve = serve.delay(Duration::from_millis(50));
    let mut server = serve.start(&pair.server)?;
    let load = Load::to(format!("{SERVER}:80")).keep_alive(KEPT as u32);
    let mut load = load
        .rate(RATE * testkit::slow())
        .duration(Duration::from_secs(60))
        .start(&pair.client)?;
    load.wait_flowing()?;
    server.signal(Signal::SIGKILL)?;
    server.wait()?;
    let _server = serve.start(&pair.server)?;
    wait_until(SOON, "all to be connected again", || {
        accepts(&log) >= 2 * KEPT
    })?;
    let report = load.stop()?;
    // Each was broken before a byte of its answer, and sent once more. The connections were closed one
    // after the other, then the listener: some connected again, in vain, and some were refused.
    assert!(report.resent >= 1 && report.resent <= KEPT, "{report}");
    let expected = report.cut + report.reset + report.refused;
    assert_eq!(report.failed(), expected, "{report}");
    assert!(report.failed() >= 1, "{report}");
    assert_eq!(report.sent, report.ok + report.failed(), "{report}");
    let opened = pair.client.tcp_counter("ActiveOpens")?;
    assert_eq!(report.connects, opened, "{report}");
    Ok(())
}

#[test]
fn requests_on_kept_connections_are_cut() -> Result<()> {
    let pair = Pair::new()?;
    let serve = Serve::on("0.0.0.0:80").keep_alive();
    let mut server = serve.delay(SOON).start(&pair.server)?;
    let load = load().keep_alive(COUNT as u32).start(&pair.client)?;
    let asked = || pair.server.must(["ss", "-Htn", "state", "established"]);
    wait_until(SOON, "all to be connected", || {
        asked().lines().count() as u64 == COUNT
    })?;
    server.signal(Signal::SIGKILL)?;
    let report = load.finish()?;
    all_failed(&report, Fate::Cut, report.cut);
    Ok(())
}

#[test]
fn slow_answers_make_others_wait_in_line() -> Result<()> {
    let pair = Pair::new()?;
    let serve = Serve::on("0.0.0.0:80").keep_alive();
    let serve = serve.delay(Duration::from_millis(50));
    let _server = serve.start(&pair.server)?;
    let report = load().keep_alive(2).start(&pair.client)?.finish()?;
    assert_eq!((report.ok, report.failed()), (COUNT, 0), "{report}");
    assert_eq!(report.connects, 2, "{report}");
    // The client is not to blame: it was there when they were due.
    assert!(report.late < COUNT / 2, "{report}");
    // Twenty each, one after the other, and the last was due after 195 ms.
    let all = f64::from(20 * 50);
    let last_due = 195.0 * f64::from(testkit::slow());
    assert!(report.total.max_ms >= all - last_due, "{report}");
    assert!(report.total.min_ms >= 50.0, "{report}");
    assert!(report.elapsed_ms >= all, "{report}");
    Ok(())
}

#[test]
fn nobody_waits_in_line_for_longer_than_the_timeout() -> Result<()> {
    let pair = Pair::new()?;
    let serve = Serve::on("0.0.0.0:80").keep_alive();
    let _server = serve.delay(SOON).start(&pair.server)?;
    let load = load().timeout(Duration::from_millis(300)).keep_alive(1);
    let report = load.start(&pair.client)?.finish()?;
    all_failed(&report, Fate::TimedOut, report.timed_out);
    let (first, others) = report.failures.split_first().unwrap();
    assert!(
        first.detail.starts_with("waiting for the answer, "),
        "{first:?}"
    );
    let in_line = others
        .iter()
        .filter(|f| f.detail == "waiting for a connection");
    assert!(in_line.count() > 0, "{report}");
    Ok(())
}

/// Starts it behind systemd-socket-activate, which listens on port 80.
fn activated(pair: &Pair, serve: &Serve) -> Result<Running> {
    let mut command = pair.server.command("systemd-socket-activate");
    command.args(["--listen", "0.0.0.0:80"]).args(serve.argv()?);
    let server = pair.server.spawn(command.stdout(Stdio::null()))?;
    pair.server.wait_listen(80)?;
    Ok(server)
}

#[test]
fn a_server_inherits_its_sockets() -> Result<()> {
    let pair = Pair::new()?;
    let log = pair.server.dir().join("accepts");
    let serve = Serve::inherited().log_accepts(&log);
    let listener = || pair.server.must(["ss", "-Htlne"]);
    let cookie = |row: String| {
        let mut words = row.split_whitespace().map(str::to_owned);
        words.find(|word| word.starts_with("sk:")).unwrap()
    };
    let mut server = activated(&pair, &serve)?;
    // It is started by the first connection, and the socket is still the same.
    let before = cookie(listener());
    let report = load().start(&pair.client)?.finish()?;
    assert_eq!((report.ok, report.failed()), (COUNT, 0), "{report}");
    assert_eq!(accepts(&log), COUNT);
    assert_eq!(cookie(listener()), before);
    let name = fs::read_to_string(format!("/proc/{}/comm", server.pid()?))?;
    assert_eq!(name, "testkit\n");
    Ok(())
}

#[test]
fn sockets_for_someone_else_are_not_inherited() -> Result<()> {
    let pair = Pair::new()?;
    let serve = Serve::inherited().argv()?.join(" ");
    let said = |environment: &str| {
        let ran = pair.server.sh(&format!("{environment} exec {serve}"));
        let ran = ran.unwrap();
        assert!(!ran.ok(), "{ran:?}");
        ran.stderr
    };
    for (environment, says) in [
        ("", "name no socket for us"),
        ("LISTEN_PID=1 LISTEN_FDS=1", "name no socket for us"),
        ("LISTEN_PID=$$ LISTEN_FDS=0", "name no socket for us"),
        ("LISTEN_PID=$$ LISTEN_FDS=1", "socket 0 of LISTEN_FDS"),
        (
            "LISTEN_PID=$$ LISTEN_FDS=1 3</dev/null",
            "socket 0 of LISTEN_FDS",
        ),
    ] {
        let said = said(environment);
        assert!(said.contains(says), "{environment}: {said}");
    }
    Ok(())
}

#[test]
fn stops_when_asked() -> Result<()> {
    let pair = Pair::new()?;
    let _server = Serve::on("0.0.0.0:80").start(&pair.server)?;
    let endless = Load::to(format!("{SERVER}:80")).duration(Duration::from_secs(3600));
    let mut load = endless.start(&pair.client)?;
    load.wait_flowing()?;
    let report = load.stop()?;
    assert!(report.sent >= 20, "{report}");
    assert_eq!((report.ok, report.failed()), (report.sent, 0), "{report}");
    Ok(())
}

#[test]
fn threads_share_the_work() -> Result<()> {
    let pair = Pair::new()?;
    let _server = Serve::on("0.0.0.0:80").start(&pair.server)?;
    let report = load().threads(3).start(&pair.client)?.finish()?;
    assert_eq!((report.sent, report.ok), (COUNT, COUNT), "{report}");
    assert_eq!(pair.client.tcp_counter("ActiveOpens")?, COUNT);
    // The last is due after 195 ms, in whosever share that is.
    assert!(report.elapsed_ms >= 195.0, "{report}");

    let endless = Load::to(format!("{SERVER}:80")).duration(Duration::from_secs(3600));
    let mut load = endless.threads(3).start(&pair.client)?;
    load.wait_flowing()?;
    let report = load.stop()?;
    assert_eq!((report.ok, report.failed()), (report.sent, 0), "{report}");
    Ok(())
}

#[test]
fn comes_from_several_addresses() -> Result<()> {
    let pair = Pair::new()?;
    pair.client
        .must(["ip", "address", "add", "10.77.0.3/24", "dev", "eth0"]);
    let count = "table inet count { counter other { }; chain in { type filter hook input \
                 priority 0; ip saddr 10.77.0.3 tcp flags syn counter name other; }; }";
    pair.server.must(["nft", count]);
    let _server = Serve::on("0.0.0.0:80").start(&pair.server)?;
    let report = load()
        .sources(["10.77.0.2", "10.77.0.3"])
        .start(&pair.client)?
        .finish()?;
    assert_eq!((report.ok, report.failed()), (COUNT, 0), "{report}");
    let json = pair.server.nft_json();
    let objects = json["nftables"].as_array().unwrap();
    let counter = objects.iter().find_map(|o| o.get("counter")).unwrap();
    assert_eq!(counter["packets"], COUNT / 2);
    Ok(())
}

#[test]
fn an_established_connection_is_watched() -> Result<()> {
    let pair = Pair::new()?;
    let mut server = Serve::on("0.0.0.0:80").echo().start(&pair.server)?;
    let hold = || {
        let every = Duration::from_millis(5);
        Hold::start(&pair.client, &format!("{SERVER}:80"), every, SOON)
    };
    let calm = hold()?.stop()?;
    assert_eq!(calm.broken, None);
    assert!(calm.echoes >= 1);

    let stalled = hold()?;
    server.signal(Signal::SIGSTOP)?;
    std::thread::sleep(Duration::from_millis(200));
    server.signal(Signal::SIGCONT)?;
    let stalled = stalled.stop()?;
    assert_eq!(stalled.broken, None);
    assert!(stalled.longest_stall_ms >= 150.0, "{stalled:?}");

    let broken = hold()?;
    server.signal(Signal::SIGKILL)?;
    server.wait()?;
    assert!(broken.stop()?.broken.is_some());
    Ok(())
}

#[test]
fn a_scan_leaves_half_open_connections() -> Result<()> {
    let pair = Pair::new()?;
    let _server = Serve::on("0.0.0.0:80").start(&pair.server)?;
    let half_open = || {
        let rows = pair.server.must(["ss", "-Htn", "state", "syn-recv"]);
        rows.lines().count()
    };
    let scan = Scan::start(&pair.client, &format!("{SERVER}:80"), 200)?;
    wait_until(SOON, "fifty half-open connections", || half_open() >= 50)?;
    drop(scan);
    // They stay although the server has sent its SYN-ACKs again.
    let resent = || {
        let rows = pair.server.must(["ss", "-Htno", "state", "syn-recv"]);
        rows.lines().filter(|row| row.contains(",1)")).count()
    };
    wait_until(SOON, "retransmissions", || resent() >= 50)
}

#[test]
fn a_late_server_is_reported_when_it_listens() -> Result<()> {
    let pair = Pair::new()?;
    let argv = Serve::on("0.0.0.0:80")
        .start_delay(Duration::from_millis(100))
        .argv()?;
    let mut command = pair.server.command(&argv[0]);
    let mut server = pair
        .server
        .spawn(command.args(&argv[1..]).stdout(Stdio::piped()))?;
    assert!(!pair.server.listens(80));
    let mut said = [0; 10];
    server.stdout().unwrap().read_exact(&mut said)?;
    assert_eq!(&said, b"listening\n");
    assert!(pair.server.listens(80));
    Ok(())
}

/// What comes after this has at most 40 files, and no right to more.
const FEW_FILES: [&str; 4] = [
    "prlimit",
    "--nofile=40:40",
    "setpriv",
    "--bounding-set=-sys_resource",
];

#[test]
fn more_connections_than_files() -> Result<()> {
    let pair = Pair::new()?;
    let log = pair.server.dir().join("accepts");
    let serve = Serve::on("0.0.0.0:80").delay(Duration::from_millis(100));
    let argv = [
        FEW_FILES.map(str::to_owned).to_vec(),
        serve.log_accepts(&log).argv()?,
    ]
    .concat();
    let mut command = pair.server.command(&argv[0]);
    let _server = pair
        .server
        .spawn(command.args(&argv[1..]).stdout(Stdio::null()))?;
    pair.server.wait_listen(80)?;

    let sources = pair.client_addresses(200)?;
    let file = pair.client.write("sources", sources.join("\n"));
    let words = format!(
        "load --to {SERVER}:80 --rate 2000 --for 100ms --sources {}",
        file.display()
    );
    let bin = testkit::bin()?;
    let argv = FEW_FILES.into_iter().chain([bin.to_str().unwrap()]);
    let said = pair.client.must(argv.chain(words.split(' ')));
    let report: LoadReport = serde_json::from_str(said.lines().last().unwrap())?;
    assert_eq!((report.ok, report.failed()), (200, 0), "{report}");
    // The server has left most of them to wait; none has lost its turn.
    assert!(report.total.max_ms >= 500.0, "{report}");
    let accepts = fs::read_to_string(log)?;
    let clients = accepts.lines().map(|line| line.rsplit_once(':').unwrap().0);
    assert_eq!(clients.collect::<Vec<_>>(), sources);
    Ok(())
}

#[test]
fn a_crowd_is_answered() -> Result<()> {
    const N: u32 = 5000;
    let pair = Pair::new()?;
    let _server = Serve::on("0.0.0.0:80").start(&pair.server)?;
    let report = Load::to(format!("{SERVER}:80"))
        .rate(N * 4)
        .duration(Duration::from_millis(250))
        .sources(pair.client_addresses(N)?)
        .start(&pair.client)?
        .finish()?;
    assert_eq!((report.ok, report.failed()), (N.into(), 0), "{report}");
    Ok(())
}

const ONE: &str = "10.78.1.1";

/// Counts for [`syns`], and lets none of them be answered.
fn count_syns(pair: &Pair) {
    let rules = format!(
        "table inet count {{ counter every {{ }}; counter one {{ }};
             chain syn {{ counter name every; ip saddr {ONE} counter name one; drop; }};
             chain in {{ type filter hook prerouting priority 0; tcp dport 80 goto syn; }}; }}"
    );
    pair.server.must(["nft", &rules]);
}

/// How many SYNs came to the server: in all, and from [`ONE`].
fn syns(pair: &Pair) -> (u64, u64) {
    let json = pair.server.nft_json();
    let objects = json["nftables"].as_array().unwrap();
    let count = |name| {
        let mut counters = objects.iter().filter_map(|object| object.get("counter"));
        let counter = counters.find(|counter| counter["name"] == name).unwrap();
        counter["packets"].as_u64().unwrap()
    };
    (count("every"), count("one"))
}

#[test]
fn a_flood_is_counted() -> Result<()> {
    let pair = Pair::new()?;
    count_syns(&pair);
    let to = format!("{SERVER}:80");
    let flood = Flood::to(&to).per_second(50_000).start(&pair.client)?;
    wait_until(SOON, "twenty thousand SYNs", || syns(&pair).0 >= 20_000)?;
    let sent = flood.stop()?;
    let (all, one) = syns(&pair);
    assert_eq!(all, sent);
    // It is one address in 65,534.
    assert!(one < 100, "{one}");

    let flood = Flood::to(&to).from(ONE, ONE).start(&pair.client)?;
    wait_until(SOON, "a thousand SYNs", || syns(&pair).1 >= one + 1000)?;
    let sent = flood.stop()?;
    assert_eq!(syns(&pair), (all + sent, one + sent));
    Ok(())
}

#[test]
fn a_flood_is_no_faster_than_told() -> Result<()> {
    const RATE: u32 = 20_000;
    let pair = Pair::new()?;
    count_syns(&pair);
    let start = Instant::now();
    let flood = Flood::to(format!("{SERVER}:80")).per_second(RATE);
    let flood = flood.start(&pair.client)?;
    wait_until(SOON, "SYNs", || syns(&pair).0 >= u64::from(RATE / 2))?;
    let sent = flood.stop()?;
    let most = start.elapsed().as_secs_f64() * f64::from(RATE);
    assert!(sent as f64 <= most + 1.0, "{sent} are more than {most}");
    Ok(())
}

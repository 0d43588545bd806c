//! `--syn hold`: SYNs wait while the gate is closed, and go on to the new listener, none of them
//! lost, in their order. On the backend of the suite.

mod harness;
mod killing;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::latch::Latch;
use harness::{
    Backend, Call, Outcome, SOON, SYNGATE, call, costed, ms, queues, read_cost, shut, signal_again,
    stopped_syns, tell, wait_shut, words,
};
use killing::Moment;
use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::services::Serve;
use testkit::{
    Delay, Flood, Host, Load, LoadReport, Pair, Running, RunningLoad, SERVER, SERVER6, slow,
    wait_until,
};

const LONG: Duration = Duration::from_secs(60);
/// On a busy machine a service takes its time for a crowd, and a release the same: what is over first would
/// be another test.
const PATIENT: &str = "--release-timeout 2m --max-closed 5m";
/// What a SYN that is held may take of syngate's memory, and what all else may take that holding needs.
const BYTES_OF_ONE: u64 = 128;
const KIB_OF_THE_REST: u64 = 4 * 1024;
/// A client gives up before it sends its SYN again.
const SHORT: Duration = Duration::from_millis(500);
/// What a SYN waits for less than this cost no retransmit.
const RETRANSMIT_MS: f64 = 1_000.0;

/// A service that is down for as long as the test wants.
struct Restarted<'a> {
    host: &'a Host,
    server: Serve,
    pid: PathBuf,
    latch: Latch,
    /// Whom it has accepted.
    accepted: PathBuf,
}

impl<'a> Restarted<'a> {
    fn new(host: &'a Host, server: Serve) -> Restarted<'a> {
        let accepted = host.dir().join("accepted");
        std::fs::write(&accepted, "").unwrap();
        let server = server.log_accepts(&accepted);
        let pid = host.dir().join("server.pid");
        host.must(server.daemon_argv(&pid).unwrap());
        Restarted {
            host,
            server,
            pid,
            latch: Latch::new(host, "down"),
            accepted,
        }
    }

    fn command(&self) -> Vec<String> {
        let start = self.server.daemon_argv(&self.pid).unwrap().join(" ");
        let (pid, hold) = (self.pid.display(), self.latch.hold());
        let script = format!("kill $(cat {pid}); {hold}; exec {start}");
        vec!["sh".to_owned(), "-c".to_owned(), script]
    }

    /// The new process listens, and accepts only a second later: it has to load what it needs.
    fn command_that_accepts_late(&self) -> Vec<String> {
        let mut command = self.command();
        let script = command.last_mut().unwrap();
        let pid = format!("$(cat {})", self.pid.display());
        *script = script.replace("exec ", "");
        script.push_str(&format!(
            "; kill -STOP {pid}; (sleep 1; kill -CONT {pid}) &"
        ));
        command
    }

    /// Starts a run; the service is down when this returns.
    fn start(&self, call: &Call) -> Running {
        let run = call.start(self.command());
        self.latch.wait();
        run
    }

    /// Lets the service come back, and the run come to its end.
    fn finish(&mut self, call: &Call, run: Running) -> Outcome {
        self.latch.release();
        let outcome = call.end(run);
        no_queue_is_left(self.host);
        outcome
    }

    fn accepted(&self) -> Vec<SocketAddr> {
        let log = std::fs::read_to_string(&self.accepted).unwrap();
        log.lines().map(|line| line.parse().unwrap()).collect()
    }
}

fn hold<'a>(host: &'a Host, options: &str) -> Call<'a> {
    call(host, words("--port 80 --syn hold --drain 0s")).args(words(options))
}

/// Clients of this host go on trying for minutes. On a busy machine the host can't send their SYNs at times;
/// then the kernel tries again after half a second (tcp_retransmit_timer()), and soon gives up.
fn has_patient_clients(host: &Host) {
    host.must(["sysctl", "-qw", "net.ipv4.tcp_syn_retries=100"]);
}

#[track_caller]
fn no_queue_is_left(host: &Host) {
    assert_eq!(queues(host), "", "no queue is bound");
}

/// So many connections at once, or as good as.
fn burst(to: &str, count: u32) -> Load {
    let load = Load::to(to).rate(count * 50).timeout(LONG);
    load.duration(Duration::from_millis(20))
}

fn wait_stopped(host: &Host, count: u64) {
    let what = format!("{count} stopped SYNs");
    wait_until(SOON * 3, &what, || stopped_syns(host) >= count).unwrap();
}

#[track_caller]
fn all_served(report: &LoadReport, count: u64) {
    assert_eq!((report.ok, report.failed()), (count, 0), "{report}");
}

fn figure(outcome: &Outcome, name: &str) -> u64 {
    let hold = &outcome.report["hold"];
    hold[name].as_u64().unwrap_or_else(|| panic!("{outcome:?}"))
}

#[allow(clippy::disallowed_macros)] // figures, for a run by hand
fn show(what: &str, report: &LoadReport, outcome: &Outcome) {
    let hold = &outcome.report["hold"];
    eprintln!("{what}: {report}; {hold}; {}", outcome.report["closed_ms"]);
}

// Who waits ---------------------------------------------------------------------------------------

/// From another host and from this one, over both IP versions, in both hooks.
#[test]
fn clients_wait_only_as_long_as_the_gate_is_closed() {
    for options in ["", "--hook prerouting"] {
        let pair = Pair::new().unwrap();
        let server = Serve::on("0.0.0.0:80").and_on("[::]:80");
        let mut service = Restarted::new(&pair.server, server);
        let call = hold(&pair.server, options);
        let run = service.start(&call);
        let begin = |host: &Host, to: &str| burst(to, 20).start(host).unwrap();
        let loads: Vec<RunningLoad> = vec![
            begin(&pair.client, &format!("{SERVER}:80")),
            begin(&pair.client, &format!("[{SERVER6}]:80")),
            begin(&pair.server, "127.0.0.1:80"),
            begin(&pair.server, "[::1]:80"),
        ];
        wait_stopped(&pair.server, 80);
        let outcome = service.finish(&call, run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        for load in loads {
            let report = load.finish().unwrap();
            all_served(&report, 20);
            let longest = ms(&outcome.report["hold"], "longest_ms");
            let most = longest + 50.0 * f64::from(slow());
            // Those who began late were due before.
            let says_little = report.late > 0;
            let in_time = report.connect.max_ms <= most;
            assert!(says_little || in_time, "{report}: {outcome:?}");
        }
        assert_eq!(service.accepted().len(), 80);
        let counts = ["held", "released", "overflow", "lost"].map(|name| figure(&outcome, name));
        assert_eq!(counts, [80, 80, 0, 0], "{outcome:?}");
        assert_eq!(outcome.report["action"], "hold");
        let says = format!("{}", outcome.report["message"]);
        assert!(says.contains("80 SYNs held (the longest for "), "{says}");
    }
}

/// The kernel keeps them in a queue that is free, or the one that was asked for, and lets new SYNs
/// through should nobody read it.
#[test]
fn the_queue() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let mut service = Restarted::new(host, Serve::on("0.0.0.0:80"));
    for (options, number) in [("", "49152"), ("--queue-num 7", "7")] {
        let call = hold(host, options);
        let run = service.start(&call);
        let listed = queues(host);
        let columns: Vec<&str> = listed.split_ascii_whitespace().collect();
        assert_eq!(columns[0], number, "{listed}");
        let rules = host
            .sh("nft list ruleset; iptables-legacy-save; true")
            .unwrap();
        assert!(rules.stdout.contains(" bypass") || rules.stdout.contains("-bypass"));
        // Another run takes another queue; but not the one of the first, if that is asked for.
        let other = call_for_81(host).run(["true"]);
        assert_eq!(other.code, 0, "{other:?}");
        let taken = call_for_81(host)
            .args(["--queue-num", number])
            .run(["true"]);
        assert_eq!(taken.code, 125, "{taken:?}");
        let why = format!("--queue-num {number}: another program reads that queue");
        assert!(taken.stderr.contains(&why), "{taken:?}");
        assert_eq!(service.finish(&call, run).code, 0);
    }
}

/// Somebody saves the ruleset of nf_tables while SYNs are held. Loaded again, as at the next boot, it is
/// whole, and lets everybody in.
#[test]
fn a_ruleset_that_is_saved_meanwhile_loads_again() {
    let mut cases = vec![(Backend::Nft, ""), (Backend::Nft, "--backend nft")];
    if Backend::IptablesNft.to_hold() != Backend::IptablesNft {
        cases.push((Backend::IptablesNft, "--backend iptables-nft"));
    }
    for (given, options) in cases {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let mut service = Restarted::new(host, Serve::on("0.0.0.0:80"));
        let call = hold(host, options).on(Backend::Nft);
        let run = service.start(&call);
        let load = burst(&format!("{SERVER}:80"), 3).start(&pair.client);
        wait_stopped(host, 3);
        let saved = host.dir().join("saved").display().to_string();
        let save = format!("{{ echo flush ruleset; nft list ruleset; }} >{saved}");
        host.must(["sh", "-c", &save]);
        let outcome = service.finish(&call, run);
        all_served(&load.unwrap().finish().unwrap(), 3);
        assert_eq!(figure(&outcome, "released"), 3, "{outcome:?}");

        let real = given.to_hold();
        assert_eq!(outcome.report["backend"], real.reported(), "{outcome:?}");
        let warnings = outcome.report["warnings"].to_string();
        let why = format!("{options}: iptables-legacy makes the gate, since this kernel lacks");
        let warned = !options.is_empty() && real != given;
        assert_eq!(warnings.contains(&why), warned, "{warnings}");

        host.must(["nft", "-f", &saved]);
        let report = burst(&format!("{SERVER}:80"), 3).start(&pair.client);
        let report = report.unwrap().finish().unwrap();
        all_served(&report, 3);
        assert!(report.connect.max_ms < RETRANSMIT_MS, "{report}");
    }
}

fn call_for_81(host: &Host) -> Call<'_> {
    let options = words("--port 81 --syn hold --drain 0s");
    call(host, options).report_to(host.dir().join("other.json"))
}

/// Where SYNs can't be held, `hold` ends, and `auto` drops and says so.
#[test]
fn where_it_can_not_be_done() {
    let host = Host::new().unwrap();
    let _server = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let without = |action: &str| {
        let options = format!("--port 80 --drain 0s --syn {action}");
        call(&host, words(&options))
            .fault("no-nfqueue")
            .run(["true"])
    };
    let outcome = without("hold");
    assert_eq!(outcome.code, 125, "{outcome:?}");
    assert_eq!(outcome.report["reason"], "close_failed", "{outcome:?}");
    assert!(outcome.stderr.contains("no NFQUEUE here"), "{outcome:?}");
    // Without actions that need no rules.
    let outcome = without("auto --allow-local");
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.report["action"], "drop", "{outcome:?}");
    assert_eq!(outcome.report["hold"], Value::Null, "{outcome:?}");
    let why = "--syn auto drops SYNs (clients connect at least 1 s late), since they can't be held here: no NFQUEUE \
        here";
    assert!(outcome.stderr.contains(why), "{outcome:?}");
    assert!(
        outcome.report["warnings"][0]
            .as_str()
            .unwrap()
            .contains(why),
        "{outcome:?}"
    );
    let auto = call(
        &host,
        words("--port 80 --drain 0s --syn auto --allow-local"),
    )
    .run(["true"]);
    assert_eq!(auto.report["action"], "hold", "{auto:?}");
}

/// What a rule of the host's sends into the run's queue is dropped, as it would be without the run:
/// let go, it would pass the host's other rules.
#[test]
fn strangers_do_not_pass() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _other = Serve::on("0.0.0.0:81").start(host).unwrap();
    let mut service = Restarted::new(host, Serve::on("0.0.0.0:80"));
    let call = hold(host, "--queue-num 7");
    let rule = "-p tcp --dport 81 -j NFQUEUE --queue-num 7";
    let iptables = |how: &str| host.must(words(&format!("iptables-legacy {how} INPUT {rule}")));
    iptables("-A");
    let run = service.start(&call);
    let load = Load::to(format!("{SERVER}:81")).rate(100).timeout(SHORT);
    let load = load.duration(Duration::from_millis(30));
    let report = load.start(&pair.client).unwrap().finish().unwrap();
    assert_eq!((report.sent, report.ok), (3, 0), "{report}");
    let counted = host.must(words("iptables-legacy -t filter -L INPUT -n -v -x"));
    let queued = counted
        .lines()
        .find(|line| line.contains("NFQUEUE"))
        .unwrap();
    let queued = queued.split_whitespace().next().unwrap();
    let outcome = service.finish(&call, run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let warnings = outcome.report["warnings"].to_string();
    assert!(
        warnings.contains(&format!("rules of other programs sent {queued} packets")),
        "{warnings}"
    );
    iptables("-D");
}

/// Who only looks takes nothing from the queue. When somebody removes a base chain, the kernel drops
/// what is in all queues: then clients send again, and it is told.
#[test]
fn what_others_do_meanwhile() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let mut service = Restarted::new(host, Serve::on("0.0.0.0:80"));
    let ours = |options: &str| host.sh(&format!("{SYNGATE} {options}")).unwrap();
    for (removed, lost) in [(false, 0), (true, 10)] {
        let call = hold(host, "");
        let run = service.start(&call);
        let load = burst(&format!("{SERVER}:80"), 10).start(&pair.client);
        wait_stopped(host, 10);
        assert_eq!(ours("check --port 80").code(), 0);
        let status = ours("status");
        assert!(status.stdout.contains(", hold: "), "{status:?}");
        if removed {
            host.must(["nft", "add table inet theirs; add chain inet theirs in { type filter hook input priority 0; }"]);
            host.must(["nft", "delete table inet theirs"]);
        }
        let outcome = service.finish(&call, run);
        all_served(&load.unwrap().finish().unwrap(), 10);
        assert_eq!(figure(&outcome, "lost"), lost, "{outcome:?}");
        assert_eq!(figure(&outcome, "released"), 10 - lost, "{outcome:?}");
    }
}

/// Those who are lost so leave room for others.
#[test]
fn who_is_lost_takes_no_room() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let crowd = pair.client_addresses(60).unwrap();
    let mut service = Restarted::new(host, Serve::on("0.0.0.0:80"));
    let call = hold(host, "--max-held 20");
    let run = service.start(&call);
    let begin = |sources: &[String]| {
        let load = burst(&format!("{SERVER}:80"), sources.len() as u32);
        load.sources(sources).start(&pair.client).unwrap()
    };
    let first = begin(&crowd[..20]);
    wait_stopped(host, 20);
    let chain = "add chain inet theirs in { type filter hook input priority 0; }";
    host.must(["nft", &format!("add table inet theirs; {chain}")]);
    host.must(["nft", "delete table inet theirs"]);
    // The first that finds no room makes syngate look.
    let second = begin(&crowd[20..21]);
    wait_stopped(host, 21);
    wait_until(SOON, "an empty queue that was looked at", || {
        let third = begin(&crowd[21..22]);
        drop(third);
        queues(host).split_ascii_whitespace().nth(2) != Some("0")
    })
    .unwrap();
    let outcome = service.finish(&call, run);
    all_served(&first.finish().unwrap(), 20);
    all_served(&second.finish().unwrap(), 1);
    assert!(figure(&outcome, "lost") >= 20, "{outcome:?}");
    let why = "since another program removed a chain of the firewall";
    assert!(outcome.stderr.contains(why), "{outcome:?}");
}

/// A run that ends takes its chain away only when nobody else holds SYNs.
#[test]
fn runs_do_not_take_each_others() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let mut service = Restarted::new(host, Serve::on("0.0.0.0:80"));
    let call_80 = hold(host, "");
    let run = service.start(&call_80);
    let load = burst(&format!("{SERVER}:80"), 10).start(&pair.client);
    wait_stopped(host, 10);
    let options = "--port 81 --drain 0s --ready-timeout 0s";
    let other = call(host, words(options)).report_to(host.dir().join("other.json"));
    let mut ended = other.start(["true"]);
    // With nft its own port is open long before it is gone: what is left waits for those held.
    let tables = |host: &Host| host.must(["nft", "list", "tables"]).lines().count();
    let backend = Backend::of_the_suite();
    let of_80 = usize::from(backend.to_hold().reported() == "nft");
    let waits = || tables(host) == of_80 + 1 && other_is_waiting(host);
    if backend.reported() == "nft" {
        wait_until(SOON, "an open port 81", || waits() && shut(host) == [80]).unwrap();
    } else {
        ended.wait().unwrap();
        assert_eq!(shut(host), [80]);
    }
    service.latch.release();
    assert_eq!(ended.wait().unwrap().code(), Some(0));
    let outcome = call_80.end(run);
    no_queue_is_left(host);
    all_served(&load.unwrap().finish().unwrap(), 10);
    assert_eq!(
        (figure(&outcome, "released"), figure(&outcome, "lost")),
        (10, 0)
    );
}

/// The other run has found that SYNs are held: it looks at the queues once more.
fn other_is_waiting(host: &Host) -> bool {
    host.sh("pgrep -xc syngate").unwrap().stdout.trim() == "2"
}

#[test]
fn bad_input_is_one_line_that_says_what_would_be_right() {
    let host = Host::new().unwrap();
    let numbers = "expected a number from 1 to 65536";
    for (options, says) in [
        ("--syn hodl", "expected drop, hold, auto"),
        ("--syn hold --max-held 0", numbers),
        ("--syn hold --max-held -1", numbers),
        ("--syn hold --max-held 65537", numbers),
        ("--syn hold --max-held-per-source many", numbers),
        (
            "--syn hold --queue-num 65536",
            "expected a number from 0 to 65535",
        ),
        ("--syn hold --release-timeout 5", "a number without a unit"),
    ] {
        let call = call(&host, words(&format!("--port 80 {options}")));
        let outcome = call.run(["touch", host.dir().join("ran").to_str().unwrap()]);
        assert_eq!(outcome.code, 125, "{options}: {outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{options}: {outcome:?}");
        assert!(outcome.stderr.contains(says), "{options}: {outcome:?}");
        assert!(!host.dir().join("ran").exists());
    }
}

/// The run is stopped while SYNs come in, and reads them late: it tells for how long they were held all the
/// same.
#[test]
fn syns_that_are_read_late_have_waited_all_the_time() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let server = Serve::on("0.0.0.0:80").and_on("[::]:80");
    let mut service = Restarted::new(host, server);
    let call = hold(host, "");
    let mut run = service.start(&call);
    run.signal(Signal::SIGSTOP).unwrap();
    let loads = [
        burst(&format!("{SERVER}:80"), 5).start(&pair.client),
        burst("[::1]:80", 5).start(host),
    ];
    // Clients send their SYNs again after a second.
    wait_stopped(host, 20);
    run.signal(Signal::SIGCONT).unwrap();
    let outcome = service.finish(&call, run);
    for load in loads {
        all_served(&load.unwrap().finish().unwrap(), 5);
    }
    let longest = ms(&outcome.report["hold"], "longest_ms");
    assert!(longest > RETRANSMIT_MS * 0.9, "{outcome:?}");
}

// How many ----------------------------------------------------------------------------------------

/// A client that waits for more than a second sends its SYN again: it is held once, served once.
#[test]
fn copies_are_not_held_twice() {
    let pair = Pair::new().unwrap();
    let mut service = Restarted::new(&pair.server, Serve::on("0.0.0.0:80"));
    let call = hold(&pair.server, "");
    let run = service.start(&call);
    let load = burst(&format!("{SERVER}:80"), 10).start(&pair.client);
    wait_stopped(&pair.server, 20);
    let outcome = service.finish(&call, run);
    all_served(&load.unwrap().finish().unwrap(), 10);
    assert_eq!(
        (figure(&outcome, "held"), figure(&outcome, "lost")),
        (10, 0)
    );
    assert!(figure(&outcome, "duplicates") >= 10, "{outcome:?}");
    assert_eq!(service.accepted().len(), 10);
}

/// What does not fit is dropped and counted; its clients come again.
#[test]
fn there_is_room_for_so_many() {
    let pair = Pair::new().unwrap();
    let crowd = pair.client_addresses(30).unwrap();
    for (options, fit) in [
        ("--max-held 12 --max-held-per-source 12", 12),
        ("--max-held 1000 --max-held-per-source 2", 20),
    ] {
        let mut service = Restarted::new(&pair.server, Serve::on("0.0.0.0:80"));
        let call = hold(&pair.server, options);
        let run = service.start(&call);
        let load = burst(&format!("{SERVER}:80"), 30).sources(&crowd[..10]);
        let load = load.start(&pair.client).unwrap();
        wait_stopped(&pair.server, 30);
        let outcome = service.finish(&call, run);
        all_served(&load.finish().unwrap(), 30);
        assert_eq!(figure(&outcome, "held"), fit, "{outcome:?}");
        assert!(figure(&outcome, "overflow") >= 30 - fit, "{outcome:?}");
        let says = outcome.report["message"].to_string();
        assert!(says.contains(" dropped"), "{says}");
        pair.server.must(["pkill", "-f", "serve --listen"]);
        wait_until(SOON, "a free port", || !pair.server.listens(80)).unwrap();
    }
}

/// 50,000 of them for a second, in little memory; none is lost.
#[test]
fn fifty_thousand() {
    let count = 50_000u64;
    let pair = Pair::new().unwrap();
    has_patient_clients(&pair.client);
    let crowd = pair.client_addresses(500).unwrap();
    let mut service = Restarted::new(&pair.server, Serve::on("0.0.0.0:80").backlog(4_096));
    let (call, cost) = costed(&pair.server, hold(&pair.server, PATIENT));
    let run = service.start(&call);
    let load = Load::to(format!("{SERVER}:80"))
        .sources(crowd)
        .timeout(LONG * 3);
    let load = load.rate(50_000).duration(Duration::from_secs(1));
    let load = load.start(&pair.client).unwrap();
    // Not before all of them wait: then more would come than go.
    let waiting = || {
        let listed = queues(&pair.server);
        let in_queue = listed.split_ascii_whitespace().nth(2);
        in_queue.is_some_and(|n| n.parse::<u64>().unwrap() >= count)
    };
    wait_until(LONG, "all of them waiting", waiting).unwrap();
    let lost = || ["ListenOverflows", "ListenDrops"].map(|n| pair.server.tcp_counter(n).unwrap());
    let before = lost();
    service.latch.release();
    // On a busy machine they take more time than other runs may.
    let report = load.finish().unwrap();
    let outcome = call.end(run);
    no_queue_is_left(&pair.server);
    show("50,000", &report, &outcome);
    if report.failed() > 0 {
        tell(&pair.server.must(["nstat", "-a"])); // which of the kernel's ways it was
    }
    all_served(&report, count);
    assert_eq!(lost(), before, "nothing overflowed");
    // Copies may have been too many for the queue: their originals were in it.
    let counts = ["held", "released", "lost"].map(|name| figure(&outcome, name));
    assert_eq!(counts, [count, count, 0], "{outcome:?}");
    let (_, kib) = read_cost(&cost);
    tell(&format!("50,000: {kib} KiB"));
    // The code of an unoptimised build takes 10 MiB more.
    let bound = if cfg!(debug_assertions) { 23 } else { 12 };
    assert!(kib < bound * 1024, "{kib} KiB");
}

/// The largest resident set of the run so far, in KiB.
fn peak_memory(host: &Host) -> u64 {
    let peak = host.must(["sh", "-c", "grep VmHWM /proc/$(pgrep -x syngate)/status"]);
    peak.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// SYNs from everywhere that nobody will ever acknowledge: syngate stays within its bounds, and the
/// honest clients are served, if not all of them at once. `SYNGATE_FLOOD=100000` says how many a
/// second.
#[test]
fn a_flood_costs_no_more_than_its_bounds() {
    let rate = std::env::var("SYNGATE_FLOOD").map_or(20_000, |n| n.parse().unwrap());
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let mut service = Restarted::new(host, Serve::on("0.0.0.0:80"));
    // Closed for a fifth of a second: with room for all that come meanwhile, and with too little.
    for room in [65_536, rate / 20] {
        let (call, cost) = costed(host, hold(host, &format!("--max-held {room}")));
        let run = service.start(&call);
        let before = peak_memory(host);
        let to = format!("{SERVER}:80");
        let flood = Flood::to(&to).per_second(rate).start(&pair.client).unwrap();
        let honest = Load::to(&to).rate(200).timeout(LONG);
        let honest = honest.duration(Duration::from_secs(1));
        let honest = honest.start(&pair.client).unwrap();
        wait_stopped(host, u64::from(rate) / 5);
        let outcome = service.finish(&call, run);
        let sent = flood.stop().unwrap();
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let report = honest.finish().unwrap();
        show(
            &format!("honest clients, room for {room}"),
            &report,
            &outcome,
        );
        all_served(&report, 200);
        let (seconds, kib) = read_cost(&cost);
        tell(&format!(
            "flood of {rate}/s, {sent} sent: {seconds:.2} s of CPU, {kib} KiB"
        ));
        if room < rate / 5 {
            assert!(figure(&outcome, "overflow") > 0, "{outcome:?}");
        }
        let held = figure(&outcome, "held").min(room.into());
        let more = kib.saturating_sub(before);
        let most = held * BYTES_OF_ONE / 1024 + KIB_OF_THE_REST;
        assert!(
            more < most,
            "{more} KiB more than {before}, with {held} held"
        );
    }
}

/// What it costs to hold so many SYNs a second: for the figures.
#[test]
#[ignore = "figures, of an optimised build; see the README"]
fn what_it_costs_to_hold() {
    for (rate, seconds) in [(1_000, 5), (10_000, 5), (50_000, 1)] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let mut service = Restarted::new(host, Serve::on("0.0.0.0:80"));
        let call = hold(host, "--max-held-per-source 65536 --release-timeout 10ms");
        let run = service.start(&call);
        let flood = Flood::to(format!("{SERVER}:80")).per_second(rate);
        let flood = flood.start(&pair.client).unwrap();
        let pid = host.must(["pgrep", "-x", "syngate"]);
        let schedstat = format!("/proc/{}/schedstat", pid.trim());
        let busy = || {
            let text = host.must(["cat", &schedstat]);
            let nanoseconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
            nanoseconds / 1e9
        };
        let (began, before) = (Instant::now(), busy());
        wait_stopped(host, u64::from(rate) * seconds);
        let share = (busy() - before) / began.elapsed().as_secs_f64() * 100.0;
        let listed = queues(host);
        let columns: Vec<&str> = listed.split_ascii_whitespace().collect();
        assert_eq!(
            columns[5..7],
            ["0", "0"],
            "the kernel dropped none: {listed}"
        );
        drop(flood);
        tell(&format!(
            "{rate}/s, {} in the queue: {share:.1} % of a core",
            columns[2]
        ));
        let _ = service.finish(&call, run);
    }
}

// How fast they go --------------------------------------------------------------------------------

/// So many clients, each from an address of its own, into listeners with little room: all are served,
/// and the kernel drops none. What the run and the clients saw.
fn crowd_into(pair: &Pair, server: Serve, count: u32, targets: &[&str]) -> Outcome {
    let host = &pair.server;
    has_patient_clients(&pair.client);
    let crowd = pair.client_addresses(count).unwrap();
    let mut service = Restarted::new(host, server);
    let call = hold(host, PATIENT);
    let run = service.start(&call);
    let share = count / targets.len() as u32;
    let loads: Vec<RunningLoad> = targets
        .iter()
        .zip(crowd.chunks(crowd.len() / targets.len()))
        .map(|(to, crowd)| {
            let load = Load::to(*to)
                .sources(crowd)
                .timeout(LONG * 3)
                .rate(share * 2);
            load.duration(Duration::from_millis(500))
                .start(&pair.client)
                .unwrap()
        })
        .collect();
    let count = u64::from(share) * targets.len() as u64;
    wait_stopped(host, count);
    let lost = || ["ListenOverflows", "ListenDrops"].map(|name| host.tcp_counter(name).unwrap());
    let before = lost();
    service.latch.release();
    let reports: Vec<LoadReport> = loads.into_iter().map(|l| l.finish().unwrap()).collect();
    let outcome = call.end(run);
    no_queue_is_left(host);
    for report in reports {
        show("a crowd", &report, &outcome);
        all_served(&report, share.into());
    }
    assert_eq!(lost(), before, "nothing overflowed: {outcome:?}");
    assert_eq!(figure(&outcome, "released"), count, "{outcome:?}");
    assert_eq!(
        outcome.report["hold"]["release_timed_out"], false,
        "{outcome:?}"
    );
    assert_eq!(
        service.accepted().len() as u64,
        count,
        "each is served once"
    );
    outcome
}

#[test]
fn five_thousand_into_a_backlog_of_16() {
    let pair = Pair::new().unwrap();
    let server = Serve::on("0.0.0.0:80").backlog(16);
    let to = format!("{SERVER}:80");
    crowd_into(&pair, server, 5_000, &[&to]);
}

/// The last ACK of each handshake comes 20 ms after its SYN-ACK.
#[test]
fn a_crowd_from_far_away_into_a_backlog_of_16() {
    let count = if std::env::var_os("SYNGATE_LONG").is_some() {
        5_000
    } else {
        1_000
    };
    let pair = Pair::new().unwrap();
    let far = Delay::start(&pair.client, Duration::from_millis(20)).unwrap();
    let server = Serve::on("0.0.0.0:80").backlog(16);
    let to = format!("{SERVER}:80");
    let outcome = crowd_into(&pair, server, count, &[&to]);
    // No more than 17 can be under way at a time.
    let rounds = f64::from(count) / 17.0;
    let release = ms(&outcome.report["hold"], "release_ms");
    assert!(release >= rounds * 20.0 * 0.9, "{outcome:?}");
    far.stop().unwrap();
}

/// Without cookies the kernel drops what does not fit, and keeps a quarter of the room for clients
/// that it knows.
#[test]
fn without_syn_cookies() {
    let pair = Pair::new().unwrap();
    let sysctl = [
        "net.ipv4.tcp_syncookies=0",
        "net.ipv4.tcp_max_syn_backlog=64",
    ];
    pair.server.must(["sysctl", "-qw", sysctl[0], sysctl[1]]);
    let far = Delay::start(&pair.client, Duration::from_millis(5)).unwrap();
    let server = Serve::on("0.0.0.0:80").backlog(1_000);
    let to = format!("{SERVER}:80");
    crowd_into(&pair, server, 1_000, &[&to]);
    far.stop().unwrap();
}

/// Handshakes answered with cookies can't be seen: they are given their time.
#[test]
fn with_syn_cookies_always() {
    let pair = Pair::new().unwrap();
    let always = "net.ipv4.tcp_syncookies=2";
    pair.server.must(["sysctl", "-qw", always]);
    let far = Delay::start(&pair.client, Duration::from_millis(20)).unwrap();
    let server = Serve::on("0.0.0.0:80").backlog(64);
    let to = format!("{SERVER}:80");
    crowd_into(&pair, server, 200, &[&to]);
    far.stop().unwrap();
}

/// Several addresses, each with its own queue or sharing that of all addresses; and a group of
/// SO_REUSEPORT sockets, of which the kernel chooses one by itself.
#[test]
fn several_addresses_and_a_group() {
    let pair = Pair::new().unwrap();
    for address in ["10.77.0.11/24", "10.77.0.12/24"] {
        pair.server
            .must(["ip", "address", "add", address, "dev", "eth0"]);
    }
    let far = Delay::start(&pair.client, Duration::from_millis(5)).unwrap();
    let server = Serve::on("10.77.0.11:80")
        .and_on("10.77.0.12:80")
        .and_on("[::]:80");
    let to = ["10.77.0.11:80", "10.77.0.12:80"];
    crowd_into(&pair, server.backlog(16), 600, &to);

    let pair = Pair::new().unwrap();
    let (one, two) = (format!("{SERVER}:80"), "10.77.0.12:80");
    pair.server
        .must(["ip", "address", "add", "10.77.0.12/24", "dev", "eth0"]);
    let group = ["0.0.0.0:80"; 4].into_iter().skip(1);
    let server = group.fold(Serve::on("0.0.0.0:80"), Serve::and_on);
    let server = server.reuseport().backlog(16);
    crowd_into(&pair, server, 600, &[&one, two]);
    far.stop().unwrap();
}

/// A service that listens, and accepts only a while later: there is no room, and nobody is let go
/// into none.
#[test]
fn a_service_that_accepts_late_loses_nobody() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let mut service = Restarted::new(host, Serve::on("0.0.0.0:80").backlog(16));
    let call = hold(host, "--release-timeout 20s");
    let run = call.start(service.command_that_accepts_late());
    service.latch.wait();
    let load = burst(&format!("{SERVER}:80"), 200).start(&pair.client);
    wait_stopped(host, 200);
    let lost = || ["ListenOverflows", "ListenDrops"].map(|name| host.tcp_counter(name).unwrap());
    let before = lost();
    let outcome = service.finish(&call, run);
    all_served(&load.unwrap().finish().unwrap(), 200);
    assert_eq!(lost(), before, "nothing overflowed: {outcome:?}");
    assert_eq!(
        outcome.report["hold"]["release_stalled"], false,
        "{outcome:?}"
    );
    assert!(
        ms(&outcome.report["hold"], "release_ms") > 500.0,
        "{outcome:?}"
    );
}

/// When the time is over the gate opens all the same, and nobody fails for it.
#[test]
fn the_release_is_bounded() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let mut service = Restarted::new(host, Serve::on("0.0.0.0:80").backlog(16));
    let call = hold(host, "--release-timeout 300ms");
    let run = call.start(service.command_that_accepts_late());
    service.latch.wait();
    let load = burst(&format!("{SERVER}:80"), 24);
    let load = load.start(&pair.client).unwrap();
    wait_stopped(host, 24);
    let outcome = service.finish(&call, run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(
        outcome.report["hold"]["release_timed_out"], true,
        "{outcome:?}"
    );
    let why =
        "syngate could not let all held SYNs go one after the other within --release-timeout 300ms";
    assert!(outcome.stderr.contains(why), "{outcome:?}");
    let release = ms(&outcome.report["hold"], "release_ms");
    assert!(
        (300.0..400.0 * f64::from(slow())).contains(&release),
        "{outcome:?}"
    );
    assert_eq!(figure(&outcome, "released"), 24, "{outcome:?}");
    all_served(&load.finish().unwrap(), 24);
}

/// A service that takes 3 s to come back: everybody gets in, in the order of their SYNs, each once.
/// `make test-long` does it ten times.
#[test]
fn a_slow_start_serves_everybody_in_order() {
    let times = std::env::var("SYNGATE_SLOW_STARTS").map_or(1, |n| n.parse().unwrap());
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let crowd = pair.client_addresses(1_000).unwrap();
    const ROOM: u32 = 32;
    let slow_start = Duration::from_secs(3);
    let server = Serve::on("0.0.0.0:80")
        .start_delay(slow_start)
        .backlog(ROOM);
    let mut service = Restarted::new(host, server);
    for _ in 0..times {
        std::fs::write(&service.accepted, "").unwrap();
        let call = hold(host, "");
        let run = service.start(&call);
        let load = Load::to(format!("{SERVER}:80"))
            .sources(&crowd)
            .timeout(LONG);
        let load = load.rate(500).duration(Duration::from_secs(2));
        let load = load.start(&pair.client).unwrap();
        wait_stopped(host, 1);
        let outcome = service.finish(&call, run);
        let report = load.finish().unwrap();
        show("slow start", &report, &outcome);
        all_served(&report, report.sent);
        assert!(ms(&outcome.report, "closed_ms") > 3_000.0, "{outcome:?}");
        let accepted: Vec<IpAddr> = service.accepted().iter().map(|a| a.ip()).collect();
        let asked = crowd.iter().take(report.sent as usize);
        let asked: Vec<IpAddr> = asked.map(|a| a.parse().unwrap()).collect();
        assert_eq!(accepted.len(), asked.len(), "each is served once");
        // Of those who were let go at once, some may overtake others on their way through the CPUs. On a busy
        // machine a few come later still: their packets wait for a CPU while others go.
        let far = asked.iter().enumerate().filter(|(n, who)| {
            let place = accepted.iter().position(|a| a == *who).unwrap();
            place.abs_diff(*n) >= ROOM as usize
        });
        let far = far.count();
        assert!(far * 100 <= asked.len(), "{far} of {}", asked.len());
    }
}

// The host's own firewall -------------------------------------------------------------------------

/// One client of two is refused by the host's rules in the hook where SYNs are held.
struct Firewalled {
    pair: Pair,
    good: String,
    refused: String,
}

impl Firewalled {
    fn new(variant: &str, table: &str, chain: &str) -> Firewalled {
        let pair = Pair::new().unwrap();
        let addresses = pair.client_addresses(2).unwrap();
        let [good, refused] = addresses.try_into().unwrap();
        let rule = format!("{variant} -t {table} -A {chain} -p tcp --syn -s {refused} -j DROP");
        pair.server.must(words(&rule));
        Firewalled {
            pair,
            good,
            refused,
        }
    }

    fn begin(&self, source: &str, timeout: Duration) -> RunningLoad {
        let load = burst(&format!("{SERVER}:80"), 5).timeout(timeout);
        load.sources([source]).start(&self.pair.client).unwrap()
    }

    fn nobody_is_let_in(report: &LoadReport) {
        assert_eq!((report.sent, report.ok), (5, 0), "{report}");
    }
}

/// The host's own firewall refuses a client. The release does not let it in, and neither does a queue
/// without a reader.
#[test]
fn whom_the_firewall_refuses_is_never_let_in() {
    for (backend, firewall, hook) in [
        (Backend::IptablesLegacy, "iptables-legacy", "input"),
        (Backend::IptablesLegacy, "iptables-legacy", "prerouting"),
        (Backend::IptablesNft, "iptables-nft", "input"),
        (Backend::IptablesNft, "iptables-nft", "prerouting"),
        (Backend::Nft, "iptables-nft", "input"),
    ] {
        let (table, chain, options) = match hook {
            "input" => ("filter", "INPUT", ""),
            _ => ("raw", "PREROUTING", "--release-timeout 0"),
        };
        let there = Firewalled::new(firewall, table, chain);
        let host = &there.pair.server;
        let mut service = Restarted::new(host, Serve::on("0.0.0.0:80"));
        let options = format!("--hook {hook} {options}");
        let call = hold(host, &options).on(backend);
        let run = service.start(&call);
        let (good, refused) = (
            there.begin(&there.good, LONG),
            there.begin(&there.refused, SHORT),
        );
        wait_stopped(host, 5);
        let outcome = service.finish(&call, run);
        // Of two backends at one priority, either sees SYNs first.
        let held = figure(&outcome, "held");
        let both = backend.to_hold() != backend && hook == "prerouting";
        assert!(held == 5 || both && held == 10, "{hook}: {outcome:?}");
        all_served(&good.finish().unwrap(), 5);
        Firewalled::nobody_is_let_in(&refused.finish().unwrap());
        // Nobody reads the queue any more, and the rules stay until the deadline.
        let latch = Latch::new(host, "killed");
        let call = hold(host, &format!("--hook {hook} --max-closed 60s")).on(backend);
        let mut run = call.start(["sh", "-c", &latch.hold()]);
        latch.wait();
        run.signal(Signal::SIGSTOP).unwrap();
        host.sh("pkill -KILL -x gate-watchdog").unwrap();
        run.signal(Signal::SIGKILL).unwrap();
        run.wait().unwrap();
        all_served(&there.begin(&there.good, LONG).finish().unwrap(), 5);
        Firewalled::nobody_is_let_in(&there.begin(&there.refused, SHORT).finish().unwrap());
    }
}

/// Where a rule of the host's lets SYNs pass before they come to the queue, they can't be held: they are
/// dropped before that rule, and that is told.
#[test]
fn what_a_rule_lets_pass_is_dropped() {
    for (backend, hook, table, chain) in [
        (Backend::IptablesLegacy, "input", "security", "INPUT"),
        (Backend::IptablesNft, "prerouting", "raw", "PREROUTING"),
    ] {
        let backend = backend.to_hold();
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let iptables = |how: &str, rule: &str| {
            host.must(words(&format!(
                "{} -t {table} {how} {rule}",
                backend.name()
            )));
        };
        let mut service = Restarted::new(host, Serve::on("0.0.0.0:80"));
        let call = hold(host, &format!("--hook {hook} --max-closed 5m")).on(backend);
        let accept = &format!("{chain} -p tcp -m tcp --dport 80 -j ACCEPT");
        for before in [true, false] {
            if before {
                iptables("-A", accept);
            }
            let run = service.start(&call);
            if !before {
                iptables("-I", accept);
                let jump = format!("{} -t {table} -S {chain} 1 | grep syngate_", backend.name());
                wait_until(SOON, "the gate before it", || host.sh(&jump).unwrap().ok()).unwrap();
            }
            let load = burst(&format!("{SERVER}:80"), 3).start(&pair.client);
            wait_stopped(host, 3);
            let outcome = service.finish(&call, run);
            all_served(&load.unwrap().finish().unwrap(), 3);
            assert_eq!(figure(&outcome, "held"), 0, "{outcome:?}");
            let warnings = outcome.report["warnings"].to_string();
            let rule = format!(
                "dropped and not held: in the table {table}, a rule before the gate's \
                                    lets SYNs pass: -A {accept}"
            );
            assert!(warnings.contains(&rule), "{warnings}");
            iptables("-D", accept);
        }
    }
}

/// A rule that somebody puts behind the queue's is put before it, so that held SYNs meet it.
#[test]
fn a_new_rule_of_the_hosts_comes_first() {
    for backend in [Backend::IptablesLegacy, Backend::IptablesNft] {
        let backend = backend.to_hold();
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let mut service = Restarted::new(host, Serve::on("0.0.0.0:80"));
        let call = hold(host, "--hook prerouting --max-closed 5m").on(backend);
        let run = service.start(&call);
        let iptables = |how: &str| {
            let rule = "PREROUTING -s 10.9.9.9/32 -p tcp -j DROP";
            host.must(words(&format!("{} -t raw {how} {rule}", backend.name())));
        };
        iptables("-A");
        let last = format!(
            "{} -t raw -S PREROUTING | tail -1 | grep syngate_",
            backend.name()
        );
        wait_until(SOON, "the queue behind it", || host.sh(&last).unwrap().ok()).unwrap();
        let load = burst(&format!("{SERVER}:80"), 3).start(&pair.client);
        wait_stopped(host, 3);
        let outcome = service.finish(&call, run);
        all_served(&load.unwrap().finish().unwrap(), 3);
        assert_eq!(figure(&outcome, "released"), 3, "{outcome:?}");
        let warnings = outcome.report["warnings"].to_string();
        assert!(
            warnings.contains("would not meet a rule behind the gate's: -A PREROUTING"),
            "{warnings}"
        );
        iptables("-D");
    }
}

// When something goes wrong -----------------------------------------------------------------------

/// Killed: the kernel drops who waits, and lets new ones through; all of them are served.
#[test]
fn killed_while_it_holds() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _server = Serve::on("0.0.0.0:80").start(host).unwrap();
    let call = hold(host, "");
    let before = host.ruleset();
    let mut latch = Latch::new(host, "killed");
    let mut run = call.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    let load = burst(&format!("{SERVER}:80"), 10)
        .start(&pair.client)
        .unwrap();
    wait_stopped(host, 10);
    run.signal(Signal::SIGKILL).unwrap();
    let killed_at = Instant::now();
    wait_until(SOON, "no rule", || host.ruleset() == before).unwrap();
    no_queue_is_left(host);
    let report = load.finish().unwrap();
    all_served(&report, 10);
    let most = Duration::from_secs(4) * slow();
    assert!(killed_at.elapsed() < most, "{report}");
    assert!(
        report.connect.max_ms >= RETRANSMIT_MS,
        "they were held: {report}"
    );
    latch.release();
    run.wait().unwrap();
}

/// The same at random moments; `make test-long` does it 100 times.
#[test]
fn killed_at_random_moments_while_it_holds() {
    let times = std::env::var("SYNGATE_KILLS").map_or(5, |n| n.parse().unwrap());
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _server = Serve::on("0.0.0.0:80").start(host).unwrap();
    let call = hold(host, "");
    let before = host.ruleset();
    let (mut kills, mut held, mut worst_ms) = (0, 0, 0.0_f64);
    while killing::go_on(kills, held, times) {
        kills += 1;
        let load = Load::to(format!("{SERVER}:80")).rate(200).timeout(LONG);
        let load = load.duration(Duration::from_millis(150));
        let load = load.start(&pair.client).unwrap();
        let mut run = call.start(["sleep", "10"]);
        let Moment::After(pause) = Moment::random(Duration::from_millis(150) * slow()) else {
            unreachable!("a random moment is a time");
        };
        std::thread::sleep(pause); // a moment is what is wanted here, not a state
        held += u64::from(!queues(host).is_empty());
        run.signal(Signal::SIGKILL).unwrap();
        run.wait().unwrap();
        let what = format!("no rule after {pause:?}");
        wait_until(Duration::from_secs(2), &what, || host.ruleset() == before).unwrap();
        no_queue_is_left(host);
        let report = load.finish().unwrap();
        all_served(&report, report.sent);
        worst_ms = worst_ms.max(report.connect.max_ms);
        host.sh("pkill -x sleep").unwrap(); // if it was run
    }
    tell(&format!(
        "{kills} kills, {held} while it held: worst connect {worst_ms:.0} ms"
    ));
    assert!(held > 0, "none of {kills} kills met a queue");
    assert!(
        worst_ms < 1.5 * RETRANSMIT_MS * f64::from(slow()),
        "{worst_ms} ms"
    );
}

/// At --max-closed the kernel opens, and who waits goes.
#[test]
fn the_deadline_lets_everybody_go() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _server = Serve::on("0.0.0.0:80").start(host).unwrap();
    let call = hold(host, "--max-closed 700ms");
    let mut latch = Latch::new(host, "deadline");
    let run = call.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    let load = burst(&format!("{SERVER}:80"), 10)
        .start(&pair.client)
        .unwrap();
    let report = load.finish().unwrap();
    all_served(&report, 10);
    if slow() == 1 {
        assert!(report.connect.max_ms < RETRANSMIT_MS, "{report}");
    }
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 124, "{outcome:?}");
    assert_eq!(
        figure(&outcome, "released"),
        figure(&outcome, "held"),
        "{outcome:?}"
    );
    no_queue_is_left(host);
}

/// A run whose COMMAND waits, until the run ends in one of several ways.
struct Leaving {
    run: Running,
    latch: Latch,
    /// COMMAND makes this file when a signal is passed on to it.
    told: PathBuf,
}

impl Leaving {
    /// COMMAND exits with this code in the end.
    fn start(host: &Host, call: &Call, code: i32) -> Leaving {
        let (latch, told) = (Latch::new(host, "out"), host.dir().join("told"));
        let _ = std::fs::remove_file(&told);
        let trap = format!("trap 'touch {}' TERM", told.display());
        let script = format!("{trap}; {}; exit {code}", latch.hold());
        let run = call.start(["sh", "-c", &script]);
        latch.wait();
        Leaving { run, latch, told }
    }

    fn go(&mut self, way: &str) {
        match way {
            "fails" => self.latch.release(),
            "USR1" => self.run.signal(Signal::SIGUSR1).unwrap(),
            _ => {
                self.run.signal(Signal::SIGTERM).unwrap();
                let passed_on = || self.told.exists();
                wait_until(SOON, "a signal that is passed on", passed_on).unwrap();
                signal_again(&mut self.run, Signal::SIGINT);
            }
        }
    }

    fn end(mut self, way: &str, call: &Call) -> Outcome {
        if way != "fails" {
            self.latch.release();
        }
        call.end(self.run)
    }
}

/// COMMAND fails, a signal comes, somebody opens the gate: who waits goes at once.
#[test]
fn on_every_way_out_they_go() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _server = Serve::on("0.0.0.0:80").start(host).unwrap();
    for (way, code) in [("fails", 7), ("USR1", 0), ("second signal", 130)] {
        let call = hold(host, "");
        let mut leaving = Leaving::start(host, &call, code);
        let began = Instant::now();
        let load = burst(&format!("{SERVER}:80"), 10)
            .start(&pair.client)
            .unwrap();
        wait_stopped(host, 10);
        leaving.go(way);
        let held_ms = began.elapsed().as_secs_f64() * 1e3;
        let report = load.finish().unwrap();
        all_served(&report, 10);
        let most_ms = held_ms + RETRANSMIT_MS * f64::from(slow());
        assert!(report.connect.max_ms < most_ms, "{way}: {report}");
        let outcome = leaving.end(way, &call);
        assert_eq!(outcome.code, code, "{way}: {outcome:?}");
        assert_eq!(figure(&outcome, "released"), 10, "{way}: {outcome:?}");
        no_queue_is_left(host);
    }
}

/// The service is down, and the run ends all at once: the client's own account, and the run's.
#[test]
fn who_is_refused_on_a_way_out_is_told_of() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    for way in ["fails", "USR1", "second signal"] {
        let server = Serve::on("0.0.0.0:80").start(host).unwrap();
        let call = hold(host, "");
        let mut leaving = Leaving::start(host, &call, 7);
        drop(server);
        let load = burst(&format!("{SERVER}:80"), 10)
            .start(&pair.client)
            .unwrap();
        wait_stopped(host, 10);
        leaving.go(way);
        let report = load.finish().unwrap();
        assert_eq!(report.refused, 10, "{way}: {report}");
        let outcome = leaving.end(way, &call);
        let says = "10 held SYNs were refused, since nobody listened when they were let go";
        assert!(outcome.stderr.contains(says), "{way}: {outcome:?}");
    }
}

/// Each port opens when its service is there, and its own clients go; the others wait on.
#[test]
fn each_port_lets_its_own_go() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let first = Restarted::new(host, Serve::on("0.0.0.0:80"));
    let pid = host.dir().join("second.pid");
    let second = Serve::on("0.0.0.0:81");
    host.must(second.daemon_argv(&pid).unwrap());
    let options = "--port 80,81 --syn hold --drain 0s --open-on ready";
    let call = call(host, words(options));
    let (mut down, mut late) = (Latch::new(host, "down"), Latch::new(host, "late"));
    let kill = format!("kill $(cat {} {})", first.pid.display(), pid.display());
    let start = |server: &Serve, pid| server.daemon_argv(pid).unwrap().join(" ");
    let script = format!(
        "{kill}; {}; {}; {}; exec {}",
        down.hold(),
        start(&first.server, &first.pid),
        late.hold(),
        start(&second, &pid)
    );
    let run = call.start(["sh", "-c", &script]);
    down.wait();
    let to = |port| {
        burst(&format!("{SERVER}:{port}"), 10)
            .start(&pair.client)
            .unwrap()
    };
    let (one, other) = (to(80), to(81));
    wait_stopped(host, 20);
    down.release();
    all_served(&one.finish().unwrap(), 10);
    late.wait();
    wait_shut(host, &[81]);
    late.release();
    all_served(&other.finish().unwrap(), 10);
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(figure(&outcome, "released"), 20, "{outcome:?}");
    assert_eq!(shut(host), Vec::<u64>::new());
}

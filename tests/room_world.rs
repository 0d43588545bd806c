//! Waiting rooms and the rest of the network: clients that are far away, SYN cookies, TCP Fast Open,
//! TCP_DEFER_ACCEPT, floods, and what the host's own firewall does meanwhile.

mod harness;

use std::path::PathBuf;
use std::time::Duration;

use harness::latch::Latch;
use harness::rooms::{all_served, are_parked, figure, no_syn_was_lost, nothing_is_left, programs};
use harness::{Call, Outcome, SOON, call, python, tell, words};
use testkit::services::Serve;
use testkit::{Delay, Flood, Host, Load, Pair, Running, SERVER, slow, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// A service that is down for as long as the test wants.
struct Restarted<'a> {
    call: Call<'a>,
    stop: String,
    start: String,
    latch: Latch,
}

impl<'a> Restarted<'a> {
    fn new(host: &'a Host, server: &Serve) -> Restarted<'a> {
        let pid = host.dir().join("server.pid");
        let start = server.daemon_argv(&pid).unwrap().join(" ");
        host.must(["sh", "-c", &start]);
        Restarted::by(host, pid, start)
    }

    /// It listens already, and `start` starts it again.
    fn by(host: &'a Host, pid: PathBuf, start: String) -> Restarted<'a> {
        Restarted {
            call: call(host, words("--port 80 --syn park --drain 0s")).unhurried(),
            stop: format!("kill $(cat {})", pid.display()),
            start,
            latch: Latch::new(host, "down"),
        }
    }

    /// `first` is done while the old process is there and the gate is closed. The service is down when this
    /// returns, unless `first` waits for something.
    fn begin(&self, first: &str) -> Running {
        let (stop, hold, start) = (&self.stop, self.latch.hold(), &self.start);
        let script = format!("{first} {stop}; {hold}; {start}");
        self.call.start(["sh", "-c", &script])
    }

    fn finish(&mut self, run: Running) -> Outcome {
        self.latch.release();
        let outcome = self.call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        outcome
    }
}

fn to_server() -> String {
    format!("{SERVER}:80")
}

fn burst(count: u32) -> Load {
    let load = Load::to(to_server()).rate(count * 50).timeout(LONG);
    load.duration(Duration::from_millis(20))
}

#[track_caller]
fn wait_parked(host: &Host, count: u64) {
    assert!(are_parked(host, count), "the gate has opened");
}

// Handshakes ---------------------------------------------------------------------------------------

/// Handshakes are under way when the gate closes, when the old process ends and when those who wait are
/// handed over; by SYN cookies, nobody remembers them. A listener takes a cookie only if it has sent one lately,
/// or another of its SO_REUSEPORT group has: one that gets the option from syngate joins late.
#[test]
fn handshakes_of_near_and_far_clients_survive_the_closing_and_the_release() {
    std::thread::scope(|threads| {
        for (round_trip, cookies) in [(20, 1), (600, 1), (20, 2), (600, 2)] {
            let round_trip = Duration::from_millis(round_trip);
            threads.spawn(move || handshakes_survive(round_trip, cookies));
        }
    });
}

fn handshakes_survive(round_trip: Duration, cookies: u32) {
    let pair = Pair::steered_by_flow().unwrap();
    let host = &pair.server;
    let setting = format!("net.ipv4.tcp_syncookies={cookies}");
    host.must(["sysctl", "-qw", &setting]);
    let server = Serve::on("0.0.0.0:80").reuseport_if(cookies == 2);
    let mut service = Restarted::new(host, &server);
    let _far = Delay::start(&pair.client, round_trip).unwrap();
    let rate = 100 / slow();
    let load = Load::to(to_server())
        .rate(rate)
        .timeout(LONG)
        .duration(LONG);
    let mut load = load.start(&pair.client).unwrap();
    load.wait_flowing().unwrap();
    let mut before = Latch::new(host, "before");
    let run = service.begin(&format!("{};", before.hold()));
    before.wait();
    let during = u64::from(rate) * round_trip.as_millis() as u64 / 1_000;
    wait_parked(host, 2 * during + 5);
    // The end of the old process would cut them.
    let accepted = || host.must(words("ss -Htnp state established sport = :80"));
    let answered = || !accepted().contains("users:");
    wait_until(SOON, "the last answer of the old process", answered).unwrap();
    before.release();
    service.latch.wait();
    wait_parked(host, 3 * during + 10);
    let outcome = service.finish(run);
    let report = load.stop().unwrap();
    all_served(&report);
    // A SYN that is lost is sent again after a second.
    let most = 900.0 + round_trip.as_secs_f64() * 1e3;
    assert!(report.connect.max_ms < most, "{report}");
    assert_eq!(figure(&outcome, "park", "reset"), 0, "{outcome:?}");
    if cookies == 2 {
        assert!(host.tcp_counter("SyncookiesRecv").unwrap() > 0);
    }
    nothing_is_left(host, 1);
}

/// Python: listens with one more option of TCP, and sends back what it gets.
const ECHO: &str = "
import os, socket, sys, threading
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.IPPROTO_TCP, int(sys.argv[1]), 30)
listener.bind(('0.0.0.0', 80)); listener.listen(100)
open(sys.argv[2], 'w').write(str(os.getpid()))
def serve(client):
    client.sendall(client.recv(99)); client.close()
while True:
    threading.Thread(target=serve, args=listener.accept()[:1]).start()
";

/// linux/tcp.h
const TCP_DEFER_ACCEPT: u32 = 9;
const TCP_FASTOPEN: u32 = 23;

impl<'a> Restarted<'a> {
    fn echo(host: &'a Host, option: u32) -> Restarted<'a> {
        let pid = host.dir().join("echo.pid");
        let script = host.write("echo.py", ECHO);
        let (script, file) = (script.display(), pid.display());
        let start = format!("python3 {script} {option} {file} </dev/null >/dev/null 2>&1 &");
        host.must(["sh", "-c", &start]);
        host.wait_listen(80).unwrap();
        wait_until(SOON, "its pid", || pid.exists()).unwrap();
        Restarted::by(host, pid, start)
    }
}

/// The data comes with the SYN, so the connection waits in the room before its handshake is over.
#[test]
fn fast_open_goes_on() {
    const COUNT: u64 = 5;
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    for host in [host, &pair.client] {
        host.must(["sysctl", "-qw", "net.ipv4.tcp_fastopen=3"]);
    }
    let mut service = Restarted::echo(host, TCP_FASTOPEN);
    let go = host.dir().join("go");
    let client = format!(
        "import os, socket, time
def ask():
    c = socket.socket()
    c.sendto(b'hello', socket.MSG_FASTOPEN, ('{SERVER}', 80))
    return c
first = ask(); assert first.recv(9) == b'hello'
print('up', flush=True)
while not os.path.exists({go:?}): time.sleep(0.01)
all = [ask() for _ in range({COUNT})]
got = [c.recv(9) for c in all]
open({go:?} + '.got', 'w').write(str(got.count(b'hello')))"
    );
    let _client = python(&pair.client, &client);
    let opened = || host.tcp_counter("TCPFastOpenPassive").unwrap();
    let before = opened();
    let run = service.begin("");
    service.latch.wait();
    std::fs::write(&go, "").unwrap();
    wait_until(SOON, "SYNs with data", || opened() >= before + COUNT).unwrap();
    wait_parked(host, COUNT);
    service.finish(run);
    let got = host.dir().join("go.got");
    let all = || std::fs::read_to_string(&got).is_ok_and(|got| got == COUNT.to_string());
    wait_until(SOON, "all answers", all).unwrap();
    nothing_is_left(host, 1);
}

/// A connection is established only when its client says something; that may be long after the release.
#[test]
fn deferred_accepts_go_on() {
    const COUNT: usize = 5;
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let mut service = Restarted::echo(host, TCP_DEFER_ACCEPT);
    let go = host.dir().join("go");
    let client = format!(
        "import os, socket, time
all = [socket.create_connection(('{SERVER}', 80), 20) for _ in range(2 * {COUNT})]
for c in all[:{COUNT}]: c.sendall(b'hello')
print('up', flush=True)
while not os.path.exists({go:?}): time.sleep(0.01)
for c in all[{COUNT}:]: c.sendall(b'hello')
got = [c.recv(9) for c in all]
open({go:?} + '.got', 'w').write(str(got.count(b'hello')))"
    );
    let run = service.begin("");
    service.latch.wait();
    let _client = python(&pair.client, &client);
    wait_parked(host, COUNT as u64);
    let half_open = host.must(words("ss -Hntn state syn-recv"));
    assert_eq!(half_open.lines().count(), COUNT, "{half_open}");
    service.finish(run);
    std::fs::write(&go, "").unwrap();
    let got = host.dir().join("go.got");
    let all = || std::fs::read_to_string(&got).is_ok_and(|got| got == (2 * COUNT).to_string());
    wait_until(SOON, "all answers", all).unwrap();
    // Without it, the half-open ones would have been reset after the run's end.
    assert_ne!(programs(host), "");
    nothing_is_left(host, 1);
}

// The host's own firewall -------------------------------------------------------------------------

/// No rule is syngate's, and no SYN comes twice.
#[test]
fn a_firewall_that_is_flushed_and_loaded_and_limits_each_source_changes_nothing() {
    const COUNT: u32 = 20;
    let rules = format!(
        "table inet f {{ set seen {{ type ipv4_addr; flags dynamic; }}; chain in {{ \
         type filter hook input priority 0; tcp dport 80 ct state new \
         update @seen {{ ip saddr limit rate over 1/minute burst {COUNT} packets }} drop; }}; }}"
    );
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    host.must(["nft", &rules]);
    let mut service = Restarted::new(host, &Serve::on("0.0.0.0:80"));
    let run = service.begin("");
    service.latch.wait();
    let first = burst(COUNT).start(&pair.client).unwrap();
    wait_parked(host, COUNT.into());
    host.must(words("nft flush ruleset"));
    let second = burst(COUNT).start(&pair.client).unwrap();
    wait_parked(host, u64::from(2 * COUNT));
    host.must(["nft", &rules]);
    let legacy = "iptables-legacy -A INPUT -p tcp --dport 80 -m hashlimit --hashlimit-name s \
                  --hashlimit-mode srcip --hashlimit-above 1/min --hashlimit-burst 20 --syn -j DROP";
    host.must(words(legacy));
    let third = burst(COUNT).start(&pair.client).unwrap();
    wait_parked(host, u64::from(3 * COUNT));
    let outcome = service.finish(run);
    for load in [first, second, third] {
        all_served(&load.finish().unwrap());
    }
    no_syn_was_lost(&pair.client);
    assert_eq!(figure(&outcome, "park", "parked"), u64::from(3 * COUNT));
    nothing_is_left(host, 1);
}

// Figures -----------------------------------------------------------------------------------------

/// Packets of all network namespaces for which the queue of a processor had no place.
fn lost_by_machine() -> u64 {
    let table = std::fs::read_to_string("/proc/net/softnet_stat").unwrap();
    let dropped = table.lines().map(|line| line.split(' ').nth(1).unwrap());
    let dropped = dropped.map(|hex| u64::from_str_radix(hex, 16).unwrap());
    dropped.sum()
}

/// A flood of forged SYNs, from before the restart until behind it.
#[test]
#[ignore = "figures, of an optimised build; see docs/park.md"]
fn costs_of_a_flood() {
    for action in ["bare", "park", "handover"] {
        let pair = Pair::steered_by_flow().unwrap();
        let host = &pair.server;
        let server = Serve::on("0.0.0.0:80");
        let mut service = Restarted::new(host, &server);
        let load = Load::to(to_server()).rate(200).timeout(LONG).duration(LONG);
        let mut load = load.urgent().start(&pair.client).unwrap();
        load.wait_flowing().unwrap();
        let lost_before = lost_by_machine();
        let flood = Flood::to(to_server()).per_second(100_000);
        let flood = flood.start(&pair.client).unwrap();
        let (mut parked, mut unmoved, mut run_ms, mut phases) = (0, 0, 0.0, String::new());
        if action != "bare" {
            service.call = call(host, words(&format!("--port 80 --syn {action}")));
            let pause = "sleep 1";
            let script = format!("{}; {pause}; {}", service.stop, service.start);
            let began = std::time::Instant::now();
            let outcome = service.call.end(service.call.start(["sh", "-c", &script]));
            run_ms = began.elapsed().as_secs_f64() * 1e3;
            assert_eq!(outcome.code, 0, "{outcome:?}");
            parked = figure(&outcome, action, "parked");
            unmoved = figure(&outcome, action, "unmoved");
            phases = outcome.report["phases"].to_string();
        } else {
            std::thread::sleep(Duration::from_millis(1_500));
        }
        let sent = flood.stop().unwrap();
        let report = load.stop().unwrap();
        let again = pair.client.tcp_counter("TCPSynRetrans").unwrap();
        let lost = lost_by_machine() - lost_before;
        tell(&format!(
            "{action}: {sent} forged SYNs; {parked} parked, the run took {run_ms:.0} ms {phases}; {report}; clients sent \
             {again} SYNs again; the kernel did not move {unmoved} connections or handshakes during the run; the machine dropped \
             {lost} packets"
        ));
    }
}

/// Connections of a service whose group has a program, beside the same without, in turn.
#[test]
#[ignore = "figures, of an optimised build; see docs/park.md"]
fn costs_of_a_program_that_is_attached() {
    const ROUNDS: usize = 10;
    let pair = Pair::steered_by_flow().unwrap();
    let host = &pair.server;
    let server = Serve::on("0.0.0.0:80").reuseport();
    let _server = server.start(host).unwrap();
    let sources = pair.client_addresses(20).unwrap();
    let connect = || {
        let load = Load::to(to_server()).rate(4_000).sources(sources.clone());
        let load = load.duration(Duration::from_secs(1)).urgent();
        let report = load.start(&pair.client).unwrap().finish().unwrap();
        all_served(&report);
        let cpu = report.cpu_ms / report.connects as f64 * 1e3;
        (report.connect.p50_ms * 1e3, report.total.p50_ms * 1e3, cpu)
    };
    let mut rounds = [Vec::new(), Vec::new()];
    for round in 0..2 * ROUNDS {
        let attached = round % 2 == 1;
        let mut latch = Latch::new(host, "attached");
        let call = call(host, words("--port 80 --syn handover --ready-timeout 0s"));
        let run = attached.then(|| {
            let run = call.start(["sh", "-c", &latch.hold()]);
            latch.wait();
            run
        });
        rounds[usize::from(attached)].push(connect());
        if let Some(run) = run {
            latch.release();
            assert_eq!(call.end(run).code, 0);
        }
    }
    let median = |rounds: &[(f64, f64, f64)], of: fn(&(f64, f64, f64)) -> f64| {
        testkit::median(rounds.iter().map(of)).unwrap()
    };
    let told = |what: &str, of: fn(&(f64, f64, f64)) -> f64| {
        let [bare, attached] = [0, 1].map(|n| median(&rounds[n], of));
        tell(&format!(
            "{what}: {bare:.2} µs bare, {attached:.2} µs with a program: {:.3}",
            attached / bare
        ));
    };
    told("to connect", |one| one.0);
    told("to the answer", |one| one.1);
    told("CPU of a client and the kernel, each connection", |one| {
        one.2
    });
}

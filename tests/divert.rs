//! `--syn divert=ADDR`: new connections go to the other host of a pair while the gate is closed, and
//! finish there. It is done by nft alone.

mod harness;
mod killing;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use harness::latch::Latch;
use harness::{Backend, Call, Outcome, call, wait_shut, words};
use testkit::services::Serve;
use testkit::{Host, Load, NODE_B, NODE_B6, Running, Trio, VIP, VIP6};

const LONG: Duration = Duration::from_secs(60);

/// An instance that notes whom it has accepted.
struct Instance {
    _process: Running,
    accepted: PathBuf,
}

impl Instance {
    fn start(host: &Host, server: Serve) -> Instance {
        let accepted = host.dir().join("accepted");
        std::fs::write(&accepted, "").unwrap();
        let process = server.log_accepts(&accepted).start(host).unwrap();
        Instance {
            _process: process,
            accepted,
        }
    }

    fn accepted(&self) -> Vec<SocketAddr> {
        let log = std::fs::read_to_string(&self.accepted).unwrap();
        log.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Those of clients: not the run that asks.
    fn count(&self) -> usize {
        let of_clients = |a: &SocketAddr| ["10.79.0.9", "fd79::9"].contains(&&*a.ip().to_string());
        self.accepted().into_iter().filter(of_clients).count()
    }
}

/// The service, on all addresses of both nodes.
fn both(trio: &Trio) -> [Instance; 2] {
    [&trio.a, &trio.b].map(|host| {
        let server = Serve::on("0.0.0.0:80").and_on("[::]:80");
        Instance::start(host, server)
    })
}

fn divert<'a>(trio: &'a Trio, options: &str) -> Call<'a> {
    let divert = format!(
        "--port 80 --syn divert={NODE_B},{NODE_B6} --to {VIP},{VIP6} --drain 0s {options}"
    );
    call(&trio.a, words(&divert)).on(Backend::Nft)
}

/// One request and its answer.
fn ask(from: &Host, to: &str) {
    let load = Load::to(to).rate(1_000).timeout(LONG);
    let load = load.duration(Duration::from_millis(1));
    let report = load.start(from).unwrap().finish().unwrap();
    assert_eq!(
        (report.ok, report.failed()),
        (report.sent, 0),
        "{to}: {report}"
    );
    assert!(report.sent > 0);
}

fn figure(outcome: &Outcome, name: &str) -> u64 {
    let divert = &outcome.report["divert"];
    divert[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{outcome:?}"))
}

#[test]
fn new_connections_go_to_the_peer() {
    let trio = Trio::new().unwrap();
    let [at_a, at_b] = both(&trio);
    let before = trio.a.ruleset();
    let mut latch = Latch::new(&trio.a, "down");
    let call = divert(&trio, "-v");
    let run = call.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    wait_shut(&trio.a, &[80]);
    for to in [format!("{VIP}:80"), format!("[{VIP6}]:80")] {
        ask(&trio.client, &to);
    }
    assert_eq!(at_a.count(), 0, "{:?}", at_a.accepted());
    let diverted = at_b.count();
    assert!(diverted >= 2, "{:?}", at_b.accepted());
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(figure(&outcome, "diverted"), diverted as u64, "{outcome:?}");
    assert_eq!(figure(&outcome, "cut"), 0);
    eprintln!("{}", outcome.stderr);
    ask(&trio.client, &format!("{VIP}:80"));
    assert!(at_a.count() > 0);
    assert_eq!(at_b.count(), diverted);
    assert_eq!(trio.a.ruleset(), before);
}

//! The example for keepalived: the shared address stays while syngate restarts the service, and moves when the
//! service is down.

mod harness;

use std::time::Duration;

use harness::{SYNGATE, call, words};
use testkit::services::{Haproxy, HaproxyConfig};
use testkit::{Fleet, Host, Running, slow, wait_until};

const VIP: &str = "10.82.0.100";
/// keepalived takes some seconds to find out who is there.
const SOON: Duration = Duration::from_secs(30);
/// In the names of contrib/keepalived.
const CONFIG: &str = include_str!("../contrib/keepalived/keepalived.conf");
const CHECK: &str = include_str!("../contrib/keepalived/syngate-vrrp-check");

/// Two load balancers, the first of which has the address, and the haproxy of each.
struct Pair {
    fleet: Fleet,
    _keepalived: Vec<Running>,
}

impl Pair {
    fn new() -> Pair {
        let fleet = Fleet::steered_by_flow(2).unwrap();
        let keepalived = fleet
            .servers
            .iter()
            .zip([("MASTER", "100"), ("BACKUP", "90")]);
        let keepalived = keepalived.map(|(host, (state, priority))| {
            let config = HaproxyConfig::bind("0.0.0.0:80");
            let haproxy = Haproxy::debian_init(host, &config).unwrap();
            haproxy.start().unwrap();
            start(host, state, priority)
        });
        let pair = Pair {
            _keepalived: keepalived.collect(),
            fleet,
        };
        pair.wait_for_address(0);
        pair
    }

    fn has_address(&self, server: usize) -> bool {
        let addresses = self.fleet.servers[server].must(["ip", "-brief", "-4", "address"]);
        addresses.contains(&format!("{VIP}/"))
    }

    #[track_caller]
    fn wait_for_address(&self, server: usize) {
        let has = || self.has_address(server) && !self.has_address(1 - server);
        wait_until(SOON, &format!("the address on {server}"), has).unwrap();
    }

    /// How often the second server has got the address.
    fn moves(&self) -> usize {
        let log = self.fleet.servers[1].dir().join("moves");
        let log = std::fs::read_to_string(log).unwrap();
        let got = |line: &&str| line.contains(VIP) && !line.contains("Deleted");
        log.lines().filter(got).count()
    }

    fn answers(&self) -> bool {
        let ask = format!("curl -fsSo /dev/null --max-time 20 http://{VIP}/");
        self.fleet.client.sh(&ask).unwrap().ok()
    }
}

fn start(host: &Host, state: &str, priority: &str) -> Running {
    // keepalived runs no script that others than root could replace.
    host.write("syngate-vrrp-check", CHECK);
    host.must([
        "chmod",
        "755",
        &host.dir().join("syngate-vrrp-check").display().to_string(),
    ]);
    std::os::unix::fs::symlink(SYNGATE, host.dir().join("syngate")).unwrap();
    host.bind(host.dir(), "/usr/local/sbin").unwrap();
    let config = CONFIG
        .replace("10.0.0.100", VIP)
        .replace("MASTER", state)
        .replace("priority 100", &format!("priority {priority}"));
    let config = host.write("keepalived.conf", config);
    let moves = host.dir().join("moves");
    let monitor = format!(
        "ip monitor address >{0} & exec keepalived -nlD -f {1} >{0}.log 2>&1",
        moves.display(),
        config.display()
    );
    let mut keepalived = host.command("sh");
    keepalived.args(["-c", &monitor]);
    keepalived.env("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
    host.spawn(&mut keepalived).unwrap()
}

/// A restart that takes longer than keepalived waits for the service.
fn slow_restart() -> String {
    format!(
        "service haproxy stop; sleep {}; service haproxy start",
        5 * slow()
    )
}

#[test]
fn the_address_stays_in_a_restart_and_moves_without_syngate() {
    let pair = Pair::new();
    let first = &pair.fleet.servers[0];
    let outcome = call(first, words("--port 80"))
        .unhurried()
        .start(["sh", "-c", &slow_restart()]);
    assert!(pair.answers(), "the client waits for it");
    let outcome = outcome.output().unwrap();
    assert!(outcome.status.success(), "{outcome:?}");
    assert_eq!(pair.moves(), 0, "the address has stayed");
    assert!(pair.has_address(0));

    // The same without syngate.
    first.must(["sh", "-c", &slow_restart()]);
    pair.wait_for_address(0);
    assert!(pair.moves() > 0, "the address has moved");
}

#[test]
fn the_address_moves_when_the_service_is_down() {
    let pair = Pair::new();
    let first = &pair.fleet.servers[0];
    // As long as the gate is closed it may come back, and not longer.
    let options = format!("--port 80 --max-closed {}s", 4 * slow());
    let _run = call(first, words(&options)).start(["sh", "-c", "service haproxy stop; sleep 600"]);
    pair.wait_for_address(1);
    assert!(pair.answers(), "the second one serves");
}

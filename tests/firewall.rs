//! Rules of the host's own firewall that have seen a SYN before the gate drops it: real clients from a
//! second host.

mod harness;

use std::time::Duration;

use harness::{Outcome, SOON, call, python, words};
use testkit::services::{Haproxy, HaproxyConfig};
use testkit::{Host, Load, Pair, RunningLoad, SERVER, wait_until};

/// The load on port 80 of the server, flowing.
fn load(pair: &Pair, rate: u32) -> RunningLoad {
    let load = Load::to(format!("{SERVER}:80")).rate(rate);
    let load = load.duration(Duration::from_secs(60));
    let mut load = load.start(&pair.client).unwrap();
    load.wait_flowing().unwrap();
    load
}

#[track_caller]
fn gate(host: &Host, options: &str, command: Vec<String>) -> Outcome {
    let outcome = call(host, words(options)).run(command);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    outcome
}

fn haproxy(pair: &Pair) -> Haproxy<'_> {
    let haproxy = Haproxy::debian_init(&pair.server, &HaproxyConfig::port(80)).unwrap();
    haproxy.start().unwrap();
    haproxy
}

/// SYNPROXY answers a SYN before the input hook, and sends its own SYN to the service once.
#[test]
fn behind_synproxy_nobody_hangs() {
    let pair = Pair::steered_by_flow().unwrap();
    let host = &pair.server;
    host.must(["sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_loose=0"]);
    for family in ["iptables-legacy", "ip6tables-legacy"] {
        let dropped = "-A INPUT -p tcp --dport 80 -m conntrack --ctstate INVALID -j DROP";
        for rule in [
            "-t raw -A PREROUTING -p tcp --dport 80 --syn -j CT --notrack",
            "-A INPUT -p tcp --dport 80 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY \
             --sack-perm --timestamp --wscale 7 --mss 1460",
            dropped,
        ] {
            host.must([vec![family], rule.split(' ').collect()].concat());
        }
    }
    let haproxy = haproxy(&pair);
    for (options, scope) in [
        ("--port 80", "--hook prerouting"),
        ("--port 80 --backend iptables-legacy", "--hook prerouting"),
        ("--port 80 --syn hold", ""),
        (
            "--port 80 --syn hold --hook prerouting",
            "--hook prerouting",
        ),
    ] {
        let running = load(&pair, 50);
        let outcome = gate(host, options, haproxy.restart_argv());
        assert_eq!(outcome.report["scope"].as_str().unwrap_or(""), scope);
        let report = running.stop().unwrap();
        // SYNPROXY may have answered one whose ACK came when the gate was closed.
        let in_between = u64::from(!scope.is_empty());
        assert!(report.failed() <= in_between, "{options}: {report}");
    }
}

/// The data connection of FTP is RELATED when its SYN has come a second time, too.
#[test]
fn expectations_are_not_used_up() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let rules = "table inet guard {
        ct helper ftp { type \"ftp\" protocol tcp; }
        chain pre { type filter hook prerouting priority filter; tcp dport 21 ct helper set \"ftp\"; }
        chain in { type filter hook input priority filter; policy drop;
            ct state established,related accept; tcp dport 21 accept; }
    }";
    host.must(["nft", rules]);
    let ftpd = format!(
        "import socket, threading
def listen(port): return socket.create_server(('{SERVER}', port))
data, control = listen(40049), listen(21)
print('up', flush=True)
def give():
    while True: k = data.accept()[0]; k.sendall(b'file'); k.close()
threading.Thread(target=give, daemon=True).start()
k = control.accept()[0]
k.sendall(b'220 hello\\r\\n'); k.recv(99)
k.sendall(b'227 Entering Passive Mode (10,77,0,1,156,113)\\r\\n'); k.recv(99)"
    );
    let _server = python(host, &ftpd);
    let closed = host.dir().join("closed");
    let client = format!(
        "import os, socket, time
k = socket.create_connection(('{SERVER}', 21)); k.recv(99); k.sendall(b'PASV\\r\\n'); k.recv(99)
print('up', flush=True)
while not os.path.exists({closed:?}): time.sleep(0.01)
d = socket.create_connection(('{SERVER}', 40049), 9); d.settimeout(9); got = d.recv(9)
open({closed:?} + '.got', 'wb').write(got)"
    );
    let _client = python(&pair.client, &client);
    let script = format!(
        ": >{0}; for n in 1 2 3; do sleep 0.1; done",
        closed.display()
    );
    let options = words("--port 21,40000-40100 --drain 0 --ready-timeout 0");
    let outcome = call(host, options).run(["sh", "-c", &script]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(
        outcome.report["syns_stopped"].as_u64() > Some(0),
        "{outcome:?}"
    );
    let got = host.dir().join("closed.got");
    let has_it = || std::fs::read(&got).is_ok_and(|got| got == b"file");
    wait_until(SOON, "the file", has_it).unwrap();
}

/// Where the gate stands by itself, by the rules of the host.
#[test]
fn the_hook_is_chosen_by_the_firewall() {
    let nft = |rule: &str| {
        let rule = format!(
            "table inet t {{ set s {{ type ipv4_addr; flags dynamic; timeout 9s; }}; chain c {{ {rule}; }}; }}"
        );
        vec!["nft".to_owned(), rule]
    };
    let hooked =
        |hook: &str, rule: &str| nft(&format!("type filter hook {hook} priority 0; {rule}"));
    let by = words;
    for (rule, early) in [
        (hooked("input", "tcp dport 22 ct count over 3 drop"), true),
        (
            hooked("input", "tcp dport 22 limit rate over 9/second drop"),
            true,
        ),
        (
            hooked(
                "input",
                "tcp dport 22 update @s { ip saddr limit rate over 9/minute } drop",
            ),
            true,
        ),
        (nft("tcp dport 22 add @s { ip saddr }"), true),
        (
            hooked("input", "limit rate 5/minute log prefix \"x\""),
            false,
        ),
        (hooked("forward", "limit rate 5/second accept"), false),
        (hooked("input", "tcp dport 22 accept"), false),
        (
            by("iptables-legacy -A INPUT -m recent --name q --update --seconds 9 -j DROP"),
            true,
        ),
        (
            by("ip6tables-legacy -A INPUT -m limit --limit 9/s -j ACCEPT"),
            true,
        ),
        (
            by("iptables-legacy -A INPUT -m limit --limit 9/s -j LOG"),
            false,
        ),
        (
            by("iptables-nft -A INPUT -m recent --name q --update --seconds 9 -j DROP"),
            true,
        ),
    ] {
        let host = Host::new().unwrap();
        host.must(&rule);
        let dry = |options: &str| {
            let plan = call(&host, words(options)).run(["true"]);
            assert_eq!(plan.code, 0, "{plan:?}");
            plan
        };
        let planned = dry("--port 80 --max-closed 9s --drain 0 --ready-timeout 0");
        let scope = planned.report["scope"].as_str().unwrap_or("");
        assert_eq!(
            scope,
            if early { "--hook prerouting" } else { "" },
            "{rule:?}"
        );
        let told = dry("--port 80 --drain 0 --ready-timeout 0 --hook input");
        let warned = told.report["warnings"]
            .to_string()
            .contains("--hook auto avoids");
        assert_eq!(warned, early, "{rule:?}");
    }
    // NAT may send packets elsewhere: prerouting would gate more.
    let host = Host::new().unwrap();
    host.must(nft("tcp dport 22 add @s { ip saddr }"));
    host.must(["nft", "table ip n { chain c { type nat hook prerouting priority -100; tcp dport 81 dnat to 10.0.0.9; }; }"]);
    let outcome = call(&host, words("--port 80 --drain 0 --ready-timeout 0")).run(["true"]);
    assert_eq!(outcome.report["scope"], serde_json::Value::Null);
    let warnings = outcome.report["warnings"].to_string();
    assert!(warnings.contains("stays in the input hook"), "{warnings}");
}

//! Rules of the host's own firewall that have seen a SYN before the gate drops it: real clients from a
//! second host.

mod harness;

use std::time::Duration;

use harness::latch::Latch;
use harness::{Outcome, SOON, call, python, stopped_syns, words};
use testkit::services::{Haproxy, HaproxyConfig};
use testkit::{Delay, Host, Load, LoadReport, Pair, RunningLoad, SERVER, wait_until};

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

/// SYNPROXY answers a SYN before the input hook, and sends its own SYN to the service once. Some clients
/// have SYNPROXY's answer when the gate closes, and their ACKs come behind that.
#[test]
fn behind_synproxy_nobody_hangs() {
    let pair = Pair::steered_by_flow().unwrap();
    let host = &pair.server;
    // Behind SYNPROXY a client hangs that takes the source port of a connection that is still tracked, with syngate or
    // without: so connections that are over are soon forgotten, and there are many ports.
    pair.client
        .must(["sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535"]);
    for setting in [
        "tcp_loose=0",
        "tcp_timeout_time_wait=1",
        "tcp_timeout_last_ack=1",
        "tcp_timeout_close=1",
    ] {
        host.must([
            "sysctl",
            "-qw",
            &format!("net.netfilter.nf_conntrack_{setting}"),
        ]);
    }
    for family in ["iptables-legacy", "ip6tables-legacy"] {
        // Without timestamps, by which Linux 6.18 ignores the ACK that SYNPROXY sends to the service.
        let dropped = "-A INPUT -p tcp --dport 80 -m conntrack --ctstate INVALID -j DROP";
        for rule in [
            "-t raw -A PREROUTING -p tcp --dport 80 --syn -j CT --notrack",
            "-A INPUT -p tcp --dport 80 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY \
             --sack-perm --wscale 7 --mss 1460",
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
        ("--port 80 --syn park", ""),
        (
            "--port 80 --syn hold --hook prerouting",
            "--hook prerouting",
        ),
    ] {
        let drops = !options.contains("--syn");
        let far = drops.then(|| Delay::start(&pair.client, Duration::from_millis(80)).unwrap());
        let running = load(&pair, 50);
        let outcome = gate(host, options, haproxy.restart_argv());
        assert_eq!(outcome.report["scope"].as_str().unwrap_or(""), scope);
        let report = running.stop().unwrap();
        drop(far);
        // SYNPROXY has its clients send their requests a round trip later than others do: on a busy
        // machine one may come after the drain.
        let cut = 1 + outcome.report["drain_left"]["busy"].as_u64().unwrap_or(0);
        assert!(
            report.timed_out == 0 && report.failed() <= cut,
            "{options}: {report}; {outcome:?}"
        );
    }
}

/// The data connection of FTP is RELATED when its SYN has come a second time, too, and when it waits in a room.
#[test]
fn expectations_are_not_used_up() {
    ["drop", "park"].into_iter().for_each(is_related);
}

fn is_related(action: &str) {
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
    let options = format!("--port 21,40000-40100 --drain 0 --ready-timeout 0 --syn {action}");
    let outcome = call(host, words(&options)).run(["sh", "-c", &script]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let stopped = match action {
        "drop" => &outcome.report["syns_stopped"],
        _ => &outcome.report["park"]["parked"],
    };
    assert!(stopped.as_u64() > Some(0), "{outcome:?}");
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

/// The rules' second look at a SYN would be one too many for these clients, or is none at all.
#[test]
fn what_counts_a_syn_is_found_in_each_form() {
    const SYN: &str = "tcp dport 80 tcp flags & (syn | ack) == syn";
    const LIMIT: &str = "limit rate over 3/minute burst 3 packets";
    let input = |declared: &str, rule: &str| {
        format!(
            "table inet f {{ {declared} chain in {{ type filter hook input priority 0; {rule}; }}; }}"
        )
    };
    let ban = "set ban { type ipv4_addr; flags dynamic, timeout; timeout 1m; };";
    let named = "limit lim { rate over 3/minute burst 3 packets; }; quota q { over 260 bytes; };";
    for (rules, hook) in [
        (
            input("", &format!("{SYN} {LIMIT} log prefix \"x\" drop")),
            "prerouting",
        ),
        (
            input(
                ban,
                &format!("{SYN} add @ban {{ ip saddr {LIMIT} }} log prefix \"x\" drop"),
            ),
            "prerouting",
        ),
        (
            input(
                named,
                &format!("{SYN} limit name tcp dport map {{ 80 : \"lim\" }} drop"),
            ),
            "prerouting",
        ),
        (
            input(named, &format!("{SYN} quota name \"q\" drop")),
            "prerouting",
        ),
        (input("", "limit rate 3/minute log prefix \"x\""), "input"),
    ] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let _haproxy = haproxy(&pair);
        host.must(["nft", &rules]);
        let (outcome, report) = clients_of_a_restart(&pair, "--port 80");
        let scope = outcome.report["scope"].as_str().unwrap_or("input");
        assert!(scope.contains(hook), "{rules}: {scope}");
        assert_eq!(report.failed(), 0, "{rules}: {report}");
    }
}

/// SYNs that should be held are dropped, behind a rule that has counted them.
#[test]
fn what_is_dropped_against_the_plan_is_told() {
    let host = Host::new().unwrap();
    for rule in [
        "-A INPUT -p tcp --dport 80 -m limit --limit 3/min -j ACCEPT",
        "-t security -A INPUT -p tcp --dport 80 -j ACCEPT",
    ] {
        host.must([vec!["iptables-legacy"], rule.split(' ').collect()].concat());
    }
    let run = |options: &str| call(&host, words(&format!("{options} --ready-timeout 0")));
    let told = "a limit counts a SYN that the gate drops in the input hook";
    let held = run("--port 80 --syn hold --backend iptables-legacy").run(["true"]);
    assert_eq!(held.report["backend"], "iptables-legacy", "{held:?}");
    let warned = held.report["warnings"].to_string();
    assert!(
        warned.contains("dropped and not held") && warned.contains(told),
        "{held:?}"
    );
    let none = run("--port 80 --syn auto")
        .fault("no-nfqueue")
        .run(["true"]);
    assert!(
        none.report["warnings"].to_string().contains(told),
        "{none:?}"
    );
    host.must(words("iptables-legacy -t security -F"));
    let held = run("--port 80 --syn hold --backend iptables-legacy").run(["true"]);
    assert!(!held.stderr.contains(told), "{held:?}");
}

/// No gate comes before a rule at priority -400 of prerouting. That is told, and what is held is counted
/// once.
#[test]
fn what_comes_before_any_gate_is_told() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let haproxy = haproxy(&pair);
    host.must([
        "nft",
        "table inet f { set ban { type ipv4_addr; flags dynamic; }; \
         chain pre { type filter hook prerouting priority -400; tcp dport 80 \
         tcp flags & (syn | ack) == syn update @ban { ip saddr limit rate over 3/minute burst 3 packets } \
         drop; }; }",
    ]);
    let told = "no gate can come before that rule; --syn hold avoids that";
    let outcome = gate(host, "--port 80", haproxy.restart_argv());
    assert!(outcome.stderr.contains(told), "{outcome:?}");
    let (outcome, report) = clients_of_a_restart(&pair, "--port 80 --syn hold");
    assert!(!outcome.stderr.contains(told), "{outcome:?}");
    assert_eq!(report.failed(), 0, "{report}");
}

/// The host's own NAT sends the gated port elsewhere, where the gate does not stop it.
#[test]
fn a_port_that_nat_sends_elsewhere_is_told() {
    let iptables = |variant: &str, rule: &str| {
        vec![
            format!("iptables-{variant}"),
            "-t".to_owned(),
            "nat".to_owned(),
        ]
        .into_iter()
        .chain(words(rule))
        .collect::<Vec<_>>()
    };
    let nft = |rule: &str| {
        let chain = "chain p { type nat hook prerouting priority -100;";
        vec![
            "nft".to_owned(),
            format!("table ip n {{ {chain} {rule}; }}; }}"),
        ]
    };
    for rule in [
        iptables(
            "legacy",
            "-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8080",
        ),
        iptables(
            "nft",
            "-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8080",
        ),
        iptables(
            "nft",
            "-A PREROUTING -p tcp -m multiport --dports 22,79:81 -j DNAT --to-destination 10.77.0.1:8080",
        ),
        nft("tcp dport 80 redirect to :8080"),
        nft("tcp dport { 80, 443 } dnat to 10.77.0.1:8080"),
        nft("meta l4proto tcp redirect to :tcp dport map { 80 : 8080 }"),
        nft("dnat to ip daddr . tcp dport map { 10.77.0.1 . 80 : 10.77.0.1 . 8080 }"),
    ] {
        let host = Host::new().unwrap();
        host.must(&rule);
        for (options, told) in [
            ("--port 80", true),
            ("--port 80 --syn hold", true),
            ("--port 90", false),
            ("--port 80 --hook prerouting", false),
        ] {
            let outcome = call(&host, words(&format!("{options} --ready-timeout 0"))).run(["true"]);
            let says = outcome
                .stderr
                .contains("may send packets to 80 elsewhere before they reach the gate");
            assert_eq!(says, told, "{rule:?}: {options}: {outcome:?}");
        }
    }
}

/// Three clients that come while nobody listens and the gate is closed.
#[track_caller]
fn clients_of_a_restart(pair: &Pair, options: &str) -> (Outcome, LoadReport) {
    let host = &pair.server;
    let mut latch = Latch::new(host, "down");
    let restart = format!(
        "service haproxy stop; {}; service haproxy start",
        latch.hold()
    );
    let call = call(host, words(options));
    let run = call.start(["sh", "-c", &restart]);
    latch.wait();
    let load = Load::to(format!("{SERVER}:80")).rate(100);
    let load = load.duration(Duration::from_millis(30)).timeout(SOON * 2);
    let load = load.start(&pair.client).unwrap();
    wait_until(SOON, "three SYNs", || stopped_syns(host) >= 3).unwrap();
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    (outcome, load.finish().unwrap())
}

//! `--syn redirect=PORT`: new connections go to a standby while the gate is closed, and finish there.
//! On the backend of the suite.

mod harness;
mod killing;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::instance::{Instance, ask};
use harness::latch::Latch;
use harness::{
    Backend, Call, Outcome, SOON, all_refused, call, gated, has_taken_its_signals, ms, shut,
    signal_again, tell, wait_shut, words,
};
use killing::Moment;
use nix::sys::signal::Signal;
use testkit::services::{Haproxy, HaproxyConfig, Nginx, NginxConfig, Serve};
use testkit::{CLIENT, Hold, Host, Load, Pair, Running, SERVER, SERVER6, slow, wait_until};

const LONG: Duration = Duration::from_secs(60);
const STANDBY: u16 = 8080;

/// Both, on all addresses of a host.
fn both(host: &Host) -> [Instance; 2] {
    let on = |port| Serve::on(format!("0.0.0.0:{port}")).and_on(format!("[::]:{port}"));
    [
        Instance::start(host, "main", on(80)),
        Instance::start(host, "standby", on(STANDBY)),
    ]
}

/// Both send back what they get, IPv4.
fn both_echo(host: &Host) -> [Running; 2] {
    [80, STANDBY].map(|port| {
        let server = Serve::on(format!("0.0.0.0:{port}")).echo();
        server.start(host).unwrap()
    })
}

fn redirect<'a>(host: &'a Host, options: &str) -> Call<'a> {
    let redirect = format!("--port 80 --syn redirect={STANDBY} --drain 0s");
    call(host, words(&redirect)).args(words(options))
}

/// Those of the host's own firewall.
fn rules_before(host: &Host) -> String {
    Backend::of_the_suite().prime(host);
    host.ruleset()
}

fn figure(outcome: &Outcome, name: &str) -> u64 {
    let redirect = &outcome.report["redirect"];
    redirect[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{outcome:?}"))
}

// Who goes where ----------------------------------------------------------------------------------

/// The host's own NAT comes first, so that clients come to the main port, where nobody listens any more. No
/// connection shows them.
#[test]
fn clients_that_are_refused_at_the_main_port_are_told() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let [main, _standby] = both(host);
    let nat = "table ip leads { chain in { type nat hook prerouting priority -150; \
               tcp dport 8088 redirect to :80; }; }";
    let nat = host.write("nat.nft", nat);
    host.must(["nft", "-f", nat.to_str().unwrap()]);
    let mut latch = Latch::new(host, "gone");
    let call = call(host, words("--port 80 --ready-timeout 0 --linger 0"));
    let call = call.args([format!("--syn=redirect={STANDBY}")]);
    let run = call.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    drop(main);
    let client = |port: u16| {
        let text = format!("exec 3<>/dev/tcp/{SERVER}/{port}");
        pair.client.run(["bash", "-c", &text])
    };
    assert!(client(8088).is_err() && client(80).is_ok());
    latch.release();
    let outcome = call.end(run);
    let told = "the closed gate did not redirect a connection from";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
}

#[test]
fn new_connections_to_this_host_go_to_the_standby() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let [main, standby] = both(host);
    let elsewhere = Instance::start(&pair.client, "elsewhere", Serve::on("0.0.0.0:80"));
    let container = container(&pair);
    host.must(["ip", "address", "add", "10.77.0.99/32", "dev", "lo"]);
    let before = rules_before(host);
    let mut latch = Latch::new(host, "down");
    let call = redirect(host, "");
    let run = call.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    wait_shut(host, &[80]);

    let from_outside = [format!("{SERVER}:80"), format!("[{SERVER6}]:80")];
    let local = ["127.0.0.1:80", "[::1]:80", "10.77.0.99:80"];
    for to in &from_outside {
        ask(&pair.client, to);
    }
    for to in local
        .iter()
        .copied()
        .chain(from_outside.iter().map(String::as_str))
    {
        ask(host, to);
    }
    assert_eq!(main.count(), 0, "{:?}", main.accepted());
    let at_standby = standby.count();
    assert!(at_standby >= 7, "{:?}", standby.accepted());
    // Addresses are as they were: who came from outside, who asked 127.0.0.1.
    let sources: Vec<String> = standby
        .accepted()
        .iter()
        .map(|a| a.ip().to_string())
        .collect();
    for source in [testkit::CLIENT, testkit::CLIENT6, "127.0.0.1", "::1"] {
        assert!(
            sources.iter().any(|s| s == source),
            "{source} in {sources:?}"
        );
    }
    // A local client of another host's service on the same port.
    ask(host, &format!("{}:80", testkit::CLIENT));
    assert_eq!(standby.count(), at_standby, "it is not for the standby");
    let of_local_client = elsewhere.count();
    assert!(of_local_client > 0);
    // A container's, which this host forwards.
    ask(&container, &format!("{}:80", testkit::CLIENT));
    assert_eq!(standby.count(), at_standby, "it is not for the standby");
    assert!(elsewhere.count() > of_local_client);
    // But this host's own address is this host's, from there as well.
    ask(&container, &from_outside[0]);
    let at_standby = standby.count();
    assert_eq!(main.count(), 0);

    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.report["action"], "redirect");
    assert_eq!(figure(&outcome, "redirected"), at_standby as u64);
    assert_eq!(figure(&outcome, "cut"), 0);
    assert_eq!(figure(&outcome, "port"), u64::from(STANDBY));
    ask(&pair.client, &from_outside[0]);
    assert!(main.count() > 0, "it is for the main instance again");
    assert_eq!(standby.count(), at_standby);
    assert_eq!(host.ruleset(), before);
}

/// A host behind the server, which forwards what it sends to others.
fn container(pair: &Pair) -> Host {
    let container = pair.server.neighbour().unwrap();
    pair.server.plug("eth1", &container, "eth0").unwrap();
    for (host, address, port) in [
        (&pair.server, "10.90.0.1/24", "eth1"),
        (&container, "10.90.0.2/24", "eth0"),
    ] {
        host.must(["ip", "address", "add", address, "dev", port]);
        host.must(["ip", "link", "set", port, "up"]);
    }
    container.must(words("ip route add default via 10.90.0.1"));
    pair.server.must(words("sysctl -qw net.ipv4.ip_forward=1"));
    let back = ["ip", "route", "add", "10.90.0.0/24", "via", SERVER];
    pair.client.must(back);
    container
}

/// They are not new, whether connection tracking has met them before or not.
#[test]
fn established_connections_stay_and_redirected_ones_finish() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _echo = both_echo(host);
    let to = format!("{SERVER}:80");
    let flowing =
        |host: &Host, to: &str| Hold::start(host, to, Duration::from_millis(2), LONG).unwrap();
    let at_main = [flowing(&pair.client, &to), flowing(host, "127.0.0.1:80")];
    let mut latch = Latch::new(host, "down");
    let call = redirect(host, "");
    let run = call.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    wait_shut(host, &[80]);
    let at_standby = [flowing(&pair.client, &to), flowing(host, "127.0.0.1:80")];
    let connections = |port: u16| {
        let filter = format!("( sport = :{port} )");
        let rows = host.must(["ss", "-Htn", "state", "established", &filter]);
        rows.lines().count()
    };
    assert_eq!((connections(80), connections(STANDBY)), (2, 2));

    latch.release();
    wait_until(SOON, "an open gate", || shut(host).is_empty()).unwrap();
    // It is open, and they go on: in both directions, from inside and outside.
    let late = flowing(&pair.client, &to);
    assert_eq!((connections(80), connections(STANDBY)), (3, 2));
    assert!(gated(host), "the rules stay for the linger");
    let whole = |hold: Hold| {
        let report = hold.stop().unwrap();
        assert_eq!(report.broken, None, "{report:?}");
        assert!(report.echoes > 0, "{report:?}");
    };
    at_standby.into_iter().for_each(whole);
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(
        (figure(&outcome, "redirected"), figure(&outcome, "cut")),
        (2, 0)
    );
    assert_eq!(outcome.report["redirect"]["linger_timed_out"], false);
    at_main.into_iter().chain([late]).for_each(whole);
}

/// Sends a byte forth and back over the same port each time, until there is a file of that name; then it
/// ends with a reset, so that nothing of it is left in TIME_WAIT.
struct FromOnePort<'a> {
    pair: &'a Pair,
    name: &'static str,
    client: Running,
}

impl<'a> FromOnePort<'a> {
    /// Returns when its only connection to the port is there.
    fn start(pair: &'a Pair, name: &'static str, port: u16) -> FromOnePort<'a> {
        let script = format!(
            "import os, socket, struct, time
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.settimeout(30)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
s.bind(('{CLIENT}', 40001)); s.connect(('{SERVER}', 80))
while not os.path.exists('{end}'):
    s.send(b'?'); assert s.recv(1) == b'?'; time.sleep(0.005)
s.close()",
            end = pair.client.dir().join(name).display()
        );
        let mut python = pair.client.command("python3");
        let client = pair.client.spawn(python.args(["-c", &script])).unwrap();
        let connected = || FromOnePort::established(pair, port) == 1;
        wait_until(SOON, name, connected).unwrap();
        FromOnePort { pair, name, client }
    }

    fn established(pair: &Pair, port: u16) -> usize {
        let filter = format!("( sport = :{port} )");
        let rows = ["ss", "-Htn", "state", "established", &filter];
        pair.server.must(rows).lines().count()
    }

    /// It has gone on to its end.
    fn end(mut self) {
        self.pair.client.write(self.name, "");
        assert!(self.client.wait().unwrap().success(), "{}", self.name);
    }
}

/// The rules of one run go while a connection is open: the kernel no longer sees its packets, and keeps it
/// as established for days. In the next run a new connection has the same addresses and ports.
#[test]
fn what_was_open_at_the_end_of_a_run_keeps_nobody_from_the_standby() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _echo = both_echo(host);
    rules_before(host);
    let before = FromOnePort::start(&pair, "before", 80);
    assert_eq!(redirect(host, "--settle 0").run(["true"]).code, 0);
    before.end();
    let gone = || FromOnePort::established(&pair, 80) == 0;
    wait_until(SOON, "its end", gone).unwrap();

    let mut latch = Latch::new(host, "down");
    let call = redirect(host, "");
    let run = call.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    wait_shut(host, &[80]);
    let during = FromOnePort::start(&pair, "during", STANDBY);
    during.end();
    latch.release();
    let outcome = call.end(run);
    assert_eq!((outcome.code, figure(&outcome, "redirected")), (0, 1));
}

/// The kernel remembers who was redirected, also when the rules have gone: for two minutes, or for days if
/// it has not seen the end. A connection to the service has the same addresses and ports when the next
/// run has connections tracked again.
#[test]
fn who_was_redirected_before_takes_no_connection_of_the_service_along() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let main = Serve::on("0.0.0.0:80").echo();
    let _main = main.start(host).unwrap();
    rules_before(host);
    // On a standby that is stopped with the run, and on one that goes on, and does not hear of the end.
    for goes_on in [false, true] {
        let standby = Serve::on(format!("0.0.0.0:{STANDBY}")).echo();
        let by_hand = goes_on.then(|| standby.start(host).unwrap());
        let started = format!("exec {}", standby.argv().unwrap().join(" "));
        let options = match goes_on {
            true => vec![],
            false => vec!["--standby".to_owned(), started],
        };
        let begin = |name: &str| {
            let latch = Latch::new(host, &format!("{name}{goes_on}"));
            let call = redirect(host, "--settle 0 --linger 0s").args(&options);
            let run = call.start(["sh", "-c", &latch.hold()]);
            latch.wait();
            wait_shut(host, &[80]);
            (latch, call, run)
        };
        let (mut latch, call, run) = begin("first");
        let cut = FromOnePort::start(&pair, "cut", STANDBY);
        latch.release();
        let outcome = call.end(run);
        assert_eq!(figure(&outcome, "cut"), 1, "{outcome:?}");
        let _ = std::fs::remove_file(pair.client.dir().join("cut"));
        drop(cut);

        let goes_through = FromOnePort::start(&pair, "goes_through", 80);
        let (mut latch, call, run) = begin("second");
        latch.release();
        assert_eq!(call.end(run).code, 0);
        goes_through.end();
        std::fs::remove_file(pair.client.dir().join("goes_through")).unwrap();
        drop(by_hand);
    }
}

/// A download through all of the restart and out the other side.
#[test]
fn a_long_transfer_is_whole() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let size = 64 << 20;
    let file = host.dir().join("www");
    std::fs::create_dir(&file).unwrap();
    let bytes: Vec<u8> = (0..size)
        .map(|n: u32| (n ^ (n >> 8) ^ (n >> 16)) as u8)
        .collect();
    std::fs::write(file.join("data"), &bytes).unwrap();
    let serve = |port: u16| {
        let config = NginxConfig {
            port,
            http: "limit_rate 24m;".to_owned(),
            root: Some(file.clone()),
            ..NginxConfig::default()
        };
        let nginx = Nginx::new(host, &config).unwrap();
        nginx.start().unwrap();
        nginx
    };
    let (main, _standby) = (serve(80), serve(STANDBY));
    let mut latch = Latch::new(host, "down");
    let call = redirect(host, "");
    let restart = main.restart_argv().pop().unwrap();
    let run = call.start(["sh", "-c", &format!("{}; {restart}", latch.hold())]);
    latch.wait();
    wait_shut(host, &[80]);
    let got = pair.client.dir().join("got");
    let url = format!("http://{SERVER}/data");
    let mut download = pair.client.command("curl");
    download.args(["-sf", "-o"]).arg(&got).arg(&url);
    let mut download = pair.client.spawn(&mut download).unwrap();
    wait_until(SOON, "a beginning", || {
        got.metadata().is_ok_and(|m| m.len() > 0)
    })
    .unwrap();
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(
        (figure(&outcome, "redirected"), figure(&outcome, "cut")),
        (1, 0)
    );
    let lingered = ms(&outcome.report["redirect"], "linger_ms");
    assert!(lingered > 500.0, "it was still under way: {lingered} ms");
    assert!(download.wait().unwrap().success());
    assert!(std::fs::read(&got).unwrap() == bytes, "byte for byte");
}

/// A run that lingers, its gate open, since a connection is on the standby.
fn lingering<'a>(pair: &'a Pair, options: &str) -> (Call<'a>, Running, Hold) {
    let host = &pair.server;
    let mut latch = Latch::new(host, "down");
    // COMMAND changes nothing, and that is not what this is about.
    let call = redirect(host, &format!("--settle 0 {options}"));
    let run = call.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    let to = format!("{SERVER}:80");
    let hold = Hold::start(&pair.client, &to, Duration::from_millis(2), LONG).unwrap();
    latch.release();
    wait_until(SOON, "an open gate", || shut(host).is_empty()).unwrap();
    (call, run, hold)
}

#[test]
fn the_linger_is_bounded_and_a_second_signal_ends_it() {
    // Hosts of their own: the standby need not hear of the end of a connection that was cut.
    for (linger, timed_out) in [("0s", true), ("300ms", true)] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let _echo = both_echo(host);
        let before = rules_before(host);
        let (call, run, _hold) = lingering(&pair, &format!("--linger {linger}"));
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(figure(&outcome, "cut"), 1);
        assert_eq!(outcome.report["redirect"]["linger_timed_out"], timed_out);
        assert_eq!(host.ruleset(), before);
    }

    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _echo = both_echo(host);
    let before = rules_before(host);
    let (call, mut run, _hold) = lingering(&pair, "--linger 50s");
    run.signal(Signal::SIGINT).unwrap();
    let pid = host.must(["pgrep", "-x", "syngate"]);
    let taken = || has_taken_its_signals(host, pid.trim());
    wait_until(SOON, "the first signal taken", taken).unwrap();
    assert!(gated(host), "the first harms nobody");
    // Others see that no gate is closed, and what goes on.
    let what = "connections to its standby finish";
    for (call, code) in [("clear", 0), ("-p 80 --lock-timeout 0 -- true", 125)] {
        let ran = host.sh(&format!("{} {call}", harness::SYNGATE)).unwrap();
        assert_eq!(ran.code(), code, "{ran:?}");
        assert!(ran.stderr.contains(what), "{ran:?}");
        assert!(!ran.stderr.contains("gates one of"), "{ran:?}");
    }
    signal_again(&mut run, Signal::SIGINT);
    let outcome = call.end(run);
    assert_eq!(outcome.code, 130, "{outcome:?}");
    assert_eq!(outcome.report["outcome"], "interrupted");
    assert_eq!(outcome.report["reason"], "linger");
    assert!(
        outcome.stderr.contains("interrupt again to cut them"),
        "{outcome:?}"
    );
    assert_eq!(figure(&outcome, "cut"), 1);
    assert_eq!(host.ruleset(), before);
}

/// When the rules go, those that are left are cut, unless NAT rules of others keep connection tracking
/// and NAT in the kernel: as `syngate check` says.
#[test]
fn left_when_the_rules_go() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _echo = both_echo(host);
    let call = redirect(host, "");
    let killed_with_one_left = || {
        let mut latch = Latch::new(host, "down");
        let mut run = call.start(["sh", "-c", &latch.hold()]);
        latch.wait();
        let to = format!("{SERVER}:80");
        let hold = Hold::start(&pair.client, &to, Duration::from_millis(2), LONG).unwrap();
        run.signal(Signal::SIGKILL).unwrap();
        run.wait().unwrap();
        latch.release();
        wait_until(SOON, "no rules", || !gated(host)).unwrap();
        hold
    };
    let cut = killed_with_one_left().stop().unwrap();
    assert!(cut.broken.is_some(), "{cut:?}");

    let nat = "add table ip nat_of_others; add chain ip nat_of_others c
        { type nat hook postrouting priority 100; };
        add rule ip nat_of_others c oifname none masquerade";
    host.must(["nft", &nat.replace('\n', " ")]);
    let goes_on = killed_with_one_left().stop().unwrap();
    assert_eq!(goes_on.broken, None);
}

/// A standby of the run is stopped while its connections are still translated: who only reads learns
/// of the end as well.
#[test]
fn who_is_cut_hears_of_it() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _main = Serve::on("0.0.0.0:80").echo().start(host).unwrap();
    let standby = Serve::on(format!("0.0.0.0:{STANDBY}")).echo();
    let standby = format!("exec {}", standby.argv().unwrap().join(" "));
    let mut latch = Latch::new(host, "down");
    let call = redirect(host, "--linger 100ms --standby").arg(standby);
    let run = call.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    let connected = pair.client.dir().join("connected");
    let waits = format!(
        "import socket; s = socket.create_connection(('{SERVER}', 80), 10)
s.send(b'?'); s.recv(1); open('{}', 'w')
try: s.recv(1)
except ConnectionResetError: pass",
        connected.display()
    );
    let mut client = pair.client.command("python3");
    let mut client = pair.client.spawn(client.args(["-c", &waits])).unwrap();
    wait_until(SOON, "a connection", || connected.exists()).unwrap();
    latch.release();
    let outcome = call.end(run);
    assert_eq!(
        (outcome.code, figure(&outcome, "cut")),
        (0, 1),
        "{outcome:?}"
    );
    let told = "warning: 1 connection was still on the standby when --linger 100ms was over";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
    assert!(client.wait().unwrap().success(), "it has not timed out");
}

/// Rules of the host's firewall by which nothing is redirected: commands, and how they call the rule.
const OBJECTIONS: [(&str, &str); 14] = [
    (
        "nft table inet f { set banned { type ipv4_addr; elements = { 10.77.0.2 }; }; chain in { type filter hook input priority 0; tcp dport { 80, 443 } ip saddr @banned drop; }; }",
        "by port 80 (nft table f, chain in)",
    ),
    (
        "nft table inet f { chain bans { ip saddr 10.77.0.2 reject; }; chain in { type filter hook input priority 0; tcp dport vmap { 22 : accept, 80 : jump bans }; }; }",
        "by port 80 (nft table f, chain in)",
    ),
    (
        "nft table inet f { chain pre { type filter hook prerouting priority 0; tcp dport 79-81 ip saddr 10.77.0.2 drop; }; }",
        "by port 80 (nft table f, chain pre)",
    ),
    (
        "iptables-nft -N f2b; iptables-nft -A f2b -s 10.77.0.2 -j REJECT; iptables-nft -A INPUT -p tcp -m multiport --dports 80,443 -j f2b",
        "by port 80 (nft table filter, chain INPUT)",
    ),
    (
        "iptables-legacy -N f2b; iptables-legacy -A f2b -s 10.77.0.2 -j REJECT; iptables-legacy -A INPUT -p tcp -m multiport --dports 80,443 -j f2b",
        "by port 80 (iptables table filter, chain INPUT)",
    ),
    (
        "nft table inet f { chain in { type filter hook input priority 0; tcp dport != 8080 ip saddr 10.77.0.2 drop; }; }",
        "by port 80 (nft table f, chain in)",
    ),
    (
        "nft table inet f { chain in { type filter hook input priority 0; meta l4proto tcp @th,0,32 & 0xffff == 80 ip saddr 10.77.0.2 drop; }; }",
        "by port 80 (nft table f, chain in)",
    ),
    (
        "nft table inet f { chain in { type filter hook input priority 0; policy drop; ct state established accept; ct status dnat accept; tcp dport 80 ip saddr 10.77.0.9 accept; }; }",
        "accepts all that NAT sends elsewhere (nft table f, chain in)",
    ),
    (
        "iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED,DNAT -j ACCEPT; iptables-nft -A INPUT -j DROP",
        "accepts all that NAT sends elsewhere (nft table filter, chain INPUT)",
    ),
    (
        "nft table ip n { chain p { type nat hook prerouting priority -100; tcp dport 80 ip saddr 10.77.0.2 redirect to :9; }; }",
        "sends some clients of 80 elsewhere (nft table n, chain p)",
    ),
    (
        "iptables-legacy -t nat -A PREROUTING -s 10.77.0.2 -p tcp --dport 80 -j REDIRECT --to-ports 9",
        "sends some clients of 80 elsewhere (iptables table nat, chain PREROUTING)",
    ),
    (
        "nft table inet raw { chain p { type filter hook prerouting priority -300; tcp dport 80 notrack; }; }",
        "keeps 80 from connection tracking (nft table raw, chain p)",
    ),
    (
        "iptables-legacy -t raw -A PREROUTING -p tcp --dport 80 -j CT --notrack",
        "keeps 80 from connection tracking (iptables table raw, chain PREROUTING)",
    ),
    (
        "iptables-nft -t raw -A PREROUTING -p tcp -j CT --notrack",
        "keeps 80 from connection tracking (nft table raw, chain PREROUTING)",
    ),
];

/// Runs each command with its words as they are.
fn set_rules(host: &Host, commands: &str) {
    match commands.strip_prefix("nft ") {
        Some(rules) => drop(host.must(["nft", rules])),
        None => commands
            .split("; ")
            .for_each(|one| drop(host.must(words(one)))),
    }
}

/// Whether a connection to the main port is accepted.
fn gets_in(client: &Host) -> bool {
    let script = format!("import socket; socket.create_connection(('{SERVER}', 80), 0.4)");
    let mut python = client.command("python3");
    let mut client = client.spawn(python.args(["-c", &script])).unwrap();
    client.wait().unwrap().success()
}

/// Rules that are made meanwhile keep some clients from connection tracking.
#[test]
fn who_is_not_redirected_is_told() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _servers = both_echo(host);
    for (rule, told) in [("", false), (UNTRACKED, true)] {
        let mut latch = Latch::new(host, "down");
        let call = redirect(host, "");
        let run = call.start(["sh", "-c", &latch.hold()]);
        latch.wait();
        if !rule.is_empty() {
            host.must(["nft", rule]);
        }
        let says = |text: &str| text.contains("did not redirect a connection");
        // As long as several looks take: the first one only remembers what there was.
        let client = format!(
            "import socket, time; k = socket.create_connection(('{SERVER}', 80)); time.sleep(0.5)"
        );
        for _ in 0..2 {
            pair.client.must(["python3", "-c", &client]);
        }
        latch.release();
        let outcome = call.end(run);
        assert_eq!(
            says(&outcome.report["warnings"].to_string()),
            told,
            "{outcome:?}"
        );
    }
}

const UNTRACKED: &str = "table inet raw { chain p { type filter hook prerouting priority -300; \
                         iifname \"eth0\" ip saddr 10.0.0.0/8 notrack; }; }";

/// The firewall bans clients by the main port. By the standby's port they would get in. A connection that
/// is not tracked is not redirected, and would meet a closed port.
#[test]
fn rules_that_a_redirect_would_bypass_are_told_before_anything_is_gated() {
    for (commands, told) in OBJECTIONS {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let _servers = both(host);
        set_rules(host, commands);
        let before = gets_in(&pair.client);
        assert_eq!(before, told.starts_with("keeps"), "{commands}");
        let mut latch = Latch::new(host, "down");
        let call = redirect(host, "");
        let mut run = call.start(["sh", "-c", &latch.hold()]);
        wait_until(SOON, "the end", || latch.reached() || !run.is_running()).unwrap();
        assert_eq!(gets_in(&pair.client), before, "{commands}");
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 125, "{commands}: {outcome:?}");
        assert_eq!(outcome.report["reason"], "firewall");
        assert!(outcome.stderr.contains(told), "{commands}: {outcome:?}");
    }
}

/// The standby's port is named as well, or the port before NAT; or the rules are for others.
#[test]
fn rules_that_a_redirect_does_not_bypass_are_no_objection() {
    for (commands, banned) in [
        (
            "nft table inet f { chain bans { ip saddr 10.77.0.2 drop; }; chain in { type filter hook input priority 0; tcp dport 80 jump bans; tcp dport 8080 jump bans; }; }",
            true,
        ),
        (
            "nft table inet f { chain bans { ip saddr 10.77.0.2 drop; }; chain in { type filter hook input priority 0; meta l4proto tcp ct original proto-dst 80 jump bans; tcp dport 80 jump bans; }; }",
            true,
        ),
        (
            "iptables-nft -A INPUT -p tcp -m conntrack --ctorigdstport 80 -s 10.77.0.2 -j DROP; iptables-nft -A INPUT -p tcp --dport 80 -s 10.77.0.2 -j DROP",
            true,
        ),
        (
            "iptables-legacy -A INPUT -p tcp -m conntrack --ctorigdstport 80 -s 10.77.0.2 -j DROP; iptables-legacy -A INPUT -p tcp --dport 80 -s 10.77.0.2 -j DROP",
            true,
        ),
        (
            "nft table inet f { chain pre { type filter hook prerouting priority -150; tcp dport 80 ip saddr 10.77.0.2 drop; }; }",
            true,
        ),
        (
            "nft table inet f { chain in { type filter hook input priority 0; policy drop; ct state established accept; meta l4proto tcp ct status dnat ct original proto-dst 80 ip saddr 10.77.0.9 accept; tcp dport 80 ip saddr 10.77.0.9 accept; }; }",
            true,
        ),
        (
            "nft table inet f { chain in { type filter hook input priority 0; ct status & dnat == 0 tcp dport { 22, 80 } accept; ct status dnat tcp dport 3000 accept; ct state { new, established } accept; drop; }; }",
            false,
        ),
        (
            "nft table inet f { chain user { tcp dport 80 drop; }; chain through { type filter hook forward priority 0; jump user; }; chain in { type filter hook input priority 0; udp dport 80 drop; tcp dport vmap { 22 : drop, 80 : accept }; }; }",
            false,
        ),
    ] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let _servers = both(host);
        set_rules(host, commands);
        let mut latch = Latch::new(host, "down");
        let call = redirect(host, "--linger 0s");
        let mut run = call.start(["sh", "-c", &latch.hold()]);
        wait_until(SOON, "the command", || latch.reached() || !run.is_running()).unwrap();
        assert_eq!(gets_in(&pair.client), !banned, "{commands}");
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{commands}: {outcome:?}");
    }
}

/// A firewall that does not let the standby's port in.
#[test]
fn who_is_not_answered_is_told() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let [_main, standby] = both(host);
    let rules = "add table inet fw; add chain inet fw in { type filter hook input priority 0; };
        add rule inet fw in iifname eth0 tcp dport 8080 drop";
    host.must(["nft", &rules.replace('\n', " ")]);
    let mut latch = Latch::new(host, "down");
    let call = redirect(host, "");
    let run = call.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    let load = Load::to(format!("{SERVER}:80")).rate(20).timeout(LONG);
    let load = load.duration(Duration::from_millis(50));
    let load = load.start(&pair.client).unwrap();
    wait_until(SOON, "SYNs", || harness::stopped_syns(host) > 0).unwrap();
    latch.release();
    let outcome = call.end(run);
    let told =
        "nobody answered the SYNs that went to port 8080: does a firewall of this host drop them?";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
    assert_eq!(standby.count(), 0);
    drop(load);
}

#[test]
fn status_tells_of_a_standby() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _servers = both(host);
    let _echo = Serve::on("0.0.0.0:81").echo().start(host).unwrap();
    let status = || {
        let status = host
            .command(harness::SYNGATE)
            .arg("status")
            .output()
            .unwrap();
        String::from_utf8(status.stdout).unwrap()
    };
    let mut latch = Latch::new(host, "down");
    let call = redirect(host, "");
    let run = call.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    let text = status();
    assert!(text.contains("80 is redirected to port 8080"), "{text}");
    let connected = pair.client.dir().join("connected");
    let connect = format!(
        "import socket; s = socket.create_connection(('{SERVER}', 80)); open('{}', 'w')
s.recv(1)",
        connected.display()
    );
    let mut client = pair.client.command("python3");
    let client = pair.client.spawn(client.args(["-c", &connect])).unwrap();
    wait_until(SOON, "a connection", || connected.exists()).unwrap();
    latch.release();
    wait_until(SOON, "an open gate", || shut(host).is_empty()).unwrap();
    let text = status();
    assert!(text.contains("connections to its standby finish"), "{text}");
    drop(client);
    assert_eq!(call.end(run).code, 0);
}

// The standby --------------------------------------------------------------------------------------

fn standby_argv(host: &Host) -> (String, PathBuf) {
    let accepted = host.dir().join("standby");
    let server = Serve::on(format!("0.0.0.0:{STANDBY}"));
    let line = server.log_accepts(&accepted).argv().unwrap().join(" ");
    (line, accepted)
}

fn kill_standby(host: &Host) {
    let listeners = format!("ss -Hltnp sport = :{STANDBY}");
    let pid = r"sed 's/.*pid=\([0-9]*\).*/\1/'";
    // It may be seen to listen when it is already ending. It has a line for each of its addresses, and is killed once.
    let kill = format!("kill -KILL $({listeners} | {pid} | sort -u)");
    let ended = || host.run(["sh", "-c", &kill]).is_ok();
    wait_until(SOON, "a standby that is killed", ended).unwrap();
}

#[test]
fn a_standby_of_the_run_starts_before_and_ends_after_it() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _main = Serve::on("0.0.0.0:80").start(host).unwrap();
    let (standby, accepted) = standby_argv(host);
    let daemon = format!("setsid {standby} & sleep 0");
    for (line, end) in [
        (standby.clone(), "terminated"),
        (daemon, "terminated"),
        (format!("trap '' TERM; {standby} & wait; wait"), "killed"),
    ] {
        let mut latch = Latch::new(host, end);
        let call = redirect(host, "--settle 0 --standby-grace 300ms --standby");
        let call = call
            .arg(line)
            .args(["--standby-check", "ss -Hltn sport = :8080 | grep -q 8080"]);
        let run = call.start(["sh", "-c", &latch.hold()]);
        latch.wait();
        ask(&pair.client, &format!("{SERVER}:80"));
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.report["standby"]["end"], end, "{outcome:?}");
        assert!(!host.listens(STANDBY), "it does not outlive the run");
        assert!(!std::fs::read_to_string(&accepted).unwrap().is_empty());
    }

    // It keeps what it prints to: else this would be waited for.
    let call = redirect(host, "--settle 0 --keep-standby --standby")
        .arg(format!("exec {standby} >/dev/null 2>&1"));
    let outcome = call.run(["true"]);
    assert_eq!(outcome.report["standby"]["end"], "kept", "{outcome:?}");
    assert!(host.listens(STANDBY));
    let pid = outcome.report["standby"]["pid"].to_string();
    host.must(["kill", &pid]);
}

/// The guard of the standby was stopped, or killed: the run says so, and stops the standby all the same.
#[test]
fn a_guard_that_is_lost_is_told() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _main = Serve::on("0.0.0.0:80").start(host).unwrap();
    for (signal, says) in [("STOP", "does not answer"), ("KILL", "was killed")] {
        let mut latch = Latch::new(host, signal);
        let call = redirect(host, "--settle 0 --standby").arg(standby_argv(host).0);
        let mut run = call.start(["sh", "-c", &latch.hold()]);
        latch.wait();
        host.must(["pkill", &format!("-{signal}"), "-x", "gate-standby"]);
        let mut said = BufReader::new(run.stderr().unwrap()).lines();
        let warning = said.find_map(|line| line.ok().filter(|line| line.contains("the guard of")));
        assert!(warning.unwrap().contains(says), "{signal}");
        latch.release();
        call.end(run);
        assert!(!host.listens(STANDBY), "it does not outlive the run");
    }
}

/// A port where nobody listens serves nobody: the gate opens.
#[test]
fn a_standby_that_dies_opens_the_gate() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _main = Serve::on("0.0.0.0:80").start(host).unwrap();
    let before = rules_before(host);
    let (standby, _) = standby_argv(host);
    let mut latch = Latch::new(host, "down");
    let call = redirect(host, "--settle 0 --standby").arg(format!("exec {standby}"));
    let run = call.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    wait_shut(host, &[80]);
    kill_standby(host);
    wait_until(SOON, "an open gate", || shut(host).is_empty()).unwrap();
    ask(&pair.client, &format!("{SERVER}:80"));
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 124, "{outcome:?}");
    assert_eq!(outcome.report["outcome"], "open_failed");
    assert_eq!(outcome.report["reason"], "standby_gone");
    assert_eq!(outcome.report["standby"]["end"], "ended");
    assert_eq!(host.ruleset(), before);

    // Before COMMAND: it is not run.
    let options = "--port 80 --syn redirect=8080 --drain 50s --max-closed 1m \
        --drain-until connections --standby";
    let call = harness::call(host, words(options)).arg(format!("exec {standby}"));
    let connect =
        "import socket, time; s = socket.create_connection(('127.0.0.1', 80)); time.sleep(60)";
    let idle = host
        .spawn(host.command("python3").args(["-c", connect]))
        .unwrap();
    let established = ["ss", "-Htn", "state", "established", "( sport = :80 )"];
    let connected = || !host.must(established).is_empty();
    wait_until(SOON, "an idle connection", connected).unwrap();
    let mark = host.dir().join("ran");
    let run = call.start([OsStr::new("touch"), mark.as_os_str()]);
    wait_shut(host, &[80]);
    kill_standby(host);
    let outcome = call.end(run);
    drop(idle);
    assert_eq!(outcome.code, 125, "{outcome:?}");
    assert_eq!(outcome.report["reason"], "standby_gone");
    assert!(!mark.exists());
    assert_eq!(host.ruleset(), before);
}

/// A standby whose configuration is a copy of the service's has its pid file as well.
#[test]
fn a_command_that_stops_the_standby_in_place_of_the_service_is_told() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    Backend::of_the_suite().prime(host);
    let main = Haproxy::debian_init(host, &HaproxyConfig::port(80)).unwrap();
    main.start().unwrap();
    let pid_of = |port: u16| {
        let listeners = host.must(["ss", "-Hltnp", "sport", "=", &format!(":{port}")]);
        let pids = listeners.split("pid=").skip(1);
        let pids: BTreeSet<&str> = pids.map(|rest| rest.split(',').next().unwrap()).collect();
        pids.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let old = pid_of(80);
    let start = |pid_file: &str| {
        let standby = HaproxyConfig::port(STANDBY).global(format!("pidfile {pid_file}"));
        let standby = host.write("standby.cfg", standby.text());
        format!("haproxy -D -f {}", standby.display())
    };

    let call = redirect(host, "--linger 2s --standby").arg(start("/run/haproxy.pid"));
    let outcome = call.run(main.restart_argv());
    assert_eq!(outcome.code, 124, "{outcome:?}");
    assert_eq!(outcome.report["outcome"], "open_failed", "{outcome:?}");
    assert_eq!(outcome.report["reason"], "standby_gone", "{outcome:?}");
    assert_eq!(outcome.report["standby"]["end"], "ended", "{outcome:?}");
    for words in [
        "the standby ended, and syngate had not stopped it",
        "a pid file and a stats socket of its own",
    ] {
        let message = outcome.report["message"].as_str().unwrap();
        assert!(message.contains(words), "{outcome:?}");
    }
    // It is so: two instances.
    let both = pid_of(80);
    assert!(both.len() == 2 && both.contains(&old[0]), "{both:?}");
    let new = both.iter().find(|pid| **pid != old[0]).unwrap();
    let told = format!(
        "haproxy (pid {}), the old one, and haproxy (pid {new}), the new one; the standby is gone, so COMMAND seems \
         to have stopped that",
        old[0]
    );
    let warnings = outcome.report["warnings"].to_string();
    assert!(warnings.contains(&told), "{told}: {outcome:?}");
    assert!(outcome.stderr.contains(&told), "{outcome:?}");
    assert!(!host.listens(STANDBY));

    // With one of its own, as the documents have it, all is well.
    host.must(["kill", &old[0]]);
    let call = redirect(host, "--linger 2s --standby").arg(start("/run/standby.pid"));
    let outcome = call.run(main.restart_argv());
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(
        outcome.report["standby"]["end"], "terminated",
        "{outcome:?}"
    );
    assert_eq!(pid_of(80).len(), 1);
    main.stop().unwrap();
}

/// It ended by itself, while COMMAND reloaded the service, or did nothing at all. Who then stopped the
/// process that listened before would stop the service.
#[test]
fn a_command_is_not_blamed_for_a_standby_that_ended_by_itself() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let config = NginxConfig {
        reuseport: true,
        workers: 2,
        ..NginxConfig::default()
    };
    let main = Nginx::new(host, &config).unwrap();
    main.start().unwrap();
    let more = NginxConfig {
        workers: 3,
        ..config
    };
    let on = Serve::on(format!("0.0.0.0:{STANDBY}")).and_on(format!("[::]:{STANDBY}"));
    let standby = format!("exec {}", on.argv().unwrap().join(" "));
    let reload = main.reload_argv().join(" ");
    for then in ["true", &reload] {
        let mut latch = Latch::new(host, "ends");
        let call = redirect(host, "--standby").arg(&standby);
        let run = call.start(["sh", "-c", &format!("{}; {then}", latch.hold())]);
        latch.wait();
        main.configure(&more).unwrap();
        kill_standby(host);
        wait_until(SOON, "an open gate", || shut(host).is_empty()).unwrap();
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 124, "{outcome:?}");
        assert_eq!(outcome.report["reason"], "standby_gone", "{outcome:?}");
        let warnings = outcome.report["warnings"].to_string();
        assert!(!warnings.contains("in its place"), "{outcome:?}");
        assert!(!warnings.contains("in place of"), "{outcome:?}");
    }
    main.stop().unwrap();
}

#[test]
fn bad_input_and_a_standby_that_is_not_there() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let on = Serve::on("0.0.0.0:80")
        .and_on("[::]:80")
        .and_on("0.0.0.0:443");
    let _main = on.start(host).unwrap();
    let _v4_only = Serve::on("0.0.0.0:8080").start(host).unwrap();
    let _local_only = Serve::on("127.0.0.1:8081")
        .and_on("[::]:8081")
        .start(host)
        .unwrap();
    Backend::of_the_suite().prime(host);
    let cases = [
        ("--syn redirect", "", "as in redirect=8080"),
        ("--syn redirect=", "", "--syn: 'redirect='"),
        ("--syn redirect=0", "", "--syn: 'redirect=0'"),
        ("--syn redirect=65536", "", "--syn: 'redirect=65536'"),
        ("--syn redirect=81-82", "", "expected one port"),
        (
            "--syn reject",
            "",
            "expected drop, hold, auto, redirect=PORT",
        ),
        ("--syn redirect=80", "options", "80 is gated itself"),
        (
            "--standby x",
            "options",
            "--standby has no effect with --syn drop: leave it out, or use --syn redirect=PORT",
        ),
        (
            "--standby-check x",
            "options",
            "--standby-check has no effect",
        ),
        (
            "--syn redirect=8083",
            "standby",
            "nobody listens on 0.0.0.0:8083 [::]:8083",
        ),
        (
            "--syn redirect=8080",
            "standby",
            "nobody listens on [::]:8080",
        ),
        (
            "--syn redirect=8081",
            "standby",
            "nobody listens on 0.0.0.0:8081",
        ),
        (
            "--syn redirect=8083 --standby false",
            "standby",
            "ended (status 1) before it listened",
        ),
        (
            "--syn redirect=8080 --standby false",
            "standby",
            "listens on port 8080 already",
        ),
        (
            "--syn redirect=8083 --standby-timeout 100ms --standby cat",
            "standby",
            "within --standby-timeout 100ms",
        ),
        (
            "--syn redirect=8080 --to 0.0.0.0/0 --standby-timeout 100ms --standby-check false",
            "standby_check",
            "did not succeed within --standby-timeout 100ms (at last: status 1)",
        ),
    ];
    all_refused(host, &cases);
    let several = call(
        host,
        words("--port 80,443 --to 0.0.0.0/0 --syn redirect=8080"),
    );
    let outcome = several.run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(
        outcome.stderr.contains("80,443 all go to that one port"),
        "{outcome:?}"
    );
}

#[test]
fn where_there_is_no_nat() {
    let host = Host::new().unwrap();
    let _servers = Serve::on("0.0.0.0:80")
        .and_on("0.0.0.0:8080")
        .start(&host)
        .unwrap();
    let before = rules_before(&host);
    let mark = host.dir().join("ran");
    let command = [OsStr::new("touch"), mark.as_os_str()];
    let outcome = redirect(&host, "").fault("no-nat").run(command);
    assert!(!mark.exists());
    assert_eq!(outcome.code, 125, "{outcome:?}");
    assert_eq!(outcome.report["reason"], "close_failed");
    assert!(outcome.stderr.contains("NAT"), "{}", outcome.stderr);
    assert_eq!(host.ruleset(), before);
}

/// COMMAND runs without a gate; the standby that was started for it goes with the run, and is told of.
#[test]
fn a_standby_goes_also_where_the_gate_could_not_be_closed() {
    let host = Host::new().unwrap();
    let _server = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let pid = host.dir().join("standby.pid");
    let standby = Serve::on(format!("0.0.0.0:{STANDBY}")).argv().unwrap();
    let standby = format!("echo $$ > {}; exec {}", pid.display(), standby.join(" "));
    let call = redirect(&host, "--best-effort --standby").arg(standby);
    let outcome = call.fault("no-nat").run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.report["backend"].is_null(), "{outcome:?}");
    assert!(outcome.report["redirect"].is_null(), "{outcome:?}");
    let pid: i64 = std::fs::read_to_string(pid)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert_eq!(outcome.report["standby"]["pid"], pid, "{outcome:?}");
    assert_eq!(outcome.report["standby"]["end"], "stopping", "{outcome:?}");
    let warned = outcome.report["warnings"].to_string();
    assert!(warned.contains("COMMAND runs without"), "{warned}");
    wait_until(SOON, "the end of the standby", || !host.listens(STANDBY)).unwrap();
}

// Real services, and kills --------------------------------------------------------------------------

/// Restarts under load, beside the same load without any.
fn unnoticed(pair: &Pair, what: &str, restart: &[String], times: usize) {
    let load = || {
        let load = Load::to(format!("{SERVER}:80")).rate(1_000).duration(LONG);
        let mut load = load.start(&pair.client).unwrap();
        load.wait_flowing().unwrap();
        load
    };
    let running = load();
    std::thread::sleep(Duration::from_secs(2)); // the length of the comparison
    let outside = running.stop().unwrap();
    let running = load();
    for _ in 0..times {
        let outcome = redirect(&pair.server, "").run(restart.to_vec());
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(figure(&outcome, "cut"), 0, "{outcome:?}");
        assert!(figure(&outcome, "redirected") > 0, "{outcome:?}");
    }
    let report = running.stop().unwrap();
    tell(&format!("{what}: {report}; without restarts: {outside}"));
    assert_eq!(
        (report.failed(), report.delayed),
        (0, 0),
        "{what}: {report}"
    );
    let bound = 20.0 * f64::from(slow()) + outside.connect.max_ms;
    assert!(
        report.connect.max_ms < bound || report.late > 0,
        "{what}: {report}: {bound} ms"
    );
}

fn restarts() -> usize {
    std::env::var("SYNGATE_RESTARTS").map_or(3, |n| n.parse().unwrap())
}

#[test]
fn haproxy_restarts_unnoticed() {
    let pair = Pair::steered_by_flow().unwrap();
    let haproxy = Haproxy::debian_init(&pair.server, &HaproxyConfig::port(80)).unwrap();
    haproxy.start().unwrap();
    let standby = Serve::on("0.0.0.0:8080").and_on("[::]:8080");
    let _standby = standby.start(&pair.server).unwrap();
    unnoticed(&pair, "haproxy", &haproxy.restart_argv(), restarts());
}

#[test]
fn nginx_restarts_unnoticed() {
    let pair = Pair::steered_by_flow().unwrap();
    let nginx = |port| {
        let config = NginxConfig {
            port,
            ..NginxConfig::default()
        };
        let nginx = Nginx::new(&pair.server, &config).unwrap();
        nginx.start().unwrap();
        nginx
    };
    let (main, _standby) = (nginx(80), nginx(STANDBY));
    unnoticed(&pair, "nginx", &main.restart_argv(), restarts());
}

#[test]
fn a_plain_server_restarts_unnoticed() {
    let pair = Pair::steered_by_flow().unwrap();
    let main = Serve::on("0.0.0.0:80").start_daemon(&pair.server).unwrap();
    let _standby = Serve::on("0.0.0.0:8080").start(&pair.server).unwrap();
    unnoticed(&pair, "plain", &main.restart_argv(), restarts());
}

/// SIGKILL: no rule is left, new connections go to the main port, those that were there go on, and
/// the standby of the run is gone. `make test-long` does it 100 times.
#[test]
fn killed_at_random_moments() {
    let times = std::env::var("SYNGATE_KILLS").map_or(5, |n| n.parse().unwrap());
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let main = Instance::start(host, "main", Serve::on("0.0.0.0:80").echo());
    let (standby, _) = standby_argv(host);
    let call = redirect(host, "--standby").arg(standby);
    let before = rules_before(host);
    let to = format!("{SERVER}:80");
    let established = Hold::start(&pair.client, &to, Duration::from_millis(2), LONG * 10).unwrap();
    let (mut closed, mut slowest) = (0, Duration::ZERO);
    let mut kills = 0;
    while killing::go_on(kills, closed, times) {
        kills += 1;
        let mut run = call.start(["sleep", "10"]);
        let Moment::After(pause) = Moment::random(Duration::from_millis(300) * slow()) else {
            unreachable!("a random moment is a time");
        };
        std::thread::sleep(pause); // a moment is what is wanted here, not a state
        closed += u64::from(gated(host));
        run.signal(Signal::SIGKILL).unwrap();
        let began = Instant::now();
        run.wait().unwrap();
        let what = format!("no rule after {pause:?}");
        wait_until(Duration::from_secs(2), &what, || host.ruleset() == before).unwrap();
        slowest = slowest.max(began.elapsed());
        // One that does not listen yet may still come to it, until its guard has stopped it.
        let guarded = || host.sh("pgrep -f ^gate-standby").unwrap().ok();
        wait_until(SOON, "no guard", || !guarded()).unwrap();
        assert!(!host.listens(STANDBY), "no standby");
        let accepted = main.count();
        let hold = Hold::start(&pair.client, &to, Duration::from_millis(2), LONG).unwrap();
        assert_eq!(
            main.count(),
            accepted + 1,
            "new connections go to the main port"
        );
        assert_eq!(hold.stop().unwrap().broken, None);
        host.sh("pkill -x sleep").unwrap(); // if it was run
    }
    let report = established.stop().unwrap();
    assert_eq!(report.broken, None, "{report:?}");
    tell(&format!(
        "{kills} kills, {closed} of them with the gate closed; no rule after {slowest:?} at most"
    ));
    assert!(closed > 0, "none of {kills} kills met a closed gate");
}

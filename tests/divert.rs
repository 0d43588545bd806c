//! `--syn divert=ADDR`: new connections go to the other host of a pair while the gate is closed, and
//! finish there. It is done by nft alone.

mod harness;
mod killing;

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use harness::instance::{Instance, ask};
use harness::latch::Latch;
use harness::{
    Backend, Call, Outcome, SOON, all_refused, call, gated, has_taken_its_signals, shut,
    signal_again, tell, words,
};
use killing::Moment;
use nix::sys::signal::Signal;
use testkit::services::{Haproxy, HaproxyConfig, Nginx, NginxConfig, Serve};
use testkit::{
    CROSS_B, CROSS_B6, Hold, Host, Load, NODE_A, NODE_B, NODE_B6, Running, Trio, VIP, VIP6, slow,
    wait_until,
};

const LONG: Duration = Duration::from_secs(60);
/// The client's addresses: not those of a run that asks its peer.
const CLIENTS: [&str; 2] = ["10.79.0.9", "fd79::9"];

/// The service, on all addresses of both nodes.
fn both(trio: &Trio) -> [Instance; 2] {
    let on_all = || Serve::on("0.0.0.0:80").and_on("[::]:80");
    [&trio.a, &trio.b].map(|host| Instance::start(host, "accepted", on_all()))
}

/// Both send back what they get, IPv4.
fn both_echo(trio: &Trio) -> [Running; 2] {
    let echo = || {
        Serve::on(format!("{VIP}:80"))
            .and_on(format!("[{VIP6}]:80"))
            .echo()
    };
    [&trio.a, &trio.b].map(|host| echo().start(host).unwrap())
}

fn divert_to<'a>(trio: &'a Trio, peer: &str, options: &str) -> Call<'a> {
    let divert = format!("--port 80 --syn divert={peer} --to {VIP},{VIP6} --drain 0s {options}");
    // As all that is waited for: on a slow machine the peer needs longer to answer, too.
    let patience = format!("{}s", 2 * slow());
    let call = call(&trio.a, words(&divert)).on(Backend::Nft);
    call.env("SYNGATE_PEER_TIMEOUT", &patience)
}

fn divert<'a>(trio: &'a Trio, options: &str) -> Call<'a> {
    divert_to(trio, &format!("{NODE_B},{NODE_B6}"), options)
}

/// A run whose COMMAND waits, the gate closed.
struct Closed<'a> {
    latch: Latch,
    call: Call<'a>,
    run: Running,
}

impl<'a> Closed<'a> {
    fn by(trio: &'a Trio, call: Call<'a>) -> Closed<'a> {
        let latch = Latch::new(&trio.a, "down");
        // COMMAND changes nothing, and that is not what this is about.
        let call = call.env("SYNGATE_SETTLE", "0");
        let run = call.start(["sh", "-c", &latch.hold()]);
        latch.wait();
        wait_until(SOON, "a closed gate", || !shut(&trio.a).is_empty()).unwrap();
        Closed { latch, call, run }
    }

    /// COMMAND goes on.
    fn release(&mut self) {
        self.latch.release();
    }

    /// COMMAND goes on, and the gate opens.
    fn open(&mut self, trio: &Trio) {
        self.release();
        wait_until(SOON, "an open gate", || shut(&trio.a).is_empty()).unwrap();
    }

    fn end(self) -> Outcome {
        self.call.end(self.run)
    }

    /// COMMAND goes on, up to the end of the run.
    fn finish(mut self) -> Outcome {
        self.release();
        self.end()
    }
}

fn figure(outcome: &Outcome, name: &str) -> u64 {
    let divert = &outcome.report["divert"];
    divert[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{outcome:?}"))
}

/// A connection over which something goes forth and back all the time.
fn flowing(host: &Host, to: &str) -> Hold {
    Hold::start(host, to, Duration::from_millis(2), LONG).unwrap()
}

#[track_caller]
fn whole(hold: Hold) {
    let report = hold.stop().unwrap();
    assert_eq!(report.broken, None, "{report:?}");
    assert!(report.echoes > 0, "{report:?}");
}

fn established(host: &Host) -> usize {
    let rows = ["ss", "-Htn", "state", "established", "( sport = :80 )"];
    host.must(rows).lines().count()
}

/// The sockets to nf_tables, and those by which the peer is asked, are not for COMMAND.
#[test]
fn command_gets_none_of_our_files() {
    let trio = Trio::new().unwrap();
    let _both = both(&trio);
    let list = ["ls", "/proc/self/fd"];
    let outcome = divert(&trio, "").run(list);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.stdout, trio.a.must(list));
}

// Who goes where ----------------------------------------------------------------------------------

#[test]
fn new_connections_go_to_the_peer() {
    let trio = Trio::new().unwrap();
    let [at_a, at_b] = both(&trio);
    let before = trio.a.ruleset();
    let closed = Closed::by(&trio, divert(&trio, "--allow-local --allow-from 10.79.0.8"));
    let vips = [format!("{VIP}:80"), format!("[{VIP6}]:80")];
    for to in &vips {
        ask(&trio.client, to);
    }
    assert_eq!(at_a.count(), 0, "{:?}", at_a.accepted());
    let diverted = at_b.count_from(&CLIENTS);
    assert!(diverted >= 2, "{:?}", at_b.accepted());
    for client in CLIENTS {
        assert!(at_b.count_from(&[client]) > 0, "{:?}", at_b.accepted());
    }
    // To an address that the peer has not; from who is let through; from this host itself.
    ask(&trio.client, &format!("{NODE_A}:80"));
    assert!(at_a.count_from(&CLIENTS) > 0);
    trio.client
        .must(words("ip address add 10.79.0.8/24 dev eth0"));
    let load = Load::to(&vips[0]).rate(1_000).sources(["10.79.0.8"]);
    let load = load.duration(Duration::from_millis(1)).start(&trio.client);
    assert_eq!(load.unwrap().finish().unwrap().failed(), 0);
    assert!(at_a.count_from(&["10.79.0.8"]) > 0);
    let of_others = at_a.count();
    vips.iter().for_each(|to| ask(&trio.a, to));
    assert!(at_a.count() > of_others);
    assert_eq!(at_b.count_from(&CLIENTS), diverted);

    let outcome = closed.finish();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.report["action"], "divert");
    assert_eq!(figure(&outcome, "diverted"), diverted as u64, "{outcome:?}");
    assert_eq!(figure(&outcome, "finished"), diverted as u64, "{outcome:?}");
    assert_eq!(figure(&outcome, "cut"), 0);
    assert_eq!(outcome.report["syns_stopped"], diverted);
    let told = format!("{diverted} connections went to {NODE_B}, {NODE_B6}");
    assert!(outcome.stderr.contains(&told), "{outcome:?}");
    let of_clients = at_a.count_from(&CLIENTS);
    ask(&trio.client, &vips[0]);
    assert!(at_a.count_from(&CLIENTS) > of_clients, "here again");
    assert_eq!(at_b.count_from(&CLIENTS), diverted);
    assert_eq!(trio.a.ruleset(), before);
}

/// The load balancer is told first, and who comes all the same is served by the peer.
#[test]
fn a_run_that_diverts_leaves_its_load_balancer_first() {
    let trio = Trio::new().unwrap();
    let [at_a, at_b] = both(&trio);
    let _health = Serve::on("0.0.0.0:8081").start(&trio.a).unwrap();
    let checks = || {
        let line = format!("curl -sSo /dev/null --max-time 10 http://{VIP}:8081/");
        trio.client.sh(&line).unwrap().code()
    };
    assert_eq!(checks(), 0);
    let before = trio.a.ruleset();
    let closed = Closed::by(&trio, divert(&trio, "--leave 8081 --leave-quiet 300ms"));
    assert_eq!(checks(), 7, "refused");
    let here = at_a.count_from(&CLIENTS);
    ask(&trio.client, &format!("{VIP}:80"));
    assert_eq!(at_a.count_from(&CLIENTS), here);
    assert!(at_b.count_from(&CLIENTS) > 0, "{:?}", at_b.accepted());
    let outcome = closed.finish();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.report["action"], "divert");
    assert_eq!(outcome.report["leave"]["quiet"], true, "{outcome:?}");
    assert_eq!(checks(), 0);
    assert_eq!(trio.a.ruleset(), before);
}

/// Nor does a SYN that came to another port, and that NAT leads to the gated one.
#[test]
fn whom_the_firewall_refuses_the_peer_does_not_get() {
    let trio = Trio::new().unwrap();
    let [_at_a, at_b] = both(&trio);
    trio.client
        .must(words("ip address add 10.79.0.7/24 dev eth0"));
    trio.client
        .must(words("ip address add fd79::7/64 dev eth0 nodad"));
    for rules in [
        "iptables-legacy -A INPUT -p tcp --dport 80 -s 10.79.0.7 -j REJECT",
        "ip6tables-legacy -t security -A INPUT -p tcp -s fd79::7 -j DROP",
    ] {
        trio.a.must(words(rules));
    }
    trio.a.must([
        "nft",
        "table ip n { chain p { type nat hook prerouting priority -100; tcp dport 81 dnat to 10.79.0.100:80; }; }",
    ]);
    let closed = Closed::by(&trio, divert(&trio, ""));
    for (from, to) in [
        ("10.79.0.7", format!("{VIP}:80")),
        ("fd79::7", format!("[{VIP6}]:80")),
        (CLIENTS[0], format!("{VIP}:81")),
        (CLIENTS[0], format!("{VIP}:80")),
        (CLIENTS[1], format!("[{VIP6}]:80")),
    ] {
        let (host, port) = to.rsplit_once(':').unwrap();
        let host = host.trim_matches(['[', ']']);
        let is_let_in = CLIENTS.contains(&from) && port == "80";
        let limit = if is_let_in { 9.0 } else { 0.4 };
        let script = format!(
            "import socket; socket.create_connection(('{host}', {port}), {limit}, ('{from}', 0))"
        );
        let mut python = trio.client.command("python3");
        let mut client = trio.client.spawn(python.args(["-c", &script])).unwrap();
        let got_in = client.wait().unwrap().success();
        assert_eq!(got_in, is_let_in, "{from} to {to}");
    }
    assert_eq!(at_b.count_from(&["10.79.0.7", "fd79::7"]), 0);
    let outcome = closed.finish();
    assert_eq!((outcome.code, figure(&outcome, "diverted")), (0, 2));
}

/// What this host forwards is not for its own service, also if it has a gated port.
#[test]
fn connections_to_other_hosts_are_let_be() {
    let trio = Trio::new().unwrap();
    let [_at_a, at_b] = both(&trio);
    trio.a.must(words("sysctl -qw net.ipv4.ip_forward=1"));
    // The client reaches the other node's end of the cross cable by way of the first node.
    trio.client
        .must(["ip", "route", "add", "10.80.0.0/24", "via", NODE_A]);
    let options = format!("--port 80 --syn divert={NODE_B} --no-peer-check --drain 0s");
    let call = call(&trio.a, words(&options)).on(Backend::Nft);
    let call = call.args(words("--to 10.79.0.0/16,10.80.0.0/16"));
    let closed = Closed::by(&trio, call);
    ask(&trio.client, &format!("{CROSS_B}:80"));
    assert!(at_b.count_from(&CLIENTS) > 0);
    let outcome = closed.finish();
    assert_eq!(
        (outcome.code, figure(&outcome, "diverted")),
        (0, 0),
        "{outcome:?}"
    );
}

#[test]
fn established_connections_stay_and_diverted_ones_finish() {
    let trio = Trio::new().unwrap();
    let _echo = both_echo(&trio);
    let vips = [format!("{VIP}:80"), format!("[{VIP6}]:80")];
    let at_a: Vec<Hold> = vips.iter().map(|to| flowing(&trio.client, to)).collect();
    let mut closed = Closed::by(&trio, divert(&trio, ""));
    let at_b: Vec<Hold> = vips.iter().map(|to| flowing(&trio.client, to)).collect();
    assert_eq!((established(&trio.a), established(&trio.b)), (2, 2));

    closed.open(&trio);
    let late = flowing(&trio.client, &vips[0]);
    assert_eq!((established(&trio.a), established(&trio.b)), (3, 2));
    assert!(gated(&trio.a), "the rules stay for the linger");
    let status = trio.a.command(harness::SYNGATE).arg("status").output();
    let status = String::from_utf8(status.unwrap().stdout).unwrap();
    assert!(
        status.contains("connections to its peer finish"),
        "{status}"
    );
    at_b.into_iter().for_each(whole);
    let outcome = closed.end();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let figures = ["diverted", "finished", "cut"].map(|name| figure(&outcome, name));
    assert_eq!(figures, [2, 2, 0]);
    assert_eq!(outcome.report["divert"]["linger_timed_out"], false);
    at_a.into_iter().chain([late]).for_each(whole);
}

/// Its SYN-ACK was lost: when the client sends its SYN again, it is still this host's, which sends its
/// SYN-ACK again as well. One from each node would be one too many.
#[test]
fn a_half_open_connection_stays() {
    let trio = Trio::new().unwrap();
    let _echo = both_echo(&trio);
    let half_open = || {
        let rows = ["ss", "-Htn", "state", "syn-recv"];
        trio.a.must(rows).lines().count()
    };
    let deaf = "table inet deaf { chain in { type filter hook input priority 0;
        tcp flags & (syn | ack) == syn | ack drop; }; }";
    trio.client.must(["nft", deaf]);
    let connect = |address: &str| {
        let client = format!(
            "import socket; s = socket.create_connection(('{address}', 80), 30)
s.send(b'?'); assert s.recv(1) == b'?'"
        );
        let mut python = trio.client.command("python3");
        trio.client.spawn(python.args(["-c", &client])).unwrap()
    };
    let mut clients = [connect(VIP), connect(VIP6)];
    wait_until(SOON, "half-open connections", || half_open() == 2).unwrap();
    let closed = Closed::by(&trio, divert(&trio, ""));
    let again = || harness::stopped_syns(&trio.a) >= 2;
    wait_until(SOON, "SYNs sent again", again).unwrap();
    trio.client.must(words("nft delete table inet deaf"));
    for client in &mut clients {
        assert!(client.wait().unwrap().success());
    }
    let outcome = closed.finish();
    assert_eq!(
        (outcome.code, figure(&outcome, "diverted")),
        (0, 0),
        "{outcome:?}"
    );
}

/// A client's port is used again at once, for the peer while the gate is closed, for this host once it
/// is open. The kernel may still remember the connection before.
#[test]
fn a_port_that_is_used_again_is_a_new_connection() {
    let trio = Trio::new().unwrap();
    let [at_a, at_b] = both(&trio);
    let _echo = [&trio.a, &trio.b].map(|host| Serve::on("0.0.0.0:90").echo().start(host).unwrap());
    let ask_from = |port: u16| {
        let script = format!(
            "import socket, struct
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('10.79.0.9', {port})); s.connect(('{VIP}', 80))
s.send(b'GET / HTTP/1.0\\r\\n\\r\\n')
while s.recv(65536): pass
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close()"
        );
        trio.client.must(["python3", "-c", &script]);
    };
    let mut closed = Closed::by(&trio, divert(&trio, "--port 90"));
    let lingers = flowing(&trio.client, &format!("{VIP}:90"));
    ask_from(40_001);
    ask_from(40_001);
    assert_eq!((at_a.count(), at_b.count_from(&CLIENTS)), (0, 2));
    closed.open(&trio);
    ask_from(40_001);
    ask_from(40_001);
    assert_eq!((at_a.count(), at_b.count_from(&CLIENTS)), (2, 2));
    assert!(gated(&trio.a), "the rules stay for the linger");
    whole(lingers);
    let outcome = closed.end();
    assert_eq!(
        (outcome.code, figure(&outcome, "cut")),
        (0, 0),
        "{outcome:?}"
    );
}

/// Both ways at once through both nodes, before, while and after the gate is closed.
fn transfers(trio: &Trio, peer: &str, to: &str) {
    let echo = "import socket, threading
def echo(c):
    while (part := c.recv(1 << 20)): c.sendall(part)
    c.close()
def serve(s):
    while True: threading.Thread(target=echo, args=s.accept()[:1]).start()
for to in (socket.AF_INET, '10.79.0.100'), (socket.AF_INET6, 'fd79::100'):
    s = socket.create_server((to[1], 80), family=to[0])
    threading.Thread(target=serve, args=(s,)).start()";
    let _echo = [&trio.a, &trio.b].map(|host| {
        let mut python = host.command("python3");
        let server = host.spawn(python.args(["-c", echo])).unwrap();
        wait_until(SOON, "both listeners", || {
            host.must(["ss", "-Hltn", "sport = :80"]).lines().count() == 2
        })
        .unwrap();
        server
    });
    let go = trio.client.dir().join("go");
    let transfer = |name: &str| {
        let half = trio.client.dir().join(name);
        let script = format!(
            "import hashlib, os, socket, threading, time
s = socket.create_connection(('{to}', 80), 30); s.settimeout(30)
data = os.urandom(1 << 20); sent = hashlib.sha256(); received = hashlib.sha256(); got = 0
def send():
    for n in range(64):
        if n == 32:
            open('{half}', 'w').close()
            while not os.path.exists('{go}'): time.sleep(0.005)
        s.sendall(data); sent.update(data)
    s.shutdown(socket.SHUT_WR)
sender = threading.Thread(target=send); sender.start()
while (part := s.recv(1 << 20)): received.update(part); got += len(part)
sender.join()
assert got == 64 << 20, got
assert sent.digest() == received.digest()",
            half = half.display(),
            go = go.display(),
        );
        let mut python = trio.client.command("python3");
        let running = trio.client.spawn(python.args(["-c", &script])).unwrap();
        let half_way = || half.exists();
        wait_until(SOON, "half of it", half_way).unwrap();
        running
    };
    let _ = std::fs::remove_file(&go);
    let at_a = transfer("at_a");
    let mut closed = Closed::by(trio, divert_to(trio, peer, ""));
    let at_b = transfer("at_b");
    assert_eq!((established(&trio.a), established(&trio.b)), (1, 1));
    closed.open(trio);
    std::fs::write(&go, "").unwrap();
    for mut transfer in [at_a, at_b] {
        assert!(transfer.wait().unwrap().success(), "byte for byte");
    }
    let outcome = closed.end();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let figures = ["diverted", "finished", "cut"].map(|name| figure(&outcome, name));
    assert_eq!(figures, [1, 1, 0], "{outcome:?}");
    for name in ["at_a", "at_b"] {
        std::fs::remove_file(trio.client.dir().join(name)).unwrap();
    }
}

#[test]
fn long_transfers_are_whole() {
    let trio = Trio::new().unwrap();
    // What comes in is joined (GRO), and so larger than what can be sent on.
    let offloads = trio.a.must(["ethtool", "-k", "eth0"]);
    assert!(
        offloads.contains("generic-segmentation-offload: on"),
        "{offloads}"
    );
    transfers(&trio, &format!("{NODE_B},{NODE_B6}"), VIP);
    transfers(&trio, &format!("{NODE_B},{NODE_B6}"), VIP6);
}

/// A router on the way to the clients, which takes smaller packets than the nodes send, says so to the
/// shared address.
#[test]
fn long_transfers_are_whole_over_a_narrow_way_to_the_client() {
    let trio = Trio::new().unwrap();
    let far = trio.client.neighbour().unwrap();
    trio.client.plug("far", &far, "eth0").unwrap();
    for (host, port, v4, v6) in [
        (&trio.client, "far", "10.82.0.1/24", "fd82::1/64"),
        (&far, "eth0", "10.82.0.9/24", "fd82::9/64"),
    ] {
        host.must(["ip", "address", "add", v4, "dev", port]);
        host.must(["ip", "address", "add", v6, "dev", port, "nodad"]);
        host.must(["ip", "link", "set", port, "up"]);
    }
    trio.client.must(words("ip link set far mtu 1300"));
    trio.client.must(words(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    ));
    far.must(words("ip route add default via 10.82.0.1"));
    far.must(words("ip -6 route add default via fd82::1"));
    for node in [&trio.a, &trio.b] {
        node.must(words("ip route add 10.82.0.0/24 via 10.79.0.9"));
        node.must(words("ip -6 route add fd82::/64 via fd79::9"));
    }
    let _servers = [&trio.a, &trio.b].map(|host| {
        let www = host.dir().join("www");
        std::fs::create_dir(&www).unwrap();
        std::fs::write(www.join("data"), vec![7; 1 << 20]).unwrap();
        let config = NginxConfig {
            port: 80,
            root: Some(www),
            ..NginxConfig::default()
        };
        Nginx::new(host, &config).unwrap().start().unwrap();
    });
    let closed = Closed::by(&trio, divert(&trio, ""));
    for to in [VIP.to_owned(), format!("[{VIP6}]")] {
        let url = format!("http://{to}/data");
        let got = far.must([
            "curl",
            "-sf",
            "-m",
            "10",
            "-o",
            "/dev/null",
            "-w",
            "%{size_download}",
            &url,
        ]);
        assert_eq!(got, (1 << 20).to_string());
    }
    let outcome = closed.finish();
    assert_eq!(
        (outcome.code, figure(&outcome, "diverted")),
        (0, 2),
        "{outcome:?}"
    );
}

/// The way to the peer takes smaller packets than the clients send.
#[test]
fn long_transfers_are_whole_over_a_narrow_way() {
    let trio = Trio::new().unwrap();
    trio.cross_mtu(1400).unwrap();
    transfers(&trio, &format!("{CROSS_B},{CROSS_B6}"), VIP);
    transfers(&trio, &format!("{CROSS_B},{CROSS_B6}"), VIP6);
    let outcome = {
        let _echo = both_echo(&trio);
        divert_to(&trio, CROSS_B, "--to 10.79.0.100 --settle 0").run(["true"])
    };
    let told = "packets to 10.80.0.2 have room for 1400 bytes (cross), but eth0 takes in up to 1500: let ICMP";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
}

// The linger --------------------------------------------------------------------------------------

#[test]
fn the_linger_is_bounded_and_a_second_signal_ends_it() {
    let trio = Trio::new().unwrap();
    let host = &trio.a;
    let _echo = both_echo(&trio);
    let before = host.ruleset();
    let mut n = 0;
    let mut begin = |options: &str| {
        n += 1;
        let mut latch = Latch::new(host, &format!("down{n}"));
        // COMMAND changes nothing, and that is not what this is about.
        let call = divert(&trio, &format!("--settle 0 {options}"));
        let run = call.start(["sh", "-c", &latch.hold()]);
        latch.wait();
        let hold = flowing(&trio.client, &format!("{VIP}:80"));
        latch.release();
        wait_until(SOON, "an open gate", || shut(host).is_empty()).unwrap();
        (call, run, hold)
    };
    for linger in ["0s", "300ms"] {
        let (call, run, hold) = begin(&format!("--linger {linger}"));
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let figures = ["diverted", "finished", "cut"].map(|name| figure(&outcome, name));
        assert_eq!(figures, [1, 0, 1], "{outcome:?}");
        assert_eq!(outcome.report["divert"]["linger_timed_out"], true);
        let told = format!("1 connection was still on the peer when --linger {linger} was over");
        assert!(outcome.stderr.contains(&told), "{outcome:?}");
        assert_eq!(host.ruleset(), before);
        let cut = hold.stop().unwrap();
        assert!(cut.broken.is_some(), "{cut:?}");
    }

    let (call, mut run, hold) = begin("--linger 50s");
    run.signal(Signal::SIGINT).unwrap();
    let pid = host.must(["pgrep", "-x", "syngate"]);
    let taken = || has_taken_its_signals(host, pid.trim());
    wait_until(SOON, "the first signal taken", taken).unwrap();
    assert!(gated(host), "the first harms nobody");
    signal_again(&mut run, Signal::SIGINT);
    let outcome = call.end(run);
    assert_eq!(outcome.code, 130, "{outcome:?}");
    assert_eq!(outcome.report["reason"], "linger");
    let told =
        "waiting up to 50s (--linger) for connections to the peer; interrupt again to cut them";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
    assert_eq!(figure(&outcome, "cut"), 1);
    assert_eq!(host.ruleset(), before);
    drop(hold);
}

/// Those that have just finished are not cut, and nobody is warned who has no reason to be.
#[test]
fn who_has_finished_is_not_cut() {
    let trio = Trio::new().unwrap();
    let [_at_a, at_b] = both(&trio);
    for linger in ["0s", "1m"] {
        let mut closed = Closed::by(
            &trio,
            divert(&trio, &format!("--max-closed 8s --linger {linger}")),
        );
        let before = at_b.count_from(&CLIENTS);
        for _ in 0..3 {
            ask(&trio.client, &format!("{VIP}:80"));
        }
        let diverted = (at_b.count_from(&CLIENTS) - before) as u64;
        closed.release();
        let outcome = closed.end();
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let figures = ["diverted", "finished", "cut"].map(|name| figure(&outcome, name));
        assert_eq!(figures, [diverted, diverted, 0], "{outcome:?}");
        assert!(!outcome.stderr.contains("warning"), "{outcome:?}");
    }
}

/// A client that has sent all, and takes its time to read: it acknowledges what comes.
#[test]
fn who_has_closed_its_side_is_waited_for_while_it_receives() {
    let trio = Trio::new().unwrap();
    let slow = "import socket, time
s = socket.create_server(('10.79.0.100', 80))
c, _ = s.accept()
while c.recv(100): pass
for n in range(3): c.send(b'x'); time.sleep(1.2)
c.close()";
    let _main = Serve::on(format!("{VIP}:80")).start(&trio.a).unwrap();
    let mut server = trio.b.command("python3");
    let _server = trio.b.spawn(server.args(["-c", slow])).unwrap();
    trio.b.wait_listen(80).unwrap();
    let closed = Closed::by(&trio, divert(&trio, "--no-peer-check"));
    let client = "import socket
s = socket.create_connection(('10.79.0.100', 80), 10); s.send(b'?')
s.shutdown(socket.SHUT_WR); got = b''
while (part := s.recv(100)): got += part
assert got == b'x' * 3, got";
    let mut command = trio.client.command("python3");
    let mut client = trio.client.spawn(command.args(["-c", client])).unwrap();
    wait_until(SOON, "a connection", || harness::stopped_syns(&trio.a) > 0).unwrap();
    let outcome = closed.finish();
    assert_eq!(
        (outcome.code, figure(&outcome, "cut")),
        (0, 0),
        "{outcome:?}"
    );
    assert!(client.wait().unwrap().success(), "it has received all");
}

// What it needs -----------------------------------------------------------------------------------

#[test]
fn bad_input() {
    let trio = Trio::new().unwrap();
    let host = &trio.a;
    let _servers = both(&trio);
    host.must(["ip", "route", "add", "10.99.0.0/16", "via", NODE_B]);
    let cases = [
        (
            "--syn divert",
            "",
            "--syn: 'divert': the address is missing",
        ),
        ("--syn divert=", "", "'' is not an IP address"),
        ("--syn divert=lb2", "", "names are not looked up"),
        ("--syn divert=fe80::2", "", "as in fe80::2%eth0"),
        ("--syn divert=10.79.0.2,10.79.0.3", "", "two IPv4 addresses"),
        (
            "--syn divert=10.79.0.2 --max-diverted 0",
            "",
            "--max-diverted: '0'",
        ),
        (
            "--no-peer-check",
            "options",
            "--no-peer-check has no effect with --syn drop: leave it out, or use --syn divert=ADDR",
        ),
        (
            "--syn divert=10.79.0.2 --peer-timeout 0s",
            "options",
            "no time to answer",
        ),
        (
            "--syn divert=10.79.0.2 --backend iptables-nft",
            "options",
            "iptables can't remember connections by the packets that it sees",
        ),
        (
            "--syn divert=fd79::2 --to 10.79.0.100",
            "options",
            "--to 10.79.0.100 has no address of that IP version",
        ),
        (
            "--syn divert=10.79.0.1",
            "peer",
            "an address of this host itself",
        ),
        (
            "--syn divert=10.79.0.2%eth7",
            "peer",
            "no interface is named eth7",
        ),
        (
            "--syn divert=10.99.0.2",
            "peer",
            "behind the router 10.79.0.2",
        ),
        (
            "--syn divert=10.98.0.2",
            "peer",
            "no way there: Network is unreachable",
        ),
        (
            "--syn divert=10.79.0.255",
            "peer",
            "is not the address of one host",
        ),
    ];
    all_refused(host, &cases);
    // The plan knows what the routes say, too.
    let far = call(host, words("--port 80 --syn divert=10.99.0.2 -n")).run(["true"]);
    assert_eq!(far.code, 125, "{far:?}");
    assert!(far.stderr.contains("behind the router"), "{far:?}");
}

/// What `--dry-run` prints, loaded by nft(8) on another host, is what the kernel has.
#[test]
fn the_kernel_has_what_a_dry_run_prints() {
    let trio = Trio::new().unwrap();
    let _servers = both(&trio);
    let essence = |listed: &str| {
        let lines = listed.lines().map(|line| {
            // Names, whose it is, and how long elements have to go yet.
            let line = match line.split_once("syngate_") {
                Some((head, _)) => format!("{head}syngate_ {{"),
                None => line.to_owned(),
            };
            let ends = [" expires", "29s9"]
                .into_iter()
                .filter_map(|at| line.find(at))
                .min();
            line[..ends.unwrap_or(line.len())].replace("timeout 30s", "timeout ")
        });
        let untold = |line: &String| {
            line.trim().is_empty() || line.contains("flags owner") || line.contains("comment \"")
        };
        lines.filter(|line| !untold(line)).collect::<Vec<String>>()
    };
    for options in [
        "",
        "--allow-from 10.0.0.0/8,fd00::/16 --interface eth0 --max-diverted 9",
    ] {
        let closed = divert(&trio, options).run(["nft", "list", "ruleset"]);
        assert_eq!(closed.code, 0, "{closed:?}");
        let mut dry_run = divert(&trio, options).argv(["true"]);
        let at = dry_run.iter().position(|word| word == "--").unwrap();
        dry_run.insert(at, "-n".into());
        let script = trio.a.must(dry_run);
        assert!(
            script.contains("# check that 10.79.0.2,fd79::2 accepts connections to 80 within 2s")
        );
        let nft = |host: &Host, words: &[&str], rules: &str| {
            let file = host.write("rules.nft", rules);
            host.must(
                ["nft"]
                    .iter()
                    .chain(words)
                    .chain(&["-f", file.to_str().unwrap()]),
            );
        };
        // A table of nft's own would go with nft's socket if it had an owner.
        let scratch = Trio::new().unwrap();
        nft(&scratch.a, &[], &script.replace("\tflags owner\n", ""));
        let loaded = scratch.a.must(["nft", "list", "ruleset"]);
        assert_eq!(essence(&closed.stdout), essence(&loaded), "{options}");
        nft(&trio.a, &["-c"], &script);
    }
}

/// The peer is asked for each address and port, before anything is gated.
#[test]
fn a_peer_that_takes_no_connections() {
    let trio = Trio::new().unwrap();
    let host = &trio.a;
    let service = Serve::on(format!("{VIP}:80")).and_on(format!("{VIP}:90"));
    let _main = service.start(host).unwrap();
    let before = host.ruleset();
    let run = |options: &str| {
        let options = format!("--port 80,90 --drain 0s --syn divert={NODE_B} {options}");
        let mark = host.dir().join("ran");
        let outcome = call(host, words(&options))
            .on(Backend::Nft)
            .run([OsStr::new("touch"), mark.as_os_str()]);
        let ran = std::fs::remove_file(&mark).is_ok();
        assert_eq!(ran, outcome.code == 0, "{outcome:?}");
        assert_eq!(host.ruleset(), before);
        outcome
    };
    let refused = run("");
    assert_eq!(refused.code, 125, "{refused:?}");
    assert_eq!(refused.report["reason"], "peer");
    let says = format!(
        "--syn divert={NODE_B}: it refuses connections to {VIP}:80 {VIP}:90: does its service"
    );
    assert!(refused.stderr.contains(&says), "{refused:?}");
    assert!(
        refused.stderr.contains("the gate was not closed"),
        "{refused:?}"
    );

    let peer = Serve::on("0.0.0.0:80").and_on(format!("{VIP}:90"));
    let peer = Instance::start(&trio.b, "peer", peer);
    let taken = run("");
    assert_eq!(taken.code, 0, "{taken:?}");
    assert_eq!(peer.count(), 2, "asked once each: {:?}", peer.accepted());
    assert_eq!(peer.count_from(&[NODE_A]), 2, "as a client of that link");

    trio.b
        .must(["ip", "address", "del", &format!("{VIP}/32"), "dev", "lo"]);
    let silent = run("--peer-timeout 200ms");
    assert_eq!(silent.code, 125, "{silent:?}");
    let says = format!("it does not answer on {VIP}:80 {VIP}:90 within --peer-timeout 200ms");
    assert!(silent.stderr.contains(&says), "{silent:?}");
    assert_eq!(run("--no-peer-check").code, 0);
}

/// The peer is asked from an address that it does not have itself, also if a shared one comes first on the interface.
/// The shared ones may be on the loopback of both.
#[test]
fn another_shared_address_is_not_asked_from() {
    let trio = Trio::new().unwrap();
    let _servers = both(&trio);
    for (host, port) in [(&trio.a, "eth0"), (&trio.b, "lo")] {
        host.must(["ip", "address", "add", "10.79.0.101/32", "dev", port]);
    }
    // As keepalived leaves it when the host's own address was added last.
    trio.a.must(words("ip address del 10.79.0.1/24 dev eth0"));
    trio.a.must(words("ip address add 10.79.0.1/24 dev eth0"));
    for address in [format!("{VIP}/32"), format!("{VIP6}/128")] {
        trio.a.must(["ip", "address", "add", &address, "dev", "lo"]);
    }
    let outcome = divert(&trio, "--settle 0").run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
}

#[test]
fn what_can_not_be_asked() {
    let trio = Trio::new().unwrap();
    let host = &trio.a;
    let servers = both(&trio);
    let before = host.ruleset();
    let run = |options: &str| {
        let options = format!("--port 80 --drain 0s {options}");
        let outcome = call(host, words(&options)).on(Backend::Nft).run(["true"]);
        assert_eq!(host.ruleset(), before);
        outcome
    };
    // Without --to, nothing is left to ask from.
    let all = run("--syn divert=10.79.0.2,fd79::2");
    assert_eq!(
        (all.code, &all.report["reason"]),
        (125, &"peer".into()),
        "{all:?}"
    );
    assert!(
        all.stderr
            .contains("give --to the addresses that both hosts have"),
        "{all:?}"
    );
    // Nobody is there.
    let nobody = run(&format!(
        "--syn divert=10.79.0.77 --to {VIP} --peer-timeout 1500ms"
    ));
    assert_eq!(nobody.code, 125, "{nobody:?}");
    assert!(
        nobody
            .stderr
            .contains("no host answers at 10.79.0.77 on eth0"),
        "{nobody:?}"
    );
    // An address that this host has not, as on the one of the pair that is not in use.
    let elsewhere = run("--syn divert=10.79.0.2 --to 10.79.0.200");
    assert_eq!(elsewhere.code, 0, "{elsewhere:?}");
    let told = "--to 10.79.0.200: this host does not have 10.79.0.200";
    assert!(elsewhere.stderr.contains(told), "{elsewhere:?}");
    drop(servers);
    let nobody_here = run(&format!(
        "--syn divert=10.79.0.2 --to {VIP} --ready-timeout 0s"
    ));
    assert_eq!(nobody_here.code, 0, "{nobody_here:?}");
    let told = "syngate does not ask the peer about 80, since nobody listens there";
    assert!(nobody_here.stderr.contains(told), "{nobody_here:?}");
}

/// Asking makes and removes rules: a run that holds SYNs meanwhile loses none.
#[test]
fn asking_takes_no_syns_from_others() {
    let trio = Trio::new().unwrap();
    let host = &trio.a;
    let service = Serve::on(format!("{VIP}:80")).and_on("0.0.0.0:90");
    let _service = service.start(host).unwrap();
    let mut latch = Latch::new(host, "held");
    let holds = call(host, words("--port 90 --syn hold --drain 0s --settle 0"));
    let holds = holds
        .on(Backend::Nft)
        .report_to(host.dir().join("holds.json"));
    let holding = holds.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    let load = Load::to(format!("{NODE_A}:90")).rate(20).timeout(LONG);
    let load = load
        .duration(Duration::from_millis(50))
        .start(&trio.client)
        .unwrap();
    let waiting = || harness::queues(host).split_whitespace().nth(2) == Some("1");
    wait_until(SOON, "a held SYN", waiting).unwrap();
    // Nobody listens on the peer; the other run lets go while this one waits for it.
    let asks = divert(&trio, "--peer-timeout 5s");
    let asking = asks.start(["true"]);
    wait_until(SOON, "a run that waits", || {
        host.must(["pgrep", "-xc", "syngate"]).trim() == "2"
    })
    .unwrap();
    latch.release();
    assert_eq!(asks.end(asking).code, 125);
    let held = holds.end(holding);
    assert_eq!(held.code, 0, "{held:?}");
    assert_eq!(held.report["hold"]["lost"], 0, "{held:?}");
    assert_eq!(load.finish().unwrap().failed(), 0);
}

/// A connection from this host has to go the way of a client's.
#[test]
fn a_peer_that_drops_what_comes_by_another_way() {
    let trio = Trio::new().unwrap();
    let host = &trio.a;
    let _servers = both_echo(&trio);
    let ask = || divert_to(&trio, CROSS_B, "--peer-timeout 300ms --to 10.79.0.100").run(["true"]);
    assert_eq!(ask().code, 0);
    trio.b
        .must(words("sysctl -qw net.ipv4.conf.cross.rp_filter=1"));
    let outcome = ask();
    assert_eq!(outcome.code, 125, "{outcome:?}");
    assert!(outcome.stderr.contains("rp_filter"), "{outcome:?}");
    assert!(!gated(host));
}

/// Behind a firewall that lets in what belongs to a connection, and nothing else.
#[test]
fn asking_passes_a_firewall_with_a_state() {
    let trio = Trio::new().unwrap();
    let _servers = both_echo(&trio);
    let rules = "add table inet fw; add chain inet fw in { type filter hook input priority 0; };
        add rule inet fw in ct state established,related accept;
        add rule inet fw in meta l4proto { icmp, icmpv6 } accept; add rule inet fw in drop";
    trio.a.must(["nft", &rules.replace('\n', " ")]);
    let outcome = divert(&trio, "").run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
}

#[test]
fn an_ip_version_without_a_peer_is_dropped_and_said() {
    let trio = Trio::new().unwrap();
    let [at_a, at_b] = both(&trio);
    let closed = Closed::by(&trio, divert_to(&trio, NODE_B, ""));
    let load = Load::to(format!("[{VIP6}]:80")).rate(20).timeout(LONG);
    let load = load
        .duration(Duration::from_millis(50))
        .start(&trio.client)
        .unwrap();
    wait_until(SOON, "SYNs", || harness::stopped_syns(&trio.a) > 0).unwrap();
    ask(&trio.client, &format!("{VIP}:80"));
    assert_eq!((at_a.count(), at_b.count_from(&[CLIENTS[1]])), (0, 0));
    let outcome = closed.finish();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let told = "--syn divert=10.79.0.2 has no IPv6 address: SYNs of IPv6 are dropped";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
    assert_eq!(load.finish().unwrap().failed(), 0, "they came again");
}

#[test]
fn there_is_room_for_so_many() {
    let trio = Trio::new().unwrap();
    let _echo = both_echo(&trio);
    let mut closed = Closed::by(&trio, divert(&trio, "--max-diverted 2"));
    let to = format!("{VIP}:80");
    let held = [flowing(&trio.client, &to), flowing(&trio.client, &to)];
    let load = Load::to(&to).rate(20).timeout(LONG);
    let load = load
        .duration(Duration::from_millis(50))
        .start(&trio.client)
        .unwrap();
    let without_room = || {
        let listed = trio.a.nft_json();
        let objects = listed["nftables"].as_array().unwrap().iter();
        let mut counters = objects.filter_map(|object| object.get("counter"));
        counters.any(|c| c["name"] == "no_room" && c["packets"].as_u64() > Some(0))
    };
    wait_until(SOON, "a SYN without room", without_room).unwrap();
    closed.open(&trio);
    held.into_iter().for_each(whole);
    let outcome = closed.end();
    assert_eq!(
        (outcome.code, figure(&outcome, "diverted")),
        (0, 2),
        "{outcome:?}"
    );
    assert!(figure(&outcome, "no_room") > 0, "{outcome:?}");
    let told = "that exceeded --max-diverted 2 (clients";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
    drop(load);
}

/// More end than there is room for: they do not take the room of others.
#[test]
fn ended_connections_take_no_room() {
    let trio = Trio::new().unwrap();
    let [_at_a, at_b] = both(&trio);
    let closed = Closed::by(&trio, divert(&trio, "--max-diverted 2 --linger 9s"));
    let began = Instant::now();
    for n in 1..=8 {
        ask(&trio.client, &format!("{VIP}:80"));
        // The kernel counts elements that have expired until it collects them, each second.
        let room = || at_b.count_from(&CLIENTS) >= n;
        wait_until(SOON, "the next one", room).unwrap();
    }
    tell(&format!("8 one after another took {:?}", began.elapsed()));
    let outcome = closed.finish();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(figure(&outcome, "cut"), 0, "{outcome:?}");
    assert_eq!(outcome.report["divert"]["linger_timed_out"], false);
}

/// A peer that does not answer any more: who was sent there comes back, as soon as the gate is open.
#[test]
fn a_peer_that_dies_holds_nobody() {
    let trio = Trio::new().unwrap();
    let [at_a, _at_b] = both(&trio);
    let mut closed = Closed::by(&trio, divert(&trio, ""));
    trio.b.must(words("ip link set eth0 down"));
    let load = Load::to(format!("{VIP}:80")).rate(20).timeout(LONG);
    let load = load
        .duration(Duration::from_millis(50))
        .start(&trio.client)
        .unwrap();
    wait_until(SOON, "SYNs", || harness::stopped_syns(&trio.a) > 0).unwrap();
    closed.release();
    let report = load.finish().unwrap();
    assert_eq!(report.failed(), 0, "{report}");
    // Its third SYN, 3 s after the first where the kernel doubles the time.
    assert!(report.connect.max_ms < 3_500.0, "{report}");
    assert!(at_a.count() > 0);
    let outcome = closed.end();
    let told = "the peer answered no connection that went there";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
}

/// A firewall that does not let them out.
#[test]
fn who_gets_no_further_than_the_syn_is_told_of() {
    let trio = Trio::new().unwrap();
    let _servers = both(&trio);
    let rules = format!(
        "add table ip fw; add chain ip fw out {{ type filter hook output priority 0; }}; \
         add rule ip fw out ip daddr {VIP} oifname eth0 drop"
    );
    trio.a.must(["nft", &rules]);
    let closed = Closed::by(&trio, divert(&trio, "--no-peer-check"));
    let load = Load::to(format!("{VIP}:80")).rate(20).timeout(LONG);
    let load = load
        .duration(Duration::from_millis(50))
        .start(&trio.client)
        .unwrap();
    wait_until(SOON, "SYNs", || harness::stopped_syns(&trio.a) > 0).unwrap();
    let outcome = closed.finish();
    let told =
        "the peer answered no connection that went there: does nobody listen, does a firewall";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
    drop(load);
}

/// Two nodes that hand to each other: clients wait until one is done. Where neither knows the other's
/// Ethernet address, what goes round is dropped in the end.
#[test]
fn two_that_divert_to_each_other_do_no_harm() {
    let trio = Trio::new().unwrap();
    let _servers = both(&trio);
    for known in [true, false] {
        let nodes = [(&trio.a, NODE_B), (&trio.b, NODE_A)];
        for (host, peer) in nodes {
            host.must(["ip", "neigh", "flush", "to", peer]);
            if known {
                host.must(["bash", "-c", &format!("echo >/dev/udp/{peer}/9")]);
                let answered = || {
                    host.must(["ip", "neigh", "show", "to", peer])
                        .contains("lladdr")
                };
                wait_until(SOON, "an answer", answered).unwrap();
            }
        }
        let mut latches = [&trio.a, &trio.b].map(|host| Latch::new(host, "down"));
        let runs = nodes.map(|(host, peer)| {
            let options = format!(
                "--port 80 --to {VIP} --no-peer-check --linger 4s --settle 0 --syn divert={peer}"
            );
            let call = call(host, words(&options)).on(Backend::Nft);
            (
                call.start(["sh", "-c", &Latch::new(host, "down").hold()]),
                call,
            )
        });
        latches.iter().for_each(|latch| drop(latch.wait()));
        for (host, _) in nodes {
            let rules = host.must(["nft", "list", "ruleset"]);
            assert_eq!(rules.contains("ether saddr"), known, "{rules}");
        }
        let sent = || {
            let counters = trio.a.must(["grep", "eth0", "/proc/net/dev"]);
            let packets = counters.split_whitespace().nth(10).unwrap();
            packets.parse::<u64>().unwrap()
        };
        let before = sent();
        let load = Load::to(format!("{VIP}:80")).rate(20).timeout(LONG);
        let load = load
            .duration(Duration::from_millis(50))
            .start(&trio.client)
            .unwrap();
        wait_until(SOON, "SYNs", || harness::stopped_syns(&trio.a) > 0).unwrap();
        std::thread::sleep(Duration::from_secs(1)); // the length of the comparison
        let sent = sent() - before;
        assert!(sent < if known { 50 } else { 1_000 }, "{sent} packets");
        latches.iter_mut().for_each(Latch::release);
        for (run, call) in runs {
            assert_eq!(call.end(run).code, 0);
        }
        if known {
            let report = load.finish().unwrap();
            assert_eq!(report.failed(), 0, "{report}");
        }
    }
}

// Real services, and kills --------------------------------------------------------------------------

fn times(variable: &str, few: usize) -> usize {
    std::env::var(variable).map_or(few, |n| n.parse().unwrap())
}

/// Restarts of the first node under load on the shared address, beside the same load without any.
#[test]
fn haproxy_restarts_unnoticed() {
    let trio = Trio::steered_by_flow().unwrap();
    let [haproxy, _peer] = [&trio.a, &trio.b].map(|host| {
        let haproxy = Haproxy::debian_init(host, &HaproxyConfig::port(80)).unwrap();
        haproxy.start().unwrap();
        haproxy
    });
    let load = || {
        let load = Load::to(format!("{VIP}:80")).rate(1_000).duration(LONG * 3);
        let mut load = load.start(&trio.client).unwrap();
        load.wait_flowing().unwrap();
        load
    };
    // What a client sends late, on a machine that others use, tells nothing of connect times.
    for attempt in 1.. {
        let running = load();
        std::thread::sleep(Duration::from_secs(2)); // the length of the comparison
        let outside = running.stop().unwrap();
        let running = load();
        for _ in 0..times("SYNGATE_RESTARTS", 3) {
            let outcome = divert(&trio, "").run(haproxy.restart_argv());
            assert_eq!(outcome.code, 0, "{outcome:?}");
            assert_eq!(figure(&outcome, "cut"), 0, "{outcome:?}");
            assert!(figure(&outcome, "diverted") > 0, "{outcome:?}");
        }
        let report = running.stop().unwrap();
        tell(&format!("haproxy: {report}; without restarts: {outside}"));
        assert_eq!((report.failed(), report.delayed), (0, 0), "{report}");
        let bound = 20.0 * f64::from(slow()) + outside.connect.max_ms;
        if report.late == 0 || attempt == 5 {
            assert!(report.connect.max_ms < bound, "{report}: {bound} ms");
            return;
        }
    }
}

/// SIGKILL: no rule is left, new connections stay here, those that were here go on. `make test-long`
/// does it 50 times.
fn killed(fault: Option<&str>, times: usize) {
    let trio = Trio::new().unwrap();
    let host = &trio.a;
    let [_a, _b] = both_echo(&trio);
    let mut call = divert(&trio, "");
    if let Some(fault) = fault {
        call = call.fault(fault);
    }
    let before = host.ruleset();
    let to = format!("{VIP}:80");
    let at_a = Hold::start(&trio.client, &to, Duration::from_millis(2), LONG * 10).unwrap();
    let (mut closed, mut slowest) = (0, Duration::ZERO);
    let mut kills = 0;
    while killing::go_on(kills, closed, times) {
        kills += 1;
        let mut run = call.start(["sleep", "10"]);
        let Moment::After(pause) = Moment::random(Duration::from_millis(300) * slow()) else {
            unreachable!("a random moment is a time");
        };
        std::thread::sleep(pause); // a moment is what is wanted here, not a state
        closed += u64::from(!shut(host).is_empty());
        run.signal(Signal::SIGKILL).unwrap();
        let began = Instant::now();
        run.wait().unwrap();
        let what = format!("no rule after {pause:?}");
        wait_until(Duration::from_secs(2), &what, || host.ruleset() == before).unwrap();
        slowest = slowest.max(began.elapsed());
        let here = established(host);
        let hold = flowing(&trio.client, &to);
        assert_eq!(established(host), here + 1, "new connections stay here");
        whole(hold);
        wait_until(SOON, "its end", || established(host) == here).unwrap();
        host.sh("pkill -x sleep").unwrap(); // if it was run
    }
    whole(at_a);
    tell(&format!(
        "{kills} kills, {closed} of them with the gate closed; no rule after {slowest:?} at most"
    ));
    assert!(closed > 0, "none of {kills} kills met a closed gate");
}

#[test]
fn killed_at_random_moments() {
    killed(None, times("SYNGATE_KILLS", 5));
}

#[test]
fn killed_where_tables_have_no_owner() {
    killed(Some("no-owner-tables"), times("SYNGATE_KILLS", 5));
}

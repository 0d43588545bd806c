//! What the kernel contains while the gate is closed, and which packets it stops. The oracle is
//! nft(8), and packets from another host.

mod harness;

use std::process::Stdio;
use std::time::Duration;

use harness::{Backend, SOON, call, gated, stopped_syns, wait_shut, words};
use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::services::Serve;
use testkit::{Host, Load, Pair, SERVER, SERVER6, slow, wait_until};

/// COMMAND that lists the ruleset while the gate is closed.
const LIST: [&str; 4] = ["nft", "-j", "list", "ruleset"];

fn sh(script: &str) -> [&str; 3] {
    ["sh", "-c", script]
}

/// A ruleset as data: without handles, counts, what is left of a timeout, and the random part of
/// the table's name.
fn essence(json: &str) -> Value {
    let mut json: Value = serde_json::from_str(json).unwrap();
    let objects = json["nftables"].as_array_mut().unwrap();
    objects.retain(|object| object.get("metainfo").is_none());
    objects.iter_mut().for_each(strip);
    json
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Object(table)) = fields.get_mut("table") {
                // nft 1.0.6 prints any memory for the flag that it has no name for in JSON.
                table.remove("flags");
            }
            fields.retain(|name, _| !matches!(name.as_str(), "handle" | "expires" | "comment"));
            fields.values_mut().for_each(strip);
            if let Some(Value::Array(elements)) = fields.get_mut("elem") {
                // A hash table has them in any order.
                elements.sort_by_key(Value::to_string);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::String(text) if text.starts_with("syngate_") => "syngate_".clone_into(text),
        // 29.996 s, of which nft shows the whole seconds, were 30 when the gate was closed.
        Value::Number(n) if *n == 29.into() => *value = 30.into(),
        _ => (),
    }
}

/// What `--dry-run` prints, loaded by nft(8) on a host of its own, is what the kernel has.
#[test]
fn the_kernel_has_what_a_dry_run_prints() {
    let separate = format!("--port {}", separate_ports());
    let nearly = format!("{separate},80-83");
    for options in [
        &separate,
        &nearly,
        "--port 80",
        "--port 80,443,8000-8010",
        "--port 1-65535",
        "--port 1,65535",
        "--port 80 --to 10.0.0.0/8,255.0.0.0/8,fd00::1 --allow-from ::/1 --interface eth0",
        "--port 80 --hook prerouting --allow-local --to 10.0.0.1",
    ] {
        let host = Host::new().unwrap();
        if options.contains("prerouting") {
            // What SYNPROXY sends on has a rule of its own.
            host.must(words(
                "iptables-legacy -A INPUT -p tcp --dport 80 -j SYNPROXY",
            ));
        }
        let ports = options;
        let closed = call(&host, words(options)).on(Backend::Nft).run(LIST);
        let dry_run = host.must(sh(&format!("{} -n {options} -- true", harness::SYNGATE)));

        let scratch = Host::new().unwrap();
        Backend::of_the_suite().prime(&scratch);
        // nft's own table would go with nft's socket if it had an owner.
        let rules = dry_run.replace("\tflags owner\n", "");
        assert_ne!(rules, dry_run, "it says that the table has an owner");
        scratch.must([
            "nft",
            "-f",
            scratch.write("rules.nft", rules).to_str().unwrap(),
        ]);
        let loaded = scratch.must(LIST);
        assert_eq!(essence(&closed.stdout), essence(&loaded), "{ports}");

        // As it is, with its owner, nft accepts it as well.
        let fresh = Host::new().unwrap();
        fresh.must([
            "nft",
            "-c",
            "-f",
            fresh.write("rules.nft", dry_run).to_str().unwrap(),
        ]);
    }
}

#[test]
fn the_table_says_whose_it_is() {
    let host = Host::new().unwrap();
    let call = call(&host, ["--port", "80"]).on(Backend::Nft);
    let outcome = call.run(["nft", "list", "ruleset"]);
    let run = outcome.report["run"].as_str().unwrap();
    for part in [
        &format!("table inet syngate_{run} "),
        "flags owner",
        "comment \"syngate pid=",
        "command=nft list ruleset",
    ] {
        assert!(outcome.stdout.contains(part), "{part}: {}", outcome.stdout);
    }
}

/// So many that they are not kept as intervals.
fn separate_ports() -> String {
    let ports: Vec<String> = (0..600).map(|n| (1_001 + 2 * n).to_string()).collect();
    ports.join(",")
}

/// What is shut are these ports and none between them; anybody can see which; and the kernel opens them
/// in time.
#[test]
fn many_separate_ports_are_a_hash_table() {
    let host = Host::new().unwrap();
    let (gated, between) = (1_001, 1_002);
    let _services =
        [gated, between].map(|port| Serve::on(format!("0.0.0.0:{port}")).start(&host).unwrap());
    let connects = |port: u16| {
        let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
        let patience = format!("{}", 0.3 * f64::from(slow()));
        host.run(["timeout", &patience, "bash", "-c", &connect])
            .is_ok()
    };
    let ports = separate_ports();
    let max_closed = format!("{}s", 3 * slow());
    let options = ["--port", &ports, "--max-closed", &max_closed];
    let mut run = call(&host, options)
        .on(Backend::Nft)
        .start(["sleep", "1000"]);
    wait_until(SOON, "the gate is closed", || !connects(gated)).unwrap();
    assert!(connects(between));

    // In brief: the first of them, and how many they are.
    let status = host.sh(&format!("{} status", harness::SYNGATE)).unwrap();
    let status = status.stdout;
    assert!(
        status.starts_with("1001,1003,1005,1007,1009,1011,1013,1015,… (600 ports) is closed"),
        "{status}"
    );
    let set = host.must(["nft", "-j", "list", "sets"]);
    let set: Value = serde_json::from_str(&set).unwrap();
    let mut sets = set["nftables"].as_array().unwrap().iter();
    let set = sets.find_map(|object| object.get("set")).unwrap();
    assert_eq!(set["flags"], serde_json::json!(["timeout"]), "no intervals");

    run.signal(Signal::SIGSTOP).unwrap();
    wait_until(SOON, "the kernel opens it", || connects(gated)).unwrap();
    run.signal(Signal::SIGCONT).unwrap();
    run.signal(Signal::SIGTERM).unwrap();
    run.wait().unwrap();
}

/// All ports, and every other one: the gate closes and opens, and stops what it should.
#[test]
fn many_ports() {
    let host = Host::new().unwrap();
    let odd: Vec<String> = (1..=65_535u32).step_by(2).map(|p| p.to_string()).collect();
    // No argument may be longer than 128 KiB (execve(2)).
    let odd: Vec<String> = odd.chunks(5_000).map(|ports| ports.join(",")).collect();
    for (ports, ranges) in [(vec!["1-65535".to_owned()], 1), (odd, 32_768)] {
        let options = ports.iter().flat_map(|ports| ["--port", ports]);
        // Without the table: nft 1.0.6 prints any memory for its flag, and nothing at all if that is
        // no text.
        let call = call(&host, options).on(Backend::Nft);
        let outcome = call.run(["nft", "-j", "list", "sets"]);
        if ranges > 1 && testkit::rootless() {
            // Only the host's root may send netlink messages of that size.
            assert_eq!(outcome.code, 125, "{outcome:?}");
            assert!(
                outcome.stderr.contains("too many separate ranges"),
                "{outcome:?}"
            );
            continue;
        }
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let json: Value = serde_json::from_str(&outcome.stdout).unwrap();
        let mut sets = json["nftables"].as_array().unwrap().iter();
        let elements = sets.find_map(|o| o["set"]["elem"].as_array()).unwrap();
        assert_eq!(elements.len(), ranges);
    }
}

/// Sends raw TCP segments (IPv4) from the client to the server and says what came back.
const SEGMENTS: &str = r#"
import socket, struct, sys
def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
client, server, port, first = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
raw.bind((client, 0))
raw.settimeout(0.3)
for n, flags in enumerate(int(f, 0) for f in sys.argv[5:]):
    source = first + n
    head = struct.pack("!HHIIBBHHH", source, port, 1000, 0, 5 << 4, flags, 1000, 0, 0)
    pseudo = socket.inet_aton(client) + socket.inet_aton(server) + struct.pack("!BBH", 0, 6, len(head))
    head = head[:16] + struct.pack("!H", checksum(pseudo + head)) + head[18:]
    raw.sendto(head, (server, 0))
    answer = "nothing"
    try:
        while True:
            packet = raw.recv(2000)
            reply = packet[(packet[0] & 15) * 4:]
            if struct.unpack("!HH", reply[:4]) == (port, source):
                answer = "0x%02x" % reply[13]
                break
    except socket.timeout:
        pass
    print("0x%02x" % flags, answer)
"#;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE_CWR: u8 = 0xc0;
const SYN_ACK: &str = "0x12";
const RST: &str = "0x04";
const RST_ACK: &str = "0x14";

/// The flags of the answer to each segment, if there was one. The first comes from `source`, each
/// other one from the next port.
fn answers(pair: &Pair, port: u16, source: u16, segments: &[u8]) -> Vec<String> {
    let script = pair.client.write("segments.py", SEGMENTS);
    let mut words: Vec<String> = vec!["python3".into(), script.to_str().unwrap().into()];
    words.extend([testkit::CLIENT.to_owned(), SERVER.to_owned()]);
    words.extend([port.to_string(), source.to_string()]);
    words.extend(segments.iter().map(|flags| flags.to_string()));
    let said = pair.client.must(words);
    said.lines()
        .map(|l| l.split_once(' ').unwrap().1.to_owned())
        .collect()
}

/// Runs `look` while the gate to port 80 is closed.
fn while_closed<T>(pair: &Pair, look: impl FnOnce() -> T) -> T {
    let host = &pair.server;
    let fifo = host.dir().join("go-on");
    host.must(["mkfifo", fifo.to_str().unwrap()]);
    let call = call(host, words("--port 80 --drain 0 --ready-timeout 0"));
    let mut run = call.start(["sh", "-c", "read line < $0", fifo.to_str().unwrap()]);
    wait_shut(host, &[80]);
    let seen = look();
    std::fs::write(&fifo, "go on\n").unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert!(!gated(host));
    seen
}

/// New connections are stopped, ECN's among them. Other segments of TCP go through, and so do
/// other ports.
#[test]
fn only_new_syns_to_gated_ports_are_stopped() {
    let pair = Pair::new().unwrap();
    // The kernel answers: the client's must not reset connections that it does not know.
    pair.client.must(["nft", "add table inet quiet; add chain inet quiet out { type filter hook output priority 0; }; add rule inet quiet out tcp flags rst tcp sport 10000-10100 drop"]);
    let _server = Serve::on("0.0.0.0:80")
        .and_on("0.0.0.0:81")
        .start(&pair.server)
        .unwrap();
    let segments = [
        SYN,
        SYN | ECE_CWR,
        SYN | PSH,
        SYN | ACK,
        ACK,
        FIN | ACK,
        ACK | PSH,
        SYN | FIN,
    ];
    let open = answers(&pair, 80, 10_000, &segments[..3]);
    assert!(
        open.iter().all(|a| a.starts_with("0x")),
        "all answered before: {open:?}"
    );

    let (gated, other) = while_closed(&pair, || {
        (
            answers(&pair, 80, 10_010, &segments),
            answers(&pair, 81, 10_020, &segments[..1]),
        )
    });
    assert_eq!(
        gated[..3],
        ["nothing", "nothing", "nothing"],
        "new connections"
    );
    assert!(
        gated[3..7].iter().all(|a| a == RST || a == RST_ACK),
        "strays are reset: {gated:?}"
    );
    assert_eq!(other, [SYN_ACK]);
}

/// A UDP datagram whose payload looks like a SYN to port 80 passes.
#[test]
fn udp_is_left_alone() {
    let pair = Pair::new().unwrap();
    let receive = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
                   s.bind(('', 80)); print('bound', flush=True); print(len(s.recv(100)), flush=True)";
    let mut server = pair.server.command("python3");
    server.args(["-c", receive]).stdout(Stdio::piped());
    let mut server = pair.server.spawn(&mut server).unwrap();
    let mut said = std::io::BufReader::new(server.stdout().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    let send = format!(
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
         s.sendto(b'\\x02' * 40, ('{SERVER}', 80))"
    );
    while_closed(&pair, || {
        pair.client.must(["python3", "-c", &send]);
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    });
    assert_eq!(line, "bound\n40\n");
}

/// From outside and from the host itself, IPv4 and IPv6: each waits for the gate and gets in.
#[test]
fn every_way_in_is_gated() {
    let pair = Pair::new().unwrap();
    let _server = Serve::on("0.0.0.0:80")
        .and_on("[::]:80")
        .start(&pair.server)
        .unwrap();
    let clients = [
        (&pair.client, format!("{SERVER}:80")),
        (&pair.client, format!("[{SERVER6}]:80")),
        (&pair.server, "127.0.0.1:80".to_owned()),
        (&pair.server, "[::1]:80".to_owned()),
    ];
    let loads: Vec<_> = while_closed(&pair, || {
        let start = |(host, to): &(&Host, String)| {
            let load = Load::to(to).rate(100).duration(Duration::from_millis(50));
            load.timeout(SOON).start(host).unwrap()
        };
        let loads = clients.iter().map(start).collect();
        wait_until(SOON, "20 stopped SYNs", || stopped_syns(&pair.server) >= 20).unwrap();
        loads
    });
    for (load, (_, to)) in loads.into_iter().zip(&clients) {
        let report = load.finish().unwrap();
        assert_eq!((report.ok, report.delayed), (5, 5), "{to}: {report}");
    }
}

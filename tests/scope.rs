//! Which packets the gate stops, and which it lets through: `--hook`, `--to`, `--allow-from`,
//! `--allow-local` and `--interface`, on all backends and over both IP versions. And listeners that
//! are not where the packets are: in a container, on another port. The oracle is real clients.
//!
//! ```text
//!   client                        server                          container "web", a namespace
//!   10.77.0.2  .3      eth0       10.77.0.1  .11      web0        172.30.0.2  fd30::2
//!   fd77::2    ::3   --------     fd77::1    ::11   --------      8080 (published as 80), 80
//!   10.79.0.2  fd79::2   eth1     10.79.0.1  fd79::1
//! ```

mod harness;

use std::collections::BTreeMap;
use std::path::PathBuf;

use harness::latch::Latch;
use harness::{
    Backend, Call, Outcome, SOON, call, gated, ms, python, wait_gated, wait_open, words,
};
use nix::sys::signal::Signal;
use serde_json::json;
use testkit::services::{Nginx, NginxConfig, Serve};
use testkit::{Host, Load, Pair, Running, SERVER, SERVER6, bin, wait_until};

/// Other addresses of the server's.
const OTHER: &str = "10.77.0.11";
const OTHER6: &str = "fd77::11";
/// Addresses of the client's from which health checks come.
const CHECKER: &str = "10.77.0.3";
const CHECKER6: &str = "fd77::3";
/// The server's addresses on the second cable.
const BACK: &str = "10.79.0.1";
const BACK6: &str = "fd79::1";
/// Of the container.
const WEB: &str = "172.30.0.2";
const WEB6: &str = "fd30::2";

/// Settling, looking, and starting a shell, on a busy machine.
const AT_ONCE_MS: f64 = 80.0;

// Clients -----------------------------------------------------------------------------------------

/// What became of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It got an answer.
    Served,
    /// Nobody listens.
    Refused,
    /// Its SYN is dropped.
    Silent,
}
use Fate::{Refused, Served, Silent};

/// Knocks on all doors at once, each given as FROM (or -), TO, PORT and how long to wait, in seconds:
/// what each got.
const KNOCK: &str = r#"
import socket, sys, threading
def knock(n, source, to, port, patience):
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(float(patience))
    try:
        if source != "-":
            s.bind((source, 0))
        s.connect((to, int(port)))
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        said = s.recv(100)
        fates[n] = "served" if said.startswith(b"HTTP/1.1 200") else "odd: %r" % said
    except ConnectionRefusedError:
        fates[n] = "refused"
    except TimeoutError:
        fates[n] = "silent"
doors = [door.split(",") for door in sys.argv[1:]]
fates = [None] * len(doors)
threads = [threading.Thread(target=knock, args=(n, *door)) for n, door in enumerate(doors)]
for t in threads: t.start()
for t in threads: t.join()
print("\n".join(map(str, fates)))
"#;

/// A door: from, to, port.
type Door = (&'static str, &'static str, u16);

/// Clients without an address of their own come from here.
const ANY: &str = "-";

/// A client that is to be served may take its time. One that is to get no answer gives up before its kernel sends
/// the SYN again, after 1 s.
const LONG_S: f64 = 5.0;
const MIDDLE_S: f64 = 0.9;
const SHORT_S: f64 = 0.5;

fn knock(client: &Host, doors: &[Door]) -> Vec<Fate> {
    let patiently: Vec<_> = doors.iter().map(|door| (*door, MIDDLE_S)).collect();
    knock_for(client, &patiently)
}

fn knock_for(client: &Host, doors: &[(Door, f64)]) -> Vec<Fate> {
    let script = client.write("knock.py", KNOCK);
    let mut argv = vec!["python3".to_owned(), script.to_str().unwrap().to_owned()];
    argv.extend(
        doors
            .iter()
            .map(|((from, to, port), patience)| format!("{from},{to},{port},{patience}")),
    );
    let said = client.must(argv);
    let fate = |line: &str| match line {
        "served" => Served,
        "refused" => Refused,
        "silent" => Silent,
        other => panic!("{other}"),
    };
    said.lines().map(fate).collect()
}

/// What is expected of whom while the gate is closed. When it is open, everybody is served.
struct Expected<'a> {
    client: &'a Host,
    fates: &'a [(Door, Fate)],
}

impl Expected<'_> {
    fn doors(&self) -> Vec<Door> {
        self.fates.iter().map(|(door, _)| *door).collect()
    }

    #[track_caller]
    fn assert_open(&self, when: &str) {
        let doors: Vec<_> = self.doors().into_iter().map(|d| (d, LONG_S)).collect();
        for ((door, _), fate) in doors.iter().zip(knock_for(self.client, &doors)) {
            assert_eq!(fate, Served, "{when}: {door:?}");
        }
    }

    #[track_caller]
    fn assert_closed(&self, what: &str) {
        let patience = |fate| if fate == Silent { SHORT_S } else { LONG_S };
        let doors = self
            .fates
            .iter()
            .map(|(door, fate)| (*door, patience(*fate)));
        let fates = knock_for(self.client, &doors.collect::<Vec<_>>());
        for ((door, expected), fate) in self.fates.iter().zip(fates) {
            assert_eq!(fate, *expected, "{what}: {door:?}");
        }
    }
}

/// Closes the gate around a COMMAND that waits, and looks who gets in, before, meanwhile and after.
#[track_caller]
fn assert_gates(run: &Call, server: &Host, expected: &[Expected]) -> Outcome {
    let mut latch = Latch::new(server, "scope");
    expected.iter().for_each(|e| e.assert_open("before"));
    let before = server.ruleset();
    let running = run.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    assert!(gated(server), "a gate stands");
    expected.iter().for_each(|e| e.assert_closed("closed"));
    latch.release();
    let outcome = run.end(running);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(server.ruleset(), before, "nothing else was touched");
    expected.iter().for_each(|e| e.assert_open("after"));
    outcome
}

/// Two hosts with two cables and more addresses, and a service on all of the server's.
fn two_cables() -> (Pair, Running) {
    let pair = Pair::new().unwrap();
    let (server, client) = (&pair.server, &pair.client);
    server.plug("eth1", client, "eth1").unwrap();
    address(server, "eth1", BACK, BACK6);
    address(client, "eth1", "10.79.0.2", "fd79::2");
    address(server, "eth0", OTHER, OTHER6);
    address(client, "eth0", CHECKER, CHECKER6);
    let service = Serve::on("0.0.0.0:80").and_on("[::]:80");
    let service = service.start(server).unwrap();
    (pair, service)
}

fn address(host: &Host, port: &str, v4: &str, v6: &str) {
    let script = format!(
        "ip address add {v4}/24 dev {port} && ip link set {port} up && \
         ip address add {v6}/64 dev {port} nodad"
    );
    host.must(["sh", "-c", &script]);
}

/// Both places where the gate can stand.
const HOOKS: [&str; 2] = ["input", "prerouting"];

/// Runs a test on all backends at the same time, each with hosts of its own: most of it is waiting for
/// clients that nobody answers.
fn on_all_backends(test: impl Fn(Backend) + Sync) {
    std::thread::scope(|threads| {
        for backend in Backend::ALL {
            let test = &test;
            threads.spawn(move || {
                let _told = ToldIfItFails(backend);
                test(backend);
            });
        }
    });
}

/// So that a failure says on which backend it was.
struct ToldIfItFails(Backend);

impl Drop for ToldIfItFails {
    fn drop(&mut self) {
        use std::io::Write as _;
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "this was on {}", self.0.name());
        }
    }
}

fn closing<'a>(host: &'a Host, backend: Backend, options: &str) -> Call<'a> {
    call(
        host,
        words(&format!("--port 80 --drain 0 --settle 0 {options}")),
    )
    .on(backend)
}

// Narrowed ----------------------------------------------------------------------------------------

#[test]
fn to_gates_the_addresses_that_it_names() {
    on_all_backends(|backend| {
        let (pair, _service) = two_cables();
        for hook in HOOKS {
            let both = format!("--hook {hook} --to {SERVER},fd77::/124 --to 10.79.0.0/30");
            let outcome = assert_gates(
                &closing(&pair.server, backend, &both),
                &pair.server,
                &[Expected {
                    client: &pair.client,
                    fates: &[
                        ((ANY, SERVER, 80), Silent),
                        ((ANY, SERVER6, 80), Silent),
                        ((ANY, BACK, 80), Silent),
                        ((ANY, OTHER, 80), Served),
                        ((ANY, OTHER6, 80), Served),
                        ((ANY, BACK6, 80), Served),
                    ],
                }],
            );
            assert_eq!(outcome.report["backend"], backend.reported());
            let scope = outcome.report["scope"].as_str().unwrap();
            assert!(
                scope.contains("--to 10.77.0.1,10.79.0.0/30,fd77::/124"),
                "{scope}"
            );
        }
        // One IP version only: the other is not gated at all.
        assert_gates(
            &closing(&pair.server, backend, &format!("--to {SERVER6}")),
            &pair.server,
            &[Expected {
                client: &pair.client,
                fates: &[((ANY, SERVER, 80), Served), ((ANY, SERVER6, 80), Silent)],
            }],
        );
    });
}

/// Health checks get an answer as long as the old process lives, and a refusal in the gap: never
/// silence.
#[test]
fn allow_from_lets_health_checks_through() {
    on_all_backends(|backend| {
        let (pair, service) = two_cables();
        let server = &pair.server;
        for hook in HOOKS {
            let from = format!("--hook {hook} --allow-from {CHECKER},{CHECKER6}");
            let fates = [
                ((CHECKER, SERVER, 80), Served),
                ((CHECKER6, SERVER6, 80), Served),
                ((testkit::CLIENT, SERVER, 80), Silent),
                ((testkit::CLIENT6, SERVER6, 80), Silent),
            ];
            let run = closing(server, backend, &from);
            assert_gates(
                &run,
                server,
                &[Expected {
                    client: &pair.client,
                    fates: &fates,
                }],
            );
        }
        let mut latch = Latch::new(server, "gap");
        let from = "--allow-from 10.77.0.0/31,10.77.0.3,fd77::3/128 --ready-timeout 0";
        let run = closing(server, backend, from);
        let running = run.start(["sh", "-c", &latch.hold()]);
        latch.wait();
        drop(service);
        wait_until(SOON, "the gap", || !server.listens(80)).unwrap();
        let doors = [
            (CHECKER, SERVER, 80),
            (CHECKER6, SERVER6, 80),
            (testkit::CLIENT, SERVER, 80),
        ];
        assert_eq!(knock(&pair.client, &doors), [Refused, Refused, Silent]);
        latch.release();
        assert_eq!(run.end(running).code, 0);
    });
}

#[test]
fn allow_local_lets_the_host_itself_through() {
    on_all_backends(|backend| {
        let (pair, _service) = two_cables();
        let server = &pair.server;
        for hook in HOOKS {
            for (option, local) in [("--allow-local", Served), ("", Silent)] {
                let run = closing(server, backend, &format!("--hook {hook} {option}"));
                let at_home = Expected {
                    client: server,
                    fates: &[
                        ((ANY, "127.0.0.1", 80), local),
                        ((ANY, "::1", 80), local),
                        ((ANY, SERVER, 80), local),
                        ((ANY, SERVER6, 80), local),
                    ],
                };
                let outside = Expected {
                    client: &pair.client,
                    fates: &[((ANY, SERVER, 80), Silent), ((ANY, SERVER6, 80), Silent)],
                };
                assert_gates(&run, server, &[at_home, outside]);
            }
        }
    });
}

#[test]
fn interface_gates_what_comes_in_there() {
    on_all_backends(|backend| {
        let (pair, _service) = two_cables();
        let server = &pair.server;
        for hook in HOOKS {
            let run = closing(server, backend, &format!("--hook {hook} --interface eth1"));
            let outside = Expected {
                client: &pair.client,
                fates: &[
                    ((ANY, BACK, 80), Silent),
                    ((ANY, BACK6, 80), Silent),
                    ((ANY, SERVER, 80), Served),
                    ((ANY, SERVER6, 80), Served),
                ],
            };
            let at_home = Expected {
                client: server,
                fates: &[((ANY, BACK, 80), Served), ((ANY, "::1", 80), Served)],
            };
            let outcome = assert_gates(&run, server, &[outside, at_home]);
            assert_eq!(outcome.report["warnings"], json!([]), "{outcome:?}");
        }
    });
}

/// An interface that is not there is said to be missing, and is gated when it comes.
#[test]
fn an_interface_that_comes_later_is_gated() {
    on_all_backends(|backend| {
        let (pair, _service) = two_cables();
        let (server, client) = (&pair.server, &pair.client);
        let mut latch = Latch::new(server, "scope");
        let run = closing(server, backend, "--interface eth1 --interface late0");
        let running = run.start(["sh", "-c", &latch.hold()]);
        latch.wait();
        let doors: [Door; 2] = [(ANY, "10.80.0.1", 80), (ANY, "fd80::1", 80)];
        server.plug("late0", client, "late0").unwrap();
        address(server, "late0", "10.80.0.1", "fd80::1");
        address(client, "late0", "10.80.0.2", "fd80::2");
        assert_eq!(knock(client, &doors), [Silent, Silent]);
        assert_eq!(knock(client, &[(ANY, SERVER, 80)]), [Served]);
        latch.release();
        let outcome = run.end(running);
        assert_eq!(knock(client, &doors), [Served, Served]);
        let warning = "--interface late0: this host has no such interface now; the gate stops what comes in \
                       by it only if it appears";
        assert_eq!(outcome.report["warnings"], json!([warning]));
        assert!(outcome.stderr.contains(warning), "{outcome:?}");
    });
}

/// COMMAND that connects to its own gated port, and --ready-check whose proxy does: the gate waits for them, and they
/// for the gate. Other clients of this host are none of theirs.
#[test]
fn a_client_that_the_run_itself_waits_for_is_told() {
    let (pair, _service) = two_cables();
    let server = &pair.server;
    let script = server.write("knock.py", KNOCK);
    let ask = format!(
        "[ \"$(python3 {} -,{BACK},80,1)\" = served ]",
        script.display()
    );
    let shut = |options: &str| call(server, words(&format!("--port 80 --drain 0 {options}")));
    for options in ["", "--open-on ready", "--hook prerouting --to 10.79.0.1"] {
        let outcome = shut(&format!("--settle 0 {options}")).run(sh(format!("{ask}; true")));
        let told = "COMMAND waits for the gate: python3 (pid ";
        let prerouting = options.contains("prerouting");
        assert_eq!(
            outcome.stderr.contains(told),
            !prerouting,
            "{options}: {outcome:?}"
        );
    }
    let check = ["--ready-check", ask.as_str()];
    let outcome = shut("--settle 0 --allow-local")
        .args(check)
        .run(sh(ask.clone()));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.report["warnings"], json!([]), "{outcome:?}");

    // The check asks a port that is not gated, whose proxy asks the gated one.
    let proxy = format!(
        "import socket, threading
l = socket.create_server(('127.0.0.1', 8080)); print('up', flush=True)
def serve(k):
    try: socket.create_connection(('{BACK}', 80), 9); k.sendall(b'served')
    except OSError: pass
    k.close()
while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()"
    );
    let _proxy = python(server, &proxy);
    let ask = "exec python3 -c \"import socket; k = socket.create_connection(('127.0.0.1', 8080)); \
               k.settimeout(4); assert k.recv(9)\"";
    let check = ["--ready-check", ask];
    let outcome = shut("--ready-timeout 5s").args(check).run(["true"]);
    let told = "--ready-check may wait for the gate: python3";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
    let advice = "if the check asks through that, use --allow-local";
    assert!(
        outcome.report["message"].to_string().contains(advice),
        "{outcome:?}"
    );
    let outcome = shut("--settle 0 --allow-local").args(check).run(["true"]);
    assert_eq!(outcome.report["warnings"], json!([]), "{outcome:?}");

    // Somebody else waits, too.
    let mut latch = Latch::new(server, "others");
    let call = shut("--settle 0");
    let running = call.start(sh(latch.hold()));
    latch.wait();
    assert_eq!(knock(server, &[(ANY, BACK, 80)]), [Silent]);
    latch.release();
    let outcome = call.end(running);
    assert_eq!(outcome.report["warnings"], json!([]), "{outcome:?}");
}

/// Sends a SYN whose flags are in its second fragment, and then an ACK of no connection, in ordinary
/// fragments, which a host answers with RST: what came back first, `syn-ack` or `reset`.
const FRAGMENTS: &str = r#"
import socket, struct
HERE, THERE = '10.77.0.2', '10.77.0.1'
def checksum(b):
    s = sum(struct.unpack('!%dH' % (len(b) // 2), b))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
def segment(port, flags, data):
    def header(sum): return struct.pack('!HHIIBBHHH', port, 80, 1, 1, 5 << 4, flags, 9999, sum, 0)
    whole = header(0) + data
    pseudo = socket.inet_aton(HERE) + socket.inet_aton(THERE) + struct.pack('!HH', 6, len(whole))
    return header(checksum(pseudo + whole)) + data
listening = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
sending = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
def send(segment, cut, ident):
    for at, part, more in (0, segment[:cut], 1), (cut, segment[cut:], 0):
        ip = struct.pack('!BBHHHBBH', 0x45, 0, 0, ident, more << 13 | at // 8, 64, 6, 0)
        sending.sendto(ip + socket.inet_aton(HERE) + socket.inet_aton(THERE) + part, (THERE, 0))
send(segment(4001, 2, b''), 8, 41)
send(segment(4002, 16, b'x' * 40), 40, 42)
listening.settimeout(9)
while True:
    answer = listening.recv(200)[20:]
    if answer[:4] == struct.pack('!HH', 80, 4001): print('syn-ack'); break
    if answer[:4] == struct.pack('!HH', 80, 4002): print('reset'); break
"#;

/// The kernel puts fragments together behind the prerouting hook, where nothing tracks connections.
#[test]
fn a_syn_in_tiny_fragments_is_stopped() {
    on_all_backends(|backend| {
        let pair = Pair::new().unwrap();
        let (server, client) = (&pair.server, &pair.client);
        let _service = Serve::on("0.0.0.0:80").start(server).unwrap();
        let client = || client.must(["python3", "-c", FRAGMENTS]).trim().to_owned();
        assert_eq!(client(), "syn-ack", "open");
        for options in ["prerouting", "prerouting --syn hold --to 10.77.0.1"] {
            let mut latch = Latch::new(server, "fragments");
            let options = format!("--port 80 --drain 0 --settle 0 --hook {options}");
            let call = call(server, words(&options)).on(backend);
            let running = call.start(sh(latch.hold()));
            latch.wait();
            assert_eq!(client(), "reset", "{options}");
            latch.release();
            let outcome = call.end(running);
            assert_eq!(outcome.code, 0, "{outcome:?}");
        }
    });
}

/// The host's own NAT leads another port to the gated one, behind the hook of the gate.
#[test]
fn a_way_round_the_gate_is_told() {
    let (pair, _service) = two_cables();
    let (server, client) = (&pair.server, &pair.client);
    let nat = server.write(
        "nat.nft",
        "table ip leads { chain in { type nat hook prerouting priority -100; \
         tcp dport 8080 redirect to :80; }; }",
    );
    server.must(["nft", "-f", nat.to_str().unwrap()]);
    let suite = Backend::of_the_suite();
    let by_nft = matches!(suite, Backend::Nft | Backend::NftPlain);
    for (options, from, told) in [
        ("--hook prerouting --syn hold", ANY, true),
        // nf_tables has a second chain, in the input hook.
        ("--hook prerouting", ANY, !by_nft),
        ("--hook prerouting --port 8080", ANY, false),
        ("", ANY, false),
        ("--hook prerouting --allow-from 10.77.0.3", CHECKER, false),
    ] {
        let mut latch = Latch::new(server, "round");
        let call = call(server, words(&format!("--port 80 --settle 0 {options}")));
        let running = call.start(sh(latch.hold()));
        latch.wait();
        let fate = knock(client, &[(from, SERVER, 8080)])[0];
        assert_eq!(fate == Served, told || from == CHECKER, "{options}");
        latch.release();
        let outcome = call.end(running);
        let says = outcome.stderr.contains("has bypassed the closed gate (");
        assert_eq!(says, told, "{options}: {outcome:?}");
    }
}

/// Nobody listens any more, so clients who come by a way round are refused, and no connection shows them. The
/// run is over at once, and tells of the first of them.
#[test]
fn clients_that_are_refused_by_a_way_round_are_told() {
    on_all_backends(|backend| {
        let pair = Pair::new().unwrap();
        let (server, client) = (&pair.server, &pair.client);
        let service = Serve::on("0.0.0.0:80").start_daemon(server).unwrap();
        let nat = "table ip leads { chain in { type nat hook prerouting priority -100; \
                   tcp dport 8080 redirect to :80; }; }";
        let nat = server.write("nat.nft", nat);
        server.must(["nft", "-f", nat.to_str().unwrap()]);
        let mut latch = Latch::new(server, "round");
        let between = format!("; {}; exec", latch.hold());
        let restart = service.restart_argv()[2].replace("; exec", &between);
        let call = call(server, words("--port 80 --hook prerouting --syn hold")).on(backend);
        let running = call.start(sh(restart));
        latch.wait();
        let listeners = || server.must(words("ss -Hltn sport = :80"));
        wait_until(SOON, "the end of the service", || listeners().is_empty()).unwrap();
        let fates = knock(client, &[(ANY, SERVER, 8080)]);
        latch.release();
        let outcome = call.end(running);
        assert_eq!((outcome.code, &*fates), (0, &[Refused][..]), "{outcome:?}");
        let told = "warning: a connection from 10.77.0.2:";
        assert!(outcome.stderr.contains(told), "{outcome:?}");
    });
}

/// Names and addresses as people know them, and rules do not: an alternative name, the IPv4 address of a
/// dual-stack socket. What no packet can have is refused, or told.
#[test]
fn a_gate_is_met_by_packets_or_that_is_told() {
    let (pair, _service) = two_cables();
    let (server, client) = (&pair.server, &pair.client);
    let long = "the-second-cable-by-its-alternative-name";
    server.must([
        "ip", "link", "property", "add", "dev", "eth1", "altname", long,
    ]);
    server.must([
        "ip", "link", "property", "add", "dev", "eth1", "altname", "second",
    ]);
    let only_back = [((ANY, BACK, 80), Silent), ((ANY, SERVER, 80), Served)];
    for narrowed in [
        format!("--interface {long}"),
        "--interface second".to_owned(),
        format!("--to ::ffff:{BACK}"),
    ] {
        let run = closing(server, Backend::Nft, &narrowed);
        let fates = &only_back;
        let outcome = assert_gates(&run, server, &[Expected { client, fates }]);
        assert_eq!(outcome.report["warnings"], json!([]), "{outcome:?}");
    }
    let slip = call(server, words("--port 80 --to 10.79.0.99")).run(["true"]);
    assert_eq!(slip.code, 0, "{slip:?}");
    assert!(
        slip.stderr
            .contains("--to 10.79.0.99: this host does not have 10.79.0.99")
    );

    for command in [
        "ip link add br0 type bridge",
        "ip link set eth1 master br0",
        "ip link set br0 up",
        "ip address flush dev eth1 scope global",
        "ip address add 10.79.0.1/24 dev br0",
    ] {
        server.must(command.split(' '));
    }
    for hook in HOOKS {
        for name in ["eth1", long] {
            let options = words(&format!("--port 80 --hook {hook} --interface {name}"));
            let refused = call(server, options).run(["touch", "/tmp/was-run"]);
            assert_eq!(refused.code, 125, "{refused:?}");
            let says = "--interface eth1: it is a port of the bridge br0";
            assert!(refused.stderr.contains(says), "{refused:?}");
        }
    }
    let served = || knock(client, &[(ANY, BACK, 80)]) == [Served];
    wait_until(SOON, "the bridge forwards", served).unwrap();
    let run = closing(server, Backend::Nft, "--interface br0");
    let fates = &only_back;
    assert_gates(&run, server, &[Expected { client, fates }]);
}

/// All of it together, of several items each.
#[test]
fn options_narrow_together() {
    on_all_backends(|backend| {
        let (pair, _service) = two_cables();
        let options = format!(
            "--to {SERVER},{SERVER6},{BACK} --interface eth0,eth9 --allow-from {CHECKER},{CHECKER6},192.0.2.0/24 \
             --allow-local"
        );
        let outside = Expected {
            client: &pair.client,
            fates: &[
                ((testkit::CLIENT, SERVER, 80), Silent),
                ((testkit::CLIENT6, SERVER6, 80), Silent),
                ((CHECKER, SERVER, 80), Served),
                ((CHECKER6, SERVER6, 80), Served),
                ((testkit::CLIENT, OTHER, 80), Served),
                ((ANY, BACK, 80), Served),
            ],
        };
        let at_home = Expected {
            client: &pair.server,
            fates: &[((ANY, SERVER, 80), Served), ((ANY, SERVER6, 80), Served)],
        };
        let run = closing(&pair.server, backend, &options);
        assert_gates(&run, &pair.server, &[outside, at_home]);
    });
}

/// Another service stays on another address of the same port: it must not look as if the one that
/// is restarted had handed its socket on, and what its clients do is not waited for.
#[test]
fn to_narrows_whose_listeners_count() {
    let pair = Pair::new().unwrap();
    let server = &pair.server;
    address(server, "eth0", OTHER, OTHER6);
    let _other = Serve::on(format!("{OTHER}:80")).start(server).unwrap();
    let served = Serve::on(format!("{SERVER}:80"))
        .start_daemon(server)
        .unwrap();
    let to = format!("--port 80 --to {SERVER}");
    let narrowed = call(server, words(&to)).run(served.restart_argv());
    assert_eq!(narrowed.report["warnings"], json!([]), "{narrowed:?}");
    assert!(
        ms(&narrowed.report["phases"], "ready_ms") < AT_ONCE_MS,
        "{narrowed:?}"
    );
    let before = narrowed.report["listeners_before"].as_array().unwrap();
    assert_eq!((before.len(), &before[0]["address"]), (1, &json!(SERVER)));
    // The control: without --to both are seen, and each service is judged by itself.
    let all = call(server, words("--port 80")).run(served.restart_argv());
    let before = all.report["listeners_before"].as_array().unwrap();
    assert_eq!(before.len(), 2, "{all:?}");
    assert!(
        ms(&all.report["phases"], "ready_ms") < AT_ONCE_MS,
        "{all:?}"
    );
}

#[test]
fn to_narrows_whose_requests_are_waited_for() {
    let pair = Pair::new().unwrap();
    let server = &pair.server;
    address(server, "eth0", OTHER, OTHER6);
    let slow = Serve::on(format!("{OTHER}:80")).delay(SOON);
    let _other = slow.start(server).unwrap();
    let ask =
        format!("exec 3<>/dev/tcp/{OTHER}/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
    let mut client = pair.client.command("bash");
    let _client = pair.client.spawn(client.args(["-c", &ask])).unwrap();
    wait_until(SOON, "a request", || {
        let asked = "ss -Htni state established sport = :80 | grep data_segs_in";
        server.sh(asked).unwrap().ok()
    })
    .unwrap();
    let options = words("--port 80 --drain 300ms --ready-timeout 0");
    let narrowed = call(server, options.clone())
        .args(["--to", SERVER])
        .run(["true"]);
    assert_eq!(narrowed.report["drain_left"]["busy"], 0, "{narrowed:?}");
    // The control.
    let all = call(server, options).run(["true"]);
    assert_eq!(all.report["drain_left"]["busy"], 1, "{all:?}");
}

/// An idle connection of the server's own to the client, whose last word was the other side's: a client
/// that has asked looks like that, too.
#[test]
fn the_hosts_own_connections_are_not_waited_for() {
    let pair = Pair::new().unwrap();
    let other = format!(
        "import socket, time; l = socket.socket(); l.bind(('{}', 5432)); l.listen(1); \
         print('up', flush=True); k = l.accept()[0]; k.recv(9); time.sleep(.2); k.sendall(b'row'); \
         time.sleep(60)",
        testkit::CLIENT
    );
    let _other = python(&pair.client, &other);
    let asks = format!(
        "import socket, time; k = socket.socket(); k.bind(('{SERVER}', 41234)); \
         k.connect(('{}', 5432)); k.sendall(b'query'); k.recv(9); print('up', flush=True); \
         time.sleep(60)",
        testkit::CLIENT
    );
    let _asks = python(&pair.server, &asks);
    let _served = Serve::on(format!("{SERVER}:80"))
        .start(&pair.server)
        .unwrap();
    let options = words("--port 80,41000-42000 --drain 5s --ready-timeout 0");
    let outcome = call(&pair.server, options).run(["true"]);
    let left = &outcome.report["drain_left"];
    assert_eq!(
        (&left["busy"], &left["established"]),
        (&json!(0), &json!(0)),
        "{outcome:?}"
    );
    assert!(
        ms(&outcome.report["phases"], "drain_ms") < 1_000.0,
        "{outcome:?}"
    );
}

// Containers --------------------------------------------------------------------------------------

/// A container as Docker makes it: a namespace behind a bridge's port, published by DNAT.
struct Container<'a> {
    server: &'a Host,
    script: PathBuf,
}

const CONTAINER: &str = r#"
set -e
dir=$1; testkit=$2; shift 2
cable() { # NAME: a namespace of that name, wired
    ip netns add $1
    # Nobody answers for an address that is still being checked for duplicates, for a second.
    nsenter --net=/run/netns/$1 sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
    ip link add web0 type veth peer name eth0 netns $1
    ip address add 172.30.0.1/24 dev web0
    ip address add fd30::1/64 dev web0 nodad
    ip link set web0 up
    nsenter --net=/run/netns/$1 sh -c '
        ip link set lo up
        ip address add 172.30.0.2/24 dev eth0
        ip address add fd30::2/64 dev eth0 nodad
        ip link set eth0 up
        ip route add default via 172.30.0.1
        ip route add default via fd30::1'
}
serve() { # NAME DELAY: its service, in the background
    nsenter --net=/run/netns/$1 $testkit serve --start-delay $2 --pidfile $dir/$1.pid \
        --listen 0.0.0.0:8080 --listen [::]:8080 --listen 0.0.0.0:80 --listen [::]:80 \
        >/dev/null 2>&1 </dev/null &
}
start() { cable $1; serve $1 $2; }
stop() { # NAME: the process ends, and with it the namespace
    kill $(cat $dir/$1.pid); rm $dir/$1.pid
    ip link del web0
    ip netns del $1
}
"$@"
"#;

impl<'a> Container<'a> {
    /// Starts it on the server as "web", and publishes its port 8080 as 80 by rules of that kind.
    fn publish(server: &'a Host, backend: Backend) -> Container<'a> {
        let container = Container {
            server,
            script: server.write("container.sh", CONTAINER),
        };
        let kind = match backend {
            Backend::IptablesLegacy => "legacy",
            _ => "nft",
        };
        let script = format!(
            "set -e
             sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
             publish() {{ # PROGRAM NETWORK LOOPBACK TO
                 $1-{kind} -t nat -N DOCKER
                 $1-{kind} -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
                 $1-{kind} -t nat -A OUTPUT ! -d $3 -m addrtype --dst-type LOCAL -j DOCKER
                 $1-{kind} -t nat -A POSTROUTING -s $2 ! -o web0 -j MASQUERADE
                 $1-{kind} -t nat -A DOCKER ! -i web0 -p tcp --dport 80 -j DNAT --to-destination $4
             }}
             publish iptables 172.30.0.0/24 127.0.0.0/8 {WEB}:8080
             publish ip6tables fd30::/64 ::1 [{WEB6}]:8080"
        );
        server.must(["sh", "-c", &script]);
        server.must(container.argv("start web 0s"));
        container.wait_up("web");
        container
    }

    /// What does that to it.
    fn argv(&self, what: &str) -> Vec<String> {
        let dir = self.server.dir().to_str().unwrap().to_owned();
        let testkit = bin().unwrap().to_str().unwrap().to_owned();
        let script = self.script.to_str().unwrap().to_owned();
        let mut argv = vec!["sh".to_owned(), script, dir, testkit];
        argv.extend(words(what));
        argv
    }

    /// The same as a shell would take it.
    fn line(&self, what: &str) -> String {
        self.argv(what).join(" ")
    }

    fn pid_file(&self, name: &str) -> PathBuf {
        self.server.dir().join(format!("{name}.pid"))
    }

    #[track_caller]
    fn wait_up(&self, name: &str) {
        wait_until(SOON, "a container", || self.pid_file(name).exists()).unwrap();
    }
}

/// The way to the container's own address leads through the server.
fn route_to_container(client: &Host) {
    client.must(["ip", "route", "add", "172.30.0.0/24", "via", SERVER]);
    client.must(["ip", "route", "add", "fd30::/64", "via", SERVER6]);
}

#[test]
fn prerouting_gates_what_a_container_publishes() {
    on_all_backends(|backend| {
        let pair = Pair::new().unwrap();
        let (server, client) = (&pair.server, &pair.client);
        let _container = Container::publish(server, backend);
        // Which takes what the rules pass by: connections to the loopback addresses.
        let proxy = Serve::on("127.0.0.1:80").and_on("[::1]:80");
        let _proxy = proxy.start(server).unwrap();
        route_to_container(client);
        let outside = |closed| {
            [
                ((ANY, SERVER, 80), closed),
                ((ANY, SERVER6, 80), closed),
                // Not to an address of this host: only forwarded, so not ours to stop.
                ((ANY, WEB, 80), Served),
                ((ANY, WEB6, 80), Served),
            ]
        };
        // The host's own connections to its own address are sent to the container in OUTPUT, and never
        // come in anywhere on this host.
        let at_home = |closed| {
            [
                ((ANY, SERVER, 80), closed),
                ((ANY, SERVER6, 80), closed),
                ((ANY, "127.0.0.1", 80), Silent),
                ((ANY, "::1", 80), Silent),
                ((ANY, WEB, 80), Served),
            ]
        };
        for (hook, closed) in [("prerouting", Silent), ("input", Served)] {
            let run = closing(
                server,
                backend,
                &format!("--hook {hook} --listen-netns web"),
            );
            let run = run.args(words("--listen-port 8080"));
            let outside = Expected {
                client,
                fates: &outside(closed),
            };
            let at_home = Expected {
                client: server,
                fates: &at_home(closed),
            };
            let outcome = assert_gates(&run, server, &[outside, at_home]);
            let mut warnings = outcome.report["warnings"].as_array().unwrap().clone();
            // In the input hook the gate stops none of those that the container gets.
            let way_round =
                "has bypassed the closed gate (its listener is in another network namespace";
            let elsewhere = "a rule may send packets to 80 elsewhere before they reach the gate";
            let all = warnings.len();
            warnings.retain(|w| !w.as_str().unwrap().starts_with(elsewhere));
            assert_eq!(warnings.len() < all, hook == "input", "{outcome:?}");
            warnings.retain(|w| hook == "prerouting" || !w.as_str().unwrap().contains(way_round));
            assert_eq!(warnings, Vec::<serde_json::Value>::new(), "{outcome:?}");
        }
        // Narrowed by the addresses that clients connect to, which are those before NAT.
        let to = format!("--hook prerouting --to {SERVER},fd77::99 --allow-from {CHECKER}");
        address(client, "eth0", CHECKER, CHECKER6);
        let outside = Expected {
            client,
            fates: &[
                ((testkit::CLIENT, SERVER, 80), Silent),
                ((CHECKER, SERVER, 80), Served),
                ((testkit::CLIENT6, SERVER6, 80), Served),
            ],
        };
        assert_gates(&closing(server, backend, &to), server, &[outside]);
    });
}

// Where the listeners are -------------------------------------------------------------------------

fn sh(script: impl Into<String>) -> Vec<String> {
    vec!["sh".to_owned(), "-c".to_owned(), script.into()]
}

/// Clients from outside throughout a replacement of the container, which listens again half a second
/// after COMMAND has returned.
fn replaced_under_load(options: &str) -> (testkit::LoadReport, Outcome) {
    let pair = Pair::new().unwrap();
    let (server, client) = (&pair.server, &pair.client);
    let container = Container::publish(server, Backend::of_the_suite());
    let load = Load::to(format!("{SERVER}:80"))
        .rate(200)
        .duration(SOON * 6);
    let load = load.timeout(SOON).start(client).unwrap();
    let run = call(server, words("--port 80 --hook prerouting")).args(words(options));
    let replace = format!(
        "{}; {}",
        container.line("stop web"),
        container.line("start web 500ms")
    );
    let outcome = run.run(sh(replace));
    container.wait_up("web");
    (load.stop().unwrap(), outcome)
}

#[test]
fn a_container_that_is_replaced_is_found_by_its_name() {
    let (load, outcome) = replaced_under_load("--listen-netns web --listen-port 8080");
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(load.failed(), 0, "{load}");
    assert!(load.delayed > 0, "some met the gate: {load}");
    let report = &outcome.report;
    assert_eq!(report["warnings"], json!([]), "{outcome:?}");
    assert_eq!(report["listen_netns"], "web");
    assert_eq!(report["listen_ports"], "8080");
    assert_eq!(report["scope"], "--hook prerouting");
    assert!(ms(&report["phases"], "ready_ms") >= 400.0, "{outcome:?}");
    assert_eq!(report["listeners_before"][0]["port"], 8080, "{outcome:?}");
    let process = report["listeners_after"][0]["process"].as_str().unwrap();
    assert!(process.starts_with("testkit (pid"), "{outcome:?}");
}

/// The control: nobody is seen to listen, so that the gate opens with COMMAND's exit. Which is said.
#[test]
fn without_its_namespace_only_the_settle_time_is_waited_for() {
    let (load, outcome) = replaced_under_load("--settle 100ms");
    assert!(load.failed() > 0, "{load}");
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let warning = "syngate saw no listener on 80, neither before COMMAND nor after it, and so waited only \
                   for --settle 100ms; if the listener is in a container or on another port, give \
                   --listen-netns or --listen-port";
    let warnings = json!([
        "nobody listens on 80 now: is the service down, or the port wrong?",
        warning
    ]);
    assert_eq!(outcome.report["warnings"], warnings);
    assert!(outcome.stderr.contains(warning), "{outcome:?}");
    assert_eq!(outcome.report["listen_netns"], json!(null));
}

/// A new container is only known by a command, which does not know it at once; the old one lives on
/// for the time being.
#[test]
fn a_new_container_is_found_by_a_command() {
    for kind in ["pid", "path", "name"] {
        let pair = Pair::new().unwrap();
        let server = &pair.server;
        let container = Container::publish(server, Backend::of_the_suite());
        let current = server.dir().join("current");
        let note = |name: &str| {
            let file = container.pid_file(name);
            match kind {
                "pid" => format!("cp {} {}", file.display(), current.display()),
                "path" => format!("echo /run/netns/{name} >{}", current.display()),
                _ => format!("echo {name} >{}", current.display()),
            }
        };
        server.must(sh(note("web")));
        let ask = format!("cat {}", current.display());
        let options = words("--port 80 --hook prerouting --listen-port 8080 --drain 0 -v");
        let run = call(server, options).args(["--listen-netns-from", &ask]);
        // The old one keeps its process and its namespace, without a cable. For a while nobody knows
        // which one is current; then it is the new one, which does not listen yet.
        let replace = format!(
            "{start}
             {{ until [ -e {up} ]; do sleep 0.01; done; {note}; }} >/dev/null 2>&1 </dev/null &",
            start = container.line("start new 300ms"),
            up = container.pid_file("new").display(),
            note = note("new"),
        );
        let replace = format!("ip link del web0; rm {}; {replace}", current.display());
        let outcome = run.run(sh(replace));
        assert_eq!(outcome.code, 0, "{kind}: {outcome:?}");
        assert_eq!(
            knock(&pair.client, &[(ANY, SERVER, 80)]),
            [Served],
            "{kind}"
        );
        let now = std::fs::read_to_string(&current).unwrap();
        let shown = now.trim().trim_start_matches("/run/netns/");
        assert_eq!(outcome.report["listen_netns"], shown, "{kind}");
        let ready = ms(&outcome.report["phases"], "ready_ms");
        assert!(ready >= 250.0, "{kind}: {outcome:?}");
        assert!(
            outcome
                .stderr
                .contains(&format!("looking for listeners in {shown}"))
        );
    }
}

/// A search that hangs keeps nothing from being served, and is gone with the run.
#[test]
fn a_search_that_hangs_is_left_behind() {
    let pair = Pair::new().unwrap();
    let server = &pair.server;
    let _service = Serve::on("0.0.0.0:80").start(server).unwrap();
    let (asked, mine) = (server.dir().join("asked"), server.dir().join("sleeper"));
    // The first answer is our own namespace.
    let ask = format!(
        "if [ -e {asked} ]; then exec >/dev/null 2>&1; sleep 1000 & echo $! >{mine}; wait; else touch {asked}; echo /proc/self/ns/net; fi",
        asked = asked.display(),
        mine = mine.display()
    );
    let searching = || std::fs::read_to_string(&mine).is_ok_and(|pid| pid.ends_with('\n'));
    let alive = || {
        let pid = std::fs::read_to_string(&mine).unwrap();
        server.sh(&format!("kill -0 {}", pid.trim())).unwrap().ok()
    };
    let options = words("--port 80 --drain 0");
    let run = call(server, options.clone()).args(["--listen-netns-from", &ask]);
    let mut running = run.start(["true"]);
    wait_until(SOON, "a search", searching).unwrap();
    assert!(gated(server) && alive());
    running.signal(Signal::SIGTERM).unwrap();
    let outcome = run.end(running);
    assert_eq!(
        (outcome.code, &outcome.report["reason"]),
        (143, &json!("before_ready"))
    );
    wait_until(SOON, "the end of the search", || !alive()).unwrap();

    // And without a signal: within --ready-timeout.
    std::fs::remove_file(&asked).unwrap();
    let outcome = call(server, options)
        .args(["--listen-netns-from", &ask, "--ready-timeout", "300ms"])
        .run(["true"]);
    assert!(
        ms(&outcome.report["phases"], "ready_ms") >= 300.0,
        "{outcome:?}"
    );
    wait_until(SOON, "the end of the search", || !alive()).unwrap();
}

/// What cannot be a namespace, or is none, is one line, and nothing is touched.
#[test]
fn a_namespace_that_is_none_is_refused() {
    let pair = Pair::new().unwrap();
    let server = &pair.server;
    server.must(["ip", "netns", "add", "web"]);
    server.must(["touch", "/run/netns/plain"]);
    let ran = server.dir().join("ran");
    let refused = |options: &[&str], says: &str| {
        let run = call(server, words("--port 80")).args(options.to_vec());
        let outcome = run.run(["touch", ran.to_str().unwrap()]);
        assert_eq!(outcome.code, 125, "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert!(outcome.stderr.starts_with("syngate: "), "{outcome:?}");
        assert!(outcome.stderr.contains(says), "{says}: {outcome:?}");
        assert!(!ran.exists());
        outcome
    };
    for (netns, says) in [
        (
            "wep",
            "--listen-netns: 'wep': no /run/netns/wep; expected a name that 'ip netns' lists",
        ),
        (
            "plain",
            "--listen-netns: 'plain': /run/netns/plain is not a network namespace",
        ),
        (
            "99999999",
            "--listen-netns: '99999999': no process 99999999; expected",
        ),
        (
            "/no/such",
            "--listen-netns: '/no/such': no /no/such; expected",
        ),
    ] {
        let outcome = refused(&["--listen-netns", netns], says);
        assert_eq!(outcome.report["reason"], "listen_netns");
    }
    for (line, says) in [
        (
            "echo 0",
            "--listen-netns-from 'echo 0' printed '0': not a process id; expected",
        ),
        (
            "true",
            "--listen-netns-from 'true' printed '': not a network namespace",
        ),
        (
            "exit 3",
            "--listen-netns-from 'exit 3' exited with status 3",
        ),
        ("kill -9 $$", "was ended by SIGKILL"),
        ("echo wep", "printed 'wep': no /run/netns/wep; expected"),
    ] {
        refused(&["--listen-netns-from", line], says);
    }
    // What is printed behind the first line does no harm, and it may be much.
    let much = "echo web; head -c 1000000 /dev/zero";
    let outcome = call(server, words("--port 80 -q --ready-timeout 0"))
        .args(["--listen-netns-from", much])
        .run(["true"]);
    assert_eq!((outcome.code, &*outcome.stderr), (0, ""), "{outcome:?}");
    assert_eq!(outcome.report["listen_netns"], "web");
}

/// A process id means that process: when it has ended, nobody listens there.
#[test]
fn a_process_that_has_ended_has_no_listeners() {
    let pair = Pair::new().unwrap();
    let server = &pair.server;
    let container = Container::publish(server, Backend::of_the_suite());
    let pid = std::fs::read_to_string(container.pid_file("web")).unwrap();
    let options = words("--port 80 --hook prerouting --listen-port 8080 --ready-timeout 300ms");
    let run = call(server, options).args(["--listen-netns", pid.trim()]);
    let replace = format!(
        "{}; {}",
        container.line("stop web"),
        container.line("start web 0s")
    );
    let outcome = run.run(sh(replace));
    assert_eq!(
        (outcome.code, &outcome.report["reason"]),
        (124, &json!("no_listener")),
        "{outcome:?}"
    );
    let says = "nobody listens on 80 (listener 8080) 300ms after";
    assert!(outcome.stderr.contains(says), "{outcome:?}");
}

/// Entering needs CAP_SYS_ADMIN, which the gate does not.
#[test]
fn another_namespace_needs_a_privilege() {
    let pair = Pair::new().unwrap();
    let server = &pair.server;
    server.must(["ip", "netns", "add", "web"]);
    let without = [
        "setpriv",
        "--bounding-set",
        "-sys_admin",
        "--inh-caps",
        "-sys_admin",
    ];
    let run = call(server, words("--port 80 --listen-netns web")).by(without);
    let outcome = run.run(["true"]);
    assert_eq!(outcome.code, 125, "{outcome:?}");
    assert!(
        outcome.stderr.contains("--listen-netns: 'web'"),
        "{outcome:?}"
    );
    assert!(outcome.stderr.contains("CAP_SYS_ADMIN"), "{outcome:?}");
    let at_home = call(server, words("--port 80")).by(without).run(["true"]);
    assert_eq!(at_home.code, 0, "{at_home:?}");
}

/// REDIRECT: the packets' port is 80, the listener's 8080.
#[test]
fn listeners_behind_a_redirect() {
    on_all_backends(|backend| {
        let pair = Pair::new().unwrap();
        let (server, client) = (&pair.server, &pair.client);
        let kind = match backend {
            Backend::IptablesLegacy => "legacy",
            _ => "nft",
        };
        for program in ["iptables", "ip6tables"] {
            let rule = "-t nat -A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8080";
            let mut argv = vec![format!("{program}-{kind}")];
            argv.extend(words(rule));
            server.must(argv);
        }
        let service = Serve::on("0.0.0.0:8080").and_on("[::]:8080");
        let served = service.start_daemon(server).unwrap();
        let run = closing(server, backend, "--hook prerouting --listen-port 8080");
        let outside = Expected {
            client,
            fates: &[
                ((ANY, SERVER, 80), Silent),
                ((ANY, SERVER6, 80), Silent),
                ((ANY, SERVER, 8080), Served),
            ],
        };
        assert_gates(&run, server, &[outside]);
        let outcome = run.run(served.restart_argv());
        assert_eq!(outcome.report["warnings"], json!([]), "{outcome:?}");
        assert_eq!(outcome.report["listeners_before"][0]["port"], 8080);
        assert!(
            ms(&outcome.report["phases"], "ready_ms") < AT_ONCE_MS,
            "{outcome:?}"
        );
    });
}

/// TPROXY: the packet keeps its port, also in the input hook.
#[test]
fn listeners_behind_tproxy() {
    let pair = Pair::new().unwrap();
    let (server, client) = (&pair.server, &pair.client);
    let rule = "-t mangle -A PREROUTING -p tcp --dport 80 -j TPROXY --on-port 8080 --tproxy-mark 1";
    let mut argv = vec!["iptables-nft".to_owned()];
    argv.extend(words(rule));
    server.must(argv);
    server.must(words("ip rule add fwmark 1 lookup 100"));
    server.must(words("ip route add local 0.0.0.0/0 dev lo table 100"));
    let serve = "import socket\ns = socket.socket()\ns.setsockopt(socket.SOL_IP, 19, 1)\n\
                 s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                 s.bind((\"0.0.0.0\", 8080))\ns.listen()\nprint(\"up\", flush=True)\n\
                 while True:\n  c, _ = s.accept()\n  c.recv(100)\n  c.sendall(b\"HTTP/1.1 200\")\n  c.close()\n";
    let script = server.write("tproxy.py", serve);
    let mut python = server.command("python3");
    let _service = server.spawn(python.arg(&script)).unwrap();
    server.wait_listen(8080).unwrap();
    let run = call(
        server,
        words("--port 80 --drain 0 --settle 0 --listen-port 80=8080"),
    );
    let outside = Expected {
        client,
        fates: &[((ANY, SERVER, 80), Silent)],
    };
    let outcome = assert_gates(&run, server, &[outside]);
    assert_eq!(outcome.report["warnings"], json!([]), "{outcome:?}");
    assert_eq!(outcome.report["listeners_before"][0]["port"], 8080);
}

/// What TPROXY hands to a listener keeps the port that the client asked for, so a gate of the listener's
/// port does not stop it.
#[test]
fn a_gate_of_the_port_behind_tproxy_is_told() {
    let pair = Pair::new().unwrap();
    let server = &pair.server;
    let _service = Serve::on("0.0.0.0:8080").start(server).unwrap();
    let by_nft = server.write(
        "tproxy.nft",
        "table ip leads { chain in { type filter hook prerouting priority mangle; \
         tcp dport { 80, 81 } tproxy to :8080 meta mark set 1; }; }",
    );
    let by_nft = format!("nft -f {}", by_nft.display());
    let by = |iptables: &str| {
        format!("{iptables} -t mangle -A PREROUTING -p tcp --dport 80 -j TPROXY --on-port 8080")
    };
    let warning = "the listener on 8080";
    for (rule, flush) in [
        (by_nft, "nft flush ruleset"),
        (by("iptables-nft"), "iptables-nft -t mangle -F"),
        (by("iptables-legacy"), "iptables-legacy -t mangle -F"),
    ] {
        server.must(words(&rule));
        for (options, told) in [
            ("--port 8080 --syn drop", true),
            ("--port 8080 --syn hold --hook prerouting", true),
            (
                "--port 80-81 --listen-port 80=8080,81=8080 --syn drop",
                false,
            ),
        ] {
            let run = call(server, words(options)).run(["true"]);
            assert_eq!(
                run.stderr.contains(warning),
                told,
                "{rule} {options}: {run:?}"
            );
        }
        server.must(words(flush));
    }
}

/// Each gated port opens with its own listener, and messages speak of both.
#[test]
fn each_port_has_its_own_listener() {
    let pair = Pair::new().unwrap();
    let server = &pair.server;
    let one = Serve::on("0.0.0.0:8080").start_daemon(server).unwrap();
    let _other = Serve::on("0.0.0.0:8443").start(server).unwrap();
    let listener = server.must(sh("ss -Hltnp sport = :8443 | grep -o 'pid=[0-9]*'"));
    let pid = listener.trim().trim_start_matches("pid=");
    let options = words("--port 80,443,90 --listen-port 80=8080,443=8443 --ready-timeout 1s -v");
    let run = call(server, options);
    let outcome = run.run(sh(format!("kill {pid}; {}", one.restart_argv()[2])));
    assert_eq!(outcome.code, 124, "{outcome:?}");
    assert_eq!(outcome.report["ports_not_ready"], json!(["443"]));
    for says in [
        "nobody listens on 443 (listener 8443) 1s after",
        "warning: nobody listens on 90 now: is the service down, or the port wrong?\n",
        "waiting for a listener on 443 (listener 8443)",
        "opened 80,90",
        "warning: syngate saw no listener on 90, neither before COMMAND nor after it, and so did not wait",
    ] {
        assert!(outcome.stderr.contains(says), "{says}: {outcome:?}");
    }
}

// --ready-check -----------------------------------------------------------------------------------

/// It listens long before it can serve: nobody gets in until the check succeeds. Its connection goes
/// through the gate since it is local.
#[test]
fn the_gate_stays_shut_until_the_ready_check_succeeds() {
    on_all_backends(|backend| {
        let pair = Pair::new().unwrap();
        let (server, client) = (&pair.server, &pair.client);
        let served = Serve::on("0.0.0.0:80").start_daemon(server).unwrap();
        let warm = server.dir().join("warm");
        let script = server.write("knock.py", KNOCK);
        let check = format!(
            "echo checking; [ -e {} ] && [ $(python3 {} -,127.0.0.1,80,5) = served ]",
            warm.display(),
            script.display()
        );
        let run = call(server, words("--port 80 --drain 0 --allow-local -v")).on(backend);
        let run = run.args(["--ready-check", &check]);
        let running = run.start(served.restart_argv());
        wait_gated(server);
        // COMMAND has long ended by then.
        assert_eq!(knock(client, &[(ANY, SERVER, 80)]), [Silent]);
        assert_eq!(knock(server, &[(ANY, "127.0.0.1", 80)]), [Served]);
        assert!(gated(server));
        std::fs::write(&warm, "").unwrap();
        wait_open(server, SOON);
        let outcome = run.end(running);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.stdout, "", "stdout is COMMAND's");
        for says in [
            "checking\n",
            "ready check: status 1",
            "ready check: status 0",
        ] {
            assert!(outcome.stderr.contains(says), "{says}: {outcome:?}");
        }
        let phases = &outcome.report["phases"];
        assert!(ms(phases, "ready_check_ms") > 900.0, "{outcome:?}");
        assert!(
            ms(phases, "ready_ms") >= ms(phases, "ready_check_ms"),
            "{outcome:?}"
        );
        assert_eq!(knock(client, &[(ANY, SERVER, 80)]), [Served]);
    });
}

/// A port without a visible listener is kept shut by the check alone, and nothing is said of it.
#[test]
fn a_ready_check_needs_no_visible_listener() {
    let host = Host::new().unwrap();
    let run = call(&host, words("--port 80 --drain 0 --settle 200ms"));
    let outcome = run.arg("--ready-check").arg("sleep 0.3").run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let phases = &outcome.report["phases"];
    assert!(ms(phases, "ready_check_ms") >= 300.0, "{outcome:?}");
    assert!(
        ms(phases, "ready_ms") >= 500.0,
        "settled since the later: {outcome:?}"
    );
    assert_eq!(
        outcome.report["warnings"],
        json!(["nobody listens on 80 now: is the service down, or the port wrong?"])
    );
}

#[test]
fn a_ready_check_that_does_not_succeed_is_124() {
    let pair = Pair::new().unwrap();
    let server = &pair.server;
    let served = Serve::on("0.0.0.0:80").start_daemon(server).unwrap();
    let tries = server.dir().join("tries");
    let sleeper = server.dir().join("sleeper");
    let hang = format!(
        "exec >/dev/null 2>&1; sleep 1000 & echo $! >{}; wait",
        sleeper.display()
    );
    for (check, last) in [
        (
            format!("echo >>{}; exit 7", tries.display()),
            "its last exit status was 7",
        ),
        (hang, "it did not end"),
        (
            "no-such-program 2>&-".to_owned(),
            "its last exit status was 127",
        ),
        ("kill -9 $$".to_owned(), "SIGKILL ended it at last"),
    ] {
        let run = call(server, words("--port 80 --drain 0 --ready-timeout 500ms"));
        let outcome = run
            .args(["--ready-check", &check])
            .run(served.restart_argv());
        assert_eq!(outcome.code, 124, "{outcome:?}");
        assert_eq!(outcome.report["outcome"], "not_ready");
        assert_eq!(outcome.report["reason"], "ready_check");
        assert_eq!(outcome.report["phases"]["ready_check_ms"], json!(null));
        let message = outcome.report["message"].as_str().unwrap();
        let says = "did not succeed within 500ms after sh -c ";
        assert!(
            message.starts_with("--ready-check ")
                && message.contains(says)
                && message.contains(last),
            "{outcome:?}"
        );
        assert!(
            ms(&outcome.report["phases"], "ready_ms") >= 500.0,
            "{outcome:?}"
        );
    }
    // Every 100 ms, and no sooner.
    let tried = std::fs::read_to_string(&tries).unwrap().lines().count();
    assert!((2..=5).contains(&tried), "{tried}");
    // Its children go with it.
    let pid = std::fs::read_to_string(&sleeper).unwrap();
    let alive = || server.sh(&format!("kill -0 {}", pid.trim())).unwrap().ok();
    wait_until(SOON, "the end of the check", || !alive()).unwrap();
}

/// A signal ends a wait for the check at once, and the check.
#[test]
fn a_signal_ends_the_ready_check() {
    let pair = Pair::new().unwrap();
    let server = &pair.server;
    let served = Serve::on("0.0.0.0:80").start_daemon(server).unwrap();
    let mut latch = Latch::new(server, "check");
    let run = call(server, words("--port 80 --drain 0")).args(["--ready-check", &latch.hold()]);
    let mut running = run.start(served.restart_argv());
    let pid = latch.wait();
    assert!(gated(server));
    running.signal(Signal::SIGTERM).unwrap();
    let outcome = run.end(running);
    assert_eq!(
        (outcome.code, &outcome.report["reason"]),
        (143, &json!("before_ready"))
    );
    let alive = || server.sh(&format!("kill -0 {pid}")).unwrap().ok();
    wait_until(SOON, "the end of the check", || !alive()).unwrap();
    latch.release();
}

/// `--open-on ready`: the check is run once the new process listens, while COMMAND stays.
#[test]
fn the_ready_check_of_a_command_in_the_foreground() {
    let pair = Pair::new().unwrap();
    let (server, client) = (&pair.server, &pair.client);
    let nginx = Nginx::new(server, &NginxConfig::default()).unwrap();
    nginx.start().unwrap();
    let warm = server.dir().join("warm");
    let check = format!("[ -e {} ]", warm.display());
    let run = call(
        server,
        words("--port 80 --drain 0 --open-on ready --max-closed 20s"),
    );
    let run = run.args(["--ready-check", &check]);
    let foreground = Serve::on("0.0.0.0:80")
        .and_on("[::]:80")
        .argv()
        .unwrap()
        .join(" ");
    let restart = format!(
        "kill $(cat {}); exec {foreground}",
        nginx.pid_file().display()
    );
    let mut running = run.start(sh(restart));
    wait_gated(server);
    assert_eq!(knock(client, &[(ANY, SERVER, 80)]), [Silent]);
    std::fs::write(&warm, "").unwrap();
    let all_open = || knock(client, &[(ANY, SERVER, 80), (ANY, SERVER6, 80)]) == [Served, Served];
    wait_until(SOON, "an open gate", all_open).unwrap();
    assert!(running.is_running(), "COMMAND stays");
    running.signal(Signal::SIGTERM).unwrap();
    let outcome = run.end(running);
    assert_eq!(
        outcome.report["outcome"], "command_signalled",
        "{outcome:?}"
    );
    assert!(
        ms(&outcome.report["phases"], "ready_check_ms") > 500.0,
        "{outcome:?}"
    );
}

// Told beforehand ---------------------------------------------------------------------------------

#[test]
fn a_dry_run_tells_where_it_would_look() {
    let host = Host::new().unwrap();
    let dry_run = |options: &str, command: &[&str]| {
        let mut argv = vec![harness::SYNGATE.to_owned(), "-n".to_owned()];
        argv.extend(words(options));
        argv.extend(command.iter().map(|word| (*word).to_owned()));
        argv.extend(words("-- true"));
        host.must(argv)
    };
    let said = dry_run(
        "--port 80,443 --hook prerouting --listen-port 80=8080 --listen-netns web",
        &["--ready-check", "curl -f web"],
    );
    for line in [
        "# close 80,443 to new connections, --hook prerouting (opened",
        "# look for listeners in the namespace web\n",
        "# wait at most 10s for listeners of 80,443 (listeners 443,8080)\n",
        "# and until this succeeds: sh -c 'curl -f web'\n",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let said = dry_run("--port 80", &["--listen-netns-from", "cat web.pid"]);
    let line = "# look for listeners in the namespace that sh -c 'cat web.pid' names\n";
    assert!(said.contains(line), "{said}");
    let plain = dry_run("--port 80", &[]);
    assert!(
        plain.contains("# wait at most 10s for listeners\n"),
        "{plain}"
    );
    assert!(!plain.contains("namespace"), "{plain}");
}

// Bad input ---------------------------------------------------------------------------------------

#[test]
fn bad_input_is_one_line_that_says_what_would_be_right() {
    let host = Host::new().unwrap();
    let ran = host.dir().join("ran");
    let expected: BTreeMap<&str, &str> = [
        ("--to example.org", "--to: 'example.org' is not an IP address (names are not looked up); expected"),
        ("--to 10.0.0.0/33", "--to: '10.0.0.0/33': '33' is not a prefix length; for 10.0.0.0 it is a number from 0 to 32"),
        ("--to fd00::/x", "from 0 to 128"),
        ("--to 10.0.0.5/24", "write 10.0.0.0/24 for the network, or 10.0.0.5 for the address"),
        ("--allow-from localhost", "--allow-from: 'localhost'"),
        ("--interface eth+", "--interface: 'eth+' is not an interface's name"),
        ("--hook output", "--hook: 'output' is not one of its values; expected auto, input, prerouting"),
        ("--listen-netns ../web", "--listen-netns: '../web': not a network namespace; expected a name that 'ip netns' lists, a process id, or the path"),
        ("--listen-netns 0", "--listen-netns: '0': not a process id; expected"),
        ("--listen-netns web --listen-netns-from id", "--listen-netns and --listen-netns-from exclude each other"),
        ("--listen-port 81=8080", "--listen-port: 81 is not gated; expected ports of --port 80 on the left of ="),
        ("--listen-port 80=65536", "--listen-port: '80=65536': '65536' is not a port; ports are numbers from 1 to 65535"),
        ("--listen-port 80=1,80=2", "80 is there twice; expected one port for all gated ports"),
        ("--listen-port 8080,8081", "'8080' is not a pair"),
        ("--ready-check true --ready-timeout 0", "--ready-check and --ready-timeout 0 exclude each other"),
    ]
    .into();
    for (options, says) in expected {
        let run = call(&host, words(&format!("--port 80 {options}")));
        let outcome = run.run(["touch", ran.to_str().unwrap()]);
        assert_eq!(outcome.code, 125, "{options}: {outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{options}: {outcome:?}");
        assert!(outcome.stderr.contains(says), "{options}: {outcome:?}");
        assert!(!ran.exists(), "{options}");
    }
    for option in ["--ready-check", "--listen-netns-from"] {
        let outcome = call(&host, words("--port 80"))
            .args([option, ""])
            .run(["true"]);
        let says = format!("syngate: {option}: '' is empty; expected a command line\n");
        assert_eq!((outcome.code, outcome.stderr), (125, says));
    }
    // What is code does not come from the environment; what is not does.
    let run = call(&host, words("--port 80 --ready-timeout 0"))
        .env("SYNGATE_READY_CHECK", "false")
        .env("SYNGATE_LISTEN_NETNS_FROM", "false");
    assert_eq!(run.run(["true"]).code, 0);
    let run = run.env("SYNGATE_LISTEN_PORT", "81=82");
    assert!(run.run(["true"]).stderr.contains("81 is not gated"));
    let run = call(&host, words("--port 80")).env("SYNGATE_LISTEN_NETNS", "a/b");
    let says = "SYNGATE_LISTEN_NETNS (for --listen-netns): 'a/b'";
    assert!(run.run(["true"]).stderr.contains(says));
}

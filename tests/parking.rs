//! Which listeners `--syn park` can have rooms beside, and what becomes of their clients. Real clients tell.

mod harness;

use std::fs;
use std::path::PathBuf;

use harness::group::Group;
use harness::latch::Latch;
use harness::rooms::{GROUPS_HIDDEN, SHARES_PORT, figure, no_syn_was_lost, notes, programs};
use harness::{Call, Outcome, SOON, call, ms, words};
use serde_json::Value;
use testkit::{Host, Pair, Running, slow, wait_until};

const SOCKETS: &str = include_str!("harness/sockets.py");
/// Before a command line: as a user who may listen on port 80.
const AS_USER: &str = "setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps +net_bind_service \
                       --ambient-caps +net_bind_service";

/// A service with listeners as a test wants them.
struct Service<'a> {
    host: &'a Host,
    script: PathBuf,
    pids: PathBuf,
}

impl<'a> Service<'a> {
    fn start(host: &'a Host, by: &str, spec: &str) -> Service<'a> {
        let service = Service {
            host,
            script: host.write("sockets.py", SOCKETS),
            pids: host.dir().join("pids"),
        };
        host.must(["chmod", "-R", "a+rwX", &host.dir().display().to_string()]);
        host.must(["sh", "-c", &service.command(by, spec)]);
        service
    }

    fn command(&self, by: &str, spec: &str) -> String {
        let (script, pids) = (self.script.display(), self.pids.display());
        // pyenv's shims are root's alone.
        format!("rm -f {pids}; {by} /usr/bin/python3 {script} {pids} '{spec}'")
    }

    /// Another instance, which is not started yet.
    fn beside(&self, name: &str) -> Service<'a> {
        Service {
            host: self.host,
            script: self.script.clone(),
            pids: self.host.dir().join(name),
        }
    }

    fn stop(&self) -> String {
        format!("kill $(cat {})", self.pids.display())
    }

    /// SO_REUSEPORT of its listeners.
    fn shares_port(&self) -> String {
        let pids = fs::read_to_string(&self.pids).unwrap();
        let shares = |pid: &str| self.host.must(["/usr/bin/python3", "-c", SHARES_PORT, pid]);
        pids.split_whitespace().map(shares).collect()
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        let _ = self.host.sh(&self.stop());
    }
}

/// A client that waits for its answer: the status, and what it was told.
struct Client {
    curl: Running,
    answer: PathBuf,
}

impl Client {
    fn start(host: &Host, name: &str, to: &str) -> Client {
        let answer = host.dir().join(format!("answer-{name}"));
        let mut curl = host.command("curl");
        curl.args([
            "-gs",
            "-m",
            &(60 * slow()).to_string(),
            "-w",
            "%{http_code}",
            "-o",
        ])
        .arg(&answer)
        .arg(format!("http://{to}/"))
        .stdout(std::process::Stdio::piped());
        Client {
            curl: host.spawn(&mut curl).unwrap(),
            answer,
        }
    }

    #[track_caller]
    fn served(self) -> String {
        let output = self.curl.output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "200");
        fs::read_to_string(self.answer).unwrap()
    }
}

/// How many connections wait to be accepted, on all ports, also in network namespaces with names.
fn waiting(host: &Host) -> usize {
    let shown = host.must(["sh", "-c", "ss -Hltn; ip -all netns exec ss -Hltn"]);
    let shown = shown.lines().filter(|line| line.starts_with("LISTEN"));
    let queues = shown.map(|line| words(line)[1].parse::<usize>());
    queues.map(|queue| queue.unwrap()).sum()
}

fn park<'a>(host: &'a Host, options: &str) -> Call<'a> {
    let call = call(host, words("--syn park --drain 0s")).unhurried();
    call.args(words(options))
}

/// Runs the call with a COMMAND that stops the service and then does `start`. In between these clients come.
#[track_caller]
fn restarted(
    service: &Service,
    call: &Call,
    start: &str,
    clients: &[(&Host, &str)],
) -> (Outcome, Vec<String>) {
    let mut latch = Latch::new(service.host, "down");
    let script = format!("{}; {}; {start}", service.stop(), latch.hold());
    let run = call.start(["sh", "-c", &script]);
    latch.wait();
    let waits: Vec<Client> = clients
        .iter()
        .enumerate()
        .map(|(n, (host, to))| Client::start(host, &n.to_string(), to))
        .collect();
    let all = || waiting(service.host) >= waits.len();
    wait_until(SOON, "parked connections", all).unwrap();
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let answers = waits.into_iter().map(Client::served);
    let answers: Vec<String> = answers.collect();
    clients.iter().for_each(|(host, _)| no_syn_was_lost(host));
    assert_eq!(
        figure(&outcome, "park", "handed_over"),
        answers.len() as u64
    );
    assert_eq!(notes(service.host), "");
    assert_eq!(programs(service.host), "");
    (outcome, answers)
}

// Listeners of all kinds ---------------------------------------------------------------------------

struct Kind {
    name: &'static str,
    options: &'static str,
    listeners: &'static str,
    workers: usize,
    local: &'static [&'static str],
    /// From another host, to the server's addresses.
    remote: &'static [&'static str],
}

const KIND: Kind = Kind {
    name: "",
    options: "--port 80",
    listeners: "",
    workers: 1,
    local: &[],
    remote: &[],
};

static KINDS: [Kind; 10] = [
    Kind {
        name: "IPv4, and IPv6 alone, on one port",
        listeners: r#"[{"address": "0.0.0.0"}, {"address": "::"}]"#,
        local: &["127.0.0.1", "[::1]"],
        remote: &["10.77.0.1", "[fd77::1]"],
        ..KIND
    },
    Kind {
        name: "dual-stack",
        listeners: r#"[{"address": "::", "v6only": false}]"#,
        local: &["127.0.0.1", "[::1]"],
        remote: &["10.77.0.1", "[fd77::1]"],
        ..KIND
    },
    Kind {
        name: "one for each device",
        listeners: r#"[{"address": "0.0.0.0", "device": "eth0"}, {"address": "0.0.0.0", "device": "lo"},
                       {"address": "::", "device": "eth0"}]"#,
        local: &["127.0.0.1"],
        remote: &["10.77.0.1", "[fd77::1]"],
        ..KIND
    },
    Kind {
        name: "an address of a link",
        listeners: r#"[{"address": "fe80::7", "device": "eth0"}, {"address": "127.0.0.1"}]"#,
        remote: &["[fe80::7%25eth0]"],
        ..KIND
    },
    Kind {
        name: "16 in a group, of 4 processes",
        listeners: r#"[{"address": "0.0.0.0", "many": 4, "share": 1}]"#,
        workers: 4,
        local: &["127.0.0.1", "127.0.0.1", "127.0.0.1"],
        remote: &["10.77.0.1"],
        ..KIND
    },
    Kind {
        name: "several addresses",
        listeners: r#"[{"address": "127.0.0.2"}, {"address": "127.0.0.3"}, {"address": "::1"}]"#,
        local: &["127.0.0.2", "127.0.0.3", "[::1]"],
        ..KIND
    },
    Kind {
        name: "an address beside all",
        listeners: r#"[{"address": "10.77.0.1", "share": 1}, {"address": "0.0.0.0", "share": 1}]"#,
        local: &["127.0.0.1", "10.77.0.1"],
        remote: &["10.77.0.1"],
        ..KIND
    },
    Kind {
        name: "one address of several",
        options: "--port 80 --to 127.0.0.2",
        listeners: r#"[{"address": "127.0.0.2"}, {"address": "127.0.0.3"}]"#,
        local: &["127.0.0.2"],
        ..KIND
    },
    Kind {
        name: "a range of ports",
        options: "--port 8000-8003",
        listeners: r#"[{"address": "0.0.0.0", "port": 8000}, {"address": "::", "port": 8001},
                       {"address": "0.0.0.0", "port": 8002}, {"address": "0.0.0.0", "port": 8003}]"#,
        local: &["127.0.0.1:8000", "[::1]:8001", "127.0.0.1:8003"],
        ..KIND
    },
    Kind {
        name: "an address that the host lacks",
        listeners: r#"[{"address": "192.0.2.7", "options": 1}, {"address": "127.0.0.1"}]"#,
        local: &["127.0.0.1"],
        ..KIND
    },
];

#[test]
fn each_kind_of_listener_is_parked() {
    std::thread::scope(|threads| {
        for kind in &KINDS {
            let run = || is_parked(kind);
            let thread = std::thread::Builder::new().name(kind.name.to_owned());
            thread.spawn_scoped(threads, run).unwrap();
        }
    });
}

fn is_parked(kind: &Kind) {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    for (host, address) in [(host, "fe80::7/64"), (&pair.client, "fe80::8/64")] {
        let add = ["ip", "address", "add", address, "dev", "eth0", "nodad"];
        host.must(add);
    }
    let by = format!("WORKERS={}", kind.workers);
    let service = Service::start(host, &by, kind.listeners);
    let before = service.shares_port();
    let local = kind.local.iter().map(|to| (host, *to));
    let remote = kind.remote.iter().map(|to| (&pair.client, *to));
    let clients: Vec<(&Host, &str)> = local.chain(remote).collect();
    let start = service.command(&by, kind.listeners);
    restarted(&service, &park(host, kind.options), &start, &clients);
    assert_eq!(service.shares_port(), before, "{}", kind.name);
}

#[test]
fn listeners_in_another_network_namespace() {
    let host = Host::new().unwrap();
    let web = "ip netns add web; ip link add web type veth peer name eth0 netns web; ip link set web up
        ip addr add 10.9.0.1/24 dev web
        ip -n web addr add 10.9.0.2/24 dev eth0; ip -n web link set eth0 up; ip -n web link set lo up
        ip addr add fd09::1/64 dev web nodad; ip -n web addr add fd09::2/64 dev eth0 nodad";
    host.must(["sh", "-ec", web]);
    let listeners = r#"[{"address": "0.0.0.0"}, {"address": "::", "v6only": false, "port": 81}]"#;
    let enter = "nsenter --net=/run/netns/web";
    let service = Service::start(&host, enter, listeners);
    let call = park(&host, "--port 80,81 --listen-netns web");
    let clients = ["10.9.0.2", "10.9.0.2:81", "[fd09::2]:81"].map(|to| (&host, to));
    let start = service.command(enter, listeners);
    restarted(&service, &call, &start, &clients);
    assert_eq!(service.shares_port(), "0\n0\n");
}

/// As when a container is replaced, which takes its network namespace along.
#[test]
fn who_waits_in_a_namespace_that_is_replaced_is_told_of() {
    let host = Host::new().unwrap();
    let make = "ip netns add web; ip -n web link set lo up";
    host.must(["sh", "-ec", make]);
    let enter = "nsenter --net=/run/netns/web";
    let service = Service::start(&host, enter, ONE);
    let latch = Latch::new(&host, "down");
    let start = service.command(enter, ONE);
    let (stop, hold) = (service.stop(), latch.hold());
    let script = format!("{stop}; {hold}; ip netns del web; {make}; {start}");
    let call = park(&host, "--port 80 --listen-netns web");
    let run = call.start(["sh", "-c", &script]);
    latch.wait();
    let mut curl = host.command("sh");
    let curl = curl.args(["-c", &format!("{enter} curl -s -m 20 http://127.0.0.1/")]);
    let mut client = host.spawn(curl).unwrap();
    wait_until(SOON, "a parked connection", || waiting(&host) == 1).unwrap();
    let mut latch = latch;
    latch.release();
    let outcome = call.end(run);
    assert_eq!(figure(&outcome, "park", "handed_over"), 0, "{outcome:?}");
    assert_eq!(figure(&outcome, "park", "reset"), 1, "{outcome:?}");
    assert_eq!(outcome.code, 124, "{outcome:?}");
    assert!(!client.wait().unwrap().success());
}

/// A service may have many ports, and a host many processes among whose files listeners are looked for.
#[test]
fn many_ports_are_handed_over_at_once() {
    let host = Host::new().unwrap();
    let listeners: Vec<String> = (100..420)
        .map(|port| format!(r#"{{"address": "127.0.0.1", "port": {port}}}"#))
        .collect();
    let listeners = format!("[{}]", listeners.join(", "));
    let service = Service::start(&host, "", &listeners);
    let start = service.command("", &listeners);
    // COMMAND may end before or after the ports are open.
    let took_ms = |last: u16| {
        let call = park(&host, &format!("--port 100-{last}"));
        let last = format!("127.0.0.1:{last}");
        let clients = [(&host, "127.0.0.1:100"), (&host, last.as_str())];
        let (outcome, _) = restarted(&service, &call, &start, &clients);
        assert_eq!(outcome.report["warnings"], serde_json::json!([]));
        let phases = &outcome.report["phases"];
        ms(phases, "command_ms") + ms(phases, "ready_ms")
    };
    let (few, all) = (took_ms(179), took_ms(419));
    // A look at all of them for each would take sixteen times as long.
    assert!(all < 5.0 * few, "320 ports: {all} ms, 80 ports: {few} ms");
}

#[test]
fn nothing_is_left_where_the_listeners_stay() {
    const FOUR: &str = r#"[{"address": "0.0.0.0", "share": 1, "many": 4}]"#;
    for (action, netns) in [
        ("park", ""),
        ("handover", ""),
        ("park", "web"),
        ("handover", "web"),
    ] {
        let host = Host::new().unwrap();
        host.must(["sh", "-ec", "ip netns add web; ip -n web link set lo up"]);
        let (enter, option) = match netns {
            "" => ("", ""),
            _ => ("nsenter --net=/run/netns/web", "--listen-netns web"),
        };
        let _service = Service::start(&host, enter, FOUR);
        let options = format!("--port 80 --syn {action} {option}");
        let outcome = call(&host, words(&options)).run(["false"]);
        assert_eq!(outcome.code, 1, "{outcome:?}");
        assert_eq!(programs(&host), "", "{options}");
        assert_eq!(notes(&host), "");
    }
}

// What comes back is another one -------------------------------------------------------------------

const ONE: &str = r#"[{"address": "0.0.0.0"}]"#;
const ONE_THAT_SHARES: &str = r#"[{"address": "0.0.0.0", "share": 1}]"#;

/// The room would keep it from listening.
#[test]
fn a_service_that_comes_back_without_so_reuseport() {
    let host = Host::new().unwrap();
    let service = Service::start(&host, "", ONE_THAT_SHARES);
    let start = service.command("", ONE);
    let call = park(&host, "--port 80");
    restarted(&service, &call, &start, &[(&host, "127.0.0.1")]);
    assert_eq!(service.shares_port(), "0\n");
    let start = service.command("", ONE_THAT_SHARES);
    restarted(&service, &call, &start, &[(&host, "127.0.0.1")]);
    assert_eq!(service.shares_port(), "1\n");
}

/// As services do that set it when they are up. It is made longer for those who waited, and restored afterwards.
#[test]
fn a_backlog_that_the_service_sets_meanwhile_stays() {
    let host = Host::new().unwrap();
    let service = Service::start(&host, "", ONE);
    let start = service.command(
        "",
        r#"[{"address": "0.0.0.0", "backlog": 5, "again": 500}]"#,
    );
    let call = park(&host, "--port 80");
    restarted(&service, &call, &start, &[(&host, "127.0.0.1")]);
    let listens = host.must(words("ss -Hltn sport = :80"));
    assert!(listens.contains(" 500 "), "{listens}");
}

/// Only sockets of one user share a port, so the first attempt fails.
#[test]
fn a_service_that_comes_back_as_another_user_has_the_room_at_its_next_attempt() {
    let host = Host::new().unwrap();
    let service = Service::start(&host, "", ONE);
    let call = park(&host, "--port 80");
    for (by, listener, uid, before) in [
        (AS_USER, ONE, 1000, 0),
        ("", ONE, 0, 1000),
        // The process is root's, and its socket is not.
        ("", r#"[{"address": "0.0.0.0", "uid": 1001}]"#, 1001, 0),
    ] {
        let start = service.command(by, listener);
        let (outcome, _) = restarted(&service, &call, &start, &[(&host, "127.0.0.1")]);
        let told = format!(
            "a process of user {uid} could not listen on 0.0.0.0:80: the waiting room there belonged \
             to user {before}"
        );
        assert!(outcome.stderr.contains(&told), "{outcome:?}");
    }
}

/// A room is only in the way of those who would share its clients.
#[test]
fn a_user_who_listens_elsewhere_on_the_port_does_not_get_the_room() {
    const BESIDE: &str = r#"[{"address": "::"}, {"address": "127.0.0.9"}]"#;
    const SLOWER: &str = r#"[{"address": "127.0.0.1"}]"#;
    let host = Host::new().unwrap();
    let slower = Service::start(&host, AS_USER, SLOWER);
    let beside = slower.beside("beside");
    let start_beside = beside.command("", BESIDE);
    host.must(["sh", "-c", &start_beside]);
    let start = slower.command(AS_USER, SLOWER);
    let start = format!("{}; {start_beside}; {start}", beside.stop());
    let clients = ["127.0.0.1", "127.0.0.9", "[::1]"].map(|to| (&host, to));
    let (outcome, _) = restarted(&slower, &park(&host, "--port 80"), &start, &clients);
    assert_eq!(outcome.report["warnings"], serde_json::json!([]));
}

/// Any user may try to listen on a port.
#[test]
fn a_stranger_does_not_get_the_room() {
    let host = Host::new().unwrap();
    let service = Service::start(&host, "", ONE);
    let mut latch = Latch::new(&host, "down");
    let script = format!(
        "{}; {}; {}",
        service.stop(),
        latch.hold(),
        service.command("", ONE)
    );
    let call = park(&host, "--port 80");
    let run = call.start(["sh", "-c", &script]);
    latch.wait();
    let client = Client::start(&host, "waits", "127.0.0.1");
    wait_until(SOON, "a parked connection", || waiting(&host) == 1).unwrap();
    const STRANGER: &str = "import socket, time
made = socket.socket(); made.setsockopt(1, 2, 1); made.setsockopt(1, 15, 1)
until = time.time() + 0.3
while time.time() < until:
    try: made.bind(('0.0.0.0', 80)); print('bound'); break
    except OSError: time.sleep(0.01)";
    let stranger = format!("{AS_USER} /usr/bin/python3 -c \"{STRANGER}\"");
    assert_eq!(host.must(["sh", "-c", &stranger]), "");
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    client.served();
    assert!(outcome.stderr.contains("syngate left it so"), "{outcome:?}");
}

/// The kernel moves no connection to a listener of another address, or from IPv4 to one of IPv6.
#[test]
fn who_waits_is_told_of_if_the_service_comes_back_where_nobody_can_be_moved() {
    std::thread::scope(|threads| {
        for (listeners, shown) in [
            (r#"[{"address": "::", "v6only": false}]"#, "[::]:80"),
            (r#"[{"address": "127.0.0.1"}]"#, "127.0.0.1:80"),
        ] {
            threads.spawn(move || comes_back_elsewhere(listeners, shown));
        }
    });
}

fn comes_back_elsewhere(listeners: &str, shown: &str) {
    let host = Host::new().unwrap();
    let service = Service::start(&host, "", ONE);
    let mut latch = Latch::new(&host, "down");
    let start = service.command("", listeners);
    let script = format!("{}; {}; {start}", service.stop(), latch.hold());
    let call = park(&host, "--port 80");
    let run = call.start(["sh", "-c", &script]);
    latch.wait();
    let client = Client::start(&host, "waits", "127.0.0.1");
    wait_until(SOON, "a parked connection", || waiting(&host) == 1).unwrap();
    latch.release();
    let outcome = call.end(run);
    let told = format!(
        "the service listens on {shown} now, and the kernel can't move the connections that waited to it: \
         1 connection was reset"
    );
    assert_eq!(outcome.stderr.matches(&told).count(), 1, "{outcome:?}");
    assert_eq!(outcome.code, 124, "COMMAND's own is 0: {outcome:?}");
    for (field, value) in [("outcome", "action_failed"), ("reason", "reset")] {
        assert_eq!(outcome.report[field], value, "{outcome:?}");
    }
    assert!(!client.curl.output().unwrap().status.success());
    Client::start(&host, "later", "127.0.0.1").served();
    assert_eq!(service.shares_port(), "0\n");
}

/// What the rooms rest on lasts until they are shut: SO_REUSEPORT of the new listener, and the program that moves
/// those who wait, also where the service has attached one of its own meanwhile.
#[test]
fn those_who_wait_are_handed_over_whatever_the_new_listener_does_before() {
    std::thread::scope(|threads| {
        for listeners in [
            ONE,
            r#"[{"address": "0.0.0.0", "program": 1}]"#,
            r#"[{"address": "0.0.0.0", "share": 1, "program": 1}]"#,
        ] {
            threads.spawn(move || checked_before_the_release(listeners));
        }
    });
}

fn checked_before_the_release(listeners: &str) {
    let host = Host::new().unwrap();
    let service = Service::start(&host, "", ONE);
    let (mut down, mut ready) = (Latch::new(&host, "down"), Latch::new(&host, "ready"));
    let start = service.command("", listeners);
    let script = format!("{}; {}; {start}", service.stop(), down.hold());
    let call = park(&host, "--port 80").args(["--ready-check", &ready.hold()]);
    let run = call.start(["sh", "-c", &script]);
    down.wait();
    let first = Client::start(&host, "first", "127.0.0.1");
    wait_until(SOON, "a parked connection", || waiting(&host) == 1).unwrap();
    down.release();
    ready.wait();
    // The check may run before COMMAND has ended.
    let started = || fs::read_to_string(&service.pids).is_ok_and(|pids| pids.ends_with('\n'));
    wait_until(SOON, "the new process", started).unwrap();
    assert_eq!(service.shares_port(), "1\n", "while somebody waits");
    let second = Client::start(&host, "second", "127.0.0.1");
    let there = || words(&host.must(words("ss -Htn state established dport = :80"))).len() >= 8;
    wait_until(SOON, "the second client", there).unwrap();
    ready.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    for client in [first, second] {
        client.served();
    }
    let shares = match listeners.contains("share") {
        true => "1\n",
        false => "0\n",
    };
    assert_eq!(service.shares_port(), shares);
    Client::start(&host, "later", "127.0.0.1").served();
}

/// Without syngate the second one would not start: its address is in use.
#[test]
fn a_second_instance_beside_the_first_is_told() {
    std::thread::scope(|threads| {
        for (action, second, status) in [
            ("park", "0.0.0.0", 0),
            ("park", "127.0.0.1", 0),
            ("handover", "0.0.0.0", 0),
            ("park", "0.0.0.0", 3),
        ] {
            threads.spawn(move || starts_a_second(action, second, status));
        }
    });
}

fn starts_a_second(action: &str, address: &str, status: i32) {
    let host = Host::new().unwrap();
    let first = Service::start(&host, "", ONE);
    let second = first.beside("second");
    let start = second.command("", &format!(r#"[{{"address": "{address}"}}]"#));
    let call = call(&host, words(&format!("--port 80 --syn {action}")));
    let outcome = call.run(["sh", "-c", &format!("{start}; exit {status}")]);
    let says = "two instances of the service share the clients of ";
    assert_eq!(outcome.stderr.matches(says).count(), 1, "{outcome:?}");
    // COMMAND's own failure tells its caller more.
    let (code, reason) = match status {
        0 => (124, "second_instance"),
        own => (own, "exit_status"),
    };
    assert_eq!(outcome.code, code, "{outcome:?}");
    assert_eq!(outcome.report["reason"], reason, "{outcome:?}");
    let pid = |instance: &Service| fs::read_to_string(&instance.pids).unwrap();
    let (old, new) = (pid(&first), pid(&second));
    let named = format!(
        "the old one, python3 (pid {}), and the new one, python3 (pid {})",
        old.trim(),
        new.trim()
    );
    assert!(outcome.stderr.contains(&named), "{named}: {outcome:?}");
    for instance in [&first, &second] {
        assert_eq!(instance.shares_port(), "0\n");
    }
    // One that was there before this run is no news of it.
    let outcome = call.args(["--ready-timeout", "0"]).run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(!outcome.stderr.contains(says), "{outcome:?}");
}

// What a connection gets from its listener ---------------------------------------------------------

#[test]
fn a_connection_that_was_parked_has_the_options_of_one_that_was_not() {
    let host = Host::new().unwrap();
    // The last one has set none: a buffer whose size was set is never tuned (SO_BUF_LOCK).
    let listeners = r#"[{"address": "127.0.0.1", "options": 1}, {"address": "::1", "options": 1},
                        {"address": "127.0.0.2"}]"#;
    let service = Service::start(&host, "", listeners);
    let clients = ["127.0.0.1", "[::1]", "127.0.0.2"].map(|to| (&host, to));
    let direct: Vec<String> = clients
        .iter()
        .map(|(host, to)| Client::start(host, "direct", to).served())
        .collect();
    let start = service.command("", listeners);
    let (_, parked) = restarted(&service, &park(&host, "--port 80"), &start, &clients);
    for (direct, parked) in direct.iter().zip(&parked) {
        let [direct, parked] = [direct, parked].map(|told| serde_json::from_str::<Value>(told));
        let (direct, parked) = (direct.unwrap(), parked.unwrap());
        let all = direct.as_object().unwrap();
        assert!(all.len() > 90, "{direct:#}");
        let differ = all.iter().filter(|(name, value)| parked[*name] != **value);
        let differ: Vec<_> = differ.collect();
        assert!(differ.is_empty(), "{differ:?}");
    }
    // SOL_SOCKET and SO_BUF_LOCK.
    let locked = direct
        .iter()
        .map(|told| told.contains(r#""1:72": "00000000""#));
    assert_eq!(locked.collect::<Vec<_>>(), [false, false, true]);
}

/// As ExecStop= of a unit does (systemd.service(5)), which runs in the service's control group. It would hang, had it
/// to wait for the new process, and then stop that.
#[test]
fn an_order_to_stop_from_the_services_control_group_reaches_the_old_process() {
    let host = Host::new().unwrap();
    let group = Group::of(&host);
    let by = group.entered(&host);
    let service = Service::start(&host, &by, ONE);
    let start = service.command(&by, ONE);
    let ask = "curl -s -m 5 -o /dev/null http://127.0.0.1/";
    let script = format!("{by} {ask} && {}; {start}", service.stop());
    let outcome = park(&host, "--port 80").run(["sh", "-c", &script]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(figure(&outcome, "park", "parked"), 0, "{outcome:?}");
    drop(service);
}

/// That decides about systemd's IPAddressDeny=, for one.
#[test]
fn a_connection_that_is_parked_is_in_the_control_group_of_the_service() {
    for hidden in [false, true] {
        let host = Host::new().unwrap();
        let group = Group::of(&host);
        let by = group.entered(&host);
        let service = Service::start(&host, &by, ONE);
        let its_own = control_groups(&host, "listening");
        let mut latch = Latch::new(&host, "down");
        let start = service.command(&by, ONE);
        let script = format!("{}; {}; {start}", service.stop(), latch.hold());
        let call = park(&host, "--port 80");
        let call = match hidden {
            true => call.by(GROUPS_HIDDEN),
            false => call,
        };
        let run = call.start(["sh", "-c", &script]);
        latch.wait();
        let client = Client::start(&host, "waits", "127.0.0.1");
        wait_until(SOON, "a parked connection", || waiting(&host) == 1).unwrap();
        let parked = control_groups(&host, "established");
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        client.served();
        assert!(its_own[0].contains("/testkit-"), "{its_own:?}");
        assert_eq!(parked, its_own);
    }
}

/// As ss(8) shows them of the service's sockets.
fn control_groups(host: &Host, state: &str) -> Vec<String> {
    let shown = host.must(words(&format!("ss -Htne state {state} sport = :80")));
    let groups = shown
        .split_whitespace()
        .filter(|word| word.starts_with("cgroup:"));
    groups.map(str::to_owned).collect()
}

// What can't be parked -----------------------------------------------------------------------------

#[test]
fn what_can_not_be_parked_is_refused_by_its_name_and_auto_takes_another_action() {
    const OWN: &str = "a program of its own chooses among its listeners";
    for (listener, says, shares) in [
        (
            r#"{"address": "0.0.0.0", "md5": 1}"#,
            "it has keys of TCP-MD5 (RFC 2385)",
            "0\n",
        ),
        (
            r#"{"address": "0.0.0.0", "filter": 1}"#,
            "it has a filter (SO_ATTACH_FILTER)",
            "0\n",
        ),
        (
            r#"{"address": "0.0.0.0", "share": 1, "program": 1}"#,
            OWN,
            "1\n",
        ),
        (
            r#"{"address": "0.0.0.0", "share": 1, "ebpf": 1}"#,
            OWN,
            "1\n",
        ),
    ] {
        let host = Host::new().unwrap();
        let service = Service::start(&host, "", &format!("[{listener}]"));
        for action in ["park", "handover"] {
            let mark = host.dir().join("ran");
            let call = call(&host, words("--port 80 --syn")).arg(action);
            let outcome = call.run(["touch".into(), mark.clone().into_os_string()]);
            assert_eq!(outcome.code, 125, "{outcome:?}");
            assert!(outcome.stderr.contains(says), "{outcome:?}");
            assert!(!mark.exists());
            assert_eq!(service.shares_port(), shares);
            assert_eq!(notes(&host), "");
        }
        let auto = call(&host, words("--port 80 --syn auto --ready-timeout 0")).run(["true"]);
        assert_eq!(auto.code, 0, "{auto:?}");
        assert_ne!(auto.report["action"], "park", "{auto:?}");
        assert!(
            auto.report["not_taken"].to_string().contains(says),
            "{auto:?}"
        );
        let check = harness::syngate(&host, "check --port 80 --json");
        let found: Value = serde_json::from_str(&check.stdout).unwrap();
        let why = found["listeners"][0]["unparkable"].to_string();
        assert!(why.contains(says), "{why}");
        assert!(
            found["auto"]["lacking"][0].to_string().contains(says),
            "{found:#}"
        );
    }
}

/// As udpgrm or Envoy give it to their listeners.
#[test]
fn a_program_that_the_new_process_brings_along_stays_where_nobody_waits() {
    const BRINGS_ONE: &str = r#"[{"address": "0.0.0.0", "share": 1, "program": 1}]"#;
    for (action, waits) in [
        ("park", false),
        ("handover", false),
        ("park", true),
        ("handover", true),
    ] {
        let host = Host::new().unwrap();
        let service = Service::start(&host, "", ONE_THAT_SHARES);
        let call = call(&host, words(&format!("--port 80 --syn {action}"))).unhurried();
        let call = match action {
            "park" => call.args(words("--settle 200ms")),
            _ => call,
        };
        let mut latch = Latch::new(&host, "down");
        let start = service.command("", BRINGS_ONE);
        let script = format!("{}; {}; {start}", service.stop(), latch.hold());
        let run = call.start(["sh", "-c", &script]);
        latch.wait();
        let client = waits.then(|| Client::start(&host, "0", "127.0.0.1:80"));
        let comes = || waiting(&host) >= usize::from(waits);
        wait_until(SOON, "the client", comes).unwrap();
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        client.into_iter().for_each(|client| drop(client.served()));
        let says = format!("{}", outcome.report["warnings"]);
        let replaced = says.contains("a program of its own");
        assert_eq!(
            programs(&host).is_empty(),
            replaced,
            "{action}: {outcome:?}"
        );
        // In a reload those who wait are handed over before the process has given the program.
        assert!(!replaced || waits, "{outcome:?}");
        assert!(replaced || !waits || action == "handover", "{outcome:?}");
        assert_eq!(notes(&host), "");
    }
}

/// The kernel resets some clients where it answers each SYN with a cookie.
#[test]
fn what_syn_cookies_cost_is_told_beforehand_and_auto_does_not_park() {
    const SAYS: &str = "net.ipv4.tcp_syncookies is 2";
    for (listener, told) in [(ONE, true), (ONE_THAT_SHARES, false)] {
        let host = Host::new().unwrap();
        host.must(words("sysctl -qw net.ipv4.tcp_syncookies=2"));
        let _service = Service::start(&host, "", listener);
        let run = |action: &str| {
            let options = format!("--port 80 --ready-timeout 0 --syn {action}");
            let outcome = call(&host, words(&options)).run(["true"]);
            assert_eq!(outcome.code, 0, "{outcome:?}");
            outcome
        };
        for action in ["park", "handover"] {
            let outcome = run(action);
            assert_eq!(outcome.stderr.contains(SAYS), told, "{outcome:?}");
        }
        let auto = run("auto");
        assert_eq!(auto.report["action"] != "park", told, "{auto:?}");
        let not_taken = auto.report["not_taken"].to_string();
        assert_eq!(not_taken.contains(SAYS), told, "{auto:?}");
        let check = harness::syngate(&host, "check --port 80 --json");
        let found: Value = serde_json::from_str(&check.stdout).unwrap();
        assert_eq!(found["auto"]["action"] != "park", told, "{found:#}");
    }
}

/// The service itself could not listen again while its connections are open.
#[test]
fn a_listener_without_so_reuseaddr_whose_connections_are_open_is_refused() {
    let host = Host::new().unwrap();
    let service = Service::start(&host, "", r#"[{"address": "127.0.0.1", "no_reuse": 1}]"#);
    const OPEN: &str = "import socket, time
connection = socket.create_connection(('127.0.0.1', 80)); print('up', flush=True); time.sleep(60)";
    let mut open = harness::python(&host, OPEN);
    let outcome = park(&host, "--port 80").run(["true"]);
    open.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(outcome.code, 125, "{outcome:?}");
    let says = "the listener lacks SO_REUSEADDR, and connections to it are open";
    assert!(outcome.stderr.contains(says), "{outcome:?}");
    assert_eq!(service.shares_port(), "0\n");
}

//! `syngate check`: what it says is held against ss(8), nft(8) and sysctl(8), and looking leaves no
//! trace.

mod harness;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use harness::rooms::Kernel;
use harness::{SOON, SYNGATE, call, python, words};
use serde_json::{Value, json};
use testkit::services::{Haproxy, HaproxyConfig, Nginx, NginxConfig, Serve};
use testkit::{Host, Load, Ran, wait_until};

/// As somebody without any privilege, but allowed to run programs.
const UNPRIVILEGED: &str = "setpriv --bounding-set -all --inh-caps -all";

/// A call, between two looks at everything that it could have changed.
#[track_caller]
fn check(host: &Host, by: &str, options: &str) -> Ran {
    let before = everything(host);
    let mut argv = words(by);
    argv.push(SYNGATE.to_owned());
    argv.extend(words(&format!("check {options}")));
    let mut call = host.command(&argv[0]);
    let ran: Ran = call.args(&argv[1..]).output().unwrap().into();
    assert_eq!(everything(host), before, "{argv:?} leaves no trace");
    ran
}

/// What a firewall can consist of. A table of x_tables appears in the files as soon as anybody asks
/// for it.
#[track_caller]
fn everything(host: &Host) -> (String, String) {
    let files = "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names; ls /proc/net/xt_recent; \
                 cat /proc/net/netfilter/nfnetlink_queue; \
                 [ ! -s /proc/net/ip_tables_names ] || iptables-legacy-save | grep -v '^#'";
    let files = host.sh(files).unwrap().stdout;
    (host.ruleset(), files)
}

/// The findings of a call with `--json`, which is what the schema says.
#[track_caller]
fn findings(ran: &Ran) -> Value {
    let found: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    let schema = serde_json::from_str(include_str!("../contrib/schema/check.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).expect("the schema is one");
    let errors: Vec<String> = validator
        .iter_errors(&found)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert_eq!(errors, Vec::<String>::new(), "{found:#}");
    found
}

#[track_caller]
fn check_json(host: &Host, options: &str) -> Value {
    let ran = check(host, "", &format!("--json {options}"));
    assert_eq!((ran.code(), &*ran.stderr), (0, ""), "{ran:?}");
    findings(&ran)
}

/// The codes of the advice about a port, or about the host.
fn codes(found: &Value, port: Option<&str>) -> BTreeSet<String> {
    let of_port = |ports: &Value| match port {
        Some(port) => ports.as_array().unwrap().iter().any(|p| p == port),
        None => ports.as_array().unwrap().is_empty(),
    };
    let all = found["advice"].as_array().unwrap().iter();
    all.filter(|advice| of_port(&advice["ports"]))
        .map(|advice| advice["code"].as_str().unwrap().to_owned())
        .collect()
}

/// What is said, and the call that is advised.
#[track_caller]
fn text(found: &Value, code: &str) -> String {
    let all = found["advice"].as_array().unwrap();
    let advice = all.iter().find(|advice| advice["code"] == code);
    let advice = advice.unwrap_or_else(|| panic!("no {code} in {found:#}"));
    let text = advice["text"].as_str().unwrap();
    match advice["command"].as_str() {
        Some(command) => format!("{text}: {command}"),
        None => text.to_owned(),
    }
}

/// A place that is listened on, with how many sockets, the shortest backlog, the fullest queue and
/// the pids of who holds it: as ss(8) has it.
type Row = (String, usize, u64, u64, BTreeSet<u64>);

/// `LISTEN 0 128 0.0.0.0:80 0.0.0.0:* users:(("nginx",pid=7,fd=5),("nginx",pid=6,fd=5))`.
fn by_ss(host: &Host) -> BTreeSet<Row> {
    let listed = host.must(words("ss -Hltnp"));
    let mut rows: Vec<Row> = Vec::new();
    for line in listed.lines() {
        let fields = words(line);
        let number = |n: usize| fields[n].parse::<u64>().unwrap();
        let pids = line.split("pid=").skip(1);
        let pids = pids.map(|rest| rest.split(',').next().unwrap().parse().unwrap());
        let (place, queue, backlog) = (fields[3].clone(), number(1), number(2));
        match rows.iter_mut().find(|row| row.0 == place) {
            None => rows.push((place, 1, backlog, queue, pids.collect())),
            Some(row) => {
                row.1 += 1;
                row.2 = row.2.min(backlog);
                row.3 = row.3.max(queue);
                row.4.extend(pids);
            }
        }
    }
    rows.into_iter().collect()
}

fn by_us(found: &Value) -> BTreeSet<Row> {
    let listeners = found["listeners"].as_array().unwrap().iter();
    listeners
        .map(|place| {
            let address: std::net::IpAddr = place["address"].as_str().unwrap().parse().unwrap();
            let port = place["port"].as_u64().unwrap() as u16;
            let pids = place["processes"].as_array().unwrap().iter();
            (
                std::net::SocketAddr::new(address, port).to_string(),
                place["sockets"].as_u64().unwrap() as usize,
                place["backlog"].as_u64().unwrap(),
                place["accept_queue"].as_u64().unwrap(),
                pids.map(|p| p["pid"].as_u64().unwrap()).collect(),
            )
        })
        .collect()
}

#[test]
fn tells_what_the_host_can_do() {
    let host = Host::new().unwrap();
    let found = check_json(&host, "");
    let on = &found["host"];
    assert_eq!(found["backend"]["name"], "nft");
    assert_eq!(found["refusal"], Value::Null);
    // What nft(8) takes here, `-c` too: it is the oracle.
    for (field, rule) in [
        ("nf_tables", "add table inet probed"),
        (
            "timed_sets",
            "table inet probed { set s { type inet_service; flags interval,timeout; elements = { 80 timeout 1s } }; }",
        ),
        ("owner_tables", "table inet probed { flags owner; }"),
        (
            "prerouting",
            "table inet probed { chain c { type filter hook prerouting priority -310; fib daddr type local drop; }; }",
        ),
        (
            "nft_dup",
            "table ip probed { chain c { type filter hook prerouting priority -311; dup to 127.0.0.1 device lo; }; }",
        ),
        (
            "nft_reject",
            "table inet probed { chain c { type filter hook input priority 9; reject with tcp reset; }; }",
        ),
        (
            "nft_queue",
            "table inet probed { chain c { type filter hook input priority 10; queue flags bypass to 0; }; }",
        ),
    ] {
        let script = host.write("rule.nft", rule.replace("; ", "\n").replace("{ ", "{\n"));
        let taken = host.sh(&format!("nft -c -f {}", script.display())).unwrap();
        let expected = if taken.ok() { "yes" } else { "no" };
        assert_eq!(on[field]["state"], expected, "{field}: {taken:?}");
    }
    // Those that have no other use here than a look at the file.
    let queues = host
        .sh("test -e /proc/net/netfilter/nfnetlink_queue")
        .unwrap();
    assert_eq!(on["nfqueue"]["state"] == "yes", queues.ok(), "{on:#}");
    for (name, value) in on["sysctls"].as_object().unwrap() {
        let listed = host.sh(&format!("sysctl -n {name}")).unwrap();
        let expected = listed.stdout.trim().parse::<u64>().ok();
        assert_eq!(value.as_u64(), expected, "{name}");
    }
    assert_eq!(
        on["published_unseen"] == Value::Null,
        !testkit::rootless() || host_root(&host)
    );
}

/// A user namespace that root has made may have the host's root in it.
fn host_root(host: &Host) -> bool {
    host.must(words("stat -c %u /proc/sys/kernel")).trim() == "0"
}

/// Not even for a moment: those who are told of every change are told of none.
#[test]
fn no_rule_is_ever_made() {
    let host = Host::new().unwrap();
    let told = host.write("told", "");
    let told = || std::fs::read_to_string(&told).unwrap();
    let mut monitor = host.command("sh");
    monitor.args([
        "-c",
        &format!("exec nft monitor >{}/told", host.dir().display()),
    ]);
    let _monitor = host.spawn(&mut monitor).unwrap();
    wait_until(SOON, "nft to watch", || {
        host.must(words("nft add table inet begin"));
        host.must(words("nft delete table inet begin"));
        told().contains("begin")
    })
    .unwrap();
    check(&host, "", "");
    host.must(words("nft add table inet the_end"));
    wait_until(SOON, "the last change", || told().contains("the_end")).unwrap();
    let mine = |line: &&str| line.contains("begin") || line.contains("the_end");
    let changes = told();
    let others: Vec<&str> = changes.lines().filter(|line| !mine(line)).collect();
    let others: Vec<&&str> = others
        .iter()
        .filter(|l| !l.starts_with("# new generation"))
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

/// The gate that is tried is one of port 1: nobody who connects there meets it.
#[test]
fn no_packet_is_stopped() {
    let host = Host::new().unwrap();
    let _server = Serve::on("127.0.0.1:1").start(&host).unwrap();
    let mut load = Load::to("127.0.0.1:1").rate(200).start(&host).unwrap();
    load.wait_flowing().unwrap();
    for _ in 0..5 {
        check(&host, "", "");
    }
    let report = load.stop().unwrap();
    assert_eq!(report.failed(), 0, "{report}");
    let netstat = host.must(words("cat /proc/net/netstat"));
    let mut rows = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (words(rows.next().unwrap()), words(rows.next().unwrap()));
    let column = names.iter().position(|name| name == "TCPSynRetrans");
    assert_eq!(
        values[column.unwrap()],
        "0",
        "SYNs that were sent again: {report}"
    );
}

#[test]
fn without_privilege_it_says_what_it_can_not_see() {
    let host = Host::new().unwrap();
    let _server = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let ran = check(&host, UNPRIVILEGED, "--json");
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    assert!(
        ran.stderr
            .starts_with("syngate: no gate can be closed here: "),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("CAP_NET_ADMIN"), "{ran:?}");
    let found = findings(&ran);
    assert_eq!(found["backend"], Value::Null);
    for field in [
        "nf_tables",
        "timed_sets",
        "owner_tables",
        "prerouting",
        "nft_dup",
        "nft_reject",
        "nft_queue",
    ] {
        assert_eq!(found["host"][field]["state"], "unknown", "{field}");
        assert!(
            found["host"][field]["why"]
                .as_str()
                .unwrap()
                .contains("CAP_NET_ADMIN")
        );
    }
    assert_eq!(
        found["listeners"].as_array().unwrap().len(),
        1,
        "everybody sees listeners"
    );
    assert_eq!(found["host"]["privileges"]["net_admin"], false);
    let rooms = &found["host"]["rooms"];
    assert_eq!(rooms["moves"]["state"], "unknown", "{rooms:#}");
    assert_eq!(found["auto"]["action"], "drop", "{found:#}");

    // A capability over another user namespace than the network's is none.
    let ran = check(&host, "unshare --user --map-root-user", "");
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(ran.stderr.contains("another user namespace"), "{ran:?}");
    assert!(ran.stdout.contains("not known"), "{ran:?}");
}

// Parking ------------------------------------------------------------------------------------------

#[test]
fn who_can_be_parked() {
    let moves = Kernel::here() == Kernel::MovesConnections;
    let host = Host::new().unwrap();
    for (reuseport, says) in [
        (false, "does not set SO_REUSEPORT, and gets it"),
        (true, "the service sets SO_REUSEPORT"),
    ] {
        let server = Serve::on("0.0.0.0:80").reuseport_if(reuseport);
        let _server = server.start(&host).unwrap();
        let found = check_json(&host, "--port 80");
        let place = &found["listeners"][0];
        assert_eq!(place["reuseport"], reuseport);
        let run = call(&host, words("--port 80 --syn park --ready-timeout 0")).run(["true"]);
        let rooms = &found["host"]["rooms"];
        assert_eq!(rooms["moves"]["state"] == "yes", moves, "{rooms:#}");
        assert_eq!(run.code == 0, moves, "{run:?}");
        if moves {
            let told = text(&found, "parked");
            assert!(told.starts_with("80: --syn park is possible"), "{told}");
            assert!(told.contains(says), "{told}");
            assert_eq!(found["auto"]["action"], "park", "{found:#}");
            let auto = call(&host, words("--port 80 --syn auto --ready-timeout 0"));
            assert_eq!(auto.run(["true"]).report["action"], "park");
        }
    }
    host.must(words("sysctl -q -w net.core.somaxconn=128"));
    let _server = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let found = check_json(&host, "--port 80");
    if moves {
        let told = text(&found, "parked");
        assert!(told.contains("no more than 4096 may wait"), "{told}");
    }
    // Nobody's listeners are copied unless they are asked for.
    assert_eq!(
        check_json(&host, "")["listeners"][0]["reuseport"],
        Value::Null
    );
}

#[test]
fn a_listener_of_mptcp_is_not_parked() {
    let host = Host::new().unwrap();
    let _server = python(
        &host,
        "import socket, time\n\
         listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n\
         listener.bind(('0.0.0.0', 80)); listener.listen()\n\
         print('up', flush=True); time.sleep(60)",
    );
    let found = check_json(&host, "--port 80");
    let told = text(&found, "not_parked");
    assert!(told.contains("MPTCP"), "{told}");
    let run = call(&host, words("--port 80 --syn park")).run(["true"]);
    assert_eq!(run.code, 125, "{run:?}");
}

/// haproxy holds its socket alone; the service script restarts it.
#[test]
fn one_process() {
    for (master_worker, code, says) in [
        (
            false,
            "one_process",
            "held by haproxy alone: a restart closes it",
        ),
        (
            true,
            "master_worker",
            "so no gate is needed for that; use syngate for restarts",
        ),
    ] {
        let host = Host::new().unwrap();
        let config = HaproxyConfig::port(80);
        let config = match master_worker {
            true => config.global("master-worker"),
            false => config,
        };
        let haproxy = Haproxy::debian_init(&host, &config).unwrap();
        haproxy.start().unwrap();
        let found = check_json(&host, "");
        assert_eq!(by_us(&found), by_ss(&host));
        let told = text(&found, code);
        assert!(told.contains(says), "{told}");
        let restart = "syngate --port 80 --syn auto -- service haproxy restart";
        assert!(told.ends_with(restart), "{told}");
        let by_hold = check(&host, "setpriv --bounding-set -bpf", "--json");
        let told = text(&findings(&by_hold), code);
        assert!(
            told.ends_with("syngate --port 80 -- service haproxy restart"),
            "{told}"
        );
    }
}

#[test]
fn a_socket_that_survives_a_reload() {
    let host = Host::new().unwrap();
    let nginx = Nginx::new(&host, &NginxConfig::default()).unwrap();
    nginx.start().unwrap();
    let found = check_json(&host, "--port 80");
    assert_eq!(by_us(&found), by_ss(&host));
    let told = text(&found, "shared_socket");
    assert!(
        told.starts_with("80: one socket for each address, held by nginx (3 processes)"),
        "{told}"
    );
    assert!(
        told.contains("syngate --port 80 --syn auto -- service nginx restart"),
        "{told}"
    );
}

#[test]
fn a_group_whose_queues_are_reset() {
    let host = Host::new().unwrap();
    let config = NginxConfig {
        workers: 4,
        reuseport: true,
        ..NginxConfig::default()
    };
    let nginx = Nginx::new(&host, &config).unwrap();
    nginx.start().unwrap();
    let found = check_json(&host, "--port 80");
    assert_eq!(by_us(&found), by_ss(&host));
    let told = text(&found, "reuseport_group");
    assert!(
        told.contains("a SO_REUSEPORT group of 4, held by nginx"),
        "{told}"
    );
    let reload = "syngate --port 80 --syn auto --reload -- service nginx reload";
    assert!(told.ends_with(reload), "{told}");

    host.must(words("sysctl -qw net.ipv4.tcp_migrate_req=1"));
    let found = check_json(&host, "--port 80");
    assert!(
        codes(&found, Some("80")).contains("reuseport_migrated"),
        "{found:#}"
    );
}

/// A queue that fills up, seen; a short backlog, judged.
#[test]
fn backlog_and_accept_queue() {
    let host = Host::new().unwrap();
    host.must(words("sysctl -qw net.core.somaxconn=64"));
    let script = "import socket, time
stuck, capped = socket.socket(), socket.socket()
stuck.bind(('127.0.0.1', 80)); stuck.listen(7)
capped.bind(('127.0.0.1', 81)); capped.listen(1000)
waiting = [socket.create_connection(('127.0.0.1', 80)) for _ in range(6)]
print('there', flush=True)
time.sleep(60)";
    let mut servers = host.command("python3");
    servers.args(["-c", script]).stdout(Stdio::piped());
    let mut servers = host.spawn(&mut servers).unwrap();
    let mut there = String::new();
    let mut said = BufReader::new(servers.stdout().unwrap());
    said.read_line(&mut there).unwrap();

    let found = check_json(&host, "");
    assert_eq!(by_us(&found), by_ss(&host));
    let queue = text(&found, "accept_queue");
    assert!(
        queue.contains(" connections wait to be accepted, of 7 at most"),
        "{queue}"
    );
    let all = &found["advice"].as_array().unwrap().to_vec();
    let backlogs: Vec<&str> = all
        .iter()
        .filter(|advice| advice["code"] == "small_backlog")
        .map(|advice| advice["text"].as_str().unwrap())
        .collect();
    assert!(backlogs[0].starts_with("80: backlog 7: "), "{backlogs:?}");
    assert!(
        backlogs[0].contains("net.core.somaxconn allows 64"),
        "{backlogs:?}"
    );
    assert!(backlogs[1].starts_with("81: backlog 64: "), "{backlogs:?}");
    assert!(backlogs[1].contains("raise it"), "{backlogs:?}");
    let page = check(&host, "", "").stdout;
    assert!(page.contains("64*"), "{page}");
}

#[test]
fn settings_that_matter() {
    let host = Host::new().unwrap();
    let usual = check_json(&host, "");
    let mut codes_of_host = codes(&usual, None);
    codes_of_host.remove("no_owner_tables"); // before Linux 5.12
    let usual_codes = ["syn_retries", "redirected_left"].map(str::to_owned);
    assert_eq!(codes_of_host, usual_codes.into());
    host.must(words("sysctl -qw net.ipv4.tcp_syncookies=0"));
    // Not before Linux 6.5, and then it is as with 0.
    let linear = "[ ! -e /proc/sys/net/ipv4/tcp_syn_linear_timeouts ] || \
                  sysctl -qw net.ipv4.tcp_syn_linear_timeouts=0";
    assert!(host.sh(linear).unwrap().ok());
    let found = check_json(&host, "");
    assert!(codes(&found, None).contains("syncookies_off"), "{found:#}");
    let retries = text(&found, "syn_retries");
    assert!(retries.contains(" after 1, 3, 7, 15 s"), "{found:#}");
    let held = found["hold"]["backend"] != Value::Null;
    assert_eq!(retries.contains("--syn hold"), held, "{found:#}");
}

/// It says what a run that holds SYNs does.
#[test]
fn who_holds_syns() {
    let host = Host::new().unwrap();
    let _server = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let found = check_json(&host, "");
    let run = call(&host, words("--port 80 --syn hold --drain 0")).run(["true"]);
    assert_eq!(found["hold"]["backend"], run.report["backend"], "{found:#}");
    let without = check(&host, "env SYNGATE_FAULT=no-nft-queue", "--json");
    let found = findings(&without);
    let legacy = json!("iptables-legacy");
    assert_eq!(found["hold"]["backend"], legacy, "{found:#}");
    let page = check(&host, "env SYNGATE_FAULT=no-nft-queue", "").stdout;
    assert!(
        page.contains("yes: --syn hold, by iptables-legacy"),
        "{page}"
    );
}

/// What becomes of redirected connections when the rules go: `redirect::left_when_the_rules_go`.
#[test]
fn rules_that_do_nat() {
    let host = Host::new().unwrap();
    assert_eq!(check_json(&host, "")["host"]["nat"], json!([]));
    let nft = "add table ip t; add chain ip t c { type nat hook postrouting priority 100; };
        add rule ip t c oifname none masquerade";
    host.must(["nft", nft]);
    assert_eq!(check_json(&host, "")["host"]["nat"], json!(["ipv4"]));
    let rule = "ip6tables-legacy -t nat -A POSTROUTING -o none -j MASQUERADE";
    host.must(words(rule));
    let found = check_json(&host, "");
    assert_eq!(found["host"]["nat"], json!(["ipv4", "ipv6"]));
    assert!(text(&found, "redirected_left").contains("go on, since you have NAT rules"));
    host.must(["nft", "delete table ip t"]);
    assert_eq!(check_json(&host, "")["host"]["nat"], json!(["ipv6"]));
    host.must(words(
        "iptables-nft -t nat -A OUTPUT -p tcp --dport 9 -j REDIRECT",
    ));
    assert_eq!(
        check_json(&host, "")["host"]["nat"],
        json!(["ipv4", "ipv6"])
    );
}

/// Ports that containers publish, by iptables and by nft.
#[test]
fn published_ports() {
    let host = Host::new().unwrap();
    host.must(words(
        "iptables-nft -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80",
    ));
    let rules = "table inet containers {
    chain in {
        type nat hook prerouting priority -100
        tcp dport 8081 dnat ip to 10.0.0.2:80
        ip daddr 10.0.0.1 tcp dport 8082 redirect to :80
    }
    chain out {
        type nat hook output priority -100
        tcp dport 8083 dnat ip to 10.0.0.2:80
    }
}
";
    let rules = host.write("rules.nft", rules);
    host.must(["nft", "-f", rules.to_str().unwrap()]);
    let found = check_json(&host, "--port 8079-8083");
    let ports: Vec<&Value> = found["host"]["published"]
        .as_array()
        .unwrap()
        .iter()
        .map(|published| &published["port"])
        .collect();
    assert_eq!(ports, [8080, 8081, 8082], "{found:#}");
    assert!(text(&found, "published").contains("--hook prerouting"));
    let deserted = text(&found, "no_listener");
    assert!(
        deserted.starts_with("8079,8083: nobody listens"),
        "{deserted}"
    );
}

/// Which variant holds rules is told without making the other one's tables.
#[test]
fn the_variants_of_iptables() {
    let host = Host::new().unwrap();
    let rules = |found: &Value, variant: &str| {
        let all = found["host"]["iptables"].as_array().unwrap();
        let of = all.iter().find(|i| i["variant"] == variant);
        of.unwrap_or_else(|| panic!("{found:#}"))["rules"].clone()
    };
    let found = check_json(&host, "");
    assert_eq!(rules(&found, "iptables-nft"), 0);
    host.must(words("iptables-nft -A INPUT -p tcp --dport 1 -j ACCEPT"));
    let found = check_json(&host, "");
    assert_eq!(rules(&found, "iptables-nft"), 1);
    let version = host.must(words("iptables --version"));
    let default = if version.contains("nf_tables") {
        "iptables-nft"
    } else {
        "iptables-legacy"
    };
    for variant in found["host"]["iptables"].as_array().unwrap() {
        assert_eq!(
            variant["default"],
            variant["variant"] == default,
            "{variant}"
        );
    }
    if !host_root(&host) {
        return; // the files that tell are for the host's root
    }
    assert_eq!(rules(&found, "iptables-legacy"), 0);
    host.must(words("iptables-legacy -A INPUT -p tcp --dport 1 -j ACCEPT"));
    let found = check_json(&host, "");
    assert_eq!(rules(&found, "iptables-legacy"), 1);
    assert!(codes(&found, None).contains("legacy_rules"), "{found:#}");
}

/// Each table of iptables-legacy is listed once.
#[test]
fn iptables_is_looked_at_once() {
    let host = Host::new().unwrap();
    host.must(words(
        "iptables-legacy -A INPUT -m limit --limit 9/sec -j ACCEPT",
    ));
    let real = host.must(words("which iptables-legacy-save"));
    let log = host.write("asked", "");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >>{}\nexec {} \"$@\"\n",
        log.display(),
        real.trim()
    );
    let shadow = host.write("iptables-legacy-save", script);
    host.must(["chmod", "755", shadow.to_str().unwrap()]);
    let path = std::env::var("PATH").unwrap();
    let by = format!("env PATH={}:{path}", host.dir().display());
    let found = findings(&check(&host, &by, "--json"));
    assert!(codes(&found, None).contains("syn_used_up"), "{found:#}");
    let asked = std::fs::read_to_string(log).unwrap();
    let listings: Vec<&str> = asked
        .lines()
        .filter(|line| !line.contains("--version"))
        .collect();
    assert_eq!(listings, ["-t filter -c"], "{asked}");
}

/// A kernel without owner tables, as far as a fault makes it one.
#[test]
fn a_kernel_without_owner_tables() {
    let host = Host::new().unwrap();
    let ran = check(&host, "env SYNGATE_FAULT=no-owner-tables", "--json");
    let found = findings(&ran);
    assert_eq!(ran.code(), 0, "{ran:?}");
    assert_eq!(found["host"]["owner_tables"]["state"], "no");
    assert_eq!(found["host"]["timed_sets"]["state"], "yes");
    let usual = check_json(&host, "");
    for field in [
        "nf_tables",
        "prerouting",
        "nft_queue",
        "xt_nfqueue",
        "nfqueue",
    ] {
        assert_eq!(found["host"][field], usual["host"][field], "{field}");
    }
    assert!(text(&found, "no_owner_tables").contains("watchdog"));
}

#[test]
fn the_page_is_narrow_and_has_its_sections() {
    let host = Host::new().unwrap();
    let nginx = Nginx::new(&host, &NginxConfig::default()).unwrap();
    nginx.start().unwrap();
    let page = check(&host, "", "--port 80,81").stdout;
    let sections = page
        .lines()
        .filter(|line| !line.starts_with(' ') && !line.is_empty());
    let sections: Vec<&str> = sections.collect();
    let [answer, sections @ ..] = &sections[..] else {
        panic!("{page}");
    };
    // By which action depends on the kernel.
    let yes = "yes for 80, but nobody listens on 81 (a typo?): --port 80 --syn auto does it by ";
    assert!(answer.starts_with(yes), "{page}");
    assert_eq!(sections, ["this host", "the service", "what follows"]);
    for line in page.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    assert!(page.contains("0.0.0.0:80"), "{page}");
    assert!(page.contains("81: nobody listens"), "{page}");
}

#[test]
fn bad_input() {
    let host = Host::new().unwrap();
    for (options, says) in [
        ("--port 0", "--port"),
        ("--port", "--port"),
        ("--port nonsense", "nonsense"),
        ("--nonsense", "--nonsense"),
        ("80", "80"),
    ] {
        let ran = check(&host, "", options);
        assert_eq!(ran.code(), 125, "{options}: {ran:?}");
        assert_eq!(ran.stdout, "", "{options}");
        assert_eq!(ran.stderr.lines().count(), 1, "{options}: {ran:?}");
        assert!(ran.stderr.starts_with("syngate: "), "{options}: {ran:?}");
        assert!(ran.stderr.contains(says), "{options}: {ran:?}");
    }
}

/// That nobody reads is no error.
#[test]
fn a_closed_stdout_is_no_panic() {
    let host = Host::new().unwrap();
    let ran = host.sh(&format!(
        "{SYNGATE} check >&-; echo $?; {SYNGATE} check | head -1"
    ));
    let ran = ran.unwrap();
    let answer = "0\nyes: a gate can be closed here, by --syn auto with ";
    assert!(ran.stdout.starts_with(answer), "{ran:?}");
    assert_eq!(
        (ran.stdout.lines().count(), &*ran.stderr),
        (2, ""),
        "{ran:?}"
    );
}

/// What is found may be otherwise when the run has ended.
#[test]
fn a_port_that_a_run_gates_is_told() {
    let host = Host::new().unwrap();
    let _server = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let run = call(&host, words("--port 80 --drain 0")).start(["sleep", "60"]);
    let shut = || host.sh("pgrep -x sleep").unwrap().ok();
    wait_until(SOON, "COMMAND", shut).unwrap();
    let ran = host.sh(&format!("{SYNGATE} check --port 80")).unwrap();
    assert!(
        ran.stdout.contains("80: a run gates it now: pid "),
        "{ran:?}"
    );
    drop(run);
}

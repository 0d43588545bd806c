//! `syngate keep` on a host with many listeners.

mod harness;

use std::time::Duration;

use harness::keep::{Keep, looks, shared, waiting_client};
use harness::rooms::all_served;
use harness::{SOON, SYNGATE, syngate, words};
use testkit::services::Serve;
use testkit::{Host, Running, wait_until};

/// Python: a user listens on port 80 of so many addresses of a network.
const LISTEN: &str = "
import os, socket, sys, time
uid, network, count = map(int, sys.argv[1:])
os.setuid(uid)
made = [socket.socket() for _ in range(count)]
for n, listener in enumerate(made):
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((f'127.{network}.{n // 250}.{n % 250 + 1}', 80))
    listener.listen()
time.sleep(1000)
";

/// A user's service on so many addresses.
fn service(host: &Host, uid: u32, network: u8, addresses: usize) -> Running {
    host.must(words("sysctl -qw net.ipv4.ip_unprivileged_port_start=0"));
    let mut python = host.command("python3");
    let numbers = [uid as usize, network.into(), addresses];
    python.args(["-c", LISTEN]);
    python.args(numbers.map(|number| number.to_string()));
    let server = host.spawn(&mut python).unwrap();
    let there =
        format!("ss -Hltn src 127.{network}.0.0/16:80 | awk '{{print $4}}' | sort -u | wc -l");
    let listen = || count(host, &there) == addresses;
    wait_until(SOON, "all listeners", listen).unwrap();
    server
}

fn count(host: &Host, script: &str) -> usize {
    host.must(["sh", "-c", script]).trim().parse().unwrap()
}

/// On how many addresses of that network there is a listener beside the service's.
fn kept(host: &Host, network: u8) -> usize {
    let twice =
        format!("ss -Hltn src 127.{network}.0.0/16:80 | awk '{{print $4}}' | sort | uniq -d");
    count(host, &format!("{twice} | wc -l"))
}

fn open_files(host: &Host) -> usize {
    count(host, "ls /proc/$(pgrep -x syngate)/fd | wc -l")
}

/// Each address costs one system call at a look, while nobody waits: eight looks in a second.
#[test]
fn an_idle_keep_makes_few_system_calls() {
    const ADDRESSES: usize = 50;
    let host = &Host::new().unwrap();
    let _service = service(host, 0, 0, ADDRESSES);
    let keep = Keep::on(host, "");
    assert_eq!(kept(host, 0), ADDRESSES);
    let file = host.dir().join("calls").display().to_string();
    let trace = format!("timeout 2 strace -c -o {file} -p $(pgrep -x syngate)");
    let traced = host.sh(&trace).unwrap();
    let table = std::fs::read_to_string(&file).unwrap();
    let total = table.lines().last().unwrap_or_default();
    // % time, seconds, usecs/call, calls
    let calls = total.split_whitespace().nth(3);
    let calls = calls.and_then(|calls| calls.parse().ok());
    let calls: usize = calls.unwrap_or_else(|| panic!("{traced:?}: {table}"));
    assert!(calls > 100, "{table}");
    assert!(calls < 2 * 8 * (2 * ADDRESSES + 60), "{table}");
    keep.ends(ADDRESSES);
}

/// Other users may listen on more addresses than are kept: the service's are among those that are, and one line
/// tells of the others.
#[test]
fn no_more_addresses_than_asked_for_are_kept_and_users_take_turns() {
    let host = &Host::new().unwrap();
    let _another = service(host, 1_001, 1, 40);
    let _service = service(host, 0, 2, 3);
    let keep = Keep::on(host, "--max-addresses 10");
    assert_eq!((kept(host, 1), kept(host, 2)), (7, 3));
    let all = "--max-addresses 10 allows no more";
    keep.says(
        1,
        &format!("127.1.0.8:80 and 32 others are not kept: {all}"),
    );
    let before = open_files(host);
    let _third = service(host, 1_003, 3, 40);
    looks(host);
    assert_eq!((kept(host, 3), open_files(host)), (0, before));
    keep.says(1, "not kept");
    keep.ends(83);
}

/// Where keep can't look at its rooms, it does not take them for empty.
#[test]
fn out_of_files_it_says_so_once_and_those_who_wait_wait_on() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let keep = Keep::on(host, "");
    let allow = |files: usize| {
        let set = format!("prlimit --pid $(pgrep -x syngate) --nofile={files}:");
        host.must(["sh", "-c", &set]);
    };
    drop(server);
    looks(host); // The gap has begun.
    allow(open_files(host));
    let waits = waiting_client(host);
    keep.says(
        1,
        "the waiting rooms can't be reached: the limit of open files, ",
    );
    let _server = shared().start(host).unwrap();
    looks(host);
    keep.says(1, "the waiting rooms can't be reached: ");
    allow(1_024);
    all_served(&waits.finish().unwrap());
    keep.says(1, "nobody listened");
    keep.says(1, " 1 connection waited");
    keep.ends(1);
}

#[test]
fn a_hard_limit_of_files_that_is_too_low_is_told_before_anything() {
    let host = &Host::new().unwrap();
    let keep = format!("ulimit -n 512; exec timeout 60 {SYNGATE} keep --port 80");
    let ran = host.sh(&keep).unwrap();
    assert_eq!(ran.code(), 125, "{ran:?}");
    let needs = "--max-addresses 128: needs 640 open files, and the hard limit is 512 (ulimit -Hn, LimitNOFILE=)";
    assert!(ran.stderr.contains(needs), "{ran:?}");
    let ran = syngate(host, "keep --port 80 --max-addresses 1025");
    assert_eq!(ran.code(), 125, "{ran:?}");
    let right = "--max-addresses: '1025': expected a number from 1 to 1024";
    assert!(ran.stderr.contains(right), "{ran:?}");
}

/// A user who listens on another address of the port while nobody of the service does is not the service, which has
/// come back elsewhere.
#[test]
fn another_user_s_listener_ends_no_wait() {
    let host = &Host::new().unwrap();
    let on = Serve::on("127.0.0.1:80").reuseport();
    let server = on.start(host).unwrap();
    let keep = Keep::on(host, "");
    drop(server);
    let waits = waiting_client(host);
    let _another = service(host, 1_001, 1, 3);
    std::thread::sleep(Duration::from_secs(1)); // beyond the time after which a move is one
    let _server = on.start(host).unwrap();
    all_served(&waits.finish().unwrap());
    keep.says(1, " 1 connection waited");
    keep.ends(4);
}

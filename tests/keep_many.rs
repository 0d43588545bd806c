//! `syngate keep` on a host with many listeners.

mod harness;

use harness::keep::Keep;
use harness::{SOON, words};
use testkit::{Host, Running, wait_until};

/// Python: listens on port 80 of so many addresses.
const LISTEN: &str = "
import socket, sys, time
made = [socket.socket() for _ in range(int(sys.argv[1]))]
for n, listener in enumerate(made):
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((f'127.0.{n // 250}.{n % 250 + 1}', 80))
    listener.listen()
time.sleep(1000)
";

/// A service on so many addresses.
fn service(host: &Host, addresses: usize) -> Running {
    let mut python = host.command("python3");
    let server = host.spawn(python.args(["-c", LISTEN, &addresses.to_string()]));
    let listen = || on_different_addresses(host) >= addresses;
    wait_until(SOON, "all listeners", listen).unwrap();
    server.unwrap()
}

fn on_different_addresses(host: &Host) -> usize {
    let count = "ss -Hltn sport = :80 | awk '{print $4}' | sort -u | wc -l";
    host.must(["sh", "-c", count]).trim().parse().unwrap()
}

/// On how many addresses there is a listener beside the service's.
fn kept(host: &Host) -> usize {
    let count = "ss -Hltn sport = :80 | awk '{print $4}' | sort | uniq -d | wc -l";
    host.must(["sh", "-c", count]).trim().parse().unwrap()
}

/// Each address costs one system call at a look, while nobody waits: eight looks in a second.
#[test]
fn an_idle_keep_makes_few_system_calls() {
    const ADDRESSES: usize = 50;
    let host = &Host::new().unwrap();
    let _service = service(host, ADDRESSES);
    let keep = Keep::on(host, "");
    assert_eq!(kept(host), ADDRESSES);
    let file = host.dir().join("calls").display().to_string();
    let pid = host.must(words("pgrep -x syngate"));
    let count = format!("timeout 2 strace -c -o {file} -p {}", pid.trim());
    let counted = host.sh(&count).unwrap();
    let table = std::fs::read_to_string(&file).unwrap();
    let total = table.lines().last().unwrap_or_default();
    // % time, seconds, usecs/call, calls
    let calls = total.split_whitespace().nth(3);
    let calls = calls.and_then(|calls| calls.parse().ok());
    let calls: usize = calls.unwrap_or_else(|| panic!("{counted:?}: {table}"));
    assert!(calls > 100, "{table}");
    assert!(calls < 2 * 8 * (2 * ADDRESSES + 60), "{table}");
    keep.ends(ADDRESSES);
}

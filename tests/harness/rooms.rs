//! Waiting rooms, as tests see them from outside.

use std::sync::OnceLock;
use std::time::Duration;

use testkit::{Host, Load, LoadReport, Pair, RunningLoad, SERVER, slow, wait_until};

use super::{Outcome, SOON, words};

/// The name of the process that guards them.
pub(crate) const GUARD: &str = "gate-room";

/// Python: SO_REUSEPORT of the sockets that a process listens on, by copies of them.
pub(crate) const SHARES_PORT: &str = "
import ctypes, os, socket, sys
libc, pid = ctypes.CDLL(None), int(sys.argv[1])
pidfd = os.pidfd_open(pid)
for fd in os.listdir(f'/proc/{pid}/fd'):
    if os.readlink(f'/proc/{pid}/fd/{fd}').startswith('socket:'):
        copy = socket.socket(fileno=libc.syscall(438, pidfd, int(fd), 0))
        if copy.family != socket.AF_UNIX and copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            print(copy.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
";

/// Python: the programs that choose among the listeners of any process, each told by its listener. To ask is to
/// detach them (SO_DETACH_REUSEPORT_BPF, linux/asm-generic/socket.h).
const PROGRAMS: &str = "
import ctypes, glob, os, socket
libc = ctypes.CDLL(None)
for path in glob.glob('/proc/[0-9]*/fd/*'):
    try:
        if not os.readlink(path).startswith('socket:'):
            continue
        _, _, pid, _, fd = path.split('/')
        copy = socket.socket(fileno=libc.syscall(438, os.pidfd_open(int(pid)), int(fd), 0))
        if copy.family != socket.AF_UNIX and copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            copy.setsockopt(socket.SOL_SOCKET, 68, 0)
            print('a program at', copy.getsockname())
    except (OSError, ValueError): # it is closed meanwhile
        pass
";

/// Python: one client after the other connects and asks, then all read their answers. Tells in which order they
/// came.
pub(crate) const ONE_BY_ONE: &str = "
import resource, socket, sys
count, came, got = int(sys.argv[1]), sys.argv[2], sys.argv[3]
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, count + 100))
all = []
for n in range(count):
    client = socket.create_connection((sys.argv[4], 80))
    client.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
    all.append(client)
open(came, 'w').write(''.join('%s:%d\\n' % client.getsockname() for client in all))
served = sum(client.recv(12) == b'HTTP/1.1 200' for client in all)
open(got, 'w').write(str(served))
";

/// Whether a program of the service's user that sets SO_REUSEPORT can be bound beside the service, which does not.
pub(crate) fn another_can_share(host: &Host) -> bool {
    const BIND: &str = "import socket
made = socket.socket(); made.setsockopt(1, 2, 1); made.setsockopt(1, 15, 1)
try: made.bind(('0.0.0.0', 80)); print('bound')
except OSError: pass";
    host.must(["python3", "-c", BIND]) == "bound\n"
}

/// Before a command line: it does not see the mount of the control groups.
pub(crate) const GROUPS_HIDDEN: [&str; 6] = [
    "unshare",
    "-m",
    "sh",
    "-c",
    "umount -l /sys/fs/cgroup; exec \"$@\"",
    "sh",
];

/// What this kernel does when a listener of a SO_REUSEPORT group closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    MovesConnections,
    /// It moves them, but a service that sleeps is not woken: CVE-2026-46015.
    WakesNobody,
    /// Before 5.14; Debian's 5.10 has the setting and moves nothing all the same.
    ResetsThem,
}

impl Kernel {
    /// Tried without syngate.
    pub(crate) fn here() -> Kernel {
        static HERE: OnceLock<Kernel> = OnceLock::new();
        *HERE.get_or_init(|| {
            let host = Host::new().unwrap();
            let script = include_str!("moves.py");
            match host.must(["python3", "-c", script]).trim() {
                "moves it" => Kernel::MovesConnections,
                "wakes nobody" => Kernel::WakesNobody,
                "does not move it" => Kernel::ResetsThem,
                other => panic!("{other}"),
            }
        })
    }
}

/// Its client would have sent it again.
#[track_caller]
pub(crate) fn no_syn_was_lost(client: &Host) {
    assert_eq!(client.tcp_counter("TCPSynRetrans").unwrap(), 0);
}

#[track_caller]
pub(crate) fn all_served(report: &LoadReport) {
    assert_eq!(report.failed(), 0, "{report}: {:?}", report.failures);
}

const LONG: Duration = Duration::from_secs(60);

/// New connections to port 80 of the server, until the test stops them.
pub(crate) fn load(pair: &Pair, rate: u32) -> RunningLoad {
    let load = Load::to(format!("{SERVER}:80")).rate(rate / slow());
    let load = load.timeout(LONG).duration(LONG);
    let mut load = load.start(&pair.client).unwrap();
    load.wait_flowing().unwrap();
    load
}

/// SO_REUSEPORT of all that listen on port 80, each value once.
pub(crate) fn shares_port(host: &Host) -> String {
    let ask = "for pid in $(ss -Hltnp sport = :80 | grep -o 'pid=[0-9]*' | cut -c 5- | sort -u); do \
               python3 -c \"$0\" $pid; done | sort -u";
    let shares = host.must(["sh", "-c", ask, SHARES_PORT]);
    shares.trim().to_owned()
}

/// What the report says of the action's connections.
pub(crate) fn figure(outcome: &Outcome, action: &str, name: &str) -> u64 {
    let row = &outcome.report[action];
    row[name].as_u64().unwrap_or_else(|| panic!("{outcome:?}"))
}

/// The listeners of port 80, as ss(8) shows them.
pub(crate) fn listeners(host: &Host) -> Vec<String> {
    listeners_on(host, 80)
}

pub(crate) fn listeners_on(host: &Host, port: u16) -> Vec<String> {
    let shown = host.must(words(&format!("ss -Hltn sport = :{port}")));
    shown.lines().map(str::to_owned).collect()
}

/// How many connections wait to be accepted on port 80.
pub(crate) fn queued(host: &Host) -> u64 {
    let all = listeners(host);
    let queues = all
        .iter()
        .filter_map(|line| words(line)[1].parse::<u64>().ok());
    queues.sum()
}

/// Waits until so many connections are parked; false if the gate has opened before.
#[track_caller]
pub(crate) fn are_parked(host: &Host, count: u64) -> bool {
    let guarded = || host.sh("pgrep -x gate-room").unwrap().ok();
    let over = || queued(host) >= count || !guarded();
    wait_until(SOON * 3, "parked connections", over).unwrap();
    queued(host) >= count
}

/// Tries with a --max-closed that is longer each time, as what has to be done before it may take long.
#[track_caller]
pub(crate) fn with_a_deadline(done_before: impl FnMut(&str) -> bool) {
    let deadlines = [2, 8, 32].map(|seconds| format!("--max-closed {}s", seconds * slow()));
    let done = deadlines
        .iter()
        .map(|deadline| &**deadline)
        .any(done_before);
    assert!(done, "each time the gate had opened before");
}

/// Only the service listens, so many times, and no process of a run is there; a guard may take its time.
#[track_caller]
pub(crate) fn nothing_is_left(host: &Host, services: usize) {
    at_most_a_program_is_left(host, services);
    assert_eq!(programs(host), "");
}

/// After a kill of the run and its guard the program of the group may stay where it is.
#[track_caller]
pub(crate) fn at_most_a_program_is_left(host: &Host, services: usize) {
    let there = listeners(host);
    assert_eq!(there.len(), services, "{there:?}");
    let ours = |name: &str| name == GUARD || name.starts_with("syngate");
    let none = || !host.must(words("ps -eo comm")).lines().any(ours);
    wait_until(SOON, "the end of all processes of a run", none).unwrap();
    assert_eq!(notes(host), "");
}

/// The programs that choose among listeners, which are detached by that.
pub(crate) fn programs(host: &Host) -> String {
    host.must(["python3", "-c", PROGRAMS])
}

/// The files in which runs note what they would leave, and the control groups of their COMMANDs.
pub(crate) fn notes(host: &Host) -> String {
    let find = "cd /run/syngate 2>/dev/null && ls | grep rooms- \
                | while read note; do echo $note; find /sys/fs/cgroup -name \"syngate_${note##*-}*\"; done";
    host.sh(find).unwrap().stdout
}

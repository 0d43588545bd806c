//! Waiting rooms, as tests see them from outside.

use testkit::{Host, LoadReport, wait_until};

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

/// Before a command line: it does not see the mount of the control groups.
pub(crate) const GROUPS_HIDDEN: [&str; 6] = [
    "unshare",
    "-m",
    "sh",
    "-c",
    "umount -l /sys/fs/cgroup; exec \"$@\"",
    "sh",
];

#[track_caller]
pub(crate) fn all_served(report: &LoadReport) {
    assert_eq!(report.failed(), 0, "{report}: {:?}", report.failures);
}

/// What the report says of the action's connections.
pub(crate) fn figure(outcome: &Outcome, action: &str, name: &str) -> u64 {
    let row = &outcome.report[action];
    row[name].as_u64().unwrap_or_else(|| panic!("{outcome:?}"))
}

/// The listeners of port 80, as ss(8) shows them.
pub(crate) fn listeners(host: &Host) -> Vec<String> {
    let shown = host.must(words("ss -Hltn sport = :80"));
    shown.lines().map(str::to_owned).collect()
}

/// Only the service listens, so many times, and no process of a run is there; a guard may take its time.
#[track_caller]
pub(crate) fn nothing_is_left(host: &Host, services: usize) {
    let there = listeners(host);
    assert_eq!(there.len(), services, "{there:?}");
    let ours = |name: &str| name == GUARD || name.starts_with("syngate");
    let none = || !host.must(words("ps -eo comm")).lines().any(ours);
    wait_until(SOON, "the end of all processes of a run", none).unwrap();
    assert_eq!(notes(host), "");
}

/// The files in which runs note what they would leave, and the control groups of their COMMANDs.
pub(crate) fn notes(host: &Host) -> String {
    let find = "cd /run/syngate 2>/dev/null && ls | grep rooms- \
                | while read note; do echo $note; find /sys/fs/cgroup -name \"syngate_${note##*-}*\"; done";
    host.sh(find).unwrap().stdout
}

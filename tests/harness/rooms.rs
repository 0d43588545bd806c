//! Services that do not set SO_REUSEPORT, and where they can be given it.

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

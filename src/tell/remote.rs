//! Files on a server, by way of the network or of another process. The server may be gone, and a write then
//! waits for it.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

/// The types of such file systems, or their beginnings (`nfs4`, `fuse.sshfs`).
const SERVED: [&str; 13] = [
    "nfs", "cifs", "smb", "fuse", "9p", "virtiofs", "afs", "ceph", "gfs2", "ocfs2", "lustre",
    "gpfs", "coda",
];

/// Whether a stream is a file there. `false` also if /proc does not tell. Asks no server.
pub(super) fn is_file(stream: &impl AsFd) -> bool {
    let fd = stream.as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"));
    let mounts = fs::read_to_string("/proc/self/mountinfo");
    let (Ok(info), Ok(mounts)) = (info, mounts) else {
        return false;
    };
    file_system(&info, &mounts).is_some_and(|kind| SERVED.iter().any(|s| kind.starts_with(s)))
}

/// The type of the file system (proc(5)). A pipe or a socket is in none that is mounted.
fn file_system<'a>(info: &str, mounts: &'a str) -> Option<&'a str> {
    let id = info
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))?
        .trim();
    let mount = mounts
        .lines()
        .find(|line| line.split(' ').next() == Some(id))?;
    mount.split(" - ").nth(1)?.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_of_a_file() {
        let info = "pos:\t0\nflags:\t0100002\nmnt_id:\t36\nino:\t7\n";
        let mounts = "35 98 0:32 / /mnt rw - ext4 /dev/sda rw\n\
                      36 98 0:33 / /logs rw,noatime master:1 shared:2 - nfs4 host:/logs rw,errors=continue\n";
        assert_eq!(file_system(info, mounts), Some("nfs4"));
        assert_eq!(file_system("mnt_id:\t9", mounts), None);
        assert_eq!(file_system("", mounts), None);
    }

    #[test]
    fn a_file_of_this_host_does_not_hang() {
        assert!(!is_file(&fs::File::open("/dev/null").unwrap()));
        let (pipe, _) = nix::unistd::pipe().unwrap();
        assert!(!is_file(&pipe));
    }
}

//! Whether a run that can be known only by its pid may live, in any pid or mount namespace.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::kernel::sockets::holders::processes;

/// The inode of the first pid namespace, which sees all processes (linux/proc_ns.h,
/// PROC_PID_INIT_INO).
const FIRST_PID_NAMESPACE: u64 = 0xeffffffc;
/// The first process of a host is no run.
const INIT: i32 = 1;
/// Long enough to tell two boots from each other.
const BOOT_DIGITS: usize = 8;

/// The beginning of the kernel's random name for this boot (random(4)).
pub(crate) fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    id.get(..BOOT_DIGITS).map(str::to_owned)
}

/// Whether a run in this network namespace whose own pid namespace calls it `pid` may live: a run
/// holds a lock for as long as it lives. `None`: this process does not see all processes.
pub(crate) fn may_live(pid: u32) -> Option<bool> {
    if !sees_all()? {
        return None;
    }
    let here = fs::read_link("/proc/self/ns/net").ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let mut holders = locks.lines().filter_map(holder);
    Some(holders.any(|holder| {
        let process = Path::new("/proc").join(holder.to_string());
        // A process that has ended meanwhile has no status.
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let elsewhere = fs::read_link(process.join("ns/net")).is_ok_and(|net| net != here);
        own_pid(&status) == Some(pid) && !elsewhere
    }))
}

/// Whether this process sees all processes of the host. `None`: there is no telling.
fn sees_all() -> Option<bool> {
    let of_host = fs::metadata("/proc/self/ns/pid").ok()?.ino() == FIRST_PID_NAMESPACE;
    // /proc may be another pid namespace's.
    let itself = fs::read_link("/proc/self").ok()?;
    Some(of_host && itself.to_str() == Some(&std::process::id().to_string()))
}

/// Some process, init aside, in the network namespace with this inode; the inner `None`: there is none. The outer
/// one: this process does not see all processes and their namespaces.
pub(crate) fn somebody_in(netns: u64) -> Option<Option<i32>> {
    if !sees_all()? {
        return None;
    }
    let wanted = PathBuf::from(format!("net:[{netns}]"));
    for pid in processes().filter(|pid| *pid != INIT) {
        match fs::read_link(format!("/proc/{pid}/ns/net")) {
            Ok(found) if found == wanted => return Some(Some(pid)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
            // The process has ended, perhaps just now.
            _ => (),
        }
    }
    Some(None)
}

/// The pid of a process that holds a POSIX lock: `1: POSIX ADVISORY WRITE 4711 00:1a:25 80 80`.
fn holder(line: &str) -> Option<u32> {
    let mut fields = line.split_whitespace().skip(1);
    let posix = fields.next() == Some("POSIX");
    fields.nth(2).filter(|_| posix)?.parse().ok()
}

/// What a process is called in its own pid namespace, the last of those that list it (proc(5)).
fn own_pid(status: &str) -> Option<u32> {
    let pids = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    pids.split_whitespace().next_back()?.parse().ok()
}

/// What holds for any text as the kernel's list of locks, or a process's status.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    let _ = text.lines().filter_map(holder).count();
    let _ = own_pid(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_and_processes_as_the_kernel_lists_them() {
        let line = "1: POSIX  ADVISORY  WRITE 4711 00:1a:25 80 80";
        assert_eq!(holder(line), Some(4_711));
        assert_eq!(
            holder("2: FLOCK  ADVISORY  WRITE 4711 00:1a:25 0 EOF"),
            None
        );
        assert_eq!(
            holder("1: -> POSIX  ADVISORY  WRITE 4712 00:1a:25 80 80"),
            None
        );
        assert_eq!(own_pid("Name:\tsyngate\nNSpid:\t4711\t12\t3\n"), Some(3));
        assert_eq!(own_pid("Name:\tsyngate\n"), None);
    }

    #[test]
    fn a_process_that_holds_a_lock_lives() {
        use nix::fcntl::{FcntlArg, fcntl};
        use nix::libc;

        let path = std::env::temp_dir().join(format!("syngate-lives-{}", std::process::id()));
        let file = fs::File::create(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let lock = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: 80,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_SETLK(&lock)).unwrap();
        // In another pid namespace than the first nobody can tell.
        assert_ne!(may_live(std::process::id()), Some(false));
        assert_ne!(may_live(u32::MAX), Some(true));
    }

    #[test]
    fn a_boot_has_a_name() {
        let boot = boot().unwrap();
        assert_eq!(boot.len(), BOOT_DIGITS);
        assert!(boot.bytes().all(|b| b.is_ascii_hexdigit()), "{boot}");
    }
}

//! The rooms of others. To the kernel they are listeners of the service; the guard processes that hold them
//! tell which.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use nix::unistd::geteuid;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::orders::{File, NAME, Orders};
use crate::kernel::process_status::{status_of, value};
use crate::kernel::sockets::Listener;
use crate::kernel::sockets::holders::processes;

/// A process that guards the rooms of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RoomGuard {
    pub pid: i32,
    pub orders: Orders,
}

impl RoomGuard {
    /// The guard with this pid, if it is one. Only processes of root and of this user are believed: any other could
    /// make a run overlook a service.
    pub(crate) fn at(pid: i32) -> Option<RoomGuard> {
        let of = |file: &str| format!("/proc/{pid}/{file}");
        let name = fs::read(of("comm")).ok()?;
        if name.trim_ascii_end() != NAME.as_bytes() {
            return None;
        }
        if !is_trusted(pid) {
            return None;
        }
        let line = fs::read_to_string(of("cmdline")).ok()?;
        let words: Vec<&str> = line.strip_suffix('\0')?.split('\0').skip(1).collect();
        let orders = Orders::parse(&words)?;
        Some(RoomGuard { pid, orders })
    }

    /// Copies of the files that it has (pidfd_getfd(2)).
    ///
    /// # Errors
    /// It has ended, or this process may not copy from it (CAP_SYS_PTRACE).
    pub(crate) fn files(&self) -> Result<Vec<(File, OwnedFd)>> {
        let process = Pid::from_raw(self.pid).context("no such process")?;
        let pidfd = pidfd_open(process, PidfdFlags::empty())?;
        ensure!(
            RoomGuard::at(self.pid).as_ref() == Some(self),
            "it has ended"
        );
        let copy = |(kind, file): &(File, RawFd)| {
            Ok((*kind, pidfd_getfd(&pidfd, *file, PidfdGetfdFlags::empty())?))
        };
        self.orders.files.iter().map(copy).collect()
    }

    /// Whether its run gates ports of this process's network namespace. `None`: that can't be seen.
    pub(crate) fn is_here(&self) -> Option<bool> {
        let netns = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
        Some(netns(&self.pid.to_string())? == netns("self")?)
    }
}

/// Whether root or this user has started the process. Another user who calls a set-user-ID program chooses its name and
/// its arguments. That user stays its real user, unless the program changes this itself. So the program's file counts, too.
fn is_trusted(pid: i32) -> bool {
    let status = status_of(pid);
    let Some(users) = value(&status, "Uid:") else {
        return false;
    };
    // Real, effective, saved, and that of the file system (proc(5)).
    let are = |user: u32| users.split_whitespace().all(|u| u.parse() == Ok(user));
    // Who may not see the program is not root.
    let program = fs::metadata(format!("/proc/{pid}/exe"));
    let is_set_id = program.is_ok_and(|program| program.mode() & 0o6000 != 0);
    (are(0) || are(geteuid().as_raw())) && !is_set_id
}

/// The guards on this host, as far as /proc shows processes.
pub(crate) fn guards() -> Vec<RoomGuard> {
    processes().filter_map(RoomGuard::at).collect()
}

/// Which listeners are rooms of others.
#[derive(Debug, Default)]
pub(crate) struct Others {
    rooms: Option<BTreeSet<u64>>,
}

impl Others {
    /// Removes the rooms, and returns whether there were any. Looks for guards the first time. A room is opened
    /// when its guard has it.
    pub(crate) fn hide(&mut self, listeners: &mut Vec<Listener>) -> bool {
        let look = || guards().into_iter().flat_map(|guard| guard.orders.rooms);
        let rooms = self.rooms.get_or_insert_with(|| look().collect());
        let before = listeners.len();
        listeners.retain(|listener| !rooms.contains(&listener.id.cookie));
        listeners.len() < before
    }

    /// Has the next call of [`Others::hide`] look for guards again, which reads a file of each process.
    pub(crate) fn forget(&mut self) {
        self.rooms = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_guards_nothing() {
        let me = std::process::id() as i32;
        assert_eq!(RoomGuard::at(me), None);
        assert_eq!(RoomGuard::at(0), None);
    }
}

//! The rooms of others. To the kernel they are listeners of the service; the guard processes that hold them
//! tell which.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::unistd::geteuid;

use super::orders::{NAME, Orders};
use crate::kernel::sockets::Listener;
use crate::kernel::sockets::holders::processes;

/// A process that guards the rooms of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RoomGuard {
    pub pid: i32,
    pub orders: Orders,
}

impl RoomGuard {
    /// The guard with this pid, if it is one. Only root's and this user's processes are believed: any other
    /// could make a run overlook a service.
    pub(crate) fn at(pid: i32) -> Option<RoomGuard> {
        let of = |file: &str| format!("/proc/{pid}/{file}");
        let name = fs::read(of("comm")).ok()?;
        if name.trim_ascii_end() != NAME.as_bytes() {
            return None;
        }
        let owner = fs::metadata(of("")).ok()?.uid();
        if owner != 0 && owner != geteuid().as_raw() {
            return None;
        }
        let line = fs::read_to_string(of("cmdline")).ok()?;
        let words: Vec<&str> = line.strip_suffix('\0')?.split('\0').skip(1).collect();
        let orders = Orders::parse(&words)?;
        Some(RoomGuard { pid, orders })
    }

    /// Whether its run gates ports of this process's network namespace. `None`: that can't be seen.
    pub(crate) fn is_here(&self) -> Option<bool> {
        let netns = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
        Some(netns(&self.pid.to_string())? == netns("self")?)
    }
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
        let me = std::process::id().cast_signed();
        assert_eq!(RoomGuard::at(me), None);
        assert_eq!(RoomGuard::at(0), None);
    }
}

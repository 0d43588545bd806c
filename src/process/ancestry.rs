//! What /proc tells of where a process comes from.

use std::str::FromStr;

use crate::kernel::process_status::{status_of, value};

/// Deeper trees are taken for a loop: /proc is not read atomically.
const DEEPEST: usize = 64;

/// Whether `pid` is `ancestor`, or was started by it or by one of its descendants that still live.
pub(crate) fn descends_from(pid: i32, ancestor: i32) -> bool {
    line(pid).any(|pid| pid == ancestor)
}

/// The process, what has started it, and so on.
pub(crate) fn line(pid: i32) -> impl Iterator<Item = i32> {
    std::iter::successors(Some(pid), |pid| parent(*pid)).take(DEEPEST)
}

/// `None`: it has none in this pid namespace, or has ended.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    let parent: i32 = first_of(pid, "PPid:")?;
    (parent > 0).then_some(parent)
}

/// The user who has started it (the real uid).
pub(crate) fn user(pid: i32) -> Option<u32> {
    first_of(pid, "Uid:")
}

/// Whether a signal has stopped it (SIGSTOP, Ctrl-Z).
pub(crate) fn is_stopped(pid: i32) -> bool {
    first_of(pid, "State:") == Some('T')
}

/// The first value of that line of its status.
fn first_of<T: FromStr>(pid: i32, key: &str) -> Option<T> {
    value(&status_of(pid), key)?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{WaitPidFlag, waitpid};

    use super::*;

    #[test]
    fn the_line_of_a_process() {
        let own = std::process::id() as i32;
        let mut child = std::process::Command::new("sleep")
            .arg("5")
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        assert!(descends_from(pid, own) && descends_from(own, own));
        assert!(!descends_from(own, pid));
        assert_eq!(user(pid), Some(nix::unistd::getuid().as_raw()));
        assert!(!is_stopped(pid));
        let of_child = nix::unistd::Pid::from_raw(pid);
        kill(of_child, Signal::SIGSTOP).unwrap();
        waitpid(of_child, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(is_stopped(pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

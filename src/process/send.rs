//! Signals to processes that are no children of this one. Such a process may end at any time, and its pid
//! may then be another's.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::kernel::sys;

/// Sends a signal to the process with this pid, if it `is_meant`. That check comes after the pidfd is open, so that
/// the kernel can't have given the pid to another process since.
///
/// # Errors
/// The errors of kill(2). ESRCH: the process has ended, and the pid may be another's.
pub(crate) fn send(signal: Signal, pid: i32, is_meant: impl FnOnce() -> bool) -> Result<(), Errno> {
    let pid = Pid::from_raw(pid);
    let held = match sys::pidfd(pid) {
        // Before Linux 5.3, or where a container may not: the moment after the look is left.
        Err(Errno::ENOSYS | Errno::EPERM) => None,
        held => Some(held?),
    };
    if !is_meant() {
        return Err(Errno::ESRCH);
    }
    match held {
        Some(held) => sys::signal_by(std::os::fd::AsFd::as_fd(&held), signal),
        None => kill(pid, signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn sleeper() -> (Child, i32) {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        (child, pid)
    }

    #[test]
    fn another_process_with_that_pid_gets_nothing() {
        let (mut child, pid) = sleeper();
        assert_eq!(send(Signal::SIGKILL, pid, || false), Err(Errno::ESRCH));
        assert_eq!(child.try_wait().unwrap(), None, "it lives");
        assert_eq!(send(Signal::SIGKILL, pid, || true), Ok(()));
        child.wait().unwrap();
        assert_eq!(send(Signal::SIGKILL, pid, || true), Err(Errno::ESRCH));
    }

    /// The one that was there when the look began has ended during the look.
    #[test]
    fn one_that_ends_during_the_look_is_not_taken_for_another() {
        let (mut child, pid) = sleeper();
        let ends = || {
            child.kill().unwrap();
            child.wait().unwrap();
            true
        };
        assert_eq!(send(Signal::SIGKILL, pid, ends), Err(Errno::ESRCH));
    }
}

//! Who stands still, and goes on.

use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

/// What stands still, and what lets it go on.
pub enum Still {
    /// Traced, and not told to go on.
    Stopped(Pid),
    /// Not traced any more.
    Hanging(Pid),
}

impl Still {
    pub fn go_on(self) {
        match self {
            Still::Stopped(pid) => go_on(pid, None),
            Still::Hanging(pid) => {
                let _ = kill(pid, Signal::SIGCONT);
            }
        }
    }
}

/// To its next system call.
pub fn go_on(pid: Pid, signal: Option<Signal>) {
    // It may have been killed.
    let _ = ptrace::syscall(pid, passed_on(signal));
}

pub fn passed_on(signal: Option<Signal>) -> Option<Signal> {
    signal.filter(|signal| *signal != Signal::SIGTRAP)
}

//! How a process ended, and who sent a signal.

use nix::sys::signal::Signal;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandExit {
    /// It exited with this status.
    Code(u8),
    /// A signal of this number ended it.
    Signal(i32),
}

/// Who sent a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The terminal, and COMMAND, in the same process group, has received it as well.
    Terminal,
    /// The terminal, and COMMAND has not received it.
    TerminalToUs,
    /// A process.
    Process,
}

/// `status 1`, or the signal that ended it.
pub fn exit_words(exit: CommandExit) -> String {
    match exit {
        CommandExit::Code(status) => format!("status {status}"),
        CommandExit::Signal(signal) => signal_name(signal),
    }
}

/// `SIGTERM`.
pub fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |s| s.to_string())
}

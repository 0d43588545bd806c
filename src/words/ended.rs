//! The end of a process, and the sender of a signal.

use nix::sys::signal::Signal;

/// The end of COMMAND, or of another process of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandExit {
    /// The exit status.
    Code(u8),
    /// The number of the signal that ended it.
    Signal(i32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// The terminal. COMMAND is in the same process group and has received the signal as well.
    Terminal,
    /// The terminal. COMMAND has not received the signal.
    TerminalToUs,
    Process,
}

/// `status 1` or `SIGTERM`.
pub(crate) fn exit_words(exit: CommandExit) -> String {
    match exit {
        CommandExit::Code(status) => format!("status {status}"),
        CommandExit::Signal(signal) => signal_name(signal),
    }
}

pub(crate) fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |s| s.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_the_words_of_a_shell() {
        assert_eq!(exit_words(CommandExit::Code(3)), "status 3");
        assert_eq!(exit_words(CommandExit::Signal(15)), "SIGTERM");
        assert_eq!(exit_words(CommandExit::Signal(64)), "signal 64");
    }
}

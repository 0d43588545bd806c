//! The end of a run: its outcome, and the words for it.

use nix::libc;
use serde::Serialize;

use crate::words::ended::{Sender, signal_name};
use crate::words::exit::{Exit, NOT_KEPT, NOT_RUN};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// COMMAND exited with 0, and the service listens.
    Ok,
    CommandFailed,
    CommandSignalled,
    NotRun,
    /// COMMAND exited with 0, but the service does not listen.
    NotReady,
    /// `--max-closed` was reached.
    Deadline,
    /// The gate did not open properly.
    OpenFailed,
    /// COMMAND exited with 0, but the action did not do what it is for.
    ActionFailed,
    Interrupted,
}

/// An action did not do what it is for: it lost clients, for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The word in the JSON report.
    pub(crate) reason: &'static str,
    pub(crate) why: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) outcome: Outcome,
    /// The word in the JSON report.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) exit: Exit,
}

impl Ending {
    /// COMMAND was not run, and no gate is left.
    pub(crate) fn not_run(reason: &'static str, message: impl Into<String>) -> Ending {
        Ending::not_run_with(NOT_RUN, reason, message)
    }

    pub(crate) fn not_run_with(
        status: u8,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Ending {
        Ending {
            outcome: Outcome::NotRun,
            reason,
            message: message.into(),
            exit: Exit::Status(status),
        }
    }

    /// A check before the gate has failed.
    pub(crate) fn not_gated(reason: &'static str, why: &str) -> Ending {
        let message = format!("{why}: the gate was not closed, and COMMAND was not run");
        Ending::not_run(reason, message)
    }

    /// The kernel does not list its sockets.
    pub(crate) fn unseen(error: anyhow::Error) -> Ending {
        Ending::not_run("sockets", format!("{error:#}"))
    }

    /// The end of a run that has panicked.
    pub(crate) fn bug(command_was_run: bool) -> Ending {
        let message = "this is a bug in syngate: it panicked, which opened the gate";
        if !command_was_run {
            return Ending::not_run("bug", format!("{message}; COMMAND was not run"));
        }
        Ending {
            outcome: Outcome::OpenFailed,
            reason: "bug",
            message: format!("{message}; COMMAND was not stopped"),
            exit: Exit::Status(NOT_KEPT),
        }
    }

    pub(crate) fn interrupted_before(signal: i32, sender: Sender) -> Ending {
        Ending {
            outcome: Outcome::Interrupted,
            reason: "before_command",
            message: format!("{}: COMMAND was not run", signal_name(signal)),
            exit: interrupt_exit(signal, sender),
        }
    }
}

/// A Ctrl-C from the terminal ends syngate by SIGINT, as it would have ended COMMAND.
pub(crate) fn interrupt_exit(signal: i32, sender: Sender) -> Exit {
    if signal == libc::SIGINT && sender != Sender::Process {
        Exit::Interrupt
    } else {
        Exit::signalled(signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_is_told_with_what_became_of_command() {
        let (before, after) = (Ending::bug(false), Ending::bug(true));
        assert_eq!((before.outcome, before.reason), (Outcome::NotRun, "bug"));
        assert!(before.message.ends_with("COMMAND was not run"));
        assert_eq!((after.outcome, after.reason), (Outcome::OpenFailed, "bug"));
        assert_eq!(after.exit, Exit::Status(NOT_KEPT));
    }

    #[test]
    fn a_signal_ends_the_run_as_it_would_have_ended_command() {
        let interrupt = |sender| interrupt_exit(libc::SIGINT, sender);
        assert_eq!(interrupt(Sender::Terminal), Exit::Interrupt);
        assert_eq!(interrupt(Sender::TerminalToUs), Exit::Interrupt);
        assert_eq!(interrupt(Sender::Process), Exit::Status(130));
        let other = interrupt_exit(libc::SIGTERM, Sender::Terminal);
        assert_eq!(other, Exit::Status(143));
    }
}

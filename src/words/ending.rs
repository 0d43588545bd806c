//! How a run ended.

use nix::libc;
use serde::Serialize;

use crate::words::ended::{Sender, signal_name};
use crate::words::exit::{Exit, NOT_KEPT, NOT_RUN};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// COMMAND exited with 0, and the service listens.
    Ok,
    /// COMMAND exited with another status.
    CommandFailed,
    /// A signal ended COMMAND.
    CommandSignalled,
    /// COMMAND was not run.
    NotRun,
    /// COMMAND exited with 0, and nobody listens.
    NotReady,
    /// `--max-closed` was hit.
    Deadline,
    /// The gate did not open as it should.
    OpenFailed,
    /// A signal ended the run.
    Interrupted,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// How.
    pub outcome: Outcome,
    /// A word for machines.
    pub reason: &'static str,
    /// The line for people.
    pub message: String,
    /// How syngate ends.
    pub exit: Exit,
}

impl Ending {
    /// COMMAND was not run, and no gate is left.
    pub fn not_run(reason: &'static str, message: impl Into<String>) -> Ending {
        Ending::not_run_with(NOT_RUN, reason, message)
    }

    /// The same, with a status of its own.
    pub fn not_run_with(status: u8, reason: &'static str, message: impl Into<String>) -> Ending {
        Ending {
            outcome: Outcome::NotRun,
            reason,
            message: message.into(),
            exit: Exit::Status(status),
        }
    }

    /// What had to be so before anything is changed is not.
    pub(crate) fn not_gated(reason: &'static str, why: &str) -> Ending {
        let message = format!("{why}: nothing was gated, COMMAND was not run");
        Ending::not_run(reason, message)
    }

    /// The kernel does not list its sockets.
    pub(crate) fn unseen(error: anyhow::Error) -> Ending {
        Ending::not_run("sockets", format!("{error:#}"))
    }

    /// A bug of ours.
    pub fn bug(command_was_run: bool) -> Ending {
        let message = "this is a bug in syngate: it panicked, which opened the gate";
        if !command_was_run {
            return Ending::not_run("bug", format!("{message}; COMMAND was not run"));
        }
        Ending {
            outcome: Outcome::OpenFailed,
            reason: "bug",
            message: format!("{message}; COMMAND was left alone"),
            exit: Exit::Status(NOT_KEPT),
        }
    }

    /// A signal came before COMMAND was run.
    pub fn interrupted_before(signal: i32, sender: Sender) -> Ending {
        Ending {
            outcome: Outcome::Interrupted,
            reason: "before_command",
            message: format!("{}: COMMAND was not run", signal_name(signal)),
            exit: interrupt_exit(signal, sender),
        }
    }
}

/// Ctrl-C from the terminal ends us as it would have ended COMMAND.
pub fn interrupt_exit(signal: i32, sender: Sender) -> Exit {
    if signal == libc::SIGINT && sender != Sender::Process {
        Exit::Interrupt
    } else {
        Exit::signalled(signal)
    }
}

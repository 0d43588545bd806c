//! What a run was asked to do.

use std::time::Duration;

use crate::decide::drain::DrainUntil;
use crate::words::gated::Gated;

/// `--open-on`: when a port whose service was replaced opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OpenOn {
    /// Once COMMAND has exited with status 0
    Exit,
    /// As soon as the new process listens, also while COMMAND runs
    Ready,
}

/// `--settle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settle {
    /// By what is seen: 0 for a replaced socket, and see the constants above.
    Auto,
    /// This long after the port was ready.
    Fixed(Duration),
}

/// What was asked for; constant during the run.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub gated: Gated,
    /// `--drain`.
    pub drain: Duration,
    /// `--drain-until`.
    pub drain_until: DrainUntil,
    /// `--settle`.
    pub settle: Settle,
    /// `--ready-timeout`.
    pub ready_timeout: Duration,
    /// `--open-on`.
    pub open_on: OpenOn,
    /// `--best-effort`.
    pub best_effort: bool,
    /// Whether there is a `--ready-check`.
    pub ready_check: bool,
    /// Whether there is a `--listen-netns-from`.
    pub search: bool,
}

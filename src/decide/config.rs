//! The settings of a run that the decisions depend on.

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
    /// Depends on what was replaced: 0 for a replaced socket, else the `SETTLE_*` constants of
    /// service.rs.
    Auto,
    /// Counted from the moment when the port was ready.
    Fixed(Duration),
}

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub gated: Gated,
    pub drain: Duration,
    pub drain_until: DrainUntil,
    pub drain_command: bool,
    pub settle: Settle,
    pub ready_timeout: Duration,
    pub open_on: OpenOn,
    pub best_effort: bool,
    pub ready_check: bool,
    pub search: bool,
}

//! What came of a run so far.

use std::time::{Duration, Instant};

use crate::decide::drain::Left;
use crate::decide::event::NotRun;
use crate::decide::policy::Abandoned;
use crate::words::ended::{CommandExit, Sender};
use crate::words::ports::PortSet;

/// What came of the run so far: read by the report.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// What was still under way when the drain's time was over.
    pub left: Left,
    /// The largest number of stale half-open connections seen.
    pub stale_half_open: u32,
    /// When the drain was over.
    pub drained_at: Option<Instant>,
    /// When COMMAND was started.
    pub started_at: Option<Instant>,
    /// When COMMAND ended, and how.
    pub exited: Option<(Instant, CommandExit)>,
    /// Why COMMAND was not run.
    pub not_run: Option<NotRun>,
    /// The signal that ended the run, and whether the terminal sent it.
    pub interrupted: Option<(i32, Sender)>,
    /// INT, TERM, HUP and QUIT as they came.
    pub signals: Vec<(i32, Sender)>,
    /// How often the gate was closed again because somebody had removed its rules.
    pub reclosed: u32,
    /// `--max-closed` was reached with the gate closed.
    pub deadline_hit: bool,
    /// USR1 opened the gate.
    pub opened_early: bool,
    /// The action gave the gate up, and it was opened.
    pub abandoned: Option<Abandoned>,
    /// COMMAND was run although the gate did not stand.
    pub ran_open: bool,
    /// Ports on which nobody listened at the end of `--ready-timeout`.
    pub not_ready: PortSet,
    /// Ports on which nothing changed, though several sockets (SO_REUSEPORT) were to be expected to.
    pub unchanged: PortSet,
    /// Whether anybody listened then could not be seen.
    pub unseen: bool,
    /// `--ready-check` had not succeeded at the end of `--ready-timeout`.
    pub unchecked: bool,
    /// How it ended last.
    pub check_exit: Option<CommandExit>,
    /// How long it took from its first run to its success.
    pub checked_in: Option<Duration>,
    /// Gated ports of which no listener was seen, neither before nor after.
    pub never_seen: PortSet,
    /// The signal that ended the run came when there was nothing left to do but to wait for them.
    pub linger_cut: bool,
}

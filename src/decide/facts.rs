//! The results of a run so far, as the report needs them.

use std::time::{Duration, Instant};

use crate::decide::drain::Left;
use crate::decide::event::NotRun;
use crate::decide::missing::Missing;
use crate::decide::policy::Abandoned;
use crate::decide::wishes::Wishes;
use crate::kernel::sockets::Listener;
use crate::words::ended::{CommandExit, Sender};
use crate::words::ports::PortSet;

#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// What the drain still waited for when its time was over.
    pub left: Left,
    /// The largest number seen of half-open connections that are too old to complete.
    pub stale_half_open: u32,
    pub drained_at: Option<Instant>,
    pub started_at: Option<Instant>,
    pub exited: Option<(Instant, CommandExit)>,
    pub not_run: Option<NotRun>,
    /// The signal that ended the run.
    pub interrupted: Option<(i32, Sender)>,
    /// INT, TERM, HUP and QUIT in order of arrival.
    pub signals: Wishes,
    /// How often the gate was closed again after somebody had removed its rules.
    pub reclosed: u32,
    /// `--max-closed` was reached with the gate closed.
    pub deadline_hit: bool,
    /// USR1 opened the gate.
    pub opened_early: bool,
    /// The action gave up the gate.
    pub abandoned: Option<Abandoned>,
    /// COMMAND ran although no gate stood (`--best-effort`).
    pub ran_open: bool,
    /// The services that did not listen at the end of `--ready-timeout`.
    pub missing: Missing,
    /// Ports with a SO_REUSEPORT group that was expected to change and did not.
    pub unchanged: PortSet,
    /// Ports with one inherited socket, of which nothing has changed, nor the processes that hold it.
    pub same: PortSet,
    /// Ports that were closed again, because COMMAND had returned before the restart, and when.
    pub late: Option<(PortSet, Instant)>,
    /// Ports that were open while a look found no listener of a service that had one.
    pub unserved: PortSet,
    /// Listeners whose address nobody had while their port was open, although their service listened.
    pub left_out: Vec<Listener>,
    /// The sockets could not be read at the end of `--ready-timeout`.
    pub unseen: bool,
    /// `--ready-check` had not succeeded at the end of `--ready-timeout`.
    pub unchecked: bool,
    /// The exit of the last `--ready-check`.
    pub check_exit: Option<CommandExit>,
    /// From the first start of `--ready-check` to its success.
    pub checked_in: Option<Duration>,
    /// Gated ports without a listener both before and after COMMAND.
    pub never_seen: PortSet,
    /// The signal that ended the run came during the linger, when all else was done.
    pub linger_cut: bool,
}

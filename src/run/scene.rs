//! What there is to be seen while a port is closed, besides what decisions depend on.

use crate::kernel::sockets::Sample;
use crate::kernel::sockets::diag::Sockets;
use crate::words::gated::Gated;
use crate::words::ports::PortSet;

/// What the run knows at one moment.
pub(super) struct View<'a> {
    pub(super) gated: &'a Gated,
    pub(super) shut: &'a PortSet,
    pub(super) before: &'a Sample,
    pub(super) command_runs: bool,
    /// Listeners are watched, so that a port can open by its new one.
    pub(super) watches: bool,
    /// Connections of `--ready-check` pass the gate, and look like those of others of this host.
    pub(super) check_passes: bool,
}

/// What there is to be seen.
pub(super) struct Scene<'a> {
    pub(super) view: &'a View<'a>,
    pub(super) sockets: &'a Sockets,
    /// The pid of COMMAND while it runs.
    pub(super) command: Option<i32>,
    /// The pid of `--ready-check` while it runs; not that of `--ready-url`.
    pub(super) check: Option<i32>,
}

//! The interface between a gate and the ways to put its rules into the kernel.

use std::time::Instant;

use anyhow::Result;

use crate::kernel::sockets::Connection;
use crate::words::lacking::Lacking;
use crate::words::ports::PortSet;
use crate::words::steer::Steer;

/// When the kernel opens the gate by itself.
pub(crate) type Deadline = Instant;

/// A remark for the user about how a backend has closed the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remark {
    /// Told with `-v`.
    Detail(String),
    /// The gate is not what the user asked for.
    Warning(String),
    /// The gate drops SYNs that it should hold.
    Drops(String),
}

impl Remark {
    pub(crate) fn text(&self) -> &str {
        match self {
            Remark::Detail(text) | Remark::Warning(text) | Remark::Drops(text) => text,
        }
    }
}

/// Counts of the connections that the rules have steered elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flows {
    pub all: u64,
    /// The connections that syngate waits for.
    pub left: usize,
    /// Of `left`, those whose clients have not closed their side.
    pub open: usize,
    /// Packets of these connections that were not SYNs.
    pub went_on: u64,
    /// SYNs that found the set of connections full.
    pub no_room: u64,
}

/// A way to keep new connections from the service: rules in the kernel, or what an action has instead of
/// them. The kernel, or a watchdog, removes these rules when the backend is dropped and when this process
/// ends, also when it is killed.
pub(crate) trait Backend {
    /// The name in the report.
    fn name(&self) -> &'static str;

    /// Puts the rules for these ports into the kernel in one atomic change. Called once.
    ///
    /// # Errors
    /// Nothing was changed.
    fn install(&mut self, ports: &PortSet, until: Deadline) -> Result<()>;

    /// Changes the gated ports in one atomic change; the empty set opens the gate. If somebody has
    /// removed the rules, the backend makes them again.
    ///
    /// # Errors
    /// Nothing was changed; but rules that somebody else has changed may be gone.
    fn set_ports(&mut self, ports: &PortSet, until: Deadline) -> Result<()>;

    /// When the kernel opens the gate, if that may be before the deadline that the backend was given.
    fn opens(&self) -> Option<Deadline> {
        None
    }

    /// The ports to which the kernel stops new SYNs now, read back from the kernel.
    ///
    /// # Errors
    /// The kernel's rules can't be read.
    fn shut(&mut self) -> Result<PortSet>;

    /// How many SYNs the rules have stopped so far.
    ///
    /// # Errors
    /// The count can't be read.
    fn syns_stopped(&mut self) -> Result<u64>;

    /// How many new connections the rules of `--leave` have counted and let through. Begins anew where somebody
    /// has removed the rules.
    ///
    /// # Errors
    /// The count can't be read.
    fn arrived(&mut self) -> Result<u64> {
        Ok(0)
    }

    /// Excepts these half-open connections from being steered elsewhere: their clients may send the
    /// SYN again.
    ///
    /// # Errors
    /// The rules may steer them elsewhere.
    fn spare(&mut self, _: &[Connection]) -> Result<()> {
        Ok(())
    }

    fn flows(&mut self) -> Result<Flows> {
        Ok(Flows::default())
    }

    /// Whether other programs can remove the rules. If so, the run must ask again and again whether
    /// they are [intact](Backend::intact).
    fn exposed(&self) -> bool;

    /// Whether the rules are there, as far as a cheap check tells.
    fn intact(&mut self) -> bool;

    /// Looks once more when the gate has just been opened. Returns a warning if others have changed its rules, or got
    /// round them, since the last check.
    fn found_late(&mut self) -> Option<String> {
        None
    }

    /// Whether [`Backend::remove`] removes hooks, a base chain's or those of connection tracking. When
    /// a hook goes, the kernel drops the packets in all queues of the network namespace
    /// (nf_queue_nf_hook_drop()).
    fn empties_queues(&self) -> bool;

    /// Puts another watchdog in the place of one that is lost. Returns a sentence about that, once it is
    /// there.
    ///
    /// # Errors
    /// There is none now. Told once for each that is lost.
    fn keep_watched(&mut self, _until: Deadline) -> Result<Option<String>> {
        Ok(None)
    }

    /// What follows if this process is killed while it has no watchdog.
    fn unwatched(&self, max_closed: &str) -> String {
        format!(
            "the gate stays closed until --max-closed {max_closed} is over, or until somebody calls syngate clear"
        )
    }

    /// Remarks for the user about how this backend closed the gate.
    fn remarks(&self) -> &[Remark];

    /// Removes all rules. Calling it again is no error.
    ///
    /// # Errors
    /// Rules may be left.
    fn remove(&mut self) -> Result<()>;
}

/// Lets a test simulate a host without NAT.
pub(super) fn fail_on_demand(steer: Steer) -> Result<()> {
    let fails = steer.translates() && crate::words::fault::is("no-nat");
    anyhow::ensure!(!fails, Lacking::nat("not here, for a test"));
    Ok(())
}

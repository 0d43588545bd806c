//! What the kernel shall contain while the gate is closed. Pure data, the same for all backends.

use std::time::Duration;

use super::who::Who;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;
use crate::words::steer::Steer;

/// Each name that syngate gives to something in the kernel begins with this; the run's id follows.
pub(crate) const PREFIX: &str = "syngate_";

/// How long syngate waits for the lock of iptables, unless the user sets it.
pub(crate) const XTABLES_WAIT: Duration = Duration::from_secs(5);

/// What a backend needs to know of the run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub run: String,
    /// The comment that the kernel lists with the rules.
    pub who: Who,
    /// `--xtables-wait`.
    pub xtables_wait: Duration,
    /// How long the rules may stay once the gate is open. The kernel opens the gate at the deadline
    /// all the same. A watchdog lets a living run keep its rules for this long after the deadline.
    pub lingers: Duration,
}

/// A closed gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rules {
    pub ports: PortSet,
    /// Which packets to these ports the gate stops.
    pub scope: Scope,
    /// Where the kernel sends a new SYN to a gated port.
    pub steer: Steer,
}

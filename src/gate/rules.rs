//! What the kernel contains while the gate is closed. Plain data, the same for all backends.

use std::time::Duration;

use crate::words::ports::PortSet;
use crate::words::scope::Scope;
use crate::words::steer::Steer;

/// Every name that syngate gives to an object in the kernel begins with this. The run's id follows.
pub(crate) const PREFIX: &str = "syngate_";

/// How long syngate waits for the xtables lock by default.
pub(crate) const XTABLES_WAIT: Duration = Duration::from_secs(5);

/// SO_MARK (socket(7)) of the sockets whose SYNs pass the gate. Nothing that comes from another host has a mark. Its
/// lower half is left to others: kube-proxy, for one, drops what has bit 15.
pub(crate) const PASS_MARK: u32 = 0x7379_0000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rules {
    pub ports: PortSet,
    pub scope: Scope,
    pub steer: Steer,
    /// A SYN that SYNPROXY sends passes: its client's handshake with SYNPROXY is over, and neither of
    /// them would send anything again.
    pub passes_proxied: bool,
    /// A SYN with [`PASS_MARK`] passes.
    pub passes_marked: bool,
}

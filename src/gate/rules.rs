//! What the kernel contains while the gate is closed. Plain data, the same for all backends.

use std::time::Duration;

use crate::words::family::Family;
use crate::words::ports::PortSet;
use crate::words::scope::{Networks, Scope};
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
    /// For [`Steer::Refuse`], and for nothing else.
    pub leaving: Option<Leaving>,
}

impl Rules {
    /// Whether they concern packets of this IP version.
    pub(crate) fn are_for(&self, family: Family) -> bool {
        self.scope.gates(family) || self.stop(family)
    }

    /// Whether they stop SYNs of this IP version: `--leave-from` may name addresses of the other one only.
    pub(crate) fn stop(&self, family: Family) -> bool {
        let Some(leaving) = &self.leaving else {
            return self.scope.gates(family);
        };
        let named = leaving.from.is_empty() || !leaving.from.of(family).is_empty();
        named && (!leaving.narrowed || self.scope.gates(family))
    }
}

/// What rules that refuse health checks have besides. Their ports are those that they refuse. Their scope is
/// what they count in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaving {
    /// The clients that are refused; empty: all of them.
    pub from: Networks,
    /// Only what comes to the scope's addresses and interfaces is refused.
    pub narrowed: bool,
    /// The ports whose new connections are counted, unless they are refused.
    pub counted: PortSet,
}

//! Rules of other programs, in any firewall, that lead packets to another port, and what matters to NAT.

use crate::words::ports::PortSet;

/// The targets of x_tables that do NAT.
pub(super) const NAT_TARGETS: [&str; 5] = ["DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"];
/// The targets of x_tables that refuse a packet, or hand it to a program that may.
pub(super) const REFUSING_TARGETS: [&str; 5] = ["DROP", "REJECT", "NFQUEUE", "TARPIT", "STEAL"];
/// The targets of x_tables that may keep a packet from connection tracking.
pub(super) const UNTRACKING_TARGETS: [&str; 2] = ["NOTRACK", "CT"];

/// A port that a rule redirects before the input hook.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RedirectedPort {
    pub port: u16,
    pub by: String,
}

/// A port whose listener gets packets to other ports (TPROXY). They keep the port that the client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProxiedPort {
    /// The listener's.
    pub port: u16,
    /// `None`: it can't be told which.
    pub asked_for: Option<PortSet>,
    pub by: String,
}

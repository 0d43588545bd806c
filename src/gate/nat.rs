//! What other programs' rules do that changes addresses and ports (NAT), in whichever firewall they are.

/// The targets of x_tables that do NAT.
pub(super) const NAT_TARGETS: [&str; 5] = ["DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"];

/// A port that a rule sends elsewhere before the input hook.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RedirectedPort {
    pub port: u16,
    /// The rule's table and chain.
    pub by: String,
}

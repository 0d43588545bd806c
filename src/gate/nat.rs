//! NAT rules of other programs, in any firewall.

/// The targets of x_tables that do NAT.
pub(super) const NAT_TARGETS: [&str; 5] = ["DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"];

/// A port that a rule redirects before the input hook.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RedirectedPort {
    pub port: u16,
    pub by: String,
}

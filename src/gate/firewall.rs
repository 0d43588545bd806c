//! Looks for rules of the host's own firewall that matter to where a gate stands.

use super::consumers::{Consuming, Firewall};
use super::iptables::holdings;
use super::nft::consuming;
use crate::kernel::caps;

/// Looks at nf_tables, where iptables-nft has its rules too, and at iptables-legacy. What can't be
/// read is left out.
pub(crate) fn look() -> Firewall {
    look_beside(match caps::net_admin() {
        true => holdings::consuming(),
        false => Vec::new(),
    })
}

/// The same where iptables-legacy has been looked at already.
pub(crate) fn look_beside(by_legacy: Vec<Consuming>) -> Firewall {
    let by_nft = consuming::find().unwrap_or_default();
    Firewall::of(by_nft.into_iter().chain(by_legacy))
}

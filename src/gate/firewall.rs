//! Looks for rules of the host's own firewall that matter to where a gate stands.

use anyhow::Result;

use super::by_port::PortRule;
use super::consumers::Firewall;
use super::iptables::holdings;
use super::nft::{by_port, consuming, published};
use crate::kernel::caps;
use crate::words::lacking::Lacking;

/// Looks at nf_tables, where iptables-nft has its rules too, and at iptables-legacy. What can't be
/// read is left out.
pub(crate) fn look() -> Firewall {
    let by_nft = consuming::find().unwrap_or_default();
    let (by_legacy, redirected) = match caps::net_admin() {
        true => holdings::consuming(),
        false => Default::default(),
    };
    let mut firewall = Firewall::of(by_nft.into_iter().chain(by_legacy));
    if firewall.translates.is_some() {
        firewall.published = published::find().unwrap_or_default();
        firewall.published.extend(redirected);
    }
    firewall
}

/// The rules that act on a destination port.
///
/// # Errors
/// No privilege, or rules can't be listed.
pub(crate) fn by_port() -> Result<Vec<PortRule>> {
    let mut found = match by_port::find() {
        Err(error) if error.is::<Lacking>() => Vec::new(),
        by_nft => by_nft?,
    };
    found.extend(holdings::by_port()?);
    Ok(found)
}

//! Looks for rules of the host's own firewall that matter to where a gate stands.

use anyhow::{Result, anyhow};

use super::by_port::PortRule;
use super::consumers::Firewall;
use super::iptables::holdings::{self, Held};
use super::nft::{by_port, consuming, proxied, published};
use crate::kernel::caps;
use crate::words::lacking::Lacking;

/// Looks at nf_tables, where iptables-nft has its rules too, and at iptables-legacy. What can't be
/// read is left out.
pub(crate) fn look() -> Firewall {
    let legacy = match caps::net_admin() {
        true => holdings::legacy(),
        false => Vec::new(),
    };
    look_beside(legacy.iter())
}

/// The same where iptables-legacy has been listed already.
pub(crate) fn look_beside<'a>(legacy: impl Iterator<Item = &'a Held> + Clone) -> Firewall {
    let by_nft = consuming::find().unwrap_or_default();
    let by_legacy = legacy
        .clone()
        .flatten()
        .flat_map(|held| held.consuming.clone());
    let mut firewall = Firewall::of(by_nft.into_iter().chain(by_legacy));
    if firewall.translates.is_some() {
        firewall.published = published::find().unwrap_or_default();
        firewall.proxied = proxied::find().unwrap_or_default();
        for held in legacy.flatten() {
            firewall.published.extend(held.redirected.iter().cloned());
            firewall.proxied.extend(held.proxied.iter().cloned());
        }
    }
    firewall
}

/// The rules that act on a destination port.
///
/// # Errors
/// No privilege, or rules can't be listed.
pub(crate) fn by_port() -> Result<Vec<PortRule>> {
    by_port_beside(holdings::legacy().iter())
}

/// The same where iptables-legacy has been listed already.
///
/// # Errors
/// No privilege, or rules can't be listed.
pub(crate) fn by_port_beside<'a>(legacy: impl Iterator<Item = &'a Held>) -> Result<Vec<PortRule>> {
    let mut found = match by_port::find() {
        Err(error) if error.is::<Lacking>() => Vec::new(),
        by_nft => by_nft?,
    };
    for held in legacy {
        let held = held.as_ref().map_err(|why| anyhow!("{why}"))?;
        found.extend(held.by_port.iter().cloned());
    }
    Ok(found)
}

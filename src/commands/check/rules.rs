//! The rules of others in iptables and nf_tables, as far as they matter to a gate.

use super::host::{Published, VariantSummary};
use crate::gate::iptables::holdings::{Held, VariantHoldings};
use crate::gate::kinds::Variant;
use crate::gate::nft::published;
use crate::kernel::caps;
use crate::words::family::Family;
use crate::words::lacking::Lacking;

impl VariantSummary {
    pub(crate) fn counted(installed: &VariantHoldings, default: Option<Variant>) -> VariantSummary {
        let holdings = installed.holdings.iter();
        let refused = holdings
            .clone()
            .find_map(|(_, holding)| holding.as_ref().err());
        let rules = holdings.map(|(_, holding)| Some(holding.as_ref().ok()?.rules));
        VariantSummary {
            variant: installed.variant.name(),
            default: default == Some(installed.variant),
            ipv6: installed
                .holdings
                .iter()
                .any(|(family, _)| *family == Family::V6),
            rules: rules.sum(),
            unseen: refused.cloned(),
        }
    }
}

/// The published ports, and why some may be missing. nf_tables may show rules that iptables made in
/// another form, so both are asked.
pub(crate) fn published(holdings: &[VariantHoldings]) -> (Vec<Published>, Option<String>) {
    let mut found = Vec::new();
    let mut unseen = None;
    for (_, holding) in holdings.iter().flat_map(|of| &of.holdings) {
        match holding {
            Ok(holding) => found.extend(holding.redirected.iter().cloned()),
            Err(why) => unseen = Some(why.clone()),
        }
    }
    match published::find() {
        Ok(redirected) => found.extend(redirected),
        Err(error) => unseen = Some(format!("{error:#}")),
    }
    found.sort();
    found.dedup_by_key(|redirected| redirected.port);
    let published = found.into_iter().map(|redirected| Published {
        port: redirected.port,
        by: redirected.by,
    });
    (published.collect(), unseen)
}

/// What iptables-legacy holds.
pub(crate) fn legacy(holdings: &[VariantHoldings]) -> impl Iterator<Item = &Held> + Clone {
    let legacy = holdings.iter().filter(|of| of.variant == Variant::Legacy);
    legacy.flat_map(|of| &of.holdings).map(|(_, held)| held)
}

/// The IP versions for which rules of others do NAT, by iptables or nf_tables. A host without nf_tables
/// has no such rules there.
pub(crate) fn nat(holdings: &[VariantHoldings]) -> Option<Vec<Family>> {
    if !caps::net_admin() {
        return None;
    }
    let by_nft = match published::nat_families() {
        Ok(families) => families,
        Err(error) if error.is::<Lacking>() => Vec::new(),
        Err(_) => return None,
    };
    let mut found = by_nft;
    for (family, holding) in holdings.iter().flat_map(|of| &of.holdings) {
        if holding.as_ref().ok()?.nat {
            found.push(*family);
        }
    }
    let does = |family: &Family| found.contains(family);
    Some(Family::ALL.into_iter().filter(does).collect())
}

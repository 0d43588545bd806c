//! The gates that stand in iptables.

use std::time::Duration;

use super::listing::{Ask, Listing};
use super::present::{has_ipv6, has_legacy_tables, installed_variants};
use super::programs::Programs;
use super::recent;
use super::save::{Part, Until, parts};
use crate::gate::found::{By, Found};
use crate::gate::here::{now, up};
use crate::gate::kinds::{Kind, Variant};
use crate::words::family::Family;
use crate::words::ports::PortSet;
use crate::words::scope::{Networks, Scope};

/// The gates in all variants of iptables, and why some may be missing. Leaves no trace, because it
/// asks iptables-legacy only if x_tables has tables.
pub(crate) fn find(has_nft: bool) -> (Vec<Found>, Vec<String>) {
    let (mut found, mut unseen) = (Vec::new(), Vec::new());
    let variants = installed_variants();
    let has_legacy = has_legacy_tables().unwrap_or_else(|why| {
        unseen.push(format!("iptables-legacy: {why}"));
        false
    });
    if has_legacy && !variants.iter().any(|(v, _)| *v == Variant::Legacy) {
        let why = "it has tables here, and iptables-legacy-save is not installed";
        unseen.push(format!("iptables-legacy: {why}"));
    }
    let asked: Vec<(Variant, Ask)> = variants
        .iter()
        .filter(|(variant, _)| match variant {
            Variant::Legacy => has_legacy,
            _ => has_nft,
        })
        .flat_map(|(variant, programs)| asks(programs).map(|ask| (*variant, ask)))
        .collect();
    let listed = Listing::begin(asked.iter().map(|(_, ask)| *ask)).wait();
    for ((variant, ask), saved) in asked.iter().zip(listed) {
        match saved {
            Ok(saved) => add_parts(*variant, ask.family, &saved, &mut found),
            Err(error) => unseen.push(format!("{}: {error:#}", variant.name())),
        }
    }
    (found, unseen)
}

/// The programs that list all rules that there may be.
pub(super) fn asks(programs: &Programs) -> impl Iterator<Item = Ask<'_>> {
    let here = |family: &Family| programs.has(*family) && (*family == Family::V4 || has_ipv6());
    let families = Family::ALL.into_iter().filter(here);
    families.map(move |family| Ask {
        programs,
        family,
        table: None,
    })
}

/// Whether xt_recent has a list of any run. A list stays as long as its rule. Cheap.
pub(crate) fn has_signs() -> bool {
    recent::any()
}

fn add_parts(variant: Variant, family: Family, saved: &str, found: &mut Vec<Found>) {
    for (run, part) in parts(saved) {
        let by = By::Rules(Kind::Iptables(variant));
        let at = found
            .iter()
            .position(|gate| gate.by == by && gate.run == run);
        let at = at.unwrap_or_else(|| {
            found.push(Found {
                by,
                run: run.clone(),
                owned: false,
                who: None,
                ports: PortSet::EMPTY,
                scope: Scope::default(),
                leave_from: Networks::default(),
                syns_stopped: None,
                opens_in: None,
            });
            found.len() - 1
        });
        add_part(family, part, &mut found[at]);
    }
}

fn add_part(family: Family, part: Part, gate: &mut Found) {
    let left = time_left(&part);
    let over = left.is_some_and(|left| left.is_zero());
    let disarmed = recent::is_disarmed(&gate.run, family);
    if !part.jumps.is_empty() && !disarmed && !over {
        gate.ports = gate.ports.union(&part.ports);
        gate.opens_in = gate.opens_in.max(left);
    }
    let counted = gate.syns_stopped.unwrap_or(0);
    gate.syns_stopped = Some(counted.saturating_add(part.syns_stopped));
    gate.scope.hook = part.scope.hook;
    gate.scope.allow_local |= part.scope.allow_local;
    let join = |a: &Networks, b: &Networks| Networks::new([a.all(), b.all()].concat());
    gate.scope.to = join(&gate.scope.to, &part.scope.to);
    gate.scope.allow_from = join(&gate.scope.allow_from, &part.scope.allow_from);
    gate.leave_from = join(&gate.leave_from, &part.leave_from);
    gate.scope.interfaces = part.scope.interfaces;
    gate.who = gate.who.take().or(part.who);
}

/// `None`: the rules do not tell.
fn time_left(part: &Part) -> Option<Duration> {
    let seconds = Duration::from_secs;
    match part.until? {
        Until::Date(date) => Some(date.saturating_sub(seconds(now()))),
        Until::For(time) => {
            let since = seconds(part.who.as_ref()?.up);
            Some(since.saturating_add(time).saturating_sub(seconds(up())))
        }
    }
}

/// The gates in any text, read as the rules of both IP versions.
#[cfg(any(fuzzing, test))]
pub(crate) fn found_in(text: &str) -> Vec<Found> {
    let mut found = Vec::new();
    for family in Family::ALL {
        add_parts(Variant::Nft, family, text, &mut found);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody has saved and restored the rules, without the comments.
    #[test]
    fn a_gate_that_has_lost_its_comment_is_not_taken_for_open() {
        let chain = "syngate_0123456789abcdef";
        for (condition, shut) in [
            ("-m time --datestop 2100-01-01T00:00:00", true),
            ("-m time --datestop 1999-01-01T00:00:00", false),
            (
                "-m recent --rcheck --seconds 2 --name syngate_0123456789abcdef_4",
                true,
            ),
        ] {
            let text = format!(
                "*filter\n:{chain} - [0:0]\n:{chain}_s - [0:0]\n[0:0] -A INPUT -p tcp {condition} -j {chain}\n\
                 [0:0] -A {chain} -p tcp -m multiport --dports 80 -j {chain}_s\nCOMMIT\n"
            );
            let found = found_in(&text);
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!(found[0].ports.contains(80), shut, "{condition}");
        }
    }
}

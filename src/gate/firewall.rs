//! Looks for rules of the host's own firewall that matter to where a gate stands.

use super::consumers::{Consumes, Consuming, Effect};
use super::iptables::holdings;
use super::nft::consuming;
use crate::kernel::caps;

/// What is known of the host's firewall.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Firewall {
    /// Of each kind one, the worst first.
    pub(crate) consumers: Vec<(Consumes, String)>,
    /// A rule that changes where packets go.
    pub(crate) translates: Option<String>,
}

impl Firewall {
    /// Looks at nf_tables, where iptables-nft has its rules too, and at iptables-legacy. What can't be
    /// read is left out.
    pub(crate) fn look() -> Firewall {
        let by_nft = consuming::find().unwrap_or_default();
        let by_legacy = match caps::net_admin() {
            true => holdings::consuming(),
            false => Vec::new(),
        };
        Firewall::of(by_nft.into_iter().chain(by_legacy))
    }

    pub(crate) fn of(found: impl IntoIterator<Item = Consuming>) -> Firewall {
        let mut firewall = Firewall::default();
        for Consuming { effect, by } in found {
            match effect {
                Effect::Consumes(what) => firewall.consumers.push((what, by)),
                Effect::Translates => firewall.translates = Some(by),
            }
        }
        firewall.consumers.sort();
        firewall.consumers.dedup_by_key(|(what, _)| *what);
        firewall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_and_each_kind_once() {
        let found = |effect, by: &str| Consuming {
            effect,
            by: by.to_owned(),
        };
        let firewall = Firewall::of([
            found(Effect::Consumes(Consumes::Rate), "a"),
            found(Effect::Consumes(Consumes::SynProxy), "b"),
            found(Effect::Consumes(Consumes::Rate), "c"),
        ]);
        let expected = [(Consumes::SynProxy, "b"), (Consumes::Rate, "a")];
        let expected = expected.map(|(what, by)| (what, by.to_owned()));
        assert_eq!(firewall.consumers, expected);
        assert_eq!(firewall.translates, None);
    }
}

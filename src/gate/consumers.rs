//! What rules of the host's own firewall do with a SYN before a gate in the input hook stops it. When
//! the client sends that SYN again, it has been used up.

use super::nat::{ProxiedPort, RedirectedPort};
use crate::words::scope::Where;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Consumes {
    /// SYNPROXY answers it, and sends a SYN of its own to the service, once.
    SynProxy,
    /// Connection tracking takes it for the connection that a helper expects, which only the first
    /// SYN can be.
    Expectation,
    /// A limit counts it.
    Rate,
    /// A set that packets fill counts it, as to ban its sender.
    Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Consumes(Consumes),
    /// The packet may go elsewhere: it can't be told before whether to this host.
    Translates,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Consuming {
    pub(crate) effect: Effect,
    /// Table and chain of the rule.
    pub(crate) by: String,
    /// The rule stands before any gate.
    pub(crate) early: bool,
}

/// What is known of the host's firewall.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Firewall {
    /// One rule of each kind, the worst first. A gate in prerouting comes before them.
    pub(crate) consumers: Vec<(Consumes, String)>,
    /// The same of those that come before any gate.
    pub(crate) early: Vec<(Consumes, String)>,
    /// A rule that changes where packets go.
    pub(crate) translates: Option<String>,
    /// Ports that rules send elsewhere before the input hook, as far as rules show their ports.
    pub(crate) published: Vec<RedirectedPort>,
    /// Ports whose listeners get packets to other ports.
    pub(crate) proxied: Vec<ProxiedPort>,
}

impl Firewall {
    pub(crate) fn of(found: impl IntoIterator<Item = Consuming>) -> Firewall {
        let mut firewall = Firewall::default();
        for Consuming { effect, by, early } in found {
            match effect {
                Effect::Consumes(what) if early => firewall.early.push((what, by)),
                Effect::Consumes(what) => firewall.consumers.push((what, by)),
                Effect::Translates => firewall.translates = Some(by),
            }
        }
        for consumers in [&mut firewall.consumers, &mut firewall.early] {
            consumers.sort();
            consumers.dedup_by_key(|(what, _)| *what);
        }
        firewall
    }

    /// A rule answers SYNs by SYNPROXY.
    pub(crate) fn has_synproxy(&self) -> bool {
        let mut consumers = self.consumers.iter();
        consumers.any(|(what, _)| *what == Consumes::SynProxy)
    }
}

impl Consumes {
    /// What becomes of a client whose SYN the gate drops. `hook`: where the gate stands.
    pub(crate) fn harm(self, hook: Where) -> String {
        let place = match hook {
            Where::Input => " in the input hook",
            Where::Prerouting => "",
        };
        let counts = |what: &str| {
            format!(
                "{what} counts a SYN that the gate drops{place}, and counts it again when the client sends it again"
            )
        };
        match self {
            Consumes::SynProxy => {
                "SYNPROXY answers SYNs before the input hook, and clients hang if the gate drops what \
                 SYNPROXY sends on"
                    .to_owned()
            }
            Consumes::Expectation => format!(
                "a helper of connection tracking expects connections, and a SYN that the gate drops{place} \
                 is not RELATED when the client sends it again"
            ),
            Consumes::Rate => counts("a limit"),
            Consumes::Set => counts("a set"),
        }
    }
}

/// Whether a target of x_tables writes a log message, and decides nothing.
pub(super) fn logs(target: &str) -> bool {
    matches!(target, "LOG" | "NFLOG" | "ULOG")
}

/// The effect of a match of x_tables.
pub(super) fn by_match(name: &str) -> Option<Effect> {
    Some(Effect::Consumes(match name {
        "limit" | "hashlimit" | "connlimit" | "quota" => Consumes::Rate,
        "recent" => Consumes::Set,
        _ => return None,
    }))
}

/// The effect of a target of x_tables. `helps`: a target CT names a helper.
pub(super) fn by_target(name: &str, helps: bool) -> Option<Effect> {
    Some(match name {
        "SYNPROXY" => Effect::Consumes(Consumes::SynProxy),
        "SET" => Effect::Consumes(Consumes::Set),
        "CT" if helps => Effect::Consumes(Consumes::Expectation),
        "DNAT" | "REDIRECT" | "NETMAP" | "TPROXY" => Effect::Translates,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_and_each_kind_once() {
        let found = |effect, by: &str| Consuming {
            effect,
            by: by.to_owned(),
            early: by == "early",
        };
        let firewall = Firewall::of([
            found(Effect::Consumes(Consumes::Rate), "a"),
            found(Effect::Consumes(Consumes::SynProxy), "b"),
            found(Effect::Consumes(Consumes::Rate), "c"),
            found(Effect::Consumes(Consumes::Set), "early"),
        ]);
        let expected = [(Consumes::SynProxy, "b"), (Consumes::Rate, "a")];
        let expected = expected.map(|(what, by)| (what, by.to_owned()));
        assert_eq!(firewall.consumers, expected);
        assert_eq!(firewall.early, [(Consumes::Set, "early".to_owned())]);
        assert_eq!(firewall.translates, None);
        assert!(firewall.has_synproxy());
        let rate = Firewall::of([found(Effect::Consumes(Consumes::Rate), "a")]);
        assert!(!rate.has_synproxy());
    }

    /// Extensions of iptables as iptables-save names them, and what they do with a SYN.
    #[test]
    fn what_extensions_of_iptables_do() {
        use Effect::Translates;
        let consumes = |what| Some(Effect::Consumes(what));
        for (name, effect) in [
            ("limit", consumes(Consumes::Rate)),
            ("hashlimit", consumes(Consumes::Rate)),
            ("connlimit", consumes(Consumes::Rate)),
            ("quota", consumes(Consumes::Rate)),
            ("recent", consumes(Consumes::Set)),
            ("tcp", None),
        ] {
            assert_eq!(by_match(name), effect, "-m {name}");
        }
        for (name, helps, effect) in [
            ("SYNPROXY", false, consumes(Consumes::SynProxy)),
            ("SET", false, consumes(Consumes::Set)),
            ("CT", true, consumes(Consumes::Expectation)),
            ("CT", false, None),
            ("DNAT", false, Some(Translates)),
            ("REDIRECT", false, Some(Translates)),
            ("NETMAP", false, Some(Translates)),
            ("TPROXY", false, Some(Translates)),
            ("ACCEPT", false, None),
        ] {
            assert_eq!(by_target(name, helps), effect, "-j {name}");
        }
        assert!(["LOG", "NFLOG", "ULOG"].into_iter().all(logs));
        assert!(!logs("DROP"), "it decides");
    }
}

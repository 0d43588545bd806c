//! What rules of the host's own firewall do with a SYN before a gate in the input hook stops it. When
//! the client sends that SYN again, it has been used up.

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
}

/// What is known of the host's firewall.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Firewall {
    /// Of each kind one, the worst first.
    pub(crate) consumers: Vec<(Consumes, String)>,
    /// A rule that changes where packets go.
    pub(crate) translates: Option<String>,
}

impl Firewall {
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

impl Consumes {
    /// What becomes of a client whose SYN the gate drops in the input hook.
    pub(crate) fn harm(self) -> &'static str {
        match self {
            Consumes::SynProxy => {
                "SYNPROXY answers a SYN before the input hook, and its client hangs if the gate drops \
                 what SYNPROXY sends on"
            }
            Consumes::Expectation => {
                "a helper of connection tracking expects connections, and a SYN that the gate drops in \
                 the input hook is not RELATED when it is sent again"
            }
            Consumes::Rate => {
                "a limit counts a SYN that the gate drops in the input hook, and again when it is sent \
                 again"
            }
            Consumes::Set => {
                "a set counts a SYN that the gate drops in the input hook, and again when it is sent \
                 again"
            }
        }
    }
}

/// The effect of a match of x_tables.
pub(super) fn by_match(name: &str) -> Option<Effect> {
    Some(Effect::Consumes(match name {
        "limit" | "hashlimit" | "connlimit" => Consumes::Rate,
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
    /// Extensions of iptables as iptables-save names them, and what they do with a SYN.
    #[test]
    fn what_extensions_of_iptables_do() {
        use Effect::Translates;
        let consumes = |what| Some(Effect::Consumes(what));
        for (name, effect) in [
            ("limit", consumes(Consumes::Rate)),
            ("hashlimit", consumes(Consumes::Rate)),
            ("connlimit", consumes(Consumes::Rate)),
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
    }
}

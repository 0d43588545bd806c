//! What rules of the host's own firewall do by a port that `--syn redirect` changes. NAT rewrites the
//! port before the input hook, where most firewalls are. Pure.

use crate::words::ports::PortSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Does {
    /// It may refuse the packet, itself or in a chain that it goes to.
    Refuses,
    /// It keeps the packet from connection tracking, and so from NAT.
    Untracks,
    /// It lets the packet pass because NAT has changed its destination (`ct status dnat accept`).
    AcceptsTranslated,
    /// It sends some clients elsewhere by NAT, as to a page that says that they are banned.
    SendsSomeElsewhere,
}

/// The destination ports that a rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Matched {
    These(PortSet),
    /// The rule compares ports in a way that syngate does not read.
    Unread,
}

impl Matched {
    /// The ports of `gated` that the rule may match.
    pub(crate) fn among(&self, gated: &PortSet) -> PortSet {
        match self {
            Matched::These(ports) => ports.intersection(gated),
            Matched::Unread => gated.clone(),
        }
    }

    /// Whether the rule matches the port, for certain.
    fn contains(&self, port: u16) -> bool {
        matches!(self, Matched::These(ports) if ports.contains(port))
    }
}

/// A rule that packets to this host meet: before connection tracking, if it untracks, and after NAT, if it
/// refuses or accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortRule {
    pub(crate) does: Does,
    /// Table and chain of the rule.
    pub(crate) by: String,
    /// Names the table alone.
    pub(crate) table: String,
    /// The chain that it goes to.
    pub(crate) to: Option<String>,
    /// The destination ports that it compares.
    pub(crate) ports: Matched,
    /// It compares the ports from before NAT.
    pub(crate) original: bool,
    /// Only packets of this host's own clients meet it.
    pub(crate) local: bool,
}

/// Why connections to the gated ports must not go to the standby's port.
pub(crate) fn objection(rules: &[PortRule], gated: &PortSet, standby: u16) -> Option<String> {
    let about = |rule: &PortRule| rule.ports.among(gated);
    let mut untracking = rules.iter().filter(|rule| rule.does == Does::Untracks);
    if let Some(rule) = untracking.find(|rule| !about(rule).is_empty()) {
        return Some(format!(
            "--syn redirect={standby}: a rule keeps {} from connection tracking ({}), and what is not \
             tracked can't be redirected: remove that rule, or use --syn hold",
            about(rule).brief(),
            rule.by
        ));
    }
    let mut sending = rules
        .iter()
        .filter(|rule| rule.does == Does::SendsSomeElsewhere);
    if let Some(rule) = sending.find(|rule| !about(rule).is_empty()) {
        return Some(format!(
            "--syn redirect={standby}: a rule sends some clients of {} elsewhere ({}); only the first NAT of a \
             connection counts, so redirect would send them to the standby: use --syn hold",
            about(rule).brief(),
            rule.by
        ));
    }
    if let Some(rule) = lets_in_what_was_translated(rules, Some(standby)) {
        let gated = gated.brief();
        return Some(format!(
            "--syn redirect={standby}: a rule accepts all that NAT sends elsewhere ({}), so clients that other rules \
             keep out of {gated} would get in: name the port before NAT in that rule (ct original proto-dst, \
             --ctorigdstport), or use --syn hold",
            rule.by
        ));
    }
    let rule = bypassed(rules, gated, Some(standby))?;
    let ports = about(rule).brief();
    let helps = match rule.local {
        true => "leave this host's own clients alone by --allow-local, or ",
        false => "",
    };
    Some(format!(
        "--syn redirect={standby}: a rule may refuse clients by port {ports} ({}), and redirected packets have port \
         {standby}, so it would let those clients in; {helps}in that table refuse port {standby} as well, or the \
         port before NAT (meta l4proto tcp ct original proto-dst {ports}, or -m conntrack --ctorigdstport {ports})",
        rule.by
    ))
}

/// The first rule that accepts packets to the standby only because NAT has changed their destination. By the
/// port before NAT a rule says whom it means.
pub(crate) fn lets_in_what_was_translated(
    rules: &[PortRule],
    standby: Option<u16>,
) -> Option<&PortRule> {
    let concerns = |ports: &Matched| match ports {
        Matched::These(ports) => standby.is_none_or(|standby| ports.contains(standby)),
        Matched::Unread => true,
    };
    rules.iter().find(|rule| {
        rule.does == Does::AcceptsTranslated && !rule.original && concerns(&rule.ports)
    })
}

/// The first rule that refuses by a gated port, unless its table has a rule that does the same by the standby's port
/// or by the port before NAT.
pub(crate) fn bypassed<'a>(
    rules: &'a [PortRule],
    gated: &PortSet,
    standby: Option<u16>,
) -> Option<&'a PortRule> {
    let refusing = || rules.iter().filter(|rule| rule.does == Does::Refuses);
    let of_gated = |rule: &PortRule| !rule.ports.among(gated).is_empty();
    let covers = |rule: &PortRule| match rule.original {
        true => of_gated(rule),
        false => standby.is_some_and(|standby| rule.ports.contains(standby)),
    };
    let covered = |bypassed: &PortRule| {
        let alike = |rule: &&PortRule| (&rule.table, &rule.to) == (&bypassed.table, &bypassed.to);
        refusing().filter(alike).any(covers)
    };
    refusing().find(|rule| of_gated(rule) && !rule.original && !covered(rule))
}

/// Whether packets that do not meet the base chains `away` can come to a chain. `jumps`: from a chain to
/// another one. A chain that no rule is seen to jump to may be met by a map.
pub(super) fn is_met<C: PartialEq>(chain: &C, away: &[C], jumps: &[(C, C)]) -> bool {
    let mut seen = vec![chain];
    let mut next = 0;
    while let Some(at) = seen.get(next).copied() {
        next += 1;
        let from: Vec<&C> = jumps
            .iter()
            .filter(|(_, to)| to == at)
            .map(|(from, _)| from)
            .collect();
        if from.is_empty() && !away.contains(at) {
            return true;
        }
        for chain in from {
            if !seen.contains(&chain) {
                seen.push(chain);
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(does: Does, table: &str, ports: &[u16], original: bool) -> PortRule {
        PortRule {
            does,
            by: format!("{table}, chain c"),
            table: table.to_owned(),
            to: None,
            ports: Matched::These(ports.iter().copied().collect()),
            original,
            local: false,
        }
    }

    #[test]
    fn a_rule_is_bypassed_unless_its_table_knows_of_the_standby() {
        use Does::{AcceptsTranslated, Refuses, SendsSomeElsewhere, Untracks};
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let unread = |does| PortRule {
            ports: Matched::Unread,
            ..rule(does, "a", &[], false)
        };
        let bans = || rule(Refuses, "a", &[80, 443], false);
        for (rules, objects) in [
            (vec![], None),
            (vec![bans()], Some("by port 80 (a, chain c)")),
            (vec![rule(Refuses, "a", &[22], false)], None),
            (vec![rule(Refuses, "a", &[80, 8080], false)], None),
            (vec![bans(), rule(Refuses, "a", &[8080], false)], None),
            (vec![bans(), rule(Refuses, "a", &[80], true)], None),
            (
                vec![bans(), rule(Refuses, "a", &[443], true)],
                Some("by port 80"),
            ),
            (
                vec![bans(), rule(Refuses, "b", &[8080], false)],
                Some("by port 80"),
            ),
            (
                vec![rule(Untracks, "a", &[80], false)],
                Some("keeps 80 from connection tracking"),
            ),
            (vec![rule(Untracks, "a", &[53], false)], None),
            (vec![unread(Refuses)], Some("by port 80 (a, chain c)")),
            (
                vec![unread(Refuses), rule(Refuses, "a", &[8080], false)],
                None,
            ),
            (
                vec![rule(AcceptsTranslated, "a", &all, false)],
                Some("accepts all that NAT sends elsewhere (a, chain c)"),
            ),
            (vec![rule(AcceptsTranslated, "a", &all, true)], None),
            (vec![rule(AcceptsTranslated, "a", &[3000], false)], None),
            (
                vec![rule(SendsSomeElsewhere, "a", &[80], false)],
                Some("sends some clients of 80 elsewhere (a, chain c)"),
            ),
            (vec![rule(SendsSomeElsewhere, "a", &[81], false)], None),
            (
                vec![PortRule {
                    local: true,
                    ..bans()
                }],
                Some("--allow-local"),
            ),
        ] {
            let told = objection(&rules, &PortSet::from_iter([80]), 8080);
            let says = |what| told.as_deref().is_some_and(|told| told.contains(what));
            assert!(objects.map_or(told.is_none(), says), "{rules:?}: {told:?}");
        }
    }

    #[test]
    fn chains_of_forwarded_packets_are_not_met() {
        let jumps = [
            ("FORWARD", "docker"),
            ("docker", "user"),
            ("INPUT", "f2b"),
            ("FORWARD", "f2b"),
        ];
        for (chain, met) in [
            ("INPUT", true),
            ("FORWARD", false),
            ("user", false),
            ("f2b", true),
            ("by_map", true),
        ] {
            assert_eq!(is_met(&chain, &["FORWARD"], &jumps), met, "{chain}");
        }
        assert!(!is_met(&"a", &[], &[("a", "b"), ("b", "a")]), "it ends");
    }
}

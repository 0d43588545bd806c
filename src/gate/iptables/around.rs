//! What the host's own rules do around the jump to a run's chain: which let SYNs pass before it, and
//! which come behind it. Pure.

use std::collections::{HashMap, HashSet};

use super::compile::{End, Place};
use super::rule::Rule;
use super::save::id_of;
use crate::words::ports::PortSet;

/// Targets after which a packet does not come to the next rule, and is not dropped either.
const PASSING: [&str; 10] = [
    "ACCEPT",
    "NFQUEUE",
    "QUEUE",
    "TPROXY",
    "SYNPROXY",
    "DNAT",
    "SNAT",
    "REDIRECT",
    "MASQUERADE",
    "NETMAP",
];

/// Why the rules of a run do not do what they should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Rules are missing, or changed.
    Changed,
    /// This rule, which comes first, lets SYNs pass. It may be the chain's policy.
    Passes(String),
    /// A SYN that is released does not meet this rule.
    Behind(String),
}

impl Fault {
    /// In the words of a warning. `table`: where the rules are.
    pub(super) fn told(&self, table: &str) -> String {
        match self {
            Fault::Changed => "it lists others".to_owned(),
            Fault::Passes(rule) => {
                format!("in the table {table}, a rule before the gate's lets SYNs pass: {rule}")
            }
            Fault::Behind(rule) => {
                format!(
                    "in the table {table}, a held SYN would not meet a rule behind the gate's: {rule}"
                )
            }
        }
    }
}

/// The chains of one table, as iptables-save(8) prints them.
pub(super) struct Table<'a> {
    policies: HashMap<&'a str, &'a str>,
    rules: HashMap<&'a str, Vec<&'a str>>,
}

impl<'a> Table<'a> {
    /// Empty if there is no such table.
    pub(super) fn of(saved: &'a str, table: &str) -> Table<'a> {
        let mut found = Table {
            policies: HashMap::new(),
            rules: HashMap::new(),
        };
        let mut lines = saved.lines();
        let begins = |line: &str| line.strip_prefix('*') == Some(table);
        if !lines.by_ref().any(begins) {
            return found;
        }
        for line in lines.take_while(|line| *line != "COMMIT") {
            if let Some(declared) = line.strip_prefix(':') {
                let mut parts = declared.split(' ');
                let (name, policy) = (parts.next(), parts.next());
                found
                    .policies
                    .insert(name.unwrap_or_default(), policy.unwrap_or_default());
            } else if let Some(at) = line.find("-A ") {
                let rule = &line[at..];
                let chain = rule.split(' ').nth(1).unwrap_or_default();
                found.rules.entry(chain).or_default().push(rule);
            }
        }
        found
    }

    /// Whether each built-in chain has the jump of run `id` where it should be.
    pub(super) fn check(&self, place: Place, id: &str, ports: &PortSet) -> Result<(), Fault> {
        for chain in place.built_in {
            let rules = self.rules_of(chain);
            let own = |rule: &&str| Rule::read(rule).target().and_then(id_of) == Some(id);
            let Some(at) = rules.iter().position(own) else {
                return Err(Fault::Changed);
            };
            if let Some(rule) = self.passing(chain, &rules[..at], ports) {
                return Err(Fault::Passes(rule));
            }
            if place.end == End::Last {
                self.ends(chain, &rules[at..])?;
            }
        }
        Ok(())
    }

    /// Whether SYNs can be held at the end of the chains: each of them comes there, and nothing
    /// would be left for them to meet.
    pub(super) fn takes(&self, place: Place, ports: &PortSet) -> Result<(), Fault> {
        for chain in place.built_in {
            if let Some(rule) = self.passing(chain, self.rules_of(chain), ports) {
                return Err(Fault::Passes(rule));
            }
            self.ends(chain, &[])?;
        }
        Ok(())
    }

    fn rules_of(&self, chain: &str) -> &[&'a str] {
        self.rules.get(chain).map_or(&[], Vec::as_slice)
    }

    /// These rules are nothing but jumps of runs, and the policy lets pass.
    fn ends(&self, chain: &str, rules: &[&str]) -> Result<(), Fault> {
        let of_a_run = |rule: &str| {
            Rule::read(rule)
                .target()
                .is_some_and(|to| id_of(to).is_some())
        };
        if let Some(rule) = rules.iter().find(|rule| !of_a_run(rule)) {
            return Err(Fault::Behind((*rule).to_owned()));
        }
        match self.policies.get(chain) {
            Some(policy) if *policy != "ACCEPT" => {
                Err(Fault::Behind(format!("-P {chain} {policy}")))
            }
            _ => Ok(()),
        }
    }

    /// The first of the rules that may let a SYN to one of the ports pass. In a built-in chain RETURN
    /// does so too, by the policy.
    fn passing(&self, chain: &str, rules: &[&str], ports: &PortSet) -> Option<String> {
        let returns = self.policies.get(chain) == Some(&"ACCEPT");
        let mut seen = HashSet::new();
        let rule = rules.iter().find(|rule| {
            let rule = Rule::read(rule);
            let to = rule.target().filter(|_| concerns(&rule, ports));
            to.is_some_and(|to| {
                let goes = rule.has("-g");
                (returns && (to == "RETURN" || goes)) || self.passes(to, ports, &mut seen)
            })
        });
        rule.map(|rule| (*rule).to_owned())
    }

    fn passes(&self, to: &str, ports: &PortSet, seen: &mut HashSet<String>) -> bool {
        if PASSING.contains(&to) {
            return true;
        }
        // A chain of a run never accepts.
        if id_of(to).is_some() || !seen.insert(to.to_owned()) {
            return false;
        }
        self.rules_of(to).iter().any(|rule| {
            let rule = Rule::read(rule);
            let to = rule.target().filter(|_| concerns(&rule, ports));
            to.is_some_and(|to| self.passes(to, ports, seen))
        })
    }
}

/// Whether a new SYN to one of the ports can match. Only what is certain counts as a no.
fn concerns(rule: &Rule, ports: &PortSet) -> bool {
    let listed = rule.ports();
    let other_ports = listed.is_some_and(|listed| listed.intersection(ports).is_empty());
    let states = rule.value("--ctstate").or_else(|| rule.value("--state"));
    let known = |state: &str| ["ESTABLISHED", "RELATED"].contains(&state);
    let known_connections = states.is_some_and(|states| states.split(',').all(known));
    !(rule.is_for_another_protocol() || other_ports || known_connections)
}

/// Checks that any text can be read.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    use super::compile::places;
    use crate::gate::rules::Rules;
    use crate::words::scope::Scope;
    use crate::words::steer::Steer;

    for steer in [Steer::Drop, Steer::Queue(7), Steer::Redirect(81)] {
        let rules = Rules {
            ports: PortSet::from_iter([80]),
            scope: Scope::default(),
            steer,
            passes_proxied: false,
            passes_marked: false,
            leaving: None,
        };
        for place in places(&rules) {
            let table = Table::of(text, place.table);
            let _ = table.takes(place, &rules.ports);
            let _ = table.check(place, "0123456789abcdef", &rules.ports);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUMP: &str = "-A INPUT -p tcp -m comment --comment \"a run\" -j syngate_0123456789abcdef";
    const OTHER: &str = "-A INPUT -p tcp -j syngate_fedcba9876543210";

    fn place(end: End) -> Place {
        Place {
            table: "filter",
            built_in: &["INPUT"],
            end,
        }
    }

    /// A table with these rules in INPUT; `JUMP` stands for the run's.
    fn saved(policy: &str, rules: &[&str]) -> String {
        let mut text = format!(
            "*raw\n:PREROUTING ACCEPT [0:0]\n[0:0] -A PREROUTING -j ACCEPT\nCOMMIT\n*filter\n\
             :INPUT {policy} [1:60]\n:theirs - [0:0]\n:deep - [0:0]\n:syngate_0123456789abcdef - [0:0]\n"
        );
        for rule in rules {
            text.push_str(&format!("[3:180] {rule}\n"));
        }
        text + "COMMIT\n"
    }

    fn check(end: End, policy: &str, rules: &[&str]) -> Result<(), Fault> {
        let text = saved(policy, rules);
        let ports = PortSet::from_iter([80, 8_005]);
        Table::of(&text, "filter").check(place(end), "0123456789abcdef", &ports)
    }

    #[test]
    fn rules_before_the_jump_may_let_pass() {
        for rule in [
            "-A INPUT -j ACCEPT",
            "-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT",
            "-A INPUT -p tcp -m multiport --dports 22,8000:8010 -j ACCEPT",
            "-A INPUT -p tcp -m tcp ! --dport 22 -j ACCEPT",
            "-A INPUT ! -p udp -j ACCEPT",
            "-A INPUT -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT",
            "-A INPUT -s 10.0.0.1/32 -p tcp -j RETURN",
            "-A INPUT -p tcp -g theirs",
            "-A INPUT -p tcp -j NFQUEUE --queue-num 1",
        ] {
            let fault = Err(Fault::Passes(rule.to_owned()));
            assert_eq!(check(End::First, "ACCEPT", &[rule, JUMP]), fault);
            assert_eq!(check(End::Last, "ACCEPT", &[rule, JUMP]), fault);
            assert_eq!(check(End::First, "ACCEPT", &[JUMP, rule]), Ok(()));
        }
        let jump = "-A INPUT -j theirs";
        let chains = ["-A theirs -j deep", "-A deep -p tcp -j ACCEPT"];
        let fault = Err(Fault::Passes(jump.to_owned()));
        assert_eq!(
            check(End::First, "ACCEPT", &[jump, JUMP, chains[0], chains[1]]),
            fault
        );
        assert_eq!(
            check(End::First, "ACCEPT", &[jump, JUMP, chains[0]]),
            Ok(())
        );
    }

    #[test]
    fn others_are_harmless() {
        for rule in [
            "-A INPUT -j DROP",
            "-A INPUT -j LOG --log-prefix \"-j ACCEPT\"",
            "-A INPUT -p udp -j ACCEPT",
            "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT",
            "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A INPUT -j theirs",
            OTHER,
        ] {
            let rules = [rule, JUMP, "-A theirs -j theirs", "-A theirs -j RETURN"];
            assert_eq!(check(End::First, "ACCEPT", &rules), Ok(()), "{rule}");
            assert_eq!(check(End::Last, "ACCEPT", &rules), Ok(()), "{rule}");
        }
    }

    #[test]
    fn nothing_may_be_behind_a_queue() {
        let drop = "-A INPUT -s 10.0.0.9/32 -j DROP";
        let fault = |rule: &str| Err(Fault::Behind(rule.to_owned()));
        assert_eq!(check(End::Last, "ACCEPT", &[JUMP, OTHER]), Ok(()));
        assert_eq!(
            check(End::Last, "ACCEPT", &[JUMP, OTHER, drop]),
            fault(drop)
        );
        assert_eq!(check(End::Last, "DROP", &[JUMP]), fault("-P INPUT DROP"));
        assert_eq!(check(End::First, "DROP", &[JUMP, drop]), Ok(()));
        assert_eq!(check(End::First, "ACCEPT", &[OTHER]), Err(Fault::Changed));
    }

    /// An operator has to find the rule.
    #[test]
    fn a_warning_names_the_rule_and_its_table() {
        let rule = "-A INPUT -s 10.0.0.9/32 -j DROP";
        for fault in [
            Fault::Passes(rule.to_owned()),
            Fault::Behind(rule.to_owned()),
        ] {
            let told = fault.told("mangle");
            assert!(
                told.contains("the table mangle") && told.ends_with(rule),
                "{told}"
            );
        }
        assert!(Fault::Changed.told("mangle").contains("lists others"));
    }

    #[test]
    fn where_syns_can_be_held() {
        let takes = |policy: &str, rules: &[&str]| {
            let text = saved(policy, rules);
            Table::of(&text, "filter").takes(place(End::Last), &PortSet::from_iter([80]))
        };
        assert_eq!(takes("ACCEPT", &["-A INPUT -j DROP"]), Ok(()));
        assert_eq!(
            Table::of("", "filter").takes(place(End::Last), &PortSet::EMPTY),
            Ok(())
        );
        assert!(takes("DROP", &[]).is_err());
        assert!(takes("ACCEPT", &["-A INPUT -j ACCEPT"]).is_err());
    }
}

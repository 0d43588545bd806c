//! Compiles the rules that refuse health checks, and count who still comes. Pure.

use nftnl::{ChainType, Hook, ProtoFamily};

use super::ruleset::{BEFORE_ALL, BaseChain, TableRules, Term};
use super::syns::{addresses, new_syn, sets, sets_of};
use crate::gate::rules::{Leaving, Rules};
use crate::words::family::Family;
use crate::words::scope::{Scope, Where};

/// Before the run's gate, which would drop what is to be refused; see `BEHIND_FILTER` in compile.rs.
const BEFORE_GATE: i32 = 9;

pub(super) fn leaving_table(rules: &Rules, leaving: &Leaving) -> TableRules {
    let (hook, priority) = match rules.scope.hook {
        Where::Input => (Hook::In, BEFORE_GATE),
        Where::Prerouting => (Hook::PreRouting, BEFORE_ALL - 1),
    };
    let mut all = refusing(rules, leaving, hook);
    all.extend(counting(&rules.scope, hook));
    let mut sets = sets(&rules.scope);
    sets.extend(sets_of(leaving));
    TableRules {
        family: ProtoFamily::Inet,
        stays: false,
        flows: Vec::new(),
        sets,
        chains: vec![BaseChain {
            kind: ChainType::Filter,
            hook,
            priority,
            rules: all,
        }],
    }
}

fn refusing(rules: &Rules, leaving: &Leaving, hook: Hook) -> Vec<Vec<Term>> {
    let scope = match leaving.narrowed {
        true => Scope {
            allow_from: Default::default(),
            ..rules.scope.clone()
        },
        false => Scope::default(),
    };
    let places = match leaving.from.is_empty() {
        true => vec![Vec::new()],
        false => of_each(&scope, |family| {
            let named = !leaving.from.of(family).is_empty();
            named.then_some(Term::From(family))
        }),
    };
    let refused = places.into_iter().map(|place| {
        let mut terms = new_syn(place, &scope, hook);
        terms.extend([Term::Count, Term::Refuse]);
        terms
    });
    refused.collect()
}

/// Refused packets do not come to these rules.
fn counting(scope: &Scope, hook: Hook) -> Vec<Vec<Term>> {
    let places = match scope.to.is_empty() && scope.allow_from.is_empty() {
        true => vec![Vec::new()],
        false => of_each(scope, |family| Some(Term::Version(family))),
    };
    let counted = places.into_iter().map(|place| {
        let mut terms = new_syn(place, scope, hook);
        for term in &mut terms {
            if *term == Term::ToGatedPort {
                *term = Term::ToCountedPort;
            }
        }
        terms.push(Term::CountArrived);
        terms
    });
    counted.collect()
}

/// The terms about addresses of a rule for each IP version for which there is a last one.
fn of_each(scope: &Scope, last: impl Fn(Family) -> Option<Term>) -> Vec<Vec<Term>> {
    let families = Family::ALL.into_iter().filter(|f| scope.gates(*f));
    let places = families.filter_map(|family| {
        let last = last(family)?;
        let mut terms = vec![Term::Version(family)];
        terms.extend(addresses(scope, family));
        if last != Term::Version(family) {
            terms.push(last);
        }
        Some(terms)
    });
    places.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::gate::nft::compile::compile;
    use crate::gate::nft::refused::Lack;
    use crate::gate::rules::{Leaving, Rules};
    use crate::words::ports::PortSet;
    use crate::words::scope::{Networks, Scope, Where, parse_networks};
    use crate::words::steer::Steer;

    fn networks(text: &str) -> Networks {
        Networks::new(parse_networks(text).unwrap())
    }

    fn script(ports: u16, scope: Scope, from: Networks, narrowed: bool) -> String {
        let rules = Rules {
            ports: PortSet::from_iter([ports]),
            scope,
            steer: Steer::Refuse,
            passes_proxied: false,
            passes_marked: false,
            leaving: Some(Leaving {
                from,
                narrowed,
                counted: PortSet::from_iter([80, 443]),
            }),
        };
        let compiled = compile(&rules, "0123456789abcdef", "who");
        assert_eq!(Lack::of(&compiled), Lack::Reject);
        compiled.script(Duration::from_secs(30))
    }

    const SYN: &str = "meta l4proto tcp tcp flags & (fin | syn | rst | ack) == syn";

    fn chain(script: &str) -> Vec<String> {
        let (_, chain) = script.split_once("\tchain").unwrap();
        let rules = chain.lines().skip(1).map(str::trim);
        let rules = rules.filter(|line| !line.is_empty() && *line != "}");
        rules.map(|line| line.replace(SYN, "SYN")).collect()
    }

    #[test]
    fn health_ports_are_refused_to_all_and_gated_ones_counted() {
        let plain = script(8081, Scope::default(), Networks::default(), false);
        assert_eq!(
            chain(&plain),
            [
                "type filter hook input priority 9; policy accept;",
                "SYN tcp dport @ports counter name \"syns_stopped\" reject with tcp reset",
                "SYN tcp dport @counted counter name \"new_connections\"",
            ]
        );
        for part in [
            "counter new_connections { }",
            "elements = { 8081 timeout 30s }",
            "\tset counted {\n\t\ttype inet_service\n\t\tflags interval\n\t\telements = { 80, 443 }",
        ] {
            assert!(plain.contains(part), "{part}: {plain}");
        }
    }

    /// Health checks may come to other addresses than the service has: only the counting is narrowed.
    #[test]
    fn only_the_load_balancer_s_checks_are_refused() {
        let scope = Scope {
            hook: Where::Prerouting,
            to: networks("10.0.0.1"),
            allow_from: networks("10.9.0.1"),
            ..Scope::default()
        };
        let narrowed = script(8081, scope, networks("10.0.0.0/24,fd00::1"), false);
        assert_eq!(
            chain(&narrowed),
            [
                "type filter hook prerouting priority -311; policy accept;",
                "SYN tcp dport @ports meta nfproto ipv4 ip saddr @from4 fib daddr type local counter name \
                 \"syns_stopped\" reject with tcp reset",
                "SYN tcp dport @ports meta nfproto ipv6 ip6 saddr @from6 fib daddr type local counter name \
                 \"syns_stopped\" reject with tcp reset",
                "SYN tcp dport @counted meta nfproto ipv4 ip daddr @to4 ip saddr != @allowed4 fib daddr type \
                 local counter name \"new_connections\"",
            ]
        );
    }

    #[test]
    fn a_load_balancer_that_checks_the_gated_port_is_refused_there() {
        let scope = Scope {
            to: networks("10.0.0.1,fd00::1"),
            allow_from: networks("10.9.0.1"),
            interfaces: vec!["eth0".to_owned()],
            ..Scope::default()
        };
        let refused = script(80, scope, networks("10.0.0.9"), true);
        assert_eq!(
            chain(&refused)[1..],
            [
                "SYN tcp dport @ports meta nfproto ipv4 ip daddr @to4 ip saddr @from4 iifname @interfaces \
                 counter name \"syns_stopped\" reject with tcp reset",
                "SYN tcp dport @counted meta nfproto ipv4 ip daddr @to4 ip saddr != @allowed4 iifname \
                 @interfaces counter name \"new_connections\"",
                "SYN tcp dport @counted meta nfproto ipv6 ip6 daddr @to6 iifname @interfaces counter name \
                 \"new_connections\"",
            ]
        );
    }
}

//! Compiles [`Rules`] to the tables, sets and rules of nf_tables. Pure.

use nftnl::{ChainType, Hook, Priority, ProtoFamily};

use super::divert::diverting;
use super::names::{fit_comment, table_name};
use super::ruleset::{BEFORE_ALL, BEHIND_ALL, BaseChain, Ruleset, TableRules, Term};
use super::syns::{addresses, gated, new_syn, sets};
use crate::gate::rules::Rules;
use crate::words::family::Family;
use crate::words::scope::{Scope, Where};
use crate::words::steer::Steer;

/// After the host's own input filter (priority 0): the gate must not stop or count SYNs that the
/// host refuses.
const BEHIND_FILTER: Priority = 10;
/// Before other programs' NAT (dstnat, -100): the first translation of a packet wins.
const BEFORE_NAT: Priority = -110;

/// Compiles the rules of run `id`. `comment` names the run.
pub(crate) fn compile(rules: &Rules, id: &str, comment: &str) -> Ruleset {
    Ruleset {
        name: table_name(id),
        comment: fit_comment(comment),
        owned: true,
        hooked: true,
        ports: rules.ports.clone(),
        tables: tables(rules),
    }
}

fn tables(rules: &Rules) -> Vec<TableRules> {
    let gate = TableRules {
        family: ProtoFamily::Inet,
        stays: matches!(rules.steer, Steer::Redirect(_)),
        flows: Vec::new(),
        sets: sets(&rules.scope),
        chains: chains(rules),
    };
    let mut tables = vec![gate];
    if let Steer::Divert(to) = &rules.steer {
        let families = Family::ALL.into_iter().filter(|f| rules.scope.gates(*f));
        let peers = families.filter_map(|family| Some((family, to.of(family)?)));
        tables.extend(peers.map(|(family, peer)| diverting(&rules.scope, to, family, peer)));
    }
    tables
}

/// NAT needs one chain for incoming packets and one for packets from this host.
fn chains(rules: &Rules) -> Vec<BaseChain> {
    let chain = |kind, hook, priority| BaseChain {
        kind,
        hook,
        priority,
        rules: compile_rules(rules, hook),
    };
    let input = || match rules.steer {
        // Behind the chain that diverts.
        Steer::Divert(_) => chain(ChainType::Filter, Hook::In, BEHIND_ALL),
        _ => chain(ChainType::Filter, Hook::In, BEHIND_FILTER),
    };
    let prerouting = || chain(ChainType::Filter, Hook::PreRouting, BEFORE_ALL);
    match (rules.steer, rules.scope.hook) {
        (Steer::Redirect(_), _) => [Hook::PreRouting, Hook::Out]
            .map(|hook| chain(ChainType::Nat, hook, BEFORE_NAT))
            .into(),
        (_, Where::Input) => vec![input()],
        // A SYN that is let go would wait in the second queue.
        (Steer::Queue(_), Where::Prerouting) => vec![prerouting()],
        // What reaches this host all the same comes by a VRF, by a route of another table, or by NAT
        // from another port.
        (_, Where::Prerouting) => vec![prerouting(), input()],
    }
}

fn compile_rules(rules: &Rules, hook: Hook) -> Vec<Vec<Term>> {
    let Rules { scope, steer, .. } = rules;
    let mut compiled = Vec::new();
    if rules.passes_proxied {
        compiled.push(vec![Term::Tcp, Term::NewSyn, Term::Proxied, Term::Accept]);
    }
    let stops = |addresses| rule(addresses, scope, *steer, hook);
    compiled.extend(places(scope).into_iter().map(stops));
    if hook == Hook::PreRouting && !matches!(steer, Steer::Redirect(_)) {
        compiled.extend(without_flags(scope, hook));
    }
    compiled
}

/// The addresses of each rule: of one, or of one for each IP version if the scope has addresses.
fn places(scope: &Scope) -> Vec<Vec<Term>> {
    if scope.to.is_empty() && scope.allow_from.is_empty() {
        return vec![Vec::new()];
    }
    let families = Family::ALL.into_iter().filter(|f| scope.gates(*f));
    let places = families.map(|family| {
        let mut terms = vec![Term::Version(family)];
        terms.extend(addresses(scope, family));
        terms
    });
    places.collect()
}

/// Drops what is too short to tell whether it is a SYN: the kernel puts fragments together after this
/// hook, and only attackers send such (RFC 1858; RFC 3128). Rules that look at a byte that is not there
/// do not match.
fn without_flags(scope: &Scope, hook: Hook) -> Vec<Vec<Term>> {
    let mut rules = vec![vec![Term::Tcp, Term::NotNewSyn, Term::Accept]];
    rules.extend(places(scope).into_iter().map(|addresses| {
        let mut terms = vec![Term::Tcp];
        terms.extend(gated(addresses, scope, hook));
        terms.push(Term::Drop);
        terms
    }));
    rules
}

fn rule(addresses: Vec<Term>, scope: &Scope, steer: Steer, hook: Hook) -> Vec<Term> {
    let mut terms = new_syn(addresses, scope, hook);
    terms.push(Term::Count);
    terms.push(match steer {
        // A SYN comes here if the rules before the gate did not divert it.
        Steer::Drop | Steer::Divert(_) => Term::Drop,
        Steer::Queue(number) => Term::Queue(number),
        Steer::Redirect(port) => Term::Redirect(port),
    });
    terms
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::words::hop::{Device, Ether, NextHop};
    use crate::words::ports::PortSet;
    use crate::words::steer::Diversion;

    #[test]
    fn a_redirect_sees_what_comes_in_and_what_this_host_sends_itself() {
        let rules = Rules {
            ports: PortSet::from_iter([80]),
            scope: Scope {
                allow_local: true,
                interfaces: vec!["eth0".to_owned()],
                ..Scope::default()
            },
            steer: Steer::Redirect(81),
            passes_proxied: false,
        };
        let compiled = compile(&rules, "0123456789abcdef", "who");
        assert!(compiled.translates());
        let script = compiled.script(Duration::from_secs(30));
        let (_, chains) = script.split_once("\tchain").unwrap();
        assert_eq!(
            chains,
            " prerouting {
\t\ttype nat hook prerouting priority -110; policy accept;
\t\tmeta l4proto tcp tcp flags & (fin | syn | rst | ack) == syn tcp dport @ports \
             iifname @interfaces iifname != @allowed_interfaces fib daddr type local \
             counter name \"syns_stopped\" dnat to :81
\t}

\tchain output {
\t\ttype nat hook output priority -110; policy accept;
\t\tmeta l4proto tcp tcp flags & (fin | syn | rst | ack) == syn tcp dport @ports \
             oifname @interfaces oifname != @allowed_interfaces fib daddr type local \
             counter name \"syns_stopped\" dnat to :81
\t}
}
"
        );
    }

    #[test]
    fn a_diversion_has_a_rule_for_each_packet() {
        let rules = Rules {
            ports: PortSet::from_iter([80]),
            scope: Scope::default(),
            steer: Steer::Divert(Diversion {
                v4: Some(NextHop {
                    address: [10, 0, 0, 2].into(),
                    device: Device::new(2, "eth0"),
                    ether: Some(Ether([2, 0, 0, 0, 0, 1])),
                }),
                v6: None,
                most: 9,
                idle: Duration::from_secs(90),
            }),
            passes_proxied: false,
        };
        let script = compile(&rules, "0123456789abcdef", "who").script(Duration::from_secs(30));
        assert_eq!(
            script.matches("table ").count(),
            2,
            "no peer, no table: {script}"
        );
        let (_, chains) = script
            .split_once("hook prerouting priority -311; policy accept;\n")
            .unwrap();
        let flow = "ip saddr . tcp sport . ip daddr . tcp dport";
        let to_peer = "dup to 10.0.0.2 device \"eth0\"";
        let syn = "meta l4proto tcp tcp flags & (fin | syn | rst | ack) == syn";
        let expected = format!(
            "ether saddr 02:00:00:00:00:01 accept
icmp type destination-unreachable ip ttl > 1 fib daddr type local {to_peer}
meta l4proto tcp ip ttl < 2 {flow} @flows drop
{syn} {flow} @closing delete @closing {{ {flow} }} delete @flows {{ {flow} }}
meta l4proto tcp tcp flags & (fin | syn | rst | ack) != syn {flow} @closing \
update @closing {{ {flow} timeout 30s }} {to_peer} drop
meta l4proto tcp tcp flags & (fin | rst) != 0x0 {flow} @flows update @closing {{ {flow} timeout 30s }} \
update @flows {{ {flow} timeout 1s }} {to_peer} drop
meta l4proto tcp tcp flags & (fin | rst) != 0x0 {flow} @flows update @flows {{ {flow} timeout 30s }} {to_peer} drop
{syn} {flow} @flows {to_peer} drop
meta l4proto tcp {flow} @flows update @flows {{ {flow} timeout 1m30s }} counter name \"went_on\" {to_peer} drop
{syn} {flow} @half_open accept
{syn} tcp dport @ports iifname != @allowed_interfaces fib daddr type local ip ttl > 1 \
update @arriving {{ {flow} timeout 1s900ms }}
chain input {{
type filter hook input priority 999; policy accept;
{syn} tcp dport @ports {flow} @arriving update @flows {{ {flow} timeout 1s900ms }} \
counter name \"syns_stopped\" {to_peer} drop
{syn} tcp dport @ports {flow} @arriving counter name \"no_room\"
"
        );
        let lines = chains.lines().map(str::trim);
        let lines: Vec<&str> = lines.filter(|l| !l.is_empty() && *l != "}").collect();
        assert_eq!(lines, expected.lines().collect::<Vec<&str>>());
    }
}

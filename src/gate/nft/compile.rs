//! Compiles [`Rules`] to the tables, sets and rules of nf_tables. Pure.

use nftnl::{ChainType, Hook, Priority, ProtoFamily};

use super::divert::diverting;
use super::leaving::leaving_table;
use super::names::{fit_comment, table_name};
use super::ruleset::{BEFORE_ALL, BEHIND_ALL, BaseChain, Ruleset, TableRules, Term};
use super::syns::{addresses, gated, new_syn, sets, way};
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
    if let Some(leaving) = &rules.leaving {
        return vec![leaving_table(rules, leaving)];
    }
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
    let output = || chain(ChainType::Filter, Hook::Out, BEFORE_ALL);
    match (rules.steer, rules.scope.hook) {
        (Steer::Redirect(_), _) => [Hook::PreRouting, Hook::Out]
            .map(|hook| chain(ChainType::Nat, hook, BEFORE_NAT))
            .into(),
        (_, Where::Input) => vec![input()],
        // A SYN that is let go would wait in the second queue.
        (Steer::Queue(_), Where::Prerouting) => vec![prerouting()],
        // NAT sends what this host's own clients ask of it elsewhere as it leaves. What reaches this host all
        // the same comes by a VRF, by a route of another table, or by NAT from another port.
        (Steer::Drop, Where::Prerouting) => vec![prerouting(), output(), input()],
        (_, Where::Prerouting) => vec![prerouting(), input()],
    }
}

fn compile_rules(rules: &Rules, hook: Hook) -> Vec<Vec<Term>> {
    let Rules { scope, steer, .. } = rules;
    let mut compiled = Vec::new();
    if rules.passes_marked {
        compiled.push(vec![Term::Tcp, Term::NewSyn, Term::Marked, Term::Accept]);
    }
    if rules.passes_proxied {
        let proxied = Term::Proxied(way(hook));
        compiled.push(vec![Term::Tcp, Term::NewSyn, proxied, Term::Accept]);
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
        Steer::Refuse => Term::Refuse,
    });
    terms
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gate::nft::refused::Lack;
    use crate::gate::nft::ruleset::{MANY_RANGES, PortsKind};
    use crate::words::hop::{Device, Ether, NextHop};
    use crate::words::ports::PortSet;
    use crate::words::scope::{Networks, parse_networks};
    use crate::words::steer::Diversion;

    #[test]
    fn a_redirect_sees_what_comes_in_and_what_this_host_sends_itself() {
        let scope = Scope {
            allow_local: true,
            interfaces: vec!["eth0".to_owned()],
            ..Scope::default()
        };
        assert_eq!(
            chains_of(&rules(scope, Steer::Redirect(81))),
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

    fn rules(scope: Scope, steer: Steer) -> Rules {
        Rules {
            ports: PortSet::from_iter([80]),
            scope,
            steer,
            passes_proxied: false,
            passes_marked: false,
            leaving: None,
        }
    }

    fn script(rules: &Rules) -> String {
        compile(rules, "0123456789abcdef", "who").script(Duration::from_secs(30))
    }

    fn networks(text: &str) -> Networks {
        Networks::new(parse_networks(text).unwrap())
    }

    #[test]
    fn a_gate_is_narrowed_by_sets() {
        let scope = Scope {
            to: networks("10.0.0.0/8,fd00::1"),
            allow_from: networks("192.0.2.0/24,fd00::/64"),
            allow_local: true,
            interfaces: vec!["eth0".to_owned(), "eth1".to_owned()],
            ..Scope::default()
        };
        let syn = "meta l4proto tcp tcp flags & (fin | syn | rst | ack) == syn tcp dport @ports";
        let expected = format!(
            "table inet syngate_0123456789abcdef {{
comment \"who\"
flags owner
counter syns_stopped {{ }}
set ports {{
type inet_service
flags interval,timeout
elements = {{ 80 timeout 30s }}
set to4 {{
type ipv4_addr
flags interval
elements = {{ 10.0.0.0/8 }}
set to6 {{
type ipv6_addr
flags interval
elements = {{ fd00::1 }}
set interfaces {{
type ifname
elements = {{ \"eth0\", \"eth1\" }}
set allowed4 {{
type ipv4_addr
flags interval
elements = {{ 192.0.2.0/24 }}
set allowed6 {{
type ipv6_addr
flags interval
elements = {{ fd00::/64 }}
set allowed_interfaces {{
type ifname
elements = {{ \"lo\" }}
chain input {{
type filter hook input priority 10; policy accept;
{syn} meta nfproto ipv4 ip daddr @to4 ip saddr != @allowed4 iifname @interfaces \
iifname != @allowed_interfaces counter name \"syns_stopped\" drop
{syn} meta nfproto ipv6 ip6 daddr @to6 ip6 saddr != @allowed6 iifname @interfaces \
iifname != @allowed_interfaces counter name \"syns_stopped\" drop
"
        );
        let script = script(&rules(scope, Steer::Drop));
        assert_eq!(
            lines(&script),
            expected.lines().collect::<Vec<&str>>(),
            "{script}"
        );
    }

    /// Without indents, and without what ends a block.
    fn lines(script: &str) -> Vec<&str> {
        let lines = script.lines().map(str::trim);
        lines.filter(|l| !l.is_empty() && *l != "}").collect()
    }

    /// All behind the first chain's beginning.
    fn chains_of(rules: &Rules) -> String {
        let script = script(rules);
        let (_, chains) = script.split_once("\tchain").unwrap();
        chains.to_owned()
    }

    #[test]
    fn before_connection_tracking_what_is_too_short_to_tell_is_stopped_too() {
        let scope = Scope {
            allow_from: networks("192.0.2.1"),
            hook: Where::Prerouting,
            ..Scope::default()
        };
        let (tcp, syn) = (
            "meta l4proto tcp",
            "tcp flags & (fin | syn | rst | ack) == syn",
        );
        let expected = |verdict: &str| {
            format!(
                "prerouting {{
type filter hook prerouting priority -310; policy accept;
{tcp} {syn} tcp dport @ports meta nfproto ipv4 ip saddr != @allowed4 fib daddr type local \
counter name \"syns_stopped\" {verdict}
{tcp} {syn} tcp dport @ports meta nfproto ipv6 fib daddr type local counter name \"syns_stopped\" {verdict}
{tcp} tcp flags & (fin | syn | rst | ack) != syn accept
{tcp} tcp dport @ports meta nfproto ipv4 ip saddr != @allowed4 fib daddr type local drop
{tcp} tcp dport @ports meta nfproto ipv6 fib daddr type local drop
"
            )
        };
        let queued = chains_of(&rules(scope.clone(), Steer::Queue(7)));
        let expected_queued = expected("queue flags bypass to 7");
        assert_eq!(
            lines(&queued),
            expected_queued.lines().collect::<Vec<&str>>()
        );
        // What this host's own clients ask for, too, and what comes by NAT from another port.
        let dropped = chains_of(&rules(scope, Steer::Drop));
        let both = expected("drop")
            + &format!(
                "chain output {{
type filter hook output priority -310; policy accept;
{tcp} {syn} tcp dport @ports meta nfproto ipv4 ip saddr != @allowed4 fib daddr type local \
counter name \"syns_stopped\" drop
{tcp} {syn} tcp dport @ports meta nfproto ipv6 fib daddr type local counter name \"syns_stopped\" drop
chain input {{
type filter hook input priority 10; policy accept;
{tcp} {syn} tcp dport @ports meta nfproto ipv4 ip saddr != @allowed4 counter name \"syns_stopped\" drop
{tcp} {syn} tcp dport @ports meta nfproto ipv6 counter name \"syns_stopped\" drop
"
            );
        assert_eq!(lines(&dropped), both.lines().collect::<Vec<&str>>());
    }

    #[test]
    fn rules_end_by_the_clock() {
        let compiled = compile(&rules(Scope::default(), Steer::Drop), "01", "who");
        assert_eq!(compiled.end(), None);
        let ending = compiled.ending(Some(1)).ending(Some(1_767_323_045));
        assert_eq!(ending.end(), Some(1_767_323_045));
        let script = ending.script(Duration::from_secs(30));
        let [rule] = &ending.tables[0].chains[0].rules[..] else {
            panic!("{script}")
        };
        let clocks = rule.iter().filter(|t| matches!(t, Term::Before(_)));
        assert_eq!(clocks.count(), 1, "{script}");
        let clock = "== syn tcp dport @ports meta time < \"2026-01-02 03:04:05\" counter";
        assert!(script.contains(clock), "{script}");
        assert_eq!(ending.ending(None), compiled);
    }

    #[test]
    fn a_ruleset_knows_what_it_needs() {
        let of = |steer| compile(&rules(Scope::default(), steer), "01", "who");
        assert_eq!(Lack::of(&of(Steer::Drop)), Lack::Other);
        assert_eq!(Lack::of(&of(Steer::Redirect(81))), Lack::Nat);
        assert_eq!(Lack::of(&of(diversion(None))), Lack::Dup);
        let (asked, real) = (of(Steer::Drop).rehearsed(), of(Steer::Drop));
        assert_eq!((asked.owned, asked.hooked), (false, false));
        assert_eq!((real.owned, real.hooked), (true, true));
        assert_eq!(asked.tables, real.tables);
        assert_eq!(real.name.as_c_str(), c"syngate_01");
    }

    #[test]
    fn many_ports_are_a_hash_table() {
        let kind = |ports: PortSet| {
            let rules = Rules {
                ports,
                ..rules(Scope::default(), Steer::Drop)
            };
            compile(&rules, "01", "who").ports_kind()
        };
        let ranges = MANY_RANGES as u16 + 1;
        let pairs = (0..ranges).map(|n| 10 * n + 1..=10 * n + 2);
        let most = 2 * u32::from(ranges);
        assert_eq!(
            kind(PortSet::from_ranges(pairs.clone())),
            PortsKind::Hash { most }
        );
        let fewer = pairs.clone().skip(1);
        assert_eq!(kind(PortSet::from_ranges(fewer)), PortsKind::Intervals);
        let wider = pairs.chain([9..=11]);
        assert_eq!(kind(PortSet::from_ranges(wider)), PortsKind::Intervals);
        let two = PortSet::from_iter([80, 443]);
        assert_eq!(kind(two), PortsKind::Intervals);
        let shown = PortsKind::Hash { most }.to_string();
        assert_eq!(shown, "size 1002\n\t\tflags timeout");
    }

    fn diversion(v6: Option<NextHop>) -> Steer {
        Steer::Divert(Diversion {
            v4: Some(NextHop {
                address: [10, 0, 0, 2].into(),
                device: Device::new(2, "eth0"),
                ether: Some(Ether([2, 0, 0, 0, 0, 1])),
            }),
            v6,
            most: 9,
            idle: Duration::from_secs(90),
        })
    }

    #[test]
    fn each_table_that_diverts_has_the_sets_of_its_ip_version() {
        let scope = Scope {
            to: networks("10.0.0.1,fd00::1"),
            hook: Where::Prerouting,
            ..Scope::default()
        };
        let v6 = NextHop {
            address: "fe80::2".parse().unwrap(),
            device: Device::new(2, "eth0"),
            ether: None,
        };
        let script = script(&rules(scope, diversion(Some(v6))));
        let sets_of = |table: &str| -> String {
            let (_, table) = script.split_once(table).unwrap();
            let (table, _) = table.split_once("\tchain").unwrap();
            let (_, sets) = table.split_once("timeout 30s }\n\t}\n\n").unwrap();
            sets.replace("\t}\n\n", "").replace('\t', "")
        };
        let expected = |address: &str, to: &str, network: &str| {
            let key = format!("{address} . inet_service . {address} . inet_service");
            format!(
                "set flows {{
type {key}
size 9
flags dynamic,timeout
timeout 1m30s
set closing {{
type {key}
size 36
flags dynamic,timeout
timeout 30s
set half_open {{
type {key}
size 9
flags dynamic,timeout
timeout 1m30s
set {to} {{
type {address}
flags interval
elements = {{ {network} }}
set allowed_interfaces {{
type ifname
elements = {{ \"lo\" }}
"
            )
        };
        assert_eq!(
            sets_of("table ip "),
            expected("ipv4_addr", "to4", "10.0.0.1")
        );
        assert_eq!(
            sets_of("table ip6 "),
            expected("ipv6_addr", "to6", "fd00::1")
        );
        for counter in ["syns_stopped", "no_room", "went_on"] {
            let made = format!("counter {counter} {{ }}");
            assert!(script.contains(&made), "{script}");
        }
    }

    #[test]
    fn a_diversion_has_a_rule_for_each_packet() {
        let script = script(&rules(Scope::default(), diversion(None)));
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
        assert_eq!(lines(chains), expected.lines().collect::<Vec<&str>>());
        assert!(script.contains("\tset arriving {\n"), "{script}");
        let gate = "type filter hook input priority 1000;";
        assert!(script.contains(gate), "behind what diverts: {script}");
    }
}

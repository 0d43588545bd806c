//! The tables that divert: what takes SYNs before they come to the gate, and hands them, and all that
//! follows, to the peer. Pure.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fmt;
use std::time::Duration;

use nftnl::{ChainType, Hook, Priority, ProtoFamily};

use super::compile::{
    BEFORE_ALL, BaseChain, NftTime, Table, Term, addresses, new_syn, sets, shown,
};
use crate::words::family::Family;
use crate::words::hop::NextHop;
use crate::words::scope::Scope;
use crate::words::steer::Diversion;

/// The connections that are the peer's: addresses and ports of both ends.
pub const FLOWS: &CStr = c"flows";
/// Those of them whose client has closed its side, or given up.
pub const CLOSING: &CStr = c"closing";
/// Those that are half open here: their SYNs, sent again, are not the peer's.
pub const HALF_OPEN: &CStr = c"half_open";
/// Before the gate: what is diverted does not come to it.
const BEFORE_GATE: Priority = BEFORE_ALL - 1;
/// How long a SYN's connection is remembered that gets no further. The next one, after 1 s, goes the
/// same way, since an answer may be under way; the one after that, 2 or 3 s later than the first, is a
/// new one: where the peer does not answer it must not go there for ever.
pub const SYN_LIFE: Duration = Duration::from_millis(1_900);
/// How long a connection is remembered after its client's FIN or RST, or what comes after that: it may
/// still receive, and acknowledge.
pub const CLOSING_LIFE: Duration = Duration::from_secs(30);
/// How long it stays among those that go on, where it is not looked for any more.
pub const OVER_LIFE: Duration = Duration::from_secs(1);
/// How much more room there is for those that close.
pub const CLOSING_ROOM: u32 = 4;
/// Such a connection is taken for over when nothing was heard of it for so long: its client acknowledges
/// what it still receives.
pub const ENDED_AFTER: Duration = Duration::from_secs(2);

/// A set of connections, which packets fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowSet {
    /// Its name.
    pub name: &'static CStr,
    /// The IP version of their addresses.
    pub family: Family,
    /// How many it has room for.
    pub most: u32,
    /// How long it keeps one of which nothing is heard.
    pub idle: Duration,
}

/// What takes SYNs of one IP version before they come to the gate, and hands them, and all that
/// follows, to the peer. `dup` is known to tables of one IP version only.
pub fn diverting(scope: &Scope, to: &Diversion, family: Family, peer: NextHop) -> Table {
    let set = |name, most, idle| FlowSet {
        name,
        family,
        most,
        idle,
    };
    let flows = FlowSets {
        going: set(FLOWS, to.most, to.idle),
        closing: set(CLOSING, to.most.saturating_mul(CLOSING_ROOM), CLOSING_LIFE),
        half_open: set(HALF_OPEN, to.most, to.idle),
    };
    // Not what this host sends itself: it has the address of its own that the peer has as well.
    let scope = Scope {
        allow_local: true,
        ..scope.clone()
    };
    Table {
        family: match family {
            Family::V4 => ProtoFamily::Ipv4,
            Family::V6 => ProtoFamily::Ipv6,
        },
        stays: true,
        flows: vec![flows.going, flows.closing, flows.half_open],
        sets: sets(&scope)
            .into_iter()
            .filter(|set| !set.elements.is_of_other_than(family))
            .collect(),
        chains: vec![BaseChain {
            kind: ChainType::Filter,
            hook: Hook::PreRouting,
            priority: BEFORE_GATE,
            rules: divert_rules(&scope, family, &flows, peer),
        }],
    }
}

/// The sets of a table that diverts.
struct FlowSets {
    going: FlowSet,
    closing: FlowSet,
    half_open: FlowSet,
}

/// In this order: what is none of its business; what belongs to a connection that was diverted, and goes
/// the same way; who is new. What there is no room for comes to the gate, which drops it.
fn divert_rules(scope: &Scope, family: Family, sets: &FlowSets, peer: NextHop) -> Vec<Vec<Term>> {
    // What the peer sends here is not for the peer; if it diverts as well, the gate drops its SYNs.
    let from_peer = peer.ether.map(Term::FromEther);
    let mut rules: Vec<Vec<Term>> = from_peer
        .map(|from| vec![from, Term::Accept])
        .into_iter()
        .collect();
    rules.push(icmp_error(scope, family, peer));
    rules.extend(known(family, sets, peer));
    rules.extend(new(scope, family, sets, peer));
    rules
}

/// What a router says to the peer's answers it says to the address that this host has: both hear it. Some
/// of it makes the peer send smaller packets (RFC 1191, RFC 8201).
fn icmp_error(scope: &Scope, family: Family, peer: NextHop) -> Vec<Term> {
    let mut terms = vec![Term::IcmpError(family)];
    if !scope.to.is_empty() {
        terms.push(Term::To(family));
    }
    terms.extend([Term::HopsLeft(family), Term::ToThisHost, Term::CopyTo(peer)]);
    terms
}

/// What comes of a connection that the peer has. One that closes is looked for first.
fn known(family: Family, sets: &FlowSets, peer: NextHop) -> [Vec<Term>; 8] {
    let FlowSets { going, closing, .. } = *sets;
    let tcp = |terms: &[Term]| [&[Term::Tcp], terms].concat();
    let hand_on = |terms: &[Term]| tcp(&[terms, &[Term::CopyTo(peer), Term::Drop]].concat());
    let closes = Term::Remember(closing, closing.idle);
    let is_over = Term::Remember(going, OVER_LIFE);
    let from_where_one_ended = [
        Term::NewSyn,
        Term::In(closing),
        Term::Forget(closing),
        Term::Forget(going),
    ];
    [
        // A copy of a packet that has come as far as it may would go on for 255 hops more.
        tcp(&[Term::NoHopLeft(family), Term::In(going), Term::Drop]),
        tcp(&from_where_one_ended),
        hand_on(&[Term::NotNewSyn, Term::In(closing), closes]),
        hand_on(&[Term::Ending, Term::In(going), closes, is_over]),
        // There is no room among those that close.
        hand_on(&[
            Term::Ending,
            Term::In(going),
            Term::Remember(going, CLOSING_LIFE.min(going.idle)),
        ]),
        // Sent again, or late: that makes no connection live longer, or shorter.
        hand_on(&[Term::NewSyn, Term::In(going)]),
        hand_on(&[
            Term::In(going),
            Term::Remember(going, going.idle),
            Term::CountWentOn,
        ]),
        // Half open here.
        tcp(&[Term::NewSyn, Term::In(sets.half_open), Term::Accept]),
    ]
}

/// What begins a connection: it is the peer's from now on, or there is no room.
fn new(scope: &Scope, family: Family, sets: &FlowSets, peer: NextHop) -> [Vec<Term>; 2] {
    let mut syn = new_syn(addresses(scope, family), scope, Hook::PreRouting);
    syn.push(Term::HopsLeft(family));
    let begins = Term::Remember(sets.going, SYN_LIFE.min(sets.going.idle));
    let diverted = [begins, Term::Count, Term::CopyTo(peer), Term::Drop];
    [
        [&syn[..], &diverted].concat(),
        [&syn[..], &[Term::CountNoRoom]].concat(),
    ]
}

/// An element of a set of connections: its key, and how long it has to live yet.
pub type Element = (Vec<u8>, Duration);

/// What is left of connections of one IP version, by what is in both sets: how many are waited for, and
/// how many would be cut.
pub fn left(going: &[Element], closing: &[Element]) -> (usize, usize) {
    let ended: HashSet<&[u8]> = closing.iter().map(|(key, _)| &key[..]).collect();
    let goes_on = |(key, life): &&Element| *life > OVER_LIFE && !ended.contains(&key[..]);
    let heard = |(_, life): &&Element| *life > CLOSING_LIFE.saturating_sub(ENDED_AFTER);
    let open = going.iter().filter(goes_on).count();
    (open + closing.iter().filter(heard).count(), open)
}

impl fmt::Display for FlowSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = match self.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        write!(
            f,
            "\tset {name} {{\n\
             \t\ttype {address} . inet_service . {address} . inet_service\n\
             \t\tsize {most}\n\
             \t\tflags dynamic,timeout\n\
             \t\ttimeout {idle}\n\
             \t}}\n\n",
            name = shown(self.name),
            most = self.most,
            idle = NftTime(self.idle),
        )
    }
}

impl FlowSet {
    /// What of a packet is looked for in it.
    pub(super) fn key(&self) -> &'static str {
        match self.family {
            Family::V4 => "ip saddr . tcp sport . ip daddr . tcp dport",
            Family::V6 => "ip6 saddr . tcp sport . ip6 daddr . tcp dport",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::nft::compile::compile;
    use crate::gate::rules::Rules;
    use crate::words::hop::{Device, Ether};
    use crate::words::ports::PortSet;
    use crate::words::steer::Steer;

    #[test]
    fn each_packet_has_its_rule() {
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
        };
        let script = compile(&rules, "0123456789abcdef", "who").script(Duration::from_secs(30));
        assert_eq!(
            script.matches("table ").count(),
            2,
            "no peer, no table: {script}"
        );
        let (_, chain) = script.rsplit_once("policy accept;\n").unwrap();
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
update @flows {{ {flow} timeout 1s900ms }} counter name \"syns_stopped\" {to_peer} drop
{syn} tcp dport @ports iifname != @allowed_interfaces fib daddr type local ip ttl > 1 \
counter name \"no_room\"
"
        );
        let lines: Vec<&str> = chain.lines().map(str::trim).filter(|l| *l != "}").collect();
        assert_eq!(lines, expected.lines().collect::<Vec<&str>>());
    }

    #[test]
    fn who_is_waited_for_and_who_is_cut() {
        let all = |all: &[(u8, u64)]| -> Vec<Element> {
            let element = |(key, s): &(u8, u64)| (vec![*key], Duration::from_secs(*s));
            all.iter().map(element).collect()
        };
        assert_eq!(left(&all(&[(1, 90), (2, 3)]), &[]), (2, 2));
        // Of those whose clients have closed their side, one was heard of a second ago, one five.
        let going = all(&[(1, 1), (2, 60), (3, 60)]);
        assert_eq!(left(&going, &all(&[(2, 29), (3, 25)])), (1, 0));
    }
}

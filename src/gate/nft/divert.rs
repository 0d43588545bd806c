//! The tables that divert. Their rules see SYNs before the gate does, and hand the packets of these
//! connections to the peer. Pure.
//!
//! A SYN meets the rules of the host's own firewall first: before routing it is only noted, and it is
//! diverted at the end of the input hook. The host refuses no packet of a diverted connection but its
//! SYN, since those after it are diverted before all other rules.

use std::collections::HashSet;
use std::time::Duration;

use nftnl::{ChainType, Hook, Priority, ProtoFamily};

use super::names::{ARRIVING, CLOSING, FLOWS, HALF_OPEN};
use super::ruleset::{BEFORE_ALL, BEHIND_ALL, BaseChain, FlowSet, TableRules, Term};
use super::syns::{addresses, new_syn, sets};
use crate::words::family::Family;
use crate::words::hop::NextHop;
use crate::words::scope::{Scope, Where};
use crate::words::steer::Diversion;

/// Before the gate, which must not see diverted packets.
const BEFORE_GATE: Priority = BEFORE_ALL - 1;
/// How long the kernel remembers a connection that sends only SYNs. The second SYN, 1 s after the
/// first, goes the same way, because the peer's answer may be on its way. The third one, 2 or 3 s
/// after the first, counts as a new connection: if the peer does not answer, SYNs must not go there
/// for ever.
pub(crate) const SYN_LIFE: Duration = Duration::from_millis(1_900);
/// How long the kernel remembers a connection after its client's FIN or RST, and after each packet that
/// follows: the client may still receive, and acknowledge.
pub(crate) const CLOSING_LIFE: Duration = Duration::from_secs(30);
/// How long a closing connection stays in the set of open ones, where no rule looks for it any
/// more.
pub(crate) const OVER_LIFE: Duration = Duration::from_secs(1);
/// The set of closing connections is larger than that of open ones by this factor.
pub(crate) const CLOSING_ROOM: u32 = 4;
/// A closing connection counts as over after this time without a packet from its client: a client
/// acknowledges what it still receives.
pub(crate) const ENDED_AFTER: Duration = Duration::from_secs(2);

/// The table for one IP version, because `dup` works only in tables of one IP version.
pub(super) fn diverting(
    scope: &Scope,
    to: &Diversion,
    family: Family,
    peer: NextHop,
) -> TableRules {
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
        arriving: set(ARRIVING, to.most, SYN_LIFE),
    };
    // Excludes packets from this host itself, which has the peer's address as well.
    let scope = Scope {
        allow_local: true,
        ..scope.clone()
    };
    TableRules {
        family: match family {
            Family::V4 => ProtoFamily::Ipv4,
            Family::V6 => ProtoFamily::Ipv6,
        },
        stays: true,
        flows: flows.needed(scope.hook),
        sets: sets(&scope)
            .into_iter()
            .filter(|set| !set.elements.is_of_other_than(family))
            .collect(),
        chains: chains(&scope, family, &flows, peer),
    }
}

struct FlowSets {
    going: FlowSet,
    closing: FlowSet,
    half_open: FlowSet,
    /// Only where SYNs are diverted in the input hook.
    arriving: FlowSet,
}

impl FlowSets {
    fn needed(&self, hook: Where) -> Vec<FlowSet> {
        let mut needed = vec![self.going, self.closing, self.half_open];
        if hook == Where::Input {
            needed.push(self.arriving);
        }
        needed
    }
}

fn chains(scope: &Scope, family: Family, sets: &FlowSets, peer: NextHop) -> Vec<BaseChain> {
    let chain = |hook, priority, rules| BaseChain {
        kind: ChainType::Filter,
        hook,
        priority,
        rules,
    };
    let mut first = divert_rules(scope, family, sets, peer);
    let syn = noticed_syn(scope, family);
    match scope.hook {
        Where::Prerouting => {
            first.extend(new(&syn, sets, peer));
            vec![chain(Hook::PreRouting, BEFORE_GATE, first)]
        }
        Where::Input => {
            let arrives = Term::Remember(sets.arriving, sets.arriving.idle);
            first.push([&syn[..], &[arrives]].concat());
            // NAT may have led a packet for another port here.
            let arrived = [
                Term::Tcp,
                Term::NewSyn,
                Term::ToGatedPort,
                Term::In(sets.arriving),
            ];
            let last = new(&arrived, sets, peer).into();
            vec![
                chain(Hook::PreRouting, BEFORE_GATE, first),
                chain(Hook::In, BEHIND_ALL - 1, last),
            ]
        }
    }
}

/// The order matters: packets that do not concern the peer; packets of diverted connections. New SYNs
/// come last. If a set is full, the SYN goes on to the gate, which drops it.
fn divert_rules(scope: &Scope, family: Family, sets: &FlowSets, peer: NextHop) -> Vec<Vec<Term>> {
    // A packet from the peer must not go back to it. If the peer diverts as well, the gate drops its SYNs.
    let from_peer = peer.ether.map(Term::FromEther);
    let mut rules: Vec<Vec<Term>> = from_peer
        .map(|from| vec![from, Term::Accept])
        .into_iter()
        .collect();
    rules.push(icmp_error(scope, family, peer));
    rules.extend(known(family, sets, peer));
    rules
}

/// When a router reports an error about one of the peer's answers, it sends the report to the address that
/// both hosts have, so both must get it. Some reports make the peer send smaller packets (RFC 1191,
/// RFC 8201).
fn icmp_error(scope: &Scope, family: Family, peer: NextHop) -> Vec<Term> {
    let mut terms = vec![Term::IcmpError(family)];
    if !scope.to.is_empty() {
        terms.push(Term::To(family));
    }
    terms.extend([Term::HopsLeft(family), Term::ToThisHost, Term::CopyTo(peer)]);
    terms
}

/// Packets of diverted connections. The rules look at closing connections first.
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
        // A packet with no hop left is dropped: the kernel would give its copy 255 more.
        tcp(&[Term::NoHopLeft(family), Term::In(going), Term::Drop]),
        tcp(&from_where_one_ended),
        hand_on(&[Term::NotNewSyn, Term::In(closing), closes]),
        hand_on(&[Term::Ending, Term::In(going), closes, is_over]),
        // The set of closing connections is full.
        hand_on(&[
            Term::Ending,
            Term::In(going),
            Term::Remember(going, CLOSING_LIFE.min(going.idle)),
        ]),
        // A repeated or late SYN changes no lifetime.
        hand_on(&[Term::NewSyn, Term::In(going)]),
        hand_on(&[
            Term::In(going),
            Term::Remember(going, going.idle),
            Term::CountWentOn,
        ]),
        // The connection is half open on this host.
        tcp(&[Term::NewSyn, Term::In(sets.half_open), Term::Accept]),
    ]
}

/// A new SYN as it comes in.
fn noticed_syn(scope: &Scope, family: Family) -> Vec<Term> {
    let mut syn = new_syn(addresses(scope, family), scope, Hook::PreRouting);
    syn.push(Term::HopsLeft(family));
    syn
}

/// A new SYN goes to the peer. If the set is full, it is counted.
fn new(syn: &[Term], sets: &FlowSets, peer: NextHop) -> [Vec<Term>; 2] {
    let begins = Term::Remember(sets.going, SYN_LIFE.min(sets.going.idle));
    let diverted = [begins, Term::Count, Term::CopyTo(peer), Term::Drop];
    [
        [syn, &diverted].concat(),
        [syn, &[Term::CountNoRoom]].concat(),
    ]
}

/// The key of a connection in a set, and its remaining lifetime.
pub(super) type Flow = (Vec<u8>, Duration);

/// The number of connections of one IP version that the run waits for, and how many of them opening
/// would cut.
pub(super) fn left(going: &[Flow], closing: &[Flow]) -> (usize, usize) {
    let ended: HashSet<&[u8]> = closing.iter().map(|(key, _)| &key[..]).collect();
    let goes_on = |(key, life): &&Flow| *life > OVER_LIFE && !ended.contains(&key[..]);
    let heard = |(_, life): &&Flow| *life > CLOSING_LIFE.saturating_sub(ENDED_AFTER);
    let open = going.iter().filter(goes_on).count();
    (open + closing.iter().filter(heard).count(), open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_waited_for_and_who_is_cut() {
        let all = |all: &[(u8, u64)]| -> Vec<Flow> {
            let element = |(key, s): &(u8, u64)| (vec![*key], Duration::from_secs(*s));
            all.iter().map(element).collect()
        };
        assert_eq!(left(&all(&[(1, 90), (2, 3)]), &[]), (2, 2));
        // Two of the closing connections had a packet within the last 2 s.
        let going = all(&[(1, 1), (2, 60), (3, 60)]);
        let closing = all(&[(2, 29), (3, 25), (4, 28), (5, 30)]);
        assert_eq!(left(&going, &closing), (2, 0));
    }
}

//! What syngate puts into nf_tables, as plain values: tables, sets, chains, and the terms of rules.
//! `script` prints these values in nft(8)'s syntax, `transaction` makes netlink messages of them.

use std::ffi::{CStr, CString};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use nftnl::{ChainType, Hook, Priority, ProtoFamily};

use super::names::{
    ALLOWED_INTERFACES, ALLOWED_V4, ALLOWED_V6, INTERFACES, NO_ROOM, PORTS, STOPPED, TO_V4, TO_V6,
    WENT_ON,
};
use crate::words::family::Family;
use crate::words::hop::{Ether, NextHop};
use crate::words::ports::PortSet;
use crate::words::steer::QueueNum;

/// With more ranges of ports than these, most of them single ports, the set is a hash table. With fewer,
/// closing takes some ms in either, and nft(8) lists intervals as the user wrote them.
pub(crate) const MANY_RANGES: usize = 500;
/// Before raw (-300), connection tracking (-200) and NAT (-100): the packet is as it came in.
pub(super) const BEFORE_ALL: Priority = -310;

/// All that the kernel gets of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ruleset {
    /// The name of its tables, `syngate_<run id>`. No two runs share it, also not across pid
    /// namespaces.
    pub(super) name: CString,
    /// Tells `nft list ruleset` which run made it.
    pub(super) comment: CString,
    /// The kernel destroys the tables when the socket that made them is closed.
    pub(super) owned: bool,
    /// The chains see packets. If not, this ruleset is only for asking whether the kernel can do it: when
    /// a chain that sees packets goes, the kernel drops the packets in all queues of the network
    /// namespace (nf_queue_nf_hook_drop()).
    pub(super) hooked: bool,
    /// The ports that are gated when the gate closes.
    pub(super) ports: PortSet,
    /// The gate itself, and then the tables whose rules see SYNs before the gate does.
    pub(super) tables: Vec<TableRules>,
}

/// The data type of a set of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortsKind {
    /// A tree of intervals: a range takes no longer than a port.
    Intervals,
    /// A hash table, with an element for each port. A tree of very many ports takes long to fill and to
    /// list. The size is fixed, because a dump of a table that grows meanwhile may lack elements.
    Hash {
        /// How many elements it takes.
        most: u32,
    },
}

/// A table. Each has its own set of gated ports, and its own counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableRules {
    /// The gate's table is for both IP versions (inet).
    pub(super) family: ProtoFamily,
    /// Its rules stay when the gate opens, for connections that they have steered elsewhere.
    pub(super) stays: bool,
    /// The sets that its rules fill.
    pub(super) flows: Vec<FlowSet>,
    /// The other sets that its rules look into.
    pub(super) sets: Vec<NamedSet>,
    pub(super) chains: Vec<BaseChain>,
}

/// A chain that sees packets. It is named after its hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BaseChain {
    /// What its rules may do: filter, or translate addresses (NAT). NAT chains see only the first packet
    /// of each connection.
    pub(super) kind: ChainType,
    pub(super) hook: Hook,
    /// A chain sees a packet before chains of a larger priority do.
    pub(super) priority: Priority,
    /// The terms of each rule, left to right.
    pub(super) rules: Vec<Vec<Term>>,
}

/// A set that does not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedSet {
    pub(super) name: &'static CStr,
    pub(super) elements: Elements,
}

/// The elements of a [`NamedSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Elements {
    V4(Vec<Ipv4Net>),
    V6(Vec<Ipv6Net>),
    /// Interfaces, by name.
    Interfaces(Vec<String>),
}

/// A set of connections, which packets fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlowSet {
    pub(super) name: &'static CStr,
    /// The IP version of the addresses.
    pub(super) family: Family,
    /// How many connections it has room for.
    pub(super) most: u32,
    /// How long a connection without packets stays in it.
    pub(super) idle: Duration,
}

/// A term of a rule: a condition on which the packet goes on to the next term, or something that the
/// kernel does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Term {
    /// It is TCP. Without this term the kernel would read a UDP payload as TCP flags.
    Tcp,
    /// SYN is set; ACK, FIN and RST are not. ECN's bits do not matter (RFC 3168, 6.1.1: a SYN may carry
    /// ECE and CWR).
    NewSyn,
    /// The destination port is in the set.
    ToGatedPort,
    /// It is anything but a new SYN.
    NotNewSyn,
    /// FIN or RST is set: its sender sends no more data.
    Ending,
    /// In it a router, or a host, says that a packet could not be delivered.
    IcmpError(Family),
    /// It came from that neighbour.
    FromEther(Ether),
    /// It may make no further hop.
    NoHopLeft(Family),
    /// It may make further hops.
    HopsLeft(Family),
    /// Its connection is in the set.
    In(FlowSet),
    /// The kernel puts its connection into the set, for this long. If the set is full, the rule ends here.
    Remember(FlowSet, Duration),
    /// The kernel takes its connection out of the set. Rules do this rarely: kernels before August 2023
    /// leak the memory of an element that a packet deletes, and count it for ever (nft_rhash_delete()).
    Forget(FlowSet),
    /// It is of that IP version.
    Version(Family),
    /// The destination address is in the set.
    To(Family),
    /// The source address is not in the set.
    NotFrom(Family),
    /// That interface of its way is in the set.
    Via(Way),
    /// That interface of its way is not in the set.
    NotVia(Way),
    /// The destination is an address of this host.
    ToThisHost,
    /// Count it among the stopped SYNs.
    Count,
    /// Count it among the SYNs that found the set of connections full.
    CountNoRoom,
    /// Count it among the packets of diverted connections that are no SYNs.
    CountWentOn,
    /// A copy goes to that neighbour, with one hop less to live.
    CopyTo(NextHop),
    /// It leaves this chain, and goes on.
    Accept,
    Drop,
    /// The kernel puts it into this queue. If no program reads the queue, it goes on. By nft's own
    /// expression `queue`.
    Queue(QueueNum),
    /// The same by the target NFQUEUE of x_tables, for kernels that lack the expression.
    QueueByTarget(QueueNum),
    /// Its connection goes to this port of the same address.
    Redirect(u16),
}

/// One of the interfaces on a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The one by which it came in.
    In,
    /// The one by which it goes out: a packet that this host sends came in by none.
    Out,
}

impl Ruleset {
    pub(super) fn ports_kind(&self) -> PortsKind {
        let (ranges, ports) = (self.ports.ranges().len(), self.ports.len());
        // An interval is two elements.
        if ranges > MANY_RANGES && ports <= 2 * ranges {
            return PortsKind::Hash { most: ports as u32 };
        }
        PortsKind::Intervals
    }

    /// The same, to ask whether the kernel can do it: its chains see no packets, and the kernel destroys
    /// nothing with the socket. Not for rules that translate addresses: connection tracking comes and
    /// goes with them, and that has hooks, which `hooked` is to avoid.
    pub(super) fn rehearsed(&self) -> Ruleset {
        Ruleset {
            owned: false,
            hooked: false,
            ..self.clone()
        }
    }

    /// The same for a kernel without nft's expression `queue`; `None` if it does not use that.
    pub(crate) fn with_target(&self) -> Option<Ruleset> {
        let mut same = true;
        let mut by_target = self.clone();
        let chains = by_target.tables.iter_mut().flat_map(|t| &mut t.chains);
        let rules = chains.flat_map(|chain| &mut chain.rules);
        for term in rules.flatten() {
            if let Term::Queue(number) = *term {
                *term = Term::QueueByTarget(number);
                same = false;
            }
        }
        (!same).then_some(by_target)
    }

    /// Whether its rules translate addresses (NAT).
    pub(super) fn translates(&self) -> bool {
        let mut chains = self.tables.iter().flat_map(|table| &table.chains);
        chains.any(|chain| chain.kind == ChainType::Nat)
    }

    /// Whether its rules hand connections to a peer.
    pub(super) fn diverts(&self) -> bool {
        self.tables.iter().any(|table| !table.flows.is_empty())
    }
}

impl TableRules {
    /// The names of its counters.
    pub(super) fn counters(&self) -> Vec<&'static CStr> {
        match self.flows.is_empty() {
            true => vec![STOPPED],
            false => vec![STOPPED, NO_ROOM, WENT_ON],
        }
    }
}

impl BaseChain {
    pub(super) fn name(&self) -> &'static CStr {
        match self.hook {
            Hook::PreRouting => c"prerouting",
            Hook::In => c"input",
            Hook::Forward => c"forward",
            Hook::Out => c"output",
            Hook::PostRouting => c"postrouting",
            Hook::Ingress => c"ingress",
        }
    }
}

impl Elements {
    pub(super) fn is_of_other_than(&self, family: Family) -> bool {
        match self {
            Elements::V4(_) => family != Family::V4,
            Elements::V6(_) => family != Family::V6,
            Elements::Interfaces(_) => false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Elements::V4(networks) => networks.is_empty(),
            Elements::V6(networks) => networks.is_empty(),
            Elements::Interfaces(names) => names.is_empty(),
        }
    }
}

impl Term {
    /// The set that it looks into, if any, and whether its condition is that nothing is found there.
    pub(super) fn set(self) -> Option<(&'static CStr, bool)> {
        Some(match self {
            Term::ToGatedPort => (PORTS, false),
            Term::In(flows) => (flows.name, false),
            Term::To(Family::V4) => (TO_V4, false),
            Term::To(Family::V6) => (TO_V6, false),
            Term::NotFrom(Family::V4) => (ALLOWED_V4, true),
            Term::NotFrom(Family::V6) => (ALLOWED_V6, true),
            Term::Via(_) => (INTERFACES, false),
            Term::NotVia(_) => (ALLOWED_INTERFACES, true),
            _ => return None,
        })
    }
}

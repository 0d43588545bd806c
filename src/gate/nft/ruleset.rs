//! syngate's tables, sets, chains and rule terms as plain values. `script` prints them in the
//! syntax of nft(8), and `transaction` makes netlink messages of them.

use std::ffi::{CStr, CString};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use nftnl::{ChainType, Hook, Priority, ProtoFamily};

use super::names::{
    ALLOWED_INTERFACES, ALLOWED_V4, ALLOWED_V6, ARRIVED, COUNTED, FROM_V4, FROM_V6, INTERFACES,
    NO_ROOM, PORTS, STOPPED, TO_V4, TO_V6, WENT_ON,
};
use crate::words::family::Family;
use crate::words::hop::{Ether, NextHop};
use crate::words::ports::PortSet;
use crate::words::steer::QueueNum;

/// With more ranges than this, most of them single ports, the set is a hash table. With fewer, closing
/// takes a few ms either way, and nft(8) lists intervals as the user wrote them.
pub(crate) const MANY_RANGES: usize = 500;
/// Before raw (-300), connection tracking (-200) and NAT (-100): the packet is as it came in.
pub(super) const BEFORE_ALL: Priority = -310;
/// After each filter of the host's own, also the table security (50) and NAT (100).
pub(super) const BEHIND_ALL: Priority = 1_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ruleset {
    /// `syngate_<run id>`. No two runs share it, also not across pid namespaces.
    pub(super) name: CString,
    /// Names the run in `nft list ruleset`.
    pub(super) comment: CString,
    /// The kernel destroys the tables when the socket that made them is closed.
    pub(super) owned: bool,
    /// The chains have hooks. Without hooks the ruleset is only a question to the kernel: when a
    /// chain with a hook is removed, the kernel drops the packets in all queues of the network
    /// namespace (nf_queue_nf_hook_drop()).
    pub(super) hooked: bool,
    /// The ports that are gated when the gate closes.
    pub(super) ports: PortSet,
    /// The gate's table first, then the tables whose rules see SYNs before the gate.
    pub(super) tables: Vec<TableRules>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortsKind {
    /// A tree of intervals: a range costs no more than a port.
    Intervals,
    /// A hash table with an element for each port. A tree of very many ports takes long to fill and
    /// to list. The size is fixed, because a dump of a table that grows meanwhile may lack
    /// elements.
    Hash {
        /// The largest number of elements.
        most: u32,
    },
}

/// Each table has its own set of gated ports and its own counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableRules {
    /// The gate's table is for both IP versions (inet).
    pub(super) family: ProtoFamily,
    /// The rules stay when the gate opens, for connections that they have steered elsewhere.
    pub(super) stays: bool,
    pub(super) flows: Vec<FlowSet>,
    pub(super) sets: Vec<NamedSet>,
    pub(super) chains: Vec<BaseChain>,
}

/// A chain with a hook. It is named after its hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BaseChain {
    /// Filter or NAT. NAT chains see only the first packet of each connection.
    pub(super) kind: ChainType,
    pub(super) hook: Hook,
    /// Chains of a lower priority see a packet first.
    pub(super) priority: Priority,
    /// The terms of each rule, from left to right.
    pub(super) rules: Vec<Vec<Term>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedSet {
    pub(super) name: &'static CStr,
    pub(super) elements: Elements,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Elements {
    V4(Vec<Ipv4Net>),
    V6(Vec<Ipv6Net>),
    Interfaces(Vec<String>),
    Ports(PortSet),
}

/// A set of connections that packets fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlowSet {
    pub(super) name: &'static CStr,
    pub(super) family: Family,
    pub(super) most: u32,
    /// The lifetime of a connection without packets.
    pub(super) idle: Duration,
}

/// A term of a rule: a condition for going on to the next term, or an effect on the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Term {
    /// Without this term the kernel would read a UDP payload as TCP flags.
    Tcp,
    /// SYN is set; ACK, FIN and RST are not. ECN's bits do not matter (RFC 3168, 6.1.1: a SYN may carry
    /// ECE and CWR).
    NewSyn,
    ToGatedPort,
    /// To a port whose new connections are counted.
    ToCountedPort,
    /// The wall clock is before this time, in seconds since 1970.
    Before(u64),
    NotNewSyn,
    /// FIN or RST is set: the sender sends no more data.
    Ending,
    /// A router or host reports a packet that could not be delivered.
    IcmpError(Family),
    FromEther(Ether),
    NoHopLeft(Family),
    HopsLeft(Family),
    In(FlowSet),
    /// The kernel adds the connection to the set for this long. If the set is full, the rule ends
    /// here.
    Remember(FlowSet, Duration),
    /// The kernel removes the connection from the set. Few rules do this: kernels before August
    /// 2023 leak the memory of an element that a packet deletes, and never stop counting it
    /// (nft_rhash_delete()).
    Forget(FlowSet),
    Version(Family),
    To(Family),
    NotFrom(Family),
    From(Family),
    Via(Way),
    NotVia(Way),
    ToThisHost,
    /// It is from a socket with [`PASS_MARK`](crate::gate::rules::PASS_MARK).
    Marked,
    /// It comes in, or goes out, over the loopback interface, from an address that is not this host's:
    /// SYNPROXY sends such SYNs (synproxy_send_server_syn()).
    Proxied(Way),
    Count,
    /// Counts new connections that are let through.
    CountArrived,
    /// Counts SYNs that found the set of connections full.
    CountNoRoom,
    /// Counts packets of diverted connections that are not SYNs.
    CountWentOn,
    /// Sends a copy to that neighbour, with one hop less to live.
    CopyTo(NextHop),
    /// The packet leaves this chain and goes on.
    Accept,
    Drop,
    /// Its sender gets a reset.
    Refuse,
    /// The packet goes to this queue. If no program reads the queue, the packet goes on.
    Queue(QueueNum),
    /// The connection goes to this port of the same address.
    Redirect(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    In,
    /// The only interface of a packet that this host sends: it has no input interface.
    Out,
}

impl Ruleset {
    pub(super) fn ports_kind(&self) -> PortsKind {
        let (ranges, ports) = (self.ports.ranges().len(), self.ports.len());
        // An interval takes two elements.
        if ranges > MANY_RANGES && ports <= 2 * ranges {
            return PortsKind::Hash { most: ports as u32 };
        }
        PortsKind::Intervals
    }

    /// The same ruleset as a question to the kernel: its chains have no hooks, and the kernel
    /// destroys nothing with the socket. Not for NAT rules: connection tracking comes and goes with
    /// them, and its hooks are what `hooked` avoids.
    pub(super) fn rehearsed(&self) -> Ruleset {
        Ruleset {
            owned: false,
            hooked: false,
            ..self.clone()
        }
    }

    /// The same ruleset, whose rules leave new connections alone from that time on, in seconds since
    /// 1970.
    pub(super) fn ending(&self, end: Option<u64>) -> Ruleset {
        let mut ending = self.clone();
        let chains = ending.tables.iter_mut().flat_map(|t| &mut t.chains);
        for rule in chains.flat_map(|chain| &mut chain.rules) {
            rule.retain(|term| !matches!(term, Term::Before(_)));
            let at = rule.iter().position(|term| *term == Term::ToGatedPort);
            if let (Some(at), Some(end)) = (at, end) {
                rule.insert(at + 1, Term::Before(end));
            }
        }
        ending
    }

    /// When its rules end, in seconds since 1970.
    pub(super) fn end(&self) -> Option<u64> {
        let chains = self.tables.iter().flat_map(|table| &table.chains);
        let mut terms = chains.flat_map(|chain| &chain.rules).flatten();
        terms.find_map(|term| match term {
            Term::Before(end) => Some(*end),
            _ => None,
        })
    }

    pub(super) fn translates(&self) -> bool {
        let mut chains = self.tables.iter().flat_map(|table| &table.chains);
        chains.any(|chain| chain.kind == ChainType::Nat)
    }

    pub(super) fn refuses(&self) -> bool {
        let mut chains = self.tables.iter().flat_map(|table| &table.chains);
        chains.any(|chain| chain.rules.iter().flatten().any(|t| *t == Term::Refuse))
    }

    pub(super) fn diverts(&self) -> bool {
        self.tables.iter().any(|table| !table.flows.is_empty())
    }
}

impl TableRules {
    pub(super) fn counters(&self) -> Vec<&'static CStr> {
        let counts = self.sets.iter().any(|set| set.name == COUNTED);
        match (self.flows.is_empty(), counts) {
            (true, false) => vec![STOPPED],
            (true, true) => vec![STOPPED, ARRIVED],
            (false, _) => vec![STOPPED, NO_ROOM, WENT_ON],
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
            Elements::Interfaces(_) | Elements::Ports(_) => false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Elements::V4(networks) => networks.is_empty(),
            Elements::V6(networks) => networks.is_empty(),
            Elements::Interfaces(names) => names.is_empty(),
            Elements::Ports(ports) => ports.is_empty(),
        }
    }
}

impl Term {
    /// The set that the term looks into, and whether it matches if nothing is found there.
    pub(super) fn set(self) -> Option<(&'static CStr, bool)> {
        Some(match self {
            Term::ToGatedPort => (PORTS, false),
            Term::ToCountedPort => (COUNTED, false),
            Term::In(flows) => (flows.name, false),
            Term::To(Family::V4) => (TO_V4, false),
            Term::To(Family::V6) => (TO_V6, false),
            Term::NotFrom(Family::V4) => (ALLOWED_V4, true),
            Term::NotFrom(Family::V6) => (ALLOWED_V6, true),
            Term::From(Family::V4) => (FROM_V4, false),
            Term::From(Family::V6) => (FROM_V6, false),
            Term::Via(_) => (INTERFACES, false),
            Term::NotVia(_) => (ALLOWED_INTERFACES, true),
            _ => return None,
        })
    }
}

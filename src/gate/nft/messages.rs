//! From a [`Ruleset`] to netlink messages, and from the kernel's answers back to ports and counts.

use std::ffi::CStr;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use nftnl::expr::{
    Bitwise, Cmp, CmpOp, Immediate, Ipv4HeaderField, Ipv6HeaderField, LLHeaderField, Meta,
    NetworkHeaderField, Payload, Register, TcpHeaderField, TransportHeaderField, Verdict,
};
use nftnl::set::{Set, SetKey};
use nftnl::{Batch, Chain, FinalizedBatch, MsgType, Policy, ProtoFamily, Rule, Table};
use nix::libc;

use super::compile::{
    BaseChain, Elements, NO_ROOM, NamedSet, PORTS, PortsKind, Ruleset, STOPPED, Table as Rules,
    Term, WENT_ON, Way,
};
use super::divert::{FlowSet, HALF_OPEN};
use super::raw::{self, Field, FlowV4, FlowV6, Interface, Port};
use crate::kernel::netlink::{attribute, attributes, get, put_attribute};
use crate::kernel::route::octets;
use crate::kernel::sockets::Connection;
use crate::words::family::Family;
use crate::words::hop::NextHop;
use crate::words::ports::PortSet;

/// FIN, SYN, RST and ACK among the flags of a TCP header (RFC 9293, 3.1), which are byte 13.
const NEW_SYN_MASK: u8 = FIN | SYN | RST | 0x10;
const SYN: u8 = 0x02;
/// An address of this host (linux/rtnetlink.h, RTN_LOCAL).
const LOCAL: u32 = 2;
/// The numbers of a table's sets within a transaction, in which no two sets may have the same: of the
/// first table from 0 on, of the second from here on, and so forth. The set of ports is the first.
const IDS_OF_A_TABLE: u32 = 100;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;

// linux/netfilter/nf_tables.h; not all in the libc crate.
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_TABLE_USERDATA: u16 = 6;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_OBJ_DATA: u16 = 4;
const NFTA_COUNTER_PACKETS: u16 = 2;

/// A transaction, ready to be sent.
pub struct Transaction(FinalizedBatch);

impl Transaction {
    /// Of messages of any kind.
    pub fn of(batch: Batch) -> Transaction {
        Transaction(batch.finalize())
    }

    /// The pages that make one datagram.
    pub fn pages(&self) -> Vec<IoSlice<'_>> {
        self.0.iter().map(IoSlice::new).collect()
    }

    /// The sequence numbers that the kernel acknowledges.
    pub fn seqs(&self) -> std::ops::Range<u32> {
        self.0.sequence_numbers()
    }
}

/// A table, and the numbers of its sets.
struct Numbered<'a> {
    table: Table,
    rules: &'a Rules,
    ports_kind: PortsKind,
    /// The first one.
    ids: u32,
}

fn numbered(rules: &Ruleset) -> impl Iterator<Item = Numbered<'_>> {
    rules.tables.iter().zip(0..).map(|(of, n)| Numbered {
        table: Table::new(&*rules.name, of.family),
        rules: of,
        ports_kind: rules.ports_kind(),
        ids: 1 + n * IDS_OF_A_TABLE,
    })
}

/// The whole ruleset, in one transaction.
pub fn create(rules: &Ruleset, timeout: Duration) -> Transaction {
    let mut batch = Batch::new();
    for numbered in numbered(rules) {
        numbered.create(&mut batch, rules, timeout);
    }
    Transaction::of(batch)
}

/// Opens every port. Without its rules a chain lets everything pass, and taking them away is by far
/// the quickest, as quick with 32,000 ports as with one. But where they have to stay, for connections
/// that they have steered elsewhere, only the set is emptied: NAT may end with its last rule, too.
pub fn open(rules: &Ruleset) -> Transaction {
    let mut batch = Batch::new();
    for numbered in numbered(rules) {
        if numbered.rules.stays {
            batch.add(&raw::FlushSet(&numbered.timed_ports()), MsgType::Del);
        } else {
            numbered.flush(&mut batch);
        }
    }
    Transaction::of(batch)
}

/// What is to be done with the rules of the chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainRules {
    /// They are there.
    Keep,
    /// There are none: add them.
    Add,
    /// Nobody knows what is there: remove it, add them. In one transaction: NAT goes on.
    Renew,
}

/// Gates `ports` and no others. Emptied and filled in one transaction, because before Linux 6.12
/// adding an element again leaves its old timeout.
pub fn replace_ports(
    rules: &Ruleset,
    ports: &PortSet,
    timeout: Duration,
    chain_rules: ChainRules,
) -> Transaction {
    let mut batch = Batch::new();
    for numbered in numbered(rules) {
        batch.add(&raw::FlushSet(&numbered.timed_ports()), MsgType::Del);
        numbered.add_ports(&mut batch, ports.ranges(), timeout);
        if chain_rules == ChainRules::Renew {
            numbered.flush(&mut batch);
        }
        // What stays was not taken away.
        let there = chain_rules == ChainRules::Keep
            || chain_rules == ChainRules::Add && numbered.rules.stays;
        if !there {
            numbered.add_rules(&mut batch);
        }
    }
    Transaction::of(batch)
}

/// Leaves these connections here: what their clients send again is not new.
pub fn spare(rules: &Ruleset, connections: &[Connection]) -> Transaction {
    let mut batch = Batch::new();
    for numbered in numbered(rules) {
        let sets = numbered.rules.flows.iter();
        for set in sets.filter(|set| set.name == HALF_OPEN) {
            let id = numbered.id(set.name);
            let of = |c: &&Connection| Family::of(c.local.ip().to_canonical()) == set.family;
            let keys = connections.iter().filter(of).map(flow_key);
            let keys = keys.take(set.most as usize);
            match set.family {
                Family::V4 => add_flows(&mut batch, &numbered.table, set, id, keys.map(FlowV4)),
                Family::V6 => add_flows(&mut batch, &numbered.table, set, id, keys.map(FlowV6)),
            }
        }
    }
    Transaction::of(batch)
}

fn add_flows<K: SetKey>(
    batch: &mut Batch,
    table: &Table,
    set: &FlowSet,
    id: u32,
    keys: impl Iterator<Item = K>,
) {
    let mut all = raw::flow_set::<K>(table, set.name, id, set.most, set.idle);
    keys.for_each(|key| all.add(&key));
    batch.add_iter(all.elems_iter(), MsgType::Add);
}

/// As [`load_flow`] loads it from what the client sends: each part fills whole registers.
fn flow_key(Connection { local, peer, .. }: &Connection) -> Box<[u8]> {
    let end = |end: &SocketAddr| {
        let mut bytes = octets(end.ip().to_canonical());
        bytes.extend(end.port().to_be_bytes());
        bytes.extend([0; 2]);
        bytes
    };
    [end(peer), end(local)].concat().into()
}

/// Removes all tables of the ruleset.
pub fn delete(rules: &Ruleset) -> Transaction {
    let mut batch = Batch::new();
    for numbered in numbered(rules) {
        batch.add(&numbered.table, MsgType::Del);
    }
    Transaction::of(batch)
}

/// Removes one table of that name.
pub fn delete_one(name: &CStr, family: ProtoFamily) -> Transaction {
    let mut batch = Batch::new();
    batch.add(&Table::new(name, family), MsgType::Del);
    Transaction::of(batch)
}

impl Numbered<'_> {
    fn create(&self, batch: &mut Batch, all: &Ruleset, timeout: Duration) {
        let table = &self.table;
        batch.add(
            &raw::CommentedTable {
                family: self.rules.family,
                name: &all.name,
                comment: &all.comment,
                owned: all.owned,
            },
            MsgType::Add,
        );
        for name in self.rules.counters() {
            batch.add(&raw::Counter { table, name }, MsgType::Add);
        }
        batch.add(&self.timed_ports(), MsgType::Add);
        self.add_ports(batch, all.ports.ranges(), timeout);
        for flows in &self.rules.flows {
            add_flow_set(batch, table, flows, self.id(flows.name));
        }
        for set in &self.rules.sets {
            add_set(batch, table, set, self.id(set.name));
        }
        for chain in &self.rules.chains {
            batch.add(&base_chain(table, chain, all.hooked), MsgType::Add);
        }
        self.add_rules(batch);
    }

    /// The number of a set.
    fn id(&self, name: &CStr) -> u32 {
        let flows = self.rules.flows.iter().map(|set| set.name);
        let sets = self.rules.sets.iter().map(|set| set.name);
        let mut names = [PORTS].into_iter().chain(flows).chain(sets);
        let place = names.position(|other| other == name);
        self.ids + place.map_or(0, |place| place as u32)
    }

    fn timed_ports(&self) -> Set<'_, Port> {
        let of = |flags| raw::named_set(&self.table, PORTS, self.id(PORTS), flags);
        match self.ports_kind {
            PortsKind::Intervals => of(libc::NFT_SET_INTERVAL | libc::NFT_SET_TIMEOUT),
            PortsKind::Hash { most } => {
                let set = of(libc::NFT_SET_TIMEOUT);
                raw::limit(&set, most);
                set
            }
        }
    }

    /// Adds elements for all ranges, in as many messages as they need. In portions, because an element
    /// takes some hundred bytes in user space until its message is made; not in small ones, because
    /// each message is acknowledged, and the acknowledgements have to fit the socket's receive buffer
    /// (330 do not, by default).
    fn add_ports(&self, batch: &mut Batch, ranges: &[RangeInclusive<u16>], timeout: Duration) {
        const PORTION: usize = 500;
        for portion in ranges.chunks(PORTION) {
            let set = self.timed_ports();
            for range in portion {
                self.put_ports(&set, range, timeout);
            }
            batch.add_iter(set.elems_iter(), MsgType::Add);
        }
    }

    fn put_ports(&self, set: &Set<'_, Port>, range: &RangeInclusive<u16>, timeout: Duration) {
        let timeout = Some(timeout);
        match self.ports_kind {
            PortsKind::Hash { .. } => {
                let ports = range.clone().map(Port);
                ports.for_each(|port| raw::put(set, &port, timeout));
            }
            PortsKind::Intervals => {
                let after = range.end().checked_add(1).map(Port);
                raw::put_interval(set, &Port(*range.start()), after.as_ref(), timeout);
            }
        }
    }

    /// A rule without a handle stands for all rules of the chain (nf_tables_delrule()).
    fn flush(&self, batch: &mut Batch) {
        for chain in &self.rules.chains {
            let chain = Chain::new(chain.name(), &self.table);
            batch.add(&Rule::new(&chain), MsgType::Del);
        }
    }

    fn add_rules(&self, batch: &mut Batch) {
        for chain in &self.rules.chains {
            let into = Chain::new(chain.name(), &self.table);
            for terms in &chain.rules {
                let mut rule = Rule::new(&into);
                terms
                    .iter()
                    .for_each(|term| self.add_term(&mut rule, *term));
                batch.add(&rule, MsgType::Add);
            }
        }
    }

    fn add_term(&self, rule: &mut Rule, term: Term) {
        load(rule, term);
        if let Some((set, negated)) = term.set() {
            let id = self.id(set);
            rule.add_expr(&raw::LookUp { set, id, negated });
        }
        let (flows, life) = match term {
            Term::Remember(flows, life) => (flows, Some(life)),
            Term::Forget(flows) => (flows, None),
            _ => return,
        };
        let (set, id) = (flows.name, self.id(flows.name));
        rule.add_expr(&raw::Change { set, id, life });
    }
}

pub fn base_chain<'a>(table: &'a Table, chain: &BaseChain, hooked: bool) -> Chain<'a> {
    let mut made = Chain::new(chain.name(), table);
    if hooked {
        made.set_hook(chain.hook, chain.priority);
        made.set_type(chain.kind);
        made.set_policy(Policy::Accept);
    }
    made
}

fn add_flow_set(batch: &mut Batch, table: &Table, flows: &FlowSet, id: u32) {
    let FlowSet {
        name, most, idle, ..
    } = *flows;
    match flows.family {
        Family::V4 => batch.add(
            &raw::flow_set::<FlowV4>(table, name, id, most, idle),
            MsgType::Add,
        ),
        Family::V6 => batch.add(
            &raw::flow_set::<FlowV6>(table, name, id, most, idle),
            MsgType::Add,
        ),
    }
}

fn add_set(batch: &mut Batch, table: &Table, set: &NamedSet, id: u32) {
    match &set.elements {
        Elements::V4(networks) => {
            let after = |last: Ipv4Addr| u32::from(last).checked_add(1).map(Ipv4Addr::from);
            let bounds = networks.iter().map(|n| (n.network(), after(n.broadcast())));
            add_intervals(batch, table, set.name, id, bounds);
        }
        Elements::V6(networks) => {
            let after = |last: Ipv6Addr| u128::from(last).checked_add(1).map(Ipv6Addr::from);
            let bounds = networks.iter().map(|n| (n.network(), after(n.broadcast())));
            add_intervals(batch, table, set.name, id, bounds);
        }
        Elements::Interfaces(names) => {
            let mut all = raw::named_set::<Interface>(table, set.name, id, 0);
            raw::in_host_order(&all);
            batch.add(&all, MsgType::Add);
            for name in names {
                all.add(&Interface(name.clone()));
            }
            batch.add_iter(all.elems_iter(), MsgType::Add);
        }
    }
}

/// A set of intervals, each given by its first key and the first one behind it, if there is one.
fn add_intervals<K: SetKey>(
    batch: &mut Batch,
    table: &Table,
    name: &CStr,
    id: u32,
    bounds: impl Iterator<Item = (K, Option<K>)>,
) {
    let all = raw::named_set::<K>(table, name, id, libc::NFT_SET_INTERVAL);
    batch.add(&all, MsgType::Add);
    for (first, after) in bounds {
        raw::put_interval(&all, &first, after.as_ref(), None);
    }
    batch.add_iter(all.elems_iter(), MsgType::Add);
}

/// What a term is made of, but for what looks into, or changes, a set.
fn load(rule: &mut Rule, term: Term) {
    match term {
        Term::Tcp => {
            rule.add_expr(&Meta::L4Proto);
            rule.add_expr(&Cmp::new(CmpOp::Eq, libc::IPPROTO_TCP as u8));
        }
        Term::NewSyn => {
            load_flags(rule, NEW_SYN_MASK);
            rule.add_expr(&Cmp::new(CmpOp::Eq, SYN));
        }
        Term::NotNewSyn => {
            load_flags(rule, NEW_SYN_MASK);
            rule.add_expr(&Cmp::new(CmpOp::Neq, SYN));
        }
        Term::Ending => {
            load_flags(rule, FIN | RST);
            rule.add_expr(&Cmp::new(CmpOp::Neq, 0u8));
        }
        Term::IcmpError(family) => load_icmp_error(rule, family),
        Term::FromEther(from) => {
            const ARPHRD_ETHER: u16 = 1;
            rule.add_expr(&Meta::IifType);
            rule.add_expr(&Cmp::new(CmpOp::Eq, ARPHRD_ETHER));
            rule.add_expr(&Payload::LinkLayer(LLHeaderField::Saddr));
            rule.add_expr(&Cmp::new(CmpOp::Eq, &from.0[..]));
        }
        Term::NoHopLeft(family) => {
            load_hops(rule, family);
            rule.add_expr(&Cmp::new(CmpOp::Lt, 2u8));
        }
        Term::HopsLeft(family) => {
            load_hops(rule, family);
            rule.add_expr(&Cmp::new(CmpOp::Gt, 1u8));
        }
        Term::In(flows) | Term::Remember(flows, _) | Term::Forget(flows) => {
            load_flow(rule, flows.family);
        }
        Term::ToGatedPort => rule.add_expr(&Payload::Transport(TransportHeaderField::Tcp(
            TcpHeaderField::Dport,
        ))),
        Term::Version(family) => {
            rule.add_expr(&Meta::NfProto);
            rule.add_expr(&Cmp::new(CmpOp::Eq, nf_protocol(family)));
        }
        Term::To(family) => rule.add_expr(&Payload::Network(destination(family))),
        Term::NotFrom(family) => rule.add_expr(&Payload::Network(source(family))),
        Term::Via(way) | Term::NotVia(way) => rule.add_expr(&match way {
            Way::In => Meta::IifName,
            Way::Out => Meta::OifName,
        }),
        Term::ToThisHost => {
            rule.add_expr(&raw::DestinationType);
            rule.add_expr(&Cmp::new(CmpOp::Eq, LOCAL));
        }
        Term::Count => rule.add_expr(&raw::CountInto(STOPPED)),
        Term::CountNoRoom => rule.add_expr(&raw::CountInto(NO_ROOM)),
        Term::CountWentOn => rule.add_expr(&raw::CountInto(WENT_ON)),
        Term::CopyTo(hop) => copy_to(rule, &hop),
        Term::Accept => rule.add_expr(&Verdict::Accept),
        Term::Drop => rule.add_expr(&Verdict::Drop),
        Term::Queue(number) => rule.add_expr(&raw::Queue(number)),
        Term::QueueByTarget(number) => rule.add_expr(&raw::QueueTarget(number)),
        Term::Redirect(port) => {
            let loaded = Register::Reg1;
            rule.add_expr(&Immediate::new(port.to_be_bytes(), loaded));
            rule.add_expr(&raw::ToPort(loaded));
        }
    }
}

/// Some of TCP's flags.
fn load_flags(rule: &mut Rule, mask: u8) {
    // The crate speaks of bits here, and means bytes.
    rule.add_expr(&Payload::Transport(TransportHeaderField::Raw {
        offset_bits: 13,
        length_bits: 1,
    }));
    rule.add_expr(&Bitwise::new(mask, 0u8));
}

/// `icmp type destination-unreachable`, `icmpv6 type < 3`, which are destination-unreachable and
/// packet-too-big (RFC 792; RFC 4443, 3).
fn load_icmp_error(rule: &mut Rule, family: Family) {
    let (protocol, compare, kind) = match family {
        Family::V4 => (libc::IPPROTO_ICMP, CmpOp::Eq, 3u8),
        Family::V6 => (libc::IPPROTO_ICMPV6, CmpOp::Lt, 3u8),
    };
    rule.add_expr(&Meta::L4Proto);
    rule.add_expr(&Cmp::new(CmpOp::Eq, protocol as u8));
    rule.add_expr(&Payload::Transport(TransportHeaderField::Raw {
        offset_bits: 0,
        length_bits: 1,
    }));
    rule.add_expr(&Cmp::new(compare, kind));
}

/// How many hops a packet may go yet.
fn load_hops(rule: &mut Rule, family: Family) {
    rule.add_expr(&Payload::Network(match family {
        Family::V4 => NetworkHeaderField::Ipv4(Ipv4HeaderField::Ttl),
        Family::V6 => NetworkHeaderField::Ipv6(Ipv6HeaderField::HopLimit),
    }));
}

/// Addresses and ports of both ends, one behind the other, from register 1 on.
fn load_flow(rule: &mut Rule, family: Family) {
    let mut register = libc::NFT_REG32_00 as u32;
    let addresses = [source_field(family), destination_field(family)];
    for (address, port) in addresses.into_iter().zip([SOURCE_PORT, DESTINATION_PORT]) {
        for field in [address, port] {
            rule.add_expr(&raw::Load { field, register });
            register += field.length.div_ceil(4);
        }
    }
}

/// A copy of the packet, as it is then, goes to that neighbour.
pub fn copy_to(rule: &mut Rule, hop: &NextHop) {
    let (to, device) = (Register::Reg1, Register::Reg2);
    load_address(rule, hop.address);
    rule.add_expr(&Immediate::new(hop.device.index, device));
    rule.add_expr(&raw::Copy { to, device });
}

/// Into register 1.
pub fn load_address(rule: &mut Rule, address: IpAddr) {
    match address {
        IpAddr::V4(address) => rule.add_expr(&Immediate::new(address, Register::Reg1)),
        IpAddr::V6(address) => rule.add_expr(&Immediate::new(address, Register::Reg1)),
    }
}

/// Where a TCP header has its source port (RFC 9293, 3.1).
pub const SOURCE_PORT: Field = Field {
    base: libc::NFT_PAYLOAD_TRANSPORT_HEADER,
    offset: 0,
    length: 2,
};
/// The destination port follows.
pub const DESTINATION_PORT: Field = Field {
    offset: 2,
    ..SOURCE_PORT
};

/// Where an IP header has its source (RFC 791, 3.1; RFC 8200, 3).
pub fn source_field(family: Family) -> Field {
    let (offset, length) = match family {
        Family::V4 => (12, 4),
        Family::V6 => (8, 16),
    };
    Field {
        base: libc::NFT_PAYLOAD_NETWORK_HEADER,
        offset,
        length,
    }
}

/// The destination follows.
pub fn destination_field(family: Family) -> Field {
    let source = source_field(family);
    Field {
        offset: source.offset + source.length,
        ..source
    }
}

fn nf_protocol(family: Family) -> u8 {
    match family {
        Family::V4 => libc::NFPROTO_IPV4 as u8,
        Family::V6 => libc::NFPROTO_IPV6 as u8,
    }
}

fn destination(family: Family) -> NetworkHeaderField {
    match family {
        Family::V4 => NetworkHeaderField::Ipv4(Ipv4HeaderField::Daddr),
        Family::V6 => NetworkHeaderField::Ipv6(Ipv6HeaderField::Daddr),
    }
}

fn source(family: Family) -> NetworkHeaderField {
    match family {
        Family::V4 => NetworkHeaderField::Ipv4(Ipv4HeaderField::Saddr),
        Family::V6 => NetworkHeaderField::Ipv6(Ipv6HeaderField::Saddr),
    }
}

/// The body of a request about something in a table: its family, version 0, resource 0, and
/// NUL-terminated names.
pub fn about(family: ProtoFamily, names: &[(u16, &CStr)]) -> Vec<u8> {
    let mut body = vec![family as u8, 0, 0, 0];
    for (kind, name) in names {
        put_attribute(&mut body, *kind, name.to_bytes_with_nul());
    }
    body
}

/// An element of a set, as the kernel lists it.
pub struct Element<'a> {
    /// Its key; of an interval, where it begins or, with `end`, the first key behind it.
    pub key: &'a [u8],
    /// See `key`.
    pub end: bool,
    /// When the kernel removes it.
    pub expires: Option<Duration>,
}

/// The elements in one message of a set's dump.
pub fn elements(payload: &[u8]) -> impl Iterator<Item = Element<'_>> {
    let list = payload
        .get(4..)
        .and_then(|body| attribute(body, NFTA_SET_ELEM_LIST_ELEMENTS))
        .unwrap_or_default();
    attributes(list).filter_map(|(_, attributes)| element(attributes))
}

fn element(attributes: &[u8]) -> Option<Element<'_>> {
    let key = attribute(attributes, NFTA_SET_ELEM_KEY)?;
    let flags = attribute(attributes, NFTA_SET_ELEM_FLAGS)
        .and_then(|f| get(f, 0))
        .map_or(0, u32::from_be_bytes);
    let expires = attribute(attributes, NFTA_SET_ELEM_EXPIRATION).and_then(|e| get(e, 0));
    Some(Element {
        key: attribute(key, NFTA_DATA_VALUE)?,
        end: flags & libc::NFT_SET_ELEM_INTERVAL_END as u32 != 0,
        expires: expires.map(u64::from_be_bytes).map(Duration::from_millis),
    })
}

/// The ports in one message of a dump, each with whether an interval ends there.
pub fn bounds(payload: &[u8]) -> Vec<(u16, bool)> {
    elements(payload)
        .filter_map(|element| Some((u16::from_be_bytes(get(element.key, 0)?), element.end)))
        .collect()
}

/// Whether the set that the kernel describes is one of intervals. Without any flag it names none
/// (nf_tables_fill_set()).
pub fn has_intervals(payload: &[u8]) -> Option<bool> {
    let flags = attribute(payload.get(4..)?, NFTA_SET_FLAGS).and_then(|flags| get(flags, 0));
    Some(flags.map_or(0, u32::from_be_bytes) & libc::NFT_SET_INTERVAL as u32 != 0)
}

/// The ports of all messages of a dump.
pub fn ports(bounds: Vec<(u16, bool)>, intervals: bool) -> PortSet {
    match intervals {
        true => ports_between(bounds),
        false => bounds.into_iter().map(|(port, _)| port).collect(),
    }
}

/// A table, as the kernel lists it.
pub struct ListedTable {
    /// Its name.
    pub name: String,
    /// What nft shows as its comment; empty if there is none.
    pub comment: String,
    /// Whether it goes with the socket that made it.
    pub owned: bool,
}

/// The table in one message of a dump of tables.
pub fn table(payload: &[u8]) -> Option<ListedTable> {
    let body = payload.get(4..)?;
    let flags = attribute(body, NFTA_TABLE_FLAGS).and_then(|f| get(f, 0));
    let userdata = attribute(body, NFTA_TABLE_USERDATA).unwrap_or_default();
    Some(ListedTable {
        name: text(attribute(body, NFTA_TABLE_NAME)?),
        comment: text(raw::comment_in(userdata)),
        owned: flags.map_or(0, u32::from_be_bytes) & raw::NFT_TABLE_F_OWNER != 0,
    })
}

/// Text up to its NUL.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The ports between the bounds of intervals. The kernel lists them from the largest
/// to the smallest; expired elements are not listed, while their end may be.
fn ports_between(mut bounds: Vec<(u16, bool)>) -> PortSet {
    // An end before a beginning at the same port: that is where one interval ends and the next begins.
    bounds.sort_unstable_by_key(|(port, end)| (*port, !*end));
    let mut ranges = Vec::new();
    let mut begun: Option<u16> = None;
    for (port, end) in bounds {
        if let Some(from) = begun.take()
            && end
            && port > from
        {
            ranges.push(from..=port - 1);
        }
        if !end {
            begun = Some(port);
        }
    }
    if let Some(from) = begun {
        ranges.push(from..=u16::MAX);
    }
    PortSet::from_ranges(ranges)
}

/// The packets counted, from the answer about a named counter.
pub fn packets(payload: &[u8]) -> Option<u64> {
    let data = attribute(payload.get(4..)?, NFTA_OBJ_DATA)?;
    Some(u64::from_be_bytes(get(
        attribute(data, NFTA_COUNTER_PACKETS)?,
        0,
    )?))
}

/// What holds for any message of a dump.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let bounds = bounds(bytes);
    let mut reversed = bounds.clone();
    reversed.reverse();
    assert!(ports(bounds.clone(), false).len() <= bounds.len());
    assert_eq!(ports(bounds, true), ports(reversed, true), "in any order");
    if let Some(table) = table(bytes) {
        assert!(!table.name.contains('\0') && !table.comment.contains('\0'));
    }
    has_intervals(bytes);
    packets(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The set {80, 443-65535} as a 6.18 kernel listed it: from the largest to the smallest, and no
    /// end for the range that reaches the end of all ports.
    const ELEMENTS: &[u8] = &[
        1, 0, 0, 2, // inet, version 0, resource id
        10, 0, 2, 0, b'p', b'o', b'r', b't', b's', 0, 0, 0, // NFTA_SET_ELEM_LIST_SET
        108, 0, 3, 0, // NFTA_SET_ELEM_LIST_ELEMENTS
        0x28, 0, 1, 0, // an element
        0x0c, 0, 1, 0, 6, 0, 1, 0, 0x01, 0xbb, 0, 0, // key: 443
        0x0c, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0x75, 0x2c, // timeout: 29,996 ms
        0x0c, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0x75, 0x28, // expires in 29,992 ms
        0x18, 0, 1, 0, // an element
        0x0c, 0, 1, 0, 6, 0, 1, 0, 0x00, 0x51, 0, 0, // key: 81
        0x08, 0, 3, 0, 0, 0, 0, 1, // flags: the end of an interval
        0x28, 0, 1, 0, // an element
        0x0c, 0, 1, 0, 6, 0, 1, 0, 0x00, 0x50, 0, 0, // key: 80
        0x0c, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0x75, 0x2c, // timeout
        0x0c, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0x75, 0x28, // expires
    ];

    const COUNTER: &[u8] = &[
        1, 0, 0, 2, // inet
        17, 0, 2, 0, b's', b'y', b'n', b's', b'_', b's', b't', b'o', b'p', b'p', b'e', b'd', 0, 0,
        0, 0, 8, 0, 3, 0, 0, 0, 0, 1, // NFTA_OBJ_TYPE: counter
        28, 0, 4, 0, // NFTA_OBJ_DATA
        12, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 60, // bytes
        12, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 1, // packets: 257
    ];

    #[test]
    fn reads_the_ports_that_the_kernel_lists() {
        let bounds = bounds(ELEMENTS);
        assert_eq!(bounds, [(443, false), (81, true), (80, false)]);
        assert_eq!(ports_between(bounds.clone()).to_string(), "80,443-65535");
        assert_eq!(ports(bounds, false).to_string(), "80-81,443");
    }

    #[test]
    fn an_end_without_a_beginning_is_no_port() {
        // The beginning, which has the timeout, has expired.
        assert_eq!(ports_between(vec![(81, true)]), PortSet::EMPTY);
        // Ranges that touch.
        let touching = vec![(80, false), (90, true), (90, false), (91, true)];
        assert_eq!(ports_between(touching).to_string(), "80-90");
    }

    #[test]
    fn a_connection_is_a_key_as_packets_have_it() {
        let connection = |local: &str, peer: &str| Connection {
            local: local.parse().unwrap(),
            peer: peer.parse().unwrap(),
            cookie: 1,
        };
        let v4 = [10, 0, 0, 9, 0xc3, 0x50, 0, 0, 10, 0, 0, 1, 0, 80, 0, 0];
        let of = connection("10.0.0.1:80", "10.0.0.9:50000");
        assert_eq!(*flow_key(&of), v4);
        let mapped = connection("[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.9]:50000");
        assert_eq!(*flow_key(&mapped), v4);
        assert_eq!(v4.len(), FlowV4::LEN as usize);
        let v6 = flow_key(&connection("[fd00::1]:80", "[fd00::9]:50000"));
        assert_eq!(v6.len(), FlowV6::LEN as usize);
        assert_eq!(v6[16..24], [0xc3, 0x50, 0, 0, 0xfd, 0, 0, 0]);
    }

    #[test]
    fn reads_the_count() {
        assert_eq!(packets(COUNTER), Some(257));
        assert_eq!(packets(&COUNTER[..COUNTER.len() - 12]), None);
        assert_eq!(packets(&[]), None);
    }

    proptest! {
        #[test]
        fn hostile_replies_never_panic(
            at in 0..ELEMENTS.len(),
            flip in any::<u8>(),
        ) {
            let mut bent = ELEMENTS.to_vec();
            bent[at] ^= flip;
            withstand(&bent);
        }
    }
}

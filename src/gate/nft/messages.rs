//! From a [`Ruleset`] to netlink messages, and from the kernel's answers back to ports and counts.

use std::ffi::CStr;
use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use nftnl::expr::{
    Bitwise, Cmp, CmpOp, Immediate, Ipv4HeaderField, Ipv6HeaderField, Meta, NetworkHeaderField,
    Payload, Register, TcpHeaderField, TransportHeaderField, Verdict,
};
use nftnl::set::{Set, SetKey};
use nftnl::{Batch, Chain, FinalizedBatch, MsgType, Policy, ProtoFamily, Rule, Table};
use nix::libc;

use super::compile::{BaseChain, Elements, NamedSet, PORTS, Ruleset, STOPPED, Term, Way};
use super::raw::{self, Interface, Port};
use crate::netlink::{attribute, attributes, get, put_attribute};
use crate::ports::PortSet;
use crate::sockets::Family;

/// FIN, SYN, RST and ACK among the flags of a TCP header (RFC 9293, 3.1), which are byte 13.
const NEW_SYN_MASK: u8 = 0x01 | SYN | 0x04 | 0x10;
const SYN: u8 = 0x02;
/// An address of this host (linux/rtnetlink.h, RTN_LOCAL).
const LOCAL: u32 = 2;
/// The number of the set of ports within a transaction; the other sets' follow.
const PORTS_ID: u32 = 1;

// linux/netfilter/nf_tables.h; not all in the libc crate.
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_TABLE_USERDATA: u16 = 6;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_OBJ_DATA: u16 = 4;
const NFTA_COUNTER_PACKETS: u16 = 2;

/// A transaction, ready to be sent.
pub struct Transaction(FinalizedBatch);

impl Transaction {
    /// The pages that make one datagram.
    pub fn pages(&self) -> Vec<IoSlice<'_>> {
        self.0.iter().map(IoSlice::new).collect()
    }

    /// The sequence numbers that the kernel acknowledges.
    pub fn seqs(&self) -> std::ops::Range<u32> {
        self.0.sequence_numbers()
    }
}

/// The whole ruleset, in one transaction.
pub fn create(rules: &Ruleset, timeout: Duration) -> Transaction {
    let table = Table::new(&*rules.table, ProtoFamily::Inet);
    let mut batch = Batch::new();
    batch.add(
        &raw::CommentedTable {
            name: &rules.table,
            comment: &rules.comment,
            owned: rules.owned,
        },
        MsgType::Add,
    );
    batch.add(
        &raw::Counter {
            table: &rules.table,
            name: STOPPED,
        },
        MsgType::Add,
    );
    batch.add(&timed_ports(&table), MsgType::Add);
    add_ports(&mut batch, &table, rules.ports.ranges(), timeout);
    for (n, set) in rules.sets.iter().enumerate() {
        add_set(&mut batch, &table, set, set_id(n));
    }
    for chain in &rules.chains {
        batch.add(&base_chain(&table, chain, rules.hooked), MsgType::Add);
        add_rules(&mut batch, &table, chain, rules);
    }
    Transaction(batch.finalize())
}

/// Opens every port. Without its rules a chain lets everything pass, and taking them away is by far
/// the quickest, as quick with 32,000 ports as with one. But NAT may end with its last rule, and
/// with it the connections that were redirected: then only the set is emptied.
pub fn open(rules: &Ruleset) -> Transaction {
    let table = Table::new(&*rules.table, ProtoFamily::Inet);
    let mut batch = Batch::new();
    if rules.translates() {
        batch.add(&raw::FlushSet(&timed_ports(&table)), MsgType::Del);
    } else {
        rules
            .chains
            .iter()
            .for_each(|chain| flush(&mut batch, &table, chain));
    }
    Transaction(batch.finalize())
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
    let table = Table::new(&*rules.table, ProtoFamily::Inet);
    let mut batch = Batch::new();
    batch.add(&raw::FlushSet(&timed_ports(&table)), MsgType::Del);
    add_ports(&mut batch, &table, ports.ranges(), timeout);
    for chain in &rules.chains {
        if chain_rules == ChainRules::Renew {
            flush(&mut batch, &table, chain);
        }
        if chain_rules != ChainRules::Keep {
            add_rules(&mut batch, &table, chain, rules);
        }
    }
    Transaction(batch.finalize())
}

/// Removes a table and all in it.
pub fn delete(table: &CStr) -> Transaction {
    let mut batch = Batch::new();
    batch.add(&Table::new(table, ProtoFamily::Inet), MsgType::Del);
    Transaction(batch.finalize())
}

fn base_chain<'a>(table: &'a Table, chain: &BaseChain, hooked: bool) -> Chain<'a> {
    let mut made = Chain::new(chain.name(), table);
    if hooked {
        made.set_hook(chain.hook, chain.priority);
        made.set_type(chain.kind);
        made.set_policy(Policy::Accept);
    }
    made
}

/// A rule without a handle stands for all rules of the chain (nf_tables_delrule()).
fn flush(batch: &mut Batch, table: &Table, chain: &BaseChain) {
    batch.add(&Rule::new(&Chain::new(chain.name(), table)), MsgType::Del);
}

fn timed_ports(table: &Table) -> Set<'_, Port> {
    let flags = libc::NFT_SET_INTERVAL | libc::NFT_SET_TIMEOUT;
    raw::named_set(table, PORTS, PORTS_ID, flags)
}

/// Adds elements for all ranges, in as many messages as they need. In portions, because an element
/// takes some hundred bytes in user space until its message is made; not in small ones, because
/// each message is acknowledged, and the acknowledgements have to fit the socket's receive buffer
/// (330 do not, by default).
fn add_ports(batch: &mut Batch, table: &Table, ranges: &[RangeInclusive<u16>], timeout: Duration) {
    const PORTION: usize = 500;
    for portion in ranges.chunks(PORTION) {
        let set = timed_ports(table);
        for range in portion {
            let after = range.end().checked_add(1).map(Port);
            raw::put_interval(&set, &Port(*range.start()), after.as_ref(), Some(timeout));
        }
        batch.add_iter(set.elems_iter(), MsgType::Add);
    }
}

/// The number of the n-th of the other sets.
fn set_id(n: usize) -> u32 {
    PORTS_ID + 1 + n as u32
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

fn add_rules(batch: &mut Batch, table: &Table, chain: &BaseChain, rules: &Ruleset) {
    let into = Chain::new(chain.name(), table);
    for terms in &chain.rules {
        let mut rule = Rule::new(&into);
        for term in terms {
            load(&mut rule, *term);
            if let Some((set, negated)) = term.set() {
                let others = rules.sets.iter().position(|s| s.name == set);
                let id = others.map_or(PORTS_ID, set_id);
                rule.add_expr(&raw::LookUp { set, id, negated });
            }
        }
        batch.add(&rule, MsgType::Add);
    }
}

/// What a term is made of, but for the look-up of what it has loaded.
fn load(rule: &mut Rule, term: Term) {
    match term {
        Term::Tcp => {
            rule.add_expr(&Meta::L4Proto);
            rule.add_expr(&Cmp::new(CmpOp::Eq, libc::IPPROTO_TCP as u8));
        }
        Term::NewSyn => {
            // The crate speaks of bits here, and means bytes.
            rule.add_expr(&Payload::Transport(TransportHeaderField::Raw {
                offset_bits: 13,
                length_bits: 1,
            }));
            rule.add_expr(&Bitwise::new(NEW_SYN_MASK, 0u8));
            rule.add_expr(&Cmp::new(CmpOp::Eq, SYN));
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

/// The body of a request about something in the table: family inet, version 0, resource 0, and
/// NUL-terminated names.
pub fn about(names: &[(u16, &CStr)]) -> Vec<u8> {
    let mut body = vec![libc::NFPROTO_INET as u8, 0, 0, 0];
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

/// The interval bounds in one message of a dump of ports: port, and whether the interval ends there.
pub fn bounds(payload: &[u8]) -> Vec<(u16, bool)> {
    elements(payload)
        .filter_map(|element| Some((u16::from_be_bytes(get(element.key, 0)?), element.end)))
        .collect()
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

/// The ports between the bounds of all messages of a dump. The kernel lists them from the largest
/// to the smallest; expired elements are not listed, while their end may be.
pub fn ports_between(mut bounds: Vec<(u16, bool)>) -> PortSet {
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
        assert_eq!(ports_between(bounds).to_string(), "80,443-65535");
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
    fn reads_the_count() {
        assert_eq!(packets(COUNTER), Some(257));
        assert_eq!(packets(&COUNTER[..COUNTER.len() - 12]), None);
        assert_eq!(packets(&[]), None);
    }

    proptest! {
        #[test]
        fn hostile_replies_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in 0..ELEMENTS.len(),
            flip in any::<u8>(),
        ) {
            let mut bent = ELEMENTS.to_vec();
            bent[at] ^= flip;
            ports_between(bounds(&bytes));
            ports_between(bounds(&bent));
            packets(&bytes);
        }
    }
}

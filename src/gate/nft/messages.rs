//! From a [`Ruleset`] to netlink messages, and from the kernel's answers back to ports and counts.

use std::ffi::CStr;
use std::io::IoSlice;
use std::time::Duration;

use nftnl::expr::{
    Bitwise, Cmp, CmpOp, Lookup, Meta, Payload, TcpHeaderField, TransportHeaderField, Verdict,
};
use nftnl::set::Set;
use nftnl::{Batch, Chain, ChainType, FinalizedBatch, MsgType, Policy, ProtoFamily, Rule, Table};
use nix::libc;

use super::compile::{CHAIN, PORTS, Ruleset, STOPPED, Term};
use super::raw::{self, Port};
use crate::netlink::{attribute, attributes, get, put_attribute};
use crate::ports::PortSet;

/// FIN, SYN, RST and ACK among the flags of a TCP header (RFC 9293, 3.1), which are byte 13.
const NEW_SYN_MASK: u8 = 0x01 | SYN | 0x04 | 0x10;
const SYN: u8 = 0x02;

// linux/netfilter/nf_tables.h; not all in the libc crate.
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
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
        &raw::OwnedTable {
            name: &rules.table,
            comment: &rules.comment,
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
    let set = raw::timed_port_set(&table, PORTS);
    batch.add(&set, MsgType::Add);
    raw::add_elements(&mut batch, &table, PORTS, rules.ports.ranges(), timeout);
    let chain = base_chain(&table, rules);
    batch.add(&chain, MsgType::Add);
    batch.add(&rule(&chain, &set, &rules.rule), MsgType::Add);
    Transaction(batch.finalize())
}

/// Opens every port: without its rule the chain lets everything pass.
pub fn flush_rule(rules: &Ruleset) -> Transaction {
    let table = Table::new(&*rules.table, ProtoFamily::Inet);
    let mut batch = Batch::new();
    // A rule without a handle stands for all rules of the chain (nf_tables_delrule()).
    batch.add(&Rule::new(&base_chain(&table, rules)), MsgType::Del);
    Transaction(batch.finalize())
}

/// Gates `ports` and no others. Emptied and filled in one transaction, because before Linux 6.12
/// adding an element again leaves its old timeout.
///
/// `add_rule`: the gate was open, so its chain is empty.
pub fn replace_ports(
    rules: &Ruleset,
    ports: &PortSet,
    timeout: Duration,
    add_rule: bool,
) -> Transaction {
    let table = Table::new(&*rules.table, ProtoFamily::Inet);
    let mut batch = Batch::new();
    let set = raw::timed_port_set(&table, PORTS);
    batch.add(&raw::FlushSet(&set), MsgType::Del);
    raw::add_elements(&mut batch, &table, PORTS, ports.ranges(), timeout);
    if add_rule {
        let chain = base_chain(&table, rules);
        batch.add(&rule(&chain, &set, &rules.rule), MsgType::Add);
    }
    Transaction(batch.finalize())
}

/// Removes the table and all in it.
pub fn delete(rules: &Ruleset) -> Transaction {
    let mut batch = Batch::new();
    batch.add(&Table::new(&*rules.table, ProtoFamily::Inet), MsgType::Del);
    Transaction(batch.finalize())
}

fn base_chain<'a>(table: &'a Table, rules: &Ruleset) -> Chain<'a> {
    let mut chain = Chain::new(CHAIN, table);
    chain.set_hook(rules.hook, rules.priority);
    chain.set_type(ChainType::Filter);
    chain.set_policy(Policy::Accept);
    chain
}

fn rule<'a>(chain: &'a Chain<'a>, set: &Set<Port>, terms: &[Term]) -> Rule<'a> {
    let mut rule = Rule::new(chain);
    for term in terms {
        add_term(&mut rule, *term, set);
    }
    rule
}

fn add_term(rule: &mut Rule, term: Term, set: &Set<Port>) {
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
        Term::ToGatedPort => {
            rule.add_expr(&Payload::Transport(TransportHeaderField::Tcp(
                TcpHeaderField::Dport,
            )));
            rule.add_expr(&Lookup::new(set));
        }
        Term::Count => rule.add_expr(&raw::CountInto(STOPPED)),
        Term::Drop => rule.add_expr(&Verdict::Drop),
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

/// The interval bounds in one message of a set's dump: port, and whether the interval ends there.
pub fn bounds(payload: &[u8]) -> Vec<(u16, bool)> {
    let list = payload
        .get(4..)
        .and_then(|body| attribute(body, NFTA_SET_ELEM_LIST_ELEMENTS))
        .unwrap_or_default();
    attributes(list)
        .filter_map(|(_, element)| bound(element))
        .collect()
}

fn bound(element: &[u8]) -> Option<(u16, bool)> {
    let key = attribute(attribute(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE)?;
    let flags = attribute(element, NFTA_SET_ELEM_FLAGS)
        .and_then(|f| get(f, 0))
        .map_or(0, u32::from_be_bytes);
    let end = flags & libc::NFT_SET_ELEM_INTERVAL_END as u32 != 0;
    Some((u16::from_be_bytes(get(key, 0)?), end))
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

//! Makes netlink messages from a [`Ruleset`].

use std::ffi::CStr;
use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use nftnl::set::{Set, SetKey};
use nftnl::{Batch, Chain, FinalizedBatch, MsgType, Policy, ProtoFamily, Rule, Table};
use nix::libc;

use super::expressions::{LookUp, UpdateSet};
use super::names::{HALF_OPEN, PORTS};
use super::raw::{CommentedTable, FlushSet, NewCounter};
use super::ruleset::{
    BaseChain, Elements, FlowSet, NamedSet, PortsKind, Ruleset, TableRules, Term,
};
use super::sets::{self, FlowV4, FlowV6, Interface, Port};
use super::terms::add_expressions;
use crate::kernel::route::octets;
use crate::kernel::sockets::Connection;
use crate::words::family::Family;
use crate::words::ports::PortSet;

/// Sets are numbered within a transaction, and no two may share a number. Each table has a block of
/// this many numbers; the first one is for its set of ports.
const IDS_OF_A_TABLE: u32 = 100;

pub(super) struct Transaction(FinalizedBatch);

impl Transaction {
    pub(super) fn of(batch: Batch) -> Transaction {
        Transaction(batch.finalize())
    }

    /// The pages, which the caller sends in one datagram.
    pub(super) fn pages(&self) -> Vec<IoSlice<'_>> {
        self.0.iter().map(IoSlice::new).collect()
    }

    pub(super) fn seqs(&self) -> std::ops::Range<u32> {
        self.0.sequence_numbers()
    }
}

struct Numbered<'a> {
    table: Table,
    rules: &'a TableRules,
    ports_kind: PortsKind,
    /// The first number of the table's sets.
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

pub(super) fn create(rules: &Ruleset, timeout: Duration) -> Transaction {
    let mut batch = Batch::new();
    for numbered in numbered(rules) {
        numbered.create(&mut batch, rules, timeout);
    }
    Transaction::of(batch)
}

/// Opens every port. A chain without rules lets everything pass, and removing the rules is the
/// quickest way: as quick with 32,000 ports as with one. Where rules must stay for connections that
/// they have steered elsewhere, only the set is emptied: NAT too may end with its last rule.
pub(super) fn open(rules: &Ruleset) -> Transaction {
    let mut batch = Batch::new();
    for numbered in numbered(rules) {
        if numbered.rules.stays {
            batch.add(&FlushSet(&numbered.timed_ports()), MsgType::Del);
        } else {
            numbered.flush(&mut batch);
        }
    }
    Transaction::of(batch)
}

/// What a transaction does with the chains' rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChainRules {
    /// All rules are there.
    Keep,
    /// No rules are there.
    Add,
    /// Somebody may have changed the rules: removes and adds them in one transaction, so that NAT
    /// goes on.
    Renew,
}

/// Gates exactly `ports`. Empties and fills the set in one transaction, because before Linux 6.12
/// an element that is added again keeps its old timeout.
pub(super) fn replace_ports(
    rules: &Ruleset,
    ports: &PortSet,
    timeout: Duration,
    chain_rules: ChainRules,
) -> Transaction {
    let mut batch = Batch::new();
    for numbered in numbered(rules) {
        batch.add(&FlushSet(&numbered.timed_ports()), MsgType::Del);
        numbered.add_ports(&mut batch, ports.ranges(), timeout);
        if chain_rules == ChainRules::Renew {
            numbered.flush(&mut batch);
        }
        // Opening does not remove rules that stay.
        let there = chain_rules == ChainRules::Keep
            || chain_rules == ChainRules::Add && numbered.rules.stays;
        if !there {
            numbered.add_rules(&mut batch);
        }
    }
    Transaction::of(batch)
}

/// Excepts these connections from being diverted: a repeated SYN of their clients is not new.
pub(super) fn spare(rules: &Ruleset, connections: &[Connection]) -> Transaction {
    let mut batch = Batch::new();
    for numbered in numbered(rules) {
        let flow_sets = numbered.rules.flows.iter();
        for set in flow_sets.filter(|set| set.name == HALF_OPEN) {
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
    let mut all = sets::flow_set::<K>(table, set.name, id, set.most, set.idle);
    keys.for_each(|key| all.add(&key));
    batch.add_iter(all.elems_iter(), MsgType::Add);
}

/// The key as a rule loads it from a client's packet: each part fills whole registers.
fn flow_key(Connection { local, peer, .. }: &Connection) -> Box<[u8]> {
    let end = |end: &SocketAddr| {
        let mut bytes = octets(end.ip().to_canonical());
        bytes.extend(end.port().to_be_bytes());
        bytes.extend([0; 2]);
        bytes
    };
    [end(peer), end(local)].concat().into()
}

pub(super) fn delete(rules: &Ruleset) -> Transaction {
    let mut batch = Batch::new();
    for numbered in numbered(rules) {
        batch.add(&numbered.table, MsgType::Del);
    }
    Transaction::of(batch)
}

pub(super) fn delete_one(name: &CStr, family: ProtoFamily) -> Transaction {
    let mut batch = Batch::new();
    batch.add(&Table::new(name, family), MsgType::Del);
    Transaction::of(batch)
}

impl Numbered<'_> {
    fn create(&self, batch: &mut Batch, all: &Ruleset, timeout: Duration) {
        let table = &self.table;
        batch.add(
            &CommentedTable {
                family: self.rules.family,
                name: &all.name,
                comment: &all.comment,
                owned: all.owned,
            },
            MsgType::Add,
        );
        for name in self.rules.counters() {
            batch.add(&NewCounter { table, name }, MsgType::Add);
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

    fn id(&self, name: &CStr) -> u32 {
        let flows = self.rules.flows.iter().map(|set| set.name);
        let sets = self.rules.sets.iter().map(|set| set.name);
        let mut names = [PORTS].into_iter().chain(flows).chain(sets);
        let place = names.position(|other| other == name);
        self.ids + place.map_or(0, |place| place as u32)
    }

    fn timed_ports(&self) -> Set<'_, Port> {
        let of = |flags| sets::named_set(&self.table, PORTS, self.id(PORTS), flags);
        match self.ports_kind {
            PortsKind::Intervals => of(libc::NFT_SET_INTERVAL | libc::NFT_SET_TIMEOUT),
            PortsKind::Hash { most } => {
                let set = of(libc::NFT_SET_TIMEOUT);
                sets::limit(&set, most);
                set
            }
        }
    }

    /// Adds elements for all ranges in several messages. Not in one, because an element takes some
    /// hundred bytes in user space until its message is made. Not in many, because the kernel
    /// acknowledges each message, and the acknowledgements have to fit the receive buffer (330 do
    /// not, by default).
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
                ports.for_each(|port| sets::put(set, &port, timeout));
            }
            PortsKind::Intervals => {
                let after = range.end().checked_add(1).map(Port);
                sets::put_interval(set, &Port(*range.start()), after.as_ref(), timeout);
            }
        }
    }

    /// The kernel takes a rule without a handle as all rules of the chain (nf_tables_delrule()).
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
        add_expressions(rule, term);
        if let Some((set, negated)) = term.set() {
            let id = self.id(set);
            rule.add_expr(&LookUp { set, id, negated });
        }
        let (flows, life) = match term {
            Term::Remember(flows, life) => (flows, Some(life)),
            Term::Forget(flows) => (flows, None),
            _ => return,
        };
        let (set, id) = (flows.name, self.id(flows.name));
        rule.add_expr(&UpdateSet { set, id, life });
    }
}

pub(super) fn base_chain<'a>(table: &'a Table, chain: &BaseChain, hooked: bool) -> Chain<'a> {
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
            &sets::flow_set::<FlowV4>(table, name, id, most, idle),
            MsgType::Add,
        ),
        Family::V6 => batch.add(
            &sets::flow_set::<FlowV6>(table, name, id, most, idle),
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
        Elements::Ports(ports) => {
            let after = |last: u16| last.checked_add(1).map(Port);
            let bounds = ports.ranges().iter();
            let bounds = bounds.map(|range| (Port(*range.start()), after(*range.end())));
            add_intervals(batch, table, set.name, id, bounds);
        }
        Elements::Interfaces(names) => {
            let mut all = sets::named_set::<Interface>(table, set.name, id, 0);
            sets::in_host_order(&all);
            batch.add(&all, MsgType::Add);
            for name in names {
                all.add(&Interface(name.clone()));
            }
            batch.add_iter(all.elems_iter(), MsgType::Add);
        }
    }
}

/// Each interval has a first key and, unless it reaches the largest key, a first key after it.
fn add_intervals<K: SetKey>(
    batch: &mut Batch,
    table: &Table,
    name: &CStr,
    id: u32,
    bounds: impl Iterator<Item = (K, Option<K>)>,
) {
    let all = sets::named_set::<K>(table, name, id, libc::NFT_SET_INTERVAL);
    batch.add(&all, MsgType::Add);
    for (first, after) in bounds {
        sets::put_interval(&all, &first, after.as_ref(), None);
    }
    batch.add_iter(all.elems_iter(), MsgType::Add);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::nft::compile::compile;
    use crate::gate::rules::{Leaving, Rules};
    use crate::words::hop::{Device, Ether, NextHop};
    use crate::words::scope::{Networks, Scope, parse_networks};
    use crate::words::steer::{Diversion, Steer};

    /// One ruleset for each way to steer, with every kind of scope.
    fn rulesets() -> Vec<Ruleset> {
        let hop = |address: &str| NextHop {
            address: address.parse().unwrap(),
            device: Device::new(2, "eth0"),
            ether: Some(Ether([2, 0, 0, 0, 0, 1])),
        };
        let diversion = Diversion {
            v4: Some(hop("10.0.0.2")),
            v6: Some(hop("fd00::2")),
            most: 9,
            idle: Duration::from_secs(90),
        };
        let networks = || Networks::new(parse_networks("10.0.0.0/8,fd00::/64").unwrap());
        let scope = Scope {
            to: networks(),
            allow_from: networks(),
            interfaces: vec!["eth0".to_owned()],
            ..Scope::default()
        };
        let steers = [
            Steer::Drop,
            Steer::Queue(7),
            Steer::Redirect(81),
            Steer::Divert(diversion),
        ];
        let scopes = [Scope::default(), scope];
        let each = steers
            .iter()
            .flat_map(|steer| scopes.iter().map(move |scope| (steer, scope)));
        let rules = each.map(|(steer, scope)| Rules {
            ports: [80, 443, 8080].into_iter().collect(),
            scope: scope.clone(),
            steer: *steer,
            passes_proxied: true,
            passes_marked: true,
            leaving: None,
        });
        let leaving = Rules {
            ports: PortSet::from_iter([8081]),
            scope: Scope {
                to: networks(),
                ..Scope::default()
            },
            steer: Steer::Refuse,
            passes_proxied: false,
            passes_marked: false,
            leaving: Some(Leaving {
                from: networks(),
                narrowed: false,
                counted: [80, 443, 65_535].into_iter().collect(),
            }),
        };
        rules
            .chain([leaving])
            .map(|rules| compile(&rules, "0123456789abcdef", "who"))
            .collect()
    }

    /// The lengths of the messages in a transaction. Each begins with its length, aligned to 4 bytes
    /// (`struct nlmsghdr`, linux/netlink.h).
    fn messages(transaction: &Transaction) -> Vec<usize> {
        let bytes = transaction
            .pages()
            .iter()
            .flat_map(|page| page.to_vec())
            .collect::<Vec<u8>>();
        let (mut at, mut lengths) = (0, Vec::new());
        while at < bytes.len() {
            let length = u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            assert!(
                (16..=bytes.len() - at).contains(&length),
                "{length} of {}",
                bytes.len()
            );
            lengths.push(length);
            at += length.next_multiple_of(4);
        }
        lengths
    }

    /// `make valgrind` runs this: it makes every object that raw.rs knows.
    #[test]
    fn transactions_are_whole_messages() {
        let second = Duration::from_secs(1);
        let ports: PortSet = [80].into_iter().collect();
        let connection = Connection {
            local: "10.0.0.1:80".parse().unwrap(),
            peer: "10.0.0.9:50000".parse().unwrap(),
            cookie: 1,
        };
        for rules in rulesets() {
            for rules in [rules.rehearsed(), rules] {
                let created = messages(&create(&rules, second));
                // The batch's begin and end, and for each table itself, a set, its elements, a chain, a
                // rule.
                assert!(created.len() >= 2 + 5 * rules.tables.len(), "{created:?}");
                for with in [ChainRules::Keep, ChainRules::Add, ChainRules::Renew] {
                    let replaced = messages(&replace_ports(&rules, &ports, second, with));
                    assert!(replaced.len() >= 2 + 2 * rules.tables.len(), "{replaced:?}");
                }
                for transaction in [open(&rules), delete(&rules)] {
                    assert_eq!(messages(&transaction).len(), 2 + rules.tables.len());
                }
                let spared = messages(&spare(&rules, &[connection]));
                assert_eq!(spared.len() > 2, rules.diverts(), "{spared:?}");
            }
        }
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
}

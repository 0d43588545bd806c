//! From [`Rules`] to nf_tables: which table, set and rule. Pure; it prints itself in nft(8)'s own
//! syntax, and `messages.rs` makes netlink of the same.

use std::ffi::{CStr, CString};
use std::fmt;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use nftnl::{ChainType, Hook, Priority, ProtoFamily};

use super::divert::{FlowSet, diverting};
use crate::gate::rules::Rules;
use crate::words::family::Family;
use crate::words::hop::{Ether, NextHop};
use crate::words::ports::PortSet;
use crate::words::scope::{Scope, Where, short};
use crate::words::steer::QueueNum;
use crate::words::steer::Steer;

/// With more ranges of ports than these, most of them single ports, the set is a hash table. With fewer,
/// closing takes some ms in either, and nft(8) lists intervals as they were asked for.
pub const MANY_RANGES: usize = 500;
/// The set of gated ports.
pub const PORTS: &CStr = c"ports";
/// The counter of stopped SYNs.
pub const STOPPED: &CStr = c"syns_stopped";
/// The counter of SYNs that could not be diverted, since there was no room.
pub const NO_ROOM: &CStr = c"no_room";
/// The counter of packets of diverted connections that got further than their SYN.
pub const WENT_ON: &CStr = c"went_on";
/// The sets of what the gate is narrowed to.
pub const TO_V4: &CStr = c"to4";
/// See [`TO_V4`].
pub const TO_V6: &CStr = c"to6";
/// See [`TO_V4`].
pub const INTERFACES: &CStr = c"interfaces";
/// The sets of what is let through.
pub const ALLOWED_V4: &CStr = c"allowed4";
/// See [`ALLOWED_V4`].
pub const ALLOWED_V6: &CStr = c"allowed6";
/// See [`ALLOWED_V4`].
pub const ALLOWED_INTERFACES: &CStr = c"allowed_interfaces";
/// The loopback interface. It can be renamed, but nobody does.
const LOOPBACK: &str = "lo";
/// Behind the host's own input filter (priority 0): what that refuses is not ours to stop or count.
const BEHIND_FILTER: Priority = 10;
/// Before raw (-300), connection tracking (-200) and NAT (-100): the packet is as it came in.
pub(super) const BEFORE_ALL: Priority = -310;
/// Before whoever else translates addresses (dstnat, -100): of two, the first one counts.
const BEFORE_NAT: Priority = -110;
/// A table's userdata holds a comment of at most 128 bytes, its NUL included (libnftnl/udata.h,
/// NFTNL_UDATA_COMMENT_MAXLEN).
const COMMENT_MAX: usize = 127;

/// Everything that the kernel gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// The name of its tables, `syngate_<run id>`: no two runs share it, also not across pid
    /// namespaces.
    pub name: CString,
    /// Who made it, for `nft list ruleset`.
    pub comment: CString,
    /// The tables go when the socket that made them is closed.
    pub owned: bool,
    /// The chains see packets. Without, it is only rehearsed: when a chain that does goes, the kernel
    /// drops whatever is in any queue of the network namespace (nf_queue_nf_hook_drop()).
    pub hooked: bool,
    /// What the sets of gated ports are filled with when the gate closes.
    pub ports: PortSet,
    /// The gate itself, and then what takes SYNs before they come to it.
    pub tables: Vec<Table>,
}

/// What a set of ports is made as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortsKind {
    /// A tree of intervals: a range takes no longer than a port.
    Intervals,
    /// A hash table, an element for each port: where there are a great many, a tree takes ever longer
    /// to fill and to list. Its size is given, because while it grows a dump may miss some.
    Hash {
        /// How many elements it takes.
        most: u32,
    },
}

impl fmt::Display for PortsKind {
    /// The flags and the size in nft(8)'s syntax.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortsKind::Intervals => f.write_str("flags interval,timeout"),
            PortsKind::Hash { most } => write!(f, "size {most}\n\t\tflags timeout"),
        }
    }
}

/// A table. Each has its own set of gated ports, and its own counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The gate's is for both IP versions (inet).
    pub family: ProtoFamily,
    /// Its rules stay when the gate opens, for connections that they have steered elsewhere.
    pub stays: bool,
    /// The sets that its rules fill.
    pub flows: Vec<FlowSet>,
    /// The other sets that its rules look into.
    pub sets: Vec<NamedSet>,
    /// Where its rules are.
    pub chains: Vec<BaseChain>,
}

/// A chain that sees packets. It is named after its hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// What its rules may do: filter, or translate addresses (NAT). Those see only the first packet
    /// of each connection.
    pub kind: ChainType,
    /// Where it sees packets, and when: before chains of a larger priority.
    pub hook: Hook,
    /// See [`BaseChain::hook`].
    pub priority: Priority,
    /// What each rule is made of, left to right.
    pub rules: Vec<Vec<Term>>,
}

/// A set that does not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSet {
    /// Its name.
    pub name: &'static CStr,
    /// What is in it.
    pub elements: Elements,
}

/// What is in a [`NamedSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elements {
    /// IPv4 networks.
    V4(Vec<Ipv4Net>),
    /// IPv6 networks.
    V6(Vec<Ipv6Net>),
    /// Interfaces, by name.
    Interfaces(Vec<String>),
}

/// A term of a rule: a condition that lets the packet go on to the next term, or what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// It is TCP. Without this a UDP payload would be read as TCP flags.
    Tcp,
    /// SYN is set; ACK, FIN and RST are not. ECN's bits are not looked at (RFC 3168, 6.1.1: a SYN
    /// may carry ECE and CWR).
    NewSyn,
    /// The destination port is in the set.
    ToGatedPort,
    /// It is anything else.
    NotNewSyn,
    /// FIN or RST is set: its sender sends no more data.
    Ending,
    /// A router, or a host, says that a packet could not be delivered.
    IcmpError(Family),
    /// It came from that neighbour.
    FromEther(Ether),
    /// It has come as far as it may.
    NoHopLeft(Family),
    /// It has not.
    HopsLeft(Family),
    /// Its connection is in the set.
    In(FlowSet),
    /// Its connection is in the set from now on, for so long; the rule ends here if there is no room.
    Remember(FlowSet, Duration),
    /// Its connection is not in the set any more. Rarely: in kernels before August 2023 the memory of an
    /// element that a packet deletes is lost, and it is counted for ever (nft_rhash_delete()).
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
    /// Count it.
    Count,
    /// Count it among those that there was no room for.
    CountNoRoom,
    /// Count it among those of diverted connections that are no SYNs.
    CountWentOn,
    /// A copy goes to that neighbour, with one hop less to live.
    CopyTo(NextHop),
    /// It is none of this chain's business.
    Accept,
    /// Drop it.
    Drop,
    /// Put it into this queue; if nobody reads that, the packet goes on. By nft's own expression
    /// `queue`.
    Queue(QueueNum),
    /// The same by the target NFQUEUE of x_tables, where the kernel lacks the expression.
    QueueByTarget(QueueNum),
    /// Its connection goes to this port of the same address.
    Redirect(u16),
}

/// Which of the interfaces on a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The one that it came in by.
    In,
    /// The one that it goes out by: what this host sends came in by none.
    Out,
}

/// Compiles the rules of run `id`; `comment` says who made them.
pub fn compile(rules: &Rules, id: &str, comment: &str) -> Ruleset {
    Ruleset {
        name: table_name(id),
        comment: fit_comment(comment),
        owned: true,
        hooked: true,
        ports: rules.ports.clone(),
        tables: tables(rules),
    }
}

/// The name of run `id`'s table.
pub fn table_name(id: &str) -> CString {
    CString::new(format!("{}{id}", crate::gate::rules::PREFIX)).expect("an id is hexadecimal")
}

fn tables(rules: &Rules) -> Vec<Table> {
    let gate = Table {
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

pub(super) fn sets(scope: &Scope) -> Vec<NamedSet> {
    let allowed = if scope.allow_local {
        vec![LOOPBACK.to_owned()]
    } else {
        Vec::new()
    };
    [
        (TO_V4, Elements::V4(scope.to.v4.clone())),
        (TO_V6, Elements::V6(scope.to.v6.clone())),
        (INTERFACES, Elements::Interfaces(scope.interfaces.clone())),
        (ALLOWED_V4, Elements::V4(scope.allow_from.v4.clone())),
        (ALLOWED_V6, Elements::V6(scope.allow_from.v6.clone())),
        (ALLOWED_INTERFACES, Elements::Interfaces(allowed)),
    ]
    .into_iter()
    .filter(|(_, elements)| !elements.is_empty())
    .map(|(name, elements)| NamedSet { name, elements })
    .collect()
}

/// NAT has to see what comes in and what this host sends to itself, each in a hook of its own.
fn chains(rules: &Rules) -> Vec<BaseChain> {
    let chain = |kind, hook, priority| BaseChain {
        kind,
        hook,
        priority,
        rules: compile_rules(&rules.scope, rules.steer, hook),
    };
    match (rules.steer, rules.scope.hook) {
        (Steer::Redirect(_), _) => [Hook::PreRouting, Hook::Out]
            .map(|hook| chain(ChainType::Nat, hook, BEFORE_NAT))
            .into(),
        (_, Where::Input) => vec![chain(ChainType::Filter, Hook::In, BEHIND_FILTER)],
        (_, Where::Prerouting) => vec![chain(ChainType::Filter, Hook::PreRouting, BEFORE_ALL)],
    }
}

/// One rule, or one for each IP version if addresses matter.
fn compile_rules(scope: &Scope, steer: Steer, hook: Hook) -> Vec<Vec<Term>> {
    if scope.to.is_empty() && scope.allow_from.is_empty() {
        return vec![rule(Vec::new(), scope, steer, hook)];
    }
    Family::ALL
        .into_iter()
        .filter(|family| scope.gates(*family))
        .map(|family| {
            let mut terms = vec![Term::Version(family)];
            terms.extend(addresses(scope, family));
            rule(terms, scope, steer, hook)
        })
        .collect()
}

pub(super) fn addresses(scope: &Scope, family: Family) -> Vec<Term> {
    let mut terms = Vec::new();
    if !scope.to.is_empty() {
        terms.push(Term::To(family));
    }
    if !scope.allow_from.of(family).is_empty() {
        terms.push(Term::NotFrom(family));
    }
    terms
}

fn rule(addresses: Vec<Term>, scope: &Scope, steer: Steer, hook: Hook) -> Vec<Term> {
    let mut terms = new_syn(addresses, scope, hook);
    terms.push(Term::Count);
    terms.push(match steer {
        // What was not diverted before it came here.
        Steer::Drop | Steer::Divert(_) => Term::Drop,
        Steer::Queue(number) => Term::Queue(number),
        Steer::Redirect(port) => Term::Redirect(port),
    });
    terms
}

/// Which SYNs are meant.
pub(super) fn new_syn(addresses: Vec<Term>, scope: &Scope, hook: Hook) -> Vec<Term> {
    let way = match hook {
        Hook::Out => Way::Out,
        _ => Way::In,
    };
    let mut terms = vec![Term::Tcp, Term::NewSyn, Term::ToGatedPort];
    terms.extend(addresses);
    if !scope.interfaces.is_empty() {
        terms.push(Term::Via(way));
    }
    if scope.allow_local {
        terms.push(Term::NotVia(way));
    }
    // What reaches the input hook is.
    if hook != Hook::In {
        terms.push(Term::ToThisHost);
    }
    terms
}

/// nft prints comments between quotes as they are: whatever would end or garble that is replaced.
pub(super) fn fit_comment(text: &str) -> CString {
    let mut clean: String = text
        .chars()
        .map(|c| if c == '"' { '\'' } else { c })
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    while clean.len() > COMMENT_MAX {
        clean.pop();
    }
    CString::new(clean).expect("control characters, NUL among them, are replaced")
}

impl Ruleset {
    /// In nft(8)'s syntax, as a script for `nft -f` and as `nft list table` shows it. Each port
    /// leaves the set `timeout` after the gate has closed.
    pub fn script(&self, timeout: Duration) -> String {
        let timeout = NftTime(timeout);
        let elements: Vec<String> = match self.ports_kind() {
            PortsKind::Intervals => self
                .ports
                .to_string()
                .split(',')
                .map(str::to_owned)
                .collect(),
            PortsKind::Hash { .. } => self.ports.iter().map(|port| port.to_string()).collect(),
        };
        let elements = elements.iter().map(|e| format!("{e} timeout {timeout}"));
        let elements = elements.collect::<Vec<_>>().join(", ");
        let tables: Vec<String> = self
            .tables
            .iter()
            .map(|table| self.table_script(table, &elements))
            .collect();
        tables.join("\n")
    }

    fn table_script(&self, table: &Table, elements: &str) -> String {
        let counters: Vec<String> = table
            .counters()
            .iter()
            .map(|name| format!("\tcounter {} {{ }}\n\n", shown(name)))
            .collect();
        let flows: Vec<String> = table.flows.iter().map(FlowSet::to_string).collect();
        let sets: Vec<String> = table.sets.iter().map(NamedSet::to_string).collect();
        let chains: Vec<String> = table.chains.iter().map(BaseChain::to_string).collect();
        format!(
            "table {family} {name} {{\n\
             \tcomment \"{comment}\"\n\
             {owner}\n\
             {counters}\
             \tset {ports} {{\n\
             \t\ttype inet_service\n\
             \t\t{kind}\n\
             \t\telements = {{ {elements} }}\n\
             \t}}\n\n\
             {flows}\
             {sets}\
             {chains}\
             }}\n",
            family = match table.family {
                ProtoFamily::Ipv4 => "ip",
                ProtoFamily::Ipv6 => "ip6",
                _ => "inet",
            },
            name = shown(&self.name),
            comment = shown(&self.comment),
            owner = if self.owned { "\tflags owner\n" } else { "" },
            counters = counters.concat(),
            ports = shown(PORTS),
            kind = self.ports_kind(),
            flows = flows.concat(),
            sets = sets.concat(),
            chains = chains.join("\n"),
        )
    }

    /// What the sets of gated ports are made as.
    pub fn ports_kind(&self) -> PortsKind {
        let (ranges, ports) = (self.ports.ranges().len(), self.ports.len());
        // An interval is two elements.
        if ranges > MANY_RANGES && ports <= 2 * ranges {
            return PortsKind::Hash { most: ports as u32 };
        }
        PortsKind::Intervals
    }

    /// To ask whether the kernel can do that: nothing of it sees packets, or outlives us. Not for
    /// rules that translate addresses: connection tracking comes and goes with them, and that has
    /// hooks, which is what `hooked` is to avoid.
    pub fn rehearsed(&self) -> Ruleset {
        Ruleset {
            owned: false,
            hooked: false,
            ..self.clone()
        }
    }

    /// The same for a kernel without nft's expression `queue`; `None` if there is nothing to change.
    pub fn with_target(&self) -> Option<Ruleset> {
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
    pub fn translates(&self) -> bool {
        let mut chains = self.tables.iter().flat_map(|table| &table.chains);
        chains.any(|chain| chain.kind == ChainType::Nat)
    }

    /// Whether its rules hand connections to a peer.
    pub fn diverts(&self) -> bool {
        self.tables.iter().any(|table| !table.flows.is_empty())
    }
}

impl Table {
    /// The names of its counters.
    pub fn counters(&self) -> Vec<&'static CStr> {
        match self.flows.is_empty() {
            true => vec![STOPPED],
            false => vec![STOPPED, NO_ROOM, WENT_ON],
        }
    }
}

impl BaseChain {
    /// Its name.
    pub fn name(&self) -> &'static CStr {
        hook_name(self.hook)
    }
}

impl fmt::Display for BaseChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<String> = self.rules.iter().map(|terms| shown_rule(terms)).collect();
        write!(
            f,
            "\tchain {name} {{\n\
             \t\ttype {kind} hook {name} priority {priority}; policy accept;\n\
             {rules}\
             \t}}\n",
            name = shown(self.name()),
            kind = match self.kind {
                ChainType::Filter => "filter",
                ChainType::Route => "route",
                ChainType::Nat => "nat",
            },
            priority = self.priority,
            rules = rules.concat(),
        )
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

    fn is_empty(&self) -> bool {
        match self {
            Elements::V4(networks) => networks.is_empty(),
            Elements::V6(networks) => networks.is_empty(),
            Elements::Interfaces(names) => names.is_empty(),
        }
    }
}

impl fmt::Display for NamedSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, elements): (_, Vec<String>) = match &self.elements {
            Elements::V4(all) => (
                "ipv4_addr\n\t\tflags interval",
                all.iter().map(|n| short(&(*n).into())).collect(),
            ),
            Elements::V6(all) => (
                "ipv6_addr\n\t\tflags interval",
                all.iter().map(|n| short(&(*n).into())).collect(),
            ),
            Elements::Interfaces(all) => {
                ("ifname", all.iter().map(|n| format!("\"{n}\"")).collect())
            }
        };
        write!(
            f,
            "\tset {} {{\n\t\ttype {kind}\n\t\telements = {{ {} }}\n\t}}\n\n",
            shown(self.name),
            elements.join(", ")
        )
    }
}

fn shown_rule(terms: &[Term]) -> String {
    let terms: Vec<String> = terms.iter().map(Term::to_string).collect();
    format!("\t\t{}\n", terms.join(" "))
}

impl Term {
    /// Which set it looks into, if any, and whether it wants to find nothing there.
    pub fn set(self) -> Option<(&'static CStr, bool)> {
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

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Tcp => write!(f, "meta l4proto tcp"),
            Term::NewSyn => write!(f, "tcp flags & (fin | syn | rst | ack) == syn"),
            Term::ToGatedPort => write!(f, "tcp dport"),
            Term::NotNewSyn => write!(f, "tcp flags & (fin | syn | rst | ack) != syn"),
            Term::Ending => write!(f, "tcp flags & (fin | rst) != 0x0"),
            Term::IcmpError(Family::V4) => write!(f, "icmp type destination-unreachable"),
            Term::IcmpError(Family::V6) => write!(f, "icmpv6 type < 3"),
            Term::FromEther(from) => write!(f, "ether saddr {from}"),
            Term::NoHopLeft(Family::V4) => write!(f, "ip ttl < 2"),
            Term::NoHopLeft(Family::V6) => write!(f, "ip6 hoplimit < 2"),
            Term::HopsLeft(Family::V4) => write!(f, "ip ttl > 1"),
            Term::HopsLeft(Family::V6) => write!(f, "ip6 hoplimit > 1"),
            Term::In(flows) => write!(f, "{}", flows.key()),
            Term::Remember(flows, life) => {
                let (set, life) = (shown(flows.name), NftTime(*life));
                write!(f, "update @{set} {{ {} timeout {life} }}", flows.key())
            }
            Term::Forget(flows) => {
                write!(f, "delete @{} {{ {} }}", shown(flows.name), flows.key())
            }
            Term::Version(Family::V4) => write!(f, "meta nfproto ipv4"),
            Term::Version(Family::V6) => write!(f, "meta nfproto ipv6"),
            Term::To(Family::V4) => write!(f, "ip daddr"),
            Term::To(Family::V6) => write!(f, "ip6 daddr"),
            Term::NotFrom(Family::V4) => write!(f, "ip saddr"),
            Term::NotFrom(Family::V6) => write!(f, "ip6 saddr"),
            Term::Via(Way::In) | Term::NotVia(Way::In) => write!(f, "iifname"),
            Term::Via(Way::Out) | Term::NotVia(Way::Out) => write!(f, "oifname"),
            Term::ToThisHost => write!(f, "fib daddr type local"),
            Term::Count => write!(f, "counter name \"{}\"", shown(STOPPED)),
            Term::CountNoRoom => write!(f, "counter name \"{}\"", shown(NO_ROOM)),
            Term::CountWentOn => write!(f, "counter name \"{}\"", shown(WENT_ON)),
            Term::CopyTo(NextHop {
                address, device, ..
            }) => {
                write!(f, "dup to {address} device \"{device}\"")
            }
            Term::Accept => write!(f, "accept"),
            Term::Drop => write!(f, "drop"),
            Term::Queue(number) => write!(f, "queue flags bypass to {number}"),
            // As nft lists it: it can't read that back.
            Term::QueueByTarget(_) => write!(f, "xt target \"NFQUEUE\""),
            Term::Redirect(port) => write!(f, "dnat to :{port}"),
        }?;
        match self.set() {
            Some((set, false)) => write!(f, " @{}", shown(set)),
            Some((set, true)) => write!(f, " != @{}", shown(set)),
            None => Ok(()),
        }
    }
}

fn hook_name(hook: Hook) -> &'static CStr {
    match hook {
        Hook::PreRouting => c"prerouting",
        Hook::In => c"input",
        Hook::Forward => c"forward",
        Hook::Out => c"output",
        Hook::PostRouting => c"postrouting",
        Hook::Ingress => c"ingress",
    }
}

/// A time as nft writes it: `1d2h3m4s5ms`.
pub(super) struct NftTime(pub Duration);

impl fmt::Display for NftTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis() as u64;
        let parts = [
            (ms / 86_400_000, "d"),
            (ms / 3_600_000 % 24, "h"),
            (ms / 60_000 % 60, "m"),
            (ms / 1_000 % 60, "s"),
            (ms % 1_000, "ms"),
        ];
        for (count, unit) in parts {
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

pub(super) fn shown(text: &CStr) -> std::borrow::Cow<'_, str> {
    text.to_string_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_nft_writes_them() {
        for (ms, text) in [
            (30_000, "30s"),
            (90_500, "1m30s500ms"),
            (86_400_000, "1d"),
            (29_996, "29s996ms"),
        ] {
            assert_eq!(NftTime(Duration::from_millis(ms)).to_string(), text);
        }
    }

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
    fn comments_fit_and_end_no_quotes() {
        let comment = fit_comment("a \"quoted\"\nword\0");
        assert_eq!(comment.as_c_str(), c"a 'quoted'?word?");
        let long = "é".repeat(100);
        let comment = fit_comment(&long);
        assert!(comment.as_bytes().len() <= COMMENT_MAX);
        assert!(comment.to_str().is_ok(), "not cut within a character");
    }
}

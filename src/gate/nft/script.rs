//! Prints a [`Ruleset`] in the syntax of nft(8), as `nft -f` reads it and `nft list table` shows
//! it.

use std::borrow::Cow;
use std::ffi::CStr;
use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use nftnl::{ChainType, ProtoFamily};

use super::names::{self, ARRIVED, NO_ROOM, PORTS, STOPPED, WENT_ON};
use super::ruleset::{
    BaseChain, Elements, FlowSet, NamedSet, PortsKind, Ruleset, TableRules, Term, Way,
};
use crate::gate::rules::PASS_MARK;
use crate::words::family::Family;
use crate::words::hop::NextHop;
use crate::words::scope::short;

impl Ruleset {
    /// Each port leaves the set `timeout` after the gate has closed.
    pub(crate) fn script(&self, timeout: Duration) -> String {
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

    fn table_script(&self, table: &TableRules, elements: &str) -> String {
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
            comment = String::from_utf8_lossy(names::shown(&self.comment).0),
            owner = if self.owned { "\tflags owner\n" } else { "" },
            counters = counters.concat(),
            ports = shown(PORTS),
            kind = self.ports_kind(),
            flows = flows.concat(),
            sets = sets.concat(),
            chains = chains.join("\n"),
        )
    }
}

impl fmt::Display for PortsKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortsKind::Intervals => f.write_str("flags interval,timeout"),
            PortsKind::Hash { most } => write!(f, "size {most}\n\t\tflags timeout"),
        }
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
            Elements::Ports(all) => (
                "inet_service\n\t\tflags interval",
                all.to_string().split(',').map(str::to_owned).collect(),
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

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Tcp => write!(f, "meta l4proto tcp"),
            Term::NewSyn => write!(f, "tcp flags & (fin | syn | rst | ack) == syn"),
            Term::ToGatedPort | Term::ToCountedPort => write!(f, "tcp dport"),
            Term::Before(end) => write!(f, "meta time < \"{}\"", date(*end)),
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
            Term::NotFrom(Family::V4) | Term::From(Family::V4) => write!(f, "ip saddr"),
            Term::NotFrom(Family::V6) | Term::From(Family::V6) => write!(f, "ip6 saddr"),
            Term::Via(Way::In) | Term::NotVia(Way::In) => write!(f, "iifname"),
            Term::Via(Way::Out) | Term::NotVia(Way::Out) => write!(f, "oifname"),
            Term::ToThisHost => write!(f, "fib daddr type local"),
            Term::Marked => write!(f, "meta mark {PASS_MARK:#010x}"),
            Term::Proxied(Way::In) => write!(f, "iif \"lo\" fib saddr type != local"),
            Term::Proxied(Way::Out) => write!(f, "oif \"lo\" fib saddr type != local"),
            Term::Count => write!(f, "counter name \"{}\"", shown(STOPPED)),
            Term::CountArrived => write!(f, "counter name \"{}\"", shown(ARRIVED)),
            Term::CountNoRoom => write!(f, "counter name \"{}\"", shown(NO_ROOM)),
            Term::CountWentOn => write!(f, "counter name \"{}\"", shown(WENT_ON)),
            Term::CopyTo(NextHop {
                address, device, ..
            }) => {
                write!(f, "dup to {address} device \"{device}\"")
            }
            Term::Accept => write!(f, "accept"),
            Term::Drop => write!(f, "drop"),
            Term::Refuse => write!(f, "reject with tcp reset"),
            Term::Queue(number) => write!(f, "queue flags bypass to {number}"),
            Term::Redirect(port) => write!(f, "dnat to :{port}"),
        }?;
        match self.set() {
            Some((set, false)) => write!(f, " @{}", shown(set)),
            Some((set, true)) => write!(f, " != @{}", shown(set)),
            None => Ok(()),
        }
    }
}

/// `since_1970` is in seconds.
fn date(since_1970: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(since_1970);
    let time = humantime::format_rfc3339_seconds(time).to_string();
    time.replace('T', " ").replace('Z', "")
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
    /// The packet fields that identify a connection.
    fn key(&self) -> &'static str {
        match self.family {
            Family::V4 => "ip saddr . tcp sport . ip daddr . tcp dport",
            Family::V6 => "ip6 saddr . tcp sport . ip6 daddr . tcp dport",
        }
    }
}

/// A time as nft writes it: `1d2h3m4s5ms`.
struct NftTime(Duration);

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

fn shown(text: &CStr) -> Cow<'_, str> {
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
            (93_784_005, "1d2h3m4s5ms"),
            (29_996, "29s996ms"),
        ] {
            assert_eq!(NftTime(Duration::from_millis(ms)).to_string(), text);
        }
    }
}

//! Finds NAT rules in nf_tables: the ports that they redirect before the input hook, such as a
//! container's published port, and the IP versions that have any. A rule shows its ports if it
//! compares the destination port, or looks it up in a set, and then changes the address.

use std::ffi::CString;

use anyhow::Result;
use nftnl::ProtoFamily;
use nix::libc;

use super::tables::Tables;
use super::uapi::{
    NFT_CMP_EQ, NFT_NAT_DNAT, NFT_PAYLOAD_TRANSPORT_HEADER, NFT_REG32_00, NFTA_CMP_DATA,
    NFTA_CMP_OP, NFTA_DATA_VALUE, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_LOOKUP_SET,
    NFTA_LOOKUP_SREG, NFTA_NAT_TYPE, NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_LEN,
    NFTA_PAYLOAD_OFFSET, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE, NFTA_TARGET_INFO,
    NFTA_TARGET_NAME,
};
use super::{answers, others};
use crate::gate::nat::{NAT_TARGETS, RedirectedPort};
use crate::gate::rules::PREFIX;
use crate::kernel::netlink::{attribute, attributes, get};
use crate::words::family::Family;

/// The offset and length of the destination port in a TCP header (RFC 9293, 3.1).
const PORT_OFFSET: u32 = 2;
const PORT_LENGTH: u32 = 2;
/// Base chains at this hook see packets of this host's own clients.
const OUTPUT: [libc::c_int; 1] = [libc::NF_INET_LOCAL_OUT];

/// The ports that rules redirect.
///
/// # Errors
/// No privilege, or no nf_tables.
pub(crate) fn find() -> Result<Vec<RedirectedPort>> {
    let mut tables = Tables::open()?;
    let mut found = Vec::new();
    for (at, sent) in others::find(&OUTPUT, sent_elsewhere)? {
        let ports = match sent {
            Sent::Ports(ports) => ports,
            Sent::KeysOf(keys) => keys.ports(&at, &mut tables)?,
        };
        let by = at.to_string();
        found.extend(ports.into_iter().map(|port| RedirectedPort {
            port,
            by: by.clone(),
        }));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The IP versions for which a rule that is not syngate's does NAT.
pub(crate) fn nat_families() -> Result<Vec<Family>> {
    let any_family = ProtoFamily::Unspec;
    let rows = Tables::open()?.dump(any_family, libc::NFT_MSG_GETRULE, &[], |row| {
        nat_rule(row).into_iter().collect()
    })?;
    let of = |family: &Family| {
        let own = match family {
            Family::V4 => libc::NFPROTO_IPV4,
            Family::V6 => libc::NFPROTO_IPV6,
        };
        let mut families = rows.iter().map(|row: &u8| i32::from(*row));
        families.any(|row| row == own || row == libc::NFPROTO_INET)
    };
    Ok(Family::ALL.into_iter().filter(of).collect())
}

/// The family of a NAT rule in one message of a dump.
fn nat_rule(payload: &[u8]) -> Option<u8> {
    let body = payload.get(4..)?;
    let table = answers::text(attribute(body, NFTA_RULE_TABLE)?);
    let expressions = attribute(body, NFTA_RULE_EXPRESSIONS)?;
    let does_nat = attributes(expressions).any(|(_, expression)| {
        let name = attribute(expression, NFTA_EXPR_NAME).unwrap_or_default();
        match answers::text(name).as_str() {
            "nat" | "masq" | "redir" => true,
            // iptables-nft uses targets of x_tables.
            "target" => {
                let data = attribute(expression, NFTA_EXPR_DATA).unwrap_or_default();
                let target = attribute(data, NFTA_TARGET_NAME).unwrap_or_default();
                NAT_TARGETS.contains(&answers::text(target).as_str())
            }
            _ => false,
        }
    });
    (does_nat && !table.starts_with(PREFIX)).then_some(*payload.first()?)
}

/// The destination ports of the packets that a rule redirects.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Ports(Vec<u16>),
    KeysOf(Keys),
}

/// `tcp dport @SET dnat to …`, `redirect to :tcp dport map { … }`.
#[derive(Debug, PartialEq, Eq)]
struct Keys {
    set: String,
    /// Where the port is in a key.
    offset: usize,
}

impl Keys {
    fn ports(&self, at: &others::At, tables: &mut Tables) -> Result<Vec<u16>> {
        let family = match i32::from(at.family) {
            libc::NFPROTO_IPV4 => ProtoFamily::Ipv4,
            libc::NFPROTO_IPV6 => ProtoFamily::Ipv6,
            _ => ProtoFamily::Inet,
        };
        let (table, set) = (CString::new(&*at.table)?, CString::new(&*self.set)?);
        Ok(tables.elements(family, &table, &set, |payload| {
            let keys = answers::elements(payload).filter(|element| !element.end);
            let ports = keys.filter_map(|element| get(element.key, self.offset));
            ports.map(u16::from_be_bytes).collect()
        })?)
    }
}

/// What a rule has compared with the destination port before it changes the address.
fn sent_elsewhere(expressions: &[u8]) -> Option<Sent> {
    let mut rule = Compared::default();
    for (_, expression) in attributes(expressions) {
        let name = answers::text(attribute(expression, NFTA_EXPR_NAME)?);
        let data = attribute(expression, NFTA_EXPR_DATA).unwrap_or_default();
        if rule.redirects(&name, data) {
            return rule.sent;
        }
    }
    None
}

#[derive(Default)]
struct Compared {
    /// The byte of the registers at which the port was loaded last.
    loaded: Option<usize>,
    sent: Option<Sent>,
}

impl Compared {
    /// Whether this expression redirects. Others are noted.
    fn redirects(&mut self, name: &str, data: &[u8]) -> bool {
        let word = |kind| {
            let word = attribute(data, kind).and_then(|v| get(v, 0));
            word.map(u32::from_be_bytes)
        };
        let text = |kind| attribute(data, kind).map(answers::text);
        let info = || attribute(data, NFTA_TARGET_INFO).unwrap_or_default();
        match name {
            "payload" if is_port(data) => self.loaded = word(NFTA_PAYLOAD_DREG).map(register_byte),
            "cmp" if self.loaded.is_some() && word(NFTA_CMP_OP) == Some(NFT_CMP_EQ) => {
                let value = attribute(data, NFTA_CMP_DATA).unwrap_or_default();
                let port = attribute(value, NFTA_DATA_VALUE).and_then(|v| get(v, 0));
                self.sent = port.map(|port| Sent::Ports(vec![u16::from_be_bytes(port)]));
            }
            "lookup" => {
                let key = word(NFTA_LOOKUP_SREG).map(register_byte);
                let offset = self
                    .loaded
                    .zip(key)
                    .and_then(|(port, key)| port.checked_sub(key));
                let keys = text(NFTA_LOOKUP_SET).zip(offset);
                let keys = keys.map(|(set, offset)| Sent::KeysOf(Keys { set, offset }));
                self.sent = keys.or(self.sent.take());
            }
            // iptables-nft uses extensions of x_tables.
            "match" => {
                let ports = compared_by(&text(NFTA_TARGET_NAME).unwrap_or_default(), info());
                self.sent = ports.map(Sent::Ports).or(self.sent.take());
            }
            "target" => {
                let target = text(NFTA_TARGET_NAME).unwrap_or_default();
                return matches!(&*target, "DNAT" | "REDIRECT");
            }
            "nat" => return word(NFTA_NAT_TYPE) == Some(NFT_NAT_DNAT),
            "redir" => return true,
            _ => (),
        }
        false
    }
}

fn is_port(payload: &[u8]) -> bool {
    let word = |kind| attribute(payload, kind).and_then(|v| get(v, 0));
    let wanted = [
        (NFTA_PAYLOAD_BASE, NFT_PAYLOAD_TRANSPORT_HEADER),
        (NFTA_PAYLOAD_OFFSET, PORT_OFFSET),
        (NFTA_PAYLOAD_LEN, PORT_LENGTH),
    ];
    let mut wanted = wanted.into_iter();
    wanted.all(|(kind, value)| word(kind) == Some(u32::to_be_bytes(value)))
}

/// Where a register begins: there are four of 16 bytes, and the same bytes as sixteen of 4
/// (`nft_parse_register()`).
fn register_byte(register: u32) -> usize {
    let register = register as usize;
    match register.checked_sub(NFT_REG32_00) {
        Some(small) => small * 4,
        None => register.saturating_sub(1) * 16,
    }
}

/// The destination ports that an extension compares (`struct xt_tcp`, `struct xt_multiport_v1`).
fn compared_by(name: &str, info: &[u8]) -> Option<Vec<u16>> {
    const TCP_INVERTED: u8 = 0x02;
    const MULTIPORT_SOURCE: u8 = 0;
    let port = |at: usize| get(info, at).map(u16::from_ne_bytes);
    match name {
        "tcp" => {
            let (first, last) = (port(4)?, port(6)?);
            let plain = info.get(11)? & TCP_INVERTED == 0 && (first, last) != (0, u16::MAX);
            plain.then(|| (first..=last).collect())
        }
        "multiport" => {
            let (flags, count) = (*info.first()?, usize::from(*info.get(1)?));
            if flags == MULTIPORT_SOURCE || *info.get(47)? != 0 || count > 15 {
                return None;
            }
            let mut ports = Vec::new();
            for n in 0..count {
                let begins_range = *info.get(32 + n)? != 0 && n + 1 < count;
                let last = if begins_range {
                    port(4 + 2 * n)?
                } else {
                    port(2 + 2 * n)?
                };
                ports.extend(port(2 + 2 * n)?..=last);
            }
            Some(ports)
        }
        _ => None,
    }
}

/// Checks the properties of the parsers for any message.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    if let Some((_, Sent::KeysOf(keys))) = others::rule(bytes, sent_elsewhere) {
        assert!(keys.offset < 16 * 4);
    }
    for family in [
        nat_rule(bytes),
        others::base_chain(bytes, |_, hook, _| OUTPUT.contains(&hook)).map(|chain| chain.family),
    ] {
        assert!(family.is_none_or(|family| family == bytes[0]));
    }
}

//! The destination ports that a rule of nf_tables compares: plainly, as a range, by a set or a map, or by
//! iptables-nft's matches.

use std::ffi::CString;

use anyhow::Result;
use nftnl::ProtoFamily;
use nix::libc;

use super::tables::Tables;
use super::uapi::{
    NFT_CMP_EQ, NFT_CMP_GTE, NFT_CMP_LTE, NFT_CT_PROTO_DST, NFT_LOOKUP_F_INV,
    NFT_PAYLOAD_TRANSPORT_HEADER, NFT_REG32_00, NFTA_CMP_DATA, NFTA_CMP_OP, NFTA_CMP_SREG,
    NFTA_CT_DIRECTION, NFTA_CT_KEY, NFTA_DATA_VALUE, NFTA_LOOKUP_FLAGS, NFTA_LOOKUP_SET,
    NFTA_LOOKUP_SREG, NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_LEN, NFTA_PAYLOAD_OFFSET,
    NFTA_TARGET_INFO, NFTA_TARGET_NAME,
};
use super::{answers, others};
use crate::kernel::netlink::{attribute, get};
use crate::words::ports::PortSet;

/// The offset and length of the destination port in a TCP header (RFC 9293, 3.1).
const PORT_OFFSET: u32 = 2;
const PORT_LENGTH: u32 = 2;
/// `IP_CT_DIR_ORIGINAL`.
const ORIGINAL: u8 = 0;

/// The destination ports that a rule compares.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ports {
    These(PortSet),
    KeysOf(Keys),
}

/// `tcp dport @SET dnat to …`, `redirect to :tcp dport map { … }`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Keys {
    set: String,
    /// Where the port is in a key.
    offset: usize,
}

impl Ports {
    /// Asks the kernel for the elements of a set.
    ///
    /// # Errors
    /// The set is not listed.
    pub(super) fn known(self, at: &others::At, tables: &mut Tables) -> Result<PortSet> {
        match self {
            Ports::These(ports) => Ok(ports),
            Ports::KeysOf(keys) => keys.ports(at, tables),
        }
    }

    #[cfg(any(fuzzing, test))]
    pub(super) fn withstand(&self) {
        if let Ports::KeysOf(keys) = self {
            assert!(keys.offset < 16 * 4);
        }
    }
}

impl Keys {
    /// Leaves out what a map of verdicts lets pass.
    fn ports(&self, at: &others::At, tables: &mut Tables) -> Result<PortSet> {
        let family = match i32::from(at.family) {
            libc::NFPROTO_IPV4 => ProtoFamily::Ipv4,
            libc::NFPROTO_IPV6 => ProtoFamily::Ipv6,
            _ => ProtoFamily::Inet,
        };
        let (table, set) = (CString::new(&*at.table)?, CString::new(&*self.set)?);
        let bounds = tables.elements(family, &table, &set, |payload| {
            let elements = answers::elements(payload);
            let matter = elements.filter(|element| element.verdict.is_none_or(answers::may_refuse));
            let bounds = matter.filter_map(|element| {
                let port = get(element.key, self.offset).map(u16::from_be_bytes)?;
                Some((port, element.end))
            });
            bounds.collect()
        })?;
        let intervals = bounds.iter().any(|(_, end)| *end);
        Ok(answers::ports(bounds, intervals))
    }
}

/// What a rule has compared so far.
#[derive(Default)]
pub(super) struct Compared {
    /// The byte of the registers at which the port was loaded last.
    loaded: Option<usize>,
    pub(super) ports: Option<Ports>,
    /// The port is the one that the packet came in with, before NAT.
    pub(super) original: bool,
    /// The rule is for UDP.
    pub(super) udp: bool,
    /// The rule has any other condition than being for TCP.
    pub(super) narrowed: bool,
}

impl Compared {
    /// Notes an expression.
    pub(super) fn note(&mut self, name: &str, data: &[u8]) {
        let word = |kind| answers::word(data, kind);
        match name {
            "payload" if is_port(data) => self.load(word(NFTA_PAYLOAD_DREG), false),
            "ct" if word(NFTA_CT_KEY) == Some(NFT_CT_PROTO_DST) => {
                let direction = attribute(data, NFTA_CT_DIRECTION).and_then(<[u8]>::first);
                if direction == Some(&ORIGINAL) {
                    self.load(word(NFTA_PAYLOAD_DREG), true);
                }
            }
            // NFTA_META_DREG, NFTA_CT_DREG and so on have the same number.
            "payload" | "meta" | "ct" | "fib" | "exthdr" | "rt" | "numgen" | "osf"
                if word(NFTA_PAYLOAD_DREG).map(register_byte) == self.loaded =>
            {
                self.loaded = None;
            }
            "cmp" => self.compare(word(NFTA_CMP_SREG), word(NFTA_CMP_OP), data),
            "lookup" => {
                self.narrowed = true;
                self.look_up(word(NFTA_LOOKUP_SREG), word(NFTA_LOOKUP_FLAGS), data);
            }
            // iptables-nft uses extensions of x_tables.
            "match" => {
                let info = attribute(data, NFTA_TARGET_INFO).unwrap_or_default();
                let name = attribute(data, NFTA_TARGET_NAME).map(answers::text);
                let name = name.unwrap_or_default();
                self.narrowed |= name != "comment";
                if let Some(ports) = compared_by(&name, info) {
                    self.original |= name == "conntrack";
                    self.ports = Some(Ports::These(ports));
                }
            }
            "range" | "limit" | "connlimit" | "quota" => self.narrowed = true,
            _ => (),
        }
    }

    fn load(&mut self, register: Option<u32>, original: bool) {
        self.loaded = register.map(register_byte);
        self.original |= original;
    }

    fn compare(&mut self, register: Option<u32>, op: Option<u32>, data: &[u8]) {
        let value = attribute(data, NFTA_CMP_DATA).unwrap_or_default();
        let value = attribute(value, NFTA_DATA_VALUE).unwrap_or_default();
        let (tcp, udp) = (libc::IPPROTO_TCP as u8, libc::IPPROTO_UDP as u8);
        self.udp |= op == Some(NFT_CMP_EQ) && value == [udp];
        self.narrowed |= value != [tcp];
        if self.loaded.is_none() || register.map(register_byte) != self.loaded {
            return;
        }
        let Some(port) = get(value, 0).map(u16::from_be_bytes) else {
            return;
        };
        let ports = match op {
            Some(NFT_CMP_EQ) => port..=port,
            Some(NFT_CMP_GTE) => port..=u16::MAX,
            Some(NFT_CMP_LTE) => 0..=port,
            _ => return,
        };
        let ports = PortSet::from_ranges([ports]);
        // A range is compared in two steps.
        self.ports = Some(Ports::These(match &self.ports {
            Some(Ports::These(before)) => before.intersection(&ports),
            _ => ports,
        }));
    }

    fn look_up(&mut self, register: Option<u32>, flags: Option<u32>, data: &[u8]) {
        let inverted = flags.is_some_and(|flags| flags & NFT_LOOKUP_F_INV != 0);
        let key = register.map(register_byte).filter(|_| !inverted);
        let offset = self.loaded.zip(key);
        let offset = offset.and_then(|(port, key)| port.checked_sub(key));
        let set = attribute(data, NFTA_LOOKUP_SET).map(answers::text);
        if let Some((set, offset)) = set.zip(offset) {
            self.ports = Some(Ports::KeysOf(Keys { set, offset }));
        }
    }
}

fn is_port(payload: &[u8]) -> bool {
    let wanted = [
        (NFTA_PAYLOAD_BASE, NFT_PAYLOAD_TRANSPORT_HEADER),
        (NFTA_PAYLOAD_OFFSET, PORT_OFFSET),
        (NFTA_PAYLOAD_LEN, PORT_LENGTH),
    ];
    let mut wanted = wanted.into_iter();
    wanted.all(|(kind, value)| answers::word(payload, kind) == Some(value))
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

/// The destination ports that an extension compares (`struct xt_tcp`, `struct xt_multiport_v1`,
/// `struct xt_conntrack_mtinfo3`).
fn compared_by(name: &str, info: &[u8]) -> Option<PortSet> {
    const TCP_INVERTED: u8 = 0x02;
    const MULTIPORT_SOURCE: u8 = 0;
    const CONNTRACK_ORIGINAL_PORT: u16 = 1 << 9;
    let port = |at: usize| get(info, at).map(u16::from_ne_bytes);
    match name {
        "tcp" => {
            let (first, last) = (port(4)?, port(6)?);
            let plain = info.get(11)? & TCP_INVERTED == 0 && (first, last) != (0, u16::MAX);
            plain.then(|| PortSet::from_ranges([first..=last]))
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
                ports.push(port(2 + 2 * n)?..=last);
            }
            Some(PortSet::from_ranges(ports))
        }
        "conntrack" => {
            let (matches, inverts) = (port(146)?, port(148)?);
            let plain = matches & !inverts & CONNTRACK_ORIGINAL_PORT != 0;
            let (first, last) = (port(140)?, port(156)?);
            plain.then(|| PortSet::from_ranges([first..=last]))
        }
        _ => None,
    }
}

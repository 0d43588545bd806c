//! The destination ports that a rule of nf_tables compares: plainly, as a range, by a set or a map, or by
//! iptables-nft's matches. Pure.

use nix::libc;

use super::answers;
use super::uapi::{
    NFT_CMP_EQ, NFT_CMP_GT, NFT_CMP_GTE, NFT_CMP_LT, NFT_CMP_LTE, NFT_CMP_NEQ, NFT_CT_PROTO_DST,
    NFT_CT_STATUS, NFT_LOOKUP_F_INV, NFT_META_L4PROTO, NFT_META_NFPROTO, NFT_META_PROTOCOL,
    NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER, NFT_REG32_00, NFTA_BITWISE_MASK,
    NFTA_BITWISE_SREG, NFTA_CMP_DATA, NFTA_CMP_OP, NFTA_CMP_SREG, NFTA_CT_DIRECTION, NFTA_CT_KEY,
    NFTA_DATA_VALUE, NFTA_LOOKUP_FLAGS, NFTA_LOOKUP_SET, NFTA_LOOKUP_SREG, NFTA_META_KEY,
    NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_LEN, NFTA_PAYLOAD_OFFSET, NFTA_RANGE_SREG,
    NFTA_TARGET_INFO, NFTA_TARGET_NAME,
};
use crate::kernel::netlink::{attribute, get};
use crate::words::ports::PortSet;

/// The offset and length of the destination port in a TCP header (RFC 9293, 3.1).
const PORT_OFFSET: u32 = 2;
const PORT_LENGTH: u32 = 2;
/// `IP_CT_DIR_ORIGINAL`.
const ORIGINAL: u8 = 0;
/// In `enum ip_conntrack_status`.
const IPS_DST_NAT: u32 = 1 << 5;

/// The destination ports that a rule compares.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ports {
    These(PortSet),
    KeysOf(Keys),
    /// The rule compares ports in a way that syngate does not read.
    Unread,
}

/// `tcp dport @SET dnat to …`, `redirect to :tcp dport map { … }`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) set: String,
    /// Where the port is in a key.
    pub(super) offset: usize,
    /// All ports but those of the set.
    pub(super) inverted: bool,
}

impl Ports {
    #[cfg(any(fuzzing, test))]
    pub(super) fn withstand(&self) {
        if let Ports::KeysOf(keys) = self {
            assert!(keys.offset < 16 * 4);
        }
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
    /// The rule asks where a packet comes from, or for more.
    pub(super) some_clients: bool,
    /// The register that has the status of the connection.
    status: Option<usize>,
    /// The rule is for packets whose destination NAT has changed.
    pub(super) translated: bool,
}

impl Compared {
    /// Notes an expression.
    pub(super) fn note(&mut self, name: &str, data: &[u8]) {
        let word = |kind| answers::word(data, kind);
        self.some_clients |= distinguishes_clients(name, data);
        match name {
            "payload" if is_port(data) => self.load(word(NFTA_PAYLOAD_DREG), false),
            "ct" if word(NFTA_CT_KEY) == Some(NFT_CT_PROTO_DST) => {
                let direction = attribute(data, NFTA_CT_DIRECTION).and_then(<[u8]>::first);
                if direction == Some(&ORIGINAL) {
                    self.load(word(NFTA_PAYLOAD_DREG), true);
                }
            }
            "payload" if reaches_port(data) => self.ports = Some(Ports::Unread),
            "ct" if word(NFTA_CT_KEY) == Some(NFT_CT_STATUS) => {
                self.status = word(NFTA_PAYLOAD_DREG).map(register_byte);
                self.translated = self.status.is_some();
            }
            "bitwise" => self.mask(word(NFTA_BITWISE_SREG), data),
            "range" if self.is_loaded(word(NFTA_RANGE_SREG)) => {
                self.narrowed = true;
                self.ports = Some(Ports::Unread);
            }
            // NFTA_META_DREG, NFTA_CT_DREG and so on have the same number.
            "payload" | "meta" | "ct" | "fib" | "exthdr" | "rt" | "numgen" | "osf"
                if self.is_loaded(word(NFTA_PAYLOAD_DREG)) =>
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
                self.translated |= name == "conntrack" && is_for_translated(info);
                if let Some(ports) = compared_by(&name, info) {
                    self.original |= name == "conntrack";
                    self.ports = Some(ports);
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

    fn is_loaded(&self, register: Option<u32>) -> bool {
        self.loaded.is_some() && register.map(register_byte) == self.loaded
    }

    fn mask(&mut self, register: Option<u32>, data: &[u8]) {
        if self.is_loaded(register) {
            self.ports = Some(Ports::Unread);
        } else if register.map(register_byte) == self.status {
            let mask = attribute(data, NFTA_BITWISE_MASK).unwrap_or_default();
            let mask = attribute(mask, NFTA_DATA_VALUE).and_then(|mask| get(mask, 0));
            let mask = mask.map_or(u32::MAX, u32::from_ne_bytes);
            self.translated &= mask & IPS_DST_NAT != 0;
        }
    }

    fn compare(&mut self, register: Option<u32>, op: Option<u32>, data: &[u8]) {
        let value = attribute(data, NFTA_CMP_DATA).unwrap_or_default();
        let value = attribute(value, NFTA_DATA_VALUE).unwrap_or_default();
        let (tcp, udp) = (libc::IPPROTO_TCP as u8, libc::IPPROTO_UDP as u8);
        self.udp |= op == Some(NFT_CMP_EQ) && value == [udp];
        self.narrowed |= value != [tcp];
        if self.status.is_some() && register.map(register_byte) == self.status {
            let is_none = value.iter().all(|byte| *byte == 0);
            self.translated &= !(op == Some(NFT_CMP_EQ) && is_none);
        }
        if !self.is_loaded(register) || matches!(self.ports, Some(Ports::Unread)) {
            return;
        }
        let Some(port) = get(value, 0).map(u16::from_be_bytes) else {
            return;
        };
        let ports = match op {
            Some(NFT_CMP_EQ) => PortSet::from_ranges([port..=port]),
            Some(NFT_CMP_NEQ) => PortSet::all().minus(&PortSet::from_ranges([port..=port])),
            Some(NFT_CMP_GT) => PortSet::all().minus(&PortSet::from_ranges([0..=port])),
            Some(NFT_CMP_GTE) => PortSet::from_ranges([port..=u16::MAX]),
            Some(NFT_CMP_LT) => PortSet::all().minus(&PortSet::from_ranges([port..=u16::MAX])),
            Some(NFT_CMP_LTE) => PortSet::from_ranges([0..=port]),
            _ => return,
        };
        // A range is compared in two steps.
        self.ports = Some(Ports::These(match &self.ports {
            Some(Ports::These(before)) => before.intersection(&ports),
            _ => ports,
        }));
    }

    fn look_up(&mut self, register: Option<u32>, flags: Option<u32>, data: &[u8]) {
        let inverted = flags.is_some_and(|flags| flags & NFT_LOOKUP_F_INV != 0);
        let offset = self.loaded.zip(register.map(register_byte));
        let offset = offset.and_then(|(port, key)| port.checked_sub(key));
        // What is not in a set of addresses and ports may have any port.
        let offset = offset.filter(|offset| !inverted || *offset == 0);
        let set = attribute(data, NFTA_LOOKUP_SET).map(answers::text);
        if let Some((set, offset)) = set.zip(offset) {
            self.ports = Some(Ports::KeysOf(Keys {
                set,
                offset,
                inverted,
            }));
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

/// Whether the condition is another one than what packets to a port of this host have in common.
fn distinguishes_clients(name: &str, data: &[u8]) -> bool {
    const SOURCES: [u32; 2] = [12, 8]; // IPv4, IPv6
    let word = |kind| answers::word(data, kind);
    match name {
        "payload" if word(NFTA_PAYLOAD_BASE) == Some(NFT_PAYLOAD_NETWORK_HEADER) => {
            word(NFTA_PAYLOAD_OFFSET).is_some_and(|offset| SOURCES.contains(&offset))
        }
        "meta" => {
            let common = [NFT_META_PROTOCOL, NFT_META_NFPROTO, NFT_META_L4PROTO];
            word(NFTA_META_KEY).is_some_and(|key| !common.contains(&key))
        }
        "match" => {
            let name = attribute(data, NFTA_TARGET_NAME).map(answers::text);
            let common = ["tcp", "multiport", "addrtype", "comment"];
            name.is_none_or(|name| !common.contains(&name.as_str()))
        }
        "ct" | "osf" | "socket" | "limit" | "connlimit" | "numgen" | "exthdr" => true,
        _ => false,
    }
}

/// More is loaded than the port alone, as for `@th,0,32`, and by nft for `tcp sport 1 tcp dport 2`.
fn reaches_port(payload: &[u8]) -> bool {
    let word = |kind| answers::word(payload, kind).unwrap_or_default();
    let (from, length) = (word(NFTA_PAYLOAD_OFFSET), word(NFTA_PAYLOAD_LEN));
    word(NFTA_PAYLOAD_BASE) == NFT_PAYLOAD_TRANSPORT_HEADER
        && answers::word(payload, NFTA_PAYLOAD_DREG).is_some()
        && from < PORT_OFFSET + PORT_LENGTH
        && from.saturating_add(length) > PORT_OFFSET
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

/// `--ctstate DNAT` of xt_conntrack (`struct xt_conntrack_mtinfo3`).
fn is_for_translated(info: &[u8]) -> bool {
    const STATE: u16 = 1;
    const STATE_DNAT: u16 = 1 << 7;
    let at = |at: usize| get(info, at).map_or(0, u16::from_ne_bytes);
    let (matches, inverts, states) = (at(146), at(148), at(150));
    matches & !inverts & STATE != 0 && states & STATE_DNAT != 0
}

/// The destination ports that an extension compares (`struct xt_tcp`, `struct xt_multiport_v1`,
/// `struct xt_conntrack_mtinfo3`, `struct xt_set_info`).
fn compared_by(name: &str, info: &[u8]) -> Option<Ports> {
    match name {
        "u32" | "bpf" => Some(Ports::Unread),
        "set" => is_by_a_set_of_ports(info).then_some(Ports::Unread),
        _ => ports_of(name, info).map(Ports::These),
    }
}

/// An ipset compares the packet's destination, which may be the port. (`struct xt_set_info`: index, dimension, and a
/// flag for each part that is the source.)
fn is_by_a_set_of_ports(info: &[u8]) -> bool {
    const INVERTED: u8 = 1 << 7;
    let (Some(parts), Some(flags)) = (info.get(2), info.get(3)) else {
        return false;
    };
    let is_source = |part: u8| {
        1_u8.checked_shl(part.into())
            .is_some_and(|bit| flags & bit != 0)
    };
    flags & INVERTED == 0 && (1..=*parts).any(|part| !is_source(part))
}

fn ports_of(name: &str, info: &[u8]) -> Option<PortSet> {
    const TCP_INVERTED: u8 = 0x02;
    const MULTIPORT_SOURCE: u8 = 0;
    const CONNTRACK_ORIGINAL_PORT: u16 = 1 << 9;
    let port = |at: usize| get(info, at).map(u16::from_ne_bytes);
    match name {
        "tcp" => {
            let (first, last) = (port(4)?, port(6)?);
            let named = (first, last) != (0, u16::MAX);
            let inverted = info.get(11)? & TCP_INVERTED != 0;
            named.then(|| unless(inverted, PortSet::from_ranges([first..=last])))
        }
        "multiport" => {
            let (flags, count) = (*info.first()?, usize::from(*info.get(1)?));
            if flags == MULTIPORT_SOURCE || count > 15 {
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
            Some(unless(*info.get(47)? != 0, PortSet::from_ranges(ports)))
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

/// All other ports, if the condition is inverted.
pub(super) fn unless(inverted: bool, ports: PortSet) -> PortSet {
    match inverted {
        true => PortSet::all().minus(&ports),
        false => ports,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::put_attribute;

    type Expression = (&'static str, Vec<u8>);

    const TCP: u8 = 6;
    const UDP: u8 = 17;
    /// `NFT_REG_1`, and `NFT_REG32_00`, which begins at the same byte.
    const FIRST: u32 = 1;
    const FIRST_SMALL: u32 = 8;

    fn with(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, value) in attributes {
            put_attribute(&mut bytes, *kind, value);
        }
        bytes
    }

    fn payload(base: u32, offset: u32, length: u32, register: u32) -> Expression {
        let words = [register, base, offset, length].map(u32::to_be_bytes);
        let kinds = [
            NFTA_PAYLOAD_DREG,
            NFTA_PAYLOAD_BASE,
            NFTA_PAYLOAD_OFFSET,
            NFTA_PAYLOAD_LEN,
        ];
        let attributes: Vec<(u16, &[u8])> = kinds
            .into_iter()
            .zip(words.iter().map(|word| &word[..]))
            .collect();
        ("payload", with(&attributes))
    }

    fn load(register: u32) -> Expression {
        payload(
            NFT_PAYLOAD_TRANSPORT_HEADER,
            PORT_OFFSET,
            PORT_LENGTH,
            register,
        )
    }

    fn meta(register: u32) -> Expression {
        let register = register.to_be_bytes();
        ("meta", with(&[(NFTA_PAYLOAD_DREG, &register)]))
    }

    fn meta_key(key: u32) -> Expression {
        ("meta", with(&[(NFTA_META_KEY, &key.to_be_bytes())]))
    }

    fn ct(key: u32, direction: u8, register: u32) -> Expression {
        let (key, register) = (key.to_be_bytes(), register.to_be_bytes());
        let attributes: [(u16, &[u8]); 3] = [
            (NFTA_PAYLOAD_DREG, &register),
            (NFTA_CT_KEY, &key),
            (NFTA_CT_DIRECTION, &[direction]),
        ];
        ("ct", with(&attributes))
    }

    fn cmp(register: u32, op: u32, value: &[u8]) -> Expression {
        let (register, op) = (register.to_be_bytes(), op.to_be_bytes());
        let value = with(&[(NFTA_DATA_VALUE, value)]);
        let attributes: [(u16, &[u8]); 3] = [
            (NFTA_CMP_SREG, &register),
            (NFTA_CMP_OP, &op),
            (NFTA_CMP_DATA, &value),
        ];
        ("cmp", with(&attributes))
    }

    fn port(op: u32, port: u16) -> Expression {
        cmp(FIRST, op, &port.to_be_bytes())
    }

    fn look_up(register: u32, flags: u32) -> Expression {
        let (register, flags) = (register.to_be_bytes(), flags.to_be_bytes());
        let attributes: [(u16, &[u8]); 3] = [
            (NFTA_LOOKUP_SET, b"web\0"),
            (NFTA_LOOKUP_SREG, &register),
            (NFTA_LOOKUP_FLAGS, &flags),
        ];
        ("lookup", with(&attributes))
    }

    /// An extension of x_tables; `info` is a whole structure.
    fn extension(name: &str, info: &[u8]) -> Expression {
        let attributes: [(u16, &[u8]); 2] = [
            (NFTA_TARGET_NAME, name.as_bytes()),
            (NFTA_TARGET_INFO, info),
        ];
        ("match", with(&attributes))
    }

    fn compared(rule: &[Expression]) -> Compared {
        let mut compared = Compared::default();
        for (name, data) in rule {
            compared.note(name, data);
        }
        compared
    }

    /// The ports, as text; those of a set as its name and the offset of the port in its keys.
    fn ports(rule: &[Expression]) -> String {
        match compared(rule).ports {
            None => "none".to_owned(),
            Some(Ports::These(ports)) => ports.to_string(),
            Some(Ports::KeysOf(keys)) => {
                let but = if keys.inverted { "all but " } else { "" };
                format!("{but}{}+{}", keys.set, keys.offset)
            }
            Some(Ports::Unread) => "unread".to_owned(),
        }
    }

    #[test]
    fn a_port_and_a_range() {
        assert_eq!(ports(&[load(FIRST), port(NFT_CMP_EQ, 80)]), "80");
        let range = [
            load(FIRST),
            port(NFT_CMP_GTE, 8000),
            port(NFT_CMP_LTE, 8010),
        ];
        assert_eq!(ports(&range), "8000-8010");
        assert_eq!(ports(&range[..2]), "8000-65535");
        assert_eq!(ports(&[load(FIRST), port(NFT_CMP_LTE, 1023)]), "0-1023");
        for (op, told) in [
            (NFT_CMP_NEQ, "0-79,81-65535"),
            (NFT_CMP_LT, "0-79"),
            (NFT_CMP_GT, "81-65535"),
        ] {
            assert_eq!(ports(&[load(FIRST), port(op, 80)]), told);
        }
    }

    #[test]
    fn what_is_not_read_may_be_any_port() {
        let transport = NFT_PAYLOAD_TRANSPORT_HEADER;
        let register = FIRST.to_be_bytes();
        let masked = ("bitwise", with(&[(NFTA_BITWISE_SREG, &register)]));
        let between = ("range", with(&[(NFTA_RANGE_SREG, &register)]));
        for rule in [
            vec![payload(transport, 0, 4, FIRST), port(NFT_CMP_EQ, 80)],
            vec![payload(transport, 3, 1, FIRST), port(NFT_CMP_EQ, 80)],
            vec![load(FIRST), masked, port(NFT_CMP_EQ, 80)],
            vec![load(FIRST), between],
            vec![extension("u32", &[])],
            // src,dst: the first of two parts is the source.
            vec![extension("set", &[0, 0, 2, 1 << 1])],
        ] {
            assert_eq!(ports(&rule), "unread", "{rule:?}");
        }
        for rule in [
            vec![payload(transport, 0, 2, FIRST), port(NFT_CMP_EQ, 80)],
            vec![payload(transport, 4, 4, FIRST), port(NFT_CMP_EQ, 80)],
            vec![extension("set", &[0, 0, 1, 1 << 1])],
            vec![extension("set", &[0, 0, 2, 1 << 1 | 1 << 7])],
            vec![extension("set", &[0, 0, 2])],
            vec![
                meta(FIRST),
                ("range", with(&[(NFTA_RANGE_SREG, &register)])),
            ],
        ] {
            assert_eq!(ports(&rule), "none", "{rule:?}");
        }
    }

    #[test]
    fn a_rule_is_for_what_nat_has_changed() {
        let status = |op, mask: u32, value: u32| {
            let mask = with(&[(NFTA_DATA_VALUE, &mask.to_ne_bytes())]);
            let register = FIRST.to_be_bytes();
            let attributes: [(u16, &[u8]); 2] =
                [(NFTA_BITWISE_SREG, &register), (NFTA_BITWISE_MASK, &mask)];
            compared(&[
                ct(NFT_CT_STATUS, ORIGINAL, FIRST),
                ("bitwise", with(&attributes)),
                cmp(FIRST, op, &value.to_ne_bytes()),
            ])
            .translated
        };
        assert!(status(NFT_CMP_NEQ, IPS_DST_NAT, 0), "ct status dnat");
        assert!(status(NFT_CMP_EQ, IPS_DST_NAT, IPS_DST_NAT));
        assert!(!status(NFT_CMP_EQ, IPS_DST_NAT, 0), "not changed");
        assert!(!status(NFT_CMP_NEQ, IPS_DST_NAT << 1, 0), "other bits");
        // Another register is none.
        let status = ct(NFT_CT_STATUS, ORIGINAL, FIRST);
        assert!(compared(&[status, cmp(FIRST + 1, NFT_CMP_EQ, &[0; 4])]).translated);
        assert!(!compared(&[load(FIRST), port(NFT_CMP_EQ, 80)]).translated);
        let states = |matches, inverts, states| {
            let numbers = [(146, matches), (148, inverts), (150, states)];
            compared(&[extension("conntrack", &structure(160, &numbers))]).translated
        };
        assert!(states(1, 0, 1 << 7 | 2), "--ctstate ESTABLISHED,DNAT");
        assert!(!states(1, 1, 1 << 7), "! --ctstate DNAT");
        assert!(!states(1, 0, 1 << 6), "--ctstate SNAT");
        assert!(!states(0, 0, 1 << 7), "no condition");
    }

    #[test]
    fn other_fields_are_no_ports() {
        let transport = NFT_PAYLOAD_TRANSPORT_HEADER;
        for (what, other) in [
            ("a source port", payload(transport, 0, 2, FIRST)),
            ("of another header", payload(transport - 1, 2, 2, FIRST)),
            ("a mark", meta(FIRST)),
            (
                "the client's port",
                ct(NFT_CT_PROTO_DST - 1, ORIGINAL, FIRST),
            ),
            ("the port of answers", ct(NFT_CT_PROTO_DST, 1, FIRST)),
        ] {
            assert_eq!(ports(&[other, port(NFT_CMP_EQ, 80)]), "none", "{what}");
        }
    }

    #[test]
    fn a_register_has_what_was_loaded_last() {
        let after = |expression| ports(&[load(FIRST), expression, port(NFT_CMP_EQ, 80)]);
        assert_eq!(after(meta(FIRST)), "none");
        assert_eq!(after(ct(1, ORIGINAL, FIRST)), "none");
        assert_eq!(after(payload(1, 12, 4, FIRST)), "none");
        assert_eq!(after(meta(FIRST_SMALL)), "none", "the same byte");
        assert_eq!(after(meta(FIRST + 1)), "80", "another register");
        assert_eq!(after(meta(FIRST_SMALL + 1)), "80", "another register");
        let other = cmp(FIRST + 1, NFT_CMP_EQ, &80_u16.to_be_bytes());
        assert_eq!(ports(&[load(FIRST), other]), "none");
        assert_eq!(ports(&[load(FIRST_SMALL), port(NFT_CMP_EQ, 80)]), "80");
        // The second register of 16 bytes begins with the fifth of 4.
        let second = cmp(FIRST + 1, NFT_CMP_EQ, &80_u16.to_be_bytes());
        assert_eq!(ports(&[load(FIRST_SMALL + 4), second]), "80");
    }

    #[test]
    fn the_port_from_before_nat() {
        let before = [ct(NFT_CT_PROTO_DST, ORIGINAL, FIRST), port(NFT_CMP_EQ, 80)];
        assert_eq!(ports(&before), "80");
        assert!(compared(&before).original);
        assert!(!compared(&[load(FIRST), port(NFT_CMP_EQ, 80)]).original);
        let of_answers = [
            ct(NFT_CT_PROTO_DST, 1, FIRST),
            load(FIRST),
            port(NFT_CMP_EQ, 80),
        ];
        assert!(!compared(&of_answers).original);
    }

    #[test]
    fn sets_have_the_port_in_their_keys() {
        assert_eq!(ports(&[load(FIRST), look_up(FIRST, 0)]), "web+0");
        // ip daddr . tcp dport: the address is in the first four bytes.
        let address = payload(1, 16, 4, FIRST);
        let port = load(FIRST_SMALL + 1);
        let both = [address, port, look_up(FIRST, 0)];
        assert_eq!(ports(&both), "web+4");
        let not_in =
            |rule: &[Expression]| ports(&[rule, &[look_up(FIRST, NFT_LOOKUP_F_INV)]].concat());
        assert_eq!(not_in(&[load(FIRST)]), "all but web+0");
        assert_eq!(not_in(&both[..2]), "none", "any port, from elsewhere");
        for (what, rule) in [
            ("another field", [load(FIRST), look_up(FIRST + 1, 0)]),
            ("no port", [meta(FIRST), look_up(FIRST, 0)]),
        ] {
            assert_eq!(ports(&rule), "none", "{what}");
        }
        let other_flag = look_up(FIRST, NFT_LOOKUP_F_INV << 1);
        assert_eq!(ports(&[load(FIRST), other_flag]), "web+0");
    }

    #[test]
    fn other_conditions_narrow_a_rule() {
        let tcp = [meta(FIRST), cmp(FIRST, NFT_CMP_EQ, &[TCP])];
        assert!(!compared(&tcp).narrowed, "tcp alone");
        assert!(!compared(&[extension("comment", &[])]).narrowed);
        assert!(!compared(&[("counter", Vec::new())]).narrowed);
        for rule in [
            vec![load(FIRST), port(NFT_CMP_EQ, 80)],
            vec![meta(FIRST), cmp(FIRST, NFT_CMP_EQ, &[UDP])],
            vec![meta(FIRST), look_up(FIRST, 0)],
            vec![extension("mac", &[])],
            vec![("limit", Vec::new())],
            vec![("range", Vec::new())],
            vec![extension("mac", &[]), extension("comment", &[])],
            vec![
                load(FIRST),
                port(NFT_CMP_EQ, 80),
                meta(FIRST),
                cmp(FIRST, NFT_CMP_EQ, &[TCP]),
            ],
        ] {
            assert!(compared(&rule).narrowed, "{rule:?}");
        }
    }

    #[test]
    fn a_rule_may_be_for_some_clients_only() {
        let network = NFT_PAYLOAD_NETWORK_HEADER;
        for rule in [
            vec![payload(network, 12, 4, FIRST)],
            vec![payload(network, 8, 16, FIRST)],
            // NFT_META_IIFNAME
            vec![meta_key(6)],
            vec![("ct", Vec::new())],
            vec![("limit", Vec::new())],
            vec![extension("mac", &[])],
            vec![("match", Vec::new())],
            vec![extension("mac", &[]), load(FIRST)],
        ] {
            assert!(compared(&rule).some_clients, "{rule:?}");
        }
        for rule in [
            vec![payload(network, 16, 4, FIRST)],
            vec![payload(NFT_PAYLOAD_TRANSPORT_HEADER, 12, 2, FIRST)],
            vec![load(FIRST), port(NFT_CMP_EQ, 80)],
            vec![meta_key(NFT_META_PROTOCOL)],
            vec![meta_key(NFT_META_NFPROTO)],
            vec![meta_key(NFT_META_L4PROTO)],
            vec![("meta", Vec::new())],
            vec![extension("tcp", &[])],
            vec![extension("multiport", &[])],
            vec![extension("addrtype", &[])],
            vec![extension("comment", &[])],
        ] {
            assert!(!compared(&rule).some_clients, "{rule:?}");
        }
    }

    #[test]
    fn rules_for_udp() {
        let protocol = |op, protocol| compared(&[meta(FIRST), cmp(FIRST, op, &[protocol])]).udp;
        assert!(protocol(NFT_CMP_EQ, UDP));
        assert!(!protocol(NFT_CMP_EQ, TCP));
        assert!(!protocol(NFT_CMP_NEQ, UDP), "all but UDP");
        let then = [cmp(FIRST, NFT_CMP_EQ, &[UDP]), port(NFT_CMP_EQ, 80)];
        assert!(compared(&then).udp);
    }

    /// `numbers`: each at its offset.
    fn structure(length: usize, numbers: &[(usize, u16)]) -> Vec<u8> {
        let mut bytes = vec![0; length];
        for (at, number) in numbers {
            bytes[*at..at + 2].copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn tcp_of_iptables() {
        let tcp = |numbers: &[(usize, u16)], flags: u8| {
            let mut info = structure(12, numbers);
            info[11] = flags;
            ports(&[extension("tcp", &info)])
        };
        assert_eq!(tcp(&[(4, 80), (6, 81)], 0), "80-81");
        assert_eq!(tcp(&[(4, 80), (6, 81)], TCP_INVERTED_SOURCE), "80-81");
        assert_eq!(
            tcp(&[(4, 80), (6, 81)], 0x02),
            "0-79,82-65535",
            "all but these"
        );
        assert_eq!(tcp(&[(4, 0), (6, u16::MAX)], 0), "none", "no condition");
        assert_eq!(ports(&[extension("tcp", &[0; 11])]), "none", "cut");
        assert!(!compared(&[extension("tcp", &structure(12, &[(6, 1)]))]).original);
    }

    /// `XT_TCP_INV_SRCPT`.
    const TCP_INVERTED_SOURCE: u8 = 0x01;

    #[test]
    fn multiport_of_iptables() {
        /// `numbers`: ports, and whether a range begins with them.
        fn multiport(flags: u8, count: u8, numbers: &[(u16, bool)], inverted: u8) -> String {
            let at = |n: usize| 2 + 2 * n;
            let ports: Vec<_> = (0..)
                .map(at)
                .zip(numbers.iter().map(|(port, _)| *port))
                .collect();
            let mut info = structure(48, &ports);
            (info[0], info[1], info[47]) = (flags, count, inverted);
            for (n, (_, begins)) in numbers.iter().enumerate() {
                info[32 + n] = u8::from(*begins);
            }
            super::tests::ports(&[extension("multiport", &info)])
        }
        const DESTINATION: u8 = 1;
        let list = [(80, false), (8000, true), (8010, false), (443, false)];
        assert_eq!(multiport(DESTINATION, 4, &list, 0), "80,443,8000-8010");
        let at_the_end = [
            (80, false),
            (443, false),
            (444, false),
            (8000, true),
            (8010, false),
        ];
        assert_eq!(
            multiport(DESTINATION, 5, &at_the_end, 0),
            "80,443-444,8000-8010"
        );
        assert_eq!(multiport(2, 1, &list, 0), "80", "either end");
        assert_eq!(multiport(0, 4, &list, 0), "none", "source ports");
        assert_eq!(multiport(DESTINATION, 1, &list, 1), "0-79,81-65535");
        assert_eq!(multiport(DESTINATION, 2, &list, 0), "80,8000", "no end");
        let full: Vec<(u16, bool)> = (1..=15).map(|n| (2 * n, false)).collect();
        assert!(multiport(DESTINATION, 15, &full, 0).ends_with(",28,30"));
        assert_eq!(multiport(DESTINATION, 16, &full, 0), "none", "too many");
        assert_eq!(ports(&[extension("multiport", &[1; 47])]), "none", "cut");
    }

    #[test]
    fn conntrack_of_iptables() {
        let conntrack = |matches: u16, inverts: u16| {
            let numbers = [(140, 80), (146, matches), (148, inverts), (156, 81)];
            compared(&[extension("conntrack", &structure(160, &numbers))])
        };
        const ORIGINAL_PORT: u16 = 1 << 9;
        let found = conntrack(ORIGINAL_PORT | 1, 1);
        assert_eq!(
            found.ports,
            Some(Ports::These(PortSet::from_ranges([80..=81])))
        );
        assert!(found.original);
        assert_eq!(conntrack(1, 0).ports, None, "another condition");
        assert_eq!(
            conntrack(ORIGINAL_PORT, ORIGINAL_PORT).ports,
            None,
            "all but these"
        );
        assert!(!conntrack(1, 0).original);
    }
}

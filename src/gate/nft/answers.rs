//! Parses the kernel's answers: elements, ports, tables and counters.

use std::time::Duration;

use nix::libc;

use super::uapi::{
    NFT_TABLE_F_OWNER, NFTA_COUNTER_PACKETS, NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_EXPR_DATA,
    NFTA_EXPR_NAME, NFTA_GEN_ID, NFTA_OBJ_DATA, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_EXPIRATION,
    NFTA_SET_ELEM_FLAGS, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_FLAGS,
    NFTA_TABLE_FLAGS, NFTA_TABLE_NAME, NFTA_TABLE_USERDATA, NFTA_VERDICT_CODE,
};
use super::userdata::comment_in;
use crate::kernel::netlink::{attribute, attributes, get};
use crate::words::ports::PortSet;

pub(super) struct Element<'a> {
    /// In an interval set: the first key or, with `end`, the first key after the interval.
    pub(super) key: &'a [u8],
    pub(super) end: bool,
    /// When the kernel removes it.
    pub(super) expires: Option<Duration>,
    /// In a map of verdicts.
    pub(super) verdict: Option<i32>,
}

pub(super) fn elements(payload: &[u8]) -> impl Iterator<Item = Element<'_>> {
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
        verdict: attribute(attributes, NFTA_SET_ELEM_DATA).and_then(verdict),
    })
}

/// The code of a verdict, `NF_…` or `NFT_…`.
pub(super) fn verdict(data: &[u8]) -> Option<i32> {
    let verdict = attribute(data, NFTA_DATA_VERDICT)?;
    Some(i32::from_be_bytes(get(
        attribute(verdict, NFTA_VERDICT_CODE)?,
        0,
    )?))
}

/// Whether a packet may be refused after that verdict: also in a chain that it goes to.
pub(super) fn may_refuse(verdict: i32) -> bool {
    let passes = [
        libc::NF_ACCEPT,
        libc::NFT_CONTINUE,
        libc::NFT_BREAK,
        libc::NFT_RETURN,
    ];
    !passes.contains(&verdict)
}

/// The ports in one message of a dump. The flag marks the end of an interval.
pub(super) fn bounds(payload: &[u8]) -> Vec<(u16, bool)> {
    elements(payload)
        .filter_map(|element| Some((u16::from_be_bytes(get(element.key, 0)?), element.end)))
        .collect()
}

/// The number of the ruleset, which grows with each change.
pub(super) fn generation(payload: &[u8]) -> Option<u32> {
    let number = attribute(payload.get(4..)?, NFTA_GEN_ID)?;
    get(number, 0).map(u32::from_be_bytes)
}

/// Whether the set that the kernel describes is one of intervals. For a set without flags the kernel
/// leaves the attribute out (nf_tables_fill_set()).
pub(super) fn has_intervals(payload: &[u8]) -> Option<bool> {
    let flags = attribute(payload.get(4..)?, NFTA_SET_FLAGS).and_then(|flags| get(flags, 0));
    Some(flags.map_or(0, u32::from_be_bytes) & libc::NFT_SET_INTERVAL as u32 != 0)
}

pub(super) fn ports(bounds: Vec<(u16, bool)>, intervals: bool) -> PortSet {
    match intervals {
        true => ports_between(bounds),
        false => bounds.into_iter().map(|(port, _)| port).collect(),
    }
}

pub(super) struct ListedTable {
    pub(super) name: String,
    pub(super) comment: String,
    /// The kernel destroys it with the socket that made it.
    pub(super) owned: bool,
}

/// The flags of the table that the kernel describes.
pub(super) fn flags(payload: &[u8]) -> Option<u32> {
    let flags = attribute(payload.get(4..)?, NFTA_TABLE_FLAGS)?;
    get(flags, 0).map(u32::from_be_bytes)
}

pub(super) fn table(payload: &[u8]) -> Option<ListedTable> {
    let body = payload.get(4..)?;
    let userdata = attribute(body, NFTA_TABLE_USERDATA).unwrap_or_default();
    Some(ListedTable {
        name: text(attribute(body, NFTA_TABLE_NAME)?),
        comment: text(&comment_in(userdata)),
        owned: flags(payload).unwrap_or(0) & NFT_TABLE_F_OWNER != 0,
    })
}

/// The names and the data of expressions.
pub(super) fn expressions(list: &[u8]) -> impl Iterator<Item = (String, &[u8])> {
    attributes(list).map(|(_, one)| expression(one))
}

pub(super) fn expression(attributes: &[u8]) -> (String, &[u8]) {
    let part = |kind| attribute(attributes, kind).unwrap_or_default();
    (text(part(NFTA_EXPR_NAME)), part(NFTA_EXPR_DATA))
}

/// A number of 32 bits.
pub(super) fn word(attributes: &[u8], kind: u16) -> Option<u32> {
    let bytes = get(attribute(attributes, kind)?, 0)?;
    Some(u32::from_be_bytes(bytes))
}

/// Text up to its NUL.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The ports between interval bounds. The kernel lists bounds from the largest to the smallest. It
/// does not list expired elements, but may list the ends of their intervals.
fn ports_between(mut bounds: Vec<(u16, bool)>) -> PortSet {
    // At the same port the end comes first: there one interval ends and the next begins.
    bounds.sort_unstable_by_key(|(port, end)| (*port, !*end));
    let mut ranges = Vec::new();
    let mut begun: Option<u16> = None;
    for (port, end) in bounds {
        if let Some(from) = begun.take().filter(|_| end) {
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

pub(super) fn packets(payload: &[u8]) -> Option<u64> {
    let data = attribute(payload.get(4..)?, NFTA_OBJ_DATA)?;
    Some(u64::from_be_bytes(get(
        attribute(data, NFTA_COUNTER_PACKETS)?,
        0,
    )?))
}

/// Checks the properties of all parsers for any message.
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
    flags(bytes);
    packets(bytes);
}

#[cfg(test)]
mod tests {
    use super::verdict as verdict_of;
    use super::*;
    use crate::kernel::netlink::put_attribute;
    use proptest::prelude::*;

    /// `struct nfgenmsg`: inet, version 0, the number of the generation.
    const INET: [u8; 4] = [1, 0, 0, 2];

    /// The set {80, 443-65535} as a 6.18 kernel listed it: from the largest to the smallest, and no
    /// end for the range that reaches the end of all ports.
    fn elements() -> Vec<u8> {
        let key = |port: u16| with(&[(1, &with(&[(1, &port.to_be_bytes())]))]);
        // The timeout, and in how many milliseconds it expires.
        let timed = with(&[(4, &29_996u64.to_be_bytes()), (5, &29_992u64.to_be_bytes())]);
        let end_of_interval = with(&[(3, &1u32.to_be_bytes())]);
        let element = |port, more: &[u8]| [key(port), more.to_vec()].concat();
        let all = with(&[
            (1, &element(443, &timed)),
            (1, &element(81, &end_of_interval)),
            (1, &element(80, &timed)),
        ]);
        // NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS
        [&INET[..], &with(&[(2, b"ports\0"), (3, &all)])].concat()
    }

    fn counter() -> Vec<u8> {
        // Bytes, and packets.
        let counts = with(&[(1, &60u64.to_be_bytes()), (2, &257u64.to_be_bytes())]);
        // NFTA_OBJ_NAME, NFTA_OBJ_TYPE (a counter), NFTA_OBJ_DATA
        let about = with(&[
            (2, b"syns_stopped\0"),
            (3, &1u32.to_be_bytes()),
            (4, &counts),
        ]);
        [&INET[..], &about].concat()
    }

    #[test]
    fn reads_the_ports_that_the_kernel_lists() {
        let bounds = bounds(&elements());
        assert_eq!(bounds, [(443, false), (81, true), (80, false)]);
        assert_eq!(ports_between(bounds.clone()).to_string(), "80,443-65535");
        assert_eq!(ports(bounds, false).to_string(), "80-81,443");
    }

    #[test]
    fn an_end_without_a_beginning_is_no_port() {
        // The interval's first element, which has the timeout, has expired.
        assert_eq!(ports_between(vec![(81, true)]), PortSet::EMPTY);
        // Ranges that touch.
        let touching = vec![(80, false), (90, true), (90, false), (91, true)];
        assert_eq!(ports_between(touching).to_string(), "80-90");
    }

    #[test]
    fn reads_the_count() {
        let counter = counter();
        assert_eq!(packets(&counter), Some(257));
        assert_eq!(packets(&counter[..counter.len() - 12]), None);
        assert_eq!(packets(&[]), None);
    }

    fn with(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, value) in attributes {
            put_attribute(&mut bytes, *kind, value);
        }
        bytes
    }

    /// A message: a header of four bytes, and attributes.
    fn message(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        [&[1, 0, 0, 0][..], &with(attributes)].concat()
    }

    #[test]
    fn reads_what_kind_a_set_is() {
        let set = |flags: u32| message(&[(NFTA_SET_FLAGS, &flags.to_be_bytes())]);
        assert_eq!(has_intervals(&set(0x4 | 0x10)), Some(true), "with timeouts");
        assert_eq!(has_intervals(&set(0x10)), Some(false));
        assert_eq!(has_intervals(&message(&[])), Some(false), "no flags");
        assert_eq!(has_intervals(&[1, 0]), None, "cut");
    }

    #[test]
    fn reads_tables() {
        let userdata = [0, 4, b'w', b'h', b'o', 0];
        let of = |flags: u32| {
            message(&[
                (NFTA_TABLE_NAME, b"syngate_01\0"),
                (NFTA_TABLE_FLAGS, &flags.to_be_bytes()),
                (NFTA_TABLE_USERDATA, &userdata),
            ])
        };
        // An owner's table that is dormant as well.
        let listed = table(&of(NFT_TABLE_F_OWNER | 1)).unwrap();
        assert_eq!((&*listed.name, &*listed.comment), ("syngate_01", "who"));
        assert!(listed.owned);
        assert!(!table(&of(1)).unwrap().owned);
        assert_eq!(flags(&of(7)), Some(7));
        assert_eq!(flags(&message(&[])), None);
        let name_alone = message(&[(NFTA_TABLE_NAME, b"t\0")]);
        assert!(!table(&name_alone).unwrap().owned);
        assert!(table(&message(&[])).is_none());
        let number = message(&[(NFTA_GEN_ID, &7_u32.to_be_bytes())]);
        assert_eq!(generation(&number), Some(7));
        assert_eq!(generation(&message(&[])), None);
    }

    #[test]
    fn reads_verdicts() {
        let code = |code: i32| {
            let verdict = with(&[(NFTA_VERDICT_CODE, &code.to_be_bytes())]);
            verdict_of(&with(&[(NFTA_DATA_VERDICT, &verdict)]))
        };
        assert_eq!(code(libc::NF_DROP), Some(libc::NF_DROP));
        assert_eq!(code(libc::NFT_JUMP), Some(libc::NFT_JUMP));
        assert_eq!(verdict_of(&[]), None);
        for refuses in [
            libc::NF_DROP,
            libc::NF_QUEUE,
            libc::NFT_JUMP,
            libc::NFT_GOTO,
        ] {
            assert!(may_refuse(refuses), "{refuses}");
        }
        for passes in [
            libc::NF_ACCEPT,
            libc::NFT_CONTINUE,
            libc::NFT_BREAK,
            libc::NFT_RETURN,
        ] {
            assert!(!may_refuse(passes), "{passes}");
        }
    }

    #[test]
    fn reads_expressions() {
        let of = |name: &[u8], data: &[u8]| with(&[(NFTA_EXPR_NAME, name), (NFTA_EXPR_DATA, data)]);
        let (cmp, counter) = (of(b"cmp\0", b"data"), of(b"counter\0", b""));
        // NFTA_LIST_ELEM
        let list = with(&[(1, &cmp), (1, &counter)]);
        let all: Vec<(String, &[u8])> = expressions(&list).collect();
        let expected = [
            ("cmp".to_owned(), &b"data"[..]),
            ("counter".to_owned(), &b""[..]),
        ];
        assert_eq!(all, expected);
    }

    proptest! {
        #[test]
        fn hostile_replies_never_panic(
            at in any::<prop::sample::Index>(),
            flip in any::<u8>(),
        ) {
            let mut bent = elements();
            let at = at.index(bent.len());
            bent[at] ^= flip;
            withstand(&bent);
        }
    }
}

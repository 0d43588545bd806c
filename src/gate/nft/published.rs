//! Finds NAT rules in nf_tables: the ports that they redirect before the input hook, such as a
//! container's published port, and the IP versions that have any. Only plain rules show a port:
//! those that compare it and then change the address.

use anyhow::Result;
use nftnl::ProtoFamily;
use nix::libc;

use super::tables::Tables;
use super::uapi::{
    NFT_CMP_EQ, NFT_NAT_DNAT, NFT_PAYLOAD_TRANSPORT_HEADER, NFTA_CMP_DATA, NFTA_CMP_OP,
    NFTA_DATA_VALUE, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_NAT_TYPE, NFTA_PAYLOAD_BASE,
    NFTA_PAYLOAD_LEN, NFTA_PAYLOAD_OFFSET, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE,
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

/// The ports that plain rules redirect.
///
/// # Errors
/// No privilege, or no nf_tables.
pub(crate) fn find() -> Result<Vec<RedirectedPort>> {
    let mut found: Vec<RedirectedPort> = others::find(&OUTPUT, port_sent_elsewhere)?
        .into_iter()
        .map(|(at, port)| RedirectedPort {
            port,
            by: at.to_string(),
        })
        .collect();
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

/// Matches `tcp dport PORT … dnat to …`: a port that a rule loads and compares before it changes
/// the address.
fn port_sent_elsewhere(expressions: &[u8]) -> Option<u16> {
    let (mut loaded, mut port) = (false, None);
    for (_, expression) in attributes(expressions) {
        let data = attribute(expression, NFTA_EXPR_DATA).unwrap_or_default();
        let word = |kind| {
            attribute(data, kind)
                .and_then(|v| get(v, 0))
                .map(u32::from_be_bytes)
        };
        match answers::text(attribute(expression, NFTA_EXPR_NAME)?).as_str() {
            "payload" => {
                loaded = word(NFTA_PAYLOAD_BASE) == Some(NFT_PAYLOAD_TRANSPORT_HEADER)
                    && word(NFTA_PAYLOAD_OFFSET) == Some(PORT_OFFSET)
                    && word(NFTA_PAYLOAD_LEN) == Some(PORT_LENGTH);
            }
            "cmp" if loaded && word(NFTA_CMP_OP) == Some(NFT_CMP_EQ) => {
                let value = attribute(data, NFTA_CMP_DATA)?;
                port = attribute(value, NFTA_DATA_VALUE).and_then(|v| get(v, 0));
            }
            "nat" if word(NFTA_NAT_TYPE) == Some(NFT_NAT_DNAT) => {
                return port.map(u16::from_be_bytes);
            }
            "redir" => return port.map(u16::from_be_bytes),
            // Another expression may have loaded something else.
            _ => loaded = false,
        }
    }
    None
}

/// Checks the properties of the parsers for any message.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    if let Some((_, port)) = others::rule(bytes, port_sent_elsewhere) {
        assert!(bytes.windows(2).any(|part| part == port.to_be_bytes()));
    }
    for family in [
        nat_rule(bytes),
        others::base_chain(bytes, &OUTPUT).map(|chain| chain.family),
    ] {
        assert!(family.is_none_or(|family| family == bytes[0]));
    }
}

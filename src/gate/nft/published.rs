//! Finds NAT rules in nf_tables: the ports that they redirect before the input hook, such as a
//! container's published port, and the IP versions that have any. A rule shows its ports if it
//! compares the destination port, or looks it up in a set, and then changes the address.

use anyhow::Result;
use nftnl::ProtoFamily;
use nix::libc;

use super::compared::{Compared, Ports};
use super::keys::known;
use super::tables::Tables;
use super::uapi::{
    NFT_NAT_DNAT, NFTA_NAT_TYPE, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE, NFTA_TARGET_NAME,
};
use super::{answers, others};
use crate::gate::by_port::Matched;
use crate::gate::nat::{NAT_TARGETS, RedirectedPort};
use crate::gate::rules::PREFIX;
use crate::kernel::netlink::attribute;
use crate::words::family::Family;

/// Base chains at this hook see packets of this host's own clients.
const OUTPUT: [libc::c_int; 1] = [libc::NF_INET_LOCAL_OUT];

/// The ports that rules redirect.
///
/// # Errors
/// No privilege, or no nf_tables.
pub(crate) fn find() -> Result<Vec<RedirectedPort>> {
    let mut tables = Tables::open()?;
    let mut found = Vec::new();
    let rules = others::find(&mut tables, sent_elsewhere)?
        .without(&OUTPUT)
        .rules;
    for (at, sent) in rules {
        let by = at.to_string();
        let Matched::These(ports) = known(sent, &at, &mut tables)? else {
            continue;
        };
        // The rule names those that it does not send elsewhere.
        if ports.len() > usize::from(u16::MAX / 2) {
            continue;
        }
        found.extend(ports.iter().map(|port| RedirectedPort {
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
    let does_nat = answers::expressions(expressions).any(|(name, data)| match name.as_str() {
        "nat" | "masq" | "redir" => true,
        // iptables-nft uses targets of x_tables.
        "target" => {
            let target = attribute(data, NFTA_TARGET_NAME).unwrap_or_default();
            NAT_TARGETS.contains(&answers::text(target).as_str())
        }
        _ => false,
    });
    (does_nat && !table.starts_with(PREFIX)).then_some(*payload.first()?)
}

/// What a rule has compared with the destination port before it changes the address.
fn sent_elsewhere(expressions: &[u8]) -> Option<Ports> {
    let mut rule = Compared::default();
    for (name, data) in answers::expressions(expressions) {
        if redirects(&name, data) {
            return rule.ports;
        }
        rule.note(&name, data);
    }
    None
}

pub(super) fn redirects(name: &str, data: &[u8]) -> bool {
    match name {
        "target" => {
            let target = attribute(data, NFTA_TARGET_NAME).map(answers::text);
            matches!(target.as_deref(), Some("DNAT" | "REDIRECT"))
        }
        "nat" => answers::word(data, NFTA_NAT_TYPE) == Some(NFT_NAT_DNAT),
        "redir" => true,
        _ => false,
    }
}

/// Checks the properties of the parsers for any message.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    if let Some((_, ports)) = others::rule(bytes, sent_elsewhere) {
        ports.withstand();
    }
    assert!(nat_rule(bytes).is_none_or(|family| family == bytes[0]));
    others::withstand(bytes);
}

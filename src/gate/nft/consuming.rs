//! Finds rules in nf_tables that use a SYN up before a gate in the input hook could stop it, and rules
//! that change where a packet goes.

use anyhow::Result;
use nftnl::ProtoFamily;
use nix::libc;

use super::answers;
use super::tables::Tables;
use super::uapi::{
    NFT_NAT_DNAT, NFT_OBJECT_CT_EXPECT, NFT_OBJECT_CT_HELPER, NFT_OBJECT_LIMIT,
    NFT_OBJECT_SYNPROXY, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_EXPR_DATA,
    NFTA_EXPR_NAME, NFTA_HOOK_HOOKNUM, NFTA_NAT_TYPE, NFTA_OBJREF_IMM_TYPE, NFTA_RULE_CHAIN,
    NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE, NFTA_TARGET_INFO, NFTA_TARGET_NAME,
};
use crate::gate::consumers::{Consumes, Consuming, Effect, by_match, by_target};
use crate::gate::rules::PREFIX;
use crate::kernel::netlink::{attribute, attributes, get};

/// The offset of the helper's name in `struct xt_ct_target_info_v1` (linux/netfilter/xt_CT.h).
const CT_HELPER_AT: usize = 12;

#[derive(PartialEq, Eq)]
struct At {
    family: u8,
    table: String,
    chain: String,
}

/// The effects of others' rules that incoming packets can meet.
///
/// # Errors
/// No privilege, or no nf_tables.
pub(crate) fn find() -> Result<Vec<Consuming>> {
    let any_family = ProtoFamily::Unspec;
    let mut tables = Tables::open()?;
    let elsewhere = tables.dump(any_family, libc::NFT_MSG_GETCHAIN, &[], |row| {
        chain_elsewhere(row).into_iter().collect()
    })?;
    let rules = tables.dump(any_family, libc::NFT_MSG_GETRULE, &[], |row| {
        rule(row).into_iter().collect()
    })?;
    let incoming = rules.into_iter().filter(|(at, _)| !elsewhere.contains(at));
    let found = incoming.map(|(at, effect)| Consuming {
        effect,
        by: format!("nft table {}, chain {}", at.table, at.chain),
    });
    Ok(found.collect())
}

/// A base chain in one message of a dump, if packets to this host from others don't meet it.
fn chain_elsewhere(payload: &[u8]) -> Option<At> {
    let body = payload.get(4..)?;
    let hook = attribute(body, NFTA_CHAIN_HOOK)?;
    let number = u32::from_be_bytes(get(attribute(hook, NFTA_HOOK_HOOKNUM)?, 0)?);
    let elsewhere = [
        libc::NF_INET_FORWARD,
        libc::NF_INET_LOCAL_OUT,
        libc::NF_INET_POST_ROUTING,
    ];
    elsewhere.contains(&(number as i32)).then_some(At {
        family: *payload.first()?,
        table: answers::text(attribute(body, NFTA_CHAIN_TABLE)?),
        chain: answers::text(attribute(body, NFTA_CHAIN_NAME)?),
    })
}

/// A rule in one message of a dump, if it has such an effect.
fn rule(payload: &[u8]) -> Option<(At, Effect)> {
    let body = payload.get(4..)?;
    let effect = effect(attribute(body, NFTA_RULE_EXPRESSIONS)?)?;
    let at = At {
        family: *payload.first()?,
        table: answers::text(attribute(body, NFTA_RULE_TABLE)?),
        chain: answers::text(attribute(body, NFTA_RULE_CHAIN)?),
    };
    (!at.table.starts_with(PREFIX)).then_some((at, effect))
}

fn effect(expressions: &[u8]) -> Option<Effect> {
    let mut found = None;
    for (_, expression) in attributes(expressions) {
        let name = answers::text(attribute(expression, NFTA_EXPR_NAME)?);
        let data = attribute(expression, NFTA_EXPR_DATA).unwrap_or_default();
        // A limit of log messages decides nothing.
        if name == "log" {
            return None;
        }
        found = found.or(of_expression(&name, data));
    }
    found
}

fn of_expression(name: &str, data: &[u8]) -> Option<Effect> {
    let word = |kind| {
        let word = attribute(data, kind).and_then(|v| get(v, 0));
        word.map(u32::from_be_bytes)
    };
    let named = || answers::text(attribute(data, NFTA_TARGET_NAME).unwrap_or_default());
    Some(match name {
        "synproxy" => Effect::Consumes(Consumes::SynProxy),
        "limit" | "connlimit" => Effect::Consumes(Consumes::Rate),
        "dynset" => Effect::Consumes(Consumes::Set),
        "redir" | "tproxy" => Effect::Translates,
        "nat" if word(NFTA_NAT_TYPE) == Some(NFT_NAT_DNAT) => Effect::Translates,
        "objref" => match word(NFTA_OBJREF_IMM_TYPE)? {
            NFT_OBJECT_CT_HELPER | NFT_OBJECT_CT_EXPECT => Effect::Consumes(Consumes::Expectation),
            NFT_OBJECT_LIMIT => Effect::Consumes(Consumes::Rate),
            NFT_OBJECT_SYNPROXY => Effect::Consumes(Consumes::SynProxy),
            _ => return None,
        },
        "match" => return by_match(&named()),
        "target" => {
            let info = attribute(data, NFTA_TARGET_INFO).unwrap_or_default();
            let helps = info.get(CT_HELPER_AT).is_some_and(|first| *first != 0);
            return by_target(&named(), helps);
        }
        _ => return None,
    })
}

/// Checks the properties of the parsers for any message.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let families = [rule(bytes).map(|(at, _)| at), chain_elsewhere(bytes)];
    for at in families.into_iter().flatten() {
        assert_eq!(at.family, bytes[0]);
    }
}

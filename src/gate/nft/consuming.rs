//! Finds rules in nf_tables that use a SYN up before a gate in the input hook could stop it, and rules
//! that change where a packet goes.

use anyhow::Result;
use nix::libc;

use super::uapi::{
    NFT_NAT_DNAT, NFT_OBJECT_CT_EXPECT, NFT_OBJECT_CT_HELPER, NFT_OBJECT_LIMIT,
    NFT_OBJECT_SYNPROXY, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_NAT_TYPE, NFTA_OBJREF_IMM_TYPE,
    NFTA_TARGET_INFO, NFTA_TARGET_NAME,
};
use super::{answers, others};
use crate::gate::consumers::{Consumes, Consuming, Effect, by_match, by_target};
use crate::gate::rules::PREFIX;
use crate::kernel::netlink::{attribute, attributes, get};

/// The offset of the helper's name in `struct xt_ct_target_info_v1` (linux/netfilter/xt_CT.h).
const CT_HELPER_AT: usize = 12;

/// Packets to this host from others do not meet base chains at these hooks.
const ELSEWHERE: [libc::c_int; 3] = [
    libc::NF_INET_FORWARD,
    libc::NF_INET_LOCAL_OUT,
    libc::NF_INET_POST_ROUTING,
];

/// The effects of others' rules that incoming packets can meet.
///
/// # Errors
/// No privilege, or no nf_tables.
pub(crate) fn find() -> Result<Vec<Consuming>> {
    let mut found = others::find(&ELSEWHERE, effect)?;
    found.retain(|(at, _)| !at.table.starts_with(PREFIX));
    let consuming = found.into_iter().map(|(at, effect)| Consuming {
        effect,
        by: at.to_string(),
    });
    Ok(consuming.collect())
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
    let families = [
        others::rule(bytes, effect).map(|(at, _)| at),
        others::base_chain(bytes, &ELSEWHERE),
    ];
    for at in families.into_iter().flatten() {
        assert_eq!(at.family, bytes[0]);
    }
}

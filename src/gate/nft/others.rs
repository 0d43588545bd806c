//! Finds rules of nf_tables by what is in them, with the chains that they stand in.

use std::fmt;

use anyhow::Result;
use nftnl::ProtoFamily;
use nix::libc;

use super::answers;
use super::tables::Tables;
use super::uapi::{
    NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY,
    NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE,
};
use crate::kernel::netlink::{attribute, get};

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At {
    pub(super) family: u8,
    pub(super) table: String,
    chain: String,
}

impl At {
    /// Another chain of the same table.
    pub(super) fn chain_beside(&self, chain: &str) -> At {
        At {
            chain: chain.to_owned(),
            ..self.clone()
        }
    }

    pub(super) fn table_words(&self) -> String {
        format!("nft {} {}", self.family, self.table)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nft table {}, chain {}", self.table, self.chain)
    }
}

/// What `of` finds in the expressions of each rule. Leaves out the base chains at the hooks `elsewhere`
/// (`NF_INET_…`).
///
/// # Errors
/// No privilege, or no nf_tables.
pub(super) fn find<T>(
    elsewhere: &[libc::c_int],
    of: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<(At, T)>> {
    let any_family = ProtoFamily::Unspec;
    let mut tables = Tables::open()?;
    let elsewhere = tables.dump(any_family, libc::NFT_MSG_GETCHAIN, &[], |row| {
        let there = base_chain(row, |_, hook, _| elsewhere.contains(&hook));
        there.into_iter().collect()
    })?;
    let mut rules = tables.dump(any_family, libc::NFT_MSG_GETRULE, &[], |row| {
        rule(row, &of).into_iter().collect()
    })?;
    rules.retain(|(at, _)| !elsewhere.contains(at));
    Ok(rules)
}

/// A base chain in one message of a dump, if `wanted` says so of its family (`NFPROTO_…`), hook
/// (`NF_INET_…`) and priority.
pub(super) fn base_chain(
    payload: &[u8],
    wanted: impl Fn(u8, libc::c_int, i32) -> bool,
) -> Option<At> {
    let body = payload.get(4..)?;
    let family = *payload.first()?;
    let hook = attribute(body, NFTA_CHAIN_HOOK)?;
    let number = |kind| Some(i32::from_be_bytes(get(attribute(hook, kind)?, 0)?));
    let (number, priority) = (number(NFTA_HOOK_HOOKNUM)?, number(NFTA_HOOK_PRIORITY)?);
    wanted(family, number, priority).then_some(At {
        family,
        table: answers::text(attribute(body, NFTA_CHAIN_TABLE)?),
        chain: answers::text(attribute(body, NFTA_CHAIN_NAME)?),
    })
}

/// A rule in one message of a dump, if `of` finds something in its expressions.
pub(super) fn rule<T>(payload: &[u8], of: impl Fn(&[u8]) -> Option<T>) -> Option<(At, T)> {
    let body = payload.get(4..)?;
    let found = of(attribute(body, NFTA_RULE_EXPRESSIONS)?)?;
    let at = At {
        family: *payload.first()?,
        table: answers::text(attribute(body, NFTA_RULE_TABLE)?),
        chain: answers::text(attribute(body, NFTA_RULE_CHAIN)?),
    };
    Some((at, found))
}

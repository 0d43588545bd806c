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
use crate::kernel::netlink::attribute;

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

/// A chain at a hook.
pub(super) struct Base {
    pub(super) at: At,
    /// `NF_INET_…`.
    pub(super) hook: libc::c_int,
    pub(super) priority: i32,
}

/// What was found in rules, and the base chains of all tables.
pub(super) struct Found<T> {
    pub(super) rules: Vec<(At, T)>,
    bases: Vec<Base>,
}

impl<T> Found<T> {
    /// The base chains that are wanted.
    pub(super) fn bases(&self, wanted: impl Fn(&Base) -> bool) -> Vec<At> {
        let bases = self.bases.iter().filter(|base| wanted(base));
        bases.map(|base| base.at.clone()).collect()
    }

    /// Leaves out the rules of base chains at these hooks (`NF_INET_…`).
    pub(super) fn without(mut self, hooks: &[libc::c_int]) -> Found<T> {
        let elsewhere = self.bases(|base| hooks.contains(&base.hook));
        self.rules.retain(|(at, _)| !elsewhere.contains(at));
        self
    }
}

/// What `of` finds in the expressions of each rule.
///
/// # Errors
/// No privilege, or no nf_tables.
pub(super) fn find<T>(tables: &mut Tables, of: impl Fn(&[u8]) -> Option<T>) -> Result<Found<T>> {
    let any_family = ProtoFamily::Unspec;
    let bases = tables.dump(any_family, libc::NFT_MSG_GETCHAIN, &[], |row| {
        base_chain(row).into_iter().collect()
    })?;
    let rules = tables.dump(any_family, libc::NFT_MSG_GETRULE, &[], |row| {
        rule(row, &of).into_iter().collect()
    })?;
    Ok(Found { rules, bases })
}

/// A base chain in one message of a dump.
fn base_chain(payload: &[u8]) -> Option<Base> {
    let body = payload.get(4..)?;
    let hook = attribute(body, NFTA_CHAIN_HOOK)?;
    let number = |kind| answers::word(hook, kind).map(|word| word as i32);
    Some(Base {
        at: At {
            family: *payload.first()?,
            table: answers::text(attribute(body, NFTA_CHAIN_TABLE)?),
            chain: answers::text(attribute(body, NFTA_CHAIN_NAME)?),
        },
        hook: number(NFTA_HOOK_HOOKNUM)?,
        priority: number(NFTA_HOOK_PRIORITY)?,
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

/// Checks the properties of the parser of chains for any message.
#[cfg(any(fuzzing, test))]
pub(super) fn withstand(bytes: &[u8]) {
    assert!(base_chain(bytes).is_none_or(|base| base.at.family == bytes[0]));
}

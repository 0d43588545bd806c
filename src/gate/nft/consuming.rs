//! Finds rules in nf_tables that use a SYN up before a gate in the input hook could stop it, and rules
//! that change where a packet goes.

use anyhow::Result;
use nftnl::ProtoFamily;
use nix::libc;

use super::others::Base;
use super::ruleset::BEFORE_ALL;
use super::tables::Tables;
use super::uapi::{
    NFT_NAT_DNAT, NFT_OBJECT_CT_EXPECT, NFT_OBJECT_CT_HELPER, NFT_OBJECT_LIMIT, NFT_OBJECT_QUOTA,
    NFT_OBJECT_SYNPROXY, NFT_REG_VERDICT, NFTA_IMMEDIATE_DREG, NFTA_LOOKUP_DREG, NFTA_LOOKUP_SET,
    NFTA_NAT_TYPE, NFTA_OBJREF_IMM_TYPE, NFTA_OBJREF_SET_NAME, NFTA_SET_EXPR, NFTA_SET_EXPRESSIONS,
    NFTA_SET_NAME, NFTA_SET_OBJ_TYPE, NFTA_SET_TABLE, NFTA_TARGET_INFO, NFTA_TARGET_NAME,
};
use super::{answers, others};
use crate::gate::consumers::{Consumes, Consuming, Effect, by_match, by_target, logs};
use crate::gate::rules::PREFIX;
use crate::kernel::netlink::{attribute, attributes};

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
    let mut tables = Tables::open()?;
    let mut found = others::find(&mut tables, read)?.without(&ELSEWHERE);
    let rules = &mut found.rules;
    rules.retain(|(at, _)| !at.table.starts_with(PREFIX));
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let any_family = ProtoFamily::Unspec;
    let sets = tables.dump(any_family, libc::NFT_MSG_GETSET, &[], |row| {
        counting_set(row).into_iter().collect()
    })?;
    let early = found.bases(is_early);
    let consuming = found.rules.into_iter().filter_map(|(at, rule)| {
        let of_set = |name: &String| {
            let mut sets = sets.iter();
            let is_it = |set: &&CountingSet| {
                (set.family, &set.table, &set.name) == (at.family, &at.table, name)
            };
            sets.find(is_it).map(|set| set.effect)
        };
        Some(Consuming {
            effect: rule.effect(of_set)?,
            by: at.to_string(),
            early: early.contains(&at),
        })
    });
    Ok(consuming.collect())
}

/// No gate comes before these base chains.
fn is_early(base: &Base) -> bool {
    let of_device = i32::from(base.at.family) == libc::NFPROTO_NETDEV;
    let ingress = of_device || base.hook == libc::NF_INET_INGRESS;
    ingress || base.hook == libc::NF_INET_PRE_ROUTING && base.priority <= BEFORE_ALL
}

/// What a rule does with a SYN, as far as that matters here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rule {
    effect: Option<Effect>,
    /// It uses these sets, which may have an effect.
    sets: Vec<String>,
    logs: bool,
    /// It says what becomes of the packet, so its limits matter.
    decides: bool,
}

impl Rule {
    fn effect(&self, of_set: impl Fn(&String) -> Option<Effect>) -> Option<Effect> {
        let effect = self.effect.or_else(|| self.sets.iter().find_map(of_set))?;
        // A limit of log messages decides nothing.
        let of_messages = self.logs && !self.decides && effect == Effect::Consumes(Consumes::Rate);
        (!of_messages).then_some(effect)
    }

    fn add(&mut self, name: &str, data: &[u8]) {
        let word = |kind| answers::word(data, kind);
        let text = |kind| attribute(data, kind).map(answers::text);
        let target = text(NFTA_TARGET_NAME).filter(|_| name == "target");
        match name {
            "log" => self.logs = true,
            "target" if target.as_deref().is_some_and(logs) => self.logs = true,
            "immediate" => self.decides |= word(NFTA_IMMEDIATE_DREG) == Some(NFT_REG_VERDICT),
            "lookup" => {
                self.decides |= word(NFTA_LOOKUP_DREG) == Some(NFT_REG_VERDICT);
                self.sets.extend(text(NFTA_LOOKUP_SET));
            }
            "objref" => self.sets.extend(text(NFTA_OBJREF_SET_NAME)),
            "reject" | "target" | "queue" => self.decides = true,
            _ => (),
        }
        self.effect = self.effect.or(of_expression(name, data));
    }
}

fn read(expressions: &[u8]) -> Option<Rule> {
    let mut rule = Rule::default();
    for (name, data) in answers::expressions(expressions) {
        rule.add(&name, data);
    }
    (rule.effect.is_some() || !rule.sets.is_empty()).then_some(rule)
}

fn of_expression(name: &str, data: &[u8]) -> Option<Effect> {
    let word = |kind| answers::word(data, kind);
    let named = || answers::text(attribute(data, NFTA_TARGET_NAME).unwrap_or_default());
    Some(match name {
        "synproxy" => Effect::Consumes(Consumes::SynProxy),
        "limit" | "connlimit" | "quota" => Effect::Consumes(Consumes::Rate),
        "dynset" => Effect::Consumes(Consumes::Set),
        "redir" | "tproxy" => Effect::Translates,
        "nat" if word(NFTA_NAT_TYPE) == Some(NFT_NAT_DNAT) => Effect::Translates,
        "objref" => return of_object(word(NFTA_OBJREF_IMM_TYPE)?),
        "match" => return by_match(&named()),
        "target" => {
            let info = attribute(data, NFTA_TARGET_INFO).unwrap_or_default();
            let helps = info.get(CT_HELPER_AT).is_some_and(|first| *first != 0);
            return by_target(&named(), helps);
        }
        _ => return None,
    })
}

/// The effect of a named object.
fn of_object(kind: u32) -> Option<Effect> {
    Some(Effect::Consumes(match kind {
        NFT_OBJECT_CT_HELPER | NFT_OBJECT_CT_EXPECT => Consumes::Expectation,
        NFT_OBJECT_LIMIT | NFT_OBJECT_QUOTA => Consumes::Rate,
        NFT_OBJECT_SYNPROXY => Consumes::SynProxy,
        _ => return None,
    }))
}

/// A map to named objects, or a set whose elements have limits of their own.
struct CountingSet {
    family: u8,
    table: String,
    name: String,
    effect: Effect,
}

/// A set in one message of a dump, if a rule that uses it has an effect.
fn counting_set(payload: &[u8]) -> Option<CountingSet> {
    let body = payload.get(4..)?;
    let of_objects = answers::word(body, NFTA_SET_OBJ_TYPE).and_then(of_object);
    let one = attribute(body, NFTA_SET_EXPR).into_iter();
    let several = attribute(body, NFTA_SET_EXPRESSIONS).unwrap_or_default();
    let each = one.chain(attributes(several).map(|(_, expression)| expression));
    let mut of_each = each.filter_map(|expression| {
        let (name, data) = answers::expression(expression);
        of_expression(&name, data)
    });
    Some(CountingSet {
        family: *payload.first()?,
        table: answers::text(attribute(body, NFTA_SET_TABLE)?),
        name: answers::text(attribute(body, NFTA_SET_NAME)?),
        effect: of_objects.or_else(|| of_each.next())?,
    })
}

/// Checks the properties of the parsers for any message.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    assert!(others::rule(bytes, read).is_none_or(|(at, _)| at.family == bytes[0]));
    assert!(counting_set(bytes).is_none_or(|set| set.family == bytes[0]));
    others::withstand(bytes);
}

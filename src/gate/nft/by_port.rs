//! Finds rules in nf_tables that refuse packets by their destination port after NAT, or keep them from
//! connection tracking.

use anyhow::Result;
use nix::libc;

use super::compared::{Compared, Ports};
use super::keys::known;
use super::others::Base;
use super::tables::Tables;
use super::uapi::{
    NFT_REG_VERDICT, NFTA_DATA_VERDICT, NFTA_IMMEDIATE_DATA, NFTA_IMMEDIATE_DREG, NFTA_LOOKUP_DREG,
    NFTA_TARGET_INFO, NFTA_TARGET_NAME, NFTA_VERDICT_CHAIN,
};
use super::{answers, others, published};
use crate::gate::by_port::{Does, PortRule, is_met};
use crate::gate::nat::{REFUSING_TARGETS, UNTRACKING_TARGETS};
use crate::gate::rules::PREFIX;
use crate::kernel::netlink::{attribute, get};
use crate::words::ports::PortSet;

/// `XT_CT_NOTRACK` in `struct xt_ct_target_info_v1`.
const CT_NOTRACK: u16 = 1;

/// # Errors
/// No privilege, no nf_tables, or a set is not listed.
pub(crate) fn find() -> Result<Vec<PortRule>> {
    let mut tables = Tables::open()?;
    let all = others::find(&mut tables, read)?;
    let away = |met: fn(&Base) -> bool| all.bases(|base| !(is_of_ip(base) && met(base)));
    let (others, own_clients) = (away(filters_others), away(filters_own_clients));
    let before_tracking = away(|base| base.hook == libc::NF_INET_PRE_ROUTING);
    let rules = all.rules;
    let jumps: Vec<_> = rules
        .iter()
        .filter_map(|(at, rule)| Some((at.clone(), at.chain_beside(rule.goes_to.as_ref()?))))
        .collect();
    let mut found = Vec::new();
    for (at, rule) in rules {
        let meets = |away| is_met(&at, away, &jumps);
        let (is_met, local) = match rule.does() {
            Some(Does::Refuses | Does::AcceptsTranslated) => match meets(&others) {
                true => (true, false),
                false => (meets(&own_clients), true),
            },
            Some(Does::Untracks | Does::SendsSomeElsewhere) => (meets(&before_tracking), false),
            None => continue,
        };
        if at.table.starts_with(PREFIX) || !is_met {
            continue;
        }
        found.extend(rule.known(&at, local, &mut tables)?);
    }
    Ok(found)
}

/// After NAT. Prerouting is so from a priority on. A chain at just that priority may come before syngate's
/// or after it.
fn filters_others(base: &Base) -> bool {
    base.hook == libc::NF_INET_LOCAL_IN
        || base.hook == libc::NF_INET_PRE_ROUTING && base.priority > libc::NF_IP_PRI_NAT_DST
}

fn filters_own_clients(base: &Base) -> bool {
    base.hook == libc::NF_INET_LOCAL_OUT && base.priority > libc::NF_IP_PRI_NAT_DST
}

/// The families of bridges, ARP and devices see packets before NAT.
fn is_of_ip(base: &Base) -> bool {
    let ip = [libc::NFPROTO_INET, libc::NFPROTO_IPV4, libc::NFPROTO_IPV6];
    ip.contains(&i32::from(base.at.family))
}

#[derive(Default)]
struct Rule {
    does: Option<Does>,
    /// It may end with the verdict that the packet passes.
    passes: bool,
    goes_to: Option<String>,
    compared: Compared,
}

impl Rule {
    fn does(&self) -> Option<Does> {
        let accepts = self.passes && self.compared.translated;
        self.does.or(accepts.then_some(Does::AcceptsTranslated))
    }

    fn known(self, at: &others::At, local: bool, tables: &mut Tables) -> Result<Option<PortRule>> {
        let (Some(does), false) = (self.does(), self.compared.udp) else {
            return Ok(None);
        };
        let ports = match (self.compared.ports, does) {
            (Some(ports), _) => ports,
            (None, Does::Untracks) if !self.compared.narrowed => Ports::These(PortSet::all()),
            (None, Does::AcceptsTranslated | Does::SendsSomeElsewhere) => {
                Ports::These(PortSet::all())
            }
            _ => return Ok(None),
        };
        Ok(Some(PortRule {
            does,
            by: at.to_string(),
            table: at.table_words(),
            to: self.goes_to,
            ports: known(ports, at, tables)?,
            original: self.compared.original,
            local,
        }))
    }

    fn add(&mut self, name: &str, data: &[u8]) {
        let word = |kind| answers::word(data, kind);
        let does = match name {
            "reject" | "queue" => Some(Does::Refuses),
            "notrack" => Some(Does::Untracks),
            name if published::redirects(name, data) => self
                .compared
                .some_clients
                .then_some(Does::SendsSomeElsewhere),
            "lookup" if word(NFTA_LOOKUP_DREG) == Some(NFT_REG_VERDICT) => Some(Does::Refuses),
            "immediate" if word(NFTA_IMMEDIATE_DREG) == Some(NFT_REG_VERDICT) => {
                let data = attribute(data, NFTA_IMMEDIATE_DATA).unwrap_or_default();
                let verdict = attribute(data, NFTA_DATA_VERDICT).unwrap_or_default();
                self.goes_to = attribute(verdict, NFTA_VERDICT_CHAIN).map(answers::text);
                let code = answers::verdict(data);
                self.passes |=
                    code.is_some_and(|code| [libc::NF_ACCEPT, libc::NFT_RETURN].contains(&code));
                let refuses = code.is_some_and(answers::may_refuse);
                refuses.then_some(Does::Refuses)
            }
            "target" => {
                let target = attribute(data, NFTA_TARGET_NAME).map(answers::text);
                let info = attribute(data, NFTA_TARGET_INFO).unwrap_or_default();
                of_target(&target.unwrap_or_default(), info)
            }
            _ => None,
        };
        self.does = self.does.or(does);
        self.compared.note(name, data);
    }
}

fn of_target(name: &str, info: &[u8]) -> Option<Does> {
    let untracks = || get(info, 0).is_some_and(|f| u16::from_ne_bytes(f) & CT_NOTRACK != 0);
    if REFUSING_TARGETS.contains(&name) {
        return Some(Does::Refuses);
    }
    let [notrack, ct] = UNTRACKING_TARGETS;
    (name == notrack || name == ct && untracks()).then_some(Does::Untracks)
}

fn read(expressions: &[u8]) -> Option<Rule> {
    let mut rule = Rule::default();
    for (name, data) in answers::expressions(expressions) {
        rule.add(&name, data);
    }
    (rule.does().is_some() || rule.goes_to.is_some()).then_some(rule)
}

/// Checks the properties of the parser for any message.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    if let Some((at, rule)) = others::rule(bytes, read) {
        assert_eq!(at.family, bytes[0]);
        rule.compared.ports.iter().for_each(Ports::withstand);
    }
}

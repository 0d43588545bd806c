//! Finds TPROXY rules in nf_tables: the listener's port, and the ports that clients ask for.

use std::collections::HashMap;

use anyhow::Result;

use super::compared::{Compared, Ports};
use super::keys::known;
use super::tables::Tables;
use super::uapi::{
    NFTA_DATA_VALUE, NFTA_IMMEDIATE_DATA, NFTA_IMMEDIATE_DREG, NFTA_TARGET_INFO, NFTA_TARGET_NAME,
    NFTA_TARGET_REV, NFTA_TPROXY_REG_PORT,
};
use super::{answers, others};
use crate::gate::by_port::Matched;
use crate::gate::nat::ProxiedPort;
use crate::kernel::netlink::{attribute, get};

/// # Errors
/// No privilege, or no nf_tables.
pub(crate) fn find() -> Result<Vec<ProxiedPort>> {
    let mut tables = Tables::open()?;
    let mut found = Vec::new();
    for (at, (port, ports)) in others::find(&mut tables, proxied)?.rules {
        let asked_for = match ports
            .map(|ports| known(ports, &at, &mut tables))
            .transpose()?
        {
            Some(Matched::These(ports)) => Some(ports),
            Some(Matched::Unread) | None => None,
        };
        let by = at.to_string();
        found.push(ProxiedPort {
            port,
            asked_for,
            by,
        });
    }
    Ok(found)
}

/// The port of the listener, and what the rule has compared with the destination port.
fn proxied(expressions: &[u8]) -> Option<(u16, Option<Ports>)> {
    let mut rule = Compared::default();
    let mut registers = HashMap::new();
    for (name, data) in answers::expressions(expressions) {
        match name.as_str() {
            "immediate" => {
                let value = attribute(data, NFTA_IMMEDIATE_DATA);
                let value = value.and_then(|value| attribute(value, NFTA_DATA_VALUE));
                let register = answers::word(data, NFTA_IMMEDIATE_DREG);
                registers.extend(register.zip(value.and_then(|value| get(value, 0))));
            }
            "tproxy" => {
                let register = answers::word(data, NFTA_TPROXY_REG_PORT)?;
                let port = u16::from_be_bytes(*registers.get(&register)?);
                return Some((port, rule.ports));
            }
            "target" => {
                if let Some(port) = by_target(data) {
                    return Some((port, rule.ports));
                }
            }
            _ => (),
        }
        rule.note(&name, data);
    }
    None
}

/// The port in a target of x_tables: `struct xt_tproxy_target_info` and its revision 1 (linux/netfilter/xt_TPROXY.h).
fn by_target(data: &[u8]) -> Option<u16> {
    let name = attribute(data, NFTA_TARGET_NAME).map(answers::text)?;
    let at = match answers::word(data, NFTA_TARGET_REV)? {
        0 => 12,
        _ => 24,
    };
    let port = get(attribute(data, NFTA_TARGET_INFO)?, at).map(u16::from_be_bytes)?;
    (name == "TPROXY" && port > 0).then_some(port)
}

/// Checks the properties of the parser for any message.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    if let Some((_, (_, Some(ports)))) = others::rule(bytes, proxied) {
        ports.withstand();
    }
}

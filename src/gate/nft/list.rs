//! Finds the gates in nf_tables, of this run and others.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Result;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use nftnl::ProtoFamily;
use nix::errno::Errno;
use nix::libc;

use super::answers;
use super::names::{
    ALLOWED_INTERFACES, ALLOWED_V4, ALLOWED_V6, FROM_V4, FROM_V6, INTERFACES, PORTS, STOPPED,
    TO_V4, TO_V6,
};
use super::plain;
use super::tables::Tables;
use super::uapi::{NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_TABLE};
use crate::gate::found::{By, Found};
use crate::gate::iptables::save::id_of;
use crate::gate::kinds::Kind;
use crate::gate::rules::PREFIX;
use crate::gate::who::Who;
use crate::kernel::netlink::{Refusal, attribute};
use crate::words::lacking::Lacking;
use crate::words::ports::PortSet;
use crate::words::scope::{Networks, Scope, Where};

/// An element of a set, copied from a dump.
struct Key {
    bytes: Vec<u8>,
    end: bool,
    expires: Option<Duration>,
}

/// # Errors
/// No privilege, or no nf_tables.
pub(crate) fn find() -> Result<Vec<Found>> {
    let mut tables = Tables::open()?;
    let mut found = Vec::new();
    let listed = tables.listed(ProtoFamily::Unspec);
    let mut listed = listed.map_err(|refusal| match refusal.errno {
        // The answer of a kernel without nf_tables (nfnetlink_rcv_msg()).
        Errno::EINVAL | Errno::EOPNOTSUPP => {
            Lacking(format!("this kernel has no nf_tables: {refusal}")).into()
        }
        _ => anyhow::Error::from(refusal),
    })?;
    // A run may have tables of several families.
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    listed.dedup_by(|a, b| a.name == b.name);
    for table in listed {
        let Some(run) = table.name.strip_prefix(PREFIX) else {
            continue;
        };
        let gate = Found {
            by: By::Rules(Kind::Nft),
            run: run.to_owned(),
            owned: table.owned,
            who: Who::parse(&table.comment),
            ports: PortSet::EMPTY,
            scope: Scope::default(),
            leave_from: Networks::default(),
            syns_stopped: None,
            opens_in: None,
        };
        // The table may disappear during the look.
        match CString::new(table.name).map(|name| tables.look(&name, gate)) {
            Ok(Err(refusal)) if refusal.errno != Errno::ENOENT => return Err(refusal.into()),
            Ok(Ok(gate)) => found.push(gate),
            _ => (),
        }
    }
    Ok(found)
}

/// The runs whose gates are chains in tables of iptables-nft.
///
/// # Errors
/// No privilege, or no nf_tables.
pub(crate) fn runs_of_iptables() -> Result<BTreeSet<String>> {
    let rows = Tables::open()?.dump(ProtoFamily::Unspec, libc::NFT_MSG_GETCHAIN, &[], |row| {
        run_of_iptables(row).into_iter().collect()
    })?;
    Ok(rows.into_iter().collect())
}

/// The run of a chain in one message of a dump, if the table is not a run's.
fn run_of_iptables(payload: &[u8]) -> Option<String> {
    let body = payload.get(4..)?;
    let table = answers::text(attribute(body, NFTA_CHAIN_TABLE)?);
    let chain = answers::text(attribute(body, NFTA_CHAIN_NAME)?);
    let run = id_of(&chain).filter(|_| !table.starts_with(PREFIX))?;
    Some(run.to_owned())
}

impl Tables {
    fn look(&mut self, table: &CStr, mut gate: Found) -> Result<Found, Refusal> {
        let mut end_in = None;
        let mut has_rules = |chain| match self.rules_left(table, chain) {
            Err(refusal) if refusal.errno == Errno::ENOENT => Ok(false),
            left => left.map(|left| {
                end_in = end_in.max(left.iter().copied().flatten().max());
                !left.is_empty()
            }),
        };
        let input = has_rules(c"input")?;
        let (prerouting, output) = (has_rules(c"prerouting")?, has_rules(c"output")?);
        // NAT needs both chains; with one, the user has chosen the hook.
        if prerouting && !output {
            gate.scope.hook = Where::Prerouting;
        }
        if input || prerouting {
            let elements = self.keys(table, PORTS)?;
            let expire_in = elements.iter().filter_map(|e| e.expires).max();
            gate.opens_in = expire_in.map(|time| end_in.map_or(time, |end| time.min(end)));
            if !elements.is_empty() {
                let intervals = self.has_intervals(ProtoFamily::Inet, table)?;
                gate.ports = self.ports_in_set(ProtoFamily::Inet, table, intervals, None)?;
            }
        }
        // The gate's own counter, and one for each IP version where rules divert SYNs.
        for family in [ProtoFamily::Inet, ProtoFamily::Ipv4, ProtoFamily::Ipv6] {
            match self.count(family, table, STOPPED) {
                Err(refusal) if refusal.errno == Errno::ENOENT => (),
                counted => {
                    let all = gate.syns_stopped.unwrap_or(0);
                    gate.syns_stopped = Some(all.saturating_add(counted?));
                }
            }
        }
        if gate.syns_stopped.is_none() && !self.has(table)? {
            return Err(Errno::ENOENT.into());
        }
        gate.scope.to = self.networks(table, TO_V4, TO_V6)?;
        gate.scope.allow_from = self.networks(table, ALLOWED_V4, ALLOWED_V6)?;
        gate.leave_from = self.networks(table, FROM_V4, FROM_V6)?;
        gate.scope.allow_local = !self.keys(table, ALLOWED_INTERFACES)?.is_empty();
        let interfaces = self.keys(table, INTERFACES)?;
        gate.scope.interfaces = interfaces.iter().map(|e| answers::text(&e.bytes)).collect();
        // The kernel lists a hash table in no particular order.
        gate.scope.interfaces.sort();
        Ok(gate)
    }

    /// How long each rule in a chain still matches; `None`: for as long as it is there. Without rules
    /// that have ended by the wall clock.
    fn rules_left(&mut self, table: &CStr, chain: &CStr) -> Result<Vec<Option<Duration>>, Refusal> {
        let names = [(NFTA_RULE_TABLE, table), (NFTA_RULE_CHAIN, chain)];
        let ends = self.dump(ProtoFamily::Inet, libc::NFT_MSG_GETRULE, &names, |row| {
            vec![plain::end(row)]
        })?;
        let now = plain::since_1970();
        let left = ends
            .into_iter()
            .map(|end| end.map(|end| end.saturating_sub(now)));
        Ok(left.filter(|left| *left != Some(Duration::ZERO)).collect())
    }

    fn has(&mut self, table: &CStr) -> Result<bool, Refusal> {
        let name = table.to_string_lossy();
        Ok(self
            .listed(ProtoFamily::Unspec)?
            .iter()
            .any(|listed| listed.name == name))
    }

    fn networks(&mut self, table: &CStr, v4: &CStr, v6: &CStr) -> Result<Networks, Refusal> {
        Ok(networks(self.keys(table, v4)?, self.keys(table, v6)?))
    }

    /// Empty if there is no such set.
    fn keys(&mut self, table: &CStr, set: &CStr) -> Result<Vec<Key>, Refusal> {
        match self.elements(ProtoFamily::Inet, table, set, keys_in) {
            Err(refusal) if refusal.errno == Errno::ENOENT => Ok(Vec::new()),
            keys => keys,
        }
    }
}

fn keys_in(row: &[u8]) -> Vec<Key> {
    answers::elements(row)
        .map(|element| Key {
            bytes: element.key.to_vec(),
            end: element.end,
            expires: element.expires,
        })
        .collect()
}

/// Joins the networks of an IPv4 set and an IPv6 set.
fn networks(v4: Vec<Key>, v6: Vec<Key>) -> Networks {
    let mut networks = Vec::new();
    for (begin, end) in intervals(v4, Ipv4Addr::BITS) {
        let (begin, end) = (Ipv4Addr::from(begin as u32), Ipv4Addr::from(end as u32));
        networks.extend(Ipv4Subnets::new(begin, end, 0).map(IpNet::V4));
    }
    for (begin, end) in intervals(v6, Ipv6Addr::BITS) {
        let (begin, end) = (Ipv6Addr::from(begin), Ipv6Addr::from(end));
        networks.extend(Ipv6Subnets::new(begin, end, 0).map(IpNet::V6));
    }
    Networks::new(networks)
}

/// The first and last address of each interval, as numbers of `bits` bits.
fn intervals(keys: Vec<Key>, bits: u32) -> Vec<(u128, u128)> {
    let largest = u128::MAX >> (128 - bits);
    let mut bounds: Vec<(u128, bool)> = keys
        .iter()
        .map(|key| {
            let number = key
                .bytes
                .iter()
                .fold(0, |n: u128, b| n << 8 | u128::from(*b));
            (number, key.end)
        })
        .collect();
    // At the same address the end comes first: there one interval ends and the next begins.
    bounds.sort_unstable_by_key(|(address, end)| (*address, !*end));
    let mut bounds = bounds.into_iter().peekable();
    let mut intervals = Vec::new();
    while let Some((begin, is_end)) = bounds.next() {
        if is_end {
            continue;
        }
        let end = bounds.next_if(|(_, is_end)| *is_end);
        intervals.push((
            begin,
            end.map_or(largest, |(after, _)| after.saturating_sub(1)),
        ));
    }
    intervals
}

/// Checks the properties of the parsers for any message.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let begun = |keys: &[Key]| keys.iter().filter(|key| !key.end).count();
    plain::end(bytes);
    let all = networks(keys_in(bytes), keys_in(bytes)).all();
    // An interval is at most two networks for each bit of its addresses.
    let most = begun(&keys_in(bytes)) * 2 * (Ipv4Addr::BITS + Ipv6Addr::BITS) as usize;
    assert!(all.len() <= most, "{} of {most}", all.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(bytes: &[u8], end: bool) -> Key {
        Key {
            bytes: bytes.to_vec(),
            end,
            expires: None,
        }
    }

    #[test]
    fn intervals_of_addresses() {
        let keys = vec![
            key(&[10, 0, 0, 8], true),
            key(&[10, 0, 0, 0], false),
            key(&[255, 0, 0, 0], false),
        ];
        let ends = [(0x0a00_0000, 0x0a00_0007), (0xff00_0000, 0xffff_ffff)];
        assert_eq!(intervals(keys, 32), ends);
    }
}

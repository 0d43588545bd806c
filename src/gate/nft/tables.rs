//! A connection to nf_tables that changes and lists tables.

use std::ffi::CStr;
use std::io;

use anyhow::{Result, anyhow, bail};
use nftnl::ProtoFamily;
use nix::errno::Errno;
use nix::libc;

use super::answers::{self, ListedTable};
use super::names::{PORTS, STOPPED};
use super::ruleset::{PortsKind, Ruleset};
use super::transaction::{self, Transaction};
use super::uapi::{
    NFT_OBJECT_COUNTER, NFTA_OBJ_NAME, NFTA_OBJ_TABLE, NFTA_OBJ_TYPE, NFTA_RULE_CHAIN,
    NFTA_RULE_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_NAME,
    NFTA_SET_TABLE, NFTA_TABLE_NAME,
};
use crate::kernel::netlink::{Bus, Netlink, Refusal, put_attribute};
use crate::words::lacking::Lacking;
use crate::words::ports::PortSet;

/// Accounts for what an skb takes besides the data, and for the doubling by the kernel.
const SEND_BUFFER_FACTOR: usize = 2;
/// Up to this size a transaction fits the default send buffer (net.core.wmem_default, 212,992).
const SEND_BUFFER_ENOUGH: usize = 64 * 1024;

/// Only EPROTONOSUPPORT says that the kernel has no nf_tables (netlink_create()). This process may
/// make no such socket (EAFNOSUPPORT: `RestrictAddressFamilies=` of a unit), or have too many files
/// (EMFILE): then the kernel may have tables all the same.
fn unopened(error: io::Error) -> anyhow::Error {
    if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) {
        return Lacking(format!(
            "this kernel has no nf_tables (CONFIG_NF_TABLES; is the nf_tables module missing?): \
             {error}"
        ))
        .into();
    }
    anyhow!("no netlink socket for nf_tables: {error}")
}

/// It owns the tables that it has made. So it must make all changes to them, and must live as long
/// as they are needed.
pub(super) struct Tables {
    pub(super) socket: Netlink,
}

impl Tables {
    pub(super) fn open() -> Result<Tables> {
        if crate::words::fault::is("no-nf-tables") {
            bail!(Lacking("not here, for a test".to_owned()));
        }
        match Netlink::open(Bus::Netfilter) {
            Ok(socket) => Ok(Tables { socket }),
            Err(error) => Err(unopened(error)),
        }
    }

    pub(super) fn commit(&mut self, transaction: &Transaction) -> Result<(), Refusal> {
        let pages = transaction.pages();
        let bytes: usize = pages.iter().map(|page| page.len()).sum();
        if bytes > SEND_BUFFER_ENOUGH {
            // Without CAP_NET_ADMIN the kernel refuses this. It then refuses the transaction too,
            // with a better error.
            let _ = self.socket.reserve_send_buffer(bytes * SEND_BUFFER_FACTOR);
        }
        self.socket.transact(&pages, transaction.seqs())
    }

    pub(super) fn dump<T>(
        &mut self,
        family: ProtoFamily,
        kind: libc::c_int,
        names: &[(u16, &CStr)],
        parse: impl Fn(&[u8]) -> Vec<T>,
    ) -> Result<Vec<T>, Refusal> {
        let body = about(family, names);
        self.socket.dump(nft_message(kind), &body, parse)
    }

    /// The tables of a family; `Unspec` means all families.
    pub(super) fn listed(&mut self, family: ProtoFamily) -> Result<Vec<ListedTable>, Refusal> {
        self.dump(family, libc::NFT_MSG_GETTABLE, &[], |row| {
            answers::table(row).into_iter().collect()
        })
    }

    /// Whether each chain has all of its rules. If the gate is `open`, only tables whose rules stay
    /// are checked.
    pub(super) fn has_rules(&mut self, rules: &Ruleset, open: bool) -> Result<bool, Refusal> {
        for table in rules.tables.iter().filter(|table| table.stays || !open) {
            for chain in &table.chains {
                let there = self.rules_in(table.family, &rules.name, chain.name())?;
                if there != chain.rules.len() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    pub(super) fn rules_in(
        &mut self,
        family: ProtoFamily,
        table: &CStr,
        chain: &CStr,
    ) -> Result<usize, Refusal> {
        let names = [(NFTA_RULE_TABLE, table), (NFTA_RULE_CHAIN, chain)];
        let rules = self.dump(family, libc::NFT_MSG_GETRULE, &names, |_| vec![()])?;
        Ok(rules.len())
    }

    pub(super) fn ports_in_sets(&mut self, rules: &Ruleset) -> Result<PortSet, Refusal> {
        let mut shut: Option<PortSet> = None;
        for table in &rules.tables {
            let intervals = rules.ports_kind() == PortsKind::Intervals;
            let most = Some(&rules.ports);
            let ports = self.ports_in_set(table.family, &rules.name, intervals, most)?;
            shut = Some(shut.map_or(ports.clone(), |others| others.intersection(&ports)));
        }
        Ok(shut.unwrap_or_default())
    }

    /// The ports in the set of one table. `most` is the largest possible result, if known.
    pub(super) fn ports_in_set(
        &mut self,
        family: ProtoFamily,
        table: &CStr,
        intervals: bool,
        most: Option<&PortSet>,
    ) -> Result<PortSet, Refusal> {
        let mut look = || {
            let bounds = self.elements(family, table, PORTS, answers::bounds)?;
            Ok(answers::ports(bounds, intervals))
        };
        if intervals { look() } else { seen(look, most) }
    }

    pub(super) fn elements<T>(
        &mut self,
        family: ProtoFamily,
        table: &CStr,
        set: &CStr,
        parse: impl Fn(&[u8]) -> Vec<T>,
    ) -> Result<Vec<T>, Refusal> {
        let names = [
            (NFTA_SET_ELEM_LIST_TABLE, table),
            (NFTA_SET_ELEM_LIST_SET, set),
        ];
        self.dump(family, libc::NFT_MSG_GETSETELEM, &names, parse)
    }

    /// The SYNs that the rules of all tables have stopped.
    pub(super) fn all_stopped(&mut self, rules: &Ruleset) -> Result<u64, Refusal> {
        let mut stopped = 0;
        for table in &rules.tables {
            stopped += self.count(table.family, &rules.name, STOPPED)?;
        }
        Ok(stopped)
    }

    /// Removes the tables of that name in all families. It is no error if there are none.
    pub(super) fn delete_all(&mut self, name: &CStr) -> Result<()> {
        for family in [ProtoFamily::Inet, ProtoFamily::Ipv4, ProtoFamily::Ipv6] {
            gone(self.commit(&transaction::delete_one(name, family)))?;
        }
        Ok(())
    }

    pub(super) fn count(
        &mut self,
        family: ProtoFamily,
        table: &CStr,
        counter: &CStr,
    ) -> Result<u64, Refusal> {
        let names = [(NFTA_OBJ_TABLE, table), (NFTA_OBJ_NAME, counter)];
        let mut body = about(family, &names);
        put_attribute(&mut body, NFTA_OBJ_TYPE, &NFT_OBJECT_COUNTER.to_be_bytes());
        self.get_one(libc::NFT_MSG_GETOBJ, &body, answers::packets)
    }

    pub(super) fn has_intervals(
        &mut self,
        family: ProtoFamily,
        table: &CStr,
    ) -> Result<bool, Refusal> {
        let names = [(NFTA_SET_TABLE, table), (NFTA_SET_NAME, PORTS)];
        let body = about(family, &names);
        self.get_one(libc::NFT_MSG_GETSET, &body, answers::has_intervals)
    }

    /// The number of the ruleset, which each change to nf_tables makes another one.
    pub(super) fn generation(&mut self) -> Option<u32> {
        let body = about(ProtoFamily::Unspec, &[]);
        self.get_one(libc::NFT_MSG_GETGEN, &body, answers::generation)
            .ok()
    }

    pub(super) fn flags(&mut self, family: ProtoFamily, table: &CStr) -> Result<u32, Refusal> {
        let body = about(family, &[(NFTA_TABLE_NAME, table)]);
        self.get_one(libc::NFT_MSG_GETTABLE, &body, answers::flags)
    }

    fn get_one<T>(
        &mut self,
        kind: libc::c_int,
        body: &[u8],
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, Refusal> {
        let mut answer = None;
        let flags = libc::NLM_F_ACK as u16;
        self.socket
            .request(nft_message(kind), flags, body, |_, row| {
                answer = answer.take().or(parse(row));
            })?;
        answer.ok_or(Errno::EBADMSG.into())
    }
}

/// Tells cheaply whether anybody has changed nf_tables, iptables-nft included.
pub(crate) struct Changes {
    tables: Tables,
    /// The number of the ruleset when it was looked at.
    generation: Option<u32>,
}

impl Changes {
    /// # Errors
    /// No nf_tables.
    pub(crate) fn watch() -> Result<Changes> {
        Ok(Changes {
            tables: Tables::open()?,
            generation: None,
        })
    }

    /// Whether the ruleset may have changed since this was asked before.
    pub(crate) fn any(&mut self) -> bool {
        let asked = self.tables.generation();
        let before = std::mem::replace(&mut self.generation, asked);
        self.generation.is_none() || self.generation != before
    }
}

/// Dumps a hash table several times and joins the results. When the table grows or shrinks between
/// two messages of a dump, the dump lacks some elements: nft_rhash_walk() counts the elements that
/// it has listed, and skips as many. It never lists an element that is not there.
fn seen(
    mut look: impl FnMut() -> Result<PortSet, Refusal>,
    most: Option<&PortSet>,
) -> Result<PortSet, Refusal> {
    const LOOKS: usize = 5;
    let mut ports = look()?;
    for _ in 1..LOOKS {
        if most == Some(&ports) {
            break;
        }
        let more = ports.union(&look()?);
        if more == ports {
            break;
        }
        ports = more;
    }
    Ok(ports)
}

/// The message type on the wire, with the subsystem in the upper byte.
fn nft_message(kind: libc::c_int) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16
}

/// The body of a request about an object in a table: family, version 0, resource 0, and
/// NUL-terminated names.
fn about(family: ProtoFamily, names: &[(u16, &CStr)]) -> Vec<u8> {
    let mut body = vec![family as u8, 0, 0, 0];
    for (kind, name) in names {
        put_attribute(&mut body, *kind, name.to_bytes_with_nul());
    }
    body
}

/// Treats a missing object as deleted.
pub(super) fn gone(deleted: Result<(), Refusal>) -> Result<()> {
    match deleted {
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(()),
        done => Ok(done?),
    }
}

/// # Errors
/// No privilege, or no nf_tables.
pub(crate) fn names(family: ProtoFamily) -> Result<Vec<String>> {
    let listed = Tables::open()?.listed(family)?;
    Ok(listed.into_iter().map(|table| table.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_look_misses_another_sees() {
        let all: PortSet = [1, 3, 5, 7].into_iter().collect();
        let looks = [&[1, 3][..], &[3, 7], &[1, 3, 5], &[1]];
        let looked = |most: Option<&PortSet>| {
            let mut times = 0;
            let look = || {
                times += 1;
                Ok(looks[times - 1].iter().copied().collect())
            };
            (seen(look, most).unwrap().to_string(), times)
        };
        assert_eq!(looked(Some(&all)), ("1,3,5,7".to_owned(), 3));
        assert_eq!(
            looked(None),
            ("1,3,5,7".to_owned(), 4),
            "until nothing is new"
        );
        let some = [1, 3].into_iter().collect();
        assert_eq!(looked(Some(&some)), ("1,3".to_owned(), 1));
    }
}

//! The nf_tables backend. The gate is one table that belongs to our netlink socket: the kernel
//! destroys it when the socket is closed, so also when we are killed (`NFT_TABLE_F_OWNER`, Linux
//! 5.12), and nobody else can change it. On older kernels it is a plain table, and a watchdog
//! removes it. The gated ports are elements of a set that expire one by one, so that the kernel
//! opens the gate at the deadline even if we hang.

pub mod compile;
pub mod disguise;
pub mod divert;
pub(crate) mod list;
pub(crate) mod messages;
pub mod probe;
pub mod published;
pub(crate) mod raw;

use std::ffi::CStr;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use nftnl::ProtoFamily;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockProtocol;

use self::compile::{NO_ROOM, PORTS, PortsKind, Ruleset, STOPPED, WENT_ON, compile, table_name};
use self::divert::{CLOSING, Element, FLOWS};
use self::messages::{ChainRules, Transaction};
use super::backend::{Backend, Deadline, Flows};
use super::kinds::Kind;
use super::rules::{Rules, Settings};
use super::watchdog::Watchdog;
use crate::kernel::netlink::{Netlink, Refusal, put_attribute};
use crate::kernel::sockets::Connection;
use crate::words::lacking::Lacking;
use crate::words::ports::PortSet;

pub use self::list::find;

/// What an skb takes besides the data, and the kernel's doubling, are covered by this factor.
const SEND_BUFFER_FACTOR: usize = 2;
/// Up to this size a transaction fits the default send buffer (net.core.wmem_default, 212,992).
const SEND_BUFFER_ENOUGH: usize = 64 * 1024;

// linux/netfilter/nf_tables.h
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_OBJ_TABLE: u16 = 1;
const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;

/// One run's table.
pub struct Nft {
    table: Tables,
    id: String,
    comment: String,
    lingers: Duration,
    installed: Option<Installed>,
    /// Where the kernel has no tables with an owner.
    watchdog: Option<Watchdog>,
    /// Counted in tables that others have removed.
    counted_before: u64,
    remarks: Vec<String>,
    /// Whether the kernel has taken anything.
    changed: bool,
}

struct Installed {
    rules: Ruleset,
    /// Whether all rules are in their chains: opening takes away those that need not stay.
    rules_up: bool,
    /// The last count that was read.
    counted: u64,
}

/// A connection to nf_tables. It owns the table of a run, so every change is made by it, and it
/// lives as long as the gate.
struct Tables {
    socket: Netlink,
}

impl Nft {
    /// A backend for a run. Opens a socket and changes nothing.
    ///
    /// # Errors
    /// The kernel has no netfilter netlink.
    pub fn new(settings: &Settings) -> Result<Nft> {
        Ok(Nft {
            table: Tables::open()?,
            id: settings.run.clone(),
            comment: settings.who.to_string(),
            lingers: settings.lingers,
            installed: None,
            watchdog: None,
            counted_before: 0,
            remarks: Vec::new(),
            changed: false,
        })
    }

    /// Creates the table. The kernel does not know owners before Linux 5.12.
    fn create(&mut self, rules: Ruleset, until: Deadline) -> Result<()> {
        let transaction = messages::create(&rules, time_left(until)?);
        let (owned, lacks) = (rules.owned, Lack::of(&rules));
        // Noted first: whatever becomes of the transaction, remove() then tries to undo it.
        self.installed = Some(Installed {
            rules,
            rules_up: true,
            counted: 0,
        });
        let created = self.table.commit(&transaction);
        self.changed |= !matches!(&created, Err(refusal) if refusal.answered);
        created.map_err(|refusal| {
            if owned && refuses_owners(&refusal) {
                anyhow!(OwnerRefused)
            } else {
                explain(&refusal, lacks)
            }
        })
    }

    fn create_owned(&mut self, rules: &Ruleset, until: Deadline) -> Result<()> {
        if crate::words::fault::is("no-owner-tables") {
            bail!(OwnerRefused);
        }
        self.create(rules.clone(), until)
    }

    fn create_plain(&mut self, rules: Ruleset, until: Deadline) -> Result<()> {
        self.watch(until)?;
        self.remarks.push(
            "this kernel has no tables with an owner (Linux 5.12): a watchdog process removes the \
             rules should syngate be killed"
                .to_owned(),
        );
        self.create(
            Ruleset {
                owned: false,
                ..rules
            },
            until,
        )
    }

    fn watch(&mut self, until: Deadline) -> Result<()> {
        let watchdog = Watchdog::start(Kind::Nft, &self.id, until + self.lingers)?;
        self.watchdog = Some(watchdog);
        Ok(())
    }

    /// Others have removed some of the tables.
    fn open_what_is_left(&mut self) -> Result<()> {
        let Some(Installed { rules, .. }) = &self.installed else {
            return Ok(());
        };
        for table in &rules.tables {
            let one = Ruleset {
                tables: vec![table.clone()],
                ..rules.clone()
            };
            gone(self.table.commit(&messages::open(&one)))?;
        }
        Ok(())
    }

    /// Somebody has removed the table: makes it once more.
    fn create_again(&mut self, ports: &PortSet, until: Deadline) -> Result<()> {
        if !self.watchdog.as_mut().is_some_and(Watchdog::lives) {
            self.watch(until)?;
        }
        let Some(installed) = &mut self.installed else {
            bail!("no gate was closed");
        };
        self.counted_before += std::mem::take(&mut installed.counted);
        // Of what there was, a part may be left.
        self.table.delete_all(&installed.rules.name)?;
        let rules = Ruleset {
            ports: ports.clone(),
            ..installed.rules.clone()
        };
        self.create(rules, until)
    }
}

/// Whether the kernel refuses a flag that it does not know.
pub fn refuses_owners(refusal: &Refusal) -> bool {
    matches!(refusal.errno, Errno::EINVAL | Errno::EOPNOTSUPP)
}

/// The kernel refuses tables with an owner.
#[derive(Debug)]
struct OwnerRefused;

impl std::error::Error for OwnerRefused {}

impl std::fmt::Display for OwnerRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this kernel refuses nf_tables tables with an owner")
    }
}

impl Tables {
    fn open() -> Result<Tables> {
        if crate::words::fault::is("no-nf-tables") {
            bail!(Lacking("not here, for a test".to_owned()));
        }
        let socket = Netlink::open(SockProtocol::NetlinkNetFilter).map_err(|error| {
            Lacking(format!(
                "this kernel has no nf_tables (CONFIG_NF_TABLES; is the nf_tables module \
                 missing?): {error}"
            ))
        })?;
        Ok(Tables { socket })
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Refusal> {
        let pages = transaction.pages();
        let bytes: usize = pages.iter().map(|page| page.len()).sum();
        if bytes > SEND_BUFFER_ENOUGH {
            // Refused without CAP_NET_ADMIN: then the transaction is as well, and says it better.
            let _ = self.socket.reserve_send_buffer(bytes * SEND_BUFFER_FACTOR);
        }
        self.socket.transact(&pages, transaction.seqs())
    }

    /// Dumps something of the tables of that family.
    fn dump<T>(
        &mut self,
        family: ProtoFamily,
        kind: libc::c_int,
        names: &[(u16, &CStr)],
        parse: impl Fn(&[u8]) -> Vec<T>,
    ) -> Result<Vec<T>, Refusal> {
        let body = messages::about(family, names);
        self.socket.dump(nft_message(kind), &body, parse)
    }

    /// Whether each chain has as many rules as it should; `open`: only those that stay are to be there.
    fn has_rules(&mut self, rules: &Ruleset, open: bool) -> Result<bool, Refusal> {
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

    /// How many rules are in the chain.
    fn rules_in(
        &mut self,
        family: ProtoFamily,
        table: &CStr,
        chain: &CStr,
    ) -> Result<usize, Refusal> {
        let names = [(NFTA_RULE_TABLE, table), (NFTA_RULE_CHAIN, chain)];
        let rules = self.dump(family, libc::NFT_MSG_GETRULE, &names, |_| vec![()])?;
        Ok(rules.len())
    }

    fn ports_in_sets(&mut self, rules: &Ruleset) -> Result<PortSet, Refusal> {
        let mut shut: Option<PortSet> = None;
        for table in &rules.tables {
            let intervals = rules.ports_kind() == PortsKind::Intervals;
            let most = Some(&rules.ports);
            let ports = self.ports_in_set(table.family, &rules.name, intervals, most)?;
            shut = Some(shut.map_or(ports.clone(), |others| others.intersection(&ports)));
        }
        Ok(shut.unwrap_or_default())
    }

    /// The ports that are in the set of one table; `most`: all that there can be, if that is known.
    fn ports_in_set(
        &mut self,
        family: ProtoFamily,
        table: &CStr,
        intervals: bool,
        most: Option<&PortSet>,
    ) -> Result<PortSet, Refusal> {
        let mut look = || {
            let bounds = self.elements(family, table, PORTS, messages::bounds)?;
            Ok(messages::ports(bounds, intervals))
        };
        if intervals { look() } else { seen(look, most) }
    }

    fn elements<T>(
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

    /// The counts of all tables.
    fn all_stopped(&mut self, rules: &Ruleset) -> Result<u64, Refusal> {
        let mut stopped = 0;
        for table in &rules.tables {
            stopped += self.count(table.family, &rules.name, STOPPED)?;
        }
        Ok(stopped)
    }

    /// Removes the tables of that name. That one is not there is as good.
    fn delete_all(&mut self, name: &CStr) -> Result<()> {
        for family in [ProtoFamily::Inet, ProtoFamily::Ipv4, ProtoFamily::Ipv6] {
            gone(self.commit(&messages::delete_one(name, family)))?;
        }
        Ok(())
    }

    fn count(&mut self, family: ProtoFamily, table: &CStr, counter: &CStr) -> Result<u64, Refusal> {
        let names = [(NFTA_OBJ_TABLE, table), (NFTA_OBJ_NAME, counter)];
        let mut body = messages::about(family, &names);
        put_attribute(
            &mut body,
            NFTA_OBJ_TYPE,
            &raw::NFT_OBJECT_COUNTER.to_be_bytes(),
        );
        self.get_one(libc::NFT_MSG_GETOBJ, &body, messages::packets)
    }

    /// Whether the ports of that table are a set of intervals.
    fn has_intervals(&mut self, family: ProtoFamily, table: &CStr) -> Result<bool, Refusal> {
        let names = [(NFTA_SET_TABLE, table), (NFTA_SET_NAME, PORTS)];
        let body = messages::about(family, &names);
        self.get_one(libc::NFT_MSG_GETSET, &body, messages::has_intervals)
    }

    /// What the kernel says of one thing.
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

/// What several looks at a hash table have seen. When it grows or shrinks between two messages of a
/// dump, the dump misses some (nft_rhash_walk() goes on behind as many as it has told); it invents none.
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

/// The number of an nf_tables message on the wire: the subsystem in the upper byte.
fn nft_message(kind: libc::c_int) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16
}

/// Removes the table of run `id`; none there is no error.
///
/// # Errors
/// What nf_tables says.
pub fn erase(id: &str) -> Result<()> {
    Tables::open()?.delete_all(&table_name(id))
}

/// That it was not there is as good.
fn gone(deleted: Result<(), Refusal>) -> Result<()> {
    match deleted {
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(()),
        done => Ok(done?),
    }
}

impl Backend for Nft {
    fn name(&self) -> &'static str {
        "nft"
    }

    fn install(&mut self, rules: &Rules, until: Deadline) -> Result<()> {
        super::backend::fail_on_demand(rules.steer)?;
        let mut rules = compile(rules, &self.id, &self.comment);
        // Of two ways into a queue a kernel may have either.
        if let Some(by_target) = rules.with_target()
            && !probe::has_queue_expression(&self.id)?
        {
            rules = by_target;
        }
        match self.create_owned(&rules, until) {
            Err(error) if error.is::<OwnerRefused>() => self.create_plain(rules, until),
            done => done,
        }
    }

    fn set_ports(&mut self, ports: &PortSet, until: Deadline) -> Result<()> {
        let Some(Installed {
            rules, rules_up, ..
        }) = &self.installed
        else {
            bail!("no gate was closed");
        };
        let transaction = if ports.is_empty() {
            messages::open(rules)
        } else {
            let chain_rules = match (rules.owned, *rules_up) {
                (true, true) => ChainRules::Keep,
                (true, false) => ChainRules::Add,
                // Others may have removed some.
                (false, _) => ChainRules::Renew,
            };
            messages::replace_ports(rules, ports, time_left(until)?, chain_rules)
        };
        let owned = rules.owned;
        match self.table.commit(&transaction) {
            Err(refusal) if refusal.errno == Errno::ENOENT && !owned && ports.is_empty() => {
                self.open_what_is_left()?;
            }
            Err(refusal) if refusal.errno == Errno::ENOENT && !owned => {
                self.create_again(ports, until)?;
            }
            done => done?,
        }
        if let Some(installed) = &mut self.installed {
            installed.rules_up = !ports.is_empty();
        }
        Ok(())
    }

    fn shut(&mut self) -> Result<PortSet> {
        let Some(Installed {
            rules,
            rules_up: true,
            ..
        }) = &self.installed
        else {
            return Ok(PortSet::EMPTY);
        };
        match self.table.has_rules(rules, false) {
            Ok(true) => Ok(self.table.ports_in_sets(rules)?),
            Ok(false) => Ok(PortSet::EMPTY),
            // Somebody has removed it all.
            Err(refusal) if refusal.errno == Errno::ENOENT && !rules.owned => Ok(PortSet::EMPTY),
            Err(refusal) => Err(refusal.into()),
        }
    }

    fn syns_stopped(&mut self) -> Result<u64> {
        let Some(installed) = &mut self.installed else {
            return Ok(self.counted_before);
        };
        match self.table.all_stopped(&installed.rules) {
            Err(refusal) if refusal.errno == Errno::ENOENT && !installed.rules.owned => (),
            counted => installed.counted = counted?,
        }
        Ok(self.counted_before + installed.counted)
    }

    fn spare(&mut self, connections: &[Connection]) -> Result<()> {
        match &self.installed {
            Some(Installed { rules, .. }) if rules.diverts() && !connections.is_empty() => {
                Ok(self.table.commit(&messages::spare(rules, connections))?)
            }
            _ => Ok(()),
        }
    }

    fn flows(&mut self) -> Result<Flows> {
        let mut flows = Flows::default();
        let Some(Installed { rules, .. }) = &self.installed else {
            return Ok(flows);
        };
        for table in rules.tables.iter().filter(|table| !table.flows.is_empty()) {
            let (family, name) = (table.family, &rules.name);
            flows.all += self.table.count(family, name, STOPPED)?;
            flows.no_room += self.table.count(family, name, NO_ROOM)?;
            flows.went_on += self.table.count(family, name, WENT_ON)?;
            let read = |row: &[u8]| {
                let elements = messages::elements(row);
                let timed = elements.filter_map(|e| Some((e.key.to_vec(), e.expires?)));
                timed.collect()
            };
            let going: Vec<Element> = self.table.elements(family, name, FLOWS, read)?;
            let closing = self.table.elements(family, name, CLOSING, read)?;
            let (left, open) = divert::left(&going, &closing);
            flows.left += left;
            flows.open += open;
        }
        Ok(flows)
    }

    fn exposed(&self) -> bool {
        let installed = self.installed.as_ref();
        installed.is_some_and(|installed| !installed.rules.owned)
    }

    fn intact(&mut self) -> bool {
        let Some(installed) = &mut self.installed else {
            return true;
        };
        let rules = &installed.rules;
        let has_rules = self.table.has_rules(rules, !installed.rules_up);
        // Kept, in case that somebody removes it all.
        if let Ok(counted) = self.table.all_stopped(rules) {
            installed.counted = counted;
        }
        // What can't be read (a torn dump) may still be there.
        has_rules.unwrap_or_else(|r| r.errno != Errno::ENOENT)
    }

    fn empties_queues(&self) -> bool {
        true
    }

    fn remarks(&self) -> &[String] {
        &self.remarks
    }

    fn remove(&mut self) -> Result<()> {
        let Some(Installed { rules, .. }) = &self.installed else {
            return Ok(());
        };
        if self.changed {
            match self.table.commit(&messages::delete(rules)) {
                // Others may have removed some of it.
                Err(refusal) if refusal.errno == Errno::ENOENT => {
                    let name = rules.name.clone();
                    self.table.delete_all(&name)?;
                }
                done => done?,
            }
        }
        self.installed = None;
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss();
        }
        // Nothing of ours is left that would go only with the socket, and no other table will be made:
        // nobody need wait for its close.
        let _ = self.table.socket.close_in_background();
        Ok(())
    }
}

fn time_left(until: Deadline) -> Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    anyhow::ensure!(!left.is_zero(), "the deadline (--max-closed) has passed");
    Ok(left)
}

/// What a kernel that lacks something may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    Nat,
    Dup,
    Other,
}

impl Lack {
    fn of(rules: &Ruleset) -> Lack {
        match (rules.translates(), rules.diverts()) {
            (true, _) => Lack::Nat,
            (_, true) => Lack::Dup,
            _ => Lack::Other,
        }
    }
}

/// What a refusal to create the tables means, in words that say what to do.
fn explain(refusal: &Refusal, lacks: Lack) -> anyhow::Error {
    match refusal.errno {
        Errno::EPERM | Errno::EACCES => anyhow!(crate::kernel::caps::NEEDED),
        Errno::EMSGSIZE => anyhow!(
            "--port: too many separate ranges for this user namespace, whose netlink messages are \
             bounded by net.core.wmem_default; join ranges, or run it as the host's root"
        ),
        // EOPNOTSUPP: the whole of it (nfnetlink_rcv_batch()).
        Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => {
            match lacks {
                Lack::Nat => Lacking::nat(refusal),
                Lack::Dup => Lacking(format!(
                    "--syn divert needs nft's dup (are the modules nft_dup_ipv4 and nft_dup_ipv6 \
                     missing?): {refusal}"
                )),
                Lack::Other => Lacking(format!("this kernel lacks a part of nf_tables: {refusal}")),
            }
            .into()
        }
        _ => anyhow!("nf_tables refused the rules: {refusal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_is_missing() {
        for (errno, says) in [
            (Errno::EPERM, "CAP_NET_ADMIN"),
            (Errno::ENOENT, "lacks a part of nf_tables"),
            (Errno::EOPNOTSUPP, "lacks a part of nf_tables"),
            (Errno::EMSGSIZE, "--port"),
            (Errno::ENOMEM, "refused the rules"),
        ] {
            let said = explain(&errno.into(), Lack::Other).to_string();
            assert!(said.contains(says), "{errno}: {said}");
            assert!(!said.contains('\n'), "{errno}: {said}");
        }
        let no_dup = explain(&Errno::ENOENT.into(), Lack::Dup).to_string();
        assert!(no_dup.contains("nft_dup_ipv4"), "{no_dup}");
        let no_nat = explain(&Errno::ENOENT.into(), Lack::Nat);
        assert!(no_nat.is::<Lacking>());
        assert!(no_nat.to_string().contains("nf_nat"), "{no_nat}");
    }

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

    #[test]
    fn no_gate_is_closed_after_its_deadline() {
        assert!(time_left(Instant::now() - Duration::from_secs(1)).is_err());
        assert!(time_left(Instant::now() + Duration::from_secs(9)).is_ok());
    }
}

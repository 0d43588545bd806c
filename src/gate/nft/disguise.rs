//! Connections of our own that look, to a neighbour, as if they went to another address, which is one
//! of this host's as well: how a peer is asked whether it would take what is to be diverted to it.
//!
//! A copy of each packet goes to the neighbour with the other destination, by the same `dup` that
//! diverts; what it answers gets its source back. The packet itself goes on, so that connection
//! tracking, and the host's own firewall with it, sees a connection like any other; what the neighbour
//! answers to that one is dropped. No other packet is touched.

use std::ffi::CStr;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use nftnl::expr::{Cmp, CmpOp, Meta, Verdict};
use nftnl::{Batch, Chain, ChainType, Hook, MsgType, ProtoFamily, Rule, Table};
use nix::libc;

use super::compile::{BaseChain, fit_comment, table_name};
use super::messages::{
    DESTINATION_PORT, SOURCE_PORT, Transaction, base_chain, copy_to, destination_field,
    load_address, source_field,
};
use super::raw::{self, Field, Load, Store};
use super::{Kind, Lack, Tables, Watchdog, explain, refuses_owners};
use crate::kernel::route::octets;
use crate::words::family::Family;
use crate::words::hop::NextHop;

/// Before connection tracking (-200), for which the answer comes from whom was asked.
const BEFORE_TRACKING: i32 = -311;
/// Behind whoever filters and translates: they see the connection as it is.
const BEHIND_ALL: i32 = 350;
/// Where an IPv4 header has its checksum (RFC 791, 3.1).
const IPV4_CHECKSUM: u32 = 10;

/// One connection, from this host to `neighbour`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disguise {
    /// Its own end.
    pub from: SocketAddr,
    /// Who is asked.
    pub neighbour: NextHop,
    /// What it is to look like that it goes to; its port is the true one, too.
    pub to: SocketAddr,
}

/// The rules that do it. They go when this is dropped.
pub struct Disguised {
    tables: Tables,
    id: String,
    watchdog: Option<Watchdog>,
}

impl Disguised {
    /// For run `id`; `comment` says who it is. Should this process be killed, they are gone after `within` at the latest.
    ///
    /// # Errors
    /// The kernel can't do that; nothing was changed.
    pub fn wear(id: &str, comment: &str, all: &[Disguise], within: Duration) -> Result<Disguised> {
        let comment = fit_comment(comment);
        let mut worn = Disguised {
            tables: Tables::open()?,
            id: id.to_owned(),
            watchdog: None,
        };
        let refused = match crate::words::fault::is("no-owner-tables") {
            true => Err(nix::errno::Errno::EOPNOTSUPP.into()),
            false => worn.tables.commit(&create(id, &comment, all, true)),
        };
        match refused {
            Err(refusal) if refuses_owners(&refusal) => {
                let until = Instant::now() + within;
                worn.watchdog = Some(Watchdog::start(Kind::Nft, id, until)?);
                let plain = worn.tables.commit(&create(id, &comment, all, false));
                plain.map_err(|refusal| explain(&refusal, Lack::Dup))?;
            }
            done => done.map_err(|refusal| explain(&refusal, Lack::Dup))?,
        }
        Ok(worn)
    }
}

impl Drop for Disguised {
    fn drop(&mut self) {
        // What can't be removed goes with the socket, or by the watchdog.
        if self.tables.delete_all(&table_name(&self.id)).is_ok()
            && let Some(watchdog) = self.watchdog.take()
        {
            watchdog.dismiss();
        }
    }
}

pub(super) fn create(id: &str, comment: &CStr, all: &[Disguise], owned: bool) -> Transaction {
    let mut batch = Batch::new();
    for (family, of) in [
        (ProtoFamily::Ipv4, Family::V4),
        (ProtoFamily::Ipv6, Family::V6),
    ] {
        let mut own = all
            .iter()
            .filter(|d| Family::of(d.to.ip()) == of)
            .peekable();
        if own.peek().is_none() {
            continue;
        }
        let name = table_name(id);
        batch.add(
            &raw::CommentedTable {
                family,
                name: &name,
                comment,
                owned,
            },
            MsgType::Add,
        );
        let table = Table::new(&*name, family);
        let chain = |hook, priority| {
            let chain = BaseChain {
                kind: ChainType::Filter,
                hook,
                priority,
                rules: Vec::new(),
            };
            base_chain(&table, &chain, true)
        };
        let sent = chain(Hook::Out, BEHIND_ALL);
        let received = chain(Hook::PreRouting, BEFORE_TRACKING);
        batch.add(&sent, MsgType::Add);
        batch.add(&received, MsgType::Add);
        for disguise in own {
            batch.add(&disguise.put_on(&sent, of), MsgType::Add);
            batch.add(&disguise.drop_answer(&received, of), MsgType::Add);
            batch.add(&disguise.take_off(&received, of), MsgType::Add);
        }
    }
    Transaction::of(batch)
}

impl Disguise {
    fn neighbour(&self) -> SocketAddr {
        SocketAddr::new(self.neighbour.address, self.to.port())
    }

    fn put_on<'a>(&self, chain: &'a Chain, family: Family) -> Rule<'a> {
        let mut rule = matching(chain, family, self.from, self.neighbour());
        write(&mut rule, destination_field(family), self.to.ip());
        copy_to(&mut rule, &self.neighbour);
        write(&mut rule, destination_field(family), self.neighbour.address);
        rule
    }

    /// What the neighbour says to the packet that went on.
    fn drop_answer<'a>(&self, chain: &'a Chain, family: Family) -> Rule<'a> {
        let mut rule = matching(chain, family, self.neighbour(), self.from);
        rule.add_expr(&Verdict::Drop);
        rule
    }

    fn take_off<'a>(&self, chain: &'a Chain, family: Family) -> Rule<'a> {
        let mut rule = matching(chain, family, self.to, self.from);
        write(&mut rule, source_field(family), self.neighbour.address);
        rule
    }
}

/// A rule for packets of one direction of one connection.
fn matching<'a>(chain: &'a Chain, family: Family, from: SocketAddr, to: SocketAddr) -> Rule<'a> {
    let mut rule = Rule::new(chain);
    rule.add_expr(&Meta::L4Proto);
    rule.add_expr(&Cmp::new(CmpOp::Eq, libc::IPPROTO_TCP as u8));
    for (field, bytes) in [
        (source_field(family), octets(from.ip())),
        (destination_field(family), octets(to.ip())),
        (SOURCE_PORT, from.port().to_be_bytes().to_vec()),
        (DESTINATION_PORT, to.port().to_be_bytes().to_vec()),
    ] {
        let register = libc::NFT_REG_1 as u32;
        rule.add_expr(&Load { field, register });
        rule.add_expr(&Cmp::new(CmpOp::Eq, &bytes[..]));
    }
    rule
}

fn write(rule: &mut Rule, field: Field, address: IpAddr) {
    load_address(rule, address);
    let checksum = address.is_ipv4().then_some(IPV4_CHECKSUM);
    rule.add_expr(&Store { field, checksum });
}

//! Disguised connections, by which a run asks a peer whether it would take diverted connections. To
//! the peer they look as if they went to another address, which this host has as well.
//!
//! The kernel sends the peer a copy of each packet with the other destination, by the same `dup`
//! that diverts. It puts the peer's own address back into the answers. The original packet goes on,
//! so that connection tracking and the host's firewall see an ordinary connection. Rules drop the
//! peer's answers to the original. No other packets are touched.

use std::ffi::CStr;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use nftnl::expr::{Cmp, CmpOp, Meta, Verdict};
use nftnl::{Batch, Chain, ChainType, Hook, MsgType, ProtoFamily, Rule, Table};
use nix::libc;

use super::expressions::{Field, LoadField, StoreField};
use super::names::{fit_comment, table_name};
use super::raw::CommentedTable;
use super::refused::{Lack, explain, refuses_owners};
use super::ruleset::BaseChain;
use super::tables::Tables;
use super::terms::{copy_to, load_address};
use super::transaction::{Transaction, base_chain};
use crate::gate::kinds::Kind;
use crate::gate::watchdog::Watchdog;
use crate::kernel::route::octets;
use crate::words::family::Family;
use crate::words::hop::NextHop;

/// Before connection tracking (-200), which must see answers from the neighbour's own address.
const BEFORE_TRACKING: i32 = -311;
/// After all filters and NAT, which must see the connection as it is.
const BEHIND_ALL: i32 = 350;
/// Offset of the checksum in an IPv4 header (RFC 791, 3.1).
const IPV4_CHECKSUM: u32 = 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disguise {
    /// This host's end.
    pub(crate) from: SocketAddr,
    pub(crate) neighbour: NextHop,
    /// The destination that the neighbour sees. The port is the real one.
    pub(crate) to: SocketAddr,
}

/// The rules exist until this is dropped.
pub(crate) struct Disguised {
    tables: Tables,
    id: String,
    watchdog: Option<Watchdog>,
}

impl Disguised {
    /// Makes the rules of run `id`; `comment` names the run. If this process is killed, the rules
    /// expire after `within`.
    ///
    /// # Errors
    /// The kernel can't do that; nothing was changed.
    pub(crate) fn wear(
        id: &str,
        comment: &str,
        all: &[Disguise],
        within: Duration,
    ) -> Result<Disguised> {
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
        // If this fails, the kernel or the watchdog removes them.
        if self.tables.delete_all(&table_name(&self.id)).is_ok() {
            if let Some(watchdog) = self.watchdog.take() {
                watchdog.dismiss();
            }
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
            &CommentedTable {
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
        write(&mut rule, Field::destination(family), self.to.ip());
        copy_to(&mut rule, &self.neighbour);
        write(
            &mut rule,
            Field::destination(family),
            self.neighbour.address,
        );
        rule
    }

    /// Drops the neighbour's answer to the original packet.
    fn drop_answer<'a>(&self, chain: &'a Chain, family: Family) -> Rule<'a> {
        let mut rule = matching(chain, family, self.neighbour(), self.from);
        rule.add_expr(&Verdict::Drop);
        rule
    }

    fn take_off<'a>(&self, chain: &'a Chain, family: Family) -> Rule<'a> {
        let mut rule = matching(chain, family, self.to, self.from);
        write(&mut rule, Field::source(family), self.neighbour.address);
        rule
    }
}

fn matching<'a>(chain: &'a Chain, family: Family, from: SocketAddr, to: SocketAddr) -> Rule<'a> {
    let mut rule = Rule::new(chain);
    rule.add_expr(&Meta::L4Proto);
    rule.add_expr(&Cmp::new(CmpOp::Eq, libc::IPPROTO_TCP as u8));
    for (field, bytes) in [
        (Field::source(family), octets(from.ip())),
        (Field::destination(family), octets(to.ip())),
        (Field::SOURCE_PORT, from.port().to_be_bytes().to_vec()),
        (Field::DESTINATION_PORT, to.port().to_be_bytes().to_vec()),
    ] {
        let register = libc::NFT_REG_1 as u32;
        rule.add_expr(&LoadField { field, register });
        rule.add_expr(&Cmp::new(CmpOp::Eq, &bytes[..]));
    }
    rule
}

fn write(rule: &mut Rule, field: Field, address: IpAddr) {
    load_address(rule, address);
    let checksum = address.is_ipv4().then_some(IPV4_CHECKSUM);
    rule.add_expr(&StoreField { field, checksum });
}

//! Finds out what nf_tables can do on this host, without a trace. The kernel checks each message of
//! a transaction without an end, answers, and then undoes it (nfnetlink_rcv_batch(); `nft -c` does
//! the same). No part of the transaction becomes active, and no other process sees it.

use std::ffi::CStr;
use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use nix::errno::Errno;
use nix::libc;

use super::compile::compile;
use super::ruleset::Ruleset;
use super::tables::Tables;
use super::terms::LOOPBACK_INDEX;
use super::transaction::{self, Transaction};
use crate::gate::rules::{Leaving, Rules};
use crate::kernel::netlink::{HEADER, Refusal, messages, put_attribute};
use crate::words::hop::{Device, NextHop};
use crate::words::lacking::Lacking;
use crate::words::ports::PortSet;
use crate::words::run_id::new_id;
use crate::words::scope::{Networks, Scope, Where};
use crate::words::steer::{Diversion, Steer};

// linux/netfilter/nfnetlink.h
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_QUEUE: u16 = 3;
const NFNL_SUBSYS_NFT_COMPAT: u16 = 11;
// linux/netfilter/nfnetlink_queue.h
const NFQNL_MSG_CONFIG: u16 = 2;
const NFQA_CFG_CMD: u16 = 1;
const NFQNL_CFG_CMD_PF_BIND: u8 = 3;
// linux/netfilter/nf_tables_compat.h
const NFNL_MSG_COMPAT_GET: u16 = 0;
const NFTA_COMPAT_NAME: u16 = 1;
const NFTA_COMPAT_REV: u16 = 2;
const NFTA_COMPAT_TYPE: u16 = 3;
/// Any number: the kernel never sends a packet there.
const QUEUE: u16 = 0;

pub(crate) struct Probed {
    pub(crate) table: Result<(), Refusal>,
    /// A whole gate: table, set with timeouts, counter, chain, rule. Without an owner on kernels
    /// without owner tables.
    pub(crate) gate: Result<(), Refusal>,
    pub(crate) owner: Result<(), Refusal>,
    pub(crate) prerouting: Result<(), Refusal>,
    /// The expressions for `--syn divert`, for both IP versions.
    pub(crate) dup: Result<(), Refusal>,
    /// nft's expression `reject`, for `--leave`.
    pub(crate) reject: Result<(), Refusal>,
    /// nft's expression `queue`.
    pub(crate) queue: Result<(), Refusal>,
    /// The x_tables target NFQUEUE, by which iptables sends packets to such a queue.
    pub(crate) xt_nfqueue: Result<(), Refusal>,
    /// NFQUEUE for programs.
    pub(crate) nfnetlink_queue: Result<(), Refusal>,
    pub(crate) recent: Result<(), Refusal>,
}

/// `id` names a table that the kernel never makes.
///
/// # Errors
/// The kernel has no netfilter netlink.
pub(crate) fn probe(id: &str) -> Result<Probed> {
    let plain = ruleset(id, Where::Input, Steer::Drop);
    let owner = owned(id)?;
    let (table, gate) = match &owner {
        Ok(()) => (Ok(()), Ok(())),
        Err(_) => (
            rehearse(Rehearsal::of(&plain)?.only_table())?,
            rehearse(Rehearsal::of(&plain)?)?,
        ),
    };
    Ok(Probed {
        prerouting: rehearse(Rehearsal::of(&ruleset(id, Where::Prerouting, Steer::Drop))?)?,
        dup: rehearse(Rehearsal::of(&ruleset(id, Where::Input, diverting()))?)?,
        reject: rehearse(Rehearsal::of(&ruleset(id, Where::Input, Steer::Refuse))?)?,
        queue: queue_expression(id)?,
        xt_nfqueue: Tables::open()?.has_extension(Extension::NFQUEUE),
        nfnetlink_queue: Tables::open()?.has_queues(),
        recent: Tables::open()?.has_extension(Extension::RECENT),
        table,
        gate,
        owner,
    })
}

/// Diverts to the loopback interface, but the kernel never sends a packet there.
fn diverting() -> Steer {
    let hop = |address| NextHop {
        address,
        device: Device::new(LOOPBACK_INDEX, "lo"),
        ether: None,
    };
    Steer::Divert(Diversion {
        v4: Some(hop(Ipv4Addr::LOCALHOST.into())),
        v6: Some(hop(Ipv6Addr::LOCALHOST.into())),
        most: 1,
        idle: Duration::from_secs(1),
    })
}

/// Whether nf_tables can send packets to a queue, by nft's expression `queue`. True where that can't be
/// told, as without privilege.
pub(crate) fn has_queue_expression() -> bool {
    match queue_expression(&new_id()) {
        Err(error) => !error.is::<Lacking>(),
        // EOPNOTSUPP: the kernel lacks nf_tables as a whole (nfnetlink_rcv_batch()).
        Ok(Err(refusal)) => !matches!(refusal.errno, Errno::ENOENT | Errno::EOPNOTSUPP),
        Ok(Ok(())) => true,
    }
}

fn queue_expression(id: &str) -> Result<Result<(), Refusal>> {
    if crate::words::fault::is("no-nft-queue") {
        return Ok(Err(Errno::ENOENT.into()));
    }
    rehearse(Rehearsal::of(&ruleset(
        id,
        Where::Input,
        Steer::Queue(QUEUE),
    ))?)
}

/// Whether the kernel accepts an owner. If it refuses for another reason, it refuses a gate without
/// an owner as well.
fn owned(id: &str) -> Result<Result<(), Refusal>> {
    if crate::words::fault::is("no-owner-tables") {
        return Ok(Err(Errno::EOPNOTSUPP.into()));
    }
    let rules = Ruleset {
        owned: true,
        ..ruleset(id, Where::Input, Steer::Drop)
    };
    rehearse(Rehearsal::of(&rules)?)
}

/// Uses its own socket, so that no late answer to another rehearsal arrives here.
fn rehearse(rehearsal: Rehearsal) -> Result<Result<(), Refusal>> {
    let pages = [IoSlice::new(&rehearsal.bytes)];
    Ok(Tables::open()?.socket.transact(&pages, rehearsal.seqs))
}

/// The gate of a run for one port, without owner and hook.
fn ruleset(id: &str, hook: Where, steer: Steer) -> Ruleset {
    let rules = Rules {
        ports: PortSet::from_iter([1]),
        scope: Scope {
            hook,
            ..Scope::default()
        },
        steer,
        passes_proxied: true,
        passes_marked: true,
        leaving: (steer == Steer::Refuse).then(|| Leaving {
            from: Networks::default(),
            narrowed: false,
            counted: PortSet::from_iter([2]),
        }),
    };
    compile(&rules, id, "syngate check").rehearsed()
}

/// A match or target of x_tables.
struct Extension {
    name: &'static CStr,
    /// What NFTA_COMPAT_TYPE says.
    kind: u32,
    revision: u32,
}

impl Extension {
    const RECENT: Extension = Extension {
        name: c"recent",
        kind: 0,
        revision: 1,
    };
    /// The first revision that has `--queue-bypass` (xt_NFQUEUE.h, since Linux 2.6.39).
    const NFQUEUE: Extension = Extension {
        name: c"NFQUEUE",
        kind: 1,
        revision: 2,
    };
}

impl Tables {
    /// Binding a family to the queues has done nothing since Linux 3.8 (nfqnl_recv_config()). A
    /// kernel without queues refuses the command.
    fn has_queues(&mut self) -> Result<(), Refusal> {
        let mut body = vec![libc::AF_UNSPEC as u8, 0, 0, 0];
        let family = (libc::AF_INET as u16).to_be_bytes();
        let command = [NFQNL_CFG_CMD_PF_BIND, 0, family[0], family[1]];
        put_attribute(&mut body, NFQA_CFG_CMD, &command);
        self.ask(NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG, &body)
    }

    /// Asks for the revision of a match or target, as iptables does.
    fn has_extension(&mut self, extension: Extension) -> Result<(), Refusal> {
        let Extension {
            name,
            kind,
            revision,
        } = extension;
        let mut body = vec![libc::AF_INET as u8, 0, 0, 0];
        put_attribute(&mut body, NFTA_COMPAT_NAME, name.to_bytes_with_nul());
        put_attribute(&mut body, NFTA_COMPAT_REV, &revision.to_be_bytes());
        put_attribute(&mut body, NFTA_COMPAT_TYPE, &kind.to_be_bytes());
        self.ask(NFNL_SUBSYS_NFT_COMPAT << 8 | NFNL_MSG_COMPAT_GET, &body)
    }

    fn ask(&mut self, kind: u16, body: &[u8]) -> Result<(), Refusal> {
        let acknowledged = libc::NLM_F_ACK as u16;
        self.socket.request(kind, acknowledged, body, |_, _| ())
    }
}

/// A transaction without its end.
#[derive(Debug)]
struct Rehearsal {
    bytes: Vec<u8>,
    seqs: Range<u32>,
}

impl Rehearsal {
    fn of(rules: &Ruleset) -> Result<Rehearsal, Refusal> {
        const LONG_ENOUGH: Duration = Duration::from_secs(1);
        Rehearsal::cut(&transaction::create(rules, LONG_ENOUGH))
    }

    /// Cuts the end off. It is an error if the end is not found, because the kernel would then
    /// carry out the transaction.
    fn cut(transaction: &Transaction) -> Result<Rehearsal, Refusal> {
        let mut bytes: Vec<u8> = transaction
            .pages()
            .iter()
            .flat_map(|page| page.to_vec())
            .collect();
        let mut seqs = transaction.seqs();
        let (mut at, mut ended) = (0, false);
        for message in messages(&bytes) {
            let message = message.map_err(|_| Errno::EBADMSG)?;
            if message.kind == NFNL_MSG_BATCH_END {
                ended = true;
                if message.flags & libc::NLM_F_ACK as u16 != 0 {
                    seqs.end = message.seq;
                }
                break;
            }
            at += (HEADER + message.payload.len()).next_multiple_of(4);
        }
        bytes.truncate(at);
        if ended {
            Ok(Rehearsal { bytes, seqs })
        } else {
            Err(Errno::EBADMSG.into())
        }
    }

    /// Keeps the begin message and the first message after it, which makes the table.
    fn only_table(mut self) -> Rehearsal {
        let mut at = 0;
        for message in messages(&self.bytes).flatten().take(2) {
            at += (HEADER + message.payload.len()).next_multiple_of(4);
            self.seqs.end = message.seq + 1;
        }
        self.bytes.truncate(at);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(rehearsal: &Rehearsal) -> Vec<u16> {
        let all = messages(&rehearsal.bytes).map(|message| message.unwrap());
        all.map(|message| message.kind & 0xff).collect()
    }

    #[test]
    fn a_rehearsal_has_no_end() {
        for hook in [Where::Input, Where::Prerouting] {
            let rules = ruleset("0123456789abcdef", hook, Steer::Drop);
            let whole = transaction::create(&rules, Duration::from_secs(1));
            let rehearsal = Rehearsal::cut(&whole).unwrap();
            let length: usize = whole.pages().iter().map(|page| page.len()).sum();
            assert_eq!(rehearsal.bytes.len(), length - 20, "the end is 20 bytes");
            let kinds = kinds(&rehearsal);
            assert!(!kinds.contains(&NFNL_MSG_BATCH_END), "{kinds:?}");
            assert!(kinds.contains(&(libc::NFT_MSG_NEWRULE as u16)), "{kinds:?}");
        }
    }

    #[test]
    fn a_rehearsal_is_shortened() {
        let rules = ruleset("0123456789abcdef", Where::Input, Steer::Queue(QUEUE));
        let table = Rehearsal::of(&rules).unwrap().only_table();
        assert_eq!(kinds(&table), [0x10, 0], "begin, and a table");
        let last = messages(&table.bytes).last().unwrap().unwrap();
        assert_eq!(table.seqs.end, last.seq + 1, "its answer is waited for");
    }
}

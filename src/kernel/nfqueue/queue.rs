//! The queue of a run: the kernel keeps packets in it until the run says what becomes of them.
//!
//! When this process ends, the kernel drops what is in the queue. The rules bypass a queue that
//! nobody reads, so they let new packets through.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Result, anyhow, bail};
use nix::errno::Errno;
use nix::libc;

use super::listing::{QueueRow, queues};
use super::packet::{COPIED, Packet};
use crate::kernel::netlink::{Bus, Netlink, Refusal, message_bytes, put_attribute};
use crate::words::lacking::Lacking;
use crate::words::steer::QueueNum;

/// The first queue number to try, far from those that other programs use (0 and up).
pub(crate) const FIRST_NUMBER: QueueNum = 49_152;
/// How many numbers to try.
pub(crate) const NUMBERS: u16 = 256;
/// Room in bytes for messages that the kernel has sent and the run has not read; the kernel doubles
/// the figure. A look at the sockets of a busy host keeps the run from reading for some 100 ms.
pub(crate) const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;
/// How many packets to read before the run looks after anything else.
pub(crate) const READ_AT_ONCE: usize = 4_096;
/// How many verdicts go into one datagram.
const VERDICTS_AT_ONCE: usize = 512;

// linux/netfilter/nfnetlink.h, nfnetlink_queue.h
const NFNL_SUBSYS_QUEUE: u16 = 3;
const NFQNL_MSG_PACKET: u16 = 0;
const NFQNL_MSG_VERDICT: u16 = 1;
const NFQNL_MSG_CONFIG: u16 = 2;
const NFQA_CFG_CMD: u16 = 1;
const NFQA_CFG_PARAMS: u16 = 2;
const NFQA_CFG_QUEUE_MAXLEN: u16 = 3;
const NFQNL_CFG_CMD_BIND: u8 = 1;
const NFQNL_COPY_PACKET: u8 = 2;
const NFQA_VERDICT_HDR: u16 = 2;

/// linux/netfilter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Verdict {
    Drop = 0,
    /// The packet goes on to the next hook. It meets no more rules of the base chain that queued it.
    Accept = 1,
}

/// A verdict's sequence number is the verdict itself, so that a refusal tells which one it was.
const ACCEPTED: u32 = Verdict::Accept as u32;

pub(crate) struct Queue {
    netlink: Netlink,
    number: QueueNum,
    lost: Lost,
}

/// How many packets were gone when their verdict came: the kernel empties all queues of a network
/// namespace when any base chain in it goes (nf_queue_nf_hook_drop()).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) accepted: u64,
    pub(crate) dropped: u64,
}

impl Queue {
    /// Takes the queue `wanted`, or the first free one, with room for `length` packets.
    ///
    /// # Errors
    /// Another program has it; [`Lacking`]: this kernel has no such queues.
    pub(crate) fn bind(wanted: Option<QueueNum>, length: u32) -> Result<Queue> {
        if crate::words::fault::is("no-nfqueue") {
            bail!(Lacking("no NFQUEUE here, for a test".to_owned()));
        }
        let mut netlink = Netlink::open(Bus::Netfilter)
            .map_err(|error| Lacking(format!("this kernel has no netfilter netlink: {error}")))?;
        let candidates = match wanted {
            Some(number) => number..=number,
            None => FIRST_NUMBER..=FIRST_NUMBER + (NUMBERS - 1),
        };
        for number in candidates {
            match command(&mut netlink, number, NFQNL_CFG_CMD_BIND) {
                Ok(()) => {
                    let mut queue = Queue {
                        netlink,
                        number,
                        lost: Lost::default(),
                    };
                    queue.configure(length)?;
                    return Ok(queue);
                }
                // Another program reads it (nfqnl_recv_config()).
                Err(refusal) if matches!(refusal.errno, Errno::EPERM | Errno::EBUSY) => (),
                Err(refusal) => return Err(explain(&refusal)),
            }
        }
        bail!(match wanted {
            Some(number) => format!(
                "--queue-num {number}: another program reads that queue; without this option, one \
                 that is free is taken"
            ),
            None => format!(
                "none of the queues {FIRST_NUMBER} to {} is free: --queue-num names another",
                FIRST_NUMBER + (NUMBERS - 1)
            ),
        })
    }

    fn configure(&mut self, length: u32) -> Result<()> {
        self.netlink.reserve_receive_buffer(RECEIVE_BUFFER);
        self.netlink.lose_quietly();
        self.netlink.have_packets_timed();
        let mut body = about(self.number);
        let mut copy = COPIED.to_be_bytes().to_vec();
        copy.push(NFQNL_COPY_PACKET);
        put_attribute(&mut body, NFQA_CFG_PARAMS, &copy);
        put_attribute(&mut body, NFQA_CFG_QUEUE_MAXLEN, &length.to_be_bytes());
        request(&mut self.netlink, &body).map_err(|refusal| explain(&refusal))
    }

    pub(crate) fn number(&self) -> QueueNum {
        self.number
    }

    /// Calls `each` with the packets that have come, without waiting. Returns whether those were all.
    pub(crate) fn read(&mut self, mut each: impl FnMut(Packet)) -> bool {
        let lost = &mut self.lost;
        let read = self.netlink.each_waiting(READ_AT_ONCE, |message| {
            if message.kind == NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET {
                Packet::parse(message.payload)
                    .into_iter()
                    .for_each(&mut each);
            } else if message.refusal().is_some() {
                match message.seq {
                    ACCEPTED => lost.accepted += 1,
                    _ => lost.dropped += 1,
                }
            }
        });
        read.map_or(true, |read| read < READ_AT_ONCE)
    }

    /// Tells the kernel what becomes of these packets. It has done so when this returns.
    pub(crate) fn judge(&self, ids: &[u32], verdict: Verdict) {
        for ids in ids.chunks(VERDICTS_AT_ONCE) {
            let mut verdicts = Vec::new();
            for id in ids {
                let mut body = about(self.number);
                let header = [(verdict as u32).to_be_bytes(), id.to_be_bytes()].concat();
                put_attribute(&mut body, NFQA_VERDICT_HDR, &header);
                let kind = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT;
                let request = libc::NLM_F_REQUEST as u16;
                verdicts.extend(message_bytes(kind, request, verdict as u32, &body));
            }
            // Packets without a verdict are dropped when the queue goes.
            let _ = self.netlink.tell(&verdicts);
        }
    }

    pub(crate) fn lost(&self) -> Lost {
        self.lost
    }

    /// How many packets are in it.
    pub(crate) fn length(&self) -> Option<u32> {
        self.listed().map(|row| row.waiting)
    }

    /// How many packets found no room, in the queue or in this socket's receive buffer.
    pub(crate) fn overflowed(&self) -> Option<u64> {
        self.listed().map(|row| row.dropped)
    }

    fn listed(&self) -> Option<QueueRow> {
        queues().into_iter().find(|row| row.number == self.number)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

/// Whether another run, with a queue that it has found by itself, holds SYNs now.
pub(crate) fn others_hold(own: Option<QueueNum>) -> bool {
    let by_runs = FIRST_NUMBER..FIRST_NUMBER + NUMBERS;
    let holds = |row: &QueueRow| row.waiting > 0 && by_runs.contains(&row.number);
    queues()
        .iter()
        .any(|row| holds(row) && own != Some(row.number))
}

/// `struct nfgenmsg`: any family, version 0, the queue's number.
fn about(number: QueueNum) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    vec![libc::AF_UNSPEC as u8, 0, high, low]
}

fn command(netlink: &mut Netlink, number: QueueNum, command: u8) -> Result<(), Refusal> {
    let mut body = about(number);
    put_attribute(&mut body, NFQA_CFG_CMD, &[command, 0, 0, 0]);
    request(netlink, &body)
}

fn request(netlink: &mut Netlink, body: &[u8]) -> Result<(), Refusal> {
    let kind = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG;
    netlink.request(kind, libc::NLM_F_ACK as u16, body, |_, _| ())
}

fn explain(refusal: &Refusal) -> anyhow::Error {
    match refusal.errno {
        // As a kernel without nfnetlink_queue answers (nfnetlink_rcv_msg()).
        Errno::EINVAL | Errno::EOPNOTSUPP => Lacking(format!(
            "this kernel has no NFQUEUE (CONFIG_NETFILTER_NETLINK_QUEUE; is the nfnetlink_queue \
             module missing?): {refusal}"
        ))
        .into(),
        _ => anyhow!("the kernel refused a queue: {refusal}"),
    }
}

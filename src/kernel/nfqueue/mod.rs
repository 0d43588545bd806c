//! A queue of the kernel's, NFQUEUE: it keeps packets until we say what becomes of them
//! (linux/netfilter/nfnetlink_queue.h). When this process ends, however it does, the kernel drops
//! what is in it, and the rules, which bypass a queue that nobody reads, let new packets through.

pub(crate) mod packet;

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Result, anyhow, bail};
use nix::errno::Errno;
use nix::libc;

use self::packet::{COPIED, Packet};
use crate::kernel::netlink::{Bus, Netlink, Refusal, message_bytes, put_attribute};
use crate::words::lacking::Lacking;
use crate::words::steer::QueueNum;

/// The first number that is tried, and how many more: far from what others use (0 and up).
pub(crate) const FIRST_NUMBER: QueueNum = 49_152;
/// See [`FIRST_NUMBER`].
pub(crate) const NUMBERS: u16 = 256;
/// Room for what the kernel has told and we have not read, in bytes; the kernel doubles it. While
/// the sockets of a busy host are looked at, nothing is read for some 100 ms.
pub(crate) const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;
/// The queues that somebody reads, in this network namespace.
const QUEUES: &str = "/proc/thread-self/net/netfilter/nfnetlink_queue";
/// So many packets are read before anything else is looked after.
pub(crate) const READ_AT_ONCE: usize = 4_096;
/// So many verdicts go into one datagram.
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

/// What becomes of a packet (linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Verdict {
    /// It is gone.
    Drop = 0,
    /// It goes on its way, behind our rule.
    Accept = 1,
}

/// Verdicts are numbered by what they say, so that a refusal tells which it was.
const ACCEPTED: u32 = Verdict::Accept as u32;

/// A queue of ours.
pub(crate) struct Queue {
    netlink: Netlink,
    number: QueueNum,
    lost: Lost,
}

/// Packets that were gone when their verdict came: the kernel empties all queues of a network
/// namespace when any base chain in it goes (nf_queue_nf_hook_drop()).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// They were to go on.
    pub(crate) accepted: u64,
    /// They were to be dropped.
    pub(crate) dropped: u64,
}

impl Queue {
    /// Takes a queue, `wanted` or the first that is free, and reads at most `length` packets' worth.
    ///
    /// # Errors
    /// It is taken; [`Lacking`]: this kernel has no such queues.
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
        let mut body = about(self.number);
        let mut copy = COPIED.to_be_bytes().to_vec();
        copy.push(NFQNL_COPY_PACKET);
        put_attribute(&mut body, NFQA_CFG_PARAMS, &copy);
        put_attribute(&mut body, NFQA_CFG_QUEUE_MAXLEN, &length.to_be_bytes());
        request(&mut self.netlink, &body).map_err(|refusal| explain(&refusal))
    }

    /// Which one it is.
    pub(crate) fn number(&self) -> QueueNum {
        self.number
    }

    /// Calls `each` with packets that have come, without waiting; whether that were all.
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

    /// Says what becomes of packets. They have gone on their way when this returns.
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
            // Nobody is left to tell: what gets no verdict is dropped when the queue goes.
            let _ = self.netlink.tell(&verdicts);
        }
    }

    /// What had gone otherwise.
    pub(crate) fn lost(&self) -> Lost {
        self.lost
    }

    /// How many packets are in it.
    pub(crate) fn length(&self) -> Option<u32> {
        let queues = std::fs::read_to_string(QUEUES).ok()?;
        listed(&queues)
            .find(|row| row.number == self.number)
            .map(|row| row.waiting)
    }

    /// Packets that found no room: the queue was full, or what the kernel told of it not read.
    pub(crate) fn overflowed(&self) -> Option<u64> {
        let queues = std::fs::read_to_string(QUEUES).ok()?;
        listed(&queues)
            .find(|row| row.number == self.number)
            .map(|row| row.dropped)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

/// Whether another run, with a queue that it has found by itself, holds SYNs just now.
pub(crate) fn others_hold(own: Option<QueueNum>) -> bool {
    let queues = std::fs::read_to_string(QUEUES).unwrap_or_default();
    let ours = FIRST_NUMBER..FIRST_NUMBER + NUMBERS;
    listed(&queues)
        .any(|row| row.waiting > 0 && ours.contains(&row.number) && own != Some(row.number))
}

/// What the kernel lists of a queue.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    number: QueueNum,
    waiting: u32,
    dropped: u64,
}

/// A line for each queue: number, reader's port id, packets in it, copy mode, copied bytes, dropped
/// because it was full, dropped because the reader was slow, last id (seq_show(),
/// net/netfilter/nfnetlink_queue.c).
fn listed(queues: &str) -> impl Iterator<Item = Row> {
    queues.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let [number, _, waiting, _, _, full, slow, ..] = columns[..] else {
            return None;
        };
        Some(Row {
            number: number.parse().ok()?,
            waiting: waiting.parse().ok()?,
            dropped: full.parse::<u64>().ok()?.saturating_add(slow.parse().ok()?),
        })
    })
}

/// `struct nfgenmsg`: any family, version 0, the queue.
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

/// What holds for any text as the kernel's list.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    assert!(listed(text).count() <= text.lines().count());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_list() {
        let queues = "    0   1234     0 2    64     9     9        0  1\n\
                      49152  -4195     5 2   128     7     2       14  1\n\
                      49153 1\n\
                      49154 1 0 2 128 18446744073709551615 1 0 1\n";
        let rows: Vec<Row> = listed(queues).collect();
        let row = |number, waiting, dropped| Row {
            number,
            waiting,
            dropped,
        };
        assert_eq!(
            rows,
            [row(0, 0, 18), row(49_152, 5, 9), row(49_154, 0, u64::MAX)]
        );
        assert_eq!(listed("").next(), None);
    }
}

//! A queue of packets that userspace decides about, as
//! `linux/netfilter/nfnetlink_queue.h` has it.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
        setsockopt, socket,
        sockopt::{RcvBuf, RcvBufForce},
    },
};

/// NFNL_SUBSYS_QUEUE, the upper byte of a message's type.
const SUBSYSTEM: u16 = 3 << 8;
/// NFQNL_MSG_PACKET, NFQNL_MSG_CONFIG, NFQNL_MSG_VERDICT_BATCH.
const PACKET: u16 = SUBSYSTEM;
const CONFIG: u16 = SUBSYSTEM | 2;
const VERDICT_BATCH: u16 = SUBSYSTEM | 3;
/// NLMSG_ERROR, which also is the answer to NLM_F_REQUEST | NLM_F_ACK.
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// Lengths of `nlmsghdr` and, after it, `nfgenmsg`.
const HEADER: usize = 16;
const HEADERS: usize = HEADER + 4;

/// NFQA_CFG_CMD with NFQNL_CFG_CMD_BIND, for no family in particular.
const BIND: (u16, [u8; 4]) = (1, [1, 0, 0, 0]);
/// NFQA_CFG_PARAMS: nothing of the packet itself, NFQNL_COPY_META.
const PARAMS: (u16, [u8; 5]) = (2, [0, 0, 0, 0, 1]);
/// NFQA_CFG_QUEUE_MAXLEN.
const MAXLEN: (u16, [u8; 4]) = (3, (1u32 << 20).to_be_bytes());
/// NFQA_CFG_MASK and NFQA_CFG_FLAGS with NFQA_CFG_F_GSO: a large segment stays one packet.
const MASK: (u16, [u8; 4]) = (4, 4u32.to_be_bytes());
const FLAGS: (u16, [u8; 4]) = (5, 4u32.to_be_bytes());

/// NFQA_PACKET_HDR, which begins with the packet's number, and NFQA_VERDICT_HDR.
const PACKET_HDR: u16 = 1;
const VERDICT_HDR: u16 = 2;
/// NF_ACCEPT.
const ACCEPT: u32 = 1;

/// Room for what the kernel tells us until we read it; packets that it can't tell us are lost.
const BUFFER: usize = 256 << 20;

/// A queue and the socket that it belongs to.
pub struct Queue {
    socket: OwnedFd,
    number: u16,
    buffer: Vec<u8>,
}

impl Queue {
    /// Makes the queue. What is in it when it is dropped is lost.
    pub fn new(number: u16) -> Result<Self> {
        let (family, netfilter) = (AddressFamily::Netlink, SockProtocol::NetlinkNetFilter);
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, netfilter)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // Without CAP_NET_ADMIN outside, older kernels give no more than usual.
        setsockopt(&socket, RcvBufForce, &BUFFER)
            .or_else(|_| setsockopt(&socket, RcvBuf, &BUFFER))?;
        let mut queue = Self {
            socket,
            number,
            buffer: vec![0; 1 << 16],
        };
        queue.configure().context("nfnetlink_queue")?;
        Ok(queue)
    }

    fn configure(&mut self) -> Result<()> {
        let attributes = [
            attribute(BIND.0, &BIND.1),
            attribute(PARAMS.0, &PARAMS.1),
            attribute(MAXLEN.0, &MAXLEN.1),
            attribute(MASK.0, &MASK.1),
            attribute(FLAGS.0, &FLAGS.1),
        ];
        self.send(CONFIG, REQUEST | ACK, &attributes.concat())?;
        self.acknowledged()
    }

    /// The number of the next packet in the queue, if there is one.
    pub fn next(&mut self) -> Result<Option<u32>> {
        loop {
            let socket = self.socket.as_raw_fd();
            match recv(socket, &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(n) => match packet(&self.buffer[..n]) {
                    None => {}
                    number => return Ok(number),
                },
                Err(Errno::EAGAIN) => return Ok(None),
                // Some packets were lost, which are counted: see `lost`.
                Err(Errno::ENOBUFS) => {}
                Err(error) => Err(error)?,
            }
        }
    }

    /// Lets all packets go on their way up to that one, in order.
    pub fn accept_up_to(&self, number: u32) -> Result<()> {
        let verdict = [ACCEPT.to_be_bytes(), number.to_be_bytes()].concat();
        self.send(VERDICT_BATCH, REQUEST, &attribute(VERDICT_HDR, &verdict))
    }

    /// How many packets the kernel has dropped because the queue or our buffer was full, and will
    /// drop at our end because they are still in the queue.
    pub fn lost(&self) -> Result<u64> {
        const TABLE: &str = "/proc/net/netfilter/nfnetlink_queue";
        let table = fs::read_to_string(TABLE).context(TABLE)?;
        // Number, port, length, copy mode and range, those dropped for either reason, and more.
        let mut rows = table.lines().map(|row| row.split_whitespace());
        let number = self.number.to_string();
        let row = rows.find_map(|mut row| (row.next()? == number).then_some(row));
        let row: Vec<&str> = row.context("our queue isn't there any more")?.collect();
        ensure!(row.len() >= 6, "{TABLE} has changed: {table}");
        let counts = [row[1], row[4], row[5]];
        counts.iter().map(|n| Ok(n.parse::<u64>()?)).sum()
    }

    fn send(&self, kind: u16, flags: u16, attributes: &[u8]) -> Result<()> {
        let message = message(kind, flags, self.number, attributes);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    fn acknowledged(&mut self) -> Result<()> {
        let socket = self.socket.as_raw_fd();
        let n = recv(socket, &mut self.buffer, MsgFlags::empty())?;
        let answer = &self.buffer[..n];
        ensure!(kind(answer) == Some(ERROR), "no answer: {answer:?}");
        let code = answer[HEADER..].first_chunk().context("a short answer")?;
        match i32::from_ne_bytes(*code) {
            0 => Ok(()),
            code => Err(Errno::from_raw(-code))?,
        }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `nlmsghdr`, `nfgenmsg` (version 0, the queue's number), attributes.
fn message(kind: u16, flags: u16, queue: u16, attributes: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADERS + attributes.len());
    message.extend(((HEADERS + attributes.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // sequence, port
    message.extend([0, 0]);
    message.extend(queue.to_be_bytes());
    message.extend(attributes);
    message
}

fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let mut attribute = Vec::with_capacity(4 + content.len().next_multiple_of(4));
    attribute.extend(((4 + content.len()) as u16).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(content);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

fn kind(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(*message.get(4..)?.first_chunk()?))
}

/// The number of the packet that a message is about, if it is about one.
fn packet(message: &[u8]) -> Option<u32> {
    if kind(message) != Some(PACKET) {
        return None;
    }
    let mut attributes = message.get(HEADERS..)?;
    loop {
        let length = u16::from_ne_bytes(*attributes.first_chunk()?);
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        if kind == PACKET_HDR {
            return Some(u32::from_be_bytes(*attributes.get(4..)?.first_chunk()?));
        }
        // Never less than its own header, or there would be no end.
        attributes = attributes.get(usize::from(length).max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_packets_number() {
        let mut attributes = attribute(9, &[1, 2, 3]);
        attributes.extend(attribute(PACKET_HDR, &[0, 1, 0, 2, 8, 0, 1]));
        let number = |kind, attributes| packet(&message(kind, 0, 7, attributes));
        assert_eq!(number(PACKET, &attributes), Some(0x0001_0002));
        assert_eq!(number(ERROR, &attributes), None);
        assert_eq!(number(PACKET, &[0; 3]), None);
        assert_eq!(number(PACKET, &[0; 8]), None);
    }

    #[test]
    fn messages_have_their_length() {
        let message = message(CONFIG, REQUEST, 7, &attribute(PARAMS.0, &PARAMS.1));
        assert_eq!(message.len(), HEADERS + 12);
        assert_eq!(message[..4], (message.len() as u32).to_ne_bytes());
        assert_eq!(message[18..22], [0, 7, 9, 0]);
    }
}

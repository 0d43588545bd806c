//! A message of nfnetlink_queue about a packet that it holds, and the SYN in that packet. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::kernel::netlink::{attribute, get};

/// How many bytes of a packet the kernel copies: enough for the ports behind an IPv6 header and some
/// extension headers.
pub(crate) const COPIED: u32 = 128;

// linux/netfilter/nfnetlink_queue.h
const NFQA_PACKET_HDR: u16 = 1;
const NFQA_TIMESTAMP: u16 = 4;
const NFQA_IFINDEX_INDEV: u16 = 5;
const NFQA_PAYLOAD: u16 = 10;
/// The loopback interface has this index in each network namespace (LOOPBACK_IFINDEX).
const LOOPBACK: u32 = 1;
/// The length of `struct nfgenmsg`, which comes first.
const GENERIC: usize = 4;

// Next headers (IANA's protocol numbers).
const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// More extension headers than packets have.
const MOST_EXTENSIONS: usize = 8;

/// FIN, SYN, RST and ACK among the flags, which are byte 13 of a TCP header (RFC 9293, 3.1).
const NEW_SYN_MASK: u8 = 0x17;
const SYN: u8 = 0x02;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet {
    /// The kernel's number for the packet, which the verdict names.
    pub(crate) id: u32,
    /// When it came in, since 1970 by the host's clock. `None`: the kernel has not noted that.
    pub(crate) came_in: Option<Duration>,
    /// `None`: the packet is not a new SYN.
    pub(crate) syn: Option<Syn>,
}

/// The SYN of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Syn {
    pub(crate) from: (IpAddr, u16),
    pub(crate) to: Destination,
    /// A copy has the same sequence number, a new connection another.
    pub(crate) sequence: u32,
    /// It came in over the loopback interface. What SYNPROXY sends on has the addresses, ports and
    /// sequence number of the client's SYN (synproxy_send_server_syn()), and is no copy of that.
    pub(crate) looped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Destination {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

impl Packet {
    /// Reads the payload of a message NFQNL_MSG_PACKET.
    pub(crate) fn parse(payload: &[u8]) -> Option<Packet> {
        let attributes = payload.get(GENERIC..)?;
        let header = attribute(attributes, NFQA_PACKET_HDR)?;
        let interface = attribute(attributes, NFQA_IFINDEX_INDEV).and_then(|i| get(i, 0));
        let looped = interface.map(u32::from_be_bytes) == Some(LOOPBACK);
        Some(Packet {
            id: u32::from_be_bytes(get(header, 0)?),
            came_in: attribute(attributes, NFQA_TIMESTAMP).and_then(since_1970),
            syn: attribute(attributes, NFQA_PAYLOAD)
                .and_then(syn)
                .map(|syn| Syn { looped, ..syn }),
        })
    }
}

/// `struct nfqnl_msg_packet_timestamp`: seconds and microseconds.
fn since_1970(time: &[u8]) -> Option<Duration> {
    let seconds = Duration::from_secs(u64::from_be_bytes(get(time, 0)?));
    seconds.checked_add(Duration::from_micros(u64::from_be_bytes(get(time, 8)?)))
}

fn syn(packet: &[u8]) -> Option<Syn> {
    let (from, to, tcp) = match packet.first()? >> 4 {
        4 => ipv4(packet)?,
        6 => ipv6(packet)?,
        _ => return None,
    };
    let [flags] = get(tcp, 13)?;
    if flags & NEW_SYN_MASK != SYN {
        return None;
    }
    Some(Syn {
        from: (from, u16::from_be_bytes(get(tcp, 0)?)),
        to: Destination {
            address: to,
            port: u16::from_be_bytes(get(tcp, 2)?),
        },
        sequence: u32::from_be_bytes(get(tcp, 4)?),
        looped: false,
    })
}

/// Source, destination, and what follows the header (RFC 791, 3.1).
fn ipv4(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let [words, protocol] = [*packet.first()? & 0xf, *packet.get(9)?];
    let address = |at| Some(IpAddr::from(Ipv4Addr::from(get::<4>(packet, at)?)));
    let fragment = u16::from_be_bytes(get(packet, 6)?) & 0x1fff;
    if protocol != TCP || fragment != 0 {
        return None;
    }
    let tcp = packet.get(usize::from(words) * 4..)?;
    Some((address(12)?, address(16)?, tcp))
}

/// Source, destination, and what follows the extension headers (RFC 8200, 3 and 4).
fn ipv6(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    const HEADER: usize = 40;
    let address = |at| Some(IpAddr::from(Ipv6Addr::from(get::<16>(packet, at)?)));
    let (mut next, mut at) = (*packet.get(6)?, HEADER);
    for _ in 0..MOST_EXTENSIONS {
        let length = |of: usize| packet.get(at + 1).map(|n| usize::from(*n) * of);
        let length = match next {
            TCP => return Some((address(8)?, address(24)?, packet.get(at..)?)),
            HOP_BY_HOP | ROUTING | DESTINATION => length(8)? + 8,
            AUTHENTICATION => length(4)? + 8,
            // Only the first fragment has the ports.
            FRAGMENT if u16::from_be_bytes(get(packet, at + 2)?) & 0xfff8 == 0 => 8,
            _ => return None,
        };
        next = *packet.get(at)?;
        at += length;
    }
    None
}

/// What holds for any message about a packet.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    if let Some(packet) = Packet::parse(bytes) {
        assert!(bytes.windows(4).any(|part| part == packet.id.to_be_bytes()));
    }
}

/// What holds for any packet: nothing behind the part that the kernel copies changes what is read.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand_packet(bytes: &[u8]) {
    let (all, begun) = (syn(bytes), syn(&bytes[..bytes.len().min(COPIED as usize)]));
    assert!(begun.is_none() || begun == all);
    if let Some(Syn { from, to, .. }) = all {
        assert_eq!(from.0.is_ipv4(), to.address.is_ipv4());
        assert_eq!(from.0.is_ipv4(), bytes[0] >> 4 == 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::{message_bytes, messages, put_attribute};
    use proptest::prelude::*;

    fn tcp(flags: u8) -> Vec<u8> {
        let mut tcp = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50];
        tcp.push(flags);
        tcp.resize(20, 0);
        tcp
    }

    fn v4(payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0];
        packet.extend([10, 77, 0, 2, 10, 77, 0, 1]);
        packet.extend(payload);
        packet
    }

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 20, next, 64];
        packet.extend("fd77::2".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend("fd77::1".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(payload);
        packet
    }

    fn message(packet: &[u8]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 7]; // family, version, number of the queue
        put_attribute(&mut bytes, NFQA_PACKET_HDR, &[0, 0, 1, 2, 8, 0, 1]);
        put_attribute(&mut bytes, NFQA_PAYLOAD, packet);
        bytes
    }

    #[test]
    fn reads_when_it_came_in() {
        let mut bytes = message(&v4(&tcp(SYN)));
        assert_eq!(Packet::parse(&bytes).unwrap().came_in, None);
        let time = [7_u64.to_be_bytes(), 5_u64.to_be_bytes()].concat();
        put_attribute(&mut bytes, NFQA_TIMESTAMP, &time);
        let came_in = Packet::parse(&bytes).unwrap().came_in;
        assert_eq!(came_in, Some(Duration::from_micros(7_000_005)));
        put_attribute(&mut bytes, NFQA_TIMESTAMP, &[0xff; 16]);
        assert!(Packet::parse(&bytes).is_some());
    }

    #[test]
    fn reads_who_asks_for_what() {
        let packet = Packet::parse(&message(&v4(&tcp(SYN)))).unwrap();
        assert_eq!(packet.id, 0x102);
        let syn = packet.syn.unwrap();
        assert_eq!(syn.from, ("10.77.0.2".parse().unwrap(), 40_000));
        assert_eq!(syn.to.address, "10.77.0.1".parse::<IpAddr>().unwrap());
        assert_eq!((syn.to.port, syn.sequence), (80, 1));
        let syn = Packet::parse(&message(&v6(TCP, &tcp(SYN)))).unwrap().syn;
        let syn = syn.unwrap();
        assert_eq!(syn.from, ("fd77::2".parse().unwrap(), 40_000));
        assert_eq!(syn.to.port, 80);
    }

    /// nfnetlink_queue sends a SYN with one byte of data so: it pads neither the packet, which is the
    /// last attribute, nor the message (nfqnl_build_packet_message()).
    #[test]
    fn a_last_message_need_not_be_padded() {
        const KIND: u16 = 3 << 8; // NFNL_SUBSYS_QUEUE, NFQNL_MSG_PACKET
        let packet = [v4(&tcp(SYN)), vec![b'!']].concat();
        let mut payload = message(&packet);
        payload.truncate(payload.len() - 3);
        assert!(payload.ends_with(b"!"));
        // A padded message comes first, as messages do that others follow.
        let mut datagram = message_bytes(KIND, 0, 0, &message(&packet));
        datagram.extend(message_bytes(KIND, 0, 0, &payload));
        assert_eq!(datagram.len() % 4, 1);
        let read: Vec<_> = messages(&datagram)
            .map(|message| Packet::parse(message.unwrap().payload).unwrap())
            .collect();
        assert_eq!(read.len(), 2);
        for packet in read {
            assert_eq!(packet.id, 0x102);
            assert_eq!(packet.syn.unwrap().to.port, 80);
        }
    }

    #[test]
    fn extension_headers_are_passed_over() {
        let options = [&[TCP, 0, 1, 4, 0, 0, 0, 0][..], &tcp(SYN)].concat();
        assert!(syn(&v6(HOP_BY_HOP, &options)).is_some());
        let fragment = |offset| [&[TCP, 0, 0, offset, 0, 0, 0, 9][..], &tcp(SYN)].concat();
        assert!(syn(&v6(FRAGMENT, &fragment(1))).is_some());
        assert!(syn(&v6(FRAGMENT, &fragment(8))).is_none());
        assert!(syn(&v6(17, &tcp(SYN))).is_none(), "UDP");
    }

    #[test]
    fn only_new_syns_are_syns() {
        const ECN: u8 = 0xc0;
        for (flags, is) in [(SYN, true), (SYN | ECN, true), (0x12, false), (0x10, false)] {
            assert_eq!(syn(&v4(&tcp(flags))).is_some(), is, "{flags:#x}");
        }
        let without = Packet::parse(&message(&v4(&tcp(0x10)))).unwrap();
        assert_eq!((without.id, without.syn), (0x102, None));
    }

    proptest! {
        #[test]
        fn hostile_packets_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..140)) {
            for version in [0x45, 0x60] {
                let mut bytes = bytes.clone();
                bytes.iter_mut().take(1).for_each(|b| *b = version);
                withstand_packet(&bytes);
                withstand(&message(&bytes));
            }
        }
    }
}

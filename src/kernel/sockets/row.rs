//! A row of sock_diag's answer: one socket, as `struct inet_diag_msg` and its attributes tell of it
//! (linux/inet_diag.h). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::libc;

use super::device::Device;
use super::listener::{Listener, SocketId};
use super::sample::Connection;
use crate::kernel::netlink::{attribute, get};

/// Up to this age a half-open connection is young: the client's ACK may be on its way.
pub(crate) const YOUNG: Duration = Duration::from_millis(300);
/// The kernel repeats the SYN-ACK after a second (RFC 6298, 2.1).
pub(crate) const SYNACK_TIMEOUT: Duration = Duration::from_secs(1);
/// The kernel rounds timers up to jiffies, of 10 ms at most (CONFIG_HZ=100).
const LONGEST_JIFFY_MS: u32 = 10;
/// The kernel counts the ages of the last data in and out in jiffies of 1 to 10 ms. When both ages are
/// the same, it can't be told which was first: up to this age the connection counts as busy.
const UNDECIDED_MS: u32 = 100;
/// The length of `struct inet_diag_msg`.
const HEADER: usize = 72;

// linux/inet_diag.h
pub(super) const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_SKV6ONLY: u16 = 11;
const INET_DIAG_MD5SIG: u16 = 18;
const INET_DIAG_CGROUP_ID: u16 = 21;
// include/net/tcp_states.h
pub(super) const ESTABLISHED: u8 = 1;
pub(super) const SYN_RECV: u8 = 3;
pub(super) const SYN_SENT: u8 = 2;
pub(super) const TIME_WAIT: u8 = 6;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
pub(super) const CLOSE_WAIT: u8 = 8;
pub(super) const LAST_ACK: u8 = 9;
pub(super) const LISTEN: u8 = 10;
const CLOSING: u8 = 11;
/// The states in which something may still have to be delivered, as a mask. TIME_WAIT is none of them.
pub(super) const UNFINISHED: u32 = 1 << SYN_RECV
    | 1 << ESTABLISHED
    | 1 << FIN_WAIT1
    | 1 << FIN_WAIT2
    | 1 << CLOSE_WAIT
    | 1 << LAST_ACK
    | 1 << CLOSING;

/// How far a half-open connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handshake {
    /// At most 300 ms old.
    Young,
    /// Older, and the SYN-ACK was not sent again.
    Slow,
    /// The SYN-ACK was sent again, or the service defers accepting.
    Stale,
}

pub(super) struct SocketRow<'a> {
    pub(super) state: u8,
    retransmits: u8,
    pub(super) port: u16,
    pub(super) address: IpAddr,
    peer: SocketAddr,
    interface: u32,
    cookie: u64,
    expires_ms: u32,
    receive_queue: u32,
    send_queue: u32,
    uid: u32,
    pub(super) inode: u32,
    attributes: &'a [u8],
}

impl SocketRow<'_> {
    pub(super) fn parse(bytes: &[u8]) -> Option<SocketRow<'_>> {
        let [family, state, _timer, retransmits] = get(bytes, 0)?;
        let word = |at| get(bytes, at).map(u32::from_ne_bytes);
        Some(SocketRow {
            state,
            retransmits,
            port: u16::from_be_bytes(get(bytes, 4)?),
            address: address(family, bytes, 8)?,
            peer: SocketAddr::new(
                address(family, bytes, 24)?,
                u16::from_be_bytes(get(bytes, 6)?),
            ),
            interface: word(40)?,
            cookie: u64::from_ne_bytes(get(bytes, 44)?),
            expires_ms: word(52)?,
            receive_queue: word(56)?,
            send_queue: word(60)?,
            uid: word(64)?,
            inode: word(68)?,
            attributes: bytes.get(HEADER..)?,
        })
    }

    /// The connection, if something may still have to be delivered. Not so once the process has closed
    /// it and only the client's FIN is missing, nor in a handshake whose SYN-ACK had to be sent again.
    pub(super) fn unfinished(&self) -> Option<Connection> {
        let finished = match self.state {
            FIN_WAIT2 => self.inode == 0,
            SYN_RECV => self.handshake() == Handshake::Stale,
            _ => false,
        };
        (!finished).then(|| self.connection())
    }

    pub(super) fn connection(&self) -> Connection {
        Connection {
            local: SocketAddr::new(self.address, self.port),
            peer: self.peer,
            cookie: self.cookie,
        }
    }

    pub(super) fn id(&self, netns: u64) -> SocketId {
        SocketId {
            netns,
            cookie: self.cookie,
        }
    }

    pub(super) fn listener(&self, netns: u64) -> Option<Listener> {
        (self.state == LISTEN).then(|| Listener {
            address: self.address,
            port: self.port,
            v6only: attribute(self.attributes, INET_DIAG_SKV6ONLY).is_some_and(|v| v != [0]),
            device: Device::of_index(self.interface),
            id: self.id(netns),
            uid: self.uid,
            cgroup: attribute(self.attributes, INET_DIAG_CGROUP_ID)
                .and_then(|id| get(id, 0))
                .map(u64::from_ne_bytes),
            inode: self.inode,
            accept_queue: self.receive_queue,
            backlog: self.send_queue,
        })
    }

    /// Whether it has keys of TCP-MD5 (RFC 2385), if INET_DIAG_INFO was asked for. The kernel tells that to those
    /// with CAP_NET_ADMIN (INET_DIAG_MD5SIG, Linux 4.14).
    pub(super) fn has_keys(&self) -> bool {
        attribute(self.attributes, INET_DIAG_MD5SIG).is_some()
    }

    /// How far a half-open connection is. While the SYN-ACK was sent once, its timer, of one second,
    /// tells the age. A longer timer is that of TCP_DEFER_ACCEPT: the handshake is over, and the client
    /// says nothing (inet_csk_reqsk_queue_hash_add(), reqsk_timer_handler()).
    pub(super) fn handshake(&self) -> Handshake {
        let timer = SYNACK_TIMEOUT.as_millis() as u32;
        let left_when_slow = timer - YOUNG.as_millis() as u32;
        match self.expires_ms {
            _ if self.retransmits > 0 => Handshake::Stale,
            left if left > timer + LONGEST_JIFFY_MS => Handshake::Stale,
            left if left >= left_when_slow => Handshake::Young,
            _ => Handshake::Slow,
        }
    }

    /// The shortest round trip of the connection (`tcpi_min_rtt`, in microseconds, since Linux 4.6).
    pub(super) fn round_trip(&self) -> Option<Duration> {
        let info = attribute(self.attributes, INET_DIAG_INFO)?;
        let micros = get(info, 148).map(u32::from_ne_bytes)?;
        (micros != u32::MAX).then(|| Duration::from_micros(micros.into()))
    }

    /// This host has opened the connection. Its SYN counts as a byte that was acknowledged, so one more
    /// byte is acknowledged than was sent and is not in flight; a SYN-ACK does not count (seen on Linux
    /// 6.18; tcpi_bytes_sent and tcpi_bytes_retrans since 4.19). `false` also if the kernel does not tell.
    pub(super) fn is_outgoing(&self) -> bool {
        let told = || {
            let info = attribute(self.attributes, INET_DIAG_INFO)?;
            let long = |at| get(info, at).map(u64::from_ne_bytes);
            let (acknowledged, sent, sent_again) = (long(120)?, long(200)?, long(208)?);
            let unsent = get(info, 144).map(u32::from_ne_bytes)?;
            let in_flight = u64::from(self.send_queue).checked_sub(unsent.into())?;
            let through = sent.checked_sub(sent_again)?.checked_sub(in_flight)?;
            acknowledged.checked_sub(through)
        };
        told() == Some(1)
    }

    /// There is unread, unsent or unacknowledged data, or a request whose answer has not begun
    /// (`struct tcp_info`, linux/tcp.h: data_segs_in and data_segs_out since Linux 4.6, ages in ms).
    pub(super) fn is_busy(&self) -> bool {
        // The client's FIN takes a place in the queue until the process reads it, often never.
        let unread =
            self.receive_queue - u32::from(self.state == CLOSE_WAIT).min(self.receive_queue);
        if unread > 0 || self.send_queue > 0 {
            return true;
        }
        let Some(info) = attribute(self.attributes, INET_DIAG_INFO) else {
            return false;
        };
        let word = |at| get(info, at).map(u32::from_ne_bytes);
        let (Some(since_sent), Some(since_received)) = (word(44), word(52)) else {
            return false;
        };
        let never_answered = matches!((word(152), word(156)), (Some(1..), Some(0)));
        never_answered
            || since_received < since_sent
            || (since_received == since_sent && since_received < UNDECIDED_MS)
    }
}

fn address(family: u8, bytes: &[u8], at: usize) -> Option<IpAddr> {
    Some(if i32::from(family) == libc::AF_INET {
        Ipv4Addr::from(get::<4>(bytes, at)?).into()
    } else {
        Ipv6Addr::from(get::<16>(bytes, at)?).into()
    })
}

/// What holds for any row.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let Some(row) = SocketRow::parse(bytes) else {
        assert!(bytes.len() < HEADER);
        return;
    };
    assert_eq!(row.attributes.len(), bytes.len() - HEADER);
    let listener = row.listener(1);
    assert_eq!(listener.is_some(), row.state == LISTEN);
    assert!(listener.is_none_or(|l| (l.address, l.port) == (row.address, row.port)));
    assert_eq!(row.connection().peer, row.peer);
    let _ = (row.handshake(), row.round_trip());
    let _ = (row.is_busy(), row.is_outgoing(), row.unfinished());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::put_attribute;

    /// A listener on [::1]:80 as a 6.18 kernel listed it, in the byte order of this machine.
    fn listener() -> Vec<u8> {
        let mut row = header();
        let attributes: [(u16, &[u8]); 4] = [
            (8, &[0]), // INET_DIAG_SHUTDOWN
            (INET_DIAG_SKV6ONLY, &[1]),
            (15, &0u32.to_ne_bytes()), // INET_DIAG_MARK
            (INET_DIAG_CGROUP_ID, &513u64.to_ne_bytes()),
        ];
        for (kind, value) in attributes {
            put_attribute(&mut row, kind, value);
        }
        row
    }

    /// The `struct inet_diag_msg` of the row.
    fn header() -> Vec<u8> {
        let bytes = [
            &[10, 10, 0, 0][..], // AF_INET6, LISTEN, no timer, no retransmits
            &[0, 80, 0, 0],      // source and destination port, big-endian
            &Ipv6Addr::LOCALHOST.octets(),
            &Ipv6Addr::UNSPECIFIED.octets(),
            &0u32.to_ne_bytes(),  // interface
            &57u64.to_ne_bytes(), // cookie
        ];
        // Expires, accept queue, backlog, user, inode.
        let words = [0u32, 3, 7, 33, 21995].map(u32::to_ne_bytes);
        let header = [bytes.concat(), words.concat()].concat();
        assert_eq!(header.len(), HEADER);
        header
    }

    #[test]
    fn reads_a_listener() {
        let listener = SocketRow::parse(&listener()).unwrap().listener(3).unwrap();
        assert_eq!(
            listener,
            Listener {
                address: "::1".parse().unwrap(),
                port: 80,
                v6only: true,
                device: Device::Any,
                id: SocketId {
                    netns: 3,
                    cookie: 57,
                },
                uid: 33,
                cgroup: Some(513),
                inode: 21995,
                accept_queue: 3,
                backlog: 7,
            }
        );
    }

    fn half_open(retransmits: u8, expires_ms: u32) -> Handshake {
        let mut bytes = listener();
        bytes[1] = SYN_RECV;
        bytes[3] = retransmits;
        bytes[52..56].copy_from_slice(&expires_ms.to_ne_bytes());
        let row = SocketRow::parse(&bytes).unwrap();
        assert_eq!(row.listener(1), None);
        row.handshake()
    }

    #[test]
    fn the_timer_of_the_first_syn_ack_tells_the_age() {
        use Handshake::{Slow, Stale, Young};
        assert_eq!(half_open(0, 1_000), Young);
        assert_eq!(half_open(0, 700), Young);
        assert_eq!(half_open(0, 1_004), Young, "rounded up");
        assert_eq!(half_open(0, 699), Slow);
        assert_eq!(half_open(0, 0), Slow);
        assert_eq!(half_open(1, 1_900), Stale);
        assert_eq!(half_open(1, 900), Stale);
        assert_eq!(half_open(0, 1_900), Stale, "TCP_DEFER_ACCEPT");
    }

    #[test]
    fn the_round_trip_is_the_shortest_one() {
        let round_trip = |micros: u32| {
            let mut bytes = header();
            let mut info = vec![0; 160];
            info[148..152].copy_from_slice(&micros.to_ne_bytes());
            put_attribute(&mut bytes, INET_DIAG_INFO, &info);
            SocketRow::parse(&bytes).unwrap().round_trip()
        };
        assert_eq!(round_trip(600_000), Some(Duration::from_millis(600)));
        assert_eq!(round_trip(u32::MAX), None, "not measured");
    }

    #[test]
    fn who_has_opened_a_connection_has_one_byte_more_acknowledged() {
        let outgoing = |acknowledged: u64, sent: u64, again: u64, queue: u32, unsent: u32| {
            let mut bytes = header();
            bytes[1] = ESTABLISHED;
            bytes[60..64].copy_from_slice(&queue.to_ne_bytes());
            let mut info = vec![0; 216];
            info[120..128].copy_from_slice(&acknowledged.to_ne_bytes());
            info[144..148].copy_from_slice(&unsent.to_ne_bytes());
            info[200..208].copy_from_slice(&sent.to_ne_bytes());
            info[208..216].copy_from_slice(&again.to_ne_bytes());
            put_attribute(&mut bytes, INET_DIAG_INFO, &info);
            SocketRow::parse(&bytes).unwrap().is_outgoing()
        };
        assert!(outgoing(1, 0, 0, 0, 0), "nothing was sent");
        assert!(!outgoing(0, 0, 0, 0, 0));
        assert!(outgoing(101, 100, 0, 0, 0));
        assert!(!outgoing(100, 100, 0, 0, 0));
        assert!(outgoing(71, 140, 40, 50, 20), "30 in flight, 20 unsent");
        assert!(!outgoing(70, 140, 40, 50, 20));
        let bytes = header();
        assert!(!SocketRow::parse(&bytes).unwrap().is_outgoing(), "not told");
    }

    /// An established connection with queues, the ages of its last data in ms, and how many
    /// segments of data came in and went out.
    fn busy(queues: [u32; 2], ages: [u32; 2], segments: [u32; 2]) -> bool {
        busy_in(ESTABLISHED, queues, ages, segments)
    }

    fn busy_in(
        state: u8,
        [unread, unsent]: [u32; 2],
        [since_sent, since_received]: [u32; 2],
        [segments_in, segments_out]: [u32; 2],
    ) -> bool {
        let mut bytes = header();
        bytes[1] = state;
        bytes[56..60].copy_from_slice(&unread.to_ne_bytes());
        bytes[60..64].copy_from_slice(&unsent.to_ne_bytes());
        let mut info = vec![0; 160];
        info[44..48].copy_from_slice(&since_sent.to_ne_bytes());
        info[52..56].copy_from_slice(&since_received.to_ne_bytes());
        info[152..156].copy_from_slice(&segments_in.to_ne_bytes());
        info[156..160].copy_from_slice(&segments_out.to_ne_bytes());
        put_attribute(&mut bytes, INET_DIAG_INFO, &info);
        SocketRow::parse(&bytes).unwrap().is_busy()
    }

    #[test]
    fn busy_is_in_the_middle_of_something() {
        const IDLE: [u32; 2] = [0, 0];
        assert!(busy([1, 0], [0, 5_000], [3, 3]), "a request to read");
        assert!(
            busy([0, 1], [0, 5_000], [3, 3]),
            "an answer that is not through"
        );
        assert!(
            busy(IDLE, [5_000, 40], [3, 3]),
            "a request without an answer"
        );
        assert!(
            busy(IDLE, [400, 400], [1, 0]),
            "the first one, as quick as the handshake"
        );
        assert!(busy(IDLE, [50, 50], [3, 3]), "which was first?");
        assert!(
            !busy(IDLE, [100, 100], [3, 3]),
            "an old connection that says nothing"
        );
        assert!(
            !busy(IDLE, [400, 400], [0, 0]),
            "one that has never said anything"
        );
        assert!(!busy(IDLE, [40, 5_000], [3, 3]), "an idle keep-alive");
        assert!(busy_in(CLOSE_WAIT, [2, 0], [40, 5_000], [3, 3]));
        assert!(
            !busy_in(CLOSE_WAIT, [1, 0], [40, 5_000], [3, 3]),
            "an unread FIN"
        );
    }
}

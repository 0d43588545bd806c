//! What the kernel says of the TCP sockets on the gated ports (sock_diag), and the two decisions
//! that rest on it: is the old service drained, is the new one ready.

pub(crate) mod diag;
pub(crate) mod holders;
pub(crate) mod netns;

use crate::words::family::Family;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// A TCP socket in LISTEN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    /// The local address.
    pub(crate) address: IpAddr,
    /// The local port.
    pub(crate) port: u16,
    /// An IPv6 socket that takes no IPv4 connections (IPV6_V6ONLY).
    pub(crate) v6only: bool,
    /// The device that it is bound to (SO_BINDTODEVICE); 0 is none.
    pub(crate) interface: u32,
    /// Which socket it is.
    pub(crate) id: SocketId,
    /// The inode, by which /proc/PID/fd tells who holds it.
    pub(crate) inode: u32,
    /// Connections that wait to be accepted.
    pub(crate) accept_queue: u32,
    /// How many may wait.
    pub(crate) backlog: u32,
}

/// Which socket it is, for as long as the host is up. Compared by equality only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SocketId {
    /// Its network namespace: before Linux 5.10 each of them numbers its sockets by itself.
    pub(crate) netns: u64,
    /// The kernel's name for the socket (linux/inet_diag.h).
    pub(crate) cookie: u64,
}

/// A connection to a listener that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Our end.
    pub(crate) local: SocketAddr,
    /// The client's.
    pub(crate) peer: SocketAddr,
    /// Which socket it is.
    pub(crate) cookie: u64,
}

#[cfg(test)]
impl Listener {
    /// One that a test makes up.
    pub(crate) fn made_up(address: &str, port: u16, v6only: bool) -> Listener {
        Listener {
            address: address.parse().unwrap(),
            port,
            v6only,
            interface: 0,
            id: SocketId {
                netns: 1,
                cookie: 1,
            },
            inode: 1,
            accept_queue: 0,
            backlog: 1,
        }
    }
}

impl Listener {
    /// Whether connections over `family` reach it: an IPv6 wildcard socket also takes IPv4, unless
    /// it was told not to (RFC 3493, 3.7 and 5.3).
    pub(crate) fn serves(&self, family: Family) -> bool {
        match (self.address, family) {
            (IpAddr::V4(_), Family::V4) => true,
            (IpAddr::V4(_), Family::V6) => false,
            (IpAddr::V6(a), Family::V6) => a.to_ipv4_mapped().is_none(),
            (IpAddr::V6(a), Family::V4) => {
                a.to_ipv4_mapped().is_some() || (a.is_unspecified() && !self.v6only)
            }
        }
    }

    /// Whether a connection over `family` that would have reached `other` finds this one: the same
    /// address and device, or a wildcard.
    pub(crate) fn covers(&self, other: &Listener, family: Family) -> bool {
        self.port == other.port
            && self.serves(family)
            && (self.interface == 0 || self.interface == other.interface)
            && (self.address.is_unspecified()
                || self.address.to_canonical() == other.address.to_canonical())
    }

    /// Whether the two are members of one SO_REUSEPORT group, or of two that stand side by side
    /// while a service hands over: same address, port and device.
    pub(crate) fn same_place(&self, other: &Listener) -> bool {
        (self.address, self.port, self.interface) == (other.address, other.port, other.interface)
    }
}

/// Half-open connections (SYN_RECV) on the gated ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HalfOpen {
    /// A handshake that is under way: its last ACK is to be expected any moment.
    pub(crate) young: u32,
    /// Older: a scanner, a dead client, or a service with TCP_DEFER_ACCEPT. Not waited for.
    pub(crate) stale: u32,
}

/// When the kernel answers with a SYN cookie, and keeps nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cookies {
    /// 0: what finds no place is dropped.
    Never,
    /// 1: what finds no place.
    WhenFull,
    /// 2: everything.
    Always,
}

/// How the kernel keeps half-open connections (ip-sysctl).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SynLimits {
    /// `tcp_syncookies`.
    pub(crate) cookies: Cookies,
    /// `tcp_max_syn_backlog`.
    pub(crate) max_syn_backlog: u32,
}

/// Accepted or acceptable connections on the gated ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Connections {
    /// All that are established.
    pub(crate) established: u32,
    /// Those of them that are in the middle of something: unread, unsent or unacknowledged data,
    /// or a request without its answer.
    pub(crate) busy: u32,
}

/// What one look at the kernel's sockets showed; only what was asked for is filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// All listeners on the gated ports.
    pub(crate) listeners: Vec<Listener>,
    /// Handshakes.
    pub(crate) half_open: HalfOpen,
    /// The same by the local address and port.
    pub(crate) handshakes: HashMap<(IpAddr, u16), HalfOpen>,
    /// Connections; `None`: they were not looked at.
    pub(crate) connections: Option<Connections>,
    /// Whether the kernel answered SYNs with SYN cookies (SyncookiesSent) since the first look:
    /// such handshakes leave no trace until they are complete.
    pub(crate) cookies_sent: bool,
    /// Who holds the listeners, by process.
    pub(crate) holders: holders::Holders,
}

/// What to look at: each costs more than the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Want {
    /// `half_open` and `handshakes`.
    pub(crate) handshakes: bool,
    /// The same, and `cookies_sent`.
    pub(crate) half_open: bool,
    /// `connections`.
    pub(crate) connections: bool,
    /// `holders`.
    pub(crate) holders: bool,
}

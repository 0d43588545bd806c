//! What a look at the kernel's sockets shows.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::holders::Holders;
use super::listener::{Listener, SocketId};

/// What to look at: each costs more than the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Want {
    /// `half_open` and `handshakes`.
    pub(crate) handshakes: bool,
    /// The same, and `cookies_sent`.
    pub(crate) half_open: bool,
    pub(crate) connections: bool,
    pub(crate) holders: bool,
}

/// What was seen of the gated ports. Only the fields that [`Want`] asks for are filled in, and the
/// listeners.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) half_open: HalfOpen,
    /// `half_open` by the local address and port.
    pub(crate) handshakes: HashMap<(IpAddr, u16), HalfOpen>,
    pub(crate) connections: Option<Connections>,
    /// Those of the established connections that are not busy.
    pub(crate) idle: Vec<SocketId>,
    /// The longest of the connections' shortest round trips; 0 where none is known.
    pub(crate) farthest: Duration,
    /// Whether SYNs were answered with cookies since the first look, by listeners (SyncookiesSent) or by
    /// SYNPROXY: such handshakes leave no trace until they are complete.
    pub(crate) cookies_sent: bool,
    /// The processes that hold the listeners.
    pub(crate) holders: Holders,
    /// Those of the listeners that have keys of TCP-MD5 (RFC 2385), as far as the kernel tells this process.
    /// Looked at with the holders.
    pub(crate) keyed: Vec<SocketId>,
    /// Those of the listeners that sessions have made for themselves: no look fills that in.
    pub(crate) sessions: Vec<SocketId>,
}

impl Sample {
    /// The listeners but for those of `sessions`, which a restart may end or leave alone.
    pub(crate) fn lasting(&self, sessions: &[SocketId]) -> Vec<Listener> {
        let mut listeners = self.listeners.clone();
        listeners.retain(|listener| !sessions.contains(&listener.id));
        listeners
    }
}

/// How many connections are half-open (SYN_RECV).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HalfOpen {
    /// The last ACK of the handshake is to be expected any moment.
    pub(crate) young: u32,
    /// Older, and the kernel has sent the SYN-ACK only once: a client that is far away, or a scanner.
    pub(crate) slow: u32,
    /// Its SYN-ACK was sent again: a scanner, a dead client; or a service with TCP_DEFER_ACCEPT.
    pub(crate) stale: u32,
}

/// How many connections are established, accepted or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Connections {
    pub(crate) established: u32,
    /// Those of them that have unread, unsent or unacknowledged data, or a request without an answer.
    pub(crate) busy: u32,
}

/// A connection to a listener that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) cookie: u64,
}

/// How the kernel keeps half-open connections (ip-sysctl).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SynLimits {
    /// `tcp_syncookies`.
    pub(crate) cookies: Cookies,
    /// `tcp_max_syn_backlog`.
    pub(crate) max_syn_backlog: u32,
}

/// When the kernel answers with a SYN cookie, and keeps nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cookies {
    /// 0: the kernel drops a SYN that finds no place in the queue.
    Never,
    /// 1: it answers such a SYN with a cookie.
    WhenFull,
    /// 2: it answers every SYN with a cookie.
    Always,
}

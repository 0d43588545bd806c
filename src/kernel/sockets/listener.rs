//! A TCP socket in LISTEN, and which connections reach it.

use std::net::{IpAddr, SocketAddr};

use super::device::Device;
use crate::words::family::Family;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// It is an IPv6 socket that takes no IPv4 connections (IPV6_V6ONLY).
    pub(crate) v6only: bool,
    pub(crate) device: Device,
    pub(crate) id: SocketId,
    /// The user that has made the socket. A process that drops its privileges later keeps the socket's.
    pub(crate) uid: u32,
    /// The id of the control group that the socket was made in; `None`: the kernel does not tell
    /// (INET_DIAG_CGROUP_ID, Linux 5.8). A unit that is started again has another one.
    pub(crate) cgroup: Option<u64>,
    /// /proc/PID/fd names sockets by their inode.
    pub(crate) inode: u32,
    /// How many connections wait to be accepted.
    pub(crate) accept_queue: u32,
    /// How many connections may wait.
    pub(crate) backlog: u32,
}

/// Identifies a socket for as long as the host is up. Only equality means anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SocketId {
    /// Before Linux 5.10 each network namespace numbers its sockets by itself.
    pub(crate) netns: u64,
    /// The kernel's name for the socket (linux/inet_diag.h).
    pub(crate) cookie: u64,
}

impl Listener {
    /// Whether connections over `family` reach it.
    pub(crate) fn serves(&self, family: Family) -> bool {
        serves(self.address, self.v6only, family)
    }

    /// Whether a connection over `family` that would have reached `other` finds this one: it has the
    /// same address and device, or a wildcard.
    pub(crate) fn covers(&self, other: &Listener, family: Family) -> bool {
        self.covers_at((other.address, other.port, &other.device), family)
    }

    /// The same for a listener there.
    pub(crate) fn covers_at(
        &self,
        (address, port, device): (IpAddr, u16, &Device),
        family: Family,
    ) -> bool {
        self.port == port
            && self.serves(family)
            && self.device.takes_over(device)
            && (self.address.is_unspecified()
                || self.address.to_canonical() == address.to_canonical())
    }

    /// Whether the two have the same address, port and device. Then they are in one SO_REUSEPORT group, or in two
    /// that stand side by side while a service hands over.
    pub(crate) fn same_place(&self, other: &Listener) -> bool {
        (self.address, self.port, &self.device) == (other.address, other.port, &other.device)
    }

    /// Address, device and port, as ss(8) shows them.
    pub(crate) fn shown(&self) -> String {
        shown(self.address, self.port, self.device.name().as_deref())
    }
}

/// Whether connections over `family` reach a listener there: an IPv6 wildcard socket also takes IPv4, unless
/// it was told not to (RFC 3493, 3.7 and 5.3).
pub(crate) fn serves(address: IpAddr, v6only: bool, family: Family) -> bool {
    match (address, family) {
        (IpAddr::V4(_), Family::V4) => true,
        (IpAddr::V4(_), Family::V6) => false,
        (IpAddr::V6(a), Family::V6) => a.to_ipv4_mapped().is_none(),
        (IpAddr::V6(a), Family::V4) => {
            a.to_ipv4_mapped().is_some() || (a.is_unspecified() && !v6only)
        }
    }
}

/// Address, device and port, as ss(8) shows them.
pub(crate) fn shown(address: IpAddr, port: u16, device: Option<&str>) -> String {
    match (device, address) {
        (None, address) => SocketAddr::new(address, port).to_string(),
        (Some(device), IpAddr::V4(address)) => format!("{address}%{device}:{port}"),
        (Some(device), IpAddr::V6(address)) => format!("[{address}]%{device}:{port}"),
    }
}

#[cfg(test)]
impl Listener {
    pub(crate) fn made_up(address: &str, port: u16, v6only: bool) -> Listener {
        Listener {
            address: address.parse().unwrap(),
            port,
            v6only,
            device: Device::Any,
            id: SocketId {
                netns: 1,
                cookie: 1,
            },
            uid: 0,
            cgroup: None,
            inode: 1,
            accept_queue: 0,
            backlog: 1,
        }
    }
}

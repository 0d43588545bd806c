//! Connections on the gated ports, and clients of this host that wait for one. They show that packets pass by the
//! gate, or that the gate stops a client which the run itself waits for. Apart from the looks of `diag.rs`, on which
//! decisions depend.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use nix::libc;

use super::counters::{passive_opens, sockets_in_use};
use super::diag::dump;
use super::filter::port_filter;
use super::netns::Netns;
use super::row::{
    CLOSE_WAIT, ESTABLISHED, LISTEN, SYN_RECV, SYN_SENT, SocketRow, TIME_WAIT, UNFINISHED,
};
use crate::kernel::netlink::{Bus, Netlink};
use crate::words::ports::PortSet;

/// A connection, by its two ends.
pub(crate) type Ends = (SocketAddr, SocketAddr);

/// A socket of a connection, or a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passing {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) state: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Listening,
    HalfOpen,
    Established,
    /// One side has closed it, or both have.
    Ended,
}

/// A client's socket that has sent its SYN, and has had no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) inode: u32,
}

impl Passing {
    pub(crate) fn ends(&self) -> Ends {
        (self.local, self.peer)
    }
}

/// The connections and the listeners on `ports`, in that network namespace or in this one; with
/// `over`, those in TIME_WAIT too.
///
/// # Errors
/// The kernel does not list its sockets, or the namespace can't be entered.
pub(crate) fn passing(netns: Option<&Netns>, ports: &PortSet, over: bool) -> Result<Vec<Passing>> {
    let states = 1 << LISTEN | UNFINISHED | u32::from(over) << TIME_WAIT;
    let look = || {
        let mut found = Vec::new();
        rows(states, &port_filter(ports), |row| {
            let connection = row.connection();
            if ports.contains(row.port) {
                found.push(Passing {
                    local: canonical(connection.local),
                    peer: canonical(connection.peer),
                    state: match row.state {
                        LISTEN => Progress::Listening,
                        SYN_RECV => Progress::HalfOpen,
                        ESTABLISHED => Progress::Established,
                        _ => Progress::Ended,
                    },
                });
            }
        })?;
        Ok(found)
    };
    match netns {
        None => look(),
        Some(netns) => netns.within(look)?,
    }
}

/// A connection that a process serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) local: SocketAddr,
    pub(crate) inode: u32,
}

/// The connections to `ports` of that network namespace that were accepted and not closed.
///
/// # Errors
/// The kernel does not list its sockets, or the namespace can't be entered.
pub(crate) fn served(netns: Option<&Netns>, ports: &PortSet) -> Result<Vec<Served>> {
    let look = || {
        let mut found = Vec::new();
        let states = 1 << ESTABLISHED | 1 << CLOSE_WAIT;
        rows(states, &port_filter(ports), |row| {
            if ports.contains(row.port) && row.inode != 0 {
                found.push(Served {
                    local: canonical(row.connection().local),
                    inode: row.inode,
                });
            }
        })?;
        Ok(found)
    };
    match netns {
        None => look(),
        Some(netns) => netns.within(look)?,
    }
}

/// How many TCP sockets that network namespace has, and how many connections are in TIME_WAIT.
/// `None`: that can't be told.
pub(crate) fn how_many(netns: Option<&Netns>) -> Option<(usize, usize)> {
    count(netns, sockets_in_use)
}

/// How many connections listeners of that network namespace have accepted (PassiveOpens, RFC 4022).
/// `None`: that can't be told.
pub(crate) fn accepted(netns: Option<&Netns>) -> Option<u64> {
    count(netns, passive_opens)
}

fn count<T: Send>(netns: Option<&Netns>, count: fn() -> Option<T>) -> Option<T> {
    match netns {
        None => count(),
        Some(netns) => netns.within(count).ok().flatten(),
    }
}

/// The clients in this network namespace that wait for an answer from one of `ports`.
///
/// # Errors
/// The kernel does not list its sockets.
pub(crate) fn callers(ports: &PortSet) -> Result<Vec<Caller>> {
    let mut found = Vec::new();
    rows(1 << SYN_SENT, &[], |row| {
        let connection = row.connection();
        if ports.contains(connection.peer.port()) {
            found.push(Caller {
                from: canonical(connection.local),
                to: canonical(connection.peer),
                inode: row.inode,
            });
        }
    })?;
    Ok(found)
}

fn rows(states: u32, filter: &[u8], mut each: impl FnMut(&SocketRow)) -> Result<()> {
    let mut socket = Netlink::open(Bus::SockDiag).context("no netlink socket for sock_diag")?;
    for family in [libc::AF_INET, libc::AF_INET6] {
        dump(&mut socket, family, states, 0, filter, &mut each)?;
    }
    Ok(())
}

/// The IPv4 address of a dual-stack socket.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn connections_and_their_listener_are_seen() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ports = PortSet::from_iter([port]);
        let before = accepted(None).unwrap();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (sockets, _) = how_many(None).unwrap();
        assert!(sockets >= 2);
        let seen = passing(None, &ports, true).unwrap();
        let states = |state| seen.iter().filter(|one| one.state == state).count();
        assert_eq!(states(Progress::Listening), 1);
        let ends = (client.peer_addr().unwrap(), client.local_addr().unwrap());
        assert!(seen.iter().any(|one| one.ends() == ends), "{seen:?}");
        assert!(accepted(None).unwrap() > before);
        assert_eq!(callers(&ports).unwrap(), []);
    }
}

//! `--syn redirect=PORT`: new connections go to a standby on another port of this host while the gate
//! is closed, and stay there until they end. The kernel does it, by destination NAT; here it is looked
//! whether the standby can take them, and how many it still has.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use nix::errno::Errno;

use crate::gate::scope::Scope;
use crate::ports::PortSet;
use crate::sockets::conntrack::Conntrack;
use crate::sockets::diag::Sockets;
use crate::sockets::ready::uncovered;
use crate::sockets::{Connection, Listener, Want};

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToStandby {
    /// The port that the standby listens on.
    pub port: u16,
    /// `--linger`.
    pub linger: Duration,
}

/// The connections that were redirected.
pub struct Redirect {
    port: u16,
    gated: PortSet,
    sockets: Sockets,
    /// `None`: the kernel can't tell them from others of the standby.
    conntrack: Option<Conntrack>,
    /// By the socket's cookie: whether its connection was redirected.
    known: HashMap<u64, bool>,
}

impl Redirect {
    /// None yet. `scope`: which local addresses they may have.
    ///
    /// # Errors
    /// The kernel has no sock_diag.
    pub fn begin(to: &ToStandby, gated: &PortSet, scope: &Scope) -> Result<Redirect> {
        Ok(Redirect {
            port: to.port,
            gated: gated.clone(),
            sockets: Sockets::new(&[to.port].into_iter().collect(), scope)?,
            conntrack: Conntrack::open().ok(),
            known: HashMap::new(),
        })
    }

    /// Where they go.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many of them have not finished.
    ///
    /// # Errors
    /// The sockets can't be looked at.
    pub fn unfinished(&mut self) -> Result<usize> {
        let connections = self.sockets.unfinished()?;
        let mut known = HashMap::with_capacity(connections.len());
        for connection in &connections {
            let redirected = match self.known.get(&connection.cookie) {
                Some(redirected) => *redirected,
                None => self.was_redirected(connection),
            };
            known.insert(connection.cookie, redirected);
        }
        self.known = known;
        Ok(self
            .known
            .values()
            .filter(|redirected| **redirected)
            .count())
    }

    /// Whether anybody listens there. What can't be looked at may be there.
    pub fn standby_listens(&mut self) -> bool {
        let seen = self.sockets.look(Want::default());
        seen.map_or(true, |sample| !sample.listeners.is_empty())
    }

    /// Whether connections that went to the standby by themselves can be told from them.
    pub fn tells_apart(&self) -> bool {
        self.conntrack.is_some()
    }

    /// Where it can't be told, each may be.
    fn was_redirected(&mut self, connection: &Connection) -> bool {
        let Some(conntrack) = &mut self.conntrack else {
            return true;
        };
        match conntrack.first_sent_to(connection) {
            Ok(port) => port.is_some_and(|port| self.gated.contains(port)),
            Err(refusal) => {
                if refusal.errno == Errno::EINVAL {
                    self.conntrack = None; // no nf_conntrack_netlink: it can't for any of them
                }
                true
            }
        }
    }
}

/// Where the service listens and the standby does not: the standby's addresses that are missing.
/// Where the service's addresses are not known here (`addressed` is false), or it does not listen,
/// any listener will do.
pub fn missing(
    service: &[Listener],
    standby: &[Listener],
    port: u16,
    addressed: bool,
) -> Vec<String> {
    if service.is_empty() || !addressed {
        return match standby {
            [] => vec![format!("port {port}")],
            _ => Vec::new(),
        };
    }
    let there = service.iter().map(|listener| Listener {
        port,
        ..listener.clone()
    });
    let there: Vec<Listener> = there.collect();
    uncovered(&there, standby)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::SocketId;

    fn listener(address: &str, port: u16, v6only: bool) -> Listener {
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

    #[test]
    fn the_standby_has_to_listen_wherever_the_service_does() {
        let any = || listener("0.0.0.0", 80, false);
        let any6 = || listener("::", 80, true);
        let standby = |address| listener(address, 8080, false);
        for (service, there, lacks) in [
            (vec![any()], vec![standby("0.0.0.0")], ""),
            (vec![any()], vec![standby("::")], ""),
            (vec![any()], vec![standby("127.0.0.1")], "0.0.0.0:8080"),
            (vec![any(), any6()], vec![standby("0.0.0.0")], "[::]:8080"),
            (vec![any(), any6()], vec![standby("::")], ""),
            (
                vec![
                    listener("10.0.0.1", 80, false),
                    listener("10.0.0.2", 443, false),
                ],
                vec![standby("10.0.0.1")],
                "10.0.0.2:8080",
            ),
            (vec![any()], vec![], "0.0.0.0:8080"),
            (vec![], vec![], "port 8080"),
            (vec![], vec![standby("127.0.0.1")], ""),
        ] {
            let lacking = missing(&service, &there, 8080, true).join(" ");
            assert_eq!(lacking, lacks, "{service:?} {there:?}");
        }
        let elsewhere = missing(&[any()], &[standby("127.0.0.1")], 8080, false);
        assert!(elsewhere.is_empty());
    }
}

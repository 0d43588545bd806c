//! `--syn redirect=PORT`: new connections go to a standby on another port of this host while the gate
//! is closed, and stay there until they end. The kernel does it, by destination NAT; here it is looked
//! whether the standby can take them, and how many it still has.

pub mod standby;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Result;
use nix::errno::Errno;

use crate::decide::service::uncovered;
use crate::kernel::conntrack::{Conntrack, canonical};
use crate::kernel::route::Routing;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::{Connection, Listener, Want};
use crate::words::family::Family;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;

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

    /// Has the kernel forget connections to the service that are over, but that it does not know to be:
    /// it has not seen their ends if the rules of a run before had gone, and nothing else needed
    /// connection tracking. Open ones are kept for days, those that were redirected for two minutes even
    /// if they had ended. When connections are tracked again, a new one with the same addresses and
    /// ports would pass as such a one, and not be redirected; one that exists would be sent elsewhere.
    /// To be called before that. How many they were.
    ///
    /// # Errors
    /// It can't be told, or the kernel won't forget.
    pub fn forget_ended(&mut self) -> Result<usize> {
        let Some(conntrack) = &mut self.conntrack else {
            return Ok(0);
        };
        let tracked = conntrack.in_the_way(&self.gated)?;
        if tracked.is_empty() {
            return Ok(0);
        }
        let ends = tracked.iter().flat_map(|c| [c.service, c.server]);
        let ports: PortSet = ends.map(|end| end.port()).collect();
        // All of the host's, whatever the scope.
        let alive = Sockets::new(&ports, &Scope::default())?.connections_left()?;
        let alive: HashSet<_> = alive
            .iter()
            .map(|c| (canonical(c.local), canonical(c.peer)))
            .collect();
        let (mut routing, mut known) = (Routing::open()?, HashMap::new());
        // What this host forwards, or has begun itself, has no socket of the service's either.
        let mut is_here = |ip| *known.entry(ip).or_insert_with(|| routing.is_here(ip));
        let mut forgotten = 0;
        for connection in tracked.iter().filter(|c| c.is_over(&alive)) {
            if is_here(connection.service.ip()) && is_here(connection.server.ip()) {
                conntrack.forget(connection)?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
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

    /// Whether not one of the SYNs that were sent there was answered, as far as that can be told.
    pub fn nobody_was_answered(&mut self) -> bool {
        let conntrack = self.conntrack.as_mut();
        let answered = conntrack.map(|c| c.answered(&self.gated, self.port));
        matches!(answered, Some(Ok(0)))
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

/// Where the service listens, within `scope`, and the standby does not: the addresses that are
/// missing. Where the service's addresses are not known here (no scope), or it does not listen, any
/// listener will do.
pub fn missing(
    service: &[Listener],
    standby: &[Listener],
    port: u16,
    scope: Option<&Scope>,
) -> Vec<String> {
    let Some(scope) = scope.filter(|_| !service.is_empty()) else {
        return match standby {
            [] => vec![format!("port {port}")],
            _ => Vec::new(),
        };
    };
    let needed: Vec<Listener> = service
        .iter()
        .flat_map(|listener| needed(listener, port, scope))
        .collect();
    uncovered(&needed, standby)
}

/// The listeners that would take over from one of the service's: for each IP version that is gated and
/// that it serves, where it is, or, if that is everywhere, the addresses that the gate is narrowed to.
fn needed(listener: &Listener, port: u16, scope: &Scope) -> Vec<Listener> {
    let families = Family::ALL.into_iter();
    let served = families.filter(|family| scope.gates(*family) && listener.serves(*family));
    let at = |address: IpAddr| Listener {
        address,
        port,
        v6only: true,
        ..listener.clone()
    };
    let of = |family| {
        let to = scope.to.of(family);
        let anywhere = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        if !listener.address.is_unspecified() {
            return vec![at(listener.address.to_canonical())];
        }
        match to.is_empty() || to.iter().any(|net| net.prefix_len() < net.max_prefix_len()) {
            true => vec![at(anywhere)],
            false => to.iter().map(|net| at(net.addr())).collect(),
        }
    };
    served.flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::scope::{Networks, parse_networks};

    #[test]
    fn the_standby_has_to_listen_wherever_the_service_does() {
        let any = || Listener::made_up("0.0.0.0", 80, false);
        let any6 = || Listener::made_up("::", 80, true);
        let standby = |address| Listener::made_up(address, 8080, false);
        for (service, there, lacks) in [
            (vec![any()], vec![standby("0.0.0.0")], ""),
            (vec![any()], vec![standby("::")], ""),
            (vec![any()], vec![standby("127.0.0.1")], "0.0.0.0:8080"),
            (vec![any(), any6()], vec![standby("0.0.0.0")], "[::]:8080"),
            (vec![any(), any6()], vec![standby("::")], ""),
            (
                vec![
                    Listener::made_up("10.0.0.1", 80, false),
                    Listener::made_up("10.0.0.2", 443, false),
                ],
                vec![standby("10.0.0.1")],
                "10.0.0.2:8080",
            ),
            (vec![any()], vec![], "0.0.0.0:8080"),
            (vec![], vec![], "port 8080"),
            (vec![], vec![standby("127.0.0.1")], ""),
        ] {
            let all = Scope::default();
            let lacking = missing(&service, &there, 8080, Some(&all)).join(" ");
            assert_eq!(lacking, lacks, "{service:?} {there:?}");
        }
        let elsewhere = missing(&[any()], &[standby("127.0.0.1")], 8080, None);
        assert!(elsewhere.is_empty());

        let dual = || Listener::made_up("::", 80, false);
        for (to, service, there, lacks) in [
            ("10.0.0.9", any(), "10.0.0.9", ""),
            ("10.0.0.9", any(), "10.0.0.8", "10.0.0.9:8080"),
            ("10.0.0.0/24", any(), "10.0.0.9", "0.0.0.0:8080"),
            ("0.0.0.0/0", dual(), "0.0.0.0", ""),
            ("0.0.0.0/0", dual(), "::", ""),
            ("10.0.0.9,fd00::9", dual(), "10.0.0.9", "[fd00::9]:8080"),
        ] {
            let scope = Scope {
                to: Networks::new(parse_networks(to).unwrap()),
                ..Scope::default()
            };
            let lacking = missing(&[service], &[standby(there)], 8080, Some(&scope));
            assert_eq!(lacking.join(" "), lacks, "--to {to}: {there}");
        }
    }
}

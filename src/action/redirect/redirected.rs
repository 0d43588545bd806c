//! The connections that were redirected.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use nix::errno::Errno;

use crate::kernel::conntrack::{Conntrack, canonical};
use crate::kernel::route::Routing;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::{Connection, Want};
use crate::words::ports::PortSet;
use crate::words::scope::Scope;

/// The connections that were redirected.
pub(crate) struct Redirected {
    port: u16,
    gated: PortSet,
    sockets: Sockets,
    /// `None`: the kernel can't tell them from others of the standby.
    conntrack: Option<Conntrack>,
    /// By the socket's cookie: whether its connection was redirected.
    known: HashMap<u64, bool>,
}

impl Redirected {
    /// None yet. `scope`: which local addresses they may have.
    ///
    /// # Errors
    /// The kernel has no sock_diag.
    pub(crate) fn begin(port: u16, gated: &PortSet, scope: &Scope) -> Result<Redirected> {
        Ok(Redirected {
            port,
            gated: gated.clone(),
            sockets: Sockets::new(&[port].into_iter().collect(), scope)?,
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
    pub(crate) fn forget_ended(&mut self) -> Result<usize> {
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
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How many of them have not finished.
    ///
    /// # Errors
    /// The sockets can't be looked at.
    pub(crate) fn unfinished(&mut self) -> Result<usize> {
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
    pub(crate) fn nobody_was_answered(&mut self) -> bool {
        let conntrack = self.conntrack.as_mut();
        let answered = conntrack.map(|c| c.answered(&self.gated, self.port));
        matches!(answered, Some(Ok(0)))
    }

    /// Whether anybody listens there. What can't be looked at may be there.
    pub(crate) fn standby_listens(&mut self) -> bool {
        let seen = self.sockets.look(Want::default());
        seen.map_or(true, |sample| !sample.listeners.is_empty())
    }

    /// Whether connections that went to the standby by themselves can be told from them.
    pub(crate) fn tells_apart(&self) -> bool {
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

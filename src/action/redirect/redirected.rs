//! The connections that were redirected.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use nix::errno::Errno;

use crate::kernel::conntrack::{Conntrack, canonical};
use crate::kernel::route::Routing;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::{Connection, Looks, Want};
use crate::words::ports::PortSet;
use crate::words::scope::Scope;

pub(crate) struct Redirected {
    port: u16,
    gated: PortSet,
    sockets: Sockets,
    /// `None`: the kernel can't tell redirected connections from the standby's others.
    conntrack: Option<Conntrack>,
    /// Whether the connection was redirected, by socket cookie.
    known: HashMap<u64, bool>,
}

impl Redirected {
    /// `scope` limits the local addresses.
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

    /// Deletes conntrack entries of connections to the service that are over. The kernel does not
    /// know their end if the rules of an earlier run had gone and nothing else used connection
    /// tracking. It keeps entries of open connections for days, and those of redirected ones for
    /// two minutes even after their end. A new connection with the same addresses and ports would
    /// match such an entry and not be redirected; an existing connection would be sent elsewhere.
    /// So this runs before connections are tracked again. Returns how many entries were deleted.
    ///
    /// # Errors
    /// The kernel does not list the entries, or does not delete them.
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
        // The listeners of the whole host, regardless of the scope.
        let alive = Sockets::new(&ports, &Scope::default())?.connections_left()?;
        let alive: HashSet<_> = alive
            .iter()
            .map(|c| (canonical(c.local), canonical(c.peer)))
            .collect();
        let (mut routing, mut known) = (Routing::open()?, HashMap::new());
        // Forwarded connections and those that this host has begun have no socket of the service
        // either.
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

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How many redirected connections have not finished.
    ///
    /// # Errors
    /// The sockets can't be read.
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

    /// Whether none of the redirected SYNs was answered, as far as the kernel can tell.
    pub(crate) fn nobody_was_answered(&mut self) -> bool {
        let conntrack = self.conntrack.as_mut();
        let answered = conntrack.map(|c| c.answered(&self.gated, self.port));
        matches!(answered, Some(Ok(0)))
    }

    /// Whether the standby listens. True if the sockets can't be read.
    pub(crate) fn standby_listens(&mut self) -> bool {
        let seen = self.sockets.look(Want::default());
        seen.map_or(true, |sample| !sample.listeners.is_empty())
    }

    /// Whether connections made directly to the standby can be told from redirected ones.
    pub(crate) fn tells_apart(&self) -> bool {
        self.conntrack.is_some()
    }

    /// True where the kernel can't tell.
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

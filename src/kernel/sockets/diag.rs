//! Asks the kernel for TCP sockets: NETLINK_SOCK_DIAG (linux/sock_diag.h, linux/inet_diag.h).

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::net::IpAddr;

use anyhow::{Context, Result};
use nix::libc;

use super::Looks;
use super::counters::{SYN_LIMITS, answered_by_synproxy, cookies_sent, syn_limits};
use super::ends::Ends;
use super::filter::port_filter;
use super::holders;
use super::listener::{Listener, SocketId};
use super::netns::{self, Netns, NoEntry};
use super::row::{
    CLOSE_WAIT, ESTABLISHED, Handshake, INET_DIAG_INFO, LAST_ACK, LISTEN, SYN_RECV, SocketRow,
    UNFINISHED,
};
use super::sample::{Connection, Connections, HalfOpen, Sample, SynLimits, Want};
use crate::kernel::netlink::{Bus, Netlink, put_attribute};
use crate::kernel::room::known::Others;
use crate::words::family::Family;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;

// linux/sock_diag.h, linux/inet_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_BYTECODE: u16 = 1;

/// Asks the kernel by netlink.
pub(crate) struct Sockets {
    /// The network namespace of the listeners; `None`: this process's own, which `own` looks into.
    netns: Option<Netns>,
    own: View,
    watched: Watched,
    others: Others,
    /// Whether a look has ever shown an IPv4 listener, and an IPv6 listener.
    families: (bool, bool),
    cookies_at_start: Option<u64>,
}

struct Watched {
    ports: PortSet,
    filter: Vec<u8>,
    /// Other local addresses belong to other services.
    scope: Scope,
    /// The cookies of waiting rooms.
    rooms: BTreeSet<u64>,
    /// There are rooms, this run's or another's: connections that no process has accepted wait there.
    has_rooms: bool,
}

/// The sockets of one network namespace.
struct View {
    socket: Netlink,
    netns: u64,
}

impl Sockets {
    /// Watches the listeners' `ports`, at the addresses that `scope` reaches.
    pub(crate) fn new(ports: &PortSet, scope: &Scope) -> Result<Sockets> {
        Ok(Sockets {
            netns: None,
            own: View::open()?,
            watched: Watched {
                ports: ports.clone(),
                filter: port_filter(ports),
                scope: scope.clone(),
                rooms: BTreeSet::new(),
                has_rooms: false,
            },
            others: Others::default(),
            families: (false, false),
            cookies_at_start: cookies_sent(),
        })
    }

    /// News of sockets that end. `None`: the kernel does not tell this process, or the listeners are
    /// in another network namespace, which the news would keep alive.
    pub(crate) fn ends(&self) -> Option<Ends> {
        match &self.netns {
            None => Ends::open(self.own.netns).ok(),
            Some(_) => None,
        }
    }

    /// Whether SYNs to the listeners have ever been answered with cookies.
    pub(crate) fn ever_sent_cookies(&self) -> bool {
        self.cookies_at_start.is_some_and(|sent| sent > 0)
    }

    /// Whether they have since [`Sockets::new`] or [`Sockets::look_in`].
    pub(crate) fn sent_cookies_meanwhile(&self) -> bool {
        let now = match &self.netns {
            None => cookies_sent(),
            Some(netns) => cookies_sent_before(netns).unwrap_or_default(),
        };
        now > self.cookies_at_start
    }

    /// The listeners on all ports of this process's own network namespace, but for rooms.
    ///
    /// # Errors
    /// The kernel does not list its sockets.
    pub(crate) fn all_listeners(&mut self) -> Result<Vec<Listener>> {
        let all = Watched {
            ports: PortSet::all(),
            filter: Vec::new(),
            scope: Scope::default(),
            rooms: BTreeSet::new(),
            has_rooms: false,
        };
        let mut found = self.own.listeners(&all, 0, |_| ())?;
        self.others.hide(&mut found);
        Ok(found)
    }

    /// Connections that have not finished, in this process's own network namespace.
    pub(crate) fn unfinished(&mut self) -> Result<Vec<Connection>> {
        self.connections(UNFINISHED, |row| row.unfinished())
    }

    /// The same, and those whose end may never come: half-open ones of any age, and those that the
    /// service has closed. Not those in TIME_WAIT.
    pub(crate) fn connections_left(&mut self) -> Result<Vec<Connection>> {
        self.connections(UNFINISHED, |row| Some(row.connection()))
    }

    /// Connections that no process has accepted, and that their clients have not closed.
    ///
    /// # Errors
    /// The kernel does not list its sockets.
    pub(crate) fn unaccepted(&mut self) -> Result<Vec<Connection>> {
        let waits = |row: &SocketRow| (row.inode == 0).then(|| row.connection());
        self.connections(1 << ESTABLISHED, waits)
    }

    /// Those of these listeners that are open: rooms, which looks do not show.
    ///
    /// # Errors
    /// The kernel does not list its sockets, or the network namespace can't be entered.
    pub(crate) fn rooms(&mut self, cookies: &[u64]) -> Result<Vec<Listener>> {
        let cookies: BTreeSet<&u64> = cookies.iter().collect();
        let watched = &self.watched;
        let mut found = match &self.netns {
            None => self.own.listeners(watched, 0, |_| ())?,
            Some(netns) => netns.within(|| View::open()?.listeners(watched, 0, |_| ()))??,
        };
        found.retain(|listener| cookies.contains(&listener.id.cookie));
        Ok(found)
    }

    fn connections(
        &mut self,
        states: u32,
        which: impl Fn(&SocketRow) -> Option<Connection>,
    ) -> Result<Vec<Connection>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.own.dump(&self.watched, family, states, 0, |row| {
                found.extend(which(row));
            })?;
        }
        Ok(found)
    }
}

impl Looks for Sockets {
    fn look(&mut self, want: Want) -> Result<Sample> {
        let (watched, families) = (&self.watched, self.families);
        let mut sample = match &self.netns {
            None => self.own.look(watched, families, want)?,
            // The thread that enters the namespace opens the netlink socket and closes it.
            Some(netns) => match netns.within(|| View::open()?.look(watched, families, want)) {
                Ok(sample) => sample?,
                Err(NoEntry::Missing(_)) => return Ok(Sample::default()),
                Err(refused) => return Err(refused.into()),
            },
        };
        let mut has_rooms = self.others.hide(&mut sample.listeners);
        if want.holders {
            let inodes: Vec<u32> = sample.listeners.iter().map(|l| l.inode).collect();
            sample.holders = holders::find(&inodes);
            // No process holds a room: one may have come.
            if !holders::all_held(&inodes, &sample.holders) {
                self.others.forget();
                has_rooms |= self.others.hide(&mut sample.listeners);
            }
        }
        self.watched.has_rooms |= has_rooms;
        for listener in &sample.listeners {
            match listener.address {
                IpAddr::V4(_) => self.families.0 = true,
                IpAddr::V6(_) => self.families.1 = true,
            }
        }
        if want.half_open && self.watched.rooms.is_empty() {
            sample.cookies_sent = self.sent_cookies_meanwhile();
        }
        Ok(sample)
    }

    fn syn_limits(&self) -> SynLimits {
        match &self.netns {
            None => syn_limits(),
            Some(netns) => netns.within(syn_limits).unwrap_or(SYN_LIMITS),
        }
    }

    fn half_open(&mut self) -> Result<Vec<Connection>> {
        self.connections(1 << SYN_RECV, |row| Some(row.connection()))
    }

    fn closed_by_service(&mut self, connections: &[SocketId]) -> Result<usize> {
        let (mut ids, watched) = (connections.iter().collect(), &self.watched);
        match &self.netns {
            None => self.own.forget_open(watched, &mut ids)?,
            // With the network namespace its connections have gone.
            Some(netns) => match netns.within(|| View::open()?.forget_open(watched, &mut ids)) {
                Ok(done) => done?,
                Err(NoEntry::Missing(_)) => (),
                Err(refused) => return Err(refused.into()),
            },
        }
        Ok(ids.len())
    }

    fn look_in(&mut self, netns: &Netns) -> Result<(), NoEntry> {
        let netns = netns.settled()?;
        self.cookies_at_start = cookies_sent_before(&netns)?;
        self.netns = Some(netns);
        Ok(())
    }

    fn hide_rooms(&mut self, cookies: &[u64]) {
        self.watched.rooms = cookies.iter().copied().collect();
        self.watched.has_rooms |= !cookies.is_empty();
    }

    fn netns(&self) -> Option<&Netns> {
        self.netns.as_ref()
    }
}

/// The cookies of listeners in another network namespace, and those that SYNPROXY has sent on the way
/// there.
fn cookies_sent_before(netns: &Netns) -> Result<Option<u64>, NoEntry> {
    let on_the_way = answered_by_synproxy();
    let there = netns.within(cookies_sent)?;
    Ok(there.map(|sent| sent + on_the_way))
}

impl Watched {
    fn means(&self, row: &SocketRow) -> bool {
        self.ports.contains(row.port) && self.scope.reaches(row.address)
    }

    /// Whether a process has accepted the connection, or will: rooms have no such connections.
    fn counts(&self, row: &SocketRow) -> bool {
        !self.has_rooms || row.inode != 0
    }

    /// A wildcard listener of an IP version that is not gated belongs to another service, too.
    fn means_listener(&self, listener: &Listener) -> bool {
        let mut gated = Family::ALL.into_iter().filter(|f| self.scope.gates(*f));
        gated.any(|family| listener.serves(family))
    }
}

impl View {
    /// Opens it in the namespace of this thread. It stays there when the thread leaves.
    fn open() -> Result<View> {
        Ok(View {
            socket: Netlink::open(Bus::SockDiag)
                .context("the kernel's sock_diag is needed to see listeners")?,
            netns: netns::identity(),
        })
    }

    /// Half-open connections first: a connection moves from SYN_RECV to the accept queue (LISTEN) to
    /// the process. A look at its next place first would miss it.
    fn look(&mut self, watched: &Watched, families: (bool, bool), want: Want) -> Result<Sample> {
        let mut sample = Sample::default();
        if want.half_open || want.handshakes {
            self.count_connections(watched, families, want.connections, &mut sample)?;
        }
        let extra = if want.holders { INET_DIAG_INFO } else { 0 };
        let (netns, keyed) = (self.netns, &mut sample.keyed);
        sample.listeners = self.listeners(watched, extra, |row| {
            keyed.extend(row.has_keys().then(|| row.id(netns)));
        })?;
        Ok(sample)
    }

    fn listeners(
        &mut self,
        watched: &Watched,
        extra: u16,
        mut each: impl FnMut(&SocketRow),
    ) -> Result<Vec<Listener>> {
        let mut found = Vec::new();
        let netns = self.netns;
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.dump(watched, family, 1 << LISTEN, extra, |row| {
                each(row);
                found.extend(row.listener(netns));
            })?;
        }
        found.retain(|listener| watched.means_listener(listener));
        let all = found.len();
        found.retain(|listener| !watched.rooms.contains(&listener.id.cookie));
        // As long as a room is open, connections that nobody has accepted move there.
        if found.len() < all {
            found
                .iter_mut()
                .for_each(|listener| listener.accept_queue = 0);
        }
        Ok(found)
    }

    /// Counts half-open connections, and others if wanted, in one pass: on a host with many connections
    /// the kernel's pass over all of them takes most of the time.
    fn count_connections(
        &mut self,
        watched: &Watched,
        (v4, v6): (bool, bool),
        all: bool,
        sample: &mut Sample,
    ) -> Result<()> {
        // In CLOSE_WAIT the client has sent everything, and may still wait for its answer. Those that
        // are closing tell how far away clients are.
        let (states, extra) = if all {
            (UNFINISHED, INET_DIAG_INFO)
        } else {
            (1 << SYN_RECV, 0)
        };
        let (mut half_open, mut connections) = (HalfOpen::default(), Connections::default());
        let (handshakes, farthest) = (&mut sample.handshakes, &mut sample.farthest);
        let (netns, idle) = (self.netns, &mut sample.idle);
        for (family, listened) in [(libc::AF_INET, v4), (libc::AF_INET6, v6)] {
            if !listened {
                continue; // Without a listener of that family there are no connections.
            }
            self.dump(watched, family, states, extra, |row| {
                if !watched.counts(row) {
                    return;
                }
                if let Some(round_trip) = row.round_trip() {
                    *farthest = round_trip.max(*farthest);
                }
                if row.state != SYN_RECV {
                    // The host's own connections to others may have a gated port here.
                    let counts = [ESTABLISHED, CLOSE_WAIT].contains(&row.state);
                    if !counts || row.is_outgoing() {
                        return;
                    }
                    connections.established += 1;
                    match row.is_busy() {
                        true => connections.busy += 1,
                        false => idle.push(row.id(netns)),
                    }
                    return;
                }
                let at = (row.address.to_canonical(), row.port);
                let here = handshakes.entry(at).or_default();
                for count in [here, &mut half_open] {
                    match row.handshake() {
                        Handshake::Young => count.young += 1,
                        Handshake::Slow => count.slow += 1,
                        Handshake::Stale => count.stale += 1,
                    }
                }
            })?;
        }
        sample.half_open = half_open;
        sample.connections = all.then_some(connections);
        Ok(())
    }

    /// Takes those of these connections away that are open, or whose client was the first to close.
    fn forget_open(&mut self, watched: &Watched, ids: &mut HashSet<&SocketId>) -> Result<()> {
        let (states, netns) = (
            1 << ESTABLISHED | 1 << CLOSE_WAIT | 1 << LAST_ACK,
            self.netns,
        );
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.dump(watched, family, states, 0, |row| {
                ids.remove(&row.id(netns));
            })?;
        }
        Ok(())
    }

    /// Calls `each` with every watched socket of that family in one of `states` (a mask).
    fn dump(
        &mut self,
        watched: &Watched,
        family: libc::c_int,
        states: u32,
        extra: u16,
        mut each: impl FnMut(&SocketRow),
    ) -> Result<()> {
        let filter = &watched.filter;
        dump(&mut self.socket, family, states, extra, filter, |row| {
            if watched.means(row) {
                each(row);
            }
        })
    }
}

/// Calls `each` with every TCP socket of that family in one of `states` (a mask) that the filter lets
/// through. An empty filter lets all through.
pub(super) fn dump(
    socket: &mut Netlink,
    family: libc::c_int,
    states: u32,
    extra: u16,
    filter: &[u8],
    mut each: impl FnMut(&SocketRow),
) -> Result<()> {
    let body = request(family as u8, states, extra, filter);
    let dump = libc::NLM_F_DUMP as u16;
    socket
        .request(SOCK_DIAG_BY_FAMILY, dump, &body, |_, payload| {
            if let Some(row) = SocketRow::parse(payload) {
                each(&row);
            }
        })
        .context("the kernel does not list its TCP sockets (is tcp_diag missing?)")
}

/// `struct inet_diag_req_v2` and the filter, if it is not empty.
fn request(family: u8, states: u32, extra: u16, filter: &[u8]) -> Vec<u8> {
    let extensions = if extra == 0 { 0 } else { 1u8 << (extra - 1) };
    let mut body = vec![family, libc::IPPROTO_TCP as u8, extensions, 0];
    body.extend(states.to_ne_bytes());
    body.resize(8 + 48, 0); // struct inet_diag_sockid: any socket
    if !filter.is_empty() {
        put_attribute(&mut body, INET_DIAG_REQ_BYTECODE, filter);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_the_filter() {
        // The kernel refuses programs that it can't verify: 64 ranges are fine.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let many: PortSet = (1..=125).step_by(2).chain([port]).collect();
        let mut sockets = Sockets::new(&many, &Scope::default()).unwrap();
        let want = Want {
            half_open: true,
            handshakes: true,
            connections: true,
            holders: true,
        };
        let sample = sockets.look(want).unwrap();
        let found = sample.listeners.iter().find(|l| l.port == port).unwrap();
        assert_eq!(found.address, "127.0.0.1".parse::<IpAddr>().unwrap());
        assert!(sample.holders.contains_key(&(std::process::id() as i32)));
    }
}

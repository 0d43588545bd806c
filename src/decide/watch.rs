//! What has become of the listeners that one service had on one port.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::decide::readiness::{Readiness, all_covered, has_group, is_covered, readiness};
use crate::decide::services::{services, shares};
use crate::kernel::sockets::holders::Holders;
use crate::kernel::sockets::{Listener, Sample, SocketId};
use crate::words::gated::Gated;
use crate::words::ports::PortSet;

#[derive(Debug)]
pub(super) struct Watch {
    /// The gated ports that these listeners serve.
    pub(super) ports: PortSet,
    /// The service that listened before. `None`: nobody listened on this port.
    pub(super) service: Option<usize>,
    pub(super) before: Vec<Listener>,
    pub(super) now: Vec<Listener>,
    pub(super) readiness: Readiness,
    /// Anybody listens on the port.
    pub(super) port_is_served: bool,
    /// An address that had a listener has none now.
    pub(super) misses_places: bool,
    /// When a new process began to listen.
    pub(super) up_since: Option<Instant>,
    pub(super) seen: Fingerprint,
    pub(super) changed_at: Instant,
    pub(super) ever_changed: bool,
    /// More than a newborn process: a restart or a reload has at least begun.
    pub(super) begun: bool,
    /// New processes have taken the place of the old ones.
    pub(super) handed_over: bool,
    /// The processes that held the listeners before.
    held_by: Vec<(i32, u64)>,
    /// How many of its addresses had no listener, at the least, while nothing showed that COMMAND is done.
    missed_in_doubt: Option<usize>,
    /// Connections that waited in accept queues of listeners at the last look before these ended. The
    /// kernel resets those that nobody has accepted (inet_csk_listen_stop()).
    pub(super) unaccepted: u32,
}

/// The sockets, and their processes by pid and start time.
type Fingerprint = (Vec<SocketId>, Vec<(i32, u64)>);

impl Watch {
    pub(super) fn new(
        ports: PortSet,
        service: Option<usize>,
        before: Vec<Listener>,
        holders: &Holders,
        now: Instant,
    ) -> Watch {
        let seen = fingerprint(&before, holders);
        Watch {
            ports,
            service,
            held_by: seen.1.clone(),
            seen,
            begun: false,
            handed_over: false,
            missed_in_doubt: None,
            unaccepted: 0,
            now: unqueued(&before),
            before,
            changed_at: now,
            ever_changed: false,
            readiness: Readiness::Unwatched,
            port_is_served: false,
            misses_places: false,
            up_since: None,
        }
    }

    /// Takes in the current listeners. Returns whether they differ from those seen before.
    pub(super) fn compare(
        &mut self,
        now_listening: Vec<Listener>,
        holders: &Holders,
        now: Instant,
    ) -> bool {
        let seen = fingerprint(&now_listening, holders);
        // Not every look asks for holders. Without them only the sockets are compared.
        let same_processes = holders.is_empty() || seen.1 == self.seen.1;
        let changed = seen.0 != self.seen.0 || !same_processes;
        if changed {
            self.changed_at = now;
            self.ever_changed = true;
            self.handed_over |= self.shows_successors(&seen);
            self.begun |= self.handed_over || !self.has_old_sockets(&seen.0);
        }
        if !holders.is_empty() || seen.0 != self.seen.0 {
            self.seen = seen;
        }
        let ended = |old: &&Listener| now_listening.iter().all(|l| l.id != old.id);
        let ended = self.now.iter().filter(ended);
        self.unaccepted += ended.map(|listener| listener.accept_queue).sum::<u32>();
        self.now = now_listening;
        self.readiness = readiness(&self.before, &self.now);
        self.misses_places = !all_covered(&self.before, &self.now);
        let new_process = match self.readiness {
            Readiness::Replaced => true,
            Readiness::Unwatched => !self.now.is_empty(),
            Readiness::Inherited { .. } | Readiness::Waiting => false,
        };
        if !new_process {
            self.up_since = None;
        } else {
            self.up_since.get_or_insert(now);
        }
        changed
    }

    /// New processes prove nothing while the old ones live: a server with a process for each client has
    /// them all the time. One that stays may be what starts the others: nginx's master, or systemd.
    fn shows_successors(&self, (sockets, processes): &Fingerprint) -> bool {
        let left = self.held_by.iter().filter(|p| processes.contains(p));
        let left = left.count();
        let replaced = processes.len() > left && left <= 1 && left < self.held_by.len();
        !sockets.is_empty() && !sockets.iter().any(|id| self.had(id)) || replaced
    }

    /// The listeners that were there before and whose address nobody has now.
    pub(super) fn uncovered(&self) -> impl Iterator<Item = &Listener> {
        let before = self.before.iter();
        before.filter(|old| !is_covered(old, &self.now))
    }

    fn has_old_sockets(&self, sockets: &[SocketId]) -> bool {
        sockets.len() == self.before.len() && sockets.iter().all(|id| self.had(id))
    }

    fn had(&self, socket: &SocketId) -> bool {
        self.before.iter().any(|listener| listener.id == *socket)
    }

    /// These sockets have ended. Returns whether any was one of the listeners.
    pub(super) fn lose(&mut self, ended: &[SocketId], now: Instant) -> bool {
        let mut left = self.now.clone();
        left.retain(|listener| !ended.contains(&listener.id));
        self.compare(left, &Holders::new(), now)
    }

    /// Whether it is known that nothing has become of the listeners and their processes.
    pub(super) fn is_the_same(&self) -> bool {
        !self.ever_changed && !self.held_by.is_empty()
    }

    /// An old listener is still there, and nothing shows that it is a new process's.
    pub(super) fn is_in_doubt(&self) -> bool {
        matches!(self.readiness, Readiness::Inherited { .. }) && !self.handed_over
    }

    /// To be called after each look. A listener that goes from here on goes although COMMAND has exited.
    pub(super) fn note_doubt(&mut self) {
        if self.handed_over {
            self.missed_in_doubt = None;
        } else if self.is_in_doubt() {
            let misses = self.uncovered().count();
            let fewest = self.missed_in_doubt.map_or(misses, |n| n.min(misses));
            self.missed_in_doubt = Some(fewest);
        }
    }

    /// Nothing had shown that COMMAND is done, and now a listener has gone.
    pub(super) fn lost_one_in_doubt(&self) -> bool {
        self.missed_in_doubt
            .is_some_and(|missed| self.uncovered().count() > missed)
    }

    pub(super) fn forget_doubt(&mut self) {
        self.missed_in_doubt = None;
    }

    pub(super) fn has_group(&self) -> bool {
        has_group(&self.before) || has_group(&self.now)
    }
}

/// Nothing is known of their accept queues: the look is from before the drain.
fn unqueued(listeners: &[Listener]) -> Vec<Listener> {
    let mut listeners = listeners.to_vec();
    listeners
        .iter_mut()
        .for_each(|listener| listener.accept_queue = 0);
    listeners
}

pub(super) fn fingerprint(listeners: &[Listener], holders: &Holders) -> Fingerprint {
    let mut sockets: Vec<SocketId> = listeners.iter().map(|l| l.id).collect();
    sockets.sort_unstable();
    let holds = |inodes: &[u32]| listeners.iter().any(|l| inodes.contains(&l.inode));
    let processes = holders
        .iter()
        .filter(|(_, holder)| holds(&holder.inodes))
        .map(|(pid, holder)| (*pid, holder.started))
        .collect();
    (sockets, processes)
}

/// The watches on each port of a listener: one for each service that listened there.
pub(super) type Watches = BTreeMap<u16, Vec<Watch>>;

pub(super) fn watches(before: &Sample, gated: &Gated, now: Instant) -> Watches {
    let mut parts: BTreeMap<(u16, usize), Vec<Listener>> = BTreeMap::new();
    let listeners = before.lasting(&before.sessions);
    let of = services(&listeners, &before.holders);
    for (listener, service) in listeners.iter().zip(of) {
        let part = parts.entry((listener.port, service)).or_default();
        part.push(listener.clone());
    }
    let mut watches = Watches::new();
    for ((port, service), part) in parts {
        let ports = gated.served_by(port);
        let watch = Watch::new(ports, Some(service), part, &before.holders, now);
        watches.entry(port).or_default().push(watch);
    }
    watches
}

/// Takes in the current `listeners`. Returns whether any differ from those seen before.
pub(super) fn take_in(
    watches: &mut Watches,
    listeners: &[Listener],
    holders: &Holders,
    gated: &Gated,
    now: Instant,
) -> bool {
    for listener in listeners {
        watches.entry(listener.port).or_insert_with(|| {
            let ports = gated.served_by(listener.port);
            vec![Watch::new(ports, None, Vec::new(), &Holders::new(), now)]
        });
    }
    let mut changed = false;
    for (port, those) in watches {
        let on_port = |l: &&Listener| l.port == *port;
        let listeners: Vec<Listener> = listeners.iter().filter(on_port).cloned().collect();
        let before: Vec<&[Listener]> = those.iter().map(|watch| &*watch.before).collect();
        let shares = shares(&before, &listeners);
        for (watch, share) in those.iter_mut().zip(shares) {
            watch.port_is_served = !listeners.is_empty();
            changed |= watch.compare(share, holders, now);
        }
    }
    changed
}

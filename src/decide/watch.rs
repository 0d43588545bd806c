//! What has become of the listeners on one port.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::decide::readiness::{Readiness, has_group, readiness, uncovered};
use crate::kernel::sockets::holders::Holders;
use crate::kernel::sockets::{Listener, SocketId};
use crate::words::ports::PortSet;

#[derive(Debug)]
pub(super) struct Watch {
    /// The gated ports that these listeners serve.
    pub(super) ports: PortSet,
    pub(super) before: Vec<Listener>,
    pub(super) now: Vec<Listener>,
    pub(super) readiness: Readiness,
    /// An address that had a listener has none now.
    pub(super) misses_places: bool,
    /// When a new process began to listen.
    pub(super) up_since: Option<Instant>,
    pub(super) seen: Fingerprint,
    pub(super) changed_at: Instant,
    pub(super) ever_changed: bool,
}

/// The sockets, and their processes by pid and start time.
type Fingerprint = (Vec<SocketId>, Vec<(i32, u64)>);

impl Watch {
    pub(super) fn new(
        ports: PortSet,
        before: Vec<Listener>,
        holders: &Holders,
        now: Instant,
    ) -> Watch {
        Watch {
            ports,
            seen: fingerprint(&before, holders),
            now: before.clone(),
            before,
            changed_at: now,
            ever_changed: false,
            readiness: Readiness::Unwatched,
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
        }
        if !holders.is_empty() || seen.0 != self.seen.0 {
            self.seen = seen;
        }
        self.now = now_listening;
        self.readiness = readiness(&self.before, &self.now);
        self.misses_places = !uncovered(&self.before, &self.now).is_empty();
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

    pub(super) fn has_group(&self) -> bool {
        has_group(&self.before) || has_group(&self.now)
    }
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

pub(super) fn by_port(listeners: &[Listener]) -> BTreeMap<u16, Vec<Listener>> {
    let mut ports: BTreeMap<u16, Vec<Listener>> = BTreeMap::new();
    for listener in listeners {
        ports
            .entry(listener.port)
            .or_default()
            .push(listener.clone());
    }
    ports
}

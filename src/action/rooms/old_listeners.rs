//! With `--syn handover`, an old listener stays for some milliseconds when the service has closed it.
//!
//! The kernel resets a client whose handshake ends in the microseconds in which its listener is closed
//! (`inet_csk_reqsk_queue_add()`, net/ipv4/inet_connection_sock.c). A reload without syngate has that, too. So the run
//! has a copy of each old listener. Once no process has that listener any more, new connections go elsewhere. When the
//! handshakes that were under way are over, the run closes its copy, and the kernel moves the connections that wait
//! there.
//!
//! A process may have the listener that the run does not see: to close the copy does that no harm.

use std::time::Instant;

use super::groups::{First, Group, Rooms};
use super::handshakes::HANDSHAKES_FIRST;
use super::old_listener::OldListener;
use crate::kernel::sockets::Listener;
use crate::kernel::sockets::holders::{self, Holders};

/// The most old listeners of one address that a run has copies of: each is an open file of the run's, and of its guard's.
pub(crate) const MOST_COPIES: usize = 256;

impl Group {
    /// The run has copies of these from now on, which are the group's, where the service comes first.
    pub(super) fn outlasting(
        mut self,
        first: First,
        listeners: &[&Listener],
        holders: &Holders,
    ) -> Group {
        if first == First::Service {
            let listeners = listeners.iter().take(MOST_COPIES);
            let copies = listeners.filter_map(|l| OldListener::of(l, holders));
            self.old = copies.collect();
        }
        self
    }

    /// New connections no longer go to the old listeners that no process has any more. Returns these.
    fn leave_closed(&mut self) -> Vec<OldListener> {
        let Some(preferred) = &self.preferred else {
            return Vec::new();
        };
        let is_old = |cookie| self.old.iter().any(|old| old.cookie == cookie);
        let is_served_anew = preferred.knows_one(|cookie| !is_old(cookie));
        let old = std::mem::take(&mut self.old).into_iter();
        let (mut closed, mut open): (Vec<OldListener>, Vec<_>) =
            old.partition(OldListener::is_closed);
        // Another process may have it by now. A look at all of them takes long, and where a new listener gets new
        // connections nobody waits for it.
        if !is_served_anew && !closed.is_empty() {
            let inodes: Vec<u32> = closed.iter().map(|old| old.inode).collect();
            let holders = holders::find_newest(&inodes);
            closed.iter_mut().for_each(|old| old.held_by(&holders));
            let (gone, moved): (Vec<_>, Vec<_>) =
                closed.into_iter().partition(OldListener::is_closed);
            open.extend(moved);
            closed = gone;
        }
        closed.iter().for_each(|old| preferred.leave(old.cookie));
        self.old = open;
        closed
    }

    /// The run has no copies any more.
    pub(super) fn close_copies(&mut self) {
        self.old.drain(..).for_each(OldListener::close);
    }
}

impl Rooms {
    /// Whether the run has copies of old listeners.
    pub(crate) fn outlasts_any(&self) -> bool {
        self.groups.iter().any(|group| !group.old.is_empty())
    }

    /// Closes the copies of the old listeners that no process has any more, when their handshakes are over. Returns
    /// whether there were some.
    pub(crate) fn let_old_ones_close(&mut self) -> bool {
        let closed = self.groups.iter_mut().flat_map(Group::leave_closed);
        let closed: Vec<OldListener> = closed.collect();
        let any = !closed.is_empty();
        if any {
            self.let_noted_end(Instant::now() + HANDSHAKES_FIRST);
        }
        closed.into_iter().for_each(OldListener::close);
        any
    }
}

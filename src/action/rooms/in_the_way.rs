//! The service has come back in another SO_REUSEPORT group: on another address or IP version, or on no device any
//! more. The kernel can't move the waiting connections there. It gives new connections to the rooms all the same, as
//! long as it prefers their place to the new listener's. So syngate closes the rooms at once: the kernel resets the
//! waiting connections, and all others are served.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::groups::{Group, Rooms};
use super::note::Note;
use crate::decide::service::SETTLE_PLACES;
use crate::kernel::room::Place;
use crate::kernel::sockets::{Listener, Sample};

/// How long a listener elsewhere is to be there: the one at the rooms' own place may be bound a moment later.
pub(crate) const MOVED_FOR: Duration = Duration::from_millis(2);
/// A listener of `syngate keep`'s that was there for so long before the others have gone does not take their place.
pub(crate) const RELOADS_WITHIN: Duration = Duration::from_secs(10);

impl Rooms {
    /// Looks whether rooms keep new connections from the service, and closes these.
    pub(crate) fn give_way(&mut self) {
        if let Ok(there) = self.look(false) {
            self.clear_the_way(&there);
        }
    }

    /// The same after a look. The kernel resets the connections that wait there.
    pub(super) fn clear_the_way(&mut self, there: &Sample) {
        for number in self.in_the_way(there) {
            if self.groups[number].is_open() {
                self.shut_unserved(number);
            }
        }
    }

    /// The groups whose rooms keep new connections from the service. To be called at each look.
    pub(crate) fn in_the_way(&mut self, there: &Sample) -> Vec<usize> {
        let now = Instant::now();
        self.note_comers(there, now);
        let mut by_port: BTreeMap<u16, Vec<&Listener>> = BTreeMap::new();
        for listener in &there.listeners {
            by_port.entry(listener.port).or_default().push(listener);
        }
        let mut found = Vec::new();
        for number in 0..self.groups.len() {
            let group = &mut self.groups[number];
            let listeners = by_port.get(&group.place.port);
            let listeners = listeners.map_or(&[][..], Vec::as_slice);
            if listeners.iter().any(|l| group.place.is_of(l)) {
                (group.deserted, group.gave_way) = (None, false);
                continue;
            }
            let deserted = *group.deserted.get_or_insert(now);
            let group = &self.groups[number];
            let moves = listeners.iter();
            let moves: Vec<Instant> = moves
                .filter_map(|l| self.moves_at(group, l, deserted))
                .collect();
            found.extend(moves.iter().any(|at| now >= *at).then_some(number));
            self.groups[number].gave_way &= !moves.is_empty();
        }
        found
    }

    /// For the guard of a keep: these were there before.
    pub(super) fn know_listeners(&mut self) {
        let noted = self.note.as_ref().filter(|_| self.keeps.is_some());
        for cookie in noted.map(Note::listeners).unwrap_or_default() {
            self.comers.entry(cookie).or_insert(None);
        }
    }

    fn note_comers(&mut self, there: &Sample, now: Instant) {
        let before = std::mem::take(&mut self.comers);
        // Who comes where no rooms are gets some.
        let known = self.groups.is_empty();
        let first_seen = |listener: &Listener| {
            let cookie = listener.id.cookie;
            let came = (!known && self.is_new(listener)).then_some(now);
            (cookie, before.get(&cookie).copied().unwrap_or(came))
        };
        self.comers = there.listeners.iter().map(first_seen).collect();
    }

    /// When the rooms of a group are in the way of that listener, if it is the service's and nobody listens in the
    /// group; `deserted`: since when.
    fn moves_at(&self, group: &Group, listener: &Listener, deserted: Instant) -> Option<Instant> {
        let came = (*self.comers.get(&listener.id.cookie)?)?;
        // A run is for one restart, and a keep for all of them.
        let is_recent = self.keeps.is_none() || came + RELOADS_WITHIN >= deserted;
        // Another user who listens there meanwhile is not the service.
        let is_its = || listener.uid == group.place.uid || self.admitted.has(listener.cgroup);
        let moves =
            came > group.made_at && is_recent && group.place.is_before(listener) && is_its();
        moves.then(|| match self.had_both(&Place::of(listener), came) {
            true => came.max(deserted) + SETTLE_PLACES,
            false => came + MOVED_FOR,
        })
    }

    /// The service listened there as well, before that listener came. So it may come back in the group, too.
    fn had_both(&self, place: &Place, came: Instant) -> bool {
        let mut groups = self.groups.iter();
        let mut alone = self.left_alone.iter();
        groups.any(|other| other.place == *place && other.made_at < came)
            || alone.any(|alone| alone.place == *place)
    }

    fn shut_unserved(&mut self, number: usize) {
        let Ok(there) = self.look(false) else {
            return;
        };
        if self.is_served(&self.groups[number], &there) {
            return;
        }
        if let Some(portions) = &mut self.groups[number].letting_go {
            portions.seen = false;
        }
        self.follow(&there);
        self.hand_one_over(number, &there);
        self.await_handshakes();
        self.groups[number].gave_way = true;
    }
}

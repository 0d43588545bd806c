//! Where clients waited since nobody listened, as in a restart. `--syn handover` is for reloads.

use std::collections::BTreeSet;

use super::groups::Rooms;
use crate::kernel::room::Place;

#[derive(Debug, Default)]
pub(crate) struct Gap {
    places: BTreeSet<Place>,
}

impl Gap {
    /// Looks only if somebody waits: the run does that each millisecond.
    pub(crate) fn note(&mut self, rooms: &mut Rooms) {
        let waits = |place: &Place| !self.places.contains(place);
        let groups = rooms.groups.iter();
        let waiting = groups.filter(|group| waits(&group.place) && group.waiting() > 0);
        let waiting: Vec<Place> = waiting.map(|group| group.place.clone()).collect();
        if waiting.is_empty() {
            return;
        }
        if let Ok(there) = rooms.look(false) {
            let is_served = |place: &Place| there.listeners.iter().any(|l| place.is_of(l));
            let deserted = waiting.into_iter().filter(|place| !is_served(place));
            self.places.extend(deserted);
        }
    }

    /// Those of them where other listeners are now than before. A reload that fails may have stopped listening
    /// for a time.
    pub(crate) fn of_restarts(&self, rooms: &mut Rooms) -> Vec<String> {
        if self.places.is_empty() {
            return Vec::new();
        }
        let there = rooms.look(false).unwrap_or_default();
        let is_new = |place: &&Place| {
            let listeners = there.listeners.iter().filter(|l| place.is_of(l));
            let cookies: Vec<u64> = listeners.map(|l| l.id.cookie).collect();
            !cookies.is_empty() && cookies.iter().all(|cookie| !rooms.old.contains(cookie))
        };
        let places = self.places.iter().filter(is_new);
        places.map(Place::shown).collect()
    }
}

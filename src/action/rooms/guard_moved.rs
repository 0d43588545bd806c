//! For the guard of a dead keep: where the service has gone elsewhere, as the keep would see it.

use std::collections::BTreeMap;
use std::time::Instant;

use super::groups::Rooms;
use super::moved::{Before, Leaves};
use super::note::Note;
use crate::kernel::room::Place;
use crate::kernel::sockets::{Listener, Sample};
use crate::words::ports::PortSet;

/// What the guard's looks have shown of the places.
#[derive(Debug, Default)]
pub(super) struct Moves {
    before: Before,
    /// The control groups of the listeners: until a look has shown one, of the rooms, which are in the same.
    control_groups: BTreeMap<Place, u64>,
    leaves: BTreeMap<Place, Leaves>,
}

impl Moves {
    /// As the guard takes over: the listeners that the note tells of were there before.
    pub(super) fn begin(rooms: &mut Rooms) -> Moves {
        let mut moves = Moves::default();
        for room in rooms.open_rooms().unwrap_or_default() {
            let group = room.cgroup.map(|id| (Place::of(&room), id));
            moves.control_groups.extend(group);
        }
        let noted = rooms.note.as_ref().map(Note::listeners).unwrap_or_default();
        let there = rooms.look(false).unwrap_or_default();
        let known = there.listeners.iter();
        let known = known.filter(|l| noted.contains(&l.id.cookie));
        moves.before.note(known, Instant::now());
        moves
    }

    /// To be called at each look. Returns the groups whose service has gone elsewhere.
    pub(super) fn see(&mut self, rooms: &Rooms, there: &Sample) -> Vec<usize> {
        let now = Instant::now();
        let mut found = Vec::new();
        let mut missed = PortSet::EMPTY;
        for (number, group) in rooms.groups.iter().enumerate() {
            let place = &group.place;
            let mut listeners = there.listeners.iter();
            if let Some(listener) = listeners.find(|l| place.is_of(l)) {
                self.leaves.remove(place);
                let id = listener.cgroup.map(|id| (place.clone(), id));
                self.control_groups.extend(id);
                continue;
            }
            missed = missed.union(&[place.port].into_iter().collect());
            let control_group = self.control_groups.get(place).copied();
            let to = self.before.gone_to(place, control_group, &there.listeners);
            let leaves = self.leaves.entry(place.clone()).or_default();
            leaves.see(to, now);
            if group.is_open() && leaves.is_over(now).is_some() {
                found.push(number);
            }
        }
        let is_known = |l: &&Listener| {
            let mut groups = rooms.groups.iter();
            groups.any(|group| group.place.port == l.port) && !missed.contains(l.port)
        };
        self.before
            .note(there.listeners.iter().filter(is_known), now);
        found
    }
}

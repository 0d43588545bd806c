//! How long those have waited who wait in rooms: since a look has shown their room empty for the last time. What is told
//! is too long by the time between two looks at most. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct Waits {
    /// When each room was empty, by its cookie.
    empty: BTreeMap<u64, Instant>,
}

impl Waits {
    /// These rooms are empty.
    pub(super) fn are_empty(&mut self, rooms: &[u64], at: Instant) {
        self.empty.extend(rooms.iter().map(|room| (*room, at)));
    }

    /// A look that began `at` this time has shown this number of waiting connections in a room.
    pub(super) fn saw(&mut self, room: u64, waiting: usize, at: Instant) {
        if waiting == 0 {
            self.are_empty(&[room], at);
        }
    }

    /// How long the one has waited that came first, if anybody waits in that room.
    pub(super) fn longest(&self, room: u64, now: Instant) -> Duration {
        let empty = self.empty.get(&room);
        empty.map_or(Duration::ZERO, |at| now.saturating_duration_since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_begins_where_the_room_was_empty_for_the_last_time() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut waits = Waits::default();
        assert_eq!(waits.longest(1, start), Duration::ZERO);
        waits.are_empty(&[1, 2], start);
        waits.saw(1, 0, after(700));
        waits.saw(1, 1, after(705));
        waits.saw(2, 0, after(705));
        waits.saw(1, 3, after(900));
        let longest = |room| waits.longest(room, after(1_000)).as_millis();
        assert_eq!((longest(1), longest(2)), (300, 295));
        assert_eq!(waits.longest(1, start), Duration::ZERO);
    }
}

//! What became of those who waited, in numbers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What became of those who waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub handed_over: usize,
    /// Nobody listened when the rooms were shut.
    pub reset: usize,
    /// Too many waited.
    pub no_room: usize,
    /// No connection waited longer.
    pub longest: Duration,
    /// Handing them over took so long, in the group in which it took longest.
    pub release: Duration,
}

/// What a guard has done that took the run for dead.
pub(crate) struct Acted {
    pub figures: Figures,
    /// A sentence about that, unless the run has told it.
    pub words: Option<String>,
}

impl Figures {
    pub(crate) fn add(&mut self, more: Figures) {
        self.handed_over += more.handed_over;
        self.reset += more.reset;
        self.no_room += more.no_room;
        self.longest = self.longest.max(more.longest);
        self.release = self.release.max(more.release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waited_in_several_rooms_is_added() {
        let of = |handed_over, reset, no_room, ms| Figures {
            handed_over,
            reset,
            no_room,
            longest: Duration::from_millis(ms),
            release: Duration::from_millis(ms / 10),
        };
        let mut all = of(2, 3, 5, 70);
        all.add(of(7, 11, 13, 50));
        assert_eq!(all, of(9, 14, 18, 70));
    }
}

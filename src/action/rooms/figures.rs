//! What became of the connections that waited, in numbers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What became of the connections that waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub handed_over: usize,
    /// Nobody listened when the rooms were closed.
    pub reset: usize,
    /// The same, and their clients had closed them before, as far as `syngate keep` looks at that.
    #[serde(default)]
    pub left: usize,
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
    /// Of the connections that were reset, so many had left.
    pub(crate) fn tell_apart(&mut self, left: usize) {
        let left = left.min(self.reset);
        self.reset -= left;
        self.left += left;
    }

    /// How many have waited.
    pub(crate) fn waited(&self) -> usize {
        self.handed_over + self.reset + self.left
    }

    pub(crate) fn add(&mut self, more: Figures) {
        self.handed_over += more.handed_over;
        self.reset += more.reset;
        self.left += more.left;
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
            left: 0,
            longest: Duration::from_millis(ms),
            release: Duration::from_millis(ms / 10),
        };
        let mut all = of(2, 3, 5, 70);
        all.add(of(7, 11, 13, 50));
        assert_eq!(all, of(9, 14, 18, 70));
    }

    #[test]
    fn who_has_left_was_not_reset() {
        let mut figures = Figures {
            handed_over: 1,
            reset: 3,
            ..Figures::default()
        };
        figures.tell_apart(2);
        assert_eq!((figures.reset, figures.left, figures.waited()), (1, 2, 4));
        figures.tell_apart(5);
        assert_eq!((figures.reset, figures.left, figures.waited()), (0, 3, 4));
        let mut all = figures;
        all.add(figures);
        assert_eq!((all.left, all.waited()), (6, 8));
    }
}

//! What still moves after the release: handshakes that a closed listener has begun. Each moves when its client's ACK
//! comes, and only if the group has a program then. Pure.

use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(super) struct Moving {
    /// The cookies of handshakes that were under way as a listener closed, or a room was closed.
    handshakes: BTreeSet<u64>,
    /// The cookies of the service's listeners at the last look.
    listeners: BTreeSet<u64>,
}

impl Moving {
    /// Returns whether one of them has closed since the last look.
    pub(super) fn note_listeners(&mut self, there: BTreeSet<u64>) -> bool {
        let before = std::mem::replace(&mut self.listeners, there);
        !before.is_subset(&self.listeners)
    }

    /// These are under way now.
    pub(super) fn add(&mut self, handshakes: impl Iterator<Item = u64>) {
        self.handshakes.extend(handshakes);
    }

    /// Returns how many of those that were noted are among the ones that are under way now.
    pub(super) fn keep(&mut self, now: impl Iterator<Item = u64>) -> usize {
        let now: BTreeSet<u64> = now.collect();
        self.handshakes.retain(|one| now.contains(one));
        self.handshakes.len()
    }

    pub(super) fn is_over(&self) -> bool {
        self.handshakes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_comes_is_none_that_has_closed() {
        let mut moving = Moving::default();
        let mut has_closed = |there: &[u64]| moving.note_listeners(there.iter().copied().collect());
        assert!(!has_closed(&[1]));
        assert!(!has_closed(&[1, 2]));
        assert!(has_closed(&[2]));
        assert!(has_closed(&[3]), "one has come at the same time");
        assert!(!has_closed(&[3]));
    }

    #[test]
    fn only_those_that_were_noted_are_waited_for() {
        let mut moving = Moving::default();
        assert!(moving.is_over());
        moving.add([1, 2, 3].into_iter());
        assert_eq!(moving.keep([2, 3, 4].into_iter()), 2);
        assert_eq!(moving.keep([1, 2].into_iter()), 1, "1 was over before");
        assert!(!moving.is_over());
        assert_eq!(moving.keep(std::iter::empty()), 0);
        assert!(moving.is_over());
    }
}

//! When a listener whose backlog is longer than its own has that back. Pure.

use std::time::Instant;

use super::policy::KEEPS_UP;
use crate::words::count::counted_does;

/// A listener with a longer backlog than its own.
#[derive(Debug)]
pub(super) struct Raised {
    pub cookie: u64,
    pub own: u32,
    /// The one that it was given.
    pub set: u32,
    /// How many waited to be accepted at the last look.
    pub queue: u32,
    empty_since: Option<Instant>,
}

impl Raised {
    pub(super) fn new(cookie: u64, own: u32, set: u32) -> Raised {
        Raised {
            cookie,
            own,
            set,
            queue: 0,
            empty_since: None,
        }
    }

    /// Given a longer one again, where it had this `before`: its own, if the service has called listen(2) meanwhile.
    pub(super) fn raise_again(&mut self, before: u32, set: u32) {
        if before != self.set {
            self.own = before;
        }
        self.set = set;
    }

    /// Why it keeps the longer one. `shown`: where it listens.
    pub(super) fn words(&self, shown: &str) -> String {
        let (own, set) = (self.own, self.set);
        let queued = counted_does(self.queue as usize, "connection", ["waits", "wait"]);
        format!(
            "{queued} in the accept queue of {shown}, more than the service's own backlog of {own}: syngate leaves \
             the longer one of {set} until the service calls listen(2) again"
        )
    }

    /// How many more wait than its own backlog has place for.
    pub(super) fn too_many(&self) -> usize {
        self.queue.saturating_sub(self.own) as usize
    }

    /// Whether its queue was empty for a time. `queue`: how many wait there now.
    pub(super) fn keeps_up(&mut self, queue: u32, now: Instant) -> bool {
        if queue > 0 {
            self.empty_since = None;
            return false;
        }
        now >= *self.empty_since.get_or_insert(now) + KEEPS_UP
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn its_queue_was_empty_for_a_time() {
        let start = Instant::now();
        let mut raised = Raised::new(1, 16, 100);
        let mut at = |after, queue| raised.keeps_up(queue, start + after);
        assert!(!at(Duration::ZERO, 0));
        assert!(!at(KEEPS_UP / 2, 1));
        assert!(!at(KEEPS_UP, 0), "the time begins anew");
        assert!(at(KEEPS_UP * 2, 0));
    }

    #[test]
    fn what_the_service_sets_meanwhile_is_its_own() {
        let mut raised = Raised::new(1, 16, 100);
        raised.raise_again(100, 150);
        assert_eq!((raised.own, raised.set), (16, 150));
        raised.raise_again(500, 550);
        assert_eq!((raised.own, raised.set), (500, 550));
    }
}

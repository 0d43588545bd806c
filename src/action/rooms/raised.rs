//! When a listener whose backlog is longer than its own has that back. Pure.

use std::time::Instant;

use super::policy::KEEPS_UP;
use crate::kernel::sockets::Listener;

/// A listener with a longer backlog than its own.
#[derive(Debug)]
pub(super) struct Raised {
    pub cookie: u64,
    pub own: u32,
    /// How many waited to be accepted at the last look.
    pub queue: u32,
    empty_since: Option<Instant>,
}

impl Raised {
    /// The listener as it was before.
    pub(super) fn new(listener: &Listener) -> Raised {
        Raised {
            cookie: listener.id.cookie,
            own: listener.backlog,
            queue: 0,
            empty_since: None,
        }
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
        let mut raised = Raised {
            cookie: 1,
            own: 16,
            queue: 0,
            empty_since: None,
        };
        let mut at = |after, queue| raised.keeps_up(queue, start + after);
        assert!(!at(Duration::ZERO, 0));
        assert!(!at(KEEPS_UP / 2, 1));
        assert!(!at(KEEPS_UP, 0), "the time begins anew");
        assert!(at(KEEPS_UP * 2, 0));
    }
}

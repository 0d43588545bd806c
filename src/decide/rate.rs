//! `--release-rate`: how many of the waiting connections may be let go by now. Pure.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// What a service could not take for so long is not made up for: that would be a burst.
pub(crate) const MADE_UP_FOR: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// `None`: there is no limit.
    each: Option<Duration>,
    next: Option<Instant>,
}

impl Rate {
    pub(crate) fn new(per_second: Option<NonZeroU32>) -> Rate {
        Rate {
            each: per_second.map(|rate| Duration::from_secs(1) / rate.get()),
            next: None,
        }
    }

    /// How many may go now.
    pub(crate) fn allows(&self, now: Instant) -> usize {
        let Some(each) = self.each else {
            return usize::MAX;
        };
        match now.checked_duration_since(self.next(now)) {
            None => 0,
            Some(late) => 1 + (late.as_nanos() / each.as_nanos()) as usize,
        }
    }

    /// The number of connections that have gone.
    pub(crate) fn spend(&mut self, gone: usize, now: Instant) {
        if let Some(each) = self.each.filter(|_| gone > 0) {
            let gone = u32::try_from(gone).unwrap_or(u32::MAX);
            self.next = Some(self.next(now) + each.saturating_mul(gone));
        }
    }

    /// When the next one may go.
    fn next(&self, now: Instant) -> Instant {
        let earliest = now.checked_sub(MADE_UP_FOR).unwrap_or(now);
        self.next.map_or(now, |next| next.max(earliest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn so_many_a_second_go_and_no_burst() {
        let start = Instant::now();
        let mut rate = Rate::new(NonZeroU32::new(100));
        assert_eq!(rate.allows(start), 1, "the first at once");
        rate.spend(1, start);
        assert_eq!(rate.allows(start + MS * 9), 0);
        assert_eq!(rate.allows(start + MS * 10), 1);
        assert_eq!(rate.allows(start + MS * 35), 3);
        rate.spend(3, start + MS * 35);
        assert_eq!(rate.allows(start + MS * 39), 0);
        assert_eq!(rate.allows(start + MS * 40), 1);
        assert_eq!(
            rate.allows(start + MS * 10_000),
            11,
            "100 ms are made up for"
        );
    }

    #[test]
    fn a_portion_that_was_too_large_is_waited_for() {
        let start = Instant::now();
        let mut rate = Rate::new(NonZeroU32::new(100));
        rate.spend(30, start);
        assert_eq!(rate.allows(start + MS * 299), 0);
        assert_eq!(rate.allows(start + MS * 300), 1);
    }

    #[test]
    fn without_a_limit_all_may_go() {
        let now = Instant::now();
        let mut rate = Rate::new(None);
        rate.spend(1_000, now);
        assert_eq!(rate.allows(now), usize::MAX);
    }
}

//! When the next room is closed, so that the connections that wait there are handed over. Pure.

use std::time::Instant;

use crate::decide::rate::Rate;

/// The connections that wait in a group are being handed over.
#[derive(Debug)]
pub(super) struct Portions {
    pub since: Instant,
    pub rate: Rate,
    /// How many may wait to be accepted from each listener.
    pub longest: u32,
    /// The listeners are seen. Those that can't be are not waited for.
    pub seen: bool,
}

impl Portions {
    /// Whether so many may go now to listeners that have these `queues`, where `gone` have gone a moment ago.
    /// Queues that are empty take any number.
    pub(super) fn may_go(&self, waiting: usize, gone: usize, queues: &[u32], now: Instant) -> bool {
        let queued = queues.iter().sum::<u32>() as usize + gone;
        // The rest is for new connections.
        let most = queues.len() * (self.longest / 4 * 3) as usize;
        let fits = queued == 0 || queued + waiting <= most;
        !queues.is_empty() && fits && self.rate.allows(now) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn portions(rate: u32) -> Portions {
        Portions {
            since: Instant::now(),
            rate: Rate::new(NonZeroU32::new(rate)),
            longest: 128,
            seen: true,
        }
    }

    #[test]
    fn a_quarter_of_the_queues_stays_free() {
        let may = |waiting, gone, queues: &[u32]| {
            portions(0).may_go(waiting, gone, queues, Instant::now())
        };
        assert!(may(64, 0, &[32]));
        assert!(!may(65, 0, &[32]));
        assert!(!may(64, 1, &[32]));
        assert!(may(160, 0, &[32, 0]), "two listeners have twice the place");
        assert!(may(1_000, 0, &[0]), "else they would never go");
        assert!(!may(1_000, 64, &[0]));
        assert!(!may(1, 0, &[]), "nobody listens");
    }

    #[test]
    fn no_more_go_than_the_rate_allows() {
        let now = Instant::now();
        let mut portions = portions(10);
        assert!(portions.may_go(1, 0, &[0], now));
        portions.rate.spend(1, now);
        assert!(!portions.may_go(1, 0, &[0], now));
    }
}

//! What a keep makes of what it sees, and when it looks again. Pure.

use std::time::{Duration, Instant};

/// Interval between looks while the service listens: fewer than ten in a second.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(125);
/// The look after listeners have come or gone: those that are there still get connections from then on.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(40);
/// Interval between looks while somebody waits.
pub(crate) const LOOK_WAITING: Duration = Duration::from_millis(2);
/// The longest interval, where a look is slow.
pub(crate) const LOOK_AT_LEAST: Duration = Duration::from_secs(1);
/// So many addresses that can't be kept are told by name in [`QUIET_FOR`].
pub(crate) const MOST_TOLD: u32 = 8;
pub(crate) const QUIET_FOR: Duration = Duration::from_secs(60);
/// Where a look is slow, the pause after it is this many times as long.
const PAUSE: u32 = 4;

/// What a look has shown of one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sight {
    /// Somebody listens there.
    pub served: bool,
    /// How many connections wait.
    pub waiting: usize,
}

/// What follows from a look at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    Nothing,
    /// Somebody listens again, and nobody waits any more.
    Over {
        since: Instant,
        /// Since when somebody listens.
        listens: Instant,
    },
    /// Nobody has listened for too long: the waiting connections are reset, and the port refuses.
    GiveUp {
        since: Instant,
    },
}

/// One place with rooms.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched {
    gap: Option<Instant>,
    /// Since when somebody listens.
    listens: Option<Instant>,
    /// The last look has shown somebody who waits.
    waits: bool,
}

impl Watched {
    pub(super) fn see(&mut self, sight: Sight, max_wait: Duration, now: Instant) -> News {
        self.waits = sight.waiting > 0;
        let listens = self.listens.unwrap_or(now);
        self.listens = sight.served.then_some(listens);
        match self.gap {
            None if sight.served => News::Nothing,
            Some(since) if !sight.served && now.duration_since(since) >= max_wait => {
                self.gap = None;
                News::GiveUp { since }
            }
            Some(since) if sight.served && !self.waits => {
                self.gap = None;
                News::Over { since, listens }
            }
            _ => {
                self.gap.get_or_insert(now);
                News::Nothing
            }
        }
    }

    /// Whether a connection waits now. `false`: the last look has shown that already.
    pub(super) fn begins_to_wait(&self, waiting: usize) -> bool {
        waiting > 0 && !self.waits
    }

    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    /// Since when nobody listens.
    pub(super) fn gap(&self) -> Option<Instant> {
        self.gap
    }

    pub(super) fn is_in_gap(&self) -> bool {
        self.gap.is_some()
    }
}

/// How many lines of a kind are told, lest another user's listeners fill the journal.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Quota {
    began: Option<Instant>,
    told: u32,
}

impl Quota {
    /// Whether one more may be told, and whether it is the last one for [`QUIET_FOR`].
    pub(super) fn allows(&mut self, now: Instant) -> Option<Last> {
        let began = self.began;
        if began.is_none_or(|began| now.duration_since(began) >= QUIET_FOR) {
            *self = Quota {
                began: Some(now),
                told: 0,
            };
        }
        self.told = self.told.saturating_add(1);
        (self.told <= MOST_TOLD).then_some(Last(self.told == MOST_TOLD))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Last(pub bool);

/// What is known when the next look is to be planned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// How long the last look took.
    pub cost: Duration,
    pub waits: bool,
    /// Listeners have come or gone, and those that are there are not preferred equally yet.
    pub changed: bool,
    /// The last look has failed.
    pub failed: bool,
}

impl Pace {
    /// Whether the next look is to come at once if somebody begins to wait.
    pub(super) fn may_be_woken(self) -> bool {
        !self.waits && !self.failed
    }
}

/// How long after a look the next one is due, if nobody begins to wait before.
pub(super) fn pause(pace: Pace) -> Duration {
    if pace.failed {
        return LOOK_EVERY;
    }
    if pace.waits {
        return LOOK_WAITING.max(pace.cost * PAUSE).min(LOOK_EVERY);
    }
    match pace.changed {
        true => LOOK_AGAIN,
        // With thousands of listeners, a look takes long.
        false => LOOK_EVERY.max((pace.cost * PAUSE).min(LOOK_AT_LEAST)),
    }
}

/// What a signal to stop means for a keep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Stopping {
    #[default]
    No,
    /// Once the service listens, and nobody waits for it.
    WhenServed,
    AtOnce,
}

impl Stopping {
    /// In a gap, connections that wait, and those that still come, wait for the service: another keep can make
    /// rooms only where somebody listens. After a second signal they do not.
    #[must_use]
    pub(super) fn signalled(self) -> Stopping {
        match self {
            Stopping::No => Stopping::WhenServed,
            _ => Stopping::AtOnce,
        }
    }

    pub(super) fn ends(self, in_gap: bool) -> bool {
        match self {
            Stopping::No => false,
            Stopping::WhenServed => !in_gap,
            Stopping::AtOnce => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_WAIT: Duration = Duration::from_secs(30);

    fn sight(served: bool, waiting: usize) -> Sight {
        Sight { served, waiting }
    }

    #[test]
    fn a_gap_lasts_until_somebody_listens_and_nobody_waits() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut place = Watched::default();
        let mut see = |served, waiting, ms| place.see(sight(served, waiting), MAX_WAIT, at(ms));
        assert_eq!(see(true, 0, 0), News::Nothing);
        assert_eq!(see(true, 3, 50), News::Nothing, "they are handed over");
        assert_eq!(see(true, 0, 60), News::Nothing, "no gap");
        assert_eq!(see(false, 0, 100), News::Nothing);
        assert_eq!(see(false, 7, 200), News::Nothing);
        assert_eq!(see(true, 7, 250), News::Nothing, "not handed over yet");
        assert_eq!(see(false, 7, 300), News::Nothing, "it has closed again");
        assert_eq!(see(true, 7, 350), News::Nothing);
        let (since, listens) = (at(100), at(350));
        assert_eq!(see(true, 0, 400), News::Over { since, listens });
        assert_eq!(see(true, 0, 500), News::Nothing);
        assert!(!place.is_in_gap());
    }

    #[test]
    fn who_waits_for_too_long_is_given_up() {
        let start = Instant::now();
        let mut place = Watched::default();
        let mut see = |waiting, after| place.see(sight(false, waiting), MAX_WAIT, start + after);
        assert_eq!(see(0, Duration::ZERO), News::Nothing);
        let moment = Duration::from_millis(1);
        assert_eq!(see(5, MAX_WAIT - moment), News::Nothing);
        assert_eq!(see(5, MAX_WAIT), News::GiveUp { since: start });
        assert_eq!(see(0, MAX_WAIT + moment), News::Nothing, "the next gap");
        let mut at_once = Watched::default();
        let mut see = |ms| {
            let now = start + Duration::from_millis(ms);
            at_once.see(sight(false, 0), Duration::ZERO, now)
        };
        assert_eq!(see(0), News::Nothing);
        assert_eq!(see(1), News::GiveUp { since: start });
    }

    #[test]
    fn so_many_lines_are_told_in_a_time() {
        let start = Instant::now();
        let mut quota = Quota::default();
        let mut allows = |after| quota.allows(start + after);
        for _ in 1..MOST_TOLD {
            assert_eq!(allows(Duration::ZERO), Some(Last(false)));
        }
        assert_eq!(allows(Duration::ZERO), Some(Last(true)));
        let moment = Duration::from_millis(1);
        assert_eq!(allows(QUIET_FOR - moment), None);
        assert_eq!(allows(QUIET_FOR), Some(Last(false)));
    }

    #[test]
    fn whose_wait_begins_is_seen_once() {
        let mut place = Watched::default();
        assert!(!place.begins_to_wait(0) && place.begins_to_wait(1));
        place.see(sight(false, 1), MAX_WAIT, Instant::now());
        assert!(place.waits() && place.is_in_gap() && !place.begins_to_wait(2));
        place.see(sight(true, 0), MAX_WAIT, Instant::now());
        assert!(!place.waits() && place.begins_to_wait(1));
    }

    #[test]
    fn looks_are_seldom_while_nothing_happens() {
        let ms = Duration::from_millis;
        let pace = |waits, changed, cost| Pace {
            cost,
            waits,
            changed,
            failed: false,
        };
        let pause = |waits, changed, cost| super::pause(pace(waits, changed, cost));
        assert_eq!(pause(false, false, ms(1)), LOOK_EVERY);
        assert!(LOOK_EVERY > Duration::from_secs(1) / 10);
        assert_eq!(pause(false, false, ms(50)), ms(200), "where a look is slow");
        assert_eq!(pause(false, false, ms(500)), LOOK_AT_LEAST);
        assert_eq!(pause(false, true, ms(50)), LOOK_AGAIN);
        assert!(LOOK_EVERY + LOOK_AGAIN < ms(200));
        assert_eq!(pause(true, true, Duration::ZERO), LOOK_WAITING);
        assert_eq!(pause(true, false, ms(3)), ms(12), "where a look is slow");
        assert_eq!(pause(true, false, ms(300)), LOOK_EVERY);
        let mut failed = pace(true, true, ms(1));
        failed.failed = true;
        assert_eq!(super::pause(failed), LOOK_EVERY);
    }

    #[test]
    fn who_begins_to_wait_wakes_it_unless_it_looks_by_itself() {
        let wakes = |waits, failed| {
            let (cost, changed) = (Duration::ZERO, true);
            Pace {
                cost,
                waits,
                changed,
                failed,
            }
            .may_be_woken()
        };
        assert!(wakes(false, false) && !wakes(true, false));
        assert!(!wakes(false, true), "somebody may wait all the time");
    }

    #[test]
    fn the_first_signal_lets_those_wait_who_do() {
        let mut stopping = Stopping::default();
        assert!(!stopping.ends(false) && !stopping.ends(true));
        stopping = stopping.signalled();
        assert!(stopping.ends(false) && !stopping.ends(true));
        stopping = stopping.signalled();
        assert!(stopping.ends(true));
        assert_eq!(stopping.signalled(), Stopping::AtOnce);
    }
}

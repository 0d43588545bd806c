//! How often something is looked at.

use std::time::{Duration, Instant};

/// The sockets are looked at this often, or less often where a look is dear: see `pause`.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How much longer than a look the pause after it is: while the service is watched, which may be
/// for long, and while it drains, when the gate is closed and each moment counts.
pub(crate) const WATCH_PAUSE: u32 = 4;
pub(crate) const DRAIN_PAUSE: u32 = 1;

/// Whether anything is under way is not looked at before: a CPU may still run the old rules for a
/// moment after the new ones stand. Afterwards nobody joins those who are, and one look tells.
pub(crate) const QUIET: Duration = Duration::from_millis(5);
/// Where others can remove the gate's rules, it is looked at this often whether they have.
pub(crate) const GUARD_EVERY: Duration = Duration::from_millis(10);

/// Something that is looked at again and again while a port is shut: so often, or less often where
/// a look is dear, since the rest has to get its turn.
#[derive(Debug)]
pub(crate) struct Regular {
    pub(crate) every: Duration,
    pub(crate) next: Instant,
}

impl Regular {
    pub(crate) fn new(every: Duration, now: Instant) -> Regular {
        Regular {
            every,
            next: now + every,
        }
    }

    pub(crate) fn looked(&mut self, cost: Duration, now: Instant) {
        self.next = now + self.every.max(pause(cost, WATCH_PAUSE));
    }
}

/// How long to wait after a look that took `cost`: not long, but so many times as long as that.
pub(crate) fn pause(cost: Duration, times: u32) -> Duration {
    LOOK_EVERY.max(cost * times)
}

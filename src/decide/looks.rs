//! Intervals between looks at the sockets and at the rules.

use std::time::{Duration, Instant};

/// Interval between looks at the sockets. It is longer where a look is slow: see [`pause`].
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(1);

/// While the service is watched, the pause after a look is this many times as long as the look.
/// During the drain it is shorter, because the gate is closed and each moment counts.
pub(crate) const WATCH_PAUSE: u32 = 4;
pub(crate) const DRAIN_PAUSE: u32 = 1;

/// The drain's first look waits this long after the gate was closed. A CPU may apply the old rules
/// for a moment longer. After that no new connection can arrive, so one look is enough.
pub(crate) const QUIET: Duration = Duration::from_millis(5);
/// Interval between checks of the rules, where other programs can remove them.
pub(crate) const GUARD_EVERY: Duration = Duration::from_millis(10);

/// How long after a change of the gated ports that has failed the next look comes, which tries again. The run
/// hears signals meanwhile.
pub(crate) const CHANGE_AGAIN: Duration = Duration::from_millis(100);

/// Interval between looks at the processes that hold a single socket. During such a look the end of
/// the listener would be noticed late.
pub(crate) const HOLDERS_EVERY: Duration = Duration::from_millis(100);

/// A look that is repeated while a port is closed. The interval grows where the look is slow, so that
/// other work gets its turn.
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

/// The pause after a look that took `cost`: `times` as long, and at least [`LOOK_EVERY`].
pub(crate) fn pause(cost: Duration, times: u32) -> Duration {
    LOOK_EVERY.max(cost * times)
}

//! The linger: connections that were steered elsewhere finish there, the gate open, before what
//! steers them goes away. Pure.

use std::time::{Duration, Instant};

/// How often it is looked how many are left.
pub const LINGER_LOOK: Duration = Duration::from_millis(50);
/// None left has to be seen twice, so far apart: a SYN may have been on its way to the standby.
const QUIET: Duration = Duration::from_millis(5);

/// How far it has come.
#[derive(Debug)]
pub struct Linger {
    /// `--linger`.
    timeout: Duration,
    /// When the gate opened.
    since: Option<Instant>,
    next_look: Instant,
    /// At the last look none was left.
    quiet: bool,
    /// Nobody is waited for any more.
    stopped: bool,
    over: bool,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lingered {
    /// How long it took.
    pub took: Duration,
    /// So many had not finished; `None`: that could not be seen.
    pub left: Option<usize>,
    /// Why no longer.
    pub end: LingerEnd,
}

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LingerEnd {
    /// Nobody was left.
    Finished,
    /// `--linger` was over.
    TimedOut,
    /// A second signal.
    Stopped,
}

impl Linger {
    /// For the time after the gate has opened.
    pub fn new(timeout: Duration, now: Instant) -> Linger {
        Linger {
            timeout,
            since: None,
            next_look: now,
            quiet: false,
            stopped: false,
            over: false,
        }
    }

    /// The gate is open, for good.
    pub fn begin(&mut self, now: Instant) {
        if self.since.is_none() {
            self.since = Some(now);
            self.next_look = now;
        }
    }

    /// When it is to be looked how many are left.
    pub fn due(&self) -> Option<Instant> {
        let since = self.since.filter(|_| !self.over)?;
        Some(match self.stopped {
            true => since,
            false => self.next_look.min(since + self.timeout),
        })
    }

    /// So many were left just now; the look took `cost`. What came of it, if that was the last.
    pub fn saw(&mut self, left: Option<usize>, cost: Duration, now: Instant) -> Option<Lingered> {
        let since = self.since?;
        let none = left == Some(0);
        let end = if none && (self.quiet || self.stopped) {
            LingerEnd::Finished
        } else if self.stopped {
            LingerEnd::Stopped
        } else if now >= since + self.timeout {
            LingerEnd::TimedOut
        } else {
            self.quiet = none;
            let pause = if none { QUIET } else { LINGER_LOOK };
            self.next_look = now + pause.max(cost);
            return None;
        };
        self.over = true;
        let took = now - since;
        Some(Lingered { took, left, end })
    }

    /// Nobody is waited for any more, or will be.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Whether it has not ended.
    pub fn goes_on(&self) -> bool {
        !self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn begun() -> (Linger, Instant) {
        let now = Instant::now();
        let mut linger = Linger::new(SECOND, now);
        assert_eq!(linger.due(), None, "the gate is closed");
        linger.begin(now);
        assert_eq!(linger.due(), Some(now));
        (linger, now)
    }

    #[test]
    fn it_ends_when_none_was_left_twice() {
        let (mut linger, now) = begun();
        assert_eq!(linger.saw(Some(2), Duration::ZERO, now), None);
        assert_eq!(linger.due(), Some(now + LINGER_LOOK));
        assert_eq!(linger.saw(Some(0), Duration::ZERO, now), None);
        assert_eq!(linger.due(), Some(now + QUIET));
        assert_eq!(linger.saw(Some(1), Duration::ZERO, now), None, "one more");
        assert_eq!(linger.saw(Some(0), Duration::ZERO, now), None);
        let lingered = linger.saw(Some(0), Duration::ZERO, now + QUIET).unwrap();
        assert_eq!(lingered.end, LingerEnd::Finished);
        assert_eq!(lingered.took, QUIET);
        assert!(!linger.goes_on() && linger.due().is_none());
    }

    #[test]
    fn it_is_bounded() {
        let (mut linger, now) = begun();
        let nearly = now + SECOND - QUIET;
        assert_eq!(linger.saw(None, Duration::ZERO, nearly), None);
        assert_eq!(linger.due(), Some(now + SECOND));
        let lingered = linger.saw(None, Duration::ZERO, now + SECOND).unwrap();
        assert_eq!((lingered.end, lingered.left), (LingerEnd::TimedOut, None));
    }

    #[test]
    fn it_can_be_stopped_also_before_it_begins() {
        let now = Instant::now();
        let mut linger = Linger::new(SECOND, now);
        linger.stop();
        assert_eq!(linger.due(), None);
        linger.begin(now);
        assert_eq!(linger.due(), Some(now), "to count who is cut");
        let lingered = linger.saw(Some(3), Duration::ZERO, now).unwrap();
        assert_eq!((lingered.end, lingered.left), (LingerEnd::Stopped, Some(3)));
    }
}

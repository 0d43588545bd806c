//! The linger: connections that were steered elsewhere finish there, the gate open; then a standby of
//! the run's own is stopped, and only then what steers them goes away, so that those who are cut hear
//! of it. Pure.

use std::time::{Duration, Instant};

/// How often it is looked how many are left.
pub const LINGER_LOOK: Duration = Duration::from_millis(50);
/// None left has to be seen twice, so far apart: a handshake may be under way that leaves no trace,
/// since it was answered with a SYN cookie.
pub const LINGER_QUIET: Duration = Duration::from_millis(300);

/// How far it has come.
#[derive(Debug)]
pub struct Linger {
    /// Where they are: the standby, the peer.
    place: &'static str,
    /// `--linger`.
    timeout: Duration,
    /// When the gate opened.
    since: Option<Instant>,
    next_look: Instant,
    /// At the last look none was left.
    quiet: bool,
    /// Nobody is waited for any more.
    stopped: bool,
    stage: Stage,
    /// So many were left at the last look.
    left: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Connections finish. Whether a standby is to be stopped afterwards.
    Waiting { then_stop: bool },
    /// The standby is to be stopped.
    ToStop,
    /// It is being stopped.
    Stopping,
    /// There is nothing left to do.
    Over,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Look how many are left.
    Look,
    /// Stop the standby.
    Stop,
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
    /// For the time after the gate has opened; `place`: where they are; `then_stop`: a standby is to be stopped in the end.
    pub fn new(place: &'static str, timeout: Duration, then_stop: bool, now: Instant) -> Linger {
        Linger {
            place,
            timeout,
            since: None,
            next_look: now,
            quiet: false,
            stopped: false,
            stage: Stage::Waiting { then_stop },
            left: None,
        }
    }

    /// The gate is open, for good.
    pub fn begin(&mut self, now: Instant) {
        if self.since.is_none() {
            self.since = Some(now);
            self.next_look = now;
        }
    }

    /// What is to be done next, and when.
    pub fn due(&self) -> Option<(Instant, Next)> {
        let since = self.since?;
        match self.stage {
            Stage::Waiting { .. } if self.stopped => Some((since, Next::Look)),
            Stage::Waiting { .. } => {
                let at = self.next_look.min(since + self.timeout);
                Some((at, Next::Look))
            }
            Stage::ToStop => Some((since, Next::Stop)),
            Stage::Stopping | Stage::Over => None,
        }
    }

    /// So many were left just now; the look took `cost`. What came of it, if that was the last.
    pub fn saw(&mut self, left: Option<usize>, cost: Duration, now: Instant) -> Option<Lingered> {
        let (Some(since), Stage::Waiting { then_stop }) = (self.since, self.stage) else {
            return None;
        };
        self.left = left;
        let none = left == Some(0);
        let too_late = now >= since + self.timeout;
        let end = if none && (self.quiet && now >= self.next_look || self.stopped || too_late) {
            LingerEnd::Finished
        } else if self.stopped {
            LingerEnd::Stopped
        } else if too_late {
            LingerEnd::TimedOut
        } else {
            if !(none && self.quiet) {
                let pause = if none { LINGER_QUIET } else { LINGER_LOOK };
                self.next_look = now + pause.max(cost);
            }
            self.quiet = none;
            return None;
        };
        self.stage = match then_stop {
            true => Stage::ToStop,
            false => Stage::Over,
        };
        let took = now - since;
        Some(Lingered { took, left, end })
    }

    /// The standby is being stopped.
    pub fn stopping(&mut self) {
        self.stage = Stage::Stopping;
    }

    /// It has gone.
    pub fn standby_gone(&mut self) {
        if self.stage == Stage::Stopping {
            self.stage = Stage::Over;
        }
    }

    /// What is waited for, in words.
    pub fn shown(&self) -> String {
        match (self.stage, self.left) {
            (Stage::ToStop | Stage::Stopping, _) => "open; the standby is being stopped".to_owned(),
            (_, Some(n)) => format!("open; connections to the {} finish: {n} left", self.place),
            (_, None) => format!("open; connections to the {} finish", self.place),
        }
    }

    /// Where they are.
    pub fn place(&self) -> &'static str {
        self.place
    }

    /// Nobody is waited for any more, or will be.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.standby_gone();
    }

    /// Whether it has not ended.
    pub fn goes_on(&self) -> bool {
        self.stage != Stage::Over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn begun() -> (Linger, Instant) {
        let now = Instant::now();
        let mut linger = Linger::new("standby", SECOND, false, now);
        assert_eq!(linger.due(), None, "the gate is closed");
        linger.begin(now);
        assert_eq!(linger.due(), Some((now, Next::Look)));
        (linger, now)
    }

    #[test]
    fn it_ends_when_none_was_left_twice() {
        let (mut linger, now) = begun();
        assert_eq!(linger.saw(Some(2), Duration::ZERO, now), None);
        assert_eq!(linger.due(), Some((now + LINGER_LOOK, Next::Look)));
        assert_eq!(linger.saw(Some(0), Duration::ZERO, now), None);
        let quiet = now + LINGER_QUIET;
        assert_eq!(linger.due(), Some((quiet, Next::Look)));
        assert_eq!(linger.saw(Some(1), Duration::ZERO, now), None, "one more");
        assert_eq!(linger.saw(Some(0), Duration::ZERO, now), None);
        assert_eq!(linger.saw(Some(0), Duration::ZERO, now), None, "too soon");
        assert_eq!(linger.due(), Some((quiet, Next::Look)));
        let lingered = linger.saw(Some(0), Duration::ZERO, quiet).unwrap();
        assert_eq!(lingered.end, LingerEnd::Finished);
        assert_eq!(lingered.took, LINGER_QUIET);
        assert!(!linger.goes_on() && linger.due().is_none());
    }

    #[test]
    fn a_standby_is_stopped_before_it_is_over() {
        let now = Instant::now();
        let mut linger = Linger::new("standby", Duration::ZERO, true, now);
        linger.begin(now);
        let lingered = linger.saw(Some(0), Duration::ZERO, now).unwrap();
        assert_eq!(lingered.end, LingerEnd::Finished, "nobody was cut");
        assert_eq!(linger.due(), Some((now, Next::Stop)));
        linger.stopping();
        assert!(linger.goes_on() && linger.due().is_none());
        linger.standby_gone();
        assert!(!linger.goes_on());
    }

    #[test]
    fn it_is_bounded() {
        let (mut linger, now) = begun();
        let nearly = now + SECOND - LINGER_LOOK / 2;
        assert_eq!(linger.saw(None, Duration::ZERO, nearly), None);
        assert_eq!(linger.due(), Some((now + SECOND, Next::Look)));
        let lingered = linger.saw(None, Duration::ZERO, now + SECOND).unwrap();
        assert_eq!((lingered.end, lingered.left), (LingerEnd::TimedOut, None));
    }

    #[test]
    fn it_can_be_stopped_also_before_it_begins() {
        let now = Instant::now();
        let mut linger = Linger::new("standby", SECOND, false, now);
        linger.stop();
        assert_eq!(linger.due(), None);
        linger.begin(now);
        let looks = Some((now, Next::Look));
        assert_eq!(linger.due(), looks, "to count who is cut");
        let lingered = linger.saw(Some(3), Duration::ZERO, now).unwrap();
        assert_eq!((lingered.end, lingered.left), (LingerEnd::Stopped, Some(3)));
    }
}

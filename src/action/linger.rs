//! The linger: connections that were steered to a standby or a peer finish there, with the gate
//! open. Then a standby that the run has started is stopped. The steering rules go last, so that
//! clients of cut connections get the standby's reset. Pure.

use std::time::{Duration, Instant};

use crate::decide::policy::{
    Answer, Conclusion, Due, LingerEnd, Lingered, Noted, Policy, Question,
};

/// Interval between counts of the remaining connections.
pub(crate) const LINGER_LOOK: Duration = Duration::from_millis(50);
/// No connection must be seen in two looks this far apart: a handshake that was answered with a SYN
/// cookie can't be seen.
pub(crate) const LINGER_QUIET: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub(crate) struct Linger {
    /// The words for the place of the connections: the standby, the peer.
    place: &'static str,
    timeout: Duration,
    since: Option<Instant>,
    next_look: Instant,
    /// The last look saw no connection.
    quiet: bool,
    /// A signal has ended the wait.
    cut: bool,
    progress: Progress,
    /// The number of connections in the last look.
    left: Option<usize>,
    lingered: Option<Lingered>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Connections finish. `then_stop`: a standby is to be stopped afterwards.
    Waiting {
        then_stop: bool,
    },
    ToStop,
    Stopping,
    Over,
}

impl Linger {
    pub(crate) fn new(
        place: &'static str,
        timeout: Duration,
        then_stop: bool,
        now: Instant,
    ) -> Linger {
        Linger {
            place,
            timeout,
            since: None,
            next_look: now,
            quiet: false,
            cut: false,
            progress: Progress::Waiting { then_stop },
            left: None,
            lingered: None,
        }
    }

    /// `left`: the connections in a look that took `cost`.
    fn saw(&mut self, left: Option<usize>, cost: Duration, now: Instant) {
        let (Some(since), Progress::Waiting { then_stop }) = (self.since, self.progress) else {
            return;
        };
        self.left = left;
        let none = left == Some(0);
        let too_late = now >= since + self.timeout;
        let end = if none && (self.quiet && now >= self.next_look || self.cut || too_late) {
            LingerEnd::Finished
        } else if self.cut {
            LingerEnd::Stopped
        } else if too_late {
            LingerEnd::TimedOut
        } else {
            if !(none && self.quiet) {
                let pause = if none { LINGER_QUIET } else { LINGER_LOOK };
                self.next_look = now + pause.max(cost);
            }
            self.quiet = none;
            return;
        };
        self.progress = match then_stop {
            true => Progress::ToStop,
            false => Progress::Over,
        };
        let took = now - since;
        self.lingered = Some(Lingered { took, left, end });
    }
}

impl Policy for Linger {
    fn opened(&mut self, now: Instant) {
        if self.since.is_none() {
            self.since = Some(now);
            self.next_look = now;
        }
    }

    fn after_open(&self) -> Due {
        let since = self.since?;
        match self.progress {
            Progress::Waiting { .. } if self.cut => Some((since, Question::Left)),
            Progress::Waiting { .. } => {
                let at = self.next_look.min(since + self.timeout);
                Some((at, Question::Left))
            }
            Progress::ToStop => Some((since, Question::Stop)),
            Progress::Stopping | Progress::Over => None,
        }
    }

    fn lingers(&self) -> bool {
        self.progress != Progress::Over
    }

    fn answered(&mut self, answer: Answer, cost: Duration, _: Instant, now: Instant) -> Conclusion {
        match (answer, self.progress) {
            (Answer::Left(left), _) => self.saw(left, cost, now),
            (Answer::Stopping, Progress::ToStop) => self.progress = Progress::Stopping,
            (Answer::Stopped, Progress::ToStop | Progress::Stopping) => {
                self.progress = Progress::Over
            }
            _ => (),
        }
        Conclusion::GoOn
    }

    fn cut(&mut self) {
        self.cut = true;
        if self.progress == Progress::Stopping {
            self.progress = Progress::Over;
        }
    }

    fn waits_for(&self) -> Option<String> {
        Some(match (self.progress, self.left) {
            (Progress::ToStop | Progress::Stopping, _) => {
                "the gate is open; stopping the standby".to_owned()
            }
            (_, Some(n)) => format!(
                "the gate is open; waiting for connections to the {}: {n} left",
                self.place
            ),
            (_, None) => format!(
                "the gate is open; waiting for connections to the {}",
                self.place
            ),
        })
    }

    fn in_spite_of_a_signal(&self) -> Option<String> {
        let (place, linger) = (self.place, humantime::format_duration(self.timeout));
        Some(format!(
            "the gate is open; waiting up to {linger} (--linger) for connections to the {place}; interrupt \
             again to cut them"
        ))
    }

    fn noted(&self) -> Noted {
        Noted {
            lingered: self.lingered,
            ..Noted::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn begun() -> (Linger, Instant) {
        let now = Instant::now();
        let mut linger = Linger::new("standby", SECOND, false, now);
        assert_eq!(linger.after_open(), None, "the gate is closed");
        linger.opened(now);
        assert_eq!(linger.after_open(), Some((now, Question::Left)));
        (linger, now)
    }

    /// Takes in a look. Returns the result if the linger is over.
    fn saw(linger: &mut Linger, left: Option<usize>, now: Instant) -> Option<Lingered> {
        linger.answered(Answer::Left(left), Duration::ZERO, now, now);
        linger.noted().lingered
    }

    #[test]
    fn it_ends_when_none_was_left_twice() {
        let (mut linger, now) = begun();
        assert_eq!(saw(&mut linger, Some(2), now), None);
        let soon = Some((now + LINGER_LOOK, Question::Left));
        assert_eq!(linger.after_open(), soon);
        assert_eq!(saw(&mut linger, Some(0), now), None);
        let quiet = now + LINGER_QUIET;
        assert_eq!(linger.after_open(), Some((quiet, Question::Left)));
        assert_eq!(saw(&mut linger, Some(1), now), None, "one more");
        assert_eq!(saw(&mut linger, Some(0), now), None);
        assert_eq!(saw(&mut linger, Some(0), now), None, "too soon");
        assert_eq!(linger.after_open(), Some((quiet, Question::Left)));
        let lingered = saw(&mut linger, Some(0), quiet).unwrap();
        assert_eq!(lingered.end, LingerEnd::Finished);
        assert_eq!(lingered.took, LINGER_QUIET);
        assert!(!linger.lingers() && linger.after_open().is_none());
    }

    #[test]
    fn a_standby_is_stopped_before_it_is_over() {
        let now = Instant::now();
        let mut linger = Linger::new("standby", Duration::ZERO, true, now);
        linger.opened(now);
        let lingered = saw(&mut linger, Some(0), now).unwrap();
        assert_eq!(lingered.end, LingerEnd::Finished, "nobody was cut");
        assert_eq!(linger.after_open(), Some((now, Question::Stop)));
        linger.answered(Answer::Stopping, Duration::ZERO, now, now);
        assert!(linger.lingers() && linger.after_open().is_none());
        linger.answered(Answer::Stopped, Duration::ZERO, now, now);
        assert!(!linger.lingers());
    }

    #[test]
    fn it_is_bounded() {
        let (mut linger, now) = begun();
        let nearly = now + SECOND - LINGER_LOOK / 2;
        assert_eq!(saw(&mut linger, None, nearly), None);
        let end = now + SECOND;
        assert_eq!(linger.after_open(), Some((end, Question::Left)));
        let lingered = saw(&mut linger, None, end).unwrap();
        assert_eq!((lingered.end, lingered.left), (LingerEnd::TimedOut, None));
    }

    #[test]
    fn it_can_be_stopped_also_before_it_begins() {
        let now = Instant::now();
        let mut linger = Linger::new("standby", SECOND, false, now);
        linger.cut();
        assert_eq!(linger.after_open(), None);
        linger.opened(now);
        let looks = Some((now, Question::Left));
        assert_eq!(linger.after_open(), looks, "to count who is cut");
        let lingered = saw(&mut linger, Some(3), now).unwrap();
        assert_eq!((lingered.end, lingered.left), (LingerEnd::Stopped, Some(3)));
    }
}

//! Watches the standby while the gate is closed, and decides how long redirected connections may
//! take to finish. Pure.

use std::time::{Duration, Instant};

use crate::action::linger::Linger;
use crate::decide::looks::Regular;
use crate::decide::policy::{Abandoned, Answer, Conclusion, Due, Noted, Policy, Question};

/// Interval between checks that the standby listens.
pub(crate) const STANDBY_EVERY: Duration = Duration::from_millis(10);

const GONE: Abandoned = Abandoned {
    reason: "standby_gone",
    why: "nobody listened on the standby's port any more",
    hint: OWN_PID_FILE,
};
const ENDED: Abandoned = Abandoned {
    why: "the standby ended, and syngate had not stopped it",
    ..GONE
};
/// A standby with a copy of the service's configuration writes its pid into the service's pid file.
const OWN_PID_FILE: &str = "if COMMAND stopped the standby in place of the service, give the standby a pid \
                            file and a stats socket of its own";

#[derive(Debug)]
pub(crate) struct RedirectPolicy {
    linger: Linger,
    look: Regular,
    /// The last look saw no listener.
    missed: bool,
    /// A look did, and the next one saw it again.
    ever_missed: bool,
}

impl RedirectPolicy {
    /// `then_stop`: the standby is stopped after the linger.
    pub(crate) fn new(linger: Duration, then_stop: bool, closed_at: Instant) -> RedirectPolicy {
        RedirectPolicy {
            linger: Linger::new("standby", linger, then_stop, closed_at),
            look: Regular::new(STANDBY_EVERY, closed_at),
            missed: false,
            ever_missed: false,
        }
    }

    /// A standby that replaces its own process may be missing in one look, so two are needed.
    fn saw_standby(&mut self, listens: bool) -> Conclusion {
        let gone = !listens && self.missed;
        self.ever_missed |= listens && self.missed;
        self.missed = !listens;
        match gone {
            true => Conclusion::Abandon(GONE),
            false => Conclusion::GoOn,
        }
    }
}

impl Policy for RedirectPolicy {
    fn while_shut(&self) -> Due {
        Some((self.look.next, Question::Taken))
    }

    fn opened(&mut self, now: Instant) {
        self.linger.opened(now);
    }

    fn after_open(&self) -> Due {
        self.linger.after_open()
    }

    fn lingers(&self) -> bool {
        self.linger.lingers()
    }

    fn answered(
        &mut self,
        answer: Answer,
        cost: Duration,
        deadline: Instant,
        now: Instant,
    ) -> Conclusion {
        match answer {
            Answer::Taken(listens) => {
                self.look.looked(cost, now);
                self.saw_standby(listens)
            }
            Answer::Ended => Conclusion::Abandon(ENDED),
            answer => self.linger.answered(answer, cost, deadline, now),
        }
    }

    fn cut(&mut self) {
        self.linger.cut();
    }

    fn waits_for(&self) -> Option<String> {
        self.linger.waits_for()
    }

    fn in_spite_of_a_signal(&self) -> Option<String> {
        self.linger.in_spite_of_a_signal()
    }

    fn noted(&self) -> Noted {
        Noted {
            missed: self.ever_missed,
            ..self.linger.noted()
        }
    }
}

//! After the gate has opened: waits until all waiting connections are handed over, and then until the service has
//! accepted them and the handshakes that were under way. Pure.

use std::time::{Duration, Instant};

use crate::decide::policy::{Answer, Conclusion, Due, Policy, Question};
use crate::words::ports::PortSet;

/// How long the run waits for handshakes and full queues at most. Then a listener keeps a larger backlog, and the
/// group a program that leaves the choice to the kernel.
pub(crate) const HANDED_OVER_WITHIN: Duration = Duration::from_secs(2);
/// How long the queue of a service is empty, at each look, that keeps up with its clients.
pub(crate) const KEEPS_UP: Duration = Duration::from_millis(100);
/// Interval between looks at the accept queue.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
pub(crate) struct ParkPolicy {
    /// When to look next, and when to give up.
    looks: Option<(Instant, Instant)>,
    /// The deadline is over: all connections in rooms go at once.
    late: bool,
    over: bool,
}

impl Policy for ParkPolicy {
    fn opened(&mut self, now: Instant) {
        self.looks.get_or_insert((now, now + HANDED_OVER_WITHIN));
    }

    fn after_open(&self) -> Due {
        let (next, _) = self.looks.filter(|_| !self.over)?;
        let question = match self.late {
            false => Question::Left,
            true => Question::LetGo {
                ports: PortSet::EMPTY,
                finally: true,
            },
        };
        Some((next, question))
    }

    fn lingers(&self) -> bool {
        !self.over
    }

    fn answered(
        &mut self,
        answer: Answer,
        _: Duration,
        deadline: Instant,
        now: Instant,
    ) -> Conclusion {
        self.late |= now >= deadline;
        if let Some((next, until)) = &mut self.looks {
            let left = match answer {
                Answer::Waiting(_) => {
                    if !self.late {
                        *until = now + HANDED_OVER_WITHIN;
                    }
                    now < *until
                }
                Answer::Left(Some(1..)) => now < *until,
                _ => false,
            };
            self.over = !left;
            *next = (now + LOOK_EVERY).min(*until);
        }
        Conclusion::GoOn
    }

    fn cut(&mut self) {
        self.over = true;
    }

    fn waits_for(&self) -> Option<String> {
        Some("waiting until the service has accepted the connections that waited".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::policy::Waiting;

    #[test]
    fn it_looks_until_all_are_accepted_or_time_is_up() {
        let start = Instant::now();
        let answer = |policy: &mut ParkPolicy, left, now| {
            policy.answered(Answer::Left(Some(left)), Duration::ZERO, start, now);
            policy.after_open().map(|(at, _)| at - start)
        };
        let mut policy = ParkPolicy::default();
        assert!(policy.lingers() && policy.after_open().is_none());
        policy.opened(start);
        policy.opened(start + LOOK_EVERY);
        assert_eq!(answer(&mut policy, 7, start), Some(LOOK_EVERY));
        assert_eq!(answer(&mut policy, 0, start + LOOK_EVERY), None);
        assert!(!policy.lingers());

        let mut policy = ParkPolicy::default();
        policy.opened(start);
        assert_eq!(answer(&mut policy, 7, start + HANDED_OVER_WITHIN), None);
        assert!(!policy.lingers(), "a service that accepts nobody");
    }

    #[test]
    fn those_who_wait_have_until_the_deadline() {
        let start = Instant::now();
        let deadline = start + Duration::from_secs(30);
        let mut policy = ParkPolicy::default();
        policy.opened(start);
        let mut waits = |after| {
            let answer = Answer::Waiting(Waiting::default());
            policy.answered(answer, Duration::ZERO, deadline, start + after);
            policy.lingers()
        };
        assert!(waits(HANDED_OVER_WITHIN * 3));
        assert!(waits(Duration::from_millis(29_900)));
        assert!(waits(Duration::from_secs(30)));
        assert!(waits(Duration::from_secs(31)), "a full queue has its time");
        assert!(!waits(Duration::from_secs(32)));
        let mut policy = ParkPolicy::default();
        policy.opened(start);
        let late = start + HANDED_OVER_WITHIN * 3;
        for answer in [Answer::Waiting(Waiting::default()), Answer::Left(Some(7))] {
            policy.answered(answer, Duration::ZERO, deadline, late);
            assert!(
                policy.lingers(),
                "the handshakes have their time afterwards"
            );
        }
    }

    #[test]
    fn at_the_deadline_nobody_waits_in_a_room_any_more() {
        let start = Instant::now();
        let mut policy = ParkPolicy::default();
        policy.opened(start);
        let asks = |policy: &ParkPolicy| policy.after_open().unwrap().1;
        assert_eq!(asks(&policy), Question::Left);
        let answer = Answer::Waiting(Waiting::default());
        policy.answered(answer, Duration::ZERO, start, start);
        assert!(matches!(
            asks(&policy),
            Question::LetGo { finally: true, .. }
        ));
    }

    #[test]
    fn the_second_signal_ends_the_wait() {
        let mut policy = ParkPolicy::default();
        policy.opened(Instant::now());
        let waits = policy.waits_for().unwrap();
        assert!(waits.contains("has accepted"), "{waits}");
        policy.cut();
        assert!(!policy.lingers() && policy.after_open().is_none());
    }
}

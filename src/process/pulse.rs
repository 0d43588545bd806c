//! Whether a guard still does its work: the run asks it now and then, and it has to answer. One that
//! somebody has stopped, or that hangs, does not. Pure.

use std::time::{Duration, Instant};

/// How long after an answer the run asks again.
pub(crate) const PULSE_EVERY: Duration = Duration::from_millis(500);
/// How long a guard may take to answer.
pub(crate) const PULSE_WITHIN: Duration = Duration::from_secs(2);
/// The run was stopped itself, or had no time, if it has not looked for so long. Then it can't tell how long
/// the guard took.
const BLIND_AFTER: Duration = Duration::from_millis(1_000);

#[derive(Debug)]
pub(crate) struct Pulse {
    asked: Option<Instant>,
    answered: Instant,
    looked: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beat {
    /// It is time to ask.
    Ask,
    Wait,
    /// The guard has not answered in time. Returned once; then it is time to ask again.
    Missed,
}

impl Pulse {
    pub(crate) fn new(now: Instant) -> Pulse {
        Pulse {
            asked: None,
            answered: now,
            looked: now,
        }
    }

    pub(crate) fn answered(&mut self, now: Instant) {
        self.asked = None;
        self.answered = now;
    }

    pub(crate) fn beat(&mut self, now: Instant) -> Beat {
        let was_blind = now - self.looked >= BLIND_AFTER;
        self.looked = now;
        match self.asked {
            None if now < self.answered + PULSE_EVERY => Beat::Wait,
            None => {
                self.asked = Some(now);
                Beat::Ask
            }
            Some(_) if was_blind => {
                self.asked = Some(now);
                Beat::Wait
            }
            Some(at) if now < at + PULSE_WITHIN => Beat::Wait,
            Some(_) => {
                self.asked = None;
                Beat::Missed
            }
        }
    }

    /// When to look next.
    pub(crate) fn due(&self) -> Instant {
        match self.asked {
            None => self.answered + PULSE_EVERY,
            // The answer of the guard wakes the run.
            Some(_) => self.looked + PULSE_EVERY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    /// What a run sees that looks at every step. `answers`: whether the guard answers at once.
    fn beats(answers: bool, steps: u32) -> Vec<Beat> {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        let mut all = Vec::new();
        for step in 1..=steps {
            let now = start + STEP * step;
            let beat = pulse.beat(now);
            if beat == Beat::Ask && answers {
                pulse.answered(now);
            }
            all.push(beat);
        }
        all
    }

    fn steps(time: Duration) -> usize {
        (time.as_millis() / STEP.as_millis()) as usize
    }

    #[test]
    fn one_that_answers_is_asked_again_and_again() {
        let beats = beats(true, 100);
        let asked = beats.iter().filter(|beat| **beat == Beat::Ask).count();
        assert_eq!(asked, 100 / steps(PULSE_EVERY));
        assert!(!beats.contains(&Beat::Missed));
    }

    #[test]
    fn one_that_does_not_is_missed_in_time() {
        let beats = beats(false, 60);
        let asked = beats.iter().position(|beat| *beat == Beat::Ask);
        let missed = beats.iter().position(|beat| *beat == Beat::Missed);
        assert_eq!(asked, Some(steps(PULSE_EVERY) - 1));
        assert_eq!(missed.unwrap() - asked.unwrap(), steps(PULSE_WITHIN));
    }

    #[test]
    fn a_run_that_was_stopped_itself_blames_nobody() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        let asked = start + PULSE_EVERY;
        assert_eq!(pulse.beat(asked), Beat::Ask);
        let resumed = asked + 10 * PULSE_WITHIN;
        assert_eq!(pulse.beat(resumed), Beat::Wait);
        assert_eq!(pulse.beat(resumed + STEP), Beat::Wait);
        assert!(pulse.due() > resumed);
        pulse.answered(resumed + STEP);
        assert_eq!(pulse.due(), resumed + STEP + PULSE_EVERY);
    }
}

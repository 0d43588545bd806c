//! A service that comes and goes all the time must not fill the journal: after some gaps in a minute, those that follow
//! are told together, once a minute. The file of reports has them all. A gap that ends before somebody listens again
//! always has a line of its own: new clients may be refused then. Pure.

use std::time::{Duration, Instant};

use super::gap::{End, Gap};
use crate::words::ms::ms_words;

/// So many gaps in [`TOGETHER_FOR`] have a line each.
pub(crate) const MOST_GAPS_TOLD: u32 = 5;
/// How long gaps are collected that are told together.
pub(crate) const TOGETHER_FOR: Duration = Duration::from_secs(60);

/// How a gap is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Telling {
    Own,
    /// The next ones may have none.
    LastOwn,
    /// Together with others.
    None,
}

#[derive(Debug, Default)]
pub(super) struct Flapping {
    began: Option<Instant>,
    /// How many have had a line of their own since then.
    told: u32,
    untold: Option<Together>,
    /// The minute before was full, too.
    goes_on: bool,
}

/// Gaps that are told together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Together {
    gap: Gap,
    gaps: u32,
    is_trouble: bool,
}

impl Flapping {
    /// How to tell of a gap that has ended. To be called after [`Flapping::due`].
    pub(super) fn add(&mut self, gap: &Gap, end: &End, now: Instant) -> Telling {
        if !end.is_served() {
            return Telling::Own;
        }
        self.began.get_or_insert(now);
        if !self.has_lines() {
            self.collect(gap, end);
            return Telling::None;
        }
        self.told += 1;
        match self.told == MOST_GAPS_TOLD {
            true => Telling::LastOwn,
            false => Telling::Own,
        }
    }

    /// Whether the next gap has a line of its own.
    pub(super) fn has_lines(&self) -> bool {
        !self.goes_on && self.told < MOST_GAPS_TOLD
    }

    fn collect(&mut self, gap: &Gap, end: &End) {
        let is_trouble = gap.is_trouble(end);
        match &mut self.untold {
            Some(together) => {
                together.gap.add(gap.clone());
                together.gaps += 1;
                together.is_trouble |= is_trouble;
            }
            None => {
                self.untold = Some(Together {
                    gap: gap.clone(),
                    gaps: 1,
                    is_trouble,
                });
            }
        }
    }

    /// What is to be told of gaps without lines of their own, when the minute is over.
    pub(super) fn due(&mut self, now: Instant) -> Option<Together> {
        let is_over = |began: Instant| now.duration_since(began) >= TOGETHER_FOR;
        if !self.began.is_some_and(is_over) {
            return None;
        }
        let untold = self.end();
        let gaps = self.told + untold.as_ref().map_or(0, |together| together.gaps);
        self.goes_on = gaps > MOST_GAPS_TOLD;
        self.began = self.goes_on.then_some(now);
        self.told = 0;
        untold
    }

    /// What has not been told yet.
    pub(super) fn end(&mut self) -> Option<Together> {
        self.untold.take()
    }
}

impl Together {
    pub(super) fn is_trouble(&self) -> bool {
        self.is_trouble
    }

    pub(super) fn words(&self) -> String {
        let gaps = match self.gaps {
            1 => "1 more gap".to_owned(),
            n => format!("{n} more gaps"),
        };
        format!(
            "{}: {gaps} within {}, each {} or shorter; {}",
            self.gap.ports.brief(),
            humantime::format_duration(TOGETHER_FOR),
            ms_words(self.gap.unserved),
            self.gap.waiters_words()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::keep::gap;

    fn over() -> End {
        End::Over(["haproxy (pid 7)".to_owned()].into())
    }

    #[test]
    fn after_some_lines_a_minute_has_one() {
        let start = Instant::now();
        let at = |after| start + after;
        let mut flapping = Flapping::default();
        assert!(flapping.has_lines());
        let one = gap::made_up(2, 0);
        let second = Duration::from_secs(1);
        for number in 1..=MOST_GAPS_TOLD {
            let line = flapping.add(&one, &over(), at(second * number));
            let last = number == MOST_GAPS_TOLD;
            assert_eq!(line, if last { Telling::LastOwn } else { Telling::Own });
        }
        assert!(!flapping.has_lines());
        for _ in 0..6 {
            let now = at(second * 30);
            assert_eq!(flapping.add(&one, &over(), now), Telling::None);
            assert_eq!(flapping.due(now), None);
        }
        let moment = Duration::from_millis(1);
        assert_eq!(flapping.due(at(second + TOGETHER_FOR - moment)), None);
        let told = flapping.due(at(second + TOGETHER_FOR)).unwrap();
        assert_eq!(
            told.words(),
            "80: 6 more gaps within 1m, each 512 ms or shorter; 12 connections waited, for 510 ms at most"
        );
        assert!(!told.is_trouble());
        // It goes on: none has a line of its own in the next minute.
        let now = at(TOGETHER_FOR + second * 2);
        assert_eq!(
            flapping.add(&gap::made_up(2, 1), &over(), now),
            Telling::None
        );
        let told = flapping.due(now + TOGETHER_FOR).unwrap();
        assert!(told.is_trouble());
        let words = told.words();
        assert!(words.contains("1 more gap within 1m"), "{words}");
        assert!(words.ends_with(", and 1 of them reset"), "{words}");
        // It is calm again.
        let now = now + TOGETHER_FOR * 2;
        assert_eq!(flapping.due(now), None);
        assert_eq!(flapping.add(&one, &over(), now), Telling::Own);
    }

    #[test]
    fn gaps_now_and_then_have_lines_of_their_own() {
        let start = Instant::now();
        let mut flapping = Flapping::default();
        for number in 0..MOST_GAPS_TOLD * 3 {
            let now = start + TOGETHER_FOR / MOST_GAPS_TOLD * number;
            assert_eq!(flapping.due(now), None);
            let line = flapping.add(&gap::made_up(0, 0), &over(), now);
            assert_ne!(line, Telling::None, "{number}");
        }
        assert_eq!(flapping.end(), None);
    }

    #[test]
    fn a_gap_that_ends_otherwise_always_has_a_line() {
        let now = Instant::now();
        let (mut flapping, one) = (Flapping::default(), gap::made_up(2, 2));
        for _ in 0..=MOST_GAPS_TOLD {
            flapping.add(&one, &over(), now);
        }
        let place = || "80".to_owned();
        for end in [
            End::GivenUp(None),
            End::Stopped(place(), None),
            End::Moved(place(), None),
            End::KeepEnds,
            End::StoodBack,
        ] {
            assert_eq!(flapping.add(&one, &end, now), Telling::Own, "{end:?}");
        }
        assert_eq!(flapping.add(&one, &over(), now), Telling::None);
        let unseen = End::Unseen(["haproxy (pid 7)".to_owned()].into());
        assert_eq!(flapping.add(&one, &unseen, now), Telling::None);
        let told = flapping.due(now + TOGETHER_FOR).unwrap().words();
        assert!(told.starts_with("80: 3 more gaps within"), "{told}");
        // Nor do they make a minute full.
        let mut calm = Flapping::default();
        for _ in 0..=MOST_GAPS_TOLD {
            assert_eq!(calm.add(&one, &End::GivenUp(None), now), Telling::Own);
        }
        assert_eq!(calm.add(&one, &over(), now), Telling::Own);
        assert_eq!(calm.end(), None);
    }

    #[test]
    fn at_the_end_what_is_left_is_told() {
        let mut flapping = Flapping::default();
        let now = Instant::now();
        for _ in 0..=MOST_GAPS_TOLD {
            flapping.add(&gap::made_up(0, 0), &over(), now);
        }
        let told = flapping.end().unwrap().words();
        assert!(told.ends_with("; no connection waited"), "{told}");
        assert_eq!(flapping.end(), None);
    }
}

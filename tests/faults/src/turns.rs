//! In which order trials come: those that take seconds come in between, and take a share of the time.

use std::time::Duration;

/// One that takes seconds comes when all of these have taken no more than one part in so many.
const SHARE: u32 = 4;

/// What is still to come, and how long both kinds have taken. The last of each is the next.
#[derive(Default)]
pub struct Turns<T> {
    quick: Vec<T>,
    slow: Vec<T>,
    took_quick: Duration,
    took_slow: Duration,
    /// Which kind the last one was.
    was_slow: bool,
}

impl<T> Turns<T> {
    pub fn new(all: Vec<T>, is_slow: impl Fn(&T) -> bool) -> Turns<T> {
        let (slow, quick) = all.into_iter().partition(is_slow);
        Turns {
            quick,
            slow,
            took_quick: Duration::ZERO,
            took_slow: Duration::ZERO,
            was_slow: false,
        }
    }

    /// The next one, if there is any.
    pub fn next(&mut self) -> Option<T> {
        let all = self.took_slow + self.took_quick;
        let in_turn = !all.is_zero() && self.took_slow * SHARE <= all;
        self.was_slow = in_turn && !self.slow.is_empty() || self.quick.is_empty();
        match self.was_slow {
            true => self.slow.pop(),
            false => self.quick.pop(),
        }
    }

    /// So long the last one took.
    pub fn took(&mut self, time: Duration) {
        match self.was_slow {
            true => self.took_slow += time,
            false => self.took_quick += time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that come within so many seconds, those above 0 being quick.
    fn within(seconds: u64, all: Vec<i32>) -> Vec<i32> {
        let mut turns = Turns::new(all, |n| *n < 0);
        let mut came = Vec::new();
        let mut time = 0;
        while let Some(next) = (time < seconds).then(|| turns.next()).flatten() {
            let took = if next < 0 { 6 } else { 1 };
            turns.took(Duration::from_secs(took));
            time += took;
            came.push(next);
        }
        came
    }

    #[test]
    fn slow_ones_take_a_quarter_of_the_time() {
        let came = within(240, [vec![1; 1000], vec![-1; 1000]].concat());
        let slow = came.iter().filter(|n| **n < 0).count();
        assert!((9..=11).contains(&slow), "{slow} of {}", came.len());
        assert_eq!(came[..2], [1, -1]);
    }

    #[test]
    fn each_comes_once() {
        let mut came = within(1000, vec![1, 2, -1, -2, -3]);
        came.sort_unstable();
        assert_eq!(came, [-3, -2, -1, 1, 2]);
        assert_eq!(within(1000, vec![-1]), [-1]);
    }
}

//! Numbers that follow from a seed alone.

use std::ops::Range;
use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// True in `of_100` of 100 cases.
    pub(super) fn chance(&mut self, of_100: u64) -> bool {
        self.below(100) < of_100
    }

    pub(super) fn one<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    pub(super) fn micros(&mut self, range: Range<u64>) -> Duration {
        Duration::from_micros(range.start + self.below(range.end - range.start))
    }

    /// A time of any magnitude up to `most`: many are short.
    pub(super) fn time(&mut self, most: Duration) -> Duration {
        let magnitude = self.below(6);
        let most = most.as_micros() as u64 / 10_u64.pow(magnitude as u32);
        Duration::from_micros(self.below(most + 1))
    }
}

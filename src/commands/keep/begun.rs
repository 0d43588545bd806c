//! Gaps that go on: somebody who reads the journal hears of one before it is over.

use std::time::Duration;

use super::gap::Gap;
use super::kept::Kept;
use super::told::Told;

/// A shorter gap is told when it is over.
const TOLD_AFTER: Duration = Duration::from_secs(1);

impl Kept<'_> {
    /// Each gap once, and those of one look together.
    pub(super) fn tell_begun(&mut self, told: &mut Told) {
        for number in 0..self.spots.len() {
            let spot = &mut self.spots[number];
            let Some(since) = spot.watched.gap() else {
                spot.is_told = false;
                continue;
            };
            if spot.is_told || since.elapsed() < TOLD_AFTER {
                continue;
            }
            spot.is_told = true;
            let waited = spot.waiting;
            let begun = Gap {
                waited,
                ..self.gap(number, since)
            };
            match &mut told.begun {
                Some(all) => all.add(begun),
                None => told.begun = Some(begun),
            }
        }
    }
}

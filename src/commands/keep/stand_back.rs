//! How a keep stands back from the ports of a run: the run does there what it does without a keep, and the other ports
//! are kept meanwhile. In a gap the keep stays, also for the rest of a run that begins in the gap. The run
//! or somebody else may start the service then: both ways the waiting connections reach it.

use super::gap::End;
use super::kept::{Kept, gap_of};
use super::told::{Ended, Told};
use crate::action::rooms::leaving::Leaving;
use crate::kernel::room::Place;

impl Kept<'_> {
    /// Gives back the groups on the ports of runs, or goes on with that.
    pub(super) fn stand_back(&mut self, told: &mut Told) {
        if self.leaving.is_none() {
            self.begin_to_leave();
        }
        self.go_on_leaving(told);
    }

    fn begin_to_leave(&mut self) {
        let those = self.served_for_runs();
        if those.is_empty() {
            return;
        }
        self.rooms.set_busy(true);
        // Should the kernel refuse it, the next look comes soon.
        if let Ok(leaving) = Leaving::begin(&mut self.rooms, &those, self.wanted.max_wait) {
            self.leaving = Some(leaving);
            let mut number = 0..;
            self.spots
                .retain(|_| !those.contains(&number.next().unwrap_or_default()));
            self.know_rooms();
        }
        self.rooms.set_busy(false);
    }

    /// Where somebody listens, and no gap is to be told. That is looked at once more: the last look is some time ago,
    /// and a client may have begun to wait.
    fn served_for_runs(&mut self) -> Vec<usize> {
        let (groups, of_runs) = (&self.rooms.groups, &self.of_runs);
        let numbers = (0..self.spots.len()).filter(|n| {
            let spot = &self.spots[*n];
            of_runs.contains(groups[*n].place.port) && !spot.watched.is_in_gap() && !spot.stays
        });
        let numbers: Vec<usize> = numbers.collect();
        if numbers.is_empty() {
            return numbers;
        }
        let there = self.rooms.look(false).unwrap_or_default();
        let served = |n: &usize| self.rooms.is_served(&self.rooms.groups[*n], &there);
        numbers.into_iter().filter(served).collect()
    }

    /// Tells what became of the connections that waited, if there were any.
    pub(super) fn go_on_leaving(&mut self, told: &mut Told) {
        let Some(mut leaving) = self.leaving.take() else {
            return;
        };
        self.rooms.set_busy(true);
        let done = leaving.is_done();
        self.rooms.set_busy(false);
        if !done {
            self.leaving = Some(leaving);
            return;
        }
        let figures = leaving.figures();
        if figures.waited() > 0 {
            let mut gap = gap_of(leaving.ports(), figures.longest);
            gap.waited_more(figures);
            gap.addresses = leaving.addresses();
            told.add(Ended {
                gap,
                end: End::StoodBack,
                listeners: Vec::new(),
            });
        }
        self.rooms.lend_while_needed();
        self.guard_anew(told);
    }

    /// Whether there are rooms, also such as are being given back.
    pub(super) fn has(&self, place: &Place) -> bool {
        let mut groups = self.rooms.groups.iter();
        let leaving = self.leaving.as_ref();
        groups.any(|group| group.place == *place) || leaving.is_some_and(|those| those.has(place))
    }
}

//! What a keep knows of a group of rooms, beside the rooms themselves.

use super::decide::Watched;
use crate::action::rooms::figures::Figures;
use crate::action::rooms::moved::Leaves;

/// What is known of a group with rooms.
#[derive(Default)]
pub(super) struct Spot {
    pub(super) watched: Watched,
    /// How many waited at the last look.
    pub(super) waiting: usize,
    /// The gap goes on, and that was told.
    pub(super) is_told: bool,
    /// What became of those who have waited since the gap began.
    pub(super) waited: Figures,
    /// Whether the service has come elsewhere in the gap.
    pub(super) leaves: Leaves,
    /// The control group of the listener that the rooms were made for.
    pub(super) control_group: Option<u64>,
    /// The run on its port began in a gap there. It has seen no listener, and waits for none after COMMAND.
    pub(super) stays: bool,
    /// Its rooms were another keep's a moment ago, and some may wait since the program changes.
    pub(super) is_taken_over: bool,
    /// Why these could not be made anew for another one.
    pub(super) not_renewed: Option<String>,
}

impl Spot {
    /// Whether clients have waited in a gap that no look has shown. Nobody waits now. A take-over makes clients wait, too.
    /// These do not count, until a look has shown none of them.
    pub(super) fn had_unseen_gap(&mut self) -> bool {
        let (had_waiters, was_taken_over) = (self.waited.waited() > 0, self.is_taken_over);
        self.is_taken_over &= had_waiters;
        had_waiters && !was_taken_over
    }
}

//! Which of this host's listeners a keep with `--unit` takes: those of the unit, on ports that no other keep has.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow};

use super::kept::Kept;
use super::told::Told;
use super::unit::Unit;
use crate::action::rooms::leaving::Leaving;
use crate::kernel::room::Place;
use crate::kernel::sockets::Sample;

impl Kept<'_> {
    /// Looks at the listeners: those of the unit, if there is one, and all where rooms are. Where a run has the ports,
    /// those where rooms are only.
    pub(super) fn see(&mut self, holders: bool) -> Result<Sample> {
        let mut there = self.rooms.look(holders)?;
        let leaving = self
            .leaving
            .as_ref()
            .map(Leaving::cookies)
            .unwrap_or_default();
        let groups = self.unit.as_ref().map(Unit::control_groups);
        there.listeners.retain(|listener| {
            let in_unit =
                |groups: &BTreeSet<u64>| listener.cgroup.is_some_and(|id| groups.contains(&id));
            let of_service =
                !self.of_runs.contains(listener.port) && groups.as_ref().is_none_or(in_unit);
            let is_room = leaving.contains(&listener.id.cookie);
            !is_room && (of_service || self.has(&Place::of(listener)))
        });
        Ok(there)
    }

    /// Locks the port of a place, unless it is locked already. Returns whether no other keep has it.
    pub(super) fn claim(&mut self, place: &Place, there: &Sample, told: &mut Told) -> bool {
        let port = place.port;
        if self.claimed.contains(port) {
            return true;
        }
        let why = match self.lock.try_take_one(port, &self.wanted.run) {
            Ok(None) => {
                self.claimed = self.claimed.union(&[port].into_iter().collect());
                return true;
            }
            Ok(Some(holder)) => anyhow!("another keep has port {port}: {holder}"),
            Err(error) => error,
        };
        self.refuse(place, there, &why, told);
        false
    }

    /// Unlocks the ports of a unit on which it has no rooms any more.
    pub(super) fn claim_only_kept(&mut self) {
        if self.unit.is_none() {
            return;
        }
        let of_runs = self.claimed.intersection(&self.of_runs);
        let kept = self.ports().union(&of_runs);
        if self.claimed != kept {
            self.lock.give_back_but(&kept);
            self.claimed = kept;
        }
    }

    /// Asks about the unit while nobody listens.
    pub(super) fn ask_about_unit(&mut self, told: &mut Told) {
        let in_gap = self.is_in_gap();
        if let Some(unit) = &mut self.unit {
            told.warnings.extend(unit.attend(in_gap));
        }
    }
}

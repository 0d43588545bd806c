//! How a keep takes over the rooms of one before it that has died, or that systemd restarts: a crash of the service
//! meanwhile finds rooms all the time.

use anyhow::{Error, Result, bail, ensure};

use super::follow::{MOST_WAITING, control_group, cookies};
use super::kept::Kept;
use super::spot::Spot;
use super::told::Told;
use crate::action::rooms::taken_over::{Inheritance, forget_note};
use crate::gate::rooms::end_at_once;
use crate::gate::standing::may_be_left;
use crate::kernel::room::Place;
use crate::kernel::room::known::{RoomGuard, guards};
use crate::process::lock::{Lock, LocksOf};
use crate::words::ports::PortSet;

impl Kept<'_> {
    /// Takes over what the guards of dead keeps have at these places, which are locked. Only where all of a guard's are
    /// among them, and nobody waits there: from the others a guard stands back by itself. Returns the places that are
    /// left.
    pub(super) fn take_over(&mut self, mut new: Vec<Place>, told: &mut Told) -> Vec<Place> {
        if new.is_empty() || !self.may_take_up() {
            return new;
        }
        let ports: PortSet = new.iter().map(|place| place.port).collect();
        let is_left = |guard: &RoomGuard| {
            let orders = &guard.orders;
            let concerns = !orders.ports.intersection(&ports).is_empty();
            let is_another = orders.keeps.is_some() && orders.run != self.wanted.run;
            concerns && is_another && guard.is_here() == Some(true)
        };
        let left: Vec<RoomGuard> = guards().into_iter().filter(is_left).collect();
        for guard in left {
            match self.take_over_all(&guard, &new, told) {
                Ok(()) => new.retain(|place| !self.has(place)),
                Err(why) => self.tell_not_taken_over(&guard, &why, told),
            }
        }
        new
    }

    fn take_over_all(&mut self, guard: &RoomGuard, new: &[Place], told: &mut Told) -> Result<()> {
        let from = Inheritance::of(guard)?;
        if let Some(other) = from.places().find(|place| !new.contains(place)) {
            let other = other.shown();
            bail!(
                "the earlier one also has rooms on {other}, where this keep makes none or nobody listens"
            );
        }
        self.take_over_from(guard, from, told)
    }

    /// Once for each keep before this one.
    fn tell_not_taken_over(&mut self, guard: &RoomGuard, why: &Error, told: &mut Told) {
        if self.not_taken_over.insert(guard.orders.run.clone()) {
            told.warnings.push(format!(
                "{}: this keep can't take over the waiting rooms of the earlier one: {why:#}; its guard (pid {}) closes them, and then this keep \
                 makes new ones: if the service stops in between, clients are refused",
                guard.orders.ports.brief(),
                guard.pid
            ));
        }
    }

    fn take_over_from(
        &mut self,
        guard: &RoomGuard,
        mut from: Inheritance,
        told: &mut Told,
    ) -> Result<()> {
        let there = self.see(true)?;
        let seen = self.wanted.seen(&there);
        self.rooms.note(&seen)?;
        self.noted = cookies(&there);
        let (first, places): (usize, Vec<Place>) =
            (self.spots.len(), from.places().cloned().collect());
        self.rooms.set_busy(true);
        let inherited = self.rooms.inherit(&mut from, &seen, MOST_WAITING);
        let inherited = inherited.and_then(|()| {
            self.spots.extend(places.iter().map(|place| Spot {
                control_group: control_group(place, &there),
                is_taken_over: true,
                ..Spot::default()
            }));
            self.guard_anew(told);
            ensure!(self.watch.is_some(), "a guard for them can't be started");
            forget_note(guard);
            end_at_once(guard)
        });
        if inherited.is_ok() {
            from.take_over();
            self.lead_to_service(first, told);
        } else {
            self.rooms.disown(first);
            self.spots.truncate(first);
            self.guard_anew(told);
        }
        self.rooms.set_busy(false);
        inherited
    }

    /// Where a run has begun meanwhile, the groups go at this look.
    fn lead_to_service(&mut self, first: usize, told: &mut Told) {
        let groups = self.rooms.groups[first..].iter();
        let ports = groups.map(|group| group.place.port).collect();
        let mut lost: Vec<usize> = (first..self.spots.len()).collect();
        if let Ok(mut lock) = Lock::open(LocksOf::Runs, &ports) {
            if matches!(lock.try_take(&self.wanted.run), Ok(None)) {
                lost.retain(|number| self.rooms.take_over(*number).is_err());
            }
            lock.remove(may_be_left);
        }
        self.forget(&lost, told);
    }
}

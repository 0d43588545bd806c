//! How a keep follows the service: rooms where somebody listens, and a guard that has them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::cap;
use super::decide::{Last, QUIET_FOR};
use super::kept::{Kept, Refused};
use super::spot::Spot;
use super::told::Told;
use super::wanted::Wanted;
use crate::action::rooms::resident::shut;
use crate::action::rooms::watch::Watch;
use crate::gate::rooms::{STANDS_BACK_WITHIN, hand_over, keep_on, stranded};
use crate::gate::standing::may_be_left;
use crate::kernel::room::known::{RoomGuard, guards};
use crate::kernel::room::wake::Wake;
use crate::kernel::room::{Place, Shelf};
use crate::kernel::sockets::{Listener, Sample};
use crate::process::lock::{Lock, LocksOf, RETRY};
use crate::words::count::counted_does;
use crate::words::duration::LONGEST;
use crate::words::ports::PortSet;

/// How many may wait on each address.
pub(crate) const MOST_WAITING: u32 = 16_384;
/// When rooms that could not be made are tried again, if the listeners are the same.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

impl Kept<'_> {
    /// Takes up places where somebody listens and no rooms are, and makes rooms anew where the service has come
    /// in another control group.
    pub(super) fn follow(&mut self, there: &Sample, told: &mut Told) {
        let mut places: Vec<Place> = there.listeners.iter().map(Place::of).collect();
        places.sort();
        places.dedup();
        self.refused.retain(|place, refused| {
            places.binary_search(place).is_ok() || refused.at.elapsed() < QUIET_FOR
        });
        places.retain(|place| self.is_new(place, there));
        let mut places = self.chosen(places, told);
        places.retain(|place| self.claim(place, there, told));
        let places = self.take_over(places, told);
        let numbers = 0..self.spots.len();
        let moved = numbers.filter(|n| self.may_take_up() && self.has_moved(*n, there));
        let moved: Vec<usize> = moved.collect();
        let done = match places.is_empty() && moved.is_empty() {
            true => self.note(there),
            false => self.take_up(&places, &moved, told),
        };
        self.claim_only_kept();
        let trouble = done.err().map(|error| format!("{error:#}"));
        // It is tried again at each look.
        if trouble != self.trouble {
            told.warnings.extend(trouble.clone());
            self.trouble = trouble;
        }
    }

    /// The guard has rooms that are being given back, and stays until that is done.
    pub(super) fn may_take_up(&self) -> bool {
        self.leaving.is_none()
    }

    /// Those of the new places that may be kept. That there are others is told once.
    fn chosen(&mut self, new: Vec<Place>, told: &mut Told) -> Vec<Place> {
        if !self.may_take_up() {
            return new;
        }
        let most = self.wanted.max_addresses;
        let kept = self.rooms.groups.iter().map(|group| &group.place);
        let (places, others) = cap::chosen(new, kept, most);
        let words = cap::words(&others, most);
        let was_full = std::mem::replace(&mut self.is_full, words.is_some());
        told.warnings.extend(words.filter(|_| !was_full));
        places
    }

    fn is_new(&self, place: &Place, there: &Sample) -> bool {
        if !self.may_take_up() || self.has(place) || self.of_runs.contains(place.port) {
            return false;
        }
        let refused = self.refused.get(place);
        refused.is_none_or(|refused| {
            refused.at.elapsed() >= RETRY_AFTER || refused.listeners != cookies_at(place, there)
        })
    }

    /// Whether all listeners of a group are in another control group than its rooms.
    fn has_moved(&self, number: usize, there: &Sample) -> bool {
        let place = &self.rooms.groups[number].place;
        if self.of_runs.contains(place.port) {
            return false;
        }
        let before = self.spots[number].control_group;
        let is_elsewhere = |l: &Listener| l.cgroup.is_some() && l.cgroup != before;
        at(place, there).next().is_some() && at(place, there).all(is_elsewhere)
    }

    /// Notes which listeners there are, if others have come.
    fn note(&mut self, there: &Sample) -> Result<()> {
        let listeners = cookies(there);
        if listeners == self.noted || self.spots.is_empty() {
            return Ok(());
        }
        self.noted = listeners;
        self.rooms.note(&self.wanted.seen(there))
    }

    /// While this process has the lock of runs, none begins.
    fn take_up(&mut self, new: &[Place], moved: &[usize], told: &mut Told) -> Result<()> {
        let groups = moved.iter().map(|number| &self.rooms.groups[*number].place);
        let ports = new.iter().chain(groups).map(|place| place.port);
        let mut lock = Lock::open(LocksOf::Runs, &ports.collect())?;
        if lock.try_take(&self.wanted.run)?.is_some() {
            return Ok(());
        }
        self.rooms.set_busy(true);
        let taken_up = self.take_up_locked(new, moved, told);
        self.rooms.set_busy(false);
        lock.remove(may_be_left);
        taken_up
    }

    fn take_up_locked(&mut self, new: &[Place], moved: &[usize], told: &mut Told) -> Result<()> {
        if !new.is_empty() {
            let ports = new.iter().map(|place| place.port).collect();
            await_dead_keeps(self.wanted, &ports)?;
            end_guards_of_dead_runs(&ports)?;
        }
        let there = self.see(true)?;
        self.rooms.note(&self.wanted.seen(&there))?;
        self.noted = cookies(&there);
        let before = moved
            .iter()
            .filter_map(|number| self.renew(*number, &there, told));
        let before: Vec<(usize, Shelf)> = before.collect();
        let first_new = self.spots.len();
        // Some may have closed again.
        for place in new
            .iter()
            .filter(|place| at(place, &there).next().is_some())
        {
            if let Err(why) = self.add(place, &there) {
                self.refuse(place, &there, &why, told);
            }
        }
        // A room is opened when the guard has it.
        if !before.is_empty() || first_new < self.spots.len() {
            self.guard_anew(told);
        }
        let numbers = before.iter().map(|(number, _)| *number);
        let numbers: Vec<usize> = numbers.chain(first_new..self.spots.len()).collect();
        let mut lost = Vec::new();
        for number in numbers {
            if let Err(why) = self.rooms.prefer(number) {
                let place = self.rooms.groups[number].place.clone();
                self.refuse(&place, &there, &why, told);
                lost.push(number);
            }
        }
        before.iter().for_each(|(_, shelf)| shut(shelf));
        self.forget(&lost, told);
        Ok(())
    }

    fn add(&mut self, place: &Place, there: &Sample) -> Result<()> {
        let seen = self.wanted.seen(there);
        self.rooms.add(place, &seen, MOST_WAITING)?;
        self.refused.remove(place);
        self.spots.push(Spot {
            control_group: control_group(place, there),
            ..Spot::default()
        });
        Ok(())
    }

    /// Returns the rooms that a group had before. One whose rooms can't be made anew keeps them, which is told once.
    fn renew(&mut self, number: usize, there: &Sample, told: &mut Told) -> Option<(usize, Shelf)> {
        let place = &self.rooms.groups[number].place;
        let shown = place.shown();
        let spot = &mut self.spots[number];
        spot.control_group = control_group(place, there);
        let seen = self.wanted.seen(there);
        let renewed = self.rooms.renew(number, &seen, MOST_WAITING);
        let why = renewed.as_ref().err().map(|error| format!("{error:#}"));
        if let Some(why) = why.as_ref().filter(|_| why != spot.not_renewed) {
            told.warnings.push(format!(
                "connections that wait for {shown} stay in the control group of its old listener: {why}"
            ));
        }
        spot.not_renewed = why;
        Some((number, renewed.ok()?))
    }

    pub(super) fn refuse(
        &mut self,
        place: &Place,
        there: &Sample,
        why: &anyhow::Error,
        told: &mut Told,
    ) {
        let refused = Refused {
            listeners: cookies_at(place, there),
            why: format!("{why:#}"),
            at: Instant::now(),
        };
        let why = refused.why.clone();
        let before = self.refused.insert(place.clone(), refused);
        if before.is_some_and(|before| before.why == why) {
            return;
        }
        if let Some(Last(is_last)) = self.refusals.allows(Instant::now()) {
            let quiet = humantime::format_duration(QUIET_FOR);
            let more = match is_last {
                true => format!("; keep names other such addresses only after {quiet}"),
                false => String::new(),
            };
            told.warnings
                .push(format!("{} is not kept: {why}{more}", place.shown()));
        }
    }

    /// Why a port has no rooms although somebody listens there. Where one of its listeners has some, others need none:
    /// anybody may listen on another address.
    pub(super) fn refusal(&self) -> Option<String> {
        let kept = self.ports();
        let mut refused = self.refused.iter();
        let (_, refused) = refused.find(|(place, _)| !kept.contains(place.port))?;
        Some(refused.why.clone())
    }

    pub(super) fn ports(&self) -> PortSet {
        let groups = self.rooms.groups.iter();
        groups.map(|group| group.place.port).collect()
    }

    /// These groups have no rooms any more.
    pub(super) fn forget(&mut self, numbers: &[usize], told: &mut Told) {
        if numbers.is_empty() {
            return;
        }
        let mut numbers = numbers.to_vec();
        numbers.sort_unstable();
        for number in numbers.into_iter().rev() {
            self.rooms.remove(number);
            self.spots.remove(number);
        }
        self.guard_anew(told);
    }

    /// Starts a guard for the rooms that there are now, in the place of the one before.
    pub(super) fn guard_anew(&mut self, told: &mut Told) {
        self.know_rooms();
        // The guard from before has those rooms, too.
        if self.leaving.is_some() {
            return;
        }
        let before = self.watch.take();
        self.guarded_at = Instant::now();
        if !self.rooms.groups.is_empty() {
            match Watch::start(&self.rooms, Instant::now() + LONGEST) {
                Ok(watch) => self.watch = Some(watch),
                Err(error) => told.warnings.push(format!("{error:#}")),
            }
        }
        before.map(Watch::dismiss);
    }

    /// Wakes when somebody begins to wait there.
    pub(super) fn know_rooms(&mut self) {
        let groups = self.rooms.groups.iter();
        self.wake = Wake::of(groups.filter_map(|group| group.shelf.as_ref())).ok();
    }

    /// A guard that is lost gets a successor.
    pub(super) fn attend(&mut self, told: &mut Told) {
        let Some(watch) = &mut self.watch else {
            if !self.spots.is_empty() && self.guarded_at.elapsed() >= RETRY_AFTER {
                self.guard_anew(told);
            }
            return;
        };
        match watch.keep(&self.rooms, Instant::now() + LONGEST) {
            Ok(None) => return,
            Ok(Some(words)) => told.warnings.push(words),
            Err(error) => {
                told.warnings.push(format!("{error:#}"));
                self.watch = None;
            }
        }
        // It has acted if it took this process for dead.
        let numbers = 0..self.spots.len();
        let shut = numbers.filter(|n| !self.rooms.groups[*n].is_open());
        let shut: Vec<usize> = shut.collect();
        self.forget(&shut, told);
    }
}

fn at<'a>(place: &'a Place, there: &'a Sample) -> impl Iterator<Item = &'a Listener> {
    let listeners = there.listeners.iter();
    listeners.filter(move |listener| place.is_of(listener))
}

pub(super) fn cookies(there: &Sample) -> Vec<u64> {
    let mut cookies: Vec<u64> = there.listeners.iter().map(|l| l.id.cookie).collect();
    cookies.sort_unstable();
    cookies
}

fn cookies_at(place: &Place, there: &Sample) -> Vec<u64> {
    at(place, there).map(|l| l.id.cookie).collect()
}

pub(super) fn control_group(place: &Place, there: &Sample) -> Option<u64> {
    at(place, there).next()?.cgroup
}

/// The guard of a dead keep stands back from the ports that this process has locked as runs do, where somebody listens.
///
/// # Errors
/// It does not.
fn await_dead_keeps(wanted: &Wanted, ports: &PortSet) -> Result<()> {
    let until = Instant::now() + STANDS_BACK_WITHIN;
    while let Some(guard) = keep_on(ports, &wanted.run)? {
        ensure!(
            Instant::now() < until,
            "the guard of a dead keep (pid {}) does not stand back from {}: syngate clear ends it",
            guard.pid,
            ports.brief()
        );
        std::thread::sleep(RETRY);
    }
    Ok(())
}

/// The guard of a dead run would hand over later. The lock of runs is this process's.
///
/// # Errors
/// It has connections that wait for a listener, and stays until one comes.
fn end_guards_of_dead_runs(ports: &PortSet) -> Result<()> {
    let concerns = |guard: &RoomGuard| {
        let ports = guard.orders.ports.intersection(ports);
        guard.orders.keeps.is_none() && !ports.is_empty() && guard.is_here() == Some(true)
    };
    let dead = guards().into_iter().filter(concerns);
    for guard in dead {
        let waiting = stranded(&guard)?;
        ensure!(
            waiting == 0,
            "the guard of a dead run still has waiting rooms on {}: {} there, and nobody listens",
            guard.orders.ports.brief(),
            counted_does(waiting, "connection", ["waits", "wait"])
        );
        hand_over(&guard).context("the waiting rooms of a dead run can't be closed")?;
    }
    Ok(())
}

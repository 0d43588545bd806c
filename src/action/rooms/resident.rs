//! For `syngate keep`: rooms that come and go with the service's listeners, group by group.

use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};

use super::departed::{Queues, departed};
use super::figures::Figures;
use super::groups::{Group, Rooms};
use super::left::Left;
use super::letting_go::Next;
use super::make::{control_groups, fill, filling, group_of};
use super::note::Note;
use super::options::RoomOptions;
use crate::action::contract::Seen;
use crate::kernel::room::copy::unmovable;
use crate::kernel::room::unlike::OWN_PROGRAM;
use crate::kernel::room::wake::Wake;
use crate::kernel::room::{Place, Shelf, longest_queue};
use crate::kernel::sockets::{Listener, Sample};

/// When a listener has been there for so long, its process accepts connections, most likely.
pub(crate) const SETTLES_AFTER: Duration = Duration::from_millis(30);

/// What a look at a group has shown, and what was done there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tended {
    pub served: bool,
    pub waiting: usize,
    /// The connections that were handed over.
    pub figures: Figures,
    /// The service has given its listeners a program of its own, and nobody waits.
    pub has_own: bool,
}

impl Rooms {
    /// Makes rooms for that place, bound and not open, as the last group. [`Rooms::prefer`] opens them, once a
    /// guard has them. `Ok`: the number of the group.
    ///
    /// # Errors
    /// That can't be done there. Nothing has changed.
    pub(crate) fn add(&mut self, place: &Place, seen: &Seen, max_held: u32) -> Result<usize> {
        let group = self.made(place, seen, max_held)?;
        self.groups.push(group);
        Ok(self.groups.len() - 1)
    }

    /// Puts new rooms in the place of a group's, which are to be closed once the new ones are open: see
    /// [`Rooms::prefer`].
    ///
    /// # Errors
    /// Nothing has changed.
    pub(crate) fn renew(&mut self, number: usize, seen: &Seen, max_held: u32) -> Result<Shelf> {
        let place = self.groups[number].place.clone();
        let mut fresh = self.made(&place, seen, max_held)?;
        let group = &mut self.groups[number];
        let before = std::mem::replace(&mut group.shelf, fresh.shelf.take());
        before.context("no room")
    }

    /// Closes the rooms of a group where nobody listens: the waiting connections are reset. Returns how many, and how
    /// many of them had left.
    pub(crate) fn reset(&mut self, number: usize) -> Figures {
        let left = self.left_in(number);
        let before = std::mem::take(&mut self.figures);
        self.hand_over(&[number]);
        let mut figures = std::mem::replace(&mut self.figures, before);
        figures.tell_apart(left);
        figures
    }

    /// How many connections wait in a group that their clients have closed.
    pub(crate) fn left_in(&mut self, number: usize) -> usize {
        let waiting = self.groups[number].waiting();
        let place = self.groups[number].place.clone();
        if waiting == 0 {
            return 0;
        }
        let queues = self.queues_beside(&place);
        // Where the kernel does not tell, none has left.
        self.unaccepted_clients()
            .map_or(0, |clients| departed(&place, waiting, &queues, &clients))
    }

    /// How many wait at other addresses of the place's port.
    fn queues_beside(&mut self, place: &Place) -> Queues {
        let mut queues = Queues::new();
        let mut add = |address, waiting| *queues.entry(address).or_default() += waiting;
        let there = self.look(false).unwrap_or_default();
        let others = |address, port| port == place.port && address != place.address;
        for one in &there.listeners {
            if others(one.address, one.port) {
                add(one.address, one.accept_queue as usize);
            }
        }
        for group in &self.groups {
            if others(group.place.address, group.place.port) {
                add(group.place.address, group.waiting());
            }
        }
        queues
    }

    /// Closes the rooms of a group and forgets it. The waiting connections go to listeners, or are reset.
    pub(crate) fn remove(&mut self, number: usize) {
        if self.groups[number].is_open() {
            self.hand_over(&[number]);
            self.go_on_with(number, Next::AtOnce);
        }
        let group = self.groups.remove(number);
        if group.lent {
            self.lend_no_longer(&group.place);
        }
    }

    /// Notes what the keep would leave.
    ///
    /// # Errors
    /// The file can't be written.
    pub(crate) fn note(&mut self, seen: &Seen) -> Result<()> {
        let has = |l: &&Listener| {
            let lent = self.lent.as_ref();
            lent.is_some_and(|lent| lent.has(l.id.cookie))
        };
        // Once: a listener may close meanwhile.
        let lent: Vec<u64> = seen
            .before
            .listeners
            .iter()
            .filter(has)
            .map(|l| l.id.cookie)
            .collect();
        let lent = |l: &Listener| lent.contains(&l.id.cookie);
        match &mut self.note {
            Some(note) => {
                let groups = self.groups.iter().filter(|group| group.lent);
                let served = |group: &&Group| group.listeners(seen.before).into_iter().any(lent);
                let deserted = groups.filter(|group| !served(group));
                let deserted = deserted.map(|group| group.place.port);
                note.renew(&Left::of(seen, lent, deserted))
            }
            None => {
                self.note = Some(Note::write(seen, lent)?);
                Ok(())
            }
        }
    }

    /// How many connections wait in each group. `wake` tells where nobody does: only the other rooms are looked at.
    ///
    /// # Errors
    /// These can't be reached: this process may open no more files.
    pub(crate) fn who_waits(&self, wake: Option<&Wake>) -> Result<Vec<usize>> {
        let ready = wake.map(Wake::ready).transpose()?;
        let may_wait = |group: &Group| {
            let mut rooms = group.cookies().iter();
            ready
                .as_ref()
                .is_none_or(|ready| rooms.any(|room| ready.contains(room)))
        };
        let groups = self.groups.iter();
        let waiting = groups.map(|group| match may_wait(group) {
            true => group.try_waiting(),
            false => Ok(0),
        });
        waiting.collect()
    }

    /// What was given back is noted no more.
    pub(crate) fn note_only_groups(&mut self) {
        let ports = self.groups.iter().map(|group| group.place.port).collect();
        // Else who finds the note takes back what is not there.
        self.note
            .iter_mut()
            .for_each(|note| drop(note.keep_only(&ports)));
    }

    /// Lets the programs know the listeners that are there, and hands those over who wait although somebody
    /// listens. The answers are in the order of the groups.
    ///
    /// `waited`, `waiting`: how many waited in each group before the look and after it. Who began to wait later may
    /// do so because a listener has closed that the look has shown.
    pub(crate) fn tend_each(
        &mut self,
        there: &mut Sample,
        waited: &[usize],
        waiting: &[usize],
    ) -> Vec<Tended> {
        let before = std::mem::take(&mut self.figures);
        self.compare(there, waiting);
        self.await_no_handshake_before();
        let tended = (0..self.groups.len()).map(|number| {
            let mut waiting = waiting[number];
            if waited[number] > 0 || self.groups[number].letting_go.is_some() || waiting == 0 {
                self.tend_group(number, there, waiting > 0);
            }
            let group = &self.groups[number];
            if waiting > 0 {
                waiting = group.try_waiting().unwrap_or(waiting);
            }
            Tended {
                served: self.is_served(group, there),
                waiting,
                figures: std::mem::take(&mut self.figures),
                has_own: group.has_own.get(),
            }
        });
        let tended = tended.collect();
        self.figures = before;
        self.settle();
        self.set_busy(false);
        self.lend_on(there);
        self.let_share(there);
        self.free_idle(there);
        tended
    }

    /// Listeners have their own backlog once they keep up, and their share once they accept connections.
    pub(super) fn settle(&mut self) {
        self.still_raised();
        if self.is_calm_for(SETTLES_AFTER) {
            self.groups.iter_mut().for_each(Group::settle);
        }
    }

    /// Programs of a service's own that were replaced.
    pub(crate) fn replaced(&self) -> Vec<String> {
        let words = |group: &Group| group.replaced_words(true);
        self.groups.iter().filter_map(words).collect()
    }
}

impl Rooms {
    fn made(&mut self, place: &Place, seen: &Seen, max_held: u32) -> Result<Group> {
        let (count, filling) = filling(room_options(max_held), longest_queue(seen.netns));
        let listeners = seen.before.listeners.iter();
        let listeners: Vec<&Listener> = listeners.filter(|l| place.is_of(l)).collect();
        let mut group = group_of(place.clone(), &listeners, filling, seen)?;
        if group.lent {
            self.lend(&group, seen)?;
        }
        let filled = group.lend_option();
        let filled = filled.and_then(|()| fill(&mut group, count, seen, &control_groups(seen)));
        if filled.is_err() && group.lent {
            self.lend_no_longer(place);
        }
        filled.map(|()| group)
    }
}

impl Group {
    /// The program chooses all listeners that are there, and none of them first.
    fn settle(&mut self) {
        let Some(preferred) = &mut self.preferred else {
            return;
        };
        let is_new = preferred.settle();
        // The service may have given it as soon as it listened.
        if is_new && self.may_keep_program() {
            self.has_own.set(true);
            return;
        }
        let _ = self.choose_anew();
    }

    /// From now on somebody waits: no look has shown that before.
    pub(crate) fn begins_to_wait(&mut self) {
        let rooms = self.cookies().to_vec();
        self.waits.get_mut().are_empty(&rooms, Instant::now());
    }

    /// Whether the program has been attached, and prefers the service's listeners.
    pub(crate) fn is_kept(&self) -> bool {
        self.preferred.is_some()
    }
}

pub(super) fn room_options(max_held: u32) -> RoomOptions {
    RoomOptions {
        max_held,
        release_rate: None,
        checks: false,
        named: false,
    }
}

/// Why a place has no rooms, in the words of a look at its listeners.
pub(crate) fn has_own_program(place: &Place) -> Error {
    unmovable(&place.shown(), OWN_PROGRAM)
}

/// Has the connections that wait there move to the listeners that the group's program chooses.
pub(crate) fn shut(shelf: &Shelf) {
    let rooms = shelf.rooms().unwrap_or_default();
    for room in &rooms {
        room.shut();
    }
}

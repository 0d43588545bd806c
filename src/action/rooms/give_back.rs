//! When the rooms are closed: listeners have nothing of syngate's any more.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use anyhow::Result;

use super::again::again;
use super::groups::{Group, Rooms};
use super::passes::Passes;
use crate::kernel::bpf::{Link, leave_choice_to_kernel};
use crate::kernel::room::{Place, copy, reuseport};
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::{Listener, Looks, Sample, Want};
use crate::words::scope::Scope;

impl Rooms {
    /// Takes back what was given to the listeners that are there now. The rooms are closed.
    pub(crate) fn give_back(&mut self) {
        if std::mem::replace(&mut self.given_back, true) {
            return;
        }
        // The guard holds them, too, and ends later.
        self.links.drain(..).for_each(Link::detach);
        self.passes = Passes::default();
        self.lend_nowhere();
        self.groups.iter_mut().for_each(Group::close_copies);
        let there = again(|| self.everywhere()).or_else(|_| self.look(true));
        let there = there.unwrap_or_default();
        self.follow(&there);
        let moved = self.moving.is_over();
        let calm = self.is_calm();
        self.take_back(&there);
        let old = &self.old;
        for group in &mut self.groups {
            self.life.show();
            self.told.extend(group.lower_now(&there));
            let listeners = group.listeners(&there);
            // When the old ones close, their connections still have to move to the new ones.
            let all_new = listeners.iter().all(|l| !old.contains(&l.id.cookie));
            let first = listeners.first().filter(|_| moved);
            let first = first.filter(|_| all_new || listeners.len() == 1 || calm);
            let copy = first.and_then(|l| again(|| copy::of(l, &there.holders)).ok());
            if let Some(copy) = copy.filter(|copy| !group.sees_own_program(copy)) {
                let _ = leave_choice_to_kernel(copy.as_fd());
            }
            self.told.extend(group.replaced_words(self.keeps.is_some()));
            // Bound sockets could keep others from binding the address.
            group.shelf = None;
        }
        if let Some(note) = self.note.take() {
            note.remove();
        }
    }

    /// Where listeners have come on the same ports that are in no group with rooms, or for which rooms were closed.
    pub(crate) fn elsewhere(&mut self) -> Vec<String> {
        let there = self.look(false).unwrap_or_default();
        let others = there.listeners.iter().filter(|listener| {
            let place = Place::of(listener);
            let at_port = self
                .groups
                .iter()
                .any(|group| group.place.port == place.port);
            let at_place = self.groups.iter().any(|group| group.place == place);
            let mut gave_way = self.groups.iter().filter(|group| group.gave_way);
            let moved = !at_place || gave_way.any(|group| group.place.is_before(listener));
            at_port && moved && !self.old.contains(&listener.id.cookie)
        });
        others.map(Listener::shown).collect()
    }

    /// Listeners have SO_REUSEPORT no longer that they have from syngate; also those on other addresses than the run
    /// is for.
    pub(super) fn take_back(&self, there: &Sample) {
        let listeners = there.listeners.iter();
        let lent: Vec<&Listener> = listeners.filter(|l| self.is_lent(l)).collect();
        // One that other listeners of the service's are beside has set the option itself meanwhile.
        let own = |l: &&&Listener| {
            let mut others = there.listeners.iter();
            self.of_unit && others.any(|o| Place::of(o) == Place::of(l) && !self.is_lent(o))
        };
        let lent: Vec<&Listener> = lent.iter().filter(|l| !own(l)).copied().collect();
        for listener in &lent {
            self.life.show();
            if let Ok(copy) = again(|| copy::of(listener, &there.holders)) {
                let _ = again(|| copy::set_shares_port(&copy, false));
            }
        }
        let places: BTreeSet<Place> = lent.into_iter().map(Place::of).collect();
        for place in places {
            let _ = again(|| reuseport::forget(&place, self.netns()));
        }
    }

    /// What listens on the ports, on any address, and may have SO_REUSEPORT from syngate.
    pub(super) fn everywhere(&self) -> Result<Sample> {
        let ports = self.groups.iter().map(|group| group.place.port).collect();
        let mut sockets = Sockets::new(&ports, &Scope::default())?;
        if let Some(netns) = self.netns() {
            sockets.look_in(netns)?;
        }
        let mut there = sockets.look(Want {
            holders: true,
            ..Want::default()
        })?;
        // A keep lends nothing elsewhere, and has perhaps other groups, which stay.
        if self.keeps.is_some() {
            let is_here =
                |l: &Listener| self.groups.iter().any(|group| group.place == Place::of(l));
            there.listeners.retain(is_here);
        }
        Ok(there)
    }

    /// Whether the listener has SO_REUSEPORT from syngate.
    pub(super) fn is_lent(&self, listener: &Listener) -> bool {
        let (place, cookie) = (Place::of(listener), listener.id.cookie);
        match (&self.lent, &self.bindings) {
            (Some(lent), _) => lent.has(cookie),
            (None, Some(bindings)) if !self.old.contains(&cookie) => {
                bindings.of(cookie).is_some_and(|binding| !binding.shares)
            }
            _ => self
                .groups
                .iter()
                .any(|group| group.lent && group.place == place),
        }
    }
}

//! `syngate keep --any`: SO_REUSEPORT for services that do not set it.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::groups::{Group, Rooms};
use super::hook;
use crate::action::contract::Seen;
use crate::kernel::bpf::Link;
use crate::kernel::room::{Place, copy};
use crate::kernel::sockets::holders::{self, ticks};
use crate::kernel::sockets::{Device, Listener, Sample};

impl Rooms {
    /// The listener of a group has the option from now on, as one of syngate's, and so have those that come in its
    /// place. It is set when the rooms are made.
    ///
    /// # Errors
    /// It was not asked for, or can't be done.
    pub(super) fn lend(&mut self, group: &Group, seen: &Seen) -> Result<()> {
        let place = &group.place;
        ensure!(
            self.any,
            "the listener on {} does not set SO_REUSEPORT, so no socket can wait beside it; let the service set it \
             (nginx: listen ... reuseport; haproxy does), or use --any",
            place.shown()
        );
        ensure!(
            place.device == Device::Any,
            "the listener on {} is bound to a device, and can't be given SO_REUSEPORT",
            place.shown()
        );
        if self.lent.is_none() {
            let (links, lent) = hook::share_with_first(self.netns())?;
            self.links.extend(links);
            self.lent = Some(lent);
        }
        if let Some(lent) = &self.lent {
            lent.set_busy(true);
            let unit = self.unit_at(place, &seen.before.listeners);
            for copy in &group.copies {
                lent.lend(place, copy::cookie(copy)?, unit)?;
            }
        }
        self.note(seen)
    }

    /// With `--unit`: the control group of the listener there.
    fn unit_at(&self, place: &Place, listeners: &[Listener]) -> Option<u64> {
        let mut listeners = listeners.iter().filter(|_| self.of_unit);
        listeners.find(|l| place.is_of(l))?.cgroup
    }

    /// The service has begun to set the option itself, and the socket that had it from here has closed: another one has
    /// the place.
    pub(super) fn lend_on(&mut self, there: &Sample) {
        let Some(lent) = self.lent.as_ref().filter(|_| !self.is_calm()) else {
            return;
        };
        let mut claims = Vec::new();
        for group in self.groups.iter().filter(|group| group.lent) {
            let listeners = group.listeners(there);
            let first = listeners.first().filter(|l| !lent.has(l.id.cookie));
            if let Some(listener) = first.filter(|_| lent.owner(&group.place).is_none()) {
                let unit = self.unit_at(&group.place, &there.listeners);
                claims.push((group.place.clone(), listener.id.cookie, unit));
            }
        }
        // One that fails is tried again at the next look.
        self.claim(&claims);
    }

    /// The sockets with these cookies have the places, and set the option themselves.
    fn claim(&mut self, claims: &[(Place, u64, Option<u64>)]) {
        let Some(lent) = self.lent.as_ref().filter(|_| !claims.is_empty()) else {
            return;
        };
        for (place, cookie, unit) in claims {
            let _ = lent.claim(place, *cookie, *unit);
        }
        // A socket may have closed before it got the place. Nothing would have the place free again then. Without a look,
        // it is none of the service's after a moment, as any other that does not listen.
        let Ok(there) = self.look(false) else {
            return;
        };
        let closed = claims.iter().filter(|(_, cookie, _)| {
            let mut listeners = there.listeners.iter();
            !listeners.any(|l| l.id.cookie == *cookie)
        });
        for (place, cookie, _) in closed {
            self.lent.iter().for_each(|lent| lent.free(place, *cookie));
        }
    }

    /// A process that has the listener, and was refused beside it, sets the option itself by now: the kernel decides.
    /// Which sockets it has is looked at once each time it was refused.
    pub(super) fn let_share(&mut self, there: &Sample) {
        let Some(lent) = &self.lent else {
            return;
        };
        let (of_unit, mut claims) = (self.of_unit, Vec::new());
        for group in self.groups.iter_mut().filter(|group| group.lent) {
            let refused = lent.refused(&group.place);
            let Some(started) = group.bound.newly_refused(refused) else {
                continue;
            };
            let owner = lent.owner(&group.place);
            let mut listeners = there.listeners.iter();
            let listener = listeners.find(|l| Some(l.id.cookie) == owner);
            let has = |listener: &&Listener| {
                let holders = holders::find(&[listener.inode]);
                let mut holders = holders.values();
                holders.any(|holder| holder.started == ticks(started))
            };
            if let Some(listener) = listener.filter(has) {
                let unit = listener.cgroup.filter(|_| of_unit);
                claims.push((group.place.clone(), listener.id.cookie, unit));
            }
        }
        // Where one fails, the process is refused once more.
        self.claim(&claims);
    }

    /// This process binds rooms or has copies of listeners, or does so no longer.
    pub(crate) fn set_busy(&self, busy: bool) {
        self.lent.iter().for_each(|lent| lent.set_busy(busy));
    }

    /// A socket may be bound where a group's listener was, and not listen. It keeps the service out for a moment
    /// only: then the next socket that is bound there takes its place.
    pub(super) fn free_idle(&mut self, there: &Sample) {
        let served = self.groups.iter();
        let served: Vec<bool> = served.map(|group| self.is_served(group, there)).collect();
        let (Some(lent), now) = (&self.lent, Instant::now()) else {
            return;
        };
        for (group, served) in self.groups.iter_mut().zip(served) {
            let bound = lent.owner(&group.place).filter(|_| !served);
            if group.bound.is_idle(bound, now) {
                bound
                    .into_iter()
                    .for_each(|cookie| lent.free(&group.place, cookie));
            }
        }
    }

    /// Sockets that are bound where these groups are get the option no more.
    pub(super) fn lend_nowhere(&self) {
        if let Some(lent) = &self.lent {
            let lent_to = self.groups.iter().filter(|group| group.lent);
            lent_to.for_each(|group| lent.forget(&group.place));
        }
    }

    /// The programs go when no group needs them.
    pub(crate) fn lend_while_needed(&mut self) {
        if !self.groups.iter().any(|group| group.lent) {
            self.links.drain(..).for_each(Link::detach);
            self.lent = None;
        }
    }

    /// Takes the option back from the listener there. The rooms of that place are closed.
    pub(super) fn lend_no_longer(&mut self, place: &Place) {
        if let Some(lent) = &self.lent {
            lent.forget(place);
        }
        let there = self.look_for(|_, there| {
            let listeners = there.listeners.iter();
            let there = listeners.filter(|l| place.is_of(l));
            there.map(|l: &Listener| l.inode).collect()
        });
        let mut there = there.unwrap_or_default();
        there.listeners.retain(|l| place.is_of(l));
        self.take_back(&there);
        self.lend_while_needed();
    }
}

//! After the release of `--syn park`, until COMMAND has ended and the service has accepted the connections that
//! waited. A new listener may close again: `nginx -t` listens for a moment, and a service may end as it starts. Then
//! the connections that it has not accepted come back to the rooms, and the next listener gets them.

use std::time::Instant;

use anyhow::Result;

use super::groups::{Filling, Group, Rooms};
use super::letting_go::{Next, Then, spread};
use super::preferred::{Preferred, Targets, copies, program};
use crate::decide::policy::{Answer, Waiting};
use crate::kernel::room::places::{put_all, put_from_dead};
use crate::kernel::room::{Room, copy, programs};
use crate::kernel::sockets::Sample;

impl Rooms {
    /// As [`Rooms::hand_over`]; but the rooms stay, unless it is the old process that goes on.
    pub(crate) fn release(&mut self, numbers: &[usize]) {
        self.with_heirs(numbers, |rooms, number, there| {
            let group = &rooms.groups[number];
            let goes_on = rooms.is_served(group, there) && !rooms.is_served_anew(group, there);
            match goes_on {
                true => rooms.hand_one_over(number, there),
                false => rooms.release_one(number, there),
            }
        });
    }

    /// The old process goes on, and may end later: it gets back the waiting connections, and the rooms stay.
    pub(super) fn release_to_old(&mut self, number: usize) {
        // The array of another process's program has the listener, and lets it go with its program.
        let _ = spread(self.groups[number].rooms().first());
        self.with_heirs(&[number], Rooms::release_one);
    }

    fn release_one(&mut self, number: usize, there: &Sample) {
        let group = &mut self.groups[number];
        let heirs = group.heirs(there, &self.old);
        let copies = copies(&heirs, there);
        let from_dead = self.is_orphaned;
        let led = group.instead_of_passes(|group| group.lead_first_to(&copies, from_dead));
        if led.is_err() {
            return self.hand_one_over(number, there);
        }
        self.stands_by = true;
        self.changed_at = Some(Instant::now());
        if copies.is_empty() {
            // It may have closed again.
            return;
        }
        self.begin_to_let_go(number, &copies);
        if self.let_go(number, &heirs, Next::InTime, Then::StandBy) {
            self.groups[number].stand_by();
        }
    }

    /// Whether the group stands by, and the service stays: the connections that waited were accepted, and no listener
    /// has come or gone for a while.
    pub(super) fn is_settled(&self, group: &Group, there: &Sample) -> bool {
        let accepted = !group.unaccepted && group.waiting() == 0;
        group.preferred.is_some() && accepted && self.is_served(group, there) && self.is_calm()
    }

    /// Returns how many connections wait for a place in the service's queue, or for `--release-rate`. If none does,
    /// returns how many groups have connections that the service has not accepted. A group where nobody listens
    /// does not count.
    pub(crate) fn unaccepted(&mut self) -> Answer {
        let there = self.look(false).unwrap_or_default();
        let groups = self.groups.iter();
        let groups = groups.filter(|group| group.is_kept() && self.is_served(group, &there));
        let (mut count, mut unaccepted) = (0, 0);
        for group in groups {
            count += group.waiting() + group.too_many_of(&there);
            unaccepted += usize::from(group.unaccepted);
        }
        match count {
            0 => Answer::Left(Some(unaccepted)),
            _ => Answer::Waiting(Waiting {
                count,
                ..Waiting::default()
            }),
        }
    }
}

impl Group {
    /// Whether some are to be handed over still, or have been a moment ago.
    pub(super) fn is_handing_over(&self) -> bool {
        self.letting_go.is_some() || !self.raised.is_empty()
    }

    /// From now on new connections go to these listeners, and to the rooms if none is left. `from_dead`: the array of a
    /// dead keep's program may have them. That of one which lives keeps them.
    fn lead_first_to(&mut self, to: &Targets, from_dead: bool) -> Result<()> {
        let cookies = to.iter().map(|(copy, _)| copy::cookie(copy));
        let preferred = Preferred::new(cookies.collect::<std::io::Result<_>>()?)?;
        let copies = to.iter().map(|(copy, _)| copy);
        match from_dead {
            true => {
                let rooms = self.rooms();
                put_from_dead(&preferred.array, copies, || drop(spread(rooms.first())))?;
            }
            false => put_all(&preferred.array, copies)?,
        }
        self.know_size();
        let choice = match &self.opened {
            Some(opened) => self.while_there(opened),
            // A guard does not know the array that has the rooms.
            None => (Vec::new(), programs::spread()),
        };
        self.attach(&program(&preferred, choice)?, &self.rooms())?;
        self.preferred = Some(preferred);
        Ok(())
    }

    /// A guard has the rooms before these are open, and so does not know how many may wait in each.
    fn know_size(&mut self) {
        let size = self
            .rooms()
            .iter()
            .map(Room::size)
            .max()
            .unwrap_or_default();
        if self.filling.size == 0 {
            self.filling = Filling { size, turn: size };
        }
    }

    /// The rooms are open again, and empty.
    pub(super) fn stand_by(&mut self) {
        let counted = self.count_anew();
        if counted.and_then(|()| self.prefer()).is_err() {
            self.preferred = None;
        }
    }
}

//! For `syngate keep`: the rooms of a keep that has died, or that systemd restarts, become those of the next one. So a
//! crash of the service finds rooms at any moment.
//!
//! The guard of the one before has the rooms. The next keep copies their descriptors from it, starts a guard of its own
//! for them, and kills the one before, which so leaves them as they are. Not taken: a word to that guard, which might
//! not come to hear it.

use std::fs;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};

use super::groups::{Group, Rooms};
use super::left::path_of;
use super::letting_go::spread;
use super::make::{filling, group_of};
use super::resident::room_options;
use crate::action::contract::Seen;
use crate::gate::rooms::end_at_once;
use crate::kernel::bpf::Link;
use crate::kernel::room::known::{RoomGuard, guards};
use crate::kernel::room::orders::File;
use crate::kernel::room::reuseport::Lent;
use crate::kernel::room::{Place, Room, Shelf, longest_queue};
use crate::kernel::sockets::Listener;

/// What the guard of a dead keep has.
pub(crate) struct Inheritance {
    /// With whether the service has SO_REUSEPORT from syngate.
    shelves: Vec<(Shelf, bool)>,
    links: Vec<Link>,
    lent: Option<Lent>,
    /// Keeps the lock on the note, so that nobody takes back what it tells of.
    _lock: Option<OwnedFd>,
}

impl Inheritance {
    /// # Errors
    /// Its files can't be copied, or it is just handing over.
    pub(crate) fn of(guard: &RoomGuard) -> Result<Inheritance> {
        let mut all = Inheritance {
            shelves: Vec::new(),
            links: Vec::new(),
            lent: None,
            _lock: None,
        };
        for (kind, file) in guard.files()? {
            match kind {
                File::Shelf | File::LentShelf => {
                    let shelf = Shelf::adopt(file)?;
                    let known = |room| guard.orders.rooms.contains(room);
                    ensure!(
                        shelf.cookies().iter().all(known),
                        "they are not those that its guard names"
                    );
                    let rooms = shelf.rooms()?;
                    let stands = |room: &Room| room.listens() && room.waiting() == 0;
                    ensure!(
                        rooms.iter().all(stands),
                        "clients wait there, or its guard closes them already"
                    );
                    all.shelves.push((shelf, kind == File::LentShelf));
                }
                File::Link => all.links.push(Link::adopt(file)),
                File::Lent => all.lent = Some(Lent::adopt(file)?),
                File::Note => all._lock = Some(file),
                File::LentPlaces | File::LentBusy | File::Bindings | File::OldListener => (),
            }
        }
        ensure!(!all.shelves.is_empty(), "its guard has none");
        Ok(all)
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = &Place> {
        self.shelves.iter().map(|(shelf, _)| shelf.place())
    }

    /// The guard from before has ended.
    pub(crate) fn take_over(self) {
        self.links.into_iter().for_each(Link::detach);
    }
}

/// What this guard would take back is another one's. To be called before the guard ends: the next run takes back what the
/// note of a dead guard tells of. The guard's command line may name any file, so the path comes from the run.
pub(crate) fn forget_note(guard: &RoomGuard) {
    if let Ok(note) = path_of(&guard.orders.run) {
        let _ = fs::remove_file(note);
    }
}

/// The keep has died as it took these rooms over: the guard from before may have them, too.
pub(super) fn end_guards_from_before(rooms: &Rooms) {
    let cookies = rooms.cookies();
    let has_them = |guard: &RoomGuard| {
        let mut of_it = guard.orders.rooms.iter();
        let has_some = of_it.any(|room| cookies.contains(room));
        guard.orders.run != rooms.run && has_some && guard.is_here() == Some(true)
    };
    for guard in guards().iter().filter(|guard| has_them(guard)) {
        forget_note(guard);
        // It may have ended.
        let _ = end_at_once(guard);
    }
}

impl Rooms {
    /// These rooms are this process's, too, as the last groups. [`Rooms::take_over`] has to follow for each, once this
    /// process's guard has them and no other.
    ///
    /// # Errors
    /// A listener can't be copied, or has gone. [`Rooms::disown`] takes back what was done.
    pub(crate) fn inherit(
        &mut self,
        from: &mut Inheritance,
        seen: &Seen,
        max_held: u32,
    ) -> Result<()> {
        let (_, filling) = filling(room_options(max_held), longest_queue(seen.netns));
        for (shelf, may_be_lent) in std::mem::take(&mut from.shelves) {
            let place = shelf.place().clone();
            let listeners = seen.before.listeners.iter();
            let listeners: Vec<&Listener> = listeners.filter(|l| place.is_of(l)).collect();
            ensure!(!listeners.is_empty(), "nobody listens on {}", place.shown());
            let is_lent = |l: &&Listener| {
                let lent = from.lent.as_ref();
                lent.is_some_and(|lent| lent.has(l.id.cookie))
            };
            let lent = may_be_lent && listeners.iter().any(is_lent);
            let mut group = group_of(place, &listeners, filling, seen)?;
            ensure!(
                !group.lent,
                "the listener on {} lacks SO_REUSEPORT",
                group.place.shown()
            );
            (group.shelf, group.lent) = (Some(shelf), lent);
            if lent {
                self.lend(&group, seen)?;
            }
            self.groups.push(group);
        }
        Ok(())
    }

    /// Forgets the groups from that one on, and leaves their rooms as they are.
    pub(crate) fn disown(&mut self, first: usize) {
        for group in self.groups.drain(first..) {
            if let Some(lent) = self.lent.as_ref().filter(|_| group.lent) {
                lent.forget(&group.place);
            }
        }
        self.lend_while_needed();
    }

    /// New connections reach the service by a program of this process's from now on. Between that of the one before and
    /// this one, the kernel chooses, and some may wait for a moment.
    ///
    /// # Errors
    /// As of [`Rooms::prefer`].
    pub(crate) fn take_over(&mut self, number: usize) -> Result<()> {
        self.groups[number].know_open_rooms()?;
        self.prefer(number)
    }
}

impl Group {
    /// They were in the array of another process's program, which lets them go with it.
    fn know_open_rooms(&mut self) -> Result<()> {
        let shelf = self.shelf.as_ref().context("no room")?;
        let rooms = shelf.rooms()?;
        let opened = self.known_rooms()?;
        spread(rooms.first())?;
        if rooms.iter().all(Room::listens) {
            opened.know(&rooms)?;
        }
        self.opened = Some(opened);
        Ok(())
    }
}

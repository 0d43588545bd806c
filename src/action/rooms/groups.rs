//! The rooms of a run, by the SO_REUSEPORT group that they stand in: parking and handing over.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::admitted::Admitted;
use super::again::again;
use super::bound::Bound;
use super::figures::{Acted, Figures};
use super::moving::Moving;
use super::note::Note;
use super::old_listener::OldListener;
use super::passes::{NotedConnections, Passes};
use crate::kernel::bpf::{Kind, Link, Program};
use crate::kernel::instructions::Instruction;
use crate::kernel::maps::{Counter, Listeners};
use crate::kernel::room::places::put_first;
use crate::kernel::room::reuseport::{Bindings, Lent};
use crate::kernel::room::{Place, Room, Shelf, programs};
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::netns::{self, Netns};
use crate::kernel::sockets::{Connection, Cookies, Listener, Looks, Sample, Want, holders};
use crate::process::attended::Life;

use super::portions::Portions;
use super::preferred::{LeftAlone, Opened, Preferred};
use super::raised::Raised;
use super::waits::Waits;

/// A look at a group's program costs a look at all files of this process, which has some for each group. With more groups,
/// the service's own programs are not looked for in mid-run.
const MOST_LOOKED_AT: usize = 32;

/// Who gets new connections while there are rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    Rooms,
    /// The service as long as it listens. A listener without SO_REUSEPORT that can't be given that is left
    /// alone: it is shared with the new process, or there is a gap.
    Service,
}

pub(crate) struct Rooms {
    /// The run's id, and what tells others which run it is.
    pub run: String,
    pub who: String,
    /// `syngate keep`: how long its guard waits for the service, once it has died.
    pub keeps: Option<Duration>,
    sockets: Sockets,
    /// The network namespace of the rooms, by the kernel's cookie. Connections can't move to another one, which may
    /// have the same name meanwhile.
    pub(super) home: u64,
    pub first: First,
    /// `--release-rate`.
    pub release_rate: Option<NonZeroU32>,
    /// The cookies of the listeners that were there before the gate closed.
    pub old: Vec<u64>,
    pub groups: Vec<Group>,
    /// For the guard of a keep that has died: the programs that the keep has left are in the way.
    pub(super) is_orphaned: bool,
    /// While these are open, sockets that are bound to the ports get SO_REUSEPORT.
    pub links: Vec<Link>,
    /// `syngate keep --any`: services that lack SO_REUSEPORT get it.
    pub any: bool,
    /// `syngate keep --unit`: all are the listeners of one unit.
    pub of_unit: bool,
    /// The sockets that have it from `syngate keep`.
    pub lent: Option<Lent>,
    /// Which sockets were bound meanwhile, as far as the kernel can note that.
    pub bindings: Option<Bindings>,
    /// Of these, what was done about the users of others; see [`Rooms::admit`].
    pub(crate) admitted: Admitted,
    pub passes: Passes,
    pub figures: Figures,
    /// The kernel's count as the rooms were made; see [`Rooms::unmoved`].
    pub(super) unmoved_before: Option<u64>,
    /// After the release the rooms stay for who comes back; see [`Rooms::release`].
    pub(crate) stands_by: bool,
    /// `--syn handover`: the listeners that have no rooms.
    pub left_alone: Vec<LeftAlone>,
    /// When listeners came or went the last time. With `--syn handover` also when the gate was closed.
    pub(super) changed_at: Option<Instant>,
    /// What to warn of at the end.
    pub(super) told: Vec<String>,
    /// The guard has acted, and nobody has told that yet.
    pub acted: Option<String>,
    /// For the guard, while this process works through many groups.
    pub(super) life: Life,
    /// What tells the next run of all this, should this process and its guard be killed.
    pub note: Option<Note>,
    pub(super) moving: Moving,
    /// See [`Rooms::let_handshakes_end`].
    pub(super) handshakes_until: Option<Instant>,
    /// When each listener was seen first, by cookie. `None`: it was there before.
    pub(super) comers: BTreeMap<u64, Option<Instant>>,
    pub(super) given_back: bool,
}

/// The rooms of one SO_REUSEPORT group.
pub(crate) struct Group {
    pub place: Place,
    /// Where its rooms lie, once they are made.
    pub shelf: Option<Shelf>,
    /// Copies of the listeners that were there before, until the rooms are open.
    pub copies: Vec<OwnedFd>,
    /// `--syn handover`: these listeners, which stay for a moment when the service has closed them.
    pub(super) old: Vec<OldListener>,
    /// The same listeners, for programs.
    pub(super) before: Option<Listeners>,
    /// The new listener, which COMMAND and `--ready-check` reach while all others wait.
    pub(super) asked: Option<Listeners>,
    /// The listeners of the service lacked SO_REUSEPORT, and have it from syngate.
    pub lent: bool,
    /// `--syn handover`: the service's listeners, which get new connections as long as there are any.
    pub(super) preferred: Option<Preferred>,
    pub(super) noted: NotedConnections,
    pub(super) filling: Filling,
    /// What programs know of the rooms while these are open.
    pub(super) opened: Option<Opened>,
    /// Since when connections may wait in the rooms.
    pub(super) waits: RefCell<Waits>,
    /// The waiting connections are being handed over.
    pub(super) letting_go: Option<Portions>,
    /// Some were handed over, and no look has shown since that all of them were accepted.
    pub(super) unaccepted: bool,
    /// Of too many: see [`MOST_LOOKED_AT`].
    pub(super) one_of_many: bool,
    /// A program of the service's own was replaced.
    pub(super) replaced: Cell<bool>,
    /// A look has shown one, and nobody waits.
    pub(super) has_own: Cell<bool>,
    /// Listeners whose backlog was raised.
    pub(super) raised: Vec<Raised>,
    pub(super) made_at: Instant,
    /// Since when nobody listens there.
    pub(super) deserted: Option<Instant>,
    /// The rooms were closed for the service, which listens elsewhere.
    pub(super) gave_way: bool,
    /// With `--any`: who is bound there.
    pub(super) bound: Bound,
}

/// How the rooms of a group are filled.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Filling {
    /// How many may wait in each room.
    pub size: u32,
    /// How many go to one room before the next one is taken.
    pub turn: u32,
}

impl Group {
    pub(crate) fn new(place: Place, filling: Filling, lent: bool) -> Group {
        Group {
            place,
            shelf: None,
            copies: Vec::new(),
            old: Vec::new(),
            before: None,
            asked: None,
            lent,
            preferred: None,
            noted: NotedConnections::default(),
            filling,
            opened: None,
            waits: RefCell::default(),
            letting_go: None,
            unaccepted: false,
            one_of_many: false,
            replaced: Cell::new(false),
            has_own: Cell::new(false),
            raised: Vec::new(),
            made_at: Instant::now(),
            deserted: None,
            gave_way: false,
            bound: Bound::default(),
        }
    }

    /// From now on new connections go to the rooms.
    ///
    /// # Errors
    /// Some may be open. [`Rooms::hand_over`] closes them.
    pub(crate) fn park(&mut self) -> Result<()> {
        let Some(shelf) = &self.shelf else {
            return Ok(());
        };
        let rooms = shelf.rooms()?;
        let opened = self.known_rooms()?;
        let fill = self.fill(&opened);
        let copies = std::mem::take(&mut self.copies);
        let before = Listeners::new(copies.len().max(1) as u32)?;
        let listeners = (before.number(), copies.len() as u32);
        let asked = Listeners::new(1)?;
        let fill = match self.noted.is_known() {
            true => self
                .noted
                .fill_but_for(listeners, (asked.number(), 1), fill),
            false => programs::fill_but_for_host(listeners, fill),
        };
        let program = Program::load(Kind::SelectOrMigrate, "gate_park", &fill)?;
        self.preferred = None;
        self.opened = Some(opened);
        self.open(&rooms)?;
        // They are in the group now, at the latest.
        put_first(&before, &copies)?;
        (self.before, self.asked) = (Some(before), Some(asked));
        self.attach(&program, &rooms)
    }

    /// What programs know of the rooms, or will once these are open.
    pub(super) fn known_rooms(&mut self) -> Result<Opened> {
        if let Some(opened) = self.opened.take() {
            return Ok(opened);
        }
        Opened::new(self.cookies().len() as u32)
    }

    /// The part of a program that chooses a room.
    pub(super) fn fill(&self, opened: &Opened) -> Vec<Instruction> {
        let count = self.filled() as u32;
        let (array, came) = (opened.array.number(), opened.came.number());
        programs::fill_in_turn(array, count, self.filling.turn, came)
    }

    /// The part of a program that ends it where no room is left.
    pub(super) fn check(&self, opened: &Opened) -> Vec<Instruction> {
        programs::while_there(opened.array.number(), self.cookies().len() as u32)
    }

    /// The rooms join the group, or the first of them.
    pub(super) fn open(&mut self, rooms: &[Room]) -> Result<()> {
        let opened = self.opened.as_ref().context("no programs know the rooms")?;
        self.letting_go = None;
        let shut = rooms.iter().enumerate().filter(|(_, room)| !room.listens());
        for (place, room) in shut {
            let now = Instant::now();
            self.waits.get_mut().are_empty(&[room.cookie()], now);
            room.open(self.filling.size)?;
            let put = opened.array.put(place as u32, room.as_fd());
            put.context("a waiting room can't be put into a map")?;
        }
        Ok(())
    }

    /// The rooms, to work with and to drop soon. None also if this process may open no more files, for longer than a
    /// moment: who finds none takes them for shut.
    pub(super) fn rooms(&self) -> Vec<Room> {
        let shelf = self.shelf.as_ref();
        shelf
            .and_then(|shelf| again(|| shelf.rooms()).ok())
            .unwrap_or_default()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.try_waiting().unwrap_or_default()
    }

    /// How many connections wait in the rooms.
    ///
    /// # Errors
    /// This process may open no more files.
    pub(super) fn try_waiting(&self) -> Result<usize> {
        let now = Instant::now();
        let shelf = self.shelf.as_ref();
        let rooms = shelf.map(|shelf| again(|| shelf.rooms())).transpose()?;
        let waiting = rooms.iter().flatten().map(|room| {
            let waiting = room.waiting();
            self.waits.borrow_mut().saw(room.cookie(), waiting, now);
            waiting
        });
        Ok(waiting.sum())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.rooms().iter().any(Room::listens)
    }

    /// Whether the rooms get new connections, or would if nobody listened.
    pub(crate) fn takes_connections(&self) -> bool {
        self.letting_go.is_none() && self.is_open()
    }

    pub(super) fn cookies(&self) -> &[u64] {
        self.shelf.as_ref().map_or(&[], Shelf::cookies)
    }

    /// How many of the rooms are filled with new connections. The last one is for those who come back; see
    /// [`Rooms::release`].
    fn filled(&self) -> usize {
        self.cookies().len().saturating_sub(1)
    }

    /// How many may wait.
    pub(super) fn room(&self) -> usize {
        self.filled() * self.filling.size as usize
    }

    /// Programs count from 0 again.
    pub(super) fn count_anew(&mut self) -> Result<()> {
        if let Some(opened) = &mut self.opened {
            opened.came = Counter::new()?;
        }
        Ok(())
    }

    /// Those of the listeners that are in this group.
    pub(super) fn listeners<'a>(&self, there: &'a Sample) -> Vec<&'a Listener> {
        let all = there.listeners.iter();
        all.filter(|l| self.place.is_of(l)).collect()
    }
}

impl Rooms {
    /// No room yet. `old` are the cookies of the listeners that were there before the gate closed.
    ///
    /// # Errors
    /// Their network namespace can't be entered.
    pub(crate) fn new(sockets: Sockets, first: First, old: Vec<u64>) -> Result<Rooms> {
        Ok(Rooms {
            run: String::new(),
            who: String::new(),
            keeps: None,
            home: netns::identity_of(sockets.netns())?,
            sockets,
            first,
            release_rate: None,
            old,
            groups: Vec::new(),
            is_orphaned: false,
            links: Vec::new(),
            any: false,
            of_unit: false,
            lent: None,
            bindings: None,
            admitted: Admitted::default(),
            passes: Passes::default(),
            figures: Figures::default(),
            unmoved_before: None,
            stands_by: false,
            left_alone: Vec::new(),
            changed_at: None,
            told: Vec::new(),
            acted: None,
            life: Life::default(),
            note: None,
            moving: Moving::default(),
            handshakes_until: None,
            comers: BTreeMap::new(),
            given_back: false,
        })
    }

    /// The kernel answers each SYN with a cookie, and takes the ACK only at a listener of a group that has sent one
    /// (tcp_synq_no_recent_overflow()). Listeners that get SO_REUSEPORT from syngate are in no group for that.
    pub(crate) fn resets_cookies(&self) -> bool {
        let always = self.sockets.syn_limits().cookies == Cookies::Always;
        always && self.groups.iter().any(|group| group.lent)
    }

    pub(crate) fn netns(&self) -> Option<&Netns> {
        self.sockets.netns()
    }

    /// What listens beside the rooms.
    ///
    /// # Errors
    /// The kernel does not list its sockets.
    pub(crate) fn look(&mut self, holders: bool) -> Result<Sample> {
        let want = Want {
            holders,
            ..Want::default()
        };
        let mut there = again(|| self.sockets.look(want))?;
        let rooms: BTreeSet<u64> = self.cookies().into_iter().collect();
        let home = self.home;
        there
            .listeners
            .retain(|l| l.id.netns == home && !rooms.contains(&l.id.cookie));
        Ok(there)
    }

    /// The same, with a holder for each of the listeners that are `wanted`, by their inodes. To look for the holders
    /// of all takes long on a host with many processes.
    ///
    /// # Errors
    /// As [`Rooms::look`].
    pub(crate) fn look_for(
        &mut self,
        wanted: impl FnOnce(&Rooms, &Sample) -> Vec<u32>,
    ) -> Result<Sample> {
        let mut there = self.look(false)?;
        there.holders = holders::find_newest(&wanted(self, &there));
        Ok(there)
    }

    /// Notes where somebody waits.
    pub(crate) fn note_who_waits(&mut self) {
        let now = Instant::now();
        // One look at all of them. If it fails, the waits that are told are longer.
        let open = self.open_rooms().unwrap_or_default();
        let queues: BTreeMap<u64, u32> = open
            .into_iter()
            .map(|room| (room.id.cookie, room.accept_queue))
            .collect();
        for group in &mut self.groups {
            let waits = group.waits.get_mut();
            for room in group.shelf.as_ref().map_or(&[][..], Shelf::cookies) {
                if let Some(queue) = queues.get(room) {
                    waits.saw(*room, *queue as usize, now);
                }
            }
        }
    }

    /// The connections whose handshakes are under way.
    pub(super) fn half_open(&mut self) -> Result<Vec<Connection>> {
        again(|| self.sockets.half_open())
    }

    /// The rooms that are open, as sock_diag tells of them.
    pub(super) fn open_rooms(&mut self) -> Result<Vec<Listener>> {
        let cookies = self.cookies();
        again(|| self.sockets.rooms(&cookies))
    }

    /// The connections that no process has accepted, and whose clients are there.
    pub(super) fn unaccepted_clients(&mut self) -> Result<Vec<Connection>> {
        again(|| self.sockets.unaccepted())
    }

    /// From now on new connections go to the rooms of that group, or would if nobody listened.
    ///
    /// # Errors
    /// Some rooms may be open. [`Rooms::hand_over`] closes them.
    pub(crate) fn begin(&mut self, number: usize) -> Result<()> {
        self.life.show();
        self.groups[number].one_of_many = self.groups.len() > MOST_LOOKED_AT;
        let port = self.groups[number].place.port;
        self.groups[number].noted = self.passes.noted(port);
        if self.first == First::Service {
            return self.prefer(number);
        }
        self.groups[number].park()
    }

    pub(crate) fn cookies(&self) -> Vec<u64> {
        self.groups
            .iter()
            .flat_map(Group::cookies)
            .copied()
            .collect()
    }

    /// Whether a listener that was not there before has come into the group.
    pub(crate) fn is_served_anew(&self, group: &Group, sample: &Sample) -> bool {
        let listeners = group.listeners(sample);
        listeners.into_iter().any(|listener| self.is_new(listener))
    }

    pub(super) fn is_new(&self, listener: &Listener) -> bool {
        !self.old.contains(&listener.id.cookie)
    }

    pub(crate) fn is_served(&self, group: &Group, sample: &Sample) -> bool {
        !group.listeners(sample).is_empty()
    }

    /// The guard has done that.
    pub(crate) fn note_acted(&mut self, acted: Acted) {
        self.figures.add(acted.figures);
        self.acted = acted.words;
    }

    /// Another process has done what is left to do.
    pub(crate) fn leave_as_it_is(&mut self) {
        self.given_back = true;
    }
}

impl Drop for Rooms {
    fn drop(&mut self) {
        self.give_back();
    }
}

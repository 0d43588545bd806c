//! The rooms of a run, by the SO_REUSEPORT group that they stand in: parking and handing over.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::admitted::Admitted;
use super::again::again;
use super::figures::{Acted, Figures};
use super::left::Note;
use crate::kernel::bpf::{Connections, Counter, Kind, Link, Listeners, Program};
use crate::kernel::control_group::ControlGroup;
use crate::kernel::instructions::Instruction;
use crate::kernel::room::lending::Bindings;
use crate::kernel::room::{Place, Room, Shelf, copy, programs};
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::netns::Netns;
use crate::kernel::sockets::{Listener, Looks, Sample, Want};

use super::policy::KEEPS_UP;
use super::preferred::{LeftAlone, Preferred, Targets, copies};

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
    sockets: Sockets,
    pub first: First,
    /// The cookies of the listeners that were there before the gate closed.
    pub old: Vec<u64>,
    pub groups: Vec<Group>,
    /// While these are open, sockets that are bound to the ports get SO_REUSEPORT.
    pub links: Vec<Link>,
    /// Which sockets were bound meanwhile, as far as the kernel can note that.
    pub bindings: Option<Bindings>,
    /// Of these, what was done about the users of others; see [`Rooms::admit`].
    pub(super) admitted: Admitted,
    /// What lets COMMAND's own connections reach the service, where that can be had.
    pub own: Option<Own>,
    pub figures: Figures,
    /// `--syn handover`: the listeners that have no rooms.
    pub left_alone: Vec<LeftAlone>,
    /// `--syn handover`: when listeners came or went the last time.
    pub(super) changed_at: Option<Instant>,
    /// The guard has acted, and nobody has told that yet.
    pub acted: Option<String>,
    /// What tells the next run of all this, should this process and its guard be killed.
    pub note: Option<Note>,
    /// The cookies of connections whose handshakes were under way in a room as it was shut.
    pub(super) awaited: Vec<u64>,
    pub(super) given_back: bool,
}

/// COMMAND is in a control group of its own, whose connections are noted.
pub(crate) struct Own {
    pub group: ControlGroup,
    pub connections: Connections,
    pub link: Link,
}

/// The rooms of one SO_REUSEPORT group.
pub(crate) struct Group {
    pub place: Place,
    /// Where its rooms lie, once they are made.
    pub shelf: Option<Shelf>,
    /// Copies of the listeners that were there before, until the rooms are open.
    pub copies: Vec<OwnedFd>,
    /// The same listeners, for programs.
    before: Option<Listeners>,
    /// The listeners of the service lacked SO_REUSEPORT, and have it from syngate.
    pub lent: bool,
    /// `--syn handover`: the service's listeners, which get new connections as long as there are any.
    pub(super) preferred: Option<Preferred>,
    /// How many may wait in each room.
    size: u32,
    /// What programs know of the rooms while these are open.
    pub(super) opened: Option<Opened>,
    /// Since when connections may wait in the rooms.
    pub parking: Option<Instant>,
    /// Listeners whose backlog was raised.
    raised: Vec<Raised>,
}

/// A listener with a longer backlog than its own.
struct Raised {
    cookie: u64,
    own: u32,
    empty_since: Option<Instant>,
}

/// The rooms of a group for its program.
pub(super) struct Opened {
    array: Listeners,
    /// How many connections the program has sent to the rooms.
    came: Counter,
}

impl Group {
    pub(crate) fn new(place: Place, size: u32, lent: bool) -> Group {
        Group {
            place,
            shelf: None,
            copies: Vec::new(),
            before: None,
            lent,
            preferred: None,
            size,
            opened: None,
            parking: None,
            raised: Vec::new(),
        }
    }

    /// From now on new connections go to the rooms.
    ///
    /// # Errors
    /// Some may be open. [`Rooms::hand_over`] shuts them.
    pub(crate) fn park(&mut self, own: Option<&Connections>) -> Result<()> {
        let Some(shelf) = &self.shelf else {
            return Ok(());
        };
        let rooms = shelf.rooms()?;
        let opened = self.to_open()?;
        let mut fill = self.fill(&opened);
        let copies = std::mem::take(&mut self.copies);
        let before = own.filter(|_| !copies.is_empty());
        let before =
            before.map(|own| Ok::<_, anyhow::Error>((own, Listeners::new(copies.len() as u32)?)));
        let before = before.transpose()?;
        if let Some((own, before)) = &before {
            let listeners = (before.number(), copies.len() as u32);
            fill = programs::fill_but_for(own.number(), listeners, fill);
        }
        let program = Program::load(Kind::SelectOrMigrate, "gate_park", &fill)?;
        self.open(&rooms, opened)?;
        if let Some((_, before)) = before {
            // They are in the group now, at the latest.
            before.put_all(&copies)?;
            self.before = Some(before);
        }
        attach(&program, &rooms)
    }

    /// What programs will know of the rooms once these are open.
    pub(super) fn to_open(&self) -> Result<Opened> {
        Ok(Opened {
            array: Listeners::new(self.cookies().len() as u32)?,
            came: Counter::new()?,
        })
    }

    /// The part of a program that chooses a room.
    pub(super) fn fill(&self, opened: &Opened) -> Vec<Instruction> {
        let count = self.cookies().len() as u32;
        let (array, came) = (opened.array.number(), opened.came.number());
        programs::fill_in_turn(array, count, self.size, came)
    }

    /// The rooms join the group.
    pub(super) fn open(&mut self, rooms: &[Room], opened: Opened) -> Result<()> {
        let opened = self.opened.insert(opened);
        self.parking = Some(Instant::now());
        for (place, room) in rooms.iter().enumerate() {
            room.open(self.size)?;
            let put = opened.array.put(place as u32, room.as_fd());
            put.context("a waiting room can't be put into a map")?;
        }
        Ok(())
    }

    /// The rooms, to work with and to drop soon. None also if this process may open no more files.
    pub(super) fn rooms(&self) -> Vec<Room> {
        let shelf = self.shelf.as_ref();
        shelf
            .and_then(|shelf| shelf.rooms().ok())
            .unwrap_or_default()
    }

    pub(super) fn waiting(&self) -> usize {
        self.rooms().iter().map(Room::waiting).sum()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.rooms().iter().any(Room::listens)
    }

    fn cookies(&self) -> &[u64] {
        self.shelf.as_ref().map_or(&[], Shelf::cookies)
    }

    /// How many may wait.
    fn room(&self) -> usize {
        self.cookies().len() * self.size as usize
    }

    /// Those of the listeners that are in this group.
    pub(super) fn listeners<'a>(&self, there: &'a Sample) -> Vec<&'a Listener> {
        let all = there.listeners.iter();
        all.filter(|l| Place::of(l) == self.place).collect()
    }
}

impl Rooms {
    /// No room yet. `old` are the cookies of the listeners that were there before the gate closed.
    pub(crate) fn new(sockets: Sockets, first: First, old: Vec<u64>) -> Rooms {
        Rooms {
            run: String::new(),
            who: String::new(),
            sockets,
            first,
            old,
            groups: Vec::new(),
            links: Vec::new(),
            bindings: None,
            admitted: Admitted::default(),
            own: None,
            figures: Figures::default(),
            left_alone: Vec::new(),
            changed_at: None,
            acted: None,
            note: None,
            awaited: Vec::new(),
            given_back: false,
        }
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
        again(|| self.sockets.look(want))
    }

    /// From now on new connections go to the rooms of that group, or would if nobody listened.
    ///
    /// # Errors
    /// Some rooms may be open. [`Rooms::hand_over`] shuts them.
    pub(crate) fn begin(&mut self, number: usize) -> Result<()> {
        if self.first == First::Service {
            return self.prefer(number);
        }
        let own = self.own.as_ref().map(|own| &own.connections);
        self.groups[number].park(own)
    }

    /// As [`Rooms::hand_over`], for all groups that are not handed over yet.
    pub(crate) fn hand_all_over(&mut self) {
        for number in 0..self.groups.len() {
            if self.groups[number].is_open() {
                self.hand_over(number);
            }
        }
    }

    pub(crate) fn hide(&mut self) {
        let cookies = self.cookies();
        self.sockets.hide_rooms(&cookies);
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
        listeners.iter().any(|l| !self.old.contains(&l.id.cookie))
    }

    pub(crate) fn is_served(&self, group: &Group, sample: &Sample) -> bool {
        !group.listeners(sample).is_empty()
    }

    /// Hands those who wait over to the group's listeners, the new ones if there are any, and lets new
    /// connections go there.
    pub(crate) fn hand_over(&mut self, number: usize) {
        let there = self.look(true).unwrap_or_default();
        let old = &self.old;
        let group = &mut self.groups[number];
        let listeners = group.listeners(&there).into_iter();
        let (before, new): (Vec<&Listener>, Vec<_>) =
            listeners.partition(|l| old.contains(&l.id.cookie));
        let back = new.is_empty();
        let targets = match (&group.preferred, back) {
            (Some(_), _) => [before, new].concat(),
            (None, true) => before,
            (None, false) => new,
        };
        let (copies, somebody) = (copies(&targets, &there), !targets.is_empty());
        let array = group.before.take().filter(|_| back);
        self.shut(number, &copies, array, somebody);
        self.groups[number].preferred = None;
        // The array of the chosen listeners knows none that comes later.
        let _ = spread(copies.first().map(|(copy, _)| copy));
        // Each moves when its client's ACK comes, if the group has a program then.
        let half_open = again(|| self.sockets.half_open()).unwrap_or_default();
        self.awaited.extend(half_open.iter().map(|one| one.cookie));
    }

    /// Shuts the rooms of a group, and hands those over who wait; `somebody` listens, also if there is no
    /// copy.
    pub(super) fn shut(
        &mut self,
        number: usize,
        to: &Targets,
        array: Option<Listeners>,
        somebody: bool,
    ) {
        let group = &mut self.groups[number];
        let chosen = match group.preferred.is_some() {
            true => group.prefer_these(to),
            false => choose(&group.rooms(), to, array),
        };
        let rooms = group.rooms();
        if chosen.is_err() {
            // The kernel's own choice, which may be an old listener.
            let _ = spread(rooms.first());
        }
        let waited = rooms.iter().map(Room::waiting).sum();
        group.raise(to, waited);
        rooms.iter().for_each(Room::shut);
        let came = group.opened.take();
        let came = came.map_or(0, |opened| opened.came.count() as usize);
        let full = waited >= group.room();
        let since = group.parking.take().filter(|_| waited > 0);
        self.figures.add(Figures {
            handed_over: if somebody { waited } else { 0 },
            reset: if somebody { 0 } else { waited },
            no_room: if full { came.saturating_sub(waited) } else { 0 },
            longest: since.map_or(Duration::ZERO, |since| since.elapsed()),
        });
    }

    /// The guard has done that.
    pub(crate) fn note_acted(&mut self, acted: Acted) {
        self.figures.add(acted.figures);
        self.acted = acted.words;
    }

    /// How much of the hand-over is still under way: handshakes, and listeners whose queue is too long for
    /// their own backlog.
    pub(crate) fn under_way(&mut self) -> usize {
        if !self.awaited.is_empty() {
            let half_open = again(|| self.sockets.half_open()).unwrap_or_default();
            let open: BTreeSet<u64> = half_open.iter().map(|one| one.cookie).collect();
            self.awaited.retain(|cookie| open.contains(cookie));
        }
        let left = self.awaited.len() + self.unsettled();
        if self.groups.iter().all(|group| group.raised.is_empty()) {
            return left;
        }
        let there = self.look(true).unwrap_or_default();
        for group in &mut self.groups {
            group.lower(&there);
        }
        let raised: usize = self.groups.iter().map(|group| group.raised.len()).sum();
        raised + left
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

/// The program chooses for the group of these rooms from now on.
pub(super) fn attach(program: &Program, rooms: &[Room]) -> Result<()> {
    let room = rooms.first().context("no room")?;
    let chosen = program.choose_for_group_of(room.as_fd());
    chosen.context("the program can't be attached to the waiting rooms")
}

/// From now on the group's connections go to these listeners.
fn choose(rooms: &[Room], targets: &Targets, array: Option<Listeners>) -> Result<()> {
    anyhow::ensure!(!targets.is_empty(), "no listener");
    // A listener can be in one array only.
    let array = array.map_or_else(|| array_of(targets), Ok)?;
    let choose = programs::choose_from(array.number(), targets.len() as u32);
    let program = Program::load(Kind::SelectOrMigrate, "gate_hand_over", &choose)?;
    attach(&program, rooms)
}

fn array_of(targets: &Targets) -> Result<Listeners> {
    let array = Listeners::new(targets.len() as u32)?;
    array.put_all(targets.iter().map(|(copy, _)| copy))?;
    Ok(array)
}

/// From now on the kernel chooses, and moves connections when a listener of the group closes.
fn spread(socket: Option<&impl AsFd>) -> Result<()> {
    let socket = socket.context("no socket")?;
    let program = Program::load(Kind::SelectOrMigrate, "gate_spread", &programs::spread())?;
    Ok(program.choose_for_group_of(socket.as_fd())?)
}

impl Group {
    /// A listener whose queue is fuller than its backlog drops SYNs until the service has accepted enough.
    fn raise(&mut self, targets: &Targets, waited: usize) {
        for (copy, listener) in targets {
            let larger = listener.backlog.saturating_add(waited as u32);
            if waited > 0 && copy::set_backlog(copy, larger).is_ok() {
                self.raised.push(Raised {
                    cookie: listener.id.cookie,
                    own: listener.backlog,
                    empty_since: None,
                });
            }
        }
    }

    /// The service has its own backlog back once it keeps up: a burst that it has accepted keeps it busy, and
    /// meanwhile more come than its own backlog may have. A listener that has gone needs none.
    fn lower(&mut self, there: &Sample) {
        let now = Instant::now();
        self.lower_where(there, |raised, queue| {
            if queue > 0 {
                raised.empty_since = None;
                return false;
            }
            now >= *raised.empty_since.get_or_insert(now) + KEEPS_UP
        })
    }

    /// The same for the last time.
    pub(super) fn lower_now(&mut self, there: &Sample) {
        self.lower_where(there, |raised, queue| queue <= raised.own);
    }

    fn lower_where(&mut self, there: &Sample, is_time: impl Fn(&mut Raised, u32) -> bool) {
        self.raised.retain_mut(|raised| {
            let listener = there
                .listeners
                .iter()
                .find(|l| l.id.cookie == raised.cookie);
            let Some(copy) = listener.and_then(|l| copy::of(l, &there.holders).ok()) else {
                return false;
            };
            let queue = copy::accept_queue(&copy).unwrap_or(0);
            !is_time(raised, queue) || copy::set_backlog(&copy, raised.own).is_err()
        });
    }
}

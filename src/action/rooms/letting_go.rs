//! How the waiting connections are handed over: room by room, as the listeners have place for them and
//! `--release-rate` allows. New connections reach the listeners meanwhile.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::figures::Figures;
use super::groups::{Group, Rooms};
use super::portions::Portions;
use super::preferred::{Opened, PREFER, Targets, copies};
use crate::decide::rate::Rate;
use crate::kernel::bpf::{Kind, Program};
use crate::kernel::maps::Listeners;
use crate::kernel::room::places::{is_busy, is_elsewhere, put_all};
use crate::kernel::room::{Room, has_own_program, has_program, longest_queue, programs};
use crate::kernel::sockets::{Listener, Sample};

/// When the next room is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// When the listeners have place for the connections that wait there, and the rate allows it.
    InTime,
    AtOnce,
}

/// What becomes of the rooms when the connections that waited have gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// One that is empty stays open: the listeners that get them may close in the same moment.
    StandBy,
    End,
}

impl Group {
    /// The listeners that get the waiting connections: the new ones, if there are any.
    pub(super) fn heirs<'a>(&self, there: &'a Sample, old: &[u64]) -> Vec<&'a Listener> {
        let listeners = self.listeners(there).into_iter();
        let (before, new): (Vec<&Listener>, Vec<_>) =
            listeners.partition(|l| old.contains(&l.id.cookie));
        match (self.preferred.is_some(), new.is_empty()) {
            (true, _) => [before, new].concat(),
            (false, true) => before,
            (false, false) => new,
        }
    }

    /// The listeners get new connections from now on, and those from rooms that are closed.
    pub(super) fn lead_to(&mut self, to: &Targets) {
        if self.try_to_lead_to(to).is_err() {
            // The kernel's own choice, which may be an old listener.
            let _ = spread(self.rooms().first());
        }
    }

    /// The same for a keep or its guard. The program of a keep that has died leads there still if it has the listeners:
    /// then it stays. If the kernel chose, new connections would reach the rooms, too, and the kernel resets one whose
    /// handshake ends just as its room is closed.
    fn lead_on_to(&mut self, to: &Targets) {
        // The kernel would not free the listeners before it frees that program.
        if self.preferred.is_none() && self.is_led_by_dead_keep(to) {
            return;
        }
        let Err(error) = self.try_to_lead_to(to) else {
            return;
        };
        let are_elsewhere = error.downcast_ref().is_some_and(is_busy);
        if !(are_elsewhere && self.has_program_of_keep()) {
            let _ = spread(self.rooms().first());
        }
    }

    /// Whether the program of a dead keep is there, and knows one of the listeners. It moves those who wait, too.
    fn is_led_by_dead_keep(&self, to: &Targets) -> bool {
        let rooms = self.rooms();
        let is_there = |room| has_program(room, PREFER);
        rooms.first().is_some_and(is_there) && to.iter().any(|(copy, _)| is_elsewhere(copy))
    }

    fn try_to_lead_to(&mut self, to: &Targets) -> Result<()> {
        match self.preferred.is_some() {
            true => self.prefer_these(to),
            false => self.choose(to),
        }
    }

    /// Where somebody waits, it has to be seen: a program of the service's own may not move them.
    fn has_program_of_keep(&self) -> bool {
        let rooms = self.rooms();
        let is_seen = |room| has_own_program(room) == Some(false);
        self.waiting() == 0 || rooms.first().is_some_and(is_seen)
    }

    /// From now on the group's connections go to these listeners.
    fn choose(&self, targets: &Targets) -> Result<()> {
        ensure!(!targets.is_empty(), "no listener");
        let array = Listeners::new(targets.len() as u32)?;
        put_all(&array, targets.iter().map(|(copy, _)| copy))?;
        let choose = programs::choose_from(array.number(), targets.len() as u32);
        let program = Program::load(Kind::SelectOrMigrate, "gate_hand_over", &choose)?;
        self.attach(&program, &self.rooms())
    }

    /// Returns how many waited in the rooms that it has closed, how long they did, and whether all are closed now that
    /// are to be closed.
    fn shut_in_turn(
        &mut self,
        to: &[&Listener],
        in_time: bool,
        then: Then,
    ) -> (usize, Duration, bool) {
        let rooms = self.rooms();
        let queues: Vec<u32> = to.iter().map(|listener| listener.accept_queue).collect();
        let Some(portions) = &mut self.letting_go else {
            return (0, Duration::ZERO, false);
        };
        let mut gone = 0;
        let mut go: Vec<(&Room, usize)> = Vec::new();
        let mut open: Vec<&Room> = rooms.iter().filter(|room| room.listens()).collect();
        if then == Then::StandBy {
            let spare = open.iter().rposition(|room| room.waiting() == 0);
            spare.map(|spare| open.remove(spare));
        }
        for room in &open {
            let (waiting, now) = (room.waiting(), Instant::now());
            if in_time && waiting > 0 && !portions.may_go(waiting, gone, &queues, now) {
                break;
            }
            portions.rate.spend(waiting, now);
            gone += waiting;
            go.push((room, waiting));
        }
        let all = go.len() == open.len();
        if all && then == Then::End {
            self.prefer_for_good();
        }
        go.retain(|(room, _)| room.shut());
        let longest = self.longest(&go);
        (
            go.into_iter().map(|(_, waiting)| waiting).sum(),
            longest,
            all,
        )
    }

    /// How long the one has waited that came first. `rooms`: with the number of the connections that wait there.
    fn longest(&self, rooms: &[(&Room, usize)]) -> Duration {
        let (waits, now) = (self.waits.borrow(), Instant::now());
        let waited = rooms.iter().filter(|(_, waiting)| *waiting > 0);
        let waited = waited.map(|(room, _)| waits.longest(room.cookie(), now));
        waited.max().unwrap_or_default()
    }

    /// The rooms are closed.
    fn finish(&mut self, listener: Option<&OwnedFd>) {
        self.preferred = None;
        // The array of the chosen listeners knows none that comes later.
        let _ = spread(listener);
    }

    /// Returns how many waited, and how long.
    fn shut_together(&mut self) -> (usize, Duration) {
        let rooms = self.rooms();
        let waiting: Vec<(&Room, usize)> =
            rooms.iter().map(|room| (room, room.waiting())).collect();
        match rooms.iter().filter(|room| room.shut()).count() {
            0 => (0, Duration::ZERO),
            _ => (
                waiting.iter().map(|(_, waiting)| waiting).sum(),
                self.longest(&waiting),
            ),
        }
    }
}

impl Rooms {
    /// From now on new connections go to the listeners of these groups, to the new ones if there are any. The waiting
    /// connections follow; [`Rooms::go_on`] continues that.
    pub(crate) fn hand_over(&mut self, numbers: &[usize]) {
        self.with_heirs(numbers, Rooms::hand_one_over);
    }

    /// What is done with `each` of the groups, and who listens then.
    pub(super) fn with_heirs(&mut self, numbers: &[usize], each: fn(&mut Rooms, usize, &Sample)) {
        if numbers.is_empty() {
            return;
        }
        let there = self.look_for_heirs(numbers);
        self.follow(&there);
        self.await_no_handshake_before();
        for number in numbers {
            self.life.show();
            if !self.make_way(*number, &there) {
                each(self, *number, &there);
            }
        }
        self.await_handshakes();
    }

    /// With a holder of each listener that is to get the waiting connections.
    fn look_for_heirs(&mut self, numbers: &[usize]) -> Sample {
        let heirs = |rooms: &Rooms, there: &Sample| {
            let groups = numbers.iter().map(|number| &rooms.groups[*number]);
            let heirs = groups.flat_map(|group| group.heirs(there, &rooms.old));
            heirs.map(|listener| listener.inode).collect()
        };
        self.look_for(heirs).unwrap_or_default()
    }

    pub(super) fn hand_one_over(&mut self, number: usize, there: &Sample) {
        let group = &mut self.groups[number];
        let heirs = group.heirs(there, &self.old);
        let anew = heirs.iter().any(|l| !self.old.contains(&l.id.cookie));
        if anew {
            self.changed_at = Some(Instant::now());
        }
        let copies = copies(&heirs, there);
        let lead = match self.keeps {
            Some(_) => Group::lead_on_to,
            None => Group::lead_to,
        };
        group.instead_of_passes(|group| lead(group, &copies));
        self.begin_to_let_go(number, &copies);
        if self.let_go(number, &heirs, Next::InTime, Then::End) {
            self.groups[number].finish(copies.first().map(|(copy, _)| copy));
        }
    }

    /// The same for all groups that take new connections, and for good.
    pub(crate) fn hand_all_over(&mut self) {
        self.stands_by = false;
        self.groups.iter_mut().for_each(Group::close_copies);
        let groups = self.groups.iter().enumerate();
        let those = groups.filter(|(_, group)| group.takes_connections());
        let those: Vec<usize> = those.map(|(number, _)| number).collect();
        self.hand_over(&those);
    }

    /// Goes on with the groups of which some are still to be handed over.
    pub(crate) fn go_on(&mut self, next: Next) {
        for number in 0..self.groups.len() {
            let group = &self.groups[number];
            // Those that stand by are tended.
            let tended = self.stands_by && group.preferred.is_some();
            if group.letting_go.is_some() && !tended {
                self.go_on_with(number, next);
            }
        }
    }

    pub(super) fn go_on_with(&mut self, number: usize, next: Next) {
        self.life.show();
        let there = self.look(false).unwrap_or_default();
        let heirs = self.groups[number].heirs(&there, &self.old);
        if self.let_go(number, &heirs, next, Then::End) {
            let any = heirs.first().map(|listener| listener.inode);
            let there = self.look_for(|_, _| any.into_iter().collect());
            let there = there.unwrap_or_default();
            let copies = copies(&self.groups[number].listeners(&there), &there);
            self.groups[number].finish(copies.first().map(|(copy, _)| copy));
        }
    }

    /// All rooms are closed now.
    pub(crate) fn shut_all(&mut self) {
        self.hand_all_over();
        self.go_on(Next::AtOnce);
    }

    /// Unless that has begun.
    pub(super) fn begin_to_let_go(&mut self, number: usize, to: &Targets) {
        if self.groups[number].letting_go.is_some() {
            return;
        }
        self.let_handshakes_end(number);
        let longest = longest_queue(self.netns());
        let rate = Rate::new(self.release_rate);
        let group = &mut self.groups[number];
        let waited = group.waiting();
        let came = group.opened.as_ref();
        let came = came.map_or(0, Opened::came);
        let full = waited >= group.room();
        group.raise(to, waited);
        group.letting_go = Some(Portions {
            since: Instant::now(),
            rate,
            longest,
            seen: !to.is_empty(),
        });
        self.figures.add(Figures {
            no_room: if full { came.saturating_sub(waited) } else { 0 },
            ..Figures::default()
        });
    }

    /// Closes rooms of a group, in the order in which they are filled, so that the connections in them move. Returns
    /// whether all are closed.
    pub(super) fn let_go(
        &mut self,
        number: usize,
        to: &[&Listener],
        next: Next,
        then: Then,
    ) -> bool {
        let group = &mut self.groups[number];
        let Some(letting_go) = &mut group.letting_go else {
            return false;
        };
        let in_time = next == Next::InTime && letting_go.seen;
        let mut went = Figures::default();
        let mut all = true;
        match in_time || !to.is_empty() {
            true => {
                (went.handed_over, went.longest, all) = group.shut_in_turn(to, in_time, then);
            }
            // They move from room to room, and at last there is none.
            false => (went.reset, went.longest) = group.shut_together(),
        }
        group.unaccepted |= went.handed_over > 0;
        if all {
            let letting_go = group.letting_go.take();
            went.release = letting_go.map_or(Duration::ZERO, |it| it.since.elapsed());
            if then == Then::End {
                group.opened = None;
            }
        }
        self.figures.add(went);
        all
    }
}

/// From now on the kernel chooses, and moves connections when a listener of the group closes.
pub(super) fn spread(socket: Option<&impl AsFd>) -> Result<()> {
    // Loaded once: there may be many groups.
    static LOADED: OnceLock<Program> = OnceLock::new();
    let socket = socket.context("no socket")?;
    let program = match LOADED.get() {
        Some(program) => program,
        None => {
            let kind = Kind::SelectOrMigrate;
            let program = Program::load(kind, "gate_spread", &programs::spread())?;
            LOADED.get_or_init(|| program)
        }
    };
    Ok(program.choose_for_group_of(socket.as_fd())?)
}

//! What the program of a group knows: of its rooms, and of the service's listeners for `--syn handover`.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::kernel::bpf::{Kind, Program};
use crate::kernel::instructions::Instruction;
use crate::kernel::maps::{Counter, Listeners};
use crate::kernel::room::places::{put_all, put_first};
use crate::kernel::room::{Place, Room, copy, programs};
use crate::kernel::sockets::{Listener, Sample};

/// Copies of listeners, with the listeners.
pub(super) type Targets<'a> = [(OwnedFd, &'a Listener)];

/// The kernel's name for the program.
pub(super) const PREFER: &str = "gate_prefer";
/// The most listeners of one group that a program knows. Others get new connections at the end.
pub(crate) const MOST_LISTENERS: usize = 1_024;
/// How soon the program's places are compared with the listeners again, and a listener that could not be copied
/// is tried again.
pub(super) const AGAIN: Duration = Duration::from_millis(20);

/// The rooms while they are open.
pub(super) struct Opened {
    pub(super) array: Listeners,
    /// Counts the connections that the program has sent to the rooms.
    pub(super) came: Counter,
}

impl Opened {
    /// # Errors
    /// This process may not make such maps.
    pub(super) fn new(rooms: u32) -> Result<Opened> {
        Ok(Opened {
            array: Listeners::new(rooms)?,
            came: Counter::new()?,
        })
    }

    pub(super) fn came(&self) -> usize {
        self.came.count() as usize
    }

    /// All of them are open already.
    pub(super) fn know(&self, rooms: &[Room]) -> Result<()> {
        put_all(&self.array, rooms).context("a waiting room can't be put into a map")
    }
}

/// The listeners of the service in one group.
pub(super) struct Preferred {
    pub(super) array: Listeners,
    /// Their cookies by place. The kernel empties the place of a listener that closes.
    pub(super) taken: Vec<u64>,
    /// Those that are known to accept connections. The process of one that has just come may not do so yet.
    settled: Vec<u64>,
    /// The cookies of the listeners that are there now.
    now: Vec<u64>,
    /// When the program's places were compared with the listeners the last time.
    pub(super) tried_at: Instant,
    /// Since when none of those that are there could be copied.
    unseen: Option<Instant>,
    /// What the attached program knows: how many listeners, and which places it chooses.
    pub(super) known: (usize, Range<u32>),
}

/// A listener that has no room.
pub(crate) struct LeftAlone {
    pub place: Place,
    pub why: String,
    /// Nobody listened there for a time.
    pub deserted: bool,
}

impl Preferred {
    pub(super) fn new(first: Vec<u64>) -> Result<Preferred> {
        ensure!(first.len() <= MOST_LISTENERS, "too many listeners");
        let known = (first.len(), 0..first.len() as u32);
        Ok(Preferred {
            array: Listeners::new(MOST_LISTENERS as u32)?,
            settled: first.clone(),
            now: first.clone(),
            taken: first,
            tried_at: Instant::now(),
            unseen: None,
            known,
        })
    }

    /// Puts the first ones into their places.
    pub(super) fn put(&self, copies: &[OwnedFd]) -> io::Result<()> {
        put_first(&self.array, copies)
    }

    /// Whether one of the listeners that were there at the last look is like that.
    pub(super) fn knows_one(&self, is_it: impl Fn(u64) -> bool) -> bool {
        self.now.iter().any(|cookie| is_it(*cookie))
    }

    /// New connections no longer go to that listener.
    pub(super) fn leave(&self, cookie: u64) {
        let place = self.taken.iter().position(|taken| *taken == cookie);
        place
            .into_iter()
            .for_each(|place| self.array.empty(place as u32));
    }

    /// The places that new connections go to, and perhaps some between that are empty.
    pub(super) fn chosen(&self) -> Range<u32> {
        let places = |among: &[u64]| {
            let taken = self.taken.iter().zip(0..);
            let there = taken.filter(|(cookie, _)| self.now.contains(cookie));
            let places = there.filter(|(cookie, _)| among.contains(cookie));
            let places: Vec<u32> = places.map(|(_, place)| place).collect();
            Some(*places.first()?..*places.last()? + 1)
        };
        let settled = places(&self.settled).or_else(|| places(&self.now));
        settled.unwrap_or(0..self.taken.len() as u32)
    }

    /// Those that are there now accept connections. Returns whether that is new.
    pub(super) fn settle(&mut self) -> bool {
        let is_new = self.settled != self.now;
        self.settled.clone_from(&self.now);
        is_new
    }

    /// Returns whether listeners have come or gone.
    pub(super) fn note(&mut self, there: &[&Listener]) -> bool {
        let mut now: Vec<u64> = there.iter().map(|l| l.id.cookie).collect();
        now.sort_unstable();
        let before = std::mem::replace(&mut self.now, now);
        let changed = before != self.now;
        if changed {
            self.unseen = None;
        }
        changed
    }

    /// Whether the program could know the listener, and does not.
    pub(super) fn misses(&self, listener: &Listener) -> bool {
        self.place_for(listener.id.cookie).is_some()
    }

    /// The place for a listener that has none: the place of a listener that has gone, or the next free one. One that
    /// stops listening and begins again is the same socket, but the kernel has emptied its place meanwhile.
    fn place_for(&self, cookie: u64) -> Option<u32> {
        let is_empty = |place: usize| self.array.cookie(place as u32).is_none();
        if let Some(place) = self.taken.iter().position(|taken| *taken == cookie) {
            return is_empty(place).then_some(place as u32);
        }
        let has_gone = |place: &usize| !self.now.contains(&self.taken[*place]) && is_empty(*place);
        let free = (0..self.taken.len()).find(has_gone);
        let place = free.unwrap_or(self.taken.len());
        (place < MOST_LISTENERS).then_some(place as u32)
    }

    pub(super) fn take_in(&mut self, there: &Targets) {
        for (copy, listener) in there {
            let cookie = listener.id.cookie;
            let Some(place) = self.place_for(cookie) else {
                continue;
            };
            let put = self.array.put(place, copy.as_fd()).is_ok();
            match self.taken.get_mut(place as usize) {
                Some(taken) if put => *taken = cookie,
                None if put => self.taken.push(cookie),
                _ => (),
            }
        }
    }

    /// Whether the same listeners have been there for so long, and none of them could be copied.
    pub(super) fn unseen_for(&mut self, time: Duration, copied: bool) -> bool {
        if copied || self.now.is_empty() {
            self.unseen = None;
            return false;
        }
        let since = self.unseen.get_or_insert_with(Instant::now);
        since.elapsed() >= time
    }
}

/// `check` comes before the choice, and `fill` where no listener is left.
pub(super) fn program(
    preferred: &Preferred,
    (check, fill): (Vec<Instruction>, Vec<Instruction>),
) -> Result<Program> {
    let array = (preferred.array.number(), preferred.taken.len() as u32);
    let program = programs::prefer(array, &preferred.chosen(), (check, fill));
    Program::load(Kind::SelectOrMigrate, PREFER, &program)
}

/// Copies of those listeners that can be copied. None if the holders are not known.
pub(super) fn copies<'a>(
    listeners: &[&'a Listener],
    there: &Sample,
) -> Vec<(OwnedFd, &'a Listener)> {
    if there.holders.is_empty() {
        return Vec::new(); // An error for each takes long.
    }
    let copy = |listener| copy::of(listener, &there.holders).ok();
    let copies = listeners.iter();
    copies.filter_map(|l| Some((copy(l)?, *l))).collect()
}

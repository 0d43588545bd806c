//! What the program of a group knows of the service's listeners, for `--syn handover`.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::kernel::bpf::{Kind, Listeners, Program};
use crate::kernel::instructions::Instruction;
use crate::kernel::room::{Place, copy, programs};
use crate::kernel::sockets::{Listener, Sample};

/// Copies of listeners, with the listeners.
pub(super) type Targets<'a> = [(OwnedFd, &'a Listener)];

/// The most listeners of one group that a program knows. Others get new connections at the end.
pub(crate) const MOST_LISTENERS: usize = 1_024;
/// How soon the program's places are compared with the listeners again, and a listener that could not be copied
/// is tried again.
pub(super) const AGAIN: Duration = Duration::from_millis(20);

/// The listeners of the service in one group.
pub(super) struct Preferred {
    pub(super) array: Listeners,
    /// Their cookies by place. The kernel empties the place of a listener that closes.
    pub(super) taken: Vec<u64>,
    /// How many of them were there first. These accept connections; the process of one that has just come
    /// may not do so yet.
    first: usize,
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
            first: first.len(),
            now: first.clone(),
            taken: first,
            tried_at: Instant::now(),
            unseen: None,
            known,
        })
    }

    /// Puts the first ones into their places.
    pub(super) fn put(&self, copies: &[OwnedFd]) -> io::Result<()> {
        self.array.put_all(copies)
    }

    /// The places that new connections go to.
    pub(super) fn chosen(&self) -> Range<u32> {
        let (first, all) = (self.first as u32, self.taken.len() as u32);
        let mut first_ones = self.taken[..self.first].iter();
        match first_ones.any(|cookie| self.now.contains(cookie)) || first == all {
            true => 0..first,
            false => first..all,
        }
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

    /// The place that the listener is to have, if it has none. One that stops listening and begins again is
    /// the same socket, but the kernel has emptied its place meanwhile.
    fn place_for(&self, cookie: u64) -> Option<u32> {
        let before = self.taken.iter().position(|taken| *taken == cookie);
        let place = before.unwrap_or(self.taken.len());
        let is_free = place < MOST_LISTENERS
            && (before.is_none() || self.array.cookie(place as u32).is_none());
        is_free.then_some(place as u32)
    }

    pub(super) fn take_in(&mut self, there: &Targets) {
        for (copy, listener) in there {
            let cookie = listener.id.cookie;
            let Some(place) = self.place_for(cookie) else {
                continue;
            };
            let put = self.array.put(place, copy.as_fd()).is_ok();
            if put && place as usize == self.taken.len() {
                self.taken.push(cookie);
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

pub(super) fn program(preferred: &Preferred, fill: Vec<Instruction>) -> Result<Program> {
    let array = (preferred.array.number(), preferred.taken.len() as u32);
    let program = programs::prefer(array, &preferred.chosen(), fill);
    Program::load(Kind::SelectOrMigrate, "gate_prefer", &program)
}

/// Copies of those listeners that can be copied.
pub(super) fn copies<'a>(
    listeners: &[&'a Listener],
    there: &Sample,
) -> Vec<(OwnedFd, &'a Listener)> {
    let copy = |listener| copy::of(listener, &there.holders).ok();
    let copies = listeners.iter();
    copies.filter_map(|l| Some((copy(l)?, *l))).collect()
}

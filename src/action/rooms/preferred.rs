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
/// How soon a listener that could not be copied is tried again.
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
    /// When one was to be copied the last time.
    pub(super) tried_at: Instant,
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
        before != self.now
    }

    /// Whether the program could know the listener, and does not.
    pub(super) fn misses(&self, listener: &Listener) -> bool {
        self.taken.len() < MOST_LISTENERS && !self.taken.contains(&listener.id.cookie)
    }

    pub(super) fn take_in(&mut self, there: &Targets) {
        for (copy, listener) in there {
            let (cookie, place) = (listener.id.cookie, self.taken.len());
            if self.misses(listener) && self.array.put(place as u32, copy.as_fd()).is_ok() {
                self.taken.push(cookie);
            }
        }
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

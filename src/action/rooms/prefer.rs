//! `--syn handover`: while the service listens, new connections go there. Only while nobody does they wait in
//! the rooms.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::groups::{First, Group, Rooms};
use super::letting_go::{Next, Then};
use super::preferred::{AGAIN, LeftAlone, Opened, Preferred, Targets, copies, program};
use crate::kernel::instructions::Instruction;
use crate::kernel::room::copy;
use crate::kernel::sockets::{Sample, holders};

/// When no listener has come or gone for so long, the reload is over: nginx gives its old workers 100 ms.
pub(crate) const CALM: Duration = Duration::from_millis(300);
/// When a listener can't be copied, the waiting connections go to the one that the kernel chooses after so long.
const UNSEEN: Duration = Duration::from_millis(100);

impl Group {
    /// From now on new connections go to the service's listeners, and to the rooms while there are none.
    ///
    /// # Errors
    /// Rooms may be open. [`Rooms::hand_over`] closes them.
    pub(crate) fn prefer(&mut self) -> Result<()> {
        let Some(shelf) = &self.shelf else {
            return Ok(());
        };
        let rooms = shelf.rooms()?;
        let opened = self.known_rooms()?;
        let copies = std::mem::take(&mut self.copies);
        let mut preferred = match self.preferred.take() {
            Some(preferred) => preferred,
            None => Preferred::new(copies.iter().map(copy::cookie).collect::<io::Result<_>>()?)?,
        };
        let while_there = program(&preferred, self.while_there(&opened))?;
        // A program comes first, lest a connection goes to a room. Listeners that lacked SO_REUSEPORT are in
        // a group only when the rooms are open.
        let early = !self.lent;
        let first = copies.first();
        if let Some(copy) = first.filter(|_| early) {
            preferred.put(&copies)?;
            let program = program(&preferred, (Vec::new(), self.fill(&opened)))?;
            let chosen = program.choose_for_group_of(copy.as_fd());
            chosen.context("the program can't be attached to the service's listeners")?;
        }
        self.opened = Some(opened);
        if !early && first.is_some() {
            // Until the program is there, the kernel chooses among the listeners and this room.
            self.open(&rooms[..1])?;
            preferred.put(&copies)?;
            self.attach(&while_there, &rooms)?;
        }
        self.open(&rooms)?;
        preferred.known = (preferred.taken.len(), preferred.chosen());
        self.preferred = Some(preferred);
        self.attach(&while_there, &rooms)
    }

    /// The listeners get new connections, and those of the last room. Should syngate and its guard be killed, that
    /// would stay so, and listeners that come later would get none.
    pub(super) fn prefer_for_good(&self) {
        let program = match (&self.preferred, &self.opened) {
            (Some(preferred), Some(opened)) => {
                let fill = self.noted.refused_before(self.fill(opened));
                program(preferred, (Vec::new(), fill))
            }
            _ => return,
        };
        // Without it, the kernel chooses for the last ones.
        let _ = program.and_then(|program| self.attach(&program, &self.rooms()));
    }

    /// The parts of a program that go on only while there are rooms, and that choose one.
    pub(super) fn while_there(&self, opened: &Opened) -> (Vec<Instruction>, Vec<Instruction>) {
        let fill = self.noted.refused_before(self.fill(opened));
        (self.check(opened), fill)
    }

    /// These are there now.
    ///
    /// # Errors
    /// The program knows none of them.
    pub(super) fn prefer_these(&mut self, there: &Targets) -> Result<()> {
        let preferred = self.preferred.as_mut().context("all are equal")?;
        preferred.take_in(there);
        let mut cookies = there.iter().map(|(_, listener)| listener.id.cookie);
        let known = cookies.any(|cookie| preferred.taken.contains(&cookie));
        if self.needs_program_back() {
            if let Some(preferred) = &mut self.preferred {
                // What the group's program knows is not what syngate's knew.
                preferred.known = (0, 0..0);
            }
        }
        self.choose_anew()?;
        ensure!(known, "no listener");
        Ok(())
    }

    /// Lets the program follow what has become of the listeners.
    pub(super) fn choose_anew(&mut self) -> Result<()> {
        let (Some(preferred), Some(opened)) = (&self.preferred, &self.opened) else {
            return Ok(());
        };
        let known = (preferred.taken.len(), preferred.chosen());
        if known != preferred.known && self.may_keep_program() {
            self.has_own.set(true);
            // The next look may be for somebody who waits.
            return Ok(());
        }
        if known != preferred.known {
            self.attach(
                &program(preferred, self.while_there(opened))?,
                &self.rooms(),
            )?;
        }
        if let Some(preferred) = &mut self.preferred {
            preferred.known = known;
        }
        Ok(())
    }
}

impl Rooms {
    /// From now on new connections wait in the rooms of that group only while nobody listens.
    ///
    /// # Errors
    /// As for [`Group::prefer`].
    pub(crate) fn prefer(&mut self, number: usize) -> Result<()> {
        self.changed_at = Some(Instant::now());
        self.groups[number].prefer()
    }

    /// Gives up the group that was made last, if its listeners can do without rooms.
    ///
    /// # Errors
    /// It can't.
    pub(crate) fn leave_last_alone(&mut self, why: anyhow::Error) -> Result<()> {
        let may = |group: &Group| group.lent && self.first == First::Service;
        let Some(group) = self
            .groups
            .last()
            .is_some_and(may)
            .then(|| self.groups.pop())
            .flatten()
        else {
            return Err(why);
        };
        group.take_option_back(self.netns());
        self.left_alone.push(LeftAlone {
            place: group.place,
            why: format!("{why:#}"),
            deserted: false,
        });
        Ok(())
    }

    /// Lets the programs know listeners that have come, and hands those over who wait although the service listens.
    /// Rooms that are in its way are closed.
    ///
    /// Returns what listened then.
    pub(crate) fn tend(&mut self) -> Sample {
        let Ok(mut there) = self.look(false) else {
            return Sample::default();
        };
        let waiting: Vec<usize> = self.groups.iter().map(Group::waiting).collect();
        self.compare(&mut there, &waiting);
        for number in 0..self.groups.len() {
            self.tend_group(number, &there, self.groups[number].waiting() > 0);
        }
        self.clear_the_way(&there);
        there
    }

    /// Compares the listeners that the programs know with those that listen. Adds the processes that hold the
    /// listeners to copy. `waiting`: how many wait in each group.
    pub(super) fn compare(&mut self, there: &mut Sample, waiting: &[usize]) {
        for alone in &mut self.left_alone {
            let mut listeners = there.listeners.iter();
            alone.deserted |= !listeners.any(|l| alone.place.is_of(l));
        }
        let mut wanted = Vec::new();
        for (group, waiting) in self.groups.iter_mut().zip(waiting) {
            let listeners = group.listeners(there);
            let waits = group.letting_go.is_none() && *waiting > 0;
            let Some(preferred) = &mut group.preferred else {
                continue;
            };
            let changed = preferred.note(&listeners);
            if changed {
                self.changed_at = Some(Instant::now());
            }
            let due = changed || preferred.tried_at.elapsed() >= AGAIN;
            if due {
                preferred.tried_at = Instant::now();
            }
            let copies = listeners
                .iter()
                .filter(|l| waits || due && preferred.misses(l));
            wanted.extend(copies.map(|l| l.inode));
        }
        if !wanted.is_empty() {
            there.holders = holders::find_newest(&wanted);
        }
    }

    /// `waits`: somebody waits in the group.
    pub(super) fn tend_group(&mut self, number: usize, there: &Sample, waits: bool) {
        if !there.holders.is_empty() {
            self.set_busy(true);
        }
        let group = &mut self.groups[number];
        if group.preferred.is_none() {
            return;
        }
        let listeners = group.listeners(there);
        let queues = listeners.iter().any(|l| l.accept_queue > 0);
        group.unaccepted &= listeners.is_empty() || queues;
        let copies = copies(&listeners, there);
        let goes = group.letting_go.is_some();
        let copied = !waits || goes || !copies.is_empty();
        let preferred = group.preferred.as_mut();
        let late = preferred.is_some_and(|preferred| preferred.unseen_for(UNSEEN, copied));
        if waits && !goes && (late || !copies.is_empty()) {
            // While there are the copies, the listeners can't close.
            group.lead_to(&copies);
            self.begin_to_let_go(number, &copies);
        } else if !copies.is_empty() {
            // One that can't be copied gets connections at the end.
            let _ = group.prefer_these(&copies);
        } else if !waits {
            let _ = group.choose_anew();
        }
        let then = if late { Then::End } else { Then::StandBy };
        if self.let_go(number, &listeners, Next::InTime, then) {
            let group = &mut self.groups[number];
            match then {
                Then::End => group.preferred = None,
                Then::StandBy => group.stand_by(),
            }
        }
    }

    /// Whether no listener has come or gone for a while.
    pub(super) fn is_calm(&self) -> bool {
        self.is_calm_for(CALM)
    }

    /// The same for so long.
    pub(crate) fn is_calm_for(&self, time: Duration) -> bool {
        self.changed_at.is_none_or(|at| at.elapsed() >= time)
    }
}

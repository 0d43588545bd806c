//! How far a hand-over is, until listeners and clients are as they will stay.

use std::time::Instant;

use super::groups::{Group, Rooms};
use super::letting_go::Next;
use crate::decide::policy::{Answer, Question, Waiting};
use crate::kernel::sockets::Sample;

impl Rooms {
    /// What a policy asks when the gate is open: whether the hand-over is complete. The rooms stay until the service
    /// has accepted the connections that waited, or the deadline is over. `next_look`: the action's, which ends with
    /// the rooms.
    pub(crate) fn answer(
        &mut self,
        question: &Question,
        next_look: &mut Option<Instant>,
    ) -> Answer {
        if *question != Question::Left {
            self.shut_all();
        }
        if next_look.is_some() && self.stands_by {
            match self.unaccepted() {
                Answer::Left(Some(0)) => (),
                more => return more,
            }
        }
        if next_look.take().is_some() {
            self.hand_all_over();
        }
        self.progress()
    }

    /// How far the hand-over is: connections in rooms, then handshakes, and listeners whose queue is too long for
    /// their own backlog.
    pub(crate) fn progress(&mut self) -> Answer {
        self.go_on(Next::InTime);
        let waiting: usize = self.groups.iter().map(Group::waiting).sum();
        let left = self.under_way();
        // A listener that is not lowered now stays so.
        match waiting + self.groups.iter().map(Group::too_many).sum::<usize>() {
            0 => Answer::Left(Some(left)),
            count => Answer::Waiting(Waiting {
                count,
                ..Waiting::default()
            }),
        }
    }

    /// How many handshakes, groups and listeners are not yet as they will stay.
    fn under_way(&mut self) -> usize {
        let Ok(there) = self.look(false) else {
            return 1;
        };
        self.follow(&there);
        self.still_moving() + self.unsettled(&there) + self.still_raised()
    }

    /// How many listeners have a longer backlog than their own.
    pub(super) fn still_raised(&mut self) -> usize {
        if self.groups.iter().all(|group| group.raised.is_empty()) {
            return 0;
        }
        let raised = |rooms: &Rooms, there: &Sample| {
            let listeners = there.listeners.iter();
            let raised = listeners.filter(|l| rooms.groups.iter().any(|group| group.has_raised(l)));
            raised.map(|listener| listener.inode).collect()
        };
        let there = self.look_for(raised).unwrap_or_default();
        for group in &mut self.groups {
            group.lower(&there);
        }
        self.groups.iter().map(|group| group.raised.len()).sum()
    }

    /// How many groups may still be in the middle of a reload: an old listener is one of several.
    fn unsettled(&self, there: &Sample) -> usize {
        if self.is_calm() {
            return 0;
        }
        let unsettled = |group: &&Group| {
            let listeners = group.listeners(there);
            listeners.len() > 1 && listeners.iter().any(|l| self.old.contains(&l.id.cookie))
        };
        self.groups.iter().filter(unsettled).count()
    }

    /// From now on handshakes that are under way are waited for.
    pub(super) fn await_handshakes(&mut self) {
        let half_open = self.half_open().unwrap_or_default();
        self.moving.add(half_open.iter().map(|one| one.cookie));
    }

    /// Waits for the handshakes of a listener that has closed since the last look.
    pub(super) fn follow(&mut self, there: &Sample) {
        let listeners = self.groups.iter().flat_map(|group| group.listeners(there));
        let listeners = listeners.map(|listener| listener.id.cookie).collect();
        if self.moving.note_listeners(listeners) {
            self.changed_at = Some(Instant::now());
            self.await_handshakes();
        }
    }

    /// How many handshakes are still waited for.
    pub(super) fn still_moving(&mut self) -> usize {
        if self.moving.is_over() {
            return 0;
        }
        match self.half_open() {
            Ok(half_open) => self.moving.keep(half_open.iter().map(|one| one.cookie)),
            Err(_) => 1,
        }
    }
}

//! `--syn park` while the gate is closed.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::action::contract::{Account, Action, Means, Now};
use crate::action::rooms::letting_go::Next;
use crate::action::rooms::policy::{LOOK_EVERY, ParkPolicy};
use crate::action::rooms::{RoomGate, SharedRooms, Told, account};
use crate::decide::looks::{WATCH_PAUSE, pause};
use crate::decide::policy::{Answer, Noted, Policy, Question};
use crate::gate::backend::Remark;
use crate::words::gated::Gated;

/// For `--syn`, and in the report.
pub(super) const NAME: &str = "park";

pub(super) struct ParkAction {
    rooms: SharedRooms,
    gated: Gated,
    max_held: u32,
    remarks: Vec<Remark>,
    /// When to look for processes that the rooms keep from listening, and whether more may be handed over.
    /// `None`: the gate is open.
    next_look: Option<Instant>,
    /// Why COMMAND is not in a control group of its own.
    not_taken_in: Option<io::Error>,
}

impl ParkAction {
    pub(super) fn new(
        rooms: SharedRooms,
        gated: &Gated,
        max_held: u32,
        remarks: Vec<Remark>,
    ) -> ParkAction {
        ParkAction {
            rooms,
            gated: gated.clone(),
            max_held,
            remarks,
            next_look: Some(Instant::now()),
            not_taken_in: None,
        }
    }
}

impl Action for ParkAction {
    fn means(&mut self) -> Means {
        let gate = RoomGate::new(Rc::clone(&self.rooms), &self.gated, self.remarks.clone());
        Means::Own(Box::new(gate))
    }

    fn closed_words(&self) -> String {
        let rooms = self.rooms.borrow();
        let places: Vec<String> = rooms.groups.iter().map(|g| g.place.shown()).collect();
        format!(", new connections wait on {}", places.join(" "))
    }

    fn closed(&mut self, now: &mut Now) {
        now.sockets.hide_rooms(&self.rooms.borrow().cookies());
    }

    fn policy(&self, _: Instant) -> Box<dyn Policy> {
        Box::new(ParkPolicy::default())
    }

    /// COMMAND may ask the service how it is. If clients waited until COMMAND ends, COMMAND would wait too.
    fn opens_when_ready(&self) -> bool {
        true
    }

    fn bridges_gaps(&self) -> bool {
        true
    }

    fn command(&mut self, pid: i32) {
        let taken_in = self.rooms.borrow().passes.take_command_in(pid);
        self.not_taken_in = taken_in.err();
    }

    fn let_check_in(&mut self) -> Option<OwnedFd> {
        self.rooms.borrow_mut().door_for_check()
    }

    fn let_drain_command_in(&mut self) -> Option<OwnedFd> {
        let rooms = self.rooms.borrow();
        rooms.passes.own.as_ref()?.group.entrance().ok()
    }

    fn due(&self) -> Option<Instant> {
        self.next_look
    }

    /// Hands over what may go. The run itself need not act on it, so it gets no answer.
    fn news(&mut self, _: &mut Now) -> Option<Answer> {
        let began = Instant::now();
        if self.next_look.is_some_and(|at| at <= began) {
            let mut rooms = self.rooms.borrow_mut();
            rooms.admit();
            rooms.note_who_waits();
            rooms.go_on(Next::InTime);
            let least = if rooms.stands_by {
                rooms.tend();
                Duration::ZERO
            } else {
                rooms.give_way();
                rooms.let_in();
                LOOK_EVERY
            };
            let now = Instant::now();
            self.next_look = Some(now + least.max(pause(now - began, WATCH_PAUSE)));
        }
        None
    }

    fn ask(&mut self, question: Question, _: &mut Now) -> Answer {
        let mut rooms = self.rooms.borrow_mut();
        rooms.answer(&question, &mut self.next_look)
    }

    fn account(&mut self, _: &Noted, _: Option<u64>, now: &mut Now) -> Account {
        let told = Told {
            action: NAME,
            verb: "closed",
            did: "parked",
            max_held: self.max_held,
        };
        if let Some(error) = self.not_taken_in.take() {
            now.warn(format!(
                "syngate could not put COMMAND into a control group of its own, so COMMAND's connections \
                 to the service waited as all others did: {error}"
            ));
        }
        account(&self.rooms, &told, now)
    }
}

//! `--syn park` while the gate is closed.

use std::rc::Rc;
use std::time::Instant;

use crate::action::contract::{Account, Action, Means, Now};
use crate::action::rooms::policy::ParkPolicy;
use crate::action::rooms::{ParkRow, RoomGate, SharedRooms, parked_words};
use crate::decide::policy::{Answer, Noted, Policy, Question};
use crate::gate::backend::Remark;
use crate::words::gated::Gated;

pub(super) struct ParkAction {
    rooms: SharedRooms,
    gated: Gated,
    remarks: Vec<Remark>,
}

impl ParkAction {
    pub(super) fn new(rooms: SharedRooms, gated: &Gated, remarks: Vec<Remark>) -> ParkAction {
        ParkAction {
            rooms,
            gated: gated.clone(),
            remarks,
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

    fn command(&mut self, pid: i32) {
        if let Some(own) = &self.rooms.borrow().own {
            // Else its connections wait as others do.
            let _ = own.group.take_in(pid);
        }
    }

    /// Only whether the hand-over is complete: the policy asks nothing else.
    fn ask(&mut self, _: Question, _: &mut Now) -> Answer {
        Answer::Left(Some(self.rooms.borrow_mut().under_way()))
    }

    fn account(&mut self, _: &Noted, _: Option<u64>, now: &mut Now) -> Account {
        let figures = self.rooms.borrow().figures;
        if figures.reset > 0 {
            now.warn(format!(
                "nobody listened when the waiting rooms were shut: {} connections were reset",
                figures.reset
            ));
        }
        Account {
            rows: vec![ParkRow::new(figures).named()],
            verb: "closed",
            words: Some(parked_words(&figures)),
        }
    }
}

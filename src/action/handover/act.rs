//! `--syn handover` from before COMMAND until the reload is over.

use std::rc::Rc;
use std::time::Instant;

use crate::action::contract::{Account, Action, Means, Now};
use crate::action::rooms::choice::COOKIES_RESET;
use crate::action::rooms::gap::Gap;
use crate::action::rooms::policy::ParkPolicy;
use crate::action::rooms::{RoomGate, SharedRooms, Told, account};
use crate::decide::looks::{WATCH_PAUSE, pause};
use crate::decide::policy::{Answer, Noted, Policy, Question};
use crate::gate::backend::Remark;
use crate::words::gated::Gated;

/// For `--syn`, and in the report.
pub(super) const NAME: &str = "handover";

pub(super) struct HandoverAction {
    rooms: SharedRooms,
    gated: Gated,
    max_held: u32,
    gap: Gap,
    /// When to look for new listeners. `None`: the gate is open.
    next_look: Option<Instant>,
    /// When to see whether the service has closed old ones.
    next_check: Instant,
}

impl HandoverAction {
    pub(super) fn new(rooms: SharedRooms, gated: &Gated, max_held: u32) -> HandoverAction {
        HandoverAction {
            rooms,
            gated: gated.clone(),
            max_held,
            gap: Gap::default(),
            next_look: Some(Instant::now()),
            next_check: Instant::now(),
        }
    }

    fn remarks(&self) -> Vec<Remark> {
        let rooms = self.rooms.borrow();
        let remarks = rooms.left_alone.iter().map(|alone| {
            let shown = alone.place.shown();
            Remark::Detail(format!("{shown} is left alone: {}", alone.why))
        });
        let cookies = rooms.resets_cookies();
        let cookies = cookies.then(|| Remark::Warning(COOKIES_RESET.to_owned()));
        remarks.chain(cookies).collect()
    }
}

impl Action for HandoverAction {
    fn means(&mut self) -> Means {
        let gate = RoomGate::new(Rc::clone(&self.rooms), &self.gated, self.remarks());
        Means::Own(Box::new(gate))
    }

    fn begun(&self) -> &'static str {
        "watching"
    }

    fn closed_words(&self) -> String {
        let rooms = self.rooms.borrow();
        let places: Vec<String> = rooms.groups.iter().map(|g| g.place.shown()).collect();
        match places.is_empty() {
            true => String::new(),
            false => format!(
                ", new connections wait on {} only while nobody listens",
                places.join(" ")
            ),
        }
    }

    fn closed(&mut self, now: &mut Now) {
        now.sockets.hide_rooms(&self.rooms.borrow().cookies());
    }

    fn policy(&self, _: Instant) -> Box<dyn Policy> {
        Box::new(ParkPolicy::default())
    }

    fn drains(&self) -> bool {
        false
    }

    fn bridges_gaps(&self) -> bool {
        true
    }

    fn command(&mut self, pid: i32) {
        // If that fails, COMMAND's connections wait in a gap as all others do.
        let _ = self.rooms.borrow().passes.take_command_in(pid);
    }

    fn due(&self) -> Option<Instant> {
        let look = self.next_look?;
        match self.rooms.borrow().outlasts_any() {
            true => Some(look.min(self.next_check)),
            false => Some(look),
        }
    }

    /// Not news for the run: the rooms follow the service's listeners.
    fn news(&mut self, _: &mut Now) -> Option<Answer> {
        let began = Instant::now();
        let mut rooms = self.rooms.borrow_mut();
        let mut look = self.next_look.is_some_and(|at| at <= began);
        if self.next_look.is_some() && self.next_check <= began {
            look |= rooms.let_old_ones_close();
            let now = Instant::now();
            self.next_check = now + pause(now - began, WATCH_PAUSE);
        }
        if look {
            self.gap.note(&mut rooms);
            rooms.admit();
            rooms.tend();
            let now = Instant::now();
            self.next_look = Some(now + pause(now - began, WATCH_PAUSE));
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
            verb: "watched",
            did: "waited",
            max_held: self.max_held,
        };
        let mut account = account(&self.rooms, &told, now);
        account.words = account
            .words
            .map(|words| format!("in case nobody listened: {words}"));
        let mut rooms = self.rooms.borrow_mut();
        let restarted = self.gap.of_restarts(&mut rooms);
        if !restarted.is_empty() {
            now.warn(format!(
                "nobody listened on {} for a time, and clients waited: was COMMAND a restart? --syn park \
                 drains first",
                restarted.join(" ")
            ));
        }
        for alone in rooms.left_alone.iter().filter(|alone| alone.deserted) {
            let (shown, why) = (alone.place.shown(), &alone.why);
            now.warn(format!(
                "nobody listened on {shown} for a time, and new connections may have been refused, since \
                 syngate could not make a waiting room there: {why}"
            ));
        }
        account
    }
}

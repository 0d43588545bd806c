//! A gate of waiting rooms: it keeps new connections from the service as rules do.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::account::{Room, RoomRow, no_room_words, reset, unmoved_words, waited_words};
use super::groups::{First, Rooms};
use super::watch::Watch;
use crate::action::contract::{Account, Now};
use crate::gate::backend::{Backend, Deadline, Remark};
use crate::kernel::room::longest_queue;
use crate::words::fault;
use crate::words::gated::Gated;
use crate::words::ports::PortSet;

/// The run's rooms, which its action asks for the figures.
pub(crate) type SharedRooms = Rc<RefCell<Rooms>>;

/// How an action with rooms tells of them.
pub(crate) struct Told {
    pub action: &'static str,
    /// What the run did with the ports.
    pub verb: &'static str,
    /// What connections did in rooms.
    pub did: &'static str,
    pub max_held: u32,
}

/// The account of an action with rooms.
pub(crate) fn account(rooms: &SharedRooms, told: &Told, now: &mut Now) -> Account {
    let mut rooms = rooms.borrow_mut();
    let (figures, unmoved) = (rooms.figures, rooms.unmoved());
    let elsewhere = match figures.reset {
        0 => Vec::new(),
        _ => rooms.elsewhere(),
    };
    let warnings = rooms.acted.take().into_iter();
    let warnings = warnings.chain(rooms.told.drain(..).collect::<Vec<_>>());
    let room = Room::of(told.max_held, longest_queue(rooms.netns()));
    let warnings = warnings.chain(no_room_words(&figures, room));
    let warnings = warnings.chain(unmoved_words(&figures, unmoved));
    warnings.for_each(|text| now.warn(text));
    let lost = reset(&figures, &elsewhere).into_iter();
    Account {
        rows: vec![RoomRow::new(figures, unmoved).named(told.action)],
        verb: told.verb,
        words: Some(waited_words(told.did, &figures)),
        failures: lost.chain(rooms.second_instance()).collect(),
    }
}

pub(crate) struct RoomGate {
    rooms: SharedRooms,
    gated: Gated,
    shut: PortSet,
    watch: Option<Watch>,
    remarks: Vec<Remark>,
    removed: bool,
}

impl RoomGate {
    pub(crate) fn new(rooms: SharedRooms, gated: &Gated, remarks: Vec<Remark>) -> RoomGate {
        RoomGate {
            rooms,
            gated: gated.clone(),
            shut: PortSet::EMPTY,
            watch: None,
            remarks,
            removed: false,
        }
    }

    /// Group by group: a group whose ports are all open is handed over, or begins to be. Where the service comes
    /// first, nobody waits for that, and the rooms stay to the end. A port that closes again parks again.
    fn set(&mut self, ports: &PortSet) -> Result<()> {
        let mut rooms = self.rooms.borrow_mut();
        // COMMAND may have ended just now, since it could not listen.
        rooms.admit();
        if rooms.groups.iter().any(|group| group.gave_way) {
            // The listener elsewhere may have gone just now.
            rooms.tend();
        }
        let opened = self.opened(&rooms, ports);
        // It is told at no moment that a port is open which is not.
        let still = opened.intersection(&self.opened(&rooms, &self.shut));
        rooms
            .note
            .iter_mut()
            .for_each(|note| note.tell_open(&still));
        let mut done = Ok(());
        let mut open = Vec::new();
        for n in 0..rooms.groups.len() {
            let group = &rooms.groups[n];
            let served = self.gated.served_by(group.place.port);
            let shall = served.iter().any(|port| ports.contains(port)) && !group.gave_way;
            let parks = group.takes_connections() && !group.is_kept();
            match (shall, rooms.first) {
                (true, First::Rooms) if !parks => done = done.and(rooms.begin(n)),
                (true, First::Service) if !group.takes_connections() => {
                    done = done.and(rooms.begin(n));
                }
                (false, First::Rooms) if parks => open.push(n),
                _ => (),
            }
        }
        rooms.release(&open);
        self.shut = ports.clone();
        rooms
            .note
            .iter_mut()
            .for_each(|note| note.tell_open(&opened));
        done
    }

    /// The listeners' ports that are open where these are closed.
    fn opened(&self, rooms: &Rooms, shut: &PortSet) -> PortSet {
        let ports = rooms.groups.iter().map(|group| group.place.port);
        let is_open = |port: &u16| self.gated.served_by(*port).intersection(shut).is_empty();
        ports.filter(is_open).collect()
    }
}

impl Backend for RoomGate {
    fn name(&self) -> &'static str {
        "room"
    }

    fn install(&mut self, ports: &PortSet, until: Deadline) -> Result<()> {
        let rooms = self.rooms.borrow();
        fault::before(&format_args!("Guard"));
        if !rooms.groups.is_empty() {
            self.watch = Some(Watch::start(&rooms, until)?);
        }
        drop(rooms);
        // The guard of a run that was stopped for so long has taken back what a room needs to be closed.
        ensure!(
            Instant::now() < until,
            "--max-closed was over before the gate was closed: syngate hung, or somebody had stopped it"
        );
        self.set(ports)
    }

    fn set_ports(&mut self, ports: &PortSet, _: Deadline) -> Result<()> {
        self.set(ports)
    }

    /// The kernel does not tell which program a group has. A room that takes connections has its own. Where the
    /// service is elsewhere, that is as it shall be.
    fn shut(&mut self) -> Result<PortSet> {
        let rooms = self.rooms.borrow();
        let open = rooms
            .groups
            .iter()
            .filter(|group| !group.takes_connections() && !group.gave_way);
        let lost = open.fold(PortSet::EMPTY, |all, group| {
            all.union(&self.gated.served_by(group.place.port))
        });
        Ok(self.shut.minus(&lost))
    }

    fn syns_stopped(&mut self) -> Result<u64> {
        Ok(0)
    }

    fn exposed(&self) -> bool {
        false
    }

    fn intact(&mut self) -> bool {
        true
    }

    fn empties_queues(&self) -> bool {
        false
    }

    fn keep_watched(&mut self, until: Deadline) -> Result<Option<String>> {
        match self.watch.as_mut().filter(|_| !self.removed) {
            Some(watch) => watch.keep(&self.rooms.borrow(), until),
            None => Ok(None),
        }
    }

    fn unwatched(&self, _: &str) -> String {
        "the kernel hands the waiting connections over to the service, if it listens then, and resets them \
         if it does not"
            .to_owned()
    }

    fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    fn remove(&mut self) -> Result<()> {
        if self.removed {
            return Ok(());
        }
        self.removed = true;
        let mut rooms = self.rooms.borrow_mut();
        rooms.shut_all();
        // The guard goes last: should this process be killed meanwhile, it gives back what is left.
        rooms.give_back();
        if let Some(acted) = self.watch.take().and_then(Watch::dismiss) {
            rooms.note_acted(acted);
        }
        Ok(())
    }
}

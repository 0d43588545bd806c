//! The run's side of the guard process of its rooms.
//!
//! The guard has the same shelves of rooms, and the links by which the service's next sockets get
//! SO_REUSEPORT. So both outlive a run that is killed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::figures::Acted;
use super::groups::Rooms;
use super::note::Note;
use crate::gate::backend::Deadline;
use crate::kernel::room::orders::{File, NAME, Orders, monotonic};
use crate::process::attended::{Attended, Call, Lost};

/// What messages call it.
const SHOWN: &str = "the guard of the waiting rooms";
/// How long after `--max-closed` the guard hands over although the run lives: the run may hang, or
/// somebody may have stopped it.
pub(crate) const GRACE: Duration = Duration::from_millis(200);

pub(crate) struct Watch {
    guard: Option<Attended>,
    /// The run has told that the guard has acted.
    told: bool,
}

impl Watch {
    /// Starts a guard for these rooms, and waits until it has them.
    ///
    /// # Errors
    /// It can't be started.
    pub(crate) fn start(rooms: &Rooms, until: Deadline) -> Result<Watch> {
        let started = called(rooms, until, |call| {
            Attended::start_beside(call, || rooms.life.show())
        });
        let started = started.with_context(|| format!("{SHOWN} can't be started"))?;
        rooms.life.heard_by(&started);
        rooms.note.iter().for_each(Note::is_guarded);
        Ok(Watch {
            guard: Some(started),
            told: false,
        })
    }

    /// Asks the guard whether it is there, and puts another one in the place of one that is lost. Returns a
    /// sentence about that.
    ///
    /// # Errors
    /// There is none now. Told once.
    pub(crate) fn keep(&mut self, rooms: &Rooms, until: Deadline) -> Result<Option<String>> {
        let launch = || called(rooms, until, Attended::come);
        let lost = Attended::keep(&mut self.guard, SHOWN, launch)?;
        self.told |= lost == Some(Lost::Acted);
        self.guard
            .iter()
            .for_each(|guard| rooms.life.heard_by(guard));
        Ok(lost.map(|lost| match (lost, rooms.keeps) {
            // It has no gate.
            (Lost::Acted, Some(_)) => format!(
                "{SHOWN} has handed the waiting connections over to the service, or given them up: syngate \
                 hung, or somebody had stopped it"
            ),
            (lost, _) => lost.told(SHOWN),
        }))
    }

    /// Ends the guard: the rooms are closed. Returns what it has done, if it took this process for dead.
    pub(crate) fn dismiss(self) -> Option<Acted> {
        let said = self.guard?.dismiss()?;
        Some(Acted {
            figures: serde_json::from_slice(&said).unwrap_or_default(),
            words: (!self.told).then(|| Lost::Acted.told(SHOWN)),
        })
    }
}

fn called(
    rooms: &Rooms,
    until: Deadline,
    start: impl FnOnce(&Call) -> io::Result<Attended>,
) -> io::Result<Attended> {
    let orders = orders(rooms, until);
    let files: Vec<RawFd> = orders.files.iter().map(|(_, fd)| *fd).collect();
    start(&Call {
        name: NAME,
        words: &orders.words(),
        files: &files,
    })
}

fn orders(rooms: &Rooms, until: Deadline) -> Orders {
    let group = rooms.passes.own.as_ref().and_then(|own| own.group.within());
    Orders {
        until: monotonic() + until.saturating_duration_since(Instant::now()) + GRACE,
        run: rooms.run.clone(),
        ports: rooms.groups.iter().map(|group| group.place.port).collect(),
        old: rooms.old.clone(),
        release_rate: rooms.release_rate,
        rooms: rooms.cookies(),
        netns: rooms.netns().cloned(),
        group,
        who: rooms.who.clone(),
        keeps: rooms.keeps,
        note: rooms.note.as_ref().map(|note| note.path().to_owned()),
        files: files(rooms),
    }
}

fn files(rooms: &Rooms) -> Vec<(File, RawFd)> {
    let shelves = rooms.groups.iter().filter_map(|group| {
        let file = match group.lent {
            true => File::LentShelf,
            false => File::Shelf,
        };
        Some((file, group.shelf.as_ref()?.as_fd()))
    });
    let own = rooms.passes.own.iter().flat_map(|own| &own.links);
    let links = rooms.links.iter().chain(own);
    let links = links.map(|link| (File::Link, link.as_fd()));
    let note = rooms.note.iter().map(|note| (File::Note, note.as_fd()));
    let bindings = rooms.bindings.iter();
    let bindings = bindings.map(|bindings| (File::Bindings, bindings.as_fd()));
    let lent = rooms.lent.iter().flat_map(|lent| {
        let places = lent.places().map(|places| (File::LentPlaces, places));
        let busy = lent.busy().map(|busy| (File::LentBusy, busy));
        let known = [(File::Lent, lent.as_fd())].into_iter();
        known.chain(places).chain(busy)
    });
    let old = rooms.groups.iter().flat_map(|group| &group.old);
    let old = old.map(|old| (File::OldListener, old.copy.as_fd()));
    let all = shelves.chain(links).chain(note).chain(bindings).chain(lent);
    let all = all.chain(old);
    all.map(|(file, fd)| (file, fd.as_raw_fd())).collect()
}

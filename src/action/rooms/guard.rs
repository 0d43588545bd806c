//! The guard process of waiting rooms. When the run has died, it hands the waiting connections over to the service
//! once that listens again.

use std::ffi::{CStr, OsString};
use std::io::Write;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::unistd::getppid;

use super::groups::{Filling, First, Group, Rooms};
use super::guard_moved::Moves;
use super::leaving::Leaving;
use super::letting_go;
use super::note::Note;
use super::policy::HANDED_OVER_WITHIN;
use super::taken_over::end_guards_from_before;
use super::watch::{GRACE, Watch};
use crate::action::contract::GuardWork;
use crate::decide::policy::Answer;
use crate::gate::rooms::dissolve_of;
use crate::kernel::bpf::Link;
use crate::kernel::control_group;
use crate::kernel::room::orders::{File, HAND_OVER, Orders};
use crate::kernel::room::reuseport::{Bindings, Lent};
use crate::kernel::room::{Shelf, Stowed};
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::{Looks, Sample};
use crate::kernel::sys;
use crate::process::ancestry::is_stopped;
use crate::process::attended::word;
use crate::process::guard::{self, Heard};
use crate::process::lock::ports_of_runs;
use crate::words::scope::Scope;

const NAME_FOR_KERNEL: &CStr = c"gate-room";
/// Interval between looks whether the service listens again.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A run that does not tell for so long that it works hangs, or somebody has stopped it.
pub(crate) const HUNG: Duration = Duration::from_secs(2);
/// A run whose guard has heard nothing for so long may be stopped: then nobody has to wait until it hangs. It asks a
/// little more often.
pub(crate) const UNHEARD: Duration = Duration::from_millis(700);
const LOOK_AT_RUN_EVERY: Duration = Duration::from_millis(100);
/// When the run has died and the old listener stays for so long, COMMAND may not end it any more: the waiting
/// connections go back there. The rooms stay as long as COMMAND runs.
pub(crate) const DESERTED: Duration = Duration::from_secs(1);

/// The guard's own command line: the name, and [`Orders`].
pub(crate) fn call(words: &[OsString]) -> Option<GuardWork> {
    let words: Option<Vec<&str>> = words.iter().map(|word| word.to_str()).collect();
    let orders = Orders::parse(words?.get(1..)?)?;
    Some(Box::new(move || {
        let _ = guard(&orders);
    }))
}

/// Guards the rooms until the run dismisses it, or has died and the connections that waited were handed over.
fn guard(orders: &Orders) -> Result<()> {
    let until = Instant::now() + orders.left();
    let files: Vec<RawFd> = orders.files.iter().map(|(_, fd)| *fd).collect();
    let (mut line, _) = guard::begin(NAME_FOR_KERNEL, &files)?;
    guard::stay();
    let mut guarded = Guarded::of(orders)?;
    line.write_all(&[word::READY])?;
    if guarded.until_left(&mut line, until) {
        guarded.rooms.leave_as_it_is();
        return Ok(());
    }
    // A keep has no end. Its guard has one, once the keep has died, and so has another guard that follows that one.
    let until = orders
        .keeps
        .map_or(until, |keeps| until.min(Instant::now() + keeps));
    if guarded.take_over(until) == Next::Other {
        guarded.rooms.leave_as_it_is();
        return Ok(());
    }
    // A run that was stopped reads that once it goes on.
    let mut said = vec![word::ACTED];
    said.extend(serde_json::to_vec(&guarded.rooms.figures)?);
    let _ = line.write_all(&said);
    guarded.finish();
    dissolve_of(&orders.run);
    Ok(())
}

struct Guarded {
    rooms: Rooms,
    /// The control group of COMMAND.
    command: Option<PathBuf>,
    /// The run has died. One that hangs may go on.
    alone: bool,
    /// Groups of a dead keep that are being given back.
    leaving: Option<Leaving>,
    /// Some were.
    gave_back: bool,
    /// Of a dead keep.
    moves: Moves,
    /// Copies of old listeners.
    old: Vec<Stowed>,
}

/// Who does what is left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    This,
    /// Another guard.
    Other,
}

impl Guarded {
    /// Waits for the end of the run. `true`: it has dismissed the guard; `false`: it has died or hangs, and the
    /// waiting connections are to be handed over.
    fn until_left(&mut self, line: &mut UnixStream, until: Instant) -> bool {
        let (mut beat, mut until) = (Instant::now(), until);
        loop {
            let now = Instant::now();
            let unheard = now.saturating_duration_since(beat);
            let hangs = unheard >= HUNG || (unheard >= UNHEARD && is_stopped(getppid().as_raw()));
            // Where the rooms are closed, the run has its time until queues and handshakes are through.
            let last = match now < until || self.rooms.groups.iter().any(Group::is_open) {
                true => until,
                false => until + HANDED_OVER_WITHIN,
            };
            if now >= last || (hangs && (told_to_end() || self.is_served_anew())) {
                return false;
            }
            let next = match hangs {
                true => LOOK_EVERY,
                false => UNHEARD.saturating_sub(unheard).max(LOOK_AT_RUN_EVERY),
            };
            let next = next.min(last - now).max(LOOK_EVERY);
            match guard::await_word(line, next) {
                Heard::Word(word::DISMISSED) => return true,
                // It may be opening a thousand ports.
                Heard::Word(word::GOES_ON) => {
                    beat = Instant::now();
                    until = until.max(beat + GRACE);
                }
                Heard::Word(_) => {
                    beat = Instant::now();
                    let _ = line.write_all(&[word::HERE]);
                }
                Heard::Nothing => (),
                Heard::TheEnd => {
                    self.alone = true;
                    return false;
                }
            }
        }
    }

    fn is_served_anew(&mut self) -> bool {
        self.rooms.groups.iter_mut().for_each(Group::see_owner);
        let to_go = self.to_go();
        self.rooms.know_listeners();
        let sample = self.rooms.look(false).unwrap_or_default();
        let in_the_way = self.in_the_way(&sample);
        let mut groups = self.rooms.groups.iter().zip(to_go);
        in_the_way
            || groups.any(|(group, to_go)| to_go && self.rooms.is_served_anew(group, &sample))
    }

    /// Whether rooms keep new connections from the service, which listens elsewhere.
    fn in_the_way(&mut self, sample: &Sample) -> bool {
        let those = self.rooms.in_the_way(sample);
        those.iter().any(|n| self.rooms.groups[*n].is_open())
    }

    /// Which groups have somebody to hand over to a listener that a look behind this one shows. The rooms of a
    /// keep stand while nobody waits, also when it has died: another one may take its place.
    fn to_go(&self) -> Vec<bool> {
        let to_go = |group: &Group| match self.rooms.keeps {
            Some(_) => group.waiting() > 0,
            None => group.is_open(),
        };
        self.rooms.groups.iter().map(to_go).collect()
    }

    fn take_over(&mut self, until: Instant) -> Next {
        let deserted = Instant::now() + DESERTED;
        // The run may hang, and no longer see which of them the service has closed.
        self.old.drain(..).for_each(|copy| copy.close());
        self.rooms.groups.iter_mut().for_each(Group::see_owner);
        self.rooms.know_listeners();
        if self.stays() {
            self.rooms.is_orphaned = true;
            end_guards_from_before(&self.rooms);
            self.moves = Moves::begin(&mut self.rooms);
        }
        while self.leaving.is_some() || self.rooms.groups.iter().any(Group::is_open) {
            let now = Instant::now();
            if now >= self.last(until) || told_to_end() {
                self.rooms.shut_all();
                self.leaving.iter_mut().for_each(Leaving::end);
                break;
            }
            self.rooms.admit();
            let to_go = self.to_go();
            let sample = self.rooms.tend();
            for (n, to_go) in to_go.into_iter().enumerate() {
                self.go_on_with(n, to_go, now >= deserted, &sample);
            }
            if self.stays() {
                self.rooms.settle();
                self.rooms.let_share(&sample);
                self.see_moved(&sample);
            }
            self.stand_back(&sample);
            if self.gave_back && self.is_followed(until) {
                return Next::Other;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Next::This
    }

    /// Whether it goes on as the keep did that has died, until another one comes: also when it has handed over, since
    /// the service may end again.
    fn stays(&self) -> bool {
        self.alone && self.rooms.keeps.is_some()
    }

    /// Closes the rooms of services that have gone elsewhere, as the keep would: the waiting connections are reset.
    fn see_moved(&mut self, sample: &Sample) {
        let moved = self.moves.see(&self.rooms, sample);
        self.rooms.hand_over(&moved);
    }

    /// When it ends. Where nobody listens, the waiting connections have as long as they would have by the keep.
    fn last(&self, until: Instant) -> Instant {
        let Some(max_wait) = self.rooms.keeps.filter(|_| self.stays()) else {
            return until;
        };
        let open = self.rooms.groups.iter().filter(|group| group.is_open());
        let gaps = open.filter_map(|group| group.deserted);
        gaps.map(|since| since + max_wait).fold(until, Instant::max)
    }

    /// As a living keep does, from the ports of runs where somebody listens. Groups that are closed are given back,
    /// too.
    fn stand_back(&mut self, sample: &Sample) {
        let note = self.rooms.note.as_ref().filter(|_| self.alone);
        let (Some(max_wait), Some(directory)) =
            (self.rooms.keeps, note.and_then(|note| note.path().parent()))
        else {
            return;
        };
        if self.leaving.is_none() {
            let runs = ports_of_runs(directory);
            let groups = self.rooms.groups.iter().enumerate();
            let goes = |group: &Group| {
                let is_served = self.rooms.is_served(group, sample);
                is_served && runs.contains(group.place.port) || !group.is_open()
            };
            let those: Vec<usize> = groups
                .filter(|(_, group)| goes(group))
                .map(|(n, _)| n)
                .collect();
            if !those.is_empty() {
                self.rooms.set_busy(true);
                // Else it is tried again at the next look.
                self.leaving = Leaving::begin(&mut self.rooms, &those, max_wait).ok();
            }
        }
        self.rooms.set_busy(self.leaving.is_some());
        let is_done = self.leaving.as_mut().is_some_and(Leaving::is_done);
        self.rooms.set_busy(false);
        if is_done {
            self.leaving = None;
            self.gave_back = true;
            self.rooms.lend_while_needed();
            self.rooms.note_only_groups();
        }
    }

    /// Another guard has the groups that are left, whose command line tells of no others. Not where the connections
    /// that waited are just being handed over.
    fn is_followed(&mut self, until: Instant) -> bool {
        let groups = &self.rooms.groups;
        let is_busy = self.leaving.is_some() || groups.iter().any(Group::is_handing_over);
        if groups.is_empty() || is_busy {
            return false;
        }
        Watch::start(&self.rooms, until).is_ok()
    }

    fn go_on_with(&mut self, n: usize, to_go: bool, deserted: bool, sample: &Sample) {
        let group = &self.rooms.groups[n];
        let still = deserted && self.rooms.keeps.is_none() && self.rooms.is_served(group, sample);
        if group.is_kept() && self.stays() {
            // It is tended.
        } else if group.is_kept() {
            let is_over = self.rooms.is_served_anew(group, sample) || !self.command_goes_on();
            if is_over && self.rooms.is_settled(group, sample) {
                self.rooms.hand_over(&[n]);
            }
        } else if group.letting_go.is_some() {
            self.rooms.go_on_with(n, letting_go::Next::InTime);
        } else if !group.is_open() {
            // Shut by the look just now.
        } else if to_go && self.rooms.is_served_anew(group, sample) {
            self.rooms.release(&[n]);
        } else if still {
            match self.command_goes_on() {
                true => self.rooms.release_to_old(n),
                false => self.rooms.hand_over(&[n]),
            }
        }
    }

    /// As far as its control group tells. What it has started counts.
    fn command_goes_on(&self) -> bool {
        let group = self.command.as_deref();
        group.is_some_and(control_group::has_processes)
    }

    fn finish(&mut self) {
        self.rooms.links.clear();
        let give_up = Instant::now() + HANDED_OVER_WITHIN;
        while self.rooms.progress() != Answer::Left(Some(0)) && Instant::now() < give_up {
            std::thread::sleep(LOOK_EVERY);
        }
        self.rooms.give_back();
    }
}

/// Somebody has sent SIGTERM. While the run works, that is for the run to hear.
fn told_to_end() -> bool {
    sys::pending().contains(HAND_OVER)
}

impl Guarded {
    fn of(orders: &Orders) -> Result<Guarded> {
        let mut sockets = Sockets::new(&orders.ports, &Scope::default())?;
        if let Some(netns) = &orders.netns {
            sockets.look_in(netns)?;
        }
        let mut guarded = Guarded {
            rooms: Rooms::new(sockets, First::Rooms, orders.old.clone())?,
            command: orders.group.as_deref().and_then(control_group::reached),
            alone: false,
            leaving: None,
            gave_back: false,
            moves: Moves::default(),
            old: Vec::new(),
        };
        (guarded.rooms.run, guarded.rooms.who) = (orders.run.clone(), orders.who.clone());
        guarded.rooms.release_rate = orders.release_rate;
        guarded.rooms.keeps = orders.keeps;
        let command = guarded.command.clone();
        guarded.rooms.admitted.groups.extend(command);
        for (kind, fd) in &orders.files {
            let file = sys::inherited(*fd).context("no such file")?;
            guarded.take(*kind, file, orders)?;
        }
        Ok(guarded)
    }

    fn take(&mut self, kind: File, file: OwnedFd, orders: &Orders) -> Result<()> {
        match kind {
            File::Link => self.rooms.links.push(Link::adopt(file)),
            File::Lent => self.rooms.lent = Some(Lent::adopt(file)?),
            File::LentPlaces => {
                let lent = self.rooms.lent.as_mut().context("places and no sockets")?;
                lent.know_places(file)?;
            }
            File::LentBusy => {
                let lent = self.rooms.lent.as_mut().context("busy and no sockets")?;
                lent.know_busy(file)?;
            }
            File::Bindings => self.rooms.bindings = Some(Bindings::adopt(file)?),
            File::Note => {
                let note = orders.note.as_deref();
                self.rooms.note = note.map(|path| Note::adopt(path, file));
            }
            File::OldListener => self.old.push(Stowed::adopt(file)),
            File::Shelf | File::LentShelf => {
                let shelf = Shelf::adopt(file)?;
                let lent = kind == File::LentShelf;
                let mut group = Group::new(shelf.place().clone(), Filling::default(), lent);
                let waits = group.waits.get_mut();
                waits.are_empty(shelf.cookies(), Instant::now());
                group.shelf = Some(shelf);
                self.rooms.groups.push(group);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::ports::PortSet;

    #[test]
    fn a_run_in_the_middle_of_its_work_is_given_time_beyond_the_deadline() {
        let sockets = Sockets::new(&PortSet::EMPTY, &Scope::default()).unwrap();
        let mut guarded = Guarded {
            rooms: Rooms::new(sockets, First::Rooms, Vec::new()).unwrap(),
            command: None,
            alone: false,
            leaving: None,
            gave_back: false,
            moves: Moves::default(),
            old: Vec::new(),
        };
        let (mut run, mut line) = UnixStream::pair().unwrap();
        // No room is open.
        let start = Instant::now();
        let until = start - HANDED_OVER_WITHIN;
        assert!(!guarded.until_left(&mut line, until));
        run.write_all(&[word::GOES_ON]).unwrap();
        let until = Instant::now() - HANDED_OVER_WITHIN + GRACE;
        assert!(!guarded.until_left(&mut line, until));
        assert!(start.elapsed() >= HANDED_OVER_WITHIN);
    }
}

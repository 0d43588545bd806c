//! The rooms of a keep, and the guard process that has them, too.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

use super::decide::{LOOK_AGAIN, News, Pace, Quota, Sight};
use super::gap::{End, Gap};
use super::spot::Spot;
use super::told::{Ended, Told};
use super::unit::Unit;
use super::wanted::Wanted;
use crate::action::rooms::First;
use crate::action::rooms::figures::Figures;
use crate::action::rooms::groups::Rooms;
use crate::action::rooms::leaving::{Leaving, Patience};
use crate::action::rooms::moved::{Before, Leaves, who_gets};
use crate::action::rooms::policy::LOOK_EVERY;
use crate::action::rooms::resident::{SETTLES_AFTER, Tended, has_own_program};
use crate::action::rooms::watch::Watch;
use crate::kernel::room::Place;
use crate::kernel::room::wake::Wake;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::{Listener, Sample, holders};
use crate::process::lock::{Lock, directory_in_use, ports_of_runs};
use crate::run::report::json::rows;
use crate::words::ports::PortSet;

/// How long the line about a gap waits for other addresses where nobody listens yet.
pub(crate) const TOLD_WITHIN: Duration = Duration::from_secs(1);

pub(super) struct Kept<'a> {
    pub(super) wanted: &'a Wanted,
    pub(super) unit: Option<Unit>,
    pub(super) lock: &'a mut Lock,
    /// The ports that are locked.
    pub(super) claimed: PortSet,
    /// The ports that runs had locked at the last look.
    pub(super) of_runs: PortSet,
    pub(super) rooms: Rooms,
    /// Groups that are being given back, for a run.
    pub(super) leaving: Option<Leaving>,
    /// In the order of the groups.
    pub(super) spots: Vec<Spot>,
    pub(super) watch: Option<Watch>,
    /// When that was started, or could not be.
    pub(super) guarded_at: Instant,
    pub(super) wake: Option<Wake>,
    pub(super) refused: BTreeMap<Place, Refused>,
    pub(super) refusals: Quota,
    /// The runs of keeps before this one, whose rooms it could not take over.
    pub(super) not_taken_over: BTreeSet<String>,
    before: Before,
    /// The listeners that the note tells of.
    pub(super) noted: Vec<u64>,
    /// Why rooms could not be made at the last look.
    pub(super) trouble: Option<String>,
    /// There are more places than `--max-addresses`.
    pub(super) is_full: bool,
    /// A gap that is over, and has not been told yet.
    over: Option<Over>,
    pace: Pace,
    runs_seen_at: Option<Instant>,
}

/// A place where no rooms could be made.
pub(super) struct Refused {
    pub(super) listeners: Vec<u64>,
    pub(super) why: String,
    pub(super) at: Instant,
}

/// A gap that is over, and since when.
pub(super) struct Over {
    ended: Ended,
    at: Instant,
}

impl<'a> Kept<'a> {
    /// No rooms yet.
    pub(super) fn new(
        wanted: &'a Wanted,
        unit: Option<Unit>,
        lock: &'a mut Lock,
    ) -> Result<Kept<'a>> {
        Ok(Kept {
            rooms: rooms(wanted)?,
            leaving: None,
            claimed: wanted.first_ports(),
            of_runs: PortSet::EMPTY,
            wanted,
            unit,
            lock,
            spots: Vec::new(),
            watch: None,
            guarded_at: Instant::now(),
            wake: None,
            refused: BTreeMap::new(),
            refusals: Quota::default(),
            not_taken_over: BTreeSet::new(),
            before: Before::default(),
            noted: Vec::new(),
            trouble: None,
            is_full: false,
            over: None,
            pace: Pace {
                cost: Duration::ZERO,
                waits: false,
                changed: false,
                failed: false,
            },
            runs_seen_at: None,
        })
    }

    pub(super) fn pace(&self) -> Pace {
        self.pace
    }

    /// Can be read when somebody begins to wait. While somebody waits, the looks come by themselves.
    pub(super) fn wakes(&self) -> Option<BorrowedFd<'_>> {
        let wake = self.wake.as_ref().filter(|_| self.pace.may_be_woken());
        wake.map(AsFd::as_fd)
    }

    pub(super) fn is_in_gap(&self) -> bool {
        self.spots.iter().any(|spot| spot.watched.is_in_gap())
    }

    /// Looks, hands over, and follows the listeners.
    pub(super) fn look(&mut self) -> Result<Told> {
        let began = Instant::now();
        let told = self.look_now();
        self.pace = Pace {
            cost: began.elapsed(),
            waits: self.leaving.is_some() || self.spots.iter().any(|spot| spot.watched.waits()),
            changed: !self.rooms.is_calm_for(SETTLES_AFTER),
            failed: told.is_err(),
        };
        told
    }

    fn look_now(&mut self) -> Result<Told> {
        let begun = self.see_runs();
        let mut told = Told::default();
        self.ask_about_unit(&mut told);
        let waited = self.rooms.who_waits(self.wake.as_ref())?;
        let mut there = self.see(false)?;
        self.stay_for_runs(&begun, &there);
        self.tend(&mut there, &waited, &mut told)?;
        self.ask_about_unit(&mut told);
        self.tell_begun(&mut told);
        self.stand_back(&mut told);
        self.follow(&there, &mut told);
        self.note_before(&there);
        self.attend(&mut told);
        Ok(told)
    }

    /// A run that has the ports locked does what it does without a keep. Looks no more often than a keep looks while
    /// nobody waits: rooms are made under the runs' lock anyway. Returns the ports of runs that have begun since.
    fn see_runs(&mut self) -> PortSet {
        let seen_at = self.runs_seen_at.filter(|at| at.elapsed() < LOOK_AGAIN);
        if seen_at.is_some() {
            return PortSet::EMPTY;
        }
        self.runs_seen_at = Some(Instant::now());
        let ports = ports_of_runs(&directory_in_use()).intersection(&self.wanted.ports);
        let before = std::mem::replace(&mut self.of_runs, ports);
        self.of_runs.minus(&before)
    }

    /// A run that begins while nobody listens has seen no listener, and does not wait for the keep. The gap itself lasts
    /// a moment longer than that.
    fn stay_for_runs(&mut self, begun: &PortSet, there: &Sample) {
        for (spot, group) in self.spots.iter_mut().zip(&self.rooms.groups) {
            let port = group.place.port;
            spot.stays &= self.of_runs.contains(port);
            spot.stays |= begun.contains(port) && !self.rooms.is_served(group, there);
        }
    }

    fn tend(&mut self, there: &mut Sample, waited: &[usize], told: &mut Told) -> Result<()> {
        let waiting = self.rooms.who_waits(self.wake.as_ref())?;
        let spots = self.spots.iter().zip(&waiting);
        for (group, (spot, waiting)) in self.rooms.groups.iter_mut().zip(spots) {
            if spot.watched.begins_to_wait(*waiting) {
                group.begins_to_wait();
            }
        }
        let tended = self.rooms.tend_each(there, waited, &waiting);
        let in_the_way = self.rooms.in_the_way(there);
        for (number, spot) in self.spots.iter_mut().enumerate() {
            let in_the_way = in_the_way.contains(&number);
            spot.leaves.note_in_the_way(in_the_way);
        }
        told.warnings.extend(self.rooms.replaced());
        let mut lost = Vec::new();
        for (number, tended) in tended.into_iter().enumerate() {
            let stays = self.conclude(number, tended, there, told);
            if !stays || self.leaves_own_program(number, tended, there, told) {
                lost.push(number);
            }
        }
        self.forget(&lost, told);
        let mut spots = self.spots.iter();
        let others = spots.any(|spot| spot.watched.is_in_gap());
        let due = |over: &mut Over| !others || over.at.elapsed() >= TOLD_WITHIN;
        told.ended
            .extend(self.over.take_if(due).map(|over| over.ended));
        Ok(())
    }

    /// What follows from a look at one group. Returns whether it stays.
    fn conclude(&mut self, number: usize, tended: Tended, there: &Sample, told: &mut Told) -> bool {
        let now = Instant::now();
        self.note_moved(number, tended.served, there, now);
        let (max_wait, end) = self.patience(number, there, now);
        if !tended.served && !self.is_in_gap() {
            self.rooms.count_unmoved();
        }
        let spot = &mut self.spots[number];
        spot.waited.add(tended.figures);
        spot.waiting = tended.waiting;
        match spot.watched.see(sight(tended), max_wait, now) {
            News::Nothing => {
                let is_over = !spot.watched.is_in_gap() && !spot.watched.waits();
                match is_over && spot.had_unseen_gap() {
                    true => self.tell_unseen(number, there, told),
                    false if is_over => spot.waited = Figures::default(),
                    false => (),
                }
                self.rooms.groups[number].is_kept()
            }
            News::Over { since, listens } => {
                let mut gap = self.gap(number, since);
                gap.unserved = listens.duration_since(since);
                gap.unmoved = self.rooms.unmoved();
                self.is_over(self.ended(gap, number, there, End::Over));
                self.spots[number].waited = Figures::default();
                self.rooms.groups[number].is_kept()
            }
            News::GiveUp { since } => {
                let reset = self.rooms.reset(number);
                self.spots[number].waited.add(reset);
                told.add(Ended {
                    gap: self.gap(number, since),
                    end,
                    listeners: Vec::new(),
                });
                false
            }
        }
    }

    /// The service chooses among its listeners by a program of its own, which a room would disturb.
    fn leaves_own_program(
        &mut self,
        number: usize,
        tended: Tended,
        there: &Sample,
        told: &mut Told,
    ) -> bool {
        let leaves = tended.has_own && tended.served && tended.waiting == 0;
        if leaves {
            let place = self.rooms.groups[number].place.clone();
            self.refuse(&place, there, &has_own_program(&place), told);
        }
        leaves
    }

    /// Notes where the service has come back, if that is no place of its own.
    fn note_moved(&mut self, number: usize, served: bool, there: &Sample, now: Instant) {
        let spot = &mut self.spots[number];
        if served {
            spot.leaves = Leaves::default();
            return;
        }
        let place = &self.rooms.groups[number].place;
        let to = self
            .before
            .gone_to(place, spot.control_group, &there.listeners);
        spot.leaves.see(to, now);
    }

    /// Notes who listens on ports that are kept while nobody is missed there.
    fn note_before(&mut self, there: &Sample) {
        let ports = |in_gap: bool| -> PortSet {
            let groups = self.spots.iter().zip(&self.rooms.groups);
            let some = groups.filter(|(spot, _)| !in_gap || spot.watched.is_in_gap());
            some.map(|(_, group)| group.place.port).collect()
        };
        let ports = ports(false).minus(&ports(true));
        let listeners = there.listeners.iter().filter(|l| ports.contains(l.port));
        self.before.note(listeners, Instant::now());
    }

    /// How long somebody may wait there, and what ends it then.
    fn patience(&self, number: usize, there: &Sample, now: Instant) -> (Duration, End) {
        let stopped = self.unit.as_ref().filter(|unit| unit.is_stopped());
        let leaves = self.spots[number].leaves.is_over(now);
        let gets = who_gets(&self.rooms.groups[number].place, &there.listeners);
        let gets = gets.map(Listener::shown);
        match (stopped, leaves) {
            (Some(unit), _) => (Duration::ZERO, End::Stopped(unit.name().to_owned(), gets)),
            (None, Some(to)) => (Duration::ZERO, End::Moved(to.place.shown(), gets)),
            (None, None) => (self.wanted.max_wait, End::GivenUp(gets)),
        }
    }

    /// It is told together with those of other places.
    fn is_over(&mut self, ended: Ended) {
        match &mut self.over {
            Some(over) => over.ended.add(ended),
            None => {
                let at = Instant::now();
                self.over = Some(Over { ended, at });
            }
        }
    }

    pub(super) fn gap(&self, number: usize, since: Instant) -> Gap {
        let place = &self.rooms.groups[number].place;
        let mut gap = gap_of([place.port].into_iter().collect(), since.elapsed());
        gap.addresses = [place.shown()].into();
        let groups = self.rooms.groups.iter().map(|group| &group.place);
        let on_port = groups.filter(|other| other.port == place.port);
        gap.kept = on_port.map(Place::shown).collect();
        gap.waited_more(self.spots[number].waited);
        gap
    }

    /// Somebody has waited, and the next look has shown a listener.
    fn tell_unseen(&mut self, number: usize, there: &Sample, told: &mut Told) {
        let waited = self.spots[number].waited;
        let mut gap = self.gap(number, Instant::now() - waited.longest);
        gap.unserved = Duration::ZERO;
        told.add(self.ended(gap, number, there, End::Unseen));
        self.spots[number].waited = Figures::default();
    }

    /// A gap that is over, and who listens there now.
    fn ended(
        &self,
        gap: Gap,
        number: usize,
        there: &Sample,
        end: fn(BTreeSet<String>) -> End,
    ) -> Ended {
        let place = &self.rooms.groups[number].place;
        let listeners = there.listeners.iter().filter(|l| place.is_of(l));
        let listeners: Vec<Listener> = listeners.cloned().collect();
        let inodes: Vec<u32> = listeners.iter().map(|l| l.inode).collect();
        let holders = holders::find_newest(&inodes);
        let now = match holders::names(&holders, &inodes).as_str() {
            "" => "somebody".to_owned(),
            names => names.to_owned(),
        };
        let there = Sample {
            listeners,
            holders,
            ..Sample::default()
        };
        Ended {
            gap,
            end: end([now].into()),
            listeners: rows(&there),
        }
    }

    /// Hands over, and takes back everything. Returns what has not been told yet.
    pub(super) fn end(&mut self) -> Told {
        let mut told = Told::default();
        self.end_leaving(&mut told);
        told.ended.extend(self.over.take().map(|over| over.ended));
        let numbers = 0..self.spots.len();
        let gaps = numbers.filter_map(|number| {
            let since = self.spots[number].watched.gap()?;
            Some(self.gap(number, since))
        });
        let gaps: Vec<Gap> = gaps.collect();
        let numbers = 0..self.spots.len();
        let left: usize = numbers.map(|number| self.rooms.left_in(number)).sum();
        self.rooms.figures = Figures::default();
        self.hand_over_and_end();
        self.rooms.figures.tell_apart(left);
        let end = || End::KeepEnds;
        for gap in gaps {
            told.add(Ended {
                gap,
                end: end(),
                listeners: Vec::new(),
            });
        }
        if let Some(ended) = told.ended.iter_mut().find(|ended| ended.end == end()) {
            ended.gap.waited_more(self.rooms.figures);
        }
        told
    }

    /// Whether the rooms can be left to the guard now, so that the next keep takes them over.
    pub(super) fn may_leave(&self) -> bool {
        let waits = self.spots.iter().any(|spot| spot.watched.waits());
        let guarded = self.watch.is_some() || self.spots.is_empty();
        guarded && self.leaving.is_none() && !self.is_in_gap() && !waits
    }

    /// Leaves the rooms to the guard, for the next keep. Returns what has not been told yet.
    pub(super) fn leave(&mut self) -> Told {
        if self.watch.is_none() || self.is_in_gap() {
            return self.end();
        }
        let mut told = Told::default();
        self.end_leaving(&mut told);
        told.ended.extend(self.over.take().map(|over| over.ended));
        self.rooms.leave_as_it_is();
        // As if this process were killed.
        self.watch = None;
        told
    }

    fn end_leaving(&mut self, told: &mut Told) {
        while self.leaving.is_some() {
            self.go_on_leaving(told);
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn hand_over_and_end(&mut self) {
        self.rooms.hand_all_over();
        let mut patience = Patience::new(self.wanted.max_wait);
        while !patience.is_over(&self.rooms.progress(), Instant::now()) {
            std::thread::sleep(LOOK_EVERY);
        }
        self.rooms.shut_all();
        // The guard goes last: should this process be killed meanwhile, it gives back what is left.
        self.rooms.give_back();
        self.watch.take().map(Watch::dismiss);
    }
}

fn rooms(wanted: &Wanted) -> Result<Rooms> {
    let gated = &wanted.gated;
    let sockets = Sockets::new(&gated.listener_ports(), &gated.listener_scope())?;
    let mut rooms = Rooms::new(sockets, First::Service, Vec::new())?;
    (rooms.run, rooms.who) = (wanted.run.clone(), wanted.who.to_string());
    (rooms.keeps, rooms.any) = (Some(wanted.max_wait), wanted.any);
    rooms.of_unit = wanted.unit.is_some();
    Ok(rooms)
}

/// One that ends now, and in which nobody has waited yet.
pub(super) fn gap_of(ports: PortSet, took: Duration) -> Gap {
    let began = SystemTime::now() - took;
    Gap {
        ports,
        began: humantime::format_rfc3339_millis(began).to_string(),
        took,
        unserved: took,
        ..Gap::default()
    }
}

fn sight(tended: Tended) -> Sight {
    Sight {
        served: tended.served,
        waiting: tended.waiting,
    }
}

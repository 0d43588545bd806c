//! Waiting rooms of runs, as others find them: by the guard processes that hold them.

use std::fs::{self, metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::found::{By, Found, FoundRooms};
use super::rules::PREFIX;
use super::who::Who;
use crate::kernel::control_group::{self, ControlGroup};
use crate::kernel::room::Place;
use crate::kernel::room::known::{RoomGuard, guards};
use crate::kernel::room::orders::HAND_OVER;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::netns::{self, Netns};
use crate::kernel::sockets::{Listener, Looks, Want};
use crate::process::living::somebody_in;
use crate::process::poll::comes_true;
use crate::process::send::send;
use crate::words::ports::PortSet;
use crate::words::scope::{Networks, Scope};

/// How long a guard may take to hand over and end: it waits for handshakes that are under way. Then it is
/// killed, and the kernel hands over.
pub(crate) const HANDS_OVER_WITHIN: Duration = Duration::from_secs(4);
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a keep may take to stand back from the ports of a run.
pub(crate) const STANDS_BACK_WITHIN: Duration = Duration::from_secs(5);

/// Has the guard of a dead run hand over to the service, whether that listens or not.
///
/// # Errors
/// The guard can't be told or killed.
pub(crate) fn hand_over(guard: &RoomGuard) -> Result<()> {
    hand_one_over(guard)?;
    // As it was told, it may have been giving its rooms to another guard, and have ended by that.
    let mut all = guards().into_iter();
    let follower = all.find(|other| other.orders.run == guard.orders.run);
    follower.map_or(Ok(()), |follower| hand_one_over(&follower))
}

fn hand_one_over(guard: &RoomGuard) -> Result<()> {
    for signal in [HAND_OVER, Signal::SIGKILL] {
        tell(guard, signal)?;
        // The guard may have been stopped.
        tell(guard, Signal::SIGCONT)?;
        if comes_true(|| !lives(guard), LOOK_EVERY, HANDS_OVER_WITHIN) {
            return Ok(());
        }
    }
    bail!("their guard (pid {}) can't be ended", guard.pid)
}

/// Has the guard of a run that hangs or is stopped hand over now, also if somebody has stopped the guard as well.
///
/// # Errors
/// The order can't be sent.
pub(crate) fn wake(guard: &RoomGuard) -> Result<()> {
    tell(guard, HAND_OVER)?;
    tell(guard, Signal::SIGCONT)
}

/// Kills a guard whose rooms another one has, too: it leaves them as they are.
///
/// # Errors
/// The guard can't be killed.
pub(crate) fn end_at_once(guard: &RoomGuard) -> Result<()> {
    tell(guard, Signal::SIGKILL)?;
    match comes_true(|| !lives(guard), LOOK_EVERY, HANDS_OVER_WITHIN) {
        true => Ok(()),
        false => bail!("their guard (pid {}) can't be ended", guard.pid),
    }
}

fn lives(guard: &RoomGuard) -> bool {
    RoomGuard::at(guard.pid).is_some_and(|there| there == *guard)
}

/// No error if it has ended.
fn tell(guard: &RoomGuard, signal: Signal) -> Result<()> {
    match send(signal, guard.pid, || lives(guard)) {
        Err(errno) if errno != Errno::ESRCH => Err(errno.into()),
        _ => Ok(()),
    }
}

/// The rooms of runs in this network namespace, and why there may be more.
pub(crate) fn find() -> (Vec<Found>, Vec<String>) {
    let (mut found, mut unseen) = (Vec::new(), Vec::new());
    for guard in guards() {
        let pid = guard.pid;
        match guard.is_here() {
            Some(false) => (),
            // The guard may have ended meanwhile.
            None if RoomGuard::at(pid).is_none() => (),
            None => unseen.push(format!(
                "which ports the waiting rooms of process {pid} are for"
            )),
            Some(true) => match look(guard) {
                Ok(gate) => found.push(gate),
                Err(error) => unseen.push(format!("the waiting rooms of process {pid}: {error:#}")),
            },
        }
    }
    (found, unseen)
}

/// The rooms of a guard that are open, and what listens on their ports.
struct Seen {
    rooms: Vec<Listener>,
    services: Vec<Listener>,
}

impl Seen {
    fn of(guard: &RoomGuard) -> Result<Seen> {
        let orders = &guard.orders;
        let mut sockets = Sockets::new(&orders.ports, &Scope::default())?;
        if let Some(netns) = &orders.netns {
            sockets.look_in(netns)?;
        }
        Ok(Seen {
            rooms: sockets.rooms(&orders.rooms)?,
            services: sockets.look(Want::default())?.listeners,
        })
    }

    /// Whether there is a listener that gets the connections of that room.
    fn is_served(&self, room: &Listener) -> bool {
        let place = Place::of(room);
        let mut services = self.services.iter();
        services.any(|service| Place::of(service) == place)
    }
}

fn look(guard: RoomGuard) -> Result<Found> {
    let seen = Seen::of(&guard)?;
    let (rooms, services, orders) = (&seen.rooms, &seen.services, &guard.orders);
    let ports: PortSet = rooms.iter().map(|room| room.port).collect();
    let deserted = rooms.iter().filter(|room| !seen.is_served(room));
    let deserted: PortSet = deserted.map(|room| room.port).collect();
    let open = orders.note.as_deref().map(noted_open).unwrap_or_default();
    Ok(Found {
        run: orders.run.clone(),
        owned: false,
        who: Who::parse(&orders.who),
        opens_in: orders.keeps.is_none().then(|| orders.left()),
        by: By::Rooms(Box::new(FoundRooms {
            open: open.minus(&deserted),
            waiting: queued(rooms, |_| true),
            served: services.iter().any(|service| ports.contains(service.port)),
            stranded: queued(rooms, |room| !seen.is_served(room)),
            guard,
        })),
        ports,
        scope: Scope::default(),
        leave_from: Networks::default(),
        syns_stopped: None,
    })
}

/// The ports that a run has opened again, as its note tells. None where it tells nothing.
fn noted_open(note: &Path) -> PortSet {
    let text = fs::read_to_string(note).unwrap_or_default();
    let note: Value = serde_json::from_str(&text).unwrap_or_default();
    let open = note["open"].as_str().unwrap_or_default();
    PortSet::parse(open, |_| None).unwrap_or_default()
}

/// How many connections wait in the rooms of that guard where nobody listens. They would be reset if it ended.
///
/// # Errors
/// The kernel does not tell.
pub(crate) fn stranded(guard: &RoomGuard) -> Result<usize> {
    match look(guard.clone())?.by {
        By::Rooms(rooms) => Ok(rooms.stranded),
        By::Rules(_) => Ok(0),
    }
}

/// The guard of another keep, dead or alive, that has still to stand back from these ports, on which the caller has
/// the lock of runs. Where nobody listens it stays, and hands the waiting connections over once somebody does.
///
/// # Errors
/// The kernel does not list its sockets.
pub(crate) fn keep_on(ports: &PortSet, own_run: &str) -> Result<Option<RoomGuard>> {
    for guard in guards() {
        let orders = &guard.orders;
        let is_keep_s = orders.keeps.is_some() && orders.run != own_run;
        let shared = orders.ports.intersection(ports);
        if is_keep_s
            && !shared.is_empty()
            && guard.is_here() == Some(true)
            && has_to_stand_back(&guard, &shared)?
        {
            return Ok(Some(guard));
        }
    }
    Ok(None)
}

/// Whether a keep has rooms on all of these ports: who comes while nobody listens waits there.
pub(crate) fn kept(ports: &PortSet) -> bool {
    let keeps = guards()
        .into_iter()
        .filter(|guard| guard.orders.keeps.is_some());
    let here = keeps.filter(|guard| guard.is_here() == Some(true));
    let kept = here.fold(PortSet::EMPTY, |all, guard| all.union(&guard.orders.ports));
    ports.minus(&kept).is_empty()
}

fn has_to_stand_back(guard: &RoomGuard, ports: &PortSet) -> Result<bool> {
    let seen = Seen::of(guard)?;
    let mut services = seen.services.iter();
    if !services.any(|service| ports.contains(service.port)) {
        return Ok(false);
    }
    // The guard is about to give back the rooms that are closed.
    let all_open = seen.rooms.len() == guard.orders.rooms.len();
    let mut rooms = seen.rooms.iter();
    Ok(!all_open || rooms.any(|room| ports.contains(room.port) && seen.is_served(room)))
}

/// How many connections wait in those of the rooms.
fn queued(rooms: &[Listener], of: impl Fn(&Listener) -> bool) -> usize {
    let rooms = rooms.iter().filter(|room| of(room));
    rooms.map(|room| room.accept_queue as usize).sum()
}

/// A network namespace, as the names of control groups tell it. The kernel uses an inode again when the namespace
/// has gone, and never a cookie; a process is found by the inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Home {
    inode: u64,
    cookie: u64,
}

impl Home {
    /// The network namespace of this process.
    fn own() -> Home {
        let own = metadata("/proc/thread-self/ns/net");
        Home {
            inode: own.map_or(0, |file| file.ino()),
            cookie: netns::identity(),
        }
    }

    /// Whether no process is there any more, so neither a run nor its guard. `false`: also if there is no telling.
    fn is_gone(self) -> bool {
        let cookie = |pid: i32| {
            let netns = Netns::parse(&pid.to_string()).ok()?;
            netns.within(netns::identity).ok()
        };
        match somebody_in(self.inode) {
            Some(Some(pid)) => cookie(pid).is_some_and(|cookie| cookie != self.cookie),
            Some(None) => true,
            None => false,
        }
    }
}

/// The name of a control group for the COMMAND of a run. Runs in other containers may make theirs in the same
/// hierarchy, so it tells the network namespace.
pub(crate) fn group_name(run: &str) -> String {
    let Home { inode, cookie } = Home::own();
    format!("{PREFIX}{run}.{inode}.{cookie}")
}

/// The same for its `--ready-check`.
pub(crate) fn check_group_name(run: &str) -> String {
    format!("{}.check", group_name(run))
}

/// The run that a group was made for, and its network namespace.
fn made_for(group: &Path) -> Option<(String, Home)> {
    let name = group.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    let mut parts = name.split('.');
    let run = parts.next()?.to_owned();
    let mut number = || parts.next()?.parse().ok();
    let (inode, cookie) = (number()?, number()?);
    Some((run, Home { inode, cookie }))
}

/// A control group that was made for the COMMAND of a run, and whose guard is dead. The run was one in this network
/// namespace, or the namespace has gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeftGroup {
    pub path: PathBuf,
    pub run: String,
}

/// The group of a run that is about to close its gate is among them: its lock tells that it lives.
pub(crate) fn left_groups() -> Vec<LeftGroup> {
    let own = Home::own();
    let (mut groups, others) = groups().partition::<Vec<_>, _>(|(_, home)| *home == own);
    if !groups.is_empty() {
        let guards = guards();
        let guarded = |run: &String| guards.iter().any(|guard| guard.orders.run == *run);
        groups.retain(|(group, _)| !guarded(&group.run) && !control_group::has_hidden(&group.path));
    }
    let gone = others.into_iter().filter(|(_, home)| home.is_gone());
    groups
        .into_iter()
        .chain(gone)
        .map(|(group, _)| group)
        .collect()
}

/// Removes those of runs whose network namespaces have gone: no run there will.
pub(crate) fn dissolve_of_nowhere() {
    let own = Home::own();
    let gone = groups().filter(|(_, home)| *home != own && home.is_gone());
    gone.for_each(|(group, _)| drop(ControlGroup::at(&group.path)));
}

/// Removes that of a run that is dead, with its guard.
pub(crate) fn dissolve_of(run: &str) {
    let of_run = groups().filter(|(group, _)| group.run == run);
    of_run.for_each(|(group, _)| drop(ControlGroup::at(&group.path)));
}

/// All that runs on this host have made for their COMMANDs.
fn groups() -> impl Iterator<Item = (LeftGroup, Home)> {
    let all = control_group::named(PREFIX).into_iter();
    all.filter_map(|path| {
        let (run, home) = made_for(&path)?;
        Some((LeftGroup { path, run }, home))
    })
}

/// Dissolves it: processes that COMMAND has started go on in the group above. Returns whether it is gone. One
/// that is just ending keeps it for a moment.
pub(crate) fn dissolve(group: &Path) -> bool {
    let gone = || {
        drop(ControlGroup::at(group));
        !group.exists()
    };
    comes_true(gone, LOOK_EVERY, HANDS_OVER_WITHIN)
}

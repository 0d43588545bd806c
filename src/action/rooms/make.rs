//! Makes the rooms for the listeners that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, ensure};

use super::choice::{MOST_ROOMS, largest_room};
use super::groups::{Filling, First, Group, Rooms};
use super::hook;
use super::note::Note;
use super::options::RoomOptions;
use crate::action::contract::Seen;
use crate::kernel::control_group;
use crate::kernel::room::apart::make_in;
use crate::kernel::room::reuseport::Newcomers;
use crate::kernel::room::{Place, Room, Shelf, copy, longest_queue, probe, reuseport};
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::netns::Netns;
use crate::kernel::sockets::{Listener, Looks};

/// Makes all rooms, bound and not open. The service is served as before.
///
/// # Errors
/// This can't be done here. Everything is undone.
pub(crate) fn make(seen: &Seen, first: First, options: RoomOptions) -> Result<Rooms> {
    let mut places: BTreeMap<Place, Vec<&Listener>> = BTreeMap::new();
    for listener in &seen.before.listeners {
        places
            .entry(Place::of(listener))
            .or_default()
            .push(listener);
    }
    ensure!(
        !places.is_empty(),
        "nobody listens, so there is no place for a waiting room{}",
        match options.named {
            true => ": start the service without syngate, or use --syn auto",
            false => "",
        }
    );
    probe::moves_connections()?;
    let gated = seen.gated;
    let mut sockets = Sockets::new(&gated.listener_ports(), &gated.listener_scope())?;
    if let Some(netns) = seen.netns {
        sockets.look_in(netns)?;
    }
    // A value that undoes all when it is dropped.
    let old = seen.before.listeners.iter().map(|l| l.id.cookie).collect();
    let mut rooms = Rooms::new(sockets, first, old)?;
    (rooms.run, rooms.who) = (seen.run.to_owned(), seen.who.to_string());
    rooms.release_rate = options.release_rate;
    rooms.count_unmoved();
    let (count, filling) = filling(options, longest_queue(seen.netns));
    let groups = places.into_iter().map(|(place, listeners)| {
        let group = group_of(place, &listeners, filling, seen)?;
        Ok(group.outlasting(first, &listeners, &seen.before.holders))
    });
    let groups = groups.collect::<Result<Vec<Group>>>()?;
    // Before anything is lent, so that it is taken back however this ends.
    let lent = |listener: &Listener| {
        let place = Place::of(listener);
        let mut groups = groups.iter();
        groups.any(|group: &Group| group.lent && group.place == place)
    };
    rooms.note = Some(Note::write(seen, lent)?);
    let within = control_groups(seen);
    // All of them have the option before the first room is bound: those on other addresses may be in its way.
    let mut filled = groups.iter().try_for_each(Group::lend_option);
    let mut groups = groups.into_iter();
    while let Some(group) = filled.is_ok().then(|| groups.next()).flatten() {
        rooms.groups.push(group);
        let group = rooms.groups.last_mut().expect("it was just added");
        filled = fill(group, count, seen, &within).or_else(|error| rooms.leave_last_alone(error));
    }
    groups.for_each(|group| group.take_option_back(seen.netns));
    filled?;
    share(&mut rooms, seen)?;
    // The first look finds out which rooms are others', among all processes: not when clients wait.
    rooms.look(false)?;
    rooms.admitted.groups = groups_of_service(within);
    Ok(rooms)
}

impl Group {
    /// Its listeners have SO_REUSEPORT from now on.
    ///
    /// # Errors
    /// Some may have it.
    pub(super) fn lend_option(&self) -> Result<()> {
        let mut copies = self.copies.iter().filter(|_| self.lent);
        Ok(copies.try_for_each(|copy| copy::set_shares_port(copy, true))?)
    }

    /// They lack it again.
    pub(super) fn take_option_back(&self, netns: Option<&Netns>) {
        if self.lent {
            for copy in &self.copies {
                let _ = copy::set_shares_port(copy, false);
            }
            let _ = reuseport::forget(&self.place, netns);
        }
    }
}

/// How many rooms a group has, and how they are filled.
pub(super) fn filling(options: RoomOptions, longest_queue: u32) -> (u32, Filling) {
    let most = options.max_held;
    let largest = largest_room(longest_queue).min(most);
    match options.release_rate {
        None => {
            let count = most.div_ceil(largest).min(MOST_ROOMS);
            let (size, turn) = (largest, largest);
            (count, Filling { size, turn })
        }
        // In small portions: each room has one in so many.
        Some(_) => {
            let count = MOST_ROOMS.min(most);
            let size = most.div_ceil(count).min(largest);
            (count, Filling { size, turn: 1 })
        }
    }
}

/// Sockets that are bound later get SO_REUSEPORT as well, even if the service sets it now. The service may come back
/// without it, and the rooms would then keep it from listening.
fn share(rooms: &mut Rooms, seen: &Seen) -> Result<()> {
    let mut ports: Vec<u16> = rooms.groups.iter().map(|group| group.place.port).collect();
    ports.dedup();
    if ports.is_empty() {
        return Ok(());
    }
    let newcomers = Newcomers::new(&ports)?;
    let shared = hook::share(&ports, seen.netns, &newcomers);
    rooms.passes.newcomers = Some(Rc::new(newcomers));
    match shared {
        Ok((links, bindings)) => (rooms.links, rooms.bindings) = (links, Some(bindings)),
        Err(error) => {
            // Those without come last.
            rooms.groups.sort_by_key(|group| group.lent);
            while rooms.groups.last().is_some_and(|group| group.lent) {
                rooms.leave_last_alone(anyhow!("{error:#}"))?;
            }
        }
    }
    Ok(())
}

/// The control groups of the processes that hold the listeners, by pid.
pub(super) fn control_groups(seen: &Seen) -> BTreeMap<i32, PathBuf> {
    let pids = seen.before.holders.keys();
    let groups =
        pids.filter_map(|pid| Some((*pid, control_group::of_process(&pid.to_string()).ok()?)));
    groups.collect()
}

/// Those that are of the service alone: all processes may be in the uppermost one.
fn groups_of_service(groups: BTreeMap<i32, PathBuf>) -> BTreeSet<PathBuf> {
    let uppermost = control_group::root();
    let groups = groups.into_values();
    groups
        .filter(|group| Some(group) != uppermost.as_ref())
        .collect()
}

/// The group of these listeners, without rooms yet. Nothing has changed.
pub(super) fn group_of(
    place: Place,
    listeners: &[&Listener],
    filling: Filling,
    seen: &Seen,
) -> Result<Group> {
    let copies = listeners
        .iter()
        .map(|listener| copy::movable(listener, seen.before))
        .collect::<Result<Vec<OwnedFd>>>()?;
    let mut lent = false;
    for copy in &copies {
        lent |= !copy::shares_port(copy)?;
    }
    let mut group = Group::new(place, filling, lent);
    group.copies = copies;
    Ok(group)
}

/// Makes the rooms of the group, bound and not open.
pub(super) fn fill(
    group: &mut Group,
    count: u32,
    seen: &Seen,
    within: &BTreeMap<i32, PathBuf>,
) -> Result<()> {
    let like = group.copies.first().context("no listener")?;
    let make = || -> Result<Vec<Room>> {
        // One more: see Rooms::release.
        let made = (0..=count).map(|_| Room::make(&group.place, like.as_fd(), seen.netns));
        made.collect()
    };
    group.shelf = Some(match group_of_listeners(&group.place, seen, within) {
        Some(apart) => make_in(&apart, make)?,
        None => Shelf::of(&make()?)?,
    });
    Ok(())
}

/// The control group of the listeners at that place. `within`: those of the processes. `None`: this process is in it,
/// or there are none. Where it has gone, that of a process which holds one of them.
fn group_of_listeners(
    place: &Place,
    seen: &Seen,
    within: &BTreeMap<i32, PathBuf>,
) -> Option<PathBuf> {
    let mut listeners = seen.before.listeners.iter();
    let listener = listeners.find(|listener| place.is_of(listener))?;
    let own = control_group::own().ok();
    let holders = seen.before.holders.iter();
    let holding = holders.filter(|(_, holder)| holder.inodes.contains(&listener.inode));
    let holding: Vec<PathBuf> = holding
        .filter_map(|(pid, _)| within.get(pid).cloned())
        .collect();
    let guesses = own.iter().chain(&holding).cloned();
    let group = control_group::with_id(listener.cgroup?, guesses);
    let group = group.or_else(|| holding.first().cloned());
    group.filter(|group| Some(group) != own.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    #[test]
    fn rooms_are_as_large_as_a_queue_has_place_for_or_as_many_as_may_be() {
        let sizes = |max_held, release_rate, longest| {
            let options = RoomOptions {
                max_held,
                checks: false,
                named: true,
                release_rate: NonZeroU32::new(release_rate),
            };
            let (count, Filling { size, turn }) = filling(options, longest);
            (count, size, turn)
        };
        assert_eq!(sizes(65_536, 0, 4_096), (32, 2_048, 2_048));
        assert_eq!(sizes(100, 0, 4_096), (1, 100, 100));
        assert_eq!(sizes(1, 0, 1), (1, 1, 1));
        assert_eq!(sizes(65_536, 0, 128), (MOST_ROOMS, 64, 64));
        assert_eq!(sizes(65_536, 20, 4_096), (MOST_ROOMS, 1_024, 1));
        assert_eq!(sizes(3, 20, 4_096), (3, 1, 1));
    }
}

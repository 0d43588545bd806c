//! COMMAND and `--ready-check` ask the service while its clients still wait in the rooms: their connections reach a new
//! listener.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use super::groups::{Group, Rooms};
use super::preferred::copies;
use crate::kernel::sockets::Sample;
use crate::words::gated::Gated;

/// With more ports, the connections to all ports are noted: a program compares them one by one.
const MOST_PORTS: usize = 1_024;

impl Rooms {
    /// The ports to which COMMAND's connections are noted: the gated ones, and those of the listeners. None stands for
    /// all.
    pub(crate) fn noted_ports(&self, gated: &Gated) -> Vec<u16> {
        let listeners = self.groups.iter().map(|group| group.place.port);
        let ports: BTreeSet<u16> = gated.ports.iter().chain(listeners).collect();
        match ports.len() > MOST_PORTS {
            true => Vec::new(),
            false => ports.into_iter().collect(),
        }
    }

    /// `cgroup.procs` of the control group whose processes are let in. `None`: they wait as all others do.
    pub(crate) fn door_for_check(&mut self) -> Option<OwnedFd> {
        let entrance = self.passes.check.as_ref()?.group.entrance().ok()?;
        self.let_in();
        Some(entrance)
    }

    /// From now on the listeners that have come can be asked.
    pub(crate) fn let_in(&mut self) {
        let unknown = |rooms: &Rooms, there: &Sample| {
            let groups = rooms.groups.iter().filter(|group| group.lets_nobody_in());
            let listeners = groups.flat_map(|group| group.listeners(there));
            let new = listeners.filter(|listener| rooms.is_new(listener));
            new.map(|listener| listener.inode).collect()
        };
        if !self.groups.iter().any(Group::lets_nobody_in) {
            return;
        }
        let there = self.look_for(unknown).unwrap_or_default();
        let old = &self.old;
        for group in self
            .groups
            .iter_mut()
            .filter(|group| group.lets_nobody_in())
        {
            let mut listeners = group.listeners(&there);
            listeners.retain(|listener| !old.contains(&listener.id.cookie));
            if let (Some(asked), [(copy, _), ..]) = (&group.asked, &copies(&listeners, &there)[..])
            {
                let _ = asked.put(0, copy.as_fd());
            }
        }
    }
}

impl Group {
    fn lets_nobody_in(&self) -> bool {
        let asked = self.asked.as_ref();
        self.noted.is_known() && asked.is_some_and(|asked| asked.cookie(0).is_none())
    }

    /// A listener can be in one array only, and the waiting connections are about to be handed over to it by what is
    /// `led`.
    pub(super) fn instead_of_passes<T>(&mut self, led: impl FnOnce(&mut Group) -> T) -> T {
        self.noted.set_moving(true);
        self.end_passes();
        let led = led(self);
        self.noted.set_moving(false);
        led
    }

    fn end_passes(&mut self) {
        if let Some(asked) = self.asked.take() {
            asked.clear();
        }
        if let Some(before) = self.before.take() {
            before.clear();
        }
    }
}

//! `--ready-check` asks the service while its clients still wait in the rooms: its connections reach a new listener.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use super::groups::{Group, Rooms};
use super::preferred::copies;
use crate::kernel::sockets::Sample;

impl Rooms {
    /// From now on the connections of processes that join the control group whose `cgroup.procs` this is reach the
    /// listeners that have come. `None`: they wait as all others do.
    pub(crate) fn let_probes_in(&mut self) -> Option<OwnedFd> {
        let procs = self.probe.as_ref()?.group.path().join("cgroup.procs");
        let procs = File::options().write(true).open(procs).ok()?;
        let new = |rooms: &Rooms, there: &Sample| {
            let new = there.listeners.iter().filter(|l| rooms.is_new(l));
            new.map(|listener| listener.inode).collect()
        };
        let there = self.look_for(new).ok()?;
        let old = &self.old;
        for group in &mut self.groups {
            let mut listeners = group.listeners(&there);
            listeners.retain(|listener| !old.contains(&listener.id.cookie));
            if let (Some(probed), [(copy, _), ..]) =
                (&group.probed, &copies(&listeners, &there)[..])
            {
                let _ = probed.put(0, copy.as_fd());
            }
        }
        Some(procs.into())
    }
}

impl Group {
    /// A listener can be in one array only, and those who wait are about to be handed over to it.
    pub(super) fn end_probes(&mut self) {
        if let Some(probed) = self.probed.take() {
            probed.empty(0);
        }
    }
}

//! Whose connections never wait in the rooms: COMMAND's own, and those of `--ready-check`. An order to stop that waits
//! would be carried out by the new process; and COMMAND may wait until the service listens, or listens no more.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use anyhow::{Context, Result};

use super::admitted::Admitted;
use super::hook;
use crate::gate::rooms::{check_group_name, dissolve_of_nowhere, group_name};
use crate::kernel::bpf::{Link, MapKind};
use crate::kernel::control_group::{self, ControlGroup};
use crate::kernel::instructions::Instruction;
use crate::kernel::maps::Connections;
use crate::kernel::room::programs;
use crate::kernel::room::reuseport::Newcomers;

/// The control groups whose connections are noted. COMMAND is in one of its own, and what stops the service may be in
/// that of the service (ExecStop=, systemd.service(5)).
pub(crate) struct Pass {
    /// The one that was made for it.
    pub group: ControlGroup,
    pub connections: Rc<Connections>,
    pub links: Vec<Link>,
}

#[derive(Default)]
pub(crate) struct Passes {
    /// COMMAND's, where it can be had.
    pub own: Option<Pass>,
    /// That of `--ready-check`.
    pub check: Option<Pass>,
    /// The sockets that were bound meanwhile. One may listen, and the run has not seen it yet: COMMAND's connections
    /// wait for a moment then, and are not refused.
    pub newcomers: Option<Rc<Newcomers>>,
}

/// The connections that were noted, for the program of a group.
#[derive(Default)]
pub(super) struct NotedConnections {
    own: Option<Rc<Connections>>,
    check: Option<Rc<Connections>>,
    newcomers: Option<Rc<Newcomers>>,
    /// The port of the group.
    port: u16,
}

impl Passes {
    /// The process's connections are COMMAND's from now on, where these are known.
    ///
    /// # Errors
    /// It could not be put into COMMAND's control group.
    pub(crate) fn take_command_in(&self, pid: i32) -> io::Result<()> {
        let own = self.own.as_ref();
        own.map_or(Ok(()), |own| own.group.take_in(pid))
    }

    pub(super) fn noted(&self, port: u16) -> NotedConnections {
        let connections =
            |pass: &Option<Pass>| pass.as_ref().map(|pass| Rc::clone(&pass.connections));
        NotedConnections {
            own: connections(&self.own),
            check: connections(&self.check),
            newcomers: self.newcomers.clone(),
            port,
        }
    }
}

impl NotedConnections {
    pub(super) fn is_known(&self) -> bool {
        self.own.is_some()
    }

    /// A program that sends COMMAND's connections to the first of the `old` listeners or of the `new` ones that is
    /// there, and the check's to a new one. Where there is none, they are refused as without syngate; but COMMAND's
    /// wait with all others where a newcomer may listen. All others go where `fill` sends them.
    pub(super) fn fill_but_for(
        &self,
        old: (i32, u32),
        new: (i32, u32),
        fill: Vec<Instruction>,
    ) -> Vec<Instruction> {
        let pass = |connections: &Rc<Connections>, listeners, newcomers| programs::Pass {
            connections: connections.number(),
            listeners,
            newcomers,
        };
        let newcomers = self.newcomers.as_ref().map(|new| new.of(self.port));
        let own = self.own.iter();
        let own = own.map(|own| pass(own, vec![old, new], newcomers));
        let check = self.check.iter();
        let check = check.map(|check| pass(check, vec![new], None));
        programs::fill_but_for(&own.chain(check).collect::<Vec<_>>(), fill)
    }

    /// While the program finds no listeners, since they are just being put elsewhere, COMMAND's connections wait.
    pub(super) fn set_moving(&self, moving: bool) {
        if let Some(newcomers) = &self.newcomers {
            newcomers.set_moving(self.port, moving);
        }
    }

    /// The same while the service's listeners come first anyway, and none of them is left.
    pub(super) fn refused_before(&self, fill: Vec<Instruction>) -> Vec<Instruction> {
        match self.is_known() {
            true => self.fill_but_for((0, 0), (0, 0), fill),
            false => fill,
        }
    }
}

/// How many connections of COMMAND's are known at a time.
const OWN_CONNECTIONS: u32 = 4_096;

/// A control group for COMMAND. Its connections are noted, and those of the service's own control groups.
///
/// # Errors
/// That can't be had here.
pub(crate) fn own(run: &str, admitted: &Admitted, ports: &[u16]) -> Result<Pass> {
    dissolve_of_nowhere();
    let mut own = pass(&group_name(run), ports)?;
    let here = control_group::own().ok();
    for path in admitted.that_may_stop_it(here.as_deref()) {
        let opened = File::open(path).with_context(|| path.display().to_string())?;
        let link = hook::note(opened.as_fd(), &own.connections, ports)?;
        own.links.push(link);
    }
    Ok(own)
}

/// A control group for `--ready-check`.
///
/// # Errors
/// That can't be had here.
pub(crate) fn check(run: &str, ports: &[u16]) -> Result<Pass> {
    pass(&check_group_name(run), ports)
}

fn pass(name: &str, ports: &[u16]) -> Result<Pass> {
    let group = ControlGroup::make(name)?;
    let connections = Rc::new(Connections::new(MapKind::ForgetfulHash, OWN_CONNECTIONS)?);
    let links = vec![hook::note(group.open()?.as_fd(), &connections, ports)?];
    Ok(Pass {
        group,
        connections,
        links,
    })
}

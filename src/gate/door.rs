//! The door for `--ready-check`: its connections pass the gate's rules while those of all others are stopped.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Result;

use super::rooms::{dissolve_of_nowhere, probe_group_name};
use super::rules::PASS_MARK;
use crate::kernel::bpf::Link;
use crate::kernel::control_group::ControlGroup;
use crate::kernel::mark::mark_sockets;

/// A control group whose sockets have the mark that the rules let through. Dropping it dissolves the group.
pub(crate) struct Door {
    group: ControlGroup,
    _marks: Link,
}

impl Door {
    /// # Errors
    /// There are no control groups of version 2, or this process may not make one, or link a program to it.
    pub(crate) fn make(run: &str) -> Result<Door> {
        dissolve_of_nowhere();
        let group = ControlGroup::make(&probe_group_name(run))?;
        let marks = mark_sockets(group.open()?.as_fd(), PASS_MARK)?;
        Ok(Door {
            group,
            _marks: marks,
        })
    }

    /// See [`ControlGroup::entrance`].
    pub(crate) fn entrance(&self) -> io::Result<OwnedFd> {
        self.group.entrance()
    }
}

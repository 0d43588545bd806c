//! The door for `--drain-cmd`, `--ready-check` and `--ready-url`: their connections pass the gate's rules while those of all others are stopped.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::Result;

use super::rooms::{check_group_name, dissolve_of_nowhere};
use super::rules::PASS_MARK;
use crate::kernel::bpf::Link;
use crate::kernel::control_group::ControlGroup;
use crate::kernel::mark::mark_sockets;

/// By a mark that the rules let through.
pub(crate) enum Door {
    /// The sockets of this control group have it. Dropping it dissolves the group.
    Group { group: ControlGroup, _marks: Link },
    /// The program that asks marks its sockets itself.
    Mark,
}

impl Door {
    /// # Errors
    /// There are no control groups of version 2, or this process may not make one, or link a program to it.
    pub(crate) fn make(run: &str) -> Result<Door> {
        dissolve_of_nowhere();
        let group = ControlGroup::make(&check_group_name(run))?;
        let marks = mark_sockets(group.open()?.as_fd(), PASS_MARK)?;
        Ok(Door::Group {
            group,
            _marks: marks,
        })
    }

    /// See [`ControlGroup::entrance`]. `None`: there is nothing to join.
    pub(crate) fn entrance(&self) -> Option<OwnedFd> {
        match self {
            Door::Group { group, .. } => group.entrance().ok(),
            Door::Mark => None,
        }
    }
}

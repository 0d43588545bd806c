//! The service may give its listeners a program of its own while a run goes on: the process that COMMAND has started
//! does. Where nobody waits, that stays. Else one of syngate's takes its place, since the kernel moves connections only
//! by such a program.

use std::os::fd::AsFd;

use anyhow::{Context, Result};

use super::groups::{Group, Rooms};
use crate::kernel::bpf::Program;
use crate::kernel::room::{Room, has_own_program};
use crate::kernel::sockets::Sample;

impl Group {
    /// Whether the service has given the group of this socket a program of its own, as far as that is looked at.
    pub(super) fn sees_own_program(&self, socket: &impl AsFd) -> bool {
        !self.one_of_many && has_own_program(socket) == Some(true)
    }

    /// The program chooses for the group of these rooms from now on.
    pub(super) fn attach(&self, program: &Program, rooms: &[Room]) -> Result<()> {
        let room = rooms.first().context("no room")?;
        self.has_own.set(false);
        if self.sees_own_program(room) {
            self.replaced.set(true);
        }
        let chosen = program.choose_for_group_of(room.as_fd());
        chosen.context("the program can't be attached to the waiting rooms")
    }

    /// Whether the service has given the group a program of its own, and nobody waits.
    pub(super) fn may_keep_program(&self) -> bool {
        self.has_own_program() && self.waiting() == 0
    }

    /// The same, and somebody does.
    pub(super) fn needs_program_back(&self) -> bool {
        self.has_own_program() && self.waiting() > 0
    }

    fn has_own_program(&self) -> bool {
        let rooms = self.rooms();
        let mut open = rooms.iter().filter(|room| room.listens());
        open.next().is_some_and(|room| self.sees_own_program(room))
    }

    /// What to warn of, once. `keeps`: for `syngate keep`.
    pub(super) fn replaced_words(&self, keeps: bool) -> Option<String> {
        self.replaced.take().then(|| match keeps {
            true => format!(
                "the service gave its listeners on {} a program of its own (SO_ATTACH_REUSEPORT_CBPF or _EBPF), and keep \
                 replaced it, since clients waited: end keep, and restart the service",
                self.place.shown()
            ),
            false => format!(
                "the service gave its listeners on {} a program of its own (SO_ATTACH_REUSEPORT_CBPF or _EBPF), and \
                 syngate replaced it, since clients waited: restart the service without syngate, or use --syn hold",
                self.place.shown()
            ),
        })
    }
}

impl Rooms {
    /// Closes the rooms of a group where nobody waits, and leaves the program that the service has given it. `false`:
    /// it has none, or is needed no more.
    pub(super) fn make_way(&mut self, number: usize, there: &Sample) -> bool {
        let group = &self.groups[number];
        if !self.is_served(group, there) || group.letting_go.is_some() || !group.may_keep_program()
        {
            return false;
        }
        let group = &mut self.groups[number];
        group.instead_of_passes(|group| {
            for room in group.rooms() {
                room.shut();
            }
        });
        (group.preferred, group.opened) = (None, None);
        true
    }
}

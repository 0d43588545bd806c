//! A service may come back as another user. The kernel lets only sockets of one user share a port, so the room
//! keeps it from listening. Then the room is given to that user, and the service's next attempt succeeds.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::unistd::{Uid, fchown};

use super::groups::{Group, Rooms};
use crate::kernel::room::reuseport::Binding;

impl Rooms {
    /// Gives the rooms of a group where nobody listens to the user that has tried to.
    pub(crate) fn admit(&mut self) {
        let Some(bindings) = &self.bindings else {
            return;
        };
        let is_kept = |binding: &Binding| {
            let mut groups = self.groups.iter();
            groups.any(|group| group.is_kept_from(binding))
        };
        let done = &self.admitted.done;
        let failed = bindings.all().filter(|(_, binding)| !binding.bound);
        let tried = failed.filter(|(cookie, _)| !done.contains(cookie));
        let kept: Vec<(u64, Binding)> = tried.filter(|(_, binding)| is_kept(binding)).collect();
        if kept.is_empty() {
            return;
        }
        let Ok(there) = self.look(false) else {
            return;
        };
        let own = self.passes.own.as_ref();
        let own = own.map(|own| own.group.path().to_owned());
        for (cookie, binding) in kept {
            let is_service = self.admitted.is_service(&binding, own.as_ref());
            for group in &mut self.groups {
                if !group.is_kept_from(&binding) || !group.listeners(&there).is_empty() {
                    continue;
                }
                let told = group.told_of(&binding, is_service);
                if is_service {
                    group.give_to(binding.uid);
                }
                self.told.push(told);
                self.admitted.done.insert(cookie);
            }
        }
    }
}

impl Group {
    fn is_kept_from(&self, binding: &Binding) -> bool {
        let of_another = !binding.bound && self.place.uid != binding.uid;
        of_another && self.place.port == binding.port && self.is_in_the_way_of(binding)
    }

    fn is_in_the_way_of(&self, binding: &Binding) -> bool {
        let rooms = self.rooms();
        let mut open = rooms.iter().filter(|room| room.listens());
        open.any(|room| binding.meets(&self.place, room.device()))
    }

    fn give_to(&mut self, uid: u32) {
        for room in self.rooms() {
            let _ = fchown(room.as_fd(), Some(Uid::from_raw(uid)), None);
        }
        self.see_owner();
    }

    /// Another process may have given the rooms to another user.
    pub(super) fn see_owner(&mut self) {
        if let Some(uid) = self.rooms().first().and_then(|room| room.owner()) {
            self.place.uid = uid;
        }
    }

    fn told_of(&self, binding: &Binding, is_service: bool) -> String {
        let (before, uid) = (self.place.uid, binding.uid);
        let address = SocketAddr::new(binding.address, binding.port);
        let there = match binding.address == self.place.address {
            true => "there".to_owned(),
            false => format!("on {}", self.place.shown()),
        };
        let kept = format!(
            "a process of user {uid} could not listen on {address}: the waiting room {there} belonged to \
             user {before}, as the service's listener did before"
        );
        match is_service {
            true => format!(
                "{kept}; the room belongs to user {uid} now, so the next attempt can succeed"
            ),
            false => format!(
                "{kept}; syngate left it so, since the process is in no control group of the service or of COMMAND"
            ),
        }
    }
}

//! A service may come back as another user. The kernel lets only sockets of one user share a port, so the room
//! keeps it from listening. Then the room is given to that user, and the service's next attempt succeeds.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::unistd::{Uid, fchown};

use super::groups::{Group, Rooms};
use crate::kernel::room::lending::Binding;

/// How long after bind(2) a process has called listen(2), if it could.
pub(crate) const LISTENS_WITHIN: Duration = Duration::from_millis(20);

impl Rooms {
    /// Gives the rooms of a group where nobody listens to the user that has tried to.
    pub(crate) fn admit(&mut self) {
        let Some(bindings) = &self.bindings else {
            return;
        };
        let of_another = |binding: &Binding| {
            let mut groups = self.groups.iter();
            groups.any(|group| group.is_kept_from(binding))
        };
        let now = Instant::now();
        let mut due = Vec::new();
        for (cookie, binding) in bindings.all().filter(|(_, binding)| of_another(binding)) {
            let since = self.admitted.since.entry(cookie).or_insert(Some(now));
            if since.is_some_and(|since| since + LISTENS_WITHIN <= now) {
                due.push((cookie, binding));
            }
        }
        if due.is_empty() {
            return;
        }
        let Ok(there) = self.look(false) else {
            return;
        };
        let own = self.own.as_ref().map(|own| own.group.path().to_owned());
        for (cookie, binding) in due {
            let is_service = self.admitted.is_service(&binding, own.as_ref());
            for group in &mut self.groups {
                if !group.is_kept_from(&binding) || !group.listeners(&there).is_empty() {
                    continue;
                }
                let told = group.told_of(&binding, is_service);
                if is_service {
                    group.give_to(binding.uid);
                }
                self.admitted.told.push(told);
                self.admitted.since.insert(cookie, None);
            }
        }
    }
}

impl Group {
    fn is_kept_from(&self, binding: &Binding) -> bool {
        self.place.port == binding.port && self.place.uid != binding.uid && self.is_open()
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
        let (shown, before, uid) = (self.place.shown(), self.place.uid, binding.uid);
        let kept = format!(
            "a process of user {uid} could not listen on {shown}: the waiting room there was user {before}'s, as \
             the service's listener before"
        );
        match is_service {
            true => format!("{kept}; the room is user {uid}'s now, for the next attempt"),
            false => format!(
                "{kept}; the process is in no control group of the service or COMMAND, so the room stayed"
            ),
        }
    }
}

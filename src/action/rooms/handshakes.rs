//! Before a room is shut: the handshakes that are under way there end first.
//!
//! The kernel makes the connection when the client's ACK comes, and puts it into the queue of the listener. If that is
//! shut in the microseconds between, the connection has no queue, and the client is reset
//! (`inet_csk_reqsk_queue_add()`). New connections reach the service already, so the handshakes become fewer, and on a
//! local network all are over within a millisecond.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::groups::Rooms;
use super::preferred::Opened;

/// How long those who wait stay for handshakes, at most: the client may be far away, or never answer.
pub(crate) const HANDSHAKES_FIRST: Duration = Duration::from_millis(5);
/// Interval between looks: as long as a handshake between hosts side by side.
const LOOK_EVERY: Duration = Duration::from_micros(50);

impl Rooms {
    /// For the groups that are handed over from now on.
    pub(super) fn await_no_handshake_before(&mut self) {
        self.handshakes_until = Some(Instant::now() + HANDSHAKES_FIRST);
    }

    pub(super) fn let_handshakes_end(&mut self, number: usize) {
        let until = self.handshakes_until.unwrap_or_else(Instant::now);
        match self.groups[number].opened.as_ref().map(Opened::came) {
            Some(_) => self.let_counted_end(number, until),
            None => self.let_noted_end(until),
        }
    }

    /// The program has counted the SYNs that it has sent to the rooms.
    fn let_counted_end(&self, number: usize, until: Instant) {
        let group = &self.groups[number];
        let came = || group.opened.as_ref().map_or(0, Opened::came);
        while came() > group.waiting() && Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// A guard does not know that count.
    fn let_noted_end(&mut self, until: Instant) {
        let cookies = |rooms: &mut Rooms| -> BTreeSet<u64> {
            let half_open = rooms.half_open().unwrap_or_default();
            half_open.iter().map(|one| one.cookie).collect()
        };
        let mut left = cookies(self);
        while !left.is_empty() && Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
            let now = cookies(self);
            left.retain(|one| now.contains(one));
        }
    }
}

//! Before a room is closed, the handshakes that are under way there end.
//!
//! The kernel makes the connection when the client's ACK comes, and puts it into the queue of the listener. If that is
//! closed in the microseconds between, the connection has no queue, and the client is reset
//! (`inet_csk_reqsk_queue_add()`). New connections reach the service already, so the handshakes become fewer, and on a
//! local network all are over within a millisecond.

use std::time::{Duration, Instant};

use super::groups::Rooms;

/// How long waiting connections stay for handshakes, at most: a client may be far away, or never answer.
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
        let group = &self.groups[number];
        let Some(opened) = &group.opened else {
            return self.let_noted_end(until);
        };
        // The program counts the SYNs that it sends to the rooms.
        while opened.came() > group.waiting() && Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// A guard does not know that count.
    pub(super) fn let_noted_end(&mut self, until: Instant) {
        self.await_handshakes();
        while self.still_moving() > 0 && Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

//! Tells the handshakes of clients that are far away from those of scanners, which never end. Pure.
//!
//! Age alone can't tell them apart: an ACK takes a round trip. So two more things count. A scanner
//! rarely comes alone, and what it left before shows as SYN-ACKs that were sent again. And clients
//! that are far away have connections, whose round trips the kernel has measured.

use std::time::Duration;

use crate::kernel::sockets::row::{SYNACK_TIMEOUT, YOUNG};
use crate::kernel::sockets::{HalfOpen, Sample};

#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// Whether the first look showed SYN-ACKs that were sent again.
    scanned: Option<bool>,
    /// The longest round trip of a connection; 0 while none is known.
    farthest: Duration,
    /// Connections were looked at.
    looked: bool,
    in_doubt: bool,
}

impl Handshakes {
    pub(super) fn saw(&mut self, sample: &Sample) {
        self.scanned.get_or_insert(sample.half_open.stale > 0);
        self.farthest = self.farthest.max(sample.farthest);
        self.looked |= sample.connections.is_some();
        let slow = sample.half_open.slow > 0 && self.patience() <= YOUNG;
        self.in_doubt = !self.looked && (slow || sample.cookies_sent);
    }

    /// How long after the gate has closed the last ACK of a handshake may still come.
    pub(super) fn patience(&self) -> Duration {
        let far = self.far();
        match self.scanned {
            Some(true) => far.max(YOUNG),
            _ => far.max(SYNACK_TIMEOUT),
        }
    }

    /// The time in which an ACK comes from the client that is farthest away.
    fn far(&self) -> Duration {
        self.farthest + self.farthest / 2
    }

    /// How many of the half-open connections are waited for, so long after the gate has closed.
    pub(super) fn awaited(&self, seen: HalfOpen, since_closed: Duration) -> u32 {
        if since_closed >= self.patience() {
            return seen.young;
        }
        let slow = match self.patience() > YOUNG {
            true => seen.slow,
            false => 0,
        };
        // Where a round trip takes longer than the kernel's timer, each SYN-ACK is sent again.
        let resent = match self.farthest > SYNACK_TIMEOUT {
            true => seen.stale,
            false => 0,
        };
        seen.young + slow + resent
    }

    /// Whether a client is known for which [`YOUNG`] is too short.
    pub(super) fn is_far(&self) -> bool {
        self.far() > YOUNG
    }

    /// A look at connections would tell how long handshakes take.
    pub(super) fn in_doubt(&self) -> bool {
        self.in_doubt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: HalfOpen = HalfOpen {
        young: 1,
        slow: 20,
        stale: 300,
    };

    fn after(sample: &Sample, ms: u64) -> u32 {
        let mut handshakes = Handshakes::default();
        handshakes.saw(sample);
        handshakes.awaited(SEEN, Duration::from_millis(ms))
    }

    fn scanned(farthest_ms: u64) -> Sample {
        Sample {
            half_open: SEEN,
            farthest: Duration::from_millis(farthest_ms),
            ..Sample::default()
        }
    }

    #[test]
    fn where_nobody_scans_each_handshake_has_a_second() {
        assert_eq!(after(&Sample::default(), 0), 21);
        assert_eq!(after(&Sample::default(), 999), 21);
        assert_eq!(after(&Sample::default(), 1_000), 1);
    }

    #[test]
    fn among_scanners_round_trips_tell() {
        assert_eq!(after(&scanned(0), 0), 1);
        assert_eq!(after(&scanned(40), 0), 1, "all clients are near");
        assert_eq!(after(&scanned(600), 0), 21);
        assert_eq!(after(&scanned(600), 899), 21);
        assert_eq!(after(&scanned(600), 900), 1);
        assert_eq!(after(&scanned(1_000), 0), 21, "the ACK comes in time");
        assert_eq!(after(&scanned(1_200), 1_799), 321);
        assert_eq!(after(&scanned(1_200), 1_800), 1);
    }

    #[test]
    fn what_the_first_look_shows_counts() {
        let mut handshakes = Handshakes::default();
        handshakes.saw(&Sample::default());
        handshakes.saw(&scanned(0));
        assert_eq!(handshakes.patience(), SYNACK_TIMEOUT);
    }
}

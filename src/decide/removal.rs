//! When the rest of an open gate's rules goes. Pure.

use std::time::{Duration, Instant};

use crate::decide::event::Task;

/// When a chain is removed, the kernel drops the packets in all queues. So the rest of an open gate
/// stays for up to this long while another run holds SYNs.
pub(crate) const OTHERS_PATIENCE: Duration = Duration::from_secs(5);
/// Interval between checks whether another run still holds SYNs.
pub(crate) const OTHERS_LOOK: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Removal {
    /// Nothing is left, as far as is known.
    pub(super) done: bool,
    /// Another run holds SYNs. The times: when to check again, and when to remove the rest anyway.
    others: Option<(Instant, Instant)>,
    anyway: bool,
}

impl Removal {
    pub(super) fn new(done: bool) -> Removal {
        Removal {
            done,
            others: None,
            anyway: false,
        }
    }

    pub(super) fn begin(&mut self) -> Task {
        self.done = true;
        Task::Remove {
            anyway: self.anyway,
        }
    }

    /// Does not wait for other runs any more.
    pub(super) fn hurry(&mut self) {
        self.anyway = true;
    }

    /// Another run holds SYNs.
    pub(super) fn put_off(&mut self, now: Instant) {
        self.done = false;
        let give_up = self.others.map_or(now + OTHERS_PATIENCE, |(_, at)| at);
        self.others = Some((now + OTHERS_LOOK, give_up));
    }

    /// When to try again what was put off.
    pub(super) fn tries_again_at(&self) -> Option<Instant> {
        self.others.map(|(at, _)| at).filter(|_| !self.done)
    }

    pub(super) fn waits(&mut self, now: Instant) -> bool {
        let Some((again, give_up)) = self.others.filter(|_| !self.done) else {
            return false;
        };
        self.anyway |= now >= give_up;
        now < again && !self.anyway
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_signal_waits_for_nobody_however_late() {
        let now = Instant::now();
        let mut removal = Removal::new(false);
        assert_eq!(removal.begin(), Task::Remove { anyway: false });
        removal.put_off(now);
        assert!(removal.waits(now));
        removal.hurry();
        assert!(!removal.waits(now));
        assert!(!removal.waits(now + OTHERS_PATIENCE));
        assert_eq!(removal.begin(), Task::Remove { anyway: true });
    }
}

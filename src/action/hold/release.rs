//! The release of held SYNs, before their ports open and in as many rounds as the listeners need.
//! Pure.

use std::time::{Duration, Instant};

use crate::decide::policy::{Cut, Waiting};
use crate::words::ports::PortSet;

/// If the number of held SYNs has not shrunk for this long although some are released, more arrive than go, as in a
/// flood. An open gate then serves clients better. If none can be released, the service does not accept yet and gets
/// its time.
pub(crate) const STALL: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Release {
    timeout: Duration,
    /// The ports that are about to open.
    ports: PortSet,
    /// All ports are about to open, for good.
    all: bool,
    began_at: Option<Instant>,
    /// The smallest number of held SYNs after a round, and when that was.
    fewest: Option<(Waiting, Instant)>,
    next_round: Instant,
}

/// The result of a round.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Round {
    pub done: PortSet,
    /// The duration of the whole release, if this was its last round.
    pub took: Option<Duration>,
    /// Why the release ends with SYNs still held.
    pub cut: Option<Cut>,
}

impl Release {
    pub(crate) fn new(timeout: Duration, now: Instant) -> Release {
        Release {
            timeout,
            ports: PortSet::EMPTY,
            all: false,
            began_at: None,
            fewest: None,
            next_round: now,
        }
    }

    /// Sets the ports that are about to open. Has no effect once all are.
    pub(crate) fn aim(&mut self, ports: PortSet) {
        if self.all {
            return;
        }
        // A port that is added gets the full timeout.
        if ports.is_empty() || !ports.minus(&self.ports).is_empty() {
            self.began_at = None;
            self.fewest = None;
        }
        self.ports = ports;
    }

    pub(crate) fn aim_at_all(&mut self, ports: PortSet) {
        if !self.all {
            self.aim(ports);
            self.all = true;
        }
    }

    pub(crate) fn is_of_all(&self) -> bool {
        self.all
    }

    /// The ports whose held SYNs are to be released, and when.
    pub(crate) fn due(&self) -> Option<(Instant, &PortSet)> {
        (!self.ports.is_empty()).then_some((self.next_round, &self.ports))
    }

    /// Takes in the result of a round. If SYNs are still held, the next round comes after `pause`,
    /// but none comes after `deadline`.
    pub(crate) fn round(
        &mut self,
        after: Waiting,
        [cost, pause]: [Duration; 2],
        deadline: Instant,
        now: Instant,
    ) -> Round {
        let began = *self.began_at.get_or_insert(now - cost);
        self.next_round = now + pause;
        let waiting = self.ports.intersection(&after.ports);
        let cut = if now >= deadline.min(began + self.timeout) {
            Some(Cut::TimedOut)
        } else if self.stalls(after, now) {
            Some(Cut::Stalled)
        } else {
            None
        };
        let cut = cut.filter(|_| !waiting.is_empty());
        let done = match cut.is_some() {
            true => std::mem::take(&mut self.ports),
            // All ports open together.
            false if self.all && !waiting.is_empty() => PortSet::EMPTY,
            false => self.ports.minus(&waiting),
        };
        self.ports = self.ports.minus(&done);
        let took = self.ports.is_empty().then(|| now - began);
        if took.is_some() {
            self.began_at = None;
            self.fewest = None;
        }
        Round { done, took, cut }
    }

    fn stalls(&mut self, after: Waiting, now: Instant) -> bool {
        match &self.fewest {
            Some((fewest, since)) if after.count >= fewest.count => {
                after.gone > fewest.gone && now >= *since + STALL
            }
            _ => {
                self.fewest = Some((after, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ports(text: &str) -> PortSet {
        PortSet::parse(text, |_| None).unwrap()
    }

    /// Times in milliseconds.
    struct ReleaseTale {
        release: Release,
        start: Instant,
        gone: u64,
    }

    impl ReleaseTale {
        fn new(timeout: u32) -> ReleaseTale {
            let start = Instant::now();
            ReleaseTale {
                release: Release::new(MS * timeout, start),
                start,
                gone: 0,
            }
        }

        /// A round of 1 ms left `count` SYNs held for these ports. The pause is 2 ms.
        fn round(&mut self, ms: u32, waiting: &str, count: usize, gone: u64) -> Round {
            self.gone += gone;
            let ports = match waiting {
                "" => PortSet::EMPTY,
                text => ports(text),
            };
            let after = Waiting {
                ports,
                count,
                gone: self.gone,
            };
            let (deadline, now) = (self.start + MS * 30_000, self.start + MS * ms);
            self.release.round(after, [MS, MS * 2], deadline, now)
        }

        fn due(&self) -> Option<(u128, String)> {
            let (at, ports) = self.release.due()?;
            Some(((at - self.start).as_millis(), ports.to_string()))
        }
    }

    #[test]
    fn each_port_opens_when_nobody_waits_for_it() {
        let mut tale = ReleaseTale::new(100);
        assert_eq!(tale.due(), None);
        tale.release.aim(ports("80,443"));
        assert_eq!(tale.due(), Some((0, "80,443".to_owned())));
        let round = tale.round(1, "443", 5, 1);
        assert_eq!((round.done, round.took), (ports("80"), None));
        assert_eq!(tale.due(), Some((3, "443".to_owned())));
        let round = tale.round(9, "", 0, 5);
        assert_eq!((round.done, round.took), (ports("443"), Some(MS * 9)));
        assert_eq!(tale.due(), None);
    }

    #[test]
    fn all_open_together() {
        let mut tale = ReleaseTale::new(100);
        tale.release.aim_at_all(ports("80,443"));
        assert_eq!(tale.round(1, "443", 5, 1).done, PortSet::EMPTY);
        tale.release.aim(ports("80"));
        assert_eq!(tale.due().unwrap().1, "80,443", "for good");
        assert_eq!(tale.round(2, "", 0, 1).done, ports("80,443"));
    }

    #[test]
    fn its_time_is_bounded() {
        let mut tale = ReleaseTale::new(100);
        tale.release.aim(ports("80"));
        assert_eq!(tale.round(1, "80", 5, 1).cut, None);
        assert_eq!(tale.round(99, "80", 4, 1).cut, None);
        let round = tale.round(100, "80", 3, 1);
        assert_eq!(round.cut, Some(Cut::TimedOut));
        assert_eq!((round.done, round.took), (ports("80"), Some(MS * 100)));
        // A port that is added during a release gets the full timeout.
        tale.release.aim(ports("443"));
        assert_eq!(tale.round(150, "443", 5, 0).cut, None);
        tale.release.aim(ports("443,8080"));
        assert_eq!(tale.round(260, "443,8080", 500, 0).cut, None);
        assert_eq!(tale.round(359, "443,8080", 400, 9).cut, Some(Cut::TimedOut));
    }

    #[test]
    fn the_kernels_deadline_bounds_it_too() {
        let mut tale = ReleaseTale::new(60_000);
        tale.release.aim_at_all(ports("80"));
        assert_eq!(tale.round(29_999, "80", 5, 1).cut, None);
        assert_eq!(tale.round(30_000, "80", 4, 1).cut, Some(Cut::TimedOut));
    }

    #[test]
    fn when_more_come_than_go_it_ends() {
        let mut tale = ReleaseTale::new(10_000);
        tale.release.aim(ports("80"));
        assert_eq!(tale.round(1, "80", 100, 16).cut, None);
        assert_eq!(tale.round(400, "80", 120, 16).cut, None);
        assert_eq!(tale.round(499, "80", 99, 16).cut, None, "fewer");
        assert_eq!(tale.round(998, "80", 99, 16).cut, None);
        assert_eq!(tale.round(999, "80", 99, 16).cut, Some(Cut::Stalled));
    }

    #[test]
    fn a_service_that_does_not_accept_yet_has_its_time() {
        let mut tale = ReleaseTale::new(10_000);
        tale.release.aim(ports("80"));
        assert_eq!(tale.round(1, "80", 100, 16).cut, None);
        for ms in [500, 1_000, 9_000] {
            assert_eq!(tale.round(ms, "80", 100 + ms as usize, 0).cut, None, "{ms}");
        }
    }

    #[test]
    fn what_shall_stay_shut_is_not_released() {
        let mut tale = ReleaseTale::new(100);
        tale.release.aim(ports("80,443"));
        tale.round(1, "80,443", 9, 1);
        tale.release.aim(ports("80"));
        assert_eq!(tale.round(2, "443", 5, 4).done, ports("80"));
    }
}

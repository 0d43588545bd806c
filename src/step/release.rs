//! Letting go of held SYNs: before their ports open, in as many rounds as their listeners need. Pure.

use std::time::{Duration, Instant};

use crate::ports::PortSet;

/// When those who wait have not become fewer for so long, more come than go, in a flood perhaps:
/// then they are better off with the gate open.
pub const STALL: Duration = Duration::from_millis(500);

/// How far it has come. Only where SYNs are held.
#[derive(Debug)]
pub struct Release {
    /// `--release-timeout`.
    timeout: Duration,
    /// The ports that are about to open.
    ports: PortSet,
    /// All of them are, for good.
    all: bool,
    /// When the first round began.
    began_at: Option<Instant>,
    /// The fewest that still waited after a round, and when that was.
    fewest: Option<(usize, Instant)>,
    next_round: Instant,
}

/// What a round has led to.
#[derive(Debug, PartialEq, Eq)]
pub struct Round {
    /// These ports may open now.
    pub done: PortSet,
    /// How long it took, if that was the last.
    pub took: Option<Duration>,
    /// Not everybody has gone, and this is why no more rounds are made.
    pub cut: Option<Cut>,
}

/// Why a release ends before everybody has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// `--release-timeout` is over.
    TimedOut,
    /// More come than go: [`STALL`].
    Stalled,
}

impl Release {
    /// Nothing is released yet.
    pub fn new(timeout: Duration, now: Instant) -> Release {
        Release {
            timeout,
            ports: PortSet::EMPTY,
            all: false,
            began_at: None,
            fewest: None,
            next_round: now,
        }
    }

    /// These ports are to open, and no others. Once all are, that is for good.
    pub fn aim(&mut self, ports: PortSet) {
        if self.all {
            return;
        }
        if ports.is_empty() {
            self.began_at = None;
            self.fewest = None;
        }
        self.ports = ports;
    }

    /// All ports are to open, for good.
    pub fn aim_at_all(&mut self, ports: PortSet) {
        if !self.all {
            self.ports = ports;
            self.all = true;
        }
    }

    /// Whether all ports are to open.
    pub fn is_of_all(&self) -> bool {
        self.all
    }

    /// Whose SYNs are to be let go, and when.
    pub fn due(&self) -> Option<(Instant, &PortSet)> {
        (!self.ports.is_empty()).then_some((self.next_round, &self.ports))
    }

    /// A round is over, after which so many still wait for these ports. The next one comes after a
    /// pause.
    pub fn round(
        &mut self,
        (waiting, left): (&PortSet, usize),
        cost: Duration,
        pause: Duration,
        now: Instant,
    ) -> Round {
        let began = *self.began_at.get_or_insert(now - cost);
        self.next_round = now + pause;
        let waiting = self.ports.intersection(waiting);
        let (fewest, since) = *self.fewest.get_or_insert((left, now));
        if left < fewest {
            self.fewest = Some((left, now));
        }
        let cut = if now >= began + self.timeout {
            Some(Cut::TimedOut)
        } else if left >= fewest && now >= since + STALL {
            Some(Cut::Stalled)
        } else {
            None
        };
        let cut = cut.filter(|_| !waiting.is_empty());
        let done = match cut.is_some() {
            true => std::mem::take(&mut self.ports),
            // All open together.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ports(text: &str) -> PortSet {
        PortSet::parse(text, |_| None).unwrap()
    }

    #[test]
    fn each_port_opens_when_nobody_waits_for_it() {
        let now = Instant::now();
        let mut release = Release::new(MS * 100, now);
        assert_eq!(release.due(), None);
        release.aim(ports("80,443"));
        assert_eq!(release.due(), Some((now, &ports("80,443"))));
        let round = release.round((&ports("443"), 5), MS, MS * 2, now + MS);
        assert_eq!((round.done, round.took), (ports("80"), None));
        assert_eq!(release.due(), Some((now + MS * 3, &ports("443"))));
        let round = release.round((&PortSet::EMPTY, 0), MS, MS, now + MS * 9);
        assert_eq!((round.done, round.took), (ports("443"), Some(MS * 9)));
        assert_eq!(release.due(), None);
    }

    #[test]
    fn all_open_together() {
        let now = Instant::now();
        let mut release = Release::new(MS * 100, now);
        release.aim_at_all(ports("80,443"));
        let round = release.round((&ports("443"), 5), MS, MS, now + MS);
        assert_eq!(round.done, PortSet::EMPTY);
        release.aim(ports("80"));
        assert_eq!(release.due().unwrap().1, &ports("80,443"), "for good");
        let round = release.round((&PortSet::EMPTY, 0), MS, MS, now + MS * 2);
        assert_eq!(round.done, ports("80,443"));
    }

    #[test]
    fn its_time_is_bounded() {
        let now = Instant::now();
        let mut release = Release::new(MS * 100, now);
        release.aim(ports("80"));
        assert!(
            release
                .round((&ports("80"), 5), Duration::ZERO, MS, now)
                .cut
                .is_none()
        );
        assert!(
            release
                .round((&ports("80"), 5), MS, MS, now + MS * 99)
                .cut
                .is_none()
        );
        let round = release.round((&ports("80"), 5), MS, MS, now + MS * 100);
        assert!(round.cut.is_some());
        assert_eq!((round.done, round.took), (ports("80"), Some(MS * 100)));
        // The next port has all of it again.
        release.aim(ports("443"));
        assert!(
            release
                .round((&ports("443"), 5), MS, MS, now + MS * 150)
                .cut
                .is_none()
        );
    }

    #[test]
    fn as_long_as_they_become_fewer_it_goes_on() {
        let now = Instant::now();
        let mut release = Release::new(MS * 10_000, now);
        release.aim(ports("80"));
        let eighty = ports("80");
        let mut round = |left, ms| {
            release
                .round((&eighty, left), MS, MS, now + MS * ms)
                .cut
                .is_some()
        };
        assert!(!round(100, 0));
        assert!(!round(120, 400));
        assert!(!round(99, 499));
        assert!(!round(99, 998));
        assert!(round(99, 999), "more come than go");
    }

    #[test]
    fn what_shall_stay_shut_is_not_released() {
        let now = Instant::now();
        let mut release = Release::new(MS * 100, now);
        release.aim(ports("80,443"));
        release.round((&ports("80,443"), 5), MS, MS, now + MS);
        release.aim(ports("80"));
        let round = release.round((&ports("443"), 5), MS, MS, now + MS * 2);
        assert_eq!(round.done, ports("80"));
    }
}

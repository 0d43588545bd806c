//! Measures how long any gated port was closed. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::words::ended::CommandExit;
use crate::words::ports::PortSet;

/// Ports whose times differ less are told together.
const TOGETHER: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub(crate) struct Closed {
    pub(super) closed_at: Instant,
    /// When the kernel opens the gate. `None`: no gate was closed.
    deadline: Option<Instant>,
    shut_since: Option<Instant>,
    before: Duration,
    pub(super) opened_at: Option<Instant>,
    /// Which ports are closed from when on.
    changes: Vec<(Instant, PortSet)>,
    /// `None`: the counter could not be read.
    pub syns_stopped: Option<u64>,
}

/// How long ports were closed, where some were for a much shorter time than others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Apart {
    pub(super) longest: (PortSet, Duration),
    pub(super) others: (PortSet, Duration),
}

impl Closed {
    /// The gate closed at `closed_at`. `gate`: when the kernel opens it, and the ports that are closed.
    pub(crate) fn new(closed_at: Instant, gate: Option<(Instant, &PortSet)>) -> Closed {
        let deadline = gate.map(|(deadline, _)| deadline);
        let changes = gate.map(|(_, shut)| (closed_at, shut.clone()));
        Closed {
            closed_at,
            deadline,
            shut_since: deadline.map(|_| closed_at),
            before: Duration::ZERO,
            opened_at: None,
            changes: changes.into_iter().collect(),
            syns_stopped: None,
        }
    }

    /// The kernel opens the gate at `deadline`.
    pub(crate) fn opens_by(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// Notes which ports are closed from now on.
    pub(crate) fn now_shut(&mut self, shut: &PortSet, now: Instant) {
        // syngate may have been stopped (SIGSTOP): after the deadline the ports were open.
        let now = self.deadline.map_or(now, |deadline| now.min(deadline));
        if self.changes.last().is_none_or(|(_, last)| last != shut) {
            self.changes.push((now, shut.clone()));
        }
        if !shut.is_empty() {
            self.shut_since.get_or_insert(now);
        } else if let Some(since) = self.shut_since.take() {
            self.before += now.saturating_duration_since(since);
            self.opened_at = Some(now);
        }
    }

    /// Whether the gate was open before COMMAND exited.
    pub(crate) fn opened_before(&self, exited: Option<(Instant, CommandExit)>) -> bool {
        matches!((self.opened_at, exited), (Some(opened), Some((exited, _))) if opened < exited)
    }

    /// `None` while any port is closed.
    pub(crate) fn time(&self) -> Option<Duration> {
        (self.deadline.is_some() && self.shut_since.is_none()).then_some(self.before)
    }

    /// `None` if the ports were closed for about the same time.
    pub(super) fn apart(&self) -> Option<Apart> {
        let mut times: BTreeMap<u16, Duration> = BTreeMap::new();
        for change in self.changes.windows(2) {
            let ((from, shut), (to, _)) = (&change[0], &change[1]);
            let time = to.saturating_duration_since(*from);
            shut.iter()
                .for_each(|port| *times.entry(port).or_default() += time);
        }
        let longest = *times.values().max()?;
        let is_short = |time: Duration| time < longest / 2 && time + TOGETHER < longest;
        let ports = |short: bool| -> PortSet {
            let ports = times.iter().filter(|(_, time)| is_short(**time) == short);
            ports.map(|(port, _)| *port).collect()
        };
        let short = times.values().copied().filter(|time| is_short(*time));
        Some(Apart {
            longest: (ports(false), longest),
            others: (ports(true), short.max()?),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn ports(ports: &[u16]) -> PortSet {
        ports.iter().copied().collect()
    }

    pub(crate) fn closed_for(ms: u64) -> Closed {
        let closed_at = Instant::now();
        let at = |ms| closed_at + Duration::from_millis(ms);
        let mut closed = Closed::new(closed_at, Some((at(30_000), &ports(&[80]))));
        assert_eq!(closed.time(), None, "it still is");
        closed.now_shut(&PortSet::EMPTY, at(ms));
        closed.syns_stopped = Some(12);
        closed
    }

    #[test]
    fn closed_time_is_what_clients_met() {
        let mut closed = closed_for(80);
        let at = |ms| closed.closed_at + Duration::from_millis(ms);
        let [again, opened, late] = [at(100), at(103), at(40_000)];
        closed.now_shut(&ports(&[80]), again);
        closed.now_shut(&ports(&[80]), opened);
        closed.now_shut(&PortSet::EMPTY, opened);
        assert_eq!(closed.time(), Some(Duration::from_millis(83)));
        // syngate was stopped for longer than the gate could be closed.
        closed.now_shut(&ports(&[80]), opened);
        closed.now_shut(&PortSet::EMPTY, late);
        assert_eq!(closed.time(), Some(Duration::from_millis(80 + 3 + 29_897)));
        assert_eq!(Closed::new(again, None).time(), None, "never closed");
    }

    /// As with iptables, whose clock may run out a little earlier than asked for.
    #[test]
    fn the_kernels_deadline_may_come_earlier() {
        let closed_at = Instant::now();
        let at = |ms| closed_at + Duration::from_millis(ms);
        let mut closed = Closed::new(closed_at, Some((at(30_000), &ports(&[80]))));
        closed.opens_by(at(29_000));
        closed.now_shut(&PortSet::EMPTY, at(30_000));
        assert_eq!(closed.time(), Some(Duration::from_secs(29)));
    }

    #[test]
    fn ports_that_were_closed_much_longer_are_told_apart() {
        let apart = |opened: &[(&[u16], u64)]| {
            let closed_at = Instant::now();
            let at = |ms| closed_at + Duration::from_millis(ms);
            let all = ports(&[80, 81, 443]);
            let mut closed = Closed::new(closed_at, Some((at(30_000), &all)));
            for (still_shut, ms) in opened {
                closed.now_shut(&ports(still_shut), at(*ms));
            }
            closed.apart()
        };
        let ms = Duration::from_millis;
        assert_eq!(
            apart(&[(&[81, 443], 90), (&[443], 98), (&[], 10_000)]),
            Some(Apart {
                longest: (ports(&[443]), ms(10_000)),
                others: (ports(&[80, 81]), ms(98)),
            })
        );
        // One that is closed again counts with both its times.
        let again = apart(&[(&[443], 90), (&[], 100), (&[80], 200), (&[], 400)]).unwrap();
        assert_eq!(again.longest, (ports(&[80]), ms(290)));
        assert_eq!(again.others, (ports(&[81, 443]), ms(100)));
        let together: [&[(&[u16], u64)]; 4] = [
            &[(&[], 98)],
            &[(&[443], 100), (&[], 200)],
            &[(&[443], 10), (&[], 110)],
            &[],
        ];
        for changes in together {
            assert_eq!(apart(changes), None, "{changes:?}");
        }
    }

    #[test]
    fn a_gate_opens_before_or_after_the_end_of_command() {
        let closed = closed_for(80);
        let exits = |ms| {
            let at = closed.closed_at + Duration::from_millis(ms);
            closed.opened_before(Some((at, CommandExit::Code(0))))
        };
        assert!(exits(81) && !exits(80) && !exits(79));
        assert!(!closed.opened_before(None), "it still runs");
    }
}

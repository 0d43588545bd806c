//! Measures how long any gated port was closed. Pure.

use std::time::{Duration, Instant};

use crate::words::ended::CommandExit;

#[derive(Debug, Clone)]
pub(crate) struct Closed {
    pub(super) closed_at: Instant,
    /// When the kernel opens the gate. `None`: no gate was closed.
    deadline: Option<Instant>,
    shut_since: Option<Instant>,
    before: Duration,
    pub(super) opened_at: Option<Instant>,
    /// `None`: the counter could not be read.
    pub syns_stopped: Option<u64>,
}

impl Closed {
    /// The gate closed at `closed_at`; the kernel opens it at `deadline`.
    pub(crate) fn new(closed_at: Instant, deadline: Option<Instant>) -> Closed {
        Closed {
            closed_at,
            deadline,
            shut_since: deadline.map(|_| closed_at),
            before: Duration::ZERO,
            opened_at: None,
            syns_stopped: None,
        }
    }

    /// The kernel opens the gate at `deadline`.
    pub(crate) fn opens_by(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// Notes whether any port is shut from now on.
    pub(crate) fn now_shut(&mut self, shut: bool, now: Instant) {
        // syngate may have been stopped (SIGSTOP): after the deadline the ports were open.
        let now = self.deadline.map_or(now, |deadline| now.min(deadline));
        if shut {
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
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn closed_for(ms: u64) -> Closed {
        let closed_at = Instant::now();
        let at = |ms| closed_at + Duration::from_millis(ms);
        let mut closed = Closed::new(closed_at, Some(at(30_000)));
        assert_eq!(closed.time(), None, "it still is");
        closed.now_shut(false, at(ms));
        closed.syns_stopped = Some(12);
        closed
    }

    #[test]
    fn closed_time_is_what_clients_met() {
        let mut closed = closed_for(80);
        let at = |ms| closed.closed_at + Duration::from_millis(ms);
        let [again, opened, late] = [at(100), at(103), at(40_000)];
        closed.now_shut(true, again);
        closed.now_shut(true, opened);
        closed.now_shut(false, opened);
        assert_eq!(closed.time(), Some(Duration::from_millis(83)));
        // syngate was stopped for longer than the gate could be closed.
        closed.now_shut(true, opened);
        closed.now_shut(false, late);
        assert_eq!(closed.time(), Some(Duration::from_millis(80 + 3 + 29_897)));
        assert_eq!(Closed::new(again, None).time(), None, "never closed");
    }

    /// As with iptables, whose clock may run out a little earlier than asked for.
    #[test]
    fn the_kernels_deadline_may_come_earlier() {
        let closed_at = Instant::now();
        let at = |ms| closed_at + Duration::from_millis(ms);
        let mut closed = Closed::new(closed_at, Some(at(30_000)));
        closed.opens_by(at(29_000));
        closed.now_shut(false, at(30_000));
        assert_eq!(closed.time(), Some(Duration::from_secs(29)));
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

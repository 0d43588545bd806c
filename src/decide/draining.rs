//! The gate is closed: the old service finishes what is under way, then COMMAND starts.

use std::time::{Duration, Instant};

use crate::decide::drain::{DrainUntil, left};
use crate::decide::event::{NotRun, Task};
use crate::decide::looks::{DRAIN_PAUSE, LOOK_EVERY, QUIET, pause};
use crate::decide::state::{Phase, State};
use crate::kernel::sockets::Sample;

/// A handshake answered with a SYN cookie leaves no trace; its last ACK is given this long.
pub(crate) const COOKIE_GRACE: Duration = Duration::from_millis(300);

impl State {
    pub(super) fn drain_end(&self) -> Instant {
        self.closed_at + self.config.drain
    }

    pub(super) fn end_drain(&mut self, now: Instant) -> Option<Task> {
        self.facts.drained_at = Some(now);
        self.phase = Phase::Checking { rearmed: false };
        Some(Task::Check)
    }

    /// Connections are dear to look at where there are many: while there are handshakes still, it is
    /// not done, but at the very end, to say what is left.
    pub(super) fn looks_at_connections(&self, now: Instant) -> bool {
        self.phase == Phase::Draining
            && self.config.drain_until >= DrainUntil::Requests
            && (!self.facts.left.has_handshakes() || now >= self.drain_end())
    }

    pub(super) fn drain_saw(
        &mut self,
        sample: &Sample,
        cost: Duration,
        now: Instant,
    ) -> Option<Task> {
        self.facts.left = left(sample, self.config.drain_until);
        self.facts.stale_half_open = self.facts.stale_half_open.max(sample.half_open.stale);
        let seen = sample.connections.is_some() || self.config.drain_until < DrainUntil::Requests;
        let (quiet_at, cookies_until) = (self.closed_at + QUIET, self.closed_at + COOKIE_GRACE);
        // Looked at too early, as nobody was to be seen before.
        let early = self.deserted && !sample.listeners.is_empty();
        self.deserted &= !early;
        if seen && now >= self.drain_end() {
            return self.end_drain(now);
        } else if self.facts.left.has_handshakes() {
            self.next_look = now + pause(cost, DRAIN_PAUSE);
        } else if early {
            self.next_look = quiet_at;
        } else if sample.cookies_sent && now < cookies_until {
            // Some may still come back as handshakes.
            self.next_look = cookies_until;
        } else if !seen {
            self.next_look = now;
        } else if self.facts.left.is_nothing() {
            return self.end_drain(now);
        } else {
            self.next_look = now + pause(cost, DRAIN_PAUSE);
        }
        self.go_on(now)
    }

    pub(super) fn checked(&mut self, stands: bool, now: Instant) -> Option<Task> {
        let Phase::Checking { rearmed } = self.phase else {
            return self.go_on(now);
        };
        if now > self.latest_start() {
            self.facts.deadline_hit = now >= self.deadline;
            self.do_without_gate(NotRun::Deadline)
        } else if stands {
            Some(self.start_command())
        } else if !rearmed {
            self.phase = Phase::Checking { rearmed: true };
            Some(Task::Rearm(self.config.gated.ports.clone()))
        } else {
            self.do_without_gate(NotRun::Fallen)
        }
    }

    /// When COMMAND may be run at the latest: when half of the time that was left for it, between
    /// the longest drain and the settle time, is gone.
    pub(super) fn latest_start(&self) -> Instant {
        let last = self.deadline - self.fixed_settle();
        let spare = last.saturating_duration_since(self.drain_end());
        last - spare / 2
    }

    pub(super) fn start_command(&mut self) -> Task {
        self.phase = Phase::Checking { rearmed: true };
        Task::Start
    }

    pub(super) fn do_without_gate(&mut self, why: NotRun) -> Option<Task> {
        if self.config.best_effort {
            self.facts.ran_open = true;
            return Some(self.start_command());
        }
        self.facts.not_run = Some(why);
        self.finish()
    }

    pub(super) fn started(&mut self, started: bool, now: Instant) -> Option<Task> {
        if !started {
            self.facts.not_run = Some(NotRun::Spawn);
            return self.finish();
        }
        self.facts.started_at = Some(now);
        self.phase = Phase::Running;
        self.next_look = now + LOOK_EVERY;
        self.go_on(now)
    }

    pub(super) fn command_pending(&self) -> bool {
        matches!(self.phase, Phase::Draining | Phase::Checking { .. })
    }
}

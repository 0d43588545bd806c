//! The drain: the gate is closed, the old service finishes its work, then COMMAND starts.

use std::time::{Duration, Instant};

use crate::decide::drain::{DrainCommand, DrainUntil, left};
use crate::decide::event::{NotRun, Task};
use crate::decide::looks::{DRAIN_PAUSE, LOOK_EVERY, QUIET, pause};
use crate::decide::state::{Phase, State};
use crate::kernel::sockets::Sample;

/// How long the drain waits for handshakes that were answered with a SYN cookie: the kernel keeps
/// no request socket for them, so they can't be seen.
pub(crate) const COOKIE_GRACE: Duration = Duration::from_millis(300);

impl State {
    pub(super) fn wants_drain_command(&self) -> bool {
        self.phase == Phase::Draining && self.drain_command == DrainCommand::Due
    }

    /// What it has asked the service for is to be seen from now on.
    pub(super) fn drain_command_ended(&mut self, now: Instant) -> Option<Task> {
        self.drain_command = DrainCommand::Ended;
        self.next_look = self.next_look.min(now);
        self.go_on(now)
    }

    pub(super) fn drain_end(&self) -> Instant {
        self.closed_at + self.config.drain
    }

    pub(super) fn end_drain(&mut self, now: Instant) -> Option<Task> {
        self.facts.drained_at = Some(now);
        self.phase = Phase::Checking { rearmed: false };
        Some(Task::Check)
    }

    /// A look at connections is slow where there are many. So the drain skips it while there are
    /// handshakes, except at its end, when the report needs the count, and once where connections
    /// tell how far away clients are.
    pub(super) fn looks_at_connections(&self, now: Instant) -> bool {
        let counts = self.config.drain_until >= DrainUntil::Requests
            && (!self.facts.left.has_handshakes() || now >= self.drain_end());
        self.phase == Phase::Draining && (counts || self.handshakes.in_doubt())
    }

    pub(super) fn drain_saw(
        &mut self,
        sample: &Sample,
        cost: Duration,
        now: Instant,
    ) -> Option<Task> {
        self.count_handshakes(sample, now);
        let seen = sample.connections.is_some() || self.config.drain_until < DrainUntil::Requests;
        let (quiet_at, cookies_until) = (self.closed_at + QUIET, self.cookies_until());
        // The service had no listener before, so the first look came before the old rules were out
        // of use.
        let early = self.deserted && !sample.listeners.is_empty();
        self.deserted &= !early;
        if seen && now >= self.drain_end() {
            return self.end_drain(now);
        } else if self.handshakes.in_doubt() {
            self.next_look = now;
        } else if self.facts.left.has_handshakes() {
            self.next_look = now + pause(cost, DRAIN_PAUSE);
        } else if early {
            self.next_look = quiet_at;
        } else if sample.cookies_sent && now < cookies_until {
            // A cookie handshake may still complete.
            self.next_look = cookies_until;
        } else if !seen {
            self.next_look = now;
        } else if self.facts.left.is_nothing() && !self.is_told_to_drain() {
            return self.end_drain(now);
        } else {
            self.next_look = now + pause(cost, DRAIN_PAUSE);
        }
        self.go_on(now)
    }

    /// The service is still being told to say goodbye to its clients.
    fn is_told_to_drain(&self) -> bool {
        matches!(self.drain_command, DrainCommand::Due | DrainCommand::Runs)
    }

    fn count_handshakes(&mut self, sample: &Sample, now: Instant) {
        self.handshakes.saw(sample);
        let seen = sample.half_open;
        let since_closed = now.saturating_duration_since(self.closed_at);
        let awaited = self.handshakes.awaited(seen, since_closed);
        self.facts.left = left(sample, self.config.drain_until, awaited);
        if !self.handshakes.in_doubt() {
            let not_awaited = seen.young + seen.slow + seen.stale - awaited;
            self.facts.stale_half_open = self.facts.stale_half_open.max(not_awaited);
        }
    }

    /// A handshake that was answered with a SYN cookie is over by then.
    fn cookies_until(&self) -> Instant {
        let grace = match self.handshakes.is_far() {
            true => self.handshakes.patience(),
            false => COOKIE_GRACE,
        };
        self.closed_at + grace
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

    /// Latest time to start COMMAND. At that time half of the span between the longest drain and
    /// the settle time has passed.
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

//! Signals that end the run or open the gate.

use std::time::Instant;

use crate::decide::event::{NotRun, Task};
use crate::decide::state::{Phase, State};
use crate::words::ended::Sender;

impl State {
    /// The first signal before COMMAND: COMMAND is not run. The first signal while COMMAND runs is
    /// passed on to it. Any further signal ends the run at once, and COMMAND goes on alone.
    pub(super) fn signalled(&mut self, signal: i32, sender: Sender, now: Instant) -> Option<Task> {
        if !self.facts.signals.take(signal, sender, now) {
            return self.go_on(now);
        }
        let first = self.facts.signals.all().len() == 1;
        if self.phase == Phase::Over && self.is_lingering() {
            return self.signalled_while_lingering(first, signal, sender, now);
        }
        if self.phase == Phase::Running && first {
            return (sender != Sender::Terminal).then_some(Task::Pass(signal));
        }
        if self.opening() || !first {
            self.policy.cut();
        }
        if self.opened {
            self.removal.hurry();
        }
        if self.command_pending() {
            self.facts.not_run = Some(NotRun::Signal);
        }
        self.facts.interrupted.get_or_insert((signal, sender));
        self.finish()
    }

    /// During the linger the first signal changes nothing; the second one cuts the remaining
    /// connections.
    fn signalled_while_lingering(
        &mut self,
        first: bool,
        signal: i32,
        sender: Sender,
        now: Instant,
    ) -> Option<Task> {
        if first {
            return self.go_on(now);
        }
        self.facts.linger_cut |= self.facts.interrupted.is_none();
        self.facts.interrupted = self.facts.interrupted.or(Some((signal, sender)));
        self.policy.cut();
        self.go_on(now)
    }

    pub(super) fn open_now(&mut self) -> Option<Task> {
        if self.opened {
            return None;
        }
        if self.opening() {
            self.policy.cut();
            return Some(self.open());
        }
        self.facts.opened_early = true;
        Some(self.open_early(NotRun::OpenedEarly))
    }
}

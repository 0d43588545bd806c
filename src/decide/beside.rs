//! What runs beside COMMAND: `--ready-check` and `--listen-netns-from`.

use std::time::{Duration, Instant};

use crate::decide::again::Again;
use crate::decide::event::Task;
use crate::decide::readiness::Readiness;
use crate::decide::state::{Phase, State};
use crate::words::ended::CommandExit;

/// `--ready-check` is run again so long after it has failed.
pub(crate) const CHECK_PAUSE: Duration = Duration::from_millis(100);
/// `--listen-netns-from` is run again so long after it has ended, while no listener is seen.
pub(crate) const SEARCH_PAUSE: Duration = Duration::from_millis(100);

impl State {
    /// What is to be started beside, and when.
    pub(super) fn beside(&self) -> Option<(Instant, Task)> {
        let at = |again: &Again| again.due(self.closed_at);
        let check = self.wants_check().then(|| at(&self.check)).flatten();
        let search = self.wants_search().then(|| at(&self.search)).flatten();
        let both = [
            search.map(|at| (at, Task::Search)),
            check.map(|at| (at, Task::ReadyCheck)),
        ];
        both.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    pub(super) fn start_beside(&mut self, now: Instant) -> Option<Task> {
        let (_, action) = self.beside().filter(|(at, _)| *at <= now)?;
        match action {
            Task::Search => self.search.begin(now),
            _ => self.check.begin(now),
        }
        Some(action)
    }

    /// Once there is something that could pass: a port that is not waited for any more.
    pub(super) fn wants_check(&self) -> bool {
        if !self.config.ready_check || self.check.passed_at.is_some() {
            return false;
        }
        match self.phase {
            Phase::Readying { .. } => {
                let waiting = self.ports_that(|w| w.readiness == Readiness::Waiting);
                !self.config.gated.ports.minus(&waiting).is_empty()
            }
            Phase::Running if self.follows() => self.watches.values().any(|w| w.up_since.is_some()),
            _ => false,
        }
    }

    /// While nobody listens where the listeners lived so far; and once after COMMAND's exit, in case
    /// the old ones stay for a while.
    pub(super) fn wants_search(&self) -> bool {
        if !self.config.search {
            return false;
        }
        let looks = match self.phase {
            Phase::Readying { .. } => !self.config.ready_timeout.is_zero(),
            Phase::Running => self.follows(),
            _ => false,
        };
        let deserted = self.watches.values().all(|w| w.now.is_empty());
        looks && (deserted || self.searching())
    }

    /// Where the listeners live now is not known before it was answered after COMMAND's exit.
    pub(super) fn searching(&self) -> bool {
        let readying = matches!(self.phase, Phase::Readying { .. });
        let watches = self.config.search && !self.config.ready_timeout.is_zero();
        watches && readying && self.search.passed_at.is_none()
    }

    pub(super) fn ready_checked(&mut self, exit: CommandExit, now: Instant) -> Option<Task> {
        self.facts.check_exit = Some(exit);
        self.check
            .end(exit == CommandExit::Code(0), CHECK_PAUSE, now);
        if let (Some(began), Some(passed)) = (self.check.began_at, self.check.passed_at) {
            self.facts.checked_in = Some(passed - began);
        }
        // What it has kept shut may open.
        self.look_again(self.check.passed_at.is_some(), now)
    }

    pub(super) fn searched(&mut self, found: bool, now: Instant) -> Option<Task> {
        self.search.end(found, SEARCH_PAUSE, now);
        self.look_again(true, now)
    }

    pub(super) fn look_again(&mut self, wanted: bool, now: Instant) -> Option<Task> {
        match self.phase {
            Phase::Readying { .. } if wanted => Some(self.look(now)),
            Phase::Running if wanted && self.follows() => Some(self.look(now)),
            _ => self.go_on(now),
        }
    }

    /// When `--ready-check` had succeeded; `None`: it has not.
    pub(super) fn checked_at(&self) -> Option<Instant> {
        if self.config.ready_check {
            self.check.passed_at
        } else {
            Some(self.closed_at)
        }
    }
}

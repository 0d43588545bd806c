//! What runs beside the run and COMMAND: `--drain-cmd`, `--ready-check` and `--listen-netns-from`.

use std::time::{Duration, Instant};

use crate::decide::again::Again;
use crate::decide::drain::DrainCommand;
use crate::decide::event::Task;
use crate::decide::readiness::Readiness;
use crate::decide::state::{Phase, State};
use crate::words::ended::CommandExit;

/// Pause before `--ready-check` runs again after a failure.
pub(crate) const CHECK_PAUSE: Duration = Duration::from_millis(100);
/// Pause before `--listen-netns-from` runs again while no listener is seen.
pub(crate) const SEARCH_PAUSE: Duration = Duration::from_millis(100);

impl State {
    pub(super) fn beside(&self) -> Option<(Instant, Task)> {
        let at = |again: &Again| again.due(self.closed_at);
        let check = self.wants_check().then(|| at(&self.check)).flatten();
        let search = self.wants_search().then(|| at(&self.search)).flatten();
        let drain_command = self.wants_drain_command().then_some(self.closed_at);
        let all = [
            drain_command.map(|at| (at, Task::DrainCommand)),
            search.map(|at| (at, Task::Search)),
            check.map(|at| (at, Task::ReadyCheck)),
        ];
        all.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    pub(super) fn start_beside(&mut self, now: Instant) -> Option<Task> {
        let (_, action) = self.beside().filter(|(at, _)| *at <= now)?;
        match action {
            Task::DrainCommand => self.drain_command = DrainCommand::Runs,
            Task::Search => self.search.begin(now),
            _ => self.check.begin(now),
        }
        Some(action)
    }

    /// `--ready-check` runs once at least one port no longer waits for its listener.
    pub(super) fn wants_check(&self) -> bool {
        let too_late = self.facts.unchecked && self.shut.is_empty();
        if !self.config.ready_check || self.check.passed_at.is_some() || too_late {
            return false;
        }
        match self.phase {
            Phase::Readying { .. } => {
                let waiting = self.ports_that(|w| w.readiness == Readiness::Waiting);
                !self.config.gated.ports.minus(&waiting).is_empty()
            }
            Phase::Running if self.follows() => self.all_watches().any(|w| w.up_since.is_some()),
            _ => false,
        }
    }

    /// `--listen-netns-from` runs while no listener is seen in the last known namespace. It also
    /// runs once after COMMAND's exit, because the old listeners may stay for a while.
    pub(super) fn wants_search(&self) -> bool {
        let too_late = self.facts.unseen && self.shut.is_empty();
        if !self.config.search || too_late {
            return false;
        }
        let looks = match self.phase {
            Phase::Readying { .. } => !self.config.ready_timeout.is_zero(),
            Phase::Running => self.follows(),
            _ => false,
        };
        let deserted = self.all_watches().all(|w| w.now.is_empty());
        looks && (deserted || self.searching())
    }

    /// Until `--listen-netns-from` has answered after COMMAND's exit, the namespace of the new
    /// listeners is not known.
    pub(super) fn searching(&self) -> bool {
        let readying = matches!(self.phase, Phase::Readying { .. });
        let watches = self.config.search && !self.config.ready_timeout.is_zero();
        watches && readying && self.search.passed_at.is_none()
    }

    pub(super) fn ready_checked(&mut self, exit: CommandExit, now: Instant) -> Option<Task> {
        self.check
            .end(exit == CommandExit::Code(0), CHECK_PAUSE, now);
        // What comes after the end of `--ready-timeout` says nothing about it.
        if !self.facts.unchecked {
            self.facts.check_exit = Some(exit);
            let times = self.check.began_at.zip(self.check.passed_at);
            self.facts.checked_in = times.map(|(began, passed)| passed - began);
        }
        // The ports that waited for this answer may open.
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

    pub(super) fn checked_at(&self) -> Option<Instant> {
        if self.config.ready_check {
            self.check.passed_at
        } else {
            Some(self.closed_at)
        }
    }
}

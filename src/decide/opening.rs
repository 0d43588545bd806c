//! The gate: kept closed, opened, removed.

use std::time::{Duration, Instant};

use crate::decide::event::{NotRun, Task};
use crate::decide::policy::{Answer, Conclusion, Question};
use crate::decide::state::{Phase, State};
use crate::words::ports::PortSet;

/// The kernel drops what is in any queue when a chain goes. So what is left of an open gate stays for
/// a while if another run holds SYNs, and that is looked at again and again.
pub(crate) const OTHERS_PATIENCE: Duration = Duration::from_secs(5);
/// See [`OTHERS_PATIENCE`].
pub(crate) const OTHERS_LOOK: Duration = Duration::from_millis(10);

impl State {
    /// Everything is to open as soon as the held SYNs have gone.
    pub(super) fn opening(&self) -> bool {
        !self.opened && self.policy.holds_all_back()
    }

    /// Whether nobody has removed the rules.
    pub(super) fn guarded(&mut self, intact: bool, cost: Duration, now: Instant) -> Option<Task> {
        if let Some(guard) = &mut self.guard {
            guard.looked(cost, now);
        }
        if intact {
            return self.go_on(now);
        }
        self.fallen = true;
        Some(Task::Rearm(self.shut.clone()))
    }

    /// The rules were put back, or could not be: then the next look tries again.
    pub(super) fn closed_again(&mut self, stands: bool) {
        if self.fallen && stands {
            self.fallen = false;
            self.facts.reclosed += 1;
        }
    }

    /// What is to open waits for the held SYNs to go.
    pub(super) fn shut_only(&mut self, shut: PortSet, now: Instant) -> Option<Task> {
        let mut shut = shut;
        if self.policy.aim(self.shut.minus(&shut)) {
            shut = self.shut.union(&shut);
        }
        if shut == self.shut {
            let (_, ports) = self.policy.before_open().filter(|(at, _)| *at <= now)?;
            return Some(self.release_now(ports.clone()));
        }
        self.shut = shut.clone();
        Some(Task::ShutOnly(shut))
    }

    /// Opens everything; where SYNs are held, once they have gone.
    pub(super) fn open(&mut self) -> Task {
        self.policy.aim_at_all(self.config.gated.ports.clone());
        if let Some((_, ports)) = self.policy.before_open() {
            return Task::Ask(Question::LetGo {
                ports: ports.clone(),
                finally: true,
            });
        }
        self.opened = true;
        self.shut = PortSet::EMPTY;
        Task::Open
    }

    pub(super) fn release_now(&self, ports: PortSet) -> Task {
        Task::Ask(Question::LetGo {
            ports,
            finally: self.opening(),
        })
    }

    /// The gate is open, and its rules stay for those whom they have steered elsewhere.
    pub(crate) fn is_lingering(&self) -> bool {
        self.opened && !self.removed && self.policy.lingers()
    }

    /// What the action's answer leads to.
    pub(super) fn answered(
        &mut self,
        answer: Answer,
        cost: Duration,
        now: Instant,
    ) -> Option<Task> {
        match self.policy.answered(answer, cost, self.deadline, now) {
            Conclusion::MayOpen(ports) if ports.is_empty() => self.go_on(now),
            Conclusion::MayOpen(_) if self.policy.holds_all_back() => Some(self.open()),
            Conclusion::MayOpen(ports) => {
                self.shut = self.shut.minus(&ports);
                Some(Task::ShutOnly(self.shut.clone()))
            }
            // An open gate serves clients no worse than a port where nobody listens.
            Conclusion::Abandon(why) if !self.opened => {
                self.facts.abandoned = Some(why);
                Some(self.open_early(NotRun::Abandoned(why)))
            }
            Conclusion::GoOn | Conclusion::Abandon(_) => self.go_on(now),
        }
    }

    /// Why the run goes on although a signal came, when nothing else is left to do.
    pub(crate) fn in_spite_of_a_signal(&self) -> Option<String> {
        let signalled = !self.facts.signals.is_empty();
        let waits = self.phase == Phase::Over && self.is_lingering() && signalled;
        self.policy.in_spite_of_a_signal().filter(|_| waits)
    }

    /// What to ask the action now that the gate is open.
    pub(super) fn linger_on(&mut self, now: Instant) -> Option<Task> {
        if !self.is_lingering() {
            return None;
        }
        self.policy.opened(now);
        let (_, question) = self.policy.after_open().filter(|(at, _)| *at <= now)?;
        Some(Task::Ask(question))
    }

    pub(super) fn finish(&mut self) -> Option<Task> {
        self.phase = Phase::Over;
        self.close_down()
    }

    /// Opens, removes, ends: in this order, each once.
    pub(super) fn close_down(&mut self) -> Option<Task> {
        if !self.opened {
            return Some(self.open());
        }
        // What is left to do for others is done in its time.
        if self.is_lingering() {
            let (_, question) = self.policy.after_open()?;
            return Some(Task::Ask(question));
        }
        if !self.removed {
            self.removed = true;
            return Some(Task::Remove {
                anyway: self.remove_anyway,
            });
        }
        Some(Task::End)
    }

    pub(super) fn remove_later(&mut self, now: Instant) -> Option<Task> {
        self.removed = false;
        let give_up = self.others.map_or(now + OTHERS_PATIENCE, |(_, at)| at);
        self.others = Some((now + OTHERS_LOOK, give_up));
        self.go_on(now)
    }

    /// Whether another run is given time still.
    pub(super) fn removes_later(&mut self, now: Instant) -> bool {
        let Some((look, give_up)) = self.others.filter(|_| !self.removed) else {
            return false;
        };
        self.remove_anyway |= now >= give_up;
        now < look && !self.remove_anyway
    }

    /// Opens before the run has come to its end. COMMAND, if it runs, is still waited for, and after
    /// USR1 its listeners as well; it is not run behind an open gate.
    pub(super) fn open_early(&mut self, why: NotRun) -> Task {
        if self.command_pending() {
            self.facts.not_run = Some(why);
        }
        if self.command_pending() || self.facts.deadline_hit && self.phase != Phase::Running {
            self.phase = Phase::Over;
        }
        self.open()
    }
}

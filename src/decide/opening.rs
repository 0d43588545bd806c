//! Keeps the gate closed, opens it and removes it.

use std::time::{Duration, Instant};

use crate::decide::event::{NotRun, Task};
use crate::decide::policy::{Abandoned, Answer, Conclusion, Question};
use crate::decide::state::{Phase, State};
use crate::words::ports::PortSet;

impl State {
    /// True while the whole gate is about to open and still releases held SYNs.
    pub(super) fn opening(&self) -> bool {
        !self.opened && self.policy.holds_all_back()
    }

    pub(super) fn guarded(&mut self, intact: bool, cost: Duration, now: Instant) -> Option<Task> {
        if let Some(guard) = &mut self.guard {
            guard.looked(cost, now);
        }
        if intact {
            // Also after a closing that could not be read back.
            self.closed_again(true);
            return self.go_on(now);
        }
        self.fallen = true;
        Some(Task::Rearm(self.shut.clone()))
    }

    /// Somebody has removed the rules, and they were not seen to be back.
    pub(crate) fn is_fallen(&self) -> bool {
        self.fallen
    }

    /// If the rules could not be put back, the next check of the rules tries again.
    pub(super) fn closed_again(&mut self, stands: bool) {
        if self.fallen && stands {
            self.fallen = false;
            self.facts.reclosed += 1;
        }
    }

    /// Closes `shut` only. Where SYNs are held, ports that are about to open stay shut until these are released.
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

    /// Opens everything. Where SYNs are held, they are released first.
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

    /// The gate is open, and its rules stay for connections that they steer to a standby or a peer.
    pub(crate) fn is_lingering(&self) -> bool {
        self.opened && !self.removal.done && self.policy.lingers()
    }

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
            // An open gate serves clients no worse than a port without a listener.
            Conclusion::Abandon(why) => self.give_up(why, now),
            Conclusion::GoOn => self.go_on(now),
        }
    }

    pub(super) fn give_up(&mut self, why: Abandoned, now: Instant) -> Option<Task> {
        if self.opened {
            return self.go_on(now);
        }
        self.facts.abandoned = Some(why);
        Some(self.open_early(NotRun::Abandoned(why)))
    }

    /// Why the run goes on after a signal, when only the linger is left.
    pub(crate) fn in_spite_of_a_signal(&self) -> Option<String> {
        let signalled = !self.facts.signals.all().is_empty();
        let waits = self.phase == Phase::Over && self.is_lingering() && signalled;
        self.policy.in_spite_of_a_signal().filter(|_| waits)
    }

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

    /// Opens, removes and ends, in this order and each once.
    pub(super) fn close_down(&mut self) -> Option<Task> {
        if !self.opened {
            return Some(self.open());
        }
        // The linger removes the rules when it is over.
        if self.is_lingering() {
            let (_, question) = self.policy.after_open()?;
            return Some(Task::Ask(question));
        }
        if !self.removal.done {
            return Some(self.removal.begin());
        }
        Some(Task::End)
    }

    pub(super) fn remove_later(&mut self, now: Instant) -> Option<Task> {
        self.removal.put_off(now);
        self.go_on(now)
    }

    /// Opens before the regular end of the run. COMMAND is not started behind an open gate. If it
    /// runs already, syngate waits for it, and after USR1 for its listeners as well.
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

//! The state of a run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::decide::again::Again;
use crate::decide::config::Config;
use crate::decide::event::{Event, NotRun, Task};
use crate::decide::facts::Facts;
use crate::decide::looks::{GUARD_EVERY, QUIET, Regular};
use crate::decide::policy::{Due, Noted, Policy};
use crate::decide::readiness::Readiness;
use crate::decide::watch::{Watch, by_port};
use crate::kernel::sockets::Sample;
use crate::words::ports::PortSet;

/// The state of a run.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) config: Config,
    /// The listeners' ports that had, or have by now, a listener.
    pub(super) watches: BTreeMap<u16, Watch>,
    pub(super) closed_at: Instant,
    pub(super) deadline: Instant,
    pub(super) phase: Phase,
    /// Nobody has been seen to listen.
    pub(super) deserted: bool,
    pub(super) shut: PortSet,
    /// The gate was opened for good, or never closed.
    pub(super) opened: bool,
    pub(super) removed: bool,
    /// Another run holds SYNs: when that is looked at again, and what is left is removed anyway.
    pub(super) others: Option<(Instant, Instant)>,
    pub(super) remove_anyway: bool,
    pub(super) next_look: Instant,
    /// Whether the rules are there, where others can remove them.
    pub(super) guard: Option<Regular>,
    /// `--ready-check`.
    pub(super) check: Again,
    /// `--listen-netns-from`.
    pub(super) search: Again,
    /// Somebody has removed the rules, and they are not back yet.
    pub(super) fallen: bool,
    /// When the action has a say.
    pub(super) policy: Box<dyn Policy>,
    /// What came of it.
    pub facts: Facts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Gate closed, the old service finishes what is under way.
    Draining,
    /// The last look before COMMAND is run.
    Checking { rearmed: bool },
    /// COMMAND runs.
    Running,
    /// COMMAND has exited with 0: each port opens when it is ready and settled.
    Readying { since: Instant },
    /// Nothing is left to decide.
    Over,
}

impl State {
    /// The state of a run whose gate was closed at `closed_at`; `before` was seen just before.
    /// Without a deadline there is no gate (`--best-effort`): COMMAND just runs.
    pub(crate) fn new(
        config: Config,
        before: &Sample,
        closed_at: Instant,
        deadline: Option<Instant>,
        policy: Box<dyn Policy>,
    ) -> State {
        let watches = by_port(&before.listeners)
            .into_iter()
            .map(|(port, listeners)| {
                let ports = config
                    .gated
                    .listen_ports
                    .served_by(port, &config.gated.ports);
                let watch = Watch::new(ports, listeners, &before.holders, closed_at);
                (port, watch)
            })
            .collect();
        State {
            shut: match deadline {
                Some(_) => config.gated.ports.clone(),
                None => PortSet::EMPTY,
            },
            config,
            watches,
            closed_at,
            deadline: deadline.unwrap_or(closed_at),
            phase: Phase::Draining,
            opened: deadline.is_none(),
            removed: deadline.is_none(),
            others: None,
            remove_anyway: false,
            // Where nobody listens, whatever the old rules still let in is refused.
            deserted: before.listeners.is_empty(),
            next_look: match before.listeners.is_empty() {
                true => closed_at,
                false => closed_at + QUIET,
            },
            guard: None,
            fallen: false,
            policy,
            check: Again::default(),
            search: Again::default(),
            facts: Facts {
                ran_open: deadline.is_none(),
                ..Facts::default()
            },
        }
    }

    /// The kernel opens the gate at `deadline`.
    pub(crate) fn opens_by(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Others can remove the gate's rules: from now on it is looked at whether they are there.
    pub(crate) fn guard(&mut self) {
        self.guard = Some(Regular::new(GUARD_EVERY, self.closed_at));
    }

    /// When [`Event::Time`] is wanted at the latest, if at all.
    pub(crate) fn wake(&self) -> Option<Instant> {
        let releases = self.policy.before_open().map(|(at, _)| at);
        if self.opening() {
            return releases;
        }
        let opens = (!self.opened && self.phase != Phase::Over).then_some(self.deadline);
        let beside = self.beside().map(|(at, _)| at);
        let removes = self.others.map(|(at, _)| at).filter(|_| !self.removed);
        [
            self.looks_at(),
            self.guards_at(),
            self.asks_at(),
            beside,
            releases,
            self.lingers_at(),
            removes,
            opens,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What the policy has noted.
    pub(crate) fn noted(&self) -> Noted {
        self.policy.noted()
    }

    /// Takes an event in and says what to do now; `None` is to wait.
    pub(crate) fn step(&mut self, event: Event, now: Instant) -> Option<Task> {
        self.note_deadline(now);
        match event {
            Event::Closed if self.opened => Some(self.start_command()),
            Event::Closed if self.config.drain.is_zero() => self.end_drain(now),
            Event::Closed => self.go_on(now),
            Event::Saw(sample, cost) => self.saw(&sample, cost, now),
            Event::Blind => self.blind(now),
            Event::Stands(stands) => {
                self.closed_again(stands);
                self.checked(stands, now)
            }
            Event::Shut(ports) => {
                self.shut = ports;
                self.go_on(now)
            }
            Event::Intact(intact, cost) => self.guarded(intact, cost, now),
            Event::Started(started) => self.started(started, now),
            Event::Exited(exit) => self.exited(exit, now),
            Event::ReadyChecked(exit) => self.ready_checked(exit, now),
            Event::Searched(found) => self.searched(found, now),
            Event::Signal(signal, sender) => self.signalled(signal, sender, now),
            Event::Answered(answer, cost) => self.answered(answer, cost, now),
            Event::OthersHold => self.remove_later(now),
            Event::OpenNow => self.open_now(),
            Event::Done | Event::Time => self.go_on(now),
        }
    }

    /// The kernel has opened the gate, whatever has happened since (we may have been stopped).
    fn note_deadline(&mut self, now: Instant) {
        let shut = !self.opened && !self.shut.is_empty();
        let undecided = !self.opening() && self.phase != Phase::Over;
        // With --open-on ready all ports may be open already: nothing was cut short then.
        self.facts.deadline_hit |= shut && undecided && now >= self.deadline;
    }

    pub(super) fn go_on(&mut self, now: Instant) -> Option<Task> {
        if let Some((at, ports)) = self.policy.before_open() {
            if at <= now {
                return Some(self.release_now(ports.clone()));
            }
            if self.opening() {
                return None;
            }
        }
        if let Some(action) = self.linger_on(now) {
            return Some(action);
        }
        let later = self.removes_later(now) || self.is_lingering();
        if later && self.phase == Phase::Over {
            return None;
        }
        if self.phase == Phase::Over || (self.opened && !self.removed && !later) {
            return self.close_down();
        }
        if !self.opened && now >= self.deadline {
            return Some(self.open_early(NotRun::Deadline));
        }
        if self.guards_at().is_some_and(|at| at <= now) {
            return Some(Task::Guard);
        }
        if let Some((_, question)) = self.asks().filter(|(at, _)| *at <= now) {
            return Some(Task::Ask(question));
        }
        if let Some(action) = self.start_beside(now) {
            return Some(action);
        }
        match self.phase {
            Phase::Readying { .. } if self.config.ready_timeout.is_zero() => {
                self.open_what_is_ready(Duration::ZERO, now)
            }
            _ if self.looks_at().is_some_and(|at| at <= now) => Some(self.look(now)),
            _ => None,
        }
    }

    /// Whether a port is shut, and something is left to decide.
    pub(super) fn is_shut(&self) -> bool {
        !self.opened && !self.shut.is_empty() && self.phase != Phase::Over
    }

    /// When the sockets are to be looked at.
    pub(super) fn looks_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Draining => Some(self.next_look.min(self.drain_end())),
            Phase::Readying { .. } => Some(self.next_look),
            Phase::Running if self.follows() => Some(self.next_look),
            Phase::Running | Phase::Checking { .. } | Phase::Over => None,
        }
    }

    /// When the rules are to be looked at.
    pub(super) fn guards_at(&self) -> Option<Instant> {
        let guard = self.guard.as_ref().filter(|_| self.is_shut());
        guard.map(|guard| guard.next)
    }

    /// What the action is asked while a port is shut.
    fn asks(&self) -> Due {
        self.policy.while_shut().filter(|_| self.is_shut())
    }

    fn asks_at(&self) -> Option<Instant> {
        self.asks().map(|(at, _)| at)
    }

    fn lingers_at(&self) -> Option<Instant> {
        let due = self.policy.after_open().filter(|_| !self.removed);
        due.map(|(at, _)| at)
    }

    /// What is being waited for, for the people who watch. COMMAND speaks for itself.
    pub(crate) fn waiting_for(&self) -> Option<String> {
        if self.opening() {
            return self.policy.waits_for();
        }
        if self.phase == Phase::Over && self.others.is_some() && !self.removed {
            return Some("waiting for another run, which holds SYNs".to_owned());
        }
        if self.phase == Phase::Over && self.is_lingering() {
            return self.policy.waits_for();
        }
        match self.phase {
            Phase::Draining if self.facts.left.is_nothing() => Some("draining".to_owned()),
            Phase::Draining => Some(format!("draining: {}", self.facts.left)),
            Phase::Readying { .. } => {
                let waiting = self.ports_that(|watch| watch.readiness == Readiness::Waiting);
                Some(if !waiting.is_empty() {
                    let waiting = self.config.gated.listen_ports.shown(&waiting);
                    format!("waiting for a listener on {waiting}")
                } else if self.searching() {
                    "waiting for --listen-netns-from".to_owned()
                } else if self.checked_at().is_none() {
                    "waiting for --ready-check".to_owned()
                } else {
                    format!("settling: {}", self.shut.brief())
                })
            }
            _ => None,
        }
    }
}

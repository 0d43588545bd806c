//! The state of a run whose gate is closed, and the step from an event to the next task.

use std::time::{Duration, Instant};

use crate::decide::again::Again;
use crate::decide::config::Config;
use crate::decide::drain::DrainCommand;
use crate::decide::event::{Event, NotRun, Task};
use crate::decide::facts::Facts;
use crate::decide::handshakes::Handshakes;
use crate::decide::looks::{CHANGE_AGAIN, GUARD_EVERY, QUIET, Regular};
use crate::decide::policy::{Due, Noted, Policy};
use crate::decide::removal::Removal;
use crate::decide::watch::{Watches, watches};
use crate::kernel::sockets::{Sample, SocketId};
use crate::words::ports::PortSet;

#[derive(Debug)]
pub(crate) struct State {
    pub(super) config: Config,
    /// By port of the listener, not the gated port. A port is here once it has had a listener.
    pub(super) watches: Watches,
    /// The listeners of sessions, which are not watched.
    pub(super) sessions: Vec<SocketId>,
    pub(super) closed_at: Instant,
    pub(super) deadline: Instant,
    pub(super) phase: Phase,
    pub(super) handshakes: Handshakes,
    /// No look has shown a listener.
    pub(super) deserted: bool,
    pub(super) shut: PortSet,
    /// The gate was opened for good, or never closed.
    pub(super) opened: bool,
    pub(super) removal: Removal,
    pub(super) next_look: Instant,
    /// Before, a single inherited socket is not worth a look at the processes that hold it.
    pub(super) next_holders: Instant,
    /// Set where other programs can remove the rules.
    pub(super) guard: Option<Regular>,
    pub(super) drain_command: DrainCommand,
    pub(super) check: Again,
    pub(super) search: Again,
    /// Somebody has removed the rules, and they are not back yet.
    pub(super) fallen: bool,
    pub(super) policy: Box<dyn Policy>,
    pub facts: Facts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The gate is closed and the old service finishes its work.
    Draining,
    /// The last check of the gate before COMMAND starts.
    Checking { rearmed: bool },
    /// COMMAND runs.
    Running,
    /// COMMAND has exited with 0. Each port opens when it is ready and settled.
    Readying { since: Instant },
    /// Nothing is left to decide.
    Over,
}

impl State {
    /// `before` was seen just before the gate closed at `closed_at`. Without a deadline there is no
    /// gate (`--best-effort`), and COMMAND just runs.
    pub(crate) fn new(
        config: Config,
        before: &Sample,
        closed_at: Instant,
        deadline: Option<Instant>,
        policy: Box<dyn Policy>,
    ) -> State {
        let drain_command = match config.drain_command && !config.drain.is_zero() {
            true => DrainCommand::Due,
            false => DrainCommand::Unwanted,
        };
        State {
            watches: watches(before, &config.gated, closed_at),
            sessions: before.sessions.clone(),
            shut: match deadline {
                Some(_) => config.gated.ports.clone(),
                None => PortSet::EMPTY,
            },
            config,
            closed_at,
            deadline: deadline.unwrap_or(closed_at),
            phase: Phase::Draining,
            opened: deadline.is_none(),
            removal: Removal::new(deadline.is_none()),
            handshakes: Handshakes::default(),
            // Without a listener the service refuses the SYNs that the old rules still let in, so
            // the drain need not wait.
            deserted: before.listeners.is_empty(),
            next_look: match before.listeners.is_empty() {
                true => closed_at,
                false => closed_at + QUIET,
            },
            next_holders: closed_at,
            guard: None,
            fallen: false,
            policy,
            drain_command,
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

    /// Other programs can remove the gate's rules, so they are checked regularly from now on.
    pub(crate) fn guard(&mut self) {
        self.guard = Some(Regular::new(GUARD_EVERY, self.closed_at));
    }

    /// The time of the next [`Event::Time`]. `None`: only another event is awaited.
    pub(crate) fn wake(&self) -> Option<Instant> {
        let releases = self.policy.before_open().map(|(at, _)| at);
        if self.opening() {
            return releases;
        }
        let opens = (!self.opened && self.phase != Phase::Over).then_some(self.deadline);
        let beside = self.beside().map(|(at, _)| at);
        [
            self.looks_at(),
            self.guards_at(),
            self.asks_at(),
            beside,
            releases,
            self.lingers_at(),
            self.removal.tries_again_at(),
            opens,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(crate) fn noted(&self) -> Noted {
        self.policy.noted()
    }

    /// Takes in an event and returns the next task. `None`: wait.
    pub(crate) fn step(&mut self, event: Event, now: Instant) -> Option<Task> {
        self.note_deadline(now);
        match event {
            Event::Closed if self.opened => Some(self.start_command()),
            Event::Closed if self.config.drain.is_zero() => self.end_drain(now),
            Event::Closed => self.go_on(now),
            Event::Saw(sample, cost) => self.saw(&sample, cost, now),
            Event::Blind => self.blind(now),
            Event::Ended(sockets) => self.ended(&sockets, now),
            Event::Stands(stands) => {
                self.closed_again(stands);
                self.checked(stands, now)
            }
            Event::Shut(ports) => {
                if ports != self.shut {
                    self.next_look = self.next_look.max(now + CHANGE_AGAIN);
                }
                self.shut = ports;
                self.go_on(now)
            }
            Event::Intact(intact, cost) => self.guarded(intact, cost, now),
            Event::Started(started) => self.started(started, now),
            Event::Exited(exit) => self.exited(exit, now),
            Event::DrainCommandEnded => self.drain_command_ended(now),
            Event::ReadyChecked(exit) => self.ready_checked(exit, now),
            Event::Searched(found) => self.searched(found, now),
            Event::HeldUp => self.command_held_up(now),
            Event::Signal(signal, sender) => self.signalled(signal, sender, now),
            Event::Answered(answer, cost) => self.answered(answer, cost, now),
            Event::OthersHold => self.remove_later(now),
            Event::OpenNow => self.open_now(),
            Event::GiveUp(why) => self.give_up(why, now),
            Event::Done | Event::Time => self.go_on(now),
        }
    }

    /// The kernel opens the gate at the deadline, even if syngate was stopped (SIGSTOP) meanwhile.
    fn note_deadline(&mut self, now: Instant) {
        let shut = !self.opened && !self.shut.is_empty();
        let undecided = !self.opening() && self.phase != Phase::Over;
        // With `--open-on ready` all ports may be open already: then the deadline has cut nothing
        // short.
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
        if let Some(task) = self.linger_on(now) {
            return Some(task);
        }
        let later = self.removal.waits(now) || self.is_lingering();
        if later && self.phase == Phase::Over {
            return None;
        }
        if self.phase == Phase::Over || (self.opened && !self.removal.done && !later) {
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
        if let Some(task) = self.start_beside(now) {
            return Some(task);
        }
        match self.phase {
            Phase::Readying { .. } if self.config.ready_timeout.is_zero() => {
                self.open_what_is_ready(Duration::ZERO, now)
            }
            _ if self.looks_at().is_some_and(|at| at <= now) => Some(self.look(now)),
            _ => None,
        }
    }

    /// Whether a port is closed and the run is not over.
    pub(super) fn is_shut(&self) -> bool {
        !self.opened && !self.shut.is_empty() && self.phase != Phase::Over
    }

    pub(super) fn looks_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Draining => Some(self.next_look.min(self.drain_end())),
            Phase::Readying { .. } => Some(self.next_look),
            Phase::Running if self.follows() => Some(self.next_look),
            Phase::Running | Phase::Checking { .. } | Phase::Over => None,
        }
    }

    pub(super) fn guards_at(&self) -> Option<Instant> {
        let guard = self.guard.as_ref().filter(|_| self.is_shut());
        guard.map(|guard| guard.next)
    }

    fn asks(&self) -> Due {
        self.policy.while_shut().filter(|_| self.is_shut())
    }

    fn asks_at(&self) -> Option<Instant> {
        self.asks().map(|(at, _)| at)
    }

    fn lingers_at(&self) -> Option<Instant> {
        let due = self.policy.after_open().filter(|_| !self.removal.done);
        due.map(|(at, _)| at)
    }

    /// The text for people about what the run waits for. `None` while COMMAND runs, which speaks for
    /// itself.
    pub(crate) fn waiting_for(&self) -> Option<String> {
        if self.opening() {
            return self.policy.waits_for();
        }
        if self.phase == Phase::Over && self.removal.tries_again_at().is_some() {
            return Some(
                "the gate is open; waiting to remove its rules until another run has let its held \
                         SYNs go"
                    .to_owned(),
            );
        }
        if self.phase == Phase::Over && self.is_lingering() {
            return self.policy.waits_for();
        }
        match self.phase {
            // Nobody waits: whether the restart is still to come is watched, gate open.
            Phase::Readying { .. } if self.shut.is_empty() && !self.opened => None,
            Phase::Draining if self.facts.left.is_nothing() => Some("draining".to_owned()),
            Phase::Draining => Some(format!("draining: {}", self.facts.left)),
            Phase::Readying { .. } => {
                let missing = self.missing();
                Some(if !missing.ports.is_empty() {
                    let places = missing.shown(&self.config.gated);
                    format!("waiting for a listener on {places}")
                } else if self.searching() {
                    "waiting for --listen-netns-from".to_owned()
                } else if self.checked_at().is_none() {
                    "waiting until the ready check succeeds".to_owned()
                } else {
                    format!("settling: {}", self.shut.brief())
                })
            }
            _ => None,
        }
    }
}

//! COMMAND runs or has run: decides on which ports the service listens again.

use std::time::{Duration, Instant};

use crate::decide::config::{OpenOn, Settle};
use crate::decide::event::Task;
use crate::decide::looks::{HOLDERS_EVERY, WATCH_PAUSE, pause};
use crate::decide::missing::Missing;
use crate::decide::readiness::Readiness;
use crate::decide::state::{Phase, State};
use crate::decide::watch::{Watch, take_in};
use crate::kernel::sockets::{Sample, Want};
use crate::words::ended::CommandExit;
use crate::words::ports::PortSet;

/// Interval between attempts when the sockets can't be read.
const BLIND_RETRY: Duration = Duration::from_millis(10);
/// `--settle auto`: an inherited socket has settled when it has not changed for this long.
pub(crate) const SETTLE_ONE: Duration = Duration::from_millis(100);
/// `--settle auto`: a SO_REUSEPORT group has settled when, after a change, neither its listeners
/// nor their processes have changed for this long (nginx gives its old workers 100 ms).
pub(crate) const SETTLE_GROUP: Duration = Duration::from_millis(300);
/// `--settle auto`: how long to wait until a SO_REUSEPORT group begins to change, and how long to watch
/// an open port for a restart. A service reads its configuration before anything changes that can be
/// seen.
pub(crate) const SETTLE_PATIENCE: Duration = Duration::from_secs(3);
/// `--settle auto`: how long to wait for an address that had a listener when the port has one on
/// another address.
pub(crate) const SETTLE_PLACES: Duration = Duration::from_secs(1);

impl State {
    pub(super) fn exited(&mut self, exit: CommandExit, now: Instant) -> Option<Task> {
        self.facts.exited = Some((now, exit));
        // Without a closed gate there is nothing to open.
        if exit != CommandExit::Code(0) || self.facts.deadline_hit || self.facts.ran_open {
            return self.finish();
        }
        self.phase = Phase::Readying { since: now };
        for watch in self.watches.values_mut().flatten() {
            watch.changed_at = now;
        }
        self.search.expire();
        if self.config.ready_timeout.is_zero() {
            return self.open_what_is_ready(Duration::ZERO, now);
        }
        Some(self.look(now))
    }

    pub(super) fn look(&self, now: Instant) -> Task {
        Task::Look(Want {
            half_open: self.phase == Phase::Draining,
            connections: self.looks_at_connections(now),
            holders: matches!(self.phase, Phase::Readying { .. })
                && self.config.settle == Settle::Auto
                && self.looks_at_holders(now),
            ..Want::default()
        })
    }

    pub(super) fn saw(&mut self, sample: &Sample, cost: Duration, now: Instant) -> Option<Task> {
        match self.phase {
            Phase::Draining => self.drain_saw(sample, cost, now),
            Phase::Running => {
                self.next_look = now + pause(cost, WATCH_PAUSE);
                self.note(sample, now);
                self.follow_the_service(now)
            }
            Phase::Readying { .. } => {
                let mut cost = cost;
                if !sample.holders.is_empty() {
                    self.next_holders = now + HOLDERS_EVERY.max(pause(cost, WATCH_PAUSE));
                    // The next look, which does not ask for them, need not wait for so long.
                    if !self.looks_at_holders(now) {
                        cost = Duration::ZERO;
                    }
                }
                self.note(sample, now);
                self.open_what_is_ready(cost, now)
            }
            Phase::Checking { .. } | Phase::Over => self.go_on(now),
        }
    }

    /// The sockets could not be read: tries again, as long as the phase lasts.
    pub(super) fn blind(&mut self, now: Instant) -> Option<Task> {
        self.next_look = now + BLIND_RETRY;
        match self.phase {
            Phase::Draining if now >= self.drain_end() => self.end_drain(now),
            Phase::Readying { since } if now >= self.looks_until(since) => {
                self.facts.unseen = true;
                self.facts.unchecked |= self.checked_at().is_none();
                self.finish()
            }
            _ => self.go_on(now),
        }
    }

    /// Nobody waits behind an open gate, so listeners are watched there beyond `--ready-timeout`.
    fn looks_until(&self, since: Instant) -> Instant {
        let watches = self.all_watches().filter(|_| !self.is_shut());
        let watched = watches.filter_map(|watch| self.watched_until(watch, since));
        watched.fold(since + self.config.ready_timeout, Instant::max)
    }

    /// Whether to look at the listeners while COMMAND runs.
    pub(super) fn follows(&self) -> bool {
        let wanted = self.config.open_on == OpenOn::Ready && !self.config.ready_timeout.is_zero();
        wanted && !self.opened && !self.opening()
    }

    /// COMMAND would not exit before the gate opens, so each port opens when the new process listens there.
    pub(super) fn command_held_up(&mut self, now: Instant) -> Option<Task> {
        self.config.open_on = OpenOn::Ready;
        self.next_look = self.next_look.min(now);
        self.go_on(now)
    }

    /// An address that comes back only now was not taken out of the configuration.
    fn note_left_out(&mut self) {
        let without = |w: &&Watch| w.misses_places && w.readiness != Readiness::Waiting;
        let open = |w: &&Watch| !w.ports.minus(&self.shut).is_empty();
        let watches = self.watches.values().flatten();
        let left_out = watches
            .filter(without)
            .filter(open)
            .flat_map(Watch::uncovered);
        let mut known = std::mem::take(&mut self.facts.left_out);
        for listener in left_out {
            if !known.iter().any(|one| one.id == listener.id) {
                known.push(listener.clone());
            }
        }
        self.facts.left_out = known;
    }

    pub(super) fn note(&mut self, sample: &Sample, now: Instant) {
        let listeners = sample.lasting(&self.sessions);
        let gated = &self.config.gated;
        let changed = take_in(&mut self.watches, &listeners, &sample.holders, gated, now);
        // A new process may listen now. What the old one has passed says nothing about it.
        if changed {
            self.check.expire();
        }
        if !self.facts.opened_early {
            let waiting = self.ports_that(|watch| watch.readiness == Readiness::Waiting);
            let unserved = waiting.minus(&self.shut);
            self.facts.unserved = self.facts.unserved.union(&unserved);
            self.note_left_out();
        }
    }

    /// `--open-on ready` while COMMAND runs: a port opens when a new process listens, and closes
    /// again when nobody does.
    pub(super) fn follow_the_service(&mut self, now: Instant) -> Option<Task> {
        let checked = self.checked_at();
        let opens = |w: &Watch| {
            let ready = w.up_since?.max(checked?) + self.fixed_settle();
            Some(ready.max(self.places_at(w).unwrap_or(ready)))
        };
        let up = self.ports_that(|w| opens(w).is_some_and(|at| now >= at));
        let up = up.minus(&self.ports_that(|w| w.readiness == Readiness::Waiting));
        let down = self.ports_that(|w| w.now.is_empty());
        let fallen = self
            .config
            .gated
            .ports
            .minus(&self.shut)
            .intersection(&down);
        let shut = self.shut.minus(&up).union(&fallen);
        self.shut_only(shut, now).or_else(|| self.go_on(now))
    }

    /// After COMMAND's exit with 0: each port opens as soon as it is ready and settled.
    pub(super) fn open_what_is_ready(&mut self, cost: Duration, now: Instant) -> Option<Task> {
        self.close_what_was_too_early(now);
        let Phase::Readying { since } = self.phase else {
            return self.go_on(now);
        };
        let give_up = since + self.config.ready_timeout;
        let others_open = self.cleared_at(since).map(|at| self.settled_at(at));
        let others_open = others_open.unwrap_or(give_up);
        let mut next = if self.config.ready_timeout.is_zero() {
            others_open
        } else {
            now + pause(cost, WATCH_PAUSE)
        };
        let opens = |watch: &Watch| self.opens_at(watch, since).unwrap_or(give_up);
        let mut pending = self.ports_that(|watch| opens(watch) > now);
        let watched = self
            .all_watches()
            .filter_map(|w| self.watched_until(w, since));
        let times = self.all_watches().map(opens).chain(watched);
        next = times.filter(|at| *at > now).fold(next, Instant::min);
        if others_open > now {
            let watched = self.ports_that(|_| true);
            pending = pending.union(&self.config.gated.ports.minus(&watched));
            next = next.min(others_open);
        }
        let done =
            pending.is_empty() && !self.all_watches().any(|w| self.is_watched(w, since, now));
        if done || now >= give_up && !self.shut.is_empty() {
            self.note_what_is_not_ready();
        }
        if done {
            self.facts.unchanged = self.unchanged_groups();
            self.facts.same = self.unchanged_sockets();
            self.facts.never_seen = self.never_seen();
            return self.finish();
        }
        self.next_look = next;
        self.note_doubts();
        // A port that `--open-on ready` has opened stays open, and so does a gate that is open for good.
        let may_shut = match &self.facts.late {
            Some((late, _)) if !self.opened => self.shut.union(late),
            _ => self.shut.clone(),
        };
        let shut = may_shut.intersection(&pending);
        self.shut_only(shut, now)
    }

    /// The gate opens at the end of `--ready-timeout`. What becomes ready behind an open gate was not
    /// ready in time, so a later look takes nothing back.
    fn note_what_is_not_ready(&mut self) {
        if self.config.ready_timeout.is_zero() {
            return;
        }
        let missing = self.missing();
        self.facts.missing.add(missing);
        self.facts.unchecked |= self.checked_at().is_none();
        self.facts.unseen |= self.searching();
    }

    /// `None` while the listener is missing.
    pub(super) fn opens_at(&self, watch: &Watch, since: Instant) -> Option<Instant> {
        let cleared = self.cleared_at(since)?;
        let at_once = self.settled_at(cleared);
        if self.config.ready_timeout.is_zero() {
            return Some(at_once);
        }
        if self.opened && watch.readiness != Readiness::Waiting {
            return Some(cleared);
        }
        let opens = match (watch.readiness, self.config.settle) {
            (Readiness::Waiting, _) => return None,
            (Readiness::Unwatched, _) => at_once,
            (Readiness::Inherited { .. }, Settle::Auto) if self.is_untouched(watch) => at_once,
            (Readiness::Replaced, _) => {
                self.settled_at(watch.up_since.unwrap_or(since).max(cleared))
            }
            (Readiness::Inherited { .. }, Settle::Fixed(_)) => at_once,
            (Readiness::Inherited { group: false }, Settle::Auto) => watch.changed_at + SETTLE_ONE,
            (Readiness::Inherited { group: true }, Settle::Auto) if watch.begun => {
                watch.changed_at + SETTLE_GROUP
            }
            (Readiness::Inherited { group: true }, Settle::Auto) => since + SETTLE_PATIENCE,
        };
        let give_up = since + self.config.ready_timeout;
        let places = self.places_at(watch).map(|at| at.min(give_up));
        Some(opens.max(cleared).max(places.unwrap_or(cleared)))
    }

    /// When `--ready-check` and `--listen-netns-from` stopped keeping the ports shut. `None` while
    /// one of them still does.
    pub(super) fn cleared_at(&self, since: Instant) -> Option<Instant> {
        if self.searching() {
            return None;
        }
        self.checked_at().map(|at| at.max(since))
    }

    /// Gated ports that opened although no listener was ever seen on them.
    pub(super) fn never_seen(&self) -> PortSet {
        if self.config.ready_timeout.is_zero() {
            return PortSet::EMPTY;
        }
        self.config.gated.ports.minus(&self.ports_that(|_| true))
    }

    /// Until when to wait for addresses that the service had, where it listens without them.
    pub(super) fn places_at(&self, watch: &Watch) -> Option<Instant> {
        let waits = self.config.settle == Settle::Auto && watch.misses_places;
        waits.then(|| watch.changed_at + SETTLE_PLACES)
    }

    /// Whether nothing has changed about the service, while another one is restarted. It does not wait to
    /// open, but its own restart may still be to come.
    pub(super) fn is_untouched(&self, watch: &Watch) -> bool {
        let services = || self.all_watches().filter(|w| w.service.is_some());
        let mut own = services().filter(|w| w.service == watch.service);
        let mut others = services().filter(|w| w.service != watch.service);
        watch.service.is_some() && !own.any(|w| w.ever_changed) && others.any(|w| w.begun)
    }

    /// SO_REUSEPORT groups that did not change within [`SETTLE_PATIENCE`].
    pub(super) fn unchanged_groups(&self) -> PortSet {
        let group = Readiness::Inherited { group: true };
        let waited = !self.opened && self.config.settle == Settle::Auto;
        self.ports_that(|watch| {
            let same = watch.readiness == group && !watch.ever_changed;
            waited && same && !self.is_untouched(watch)
        })
    }

    /// When a port that was ready at `ready` has settled. Once everything is open there is no
    /// settle time.
    pub(super) fn settled_at(&self, ready: Instant) -> Instant {
        if self.opened {
            ready
        } else {
            ready + self.fixed_settle()
        }
    }

    /// The services that have not come back.
    pub(super) fn missing(&self) -> Missing {
        let waits = |watch: &Watch| watch.readiness == Readiness::Waiting;
        let waiting = self.all_watches().filter(|watch| waits(watch));
        Missing {
            ports: self.ports_that(waits),
            shared: self.ports_that(|watch| watch.port_is_served),
            listeners: waiting.flat_map(|w| w.before.iter().cloned()).collect(),
        }
    }

    pub(super) fn all_watches(&self) -> impl Iterator<Item = &Watch> {
        self.watches.values().flatten()
    }

    pub(super) fn fixed_settle(&self) -> Duration {
        match self.config.settle {
            Settle::Auto => Duration::ZERO,
            Settle::Fixed(settle) => settle,
        }
    }

    pub(super) fn ports_that(&self, condition: impl Fn(&Watch) -> bool) -> PortSet {
        let those = self.all_watches().filter(|watch| condition(watch));
        PortSet::from_ranges(those.flat_map(|watch| watch.ports.ranges().iter().cloned()))
    }
}

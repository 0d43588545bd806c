//! A COMMAND that returns before the restart has begun (`systemctl --no-block`, a signal to a
//! supervised process). If nothing has changed on inherited sockets, COMMAND may also have been a reload that nothing
//! shows, or have left the service alone. So the port opens, and closes again if the listener goes after all.

use std::time::{Duration, Instant};

use crate::decide::config::Settle;
use crate::decide::event::Task;
use crate::decide::readiness::Readiness;
use crate::decide::service::SETTLE_PATIENCE;
use crate::decide::state::{Phase, State};
use crate::decide::watch::Watch;
use crate::kernel::sockets::{Listener, SocketId};
use crate::words::ports::PortSet;

impl State {
    /// Whether the end of a listener closes its port again.
    pub(crate) fn minds_ends(&self) -> bool {
        match self.phase {
            Phase::Readying { since } => {
                let mut watches = self.all_watches();
                watches.any(|w| self.watched_until(w, since).is_some())
            }
            _ => false,
        }
    }

    /// Until when a restart may still be to come. `None`: the listeners tell that it is done, or they
    /// are not watched. Of a group the last listener's end counts: a reload may end others.
    pub(super) fn watched_until(&self, watch: &Watch, since: Instant) -> Option<Instant> {
        (self.may_come_late() && watch.is_in_doubt()).then(|| since + SETTLE_PATIENCE)
    }

    fn may_come_late(&self) -> bool {
        let looks = self.config.settle == Settle::Auto && !self.config.ready_timeout.is_zero();
        looks && !self.opened
    }

    /// Whether one of these sockets is a listener whose end closes its port again.
    pub(crate) fn minds(&self, ended: &[SocketId]) -> bool {
        let is_one = |listener: &Listener| ended.contains(&listener.id);
        self.minds_ends() && self.all_watches().any(|w| w.now.iter().any(is_one))
    }

    pub(super) fn is_watched(&self, watch: &Watch, since: Instant, now: Instant) -> bool {
        self.watched_until(watch, since).is_some_and(|at| at > now)
    }

    /// A group shows by its processes when a reload is over, so while its port is closed each look asks for
    /// them.
    pub(super) fn looks_at_holders(&self, now: Instant) -> bool {
        let due = now >= self.next_holders;
        let (mut groups, mut watches) = (self.all_watches(), self.all_watches());
        self.is_shut() && groups.any(Watch::has_group) || due && watches.any(Watch::is_in_doubt)
    }

    pub(super) fn note_doubts(&mut self) {
        if self.may_come_late() {
            let watches = self.watches.values_mut().flatten();
            watches.for_each(Watch::note_doubt);
        }
    }

    /// A listener has gone whose port was open in doubt: the restart comes only now.
    pub(super) fn close_what_was_too_early(&mut self, now: Instant) {
        let gone = self.ports_that(Watch::lost_one_in_doubt);
        let watches = self.watches.values_mut().flatten();
        watches
            .filter(|watch| watch.lost_one_in_doubt())
            .for_each(Watch::forget_doubt);
        // A port that is still shut was about to open: held SYNs were being released.
        let gone = gone.minus(&self.shut);
        if gone.is_empty() || self.opened {
            return;
        }
        let (ports, at) = self.facts.late.take().unwrap_or((PortSet::EMPTY, now));
        self.facts.late = Some((ports.union(&gone), at));
        self.phase = Phase::Readying { since: now };
    }

    pub(super) fn ended(&mut self, sockets: &[SocketId], now: Instant) -> Option<Task> {
        if !matches!(self.phase, Phase::Readying { .. }) {
            return self.go_on(now);
        }
        let mut lost = false;
        for watch in self.watches.values_mut().flatten() {
            lost |= watch.lose(sockets, now);
        }
        if !lost {
            return self.go_on(now);
        }
        // What the old process has passed says nothing about the new one.
        self.check.expire();
        self.open_what_is_ready(Duration::ZERO, now)
    }

    /// How many connections waited to be accepted when their listeners were last seen, and on which
    /// ports.
    pub(crate) fn unaccepted(&self) -> (u32, PortSet) {
        let count = self.all_watches().map(|watch| watch.unaccepted).sum();
        (count, self.ports_that(|watch| watch.unaccepted > 0))
    }

    /// Ports of single sockets of which nothing has changed.
    pub(super) fn unchanged_sockets(&self) -> PortSet {
        let one = Readiness::Inherited { group: false };
        let waited = !self.opened && self.config.settle == Settle::Auto;
        self.ports_that(|watch| {
            let same = watch.readiness == one && watch.is_the_same();
            waited && same && !self.is_untouched(watch)
        })
    }
}

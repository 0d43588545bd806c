//! A listener that gets the connections that waited has a longer backlog until it keeps up.

use std::time::Instant;

use super::groups::Group;
use super::preferred::Targets;
use super::raised::Raised;
use crate::kernel::room::copy;
use crate::kernel::sockets::{Listener, Sample};

impl Group {
    /// A listener whose queue is fuller than its backlog drops SYNs until the service has accepted enough.
    pub(super) fn raise(&mut self, targets: &Targets, waited: usize) {
        for (copy, listener) in targets.iter().filter(|_| waited > 0) {
            // The service may have called listen(2) again since the look.
            let before = copy::backlog(copy).unwrap_or(listener.backlog);
            let longer = before.saturating_add(waited as u32);
            if copy::set_backlog(copy, longer).is_err() {
                continue;
            }
            // The kernel may have set it shorter.
            let set = copy::backlog(copy).unwrap_or(longer);
            let cookie = listener.id.cookie;
            match self.raised.iter_mut().find(|one| one.cookie == cookie) {
                Some(raised) => raised.raise_again(before, set),
                None => self.raised.push(Raised::new(cookie, before, set)),
            }
        }
    }

    pub(super) fn has_raised(&self, listener: &Listener) -> bool {
        let cookie = listener.id.cookie;
        self.raised.iter().any(|raised| raised.cookie == cookie)
    }

    /// How many more wait to be accepted than the listeners' own backlogs have place for.
    pub(super) fn too_many(&self) -> usize {
        self.raised.iter().map(Raised::too_many).sum()
    }

    /// The same at this look.
    pub(super) fn too_many_of(&self, there: &Sample) -> usize {
        let raised = self.raised.iter().filter_map(|raised| {
            let mut listeners = there.listeners.iter();
            let listener = listeners.find(|l| l.id.cookie == raised.cookie)?;
            Some(listener.accept_queue.saturating_sub(raised.own) as usize)
        });
        raised.sum()
    }

    /// The service has its own backlog back once it keeps up. A burst that it has accepted keeps it busy, and
    /// meanwhile more connections come than its own backlog holds. A listener that has gone needs none.
    pub(super) fn lower(&mut self, there: &Sample) {
        self.lower_where(there, |raised, queue| {
            raised.keeps_up(queue, Instant::now())
        });
    }

    /// The same for the last time. Returns what to tell of those that keep the longer one.
    pub(super) fn lower_now(&mut self, there: &Sample) -> Vec<String> {
        self.lower_where(there, |raised, queue| queue <= raised.own);
        let shown = self.place.shown();
        let told = self.raised.drain(..).map(|raised| raised.words(&shown));
        told.collect()
    }

    fn lower_where(&mut self, there: &Sample, is_time: impl Fn(&mut Raised, u32) -> bool) {
        self.raised.retain_mut(|raised| {
            let listener = there
                .listeners
                .iter()
                .find(|l| l.id.cookie == raised.cookie);
            let Some(copy) = listener.and_then(|l| copy::of(l, &there.holders).ok()) else {
                return false;
            };
            // The service has set one itself meanwhile.
            if copy::backlog(&copy).is_some_and(|backlog| backlog != raised.set) {
                return false;
            }
            let queue = copy::accept_queue(&copy).unwrap_or(0);
            raised.queue = queue;
            !is_time(raised, queue) || copy::set_backlog(&copy, raised.own).is_err()
        });
    }
}

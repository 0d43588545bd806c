//! Which signals are wishes of their own.

use std::time::{Duration, Instant};

use nix::libc::SIGHUP;

use crate::words::ended::Sender;

/// A signal that comes sooner than this after another one is the same wish. timeout(1) signals its child,
/// and right after that the process group; so do shells and supervisors.
pub(crate) const SECOND_AFTER: Duration = Duration::from_millis(500);

/// The signals that asked the run to stop, each a wish of its own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    all: Vec<(i32, Sender)>,
    last: Option<Instant>,
}

impl Wishes {
    /// Whether the signal is a wish of its own. A terminal that is lost sends SIGHUP more than once, so
    /// SIGHUP counts as the first wish only.
    pub(crate) fn take(&mut self, signal: i32, sender: Sender, now: Instant) -> bool {
        let again = |last| signal != SIGHUP && now >= last + SECOND_AFTER;
        if !self.last.is_none_or(again) {
            return false;
        }
        self.all.push((signal, sender));
        self.last = Some(now);
        true
    }

    pub(crate) fn all(&self) -> &[(i32, Sender)] {
        &self.all
    }
}

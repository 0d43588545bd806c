//! Something that is run again and again, beside everything else, until it has succeeded: the
//! `--ready-check`, and the search for the new container. Pure.

use std::time::{Duration, Instant};

/// How far it has come.
#[derive(Debug, Default)]
pub(crate) struct Again {
    running: bool,
    /// What it may find out is out of date already.
    stale: bool,
    /// When it may be run once more.
    not_before: Option<Instant>,
    /// When it was run first.
    pub began_at: Option<Instant>,
    /// When it succeeded, if that still counts.
    pub passed_at: Option<Instant>,
}

impl Again {
    /// When it is to be run, unless it runs; at once is `at_once`.
    pub(crate) fn due(&self, at_once: Instant) -> Option<Instant> {
        (!self.running).then(|| self.not_before.unwrap_or(at_once))
    }

    /// It is being run.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.running = true;
        self.stale = false;
        self.began_at.get_or_insert(now);
    }

    /// It has ended; whether to run it once more is for others to say, but not before a pause.
    pub(crate) fn end(&mut self, passed: bool, pause: Duration, now: Instant) {
        self.running = false;
        self.not_before = Some(now + pause);
        if passed && !std::mem::take(&mut self.stale) {
            self.passed_at = Some(now);
        }
    }

    /// What it has found out, or is finding out, no longer counts.
    pub(crate) fn expire(&mut self) {
        self.stale = self.running;
        self.passed_at = None;
    }
}

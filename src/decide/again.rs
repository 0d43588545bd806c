//! A program that runs beside COMMAND repeatedly until it succeeds: `--ready-check` or
//! `--listen-netns-from`. Pure.

use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(crate) struct Again {
    running: bool,
    /// The listeners have changed during the run, so its result does not count.
    stale: bool,
    /// Earliest time of the next run.
    not_before: Option<Instant>,
    /// Start of the first run.
    pub began_at: Option<Instant>,
    /// Time of the success. Reset when the listeners change.
    pub passed_at: Option<Instant>,
}

impl Again {
    /// When to start the next run; `None` while one is under way. `at_once` means now.
    pub(crate) fn due(&self, at_once: Instant) -> Option<Instant> {
        (!self.running).then(|| self.not_before.unwrap_or(at_once))
    }

    pub(crate) fn begin(&mut self, now: Instant) {
        self.running = true;
        self.stale = false;
        self.began_at.get_or_insert(now);
    }

    /// Notes the end of a run. The next one starts after `pause` at the earliest.
    pub(crate) fn end(&mut self, passed: bool, pause: Duration, now: Instant) {
        self.running = false;
        self.not_before = Some(now + pause);
        if passed && !std::mem::take(&mut self.stale) {
            self.passed_at = Some(now);
        }
    }

    /// Discards the result of the last run, and of the one that is under way.
    pub(crate) fn expire(&mut self) {
        self.stale = self.running;
        self.passed_at = None;
    }
}

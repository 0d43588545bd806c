//! Connections that a process had accepted as it died: they are cut, as without syngate, and counted apart.

use testkit::{Failure, Fate, LoadReport};

use super::keep::monotonic_ms;

/// When processes of the service died: from the moment before until they were dead, in ms of CLOCK_MONOTONIC.
#[derive(Debug, Default)]
pub(crate) struct Deaths(Vec<(f64, f64)>);

impl Deaths {
    /// `end` returns when the process is dead.
    pub(crate) fn of(&mut self, end: impl FnOnce()) {
        let began = monotonic_ms();
        end();
        self.0.push((began, monotonic_ms()));
    }

    fn cut(&self, report: &LoadReport, failure: &Failure) -> bool {
        let at = |ms| report.started_ms + ms;
        let (due, failed) = (at(failure.due_ms), at(failure.at_ms));
        let met = |(began, dead): &(f64, f64)| due <= *dead && failed >= *began;
        failure.kind != Fate::Refused && self.0.iter().any(met)
    }
}

/// What became of the connections that failed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Failed {
    pub refused: u64,
    /// By a death.
    pub cut: u64,
    /// Neither.
    pub others: u64,
}

impl Failed {
    pub(crate) fn of(report: &LoadReport, deaths: &Deaths) -> Failed {
        let failures = report.failures.iter();
        let cut = failures.filter(|failure| deaths.cut(report, failure));
        let cut = cut.count() as u64;
        Failed {
            refused: report.refused,
            cut,
            others: report.failed() - report.refused - cut,
        }
    }
}

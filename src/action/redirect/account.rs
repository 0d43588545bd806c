//! The results of redirected connections and of the standby, as report rows and as text.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::action::elsewhere::went;
use crate::decide::policy::{LingerEnd, Lingered};
use crate::words::ms::Ms;

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct RedirectRow {
    port: u16,
    redirected: Option<u64>,
    cut: Option<usize>,
    linger_ms: Option<Ms>,
    linger_timed_out: bool,
}

impl RedirectRow {
    pub(crate) fn new(
        port: u16,
        redirected: Option<u64>,
        lingered: Option<Lingered>,
    ) -> RedirectRow {
        RedirectRow {
            port,
            redirected,
            cut: lingered.and_then(|lingered| lingered.left),
            linger_ms: lingered.map(|lingered| lingered.took.into()),
            linger_timed_out: lingered.is_some_and(|l| l.end == LingerEnd::TimedOut),
        }
    }

    pub(crate) fn named(&self) -> (&'static str, Value) {
        ("redirect", serde_json::json!(self))
    }
}

pub(crate) fn redirected_words(row: &RedirectRow) -> String {
    went(row.redirected, &format!("port {}", row.port), row.cut)
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct StandbyRow {
    pid: i32,
    end: StandbyEnd,
    stop_ms: Option<Ms>,
}

/// How the standby ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StandbyEnd {
    /// SIGTERM was enough.
    Terminated,
    /// SIGKILL was needed.
    Killed,
    /// `--keep-standby`: it still runs.
    Kept,
    /// The standby had ended before the run stopped it.
    Ended,
    /// The stop is in progress, and a signal has ended the wait for it.
    Stopping,
}

impl StandbyRow {
    /// `took`: from the order to stop until the end.
    pub(crate) fn new(pid: i32, end: StandbyEnd, took: Option<Duration>) -> StandbyRow {
        StandbyRow {
            pid,
            end,
            stop_ms: took.map(Into::into),
        }
    }

    pub(crate) fn named(&self) -> (&'static str, Value) {
        ("standby", serde_json::json!(self))
    }
}

//! What a soak has seen: rows of its results.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use testkit::{Failure, LoadReport};

/// Instead of a setting's name: without syngate.
pub const BARE: &str = "bare";

/// One restart.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Run {
    /// See [`crate::setting::Setting`]; or [`BARE`].
    pub setting: String,
    /// What was restarted.
    pub service: String,
    /// When it began, in ms of CLOCK_MONOTONIC.
    pub began_ms: f64,
    /// From there to its end.
    pub took_ms: f64,
    /// How long the gate was closed, as syngate says.
    pub closed_ms: Option<f64>,
    /// Its phases, as syngate says.
    pub phases: Value,
    /// The exit status; 128 + n if signal n ended it.
    pub code: i32,
    /// How often COMMAND ran.
    pub ran: usize,
    /// How long after its end nothing was left of it: guards have their work.
    pub gone_after_ms: f64,
    /// What was left, after all the time that it may take.
    pub left: Vec<String>,
    /// What it said.
    pub said: String,
}

/// What a gauge has shown, by its name.
pub type Sample = BTreeMap<String, f64>;

/// Clients for so long, restarts meanwhile, and what there was in the quiet after it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Round {
    /// From 0.
    pub number: usize,
    /// What was restarted.
    pub service: String,
    /// For how long clients came.
    pub seconds: u64,
    /// How often it was restarted.
    pub restarts: usize,
    /// IPv4 and IPv6.
    pub clients: Vec<Clients>,
    /// What there was.
    pub sample: Sample,
}

/// What clients saw, over one version of IP: see [`LoadReport`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Clients {
    /// The address that they connect to.
    pub to: String,
    /// When the first was due, in ms of CLOCK_MONOTONIC.
    pub started_ms: f64,
    /// Connections begun.
    pub connects: u64,
    /// Answered in full.
    pub ok: u64,
    /// Not answered.
    pub failed: u64,
    /// Answered after 0.9 s or more.
    pub delayed: u64,
    /// Begun late, by the client's fault.
    pub late: u64,
    /// The longest time until connected.
    pub worst_connect_ms: f64,
    /// The first 1,000.
    pub failures: Vec<Failure>,
}

impl Clients {
    /// Those of one load.
    pub fn of(to: &str, report: LoadReport) -> Clients {
        Clients {
            to: to.to_owned(),
            started_ms: report.started_ms,
            connects: report.connects,
            ok: report.ok,
            failed: report.failed(),
            delayed: report.delayed,
            late: report.late,
            worst_connect_ms: report.connect.max_ms,
            failures: report.failures,
        }
    }
}

impl Round {
    /// Of all clients together.
    pub fn sum(&self, figure: impl Fn(&Clients) -> u64) -> u64 {
        self.clients.iter().map(figure).sum()
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worst = self.clients.iter().map(|clients| clients.worst_connect_ms);
        write!(
            f,
            "{:>3}  {} restarts of {}, {} connections, {} failed, {} delayed, {} late, worst connect {:.0} ms",
            self.number,
            self.restarts,
            self.service,
            self.sum(|clients| clients.connects),
            self.sum(|clients| clients.failed),
            self.sum(|clients| clients.delayed),
            self.sum(|clients| clients.late),
            worst.fold(0.0, f64::max),
        )
    }
}

/// All in all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// For how long clients came.
    pub seconds: u64,
    /// Connections begun.
    pub connections: u64,
    /// Connections that were not answered.
    pub failed: u64,
    /// Answered after 0.9 s or more.
    pub delayed: u64,
    /// Begun late, by the clients' fault.
    pub late: u64,
    /// By setting.
    pub restarts: BTreeMap<String, Restarts>,
    /// Medians of the first quarter.
    pub first: Sample,
    /// Medians of the last quarter.
    pub last: Sample,
    /// What was not as promised.
    pub violations: Vec<String>,
}

/// Those of one setting.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Restarts {
    /// How many.
    pub runs: usize,
    /// How many ended with status 0, COMMAND run once, and left nothing.
    pub clean: usize,
    /// How many ended with status 125, COMMAND not run, and left nothing.
    pub not_run: usize,
    /// How long the gate was closed: the median.
    pub closed_ms: Option<f64>,
    /// How long that was at most.
    pub longest_closed_ms: Option<f64>,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (setting, restarts) in &self.restarts {
            let Restarts {
                runs,
                clean,
                not_run,
                closed_ms,
                longest_closed_ms,
            } = restarts;
            let closed = closed_ms
                .zip(*longest_closed_ms)
                .map(|(p50, max)| format!("; closed for {p50:.0} ms, at most {max:.0} ms"));
            let closed = closed.unwrap_or_default();
            writeln!(
                f,
                "{setting}: {runs} restarts, {clean} of them clean, {not_run} not run{closed}"
            )?;
        }
        for (name, first) in &self.first {
            let last = self.last.get(name).copied().unwrap_or_default();
            writeln!(f, "{name}: {first}, in the end {last}")?;
        }
        for violation in &self.violations {
            writeln!(f, "VIOLATION: {violation}")?;
        }
        let Totals {
            seconds,
            connections,
            failed,
            delayed,
            late,
            ..
        } = self;
        write!(
            f,
            "{seconds} s, {connections} connections, {failed} failed, {delayed} delayed, {late} late"
        )
    }
}

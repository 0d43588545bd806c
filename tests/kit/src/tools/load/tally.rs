use std::time::{Duration, Instant};

use anyhow::Result;
use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike,
    },
    time::{ClockId, clock_gettime},
};
use testkit::{Failure, Fate, Latency, LoadReport};

use super::connection::Connection;
use crate::tools::ms;

const LATE: Duration = Duration::from_millis(20);
const DELAYED: Duration = Duration::from_millis(900);
const BUCKET_MS: u128 = 10;
const FAILURES: usize = 1000;

/// Adds up what becomes of the requests.
pub struct Tally {
    start: Instant,
    /// How many answers make a flow.
    flow: u64,
    report: LoadReport,
    connect: Vec<f64>,
    total: Vec<f64>,
}

impl Tally {
    pub fn new(start: Instant, flow: u64) -> Self {
        Self {
            start,
            flow,
            report: LoadReport::default(),
            connect: Vec::new(),
            total: Vec::new(),
        }
    }

    /// A request is begun that was due then.
    pub fn sent(&mut self, due: Instant) {
        self.report.sent += 1;
        self.report.late += u64::from(due.elapsed() > LATE);
    }

    /// One more connection was begun.
    pub fn connects(&mut self) {
        self.report.connects += 1;
    }

    /// A request goes out once more: see [`Connection::was_stale`].
    pub fn resent(&mut self) {
        self.report.resent += 1;
    }

    /// A request is over: takes down how it connected, if it did.
    fn connected(&mut self, connection: &Connection) {
        let Some(took) = connection.connected.map(ms) else {
            return;
        };
        self.connect.push(took);
        let due = connection.due.duration_since(self.start);
        note(&mut self.report.timeline_ms, due, took);
    }

    /// A request was answered. Whether that was the one that makes a flow.
    pub fn answered(&mut self, connection: &Connection) -> bool {
        let total = connection.due.elapsed();
        self.connected(connection);
        self.total.push(ms(total));
        let due = connection.due.duration_since(self.start);
        note(&mut self.report.answers_ms, due, ms(total));
        self.report.ok += 1;
        self.report.delayed += u64::from(total >= DELAYED);
        self.report.ok == self.flow
    }

    /// A request has failed on this connection.
    pub fn broken(&mut self, connection: &Connection, kind: Fate, detail: String) {
        self.connected(connection);
        self.failed(connection.due, kind, detail);
    }

    /// A request on this connection has waited too long.
    pub fn timed_out(&mut self, connection: &Connection) {
        self.broken(connection, Fate::TimedOut, connection.came());
    }

    /// A request that was due then has failed.
    pub fn failed(&mut self, due: Instant, kind: Fate, detail: String) {
        *match kind {
            Fate::Refused => &mut self.report.refused,
            Fate::Reset => &mut self.report.reset,
            Fate::Cut => &mut self.report.cut,
            Fate::TimedOut => &mut self.report.timed_out,
            Fate::Other => &mut self.report.other,
        } += 1;
        if self.report.failures.len() < FAILURES {
            self.report.failures.push(Failure {
                due_ms: ms(due.duration_since(self.start)),
                at_ms: ms(self.start.elapsed()),
                kind,
                detail,
            });
        }
    }

    pub fn report(self) -> Result<LoadReport> {
        let used = getrusage(UsageWho::RUSAGE_SELF)?;
        let cpu = used.user_time() + used.system_time();
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
        Ok(LoadReport {
            started_ms: ms(now.saturating_sub(self.start.elapsed())),
            elapsed_ms: ms(self.start.elapsed()),
            cpu_ms: cpu.num_microseconds() as f64 / 1e3,
            connect: Latency::of(self.connect),
            total: Latency::of(self.total),
            ..self.report
        })
    }
}

/// The longest time of those that were due in the same bucket.
fn note(timeline: &mut Vec<f64>, due: Duration, took: f64) {
    let bucket = (due.as_millis() / BUCKET_MS) as usize;
    timeline.resize(timeline.len().max(bucket + 1), 0.0);
    timeline[bucket] = timeline[bucket].max(took);
}

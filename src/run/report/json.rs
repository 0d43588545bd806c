//! The JSON report.

use std::borrow::Cow;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use nix::libc;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::action::list;
use crate::decide::drain::Left;
use crate::kernel::sockets::Sample;
use crate::kernel::sockets::holders::names;
use crate::run::balancer::LeaveRow;
use crate::run::plan::Plan;
use crate::run::record::{Course, NotTaken, Record};
use crate::words::ended::CommandExit;
use crate::words::ending::{Ending, Outcome};
use crate::words::exit::Exit;
use crate::words::ms::Ms;
use crate::words::plain::plain;
use crate::words::ports::{PortSet, as_ranges};

/// Fields are only ever added. contrib/schema/report.schema.json describes them.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    version: u32,
    syngate: &'static str,
    run: &'a str,
    started_at: String,
    command: Vec<String>,
    #[serde(serialize_with = "as_ranges")]
    ports: PortSet,
    action: &'static str,
    not_taken: &'a [NotTaken],
    scope: Option<String>,
    listen_ports: Option<String>,
    listen_netns: Option<&'a str>,
    backend: Option<&'static str>,
    outcome: Outcome,
    reason: &'static str,
    message: String,
    exit_status: u8,
    exit_signal: Option<i32>,
    command_status: Option<u8>,
    command_signal: Option<i32>,
    leave: Option<&'a LeaveRow>,
    closed_after_ms: Option<Ms>,
    closed_ms: Option<Ms>,
    open_took_ms: Option<Ms>,
    phases: Phases,
    syns_stopped: Option<u64>,
    /// An object for each action; null for all but the run's.
    #[serde(flatten)]
    actions: Map<String, Value>,
    listeners_before: Vec<ListenerRow>,
    listeners_after: Vec<ListenerRow>,
    listeners_lost: &'a [String],
    #[serde(serialize_with = "as_ranges")]
    ports_not_ready: PortSet,
    #[serde(serialize_with = "as_ranges")]
    ports_unchanged: PortSet,
    #[serde(serialize_with = "as_ranges")]
    ports_closed_again: PortSet,
    drain_left: Left,
    stale_half_open: u32,
    idle_closed: Option<usize>,
    reclosed: u32,
    warnings: &'a [String],
}

/// The durations of a run's phases; null for phases that it did not reach.
#[derive(Debug, Default, Serialize)]
struct Phases {
    lock_ms: Option<Ms>,
    precheck_ms: Option<Ms>,
    /// From the closed gate to the end of the drain.
    drain_ms: Option<Ms>,
    command_ms: Option<Ms>,
    /// From COMMAND's exit to the open gate.
    ready_ms: Option<Ms>,
    /// From the first start of `--ready-check` to its success.
    ready_check_ms: Option<Ms>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ListenerRow {
    address: String,
    port: u16,
    /// The device that the socket is bound to.
    device: Option<String>,
    backlog: u32,
    process: Option<String>,
}

fn lossy(words: &[OsString]) -> Vec<String> {
    let words = words.iter().map(|word| word.to_string_lossy());
    words.map(Cow::into_owned).collect()
}

impl<'a> Report<'a> {
    /// `plan` is `None` if the options are invalid.
    pub(crate) fn new(
        command: &[OsString],
        ports: PortSet,
        plan: Option<&Plan>,
        record: &'a Record,
        ending: &'a Ending,
    ) -> Report<'a> {
        let course = record.course.as_ref();
        let facts = course.map(|course| &course.facts);
        let exited = facts.and_then(|facts| facts.started_at.and(facts.exited));
        let gated = plan.map(Plan::gated);
        Report {
            version: 1,
            syngate: env!("CARGO_PKG_VERSION"),
            run: &record.run,
            started_at: humantime::format_rfc3339_millis(record.started).to_string(),
            command: lossy(command),
            ports,
            action: record.action,
            not_taken: &record.not_taken,
            scope: gated
                .map(|gated| gated.scope.to_string())
                .filter(|scope| !scope.is_empty()),
            listen_ports: gated
                .filter(|gated| !gated.listen_ports.is_plain())
                .map(|gated| gated.listen_ports.to_string()),
            listen_netns: record.listen_netns.as_deref(),
            backend: record.backend,
            outcome: ending.outcome,
            reason: ending.reason,
            message: plain(&ending.message),
            exit_status: ending.exit.status(),
            exit_signal: (ending.exit == Exit::Interrupt).then_some(libc::SIGINT),
            command_status: exited.and_then(|(_, exit)| status(exit)),
            command_signal: exited.and_then(|(_, exit)| signal(exit)),
            leave: record.leave.as_ref(),
            closed_after_ms: ms(record.closed_after),
            closed_ms: ms(course.and_then(|course| course.closed.time())),
            open_took_ms: ms(record.open_took),
            phases: phases(record),
            syns_stopped: course.and_then(|course| course.closed.syns_stopped),
            actions: actions(course),
            listeners_before: rows(&record.before),
            listeners_after: rows(&record.after),
            listeners_lost: &record.listeners_lost,
            ports_not_ready: facts.map(|f| f.missing.ports.clone()).unwrap_or_default(),
            ports_unchanged: facts
                .map(|f| f.unchanged.union(&f.same))
                .unwrap_or_default(),
            ports_closed_again: facts
                .and_then(|f| Some(f.late.clone()?.0))
                .unwrap_or_default(),
            drain_left: facts.map(|facts| facts.left).unwrap_or_default(),
            stale_half_open: facts.map_or(0, |facts| facts.stale_half_open),
            idle_closed: record.idle_closed,
            reclosed: facts.map_or(0, |facts| facts.reclosed),
            warnings: record.warnings.noted(),
        }
    }

    pub(crate) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }
}

fn ms(duration: Option<Duration>) -> Option<Ms> {
    duration.map(Into::into)
}

fn status(exit: CommandExit) -> Option<u8> {
    match exit {
        CommandExit::Code(status) => Some(status),
        CommandExit::Signal(_) => None,
    }
}

fn signal(exit: CommandExit) -> Option<i32> {
    match exit {
        CommandExit::Code(_) => None,
        CommandExit::Signal(signal) => Some(signal),
    }
}

fn phases(record: &Record) -> Phases {
    let before = Phases {
        lock_ms: ms(record.lock),
        precheck_ms: ms(record.precheck),
        ..Phases::default()
    };
    let Some(Course { facts, closed, .. }) = &record.course else {
        return before;
    };
    let (started, exited) = (facts.started_at, facts.exited.map(|(at, _)| at));
    let command = started.and_then(|started| exited.map(|exited| (started, exited)));
    let ready = |exited| {
        let opened = closed.opened_at?;
        Some(Instant::saturating_duration_since(&opened, exited))
    };
    Phases {
        drain_ms: ms(facts.drained_at.map(|at| at - closed.closed_at)),
        command_ms: ms(command.map(|(started, exited)| exited - started)),
        ready_ms: ms(command.and_then(|(_, exited)| ready(exited))),
        ready_check_ms: ms(facts.checked_in),
        ..before
    }
}

fn actions(course: Option<&Course>) -> Map<String, Value> {
    let rows = course.map_or(&[][..], |course| &course.rows);
    let row = |name: &str| rows.iter().find(|(n, _)| *n == name);
    let all = list::rows().into_iter().map(|name| {
        let value = row(name).map_or(Value::Null, |(_, value)| value.clone());
        (name.to_owned(), value)
    });
    all.collect()
}

pub(crate) fn rows(sample: &Sample) -> Vec<ListenerRow> {
    let row = |l: &crate::kernel::sockets::Listener| {
        let who = names(&sample.holders, &[l.inode]);
        ListenerRow {
            address: l.address.to_string(),
            port: l.port,
            device: l.device.name(),
            backlog: l.backlog,
            process: (!who.is_empty()).then_some(who),
        }
    };
    sample.listeners.iter().map(row).collect()
}

/// For any bytes as COMMAND, with a NUL after each word: the JSON reads back as it was written,
/// with all fields of the schema.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    use std::collections::BTreeSet;
    use std::os::unix::ffi::OsStrExt;
    const SCHEMA: &str = include_str!("../../../contrib/schema/report.schema.json");
    static FIELDS: std::sync::LazyLock<BTreeSet<String>> = std::sync::LazyLock::new(|| {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).expect("it is JSON");
        let fields = schema["properties"].as_object().expect("it has properties");
        fields.keys().cloned().collect()
    });
    let words = bytes.split(|byte| *byte == 0);
    let words: Vec<&std::ffi::OsStr> = words.map(OsStrExt::from_bytes).collect();
    let command: Vec<std::ffi::OsString> = words.iter().map(|word| word.into()).collect();
    let shown: Vec<String> = words
        .iter()
        .map(|w| w.to_string_lossy().into_owned())
        .collect();
    let ports: PortSet = bytes.iter().map(|byte| u16::from(*byte) + 1).collect();
    let ranges = ports.ranges().len();
    let line = crate::words::command_line::command_line(&command);
    let mut record = Record::new();
    shown.iter().cloned().for_each(|w| record.warnings.note(w));
    let ending = Ending::not_run("lock", line.as_str());
    let report = Report::new(&command, ports, None, &record, &ending);
    let json = report.to_json().expect("it can be told");
    let read: serde_json::Value = serde_json::from_slice(&json).expect("it is JSON");
    let fields = read.as_object().map(|read| read.keys().cloned().collect());
    assert_eq!(fields.as_ref(), Some(&*FIELDS));
    assert_eq!(read["message"], plain(&line).as_str());
    assert_eq!(read["warnings"], serde_json::json!(shown));
    assert_eq!(read["command"], serde_json::json!(shown));
    assert_eq!(read["ports"].as_array().map(Vec::len), Some(ranges));
}

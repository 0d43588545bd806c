//! What a run has met so far, as the report will tell it.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::decide::facts::Facts;
use crate::kernel::sockets::Sample;
use crate::run::report::time::Closed;
use crate::tell::warnings::Warnings;
use crate::words::run_id::new_id;

#[derive(Debug)]
pub(crate) struct Record {
    /// The run's id.
    pub run: String,
    pub started: SystemTime,
    /// What becomes of SYNs.
    pub action: &'static str,
    /// Which backend closed the gate, if it was closed.
    pub backend: Option<&'static str>,
    /// How long the run waited for its lock.
    pub lock: Option<Duration>,
    /// How long `--precheck` took.
    pub precheck: Option<Duration>,
    /// From the start of syngate to the closed gate.
    pub closed_after: Option<Duration>,
    /// From the decision to open to the open gate.
    pub open_took: Option<Duration>,
    /// What listened before, and who held it.
    pub before: Sample,
    /// What listened afterwards.
    pub after: Sample,
    /// In which network namespace the listeners were looked for at last, if not in our own.
    pub listen_netns: Option<String>,
    /// Addresses that had a listener and are not covered by one any more.
    pub listeners_lost: Vec<String>,
    /// Whether COMMAND was started, for the ending of a run that panics.
    pub command_was_run: bool,
    pub warnings: Warnings,
    /// What came of a gate that was closed.
    pub course: Option<Course>,
}

/// What came of a gate that was closed.
#[derive(Debug)]
pub(crate) struct Course {
    pub facts: Facts,
    pub closed: Closed,
    /// The action's objects in the report.
    pub rows: Vec<(&'static str, Value)>,
}

impl Record {
    /// A run that has just begun.
    pub(crate) fn new() -> Record {
        Record {
            run: new_id(),
            started: SystemTime::now(),
            action: "drop",
            backend: None,
            lock: None,
            precheck: None,
            closed_after: None,
            open_took: None,
            before: Sample::default(),
            after: Sample::default(),
            listen_netns: None,
            listeners_lost: Vec::new(),
            command_was_run: false,
            warnings: Warnings::default(),
            course: None,
        }
    }
}

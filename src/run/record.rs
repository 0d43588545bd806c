//! What the report needs of a run.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::decide::facts::Facts;
use crate::kernel::sockets::{Sample, SocketId};
use crate::run::balancer::LeaveRow;
use crate::run::report::time::Closed;
use crate::tell::warnings::Warnings;
use crate::words::run_id::new_id;

#[derive(Debug)]
pub(crate) struct Record {
    pub run: String,
    pub started: SystemTime,
    /// The name of the action.
    pub action: &'static str,
    /// The actions that were to be taken first and could not.
    pub not_taken: Vec<NotTaken>,
    /// `None`: the gate was not closed.
    pub backend: Option<&'static str>,
    /// Time spent waiting for the lock.
    pub lock: Option<Duration>,
    /// Duration of `--precheck`.
    pub precheck: Option<Duration>,
    /// `None`: no load balancer was left.
    pub leave: Option<LeaveRow>,
    /// From the start of syngate to the closed gate.
    pub closed_after: Option<Duration>,
    /// From the decision to open to the open gate.
    pub open_took: Option<Duration>,
    /// The listeners before, and their holders.
    pub before: Sample,
    /// The listeners after the run.
    pub after: Sample,
    /// The last network namespace of the listeners, if not syngate's own.
    pub listen_netns: Option<String>,
    /// The connections that were idle when the drain looked last. `None`: it has not looked.
    pub idle: Option<Vec<SocketId>>,
    /// How many of them the service has closed since.
    pub idle_closed: Option<usize>,
    /// Addresses that had a listener and have none now.
    pub listeners_lost: Vec<String>,
    /// For the ending of a run that panics.
    pub command_was_run: bool,
    pub warnings: Warnings,
    /// `None`: the gate was not closed.
    pub course: Option<Course>,
}

/// An action of `--syn auto` that can't be done here.
#[derive(Debug, serde::Serialize)]
pub(crate) struct NotTaken {
    pub action: &'static str,
    pub why: String,
}

/// The results of a run whose gate was closed.
#[derive(Debug)]
pub(crate) struct Course {
    pub facts: Facts,
    pub closed: Closed,
    /// The action's objects in the report.
    pub rows: Vec<(&'static str, Value)>,
}

impl Record {
    pub(crate) fn new() -> Record {
        Record {
            run: new_id(),
            started: SystemTime::now(),
            action: "drop",
            not_taken: Vec::new(),
            backend: None,
            lock: None,
            precheck: None,
            leave: None,
            closed_after: None,
            open_took: None,
            before: Sample::default(),
            after: Sample::default(),
            listen_netns: None,
            idle: None,
            idle_closed: None,
            listeners_lost: Vec::new(),
            command_was_run: false,
            warnings: Warnings::default(),
            course: None,
        }
    }
}

//! The standby, and the settings of the redirection.

use std::cell::RefCell;
use std::ffi::OsString;
use std::rc::Rc;
use std::time::Duration;

use super::account::{StandbyEnd, StandbyRow};
use super::standby::Standby;

#[derive(Debug, Clone)]
pub(crate) struct ToStandby {
    pub port: u16,
    pub linger: Duration,
    /// `--standby`. `None`: the standby runs already.
    pub line: Option<OsString>,
    pub check: Option<OsString>,
    pub timeout: Duration,
    pub grace: Duration,
    pub keep: bool,
}

/// A standby that the run has started.
#[derive(Debug)]
pub(crate) struct OwnStandby {
    pub standby: Standby,
    /// Set once it has ended.
    pub row: Option<StandbyRow>,
}

/// `None`: the standby was already running, or the run has left it.
pub(crate) type SharedStandby = Rc<RefCell<Option<OwnStandby>>>;

impl OwnStandby {
    pub(crate) fn has_ended(&mut self, end: StandbyEnd, took: Option<Duration>) {
        self.row = Some(StandbyRow::new(self.standby.pid(), end, took));
    }

    /// The run is over. A standby that still runs is kept, or its guard stops it.
    pub(crate) fn leave(mut self, keep: bool) -> StandbyRow {
        if let Some(row) = self.row {
            return row;
        }
        let end = match (self.standby.stopped(), keep) {
            (Some(_), _) => StandbyEnd::Ended,
            (None, true) => StandbyEnd::Kept,
            (None, false) => StandbyEnd::Stopping,
        };
        let row = StandbyRow::new(self.standby.pid(), end, None);
        if end == StandbyEnd::Kept {
            self.standby.keep();
        }
        row
    }
}

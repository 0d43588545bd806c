//! Which standby takes the connections.

use std::cell::RefCell;
use std::ffi::OsString;
use std::rc::Rc;
use std::time::Duration;

use super::standby::Standby;

/// What is done for, and with, the standby.
#[derive(Debug, Clone)]
pub(crate) struct ToStandby {
    pub port: u16,
    /// `--linger`.
    pub linger: Duration,
    /// `--standby`: what starts it; else somebody has.
    pub line: Option<OsString>,
    /// `--standby-check`.
    pub check: Option<OsString>,
    /// `--standby-timeout`.
    pub timeout: Duration,
    /// `--standby-grace`.
    pub grace: Duration,
    /// `--keep-standby`.
    pub keep: bool,
}

/// A standby that the run has started; `None`: somebody else has, or it has been dealt with.
pub(crate) type Own = Rc<RefCell<Option<Standby>>>;

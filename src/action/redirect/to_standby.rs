//! The standby, and the settings of the redirection.

use std::cell::RefCell;
use std::ffi::OsString;
use std::rc::Rc;
use std::time::Duration;

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

/// A standby that the run has started. `None`: it was already running, or it has been stopped or
/// kept.
pub(crate) type SharedStandby = Rc<RefCell<Option<Standby>>>;

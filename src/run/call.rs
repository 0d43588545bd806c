//! What the steps of one run share.

use std::ffi::CString;

use crate::process::signals::Signals;
use crate::run::plan::Plan;
use crate::tell::say::Say;

pub(crate) struct Call<'a> {
    pub plan: &'a Plan,
    pub say: &'a Say,
    /// Signals that may end the run.
    pub signals: &'a Signals,
    pub environment: &'a [CString],
}

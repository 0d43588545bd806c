//! One call: what it asks for, and what all of its run needs.

use std::ffi::CString;

use crate::process::signals::Signals;
use crate::run::plan::Plan;
use crate::tell::say::Say;

pub(crate) struct Call<'a> {
    /// What will be done.
    pub plan: &'a Plan,
    /// Where it is told.
    pub say: &'a Say,
    /// What may end it.
    pub signals: &'a Signals,
    /// COMMAND's environment.
    pub environment: &'a [CString],
}

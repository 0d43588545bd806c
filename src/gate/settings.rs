//! What a backend needs besides the rules.

use std::time::Duration;

use super::who::Who;
use crate::process::meanwhile::Meanwhile;

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub run: String,
    /// The comment on the rules in the kernel.
    pub who: Who,
    pub xtables_wait: Duration,
    /// How long the rules may stay once the gate is open. The kernel still opens the gate at the
    /// deadline. A watchdog lets a living run keep its rules for this long after the deadline.
    pub lingers: Duration,
    /// What the action does while programs of the backend run.
    pub meanwhile: Meanwhile,
}

//! Failures to change iptables rules that callers treat differently.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::gate::backend::Deadline;
use crate::gate::rules::Rules;
use crate::words::lacking::Lacking;
use crate::words::scope::Where;
use crate::words::steer::Steer;

/// Another process has held the xtables lock for longer than syngate waits.
#[derive(Debug)]
pub(super) struct LockHeld(pub(super) String);

/// A program was killed, since it had not ended in time.
#[derive(Debug)]
pub(super) struct Hung;

/// The rules could be neither completed nor removed: the watchdog goes on trying.
#[derive(Debug)]
pub(super) struct NotUndone(pub(super) String);

/// The kernel would open the gate this much after the deadline, because its seconds count from the
/// arming.
#[derive(Debug)]
pub(super) struct TooLate(pub(super) Duration);

/// # Errors
/// [`Lacking`]: iptables has no rules for that.
pub(super) fn can_be_done(rules: &Rules) -> Result<(), Lacking> {
    match (rules.steer, rules.scope.hook) {
        (Steer::Divert(_), _) => Err(Lacking(
            "--syn divert can't be done: iptables can't remember connections by the packets that it sees"
                .to_owned(),
        )),
        (Steer::Refuse, Where::Prerouting) => Err(Lacking(
            "--leave with --hook prerouting can't be done: iptables refuses connections in the input hook alone"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

impl std::error::Error for LockHeld {}
impl std::error::Error for Hung {}
impl std::error::Error for NotUndone {}
impl std::error::Error for TooLate {}

impl fmt::Display for LockHeld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Hung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it did not end in time, and was killed")
    }
}

impl fmt::Display for NotUndone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TooLate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "iptables took too long: its lock was busy, or it has many rules to look through",
        )
    }
}

/// Whether a program was killed.
pub(super) fn hangs<T>(done: &Result<T>) -> bool {
    done.as_ref().is_err_and(anyhow::Error::is::<Hung>)
}

/// # Errors
/// There is none.
pub(super) fn time_left(until: Deadline) -> Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    anyhow::ensure!(!left.is_zero(), "the deadline (--max-closed) has passed");
    Ok(left)
}

/// Whether a program reports that the kernel, or this container, lacks the table.
pub(super) fn no_such_table(error: &anyhow::Error) -> bool {
    let said = error.to_string();
    [
        "unable to initialize table",
        "Table does not exist",
        "can't initialize",
    ]
    .iter()
    .any(|what| said.contains(what))
}

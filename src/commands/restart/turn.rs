//! While another run restarts the same service, nobody may listen on its ports. They are found once that run is over.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::cli::Named;
use crate::process::cmdline::words_of;
use crate::process::lock::{LockHolder, LocksOf, RETRY, directory_in_use, roll};
use crate::tell::say::Say;
use crate::words::unit_name::stem;

/// Waits for the end of a run whose command line names the same service. Returns whether there was one.
///
/// # Errors
/// `--lock-timeout` is over.
pub(super) fn await_other_run(named: &Named, say: &Say) -> Result<bool> {
    let Some(other) = run_of_the_same(named.short()) else {
        return Ok(false);
    };
    let timeout = named.args().options.lock_timeout;
    let (until, limit) = (
        Instant::now() + timeout,
        humantime::format_duration(timeout),
    );
    say.result(&format!(
        "waiting for {other}, which has its gate closed for {} (up to {limit}, --lock-timeout; interrupt to give up)",
        named.short()
    ));
    while run_of_the_same(named.short()).as_ref() == Some(&other) {
        ensure!(
            Instant::now() < until,
            "--lock-timeout {limit} is over, and {other} has not ended; COMMAND was not run"
        );
        std::thread::sleep(RETRY);
    }
    Ok(true)
}

/// Not one that has started this process: each would wait for the other.
fn run_of_the_same(name: &str) -> Option<LockHolder> {
    let living = roll(LocksOf::Runs, &directory_in_use()).ok()?.living;
    let holders = living.into_iter().map(|run| run.holder);
    let names_it = |pid: i32| {
        let words = words_of(pid).unwrap_or_default();
        words
            .iter()
            .any(|word| word.to_str().is_some_and(|word| stem(word) == name))
    };
    { holders }.find(|holder| names_it(holder.pid) && !holder.has_started_us())
}

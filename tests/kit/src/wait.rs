use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::slow::slow;

const POLL: Duration = Duration::from_millis(2);
/// The longest pause, even after a slow look.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until `is_so`, looking every two milliseconds, and pausing as long as a look takes where that
/// is more; an error that names `what` was waited for if it isn't so within the deadline ([`slow`] times
/// that).
pub fn wait_until(deadline: Duration, what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let deadline = deadline * slow();
    let end = Instant::now() + deadline;
    loop {
        let began = Instant::now();
        if is_so() {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("waited {deadline:?} in vain: {what}");
        }
        thread::sleep(began.elapsed().clamp(POLL, PAUSE));
    }
}

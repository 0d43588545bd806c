//! Waits for what no event tells of.

use std::time::{Duration, Instant};

/// Asks again `every` so often whether it is `done`. Returns whether it was `within` that time.
pub(crate) fn comes_true(done: impl Fn() -> bool, every: Duration, within: Duration) -> bool {
    let until = Instant::now() + within;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(every);
    }
}

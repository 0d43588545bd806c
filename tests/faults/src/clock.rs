//! The clock that all hosts of a machine share.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Milliseconds of CLOCK_MONOTONIC.
pub fn now_ms() -> f64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has it");
    Duration::from(now).as_secs_f64() * 1e3
}

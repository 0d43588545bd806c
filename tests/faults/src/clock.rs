//! The clock that all hosts of a machine share, and waits that bear a busy machine.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::time::{ClockId, clock_gettime};

/// Between two looks.
const REST: Duration = Duration::from_millis(10);
/// See [`Patience`].
pub const BUSY: u32 = 10;

/// Milliseconds of CLOCK_MONOTONIC.
pub fn now_ms() -> f64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has it");
    Duration::from(now).as_secs_f64() * 1e3
}

/// A time to wait for something. Where others keep the machine busy, all takes longer that is waited for:
/// while processes wait for a processor, the time passes [`BUSY`] times more slowly.
pub struct Patience {
    left: Duration,
    since: Instant,
    busy: Duration,
}

impl Patience {
    pub fn new(time: Duration) -> Patience {
        Patience {
            left: time,
            since: Instant::now(),
            busy: busy(),
        }
    }

    /// Whether there is time for another look, after a short rest.
    pub fn rest(&mut self) -> bool {
        thread::sleep(REST);
        let (now, all_busy) = (Instant::now(), busy());
        let passed = now - self.since;
        let busy = all_busy.saturating_sub(self.busy).min(passed);
        (self.since, self.busy) = (now, all_busy);
        self.left = self.left.saturating_sub(passed - busy + busy / BUSY);
        !self.left.is_zero()
    }
}

/// For how long some process of the machine has waited for a processor, in all; 0 where the kernel does not
/// tell (Documentation/accounting/psi.rst).
pub fn busy() -> Duration {
    let text = fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    Duration::from_micros(some_total(&text).unwrap_or(0))
}

fn some_total(text: &str) -> Option<u64> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    some.rsplit_once("total=")?.1.parse().ok()
}

/// Waits until it is so.
///
/// # Errors
/// It is not, for so long.
pub fn wait_patiently(time: Duration, what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let mut patience = Patience::new(time);
    while !is_so() {
        if !patience.rest() {
            bail!("waited {time:?} in vain: {what}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_comes_is_waited_for_in_vain() {
        let (began, ms) = (Instant::now(), Duration::from_millis);
        assert!(wait_patiently(ms(50), "nothing", || false).is_err());
        assert!(began.elapsed() >= ms(50));
        assert!(wait_patiently(ms(50), "something", || true).is_ok());
    }

    #[test]
    fn the_pressure_is_read() {
        let text = "some avg10=95.16 avg60=96.61 avg300=97.37 total=23153111\n\
            full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(some_total(text), Some(23_153_111));
        assert_eq!(some_total(""), None);
    }
}

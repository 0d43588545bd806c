//! One module for each tool, and what several of them need.

pub mod delay;
pub mod demo;
pub mod gaps;
pub mod hold;
pub mod init;
pub mod load;
pub mod scan;
pub mod serve;

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::geteuid,
};
use testkit::say;

/// From now on these signals can be read, and do nothing else.
fn signals<const N: usize>(which: [Signal; N]) -> Result<SignalFd> {
    let mask: SigSet = which.into_iter().collect();
    mask.thread_block()?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    Ok(SignalFd::with_flags(&mask, flags)?)
}

/// Lets us open as many files as we may; root may open more.
fn raise_file_limit() -> Result<u64> {
    const PLENTY: u64 = 400_000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let more = hard.max(PLENTY);
    if geteuid().is_root() && setrlimit(Resource::RLIMIT_NOFILE, more, more).is_ok() {
        return Ok(more);
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("RLIMIT_NOFILE")?;
    Ok(hard)
}

/// Takes the first one out of the queue if it is meant.
fn first_if<T>(queue: &mut VecDeque<T>, is_meant: impl FnOnce(&T) -> bool) -> Option<T> {
    match queue.front().is_some_and(is_meant) {
        true => queue.pop_front(),
        false => None,
    }
}

/// The time from one event to the next.
fn interval(per_second: u32) -> Result<Duration> {
    ensure!(per_second > 0, "a rate of 0");
    Ok(Duration::from_secs(1) / per_second)
}

fn ms(duration: Duration) -> f64 {
    // A microsecond is exact enough, and shorter to read.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

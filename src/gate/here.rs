//! What a run says of itself in [`Who`], and the clocks that it is compared with.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use super::who::{KEEP, Who};
use crate::process::living;
use crate::process::lock::{LocksOf, lock_file, unusual_directory};

impl Who {
    /// Its locks are taken.
    pub(crate) fn me(action: &str, command: &str) -> Who {
        let locks = match action {
            KEEP => LocksOf::Keeps,
            _ => LocksOf::Runs,
        };
        Who {
            pid: std::process::id(),
            since: now(),
            up: up(),
            boot: living::boot(),
            action: action.to_owned(),
            of: None,
            lock: lock_file(locks),
            locks: unusual_directory(),
            command: command.to_owned(),
        }
    }

    /// The same run, at the time of a new closing.
    #[must_use]
    pub(crate) fn again(&self) -> Who {
        Who {
            since: now(),
            up: up(),
            ..self.clone()
        }
    }

    /// Whether the run was in this boot of the host. `None`: that can't be told.
    pub(crate) fn of_this_boot(&self) -> Option<bool> {
        Some(*self.boot.as_ref()? == living::boot()?)
    }
}

/// Seconds of CLOCK_MONOTONIC.
pub(crate) fn up() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| Duration::from(now).as_secs())
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs()
}

//! Limits of resources (setrlimit(2)) that are too low for a run. The kernel would end the run in the middle, or
//! calls that it needs while the gate is closed would fail.

use std::time::Duration;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};
use nix::time::{ClockId, clock_gettime};

use crate::process::files::open_files;
use crate::words::limit::Limit;

/// stdin, stdout and stderr.
const STREAMS: u64 = 3;

const NO_LIMIT: u64 = u64::MAX;

/// The least stack and memory. With less, the kernel ends syngate when it needs more.
pub(crate) const LEAST_STACK: u64 = 1 << 20;
pub(crate) const LEAST_MEMORY: u64 = 64 << 20;
pub(crate) const LEAST_DATA: u64 = 16 << 20;

/// The number of files that a run may need at a time, with everything that it may have to start.
pub(crate) const LEAST_FILES: u64 = 24;

/// The gate opens when this much of the CPU time is left, or [`CPU_SHARE`] if that is less: beyond the hard
/// limit the kernel kills syngate.
pub(crate) const CPU_LEFT: Duration = Duration::from_secs(1);
/// A tenth of the limit.
const CPU_SHARE: u32 = 10;

/// What is too small. One line for the user.
pub(crate) fn too_small() -> Option<String> {
    let least = [
        (
            Resource::RLIMIT_STACK,
            LEAST_STACK,
            "stack",
            "ulimit -s, LimitSTACK=",
        ),
        (
            Resource::RLIMIT_AS,
            LEAST_MEMORY,
            "memory",
            "ulimit -v, LimitAS=",
        ),
        (
            Resource::RLIMIT_DATA,
            LEAST_DATA,
            "data",
            "ulimit -d, LimitDATA=",
        ),
    ];
    least
        .into_iter()
        .find_map(|(resource, least, what, option)| {
            let (limit, _) = limits(resource).ok()?;
            told(limit, least, what, option)
        })
}

/// The soft and the hard limit. [`NO_LIMIT`]: there is none.
fn limits(resource: Resource) -> nix::Result<(u64, u64)> {
    let (soft, hard) = getrlimit(resource)?;
    Ok((wide(soft), wide(hard)))
}

#[allow(clippy::useless_conversion)] // rlim_t has 32 bits on 32-bit machines
fn wide(limit: rlim_t) -> u64 {
    match limit {
        RLIM_INFINITY => NO_LIMIT,
        limit => limit.into(),
    }
}

fn told(limit: u64, least: u64, what: &str, option: &str) -> Option<String> {
    (limit < least).then(|| {
        let (limit, least) = (limit >> 10, Limit::MiB(least as usize));
        format!("the limit of {what} is {limit} KiB: syngate needs {least} ({option})")
    })
}

/// Whether a run could not open the files that it needs. One line for the user.
pub(crate) fn too_few_files() -> Option<String> {
    let (limit, _) = limits(Resource::RLIMIT_NOFILE).ok()?;
    // The listing itself is among them.
    let open = open_files().len() as u64 + STREAMS - 1;
    (limit < open + LEAST_FILES).then(|| {
        format!(
            "the limit of open files is {limit}, and {open} are open: syngate needs {LEAST_FILES} more \
             (ulimit -n, LimitNOFILE=)"
        )
    })
}

/// Lets this process open as many files as it may.
///
/// # Errors
/// One line: these are fewer than `needed`.
pub(crate) fn allow_files(needed: u64) -> Result<(), String> {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Ok(());
    };
    if wide(hard) < needed {
        return Err(format!(
            "needs {needed} open files, and the hard limit is {hard} (ulimit -Hn, LimitNOFILE=)"
        ));
    }
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Err(error) if wide(soft) < needed => Err(format!(
            "needs {needed} open files, and the limit is {soft}: setrlimit: {}",
            error.desc()
        )),
        _ => Ok(()),
    }
}

/// The CPU time that the kernel lets this process have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuTime {
    /// `None`: any.
    opens_at: Option<Duration>,
}

impl CpuTime {
    pub(crate) fn limited() -> CpuTime {
        let limit = limits(Resource::RLIMIT_CPU).map_or(NO_LIMIT, |(_, hard)| hard);
        let limit = (limit != NO_LIMIT).then(|| Duration::from_secs(limit));
        CpuTime {
            opens_at: limit.map(|limit| limit - CPU_LEFT.min(limit / CPU_SHARE)),
        }
    }

    pub(crate) fn is_nearly_over(self) -> bool {
        self.opens_at.is_some_and(|at| {
            let used = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID);
            used.is_ok_and(|used| Duration::from(used) >= at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_is_told_with_the_option() {
        let line = told(320 << 10, LEAST_STACK, "stack", "ulimit -s").unwrap();
        assert!(line.contains("320 KiB") && line.contains("1 MiB"), "{line}");
        assert_eq!(told(LEAST_STACK, LEAST_STACK, "stack", ""), None);
        assert_eq!(told(NO_LIMIT, LEAST_MEMORY, "memory", ""), None);
    }

    #[test]
    fn without_a_limit_there_is_time() {
        assert!(!CpuTime { opens_at: None }.is_nearly_over());
        let used = CpuTime {
            opens_at: Some(Duration::ZERO),
        };
        assert!(used.is_nearly_over());
    }
}

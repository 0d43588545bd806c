//! The files that this process has open.

use std::os::fd::RawFd;

/// The first one that is not stdin, stdout or stderr.
const FIRST: RawFd = 3;

/// Without stdin, stdout and stderr. Where /proc can't tell, the first ones that there may be.
pub(super) fn open_files() -> Vec<RawFd> {
    const USUALLY: RawFd = 256;
    let Ok(listed) = std::fs::read_dir("/proc/self/fd") else {
        return (FIRST..USUALLY).collect();
    };
    listed
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd >= FIRST)
        .collect()
}

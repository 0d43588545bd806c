//! Which file a process executes.

use std::fs;
use std::path::PathBuf;

/// What the kernel adds to the name of a file that is gone.
const GONE: &str = " (deleted)";

/// By its name when it was started: after an upgrade the file is another one, under the same name. `None`: it has ended,
/// or is not to be looked at.
pub(crate) fn executable(pid: i32) -> Option<PathBuf> {
    let file = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = file.to_str()?;
    Some(name.strip_suffix(GONE).unwrap_or(name).into())
}

//! The status of a process in /proc (proc(5)): a key and its value on each line.

use std::fmt::Display;
use std::fs;

/// Of the process with that pid, or of `self`. Empty if it can't be read: the process has ended, or there is no /proc.
pub(crate) fn status_of(process: impl Display) -> String {
    fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default()
}

/// `key`: with its colon.
pub(crate) fn value<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    Some(value.trim())
}

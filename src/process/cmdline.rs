//! The command lines of processes, as /proc has them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::words::command_line::command_line;

/// The command line, quoted for a shell.
pub(crate) fn call_of(pid: i32) -> Option<String> {
    words_of(pid).map(|words| command_line(&words))
}

/// The words of the command line, without empty ones.
pub(crate) fn words_of(pid: i32) -> Option<Vec<OsString>> {
    let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = cmdline.split(|b| *b == 0).filter(|word| !word.is_empty());
    Some(words.map(|w| OsStr::from_bytes(w).to_owned()).collect())
}

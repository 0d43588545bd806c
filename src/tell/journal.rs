//! systemd's journal as stderr: lines may say how much they matter (sd-daemon(3)).

use std::os::fd::AsFd;

use nix::sys::stat::fstat;

/// What systemd says which stream of a unit's is the journal's by (systemd.exec(5)).
pub const VARIABLE: &str = "JOURNAL_STREAM";

/// Before a line: its priority, as syslog has them.
pub const ERROR: &str = "<3>";
/// The same.
pub const WARNING: &str = "<4>";
/// The same: how it went, on good days.
pub const NOTICE: &str = "<5>";
/// The same: what is told along the way.
pub const INFO: &str = "<6>";

/// Whether what is written there goes to the journal, and not to where it was redirected since.
pub fn is(stream: &impl AsFd) -> bool {
    let Ok(named) = std::env::var(VARIABLE) else {
        return false;
    };
    fstat(stream).is_ok_and(|file| named == format!("{}:{}", file.st_dev, file.st_ino))
}

//! systemd's journal as stderr: a line may begin with its priority (sd-daemon(3)).

use std::os::fd::AsFd;

use nix::sys::stat::fstat;

/// By this variable, systemd tells a unit which file is the journal (systemd.exec(5)).
pub const VARIABLE: &str = "JOURNAL_STREAM";

// The priorities are syslog's.
pub(crate) const ERROR: &str = "<3>";
pub(crate) const WARNING: &str = "<4>";
pub(crate) const NOTICE: &str = "<5>";
pub(crate) const INFO: &str = "<6>";

/// Whether this stream is the journal. A unit's command may have redirected it.
pub(crate) fn is(stream: &impl AsFd) -> bool {
    let Ok(named) = std::env::var(VARIABLE) else {
        return false;
    };
    fstat(stream).is_ok_and(|file| named == format!("{}:{}", file.st_dev, file.st_ino))
}

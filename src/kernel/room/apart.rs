//! Makes rooms in the control group of the service.
//!
//! A socket belongs to the control group of the process that makes it, and so do the connections that it accepts
//! (`cgroup_sk_alloc()`, `sk_clone()`). What systemd's IPAddressDeny= and IPAccounting=, or the expression
//! `socket cgroupv2` of nft, do about them must be the same for those that wait in a room.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;

use super::Room;
use super::shelf::Shelf;
use crate::kernel::sys::in_child;

/// How long that may take. A control group that is frozen lets none of its processes run.
pub(crate) const MADE_WITHIN: Duration = Duration::from_secs(2);

/// The rooms that `make` has made in that control group.
///
/// # Errors
/// They can't be made, or no process may enter the group.
pub(crate) fn make_in(group: &Path, make: impl FnOnce() -> Result<Vec<Room>>) -> Result<Shelf> {
    let (queue, other) = Shelf::queue()?;
    let (mut told, mut tells) = UnixStream::pair()?;
    told.set_read_timeout(Some(MADE_WITHIN))?;
    let child = in_child(|| {
        let made = enter(group).and_then(|()| Shelf::put(&other, &make()?));
        let error = made.err().map(|error| format!("{error:#}"));
        let said = tells.write_all(error.as_deref().unwrap_or_default().as_bytes());
        u8::from(error.is_some() || said.is_err())
    })?;
    drop((other, tells));
    let mut error = String::new();
    let heard = told.read_to_string(&mut error);
    // It has ended, or is to end.
    let _ = kill(child, Signal::SIGKILL);
    let _ = waitpid(child, None);
    match (heard, error.as_str()) {
        (Ok(_), "") => Shelf::adopt(queue).context("no room was made"),
        (Ok(_), error) => bail!("{error}"),
        (Err(_), _) => bail!(
            "no waiting room can be made in the control group {}: it lets no process run",
            group.display()
        ),
    }
}

/// This process is in the group from now on.
fn enter(group: &Path) -> Result<()> {
    fs::write(group.join("cgroup.procs"), "0").with_context(|| {
        format!(
            "no process can enter the service's control group {}",
            group.display()
        )
    })
}

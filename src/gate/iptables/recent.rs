//! Arming and disarming the gate through xt_recent: a list with one entry, which a rule looks for.
//! Its file is written in an instant and needs no lock, and the kernel takes the entry for stale
//! after the rule's seconds, by a clock that nobody can set.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use super::compile::recent_name;
use crate::words::family::Family;

/// Where the lists are, as files (net/netfilter/xt_recent.c, recent_proc_net_init()).
const LISTS: &str = "/proc/net/xt_recent";

fn file(id: &str, family: Family) -> PathBuf {
    PathBuf::from(LISTS).join(recent_name(id, family))
}

/// From now on the rule matches.
///
/// # Errors
/// There is no such rule; or this is not the host's root (the files belong to it).
pub fn arm(id: &str, family: Family) -> io::Result<()> {
    if crate::words::fault::is("no-xt-recent") {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    write(
        id,
        family,
        match family {
            Family::V4 => "+0.0.0.0",
            Family::V6 => "+::",
        },
    )
}

/// From now on it does not.
///
/// # Errors
/// As for [`arm`].
pub fn disarm(id: &str, family: Family) -> io::Result<()> {
    write(id, family, "/")
}

/// Whether the list is there: as long as the rule is.
pub fn exists(id: &str, family: Family) -> bool {
    file(id, family).exists()
}

/// In one write(2): each one is a command (recent_mt_proc_write()).
fn write(id: &str, family: Family, command: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(file(id, family))?
        .write_all(command.as_bytes())
}

/// Whether the list is there, with its entry. That it may be too old is not looked at.
pub fn is_armed(id: &str, family: Family) -> bool {
    std::fs::read_to_string(file(id, family)).is_ok_and(|list| !list.trim().is_empty())
}

/// Whether there is any list of ours.
pub fn any() -> bool {
    let lists = std::fs::read_dir(LISTS).into_iter().flatten().flatten();
    lists
        .filter_map(|list| list.file_name().into_string().ok())
        .any(|name| name.starts_with(crate::gate::rules::PREFIX))
}

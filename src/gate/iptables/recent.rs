//! Arms and disarms the gate through xt_recent. The rule looks for the single entry of a list.
//! Writing the list's file takes no lock and little time. The kernel treats the entry as stale
//! after the rule's seconds, by a clock that nobody can set.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use super::compile::recent_name;
use crate::words::family::Family;

/// The directory of the lists' files (net/netfilter/xt_recent.c, recent_proc_net_init()).
const LISTS: &str = "/proc/net/xt_recent";

fn file(id: &str, family: Family) -> PathBuf {
    PathBuf::from(LISTS).join(recent_name(id, family))
}

/// Makes the rule match from now on.
///
/// # Errors
/// There is no such rule, or this process is not the host's root, which owns the files.
pub(super) fn arm(id: &str, family: Family) -> io::Result<()> {
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

/// Stops the rule from matching.
pub(super) fn disarm(id: &str, family: Family) -> io::Result<()> {
    write(id, family, "/")
}

/// The list stays as long as the rule.
pub(super) fn exists(id: &str, family: Family) -> bool {
    file(id, family).exists()
}

/// Uses one write(2), because each is a command (recent_mt_proc_write()).
fn write(id: &str, family: Family, command: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(file(id, family))?
        .write_all(command.as_bytes())
}

/// Whether the list has its entry, which may be stale.
pub(super) fn is_armed(id: &str, family: Family) -> bool {
    std::fs::read_to_string(file(id, family)).is_ok_and(|list| !list.trim().is_empty())
}

/// Whether the list is there and has no entry. A list that can't be read may have one.
pub(super) fn is_disarmed(id: &str, family: Family) -> bool {
    std::fs::read_to_string(file(id, family)).is_ok_and(|list| list.trim().is_empty())
}

/// Whether any run has a list. True also if that can't be told.
pub(super) fn any() -> bool {
    let lists = match std::fs::read_dir(LISTS) {
        Ok(lists) => lists.flatten(),
        Err(error) => return error.kind() != io::ErrorKind::NotFound,
    };
    lists
        .filter_map(|list| list.file_name().into_string().ok())
        .any(|name| name.starts_with(crate::gate::rules::PREFIX))
}

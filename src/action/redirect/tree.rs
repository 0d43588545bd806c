//! The process tree from /proc.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OfProc {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) session: i32,
}

/// Empty if /proc belongs to another pid namespace, because its pids mean other processes.
pub(super) fn processes() -> Vec<OfProc> {
    let own = std::fs::read_link("/proc/self");
    if !own.is_ok_and(|own| own.as_os_str() == OsStr::new(&getpid().to_string())) {
        return Vec::new();
    }
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| parse_stat(&std::fs::read(format!("/proc/{pid}/stat")).ok()?))
        .collect()
}

/// `pid (comm) state ppid pgrp session …`, proc(5). comm may contain any character, also
/// parentheses.
pub(super) fn parse_stat(stat: &[u8]) -> Option<OfProc> {
    let stat = String::from_utf8_lossy(stat);
    let (pid, _) = stat.split_once(" (")?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut rest = rest.split_whitespace().skip(1);
    let parent = rest.next()?.parse().ok()?;
    Some(OfProc {
        pid: pid.parse().ok()?,
        parent,
        session: rest.nth(1)?.parse().ok()?,
    })
}

/// The processes below `root`, parents first.
pub(super) fn below(root: i32, all: &[OfProc]) -> Vec<i32> {
    let mut seen = BTreeSet::from([root]);
    let mut found = vec![root];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        // /proc is not read atomically, so the data may contain a loop.
        let children = all.iter().filter(|p| p.parent == parent);
        found.extend(children.map(|p| p.pid).filter(|pid| seen.insert(*pid)));
        at += 1;
    }
    found.split_off(1)
}

pub(super) fn signal_all(pids: &[i32], signal: Signal) {
    for pid in pids {
        let _ = kill(Pid::from_raw(*pid), signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_fields_after_it() {
        let stat = b"42 (a) R 1 (\xff) S 7 8 9 0 -1 4194560";
        let expected = OfProc {
            pid: 42,
            parent: 7,
            session: 9,
        };
        assert_eq!(parse_stat(stat), Some(expected));
        for short in [
            "",
            "42",
            "42 (a)",
            "42 (a) S",
            "42 (a) S 7",
            "42 (a) S 7 8",
            "x (a) S 7 8 9",
        ] {
            assert_eq!(parse_stat(short.as_bytes()), None, "{short}");
        }
    }

    #[test]
    fn we_are_among_the_processes() {
        let own = getpid().as_raw();
        let parent = nix::unistd::getppid().as_raw();
        assert!(
            processes()
                .iter()
                .any(|p| p.pid == own && p.parent == parent)
        );
    }

    #[test]
    fn who_is_below_is_found_parents_first_and_once() {
        let of = |(pid, parent)| OfProc {
            pid,
            parent,
            session: 1,
        };
        let tree = [
            (9, 3),
            (1, 0),
            (3, 2),
            (2, 1),
            (5, 1),
            (4, 2),
            (7, 6),
            (6, 0),
        ]
        .map(of);
        assert_eq!(below(2, &tree), [3, 4, 9]);
        assert!(below(9, &tree).is_empty());
        assert!(below(8, &tree).is_empty());
        let ring = [(2, 1), (3, 2), (2, 3), (1, 3)].map(of);
        assert_eq!(below(1, &ring), [2, 3]);
    }
}

//! The process tree from /proc.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use nix::sys::signal::Signal;
use nix::unistd::getpid;

use crate::process::send::send;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OfProc {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) session: i32,
    /// In clock ticks since boot: pids are used again.
    pub(super) started: u64,
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
        .filter_map(process)
        .collect()
}

fn process(pid: i32) -> Option<OfProc> {
    parse_stat(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// `pid (comm) state ppid pgrp session …`, and `starttime` as the 22nd field, proc(5). comm may contain any character, also
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
        started: rest.nth(15)?.parse().ok()?,
    })
}

/// The processes below `root`, parents first.
pub(super) fn below(root: i32, all: &[OfProc]) -> Vec<OfProc> {
    let mut seen = BTreeSet::from([root]);
    let mut found: Vec<OfProc> = Vec::new();
    let (mut parent, mut at) = (Some(root), 0);
    while let Some(pid) = parent {
        // /proc is not read atomically, so the data may contain a loop.
        let children = all.iter().filter(|p| p.parent == pid);
        found.extend(children.filter(|p| seen.insert(p.pid)));
        parent = found.get(at).map(|p| p.pid);
        at += 1;
    }
    found
}

/// Not to a process that has got the pid of one of these since they were listed.
pub(super) fn signal_all(processes: &[OfProc], signal: Signal) {
    for listed in processes {
        let is_meant = || process(listed.pid).is_some_and(|now| now.started == listed.started);
        let _ = send(signal, listed.pid, is_meant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_fields_after_it() {
        let stat = b"42 (a) R 1 (\xff) S 7 8 9 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1";
        let expected = OfProc {
            pid: 42,
            parent: 7,
            session: 9,
            started: 98765,
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
            "42 (a) S 7 8 9 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0",
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
    fn another_process_that_has_got_the_pid_is_spared() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let listed = process(child.id() as i32).unwrap();
        let gone = OfProc {
            started: listed.started - 1,
            ..listed
        };
        signal_all(&[gone], Signal::SIGKILL);
        assert_eq!(child.try_wait().unwrap(), None, "it lives");
        signal_all(&[listed], Signal::SIGKILL);
        child.wait().unwrap();
    }

    #[test]
    fn who_is_below_is_found_parents_first_and_once() {
        let of = |(pid, parent)| OfProc {
            pid,
            parent,
            session: 1,
            started: 1,
        };
        let below =
            |root, all: &[OfProc]| -> Vec<i32> { below(root, all).iter().map(|p| p.pid).collect() };
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

//! Which processes hold which listeners: /proc/PID/fd names sockets by their inode. Cookies alone can't
//! tell whether a reload is over (SO_REUSEPORT groups), and messages name the processes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::ops::Range;

use nix::fcntl::readlinkat;

/// How many open files of each process to look at: the first few, and more as long as a listener has no
/// holder. Servers open their listeners early, some after their logs. They may have many thousand
/// connections, and to look at one costs some µs.
pub(crate) const FILES: [u32; 3] = [16, 128, 1_024];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// `comm`, as ps(1) shows it.
    pub(crate) name: String,
    /// The start time of the process, in clock ticks since boot: pids are used again.
    pub(crate) started: u64,
    pub(crate) inodes: Vec<u32>,
    /// The descriptors by which it holds them, in the same order, as far as the look has noted them.
    pub(crate) files: Vec<i32>,
}

impl Holder {
    /// Where a process with that pid holds this socket, or held it when it was looked at.
    pub(crate) fn file_of(&self, inode: u32) -> Option<i32> {
        let at = self.inodes.iter().position(|one| *one == inode)?;
        self.files.get(at).copied()
    }
}

/// The holders by pid. /proc does not tell of other users' processes without root.
pub(crate) type Holders = BTreeMap<i32, Holder>;

/// Finds the processes that hold one of `inodes`. That costs a readlink(2) for each file of each process
/// on the host, up to [`FILES`]: some milliseconds on a busy host.
pub(crate) fn find(inodes: &[u32]) -> Holders {
    let mut found = Holders::new();
    let wanted: BTreeSet<u32> = inodes.iter().copied().collect();
    for files in FILES {
        found = find_among(0..files, &wanted);
        if all_held(inodes, &found) {
            break;
        }
    }
    found
}

/// Whether each of `inodes` has a holder.
pub(super) fn all_held(inodes: &[u32], found: &Holders) -> bool {
    let held = found.values().flat_map(|holder| &holder.inodes);
    let held: BTreeSet<&u32> = held.collect();
    inodes.iter().all(|inode| held.contains(inode))
}

/// A process for each of `inodes`: the newest that holds it, because a new process holds a new listener. So most
/// often that costs no look at other processes.
pub(crate) fn find_newest(inodes: &[u32]) -> Holders {
    let mut found = Holders::new();
    let mut missing: BTreeSet<u32> = inodes.iter().copied().collect();
    let mut pids: Vec<i32> = processes().collect();
    pids.sort_unstable();
    while let Some(pid) = pids.pop().filter(|_| !missing.is_empty()) {
        let Some(mut holder) = holder(pid, 0..FILES[1], &missing) else {
            continue;
        };
        // A process that holds some of the sockets may hold all.
        if holder.inodes.len() < missing.len() {
            holder = self::holder(pid, 0..FILES[2], &missing).unwrap_or(holder);
        }
        for inode in &holder.inodes {
            missing.remove(inode);
        }
        found.insert(pid, holder);
    }
    match missing.is_empty() {
        true => found,
        false => find(inodes),
    }
}

/// The processes that /proc shows, by pid.
pub(crate) fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// These processes alone, as far as they hold some of `inodes`.
pub(crate) fn find_in(pids: impl Iterator<Item = i32>, inodes: &[u32]) -> Holders {
    let wanted: BTreeSet<u32> = inodes.iter().copied().collect();
    let held = pids.filter_map(|pid| Some((pid, holder(pid, 0..FILES[2], &wanted)?)));
    held.collect()
}

fn find_among(files: Range<u32>, inodes: &BTreeSet<u32>) -> Holders {
    if inodes.is_empty() {
        return Holders::new();
    }
    processes()
        .filter_map(|pid| Some((pid, holder(pid, files.clone(), inodes)?)))
        .collect()
}

fn holder(pid: i32, files: Range<u32>, inodes: &BTreeSet<u32>) -> Option<Holder> {
    let held = sockets(pid, files)?.into_iter();
    let held: BTreeMap<u32, i32> = held.filter(|(inode, _)| inodes.contains(inode)).collect();
    if held.is_empty() {
        return None;
    }
    let (name, started) = parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)?;
    let (inodes, files) = held.into_iter().unzip();
    Some(Holder {
        name,
        started,
        inodes,
        files,
    })
}

/// The sockets among these files of a process: the inode and the descriptor of each.
fn sockets(pid: i32, files: Range<u32>) -> Option<Vec<(u32, i32)>> {
    let directory = fs::File::open(format!("/proc/{pid}/fd")).ok()?;
    // The number of files since Linux 6.2 (proc_readfd_count(), fs/proc/fd.c); 0 before.
    let count = directory.metadata().ok()?.len();
    let names: Vec<OsString> = if count > u64::from(files.end) {
        // Even a listing takes some µs for each file.
        files.map(|fd| fd.to_string().into()).collect()
    } else {
        let listed = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let names = listed.flatten().map(|entry| entry.file_name());
        names.take(files.len()).collect()
    };
    let socket = |name: &OsString| {
        let link = readlinkat(&directory, name.as_os_str()).ok()?;
        Some((socket_inode(link.to_str()?)?, name.to_str()?.parse().ok()?))
    };
    Some(names.iter().filter_map(socket).collect())
}

/// The number of the descriptor by which a process holds this socket. `None`: it does not, or /proc does
/// not tell.
pub(crate) fn file_of(pid: i32, inode: u32) -> Option<i32> {
    let directory = format!("/proc/{pid}/fd");
    let opened = fs::File::open(&directory).ok()?;
    let holds = |name: &OsString| {
        let link = readlinkat(&opened, name.as_os_str()).ok()?;
        (socket_inode(link.to_str()?)? == inode).then_some(())
    };
    let names = fs::read_dir(&directory).ok()?;
    let mut names = names.flatten().map(|entry| entry.file_name());
    names
        .find(|name| holds(name).is_some())?
        .to_str()?
        .parse()
        .ok()
}

/// Whether a process has this socket by that descriptor. Also `false` where /proc does not tell.
pub(crate) fn has(pid: i32, file: i32, inode: u32) -> bool {
    let link = fs::read_link(format!("/proc/{pid}/fd/{file}"));
    link.is_ok_and(|link| link.to_str().and_then(socket_inode) == Some(inode))
}

/// The start time of a process, in clock ticks since boot. `None`: there is no such process, or /proc
/// does not tell.
pub(crate) fn started(pid: i32) -> Option<u64> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?).map(|(_, started)| started)
}

/// A start time as the kernel has it, in ns since boot, in clock ticks as /proc tells it (USER_HZ, asm-generic/param.h).
pub(crate) fn ticks(ns: u64) -> u64 {
    const NS_IN_TICK: u64 = 10_000_000;
    ns / NS_IN_TICK
}

/// `socket:[12345]`.
fn socket_inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// comm (2nd field, in parentheses; any bytes, parentheses too) and starttime (22nd), proc(5).
fn parse_stat(stat: &[u8]) -> Option<(String, u64)> {
    let stat = String::from_utf8_lossy(stat);
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let started = after.split_whitespace().nth(19)?.parse().ok()?;
    Some((name.to_owned(), started))
}

/// The holders of these inodes: `haproxy (pid 123)` or `nginx (pids 12, 13)`.
pub(crate) fn names(holders: &Holders, inodes: &[u32]) -> String {
    let mut by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (pid, holder) in holders {
        if holder.inodes.iter().any(|inode| inodes.contains(inode)) {
            by_name
                .entry(&holder.name)
                .or_default()
                .push(pid.to_string());
        }
    }
    let parts: Vec<String> = by_name
        .into_iter()
        .map(|(name, pids)| {
            let s = if pids.len() == 1 { "" } else { "s" };
            format!("{name} (pid{s} {})", pids.join(", "))
        })
        .collect();
    parts.join(" and ")
}

/// What holds for any text as a process's stat, or a link to a socket.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    if let Some((name, _)) = parse_stat(bytes) {
        assert!(String::from_utf8_lossy(bytes).contains(&name));
    }
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        if let Some(inode) = socket_inode(line) {
            assert_eq!(socket_inode(&format!("socket:[{inode}]")), Some(inode));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_hostile_name() {
        let stat = b"42 (a) (b) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 1";
        assert_eq!(parse_stat(stat), Some(("a) (b".to_owned(), 98765)));
        let bytes = b"42 (a\xff) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 1";
        assert_eq!(parse_stat(bytes), Some(("a\u{fffd}".to_owned(), 98765)));
        assert_eq!(parse_stat(b"nonsense"), None);
    }

    #[test]
    fn socket_links() {
        assert_eq!(socket_inode("socket:[77]"), Some(77));
        assert_eq!(socket_inode("pipe:[77]"), None);
        assert_eq!(socket_inode("/dev/null"), None);
    }

    /// As a load balancer has them.
    #[test]
    fn many_files_are_not_all_looked_at() {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let many: Vec<_> = (0..200).map(|_| first.try_clone().unwrap()).collect();
        let me = std::process::id() as i32;
        assert!(sockets(me, 0..100).unwrap().len() <= 100);
        assert!(sockets(me, 0..FILES[2]).unwrap().len() > many.len());
        let inode = nix::sys::stat::fstat(&first).unwrap().st_ino as u32;
        let seen = sockets(me, 0..100).unwrap();
        assert!(
            seen.iter().any(|(one, _)| *one == inode),
            "the first of them"
        );
    }

    /// Some servers open their logs first.
    #[test]
    fn a_listener_behind_many_files_is_found() {
        let logs: Vec<_> = (0..FILES[1] + 200)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = nix::sys::stat::fstat(&listener).unwrap().st_ino as u32;
        drop(logs);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&listener) as u32;
        assert!((FILES[1]..FILES[2]).contains(&fd), "{fd}");
        let me = std::process::id() as i32;
        let found = &find(&[inode])[&me];
        assert_eq!(found.inodes, [inode]);
        assert_eq!(found.file_of(inode), Some(fd as i32));
        assert_eq!(found.file_of(inode + 1), None);
    }

    #[test]
    fn a_process_that_holds_some_is_looked_at_for_all() {
        let near = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let logs: Vec<_> = (0..FILES[1])
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        let far = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inodes = [&near, &far].map(|one| nix::sys::stat::fstat(one).unwrap().st_ino as u32);
        let found = find_newest(&inodes);
        drop(logs);
        assert_eq!(found.len(), 1, "{found:?}");
        let me = std::process::id() as i32;
        for (inode, listener) in inodes.iter().zip([near, far]) {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&listener);
            assert_eq!(found[&me].file_of(*inode), Some(fd));
        }
    }

    #[test]
    fn finds_this_process() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&socket)
        ));
        let inode = socket_inode(link.unwrap().to_str().unwrap()).unwrap();
        let found = find(&[inode]);
        assert!(
            found.contains_key(&(std::process::id() as i32)),
            "{found:?}"
        );
        assert!(names(&found, &[inode]).contains("(pid"));
        let me = std::process::id() as i32;
        assert_eq!(find_newest(&[inode])[&me].inodes, [inode]);
        assert_eq!(find_in([me].into_iter(), &[inode])[&me].inodes, [inode]);
        assert!(find_in([].into_iter(), &[inode]).is_empty());
    }
}

//! The holders of locks in a lock file: other runs, by their pids and ids.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, off_t};

use super::file::{LocksOf, file_name, id_of};
use crate::process::cmdline::call_of;
use crate::process::own_unit::is_waited_for_by;
use crate::words::env::RUN_VARIABLE;
use crate::words::file_id::FileId;
use crate::words::ports::PortSet;
use crate::words::run_id::ID_LENGTH as RUN_ID_LENGTH;

/// The bytes of the lock that all runs share: port 0.
pub(super) const SHARED: RangeInclusive<u16> = 0..=0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockHolder {
    /// 0: the run lives in another pid namespace.
    pub(crate) pid: i32,
    /// The run's id; empty if it can't be read.
    pub(crate) run: String,
}

impl LockHolder {
    /// Whether this process is inside that run, and waits for itself if it waits for the run. The environment shows that.
    /// If systemd has started this process from there, the job that the run waits for shows it.
    pub(crate) fn has_started_us(&self) -> bool {
        let is_inside = |runs: String| runs.split(':').any(|id| id == self.run);
        std::env::var(RUN_VARIABLE).is_ok_and(is_inside) || is_waited_for_by(self.pid)
    }
}

impl std::fmt::Display for LockHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.pid <= 0 {
            return write!(f, "a run in another pid namespace");
        }
        write!(f, "pid {}", self.pid)?;
        match call_of(self.pid) {
            Some(call) => write!(f, " ({call})"),
            None => Ok(()),
        }
    }
}

/// The runs that hold locks in a file, at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roll {
    /// `None`: there is no lock file.
    pub(crate) file: Option<FileId>,
    pub(crate) living: Vec<Living>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Living {
    pub(crate) of: LocksOf,
    pub(crate) holder: LockHolder,
    /// The ports that it has locked: those that it gates, and perhaps those between.
    pub(crate) ports: PortSet,
    /// The directory of its lock file.
    pub(crate) directory: PathBuf,
}

/// The runs that hold ports in this network namespace and keep their locks in `directory`, without their
/// ids if the caller may not open the lock file. Not for a process that holds locks itself: it would lose
/// them.
pub(crate) fn roll(of: LocksOf, directory: &Path) -> io::Result<Roll> {
    let path = directory.join(file_name(of)?);
    // Another kind of file may stand in its place, and must not block.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    match OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(&path)
    {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Roll::default()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Roll {
            file: Some(id_of(&std::fs::metadata(&path)?)),
            living: by_run(of, listed_locks(&path)?, directory),
        }),
        opened => roll_of(of, &opened?, directory),
    }
}

/// The ports that runs in this network namespace have locked, as far as that can be seen. Not for a process that has
/// such locks itself.
pub(crate) fn ports_of_runs(directory: &Path) -> PortSet {
    let runs = roll(LocksOf::Runs, directory).unwrap_or_default().living;
    let ports = runs.iter().map(|run| &run.ports);
    ports.fold(PortSet::EMPTY, |all, ports| all.union(ports))
}

pub(super) fn roll_of(of: LocksOf, file: &File, directory: &Path) -> io::Result<Roll> {
    let mut held = Vec::new();
    locks_between(file, 1, off_t::from(u16::MAX), &mut held)?;
    Ok(Roll {
        file: Some(id_of(&file.metadata()?)),
        living: by_run(of, held, directory),
    })
}

/// Puts the locks of each run together.
fn by_run(
    of: LocksOf,
    held: Vec<(LockHolder, RangeInclusive<u16>)>,
    directory: &Path,
) -> Vec<Living> {
    let mut living: Vec<Living> = Vec::new();
    for (holder, range) in held {
        let ports = PortSet::from_ranges([range]);
        match living.iter_mut().find(|run| run.holder == holder) {
            Some(run) => run.ports = run.ports.union(&ports),
            None => living.push(Living {
                of,
                holder,
                ports,
                directory: directory.to_owned(),
            }),
        }
    }
    living
}

/// The kernel names any one of the locks in a range, so the parts left and right of it are asked for in
/// turn.
fn locks_between(
    file: &File,
    first: off_t,
    last: off_t,
    held: &mut Vec<(LockHolder, RangeInclusive<u16>)>,
) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    let Some((holder, start, end)) = lock_in(file, libc::F_WRLCK, first, last)? else {
        return Ok(());
    };
    held.push((holder, start.max(first) as u16..=end.min(last) as u16));
    locks_between(file, first, start - 1, held)?;
    locks_between(file, end + 1, last, held)
}

/// Any lock of another process in the range that one of this kind has to wait for: its holder, its
/// beginning and its end.
pub(super) fn lock_in(
    file: &File,
    kind: i32,
    first: off_t,
    last: off_t,
) -> io::Result<Option<(LockHolder, off_t, off_t)>> {
    let mut asked = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: first,
        l_len: last - first + 1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_GETLK(&mut asked))?;
    if i32::from(asked.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    let holder = LockHolder {
        pid: asked.l_pid,
        run: noted_run(file, asked.l_start as u16).unwrap_or_default(),
    };
    let end = match asked.l_len {
        0 => off_t::MAX - 1, // Up to the end of the file, even if that grows.
        length => asked.l_start + length - 1,
    };
    Ok(Some((holder, asked.l_start, end)))
}

/// The id that the holder of the lock at this port has noted. `None`: it can't be read, or is not
/// there yet. Such a run must not be taken for one with another id.
fn noted_run(file: &File, port: u16) -> Option<String> {
    let mut run = [0; RUN_ID_LENGTH];
    file.read_exact_at(&mut run, note_at(port)).ok()?;
    (!run.contains(&0)).then(|| String::from_utf8_lossy(&run).into_owned())
}

/// The locks of a file as /proc/locks lists them for every user: `1: POSIX ADVISORY WRITE 4711 00:1a:25 80
/// 80`.
fn listed_locks(path: &Path) -> io::Result<Vec<(LockHolder, RangeInclusive<u16>)>> {
    let inode = std::fs::metadata(path)?.ino();
    let locks = std::fs::read_to_string("/proc/locks")?;
    Ok(locks
        .lines()
        .filter_map(|line| listed_lock(line, inode))
        .collect())
}

fn listed_lock(line: &str, inode: u64) -> Option<(LockHolder, RangeInclusive<u16>)> {
    // A process that waits for a lock has a line with an arrow in front.
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, "POSIX", _, "WRITE", pid, file, first, last] = fields[..] else {
        return None;
    };
    let same = file.rsplit(':').next()?.parse() == Ok(inode);
    let holder = LockHolder {
        pid: pid.parse().ok()?,
        run: String::new(),
    };
    let range = first.parse().ok()?..=last.parse().ok()?;
    (same && range != SHARED).then_some((holder, range))
}

/// Behind the bytes that runs lock, the file has room for one id for each port. A run writes its id at the first port
/// of each range that it has locked.
pub(super) fn note_at(port: u16) -> u64 {
    0x1_0000 + u64::from(port) * RUN_ID_LENGTH as u64
}

/// What holds for any text as the kernel's list of locks, or the name of a file.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    const INODE: u64 = 2517;
    for line in text.lines() {
        let held: Vec<_> = listed_lock(line, INODE).into_iter().collect();
        assert!(by_run(LocksOf::Runs, held, Path::new("/run/syngate")).len() <= 1);
        if let Some(file) = FileId::parse(line) {
            assert_eq!(FileId::parse(&file.to_string()), Some(file));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_locks_that_every_user_sees() {
        let line = "3: POSIX  ADVISORY  WRITE 4711 00:1a:2517 80 443";
        let (holder, range) = listed_lock(line, 2517).unwrap();
        assert_eq!((holder.pid, range), (4711, 80..=443));
        for other in [
            "3: POSIX  ADVISORY  WRITE 4711 00:1a:2518 80 443",
            "3: POSIX  ADVISORY  READ 4711 00:1a:2517 80 443",
            "3: -> POSIX  ADVISORY  WRITE 4711 00:1a:2517 80 443",
            "4: FLOCK  ADVISORY  WRITE 4711 00:1a:2517 0 EOF",
            "",
        ] {
            assert_eq!(listed_lock(other, 2517), None, "{other}");
        }
    }

    #[test]
    fn locks_of_one_run_are_shown_together() {
        let holder = |pid| LockHolder {
            pid,
            run: String::new(),
        };
        let held = vec![
            (holder(1), 443..=443),
            (holder(2), 22..=22),
            (holder(1), 80..=80),
        ];
        let living = by_run(LocksOf::Runs, held, Path::new("/run/syngate"));
        let shown: Vec<String> = living.iter().map(|l| l.ports.to_string()).collect();
        assert_eq!(shown, ["80,443", "22"]);
    }
}

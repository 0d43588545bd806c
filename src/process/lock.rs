//! Two runs for one port take turns. The lock is a POSIX record lock on the port's byte of a file that
//! all runs in a network namespace share: the kernel drops it when its holder ends in any way, it tells
//! the holder's pid, and no child inherits it.
//!
//! The last run removes the file. Another run may just have opened it, and would lock nothing that counts.
//! So all runs share a lock on the byte of port 0, which nobody gates: a run removes the file only if it
//! has that byte alone, and a run that gets the byte looks whether the file is still there.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::libc;
use nix::sys::stat::{Mode, mkdirat};

use crate::process::cmdline::call_of;
use crate::process::place::{Place, trusted};
use crate::words::env::LOCK_DIR_VARIABLE;
use crate::words::ports::PortSet;
use crate::words::run_id::ID_LENGTH as RUN_ID_LENGTH;

/// The directory of the lock file, unless the environment names another.
pub(crate) const LOCK_DIR: &str = "/run/syngate";
/// With more ranges than this, a run locks all ports between the first and the last: the kernel needs time
/// for each lock in proportion to those that are held.
const MAX_RANGES: usize = 64;
/// The bytes of the lock that all runs share: port 0.
const SHARED: RangeInclusive<u16> = 0..=0;
/// How long to wait before trying again to take a lock that another run holds.
pub(crate) const RETRY: Duration = Duration::from_millis(10);

/// The locks of one run. Dropping it releases them.
pub(crate) struct Lock {
    file: File,
    ranges: Vec<RangeInclusive<u16>>,
    /// It has the shared lock.
    joined: bool,
    /// How many of the ranges this run holds. All runs take them in the same order, so that two runs never
    /// wait for each other.
    held: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockHolder {
    /// 0: the run lives in another pid namespace.
    pub(crate) pid: i32,
    /// The run's id; empty if it can't be read.
    pub(crate) run: String,
}

impl Lock {
    /// Opens the lock file of this network namespace, and locks nothing yet.
    pub(crate) fn open(ports: &PortSet) -> Result<Lock> {
        let directory = directory_in_use();
        // With a relative path, runs in different directories would not see each other.
        anyhow::ensure!(
            directory.is_absolute(),
            "{LOCK_DIR_VARIABLE}: '{}' is not an absolute path; expected one such as /run/gates",
            directory.display()
        );
        let file = open_in(&directory).with_context(|| {
            format!(
                "the lock directory {} can't be used (set {LOCK_DIR_VARIABLE} to another)",
                directory.display()
            )
        })?;
        Ok(Lock {
            file,
            ranges: coarse(ports),
            joined: false,
            held: 0,
        })
    }

    /// Takes the lock that all runs share. Returns the run that is removing the file just now; `None`: this
    /// run has it.
    fn join(&mut self) -> Result<Option<LockHolder>> {
        while !self.joined {
            match fcntl(
                &self.file,
                FcntlArg::F_SETLK(&record(&SHARED, libc::F_RDLCK)),
            ) {
                Ok(_) if self.file.metadata()?.nlink() > 0 => self.joined = true,
                // Another run has removed it between our opening and our lock.
                Ok(_) => self.file = open_in(&directory_in_use()).context("the lock file")?,
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    if let Some((holder, ..)) = lock_in(&self.file, libc::F_RDLCK, 0, 0)? {
                        return Ok(Some(holder));
                    }
                }
                Err(Errno::EINTR) => (),
                Err(error) => return Err(error).context("the lock file can't be locked"),
            }
        }
        Ok(None)
    }

    /// Removes the file at the end of a run, unless another run uses it, or it is `needed`: a gate that a dead
    /// run has left names it, and it tells that the run is dead. Where that fails, a small file stays.
    pub(crate) fn remove(self, needed: impl FnOnce() -> bool) {
        let alone = fcntl(
            &self.file,
            FcntlArg::F_SETLK(&record(&SHARED, libc::F_WRLCK)),
        )
        .is_ok();
        let file = self.file.metadata().ok().map(|file| FileId::of(&file));
        let living = || self.roll().is_ok_and(|roll| roll.living.is_empty());
        if alone
            && file == FileId::in_use()
            && living()
            && !needed()
            && let Ok(name) = file_name()
        {
            let _ = std::fs::remove_file(directory_in_use().join(name));
        }
    }

    /// Takes the next locks, in ascending order. Returns the holder of the first one that is taken;
    /// `None`: this run holds them all.
    pub(crate) fn try_take(&mut self, run: &str) -> Result<Option<LockHolder>> {
        if let Some(holder) = self.join()? {
            return Ok(Some(holder));
        }
        while let Some(range) = self.ranges.get(self.held) {
            match fcntl(&self.file, FcntlArg::F_SETLK(&record(range, libc::F_WRLCK))) {
                Ok(_) => {
                    // For other runs, which find the range locked.
                    self.file
                        .write_all_at(run.as_bytes(), note_at(*range.start()))
                        .map_err(not_written)?;
                    self.held += 1;
                }
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    if let Some(holder) = self.holder(range)? {
                        return Ok(Some(holder));
                    }
                }
                Err(Errno::EINTR) => (),
                Err(error) => return Err(error).context("the lock file can't be locked"),
            }
        }
        Ok(None)
    }

    /// The other runs that hold any of these ports.
    pub(crate) fn holders(&self) -> Result<Vec<LockHolder>> {
        let holders = self.ranges.iter().map(|range| self.holder(range));
        holders.filter_map(Result::transpose).collect()
    }

    /// The other runs that hold any ports in the same file.
    pub(crate) fn roll(&self) -> io::Result<Roll> {
        roll_of(&self.file, &directory_in_use())
    }

    /// A holder of a part of the range; `None`: the lock has just been released.
    fn holder(&self, range: &RangeInclusive<u16>) -> Result<Option<LockHolder>> {
        let (first, last) = (i64::from(*range.start()), i64::from(*range.end()));
        let lock = lock_in(&self.file, libc::F_WRLCK, first, last)?;
        Ok(lock.map(|(holder, _, _)| holder))
    }
}

fn not_written(error: io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::FileTooLarge => {
            " (it is up to 1 MiB long: raise the limit of file sizes, ulimit -f or LimitFSIZE=)"
        }
        _ => "",
    };
    anyhow::anyhow!("the lock file can't be written: {error}{hint}")
}

/// Identifies a lock file: in another mount namespace the same path can be another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(file: &Metadata) -> FileId {
        FileId {
            device: file.dev(),
            inode: file.ino(),
        }
    }

    /// The lock file that is in use here. It is not opened, since closing it would release the locks of this
    /// process (fcntl(2)).
    pub(crate) fn in_use() -> Option<FileId> {
        let file = directory_in_use().join(file_name().ok()?);
        Some(FileId::of(&std::fs::metadata(file).ok()?))
    }

    pub(crate) fn parse(text: &str) -> Option<FileId> {
        let (device, inode) = text.split_once(':')?;
        Some(FileId {
            device: device.parse().ok()?,
            inode: inode.parse().ok()?,
        })
    }
}

impl std::fmt::Display for FileId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.device, self.inode)
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
    pub(crate) holder: LockHolder,
    /// The ports that it has locked: those that it gates, and perhaps those between.
    pub(crate) ports: PortSet,
    /// The directory of its lock file.
    pub(crate) directory: PathBuf,
}

/// The runs that hold ports in this network namespace and keep their locks in `directory`, without their
/// ids if the caller may not open the lock file. Not for a process that holds locks itself: it would lose
/// them.
pub(crate) fn roll(directory: &Path) -> io::Result<Roll> {
    let path = directory.join(file_name()?);
    // Another kind of file may stand in its place, and must not block.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    match OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(&path)
    {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Roll::default()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Roll {
            file: Some(FileId::of(&std::fs::metadata(&path)?)),
            living: by_run(listed_locks(&path)?, directory),
        }),
        opened => roll_of(&opened?, directory),
    }
}

fn roll_of(file: &File, directory: &Path) -> io::Result<Roll> {
    let mut held = Vec::new();
    locks_between(file, 1, i64::from(u16::MAX), &mut held)?;
    Ok(Roll {
        file: Some(FileId::of(&file.metadata()?)),
        living: by_run(held, directory),
    })
}

/// Puts the locks of each run together.
fn by_run(held: Vec<(LockHolder, RangeInclusive<u16>)>, directory: &Path) -> Vec<Living> {
    let mut living: Vec<Living> = Vec::new();
    for (holder, range) in held {
        let ports = PortSet::from_ranges([range]);
        match living.iter_mut().find(|run| run.holder == holder) {
            Some(run) => run.ports = run.ports.union(&ports),
            None => living.push(Living {
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
    first: i64,
    last: i64,
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
fn lock_in(
    file: &File,
    kind: i32,
    first: i64,
    last: i64,
) -> io::Result<Option<(LockHolder, i64, i64)>> {
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
        0 => i64::MAX - 1, // Up to the end of the file, even if that grows.
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

/// Behind the bytes that are locked, the file has room for a run's id for each port: for the run that has
/// locked a range that begins with that port.
fn note_at(port: u16) -> u64 {
    0x1_0000 + u64::from(port) * RUN_ID_LENGTH as u64
}

fn coarse(ports: &PortSet) -> Vec<RangeInclusive<u16>> {
    match ports.ranges() {
        [first, .., last] if ports.ranges().len() > MAX_RANGES => {
            vec![*first.start()..=*last.end()]
        }
        ranges => ranges.to_vec(),
    }
}

fn record(range: &RangeInclusive<u16>, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: i64::from(*range.start()),
        l_len: range.len() as i64,
        l_pid: 0,
    }
}

/// The directory of the lock file: the default, or the one that the environment names.
pub(crate) fn directory_in_use() -> PathBuf {
    std::env::var_os(LOCK_DIR_VARIABLE)
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from(LOCK_DIR), PathBuf::from)
}

/// That directory, if it is not the default. A gate's comment names it, so that others can find the locks.
pub(crate) fn unusual_directory() -> Option<PathBuf> {
    let directory = std::path::absolute(directory_in_use()).ok()?;
    (directory != Path::new(LOCK_DIR)).then_some(directory)
}

/// The file has the name of the network namespace, because several may share the directory.
fn file_name() -> io::Result<String> {
    let namespace = std::fs::metadata("/proc/self/ns/net")?.ino();
    Ok(format!("net-{namespace}.lock"))
}

/// Opens the lock file, and makes what is missing. Refuses a directory that other users can change, or
/// lead elsewhere: runs would not take turns then, and would take each other for dead.
fn open_in(directory: &Path) -> io::Result<File> {
    let mut place = Place::find(directory)?;
    match mkdirat(&place.folder, &*place.name, Mode::from_bits_truncate(0o755)) {
        // In a sticky folder, as /tmp, nobody else can take its name now.
        Ok(()) => place = Place::find(directory)?,
        Err(Errno::EEXIST) => (),
        Err(error) => return Err(error.into()),
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = openat(
        &place.folder,
        &*place.name,
        flags | OFlag::O_DIRECTORY,
        Mode::empty(),
    )?;
    let directory = File::from(directory);
    ours_alone(&directory.metadata()?).map_err(io::Error::other)?;
    if let Some(why) = place.exposed {
        return Err(io::Error::other(why));
    }
    let flags = flags | OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NONBLOCK;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let name = file_name()?;
    let wrong = |why: &str| io::Error::other(format!("{name} {why}"));
    let file = match openat(&directory, &*name, flags, mode) {
        Err(Errno::ELOOP) => return Err(wrong("is a symbolic link")),
        opened => File::from(opened?),
    };
    a_lock_file(&file.metadata()?).map_err(|why| wrong(&why))?;
    Ok(file)
}

/// Whether only root and this user can change the directory. The error says who else can, and what helps.
fn ours_alone(directory: &Metadata) -> Result<(), String> {
    let (owner, mode) = (directory.uid(), directory.mode() & 0o7777);
    if !trusted(owner) {
        return Err(format!(
            "it belongs to user {owner}, who could replace what is in it"
        ));
    }
    if mode & 0o022 != 0 {
        return Err(format!(
            "others may write to it (mode {mode:o}): chmod go-w"
        ));
    }
    Ok(())
}

/// Whether a run can have made this file, which is about to be written to. The error says what it is
/// instead.
fn a_lock_file(file: &Metadata) -> Result<(), String> {
    let owner = file.uid();
    if !file.is_file() {
        return Err("is no regular file".to_owned());
    }
    if !trusted(owner) {
        return Err(format!("belongs to user {owner}"));
    }
    if file.nlink() > 1 {
        return Err("has another name, too (a hard link)".to_owned());
    }
    Ok(())
}

/// What holds for any text as the kernel's list of locks, or the name of a file.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    const INODE: u64 = 2517;
    for line in text.lines() {
        let held: Vec<_> = listed_lock(line, INODE).into_iter().collect();
        assert!(by_run(held, Path::new(LOCK_DIR)).len() <= 1);
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
        let living = by_run(held, Path::new("/run/syngate"));
        let shown: Vec<String> = living.iter().map(|l| l.ports.to_string()).collect();
        assert_eq!(shown, ["80,443", "22"]);
    }
}

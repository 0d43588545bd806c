//! Two runs for one port take turns. The lock is a POSIX record lock on the port's byte of a file
//! that all runs in a network namespace share: the kernel drops it when its holder ends, in
//! whatever way; it tells the holder's pid; and no child inherits it.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::ports::PortSet;

/// Where the lock file is, on hosts without `/run` or where it is read-only.
pub const LOCK_DIR_VARIABLE: &str = "SYNGATE_LOCK_DIR";
const LOCK_DIR: &str = "/run/syngate";
/// With more ranges than this all ports between the first and the last are locked: one lock takes
/// time in proportion to those that are held.
const MAX_RANGES: usize = 64;
/// How often a lock that another run holds is tried again.
pub const RETRY: Duration = Duration::from_millis(10);

/// The locks of one run. Dropping it sets them free.
pub struct Lock {
    file: File,
    ranges: Vec<RangeInclusive<u16>>,
    /// How many of the ranges are ours, in their order: two runs never wait for each other.
    held: usize,
}

/// Who is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its pid; 0 if it lives in another pid namespace.
    pub pid: i32,
    /// The id of its run.
    pub run: String,
}

impl Lock {
    /// Opens the lock file of this network namespace; nothing is locked yet.
    ///
    /// # Errors
    /// The directory can't be made or used.
    pub fn open(ports: &PortSet) -> Result<Lock> {
        let directory = std::env::var_os(LOCK_DIR_VARIABLE)
            .filter(|dir| !dir.is_empty())
            .map_or_else(|| PathBuf::from(LOCK_DIR), PathBuf::from);
        let file = open_in(&directory).with_context(|| {
            format!(
                "the lock directory {} can't be used (set {LOCK_DIR_VARIABLE} to another)",
                directory.display()
            )
        })?;
        Ok(Lock {
            file,
            ranges: coarse(ports),
            held: 0,
        })
    }

    /// Takes the next locks, in ascending order. `None`: all are held.
    ///
    /// # Errors
    /// The file system has no locks.
    pub fn try_take(&mut self, run: &str) -> Result<Option<Holder>> {
        while let Some(range) = self.ranges.get(self.held) {
            match fcntl(&self.file, FcntlArg::F_SETLK(&record(range, libc::F_WRLCK))) {
                Ok(_) => {
                    // Readable for whoever finds this range locked.
                    self.file
                        .write_all_at(run.as_bytes(), note_at(*range.start()))?;
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

    /// Who holds any of the ports now.
    ///
    /// # Errors
    /// The file system has no locks.
    pub fn holders(&self) -> Result<Vec<Holder>> {
        let holders = self.ranges.iter().map(|range| self.holder(range));
        holders.filter_map(Result::transpose).collect()
    }

    /// Who holds a part of the range; `None` if it has just been set free.
    fn holder(&self, range: &RangeInclusive<u16>) -> Result<Option<Holder>> {
        let mut asked = record(range, libc::F_WRLCK);
        fcntl(&self.file, FcntlArg::F_GETLK(&mut asked))?;
        if i32::from(asked.l_type) == libc::F_UNLCK {
            return Ok(None);
        }
        let mut run = [0; RUN_ID_LENGTH];
        let _ = self
            .file
            .read_exact_at(&mut run, note_at(asked.l_start as u16));
        Ok(Some(Holder {
            pid: asked.l_pid,
            run: String::from_utf8_lossy(&run).into_owned(),
        }))
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.pid <= 0 {
            return write!(f, "a run in another pid namespace");
        }
        write!(f, "pid {}", self.pid)?;
        let Ok(cmdline) = std::fs::read(format!("/proc/{}/cmdline", self.pid)) else {
            return Ok(());
        };
        let args: Vec<std::ffi::OsString> = cmdline
            .split(|b| *b == 0)
            .filter(|arg| !arg.is_empty())
            .map(|arg| std::os::unix::ffi::OsStringExt::from_vec(arg.to_vec()))
            .collect();
        write!(f, " ({})", crate::plan::command_line(&args))
    }
}

/// The bytes of a run's id.
const RUN_ID_LENGTH: usize = crate::run::ID_LENGTH;

/// Behind the bytes that are locked, each port has room for the id of the run that locked a range
/// that begins with it.
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

/// The file is named after the network namespace, because the directory may be shared by several.
fn open_in(directory: &Path) -> io::Result<File> {
    let namespace = std::fs::metadata("/proc/self/ns/net")?.ino();
    match std::fs::DirBuilder::new().mode(0o755).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => (),
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(directory.join(format!("net-{namespace}.lock")))
}

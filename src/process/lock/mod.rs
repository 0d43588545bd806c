//! Two runs for one port take turns. All runs in a network namespace share a file, and the lock is a POSIX record
//! lock on the port's byte of that file. The kernel drops it when its holder ends in any way. It tells the holder's
//! pid, and no child inherits it.
//!
//! The last run removes the file. Another run may just have opened it, and would lock nothing that counts.
//! So all runs share a lock on the byte of port 0, which no run gates. A run removes the file only if no other run
//! has that byte. A run that gets the byte looks whether the file is still there.

mod file;
mod roll;

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use self::file::{file_name, id_of, open_in};
use self::roll::{SHARED, lock_in, note_at, roll_of};
use crate::words::env::LOCK_DIR_VARIABLE;
use crate::words::ports::PortSet;

pub(crate) use self::file::{
    LOCK_DIR, LocksOf, beside, directory_in_use, lock_file, unusual_directory,
};
#[cfg(any(fuzzing, test))]
pub(crate) use self::roll::withstand;
pub(crate) use self::roll::{Living, LockHolder, Roll, ports_of_runs, roll};

/// With more ranges than this, a run locks all ports between the first and the last, because each lock takes the
/// kernel the longer the more locks are held.
const MAX_RANGES: usize = 64;
/// How long to wait before trying again to take a lock that another run holds.
pub(crate) const RETRY: Duration = Duration::from_millis(10);

/// The locks of one run. Dropping it releases them.
pub(crate) struct Lock {
    of: LocksOf,
    file: File,
    ranges: Vec<RangeInclusive<u16>>,
    /// The holder has the shared lock.
    joined: bool,
    /// How many of the ranges this run holds. All runs take them in the same order, so that two runs never
    /// wait for each other.
    held: usize,
}

impl Lock {
    /// Opens the lock file of this network namespace, and locks nothing yet.
    pub(crate) fn open(of: LocksOf, ports: &PortSet) -> Result<Lock> {
        let directory = directory_in_use();
        // With a relative path, runs in different directories would not see each other.
        anyhow::ensure!(
            directory.is_absolute(),
            "{LOCK_DIR_VARIABLE}: '{}' is not an absolute path; expected one such as /run/gates",
            directory.display()
        );
        let file = open_in(&directory, of).with_context(|| {
            format!(
                "the lock directory {} can't be used (set {LOCK_DIR_VARIABLE} to another)",
                directory.display()
            )
        })?;
        Ok(Lock {
            of,
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
                Ok(_) => {
                    self.file = open_in(&directory_in_use(), self.of).context("the lock file")?
                }
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

    /// Removes the file at the end of a run, unless another run uses it, or it is `needed`. It is needed if a dead
    /// run has left a gate that names it: the file tells that the run is dead. Where that fails, a small file stays.
    pub(crate) fn remove(self, needed: impl FnOnce() -> bool) {
        let alone = fcntl(
            &self.file,
            FcntlArg::F_SETLK(&record(&SHARED, libc::F_WRLCK)),
        )
        .is_ok();
        let file = self.file.metadata().ok().map(|file| id_of(&file));
        let living = || self.roll().is_ok_and(|roll| roll.living.is_empty());
        if alone && file == lock_file(self.of) && living() && !needed() {
            if let Ok(name) = file_name(self.of) {
                let _ = std::fs::remove_file(directory_in_use().join(name));
            }
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

    /// Takes the lock of one more port. Returns who has it; `None`: this one.
    pub(crate) fn try_take_one(&mut self, port: u16, run: &str) -> Result<Option<LockHolder>> {
        let before = self.ranges.len();
        self.ranges.push(port..=port);
        let taken = self.try_take(run);
        if !matches!(taken, Ok(None)) {
            self.ranges.truncate(before);
        }
        taken
    }

    /// Gives back those that were taken one by one, but for these.
    pub(crate) fn give_back_but(&mut self, needed: &PortSet) {
        self.ranges.retain(|range| {
            // Where it can't be given back, it is another process's no sooner than after this one's end.
            needed.contains(*range.start())
                || fcntl(&self.file, FcntlArg::F_SETLK(&record(range, libc::F_UNLCK))).is_err()
        });
        self.held = self.ranges.len();
    }

    /// The other runs that hold any of these ports.
    pub(crate) fn holders(&self) -> Result<Vec<LockHolder>> {
        let holders = self.ranges.iter().map(|range| self.holder(range));
        holders.filter_map(Result::transpose).collect()
    }

    /// The other runs that hold any ports in the same file.
    pub(crate) fn roll(&self) -> io::Result<Roll> {
        roll_of(self.of, &self.file, &directory_in_use())
    }

    /// A holder of a part of the range; `None`: the lock has just been released.
    fn holder(&self, range: &RangeInclusive<u16>) -> Result<Option<LockHolder>> {
        let [first, last] = [*range.start(), *range.end()].map(libc::off_t::from);
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
        l_start: libc::off_t::from(*range.start()),
        l_len: range.len() as libc::off_t,
        l_pid: 0,
    }
}

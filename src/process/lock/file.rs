//! The lock file: where it is, and that nobody else could have put it there.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};

use crate::process::place::{Place, ours_alone, trusted};
use crate::words::env::LOCK_DIR_VARIABLE;
use crate::words::file_id::FileId;

/// The directory of the lock file, unless the environment names another.
pub(crate) const LOCK_DIR: &str = "/run/syngate";

/// The kind of run whose locks are in one file. A keep has its ports beside runs, so it has another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LocksOf {
    Runs,
    Keeps,
}

/// Which file that is.
pub(super) fn id_of(file: &Metadata) -> FileId {
    FileId {
        device: file.dev(),
        inode: file.ino(),
    }
}

/// The lock file that is in use here. It is not opened, since closing it would release the locks of this
/// process (fcntl(2)).
pub(crate) fn lock_file(of: LocksOf) -> Option<FileId> {
    let file = directory_in_use().join(file_name(of).ok()?);
    Some(id_of(&std::fs::metadata(file).ok()?))
}

/// The directory of the lock file: the default, or the one that the environment names.
pub(crate) fn directory_in_use() -> PathBuf {
    std::env::var_os(LOCK_DIR_VARIABLE)
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from(LOCK_DIR), PathBuf::from)
}

/// The lock directory, if it is not the default. A gate's comment names it, so that others can find the locks.
pub(crate) fn unusual_directory() -> Option<PathBuf> {
    let directory = std::path::absolute(directory_in_use()).ok()?;
    (directory != Path::new(LOCK_DIR)).then_some(directory)
}

/// Where a run in this network namespace puts another file, beside the lock file. Only for a process that has
/// opened the lock file: that looks whether the directory is safe.
pub(crate) fn beside(suffix: &str) -> io::Result<PathBuf> {
    Ok(directory_in_use().join(format!("{}.{suffix}", stem()?)))
}

/// The file has the name of the network namespace, because several may share the directory.
pub(super) fn file_name(of: LocksOf) -> io::Result<String> {
    let stem = stem()?;
    Ok(match of {
        LocksOf::Runs => format!("{stem}.lock"),
        LocksOf::Keeps => format!("{stem}.keeps.lock"),
    })
}

fn stem() -> io::Result<String> {
    let namespace = std::fs::metadata("/proc/self/ns/net")?.ino();
    Ok(format!("net-{namespace}"))
}

/// Opens the lock file, and makes what is missing. Refuses a directory that other users can change, or
/// lead elsewhere: runs would not take turns then, and would take each other for dead.
pub(super) fn open_in(directory: &Path, of: LocksOf) -> io::Result<File> {
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
    let name = file_name(of)?;
    let wrong = |why: &str| io::Error::other(format!("{name} {why}"));
    let file = match openat(&directory, &*name, flags, mode) {
        Err(Errno::ELOOP) => return Err(wrong("is a symbolic link")),
        opened => File::from(opened?),
    };
    a_lock_file(&file.metadata()?).map_err(|why| wrong(&why))?;
    Ok(file)
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

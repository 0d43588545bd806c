//! The report's file.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::libc;
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, unlinkat};

use crate::process::lock::directory_in_use;
use crate::process::place::Place;
use crate::words::run_id::new_id;

/// The report is written at the end of the run, so this checks at the beginning whether that is
/// possible. It changes nothing; see [`try_report_file`].
pub(crate) fn check_report_file(file: &Path) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("--report-file: '{}': {why}", file.display()));
    if file.is_dir() {
        return wrong("a directory; name a file");
    }
    match Place::find(file) {
        Err(error) if error.kind() == io::ErrorKind::Other => return wrong(&error.to_string()),
        _ => (),
    }
    // Writing replaces a regular file, so the directory has to be writable.
    let replaced = !file.exists() || file.is_file();
    let target = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let directory = match target.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return wrong("not a file"),
    };
    if !directory.is_dir() {
        // The directory under /run disappears at a reboot. The lock creates it again.
        return match directory == directory_in_use() {
            true => Ok(()),
            false => wrong("its directory does not exist; make it first"),
        };
    }
    let written = if replaced { directory } else { &target };
    match faccessat(AT_FDCWD, written, AccessFlags::W_OK, AtFlags::AT_EACCESS) {
        Ok(()) => Ok(()),
        Err(error) => wrong(&format!(
            "{} can't be written ({})",
            written.display(),
            error.desc()
        )),
    }
}

/// Makes the draft of a report and removes it: some file systems, such as /proc, take no new files, and
/// nothing but a try shows that. What is not there yet, such as the directory of the locks, is not tried.
/// The name is another one than the report's draft will have, so that nobody learns that one. Nothing is
/// opened that is there: the reader of a pipe would see its end.
pub(crate) fn try_report_file(file: &Path) -> Result<(), String> {
    let Ok(place) = Place::find(file) else {
        return Ok(());
    };
    let there = fstatat(&place.folder, &*place.name, AtFlags::AT_SYMLINK_NOFOLLOW);
    let replaced = match there {
        Ok(there) => there.st_mode & libc::S_IFMT == libc::S_IFREG,
        Err(error) => error == Errno::ENOENT,
    };
    if place.open_file || !replaced {
        return Ok(());
    }
    let trial = new_id();
    let made = draft(&place, &trial).map(drop);
    if made.is_ok() {
        let _ = unlinkat(
            &place.folder,
            &*draft_name(&trial),
            UnlinkatFlags::NoRemoveDir,
        );
    }
    let why = |error: Errno| format!("--report-file: '{}': {}", file.display(), error.desc());
    made.map_err(why)
}

/// Writes the report of run `run` to `file`. A regular file is replaced in one step, so that a reader
/// finds the old report or the new one, also after a crash. A symbolic link that another user can have
/// made is not followed. A pipe, a terminal, or an open file by its number (/dev/stderr) is written to.
///
/// # Errors
/// Those of the file system.
pub(crate) fn write(json: &[u8], run: &str, file: &Path) -> io::Result<()> {
    match file.to_str() {
        // Opening a regular file again would give it an offset of its own.
        Some("/dev/stdout") => return io::stdout().write_all(json),
        Some("/dev/stderr") => return io::stderr().write_all(json),
        _ => (),
    }
    let place = Place::find(file)?;
    match open_unless_regular(&place) {
        Ok(Some(mut opened)) => opened.write_all(json),
        Ok(None) | Err(Errno::ENOENT) => replace(&place, json, run),
        Err(error) => Err(error.into()),
    }
}

/// Opens what is written to, without waiting for a reader of a pipe, which may never come. `None`: it is a
/// regular file.
pub(super) fn open_unless_regular(place: &Place) -> Result<Option<File>, Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let flags = flags | OFlag::O_NOCTTY;
    // The file belongs to the process that opened it.
    if place.open_file {
        return openat(&place.folder, &*place.name, flags, Mode::empty()).map(|fd| Some(fd.into()));
    }
    let kind = fstatat(&place.folder, &*place.name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode;
    if kind & libc::S_IFMT == libc::S_IFREG {
        return Ok(None);
    }
    let opened = openat(
        &place.folder,
        &*place.name,
        flags | OFlag::O_NOFOLLOW,
        Mode::empty(),
    )?;
    // Another user may have put a name of some other file there.
    let kind = fstat(&opened)?.st_mode;
    let regular = kind & libc::S_IFMT == libc::S_IFREG;
    Ok((!regular).then(|| opened.into()))
}

fn draft_name(run: &str) -> String {
    format!(".syngate-{run}")
}

/// A new file beside the report.
fn draft(place: &Place, run: &str) -> Result<File, Errno> {
    let new = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o644);
    openat(&place.folder, &*draft_name(run), new, mode).map(File::from)
}

fn replace(place: &Place, json: &[u8], run: &str) -> io::Result<()> {
    let mut opened = draft(place, run)?;
    let draft = draft_name(run);
    let written = opened.write_all(json).and_then(|()| {
        opened.sync_all()?; // Before the rename: a crash between the two would leave an empty file.
        Ok(renameat(
            &place.folder,
            &*draft,
            &place.folder,
            &*place.name,
        )?)
    });
    if written.is_err() {
        let _ = unlinkat(&place.folder, &*draft, UnlinkatFlags::NoRemoveDir);
    }
    written
}

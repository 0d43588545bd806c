//! The report's file.

use std::fs::Metadata;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::unistd::{AccessFlags, faccessat, geteuid};

use crate::process::lock::directory_in_use;

/// The report is written at the end of the run, so this checks at the beginning whether that is
/// possible.
pub(crate) fn check_report_file(file: &Path) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("--report-file: '{}': {why}", file.display()));
    if file.is_dir() {
        return wrong("a directory; name a file");
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

/// Writes the report of run `run` to `file`. A regular file is replaced in one step, so that no
/// reader finds half a report. Through a symbolic link the target is replaced, unless another user
/// has made the link. A pipe, a terminal, or an open file by its number (/dev/stderr) is written
/// to.
///
/// # Errors
/// Those of the file system.
pub(crate) fn write(json: &[u8], run: &str, file: &Path) -> io::Result<()> {
    if is_descriptor(file) {
        return match file.to_str() {
            // Opening a regular file again would give it an offset of its own.
            Some("/dev/stdout") => io::stdout().write_all(json),
            Some("/dev/stderr") => io::stderr().write_all(json),
            _ => write_to(file, json, 0),
        };
    }
    match std::fs::symlink_metadata(file) {
        Ok(link) if link.is_symlink() => write_through(file, &link, json, run),
        Ok(meta) if !meta.is_file() => write_to(file, json, libc::O_NOFOLLOW),
        _ => replace(file, json, run),
    }
}

fn write_through(file: &Path, link: &Metadata, json: &[u8], run: &str) -> io::Result<()> {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = std::fs::metadata(folder.unwrap_or(Path::new(".")))?;
    if may_mislead(link, &folder) {
        let (owner, why) = (link.uid(), "in a folder that everybody may write to");
        return Err(io::Error::other(format!(
            "a symbolic link of user {owner}'s {why} is not followed"
        )));
    }
    match std::fs::metadata(file) {
        Ok(meta) if meta.is_file() => replace(&file.canonicalize()?, json, run),
        Ok(_) => write_to(file, json, 0),
        // The file does not exist yet.
        Err(_) => std::fs::write(file, json),
    }
}

fn replace(file: &Path, json: &[u8], run: &str) -> io::Result<()> {
    let draft = file.with_file_name(format!(".syngate-{run}"));
    let mut opened = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&draft)?;
    let written = opened
        .write_all(json)
        .and_then(|()| std::fs::rename(&draft, file));
    if written.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    written
}

/// Whether another user has made the link in a world-writable directory: the rule of
/// fs.protected_symlinks (proc(5)), which is not in force everywhere.
fn may_mislead(link: &Metadata, folder: &Metadata) -> bool {
    const FOR_ALL: u32 = libc::S_ISVTX | libc::S_IWOTH;
    let trusted = link.uid() == geteuid().as_raw() || link.uid() == folder.uid();
    folder.mode() & FOR_ALL == FOR_ALL && !trusted
}

/// Whether the path names an open file descriptor of this process. The file belongs to the process
/// that opened it.
fn is_descriptor(file: &Path) -> bool {
    [
        "/dev/fd",
        "/dev/stdin",
        "/dev/stdout",
        "/dev/stderr",
        "/proc",
    ]
    .iter()
    .any(|place| file.starts_with(place))
}

/// Does not wait for a reader of a pipe, which may never come.
fn write_to(file: &Path, json: &[u8], flags: libc::c_int) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).custom_flags(libc::O_NONBLOCK | flags);
    options.open(file)?.write_all(json)
}

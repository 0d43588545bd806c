//! A file to which reports are added, one a line, while the process goes on.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, absolute};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::file::{check_report_file, open_unless_regular, try_report_file};
use crate::process::place::{Place, trusted};
use crate::tell::remote::on_the_way;

/// Whether lines can be added to the file, as far as that can be told without a change.
///
/// # Errors
/// Why not, naming the option.
pub(crate) fn check(file: &Path) -> Result<(), String> {
    let wrong = |why: String| format!("--report-file: '{}': {why}", file.display());
    let mount = absolute(file).ok().and_then(|path| on_the_way(&path));
    if let Some(mount) = mount {
        let mount = mount.display();
        let why = format!("{mount} is on a server, which may be gone; name a file of this host");
        return Err(wrong(why));
    }
    match Place::find(file) {
        Ok(place) if place.open_file || file.is_file() => {
            let opened = open(&place, OFlag::empty());
            opened.map(drop).map_err(|error| wrong(error.to_string()))
        }
        _ => check_report_file(file).and_then(|()| try_report_file(file)),
    }
}

/// Adds a line, and waits for nobody: not for the reader of a pipe, nor for the disk. The file is opened each
/// time, so it may be renamed or cut meanwhile.
///
/// # Errors
/// Those of the file system. Of the line, a file has nothing then, a pipe perhaps a part.
pub(crate) fn append(line: &[u8], file: &Path) -> io::Result<()> {
    let mut opened = open(&Place::find(file)?, OFlag::O_CREAT)?;
    match opened.metadata()?.is_file() {
        true => add(&opened, line),
        false => opened.write_all(line),
    }
}

/// `more`: flags for a regular file.
fn open(place: &Place, more: OFlag) -> io::Result<File> {
    match open_unless_regular(place) {
        Ok(Some(opened)) => Ok(opened),
        Ok(None) | Err(Errno::ENOENT) => open_regular(place, more),
        Err(error) => Err(error.into()),
    }
}

fn open_regular(place: &Place, more: OFlag) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let flags = flags | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW | more;
    let mode = Mode::from_bits_truncate(0o644);
    let opened = File::from(openat(&place.folder, &*place.name, flags, mode)?);
    let what = opened.metadata()?;
    let wrong = |why: String| Err(io::Error::other(format!("it is not written to, as {why}")));
    match &place.exposed {
        Some(why) if !trusted(what.uid()) => wrong(why.clone()),
        // In a folder as /tmp, another user can have given it to a file that matters.
        _ if what.nlink() > 1 => wrong("it has another name, too".to_owned()),
        _ => Ok(opened),
    }
}

/// A full disk takes a part of a line; the next line would continue it.
fn add(mut file: &File, line: &[u8]) -> io::Result<()> {
    let before = file.metadata()?.len();
    let written = file.write(line)?;
    if written == line.len() {
        return Ok(());
    }
    if file.metadata()?.len() == before + written as u64 {
        file.set_len(before)?;
    }
    Err(Errno::ENOSPC.into())
}

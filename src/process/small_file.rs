//! Small files that other users may have made. To open a FIFO waits for a writer, to open a device may do something, and
//! a link leads to any of them. So these are opened only once a look has shown a regular file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::libc::O_NONBLOCK;
use nix::sys::stat::Mode;

/// Opens the regular file to which the path leads, for reading.
///
/// # Errors
/// The file is not there, is no regular file, or can't be opened.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let there = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    reopened(&there.into())
}

/// Opens what was opened without access (O_PATH).
///
/// # Errors
/// The file is no regular file, or can't be opened.
pub(super) fn reopened(there: &File) -> io::Result<File> {
    if !there.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", there.as_raw_fd()))
}

/// The beginning of a file, as text.
///
/// # Errors
/// The file can't be read.
pub(crate) fn beginning(file: File, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn regular_files_alone_are_opened() {
        let folder = std::env::temp_dir().join(format!("syngate-small-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let (file, fifo, link) = (
            folder.join("file"),
            folder.join("fifo"),
            folder.join("link"),
        );
        std::fs::write(&file, "0123456789").unwrap();
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            let opened = open_regular(path).unwrap();
            assert_eq!(beginning(opened, 4).unwrap(), "0123");
        }
        let no = [fifo, "/dev/zero".into(), folder.clone()];
        assert!(no.iter().all(|path| open_regular(path).is_err()));
        std::fs::remove_dir_all(folder).unwrap();
    }
}

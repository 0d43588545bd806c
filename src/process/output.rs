//! What a program prints, kept in memory for somebody who may want to read it.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

#[derive(Debug)]
pub(crate) struct Output(File);

impl Output {
    pub(crate) fn new() -> Result<Output, Errno> {
        let file = memfd_create(c"output", MFdFlags::MFD_CLOEXEC)?;
        Ok(Output(file.into()))
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// All that was printed so far.
    pub(crate) fn text(&self) -> String {
        let mut bytes = Vec::new();
        // By a file description of its own: where it reads does not change where the program writes.
        let again = File::open(format!("/proc/self/fd/{}", self.fd()));
        let _ = again.and_then(|mut file| file.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

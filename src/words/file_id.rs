//! Which file something is. Its names do not matter.

use std::fmt;

/// Identifies a lock file: in another mount namespace the same path can be another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl FileId {
    pub(crate) fn parse(text: &str) -> Option<FileId> {
        let (device, inode) = text.split_once(':')?;
        Some(FileId {
            device: device.parse().ok()?,
            inode: inode.parse().ok()?,
        })
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.device, self.inode)
    }
}

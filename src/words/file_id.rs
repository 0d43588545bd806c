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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_it_writes() {
        let file = FileId {
            device: 64_768,
            inode: 12,
        };
        assert_eq!(file.to_string(), "64768:12");
        assert_eq!(FileId::parse("64768:12"), Some(file));
        for other in ["", "12", "12:", "x:12"] {
            assert_eq!(FileId::parse(other), None, "{other}");
        }
    }
}

//! Whose a socket is, by the open files of all processes that /proc shows.

use std::{
    fs::{self, DirEntry},
    path::Path,
};

/// Whether any process but syngate and its guards has the socket. A waiting room is a listener that nobody
/// else has, and often nobody at all: it lies in the queue of another socket.
pub fn has_service(inode: u32) -> bool {
    let socket = format!("socket:[{inode}]");
    entries(Path::new("/proc"))
        .filter(|process| is_number(process) && has(&process.path(), &socket))
        .any(|process| !is_gate(&process.path()))
}

fn has(process: &Path, socket: &str) -> bool {
    entries(&process.join("fd"))
        .any(|file| fs::read_link(file.path()).is_ok_and(|target| target == Path::new(socket)))
}

fn is_gate(process: &Path) -> bool {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    name.starts_with("syngate") || name.starts_with("gate-")
}

fn is_number(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
}

/// None of a process that has ended meanwhile.
fn entries(folder: &Path) -> impl Iterator<Item = DirEntry> {
    fs::read_dir(folder).into_iter().flatten().flatten()
}

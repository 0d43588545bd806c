//! Memory and files of a process that is traced.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
};

use anyhow::Result;
use nix::unistd::Pid;

/// No more is read at a time.
const MOST: u64 = 64 * 1024;

pub fn read(pid: Pid, at: u64, length: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length.min(MOST))?];
    let mut memory = File::open(format!("/proc/{pid}/mem"))?;
    memory.seek(SeekFrom::Start(at))?;
    memory.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub fn write(pid: Pid, at: u64, bytes: &[u8]) -> Result<()> {
    let mut memory = File::options()
        .write(true)
        .open(format!("/proc/{pid}/mem"))?;
    memory.seek(SeekFrom::Start(at))?;
    Ok(memory.write_all(bytes)?)
}

/// A pointer or a length.
pub fn word(pid: Pid, at: u64) -> Result<u64> {
    let bytes = read(pid, at, 8)?;
    Ok(u64::from_ne_bytes(bytes.as_slice().try_into()?))
}

/// Where this descriptor leads: a path, `pipe:[1]`, `socket:[1]`, `anon_inode:[timerfd]`.
pub fn leads_to(pid: Pid, descriptor: u64) -> String {
    let link = fs::read_link(format!("/proc/{pid}/fd/{descriptor}"));
    link.map_or_else(|_| String::new(), |to| to.to_string_lossy().into_owned())
}

/// The protocol of a netlink socket (NETLINK_ROUTE is 0), if it is one.
pub fn netlink_protocol(pid: Pid, descriptor: u64) -> Option<u32> {
    let to = leads_to(pid, descriptor);
    let inode = to.strip_prefix("socket:[")?.strip_suffix(']')?;
    let table = fs::read_to_string("/proc/net/netlink").ok()?;
    // sk, Eth (the protocol), Pid, and more; the inode is the last.
    let row = table
        .lines()
        .find(|row| row.split_whitespace().last() == Some(inode))?;
    row.split_whitespace().nth(1)?.parse().ok()
}

/// The name that a guard gives itself.
pub fn first_argument(pid: Pid) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let first = words.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(first).into_owned()
}

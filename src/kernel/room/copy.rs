//! Copies of the descriptors of a service's listeners.
//!
//! A copy keeps a listener alive whose process has ended: clients would wait in a queue that nobody reads.
//! So a caller closes its copy at once.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Error, Result, anyhow, bail};
use nix::errno::Errno;
use nix::libc;
use rustix::net::listen;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::unlike::obstacle;
use crate::kernel::caps;
use crate::kernel::sockets::holders::{self, Holder, Holders};
use crate::kernel::sockets::{Listener, Sample};
use crate::kernel::sys::{set_socket_option, socket_option};

/// linux/in.h, which the libc crate does not have everywhere.
const IPPROTO_MPTCP: i32 = 262;

/// A copy of a listener, from one of the processes that hold it (pidfd_getfd(2), Linux 5.6).
///
/// # Errors
/// No process that holds it can be found, or this process may not copy from it (CAP_SYS_PTRACE; Yama's
/// kernel.yama.ptrace_scope = 3).
pub(crate) fn of(listener: &Listener, holders: &Holders) -> Result<OwnedFd> {
    let mut trouble = None;
    let holds = |(_, holder): &(&i32, &Holder)| holder.inodes.contains(&listener.inode);
    for (pid, holder) in holders.iter().filter(holds) {
        match copy_from(*pid, holder, listener) {
            Ok(copy) => return Ok(copy),
            Err(error) => trouble = Some((error, holder, pid)),
        }
    }
    let shown = listener.shown();
    let lacking = lacking().map_or(String::new(), |why| format!(" ({why})"));
    Err(match trouble {
        None => anyhow!("no process is seen to hold the listener on {shown}{lacking}"),
        Some((error, holder, pid)) => error.context(format!(
            "the listener on {shown} can't be copied from {} (pid {pid}){lacking}",
            holder.name
        )),
    })
}

/// Why this process may copy no listener of others.
pub(crate) fn lacking() -> Option<&'static str> {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    lacking_with(caps::sys_ptrace(), scope.ok().as_deref())
}

/// `scope`: kernel.yama.ptrace_scope, where there is Yama. With 3 nobody may look into another process.
fn lacking_with(sys_ptrace: bool, scope: Option<&str>) -> Option<&'static str> {
    match scope.map(str::trim) {
        Some("3") => Some("kernel.yama.ptrace_scope is 3"),
        _ if !sys_ptrace => Some("that needs CAP_SYS_PTRACE"),
        _ => None,
    }
}

/// As [`of`], if the listener's connections can wait in a room. `there` has its holders.
///
/// # Errors
/// They can't, and why.
pub(crate) fn movable(listener: &Listener, there: &Sample) -> Result<OwnedFd> {
    let copy = of(listener, &there.holders)?;
    match obstacle(there.keyed.contains(&listener.id), &copy) {
        None => Ok(copy),
        Some(why) => Err(unmovable(&listener.shown(), why)),
    }
}

pub(crate) fn unmovable(listener: &str, why: &str) -> Error {
    anyhow!("connections to the listener on {listener} can't wait elsewhere: {why}")
}

fn copy_from(pid: i32, holder: &Holder, listener: &Listener) -> Result<OwnedFd> {
    let process = Pid::from_raw(pid).context("no such process")?;
    let pidfd = pidfd_open(process, PidfdFlags::empty())?;
    let copy = |file| pidfd_getfd(&pidfd, file, PidfdGetfdFlags::empty());
    let is_it = |copy: &OwnedFd| cookie(copy).is_ok_and(|cookie| cookie == listener.id.cookie);
    // To look through its files again takes long where it has many. It may have moved the listener meanwhile.
    let known = holder.file_of(listener.inode);
    let known = known.and_then(|file| copy(file).ok()).filter(&is_it);
    if let Some(known) = known {
        return Ok(known);
    }
    let file = holders::file_of(pid, listener.inode).context("it has closed it")?;
    let copy = copy(file)?;
    if is_it(&copy) {
        return Ok(copy);
    }
    // What sock_diag lists of MPTCP is a socket within the one that the process has.
    let protocol = number(&copy, libc::SOL_SOCKET, libc::SO_PROTOCOL);
    match protocol.is_ok_and(|protocol| protocol == IPPROTO_MPTCP) {
        true => bail!("it is an MPTCP socket, whose connections can't be moved"),
        // The process may have opened another file with this number.
        false => bail!("it has closed it"),
    }
}

/// The kernel's name for a socket, as sock_diag tells it (SO_COOKIE, Linux 4.12).
pub(crate) fn cookie(socket: &impl AsFd) -> std::io::Result<u64> {
    const SO_COOKIE: libc::c_int = 57;
    let bytes = socket_option(socket.as_fd(), libc::SOL_SOCKET, SO_COOKIE, 8)?;
    Ok(bytes.try_into().map_or(0, u64::from_ne_bytes))
}

/// How many connections wait to be accepted from a listener.
pub(crate) fn accept_queue(listener: &impl AsFd) -> Option<u32> {
    // tcpi_unacked, which is that of a listener (tcp_get_info()).
    of_tcp_info(listener, 24)
}

/// How many may wait.
pub(crate) fn backlog(listener: &impl AsFd) -> Option<u32> {
    // tcpi_sacked, of a listener.
    of_tcp_info(listener, 28)
}

/// Four bytes of struct tcp_info, linux/tcp.h.
fn of_tcp_info(socket: &impl AsFd, at: usize) -> Option<u32> {
    let info = socket_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, 64).ok()?;
    let bytes = info.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Sets how many connections may wait to be accepted from a listener: as many as the host allows at most
/// (net.core.somaxconn). A bound socket begins to listen. Not by the nix crate: it takes no more than 4,096.
///
/// # Errors
/// EADDRINUSE: somebody has bound the address meanwhile.
pub(crate) fn set_backlog(socket: &impl AsFd, connections: u32) -> nix::Result<()> {
    let backlog = i32::try_from(connections).unwrap_or(i32::MAX);
    listen(socket.as_fd(), backlog).map_err(|error| Errno::from_raw(error.raw_os_error()))
}

/// The value of an option that is a number.
pub(crate) fn number(socket: &impl AsFd, level: i32, name: i32) -> std::io::Result<i32> {
    let bytes = socket_option(socket.as_fd(), level, name, 4)?;
    Ok(bytes.try_into().map_or(0, i32::from_ne_bytes))
}

pub(crate) fn set_number(
    socket: &impl AsFd,
    level: i32,
    name: i32,
    value: i32,
) -> std::io::Result<()> {
    set_socket_option(socket.as_fd(), level, name, &value.to_ne_bytes())
}

/// Whether the listener has SO_REUSEPORT.
pub(crate) fn shares_port(socket: &impl AsFd) -> std::io::Result<bool> {
    Ok(number(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT)? != 0)
}

/// Takes effect for the sockets that are bound from now on.
pub(crate) fn set_shares_port(socket: &impl AsFd, shares: bool) -> std::io::Result<()> {
    set_number(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, shares.into())
}

/// Binds a socket to a device (SO_BINDTODEVICE).
pub(super) fn bind_to_device(socket: &impl AsFd, name: &str) -> std::io::Result<()> {
    let name = OsStr::new(name).as_encoded_bytes();
    set_socket_option(
        socket.as_fd(),
        libc::SOL_SOCKET,
        libc::SO_BINDTODEVICE,
        name,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_to_copy_listeners() {
        for scope in [None, Some("0\n"), Some("1\n"), Some("2\n")] {
            assert_eq!(lacking_with(true, scope), None, "{scope:?}");
            let why = lacking_with(false, scope).unwrap();
            assert_eq!(why, "that needs CAP_SYS_PTRACE", "{scope:?}");
        }
        for sys_ptrace in [true, false] {
            let why = lacking_with(sys_ptrace, Some("3\n")).unwrap();
            assert_eq!(why, "kernel.yama.ptrace_scope is 3");
        }
    }
}

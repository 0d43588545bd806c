//! Listening sockets from whoever started us, by the protocol of sd_listen_fds(3).

use std::{
    env, fs,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    str::FromStr,
};

use anyhow::{Context, Result, ensure};
use mio::net::TcpListener;
use socket2::Socket;

/// The first of them is always this one.
const FIRST: RawFd = 3;

/// All of them. To be called once, before we open any file.
pub fn listeners() -> Result<Vec<TcpListener>> {
    let pid: u32 = variable("LISTEN_PID")?;
    ensure!(pid == std::process::id(), "LISTEN_PID is {pid}, not us");
    let n: RawFd = variable("LISTEN_FDS")?;
    ensure!(n > 0, "LISTEN_FDS is {n}");
    let end = FIRST.checked_add(n).context("LISTEN_FDS")?;
    (FIRST..end).map(listener).collect()
}

fn variable<T: FromStr>(name: &str) -> Result<T> {
    let value = env::var(name).with_context(|| name.to_owned())?;
    let number = value.parse().ok();
    number.with_context(|| format!("{name} is {value:?}"))
}

fn listener(fd: RawFd) -> Result<TcpListener> {
    let socket = take(fd).with_context(|| format!("descriptor {fd} of LISTEN_FDS"))?;
    ensure!(socket.is_listener()?, "descriptor {fd} doesn't listen");
    socket.set_cloexec(true)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket.into()))
}

#[allow(unsafe_code)]
fn take(fd: RawFd) -> Result<Socket> {
    let what = fs::read_link(format!("/proc/self/fd/{fd}"))?;
    ensure!(what.to_string_lossy().starts_with("socket:"), "no socket");
    // SAFETY: it is open, and LISTEN_PID says that it was opened for us, so that nothing else here
    // owns it: neither the runtime nor we hold a socket of our own yet.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(fd.into())
}

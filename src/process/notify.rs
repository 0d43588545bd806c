//! Tells systemd how a service does (sd_notify(3)): a datagram to the socket that NOTIFY_SOCKET names.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

const VARIABLE: &str = "NOTIFY_SOCKET";
/// The first byte of a name that is in no file system (unix(7)).
const ABSTRACT: u8 = b'@';

/// Tells systemd that syngate has begun, and what it does.
pub(crate) fn ready(status: &str) {
    notify(&format!("READY=1\nSTATUS={status}"));
}

/// What it does now, in one line.
pub(crate) fn status(line: &str) {
    notify(&format!("STATUS={line}"));
}

/// Tells systemd that syngate is about to become another program, which will say that it is ready.
pub(crate) fn reloading() {
    notify("RELOADING=1");
}

/// Tells systemd that syngate is about to end.
pub(crate) fn stopping() {
    notify("STOPPING=1");
}

/// Who starts it otherwise than systemd with `Type=notify` need not hear it. Nothing depends on it, so a failure is
/// not told.
fn notify(text: &str) {
    let socket = std::env::var_os(VARIABLE);
    if let Some(socket) = socket.filter(|socket| !socket.is_empty()) {
        let _ = send(&socket, text);
    }
}

/// Does not wait for a reader.
fn send(socket: &OsStr, text: &str) -> io::Result<()> {
    let ours = UnixDatagram::unbound()?;
    ours.set_nonblocking(true)?;
    ours.send_to_addr(text.as_bytes(), &address(socket)?)?;
    Ok(())
}

fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes().split_first() {
        Some((&ABSTRACT, name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(socket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_are_reached() {
        let name = format!("syngate-notify-{}", std::process::id());
        let file = std::env::temp_dir().join(&name);
        let path = file.clone().into_os_string();
        let sockets = [format!("@{name}").into(), path];
        for socket in sockets {
            let theirs = UnixDatagram::bind_addr(&address(&socket).unwrap()).unwrap();
            send(&socket, "READY=1").unwrap();
            let mut heard = [0; 64];
            let length = theirs.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"READY=1");
        }
        std::fs::remove_file(file).unwrap();
        assert!(send(OsStr::new("/nowhere/at-all"), "READY=1").is_err());
    }
}

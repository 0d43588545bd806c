//! A waiting room: one listening socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, SockaddrStorage, bind, getsockname, setsockopt,
    shutdown, socket, sockopt,
};
use nix::sys::stat::fstat;
use nix::unistd::{Uid, setfsuid};

use super::copy::{accept_queue, backlog, bind_to_device, cookie, number, set_backlog};
use super::options::inherit;
use super::place::Place;
use crate::kernel::sockets::Device;
use crate::kernel::sockets::netns::Netns;
use crate::kernel::sys::socket_option;

#[derive(Debug)]
pub(crate) struct Room {
    socket: OwnedFd,
    place: Place,
    cookie: u64,
}

impl Room {
    /// Makes a room for a listener's place, bound and not listening yet, in the listener's network
    /// namespace. Its connections will have the options of `like`.
    ///
    /// # Errors
    /// EADDRINUSE: the listener lacks SO_REUSEPORT; or it lacks SO_REUSEADDR, too, and connections that it has
    /// accepted are open still, or in TIME_WAIT.
    pub(crate) fn make(place: &Place, like: BorrowedFd, netns: Option<&Netns>) -> Result<Room> {
        let bound = || -> io::Result<(OwnedFd, u64)> {
            let socket = as_user(place.uid, || bound(place, like))??;
            let cookie = cookie(&socket)?;
            Ok((socket, cookie))
        };
        let made = match netns {
            None => bound(),
            Some(netns) => netns.within(bound)?,
        };
        let (socket, cookie) = made.map_err(|error| match is_taken(&error) && !reuses(like) {
            false => why(place, &error),
            true => anyhow!(
                "no waiting room can be made on {}: the listener lacks SO_REUSEADDR, and connections to it are open \
                 or were a moment ago: the service itself could not listen again either",
                place.shown()
            ),
        })?;
        Ok(Room {
            socket,
            place: place.clone(),
            cookie,
        })
    }

    /// A room that another process has made.
    ///
    /// # Errors
    /// It is no socket of TCP.
    pub(crate) fn adopt(socket: OwnedFd) -> Result<Room> {
        let place = place_of(&socket).context("not a room")?;
        let cookie = cookie(&socket)?;
        Ok(Room {
            socket,
            place,
            cookie,
        })
    }

    /// One that was made or adopted before.
    pub(super) fn known(socket: OwnedFd, place: &Place, cookie: u64) -> Room {
        Room {
            socket,
            place: place.clone(),
            cookie,
        }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Joins the group: from now on the kernel may choose the room for new connections, as long as no more
    /// than `size` wait there.
    ///
    /// # Errors
    /// Somebody has bound the address meanwhile.
    pub(crate) fn open(&self, size: u32) -> Result<()> {
        let opened = set_backlog(&self.socket, size);
        opened.map_err(|errno| why(&self.place, &errno.into()))
    }

    /// Leaves the group, also while other processes hold copies of the socket. The kernel moves the connections that
    /// wait here to the listener that the group's program chooses, or resets them if there is none. Returns
    /// whether it was open: the run and its guard may both want to shut it.
    pub(crate) fn shut(&self) -> bool {
        let shut = || shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        match shut() {
            Ok(()) => true,
            Err(Errno::ENOTCONN) => false,
            // It is open, and the connections that wait here would wait until the end of the run.
            Err(_) => shut().is_ok(),
        }
    }

    /// The user that it belongs to.
    pub(crate) fn owner(&self) -> Option<u32> {
        fstat(&self.socket).ok().map(|socket| socket.st_uid)
    }

    /// The number of the device that it is bound to; 0: to none.
    pub(crate) fn device(&self) -> u32 {
        // asm-generic/socket.h; Linux 5.1.
        const SO_BINDTOIFINDEX: libc::c_int = 62;
        number(&self.socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX).map_or(0, |device| device as u32)
    }

    /// Whether it is open.
    pub(crate) fn listens(&self) -> bool {
        number(&self.socket, libc::SOL_SOCKET, libc::SO_ACCEPTCONN)
            .is_ok_and(|listens| listens != 0)
    }

    /// How many connections may wait here. 0 if it is closed.
    pub(crate) fn size(&self) -> u32 {
        backlog(&self.socket).unwrap_or(0)
    }

    /// How many connections wait here.
    pub(crate) fn waiting(&self) -> usize {
        match self.listens() {
            true => accept_queue(&self.socket).unwrap_or(0) as usize,
            false => 0,
        }
    }
}

impl AsFd for Room {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A room on 127.0.0.1, bound and not listening, and its address; on a port that is free, or the same as
/// another one.
pub(super) fn trial(like: Option<SocketAddr>) -> Result<(Room, SocketAddr)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    let address = like.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    let room = Room::adopt(socket)?;
    let address = SocketAddr::new(room.place.address, room.place.port);
    Ok((room, address))
}

/// Does `work` on a thread of its own whose files and sockets are that user's: a socket belongs to the
/// thread's fsuid, and the kernel lets sockets of one user only share a port.
fn as_user<T: Send>(uid: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|threads| {
        let thread = std::thread::Builder::new().spawn_scoped(threads, || {
            setfsuid(Uid::from_raw(uid));
            work()
        })?;
        let ended = thread.join();
        Ok(ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn bound(place: &Place, like: BorrowedFd) -> io::Result<OwnedFd> {
    let (family, v6) = match place.address {
        IpAddr::V4(_) => (AddressFamily::Inet, false),
        IpAddr::V6(_) => (AddressFamily::Inet6, true),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let room = socket(family, SockType::Stream, flags, None)?;
    // Without SO_REUSEADDR, connections conflict that the service accepted before it had SO_REUSEPORT.
    setsockopt(&room, sockopt::ReuseAddr, &true)?;
    setsockopt(&room, sockopt::ReusePort, &true)?;
    if v6 {
        setsockopt(&room, sockopt::Ipv6V6Only, &place.v6only)?;
    }
    match &place.device {
        Device::Any => (),
        Device::Named(name) => bind_to_device(&room, name)?,
        Device::Gone(_) => return Err(io::ErrorKind::NotFound.into()),
    }
    inherit(like, room.as_fd(), v6);
    let address = SockaddrStorage::from(SocketAddr::new(place.address, place.port));
    bind(room.as_raw_fd(), &address)?;
    Ok(room)
}

fn place_of(socket: &OwnedFd) -> Result<Place> {
    let name: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let address = match (name.as_sockaddr_in(), name.as_sockaddr_in6()) {
        (Some(v4), _) => SocketAddr::from(std::net::SocketAddrV4::from(*v4)),
        (_, Some(v6)) => SocketAddr::from(std::net::SocketAddrV6::from(*v6)),
        _ => return Err(anyhow!("no address")),
    };
    let v6only = address.is_ipv6()
        && number(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).is_ok_and(|only| only != 0);
    let device = socket_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, 16)?;
    let device = String::from_utf8_lossy(&device);
    Ok(Place {
        address: address.ip(),
        port: address.port(),
        v6only,
        device: match device.trim_end_matches('\0') {
            "" => Device::Any,
            name => Device::Named(name.to_owned()),
        },
        uid: fstat(socket)?.st_uid,
    })
}

/// The longest accept queue that a network namespace allows.
pub(crate) fn longest_queue(netns: Option<&Netns>) -> u32 {
    match netns {
        None => somaxconn(),
        Some(netns) => netns.within(somaxconn).unwrap_or_else(|_| somaxconn()),
    }
}

/// That of this thread's network namespace.
fn somaxconn() -> u32 {
    const DEFAULT: u32 = 4096; // since Linux 5.4
    let text = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
    text.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT)
}

fn is_taken(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EADDRINUSE)
}

fn reuses(listener: BorrowedFd) -> bool {
    number(&listener, libc::SOL_SOCKET, libc::SO_REUSEADDR).is_ok_and(|reuses| reuses != 0)
}

fn why(place: &Place, error: &io::Error) -> anyhow::Error {
    let shown = place.shown();
    match is_taken(error) {
        true => anyhow!("no waiting room can be made on {shown}: the address is in use"),
        false if error.raw_os_error() == Some(libc::EMFILE) => anyhow!(
            "no waiting room can be made on {shown}: {error}: raise the limit (ulimit -n, LimitNOFILE=)"
        ),
        false => anyhow!("no waiting room can be made on {shown}: {error}"),
    }
}

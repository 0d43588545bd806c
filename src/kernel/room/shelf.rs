//! Where rooms lie while nobody works with them: as descriptors in the queue of a Unix socket. Copies of listeners that
//! are kept for longer lie in such queues, too.
//!
//! lsof(8) and fuser(1) find no process for a listening socket that no process has as a file. So a COMMAND
//! that kills all processes that listen on the port (`fuser -k 80/tcp`) kills the service, and not syngate or
//! its guard. The run and its guard have the same queue. A look at it makes copies (MSG_PEEK),
//! which live for some µs. When both have closed the queue, the kernel closes the rooms.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use anyhow::{Context, Result, ensure};
use nix::cmsg_space;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};

use super::place::Place;
use super::socket::Room;
use crate::kernel::sys;

/// A message carries no more descriptors (SCM_MAX_FD is 253, net/scm.h).
const MOST_FILES: usize = 253;

/// The rooms of one SO_REUSEPORT group.
#[derive(Debug)]
pub(crate) struct Shelf {
    queue: OwnedFd,
    place: Place,
    cookies: Vec<u64>,
}

impl Shelf {
    /// # Errors
    /// There are no rooms, too many, or the kernel takes no descriptors.
    pub(crate) fn of(rooms: &[Room]) -> Result<Shelf> {
        let (queue, other) = Shelf::queue()?;
        Shelf::put(&other, rooms)?;
        Shelf::adopt(queue)
    }

    /// A queue, and its other end, which [`Shelf::put`] takes once.
    ///
    /// # Errors
    /// This process may open no more files.
    pub(super) fn queue() -> io::Result<(OwnedFd, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            flags,
        )?)
    }

    /// # Errors
    /// There are too many rooms, or the kernel takes no descriptors.
    pub(super) fn put(other: &OwnedFd, rooms: &[Room]) -> Result<()> {
        put(other, rooms).context("the waiting rooms can't be put away")
    }

    /// One that another process has made.
    ///
    /// # Errors
    /// There are no rooms in the queue.
    pub(crate) fn adopt(queue: OwnedFd) -> Result<Shelf> {
        let rooms = peek(queue.as_fd()).with_context(too_many_files)?;
        let rooms = rooms.into_iter().map(Room::adopt);
        let rooms = rooms.collect::<Result<Vec<Room>>>()?;
        let first = rooms.first().context("no room")?;
        Ok(Shelf {
            place: first.place().clone(),
            cookies: rooms.iter().map(Room::cookie).collect(),
            queue,
        })
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn cookies(&self) -> &[u64] {
        &self.cookies
    }

    /// The rooms, to work with and to drop soon.
    ///
    /// # Errors
    /// This process may open no more files.
    pub(crate) fn rooms(&self) -> Result<Vec<Room>> {
        let files = peek(self.queue.as_fd()).with_context(too_many_files)?;
        ensure!(files.len() == self.cookies.len(), too_many_files());
        let rooms = files.into_iter().zip(&self.cookies);
        let rooms = rooms.map(|(file, cookie)| Room::known(file, &self.place, *cookie));
        Ok(rooms.collect())
    }
}

impl AsFd for Shelf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// The kernel delivers no more descriptors than the process may open.
fn too_many_files() -> String {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    format!(
        "the waiting rooms can't be reached: the limit of open files, {limit}, may be too low (ulimit -n, \
         LimitNOFILE=)"
    )
}

/// A descriptor that lies in such a queue, and not among the files of any process.
#[derive(Debug)]
pub(crate) struct Stowed(OwnedFd);

impl Stowed {
    /// # Errors
    /// This process may open no more files.
    pub(crate) fn of(file: &impl AsFd) -> io::Result<Stowed> {
        let (queue, other) = Shelf::queue()?;
        put(&other, &[file.as_fd()])?;
        Ok(Stowed(queue))
    }

    /// One that another process has stowed.
    pub(crate) fn adopt(queue: OwnedFd) -> Stowed {
        Stowed(queue)
    }

    /// Closes the descriptor, also where another process has the same queue.
    pub(crate) fn close(&self) {
        drop(receive(self.as_fd(), MsgFlags::empty()));
    }
}

impl AsFd for Stowed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The descriptors lie in one message from now on.
fn put(other: &OwnedFd, files: &[impl AsFd]) -> nix::Result<()> {
    let files: Vec<RawFd> = files.iter().map(|file| file.as_fd().as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&files)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let word = [IoSlice::new(b"r")];
    sendmsg::<()>(other.as_raw_fd(), &word, &rights, flags, None)?;
    Ok(())
}

/// Copies of the descriptors in the queue's first message, which stays there.
fn peek(queue: BorrowedFd) -> io::Result<Vec<OwnedFd>> {
    receive(queue, MsgFlags::MSG_PEEK)
}

fn receive(queue: BorrowedFd, how: MsgFlags) -> io::Result<Vec<OwnedFd>> {
    let mut word = [0];
    let mut parts = [IoSliceMut::new(&mut word)];
    let mut space = cmsg_space!([RawFd; MOST_FILES]);
    let flags = how | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(queue.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut files = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            files.extend(fds.into_iter().filter_map(sys::inherited));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::super::socket::trial;
    use super::*;

    #[test]
    fn rooms_lie_there_until_the_queue_is_closed() {
        let (room, address) = trial(None).unwrap();
        room.open(4).unwrap();
        let shelf = Shelf::of(&[room]).unwrap();
        let _first = std::net::TcpStream::connect(address).unwrap();
        for _ in 0..2 {
            assert_eq!(shelf.rooms().unwrap()[0].waiting(), 1);
        }
        let other = Shelf::adopt(shelf.queue.try_clone().unwrap()).unwrap();
        assert_eq!(other.cookies(), shelf.cookies());
        drop(shelf);
        let _second = std::net::TcpStream::connect(address).unwrap();
        drop(other);
        assert!(std::net::TcpStream::connect(address).is_err());
    }
    #[test]
    fn what_one_process_closes_is_closed_for_all() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stowed = Stowed::of(&listener).unwrap();
        let other = Stowed::adopt(stowed.0.try_clone().unwrap());
        drop(listener);
        let _client = std::net::TcpStream::connect(address).unwrap();
        other.close();
        assert!(std::net::TcpStream::connect(address).is_err());
        stowed.close();
    }
}

//! Tells when connections wait in rooms, without a look at them.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Result;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::shelf::Shelf;

/// Can be read while somebody waits in a room. It knows a room as long as that is open somewhere, also without a
/// descriptor of it (epoll(7)).
#[derive(Debug)]
pub(crate) struct Wake {
    epoll: Epoll,
    /// How many rooms it knows.
    rooms: usize,
}

impl Wake {
    /// # Errors
    /// The rooms can't be reached, or the kernel lacks memory.
    pub(crate) fn of<'a>(shelves: impl IntoIterator<Item = &'a Shelf>) -> Result<Wake> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut rooms = 0;
        for shelf in shelves {
            for room in shelf.rooms()? {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, room.cookie());
                epoll.add(room.as_fd(), event).map_err(io::Error::from)?;
                rooms += 1;
            }
        }
        Ok(Wake { epoll, rooms })
    }

    /// The cookies of the rooms in which somebody waits, and perhaps of some that are closed. One system call for
    /// all.
    ///
    /// # Errors
    /// The kernel lacks memory.
    pub(crate) fn ready(&self) -> io::Result<BTreeSet<u64>> {
        let mut events = vec![EpollEvent::empty(); self.rooms.max(1)];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        Ok(events[..count].iter().map(EpollEvent::data).collect())
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::socket::trial;
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    #[test]
    fn it_can_be_read_while_somebody_waits() {
        let (room, address) = trial(None).unwrap();
        let (other, _) = trial(None).unwrap();
        let (cookie, rooms) = (room.cookie(), [room, other]);
        rooms.iter().for_each(|room| room.open(4).unwrap());
        let shelf = Shelf::of(&rooms).unwrap();
        drop(rooms);
        let wake = Wake::of([&shelf]).unwrap();
        let wakes = |within: u16| {
            let mut fds = [PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(within)).unwrap() == 1
        };
        assert!(!wakes(0) && wake.ready().unwrap().is_empty());
        let _client = std::net::TcpStream::connect(address).unwrap();
        assert!(wakes(1_000));
        assert_eq!(wake.ready().unwrap(), BTreeSet::from([cookie]));
        let room = &shelf.rooms().unwrap()[0];
        room.shut();
        room.open(4).unwrap();
        assert!(!wakes(0), "the queue is empty again");
    }
}

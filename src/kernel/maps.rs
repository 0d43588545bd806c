//! Maps of eBPF for what waiting rooms need.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::Result;

use super::bpf::{Map, MapKind};

/// A number that programs count up.
#[derive(Debug)]
pub(crate) struct Counter(Map<4, 4>);

impl Counter {
    const PLACE: [u8; 4] = [0; 4];

    /// # Errors
    /// This process may not make one.
    pub(crate) fn new() -> Result<Counter> {
        Map::new(MapKind::Array, 1).map(Counter)
    }

    /// That of another process.
    ///
    /// # Errors
    /// The descriptor is no such map.
    pub(crate) fn adopt(map: OwnedFd) -> Result<Counter> {
        Map::adopt(map).map(Counter)
    }

    /// The same number once more.
    ///
    /// # Errors
    /// This process may open no more files.
    pub(crate) fn again(&self) -> io::Result<Counter> {
        self.0.again().map(Counter)
    }

    pub(crate) fn set(&self, count: u32) {
        let _ = self.0.put(Counter::PLACE, count.to_ne_bytes());
    }

    pub(crate) fn count(&self) -> u32 {
        self.0.get(Counter::PLACE).map_or(0, u32::from_ne_bytes)
    }

    /// For [`Instruction::SetMap`](super::instructions::Instruction::SetMap).
    pub(crate) fn number(&self) -> i32 {
        self.0.number()
    }
}

impl AsFd for Counter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The connections of some processes, by port and address of their clients.
pub(crate) type Connections = Map<8, 4>;

/// An array of listeners that a program can choose from. A place in it becomes free when its listener
/// closes.
#[derive(Debug)]
pub(crate) struct Listeners {
    array: Map<4, 8>,
    size: u32,
}

impl Listeners {
    /// An array with `size` places.
    ///
    /// # Errors
    /// The kernel has no such arrays, or this process may not make one.
    pub(crate) fn new(size: u32) -> Result<Listeners> {
        let array = Map::new(MapKind::Listeners, size)?;
        Ok(Listeners { array, size })
    }

    /// Empties all places. The sockets may go into another array then.
    pub(crate) fn clear(&self) {
        (0..self.size).for_each(|place| self.empty(place));
    }

    pub(crate) fn empty(&self, place: u32) {
        self.array.remove(place.to_ne_bytes());
    }

    /// Puts a socket of a SO_REUSEPORT group into a place. The array does not keep it open.
    ///
    /// # Errors
    /// EINVAL: it is in no group. EBUSY: it is in another array. This place keeps what it had.
    pub(crate) fn put(&self, place: u32, socket: BorrowedFd) -> io::Result<()> {
        let descriptor = socket.as_raw_fd() as u64;
        self.array
            .put(place.to_ne_bytes(), descriptor.to_ne_bytes())
    }

    /// The cookie of the socket in a place. None if that is free, or this process may not look.
    pub(crate) fn cookie(&self, place: u32) -> Option<u64> {
        let cookie = self.array.get(place.to_ne_bytes());
        cookie.map(u64::from_ne_bytes)
    }

    /// For [`Instruction::SetMap`](super::instructions::Instruction::SetMap).
    pub(crate) fn number(&self) -> i32 {
        self.array.number()
    }
}

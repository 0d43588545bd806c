//! Waiting rooms: listening sockets of syngate's own in a service's SO_REUSEPORT group.
//!
//! A program of the group sends new connections to the rooms. They are established there and wait. When
//! a room is closed, the kernel moves those that wait to the listener that the program then chooses (Linux
//! 5.14).

pub(crate) mod apart;
pub(crate) mod copy;
pub(crate) mod known;
mod options;
pub(crate) mod orders;
mod own_program;
pub(crate) mod place;
pub(crate) mod places;
pub(crate) mod probe;
pub(crate) mod programs;
pub(crate) mod releases;
pub(crate) mod reuseport;
pub(crate) mod shelf;
pub(crate) mod socket;
pub(crate) mod unlike;
pub(crate) mod wake;

pub(crate) use self::own_program::{are_seen as programs_are_seen, has_own_program, has_program};
pub(crate) use self::place::Place;
pub(crate) use self::shelf::{Shelf, Stowed};
pub(crate) use self::socket::{Room, longest_queue};

//! Waiting rooms as the actions use them: made for the listeners that are there, guarded by a process of
//! their own, and handed over to the listeners that come.

mod account;
mod backend;
mod groups;
pub(crate) mod guard;
mod hook;
pub(crate) mod make;
pub(crate) mod policy;
pub(crate) mod watch;

pub(crate) use self::account::{ParkRow, parked_words};
pub(crate) use self::backend::{RoomGate, SharedRooms};

//! Waiting rooms as the actions use them: made for the listeners that are there, guarded by a process of
//! their own, and handed over to the listeners that come.

mod account;
mod admit;
mod admitted;
mod again;
mod backend;
mod backlog;
pub(crate) mod choice;
pub(crate) mod early_guard;
pub(crate) mod figures;
pub(crate) mod gap;
mod give_back;
pub(crate) mod groups;
pub(crate) mod guard;
mod hook;
pub(crate) mod leaving;
pub(crate) mod left;
mod lends;
pub(crate) mod letting_go;
pub(crate) mod make;
mod moving;
mod note;
pub(crate) mod options;
pub(crate) mod passes;
pub(crate) mod policy;
mod portions;
pub(crate) mod prefer;
pub(crate) mod preferred;
mod probes;
mod progress;
mod raised;
pub(crate) mod remarks;
pub(crate) mod resident;
mod second;
mod stand_by;
mod unmoved;
pub(crate) mod watch;

pub(crate) use self::backend::{RoomGate, SharedRooms, Told, account};
pub(crate) use self::groups::First;

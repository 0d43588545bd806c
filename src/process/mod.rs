//! Processes: COMMAND and what runs beside it, guards, signals, locks.

pub(crate) mod ancestry;
pub(crate) mod ask;
pub(crate) mod attended;
pub(crate) mod beside;
pub(crate) mod child;
pub(crate) mod cmdline;
pub(crate) mod environment;
pub(crate) mod executable;
mod files;
pub(crate) mod guard;
pub(crate) mod leave;
pub(crate) mod living;
pub(crate) mod lock;
pub(crate) mod meanwhile;
pub(crate) mod notify;
pub(crate) mod own_unit;
pub(crate) mod place;
pub(crate) mod poll;
pub(crate) mod profile;
pub(crate) mod pulse;
pub(crate) mod rlimits;
pub(crate) mod send;
pub(crate) mod signals;
pub(crate) mod starter;
pub(crate) mod systemctl;
pub(crate) mod unit;

//! Processes: COMMAND and what runs beside it, guards, signals, locks.

pub mod child;
pub mod guard;
pub mod leave;
pub mod lock;
pub mod own_unit;
pub mod signals;

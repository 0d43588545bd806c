//! `--syn hold`: new SYNs wait in a queue of the kernel's while the gate is closed, and go on to the
//! new listener the moment it is there. Their clients wait for as long as the gate is closed, and not
//! for the second after which they would send again.

pub mod account;
pub mod act;
pub mod held;
pub mod line;
pub mod options;
pub mod pace;
pub mod policy;
pub mod release;

pub(crate) use options::{AUTO, ENTRY};

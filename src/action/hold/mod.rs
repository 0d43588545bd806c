//! `--syn hold`: new SYNs wait in a queue of the kernel's while the gate is closed, and go on to the
//! new listener the moment it is there. Their clients wait for as long as the gate is closed, and not
//! for the second after which they would send again.

pub(crate) mod account;
pub(crate) mod act;
pub(crate) mod held;
pub(crate) mod line;
pub(crate) mod options;
pub(crate) mod pace;
pub(crate) mod policy;
pub(crate) mod release;

pub(crate) use options::{AUTO, ENTRY};

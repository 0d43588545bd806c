//! `--syn hold`: new SYNs wait in an NFQUEUE while the gate is closed, and go to the new listener
//! as soon as it is ready. So their clients do not have to wait until they send the SYN again.

pub(crate) mod account;
pub(crate) mod act;
pub(crate) mod held;
pub(crate) mod line;
pub(crate) mod options;
pub(crate) mod pace;
pub(crate) mod policy;
pub(crate) mod release;

pub(crate) use options::ENTRY;

//! `--syn divert=ADDR`: new connections go to a peer, another host that has the same address, while
//! the gate is closed, and stay there until they end. The kernel does it.

pub mod account;
pub mod act;
pub mod options;
pub mod peer;
pub mod prepare;
pub mod probe;
pub mod to_peer;
pub mod way;

pub(crate) use options::ENTRY;

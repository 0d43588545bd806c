//! `--syn divert=ADDR`: new connections go to a peer, another host that has the same address, while
//! the gate is closed, and stay there until they end. The kernel does it.

pub(crate) mod account;
pub(crate) mod act;
pub(crate) mod options;
pub(crate) mod peer;
pub(crate) mod prepare;
pub(crate) mod probe;
pub(crate) mod to_peer;
pub(crate) mod way;

pub(crate) use options::ENTRY;

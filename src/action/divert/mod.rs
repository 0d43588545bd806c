//! `--syn divert=ADDR`: the kernel forwards new connections to a peer while the gate is closed. The
//! peer is another host with the same address. The connections stay there until they end.

pub(crate) mod account;
pub(crate) mod act;
pub(crate) mod options;
pub(crate) mod peer;
pub(crate) mod prepare;
pub(crate) mod probe;
pub(crate) mod to_peer;
pub(crate) mod way;

pub(crate) use options::ENTRY;

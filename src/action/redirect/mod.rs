//! `--syn redirect=PORT`: new connections go to a standby on another port of this host while the gate
//! is closed, and stay there until they end. The kernel does it, by destination NAT.

pub mod account;
pub mod act;
pub mod guard;
pub mod options;
pub mod places;
pub mod policy;
pub mod prepare;
pub mod redirected;
pub mod standby;
pub mod to_standby;
pub mod tree;
pub mod wire;

pub(crate) use options::ENTRY;

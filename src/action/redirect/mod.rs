//! `--syn redirect=PORT`: the kernel redirects new connections to a standby on another port of this
//! host while the gate is closed (destination NAT). The connections stay there until they end.

pub(crate) mod account;
pub(crate) mod act;
pub(crate) mod guard;
pub(crate) mod mistake;
pub(crate) mod options;
pub(crate) mod places;
pub(crate) mod policy;
pub(crate) mod prepare;
pub(crate) mod redirected;
pub(crate) mod standby;
pub(crate) mod to_standby;
pub(crate) mod tree;
pub(crate) mod wire;

pub(crate) use options::ENTRY;

//! The gate in nf_tables: one table that belongs to syngate's netlink socket. When the socket is
//! closed, also because syngate was killed, the kernel destroys the table, and no other process can
//! change it (`NFT_TABLE_F_OWNER`, Linux 5.12). On older kernels it is a plain table, and a
//! watchdog removes it. The gated ports are set elements with a timeout, so the kernel opens the
//! gate at the deadline even if syngate hangs.

pub(crate) mod answers;
pub(crate) mod backend;
pub(crate) mod by_port;
mod compared;
pub(crate) mod compile;
pub(crate) mod consuming;
pub(crate) mod disguise;
pub(crate) mod divert;
mod expressions;
mod keys;
mod leaving;
pub(crate) mod list;
mod names;
mod others;
mod plain;
pub(crate) mod probe;
pub(crate) mod proxied;
pub(crate) mod published;
mod raw;
mod refused;
pub(crate) mod ruleset;
mod script;
mod sets;
mod syns;
pub(crate) mod tables;
mod terms;
mod transaction;
mod uapi;
pub(crate) mod userdata;

//! What happens to new connections while the gate is closed: `--syn ACTION`.
//!
//! Each action has its own folder or file, with its options, checks, part of `--dry-run`,
//! preparation, decisions, effects, report rows and warnings. `list.rs` lists them, and
//! `contract.rs` has their common interface.

pub(crate) mod auto;
pub(crate) mod contract;
pub(crate) mod divert;
pub(crate) mod drop;
pub(crate) mod elsewhere;
pub(crate) mod handover;
pub(crate) mod hold;
pub(crate) mod linger;
pub(crate) mod list;
pub(crate) mod park;
pub(crate) mod redirect;
pub(crate) mod rooms;

#[cfg(test)]
mod tests;

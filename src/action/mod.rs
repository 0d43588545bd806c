//! What becomes of new connections while the gate is closed: `--syn ACTION`.
//!
//! Each action is whole in its own folder or file: its options, their checks, its part of
//! `--dry-run`, what it prepares, decides and does, its rows in the report, its warnings. `list.rs`
//! names them all; `contract.rs` says what they have in common.

pub(crate) mod contract;
pub(crate) mod divert;
pub(crate) mod drop;
pub(crate) mod hold;
pub(crate) mod linger;
pub(crate) mod list;
pub(crate) mod redirect;

#[cfg(test)]
mod tests;

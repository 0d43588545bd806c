//! What becomes of new connections while the gate is closed: `--syn ACTION`.
//!
//! Each action is whole in its own folder or file: its options, their checks, its part of
//! `--dry-run`, what it prepares, decides and does, its rows in the report, its warnings. `list.rs`
//! names them all; `contract.rs` says what they have in common.

pub mod contract;
pub mod divert;
pub mod drop;
pub mod hold;
pub mod linger;
pub mod list;
pub mod redirect;

#[cfg(test)]
mod tests;

//! Which files of a crate import which others.

mod file;
mod sources;

pub use sources::Sources;

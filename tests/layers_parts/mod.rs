//! Which files of a crate import which others.

mod file;
mod sources;

pub(crate) use sources::Sources;

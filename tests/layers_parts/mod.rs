//! Which files of a crate import which others.

mod file;
pub(crate) mod pure;
mod sources;

pub(crate) use sources::Sources;

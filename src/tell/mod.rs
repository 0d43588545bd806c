//! What syngate tells people: on stderr, on stdout, in the journal.

pub(crate) mod colour;
pub(crate) mod journal;
pub(crate) mod remote;
pub(crate) mod say;
pub(crate) mod warnings;

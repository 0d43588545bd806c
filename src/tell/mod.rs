//! What people are told, and where.

pub mod colour;
pub mod journal;
pub mod say;
pub mod warnings;

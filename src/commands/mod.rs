//! What syngate does besides runs: telling what is shut, opening it, telling what can be done here.

pub mod check;
pub mod clear;
pub mod status;

use std::time::Instant;

use crate::cli::Other;
use crate::exit::Exit;
use crate::say::{Level, Say};

/// Carries one out.
pub fn carry_out(other: &Other, started: Instant) -> Exit {
    let say = Say::new(Level::Normal, started);
    match other {
        Other::Status(args) => status::run(args, &say),
        Other::Clear(args) => clear::run(args, &say),
        Other::Check(args) => check::run(args, &say),
    }
}

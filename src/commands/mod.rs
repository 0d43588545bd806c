//! The commands besides runs: they show which gates stand, open gates, tell what this host can do, and stand by
//! for restarts by anybody.

pub(crate) mod check;
pub(crate) mod clear;
pub(crate) mod keep;
pub(crate) mod status;

use std::collections::BTreeSet;
use std::time::Instant;

use crate::cli::Other;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::{Looks, Want};
use crate::tell::say::{Level, Say};
use crate::words::exit::{Exit, NOT_TOLD};
use crate::words::ports::PortSet;
use crate::words::scope::Scope;

pub(crate) fn carry_out(other: &Other, started: Instant) -> Exit {
    let say = Say::new(Level::Normal, started);
    match other {
        Other::Status(args) => status::run(args, &say),
        Other::Clear(args) => clear::run(args, &say),
        Other::Check(args) => check::run(args, &say),
        Other::Keep(args) => keep::run(args, &say),
    }
}

/// Prints the TCP ports that are listened on now, one a line, for the completion of `--port`. Prints
/// nothing if the kernel does not list its sockets: a completion has no place for an error.
pub(crate) fn tell_listening(started: Instant) -> Exit {
    let all = PortSet::from_ranges([1..=u16::MAX]);
    let looked = Sockets::new(&all, &Scope::default()).and_then(|mut s| s.look(Want::default()));
    let listeners = looked.map(|sample| sample.listeners).unwrap_or_default();
    let ports: BTreeSet<u16> = listeners.iter().map(|listener| listener.port).collect();
    let lines: String = ports.iter().map(|port| format!("{port}\n")).collect();
    Say::new(Level::Errors, started).print(&lines, Exit::Status(0), NOT_TOLD)
}

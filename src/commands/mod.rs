//! The commands besides runs: they show which gates stand, open gates, tell what this host can do, and stand by for
//! restarts by others. Also the runs of services and containers by their names.

pub(crate) mod check;
pub(crate) mod clear;
pub(crate) mod container;
pub(crate) mod keep;
mod long_form;
pub(crate) mod restart;
mod rivals;
pub(crate) mod status;

use std::collections::BTreeSet;
use std::time::Instant;

use crate::cli::{Completed, Other};
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::{Looks, Want};
use crate::process::profile;
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

/// Prints what may be completed, one a line. Prints nothing if the kernel does not list its sockets: a completion
/// has no place for an error.
pub(crate) fn complete(what: Completed, started: Instant) -> Exit {
    let all = PortSet::from_ranges([1..=u16::MAX]);
    let words: BTreeSet<String> = match what {
        Completed::Ports => {
            let sockets = Sockets::new(&all, &Scope::default());
            let looked = sockets.and_then(|mut sockets| sockets.look(Want::default()));
            let listeners = looked.map(|sample| sample.listeners).unwrap_or_default();
            let ports: BTreeSet<u16> = listeners.iter().map(|listener| listener.port).collect();
            let lines: String = ports.iter().map(|port| format!("{port}\n")).collect();
            return printed(&lines, started);
        }
        Completed::Services => {
            let listening = check::service::look(&all, false).unwrap_or_default();
            let processes = listening
                .into_iter()
                .flat_map(|endpoint| endpoint.processes);
            let names = processes.filter_map(|process| Some(process.control?.name().to_owned()));
            names.chain(profile::names()).collect()
        }
        Completed::Profiles => profile::names().collect(),
    };
    let lines: String = words.iter().map(|word| format!("{word}\n")).collect();
    printed(&lines, started)
}

fn printed(lines: &str, started: Instant) -> Exit {
    Say::new(Level::Errors, started).print(lines, Exit::Status(0), NOT_TOLD)
}

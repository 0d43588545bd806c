//! What a keep was asked for.

use std::path::PathBuf;
use std::time::Duration;

use crate::action::contract::Seen;
use crate::cli::KeepArgs;
use crate::gate::who::{KEEP, Who};
use crate::kernel::sockets::Sample;
use crate::words::gated::Gated;
use crate::words::ports::PortSet;
use crate::words::run_id::new_id;

pub(super) struct Wanted {
    pub ports: PortSet,
    pub max_wait: Duration,
    pub any: bool,
    pub report_file: Option<PathBuf>,
    /// The ports once more, as the makers of rooms want them.
    pub gated: Gated,
    pub run: String,
    pub who: Who,
}

impl Wanted {
    /// The lock of the keep is taken.
    pub(super) fn of(args: &KeepArgs, ports: PortSet, run: String) -> Wanted {
        let any = if args.any { " --any" } else { "" };
        let command = format!("keep --port {ports}{any}");
        Wanted {
            max_wait: args.max_wait,
            any: args.any,
            report_file: args.report_file.clone(),
            gated: Gated {
                ports: ports.clone(),
                listeners_are_here: true,
                ..Gated::default()
            },
            ports,
            run,
            who: Who::me(KEEP, &command),
        }
    }

    pub(super) fn seen<'a>(&'a self, before: &'a Sample) -> Seen<'a> {
        Seen {
            gated: &self.gated,
            before,
            netns: None,
            run: &self.run,
            who: &self.who,
        }
    }
}

pub(super) fn ports(args: &KeepArgs) -> (PortSet, String) {
    let ports = args
        .ports
        .iter()
        .fold(PortSet::EMPTY, |all, p| all.union(p));
    (ports, new_id())
}

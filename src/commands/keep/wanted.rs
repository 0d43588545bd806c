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
    /// With a unit, those of its ports that it may listen on.
    pub ports: PortSet,
    pub unit: Option<String>,
    /// The ports were named.
    pub named: bool,
    pub max_wait: Duration,
    pub max_addresses: usize,
    pub any: bool,
    pub report_file: Option<PathBuf>,
    /// The ports once more, as the makers of rooms want them.
    pub gated: Gated,
    pub run: String,
    pub who: Who,
}

impl Wanted {
    pub(super) fn of(args: &KeepArgs) -> Wanted {
        let named = args.ports.iter();
        let ports = match args.ports.is_empty() {
            true => PortSet::from_ranges([1..=u16::MAX]),
            false => named.fold(PortSet::EMPTY, |all, p| all.union(p)),
        };
        Wanted {
            unit: args.unit.clone(),
            named: !args.ports.is_empty(),
            max_wait: args.max_wait,
            max_addresses: args.max_addresses as usize,
            any: args.any,
            report_file: args.report_file.clone(),
            gated: Gated {
                ports: ports.clone(),
                listeners_are_here: true,
                ..Gated::default()
            },
            ports,
            run: new_id(),
            who: Who::default(),
        }
    }

    /// The lock of the keep is taken.
    pub(super) fn is_locked(&mut self) {
        let unit = self.unit.as_ref().map(|unit| format!(" --unit {unit}"));
        let ports = self.named.then(|| format!(" --port {}", self.ports));
        let any = self.any.then(|| " --any".to_owned());
        let options: String = unit.into_iter().chain(ports).chain(any).collect();
        self.who = Who::me(KEEP, &format!("keep{options}"));
    }

    /// For messages: what is kept.
    pub(super) fn what(&self) -> String {
        let ports = self.ports.brief();
        match &self.unit {
            Some(unit) if self.named => format!("{unit} on {ports}"),
            Some(unit) => unit.clone(),
            None => ports,
        }
    }

    /// The ports that are locked from the beginning. Those of a unit are when it listens.
    pub(super) fn first_ports(&self) -> PortSet {
        match self.unit {
            Some(_) => PortSet::EMPTY,
            None => self.ports.clone(),
        }
    }

    /// For messages: the option that says what to keep.
    pub(super) fn option(&self) -> String {
        match &self.unit {
            Some(unit) => format!("--unit {unit}"),
            None => format!("--port {}", self.ports.brief()),
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

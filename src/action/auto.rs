//! `--syn auto`: the first of several actions that can be done here. Whether one can shows when it begins, which
//! changes nothing if it can't.

use anyhow::{Result, bail};
use clap::builder::BoolishValueParser;

use super::contract::{
    Action, ActionEntry, Before, Description, Given, HEADING, Parse, Planned, Prepared, Rather,
    Request, Seen, Standing, Wanted, is_given, options,
};
use super::drop;
use super::rooms::choice::{AUTO, AUTO_FOR_RELOADS};
use crate::decide::drain::DrainUntil;
use crate::words::ending::Ending;
use crate::words::gated::Gated;
use crate::words::steer::Steer;

const NAME: &str = "auto";

/// The entry for the list, which has the actions to choose from.
pub(crate) const fn entry(parse: Parse) -> ActionEntry {
    ActionEntry {
        name: NAME,
        value: NAME,
        help: "The first that can be done here of park, hold and drop",
        options: <AutoOptions as clap::Args>::augment_args,
        parse,
        rows: &[],
        standing: Standing::STOPS,
        limits: &[],
        guard: |_| None,
    }
}

#[derive(Debug, Clone, clap::Args)]
struct AutoOptions {
    /// auto: COMMAND hands its sockets over itself
    ///
    /// Then auto is the first that can be done here of handover, hold and drop, and the drain waits for
    /// handshakes only.
    #[arg(long, env = "SYNGATE_RELOAD", value_parser = BoolishValueParser::new(), hide_short_help = true, help_heading = HEADING)]
    reload: bool,
}

/// Checks `--reload` beside another action. With `handover` it says nothing new.
///
/// # Errors
/// One line that names the options.
pub(crate) fn reload_makes_sense(action: &str, given: &Given) -> Result<(), String> {
    let AutoOptions { reload } = options(given)?;
    match reload && ![NAME, AUTO_FOR_RELOADS[0]].contains(&action) {
        true if action == drop::ENTRY.name => Err(format!(
            "--reload needs --syn auto, and not --syn {action} (the default): add --syn auto"
        )),
        true => Err(format!(
            "--reload and --syn {action} exclude each other: --reload says which actions --syn auto may take"
        )),
        false => Ok(()),
    }
}

/// Finds the entries of the actions that are tried in turn.
#[derive(Clone, Copy)]
pub(crate) struct Auto(pub fn(&str) -> Option<&'static ActionEntry>);

impl std::fmt::Debug for Auto {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(NAME)
    }
}

impl Wanted for Auto {
    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, request: &Request) -> Result<Box<dyn Planned>, String> {
        let AutoOptions { reload } = options(request.given)?;
        let ways = if reload { AUTO_FOR_RELOADS } else { AUTO };
        let request = &Request {
            named: false,
            ..*request
        };
        let planned = |name: &str| {
            let entry = (self.0)(name).expect("it is in the list");
            (entry.parse)(None)?.plan(request)
        };
        Ok(Box::new(ToChoose {
            reload,
            drains_otherwise: is_given(request.given, "drain_until"),
            ways: ways.into_iter().map(|name| (name, planned(name))).collect(),
        }))
    }
}

/// By its name: what is tried, or why the options rule it out.
type Way = (&'static str, Result<Box<dyn Planned>, String>);

#[derive(Debug)]
struct ToChoose {
    reload: bool,
    /// `--drain-until` was given.
    drains_otherwise: bool,
    ways: Vec<Way>,
}

impl ToChoose {
    fn possible(&self) -> impl Iterator<Item = &dyn Planned> {
        let ways = self.ways.iter();
        ways.filter_map(|(_, planned)| Some(&**planned.as_ref().ok()?))
    }
}

impl Planned for ToChoose {
    /// Of the action that is tried first.
    fn name(&self) -> &'static str {
        let mut possible = self.possible();
        possible.next().map_or(NAME, |first| first.name())
    }

    fn describe(&self, gated: &Gated) -> Description {
        let mut possible = self.possible();
        let rather = possible
            .next()
            .filter(|first| matches!(first.steer(), Ok(None)));
        Description {
            rather: rather.map(|first| Rather {
                name: first.name(),
                drains: first.describe(gated).drains,
                minds_cookies: !self.reload,
            }),
            close: match self.reload {
                true => ", by the first that can be done here of handover, hold and drop",
                false => ", by the first that can be done here of park, hold and drop",
            },
            open: "let the waiting connections go, and open".to_owned(),
            opener: "the kernel or a guard process",
            ..Description::default()
        }
    }

    /// That of the first action that has rules.
    fn steer(&self) -> Result<Option<Steer>> {
        for planned in self.possible() {
            if let Some(steer) = planned.steer()? {
                return Ok(Some(steer));
            }
        }
        Ok(None)
    }

    fn drain_until(&self) -> Option<DrainUntil> {
        let handshakes = self.reload && !self.drains_otherwise;
        handshakes.then_some(DrainUntil::Handshakes)
    }

    fn prepare(&self, before: &mut Before) -> Result<Box<dyn Prepared>, Ending> {
        let mut next = None;
        for (name, planned) in self.ways.iter().rev() {
            let prepared = match planned {
                Ok(planned) => Ok(planned.prepare(before)?),
                Err(why) => Err(why.clone()),
            };
            next = Some(Box::new(Try {
                name,
                prepared,
                next,
            }));
        }
        let first = next.map(|first| first as Box<dyn Prepared>);
        Ok(first.expect("there are ways"))
    }
}

/// One of the actions, and what is tried in its place.
struct Try {
    name: &'static str,
    prepared: Result<Box<dyn Prepared>, String>,
    next: Option<Box<Try>>,
}

impl Prepared for Try {
    fn begin(&self, seen: &Seen) -> Result<Box<dyn Action>> {
        match &self.prepared {
            Ok(prepared) => prepared.begin(seen),
            Err(why) => bail!("{why}"),
        }
    }

    fn chosen(&self) -> Option<&'static str> {
        Some(self.name)
    }

    fn otherwise(&self) -> Option<&dyn Prepared> {
        let next = self.next.as_deref();
        next.map(|next| next as &dyn Prepared)
    }

    fn regret(&self) -> Option<&'static str> {
        const DROPPED: &str = "--syn auto drops SYNs (clients connect at least 1 s late), since they can't be held \
            here";
        (self.name == drop::ENTRY.name).then_some(DROPPED)
    }
}

//! The options of `--syn handover`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::act::{HandoverAction, NAME};
use crate::action::contract::{
    Action, ActionEntry, Before, Description, Planned, Prepared, Request, Seen, Standing, Wanted,
};
use crate::action::rooms::First;
use crate::action::rooms::make::make;
use crate::action::rooms::options::{Idle, RoomOptions, room_options};
use crate::action::rooms::passes::own;
use crate::action::rooms::{prefer, preferred};
use crate::words::ending::Ending;
use crate::words::gated::Gated;
use crate::words::limit::Limit::{Number, Time};
use crate::words::steer::Steer;

pub(crate) const ENTRY: ActionEntry = ActionEntry {
    name: NAME,
    value: NAME,
    help: "For reloads: they reach the service, and wait only while nobody listens",
    options: |command| command,
    parse: |_| Ok(Arc::new(Handover)),
    rows: &[NAME],
    standing: Standing {
        shut: "is watched",
        clients: ": new connections wait only while nobody listens",
        open: None,
        done: "parked",
    },
    limits: &[
        ("Handed over, calm", Time(prefer::CALM)),
        (
            "Handed over, listeners",
            Number(preferred::MOST_LISTENERS as u64),
        ),
    ],
    guard: |_| None,
};

const NOT_DRAINED: &str =
    "the gate stops nobody, so nothing is drained; leave it out, or use --syn park";
const IDLE: Idle = &[
    ("drain", NOT_DRAINED),
    ("drain-until", NOT_DRAINED),
    (
        "open-on",
        "the service gets new connections as long as it listens; leave it out, or use --syn park",
    ),
];

#[derive(Debug, Clone, Copy)]
struct Handover;

impl Wanted for Handover {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn plan(&self, request: &Request) -> Result<Box<dyn Planned>, String> {
        // `IDLE` begins with --drain. `--drain 0s` is accepted, because handover does not drain.
        let drain = request.given.get_one::<Duration>("drain");
        let drains = drain.is_some_and(|drain| !drain.is_zero());
        let idle = if drains { IDLE } else { &IDLE[1..] };
        let options = room_options(ENTRY.name, idle, request)?;
        Ok(Box::new(ToHandOver { options }))
    }
}

#[derive(Debug, Clone)]
struct ToHandOver {
    options: RoomOptions,
}

impl Planned for ToHandOver {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn describe(&self, _: &Gated) -> Description {
        Description {
            close: " only while nobody listens, let them wait in sockets of syngate's own",
            open: format!("{}, and end", self.options.hand_over()),
            drains: false,
            opener: "a guard process",
            ..Description::default()
        }
    }

    fn steer(&self) -> Result<Option<Steer>> {
        Ok(None)
    }

    fn prepare(&self, _: &mut Before) -> Result<Box<dyn Prepared>, Ending> {
        Ok(Box::new(self.clone()))
    }
}

impl Prepared for ToHandOver {
    fn begin(&self, seen: &Seen) -> Result<Box<dyn Action>> {
        let mut rooms = make(seen, First::Service, self.options)?;
        let ports = rooms.noted_ports(seen.gated);
        rooms.passes.own = own(seen.run, &rooms.admitted, &ports).ok();
        let rooms = Rc::new(RefCell::new(rooms));
        let max_held = self.options.max_held;
        Ok(Box::new(HandoverAction::new(rooms, seen.gated, max_held)))
    }
}

//! The options of `--syn park`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::act::{NAME, ParkAction};
use crate::action::contract::{
    Action, ActionEntry, Before, Description, Planned, Prepared, Request, Seen, Standing, Wanted,
};
use crate::action::rooms::First;
use crate::action::rooms::choice::COOKIES_RESET;
use crate::action::rooms::make::make;
use crate::action::rooms::options::{RoomOptions, opens_when_ready, room_options};
use crate::action::rooms::passes::{check, own};
use crate::action::rooms::remarks::{beyond_to, remarks};
use crate::action::rooms::{early_guard, guard, policy, watch};
use crate::gate::backend::Remark;
use crate::kernel::room::{apart, places};
use crate::words::ending::Ending;
use crate::words::gated::Gated;
use crate::words::limit::Limit::Time;
use crate::words::steer::Steer;

pub(crate) const ENTRY: ActionEntry = ActionEntry {
    name: NAME,
    value: NAME,
    help: "They are established at once, and wait until the service listens again",
    options: |command| command,
    parse: |_| Ok(Arc::new(Park)),
    rows: &[NAME],
    standing: Standing {
        shut: "is closed",
        clients: ": new connections wait until the service listens",
        open: None,
        done: "parked",
    },
    limits: &[
        ("Parked, made", Time(apart::MADE_WITHIN)),
        ("Parked, guard", Time(watch::GRACE)),
        ("Parked, guard's looks", Time(guard::LOOK_EVERY)),
        ("Parked, handed over", Time(policy::HANDED_OVER_WITHIN)),
        ("Parked, keeps up", Time(policy::KEEPS_UP)),
        ("Parked, freed", Time(places::FREED_WITHIN)),
        ("Parked, hung", Time(guard::HUNG)),
        ("Parked, hung", Time(guard::UNHEARD)),
        ("Parked, deserted", Time(guard::DESERTED)),
    ],
    guard: |words| guard::call(words).or_else(|| early_guard::call(words)),
};

const CHECK_WAITS: &str = "if --ready-check connects to a gated port, it waits as clients do: syngate \
                           can't tell its connections from others here";

#[derive(Debug, Clone, Copy)]
struct Park;

impl Wanted for Park {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn plan(&self, request: &Request) -> Result<Box<dyn Planned>, String> {
        let options = room_options(ENTRY.name, &[], request)?;
        opens_when_ready(ENTRY.name, request)?;
        Ok(Box::new(ToPark { options }))
    }
}

#[derive(Debug, Clone)]
struct ToPark {
    options: RoomOptions,
}

impl Planned for ToPark {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn describe(&self, gated: &Gated) -> Description {
        Description {
            before: beyond_to(gated).into_iter().collect(),
            close: ", let them wait in sockets of syngate's own",
            open: format!("{}, and open", self.options.hand_over()),
            opener: "a guard process",
            opens_when_ready: true,
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

impl Prepared for ToPark {
    fn begin(&self, seen: &Seen) -> Result<Box<dyn Action>> {
        let mut rooms = make(seen, First::Rooms, self.options)?;
        let mut remarks = remarks(seen, self.options);
        if rooms.resets_cookies() {
            ensure!(self.options.named, COOKIES_RESET);
            remarks.push(Remark::Warning(COOKIES_RESET.to_owned()));
        }
        let ports = rooms.noted_ports(seen.gated);
        match own(seen.run, &rooms.admitted, &ports) {
            Ok(own) => rooms.passes.own = Some(own),
            Err(error) => remarks.push(Remark::Warning(format!(
                "syngate can't tell COMMAND's own connections from others, so all connections from this \
                 host reach the old process until it ends: {error:#}"
            ))),
        }
        if self.options.checks {
            let own = rooms.passes.own.as_ref();
            let check = own.and_then(|_| check(seen.run, &ports).ok());
            rooms.passes.check = check;
            let waits = rooms.passes.check.is_none().then(|| CHECK_WAITS.to_owned());
            remarks.extend(waits.map(Remark::Warning));
        }
        let rooms = Rc::new(RefCell::new(rooms));
        Ok(Box::new(ParkAction::new(
            rooms,
            seen.gated,
            self.options.max_held,
            remarks,
        )))
    }
}

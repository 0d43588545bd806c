//! A gate found in the kernel, made by any run.

use std::time::Duration;

use super::kinds::Kind;
use super::who::Who;
use crate::kernel::room::known::RoomGuard;
use crate::words::ports::PortSet;
use crate::words::scope::{Networks, Scope};
use crate::words::steer::LEAVE;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub by: By,
    pub run: String,
    /// The kernel removes it when its run ends.
    pub owned: bool,
    /// The run that made it, from the rules' comment.
    pub who: Option<Who>,
    pub ports: PortSet,
    pub scope: Scope,
    /// The rules of `--leave` refuse these sources; empty: all.
    pub leave_from: Networks,
    pub syns_stopped: Option<u64>,
    pub opens_in: Option<Duration>,
}

/// What keeps new connections from the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum By {
    /// Rules, which this kind of backend can erase.
    Rules(Kind),
    /// Waiting rooms.
    Rooms(Box<FoundRooms>),
}

/// Rooms whose guard lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundRooms {
    pub guard: RoomGuard,
    /// The ports that the run has opened again and where somebody listens. The rooms stay, should he close.
    pub open: PortSet,
    /// How many connections wait.
    pub waiting: usize,
    /// Somebody listens on the ports.
    pub served: bool,
    /// How many of the waiting connections have no listener to go to now.
    pub stranded: usize,
}

impl By {
    /// The backend's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            By::Rules(kind) => kind.name(),
            By::Rooms(_) => "room",
        }
    }

    pub(crate) fn rooms(&self) -> Option<&FoundRooms> {
        match self {
            By::Rules(_) => None,
            By::Rooms(rooms) => Some(rooms),
        }
    }
}

impl Found {
    /// `syngate keep` has made it.
    pub(crate) fn is_keep_s(&self) -> bool {
        self.who.as_ref().is_some_and(Who::is_keep)
    }

    /// Its rules refuse health checks, as `--leave` has them.
    pub(crate) fn leaves(&self) -> bool {
        self.who.as_ref().is_some_and(|who| who.action == LEAVE)
    }

    /// The id with which its run holds locks.
    pub(crate) fn run_id(&self) -> &String {
        let of = self.who.as_ref().and_then(|who| who.of.as_ref());
        of.unwrap_or(&self.run)
    }

    /// The ports that are still shut, if its run lives. If that is dead, its guard has all of the rooms.
    pub(crate) fn still_shut(&self) -> PortSet {
        let open = self.by.rooms().map(|rooms| &rooms.open);
        open.map_or_else(|| self.ports.clone(), |open| self.ports.minus(open))
    }

    pub(crate) fn whose(&self) -> String {
        match &self.who {
            Some(who) => format!("pid {} ({})", who.pid, who.command),
            None => format!("run {}", self.run),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::room::orders::Orders;

    #[test]
    fn it_is_named_by_who_made_it() {
        let rooms = FoundRooms {
            guard: RoomGuard {
                pid: 7,
                orders: Orders::made_up(),
            },
            open: [443].into_iter().collect(),
            waiting: 3,
            served: true,
            stranded: 1,
        };
        let of_rooms = By::Rooms(Box::new(rooms.clone()));
        assert_eq!((of_rooms.name(), of_rooms.rooms()), ("room", Some(&rooms)));
        let of_rules = By::Rules(Kind::Nft);
        assert_eq!((of_rules.name(), of_rules.rooms()), ("nft", None));

        let mut found = Found {
            by: of_rules,
            run: "01".to_owned(),
            owned: true,
            who: None,
            ports: PortSet::EMPTY,
            scope: Scope::default(),
            leave_from: Networks::default(),
            syns_stopped: None,
            opens_in: None,
        };
        assert_eq!(found.whose(), "run 01");
        let ports: PortSet = [80, 443].into_iter().collect();
        let parked = Found {
            by: of_rooms,
            ports: ports.clone(),
            ..found.clone()
        };
        assert_eq!(parked.still_shut(), [80].into_iter().collect());
        let ruled = Found {
            ports: ports.clone(),
            ..found.clone()
        };
        assert_eq!(ruled.still_shut(), ports);
        found.who = Some(Who {
            pid: 7,
            command: "service web restart".to_owned(),
            ..Who::default()
        });
        assert_eq!(found.whose(), "pid 7 (service web restart)");
        assert_eq!((found.run_id().as_str(), found.leaves()), ("01", false));
        found.who = Some(Who {
            action: "leave".to_owned(),
            of: Some("02".to_owned()),
            ..Who::default()
        });
        assert_eq!((found.run_id().as_str(), found.leaves()), ("02", true));
    }
}

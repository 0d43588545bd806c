//! Looks now and then at what decisions do not depend on, while a port is shut: whether connections
//! begin that the gate should have stopped, and whether it stops a client that COMMAND or
//! `--ready-check` waits for.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::decide::looks::QUIET;
use crate::kernel::route::Routing;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::holders::{self, Holders};
use crate::kernel::sockets::passing::{
    Caller, Ends, Passing, Progress, accepted, callers, how_many, passing,
};
use crate::kernel::sockets::{Cookies, Looks, Sample};
use crate::process::ancestry::descends_from;
use crate::process::unit::Unit;
use crate::run::report::verdict::HeldUp;
use crate::words::gated::Gated;
use crate::words::ports::PortSet;
use crate::words::scope::{LOOPBACK, Where};
use crate::words::steer::Steer;

/// Interval between these looks.
pub(crate) const ONLOOK_EVERY: Duration = Duration::from_millis(100);
/// A run that has no time for such a look takes it, after so long.
pub(crate) const ONLOOK_OVERDUE: Duration = Duration::from_millis(500);
/// The pause after such a look is this many times as long as the look, so that it takes 5 % of a core
/// at most.
const ONLOOK_PAUSE: u32 = 20;
/// With more TCP sockets in the network namespace, connections that begin are not told from the others;
/// with more together with those in TIME_WAIT, those that are over already are not.
pub(crate) const ONLOOK_CONNECTIONS: usize = 20_000;

/// A client of this host began to wait for the gate while `--ready-check` ran. If the check has not
/// succeeded so long after, it may have asked by way of this client, a proxy.
pub(crate) const ONLOOK_DOUBT: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Onlooker {
    /// `None`: nothing is to be seen any more.
    next: Option<Instant>,
    /// The gate sends SYNs to another listener, and does not stop them.
    redirects: bool,
    /// Of the last look that was like most.
    last_cost: Duration,
    looked_further: bool,
    watches_connections: bool,
    known: Option<Known>,
    /// The sockets whose holders were looked for.
    asked: BTreeSet<u32>,
    pub(super) held_up: HeldUp,
    /// The first client of this host that the check may have asked, and since when it waits.
    asked_by_check: Option<(Instant, String)>,
}

/// The connections that there were just after the gate had closed.
#[derive(Debug)]
struct Known {
    connections: HashSet<Ends>,
    /// The ports that had a listener.
    listening: BTreeSet<u16>,
    /// Those in TIME_WAIT are among them.
    over: bool,
    accepted: Option<u64>,
}

/// What the run knows at one moment.
pub(super) struct View<'a> {
    pub(super) gated: &'a Gated,
    pub(super) shut: &'a PortSet,
    pub(super) before: &'a Sample,
    pub(super) command_runs: bool,
}

/// What there is to be seen.
pub(super) struct Scene<'a> {
    pub(super) view: &'a View<'a>,
    pub(super) sockets: &'a Sockets,
    /// The pid of COMMAND while it runs.
    pub(super) command: Option<i32>,
    /// The pid of `--ready-check` while it runs.
    pub(super) check: Option<i32>,
}

impl Onlooker {
    /// `steer`: that of a gate made of rules.
    pub(super) fn new(closed_at: Instant, steer: Option<Steer>) -> Onlooker {
        Onlooker {
            next: steer.map(|_| closed_at + QUIET),
            redirects: steer.is_some_and(Steer::translates),
            last_cost: Duration::ZERO,
            looked_further: false,
            watches_connections: true,
            known: None,
            asked: BTreeSet::new(),
            held_up: HeldUp::default(),
            asked_by_check: None,
        }
    }

    /// When to look: later, if that took time from what is due at `wake`.
    pub(super) fn due(&self, wake: Option<Instant>, now: Instant) -> Option<Instant> {
        let next = self.next?;
        let due = next.max(now);
        Some(match wake {
            Some(wake) if due + self.last_cost >= wake => now.max(next + ONLOOK_OVERDUE),
            _ => due,
        })
    }

    /// A port was open meanwhile: what has begun then is nobody's fault.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.known = None;
        self.next = self.next.map(|_| now + QUIET);
    }

    /// The gate is open.
    pub(super) fn stop(&mut self) {
        self.next = None;
    }

    /// Connections begin that the gate lets begin: SYNs that were held go on, or SYNPROXY's pass.
    pub(super) fn ignore_connections(&mut self) {
        self.watches_connections = false;
    }

    /// What to warn of. A look that fails says nothing: the run's own looks do.
    pub(super) fn look(&mut self, scene: &Scene, began: Instant) -> Vec<String> {
        let mut warnings = Vec::new();
        if scene.view.shut.is_empty() {
            self.next = Some(began + ONLOOK_EVERY);
            return warnings;
        }
        if self.watches_connections && scene.view.gated.scope.interfaces.is_empty() {
            warnings.extend(self.way_round(scene).unwrap_or_default());
        }
        if !self.redirects && (scene.command.is_some() || scene.check.is_some()) {
            warnings.extend(self.held_up(scene, began).unwrap_or_default());
        }
        if scene.check.is_some() && !self.held_up.check {
            warnings.extend(self.doubt_check(began));
        }
        let now = Instant::now();
        if !std::mem::take(&mut self.looked_further) {
            self.last_cost = now - began;
        }
        self.next = Some(now + ONLOOK_EVERY.max(self.last_cost * ONLOOK_PAUSE));
        warnings
    }

    /// A connection that began on a shut port. Tells of the first one only.
    fn way_round(&mut self, scene: &Scene) -> Result<Option<String>> {
        let netns = scene.sockets.netns();
        let accepted = accepted(netns);
        let ports = scene.view.gated.listen_ports.listeners_of(scene.view.shut);
        let Some(known) = &mut self.known else {
            self.looked_further = true;
            let Some((sockets, over)) = how_many(netns).filter(|n| n.0 <= ONLOOK_CONNECTIONS)
            else {
                self.watches_connections = false;
                return Ok(None);
            };
            let over = sockets + over <= ONLOOK_CONNECTIONS;
            let listed = scene.view.gated.listener_ports();
            // Twice: the kernel lists them in portions, and may pass one by.
            let look = || passing(netns, &listed, over);
            let seen = [look()?, look()?].concat();
            self.known = Some(Known::of(&seen, over, accepted));
            return Ok(None);
        };
        // Nobody has accepted a connection, on any port.
        if accepted.is_some() && accepted == known.accepted {
            return Ok(None);
        }
        known.accepted = accepted;
        let cookies = scene.sockets.sent_cookies_meanwhile()
            || scene.sockets.syn_limits().cookies == Cookies::Always;
        let seen = passing(netns, &ports, known.over)?;
        // A published port of a container is another address to this host's own clients, before any
        // hook that the gate could be in: the manual says so.
        let scope = &scene.view.gated.scope;
        let published = scope.hook == Where::Prerouting && !scene.view.gated.listeners_are_here;
        let lets_local = scope.allow_local || published;
        let mut routing = lets_local.then(Routing::open).transpose()?;
        let mut is_allowed = |passing: &Passing| {
            let peer = passing.peer.ip();
            let is_here = routing.as_mut().is_some_and(|r| r.is_here(peer));
            is_here || scene.view.gated.scope.allow_from.contain(peer)
        };
        let reaches = |passing: &&Passing| {
            let scope = scene.view.gated.listener_scope();
            scope.reaches(passing.local.ip())
        };
        let newcomers = known.newcomers(&seen, cookies);
        let found = newcomers
            .into_iter()
            .find(|one| reaches(one) && !is_allowed(one));
        if found.is_some() {
            self.watches_connections = false;
        }
        Ok(found.map(|one| match self.redirects {
            true => format!(
                "a connection from {} to {} has begun since the gate closed, and was not redirected (a rule \
                 that keeps it from connection tracking?): such clients are refused while nobody listens there",
                one.peer, one.local
            ),
            false => tell_of_way_round(one, scene.view.gated),
        }))
    }

    /// Clients of this host that the gate stops, and that COMMAND, the check or the service's unit has
    /// started.
    fn held_up(&mut self, scene: &Scene, now: Instant) -> Result<Vec<String>> {
        let scope = &scene.view.gated.scope;
        let names = &scope.interfaces;
        if scope.allow_local || !(names.is_empty() || names.iter().any(|name| name == LOOPBACK)) {
            return Ok(Vec::new());
        }
        let mut waiting = callers(scene.view.shut)?;
        waiting.retain(|one| !self.asked.contains(&one.inode));
        if waiting.is_empty() {
            return Ok(Vec::new());
        }
        self.looked_further = true;
        self.asked.extend(waiting.iter().map(|one| one.inode));
        let mut routing = Routing::open()?;
        waiting.retain(|one| {
            let to = one.to.ip();
            let stopped = scope.reaches(to) && !scope.allow_from.contain(one.from.ip());
            // Before the prerouting hook sees it, a published port of a container is another address.
            let met = scope.hook == Where::Input || to.is_loopback();
            stopped && met && routing.is_here(to)
        });
        let inodes: Vec<u32> = waiting.iter().map(|one| one.inode).collect();
        let held = holders::find(&inodes);
        let texts = waiting
            .iter()
            .filter_map(|one| self.tell_of_caller(one, &held, scene, now));
        Ok(texts.collect())
    }

    /// Tells once of COMMAND, and once of the check.
    fn tell_of_caller(
        &mut self,
        one: &Caller,
        held: &Holders,
        scene: &Scene,
        now: Instant,
    ) -> Option<String> {
        let pids = held.iter();
        let pids = pids.filter(|(_, holder)| holder.inodes.contains(&one.inode));
        let pids: Vec<i32> = pids.map(|(pid, _)| *pid).collect();
        let of = |root: Option<i32>| {
            root.is_some_and(|root| pids.iter().any(|pid| descends_from(*pid, root)))
        };
        let stopped = || {
            format!(
                "{} connects to {}, which the gate stops",
                holders::names(held, &[one.inode]),
                one.to
            )
        };
        let (who, told) = if of(scene.check) {
            ("--ready-check", &mut self.held_up.check)
        } else if of(scene.command) || (scene.command.is_some() && of_the_service(&pids, scene)) {
            ("COMMAND", &mut self.held_up.command)
        } else {
            self.held_up.others |= scene.command.is_some();
            if scene.check.is_some() {
                self.asked_by_check.get_or_insert_with(|| (now, stopped()));
            }
            return None;
        };
        (!std::mem::replace(told, true)).then(|| {
            let stopped = stopped();
            format!("{who} waits for the gate: {stopped}: {LETS_LOCAL}")
        })
    }

    /// Tells once of a client that the check may have asked.
    fn doubt_check(&mut self, now: Instant) -> Option<String> {
        let doubted = |(since, _): &mut (Instant, String)| now >= *since + ONLOOK_DOUBT;
        let (_, stopped) = self.asked_by_check.take_if(doubted)?;
        let told = std::mem::replace(&mut self.held_up.asked_by_check, true);
        (!told).then(|| {
            format!(
                "--ready-check may wait for the gate, if it asks by way of a client of this host: {stopped}: \
                 {LETS_LOCAL}"
            )
        })
    }
}

const LETS_LOCAL: &str = "--allow-local lets this host's own clients through";

/// The processes of `ExecStop=` and `ExecReload=`, for which `systemctl` waits.
fn of_the_service(pids: &[i32], scene: &Scene) -> bool {
    let units = |pids: &mut dyn Iterator<Item = i32>| -> BTreeSet<Unit> {
        pids.filter_map(Unit::of).filter(Unit::is_service).collect()
    };
    let own = Unit::of_this_process();
    let service = units(&mut scene.view.before.holders.keys().copied());
    let callers = units(&mut pids.iter().copied());
    let mut shared = callers.intersection(&service);
    shared.any(|unit| own.as_ref() != Some(unit))
}

impl Known {
    fn of(seen: &[Passing], over: bool, accepted: Option<u64>) -> Known {
        Known {
            listening: listening(seen),
            connections: seen.iter().map(Passing::ends).collect(),
            over,
            accepted,
        }
    }

    /// The connections whose handshakes began after the gate had closed: half-open ones that were not
    /// there, and others that were not even half-open. With SYN cookies nothing is seen of a
    /// handshake before its end, so those don't count. Where nobody listened, it may be this host that
    /// has connected to another one, from this port.
    fn newcomers<'a>(&self, seen: &'a [Passing], cookies: bool) -> Vec<&'a Passing> {
        let listening = listening(seen);
        let began = |one: &&Passing| {
            let port = one.local.port();
            match one.state {
                Progress::HalfOpen => true,
                Progress::Established | Progress::Ended => {
                    !cookies && self.listening.contains(&port) && listening.contains(&port)
                }
                Progress::Listening => false,
            }
        };
        let new = seen
            .iter()
            .filter(|one| !self.connections.contains(&one.ends()));
        new.filter(began).collect()
    }
}

/// The ports of the listeners.
fn listening(seen: &[Passing]) -> BTreeSet<u16> {
    let listeners = seen.iter().filter(|one| one.state == Progress::Listening);
    listeners.map(|one| one.local.port()).collect()
}

fn tell_of_way_round(one: &Passing, gated: &Gated) -> String {
    let hint = match (gated.listeners_are_here, gated.scope.hook) {
        (false, Where::Input) => {
            "its listener is in another network namespace, whose packets --hook prerouting sees"
        }
        (false, Where::Prerouting) => "clients of the container's own address pass by that hook",
        (true, _) => "a rule before the gate's, or NAT from another port?",
    };
    format!(
        "there is a way round the gate: a connection from {} to {} has begun since it closed ({hint})",
        one.peer, one.local
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(peer: &str, port: u16, state: Progress) -> Passing {
        Passing {
            local: ([10, 0, 0, 1], port).into(),
            peer: peer.parse().unwrap(),
            state,
        }
    }

    #[test]
    fn a_connection_that_begins_is_told_from_one_in_flight() {
        use Progress::{Ended, Established, HalfOpen, Listening};
        let listener = one("0.0.0.0:0", 80, Listening);
        let before = [
            listener,
            one("10.0.0.2:1", 80, HalfOpen),
            one("10.0.0.2:2", 80, Established),
        ];
        let known = Known::of(&before, true, None);
        let new = |seen: &[Passing], cookies| known.newcomers(seen, cookies).len();
        for (peer, port, state, cookies, expected) in [
            ("10.0.0.2:1", 80, Established, false, 0),
            ("10.0.0.2:2", 80, Established, false, 0),
            ("10.0.0.2:3", 80, Established, false, 1),
            ("10.0.0.2:3", 80, Established, true, 0),
            ("10.0.0.2:3", 80, HalfOpen, true, 1),
            ("10.0.0.2:3", 80, Ended, false, 1),
            ("10.0.0.2:3", 80, Ended, true, 0),
            // Nobody listened there: this host's own connection to another one.
            ("10.0.0.2:443", 81, Established, false, 0),
        ] {
            let seen = [listener, one(peer, port, state)];
            assert_eq!(new(&seen, cookies), expected, "{peer} {port} {state:?}");
        }
        assert_eq!(new(&[one("10.0.0.2:3", 80, Established)], false), 0);
    }

    #[test]
    fn it_looks_when_there_is_time() {
        let now = Instant::now();
        let mut onlooker = Onlooker::new(now, Some(Steer::Drop));
        let (due, overdue) = (now + QUIET, now + QUIET + ONLOOK_OVERDUE);
        assert_eq!(onlooker.due(None, now), Some(due));
        assert_eq!(onlooker.due(Some(due), now), Some(overdue));
        onlooker.last_cost = ONLOOK_EVERY;
        assert_eq!(onlooker.due(Some(due + ONLOOK_EVERY), now), Some(overdue));
        let late = overdue + QUIET;
        assert_eq!(onlooker.due(Some(late), late), Some(late));
        assert!(Onlooker::new(now, None).due(None, now).is_none());
    }
}

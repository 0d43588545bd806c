//! Looks now and then while a port is closed. No decision depends on what it finds, only warnings and hints do:
//! connections that the gate should have stopped; a client that the gate stops while COMMAND or `--ready-check` waits
//! for it; a service that listens again long before COMMAND ends.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::decide::looks::QUIET;
use crate::decide::readiness::is_covered;
use crate::kernel::route::Routing;
use crate::kernel::sockets::holders::{self, Holders};
use crate::kernel::sockets::passing::{Caller, callers};
use crate::kernel::sockets::{Sample, SocketId};
use crate::process::ancestry::descends_from;
use crate::process::unit::Unit;
use crate::run::report::verdict::HeldUp;
use crate::run::scene::Scene;
use crate::run::way_round::WayRound;
use crate::words::scope::{LOOPBACK, Where};
use crate::words::steer::Steer;

/// Interval between these looks.
pub(crate) const ONLOOK_EVERY: Duration = Duration::from_millis(100);
/// A run that has no time for such a look takes it, after so long.
pub(crate) const ONLOOK_OVERDUE: Duration = Duration::from_millis(500);
/// The pause after such a look is this many times as long as the look, so that it takes 5 % of a core
/// at most.
const ONLOOK_PAUSE: u32 = 20;
/// The look before the ports open is left out if one takes longer.
const LAST_LOOK: Duration = Duration::from_millis(5);

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
    way_round: WayRound,
    /// The sockets whose holders were looked for.
    asked: BTreeSet<u32>,
    pub(super) held_up: HeldUp,
    /// COMMAND still ran when new listeners were seen in the place of all that were there before.
    pub(super) replaced_at: Option<Instant>,
    /// The first client of this host that the check with this pid may have asked, and since when it waits.
    asked_by_check: Option<(i32, Instant, String)>,
}

impl Onlooker {
    /// `steer`: that of a gate made of rules.
    pub(super) fn new(closed_at: Instant, steer: Option<Steer>) -> Onlooker {
        Onlooker {
            next: steer.map(|_| closed_at + QUIET),
            redirects: steer.is_some_and(Steer::translates),
            last_cost: Duration::ZERO,
            looked_further: false,
            way_round: WayRound::new(steer),
            asked: BTreeSet::new(),
            held_up: HeldUp::default(),
            replaced_at: None,
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
        self.way_round.begin_anew();
        self.next = self.next.map(|_| now + QUIET);
    }

    /// The gate is open.
    pub(super) fn stop(&mut self) {
        self.next = None;
        self.way_round.stop();
    }

    /// Connections begin that the gate lets begin: SYNs that were held go on, or SYNPROXY's pass.
    pub(super) fn ignore_connections(&mut self) {
        self.way_round.stop();
    }

    /// The last look before ports open, or before the action lets SYNs go on: it must not keep them waiting.
    pub(super) fn look_round(&mut self, scene: &Scene) -> Option<String> {
        let costs = !self.way_round.costs_nothing() && self.last_cost > LAST_LOOK;
        if self.next.is_none() || costs || self.way_round.begins() {
            return None;
        }
        self.way_round.look(scene).unwrap_or_default()
    }

    /// What to warn of. A look that fails says nothing: the run's own looks do.
    pub(super) fn look(&mut self, scene: &Scene, began: Instant) -> Vec<String> {
        let mut warnings = Vec::new();
        if scene.view.shut.is_empty() {
            self.next = Some(began + ONLOOK_EVERY);
            return warnings;
        }
        self.looked_further = self.way_round.begins();
        warnings.extend(self.way_round.look(scene).unwrap_or_default());
        if !self.redirects && (scene.command.is_some() || scene.check.is_some()) {
            warnings.extend(self.held_up(scene, began).unwrap_or_default());
        }
        if let Some(check) = scene.check.filter(|_| !self.held_up.check) {
            warnings.extend(self.doubt_check(check, began));
        }
        let now = Instant::now();
        if !std::mem::take(&mut self.looked_further) {
            self.last_cost = now - began;
        }
        self.next = Some(now + ONLOOK_EVERY.max(self.last_cost * ONLOOK_PAUSE));
        warnings
    }

    /// While COMMAND runs: whether others listen now in the place of all that did before.
    pub(super) fn compare(&mut self, before: &Sample, now: &Sample, at: Instant) {
        let before = before.lasting(&before.sessions);
        let now = &now.listeners;
        let stays = |old: SocketId| now.iter().any(|one| one.id == old);
        let mut gone = before.iter();
        let replaced = !before.is_empty() && gone.all(|old| !stays(old.id) && is_covered(old, now));
        self.replaced_at = self.replaced_at.or(Some(at)).filter(|_| replaced);
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
        let (who, told, opens) = if of(scene.check) {
            ("--ready-check", &mut self.held_up.check, "")
        } else if of(scene.command) || (scene.command.is_some() && of_the_service(&pids, scene)) {
            let opens = if scene.view.watches {
                OPENS_BY_LISTENER
            } else {
                ""
            };
            ("COMMAND", &mut self.held_up.command, opens)
        } else {
            self.held_up.others |= scene.command.is_some();
            // One that has ended by itself has not waited.
            self.asked_by_check
                .take_if(|asked| Some(asked.0) != scene.check);
            if let Some(check) = scene.check {
                self.asked_by_check
                    .get_or_insert_with(|| (check, now, stopped()));
            }
            return None;
        };
        (!std::mem::replace(told, true)).then(|| {
            let stopped = stopped();
            format!("{who} waits for the gate: {stopped}; {opens}{LETS_LOCAL}")
        })
    }

    /// Tells once of a client that the check may have asked.
    fn doubt_check(&mut self, check: i32, now: Instant) -> Option<String> {
        let doubted = |(asker, since, _): &mut (i32, Instant, String)| {
            *asker == check && now >= *since + ONLOOK_DOUBT
        };
        let (.., stopped) = self.asked_by_check.take_if(doubted)?;
        let told = std::mem::replace(&mut self.held_up.asked_by_check, true);
        (!told).then(|| {
            format!(
                "--ready-check may wait for the gate: {stopped}; if the check asks by way of that client, \
                 {LETS_ALL_LOCAL}"
            )
        })
    }
}

const OPENS_BY_LISTENER: &str = "each port opens once a new process listens there, and ";
const LETS_LOCAL: &str = "syngate clear opens the gate now; the next time, use --syn park, which lets this \
                          client through, or --allow-local, which lets all clients of this host through";
const LETS_ALL_LOCAL: &str = "syngate clear opens the gate now; the next time, use --allow-local, which \
                              lets all clients of this host through";

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tale::on_80;

    #[test]
    fn a_service_is_back_once_no_old_listener_is_left() {
        let mut onlooker = Onlooker::new(Instant::now(), Some(Steer::Drop));
        let mut seen = |before: &[u64], now: &[u64], ms: u64| {
            let at = Instant::now() + Duration::from_millis(ms);
            onlooker.compare(&on_80(before), &on_80(now), at);
            onlooker.replaced_at.map(|since| since == at)
        };
        assert_eq!(seen(&[], &[], 0), None);
        assert_eq!(seen(&[1], &[1], 0), None);
        assert_eq!(seen(&[1], &[], 0), None);
        assert_eq!(seen(&[1], &[1, 2], 0), None);
        assert_eq!(seen(&[1], &[2], 0), Some(true));
        assert_eq!(seen(&[1], &[2], 100), Some(false), "since the first look");
        assert_eq!(seen(&[1], &[], 200), None, "it has gone again");
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

//! `syngate clear` removes what dead runs have left, and has living runs open their gates.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::action::list;
use crate::action::rooms::left;
use crate::cli::ClearArgs;
use crate::gate::found::{Found, FoundRooms};
use crate::gate::rooms::{self, LeftGroup};
use crate::gate::standing::{Census, erase, find};
use crate::process::cmdline::call_of;
use crate::process::lock::{self, Living};
use crate::process::poll::comes_true;
use crate::process::send::send;
use crate::tell::say::Say;
use crate::words::count::counted;
use crate::words::exit::{Exit, NOT_RUN};
use crate::words::ports::PortSet;

/// The exit status if something is still shut.
const NOT_CLEARED: u8 = 1;
/// How often clear looks whether a run has done what it was asked for.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(crate) fn run(args: &ClearArgs, say: &Say) -> Exit {
    if !crate::kernel::caps::net_admin() {
        say.error(crate::kernel::caps::NEEDED_TO_OPEN);
        return Exit::Status(NOT_RUN);
    }
    let clearing = Clearing {
        say,
        timeout: args.timeout,
        force: args.force,
    };
    let wanted = args
        .ports
        .iter()
        .fold(PortSet::EMPTY, |all, p| all.union(p));
    let concerns = |ports: &PortSet| wanted.is_empty() || !wanted.intersection(ports).is_empty();

    let sight = find();
    clearing.warn_of(&sight.unseen);
    let mut census = Census::default();
    let mut cleared = sight.unseen.is_empty();
    let mut runs = clearing.runs(&mut census);
    for gate in &still_shut(&sight.gates, &mut census) {
        let run = census.run_of(gate);
        // A run with many ranges has locked all ports between them too.
        let ports = match &run {
            Some(run) if gate.ports.is_empty() => run.ports.clone(),
            // Who opens the gated ports means what the run refuses for their sake.
            Some(run) if gate.leaves() => gate.ports.union(&run.ports),
            _ => gate.ports.clone(),
        };
        if !concerns(&ports) {
            continue;
        }
        // A run that keeps its locks in another directory is not among them yet.
        let elsewhere = run.iter().filter(|run| !runs.contains(run));
        let elsewhere: Vec<Living> = elsewhere.cloned().collect();
        runs.extend(elsewhere);
        cleared &= match (run, census.is_stale(gate)) {
            (Some(run), _) if gate.is_keep_s() => clearing.let_keep(gate, &run),
            (Some(run), _) => clearing.open(gate, &run),
            (None, Some(true)) => clearing.remove(gate),
            (None, None) if args.force && !gate.owned => clearing.remove(gate),
            (None, _) => clearing.leave(gate),
        };
    }
    for run in runs.iter().filter(|run| concerns(&run.ports)) {
        if args.force {
            cleared &= clearing.end(run);
        } else if !sight.unseen.is_empty() {
            clearing.ask(run);
        }
    }
    if wanted.is_empty() {
        cleared &= clearing.dissolve(&census.left_groups());
    }
    clearing.warn_of(&census.unseen);
    cleared &= clearing.take_back() && census.unseen.is_empty();
    Exit::Status(if cleared { 0 } else { NOT_CLEARED })
}

/// The gates without the ports that living runs have opened again.
fn still_shut(gates: &[Found], census: &mut Census) -> Vec<Found> {
    let gates = gates.iter().map(|gate| match census.is_stale(gate) {
        Some(false) => Found {
            ports: gate.still_shut(),
            ..gate.clone()
        },
        _ => gate.clone(),
    });
    gates.collect()
}

/// What became of the connections that waited.
fn fate(rooms: &FoundRooms) -> String {
    let (waiting, reset) = (rooms.waiting, rooms.stranded);
    let mut fate = String::new();
    if waiting > reset {
        let moved = counted(waiting - reset, "connection");
        fate.push_str(&format!("; {moved} handed over to the service"));
    }
    if reset > 0 {
        let reset = counted(reset, "connection");
        fate.push_str(&format!("; {reset} reset, since nobody listens"));
    }
    fate
}

struct Clearing<'a> {
    say: &'a Say,
    timeout: Duration,
    force: bool,
}

impl Clearing<'_> {
    /// The runs that may have to open their gates, or to end.
    fn runs(&self, census: &mut Census) -> Vec<Living> {
        let mut runs = census.living().to_vec();
        if self.force {
            runs.extend_from_slice(census.keeps());
        }
        runs
    }

    /// Removes what a dead run has left.
    fn remove(&self, gate: &Found) -> bool {
        let (ports, whose) = (gate.ports.brief(), gate.whose());
        match erase(gate) {
            Ok(()) => {
                let what = if gate.ports.is_empty() {
                    "rules"
                } else {
                    &ports
                };
                let fate = gate.by.rooms().map(fate).unwrap_or_default();
                self.say.result(&format!(
                    "cleared {what}, left by a dead run: {whose}{fate}"
                ));
                true
            }
            Err(error) => {
                self.say.error(&format!(
                    "{ports}, left by a dead run ({whose}), can't be removed: {error:#}"
                ));
                false
            }
        }
    }

    fn warn_of(&self, unseen: &[String]) {
        for what in unseen {
            self.say.warning(&format!("not seen: {what}"));
        }
    }

    /// Control groups stop nothing.
    fn dissolve(&self, groups: &[LeftGroup]) -> bool {
        let mut all = true;
        for group in groups {
            let (path, run) = (group.path.display(), &group.run);
            let gone = rooms::dissolve(&group.path);
            match gone {
                true => self.say.result(&format!(
                    "removed the control group of a dead run: {path} (run {run})"
                )),
                false => self.say.error(&format!(
                    "the control group of a dead run ({run}) can't be removed: {path}"
                )),
            }
            all &= gone;
        }
        all
    }

    /// Takes back what dead runs have left of their waiting rooms.
    fn take_back(&self) -> bool {
        let taken = left::take_back();
        let failed = taken.as_ref().err();
        let failed = failed.map(|error| format!("not seen: waiting rooms of dead runs: {error:#}"));
        failed.iter().for_each(|text| self.say.warning(text));
        let taken = taken.unwrap_or_default();
        for one in &taken {
            match one.done {
                Ok(()) => self.say.result(&one.words()),
                Err(_) => self.say.error(&one.words()),
            }
        }
        failed.is_none() && taken.iter().all(|one| one.done.is_ok())
    }

    /// A living keep stops nobody.
    fn let_keep(&self, gate: &Found, keep: &Living) -> bool {
        if !self.force {
            let (ports, holder) = (gate.ports.brief(), &keep.holder);
            self.say.result(&format!(
                "{ports}: no gate is closed, and {holder} keeps it (--force ends that)"
            ));
        }
        true
    }

    /// Has a living run open its gate. The run goes on with its COMMAND.
    fn open(&self, gate: &Found, run: &Living) -> bool {
        if gate.ports.is_empty() {
            self.tell_what_goes_on(gate, run);
            return true;
        }
        let (ports, holder) = (gate.ports.brief(), &run.holder);
        if !self.signal(run, Signal::SIGUSR1) {
            return false;
        }
        let id = &gate.run;
        let is_open = || {
            let sight = find();
            let shut = |g: &Found| g.run == *id && !g.ports.is_empty();
            // Where clear can't look, something may be closed.
            sight.unseen.is_empty() && !sight.gates.iter().any(shut)
        };
        let by_run = comes_true(is_open, LOOK_EVERY, self.timeout);
        // The kernel keeps no deadline for a room.
        let guard = gate
            .by
            .rooms()
            .map(|rooms| &rooms.guard)
            .filter(|_| !by_run);
        let woken = guard.is_some_and(|guard| rooms::wake(guard).is_ok());
        let opened = by_run || woken && comes_true(is_open, LOOK_EVERY, self.timeout);
        if opened {
            let fate = gate.by.rooms().map(fate).unwrap_or_default();
            let of = if by_run { "" } else { "the guard of " };
            self.say.result(&format!(
                "{ports} is open: {of}{holder} has opened its gate{fate}"
            ));
        } else if !self.force {
            let timeout = humantime::format_duration(self.timeout);
            self.say.error(&format!(
                "{ports}: {holder} did not open its gate within {timeout}: --force ends it"
            ));
        }
        opened || self.force
    }

    /// The gate is open and its rules stay, as for connections to a standby.
    fn tell_what_goes_on(&self, gate: &Found, run: &Living) {
        let who = gate.who.as_ref().filter(|_| !self.force);
        if let Some(what) = who.and_then(|who| list::standing(&who.action).0.open) {
            let holder = &run.holder;
            self.say.result(&format!(
                "no gate is closed: {holder} has opened it, and {what} (--force ends that)"
            ));
        }
    }

    /// Has a run open whose gate may be among those that can't be seen.
    fn ask(&self, run: &Living) {
        if self.signal(run, Signal::SIGUSR1) {
            let ports = run.ports.brief();
            self.say.result(&format!(
                "{ports}: syngate told {} to open its gate, and can't see whether it was closed",
                run.holder
            ));
        }
    }

    /// Sends TERM twice, as a user would: a run passes the first one on to COMMAND, and stops waiting
    /// for COMMAND at the second one. Then sends KILL, and removes rules that the kernel leaves.
    fn end(&self, run: &Living) -> bool {
        let holder = &run.holder;
        // The name comes from /proc, so it is gone once the run is.
        let name = holder.to_string();
        let gone = || {
            let roll = lock::roll(run.of, &run.directory);
            roll.is_ok_and(|roll| roll.living.iter().all(|r| r.holder.run != holder.run))
        };
        for signal in [Signal::SIGTERM, Signal::SIGTERM, Signal::SIGKILL] {
            let commands = commands_of(holder.pid);
            if !self.signal(run, signal) {
                return gone();
            }
            if comes_true(gone, LOOK_EVERY, self.timeout) {
                self.say.result(&format!("{name} was ended by {signal}"));
                // A run that hangs has passed nothing on to it.
                let lives = |(pid, call): &(i32, String)| call_of(*pid).as_ref() == Some(call);
                for (pid, call) in commands
                    .iter()
                    .filter(|one| signal == Signal::SIGKILL && lives(one))
                {
                    self.say
                        .result(&format!("COMMAND goes on: {call}; kill {pid} ends it"));
                }
                return comes_true(|| self.nothing_left(run), LOOK_EVERY, self.timeout);
            }
        }
        self.say.error(&format!("{name} can't be ended"));
        false
    }

    fn nothing_left(&self, run: &Living) -> bool {
        let sight = find();
        let left = sight.gates.iter();
        let mut left = left.filter(|gate| gate.run == run.holder.run && !gate.owned);
        left.all(|gate| erase(gate).is_ok()) && sight.unseen.is_empty()
    }

    /// Leaves what may be a living run's. Rules that shut nothing do no harm.
    fn leave(&self, gate: &Found) -> bool {
        if gate.ports.is_empty() {
            self.say.result(&format!(
                "syngate leaves rules alone that stop nothing, since it can't see from here whether their run is alive \
                 (--force removes them): {}",
                gate.whose()
            ));
            return true;
        }
        self.say.error(&format!(
            "{}: syngate can't see from here whether its run is alive, and leaves the gate alone (--force removes \
             it): {}",
            gate.ports.brief(),
            gate.whose()
        ));
        false
    }

    fn signal(&self, run: &Living, signal: Signal) -> bool {
        let holder = &run.holder;
        // The kernel shows 0 for a process in another pid namespace. To kill(2), 0 is our own process
        // group.
        if holder.pid <= 0 {
            self.say.error(&format!(
                "{}: its run is in another pid namespace: clear it from there, or from the host",
                run.ports.brief()
            ));
            return false;
        }
        let holds = || {
            let roll = lock::roll(run.of, &run.directory);
            roll.is_ok_and(|roll| roll.living.iter().any(|r| r.holder == *holder))
        };
        match send(signal, holder.pid, holds) {
            Ok(()) => true,
            Err(error) => {
                self.say
                    .error(&format!("{signal} to {holder}: {}", error.desc()));
                false
            }
        }
    }
}

/// What a run has started, with the command lines: COMMAND, and no guards. Nothing where the kernel does not list
/// children (CONFIG_PROC_CHILDREN).
fn commands_of(run: i32) -> Vec<(i32, String)> {
    let children = std::fs::read_to_string(format!("/proc/{run}/task/{run}/children"));
    let children = children.unwrap_or_default();
    let pids = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    pids.filter_map(|pid| Some((pid, call_of(pid)?)))
        .filter(|(_, call)| !call.starts_with("gate-"))
        .collect()
}

//! `syngate status` tells which gates are closed in this network namespace, who closed them, and until when.

mod words;

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use crate::action::rooms::left::dead as dead_notes;
use crate::cli::StatusArgs;
use crate::gate::counted;
use crate::gate::counts::Counts;
use crate::gate::found::Found;
use crate::gate::standing::{Census, Sight, find};
use crate::gate::who::KEEP;
use crate::process::cmdline::call_of;
use crate::process::lock::Living;
use crate::tell::say::Say;
use crate::words::exit::{Exit, NOT_TOLD};
use crate::words::ports::PortSet;
use crate::words::ports::as_ranges;
use crate::words::scope::{Scope, Where, short};

/// The exit status if something is closed.
const SHUT: u8 = 3;

pub(crate) fn run(args: &StatusArgs, say: &Say) -> Exit {
    let wanted = args.ports.iter();
    let wanted = wanted.fold(PortSet::EMPTY, |all, ports| all.union(ports));
    let status = look().on(&wanted);
    if args.quiet {
        return Exit::Status(status.exit());
    }
    for what in &status.unseen {
        say.warning(&format!("not seen: {what}"));
    }
    let text = if args.json {
        let json = serde_json::to_string_pretty(&status).expect("all of it has a form in JSON");
        format!("{json}\n")
    } else {
        status.to_string()
    };
    say.print(&text, Exit::Status(status.exit()), NOT_TOLD)
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Status {
    version: u32,
    gates: Vec<Entry>,
    left: Vec<Left>,
    unseen: Vec<String>,
}

/// What a dead run has left that stops nothing.
#[derive(Debug, Serialize)]
struct Left {
    control_group: Option<PathBuf>,
    /// The file that tells what was given to listeners.
    note: Option<PathBuf>,
    run: String,
}

/// A gate that stands, or a run without a gate, or a run whose gate can't be seen.
#[derive(Debug, Serialize)]
struct Entry {
    state: Position,
    /// What its run has locked.
    #[serde(skip)]
    locked: PortSet,
    /// Whether its run is dead; null if that can't be told.
    stale: Option<bool>,
    #[serde(serialize_with = "as_ranges")]
    ports: PortSet,
    run: Option<String>,
    pid: Option<u32>,
    command: Option<String>,
    since: Option<String>,
    #[serde(skip)]
    since_unix: Option<u64>,
    backend: Option<&'static str>,
    /// Whether the kernel removes it when its run ends.
    owned: Option<bool>,
    action: Option<String>,
    scope: Option<ScopeRow>,
    /// Whose health checks are refused; null unless the state is `leaving`, empty: everybody's.
    leave_from: Option<Vec<String>>,
    #[serde(skip)]
    narrowed: String,
    syns_stopped: Option<u64>,
    /// The connections that wait in rooms; null without rooms.
    waiting: Option<usize>,
    /// How many of them wait where nobody listens.
    #[serde(skip)]
    stranded: usize,
    /// The longest gap in which a keep lets connections wait.
    #[serde(skip)]
    max_wait: Option<Duration>,
    opens_in_ms: Option<u64>,
    /// null for runs.
    kept: Option<KeptRow>,
}

/// The gaps that a keep has seen so far.
#[derive(Debug, Serialize)]
struct KeptRow {
    /// Those that the keep has, also where nobody listens.
    #[serde(serialize_with = "as_ranges")]
    ports: PortSet,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Position {
    Shut,
    Open,
    /// By `syngate keep`: new connections wait only while nobody listens.
    Kept,
    /// By `--leave`: new connections are refused.
    Leaving,
    /// There is a run, and its rules can't be seen.
    Unknown,
}

#[derive(Debug, Serialize)]
struct ScopeRow {
    hook: &'static str,
    to: Vec<String>,
    allow_from: Vec<String>,
    allow_local: bool,
    interfaces: Vec<String>,
}

/// Learns from the rules what is closed, and from the locks which runs live.
fn look() -> Status {
    let Sight { gates, mut unseen } = find();
    let mut census = Census::default();
    let blind = !unseen.is_empty();
    let mut rows: Vec<Entry> = Vec::new();
    for gate in &gates {
        let living = census.run_of(gate);
        let stale = census.is_stale(gate);
        rows.push(Entry::standing(gate, living.as_ref(), stale));
    }
    let known = |run: &Living| gates.iter().any(|gate| *gate.run_id() == run.holder.run);
    for run in census.living().iter().filter(|run| !known(run)) {
        rows.push(Entry::of_run(run, blind));
    }
    for keep in census.keeps().iter().filter(|keep| !known(keep)) {
        rows.push(Entry {
            state: Position::Kept,
            action: Some(KEEP.to_owned()),
            kept: Some(KeptRow::of(&keep.holder.run, &keep.ports)),
            ..Entry::of_run(keep, blind)
        });
    }
    let left = left(&mut census, &mut unseen);
    unseen.extend(census.unseen);
    Status {
        version: 1,
        gates: rows,
        left,
        unseen,
    }
}

fn left(census: &mut Census, unseen: &mut Vec<String>) -> Vec<Left> {
    let groups = census.left_groups().into_iter().map(|group| Left {
        control_group: Some(group.path),
        note: None,
        run: group.run,
    });
    let notes = dead_notes().unwrap_or_else(|error| {
        unseen.push(format!("waiting rooms of dead runs: {error:#}"));
        Vec::new()
    });
    let notes = notes.into_iter().map(|(run, note)| Left {
        control_group: None,
        note: Some(note),
        run,
    });
    groups.chain(notes).collect()
}

impl Entry {
    fn standing(gate: &Found, living: Option<&Living>, stale: Option<bool>) -> Entry {
        let who = gate.who.as_ref();
        let pid = living.map(|run| run.holder.pid).filter(|pid| *pid > 0);
        let closed = match stale {
            Some(false) => gate.still_shut(),
            _ => gate.ports.clone(),
        };
        let shut = !closed.is_empty();
        let leaves = shut && gate.leaves();
        let since_unix = who.map(|who| who.since);
        Entry {
            state: match shut {
                true if gate.is_keep_s() => Position::Kept,
                true if gate.leaves() => Position::Leaving,
                true => Position::Shut,
                false => Position::Open,
            },
            stale,
            locked: living.map_or(PortSet::EMPTY, |run| run.ports.clone()),
            ports: match living {
                Some(run) if !shut => run.ports.clone(),
                _ => closed,
            },
            run: Some(gate.run_id().clone()),
            pid: pid.map(i32::unsigned_abs).or(who.map(|who| who.pid)),
            command: pid.and_then(call_of).or(who.map(|who| who.command.clone())),
            since: since_unix.and_then(date),
            since_unix,
            backend: Some(gate.by.name()),
            owned: Some(gate.owned),
            action: who.map(|who| who.action.clone()),
            scope: Some(ScopeRow::from(&gate.scope)),
            leave_from: leaves.then(|| gate.leave_from.all().iter().map(short).collect()),
            narrowed: match leaves && !gate.leave_from.is_empty() {
                true => format!("--leave-from {}", gate.leave_from),
                false if leaves => String::new(),
                false => gate.scope.to_string(),
            },
            syns_stopped: gate.syns_stopped,
            waiting: gate.by.rooms().map(|rooms| rooms.waiting),
            stranded: gate.by.rooms().map_or(0, |rooms| rooms.stranded),
            max_wait: gate.by.rooms().and_then(|rooms| rooms.guard.orders.keeps),
            opens_in_ms: gate.opens_in.filter(|_| shut).map(|t| t.as_millis() as u64),
            kept: gate.is_keep_s().then(|| {
                let ports = living.map_or(&gate.ports, |keep| &keep.ports);
                KeptRow::of(&gate.run, ports)
            }),
        }
    }

    /// For a run without rules that can be seen. `blind`: there may be some that can't be seen.
    fn of_run(run: &Living, blind: bool) -> Entry {
        let pid = Some(run.holder.pid).filter(|pid| *pid > 0);
        Entry {
            state: if blind {
                Position::Unknown
            } else {
                Position::Open
            },
            stale: Some(false),
            ports: run.ports.clone(),
            locked: run.ports.clone(),
            run: Some(run.holder.run.clone()).filter(|run| !run.is_empty()),
            pid: pid.map(i32::unsigned_abs),
            command: pid.and_then(call_of),
            since: None,
            since_unix: None,
            backend: None,
            owned: None,
            action: None,
            scope: None,
            leave_from: None,
            narrowed: String::new(),
            syns_stopped: None,
            waiting: None,
            stranded: 0,
            max_wait: None,
            opens_in_ms: None,
            kept: None,
        }
    }

    /// Somebody asks for ports that the run has opened again, or not shut yet.
    fn tell_of_open_ports(&mut self) {
        self.state = Position::Open;
        self.ports = self.locked.minus(&self.ports);
        self.opens_in_ms = None;
        self.stranded = 0;
    }

    /// A run whose rules can't be seen probably has some.
    fn may_be_shut(&self) -> bool {
        !matches!(self.state, Position::Open | Position::Kept)
    }
}

impl KeptRow {
    /// Of a keep that has no file yet there is nothing to tell.
    fn of(keep: &str, ports: &PortSet) -> KeptRow {
        KeptRow {
            ports: ports.clone(),
            counts: counted::of(keep).unwrap_or_default(),
        }
    }
}

/// `None` for years of five digits: the second comes from a rule's comment, which may say anything.
fn date(unix: u64) -> Option<String> {
    const LAST: u64 = 253_402_300_799;
    let at = (unix <= LAST).then(|| UNIX_EPOCH + Duration::from_secs(unix))?;
    Some(humantime::format_rfc3339_seconds(at).to_string())
}

impl From<&Scope> for ScopeRow {
    fn from(scope: &Scope) -> ScopeRow {
        ScopeRow {
            hook: match scope.hook {
                Where::Input => "input",
                Where::Prerouting => "prerouting",
            },
            to: scope.to.all().iter().map(short).collect(),
            allow_from: scope.allow_from.all().iter().map(short).collect(),
            allow_local: scope.allow_local,
            interfaces: scope.interfaces.clone(),
        }
    }
}

impl Status {
    /// What concerns one of these ports, or all if there are none.
    fn on(mut self, ports: &PortSet) -> Status {
        if !ports.is_empty() {
            let concerns = |own: &PortSet| !own.intersection(ports).is_empty();
            for gate in &mut self.gates {
                if gate.state == Position::Shut && !concerns(&gate.ports) {
                    gate.tell_of_open_ports();
                }
            }
            self.gates
                .retain(|gate| concerns(&gate.ports) || concerns(&gate.locked));
            self.left.clear();
        }
        self
    }

    /// "Nothing is closed" is said only after every look has had its answer.
    fn exit(&self) -> u8 {
        match self.gates.iter().any(Entry::may_be_shut) {
            true => SHUT,
            false if self.unseen.is_empty() => 0,
            false => NOT_TOLD,
        }
    }
}

/// What holds for any gate that is found.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(gate: &Found) {
    let gate = Entry::standing(gate, None, None);
    assert!(!gate.headline().is_empty() && !gate.paragraph().is_empty());
    assert!(serde_json::to_string(&gate).is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_years_of_four_digits() {
        assert_eq!(date(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(
            date(253_402_300_799).as_deref(),
            Some("9999-12-31T23:59:59Z")
        );
        assert_eq!(date(253_402_300_800), None);
        assert_eq!(date(u64::MAX), None);
    }
}

//! `syngate status`: what is shut in this network namespace, by whom, until when.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use crate::action::contract::Standing;
use crate::action::list;
use crate::action::rooms::left::dead as dead_notes;
use crate::cli::StatusArgs;
use crate::gate::counted;
use crate::gate::counts::Counts;
use crate::gate::found::Found;
use crate::gate::here::now;
use crate::gate::standing::{Census, Sight, find};
use crate::gate::who::KEEP;
use crate::process::cmdline::call_of;
use crate::process::lock::Living;
use crate::tell::say::Say;
use crate::words::count::{counted, counted_does};
use crate::words::exit::{Exit, NOT_TOLD};
use crate::words::ports::PortSet;
use crate::words::ports::as_ranges;
use crate::words::scope::{Scope, Where, short};

/// The exit status if something is shut.
const SHUT: u8 = 3;

pub(crate) fn run(args: &StatusArgs, say: &Say) -> Exit {
    let status = look();
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

/// A gate that stands, or a run that has none or whose gate can't be seen.
#[derive(Debug, Serialize)]
struct Entry {
    state: Position,
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

/// What a keep has bridged so far.
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

/// Learns from the rules what is shut, and from the locks which runs live.
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
    let known = |run: &Living| gates.iter().any(|gate| gate.run == run.holder.run);
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
        let shut = !gate.ports.is_empty();
        let since_unix = who.map(|who| who.since);
        Entry {
            state: match shut {
                true if gate.is_keep_s() => Position::Kept,
                true => Position::Shut,
                false => Position::Open,
            },
            stale,
            ports: match living {
                Some(run) if !shut => run.ports.clone(),
                _ => gate.ports.clone(),
            },
            run: Some(gate.run.clone()),
            pid: pid.map(i32::unsigned_abs).or(who.map(|who| who.pid)),
            command: pid.and_then(call_of).or(who.map(|who| who.command.clone())),
            since: since_unix.and_then(date),
            since_unix,
            backend: Some(gate.by.name()),
            owned: Some(gate.owned),
            action: who.map(|who| who.action.clone()),
            scope: Some(ScopeRow::from(&gate.scope)),
            narrowed: gate.scope.to_string(),
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
            run: Some(run.holder.run.clone()).filter(|run| !run.is_empty()),
            pid: pid.map(i32::unsigned_abs),
            command: pid.and_then(call_of),
            since: None,
            since_unix: None,
            backend: None,
            owned: None,
            action: None,
            scope: None,
            narrowed: String::new(),
            syns_stopped: None,
            waiting: None,
            stranded: 0,
            max_wait: None,
            opens_in_ms: None,
            kept: None,
        }
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

fn waiting_words(waiting: usize) -> String {
    counted_does(waiting, "connection", ["waits", "wait"])
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
    /// "Nothing is shut" is said only after every look has had its answer.
    fn exit(&self) -> u8 {
        match self.gates.iter().any(Entry::may_be_shut) {
            true => SHUT,
            false if self.unseen.is_empty() => 0,
            false => NOT_TOLD,
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.gates.is_empty() {
            f.write_str(match self.unseen.is_empty() {
                true => "nothing is shut\n",
                false => "whether something is shut is not known\n",
            })?;
        }
        for gate in &self.gates {
            f.write_str(&gate.paragraph())?;
        }
        for left in &self.left {
            if let Some(group) = &left.control_group {
                let group = group.display();
                writeln!(
                    f,
                    "a dead run has left a control group, which stops nothing: {group} (syngate clear removes it)"
                )?;
            }
            if let Some(note) = &left.note {
                let note = note.display();
                writeln!(
                    f,
                    "a dead run has left SO_REUSEPORT or a program with listeners, which stops nothing: {note} \
                     tells which (syngate clear takes it back)"
                )?;
            }
        }
        Ok(())
    }
}

impl Entry {
    fn paragraph(&self) -> String {
        let mut text = format!("{}\n", self.headline());
        let mut line = |name: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                let _ = writeln!(text, "  {name:<8} {value}");
            }
        };
        line("by", Some(self.by()));
        line(
            "since",
            self.since.as_ref().map(|since| self.since_words(since)),
        );
        line("how", self.how());
        line(
            "bridged",
            self.kept.as_ref().map(|kept| kept.counts.words()),
        );
        line("narrowed", Some(self.narrowed.clone()));
        line("opens", self.opens());
        text
    }

    /// Of a run that is dead only its COMMAND is known, which is another process.
    fn by(&self) -> String {
        let is_keep = self.kept.is_some();
        let dead = match self.stale == Some(true) && !is_keep {
            true => ", which is dead; its COMMAND",
            false => "",
        };
        let pid = self.pid.map(|pid| format!("pid {pid}{dead}"));
        let by = [pid, self.command.clone()].into_iter().flatten();
        by.collect::<Vec<_>>().join(": ")
    }

    fn headline(&self) -> String {
        let ports = if self.ports.is_empty() {
            "a gate".to_owned()
        } else {
            self.ports.brief()
        };
        let (standing, to) = self.action_words();
        match (self.state, self.stale) {
            (Position::Kept, Some(true)) => format!(
                "{ports} is kept by a keep that is dead: its guard hands over once to the service when that \
                 listens; start keep again ({})",
                self.clear_words()
            ),
            (Position::Kept, _) if self.waiting.is_none() => {
                format!("{ports} is to be kept: nobody listens now, or a run works there")
            }
            (Position::Kept, _) => {
                format!("{ports} is kept: new connections wait only while nobody listens")
            }
            (Position::Shut, Some(true)) if self.waiting.is_some() => {
                format!(
                    "{ports} {} by a run that is dead: its guard hands over to the service when that \
                     listens ({})",
                    standing.shut,
                    self.clear_words()
                )
            }
            (Position::Shut, Some(true)) => {
                format!("{ports} is shut by a run that is dead: stale (syngate clear removes it)")
            }
            (Position::Shut, _) => format!("{ports} {} {to}", standing.shut)
                .trim_end()
                .to_owned(),
            (Position::Open, None) => {
                format!(
                    "{ports} is open; there are rules, and whether their run lives can't be told"
                )
            }
            (Position::Open, Some(true)) => {
                format!(
                    "{ports} is open; a dead run has left rules: stale (syngate clear removes them)"
                )
            }
            (Position::Open, _) => {
                let goes_on = standing.open.map(|what| format!("{what}, and "));
                let goes_on = goes_on.unwrap_or_default();
                format!("{ports} is open; {goes_on}a run still works on it")
            }
            (Position::Unknown, _) => format!("{ports} is held by a run, and shut, or about to be"),
        }
    }

    /// What `syngate clear` would do. The guard of a dead run holds the connections.
    fn clear_words(&self) -> String {
        match self.stranded {
            0 => "syngate clear does it now".to_owned(),
            n => format!(
                "start the service; syngate clear ends the wait now, and resets the {n} that wait if nobody \
                 listens"
            ),
        }
    }

    fn since_words(&self, since: &str) -> String {
        let ago = now().saturating_sub(self.since_unix.unwrap_or(0));
        let ago = humantime::format_duration(Duration::from_secs(ago));
        format!("{since} ({ago} ago)")
    }

    fn how(&self) -> Option<String> {
        let backend = self.backend?;
        if self.state == Position::Kept {
            let waits = waiting_words(self.waiting?);
            let in_gap = self.stranded > 0 && self.stale != Some(true);
            let until = self.max_wait.filter(|_| in_gap).map(|max_wait| {
                let max_wait = humantime::format_duration(max_wait);
                format!("; nobody listens now: they are reset when that has lasted {max_wait} (--max-wait)")
            });
            return Some(waits + &until.unwrap_or_default());
        }
        let action = self.action.as_deref().unwrap_or("drop");
        let done = self.action_words().0.done;
        if let Some(waiting) = self.waiting {
            let waits = waiting_words(waiting);
            let stranded = match self.stranded {
                n @ 1.. if self.state == Position::Shut => {
                    format!("; nobody listens now, so syngate clear would reset {n}")
                }
                _ => String::new(),
            };
            return Some(format!("{backend}, {action}: {waits}{stranded}"));
        }
        Some(match self.syns_stopped {
            Some(n) => format!("{backend}, {action}: {} {done}", counted(n, "SYN")),
            None => format!("{backend}, {action}"),
        })
    }

    /// What to say of the action, and where it steers to.
    fn action_words(&self) -> (&'static Standing, &str) {
        list::standing(self.action.as_deref().unwrap_or("drop"))
    }

    fn opens(&self) -> Option<String> {
        let seconds = self.opens_in_ms? as f64 / 1e3;
        let opener = match self.waiting {
            Some(_) => "the guard of its waiting rooms",
            None => "the kernel",
        };
        Some(format!("in {seconds:.1} s at the latest, by {opener}"))
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

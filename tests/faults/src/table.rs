//! What was tried and how often, in tables.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;
use testkit::{read_rows, say};

use crate::{
    point::Point,
    soak::Totals,
    subject::Subject,
    trial::{Deed, Shown},
};

/// Between these lines of a page is what was measured.
const MARKS: [&str; 2] = ["<!-- what was tried -->\n", "<!-- so far -->\n"];

/// A line for each setting.
pub fn count(all: &[Shown]) -> Result<()> {
    let columns = [POINTS, CALLS, KILLS, FAILED, PAIRS, NEIGHBOURS, VIOLATIONS];
    let setting = |shown: &Shown| shown.trial.setting.clone();
    say(&table("setting", &columns, all.iter(), setting))
}

/// Puts what these files of results tell into a page.
///
/// # Errors
/// A row that no campaign has written; a page without its marks.
pub fn render(files: &[PathBuf], page: &Path) -> Result<()> {
    let rows = files.iter().map(|file| read_rows(file));
    let rows: Vec<Vec<Value>> = rows.collect::<Result<_>>()?;
    let sections = Rows::sorted(rows.into_iter().flatten())?.sections();
    let text = fs::read_to_string(page)?;
    let (before, rest) = text.split_once(MARKS[0]).context(MARKS[0])?;
    let (known, after) = rest.split_once(MARKS[1]).context(MARKS[1])?;
    let tables = renewed(known, sections);
    let [begin, end] = MARKS;
    fs::write(
        page,
        [before, begin, "\n", &tables, "\n", end, after].concat(),
    )?;
    Ok(())
}

/// A heading, and what is below it; nothing where there are no results.
type Section = (&'static str, Option<String>);

/// What no results are given for stays as it is.
fn renewed(known: &str, sections: Vec<Section>) -> String {
    let parts = known.split("### ").filter_map(|part| part.split_once('\n'));
    let known: HashMap<&str, &str> = parts.collect();
    let texts = sections.into_iter().filter_map(|(heading, text)| {
        let text = text.or_else(|| known.get(heading).map(|text| (*text).to_owned()))?;
        Some(format!("### {heading}\n\n{}\n", text.trim()))
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// Of a target of the fuzzer, as `tests/ci/fuzz` writes it.
#[derive(Debug, Deserialize)]
struct Fuzzed {
    target: String,
    executions: u64,
    crashes: u64,
}

/// All that was tried, each kind for itself.
#[derive(Default)]
struct Rows {
    faults: Vec<Shown>,
    pairs: Vec<Shown>,
    neighbours: Vec<Shown>,
    fuzzed: Vec<Fuzzed>,
    soaks: Vec<Totals>,
}

impl Rows {
    fn sorted(rows: impl Iterator<Item = Value>) -> Result<Rows> {
        let mut sorted = Rows::default();
        let mut seen = HashSet::new();
        for row in rows {
            let what = row.to_string();
            if row.get("deed").is_some() {
                let shown: Shown = serde_json::from_value(row).context(what)?;
                // Files of results may overlap; what was wrong once is not forgotten.
                let what = (shown.kernel.clone(), shown.trial.clone());
                if !seen.insert(what) && shown.violations.is_empty() {
                    continue;
                }
                match (&shown.trial.then, shown.trial.neighbour()) {
                    (Some(_), _) => sorted.pairs.push(shown),
                    (None, None) => sorted.faults.push(shown),
                    (None, Some(_)) => sorted.neighbours.push(shown),
                }
            } else if let Some(totals) = row.get("totals") {
                let totals = Totals::deserialize(totals).context(what)?;
                sorted.soaks.push(totals);
            } else if row.get("target").is_some() {
                sorted
                    .fuzzed
                    .push(serde_json::from_value(row).context(what)?);
            }
        }
        Ok(sorted)
    }

    fn sections(&self) -> Vec<Section> {
        let Rows {
            faults,
            pairs,
            neighbours,
            ..
        } = self;
        let setting = |shown: &Shown| shown.trial.setting.clone();
        let deed = |shown: &Shown| shown.trial.hit.deed.words();
        let matrix = || {
            let settings = table("setting", &MATRIX, faults.iter(), setting);
            let deeds = table("what happens at a call", &MATRIX, faults.iter(), deed);
            [settings, deeds].join("\n")
        };
        let neighbours_table = || {
            let columns = [NEIGHBOURS, CONNECTIONS, FAILED_CLIENTS, VIOLATIONS];
            let table = table("what they do", &columns, neighbours.iter(), deed);
            [table, floods(neighbours)].join("\n")
        };
        let pairs_table = || {
            let columns = [PAIRS, CONNECTIONS, FAILED_CLIENTS, VIOLATIONS];
            table("setting", &columns, pairs.iter(), setting)
        };
        let all = || faults.iter().chain(pairs).chain(neighbours);
        let is_other = |shown: &&Shown| shown.trial.subject != Subject::Plain;
        let others: Vec<&Shown> = all().filter(is_other).collect();
        let subjects = || {
            let columns = [
                KILLS,
                FAILED,
                PAIRS,
                NEIGHBOURS,
                CONNECTIONS,
                FAILED_CLIENTS,
                VIOLATIONS,
            ];
            let subject = |shown: &Shown| shown.trial.subject.words().to_owned();
            table("what is so", &columns, others.iter().copied(), subject)
        };
        let away = || {
            let columns = [TRIALS, CONNECTIONS, FAILED_CLIENTS, VIOLATIONS];
            let rtt = |shown: &Shown| format!("{:>3} ms", shown.trial.rtt_ms);
            let all: Vec<&Shown> = all().collect();
            let table = table("round trip", &columns, all.iter().copied(), rtt);
            [table, not_judged(&all)].join("\n")
        };
        let kernels = || {
            let columns = [KILLS, FAILED, NEIGHBOURS, VIOLATIONS];
            table("kernel", &columns, all(), |shown| shown.kernel.clone())
        };
        let several = all().map(|shown| &shown.kernel).collect::<BTreeSet<_>>();
        let several = several.len();
        let builds = || {
            let builds: BTreeSet<&str> = all().map(|shown| shown.syngate.as_str()).collect();
            let kernels: BTreeSet<&str> = all().map(|shown| shown.kernel.as_str()).collect();
            let joined = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
            let (builds, kernels) = (joined(builds), joined(kernels));
            format!("syngate, by the beginning of its SHA-256: {builds}. Linux: {kernels}.")
        };
        let soaks = || self.soaks.iter().map(soaked).collect::<Vec<_>>().join("\n");
        vec![
            ("Build and kernel", all().next().map(|_| builds())),
            ("Faults at system calls", (!faults.is_empty()).then(matrix)),
            ("Two in a row", (!pairs.is_empty()).then(pairs_table)),
            (
                "Neighbours",
                (!neighbours.is_empty()).then(neighbours_table),
            ),
            ("Services and COMMANDs", (!others.is_empty()).then(subjects)),
            ("Clients", all().next().map(|_| away())),
            // Of one alone, all other tables tell.
            ("Kernels", (several > 1).then(kernels)),
            (
                "Fuzzed parsers",
                (!self.fuzzed.is_empty()).then(|| fuzzed(&self.fuzzed)),
            ),
            ("Soak", (!self.soaks.is_empty()).then(soaks)),
        ]
    }
}

/// Of some trials.
#[derive(Default)]
struct Tally<'a> {
    points: BTreeSet<(&'a str, &'a Point)>,
    calls: BTreeSet<&'a str>,
    trials: usize,
    pairs: usize,
    kills: usize,
    failed: usize,
    neighbours: usize,
    connections: usize,
    failed_clients: usize,
    violations: usize,
}

impl<'a> Tally<'a> {
    fn add(&mut self, shown: &'a Shown) {
        let trial = &shown.trial;
        let hit = &trial.hit;
        self.points.insert((&trial.setting, &hit.point));
        self.calls.insert(&hit.point.call);
        self.trials += 1;
        if shown.judged {
            self.connections += shown.connections as usize;
            self.failed_clients += shown.failed as usize;
        }
        match (&shown.trial.then, hit.deed) {
            (Some(_), _) => self.pairs += 1,
            (None, Deed::Neighbour(_)) => self.neighbours += 1,
            (None, Deed::Fault(fault)) if fault.kills() => self.kills += 1,
            (None, Deed::Fault(_)) => self.failed += 1,
        }
        self.violations += usize::from(!shown.violations.is_empty());
    }
}

/// A column: its head, and what is in it.
type Column = (&'static str, fn(&Tally) -> usize);
const POINTS: Column = ("points", |tally| tally.points.len());
const CALLS: Column = ("system calls", |tally| tally.calls.len());
const KILLS: Column = ("kills", |tally| tally.kills);
const FAILED: Column = ("other faults", |tally| tally.failed);
const NEIGHBOURS: Column = ("neighbours", |tally| tally.neighbours);
const PAIRS: Column = ("pairs", |tally| tally.pairs);
const TRIALS: Column = ("trials", |tally| tally.trials);
const CONNECTIONS: Column = ("connections", |tally| tally.connections);
const FAILED_CLIENTS: Column = ("failed, as may be", |tally| tally.failed_clients);
const VIOLATIONS: Column = ("violations", |tally| tally.violations);
const MATRIX: [Column; 7] = [
    POINTS,
    CALLS,
    KILLS,
    FAILED,
    CONNECTIONS,
    FAILED_CLIENTS,
    VIOLATIONS,
];

/// A table of the trials that reached their point, or showed what they should not: a row for each name, and one for all.
fn table<'a>(
    head: &str,
    columns: &[Column],
    all: impl Iterator<Item = &'a Shown>,
    name: impl Fn(&Shown) -> String,
) -> String {
    let mut rows: BTreeMap<String, Tally> = BTreeMap::new();
    let mut total = Tally::default();
    for shown in all.filter(|shown| shown.hit || !shown.violations.is_empty()) {
        rows.entry(name(shown)).or_default().add(shown);
        total.add(shown);
    }
    let heads: Vec<&str> = columns.iter().map(|column| column.0).collect();
    let mut table = format!("| {head} | {} |\n|---|", heads.join(" | "));
    table.push_str(&"--:|".repeat(columns.len()));
    for (name, tally) in rows
        .iter()
        .map(|(name, t)| (name.as_str(), t))
        .chain([("all", &total)])
    {
        let cells: Vec<String> = columns
            .iter()
            .map(|column| column.1(tally).to_string())
            .collect();
        let _ = write!(table, "\n| {name} | {} |", cells.join(" | "));
    }
    table + "\n"
}

/// How fast they were.
fn floods(all: &[Shown]) -> String {
    let rates = all.iter().filter_map(|shown| shown.syns_per_second);
    let (least, most) = (rates.clone().min(), rates.max());
    let (Some(least), Some(most)) = (least, most) else {
        return String::new();
    };
    format!("The floods were of {least} to {most} SYNs a second.\n")
}

/// In how many the machine itself has dropped packets, and what was not judged for that.
fn not_judged(all: &[&Shown]) -> String {
    let lossy = all.iter().filter(|shown| !shown.judged).count();
    let excused = all.iter().filter(|shown| !shown.excused.is_empty()).count();
    format!(
        "In {lossy} of {} trials the machine dropped packets; in {excused} of these a client waited, or was cut, \
         that would have been a violation.\n",
        all.len()
    )
}

fn soaked(totals: &Totals) -> String {
    let mut text = format!(
        "{} connections in {} s: {} failed, {} delayed by 0.9 s or more; {} violations.\n\n",
        totals.connections,
        totals.seconds,
        totals.failed,
        totals.delayed,
        totals.violations.len()
    );
    text += "| setting | restarts | with status 0, nothing left | not run, nothing left | closed for, median | at most |\n|---|--:|--:|--:|--:|--:|\n";
    let ms = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"));
    for (setting, of_it) in &totals.restarts {
        let (median, most) = (ms(of_it.closed_ms), ms(of_it.longest_closed_ms));
        let (runs, clean, not_run) = (of_it.runs, of_it.clean, of_it.not_run);
        let _ = writeln!(
            text,
            "| {setting} | {runs} | {clean} | {not_run} | {median} | {most} |"
        );
    }
    text += "\n| what is counted between rounds | first quarter | last quarter |\n|---|--:|--:|\n";
    for (gauge, first) in &totals.first {
        let last = totals.last.get(gauge).copied().unwrap_or_default();
        let _ = writeln!(text, "| {gauge} | {first:.0} | {last:.0} |");
    }
    text
}

fn fuzzed(all: &[Fuzzed]) -> String {
    let mut rows: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut total = (0, 0);
    for row in all {
        for sums in [rows.entry(&row.target).or_default(), &mut total] {
            sums.0 += row.executions;
            sums.1 += row.crashes;
        }
    }
    let mut table = "| parser | executions | crashes |\n|---|--:|--:|\n".to_owned();
    for (target, (executions, crashes)) in rows.into_iter().chain([("all", total)]) {
        let _ = writeln!(table, "| {target} | {executions} | {crashes} |");
    }
    table
}

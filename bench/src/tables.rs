//! The tables, from the files of results: in their own folder, and in the README between two markers.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    machine::{self, Machine},
    results::{COSTS, MANY, RESTARTS, Results, grouped, median},
    sample::{Cost, Family, Mode, Sample},
    subjects::{SUBJECTS, Subject},
    ways::Way,
};

const BEGIN: &str = "<!-- bench: begin -->\n";
const END: &str = "<!-- bench: end -->\n";

/// All that was measured.
pub struct Measured {
    machine: Option<Machine>,
    restarts: Vec<Sample>,
    many: Vec<Sample>,
    costs: Vec<Cost>,
}

/// Writes what follows from the results, or with `check` finds out whether all is as it would be.
pub fn render(results: &Results, readme: Option<&Path>, check: bool) -> Result<()> {
    let measured = Measured {
        machine: machine::read(results)?,
        restarts: results.read(RESTARTS)?,
        many: results.read(MANY)?,
        costs: results.read(COSTS)?,
    };
    put(&results.folder.join("README.md"), &measured.report(), check)?;
    if let Some(readme) = readme {
        let text = fs::read_to_string(readme).with_context(|| readme.display().to_string())?;
        put(readme, &between(&text, &measured.in_brief())?, check)?;
    }
    Ok(())
}

fn put(path: &Path, text: &str, check: bool) -> Result<()> {
    let there = fs::read_to_string(path).unwrap_or_default();
    if there == text {
        return Ok(());
    }
    ensure!(
        !check,
        "{} is not what follows from the results: make bench-render",
        path.display()
    );
    Ok(fs::write(path, text)?)
}

/// The text with what is between its markers replaced.
fn between(text: &str, new: &str) -> Result<String> {
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        bail!("no markers {} and {}", BEGIN.trim(), END.trim());
    };
    let (head, tail) = (&text[..begin + BEGIN.len()], &text[end..]);
    Ok(format!("{head}{new}{tail}"))
}

impl Measured {
    /// For the README: one service, and the figure that people ask for first.
    fn in_brief(&self) -> String {
        let subject = &SUBJECTS[0];
        let usual = (Mode::Fresh, Family::Ipv4);
        let mut text = self.table(subject, usual).unwrap_or_default();
        if let Some(machine) = &self.machine {
            let _ = writeln!(text, "\n{}", machine.in_brief());
        }
        if !self.many.is_empty() {
            let (sent, failed) = (sum(&self.many, |s| s.sent), sum(&self.many, Sample::failed));
            let _ = writeln!(
                text,
                "\nWith SYNs held, {failed} of {} connections failed in {} restarts.",
                thousands(sent),
                self.many.len()
            );
        }
        text
    }

    /// The whole report.
    fn report(&self) -> String {
        let mut text = String::from(HEAD);
        if let Some(machine) = &self.machine {
            text += &machine.table();
        }
        text += &self.promises();
        text += "\n## Restarts and reloads\n";
        for subject in SUBJECTS {
            let kinds = [
                (Mode::Fresh, Family::Ipv4),
                (Mode::Fresh, Family::Ipv6),
                (Mode::KeepAlive, Family::Ipv4),
            ];
            let mut tables = kinds
                .iter()
                .filter_map(|kind| Some((kind, self.table(subject, *kind)?)));
            let Some((_, first)) = tables.next() else {
                continue;
            };
            let _ = write!(
                text,
                "\n### {}\n\n{}.\n\n{first}",
                subject.name, subject.about
            );
            for ((mode, family), table) in tables {
                let who = match (mode, family) {
                    (Mode::KeepAlive, _) => "Clients that keep their connections (HTTP/1.1)",
                    _ => "Over IPv6",
                };
                let _ = write!(text, "\n{who}:\n\n{table}");
            }
        }
        text + &self.cost_tables()
    }

    // Restarts ------------------------------------------------------------------------------------

    fn table(&self, subject: &Subject, (mode, family): (Mode, Family)) -> Option<String> {
        let of_it = self.restarts.iter().filter(|sample| {
            sample.subject == subject.name && (sample.mode, sample.family) == (mode, family)
        });
        let by_way = grouped(of_it.collect(), |sample| sample.way);
        if by_way.is_empty() {
            return None;
        }
        let mut text = String::from(match mode {
            Mode::Fresh => FRESH_COLUMNS,
            Mode::KeepAlive => KEPT_COLUMNS,
        });
        for way in Way::ALL {
            match by_way.get(&way) {
                Some(samples) => text += &row(way, mode, samples),
                None if way == Way::Plug && subject.ways.contains(&way) && mode == Mode::Fresh => {
                    text += &self.no_plug();
                }
                None => (),
            }
        }
        Some(text)
    }

    fn no_plug(&self) -> String {
        let why = match &self.machine {
            Some(Machine { sch_plug: true, .. }) => "not measured",
            _ => "not measured: this kernel has no sch_plug; it holds local clients only",
        };
        format!("| {} | {why} |{}\n", Way::Plug.title(), " |".repeat(8))
    }
}

const FRESH_COLUMNS: &str = "\
| way | failed | delayed ≥ 0.9 s | connect p50 | p99 | p99.9 | worst | no listener | closed | worst : gap |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
";
const KEPT_COLUMNS: &str = "\
| way | failed | delayed ≥ 0.9 s | answer p50 | p99 | p99.9 | worst | no listener | closed | worst : gap |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
";

/// Failures of all rounds; else medians over the rounds.
fn row(way: Way, mode: Mode, samples: &[&Sample]) -> String {
    let of = |value: &dyn Fn(&Sample) -> f64| {
        median(samples.iter().map(|sample| value(sample))).unwrap_or_default()
    };
    let latency = |sample: &Sample| match mode {
        Mode::Fresh => sample.connect,
        Mode::KeepAlive => sample.total,
    };
    let gap = of(&|s| s.gap_ms);
    let closed = median(samples.iter().filter_map(|s| s.closed_ms));
    let ratio = median(
        samples
            .iter()
            .filter(|s| s.gap_ms > 0.0)
            .map(|s| latency(s).max_ms / s.gap_ms),
    );
    let cells = [
        way.title().to_owned(),
        failures(samples),
        format!("{:.0}", of(&|s| s.delayed as f64)),
        ms(of(&|s| latency(s).p50_ms)),
        ms(of(&|s| latency(s).p99_ms)),
        ms(of(&|s| latency(s).p999_ms)),
        ms(of(&|s| latency(s).max_ms)),
        if gap > 0.0 { ms(gap) } else { "–".to_owned() },
        shown(closed),
        ratio
            .filter(|_| gap > 0.0)
            .map_or("–".to_owned(), |ratio| format!("{ratio:.1}")),
    ];
    format!("| {} |\n", cells.join(" | "))
}

/// How many of how many, and of what kinds.
fn failures(samples: &[&Sample]) -> String {
    let sum = |value: &dyn Fn(&Sample) -> u64| samples.iter().map(|s| value(s)).sum::<u64>();
    let (failed, sent) = (sum(&Sample::failed), sum(&|s| s.sent));
    let kinds = [
        ("refused", sum(&|s| s.refused)),
        ("reset", sum(&|s| s.reset)),
        ("cut", sum(&|s| s.cut)),
        ("timed out", sum(&|s| s.timed_out)),
        ("other", sum(&|s| s.other)),
    ];
    let kinds = kinds.iter().filter(|(_, n)| *n > 0);
    let kinds: Vec<String> = kinds.map(|(kind, n)| format!("{n} {kind}")).collect();
    match failed {
        0 => format!("0 of {}", thousands(sent)),
        _ => format!(
            "{} of {}: {}",
            thousands(failed),
            thousands(sent),
            kinds.join(", ")
        ),
    }
}

fn sum(samples: &[Sample], value: impl Fn(&Sample) -> u64) -> u64 {
    samples.iter().map(value).sum()
}

/// With the digits that say something.
fn ms(ms: f64) -> String {
    match ms {
        ms if ms >= 999.5 => format!("{:.2} s", ms / 1e3),
        ms if ms >= 9.95 => format!("{ms:.0} ms"),
        ms if ms >= 0.0995 => format!("{ms:.1} ms"),
        ms => format!("{ms:.2} ms"),
    }
}

fn shown(time: Option<f64>) -> String {
    time.map_or("–".to_owned(), ms)
}

fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

// Costs -------------------------------------------------------------------------------------------

/// The medians of one size.
struct Medians {
    runs: usize,
    wall_ms: Option<f64>,
    close_ms: Option<f64>,
    open_ms: Option<f64>,
    peak_kib: u64,
}

impl Measured {
    /// Medians by way, of one series and size.
    fn medians(&self, series: &str, size: u64) -> BTreeMap<&str, Medians> {
        let of_it = self
            .costs
            .iter()
            .filter(|cost| cost.series == series && cost.size == size);
        let by_way = grouped(of_it.collect(), |cost| cost.way.as_str());
        let medians = by_way.into_iter().map(|(way, costs)| {
            let medians = Medians {
                runs: costs.iter().filter(|c| c.wall_ms.is_some()).count(),
                wall_ms: median(costs.iter().filter_map(|c| c.wall_ms)),
                close_ms: median(costs.iter().filter_map(|c| c.close_ms)),
                open_ms: median(costs.iter().filter_map(|c| c.open_ms)),
                peak_kib: costs.iter().map(|c| c.peak_kib).max().unwrap_or_default(),
            };
            (way, medians)
        });
        medians.collect()
    }

    fn sizes(&self, series: &str) -> Vec<u64> {
        let of_it = self.costs.iter().filter(|cost| cost.series == series);
        let mut sizes: Vec<u64> = of_it.map(|cost| cost.size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    fn cost_tables(&self) -> String {
        let mut text = String::new();
        let pair = self.medians("pair", 0);
        if !pair.is_empty() {
            text += PAIR_HEAD;
            for (way, costs) in &pair {
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {:.1} MiB |",
                    PAIR_NAMES
                        .iter()
                        .find(|(name, _)| name == way)
                        .map_or(*way, |(_, n)| n),
                    costs.runs,
                    shown(costs.wall_ms),
                    costs.peak_kib as f64 / 1024.0
                );
            }
        }
        if SERIES
            .iter()
            .any(|(series, _)| !self.sizes(series).is_empty())
        {
            text += GROWTH_HEAD;
        }
        for (series, what) in SERIES {
            for size in self.sizes(series) {
                text += &self.growth_row(series, what, size);
            }
        }
        let held = self.sizes("held");
        if !held.is_empty() {
            text += HELD_HEAD;
        }
        for size in held {
            let medians = self.medians("held", size);
            let costs = &medians["syngate"];
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {:.1} MiB |",
                thousands(size),
                costs.runs,
                shown(costs.wall_ms),
                thousands(
                    costs
                        .wall_ms
                        .map_or(0, |ms| (size as f64 / ms * 1e3) as u64)
                ),
                costs.peak_kib as f64 / 1024.0
            );
        }
        text
    }

    fn growth_row(&self, series: &str, what: &str, size: u64) -> String {
        let medians = self.medians(series, size);
        let Some(ours) = medians.get("syngate") else {
            return String::new();
        };
        let others = medians.iter().filter(|(way, _)| **way != "syngate");
        let others: Vec<String> = others
            .map(|(way, costs)| format!("{way} -I, -D: {}", shown(costs.wall_ms)))
            .collect();
        format!(
            "| {} {what} | {} | {} | {} | {} | {:.1} MiB | {} |\n",
            thousands(size),
            ours.runs,
            shown(ours.close_ms),
            shown(ours.open_ms),
            shown(ours.wall_ms),
            ours.peak_kib as f64 / 1024.0,
            others.join(", ")
        )
    }
}

/// What grows, and what it is called in the tables.
const SERIES: [(&str, &str); 5] = [
    ("rules", "other nft rules"),
    ("legacy rules", "iptables-legacy rules"),
    ("ports", "ports, one range"),
    ("odd ports", "separate ports"),
    ("connections", "established connections"),
];
const PAIR_NAMES: [(&str, &str); 4] = [
    ("syngate", "`syngate --port 80 -- true`"),
    ("iptables", "`iptables -I`, `iptables -D` (on nf_tables)"),
    ("iptables-legacy", "`iptables-legacy -I`, `-D`"),
    ("nft", "`nft 'add …'`, `nft delete table`"),
];

// Promises ----------------------------------------------------------------------------------------

impl Measured {
    fn promises(&self) -> String {
        let all = [
            self.hold_promise(),
            self.bound_promise(),
            self.drop_promise(),
            self.pair_promise(),
        ];
        let growth = ["rules", "legacy rules", "connections"];
        let growth = growth
            .iter()
            .filter_map(|series| self.growth_promise(series));
        let rows: Vec<String> = all.into_iter().flatten().chain(growth).collect();
        if rows.is_empty() {
            return String::new();
        }
        format!(
            "\n## What it should show\n\n| what | measured | kept |\n|---|---|---|\n{}",
            rows.concat()
        )
    }

    fn hold_promise(&self) -> Option<String> {
        let (sent, failed) = (sum(&self.many, |s| s.sent), sum(&self.many, Sample::failed));
        (!self.many.is_empty()).then(|| {
            let measured = format!(
                "{failed} of {} in {} restarts of haproxy",
                thousands(sent),
                self.many.len()
            );
            promise(
                "hold: nobody fails in 1,000,000 connections and 200 restarts",
                &measured,
                failed == 0 && sent >= 1_000_000 && self.many.len() >= 200,
            )
        })
    }

    /// The client's own lateness is not the gate's.
    fn bound_promise(&self) -> Option<String> {
        let bound = |s: &Sample| 1.2 * (s.gap_ms + s.drain_ms.unwrap_or_default()) + 10.0;
        let over: Vec<&Sample> = self
            .many
            .iter()
            .filter(|s| s.connect.max_ms > bound(s))
            .collect();
        let late = over.iter().filter(|s| s.late > 0).count();
        let closest = self
            .many
            .iter()
            .map(|s| s.connect.max_ms / bound(s))
            .fold(0.0, f64::max);
        (!self.many.is_empty()).then(|| {
            let measured = format!(
                "{} of {} restarts above it ({late} of these with late clients); at most {:.0} % of it",
                over.len(), self.many.len(), closest * 100.0
            );
            promise("hold: the worst connect is at most 1.2 × (gap + drain) + 10 ms", &measured, over.is_empty())
        })
    }

    fn drop_promise(&self) -> Option<String> {
        let of = |way: Way| {
            let of_it = self.restarts.iter().filter(|s| {
                (s.way, s.mode, s.family) == (way, Mode::Fresh, Family::Ipv4)
                    && s.subject == SUBJECTS[0].name
            });
            of_it.collect::<Vec<_>>()
        };
        let (drop, folk) = (of(Way::Drop), of(Way::Folk));
        let delayed = |samples: &[&Sample]| median(samples.iter().map(|s| s.delayed as f64));
        let (ours, theirs) = (delayed(&drop)?, delayed(&folk)?);
        let failed: u64 = drop.iter().map(|s| s.failed()).sum();
        let measured = format!("{failed} failed; {ours:.0} delayed a restart against {theirs:.0}");
        Some(promise(
            "drop: nobody fails, and at most a tenth of the folk recipe's are delayed",
            &measured,
            failed == 0 && ours * 10.0 <= theirs,
        ))
    }

    fn pair_promise(&self) -> Option<String> {
        let pair = self.medians("pair", 0);
        let (ours, theirs) = (
            pair.get("syngate")?.wall_ms?,
            pair.get("iptables")?.wall_ms?,
        );
        let measured = format!("{} against {}: {:.2}", ms(ours), ms(theirs), ours / theirs);
        Some(promise(
            "`syngate -- true` takes at most half as long as `iptables -I` and `-D`",
            &measured,
            ours * 2.0 <= theirs,
        ))
    }

    fn growth_promise(&self, series: &str) -> Option<String> {
        let sizes = self.sizes(series);
        let (first, last) = (*sizes.first()?, *sizes.last()?);
        let of = |size| {
            let medians = self.medians(series, size);
            let ours = medians.get("syngate")?;
            Some((ours.close_ms?, ours.open_ms?))
        };
        let ((close, open), (close_large, open_large)) = (of(first)?, of(last)?);
        let what = SERIES
            .iter()
            .find(|(name, _)| *name == series)
            .map_or("", |(_, what)| *what);
        let measured = format!(
            "closed after {} against {}, open after {} against {}",
            ms(close_large),
            ms(close),
            ms(open_large),
            ms(open)
        );
        let kept = close_large <= 1.5 * close + 0.2 && open_large <= 1.5 * open + 0.2;
        let promised = format!(
            "closing and opening with {} {what} take at most 1.5 × as long as with {first}, and 0.2 ms",
            thousands(last)
        );
        Some(promise(&promised, &measured, kept))
    }
}

fn promise(what: &str, measured: &str, kept: bool) -> String {
    format!(
        "| {what} | {measured} | {} |\n",
        if kept { "yes" } else { "**no**" }
    )
}

// Texts -------------------------------------------------------------------------------------------

impl Machine {
    fn in_brief(&self) -> String {
        let version = |text: &str| {
            let word = text
                .split(' ')
                .find(|w| w.contains('.') && w.contains(|c: char| c.is_ascii_digit()));
            word.unwrap_or(text).to_owned()
        };
        format!(
            "({} CPUs, Linux {}, haproxy {}; the clients are on the same machine.)",
            self.cpus,
            self.kernel.split('-').next().unwrap_or_default(),
            version(&self.haproxy)
        )
    }

    fn table(&self) -> String {
        let rows = [
            ("kernel", self.kernel.clone()),
            ("processor", format!("{} × {}", self.cpus, self.cpu)),
            ("memory", format!("{} MiB", self.memory_mib)),
            ("system", self.system.clone()),
            (
                "syngate",
                format!("{} (sha256 {}…)", self.syngate, self.syngate_sha256),
            ),
            ("haproxy", self.haproxy.clone()),
            ("nginx", self.nginx.clone()),
            ("nft", self.nft.clone()),
            ("iptables", self.iptables.clone()),
        ];
        let rows: String = rows
            .iter()
            .map(|(what, is)| format!("| {what} | {is} |\n"))
            .collect();
        format!("\n| | |\n|---|---|\n{rows}")
    }
}

const HEAD: &str = "\
# Results of the bench

Made by `make bench` from the files beside it; what it measures, and how, is in
[its own README](../README.md).
";
const PAIR_HEAD: &str = "
## What it costs

A gate closed and opened, around nothing; medians of whole processes, in turn.

| | runs | takes | peak memory |
|---|--:|--:|--:|
";
const GROWTH_HEAD: &str = "
How that grows: from the start of its process to the closed gate, from the decision to open to the
open gate, and all of `syngate -- true`.

| on a host with | runs | to closed | to open | whole run | peak memory | beside it |
|---|--:|--:|--:|--:|--:|---|
";
const HELD_HEAD: &str = "
SYNs that are held, and let go to a service that accepts as fast as it can:

| held | runs | let go within | a second | peak memory |
|--:|--:|--:|--:|--:|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_readable() {
        assert_eq!(
            [0.046, 0.5, 9.96, 99.6, 1040.0].map(ms),
            ["0.05 ms", "0.5 ms", "10 ms", "100 ms", "1.04 s"]
        );
        assert_eq!(
            [1, 999, 1_000, 1_234_567].map(thousands),
            ["1", "999", "1,000", "1,234,567"]
        );
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let text = format!("a\n{BEGIN}old\n{END}z\n");
        assert_eq!(
            between(&text, "new\n").unwrap(),
            format!("a\n{BEGIN}new\n{END}z\n")
        );
        assert!(between("a\n", "new\n").is_err());
    }

    #[test]
    fn failures_are_told_by_kind() {
        let sample = Sample {
            sent: 2_000,
            refused: 90,
            cut: 1,
            ..Sample::default()
        };
        assert_eq!(failures(&[&sample]), "91 of 2,000: 90 refused, 1 cut");
        let fine = Sample {
            sent: 500,
            ..Sample::default()
        };
        assert_eq!(failures(&[&fine, &fine]), "0 of 1,000");
    }
}

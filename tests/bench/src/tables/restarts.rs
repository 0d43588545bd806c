//! Tables of restarts: a row for each way.

use testkit::median;

use super::{
    figures::{ms, shown, thousands},
    measured::Measured,
};
use crate::{
    machine::Machine,
    results::grouped,
    sample::{Family, Mode, Sample},
    subjects::Subject,
    ways::Way,
};

/// A column: its head, whether it is in brief tables too, and what is in it.
type Column = (&'static str, bool, fn(&Row) -> String);

const SENT_AGAIN: &str = "sent again";
const CONNECT: &str = "connect, worst";
const COLUMNS: [Column; 12] = [
    ("way", true, |row| row.way.title().to_owned()),
    ("failed", true, |row| row.failures()),
    (SENT_AGAIN, false, |row| {
        let resent: u64 = row.samples.iter().map(|s| s.resent).sum();
        thousands(resent)
    }),
    ("delayed ≥ 0.9 s", true, |row| {
        format!("{:.0}", row.median(|s| s.delayed as f64))
    }),
    (CONNECT, true, |row| ms(row.median(|s| s.connect.max_ms))),
    ("answer, p50", false, |row| {
        ms(row.median(|s| s.total.p50_ms))
    }),
    (
        "answer, p99",
        true,
        |row| ms(row.median(|s| s.total.p99_ms)),
    ),
    ("answer, p99.9", false, |row| {
        ms(row.median(|s| s.total.p999_ms))
    }),
    ("answer, worst", true, |row| {
        ms(row.median(|s| s.total.max_ms))
    }),
    ("no listener", true, |row| shown(row.gap())),
    ("closed", true, |row| {
        shown(median(row.samples.iter().filter_map(|s| s.closed_ms)))
    }),
    ("worst : gap", false, |row| row.ratio()),
];

/// A load: requests a second, and who makes them how.
pub type Kind = (u32, Mode, Family);

/// What is measured of a subject: all rounds of one way.
struct Row<'a> {
    way: Way,
    samples: &'a [&'a Sample],
}

impl Measured {
    /// The loads that a subject had: the usual one first, then others of its rate, then other rates.
    pub fn kinds(&self, subject: &Subject) -> Vec<Kind> {
        let of_it = self.restarts.iter().filter(|s| s.subject == subject.name);
        let mut kinds: Vec<Kind> = of_it.map(kind_of).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// The table of a subject under one kind of load; `None` if it was not measured.
    pub fn restarts(&self, subject: &Subject, kind: Kind, brief: bool) -> Option<String> {
        let of_it = self
            .restarts
            .iter()
            .filter(|sample| sample.subject == subject.name && kind_of(sample) == kind);
        let of_it: Vec<&Sample> = of_it.collect();
        let late = late(&of_it);
        let by_way = grouped(of_it, |sample| sample.way);
        if by_way.is_empty() {
            return None;
        }
        let columns = columns(brief, kind.1);
        let mut text = head(&columns);
        for way in Way::ALL {
            match by_way.get(&way) {
                Some(samples) => text += &Row { way, samples }.text(&columns),
                None if way == Way::Plug && subject.ways.contains(&way) && is_usual(kind) => {
                    text += &self.no_plug(columns.len());
                }
                None => (),
            }
        }
        Some(text + &late)
    }

    fn no_plug(&self, columns: usize) -> String {
        let why = match &self.machine {
            Machine { sch_plug: true, .. } => "not measured",
            _ => "not measured: this kernel has no sch_plug",
        };
        format!(
            "| {} | {why} |{}\n",
            Way::Plug.title(),
            " |".repeat(columns - 2)
        )
    }
}

/// In which ways, and how often, the clients themselves were slow.
fn late(samples: &[&Sample]) -> String {
    let ways = Way::ALL.into_iter().filter_map(|way| {
        let rounds: Vec<&&Sample> = samples.iter().filter(|s| s.way == way).collect();
        let late = rounds.iter().filter(|sample| sample.late > 0).count();
        (late > 0).then(|| format!("{late} of {} ({})", rounds.len(), way.title()))
    });
    let ways: Vec<String> = ways.collect();
    match ways.is_empty() {
        true => String::new(),
        false => format!(
            "\nThe clients themselves were late in {}.\n",
            ways.join(", ")
        ),
    }
}

fn kind_of(sample: &Sample) -> Kind {
    (sample.rate, sample.mode, sample.family)
}

/// All subjects have it.
fn is_usual((_, mode, family): Kind) -> bool {
    (mode, family) == (Mode::Fresh, Family::Ipv4)
}

fn columns(brief: bool, mode: Mode) -> Vec<Column> {
    let columns = COLUMNS.into_iter();
    let columns = columns.filter(|(_, always, _)| *always || !brief);
    let says = |name: &str| match name {
        SENT_AGAIN => mode == Mode::KeepAlive,
        CONNECT => mode == Mode::Fresh,
        _ => true,
    };
    columns.filter(|(name, ..)| says(name)).collect()
}

fn head(columns: &[Column]) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, ..)| *name).collect();
    let rule = "--:|".repeat(columns.len() - 1);
    format!("| {} |\n|---|{rule}\n", names.join(" | "))
}

impl Row<'_> {
    fn text(&self, columns: &[Column]) -> String {
        let cells: Vec<String> = columns.iter().map(|(_, _, cell)| cell(self)).collect();
        format!("| {} |\n", cells.join(" | "))
    }

    fn median(&self, value: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(|sample| value(sample))).unwrap_or_default()
    }

    /// Most ways to reload leave none.
    fn gap(&self) -> Option<f64> {
        Some(self.median(|s| s.gap_ms)).filter(|gap| *gap > 0.0)
    }

    /// Gaps are measured to the millisecond, so for short ones a ratio says nothing.
    fn ratio(&self) -> String {
        const TOLD: f64 = 10.0;
        let with_gap = self.samples.iter().filter(|s| s.gap_ms >= TOLD);
        let ratio = median(with_gap.map(|s| s.total.max_ms / s.gap_ms));
        let ratio = self.gap().filter(|gap| *gap >= TOLD).and(ratio);
        ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.1}"))
    }

    /// How many of how many in all rounds, and of what kinds.
    fn failures(&self) -> String {
        let sum = |value: fn(&Sample) -> u64| self.samples.iter().map(|s| value(s)).sum::<u64>();
        let (failed, sent) = (sum(Sample::failed), sum(|s| s.sent));
        let kinds = [
            ("refused", sum(|s| s.refused)),
            ("reset", sum(|s| s.reset)),
            ("cut", sum(|s| s.cut)),
            ("timed out", sum(|s| s.timed_out)),
            ("other", sum(|s| s.other)),
        ];
        let kinds = kinds.iter().filter(|(_, n)| *n > 0);
        let kinds: Vec<String> = kinds.map(|(kind, n)| format!("{n} {kind}")).collect();
        let (failed, sent) = (thousands(failed), thousands(sent));
        match kinds.is_empty() {
            true => format!("0 of {sent}"),
            false => format!("{failed} of {sent}: {}", kinds.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(samples: &'a [&'a Sample]) -> Row<'a> {
        Row {
            way: Way::Bare,
            samples,
        }
    }

    #[test]
    fn failures_are_told_by_kind() {
        let sample = Sample {
            sent: 2_000,
            refused: 90,
            cut: 1,
            ..Sample::default()
        };
        assert_eq!(row(&[&sample]).failures(), "91 of 2,000: 90 refused, 1 cut");
        let fine = Sample {
            sent: 500,
            ..Sample::default()
        };
        assert_eq!(row(&[&fine, &fine]).failures(), "0 of 1,000");
    }

    #[test]
    fn each_row_has_a_cell_for_each_column() {
        for (brief, mode) in [
            (false, Mode::Fresh),
            (true, Mode::Fresh),
            (false, Mode::KeepAlive),
        ] {
            let columns = columns(brief, mode);
            let sample = Sample::default();
            let bars = |text: &str| text.lines().next().unwrap().matches('|').count();
            assert_eq!(bars(&head(&columns)), columns.len() + 1);
            assert_eq!(bars(&row(&[&sample]).text(&columns)), columns.len() + 1);
        }
    }
}

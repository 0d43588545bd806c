//! What syngate costs.

use std::{collections::BTreeMap, fmt::Write};

use testkit::median;

use super::{
    figures::{shown, thousands},
    measured::Measured,
};
use crate::results::grouped;

/// The medians of one size.
pub struct Medians {
    runs: usize,
    /// See [`crate::sample::Cost`].
    pub wall_ms: Option<f64>,
    /// See there.
    pub close_ms: Option<f64>,
    /// See there.
    pub open_ms: Option<f64>,
    peak_kib: u64,
}

impl Measured {
    /// Medians by way, of one series and size.
    pub fn medians(&self, series: &str, size: u64) -> BTreeMap<&str, Medians> {
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

    pub fn sizes(&self, series: &str) -> Vec<u64> {
        let of_it = self.costs.iter().filter(|cost| cost.series == series);
        let mut sizes: Vec<u64> = of_it.map(|cost| cost.size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    pub fn cost_tables(&self) -> String {
        let mut text = String::new();
        let pair = self.medians("pair", 0);
        if !pair.is_empty() {
            text += PAIR_HEAD;
            for (way, costs) in &pair {
                let _ = writeln!(
                    text,
                    "| {} | {} | {} |",
                    PAIR_NAMES
                        .iter()
                        .find(|(name, _)| name == way)
                        .map_or(*way, |(_, n)| n),
                    costs.runs,
                    shown(costs.wall_ms),
                );
            }
        }
        let grows = |(series, _): &(&str, &str)| !self.sizes(series).is_empty();
        if SERIES.iter().any(grows) {
            text += GROWTH_HEAD;
        }
        for (series, what) in SERIES {
            for size in self.sizes(series) {
                text += &self.growth_row(series, what, size);
            }
        }
        text += &self.arrivals();
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

    /// How fast SYNs can be held.
    fn arrivals(&self) -> String {
        let rates = self.sizes("arrive");
        if rates.is_empty() {
            return String::new();
        }
        let row = |rate: &u64| {
            let costs = &self.medians("arrive", *rate)["syngate"];
            // Half a second's SYNs were waited for.
            let a_second = costs
                .wall_ms
                .map_or(0.0, |ms| *rate as f64 / 2.0 / ms * 1e3);
            format!(
                "| {} | {} | {} |\n",
                thousands(*rate),
                costs.runs,
                thousands(a_second as u64)
            )
        };
        let rows: String = rates.iter().map(row).collect();
        format!("{ARRIVE_HEAD}{rows}")
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
pub const SERIES: [(&str, &str); 5] = [
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

const PAIR_HEAD: &str = "
## What it costs

A gate closed and opened, around nothing; medians of whole processes, in turn.

| | runs | takes |
|---|--:|--:|
";
const GROWTH_HEAD: &str = "
How that grows: from the start of its process to the closed gate, from the decision to open to the
open gate, and all of `syngate -- true`. (Where somebody listens, who it is is looked for among the open
files of all processes, in a whole run twice.)

<picture>
  <source media=\"(prefers-color-scheme: dark)\" srcset=\"cost-dark.svg\">
  <img alt=\"What syngate's own steps take as the host grows, a panel for each thing that grows\"
       src=\"cost-light.svg\">
</picture>

| on a host with | runs | to closed | to open | whole run | peak memory | beside it |
|---|--:|--:|--:|--:|--:|---|
";
const ARRIVE_HEAD: &str = "
SYNs that arrive, from forged addresses, and are held:

| sent a second | runs | held a second |
|--:|--:|--:|
";
const HELD_HEAD: &str = "
SYNs that are held, and let go to a service that accepts as fast as it can:

| held | runs | let go within | a second | peak memory |
|--:|--:|--:|--:|--:|
";

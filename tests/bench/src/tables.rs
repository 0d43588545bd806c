//! The tables, from the files of results: in their own folder, and in the README between two markers.

mod costs;
mod figures;
mod measured;
mod promises;
mod restarts;
mod rooms;

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    machine::{self, Machine},
    results::{COSTS, MANY, RESTARTS, Results},
    sample::{Mode, Sample},
    subjects::SUBJECTS,
};
use figures::{sum, thousands};
use measured::Measured;

const BEGIN: &str = "<!-- bench: begin -->\n";
const END: &str = "<!-- bench: end -->\n";

/// Writes what follows from the results, or with `check` finds out whether all is as it would be.
pub fn render(results: &Results, readme: Option<&Path>, check: bool) -> Result<()> {
    let measured = Measured {
        machine: machine::read(results)?
            .with_context(|| format!("{}: nothing was measured", results.folder.display()))?,
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
        let kind = self.kinds(subject).first().copied();
        let table = kind.and_then(|kind| self.restarts(subject, kind, true));
        let mut text = table.unwrap_or_default();
        let rate = kind.map(|(rate, ..)| rate);
        let of_it = |s: &&Sample| s.subject == subject.name && Some(s.rate) == rate;
        let shown = self.restarts.iter().filter(of_it);
        if let Some(last) = shown.max_by_key(|sample| sample.round) {
            let _ = writeln!(
                text,
                "\n({}, in turn, at {} new connections a second; failures of all, else medians. {})",
                match last.round {
                    1 => "One restart in each way".to_owned(),
                    n => format!("{n} restarts in each way"),
                },
                thousands(last.rate.into()),
                self.machine.in_brief()
            );
        }
        if !self.many.is_empty() {
            let (sent, failed) = (sum(&self.many, |s| s.sent), sum(&self.many, Sample::failed));
            let _ = writeln!(
                text,
                "\nWith SYNs held, {failed} of {} connections failed in {} restarts, at {} a second.",
                thousands(sent),
                self.many.len(),
                thousands(self.many[0].rate.into())
            );
        }
        text
    }

    /// The whole report.
    fn report(&self) -> String {
        let mut text = String::from(HEAD);
        text += &self.machine.table();
        text += &self.amount();
        text += &self.promises();
        if !self.restarts.is_empty() {
            text += RESTARTS_HEAD;
        }
        for subject in SUBJECTS {
            let kinds = self.kinds(subject);
            let mut tables = kinds
                .iter()
                .filter_map(|kind| Some((kind, self.restarts(subject, *kind, false)?)));
            let Some(((usual, ..), first)) = tables.next() else {
                continue;
            };
            let _ = write!(
                text,
                "\n### {}\n\n{}; {} a second.\n\n{first}",
                subject.name,
                capital(subject.about),
                thousands((*usual).into())
            );
            for ((rate, mode, family), table) in tables {
                let who = match (mode, family) {
                    _ if rate != usual => format!("At {} a second", thousands((*rate).into())),
                    (Mode::KeepAlive, _) => {
                        "Clients that keep their connections (HTTP/1.1)".to_owned()
                    }
                    _ => "Over IPv6".to_owned(),
                };
                let _ = write!(text, "\n{who}:\n\n{table}");
            }
        }
        text + &self.cost_tables()
    }
}

impl Measured {
    /// How often all was done.
    fn amount(&self) -> String {
        let most = |rounds: &mut dyn Iterator<Item = u32>| rounds.max().unwrap_or_default();
        format!(
            "\nRounds of restarts: {}. Runs of costs: {}. Restarts with SYNs held, one after the other: \
             {}.\n",
            most(&mut self.restarts.iter().map(|sample| sample.round)),
            most(&mut self.costs.iter().map(|cost| cost.round)),
            self.many.len()
        )
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters.clone()).collect()
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
            "{} CPUs for servers and clients, Linux {}, haproxy {}.",
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

Made from the files beside it by `make bench-render`; what was measured, and how, is in the
README of the folder `tests/bench`.
";
const RESTARTS_HEAD: &str = "
## Restarts and reloads

<picture>
  <source media=\"(prefers-color-scheme: dark)\" srcset=\"restart-dark.svg\">
  <img alt=\"How long clients waited around one restart of haproxy, a panel for each way\"
       src=\"restart-light.svg\">
</picture>
";
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let text = format!("a\n{BEGIN}old\n{END}z\n");
        assert_eq!(
            between(&text, "new\n").unwrap(),
            format!("a\n{BEGIN}new\n{END}z\n")
        );
        assert!(between("a\n", "new\n").is_err());
    }
}

//! What a look has brought, and who is told of it: people, `status`, and the file of reports.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::flapping::{Flapping, TOGETHER_FOR, Telling, Together};
use super::gap::{End, Gap};
use super::wanted::Wanted;
use crate::gate::counted;
use crate::gate::counts::Counts;
use crate::run::report::appended;
use crate::run::report::json::ListenerRow;
use crate::tell::say::Say;
use crate::words::ms::Ms;
use crate::words::ports::{PortSet, as_ranges};

/// What a look has brought.
#[derive(Default)]
pub(super) struct Told {
    /// Places where nobody listens, of which nothing has been told yet.
    pub begun: Option<Gap>,
    pub ended: Vec<Ended>,
    pub warnings: Vec<String>,
}

/// A gap that is to be told, of all places where it ended at about the same time.
pub(super) struct Ended {
    pub gap: Gap,
    pub end: End,
    /// Who listens now.
    pub listeners: Vec<ListenerRow>,
}

impl Ended {
    pub(super) fn add(&mut self, other: Ended) {
        self.gap.add(other.gap);
        self.end.add(other.end);
        self.listeners.extend(other.listeners);
    }
}

impl Told {
    pub(super) fn add(&mut self, ended: Ended) {
        match self.ended.iter_mut().find(|all| all.end == ended.end) {
            Some(all) => all.add(ended),
            None => self.ended.push(ended),
        }
    }
}

/// contrib/schema/keep.schema.json describes it. Fields are only ever added.
#[derive(Serialize)]
struct Line<'a> {
    version: u32,
    syngate: &'static str,
    run: &'a str,
    started_at: &'a str,
    #[serde(serialize_with = "as_ranges")]
    ports: &'a PortSet,
    addresses: &'a BTreeSet<String>,
    outcome: &'static str,
    message: &'a str,
    gap_ms: Ms,
    listener_gap_ms: Ms,
    parked: usize,
    handed_over: usize,
    reset: usize,
    left: usize,
    no_room: usize,
    unmoved: Option<u64>,
    longest_ms: Ms,
    listeners_after: &'a [ListenerRow],
}

/// Tells.
pub(super) struct Teller<'a> {
    wanted: &'a Wanted,
    say: &'a Say,
    counts: Counts,
    flapping: Flapping,
    /// Why the last look, or the last report, has failed.
    trouble: String,
    unwritten: String,
}

impl<'a> Teller<'a> {
    pub(super) fn new(wanted: &'a Wanted, say: &'a Say) -> Teller<'a> {
        Teller {
            wanted,
            say,
            counts: Counts::default(),
            flapping: Flapping::default(),
            trouble: String::new(),
            unwritten: String::new(),
        }
    }

    /// A signal has come in a gap.
    pub(super) fn ends_later(&self) {
        let max_wait = humantime::format_duration(self.wanted.max_wait);
        self.say.result(&format!(
            "nobody listens: keep ends once it has handed the waiting connections over to the service, or when \
             nobody has listened for {max_wait} (--max-wait); another signal ends it at once, and resets them"
        ));
    }

    pub(super) fn tell(&mut self, told: &Told) {
        for warning in &told.warnings {
            self.say.warning(warning);
        }
        let now = Instant::now();
        let together = self.flapping.due(now);
        self.tell_together(together);
        if let Some(begun) = &told.begun {
            if self.flapping.has_lines() {
                self.say.result(&begun.begun_words());
            }
        }
        for ended in &told.ended {
            let message = ended.gap.words(&ended.end);
            let is_trouble = ended.gap.is_trouble(&ended.end);
            match self.flapping.add(&ended.gap, &ended.end, now) {
                Telling::Own => self.line(&message, is_trouble),
                Telling::LastOwn => {
                    let every = humantime::format_duration(TOGETHER_FOR);
                    let more =
                        format!("{message}; keep tells further gaps together, every {every}");
                    self.line(&more, is_trouble);
                }
                Telling::None => (),
            }
            // After a stop, the service was not to come back.
            if !matches!(ended.end, End::Stopped(..)) {
                ended.gap.count(&mut self.counts);
            }
            if let Some(file) = &self.wanted.report_file {
                self.report(ended, &message, file);
            }
        }
        if !told.ended.is_empty() {
            // Without it, status tells less.
            let _ = counted::write(&self.counts, &self.wanted.run);
        }
    }

    /// Tells what has not been told.
    pub(super) fn end(mut self) {
        let together = self.flapping.end();
        self.tell_together(together);
    }

    fn tell_together(&self, together: Option<Together>) {
        if let Some(together) = together {
            self.line(&together.words(), together.is_trouble());
        }
    }

    fn line(&self, message: &str, is_trouble: bool) {
        match is_trouble {
            true => self.say.warning(message),
            false => self.say.result(message),
        }
    }

    /// How many gaps there were.
    pub(super) fn gaps(&self) -> u64 {
        self.counts.gaps
    }

    /// A look that has failed is told once, as long as the reason is the same.
    pub(super) fn failed(&mut self, error: &anyhow::Error) {
        let text = format!("{error:#}");
        if text != self.trouble {
            self.say.warning(&text);
            self.trouble = text;
        }
    }

    /// So is a report that could not be written.
    fn report(&mut self, ended: &Ended, message: &str, file: &Path) {
        let line = line(ended, message, &self.wanted.run);
        let written = line.map_err(Into::into);
        let written = written.and_then(|line| appended::append(&line, file));
        let why = written.map_or_else(|error| error.to_string(), |()| String::new());
        if !why.is_empty() && why != self.unwritten {
            let file = file.display();
            self.say.warning(&format!("--report-file: '{file}': {why}"));
        }
        self.unwritten = why;
    }
}

fn line(ended: &Ended, message: &str, run: &str) -> serde_json::Result<Vec<u8>> {
    let gap = &ended.gap;
    let line = Line {
        version: 1,
        syngate: env!("CARGO_PKG_VERSION"),
        run,
        started_at: &gap.began,
        ports: &gap.ports,
        addresses: &gap.addresses,
        outcome: ended.end.outcome(),
        message,
        gap_ms: gap.took.into(),
        listener_gap_ms: gap.unserved.into(),
        parked: gap.waited,
        handed_over: gap.handed_over(),
        reset: gap.reset,
        left: gap.left,
        no_room: gap.no_room,
        unmoved: gap.unmoved,
        longest_ms: gap.longest.into(),
        listeners_after: &ended.listeners,
    };
    let mut line = serde_json::to_vec(&line)?;
    line.push(b'\n');
    Ok(line)
}

//! Lists rules by programs that run at the same time, beside the run.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::failures::{Hung, hangs};
use super::programs::Programs;
use super::running::{LONG, Running};
use crate::process::{child, signals};
use crate::words::family::Family;

/// What to list.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) programs: &'a Programs,
    pub(super) family: Family,
    /// `None`: all tables.
    pub(super) table: Option<&'static str>,
}

/// The programs that list it. They are killed when this is dropped.
pub(super) struct Listing {
    began: Instant,
    parts: Vec<Part>,
}

struct Part {
    programs: Programs,
    family: Family,
    /// A failure is not the last word: it may be that there is no such table.
    of_one_table: bool,
    state: State,
}

enum State {
    Running(Running),
    Over(Result<String>),
}

/// All rules of these IP versions.
///
/// # Errors
/// Some can't be listed.
pub(super) fn all(programs: &Programs, families: &[Family]) -> Result<Vec<String>> {
    let asks = families.iter().map(|family| Ask {
        programs,
        family: *family,
        table: None,
    });
    Listing::begin(asks).wait().into_iter().collect()
}

impl Listing {
    /// Starts one program for each, and does not wait.
    pub(super) fn begin<'a>(asks: impl IntoIterator<Item = Ask<'a>>) -> Listing {
        Listing {
            began: Instant::now(),
            parts: asks.into_iter().map(Part::begin).collect(),
        }
    }

    /// When it began: it shows nothing that was changed later.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// What each program has printed, once all have ended.
    pub(super) fn ended(&mut self) -> Option<Vec<Result<String>>> {
        // Each is looked at, so that none that has ended looks like another child's end.
        let mut running = false;
        for part in &mut self.parts {
            running |= part.runs_on();
        }
        (!running).then(|| self.parts.drain(..).map(Part::said).collect())
    }

    /// Waits for that.
    pub(super) fn wait(&mut self) -> Vec<Result<String>> {
        self.wait_unless(|| false)
    }

    /// Waits for that while the gate is closed: a signal for the run ends a wait that takes long, and so
    /// does COMMAND's end.
    pub(super) fn wait_briefly(&mut self) -> Vec<Result<String>> {
        self.wait_unless(|| signals::has_come() || child::any_has_ended())
    }

    fn wait_unless(&mut self, stop: fn() -> bool) -> Vec<Result<String>> {
        loop {
            if let Some(all) = self.ended() {
                return all;
            }
            if self.took() >= LONG && stop() {
                return self.parts.drain(..).map(Part::said).collect();
            }
            self.wait_a_moment();
        }
    }

    fn wait_a_moment(&mut self) {
        let mut states = self.parts.iter_mut().map(|part| &mut part.state);
        if let Some(running) = states.find_map(|state| match state {
            State::Running(running) => Some(running),
            State::Over(_) => None,
        }) {
            running.wait_a_moment();
        }
    }

    /// How long it has taken so far.
    pub(super) fn took(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Part {
    fn begin(ask: Ask) -> Part {
        let mut part = Part {
            programs: ask.programs.clone(),
            family: ask.family,
            of_one_table: ask.table.is_some(),
            state: State::Over(Ok(String::new())),
        };
        part.start(ask.table);
        part
    }

    fn start(&mut self, table: Option<&str>) {
        self.state = match self.programs.start_save(self.family, table) {
            Ok(running) => State::Running(running),
            Err(error) => State::Over(Err(error)),
        };
    }

    fn runs_on(&mut self) -> bool {
        let State::Running(running) = &mut self.state else {
            return false;
        };
        let Some(output) = running.ended() else {
            return true;
        };
        let printed = self.programs.printed(self.family, output);
        if printed.is_err() && !hangs(&printed) && std::mem::take(&mut self.of_one_table) {
            self.start(None);
            return true;
        }
        self.state = State::Over(printed);
        false
    }

    /// A program that still runs is given up.
    fn said(self) -> Result<String> {
        match self.state {
            State::Over(said) => said,
            State::Running(_) => Err(anyhow!(Hung)),
        }
    }
}

//! The unit of a keep with `--unit`: which listeners are its own, and whether it is stopped for good. systemctl tells,
//! and is asked as a gap begins and while it lasts, beside the looks.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::SigSet;

use crate::kernel::control_group;
use crate::process::environment::environment;
use crate::process::own_unit::booted;
use crate::process::signals::Signals;
use crate::process::systemctl::{Question, read};
use crate::words::unit_answer::{Answer, Fate, is_to_stop};

/// How often systemctl is asked while nobody listens.
pub(crate) const ASK_EVERY: Duration = Duration::from_millis(250);

pub(super) struct Unit {
    name: String,
    /// systemd's name for it: `name` may be another one.
    id: String,
    environment: Vec<CString>,
    mask: SigSet,
    control_group: Option<PathBuf>,
    question: Option<Question>,
    /// It was asked in a gap that is over.
    is_stale: bool,
    asked_at: Option<Instant>,
    fate: Fate,
    /// Why a question was not answered. Told once.
    trouble: String,
}

impl Unit {
    /// Asks systemctl, and waits for the answer.
    ///
    /// # Errors
    /// There is no such unit, nobody can start it, systemctl does not tell, or there are no control groups.
    pub(super) fn find(name: &str, run: &str, signals: &Signals) -> Result<Unit> {
        let mut unit = Unit {
            name: name.to_owned(),
            id: name.to_owned(),
            environment: environment(run),
            mask: *signals.inherited(),
            control_group: None,
            question: None,
            is_stale: false,
            asked_at: None,
            fate: Fate::Comes,
            trouble: String::new(),
        };
        let answer = match unit.ask()?.wait() {
            Err(_) if !booted() => bail!("systemd does not run here; use --port"),
            answer => read(&answer?)?,
        };
        if let Some(why) = answer.refusal() {
            bail!("{why}");
        }
        unit.take(&answer);
        // Else its listeners could not be told from others.
        control_group::root().context("no control groups of version 2 are mounted here")?;
        unit.control_group
            .as_ref()
            .context("systemctl names no control group of the unit's")?;
        Ok(unit)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The ids of its control groups now: each start makes others.
    pub(super) fn control_groups(&self) -> BTreeSet<u64> {
        let group = self.control_group.as_deref();
        group.map(control_group::ids_in).unwrap_or_default()
    }

    /// Whether it was stopped, or is being stopped, as far as that is known.
    pub(super) fn is_stopped(&self) -> bool {
        self.fate == Fate::Stopped
    }

    /// Takes the answer if it has come, and asks if it is time to. Does not wait. Returns a warning.
    pub(super) fn attend(&mut self, in_gap: bool) -> Option<String> {
        if !in_gap {
            (self.asked_at, self.fate) = (None, Fate::Comes);
            self.is_stale = true;
            // What runs on is heard to its end, so that nothing is left of it.
            self.question
                .take_if(|question| question.answer().is_some());
            return None;
        }
        let why = format!("{:#}", self.go_on().err()?);
        if why == self.trouble {
            return None;
        }
        self.trouble = why;
        let (name, why) = (&self.name, &self.trouble);
        Some(format!(
            "it is not known whether {name} is being stopped: {why}"
        ))
    }

    fn go_on(&mut self) -> Result<()> {
        if let Some(question) = &self.question {
            let Some(answer) = question.answer() else {
                if !self.is_stale && is_to_stop(&self.id, &question.so_far()) {
                    self.fate = Fate::Stopped;
                }
                return Ok(());
            };
            self.question = None;
            if !self.is_stale {
                self.take(&read(&answer?)?);
            }
        }
        if self.asked_at.is_none_or(|at| at.elapsed() >= ASK_EVERY) {
            self.asked_at = Some(Instant::now());
            self.is_stale = false;
            self.question = Some(self.ask()?);
        }
        Ok(())
    }

    fn ask(&self) -> Result<Question> {
        Question::ask(&self.id, &self.environment, &self.mask)
    }

    fn take(&mut self, answer: &Answer) {
        self.fate = answer.fate();
        self.id.clone_from(&answer.id);
        self.control_group = answer
            .control_group()
            .and_then(|group| control_group::at(&group));
    }
}

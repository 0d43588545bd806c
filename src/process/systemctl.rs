//! Asks systemctl about a unit, beside other work: it may hang as long as systemd does.

use std::ffi::{CString, OsStr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::SigSet;

use super::beside::Beside;
use crate::words::ended::CommandExit;
use crate::words::unit_answer::{Answer, PROPERTIES};

/// When it is killed.
pub(crate) const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// How long to wait for the end of one that was killed.
const KILLED_WITHIN: Duration = Duration::from_millis(100);

/// A running systemctl. Dropping it kills it.
pub(crate) struct Question {
    systemctl: Beside,
    give_up: Instant,
}

impl Question {
    /// Asks which jobs the unit has (`systemctl list-jobs`), and for its properties (`systemctl show`).
    /// `unit`: its name, as [`service`](crate::words::unit_name::service) lets it through.
    ///
    /// # Errors
    /// sh can't be started.
    pub(crate) fn ask(unit: &str, environment: &[CString], mask: &SigSet) -> Result<Question> {
        let line = format!(
            "exec 2>&1\n\
             systemctl list-jobs --no-legend --full -- '{unit}' &&\n\
             exec systemctl show --property={PROPERTIES} -- '{unit}'"
        );
        let systemctl = Beside::ask(OsStr::new(&line), environment, mask);
        Ok(Question {
            systemctl: systemctl.context("systemctl can't be started")?,
            give_up: Instant::now() + ANSWERS_WITHIN,
        })
    }

    /// What it has printed. `None`: it goes on.
    pub(crate) fn answer(&self) -> Option<Result<String>> {
        let exit = self.systemctl.ended();
        let over = exit.is_some() || Instant::now() >= self.give_up;
        over.then(|| self.printed(exit))
    }

    /// The whole lines that it has printed so far: the jobs come first.
    pub(crate) fn so_far(&self) -> String {
        let mut printed = self.output();
        let whole = printed.rfind('\n').map_or(0, |end| end + 1);
        printed.truncate(whole);
        printed
    }

    fn output(&self) -> String {
        String::from_utf8_lossy(&self.systemctl.output()).into_owned()
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// systemctl has failed, or takes too long.
    pub(crate) fn wait(self) -> Result<String> {
        self.wait_unless(|| false)
    }

    /// The same, until `stop` says not to wait any longer.
    ///
    /// # Errors
    /// systemctl has failed, or takes too long.
    pub(crate) fn wait_unless(self, stop: impl Fn() -> bool) -> Result<String> {
        let exit = self.systemctl.child().wait(self.give_up, stop);
        self.printed(exit)
    }

    fn printed(&self, exit: Option<CommandExit>) -> Result<String> {
        let printed = self.output();
        match exit {
            Some(CommandExit::Code(0)) => Ok(printed),
            Some(_) => {
                let why = printed.lines().next_back();
                bail!("systemctl: {}", why.unwrap_or("it has failed").trim())
            }
            None if Instant::now() < self.give_up => bail!("systemctl: it was not waited for"),
            None => bail!("systemctl: no answer within {ANSWERS_WITHIN:?}"),
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.systemctl.kill(KILLED_WITHIN);
    }
}

/// # Errors
/// systemctl tells of no unit.
pub(crate) fn read(said: &str) -> Result<Answer> {
    let first = said.lines().next().unwrap_or_default();
    Answer::read(said).with_context(|| format!("systemctl says '{first}'"))
}

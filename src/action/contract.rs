//! What an action is, to everybody else: the steps of a run call these traits and know no action by
//! its name.
//!
//! `--syn` gives a [`Wanted`]; with its options it becomes a [`Planned`]; before the gate closes that
//! is [`Prepared`]; while it is closed there is an [`Action`], which decides by its
//! [`Policy`](crate::decide::policy::Policy).

use std::ffi::CString;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use crate::decide::policy::{Answer, NoPolicy, Noted, Policy, Question};
use crate::gate::gate::Gate;
use crate::gate::kinds::Choice;
use crate::kernel::sockets::Sample;
use crate::kernel::sockets::diag::Sockets;
use crate::process::signals::{Caught, Signals};
use crate::tell::say::Say;
use crate::tell::warnings::Warnings;
use crate::words::ending::Ending;
use crate::words::gated::Gated;
use crate::words::ports::PortSet;
use crate::words::steer::Steer;

/// The heading of the actions' options in the help.
pub(crate) const HEADING: &str = "What happens to new connections meanwhile";

/// An action as the command line knows it: one value of `--syn`.
pub(crate) struct Entry {
    pub name: &'static str,
    /// How it is given: `NAME`, or `NAME=WHAT`.
    pub value: &'static str,
    pub help: &'static str,
    /// Adds the action's options to the command line.
    pub options: fn(clap::Command) -> clap::Command,
    /// Reads the value of `--syn`, given what stands behind `=`.
    pub parse: fn(Option<&str>) -> Result<Syn, String>,
    /// Refuses options that make no sense with another action.
    pub unwanted: fn(&Given) -> Result<(), String>,
    /// The objects that it has in the report.
    pub rows: &'static [&'static str],
}

/// The value of `--syn`.
pub(crate) type Syn = Arc<dyn Wanted>;

/// The options of all actions, as clap has read them. Each action takes its own out of it.
pub(crate) type Given = clap::ArgMatches;

/// What a plan rests on.
pub(crate) struct Request<'a> {
    pub gated: &'a Gated,
    pub backend: Choice,
    /// `--max-closed`.
    pub max_closed: Duration,
    pub given: &'a Given,
}

/// An action that `--syn` named.
pub(crate) trait Wanted: Debug + Send + Sync {
    fn name(&self) -> &'static str;

    /// Checks the action's options.
    ///
    /// # Errors
    /// One line that names the option, its value and what would be right.
    fn plan(&self, request: &Request) -> Result<Box<dyn Planned>, String>;
}

/// An action whose options make sense. Nothing has been done.
pub(crate) trait Planned: Debug {
    /// As the report has it.
    fn name(&self) -> &'static str;

    /// The action's part of what `--dry-run` tells.
    fn describe(&self, gated: &Gated) -> Description;

    /// Where the kernel would steer SYNs, for a dry run.
    ///
    /// # Errors
    /// They can't be steered there.
    fn steer(&self) -> Result<Steer>;

    /// How long the rules may stay, at most, once the gate is open.
    fn lingers(&self) -> Duration {
        Duration::ZERO
    }

    /// What to do instead where this can't be done, and the words for it.
    fn otherwise(&self) -> Option<(Box<dyn Prepared>, &'static str)> {
        None
    }

    /// Gets ready while nothing is gated yet.
    ///
    /// # Errors
    /// The action can't be done. Nothing is left of what was prepared.
    fn prepare(&self, before: &mut Before) -> Result<Box<dyn Prepared>, Ending>;
}

/// The action's part of what `--dry-run` tells, in the order of a run.
#[derive(Debug)]
pub(crate) struct Description {
    /// Lines of what is done before the gate closes.
    pub before: Vec<String>,
    /// What is added to the line that closes the gate.
    pub close: &'static str,
    /// How the gate opens.
    pub open: String,
    /// Lines of what is done once the gate is open.
    pub after: Vec<String>,
}

impl Default for Description {
    fn default() -> Description {
        Description {
            before: Vec::new(),
            close: "",
            open: "and open".to_owned(),
            after: Vec::new(),
        }
    }
}

/// What stands ready before the gate closes. It goes after the gate: nobody is steered to it any more.
pub(crate) trait Prepared {
    /// Gets ready for the SYNs that the gate will stop, before it stops the first one.
    ///
    /// # Errors
    /// That can't be done here.
    fn begin(&self, gated: &Gated) -> Result<Box<dyn Action>>;

    /// What stands in for the action if the gate can't be closed and COMMAND runs all the same
    /// (`--best-effort`); `None`: there is nothing to do.
    fn ungated(&self) -> Option<Box<dyn Action>> {
        None
    }

    /// The run ends before the gate was closed.
    fn dismiss(&self, _say: &Say, _signals: &Signals) {}
}

/// An action while the gate is closed. It goes before the gate: who waits goes on, and is not dropped
/// with it.
pub(crate) trait Action {
    fn steer(&self) -> Steer;

    /// What `-v` adds to the line that says the gate is closed.
    fn closed_words(&self) -> String {
        String::new()
    }

    /// When the action has a say.
    fn policy(&self, _closed_at: Instant) -> Box<dyn Policy> {
        Box::new(NoPolicy)
    }

    /// The last thing before the gate closes.
    fn closing(&mut self, _say: &Say) {}

    /// The gate is closed. `before`: what listened just before.
    fn closed(&mut self, _before: &Sample, _now: Now) {}

    /// Does what its policy asked for.
    fn ask(&mut self, question: Question, now: &mut Now) -> Answer;

    /// SYNs to these ports reach the service again.
    fn opened(&mut self, _open: &PortSet) {}

    /// Some ports were open for a while and are shut again.
    fn closed_again(&mut self) {}

    /// The listeners are looked for in another network namespace now.
    fn listeners_moved(&mut self, _sockets: &Sockets) {}

    /// Waits for a signal, or for something to [read](Action::read), until then at the latest.
    fn wait(&self, signals: &Signals, until: Option<Instant>) -> Option<Caught> {
        signals.wait(until)
    }

    /// What it waited for can be read.
    fn read(&mut self) {}

    /// An answer that came by itself.
    fn news(&mut self, _now: &mut Now) -> Option<Answer> {
        None
    }

    /// The rules are gone, and what they counted will not change.
    fn removed(&mut self) {}

    /// The run is over.
    fn end(&mut self) {}

    /// What came of it, for the report; `stopped`: how many SYNs the gate counted.
    fn account(&mut self, noted: &Noted, stopped: Option<u64>, now: &mut Now) -> Account;
}

/// What came of an action.
#[derive(Debug)]
pub(crate) struct Account {
    /// Its objects in the report.
    pub rows: Vec<(&'static str, Value)>,
    /// What became of the ports: "closed".
    pub verb: &'static str,
    /// What became of new connections, for the line that people read.
    pub words: Option<String>,
}

/// A run on its way to the gate.
pub(crate) struct Before<'a> {
    pub gated: &'a Gated,
    pub say: &'a Say,
    pub signals: &'a Signals,
    pub sockets: &'a mut Sockets,
    pub warnings: &'a mut Warnings,
    /// COMMAND's environment.
    pub environment: &'a [CString],
    /// The run's id.
    pub run: &'a str,
    /// COMMAND as one line.
    pub command: &'a str,
    pub best_effort: bool,
    /// There is a `--ready-check`.
    pub ready_check: bool,
}

impl Before<'_> {
    pub(crate) fn warn(&mut self, text: String) {
        self.warnings.warn(self.say, text);
    }
}

/// A run whose gate is closed, or was.
pub(crate) struct Now<'a> {
    pub say: &'a Say,
    pub sockets: &'a mut Sockets,
    pub gate: Option<&'a mut Gate>,
    pub warnings: &'a mut Warnings,
}

impl Now<'_> {
    pub(crate) fn warn(&mut self, text: String) {
        self.warnings.warn(self.say, text);
    }
}

//! The interface of an action. The steps of a run call these traits and know no action by name.
//!
//! `--syn` gives a [`Wanted`], which becomes a [`Planned`] with its options. Before the gate closes
//! it becomes a [`Prepared`]. While the gate is closed there is an [`Action`], which decides by its
//! [`Policy`](crate::decide::policy::Policy).

use std::ffi::{CString, OsString};
use std::fmt::Debug;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::parser::ValueSource;
use serde_json::Value;

use crate::decide::drain::DrainUntil;
use crate::decide::policy::{Answer, NoPolicy, Noted, Policy, Question};
use crate::gate::backend::Backend;
use crate::gate::gate::Gate;
use crate::gate::kinds::Choice;
use crate::gate::who::Who;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::netns::Netns;
use crate::kernel::sockets::{Looks, Sample};
use crate::process::meanwhile::Meanwhile;
use crate::process::signals::{Caught, Signals};
use crate::tell::say::Say;
use crate::tell::warnings::Warnings;
use crate::words::ending::{Ending, Failure};
use crate::words::gated::Gated;
use crate::words::limit::Limit;
use crate::words::ports::PortSet;
use crate::words::steer::Steer;

/// The heading of the actions' options in `--help`.
pub(crate) const HEADING: &str = "New connections while the gate is closed";

/// An action as the command line knows it.
pub(crate) struct ActionEntry {
    pub name: &'static str,
    /// The value of `--syn` in the help: `NAME` or `NAME=WHAT`.
    pub value: &'static str,
    pub help: &'static str,
    pub options: fn(clap::Command) -> clap::Command,
    /// Parses the value of `--syn`; gets the part after `=`.
    pub parse: Parse,
    /// The names of the action's objects in the report.
    pub rows: &'static [&'static str],
    /// What `status` says of a gate that stands.
    pub standing: Standing,
    /// Its limits, each with the item that it stands under in the manual.
    pub limits: &'static [(&'static str, Limit)],
    /// The command line of its guard process, if it starts one.
    pub guard: fn(&[OsString]) -> Option<GuardWork>,
}

pub(crate) type Parse = fn(Option<&str>) -> Result<SynValue, String>;

/// What a guard process does until there is nothing left to guard.
pub(crate) type GuardWork = Box<dyn FnOnce()>;

/// Words about a gate that stands.
pub(crate) struct Standing {
    /// It is closed; where it steers to comes behind.
    pub shut: &'static str,
    /// What new connections do then, if `shut` does not say it.
    pub clients: &'static str,
    /// What goes on while it is open and a run has locked its ports, if anything does.
    pub open: Option<&'static str>,
    /// What it has done with the SYNs that it counted.
    pub done: &'static str,
}

impl Standing {
    pub(crate) const STOPS: Standing = Standing {
        shut: "is closed",
        clients: "",
        open: None,
        done: "stopped",
    };
}

pub(crate) type SynValue = Arc<dyn Wanted>;

/// The options of all actions, as clap has read them. Each action reads its own.
pub(crate) type Given = clap::ArgMatches;

/// # Errors
/// The message is clap's.
pub(crate) fn options<T: clap::FromArgMatches>(given: &Given) -> Result<T, String> {
    T::from_arg_matches(given).map_err(|error| error.to_string())
}

/// Whether an option was given, on the command line or by its variable. `id`: its name, with `_` for `-`.
pub(crate) fn is_given(given: &Given, id: &str) -> bool {
    let source = given.value_source(id);
    source.is_some_and(|source| source != ValueSource::DefaultValue)
}

/// What the check of an action's options needs from the other options.
pub(crate) struct Request<'a> {
    pub gated: &'a Gated,
    pub backend: Choice,
    pub max_closed: Duration,
    pub given: &'a Given,
    /// `--syn` names the action. Else it is one of several that are tried in turn.
    pub named: bool,
}

pub(crate) trait Wanted: Debug + Send + Sync {
    fn name(&self) -> &'static str;

    /// Checks the action's options.
    ///
    /// # Errors
    /// One line that names the option, its value and what would be right.
    fn plan(&self, request: &Request) -> Result<Box<dyn Planned>, String>;
}

/// An action with valid options. Nothing has been done yet.
pub(crate) trait Planned: Debug {
    /// The name in the report.
    fn name(&self) -> &'static str;

    /// The action's part of `--dry-run`.
    fn describe(&self, gated: &Gated) -> Description;

    /// Where rules would steer SYNs, for a dry run. `None`: there would be no rules.
    ///
    /// # Errors
    /// The kernel can't steer them there.
    fn steer(&self) -> Result<Option<Steer>>;

    /// How long the rules may stay once the gate is open.
    fn lingers(&self) -> Duration {
        Duration::ZERO
    }

    /// What the drain waits for, in the place of `--drain-until`.
    fn drain_until(&self) -> Option<DrainUntil> {
        None
    }

    /// Prepares before any port is gated.
    ///
    /// # Errors
    /// The action is not possible. Everything that was prepared is undone.
    fn prepare(&self, before: &mut Before) -> Result<Box<dyn Prepared>, Ending>;
}

/// The action's part of `--dry-run`, in the order of a run.
#[derive(Debug)]
pub(crate) struct Description {
    /// Lines for the time before the gate closes.
    pub before: Vec<String>,
    /// Added to the line that closes the gate.
    pub close: &'static str,
    pub open: String,
    /// See [`Action::opens_when_ready`] and [`Action::drains`].
    pub opens_when_ready: bool,
    pub drains: bool,
    /// The action that is tried first and needs none of the rules, if another one may need them.
    pub rather: Option<Rather>,
    /// What opens the gate when `--max-closed` is over.
    pub opener: &'static str,
    /// Lines for the time after the gate has opened.
    pub after: Vec<String>,
}

/// What a dry run tells of an action that is tried first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rather {
    pub name: &'static str,
    pub drains: bool,
    /// It is not taken where the kernel answers all SYNs with cookies, and that may reset clients.
    pub minds_cookies: bool,
}

impl Default for Description {
    fn default() -> Description {
        Description {
            before: Vec::new(),
            close: "",
            open: "and open".to_owned(),
            opens_when_ready: false,
            drains: true,
            rather: None,
            opener: "the kernel",
            after: Vec::new(),
        }
    }
}

/// What is ready before the gate closes, such as a standby. Dropped after the gate, because the
/// gate's rules steer connections to it.
pub(crate) trait Prepared {
    /// Starts the action. The caller does this before the gate stops the first SYN.
    ///
    /// # Errors
    /// This host can't do the action.
    fn begin(&self, seen: &Seen) -> Result<Box<dyn Action>>;

    /// The name of the action, if the run chooses among several.
    fn chosen(&self) -> Option<&'static str> {
        None
    }

    /// What is tried if this one can't be done.
    fn otherwise(&self) -> Option<&dyn Prepared> {
        None
    }

    /// The beginning of a warning, if this one is worse for clients than the one before.
    fn regret(&self) -> Option<&'static str> {
        None
    }

    /// Cleans up when the run ends before the gate was closed.
    fn dismiss(&self, _say: &Say, _signals: &Signals) {}

    /// The run is over, also one whose gate could not be closed (`--best-effort`). Returns what was
    /// prepared, as an object for the report.
    fn leave(&self) -> Option<(&'static str, Value)> {
        None
    }
}

/// An action while the gate is closed. Dropped before the gate, so that held SYNs are released
/// before their queue goes.
pub(crate) trait Action {
    /// Called once, when the gate is about to close.
    fn means(&mut self) -> Means;

    /// What has happened to the ports, in the line of `-v` about it.
    fn begun(&self) -> &'static str {
        "closed"
    }

    /// What it does while the run waits for a program that changes or lists the gate's rules.
    fn meanwhile(&self) -> Meanwhile {
        Meanwhile::default()
    }

    /// What `-v` adds to that line.
    fn closed_words(&self) -> String {
        String::new()
    }

    fn policy(&self, _closed_at: Instant) -> Box<dyn Policy> {
        Box::new(NoPolicy)
    }

    /// Whether each port opens when it is ready, without `--open-on ready` as well.
    fn opens_when_ready(&self) -> bool {
        false
    }

    /// Whether COMMAND waits for the drain. Not where new connections keep coming to the service.
    fn drains(&self) -> bool {
        true
    }

    /// Whether new connections wait also while a port is open and nobody listens there.
    fn bridges_gaps(&self) -> bool {
        false
    }

    /// Called last before the gate closes.
    fn closing(&mut self, _say: &Say) {}

    /// The gate is closed.
    fn closed(&mut self, _now: &mut Now) {}

    /// COMMAND has been started.
    fn command_began(&mut self) {}

    /// Carries out the question of the action's policy.
    fn ask(&mut self, question: Question, now: &mut Now) -> Answer;

    /// The process that becomes COMMAND is about to do so.
    fn command(&mut self, _pid: i32) {}

    /// `--ready-check` is about to start. Its processes may ask a port that is closed if they join the control group
    /// whose `cgroup.procs` this is. `None`: they wait as all others do, or need no such group.
    fn let_check_in(&mut self) -> Option<OwnedFd> {
        None
    }

    /// The same for `--drain-cmd`, which asks the old process.
    fn let_drain_command_in(&mut self) -> Option<OwnedFd> {
        None
    }

    /// SYNs to these ports reach the service again.
    fn opened(&mut self, _open: &PortSet) {}

    /// Some ports were open for a while and are closed again.
    fn closed_again(&mut self) {}

    /// Looks at the sockets go to another network namespace from now on.
    fn listeners_moved(&mut self, _sockets: &dyn Looks) {}

    /// When it wants to be asked for [news](Action::news), if it waits for no input.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Waits for a signal, for input to [read](Action::read), or for input of `beside`, until `until`
    /// at the latest.
    fn wait(
        &self,
        signals: &Signals,
        until: Option<Instant>,
        beside: Option<BorrowedFd>,
    ) -> Option<Caught> {
        let until = until.into_iter().chain(self.due()).min();
        signals.wait_beside(until, beside)
    }

    /// What the action waits for may be readable.
    fn read(&mut self) {}

    /// An answer that no question has asked for.
    fn news(&mut self, _now: &mut Now) -> Option<Answer> {
        None
    }

    /// The rules are gone, so their counters are final.
    fn removed(&mut self) {}

    /// The results for the report. `stopped` is the number of SYNs that the gate counted.
    fn account(&mut self, noted: &Noted, stopped: Option<u64>, now: &mut Now) -> Account;
}

/// How an action keeps new connections from the service.
pub(crate) enum Means {
    /// Rules steer their SYNs there. The run chooses a backend, which puts the rules into the kernel.
    Rules(Steer),
    /// The action has a backend of its own, and needs no rules.
    Own(Box<dyn Backend>),
}

/// What is known at the last moment before the gate closes.
pub(crate) struct Seen<'a> {
    pub gated: &'a Gated,
    /// The listeners and the processes that hold them.
    pub before: &'a Sample,
    /// `None`: the listeners live in this process's own network namespace.
    pub netns: Option<&'a Netns>,
    pub run: &'a str,
    /// Which run it is, for others.
    pub who: &'a Who,
}

/// The results of an action.
#[derive(Debug)]
pub(crate) struct Account {
    /// The action's objects in the report.
    pub rows: Vec<(&'static str, Value)>,
    /// The verb for what happened to the ports, such as "closed".
    pub verb: &'static str,
    /// The text about new connections for people.
    pub words: Option<String>,
    /// The first is the verdict if COMMAND succeeded and nothing else went wrong. The others are warnings.
    pub failures: Vec<Failure>,
}

/// The context of a run before the gate closes.
pub(crate) struct Before<'a> {
    pub gated: &'a Gated,
    pub say: &'a Say,
    pub signals: &'a Signals,
    pub sockets: &'a mut Sockets,
    pub warnings: &'a mut Warnings,
    pub environment: &'a [CString],
    pub run: &'a str,
    pub command: &'a str,
    pub best_effort: bool,
}

impl Before<'_> {
    pub(crate) fn warn(&mut self, text: String) {
        self.warnings.warn(self.say, text);
    }
}

/// The context of a run whose gate is closed, or was.
pub(crate) struct Now<'a> {
    pub say: &'a Say,
    /// The listeners seen just before the gate closed.
    pub before: &'a Sample,
    pub sockets: &'a mut dyn Looks,
    pub gate: Option<&'a mut Gate>,
    pub warnings: &'a mut Warnings,
}

impl Now<'_> {
    pub(crate) fn warn(&mut self, text: String) {
        self.warnings.warn(self.say, text);
    }
}

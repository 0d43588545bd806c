//! The list of all actions. A new action needs its folder and a line here.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::parser::ValueSource;

use super::contract::{
    ActionEntry, Given, GuardWork, HEADING, Planned, Request, Standing, SynValue,
};
use super::elsewhere::LingerOptions;
use super::{auto, divert, drop, handover, hold, park, redirect};
use crate::words::limit::Limit;
use crate::words::meant::{meant, question};

const ENTRIES: &[ActionEntry] = &[
    drop::ENTRY,
    hold::ENTRY,
    auto::entry(|_| Ok(Arc::new(auto::Auto(named)))),
    redirect::ENTRY,
    divert::ENTRY,
    park::ENTRY,
    handover::ENTRY,
];

fn named(name: &str) -> Option<&'static ActionEntry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}

/// The options of all actions, on the command line.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ActionArgs {
    #[arg(
        long = "syn",
        help = format!("What to do with them: {}", expected()),
        long_help = format!(
            "What to do with them: {}\n\nThe gate stops their SYNs, the first packets.",
            expected()
        ),
        value_name = "ACTION",
        env = "SYNGATE_SYN",
        default_value = "drop",
        value_parser = SynParser,
        allow_hyphen_values = true,
        help_heading = HEADING,
    )]
    action: SynValue,

    #[command(flatten)]
    options: Options,
}

impl ActionArgs {
    pub(crate) fn given(&self) -> &Given {
        &self.options.0
    }

    /// Checks the action's options, and that none was given which has no effect with it.
    ///
    /// # Errors
    /// One line that names the option, its value and what would be right.
    pub(crate) fn plan(&self, request: &Request) -> Result<Box<dyn Planned>, String> {
        has_effect(self.action.name(), request.given)?;
        auto::reload_makes_sense(self.action.name(), request.given)?;
        self.action.plan(request)
    }
}

/// `redirect=PORT` for `redirect`.
pub(crate) fn value_of_syn(name: &str) -> Option<&'static str> {
    named(name).map(|entry| entry.value)
}

/// Options that work with some actions only, each with these actions. `park` and `handover` are listed even for options
/// that they refuse: they give a reason of their own.
const OF_SOME: &[(&str, &[&str])] = &[
    ("max-held", WAITING),
    ("max-held-per-source", WAITING),
    ("queue-num", WAITING),
    ("release-timeout", WAITING),
    ("release-rate", WAITING),
    ("linger", &["redirect", "divert"]),
    ("standby", STANDBY),
    ("standby-check", STANDBY),
    ("standby-timeout", STANDBY),
    ("standby-grace", STANDBY),
    ("keep-standby", STANDBY),
    ("max-diverted", PEER),
    ("peer-timeout", PEER),
    ("no-peer-check", PEER),
];
const WAITING: &[&str] = &["hold", "auto", "park", "handover"];
const STANDBY: &[&str] = &["redirect"];
const PEER: &[&str] = &["divert"];

/// Checks the options on the command line. Variables are not checked: they may be there for other calls.
///
/// # Errors
/// An option has no effect with this action.
fn has_effect(action: &str, given: &Given) -> Result<(), String> {
    let typed = |option: &str| {
        given.value_source(&option.replace('-', "_")) == Some(ValueSource::CommandLine)
    };
    let idle = OF_SOME
        .iter()
        .find(|(option, actions)| typed(option) && !actions.contains(&action));
    match idle {
        Some((option, actions)) => Err(format!(
            "--{option} has no effect with --syn {action}: leave it out, or use --syn {}",
            value_of_syn(actions[0]).unwrap_or(actions[0])
        )),
        None => Ok(()),
    }
}

/// The names of the actions' objects in the report. The first objects of all actions come before
/// any second one.
pub(crate) fn rows() -> Vec<&'static str> {
    let nth = |n| {
        ENTRIES
            .iter()
            .filter_map(move |entry| entry.rows.get(n).copied())
    };
    let most = ENTRIES.iter().map(|entry| entry.rows.len()).max();
    (0..most.unwrap_or(0)).flat_map(nth).collect()
}

/// The limits of all actions.
pub(crate) fn limits() -> impl Iterator<Item = &'static (&'static str, Limit)> {
    ENTRIES.iter().flat_map(|entry| entry.limits)
}

/// The work of the guard process that is started with these words, if it is a guard of an action.
pub(crate) fn guard(words: &[OsString]) -> Option<GuardWork> {
    ENTRIES.iter().find_map(|entry| (entry.guard)(words))
}

/// The words for a gate that stands, and where it steers connections to. `action` is the text that the run wrote
/// into its rules. For an action that this version does not know, the words are those of `drop`.
pub(crate) fn standing(action: &str) -> (&'static Standing, &str) {
    let (name, to) = action.split_once('=').unwrap_or((action, ""));
    let words = named(name).map_or(&Standing::STOPS, |entry| &entry.standing);
    (words, to)
}

#[derive(Debug, Clone)]
struct Options(Given);

impl clap::Args for Options {
    fn augment_args(command: clap::Command) -> clap::Command {
        let command = ENTRIES
            .iter()
            .fold(command, |command, entry| (entry.options)(command));
        LingerOptions::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Options::augment_args(command)
    }
}

impl clap::FromArgMatches for Options {
    fn from_arg_matches(matches: &Given) -> Result<Options, clap::Error> {
        Ok(Options(matches.clone()))
    }

    fn update_from_arg_matches(&mut self, matches: &Given) -> Result<(), clap::Error> {
        self.0 = matches.clone();
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
struct SynParser;

fn parse(text: &str) -> Result<SynValue, String> {
    let (name, to) = match text.split_once('=') {
        Some((name, to)) => (name, Some(to)),
        None => (text, None),
    };
    match named(name).filter(|entry| to.is_none() || entry.value.contains('=')) {
        Some(entry) => (entry.parse)(to),
        None => Err(format!("expected {}{}", expected(), question(guess(text)))),
    }
}

/// The action that a wrong value probably means. In `redirect:8080`, a colon stands in place of `=`.
fn guess(text: &str) -> Option<String> {
    let steers = |name: &str| named(name).is_some_and(|entry| entry.value.contains('='));
    if let Some((name, to)) = text.split_once(':').filter(|(name, _)| steers(name)) {
        return Some(format!("{name}={to}"));
    }
    let name = text.split('=').next().unwrap_or(text);
    meant(name, ENTRIES.iter().map(|entry| entry.name)).map(str::to_owned)
}

/// The values of `--syn` for error messages, such as `drop, hold or divert=ADDR`.
fn expected() -> String {
    let values = ENTRIES.iter().map(|entry| entry.value).collect::<Vec<_>>();
    let (last, rest) = values.split_last().expect("there are actions");
    format!("{} or {last}", rest.join(", "))
}

impl TypedValueParser for SynParser {
    type Value = SynValue;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<SynValue, clap::Error> {
        let parse = |text: &str| parse(text);
        TypedValueParser::parse_ref(&parse, command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let values = ENTRIES
            .iter()
            .map(|entry| PossibleValue::new(entry.value).help(entry.help));
        Some(Box::new(values))
    }
}

//! The list of all actions. A new action needs its folder and a line here.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};

use super::contract::{Entry, Given, HEADING, Planned, Request, Syn};
use super::linger::LingerOptions;
use super::{divert, drop, hold, redirect};
use crate::words::meant::{meant, question};

const ENTRIES: [Entry; 5] = [
    drop::ENTRY,
    hold::ENTRY,
    hold::AUTO,
    redirect::ENTRY,
    divert::ENTRY,
];

/// The options of all actions, on the command line.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ActionArgs {
    #[arg(
        long = "syn",
        help = format!("What becomes of them: {}", expected()),
        long_help = format!(
            "What becomes of them: {}\n\nIt is their SYNs, the first packets, that the gate stops.",
            expected()
        ),
        value_name = "ACTION",
        env = "SYNGATE_SYN",
        default_value = "drop",
        value_parser = SynParser,
        allow_hyphen_values = true,
        help_heading = HEADING,
    )]
    action: Syn,

    #[command(flatten)]
    options: Options,
}

impl ActionArgs {
    pub(crate) fn given(&self) -> &Given {
        &self.options.0
    }

    /// Checks the action's options, and that no other action's were given.
    ///
    /// # Errors
    /// One line that names the option, its value and what would be right.
    pub(crate) fn plan(&self, request: &Request) -> Result<Box<dyn Planned>, String> {
        let others = ENTRIES
            .iter()
            .filter(|kind| kind.name != self.action.name());
        for kind in others {
            (kind.unwanted)(request.given)?;
        }
        self.action.plan(request)
    }
}

/// The names of the actions' objects in the report. The first objects of all actions come before
/// any second one.
pub(crate) fn rows() -> Vec<&'static str> {
    let nth = |n| {
        ENTRIES
            .iter()
            .filter_map(move |kind| kind.rows.get(n).copied())
    };
    let most = ENTRIES.iter().map(|kind| kind.rows.len()).max();
    (0..most.unwrap_or(0)).flat_map(nth).collect()
}

#[derive(Debug, Clone)]
struct Options(Given);

impl clap::Args for Options {
    fn augment_args(command: clap::Command) -> clap::Command {
        let command = ENTRIES
            .iter()
            .fold(command, |command, kind| (kind.options)(command));
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

fn parse(text: &str) -> Result<Syn, String> {
    let (name, to) = match text.split_once('=') {
        Some((name, to)) => (name, Some(to)),
        None => (text, None),
    };
    let kind = ENTRIES.iter().find(|kind| kind.name == name);
    match kind.filter(|kind| to.is_none() || kind.value.contains('=')) {
        Some(kind) => (kind.parse)(to),
        None => Err(format!(
            "expected {}{}",
            expected(),
            question(meant(name, ENTRIES.map(|kind| kind.name)))
        )),
    }
}

/// The values of `--syn` for error messages, such as `drop, hold or divert=ADDR`.
fn expected() -> String {
    let values = ENTRIES.map(|kind| kind.value);
    let (last, rest) = values.split_last().expect("there are actions");
    format!("{} or {last}", rest.join(", "))
}

impl TypedValueParser for SynParser {
    type Value = Syn;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Syn, clap::Error> {
        let parse = |text: &str| parse(text);
        TypedValueParser::parse_ref(&parse, command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let values = ENTRIES.map(|kind| PossibleValue::new(kind.value).help(kind.help));
        Some(Box::new(values.into_iter()))
    }
}

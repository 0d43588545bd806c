//! `syngate restart NAME` and its kin: they take NAME, and the options of a run.

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, FromArgMatches};

use super::options::{HelpArgs, RunOptions};
use crate::words::unit_name::service;

#[derive(Debug, Clone)]
pub(crate) struct NamedArgs {
    /// As a unit of systemd's is called, with `.service`.
    pub(crate) name: String,
    pub(crate) no_precheck: bool,
    pub(crate) options: Box<RunOptions>,
    /// The options that the call has, in the order of the help.
    pub(crate) given: Vec<Given>,
    /// The switches that the environment turns off.
    pub(crate) off: Vec<String>,
}

impl NamedArgs {
    /// Without any option, and without a look at the environment.
    pub(crate) fn of(name: &str) -> NamedArgs {
        let command = <NamedArgs as clap::Args>::augment_args(
            Command::new("restart").disable_help_flag(true),
        );
        let command = command.mut_args(|arg| arg.env(None));
        let parsed = command.try_get_matches_from(["restart", name]);
        let args = parsed.and_then(|matches| NamedArgs::from_arg_matches(&matches));
        args.expect("a name alone is enough")
    }
}

/// An option of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    /// Without its dashes.
    pub(crate) long: String,
    /// `None`: it takes none.
    pub(crate) value: Option<OsString>,
    /// By a variable, which the run itself reads again.
    pub(crate) by_environment: bool,
}

/// The arguments besides the options of a run.
#[derive(Debug, Clone, clap::Args)]
struct Own {
    /// A unit of systemd's, else an init script, else a profile in /etc/syngate
    #[arg(value_name = "NAME", value_parser = service)]
    name: String,

    /// Leave out the test of the configuration that syngate or the profile has for the service
    #[arg(long)]
    no_precheck: bool,

    #[command(flatten)]
    help: HelpArgs,
}

const MORE: &str = "All options of a run work, too, and win: see syngate --help.\n\
                    The manual: man syngate-restart";

impl clap::Args for NamedArgs {
    fn augment_args(command: Command) -> Command {
        let own = |arg: &Arg| matches!(arg.get_id().as_str(), "name" | "no_precheck" | "help");
        let command = RunOptions::augment_args(Own::augment_args(command));
        let command = command.mut_args(|arg| match own(&arg) {
            true => arg,
            false => optional(arg).hide(true),
        });
        command.after_help(MORE)
    }

    fn augment_args_for_update(command: Command) -> Command {
        NamedArgs::augment_args(command)
    }
}

impl FromArgMatches for NamedArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<NamedArgs, clap::Error> {
        let Own {
            name, no_precheck, ..
        } = Own::from_arg_matches(matches)?;
        let (given, off) = given(matches);
        Ok(NamedArgs {
            name,
            no_precheck,
            options: Box::new(RunOptions::from_arg_matches(matches)?),
            given,
            off,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = NamedArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The option, where something else can take its place.
pub(super) fn optional(arg: Arg) -> Arg {
    arg.required(false)
        .required_unless_present(Resettable::Reset)
}

/// The options of a run, as clap has them.
pub(crate) fn run_options() -> Command {
    <RunOptions as clap::Args>::augment_args(Command::new("syngate"))
}

pub(super) fn given(matches: &ArgMatches) -> (Vec<Given>, Vec<String>) {
    let command = run_options();
    let (mut given, mut off) = (Vec::new(), Vec::new());
    for arg in command.get_arguments() {
        let (id, long) = (arg.get_id().as_str(), arg.get_long());
        let source = matches.value_source(id);
        let by_environment = source == Some(ValueSource::EnvVariable);
        let (Some(long), true) = (
            long,
            by_environment || source == Some(ValueSource::CommandLine),
        ) else {
            continue;
        };
        let one = |value| Given {
            long: long.to_owned(),
            value,
            by_environment,
        };
        if arg.get_action().takes_values() {
            let values = matches.get_raw(id).into_iter().flatten();
            given.extend(values.map(|value| one(Some(value.to_owned()))));
        } else if matches.get_flag(id) {
            given.push(one(None));
        } else {
            off.push(long.to_owned());
        }
    }
    (given, off)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args as _;

    fn parsed(words: &str) -> NamedArgs {
        let command = NamedArgs::augment_args(Command::new("restart").disable_help_flag(true));
        let words = ["restart"].into_iter().chain(words.split(' '));
        let matches = command.try_get_matches_from(words).unwrap();
        NamedArgs::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn what_is_given_is_known_word_for_word() {
        let args = parsed("--port 80 haproxy -p81,82 --drain=2s -n --syn hold --no-precheck");
        assert_eq!(args.name, "haproxy.service");
        assert!(args.no_precheck && args.options.dry_run);
        let given: Vec<String> = args
            .given
            .iter()
            .map(|one| match &one.value {
                Some(value) => format!("{}={}", one.long, value.to_string_lossy()),
                None => one.long.clone(),
            })
            .collect();
        let expected = ["port=80", "port=81,82", "syn=hold", "drain=2s", "dry-run"];
        assert_eq!(given, expected);
        assert!(parsed("web").given.is_empty());
    }
}

//! The command line as given. `run::plan` works out what it means.

mod args;
mod errors;
mod help;
mod leaving;
mod named;
mod options;
mod profile;
mod values;

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};

pub use self::args::Args;
pub(crate) use self::args::{
    CheckArgs, ClearArgs, KeepArgs, Named, NamedRun, Other, StatusArgs, Word,
};
pub(crate) use self::errors::mistaken_variables;
pub(crate) use self::leaving::{LEAVE_QUIET, LEAVE_TIMEOUT};
pub(crate) use self::named::{Given, NamedArgs};
pub(crate) use self::options::RunOptions;
pub(crate) use self::profile::Profile;
#[cfg(any(fuzzing, test))]
pub(crate) use self::profile::withstand as withstand_profile;
pub(crate) use self::values::Nets;
#[cfg(any(fuzzing, test))]
pub(crate) use self::values::withstand as withstand_settle;

/// What completions ask for. These commands are for nobody else: no help has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completed {
    /// The ports that are listened on now.
    Ports,
    /// The services that listen now, and the profiles.
    Services,
    Profiles,
}

const COMPLETED: [(&str, Completed); 3] = [
    ("listening-ports", Completed::Ports),
    ("listening-services", Completed::Services),
    ("profiles", Completed::Profiles),
];

/// What a command line asks for.
pub(crate) enum Parsed {
    Run(Box<Args>),
    Named(Box<Named>),
    Other(Other),
    /// `-h`, `--help` or `--version`: text for stdout, in colours where stdout may have them.
    Print(StyledStr),
    /// What may be completed, one a line.
    Complete(Completed),
    /// The line that says what is wrong.
    Wrong(String),
}

/// Parses the arguments and the environment.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Parsed {
    let args: Vec<OsString> = as_help(args.into_iter().collect());
    let asked = COMPLETED
        .iter()
        .find(|(word, _)| args.get(1..).is_some_and(|words| words == [*word]));
    if let Some((_, what)) = asked {
        return Parsed::Complete(*what);
    }
    let subject = match &args[..] {
        [_, help, word] if help == "help" => help::subject(word),
        _ => None,
    };
    if let Some(subject) = subject {
        return Parsed::Print(subject.about(Args::command()));
    }
    let other = args.get(1).is_some_and(|word| Word::is_one(word));
    let long = args.iter().any(|word| word == "--help");
    // Only runs read the environment: a bad variable must not stop the other commands.
    let command = without_empty_variables(Args::command());
    let command = match other {
        true => command.mut_args(|arg| arg.env(None)),
        false => command,
    };
    let parsed = command
        .try_get_matches_from(&args)
        .and_then(|matches| Ok((Args::from_arg_matches(&matches)?, matches)));
    match parsed {
        Ok((
            Args {
                word: Some(word), ..
            },
            _,
        )) => match word {
            Word::Named(named) => Parsed::Named(Box::new(named)),
            Word::Other(other) => Parsed::Other(other),
        },
        Ok((run, matches)) => match loudness(run, &matches) {
            Ok(mut args) => {
                args.by_environment = args.options.dry_run && asked_by_environment(&matches);
                if args.options.container.is_some() {
                    args.given = named::given(&matches).0;
                }
                Parsed::Run(Box::new(args))
            }
            Err(why) => Parsed::Wrong(why),
        },
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp if !other && !long => {
                Parsed::Print(help::brief(Args::command()).render_help())
            }
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Parsed::Print(error.render()),
            _ => Parsed::Wrong(errors::one_line(&error, &args)),
        },
    }
}

/// `syngate help` is `syngate --help`, and `syngate help check` is `syngate check --help`. For `syngate help actions` see
/// `help::SUBJECTS`.
fn as_help(args: Vec<OsString>) -> Vec<OsString> {
    let about = match args.get(1..) {
        Some([help]) if help == "help" => None,
        Some([help, word]) if help == "help" && Word::is_one(word) => Some(word.clone()),
        _ => return args,
    };
    let program = args.into_iter().take(1).chain(about);
    program.chain([OsString::from("--help")]).collect()
}

/// A variable that is empty counts as one that is not set.
fn without_empty_variables(command: Command) -> Command {
    let read = |arg: Arg| match arg.get_env().and_then(std::env::var_os) {
        Some(value) if value.is_empty() => arg.env(None),
        _ => arg,
    };
    command
        .mut_args(read)
        .mut_subcommands(|command| command.mut_args(read))
}

/// Somebody who reads the call sees no dry run.
fn asked_by_environment(matches: &ArgMatches) -> bool {
    matches.value_source("dry_run") == Some(ValueSource::EnvVariable)
}

/// The command line wins over the environment: `-q` over SYNGATE_VERBOSE, and `-v` over SYNGATE_QUIET.
fn loudness(mut args: Args, matches: &ArgMatches) -> Result<Args, String> {
    let options = &mut args.options;
    if !(options.quiet && options.verbose) {
        return Ok(args);
    }
    let given = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
    match (given("quiet"), given("verbose")) {
        (true, false) => options.verbose = false,
        (false, true) => options.quiet = false,
        _ => return Err("--quiet and --verbose exclude each other".to_owned()),
    }
    Ok(args)
}

//! What clap reads: a run with its COMMAND, and the other commands. The doc comments of fields and
//! variants are the help texts.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, CommandFactory, Parser, Subcommand};

use super::help::{HELP_WIDTH, STYLES, TOLD};
use super::named::{Given, NamedArgs};
use super::options::{HelpArgs, RunOptions};
use super::values::{ADDRESSES, addresses};
use crate::kernel::services::ports;
use crate::words::duration::duration;
use crate::words::ports::PortSet;
use crate::words::unit_name::{service, stem};

/// The command line of a run, or of another command.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "syngate",
    version,
    about = "Restart or reload a TCP service without a client noticing",
    long_about = "Runs COMMAND behind a closed gate: new connections to PORTS don't reach the service \
                  until it listens again, and those that exist go on. Before COMMAND runs, \
                  requests in progress finish (--drain). --syn says what new connections do \
                  meanwhile: the client's kernel sends its SYN again (drop, the default), syngate \
                  holds the SYN (hold), or the connection waits in the kernel (park). Or it goes to \
                  a standby (redirect), or to the other host of a pair (divert). The gate never stays \
                  closed: it opens when syngate ends, in whatever way. Where syngate can't open it, \
                  the kernel or a guard process does, after --max-closed at the latest.",
    override_usage = "syngate [OPTIONS] --port <PORTS> -- <COMMAND> [ARGS]...\n       \
                      syngate restart | reload | run [OPTIONS] <NAME>\n       \
                      syngate status | clear | check | keep [OPTIONS]",
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    subcommand_help_heading = "Other commands",
    disable_help_flag = true,
    disable_version_flag = true,
    max_term_width = HELP_WIDTH,
    styles = STYLES,
    after_help = "Exit status: COMMAND's own; 124: nobody listens; 125-127: COMMAND was not run.\n\
                  --help tells all; so does man syngate.",
    after_long_help = "Durations have a unit: 500ms, 2s, 1m30s. Options also come from the \
                       environment, as [env] says; the command line wins.\n\n\
                       Exit status: COMMAND's own, 128+n if a signal ended it; 124 if nobody \
                       listens afterwards or --max-closed was hit; 125, 126, 127 if COMMAND was \
                       not run.\n\
                       The manual: man syngate. Of the actions: syngate help actions"
)]
pub struct Args {
    #[command(flatten)]
    pub(crate) options: RunOptions,

    /// Print help (--help: all options)
    #[arg(short, long, action = ArgAction::Help, help_heading = TOLD)]
    help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = TOLD, hide_short_help = true)]
    version: Option<bool>,

    /// The dry run was asked for by the environment alone.
    #[arg(skip)]
    pub(crate) by_environment: bool,

    /// What a run by name knows of its service.
    #[arg(skip)]
    pub(crate) by_name: Option<NamedRun>,

    /// With --container: the options that were given, in the order of the help.
    #[arg(skip)]
    pub(crate) given: Vec<Given>,

    /// What to run, with its arguments; as it is, not by a shell
    #[arg(
        last = true,
        required = true,
        value_name = "COMMAND",
        hide_short_help = true
    )]
    pub(crate) command: Vec<OsString>,

    #[command(subcommand)]
    pub(crate) word: Option<Word>,
}

/// A service that the caller has looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NamedRun {
    pub(crate) name: String,
    /// It listened when it was looked at.
    pub(crate) is_up: bool,
    pub(crate) reloads: bool,
    /// The caller has found the test, and nobody has named one.
    pub(crate) test_is_found: bool,
    /// What to warn of: a port of the service's is not gated.
    pub(crate) forgotten: Option<String>,
}

/// What the first word says, if it is no option.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Word {
    #[command(flatten)]
    Named(Named),
    #[command(flatten)]
    Other(Other),
}

/// A run of a service that is named, for which the rest of the call has to be found.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Named {
    /// Restart a service by its name: its ports and its test are found
    Restart(NamedArgs),
    /// The same, for a service that can reload
    Reload(NamedArgs),
    /// Run the command of a profile
    Run(NamedArgs),
}

/// The commands besides runs.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Other {
    /// Show which ports are closed; exit status 3 if one is
    #[command(after_help = "The manual: man syngate-status")]
    Status(StatusArgs),
    /// Open gates: those of dead runs are removed, living runs open theirs
    #[command(after_help = "The manual: man syngate-clear")]
    Clear(ClearArgs),
    /// Tell what this host can do, and what a service on the ports needs
    #[command(after_help = "The manual: man syngate-check")]
    Check(CheckArgs),
    /// Stand by: connections wait while nobody listens on the ports
    #[command(after_help = "The manual: man syngate-keep")]
    Keep(KeepArgs),
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct StatusArgs {
    /// Only gates and runs of these TCP ports; may be repeated
    #[arg(short, long = "port", value_name = "PORTS", action = ArgAction::Append, value_parser = ports, allow_hyphen_values = true)]
    pub(crate) ports: Vec<PortSet>,

    /// Print nothing: the exit status tells, as for a check of keepalived
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) quiet: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    help: HelpArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ClearArgs {
    /// Only gates of these TCP ports; may be repeated
    #[arg(short, long = "port", value_name = "PORTS", action = ArgAction::Append, value_parser = ports, allow_hyphen_values = true)]
    pub(crate) ports: Vec<PortSet>,

    /// Open, then end the run and its COMMAND, or a keep. Plain clear is enough to open
    #[arg(long)]
    pub(crate) force: bool,

    /// How long to wait for a run to answer
    #[arg(long, value_name = "DUR", default_value = "5s", value_parser = duration, allow_hyphen_values = true)]
    pub(crate) timeout: Duration,

    #[command(flatten)]
    help: HelpArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CheckArgs {
    /// A service as restart takes it: its profile is checked, and its calls are shown in the long form
    #[arg(value_name = "NAME", value_parser = service)]
    pub(crate) name: Option<String>,

    /// The TCP ports of the service to look at; may be repeated
    #[arg(short, long = "port", value_name = "PORTS", action = ArgAction::Append, value_parser = ports, allow_hyphen_values = true)]
    pub(crate) ports: Vec<PortSet>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    help: HelpArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct KeepArgs {
    /// The TCP ports of the service; may be repeated. With --unit: only these of its ports
    #[arg(short, long = "port", value_name = "PORTS", required_unless_present = "unit", action = ArgAction::Append, value_parser = ports, allow_hyphen_values = true)]
    pub(crate) ports: Vec<PortSet>,

    /// The service, by its unit: all ports on which it listens, now or later; who waits when it is stopped is reset
    #[arg(long, value_name = "NAME", value_parser = service)]
    pub(crate) unit: Option<String>,

    /// How long connections may wait for the service; then they are reset, and new ones refused until it listens
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = duration, allow_hyphen_values = true)]
    pub(crate) max_wait: Duration,

    /// How many addresses are kept at most, each with its port
    #[arg(long, value_name = "N", default_value_t = ADDRESSES, value_parser = addresses, allow_hyphen_values = true)]
    pub(crate) max_addresses: u32,

    /// Also services that do not set SO_REUSEPORT: it is set for them
    #[arg(long)]
    pub(crate) any: bool,

    /// Add a report of each gap to this file, one line of JSON; contrib/schema/keep.schema.json describes it
    #[arg(long, value_name = "PATH")]
    pub(crate) report_file: Option<PathBuf>,

    #[command(flatten)]
    help: HelpArgs,
}

impl Named {
    pub(crate) fn args(&self) -> &NamedArgs {
        match self {
            Named::Restart(args) | Named::Reload(args) | Named::Run(args) => args,
        }
    }

    /// As systemctl, init scripts and the command line have it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Named::Restart(_) => "restart",
            Named::Reload(_) => "reload",
            Named::Run(_) => "run",
        }
    }

    /// NAME, as init scripts and profiles are called.
    pub(crate) fn short(&self) -> &str {
        stem(&self.args().name)
    }
}

impl Word {
    pub(crate) fn names() -> Vec<String> {
        let program = Args::command();
        let names = program.get_subcommands().map(|c| c.get_name().to_owned());
        names.collect()
    }

    pub(crate) fn is_one(word: &std::ffi::OsStr) -> bool {
        word.to_str().is_some_and(Word::has_subcommand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }
}

//! What clap reads: the options of a run, and of the other commands. The doc comments of fields and
//! variants are the help texts.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, CommandFactory, Parser, Subcommand};

use super::help::{CHECKS, GATED, HELP_WIDTH, MADE, STYLES, TOLD, WHEN};
use super::values::{ADDRESSES, Names, Nets, addresses, interfaces, networks, settle};
use crate::action::list::ActionArgs;
use crate::decide::config::{OpenOn, Settle};
use crate::decide::drain::DrainUntil;
use crate::gate::kinds::Choice;
use crate::kernel::services::{listen_ports, ports};
use crate::kernel::sockets::netns::Netns;
use crate::words::duration::duration;
use crate::words::listen_ports::ListenPorts;
use crate::words::ports::PortSet;
use crate::words::ready::ReadyUrl;
use crate::words::scope::HookChoice;
use crate::words::unit_name::service;

/// The command line of a run, or of another command.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "syngate",
    version,
    about = "Restart or reload a TCP service without a client noticing",
    long_about = "Runs COMMAND behind a closed gate: an nftables or iptables rule that stops the \
                  SYNs of new connections to PORTS, and nothing else. Before COMMAND runs, what is \
                  under way is let finish; when the service listens again, the gate opens, and the \
                  SYNs, which the clients send again or which were held (--syn hold), reach the new \
                  process. Or new connections go to a standby meanwhile (--syn redirect), or \
                  to the other host of a pair (--syn divert). The gate never stays shut: it is gone \
                  when syngate is gone, and the kernel opens it after --max-closed.",
    override_usage = "syngate [OPTIONS] --port <PORTS> -- <COMMAND> [ARGS]...\n       \
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
                       The manual: man syngate"
)]
pub struct Args {
    /// TCP ports to gate: 80,443, 8000-8010, https
    ///
    /// Numbers, ranges, and names from the services database, separated by commas; may be repeated.
    #[arg(
        short,
        long = "port",
        value_name = "PORTS",
        env = "SYNGATE_PORT",
        required = true,
        action = ArgAction::Append,
        value_parser = ports,
        allow_hyphen_values = true,
        help_heading = GATED,
    )]
    pub(crate) ports: Vec<PortSet>,

    /// Only connections to these addresses, prefixes
    ///
    /// Separated by commas; may be repeated. Connections to other addresses are let through.
    #[arg(long, value_name = "ADDRS", env = "SYNGATE_TO", action = ArgAction::Append, value_parser = networks, help_heading = GATED)]
    pub(crate) to: Vec<Nets>,

    /// Let these addresses, prefixes through
    ///
    /// Connections from there, as of health checks, are not gated. Separated by commas; may be repeated.
    #[arg(long, value_name = "ADDRS", env = "SYNGATE_ALLOW_FROM", action = ArgAction::Append, value_parser = networks, help_heading = GATED)]
    pub(crate) allow_from: Vec<Nets>,

    /// Let local clients through
    ///
    /// Connections that come in over the loopback interface are not gated: for a COMMAND that asks
    /// its own service.
    #[arg(long, env = "SYNGATE_ALLOW_LOCAL", value_parser = BoolishValueParser::new(), help_heading = GATED)]
    pub(crate) allow_local: bool,

    /// Only what comes in over these interfaces
    ///
    /// Names, separated by commas; may be repeated.
    #[arg(long, value_name = "NAMES", env = "SYNGATE_INTERFACE", action = ArgAction::Append, value_parser = interfaces, hide_short_help = true, help_heading = GATED)]
    pub(crate) interface: Vec<Names>,

    /// Where packets are stopped
    #[arg(
        long,
        value_name = "HOOK",
        env = "SYNGATE_HOOK",
        default_value = "auto",
        hide_short_help = true,
        help_heading = GATED
    )]
    pub(crate) hook: HookChoice,

    /// The listeners' ports, if others: 80=8080
    ///
    /// Where the listeners' ports are not the gated ones, behind REDIRECT, TPROXY, or the published
    /// port of a container: 8080, or 80=8080,443=8443.
    #[arg(long, value_name = "PORTS", env = "SYNGATE_LISTEN_PORT", value_parser = listen_ports, allow_hyphen_values = true, help_heading = GATED)]
    pub(crate) listen_port: Option<ListenPorts>,

    /// Network namespace of the listeners
    ///
    /// A name, a process id, or a path: where a container has the listeners.
    #[arg(long, value_name = "NETNS", env = "SYNGATE_LISTEN_NETNS", value_parser = Netns::parse, help_heading = GATED)]
    pub(crate) listen_netns: Option<Netns>,

    /// Run this to learn --listen-netns
    ///
    /// By sh -c; again after COMMAND, while nobody listens: for a container that is replaced.
    #[arg(long, value_name = "CMD", hide_short_help = true, help_heading = GATED)]
    pub(crate) listen_netns_from: Option<OsString>,

    #[command(flatten)]
    pub(crate) action: ActionArgs,

    /// At most, for what is under way
    ///
    /// How long to wait at most, gate closed, for what is under way to finish before COMMAND runs; 0s:
    /// not at all.
    #[arg(long, value_name = "DUR", env = "SYNGATE_DRAIN", default_value = "1s", value_parser = duration, allow_hyphen_values = true, help_heading = WHEN)]
    pub(crate) drain: Duration,

    /// Tell the service to say goodbye, before the drain
    ///
    /// By sh -c, once the gate is closed, within --drain: so that the service closes kept connections itself.
    #[arg(long, value_name = "CMD", hide_short_help = true, help_heading = WHEN)]
    pub(crate) drain_cmd: Option<OsString>,

    /// What the drain waits for
    ///
    /// Handshakes, requests or connections.
    #[arg(
        long,
        value_name = "WHAT",
        env = "SYNGATE_DRAIN_UNTIL",
        default_value = "requests",
        help_heading = WHEN
    )]
    pub(crate) drain_until: DrainUntil,

    /// At most, for the service to listen
    ///
    /// How long to wait, after COMMAND, until each port is listened on again; 0s: don't watch
    /// listeners, as for an intended stop.
    #[arg(long, value_name = "DUR", env = "SYNGATE_READY_TIMEOUT", default_value = "10s", value_parser = duration, allow_hyphen_values = true, help_heading = WHEN)]
    pub(crate) ready_timeout: Duration,

    /// Extra time once it listens
    ///
    /// auto: as long as its sockets still change.
    #[arg(long, value_name = "DUR", env = "SYNGATE_SETTLE", default_value = "auto", value_parser = settle, allow_hyphen_values = true, hide_short_help = true, help_heading = WHEN)]
    pub(crate) settle: Settle,

    /// ready: while COMMAND still runs
    ///
    /// When a port opens whose service was replaced: ready is for a COMMAND that stays in the
    /// foreground.
    #[arg(
        long,
        value_name = "WHEN",
        env = "SYNGATE_OPEN_ON",
        default_value = "exit",
        help_heading = WHEN
    )]
    pub(crate) open_on: OpenOn,

    /// The kernel opens the gate after this
    ///
    /// Even if syngate hangs.
    #[arg(long, value_name = "DUR", env = "SYNGATE_MAX_CLOSED", default_value = "30s", value_parser = duration, allow_hyphen_values = true, help_heading = WHEN)]
    pub(crate) max_closed: Duration,

    /// At most, for another run on the ports
    ///
    /// Two runs that share a port take turns.
    #[arg(long, value_name = "DUR", env = "SYNGATE_LOCK_TIMEOUT", default_value = "1m", value_parser = duration, allow_hyphen_values = true, help_heading = WHEN)]
    pub(crate) lock_timeout: Duration,

    /// First, gate open; if it fails, nothing is done
    ///
    /// By sh -c, say haproxy -c -f FILE. If it fails, nothing is gated and COMMAND is not run.
    #[arg(long, value_name = "CMD", help_heading = CHECKS)]
    pub(crate) precheck: Option<OsString>,

    /// After COMMAND; opens once it succeeds
    ///
    /// By sh -c, again and again within --ready-timeout.
    #[arg(long, value_name = "CMD", help_heading = CHECKS)]
    pub(crate) ready_check: Option<OsString>,

    /// Open the gate once this URL answers 2xx
    ///
    /// syngate asks it through the gate, again and again within --ready-timeout. tcp:PORT: once the port takes a
    /// connection.
    #[arg(long, value_name = "URL", env = "SYNGATE_READY_URL", value_parser = ReadyUrl::parse, help_heading = CHECKS)]
    pub(crate) ready_url: Option<ReadyUrl>,

    /// Don't check the certificate of an https: URL
    #[arg(long, env = "SYNGATE_READY_INSECURE", value_parser = BoolishValueParser::new(), hide_short_help = true, help_heading = CHECKS)]
    pub(crate) ready_insecure: bool,

    /// How it is made; auto: nft where it works, else iptables
    #[arg(
        long,
        value_name = "BACKEND",
        env = "SYNGATE_BACKEND",
        default_value = "auto",
        hide_short_help = true,
        help_heading = MADE
    )]
    pub(crate) backend: Choice,

    /// How long to wait for the lock of iptables
    #[arg(long, value_name = "DUR", env = "SYNGATE_XTABLES_WAIT", default_value = "5s", value_parser = duration, allow_hyphen_values = true, hide_short_help = true, help_heading = MADE)]
    pub(crate) xtables_wait: Duration,

    /// Run COMMAND even if the gate could not be closed
    ///
    /// And say so. Clients may be refused then.
    #[arg(long, env = "SYNGATE_BEST_EFFORT", value_parser = BoolishValueParser::new(), hide_short_help = true, help_heading = MADE)]
    pub(crate) best_effort: bool,

    /// Write a report, in JSON
    ///
    /// It replaces the last one in one step; contrib/schema/report.schema.json describes it.
    #[arg(long, value_name = "PATH", env = "SYNGATE_REPORT_FILE", help_heading = TOLD)]
    pub(crate) report_file: Option<PathBuf>,

    /// Print the plan and the rules, do nothing
    #[arg(short = 'n', long, env = "SYNGATE_DRY_RUN", value_parser = BoolishValueParser::new(), help_heading = TOLD)]
    pub(crate) dry_run: bool,

    /// Tell each phase
    #[arg(short, long, env = "SYNGATE_VERBOSE", value_parser = BoolishValueParser::new(), help_heading = TOLD)]
    pub(crate) verbose: bool,

    /// Tell errors only
    #[arg(short, long, env = "SYNGATE_QUIET", value_parser = BoolishValueParser::new(), help_heading = TOLD)]
    pub(crate) quiet: bool,

    /// The dry run was asked for by the environment alone.
    #[arg(skip)]
    pub(crate) by_environment: bool,

    /// This; --help: all of it
    #[arg(short, long, action = ArgAction::Help, help_heading = TOLD)]
    help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = TOLD, hide_short_help = true)]
    version: Option<bool>,

    /// What to run, with its arguments; as it is, not by a shell
    #[arg(
        last = true,
        required = true,
        value_name = "COMMAND",
        hide_short_help = true
    )]
    pub(crate) command: Vec<OsString>,

    #[command(subcommand)]
    pub(crate) other: Option<Other>,
}

/// The commands besides runs.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Other {
    /// Show which gates stand here; exit status 3 if something is shut
    Status(StatusArgs),
    /// Open gates: those of dead runs are removed, living runs open theirs
    Clear(ClearArgs),
    /// Tell what this host can do, and what a service on the ports needs
    Check(CheckArgs),
    /// Stand by: connections wait while nobody listens on the ports
    Keep(KeepArgs),
}

/// The other commands have no brief help: all of theirs fits on one screen.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct HelpArgs {
    /// Print this help
    #[arg(short, long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct StatusArgs {
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

impl Other {
    pub(crate) fn names() -> Vec<String> {
        let program = Args::command();
        let names = program.get_subcommands().map(|c| c.get_name().to_owned());
        names.collect()
    }

    pub(crate) fn is_named(word: &std::ffi::OsStr) -> bool {
        word.to_str().is_some_and(Other::has_subcommand)
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

//! The options of a run, and what all commands have. The doc comments of fields are the help texts.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction;
use clap::builder::BoolishValueParser;

use super::help::{CHECKS, GATED, MADE, TOLD, WHEN};
use super::leaving::LeaveOptions;
use super::values::{Names, Nets, interfaces, networks, settle};
use crate::action::list::ActionArgs;
use crate::decide::config::{OpenOn, Settle};
use crate::decide::drain::DrainUntil;
use crate::gate::kinds::Choice;
use crate::kernel::services::{listen_ports, ports};
use crate::kernel::sockets::netns::Netns;
use crate::words::container::ContainerName;
use crate::words::duration::duration;
use crate::words::listen_ports::ListenPorts;
use crate::words::ports::PortSet;
use crate::words::ready::ReadyUrl;
use crate::words::scope::HookChoice;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RunOptions {
    /// TCP ports to gate: 80,443, 8000-8010, https
    ///
    /// Numbers, ranges, and names from the services database, separated by commas; may be repeated.
    #[arg(
        short,
        long = "port",
        value_name = "PORTS",
        env = "SYNGATE_PORT",
        required_unless_present = "container",
        action = ArgAction::Append,
        value_parser = ports,
        allow_hyphen_values = true,
        help_heading = GATED,
    )]
    pub(crate) ports: Vec<PortSet>,

    /// Gate what this container publishes
    ///
    /// By its name in docker or podman. Its ports, where it listens, and its health check are found; all options win
    /// over what is found. --dry-run shows the call in the long form.
    #[arg(long, value_name = "NAME", value_parser = ContainerName::parse, allow_hyphen_values = true, help_heading = GATED)]
    pub(crate) container: Option<ContainerName>,

    /// Gate only connections to these addresses
    ///
    /// Separated by commas; may be repeated. Connections to other addresses are let through.
    #[arg(long, value_name = "ADDRS", env = "SYNGATE_TO", action = ArgAction::Append, value_parser = networks, help_heading = GATED)]
    pub(crate) to: Vec<Nets>,

    /// Don't gate connections from these addresses
    ///
    /// Addresses or prefixes, of health checks, say. Separated by commas; may be repeated.
    #[arg(long, value_name = "ADDRS", env = "SYNGATE_ALLOW_FROM", action = ArgAction::Append, value_parser = networks, help_heading = GATED)]
    pub(crate) allow_from: Vec<Nets>,

    /// Don't gate connections from this host itself
    ///
    /// Connections that come in over the loopback interface are not gated: for a COMMAND that asks
    /// its own service.
    #[arg(long, env = "SYNGATE_ALLOW_LOCAL", value_parser = BoolishValueParser::new(), help_heading = GATED)]
    pub(crate) allow_local: bool,

    /// Gate only connections that come in here
    ///
    /// Names, separated by commas; may be repeated.
    #[arg(long, value_name = "NAMES", env = "SYNGATE_INTERFACE", action = ArgAction::Append, value_parser = interfaces, hide_short_help = true, help_heading = GATED)]
    pub(crate) interface: Vec<Names>,

    /// Where in the kernel packets are stopped
    #[arg(
        long,
        value_name = "HOOK",
        env = "SYNGATE_HOOK",
        default_value = "auto",
        hide_short_help = true,
        help_heading = GATED
    )]
    pub(crate) hook: HookChoice,

    /// Ports of the listeners, if they differ: 80=8080
    ///
    /// If the listeners have other ports than the gated ones, as behind REDIRECT, TPROXY or the published port of a
    /// container: 8080, or 80=8080,443=8443.
    #[arg(long, value_name = "PORTS", env = "SYNGATE_LISTEN_PORT", value_parser = listen_ports, allow_hyphen_values = true, hide_short_help = true, help_heading = GATED)]
    pub(crate) listen_port: Option<ListenPorts>,

    /// Network namespace where the service listens
    ///
    /// A name, a process id, or a path: where a container has the listeners.
    #[arg(long, value_name = "NETNS", env = "SYNGATE_LISTEN_NETNS", value_parser = Netns::parse, hide_short_help = true, help_heading = GATED)]
    pub(crate) listen_netns: Option<Netns>,

    /// Command that prints the network namespace
    ///
    /// Run by sh -c, and again after COMMAND while nobody listens, because COMMAND may replace a container.
    #[arg(long, value_name = "CMD", hide_short_help = true, help_heading = GATED)]
    pub(crate) listen_netns_from: Option<OsString>,

    #[command(flatten)]
    pub(crate) action: ActionArgs,

    #[command(flatten)]
    pub(crate) leaving: LeaveOptions,

    /// Max. time for requests in progress
    ///
    /// The gate is closed meanwhile. After this time COMMAND runs, even if requests are still in progress. 0s: don't
    /// wait.
    #[arg(long, value_name = "DUR", env = "SYNGATE_DRAIN", default_value = "1s", value_parser = duration, allow_hyphen_values = true, help_heading = WHEN)]
    pub(crate) drain: Duration,

    /// Tell the service to say goodbye, before the drain
    ///
    /// Run by sh -c once the gate is closed, within --drain. The service can close kept connections itself then.
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

    /// Max. time until the service listens
    ///
    /// The time begins when COMMAND has ended. 0s: don't wait for listeners, as for an intended stop.
    #[arg(long, value_name = "DUR", env = "SYNGATE_READY_TIMEOUT", default_value = "10s", value_parser = duration, allow_hyphen_values = true, help_heading = WHEN)]
    pub(crate) ready_timeout: Duration,

    /// Time to wait once the service listens
    ///
    /// auto: as long as its sockets still change.
    #[arg(long, value_name = "DUR", env = "SYNGATE_SETTLE", default_value = "auto", value_parser = settle, allow_hyphen_values = true, hide_short_help = true, help_heading = WHEN)]
    pub(crate) settle: Settle,

    /// ready: as soon as it listens
    ///
    /// When a port opens whose service was replaced. ready is for a COMMAND that stays in the foreground, or that
    /// ends long after the service listens.
    #[arg(
        long,
        value_name = "WHEN",
        env = "SYNGATE_OPEN_ON",
        default_value = "exit",
        help_heading = WHEN
    )]
    pub(crate) open_on: OpenOn,

    /// Max. time the gate stays closed
    ///
    /// Then the kernel opens it, even if syngate hangs.
    #[arg(long, value_name = "DUR", env = "SYNGATE_MAX_CLOSED", default_value = "30s", value_parser = duration, allow_hyphen_values = true, help_heading = WHEN)]
    pub(crate) max_closed: Duration,

    /// Max. time to wait for another run
    ///
    /// Two runs that share a port take turns.
    #[arg(long, value_name = "DUR", env = "SYNGATE_LOCK_TIMEOUT", default_value = "1m", value_parser = duration, allow_hyphen_values = true, hide_short_help = true, help_heading = WHEN)]
    pub(crate) lock_timeout: Duration,

    /// Command to run first; if it fails, nothing is done
    ///
    /// Run by sh -c, such as haproxy -c -f FILE. If it fails, nothing is gated and COMMAND is not run.
    #[arg(long, value_name = "CMD", help_heading = CHECKS)]
    pub(crate) precheck: Option<OsString>,

    /// Command that must succeed before the gate opens
    ///
    /// Run by sh -c, again and again within --ready-timeout.
    #[arg(long, value_name = "CMD", help_heading = CHECKS)]
    pub(crate) ready_check: Option<OsString>,

    /// URL that must answer 2xx before the gate opens
    ///
    /// syngate asks it through the gate, again and again within --ready-timeout. tcp:PORT: once the port takes a
    /// connection.
    #[arg(long, value_name = "URL", env = "SYNGATE_READY_URL", value_parser = ReadyUrl::parse, help_heading = CHECKS)]
    pub(crate) ready_url: Option<ReadyUrl>,

    /// Don't check the certificate of an https: URL
    #[arg(long, env = "SYNGATE_READY_INSECURE", value_parser = BoolishValueParser::new(), hide_short_help = true, help_heading = CHECKS)]
    pub(crate) ready_insecure: bool,

    /// What makes the gate; auto: nft where it works, else iptables
    #[arg(
        long,
        value_name = "BACKEND",
        env = "SYNGATE_BACKEND",
        default_value = "auto",
        hide_short_help = true,
        help_heading = MADE
    )]
    pub(crate) backend: Choice,

    /// Max. time to wait for the lock of iptables
    #[arg(long, value_name = "DUR", env = "SYNGATE_XTABLES_WAIT", default_value = "5s", value_parser = duration, allow_hyphen_values = true, hide_short_help = true, help_heading = MADE)]
    pub(crate) xtables_wait: Duration,

    /// Run COMMAND even if the gate could not be closed
    ///
    /// A warning says so. Clients may be refused then.
    #[arg(long, env = "SYNGATE_BEST_EFFORT", value_parser = BoolishValueParser::new(), hide_short_help = true, help_heading = MADE)]
    pub(crate) best_effort: bool,

    /// Write a report to this file, in JSON
    ///
    /// It replaces the last one in one step; contrib/schema/report.schema.json describes it.
    #[arg(long, value_name = "PATH", env = "SYNGATE_REPORT_FILE", help_heading = TOLD)]
    pub(crate) report_file: Option<PathBuf>,

    /// Print the plan and the rules; do nothing
    #[arg(short = 'n', long, env = "SYNGATE_DRY_RUN", value_parser = BoolishValueParser::new(), help_heading = TOLD)]
    pub(crate) dry_run: bool,

    /// Print each step
    #[arg(short, long, env = "SYNGATE_VERBOSE", value_parser = BoolishValueParser::new(), help_heading = TOLD)]
    pub(crate) verbose: bool,

    /// Print errors only
    #[arg(short, long, env = "SYNGATE_QUIET", value_parser = BoolishValueParser::new(), help_heading = TOLD)]
    pub(crate) quiet: bool,
}

/// The other commands have no brief help: all of theirs fits on one screen.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct HelpArgs {
    /// Print this help
    #[arg(short, long, action = ArgAction::Help)]
    help: Option<bool>,
}

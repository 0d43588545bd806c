//! The command line as given. What it means is worked out in `plan.rs`.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::builder::{BoolishValueParser, PossibleValue, StyledStr, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::action::divert::peer::Peers;
use crate::action::redirect::standby;
use crate::decide::drain::DrainUntil;
use crate::decide::{OpenOn, Settle};
use crate::gate::kinds::Choice;
use crate::gate::watchdog;
use crate::kernel::sockets::netns::Netns;
use crate::kernel::sys::{service_names, service_port};
#[cfg(any(fuzzing, test))]
use crate::words::duration::LONGEST;
use crate::words::duration::duration;
use crate::words::env::ENV_PREFIX;
use crate::words::env::LOCK_DIR_VARIABLE;
use crate::words::env::RUN_VARIABLE;
use crate::words::listen_ports::ListenPorts;
use crate::words::meant::{meant, question};
use crate::words::ports::PortSet;
use crate::words::scope::{Where, parse_interfaces, parse_networks};

/// `--max-held`, unless given.
pub const MAX_HELD: u32 = 65_536;
/// The largest `--max-held`: newer kernels let no more packets into a queue (seen on Linux 6.18).
pub const LARGEST_HELD: u32 = 65_536;
/// `--max-held-per-source`, unless given: such a part of `--max-held`.
pub const PART_OF_SOURCE: u32 = 4;

/// `--max-diverted`, unless given.
pub const MAX_DIVERTED: u32 = 65_536;
/// The largest `--max-diverted`: some 200 bytes of the kernel's memory each.
pub const LARGEST_DIVERTED: u32 = 4_194_304;

/// Colours of the help; see colour.rs for where there are any.
const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// The word that completions ask with: `syngate listening-ports`.
const LISTENING: &str = "listening-ports";

/// What the help groups the options under, in the order of a run.
const GATED: &str = "What is gated";
const MEANWHILE: &str = "What happens to new connections meanwhile";
const WHEN: &str = "How long, and when it goes on";
const CHECKS: &str = "Checks around COMMAND, by sh -c";
const MADE: &str = "How the gate is made";
const TOLD: &str = "What is told";

/// Help is at most this wide: the terminal of an emergency may be.
const HELP_WIDTH: usize = 80;

/// The arguments of one call.
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
                  to the other host of a pair (--syn divert). Whatever happens, the gate never stays \
                  shut: it is gone when syngate is gone, and the kernel opens it after --max-closed.",
    override_usage = "syngate [OPTIONS] --port <PORTS> -- <COMMAND> [ARGS]...\n       \
                      syngate status | clear | check [OPTIONS]",
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
    pub ports: Vec<PortSet>,

    /// Only connections to these addresses, prefixes
    ///
    /// Separated by commas; may be repeated. Connections to other addresses are let through.
    #[arg(long, value_name = "ADDRS", env = "SYNGATE_TO", action = ArgAction::Append, value_parser = networks, help_heading = GATED)]
    pub to: Vec<Nets>,

    /// Let these addresses, prefixes through
    ///
    /// Connections from there, as of health checks, are not gated. Separated by commas; may be repeated.
    #[arg(long, value_name = "ADDRS", env = "SYNGATE_ALLOW_FROM", action = ArgAction::Append, value_parser = networks, help_heading = GATED)]
    pub allow_from: Vec<Nets>,

    /// Let local clients through
    ///
    /// Connections that come in over the loopback interface are not gated: for a COMMAND that asks
    /// its own service.
    #[arg(long, env = "SYNGATE_ALLOW_LOCAL", value_parser = BoolishValueParser::new(), help_heading = GATED)]
    pub allow_local: bool,

    /// Only what comes in over these interfaces
    ///
    /// Names, separated by commas; may be repeated.
    #[arg(long, value_name = "NAMES", env = "SYNGATE_INTERFACE", action = ArgAction::Append, value_parser = interfaces, hide_short_help = true, help_heading = GATED)]
    pub interface: Vec<Names>,

    /// Where packets are stopped
    #[arg(
        long,
        value_name = "HOOK",
        env = "SYNGATE_HOOK",
        default_value = "input",
        hide_short_help = true,
        help_heading = GATED
    )]
    pub hook: Where,

    /// The listeners' ports, if others: 80=8080
    ///
    /// Where the listeners' ports are not the gated ones, behind REDIRECT, TPROXY, or the published
    /// port of a container: 8080, or 80=8080,443=8443.
    #[arg(long, value_name = "PORTS", env = "SYNGATE_LISTEN_PORT", value_parser = listen_ports, allow_hyphen_values = true, help_heading = GATED)]
    pub listen_port: Option<ListenPorts>,

    /// Network namespace of the listeners
    ///
    /// A name, a process id, or a path: where a container has the listeners.
    #[arg(long, value_name = "NETNS", env = "SYNGATE_LISTEN_NETNS", value_parser = Netns::parse, help_heading = GATED)]
    pub listen_netns: Option<Netns>,

    /// Run this to learn --listen-netns
    ///
    /// By sh -c; again after COMMAND, while nobody listens: for a container that is replaced.
    #[arg(long, value_name = "CMD", hide_short_help = true, help_heading = GATED)]
    pub listen_netns_from: Option<OsString>,

    /// What becomes of them: drop, hold, auto, redirect=PORT or divert=ADDR
    ///
    /// It is their SYNs, the first packets, that the gate stops.
    #[arg(
        long,
        value_name = "ACTION",
        env = "SYNGATE_SYN",
        default_value = "drop",
        value_parser = SynParser,
        allow_hyphen_values = true,
        help_heading = MEANWHILE,
    )]
    pub syn: Syn,

    /// hold: how many may wait
    ///
    /// SYNs that come when so many wait are dropped, and sent again by their clients.
    #[arg(long, value_name = "N", env = "SYNGATE_MAX_HELD", default_value_t = MAX_HELD, value_parser = held, allow_hyphen_values = true, hide_short_help = true, help_heading = MEANWHILE)]
    pub max_held: u32,

    /// hold: how many of them from one source [default: a quarter of --max-held]
    ///
    /// A source is an IPv4 address, or an IPv6 /64.
    #[arg(long, value_name = "N", env = "SYNGATE_MAX_HELD_PER_SOURCE", value_parser = held, allow_hyphen_values = true, hide_short_help = true, help_heading = MEANWHILE)]
    pub max_held_per_source: Option<u32>,

    /// hold: how long letting them go may take; then the gate opens all the same
    #[arg(long, value_name = "DUR", env = "SYNGATE_RELEASE_TIMEOUT", default_value = "2s", value_parser = duration, allow_hyphen_values = true, hide_short_help = true, help_heading = MEANWHILE)]
    pub release_timeout: Duration,

    /// hold: number of the queue (NFQUEUE) that they wait in [default: one that is free]
    #[arg(long, value_name = "NUM", env = "SYNGATE_QUEUE_NUM", value_parser = queue_number, allow_hyphen_values = true, hide_short_help = true, help_heading = MEANWHILE)]
    pub queue_num: Option<u16>,

    /// redirect: run this as the standby
    ///
    /// By sh -c, before the gate is closed. It is stopped when the run ends, in whatever way.
    #[arg(long, value_name = "CMD", help_heading = MEANWHILE)]
    pub standby: Option<OsString>,

    /// redirect: your own test of the standby
    ///
    /// By sh -c, until it succeeds; nothing is gated before.
    #[arg(long, value_name = "CMD", help_heading = MEANWHILE)]
    pub standby_check: Option<OsString>,

    /// redirect: how long the standby may take to listen, and its check to succeed
    #[arg(long, value_name = "DUR", env = "SYNGATE_STANDBY_TIMEOUT", default_value = "10s", value_parser = duration, allow_hyphen_values = true, hide_short_help = true, help_heading = MEANWHILE)]
    pub standby_timeout: Duration,

    /// redirect: how long the --standby has to end after SIGTERM; then SIGKILL
    #[arg(long, value_name = "DUR", env = "SYNGATE_STANDBY_GRACE", default_value = "10s", value_parser = duration, allow_hyphen_values = true, hide_short_help = true, help_heading = MEANWHILE)]
    pub standby_grace: Duration,

    /// redirect: leave the --standby running
    #[arg(long, env = "SYNGATE_KEEP_STANDBY", value_parser = BoolishValueParser::new(), hide_short_help = true, help_heading = MEANWHILE)]
    pub keep_standby: bool,

    /// divert: how many connections may be the peer's at a time
    ///
    /// Of each IP version; the SYNs of more are dropped, and sent again by their clients.
    #[arg(long, value_name = "N", env = "SYNGATE_MAX_DIVERTED", default_value_t = MAX_DIVERTED, value_parser = diverted, allow_hyphen_values = true, hide_short_help = true, help_heading = MEANWHILE)]
    pub max_diverted: u32,

    /// divert: how long the peer may take to answer
    ///
    /// To accept a connection to each address and port; nothing is gated before.
    #[arg(long, value_name = "DUR", env = "SYNGATE_PEER_TIMEOUT", default_value = "2s", value_parser = duration, allow_hyphen_values = true, hide_short_help = true, help_heading = MEANWHILE)]
    pub peer_timeout: Duration,

    /// divert: don't ask the peer
    #[arg(long, env = "SYNGATE_NO_PEER_CHECK", value_parser = BoolishValueParser::new(), hide_short_help = true, help_heading = MEANWHILE)]
    pub no_peer_check: bool,

    /// redirect, divert: time to finish
    ///
    /// How long connections to the standby, or the peer, may take to finish once the gate is open.
    #[arg(long, value_name = "DUR", env = "SYNGATE_LINGER", default_value = "1m", value_parser = duration, allow_hyphen_values = true, help_heading = MEANWHILE)]
    pub linger: Duration,

    /// At most, for what is under way
    ///
    /// How long to wait at most, gate closed, for what is under way to finish before COMMAND runs; 0s:
    /// not at all.
    #[arg(long, value_name = "DUR", env = "SYNGATE_DRAIN", default_value = "1s", value_parser = duration, allow_hyphen_values = true, help_heading = WHEN)]
    pub drain: Duration,

    /// handshakes, requests or connections
    ///
    /// What the drain waits for.
    #[arg(
        long,
        value_name = "WHAT",
        env = "SYNGATE_DRAIN_UNTIL",
        default_value = "requests",
        help_heading = WHEN
    )]
    pub drain_until: DrainUntil,

    /// At most, for the service to listen
    ///
    /// How long to wait, after COMMAND, until each port is listened on again; 0s: don't watch
    /// listeners, as for an intended stop.
    #[arg(long, value_name = "DUR", env = "SYNGATE_READY_TIMEOUT", default_value = "10s", value_parser = duration, allow_hyphen_values = true, help_heading = WHEN)]
    pub ready_timeout: Duration,

    /// Extra time once it listens
    ///
    /// auto: as long as its sockets still change.
    #[arg(long, value_name = "DUR", env = "SYNGATE_SETTLE", default_value = "auto", value_parser = settle, allow_hyphen_values = true, hide_short_help = true, help_heading = WHEN)]
    pub settle: Settle,

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
    pub open_on: OpenOn,

    /// The kernel opens the gate after this
    ///
    /// Whatever happens, even if syngate hangs.
    #[arg(long, value_name = "DUR", env = "SYNGATE_MAX_CLOSED", default_value = "30s", value_parser = duration, allow_hyphen_values = true, help_heading = WHEN)]
    pub max_closed: Duration,

    /// At most, for another run on the ports
    ///
    /// Two runs that share a port take turns.
    #[arg(long, value_name = "DUR", env = "SYNGATE_LOCK_TIMEOUT", default_value = "1m", value_parser = duration, allow_hyphen_values = true, help_heading = WHEN)]
    pub lock_timeout: Duration,

    /// First, gate open; if it fails, nothing is done
    ///
    /// By sh -c, say haproxy -c -f FILE. If it fails, nothing is gated and COMMAND is not run.
    #[arg(long, value_name = "CMD", help_heading = CHECKS)]
    pub precheck: Option<OsString>,

    /// After COMMAND; opens once it succeeds
    ///
    /// By sh -c, again and again within --ready-timeout.
    #[arg(long, value_name = "CMD", help_heading = CHECKS)]
    pub ready_check: Option<OsString>,

    /// How it is made; auto: nft where it works, else iptables
    #[arg(
        long,
        value_name = "BACKEND",
        env = "SYNGATE_BACKEND",
        default_value = "auto",
        hide_short_help = true,
        help_heading = MADE
    )]
    pub backend: Choice,

    /// How long to wait for the lock of iptables
    #[arg(long, value_name = "DUR", env = "SYNGATE_XTABLES_WAIT", default_value = "5s", value_parser = duration, allow_hyphen_values = true, hide_short_help = true, help_heading = MADE)]
    pub xtables_wait: Duration,

    /// Run COMMAND even if the gate could not be closed
    ///
    /// And say so. Clients may be refused then.
    #[arg(long, env = "SYNGATE_BEST_EFFORT", value_parser = BoolishValueParser::new(), hide_short_help = true, help_heading = MADE)]
    pub best_effort: bool,

    /// Write a report, in JSON
    ///
    /// It replaces the last one in one step; contrib/schema/report.schema.json describes it.
    #[arg(long, value_name = "PATH", env = "SYNGATE_REPORT_FILE", help_heading = TOLD)]
    pub report_file: Option<PathBuf>,

    /// Print the plan and the rules, do nothing
    #[arg(short = 'n', long, env = "SYNGATE_DRY_RUN", value_parser = BoolishValueParser::new(), help_heading = TOLD)]
    pub dry_run: bool,

    /// Tell each phase
    #[arg(short, long, env = "SYNGATE_VERBOSE", value_parser = BoolishValueParser::new(), help_heading = TOLD)]
    pub verbose: bool,

    /// Tell errors only
    #[arg(short, long, env = "SYNGATE_QUIET", value_parser = BoolishValueParser::new(), help_heading = TOLD)]
    pub quiet: bool,

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
    pub command: Vec<OsString>,

    /// Something else than a run.
    #[command(subcommand)]
    pub other: Option<Other>,
}

/// What else syngate does.
#[derive(Debug, Clone, Subcommand)]
pub enum Other {
    /// Show which gates stand here; exit status 3 if something is shut
    Status(StatusArgs),
    /// Open gates: those of dead runs are removed, living runs open theirs
    Clear(ClearArgs),
    /// Tell what this host can do, and what a service on the ports needs
    Check(CheckArgs),
}

/// A subcommand's help is on one screen.
#[derive(Debug, Clone, clap::Args)]
pub struct HelpArgs {
    /// Print this help
    #[arg(short, long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// `syngate status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    help: HelpArgs,
}

/// `syngate clear`.
#[derive(Debug, Clone, clap::Args)]
pub struct ClearArgs {
    /// Only gates of these TCP ports; may be repeated
    #[arg(short, long = "port", value_name = "PORTS", action = ArgAction::Append, value_parser = ports, allow_hyphen_values = true)]
    pub ports: Vec<PortSet>,

    /// End living runs, with their COMMAND, if asking them to open is not enough or not wanted
    #[arg(long)]
    pub force: bool,

    /// How long to wait for a run to answer
    #[arg(long, value_name = "DUR", default_value = "5s", value_parser = duration, allow_hyphen_values = true)]
    pub timeout: Duration,

    #[command(flatten)]
    help: HelpArgs,
}

/// `syngate check`.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// The TCP ports of the service to look at; may be repeated
    #[arg(short, long = "port", value_name = "PORTS", action = ArgAction::Append, value_parser = ports, allow_hyphen_values = true)]
    pub ports: Vec<PortSet>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    help: HelpArgs,
}

/// A guard's orders: the call that a run makes of itself, for nobody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Orders {
    /// To be a watchdog.
    Watchdog(watchdog::Orders),
    /// To be the guard of a standby.
    Standby {
        /// The command line that starts it.
        line: OsString,
        /// How long it may take to stop.
        grace: Duration,
    },
}

impl Orders {
    fn parse(words: &[OsString]) -> Option<Orders> {
        let watchdog = watchdog::Orders::parse(words).map(Orders::Watchdog);
        watchdog.or_else(|| Orders::standby(words))
    }

    /// `syngate standby-guard MILLISECONDS LINE`.
    fn standby(words: &[OsString]) -> Option<Orders> {
        let [_, command, ms, line] = words else {
            return None;
        };
        if command != standby::COMMAND {
            return None;
        }
        Some(Orders::Standby {
            line: line.clone(),
            grace: Duration::from_millis(ms.to_str()?.parse().ok()?),
        })
    }
}

/// One value of `--to` or `--allow-from`. clap takes a bare `Vec` for many values.
pub type Nets = std::sync::Arc<[ipnet::IpNet]>;
/// One value of `--interface`.
pub type Names = std::sync::Arc<[String]>;

/// `--syn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Syn {
    /// They are dropped, and their clients send them again
    Drop,
    /// They wait in a queue of the kernel's, and go on when the gate opens
    Hold,
    /// hold where that can be done, else drop
    Auto,
    /// They, and their connections, go to this port, where a standby listens
    Redirect(u16),
    /// They, and their connections, go to this host, which has the same address
    Divert(Peers),
}

/// Reads `--syn`, of which some values have a part of their own.
#[derive(Debug, Clone, Copy)]
struct SynParser;

impl Syn {
    const NAMES: [&str; 5] = ["drop", "hold", "auto", "redirect", "divert"];

    fn parse(text: &str) -> Result<Syn, String> {
        let (action, to) = match text.split_once('=') {
            Some((action, to)) => (action, Some(to)),
            None => (text, None),
        };
        match (action, to) {
            ("drop", None) => Ok(Syn::Drop),
            ("hold", None) => Ok(Syn::Hold),
            ("auto", None) => Ok(Syn::Auto),
            ("redirect", Some(port)) => standby_port(port).map(Syn::Redirect),
            ("redirect", None) => Err(
                "where to? expected the port that the standby listens on, as in redirect=8080"
                    .to_owned(),
            ),
            ("divert", Some(peers)) => Peers::parse(peers).map(Syn::Divert),
            ("divert", None) => {
                Err("where to? expected the address of the peer, as in divert=10.0.0.2".to_owned())
            }
            _ => Err(format!(
                "expected drop, hold, auto, redirect=PORT or divert=ADDR{}",
                question(meant(action, Syn::NAMES))
            )),
        }
    }
}

impl TypedValueParser for SynParser {
    type Value = Syn;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Syn, clap::Error> {
        let parse = |text: &str| Syn::parse(text);
        TypedValueParser::parse_ref(&parse, command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let values = [
            (
                "drop",
                "They are dropped, and their clients send them again",
            ),
            (
                "hold",
                "They wait in a queue of the kernel's, and go on when the gate opens",
            ),
            ("auto", "hold where that can be done, else drop"),
            (
                "redirect=PORT",
                "They, and their connections, go to PORT of the same address, where a standby listens",
            ),
            (
                "divert=ADDR",
                "They, and their connections, go to the host ADDR, which has the same address and service",
            ),
        ];
        let values = values.map(|(name, help)| PossibleValue::new(name).help(help));
        Some(Box::new(values.into_iter()))
    }
}

/// What came of parsing.
pub enum Parsed {
    /// A call to carry out.
    Run(Box<Args>),
    /// Something else to do.
    Other(Other),
    /// To be a guard of a run.
    Guard(Orders),
    /// `-h`, `--help` or `--version`: text for stdout, in colours where it may have them.
    Print(StyledStr),
    /// The ports that are listened on now: what completions offer for `--port`.
    Listening,
    /// One line that says what is wrong.
    Wrong(String),
}

/// Parses the arguments and the environment.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Parsed {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(orders) = Orders::parse(&args) {
        return Parsed::Guard(orders);
    }
    if args.get(1..).is_some_and(|words| words == [LISTENING]) {
        return Parsed::Listening;
    }
    let other = args.get(1).is_some_and(is_other);
    let long = args.iter().any(|word| word == "--help");
    // What runs read from the environment is nothing to those who ask, and must not stop them.
    let command = match other {
        true => Args::command().mut_args(|arg| arg.env(None)),
        false => Args::command(),
    };
    let parsed = command
        .try_get_matches_from(args)
        .and_then(|matches| Ok((Args::from_arg_matches(&matches)?, matches)));
    match parsed {
        Ok((
            Args {
                other: Some(other), ..
            },
            _,
        )) => Parsed::Other(other),
        Ok((args, matches)) => match loudness(args, &matches) {
            Ok(args) => Parsed::Run(Box::new(args)),
            Err(why) => Parsed::Wrong(why),
        },
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp if !other && !long => Parsed::Print(brief().render_help()),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Parsed::Print(error.render()),
            _ => Parsed::Wrong(one_line(&error)),
        },
    }
}

/// `-h`: one line for an option. What else sets it, and what it takes besides, is `--help`'s.
fn brief() -> clap::Command {
    Args::command().mut_args(|arg| {
        let has_value = arg.get_action().takes_values();
        arg.hide_env(true).hide_possible_values(has_value)
    })
}

/// The command line wins over the environment: `-q` over SYNGATE_VERBOSE and the other way round.
fn loudness(mut args: Args, matches: &ArgMatches) -> Result<Args, String> {
    if !(args.quiet && args.verbose) {
        return Ok(args);
    }
    let given = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
    match (given("quiet"), given("verbose")) {
        (true, false) => args.verbose = false,
        (false, true) => args.quiet = false,
        _ => return Err("--quiet and --verbose exclude each other".to_owned()),
    }
    Ok(args)
}

/// clap explains over several lines; errors of ours are one line that says what would be right.
fn one_line(error: &clap::Error) -> String {
    let context = |kind| error.get(kind).map(ToString::to_string);
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    let arg = context(ContextKind::InvalidArg).unwrap_or_default();
    if let Some(word) = one_dash() {
        return format!("'{word}': a long option has two dashes: -{word}");
    }
    match error.kind() {
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map_or_else(String::new, |e| e.to_string());
            let why = why.replace("value was not a boolean", "expected yes or no");
            match why.starts_with(&format!("'{value}'")) {
                true => format!("{}: {why}", origin(&arg)),
                false => format!("{}: '{value}': {why}", origin(&arg)),
            }
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("{} needs a value{}", origin(&arg), choices(error))
        }
        ErrorKind::InvalidValue => {
            format!(
                "{}: '{value}' is not one of its values{}{}",
                origin(&arg),
                choices(error),
                question(meant(&value, valid_values(error)))
            )
        }
        ErrorKind::TooManyValues => {
            format!("{arg} takes no value; leave out '={value}'")
        }
        ErrorKind::MissingRequiredArgument => missing(error),
        ErrorKind::UnknownArgument if !arg.starts_with('-') || arg == "-" => misplaced(&arg),
        ErrorKind::UnknownArgument => unknown_option(&arg),
        ErrorKind::InvalidUtf8 => not_utf8(),
        ErrorKind::ArgumentConflict => {
            format!("{} is given twice; leave one of them out", long_name(&arg))
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_owned()
        }
    }
}

/// The words before COMMAND.
fn own_words() -> impl Iterator<Item = String> {
    let words = std::env::args_os().skip(1).take_while(|word| word != "--");
    words.map(|word| word.to_string_lossy().into_owned())
}

/// What else than a run this call is, by its first word; and that command.
fn called() -> (Option<String>, clap::Command) {
    let mut program = Args::command();
    program.build();
    let first = own_words().next();
    match first.and_then(|word| program.find_subcommand(word).cloned()) {
        Some(other) => (Some(other.get_name().to_owned()), other),
        None => (None, program),
    }
}

/// `--port`, `--syn`, ...
fn long_options(command: &clap::Command) -> Vec<String> {
    let long = command.get_arguments().filter_map(|arg| arg.get_long());
    long.map(|name| format!("--{name}")).collect()
}

/// `-port` is `-p ort` to clap.
fn one_dash() -> Option<String> {
    let (_, command) = called();
    let options = long_options(&command);
    own_words().find(|word| options.contains(&format!("-{}", long_name(word))))
}

fn unknown_option(word: &str) -> String {
    let (other, command) = called();
    let short = |letter: char| format!("-{}", letter.to_ascii_lowercase());
    let suggested = match word
        .strip_prefix('-')
        .map(|w| w.chars().collect::<Vec<_>>())
    {
        Some(letter) if letter.len() == 1 => command
            .get_arguments()
            .filter_map(|arg| arg.get_short().map(short))
            .find(|name| *name == short(letter[0])),
        // `'--drain 2s'` in quotes is an option and its value.
        _ => meant(long_name(word), long_options(&command)),
    };
    let help = other.map_or_else(String::new, |name| format!(" {name}"));
    format!(
        "unknown option '{word}'{} (see syngate{help} --help)",
        question(suggested)
    )
}

/// `--drain` of `--drain <DUR>`.
fn long_name(arg: &str) -> &str {
    arg.split([' ', '=']).next().unwrap_or(arg)
}

/// Which option has the value, and whether it came from the environment.
fn origin(arg: &str) -> String {
    let long = long_name(arg);
    let command = Args::command();
    let option = command
        .get_arguments()
        .find(|a| a.get_long().is_some_and(|name| long == format!("--{name}")));
    let variable = option.and_then(|option| option.get_env());
    let given = std::env::args_os()
        .take_while(|word| word != "--")
        .any(|word| {
            is_option(
                &word.to_string_lossy(),
                long,
                option.and_then(|o| o.get_short()),
            )
        });
    match variable {
        Some(name) if !given => format!("{} (for {long})", name.to_string_lossy()),
        _ => long.to_owned(),
    }
}

/// `--port`, `--port=80`, `-p`, `-p80`.
fn is_option(word: &str, long: &str, short: Option<char>) -> bool {
    let short = short.is_some_and(|s| word.strip_prefix('-').is_some_and(|w| w.starts_with(s)));
    short
        || word
            .strip_prefix(long)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

const AS_IN: &str = ", as in syngate --port 80 -- service haproxy restart";
/// What a text that is set for reading has in place of a hyphen, or of two: HYPHEN to HORIZONTAL BAR, and
/// MINUS SIGN, of Unicode.
const NO_HYPHENS: [char; 7] = [
    '\u{2010}', '\u{2011}', '\u{2012}', '\u{2013}', '\u{2014}', '\u{2015}', '\u{2212}',
];

/// A word where an option was expected: there is no `--`, or an option has taken it for its value.
fn misplaced(word: &str) -> String {
    let words: Vec<OsString> = std::env::args_os().collect();
    let before = words
        .iter()
        .position(|word| word == "--")
        .map(|at| words[at - 1].to_string_lossy());
    let unexpected = format!("unexpected argument '{word}'");
    match (before, called().0) {
        _ if word.starts_with(NO_HYPHENS) => {
            format!("{unexpected}: it begins with a dash as books have it; - is wanted, or --")
        }
        (Some(option), _) if option.starts_with('-') => format!("{option} needs a value"),
        _ if word
            .bytes()
            .all(|b| b.is_ascii_digit() || b",-".contains(&b))
            && word != "-" =>
        {
            format!("{unexpected}: ports come behind --port, with commas between: --port 80,443")
        }
        (_, Some(other)) => format!("{unexpected} (see syngate {other} --help)"),
        (_, None) if is_other(&word.into()) => {
            format!("{unexpected}: it comes first, and has options of its own: syngate {word}")
        }
        (Some(_), None) => format!("{unexpected}: only options come before --{AS_IN}"),
        (None, None) if word == "help" => format!("{unexpected}; is --help meant?"),
        (None, None) => {
            let first = own_words().next().is_some_and(|first| first == word);
            match meant(word, others()).filter(|_| first) {
                Some(name) => format!("{unexpected}; is {name} meant? (COMMAND comes behind --)"),
                None => format!("{unexpected}: put -- before COMMAND{AS_IN}"),
            }
        }
    }
}

/// Whether it is the name of something else to do than a run.
fn is_other(word: &OsString) -> bool {
    word.to_str().is_some_and(Other::has_subcommand)
}

fn others() -> Vec<String> {
    let program = Args::command();
    let names = program.get_subcommands().map(|c| c.get_name().to_owned());
    names.collect()
}

/// clap does not say which one it is.
fn not_utf8() -> String {
    let shown = |word: &OsString| word.to_string_lossy().into_owned();
    let mut previous = String::new();
    for word in std::env::args_os().take_while(|word| word != "--") {
        if word.to_str().is_none() {
            return format!("{previous} '{}': not UTF-8", shown(&word))
                .trim_start()
                .to_owned();
        }
        previous = shown(&word);
    }
    let wrong = std::env::vars_os().find(|(name, value)| {
        name.to_string_lossy().starts_with(ENV_PREFIX) && value.to_str().is_none()
    });
    match wrong {
        Some((name, value)) => format!("{}: '{}': not UTF-8", shown(&name), shown(&value)),
        None => "an option is not UTF-8".to_owned(),
    }
}

fn choices(error: &clap::Error) -> String {
    match valid_values(error) {
        values if values.is_empty() => String::new(),
        values => format!("; expected {}", values.join(", ")),
    }
}

fn valid_values(error: &clap::Error) -> Vec<String> {
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) => values.clone(),
        _ => Vec::new(),
    }
}

fn missing(error: &clap::Error) -> String {
    let missing = error
        .get(ContextKind::InvalidArg)
        .map(ToString::to_string)
        .unwrap_or_default();
    if missing.contains("--port") {
        let mistaken = mistaken_variables().into_iter();
        let mistaken: String = mistaken.map(|what| format!("; {what}")).collect();
        format!(
            "--port is missing: which ports to gate, as in \
             syngate --port 80,443 -- service haproxy restart{mistaken}"
        )
    } else {
        "COMMAND is missing: put it behind --, as in \
         syngate --port 80 -- service haproxy restart"
            .to_owned()
    }
}

/// Variables of our prefix that are not read, though somebody seems to think that they are: misspelt
/// ones, and those of options that are code.
pub fn mistaken_variables() -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter_map(|name| mistaken(&name)).collect()
}

fn mistaken(name: &str) -> Option<String> {
    let rest = name.strip_prefix(ENV_PREFIX)?;
    let program = Args::command();
    let read = program.get_arguments().filter_map(|arg| arg.get_env());
    let mut read: Vec<&str> = read.filter_map(OsStr::to_str).collect();
    read.extend([LOCK_DIR_VARIABLE, RUN_VARIABLE]);
    if read.contains(&name) {
        return None;
    }
    let long = rest.to_ascii_lowercase().replace('_', "-");
    let options = program
        .get_arguments()
        .filter(|arg| arg.get_action().takes_values());
    let code = options
        .filter_map(|arg| arg.get_long())
        .any(|option| option == long);
    if code {
        return Some(format!(
            "{name} is not read: --{long} is code, which comes from the command line only"
        ));
    }
    let read = read.iter().filter_map(|name| name.strip_prefix(ENV_PREFIX));
    meant(rest, read).map(|meant| format!("{name} is not read; is {ENV_PREFIX}{meant} meant?"))
}

/// Parses what may have names of services in it; tells which one a misspelt name was meant to be.
fn with_services<T>(
    parse: impl FnOnce(&dyn Fn(&str) -> Option<u16>) -> Result<T, String>,
) -> Result<T, String> {
    let unknown = RefCell::new(None);
    let port = |name: &str| {
        let port = service_port(name);
        if port.is_none() {
            unknown.replace(Some(name.to_owned()));
        }
        port
    };
    let parsed = parse(&port);
    parsed.map_err(|why| {
        let unknown = unknown.take();
        let meant = unknown.and_then(|name| meant(&name, service_names()));
        format!("{why}{}", question(meant))
    })
}

fn ports(text: &str) -> Result<PortSet, String> {
    with_services(|service| PortSet::parse(text, service))
}

fn standby_port(text: &str) -> Result<u16, String> {
    let ports = ports(text)?;
    let mut ports = ports.iter();
    match (ports.next(), ports.next()) {
        (Some(port), None) => Ok(port),
        _ => Err(format!("'{text}': expected one port")),
    }
}

fn listen_ports(text: &str) -> Result<ListenPorts, String> {
    with_services(|service| ListenPorts::parse(text, service))
}

fn networks(text: &str) -> Result<Nets, String> {
    parse_networks(text).map(Into::into)
}

fn interfaces(text: &str) -> Result<Names, String> {
    parse_interfaces(text).map(Into::into)
}

fn settle(text: &str) -> Result<Settle, String> {
    if text == "auto" {
        return Ok(Settle::Auto);
    }
    duration(text)
        .map(Settle::Fixed)
        .map_err(|why| format!("{why}, or auto"))
}

fn held(text: &str) -> Result<u32, String> {
    number_to(LARGEST_HELD, text)
}

fn diverted(text: &str) -> Result<u32, String> {
    number_to(LARGEST_DIVERTED, text)
}

fn number_to(largest: u32, text: &str) -> Result<u32, String> {
    let number = text.trim().parse().ok();
    number
        .filter(|n| (1..=largest).contains(n))
        .ok_or_else(|| format!("expected a number from 1 to {largest}"))
}

fn queue_number(text: &str) -> Result<u16, String> {
    let number = text.trim().parse();
    number.map_err(|_| format!("expected a number from 0 to {}", u16::MAX))
}

/// What holds for any text as a duration, or a number.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand_duration(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(taken) = duration(&text) {
        assert!(taken <= LONGEST && taken.subsec_nanos() % 1_000_000 == 0);
        let shown = humantime::format_duration(taken).to_string();
        assert_eq!(duration(&shown), Ok(taken), "{shown}");
        assert_eq!(settle(&text), Ok(Settle::Fixed(taken)));
    }
    for (taken, largest) in [
        (held(&text), LARGEST_HELD),
        (diverted(&text), LARGEST_DIVERTED),
        (
            queue_number(&text).map(|n| u32::from(n).max(1)),
            u16::MAX.into(),
        ),
    ] {
        assert!(taken.is_err() || taken.is_ok_and(|n| (1..=largest).contains(&n)));
    }
}

/// What holds for any arguments, with a NUL behind each.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    use std::os::unix::ffi::OsStrExt;
    let words = bytes.split(|byte| *byte == 0).map(OsStr::from_bytes);
    let words = [OsStr::new("syngate")].into_iter().chain(words);
    match parse(words.map(OsStr::to_owned)) {
        Parsed::Run(args) => {
            assert!(!args.ports.is_empty() && !args.command.is_empty());
            assert!(args.ports.iter().all(|ports| !ports.is_empty()));
            if crate::run::plan::make_sense(&args).is_ok() {
                assert!(args.drain < args.max_closed && args.max_closed <= LONGEST);
            }
        }
        Parsed::Print(text) => assert!(!text.to_string().trim().is_empty()),
        Parsed::Wrong(text) => assert!(!text.trim().is_empty()),
        Parsed::Other(_) | Parsed::Guard(_) | Parsed::Listening => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("2s", 2_000),
            ("1m30s", 90_000),
            ("1m 30s", 90_000),
            ("24h", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for (text, says) in [
            ("1", "without a unit"),
            ("1.5", "without a unit"),
            ("", "expected a duration"),
            ("-1s", "expected a duration"),
            ("1M", "M would be months"),
            ("25h", "more than 24h"),
            ("18446744073709551615s", "more than 24h"),
            ("99999999999999999999s", "expected a duration"),
            ("1us", "finer than a millisecond"),
            ("soon", "expected a duration"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
        assert_eq!(settle("auto"), Ok(Settle::Auto));
        assert_eq!(settle("1s"), Ok(Settle::Fixed(Duration::from_secs(1))));
    }

    proptest! {
        #[test]
        fn durations_are_bounded_and_never_panic(text in "[-0-9a-zA-Z. ]{0,24}") {
            if let Ok(duration) = duration(&text) {
                prop_assert!(duration <= LONGEST);
            }
        }
    }
}

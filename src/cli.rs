//! The command line as given. What it means is worked out in `plan.rs`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, PossibleValue, TypedValueParser};
use clap::error::{ContextKind, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::gate::choice::{Choice, Kind};
use crate::gate::scope::{Where, parse_interfaces, parse_networks};
use crate::gate::watchdog;
use crate::listen_port::ListenPorts;
use crate::ports::PortSet;
use crate::sockets::drained::DrainUntil;
use crate::sockets::netns::Netns;
use crate::standby;
use crate::step::{OpenOn, Settle};
use crate::syn::divert::peer::Peers;

/// The longest duration that an option takes.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

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

/// Options are also read from variables of this prefix; COMMAND does not get to see them.
pub const ENV_PREFIX: &str = "SYNGATE_";

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
    after_help = "Exit status: COMMAND's own, 128+n if a signal ended it; 124 if nobody listens \
                  afterwards or --max-closed was hit; 125, 126, 127 if COMMAND was not run.\n\
                  The manual: man syngate"
)]
pub struct Args {
    /// TCP ports to gate: numbers, ranges (8000-8010), service names; may be repeated
    #[arg(
        short,
        long = "port",
        value_name = "PORTS",
        env = "SYNGATE_PORT",
        required = true,
        action = ArgAction::Append,
        value_parser = ports,
        allow_hyphen_values = true,
    )]
    pub ports: Vec<PortSet>,

    /// What happens to new SYNs while the gate is closed
    #[arg(
        long,
        value_name = "ACTION",
        env = "SYNGATE_SYN",
        default_value = "drop",
        value_parser = SynParser,
        allow_hyphen_values = true
    )]
    pub syn: Syn,

    /// --syn hold: how many SYNs may wait at a time; what comes then is dropped
    #[arg(long, value_name = "N", env = "SYNGATE_MAX_HELD", default_value_t = MAX_HELD, value_parser = held, allow_hyphen_values = true)]
    pub max_held: u32,

    /// --syn hold: how many of them from one source, an IPv4 address or an IPv6 /64 [default: a
    /// quarter of --max-held]
    #[arg(long, value_name = "N", env = "SYNGATE_MAX_HELD_PER_SOURCE", value_parser = held, allow_hyphen_values = true)]
    pub max_held_per_source: Option<u32>,

    /// --syn hold: how long letting them go may take; then the gate opens all the same
    #[arg(long, value_name = "DUR", env = "SYNGATE_RELEASE_TIMEOUT", default_value = "2s", value_parser = duration, allow_hyphen_values = true)]
    pub release_timeout: Duration,

    /// --syn hold: number of the queue (NFQUEUE) that they wait in [default: one that is free]
    #[arg(long, value_name = "NUM", env = "SYNGATE_QUEUE_NUM", value_parser = queue_number, allow_hyphen_values = true)]
    pub queue_num: Option<u16>,

    /// --syn redirect: run this (by sh -c) as the standby, for as long as connections go to it
    #[arg(long, value_name = "CMD")]
    pub standby: Option<OsString>,

    /// --syn redirect: go on only once this (by sh -c) has succeeded; nothing is gated before
    #[arg(long, value_name = "CMD")]
    pub standby_check: Option<OsString>,

    /// --syn redirect: how long the standby may take to listen, and its check to succeed
    #[arg(long, value_name = "DUR", env = "SYNGATE_STANDBY_TIMEOUT", default_value = "10s", value_parser = duration, allow_hyphen_values = true)]
    pub standby_timeout: Duration,

    /// --syn redirect: how long the --standby has to end after SIGTERM; then SIGKILL
    #[arg(long, value_name = "DUR", env = "SYNGATE_STANDBY_GRACE", default_value = "10s", value_parser = duration, allow_hyphen_values = true)]
    pub standby_grace: Duration,

    /// --syn redirect: leave the --standby running
    #[arg(long, env = "SYNGATE_KEEP_STANDBY", value_parser = BoolishValueParser::new())]
    pub keep_standby: bool,

    /// --syn divert: how many connections may be the peer's at a time, of each IP version; the SYNs of
    /// more are dropped
    #[arg(long, value_name = "N", env = "SYNGATE_MAX_DIVERTED", default_value_t = MAX_DIVERTED, value_parser = diverted, allow_hyphen_values = true)]
    pub max_diverted: u32,

    /// --syn divert: how long the peer may take to accept a connection to each address and port;
    /// nothing is gated before
    #[arg(long, value_name = "DUR", env = "SYNGATE_PEER_TIMEOUT", default_value = "2s", value_parser = duration, allow_hyphen_values = true)]
    pub peer_timeout: Duration,

    /// --syn divert: don't ask the peer
    #[arg(long, env = "SYNGATE_NO_PEER_CHECK", value_parser = BoolishValueParser::new())]
    pub no_peer_check: bool,

    /// --syn redirect, divert: how long connections to the standby, or the peer, may take to finish
    /// once the gate is open
    #[arg(long, value_name = "DUR", env = "SYNGATE_LINGER", default_value = "1m", value_parser = duration, allow_hyphen_values = true)]
    pub linger: Duration,

    /// How long to wait at most, gate closed, for what is under way to finish; 0s: not at all
    #[arg(long, value_name = "DUR", env = "SYNGATE_DRAIN", default_value = "1s", value_parser = duration, allow_hyphen_values = true)]
    pub drain: Duration,

    /// What the drain waits for
    #[arg(
        long,
        value_name = "WHAT",
        env = "SYNGATE_DRAIN_UNTIL",
        default_value = "requests"
    )]
    pub drain_until: DrainUntil,

    /// Extra time closed once the service listens; auto: as long as its sockets still change
    #[arg(long, value_name = "DUR", env = "SYNGATE_SETTLE", default_value = "auto", value_parser = settle, allow_hyphen_values = true)]
    pub settle: Settle,

    /// How long to wait, after COMMAND, for the service to listen; 0s: don't watch listeners
    #[arg(long, value_name = "DUR", env = "SYNGATE_READY_TIMEOUT", default_value = "10s", value_parser = duration, allow_hyphen_values = true)]
    pub ready_timeout: Duration,

    /// When a port opens whose service was replaced
    #[arg(
        long,
        value_name = "WHEN",
        env = "SYNGATE_OPEN_ON",
        default_value = "exit"
    )]
    pub open_on: OpenOn,

    /// The kernel opens the gate after this time, whatever happens
    #[arg(long, value_name = "DUR", env = "SYNGATE_MAX_CLOSED", default_value = "30s", value_parser = duration, allow_hyphen_values = true)]
    pub max_closed: Duration,

    /// How the gate is made; auto: nft where it works, else iptables
    #[arg(
        long,
        value_name = "BACKEND",
        env = "SYNGATE_BACKEND",
        default_value = "auto",
        hide_possible_values = true
    )]
    pub backend: Choice,

    /// Where packets are stopped
    #[arg(
        long,
        value_name = "HOOK",
        env = "SYNGATE_HOOK",
        default_value = "input"
    )]
    pub hook: Where,

    /// Gate connections to these addresses or prefixes only; may be repeated
    #[arg(long, value_name = "ADDRS", env = "SYNGATE_TO", action = ArgAction::Append, value_parser = networks)]
    pub to: Vec<Nets>,

    /// Let connections from these addresses or prefixes through; may be repeated
    #[arg(long, value_name = "ADDRS", env = "SYNGATE_ALLOW_FROM", action = ArgAction::Append, value_parser = networks)]
    pub allow_from: Vec<Nets>,

    /// Let connections through that come in over the loopback interface
    #[arg(long, env = "SYNGATE_ALLOW_LOCAL", value_parser = BoolishValueParser::new())]
    pub allow_local: bool,

    /// Gate connections that come in over these interfaces only; may be repeated
    #[arg(long, value_name = "NAMES", env = "SYNGATE_INTERFACE", action = ArgAction::Append, value_parser = interfaces)]
    pub interface: Vec<Names>,

    /// Ports of the listeners, where they are not the gated ones: 8080, or 80=8080,443=8443
    #[arg(long, value_name = "PORTS", env = "SYNGATE_LISTEN_PORT", value_parser = listen_ports, allow_hyphen_values = true)]
    pub listen_port: Option<ListenPorts>,

    /// Network namespace of the listeners: a name, a process id, or a path
    #[arg(long, value_name = "NETNS", env = "SYNGATE_LISTEN_NETNS", value_parser = Netns::parse)]
    pub listen_netns: Option<Netns>,

    /// Run this (by sh -c) to learn --listen-netns; again after COMMAND, while nobody listens
    #[arg(long, value_name = "CMD")]
    pub listen_netns_from: Option<OsString>,

    /// How long to wait for the lock of iptables
    #[arg(long, value_name = "DUR", env = "SYNGATE_XTABLES_WAIT", default_value = "5s", value_parser = duration, allow_hyphen_values = true)]
    pub xtables_wait: Duration,

    /// Run this first (by sh -c), gate open; if it fails, nothing is gated and COMMAND is not run
    #[arg(long, value_name = "CMD")]
    pub precheck: Option<OsString>,

    /// Run this (by sh -c) after COMMAND, again and again, and open only once it has succeeded
    #[arg(long, value_name = "CMD")]
    pub ready_check: Option<OsString>,

    /// How long to wait for another run on the same ports
    #[arg(long, value_name = "DUR", env = "SYNGATE_LOCK_TIMEOUT", default_value = "1m", value_parser = duration, allow_hyphen_values = true)]
    pub lock_timeout: Duration,

    /// Run COMMAND even if the gate could not be closed, and say so
    #[arg(long, env = "SYNGATE_BEST_EFFORT", value_parser = BoolishValueParser::new())]
    pub best_effort: bool,

    /// Write a report of the run, in JSON, to this file
    #[arg(long, value_name = "PATH", env = "SYNGATE_REPORT_FILE")]
    pub report_file: Option<PathBuf>,

    /// Print the plan and the rules, and do nothing
    #[arg(short = 'n', long, env = "SYNGATE_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub dry_run: bool,

    /// Tell each phase
    #[arg(short, long, env = "SYNGATE_VERBOSE", value_parser = BoolishValueParser::new())]
    pub verbose: bool,

    /// Tell errors only
    #[arg(short, long, env = "SYNGATE_QUIET", value_parser = BoolishValueParser::new())]
    pub quiet: bool,

    /// What to run, with its arguments; as it is, not by a shell
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,

    /// Something else than a run.
    #[command(subcommand)]
    pub other: Option<Other>,
}

/// What else syngate does.
#[derive(Debug, Clone, Subcommand)]
pub enum Other {
    /// Show which gates stand in this network namespace; exit status 3 if something is shut
    Status(StatusArgs),
    /// Open gates: those of dead runs are removed, living runs open theirs
    Clear(ClearArgs),
    /// Tell what this host can do, and what a service on the ports needs
    Check(CheckArgs),
}

/// `syngate status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
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
}

/// A guard's orders: the call that a run makes of itself, for nobody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Orders {
    /// To be a watchdog.
    Watchdog {
        /// The kind of backend.
        kind: Kind,
        /// The run's id.
        run: String,
        /// How long to watch.
        within: Duration,
    },
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
        Orders::watchdog(words).or_else(|| Orders::standby(words))
    }

    /// `syngate watchdog KIND RUN MILLISECONDS`.
    fn watchdog(words: &[OsString]) -> Option<Orders> {
        let words: Option<Vec<&str>> = words.iter().map(|word| word.to_str()).collect();
        let [_, watchdog::COMMAND, kind, run, ms] = words?[..] else {
            return None;
        };
        Some(Orders::Watchdog {
            kind: Kind::named(kind)?,
            run: run.to_owned(),
            within: Duration::from_millis(ms.parse().ok()?),
        })
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
            _ => Err("expected drop, hold, auto, redirect=PORT or divert=ADDR".to_owned()),
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
    /// `--help` or `--version`: text for stdout.
    Print(String),
    /// One line that says what is wrong.
    Wrong(String),
}

/// Parses the arguments and the environment.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Parsed {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(orders) = Orders::parse(&args) {
        return Parsed::Guard(orders);
    }
    // What runs read from the environment is nothing to those who ask, and must not stop them.
    let command = match args.get(1).is_some_and(is_other) {
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
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Parsed::Print(error.render().to_string())
            }
            _ => Parsed::Wrong(one_line(&error)),
        },
    }
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
    match error.kind() {
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map_or_else(String::new, |e| e.to_string());
            let why = why.replace("value was not a boolean", "expected yes or no");
            format!("{}: '{value}': {why}", origin(&arg))
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("{} needs a value{}", origin(&arg), choices(error))
        }
        ErrorKind::InvalidValue => {
            format!(
                "{}: '{value}' is not one of its values{}",
                origin(&arg),
                choices(error)
            )
        }
        ErrorKind::MissingRequiredArgument => missing(error),
        ErrorKind::UnknownArgument if !arg.starts_with('-') => misplaced(&arg),
        ErrorKind::UnknownArgument => {
            let suggested = context(ContextKind::SuggestedArg)
                .map(|s| format!("; is {s} meant?"))
                .unwrap_or_default();
            format!("unknown option '{arg}'{suggested} (see syngate --help)")
        }
        ErrorKind::InvalidUtf8 => not_utf8(),
        ErrorKind::ArgumentConflict => format!("{} is given twice", long_name(&arg)),
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_owned()
        }
    }
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

/// A word where an option was expected: there is no `--`, or an option has taken it for its value.
fn misplaced(word: &str) -> String {
    let words: Vec<OsString> = std::env::args_os().collect();
    let before = words
        .iter()
        .position(|word| word == "--")
        .map(|at| words[at - 1].to_string_lossy());
    match before {
        Some(option) if option.starts_with('-') => format!("{option} needs a value"),
        Some(_) => format!("unexpected argument '{word}': only options come before --"),
        None if words
            .get(1)
            .is_some_and(|first| first != word && is_other(first)) =>
        {
            format!(
                "unexpected argument '{word}' (see syngate {} --help)",
                words[1].to_string_lossy()
            )
        }
        None => format!(
            "unexpected argument '{word}': put -- before COMMAND, as in \
             syngate --port 80 -- service haproxy restart"
        ),
    }
}

/// Whether it is the name of something else to do than a run.
fn is_other(word: &OsString) -> bool {
    let word = word.to_str().unwrap_or_default();
    Args::command()
        .get_subcommands()
        .any(|c| c.get_name() == word)
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
    match error.get(ContextKind::ValidValue).map(ToString::to_string) {
        Some(values) if !values.is_empty() => format!("; expected {values}"),
        _ => String::new(),
    }
}

fn missing(error: &clap::Error) -> String {
    let missing = error
        .get(ContextKind::InvalidArg)
        .map(ToString::to_string)
        .unwrap_or_default();
    if missing.contains("--port") {
        "--port is missing: which ports to gate, as in \
         syngate --port 80,443 -- service haproxy restart"
            .to_owned()
    } else {
        "COMMAND is missing: put it behind --, as in \
         syngate --port 80 -- service haproxy restart"
            .to_owned()
    }
}

fn ports(text: &str) -> Result<PortSet, String> {
    PortSet::parse(text, crate::sys::service_port)
}

fn standby_port(text: &str) -> Result<u16, String> {
    let ports = PortSet::parse(text, crate::sys::service_port)?;
    let mut ports = ports.iter();
    match (ports.next(), ports.next()) {
        (Some(port), None) => Ok(port),
        _ => Err(format!("'{text}': expected one port")),
    }
}

fn listen_ports(text: &str) -> Result<ListenPorts, String> {
    ListenPorts::parse(text, crate::sys::service_port)
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

/// A duration as humantime reads it, up to [`LONGEST`]. A bare number is refused, unless it is 0:
/// seconds and milliseconds are too easily mistaken for each other.
fn duration(text: &str) -> Result<Duration, String> {
    const EXAMPLES: &str = "expected a duration with its unit, such as 500ms, 2s or 1m30s";
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(format!("a number without a unit; {EXAMPLES}"));
    }
    // humantime reads M as months; whoever writes it means minutes.
    if text.contains('M') {
        return Err(format!("M would be months (minutes are m); {EXAMPLES}"));
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration > LONGEST => Err(format!(
            "more than 24h, the longest that is allowed; {EXAMPLES}"
        )),
        Ok(duration) if duration.subsec_nanos() % 1_000_000 != 0 => {
            Err(format!("finer than a millisecond; {EXAMPLES}"))
        }
        Ok(duration) => Ok(duration),
        Err(_) => Err(EXAMPLES.to_owned()),
    }
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
            if crate::plan::make_sense(&args).is_ok() {
                assert!(args.drain < args.max_closed && args.max_closed <= LONGEST);
            }
        }
        Parsed::Print(text) | Parsed::Wrong(text) => assert!(!text.trim().is_empty()),
        Parsed::Other(_) | Parsed::Guard(_) => (),
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

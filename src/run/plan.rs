//! From arguments to a validated plan: what will be done, all of it checked before anything is
//! touched.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, access, faccessat};

use crate::action::SynAction;
use crate::action::divert::ToPeer;
use crate::action::hold::Limits;
use crate::action::hold::pace::Translation;
use crate::action::redirect::ToStandby;
use crate::cli::{Args, PART_OF_SOURCE, Syn};
use crate::decide::{Config, OTHERS_PATIENCE, OpenOn, Settle};
use crate::gate::backends;
use crate::gate::kinds::{Choice, Kind};
use crate::gate::rules::{Rules, Settings};
use crate::gate::who::Who;
use crate::kernel::sockets::netns::Netns;
use crate::process::lock::directory_in_use;
use crate::words::command_line::command_line;
use crate::words::exit::NotRunnable;
use crate::words::family::Family;
use crate::words::ports::PortSet;
use crate::words::scope::{Networks, Scope, Where};
use crate::words::steer::Steer;

/// Where programs are looked for when PATH is not set (confstr(3), _CS_PATH), and where else they
/// may be, to tell whoever has a short PATH (cron's is /usr/bin:/bin).
const DEFAULT_PATH: &str = "/bin:/usr/bin";
const USUAL_PLACES: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A run that makes sense.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the decisions need.
    pub config: Config,
    /// What happens to SYNs.
    pub syn: SynAction,
    /// `--backend`.
    pub backend: Choice,
    /// Which packets to the gated ports are meant.
    pub scope: Scope,
    /// Who takes the connections that are redirected.
    pub standby: StandbyPlan,
    /// `--release-timeout`.
    pub release_timeout: Duration,
    /// `--xtables-wait`.
    pub xtables_wait: Duration,
    /// `--max-closed`.
    pub max_closed: Duration,
    /// `--precheck`.
    pub precheck: Option<OsString>,
    /// `--ready-check`.
    pub ready_check: Option<OsString>,
    /// Where the listeners live.
    pub listeners: Listeners,
    /// `--lock-timeout`.
    pub lock_timeout: Duration,
    /// COMMAND's file.
    pub program: PathBuf,
    /// COMMAND and its arguments as given.
    pub command: Vec<OsString>,
}

/// `--syn redirect`: what is done for, and with, the standby.
#[derive(Debug, Clone, Default)]
pub struct StandbyPlan {
    /// `--standby`: what starts it; else somebody has.
    pub line: Option<OsString>,
    /// `--standby-check`.
    pub check: Option<OsString>,
    /// `--standby-timeout`.
    pub timeout: Duration,
    /// `--standby-grace`.
    pub grace: Duration,
    /// `--keep-standby`.
    pub keep: bool,
}

/// In which network namespace the listeners live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listeners {
    /// In our own.
    Here,
    /// `--listen-netns`.
    In(Netns),
    /// `--listen-netns-from`: the command line that tells.
    From(OsString),
}

/// Why a plan can't be carried out.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// The options contradict each other.
    Options(String),
    /// The report can't be written.
    ReportFile(String),
    /// COMMAND can't be run.
    Command(NotRunnable),
}

impl Plan {
    /// Validates the arguments. Looks into the file system for COMMAND, and nowhere else.
    ///
    /// # Errors
    /// One line that names the option, its value and what would be right.
    pub fn new(args: &Args, path: Option<&OsStr>) -> Result<Plan, Refused> {
        make_sense(args).map_err(Refused::Options)?;
        let installed = backends::installed(args.backend, path);
        installed.map_err(|why| Refused::Options(format!("--backend {why}")))?;
        if let Some(file) = &args.report_file {
            check_report_file(file).map_err(Refused::ReportFile)?;
        }
        let name = args
            .command
            .first()
            .map(OsString::as_os_str)
            .unwrap_or_default();
        Ok(Plan {
            config: Config {
                ports: gated(args),
                drain: args.drain,
                drain_until: args.drain_until,
                settle: args.settle,
                ready_timeout: args.ready_timeout,
                open_on: args.open_on,
                best_effort: args.best_effort,
                listen_ports: args.listen_port.clone().unwrap_or_default(),
                ready_check: args.ready_check.is_some(),
                search: args.listen_netns_from.is_some(),
            },
            syn: syn_action(args),
            backend: args.backend,
            scope: scope(args),
            standby: StandbyPlan {
                line: args.standby.clone(),
                check: args.standby_check.clone(),
                timeout: args.standby_timeout,
                grace: args.standby_grace,
                keep: args.keep_standby,
            },
            release_timeout: args.release_timeout,
            xtables_wait: args.xtables_wait,
            max_closed: args.max_closed,
            precheck: args.precheck.clone(),
            ready_check: args.ready_check.clone(),
            listeners: match (&args.listen_netns, &args.listen_netns_from) {
                (Some(netns), _) => Listeners::In(netns.clone()),
                (None, Some(line)) => Listeners::From(line.clone()),
                (None, None) => Listeners::Here,
            },
            lock_timeout: args.lock_timeout,
            program: resolve(name, path).map_err(Refused::Command)?,
            command: args.command.clone(),
        })
    }

    /// What the kernel shall contain while the gate is closed.
    pub fn rules(&self, steer: Steer) -> Rules {
        Rules {
            ports: self.config.ports.clone(),
            scope: self.scope.clone(),
            steer,
        }
    }

    /// Whether packets reach their listeners as they come to the gate.
    fn listeners_are_addressed(&self) -> bool {
        self.scope.hook == Where::Input
            && self.listeners == Listeners::Here
            && self.config.listen_ports.is_plain()
    }

    /// What stands between the gate and the listeners.
    pub fn translation(&self) -> Translation {
        Translation {
            listen_ports: self.config.listen_ports.clone(),
            of_addresses: !self.listeners_are_addressed(),
            seen: PortSet::EMPTY,
        }
    }

    /// Where the gated ports are listened for.
    pub fn listener_ports(&self) -> PortSet {
        self.config.listen_ports.listeners_of(&self.config.ports)
    }

    /// Which local addresses the listeners may have. Where something changes a packet's destination
    /// between the gate and them, all: `--to` names the address that clients connect to.
    pub fn listener_scope(&self) -> Scope {
        if self.listeners_are_addressed() {
            self.scope.clone()
        } else {
            Scope::default()
        }
    }

    /// Which addresses the standby is needed on; `None`: which the service has is not known here. NAT
    /// that others do is behind ours, so the hook makes no difference.
    pub fn standby_scope(&self) -> Option<&Scope> {
        let here = self.listeners == Listeners::Here && self.config.listen_ports.is_plain();
        here.then_some(&self.scope)
    }

    /// What the backend of run `id` has to know; `steer`: what becomes of SYNs.
    pub fn settings(&self, id: &str, steer: Steer) -> Settings {
        Settings {
            run: id.to_owned(),
            who: Who::me(&steer.to_string(), &self.command_line()),
            xtables_wait: self.xtables_wait,
            lingers: match &self.syn {
                SynAction::Redirect(to) => to.linger + self.standby.grace + OTHERS_PATIENCE,
                SynAction::Divert(to) => to.linger + OTHERS_PATIENCE,
                SynAction::Drop | SynAction::Hold { .. } => Duration::ZERO,
            },
        }
    }

    /// COMMAND as one line.
    pub fn command_line(&self) -> String {
        command_line(&self.command)
    }

    /// The plan in words, for `--dry-run`: what is done, in its order.
    pub fn describe(&self) -> String {
        let c = &self.config;
        let mut text = String::new();
        let mut line = |words: String| {
            let _ = writeln!(text, "# {words}");
        };
        line(format!(
            "lock {} (wait for another run at most {})",
            c.ports.brief(),
            shown(self.lock_timeout)
        ));
        if let Some(check) = &self.precheck {
            line(format!(
                "precheck, gate open: sh -c '{}'",
                check.to_string_lossy()
            ));
        }
        self.describe_standby(&mut line);
        self.describe_peer(&mut line);
        let narrowed = match self.scope.to_string() {
            all if all.is_empty() => all,
            options => format!(", {options}"),
        };
        let action = match &self.syn {
            SynAction::Drop => "",
            SynAction::Hold {
                queue: None,
                or_drop: false,
                ..
            } => ", hold their SYNs in this queue or the next that is free",
            SynAction::Hold { or_drop: false, .. } => ", hold their SYNs",
            SynAction::Hold { or_drop: true, .. } => ", hold their SYNs or else drop them",
            SynAction::Redirect(_) => ", which go to the standby",
            SynAction::Divert(_) => ", which go to the peer",
        };
        line(format!(
            "close {} to new connections{narrowed}{action} (opened by the kernel after {})",
            c.ports.brief(),
            shown(self.max_closed)
        ));
        if !c.drain.is_zero() {
            let until = clap::ValueEnum::to_possible_value(&c.drain_until);
            let until = until.as_ref().map_or("", |v| v.get_name());
            line(format!(
                "drain at most {} until {until} are over",
                shown(c.drain)
            ));
        }
        line(format!("run {}", self.command_line()));
        match &self.listeners {
            Listeners::Here => (),
            Listeners::In(netns) => line(format!("look for listeners in the namespace {netns}")),
            Listeners::From(from) => line(format!(
                "look for listeners in the namespace that sh -c '{}' names",
                from.to_string_lossy()
            )),
        }
        if c.open_on == OpenOn::Ready {
            line("meanwhile open each port that a new process listens on".to_owned());
        }
        if !c.ready_timeout.is_zero() {
            line(format!(
                "wait at most {} for listeners{}",
                shown(c.ready_timeout),
                match c.listen_ports.is_plain() {
                    true => String::new(),
                    false => format!(" of {}", c.listen_ports.shown(&c.ports)),
                }
            ));
        }
        if let Some(check) = &self.ready_check {
            let check = check.to_string_lossy();
            line(format!("and until this succeeds: sh -c '{check}'"));
        }
        let open = match &self.syn {
            SynAction::Drop | SynAction::Redirect(_) | SynAction::Divert(_) => {
                "and open".to_owned()
            }
            SynAction::Hold { .. } => format!(
                "let the held SYNs go within {}, and open",
                shown(self.release_timeout)
            ),
        };
        line(match c.settle {
            Settle::Auto => format!("settle as long as the sockets still change, {open}"),
            Settle::Fixed(settle) => format!("settle for {}, {open}", shown(settle)),
        });
        if let SynAction::Redirect(to) = &self.syn {
            line(format!(
                "let connections to the standby finish within {}{}",
                shown(to.linger),
                match (&self.standby.line, self.standby.keep) {
                    (Some(_), false) => format!(
                        ", and stop it: SIGTERM, SIGKILL after {}",
                        shown(self.standby.grace)
                    ),
                    (Some(_), true) => ", and leave it running".to_owned(),
                    (None, _) => String::new(),
                }
            ));
        }
        if let SynAction::Divert(to) = &self.syn {
            line(format!(
                "let connections to the peer finish within {}",
                shown(to.linger)
            ));
        }
        text
    }

    fn describe_peer(&self, line: &mut impl FnMut(String)) {
        let SynAction::Divert(to) = &self.syn else {
            return;
        };
        line(match to.ask {
            Some(timeout) => format!(
                "see that {} accepts connections to {} within {}",
                to.peers,
                self.config.ports.brief(),
                shown(timeout)
            ),
            None => format!("{} is not asked whether it accepts connections", to.peers),
        });
        let gated = Family::ALL.into_iter().filter(|f| self.scope.gates(*f));
        for family in gated.filter(|family| to.peers.of(*family).is_none()) {
            line(format!("SYNs of {family} are dropped: no peer for them"));
        }
    }

    fn describe_standby(&self, line: &mut impl FnMut(String)) {
        let SynAction::Redirect(to) = &self.syn else {
            return;
        };
        let port = to.port;
        if let Some(start) = &self.standby.line {
            line(format!(
                "start the standby: sh -c '{}'",
                start.to_string_lossy()
            ));
        }
        line(match self.standby.line {
            Some(_) => format!(
                "wait at most {} until it listens on port {port} wherever {} is served",
                shown(self.standby.timeout),
                self.config.ports.brief()
            ),
            None => format!(
                "see that a standby listens on port {port} wherever {} is served",
                self.config.ports.brief()
            ),
        });
        if let Some(check) = &self.standby.check {
            line(format!(
                "and until this succeeds: sh -c '{}'",
                check.to_string_lossy()
            ));
        }
    }
}

fn syn_action(args: &Args) -> SynAction {
    let hold = |or_drop| SynAction::Hold {
        queue: args.queue_num,
        limits: Limits {
            held: args.max_held,
            per_source: args
                .max_held_per_source
                .unwrap_or(args.max_held.div_ceil(PART_OF_SOURCE)),
        },
        or_drop,
    };
    match &args.syn {
        Syn::Drop => SynAction::Drop,
        Syn::Hold => hold(false),
        Syn::Auto => hold(true),
        Syn::Redirect(port) => SynAction::Redirect(ToStandby {
            port: *port,
            linger: args.linger,
        }),
        Syn::Divert(peers) => SynAction::Divert(ToPeer {
            peers: peers.clone(),
            linger: args.linger,
            most: args.max_diverted,
            idle: args.max_closed + args.linger,
            ask: (!args.no_peer_check).then_some(args.peer_timeout),
        }),
    }
}

fn scope(args: &Args) -> Scope {
    let all =
        |given: &[crate::cli::Nets]| Networks::new(given.iter().flat_map(|n| n.iter().copied()));
    let mut interfaces: Vec<String> = Vec::new();
    for name in args.interface.iter().flat_map(|names| names.iter()) {
        if !interfaces.contains(name) {
            interfaces.push(name.clone());
        }
    }
    Scope {
        hook: args.hook,
        to: all(&args.to),
        allow_from: all(&args.allow_from),
        allow_local: args.allow_local,
        interfaces,
    }
}

/// Each option by itself is fine: are they together?
pub(crate) fn make_sense(args: &Args) -> Result<(), String> {
    let settle = match args.settle {
        Settle::Auto => Duration::ZERO,
        Settle::Fixed(settle) => settle,
    };
    if args.drain + settle >= args.max_closed {
        return Err(too_long(args));
    }
    if args.open_on == OpenOn::Ready && args.ready_timeout.is_zero() {
        return Err(
            "--open-on ready and --ready-timeout 0 exclude each other: who listens is watched, or \
             it is not"
                .to_owned(),
        );
    }
    if args.xtables_wait.is_zero() {
        return Err(
            "--xtables-wait 0s: iptables would wait for ever; expected 1s or more".to_owned(),
        );
    }
    for (option, line) in [
        ("--precheck", &args.precheck),
        ("--ready-check", &args.ready_check),
        ("--standby", &args.standby),
        ("--standby-check", &args.standby_check),
        ("--listen-netns-from", &args.listen_netns_from),
    ] {
        if line
            .as_ref()
            .is_some_and(|line| line.as_bytes().trim_ascii().is_empty())
        {
            return Err(format!("{option}: '' is empty; expected a command line"));
        }
    }
    standby_makes_sense(args)?;
    peer_makes_sense(args)?;
    where_listeners_make_sense(args)
}

/// The options about where new connections go meanwhile.
fn standby_makes_sense(args: &Args) -> Result<(), String> {
    let Syn::Redirect(port) = args.syn else {
        let given = [
            ("--standby", args.standby.is_some()),
            ("--standby-check", args.standby_check.is_some()),
        ];
        return match given.iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(format!(
                "{option}: there is no standby without --syn redirect=PORT"
            )),
            None => Ok(()),
        };
    };
    if gated(args).contains(port) {
        return Err(format!(
            "--syn redirect={port}: {port} is gated itself; name the port that the standby listens on"
        ));
    }
    Ok(())
}

fn peer_makes_sense(args: &Args) -> Result<(), String> {
    let Syn::Divert(peers) = &args.syn else {
        return match args.no_peer_check {
            true => Err("--no-peer-check: there is no peer without --syn divert=ADDR".to_owned()),
            false => Ok(()),
        };
    };
    if !args.backend.kinds().contains(&Kind::Nft) {
        return Err(format!(
            "--syn divert={peers}: not with --backend {}: iptables can't remember connections by the \
             packets that it sees; nft can",
            args.backend.kinds().first().map_or("", |kind| kind.name())
        ));
    }
    let scope = scope(args);
    let diverted = |family: &Family| scope.gates(*family) && peers.of(*family).is_some();
    if !Family::ALL.iter().any(diverted) {
        return Err(format!(
            "--syn divert={peers}: --to {} has no address of that IP version: nothing would be diverted",
            scope.to
        ));
    }
    if args.peer_timeout.is_zero() && !args.no_peer_check {
        return Err(
            "--peer-timeout 0s: the peer would have no time to answer; --no-peer-check does not ask it"
                .to_owned(),
        );
    }
    Ok(())
}

/// The options about where the listeners are, and how it is seen that they are ready.
fn where_listeners_make_sense(args: &Args) -> Result<(), String> {
    if args.ready_check.is_some() && args.ready_timeout.is_zero() {
        return Err(
            "--ready-check and --ready-timeout 0 exclude each other: the check would have no time \
             to succeed in"
                .to_owned(),
        );
    }
    if args.listen_netns.is_some() && args.listen_netns_from.is_some() {
        return Err(
            "--listen-netns and --listen-netns-from exclude each other: both say where the \
             listeners are"
                .to_owned(),
        );
    }
    let ports = gated(args);
    match args.listen_port.as_ref().and_then(|l| l.not_gated(&ports)) {
        Some(port) => Err(format!(
            "--listen-port: {port} is not gated; on the left of = go ports of --port {}",
            ports.brief()
        )),
        None => Ok(()),
    }
}

fn gated(args: &Args) -> PortSet {
    let each = args.ports.iter();
    each.fold(PortSet::EMPTY, |all, ports| all.union(ports))
}

fn shown(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn too_long(args: &Args) -> String {
    let drain = format!("--drain {}", shown(args.drain));
    let both = match args.settle {
        Settle::Auto => format!("{drain} is"),
        Settle::Fixed(settle) => format!("{drain} and --settle {} together are", shown(settle)),
    };
    let or = if args.drain.is_zero() {
        ""
    } else {
        " or shorten the drain"
    };
    format!(
        "{both} not less than --max-closed {}: COMMAND would run behind a gate that opens; raise \
         --max-closed{or}",
        shown(args.max_closed)
    )
}

/// The report is written when all is over: see now whether it can be.
fn check_report_file(file: &Path) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("--report-file: '{}': {why}", file.display()));
    if file.is_dir() {
        return wrong("a directory; name a file");
    }
    // A regular file is replaced, so it is its directory that has to be writable.
    let replaced = !file.exists() || file.is_file();
    let target = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let directory = match target.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return wrong("not a file"),
    };
    if !directory.is_dir() {
        // The one under /run is gone when the machine starts, and comes with the run's locks.
        return match directory == directory_in_use() {
            true => Ok(()),
            false => wrong("its directory does not exist; make it first"),
        };
    }
    let written = if replaced { directory } else { &target };
    match faccessat(AT_FDCWD, written, AccessFlags::W_OK, AtFlags::AT_EACCESS) {
        Ok(()) => Ok(()),
        Err(error) => wrong(&format!(
            "{} can't be written ({})",
            written.display(),
            error.desc()
        )),
    }
}

/// The file that `name` stands for, as execvp(3) would find it.
fn resolve(name: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, NotRunnable> {
    if name.is_empty() {
        return Err(NotRunnable::NotFound(
            "'' is no COMMAND: an empty word".to_owned(),
        ));
    }
    if name.as_bytes().contains(&b'/') {
        return runnable(Path::new(name)).map(|()| PathBuf::from(name));
    }
    let mut refused = None;
    for directory in directories(path.unwrap_or(OsStr::new(DEFAULT_PATH))) {
        let file = directory.join(name);
        match runnable(&file) {
            Ok(()) => return Ok(file),
            Err(NotRunnable::NotFound(_)) => (),
            Err(why) => refused = refused.or(Some(why)),
        }
    }
    Err(refused.unwrap_or_else(|| not_in_path(name)))
}

fn directories(path: &OsStr) -> impl Iterator<Item = PathBuf> + '_ {
    // An empty item is the current directory (execvp(3)); an absolute path is what COMMAND gets.
    path.as_bytes().split(|b| *b == b':').map(|item| {
        if item.is_empty() {
            PathBuf::from(".")
        } else {
            PathBuf::from(OsStr::from_bytes(item))
        }
    })
}

fn runnable(file: &Path) -> Result<(), NotRunnable> {
    let shown = file.display();
    match file.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(
            NotRunnable::NotExecutable(format!("{shown}: may not be looked at")),
        ),
        Err(_) => Err(NotRunnable::NotFound(format!(
            "{shown}: no such file to run as COMMAND"
        ))),
        Ok(meta) if meta.is_dir() => Err(NotRunnable::NotExecutable(format!(
            "{shown} is a directory"
        ))),
        Ok(_) if access(file, AccessFlags::X_OK).is_err() => Err(NotRunnable::NotExecutable(
            format!("{shown} is not executable"),
        )),
        Ok(_) => Ok(()),
    }
}

fn not_in_path(name: &OsStr) -> NotRunnable {
    let elsewhere = directories(OsStr::new(USUAL_PLACES))
        .map(|directory| directory.join(name))
        .find(|file| !name.is_empty() && runnable(file).is_ok());
    let name = name.to_string_lossy();
    NotRunnable::NotFound(match elsewhere {
        Some(file) => format!(
            "{name} is not in PATH, but {} exists: give the full path or set PATH",
            file.display()
        ),
        None if name.contains(char::is_whitespace) => format!(
            "'{name}' is not in PATH: COMMAND is not run by a shell; leave out the quotes, or use \
             sh -c '...'"
        ),
        None => format!("{name} is not in PATH"),
    })
}

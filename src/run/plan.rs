//! From the arguments to a checked plan, before anything is changed.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use crate::action::contract::{Description, Planned, Request, is_given};
use crate::cli::{Args, NamedRun, RunOptions};
use crate::decide::config::{Config, OpenOn, Settle};
use crate::gate::backends;
use crate::gate::by_port::objection;
use crate::gate::firewall;
use crate::gate::kinds::Choice;
use crate::gate::rules::Rules;
use crate::gate::settings::Settings;
use crate::gate::who::Who;
use crate::kernel::caps;
use crate::kernel::sockets::netns::Netns;
use crate::process::meanwhile::Meanwhile;
use crate::process::{own_unit, rlimits};
use crate::run::backend::Backend;
use crate::run::balancer::Leave;
use crate::run::place::{Place, place};
use crate::run::program::resolve;
use crate::run::report::file::{check_report_file, try_report_file};
use crate::run::vrf;
use crate::words::command_line::{command_line, not_empty};
use crate::words::ending::Ending;
use crate::words::exit::NotRunnable;
use crate::words::gated::Gated;
use crate::words::ports::PortSet;
use crate::words::ready::{Ready, ReadyUrl};
use crate::words::scope::{HookChoice, Networks, Scope};
use crate::words::steer::Steer;

#[derive(Debug)]
pub(crate) struct Plan {
    pub config: Config,
    pub action: Box<dyn Planned>,
    pub backend: Backend,
    pub xtables_wait: Duration,
    pub max_closed: Duration,
    pub precheck: Option<OsString>,
    pub drain_cmd: Option<OsString>,
    pub ready: Option<Ready>,
    pub listeners: Listeners,
    pub lock_timeout: Duration,
    pub leave: Option<Leave>,
    /// `--hook`, as given.
    pub hook: HookChoice,
    /// COMMAND's executable file.
    pub program: PathBuf,
    /// `--hook`, as decided.
    pub place: Place,
    /// COMMAND and its arguments as given.
    pub command: Vec<OsString>,
    /// COMMAND hands its sockets over.
    pub reload: bool,
    /// Of a run by name. After one that fails, what starts the service again is told elsewhere.
    pub by_name: Option<NamedRun>,
}

/// The network namespace of the listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listeners {
    /// syngate's own.
    Here,
    In(Netns),
    /// `--listen-netns-from`: a command line that prints the namespace.
    From(OsString),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The options are invalid together.
    Options(String),
    ReportFile(String),
    Command(NotRunnable),
    /// The host's firewall and the action exclude each other.
    Firewall(String),
}

impl Plan {
    /// Checks the arguments. Reads the file system only to find programs.
    ///
    /// # Errors
    /// One line that names the option, its value and what would be right.
    pub(crate) fn new(args: &Args, path: Option<&OsStr>) -> Result<Plan, Refused> {
        let options = &args.options;
        let gated = gated(options);
        let action = make_sense(options, &gated).map_err(Refused::Options)?;
        let leave = Leave::wanted(options, &gated).map_err(Refused::Options)?;
        let installed = backends::installed(options.backend, path);
        installed.map_err(|why| Refused::Options(format!("--backend {why}")))?;
        if let Some(file) = &options.report_file {
            check_report_file(file).map_err(Refused::ReportFile)?;
        }
        let name = args.command.first();
        let name = name.map(OsString::as_os_str).unwrap_or_default();
        Ok(Plan {
            config: Config {
                gated,
                drain: options.drain,
                drain_until: action.drain_until().unwrap_or(options.drain_until),
                drain_command: options.drain_cmd.is_some(),
                settle: options.settle,
                ready_timeout: options.ready_timeout,
                open_on: options.open_on,
                best_effort: options.best_effort,
                ready_check: ready(options).is_some(),
                search: options.listen_netns_from.is_some(),
            },
            action,
            backend: Backend::given(options.backend),
            xtables_wait: options.xtables_wait,
            max_closed: options.max_closed,
            precheck: options.precheck.clone(),
            drain_cmd: options.drain_cmd.clone(),
            ready: ready(options),
            listeners: listeners(options),
            lock_timeout: options.lock_timeout,
            leave,
            hook: options.hook,
            program: resolve(name, path).map_err(Refused::Command)?,
            place: Place::default(),
            command: args.command.clone(),
            reload: options.action.given().get_flag("reload"),
            by_name: args.by_name.clone(),
        })
    }

    /// The plan with what this host adds to the command line.
    ///
    /// # Errors
    /// What makes no sense, or can't be done here.
    pub(super) fn for_this_host(args: &Args, path: Option<&OsStr>) -> Result<Plan, Refused> {
        let plan = Plan::new(args, path)?.on_this_host()?;
        plan.place(args.options.hook).backend().meets_same_rules()
    }

    /// # Errors
    /// The report can't be written where `--report-file` says.
    pub(super) fn that_can_report(self, options: &RunOptions) -> Result<Plan, Refused> {
        let tried = options.report_file.as_deref().map(try_report_file);
        tried.unwrap_or(Ok(())).map_err(Refused::ReportFile)?;
        Ok(self)
    }

    /// # Errors
    /// Where it is called, COMMAND would end the run, or the gate could not be closed.
    pub(super) fn refuse_here(&self) -> Result<(), Ending> {
        if let Some(why) = own_unit::refusal_here(&self.command) {
            return Err(Ending::not_run("own_unit", why));
        }
        if let Some(why) = rlimits::too_few_files() {
            return Err(Ending::not_run("files", why));
        }
        if !self.config.best_effort && !caps::net_admin() {
            return Err(Ending::not_run("privilege", caps::NEEDED));
        }
        Ok(())
    }

    /// Decides on the hook by a look at the host's firewall.
    pub(crate) fn place(mut self, choice: HookChoice) -> Plan {
        let steer = self.action.steer().ok().flatten();
        let gated = self.gated();
        let vrf = || match (self.backend.given, steer) {
            (Choice::Nft, _) | (_, Some(Steer::Divert(_))) => None,
            _ => vrf::of_this_host(&gated.scope),
        };
        self.place = place(choice, steer, &gated.ports, firewall::look, vrf);
        self.config.gated.scope.hook = self.place.hook;
        self.config.gated.early = self.place.early;
        self
    }

    /// Checks by a look at the host's firewall that redirected clients meet the same rules.
    ///
    /// # Errors
    /// A rule would be bypassed, or nothing can be redirected.
    pub(crate) fn meets_same_rules(mut self) -> Result<Plan, Refused> {
        let Ok(Some(Steer::Redirect(standby))) = self.action.steer() else {
            return Ok(self);
        };
        match firewall::by_port() {
            Ok(mut rules) => {
                // Local clients are not redirected.
                rules.retain(|rule| !(rule.local && self.gated().scope.allow_local));
                let objection = objection(&rules, &self.gated().ports, standby);
                objection.map_or(Ok(self), |why| Err(Refused::Firewall(why)))
            }
            Err(error) => {
                self.place.warnings.push(format!(
                    "--syn redirect={standby}: syngate could not look whether rules refuse clients by a \
                     gated port: {error:#}"
                ));
                Ok(self)
            }
        }
    }

    /// Decides on the backend by a look at the kernel.
    pub(crate) fn backend(mut self) -> Plan {
        if let Ok(Some(steer)) = self.action.steer() {
            self.backend = self.backend.on_this_host(steer);
        }
        self
    }

    pub(crate) fn gated(&self) -> &Gated {
        &self.config.gated
    }

    /// What the kernel contains while the gate is closed.
    pub(crate) fn rules(&self, steer: Steer) -> Rules {
        let mut scope = self.gated().scope.clone();
        if let Some(leave) = &self.leave {
            let spared = [scope.allow_from.all(), leave.spares().all()];
            scope.allow_from = Networks::new(spared.concat());
        }
        Rules {
            ports: self.gated().ports.clone(),
            scope,
            steer,
            leaving: None,
            passes_proxied: self.place.passes_proxied,
            passes_marked: (self.ready.is_some() || self.drain_cmd.is_some())
                && !self.gated().scope.allow_local,
        }
    }

    pub(crate) fn settings(&self, id: &str, steer: Steer) -> Settings {
        Settings {
            run: id.to_owned(),
            who: Who::me(&steer.to_string(), &self.command_line()),
            xtables_wait: self.xtables_wait,
            lingers: self.action.lingers(),
            meanwhile: Meanwhile::default(),
        }
    }

    pub(crate) fn command_line(&self) -> String {
        command_line(&self.command)
    }
}

fn listeners(options: &RunOptions) -> Listeners {
    match (&options.listen_netns, &options.listen_netns_from) {
        (Some(netns), _) => Listeners::In(netns.clone()),
        (None, Some(line)) => Listeners::From(line.clone()),
        (None, None) => Listeners::Here,
    }
}

fn gated(options: &RunOptions) -> Gated {
    Gated {
        ports: ports(options),
        listen_ports: options.listen_port.clone().unwrap_or_default(),
        scope: scope(options),
        listeners_are_here: listeners(options) == Listeners::Here,
        early: false,
    }
}

pub(crate) fn ports(options: &RunOptions) -> PortSet {
    let each = options.ports.iter();
    each.fold(PortSet::EMPTY, |all, ports| all.union(ports))
}

fn scope(options: &RunOptions) -> Scope {
    let all =
        |given: &[crate::cli::Nets]| Networks::new(given.iter().flat_map(|n| n.iter().copied()));
    let mut interfaces: Vec<String> = Vec::new();
    for name in options.interface.iter().flat_map(|names| names.iter()) {
        if !interfaces.contains(name) {
            interfaces.push(name.clone());
        }
    }
    Scope {
        hook: options.hook.given(),
        to: all(&options.to),
        allow_from: all(&options.allow_from),
        allow_local: options.allow_local,
        interfaces,
    }
}

/// Checks the options that are valid by themselves, but may contradict each other.
fn make_sense(options: &RunOptions, gated: &Gated) -> Result<Box<dyn Planned>, String> {
    times_make_sense(options)?;
    if let Some(why) = gated.scope.contradicts() {
        return Err(why);
    }
    for (option, line) in [
        ("--precheck", &options.precheck),
        ("--drain-cmd", &options.drain_cmd),
        ("--ready-check", &options.ready_check),
        ("--listen-netns-from", &options.listen_netns_from),
    ] {
        not_empty(option, line.as_ref())?;
    }
    let action = options.action.plan(&Request {
        gated,
        backend: options.backend,
        max_closed: options.max_closed,
        given: options.action.given(),
        named: true,
    })?;
    let described = action.describe(gated);
    if described.drains {
        drain_makes_sense(options)?;
    }
    drain_command_makes_sense(options, action.name(), &described)?;
    readiness_makes_sense(options)?;
    where_listeners_make_sense(options, gated)?;
    Ok(action)
}

fn times_make_sense(options: &RunOptions) -> Result<(), String> {
    if options.max_closed.is_zero() {
        return Err(
            "--max-closed 0s: no gate would be closed; expected a time such as 30s".to_owned(),
        );
    }
    if options.open_on == OpenOn::Ready && options.ready_timeout.is_zero() {
        return Err(
            "--open-on ready and --ready-timeout 0 exclude each other: the first waits until the service \
             listens, the second does not wait"
                .to_owned(),
        );
    }
    if options.xtables_wait.is_zero() {
        return Err(
            "--xtables-wait 0s: iptables would wait for ever; expected 1s or more".to_owned(),
        );
    }
    Ok(())
}

fn drain_command_makes_sense(
    options: &RunOptions,
    action: &str,
    described: &Description,
) -> Result<(), String> {
    let drains = described.drains && described.rather.is_none_or(|first| first.drains);
    match options.drain_cmd {
        Some(_) if !drains && described.drains => {
            Err("--drain-cmd and --reload exclude each other: a reload drains nothing".to_owned())
        }
        Some(_) if !drains => Err(format!(
            "--drain-cmd and --syn {action} exclude each other: nothing is drained"
        )),
        Some(_) if options.drain.is_zero() => Err(
            "--drain-cmd and --drain 0 exclude each other: --drain-cmd runs during the drain"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

fn drain_makes_sense(options: &RunOptions) -> Result<(), String> {
    let settle = match options.settle {
        Settle::Auto => Duration::ZERO,
        Settle::Fixed(settle) => settle,
    };
    match options.drain + settle >= options.max_closed {
        true => Err(too_long(options)),
        false => Ok(()),
    }
}

fn too_long(options: &RunOptions) -> String {
    let shown = |option: &str, duration| {
        let duration = humantime::format_duration(duration);
        match is_given(options.action.given(), &option.replace('-', "_")) {
            true => format!("--{option} {duration}"),
            false => format!("--{option} {duration} (the default)"),
        }
    };
    let drain = shown("drain", options.drain);
    let both = match options.settle {
        Settle::Auto => format!("{drain} is"),
        Settle::Fixed(settle) => format!("{drain} and {} together are", shown("settle", settle)),
    };
    let or = if options.drain.is_zero() {
        ""
    } else {
        " or shorten the drain"
    };
    format!(
        "{both} not less than {}: the gate would open before COMMAND has run; raise --max-closed{or}",
        shown("max-closed", options.max_closed)
    )
}

fn ready(options: &RunOptions) -> Option<Ready> {
    let check = options.ready_check.clone().map(Ready::Check);
    let url = options.ready_url.clone().map(|url| {
        Ready::Url(ReadyUrl {
            insecure: options.ready_insecure,
            ..url
        })
    });
    check.or(url)
}

/// Checks the options about what tells that the service can serve.
fn readiness_makes_sense(options: &RunOptions) -> Result<(), String> {
    if options.ready_check.is_some() && options.ready_url.is_some() {
        return Err(
            "--ready-check and --ready-url exclude each other: both say when the service can serve; a check may \
             ask a URL by curl"
                .to_owned(),
        );
    }
    if options.ready_insecure && !options.ready_url.as_ref().is_some_and(ReadyUrl::is_https) {
        return Err(
            "--ready-insecure has no effect without --ready-url https://…: only there a certificate is checked"
                .to_owned(),
        );
    }
    match ready(options).filter(|_| options.ready_timeout.is_zero()) {
        Some(ready) => Err(format!(
            "{} and --ready-timeout 0 exclude each other: the check would have no time to succeed in",
            ready.option()
        )),
        None => Ok(()),
    }
}

/// Checks the options about the place of the listeners.
fn where_listeners_make_sense(options: &RunOptions, gated: &Gated) -> Result<(), String> {
    if options.listen_netns.is_some() && options.listen_netns_from.is_some() {
        return Err(
            "--listen-netns and --listen-netns-from exclude each other: both say where the \
             listeners are"
                .to_owned(),
        );
    }
    match gated.listen_ports.not_gated(&gated.ports) {
        Some(port) => Err(format!(
            "--listen-port: {port} is not gated; expected ports of --port {} on the left of =",
            gated.ports.brief()
        )),
        None => Ok(()),
    }
}

/// Checks the properties of a plan for any arguments.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(options: &RunOptions) {
    use crate::words::duration::LONGEST;
    if let Ok(action) = make_sense(options, &gated(options)) {
        let drains = action.describe(&gated(options)).drains;
        assert!(!drains || options.drain < options.max_closed);
        assert!(options.max_closed <= LONGEST);
    }
}

//! What comes before the gate is closed: the lock, the precheck, a look at the listeners. Nothing has
//! been changed yet, so an early end needs nothing undone: it is an `Err(Ending)`.

mod peer;

use std::ffi::{CString, OsStr};
use std::time::{Duration, Instant};

use crate::action::SynAction;
use crate::action::redirect::missing;
use crate::action::redirect::standby::Standby;
use crate::decide::service::places;
use crate::decide::{CHECK_PAUSE, COOKIE_GRACE, STANDBY_EVERY};
use crate::gate::found;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::holders::names;
use crate::kernel::sockets::netns::Netns;
use crate::kernel::sockets::{Sample, Want};
use crate::process::beside::Beside;
use crate::process::child::Child;
use crate::process::lock::{self, Lock, LockHolder};
use crate::process::own_unit;
use crate::process::signals::{Caught, Signals};
use crate::run::plan::{Listeners, Plan};
use crate::run::report::Report;
use crate::tell::say::Say;
use crate::words::ended::{CommandExit, Sender};
use crate::words::ended::{exit_words, signal_name};
use crate::words::ending::Ending;
use crate::words::env::RUN_VARIABLE;
use crate::words::ports::PortSet;

/// A run on its way to the gate.
pub struct Before<'a> {
    /// What will be done.
    pub plan: &'a Plan,
    /// Where it is told.
    pub say: &'a Say,
    /// What may end it.
    pub signals: &'a Signals,
}

impl Before<'_> {
    /// Two runs for one port take turns; a run inside another would wait for itself.
    ///
    /// # Errors
    /// The ports can't be locked, in time.
    pub fn lock(&self, report: &mut Report) -> Result<Lock, Ending> {
        let since = Instant::now();
        let failed = |error: anyhow::Error| Ending::not_run("lock", format!("{error:#}"));
        let mut lock = Lock::open(&self.plan.config.ports).map_err(failed)?;
        for holder in lock.holders().map_err(failed)? {
            self.refuse_nested(&holder)?;
        }
        let mut told = false;
        while let Some(holder) = lock.try_take(&report.run).map_err(failed)? {
            self.wait_for(&holder, since + self.plan.lock_timeout, &mut told)?;
        }
        self.say.done_waiting();
        let ports = self.plan.config.ports.brief();
        self.say.phase(&format!("locked {ports}"));
        report.phases.lock_ms = Some(since.elapsed().into());
        Ok(lock)
    }

    /// Inside another one by its environment, or, from there by way of systemd, by what that one waits for.
    fn refuse_nested(&self, holder: &LockHolder) -> Result<(), Ending> {
        let inside = std::env::var(RUN_VARIABLE)
            .is_ok_and(|runs| runs.split(':').any(|id| id == holder.run));
        if !inside && !own_unit::is_waited_for_by(holder.pid) {
            return Ok(());
        }
        let ports = self.plan.config.ports.brief();
        Err(Ending::not_run(
            "nested",
            format!("--port {ports}: this run is inside one ({holder}) that gates the same port"),
        ))
    }

    fn wait_for(&self, holder: &LockHolder, until: Instant, told: &mut bool) -> Result<(), Ending> {
        self.refuse_nested(holder)?;
        if Instant::now() >= until {
            let waited = humantime::format_duration(self.plan.lock_timeout);
            return Err(Ending::not_run(
                "lock_timeout",
                format!("--lock-timeout {waited}: {holder} still gates one of these ports"),
            ));
        }
        if !std::mem::replace(told, true) {
            self.say.result(&format!(
                "waiting for {holder}, which gates one of these ports"
            ));
        }
        self.say.waiting(&format!("waiting for {holder}"));
        self.wait_until(until.min(Instant::now() + lock::RETRY))
    }

    /// Removes what runs that are dead have left in the kernel: nothing of this run's stands yet.
    pub fn sweep(&self, lock: &Lock, report: &mut Report) {
        for (gate, erased) in found::sweep(self.plan.backend, lock) {
            let whose = gate.whose();
            let text = match erased {
                Ok(()) => format!("removed the gate that a dead run had left: {whose}"),
                Err(error) => {
                    format!(
                        "the gate that a dead run has left ({whose}) can't be removed: {error:#}"
                    )
                }
            };
            self.warn(text, report);
        }
    }

    /// Runs `--precheck`, gate open.
    ///
    /// # Errors
    /// It failed.
    pub fn precheck(&self, environment: &[CString], report: &mut Report) -> Result<(), Ending> {
        let Some(line) = &self.plan.precheck else {
            return Ok(());
        };
        let since = Instant::now();
        let shown = line.to_string_lossy();
        self.say.phase(&format!("precheck: {shown}"));
        let failed = |how: String| not_gated("precheck", &format!("--precheck '{shown}' {how}"));
        let child = Child::shell(line, environment, self.signals.inherited())
            .map_err(|error| failed(format!("can't be run ({})", error.desc())))?;
        let exit = self.wait_for_child(&child, || child.ended())?;
        report.phases.precheck_ms = Some(since.elapsed().into());
        match exit {
            CommandExit::Code(0) => Ok(()),
            CommandExit::Code(127) => Err(failed(
                "exited with status 127 (a command that is not in PATH?)".to_owned(),
            )),
            CommandExit::Code(status) => Err(failed(format!("exited with status {status}"))),
            CommandExit::Signal(n) => Err(failed(format!("was ended by {}", signal_name(n)))),
        }
    }

    /// The first signal is passed on, and the run ends when the child does; a second one leaves it
    /// behind.
    fn wait_for_child(
        &self,
        child: &Child,
        ended: impl Fn() -> Option<CommandExit>,
    ) -> Result<CommandExit, Ending> {
        let mut stopped: Option<(i32, Sender)> = None;
        loop {
            match self.signals.wait(None) {
                Some(Caught::Stop(signal, sender)) => {
                    if stopped.replace((signal, sender)).is_some() {
                        return Err(Ending::interrupted_before(signal, sender));
                    }
                    if child.hears_of(signal, sender) != Sender::Terminal {
                        child.signal(signal);
                    }
                }
                _ => match (ended(), stopped) {
                    (None, _) => (),
                    (Some(exit), None) => return Ok(exit),
                    (Some(_), Some((signal, sender))) => {
                        return Err(Ending::interrupted_before(signal, sender));
                    }
                },
            }
        }
    }

    /// `--listen-netns`: from now on, the sockets are looked at there.
    ///
    /// # Errors
    /// It is none, or can't be entered.
    pub fn look_in_netns(&self, sockets: &mut Sockets) -> Result<(), Ending> {
        let Listeners::In(netns) = &self.plan.listeners else {
            return Ok(());
        };
        sockets.look_in(netns).map_err(|why| {
            Ending::not_run("listen_netns", format!("--listen-netns: '{netns}': {why}"))
        })
    }

    /// `--listen-netns-from`: asks where the listeners live. Tells whether there was a question.
    ///
    /// # Errors
    /// There is no answer, or no sense in it.
    pub fn ask_for_netns(
        &self,
        environment: &[CString],
        sockets: &mut Sockets,
    ) -> Result<bool, Ending> {
        let Listeners::From(line) = &self.plan.listeners else {
            return Ok(false);
        };
        let failed = |why: String| {
            let shown = line.to_string_lossy();
            let message = format!("--listen-netns-from '{shown}' {why}");
            Ending::not_run("listen_netns", message)
        };
        let netns = self.ask(line, environment)?.map_err(failed)?;
        let entered = sockets.look_in(&netns);
        entered.map_err(|why| failed(format!("printed '{netns}': {why}")))?;
        self.say.phase(&format!("looking for listeners in {netns}"));
        Ok(true)
    }

    fn ask(&self, line: &OsStr, environment: &[CString]) -> Result<Result<Netns, String>, Ending> {
        let mut asked = match Beside::ask(line, environment, self.signals.inherited()) {
            Ok(asked) => asked,
            Err(error) => return Ok(Err(format!("can't be run ({})", error.desc()))),
        };
        let exit = self.wait_for_child(asked.child(), || asked.ended())?;
        Ok(answered(exit, &asked.answer()))
    }

    /// `--syn redirect`: sees to it that there is a standby to redirect to, before anything else is
    /// changed. The process, if it is ours to start.
    ///
    /// # Errors
    /// There is none, or its check fails.
    pub fn stand_by(
        &self,
        environment: &[CString],
        sockets: &mut Sockets,
        report: &mut Report,
    ) -> Result<Option<Standby>, Ending> {
        let SynAction::Redirect(to) = &self.plan.syn else {
            return Ok(None);
        };
        let ports = &self.plan.config.ports;
        if ports.iter().nth(1).is_some() {
            let (ports, port) = (ports.brief(), to.port);
            let text = format!("--syn redirect={port}: {ports} all go to that one port");
            self.warn(text, report);
        }
        let until = Instant::now() + self.plan.standby.timeout;
        let port = [to.port].into_iter().collect();
        let mut coming = StandbyComes {
            before: self,
            port: to.port,
            service: sockets,
            there: Sockets::new(&port, &self.plan.listener_scope()).map_err(unseen)?,
            until,
        };
        let mut standby = coming.start(environment)?;
        let ready = coming.wait(standby.as_mut());
        if let Err(ending) = ready.and_then(|()| self.check_standby(environment, until)) {
            self.dismiss(standby);
            return Err(ending);
        }
        let port = to.port;
        self.say.phase(&format!("a standby listens on port {port}"));
        if self.plan.ready_check.is_some() && !self.plan.scope.allow_local {
            let text = "--ready-check: what it asks on this host itself goes to the standby; with \
                        --allow-local it meets the service";
            self.warn(text.to_owned(), report);
        }
        Ok(standby)
    }

    /// The run ends before the gate was closed: so does the standby, and the next run finds its port
    /// free. A signal ends the wait, not the standby.
    pub fn dismiss(&self, standby: Option<Standby>) {
        let Some(mut standby) = standby else {
            return;
        };
        standby.begin_stop();
        while standby.stopped().is_none() {
            self.say.waiting("waiting for the standby to end");
            let caught = self.signals.wait_beside(self.say.due(), standby.news());
            if matches!(caught, Some(Caught::Stop(..))) {
                break;
            }
        }
        self.say.done_waiting();
    }

    /// Runs `--standby-check` until it succeeds.
    fn check_standby(&self, environment: &[CString], until: Instant) -> Result<(), Ending> {
        let Some(line) = &self.plan.standby.check else {
            return Ok(());
        };
        let shown = line.to_string_lossy();
        self.say.phase(&format!("standby check: {shown}"));
        let failed =
            |how: String| not_gated("standby_check", &format!("--standby-check '{shown}' {how}"));
        let timeout = humantime::format_duration(self.plan.standby.timeout);
        let within = format!("within --standby-timeout {timeout}");
        loop {
            let check = Beside::check(line, environment, self.signals.inherited())
                .map_err(|error| failed(format!("can't be run ({})", error.desc())))?;
            let exit = self.ended_by(&check, until)?;
            let exit = exit.ok_or_else(|| failed(format!("did not end {within}")))?;
            if exit == CommandExit::Code(0) {
                return Ok(());
            }
            let again = Instant::now() + CHECK_PAUSE;
            if again >= until {
                let last = exit_words(exit);
                return Err(failed(format!(
                    "did not succeed {within} (at last: {last})"
                )));
            }
            self.wait_until(again)?;
        }
    }

    /// How it has ended, if it has by then.
    fn ended_by(&self, check: &Beside, until: Instant) -> Result<Option<CommandExit>, Ending> {
        loop {
            let exit = check.ended();
            if exit.is_some() || Instant::now() >= until {
                return Ok(exit);
            }
            if let Some(Caught::Stop(signal, sender)) = self.signals.wait(Some(until)) {
                return Err(Ending::interrupted_before(signal, sender));
            }
        }
    }

    /// Interfaces that are not there may come: only then are they gated.
    pub fn warn_of_interfaces(&self, report: &mut Report) {
        let Ok(present) = nix::net::if_::if_nameindex() else {
            return;
        };
        let is_there = |name: &str| {
            present
                .iter()
                .any(|i| i.name().to_bytes() == name.as_bytes())
        };
        let names = self.plan.scope.interfaces.iter();
        for name in names.filter(|name| !is_there(name)) {
            let text = format!("--interface: no interface is named {name} now: it may come");
            self.warn(text, report);
        }
    }

    /// Where the kernel has ever answered with SYN cookies, it is watched for a moment, gate open:
    /// if it does so now, the drain has to last longer, since such handshakes can't be seen.
    ///
    /// # Errors
    /// A signal came.
    pub fn watch_for_cookies(&self, sockets: &Sockets, since: Instant) -> Result<(), Ending> {
        const LOOK_AGAIN: Duration = Duration::from_millis(20);
        let until = since + COOKIE_GRACE;
        while sockets.ever_sent_cookies() && !sockets.sent_cookies_meanwhile() {
            if Instant::now() >= until {
                return Ok(());
            }
            self.wait_until(until.min(Instant::now() + LOOK_AGAIN))?;
        }
        Ok(())
    }

    /// Which listeners do the gated ports have, and who holds them?
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn look(&self, sockets: &mut Sockets, report: &mut Report) -> Result<Sample, Ending> {
        let want = Want {
            holders: true,
            ..Want::default()
        };
        let before = sockets.look(want).map_err(unseen)?;
        report.before(&before);
        let listeners = match places(&before.listeners) {
            none if none.is_empty() => "none".to_owned(),
            places => places.join(" "),
        };
        self.say.phase(&format!("listeners: {listeners}"));
        let config = &self.plan.config;
        let served = |port| config.listen_ports.served_by(port, &config.ports);
        let listened: PortSet = before.listeners.iter().map(|l| l.port).collect();
        let served = listened
            .iter()
            .flat_map(|port| served(port).ranges().to_vec());
        let deserted = config.ports.minus(&PortSet::from_ranges(served));
        if !deserted.is_empty() {
            let text = format!("nobody listens on {}", config.listen_ports.shown(&deserted));
            self.warn(text, report);
        }
        Ok(before)
    }

    fn warn(&self, text: String, report: &mut Report) {
        self.say.warning(&text);
        report.warnings.push(text);
    }

    /// A last look for a signal before something is changed.
    ///
    /// # Errors
    /// One came.
    pub fn go_ahead(&self) -> Result<(), Ending> {
        self.wait_until(Instant::now())
    }

    /// Waits until then, or for the signal that ends the run. There is no gate to open early.
    fn wait_until(&self, until: Instant) -> Result<(), Ending> {
        while let Some(caught) = self.signals.wait(Some(until)) {
            if let Caught::Stop(signal, sender) = caught {
                return Err(Ending::interrupted_before(signal, sender));
            }
        }
        Ok(())
    }
}

/// A standby on its way.
struct StandbyComes<'a, 'b> {
    before: &'a Before<'a>,
    port: u16,
    service: &'b mut Sockets,
    there: Sockets,
    until: Instant,
}

impl StandbyComes<'_, '_> {
    /// `--standby`, unless somebody has its port already.
    fn start(&mut self, environment: &[CString]) -> Result<Option<Standby>, Ending> {
        let plan = self.before.plan;
        let Some(line) = &plan.standby.line else {
            return Ok(None);
        };
        if let Some(who) = self.who_is_there()? {
            return Err(no_standby(&format!(
                "--standby: {who} listens on port {} already; leave --standby out if that is the \
                 standby",
                self.port
            )));
        }
        let shown = line.to_string_lossy();
        self.before.say.phase(&format!("standby: {shown}"));
        let inherited = self.before.signals.inherited();
        let started = Standby::start(line, environment, inherited, plan.standby.grace);
        started
            .map(Some)
            .map_err(|error| no_standby(&format!("--standby '{shown}': {error:#}")))
    }

    fn who_is_there(&mut self) -> Result<Option<String>, Ending> {
        let want = Want {
            holders: true,
            ..Want::default()
        };
        let there = self.there.look(want).map_err(unseen)?;
        let inodes: Vec<u32> = there.listeners.iter().map(|l| l.inode).collect();
        let who = match names(&there.holders, &inodes) {
            unknown if unknown.is_empty() => "somebody".to_owned(),
            who => who,
        };
        Ok((!inodes.is_empty()).then_some(who))
    }

    /// Until it listens wherever the service does.
    fn wait(&mut self, mut standby: Option<&mut Standby>) -> Result<(), Ending> {
        loop {
            let missing = self.missing()?;
            if missing.is_empty() {
                return Ok(());
            }
            let Some(standby) = standby.as_deref_mut() else {
                let port = self.port;
                return Err(no_standby(&format!(
                    "--syn redirect={port}: nobody listens on {missing}, where the standby is needed; \
                     start it, or give --standby"
                )));
            };
            match standby.ended() {
                // What it has started may live on, as a daemon.
                None | Some(CommandExit::Code(0)) => (),
                Some(exit) => {
                    let how = exit_words(exit);
                    return Err(no_standby(&format!(
                        "--standby ended ({how}) before it listened on {missing}"
                    )));
                }
            }
            if Instant::now() >= self.until {
                let timeout = humantime::format_duration(self.before.plan.standby.timeout);
                let gone = match standby.stopped() {
                    Some(_) => " (it ended with status 0, and left no process)",
                    None => "",
                };
                return Err(no_standby(&format!(
                    "--standby does not listen on {missing} within --standby-timeout {timeout}{gone}"
                )));
            }
            let look = Instant::now() + STANDBY_EVERY;
            self.before.wait_until(self.until.min(look))?;
        }
    }

    /// Where it is needed and does not listen.
    fn missing(&mut self) -> Result<String, Ending> {
        let service = self.service.look(Want::default()).map_err(unseen)?;
        let there = self.there.look(Want::default()).map_err(unseen)?;
        let scope = self.before.plan.standby_scope();
        let missing = missing(&service.listeners, &there.listeners, self.port, scope);
        Ok(missing.join(" "))
    }
}

fn no_standby(why: &str) -> Ending {
    not_gated("standby", why)
}

/// What had to be so before anything is changed is not.
fn not_gated(reason: &'static str, why: &str) -> Ending {
    let message = format!("{why}: nothing was gated, COMMAND was not run");
    Ending::not_run(reason, message)
}

/// The kernel does not list its sockets.
pub fn unseen(error: anyhow::Error) -> Ending {
    Ending::not_run("sockets", format!("{error:#}"))
}

/// What `--listen-netns-from` has told.
///
/// # Errors
/// What is wrong with it, to be read after its command line.
pub fn answered(exit: CommandExit, answer: &str) -> Result<Netns, String> {
    match exit {
        CommandExit::Code(0) => {
            Netns::parse(answer).map_err(|why| format!("printed '{answer}': {why}"))
        }
        CommandExit::Code(status) => Err(format!("exited with status {status}")),
        CommandExit::Signal(signal) => Err(format!("was ended by {}", signal_name(signal))),
    }
}

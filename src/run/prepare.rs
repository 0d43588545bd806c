//! The steps before the gate is closed: the lock, the precheck, a look at the listeners. Nothing
//! has been changed yet, so an early end needs no undo: it is an `Err(Ending)`.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::action::contract::{Before, Prepared};
use crate::action::list;
use crate::action::rooms::left;
use crate::cli::NamedRun;
use crate::decide::draining::COOKIE_GRACE;
use crate::decide::readiness::places;
use crate::decide::sessions::{comes_by, confirmed, suspects};
use crate::decide::wishes::{SECOND_AFTER, Wishes};
use crate::gate::{rooms, standing};
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::netns::Netns;
use crate::kernel::sockets::{Listener, Looks, Sample, SocketId, Want, holders, passing};
use crate::process::ancestry::descends_from;
use crate::process::beside::Beside;
use crate::process::child::Child;
use crate::process::guard::START_TIMEOUT;
use crate::process::lock::{self, Lock, LockHolder, LocksOf};
use crate::process::output::Output;
use crate::process::signals::Caught;
use crate::process::starter::Starter;
use crate::run::call::Call;
use crate::run::plan::Listeners;
use crate::run::record::Record;
use crate::run::while_closed::not_spawned;
use crate::words::ended::{CommandExit, Sender, signal_name};
use crate::words::ending::Ending;
use crate::words::ms::ms_words;

impl Call<'_> {
    /// Starts the process that becomes COMMAND. `None`: this host can't prepare one, so COMMAND is started
    /// when the gate is closed and the drain is over.
    ///
    /// # Errors
    /// COMMAND could not be started either.
    pub(super) fn starter(&self) -> Result<Option<Starter>, Ending> {
        match self.try_starter(START_TIMEOUT) {
            Ok(starter) => Ok(Some(starter)),
            Err(
                refusal @ (Errno::EAGAIN
                | Errno::ENOMEM
                | Errno::E2BIG
                | Errno::EMFILE
                | Errno::ENFILE),
            ) => Err(not_spawned(self.plan, refusal)),
            Err(_) => Ok(None),
        }
    }

    /// The process that becomes COMMAND, if it is ready within that time.
    ///
    /// # Errors
    /// As for [`Starter::start`].
    pub(super) fn try_starter(&self, patience: Duration) -> Result<Starter, Errno> {
        let Call { plan, signals, .. } = self;
        let (environment, mask) = (self.environment, signals.inherited());
        Starter::start(&plan.program, &plan.command, environment, mask, patience)
    }

    /// Runs for the same port take turns. A run inside another would wait for itself.
    ///
    /// # Errors
    /// The lock was not free in time, or can't be taken.
    pub(crate) fn lock(&self, record: &mut Record) -> Result<Lock, Ending> {
        let since = Instant::now();
        let failed = |error: anyhow::Error| Ending::not_run("lock", format!("{error:#}"));
        let mut lock = Lock::open(LocksOf::Runs, &self.plan.gated().ports).map_err(failed)?;
        for holder in lock.holders().map_err(failed)? {
            self.refuse_nested(&holder)?;
        }
        let mut told = false;
        while let Some(holder) = lock.try_take(&record.run).map_err(failed)? {
            self.wait_for(&holder, since + self.plan.lock_timeout, &mut told)?;
        }
        self.say.done_waiting();
        let ports = self.plan.gated().ports.brief();
        self.say.phase(&format!("locked {ports}"));
        record.lock = Some(since.elapsed());
        Ok(lock)
    }

    fn refuse_nested(&self, holder: &LockHolder) -> Result<(), Ending> {
        if !holder.has_started_us() {
            return Ok(());
        }
        let ports = self.plan.gated().ports.brief();
        Err(Ending::not_run(
            "nested",
            format!(
                "--port {ports}: {holder} has started this run, and gates one of these ports, so each would wait \
                 for the other: leave out one of the two syngate calls"
            ),
        ))
    }

    fn wait_for(&self, holder: &LockHolder, until: Instant, told: &mut bool) -> Result<(), Ending> {
        self.refuse_nested(holder)?;
        if Instant::now() >= until {
            let waited = humantime::format_duration(self.plan.lock_timeout);
            return Err(Ending::not_run(
                "lock_timeout",
                format!(
                    "--lock-timeout {waited} is over, and {holder} still {}; COMMAND was not run",
                    has(holder)
                ),
            ));
        }
        if !std::mem::replace(told, true) {
            let what = has(holder);
            let limit = humantime::format_duration(self.plan.lock_timeout);
            self.say.result(&format!(
                "waiting for {holder}, which {what} (up to {limit}, --lock-timeout; interrupt to give up)"
            ));
        }
        self.say.waiting(&format!("waiting for {holder}"));
        self.signals.until(until.min(Instant::now() + lock::RETRY))
    }

    /// Tells where the rules will stand, if that is special.
    pub(crate) fn tell_place(&self, record: &mut Record) {
        let place = &self.plan.place;
        place.why.iter().for_each(|why| self.say.phase(why));
        for warning in &place.warnings {
            record.warnings.warn(self.say, warning.clone());
        }
    }

    /// Removes rules of dead runs. This run has no rules yet.
    pub(crate) fn sweep(&self, lock: &Lock, record: &mut Record) {
        let swept = standing::sweep(self.plan.backend.to_hold, lock);
        // With --best-effort the privilege may be missing, and closing the gate says so.
        let certain = !self.plan.config.best_effort;
        for what in swept.unseen.iter().filter(|_| certain) {
            let text = format!("syngate could not look whether a dead run has left rules: {what}");
            record.warnings.warn(self.say, text);
        }
        for (gate, erased) in swept.erased {
            let whose = gate.whose();
            let text = match erased {
                Ok(()) => format!("syngate removed the gate that a dead run had left: {whose}"),
                Err(error) => {
                    format!(
                        "syngate can't remove the gate that a dead run has left ({whose}): {error:#}"
                    )
                }
            };
            record.warnings.warn(self.say, text);
        }
    }

    /// Takes back what dead runs have left of their waiting rooms.
    pub(crate) fn take_back(&self, record: &mut Record) {
        let taken = left::take_back().unwrap_or_else(|error| {
            let text = format!(
                "syngate could not look whether dead runs have left waiting rooms: {error:#}"
            );
            record.warnings.warn(self.say, text);
            Vec::new()
        });
        for one in taken {
            record.warnings.warn(self.say, one.words());
        }
    }

    /// A keep stands back from locked ports, unless nobody listens there: then the waiting connections are the keep's
    /// to hand over, once COMMAND has started the service.
    ///
    /// # Errors
    /// The keep did not stand back in time.
    pub(crate) fn await_keep(&self, run: &str) -> Result<(), Ending> {
        let until = Instant::now() + rooms::STANDS_BACK_WITHIN;
        let ports = self.plan.gated().listener_ports();
        while let Some(guard) = rooms::keep_on(&ports, run).map_err(Ending::unseen)? {
            if Instant::now() >= until {
                let within = humantime::format_duration(rooms::STANDS_BACK_WITHIN);
                let (ports, guard) = (ports.brief(), guard.pid);
                return Err(Ending::not_run(
                    "kept",
                    format!(
                        "--port {ports}: syngate keep did not stand back within {within}, and COMMAND was not run; \
                         syngate clear --force --port {ports} ends that keep (its guard is pid {guard})"
                    ),
                ));
            }
            self.say.waiting("waiting for syngate keep to stand back");
            self.signals
                .until(until.min(Instant::now() + lock::RETRY))?;
        }
        self.say.done_waiting();
        Ok(())
    }

    pub(crate) fn precheck(&self, record: &mut Record) -> Result<(), Ending> {
        let Some(line) = &self.plan.precheck else {
            return Ok(());
        };
        let since = Instant::now();
        let shown = line.to_string_lossy();
        self.say.phase(&format!("precheck: {shown}"));
        let failed = |how: String| match &self.plan.by_name {
            Some(by_name) if by_name.test_is_found => {
                let message = format!("the test '{shown}' {how}: {}", left_as_it_is(by_name));
                Ending::not_run("precheck", message)
            }
            _ => Ending::not_gated("precheck", &format!("--precheck '{shown}' {how}")),
        };
        // With -q, only one that fails is heard.
        let kept = self.say.is_quiet().then(|| Output::new().ok()).flatten();
        let (environment, mask) = (self.environment, self.signals.inherited());
        let child = Child::shell(kept.as_ref(), line, environment, mask)
            .map_err(|error| failed(format!("can't be run ({})", error.desc())))?;
        let exit = self.wait_for_child("--precheck", &child, || child.ended());
        if let Some(output) = kept.filter(|_| !matches!(exit, Ok(CommandExit::Code(0)))) {
            self.say.printed(&output.text());
        }
        let exit = exit?;
        record.precheck = Some(since.elapsed());
        match exit {
            CommandExit::Code(0) => Ok(()),
            CommandExit::Code(127) => Err(failed(
                "exited with status 127 (a command that is not in PATH?)".to_owned(),
            )),
            CommandExit::Code(status) => Err(failed(format!("exited with status {status}"))),
            CommandExit::Signal(n) => Err(failed(format!("was ended by {}", signal_name(n)))),
        }
    }

    /// Passes the first signal on to the child, and the run ends with it. A second signal ends the
    /// run without the child.
    fn wait_for_child(
        &self,
        option: &str,
        child: &Child,
        ended: impl Fn() -> Option<CommandExit>,
    ) -> Result<CommandExit, Ending> {
        let mut wishes = Wishes::default();
        loop {
            match self.signals.wait(None) {
                Some(Caught::Stop(signal, sender)) => {
                    if !wishes.take(signal, sender, Instant::now()) {
                        continue;
                    }
                    if wishes.all().len() > 1 {
                        return Err(Ending::interrupted_before(signal, sender));
                    }
                    if child.hears_of(signal, sender) != Sender::Terminal {
                        child.signal(signal);
                    }
                    let again = humantime::format_duration(SECOND_AFTER);
                    self.say.result(&format!(
                        "{}: COMMAND will not be run; waiting until {option} ends; one more signal (Ctrl-C), \
                         at least {again} later, ends syngate at once",
                        signal_name(signal)
                    ));
                }
                _ => match (ended(), wishes.all().last()) {
                    (None, _) => (),
                    (Some(exit), None) => return Ok(exit),
                    (Some(_), Some(&(signal, sender))) => {
                        return Err(Ending::interrupted_before(signal, sender));
                    }
                },
            }
        }
    }

    /// `--listen-netns`: from now on looks at the sockets go to that namespace.
    ///
    /// # Errors
    /// It is no network namespace, or can't be entered.
    pub(crate) fn look_in_netns(&self, sockets: &mut Sockets) -> Result<(), Ending> {
        let Listeners::In(netns) = &self.plan.listeners else {
            return Ok(());
        };
        sockets.look_in(netns).map_err(|why| {
            Ending::not_run("listen_netns", format!("--listen-netns: '{netns}': {why}"))
        })
    }

    /// `--listen-netns-from`: asks for the listeners' namespace. Returns whether the option was
    /// given.
    ///
    /// # Errors
    /// The answer is missing or invalid.
    pub(crate) fn ask_for_netns(&self, sockets: &mut Sockets) -> Result<bool, Ending> {
        let Listeners::From(line) = &self.plan.listeners else {
            return Ok(false);
        };
        let failed = |why: String| {
            let shown = line.to_string_lossy();
            let message = format!("--listen-netns-from '{shown}' {why}");
            Ending::not_run("listen_netns", message)
        };
        let netns = self.ask(line)?.map_err(failed)?;
        let entered = sockets.look_in(&netns);
        entered.map_err(|why| failed(format!("printed '{netns}': {why}")))?;
        self.say.phase(&format!("looking for listeners in {netns}"));
        Ok(true)
    }

    fn ask(&self, line: &OsStr) -> Result<Result<Netns, String>, Ending> {
        let asked = match Beside::ask(line, self.environment, self.signals.inherited()) {
            Ok(asked) => asked,
            Err(error) => return Ok(Err(format!("can't be run ({})", error.desc()))),
        };
        let ended = || asked.ended();
        let exit = self.wait_for_child("--listen-netns-from", asked.child(), ended)?;
        Ok(answered(exit, &asked.answer()))
    }

    pub(crate) fn prepare_action(
        &self,
        sockets: &mut Sockets,
        record: &mut Record,
    ) -> Result<Box<dyn Prepared>, Ending> {
        let plan = self.plan;
        plan.action.prepare(&mut Before {
            gated: plan.gated(),
            say: self.say,
            signals: self.signals,
            sockets,
            warnings: &mut record.warnings,
            environment: self.environment,
            run: &record.run,
            command: &plan.command_line(),
            best_effort: plan.config.best_effort,
        })
    }

    /// Where the kernel has ever sent SYN cookies, watches for a moment with the gate open. If it
    /// sends them now, the drain has to last longer, because such handshakes can't be seen.
    ///
    /// # Errors
    /// A signal came.
    pub(crate) fn watch_for_cookies(
        &self,
        sockets: &Sockets,
        since: Instant,
    ) -> Result<(), Ending> {
        const LOOK_AGAIN: Duration = Duration::from_millis(20);
        let until = since + COOKIE_GRACE;
        if sockets.ever_sent_cookies() {
            self.say.phase(&format!(
                "the kernel has sent SYN cookies before: watching for up to {} whether it still does",
                ms_words(COOKIE_GRACE)
            ));
        }
        while sockets.ever_sent_cookies() && !sockets.sent_cookies_meanwhile() {
            if Instant::now() >= until {
                return Ok(());
            }
            self.signals.until(until.min(Instant::now() + LOOK_AGAIN))?;
        }
        Ok(())
    }

    /// Finds the listeners of the gated ports, and the processes that hold them.
    ///
    /// # Errors
    /// The kernel does not list its sockets.
    pub(crate) fn look(&self, sockets: &mut Sockets, record: &mut Record) -> Result<(), Ending> {
        let want = Want {
            holders: true,
            ..Want::default()
        };
        record.before = sockets.look(want).map_err(Ending::unseen)?;
        // Without an answer they are waited for like others.
        let sessions = sessions(&record.before, sockets.netns()).unwrap_or_default();
        if !sessions.is_empty() {
            let of_session = |l: &&Listener| sessions.contains(&l.id);
            let listeners = record.before.listeners.iter().filter(of_session);
            let shown = places(listeners).join(" ");
            self.say.phase(&format!(
                "not waiting for listeners that sessions have made: {shown}"
            ));
            record.before.sessions = sessions;
        }
        let listeners = &record.before.listeners;
        let listened = listeners.iter().map(|l| l.port).collect();
        let shown = match places(listeners) {
            none if none.is_empty() => "none".to_owned(),
            places => places.join(" "),
        };
        self.say.phase(&format!("listeners: {shown}"));
        let gated = self.plan.gated();
        let deserted = gated.ports.minus(&gated.served_by_any(&listened));
        if !deserted.is_empty() {
            let text = format!(
                "nobody listens on {} now: is the service down, or the port wrong?",
                gated.listen_ports.shown(&deserted)
            );
            record.warnings.warn(self.say, text);
        }
        Ok(())
    }
}

/// The end of the message when the test of the configuration has failed.
fn left_as_it_is(by_name: &NamedRun) -> String {
    let (name, done) = (
        &by_name.name,
        if by_name.reloads {
            "reloaded"
        } else {
            "restarted"
        },
    );
    let runs = if by_name.is_up {
        ", and runs as before"
    } else {
        ""
    };
    format!("{name} was not {done}{runs}; correct the file (--no-precheck leaves the test out)")
}

/// The listeners that sessions have made for themselves.
fn sessions(seen: &Sample, netns: Option<&Netns>) -> anyhow::Result<Vec<SocketId>> {
    let suspects = suspects(seen, descends_from);
    if suspects.is_empty() {
        return Ok(Vec::new());
    }
    let ports = seen.listeners.iter().map(|l| l.port).collect();
    let mut served = passing::served(netns, &ports)?;
    served.retain(|one| suspects.iter().any(|suspect| comes_by(suspect, one.local)));
    let inodes: Vec<u32> = served.iter().map(|one| one.inode).collect();
    Ok(confirmed(&suspects, &served, &holders::find(&inodes)))
}

/// Reads the answer of `--listen-netns-from`.
///
/// # Errors
/// What is wrong with it; the message follows the command line.
pub(crate) fn answered(exit: CommandExit, answer: &str) -> Result<Netns, String> {
    match exit {
        CommandExit::Code(0) => {
            Netns::parse(answer).map_err(|why| format!("printed '{answer}': {why}"))
        }
        CommandExit::Code(status) => Err(format!("exited with status {status}")),
        CommandExit::Signal(signal) => Err(format!("was ended by {}", signal_name(signal))),
    }
}
/// What the run that has locked a port is doing there. Either its gate is closed, or its gate is open and its
/// rules stay for connections that it has steered elsewhere.
fn has(holder: &LockHolder) -> String {
    let gates = standing::find().gates;
    let open = gates
        .iter()
        .find(|gate| gate.run == holder.run && gate.ports.is_empty());
    let who = open.and_then(|gate| gate.who.as_ref());
    match who.and_then(|who| list::standing(&who.action).0.open) {
        Some(what) => format!("has one of these ports: its gate is open, and {what}"),
        None => "gates one of these ports".to_owned(),
    }
}

//! What comes before the gate is closed: the lock, the precheck, a look at the listeners. Nothing has
//! been changed yet, so an early end needs nothing undone: it is an `Err(Ending)`.

use std::ffi::CString;
use std::time::{Duration, Instant};

use crate::child::{Child, RUN_VARIABLE};
use crate::gate::found;
use crate::lock::{self, Holder, Lock};
use crate::plan::Plan;
use crate::ports::PortSet;
use crate::report::{Ending, Report, signal_name};
use crate::say::Say;
use crate::signals::{Caught, Signals};
use crate::sockets::diag::Sockets;
use crate::sockets::ready::places;
use crate::sockets::{Sample, Want};
use crate::step::{COOKIE_GRACE, CommandExit, Sender};

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

    fn refuse_nested(&self, holder: &Holder) -> Result<(), Ending> {
        let inside = std::env::var(RUN_VARIABLE)
            .is_ok_and(|runs| runs.split(':').any(|id| id == holder.run));
        if !inside {
            return Ok(());
        }
        let ports = self.plan.config.ports.brief();
        Err(Ending::not_run(
            "nested",
            format!("--port {ports}: this run is inside one ({holder}) that gates the same port"),
        ))
    }

    fn wait_for(&self, holder: &Holder, until: Instant, told: &mut bool) -> Result<(), Ending> {
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
    pub fn sweep(&self, report: &mut Report) {
        for (gate, erased) in found::sweep(self.plan.backend) {
            let whose = gate.whose();
            let text = match erased {
                Ok(()) => format!("removed the gate that a dead run had left: {whose}"),
                Err(error) => {
                    format!(
                        "the gate that a dead run has left ({whose}) can't be removed: {error:#}"
                    )
                }
            };
            self.say.warning(&text);
            report.warnings.push(text);
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
        let failed = |how: String| {
            let message =
                format!("--precheck '{shown}' {how}: nothing was gated, COMMAND was not run");
            Ending::not_run("precheck", message)
        };
        let child = Child::shell(line, environment, self.signals.inherited())
            .map_err(|error| failed(format!("can't be run ({})", error.desc())))?;
        let exit = self.wait_for_precheck(&child)?;
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

    /// The first signal is passed on, and the run ends when the precheck does; a second one leaves
    /// it behind.
    fn wait_for_precheck(&self, child: &Child) -> Result<CommandExit, Ending> {
        let mut stopped: Option<(i32, Sender)> = None;
        loop {
            match self.wait(None)? {
                Some(Caught::Stop(signal, sender)) => {
                    if stopped.replace((signal, sender)).is_some() {
                        return Err(Ending::interrupted_before(signal, sender));
                    }
                    if child.hears_of(signal, sender) != Sender::Terminal {
                        child.signal(signal);
                    }
                }
                _ => match (child.ended(), stopped) {
                    (None, _) => (),
                    (Some(exit), None) => return Ok(exit),
                    (Some(_), Some((signal, sender))) => {
                        return Err(Ending::interrupted_before(signal, sender));
                    }
                },
            }
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
        let before = sockets
            .look(want)
            .map_err(|error| Ending::not_run("sockets", format!("{error:#}")))?;
        report.before(&before);
        let listeners = match places(&before.listeners) {
            none if none.is_empty() => "none".to_owned(),
            places => places.join(" "),
        };
        self.say.phase(&format!("listeners: {listeners}"));
        let listening: PortSet = before.listeners.iter().map(|l| l.port).collect();
        let deserted = self.plan.config.ports.minus(&listening);
        if !deserted.is_empty() {
            let text = format!("nobody listens on {}", deserted.brief());
            self.say.warning(&text);
            report.warnings.push(text);
        }
        Ok(before)
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
        while let Some(caught) = self.wait(Some(until))? {
            if let Caught::Stop(signal, sender) = caught {
                return Err(Ending::interrupted_before(signal, sender));
            }
        }
        Ok(())
    }

    fn wait(&self, until: Option<Instant>) -> Result<Option<Caught>, Ending> {
        self.signals
            .wait(until)
            .map_err(|error| Ending::not_run("signals", format!("waiting for signals: {error}")))
    }
}

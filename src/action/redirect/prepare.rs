//! Starts or finds the standby before any port is gated.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;
use serde_json::Value;

use super::act::RedirectAction;
use super::places::missing;
use super::policy::STANDBY_EVERY;
use super::redirected::Redirected;
use super::standby::Standby;
use super::to_standby::{OwnStandby, SharedStandby, ToStandby};
use crate::action::contract::{Action, Before, Prepared, Seen};
use crate::decide::beside::CHECK_PAUSE;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::holders::names;
use crate::kernel::sockets::{Looks, Want};
use crate::process::beside::Beside;
use crate::process::signals::{Caught, Signals};
use crate::tell::say::Say;
use crate::words::ended::{CommandExit, exit_words};
use crate::words::ending::Ending;

pub(crate) struct StandbyReady {
    to: ToStandby,
    standby: SharedStandby,
}

impl StandbyReady {
    /// # Errors
    /// There is no standby, or its check fails.
    pub(crate) fn prepare(to: &ToStandby, before: &mut Before) -> Result<StandbyReady, Ending> {
        if before.gated.ports.iter().nth(1).is_some() {
            let (ports, port) = (before.gated.ports.brief(), to.port);
            before.warn(format!(
                "--syn redirect={port}: {ports} all go to that one port"
            ));
        }
        let mut coming = Coming {
            there: Sockets::new(
                &[to.port].into_iter().collect(),
                &before.gated.listener_scope(),
            )
            .map_err(Ending::unseen)?,
            until: Instant::now() + to.timeout,
            to,
            before,
        };
        let mut standby = coming.start()?;
        let ready = coming.wait(standby.as_mut()).and_then(|()| coming.check());
        if let Err(ending) = ready {
            dismiss(standby, before.say, before.signals);
            return Err(ending);
        }
        before
            .say
            .phase(&format!("a standby listens on port {}", to.port));
        let own = standby.map(|standby| OwnStandby { standby, row: None });
        Ok(StandbyReady {
            to: to.clone(),
            standby: Rc::new(RefCell::new(own)),
        })
    }
}

impl Prepared for StandbyReady {
    fn begin(&self, seen: &Seen) -> Result<Box<dyn Action>> {
        let gated = seen.gated;
        let redirected = Redirected::begin(self.to.port, &gated.ports, &gated.listener_scope())?;
        let standby = Rc::clone(&self.standby);
        Ok(Box::new(RedirectAction::new(&self.to, redirected, standby)))
    }

    fn dismiss(&self, say: &Say, signals: &Signals) {
        let own = self.standby.take();
        dismiss(own.map(|own| own.standby), say, signals);
    }

    fn leave(&self) -> Option<(&'static str, Value)> {
        let own = self.standby.take()?;
        Some(own.leave(self.to.keep).named())
    }
}

/// The run ends before the gate was closed. The standby is stopped, so that the next run finds its
/// port free. A signal ends the wait for that, not the stop.
fn dismiss(standby: Option<Standby>, say: &Say, signals: &Signals) {
    let Some(mut standby) = standby else {
        return;
    };
    standby.begin_stop();
    while standby.stopped().is_none() {
        say.waiting("waiting for the standby to end");
        let until = say.due().into_iter().chain(standby.due()).min();
        let caught = signals.wait_beside(until, standby.news());
        if matches!(caught, Some(Caught::Stop(..))) {
            break;
        }
    }
    say.done_waiting();
}

/// A standby that does not listen yet.
struct Coming<'a, 'b> {
    to: &'a ToStandby,
    before: &'a mut Before<'b>,
    there: Sockets,
    until: Instant,
}

impl Coming<'_, '_> {
    /// Starts `--standby`, unless another process has its port already.
    fn start(&mut self) -> Result<Option<Standby>, Ending> {
        let Some(line) = &self.to.line else {
            return Ok(None);
        };
        if let Some(who) = self.who_is_there()? {
            return Err(no_standby(&format!(
                "--standby: {who} listens on port {} already; if that is the standby, leave out --standby",
                self.to.port
            )));
        }
        let shown = line.to_string_lossy();
        self.before.say.phase(&format!("standby: {shown}"));
        let inherited = self.before.signals.inherited();
        let started = Standby::start(line, self.before.environment, inherited, self.to.grace);
        started
            .map(Some)
            .map_err(|error| no_standby(&format!("--standby '{shown}': {error:#}")))
    }

    fn who_is_there(&mut self) -> Result<Option<String>, Ending> {
        let want = Want {
            holders: true,
            ..Want::default()
        };
        let there = self.there.look(want).map_err(Ending::unseen)?;
        let inodes: Vec<u32> = there.listeners.iter().map(|l| l.inode).collect();
        let who = match names(&there.holders, &inodes) {
            unknown if unknown.is_empty() => "somebody".to_owned(),
            who => who,
        };
        Ok((!inodes.is_empty()).then_some(who))
    }

    /// Waits until it listens on every address that the service uses.
    fn wait(&mut self, mut standby: Option<&mut Standby>) -> Result<(), Ending> {
        loop {
            let missing = self.missing()?;
            if missing.is_empty() {
                return Ok(());
            }
            let Some(standby) = standby.as_deref_mut() else {
                let port = self.to.port;
                return Err(no_standby(&format!(
                    "--syn redirect={port}: nobody listens on {missing}, where the standby is needed; \
                     start it, or give --standby"
                )));
            };
            self.comes_still(standby, &missing)?;
            let look = Instant::now() + STANDBY_EVERY;
            self.before.signals.until(self.until.min(look))?;
        }
    }

    /// Fails if the standby has ended without listening.
    fn comes_still(&self, standby: &mut Standby, missing: &str) -> Result<(), Ending> {
        match standby.ended() {
            // The command line may have left a daemon behind.
            None | Some(CommandExit::Code(0)) => (),
            Some(exit) => {
                let how = exit_words(exit);
                return Err(no_standby(&format!(
                    "--standby ended ({how}) before it listened on {missing}"
                )));
            }
        }
        if Instant::now() < self.until {
            return Ok(());
        }
        let timeout = humantime::format_duration(self.to.timeout);
        let gone = match standby.stopped() {
            Some(_) => " (it ended with status 0, and left no process)",
            None => "",
        };
        Err(no_standby(&format!(
            "--standby does not listen on {missing} within --standby-timeout {timeout}{gone}"
        )))
    }

    /// The addresses that still lack a listener.
    fn missing(&mut self) -> Result<String, Ending> {
        let gated = self.before.gated;
        let service = self.before.sockets.look(Want::default());
        let service = service.map_err(Ending::unseen)?;
        let there = self.there.look(Want::default()).map_err(Ending::unseen)?;
        let scope = gated.addresses_are_known().then_some(&gated.scope);
        let missing = missing(&service.listeners, &there.listeners, self.to.port, scope);
        Ok(missing.join(" "))
    }

    fn check(&self) -> Result<(), Ending> {
        let Some(line) = &self.to.check else {
            return Ok(());
        };
        let (say, signals) = (self.before.say, self.before.signals);
        let shown = line.to_string_lossy();
        say.phase(&format!("standby check: {shown}"));
        let failed = |how: String| {
            Ending::not_gated("standby_check", &format!("--standby-check '{shown}' {how}"))
        };
        let timeout = humantime::format_duration(self.to.timeout);
        let within = format!("within --standby-timeout {timeout}");
        loop {
            let check = Beside::line(line, self.before.environment, signals.inherited(), None)
                .map_err(|error| failed(format!("can't be run ({})", error.desc())))?;
            let exit = ended_by(&check, self.until, signals)?;
            let exit = exit.ok_or_else(|| failed(format!("did not end {within}")))?;
            if exit == CommandExit::Code(0) {
                return Ok(());
            }
            let again = Instant::now() + CHECK_PAUSE;
            if again >= self.until {
                let last = exit_words(exit);
                return Err(failed(format!(
                    "did not succeed {within} (at last: {last})"
                )));
            }
            signals.until(again)?;
        }
    }
}

/// The exit status, if it has ended by then.
fn ended_by(
    check: &Beside,
    until: Instant,
    signals: &Signals,
) -> Result<Option<CommandExit>, Ending> {
    loop {
        let exit = check.ended();
        if exit.is_some() || Instant::now() >= until {
            return Ok(exit);
        }
        if let Some(Caught::Stop(signal, sender)) = signals.wait(Some(until)) {
            return Err(Ending::interrupted_before(signal, sender));
        }
    }
}

fn no_standby(why: &str) -> Ending {
    Ending::not_gated("standby", why)
}

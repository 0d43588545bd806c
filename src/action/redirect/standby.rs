//! A standby: another instance of the service for the duration of a run. It must never outlive the
//! run.
//!
//! Its guard process (`guard.rs`) starts it, and stops it when its socket to the run closes. The
//! kernel closes that socket however the run ends. Processes that others start on its behalf
//! (`systemctl start`, a container's daemon) are outside the guard's process tree, so the guard
//! neither sees nor stops them.
//!
//! If the guard is killed, the run stops the processes of its session. A daemon has left that
//! session. If both are killed, the standby stays.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sys::signal::{SigSet, Signal};

use super::tree::{OfProc, processes, signal_all};
use super::wire::{COMMAND, KILL_FOR, News, Order, Stop, Wire, is_the_end};
use crate::process::guard::{self, GuardProcess};
use crate::process::pulse::{Beat, Pulse};
use crate::words::ended::CommandExit;

const NAME: &str = "gate-standby";

/// The run's side. If it is dropped without [`Standby::keep`], the guard stops the standby and
/// nobody waits for that.
#[derive(Debug)]
pub struct Standby {
    guard: GuardProcess,
    wire: Wire,
    pid: i32,
    ended: Option<CommandExit>,
    stop: Option<Stop>,
    unguarded: bool,
    kept: bool,
    pulse: Pulse,
    /// The guard did not answer when it was asked last.
    silent: bool,
    trouble: Option<&'static str>,
}

impl Standby {
    /// Starts the user's command line by `sh -c` under a guard, with this environment and with the
    /// signal mask that syngate was started with. Its stdin is empty, and its output goes to
    /// stderr. `grace` is the time between SIGTERM and SIGKILL, in whole milliseconds.
    ///
    /// # Errors
    /// The standby or its guard can't be started. Nothing of it is left.
    pub fn start(
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
        grace: Duration,
    ) -> Result<Standby> {
        let program = Path::new(guard::OURSELVES);
        Standby::start_by(program, line, environment, mask, grace)
    }

    /// As [`Standby::start`], with the path of the guard's program: for tests, which are not
    /// syngate.
    ///
    /// # Errors
    /// As for [`Standby::start`].
    pub fn start_by(
        program: &Path,
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
        grace: Duration,
    ) -> Result<Standby> {
        let ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let ms = ms.to_string();
        let call = guard::GuardCall {
            program,
            name: NAME,
            words: &[COMMAND.as_ref(), ms.as_ref(), line],
            environment,
            mask,
            files: &[],
        };
        let doing = "the guard of the standby can't be started";
        let (guard, stream) = guard::start(&call).context(doing)?;
        let mut standby = Standby {
            guard,
            wire: Wire::from(stream),
            pid: 0,
            ended: None,
            stop: None,
            unguarded: false,
            kept: false,
            pulse: Pulse::new(Instant::now()),
            silent: false,
            trouble: None,
        };
        standby.begin().context(doing)?;
        Ok(standby)
    }

    /// A guard that dies before it has reported may have started the standby.
    fn begin(&mut self) -> Result<()> {
        self.pid = match self.wire.news().inspect_err(|_| self.lose_guard())? {
            News::Started(pid) => pid,
            News::NotStarted(error) => bail!("sh can't be started: {}", error.desc()),
            other => bail!("it says {other:?}"),
        };
        Ok(self.wire.stream.set_nonblocking(true)?)
    }

    /// The process id of the shell.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A descriptor that is readable when there is news; `None` once there will be none.
    pub fn news(&self) -> Option<BorrowedFd<'_>> {
        self.stop.is_none().then(|| self.wire.stream.as_fd())
    }

    /// The exit of the shell, if it has ended; does not wait. A command line that leaves daemons
    /// behind ends with status 0. If the guard was killed, the exit is not known and reads as
    /// SIGKILL.
    pub fn ended(&mut self) -> Option<CommandExit> {
        self.listen();
        self.ended
    }

    /// Whether all of its processes are gone; does not wait.
    pub fn stopped(&mut self) -> Option<Stop> {
        self.listen();
        self.stop
    }

    /// When to look whether its guard answers; `None`: there is none.
    pub(super) fn due(&self) -> Option<Instant> {
        self.stop.is_none().then(|| self.pulse.due())
    }

    /// What is wrong with its guard. Told once.
    pub(super) fn trouble(&mut self) -> Option<&'static str> {
        self.listen();
        self.trouble.take()
    }

    /// Begins to stop it: SIGTERM to all of its processes, and SIGKILL after the grace time. Does
    /// not wait: [`Standby::stopped`] tells the end.
    pub fn begin_stop(&mut self) {
        self.listen();
        self.order(Order::Stop);
        self.guard.resume();
        self.stop_unguarded();
    }

    /// Leaves its processes running. The guard ends shortly after.
    pub fn keep(mut self) {
        self.kept = true;
        self.order(Order::Keep);
    }

    /// If the order can't be sent, the socket closes and the guard stops the standby. If the guard
    /// is dead, `listen` notices it.
    fn order(&mut self, order: Order) {
        let stream = &mut self.wire.stream;
        let told = (0..2).any(|_| stream.write_all(&[order as u8]).is_ok());
        if !told {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    fn listen(&mut self) {
        while self.stop.is_none() {
            match self.wire.news() {
                Ok(News::Ended(exit)) => self.ended = Some(exit),
                Ok(News::Gone(stop)) => self.stop = Some(stop),
                Ok(News::Here) => {
                    self.silent = false;
                    self.pulse.answered(Instant::now());
                }
                Err(error) if !is_the_end(&error) => return self.feel_pulse(),
                Ok(_) | Err(_) => self.lose_guard(),
            }
        }
    }

    /// A guard that does not answer was stopped, and goes on. One that still does not answer then hangs.
    fn feel_pulse(&mut self) {
        match self.pulse.beat(Instant::now()) {
            Beat::Wait => (),
            Beat::Ask => self.order(Order::Answer),
            Beat::Missed if self.silent => {
                self.guard.kill();
                self.lose_guard();
            }
            Beat::Missed => {
                self.silent = true;
                self.guard.resume();
                self.trouble = Some(
                    "the guard of the standby does not answer (did somebody stop it?): syngate has sent it SIGCONT",
                );
            }
        }
    }

    fn lose_guard(&mut self) {
        self.unguarded = true;
        self.trouble = Some(
            "the guard of the standby was killed: syngate itself stops the standby, except for daemons; if \
             syngate is killed now too, the standby stays",
        );
        self.ended.get_or_insert(CommandExit::Signal(libc::SIGKILL));
        self.stop = Some(Stop {
            killed: false,
            left: true,
        });
    }

    /// Nobody has waited for the guard yet, so its session id can't be reused.
    fn stop_unguarded(&self) {
        if !self.unguarded {
            return;
        }
        let session = self.guard.pid();
        let mut killed = BTreeSet::new();
        // A process that was killed may have started another one just before. The next look finds
        // that.
        let until = Instant::now() + KILL_FOR;
        while Instant::now() < until {
            let all = processes().into_iter();
            let its = all.filter(|p| p.session == session);
            let new: Vec<OfProc> = its.filter(|p| killed.insert(p.pid)).collect();
            if new.is_empty() {
                return;
            }
            signal_all(&new, Signal::SIGKILL);
        }
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        // Somebody may have stopped the guard.
        self.guard.resume();
        if !self.kept {
            self.listen();
            self.stop_unguarded();
        }
        if self.kept || self.stop.is_some() {
            self.guard.see_end();
        }
    }
}

//! A standby: another instance of the service that is there for the duration of a run, and must
//! never outlive it.
//!
//! Its guard (`guard.rs`) starts it, and stops it when the line to the run ends: however the run
//! has come to its end, the kernel closes the line. The guard is a subreaper (prctl(2)): a daemon
//! whose parent has gone becomes its child, so that all that the command line has started stays
//! below it in the tree of processes, and is waited for. What others start on its behalf
//! (`systemctl start`, a container's daemon) is not in that tree: neither seen nor stopped.
//!
//! Should the guard itself be killed, the run stops what is left of its session; a daemon has left
//! that. Who kills both leaves the standby behind.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sys::signal::{SigSet, Signal};

use super::tree::{processes, signal_all};
use super::wire::{COMMAND, KILL_FOR, News, Order, Stop, Wire};
use crate::process::guard::{self, GuardProcess};
use crate::words::ended::CommandExit;

const NAME: &str = "gate-standby";

/// The run's side. If it is dropped without [`Standby::keep`], the guard stops the standby, and
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
}

impl Standby {
    /// Starts a command line of the user's by `sh -c` under a guard, in this environment, with the
    /// signal mask that we were started with. It reads nothing and prints to stderr. `grace` is the
    /// time between SIGTERM and SIGKILL, should it have to be stopped; in whole milliseconds.
    ///
    /// # Errors
    /// It, or its guard, can't be started; then nothing is left of it.
    pub fn start(
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
        grace: Duration,
    ) -> Result<Standby> {
        let program = Path::new(guard::OURSELVES);
        Standby::start_by(program, line, environment, mask, grace)
    }

    /// The same, with the guard's program: for tests, which are not syngate.
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
        };
        standby.begin().context(doing)?;
        Ok(standby)
    }

    /// A guard that dies before it has told of the standby may have started it.
    fn begin(&mut self) -> Result<()> {
        self.pid = match self.wire.news().inspect_err(|_| self.lose_guard())? {
            News::Started(pid) => pid,
            News::NotStarted(error) => bail!("sh can't be started: {}", error.desc()),
            other => bail!("it says {other:?}"),
        };
        Ok(self.wire.stream.set_nonblocking(true)?)
    }

    /// The process id of its shell.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What can be read when there is news of it; `None` once there will be none.
    pub fn news(&self) -> Option<BorrowedFd<'_>> {
        self.stop.is_none().then(|| self.wire.stream.as_fd())
    }

    /// How its shell has ended, if it has; does not wait. A command line that leaves daemons behind
    /// ends with status 0. Of a guard that was killed it is not known: as if SIGKILL had ended both.
    pub fn ended(&mut self) -> Option<CommandExit> {
        self.listen();
        self.ended
    }

    /// Whether all of it is gone, be it by itself or because it was stopped; does not wait.
    pub fn stopped(&mut self) -> Option<Stop> {
        self.listen();
        self.stop
    }

    /// Begins to stop it: SIGTERM to all of its processes, and after the time of grace SIGKILL. Does
    /// not wait: [`Standby::stopped`] tells.
    pub fn begin_stop(&mut self) {
        self.listen();
        self.order(Order::Stop);
        self.stop_unguarded();
    }

    /// It goes on without us, or whatever is left of it: the guard ends, which takes a moment.
    pub fn keep(mut self) {
        self.kept = true;
        self.order(Order::Keep);
    }

    /// A guard that cannot be told, whatever the reason, finds that we have hung up, and stops what it
    /// guards. If it is dead, `listen` hears of it.
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
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => self.lose_guard(),
            }
        }
    }

    fn lose_guard(&mut self) {
        self.unguarded = true;
        self.ended.get_or_insert(CommandExit::Signal(libc::SIGKILL));
        self.stop = Some(Stop {
            killed: false,
            left: true,
        });
    }

    /// The guard has not been waited for, so the session is still its own.
    fn stop_unguarded(&self) {
        if !self.unguarded {
            return;
        }
        let session = self.guard.pid();
        let mut killed = BTreeSet::new();
        // Whoever was killed may have started another one just before: the next look finds that.
        let until = Instant::now() + KILL_FOR;
        while Instant::now() < until {
            let all = processes().into_iter();
            let its = all.filter(|p| p.session == session).map(|p| p.pid);
            let new: Vec<i32> = its.filter(|pid| killed.insert(*pid)).collect();
            if new.is_empty() {
                return;
            }
            signal_all(&new, Signal::SIGKILL);
        }
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        if !self.kept {
            self.listen();
            self.stop_unguarded();
        }
        if self.kept || self.stop.is_some() {
            self.guard.see_end();
        }
    }
}

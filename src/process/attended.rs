//! The run's side of a guard that must not be missing. Now and then the run asks the guard whether it is there. If it
//! was killed, was stopped, or hangs, the run starts another one.

use std::cell::{Cell, RefCell};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::SigSet;

use crate::process::environment::as_exec_takes;
use crate::process::guard::{self, GuardCall, GuardProcess, START_TIMEOUT};
use crate::process::pulse::{Beat, Pulse};

/// The words between a run and its guard, a byte each.
pub(crate) mod word {
    /// The guard is ready.
    pub(crate) const READY: u8 = b'r';
    /// The run asks whether the guard is there.
    pub(crate) const ASKED: u8 = b'a';
    pub(crate) const HERE: u8 = b'h';
    /// The run is in the middle of work that takes long.
    pub(crate) const GOES_ON: u8 = b'g';
    /// The run has done the guard's work itself.
    pub(crate) const DISMISSED: u8 = b'd';
    /// The guard has done its work, since it took the run for dead.
    pub(crate) const ACTED: u8 = b'x';
}

/// What has become of a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    Killed,
    /// Somebody has stopped it, or it hangs.
    Silent,
    /// The guard took the run for dead, and has done its work.
    Acted,
}

impl Lost {
    /// A sentence about the guard with that name.
    pub(crate) fn words(self, name: &str) -> String {
        match self {
            Lost::Killed => format!("{name} was killed"),
            Lost::Silent => format!("{name} does not answer (did somebody stop it?)"),
            Lost::Acted => {
                format!("{name} has opened the gate: syngate hung, or somebody had stopped it")
            }
        }
    }

    /// The same, and what the run has done.
    pub(crate) fn told(self, name: &str) -> String {
        let words = self.words(name);
        match self {
            Lost::Acted => words,
            Lost::Killed | Lost::Silent => format!("{words}: syngate has started another one"),
        }
    }
}

/// How such a guard is called: as syngate itself, with all signals blocked.
pub(crate) struct Call<'a> {
    /// In ps(1).
    pub(crate) name: &'a str,
    /// The hidden command and its arguments.
    pub(crate) words: &'a [String],
    /// See [`GuardCall::files`].
    pub(crate) files: &'a [RawFd],
}

/// How often the run tells its guard that it goes on, while it can't ask.
pub(crate) const SHOWN_EVERY: Duration = Duration::from_millis(50);

/// The run's signs of life in the middle of work that takes long.
#[derive(Default)]
pub(crate) struct Life {
    line: RefCell<Weak<UnixStream>>,
    shown: Cell<Option<Instant>>,
}

impl Life {
    /// This guard hears them from now on.
    pub(crate) fn heard_by(&self, guard: &Attended) {
        *self.line.borrow_mut() = Rc::downgrade(&guard.line);
    }

    /// Where the time has come.
    pub(crate) fn show(&self) {
        let now = Instant::now();
        let is_early = |at: Instant| now < at + SHOWN_EVERY;
        if self.shown.get().is_some_and(is_early) {
            return;
        }
        self.shown.set(Some(now));
        if let Some(line) = self.line.borrow().upgrade() {
            // A guard that does not hear it is lost, which the run finds out when it asks.
            let _ = (&*line).write_all(&[word::GOES_ON]);
        }
    }
}

/// If the run drops it without [`Attended::dismiss`], the guard does its work.
pub(crate) struct Attended {
    process: GuardProcess,
    line: Rc<UnixStream>,
    pulse: Pulse,
    /// The guard is not ready yet.
    coming: Option<Coming>,
    /// What it said when it had done its work.
    last_words: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy)]
struct Coming {
    since: Instant,
    instead_of: Lost,
}

/// What the run sees of its guard.
enum Seen {
    Well,
    /// The guard is ready now, in the place of one that is lost.
    Ready(Lost),
    Lost(Lost),
}

impl Attended {
    /// Starts a guard, and waits until it is ready.
    ///
    /// # Errors
    /// The guard can't be started.
    pub(crate) fn start(call: &Call) -> io::Result<Attended> {
        Attended::start_beside(call, || ())
    }

    /// The same. Meanwhile the guard before may have to hear that the run goes on.
    pub(crate) fn start_beside(call: &Call, meanwhile: impl Fn()) -> io::Result<Attended> {
        let mut attended = Attended::launch(call)?;
        attended.wait_ready(meanwhile)?;
        Ok(attended)
    }

    fn launch(call: &Call) -> io::Result<Attended> {
        let words: Vec<&OsStr> = call.words.iter().map(OsStr::new).collect();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let (process, line) = guard::start(&GuardCall {
            program: Path::new(guard::OURSELVES),
            name: call.name,
            words: &words,
            environment: &as_exec_takes([(OsString::from("PATH"), path)]),
            mask: &SigSet::all(),
            files: call.files,
        })?;
        Ok(Attended {
            process,
            line: Rc::new(line),
            pulse: Pulse::new(Instant::now()),
            coming: None,
            last_words: None,
        })
    }

    fn wait_ready(&mut self, meanwhile: impl Fn()) -> io::Result<()> {
        await_ready(&self.line, Instant::now() + START_TIMEOUT, meanwhile)?;
        self.coming = None;
        self.line.set_nonblocking(true)
    }

    /// Whether it would do its work. Waits for one that has just been started.
    pub(crate) fn is_ready(&mut self) -> bool {
        let comes = self.coming.is_some();
        self.process.lives() && (!comes || self.wait_ready(|| ()).is_ok())
    }

    fn see(&mut self, now: Instant) -> Seen {
        if self.last_words.is_some() {
            return Seen::Well;
        }
        let mut word = [0];
        let heard = (&*self.line).read_exact(&mut word).is_ok();
        if let Some(Coming { since, instead_of }) = self.coming {
            if heard && word == [word::READY] {
                self.coming = None;
                self.pulse = Pulse::new(now);
                return Seen::Ready(instead_of);
            }
            return match self.process.lives() && now < since + START_TIMEOUT {
                true => Seen::Well,
                false => Seen::Lost(instead_of),
            };
        }
        if heard && word == [word::ACTED] {
            self.last_words = Some(self.rest());
            return Seen::Lost(Lost::Acted);
        }
        if heard && word == [word::HERE] {
            self.pulse.answered(now);
        }
        if !self.process.lives() {
            return Seen::Lost(Lost::Killed);
        }
        match self.pulse.beat(now) {
            Beat::Wait => Seen::Well,
            Beat::Ask => {
                // Should that fail, it has not answered in time.
                let _ = (&*self.line).write_all(&[word::ASKED]);
                Seen::Well
            }
            Beat::Missed => Seen::Lost(Lost::Silent),
        }
    }

    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // Until nothing is there, or the guard has ended.
        let _ = (&*self.line).read_to_end(&mut rest);
        rest
    }

    /// Puts another one in the place of a guard that is lost, and does not wait until that is ready.
    /// Returns why, once it is. One that has acted has no successor.
    ///
    /// # Errors
    /// There is none now, and `guard` is `None`.
    pub(crate) fn keep(
        guard: &mut Option<Attended>,
        name: &str,
        launch: impl FnOnce() -> io::Result<Attended>,
    ) -> Result<Option<Lost>> {
        let Some(present) = guard else {
            return Ok(None);
        };
        let now = Instant::now();
        let lost = match present.see(now) {
            Seen::Well => return Ok(None),
            Seen::Ready(lost) => return Ok(Some(lost)),
            Seen::Lost(Lost::Acted) => return Ok(Some(Lost::Acted)),
            Seen::Lost(lost) => lost,
        };
        // Before its line ends: it must not do its work for a run that lives.
        present.process.kill();
        let was_coming = present.coming.is_some();
        *guard = None;
        let doing = || format!("{}, and no other can be started", lost.words(name));
        anyhow::ensure!(!was_coming, doing());
        let mut another = launch().with_context(doing)?;
        another.coming = Some(Coming {
            since: now,
            instead_of: lost,
        });
        *guard = Some(another);
        Ok(None)
    }

    /// For [`Attended::keep`]: it comes, and nobody waits for it.
    ///
    /// # Errors
    /// The guard can't be started.
    pub(crate) fn come(call: &Call) -> io::Result<Attended> {
        let another = Attended::launch(call)?;
        another.line.set_nonblocking(true)?;
        Ok(another)
    }

    /// Does `work` in other processes. If the run is killed meanwhile, the guard waits until these
    /// processes have ended: they hold the run's end of the line, too.
    pub(crate) fn waits_for<T>(&self, work: impl FnOnce() -> T) -> T {
        let inherited = |flags| fcntl(&*self.line, FcntlArg::F_SETFD(flags));
        let _ = inherited(FdFlag::empty());
        let done = work();
        let _ = inherited(FdFlag::FD_CLOEXEC);
        done
    }

    /// Ends a guard whose work the run has done. Returns what the guard said if it has done that itself.
    pub(crate) fn dismiss(mut self) -> Option<Vec<u8>> {
        let _ = (&*self.line).write_all(&[word::DISMISSED]);
        let _ = self.line.shutdown(Shutdown::Write);
        self.process.see_end();
        let said = self.rest();
        let acted = said.iter().position(|word| *word == word::ACTED);
        let late = acted.map(|at| said[at + 1..].to_vec());
        self.last_words.or(late)
    }
}

/// Waits for the first word of a guard, and calls `meanwhile` now and then.
fn await_ready(mut line: &UnixStream, give_up: Instant, meanwhile: impl Fn()) -> io::Result<()> {
    let mut byte = [0];
    line.set_nonblocking(false)?;
    line.set_read_timeout(Some(SHOWN_EVERY))?;
    loop {
        match line.read_exact(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() >= give_up {
                    let late = format!("it was not ready within {START_TIMEOUT:?}");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, late));
                }
                meanwhile();
            }
            read => break read?,
        }
    }
    match byte == [word::READY] {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_a_guard_starts_the_one_before_may_be_told_that_the_run_goes_on() {
        let (run, guard) = UnixStream::pair().unwrap();
        let told = Cell::new(0);
        let tell = || {
            told.set(told.get() + 1);
            if told.get() == 2 {
                (&guard).write_all(&[word::READY]).unwrap();
            }
        };
        await_ready(&run, Instant::now() + START_TIMEOUT, tell).unwrap();
        assert_eq!(told.get(), 2);
        let late = await_ready(&run, Instant::now(), || ()).unwrap_err();
        assert_eq!(late.to_string(), "it was not ready within 5s");
        (&guard).write_all(&[word::HERE]).unwrap();
        let other = await_ready(&run, Instant::now(), || ()).unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_guard_hears_now_and_then_that_the_run_goes_on() {
        let (run, mut guard) = UnixStream::pair().unwrap();
        let run = Rc::new(run);
        let life = Life::default();
        life.show();
        *life.line.borrow_mut() = Rc::downgrade(&run);
        life.shown.set(None);
        (0..3).for_each(|_| life.show());
        drop(run);
        life.shown.set(None);
        life.show();
        let mut heard = Vec::new();
        guard.read_to_end(&mut heard).unwrap();
        assert_eq!(
            heard,
            [word::GOES_ON],
            "once in a while, and the line has ended"
        );
    }
}

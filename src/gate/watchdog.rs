//! The watchdog: a process that outlives the run by a moment. If the run is killed, it removes the rules
//! that the run has put into the kernel. A run needs one where the kernel does not remove the rules by
//! itself, and starts it before the first change.
//!
//! It holds one end of a line (a socket pair); the run holds the other. A byte from the run dismisses it.
//! The line's end without a byte means that the run is dead. The watchdog has a session of its own and
//! blocks all signals, so that a signal to the run's group does not end it, and it keeps no file of other
//! programs open. If something kills both (`kill -9` of the whole cgroup), the kernel still opens the gate
//! at the deadline.

use std::ffi::{CStr, OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::SigSet;

use super::backend::Deadline;
use super::kinds::Kind;
use crate::process::environment::as_exec_takes;
use crate::process::guard::{self, GuardProcess};

pub(crate) use crate::process::guard::{DISMISS_TIMEOUT, START_TIMEOUT};
/// How long after the deadline the watchdog removes the rules although the run lives: the run may hang,
/// or somebody may have stopped it.
pub(crate) const GRACE: Duration = Duration::from_millis(200);
/// If it can't remove the rules (somebody holds the lock of iptables), the watchdog tries again after
/// this time. The kernel has opened the gate by then.
pub(crate) const RETRY_EVERY: Duration = Duration::from_millis(100);
/// How long it goes on trying.
pub(crate) const RETRY_FOR: Duration = Duration::from_secs(300);
const READY: u8 = b'r';
const DISMISSED: u8 = b'd';

/// As ps(1) shows it. `pkill -9 syngate` must not find it.
const NAME: &str = "gate-watchdog";
const NAME_FOR_KERNEL: &CStr = c"gate-watchdog";

/// The hidden command of syngate that is a watchdog.
const COMMAND: &str = "watchdog";

/// What a run tells its watchdog, on its command line: `syngate watchdog KIND RUN MILLISECONDS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WatchOrders {
    /// The kind of backend that makes the rules.
    pub kind: Kind,
    /// The run's id.
    pub run: String,
    /// How long the watchdog waits for a word of the run.
    pub within: Duration,
}

impl WatchOrders {
    fn words(&self) -> [String; 4] {
        let ms = self.within.as_millis().to_string();
        [COMMAND, self.kind.name(), &self.run, &ms].map(str::to_owned)
    }

    /// Reads a command line, from the program's name on.
    pub(crate) fn parse(words: &[OsString]) -> Option<WatchOrders> {
        let words: Option<Vec<&str>> = words.iter().map(|word| word.to_str()).collect();
        let [_, COMMAND, kind, run, ms] = words?[..] else {
            return None;
        };
        Some(WatchOrders {
            kind: Kind::named(kind)?,
            run: run.to_owned(),
            within: Duration::from_millis(ms.parse().ok()?),
        })
    }
}

/// The run's side of it. If the run drops it without [`Watchdog::dismiss`], the watchdog removes the
/// rules.
pub(crate) struct Watchdog {
    process: GuardProcess,
    line: UnixStream,
}

impl Watchdog {
    /// Starts a watchdog that will erase run `id`'s rules, and waits until it watches.
    ///
    /// # Errors
    /// It can't be started; nothing was changed.
    pub(crate) fn start(kind: Kind, id: &str, until: Deadline) -> Result<Watchdog> {
        let doing =
            "the watchdog, which removes the rules should this process be killed, can't be started";
        let orders = WatchOrders {
            kind,
            run: id.to_owned(),
            within: until.saturating_duration_since(Instant::now()) + GRACE,
        };
        let words = orders.words();
        let words = words.each_ref().map(OsStr::new);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let call = guard::GuardCall {
            program: Path::new(guard::OURSELVES),
            name: NAME,
            words: &words,
            environment: &as_exec_takes([(OsString::from("PATH"), path)]),
            mask: &SigSet::all(),
        };
        let (process, line) = guard::start(&call).context(doing)?;
        let mut watchdog = Watchdog { process, line };
        watchdog.wait_ready().context(doing)?;
        Ok(watchdog)
    }

    fn wait_ready(&mut self) -> io::Result<()> {
        let mut byte = [0];
        self.line.read_exact(&mut byte)?;
        if byte != [READY] {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }

    /// Whether it still watches.
    pub(crate) fn lives(&mut self) -> bool {
        self.process.lives()
    }

    /// Does some work in other processes. If the run is killed meanwhile, the watchdog waits until these
    /// processes have ended: they hold the line too, and the watchdog must remove their rules as well.
    pub(crate) fn waits_for<T>(&self, work: impl FnOnce() -> T) -> T {
        let inherited = |flags| fcntl(&self.line, FcntlArg::F_SETFD(flags));
        let _ = inherited(FdFlag::empty());
        let done = work();
        let _ = inherited(FdFlag::FD_CLOEXEC);
        done
    }

    /// Ends the watchdog, once the rules are gone.
    pub(crate) fn dismiss(mut self) {
        let _ = self.line.write_all(&[DISMISSED]);
        drop(self.line);
        self.process.see_end();
    }
}

/// The watchdog's process, until the run is over. `erase` removes the run's rules.
pub(super) fn watch(within: Duration, mut erase: impl FnMut() -> Result<()>) {
    let Ok((mut line, _)) = guard::begin(NAME_FOR_KERNEL) else {
        return;
    };
    guard::stay();
    // If the run is dead already, it has changed nothing.
    if line.write_all(&[READY]).is_err() || dismissed(&mut line, within) {
        return;
    }
    let give_up = Instant::now() + RETRY_FOR;
    while erase().is_err() && Instant::now() < give_up {
        std::thread::sleep(RETRY_EVERY);
    }
}

/// Waits for the run's word. `false` if the run has ended without one, or says nothing in time.
fn dismissed(line: &mut UnixStream, within: Duration) -> bool {
    let mut byte = [0];
    // A timeout of zero would mean none.
    let timeout = within.max(Duration::from_millis(1));
    line.set_read_timeout(Some(timeout)).is_ok()
        && line.read_exact(&mut byte).is_ok()
        && byte == [DISMISSED]
}

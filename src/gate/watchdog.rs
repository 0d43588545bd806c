//! The watchdog: a process that outlives the run by a moment, to take away what the run has put
//! into the kernel, should the run be killed. Needed where the kernel does not do that by itself:
//! it is there before the first change.
//!
//! It holds one end of a pipe (a socket pair) of which the run holds the other. A byte through it
//! is a dismissal; its end without one means that the run is dead. It has a session of its own and
//! takes no signals, so that what ends the run does not end the watchdog, and it keeps no file of
//! anybody's. What kills both (`kill -9` of the whole cgroup) leaves the kernel's own deadline.

use std::ffi::{CStr, OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::SigSet;

use super::Deadline;
use super::choice::Kind;
use crate::process::environment::as_exec_takes;
use crate::process::guard::{self, GuardProcess};

pub(crate) use crate::process::guard::{DISMISS_TIMEOUT, START_TIMEOUT};
/// How long after the deadline it steps in even though the run lives: it may hang, or be stopped.
pub const GRACE: Duration = Duration::from_millis(200);
/// When the rules can't be removed (somebody holds the lock of iptables), it is tried again this
/// often, and for so long; the kernel has opened the gate by then.
pub const RETRY_EVERY: Duration = Duration::from_millis(100);
/// See [`RETRY_EVERY`].
pub const RETRY_FOR: Duration = Duration::from_secs(300);
const READY: u8 = b'r';
const DISMISSED: u8 = b'd';

/// As ps(1) shows it: not as what `pkill -9 syngate` would find.
const NAME: &str = "gate-watchdog";
const NAME_FOR_KERNEL: &CStr = c"gate-watchdog";

/// The hidden command that is a watchdog.
pub const COMMAND: &str = "watchdog";

/// The run's side of it. If it is dropped without [`Watchdog::dismiss`], the watchdog removes the
/// rules.
pub struct Watchdog {
    process: GuardProcess,
    line: UnixStream,
}

impl Watchdog {
    /// Starts one that will erase run `id`'s rules, and waits until it watches.
    ///
    /// # Errors
    /// It can't be started; nothing was changed.
    pub fn start(kind: Kind, id: &str, until: Deadline) -> Result<Watchdog> {
        let doing =
            "the watchdog, which removes the rules should this process be killed, can't be started";
        let left = until.saturating_duration_since(Instant::now()) + GRACE;
        let ms = left.as_millis().to_string();
        let words = [COMMAND, kind.name(), id, &ms].map(OsStr::new);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let call = guard::Call {
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
    pub fn lives(&mut self) -> bool {
        self.process.lives()
    }

    /// Does something whose processes keep the watchdog waiting until they have ended too, should the
    /// run be killed meanwhile: what they are about to change is to be removed as well.
    pub fn waits_for<T>(&self, work: impl FnOnce() -> T) -> T {
        let inherited = |flags| fcntl(&self.line, FcntlArg::F_SETFD(flags));
        let _ = inherited(FdFlag::empty());
        let done = work();
        let _ = inherited(FdFlag::FD_CLOEXEC);
        done
    }

    /// All is removed: it has nothing to do any more.
    pub fn dismiss(mut self) {
        let _ = self.line.write_all(&[DISMISSED]);
        drop(self.line);
        self.process.see_end();
    }
}

/// The watchdog itself, until the run is over.
pub fn watch(kind: Kind, id: &str, within: Duration) {
    let Ok((mut line, _)) = guard::begin(NAME_FOR_KERNEL) else {
        return;
    };
    guard::stay();
    // Nobody there any more: then nothing was changed either.
    if line.write_all(&[READY]).is_err() || dismissed(&mut line, within) {
        return;
    }
    let give_up = Instant::now() + RETRY_FOR;
    while kind.erase(id).is_err() && Instant::now() < give_up {
        std::thread::sleep(RETRY_EVERY);
    }
}

/// Waits for the run to say that all is well; `false` if it has ended without a word, or says
/// nothing within its time.
fn dismissed(line: &mut UnixStream, within: Duration) -> bool {
    let mut byte = [0];
    // A timeout of zero would be none.
    let timeout = within.max(Duration::from_millis(1));
    line.set_read_timeout(Some(timeout)).is_ok()
        && line.read_exact(&mut byte).is_ok()
        && byte == [DISMISSED]
}

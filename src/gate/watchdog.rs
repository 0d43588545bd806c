//! The watchdog process, which outlives the run by a moment. If the run is killed, the watchdog
//! removes the run's rules from the kernel. A run needs one where the kernel does not remove the
//! rules by itself, and starts it before the first change.
//!
//! The watchdog holds one end of a socket pair, and the run the other. A byte from the run
//! dismisses it. The end of the stream without a byte means that the run is dead. The watchdog has
//! its own session and blocks all signals, so that a signal to the run's group does not end it. It
//! keeps no inherited file open. If something kills both (`kill -9` of the whole cgroup), the
//! kernel still opens the gate at the deadline.

use std::ffi::{CStr, OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};

use super::backend::Deadline;
use super::kinds::Kind;
use crate::kernel::sys;
use crate::process::environment::as_exec_takes;
use crate::process::guard::{self, GuardProcess};

pub(crate) use crate::process::guard::{DISMISS_TIMEOUT, START_TIMEOUT};
/// How long after the deadline the watchdog removes the rules although the run lives: the run may
/// hang, or somebody may have stopped it.
pub(crate) const GRACE: Duration = Duration::from_millis(200);
/// Interval between attempts to remove the rules (another process may hold the xtables lock). The
/// kernel has opened the gate by then.
pub(crate) const RETRY_EVERY: Duration = Duration::from_millis(100);
/// How long it keeps trying.
pub(crate) const RETRY_FOR: Duration = Duration::from_secs(300);
const READY: u8 = b'r';
const DISMISSED: u8 = b'd';

/// The name in ps(1), so that `pkill -9 syngate` does not find it.
const NAME: &str = "gate-watchdog";
const NAME_FOR_KERNEL: &CStr = c"gate-watchdog";

/// The hidden command of the watchdog process.
const COMMAND: &str = "watchdog";

/// The orders of a run to its watchdog, on the command line: `syngate watchdog KIND RUN
/// MILLISECONDS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WatchOrders {
    pub kind: Kind,
    pub run: String,
    /// How long the watchdog waits for a byte from the run.
    pub within: Duration,
}

impl WatchOrders {
    fn words(&self) -> [String; 4] {
        let ms = self.within.as_millis().to_string();
        [COMMAND, self.kind.name(), &self.run, &ms].map(str::to_owned)
    }

    /// Parses a command line that begins with the program's name.
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

/// The run's side. If the run drops it without [`Watchdog::dismiss`], the watchdog removes the
/// rules.
pub(crate) struct Watchdog {
    process: GuardProcess,
    line: UnixStream,
}

impl Watchdog {
    /// Starts a watchdog for the rules of run `id`, and waits until it is ready.
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

    pub(crate) fn lives(&mut self) -> bool {
        self.process.lives()
    }

    /// Puts another one in the place of a watchdog that has ended. Returns whether it did.
    ///
    /// # Errors
    /// It can't be started, and `watchdog` is `None`.
    pub(crate) fn keep(
        watchdog: &mut Option<Watchdog>,
        kind: Kind,
        id: &str,
        until: Deadline,
    ) -> Result<bool> {
        if watchdog.as_mut().is_none_or(Watchdog::lives) {
            return Ok(false);
        }
        *watchdog = None;
        *watchdog = Some(Watchdog::start(kind, id, until)?);
        Ok(true)
    }

    /// Does `work` in other processes. If the run is killed meanwhile, the watchdog waits until
    /// these processes have ended, and then removes their rules as well. They hold the run's end of
    /// the socket pair too.
    pub(crate) fn waits_for<T>(&self, work: impl FnOnce() -> T) -> T {
        let inherited = |flags| fcntl(&self.line, FcntlArg::F_SETFD(flags));
        let _ = inherited(FdFlag::empty());
        let done = work();
        let _ = inherited(FdFlag::FD_CLOEXEC);
        done
    }

    /// Ends the watchdog after the rules were removed.
    pub(crate) fn dismiss(mut self) {
        let _ = self.line.write_all(&[DISMISSED]);
        drop(self.line);
        self.process.see_end();
    }
}

/// Runs the watchdog until the run is over. `erase` removes the run's rules.
pub(super) fn watch(within: Duration, mut erase: impl FnMut() -> Result<()>) {
    let Ok((mut line, _)) = guard::begin(NAME_FOR_KERNEL) else {
        return;
    };
    guard::stay();
    // iptables ends its wait for the lock by an alarm, and inherits the signal mask.
    sys::ignore_but_leave_to_children(Signal::SIGALRM);
    // If the run is dead already, it has changed nothing.
    if line.write_all(&[READY]).is_err() || dismissed(&mut line, within) {
        return;
    }
    let give_up = Instant::now() + RETRY_FOR;
    while erase().is_err() && Instant::now() < give_up {
        std::thread::sleep(RETRY_EVERY);
    }
}

/// Waits for the run's byte. `false`: the stream ended without one, or none came in time.
fn dismissed(line: &mut UnixStream, within: Duration) -> bool {
    let mut byte = [0];
    // A timeout of zero would mean no timeout.
    let timeout = within.max(Duration::from_millis(1));
    line.set_read_timeout(Some(timeout)).is_ok()
        && line.read_exact(&mut byte).is_ok()
        && byte == [DISMISSED]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::command_line::os_words;

    #[test]
    fn it_is_called_in_one_way() {
        let parse = |call: &[&str]| WatchOrders::parse(&os_words(call));
        let orders = WatchOrders {
            kind: Kind::Nft,
            run: "0123456789abcdef".to_owned(),
            within: Duration::from_millis(1_500),
        };
        let call = ["syngate", "watchdog", "nft", "0123456789abcdef", "1500"];
        assert_eq!(parse(&call), Some(orders));
        for call in [
            &["syngate"][..],
            &["syngate", "watchdog"],
            &["syngate", "watchdog", "pf", "0123456789abcdef", "1500"],
            &["syngate", "watchdog", "nft", "0123456789abcdef", "soon"],
            &["watchdog", "nft", "0123456789abcdef", "1500"],
        ] {
            assert_eq!(parse(call), None, "{call:?}");
        }
    }
}

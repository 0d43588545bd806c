//! The watchdog process, which outlives the run by a moment. If the run is killed, the watchdog
//! removes the run's rules from the kernel. A run needs one where the kernel does not remove the
//! rules by itself, and starts it before the first change.
//!
//! The watchdog holds one end of a socket pair, and the run the other. By a byte the run asks whether
//! it is there, or dismisses it. The end of the stream without that means that the run is dead. The
//! watchdog has its own session and blocks all signals, so that a signal to the run's group does not end
//! it. It keeps no inherited file open. If something kills both (`kill -9` of the whole cgroup), the
//! kernel still opens the gate at the deadline.

use std::ffi::{CStr, OsString};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

use super::backend::Deadline;
use super::kinds::Kind;
use crate::kernel::sys;
use crate::process::attended::{Attended, Call, word};
use crate::process::guard::{self, Heard};
use crate::process::pulse::PULSE_EVERY;

pub(crate) use crate::process::guard::{DISMISS_TIMEOUT, START_TIMEOUT};
/// How long after the deadline the watchdog removes the rules although the run lives: the run may
/// hang, or somebody may have stopped it.
pub(crate) const GRACE: Duration = Duration::from_millis(200);
/// Interval between attempts to remove the rules (another process may hold the xtables lock). The
/// kernel has opened the gate by then.
pub(crate) const RETRY_EVERY: Duration = Duration::from_millis(100);
/// How long it keeps trying.
pub(crate) const RETRY_FOR: Duration = Duration::from_secs(300);
/// What messages call it.
const SHOWN: &str = "the watchdog";
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
pub(crate) struct Watchdog(Attended);

impl Watchdog {
    /// Starts a watchdog for the rules of run `id`, and waits until it is ready.
    ///
    /// # Errors
    /// The watchdog can't be started; nothing was changed.
    pub(crate) fn start(kind: Kind, id: &str, until: Deadline) -> Result<Watchdog> {
        called(kind, id, until, Attended::start)
            .map(Watchdog)
            .context(
                "syngate can't start the watchdog, which removes the rules if syngate is killed",
            )
    }

    /// Whether it would remove the rules. Waits for one that has just been started.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.0.is_ready()
    }

    /// Puts another one in the place of a watchdog that is lost, and does not wait until that is ready.
    /// Returns why, once it is.
    ///
    /// # Errors
    /// There is none now, and `watchdog` is `None`.
    pub(crate) fn keep(
        watchdog: &mut Option<Watchdog>,
        kind: Kind,
        id: &str,
        until: Deadline,
    ) -> Result<Option<String>> {
        let mut attended = watchdog.take().map(|watchdog| watchdog.0);
        let kept = Attended::keep(&mut attended, SHOWN, || {
            called(kind, id, until, Attended::come)
        });
        *watchdog = attended.map(Watchdog);
        Ok(kept?.map(|lost| lost.told(SHOWN)))
    }

    /// Does `work` in other processes. If the run is killed meanwhile, the watchdog waits until
    /// these processes have ended, and then removes their rules as well.
    pub(crate) fn waits_for<T>(watchdog: Option<&Watchdog>, work: impl FnOnce() -> T) -> T {
        match watchdog {
            Some(Watchdog(attended)) => attended.waits_for(work),
            None => work(),
        }
    }

    /// Ends the watchdog after the rules were removed.
    pub(crate) fn dismiss(self) {
        let _ = self.0.dismiss();
    }
}

fn called(
    kind: Kind,
    id: &str,
    until: Deadline,
    start: impl FnOnce(&Call) -> io::Result<Attended>,
) -> io::Result<Attended> {
    let orders = WatchOrders {
        kind,
        run: id.to_owned(),
        within: until.saturating_duration_since(Instant::now()) + GRACE,
    };
    start(&Call {
        name: NAME,
        words: &orders.words(),
        files: &[],
    })
}

/// Runs the watchdog until the run is over. `erase` removes the run's rules.
pub(super) fn watch(within: Duration, mut erase: impl FnMut() -> Result<()>) {
    let run = getppid();
    let Ok((mut line, _)) = guard::begin(NAME_FOR_KERNEL, &[]) else {
        return;
    };
    guard::stay();
    // iptables ends its wait for the lock by an alarm, and inherits the signal mask.
    sys::ignore_but_leave_to_children(Signal::SIGALRM);
    // If the run is dead already, it has changed nothing.
    if line.write_all(&[word::READY]).is_err() {
        return;
    }
    let mut end = attend(&mut line, Instant::now() + within, run);
    let give_up = Instant::now() + RETRY_FOR;
    if end == End::Orphaned {
        let _ = erase();
        while end == End::Orphaned && Instant::now() < give_up {
            end = attend(&mut line, give_up, run);
        }
    }
    if end == End::Dismissed {
        return;
    }
    while erase().is_err() && Instant::now() < give_up {
        std::thread::sleep(RETRY_EVERY);
    }
}

/// How the watchdog's wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The run has removed its rules.
    Dismissed,
    /// The run is dead, or has not opened in time.
    Deserted,
    /// The run is dead, and a program that changes its rules is not.
    Orphaned,
}

/// Answers the run until it ends.
fn attend(line: &mut UnixStream, until: Instant, run: Pid) -> End {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return End::Deserted;
        }
        match guard::await_word(line, left.min(PULSE_EVERY)) {
            Heard::Word(word::ASKED) => drop(line.write_all(&[word::HERE])),
            Heard::Word(word::DISMISSED) => return End::Dismissed,
            Heard::Word(_) | Heard::TheEnd => return End::Deserted,
            Heard::Nothing if getppid() != run => return End::Orphaned,
            Heard::Nothing => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::command_line::os_words;

    /// A folder's file can't be waited for, and can't be read.
    #[test]
    fn a_line_that_can_t_be_read_is_no_end_of_the_run() {
        let folder = std::fs::File::open("/").unwrap();
        let mut line = UnixStream::from(std::os::fd::OwnedFd::from(folder));
        let until = Instant::now() + Duration::from_millis(50);
        assert_eq!(attend(&mut line, until, getppid()), End::Deserted);
        assert!(Instant::now() >= until, "it took the run for dead");
    }

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

//! The watchdog: a process that outlives the run by a moment, to take away what the run has put
//! into the kernel, should the run be killed. Needed where the kernel does not do that by itself:
//! it is there before the first change.
//!
//! It holds one end of a pipe (a socket pair) of which the run holds the other. A byte through it
//! is a dismissal; its end without one means that the run is dead. It has a session of its own and
//! takes no signals, so that what ends the run does not end the watchdog, and it keeps no file of
//! anybody's. What kills both (`kill -9` of the whole cgroup) leaves the kernel's own deadline.

use std::ffi::CStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::SigSet;

use super::Deadline;
use super::choice::Kind;

/// How long the watchdog may take to be there.
pub const START_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a dismissed watchdog may take to be gone, before it is killed; and how often that is
/// looked at.
pub const DISMISS_TIMEOUT: Duration = Duration::from_secs(1);
const DISMISS_LOOK: Duration = Duration::from_millis(1);
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
    process: Child,
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
        let (line, its_end) = UnixStream::pair().context(doing)?;
        let its_end: OwnedFd = its_end.into();
        let left = until.saturating_duration_since(Instant::now()) + GRACE;
        let process = Command::new("/proc/self/exe")
            .arg0(NAME)
            .args([COMMAND, kind.name(), id, &left.as_millis().to_string()])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir("/")
            .stdin(its_end)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context(doing)?;
        let mut watchdog = Watchdog { process, line };
        watchdog.wait_ready().context(doing)?;
        Ok(watchdog)
    }

    fn wait_ready(&mut self) -> io::Result<()> {
        self.line.set_read_timeout(Some(START_TIMEOUT))?;
        let mut byte = [0];
        self.line.read_exact(&mut byte)?;
        if byte != [READY] {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }

    /// Whether it still watches.
    pub fn lives(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
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
        // Somebody may have stopped it.
        let until = Instant::now() + DISMISS_TIMEOUT;
        while matches!(self.process.try_wait(), Ok(None)) {
            if Instant::now() >= until {
                let _ = self.process.kill();
                let _ = self.process.wait();
            }
            std::thread::sleep(DISMISS_LOOK);
        }
    }
}

/// The watchdog itself, until the run is over.
pub fn watch(kind: Kind, id: &str, within: Duration) {
    SigSet::all().thread_block().ok();
    let _ = nix::sys::prctl::set_name(NAME_FOR_KERNEL);
    // Refused to whom leads a process group: then nobody's terminal is ours anyway.
    let _ = nix::unistd::setsid();
    close_what_is_not_ours();
    // As long as anything else can be killed instead; not permitted to everyone.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let Ok(mut line) = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map(UnixStream::from)
    else {
        return;
    };
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

/// Whoever started the run may wait for the end of a pipe of its own.
fn close_what_is_not_ours() {
    const FIRST: RawFd = 3;
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd >= FIRST) {
        let _ = nix::unistd::close(fd);
    }
}

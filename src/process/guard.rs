//! Guards: processes of ours that outlive the run by a moment, to do what has to be done should it
//! be killed. The watchdog is one (`gate::watchdog`), that of a standby another (`standby`); here is
//! what they have in common.
//!
//! A guard holds one end of a line (a socket pair) of which the run holds the other: the line's end
//! without a word means that the run is dead. It has a session of its own and takes no signals, so
//! that what ends the run does not end the guard, and it keeps no file of anybody's.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::process::child::{Child, Place, With};

/// The program that this process runs, also when its file was replaced meanwhile.
pub(crate) const OURSELVES: &str = "/proc/self/exe";

/// How long a guard may take to be there.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a guard whose work is done may take to be gone, before it is killed; and how often that
/// is looked at.
pub(crate) const DISMISS_TIMEOUT: Duration = Duration::from_secs(1);
const DISMISS_LOOK: Duration = Duration::from_millis(1);

/// How a guard is called.
pub(crate) struct Call<'a> {
    /// The file of syngate.
    pub(crate) program: &'a Path,
    /// As ps(1) shows it: not as what `pkill -9 syngate` would find.
    pub(crate) name: &'a str,
    /// The hidden command and its arguments.
    pub(crate) words: &'a [&'a OsStr],
    /// Its environment.
    pub(crate) environment: &'a [CString],
    /// The signal mask that it is started with, and learns from [`begin`].
    pub(crate) mask: &'a SigSet,
}

/// A guard's process, as the run sees it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    over: bool,
}

impl Process {
    /// Whether it is still there.
    pub(crate) fn lives(&mut self) -> bool {
        // Asked no more once it was waited for: the pid may be another child's.
        self.over = self.over || !self.child.lives();
        !self.over
    }

    /// Waits until it is gone: its work is done.
    pub(crate) fn see_end(&mut self) {
        let until = Instant::now() + DISMISS_TIMEOUT;
        while self.lives() {
            // Somebody may have stopped it.
            if Instant::now() >= until {
                self.child.signal(libc::SIGKILL);
            }
            std::thread::sleep(DISMISS_LOOK);
        }
    }

    /// Its process id, and that of its session.
    pub(crate) fn pid(&self) -> i32 {
        self.child.pid()
    }
}

/// Starts a guard. To read from the run's end of the line takes at most [`START_TIMEOUT`].
///
/// # Errors
/// It can't be started.
pub(crate) fn start(call: &Call) -> io::Result<(Process, UnixStream)> {
    let (line, its_end) = UnixStream::pair()?;
    let argv: Vec<_> = [OsStr::new(call.name)]
        .iter()
        .chain(call.words)
        .map(Into::into)
        .collect();
    let with = With {
        environment: call.environment,
        mask: call.mask,
        place: Place::OwnSession,
        files: &[(its_end.as_raw_fd(), libc::STDIN_FILENO)],
    };
    let child = Child::spawn_file(call.program, &argv, &with)?;
    line.set_read_timeout(Some(START_TIMEOUT))?;
    Ok((Process { child, over: false }, line))
}

/// The first that a guard does. Its end of the line comes back, and the signal mask that it was
/// started with. Of all files it has only stderr yet.
///
/// # Errors
/// The system has no file descriptor left.
pub(crate) fn begin(name: &CStr) -> io::Result<(UnixStream, SigSet)> {
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let _ = nix::sys::prctl::set_name(name);
    close_what_is_not_ours();
    let line = io::stdin().as_fd().try_clone_to_owned()?;
    let null = null()?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok((line.into(), mask))
}

/// The second: whatever it is not to pass on to processes that it has started before.
pub(crate) fn stay() {
    // Whose terminal it is, whose pipe: they may wait for its end.
    let _ = null().map(dup2_stderr);
    // No file system is kept busy.
    let _ = std::env::set_current_dir("/");
    // As long as anything else can be killed instead; not permitted to everyone.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
}

fn null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
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

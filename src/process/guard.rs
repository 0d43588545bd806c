//! Guards: processes of syngate that outlive the run by a moment, and tidy up if the run was killed.
//! This is what the watchdog of a gate and the guard of a standby have in common.
//!
//! A guard holds one end of a line (a socket pair), and the run holds the other. When the line ends
//! without a word, the run is dead. A guard has a session of its own and takes no signals, so that what
//! ends the run does not end the guard. It keeps no file that others may wait for.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::time::TimeSpec;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::process::child::{Child, Launch, ProcessGroup};
use crate::process::files::open_files;

/// The program that this process runs, even if its file has been replaced meanwhile.
pub(crate) const OURSELVES: &str = "/proc/self/exe";

/// How long a guard may take to start.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a guard may take to end when its work is done. Then the run kills it.
pub(crate) const DISMISS_TIMEOUT: Duration = Duration::from_secs(1);
const DISMISS_LOOK: Duration = Duration::from_millis(1);
/// How long a guard waits when its line can't be read, before it tries again.
const UNREADABLE_PAUSE: Duration = Duration::from_millis(10);

pub(crate) struct GuardCall<'a> {
    pub(crate) program: &'a Path,
    /// What ps(1) shows: another name than that of syngate, so that `pkill -9 syngate` does not find it.
    pub(crate) name: &'a str,
    /// The hidden command and its arguments.
    pub(crate) words: &'a [&'a OsStr],
    pub(crate) environment: &'a [CString],
    /// The signal mask that the guard is started with. [`begin`] returns it.
    pub(crate) mask: &'a SigSet,
    /// Descriptors that it has under the same numbers, if it tells [`begin`] of them.
    pub(crate) files: &'a [RawFd],
}

#[derive(Debug)]
pub(crate) struct GuardProcess {
    child: Child,
}

impl GuardProcess {
    pub(crate) fn lives(&self) -> bool {
        self.child.lives()
    }

    /// Ends one that does nothing any more.
    pub(crate) fn kill(&self) {
        self.child.signal(libc::SIGKILL);
    }

    /// Has one go on that somebody has stopped.
    pub(crate) fn resume(&self) {
        self.child.signal(libc::SIGCONT);
    }

    /// Waits for the end of a guard whose work is done. A guard that SIGKILL does not end hangs in the
    /// kernel, and is left there.
    pub(crate) fn see_end(&self) {
        let until = Instant::now() + DISMISS_TIMEOUT;
        while self.lives() {
            let now = Instant::now();
            // A signal may have stopped the guard.
            if now >= until {
                self.kill();
            }
            if now >= until + DISMISS_TIMEOUT {
                return;
            }
            std::thread::sleep(DISMISS_LOOK);
        }
    }

    /// Also the id of its session.
    pub(crate) fn pid(&self) -> i32 {
        self.child.pid()
    }
}

/// Starts a guard, and returns the run's end of the line. Reads from that end take [`START_TIMEOUT`] at
/// most.
pub(crate) fn start(call: &GuardCall) -> io::Result<(GuardProcess, UnixStream)> {
    let (line, guards_end) = UnixStream::pair()?;
    let argv: Vec<_> = [OsStr::new(call.name)]
        .iter()
        .chain(call.words)
        .map(Into::into)
        .collect();
    let files = call.files.iter().map(|fd| (*fd, *fd));
    let files: Vec<_> = files
        .chain([(guards_end.as_raw_fd(), libc::STDIN_FILENO)])
        .collect();
    let launch = Launch {
        group: ProcessGroup::OwnSession,
        files: &files,
        ..Launch::new(call.environment, call.mask)
    };
    let child = Child::spawn_file(call.program, &argv, &launch)?;
    line.set_read_timeout(Some(START_TIMEOUT))?;
    Ok((GuardProcess { child }, line))
}

/// The first step of a guard: blocks all signals, and closes all files but stderr, its end of the line and
/// those to `keep`. Returns that end, and the signal mask that the guard was started with.
pub(crate) fn begin(name: &CStr, keep: &[RawFd]) -> io::Result<(UnixStream, SigSet)> {
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let _ = nix::sys::prctl::set_name(name);
    close_all_but(keep);
    let line = io::stdin().as_fd().try_clone_to_owned()?;
    let null = null()?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok((line.into(), mask))
}

/// The second step of a guard. It comes after the guard has started other processes, since these do not
/// inherit what it changes.
pub(crate) fn stay() {
    // Others may wait for the end of the terminal or the pipe.
    let _ = null().map(dup2_stderr);
    // A working directory would keep its file system busy.
    let _ = std::env::set_current_dir("/");
    // The kernel kills other processes first when it runs out of memory. Not everyone may ask for that.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
}

/// What a guard has read from its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Word(u8),
    Nothing,
    /// The run is dead.
    TheEnd,
}

/// Waits for a word of the run, for so long at most.
pub(crate) fn await_word(line: &UnixStream, within: Duration) -> Heard {
    let mut fds = [PollFd::new(line.as_fd(), PollFlags::POLLIN)];
    match ppoll(&mut fds, Some(TimeSpec::from(within)), None) {
        Ok(0) => Heard::Nothing,
        Ok(_) => read_word(line),
        Err(_) => nothing_after_a_pause(),
    }
}

/// Reads a word that has come. An error of this process's own says nothing about the run: a guard that
/// took it for the run's death would open the gate of a run that lives.
pub(crate) fn read_word(mut line: &UnixStream) -> Heard {
    let mut word = [0];
    match line.read(&mut word) {
        Ok(0) => Heard::TheEnd,
        Ok(_) => Heard::Word(word[0]),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Heard::TheEnd,
        Err(_) => nothing_after_a_pause(),
    }
}

fn nothing_after_a_pause() -> Heard {
    std::thread::sleep(UNREADABLE_PAUSE);
    Heard::Nothing
}

fn null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

/// The caller of the run may wait for the end of a pipe that this process has inherited.
fn close_all_but(keep: &[RawFd]) {
    for fd in open_files().into_iter().filter(|fd| !keep.contains(fd)) {
        let _ = nix::unistd::close(fd);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn a_line_that_ends_is_told_from_one_that_can_t_be_read() {
        let soon = Duration::from_millis(1);
        // A child that another test has just forked holds copies of the line until its execve(2).
        let until_closed = Duration::from_secs(10);
        let (mut run, line) = UnixStream::pair().unwrap();
        assert_eq!(await_word(&line, soon), Heard::Nothing);
        run.write_all(b"a").unwrap();
        assert_eq!(await_word(&line, soon), Heard::Word(b'a'));
        drop(run);
        assert_eq!(await_word(&line, until_closed), Heard::TheEnd);
        let (run, line) = UnixStream::pair().unwrap();
        // The run has died before it read this.
        (&line).write_all(b"h").unwrap();
        drop(run);
        assert_eq!(await_word(&line, until_closed), Heard::TheEnd);
        let folder = UnixStream::from(OwnedFd::from(File::open("/").unwrap()));
        assert_eq!(await_word(&folder, soon), Heard::Nothing);
    }
}

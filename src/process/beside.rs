//! A command line that runs beside the run, most often the user's: `--ready-check`,
//! `--listen-netns-from`; or a process that asks `--ready-url`.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

use super::ask::Ask;
use super::child::{Child, Launch, ProcessGroup, SH, shell_words};
use super::guard::OURSELVES;
use crate::words::ended::CommandExit;
use crate::words::ready::ReadyUrl;

/// How much to read of what such a line prints.
const ANSWER_MAX: usize = 4096;

/// It has a process group of its own. If it has not ended when this is dropped, the whole group is
/// killed.
#[derive(Debug)]
pub(crate) struct Beside {
    child: Child,
    answer: Option<File>,
}

impl Beside {
    /// Starts a line that prints to stderr. `pass`: the `cgroup.procs` of the control group that it joins.
    pub(crate) fn line(
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
        pass: Option<OwnedFd>,
    ) -> Result<Beside, Errno> {
        Beside::in_shell(line, environment, mask, pass, None)
    }

    /// The same, but what it prints, to stdout or stderr, is kept for [`Beside::output`].
    pub(crate) fn check(
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
        pass: Option<OwnedFd>,
    ) -> Result<Beside, Errno> {
        let output = memfd_create(c"output", MFdFlags::MFD_CLOEXEC)?;
        Beside::in_shell(line, environment, mask, pass, Some(output.into()))
    }

    fn in_shell(
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
        pass: Option<OwnedFd>,
        output: Option<File>,
    ) -> Result<Beside, Errno> {
        // A process that writes 0 there moves itself (cgroups(7)). If it may not, the check waits as others do.
        let before = match pass {
            Some(_) => "echo 0 2>/dev/null\nexec </dev/null >&2\n",
            None => "exec </dev/null >&2\n",
        };
        let words = shell_words(before, line);
        let stdout = pass.as_ref().map(as_stdout);
        let stderr = output
            .as_ref()
            .map(|file| (file.as_raw_fd(), libc::STDERR_FILENO));
        let files: Vec<_> = stdout.into_iter().chain(stderr).collect();
        Ok(Beside {
            child: start(SH, &words, environment, mask, &files)?,
            answer: output,
        })
    }

    /// Starts a process that asks this URL once. `mark`: that of its sockets. `pass`: as of [`Beside::check`].
    pub(crate) fn ask_url(
        url: &ReadyUrl,
        mark: u32,
        environment: &[CString],
        mask: &SigSet,
        pass: Option<OwnedFd>,
    ) -> Result<Beside, Errno> {
        let answer = memfd_create(c"answer", MFdFlags::MFD_CLOEXEC)?;
        let entrance = pass.as_ref().map(|pass| pass.as_raw_fd());
        let ask = Ask {
            url: url.clone(),
            mark,
            entrance,
        };
        let entrance = entrance.map(|fd| (fd, fd)).into_iter();
        let files = entrance.chain([as_stdout(&answer)]);
        let files: Vec<_> = files.collect();
        Ok(Beside {
            child: start(OURSELVES, &ask.words(), environment, mask, &files)?,
            answer: Some(answer.into()),
        })
    }

    /// Starts a line whose output is kept for [`Beside::answer`]. It goes to a file in memory: nobody would
    /// empty a pipe while the line runs.
    pub(crate) fn ask(
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
    ) -> Result<Beside, Errno> {
        let words = shell_words("exec </dev/null\n", line);
        let answer = memfd_create(c"answer", MFdFlags::MFD_CLOEXEC)?;
        Ok(Beside {
            child: start(SH, &words, environment, mask, &[as_stdout(&answer)])?,
            answer: Some(answer.into()),
        })
    }

    /// How it ended, if it has. Told once.
    pub(crate) fn ended(&self) -> Option<CommandExit> {
        self.child.ended()
    }

    /// The first line of its output, trimmed.
    pub(crate) fn answer(&self) -> String {
        first_line(&self.output())
    }

    /// The beginning of its output, so far. Where it is read does not change where the line writes.
    pub(crate) fn output(&self) -> Vec<u8> {
        self.output_up_to(ANSWER_MAX)
    }

    /// The same, of so many bytes at most.
    pub(crate) fn output_up_to(&self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; most];
        let read = self.answer.as_ref().map(|file| file.read_at(&mut bytes, 0));
        bytes.truncate(read.and_then(Result::ok).unwrap_or_default());
        bytes
    }

    pub(crate) fn child(&self) -> &Child {
        &self.child
    }

    /// Kills the whole group, unless the line has ended, and waits for the end of the line: for at most `within`.
    pub(crate) fn kill(&self, within: Duration) {
        self.kill_group();
        let is_over = || self.child.is_over();
        self.child.wait(Instant::now() + within, is_over);
    }

    fn kill_group(&self) {
        // The group is still its own, because nobody has waited for it.
        if !self.child.is_over() {
            let _ = killpg(Pid::from_raw(self.child.pid()), Signal::SIGKILL);
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.kill_group();
    }
}

fn as_stdout(file: &OwnedFd) -> (RawFd, RawFd) {
    (file.as_raw_fd(), libc::STDOUT_FILENO)
}

/// `files`: as of [`Launch`].
fn start(
    program: &str,
    words: &[OsString],
    environment: &[CString],
    mask: &SigSet,
    files: &[(RawFd, RawFd)],
) -> Result<Child, Errno> {
    let launch = Launch {
        group: ProcessGroup::Own,
        dies_with_parent: true,
        files,
        ..Launch::new(environment, mask)
    };
    Child::spawn_file(Path::new(program), words, &launch)
}

fn first_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// What holds for any output of a command.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) -> String {
    let answer = first_line(bytes);
    assert!(answer.lines().count() <= 1 && answer.trim() == answer);
    answer
}

//! A command line of the user's that runs beside the run: `--ready-check`, `--listen-netns-from`.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

use super::child::{Child, Launch, ProcessGroup, SH, shell_words};
use crate::words::ended::CommandExit;

/// How much to read of what `--listen-netns-from` prints.
const ANSWER_MAX: u64 = 4096;

/// It has a process group of its own. If it has not ended when this is dropped, the whole group is
/// killed.
#[derive(Debug)]
pub(crate) struct Beside {
    child: Child,
    answer: Option<File>,
}

impl Beside {
    /// Starts a line that prints to stderr.
    pub(crate) fn check(
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
    ) -> Result<Beside, Errno> {
        let words = shell_words("exec </dev/null >&2\n", line);
        Beside::start(&words, environment, mask, None)
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
        Beside::start(&words, environment, mask, Some(answer.into()))
    }

    fn start(
        words: &[OsString],
        environment: &[CString],
        mask: &SigSet,
        answer: Option<File>,
    ) -> Result<Beside, Errno> {
        let stdout = answer
            .as_ref()
            .map(|file| (file.as_raw_fd(), libc::STDOUT_FILENO));
        let launch = Launch {
            group: ProcessGroup::Own,
            files: stdout.as_slice(),
            ..Launch::new(environment, mask)
        };
        Ok(Beside {
            child: Child::spawn_file(Path::new(SH), words, &launch)?,
            answer,
        })
    }

    /// How it ended, if it has. Told once.
    pub(crate) fn ended(&self) -> Option<CommandExit> {
        self.child.ended()
    }

    /// The first line of its output, trimmed.
    pub(crate) fn answer(&mut self) -> String {
        let mut bytes = Vec::new();
        if let Some(file) = &mut self.answer {
            let read = file.rewind();
            let _ = read.and_then(|()| file.take(ANSWER_MAX).read_to_end(&mut bytes));
        }
        first_line(&bytes)
    }

    pub(crate) fn child(&self) -> &Child {
        &self.child
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // The group is still its own, because nobody has waited for it.
        if !self.child.is_over() {
            let _ = killpg(Pid::from_raw(self.child.pid()), Signal::SIGKILL);
        }
    }
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

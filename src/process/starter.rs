//! The process that becomes COMMAND, started before the gate closes.
//!
//! So the run learns whether COMMAND can be started at all (RLIMIT_NPROC) while nothing is gated. Until
//! then it is syngate, called with a hidden command: a child of the run, with the files, the environment
//! and the limits that COMMAND gets. It ends if the run ends first.

use std::ffi::{CStr, CString, OsString};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::SigSet;
use nix::unistd::execv;

use crate::kernel::sys;
use crate::process::child::{Child, Launch, PATIENCE, SH, c_string, for_sh, line};
use crate::process::guard::OURSELVES;
use crate::words::exit::{NOT_EXECUTABLE, NOT_FOUND};

/// The name in ps(1) until it is COMMAND.
const NAME: &str = "gate-command";
const NAME_FOR_KERNEL: &CStr = c"gate-command";
/// The hidden command.
const COMMAND: &str = "become";
const READY: u8 = b'r';
const GO: u8 = b'g';

#[derive(Debug)]
pub(crate) struct Starter {
    /// With its line. `None`: it becomes COMMAND.
    child: Option<(Child, UnixStream)>,
}

impl Starter {
    /// # Errors
    /// EAGAIN: no further process may be started (RLIMIT_NPROC). ENOENT: no /proc. ECHILD: it has not
    /// become ready within `patience`, and was killed.
    pub(crate) fn start(
        program: &Path,
        argv: &[OsString],
        environment: &[CString],
        mask: &SigSet,
        patience: Duration,
    ) -> Result<Starter, Errno> {
        let (line, theirs) = line()?;
        let fd = theirs.as_raw_fd();
        let mut words: Vec<OsString> = [NAME, COMMAND].map(OsString::from).into();
        words.extend([fd.to_string().into(), program.into()]);
        words.extend_from_slice(argv);
        let launch = Launch {
            files: &[(fd, fd)],
            ..Launch::new(environment, mask)
        };
        let child = Child::spawn_file(Path::new(OURSELVES), &words, &launch)?;
        // Before it is ready it may die in its own start-up. That must not look like COMMAND's end.
        let mut word = [0];
        let _ = line.set_read_timeout(Some(patience));
        drop(theirs);
        if (&line).read_exact(&mut word).is_err() || word != [READY] {
            child.signal(nix::libc::SIGKILL);
            return Err(Errno::ECHILD);
        }
        let _ = line.set_read_timeout(None);
        Ok(Starter {
            child: Some((child, line)),
        })
    }

    /// `None`: somebody has killed it.
    pub(crate) fn pid(&self) -> Option<i32> {
        let (child, _) = self.child.as_ref()?;
        child.lives().then(|| child.pid())
    }

    /// Lets it become COMMAND. `None`: somebody has killed it.
    ///
    /// # Errors
    /// The kernel does not execute COMMAND's file.
    pub(crate) fn go(mut self) -> Option<Result<Child, Errno>> {
        let (child, mut line) = self.child.take()?;
        if !child.lives() || line.write_all(&[GO]).is_err() {
            return None;
        }
        // Somebody may have stopped it.
        child.signal(nix::libc::SIGCONT);
        Some(match child.expects(line, PATIENCE) {
            Some(refusal) => Err(refusal),
            None => Ok(child),
        })
    }
}

/// A starter that somebody has stopped does not notice that its line ends.
impl Drop for Starter {
    fn drop(&mut self) {
        if let Some((child, _)) = &self.child {
            child.signal(nix::libc::SIGKILL);
        }
    }
}

/// What the hidden command line `gate-command become FD PROGRAM ARGV…` asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Become {
    fd: i32,
    program: OsString,
    argv: Vec<OsString>,
}

impl Become {
    pub(crate) fn parse(words: &[OsString]) -> Option<Become> {
        let [_, command, fd, program, argv @ ..] = words else {
            return None;
        };
        if command != COMMAND || argv.is_empty() {
            return None;
        }
        Some(Become {
            fd: fd.to_str()?.parse().ok()?,
            program: program.clone(),
            argv: argv.to_vec(),
        })
    }

    /// Waits for the run's word, and becomes COMMAND. Comes back if the run has ended, or returns the
    /// exit status of a shell if the kernel does not execute the file.
    pub(crate) fn carry_out(&self) -> u8 {
        let Some(mut line) = sys::inherited(self.fd).map(UnixStream::from) else {
            return NOT_EXECUTABLE;
        };
        let _ = fcntl(&line, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        let _ = nix::sys::prctl::set_name(NAME_FOR_KERNEL);
        let mut word = [0];
        if line.write_all(&[READY]).is_err() {
            return NOT_EXECUTABLE;
        }
        if line.read_exact(&mut word).is_err() || word != [GO] {
            return NOT_EXECUTABLE;
        }
        let refusal = self.execute();
        let _ = line.write_all(&(refusal as i32).to_ne_bytes());
        match refusal {
            Errno::ENOENT => NOT_FOUND,
            _ => NOT_EXECUTABLE,
        }
    }

    fn execute(&self) -> Errno {
        sys::have_callers_dispositions();
        let program = Path::new(&self.program);
        match execute(program, &self.argv) {
            Errno::ENOEXEC => match for_sh(program, &self.argv) {
                Some(words) => execute(Path::new(SH), &words),
                None => Errno::ENOEXEC,
            },
            refusal => refusal,
        }
    }
}

/// Comes back with the reason if the kernel refuses.
fn execute(program: &Path, argv: &[OsString]) -> Errno {
    let argv: Result<Vec<CString>, Errno> = argv.iter().map(|word| c_string(word)).collect();
    let executed = c_string(program.as_os_str()).and_then(|file| execv(&file, &argv?));
    let Err(refusal) = executed;
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::command_line::os_words;

    #[test]
    fn it_is_called_in_one_way() {
        let parse = |call: &[&str]| Become::parse(&os_words(call));
        let expected = Become {
            fd: 7,
            program: "/bin/sh".into(),
            argv: ["sh", "-c", ""].map(OsString::from).into(),
        };
        let call = ["gate-command", "become", "7", "/bin/sh", "sh", "-c", ""];
        assert_eq!(parse(&call), Some(expected));
        for call in [
            &["gate-command"][..],
            &["gate-command", "become"],
            &["gate-command", "become", "7", "/bin/sh"],
            &["gate-command", "become", "x", "/bin/sh", "sh"],
            &["syngate", "watchdog", "7", "/bin/sh", "sh"],
        ] {
            assert_eq!(parse(call), None, "{call:?}");
        }
    }
}

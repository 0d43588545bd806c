//! COMMAND, and the precheck: starting them as our caller would have, and waiting for them.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cli::ENV_PREFIX;
use crate::lock::LOCK_DIR_VARIABLE;
use crate::step::CommandExit;

/// The run that COMMAND is part of; runs inside runs are listed outermost first.
pub const RUN_VARIABLE: &str = "SYNGATE_RUN";

/// A process that was started and not yet waited for.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
}

impl Child {
    /// Starts `program` with `argv`, in our process group, with our files (all of ours are
    /// close-on-exec), the signal mask that we were started with, and SIGPIPE as it was then.
    ///
    /// # Errors
    /// What execve(2) or fork(2) says. As for execvp(3), a script without `#!` goes to sh.
    pub fn spawn(
        program: &Path,
        argv: &[OsString],
        environment: &[CString],
        mask: &SigSet,
    ) -> Result<Child, Errno> {
        let c_string = |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| Errno::EINVAL);
        let file = c_string(program.as_os_str())?;
        let argv: Vec<CString> = argv
            .iter()
            .map(|arg| c_string(arg))
            .collect::<Result<_, _>>()?;
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_sigmask(mask)?;
        let mut flags = PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK;
        if !crate::sys::ignored_at_exec(Signal::SIGPIPE) {
            attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
            flags |= PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF;
        }
        attributes.set_flags(flags)?;
        let files = PosixSpawnFileActions::init()?;
        // The path has a slash in it, so PATH is not searched.
        let pid = posix_spawnp(&file, &files, &attributes, &argv, environment)?;
        Ok(Child { pid })
    }

    /// Starts a command line of the user's by `sh -c`.
    ///
    /// # Errors
    /// As for [`Child::spawn`].
    pub fn shell(line: &OsStr, environment: &[CString], mask: &SigSet) -> Result<Child, Errno> {
        let argv = ["sh".into(), "-c".into(), line.to_owned()];
        Child::spawn(Path::new("/bin/sh"), &argv, environment, mask)
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<CommandExit> {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => Some(CommandExit::Code(status as u8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(CommandExit::Signal(signal as i32)),
            _ => None,
        }
    }

    /// Sends it a signal. It has not been waited for, so the pid is still its own.
    pub fn signal(&self, signal: i32) {
        if let Ok(signal) = Signal::try_from(signal) {
            let _ = kill(self.pid, signal);
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }
}

/// Our environment without what is meant for us alone, and with the run's id. The lock directory
/// is kept: a run inside this one has to find the same locks.
pub fn environment(run: &str) -> Vec<CString> {
    let runs = match std::env::var(RUN_VARIABLE) {
        Ok(outer) if !outer.is_empty() => format!("{outer}:{run}"),
        _ => run.to_owned(),
    };
    std::env::vars_os()
        .filter(|(name, _)| {
            !name.as_bytes().starts_with(ENV_PREFIX.as_bytes()) || name == LOCK_DIR_VARIABLE
        })
        .chain([(RUN_VARIABLE.into(), runs.into())])
        .filter_map(|(name, value)| {
            let mut pair = name.into_vec();
            pair.push(b'=');
            pair.extend(value.into_vec());
            CString::new(pair).ok()
        })
        .collect()
}

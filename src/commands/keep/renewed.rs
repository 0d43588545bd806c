//! A keep becomes the program that is installed now, as after an upgrade (SIGUSR1): the process stays, and its arguments.
//! It leaves the rooms to their guard, and the new program takes them over, as the next keep does.

use std::env::args_os;
use std::ffi::CString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::{Context, Error, Result};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, execv};

use crate::kernel::room::known::guards;
use crate::process::ancestry::parent;
use crate::process::executable::executable;

/// Why a keep stands by no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Signalled,
    Renewed,
}

/// Returns why it could not. Signals stay blocked: one that comes meanwhile is for the new program to read.
pub(super) fn become_installed() -> Error {
    match execute() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// The guards that the program before has started are children of this process, and have no other parent.
pub(super) struct Inherited(Vec<Pid>);

impl Inherited {
    pub(super) fn find() -> Inherited {
        let me = std::process::id() as i32;
        let is_child = |pid: &i32| parent(*pid) == Some(me);
        let guards = guards().into_iter().map(|guard| guard.pid);
        Inherited(guards.filter(is_child).map(Pid::from_raw).collect())
    }

    /// Those that have ended leave nothing.
    pub(super) fn reap(&mut self) {
        let lives = |guard: &Pid| {
            let status = waitpid(*guard, Some(WaitPidFlag::WNOHANG));
            status == Ok(WaitStatus::StillAlive)
        };
        self.0.retain(lives);
    }
}

fn execute() -> Result<std::convert::Infallible> {
    // /proc/self/exe itself is the program from before.
    let program = executable(std::process::id() as i32);
    let program = program.context("/proc does not tell which file it is")?;
    let path = CString::new(program.as_os_str().as_bytes())?;
    let arguments: Vec<CString> = args_os()
        .map(|word| CString::new(word.into_vec()))
        .collect::<Result<_, _>>()?;
    execv(&path, &arguments).with_context(|| program.display().to_string())
}

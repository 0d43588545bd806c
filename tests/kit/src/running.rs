use std::{
    fs,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Output},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use crate::wait::wait_until;

const SOON: Duration = Duration::from_secs(5);

/// A command that runs on a host in the background, killed on drop.
///
/// The child of the test is `nsenter`; signals are for the command itself.
#[derive(Debug)]
pub struct Running {
    nsenter: Option<Child>,
}

impl Running {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let nsenter = command.spawn().with_context(|| format!("{command:?}"))?;
        Ok(Self {
            nsenter: Some(nsenter),
        })
    }

    fn child(&mut self) -> &mut Child {
        self.nsenter.as_mut().expect("taken only by what ends us")
    }

    /// The command's pid as seen from outside; an error if it is over.
    pub fn pid(&mut self) -> Result<u32> {
        let nsenter = self.child();
        let mut found = None;
        wait_until(SOON, "the command to be executed", || {
            found = entered(nsenter.id());
            found.is_some() || !matches!(nsenter.try_wait(), Ok(None))
        })?;
        found.context("the command is over")
    }

    /// Sends a signal to the command.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid()?.try_into()?);
        signal::kill(pid, signal).with_context(|| format!("{signal} to {pid}"))?;
        // `nsenter` stops when its child does, and has to go on with it, or to see its end.
        match signal {
            Signal::SIGSTOP => self.wait_stopped(),
            Signal::SIGCONT | Signal::SIGKILL => {
                Ok(signal::kill(self.nsenter_pid()?, Signal::SIGCONT)?)
            }
            _ => Ok(()),
        }
    }

    fn wait_stopped(&mut self) -> Result<()> {
        let stat = format!("/proc/{}/stat", self.nsenter_pid()?);
        wait_until(SOON, "the command to be stopped", || {
            fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "))
        })
    }

    fn nsenter_pid(&mut self) -> Result<Pid> {
        Ok(Pid::from_raw(self.child().id().try_into()?))
    }

    /// Whether it hasn't ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// Waits for its end: its exit status, or the signal that it died from.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child().wait()?)
    }

    /// Waits for its end and collects what it wrote to the pipes it was given.
    pub fn output(mut self) -> Result<Output> {
        let nsenter = self.nsenter.take().expect("taken only here");
        Ok(nsenter.wait_with_output()?)
    }

    /// Its stdin, if that was piped; once.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child().stdin.take()
    }

    /// Its stdout, if that was piped; once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child().stdout.take()
    }

    /// Its stderr, if that was piped; once.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.child().stderr.take()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.nsenter.is_none() {
            return;
        }
        // `nsenter` ends with its child, and reaps it. A process that inherited the child might take its time, and no
        // host is gone before all of its processes are reaped.
        if self.signal(Signal::SIGKILL).is_err() {
            let _ = self.child().kill();
        }
        let _ = self.child().wait();
    }
}

/// The pid of what `nsenter` runs, once it is no longer a copy of `nsenter`.
fn entered(nsenter: u32) -> Option<u32> {
    let children = format!("/proc/{nsenter}/task/{nsenter}/children");
    let pid = fs::read_to_string(children).ok()?.trim().parse().ok()?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim_end() != "nsenter").then_some(pid)
}

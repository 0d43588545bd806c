//! A program of iptables while it runs.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::SigSet;

use super::failures::Hung;
use crate::process::child::{Child, Launch};
use crate::process::environment::as_exec_takes;
use crate::process::meanwhile::Meanwhile;
use crate::words::ended::CommandExit;

/// When a signal ends a look that goes on.
pub(crate) const LONG: Duration = Duration::from_millis(500);
/// How long to wait for the end of one that was killed.
const KILLED_WITHIN: Duration = Duration::from_millis(100);

/// It inherits syngate's signal mask, so that Ctrl-C does not interrupt a change. It ends with syngate,
/// since nobody would undo what it changes later, and when this is dropped.
pub(super) struct Running {
    program: PathBuf,
    child: Child,
    began: Instant,
    within: Duration,
    /// How it has ended, as a wait has seen it.
    seen: Option<CommandExit>,
    stdout: File,
    stderr: File,
    meanwhile: Meanwhile,
}

/// What a program has printed, and how it has ended.
pub(super) struct Output {
    pub(super) exit: CommandExit,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Running {
    /// Starts it, and does not wait. It is killed after `within`.
    ///
    /// # Errors
    /// The program can't be run.
    pub(super) fn start(
        program: &Path,
        arguments: &[&str],
        input: &str,
        within: Duration,
    ) -> Result<Running> {
        let start = || -> Result<Running> {
            let (mut stdin, stdout, stderr) = (in_memory()?, in_memory()?, in_memory()?);
            stdin.write_all(input.as_bytes())?;
            stdin.rewind()?;
            let words = [program.as_os_str()].into_iter();
            let words = words.chain(arguments.iter().map(OsStr::new));
            let words: Vec<OsString> = words.map(OsStr::to_owned).collect();
            let files = [&stdin, &stdout, &stderr].map(AsRawFd::as_raw_fd);
            let child = Child::spawn_file(
                program,
                &words,
                &Launch {
                    files: &[(files[0], 0), (files[1], 1), (files[2], 2)],
                    dies_with_parent: true,
                    patience: Duration::ZERO,
                    ..Launch::new(&in_english(), &SigSet::thread_get_mask()?)
                },
            )?;
            Ok(Running {
                program: program.to_owned(),
                child,
                began: Instant::now(),
                within,
                seen: None,
                stdout,
                stderr,
                meanwhile: Meanwhile::default(),
            })
        };
        start().with_context(|| cant_run(program))
    }

    /// Each wait for it does that work.
    pub(super) fn beside(mut self, meanwhile: &Meanwhile) -> Running {
        self.meanwhile = meanwhile.clone();
        self
    }

    /// `None`: it runs on. Told once.
    ///
    /// # Errors
    /// [`Hung`]: it was killed. The kernel has refused to execute it, or its output can't be read.
    pub(super) fn ended(&mut self) -> Option<Result<Output>> {
        match self.seen.take().or_else(|| self.child.ended()) {
            Some(exit) => Some(self.output(exit).with_context(|| cant_run(&self.program))),
            None if self.began.elapsed() >= self.within => Some(Err(self.kill())),
            None => None,
        }
    }

    /// Waits for its end, or kills it when `stop` says so after [`LONG`].
    ///
    /// # Errors
    /// As of [`Running::ended`].
    pub(super) fn wait(mut self, stop: impl Fn() -> bool) -> Result<Output> {
        loop {
            if let Some(output) = self.ended() {
                return output;
            }
            if self.began.elapsed() >= LONG && stop() {
                return Err(self.kill());
            }
            self.wait_a_moment();
        }
    }

    /// Waits for its end, but not for long.
    pub(super) fn wait_a_moment(&mut self) {
        const MOMENT: Duration = Duration::from_millis(10);
        self.seen = self.child.wait(Instant::now() + MOMENT, || false);
        self.meanwhile.work();
    }

    fn output(&mut self, exit: CommandExit) -> Result<Output> {
        if let Some(refusal) = self.child.refusal() {
            return Err(refusal.into());
        }
        Ok(Output {
            exit,
            stdout: all_of(&mut self.stdout)?,
            stderr: all_of(&mut self.stderr)?,
        })
    }

    fn kill(&self) -> anyhow::Error {
        self.child.kill(KILLED_WITHIN);
        anyhow!(Hung).context(self.program.display().to_string())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill(KILLED_WITHIN);
    }
}

fn cant_run(program: &Path) -> String {
    format!("{} can't be run", program.display())
}

/// The environment, with messages that this folder can read.
fn in_english() -> Vec<CString> {
    const LANGUAGE: &str = "LC_ALL";
    let inherited = std::env::vars_os().filter(|(name, _)| name != LANGUAGE);
    as_exec_takes(inherited.chain([(LANGUAGE.into(), "C".into())]))
}

/// A file in memory instead of a pipe. So neither process has to read before the other can go on, and syngate only
/// waits for the program's end. (`Command::output` panics if reading from a pipe fails.)
fn in_memory() -> io::Result<File> {
    Ok(File::from(memfd_create("iptables", MFdFlags::MFD_CLOEXEC)?))
}

fn all_of(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleep(within: Duration) -> Running {
        Running::start(Path::new("/bin/sleep"), &["60"], "", within).unwrap()
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let began = Instant::now();
        let error = sleep(Duration::from_millis(50)).wait(|| false);
        assert!(error.is_err_and(|error| error.is::<Hung>()));
        let error = sleep(LONG * 20).wait(|| true);
        assert!(error.is_err_and(|error| error.is::<Hung>()));
        assert!(began.elapsed() < LONG * 10);
    }

    #[test]
    fn nobody_waits_for_one_that_goes_on() {
        let began = Instant::now();
        let mut running = sleep(LONG * 20);
        assert!(running.ended().is_none());
        let pid = running.child.pid();
        drop(running);
        assert!(began.elapsed() < LONG * 10);
        assert!(!Path::new("/proc").join(pid.to_string()).exists());
    }

    #[test]
    fn what_the_kernel_does_not_execute_is_named() {
        let running = Running::start(Path::new("/no/such-save"), &[], "", LONG);
        let error = running.and_then(|running| running.wait(|| false));
        let said = format!("{:#}", error.err().unwrap());
        assert!(said.starts_with("/no/such-save can't be run: "), "{said}");
    }
}

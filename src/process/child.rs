//! COMMAND, the precheck, and what runs beside: starting them as our caller would have, and waiting
//! for them.

use std::cell::Cell;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::{Pid, getpgid, getpgrp, getpid, getsid};

use crate::words::ended::{CommandExit, Sender};
use crate::words::env::ENV_PREFIX;
use crate::words::env::LOCK_DIR_VARIABLE;
use crate::words::env::RUN_VARIABLE;

const SH: &str = "/bin/sh";
/// Of what `--listen-netns-from` prints so much is read.
const ANSWER_MAX: u64 = 4096;

/// A process that was started and not yet waited for.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
}

impl Child {
    /// Starts `program` with `argv`, in our process group, with our files (all of ours are
    /// close-on-exec), the signal mask that we were started with, and SIGPIPE as it was then.
    ///
    /// # Errors
    /// What execve(2) or fork(2) says.
    pub(crate) fn spawn(
        program: &Path,
        argv: &[OsString],
        environment: &[CString],
        mask: &SigSet,
    ) -> Result<Child, Errno> {
        let with = With::no_files(environment, mask, Place::Ours);
        match Child::spawn_file(program, argv, &with) {
            // A script without `#!` goes to sh, as from a shell and by execvp(3).
            Err(Errno::ENOEXEC) if !is_binary(program) => {
                let words = ["sh".into(), program.into()];
                let words: Vec<OsString> = words.into_iter().chain(argv[1..].to_vec()).collect();
                Child::spawn_file(Path::new(SH), &words, &with)
            }
            spawned => spawned,
        }
    }

    /// Starts `program`, whose path has a slash in it.
    ///
    /// # Errors
    /// As for [`Child::spawn`].
    pub(crate) fn spawn_file(
        program: &Path,
        argv: &[OsString],
        with: &With,
    ) -> Result<Child, Errno> {
        let c_string = |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| Errno::EINVAL);
        let file = c_string(program.as_os_str())?;
        let argv: Vec<CString> = argv
            .iter()
            .map(|arg| c_string(arg))
            .collect::<Result<_, _>>()?;
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_sigmask(with.mask)?;
        let mut flags = PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK;
        if !crate::kernel::sys::ignored_at_exec(Signal::SIGPIPE) {
            attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
            flags |= PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF;
        }
        match with.place {
            Place::Ours => (),
            Place::OwnGroup => {
                attributes.set_pgroup(Pid::from_raw(0))?;
                flags |= PosixSpawnFlags::POSIX_SPAWN_SETPGROUP;
            }
            // The nix crate has no name for it.
            Place::OwnSession => {
                flags |= PosixSpawnFlags::from_bits_retain(libc::POSIX_SPAWN_SETSID.into());
            }
        }
        attributes.set_flags(flags)?;
        let mut files = PosixSpawnFileActions::init()?;
        for (ours, its) in with.files {
            files.add_dup2(*ours, *its)?;
        }
        // The path has a slash in it, so PATH is not searched.
        let pid = posix_spawnp(&file, &files, &attributes, &argv, with.environment)?;
        Ok(Child { pid })
    }

    /// Starts a command line of the user's by `sh -c`. It reads nothing and prints to stderr: stdin
    /// and stdout are COMMAND's.
    ///
    /// # Errors
    /// As for [`Child::spawn`].
    pub(crate) fn shell(
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
    ) -> Result<Child, Errno> {
        Child::shell_in(Place::Ours, line, environment, mask)
    }

    /// The same, in that place.
    ///
    /// # Errors
    /// As for [`Child::spawn`].
    pub(crate) fn shell_in(
        place: Place,
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
    ) -> Result<Child, Errno> {
        let with = With::no_files(environment, mask, place);
        let words = shell_words("exec </dev/null >&2\n", line);
        Child::spawn_file(Path::new(SH), &words, &with)
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&self) -> Option<CommandExit> {
        crate::kernel::sys::ended(self.pid).ok().flatten().map(exit)
    }

    /// Whether it is still there, and has not been waited for.
    pub(crate) fn lives(&self) -> bool {
        matches!(crate::kernel::sys::ended(self.pid), Ok(None))
    }

    /// Who has heard of a signal of ours. What the terminal sends goes to its foreground process
    /// group, so to the child as well, unless it has left our group; but when the terminal hangs up,
    /// only the session's leader is told (kernel: `disassociate_ctty()`, `__tty_hangup()`).
    pub(crate) fn hears_of(&self, signal: i32, sender: Sender) -> Sender {
        let own_group = getpgid(Some(self.pid)).is_ok_and(|group| group != getpgrp());
        let leader_only = signal == libc::SIGHUP && getsid(None).is_ok_and(|s| s == getpid());
        match sender {
            Sender::Terminal if own_group || leader_only => Sender::TerminalToUs,
            sender => sender,
        }
    }

    /// Sends it a signal. It has not been waited for, so the pid is still its own.
    pub(crate) fn signal(&self, signal: i32) {
        if let Ok(signal) = Signal::try_from(signal) {
            let _ = kill(self.pid, signal);
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }
}

/// What the status that wait(2) gives says.
pub(crate) fn exit(status: libc::c_int) -> CommandExit {
    if libc::WIFSIGNALED(status) {
        CommandExit::Signal(libc::WTERMSIG(status))
    } else {
        CommandExit::Code(libc::WEXITSTATUS(status) as u8)
    }
}

/// How a child is started.
pub(crate) struct With<'a> {
    pub(crate) environment: &'a [CString],
    pub(crate) mask: &'a SigSet,
    pub(crate) place: Place,
    /// Which of our files it has as which of its own, besides those that are inherited.
    pub(crate) files: &'a [(RawFd, RawFd)],
}

impl<'a> With<'a> {
    /// With no files but those that are inherited.
    fn no_files(environment: &'a [CString], mask: &'a SigSet, place: Place) -> With<'a> {
        With {
            environment,
            mask,
            place,
            files: &[],
        }
    }
}

/// Where a child belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Our process group.
    Ours,
    /// A process group of its own, in our session.
    OwnGroup,
    /// A session of its own: what the terminal sends does not reach it.
    OwnSession,
}

fn shell_words(redirections: &str, line: &OsStr) -> [OsString; 3] {
    let mut script = OsString::from(redirections);
    script.push(line);
    ["sh".into(), "-c".into(), script]
}

/// A command line of the user's that runs beside everything else, in a process group of its own. If
/// it has not ended when this is dropped, all of the group is killed.
#[derive(Debug)]
pub(crate) struct Beside {
    child: Child,
    ended: Cell<bool>,
    answer: Option<File>,
}

impl Beside {
    /// Starts it; what it prints goes to stderr.
    ///
    /// # Errors
    /// As for [`Child::spawn`].
    pub(crate) fn check(
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
    ) -> Result<Beside, Errno> {
        let words = shell_words("exec </dev/null >&2\n", line);
        Beside::start(&words, environment, mask, None)
    }

    /// Starts it; what it prints is kept. Not in a pipe: nobody would empty that while it runs.
    ///
    /// # Errors
    /// As for [`Child::spawn`].
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
        let with = With {
            environment,
            mask,
            place: Place::OwnGroup,
            files: stdout.as_slice(),
        };
        Ok(Beside {
            child: Child::spawn_file(Path::new(SH), words, &with)?,
            ended: Cell::new(false),
            answer,
        })
    }

    /// How it ended, if it has: told once.
    pub(crate) fn ended(&self) -> Option<CommandExit> {
        let exit = self.child.ended()?;
        self.ended.set(true);
        Some(exit)
    }

    /// The first line of what it has printed, without blanks around.
    pub(crate) fn answer(&mut self) -> String {
        let mut bytes = Vec::new();
        if let Some(file) = &mut self.answer {
            let read = file.rewind();
            let _ = read.and_then(|()| file.take(ANSWER_MAX).read_to_end(&mut bytes));
        }
        first_line(&bytes)
    }

    /// The process that was started.
    pub(crate) fn child(&self) -> &Child {
        &self.child
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It has not been waited for, so the group is still its own.
        if !self.ended.get() {
            let _ = killpg(self.child.pid, Signal::SIGKILL);
        }
    }
}

fn first_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// Whether the file is not text: shells look for a NUL byte in its beginning.
fn is_binary(file: &Path) -> bool {
    const LOOKED_AT: usize = 128;
    let mut beginning = Vec::new();
    let read = std::fs::File::open(file)
        .and_then(|file| file.take(LOOKED_AT as u64).read_to_end(&mut beginning));
    read.is_err() || beginning.contains(&0)
}

/// Our environment without what is meant for us alone, and with the run's id. The lock directory
/// is kept: a run inside this one has to find the same locks, also from another directory.
pub(crate) fn environment(run: &str) -> Vec<CString> {
    handed_on(std::env::vars_os().collect(), run)
}

fn handed_on(ours: Vec<(OsString, OsString)>, run: &str) -> Vec<CString> {
    let named = |wanted: &str| ours.iter().find(|(name, _)| name == wanted);
    let outer = named(RUN_VARIABLE).map_or("", |(_, runs)| runs.to_str().unwrap_or_default());
    let runs = runs(outer, run);
    let lock_directory = named(LOCK_DIR_VARIABLE)
        .filter(|(_, directory)| !directory.is_empty())
        .and_then(|(_, directory)| std::path::absolute(directory).ok())
        .map(|directory| (LOCK_DIR_VARIABLE.into(), directory.into()));
    let variables = ours
        .into_iter()
        .filter(|(name, _)| !name.as_bytes().starts_with(ENV_PREFIX.as_bytes()))
        .chain([(RUN_VARIABLE.into(), runs.into())])
        .chain(lock_directory);
    as_exec_takes(variables)
}

/// Variables as execve(2) takes them.
pub(crate) fn as_exec_takes(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<CString> {
    let pair = |(name, value): (OsString, OsString)| {
        let mut pair = name.into_vec();
        pair.push(b'=');
        pair.extend(value.into_vec());
        CString::new(pair).ok()
    };
    variables.into_iter().filter_map(pair).collect()
}

/// The runs that this one is inside, outermost first, and itself. A service that restarts itself
/// through syngate inherits its own past: only the last ones can still be there.
fn runs(outer: &str, run: &str) -> String {
    const KEPT: usize = 8;
    let mut ids: Vec<&str> = outer.split(':').filter(|id| !id.is_empty()).collect();
    ids.push(run);
    ids[ids.len().saturating_sub(KEPT)..].join(":")
}

/// What holds in any environment (names and values, with a NUL behind each variable): a run's COMMAND has
/// its id, and nothing else that is ours but the lock directory.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand_environment(bytes: &[u8]) {
    let variables = bytes.split(|byte| *byte == 0);
    let variables = variables.filter_map(|variable| {
        let at = variable.iter().position(|byte| *byte == b'=')?;
        let name = [ENV_PREFIX.as_bytes(), &variable[..at]].concat();
        let value = variable[at + 1..].to_vec();
        Some((OsString::from_vec(name), OsString::from_vec(value)))
    });
    let environment = handed_on(variables.collect(), "0123456789abcdef");
    let all = environment.iter().map(|pair| pair.as_bytes());
    let (mut runs, mut locks) = (0, 0);
    for pair in all.filter(|pair| pair.starts_with(ENV_PREFIX.as_bytes())) {
        match pair.strip_prefix(b"SYNGATE_RUN=") {
            Some(ids) => {
                assert!(ids.ends_with(b"0123456789abcdef"));
                runs += 1;
            }
            None => {
                assert!(pair.starts_with(b"SYNGATE_LOCK_DIR=/"));
                locks += 1;
            }
        }
    }
    assert!(runs == 1 && locks <= 1);
}

/// What holds for whatever a command answers.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand_answer(bytes: &[u8]) -> String {
    let answer = first_line(bytes);
    assert!(answer.lines().count() <= 1 && answer.trim() == answer);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::{Bus, Netlink};

    /// By inode: other tests, which run meanwhile, have sockets of their own.
    #[test]
    fn a_program_inherits_no_netlink_socket() {
        let buses = [Bus::SockDiag, Bus::Netfilter, Bus::Route];
        let sockets = buses.map(|bus| Netlink::open(bus).unwrap());
        let answer = memfd_create(c"answer", MFdFlags::MFD_CLOEXEC).unwrap();
        let mut answer = File::from(answer);
        let (mask, environment) = (SigSet::empty(), environment("0123456789abcdef"));
        let with = With {
            files: &[(answer.as_raw_fd(), libc::STDOUT_FILENO)],
            ..With::no_files(&environment, &mask, Place::Ours)
        };
        let words = shell_words("", OsStr::new("ls -l /proc/self/fd"));
        let child = Child::spawn_file(Path::new(SH), &words, &with).unwrap();
        let status = nix::sys::wait::waitpid(child.pid, None).unwrap();
        assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child.pid, 0));
        let mut files = String::new();
        answer.rewind().unwrap();
        answer.read_to_string(&mut files).unwrap();
        assert!(files.contains("/memfd:answer"), "{files}");
        for socket in sockets {
            let inode = nix::sys::stat::fstat(&socket).unwrap().st_ino;
            assert!(!files.contains(&format!("socket:[{inode}]")), "{files}");
        }
    }
}

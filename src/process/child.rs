//! Child processes: starting COMMAND and others as the caller of syngate would have, and waiting for
//! them.

use std::cell::{Cell, RefCell};
use std::ffi::{CString, OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpgid, getpgrp, getpid, getsid};

use crate::kernel::sys::{self, Birth};
use crate::process::files::open_files;
use crate::process::output::Output;
use crate::words::ended::{CommandExit, Sender};

pub(super) const SH: &str = "/bin/sh";

/// How long to wait to learn whether the kernel executes a program. Then the program counts as started:
/// its file may be on a server that is gone.
pub(crate) const PATIENCE: Duration = Duration::from_millis(200);

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    /// The child has ended and was waited for, so its pid may be another process's.
    over: Cell<bool>,
    /// The kernel may still refuse to execute the program.
    pending: RefCell<Option<UnixStream>>,
}

/// Whether a child has ended whose end the run has not seen yet. Does not collect its status.
pub(crate) fn any_has_ended() -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, flags).is_ok_and(|status| status != WaitStatus::StillAlive)
}

impl Child {
    /// Starts `program` with `argv` in the process group of syngate. It gets the files that syngate has inherited
    /// (its own are close-on-exec) and the signal mask `mask`. Signals that syngate ignores are as they were when it
    /// started.
    pub(crate) fn spawn(
        program: &Path,
        argv: &[OsString],
        environment: &[CString],
        mask: &SigSet,
    ) -> Result<Child, Errno> {
        let launch = Launch::new(environment, mask);
        match Child::spawn_file(program, argv, &launch) {
            Err(Errno::ENOEXEC) => {
                let words = for_sh(program, argv).ok_or(Errno::ENOEXEC)?;
                Child::spawn_file(Path::new(SH), &words, &launch)
            }
            spawned => spawned,
        }
    }

    /// Starts `program`, whose path has a slash in it. Waits to hear whether the kernel executes it, for as
    /// long as [`Launch::patience`] says.
    pub(crate) fn spawn_file(
        program: &Path,
        argv: &[OsString],
        launch: &Launch,
    ) -> Result<Child, Errno> {
        let program = c_string(program.as_os_str())?;
        let argv: Result<Vec<CString>, Errno> = argv.iter().map(|word| c_string(word)).collect();
        let (ours, theirs) = line()?;
        // The kernel closes these only once it has opened the program's file. If that hangs, the child
        // would keep the gate's socket open although syngate is dead.
        let own = open_files()
            .into_iter()
            .filter(|fd| sys::closes_on_exec(*fd) && *fd != theirs.as_raw_fd());
        let kept = |fd: &RawFd| launch.files.iter().any(|(_, to)| to == fd);
        let close: Vec<RawFd> = own.filter(|fd| !kept(fd)).collect();
        let defaults: Vec<Signal> = sys::ignored_here_alone().collect();
        let pid = sys::give_birth(&Birth {
            program: &program,
            argv: &argv?,
            environment: launch.environment,
            mask: launch.mask,
            defaults: &defaults,
            own_group: launch.group == ProcessGroup::Own,
            own_session: launch.group == ProcessGroup::OwnSession,
            dies_with_parent: launch.dies_with_parent,
            files: launch.files,
            close: &close,
            line: theirs.as_raw_fd(),
        })?;
        drop(theirs);
        let child = Child {
            pid,
            over: Cell::new(false),
            pending: RefCell::default(),
        };
        match child.expects(ours, launch.patience) {
            Some(refusal) => {
                child.signal(libc::SIGKILL);
                let _ = waitpid(pid, None);
                Err(refusal)
            }
            None => Ok(child),
        }
    }

    /// Waits until the kernel executes the program, which closes the line, or until a refusal comes over the line.
    pub(super) fn expects(&self, line: UnixStream, patience: Duration) -> Option<Errno> {
        let heard = can_be_read(&line, Instant::now() + patience);
        self.pending.replace(Some(line));
        heard.then(|| self.refusal()).flatten()
    }

    /// Why the kernel did not execute the program, once the process has ended. `None`: it did. Told once.
    pub(crate) fn refusal(&self) -> Option<Errno> {
        let mut error = [0; size_of::<i32>()];
        self.pending.take()?.read_exact(&mut error).ok()?;
        Some(Errno::from_raw(i32::from_ne_bytes(error)))
    }

    /// Starts a command line of the user's by `sh -c`. It reads nothing and prints to `output`, else to stderr: stdin
    /// and stdout are COMMAND's.
    pub(crate) fn shell(
        output: Option<&Output>,
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
    ) -> Result<Child, Errno> {
        let copies = output.map(|output| (output.fd(), libc::STDERR_FILENO));
        Child::launch_shell(
            line,
            &Launch {
                files: copies.as_slice(),
                ..Launch::new(environment, mask)
            },
        )
    }

    /// The same in that process group, to stderr.
    pub(crate) fn shell_in(
        group: ProcessGroup,
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
    ) -> Result<Child, Errno> {
        Child::launch_shell(
            line,
            &Launch {
                group,
                ..Launch::new(environment, mask)
            },
        )
    }

    fn launch_shell(line: &OsStr, launch: &Launch) -> Result<Child, Errno> {
        let words = shell_words("exec </dev/null >&2\n", line);
        Child::spawn_file(Path::new(SH), &words, launch)
    }

    /// `None` while it runs.
    pub(crate) fn ended(&self) -> Option<CommandExit> {
        if self.over.get() {
            return None;
        }
        let status = sys::ended(self.pid);
        self.over.set(status != Ok(None));
        status.ok().flatten().map(exit)
    }

    pub(crate) fn lives(&self) -> bool {
        self.ended().is_none() && !self.over.get()
    }

    /// The child has ended, and the run has seen that.
    pub(super) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// How it ended, once it has; `None`: it runs on at `until`, or `stop` says not to wait any longer.
    pub(crate) fn wait(&self, until: Instant, stop: impl Fn() -> bool) -> Option<CommandExit> {
        const LOOK_AGAIN: Duration = Duration::from_millis(10);
        let pidfd = sys::pidfd(self.pid).ok();
        loop {
            let exit = self.ended();
            let now = Instant::now();
            if exit.is_some() || now >= until || stop() {
                return exit;
            }
            let look = until.min(now + LOOK_AGAIN);
            match &pidfd {
                Some(pidfd) => drop(can_be_read(pidfd, look)),
                // Before Linux 5.3.
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Whether a signal of the terminal's has reached syngate alone. The terminal sends signals to its
    /// foreground process group, so to the child as well, unless it has left the group of syngate. But
    /// when the terminal hangs up, the kernel tells only the leader of the session
    /// (`disassociate_ctty()`, `__tty_hangup()`).
    pub(crate) fn hears_of(&self, signal: i32, sender: Sender) -> Sender {
        let own_group = getpgid(Some(self.pid)).is_ok_and(|group| group != getpgrp());
        let leader_only = signal == libc::SIGHUP && getsid(None).is_ok_and(|s| s == getpid());
        match sender {
            Sender::Terminal if own_group || leader_only => Sender::TerminalToUs,
            sender => sender,
        }
    }

    pub(crate) fn signal(&self, signal: i32) {
        // The pid is the child's for as long as nobody has waited for it.
        if let Ok(signal) = Signal::try_from(signal) {
            if !self.over.get() {
                let _ = kill(self.pid, signal);
            }
        }
    }

    /// Kills it, unless it is over, and waits for that for at most `within`.
    pub(crate) fn kill(&self, within: Duration) {
        self.signal(libc::SIGKILL);
        self.wait(Instant::now() + within, || self.over.get());
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }
}

/// The words with which sh runs a script without `#!`: shells and execvp(3) give it to sh, too. `None`:
/// it is no script.
pub(super) fn for_sh(program: &Path, argv: &[OsString]) -> Option<Vec<OsString>> {
    if is_binary(program) {
        return None;
    }
    let words = [OsString::from("sh"), program.into()];
    Some(words.into_iter().chain(argv[1..].to_vec()).collect())
}

pub(super) fn c_string(text: &OsStr) -> Result<CString, Errno> {
    CString::new(text.as_bytes()).map_err(|_| Errno::EINVAL)
}

/// Reads the status that wait(2) gives.
pub(crate) fn exit(status: libc::c_int) -> CommandExit {
    if libc::WIFSIGNALED(status) {
        CommandExit::Signal(libc::WTERMSIG(status))
    } else {
        CommandExit::Code(libc::WEXITSTATUS(status) as u8)
    }
}

/// How to start a child.
pub(crate) struct Launch<'a> {
    pub(crate) environment: &'a [CString],
    pub(crate) mask: &'a SigSet,
    pub(crate) group: ProcessGroup,
    /// Files that the child gets besides the inherited ones: (descriptor here, descriptor there).
    pub(crate) files: &'a [(RawFd, RawFd)],
    /// The kernel kills it when syngate ends.
    pub(crate) dies_with_parent: bool,
    /// How long to wait for a refusal of the kernel's. A later one is [told](Child::refusal) after the end.
    pub(crate) patience: Duration,
}

impl<'a> Launch<'a> {
    /// In the process group of syngate, with the inherited files.
    pub(crate) fn new(environment: &'a [CString], mask: &'a SigSet) -> Launch<'a> {
        Launch {
            environment,
            mask,
            group: ProcessGroup::Inherited,
            files: &[],
            dies_with_parent: false,
            patience: PATIENCE,
        }
    }
}

/// The two ends of a line.
pub(super) fn line() -> Result<(UnixStream, UnixStream), Errno> {
    let io = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or_default());
    UnixStream::pair().map_err(io)
}

fn can_be_read(file: &impl AsFd, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut fds, Some(TimeSpec::from(left)), None) {
            Ok(ready) => return ready > 0,
            Err(_) if left.is_zero() => return false,
            Err(_) => (),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessGroup {
    /// The process group of syngate.
    Inherited,
    /// A group of the child's own, in the session of syngate.
    Own,
    /// A session of the child's own: signals of the terminal do not reach it.
    OwnSession,
}

pub(super) fn shell_words(redirections: &str, line: &OsStr) -> [OsString; 3] {
    let mut script = OsString::from(redirections);
    script.push(line);
    ["sh".into(), "-c".into(), script]
}

/// Whether the file is not text. Like shells, it looks for a NUL byte in the beginning.
fn is_binary(file: &Path) -> bool {
    const LOOKED_AT: usize = 128;
    let mut beginning = Vec::new();
    let read = std::fs::File::open(file)
        .and_then(|file| file.take(LOOKED_AT as u64).read_to_end(&mut beginning));
    read.is_err() || beginning.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Seek;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::sys::wait::WaitStatus;

    use crate::kernel::netlink::{Bus, Netlink};

    /// Compares inodes, because tests that run meanwhile have sockets of their own.
    #[test]
    fn a_program_inherits_no_netlink_socket() {
        let buses = [Bus::SockDiag, Bus::Netfilter, Bus::Route];
        let sockets = buses.map(|bus| Netlink::open(bus).unwrap());
        let answer = memfd_create(c"answer", MFdFlags::MFD_CLOEXEC).unwrap();
        let mut answer = File::from(answer);
        let (mask, environment) = (SigSet::empty(), [c"PATH=/usr/bin:/bin".into()]);
        let launch = Launch {
            files: &[(answer.as_raw_fd(), libc::STDOUT_FILENO)],
            ..Launch::new(&environment, &mask)
        };
        let words = shell_words("", OsStr::new("ls -l /proc/self/fd"));
        let child = Child::spawn_file(Path::new(SH), &words, &launch).unwrap();
        let status = waitpid(child.pid, None).unwrap();
        assert_eq!(status, WaitStatus::Exited(child.pid, 0));
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

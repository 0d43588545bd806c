//! Child processes: starting COMMAND and others as the caller of syngate would have, and waiting for
//! them.

use std::ffi::{CString, OsStr, OsString};
use std::io::Read;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, getpgid, getpgrp, getpid, getsid};

use crate::kernel::sys;
use crate::process::files::open_files;
use crate::words::ended::{CommandExit, Sender};

pub(super) const SH: &str = "/bin/sh";

/// A process that was started and not yet waited for.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
}

impl Child {
    /// Starts `program` with `argv`, in the process group of syngate, with the files that syngate has
    /// inherited (its own are close-on-exec), with the signal mask `mask`, and with SIGPIPE and SIGXFSZ
    /// as they were when syngate started.
    pub(crate) fn spawn(
        program: &Path,
        argv: &[OsString],
        environment: &[CString],
        mask: &SigSet,
    ) -> Result<Child, Errno> {
        let launch = Launch::without_files(environment, mask, ProcessGroup::Inherited);
        match Child::spawn_file(program, argv, &launch) {
            Err(Errno::ENOEXEC) => {
                let words = for_sh(program, argv).ok_or(Errno::ENOEXEC)?;
                Child::spawn_file(Path::new(SH), &words, &launch)
            }
            spawned => spawned,
        }
    }

    /// Starts `program`, whose path has a slash in it.
    pub(crate) fn spawn_file(
        program: &Path,
        argv: &[OsString],
        launch: &Launch,
    ) -> Result<Child, Errno> {
        let file = c_string(program.as_os_str())?;
        let argv: Vec<CString> = argv
            .iter()
            .map(|arg| c_string(arg))
            .collect::<Result<_, _>>()?;
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_sigmask(launch.mask)?;
        attributes.set_sigdefault(&sys::ignored_here_alone().collect())?;
        let mut flags =
            PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF;
        match launch.group {
            ProcessGroup::Inherited => (),
            ProcessGroup::Own => {
                attributes.set_pgroup(Pid::from_raw(0))?;
                flags |= PosixSpawnFlags::POSIX_SPAWN_SETPGROUP;
            }
            // The nix crate has no name for it.
            ProcessGroup::OwnSession => {
                flags |= PosixSpawnFlags::from_bits_retain(libc::POSIX_SPAWN_SETSID.into());
            }
        }
        attributes.set_flags(flags)?;
        let mut files = PosixSpawnFileActions::init()?;
        for (from, to) in launch.files {
            files.add_dup2(*from, *to)?;
        }
        // The kernel closes these only once it has opened the program's file. If that hangs, as on a
        // file server that is gone, the child would keep the gate's socket open although syngate is dead.
        let own = open_files()
            .into_iter()
            .filter(|fd| sys::closes_on_exec(*fd));
        for fd in own.filter(|fd| launch.files.iter().all(|(_, to)| to != fd)) {
            files.add_close(fd)?;
        }
        // PATH is not searched, because the path has a slash in it.
        let pid = posix_spawnp(&file, &files, &attributes, &argv, launch.environment)?;
        Ok(Child { pid })
    }

    /// Starts a command line of the user's by `sh -c`. It reads nothing and prints to stderr: stdin
    /// and stdout are COMMAND's.
    pub(crate) fn shell(
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
    ) -> Result<Child, Errno> {
        Child::shell_in(ProcessGroup::Inherited, line, environment, mask)
    }

    /// The same, in that process group.
    pub(crate) fn shell_in(
        group: ProcessGroup,
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
    ) -> Result<Child, Errno> {
        let launch = Launch::without_files(environment, mask, group);
        let words = shell_words("exec </dev/null >&2\n", line);
        Child::spawn_file(Path::new(SH), &words, &launch)
    }

    /// `None` while it runs.
    pub(crate) fn ended(&self) -> Option<CommandExit> {
        sys::ended(self.pid).ok().flatten().map(exit)
    }

    pub(crate) fn lives(&self) -> bool {
        matches!(sys::ended(self.pid), Ok(None))
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
        // The pid is still the child's, because nobody has waited for it.
        if let Ok(signal) = Signal::try_from(signal) {
            let _ = kill(self.pid, signal);
        }
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
}

impl<'a> Launch<'a> {
    fn without_files(
        environment: &'a [CString],
        mask: &'a SigSet,
        group: ProcessGroup,
    ) -> Launch<'a> {
        Launch {
            environment,
            mask,
            group,
            files: &[],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessGroup {
    /// That of syngate.
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

/// Whether the file is not text. Shells, too, look for a NUL byte in its beginning.
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
    use std::os::fd::AsRawFd;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::sys::wait::{WaitStatus, waitpid};

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
            ..Launch::without_files(&environment, &mask, ProcessGroup::Inherited)
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

//! `--listen-netns`: the network namespace of the listeners, where that is another than this process's,
//! as behind ports that a container publishes.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::holders;
use crate::kernel::sys::netns_cookie;
use crate::tell::remote;

/// Where ip-netns(8) keeps namespaces by name.
const NAMED: &str = "/run/netns";
pub(crate) const EXPECTED: &str = "expected a name that 'ip netns' lists, a process id, or the path of a \
                            namespace file";

/// A network namespace, as people name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Netns {
    /// A namespace file. Each look opens it anew, since it may stand for another namespace then.
    File(PathBuf),
    Process {
        pid: i32,
        /// The start time of the process, in clock ticks since boot: pids are used again. `None`: not
        /// known yet.
        started: Option<u64>,
    },
}

/// Why a namespace can't be entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoEntry {
    /// There is no namespace of that name, perhaps not yet or no longer.
    Missing(String),
    /// There may be one, but it can't be entered.
    Refused(String),
}

impl fmt::Display for NoEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoEntry::Missing(why) => write!(f, "{why}; {EXPECTED}"),
            NoEntry::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for NoEntry {}

impl Netns {
    /// Digits are a process id, a text that begins with a slash is a path, and any other is a name.
    ///
    /// # Errors
    /// A sentence that says what is expected.
    pub(crate) fn parse(text: &str) -> Result<Netns, String> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return match text.parse() {
                Ok(pid) if pid > 0 => Ok(Netns::Process { pid, started: None }),
                _ => Err(format!("not a process id; {EXPECTED}")),
            };
        }
        if text.starts_with('/') {
            return Ok(Netns::File(text.into()));
        }
        let odd = |c: char| c == '/' || c.is_control();
        if text.is_empty() || text == "." || text == ".." || text.contains(odd) {
            return Err(format!("not a network namespace; {EXPECTED}"));
        }
        Ok(Netns::File(Path::new(NAMED).join(text)))
    }

    /// Notes the start time of the process, so that another process that gets the pid later is not meant.
    ///
    /// # Errors
    /// The namespace can't be entered, or its file may hang.
    pub(crate) fn settled(&self) -> Result<Netns, NoEntry> {
        let netns = match self {
            Netns::Process { pid, .. } => Netns::Process {
                pid: *pid,
                started: holders::started(*pid),
            },
            Netns::File(path) => {
                refuse_server(path)?;
                self.clone()
            }
        };
        netns.within(|| ()).map(|()| netns)
    }

    /// Runs `look` inside the namespace, on a thread of its own that enters it and ends there. So no
    /// thread has to come back, and none can be left in the wrong namespace. No reference to the namespace
    /// stays: it would keep the namespace and its addresses alive after the end of the container.
    pub(crate) fn within<T: Send>(&self, look: impl FnOnce() -> T + Send) -> Result<T, NoEntry> {
        let file = self.open()?;
        let entered = std::thread::scope(|threads| {
            let enter = || setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map(|()| look());
            let thread = std::thread::Builder::new().spawn_scoped(threads, enter)?;
            let ended = thread.join();
            Ok(ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        match entered {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(Errno::EINVAL)) => Err(NoEntry::Missing(format!(
                "{} is not a network namespace",
                self.file().display()
            ))),
            Ok(Err(Errno::EPERM)) => Err(NoEntry::Refused(
                "entering another network namespace needs the capability CAP_SYS_ADMIN".to_owned(),
            )),
            Ok(Err(error)) => Err(NoEntry::Refused(format!("setns: {}", error.desc()))),
            Err(error) => {
                let error: io::Error = error;
                Err(NoEntry::Refused(format!("no thread to enter it: {error}")))
            }
        }
    }

    fn open(&self) -> Result<File, NoEntry> {
        if let Netns::Process { pid, started } = self {
            if started.is_some() && holders::started(*pid) != *started {
                return Err(NoEntry::Missing(format!("process {pid} has ended")));
            }
        }
        let path = self.file();
        // The path may be that of a pipe, which would block.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        options.open(&path).map_err(|error| {
            let missing = [libc::ENOENT, libc::ESRCH, libc::ENOTDIR];
            match error.raw_os_error() {
                Some(errno) if missing.contains(&errno) => NoEntry::Missing(match self {
                    Netns::Process { pid, .. } => format!("no process {pid}"),
                    Netns::File(_) => format!("no {}", path.display()),
                }),
                _ => NoEntry::Refused(format!("{}: {error}", path.display())),
            }
        })
    }

    fn file(&self) -> PathBuf {
        match self {
            Netns::File(path) => path.clone(),
            Netns::Process { pid, .. } => format!("/proc/{pid}/ns/net").into(),
        }
    }
}

/// A look at the listeners would wait for the server, perhaps for ever, while the gate is closed.
fn refuse_server(path: &Path) -> Result<(), NoEntry> {
    remote::on_the_way(path).map_or(Ok(()), |mount| {
        Err(NoEntry::Refused(format!(
            "{} is on a server, which may not answer while the gate is closed; expected the path of a file \
             of this host, such as /run/netns/web, or a process id",
            mount.display()
        )))
    })
}

impl fmt::Display for Netns {
    /// As the command line takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Netns::Process { pid, .. } => write!(f, "{pid}"),
            Netns::File(path) => {
                let name = path.strip_prefix(NAMED).ok().and_then(Path::to_str);
                // A name of digits would be read as a process id.
                match name.filter(|name| Netns::parse(name).as_ref() == Ok(self)) {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{}", path.display()),
                }
            }
        }
    }
}

/// The identity of this thread's network namespace: the kernel's cookie for it, which the kernel never
/// uses again (SO_NETNS_COOKIE, Linux 5.14). Older kernels have only its inode, which another namespace
/// may get later; from 5.10 on, at least no two sockets have the same cookie.
pub(crate) fn identity() -> u64 {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None);
    let cookie = socket
        .ok()
        .and_then(|socket| netns_cookie(socket.as_fd()).ok());
    let inode = || std::fs::metadata("/proc/thread-self/ns/net").map(|file| file.ino());
    cookie.unwrap_or_else(|| inode().unwrap_or(0))
}

/// The identity of a network namespace; `None`: of this thread's.
///
/// # Errors
/// The namespace can't be entered.
pub(crate) fn identity_of(netns: Option<&Netns>) -> Result<u64, NoEntry> {
    netns.map_or_else(|| Ok(identity()), |netns| netns.within(identity))
}

/// What holds for any text as a network namespace.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    if let Ok(netns) = Netns::parse(&String::from_utf8_lossy(bytes)) {
        assert_eq!(
            Netns::parse(&netns.to_string()).as_ref(),
            Ok(&netns),
            "{netns}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        let process = Netns::Process {
            pid: 4711,
            started: None,
        };
        for (text, expected) in [
            ("web", Netns::File("/run/netns/web".into())),
            ("4711", process),
            ("/proc/1/ns/net", Netns::File("/proc/1/ns/net".into())),
        ] {
            let netns = Netns::parse(text).unwrap();
            assert_eq!(netns, expected);
            assert_eq!(netns.to_string(), text);
        }
        // Its name alone would be read as a process id.
        let digits = Netns::parse("/run/netns/4711").unwrap();
        assert_eq!(digits.to_string(), "/run/netns/4711");
        assert_eq!(Netns::parse("/run/netns/web").unwrap().to_string(), "web");
        for text in ["", "0", "99999999999", "a/b", "..", "."] {
            let error = Netns::parse(text).unwrap_err();
            assert!(error.contains("expected a name"), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_missing_is_said_to_be() {
        for netns in ["/no/such", "999999999", "no-such-name", "/dev/null"] {
            let error = Netns::parse(netns).unwrap().within(|| ()).unwrap_err();
            let root = nix::unistd::geteuid().is_root();
            if netns == "/dev/null" && !root {
                continue; // Without the right to enter, the kernel tells no more.
            }
            assert!(matches!(error, NoEntry::Missing(_)), "{netns}: {error}");
        }
        let other = Netns::Process {
            pid: std::process::id() as i32,
            started: Some(1),
        };
        let error = other.within(|| ()).unwrap_err();
        assert!(error.to_string().contains("has ended"), "{error}");
    }

    #[test]
    fn a_namespace_has_one_identity() {
        assert_eq!(identity(), identity());
        assert_ne!(identity(), 0);
    }
}

//! What happens at a point of a run.

use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::point::Point;

/// How long a call is delayed.
pub const DELAY: Duration = Duration::from_secs(5);
/// How long a program hangs: longer than the `--max-closed` of such a run, and than syngate waits for
/// a program of iptables.
pub const HANG: Duration = Duration::from_secs(7);

/// What happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL instead of the call.
    KillBefore,
    /// SIGKILL when the call has done its work.
    KillAfter,
    /// The call does nothing, and says so.
    Eperm,
    /// See [`Fault::Eperm`].
    Enobufs,
    /// See [`Fault::Eperm`].
    Enomem,
    /// See [`Fault::Eperm`].
    Eintr,
    /// See [`Fault::Eperm`].
    Eagain,
    /// See [`Fault::Eperm`].
    Emfile,
    /// The call takes [`DELAY`].
    Delay,
    /// The program that a child becomes stands still for [`HANG`].
    Hang,
    /// One byte of a file or a pipe is read or written, though more could be.
    Short,
    /// The kernel says that what it lists has changed meanwhile: NLM_F_DUMP_INTR.
    DumpIntr,
    /// What the kernel lists ends in the middle of a message: MSG_TRUNC.
    Truncate,
}

use Fault::*;

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 13] = [
        KillBefore, KillAfter, Eperm, Enobufs, Enomem, Eintr, Eagain, Emfile, Delay, Hang, Short,
        DumpIntr, Truncate,
    ];

    /// Whether it can happen there. Some calls never end. Some cannot fail when their arguments are good
    /// (sigprocmask(2), uname(2), clock_gettime(2), rseq(2), a futex(2) that wakes, as ours all do; clock_nanosleep(2)
    /// and close(2), unless a signal interrupts them): libraries do not look, or abort. And brk(2) says where the heap
    /// ends, whether it has failed or not.
    pub fn fits(self, point: &Point) -> bool {
        let call = point.call.as_str();
        let endless = ["exit", "exit_group", "rt_sigreturn"].contains(&call);
        let interruptible = ["clock_nanosleep", "close"].contains(&call);
        let sure = [
            "rt_sigprocmask",
            "brk",
            "uname",
            "rseq",
            "futex",
            "clock_gettime",
        ];
        let sure = sure.contains(&call);
        match self {
            KillBefore => true,
            KillAfter | Delay => !endless,
            Eintr if interruptible => true,
            Hang => call == "execve" && point.process != "syngate",
            Short => ["read", "pread64", "write", "pwrite64"].contains(&call),
            DumpIntr | Truncate => self.is_of_netlink() && ["recvfrom", "recvmsg"].contains(&call),
            _ => !endless && !sure && !interruptible,
        }
    }

    /// Whether it is the process that ends.
    pub fn kills(self) -> bool {
        matches!(self, KillBefore | KillAfter)
    }

    /// Whether it takes seconds.
    pub fn is_slow(self) -> bool {
        matches!(self, Delay | Hang)
    }

    /// Whether it happens to the first call that it can happen to, from its point on.
    pub fn waits_for_its_call(self) -> bool {
        self == Short || self.is_of_netlink()
    }

    /// Whether it happens to what the kernel lists by netlink.
    pub fn is_of_netlink(self) -> bool {
        matches!(self, DumpIntr | Truncate)
    }

    /// What the call says, if that is all.
    pub fn errno(self) -> Option<Errno> {
        Some(match self {
            Eperm => Errno::EPERM,
            Enobufs => Errno::ENOBUFS,
            Enomem => Errno::ENOMEM,
            Eintr => Errno::EINTR,
            Eagain => Errno::EAGAIN,
            Emfile => Errno::EMFILE,
            _ => return None,
        })
    }

    /// What happens, in words.
    pub fn words(self) -> String {
        let words = match self {
            KillBefore => "SIGKILL before the call",
            KillAfter => "SIGKILL after the call",
            Delay => "the call takes 5 s",
            Hang => "the program that a child becomes stands still for 7 s",
            Short => "one byte is read or written, of more",
            DumpIntr => "what the kernel lists has changed meanwhile (NLM_F_DUMP_INTR)",
            Truncate => "what the kernel lists is cut (MSG_TRUNC)",
            _ => {
                return self
                    .errno()
                    .map_or_else(String::new, |errno| errno.to_string());
            }
        };
        words.to_owned()
    }
}

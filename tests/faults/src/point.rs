//! Where a run can be hit, and how.

use std::{collections::BTreeMap, fmt};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// A system call of a run: the first of its kind, by one of its processes, since the run last said
/// what it does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Point {
    /// What the run has said last with `-v`: `start`, `locked`, `closed`, `draining`, ...
    pub phase: String,
    /// `syngate` itself, a `child` that is to become another program, or a guard, by its name.
    pub process: String,
    /// The system call's name.
    pub call: String,
}

impl Point {
    /// No point, but the whole run.
    pub fn whole_run() -> Point {
        let all = || "all".to_owned();
        Point {
            phase: all(),
            process: all(),
            call: all(),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Point {
            phase,
            process,
            call,
        } = self;
        write!(f, "{call} of {process} after '{phase}'")
    }
}

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
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 8] = [
        Fault::KillBefore,
        Fault::KillAfter,
        Fault::Eperm,
        Fault::Enobufs,
        Fault::Enomem,
        Fault::Eintr,
        Fault::Eagain,
        Fault::Emfile,
    ];

    /// Whether a call can end so. Some never end. Some cannot fail when their arguments are good
    /// (sigprocmask(2), uname(2), a futex(2) that wakes, as ours all do; clock_nanosleep(2), unless a signal
    /// interrupts it): libraries do not look, or abort. And brk(2) says where the heap ends, whether it has
    /// failed or not.
    pub fn fits(self, call: &str) -> bool {
        let endless = ["exit", "exit_group", "rt_sigreturn"].contains(&call);
        let sure = ["rt_sigprocmask", "brk", "uname", "futex", "clock_nanosleep"].contains(&call);
        match self {
            Fault::KillBefore => true,
            Fault::KillAfter => !endless,
            Fault::Eintr if call == "clock_nanosleep" => true,
            _ => !endless && !sure,
        }
    }

    /// Whether it is the process that ends, and not the call that fails.
    pub fn kills(self) -> bool {
        self.errno().is_none()
    }

    /// What the call says, if it is not the process that ends.
    pub fn errno(self) -> Option<Errno> {
        Some(match self {
            Fault::KillBefore | Fault::KillAfter => return None,
            Fault::Eperm => Errno::EPERM,
            Fault::Enobufs => Errno::ENOBUFS,
            Fault::Enomem => Errno::ENOMEM,
            Fault::Eintr => Errno::EINTR,
            Fault::Eagain => Errno::EAGAIN,
            Fault::Emfile => Errno::EMFILE,
        })
    }
}

/// Counts the calls of a run, and so tells which point each is.
#[derive(Debug)]
pub struct Course {
    phase: String,
    /// How often each point was passed.
    pub passed: BTreeMap<Point, u32>,
}

impl Course {
    /// Before the first word.
    pub fn new() -> Course {
        Course {
            phase: "start".to_owned(),
            passed: BTreeMap::new(),
        }
    }

    /// The point that this call is, if it is the first such.
    pub fn call(&mut self, process: &str, call: &str) -> Option<Point> {
        let point = Point {
            phase: self.phase.clone(),
            process: process.to_owned(),
            call: call.to_owned(),
        };
        let times = self.passed.entry(point.clone()).or_default();
        *times += 1;
        (*times == 1).then_some(point)
    }

    /// What the run has written to stderr: lines such as `syngate: +0.0039s closed 80 (nft)`.
    pub fn said(&mut self, text: &str) {
        for line in text.lines() {
            let words = line
                .strip_prefix("syngate: +")
                .and_then(|line| line.split_once("s "));
            if let Some(word) = words.and_then(|(_, words)| words.split_whitespace().next()) {
                word.trim_end_matches(':').clone_into(&mut self.phase);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_the_first_call_of_its_kind_in_a_phase() {
        let mut course = Course::new();
        let first = course.call("syngate", "read").unwrap();
        assert_eq!(first.phase, "start");
        assert_eq!(course.call("syngate", "read"), None);
        assert!(course.call("watchdog", "read").is_some());
        course.said("syngate: +0.0015s locked 80\nsyngate: +0.0033s listeners: 0.0.0.0:80\n");
        let after = course.call("syngate", "read").unwrap();
        assert_eq!(after.phase, "listeners");
        course.said("syngate: warning: nobody listens\n");
        assert_eq!(course.call("syngate", "read"), None);
        assert_eq!(course.passed[&first], 2);
    }
}

//! The guard of a standby: it starts the standby, and stops it when the line to the run ends.
//!
//! The guard is a subreaper (prctl(2)): a daemon whose parent has gone becomes its child, so that all
//! that the command line has started stays below it in the tree of processes, and is waited for.

use std::ffi::{CStr, OsStr};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::unistd::{Pid, getpid};

use super::tree::{below, processes, signal_all};
use super::wire::{KILL_EVERY, KILL_FOR, News, Order, Stop, order, tell};
use crate::process::child::{Child, ProcessGroup, exit};
use crate::process::environment::as_exec_takes;
use crate::process::guard;

const NAME_FOR_KERNEL: &CStr = c"gate-standby";
/// When the run has died, its watchdog takes this long, and mostly less, to open the gate: until then
/// new connections still come to the standby, which is stopped so much later.
pub(crate) const DESERTED: Duration = Duration::from_secs(1);

/// The guard itself, until nothing is left to guard, or it is told to leave it.
pub(crate) fn guard(line: &OsStr, grace: Duration) {
    if let Ok((run, mask)) = guard::begin(NAME_FOR_KERNEL) {
        match Guard::start(line, &mask, grace) {
            Ok(guard) => guard.serve(run),
            Err(error) => tell(&run, News::NotStarted(error)),
        }
    }
}

struct Guard {
    shell: Child,
    shell_ended: bool,
    /// Readable when a child has ended.
    children: SignalFd,
    grace: Duration,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Guarding,
    /// The run has died: to be stopped then.
    Deserted(Instant),
    /// All were asked to end; to be killed then. `None`: never, in the times that an [`Instant`] has.
    Asked(Option<Instant>),
    /// They are killed; to be left then.
    Killing(Instant),
}

impl Guard {
    fn start(line: &OsStr, mask: &SigSet, grace: Duration) -> Result<Guard, Errno> {
        // An ignored SIGCHLD would take the exit statuses away.
        crate::kernel::sys::set_default(Signal::SIGCHLD);
        set_child_subreaper(true)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let children = SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), flags)?;
        // A process group of its own: `kill -9 0` is not meant for us.
        let environment = as_exec_takes(std::env::vars_os());
        let shell = Child::shell_in(ProcessGroup::Own, line, &environment, mask)?;
        guard::stay();
        Ok(Guard {
            shell,
            shell_ended: false,
            children,
            grace,
            stage: Stage::Guarding,
        })
    }

    fn serve(mut self, run: UnixStream) {
        tell(&run, News::Started(self.shell.pid()));
        let mut listening = true;
        loop {
            if !self.reap(&run) {
                return tell(&run, self.gone(false));
            }
            let now = Instant::now();
            self.advance(now);
            if matches!(self.stage, Stage::Killing(until) if now >= until) {
                return tell(&run, self.gone(true));
            }
            if self.wait(now, listening.then_some(&run)) {
                match order(&run) {
                    Some(Order::Keep) => return,
                    Some(Order::Stop) => self.ask(),
                    None => {
                        listening = false;
                        if self.stage == Stage::Guarding {
                            self.stage = Stage::Deserted(Instant::now() + DESERTED);
                        }
                    }
                }
            }
        }
    }

    /// Waits for those that have ended. Whether any is left is what the kernel says: whoever is left
    /// has an ancestor that is our child.
    fn reap(&mut self, run: &UnixStream) -> bool {
        while let Ok(Some(_)) = self.children.read_signal() {}
        loop {
            match crate::kernel::sys::any_ended() {
                Ok(Some((pid, status))) if self.is_shell(pid) => {
                    self.shell_ended = true;
                    tell(run, News::Ended(exit(status)));
                }
                Ok(Some(_)) => (),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Its pid may be another's once it has ended.
    fn is_shell(&self, pid: Pid) -> bool {
        !self.shell_ended && pid.as_raw() == self.shell.pid()
    }

    fn gone(&self, left: bool) -> News {
        let killed = matches!(self.stage, Stage::Killing(_));
        News::Gone(Stop { killed, left })
    }

    /// Kills whoever is there, if it is time; new ones may have come since the last time.
    fn advance(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Deserted(at) if now >= at) {
            self.ask();
        }
        if matches!(self.stage, Stage::Asked(Some(at)) if now >= at) {
            self.stage = Stage::Killing(now + KILL_FOR);
        }
        if let Stage::Killing(_) = self.stage {
            signal_all(&self.all(), Signal::SIGKILL);
        }
    }

    /// Asks all who are there now to end; those who come later may be part of that. One that is
    /// stopped has to go on in order to hear of it.
    fn ask(&mut self) {
        if matches!(self.stage, Stage::Guarding | Stage::Deserted(_)) {
            let all = self.all();
            signal_all(&all, Signal::SIGTERM);
            signal_all(&all, Signal::SIGCONT);
            self.stage = Stage::Asked(Instant::now().checked_add(self.grace));
        }
    }

    /// Waits for a child, the run, or the next time to do something. Whether it is the run.
    fn wait(&self, now: Instant, run: Option<&UnixStream>) -> bool {
        let timeout = match self.stage {
            Stage::Guarding | Stage::Asked(None) => None,
            Stage::Asked(Some(at)) | Stage::Deserted(at) => Some(at.saturating_duration_since(now)),
            Stage::Killing(_) => Some(KILL_EVERY),
        };
        let all = [Some(self.children.as_fd()), run.map(AsFd::as_fd)];
        let all = all.into_iter().flatten();
        let mut fds: Vec<PollFd> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let _ = ppoll(&mut fds, timeout.map(TimeSpec::from), None);
        fds.get(1).is_some_and(|fd| fd.any().unwrap_or(false))
    }

    /// All that the shell has started, itself included, parents first. Where /proc does not tell,
    /// the shell alone.
    fn all(&self) -> Vec<i32> {
        let mut all = below(getpid().as_raw(), &processes());
        if !self.shell_ended && !all.contains(&self.shell.pid()) {
            all.push(self.shell.pid());
        }
        all
    }
}

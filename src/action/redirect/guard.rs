//! The guard process of a standby. It starts the standby, and stops it when its socket to the run
//! closes.
//!
//! The guard is a subreaper (prctl(2)): a daemon whose parent has exited becomes its child. So
//! everything that the command line has started stays below the guard in the process tree, and the
//! guard waits for all of it.

use std::ffi::{CStr, OsStr, OsString};
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
use super::wire::{COMMAND, KILL_EVERY, KILL_FOR, News, Order, Stop, tell};
use crate::action::contract::GuardWork;
use crate::process::child::{Child, ProcessGroup, exit};
use crate::process::environment::as_exec_takes;
use crate::process::guard::{self, Heard};

const NAME_FOR_KERNEL: &CStr = c"gate-standby";
/// How long the standby stays after the run has died. The run's watchdog opens the gate within this
/// time, and new connections go to the standby until then.
pub(crate) const DESERTED: Duration = Duration::from_secs(1);

/// The guard's own command line: `syngate standby-guard MILLISECONDS LINE`.
pub(super) fn call(words: &[OsString]) -> Option<GuardWork> {
    let (line, grace) = parse(words)?;
    Some(Box::new(move || guard(&line, grace)))
}

fn parse(words: &[OsString]) -> Option<(OsString, Duration)> {
    let [_, command, ms, line] = words else {
        return None;
    };
    if command != COMMAND {
        return None;
    }
    let ms = ms.to_str()?.parse().ok()?;
    Some((line.clone(), Duration::from_millis(ms)))
}

/// Runs the guard until no process is left, or until the run tells it to leave the standby running.
fn guard(line: &OsStr, grace: Duration) {
    if let Ok((run, mask)) = guard::begin(NAME_FOR_KERNEL, &[]) {
        match Guard::start(line, &mask, grace) {
            Ok(guard) => guard.serve(run),
            Err(error) => tell(&run, News::NotStarted(error)),
        }
    }
}

struct Guard {
    shell: Child,
    shell_ended: bool,
    children: SignalFd,
    grace: Duration,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Guarding,
    /// The run has died. The standby is stopped at this time.
    Deserted(Instant),
    /// SIGTERM was sent. SIGKILL follows at this time; `None`: never, because the time is beyond
    /// the range of [`Instant`].
    Asked(Option<Instant>),
    /// SIGKILL was sent. The guard gives up at this time.
    Killing(Instant),
}

impl Guard {
    fn start(line: &OsStr, mask: &SigSet, grace: Duration) -> Result<Guard, Errno> {
        // With an ignored SIGCHLD the kernel would discard the exit statuses.
        crate::kernel::sys::set_default(Signal::SIGCHLD);
        set_child_subreaper(true)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let children = SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), flags)?;
        // A process group of its own, because the standby's `kill -9 0` must not hit the guard.
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
                let order = match guard::read_word(&run) {
                    Heard::Nothing => continue,
                    Heard::Word(byte) => Order::decode(byte),
                    Heard::TheEnd => None,
                };
                match order {
                    Some(Order::Keep) => return,
                    Some(Order::Answer) => tell(&run, News::Here),
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

    /// Reaps children that have ended. Returns whether any process is left: the kernel says so,
    /// because each one has an ancestor that is a child of the guard.
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

    /// Its pid may be reused after its end.
    fn is_shell(&self, pid: Pid) -> bool {
        !self.shell_ended && pid.as_raw() == self.shell.pid()
    }

    fn gone(&self, left: bool) -> News {
        let killed = matches!(self.stage, Stage::Killing(_));
        News::Gone(Stop { killed, left })
    }

    /// Kills all processes if it is time. New ones may have started since the last time.
    fn advance(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Deserted(at) if now >= at) {
            self.ask();
        }
        if matches!(self.stage, Stage::Asked(Some(at)) if now >= at) {
            self.stage = Stage::Killing(now + KILL_FOR);
        }
        if let Stage::Killing(_) = self.stage {
            self.signal_all(&[Signal::SIGKILL]);
        }
    }

    /// Sends SIGTERM to all processes that exist now, but not to later ones, which may belong to
    /// the shutdown. A stopped process also gets SIGCONT, so that it can handle the signal.
    fn ask(&mut self) {
        if matches!(self.stage, Stage::Guarding | Stage::Deserted(_)) {
            self.signal_all(&[Signal::SIGTERM, Signal::SIGCONT]);
            self.stage = Stage::Asked(Instant::now().checked_add(self.grace));
        }
    }

    /// Waits for a child, for the run, or for the next step. Returns whether the run has sent
    /// something.
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

    /// Sends a signal to all processes that the shell has started, and to the shell, parents first. Where
    /// /proc can't be read, to the shell alone.
    fn signal_all(&self, signals: &[Signal]) {
        let all = below(getpid().as_raw(), &processes());
        let shell = !self.shell_ended && all.iter().all(|p| p.pid != self.shell.pid());
        for signal in signals {
            signal_all(&all, *signal);
            if shell {
                self.shell.signal(*signal as i32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::command_line::os_words;

    #[test]
    fn it_is_called_in_one_way() {
        let parse = |call: &[&str]| parse(&os_words(call));
        assert_eq!(
            parse(&["syngate", "standby-guard", "10000", "serve --port 8080"]),
            Some(("serve --port 8080".into(), Duration::from_secs(10)))
        );
        for call in [
            &["syngate"][..],
            &["syngate", "standby-guard"],
            &["syngate", "watchdog", "10000", "serve"],
            &["syngate", "standby-guard", "soon", "serve"],
            &["syngate", "standby-guard", "10000", "serve", "--port"],
            &["standby-guard", "10000", "serve"],
        ] {
            assert_eq!(parse(call), None, "{call:?}");
        }
    }
}

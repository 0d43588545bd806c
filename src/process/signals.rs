//! Signals as events. The run blocks them and reads them from a signalfd, so that a signal interrupts the
//! run only where it waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;

use crate::kernel::sys;
use crate::words::ended::Sender;
use crate::words::ending::Ending;

/// The signals that ask a run to stop.
const STOPPING: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caught {
    /// INT, TERM, HUP or QUIT.
    Stop(i32, Sender),
    /// USR1.
    OpenNow,
    /// A child has ended, perhaps.
    Child,
    /// Another file that the run waits for has something to read.
    Readable,
}

/// The signals that matter to a run. They stay blocked up to the end of the process, because a late signal must not
/// change how it ends.
pub(crate) struct Signals {
    fd: SignalFd,
    inherited: SigSet,
}

/// What [`Signals::block`] has blocked for the run to read.
static FOR_THE_RUN: OnceLock<SigSet> = OnceLock::new();

/// A signal that asks to stop has come, and was read or discarded.
static ASKED_TO_END: AtomicBool = AtomicBool::new(false);

/// Whether somebody has asked this process to stop, at any time. Who did does not wait for a reader of stderr.
pub(crate) fn asked_to_end() -> bool {
    ASKED_TO_END.load(Ordering::Relaxed)
}

/// Whether a signal has come that the run has to read soon. `false` in a process that is no run.
pub(crate) fn has_come() -> bool {
    let Some(caught) = FOR_THE_RUN.get() else {
        return false;
    };
    let pending = sys::pending();
    let mut caught = caught.iter().filter(|signal| *signal != Signal::SIGCHLD);
    caught.any(|signal| pending.contains(signal))
}

/// Whether a signal that asks to stop has come and waits, since it is blocked.
pub(crate) fn wants_to_end() -> bool {
    let pending = sys::pending();
    STOPPING.into_iter().any(|signal| pending.contains(signal))
}

impl Signals {
    /// Blocks them. Those that the caller has had ignored (`nohup`) stay ignored: if they were blocked, they
    /// would arrive.
    pub(crate) fn block() -> io::Result<Signals> {
        // With SIGCHLD ignored, the kernel keeps no exit status of COMMAND.
        sys::set_default(Signal::SIGCHLD);
        let mut caught = SigSet::from(Signal::SIGCHLD);
        for signal in STOPPING.into_iter().chain([Signal::SIGUSR1]) {
            if !sys::ignored_at_exec(signal) {
                caught.add(signal);
            }
        }
        let mut inherited = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&caught), Some(&mut inherited))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = SignalFd::with_flags(&caught, flags)?;
        let _ = FOR_THE_RUN.set(caught);
        Ok(Signals { fd, inherited })
    }

    /// Where syngate has become another program of its own: its signals were blocked before, and the programs that it
    /// starts are to hear them.
    pub(crate) fn unblocked_for_children(mut self) -> Signals {
        if let Some(caught) = FOR_THE_RUN.get() {
            caught
                .iter()
                .for_each(|signal| self.inherited.remove(signal));
        }
        self
    }

    /// Lets the signals that ask to stop have their default effect again. One that nobody has read came too
    /// late, and is discarded. USR1 stays blocked: there is no gate any more.
    pub(crate) fn unblock() {
        let stopping: SigSet = STOPPING.into_iter().collect();
        while sys::take_pending(&stopping) {
            ASKED_TO_END.store(true, Ordering::Relaxed);
        }
        let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&stopping), None);
    }

    /// Has them wait again, once the run is over, so that the process ends as the run has ended. What still waits for a
    /// program asks [`wants_to_end`].
    pub(crate) fn block_once_more() {
        let stopping: SigSet = { STOPPING.into_iter() }
            .filter(|signal| !sys::ignored_at_exec(*signal))
            .collect();
        let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&stopping), None);
    }

    /// The signal mask that syngate was started with. COMMAND gets it.
    pub(crate) fn inherited(&self) -> &SigSet {
        &self.inherited
    }

    /// Waits for a signal until `until`, or for ever. Returns `None` when the time is over.
    pub(crate) fn wait(&self, until: Option<Instant>) -> Option<Caught> {
        self.wait_beside(until, [])
    }

    /// The same, or until one of `others` can be read.
    ///
    /// A wait can fail because the kernel is out of memory. That must not end the run, so it returns
    /// [`Caught::Child`] after a moment: a child may have ended, and the caller looks and waits again.
    pub(crate) fn wait_beside<'a>(
        &self,
        until: Option<Instant>,
        others: impl IntoIterator<Item = BorrowedFd<'a>>,
    ) -> Option<Caught> {
        let others: Vec<BorrowedFd> = others.into_iter().collect();
        const MOMENT: Duration = Duration::from_millis(10);
        let left = || until.map(|at| at.saturating_duration_since(Instant::now()));
        self.try_wait(&left, &others).unwrap_or_else(|_| {
            let moment = left().map_or(MOMENT, |left| left.min(MOMENT));
            std::thread::sleep(moment);
            Some(Caught::Child)
        })
    }

    fn try_wait(
        &self,
        left: &dyn Fn() -> Option<Duration>,
        others: &[BorrowedFd],
    ) -> io::Result<Option<Caught>> {
        loop {
            // A signal that has come counts, even when the time is over.
            if let Some(caught) = self.read()? {
                return Ok(Some(caught));
            }
            let left = left();
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            if self.poll(left, others)? {
                return Ok(Some(Caught::Readable));
            }
        }
    }

    /// Waits until then, where a signal ends the run and there is no gate to open.
    pub(crate) fn until(&self, until: Instant) -> Result<(), Ending> {
        while let Some(caught) = self.wait(Some(until)) {
            if let Caught::Stop(signal, sender) = caught {
                return Err(Ending::interrupted_before(signal, sender));
            }
        }
        Ok(())
    }

    /// Whether one of `others` can be read, and no signal has come.
    fn poll(&self, timeout: Option<Duration>, others: &[BorrowedFd]) -> io::Result<bool> {
        let all = [self.fd.as_fd()].into_iter().chain(others.iter().copied());
        let mut fds: Vec<PollFd> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match ppoll(&mut fds, timeout.map(TimeSpec::from), None) {
            Ok(_) | Err(Errno::EINTR) => (),
            Err(error) => return Err(error.into()),
        }
        let any = |fd: &PollFd| fd.any().unwrap_or(false);
        Ok(!any(&fds[0]) && fds[1..].iter().any(any))
    }

    fn read(&self) -> io::Result<Option<Caught>> {
        let Some(info) = self.fd.read_signal()? else {
            return Ok(None);
        };
        Ok(Some(match Signal::try_from(info.ssi_signo as i32) {
            Ok(Signal::SIGCHLD) => Caught::Child,
            Ok(Signal::SIGUSR1) => Caught::OpenNow,
            _ => {
                ASKED_TO_END.store(true, Ordering::Relaxed);
                Caught::Stop(info.ssi_signo as i32, sender(info.ssi_code))
            }
        }))
    }
}

/// The terminal driver sends signals as the kernel (SI_KERNEL) to the whole foreground process group.
/// kill(2) and the like have codes of 0 or less (SI_USER and others).
fn sender(code: i32) -> Sender {
    if code == libc::SI_KERNEL {
        Sender::Terminal
    } else {
        Sender::Process
    }
}

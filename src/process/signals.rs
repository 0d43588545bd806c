//! Signals as events. They are blocked and read from a signalfd, so that none interrupts the run
//! anywhere but where it waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;

use crate::words::ended::Sender;
use crate::words::ending::Ending;

/// The signals that ask a run to stop.
const STOPPING: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

/// What came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caught {
    /// INT, TERM, HUP or QUIT.
    Stop(i32, Sender),
    /// USR1.
    OpenNow,
    /// A child has ended, perhaps.
    Child,
    /// There is something to read where else was waited.
    Readable,
}

/// All signals that we care for, blocked from here to the end of the process: one that comes too
/// late to matter must not change how we end.
pub(crate) struct Signals {
    fd: SignalFd,
    inherited: SigSet,
}

impl Signals {
    /// Blocks them. Those that were ignored when we were started stay ignored: a blocked one would
    /// arrive all the same (`nohup`).
    ///
    /// # Errors
    /// The system has no file descriptor left.
    pub(crate) fn block() -> io::Result<Signals> {
        // An ignored SIGCHLD would take COMMAND's exit status away.
        crate::kernel::sys::set_default(Signal::SIGCHLD);
        let mut caught = SigSet::from(Signal::SIGCHLD);
        for signal in STOPPING.into_iter().chain([Signal::SIGUSR1]) {
            if !crate::kernel::sys::ignored_at_exec(signal) {
                caught.add(signal);
            }
        }
        let mut inherited = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&caught), Some(&mut inherited))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = SignalFd::with_flags(&caught, flags)?;
        Ok(Signals { fd, inherited })
    }

    /// Lets those that ask to stop have their default effect again. One that nobody has read came too
    /// late, and is forgotten; USR1 is too late for ever: there is no gate any more.
    pub(crate) fn unblock() {
        STOPPING
            .into_iter()
            .for_each(crate::kernel::sys::forget_pending);
        let ours: SigSet = STOPPING.into_iter().collect();
        let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&ours), None);
    }

    /// The mask that we were started with: COMMAND's.
    pub(crate) fn inherited(&self) -> &SigSet {
        &self.inherited
    }

    /// Waits for a signal until `until` (`None`: as long as it takes). `None` comes back when the
    /// time is over.
    pub(crate) fn wait(&self, until: Option<Instant>) -> Option<Caught> {
        self.wait_beside(until, None)
    }

    /// The same, or until `other` can be read.
    ///
    /// A wait that fails, since the kernel is out of memory, says nothing of anybody's wishes: it is
    /// begun anew after a moment. Meanwhile a child may have ended.
    pub(crate) fn wait_beside(
        &self,
        until: Option<Instant>,
        other: Option<BorrowedFd>,
    ) -> Option<Caught> {
        const MOMENT: Duration = Duration::from_millis(10);
        let left = || until.map(|at| at.saturating_duration_since(Instant::now()));
        self.try_wait(&left, other).unwrap_or_else(|_| {
            let moment = left().map_or(MOMENT, |left| left.min(MOMENT));
            std::thread::sleep(moment);
            Some(Caught::Child)
        })
    }

    fn try_wait(
        &self,
        left: &dyn Fn() -> Option<Duration>,
        other: Option<BorrowedFd>,
    ) -> io::Result<Option<Caught>> {
        loop {
            // What is there already goes first, also when the time is over.
            if let Some(caught) = self.read()? {
                return Ok(Some(caught));
            }
            let left = left();
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            if self.poll(left, other)? {
                return Ok(Some(Caught::Readable));
            }
        }
    }

    /// Waits until then, where a signal ends the run and there is no gate to open.
    ///
    /// # Errors
    /// A signal came.
    pub(crate) fn until(&self, until: Instant) -> Result<(), Ending> {
        while let Some(caught) = self.wait(Some(until)) {
            if let Caught::Stop(signal, sender) = caught {
                return Err(Ending::interrupted_before(signal, sender));
            }
        }
        Ok(())
    }

    /// Whether it is `other` alone that can be read.
    fn poll(&self, timeout: Option<Duration>, other: Option<BorrowedFd>) -> io::Result<bool> {
        let all = [Some(self.fd.as_fd()), other].into_iter().flatten();
        let mut fds: Vec<PollFd> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match ppoll(&mut fds, timeout.map(TimeSpec::from), None) {
            Ok(_) | Err(Errno::EINTR) => (),
            Err(error) => return Err(error.into()),
        }
        let any = |fd: &PollFd| fd.any().unwrap_or(false);
        Ok(!any(&fds[0]) && fds.get(1).is_some_and(any))
    }

    fn read(&self) -> io::Result<Option<Caught>> {
        Ok(self
            .fd
            .read_signal()?
            .map(|info| match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => Caught::Child,
                Ok(Signal::SIGUSR1) => Caught::OpenNow,
                _ => Caught::Stop(info.ssi_signo as i32, sender(info.ssi_code)),
            }))
    }
}

/// The terminal driver sends its signals in the kernel's name (SI_KERNEL), to the whole foreground
/// process group; kill(2) and its kin say so (SI_USER and others, all of them 0 or less).
fn sender(code: i32) -> Sender {
    if code == libc::SI_KERNEL {
        Sender::Terminal
    } else {
        Sender::Process
    }
}

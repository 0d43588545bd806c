//! A longer way to this host: TCP packets that come in over its interfaces
//! wait in a queue of the kernel's (nfnetlink_queue) until they are due. None
//! gets past us, nor past another.

mod queue;

use std::{
    collections::VecDeque,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    panic::resume_unwind,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        signal::Signal,
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};
use testkit::DelayReport;

use super::{first_if, ms, say, signals};
use queue::Queue;

/// A timer of 0 would never fire.
const SHORTEST: Duration = Duration::from_millis(1);
const QUEUE: u16 = 7700;
/// Local addresses only: what is for others (a flood's, say) is dropped here anyway. Without
/// --queue-bypass, the kernel lets nothing through while nobody reads.
const RULE: &str = "PREROUTING ! -i lo -p tcp -m addrtype --dst-type LOCAL -j NFQUEUE --queue-num";
const FAMILIES: [&str; 2] = ["iptables", "ip6tables"];

#[derive(clap::Args)]
pub struct Args {
    /// How much later each packet arrives
    #[arg(long, value_parser = humantime::parse_duration)]
    by: Duration,
}

/// Prints `delaying` when it does, and the report when SIGTERM has ended it and the last packet is
/// through.
pub fn run(args: &Args) -> Result<()> {
    let stop = signals([Signal::SIGTERM])?;
    let mut delay = Delay::new(args.by)?;
    rules("-A")?;
    say("delaying")?;
    delay.run(stop.as_fd())?;
    delay.end(args.by)?;
    say(&serde_json::to_string(&delay.report()?)?)
}

fn rules(verb: &str) -> Result<()> {
    for iptables in FAMILIES {
        let rule = format!("-w -t mangle {verb} {RULE} {QUEUE}");
        let status = Command::new(iptables).args(rule.split(' ')).status()?;
        ensure!(status.success(), "{iptables} {rule}: {status}");
    }
    Ok(())
}

struct Delay {
    by: Duration,
    queue: Queue,
    /// Packets by number, and when they are due; in order.
    waiting: VecDeque<(Instant, u32)>,
    packets: u64,
    /// By how much the latest of them was later than due.
    latest: Duration,
}

impl Delay {
    fn new(by: Duration) -> Result<Self> {
        Ok(Self {
            by,
            queue: Queue::new(QUEUE)?,
            waiting: VecDeque::new(),
            packets: 0,
            latest: Duration::ZERO,
        })
    }

    /// Delays packets until there is something to read, or the end.
    fn run(&mut self, until: BorrowedFd) -> Result<()> {
        loop {
            self.release()?;
            if self.wait(until)? {
                return Ok(());
            }
            self.take_in()?;
        }
    }

    /// Ends it so that no packet is overtaken: they would be sent again if they were.
    fn end(&mut self, by: Duration) -> Result<()> {
        // Later ones wait for the earlier ones only, and the queue runs empty.
        self.by = Duration::ZERO;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
        let once = Expiration::OneShot(TimeSpec::from(by.max(SHORTEST)));
        timer.set(once, TimerSetTimeFlags::empty())?;
        self.run(timer.as_fd())?;
        self.run_while(|| rules("-D"))?;
        // Those that were on their way past the rules when these were deleted.
        while !self.take_in()? {}
        self.release()
    }

    fn run_while(&mut self, act: impl FnOnce() -> Result<()> + Send) -> Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        thread::scope(|scope| {
            let acting = scope.spawn(move || {
                let _closed_at_the_end = theirs;
                act()
            });
            self.run(ours.as_fd())?;
            acting.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Waits for packets, or until the next is due. Whether there is something from elsewhere.
    fn wait(&self, until: BorrowedFd) -> Result<bool> {
        let next = self.waiting.front().map(|(due, _)| *due);
        let left = next.map(|due| due.saturating_duration_since(Instant::now()));
        let mut fds = [self.queue.as_fd(), until].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match ppoll(&mut fds, left.map(TimeSpec::from), None) {
            Ok(_) => Ok(fds[1].any() == Some(true)),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error)?,
        }
    }

    /// Takes note of some packets that have come; whether that was all.
    fn take_in(&mut self) -> Result<bool> {
        // Not of all: those that are due meanwhile have to go.
        const SOME: usize = 256;
        for _ in 0..SOME {
            let Some(number) = self.queue.next()? else {
                return Ok(true);
            };
            let due = Instant::now() + self.by;
            // None is due before an earlier one, even when the delay has become shorter.
            let last = self.waiting.back().map_or(due, |(last, _)| *last);
            self.waiting.push_back((due.max(last), number));
            self.packets += 1;
        }
        Ok(false)
    }

    /// Lets go of all that are due.
    fn release(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut last = None;
        while let Some((due, number)) = first_if(&mut self.waiting, |(due, _)| *due <= now) {
            self.latest = self.latest.max(now - due);
            last = Some(number);
        }
        last.map_or(Ok(()), |last| self.queue.accept_up_to(last))
    }

    fn report(&self) -> Result<DelayReport> {
        Ok(DelayReport {
            packets: self.packets,
            lost: self.queue.lost()?,
            latest_ms: ms(self.latest),
        })
    }
}

use std::{
    io::ErrorKind,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};

use super::plan::Plan;

pub const TIMER: Token = Token(usize::MAX);
pub const STOP: Token = Token(usize::MAX - 1);

/// When a thread's requests are due, and the epoll that wakes it for them and for all else.
pub struct Schedule<'e> {
    plan: &'e Plan<'e>,
    pub poll: Poll,
    /// Fires at each due time.
    timer: TimerFd,
    /// The number of the next one of this thread's.
    next: u64,
    /// From this number on, it issues none.
    end: u64,
}

impl<'e> Schedule<'e> {
    pub fn new(plan: &'e Plan<'e>, next: u64) -> Result<Self> {
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        let wait = plan.due(next).saturating_duration_since(Instant::now());
        let period = plan.interval * plan.args.threads.get();
        timer.set(every(period, wait), TimerSetTimeFlags::empty())?;
        let schedule = Self {
            plan,
            poll: Poll::new()?,
            timer,
            next,
            end: plan.requests,
        };
        schedule.watch()?;
        Ok(schedule)
    }

    fn watch(&self) -> Result<()> {
        let registry = self.poll.registry();
        let (timer, stop) = (self.timer.as_fd().as_raw_fd(), self.plan.stop.as_raw_fd());
        registry.register(&mut SourceFd(&timer), TIMER, Interest::READABLE)?;
        registry.register(&mut SourceFd(&stop), STOP, Interest::READABLE)?;
        Ok(())
    }

    pub fn wait(&mut self, events: &mut Events) -> Result<()> {
        // Only timeouts depend on this: what is due comes with the timer.
        const NEXT_LOOK: Duration = Duration::from_millis(20);
        match self.poll.poll(events, Some(NEXT_LOOK)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error).context("epoll"),
            _ => Ok(()),
        }
    }

    /// Takes note that the timer has fired: unread, it would not fire again.
    pub fn ticked(&self) {
        // There is nothing to read if it was stopped in this very round of events.
        let _ = self.timer.wait();
    }

    /// When the next one is due, if it is.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let due = self.plan.due(self.next);
        (!self.is_over() && due <= now).then_some(due)
    }

    /// The number of the next one, among those of all threads.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The one that was due is taken care of.
    pub fn issued(&mut self) -> Result<()> {
        self.next += self.plan.threads();
        // Let the wait be for answers only.
        if self.is_over() { self.stop() } else { Ok(()) }
    }

    /// Whether this thread issues no more.
    pub fn is_over(&self) -> bool {
        self.next >= self.end
    }

    /// Issues no more. If a signal says so, it isn't read: each thread sees it once.
    pub fn stop(&mut self) -> Result<()> {
        self.end = self.next;
        Ok(self.timer.unset()?)
    }
}

fn every(period: Duration, wait: Duration) -> Expiration {
    // To wait for no time at all would mean: never.
    let wait = wait.max(Duration::from_nanos(1));
    let [wait, period] = [wait, period].map(TimeSpec::from_duration);
    Expiration::IntervalDelayed(wait, period)
}

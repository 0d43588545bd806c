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

use super::Plan;

pub const TIMER: Token = Token(usize::MAX);
pub const STOP: Token = Token(usize::MAX - 1);

/// When a thread's requests are due, and the epoll that wakes it for them and for all else.
pub struct Schedule<'e> {
    plan: &'e Plan<'e>,
    pub poll: Poll,
    /// Fires at each due time.
    timer: TimerFd,
    /// How many were issued, by this thread and those before it.
    issued: u64,
    /// How many will have been when this thread issues no more.
    planned: u64,
}

impl<'e> Schedule<'e> {
    pub fn new(plan: &'e Plan<'e>, issued: u64) -> Result<Self> {
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        let every = Expiration::Interval(TimeSpec::from_duration(plan.interval));
        timer.set(every, TimerSetTimeFlags::empty())?;
        let schedule = Self {
            plan,
            poll: Poll::new()?,
            timer,
            issued,
            planned: plan.requests,
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
        let due = self.plan.due(self.issued);
        (!self.is_over() && due <= now).then_some(due)
    }

    /// The number of the next one: how many came before it.
    pub fn next(&self) -> u64 {
        self.issued
    }

    /// The one that was due is taken care of.
    pub fn issued(&mut self) -> Result<()> {
        self.issued += 1;
        if self.is_over() {
            // Let the wait be for answers only.
            self.timer.unset()?;
        }
        Ok(())
    }

    /// Whether this thread issues no more.
    pub fn is_over(&self) -> bool {
        self.issued >= self.planned
    }

    /// We were told to stop.
    pub fn stop(&mut self) -> Result<()> {
        self.plan.stop.read_signal()?;
        self.end()
    }

    /// Another thread goes on, and is the one to be told to stop.
    pub fn leave(&mut self) -> Result<()> {
        let stop = self.plan.stop.as_raw_fd();
        self.poll.registry().deregister(&mut SourceFd(&stop))?;
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.planned = self.issued;
        Ok(self.timer.unset()?)
    }
}

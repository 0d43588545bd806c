//! An open loop: connections are due at fixed times, whatever became of the
//! earlier ones. One thread, one epoll.

mod answer;
mod connection;
mod tally;

use std::{
    collections::{HashMap, VecDeque},
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use nix::sys::{
    signal::Signal,
    signalfd::SignalFd,
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use testkit::Fate;

use super::{interval, raise_file_limit, say, signals};
use connection::{Connection, Progress};
use tally::Tally;

const TIMER: Token = Token(usize::MAX);
const STOP: Token = Token(usize::MAX - 1);

#[derive(clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    /// Server, as ADDRESS:PORT
    #[arg(long)]
    to: SocketAddr,
    /// Connections a second
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// How long to make connections
    #[arg(long = "for", value_parser = humantime::parse_duration, default_value = "5s")]
    duration: Duration,
    /// How long to wait for an answer
    #[arg(long, value_parser = humantime::parse_duration, default_value = "20s")]
    timeout: Duration,
    /// Wait for a byte from the server before the request
    #[arg(long)]
    greeting: bool,
    /// File of addresses to come from, in turn; one on each line
    #[arg(long)]
    sources: Option<PathBuf>,
}

/// Prints `flowing` once some requests have been answered, at last the report.
pub fn run(args: &Args) -> Result<()> {
    let stop = signals([Signal::SIGTERM])?;
    let files = raise_file_limit()?;
    let mut load = Load::new(args, files)?;
    load.watch(&stop)?;
    load.run(&stop)?;
    say(&serde_json::to_string(&load.tally.report())?)
}

struct Load<'a> {
    args: &'a Args,
    sources: Vec<IpAddr>,
    poll: Poll,
    /// Fires at each due time.
    timer: TimerFd,
    interval: Duration,
    start: Instant,
    /// How many connections there shall be, and how many there were.
    planned: u64,
    issued: u64,
    open: HashMap<usize, Connection>,
    /// When the open ones, and some that are done, time out; in order.
    timeouts: VecDeque<(Instant, usize)>,
    tally: Tally,
    files: u64,
}

impl<'a> Load<'a> {
    fn new(args: &'a Args, files: u64) -> Result<Self> {
        let sources = args.sources.as_deref().map(addresses).transpose()?;
        let interval = interval(args.rate)?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        let every = Expiration::Interval(TimeSpec::from_duration(interval));
        timer.set(every, TimerSetTimeFlags::empty())?;
        let start = Instant::now() + interval;
        Ok(Self {
            args,
            sources: sources.unwrap_or_default(),
            poll: Poll::new()?,
            timer,
            interval,
            start,
            planned: (args.duration.as_secs_f64() * f64::from(args.rate)).round() as u64,
            issued: 0,
            open: HashMap::new(),
            timeouts: VecDeque::new(),
            tally: Tally::new(start, u64::from(args.rate / 10).clamp(1, 20)),
            files,
        })
    }

    fn watch(&self, stop: &SignalFd) -> Result<()> {
        let registry = self.poll.registry();
        let timer = self.timer.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&timer), TIMER, Interest::READABLE)?;
        registry.register(&mut SourceFd(&stop.as_raw_fd()), STOP, Interest::READABLE)?;
        Ok(())
    }

    fn run(&mut self, stop: &SignalFd) -> Result<()> {
        let mut events = Events::with_capacity(4096);
        while self.issued < self.planned || !self.open.is_empty() {
            self.wait(&mut events)?;
            for event in &events {
                match event.token() {
                    // Unread, it would not fire again. There is nothing to read if it was stopped
                    // in this very round of events.
                    TIMER => drop(self.timer.wait()),
                    STOP => self.stop(stop)?,
                    Token(id) => self.advance(id, event)?,
                }
            }
            self.issue_due()?;
            self.time_out();
        }
        Ok(())
    }

    fn wait(&mut self, events: &mut Events) -> Result<()> {
        // Only timeouts depend on this: what is due comes with the timer.
        const NEXT_LOOK: Duration = Duration::from_millis(20);
        match self.poll.poll(events, Some(NEXT_LOOK)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                Err(error).context("epoll")
            }
            _ => Ok(()),
        }
    }

    fn stop(&mut self, stop: &SignalFd) -> Result<()> {
        stop.read_signal()?;
        self.planned = self.issued;
        Ok(self.timer.unset()?)
    }

    fn issue_due(&mut self) -> Result<()> {
        let now = Instant::now();
        while self.issued < self.planned {
            let due = self.start + self.interval.mul_f64(self.issued as f64);
            if due > now {
                return Ok(());
            }
            self.issue(due);
        }
        // Nothing is due any more: let the wait be for answers only.
        Ok(self.timer.unset()?)
    }

    fn issue(&mut self, due: Instant) {
        let id = self.issued as usize;
        self.issued += 1;
        self.tally.sent(due);
        let source = self.source(id);
        match Connection::open(&self.poll, Token(id), self.args.to, source, due) {
            Ok(connection) => {
                self.open.insert(id, connection);
                self.timeouts.push_back((due + self.args.timeout, id));
            }
            Err(error) => {
                let files = self.files;
                let detail = format!("{error} ({} open, at most {files} files)", self.open.len());
                self.tally.failed(due, Fate::Other, detail);
            }
        }
    }

    fn source(&self, id: usize) -> Option<IpAddr> {
        let sources = &self.sources;
        (!sources.is_empty()).then(|| sources[id % sources.len()])
    }

    fn advance(&mut self, id: usize, event: &mio::event::Event) -> Result<()> {
        let Some(connection) = self.open.get_mut(&id) else {
            return Ok(());
        };
        let progress = connection.advance(event, self.args.greeting);
        match progress {
            Progress::Waiting => return Ok(()),
            Progress::Answered => {
                if self.tally.answered(connection) {
                    say("flowing")?;
                }
            }
            Progress::Failed(kind, detail) => {
                self.tally.connected(connection);
                self.tally.failed(connection.due, kind, detail);
            }
        }
        // Dropping it closes it, which also takes it off the epoll.
        self.open.remove(&id);
        Ok(())
    }

    fn time_out(&mut self) {
        let now = Instant::now();
        while let Some((_, id)) = self.timeouts.pop_front_if(|(end, _)| *end <= now) {
            if let Some(connection) = self.open.remove(&id) {
                self.tally.connected(&connection);
                let detail = connection.stage().to_owned();
                self.tally.failed(connection.due, Fate::TimedOut, detail);
            }
        }
    }
}

/// One address on each line.
fn addresses(file: &Path) -> Result<Vec<IpAddr>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let address = |line: &str| line.parse().with_context(|| format!("no address: {line}"));
    text.lines().map(address).collect()
}

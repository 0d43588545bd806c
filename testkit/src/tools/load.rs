//! An open loop: connections are due at fixed times, whatever became of the
//! earlier ones. One thread, one epoll; more of both only if there are more
//! connections at a time than a thread can have files.

mod answer;
mod connection;
mod standby;
mod tally;

use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    thread::{self, Scope},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use nix::{
    libc::EMFILE,
    sys::{
        signal::Signal,
        signalfd::SignalFd,
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};
use testkit::Fate;

use super::{interval, raise_file_limit, say, signals};
use connection::{Connection, Progress};
use standby::Standby;
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
    let plan = Plan::new(args)?;
    thread::scope(|scope| Load::new(&plan, scope, 0)?.run())?;
    let tally = plan.tally.into_inner().expect("nobody has panicked");
    say(&serde_json::to_string(&tally.report())?)
}

/// What is the same for all threads.
struct Plan<'a> {
    args: &'a Args,
    sources: Vec<IpAddr>,
    interval: Duration,
    start: Instant,
    /// How many connections there shall be.
    connections: u64,
    /// How many files a thread can have.
    files: u64,
    stop: SignalFd,
    tally: Mutex<Tally>,
}

impl<'a> Plan<'a> {
    fn new(args: &'a Args) -> Result<Self> {
        let stop = signals([Signal::SIGTERM])?;
        let sources = args.sources.as_deref().map(addresses).transpose()?;
        let interval = interval(args.rate)?;
        let start = Instant::now() + interval;
        let flow = u64::from(args.rate / 10).clamp(1, 20);
        Ok(Self {
            args,
            sources: sources.unwrap_or_default(),
            interval,
            start,
            connections: (args.duration.as_secs_f64() * f64::from(args.rate)).round() as u64,
            files: raise_file_limit()?,
            stop,
            tally: Mutex::new(Tally::new(start, flow)),
        })
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("nobody has panicked")
    }

    fn due(&self, id: u64) -> Instant {
        self.start + self.interval.mul_f64(id as f64)
    }

    fn source(&self, id: usize) -> Option<IpAddr> {
        let sources = &self.sources;
        (!sources.is_empty()).then(|| sources[id % sources.len()])
    }
}

/// One thread's part: it makes the connections until it can't open any more files, when the next
/// thread goes on with that, and sees to its own until they are over.
struct Load<'s, 'e> {
    plan: &'e Plan<'e>,
    next: Standby<'s>,
    poll: Poll,
    /// Fires at each due time.
    timer: TimerFd,
    /// How many connections there were, and how many there will be when we stop making them.
    issued: u64,
    planned: u64,
    open: HashMap<usize, Connection>,
    /// When the open ones, and some that are done, time out; in order.
    timeouts: VecDeque<(Instant, usize)>,
}

impl<'s, 'e> Load<'s, 'e> {
    fn new(plan: &'e Plan<'e>, scope: &'s Scope<'s, 'e>, issued: u64) -> Result<Self> {
        // First, so that it doesn't keep our files open with its own.
        let next = Standby::new(plan, scope)?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        let every = Expiration::Interval(TimeSpec::from_duration(plan.interval));
        timer.set(every, TimerSetTimeFlags::empty())?;
        let load = Self {
            plan,
            next,
            poll: Poll::new()?,
            timer,
            issued,
            planned: plan.connections,
            open: HashMap::new(),
            timeouts: VecDeque::new(),
        };
        load.watch(&plan.stop)?;
        Ok(load)
    }

    fn watch(&self, stop: &SignalFd) -> Result<()> {
        let registry = self.poll.registry();
        let timer = self.timer.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&timer), TIMER, Interest::READABLE)?;
        registry.register(&mut SourceFd(&stop.as_raw_fd()), STOP, Interest::READABLE)?;
        Ok(())
    }

    fn run(mut self) -> Result<()> {
        let mut events = Events::with_capacity(4096);
        while self.issued < self.planned || !self.open.is_empty() {
            self.wait(&mut events)?;
            for event in &events {
                match event.token() {
                    // Unread, it would not fire again. There is nothing to read if it was stopped
                    // in this very round of events.
                    TIMER => drop(self.timer.wait()),
                    STOP => self.stop()?,
                    Token(id) => self.advance(id, event)?,
                }
            }
            self.issue_due()?;
            self.time_out();
        }
        self.next.join()
    }

    fn wait(&mut self, events: &mut Events) -> Result<()> {
        // Only timeouts depend on this: what is due comes with the timer.
        const NEXT_LOOK: Duration = Duration::from_millis(20);
        match self.poll.poll(events, Some(NEXT_LOOK)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error).context("epoll"),
            _ => Ok(()),
        }
    }

    fn stop(&mut self) -> Result<()> {
        self.plan.stop.read_signal()?;
        self.planned = self.issued;
        Ok(self.timer.unset()?)
    }

    fn issue_due(&mut self) -> Result<()> {
        let now = Instant::now();
        while self.issued < self.planned {
            let due = self.plan.due(self.issued);
            if due > now {
                return Ok(());
            }
            if !self.issue(due) {
                return self.hand_over();
            }
        }
        // Nothing is due any more: let the wait be for answers only.
        Ok(self.timer.unset()?)
    }

    /// Begins a connection, unless the open ones leave no file for it.
    fn issue(&mut self, due: Instant) -> bool {
        let id = self.issued as usize;
        let source = self.plan.source(id);
        let opened = Connection::open(&self.poll, Token(id), self.plan.args.to, source, due);
        if is_full(&opened) && !self.open.is_empty() {
            return false;
        }
        self.issued += 1;
        self.plan.tally().sent(due);
        match opened {
            Ok(connection) => {
                self.open.insert(id, connection);
                let end = due + self.plan.args.timeout;
                self.timeouts.push_back((end, id));
            }
            Err(error) => self.not_opened(due, &error),
        }
        true
    }

    fn not_opened(&self, due: Instant, error: &io::Error) {
        let (open, files) = (self.open.len(), self.plan.files);
        let detail = format!("{error} ({open} open, at most {files} files)");
        self.plan.tally().failed(due, Fate::Other, detail);
    }

    /// The next thread makes the other connections, and is the one to be told to stop.
    fn hand_over(&mut self) -> Result<()> {
        let stop = self.plan.stop.as_raw_fd();
        self.poll.registry().deregister(&mut SourceFd(&stop))?;
        self.planned = self.issued;
        self.timer.unset()?;
        self.next.begin(self.issued)
    }

    fn advance(&mut self, id: usize, event: &mio::event::Event) -> Result<()> {
        let Some(connection) = self.open.get_mut(&id) else {
            return Ok(());
        };
        let progress = connection.advance(event, self.plan.args.greeting);
        match progress {
            Progress::Waiting => return Ok(()),
            Progress::Answered => {
                if self.plan.tally().answered(connection) {
                    say("flowing")?;
                }
            }
            Progress::Failed(kind, detail) => {
                let mut tally = self.plan.tally();
                tally.connected(connection);
                tally.failed(connection.due, kind, detail);
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
                let mut tally = self.plan.tally();
                tally.connected(&connection);
                let detail = connection.stage().to_owned();
                tally.failed(connection.due, Fate::TimedOut, detail);
            }
        }
    }
}

fn is_full<T>(opened: &io::Result<T>) -> bool {
    let error = opened.as_ref().err().and_then(io::Error::raw_os_error);
    error == Some(EMFILE)
}

/// One address on each line.
fn addresses(file: &Path) -> Result<Vec<IpAddr>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let address = |line: &str| line.parse().with_context(|| format!("no address: {line}"));
    text.lines().map(address).collect()
}

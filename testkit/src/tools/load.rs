//! An open loop: requests are due at fixed times, whatever became of the
//! earlier ones. A thread is an epoll; there are more of both if told, or if
//! there are more connections at a time than a thread can have files.

mod answer;
mod connection;
mod fresh;
mod keep_alive;
mod line;
mod schedule;
mod standby;
mod tally;

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mio::{Poll, Token};
use nix::sys::{signal::Signal, signalfd::SignalFd};

use super::{interval, raise_file_limit, say, signals};
use connection::{Connection, Manner};
use fresh::Fresh;
use keep_alive::KeepAlive;
use tally::Tally;

#[derive(clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    /// Server, as ADDRESS:PORT
    #[arg(long)]
    to: SocketAddr,
    /// Requests a second
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// How long to make requests
    #[arg(long = "for", value_parser = humantime::parse_duration, default_value = "5s")]
    duration: Duration,
    /// How long to wait for an answer
    #[arg(long, value_parser = humantime::parse_duration, default_value = "20s")]
    timeout: Duration,
    /// Wait for a byte from the server before the request
    #[arg(long)]
    greeting: bool,
    /// Make requests over so many connections, which are kept, instead of one for each. A request for
    /// which none is idle waits in line. Answers need a Content-Length
    #[arg(long, value_name = "CONNECTIONS")]
    keep_alive: Option<NonZeroU32>,
    /// Share the work among so many threads
    #[arg(long, default_value = "1", conflicts_with = "keep_alive")]
    threads: NonZeroU32,
    /// File of addresses to come from, in turn; one on each line
    #[arg(long)]
    sources: Option<PathBuf>,
}

/// Prints `flowing` once some requests have been answered, at last the report.
pub fn run(args: &Args) -> Result<()> {
    let plan = Plan::new(args)?;
    match args.keep_alive {
        Some(connections) => KeepAlive::new(&plan, connections)?.run()?,
        None => run_fresh(&plan)?,
    }
    let tally = plan.tally.into_inner().expect("nobody has panicked");
    say(&serde_json::to_string(&tally.report()?)?)
}

fn run_fresh(plan: &Plan) -> Result<()> {
    thread::scope(|scope| {
        // All of them, before one makes a connection: their standbys keep open what is open now.
        let threads: Result<Vec<_>> = (0..plan.threads())
            .map(|first| Fresh::new(plan, scope, first))
            .collect();
        let threads = threads?
            .into_iter()
            .map(|fresh| scope.spawn(move || fresh.run()));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().try_for_each(join)
    })
}

/// Waits for a thread's end.
fn join(thread: ScopedJoinHandle<Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// What is the same for all threads.
struct Plan<'a> {
    args: &'a Args,
    sources: Vec<IpAddr>,
    interval: Duration,
    start: Instant,
    /// How many requests there shall be.
    requests: u64,
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
            requests: (args.duration.as_secs_f64() * f64::from(args.rate)).round() as u64,
            files: raise_file_limit()?,
            stop,
            tally: Mutex::new(Tally::new(start, flow)),
        })
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("nobody has panicked")
    }

    /// Takes down an answer, and says so once they flow.
    fn answered(&self, connection: &Connection) -> Result<()> {
        let flows = self.tally().answered(connection);
        if flows { say("flowing") } else { Ok(()) }
    }

    /// Begins to connect for the n-th time.
    fn open(&self, poll: &Poll, token: Token, n: usize, due: Instant) -> io::Result<Connection> {
        let manner = Manner {
            greeting: self.args.greeting,
            keep_alive: self.args.keep_alive.is_some(),
        };
        Connection::open(poll, token, self.args.to, self.source(n), manner, due)
    }

    /// Why that was not even possible, with so many open.
    fn not_opened(&self, error: &io::Error, open: usize) -> String {
        format!("{error} ({open} open, at most {} files)", self.files)
    }

    fn threads(&self) -> u64 {
        self.args.threads.get().into()
    }

    fn due(&self, id: u64) -> Instant {
        self.start + self.interval.mul_f64(id as f64)
    }

    fn source(&self, n: usize) -> Option<IpAddr> {
        let sources = &self.sources;
        (!sources.is_empty()).then(|| sources[n % sources.len()])
    }
}

/// One address on each line.
fn addresses(file: &Path) -> Result<Vec<IpAddr>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let address = |line: &str| line.parse().with_context(|| format!("no address: {line}"));
    text.lines().map(address).collect()
}

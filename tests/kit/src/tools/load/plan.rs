//! What was asked for, and what all threads share.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mio::{Poll, Token};
use nix::sys::{signal::Signal, signalfd::SignalFd};

use super::{
    ask::Ask,
    connection::{Connection, Manner},
    tally::Tally,
};
use crate::tools::{interval, raise_file_limit, say, signals};

#[derive(clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    /// Server, as ADDRESS:PORT
    #[arg(long)]
    pub to: SocketAddr,
    /// Requests a second
    #[arg(long, default_value_t = 1000)]
    pub rate: u32,
    /// How long to make requests
    #[arg(long = "for", value_parser = humantime::parse_duration, default_value = "5s")]
    pub duration: Duration,
    /// How long to wait for an answer
    #[arg(long, value_parser = humantime::parse_duration, default_value = "20s")]
    pub timeout: Duration,
    /// Wait for a byte from the server before the request
    #[arg(long)]
    pub greeting: bool,
    /// What to ask
    #[arg(long, value_enum, default_value_t, conflicts_with = "keep_alive")]
    pub ask: Ask,
    /// Make requests over so many connections, which are kept, instead of one for each. A request for
    /// which none is idle waits in line. Answers need a Content-Length
    #[arg(long, value_name = "CONNECTIONS")]
    pub keep_alive: Option<NonZeroU32>,
    /// Make POSTs, which are not sent again on another connection
    #[arg(long, requires = "keep_alive")]
    pub post: bool,
    /// Share the work among so many threads
    #[arg(long, default_value = "1", conflicts_with = "keep_alive")]
    pub threads: NonZeroU32,
    /// Have real-time priority
    #[arg(long)]
    pub urgent: bool,
    /// File of addresses to come from, in turn; one on each line
    #[arg(long)]
    pub sources: Option<PathBuf>,
}

/// What is the same for all threads.
pub struct Plan<'a> {
    pub args: &'a Args,
    pub sources: Vec<IpAddr>,
    pub interval: Duration,
    pub start: Instant,
    /// How many requests there shall be.
    pub requests: u64,
    /// How many files a thread can have.
    pub files: u64,
    pub stop: SignalFd,
    pub tally: Mutex<Tally>,
}

impl<'a> Plan<'a> {
    pub fn new(args: &'a Args) -> Result<Self> {
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

    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("nobody has panicked")
    }

    /// Takes down an answer, and says so once they flow.
    pub fn answered(&self, connection: &Connection) -> Result<()> {
        let flows = self.tally().answered(connection);
        if flows { say("flowing") } else { Ok(()) }
    }

    /// Begins to connect for the n-th time.
    pub fn open(
        &self,
        poll: &Poll,
        token: Token,
        n: usize,
        due: Instant,
    ) -> io::Result<Connection> {
        let manner = Manner {
            ask: self.args.ask,
            greeting: self.args.greeting,
            keep_alive: self.args.keep_alive.is_some(),
            post: self.args.post,
        };
        Connection::open(poll, token, self.args.to, self.source(n), manner, due)
    }

    /// Why that was not even possible, with so many open.
    pub fn not_opened(&self, error: &io::Error, open: usize) -> String {
        format!("{error} ({open} open, at most {} files)", self.files)
    }

    pub fn threads(&self) -> u64 {
        self.args.threads.get().into()
    }

    pub fn due(&self, id: u64) -> Instant {
        self.start + self.interval.mul_f64(id as f64)
    }

    pub fn source(&self, n: usize) -> Option<IpAddr> {
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

//! Watches a port for moments in which nobody listens on it, by the kernel's own list of sockets.

use std::{
    fs::File,
    io::{Read, Seek},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::{signal::Signal, signalfd::SignalFd, time::TimeSpec},
};
use testkit::GapReport;

use super::{ms, say, signals};

/// A gap shorter than this may be missed.
const EVERY: Duration = Duration::from_micros(500);

#[derive(clap::Args)]
pub struct Args {
    /// The port
    #[arg(long)]
    port: u16,
}

/// Prints `watching` after the first look, at last, when told to stop, the report.
pub fn run(args: &Args) -> Result<()> {
    let stop = signals([Signal::SIGTERM])?;
    let mut list = File::open("/proc/net/tcp")?;
    let mut report = GapReport::default();
    let mut gone: Option<Instant> = None;
    listens(&mut list, args.port)?;
    say("watching")?;
    while !told(&stop)? {
        let now = Instant::now();
        match (listens(&mut list, args.port)?, gone) {
            (false, None) => gone = Some(now),
            (true, Some(since)) => {
                report.gaps_ms.push(ms(now - since));
                gone = None;
            }
            _ => (),
        }
    }
    say(&serde_json::to_string(&report)?)
}

/// Waits for the next look, or for the end.
fn told(stop: &SignalFd) -> Result<bool> {
    let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    Ok(ppoll(&mut fds, Some(TimeSpec::from(EVERY)), None)? > 0)
}

/// Listeners are listed first, so a part of the list is enough.
fn listens(list: &mut File, port: u16) -> Result<bool> {
    let mut first = [0; 4096];
    list.rewind()?;
    let length = list.read(&mut first)?;
    let text = String::from_utf8_lossy(&first[..length]);
    let local = format!(":{port:04X}");
    Ok(text.lines().any(|row| {
        let mut columns = row.split_ascii_whitespace().skip(1);
        let here = columns.next().is_some_and(|at| at.ends_with(&local));
        here && columns.nth(1) == Some("0A")
    }))
}

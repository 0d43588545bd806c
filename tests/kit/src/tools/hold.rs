//! One established connection to an echo server, watched for stalls.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::sys::{signal::Signal, signalfd::SignalFd};
use testkit::HoldReport;

use super::{ms, say, signals};

/// An echo that takes longer than this counts as a broken connection.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub struct Args {
    /// Echo server, as ADDRESS:PORT
    #[arg(long)]
    to: SocketAddr,
    /// How long, at most
    #[arg(long = "for", value_parser = humantime::parse_duration, default_value = "1m")]
    duration: Duration,
    /// Time between two bytes
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10ms")]
    every: Duration,
}

/// Prints `flowing` after the first echo, at last the report.
pub fn run(args: &Args) -> Result<()> {
    let stop = signals([Signal::SIGTERM])?;
    let mut stream = TcpStream::connect(args.to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    echo(&mut stream)?;
    say("flowing")?;
    say(&serde_json::to_string(&watch(args, &mut stream, &stop))?)
}

fn watch(args: &Args, stream: &mut TcpStream, stop: &SignalFd) -> HoldReport {
    let mut report = HoldReport {
        echoes: 1,
        longest_stall_ms: 0.0,
        broken: None,
    };
    let end = Instant::now() + args.duration;
    let mut due = Instant::now();
    let mut stopped = false;
    // Told to stop, it asks once more: what broke just before is seen.
    while due < end && !stopped {
        stopped = matches!(stop.read_signal(), Ok(Some(_)));
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if let Err(error) = echo(stream) {
            report.broken = Some(error.to_string());
            return report;
        }
        report.echoes += 1;
        report.longest_stall_ms = report.longest_stall_ms.max(ms(due.elapsed()));
        // After a stall, only the bytes from now on are due.
        due = (due + args.every).max(Instant::now());
    }
    report
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"?")?;
    match stream.read(&mut [0])? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

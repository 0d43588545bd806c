//! The client side: tools of the `testkit` program that run on a host in the
//! background, and what they report.

use std::{
    fmt,
    io::{BufRead, BufReader},
    process::{ChildStdout, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::bin::bin;
use crate::host::Host;
use crate::running::Running;
use crate::slow::slow;

/// A stream of requests at a steady rate, each on a fresh connection unless they are [kept
/// alive](Self::keep_alive): `testkit load`. On a [`slow`] machine they come so many times slower, for as many times longer.
#[derive(Debug, Clone)]
pub struct Load {
    arguments: Vec<String>,
    sources: Vec<String>,
    netns: Option<i32>,
}

impl Load {
    /// To `address:port`; 1,000 a second for 5 s unless told otherwise.
    pub fn to(address: impl Into<String>) -> Self {
        let load = Self {
            arguments: Vec::new(),
            sources: Vec::new(),
            netns: None,
        };
        load.with("--to", address)
    }

    /// Requests a second.
    pub fn rate(self, per_second: u32) -> Self {
        self.with("--rate", (per_second / slow()).max(1).to_string())
    }

    /// How long requests are made, at most: see [`RunningLoad::stop`].
    pub fn duration(self, duration: Duration) -> Self {
        self.with("--for", format!("{}us", (duration * slow()).as_micros()))
    }

    /// How long a client waits for its whole answer; 20 s unless told.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with("--timeout", format!("{}us", (timeout * slow()).as_micros()))
    }

    /// Waits for the server's greeting before the request, so that a reset
    /// before it means: before accept.
    pub fn greeting(mut self) -> Self {
        self.arguments.push("--greeting".to_owned());
        self
    }

    /// Makes the requests over so many connections, at least one: each over the one that has been idle
    /// longest, or, when none is, later, while its time counts. HTTP/1.1; an answer has to tell its
    /// length by Content-Length.
    ///
    /// A connection that the server has closed while it was idle, or after an answer, has failed
    /// nobody: it is made anew when the next request needs it.
    pub fn keep_alive(self, connections: u32) -> Self {
        self.with("--keep-alive", connections.to_string())
    }

    /// Makes POSTs, of connections that are kept alive. Such a request may not be sent again: one whose
    /// connection ends before its answer has failed.
    pub fn post(mut self) -> Self {
        self.arguments.push("--post".to_owned());
        self
    }

    /// What it asks, of a service that does not speak HTTP: `redis`, `postgres`, `ssh`, `smtp`, `imap`. Not for connections that are
    /// kept alive.
    pub fn ask(self, protocol: &str) -> Self {
        self.with("--ask", protocol)
    }

    /// Shares the work among so many threads; one unless told. Not for connections that are kept alive.
    pub fn threads(self, threads: u32) -> Self {
        self.with("--threads", threads.to_string())
    }

    /// Comes before all other work of the machine: real-time priority, so that the client's own
    /// stalls are not taken for the server's.
    pub fn urgent(mut self) -> Self {
        self.arguments.push("--urgent".to_owned());
        self
    }

    /// Comes from these addresses in turn. One has some 45,000 ports, the last of which the kernel
    /// finds slowly.
    pub fn sources<S: Into<String>>(mut self, addresses: impl IntoIterator<Item = S>) -> Self {
        self.sources = addresses.into_iter().map(Into::into).collect();
        self
    }

    /// Comes from the network namespace of that process of the host, as of a container.
    pub fn of_process(mut self, pid: i32) -> Self {
        self.netns = Some(pid);
        self
    }

    /// Starts it on a host.
    pub fn start(&self, host: &Host) -> Result<RunningLoad> {
        let mut arguments = self.arguments.clone();
        if !self.sources.is_empty() {
            let file = self.sources_file(host)?;
            arguments.extend(["--sources".to_owned(), file]);
        }
        let (running, lines) = start_in(host, self.netns, "load", &arguments)?;
        Ok(RunningLoad {
            running,
            lines,
            flowing: false,
        })
    }

    /// The addresses in a file: an argument can't hold thousands.
    fn sources_file(&self, host: &Host) -> Result<String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = host.write(&format!("sources-{n}"), self.sources.join("\n"));
        let file = file.to_str().context("path of the sources")?;
        Ok(file.to_owned())
    }

    fn with(mut self, option: &str, value: impl Into<String>) -> Self {
        self.arguments.extend([option.to_owned(), value.into()]);
        self
    }
}

/// A [`Load`] under way.
#[derive(Debug)]
pub struct RunningLoad {
    running: Running,
    lines: BufReader<ChildStdout>,
    flowing: bool,
}

impl RunningLoad {
    /// Waits until the first requests have been answered.
    pub fn wait_flowing(&mut self) -> Result<()> {
        let line = next_line(&mut self.lines)?;
        if line != "flowing" {
            let report: LoadReport = parse(&line)?;
            bail!("no request was answered: {report}");
        }
        self.flowing = true;
        Ok(())
    }

    /// Waits until all is over, and reports.
    pub fn finish(mut self) -> Result<LoadReport> {
        let mut line = next_line(&mut self.lines)?;
        if !self.flowing && line == "flowing" {
            line = next_line(&mut self.lines)?;
        }
        self.running.wait()?;
        parse(&line)
    }

    /// Makes no more requests, waits for what the open ones come to, and
    /// reports.
    pub fn stop(mut self) -> Result<LoadReport> {
        // It may have come to its end by itself in this moment.
        let _ = self.running.signal(Signal::SIGTERM);
        self.finish()
    }
}

/// What became of a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The connection was refused.
    Refused,
    /// It was reset or closed before the request went out.
    Reset,
    /// It was reset or closed after the request went out, before the whole
    /// answer was in.
    Cut,
    /// The timeout came first.
    TimedOut,
    /// Anything else; see the detail.
    Other,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// When it was due, in ms since the start.
    pub due_ms: f64,
    /// When it failed, in ms since the start.
    pub at_ms: f64,
    /// How.
    pub kind: Fate,
    /// More about that.
    pub detail: String,
}

/// What the clients saw. Times count from when a request was due, not from
/// when it was made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Requests begun.
    pub sent: u64,
    /// Connections begun, also those that failed: one for each request, unless they are kept alive.
    pub connects: u64,
    /// Sent once more on a connection of their own, because the kept one was closed, or reset, before
    /// any of the answer came, as browsers and proxies do; each counts once in `sent`.
    pub resent: u64,
    /// Answered in full, with status 200.
    pub ok: u64,
    /// See [`Fate::Refused`].
    pub refused: u64,
    /// See [`Fate::Reset`].
    pub reset: u64,
    /// See [`Fate::Cut`].
    pub cut: u64,
    /// See [`Fate::TimedOut`].
    pub timed_out: u64,
    /// See [`Fate::Other`].
    pub other: u64,
    /// Among `ok`: the answer took 0.9 s or more, as after a lost SYN.
    pub delayed: u64,
    /// Begun, or lined up for a kept connection, more than 20 ms after they were due: the client
    /// itself (or its machine) was too slow, and the latencies say little.
    pub late: u64,
    /// The first due time, in ms of CLOCK_MONOTONIC.
    pub started_ms: f64,
    /// From the first due time until all was over, in ms.
    pub elapsed_ms: f64,
    /// Processor time of the client, user's and system's, all threads', in ms. Near `elapsed_ms` for
    /// each thread, it was too slow even if none was `late`: above all with kept connections, where
    /// requests then wait in line as if the server were slow. Over a veth, part of the server's TCP
    /// is in it: what the client sends is received in the same system call.
    pub cpu_ms: f64,
    /// Time until connected, of those that were.
    pub connect: Latency,
    /// Time until the whole answer was in, of those that are `ok`.
    pub total: Latency,
    /// The longest time until connected, in ms, in each 10 ms of due time;
    /// 0 where nothing connected.
    pub timeline_ms: Vec<f64>,
    /// The same of the time until the whole answer was in; 0 where nothing was answered.
    pub answers_ms: Vec<f64>,
    /// The first 1,000 failures.
    pub failures: Vec<Failure>,
}

impl LoadReport {
    /// How many weren't answered.
    pub fn failed(&self) -> u64 {
        self.refused + self.reset + self.cut + self.timed_out + self.other
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            resent,
            ok,
            refused,
            reset,
            cut,
            timed_out,
            other,
            delayed,
            late,
            elapsed_ms,
            cpu_ms,
            connect,
            total,
            ..
        } = self;
        write!(
            f,
            "{sent} sent, {resent} of them twice, {ok} ok, {refused} refused, {reset} reset, {cut} cut, \
             {timed_out} timed out, {other} other, {delayed} delayed, {late} late; \
             connect p50 {:.2} p99 {:.2} max {:.1} ms; total max {:.1} ms; \
             client's CPU {cpu_ms:.0} of {elapsed_ms:.0} ms",
            connect.p50_ms, connect.p99_ms, connect.max_ms, total.max_ms
        )?;
        let first = self.failures.first();
        first.map_or(Ok(()), |first| write!(f, "; first failure: {first:?}"))
    }
}

/// Percentiles of a set of times; all 0 if that is empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The least.
    pub min_ms: f64,
    /// The median.
    pub p50_ms: f64,
    /// 99 % are no longer than this.
    pub p99_ms: f64,
    /// 99.9 % are no longer than this.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Latency {
    /// Of times in ms, in any order.
    pub fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let Some(last) = times.len().checked_sub(1) else {
            return Self::default();
        };
        let at = |share: f64| times[(last as f64 * share).ceil() as usize];
        Self {
            min_ms: at(0.0),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: at(1.0),
        }
    }
}

/// One established connection that must never stall: `testkit hold`, to a
/// [`Serve::echo`](crate::services::Serve::echo).
#[derive(Debug)]
pub struct Hold {
    running: Running,
    lines: BufReader<ChildStdout>,
}

impl Hold {
    /// Connects from the host and sends a byte `every` so often; returns when
    /// the first has come back.
    pub fn start(host: &Host, to: &str, every: Duration, duration: Duration) -> Result<Self> {
        let micros = |d: Duration| format!("{}us", d.as_micros());
        let arguments = [
            "--to",
            to,
            "--every",
            &micros(every),
            "--for",
            &micros(duration),
        ]
        .map(str::to_owned);
        let (running, mut lines) = start(host, "hold", &arguments)?;
        let line = next_line(&mut lines)?;
        ensure!(line == "flowing", "no echo: {line}");
        Ok(Self { running, lines })
    }

    /// Closes the connection and reports.
    pub fn stop(mut self) -> Result<HoldReport> {
        // It may have come to its end by itself in this moment.
        let _ = self.running.signal(Signal::SIGTERM);
        let line = next_line(&mut self.lines)?;
        self.running.wait()?;
        parse(&line)
    }
}

/// What [`Hold`] saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HoldReport {
    /// Bytes that came back.
    pub echoes: u64,
    /// The longest time from when a byte was due to be sent until it was
    /// back, in ms.
    pub longest_stall_ms: f64,
    /// What broke the connection, if anything did.
    pub broken: Option<String>,
}

/// Watches an IPv4 port of the host for moments in which no service listens on it: `testkit gaps`. A waiting
/// room of syngate's is none.
#[derive(Debug)]
pub struct Gaps {
    running: Running,
    lines: BufReader<ChildStdout>,
}

impl Gaps {
    /// Returns once it watches.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let arguments = ["--port".to_owned(), port.to_string()];
        let (running, mut lines) = start(host, "gaps", &arguments)?;
        let line = next_line(&mut lines)?;
        ensure!(line == "watching", "it does not watch: {line}");
        Ok(Self { running, lines })
    }

    /// What it has seen.
    pub fn stop(mut self) -> Result<GapReport> {
        self.running.signal(Signal::SIGTERM)?;
        let line = next_line(&mut self.lines)?;
        self.running.wait()?;
        parse(&line)
    }
}

/// What [`Gaps`] saw.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GapReport {
    /// How long no service listened, each time, in ms.
    pub gaps_ms: Vec<f64>,
    /// When one listened again, in ms of CLOCK_MONOTONIC; after the last gap only if it did.
    pub back_at_ms: Vec<f64>,
}

/// A scanner: SYNs from addresses that never answer, `testkit scan`. Each
/// leaves a SYN_RECV behind for a minute or so.
#[derive(Debug)]
pub struct Scan;

impl Scan {
    /// Sends SYNs from [`SCANNERS`](crate::SCANNERS) in the background until
    /// the guard is dropped.
    pub fn start(host: &Host, to: &str, per_second: u32) -> Result<Running> {
        let rate = per_second.to_string();
        let mut command = host.command(bin()?);
        command.args(["scan", "--to", to, "--rate", &rate, "--for", "1h"]);
        host.spawn(command.stdin(Stdio::null()).stdout(Stdio::null()))
    }
}

/// A flood of SYNs from random addresses that never answer, and from random ports: `testkit scan
/// --random`. On a [`slow`] machine they come so many times slower.
#[derive(Debug, Clone)]
pub struct Flood {
    arguments: Vec<String>,
}

impl Flood {
    /// To `address:port`, IPv4; 10,000 a second from [`SCANNERS`](crate::SCANNERS) unless told
    /// otherwise.
    pub fn to(address: impl Into<String>) -> Self {
        let arguments = ["--random", "--for", "1h"].map(str::to_owned).to_vec();
        Self { arguments }.with("--to", address).per_second(10_000)
    }

    /// SYNs a second; 100,000 keep a CPU busy.
    pub fn per_second(self, rate: u32) -> Self {
        self.with("--rate", (rate / slow()).max(1).to_string())
    }

    /// From the addresses between those two, both included; or from a single one and all its ports,
    /// if they are the same. The server has to route them to the client, and nobody may own them.
    pub fn from(self, first: &str, last: &str) -> Self {
        self.with("--from", format!("{first}-{last}"))
    }

    /// Starts it on a host; returns when the first SYNs are sent.
    pub fn start(&self, host: &Host) -> Result<RunningFlood> {
        let (running, mut lines) = start(host, "scan", &self.arguments)?;
        let line = next_line(&mut lines)?;
        ensure!(line == "sending", "no flood: {line}");
        Ok(RunningFlood { running, lines })
    }

    fn with(mut self, option: &str, value: impl Into<String>) -> Self {
        self.arguments.extend([option.to_owned(), value.into()]);
        self
    }
}

/// A [`Flood`] under way, until it is dropped.
#[derive(Debug)]
pub struct RunningFlood {
    running: Running,
    lines: BufReader<ChildStdout>,
}

impl RunningFlood {
    /// Ends it: how many SYNs were sent.
    pub fn stop(mut self) -> Result<u64> {
        #[derive(Deserialize)]
        struct Report {
            sent: u64,
        }
        self.running.signal(Signal::SIGTERM)?;
        let report: Report = parse(&next_line(&mut self.lines)?)?;
        self.running.wait()?;
        Ok(report.sent)
    }
}

/// A longer way to a host: `testkit delay`. Each TCP packet that comes in over its interfaces (not
/// `lo`) arrives so much later, IPv4 and IPv6, in order; to the clients of a server, that is the
/// round-trip time if it is their host's.
///
/// Dropping it ends it, and nothing is lost by that either.
#[derive(Debug)]
pub struct Delay {
    /// Taken only by what ends it.
    tool: Option<(Running, BufReader<ChildStdout>)>,
}

impl Delay {
    /// Returns when it is in force.
    pub fn start(host: &Host, by: Duration) -> Result<Self> {
        let arguments = ["--by".to_owned(), format!("{}us", by.as_micros())];
        let (running, mut lines) = start(host, "delay", &arguments)?;
        let line = next_line(&mut lines)?;
        ensure!(line == "delaying", "no delay: {line}");
        let tool = Some((running, lines));
        Ok(Self { tool })
    }

    /// Ends it, and reports when the last packet has arrived.
    pub fn stop(mut self) -> Result<DelayReport> {
        self.end()
    }

    fn end(&mut self) -> Result<DelayReport> {
        let (mut running, mut lines) = self.tool.take().context("over already")?;
        running.signal(Signal::SIGTERM)?;
        let line = next_line(&mut lines)?;
        running.wait()?;
        parse(&line)
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// What [`Delay`] did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DelayReport {
    /// Packets delayed; a large segment counts as one.
    pub packets: u64,
    /// Packets lost, as there were too many at a time.
    pub lost: u64,
    /// How much later than due a packet arrived, at most, in ms: the machine was too slow.
    pub latest_ms: f64,
}

fn start(
    host: &Host,
    tool: &str,
    arguments: &[String],
) -> Result<(Running, BufReader<ChildStdout>)> {
    start_in(host, None, tool, arguments)
}

/// In the network namespace of a process of the host.
fn start_in(
    host: &Host,
    netns: Option<i32>,
    tool: &str,
    arguments: &[String],
) -> Result<(Running, BufReader<ChildStdout>)> {
    let mut command = match netns {
        None => host.command(bin()?),
        Some(pid) => {
            let mut within = host.command("nsenter");
            within.arg(format!("--net=/proc/{pid}/ns/net")).arg(bin()?);
            within
        }
    };
    command.arg(tool).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = host.spawn(&mut command)?;
    let stdout = running.stdout().context("stdout was piped")?;
    Ok((running, BufReader::new(stdout)))
}

fn next_line(lines: &mut BufReader<ChildStdout>) -> Result<String> {
    let mut line = String::new();
    lines.read_line(&mut line)?;
    ensure!(line.ends_with('\n'), "it ended without a report: {line:?}");
    line.pop();
    Ok(line)
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T> {
    serde_json::from_str(line).with_context(|| format!("not a report: {line}"))
}

#[cfg(test)]
mod tests {
    use super::Latency;

    #[test]
    fn percentiles() {
        let latency = Latency::of((1..=1000).rev().map(f64::from).collect());
        assert_eq!(latency.min_ms, 1.0);
        assert_eq!(latency.p50_ms, 501.0);
        assert_eq!(latency.p99_ms, 991.0);
        assert_eq!(latency.max_ms, 1000.0);
        assert_eq!(Latency::of(vec![]), Latency::default());
    }
}

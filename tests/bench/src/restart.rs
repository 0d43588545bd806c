//! One restart under load: what its clients saw.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;
use testkit::{Gaps, Host, Load, LoadReport, Pair, SERVER, SERVER6, Trio, VIP, VIP6, wait_until};

use crate::{
    sample::{Family, Mode, Sample},
    subjects::{Service, Subject},
    ways::{MAKE_PLUG, Parts, Way},
};

/// How long the clients come before the restart begins.
const BEFORE: Duration = Duration::from_millis(300);
/// Longer than any restart here: the load is told to stop.
const LONGEST: Duration = Duration::from_secs(120);
/// A wait for a state that is sure to come.
const SOON: Duration = Duration::from_secs(20);
/// How many connections clients keep, if they do.
const KEPT: u32 = 200;

/// The clients.
#[derive(Debug, Clone, Copy)]
pub struct Clients {
    /// Requests a second.
    pub rate: u32,
    /// A connection for each, or connections that are kept.
    pub mode: Mode,
    /// IPv4 or IPv6.
    pub family: Family,
    /// How many addresses they come from.
    pub sources: u32,
    /// How long they go on coming, besides what the subject wants.
    pub tail: Duration,
}

/// A subject that runs, and its clients.
pub struct Stage<'a> {
    subject: &'a Subject,
    service: Box<dyn Service + 'a>,
    server: &'a Host,
    client: &'a Host,
    address: &'static str,
    sources: Vec<String>,
    standby: bool,
    syngate: &'a Path,
}

/// The hosts that a stage is built on.
pub enum Net {
    /// A server that is its own client: the plug qdisc holds nobody else.
    One(Host),
    /// A server and a client.
    Two(Pair),
    /// A pair of servers that share an address, and a client.
    Three(Trio),
}

impl Net {
    /// As the way needs them. All packets of a connection are on one CPU, as network cards have it.
    pub fn for_way(way: Way) -> Result<Net> {
        Ok(match way {
            Way::Plug => {
                let host = Host::new()?;
                host.run(["sh", "-ec", MAKE_PLUG])?;
                Net::One(host)
            }
            Way::Divert => Net::Three(Trio::steered_by_flow()?),
            _ => Net::Two(Pair::steered_by_flow()?),
        })
    }
}

impl<'a> Stage<'a> {
    /// Starts the subject; on both hosts of a pair.
    pub fn new(
        net: &'a Net,
        subject: &'a Subject,
        clients: &Clients,
        syngate: &'a Path,
    ) -> Result<Stage<'a>> {
        let v4 = clients.family == Family::Ipv4;
        let (server, client, address, sources) = match net {
            Net::One(host) => (host, host, "127.0.0.1", Vec::new()),
            Net::Two(pair) => {
                let sources = match (clients.sources, v4) {
                    (1, _) => Vec::new(),
                    (n, true) => pair.client_addresses(n)?,
                    (n, false) => pair.client_addresses6(n)?,
                };
                let address = if v4 { SERVER } else { SERVER6 };
                (&pair.server, &pair.client, address, sources)
            }
            Net::Three(trio) => {
                // The other host's service is nobody's to restart.
                drop((subject.start)(&trio.b)?);
                let address = if v4 { VIP } else { VIP6 };
                (&trio.a, &trio.client, address, Vec::new())
            }
        };
        let service = (subject.start)(server)?;
        server.wait_listen(80)?;
        Ok(Stage {
            subject,
            service,
            server,
            client,
            address,
            sources,
            standby: false,
            syngate,
        })
    }

    /// Restarts it once, in one way.
    pub fn restart(&mut self, way: Way, clients: &Clients) -> Result<Sample> {
        if way.needs_standby() && !self.standby {
            self.service.start_standby()?;
            self.standby = true;
        }
        self.service.prepare()?;
        self.wait_listening()?;
        let files = Files::new(self.server);
        let parts = Parts {
            syngate: self.syngate,
            options: self.subject.options,
            report: &files.report,
            clock: &files.clock,
        };
        let script = way.script(&self.service.restart(), &parts);
        let gaps = Gaps::start(self.server, 80)?;
        let mut load = self.load(clients).start(self.client)?;
        load.wait_flowing()?;
        thread::sleep(BEFORE);
        let began = now_ms()?;
        self.run(&script)?;
        let mut closed = files.read(way, clients.family)?;
        while self.service.prepare_another()? {
            self.run(&script)?;
            closed = closed.or_longer(files.read(way, clients.family)?);
        }
        let returned = now_ms()?;
        thread::sleep(self.subject.tail + clients.tail);
        let seen = load.stop()?;
        let gaps = gaps.stop()?;
        let gap_ms = gaps.gaps_ms.iter().copied().fold(0.0, f64::max);
        // A linger is no part of the restart.
        let ended = closed.opened_at_ms.unwrap_or(returned);
        let back = gaps.back_at_ms.last().copied();
        Ok(Sample {
            round: 0,
            subject: self.subject.name.to_owned(),
            way,
            mode: clients.mode,
            family: clients.family,
            rate: clients.rate,
            sources: clients.sources,
            began_ms: began - seen.started_ms,
            ended_ms: ended - seen.started_ms,
            gap_ms,
            closed_ms: closed.closed_ms,
            drain_ms: closed.drain_ms,
            back_ms: back.zip(closed.closed_at_ms).map(|(back, at)| back - at),
            ..Sample::of(seen)
        })
    }

    /// A command may return before its service listens. /proc/net/tcp, which has all connections that are over as
    /// well, would take its time.
    fn wait_listening(&self) -> Result<()> {
        let listed = || self.server.run(["ss", "-Hltn", "sport = :80"]);
        let listens = || listed().is_ok_and(|listed| !listed.is_empty());
        wait_until(SOON, "the service to listen", listens)
    }

    fn load(&self, clients: &Clients) -> Load {
        let to = match clients.family {
            Family::Ipv4 => format!("{}:80", self.address),
            Family::Ipv6 => format!("[{}]:80", self.address),
        };
        let load = Load::to(to).rate(clients.rate).duration(LONGEST);
        // A host of its own would not have to wait for the service's processors.
        let load = load.urgent().sources(self.sources.iter().cloned());
        let load = match self.subject.ask {
            "http" => load,
            protocol => load.ask(protocol),
        };
        match clients.mode {
            Mode::Fresh => load,
            Mode::KeepAlive => load.keep_alive(KEPT),
        }
    }

    fn run(&self, script: &str) -> Result<()> {
        let log = self.server.dir().join("restart.log");
        let mut shell = self.server.command("sh");
        shell.args(["-ec", script]).stdin(Stdio::null());
        shell
            .stdout(fs::File::create(&log)?)
            .stderr(fs::File::options().append(true).open(&log)?);
        let status = shell.status()?;
        let said = || fs::read_to_string(&log).unwrap_or_default();
        ensure!(status.success(), "{script}: {status}: {}", said());
        Ok(())
    }
}

/// Milliseconds of CLOCK_MONOTONIC, which is the same for all hosts here.
fn now_ms() -> Result<f64> {
    clock_ms(ClockId::CLOCK_MONOTONIC)
}

fn clock_ms(clock: ClockId) -> Result<f64> {
    let now: Duration = clock_gettime(clock)?.into();
    Ok(now.as_secs_f64() * 1e3)
}

/// What a way writes down about when it was closed.
struct Files {
    report: PathBuf,
    clock: PathBuf,
}

#[derive(Default)]
struct ClosedTimes {
    closed_ms: Option<f64>,
    drain_ms: Option<f64>,
    /// On the clock of [`now_ms`].
    closed_at_ms: Option<f64>,
    /// See `closed_at_ms`.
    opened_at_ms: Option<f64>,
}

impl ClosedTimes {
    /// Of two restarts, the one that was closed for longer; and when the last was over.
    fn or_longer(self, last: ClosedTimes) -> ClosedTimes {
        let opened_at_ms = last.opened_at_ms;
        let longer = match self.closed_ms > last.closed_ms {
            true => self,
            false => last,
        };
        ClosedTimes {
            opened_at_ms,
            ..longer
        }
    }
}

impl Files {
    fn new(host: &Host) -> Files {
        let [report, clock] = ["report.json", "clock"].map(|name| host.dir().join(name));
        for old in [&report, &clock] {
            let _ = fs::remove_file(old);
        }
        Files { report, clock }
    }

    fn clock(&self) -> Result<Vec<f64>> {
        let text = fs::read_to_string(&self.clock)?;
        Ok(text.lines().map(str::parse).collect::<Result<_, _>>()?)
    }

    /// What recipes do, they do to IPv4 only.
    fn read(&self, way: Way, family: Family) -> Result<ClosedTimes> {
        if way.is_syngate() {
            let report: Value = serde_json::from_str(&fs::read_to_string(&self.report)?)?;
            let [after, closed] = ["closed_after_ms", "closed_ms"].map(|n| report[n].as_f64());
            let began = self.clock()?.first().context("when syngate began")? / 1e6;
            let began = began - clock_ms(ClockId::CLOCK_REALTIME)? + now_ms()?;
            return Ok(ClosedTimes {
                closed_ms: closed,
                closed_at_ms: after.map(|after| began + after),
                opened_at_ms: after
                    .zip(closed)
                    .map(|(after, closed)| began + after + closed),
                drain_ms: report["phases"]["drain_ms"].as_f64(),
            });
        }
        if way == Way::Bare || family == Family::Ipv6 {
            return Ok(ClosedTimes::default());
        }
        let times = self.clock()?;
        let [closed, opened] = times[..] else {
            bail!("times of a recipe: {times:?}");
        };
        Ok(ClosedTimes {
            closed_ms: Some((opened - closed) / 1e6),
            ..ClosedTimes::default()
        })
    }
}

impl Sample {
    /// What the clients saw; the rest is for the caller to fill in.
    fn of(seen: LoadReport) -> Sample {
        Sample {
            sent: seen.sent,
            resent: seen.resent,
            ok: seen.ok,
            refused: seen.refused,
            reset: seen.reset,
            cut: seen.cut,
            timed_out: seen.timed_out,
            other: seen.other,
            delayed: seen.delayed,
            late: seen.late,
            cpu_ms: seen.cpu_ms,
            connect: seen.connect,
            total: seen.total,
            failed_at_ms: seen.failures.iter().map(|failure| failure.due_ms).collect(),
            timeline_ms: seen.timeline_ms,
            answers_ms: seen.answers_ms,
            ..Sample::default()
        }
    }
}

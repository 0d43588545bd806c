//! The soak: for long, new connections come all the time, and once a second the service is restarted, on
//! every backend, with every action, in turn. Nobody may be refused, nothing left, and nothing may grow.
//!
//! ```text
//!   minute after minute:  clients  |----- new connections, IPv4 and IPv6 -----|
//!                         service  | restart | restart | restart | ...        |  quiet: count what is there
//! ```
//!
//! syngate is the debug build for all of it: that one can also lack what old kernels lack, and it stops
//! at an overflow. What the optimised build does to clients is the bench's.

mod gauge;
mod inside;
mod seen;
mod verdict;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::{
    Host, Load, Running, RunningLoad, Trio, VIP, VIP6, append_row, digest, mend_rows, say,
    services::{Haproxy, HaproxyConfig, Serve},
};

use crate::{
    lines::Inside,
    setting::{self, Place, SETTINGS, Setting},
};
use inside::Order;
use seen::{Clients, Round, Run, Sample};

pub use inside::serve as inside;
pub use seen::Totals;

/// From the start of a restart to the start of the next, if it takes no longer.
const PERIOD: Duration = Duration::from_secs(1);
/// What is under way when the clients have gone is over by then, in the kernel, too.
const QUIET: Duration = Duration::from_secs(1);
/// One round of so many has haproxy restarted, the third first.
const HAPROXY_EVERY: usize = 5;
/// An address has some 45,000 ports, and each rests for a minute when it was used.
const SOURCES: u32 = 8;

#[derive(clap::Args)]
pub struct Args {
    /// The file of results: a line of JSON for each restart, each round, and the totals at last
    #[arg(long)]
    results: PathBuf,
    /// The syngate to use: a debug build
    #[arg(long)]
    syngate: PathBuf,
    /// How long clients come, in all
    #[arg(long, default_value_t = 1_800, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// A round's length, in seconds: after each, what is there is counted
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// New connections a second, half of them over IPv6
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..))]
    rate: u32,
    /// Only these settings. With drop alone, a client that was dropped comes again a second later, and so
    /// does the next restart
    #[arg(long, value_parser = setting::asked)]
    setting: Vec<Setting>,
    /// Restart without syngate: what the soak has to find
    #[arg(long)]
    bare: bool,
}

/// Soaks, and tells what was not as promised.
///
/// # Errors
/// Something was not, or the soak itself could not go on.
pub fn run(args: &Args) -> Result<()> {
    ensure!(
        !testkit::rootless(),
        "only root can count what is in the kernel"
    );
    let rounds = args.seconds / args.every;
    ensure!(
        rounds >= 2,
        "--seconds {}: what grows is seen in two rounds of {} s at least",
        args.seconds,
        args.every
    );
    mend_rows(&args.results)?;
    let build = digest(&args.syngate)?;
    let keep = |what: &str, row: serde_json::Value| {
        append_row(&args.results, &json!({ "syngate": build, what: row }))
    };
    let mut soak = Soak::new(args)?;
    let (mut runs, mut done) = (Vec::new(), Vec::new());
    for number in 0..rounds as usize {
        let (of_round, round) = soak.round(number)?;
        for run in &of_round {
            keep("run", serde_json::to_value(run)?)?;
        }
        keep("round", serde_json::to_value(&round)?)?;
        say(&round.to_string())?;
        runs.extend(of_round);
        done.push(round);
    }
    let totals = Totals::of(&soak.names(), &runs, &done);
    keep("totals", serde_json::to_value(&totals)?)?;
    say(&totals.to_string())?;
    let violations = totals.violations.len();
    ensure!(violations == 0, "{violations} violations");
    Ok(())
}

/// A service that is restarted: another program on another port.
struct Service {
    name: &'static str,
    port: u16,
    restart: Vec<String>,
    /// For a run that keeps nobody from it.
    reload: Vec<String>,
}

struct Soak<'a> {
    args: &'a Args,
    settings: Vec<Option<Setting>>,
    next: usize,
    services: [Service; 2],
    inside: Inside,
    _peer: Running,
    trio: Trio,
}

impl<'a> Soak<'a> {
    fn new(args: &'a Args) -> Result<Soak<'a>> {
        let trio = Trio::steered_by_flow()?;
        for n in 1..=SOURCES {
            let (v4, v6) = source(n);
            for address in [v4 + "/24", v6 + "/64"] {
                let add = ["ip", "address", "add", &address, "dev", "eth0"];
                trio.client.run(add)?;
            }
        }
        for variant in ["nft", "legacy"] {
            trio.a.has_firewall(variant)?;
        }
        let peer = everywhere(80).and_on("0.0.0.0:81").and_on("[::]:81");
        let peer = peer.start(&trio.b)?;
        let services = services(&trio.a)?;
        let place = serde_json::to_string(&Place::on(&trio.a, &args.syngate, Path::new(""))?)?;
        let (inside, ()) = Inside::start(&trio.a, &["inside-soak", &place])?;
        // haproxy sets SO_REUSEPORT, and the other one does not.
        let all = SETTINGS
            .into_iter()
            .filter(|s| !s.shares_port && !s.keeps());
        let asked = |s: &Setting| args.setting.is_empty() || args.setting.contains(s);
        let wanted = all.filter(asked);
        let settings = match args.bare {
            true => vec![None],
            false => wanted.map(Some).collect(),
        };
        Ok(Soak {
            args,
            settings,
            next: 0,
            services,
            inside,
            _peer: peer,
            trio,
        })
    }

    /// What is restarted, in the results.
    fn names(&self) -> Vec<&'static str> {
        self.settings
            .iter()
            .map(|s| s.map_or(seen::BARE, |s| s.name))
            .collect()
    }

    fn round(&mut self, number: usize) -> Result<(Vec<Run>, Round)> {
        let haproxy = number % HAPROXY_EVERY == 2;
        let service = usize::from(haproxy);
        let long = Duration::from_secs(self.args.every);
        let began = Instant::now();
        let mut loads = self.loads(self.services[service].port, long)?;
        loads.iter_mut().try_for_each(RunningLoad::wait_flowing)?;
        let mut runs = Vec::new();
        while began.elapsed() < long {
            let next = (Instant::now() + PERIOD).min(began + long);
            runs.push(self.restart(service)?);
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let reports = loads.map(RunningLoad::finish);
        let clients = [VIP, VIP6].into_iter().zip(reports);
        let clients = clients.map(|(to, report)| Ok(Clients::of(to, report?)));
        let clients = clients.collect::<Result<Vec<Clients>>>()?;
        thread::sleep(QUIET);
        let sample: Sample = self.inside.ask(&Order::Sample)?;
        let round = Round {
            number,
            service: self.services[service].name.to_owned(),
            seconds: self.args.every,
            restarts: runs.len(),
            clients,
            sample,
        };
        Ok((runs, round))
    }

    fn loads(&self, port: u16, long: Duration) -> Result<[RunningLoad; 2]> {
        let v6 = self.args.rate / 2;
        let sources: (Vec<String>, Vec<String>) = (1..=SOURCES).map(source).unzip();
        let load = |to: String, rate: u32, sources: Vec<String>| {
            let load = Load::to(to).rate(rate).duration(long);
            load.sources(sources).start(&self.trio.client)
        };
        Ok([
            load(format!("{VIP}:{port}"), self.args.rate - v6, sources.0)?,
            load(format!("[{VIP6}]:{port}"), v6, sources.1)?,
        ])
    }

    fn restart(&mut self, service: usize) -> Result<Run> {
        let setting = self.settings[self.next % self.settings.len()];
        self.next += 1;
        let Service {
            name,
            port,
            restart,
            reload,
        } = &self.services[service];
        let hands_over = setting.is_some_and(|setting| setting.hands_over());
        let order = Order::Restart {
            setting: setting.map(|setting| setting.name.to_owned()),
            service: (*name).to_owned(),
            port: *port,
            command: if hands_over { reload } else { restart }.clone(),
        };
        self.inside.ask(&order)
    }
}

/// The n-th of the addresses that clients come from.
fn source(n: u32) -> (String, String) {
    (format!("10.79.0.{}", 20 + n), format!("fd79::{}", 20 + n))
}

fn everywhere(port: u16) -> Serve {
    Serve::on(format!("0.0.0.0:{port}")).and_on(format!("[::]:{port}"))
}

/// Both hard to restart: they are killed, with all that they have, and start anew.
fn services(host: &Host) -> Result<[Service; 2]> {
    let server = everywhere(80).start_daemon(host)?;
    let haproxy = Haproxy::debian_init(host, &HaproxyConfig::port(81))?;
    haproxy.start()?;
    host.wait_listen(81)?;
    Ok([
        Service {
            name: "server",
            port: 80,
            restart: server.restart_argv(),
            reload: server.reload_argv(),
        },
        Service {
            name: "haproxy",
            port: 81,
            restart: haproxy.restart_argv(),
            reload: haproxy.reload_argv(),
        },
    ])
}

//! The bench: how services are restarted today, and by syngate, side by side in one run.

mod costs;
mod inside;
mod machine;
mod restart;
mod results;
mod sample;
mod subjects;
mod tables;
mod ways;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use testkit::say;

use machine::Machine;
use restart::{Clients, Net, Stage};
use results::{MANY, RESTARTS, Results};
use sample::{Family, Mode, Sample};
use subjects::{SUBJECTS, Subject};
use ways::Way;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Restart every service in every way that fits it, round by round
    Restarts(Restarts),
    /// Restart haproxy again and again with SYNs held
    Many(Many),
    /// What syngate itself costs
    Costs(Costs),
    /// Write the tables, into the folder of results and between the markers of a README
    Render {
        /// The folder of results
        #[arg(long)]
        results: PathBuf,
        /// The README
        #[arg(long)]
        readme: Option<PathBuf>,
        /// Change nothing: fail if anything would change
        #[arg(long)]
        check: bool,
    },
    /// Time the commands of a file; for inside a host
    #[command(hide = true)]
    Inside { tasks: String },
    /// Keep connections within this host; for inside a host
    #[command(hide = true)]
    Crowd { count: u32, on: SocketAddr },
}

#[derive(clap::Args)]
struct Common {
    /// The folder of results; rounds that it has are not repeated
    #[arg(long)]
    results: PathBuf,
    /// The syngate to measure
    #[arg(long)]
    syngate: PathBuf,
}

#[derive(clap::Args)]
struct Restarts {
    #[command(flatten)]
    common: Common,
    /// How many of each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Requests a second; otherwise as each service has it
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How many addresses the clients come from; from several, not to a pair of hosts, nor through a
    /// plug qdisc
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    sources: u32,
    /// Only these services
    #[arg(long, value_parser = subject)]
    subject: Vec<&'static Subject>,
    /// Only these ways
    #[arg(long)]
    way: Vec<Way>,
    /// Only clients that do this
    #[arg(long)]
    mode: Option<Mode>,
    /// Only this version of IP
    #[arg(long)]
    family: Option<Family>,
}

#[derive(clap::Args)]
struct Many {
    #[command(flatten)]
    common: Common,
    /// How many restarts
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// Connections a second
    #[arg(long, default_value_t = 2_500)]
    rate: u32,
    /// Connections in all: each restart has its part
    #[arg(long, default_value_t = 1_000_000)]
    connections: u32,
}

#[derive(clap::Args)]
struct Costs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    what: costs::Args,
}

fn main() -> Result<()> {
    match Cli::parse().what {
        What::Restarts(args) => restarts(&args),
        What::Many(args) => many(&args),
        What::Costs(args) => {
            let (results, syngate, _) = args.common.open()?;
            costs::all(&results, &syngate, &args.what)
        }
        What::Render {
            results,
            readme,
            check,
        } => tables::render(&Results::at(&results), readme.as_deref(), check),
        What::Inside { tasks } => inside::run(&tasks),
        What::Crowd { count, on } => inside::crowd(count, on),
    }
}

fn subject(name: &str) -> Result<&'static Subject, String> {
    let names = SUBJECTS.iter().map(|subject| format!("'{}'", subject.name));
    let names: Vec<String> = names.collect();
    subjects::named(name).ok_or_else(|| format!("there are: {}", names.join(", ")))
}

impl Common {
    /// The results must be of the same machine and versions, or there must be none.
    fn open(&self) -> Result<(Results, PathBuf, Machine)> {
        ensure!(
            !testkit::rootless(),
            "only root can measure: in the network namespaces of others everything costs more"
        );
        let syngate = self.syngate.canonicalize();
        let syngate = syngate.with_context(|| self.syngate.display().to_string())?;
        let results = Results::at(&self.results);
        let machine = machine::note(&results, &syngate)?;
        Ok((results, syngate, machine))
    }
}

// Restarts ----------------------------------------------------------------------------------------

fn restarts(args: &Restarts) -> Result<()> {
    let (results, syngate, machine) = args.common.open()?;
    let there: Vec<Sample> = results.read(RESTARTS)?;
    ensure!(
        there.iter().all(|sample| sample.sources == args.sources),
        "{}: these results are of another --sources: choose another folder",
        results.folder.display()
    );
    let kinds = args.kinds(&machine);
    ensure!(
        !kinds.is_empty(),
        "no way to measure: the services asked for have none of these ways, or this machine cannot"
    );
    for round in 1..=args.rounds {
        for (subject, clients, ways) in &kinds {
            let is_there = |way: &Way| {
                there.iter().any(|sample| {
                    (sample.round, sample.way) == (round, *way)
                        && sample.subject == subject.name
                        && clients.are_of(sample)
                })
            };
            let missing = ways.iter().copied().filter(|way| !is_there(way));
            let missing = missing.collect();
            round_of(&results, &syngate, subject, clients, round, missing)?;
        }
    }
    say(&format!(
        "{} rounds are there: {}",
        args.rounds,
        results.folder.display()
    ))
}

impl Restarts {
    /// Everything that is asked for, and can be measured here.
    fn kinds(&self, machine: &Machine) -> Vec<(&'static Subject, Clients, Vec<Way>)> {
        let asked = |subject: &&Subject| {
            self.subject.is_empty() || self.subject.iter().any(|s| s.name == subject.name)
        };
        let subjects = SUBJECTS.iter().filter(asked);
        let kinds = subjects.flat_map(|subject| {
            let clients = self.clients(subject).into_iter();
            clients.map(move |clients| (subject, clients, self.ways(subject, &clients)))
        });
        let can = |way: &Way| *way != Way::Plug || machine.sch_plug;
        kinds
            .map(|(subject, clients, ways)| {
                (
                    subject,
                    clients,
                    ways.into_iter().filter(can).collect::<Vec<_>>(),
                )
            })
            .filter(|(_, _, ways)| !ways.is_empty())
            .collect()
    }

    /// Who connects: fresh over IPv4 to all, and to some also in the other ways.
    fn clients(&self, subject: &Subject) -> Vec<Clients> {
        let clients = |(rate, mode, family)| Clients {
            rate,
            mode,
            family,
            sources: self.sources,
            tail: Duration::ZERO,
        };
        let of_subject = subject.rates.to_vec();
        let rates = self.rate.map_or(of_subject, |rate| vec![rate]);
        let usual = rates[0];
        let mut kinds = vec![(usual, Mode::Fresh, Family::Ipv4)];
        if subject.keep_alive {
            kinds.extend([
                (usual, Mode::KeepAlive, Family::Ipv4),
                (usual, Mode::Fresh, Family::Ipv6),
            ]);
        }
        let more = rates[1..].iter();
        kinds.extend(more.map(|rate| (*rate, Mode::Fresh, Family::Ipv4)));
        kinds.retain(|(_, mode, family)| {
            self.mode.is_none_or(|m| m == *mode) && self.family.is_none_or(|f| f == *family)
        });
        kinds.into_iter().map(clients).collect()
    }

    fn ways(&self, subject: &Subject, clients: &Clients) -> Vec<Way> {
        let usual = self.rate.unwrap_or(subject.rates[0]);
        let compared = |way: &Way| matches!(way, Way::Bare | Way::Hold | Way::Park | Way::Handover);
        let fits = |way: &Way| match (clients.mode, clients.family) {
            _ if clients.rate != usual => compared(way),
            (Mode::Fresh, Family::Ipv4) => true,
            (Mode::Fresh, Family::Ipv6) => {
                !matches!(way, Way::Divert | Way::Plug | Way::FolkNoSleep)
            }
            // Connections that are kept would keep a second instance for as long as it may linger.
            (Mode::KeepAlive, _) => matches!(way, Way::Bare | Way::Folk | Way::Drop | Way::Hold),
        };
        let asked = |way: &Way| self.way.is_empty() || self.way.contains(way);
        // Those have one client.
        let comes = |way: &Way| self.sources == 1 || !way.has_its_own_net();
        let ways = subject.ways.iter().copied();
        ways.filter(fits).filter(asked).filter(comes).collect()
    }
}

/// All ways in turn, on hosts that are made for this round. Each round begins with another way: what
/// one leaves (a second instance, NAT's connection tracking) is there for those after it. Those that
/// have hosts of their own leave nothing, and are first.
fn round_of(
    results: &Results,
    syngate: &Path,
    subject: &'static Subject,
    clients: &Clients,
    round: u32,
    ways: Vec<Way>,
) -> Result<()> {
    let (apart, mut together): (Vec<Way>, Vec<Way>) =
        ways.into_iter().partition(|way| way.has_its_own_net());
    let first = round as usize % together.len().max(1);
    together.rotate_left(first);
    for ways in apart.into_iter().map(|way| vec![way]).chain([together]) {
        let Some(first) = ways.first() else {
            continue;
        };
        let net = Net::for_way(*first)?;
        let mut stage = Stage::new(&net, subject, clients, syngate)?;
        for way in ways {
            let mut sample = stage.restart(way, clients)?;
            sample.round = round;
            say(&line(&sample))?;
            // One picture shows it.
            let first = &SUBJECTS[0];
            let shown = (first.name, first.rates[0], Mode::Fresh, Family::Ipv4);
            if (subject.name, clients.rate, clients.mode, clients.family) != shown {
                sample.forget_timelines();
            }
            results.append(RESTARTS, &sample)?;
        }
    }
    Ok(())
}

/// So many restarts, so many connections in all.
fn many(args: &Many) -> Result<()> {
    let (results, syngate, _) = args.common.open()?;
    let there: Vec<Sample> = results.read(MANY)?;
    ensure!(
        there.iter().all(|sample| sample.rate == args.rate),
        "{}: these results are of another --rate: choose another folder",
        results.folder.display()
    );
    let subject = &SUBJECTS[0];
    let each = f64::from(args.connections) / f64::from(args.rounds) / f64::from(args.rate);
    let clients = Clients {
        rate: args.rate,
        mode: Mode::Fresh,
        family: Family::Ipv4,
        sources: 16,
        tail: Duration::from_secs_f64(each),
    };
    let net = Net::for_way(Way::Hold)?;
    let mut stage = Stage::new(&net, subject, &clients, &syngate)?;
    for round in there.len() as u32 + 1..=args.rounds {
        let mut sample = stage.restart(Way::Hold, &clients)?;
        sample.round = round;
        sample.forget_timelines();
        say(&line(&sample))?;
        results.append(MANY, &sample)?;
    }
    Ok(())
}

impl Clients {
    fn are_of(&self, sample: &Sample) -> bool {
        (self.rate, self.mode, self.family) == (sample.rate, sample.mode, sample.family)
    }
}

fn line(sample: &Sample) -> String {
    let clients = match (sample.mode, sample.family) {
        (Mode::Fresh, Family::Ipv4) => "",
        (Mode::Fresh, Family::Ipv6) => ", IPv6",
        (Mode::KeepAlive, _) => ", connections kept",
    };
    let closed = sample.closed_ms.map(|ms| format!(", closed {ms:.1} ms"));
    let late = (sample.late > 0).then(|| format!(", {} late", sample.late));
    format!(
        "{:>3}  {:24} {:30} {} of {} failed, {} delayed, worst connect {:.1} ms, answer {:.1} ms, no \
         listener {:.1} ms{}{}{clients}, {} a second",
        sample.round,
        sample.subject,
        sample.way.title(),
        sample.failed(),
        sample.sent,
        sample.delayed,
        sample.connect.max_ms,
        sample.total.max_ms,
        sample.gap_ms,
        closed.unwrap_or_default(),
        late.unwrap_or_default(),
        sample.rate,
    )
}

//! Tries to break what syngate guarantees: it is killed, and its system calls fail, at every point of a
//! run, on every backend, with every action; and whatever it was, nothing is left, the port takes
//! connections, COMMAND ran once or not at all, and what was said of it is true.

mod inside;
mod point;
mod setting;
mod trace;
mod verdict;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use testkit::{Host, Running};

use inside::Shown;
use point::{Fault, Point, Trial};
use setting::{Place, SETTINGS, Setting};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Hit a run at each of its points, by each fault
    Matrix(Matrix),
    /// Count what was tried
    Count {
        /// The file of results
        #[arg(long)]
        results: PathBuf,
    },
    /// Try what comes in on stdin; for inside a host
    #[command(hide = true)]
    Inside {
        /// A [`Place`], as JSON
        place: String,
        /// Its name
        setting: String,
    },
}

#[derive(clap::Args)]
struct Matrix {
    /// The file of results, a line of JSON for each trial; those that it has are not repeated
    #[arg(long)]
    results: PathBuf,
    /// The syngate to hit: a debug build can also lack what old kernels lack
    #[arg(long)]
    syngate: PathBuf,
    /// Only these settings
    #[arg(long, value_parser = setting)]
    setting: Vec<Setting>,
    /// Only these system calls
    #[arg(long)]
    call: Vec<String>,
    /// Only these faults
    #[arg(long)]
    fault: Vec<Fault>,
    /// End after so many seconds, with what was tried by then
    #[arg(long)]
    seconds: Option<u64>,
    /// In which order; printed, for a sample to be repeated
    #[arg(long)]
    seed: Option<u64>,
    /// Only this part of all: `2/3` is the second of three
    #[arg(long, default_value = "1/1", value_parser = shard)]
    shard: Shard,
}

/// A part of all trials.
#[derive(Debug, Clone, Copy)]
struct Shard {
    which: usize,
    of: usize,
}

fn shard(text: &str) -> Result<Shard, String> {
    let parts = text.split_once('/').and_then(|(which, of)| {
        let (which, of) = (which.parse().ok()?, of.parse().ok()?);
        (1..=of).contains(&which).then_some(Shard { which, of })
    });
    parts.ok_or_else(|| format!("'{text}': 2/3 is the second of three"))
}

fn setting(name: &str) -> Result<Setting, String> {
    let names: Vec<String> = SETTINGS.iter().map(|s| format!("'{}'", s.name)).collect();
    setting::named(name).ok_or_else(|| format!("there are: {}", names.join(", ")))
}

fn main() -> Result<()> {
    match Cli::parse().what {
        What::Matrix(args) => matrix(&args),
        What::Count { results } => count(&read(&results)?),
        What::Inside { place, setting } => {
            let setting = setting::named(&setting).context(setting)?;
            inside::run(&serde_json::from_str(&place)?, &setting)
        }
    }
}

fn matrix(args: &Matrix) -> Result<()> {
    ensure!(
        !testkit::rootless(),
        "only root can trace what root's gates are made by"
    );
    let seed = args.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| u64::from(now.subsec_nanos()))
    });
    say(&format!("seed {seed}"))?;
    let done: HashSet<Trial> = read(&args.results)?
        .into_iter()
        .map(|shown| shown.trial)
        .collect();
    let wanted = |setting: &&Setting| args.setting.is_empty() || args.setting.contains(setting);
    let settings: Vec<&Setting> = SETTINGS.iter().filter(wanted).collect();
    let each = args
        .seconds
        .map(|all| Duration::from_secs(all) / settings.len() as u32);
    let mut violations = 0;
    for setting in settings {
        let until = each.map(|each| Instant::now() + each);
        let mut stage = Stage::new(setting, &args.syngate)?;
        let mut trials = stage.trials();
        trials.retain(|trial| args.wants(trial) && !done.contains(trial));
        let part = |nth: &usize| nth % args.shard.of == args.shard.which - 1;
        let part = (0..trials.len())
            .filter(part)
            .map(|nth| trials[nth].clone());
        let mut part: VecDeque<Trial> = part.collect();
        shuffle(part.make_contiguous(), seed);
        say(&format!("{}: {} trials", setting.name, part.len()))?;
        while let Some(trial) = part.pop_front()
            && until.is_none_or(|until| Instant::now() < until)
        {
            let shown = stage.try_out(&trial)?;
            for violation in &shown.violations {
                violations += 1;
                say(&format!(
                    "VIOLATION: {trial}: {violation}\n{}",
                    shown.stderr
                ))?;
            }
            append(&args.results, &shown)?;
        }
    }
    count(&read(&args.results)?)?;
    ensure!(violations == 0, "{violations} violations; seed {seed}");
    Ok(())
}

impl Matrix {
    fn wants(&self, trial: &Trial) -> bool {
        (self.call.is_empty() || self.call.contains(&trial.point.call))
            && (self.fault.is_empty() || self.fault.contains(&trial.fault))
    }
}

/// A host for one setting.
struct Stage {
    setting: &'static str,
    points: Vec<Point>,
    said: BufReader<ChildStdout>,
    trials: ChildStdin,
    _inside: Running,
    _host: Host,
}

impl Stage {
    fn new(setting: &Setting, syngate: &Path) -> Result<Stage> {
        let host = Host::new()?;
        prime(&host, setting.backend)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let place = Place {
            folder: text(host.dir()),
            syngate: text(&syngate.canonicalize()?),
            testkit: text(&testkit::bin()?),
        };
        let mut command = host.command(std::env::current_exe()?);
        command.args(["inside", &serde_json::to_string(&place)?, setting.name]);
        let mut inside = host.spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let said = inside.stdout().context("stdout was piped")?;
        let trials = inside.stdin().context("stdin was piped")?;
        let mut stage = Stage {
            setting: setting.name,
            points: Vec::new(),
            said: BufReader::new(said),
            trials,
            _inside: inside,
            _host: host,
        };
        stage.points = serde_json::from_str(&stage.line()?)?;
        Ok(stage)
    }

    /// All faults at all points.
    fn trials(&self) -> Vec<Trial> {
        let of = |point: &Point| {
            let faults = Fault::ALL
                .into_iter()
                .filter(|fault| fault.fits(&point.call));
            let trial = |fault| Trial {
                setting: self.setting.to_owned(),
                point: point.clone(),
                fault,
            };
            faults.map(trial).collect::<Vec<_>>()
        };
        self.points.iter().flat_map(of).collect()
    }

    fn try_out(&mut self, trial: &Trial) -> Result<Shown> {
        writeln!(self.trials, "{}", serde_json::to_string(trial)?)?;
        let line = self.line().with_context(|| trial.to_string())?;
        Ok(serde_json::from_str(&line)?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        ensure!(!line.is_empty(), "what runs inside the host has ended");
        Ok(line)
    }
}

/// A firewall of the host's own, as there is one wherever iptables is in use.
fn prime(host: &Host, backend: &str) -> Result<()> {
    let Some(variant) = backend.strip_prefix("iptables-") else {
        return Ok(());
    };
    for family in ["iptables", "ip6tables"] {
        for (table, chain) in [
            ("filter", "INPUT"),
            ("nat", "PREROUTING"),
            ("nat", "OUTPUT"),
        ] {
            let program = format!("{family}-{variant}");
            host.run([
                &program, "-t", table, "-A", chain, "-p", "udp", "-j", "ACCEPT",
            ])?;
        }
    }
    Ok(())
}

/// Fisher and Yates, by a generator that needs no more than to differ from seed to seed
/// (splitmix64).
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed;
    for last in (1..items.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        items.swap(last, ((z ^ (z >> 31)) % (last as u64 + 1)) as usize);
    }
}

fn read(results: &Path) -> Result<Vec<Shown>> {
    let Ok(text) = fs::read_to_string(results) else {
        return Ok(Vec::new());
    };
    // A run that was broken off may have left a part of a line.
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    whole
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

fn append(results: &Path, shown: &Shown) -> Result<()> {
    let mut file = File::options().create(true).append(true).open(results)?;
    Ok(writeln!(file, "{}", serde_json::to_string(shown)?)?)
}

/// A line for each setting.
fn count(all: &[Shown]) -> Result<()> {
    let mut by_setting: BTreeMap<&str, Vec<&Shown>> = BTreeMap::new();
    for shown in all {
        by_setting
            .entry(&shown.trial.setting)
            .or_default()
            .push(shown);
    }
    for (setting, of_it) in by_setting {
        let hit: Vec<_> = of_it.iter().filter(|shown| shown.hit).collect();
        let kills = hit
            .iter()
            .filter(|shown| shown.trial.fault.errno().is_none())
            .count();
        let points: HashSet<&Point> = hit.iter().map(|shown| &shown.trial.point).collect();
        let wrong = of_it
            .iter()
            .filter(|shown| !shown.violations.is_empty())
            .count();
        say(&format!(
            "{setting}: {} points, {kills} kills, {} failed calls, {} not reached, {wrong} with violations",
            points.len(),
            hit.len() - kills,
            of_it.len() - hit.len()
        ))?;
    }
    Ok(())
}

/// Prints a line, at once.
pub fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

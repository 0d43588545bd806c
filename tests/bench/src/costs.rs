//! What syngate itself costs, and how that grows.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{Flood, Host, Load, Pair, Running, SERVER, say, services::Serve, wait_until};

use crate::{
    inside::{CROWD, Task, Took},
    results::{COSTS, Results},
    sample::Cost,
};

/// What is to be measured.
#[derive(clap::Args)]
pub struct Args {
    /// How many runs of each, in turn
    #[arg(long, default_value_t = 200)]
    runs: u32,
    /// Smaller sizes
    #[arg(long)]
    quick: bool,
    /// Only these series, by the names in costs.jsonl
    #[arg(long, value_parser = SERIES)]
    series: Vec<String>,
}

/// One host of a series, on which something is large.
struct Case {
    host: Host,
    series: &'static str,
    size: u64,
    tasks: Vec<Task>,
    /// What has to live as long.
    _kept: Vec<Running>,
}

/// What grows, each by itself.
pub const SERIES: [&str; 8] = [
    "pair",
    "rules",
    "legacy rules",
    "ports",
    "odd ports",
    "connections",
    "arrive",
    "held",
];

/// Runs the series, but for those runs that the file has already.
pub fn all(results: &Results, syngate: &Path, args: &Args) -> Result<()> {
    for series in SERIES {
        if !args.series.is_empty() && !args.series.iter().any(|name| name == series) {
            continue;
        }
        say(&format!("cost: {series}"))?;
        let cases = match series {
            "pair" => pair(syngate)?,
            "rules" => rules(syngate, args.quick)?,
            "legacy rules" => legacy_rules(syngate, args.quick)?,
            "ports" => ports(syngate)?,
            "odd ports" => odd_ports(syngate, args.quick)?,
            "connections" => connections(syngate, args.quick)?,
            "arrive" => {
                let rates: &[u64] = if args.quick {
                    &[10_000]
                } else {
                    &[10_000, 50_000, 100_000]
                };
                by_size(results, series, rates, args, |round, rate| {
                    arriving(syngate, round, rate)
                })?;
                continue;
            }
            _ => {
                let sizes: &[u64] = if args.quick {
                    &[1_000]
                } else {
                    &[1_000, 10_000, 50_000]
                };
                by_size(results, series, sizes, args, |round, n| {
                    held_syns(syngate, round, n)
                })?;
                continue;
            }
        };
        series_of(results, &cases, args.runs)?;
    }
    Ok(())
}

/// Each takes some seconds, so there are fewer of them.
fn by_size(
    results: &Results,
    series: &str,
    sizes: &[u64],
    args: &Args,
    measure: impl Fn(u32, u64) -> Result<Cost>,
) -> Result<()> {
    let rounds = args.runs.div_ceil(40);
    for size in sizes {
        for round in done(results, series, *size)?..=rounds {
            results.append(COSTS, &measure(round, *size)?)?;
        }
    }
    Ok(())
}

/// The first round that is not there yet.
fn done(results: &Results, series: &str, size: u64) -> Result<u32> {
    let rows: Vec<Cost> = results.read(COSTS)?;
    let of_it = rows
        .iter()
        .filter(|row| row.series == series && row.size == size);
    Ok(of_it.map(|row| row.round + 1).max().unwrap_or(1))
}

/// Round by round, all cases in turn.
fn series_of(results: &Results, cases: &[Case], runs: u32) -> Result<()> {
    let first = cases
        .iter()
        .map(|case| done(results, case.series, case.size));
    let first = first.collect::<Result<Vec<u32>>>()?;
    for round in 1..=runs {
        let missing = cases
            .iter()
            .zip(&first)
            .filter(|(_, first)| round >= **first);
        for (case, _) in missing {
            for (task, took) in case.tasks.iter().zip(case.run()?) {
                results.append(COSTS, &case.row(round, &task.way, took))?;
            }
        }
    }
    Ok(())
}

impl Case {
    fn new(host: Host, series: &'static str, size: u64, tasks: Vec<Task>) -> Case {
        let _kept = Vec::new();
        Case {
            host,
            series,
            size,
            tasks,
            _kept,
        }
    }

    fn run(&self) -> Result<Vec<Took>> {
        let tasks = self
            .host
            .write("tasks.json", serde_json::to_vec(&self.tasks)?);
        let mut inside = self.host.command(env::current_exe()?);
        inside.arg("inside").arg(tasks).stdin(Stdio::null());
        let said = inside.stderr(Stdio::inherit()).output()?;
        ensure!(said.status.success(), "{}: {}", self.series, said.status);
        let lines = said.stdout.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.is_empty());
        lines
            .map(|line| Ok(serde_json::from_slice(line)?))
            .collect()
    }

    fn row(&self, round: u32, way: &str, took: Took) -> Cost {
        Cost {
            round,
            series: self.series.to_owned(),
            size: self.size,
            way: way.to_owned(),
            wall_ms: took.wall_ms,
            close_ms: took.close_ms,
            open_ms: took.open_ms,
            peak_kib: took.peak_kib,
        }
    }
}

// Tasks -------------------------------------------------------------------------------------------

/// `syngate … -- true`: once as it is, once watched.
fn syngate_true(syngate: &Path, host: &Host, options: &[&str]) -> Vec<Task> {
    let report = host
        .dir()
        .join("report.json")
        .to_string_lossy()
        .into_owned();
    let run = |more: &[&str]| {
        let syngate = [syngate.to_str().expect("a path of ours")];
        let words = [&syngate[..], options, more, &["--", "true"]].concat();
        vec![
            words
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<String>>(),
        ]
    };
    vec![
        Task {
            way: "syngate".to_owned(),
            commands: run(&["-q"]),
            report: None,
        },
        Task {
            way: "syngate".to_owned(),
            commands: run(&["-v", "--report-file", &report]),
            report: Some(report.clone()),
        },
    ]
}

/// The rule in and out.
fn iptables_pair(program: &str) -> Task {
    let rule = |verb: &str| {
        let words = [
            program, verb, "INPUT", "-p", "tcp", "--dport", "80", "--syn", "-j", "DROP",
        ];
        words.map(str::to_owned).to_vec()
    };
    Task {
        way: program.to_owned(),
        commands: vec![rule("-I"), rule("-D")],
        report: None,
    }
}

/// A table of its own in and out.
fn nft_pair() -> Task {
    let gate = "add table inet gate; \
        add chain inet gate in { type filter hook input priority 10; }; \
        add rule inet gate in tcp dport 80 tcp flags & (fin|syn|rst|ack) == syn drop";
    Task {
        way: "nft".to_owned(),
        commands: [gate, "delete table inet gate"]
            .map(|script| ["nft", script].map(str::to_owned).to_vec())
            .to_vec(),
        report: None,
    }
}

// Series ------------------------------------------------------------------------------------------

fn pair(syngate: &Path) -> Result<Vec<Case>> {
    let host = Host::new()?;
    let mut tasks = syngate_true(syngate, &host, &["--port", "80"]);
    tasks.extend([
        iptables_pair("iptables"),
        nft_pair(),
        iptables_pair("iptables-legacy"),
    ]);
    Ok(vec![Case::new(host, "pair", 0, tasks)])
}

fn rules(syngate: &Path, quick: bool) -> Result<Vec<Case>> {
    let sizes: &[u64] = if quick {
        &[0, 10_000]
    } else {
        &[0, 10_000, 100_000]
    };
    let case = |size: &u64| {
        let host = Host::new()?;
        let rule = |n: u64| {
            let [a, b, c] = [n >> 16, n >> 8, n].map(|n| n & 255);
            format!("add rule inet other in ip saddr 10.{a}.{b}.{c} counter accept\n")
        };
        let head = "add table inet other\nadd chain inet other in { type filter hook input priority 0; }\n";
        let rules: String = (0..*size).map(rule).collect();
        let file = host.write("rules.nft", format!("{head}{rules}"));
        host.run(["nft", "-f", &file.to_string_lossy()])?;
        let tasks = syngate_true(syngate, &host, &["--port", "80"]);
        Ok(Case::new(host, "rules", *size, tasks))
    };
    sizes.iter().map(case).collect()
}

fn legacy_rules(syngate: &Path, quick: bool) -> Result<Vec<Case>> {
    let case = |size: u64| {
        let host = Host::new()?;
        let rule = |n: u64| {
            let [a, b, c] = [n >> 16, n >> 8, n].map(|n| n & 255);
            format!("-A INPUT -s 10.{a}.{b}.{c}/32 -j ACCEPT\n")
        };
        let rules: String = (0..size).map(rule).collect();
        let file = host.write("rules.legacy", format!("*filter\n{rules}COMMIT\n"));
        host.run(["iptables-legacy-restore", &file.to_string_lossy()])?;
        let mut tasks = syngate_true(syngate, &host, &["--port", "80"]);
        tasks.push(iptables_pair("iptables-legacy"));
        Ok(Case::new(host, "legacy rules", size, tasks))
    };
    [0, if quick { 10_000 } else { 50_000 }]
        .map(case)
        .into_iter()
        .collect()
}

fn ports(syngate: &Path) -> Result<Vec<Case>> {
    let case = |size: u64| {
        let range = if size == 1 {
            "1".to_owned()
        } else {
            format!("1-{size}")
        };
        gating(syngate, "ports", size, &["--port", &range])
    };
    [1, 1_000, 65_535].map(case).into_iter().collect()
}

fn odd_ports(syngate: &Path, quick: bool) -> Result<Vec<Case>> {
    /// An argument has at most 128 KiB (MAX_ARG_STRLEN, linux/binfmts.h).
    const TOGETHER: usize = 10_000;
    let sizes: &[u64] = if quick {
        &[1, 1_000]
    } else {
        &[1, 1_000, 10_000, 32_768]
    };
    let case = |size: &u64| {
        let ports: Vec<String> = (0..*size).map(|n| (2 * n + 1).to_string()).collect();
        let lists: Vec<String> = ports.chunks(TOGETHER).map(|some| some.join(",")).collect();
        let options: Vec<&str> = lists.iter().flat_map(|list| ["--port", list]).collect();
        gating(syngate, "odd ports", *size, &options)
    };
    sizes.iter().map(case).collect()
}

fn gating(syngate: &Path, series: &'static str, size: u64, options: &[&str]) -> Result<Case> {
    let host = Host::new()?;
    let tasks = syngate_true(syngate, &host, options);
    Ok(Case::new(host, series, size, tasks))
}

/// Idle ones, to the gated port. Nothing is replaced, so nothing is waited for afterwards.
fn connections(syngate: &Path, quick: bool) -> Result<Vec<Case>> {
    let case = |size: u32| {
        let host = Host::new()?;
        let crowds = (0..size).step_by(CROWD as usize);
        let crowd = |first: u32| crowd(&host, CROWD.min(size - first), first / CROWD);
        let mut kept = crowds.map(crowd).collect::<Result<Vec<_>>>()?;
        kept.push(Serve::on("0.0.0.0:80").start(&host)?);
        let options = ["--port", "80", "--settle", "0s"];
        let tasks = syngate_true(syngate, &host, &options);
        let case = Case::new(host, "connections", size.into(), tasks);
        Ok(Case {
            _kept: kept,
            ..case
        })
    };
    [0, if quick { 10_000 } else { 100_000 }]
        .map(case)
        .into_iter()
        .collect()
}

fn crowd(host: &Host, size: u32, nth: u32) -> Result<Running> {
    let on = format!("127.0.1.{}:80", nth + 1);
    let mut crowd = host.command(env::current_exe()?);
    crowd.args(["crowd", &size.to_string(), &on]);
    let mut crowd = host.spawn(crowd.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut up = String::new();
    let said = crowd.stdout().context("stdout was piped")?;
    BufReader::new(said).read_line(&mut up)?;
    ensure!(up == "up\n", "no crowd of {size} on {on}");
    Ok(crowd)
}

// Holding -----------------------------------------------------------------------------------------

const PATIENCE: Duration = Duration::from_secs(60);

/// A run that holds SYNs until it is told to go on.
struct Holding<'a> {
    host: &'a Host,
    run: Running,
    report: PathBuf,
    go: PathBuf,
    memory: PathBuf,
}

impl<'a> Holding<'a> {
    fn start(host: &'a Host, syngate: &Path, release: &str) -> Result<Holding<'a>> {
        let [report, go, memory] = ["report.json", "go", "memory"].map(|n| host.dir().join(n));
        let wait = format!("until [ -e {} ]; do sleep 0.01; done", go.display());
        let mut run = host.command("/usr/bin/time");
        run.args(["-f", "%M", "-o"]).arg(&memory).arg(syngate);
        run.args(["-q", "--port", "80", "--syn", "hold", "--settle", "0s"]);
        run.args(["--max-closed", "2m", "--max-held-per-source", "65536"]);
        run.args(["--release-timeout", release, "--report-file"]);
        run.arg(&report).args(["--", "sh", "-c", &wait]);
        let run = host.spawn(run.stdin(Stdio::null()))?;
        let holding = Holding {
            host,
            run,
            report,
            go,
            memory,
        };
        wait_until(PATIENCE, "a queue", || holding.waiting().is_some())?;
        Ok(holding)
    }

    /// How many SYNs wait; `None`: there is no queue yet.
    fn waiting(&self) -> Option<u64> {
        let queues = format!("/proc/{}/net/netfilter/nfnetlink_queue", self.host.pid());
        let rows = fs::read_to_string(queues).ok()?;
        rows.split_ascii_whitespace().nth(2)?.parse().ok()
    }

    /// Waits until so many wait, at least; how many they are.
    fn wait_held(&self, count: u64) -> Result<u64> {
        let mut waiting = 0;
        wait_until(PATIENCE, "so many SYNs held", || {
            waiting = self.waiting().unwrap_or_default();
            waiting >= count
        })?;
        Ok(waiting)
    }

    /// Lets it go on: its report, and how much memory it took, in KiB.
    fn finish(mut self) -> Result<(Value, u64)> {
        fs::write(&self.go, "")?;
        ensure!(self.run.wait()?.success(), "a run that holds SYNs");
        let report = serde_json::from_str(&fs::read_to_string(&self.report)?)?;
        Ok((report, fs::read_to_string(&self.memory)?.trim().parse()?))
    }
}

/// Forged SYNs at that rate: the "wall" is how long half a second's took to be held, once they came.
fn arriving(syngate: &Path, round: u32, rate: u64) -> Result<Cost> {
    let pair = Pair::new()?;
    let _server = Serve::on("0.0.0.0:80").start(&pair.server)?;
    let holding = Holding::start(&pair.server, syngate, "10ms")?;
    let flood = Flood::to(format!("{SERVER}:80")).per_second(rate as u32);
    let flood = flood.start(&pair.client)?;
    let first = holding.wait_held(1)?;
    let began = Instant::now();
    let held = holding.wait_held(first + rate / 2)? - first;
    let wall_ms = began.elapsed().as_secs_f64() * 1e3 * (rate / 2) as f64 / held as f64;
    drop(flood);
    let (_, peak_kib) = holding.finish()?;
    Ok(cost("arrive", rate, round, wall_ms, peak_kib))
}

/// So many SYNs are held and let go: the "wall" is how long that took, from the first to the last.
fn held_syns(syngate: &Path, round: u32, held: u64) -> Result<Cost> {
    let pair = Pair::steered_by_flow()?;
    let _server = Serve::on("0.0.0.0:80").start(&pair.server)?;
    let holding = Holding::start(&pair.server, syngate, "29s")?;
    let load = Load::to(format!("{SERVER}:80")).rate(held as u32);
    let load = load.timeout(PATIENCE).duration(Duration::from_secs(1));
    let load = load.sources(pair.client_addresses(held as u32)?);
    let load = load.start(&pair.client)?;
    holding.wait_held(held)?;
    let (report, peak_kib) = holding.finish()?;
    let seen = load.finish()?;
    ensure!(seen.ok == held, "not all of {held} were served: {seen}");
    let release_ms = report["hold"]["release_ms"].as_f64();
    let wall_ms = release_ms.context("no release_ms in the report")?;
    Ok(cost("held", held, round, wall_ms, peak_kib))
}

fn cost(series: &str, size: u64, round: u32, wall_ms: f64, peak_kib: u64) -> Cost {
    Cost {
        round,
        series: series.to_owned(),
        size,
        way: "syngate".to_owned(),
        wall_ms: Some(wall_ms),
        close_ms: None,
        open_ms: None,
        peak_kib,
    }
}

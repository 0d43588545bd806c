//! What syngate itself costs, and how that grows.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{Host, Load, Pair, Running, SERVER, services::Serve, wait_until};

use crate::{
    Costs,
    inside::{CROWD, Task, Took},
    results::{COSTS, Results},
    sample::Cost,
    say,
};

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
pub const SERIES: [&str; 7] = [
    "pair",
    "rules",
    "legacy rules",
    "ports",
    "odd ports",
    "connections",
    "held",
];

/// Runs the series, but for those runs that the file has already.
pub fn all(results: &Results, syngate: &Path, args: &Costs) -> Result<()> {
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
            _ => {
                held(results, syngate, args)?;
                continue;
            }
        };
        series_of(results, &cases, args.runs)?;
    }
    Ok(())
}

fn held(results: &Results, syngate: &Path, args: &Costs) -> Result<()> {
    const LARGE: [u64; 3] = [1_000, 10_000, 50_000];
    let sizes = if args.quick { &LARGE[..1] } else { &LARGE };
    // Each takes some seconds.
    let rounds = args.runs.div_ceil(40);
    for size in sizes {
        for round in done(results, "held", *size)?..=rounds {
            results.append(COSTS, &held_syns(syngate, round, *size)?)?;
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
    [1, 1_000, 65_535]
        .map(|size| {
            let range = format!("1-{size}");
            gating(syngate, "ports", size, if size == 1 { "1" } else { &range })
        })
        .into_iter()
        .collect()
}

fn odd_ports(syngate: &Path, quick: bool) -> Result<Vec<Case>> {
    let sizes: &[u64] = if quick {
        &[1, 1_000]
    } else {
        &[1, 1_000, 10_000, 32_768]
    };
    let case = |size: &u64| {
        let ports: Vec<String> = (0..*size).map(|n| (2 * n + 1).to_string()).collect();
        gating(syngate, "odd ports", *size, &ports.join(","))
    };
    sizes.iter().map(case).collect()
}

fn gating(syngate: &Path, series: &'static str, size: u64, ports: &str) -> Result<Case> {
    let host = Host::new()?;
    let tasks = syngate_true(syngate, &host, &["--port", ports]);
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

/// So many SYNs are held and let go: the "wall" is how long that took, from the first to the last.
fn held_syns(syngate: &Path, round: u32, held: u64) -> Result<Cost> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let pair = Pair::steered_by_flow()?;
    let host = &pair.server;
    let _server = Serve::on("0.0.0.0:80").start(host)?;
    let [report, go, memory] = ["report.json", "go", "memory"].map(|name| host.dir().join(name));
    let wait = format!("until [ -e {} ]; do sleep 0.01; done", go.display());
    let mut run = host.command("/usr/bin/time");
    run.args(["-f", "%M", "-o"]).arg(&memory).arg(syngate);
    run.args([
        "-q",
        "--port",
        "80",
        "--syn",
        "hold",
        "--settle",
        "0s",
        "--max-closed",
        "2m",
    ]);
    run.args(["--release-timeout", "29s"]);
    run.arg("--report-file")
        .arg(&report)
        .args(["--", "sh", "-c", &wait]);
    let mut run = run.stdin(Stdio::null()).spawn()?;
    let queue = || {
        fs::read_to_string(format!(
            "/proc/{}/net/netfilter/nfnetlink_queue",
            host.pid()
        ))
    };
    wait_until(PATIENCE, "a queue", || {
        queue().is_ok_and(|rows| !rows.is_empty())
    })?;
    let load = Load::to(format!("{SERVER}:80"))
        .rate(held as u32)
        .timeout(PATIENCE);
    let load = load.sources(pair.client_addresses(held as u32)?);
    let load = load.duration(Duration::from_secs(1)).start(&pair.client)?;
    let waiting = || {
        let rows = queue().unwrap_or_default();
        let count = rows.split_ascii_whitespace().nth(2);
        count.and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    wait_until(PATIENCE, "all of them held", || waiting() >= held)?;
    fs::write(go, "")?;
    ensure!(run.wait()?.success(), "a run that holds {held}");
    let seen = load.finish()?;
    ensure!(seen.ok == held, "not all of {held} were served: {seen}");
    let report: Value = serde_json::from_str(&fs::read_to_string(report)?)?;
    let release_ms = report["hold"]["release_ms"].as_f64();
    Ok(Cost {
        round,
        series: "held".to_owned(),
        size: held,
        way: "syngate".to_owned(),
        wall_ms: Some(release_ms.context("no release_ms in the report")?),
        close_ms: None,
        open_ms: report["open_took_ms"].as_f64(),
        peak_kib: fs::read_to_string(memory)?.trim().parse()?,
    })
}

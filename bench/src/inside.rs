//! What runs inside a host: it times commands from beside them, and keeps crowds of connections.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};
use wait4::Wait4;

/// Commands that are timed as one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// Its name in the results.
    pub way: String,
    /// One after the other.
    pub commands: Vec<Vec<String>>,
    /// syngate's report, if it writes one: it is run with `-v` then, to see when it has closed.
    pub report: Option<String>,
}

/// What a task took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Took {
    /// See [`crate::sample::Cost`].
    pub wall_ms: f64,
    /// See there.
    pub close_ms: Option<f64>,
    /// See there.
    pub open_ms: Option<f64>,
    /// See there.
    pub peak_kib: u64,
}

/// Runs the tasks in the file in turn; a line of JSON tells of each.
pub fn run(tasks: &str) -> Result<()> {
    let tasks: Vec<Task> = serde_json::from_str(&fs::read_to_string(tasks)?)?;
    for task in &tasks {
        let took = timed(task).with_context(|| format!("{:?}", task.commands))?;
        say(&serde_json::to_string(&took)?)?;
    }
    Ok(())
}

fn timed(task: &Task) -> Result<Took> {
    let mut took = Took {
        wall_ms: 0.0,
        close_ms: None,
        open_ms: None,
        peak_kib: 0,
    };
    let began = Instant::now();
    for argv in &task.commands {
        let mut command = Command::new(&argv[0]);
        command
            .args(&argv[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let watched = task.report.is_some();
        command.stderr(if watched {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        let mut child = command.spawn()?;
        for line in child
            .stderr
            .take()
            .into_iter()
            .flat_map(|pipe| BufReader::new(pipe).lines())
        {
            if took.close_ms.is_none() && line?.contains(" closed ") {
                took.close_ms = Some(ms(began));
            }
        }
        let ended = child.wait4()?;
        ensure!(ended.status.success(), "{argv:?}: {}", ended.status);
        took.peak_kib = took.peak_kib.max(ended.rusage.maxrss / 1024);
    }
    took.wall_ms = ms(began);
    if let Some(report) = &task.report {
        let report: serde_json::Value = serde_json::from_str(&fs::read_to_string(report)?)?;
        took.open_ms = report["open_took_ms"].as_f64();
    }
    Ok(took)
}

/// Keeps so many connections to the port of this host; says `up` when they stand.
pub fn crowd(count: u32, port: u16) -> Result<()> {
    // From one address to another there are some 28,000 ports.
    const TO_EACH: u32 = 20_000;
    let files = u64::from(count) + 100;
    setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
    let mut kept = Vec::new();
    for n in 0..count {
        let address = [127, 0, 0, 1 + (n / TO_EACH) as u8];
        kept.push(TcpStream::connect(SocketAddr::from((address, port)))?);
    }
    say("up")?;
    let mut nothing = String::new();
    std::io::stdin().read_line(&mut nothing)?;
    drop(kept);
    Ok(())
}

fn ms(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

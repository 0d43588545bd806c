//! What runs inside a host: it times commands from beside them, and keeps crowds of connections.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use wait4::Wait4;

use testkit::say;

/// After this pause the kernel has freed what the previous task removed. An earlier change of nf_tables
/// would wait for that.
const FREED: Duration = Duration::from_millis(50);

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
    pub wall_ms: Option<f64>,
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
        thread::sleep(FREED);
        let took = timed(task).with_context(|| format!("{:?}", task.commands))?;
        say(&serde_json::to_string(&took)?)?;
    }
    Ok(())
}

fn timed(task: &Task) -> Result<Took> {
    let mut took = Took {
        wall_ms: None,
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
    let wall_ms = ms(began);
    if let Some(report) = &task.report {
        let report: serde_json::Value = serde_json::from_str(&fs::read_to_string(report)?)?;
        took.open_ms = report["open_took_ms"].as_f64();
    } else {
        took.wall_ms = Some(wall_ms);
    }
    Ok(took)
}

/// A crowd holds both ends of its connections, and the number of open files is limited: to 20,000 on some
/// machines, even for root.
pub const CROWD: u32 = 8_000;

/// Keeps so many connections within this host, accepted on an address and port that are nobody's
/// afterwards; says `up` when they stand.
pub fn crowd(count: u32, on: SocketAddr) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let listener = TcpListener::bind(on)?;
    let pair = || Ok((TcpStream::connect(on)?, listener.accept()?));
    let kept = (0..count).map(|_| pair()).collect::<Result<Vec<_>>>()?;
    drop(listener);
    say("up")?;
    std::io::stdin().read_line(&mut String::new())?;
    drop(kept);
    Ok(())
}

fn ms(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

//! What runs inside a host: a service, clients, and one trial after the other.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use testkit::wait_until;

use crate::{
    point::{Fault, Point, Trial},
    say,
    setting::{Place, Setting},
    trace::{self, Traced},
    verdict::{Left, violations},
};

/// A run takes less than --max-closed and all other timeouts together.
const LONGEST: Duration = Duration::from_secs(25);
/// How long what was killed may leave its rules, and its guards may live: they have more to wait for
/// than the machine's load, once a standby has to end.
const SOON: Duration = Duration::from_secs(5);
const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 80);
/// As long as a client waits that is not to hang for ever.
const PATIENCE: Duration = Duration::from_secs(4);

/// What a trial has shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shown {
    /// What was tried.
    #[serde(flatten)]
    pub trial: Trial,
    /// Whether the point was reached: runs differ a little.
    pub hit: bool,
    /// The exit status.
    pub code: i32,
    /// How often COMMAND ran.
    pub ran: usize,
    /// How long after the end of syngate nothing was left of it, in ms: guards have their work.
    pub gone_after_ms: f64,
    /// What was not as promised.
    pub violations: Vec<String>,
    /// What it said, where something was wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
}

/// Prepares the host; prints the points of a run that is not hit; then, for each trial that comes in on
/// stdin, what it has shown.
pub fn run(place: &Place, setting: &Setting) -> Result<()> {
    let clients = AtomicBool::new(true);
    thread::scope(|scope| {
        let bench = Bench::new(place, setting)?;
        for _ in 0..2 {
            scope.spawn(|| come_again(&clients));
        }
        let done = bench.serve();
        clients.store(false, Ordering::Relaxed);
        done
    })
}

/// A client that connects again and again, whatever becomes of that.
fn come_again(wanted: &AtomicBool) {
    const PAUSE: Duration = Duration::from_millis(5);
    while wanted.load(Ordering::Relaxed) {
        let _ = ask();
        thread::sleep(PAUSE);
    }
}

fn ask() -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&SERVICE, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains(" 200 "), "{answer:?}");
    Ok(())
}

struct Bench<'a> {
    place: &'a Place,
    setting: &'a Setting,
    rules: BTreeSet<String>,
}

impl<'a> Bench<'a> {
    fn new(place: &'a Place, setting: &'a Setting) -> Result<Bench<'a>> {
        fs::write(place.file("restart"), place.restart())?;
        start_anew(place)?;
        // What the first run of a backend makes for good (base chains of iptables) is no rule of a run.
        let rules = BTreeSet::new();
        let mut bench = Bench {
            place,
            setting,
            rules,
        };
        bench.trace(None)?;
        bench.settle()?;
        bench.rules = ruleset()?;
        Ok(bench)
    }

    fn serve(&self) -> Result<()> {
        let survey = self.trace(None)?;
        self.settle()?;
        ensure!(survey.code == 0, "a run that is not hit: {}", self.said());
        ensure!(
            self.processes()?.is_empty(),
            "left by a run that was not hit: {:?}",
            self.processes()
        );
        let points: Vec<&Point> = survey.course.passed.keys().collect();
        say(&serde_json::to_string(&points)?)?;
        for line in std::io::stdin().lock().lines() {
            let trial: Trial = serde_json::from_str(&line?)?;
            let shown = self.try_out(trial)?;
            say(&serde_json::to_string(&shown)?)?;
        }
        Ok(())
    }

    fn try_out(&self, trial: Trial) -> Result<Shown> {
        for file in ["report.json", "ran", "through"] {
            let _ = fs::remove_file(self.place.file(file));
        }
        let target = (trial.point.clone(), trial.fault);
        let traced = self.trace(Some(&target));
        let (code, hit) = match &traced {
            Ok(traced) => (traced.code, traced.hit),
            Err(_) => (-1, true),
        };
        let ended = Instant::now();
        let left = self.look(hit, code)?;
        let gone_after_ms = (ended.elapsed().as_secs_f64() * 1e4).round() / 10.0;
        let mut violations = violations(&trial, &left);
        violations.extend(traced.err().map(|error| format!("{error:#}")));
        let stderr = match violations.is_empty() {
            true => String::new(),
            false => self.said(),
        };
        // The next trial begins as this one did.
        self.clean()?;
        Ok(Shown {
            trial,
            hit,
            code,
            ran: left.ran,
            gone_after_ms,
            violations,
            stderr,
        })
    }

    fn trace(&self, target: Option<&(Point, Fault)>) -> Result<Traced> {
        let mut command = trace::stopping(&self.place.call(self.setting));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(self.place.file("stderr"))?);
        command.envs(self.setting.lacking.map(|what| ("SYNGATE_FAULT", what)));
        trace::run(
            &mut command,
            Path::new(&self.place.syngate),
            target,
            LONGEST,
        )
    }

    fn said(&self) -> String {
        fs::read_to_string(self.place.file("stderr")).unwrap_or_default()
    }

    /// COMMAND goes on when syngate was killed: until it is through.
    fn settle(&self) -> Result<()> {
        wait_until(SOON, "COMMAND", || {
            self.lines("ran") == self.lines("through")
        })?;
        wait_until(SOON, "the service", || ask().is_ok())
    }

    fn lines(&self, file: &str) -> usize {
        let text = fs::read_to_string(self.place.file(file)).unwrap_or_default();
        text.lines().count()
    }

    /// What is left once everything has had the time that it may take.
    fn look(&self, hit: bool, code: i32) -> Result<Left> {
        let service = self.settle().err().map(|error| format!("{error:#}"));
        let until = Instant::now() + SOON;
        loop {
            let left = Left {
                hit,
                code,
                ran: self.lines("ran"),
                report: self.report(),
                processes: self.processes()?,
                rules: ruleset()?.difference(&self.rules).cloned().collect(),
                queues: queues(),
                service: service.clone(),
                locks: self.locks()?,
            };
            let clean = left.processes.is_empty()
                && left.rules.is_empty()
                && left.queues.is_empty()
                && left.locks.is_none();
            if clean || Instant::now() >= until {
                return Ok(left);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// All of syngate's, and the standby, which runs the server's program on another port.
    fn processes(&self) -> Result<Vec<String>> {
        let mut left = processes(&self.place.syngate)?;
        let servers = processes(&self.place.testkit)?;
        left.extend(servers.into_iter().filter(|words| words.contains(":8080")));
        Ok(left)
    }

    fn report(&self) -> Option<Result<serde_json::Value, String>> {
        let text = fs::read_to_string(self.place.file("report.json")).ok()?;
        Some(serde_json::from_str(&text).map_err(|error| error.to_string()))
    }

    fn locks(&self) -> Result<Option<String>> {
        let status = Command::new(&self.place.syngate).arg("status").output()?;
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        Ok((said != "nothing is shut\n").then_some(said))
    }

    /// What a violation has left is not the next trial's.
    fn clean(&self) -> Result<()> {
        for pid in self.processes()? {
            let pid = pid.split(' ').next().unwrap_or_default().to_owned();
            let _ = Command::new("kill").args(["-9", &pid]).status();
        }
        let cleared = Command::new(&self.place.syngate).arg("clear").output()?;
        drop(cleared);
        match ask() {
            Ok(()) => Ok(()),
            Err(_) => start_anew(self.place),
        }
    }
}

fn start_anew(place: &Place) -> Result<()> {
    Command::new("sh")
        .arg(place.file("restart"))
        .stderr(Stdio::null())
        .status()?;
    wait_until(SOON, "the service", || ask().is_ok()).context("even started anew")
}

/// All that run this file, with their arguments.
fn processes(program: &str) -> Result<Vec<String>> {
    let program = Path::new(program).canonicalize()?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        if fs::read_link(path.join("exe")).is_ok_and(|exe| exe == program) {
            let pid = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let words = fs::read(path.join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            found.push(format!("{pid} {words}"));
        }
    }
    Ok(found)
}

fn queues() -> String {
    fs::read_to_string("/proc/net/netfilter/nfnetlink_queue").unwrap_or_default()
}

/// The lines of all rulesets, without counts.
fn ruleset() -> Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    let mut lists = vec!["nft list ruleset"];
    // Asking makes the tables where there are none.
    for (names, save) in [
        ("/proc/net/ip_tables_names", "iptables-legacy-save"),
        ("/proc/net/ip6_tables_names", "ip6tables-legacy-save"),
    ] {
        if fs::read_to_string(names).is_ok_and(|names| !names.is_empty()) {
            lists.push(save);
        }
    }
    for list in lists {
        let words: Vec<&str> = list.split(' ').collect();
        let listed = Command::new(words[0]).args(&words[1..]).output()?;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let text = text.lines().filter(|line| !line.starts_with('#'));
        lines.extend(text.map(without_counts));
    }
    Ok(lines)
}

fn without_counts(line: &str) -> String {
    let counts = line.split(' ').map(|word| match word.parse::<u64>() {
        Ok(_) => "N",
        Err(_) if word.starts_with('[') => "",
        Err(_) => word,
    });
    counts.collect::<Vec<_>>().join(" ")
}

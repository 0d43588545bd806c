//! What runs inside the host: one restart after the other.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::BufRead,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use testkit::{NODE_B, NODE_B6, VIP, VIP6, code, say, wait_until};

use super::{
    gauge,
    seen::{BARE, Run},
};
use crate::{
    clock::now_ms,
    leftovers::{locks, processes, queues, ruleset},
    setting::{Place, Setting, named},
};

/// More than --max-closed and the linger together: a run that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(120);
/// How long guards may live when syngate has ended.
const SOON: Duration = Duration::from_secs(5);

/// What is to be done inside.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Answered by a [`Run`].
    Restart {
        /// A setting's name; without syngate if there is none.
        setting: Option<String>,
        /// The service's name.
        service: String,
        /// The port to gate.
        port: u16,
        /// COMMAND.
        command: Vec<String>,
    },
    /// Answered by a [`super::Sample`].
    Sample,
}

/// Does what comes in on stdin, and answers each order by a line.
pub fn serve(place: &Place) -> Result<()> {
    let before = ruleset()?;
    say(&serde_json::to_string(&())?)?;
    for line in std::io::stdin().lock().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Order::Sample => serde_json::to_string(&gauge::sample()?)?,
            Order::Restart {
                setting,
                service,
                port,
                command,
            } => {
                let mut run = restart(place, setting.as_deref(), port, &command)?;
                run.service = service;
                (run.left, run.gone_after_ms) = look(place, &before)?;
                serde_json::to_string(&run)?
            }
        };
        say(&answer)?;
    }
    Ok(())
}

fn restart(place: &Place, setting: Option<&str>, port: u16, command: &[String]) -> Result<Run> {
    let [report, said, ran] = ["report.json", "said", "ran"].map(|name| place.file(name));
    for old in [&report, &ran] {
        let _ = fs::remove_file(old);
    }
    let command = &told(command, &ran);
    let setting = setting.map(|name| named(name).context(name.to_owned()));
    let setting = setting.transpose()?;
    let words = setting.map_or_else(|| command.to_vec(), |s| call(place, &s, port, command));
    let mut run = Command::new(&words[0]);
    run.args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    run.stderr(File::create(&said)?);
    run.envs(
        setting
            .and_then(|s| s.lacking)
            .map(|what| ("SYNGATE_FAULT", what)),
    );
    let began_ms = now_ms();
    let mut child = run.spawn().with_context(|| words[0].clone())?;
    let ended = || !matches!(child.try_wait(), Ok(None));
    if wait_until(LONGEST, "the end of a run", ended).is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    let report = fs::read_to_string(&report).unwrap_or_default();
    let report: Value = serde_json::from_str(&report).unwrap_or_default();
    Ok(Run {
        setting: setting.map_or(BARE, |setting| setting.name).to_owned(),
        began_ms,
        took_ms: now_ms() - began_ms,
        closed_ms: report["closed_ms"].as_f64(),
        phases: report["phases"].clone(),
        ran: fs::read_to_string(&ran).unwrap_or_default().lines().count(),
        code: code(status),
        said: fs::read_to_string(&said)?,
        ..Run::default()
    })
}

/// A COMMAND that writes down that it runs.
fn told(command: &[String], file: &str) -> Vec<String> {
    let tell = format!("echo >>{file}; exec \"$@\"");
    let mut words = ["sh", "-c", &tell, "sh"].map(str::to_owned).to_vec();
    words.extend_from_slice(command);
    words
}

/// As people call it: bounds are the usual ones, a busy machine must not make them matter.
fn call(place: &Place, setting: &Setting, port: u16, command: &[String]) -> Vec<String> {
    let mut words = vec![place.syngate.clone(), "-v".to_owned()];
    let mut option = |name: &str, value: &str| words.extend([name.to_owned(), value.to_owned()]);
    option("--port", &port.to_string());
    option("--report-file", &place.file("report.json"));
    if !setting.has_rooms() {
        option("--backend", setting.backend);
    }
    if setting.diverts() {
        option("--syn", &format!("divert={NODE_B},{NODE_B6}"));
        option("--to", &format!("{VIP},{VIP6}"));
    } else {
        option("--syn", setting.syn);
    }
    if setting.redirects() {
        let standby = "serve --listen 0.0.0.0:8080 --listen [::]:8080";
        option("--standby", &format!("{} {standby}", place.testkit));
    }
    words.push("--".to_owned());
    words.extend_from_slice(command);
    words
}

/// What is left of a run once its guards have had their time, and how long that took.
fn look(place: &Place, before: &BTreeSet<String>) -> Result<(Vec<String>, f64)> {
    let began = Instant::now();
    loop {
        let rules = ruleset()?;
        let mut left: Vec<String> = rules.symmetric_difference(before).cloned().collect();
        left.extend(processes(place)?);
        left.extend(Some(queues()).filter(|queues| !queues.is_empty()));
        left.extend(locks()?);
        if left.is_empty() || began.elapsed() > SOON {
            let ms = began.elapsed().as_secs_f64() * 1e3;
            return Ok((left, ms));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

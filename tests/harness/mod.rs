//! syngate on a testkit host: called as a user would call it, with the ruleset compared before and
//! after each call, and its report read.
#![allow(dead_code)] // each test file uses a part of it

pub mod latch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use testkit::{Host, Ran, Running, wait_until};

/// A wait for a state that is sure to come.
pub const SOON: Duration = Duration::from_secs(10);

/// The binary under test.
pub const SYNGATE: &str = env!("CARGO_BIN_EXE_syngate");

/// A call of syngate on a host.
#[derive(Clone)]
pub struct Call<'a> {
    host: &'a Host,
    by: Vec<OsString>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    report: PathBuf,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code, as a shell would say.
    pub code: i32,
    /// What COMMAND said.
    pub stdout: String,
    /// What syngate (and COMMAND) said.
    pub stderr: String,
    /// The JSON report; null if none was written.
    pub report: Value,
}

/// A call with its options: `call(&host, ["--port", "80"])`.
pub fn call<'a, S: Into<OsString>>(
    host: &'a Host,
    options: impl IntoIterator<Item = S>,
) -> Call<'a> {
    Call {
        host,
        by: Vec::new(),
        arguments: options.into_iter().map(Into::into).collect(),
        environment: Vec::new(),
        report: host.dir().join("report.json"),
    }
}

impl Call<'_> {
    /// One more variable in its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// By way of another program: `env -i PATH=/bin`, `setpriv ...`.
    pub fn by<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.by = words.into_iter().map(Into::into).collect();
        self
    }

    /// One more option.
    pub fn arg(self, option: impl Into<OsString>) -> Self {
        self.args([option])
    }

    /// More options.
    pub fn args<S: Into<OsString>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(options.into_iter().map(Into::into));
        self
    }

    /// With its report in another file.
    pub fn report_to(mut self, file: PathBuf) -> Self {
        self.report = file;
        self
    }

    /// Runs it with COMMAND to its end, and sees that the ruleset is what it was.
    #[track_caller]
    pub fn run<S: Into<OsString>>(&self, command: impl IntoIterator<Item = S>) -> Outcome {
        let before = self.host.ruleset();
        let ran = self.command(command).stdin(Stdio::null()).output().unwrap();
        assert_eq!(self.host.ruleset(), before, "the ruleset is what it was");
        self.outcome(ran.into())
    }

    /// Starts it with COMMAND in the background.
    #[track_caller]
    pub fn start<S: Into<OsString>>(&self, command: impl IntoIterator<Item = S>) -> Running {
        let mut words = self.command(command);
        words.stdin(Stdio::null()).stderr(Stdio::piped());
        self.host.spawn(&mut words).unwrap()
    }

    /// What came of one that was started, once it has ended: no gate is left.
    #[track_caller]
    pub fn end(&self, mut running: Running) -> Outcome {
        wait_until(SOON * 2, "the end of the run", || !running.is_running()).unwrap();
        let outcome = self.outcome(running.output().unwrap().into());
        assert!(!gated(self.host), "no gate is left: {outcome:?}");
        outcome
    }

    /// The words of the call, to be run in some other way.
    pub fn argv<S: Into<OsString>>(&self, command: impl IntoIterator<Item = S>) -> Vec<OsString> {
        let mut words = self.by.clone();
        words.push(SYNGATE.into());
        words.extend(self.arguments.iter().cloned());
        words.extend([
            "--report-file".into(),
            self.report.clone().into(),
            "--".into(),
        ]);
        words.extend(command.into_iter().map(Into::into));
        words
    }

    /// The report that it has written.
    pub fn report(&self) -> Value {
        read_report(&self.report)
    }

    /// What came of a call that was run in some other way.
    pub fn outcome(&self, ran: Ran) -> Outcome {
        Outcome {
            code: ran.code(),
            report: read_report(&self.report),
            stdout: ran.stdout,
            stderr: ran.stderr,
        }
    }

    fn command<S: Into<OsString>>(
        &self,
        command: impl IntoIterator<Item = S>,
    ) -> std::process::Command {
        let _ = std::fs::remove_file(&self.report);
        let words = self.argv(command);
        let mut call = self.host.command(&words[0]);
        call.args(&words[1..]);
        call.envs(self.environment.iter().cloned());
        call
    }
}

/// Reads a report, and sees that it is what the schema says.
fn read_report(file: &std::path::Path) -> Value {
    let Ok(json) = std::fs::read(file) else {
        return Value::Null;
    };
    let report: Value = serde_json::from_slice(&json).expect("a report is JSON");
    let schema = include_str!("../../contrib/report.schema.json");
    let schema = serde_json::from_str(schema).expect("the schema is JSON");
    let errors: Vec<String> = jsonschema::validator_for(&schema)
        .expect("the schema is one")
        .iter_errors(&report)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert_eq!(errors, Vec::<String>::new(), "{report:#}");
    report
}

/// Whether a table of ours stands on the host.
pub fn gated(host: &Host) -> bool {
    host.ruleset().contains("syngate_")
}

/// Waits until the gate stands.
#[track_caller]
pub fn wait_gated(host: &Host) {
    wait_until(SOON, "a closed gate", || gated(host)).unwrap();
}

/// Waits until the gate is gone.
#[track_caller]
pub fn wait_open(host: &Host, within: Duration) {
    wait_until(within, "an open gate", || !gated(host)).unwrap();
}

/// A figure of a report, in ms.
#[track_caller]
pub fn ms(report: &Value, field: &str) -> f64 {
    let value = &report[field];
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{field} is {value} in {report:#}"))
}

/// The words of a command line without quotes.
pub fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

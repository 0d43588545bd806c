//! syngate on a testkit host: called as a user would call it, with the ruleset compared before and
//! after each call, and its report read.
#![allow(dead_code)] // each test file uses a part of it

pub(crate) mod deaths;
pub(crate) mod group;
pub(crate) mod instance;
pub(crate) mod keep;
pub(crate) mod kept;
pub(crate) mod latch;
pub(crate) mod named;
pub(crate) mod rooms;
pub(crate) mod services;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::{Host, Ran, Running, slow, wait_until};

/// A wait for a state that is sure to come.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// The binary under test.
pub(crate) const SYNGATE: &str = env!("CARGO_BIN_EXE_syngate");

/// A call of syngate on a host.
#[derive(Clone)]
pub(crate) struct Call<'a> {
    host: &'a Host,
    by: Vec<OsString>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    report: PathBuf,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit code, as a shell would say.
    pub code: i32,
    /// What COMMAND said.
    pub stdout: String,
    /// What syngate (and COMMAND) said.
    pub stderr: String,
    /// The JSON report; null if none was written.
    pub report: Value,
}

/// A call with its options: `call(&host, ["--port", "80"])`. With the backend that the whole suite is
/// run on, if one was chosen.
pub(crate) fn call<'a, S: Into<OsString>>(
    host: &'a Host,
    options: impl IntoIterator<Item = S>,
) -> Call<'a> {
    let call = Call {
        host,
        by: Vec::new(),
        arguments: options.into_iter().map(Into::into).collect(),
        environment: Vec::new(),
        report: host.dir().join("report.json"),
    };
    call.on(Backend::of_the_suite()).syn_of_the_suite().primed()
}

/// Whether SYNs are held in every test that is not about what becomes of them: SYNGATE_TEST_SYN.
pub(crate) fn suite_holds() -> bool {
    std::env::var("SYNGATE_TEST_SYN").is_ok_and(|action| action == "hold")
}

/// What makes the gate in a test that asks for no other backend and action.
pub(crate) fn backend_of_the_suite() -> Backend {
    let given = Backend::of_the_suite();
    match suite_holds() {
        true => given.to_hold(),
        false => given,
    }
}

/// A way to make the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// What syngate takes by itself: nf_tables, with a table that has an owner.
    Nft,
    /// As on kernels before 5.12.
    NftPlain,
    /// iptables on nf_tables.
    IptablesNft,
    /// iptables on x_tables.
    IptablesLegacy,
}

impl Backend {
    /// All of them.
    pub(crate) const ALL: [Backend; 4] = [
        Backend::Nft,
        Backend::NftPlain,
        Backend::IptablesNft,
        Backend::IptablesLegacy,
    ];

    /// Those whose gate others can flush.
    pub(crate) const EXPOSED: [Backend; 3] = [
        Backend::NftPlain,
        Backend::IptablesNft,
        Backend::IptablesLegacy,
    ];

    /// As SYNGATE_TEST_BACKEND names it: the backend that every test is to use which is not about
    /// one of its own.
    pub(crate) fn of_the_suite() -> Backend {
        let wanted = std::env::var("SYNGATE_TEST_BACKEND").unwrap_or_default();
        let named = Backend::ALL.into_iter().find(|b| b.name() == wanted);
        assert!(
            named.is_some() || wanted.is_empty(),
            "SYNGATE_TEST_BACKEND={wanted}"
        );
        named.unwrap_or(Backend::Nft)
    }

    /// What makes a gate that holds SYNs: iptables-legacy, where the kernel lacks nft's queue.
    pub(crate) fn to_hold(self) -> Backend {
        match nft_queues() {
            true => self,
            false => Backend::IptablesLegacy,
        }
    }

    /// Its name in the tests.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Backend::Nft => "nft",
            Backend::NftPlain => "nft-plain",
            Backend::IptablesNft => "iptables-nft",
            Backend::IptablesLegacy => "iptables-legacy",
        }
    }

    /// Its name in a report.
    pub(crate) fn reported(self) -> &'static str {
        match self {
            Backend::NftPlain => "nft",
            other => other.name(),
        }
    }

    /// A firewall of the host's own, as there is one wherever iptables is in use: its first rule
    /// makes tables and chains that stay, and none of it may be harmed.
    pub(crate) fn prime(self, host: &Host) {
        let suffix = match self {
            Backend::Nft | Backend::NftPlain => return,
            Backend::IptablesNft => "nft",
            Backend::IptablesLegacy => "legacy",
        };
        let marker = host.dir().join(format!("primed-{suffix}"));
        if marker.exists() {
            return;
        }
        host.has_firewall(suffix).unwrap();
        std::fs::write(marker, "").unwrap();
    }
}

/// Whether the kernel has nft's queue, as nft(8) finds.
fn nft_queues() -> bool {
    static QUEUES: OnceLock<bool> = OnceLock::new();
    *QUEUES.get_or_init(|| {
        let rule =
            "add table inet t; add chain inet t c; add rule inet t c queue flags bypass to 7";
        Host::new().unwrap().run(["nft", "-c", rule]).is_ok()
    })
}

impl Call<'_> {
    /// On that backend.
    pub(crate) fn on(mut self, backend: Backend) -> Self {
        self.environment
            .retain(|(name, _)| name != "SYNGATE_BACKEND" && name != "SYNGATE_FAULT");
        backend.prime(self.host);
        match backend {
            Backend::Nft => self,
            Backend::NftPlain => self.env("SYNGATE_FAULT", "no-owner-tables"),
            iptables => self.env("SYNGATE_BACKEND", iptables.name()),
        }
    }

    fn syn_of_the_suite(self) -> Self {
        match suite_holds() {
            true => self.env("SYNGATE_SYN", "hold"),
            false => self,
        }
    }

    /// A host on which iptables-legacy holds SYNs has a firewall of its own.
    fn primed(self) -> Self {
        let given = self.arguments.iter().rposition(|option| option == "--syn");
        let given = given.and_then(|at| self.arguments.get(at + 1));
        let variable = self
            .environment
            .iter()
            .find(|(name, _)| name == "SYNGATE_SYN");
        let action = given.or(variable.map(|(_, value)| value));
        if action.is_some_and(|action| action == "hold" || action == "auto") && !nft_queues() {
            Backend::IptablesLegacy.prime(self.host);
        }
        self
    }

    /// On nf_tables. Where the kernel can't hold SYNs there, they are dropped.
    pub(crate) fn on_nft(self) -> Self {
        let call = self.on(Backend::Nft);
        match nft_queues() {
            true => call,
            false => call.args(["--syn", "drop"]),
        }
    }

    /// With one more fault.
    pub(crate) fn fault(mut self, fault: &str) -> Self {
        let (before, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.environment)
            .into_iter()
            .partition(|(name, _)| name == "SYNGATE_FAULT");
        self.environment = others;
        let before = before
            .iter()
            .map(|(_, value)| value.to_string_lossy().into_owned());
        let faults: Vec<String> = [fault.to_owned()].into_iter().chain(before).collect();
        self.env("SYNGATE_FAULT", &faults.join(","))
    }

    /// One more variable in its environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self.primed()
    }

    /// On a slow machine, with as much more time until the gate has to open.
    pub(crate) fn unhurried(self) -> Self {
        let times = |seconds: u32| format!("{}s", seconds * slow());
        let call = self.env("SYNGATE_MAX_CLOSED", &times(30));
        call.env("SYNGATE_READY_TIMEOUT", &times(10))
    }

    /// By way of another program: `env -i PATH=/bin`, `setpriv ...`.
    pub(crate) fn by<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.by = words.into_iter().map(Into::into).collect();
        self
    }

    /// One more option.
    pub(crate) fn arg(self, option: impl Into<OsString>) -> Self {
        self.args([option])
    }

    /// More options.
    pub(crate) fn args<S: Into<OsString>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(options.into_iter().map(Into::into));
        self.primed()
    }

    /// With its report in another file.
    pub(crate) fn report_to(mut self, file: PathBuf) -> Self {
        self.report = file;
        self
    }

    /// Runs it with COMMAND to its end, and sees that the ruleset is what it was.
    #[track_caller]
    pub(crate) fn run<S: Into<OsString>>(&self, command: impl IntoIterator<Item = S>) -> Outcome {
        let before = self.host.ruleset();
        let ran = self.command(command).stdin(Stdio::null()).output().unwrap();
        assert_eq!(self.host.ruleset(), before, "the ruleset is what it was");
        self.outcome(ran.into())
    }

    /// Starts it with COMMAND in the background.
    #[track_caller]
    pub(crate) fn start<S: Into<OsString>>(&self, command: impl IntoIterator<Item = S>) -> Running {
        let mut words = self.command(command);
        words.stdin(Stdio::null()).stderr(Stdio::piped());
        self.host.spawn(&mut words).unwrap()
    }

    /// What came of one that was started, once it has ended: no gate is left.
    #[track_caller]
    pub(crate) fn end(&self, mut running: Running) -> Outcome {
        wait_until(SOON * 2, "the end of the run", || !running.is_running()).unwrap();
        let outcome = self.outcome(running.output().unwrap().into());
        assert!(!gated(self.host), "no gate is left: {outcome:?}");
        outcome
    }

    /// The words of the call, to be run in some other way.
    pub(crate) fn argv<S: Into<OsString>>(
        &self,
        command: impl IntoIterator<Item = S>,
    ) -> Vec<OsString> {
        let mut words = self.by.clone();
        // Figures are those of another build: the optimised one.
        let binary = std::env::var_os("SYNGATE_TEST_BINARY");
        words.push(binary.unwrap_or_else(|| SYNGATE.into()));
        words.extend(self.arguments.iter().cloned());
        words.extend([
            "--report-file".into(),
            self.report.clone().into(),
            "--".into(),
        ]);
        words.extend(command.into_iter().map(Into::into));
        words
    }

    /// Its own variables, for a call that is run in some other way.
    pub(crate) fn variables(&self) -> Vec<(OsString, OsString)> {
        self.environment.clone()
    }

    /// The report that it has written.
    pub(crate) fn report(&self) -> Value {
        report_in(&self.report)
    }

    /// What came of a call that was run in some other way.
    pub(crate) fn outcome(&self, ran: Ran) -> Outcome {
        Outcome {
            code: ran.code(),
            report: report_in(&self.report),
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
pub(crate) fn report_in(file: &std::path::Path) -> Value {
    let Ok(json) = std::fs::read(file) else {
        return Value::Null;
    };
    let report: Value = serde_json::from_slice(&json).expect("a report is JSON");
    let schema = include_str!("../../contrib/schema/report.schema.json");
    let schema = serde_json::from_str(schema).expect("the schema is JSON");
    let errors: Vec<String> = jsonschema::validator_for(&schema)
        .expect("the schema is one")
        .iter_errors(&report)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert_eq!(errors, Vec::<String>::new(), "{report:#}");
    report
}

/// Each of these options (with the reason in the report, if one is written, and a part of the line on
/// stderr) is refused, before anything was changed.
#[track_caller]
pub(crate) fn all_refused(host: &Host, cases: &[(&str, &str, &str)]) {
    let before = host.ruleset();
    let mark = host.dir().join("ran");
    for (options, reason, says) in cases {
        let call = call(host, words("--port 80")).args(words(options));
        let outcome = call.run([OsStr::new("touch"), mark.as_os_str()]);
        assert_eq!(outcome.code, 125, "{options}: {outcome:?}");
        assert!(outcome.stderr.contains(says), "{options}: {outcome:?}");
        let error = outcome.stderr.lines().last().unwrap();
        assert!(error.starts_with("syngate: "), "{options}: {error}");
        if !reason.is_empty() {
            assert_eq!(outcome.report["reason"], *reason, "{options}: {outcome:?}");
        }
        assert!(!mark.exists(), "{options}");
        assert_eq!(host.ruleset(), before, "{options}");
    }
}

/// What syngate says there, called with these words.
#[track_caller]
pub(crate) fn syngate(host: &Host, arguments: &str) -> Ran {
    host.sh(&format!("{SYNGATE} {arguments}")).unwrap()
}

/// The gates that status tells of, and its exit status.
#[track_caller]
pub(crate) fn status(host: &Host) -> (Vec<Value>, i32) {
    let ran = syngate(host, "status --json");
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    let schema = include_str!("../../contrib/schema/status.schema.json");
    let schema = serde_json::from_str(schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(&json)
        .map(|e| e.to_string())
        .collect();
    assert_eq!(errors, Vec::<String>::new(), "{json:#}");
    assert_eq!(json["unseen"], Value::from(Vec::<Value>::new()), "{json:#}");
    (json["gates"].as_array().unwrap().clone(), ran.code())
}

/// The ports that are shut on the host, for IPv4 and for IPv6 alike.
pub(crate) fn shut(host: &Host) -> Vec<u64> {
    let mut shut = shut_by_nft(host);
    for variant in ["legacy", "nft"] {
        let v4 = shut_by_iptables(host, &format!("iptables-{variant}"), "4");
        let v6 = shut_by_iptables(host, &format!("ip6tables-{variant}"), "6");
        // Each is changed by itself: between the two they differ.
        shut.extend(v4.into_iter().filter(|port| v6.contains(port)));
    }
    shut
}

fn shut_by_nft(host: &Host) -> Vec<u64> {
    let listed = host.nft_json();
    let objects = listed["nftables"].as_array().unwrap();
    let of_ours = |object: &&Value| {
        object["table"]
            .as_str()
            .is_some_and(|t| t.starts_with("syngate_"))
    };
    let rules: Vec<&Value> = objects.iter().map(|o| &o["rule"]).filter(of_ours).collect();
    let sets = objects.iter().map(|o| &o["set"]).filter(of_ours);
    // A set that no rule of its own table looks into stops nobody.
    let of = |object: &Value| (object["family"].clone(), object["table"].clone());
    let looked_into = |set: &&Value| rules.iter().any(|rule| of(rule) == of(set));
    let ports = sets
        .filter(|set| set["name"] == "ports")
        .filter(looked_into);
    let elements = ports.filter_map(|set| set["elem"].as_array()).flatten();
    let mut shut: Vec<u64> = elements
        .map(|e| e["elem"]["val"].as_u64().unwrap())
        .collect();
    shut.sort_unstable();
    shut.dedup();
    shut
}

/// Single ports only. A rule that looks into a list of xt_recent's stops nothing while it is empty.
fn shut_by_iptables(host: &Host, program: &str, family: &str) -> Vec<u64> {
    let mut shut = Vec::new();
    if program.ends_with("legacy") && !host.ruleset().contains("syngate_") {
        return shut; // asking would make a table
    }
    let saved = host.must([&format!("{program}-save"), "-c"]);
    for rule in saved.lines().filter(|line| line.contains(" -A syngate_")) {
        let words: Vec<&str> = rule.split(' ').collect();
        let Some(at) = words.iter().position(|word| *word == "--dports") else {
            continue;
        };
        let list = format!("/proc/net/xt_recent/{}_{family}", words[2]);
        let armed = host.sh(&format!("[ ! -e {list} ] || grep -q . {list}"));
        if armed.unwrap().ok() {
            shut.extend(words[at + 1].split(',').map(|p| p.parse::<u64>().unwrap()));
        }
    }
    shut
}

/// Waits until these ports are shut, and a gate stands.
#[track_caller]
pub(crate) fn wait_shut(host: &Host, ports: &[u64]) {
    let what = format!("ports {ports:?} shut");
    wait_until(SOON, &what, || gated(host) && shut(host) == ports).unwrap();
}

/// The queues of NFQUEUE that somebody reads; none where the kernel has not loaded it.
pub(crate) fn queues(host: &Host) -> String {
    let list = "cat /proc/net/netfilter/nfnetlink_queue 2>/dev/null";
    host.sh(list).unwrap().stdout
}

/// How many SYNs were stopped so far.
pub(crate) fn stopped_syns(host: &Host) -> u64 {
    let json = host.nft_json();
    let objects = json["nftables"].as_array().unwrap().iter();
    let by_nft: u64 = objects
        .filter_map(|o| o["counter"]["packets"].as_u64())
        .sum();
    let script = "iptables-nft-save -c; ip6tables-nft-save -c
                  [ -z \"$(cat /proc/net/ip_tables_names 2>/dev/null)\" ] ||
                    { iptables-legacy-save -c; ip6tables-legacy-save -c; }";
    let saved = host.must(["sh", "-c", script]);
    let stops = saved
        .lines()
        .filter(|line| line.split(' ').nth(2).is_some_and(is_stop_chain));
    let packets = stops.filter_map(|line| {
        line.strip_prefix('[')?
            .split(':')
            .next()?
            .parse::<u64>()
            .ok()
    });
    by_nft + packets.sum::<u64>()
}

/// The chain of the one rule that counts.
fn is_stop_chain(name: &str) -> bool {
    name.starts_with("syngate_") && name.ends_with("_s")
}

/// Whether a table of ours stands on the host.
pub(crate) fn gated(host: &Host) -> bool {
    host.ruleset().contains("syngate_")
}

/// Waits until the gate stands.
#[track_caller]
pub(crate) fn wait_gated(host: &Host) {
    wait_until(SOON, "a closed gate", || gated(host)).unwrap();
}

/// Waits until the gate is gone.
#[track_caller]
pub(crate) fn wait_open(host: &Host, within: Duration) {
    wait_until(within, "an open gate", || !gated(host)).unwrap();
}

/// Signals a run that has taken a signal already: a second one counts half a second after that.
pub(crate) fn signal_again(run: &mut Running, signal: Signal) {
    let since = Instant::now();
    run.signal(signal).unwrap();
    let half_a_second = || since.elapsed() > Duration::from_millis(500);
    wait_until(SOON, "the time of a second signal", half_a_second).unwrap();
    assert!(run.is_running(), "the same wish");
    run.signal(signal).unwrap();
}

/// A figure of a report, in ms.
#[track_caller]
pub(crate) fn ms(report: &Value, field: &str) -> f64 {
    let value = &report[field];
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{field} is {value} in {report:#}"))
}

/// A set of signals from /proc/PID/status.
#[track_caller]
pub(crate) fn signals(status: &str, name: &str) -> u64 {
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(":\t"));
    u64::from_str_radix(line.unwrap(), 16).unwrap()
}

/// None is pending, and it sleeps: it has done what they ask for.
pub(crate) fn has_taken_its_signals(host: &Host, pid: &str) -> bool {
    let status = host.must(["cat", &format!("/proc/{pid}/status")]);
    let pending = signals(&status, "SigPnd") | signals(&status, "ShdPnd");
    pending == 0 && status.contains("State:\tS")
}

/// Figures for people who run the tests by hand.
#[allow(clippy::disallowed_macros)] // it is what they are run for
pub(crate) fn tell(figures: &str) {
    eprintln!("{figures}");
}

/// By way of time(1), which writes down what it has cost.
pub(crate) fn costed<'a>(host: &Host, call: Call<'a>) -> (Call<'a>, PathBuf) {
    let cost = host.dir().join("cost");
    let time = [
        "/usr/bin/time",
        "-f",
        "%U %S %M",
        "-o",
        cost.to_str().unwrap(),
    ];
    (call.by(time), cost)
}

/// Seconds of CPU, and the largest resident set in KiB.
pub(crate) fn read_cost(file: &Path) -> (f64, u64) {
    let text = std::fs::read_to_string(file).unwrap();
    let figures: Vec<f64> = text
        .lines()
        .last()
        .unwrap()
        .split(' ')
        .map(|n| n.parse().unwrap())
        .collect();
    (figures[0] + figures[1], figures[2] as u64)
}

/// The words of a command line without quotes.
pub(crate) fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Holds a lease on a file that it never gives back, and notes when somebody wants to open it: so
/// execve(2) hangs, as on a file server that is gone.
pub(crate) fn lease(host: &Host, file: &std::path::Path) -> Running {
    const LEASE: &str = r#"
import fcntl, os, signal, time
note = lambda what: open("FILE." + what, "w").close()
signal.signal(signal.SIGIO, lambda *_: note("tried"))
fcntl.fcntl(os.open("FILE", os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
note("leased")
while True: time.sleep(60)
"#;
    let lease = LEASE.replace("FILE", file.to_str().unwrap());
    let lease = host
        .spawn(host.command("python3").args(["-c", &lease]))
        .unwrap();
    wait_until(SOON, "a lease", || noted(file, "leased")).unwrap();
    lease
}

/// Whether that program has noted this: `leased`, `tried`.
pub(crate) fn noted(file: &std::path::Path, what: &str) -> bool {
    std::path::PathBuf::from(format!("{}.{what}", file.display())).exists()
}

/// A python program on the host, up when it has said so.
pub(crate) fn python(host: &Host, program: &str) -> Running {
    let mut python = host.command("python3");
    python
        .args(["-c", program])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut running = host.spawn(&mut python).unwrap();
    let mut line = String::new();
    let mut said = std::io::BufReader::new(running.stdout().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "up\n");
    running
}

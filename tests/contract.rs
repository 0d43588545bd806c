//! The command line as a black box: what goes in, what comes out, how it ends.

mod harness;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::CommandFactory;
use harness::instance::ask;
use harness::latch::Latch;
use harness::{
    Call, Outcome, SOON, SYNGATE, call, gated, has_taken_its_signals, ms, shut, signal_again,
    signals, wait_gated, wait_open, words,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::services::Serve;
use testkit::{Hold, Host, Ran, Running, slow, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// Nothing to wait for before COMMAND, and nothing after.
const QUICK: &str = "--port 80 --drain 0 --ready-timeout 0";

/// The signals that ask a run to stop.
const STOPPING: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

fn quick(host: &Host) -> Call<'_> {
    call(host, words(QUICK))
}

/// A COMMAND that is a shell script.
fn sh(script: impl Into<String>) -> Vec<String> {
    vec!["sh".to_owned(), "-c".to_owned(), script.into()]
}

/// The words to put before a call, so that a shell script runs it as `"$@"`.
fn through(script: impl Into<String>) -> Vec<String> {
    let mut words = sh(script);
    words.push("sh".to_owned());
    words
}

/// A COMMAND that leaves a trace.
fn trace(host: &Host) -> [OsString; 2] {
    ["touch".into(), trace_file(host).into()]
}

fn trace_file(host: &Host) -> PathBuf {
    host.dir().join("command-ran")
}

fn ran(host: &Host) -> bool {
    trace_file(host).exists()
}

/// COMMAND was not run, and one line says why.
#[track_caller]
fn assert_refused(outcome: &Outcome, code: i32, reason: &str, says: &[&str]) {
    assert_eq!(outcome.code, code, "{outcome:?}");
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    assert_one_line(&outcome.stderr, says);
    let report = &outcome.report;
    assert_eq!(report["outcome"], "not_run", "{report:#}");
    assert_eq!(report["reason"], reason, "{report:#}");
    assert_eq!(report["exit_status"], code, "{report:#}");
    assert_eq!(report["command_status"], Value::Null, "{report:#}");
    assert_eq!(report["message"], told(outcome), "{report:#}");
}

#[track_caller]
fn assert_one_line(stderr: &str, says: &[&str]) {
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr:?}");
    assert!(stderr.starts_with("syngate: "), "{stderr:?}");
    assert!(stderr.ends_with('\n'), "{stderr:?}");
    for word in says {
        assert!(stderr.contains(word), "{word:?} in {stderr:?}");
    }
}

/// The last line, without the name.
#[track_caller]
fn told(outcome: &Outcome) -> &str {
    let last = outcome.stderr.lines().last().expect("it said something");
    last.strip_prefix("syngate: ").expect("it said its name")
}

/// A server in the background, which listens on port 80; and its pid file.
fn serve(host: &Host) -> PathBuf {
    let pid_file = host.dir().join("server.pid");
    let serve = Serve::on("0.0.0.0:80").daemon_argv(&pid_file).unwrap();
    host.must(serve);
    pid_file
}

/// A connection to port 80 that lasts until the guard is dropped: a drain of connections waits.
struct Busy {
    _server: Running,
    client: Hold,
}

impl Busy {
    const DRAIN: &str = "--port 80 --drain 20s --drain-until connections";

    fn new(host: &Host) -> Busy {
        Busy {
            _server: Serve::on("0.0.0.0:80").echo().start(host).unwrap(),
            client: Hold::start(host, "127.0.0.1:80", Duration::from_millis(20), LONG).unwrap(),
        }
    }
}

// Exit status -------------------------------------------------------------------------------------

/// What a report has to say of a COMMAND that exited by itself.
fn expected_of_status(status: u8) -> Value {
    let (outcome, reason) = match status {
        0 => ("ok", "done"),
        _ => ("command_failed", "exit_status"),
    };
    json!({
        "outcome": outcome,
        "reason": reason,
        "command_status": status,
        "command_signal": null,
        "exit_status": status,
        "exit_signal": null,
    })
}

/// The same fields of what it does say.
fn ending(report: &Value) -> Value {
    let fields = [
        "outcome",
        "reason",
        "command_status",
        "command_signal",
        "exit_status",
        "exit_signal",
    ];
    fields
        .map(|f| (f.to_owned(), report[f].clone()))
        .into_iter()
        .collect()
}

fn report_of(host: &Host, name: &str) -> Value {
    serde_json::from_slice(&fs::read(host.dir().join(name)).unwrap()).unwrap()
}

#[test]
fn every_exit_status_of_command_is_ours() {
    let host = Host::new().unwrap();
    let before = host.ruleset();
    let dir = host.dir().display();
    let ran = host.sh(&format!(
        "for n in $(seq 0 255); do
             {SYNGATE} -q {QUICK} --report-file {dir}/$n.json -- sh -c \"exit $n\"
             echo $?
         done"
    ));
    let ran = ran.unwrap();
    let all: Vec<u8> = (0..=255).collect();
    let codes: Vec<u8> = ran.stdout.lines().map(|l| l.parse().unwrap()).collect();
    assert_eq!(codes, all, "{}", ran.stderr);
    assert_eq!(host.ruleset(), before);
    // 124 to 127 can be told from ours in the report.
    for status in all {
        let report = report_of(&host, &format!("{status}.json"));
        assert_eq!(ending(&report), expected_of_status(status), "{status}");
    }
    assert_eq!(
        ran.stderr.lines().count(),
        255,
        "a line for each failure: {}",
        ran.stderr
    );
}

/// Each that ends a process, the first and the last of the real-time ones among them.
#[test]
fn a_signal_that_ends_command_is_128_and_its_number() {
    // CHLD, CONT, URG and WINCH do nothing by default; STOP and its kin stop.
    let mortal = |n: &i32| ![17, 18, 19, 20, 21, 22, 23, 28].contains(n);
    let host = Host::new().unwrap();
    let before = host.ruleset();
    let dir = host.dir().display();
    let numbers: Vec<i32> = (1..32).filter(mortal).chain([34, 64]).collect();
    let list: Vec<String> = numbers.iter().map(i32::to_string).collect();
    // `env kill`, because not every shell's kill knows all numbers.
    let ran = host.sh(&format!(
        "ulimit -c 0
         for n in {}; do
             timeout -s KILL 5 {SYNGATE} -q {QUICK} --report-file {dir}/$n.json -- \
                 sh -c \"env kill -$n \\$\\$; exec sleep 60\"
             echo $?
         done",
        list.join(" ")
    ));
    let ran = ran.unwrap();
    let codes: Vec<i32> = ran.stdout.lines().map(|l| l.parse().unwrap()).collect();
    let expected: Vec<i32> = numbers.iter().map(|n| 128 + n).collect();
    assert_eq!(codes, expected, "{}", ran.stderr);
    assert_eq!(host.ruleset(), before);
    for n in numbers {
        let expected = json!({
            "outcome": "command_signalled",
            "reason": "signal",
            "command_status": null,
            "command_signal": n,
            "exit_status": 128 + n,
            "exit_signal": null,
        });
        assert_eq!(
            ending(&report_of(&host, &format!("{n}.json"))),
            expected,
            "{n}"
        );
    }
}

/// The terminal did not send it: no shell's loop is meant to stop.
#[test]
fn a_command_that_kills_itself_does_not_take_us_along() {
    let host = Host::new().unwrap();
    let mut run = quick(&host).start(sh("kill -INT $$"));
    assert_eq!(run.wait().unwrap().code(), Some(130));
}

#[test]
fn a_caller_that_ignores_sigchld_gets_the_status_too() {
    let host = Host::new().unwrap();
    let outcome = quick(&host)
        .by(["env", "--ignore-signal=CHLD"])
        .run(sh("exit 3"));
    assert_eq!(outcome.code, 3, "{outcome:?}");
}

// Bad input ---------------------------------------------------------------------------------------

/// Watches every change to the host's ruleset, be it gone again or not.
struct Monitor {
    _nft: Running,
    log: PathBuf,
}

impl Monitor {
    fn start(host: &Host) -> Monitor {
        let log = host.dir().join("nft-monitor");
        let mut nft = host.command("nft");
        nft.arg("monitor").stdout(File::create(&log).unwrap());
        let monitor = Monitor {
            _nft: host.spawn(&mut nft).unwrap(),
            log,
        };
        // It is up when it tells of a change.
        let probe = || {
            host.must(["nft", "add table inet probe; delete table inet probe"]);
            monitor.log().contains("probe")
        };
        wait_until(SOON, "nft monitor", probe).unwrap();
        monitor
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// All that has changed, with the table of this last run of ours; nothing comes later.
    #[track_caller]
    fn until(&self, run: &Value) -> Vec<String> {
        let last = format!("delete table inet syngate_{}", run["run"].as_str().unwrap());
        wait_until(SOON, &last, || self.log().contains(&last)).unwrap();
        let ours = |line: &&str| line.contains("syngate_");
        self.log().lines().filter(ours).map(str::to_owned).collect()
    }
}

/// `syngate ARGUMENTS -- touch FILE`, with these variables in its environment.
fn called_with<S: AsRef<OsStr>>(host: &Host, variables: &[(&str, &OsStr)], arguments: &[S]) -> Ran {
    let mut call = host.command(SYNGATE);
    call.args(arguments).arg("--").args(trace(host));
    call.envs(variables.iter().copied());
    call.stdin(Stdio::null()).output().unwrap().into()
}

/// Collects what is wrong with each row of a table, so that one run shows all.
#[derive(Default)]
struct Complaints(Vec<String>);

impl Complaints {
    /// Refused by 125 and one line that has these words in it.
    fn check(&mut self, host: &Host, row: &str, ran: &Ran, says: &[&str]) {
        let (stderr, lines) = (&ran.stderr, ran.stderr.lines().count());
        let mut complain = |what: String| self.0.push(format!("{row}: {what}: {stderr:?}"));
        if ran.code() != 125 {
            complain(format!("exit {}", ran.code()));
        }
        if lines != 1 || !stderr.starts_with("syngate: ") || !stderr.ends_with('\n') {
            complain(format!("{lines} lines"));
        }
        for word in says.iter().filter(|word| !stderr.contains(**word)) {
            complain(format!("does not name {word:?}"));
        }
        if !ran.stdout.is_empty() {
            complain(format!("{:?} on stdout", ran.stdout));
        }
        if fs::remove_file(trace_file(host)).is_ok() {
            complain("COMMAND was run".to_owned());
        }
    }

    #[track_caller]
    fn none(self) {
        assert!(self.0.is_empty(), "\n{}", self.0.join("\n"));
    }
}

#[test]
fn bad_input_is_one_line_and_touches_nothing() {
    let host = Host::new().unwrap();
    let monitor = Monitor::start(&host);
    let dir = host.dir().to_str().unwrap();
    let in_missing = format!("{dir}/missing/report.json");
    // One row of each kind; the others are beside the code, in run/bad_input.rs.
    let rows: &[(&[&str], &[&str])] = &[
        (&["--port", "80-70"], &["--port", "'80-70'", "70-80"]),
        (&["--port", "80\n443"], &["--port"]),
        (
            &["--port", "htpp"],
            &["--port", "'htpp'", "did you mean http?"],
        ),
        (&["-p80", "--drian", "1s"], &["'--drian'", "--drain"]),
        (&["-p80", "--syn", "reject"], &["--syn", "'reject'", "drop"]),
        (
            &["-p80", "--drain", "20s", "--settle", "10s"],
            &["--drain 20s", "--settle 10s", "--max-closed 30s"],
        ),
        (&["-p80", "--syn", "redirect=80"], &["80 is gated itself"]),
        (&[], &["--port", "missing"]),
        (
            &["-p80", "--report-file", &in_missing],
            &["--report-file", &in_missing],
        ),
        (
            &["-p80", "--report-file", dir],
            &["--report-file", dir, "directory"],
        ),
    ];
    let mut complaints = Complaints::default();
    for (arguments, says) in rows {
        let ran = called_with(&host, &[], arguments);
        complaints.check(&host, &format!("{arguments:?}"), &ran, says);
    }
    let bytes = OsString::from_vec(b"1s\xff".to_vec());
    let ran = called_with(&host, &[], &["-p80".into(), "--drain".into(), bytes]);
    complaints.check(&host, "not UTF-8", &ran, &["--drain"]);

    for (arguments, says) in [
        (&["--port", "80"][..], ["COMMAND", "--"]),
        (&["--port", "80", "--"], ["COMMAND", "--"]),
        (&["--port", "80", "true"], ["'true'", "--"]),
        (&["--port", "80", "-", "true"], ["'-'", "--"]),
        (&["help", "chekc"], ["help takes one of", "check"]),
        (&["help", "check", "80"], ["help takes one of", "check"]),
        (&["statsu"], ["'statsu'", "did you mean status?"]),
        (
            &["status", "--jsno"],
            ["did you mean --json?", "status --help"],
        ),
        (&["clear", "80"], ["'80'", "--port 80"]),
        (&["clear", "-P", "80"], ["did you mean -p?", "clear --help"]),
    ] {
        let ran = host
            .command(SYNGATE)
            .args(arguments)
            .stdin(Stdio::null())
            .output();
        complaints.check(
            &host,
            &format!("{arguments:?}"),
            &ran.unwrap().into(),
            &says,
        );
    }
    // Nothing was changed even for a moment: the only gate is this one's.
    let good = quick(&host).run(trace(&host));
    assert_eq!(good.code, 0, "{good:?}");
    let changes = monitor.until(&good.report);
    let run = good.report["run"].as_str().unwrap();
    assert!(
        !changes.is_empty() && changes.iter().all(|line| line.contains(run)),
        "{changes:#?}"
    );
    complaints.none();
}

#[test]
fn bad_variables_are_named_as_such() {
    /// The variable, its value, the arguments beside it, and what the line has to say.
    type Row<'a> = (&'a str, &'a [u8], &'a [&'a str], &'a [&'a str]);
    let host = Host::new().unwrap();
    let rows: &[Row] = &[
        ("SYNGATE_PORT", b"80-70", &[], &["70-80"]),
        ("SYNGATE_PORT", b"", &[], &[]),
        ("SYNGATE_DRAIN", b"5", &["-p80"], &["'5'", "unit"]),
        // The value is part of another argument.
        ("SYNGATE_DRAIN", b"1", &["-p81"], &["'1'", "unit"]),
        ("SYNGATE_DRAIN", b"1s\xff", &["-p80"], &[]),
        ("SYNGATE_SETTLE", b"1M", &["-p80"], &["'1M'"]),
        ("SYNGATE_READY_TIMEOUT", b"-1s", &["-p80"], &["'-1s'"]),
        ("SYNGATE_MAX_CLOSED", b"x", &["-p80"], &["'x'"]),
        ("SYNGATE_LOCK_TIMEOUT", b"25h", &["-p80"], &["'25h'", "24h"]),
        (
            "SYNGATE_DRAIN_UNTIL",
            b"never",
            &["-p80"],
            &["'never'", "requests"],
        ),
        (
            "SYNGATE_OPEN_ON",
            b"never",
            &["-p80"],
            &["'never'", "ready"],
        ),
        ("SYNGATE_SYN", b"reject", &["-p80"], &["'reject'", "drop"]),
        ("SYNGATE_QUIET", b"maybe", &["-p80"], &["'maybe'"]),
        ("SYNGATE_BEST_EFFORT", b"2", &["-p80"], &["'2'"]),
    ];
    let mut complaints = Complaints::default();
    for (name, value, arguments, says) in rows {
        let ran = called_with(&host, &[(*name, OsStr::from_bytes(value))], arguments);
        let row = format!("{name}={}", value.escape_ascii());
        complaints.check(&host, &row, &ran, &[&[*name], *says].concat());
    }
    // The same value as an argument is the argument's fault.
    let ran = called_with(
        &host,
        &[("SYNGATE_DRAIN", OsStr::new("5"))],
        &["-p80", "--drain", "5"],
    );
    complaints.check(&host, "both", &ran, &["--drain", "'5'"]);
    if ran.stderr.contains("SYNGATE_DRAIN") {
        complaints
            .0
            .push(format!("both: names the variable: {:?}", ran.stderr));
    }
    complaints.none();
}

/// Each option, with two letters of its name swapped; of --to not enough would be left.
#[test]
fn a_misspelt_option_is_recognised() {
    let program = syngate::Args::command();
    let mut wrong = Vec::new();
    let names = program.get_arguments().filter_map(|arg| arg.get_long());
    for name in names.filter(|name| *name != "to") {
        let mut letters: Vec<char> = name.chars().collect();
        let at = (1..letters.len()).find(|at| letters[*at] != letters[*at - 1]);
        letters.swap(at.unwrap(), at.unwrap() - 1);
        let misspelt = format!("--{}", String::from_iter(letters));
        let call = std::process::Command::new(SYNGATE)
            .args(["-p80", &misspelt, "--", "true"])
            .output();
        let ran: Ran = call.unwrap().into();
        let question = format!("unknown option '{misspelt}'; did you mean --{name}?");
        if ran.code() != 125 || !ran.stderr.contains(&question) {
            wrong.push(ran.stderr);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A warning, as the run may do without; and no error is without it where that may be the reason.
#[test]
fn variables_that_are_not_read_are_warned_of() {
    let host = Host::new().unwrap();
    serve(&host);
    for (name, says) in [
        ("SYNGATE_DRIAN", "did you mean SYNGATE_DRAIN?"),
        ("SYNGATE_PORTS", "did you mean SYNGATE_PORT?"),
        ("SYNGATE_PRECHECK", "command line only"),
        ("SYNGATE_READY_CHECK", "command line only"),
    ] {
        let outcome = quick(&host).env(name, "1").run(["true"]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let first = outcome.stderr.lines().next().unwrap();
        let warning = first.strip_prefix("syngate: warning: ").expect(first);
        assert!(
            warning.starts_with(&format!("{name} has no effect")),
            "{first}"
        );
        assert!(warning.contains(says), "{first}");
        assert_eq!(outcome.stderr.lines().count(), 2, "{outcome:?}");
        assert_eq!(outcome.report["warnings"], json!([warning]));
        let quiet = quick(&host).arg("-q").env(name, "1").run(["true"]);
        assert_eq!(quiet.stderr, "");
    }
    // Whose they are is not known.
    for name in [
        "SYNGATE_TEST_ANYTHING",
        "SYNGATE_",
        "SYNGATES",
        "SYNGATE_RUN",
    ] {
        let outcome = quick(&host).env(name, "1").run(["true"]);
        assert_eq!(outcome.report["warnings"], json!([]), "{name}");
    }
    let ran = called_with::<&str>(&host, &[("SYNGATE_PROT", OsStr::new("80"))], &[]);
    assert_eq!(ran.code(), 125);
    assert_one_line(
        &ran.stderr,
        &["--port is missing", "did you mean SYNGATE_PORT?"],
    );
}

#[test]
fn options_come_from_the_environment_unless_they_are_code() {
    let host = Host::new().unwrap();
    let code = host.dir().join("code");
    let with = |options: &str| {
        call(&host, words(options))
            .env("SYNGATE_PORT", "80,443")
            .env("SYNGATE_DRAIN", "0")
            .env("SYNGATE_READY_TIMEOUT", "0")
            .env("SYNGATE_QUIET", "1")
            .env("SYNGATE_VERBOSE", "0")
            .env("SYNGATE_PRECHECK", &format!("touch {}", code.display()))
            .run(["true"])
    };
    let outcome = with("");
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.stderr, "", "quiet");
    assert_eq!(outcome.report["ports"], json!(["80", "443"]));
    assert!(!code.exists(), "--precheck is code");

    let outcome = with("--port 81");
    assert_eq!(
        outcome.report["ports"],
        json!(["81"]),
        "the command line goes first"
    );
    let outcome = with("-v");
    assert!(
        outcome.stderr.contains("running true"),
        "the command line goes first: {outcome:?}"
    );
}

#[test]
fn an_empty_variable_counts_as_one_that_is_not_set() {
    let host = Host::new().unwrap();
    let call = call(&host, words("--port 80 --ready-timeout 0"));
    let names = ["DRAIN", "SYN", "QUIET", "MAX_HELD", "TO", "REPORT_FILE"];
    let call = names
        .into_iter()
        .fold(call, |call, name| call.env(&format!("SYNGATE_{name}"), ""));
    let outcome = call.run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let ran = host.sh(&format!(
        "SYNGATE_DRAIN= SYNGATE_PORT= {SYNGATE} run nobody"
    ));
    let ran = ran.unwrap();
    assert!(
        ran.stderr.contains("nobody") && !ran.stderr.contains("SYNGATE_"),
        "{ran:?}"
    );
}

#[test]
fn help_is_a_word_too() {
    let host = Host::new().unwrap();
    let said = |words: &str| {
        let ran = host.sh(&format!("{SYNGATE} {words}")).unwrap();
        assert!(ran.ok() && ran.stderr.is_empty(), "{words}: {ran:?}");
        ran.stdout
    };
    assert_eq!(said("help"), said("--help"));
    for word in [
        "restart", "reload", "run", "status", "clear", "check", "keep",
    ] {
        assert_eq!(
            said(&format!("help {word}")),
            said(&format!("{word} --help"))
        );
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let host = Host::new().unwrap();
    for (option, says) in [
        ("--help", "--port"),
        ("-h", "--port"),
        ("--version", "syngate "),
    ] {
        let ran = host.sh(&format!("{SYNGATE} {option}")).unwrap();
        assert!(
            ran.ok() && ran.stderr.is_empty() && ran.stdout.contains(says),
            "{ran:?}"
        );
        let ran = host.sh(&format!("{SYNGATE} {option} >/dev/full")).unwrap();
        assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    }
}

// COMMAND that can't be run -----------------------------------------------------------------------

#[test]
fn commands_that_cannot_be_run_are_126_or_127() {
    let host = Host::new().unwrap();
    let dir = host.dir().to_str().unwrap();
    let executable = |name: &str, content: &[u8]| {
        let file = host.write(name, content);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let plain = host
        .write("plain", "#!/bin/sh\n")
        .to_str()
        .unwrap()
        .to_owned();
    let orphan = executable("orphan", b"#!/no/such/interpreter\n");
    let garbage = executable("garbage", b"\x7fELF\x02\x01\x01\0\0\0\0\0\xff\xfe\xfd");
    std::os::unix::fs::symlink("/no/such/target", host.dir().join("dangling")).unwrap();
    let dangling = format!("{dir}/dangling");
    for (command, code, reason, says) in [
        (
            "no-such-command",
            127,
            "not_found",
            &["no-such-command", "PATH"][..],
        ),
        ("/no/such/command", 127, "not_found", &["/no/such/command"]),
        (&dangling, 127, "not_found", &[&dangling]),
        (dir, 126, "not_executable", &[dir, "directory"]),
        (&plain, 126, "not_executable", &[&plain, "not executable"]),
        // Only the kernel knows of these; the gate has been closed, and is open again.
        (&orphan, 127, "spawn_failed", &[&orphan, "interpreter"]),
        (&garbage, 126, "spawn_failed", &[&garbage]),
    ] {
        let outcome = quick(&host).arg("-q").run([command]);
        assert_refused(&outcome, code, reason, says);
        let was_closed = outcome.report["closed_ms"].is_number();
        assert_eq!(was_closed, reason == "spawn_failed", "{:#}", outcome.report);
    }
}

/// execvp(3) finds no file of that name anywhere.
#[test]
fn an_empty_command_is_not_found() {
    let host = Host::new().unwrap();
    let outcome = quick(&host).arg("-q").run([""]);
    assert_refused(&outcome, 127, "not_found", &["''"]);
}

#[test]
fn a_script_without_an_interpreter_line_is_run_by_sh() {
    let host = Host::new().unwrap();
    let script = host.write(
        "script",
        format!("echo $1 >{}; exit 5", trace_file(&host).display()),
    );
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let outcome = quick(&host).run([script, "hello".into()]);
    assert_eq!(outcome.code, 5, "{outcome:?}");
    assert_eq!(fs::read_to_string(trace_file(&host)).unwrap(), "hello\n");
}

#[test]
fn a_command_beyond_crons_path_is_told_where_it_is() {
    let host = Host::new().unwrap();
    let cron = quick(&host)
        .arg("-q")
        .by(["env", "-i", "PATH=/usr/bin:/bin"]);
    let outcome = cron.run(["service", "haproxy", "restart"]);
    let hint = "/usr/sbin/service exists: give the full path or set PATH";
    assert_refused(&outcome, 127, "not_found", &["service", hint]);
    // What is in it is found.
    assert_eq!(cron.run(trace(&host)).code, 0);
    assert!(ran(&host));
}

#[test]
fn words_of_a_shell_are_told_as_such() {
    let host = Host::new().unwrap();
    for (command, says) in [
        (["cd", "x"], "use sh -c 'cd ...'"),
        (["FOO=bar", "cmd"], "env FOO=bar"),
    ] {
        let outcome = quick(&host).run(command);
        assert_refused(&outcome, 127, "not_found", &[says]);
    }
}

/// As execvp(3) does: a file that may not be executed is passed over for one that may.
#[test]
fn path_is_searched_in_its_order() {
    let host = Host::new().unwrap();
    let place = |directory: &str, mode: u32, status: u32| {
        let directory = host.dir().join(directory);
        fs::create_dir(&directory).unwrap();
        let file = directory.join("thing");
        fs::write(&file, format!("#!/bin/sh\nexit {status}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        directory.to_str().unwrap().to_owned()
    };
    let (plain, first, second) = (
        place("a", 0o644, 1),
        place("b", 0o755, 2),
        place("c", 0o755, 3),
    );
    for (path, code) in [
        (format!("{first}:{second}"), 2),
        (format!("{second}:{first}"), 3),
        (format!("/no/such:{plain}:{second}"), 3),
        (plain, 126),
        (String::new(), 127),
    ] {
        let outcome = quick(&host)
            .by(["env", &format!("PATH={path}")])
            .run(["thing"]);
        assert_eq!(outcome.code, code, "PATH={path}: {outcome:?}");
    }
}

// Privilege ---------------------------------------------------------------------------------------

/// Without the capability; with it, but over another user namespace than the network's.
const UNPRIVILEGED: [(&str, &str); 2] = [
    (
        "privilege",
        "setpriv --bounding-set -net_admin --inh-caps -net_admin",
    ),
    ("close_failed", "unshare --user --map-root-user"),
];

#[test]
fn a_caller_without_cap_net_admin_is_told_how_to_get_it() {
    let host = Host::new().unwrap();
    for (reason, by) in UNPRIVILEGED {
        let outcome = quick(&host).arg("-q").by(words(by)).run(trace(&host));
        assert_refused(&outcome, 125, reason, &["CAP_NET_ADMIN", "root"]);
        assert!(!ran(&host), "{by}");
    }
}

#[test]
fn best_effort_runs_command_without_a_gate_and_says_so() {
    let host = Host::new().unwrap();
    serve(&host);
    for (_, by) in UNPRIVILEGED {
        let best_effort = call(&host, words("--port 80 --best-effort")).by(words(by));
        for status in [0, 7] {
            let outcome = best_effort.run(sh(format!("exit {status}")));
            assert_eq!(outcome.code, status, "{by}: {outcome:?}");
            assert!(
                outcome.stderr.contains("CAP_NET_ADMIN"),
                "{by}: {outcome:?}"
            );
            let report = &outcome.report;
            let mut expected = expected_of_status(status as u8);
            if status == 0 {
                expected["reason"] = json!("ungated");
            }
            assert_eq!(ending(report), expected);
            assert_eq!(report["closed_ms"], Value::Null, "{report:#}");
            assert_eq!(
                report["warnings"].as_array().unwrap().len(),
                1,
                "{report:#}"
            );
        }
        // It covers nothing else.
        let outcome = best_effort
            .clone()
            .env("SYNGATE_LOCK_DIR", "/etc/hostname")
            .run(trace(&host));
        assert_refused(&outcome, 125, "lock", &["SYNGATE_LOCK_DIR"]);
        let relative = best_effort.clone().env("SYNGATE_LOCK_DIR", "gates");
        let outcome = relative.run(trace(&host));
        assert_refused(&outcome, 125, "lock", &["'gates'", "absolute"]);
        let outcome = best_effort
            .clone()
            .arg("--precheck=false")
            .run(trace(&host));
        assert_refused(&outcome, 125, "precheck", &["--precheck"]);
        assert!(!ran(&host), "{by}");
    }
}

/// As on a kernel without CONFIG_NETFILTER_NETLINK: the socket can't be made.
#[test]
fn a_kernel_without_nf_tables_is_named() {
    let host = Host::new().unwrap();
    let log = host.dir().join("sockets");
    let log = log.to_str().unwrap();
    let traced = |rest: &str| {
        let strace = format!("strace -o {log} -e trace=socket {rest}");
        quick(&host)
            .args(["-q", "--backend", "nft"])
            .by(words(&strace))
    };
    assert_eq!(traced("").run(["true"]).code, 0);
    let sockets = fs::read_to_string(log).unwrap();
    // The first one only looks at the host's firewall.
    let sockets = sockets.lines().zip(1..);
    let mut netfilter = sockets.filter(|(l, _)| l.contains("NETLINK_NETFILTER"));
    let (_, which) = netfilter.nth(1).unwrap();

    let without = traced(&format!(
        "-e inject=socket:error=EPROTONOSUPPORT:when={which}+"
    ));
    let outcome = without.run(trace(&host));
    assert_refused(
        &outcome,
        125,
        "close_failed",
        &["nf_tables", "CONFIG_NF_TABLES"],
    );
    assert!(!ran(&host));
    let outcome = without.arg("--best-effort").run(trace(&host));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(ran(&host));
}

// Lock --------------------------------------------------------------------------------------------

#[test]
fn a_lock_directory_that_cannot_be_used_is_named() {
    let host = Host::new().unwrap();
    host.must([
        "sh",
        "-c",
        "mkdir /run/ro && mount -t tmpfs -o ro none /run/ro",
    ]);
    let file = host.write("file", "");
    for directory in [
        file.to_str().unwrap(),
        "/no/such/parent/syngate",
        "/run/ro",
        "/proc",
    ] {
        let locked = quick(&host).arg("-q").env("SYNGATE_LOCK_DIR", directory);
        let outcome = locked.run(trace(&host));
        assert_refused(&outcome, 125, "lock", &[directory, "SYNGATE_LOCK_DIR"]);
        assert!(!ran(&host));
    }
    // A host whose /run is read-only: another directory does.
    host.must(["mount", "-o", "remount,ro", "/run"]);
    let outcome = quick(&host).arg("-q").run(trace(&host));
    assert_refused(&outcome, 125, "lock", &["/run/syngate", "SYNGATE_LOCK_DIR"]);
    let elsewhere = host.dir().join("locks");
    let outcome = quick(&host)
        .env("SYNGATE_LOCK_DIR", elsewhere.to_str().unwrap())
        .run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
}

/// A run that has closed its gate and is held in COMMAND.
struct Holder<'a> {
    call: Call<'a>,
    run: Running,
    latch: Latch,
}

impl<'a> Holder<'a> {
    fn start(host: &'a Host, ports: &str) -> Holder<'a> {
        let latch = Latch::new(host, ports);
        let options = format!("--port {ports} --drain 0 --ready-timeout 0");
        let report = host.dir().join(format!("{ports}.json"));
        let call = call(host, words(&options)).report_to(report);
        // What is left of it when it is killed keeps none of our pipes open.
        let run = call.start(sh(format!("exec 2>/dev/null; {}", latch.hold())));
        latch.wait();
        Holder { call, run, latch }
    }

    /// Its pid on its host.
    fn pid(&mut self) -> String {
        let status = format!("/proc/{}/status", self.run.pid().unwrap());
        let status = fs::read_to_string(status).unwrap();
        let pids = status
            .lines()
            .find_map(|l| l.strip_prefix("NSpid:"))
            .unwrap();
        pids.split_whitespace().last().unwrap().to_owned()
    }

    fn end(mut self) -> Outcome {
        self.latch.release();
        wait_until(SOON, "the end of the run", || !self.run.is_running()).unwrap();
        self.call.outcome(self.run.output().unwrap().into())
    }
}

/// A call whose stderr can be read while it runs.
fn overheard(host: &Host, options: &str) -> (impl Fn() -> String, Vec<String>, Vec<String>) {
    let file = host.dir().join("overheard");
    let _ = fs::remove_file(&file);
    let by = through(format!("exec \"$@\" 2>{}", file.display()));
    let heard = move || fs::read_to_string(&file).unwrap_or_default();
    (heard, by, words(options))
}

#[test]
fn runs_for_one_port_take_turns() {
    let host = Host::new().unwrap();
    // Also where only some of the ports are the same.
    for (first, second) in [
        ("80", "80"),
        ("80-90", "85-95"),
        ("443,8000-8010", "70-80,8010"),
    ] {
        let mut holder = Holder::start(&host, first);
        let options = format!("--port {second} --drain 0 --ready-timeout 0");
        let (heard, by, options) = overheard(&host, &options);
        let waiting = call(&host, options).by(by);
        let run = waiting.start(trace(&host));
        wait_until(SOON, "its word", || heard().ends_with('\n')).unwrap();
        assert_one_line(&heard(), &[&format!("pid {} ", holder.pid()), SYNGATE]);
        assert!(!ran(&host), "{second}");
        let tables = host.must(["nft", "list", "tables"]);
        assert_eq!(tables.matches("syngate_").count(), 1, "{second}: {tables}");

        assert_eq!(holder.end().code, 0);
        let outcome = waiting.end(run);
        assert_eq!(outcome.code, 0, "{second}: {outcome:?}");
        fs::remove_file(trace_file(&host)).unwrap();
    }
}

#[test]
fn runs_for_other_ports_do_not_wait() {
    let host = Host::new().unwrap();
    let holder = Holder::start(&host, "80-90,443");
    for ports in ["79", "91-442", "444,8000"] {
        let options = format!("--port {ports} --drain 0 --ready-timeout 0 --lock-timeout 0");
        let mut outcome = call(&host, words(&options));
        let other = outcome.run(["true"]);
        assert_eq!(other.code, 0, "{other:?}");
        outcome = call(&host, words(&options));
        assert_eq!(outcome.run(sh("exit 9")).code, 9);
    }
    assert_eq!(holder.end().code, 0);
}

#[test]
fn the_wait_for_the_lock_is_bounded() {
    let host = Host::new().unwrap();
    let mut holder = Holder::start(&host, "80");
    for (timeout, least_ms) in [("0", 0.0), ("300ms", 300.0)] {
        let since = Instant::now();
        let outcome = quick(&host)
            .args(["-q", "--lock-timeout", timeout])
            .by(words("timeout -s KILL 20"))
            .run(trace(&host));
        let pid = format!("pid {} ", holder.pid());
        assert_refused(&outcome, 125, "lock_timeout", &["--lock-timeout", &pid]);
        let took_ms = since.elapsed().as_secs_f64() * 1e3;
        assert!(
            (least_ms..least_ms + 2_000.0).contains(&took_ms),
            "{took_ms} ms"
        );
    }
    assert!(!ran(&host));
    assert_eq!(holder.end().code, 0);
}

#[test]
fn a_killed_run_leaves_the_lock_at_once() {
    let host = Host::new().unwrap();
    let mut holder = Holder::start(&host, "80");
    let (heard, by, options) = overheard(&host, QUICK);
    let waiting = call(&host, options).by(by);
    let run = waiting.start(trace(&host));
    wait_until(SOON, "its word", || heard().contains("waiting for")).unwrap();
    holder.run.signal(Signal::SIGKILL).unwrap();
    // Its COMMAND lives on, and holds neither lock nor gate.
    let killed = Instant::now();
    wait_until(SOON, "the other's turn", || ran(&host)).unwrap();
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(
        host.sh(&format!("kill -0 {}", holder.latch.wait()))
            .unwrap()
            .ok()
    );
    assert_eq!(waiting.end(run).code, 0);
}

#[test]
fn a_run_inside_one_for_the_same_port_is_refused_at_once() {
    let host = Host::new().unwrap();
    let dir = host.dir().display();
    let inner_report = host.dir().join("inner.json");
    let run = |ports: &str| format!("{SYNGATE} -q --port {ports} --drain 0 --ready-timeout 0");
    let inner = |ports: &str| {
        let (run, report) = (run(ports), inner_report.display());
        format!("{run} --report-file {report} -- touch {dir}/command-ran")
    };
    for (outer, command, nested) in [
        ("80", inner("80"), true),
        ("80-90", inner("85"), true),
        ("85", inner("80-90"), true),
        ("80", format!("{} -- {}", run("81"), inner("80")), true),
        ("80", format!("{} -- {}", run("81"), inner("81")), true),
        ("80", inner("81"), false),
        ("80", format!("{} -- {}", run("81"), inner("82")), false),
    ] {
        let _ = fs::remove_file(&inner_report);
        let options = format!("--port {outer} --drain 0 --ready-timeout 0");
        let since = Instant::now();
        let outcome = call(&host, words(&options)).run(words(&command));
        assert!(
            since.elapsed() < Duration::from_secs(5),
            "no wait for ourselves: {command}"
        );
        let report: Value = serde_json::from_slice(&fs::read(&inner_report).unwrap()).unwrap();
        assert_eq!(ran(&host), !nested, "{command}");
        if nested {
            // To the outer run it is COMMAND's own status.
            assert_eq!(
                ending(&outcome.report),
                expected_of_status(125),
                "{outcome:?}"
            );
            assert_eq!(
                (&report["outcome"], &report["reason"]),
                (&json!("not_run"), &json!("nested"))
            );
            assert_eq!(report["exit_status"], 125);
        } else {
            assert_eq!(outcome.code, 0, "{outcome:?}");
            assert_eq!(report["outcome"], "ok");
            fs::remove_file(trace_file(&host)).unwrap();
        }
    }
}

// Strange surroundings ----------------------------------------------------------------------------

#[test]
fn streams_that_are_closed_or_broken_do_no_harm() {
    let host = Host::new().unwrap();
    let fds = host.dir().join("fds");
    let broken = format!(
        "mkfifo {0}; : <{0} & exec 2>{0}; wait; exec \"$@\"",
        host.dir().join("fifo").display()
    );
    for by in [
        "exec \"$@\" <&-",
        "exec \"$@\" >&-",
        "exec \"$@\" 2>&-",
        "exec \"$@\" <&- >&- 2>&-",
        "exec \"$@\" >/dev/full",
        "exec \"$@\" >/dev/full 2>/dev/full",
        &broken,
    ] {
        let _ = fs::remove_file(&fds);
        let command = sh(format!("ls -l /proc/self/fd >{}", fds.display()));
        // -v, to write much.
        let outcome = quick(&host).arg("-v").by(through(by)).run(command);
        assert_eq!(outcome.code, 0, "{by}: {outcome:?}");
        assert_eq!(outcome.report["outcome"], "ok", "{by}");
        assert!(!outcome.stderr.contains("panicked"), "{by}: {outcome:?}");
        // None of our sockets has become COMMAND's stdin, stdout or stderr.
        let fds = fs::read_to_string(&fds).unwrap();
        assert!(
            !fds.contains("socket:") && !fds.contains("signalfd"),
            "{by}: {fds}"
        );
    }
}

/// The lines of `cat /proc/self/status` that tell what a process was started with.
fn as_started(status: &str) -> Vec<&str> {
    let names = [
        "SigBlk:",
        "SigIgn:",
        "SigCgt:",
        "CapPrm:",
        "CapAmb:",
        "NoNewPrivs:",
        "Umask:",
    ];
    let told = |line: &&str| names.iter().any(|name| line.starts_with(name));
    status.lines().filter(told).collect()
}

/// The oracle is the same COMMAND without syngate.
#[test]
fn command_starts_as_it_would_without_us() {
    let host = Host::new().unwrap();
    let with_and_without = |by: &[String], command: &str| {
        let command = words(command);
        let (program, rest) = by.split_first().unwrap_or((&command[0], &command[1..]));
        let mut plain = host.command(program);
        plain.args(rest);
        if !by.is_empty() {
            plain.args(&command);
        }
        let plain: Ran = plain.stdin(Stdio::null()).output().unwrap().into();
        let outcome = quick(&host).by(by).run(command);
        assert_eq!(outcome.code, plain.code(), "{by:?}: {outcome:?}");
        (outcome.stdout, plain.stdout)
    };
    for by in [
        vec![],
        words("nohup"),
        words("env --block-signal=USR2,TERM,CHLD"),
        words("env --ignore-signal=INT,USR1,QUIT"),
        words("setpriv --no-new-privs"),
        // What a unit's AmbientCapabilities= hands on.
        words("setpriv --inh-caps +net_admin --ambient-caps +net_admin"),
        words("nice -n 5"),
        through("trap '' PIPE; exec \"$@\""),
        through("trap '' XFSZ; exec \"$@\""),
        through("trap '' XCPU; exec \"$@\""),
        through("ulimit -f 2000; exec \"$@\""),
        through("trap '' HUP TERM; exec \"$@\""),
        through("umask 027; ulimit -n 64; cd /usr; exec \"$@\""),
        through("exec \"$@\" 5</dev/null 9>/dev/null"),
    ] {
        let (ours, plain) = with_and_without(&by, "cat /proc/self/status");
        assert_eq!(as_started(&ours), as_started(&plain), "{by:?}");
        assert_eq!(as_started(&plain).len(), 7, "{plain}");
        for command in [
            "ls /proc/self/fd",
            "readlink /proc/self/cwd",
            "cat /proc/self/limits",
            "nice",
        ] {
            let (ours, plain) = with_and_without(&by, command);
            assert_eq!(ours, plain, "{by:?}: {command}");
        }
    }
    // By default nothing is blocked, and what syngate itself ignores is not ignored.
    let outcome = quick(&host).run(["cat", "/proc/self/status"]);
    assert_eq!(signals(&outcome.stdout, "SigBlk"), 0);
    for ours in [Signal::SIGPIPE, Signal::SIGXFSZ, Signal::SIGXCPU] {
        assert!(
            !contains(signals(&outcome.stdout, "SigIgn"), ours),
            "{ours}: {}",
            outcome.stdout
        );
    }
}

/// The kernel would end syngate by SIGXFSZ, with a status that COMMAND could have had.
#[test]
fn a_limit_of_file_sizes_is_an_error_like_others() {
    let host = Host::new().unwrap();
    let limited = |size: u32| through(format!("ulimit -f {size}; exec \"$@\""));
    let outcome = quick(&host).by(limited(100)).run(trace(&host));
    assert_eq!(outcome.code, 125, "{outcome:?}");
    assert!(outcome.stderr.contains("LimitFSIZE="), "{outcome:?}");
    assert!(!trace_file(&host).exists());
    // It is large enough for the lock file and the report.
    let outcome = quick(&host).by(limited(2000)).run(trace(&host));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(trace_file(&host).exists());
}

/// Under any limit of resources the run is whole, or does not begin: one line says why. The kernel would end
/// it in its middle, with a status that COMMAND could have had.
#[test]
fn a_limit_of_resources_ends_no_run_in_its_middle() {
    let host = Host::new().unwrap();
    let _server = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let mut statuses = BTreeSet::new();
    // The stack and the data, memory, open files, locked memory. With less stack or memory the loader may fail: the
    // environment takes some of it.
    for (limit, values) in [
        ("-s", &[32, 64, 128, 256, 512, 1024, 8192][..]),
        ("-d", &[2_000, 8_000, 16_384, 32_768]),
        ("-v", &[40_000, 50_000, 65_536, 100_000]),
        ("-n", &[8, 10, 12, 14, 16, 27, 32, 64]),
        ("-l", &[0, 64]),
        ("-t", &[1, 2]),
    ] {
        for value in values {
            let limited = format!("ulimit -c 0; ulimit {limit} {value}; exec \"$@\"");
            let call = call(
                &host,
                words("--port 80 --drain 0 --settle 0 --ready-check true"),
            )
            .by(through(limited));
            let outcome = call.run(["true"]);
            let what = format!("ulimit {limit} {value}: {outcome:?}");
            assert!([0, 125].contains(&outcome.code), "{what}");
            assert_eq!(outcome.stderr.lines().count(), 1, "{what}");
            assert!(outcome.stderr.starts_with("syngate: "), "{what}");
            ask(&host, "127.0.0.1:80");
            statuses.insert((limit, outcome.code));
        }
    }
    for told in [
        ("-s", 125),
        ("-s", 0),
        ("-v", 125),
        ("-v", 0),
        ("-n", 125),
        ("-n", 0),
    ] {
        assert!(statuses.contains(&told), "{told:?}: {statuses:?}");
    }
}

/// The process that becomes COMMAND was stopped while it waited for the end of the drain.
#[test]
fn a_command_that_was_stopped_before_it_began_runs() {
    let host = Host::new().unwrap();
    let busy = Busy::new(&host);
    let call = call(&host, words(Busy::DRAIN)).args(["--settle", "0"]);
    let run = call.start(["true"]);
    wait_gated(&host);
    host.must(["pkill", "-STOP", "-x", "gate-command"]);
    drop(busy.client);
    assert_eq!(call.end(run).code, 0);
}

/// Uses up CPU time, and becomes a run under these limits of it.
fn after_cpu_time(used: f64, soft: u32, hard: u32) -> Vec<String> {
    let program = format!(
        "import os, resource, sys, time
while time.process_time() < {used}: pass
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_CPU, ({soft}, {hard}))
os.execvp(sys.argv[1], sys.argv[1:])"
    );
    ["python3", "-c", &program].map(str::to_owned).into()
}

/// Beyond the soft limit of CPU time the run goes on: SIGXCPU would end it with a status that COMMAND could
/// have had. Before the hard limit, where the kernel kills syngate, the gate opens.
#[test]
fn a_limit_of_cpu_time() {
    let host = Host::new().unwrap();
    let server = Serve::on("0.0.0.0:80");
    let pid = host.dir().join("server.pid");
    let start = || host.must(server.clone().daemon_argv(&pid).unwrap());
    // The run looks for the listener again and again.
    let stop = sh(format!("kill $(cat {})", pid.display()));
    let call = || {
        call(
            &host,
            words("--port 80 --drain 0 --ready-timeout 5m --max-closed 5m"),
        )
    };
    start();
    // A busy machine may take more before syngate begins, and the soft limit would end that.
    let soft = call().by(after_cpu_time(0.8 - 0.05 * f64::from(slow()), 1, 60));
    let mut run = soft.start(stop.clone());
    let pid = run.pid().unwrap();
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let times = fields.split_whitespace().skip(11).take(2);
        times.map(|n| n.parse::<u64>().unwrap()).sum::<u64>()
    };
    wait_until(SOON * 8, "more CPU time than the soft limit", || {
        ticks() > 103
    })
    .unwrap();
    start();
    assert_eq!(soft.end(run).code, 0);

    let hard = call().by(after_cpu_time(1.75 - 0.1 * f64::from(slow()), 2, 2));
    let mut run = hard.start(stop);
    let mut said = BufReader::new(run.stderr().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("CPU time")));
    wait_until(SOON, "an open gate", || shut(&host).is_empty()).unwrap();
    start();
    let outcome = hard.end(run);
    assert_eq!(outcome.code, 124, "{outcome:?}");
    assert_eq!(outcome.report["reason"], "cpu_time");
}

fn contains(signals: u64, signal: Signal) -> bool {
    signals & (1 << (signal as u32 - 1)) != 0
}

/// nohup: what was ignored at exec stays ignored, for us and COMMAND.
#[test]
fn an_ignored_hangup_stays_ignored() {
    for by in [words("nohup"), through("trap '' HUP; exec \"$@\"")] {
        let host = Host::new().unwrap();
        let busy = Busy::new(&host);
        let mut latch = Latch::new(&host, "latch");
        let call = call(&host, words(Busy::DRAIN)).by(&by);
        let mut run = call.start(sh(latch.hold()));
        // During the drain any other signal would end the run.
        wait_gated(&host);
        run.signal(Signal::SIGHUP).unwrap();
        let ignores = |status: &str| contains(signals(status, "SigIgn"), Signal::SIGHUP);
        let ours = fs::read_to_string(format!("/proc/{}/status", run.pid().unwrap())).unwrap();
        assert!(ignores(&ours), "{ours}");
        busy.client.stop().unwrap();
        let command = format!("/proc/{}/status", latch.wait());
        assert!(ignores(&host.must(["cat", &command])));
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
    }
}

#[test]
fn arguments_and_names_are_bytes() {
    let host = Host::new().unwrap();
    let bytes = OsStr::from_bytes(b"\xff\xfe\x01 'x' \"y\"\n$z");
    let said = host.dir().join("said");
    let script = host.dir().join(OsStr::from_bytes(b"scr\xffpt"));
    fs::write(
        &script,
        format!("#!/bin/sh\nprintf %s \"$1\" >{}\n", said.display()),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let report = host.dir().join(OsStr::from_bytes(b"rep\xffrt"));
    let outcome = quick(&host)
        .report_to(report)
        .run([script.as_os_str(), bytes]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(fs::read(&said).unwrap(), bytes.as_bytes());
    assert_eq!(outcome.report["command"].as_array().unwrap().len(), 2);
    // Nobody's terminal gets to see what is in them.
    assert!(!outcome.stderr.contains('\x01'), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 2, "{outcome:?}");
}

#[test]
fn the_environment_is_passed_on_without_what_is_ours() {
    let host = Host::new().unwrap();
    let copy = host.dir().join("environ");
    let locks = format!("SYNGATE_LOCK_DIR={}", host.dir().join("locks").display());
    let bytes = OsString::from_vec(b"BYTES=\xff\xfe=\n".to_vec());
    let path = std::env::var("PATH").unwrap();
    let mut by: Vec<OsString> = [
        "env",
        "-i",
        "EMPTY=",
        "SYNGATE_DRAIN=0",
        "SYNGATE_RUN=outer",
    ]
    .map(Into::into)
    .to_vec();
    by.extend([
        bytes.clone(),
        locks.clone().into(),
        format!("PATH={path}").into(),
    ]);
    let outcome = call(&host, words("--port 80 --ready-timeout 0"))
        .by(by)
        .run(["cp".into(), "/proc/self/environ".into(), copy.clone()]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let run = outcome.report["run"].as_str().unwrap();
    let mut expected: Vec<Vec<u8>> = vec![
        b"EMPTY=".to_vec(),
        bytes.into_vec(),
        locks.into_bytes(),
        format!("PATH={path}").into_bytes(),
        format!("SYNGATE_RUN=outer:{run}").into_bytes(),
    ];
    let environ = fs::read(copy).unwrap();
    let mut seen: Vec<Vec<u8>> = environ
        .split(|b| *b == 0)
        .filter(|v| !v.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    expected.sort();
    seen.sort();
    assert_eq!(seen, expected);
}

/// Shell script: notes its open files and its environment in NAME.files and NAME.environ.
fn notes_what_it_gets(host: &Host, name: &str) -> String {
    let to = host.dir().join(name).display().to_string();
    format!("ls -l /proc/self/fd >{to}.files; tr '\\0' '\\n' </proc/self/environ >{to}.environ")
}

/// The files that it had noted, without the directory that ls itself was reading.
fn noted_files(host: &Host, name: &str) -> Vec<(u32, String)> {
    let listing = fs::read_to_string(host.dir().join(format!("{name}.files"))).unwrap();
    let links = listing.lines().filter_map(|line| line.split_once(" -> "));
    let files = links.map(|(entry, target)| {
        let number = entry.rsplit(' ').next().unwrap();
        (number.parse().unwrap(), target.to_owned())
    });
    let mut files: Vec<(u32, String)> = files.filter(|(_, to)| !to.starts_with("/proc/")).collect();
    files.sort_unstable();
    files
}

#[test]
fn programs_that_are_run_inherit_no_file_of_syngate() {
    let host = Host::new().unwrap();
    serve(&host);
    let locks = host.dir().join("locks").display().to_string();
    let path = std::env::var("PATH").unwrap();
    let standby = Serve::on("0.0.0.0:8080").argv().unwrap().join(" ");
    let notes = |name: &str| notes_what_it_gets(&host, name);
    let numbers = |name: &str| -> Vec<u32> {
        let files = noted_files(&host, name);
        files.iter().map(|(number, _)| *number).collect()
    };
    host.must(sh(format!("exec 7</dev/zero; {}", notes("plain"))));
    let plain = numbers("plain");
    assert!(
        plain.starts_with(&[0, 1, 2]) && plain.contains(&7),
        "{plain:?}"
    );
    for syn in ["drop", "hold", "redirect=8080"] {
        let by = format!(
            "exec env -i PATH={path} KEPT=1 SYNGATE_DRAIN=0 SYNGATE_SETTLE=0 SYNGATE_LOCK_DIR={locks} \"$@\" \
             7</dev/zero"
        );
        let mut names = vec!["precheck", "ready-check", "listen-netns-from"];
        let from = format!("{}; echo 1", notes("listen-netns-from"));
        let mut call = call(&host, ["--port", "80", "--syn", syn]).by(through(by));
        call = call
            .args(["--listen-netns-from", &from])
            .args(["--precheck", &notes("precheck")])
            .args(["--ready-check", &notes("ready-check")]);
        if syn.starts_with("redirect") {
            names.extend(["standby", "standby-check"]);
            call = call
                .args([
                    "--standby",
                    &format!("{}; exec {standby}", notes("standby")),
                ])
                .args(["--standby-check", &notes("standby-check")]);
        }
        names.push("COMMAND");
        let outcome = call.run(sh(notes("COMMAND")));
        assert_eq!(outcome.code, 0, "{syn}: {outcome:?}");

        let run = outcome.report["run"].as_str().unwrap();
        let mut expected = [
            format!("PATH={path}"),
            "KEPT=1".to_owned(),
            format!("SYNGATE_LOCK_DIR={locks}"),
            format!("SYNGATE_RUN={run}"),
        ];
        expected.sort();
        for name in names {
            let files = noted_files(&host, name);
            // The standby's guard keeps no file of anybody's.
            let handed_on = if name == "standby" {
                &plain[..3]
            } else {
                &plain
            };
            assert_eq!(numbers(name), handed_on, "{syn}: {name}: {files:?}");
            let of = |number| &files.iter().find(|(n, _)| *n == number).unwrap().1;
            assert!(name == "standby" || of(7) == "/dev/zero", "{syn}: {name}");
            assert_eq!(of(0), "/dev/null", "{syn}: {name}");
            // What the check prints is told when it has ended.
            let stderr = match name {
                "ready-check" => "/memfd:output",
                _ => "pipe:",
            };
            assert!(of(2).starts_with(stderr), "{syn}: {name}: {files:?}");

            let environ = fs::read_to_string(host.dir().join(format!("{name}.environ"))).unwrap();
            // The shell's own.
            let mut seen: Vec<&str> = environ.lines().filter(|v| !v.starts_with("PWD=")).collect();
            seen.sort_unstable();
            assert_eq!(seen, expected, "{syn}: {name}");
        }
    }
}

#[test]
fn stdin_and_stdout_are_commands_alone() {
    let host = Host::new().unwrap();
    serve(&host);
    for options in ["--port 80", "--port 80 -v", "--port 80,81 -v"] {
        let piped = call(&host, words(options)).by(through("printf 'in\\nput' | \"$@\""));
        let outcome = piped.args(["--settle", "0"]).run(["cat"]);
        assert_eq!(outcome.code, 0, "{options}: {outcome:?}");
        assert_eq!(outcome.stdout, "in\nput", "{options}: {outcome:?}");
    }
}

/// It neither eats COMMAND's input nor talks into its output.
#[test]
fn a_precheck_leaves_stdin_and_stdout_alone() {
    let host = Host::new().unwrap();
    for check in ["true", "cat >/dev/null", "echo Configuration file is valid"] {
        let piped = quick(&host).by(through("printf 'in\\nput' | \"$@\""));
        let outcome = piped.args(["--precheck", check]).run(["cat"]);
        assert_eq!(outcome.code, 0, "{check}: {outcome:?}");
        assert_eq!(outcome.stdout, "in\nput", "{check}: {outcome:?}");
    }
}

// Signals -----------------------------------------------------------------------------------------

/// COMMAND was not run; the exit status (no signal: the terminal had no part in it) says why.
#[track_caller]
fn assert_stopped_before(host: &Host, signal: Signal, mut run: Running, call: &Call) {
    wait_until(SOON, "the end of the run", || !run.is_running()).unwrap();
    assert_eq!(
        run.wait().unwrap().code(),
        Some(128 + signal as i32),
        "{signal}"
    );
    let outcome = call.end(run);
    assert!(told(&outcome).contains(signal.as_str()), "{outcome:?}");
    assert_eq!(outcome.report["outcome"], "interrupted", "{outcome:?}");
    assert_eq!(outcome.report["reason"], "before_command", "{outcome:?}");
    assert!(!ran(host), "{signal}");
}

#[test]
fn a_signal_during_the_drain_stops_the_run() {
    let host = Host::new().unwrap();
    let busy = Busy::new(&host);
    let call = call(&host, words(Busy::DRAIN));
    for signal in STOPPING {
        let mut run = call.start(trace(&host));
        wait_gated(&host);
        run.signal(signal).unwrap();
        assert_stopped_before(&host, signal, run, &call);
    }
    // Nobody's connection was hurt.
    let held = busy.client.stop().unwrap();
    assert_eq!(held.broken, None);
    assert!(held.echoes > 0);
}

#[test]
fn a_signal_during_the_wait_for_the_lock_stops_the_run() {
    let host = Host::new().unwrap();
    let holder = Holder::start(&host, "80");
    for signal in STOPPING {
        let (heard, by, options) = overheard(&host, QUICK);
        let waiting = call(&host, options).by(by);
        let mut run = waiting.start(trace(&host));
        wait_until(SOON, "its word", || heard().contains("waiting for")).unwrap();
        run.signal(signal).unwrap();
        wait_until(SOON, "the end of the run", || !run.is_running()).unwrap();
        assert_eq!(
            run.wait().unwrap().code(),
            Some(128 + signal as i32),
            "{signal}"
        );
        let report = waiting.report();
        assert_eq!(report["reason"], "before_command", "{report:#}");
        assert!(!ran(&host), "{signal}");
    }
    assert_eq!(holder.end().code, 0);
}

#[test]
fn a_signal_during_the_precheck_stops_the_run() {
    let host = Host::new().unwrap();
    for (n, trap) in ["", "trap 'exit 0' INT TERM HUP QUIT; "]
        .into_iter()
        .enumerate()
    {
        for signal in STOPPING {
            let latch = Latch::new(&host, &format!("{signal}-{n}"));
            let call = quick(&host).args(["--precheck", &format!("{trap}{}", latch.hold())]);
            let mut run = call.start(trace(&host));
            let check = latch.wait();
            run.signal(signal).unwrap();
            assert_stopped_before(&host, signal, run, &call);
            let gone = !host.sh(&format!("kill -0 {check}")).unwrap().ok();
            assert!(gone, "the signal was passed on: {signal}");
        }
    }
}

#[test]
fn a_signal_is_passed_on_to_command() {
    let host = Host::new().unwrap();
    for signal in STOPPING {
        let latch = Latch::new(&host, signal.as_str());
        let name = signal.as_str().trim_start_matches("SIG");
        let run_with = |script: String| {
            let call = quick(&host);
            let mut run = call.start(sh(script));
            latch.wait();
            assert!(gated(&host));
            run.signal(signal).unwrap();
            wait_until(SOON, "the end of the run", || !run.is_running()).unwrap();
            let code = run.wait().unwrap().code();
            (code, call.end(run))
        };
        // COMMAND's answer counts.
        let (code, outcome) = run_with(format!("trap 'exit 7' {name}; {}", latch.hold()));
        assert_eq!(code, Some(7), "{outcome:?}");
        assert_eq!(ending(&outcome.report), expected_of_status(7));
        let _ = fs::remove_file(host.dir().join(format!("{signal}.here")));
        let (code, outcome) = run_with(latch.hold());
        assert_eq!(code, Some(128 + signal as i32), "{outcome:?}");
        assert_eq!(
            outcome.report["outcome"], "command_signalled",
            "{outcome:?}"
        );
        assert_eq!(outcome.report["command_signal"], signal as i32);
    }
}

#[test]
fn a_second_signal_opens_and_leaves_command_running() {
    let host = Host::new().unwrap();
    for (second, name) in [(Signal::SIGTERM, "same"), (Signal::SIGINT, "other")] {
        let mut latch = Latch::new(&host, name);
        let first_came = host.dir().join(format!("{name}.first"));
        let script = format!(
            "exec 2>/dev/null; trap 'touch {}' TERM INT; {}; touch {}",
            first_came.display(),
            latch.hold(),
            trace_file(&host).display()
        );
        let call = quick(&host);
        let mut run = call.start(sh(script));
        let command = latch.wait();
        run.signal(Signal::SIGTERM).unwrap();
        wait_until(SOON, "the first signal", || first_came.exists()).unwrap();
        assert!(run.is_running() && gated(&host), "the first is COMMAND's");
        signal_again(&mut run, second);
        wait_until(SOON, "the end of the run", || !run.is_running()).unwrap();
        assert_eq!(run.wait().unwrap().code(), Some(128 + second as i32));
        let outcome = call.end(run);
        assert_eq!(outcome.report["outcome"], "interrupted", "{outcome:?}");
        assert_eq!(outcome.report["reason"], "left_running", "{outcome:?}");
        let left = format!("(pid {command}) is left running");
        assert!(told(&outcome).contains(&left), "{left}: {outcome:?}");
        // So it is.
        latch.release();
        wait_until(SOON, "COMMAND's own end", || ran(&host)).unwrap();
        fs::remove_file(trace_file(&host)).unwrap();
    }
}

#[test]
fn a_signal_while_the_listener_is_waited_for_opens_at_once() {
    let host = Host::new().unwrap();
    for signal in STOPPING {
        let pid_file = serve(&host);
        let mut latch = Latch::new(&host, signal.as_str());
        let call = call(&host, words("--port 80"));
        let script = format!("kill $(cat {}); {}", pid_file.display(), latch.hold());
        let mut run = call.start(sh(script));
        let command = format!("/proc/{}", latch.wait());
        latch.release();
        // It is gone when it has been waited for.
        let gone = || !host.sh(&format!("test -e {command}")).unwrap().ok();
        wait_until(SOON, "COMMAND's end", gone).unwrap();
        let since = Instant::now();
        run.signal(signal).unwrap();
        wait_open(&host, SOON);
        let took = since.elapsed();
        assert!(took < Duration::from_secs(2), "{signal}: {took:?}");
        wait_until(SOON, "the end of the run", || !run.is_running()).unwrap();
        assert_eq!(run.wait().unwrap().code(), Some(128 + signal as i32));
        let outcome = call.end(run);
        assert_eq!(outcome.report["outcome"], "interrupted", "{outcome:?}");
        assert_eq!(outcome.report["reason"], "before_ready", "{outcome:?}");
        assert_eq!(outcome.report["command_status"], 0, "{outcome:?}");
    }
}

#[test]
fn usr1_opens_now_and_command_is_waited_for() {
    let host = Host::new().unwrap();
    serve(&host);
    for status in [0, 7] {
        let mut latch = Latch::new(&host, &status.to_string());
        let call = call(&host, words("--port 80"));
        let mut run = call.start(sh(format!("{}; exit {status}", latch.hold())));
        latch.wait();
        assert!(gated(&host));
        run.signal(Signal::SIGUSR1).unwrap();
        wait_open(&host, Duration::from_secs(2));
        assert!(run.is_running() && latch.reached());
        latch.release();
        let outcome = call.end(run);
        assert_eq!(
            ending(&outcome.report),
            expected_of_status(status),
            "{outcome:?}"
        );
        assert_eq!(outcome.code, i32::from(status));
        let warnings = outcome.report["warnings"].to_string();
        assert!(
            warnings.contains("SIGUSR1") && outcome.stderr.contains("SIGUSR1"),
            "{outcome:?}"
        );
    }
}

/// A signal that comes when all is done neither changes the status nor takes the report away.
#[test]
fn usr1_to_the_end_changes_nothing() {
    let host = Host::new().unwrap();
    serve(&host);
    let until_gone = "(while kill -USR1 $PPID; do :; done) 2>/dev/null >&2 & exit 0";
    for _ in 0..10 {
        let outcome = quick(&host).run(["sh", "-c", until_gone]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.report["outcome"], "ok", "{outcome:?}");
    }
}

#[test]
fn usr1_during_the_drain_means_no_command() {
    let host = Host::new().unwrap();
    let _busy = Busy::new(&host);
    let call = call(&host, words(Busy::DRAIN));
    let mut run = call.start(trace(&host));
    wait_gated(&host);
    run.signal(Signal::SIGUSR1).unwrap();
    let outcome = call.end(run);
    assert_refused(&outcome, 125, "opened_early", &["SIGUSR1", "not run"]);
    assert!(!ran(&host));
}

// On a terminal -----------------------------------------------------------------------------------

/// A shell script in the foreground of a terminal of its own.
struct Terminal {
    script: Running,
    screen: PathBuf,
}

impl Terminal {
    fn run(host: &Host, name: &str, text: &str) -> Terminal {
        let file = host.write(name, text);
        let screen = host.dir().join(format!("{name}.screen"));
        let mut script = host.command("script");
        script.args([
            "-qefc",
            &format!("exec bash {}", file.display()),
            "/dev/null",
        ]);
        script.env("SHELL", "/bin/sh").stdin(Stdio::piped());
        script.stdout(File::create(&screen).unwrap());
        Terminal {
            script: host.spawn(&mut script).unwrap(),
            screen,
        }
    }

    fn raw(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.screen).unwrap()).into_owned()
    }

    /// The lines as they stand there: `\r\x1b[K` goes back to the start of the line and wipes it.
    fn lines(&self) -> Vec<String> {
        let raw = self.raw();
        let shown = |line: &str| {
            line.rsplit("\r\x1b[K")
                .next()
                .unwrap_or_default()
                .trim_end()
                .to_owned()
        };
        raw.split('\n').map(shown).collect()
    }

    /// Presses keys; the stream stays open.
    fn press(&mut self, keyboard: &mut std::process::ChildStdin, keys: &[u8]) {
        std::io::Write::write_all(keyboard, keys).unwrap();
    }

    /// How the script ended, as a shell says it.
    #[track_caller]
    fn end(&mut self) -> i32 {
        let ended = wait_until(SOON * 2, "the end of the script", || {
            !self.script.is_running()
        });
        ended.unwrap_or_else(|e| panic!("{e}: {}", self.raw()));
        self.script.wait().unwrap().code().unwrap()
    }
}

const CTRL_C: &[u8] = b"\x03";

/// Three runs in a loop of the shell's, and a note after each.
fn loop_of(host: &Host, options: &str, command: &Path) -> String {
    let dir = host.dir().display();
    let command = command.display();
    format!(
        "for n in 1 2 3; do
             {SYNGATE} {options} --report-file {dir}/report.json -- sh {command}
             echo status $? >>{dir}/log
         done"
    )
}

/// What the host's `log` has in it.
fn log(host: &Host) -> String {
    fs::read_to_string(host.dir().join("log")).unwrap_or_default()
}

/// bash goes on with its loop unless SIGINT has ended what ran in it.
#[test]
fn ctrl_c_ends_a_shells_loop() {
    let host = Host::new().unwrap();
    let latch = Latch::new(&host, "latch");
    let command = host.write("command.sh", latch.hold());
    let mut terminal = Terminal::run(&host, "loop", &loop_of(&host, QUICK, &command));
    let mut keyboard = terminal.script.stdin().unwrap();
    latch.wait();
    terminal.press(&mut keyboard, CTRL_C);
    assert_eq!(terminal.end(), 130, "{}", terminal.raw());
    assert_eq!(log(&host), "", "no round was finished");
    let report = report_of(&host, "report.json");
    assert_eq!(report["outcome"], "command_signalled", "{report:#}");
    assert_eq!(report["exit_signal"], 2, "{report:#}");
    assert!(!gated(&host));
}

#[test]
fn ctrl_c_before_command_ends_the_loop_too() {
    let host = Host::new().unwrap();
    let _busy = Busy::new(&host);
    let command = host.write(
        "command.sh",
        format!("touch {}", trace_file(&host).display()),
    );
    let mut terminal = Terminal::run(&host, "loop", &loop_of(&host, Busy::DRAIN, &command));
    let mut keyboard = terminal.script.stdin().unwrap();
    wait_gated(&host);
    terminal.press(&mut keyboard, CTRL_C);
    assert_eq!(terminal.end(), 130, "{}", terminal.raw());
    assert_eq!(log(&host), "");
    assert!(!ran(&host) && !gated(&host));
    let report = report_of(&host, "report.json");
    assert_eq!(report["reason"], "before_command", "{report:#}");
}

/// The terminal gives it to the whole foreground group: passing it on as well would make two.
#[test]
fn ctrl_c_reaches_command_once() {
    let host = Host::new().unwrap();
    let mut latch = Latch::new(&host, "latch");
    let (dir, hold) = (host.dir().display(), latch.hold());
    let text = format!("trap 'echo int >>{dir}/log' INT; echo $PPID >{dir}/ppid; {hold}; exit 3");
    let command = host.write("command.sh", text);
    let mut terminal = Terminal::run(&host, "loop", &loop_of(&host, QUICK, &command));
    let mut keyboard = terminal.script.stdin().unwrap();
    for round in 1..=3 {
        latch.wait();
        let syngate = fs::read_to_string(host.dir().join("ppid")).unwrap();
        let syngate = syngate.trim();
        // It sleeps while COMMAND sees to its signal: two at a time would be one.
        host.must(["kill", "-STOP", syngate]);
        terminal.press(&mut keyboard, CTRL_C);
        let seen = || log(&host).matches("int").count() == round;
        wait_until(SOON, "SIGINT in COMMAND", seen).unwrap();
        host.must(["kill", "-CONT", syngate]);
        let taken = || has_taken_its_signals(&host, syngate);
        wait_until(SOON, "SIGINT in syngate", taken).unwrap();
        assert!(gated(&host), "COMMAND is waited for");
        latch.release();
    }
    // COMMAND chose to live, so the loop does.
    terminal.end();
    assert_eq!(log(&host), "int\nstatus 3\nint\nstatus 3\nint\nstatus 3\n");
}

/// In a session of its own it has not got it from the terminal.
#[test]
fn ctrl_c_is_passed_on_to_a_command_that_left_the_terminal() {
    let host = Host::new().unwrap();
    let latch = Latch::new(&host, "latch");
    let inner = host.write("inner.sh", format!("trap 'exit 7' INT; {}", latch.hold()));
    let command = host.write("command.sh", format!("exec setsid sh {}", inner.display()));
    let mut terminal = Terminal::run(&host, "loop", &loop_of(&host, QUICK, &command));
    let mut keyboard = terminal.script.stdin().unwrap();
    latch.wait();
    terminal.press(&mut keyboard, CTRL_C);
    let ended = wait_until(Duration::from_secs(3), "COMMAND's end", || {
        log(&host) == "status 7\n"
    });
    // Who has pressed it is told what it did, and what the next one does.
    let answer = "SIGINT: COMMAND (pid ";
    let next = "the gate stays closed until it ends; one more signal";
    let screen = terminal.raw();
    assert!(screen.contains(answer) && screen.contains(next), "{screen}");
    // Let it end, also if that failed.
    terminal.press(&mut keyboard, CTRL_C);
    ended.unwrap();
}

#[test]
fn a_terminal_shows_what_is_waited_for_and_is_left_clean() {
    let host = Host::new().unwrap();
    let busy = Busy::new(&host);
    let to_file = format!("--report-file {}/report.json", host.dir().display());
    let run = format!("{SYNGATE} {} --settle 0 {to_file} -- true\n", Busy::DRAIN);
    let mut terminal = Terminal::run(&host, "run", &run);
    let keyboard = terminal.script.stdin().unwrap();
    let says = |what| terminal.raw().contains(what);
    let live = || says("syngate: draining: ") && says("1 established");
    let shown = wait_until(SOON, "a live line", live);
    shown.unwrap_or_else(|e| panic!("{e}: {:?}", terminal.raw()));
    busy.client.stop().unwrap();
    assert_eq!(terminal.end(), 0);
    drop(keyboard);
    // One line, and nothing before or behind it.
    let message = report_of(&host, "report.json")["message"].clone();
    let expected = format!("syngate: {}", message.as_str().unwrap());
    assert_eq!(terminal.lines(), [&*expected, ""]);

    // A short wait shows none; and -q never does.
    for (name, options) in [
        ("short", "--port 80 --settle 0"),
        ("quiet", "-q --port 80 --settle 600ms"),
    ] {
        let mut terminal = Terminal::run(&host, name, &format!("{SYNGATE} {options} -- true\n"));
        let _keyboard = terminal.script.stdin();
        assert_eq!(terminal.end(), 0);
        assert!(
            !terminal.raw().contains('\x1b'),
            "{name}: {:?}",
            terminal.raw()
        );
    }
}

/// And only there; NO_COLOR is any value but an empty one.
#[test]
fn colours_are_for_terminals() {
    const RED: &str = "\x1b[1;31msyngate:\x1b[0m unknown option";
    const YELLOW: &str = "syngate: \x1b[1;33mwarning:\x1b[0m";
    let host = Host::new().unwrap();
    let call = |name: &str, variables: &str, rest: &str| {
        let text = format!("unset NO_COLOR; export {variables}\n{SYNGATE} {rest}\n");
        let mut terminal = Terminal::run(&host, name, &text);
        let _keyboard = terminal.script.stdin();
        terminal.end();
        terminal.raw()
    };
    let misspelt = format!(
        "SYNGATE_DRIAN=1 SYNGATE_REPORT_FILE={}/r",
        host.dir().display()
    );
    let misspelt = format!("TERM=xterm {misspelt}");
    for (variables, coloured) in [
        ("TERM=xterm", true),
        ("TERM=xterm NO_COLOR=", true),
        ("TERM=xterm NO_COLOR=1", false),
        ("TERM=dumb", false),
        ("TERM=", false),
    ] {
        for rest in ["-h", "--help", "-x", "status --help"] {
            let raw = call("colours", variables, rest);
            assert!(raw.len() > 20, "{raw:?}");
            assert_eq!(
                raw.contains('\x1b'),
                coloured,
                "{variables} {rest}: {raw:?}"
            );
        }
    }
    assert!(call("error", "TERM=xterm", "-x").contains(RED));
    assert!(call("warning", &misspelt, &format!("{QUICK} -- true")).contains(YELLOW));
    // Each stream by itself.
    let to_file = format!("-h >{}/help", host.dir().display());
    call("stdout", "TERM=xterm", &to_file);
    let help = fs::read_to_string(host.dir().join("help")).unwrap();
    assert!(help.contains("--port") && !help.contains('\x1b'), "{help}");
    let to_file = format!("-x 2>{}/error", host.dir().display());
    call("stderr", "TERM=xterm", &to_file);
    let error = fs::read_to_string(host.dir().join("error")).unwrap();
    assert_one_line(&error, &["unknown option"]);
}

// What it says ------------------------------------------------------------------------------------

/// systemd names the stream that is its journal's; a stderr that was redirected since is none.
#[test]
fn lines_for_the_journal_have_their_priorities() {
    let host = Host::new().unwrap();
    let stderr = "$(stat -Lc %d:%i /proc/self/fd/2)";
    let call = |stream: &str, options: &str| {
        let by = format!("JOURNAL_STREAM={stream} exec \"$@\"");
        quick(&host).by(through(by)).args(words(options))
    };
    let command = || sh("echo plain >&2; echo $JOURNAL_STREAM; exit ${STATUS-0}");
    let outcome = call(stderr, "-v").run(command());
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert!(lines.contains(&"plain"), "COMMAND's are its own: {lines:?}");
    for line in lines.iter().filter(|line| **line != "plain") {
        let expected = match line {
            _ if line.contains(": warning: nobody listens on 80") => "<4>syngate: ",
            _ if line.contains("exited with status 0;") => "<5>syngate: ",
            _ => "<6>syngate: +",
        };
        assert!(line.starts_with(expected), "{expected}: {line}");
    }
    let warnings = lines.iter().filter(|line| line.starts_with("<4>"));
    assert_eq!(warnings.count(), 1, "{lines:?}");
    assert!(lines.last().unwrap().starts_with("<5>"), "{lines:?}");
    assert!(
        outcome.stdout.contains(':'),
        "COMMAND inherits it: {outcome:?}"
    );

    let failed = call(stderr, "-q").env("STATUS", "7").run(command());
    let lines: Vec<&str> = failed.stderr.lines().collect();
    assert!(
        lines.len() == 2 && lines[1].starts_with("<3>syngate: "),
        "{lines:?}"
    );
    let misspelt = host.sh(&format!("JOURNAL_STREAM={stderr} {SYNGATE} --prot 80"));
    let misspelt = misspelt.unwrap().stderr;
    assert!(
        misspelt.starts_with("<3>syngate: unknown option"),
        "{misspelt}"
    );

    for other in ["1:1", "''", "8", "$(stat -Lc %d:%i /dev/null)"] {
        let outcome = call(other, "-v").run(command());
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert!(!outcome.stderr.contains('<'), "{other}: {outcome:?}");
    }
}

#[test]
fn success_is_one_line() {
    let host = Host::new().unwrap();
    serve(&host);
    // Also when there was something to wait for.
    for options in ["--port 80 --settle 0", "--port 80 --settle 600ms"] {
        let outcome = call(&host, words(options)).run(["true"]);
        assert_eq!((outcome.code, &*outcome.stdout), (0, ""), "{outcome:?}");
        assert_one_line(
            &outcome.stderr,
            &["true exited with status 0", "80 was closed for"],
        );
        assert_eq!(outcome.report["message"], told(&outcome));
        assert_eq!(outcome.report["warnings"], json!([]));
        assert!(!outcome.stderr.contains(['\r', '\x1b']), "{outcome:?}");
    }
}

#[test]
fn each_warning_is_one_more_line() {
    let host = Host::new().unwrap();
    serve(&host);
    let outcome =
        call(&host, words("--port 80-81,443 --settle 0")).run(sh("true; # odd \n exit 0"));
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let warnings = [
        "nobody listens on 81,443 now: is the service down, or the port wrong?",
        "syngate saw no listener on 81,443, neither before COMMAND nor after it, and so did not wait \
         for the service; if the listener is in a container or on another port, give --listen-netns or \
         --listen-port",
    ];
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, warning) in lines.iter().zip(warnings) {
        assert_eq!(*line, format!("syngate: warning: {warning}"));
    }
    assert_eq!(outcome.report["warnings"], json!(warnings));

    // And a drain that was too short.
    let busy = Host::new().unwrap();
    let _busy = Busy::new(&busy);
    let outcome = call(
        &busy,
        words("--port 80 --settle 0 --drain 50ms --drain-until connections"),
    )
    .run(["true"]);
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!((outcome.code, lines.len()), (0, 2), "{lines:#?}");
    assert!(
        lines[0].starts_with("syngate: warning: --drain 50ms"),
        "{lines:#?}"
    );
    assert!(lines[0].contains("1 established"), "{lines:#?}");
    assert_eq!(outcome.report["drain_left"]["established"], 1);
    // -v does not say that all is drained.
    let options = "-v --port 80 --settle 0 --drain 50ms --drain-until connections";
    let outcome = call(&busy, words(options)).run(["true"]);
    let says = |what| outcome.stderr.contains(what);
    assert!(
        says("the drain is over, with connections left: 1 "),
        "{outcome:?}"
    );
    assert!(!says("s drained"), "{outcome:?}");
}

#[test]
fn quiet_is_silent_unless_something_failed() {
    let host = Host::new().unwrap();
    let outcome = quick(&host).arg("-q").run(["true"]);
    assert_eq!((outcome.code, &*outcome.stderr), (0, ""));
    assert_eq!(
        outcome.report["warnings"],
        json!(["nobody listens on 80 now: is the service down, or the port wrong?"]),
        "reported all the same"
    );
    let outcome = quick(&host).arg("-q").run(["false"]);
    assert_one_line(&outcome.stderr, &["false exited with status 1"]);
    let tested = |precheck: &str| {
        let call = quick(&host).args(["-q", "--precheck", precheck]);
        call.run(["true"]).stderr
    };
    assert_eq!(tested("echo fine; echo fine >&2"), "");
    let failed = tested("echo why; exit 3");
    assert!(failed.starts_with("why\nsyngate: "), "{failed}");
}

#[test]
fn verbose_tells_the_phases_in_their_order() {
    let host = Host::new().unwrap();
    serve(&host);
    let outcome = call(&host, words("--port 80 -v --precheck true")).run(["true"]);
    assert_eq!((outcome.code, &*outcome.stdout), (0, ""), "{outcome:?}");
    let phases = [
        "locked 80",
        "precheck",
        "listeners: 0.0.0.0:80",
        "closed 80",
        "running true",
        "open",
    ];
    let mut rest = &*outcome.stderr;
    for phase in phases {
        let (_, after) = rest
            .split_once(phase)
            .unwrap_or_else(|| panic!("{phase}: {outcome:?}"));
        rest = after;
    }
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert!(
        lines.iter().all(|l| l.starts_with("syngate: ")),
        "{lines:#?}"
    );
    assert!(
        lines.last().unwrap().contains("true exited with status 0"),
        "{lines:#?}"
    );
}

#[test]
fn a_dry_run_needs_nothing_and_does_nothing() {
    let host = Host::new().unwrap();
    let precheck = trace_file(&host);
    let precheck = format!("touch {}", precheck.display());
    let dry = call(&host, words("-n --port 80,8000-8010 --max-closed 5s"))
        .args(["--precheck", &precheck])
        .by(words("setpriv --bounding-set -all --inh-caps -all"))
        .env("SYNGATE_LOCK_DIR", "/no/such/directory");
    let mut command = trace(&host).to_vec();
    command.push("with a space".into());
    let outcome = dry.run(command);
    assert_eq!((outcome.code, &*outcome.stderr), (0, ""), "{outcome:?}");
    assert!(!ran(&host), "neither COMMAND nor the precheck was run");
    assert_eq!(outcome.report, Value::Null, "no report was written");
    for words in [
        "80,8000-8010",
        &precheck,
        "touch",
        "'with a space'",
        "drain",
        "5s",
    ] {
        assert!(
            outcome.stdout.contains(words),
            "{words}: {}",
            outcome.stdout
        );
    }
    // nft takes the rules, comments and all, and finds all ports in them.
    let rules = host.write("rules", &outcome.stdout);
    let rules = rules.to_str().unwrap();
    host.must(["nft", "--check", "--file", rules]);
    let loaded = "nft -f \"$1\" && nft -j list ruleset; nft flush ruleset";
    let stated = outcome.stdout.replace("\tflags owner\n", "");
    let unowned = host.write("unowned", stated);
    let listed = host.must(["sh", "-c", loaded, "sh", unowned.to_str().unwrap()]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let set = listed["nftables"]
        .as_array()
        .unwrap()
        .iter()
        .find(|o| o["set"].is_object());
    let elements = set.unwrap()["set"]["elem"].as_array().unwrap();
    let elements: Vec<&Value> = elements.iter().map(|e| &e["elem"]["val"]).collect();
    assert_eq!(elements, [&json!(80), &json!({"range": [8000, 8010]})]);
}

/// A restart that does nothing looks like one that went well, unless somebody says so.
#[test]
fn a_dry_run_by_the_environment_says_so() {
    let host = Host::new().unwrap();
    for options in ["-q --port 80", "--port 80"] {
        let dry = call(&host, words(options)).env("SYNGATE_DRY_RUN", "1");
        let outcome = dry.run(trace(&host));
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_one_line(&outcome.stderr, &["SYNGATE_DRY_RUN", "COMMAND is not run"]);
        assert!(!ran(&host));
    }
}

#[test]
fn a_dry_run_tells_what_is_wrong() {
    let host = Host::new().unwrap();
    let dir = host.dir().to_str().unwrap();
    for (options, command, code) in [
        ("-n --port 80", "no-such-command", 127),
        ("-n --port 80", dir, 126),
        ("-n --port 80 --drain 40s", "true", 125),
    ] {
        let outcome = call(&host, words(options)).run([command]);
        assert_eq!((outcome.code, &*outcome.stdout), (code, ""), "{outcome:?}");
        assert_one_line(&outcome.stderr, &[]);
    }
}

// Precheck ----------------------------------------------------------------------------------------

#[test]
fn a_failing_precheck_keeps_the_gate_open() {
    let host = Host::new().unwrap();
    let monitor = Monitor::start(&host);
    for (check, how) in [
        ("exit 3", "status 3"),
        ("kill -9 $$", "SIGKILL"),
        ("no-such-check", "status 127"),
    ] {
        let call = quick(&host).args(["--precheck", &format!("exec 2>/dev/null; {check}")]);
        let outcome = call.run(trace(&host));
        assert_refused(
            &outcome,
            125,
            "precheck",
            &["--precheck", check, how, "not run"],
        );
        assert!(ms(&outcome.report["phases"], "precheck_ms") > 0.0);
        assert!(!ran(&host), "{check}");
    }
    let good = quick(&host).run(["true"]);
    let run = good.report["run"].as_str().unwrap();
    let changes = monitor.until(&good.report);
    assert!(
        changes.iter().all(|line| line.contains(run)),
        "{changes:#?}"
    );
}

#[test]
fn a_precheck_sees_an_open_gate() {
    let host = Host::new().unwrap();
    let dir = host.dir().display();
    let list = |name: &str| format!("nft list ruleset >{dir}/{name}");
    let outcome = quick(&host)
        .args(["--precheck", &list("checked")])
        .run(sh(list("run")));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let rules = |name: &str| fs::read_to_string(host.dir().join(name)).unwrap();
    assert_eq!(rules("checked"), "");
    assert!(
        rules("run").contains("syngate_"),
        "COMMAND sees it: {}",
        rules("run")
    );
}

// The report file ---------------------------------------------------------------------------------

#[test]
fn the_report_replaces_the_last_in_one_step() {
    let host = Host::new().unwrap();
    let dir = host.dir().join("reports");
    fs::create_dir(&dir).unwrap();
    let file = dir.join("report.json");
    fs::write(&file, "old").unwrap();
    let old = fs::metadata(&file).unwrap().ino();
    // What COMMAND finds there is the last one, whole.
    let seen = host.dir().join("seen");
    let command = format!("cp {} {}", file.display(), seen.display());
    let call = format!(
        "{SYNGATE} -q {QUICK} --report-file {} -- {command}",
        file.display()
    );
    host.must(words(&call));
    assert_eq!(fs::read_to_string(&seen).unwrap(), "old");
    let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(report["outcome"], "ok");
    let new = fs::metadata(&file).unwrap();
    assert_ne!(new.ino(), old, "renamed into its place");
    assert_eq!(new.mode() & 0o777, 0o644);
    let names: Vec<OsString> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["report.json"], "and nothing beside it");
}

#[test]
fn a_report_goes_to_pipes_as_well() {
    let host = Host::new().unwrap();
    let dir = host.dir().display();
    let ran = host.sh(&format!(
        // The shell's own opening waits for the reader.
        "mkfifo {dir}/fifo; cat {dir}/fifo >{dir}/copy & exec 3>{dir}/fifo
         {SYNGATE} -q {QUICK} --report-file {dir}/fifo -- sh -c 'exit 9'; code=$?
         exec 3>&-; wait; exit $code"
    ));
    assert_eq!(ran.unwrap().code(), 9);
    assert_eq!(report_of(&host, "copy")["exit_status"], 9);
    assert_eq!(
        host.must(["stat", "-c", "%F", &format!("{dir}/fifo")]),
        "fifo\n"
    );

    for stream in ["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"] {
        let ran = host
            .sh(&format!(
                "{SYNGATE} -q {QUICK} --report-file {stream} -- true"
            ))
            .unwrap();
        let report: Value = serde_json::from_str(&ran.stderr).unwrap();
        assert_eq!(
            (ran.code(), &report["outcome"]),
            (0, &json!("ok")),
            "{stream}"
        );
    }
}

#[test]
fn a_report_that_cannot_be_written_changes_nothing_else() {
    let host = Host::new().unwrap();
    serve(&host);
    let dir = host.dir().join("reports");
    for status in [0, 7] {
        fs::create_dir(&dir).unwrap();
        let call = call(&host, words("--port 80 --settle 0")).report_to(dir.join("report.json"));
        let outcome = call.run(sh(format!("rm -r {}; exit {status}", dir.display())));
        assert_eq!(outcome.code, status, "{outcome:?}");
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{lines:#?}");
        let lost = lines
            .iter()
            .filter(|l| l.starts_with("syngate: ") && l.contains("--report-file"));
        assert_eq!(lost.count(), 1, "{lines:#?}");
    }
    // The directory of the locks, which is gone when the machine starts, comes with the run.
    let fresh = format!(
        "mount -t tmpfs none /run
         {SYNGATE} -q --port 80 --report-file /run/syngate/web.json -- true
         cat /run/syngate/web.json
         {SYNGATE} -q --port 80 --report-file /run/other/web.json -- true"
    );
    let ran = host
        .command("unshare")
        .args(["-m", "sh", "-c", &fresh])
        .output()
        .unwrap();
    let ran = Ran::from(ran);
    assert_eq!(ran.code(), 125, "{ran:?}");
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["outcome"], "ok");
    assert!(
        ran.stderr
            .contains("'/run/other/web.json': its directory does not exist"),
        "{ran:?}"
    );
    // No file can be made there, though its directory looks writable.
    for place in ["/proc/r.json", "/sys/r.json"] {
        let none = format!("{SYNGATE} -q --port 80 --report-file {place} -- sh -c 'exit 7'");
        let ran = host.sh(&none).unwrap();
        assert_eq!(ran.code(), 125, "{ran:?}");
        assert!(ran.stderr.contains("--report-file: '"), "{ran:?}");
    }
    let full = format!("{SYNGATE} -q --port 80 --report-file /dev/full -- sh -c 'exit 7'");
    let ran = host.sh(&full).unwrap();
    assert_eq!(ran.code(), 7, "{ran:?}");
    assert!(ran.stderr.contains("--report-file"), "{ran:?}");
}

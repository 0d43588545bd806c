//! What `syngate keep` tells of each gap: a line in the journal, and one in the file of reports.

mod harness;

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::keep::{Keep, client, shared, waiting_client};
use harness::rooms::nothing_is_left;
use harness::{SOON, python, syngate};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::{Host, wait_until};

/// Python, which knows nothing of syngate: whether each line is a JSON object, and no more than that.
const READS_LINES: &str = "
import json, sys
text = open(sys.argv[1]).read()
assert text == '' or text.endswith('\\n'), text
print(json.dumps([json.loads(line) for line in text.splitlines()]))
";

/// The reports in a file, each of which is what the schema says.
#[track_caller]
fn reports(file: &Path) -> Vec<Value> {
    let mut python = Command::new("python3");
    let ran = python.args(["-c", READS_LINES]).arg(file).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let lines: Vec<Value> = serde_json::from_slice(&ran.stdout).unwrap();
    let schema = include_str!("../contrib/schema/keep.schema.json");
    let schema = serde_json::from_str(schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for line in &lines {
        let errors: Vec<String> = validator.iter_errors(line).map(|e| e.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{line:#}");
    }
    lines
}

fn reporting<'a>(host: &'a Host, file: &Path, options: &str) -> Keep<'a> {
    Keep::on(host, &format!("{options} --report-file {}", file.display()))
}

/// systemd names the stream that is its journal's by its file.
#[test]
fn lines_for_the_journal_have_their_priorities() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let stderr = host.write("keep.err", "");
    let stderr = fs::metadata(&stderr).unwrap();
    let stream = format!("{}:{}", stderr.dev(), stderr.ino());
    let variable = ("JOURNAL_STREAM", stream.as_str());
    let keep = Keep::begun(host, "--port 80 --max-wait 1s", &[variable]);
    let server = keep.bridges(server);
    drop(server);
    let waits = client(host);
    keep.says(1, "(--max-wait)");
    assert_eq!(waits.finish().unwrap().failed(), 1);
    let said = keep.ends(0);
    let mut priorities = Vec::new();
    for line in said.lines() {
        let (priority, text) = line.split_at(3);
        assert!(text.starts_with("syngate: "), "{said}");
        priorities.push(priority);
    }
    // That it keeps, the gap, and one that it gave up.
    assert_eq!(priorities, ["<5>", "<5>", "<4>"], "{said}");
}

#[test]
fn each_gap_is_a_line_of_json() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let file = host.dir().join("gaps.jsonl");
    let keep = reporting(host, &file, "--max-wait 1s");
    assert!(!file.exists(), "no gap yet");
    let server = keep.bridges(server);
    let reported = |many| {
        let there = || file.exists() && fs::read_to_string(&file).unwrap().lines().count() == many;
        wait_until(SOON, "a report", there).unwrap();
        reports(&file).pop().unwrap()
    };
    let first = reported(1);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644);
    let fate = |line: &Value| {
        ["outcome", "parked", "handed_over", "reset", "no_room"].map(|f| line[f].clone())
    };
    assert_eq!(
        fate(&first),
        [json!("over"), json!(1), json!(1), json!(0), json!(0)]
    );
    assert_eq!(first["ports"], json!(["80"]));
    let message = first["message"].as_str().unwrap();
    assert!(
        keep.said().contains(&format!("syngate: {message}\n")),
        "{message}"
    );
    assert!(
        message.contains(first["started_at"].as_str().unwrap()),
        "{message}"
    );
    let times = |line: &Value| ["longest_ms", "gap_ms"].map(|f| line[f].as_f64().unwrap());
    let [longest, gap_ms] = times(&first);
    assert!(0.0 < longest && longest <= gap_ms + 1.0, "{first:#}");
    let there = &first["listeners_after"];
    assert_eq!(there.as_array().unwrap().len(), 1, "{there:#}");
    assert_eq!(
        (&there[0]["address"], &there[0]["port"]),
        (&json!("0.0.0.0"), &json!(80))
    );
    let process = there[0]["process"].as_str().unwrap();
    let pid = process.strip_prefix("testkit (pid ").expect(process);
    let listens = format!("\"testkit\",pid={},", pid.trim_end_matches(')'));
    let ss = host.must(["ss", "-Htlnp", "sport = :80"]);
    assert!(ss.contains(&listens), "{process}: {ss}");
    let run = harness::status(host).0[0]["run"].clone();
    assert_eq!(first["run"], run);

    drop(server);
    let waits = client(host);
    let given_up = reported(2);
    assert_eq!(waits.finish().unwrap().failed(), 1);
    assert_eq!(
        fate(&given_up),
        [json!("given_up"), json!(1), json!(0), json!(1), json!(0)]
    );
    assert_eq!(given_up["listeners_after"], json!([]));
    assert!(times(&given_up)[1] >= 1_000.0, "{given_up:#}");
    keep.ends(0);
    assert_eq!(reports(&file).len(), 2, "no gap any more: it was told");
}

/// They are told apart from those that were reset: nobody has to look at that.
#[test]
fn clients_that_leave_while_they_wait_are_told() {
    told_who_left(&Host::new().unwrap(), 0);
}

/// They wait in that one's own queue, on the port that keep counts.
#[test]
fn clients_of_a_listener_beside_are_none_that_wait_in_a_room() {
    let host = &Host::new().unwrap();
    let _beside = python(
        host,
        "
import socket, time
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(('127.0.0.2', 80)); listener.listen()
clients = [socket.create_connection(('127.0.0.2', 80)) for _ in range(3)]
print('up', flush=True); time.sleep(600)",
    );
    told_who_left(host, 1);
}

/// `beside`: so many others listen on the port.
fn told_who_left(host: &Host, beside: usize) {
    let file = host.dir().join("gaps.jsonl");
    let server = shared().start(host).unwrap();
    let keep = reporting(host, &file, "--max-wait 3s");
    drop(server);
    // One closes, one resets, one stays.
    let clients = "import socket, struct, sys
def client():
    made = socket.create_connection(('127.0.0.1', 80))
    made.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
    return made
closes, resets, stays = client(), client(), client()
closes.close()
resets.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
resets.close()
try: stays.recv(1); print('closed')
except ConnectionResetError: print('reset')";
    assert_eq!(host.must(["python3", "-c", clients]), "reset\n");
    keep.says(1, "3 connections waited, for ");
    keep.says(1, ", 1 of them reset, and 2 left by their clients; new");
    let line = &reports(&file)[0];
    let fields = ["outcome", "parked", "handed_over", "reset", "left"].map(|f| line[f].clone());
    let expected = [json!("given_up"), json!(3), json!(0), json!(1), json!(2)];
    assert_eq!(fields, expected, "{line:#}");
    let kept = &harness::status(host).0[0]["kept"];
    assert_eq!((&kept["reset"], &kept["left"]), (&json!(1), &json!(2)));
    keep.ends(beside);
}

/// The file of reports has all of them.
#[test]
fn a_service_that_comes_and_goes_has_some_lines_a_minute() {
    let host = &Host::new().unwrap();
    let file = host.dir().join("gaps.jsonl");
    let mut server = shared().start(host).unwrap();
    let keep = reporting(host, &file, "");
    for gap in 1..=8 {
        drop(server);
        let waits = waiting_client(host);
        server = shared().start(host).unwrap();
        assert_eq!(waits.finish().unwrap().failed(), 0);
        let reported = || file.exists() && reports(&file).len() == gap;
        wait_until(SOON, "a report", reported).unwrap();
    }
    keep.says(5, "; 1 connection waited, for ");
    keep.says(1, " now; keep tells further gaps together, every 1m");
    let said = keep.ends(1);
    let together = "80: 3 more gaps within 1m, each ";
    assert!(said.contains(together), "{said}");
    assert!(
        said.contains(" or shorter; 3 connections waited, for "),
        "{said}"
    );
}

/// Also of clients that a second signal does not wait for.
#[test]
fn a_gap_that_a_signal_ends_is_told() {
    let host = &Host::new().unwrap();
    let file = host.dir().join("gaps.jsonl");
    let server = shared().and_on("[::]:80").start(host).unwrap();
    let mut keep = reporting(host, &file, "");
    drop(server);
    let waits = waiting_client(host);
    keep.running.signal(Signal::SIGTERM).unwrap();
    keep.running.signal(Signal::SIGINT).unwrap();
    assert!(keep.running.wait().unwrap().success());
    assert_eq!(waits.finish().unwrap().failed(), 1);
    nothing_is_left(host, 0);
    keep.says(1, "and keep ends; 1 connection waited, for ");
    let lines = reports(&file);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let fields = ["outcome", "parked", "reset", "ports"].map(|f| lines[0][f].clone());
    assert_eq!(
        fields,
        [json!("keep_ended"), json!(1), json!(1), json!(["80"])]
    );
}

/// By a new file of the name, and by one that is cut.
#[test]
fn logrotate_needs_no_signal() {
    let host = &Host::new().unwrap();
    let mut server = shared().start(host).unwrap();
    let dir = host.dir().join("log");
    fs::create_dir(&dir).unwrap();
    let file = dir.join("gaps.jsonl");
    let keep = reporting(host, &file, "");
    for (how, before) in [("create", 0), ("copytruncate", 1)] {
        server = keep.bridges(server);
        wait_until(SOON, "a report", || reports(&file).len() == before + 1).unwrap();
        let snippet = format!("{} {{\n rotate 9\n {how}\n}}\n", file.display());
        let snippet = host.write("logrotate.conf", &snippet);
        let state = host.dir().join("logrotate.state");
        let mut logrotate = Command::new("logrotate");
        logrotate.arg("-f").arg("-s").arg(state).arg(snippet);
        let ran = logrotate.output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        server = keep.bridges(server);
        wait_until(SOON, "a report", || reports(&file).len() == 1).unwrap();
        assert_eq!(
            reports(&dir.join("gaps.jsonl.1")).len(),
            before + 1,
            "{how}"
        );
    }
    keep.ends(1);
}

/// A full disk, a pipe without a reader, a folder that is gone: a warning, once, and keep goes on.
#[test]
fn a_report_that_can_t_be_written_ends_nothing() {
    let host = &Host::new().unwrap();
    let mut server = shared().start(host).unwrap();
    let small = host.dir().join("small");
    fs::create_dir(&small).unwrap();
    host.must([
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=4k",
        "none",
        small.to_str().unwrap(),
    ]);
    let file = small.join("gaps.jsonl");
    let full = format!("{}\n", "0".repeat(4_000));
    let write = |text: &str| {
        let mut tee = host.command("tee");
        tee.arg(&file).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut tee = tee.spawn().unwrap();
        tee.stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        assert!(tee.wait().unwrap().success());
    };
    let read = || host.must(["cat", file.to_str().unwrap()]);
    write(&full);
    let keep = reporting(host, &file, "");
    for _ in 0..2 {
        server = keep.bridges(server);
        keep.says(1, "warning: --report-file: '");
        assert_eq!(read(), full, "no part of a line");
    }
    assert_eq!(keep.lines("No space left"), 1, "{}", keep.said());
    write("");
    server = keep.bridges(server);
    wait_until(SOON, "a report", || read().ends_with('\n')).unwrap();
    assert_eq!(read().lines().count(), 1);
    write(&full);
    server = keep.bridges(server);
    keep.says(2, "warning: --report-file: '");
    keep.ends(1);

    let fifo = host.dir().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let dir = host.dir().join("gone");
    fs::create_dir(&dir).unwrap();
    for file in [dir.join("gaps.jsonl"), fifo] {
        let keep = reporting(host, &file, "");
        let _ = fs::remove_dir(&dir);
        server = keep.bridges(server);
        keep.says(1, "warning: --report-file: '");
        keep.ends(1);
    }
}

/// As without `--report-file`: before anything was changed.
#[test]
fn where_no_report_can_be_written_is_said_at_once() {
    let host = &Host::new().unwrap();
    let _server = shared().start(host).unwrap();
    let dir = host.dir().display().to_string();
    let locked = PathBuf::from(&dir).join("hosts");
    fs::write(&locked, "").unwrap();
    host.must(["mount", "--bind", "-o", "ro", "/etc", "/mnt"]);
    for (file, says) in [
        (format!("{dir}/none/gaps"), "its directory does not exist"),
        (dir.clone(), "a directory; name a file"),
        ("/proc/gaps".to_owned(), "--report-file: '/proc/gaps': "),
        ("/mnt/hosts".to_owned(), "Read-only file system"),
    ] {
        let ran = syngate(host, &format!("keep --port 80 --report-file {file}"));
        assert_eq!(ran.code(), 125, "{file}: {ran:?}");
        assert!(ran.stderr.contains(says), "{file}: {ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        nothing_is_left(host, 1);
    }
    host.must(["umount", "/mnt"]);
}

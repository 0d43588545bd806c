//! Where it gets narrow: services that come back piece by piece, deferred accepts, a stderr that
//! nobody reads, reports into pipes, signals in odd moments, crowds of connections.

mod harness;

use std::fs;
use std::time::Duration;

use harness::latch::Latch;
use harness::{SOON, SYNGATE, call, gated, ms, python, shut, wait_open, words};
use nix::sys::signal::Signal;
use testkit::services::Serve;
use testkit::{Host, Load, Pair, Running, SERVER, slow, wait_until};

/// COMMAND returns at once, and the new process listens on one address 300 ms after the other;
/// sooner on a slow machine, where both are late anyway: a second is what syngate grants them.
#[test]
fn a_second_address_may_come_late() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    host.must(["ip", "address", "add", "10.77.0.5/24", "dev", "eth0"]);
    let late = |pid_file: &str| -> String {
        let serve = |serve: Serve| serve.argv().unwrap().join(" ");
        let one = serve(Serve::on(format!("{SERVER}:80")));
        let two = serve(Serve::on("10.77.0.5:80").start_delay(Duration::from_millis(300) / slow()));
        format!(
            "{one} >/dev/null 2>&1 & echo $! >>{pid_file}; {two} >/dev/null 2>&1 & echo $! >>{pid_file}"
        )
    };
    let pids = host.dir().join("pids");
    let pids = pids.to_str().unwrap();
    host.must(["sh", "-c", &late(pids)]);
    let listening = |n: usize| host.must(["ss", "-Hltn"]).lines().count() == n;
    wait_until(SOON, "both", || listening(2)).unwrap();

    let load = Load::to("10.77.0.5:80")
        .rate(500)
        .duration(Duration::from_secs(60));
    let mut load = load.start(&pair.client).unwrap();
    load.wait_flowing().unwrap();
    let script = format!("kill $(cat {pids}); : >{pids}; {}", late(pids));
    let outcome = call(host, words("--port 80")).run(["sh", "-c", &script]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(
        outcome.report["listeners_lost"].as_array().unwrap().len(),
        0
    );
    let report = load.stop().unwrap();
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.delayed > 0, "{report}");
}

/// A client that says nothing on a TCP_DEFER_ACCEPT listener stays in SYN_RECV: not waited for.
#[test]
fn deferred_accepts_do_not_hold_the_drain_up() {
    let pair = Pair::new().unwrap();
    let deferred = "import socket, time; s = socket.socket(); \
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30); \
        s.bind(('', 80)); s.listen(9); print('up', flush=True); time.sleep(60)";
    let _server = python(&pair.server, deferred);
    let silent = format!(
        "import socket, time; c = socket.create_connection(('{SERVER}', 80)); \
         print('up', flush=True); time.sleep(60)"
    );
    let _client = python(&pair.client, &silent);
    // Older than a second: the timer of the first SYN-ACK is over.
    let timer = || pair.server.must(["ss", "-Htno", "state", "syn-recv"]);
    let first = timer();
    assert!(first.contains("10.77.0.2"), "{first}");
    wait_until(SOON, "the second timer", || {
        // ss prints seconds as 1.9ms and milliseconds as 900ms.
        timer().contains("(on,1.")
    })
    .unwrap();
    let outcome = call(&pair.server, words("--port 80")).run(["true"]);
    let drain_ms = ms(&outcome.report["phases"], "drain_ms");
    assert!(drain_ms < 350.0, "{drain_ms} ms");
    assert_eq!(outcome.report["stale_half_open"], 1);
}

/// Nobody reads stderr, and COMMAND fills the pipe: the gate opens all the same, and a signal ends
/// what is left of the run.
#[test]
fn a_full_stderr_does_not_keep_the_gate_shut() {
    let host = Host::new().unwrap();
    let mut run = fills_stderr(&host, "");
    wait_open(&host, SOON); // not by --max-closed
    // It has something to say, and nobody to say it to.
    let waits_in = || host.must(["sh", "-c", "cat /proc/$(pgrep -x syngate)/wchan"]);
    wait_until(SOON, "a write", || waits_in().contains("pipe_write")).unwrap();
    run.signal(Signal::SIGTERM).unwrap();
    assert_eq!(run.wait().unwrap().code(), None, "ended by the signal");
}

/// The run reads this signal, or discards it as too late. Then nobody sends a second one.
#[test]
fn a_full_stderr_keeps_nobody_who_was_asked_to_end() {
    let host = Host::new().unwrap();
    let mut run = fills_stderr(&host, "import signal; signal.pause()");
    run.signal(Signal::SIGTERM).unwrap();
    wait_until(SOON, "the end", || !run.is_running()).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(143));
    for _ in 0..10 {
        let mut run = fills_stderr(&host, "");
        wait_open(&host, SOON);
        run.signal(Signal::SIGTERM).unwrap();
        wait_until(SOON, "the end", || !run.is_running()).unwrap();
    }
}

/// A run whose COMMAND has filled stderr, a pipe that nobody reads, and goes on with this.
fn fills_stderr(host: &Host, and_then: &str) -> Running {
    let full = host.dir().join("full");
    let _ = fs::remove_file(&full);
    let fill = format!(
        "import os
os.set_blocking(2, False)
try:
    while True: os.write(2, b'x' * 1000)
except BlockingIOError: pass
os.set_blocking(2, True)
open({full:?}, 'w')
{and_then}"
    );
    let run = call(host, words("-v --port 80 --max-closed 20s")).start(["python3", "-c", &fill]);
    wait_until(SOON, "a full pipe", || full.exists()).unwrap();
    run
}

/// Starts what its arguments say, and fills its stderr while COMMAND runs. When the service is checked, it
/// reads as little as makes poll(2) say that there is room.
const READS_LITTLE: &str = r#"
import fcntl, os, pty, select, subprocess, sys, time
kind, folder, *call = sys.argv[1:]
F_SETPIPE_SZ = 1031
reads, writes = os.pipe() if kind == 'pipe' else pty.openpty()
if kind == 'pipe':
    # Two pages. In the second one there is room for what syngate says before it closes the gate.
    fcntl.fcntl(writes, F_SETPIPE_SZ, 8192)
    os.write(writes, b'x' * 4096)
    os.write(writes, b'x')
run = subprocess.Popen(call, stderr=writes)
def wait_for(name):
    while not os.path.exists(f'{folder}/{name}'): time.sleep(.01)
def make(name): open(f'{folder}/{name}', 'w').close()
wait_for('runs')
mine = os.open(f'/proc/self/fd/{writes}', os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
try:
    while True: os.write(mine, b'x')
except BlockingIOError: pass
make('end')
wait_for('checked')
# What has been said meanwhile is longer than the room in a terminal.
while os.stat(f'{folder}/checked').st_size < 12: time.sleep(.01)
room = select.poll()
room.register(writes, select.POLLOUT)
while not room.poll(0): os.read(reads, 64)
make('good')
run.wait()
"#;

/// poll(2) promises 4,096 bytes of a pipe, and a single one of a terminal. The lines are longer.
#[test]
fn a_stderr_with_little_room_does_not_keep_the_gate_shut() {
    for kind in ["terminal", "pipe"] {
        let host = Host::new().unwrap();
        let folder = host.dir().to_str().unwrap();
        let long = "😀".repeat(2_000);
        let command = format!(
            ": {long}; touch {folder}/runs; until [ -e {folder}/end ]; do sleep 0.01; done"
        );
        let mut python = host.command("python3");
        python.args(["-c", READS_LITTLE, kind, folder, harness::SYNGATE]);
        let check = format!("echo >>{folder}/checked; test -e {folder}/good");
        python.args(["-v", "--port=80", "--max-closed=20s"]);
        python.args(["--ready-check", &check, "--", "sh", "-c", &command]);
        let mut python = host.spawn(&mut python).unwrap();
        wait_until(SOON, "room", || host.dir().join("good").exists()).unwrap();
        wait_open(&host, SOON); // not by --max-closed
        assert!(python.is_running(), "{kind}: it has more to say");
    }
}

/// A report into a pipe that nobody reads is an error line, not a hang.
#[test]
fn a_report_for_nobody() {
    let host = Host::new().unwrap();
    let fifo = host.dir().join("fifo");
    let fifo = fifo.to_str().unwrap();
    host.must(["mkfifo", fifo]);
    let line = format!(
        "timeout 10 {} -p80 --report-file {fifo} -- true",
        harness::SYNGATE
    );
    let ran = host.sh(&line).unwrap();
    assert_eq!(ran.code(), 0, "{ran:?}");
    assert!(ran.stderr.contains("--report-file"), "{ran:?}");

    // Ordinary files below /dev are replaced like any other.
    let line = format!(
        "{} -q -p80 --report-file /dev/shm/syngate-$$.json -- true",
        harness::SYNGATE
    );
    let script =
        format!("{line}; {line}; cat /dev/shm/syngate-$$.json; rm /dev/shm/syngate-$$.json");
    let ran = host.sh(&script).unwrap();
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one report");
    assert_eq!(report["outcome"], "ok");
}

/// Without a gate there is nothing that --max-closed could open.
#[test]
fn best_effort_without_a_gate_has_no_deadline() {
    let host = Host::new().unwrap();
    let lock = host.dir().to_str().unwrap().to_owned();
    let script = format!(
        "SYNGATE_LOCK_DIR={lock} setpriv --bounding-set -net_admin --inh-caps -net_admin \
         {} --best-effort --max-closed 200ms --drain 0 -p80 -- sleep 0.4",
        harness::SYNGATE
    );
    let ran = host.sh(&script).unwrap();
    assert_eq!(ran.code(), 0, "{ran:?}");
    assert!(ran.stderr.contains("was never closed"), "{ran:?}");
}

/// Between the start of syngate and COMMAND there is no moment in which a signal is lost.
#[test]
fn a_signal_before_command_is_never_too_early() {
    let host = Host::new().unwrap();
    let marker = host.dir().join("ran");
    // It arrives while the signals are blocked, before anything waits for them.
    let inject = "inject=signalfd4:signal=SIGTERM:when=1";
    let mut strace = host.command("strace");
    strace
        .args([
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=signalfd4",
            "-e",
            inject,
        ])
        .args([harness::SYNGATE, "-p80", "--drain", "0", "--", "touch"])
        .arg(&marker);
    let status = strace.status().unwrap();
    assert_eq!(status.code(), Some(143));
    assert!(!marker.exists());
    assert!(!gated(&host));
}

/// The terminal hangs up, and only the session's leader, syngate, is told: COMMAND hears of it.
#[test]
fn a_hangup_is_passed_on() {
    let host = Host::new().unwrap();
    let heard = host.dir().join("heard");
    let runs = host.dir().join("runs");
    let command = format!(
        "trap 'touch {}; exit 7' HUP; touch {}; while :; do sleep 0.1; done",
        heard.display(),
        runs.display()
    );
    let argv: Vec<&str> = vec![harness::SYNGATE, "-q", "-p80", "--", "sh", "-c", &command];
    let program = format!(
        "import os, pty, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv({:?}, {argv:?})
while not os.path.exists({runs:?}): time.sleep(0.01)
os.close(terminal)
print('up', flush=True)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
time.sleep(60)",
        harness::SYNGATE
    );
    let _python = python(&host, &program);
    wait_until(SOON, "COMMAND to hear", || heard.exists()).unwrap();
    wait_open(&host, SOON);
}

/// What the kernel opened in time was not closed for longer, however long syngate was stopped.
#[test]
fn closed_time_ends_at_the_deadline() {
    let host = Host::new().unwrap();
    let runs = host.dir().join("runs");
    let max_closed = 500 * slow();
    let options = format!("--port 80 --max-closed {max_closed}ms --drain 0");
    let call = call(&host, words(&options));
    let script = format!("touch {}; exec sleep 60", runs.display());
    let mut run = call.start(["sh", "-c", &script]);
    wait_until(SOON, "COMMAND to run", || runs.exists()).unwrap();
    run.signal(Signal::SIGSTOP).unwrap();
    wait_until(SOON, "an open port", || shut(&host).is_empty()).unwrap();
    std::thread::sleep(Duration::from_millis(500)); // stopped for longer than that
    run.signal(Signal::SIGCONT).unwrap();
    wait_open(&host, SOON);
    host.must(["pkill", "sleep"]);
    run.wait().unwrap();
    let closed_ms = ms(&call.report(), "closed_ms");
    // It counts from before the rules are made.
    let at_most_ms = f64::from(max_closed);
    assert!(
        (0.8 * at_most_ms..=at_most_ms).contains(&closed_ms),
        "{closed_ms} ms"
    );
}

/// With thousands of established connections the gate is still closed for moments only.
#[test]
fn a_crowd_of_connections_costs_little() {
    let host = Host::new().unwrap();
    let crowd = "import resource, socket, time
resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
s = socket.socket(); s.bind(('127.0.0.1', 81)); s.listen(4096)
kept = []
for n in range(8000):
    c = socket.create_connection(('127.0.0.1', 81)); kept.append((c, s.accept()[0]))
print('up', flush=True); time.sleep(60)";
    let _crowd = python(&host, crowd);
    let _server = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let outcome = call(&host, words("--port 80")).run(["true"]);
    let drain_ms = ms(&outcome.report["phases"], "drain_ms");
    assert!(drain_ms < 150.0 * f64::from(slow()), "{drain_ms} ms");
}

/// What a COMMAND that fails has left behind is said: the service may be down.
#[test]
fn a_failure_that_leaves_nobody_listening_is_said() {
    let host = Host::new().unwrap();
    Serve::on("0.0.0.0:80").start_daemon(&host).unwrap();
    let pid = host.dir().join("serve.pid");
    // A signal is not an end: it takes the server a moment to be gone.
    let script = format!(
        "kill $(cat {}); until [ -z \"$(ss -Hltn sport = :80)\" ]; do :; done; exit 3",
        pid.display()
    );
    let outcome = call(&host, words("--port 80")).run(["sh", "-c", &script]);
    assert_eq!(outcome.code, 3, "{outcome:?}");
    let said = "exited with status 3, and the service is DOWN: nobody listens on 80, and new";
    assert!(outcome.stderr.contains(said), "{outcome:?}");
}

/// A reload that did nothing, on a SO_REUSEPORT group: it was waited for in vain, and that is said.
#[test]
fn a_reload_without_effect_is_said() {
    let host = Host::new().unwrap();
    let one = Serve::on("0.0.0.0:80").reuseport();
    let _servers = [one.start(&host).unwrap(), one.start(&host).unwrap()];
    let outcome = call(&host, words("--port 80")).run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(
        outcome.stderr.contains("warning: nothing changed on 80"),
        "{outcome:?}"
    );
}

/// A COMMAND in the foreground runs into --max-closed: that is said then, not when it ends.
#[test]
fn max_closed_is_said_when_it_happens() {
    let host = Host::new().unwrap();
    let _server = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let options = format!("--port 80 --max-closed {}ms --drain 0", 300 * slow());
    let mut run = call(&host, words(&options)).start(["sleep", "60"]);
    let mut line = String::new();
    let mut said = std::io::BufReader::new(run.stderr().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert!(line.contains("warning: --max-closed "), "{line}");
    assert!(
        line.contains(" is over: the kernel has opened the gate"),
        "{line}"
    );
    assert!(line.contains("--open-on ready"), "{line}");
    assert!(run.is_running());
    host.must(["pkill", "sleep"]);
    run.wait().unwrap();
}

// The lock file ---------------------------------------------------------------------------------------

fn lock_files(host: &Host) -> String {
    host.must(["sh", "-c", "ls -A /run/syngate"])
}

/// The last run in a network namespace removes its lock file, and no other run does.
#[test]
fn the_last_run_removes_the_lock_file() {
    let host = Host::new().unwrap();
    let quick = |port: &str| {
        let options = format!("-q --port {port} --drain 0 --ready-timeout 0");
        call(&host, words(&options)).report_to(host.dir().join(port))
    };
    assert_eq!(quick("80").run(["true"]).code, 0);
    assert_eq!(lock_files(&host), "");
    assert_eq!(quick("80").arg("--precheck=false").run(["true"]).code, 125);
    assert_eq!(lock_files(&host), "", "nothing was gated");

    let mut latch = Latch::new(&host, "long");
    let long = quick("81");
    let run = long.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    let file = lock_files(&host);
    assert!(file.starts_with("net-"), "{file}");
    assert_eq!(quick("80").run(["true"]).code, 0);
    assert_eq!(lock_files(&host), file, "another run has it");
    latch.release();
    assert_eq!(long.end(run).code, 0);
    assert_eq!(lock_files(&host), "");
}

/// Runs that begin while others end, and remove the file: two on one port never run at once.
#[test]
fn runs_take_turns_also_while_the_lock_file_comes_and_goes() {
    let host = Host::new().unwrap();
    let dir = host.dir().display().to_string();
    // A folder that only one of them can make at a time.
    let script = format!(
        "run() {{
             {SYNGATE} -q -p $1 --drain 0 --ready-timeout 0 --settle 0 -- sh -c \
                 'mkdir {dir}/in-'$1' || exit 9; rmdir {dir}/in-'$1
         }}
         many() {{ for i in 1 2 3 4 5 6 7 8 9 10; do run $1 || echo failed: $?; done; }}
         for i in 1 2 3 4; do many 80 & many 81,82 & done
         wait"
    );
    let ran = host.sh(&script).unwrap();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    assert_eq!(lock_files(&host), "");
}

/// A run that opened the lock file just before another one removed it does not take that file for the one
/// in use.
#[test]
fn a_lock_in_a_file_that_was_removed_is_none() {
    let host = Host::new().unwrap();
    let first = call(&host, words("-q --port 80 --drain 0 --ready-timeout 0"));
    let mut latches = ["first", "third"].map(|name| Latch::new(&host, name));
    let run = first.start(["sh", "-c", &latches[0].hold()]);
    latches[0].wait();
    let file = format!("/run/syngate/{}", lock_files(&host).trim());
    let opened = || {
        let open = "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c 'syngate/net-'";
        host.sh(open).unwrap().stdout.trim().parse::<u32>().unwrap()
    };
    assert_eq!(opened(), 1);

    // The second has it open, and locks nothing for a second.
    let [said, ran] = ["said", "ran"].map(|name| host.dir().join(name));
    let slow = "-e trace=fcntl -e inject=fcntl:delay_enter=1s:when=1";
    let script = format!(
        "exec strace -qq -o /dev/null -P {file} {slow} {SYNGATE} --port 80 --drain 0 \
         --ready-timeout 0 -- touch {} 2>{}",
        ran.display(),
        said.display()
    );
    let mut second = host.command("sh");
    let mut second = host.spawn(second.args(["-c", &script])).unwrap();
    wait_until(SOON, "the second to open it", || opened() == 2).unwrap();
    latches[0].release();
    assert_eq!(first.end(run).code, 0);
    assert_eq!(lock_files(&host), "");

    let third = call(&host, words("-q --port 80 --drain 0 --ready-timeout 0"));
    let mut run = third.start(["sh", "-c", &latches[1].hold()]);
    latches[1].wait();
    let waits = || {
        std::fs::read_to_string(&said)
            .unwrap()
            .contains("waiting for pid")
    };
    wait_until(SOON, "the second to wait", || waits() || ran.exists()).unwrap();
    assert!(!ran.exists(), "two runs at once");
    latches[1].release();
    // Its gate goes, and the second one's comes.
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert_eq!(second.wait().unwrap().code(), Some(0));
    assert!(ran.exists());
    assert_eq!(lock_files(&host), "");
}

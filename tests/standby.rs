//! A standby and its guard, as the run sees them. The standby starts in the environment of syngate's caller, all of
//! its processes are stopped, and it does not outlive the run.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use syngate::{CommandExit, Standby, Stop};
use testkit::wait_until;

const SOON: Duration = Duration::from_secs(10);
/// A grace time that is longer than each test.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

const GONE: Stop = Stop {
    killed: false,
    left: false,
};
const KILLED: Stop = Stop {
    killed: true,
    left: false,
};

/// The test's directory. All of its standbys have it in their environment, so that they are found and killed at the
/// end, also if the test has failed.
#[derive(Debug)]
struct Place(PathBuf);

impl Place {
    fn of(test: &str) -> Place {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("standby-{test}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Place(path)
    }

    fn environment(&self) -> Vec<CString> {
        let path = std::env::var("PATH").unwrap();
        let dir = self.0.to_str().unwrap();
        [format!("PATH={path}"), format!("DIR={dir}")]
            .map(|pair| CString::new(pair).unwrap())
            .into()
    }

    fn start(&self, line: impl AsRef<OsStr>, grace: Duration) -> Standby {
        self.start_as(line, &self.environment(), &SigSet::empty(), grace)
    }

    fn start_as(
        &self,
        line: impl AsRef<OsStr>,
        environment: &[CString],
        mask: &SigSet,
        grace: Duration,
    ) -> Standby {
        let syngate = Path::new(env!("CARGO_BIN_EXE_syngate"));
        Standby::start_by(syngate, line.as_ref(), environment, mask, grace).unwrap()
    }

    /// What the standby has written into that file. Waits for the first line.
    fn read(&self, name: &str) -> String {
        let mut text = String::new();
        wait_until(SOON, name, || {
            text = fs::read_to_string(self.0.join(name)).unwrap_or_default();
            text.ends_with('\n')
        })
        .unwrap();
        text
    }

    /// The processes that have it in their environment, guards too.
    fn processes(&self) -> Vec<i32> {
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let environ = fs::read(format!("/proc/{pid}/environ"));
                environ.is_ok_and(|environ| has_dir(&environ, &self.0))
            })
            .collect()
    }

    fn pid(&self, name: &str) -> i32 {
        self.read(&format!("{name}.pid")).trim().parse().unwrap()
    }
}

impl Drop for Place {
    /// A process that is just being executed has an empty environment and isn't found. Its guard
    /// knows it, so guards are not killed: each ends by itself when it has no child left.
    fn drop(&mut self) {
        let gone = wait_until(SOON, "all to be gone", || {
            let all = self.processes();
            for pid in all.iter().filter(|pid| !is_guard(**pid)) {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            all.is_empty()
        });
        assert!(
            gone.is_ok() || std::thread::panicking(),
            "left behind: {self:?}"
        );
    }
}

fn has_dir(environ: &[u8], dir: &Path) -> bool {
    let wanted = [b"DIR=", dir.as_os_str().as_bytes()].concat();
    environ.split(|byte| *byte == 0).any(|pair| pair == wanted)
}

/// The fields of /proc/PID/stat from the state on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// A field of /proc/PID/status that is a mask.
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
}

fn capabilities() -> u64 {
    field(&fs::read_to_string("/proc/self/status").unwrap(), "CapEff:")
}

fn lives(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z")
}

/// How many processes are alive in a session.
fn in_session(session: i32) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(stat)
        .filter(|fields| fields[0] != "Z" && fields[3] == session.to_string())
        .count()
}

fn is_guard(pid: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| name.trim() == "gate-standby")
}

fn guard_of(pid: i32) -> i32 {
    let guard: i32 = stat(pid).unwrap()[1].parse().unwrap();
    assert!(is_guard(guard), "{guard}");
    guard
}

fn wait_nobody_in(session: i32) {
    wait_until(SOON, "all to be gone", || in_session(session) == 0).unwrap();
}

fn wait_gone(pids: &[i32]) {
    wait_until(SOON, "all to be gone", || {
        !pids.iter().any(|pid| lives(*pid))
    })
    .unwrap();
}

/// Waits as a run does, and returns how the shell ended.
fn wait_ended(standby: &mut Standby) -> CommandExit {
    wait_until(SOON, "its end", || standby.ended().is_some()).unwrap();
    standby.ended().unwrap()
}

fn wait_stopped(standby: &mut Standby) -> Stop {
    wait_until(SOON, "it to be stopped", || standby.stopped().is_some()).unwrap();
    standby.stopped().unwrap()
}

#[test]
fn it_runs_until_it_is_asked_to_end() {
    let place = Place::of("asked");
    let mut standby = place.start("echo $$ >$DIR/shell.pid; sleep 1000; true", LONG);
    let shell = place.pid("shell");
    assert_eq!(standby.pid(), shell);
    assert_eq!((standby.ended(), standby.stopped()), (None, None));
    assert!(standby.news().is_some());
    let guard = guard_of(shell);
    standby.begin_stop();
    assert_eq!(wait_stopped(&mut standby), GONE);
    assert_eq!(standby.ended(), Some(CommandExit::Signal(15)));
    assert!(standby.news().is_none(), "there will be none");
    wait_gone(&[shell, guard]);
}

#[test]
fn how_it_ends_by_itself_is_told() {
    let place = Place::of("ends");
    let mut standby = place.start("exit 3", LONG);
    assert_eq!(wait_ended(&mut standby), CommandExit::Code(3));
    assert_eq!(wait_stopped(&mut standby), GONE);
    let mut standby = place.start("kill -64 $$", LONG);
    assert_eq!(wait_ended(&mut standby), CommandExit::Signal(64));
    standby.begin_stop();
    assert_eq!(wait_stopped(&mut standby), GONE);
}

#[test]
fn news_wakes_a_poll() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let place = Place::of("polls");
    let mut standby = place.start("exit 0", LONG);
    let until = Instant::now() + SOON;
    while standby.stopped().is_none() && Instant::now() < until {
        let line = standby.news().unwrap();
        poll(
            &mut [PollFd::new(line, PollFlags::POLLIN)],
            PollTimeout::from(10_000u16),
        )
        .unwrap();
    }
    assert_eq!(standby.ended(), Some(CommandExit::Code(0)));
}

/// The shell has ended. The daemon and its child, each in its own session, are stopped all the same.
const DAEMON: &str = "setsid sh -c 'setsid sleep 1000 & echo $! >$DIR/child.pid; \
                      echo $$ >$DIR/daemon.pid; wait' &";

#[test]
fn daemons_are_stopped_too() {
    let place = Place::of("daemons");
    let mut standby = place.start(DAEMON, LONG);
    assert_eq!(wait_ended(&mut standby), CommandExit::Code(0));
    let daemons = ["daemon", "child"].map(|name| place.pid(name));
    assert_eq!(standby.stopped(), None);
    let guard = guard_of(daemons[0]);
    standby.begin_stop();
    assert_eq!(wait_stopped(&mut standby), GONE);
    wait_gone(&[daemons[0], daemons[1], guard]);
}

#[test]
fn a_standby_that_ignores_sigterm_is_killed_after_the_grace_time() {
    let place = Place::of("deaf");
    // The loop waits in short sleeps, so that SIGKILL of the shell leaves nothing that runs on for long.
    let line = "trap '' TERM; echo $$ >$DIR/shell.pid; while :; do sleep 0.01; done";
    let mut standby = place.start(line, SHORT);
    let shell = place.pid("shell");
    let begun = Instant::now();
    standby.begin_stop();
    standby.begin_stop();
    assert_eq!(wait_stopped(&mut standby), KILLED);
    assert!(begun.elapsed() >= SHORT);
    assert_eq!(standby.ended(), Some(CommandExit::Signal(9)));
    wait_gone(&[shell]);
}

#[test]
fn no_time_of_grace_is_a_kill() {
    let place = Place::of("no-grace");
    let line = "trap '' TERM; echo $$ >$DIR/shell.pid; sleep 1000; true";
    let mut standby = place.start(line, Duration::ZERO);
    let shell = place.pid("shell");
    standby.begin_stop();
    assert_eq!(wait_stopped(&mut standby), KILLED);
    wait_gone(&[shell]);
}

#[test]
fn a_stopped_standby_can_be_ended_and_killed() {
    for (ignored, grace, stop) in [("", LONG, GONE), ("trap '' TERM; ", SHORT, KILLED)] {
        let place = Place::of("stopped");
        let line = format!("{ignored}echo $$ >$DIR/shell.pid; while :; do kill -STOP $$; done");
        let mut standby = place.start(line, grace);
        let shell = place.pid("shell");
        let stopped = || stat(shell).unwrap()[0] == "T";
        wait_until(SOON, "it to be stopped", stopped).unwrap();
        standby.begin_stop();
        assert_eq!(wait_stopped(&mut standby), stop);
        wait_gone(&[shell]);
    }
}

#[test]
fn it_may_take_its_time_within_the_grace() {
    let place = Place::of("slow");
    let line = "trap 'sleep 0.3; echo done >$DIR/cleanup; exit 0' TERM; \
                echo $$ >$DIR/shell.pid; while :; do sleep 0.01; done";
    let mut standby = place.start(line, LONG);
    place.pid("shell");
    standby.begin_stop();
    assert_eq!(wait_stopped(&mut standby), GONE);
    assert_eq!(standby.ended(), Some(CommandExit::Code(0)));
    assert_eq!(place.read("cleanup"), "done\n");
}

#[test]
fn it_does_not_outlive_the_process_that_started_it() {
    let place = Place::of("dropped");
    let standby = place.start(format!("{DAEMON} sleep 1000; true"), LONG);
    let (shell, daemons) = (
        standby.pid(),
        ["daemon", "child"].map(|name| place.pid(name)),
    );
    let guard = guard_of(shell);
    let begun = Instant::now();
    drop(standby);
    assert!(begun.elapsed() < SOON / 10, "nobody waits for that");
    wait_gone(&[shell, daemons[0], daemons[1], guard]);
}

/// The test calls its own program with a variable, which makes that process the run.
#[test]
fn it_does_not_outlive_a_run_that_is_killed() {
    const AS_RUN: &str = "STANDBY_TEST_AS_RUN";
    if let Some(dir) = std::env::var_os(AS_RUN) {
        let line = format!("echo $$ >$DIR/shell.pid; {DAEMON} sleep 1000; true");
        let place = Place(dir.into());
        let _standby = place.start(line, LONG);
        std::thread::sleep(2 * SOON);
        panic!("should have been killed");
    }
    let place = Place::of("killed");
    let mut run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "it_does_not_outlive_a_run_that_is_killed"])
        .env(AS_RUN, &place.0)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let [shell, daemon, child] = ["shell", "daemon", "child"].map(|name| place.pid(name));
    let guard = guard_of(shell);
    run.kill().unwrap();
    run.wait().unwrap();
    wait_gone(&[shell, daemon, child, guard]);
}

#[test]
fn a_standby_that_ignores_sigterm_does_not_outlive_its_run_either() {
    let place = Place::of("dropped-deaf");
    let line = format!("trap '' TERM; {DAEMON} while :; do sleep 0.01; done");
    let standby = place.start(line, SHORT);
    let (shell, daemon) = (standby.pid(), place.pid("daemon"));
    let guard = guard_of(shell);
    drop(standby);
    wait_gone(&[shell, daemon, place.pid("child"), guard]);
}

#[test]
fn it_is_kept_on_request() {
    let place = Place::of("kept");
    let standby = place.start(format!("echo $$ >$DIR/shell.pid; {DAEMON} wait"), SHORT);
    let all = ["shell", "daemon", "child"].map(|name| place.pid(name));
    let guard = guard_of(all[0]);
    standby.keep();
    wait_gone(&[guard]);
    // It has ended, so nobody is left who could stop them.
    assert!(all.iter().all(|pid| lives(*pid)));
}

#[test]
fn without_a_guard_the_run_stops_what_it_can() {
    let place = Place::of("unguarded");
    let mut standby = place.start("trap '' TERM; sleep 1000; true", LONG);
    let shell = standby.pid();
    let guard = guard_of(shell);
    kill(Pid::from_raw(guard), Signal::SIGKILL).unwrap();
    assert_eq!(wait_ended(&mut standby), CommandExit::Signal(9));
    let lost = Stop {
        killed: false,
        left: true,
    };
    assert_eq!(standby.stopped(), Some(lost));
    assert!(standby.news().is_none());
    assert!(lives(shell), "it may be serving");
    standby.begin_stop();
    wait_nobody_in(guard);
    assert_eq!(standby.stopped(), Some(lost));
}

#[test]
fn a_guard_that_is_stopped_goes_on() {
    let place = Place::of("stopped-guard");
    let mut standby = place.start("sleep 1000; true", LONG);
    let guard = guard_of(standby.pid());
    let is_stopped = || stat(guard).is_some_and(|stat| stat[0] == "T");
    let stop = || {
        kill(Pid::from_raw(guard), Signal::SIGSTOP).unwrap();
        wait_until(SOON, "a stopped guard", is_stopped).unwrap();
    };
    // It does not answer.
    stop();
    let goes_on = || standby.stopped().is_none() && !is_stopped();
    wait_until(SOON, "a guard that goes on", goes_on).unwrap();
    // Nobody has noticed yet.
    stop();
    standby.begin_stop();
    assert_eq!(wait_stopped(&mut standby), GONE);
}

#[test]
fn a_guard_that_is_stopped_leaves_no_standby() {
    let place = Place::of("stopped-guard-dropped");
    let standby = place.start("sleep 1000; true", LONG);
    let guard = guard_of(standby.pid());
    kill(Pid::from_raw(guard), Signal::SIGSTOP).unwrap();
    drop(standby);
    wait_nobody_in(guard);
}

/// A process that keeps starting others has started one while the rest were being killed.
#[test]
fn without_a_guard_a_process_that_starts_meanwhile_does_not_escape() {
    for _ in 0..20 {
        let place = Place::of("unguarded-many");
        let mut standby = place.start("while :; do sleep 1000 & sleep 0.001; done", LONG);
        let guard = guard_of(standby.pid());
        kill(Pid::from_raw(guard), Signal::SIGKILL).unwrap();
        wait_ended(&mut standby);
        standby.begin_stop();
        wait_nobody_in(guard);
    }
}

#[test]
fn a_signal_to_its_group_does_not_reach_the_guard() {
    let place = Place::of("group");
    let until = "while [ ! -s $DIR/daemon.pid ]; do sleep 0.01; done";
    let mut standby = place.start(format!("{DAEMON} {until}; kill -KILL 0"), LONG);
    assert_eq!(wait_ended(&mut standby), CommandExit::Signal(9));
    assert_eq!(standby.stopped(), None, "the daemon has another");
    standby.begin_stop();
    assert_eq!(wait_stopped(&mut standby), GONE);
    wait_until(SOON, "nobody", || place.processes().is_empty()).unwrap();
}

#[test]
fn it_starts_in_the_callers_environment() {
    let place = Place::of("started");
    let mut environment = place.environment();
    environment.push(c"OTHER=a b\xff=\n".into());
    let mut mask = SigSet::from(Signal::SIGUSR1);
    mask.add(Signal::SIGHUP);
    // Of the shell itself: dash(1) gives its children an empty mask.
    let status = "while read -r line; do echo \"$line\"; done </proc/$$/status >$DIR/status; \
                  tr '\\0' '\\n' </proc/self/environ >$DIR/environ; \
                  cat /proc/self/oom_score_adj >$DIR/oom; pwd >$DIR/pwd";
    let mut standby = place.start_as(status, &environment, &mask, LONG);
    assert_eq!(wait_ended(&mut standby), CommandExit::Code(0));

    let status = fs::read_to_string(place.0.join("status")).unwrap();
    let field = |name| field(&status, name);
    let bit = |signal: Signal| 1u64 << (signal as i32 - 1);
    assert_eq!(field("SigBlk:"), bit(Signal::SIGUSR1) | bit(Signal::SIGHUP));
    // The test's own caller may ignore some; SIGPIPE is ignored by Rust's runtime, and not by it.
    assert_eq!(field("SigIgn:") & bit(Signal::SIGPIPE), 0);

    let environ = fs::read(place.0.join("environ")).unwrap();
    let has = |wanted: &[u8]| environ.windows(wanted.len()).any(|part| part == wanted);
    assert!(has(b"OTHER=a b\xff=\n"));
    let names = environ.split(|byte| *byte == b'\n');
    let names = names.filter(|line| line.contains(&b'=') && !line.starts_with(b"OTHER="));
    let mut names: Vec<_> = names
        .map(|l| l.split(|b| *b == b'=').next().unwrap())
        .collect();
    names.sort_unstable();
    // The shell adds PWD, and some others more.
    names.retain(|name| !matches!(*name, b"PWD" | b"SHLVL" | b"_" | b"OLDPWD"));
    assert_eq!(names, [&b"DIR"[..], b"PATH"]);

    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(place.read("oom"), own);
    let here = std::env::current_dir().unwrap();
    assert_eq!(place.read("pwd").trim(), here.to_str().unwrap());
}

#[test]
fn the_guard_inherits_nothing() {
    let place = Place::of("guard");
    let standby = place.start("sleep 1000; true", LONG);
    let guard = guard_of(standby.pid());
    // Where that is permitted: CAP_SYS_RESOURCE.
    if capabilities() & 1 << 24 != 0 {
        let score = fs::read_to_string(format!("/proc/{guard}/oom_score_adj")).unwrap();
        assert_eq!(score.trim(), "-1000");
    }
    let target = |name: &str| fs::read_link(format!("/proc/{guard}/{name}")).unwrap();
    let files: Vec<_> = fs::read_dir(format!("/proc/{guard}/fd")).unwrap().collect();
    let null = |fd: &str| target(&format!("fd/{fd}")) == Path::new("/dev/null");
    assert!(null("0") && null("1") && null("2"));
    assert_eq!(files.len(), 5, "these, the line, and a signalfd");
    assert_eq!(target("cwd"), Path::new("/"));
    let stat = stat(guard).unwrap();
    assert_eq!(
        [&stat[2], &stat[3]],
        [&guard.to_string(); 2],
        "its own session"
    );
}

#[test]
fn the_standby_inherits_no_file_of_syngate() {
    let place = Place::of("files");
    // A program that is not careful inherits it.
    let ours = nix::unistd::dup(fs::File::open("/dev/zero").unwrap()).unwrap();
    let mut standby = place.start("ls -l /proc/self/fd/ >$DIR/files", LONG);
    assert_eq!(wait_ended(&mut standby), CommandExit::Code(0));
    drop(ours);
    let files = place.read("files");
    let mut files: Vec<(&str, &str)> = files
        .lines()
        .filter_map(|line| line.rsplit_once(" -> "))
        .map(|(before, target)| (before.rsplit(' ').next().unwrap(), target))
        .collect();
    files.sort_unstable();
    let fds: Vec<&str> = files.iter().map(|(fd, _)| *fd).collect();
    assert_eq!(fds, ["0", "1", "2", "3"], "{files:?}");
    assert_eq!(files[0].1, "/dev/null");
    assert!(files[3].1.ends_with("/fd"), "that of ls itself: {files:?}");
}

#[test]
fn a_line_of_any_bytes_arrives() {
    let place = Place::of("bytes");
    let mut line = OsString::from("printf '%s\\n' '");
    line.push(OsStr::from_bytes(b"\xff\xfe \t\n--x"));
    line.push("' >$DIR/said");
    let mut standby = place.start(line, LONG);
    assert_eq!(wait_ended(&mut standby), CommandExit::Code(0));
    let said = fs::read(place.0.join("said")).unwrap();
    assert_eq!(said, b"\xff\xfe \t\n--x\n");
}

#[test]
fn what_cannot_be_started_is_an_error() {
    let place = Place::of("errors");
    let start = |program: &str, line: &OsStr| {
        let (environment, mask) = (place.environment(), SigSet::empty());
        let program = Path::new(program);
        let error = Standby::start_by(program, line, &environment, &mask, LONG).unwrap_err();
        format!("{error:#}")
    };
    let syngate = env!("CARGO_BIN_EXE_syngate");
    let missing = start("/nonexistent/syngate", OsStr::new("true"));
    assert!(missing.contains("No such file"), "{missing}");
    // What is no guard says nothing, or is no syngate.
    let other = start("/bin/true", OsStr::new("true"));
    assert!(other.contains("guard"), "{other}");
    // The longest word that execve(2) takes, once as such and once with what sh is told besides.
    let longest = OsString::from(" ".repeat(128 * 1024 - 1));
    let long = start(syngate, &longest);
    assert!(
        long.contains("sh can't be started: Argument list too long"),
        "{long}"
    );
    let mut longer = longest;
    longer.push(" ");
    let long = start(syngate, &longer);
    assert!(
        long.contains("the guard of the standby can't be started"),
        "{long}"
    );
}

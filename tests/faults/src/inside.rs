//! What runs inside a host: a service, clients, and one trial after the other.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, Read, Write},
    net::{SocketAddr, TcpStream},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{pty::openpty, unistd::Pid};
use testkit::{code, digest, say, slow, wait_until};

use crate::{
    leftovers::{commands, locks, processes, queues, ruleset},
    neighbour::{self, Neighbour},
    point::{Course, Point},
    setting::{Place, Setting, max_closed},
    trace::{self, Blow, Target, Traced},
    trial::{Deed, Shown, Trial},
    verdict::{Left, violations},
};

/// A run takes less than --max-closed and all other timeouts together; but if somebody has 100,000
/// rules, iptables is slow before and after that, too.
fn longest() -> Duration {
    Duration::from_secs(40) * slow()
}

/// How long what was killed may leave its rules, and its guards may live: they have more to wait for
/// than the machine's load, once a standby has to end.
fn soon() -> Duration {
    Duration::from_secs(5) * slow()
}

/// As long as a client waits that is not to hang for ever.
const PATIENCE: Duration = Duration::from_secs(4);

/// Prepares the host; prints the points of a run that is not hit; then, for each trial that comes in on
/// stdin, what it has shown.
pub fn run(place: &Place, setting: &Setting) -> Result<()> {
    let clients = AtomicBool::new(true);
    thread::scope(|scope| {
        let bench = Bench::new(place, setting)?;
        for _ in 0..2 {
            scope.spawn(|| come_again(Place::service(setting), &clients));
        }
        let done = bench.serve();
        clients.store(false, Ordering::Relaxed);
        done
    })
}

/// A client that connects again and again, whatever becomes of that.
fn come_again(service: SocketAddr, wanted: &AtomicBool) {
    // What is emulated has but one CPU, which is not the clients' alone.
    let pause = Duration::from_millis(10) * slow();
    while wanted.load(Ordering::Relaxed) {
        let _ = ask(service);
        thread::sleep(pause);
    }
}

fn ask(service: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&service, PATIENCE)?;
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
    service: SocketAddr,
    /// As long as nobody runs.
    rules: BTreeSet<String>,
    kernel: String,
    build: String,
    /// The other end of a run's terminal, if it has one.
    terminal: RefCell<Option<OwnedFd>>,
}

impl<'a> Bench<'a> {
    fn new(place: &'a Place, setting: &'a Setting) -> Result<Bench<'a>> {
        fs::create_dir(place.file("report"))?;
        fs::write(place.file("restart"), place.restart())?;
        let mut bench = Bench {
            place,
            setting,
            service: Place::service(setting),
            rules: BTreeSet::new(),
            kernel: kernel()?,
            build: digest(Path::new(&place.syngate))?,
            terminal: RefCell::default(),
        };
        bench.start_anew()?;
        // What the first use of a backend makes for good (base chains of iptables) is no rule of a run.
        bench.sh(Neighbour::FlushesIptables.visit(), None)?;
        bench.sh(neighbour::BYSTANDER, None)?;
        bench.trace(None, None)?;
        bench.settle()?;
        bench.rules = ruleset()?;
        Ok(bench)
    }

    fn serve(&self) -> Result<()> {
        let survey = self.trace(None, None)?;
        self.settle()?;
        ensure!(survey.code == 0, "a run that is not hit: {}", self.said());
        let left = processes(self.place)?;
        ensure!(left.is_empty(), "left by a run that was not hit: {left:?}");
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
        for file in ["report/report.json", "ran", "through", "stderr"] {
            let _ = fs::remove_file(self.place.file(file));
        }
        let traced = self.hit(&trial);
        let (code, hit) = match &traced {
            Ok(traced) => (traced.code, traced.hit),
            Err(_) => (-1, true),
        };
        let ended = Instant::now();
        let (left, gone) = self.look(hit, code)?;
        let gone_after_ms = (gone.duration_since(ended).as_secs_f64() * 1e4).round() / 10.0;
        let mut violations = violations(&trial, &left);
        violations.extend(traced.err().map(|error| format!("{error:#}")));
        if let Deed::Neighbour(by) = trial.deed {
            self.sh(by.tidy(), None).context("tidying up")?;
        }
        let mut stderr = String::new();
        if !violations.is_empty() {
            stderr = left.said.clone();
            self.clean()?;
        }
        Ok(Shown {
            trial,
            kernel: self.kernel.clone(),
            syngate: self.build.clone(),
            hit,
            code,
            reason: left.reason(),
            ran: left.ran,
            gone_after_ms,
            syns_per_second: None,
            violations,
            stderr,
        })
    }

    fn hit(&self, trial: &Trial) -> Result<Traced> {
        let target = |blow| {
            Some(Target {
                point: &trial.point,
                blow,
            })
        };
        match trial.deed {
            Deed::Fault(fault) => self.trace(None, target(Blow::Fault(fault))),
            Deed::Neighbour(by) => {
                self.sh(by.prepare(), None).context("preparing")?;
                let visit = |pid| self.visit(by, pid);
                let traced = match by.lasts() {
                    true => self.run_under(by),
                    false => self.trace(Some(by), target(Blow::Visit(&visit))),
                };
                let undone = self.sh(by.undo(), None).context("undoing");
                let traced = traced?;
                match traced.hit {
                    true => undone.map(|()| traced),
                    false => Ok(traced),
                }
            }
        }
    }

    /// A run that is watched all the time.
    fn trace(&self, by: Option<Neighbour>, target: Option<Target>) -> Result<Traced> {
        let mut command = trace::stopping(&self.words(by));
        self.prepare(&mut command, by)?;
        let program = Path::new(&self.place.syngate);
        trace::run(&mut command, program, target.as_ref(), longest())
    }

    /// A run that nobody watches.
    fn run_under(&self, by: Neighbour) -> Result<Traced> {
        let words = self.words(Some(by));
        let mut command = Command::new(&words[0]);
        self.prepare(command.args(&words[1..]), Some(by))?;
        let mut run = command.spawn()?;
        let mut ended = None;
        // Each program of iptables may take many seconds here, on a busy machine.
        let over = wait_until(longest() * 3, "the end of a run", || {
            ended = run.try_wait().ok().flatten();
            ended.is_some()
        });
        if over.is_err() {
            run.kill()?;
            run.wait()?;
        }
        over?;
        Ok(Traced {
            code: code(ended.context("it has ended")?),
            hit: true,
            course: Course::new(),
        })
    }

    fn words(&self, by: Option<Neighbour>) -> Vec<String> {
        let options = by.map_or(&[][..], |by| by.options(self.setting));
        let stops = by == Some(Neighbour::Stops);
        let call = self.place.call(self.setting, max_closed(stops), options);
        let wrapper = by.and_then(Neighbour::wrapper);
        let wrapped = wrapper.map(|text| ["sh", "-c", text, "sh"].map(str::to_owned));
        wrapped.into_iter().flatten().chain(call).collect()
    }

    fn prepare(&self, command: &mut Command, by: Option<Neighbour>) -> Result<()> {
        command.env("DIR", &self.place.folder);
        command.env(
            "AFTERWARDS",
            by.map_or_else(String::new, Neighbour::afterwards),
        );
        command.envs(self.setting.lacking.map(|what| ("SYNGATE_FAULT", what)));
        if by.is_some_and(Neighbour::has_terminal) {
            let terminal = openpty(None, None)?;
            command.stdin(terminal.slave.try_clone()?);
            command.stdout(terminal.slave.try_clone()?);
            command.stderr(terminal.slave);
            self.terminal.replace(Some(terminal.master));
            return Ok(());
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(self.place.file("stderr"))?);
        command.process_group(0);
        Ok(())
    }

    fn visit(&self, by: Neighbour, pid: Pid) -> Result<()> {
        self.terminal.replace(None);
        if by == Neighbour::Stops {
            // Where new connections go elsewhere, nobody sees from outside that it is over.
            thread::sleep(max_closed(true) + Duration::from_secs(2));
            ask(self.service).context("long after --max-closed")?;
        }
        self.sh(by.visit(), Some(pid))
    }

    /// A script of a neighbour's.
    fn sh(&self, script: impl Into<Option<&'static str>>, pid: Option<Pid>) -> Result<()> {
        let Some(script) = script.into() else {
            return Ok(());
        };
        let mut shell = Command::new("sh");
        shell.arg("-c").arg([neighbour::PRELUDE, script].concat());
        shell
            .env("DIR", &self.place.folder)
            .env("SYNGATE", &self.place.syngate)
            .env("BACKEND", self.setting.backend)
            .env("SYN", self.setting.syn)
            .env("IPTABLES", self.setting.iptables())
            .env("SERVICE", self.service.ip().to_string())
            .envs(pid.map(|pid| ("PID", pid.to_string())));
        let output = shell.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{script}\n{}: {said}",
            output.status
        );
        Ok(())
    }

    fn said(&self) -> String {
        fs::read_to_string(self.place.file("stderr")).unwrap_or_default()
    }

    /// COMMAND goes on when syngate was killed: until it is through.
    fn settle(&self) -> Result<()> {
        wait_until(soon(), "COMMAND", || {
            let ends = commands(self.place).is_ok_and(|running| running.is_empty());
            ends && self.lines("ran") == self.lines("through")
        })?;
        wait_until(soon(), "the service", || ask(self.service).is_ok())
    }

    fn lines(&self, file: &str) -> usize {
        let text = fs::read_to_string(self.place.file(file)).unwrap_or_default();
        text.lines().count()
    }

    fn start_anew(&self) -> Result<()> {
        Command::new("sh")
            .arg(self.place.file("restart"))
            .stderr(Stdio::null())
            .status()?;
        let answers = || ask(self.service).is_ok();
        wait_until(soon(), "the service", answers).context("even started anew")
    }

    /// What is left once everything has had the time that it may take, and when that was found.
    fn look(&self, hit: bool, code: i32) -> Result<(Left, Instant)> {
        let until = Instant::now() + soon();
        let (processes, rules, queues, locks) = loop {
            let left = (processes(self.place)?, ruleset()?, queues(), locks()?);
            let (processes, rules, queues, locks) = &left;
            let clean = processes.is_empty()
                && rules.is_subset(&self.rules)
                && queues.is_empty()
                && locks.is_empty();
            if clean || Instant::now() >= until {
                break left;
            }
            thread::sleep(Duration::from_millis(10));
        };
        let gone = Instant::now();
        // Nobody who could yet become COMMAND is there any more.
        let service = self.settle().err().map(|error| format!("{error:#}"));
        let left = Left {
            hit,
            code,
            ran: self.lines("ran"),
            report: self.report(),
            processes,
            rules: rules.difference(&self.rules).cloned().collect(),
            lost: self.lost(&rules),
            queues,
            service,
            locks,
            said: self.said(),
        };
        Ok((left, gone))
    }

    /// What is somebody else's, and was there before.
    fn lost(&self, rules: &BTreeSet<String>) -> Vec<String> {
        let lost = self.rules.difference(rules);
        let of_others = lost.filter(|rule| rule.contains("bystander"));
        of_others.cloned().collect()
    }

    fn report(&self) -> Option<Result<serde_json::Value, String>> {
        let text = fs::read_to_string(self.place.report()).ok()?;
        Some(serde_json::from_str(&text).map_err(|error| error.to_string()))
    }

    /// What a violation has left is not the next trial's.
    fn clean(&self) -> Result<()> {
        for pid in processes(self.place)? {
            let pid = pid.split(' ').next().unwrap_or_default().to_owned();
            let _ = Command::new("kill").args(["-9", &pid]).status();
        }
        Command::new(&self.place.syngate).arg("clear").output()?;
        match ask(self.service) {
            Ok(()) => Ok(()),
            Err(_) => self.start_anew(),
        }
    }
}

/// The release of the kernel.
fn kernel() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(release.trim_end().to_owned())
}

//! The runs of syngate, and what happens to them.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{pty::openpty, unistd::Pid};
use testkit::{code, slow};

use super::{Bench, ask};
use crate::{
    clock::{now_ms, wait_patiently},
    neighbour::{self, Neighbour},
    point::Course,
    setting::max_closed,
    subject::Subject,
    trace::{self, Blow, Target, Traced},
    trial::{Deed, Hit, Trial},
};

/// A run takes less than --max-closed and all other timeouts together; but if somebody has 100,000
/// rules, iptables is slow before and after that, too.
fn longest() -> Duration {
    Duration::from_secs(40) * slow()
}

/// The call at which the fault happens, if no other program is part of it.
fn at_a_call(hit: &Hit) -> Option<Target<'_>> {
    match hit.deed {
        Deed::Fault(fault) => Some(Target {
            point: &hit.point,
            blow: Blow::Fault(fault),
        }),
        Deed::Neighbour(_) => None,
    }
}

impl Bench<'_> {
    /// The run of a trial, and all that happens to it.
    pub(super) fn hit(&self, trial: &Trial) -> Result<Traced> {
        let Some(by) = trial.neighbour() else {
            let targets: Vec<Target> = trial.hits().filter_map(at_a_call).collect();
            return self.trace(trial.max_closed(), None, &targets);
        };
        self.sh(by.prepare(), None).context("preparing")?;
        let visit = |pid| self.visit(by, pid);
        let target = |hit| {
            at_a_call(hit).unwrap_or(Target {
                point: &hit.point,
                blow: Blow::Visit(&visit),
            })
        };
        let targets: Vec<Target> = trial.hits().map(target).collect();
        let traced = match by.lasts() {
            true => self.run_under(by),
            false => self.trace(trial.max_closed(), Some(by), &targets),
        };
        let undone = self.sh(by.undo(), None).context("undoing");
        let traced = traced?;
        match traced.hits == targets.len() {
            true => undone.map(|()| traced),
            false => Ok(traced),
        }
    }

    /// A run that is watched all the time.
    pub(super) fn trace(
        &self,
        max_closed: Duration,
        by: Option<Neighbour>,
        targets: &[Target],
    ) -> Result<Traced> {
        let mut command = trace::stopping(&self.words(by, max_closed));
        self.prepare(&mut command, by)?;
        let program = Path::new(&self.place.syngate);
        let marks = self.place.marks(&self.scene.setting);
        let longest = longest() * self.scene.subject.times_slower();
        trace::run(&mut command, program, targets, &marks, longest)
    }

    /// A keep that is killed once its rooms stand.
    fn leave_rooms(&self) -> Result<()> {
        let words = self.place.keep_of(self.scene);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        let mut keep = command.stderr(Stdio::piped()).spawn()?;
        let said = keep.stderr.take().context("its stderr")?;
        let keeps =
            |line: std::io::Result<String>| line.is_ok_and(|line| line.contains("keeping "));
        let stands = BufReader::new(said).lines().any(keeps);
        keep.kill()?;
        keep.wait()?;
        ensure!(stands, "it has made no rooms");
        Ok(())
    }

    /// A run that nobody watches.
    fn run_under(&self, by: Neighbour) -> Result<Traced> {
        let words = self.words(Some(by), max_closed(false));
        let mut command = Command::new(&words[0]);
        self.prepare(command.args(&words[1..]), Some(by))?;
        let mut course = Course::new();
        course.began_ms = Some(now_ms());
        let mut run = command.spawn()?;
        let mut ended = None;
        let over = wait_patiently(longest() * 3, "the end of a run", || {
            ended = run.try_wait().ok().flatten();
            ended.is_some()
        });
        if over.is_err() {
            run.kill()?;
            run.wait()?;
        }
        let ended_ms = now_ms();
        over?;
        Ok(Traced {
            code: code(ended.context("it has ended")?),
            ended_ms,
            unseen_ms: course.began_ms,
            hits: 1,
            course,
        })
    }

    fn words(&self, by: Option<Neighbour>, max_closed: Duration) -> Vec<String> {
        let options = by.map_or(&[][..], |by| by.options(&self.scene.setting));
        let call = self.place.call(self.scene, max_closed, options);
        let wrapper = by.and_then(Neighbour::wrapper);
        let wrapped = wrapper.map(|text| ["sh", "-c", text, "sh"].map(str::to_owned));
        wrapped.into_iter().flatten().chain(call).collect()
    }

    fn prepare(&self, command: &mut Command, by: Option<Neighbour>) -> Result<()> {
        if self.scene.subject == Subject::Follows {
            self.leave_rooms().context("the keep before")?;
        }
        command.env("DIR", &self.place.folder);
        command.env(
            "AFTERWARDS",
            by.map_or_else(String::new, Neighbour::afterwards),
        );
        command.envs(
            self.scene
                .setting
                .lacking
                .map(|what| ("SYNGATE_FAULT", what)),
        );
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
    pub(super) fn sh(
        &self,
        script: impl Into<Option<&'static str>>,
        pid: Option<Pid>,
    ) -> Result<()> {
        let Some(script) = script.into() else {
            return Ok(());
        };
        let mut shell = Command::new("sh");
        shell.arg("-c").arg([neighbour::PRELUDE, script].concat());
        shell
            .env("DIR", &self.place.folder)
            .env("SYNGATE", &self.place.syngate)
            .env("TESTKIT", &self.place.testkit)
            .env("BACKEND", self.scene.setting.backend)
            .env("SYN", self.scene.setting.syn)
            .env("GATE", self.scene.setting.of_another_run())
            .env("IPTABLES", self.scene.setting.iptables())
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
}

//! What a trial has left, and the way back to a service that answers.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use super::{Bench, ask, soon};
use crate::{
    account::has_closed,
    clock::{Patience, wait_patiently},
    leftovers::{commands, locks, processes, queues, ruleset},
    rooms::Traces,
    trial::Trial,
    verdict::Left,
};
use anyhow::{Context, Result};

/// By SIGKILL, as a shell has it.
const KILLED: i32 = 137;

impl Bench<'_> {
    pub(super) fn said(&self) -> String {
        fs::read_to_string(self.place.file("stderr")).unwrap_or_default()
    }

    /// COMMAND goes on when syngate was killed: until it is through.
    pub(super) fn settle(&self) -> Result<()> {
        wait_patiently(soon(), "COMMAND", || {
            let ends = commands(self.place).is_ok_and(|running| running.is_empty());
            ends && self.lines("ran") == self.lines("through")
        })?;
        wait_patiently(soon(), "the service", || ask(self.service).is_ok())
    }

    pub(super) fn lines(&self, file: &str) -> usize {
        self.written(file).lines().count()
    }

    pub(super) fn written(&self, file: &str) -> String {
        fs::read_to_string(self.place.file(file)).unwrap_or_default()
    }

    pub(super) fn start_anew(&self) -> Result<()> {
        Command::new("sh")
            .arg(self.place.file("anew"))
            .stderr(Stdio::null())
            .status()?;
        let answers = || ask(self.service).is_ok();
        wait_patiently(soon(), "the service", answers).context("even started anew")
    }

    /// What is left once everything has had the time that it may take, and when that was found.
    pub(super) fn look(&self, trial: &Trial, hit: bool, code: i32) -> Result<(Left, Instant)> {
        let mut patience = Patience::new(soon());
        let may_need_clear = code == KILLED && !self.has_guard(trial);
        let (processes, rules, queues, locks) = loop {
            let left = (processes(self.place)?, ruleset()?, queues(), locks()?);
            let (processes, rules, queues, locks) = &left;
            let clean = processes.is_empty()
                && rules.is_subset(&self.rules)
                && queues.is_empty()
                && locks.is_empty()
                && (may_need_clear || self.names_left()?.is_empty());
            if clean || !patience.rest() {
                break left;
            }
        };
        let gone = Instant::now();
        let rules = match rules.is_subset(&self.rules) || !trial.may_kill_both() {
            true => rules,
            false => {
                self.clear()?;
                ruleset()?
            }
        };
        // Nobody who could yet become COMMAND is there any more.
        let service = self.settle().err().map(|error| format!("{error:#}"));
        if may_need_clear && !self.names_left()?.is_empty() {
            self.clear()?;
        }
        let mut rooms = self.names_left()?;
        if let Some(traces) = self.rooms.as_ref().filter(|_| service.is_none()) {
            let shares_port = self.scene.setting.shares_port;
            // Where the group is the service's own, a program may stay in it that leaves the choice to the kernel.
            let program_may_stay = may_need_clear && shares_port;
            let program_may_stay = program_may_stay || self.scene.subject.brings_program();
            rooms.extend(traces.sockets(self.place, shares_port, program_may_stay)?);
        }
        let left = Left {
            hit,
            code,
            ran: self.lines("ran"),
            unanswered: self
                .written("unanswered")
                .lines()
                .map(str::to_owned)
                .collect(),
            instances: self.instances(),
            report: self.report(),
            processes,
            rooms,
            rules: rules.difference(&self.rules).cloned().collect(),
            lost: self.lost(&rules),
            queues,
            service,
            locks,
            said: self.said(),
        };
        Ok((left, gone))
    }

    /// How many instances of the service run.
    fn instances(&self) -> usize {
        let files = ["pid", "first"].iter().map(|file| self.written(file));
        let pids: BTreeSet<String> = files.map(|pid| pid.trim().to_owned()).collect();
        let runs = |pid: &&String| !pid.is_empty() && Path::new("/proc").join(pid).exists();
        pids.iter().filter(runs).count()
    }

    /// There is one instance, as before the first trial, and it has no program.
    pub(super) fn rest(&self) -> Result<()> {
        let first = self.written("first");
        if !first.is_empty() && first != self.written("pid") {
            let _ = Command::new("kill").arg(first.trim()).status();
            let ended = || self.instances() < 2;
            wait_patiently(soon(), "the end of the first instance", ended)?;
        }
        let _ = fs::remove_file(self.place.file("first"));
        if self.scene.subject.brings_program()
            && let Some(traces) = &self.rooms
        {
            traces.sockets(self.place, true, true)?;
        }
        self.is_served()
    }

    fn is_served(&self) -> Result<()> {
        match ask(self.service) {
            Ok(()) => Ok(()),
            Err(_) => self.start_anew(),
        }
    }

    fn names_left(&self) -> Result<Vec<String>> {
        let traces = self.rooms.as_ref();
        Ok(traces.map(Traces::names).transpose()?.unwrap_or_default())
    }

    /// Whether a guard does what a run can't do any more that was killed there, as far as it can be known.
    fn has_guard(&self, trial: &Trial) -> bool {
        trial.only_kills_run() && has_closed(&self.said())
    }

    /// Whether the run was killed, and left a guard.
    pub(super) fn is_guarded(&self, trial: &Trial, code: i32) -> bool {
        code == KILLED && self.has_guard(trial)
    }

    /// What is somebody else's, and was there before.
    pub(super) fn lost(&self, rules: &BTreeSet<String>) -> Vec<String> {
        let lost = self.rules.difference(rules);
        let of_others = lost.filter(|rule| rule.contains("bystander"));
        of_others.cloned().collect()
    }

    pub(super) fn report(&self) -> Option<Result<serde_json::Value, String>> {
        let text = fs::read_to_string(self.place.report()).ok()?;
        Some(serde_json::from_str(&text).map_err(|error| error.to_string()))
    }

    fn clear(&self) -> Result<()> {
        Command::new(&self.place.syngate).arg("clear").output()?;
        Ok(())
    }

    /// What a violation has left is not the next trial's.
    pub(super) fn clean(&self) -> Result<()> {
        for pid in processes(self.place)? {
            let pid = pid.split(' ').next().unwrap_or_default().to_owned();
            let _ = Command::new("kill").args(["-9", &pid]).status();
        }
        self.clear()?;
        self.is_served()
    }
}

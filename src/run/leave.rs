//! `--leave`: a load balancer takes this host out before the gate closes, since its health checks fail.
//!
//! The rules that refuse the checks are a second `Gate`, of the same backends, with an id of its own and the same
//! guarantees. They stay until the run's gate is open again. The comment of these rules names the run (`of=`), so that
//! `status`, `clear` and the sweep find out whether it lives. `Run` drops this gate after its own, and opens it as soon
//! as its own is open.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::decide::leaving::{Leaving, Left};
use crate::gate::backends;
use crate::gate::gate::Gate;
use crate::gate::rules;
use crate::gate::rules::Rules;
use crate::gate::settings::Settings;
use crate::process::signals::Caught;
use crate::run::balancer::{Leave, LeaveRow};
use crate::run::call::Call;
use crate::run::close::note_remarks;
use crate::run::plan::Plan;
use crate::run::record::Record;
use crate::words::count::counted;
use crate::words::ending::Ending;
use crate::words::ms::ms_words;
use crate::words::run_id::new_id;
use crate::words::scope::{Scope, short};
use crate::words::steer::Steer;

/// How often new connections are counted. With iptables a program counts them.
pub(crate) const COUNT_EVERY: Duration = Duration::from_millis(50);
/// The pause after a count is at least this many times as long as it took.
const COUNT_PAUSE: u32 = 5;
/// How much longer than the wait and `--max-closed` the kernel may refuse: the gate has to be closed in between.
pub(crate) const LEAVE_SLACK: Duration = Duration::from_secs(10);

impl Plan {
    /// The rules that refuse health checks.
    pub(crate) fn leave_rules(&self, leave: &Leave) -> Rules {
        let gated = self.gated();
        Rules {
            ports: leave.ports.clone(),
            // Where the gate stands is no matter: it may be before routing for reasons of its own.
            scope: Scope {
                hook: self.hook.given(),
                ..gated.scope.clone()
            },
            steer: Steer::Refuse,
            passes_proxied: false,
            passes_marked: false,
            leaving: Some(rules::Leaving {
                from: leave.from.clone(),
                narrowed: leave.gated,
                counted: gated.ports.clone(),
            }),
        }
    }

    /// They have an id of their own, so that no name in the kernel is the gate's.
    pub(crate) fn leave_settings(&self, run: &str) -> Settings {
        let mut settings = self.settings(&new_id(), Steer::Refuse);
        settings.who.of = Some(run.to_owned());
        settings.lingers = Duration::ZERO;
        settings
    }

    /// How long the kernel refuses at most.
    pub(crate) fn leaves_for(&self, leave: &Leave) -> Duration {
        leave.timeout + self.max_closed + LEAVE_SLACK
    }
}

impl Call<'_> {
    /// Refuses health checks, and waits until no new connections come. Returns what refuses them.
    ///
    /// # Errors
    /// They can't be refused, or a signal came. Nothing is refused then.
    pub(super) fn leave(&self, record: &mut Record) -> Result<Option<Gate>, Ending> {
        let Some(leave) = &self.plan.leave else {
            return Ok(None);
        };
        self.signals.until(Instant::now())?;
        let mut gate = match self.refuse(leave, record) {
            Ok(gate) => gate,
            Err(error) if self.plan.config.best_effort => {
                let text = format!("--leave: health checks can't be refused: {error:#}");
                record.warnings.warn(self.say, text);
                return Ok(None);
            }
            Err(error) => {
                let why = format!("--leave: health checks can't be refused: {error:#}");
                return Err(Ending::not_gated("leave", &why));
            }
        };
        self.await_quiet(leave, &mut gate, record)?;
        Ok(Some(gate))
    }

    fn refuse(&self, leave: &Leave, record: &mut Record) -> Result<Gate> {
        let plan = self.plan;
        let until = Instant::now() + plan.leaves_for(leave);
        let (rules, settings) = (plan.leave_rules(leave), plan.leave_settings(&record.run));
        let (gate, _) = backends::close(plan.backend.given, &settings, &rules, until)?;
        note_remarks(&gate, self, record);
        self.say.must_not_block();
        self.say.phase(&format!(
            "refusing new connections to {} ({})",
            leave.shown(),
            gate.backend()
        ));
        Ok(gate)
    }

    fn await_quiet(
        &self,
        leave: &Leave,
        gate: &mut Gate,
        record: &mut Record,
    ) -> Result<(), Ending> {
        let ports = self.plan.gated().ports.brief();
        let since = Instant::now();
        let mut leaving = Leaving::new(leave.quiet, leave.timeout, since);
        let left = loop {
            let began = Instant::now();
            let arrived = gate.arrived();
            if let Err(error) = &arrived {
                let text = format!("--leave: new connections can't be counted: {error:#}");
                record.warnings.warn(self.say, text);
            }
            // Those of the next moment were not counted.
            leaving.saw(arrived.ok(), began);
            self.keep_refusing(gate, record);
            let now = Instant::now();
            if let Some(left) = leaving.is_over(now) {
                break left;
            }
            let so_far = counted(leaving.connections(), "new connection");
            self.say.waiting(&format!(
                "leaving the load balancer: {so_far} to {ports} so far"
            ));
            let pause = COUNT_EVERY.max((now - began) * COUNT_PAUSE);
            self.pause(leaving.wake().min(now + pause))?;
        };
        self.say.done_waiting();
        let (waited, connections) = (since.elapsed(), leaving.connections());
        self.tell_left(leave, left, waited, connections, record);
        record.leave = Some(LeaveRow {
            ports: leave.ports.clone(),
            from: leave.from.all().iter().map(short).collect(),
            wait_ms: waited.into(),
            connections,
            quiet: left == Left::Quiet,
            refused: None,
        });
        Ok(())
    }

    fn tell_left(
        &self,
        leave: &Leave,
        left: Left,
        waited: Duration,
        connections: u64,
        record: &mut Record,
    ) {
        let ports = self.plan.gated().ports.brief();
        let came = counted(connections, "new connection");
        match left {
            Left::Quiet => self.say.result(&format!(
                "left the load balancer in {}: {came} to {ports}, and then none for {}",
                ms_words(waited),
                humantime::format_duration(leave.quiet)
            )),
            Left::TimedOut => record.warnings.warn(
                self.say,
                format!(
                    "--leave-timeout {} is over, and the load balancer may still send connections here: \
                     {came} to {ports}, and no {} passed without any; the run goes on",
                    humantime::format_duration(leave.timeout),
                    humantime::format_duration(leave.quiet)
                ),
            ),
        }
    }

    /// As long as nothing is gated, a signal ends the run, USR1 too.
    fn pause(&self, until: Instant) -> Result<(), Ending> {
        while let Some(caught) = self.signals.wait(Some(until)) {
            match caught {
                Caught::Stop(signal, sender) => {
                    return Err(Ending::interrupted_before(signal, sender));
                }
                Caught::OpenNow => {
                    return Err(Ending::not_run(
                        "opened_early",
                        "SIGUSR1 ended --leave: COMMAND was not run",
                    ));
                }
                Caught::Child | Caught::Readable => (),
            }
        }
        Ok(())
    }

    fn keep_refusing(&self, gate: &mut Gate, record: &mut Record) {
        for text in keep_refusing(gate) {
            record.warnings.warn(self.say, text);
        }
    }
}

/// Refuses again if others have removed the rules, and replaces a watchdog that is lost. Returns what to warn of.
pub(super) fn keep_refusing(gate: &mut Gate) -> Vec<String> {
    let mut warnings = Vec::new();
    match gate.keep_watched() {
        Ok(None) => (),
        Ok(Some(lost)) => warnings.push(lost),
        Err(error) => warnings.push(format!(
            "{error:#}: if syngate is killed now too, health checks are refused until the kernel ends that"
        )),
    }
    let over = Instant::now() >= gate.deadline();
    if over || gate.shut().is_empty() || !gate.exposed() || gate.intact() {
        return warnings;
    }
    let ports = gate.shut().clone();
    warnings.push(match gate.shut_only(ports) {
        Ok(()) => {
            "another program removed or changed the rules of --leave: syngate has made them anew, and \
             health checks are refused again".to_owned()
        }
        Err(error) => format!(
            "another program removed or changed the rules of --leave, and syngate can't make them anew, so \
             health checks are answered: {error:#}"
        ),
    });
    warnings
}

//! Closes the gate.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::action::contract::{Action, Means, Prepared, Seen};
use crate::action::drop::Dropping;
use crate::decide::config::OpenOn;
use crate::decide::state::State;
use crate::gate::backend::{Deadline, Remark};
use crate::gate::backends;
use crate::gate::door::Door;
use crate::gate::gate::Gate;
use crate::gate::kinds::Choice;
use crate::gate::rules::Rules;
use crate::gate::settings::Settings;
use crate::gate::who::Who;
use crate::kernel::room::probe;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::netns::Netns;
use crate::kernel::sockets::{Looks, Sample};
use crate::process::meanwhile::Meanwhile;
use crate::run::call::Call;
use crate::run::plan::Plan;
use crate::run::record::{NotTaken, Record};
use crate::words::ending::Ending;
use crate::words::ready::Ready;
use crate::words::scope::Where;
use crate::words::steer::Steer;

pub(super) struct Closing {
    /// Declared before the gate, so that it is dropped first.
    pub action: Box<dyn Action>,
    /// `None`: the gate can't be closed, and `--best-effort` was given.
    pub gate: Option<Gate>,
    /// Without a gate, the time when it would have closed.
    pub closed_at: Instant,
    /// Where the gate's rules steer SYNs, if it has any.
    pub steer: Option<Steer>,
    /// By which `--drain-cmd`, `--ready-check` or `--ready-url` passes the gate's rules.
    pub door: Option<Door>,
}

impl Closing {
    /// The first state of the run's decisions. `before` was seen just before the gate closed.
    pub(super) fn state(&self, plan: &Plan, before: &Sample) -> State {
        let gate = self.gate.as_ref();
        let policy = self.action.policy(self.closed_at);
        let deadline = gate.map(Gate::deadline);
        let mut config = plan.config.clone();
        if self.action.opens_when_ready() && !config.ready_timeout.is_zero() {
            config.open_on = OpenOn::Ready;
        }
        if !self.action.drains() {
            config.drain = Duration::ZERO;
        }
        let mut state = State::new(config, before, self.closed_at, deadline, policy);
        if gate.is_some_and(Gate::exposed) {
            state.guard();
        }
        state
    }
}

impl Call<'_> {
    /// Looks at the listeners a last time and closes the gate.
    ///
    /// # Errors
    /// The gate is still open.
    pub(super) fn close(
        &self,
        prepared: &dyn Prepared,
        sockets: &mut Sockets,
        looking_since: Instant,
        record: &mut Record,
    ) -> Result<Closing, Ending> {
        if !self.plan.config.drain.is_zero() {
            self.watch_for_cookies(sockets, looking_since)?;
        }
        self.look(sockets, record)?;
        self.warn_of_forgotten_ports(sockets, record);
        self.warn_of_what_is_not_here(record);
        // The last check for a signal before anything is changed.
        self.signals.until(Instant::now())?;
        close(self, prepared, sockets.netns(), record)
    }
}

fn close(
    call: &Call,
    prepared: &dyn Prepared,
    netns: Option<&Netns>,
    record: &mut Record,
) -> Result<Closing, Ending> {
    let closed = close_with_first(prepared, call, netns, record);
    match closed {
        Ok(closed) => {
            if let Some(gate) = &closed.gate {
                note_remarks(gate, call, record);
                call.warn_of_vrfs(closed.steer, gate.backend(), record);
            }
            Ok(closed)
        }
        Err(error) if call.plan.config.best_effort => {
            let text = format!(
                "the gate can't be closed, and COMMAND runs without it (--best-effort): {error:#}"
            );
            call.say.error(&format!("warning: {text}"));
            record.warnings.note(text);
            Ok(Closing {
                action: Box::new(Dropping),
                gate: None,
                closed_at: Instant::now(),
                steer: None,
                door: None,
            })
        }
        Err(error) => Err(Ending::not_run(
            "close_failed",
            format!("the gate can't be closed, and COMMAND was not run: {error:#}"),
        )),
    }
}

/// Tries one action after the other, if there are several.
fn close_with_first(
    prepared: &dyn Prepared,
    call: &Call,
    netns: Option<&Netns>,
    record: &mut Record,
) -> Result<Closing> {
    let mut tried = prepared;
    loop {
        let error = match close_with(tried, call, netns, record) {
            Ok(closed) => {
                tell_choice(tried, call, record);
                return Ok(closed);
            }
            Err(error) => error,
        };
        let Some(other) = tried.otherwise() else {
            return Err(error);
        };
        if let Some(regret) = other.regret() {
            record
                .warnings
                .warn(call.say, format!("{regret}: {error:#}"));
            tell_harm(call, "--syn drop", record);
        }
        let action = tried.chosen().unwrap_or(record.action);
        let why = format!("{error:#}");
        record.not_taken.push(NotTaken { action, why });
        tried = other;
    }
}

/// Which action was taken, and why not another one: with `-v`, and always where the kernel is no reason.
fn tell_choice(taken: &dyn Prepared, call: &Call, record: &Record) {
    let Some(name) = taken.chosen() else {
        return;
    };
    let others = record.not_taken.iter();
    let others: Vec<String> = others
        .map(|other| format!("{}: {}", other.action, other.why))
        .collect();
    if others.is_empty() {
        let first = format!("--syn auto: {name}, since it can be done here");
        return call.say.phase(&first);
    }
    let others = others.join("; ");
    let words = format!("--syn auto: {name}, since others can't be done here: {others}");
    match probe::is_new_enough() {
        true => call.say.result(&words),
        false => call.say.phase(&words),
    }
}

/// Starts the action first, so that the queue exists when the first SYN arrives.
fn close_with(
    prepared: &dyn Prepared,
    call: &Call,
    netns: Option<&Netns>,
    record: &mut Record,
) -> Result<Closing> {
    let (plan, say) = (call.plan, call.say);
    let name = prepared.chosen().unwrap_or(plan.action.name());
    let mut action = prepared.begin(&Seen {
        gated: plan.gated(),
        before: &record.before,
        netns,
        run: &record.run,
        who: &Who::me(name, &plan.command_line()),
    })?;
    action.closing(say);
    let until = Instant::now() + plan.max_closed;
    let (gate, steer, door) = match action.means() {
        Means::Rules(steer) => {
            let door = door(call, steer, record);
            let by = (steer, action.meanwhile());
            let gate = close_by_rules(call, by, door.is_some(), until, record)?;
            (gate, Some(steer), door)
        }
        Means::Own(backend) => {
            let gate = Gate::close(backend, &plan.gated().ports, until)?;
            (gate, None, None)
        }
    };
    say.must_not_block();
    record.backend = Some(gate.backend());
    record.action = steer.map_or(name, Steer::action);
    say.phase(&format!(
        "{} {} ({}{})",
        action.begun(),
        plan.gated().ports.brief(),
        gate.backend(),
        action.closed_words()
    ));
    Ok(Closing {
        action,
        closed_at: gate.closed_at(),
        gate: Some(gate),
        steer,
        door,
    })
}

/// What `--drain-cmd`, `--ready-check` or `--ready-url` passes the rules by. Where it can't be had, a command line
/// waits as all others do.
fn door(call: &Call, steer: Steer, record: &mut Record) -> Option<Door> {
    let plan = call.plan;
    let line = match (&plan.ready, &plan.drain_cmd) {
        _ if plan.gated().scope.allow_local => return None,
        (Some(Ready::Check(_)), _) => "--ready-check",
        (_, Some(_)) => "--drain-cmd",
        (Some(Ready::Url(_)), None) => return Some(Door::Mark),
        (None, None) => return None,
    };
    match Door::make(&record.run) {
        Ok(door) => return Some(door),
        Err(error) => call.say.phase(&format!(
            "{line} can't pass the gate's rules here: {error:#}"
        )),
    }
    if let Steer::Redirect(_) = steer {
        record.warnings.warn(
            call.say,
            format!(
                "{line}: its connections to this host itself go to the standby; with --allow-local they \
                 reach the service"
            ),
        );
    }
    matches!(plan.ready, Some(Ready::Url(_))).then_some(Door::Mark)
}

fn close_by_rules(
    call: &Call,
    (steer, meanwhile): (Steer, Meanwhile),
    passes_marked: bool,
    until: Deadline,
    record: &mut Record,
) -> Result<Gate> {
    let (plan, say) = (call.plan, call.say);
    call.tell_place(record);
    let rules = Rules {
        passes_marked,
        ..plan.rules(steer)
    };
    let settings = Settings {
        meanwhile,
        ..plan.settings(&record.run, steer)
    };
    let backend = plan.backend.of(steer);
    let closed = backends::close(backend, &settings, &rules, until);
    let closed = closed.map_err(|error| plan.backend.failed(steer, error));
    let (gate, lacking) = closed.or_else(|error| {
        if !plan.gated().early {
            return Err(error);
        }
        let text = format!(
            "the gate is in the input hook, since it can't be in an earlier one: {error:#}"
        );
        record.warnings.warn(say, text);
        tell_harm(call, "--syn hold", record);
        let mut rules = rules.clone();
        rules.scope.hook = Where::Input;
        rules.passes_proxied = false;
        backends::close(backend, &settings, &rules, until)
    })?;
    match plan.backend.why_another(steer) {
        Some(why) if plan.backend.is_named() => record.warnings.warn(say, why),
        Some(why) => say.phase(&why),
        None if backend == Choice::Auto => say.phase(&why_taken(gate.backend(), &lacking)),
        None => (),
    }
    Ok(gate)
}

pub(super) fn note_remarks(gate: &Gate, call: &Call, record: &mut Record) {
    for remark in gate.remarks() {
        match remark {
            Remark::Warning(text) => record.warnings.warn(call.say, text.clone()),
            Remark::Drops(text) => {
                record.warnings.warn(call.say, text.clone());
                tell_harm(call, "--syn drop", record);
            }
            Remark::Detail(text) => call.say.phase(text),
        }
    }
}

/// SYNs are dropped in the input hook, against the plan.
fn tell_harm(call: &Call, better: &str, record: &mut Record) {
    let harm = call.plan.place.harm_of_dropping(better);
    harm.into_iter()
        .for_each(|text| record.warnings.warn(call.say, text));
}

/// The reason for the choice of `--backend auto`, for `-v`.
fn why_taken(backend: &str, lacking: &[String]) -> String {
    match lacking {
        [] => format!("--backend auto: {backend}, since it works here"),
        lacking => format!(
            "--backend auto: {backend}, since others do not work here: {}",
            lacking.join("; ")
        ),
    }
}

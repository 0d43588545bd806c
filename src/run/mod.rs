//! The story of a run, from the top to the bottom.
//!
//! Up to the closed gate an early end is an `Err(Ending)`, and nothing was changed. From there on
//! `decide` says what to do next, and `drive.rs` does it.

mod after;
mod beside;
mod call;
mod close;
mod drive;
mod dry_run;
pub(crate) mod plan;
mod prepare;
mod program;
mod record;
pub(crate) mod report;
mod while_closed;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use self::call::Call;
use self::close::close;
use self::drive::Run;
use self::plan::{Plan, Refused};
use self::record::Record;
use self::report::json::Report;
use crate::action::contract::{Before, Prepared};
use crate::cli::{Args, mistaken_variables};
use crate::decide::state::State;
use crate::gate::gate::Gate;
use crate::kernel::caps;
use crate::kernel::sockets::diag::Sockets;
use crate::process::signals::Signals;
use crate::process::{child, own_unit};
use crate::tell::say::{Level, Say, print};
use crate::words::ending::{Ending, Outcome};
use crate::words::exit::{Exit, NOT_FOUND};

/// Carries out one call. `started` is when syngate was.
pub fn run(args: &Args, started: Instant) -> Exit {
    let say = Say::new(level(args), started);
    let path = std::env::var_os("PATH");
    let planned = Plan::new(args, path.as_deref());
    let mut record = Record::new();
    for mistaken in mistaken_variables() {
        record.warnings.warn(&say, mistaken);
    }
    if args.dry_run {
        return dry_run(planned, &say);
    }
    let (plan, ending) = match planned {
        Ok(plan) => {
            let ending = surviving_bugs(&plan, &say, &mut record, started);
            (Some(plan), ending)
        }
        Err(refused) => (None, refusal(refused)),
    };
    tell(&ending, args, plan.as_ref(), &say, &record);
    ending.exit
}

/// A bug must not look like COMMAND's exit status: a panic ends as an ending of ours, after it has
/// dropped the guard, and so opened the gate, on its way here.
fn surviving_bugs(plan: &Plan, say: &Say, record: &mut Record, started: Instant) -> Ending {
    let carried_out = catch_unwind(AssertUnwindSafe(|| carry_out(plan, say, record, started)));
    match carried_out {
        Ok(Ok(ending) | Err(ending)) => ending,
        Err(_) => Ending::bug(record.command_was_run),
    }
}

/// Everything from the lock to the verdict. An early end is an error here: the gate was not closed.
fn carry_out(
    plan: &Plan,
    say: &Say,
    record: &mut Record,
    started: Instant,
) -> Result<Ending, Ending> {
    record.action = plan.action.name();
    if let Some(why) = own_unit::refusal_here(&plan.command) {
        return Err(Ending::not_run("own_unit", why));
    }
    if !plan.config.best_effort && !caps::net_admin() {
        return Err(Ending::not_run("privilege", caps::NEEDED));
    }
    let trouble = |error: std::io::Error| Ending::not_run("signals", format!("signalfd: {error}"));
    let signals = Signals::block().map_err(trouble)?;
    let gated = plan.gated();
    let sockets = Sockets::new(&gated.listener_ports(), &gated.listener_scope());
    let mut sockets = sockets.map_err(Ending::unseen)?;
    let mut looking_since = Instant::now();
    let environment = child::environment(&record.run);
    let call = Call {
        plan,
        say,
        signals: &signals,
        environment: &environment,
    };

    call.look_in_netns(&mut sockets)?;
    let lock = call.lock(record)?;
    call.sweep(&lock, record);
    call.precheck(record)?;
    if call.ask_for_netns(&mut sockets)? {
        looking_since = Instant::now();
    }
    let prepared = prepare(&call, &mut sockets, record)?;
    let closed = (|| {
        if !plan.config.drain.is_zero() {
            call.watch_for_cookies(&sockets, looking_since)?;
        }
        let before = call.look(&mut sockets, record)?;
        call.warn_of_interfaces(record);
        // A last look for a signal before something is changed.
        signals.until(Instant::now())?;
        Ok((before, close(&call, &*prepared, record)?))
    })();
    let (before, (gate, action)) = closed.inspect_err(|_| prepared.dismiss(say, &signals))?;

    let deadline = gate.as_ref().map(Gate::deadline);
    let closed_at = gate.as_ref().map_or_else(Instant::now, Gate::closed_at);
    record.closed_after = deadline.map(|_| closed_at - started);
    let exposed = gate.as_ref().is_some_and(Gate::exposed);
    let policy = action.policy(closed_at);
    let mut state = State::new(plan.config.clone(), &before, closed_at, deadline, policy);
    if exposed {
        state.guard();
    }
    let mut run = Run::new(&call, record, sockets, (gate, action), prepared);
    run.closed(&before);
    run.drive(&mut state);
    Ok(run.conclude(&state, &before))
}

/// Gets the action ready while nothing is gated yet.
fn prepare(
    call: &Call,
    sockets: &mut Sockets,
    record: &mut Record,
) -> Result<Box<dyn Prepared>, Ending> {
    let plan = call.plan;
    plan.action.prepare(&mut Before {
        gated: plan.gated(),
        say: call.say,
        signals: call.signals,
        sockets,
        warnings: &mut record.warnings,
        environment: call.environment,
        run: &record.run,
        command: &plan.command_line(),
        best_effort: plan.config.best_effort,
        ready_check: plan.ready_check.is_some(),
    })
}

fn refusal(refused: Refused) -> Ending {
    match refused {
        Refused::Options(why) => Ending::not_run("options", why),
        // It could not be written: once is enough to say so.
        Refused::ReportFile(why) => Ending::not_run("report_file", why),
        Refused::Command(why) => {
            let reason = match why.status() {
                NOT_FOUND => "not_found",
                _ => "not_executable",
            };
            Ending::not_run_with(why.status(), reason, why.to_string())
        }
    }
}

/// The line for people and the report for machines. The gate is gone; what is slow now, or blocks,
/// may be ended by a signal.
fn tell(ending: &Ending, args: &Args, plan: Option<&Plan>, say: &Say, record: &Record) {
    Signals::unblock();
    if let Some(file) = &args.report_file
        && ending.reason != "report_file"
    {
        let report = Report::new(&args.command, plan::ports(args), plan, record, ending);
        let json = report.to_json().map_err(Into::into);
        let written = json.and_then(|json| report::file::write(&json, &record.run, file));
        if let Err(error) = written {
            say.error(&format!("--report-file: {}: {error}", file.display()));
        }
    }
    say.may_block();
    match ending.outcome {
        Outcome::Ok => say.result(&ending.message),
        _ => say.error(&ending.message),
    }
}

fn dry_run(planned: Result<Plan, Refused>, say: &Say) -> Exit {
    match planned.and_then(|plan| dry_run::dry_run(&plan)) {
        Ok(text) => {
            print(&text);
            Exit::Status(0)
        }
        Err(refused) => {
            let ending = refusal(refused);
            say.error(&ending.message);
            ending.exit
        }
    }
}

fn level(args: &Args) -> Level {
    match (args.quiet, args.verbose) {
        (true, _) => Level::Errors,
        (_, true) => Level::Phases,
        _ => Level::Normal,
    }
}

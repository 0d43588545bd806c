//! One run, told in its order.
//!
//! Until the gate is closed, an early end is an `Err(Ending)` and nothing was changed. From then on
//! `decide` returns the next task, and `drive.rs` carries it out.

mod after;
mod backend;
#[cfg(test)]
mod bad_input;
mod balancer;
mod beside;
mod call;
mod close;
mod drive;
mod dry_run;
pub(crate) mod forgotten;
mod in_place;
pub(crate) mod leave;
mod met;
pub(crate) mod onlooker;
mod place;
pub(crate) mod plan;
mod prepare;
pub(crate) mod program;
mod record;
pub(crate) mod report;
mod scene;
#[cfg(test)]
mod simulation;
mod tell;
mod vrf;
pub(crate) mod way_round;
mod while_closed;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use self::call::Call;
use self::drive::Run;
use self::plan::Plan;
use self::record::Record;
use self::tell::{level, refusal, tell, tell_plan};
pub(crate) use self::tell::{print_call, refuse};
use self::world::Machine;
use crate::cli::{Args, mistaken_variables};
use crate::gate::standing;
use crate::kernel::sockets::diag::Sockets;
use crate::process::environment;
use crate::process::signals::Signals;
use crate::tell::say::Say;
use crate::words::ending::Ending;
use crate::words::exit::Exit;

/// Tells as much as the options ask for.
pub(crate) fn say(args: &Args, started: Instant) -> Say {
    Say::new(level(args), started)
}

/// `started` is the start time of syngate.
pub(crate) fn run(args: &Args, started: Instant) -> Exit {
    let say = say(args, started);
    let path = std::env::var_os("PATH");
    let planned = Plan::for_this_host(args, path.as_deref());
    let mut record = Record::new();
    for mistaken in mistaken_variables() {
        record.warnings.warn(&say, mistaken);
    }
    if args.options.dry_run {
        return tell_plan(planned, args.by_environment, &say);
    }
    let (plan, ending) = match planned.and_then(|plan| plan.that_can_report(&args.options)) {
        Ok(plan) => {
            let ending = surviving_bugs(&plan, &say, &mut record, started);
            (Some(plan), ending)
        }
        Err(refused) => (None, refusal(refused)),
    };
    tell(&ending, args, plan.as_ref(), &say, &record);
    ending.exit
}

/// A bug must not look like COMMAND's exit status. A panic drops the guard on its way here, which
/// opens the gate, and becomes an ending of syngate's.
fn surviving_bugs(plan: &Plan, say: &Say, record: &mut Record, started: Instant) -> Ending {
    let carried_out = catch_unwind(AssertUnwindSafe(|| carry_out(plan, say, record, started)));
    match carried_out {
        Ok(Ok(ending) | Err(ending)) => ending,
        Err(_) => Ending::bug(record.command_was_run),
    }
}

/// All steps from the lock to the verdict. An early end is an error: the gate was not closed.
fn carry_out(
    plan: &Plan,
    say: &Say,
    record: &mut Record,
    started: Instant,
) -> Result<Ending, Ending> {
    record.action = plan.action.name();
    plan.refuse_here()?;
    let trouble = |error: std::io::Error| Ending::not_run("signals", format!("signalfd: {error}"));
    let signals = Signals::block().map_err(trouble)?;
    let gated = plan.gated();
    let sockets = Sockets::new(&gated.listener_ports(), &gated.listener_scope());
    let mut sockets = sockets.map_err(Ending::unseen)?;
    let looking_since = Instant::now();
    let environment = environment::environment(&record.run);
    let call = Call {
        plan,
        say,
        signals: &signals,
        environment: &environment,
    };

    call.look_in_netns(&mut sockets)?;
    let lock = call.lock(record)?;
    call.sweep(&lock, record);
    call.take_back(record);
    let ending = under_lock(&call, sockets, looking_since, record, started);
    lock.remove(standing::may_be_left);
    ending
}

fn under_lock(
    call: &Call,
    mut sockets: Sockets,
    mut looking_since: Instant,
    record: &mut Record,
    started: Instant,
) -> Result<Ending, Ending> {
    call.await_keep(&record.run)?;
    call.precheck(record)?;
    if call.ask_for_netns(&mut sockets)? {
        looking_since = Instant::now();
    }
    let prepared = call.prepare_action(&mut sockets, record)?;
    let closed = call.leave(record).and_then(|leave| {
        let starter = call.starter()?;
        let closed = call.close(&*prepared, &mut sockets, looking_since, record)?;
        Ok((closed, starter, leave))
    });
    let (closed, starter, leave) =
        closed.inspect_err(|_| prepared.dismiss(call.say, call.signals))?;
    record.closed_after = closed.gate.as_ref().map(|gate| gate.closed_at() - started);
    let mut state = closed.state(call.plan, &record.before);
    let machine = Box::new(Machine::new(call, sockets, starter));
    let mut run = Run::new((call.plan, call.say), record, machine, closed, prepared);
    run.leave = leave;
    run.drive(&mut state);
    Ok(run.conclude(state))
}

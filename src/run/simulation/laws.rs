//! What holds in every course of a run, seen from outside.

use std::time::{Duration, Instant};

use super::model::{Fate, Model};
use crate::decide::facts::Facts;
use crate::decide::looks::GUARD_EVERY;
use crate::run::record::{Course, Record};
use crate::words::ending::{Ending, Outcome};

/// The account of times may be wrong by this much for each change of the gate, besides the time that the
/// calls took.
const SLACK: Duration = Duration::from_millis(1);

pub(super) fn check(model: &Model, ending: &Ending, record: &Record) {
    let Some(course) = &record.course else {
        panic!("a run that was driven has a course");
    };
    let reclosings = course.facts.reclosed;
    never_closed_for_too_long(model);
    nobody_is_refused_behind_an_ok(model, ending, record);
    command_is_told_of(model, &course.facts);
    times_add_up(model, course, reclosings);
    opens_for_a_reason(model, ending, &course.facts);
    what_a_look_has_seen_is_told(model, ending, record);
    what_is_told_as_closed_again_was(model, &course.facts);
}

fn never_closed_for_too_long(model: &Model) {
    let latest = model.latest();
    for span in model.spans.iter().filter(|span| span.fate == Fate::Stopped) {
        assert!(span.to <= latest, "{} is shut past --max-closed", span.port);
    }
    let gated = model.story.config.gated.ports.iter();
    let shut: Vec<u16> = gated.filter(|port| model.stops(*port)).collect();
    assert!(shut.is_empty(), "{shut:?} shut after the run");
}

/// A run that ends with `ok`, and has no warning that its rules were removed, has refused no client while
/// it held a port to be shut. Rules that are removed between its last look and a change are not noticed.
fn nobody_is_refused_behind_an_ok(model: &Model, ending: &Ending, record: &Record) {
    let warnings = record.warnings.noted();
    let warned = warnings
        .iter()
        .any(|text| text.contains("removed or changed the gate's rules"));
    if ending.outcome != Outcome::Ok || warned || model.fell_unseen || has_run_open(record) {
        return;
    }
    for span in model.spans.iter().filter(|span| span.fate == Fate::Refused) {
        for (port, from, to) in &model.held_shut_before {
            assert!(
                *port != span.port || span.to <= *from || *to <= span.from,
                "{port} refused clients from {:?} to {:?}, it was said to be shut from {:?} to {:?}: {}",
                span.from - model.base,
                span.to - model.base,
                *from - model.base,
                *to - model.base,
                ending.message,
            );
        }
    }
}

fn has_run_open(record: &Record) -> bool {
    record
        .course
        .as_ref()
        .is_some_and(|course| course.facts.ran_open)
}

fn command_is_told_of(model: &Model, facts: &Facts) {
    let started = model.starts > 0;
    assert_eq!(facts.started_at.is_some(), started, "whether COMMAND ran");
    let excused = facts.interrupted.is_some() || facts.not_run.is_some();
    assert!(started || excused, "nobody says why COMMAND did not run");
    assert!(
        facts.exited.is_none() || started,
        "COMMAND exited and was never started"
    );
}

/// The time that the report calls closed is the time in which the kernel stopped SYNs.
fn times_add_up(model: &Model, course: &Course, reclosings: u32) {
    let Some(told) = course.closed.time() else {
        panic!("the report does not say how long the gate was closed");
    };
    let met = time_stopped(model);
    let changes = model.held_shut_before.len() as u32 + reclosings + 2;
    // A closing that could not be read back counts from the next check of the rules on.
    let unread = match model.failures {
        0 => 0,
        _ => reclosings * 2,
    };
    let slack = model.changing + SLACK * changes + GUARD_EVERY * unread;
    let unknown = model.flushes > 0 || model.failures > 0;
    assert!(
        told + slack >= met,
        "closed for {met:?}, the report says {told:?} (± {slack:?})"
    );
    assert!(
        unknown || told <= met + slack,
        "closed for {met:?} only, the report says {told:?} (± {slack:?})"
    );
}

/// How long clients of any port were stopped.
fn time_stopped(model: &Model) -> Duration {
    let stopped = model.spans.iter().filter(|span| span.fate == Fate::Stopped);
    let mut spans: Vec<(Instant, Instant)> = stopped.map(|span| (span.from, span.to)).collect();
    spans.sort_unstable();
    let (mut total, mut end) = (Duration::ZERO, model.base);
    for (from, to) in spans {
        let from = from.max(end);
        total += to.saturating_duration_since(from);
        end = end.max(to);
    }
    total
}

/// A run that ends with `ok` has seen a listener on each port that had one, unless it was told not to
/// look, or USR1 told it to open.
fn opens_for_a_reason(model: &Model, ending: &Ending, facts: &Facts) {
    let looks = !model.story.config.ready_timeout.is_zero() && model.story.blind_looks == 0;
    let asked_to_open = facts.opened_early || facts.ran_open;
    if ending.outcome != Outcome::Ok || asked_to_open || !looks {
        return;
    }
    assert!(facts.exited.is_some(), "ok, and COMMAND has not exited");
    let Some(seen) = &model.seen_last else {
        panic!("ok, and nobody looked at the listeners");
    };
    for port in &model.story.had_listeners {
        assert!(
            seen.lasting(&model.sessions)
                .iter()
                .any(|l| l.port == *port),
            "{port} opened without a listener: {}",
            ending.message
        );
    }
}

/// A look at an open port sees that clients are refused if the listener has gone. A run that ends with `ok` warns of
/// that.
fn what_a_look_has_seen_is_told(model: &Model, ending: &Ending, record: &Record) {
    let looks = !model.story.config.ready_timeout.is_zero();
    if ending.outcome != Outcome::Ok || !looks || model.seen_deserted.is_empty() {
        return;
    }
    let warnings = record.warnings.noted();
    assert!(
        !warnings.is_empty(),
        "{:?} refused clients, as a look has seen, and nobody is told: {}",
        model.seen_deserted,
        ending.message
    );
}

/// A listener that ended late has closed its port again.
fn what_is_told_as_closed_again_was(model: &Model, facts: &Facts) {
    let Some((ports, since)) = &facts.late else {
        return;
    };
    for port in ports.iter().filter(|_| model.failures == 0) {
        let mut shut = model.held_shut_before.iter();
        assert!(
            shut.any(|(one, from, _)| *one == port && from >= since),
            "{port} is said to have been closed again after {:?}, and was not",
            *since - model.base
        );
    }
}

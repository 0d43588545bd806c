//! `--dry-run`: the plan as text, and the rules.

use std::fmt::Write as _;

use crate::action::contract::{Description, Rather};
use crate::action::rooms::looked::begins_with_rooms;
use crate::decide::config::{OpenOn, Settle};
use crate::gate::backends::script;
use crate::gate::kinds::{Choice, Kind};
use crate::kernel::sockets::Looks;
use crate::kernel::sockets::diag::Sockets;
use crate::run::plan::{Listeners, Plan, Refused};
use crate::words::ready::{Ready, To};
use crate::words::run_id::new_id;

/// The steps of the run in order, and its rules.
///
/// # Errors
/// The run is not possible on this host.
pub(crate) fn dry_run(plan: &Plan) -> Result<String, Refused> {
    let steer = plan.action.steer();
    let steer = steer.map_err(|error| Refused::Options(format!("{error:#}")))?;
    let kind = |choice: Choice| choice.kinds().first().copied().unwrap_or(Kind::Nft);
    let leave = plan.leave.as_ref().map(|leave| {
        let (rules, settings) = (plan.leave_rules(leave), plan.leave_settings(&new_id()));
        let kind = kind(plan.backend.given);
        script(kind, &rules, &settings, plan.leaves_for(leave)) + "\n"
    });
    let leave = leave.unwrap_or_default();
    let Some(steer) = steer else {
        return Ok(format!("{}\n{leave}", describe(plan, true)));
    };
    let kind = kind(plan.backend.of(steer));
    let settings = plan.settings(&new_id(), steer);
    let rules = || script(kind, &plan.rules(steer), &settings, plan.max_closed);
    let rather = plan.action.describe(plan.gated()).rather;
    let first = rather.map(|first| (first.name, begins_with(plan, first)));
    let by_rules = !matches!(first, Some((_, Some(Ok(())))));
    let rules = match first {
        None => rules(),
        Some((first, Some(Ok(())))) => format!(
            "# no rules: {first} can be done here, and has none (--syn {} shows the rules where it can't)\n",
            steer.action()
        ),
        Some((first, Some(Err(why)))) => {
            format!(
                "# the rules, since {first} can't be done here ({why}):\n{}",
                rules()
            )
        }
        Some((first, None)) => {
            format!(
                "# the rules, only if {first} can't be done here:\n{}",
                rules()
            )
        }
    };
    Ok(format!("{}\n{leave}{rules}", describe(plan, by_rules)))
}

/// Whether the action that is tried first can be done for who listens now. `None`: that can't be told.
fn begins_with(plan: &Plan, first: Rather) -> Option<Result<(), String>> {
    let gated = plan.gated();
    let sockets = Sockets::new(&gated.listener_ports(), &gated.listener_scope());
    let mut sockets = sockets.ok()?;
    match &plan.listeners {
        Listeners::Here => (),
        Listeners::In(netns) => sockets.look_in(netns).ok()?,
        Listeners::From(_) => return None,
    }
    begins_with_rooms(&mut sockets, first.minds_cookies)
}

/// `by_rules`: the gate may have rules.
fn describe(plan: &Plan, by_rules: bool) -> String {
    let action = plan.action.describe(plan.gated());
    let (closed, opening) = (closed(plan, &action, by_rules), opening(plan, &action));
    let leaving = plan.leave.iter();
    let leaving = leaving.flat_map(|leave| leave.lines(&plan.gated().ports));
    let before = [before(plan), action.before, leaving.collect()].concat();
    let lines = [before, closed, opening, action.after];
    let mut text = String::new();
    for line in lines.iter().flatten() {
        let _ = writeln!(text, "# {line}");
    }
    text
}

fn before(plan: &Plan) -> Vec<String> {
    let mut lines = vec![format!(
        "lock {} (wait for another run at most {})",
        plan.gated().ports.brief(),
        humantime::format_duration(plan.lock_timeout)
    )];
    if let Some(check) = &plan.precheck {
        let check = check.to_string_lossy();
        lines.push(format!("precheck, gate open: sh -c '{check}'"));
    }
    lines
}

fn closed(plan: &Plan, action: &Description, by_rules: bool) -> Vec<String> {
    let config = &plan.config;
    let narrowed = match plan.gated().scope.to_string() {
        all if all.is_empty() => all,
        options => format!(", {options}"),
    };
    let mut lines = vec![format!(
        "close {} to new connections{narrowed}{} (opened by {} after {})",
        plan.gated().ports.brief(),
        action.close,
        action.opener,
        humantime::format_duration(plan.max_closed)
    )];
    if by_rules {
        lines.extend(about_rules(plan));
    }
    if let Some(line) = &plan.drain_cmd {
        let line = line.to_string_lossy();
        lines.push(format!(
            "meanwhile tell the service to say goodbye: sh -c '{line}'"
        ));
    }
    if !config.drain.is_zero() && action.drains {
        let until = clap::ValueEnum::to_possible_value(&config.drain_until);
        let until = until.as_ref().map_or("", |v| v.get_name());
        let drain = humantime::format_duration(config.drain);
        let unless = action.rather.filter(|first| !first.drains);
        let unless = unless.map(|first| format!(", unless it is {}", first.name));
        let unless = unless.unwrap_or_default();
        lines.push(format!(
            "drain at most {drain} until {until} are over{unless}"
        ));
    }
    lines.push(format!("run {}", plan.command_line()));
    match &plan.listeners {
        Listeners::Here => (),
        Listeners::In(netns) => lines.push(format!("look for listeners in the namespace {netns}")),
        Listeners::From(from) => lines.push(format!(
            "look for listeners in the namespace that sh -c '{}' names",
            from.to_string_lossy()
        )),
    }
    lines
}

/// Which program makes the rules, and at which hook. Nothing if both are the usual ones.
fn about_rules(plan: &Plan) -> Vec<String> {
    let steer = plan.action.steer().ok().flatten();
    let another = steer.and_then(|steer| plan.backend.why_another(steer));
    let mut lines: Vec<String> = { another.into_iter() }
        .map(|why| match plan.backend.is_named() {
            true => format!("warning: {why}"),
            false => why,
        })
        .collect();
    lines.extend(plan.place.why.clone());
    let warnings = plan.place.warnings.iter();
    lines.extend(warnings.map(|warning| format!("warning: {warning}")));
    lines
}

fn opening(plan: &Plan, action: &Description) -> Vec<String> {
    let config = &plan.config;
    let gated = plan.gated();
    let mut lines = Vec::new();
    let when_ready = action.opens_when_ready && !config.ready_timeout.is_zero();
    if config.open_on == OpenOn::Ready || when_ready {
        lines.push("meanwhile open each port that a new process listens on".to_owned());
    }
    if !config.ready_timeout.is_zero() {
        let of = match gated.listen_ports.is_plain() {
            true => String::new(),
            false => format!(" of {}", gated.listen_ports.shown(&gated.ports)),
        };
        let timeout = humantime::format_duration(config.ready_timeout);
        lines.push(format!("wait at most {timeout} for listeners{of}"));
    }
    match &plan.ready {
        Some(Ready::Check(line)) => {
            let line = line.to_string_lossy();
            lines.push(format!("and until this succeeds: sh -c '{line}'"));
        }
        Some(Ready::Url(url)) => lines.push(match url.to {
            To::Http(_) => format!("and until {url} answers with a status from 200 to 299"),
            To::Tcp(_) => format!("and until {url} takes a connection"),
        }),
        None => (),
    }
    let open = &action.open;
    lines.push(match config.settle {
        Settle::Auto => format!("settle as long as the sockets still change, {open}"),
        Settle::Fixed(settle) => {
            let settle = humantime::format_duration(settle);
            format!("settle for {settle}, {open}")
        }
    });
    lines
}

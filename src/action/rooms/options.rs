//! What the actions with rooms ask of the command line.

use std::num::NonZeroU32;

use crate::action::contract::{Request, is_given};
use crate::decide::config::OpenOn;
use crate::gate::kinds::Choice;
use crate::words::scope::Where;

/// Options of `--syn hold` that rooms have, too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RoomOptions {
    pub max_held: u32,
    pub release_rate: Option<NonZeroU32>,
    /// There is a `--ready-check` or a `--ready-url`.
    pub checks: bool,
    /// `--syn` names the action, so no other one is tried.
    pub named: bool,
}

impl RoomOptions {
    /// How they are handed over, for `--dry-run`.
    pub(crate) fn hand_over(&self) -> String {
        match self.release_rate {
            None => "hand the waiting connections over to the service".to_owned(),
            Some(rate) => {
                format!("hand the waiting connections over to the service, {rate} a second")
            }
        }
    }
}

/// Options that would have no effect, and why.
pub(crate) type Idle = &'static [(&'static str, &'static str)];

const IN_SOCKETS: &str =
    "connections wait in sockets, and no SYN in a queue; leave it out, or use --syn hold";
/// Those of `--syn hold` alone.
const OF_HOLD: Idle = &[
    ("max-held-per-source", IN_SOCKETS),
    ("queue-num", IN_SOCKETS),
    ("release-timeout", IN_SOCKETS),
];

/// `idle`: the options that have no effect with this action, besides those of hold.
///
/// # Errors
/// Rooms make no sense with the other options: one line that says why.
pub(crate) fn room_options(
    action: &str,
    idle: Idle,
    request: &Request,
) -> Result<RoomOptions, String> {
    if let Some(option) = about_rules(request) {
        return Err(format!(
            "--syn {action} and {option} exclude each other: connections wait in sockets, and no rule tells \
             them apart; leave {option} out, or use --syn hold"
        ));
    }
    // The others that are tried may need them.
    let mut idle = OF_HOLD.iter().chain(idle).filter(|_| request.named);
    let given = idle.find(|(option, _)| is_given(request.given, &option.replace('-', "_")));
    if let Some((option, why)) = given {
        return Err(format!(
            "--syn {action} and --{option} exclude each other: {why}"
        ));
    }
    Ok(RoomOptions {
        max_held: request.given.get_one("max_held").copied().unwrap_or(1),
        release_rate: request.given.get_one("release_rate").copied(),
        checks: ["ready_check", "ready_url"]
            .iter()
            .any(|id| is_given(request.given, id)),
        named: request.named,
    })
}

/// # Errors
/// `--open-on exit` was given, and ports open when the service listens.
pub(crate) fn opens_when_ready(action: &str, request: &Request) -> Result<(), String> {
    let exit = request.given.get_one("open_on") == Some(&OpenOn::Exit);
    match request.named && exit && is_given(request.given, "open_on") {
        true => Err(format!(
            "--syn {action} and --open-on exit exclude each other: a port opens as soon as its service listens; \
             leave out --open-on, or use --syn hold"
        )),
        false => Ok(()),
    }
}

fn about_rules(request: &Request) -> Option<&'static str> {
    let scope = &request.gated.scope;
    [
        (request.backend != Choice::Auto, "--backend"),
        (!scope.interfaces.is_empty(), "--interface"),
        (!scope.allow_from.is_empty(), "--allow-from"),
        (scope.allow_local, "--allow-local"),
        (scope.hook == Where::Prerouting, "--hook prerouting"),
    ]
    .into_iter()
    .find_map(|(given, option)| given.then_some(option))
}

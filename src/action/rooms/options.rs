//! What the actions with rooms ask of the command line.

use std::num::NonZeroU32;

use crate::action::contract::Request;
use crate::gate::kinds::Choice;
use crate::words::scope::Where;

/// Options of `--syn hold` that rooms have, too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RoomOptions {
    pub max_held: u32,
    pub release_rate: Option<NonZeroU32>,
}

impl RoomOptions {
    /// How they are handed over, for `--dry-run`.
    pub(crate) fn hand_over(&self) -> String {
        match self.release_rate {
            None => "hand those who wait over to the service".to_owned(),
            Some(rate) => format!("hand those who wait over to the service, {rate} a second"),
        }
    }
}

/// # Errors
/// Rooms make no sense with the other options: one line that says why.
pub(crate) fn room_options(action: &str, request: &Request) -> Result<RoomOptions, String> {
    match about_rules(request) {
        None => Ok(RoomOptions {
            max_held: request.given.get_one("max_held").copied().unwrap_or(1),
            release_rate: request.given.get_one("release_rate").copied(),
        }),
        Some(option) => Err(format!(
            "--syn {action} and {option} exclude each other: connections wait in sockets, and no rule tells \
             them apart; leave {option} out, or take --syn hold"
        )),
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

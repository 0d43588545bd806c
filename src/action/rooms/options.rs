//! What the actions with rooms ask of the command line.

use crate::action::contract::Request;
use crate::gate::kinds::Choice;
use crate::words::scope::Where;

/// `--max-held`, an option of `--syn hold`, too.
///
/// # Errors
/// Rooms make no sense with the other options: one line that says why.
pub(crate) fn max_held(action: &str, request: &Request) -> Result<u32, String> {
    match about_rules(request) {
        None => Ok(request.given.get_one("max_held").copied().unwrap_or(1)),
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

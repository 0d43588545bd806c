//! What the actions share that steer connections elsewhere, to a standby or a peer: their options, and
//! what people are told of these connections.

use std::time::Duration;

use super::contract::{HEADING, Now};
use crate::decide::policy::{LingerEnd, Noted};
use crate::words::count::{counted, counted_does};
use crate::words::duration::duration;

/// Options of the actions that steer connections elsewhere.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LingerOptions {
    /// redirect, divert: max. time to finish there
    ///
    /// How long connections to the standby, or the peer, may take to finish once the gate is open.
    #[arg(long, value_name = "DUR", env = "SYNGATE_LINGER", default_value = "1m", value_parser = duration, allow_hyphen_values = true, hide_short_help = true, help_heading = HEADING)]
    pub linger: Duration,
}

/// Warns if other programs have removed the rules during the linger: then the steered connections
/// are broken.
pub(crate) fn warn_if_fallen(now: &mut Now) {
    let gate = now.gate.as_deref_mut();
    if gate.is_some_and(|gate| gate.exposed() && !gate.intact()) {
        now.warn(
            "another program removed or changed the gate's rules while connections to the standby or the \
             peer still finished: they may have been cut"
                .to_owned(),
        );
    }
}

/// Warns of connections that were cut; `apart` qualifies the count.
pub(crate) fn warn_of_cut(
    place: &str,
    left: Option<usize>,
    noted: &Noted,
    linger: Duration,
    apart: &str,
    now: &mut Now,
) {
    let (Some(lingered), Some(left @ 1..)) = (noted.lingered, left) else {
        return;
    };
    let linger = humantime::format_duration(linger);
    let why = match lingered.end {
        LingerEnd::Stopped => "when a signal ended --linger".to_owned(),
        _ => format!("when --linger {linger} was over"),
    };
    let some = counted_does(left, "connection", ["was", "were"]);
    now.warn(format!(
        "{some} still on the {place} {why}, and may have been cut{apart}"
    ));
}

/// The text about connections steered to `place`, and about those that did not finish.
pub(crate) fn went(all: Option<u64>, place: &str, cut: Option<usize>) -> String {
    let connections = match all {
        None => "new connections".to_owned(),
        Some(0) => "no connection".to_owned(),
        Some(n) => counted(n, "connection"),
    };
    let fate = match cut {
        Some(n @ 1..) => format!(", {n} of them cut"),
        _ => String::new(),
    };
    format!("{connections} went to {place}{fate}")
}

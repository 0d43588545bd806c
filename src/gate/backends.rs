//! The functions that need to know all kinds of backends.

use std::ffi::OsStr;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::backend::{Backend, Deadline};
use super::gate::Gate;
use super::iptables;
use super::iptables::backend::Iptables;
use super::iptables::present::default_variant;
use super::iptables::programs::Programs;
use super::kinds::{Choice, Kind, Variant};
use super::nft;
use super::nft::backend::Nft;
use super::rules::Rules;
use super::settings::Settings;
use super::watchdog::{self, WatchOrders};
use crate::words::lacking::Lacking;

/// Whether the programs that the chosen backend needs are installed.
///
/// # Errors
/// One line that says what is missing.
pub(crate) fn installed(choice: Choice, path: Option<&OsStr>) -> Result<(), String> {
    match choice.kinds()[..] {
        [Kind::Iptables(variant)] => Programs::of(variant, path).map(drop),
        _ => Ok(()),
    }
}

/// The choice for a gate that holds SYNs. On a kernel without nft's expression `queue`, a rule in
/// nf_tables would need the x_tables target NFQUEUE, also by iptables-nft. nft(8) lists that as a rule that such a
/// kernel refuses. If somebody saved the ruleset meanwhile, it could not be loaded again.
pub(crate) fn to_hold(given: Choice) -> Choice {
    let is_legacy = match given {
        Choice::IptablesLegacy => true,
        Choice::Iptables => default_variant() == Some(Variant::Legacy),
        Choice::Auto | Choice::Nft | Choice::IptablesNft => false,
    };
    match is_legacy || nft::probe::has_queue_expression() {
        true => given,
        false => Choice::IptablesLegacy,
    }
}

/// Closes the gate with the first backend that works here. Returns the gate, and why the backends
/// before it did not work.
///
/// # Errors
/// The gate is still open.
pub(crate) fn close(
    choice: Choice,
    settings: &Settings,
    rules: &Rules,
    until: Deadline,
) -> Result<(Gate, Vec<String>)> {
    let kinds = choice.kinds();
    let mut lacking = Vec::new();
    for kind in &kinds {
        let closed = open(*kind, settings, rules)
            .and_then(|backend| Gate::close(backend, &rules.ports, until));
        match closed {
            Ok(gate) => return Ok((gate, lacking)),
            // The host lacks something that only this backend needs: try the next one.
            Err(error) if error.is::<Lacking>() && kinds.len() > 1 => {
                lacking.push(format!("{}: {error:#}", kind.name()));
            }
            Err(error) if lacking.is_empty() => return Err(error),
            Err(error) => lacking.push(format!("{}: {error:#}", kind.name())),
        }
    }
    Err(anyhow!("{}", lacking.join("; ")))
}

/// Changes nothing in the kernel.
fn open(kind: Kind, settings: &Settings, rules: &Rules) -> Result<Box<dyn Backend>> {
    Ok(match kind {
        Kind::Nft => Box::new(Nft::new(settings, rules)?),
        Kind::Iptables(variant) => Box::new(Iptables::new(variant, settings, rules)?),
    })
}

/// Removes the rules that run `id` has made with this kind of backend. It is no error if there are
/// none.
///
/// # Errors
/// Rules may be left.
pub(crate) fn erase(kind: Kind, id: &str) -> Result<()> {
    match kind {
        Kind::Nft => nft::backend::erase(id),
        Kind::Iptables(variant) => iptables::erase::erase(variant, id),
    }
}

/// The rules as this kind of backend would make them, in the syntax of nft(8) or
/// iptables-restore(8).
pub(crate) fn script(
    kind: Kind,
    rules: &Rules,
    settings: &Settings,
    max_closed: Duration,
) -> String {
    let comment = settings.who.to_string();
    match kind {
        Kind::Nft => nft::compile::compile(rules, &settings.run, &comment).script(max_closed),
        Kind::Iptables(variant) => {
            iptables::compile::script(variant, rules, &settings.run, &comment, max_closed)
        }
    }
}

/// Runs the watchdog process until the run is over.
pub(crate) fn watch(orders: &WatchOrders) {
    watchdog::watch(orders.within, || erase(orders.kind, &orders.run));
}

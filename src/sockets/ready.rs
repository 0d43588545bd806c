//! Does the service listen again? Decided for each port and IP version from the listeners before
//! and now, known by their cookies. Pure.

use super::{Family, Listener};

/// What became of one port's listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// There were none to wait for.
    Unwatched,
    /// Every old listener is gone and a new one is there: the new process listens.
    Replaced,
    /// An old listener is still there: handed on to the new process, or not given up yet.
    Inherited {
        /// It is one of several in the same place (SO_REUSEPORT): the others may still go away.
        group: bool,
    },
    /// There were some, and there is none.
    Waiting,
}

/// What became of a port, from its listeners before and now: the worst of its IP versions.
pub fn readiness(before: &[Listener], now: &[Listener]) -> Readiness {
    let over = |family| {
        let of = |all: &[Listener]| -> Vec<Listener> {
            all.iter().filter(|l| l.serves(family)).cloned().collect()
        };
        one_family(&of(before), &of(now))
    };
    over(Family::V4).max(over(Family::V6))
}

fn one_family(before: &[Listener], now: &[Listener]) -> Readiness {
    let survives = |old: &Listener| now.iter().any(|new| new.cookie == old.cookie);
    if before.is_empty() {
        Readiness::Unwatched
    } else if now.is_empty() {
        Readiness::Waiting
    } else if before.iter().any(survives) {
        let group = has_group(before) || has_group(now);
        Readiness::Inherited { group }
    } else {
        Readiness::Replaced
    }
}

/// Whether several listeners stand in the same place: a SO_REUSEPORT group.
pub fn has_group(listeners: &[Listener]) -> bool {
    listeners
        .iter()
        .enumerate()
        .any(|(n, one)| listeners[..n].iter().any(|other| one.same_place(other)))
}

/// The places of `before` that nothing in `now` covers any more, each once, in order.
pub fn uncovered<'a>(
    before: impl IntoIterator<Item = &'a Listener>,
    now: &[Listener],
) -> Vec<String> {
    let covered = |old: &&Listener| now.iter().any(|new| new.covers(old));
    places(before.into_iter().filter(|old| !covered(old)))
}

/// The places, each once, in order.
pub fn places<'a>(listeners: impl IntoIterator<Item = &'a Listener>) -> Vec<String> {
    let mut sorted: Vec<_> = listeners.into_iter().map(|l| (l.port, l.address)).collect();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
        .into_iter()
        .map(|(port, address)| std::net::SocketAddr::new(address, port).to_string())
        .collect()
}

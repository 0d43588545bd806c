//! A second instance of the service that could listen beside the first one only because of syngate.

use std::collections::BTreeSet;

use super::groups::Rooms;
use crate::kernel::sockets::holders::names;
use crate::kernel::sockets::{Listener, Sample};
use crate::words::ending::Failure;
use crate::words::family::Family;

impl Rooms {
    /// Two listeners where there could be one only without syngate, and one of them came meanwhile. If COMMAND did
    /// not stop the old instance, a restart without syngate would have failed: the address is in use.
    pub(super) fn second_instance(&mut self) -> Option<Failure> {
        // Most often nobody has come without SO_REUSEPORT, and there is nothing to look for.
        let came: BTreeSet<u64> = self.bindings.as_ref()?.all().map(|(id, _)| id).collect();
        if came.is_empty() {
            return None;
        }
        let there = self.everywhere().ok()?;
        let lent = there.listeners.iter().filter(|one| self.is_lent(one));
        let lent: BTreeSet<u64> = lent.map(|one| one.id.cookie).collect();
        let (one, other) = beside_each_other(&there.listeners, &came, &lent)?;
        Some(Failure {
            reason: "second_instance",
            why: words(&there, [one, other], &came),
        })
    }
}

/// The first two listeners on one address of which at least one has come during the run, and at least one has
/// SO_REUSEPORT from syngate.
fn beside_each_other<'a>(
    all: &'a [Listener],
    came: &BTreeSet<u64>,
    lent: &BTreeSet<u64>,
) -> Option<(&'a Listener, &'a Listener)> {
    let any = |of: &BTreeSet<u64>, pair: (&Listener, &Listener)| {
        of.contains(&pair.0.id.cookie) || of.contains(&pair.1.id.cookie)
    };
    let pairs = (1..all.len()).flat_map(|n| all[..n].iter().map(move |one| (one, &all[n])));
    let mut pairs = pairs.filter(|pair| any(came, *pair) && any(lent, *pair));
    pairs.find(|(one, other)| overlap(one, other))
}

/// Whether there are connections that both could have.
fn overlap(one: &Listener, other: &Listener) -> bool {
    let families = Family::ALL.into_iter();
    let mut both = families.filter(|family| one.serves(*family) && other.serves(*family));
    both.any(|family| one.covers(other, family) || other.covers(one, family))
}

/// `came`: the listeners that were not there before.
fn words(there: &Sample, both: [&Listener; 2], came: &BTreeSet<u64>) -> String {
    let at = both[0].shown();
    let is_new = |one: &Listener| came.contains(&one.id.cookie);
    let name = |one: &Listener| match names(&there.holders, &[one.inode]) {
        unseen if unseen.is_empty() => "a process that can't be seen".to_owned(),
        names => names,
    };
    let instances = match both.map(is_new) {
        [true, true] => format!(
            "{} and {}; COMMAND started both: stop one",
            name(both[0]),
            name(both[1])
        ),
        [first_is_new, _] => {
            let [old, new] = if first_is_new { [1, 0] } else { [0, 1] };
            format!(
                "the old one, {}, and the new one, {}; COMMAND did not stop the old one: stop it",
                name(both[old]),
                name(both[new])
            )
        }
    };
    format!(
        "two instances of the service share the clients of {at}: {instances} (without syngate, the second one \
         could not have listened)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tale::listener;

    #[test]
    fn listeners_that_share_clients_are_told_if_syngate_made_that_possible() {
        let at = |address: &str, port, cookie| Listener {
            address: address.parse().unwrap(),
            ..listener(port, cookie)
        };
        let found = |all: &[Listener], came: &[u64], lent: &[u64]| {
            let set = |all: &[u64]| all.iter().copied().collect();
            beside_each_other(all, &set(came), &set(lent)).is_some()
        };
        let of = |other| [at("0.0.0.0", 80, 1), other];
        let same = of(at("0.0.0.0", 80, 2));
        assert!(found(&same, &[2], &[1, 2]));
        assert!(found(&same, &[1, 2], &[2]), "COMMAND started two");
        assert!(!found(&same, &[2], &[]), "both set SO_REUSEPORT");
        assert!(!found(&same, &[], &[1, 2]), "both were there before");
        assert!(!found(&same[..1], &[1], &[1]));
        for (other, overlap) in [
            (at("127.0.0.1", 80, 2), true),
            (at("::", 80, 2), true),
            (at("0.0.0.0", 81, 2), false),
            (at("::1", 80, 2), false),
        ] {
            let shown = other.shown();
            assert_eq!(found(&of(other), &[2], &[1, 2]), overlap, "{shown}");
        }
        let apart = [at("10.0.0.1", 80, 1), at("10.0.0.2", 80, 2)];
        assert!(!found(&apart, &[2], &[1, 2]));
    }
}

//! Decides whether the service listens again, for each port and IP version. It compares the cookies
//! of the listeners before and now. Pure.

use crate::kernel::sockets::Listener;

use crate::words::family::Family;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Readiness {
    /// No listener before, so there is none to wait for.
    Unwatched,
    /// All old listeners are gone and a new one is there.
    Replaced,
    /// An old listener is still there: the new process has inherited it, or the old one has not
    /// closed it yet.
    Inherited {
        /// It belongs to a SO_REUSEPORT group, so others of the group may still close.
        group: bool,
    },
    /// There was a listener, and there is none now.
    Waiting,
}

/// Compares the listeners of one port before and now. Returns the least ready of its IP versions.
pub(crate) fn readiness(before: &[Listener], now: &[Listener]) -> Readiness {
    let over = |family| {
        let of = |all: &[Listener]| -> Vec<Listener> {
            all.iter().filter(|l| l.serves(family)).cloned().collect()
        };
        one_family(&of(before), &of(now))
    };
    over(Family::V4).max(over(Family::V6))
}

fn one_family(before: &[Listener], now: &[Listener]) -> Readiness {
    let survives = |old: &Listener| now.iter().any(|new| new.id == old.id);
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

/// Whether several listeners share one address: a SO_REUSEPORT group.
pub(crate) fn has_group(listeners: &[Listener]) -> bool {
    listeners
        .iter()
        .enumerate()
        .any(|(n, one)| listeners[..n].iter().any(|other| one.same_place(other)))
}

/// The addresses of `before` that no listener in `now` covers, each once and in order.
pub(crate) fn uncovered<'a>(
    before: impl IntoIterator<Item = &'a Listener>,
    now: &[Listener],
) -> Vec<String> {
    let covered = |old: &&Listener| {
        Family::ALL
            .into_iter()
            .filter(|family| old.serves(*family))
            .all(|family| now.iter().any(|new| new.covers(old, family)))
    };
    places(before.into_iter().filter(|old| !covered(old)))
}

/// The addresses of the listeners, each once and in order.
pub(crate) fn places<'a>(listeners: impl IntoIterator<Item = &'a Listener>) -> Vec<String> {
    let mut sorted: Vec<_> = listeners.into_iter().map(|l| (l.port, l.address)).collect();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
        .into_iter()
        .map(|(port, address)| std::net::SocketAddr::new(address, port).to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::kernel::sockets::SocketId;

    fn at(address: &str, cookie: u64) -> Listener {
        Listener {
            address: address.parse().unwrap(),
            port: 80,
            v6only: false,
            interface: 0,
            id: SocketId { netns: 1, cookie },
            inode: 1,
            accept_queue: 0,
            backlog: 1,
        }
    }

    fn v6only(mut listener: Listener) -> Listener {
        listener.v6only = true;
        listener
    }

    #[test]
    fn each_ip_version_counts() {
        use Readiness::*;
        let (v4, v6) = (at("0.0.0.0", 1), v6only(at("::", 2)));
        let (new4, new6) = (at("0.0.0.0", 3), v6only(at("::", 4)));
        let both = [v4.clone(), v6.clone()];
        for (before, now, expected) in [
            (&both[..], vec![], Waiting),
            (&both, vec![new4.clone()], Waiting),
            (&both, vec![new4.clone(), new6.clone()], Replaced),
            (
                &both,
                vec![v4.clone(), new6.clone()],
                Inherited { group: false },
            ),
            (&both, vec![at("::", 5)], Replaced),
            (&both[..1], vec![at("::", 5)], Replaced),
            (&both[..1], vec![new6.clone()], Waiting),
            (&[], vec![new4.clone()], Unwatched),
            (&[], vec![], Unwatched),
            (&[at("::", 1)], vec![new4.clone()], Waiting),
            (&[at("::", 1)], vec![new4, new6], Replaced),
            (
                &[at("::ffff:10.0.0.1", 1)],
                vec![at("10.0.0.1", 2)],
                Replaced,
            ),
        ] {
            assert_eq!(readiness(before, &now), expected, "{before:?} {now:?}");
        }
    }

    #[test]
    fn a_new_namespace_has_new_listeners() {
        let old = at("0.0.0.0", 7);
        let mut new = old.clone();
        let readiness = |now: &Listener| readiness(from_ref(&old), from_ref(now));
        let inherited = Readiness::Inherited { group: false };
        assert_eq!(readiness(&new), inherited);
        new.id.netns = 2;
        assert_eq!(readiness(&new), Readiness::Replaced);
    }

    #[test]
    fn groups_are_several_in_one_place() {
        let one = at("0.0.0.0", 1);
        assert!(!has_group(&[one.clone(), at("10.0.0.1", 2)]));
        assert!(has_group(&[
            one.clone(),
            at("10.0.0.1", 2),
            at("0.0.0.0", 3)
        ]));
        let mut bound = at("0.0.0.0", 4);
        bound.interface = 2;
        assert!(!has_group(&[one, bound]));
    }

    #[test]
    fn what_covers_what() {
        for (now, old, covered) in [
            (vec![at("0.0.0.0", 1)], at("10.0.0.1", 2), true),
            (vec![at("10.0.0.1", 1)], at("0.0.0.0", 2), false),
            (vec![at("10.0.0.1", 1)], at("10.0.0.1", 2), true),
            (vec![at("10.0.0.1", 1)], at("::ffff:10.0.0.1", 2), true),
            (vec![at("::", 1)], at("10.0.0.1", 2), true),
            (vec![at("::", 1)], at("0.0.0.0", 2), true),
            (vec![at("::", 1)], at("2001:db8::1", 2), true),
            (vec![v6only(at("::", 1))], at("10.0.0.1", 2), false),
            (vec![v6only(at("::", 1))], at("2001:db8::1", 2), true),
            (vec![v6only(at("::", 1))], at("::", 2), false),
            (vec![v6only(at("::", 1))], v6only(at("::", 2)), true),
            (vec![at("::", 1)], v6only(at("::", 2)), true),
            (vec![at("0.0.0.0", 1)], at("::", 2), false),
            (
                vec![at("0.0.0.0", 1), v6only(at("::", 2))],
                at("::", 3),
                true,
            ),
        ] {
            let lost = uncovered([&old], &now);
            assert_eq!(lost.is_empty(), covered, "{now:?} for {old:?}");
        }
    }

    #[test]
    fn names_what_is_lost() {
        let before = [at("10.0.0.1", 1), at("10.0.0.2", 2), at("10.0.0.2", 3)];
        assert_eq!(uncovered(&before, &[at("10.0.0.1", 4)]), ["10.0.0.2:80"]);
        assert_eq!(places(&[at("::", 1)]), ["[::]:80"]);
    }
}

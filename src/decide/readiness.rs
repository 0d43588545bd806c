//! Decides whether a service listens again on a port. It compares the cookies, addresses and users of
//! its listeners before and now. Pure.

use crate::kernel::sockets::Listener;

use crate::words::family::Family;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Readiness {
    /// No listener before, so there is none to wait for.
    Unwatched,
    /// All old listeners are gone and their successors are there.
    Replaced,
    /// An old listener is still there: the new process has inherited it, or the old one has not
    /// closed it yet.
    Inherited {
        /// It belongs to a SO_REUSEPORT group, so others of the group may still close.
        group: bool,
    },
    /// There was a listener, and the service has none now.
    Waiting,
}

/// Compares a service's listeners on one port before and now.
///
/// On another address, only a listener of the same user can be the service's. Listeners of any user
/// count once they have taken all of its addresses: no other process can bind these any more.
pub(crate) fn readiness(before: &[Listener], now: &[Listener]) -> Readiness {
    let survives = |new: &Listener| before.iter().any(|old| old.id == new.id);
    let own = |new: &Listener| survives(new) || before.iter().any(|old| old.uid == new.uid);
    let none = now.is_empty() || !now.iter().any(own) && !all_covered(before, now);
    if before.is_empty() {
        Readiness::Unwatched
    } else if none {
        Readiness::Waiting
    } else if now.iter().any(survives) {
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
    places(before.into_iter().filter(|old| !is_covered(old, now)))
}

pub(crate) fn all_covered(before: &[Listener], now: &[Listener]) -> bool {
    before.iter().all(|old| is_covered(old, now))
}

pub(crate) fn is_covered(old: &Listener, now: &[Listener]) -> bool {
    families(old).all(|family| now.iter().any(|new| new.covers(old, family)))
}

fn families(listener: &Listener) -> impl Iterator<Item = Family> {
    let families = Family::ALL.into_iter();
    families.filter(|family| listener.serves(*family))
}

/// The addresses that were taken by other users than before: the address, the user before, and the
/// user now.
pub(crate) fn other_users(before: &[Listener], now: &[Listener]) -> Vec<(String, u32, u32)> {
    let mut taken: Vec<(String, u32, u32)> = Vec::new();
    for old in before {
        let has = |new: &&Listener| families(old).any(|family| new.covers(old, family));
        let users: Vec<u32> = now.iter().filter(has).map(|new| new.uid).collect();
        let user = users.first().filter(|_| !users.contains(&old.uid));
        if let Some(user) = user {
            taken.push((old.shown(), old.uid, *user));
        }
    }
    taken.sort_unstable();
    taken.dedup();
    taken
}

/// The addresses of the listeners, each once and in order.
pub(crate) fn places<'a>(listeners: impl IntoIterator<Item = &'a Listener>) -> Vec<String> {
    let mut sorted: Vec<_> = listeners.into_iter().collect();
    sorted.sort_by_key(|l| (l.port, l.address, &l.device));
    sorted.dedup_by(|one, other| one.same_place(other));
    sorted.into_iter().map(Listener::shown).collect()
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::kernel::sockets::{Device, SocketId};

    fn at(address: &str, cookie: u64) -> Listener {
        Listener {
            address: address.parse().unwrap(),
            port: 80,
            v6only: false,
            device: Device::Any,
            id: SocketId { netns: 1, cookie },
            uid: 0,
            cgroup: None,
            inode: 1,
            accept_queue: 0,
            backlog: 1,
        }
    }

    fn of_user(uid: u32, listener: Listener) -> Listener {
        Listener { uid, ..listener }
    }

    fn on(device: Device, listener: Listener) -> Listener {
        Listener { device, ..listener }
    }

    fn v6only(mut listener: Listener) -> Listener {
        listener.v6only = true;
        listener
    }

    #[test]
    fn what_becomes_of_the_old_listeners() {
        use Readiness::*;
        let (v4, v6) = (at("0.0.0.0", 1), v6only(at("::", 2)));
        let (new4, new6) = (at("0.0.0.0", 3), v6only(at("::", 4)));
        let both = [v4.clone(), v6.clone()];
        for (before, now, expected) in [
            (&both[..], vec![], Waiting),
            (&both, vec![new4.clone()], Replaced), // and its IPv6 address is missing
            (&both, vec![new4.clone(), new6.clone()], Replaced),
            (
                &both,
                vec![v4.clone(), new6.clone()],
                Inherited { group: false },
            ),
            (
                &both[..1],
                vec![v4.clone(), new4.clone()],
                Inherited { group: true },
            ),
            (
                &[v4.clone(), new4.clone()],
                vec![v4.clone()],
                Inherited { group: true },
            ),
            (&both, vec![at("::", 5)], Replaced),
            (&both[..1], vec![at("::", 5)], Replaced),
            (&both[..1], vec![new6.clone()], Replaced),
            (&both[..1], vec![of_user(33, new6.clone())], Waiting),
            (&both[..1], vec![of_user(33, at("10.0.0.1", 5))], Waiting),
            (&both[..1], vec![at("10.0.0.1", 5)], Replaced),
            (&both[..1], vec![of_user(33, new4.clone())], Replaced),
            (
                &[at("10.0.0.1", 1)],
                vec![of_user(33, new4.clone())],
                Replaced,
            ),
            (&[], vec![new4.clone()], Unwatched),
            (&[], vec![], Unwatched),
            (&[at("::", 1)], vec![new4.clone()], Replaced),
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
        bound.device = Device::Named("tun0".to_owned());
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
        let tun = || Device::Named("tun0".to_owned());
        let bound = [on(tun(), at("::", 1)), on(tun(), at("10.0.0.1", 2))];
        assert_eq!(places(&bound), ["10.0.0.1%tun0:80", "[::]%tun0:80"]);
    }

    /// A device that is removed and made anew has another index and the same name.
    #[test]
    fn devices_are_compared_by_name() {
        let tun = |n: u8| Device::Named(format!("tun{n}"));
        for (old, new, covered) in [
            (tun(0), tun(0), true),
            (tun(0), tun(1), false),
            (tun(0), Device::Any, true),
            (Device::Any, tun(0), false),
            (Device::Gone(7), tun(0), true),
            (tun(0), Device::Gone(7), false),
        ] {
            let (old, new) = (on(old, at("0.0.0.0", 1)), on(new, at("0.0.0.0", 2)));
            let lost = uncovered([&old], from_ref(&new));
            assert_eq!(lost.is_empty(), covered, "{new:?} for {old:?}");
        }
    }

    #[test]
    fn who_has_taken_an_address_is_told() {
        let before = [at("10.0.0.1", 1), at("10.0.0.2", 2)];
        let other = of_user(33, at("10.0.0.1", 3));
        let told = other_users(&before, &[other.clone(), at("10.0.0.2", 4)]);
        assert_eq!(told, [("10.0.0.1:80".to_owned(), 0, 33)]);
        assert!(other_users(&before, &[other, at("0.0.0.0", 4)]).is_empty());
    }
}

//! Which listeners are one service's, before COMMAND and after. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use crate::decide::readiness::all_covered;
use crate::kernel::sockets::holders::Holders;
use crate::kernel::sockets::{Device, Listener};
use crate::words::family::Family;

/// What listeners of one service have in common.
#[derive(PartialEq, Eq, Hash)]
enum Bond<'a> {
    /// A SO_REUSEPORT group.
    Place(IpAddr, u16, &'a Device),
    Process(i32),
    /// Where it can't be seen which processes hold them.
    Maker(u32, Option<u64>),
}

/// The services behind `listeners`: a number for each listener, the same for those of one service.
pub(crate) fn services(listeners: &[Listener], holders: &Holders) -> Vec<usize> {
    let mut sets = Sets::new(listeners.len());
    for (n, listener) in listeners.iter().enumerate() {
        sets.join(
            n,
            Bond::Place(listener.address, listener.port, &listener.device),
        );
        let holds = |pid: &&i32| holders[pid].inodes.contains(&listener.inode);
        let mut pids = holders.keys().filter(holds).peekable();
        if pids.peek().is_none() {
            sets.join(n, Bond::Maker(listener.uid, listener.cgroup));
        }
        pids.for_each(|pid| sets.join(n, Bond::Process(*pid)));
    }
    (0..listeners.len()).map(|n| sets.of(n)).collect()
}

/// Disjoint sets of numbers.
struct Sets<K> {
    parents: Vec<usize>,
    seen: HashMap<K, usize>,
}

impl<K: Hash + Eq> Sets<K> {
    fn new(length: usize) -> Sets<K> {
        Sets {
            parents: (0..length).collect(),
            seen: HashMap::new(),
        }
    }

    /// Joins `n` with all that were joined by the same key.
    fn join(&mut self, n: usize, key: K) {
        let other = *self.seen.entry(key).or_insert(n);
        let (one, other) = (self.of(n), self.of(other));
        self.parents[one.max(other)] = one.min(other);
    }

    fn of(&self, mut n: usize) -> usize {
        while self.parents[n] != n {
            n = self.parents[n];
        }
        n
    }
}

/// Shares the listeners of a port out to the services that listened on it before.
///
/// An old listener is still its service's. A new one goes to each service whose address it has
/// taken. On another address it is that of a service of the same user: of the one that misses an
/// address, or of the only one. What is left is nobody's.
pub(crate) fn shares(services: &[&[Listener]], now: &[Listener]) -> Vec<Vec<Listener>> {
    if services == [[]] {
        return vec![now.to_vec()];
    }
    let mut shares = vec![Vec::new(); services.len()];
    let mut strangers = Vec::new();
    for new in now {
        let mut owners: Vec<usize> = numbers(services, |old| old.id == new.id);
        if owners.is_empty() {
            owners = numbers(services, |old| has_taken(new, old, now));
        }
        if owners.is_empty() {
            strangers.push(new);
        }
        owners.iter().for_each(|n| shares[*n].push(new.clone()));
    }
    let lacks: Vec<bool> = (0..services.len())
        .map(|n| !all_covered(services[n], &shares[n]))
        .collect();
    for new in strangers {
        let users = numbers(services, |old| old.uid == new.uid);
        let only = users.len() == 1;
        for n in users.into_iter().filter(|n| only || lacks[*n]) {
            shares[n].push(new.clone());
        }
    }
    shares
}

/// The services that one of whose listeners is like that.
fn numbers(services: &[&[Listener]], which: impl Fn(&Listener) -> bool) -> Vec<usize> {
    let numbers = 0..services.len();
    numbers
        .filter(|n| services[*n].iter().any(&which))
        .collect()
}

/// Whether `new` stands where `old` stood, or stands beside it.
fn has_taken(new: &Listener, old: &Listener, now: &[Listener]) -> bool {
    let remains = || now.iter().any(|l| l.id == old.id);
    let covers = |family| old.serves(family) && new.covers(old, family);
    new.same_place(old) || Family::ALL.into_iter().any(covers) && !remains()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tale::{held_by, listener, on_80};

    fn at(address: &str, cookie: u64) -> Listener {
        Listener {
            address: address.parse().unwrap(),
            ..listener(80, cookie)
        }
    }

    #[test]
    fn processes_groups_and_makers() {
        // Two processes of one user: a stub resolver and a name server.
        let mut holders = held_by(on_80(&[1]), &[10]).holders;
        holders.extend(held_by(on_80(&[2]), &[11]).holders);
        let two = [at("127.0.0.53", 1), at("10.0.0.1", 2)];
        assert_eq!(services(&two, &holders), [0, 1]);
        // A SO_REUSEPORT group of these processes.
        let group = [at("10.0.0.1", 1), at("10.0.0.1", 2), at("10.0.0.2", 2)];
        assert_eq!(services(&group, &holders), [0, 0, 0]);
        // Where processes can't be seen, users and control groups tell.
        let of = |uid, cgroup, listener| Listener {
            uid,
            cgroup,
            ..listener
        };
        let made = [
            of(0, Some(5), at("10.0.0.1", 1)),
            of(0, Some(6), at("10.0.0.2", 2)),
            of(0, Some(5), at("10.0.0.3", 3)),
            of(33, Some(5), at("10.0.0.4", 4)),
        ];
        assert_eq!(services(&made, &Holders::new()), [0, 1, 0, 3]);
    }

    #[test]
    fn who_gets_which_listener() {
        let (stub, name) = ([at("127.0.0.53", 1)], [at("10.0.0.1", 2)]);
        let cookies = |now: &[Listener]| -> Vec<Vec<u64>> {
            let shares = shares(&[&stub, &name], now);
            let cookies = |share: &Vec<Listener>| share.iter().map(|l| l.id.cookie).collect();
            shares.iter().map(cookies).collect()
        };
        let restarted = [at("127.0.0.53", 1), at("10.0.0.1", 3)];
        assert_eq!(cookies(&restarted), [vec![1], vec![3]]);
        assert_eq!(cookies(&restarted[..1]), [vec![1], vec![]]);
        assert_eq!(cookies(&[at("127.0.0.53", 4)]), [vec![4], vec![]]);
        // A wildcard stands where both stood, or where the one stood that has gone.
        assert_eq!(cookies(&[at("0.0.0.0", 4)]), [vec![4], vec![4]]);
        let beside = [at("127.0.0.53", 1), at("0.0.0.0", 4)];
        assert_eq!(cookies(&beside), [vec![1], vec![4]]);
        // Elsewhere: that of who misses an address.
        let moved = [at("127.0.0.53", 1), at("10.0.0.9", 4)];
        assert_eq!(cookies(&moved), [vec![1], vec![4]]);
        let mut stranger = moved.clone();
        stranger[1].uid = 33;
        assert_eq!(cookies(&stranger), [vec![1], vec![]]);
        let one_more = [at("127.0.0.53", 1), at("10.0.0.1", 2), at("10.0.0.9", 4)];
        assert_eq!(cookies(&one_more), [vec![1], vec![2]], "nobody's");
    }
}

//! Of those who wait in the rooms of a place, how many have left. The kernel lists a connection no more that its client has
//! closed. It does not tell in whose queue the others are: the most specific address gets a connection. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::kernel::room::Place;
use crate::kernel::sockets::Connection;

/// How many wait to be accepted at each address of the port, in rooms or by listeners.
pub(super) type Queues = BTreeMap<IpAddr, usize>;

/// `waiting`: how many wait in the rooms of the place. `queues`: how many do at other addresses. `clients`: those who wait
/// anywhere, and are there.
pub(super) fn departed(
    place: &Place,
    waiting: usize,
    queues: &Queues,
    clients: &[Connection],
) -> usize {
    let mut there = 0;
    let mut elsewhere = Queues::new();
    for client in clients.iter().filter(|client| takes(place, client)) {
        match narrower(place, queues, client.local.ip().to_canonical()) {
            None => there += 1,
            Some(other) => *elsewhere.entry(other).or_default() += 1,
        }
    }
    // More than wait there came to the rooms, before there was a listener.
    there += elsewhere
        .iter()
        .map(|(other, clients)| clients.saturating_sub(queues[other]))
        .sum::<usize>();
    waiting.saturating_sub(there)
}

fn takes(place: &Place, client: &Connection) -> bool {
    let local = client.local.ip().to_canonical();
    let is_its = match place.address.is_unspecified() {
        // One of IPv6 may have clients of both.
        true => place.address.is_ipv6() || local.is_ipv4(),
        false => local == place.address.to_canonical(),
    };
    client.local.port() == place.port && is_its
}

/// The address whose listener gets that connection before one at the place does.
fn narrower(place: &Place, queues: &Queues, local: IpAddr) -> Option<IpAddr> {
    if !place.address.is_unspecified() {
        return None;
    }
    let is_wildcard_of_v4 = |other: &&IpAddr| other.is_ipv4() && other.is_unspecified();
    let of_v4 = place.address.is_ipv6() && local.is_ipv4();
    let all = || queues.keys();
    let same = all().find(|other| other.to_canonical() == local);
    same.or_else(|| all().find(is_wildcard_of_v4).filter(|_| of_v4))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::sockets::Listener;

    fn at(address: &str) -> Place {
        Place::of(&Listener::made_up(address, 80, false))
    }

    fn queues(all: &[(&str, usize)]) -> Queues {
        let all = all.iter();
        all.map(|(address, many)| (address.parse().unwrap(), *many))
            .collect()
    }

    fn clients(of: &[&str]) -> Vec<Connection> {
        let clients = of.iter().map(|local| Connection {
            local: local.parse().unwrap(),
            peer: "192.0.2.1:40000".parse().unwrap(),
            cookie: 1,
        });
        clients.collect()
    }

    #[test]
    fn who_waits_elsewhere_has_not_left_here() {
        let beside = queues(&[("127.0.0.2", 2)]);
        let there = clients(&["127.0.0.1:80", "127.0.0.2:80", "127.0.0.2:80", "[::1]:80"]);
        let left = |waiting| departed(&at("0.0.0.0"), waiting, &beside, &there);
        assert_eq!([left(1), left(2), left(5)], [0, 1, 4]);
        let none = Queues::new();
        assert_eq!(departed(&at("0.0.0.0"), 5, &none, &there), 2);
        assert_eq!(departed(&at("127.0.0.2"), 5, &beside, &there), 3);
        let other_port = clients(&["127.0.0.1:81"]);
        assert_eq!(departed(&at("0.0.0.0"), 1, &none, &other_port), 1);
    }

    #[test]
    fn ipv4_goes_to_its_own_wildcard_first() {
        let there = clients(&["127.0.0.1:80", "[::1]:80"]);
        let dual = |beside| departed(&at("::"), 2, &queues(beside), &there);
        assert_eq!(dual(&[]), 0);
        assert_eq!(dual(&[("0.0.0.0", 1)]), 1);
        assert_eq!(dual(&[("0.0.0.0", 1), ("127.0.0.1", 1)]), 1);
        assert_eq!(dual(&[("::1", 1), ("127.0.0.1", 1)]), 2);
        assert_eq!(
            departed(&at("0.0.0.0"), 2, &queues(&[("::", 5)]), &there),
            1
        );
    }

    /// The listener beside has come later.
    #[test]
    fn a_queue_has_no_more_than_it_has() {
        let there = clients(&["127.0.0.2:80", "127.0.0.2:80"]);
        let left = |queue| departed(&at("0.0.0.0"), 3, &queues(&[("127.0.0.2", queue)]), &there);
        assert_eq!([left(0), left(1), left(2), left(9)], [1, 2, 3, 3]);
    }
}

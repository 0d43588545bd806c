//! What to ask the peer before anything is changed, and what on this host would make diverting
//! fail. Decided from its listeners, addresses and links. Pure.

use std::net::{IpAddr, SocketAddr};

use crate::kernel::route::{HostAddress, Link, Route};
use crate::kernel::sockets::Listener;
use crate::words::family::Family;
use crate::words::hop::NextHop;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;
use crate::words::steer::Diversion;

/// A port that has a listener, by the gated ports that clients use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Served {
    pub ports: PortSet,
    pub listener: Listener,
}

/// The question whether the peer would take a connection to this address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Enquiry {
    pub to: SocketAddr,
    pub neighbour: NextHop,
    /// An address that only this host has, preferably on the clients' link. `None`: there is none.
    pub from: Option<IpAddr>,
}

/// The addresses, links and routes of this host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Here {
    pub own: Vec<HostAddress>,
    pub links: Vec<Link>,
    /// The routes to the peer's addresses.
    pub routes: Vec<(IpAddr, Route)>,
}

/// `addressed`: clients connect to the addresses of the listeners.
pub(crate) fn enquiries(
    served: &[Served],
    addressed: bool,
    scope: &Scope,
    to: &Diversion,
    here: &Here,
) -> Vec<Enquiry> {
    let mut asked: Vec<(SocketAddr, NextHop)> = Vec::new();
    for Served { ports, listener } in served {
        for own in here.own.iter().filter(|own| own.global) {
            let family = Family::of(own.address);
            let Some(neighbour) = to.of(family) else {
                continue;
            };
            let address = listener.address.to_canonical();
            let there = !addressed || address.is_unspecified() || address == own.address;
            if !there || !listener.serves(family) && addressed || !scope.reaches(own.address) {
                continue;
            }
            let all = ports.iter().map(|port| SocketAddr::new(own.address, port));
            asked.extend(all.map(|at| (at, neighbour)));
        }
    }
    asked.sort_unstable_by_key(|(at, _)| *at);
    asked.dedup();
    let shared: Vec<IpAddr> = asked.iter().map(|(at, _)| at.ip()).collect();
    let ask = |(to, neighbour): &(SocketAddr, NextHop)| Enquiry {
        to: *to,
        neighbour: *neighbour,
        from: source(to.ip(), neighbour, &shared, here),
    };
    asked.iter().map(ask).collect()
}

/// An address on the link by which clients come in, so that the peer's source checks (rp_filter)
/// treat it like a client's. Else one on the link to the peer.
fn source(to: IpAddr, neighbour: &NextHop, shared: &[IpAddr], here: &Here) -> Option<IpAddr> {
    let clients = here.device_of(to);
    let usable = |own: &&HostAddress| {
        Family::of(own.address) == Family::of(to)
            && !shared.contains(&own.address)
            && own.global
            && !here.is_loopback(own.device)
    };
    // Of several, the one most likely to belong to this host alone.
    let on = |device| {
        let all = here
            .own
            .iter()
            .filter(usable)
            .filter(|o| o.device == device);
        all.max_by_key(|own| (here.takes_by_itself(own.address), own.has_network))
    };
    let found = on(clients).or_else(|| on(neighbour.device.index));
    found.map(|own| own.address)
}

/// The IP versions that the service has and for which no peer was given.
pub(crate) fn without_peer(
    served: &[Served],
    scope: &Scope,
    to: &Diversion,
    here: &Here,
) -> Vec<Family> {
    let lacks = |family: &Family| {
        let has = |own: &HostAddress| own.global && Family::of(own.address) == *family;
        let reached = here
            .own
            .iter()
            .any(|own| has(own) && scope.reaches(own.address));
        to.of(*family).is_none()
            && scope.gates(*family)
            && reached
            && served.iter().any(|s| s.listener.serves(*family))
    };
    Family::ALL.into_iter().filter(lacks).collect()
}

/// What on the links would make diverting fail.
pub(crate) fn remarks(
    questions: &[Enquiry],
    here: &Here,
    joins_received: impl Fn(&Link) -> bool,
) -> Vec<String> {
    let mut remarks = Vec::new();
    // In the order of their addresses, each once for all ports.
    let mut ways: Vec<(IpAddr, NextHop)> =
        questions.iter().map(|q| (q.to.ip(), q.neighbour)).collect();
    ways.dedup();
    for (to, neighbour) in ways {
        let Some(way) = here.link(neighbour.device.index) else {
            continue;
        };
        let fits = here
            .mtu_to(&neighbour)
            .map_or(way.mtu, |mtu| mtu.min(way.mtu));
        let peer = neighbour.address;
        if !way.up {
            remarks.push(format!("the way to {peer}, {}, is down", way.device));
        }
        for link in here.links_of(to) {
            if fits < link.mtu {
                remarks.push(format!(
                    "packets to {peer} have room for {fits} bytes ({0}), but {1} takes in up to {2}: let ICMP \
                     (fragmentation needed, packet too big) out to the clients, or raise the MTU of {0}",
                    way.device, link.device, link.mtu
                ));
            }
            if joins_received(link) {
                remarks.push(format!(
                    "{0} joins what it receives to packets too large to be sent on (LRO): ethtool -K \
                     {0} lro off",
                    link.device
                ));
            }
        }
    }
    remarks.sort();
    remarks.dedup();
    remarks
}

impl Here {
    /// Whether the kernel uses this address as the source when this host sends to its peer.
    fn takes_by_itself(&self, address: IpAddr) -> bool {
        let mut routes = self.routes.iter();
        routes.any(|(_, route)| route.source == Some(address))
    }

    /// The MTU of the route to the next hop.
    fn mtu_to(&self, hop: &NextHop) -> Option<u32> {
        let mut routes = self.routes.iter();
        let (_, route) = routes.find(|(to, _)| *to == hop.address)?;
        route.mtu
    }

    fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.device.index == index)
    }

    fn is_loopback(&self, index: u32) -> bool {
        self.link(index).is_some_and(|link| link.loopback)
    }

    /// The index of the interface that has the address. If two have it, the one that is not the
    /// loopback: on the other host of a pair the loopback has it all the time.
    fn device_of(&self, address: IpAddr) -> u32 {
        let own = self.own.iter().filter(|own| own.address == address);
        let outer = own.max_by_key(|own| !self.is_loopback(own.device));
        outer.map_or(0, |own| own.device)
    }

    /// The links by which packets to the address come in: the link that has the address, or any link if that is the
    /// loopback.
    fn links_of(&self, address: IpAddr) -> impl Iterator<Item = &Link> {
        let device = self.device_of(address);
        let any = self.is_loopback(device);
        self.links
            .iter()
            .filter(move |link| link.up && !link.loopback && (any || link.device.index == device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::hop::Device;
    use crate::words::scope::{Networks, parse_networks};
    use std::time::Duration;

    fn here() -> Here {
        let link = |index, name: &str, mtu| Link {
            device: Device::new(index, name),
            mtu,
            up: true,
            loopback: index == 1,
        };
        let own = |address: &str, device, global| HostAddress {
            address: address.parse().unwrap(),
            device,
            has_network: !address.ends_with("100"),
            global,
        };
        Here {
            own: vec![
                own("127.0.0.1", 1, false),
                own("10.0.0.1", 2, true),
                own("10.0.0.100", 2, true),
                own("10.9.0.1", 3, true),
                own("fd00::1", 2, true),
                own("fd00::100", 2, true),
                own("fe80::1", 2, false),
            ],
            links: vec![
                link(1, "lo", 65536),
                link(2, "eth0", 1500),
                link(3, "x", 1400),
            ],
            routes: Vec::new(),
        }
    }

    fn hop(address: &str, index: u32) -> Option<NextHop> {
        Some(NextHop {
            address: address.parse().unwrap(),
            device: Device::new(index, "any"),
            ether: None,
        })
    }

    fn route(to: &str, source: Option<[u8; 4]>, mtu: Option<u32>) -> (IpAddr, Route) {
        let route = Route {
            kind: nix::libc::RTN_UNICAST,
            device: 2,
            gateway: None,
            source: source.map(IpAddr::from),
            mtu,
        };
        (to.parse().unwrap(), route)
    }

    fn to(v4: Option<NextHop>, v6: Option<NextHop>) -> Diversion {
        Diversion {
            v4,
            v6,
            most: 1,
            idle: Duration::from_secs(1),
        }
    }

    fn served(address: &str, ports: &[u16]) -> Served {
        Served {
            ports: ports.iter().copied().collect(),
            listener: Listener::made_up(address, ports[0], true),
        }
    }

    fn scope(to: &str) -> Scope {
        Scope {
            to: Networks::new(parse_networks(to).unwrap()),
            ..Scope::default()
        }
    }

    fn asked(served: &[Served], addressed: bool, scope: &Scope, to: &Diversion) -> String {
        let all = enquiries(served, addressed, scope, to, &here());
        let shown = |q: &Enquiry| match q.from {
            Some(from) => format!("{} from {from}", q.to),
            None => format!("{} from nowhere", q.to),
        };
        all.iter().map(shown).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn asks_for_each_address_that_clients_connect_to() {
        let peer = to(hop("10.0.0.2", 2), None);
        let vip = served("10.0.0.100", &[80]);
        assert_eq!(
            asked(std::slice::from_ref(&vip), true, &Scope::default(), &peer),
            "10.0.0.100:80 from 10.0.0.1"
        );
        // The same listener twice, as in a SO_REUSEPORT group.
        let twice = [vip.clone(), vip.clone()];
        assert_eq!(
            asked(&twice, true, &Scope::default(), &peer),
            "10.0.0.100:80 from 10.0.0.1"
        );
        let any = served("0.0.0.0", &[80]);
        assert_eq!(
            asked(
                std::slice::from_ref(&any),
                true,
                &scope("10.0.0.100"),
                &peer
            ),
            "10.0.0.100:80 from 10.0.0.1"
        );
        // A wildcard listener: then this host has no address of its own left on that link.
        assert_eq!(
            asked(std::slice::from_ref(&any), true, &Scope::default(), &peer),
            "10.0.0.1:80 from nowhere, 10.0.0.100:80 from nowhere, 10.9.0.1:80 from nowhere"
        );
        assert_eq!(
            asked(
                &[served("127.0.0.1", &[80])],
                true,
                &Scope::default(),
                &peer
            ),
            ""
        );
        // Published by a container: clients use another address.
        let published = served("172.17.0.2", &[80, 81]);
        assert_eq!(
            asked(&[published], false, &scope("10.0.0.100"), &peer),
            "10.0.0.100:80 from 10.0.0.1, 10.0.0.100:81 from 10.0.0.1"
        );
        let six = served("::", &[80]);
        assert_eq!(
            asked(std::slice::from_ref(&six), true, &scope("fd00::100"), &peer),
            ""
        );
        let both = to(hop("10.0.0.2", 2), hop("fe80::2", 2));
        assert_eq!(
            asked(&[six], true, &scope("fd00::100"), &both),
            "[fd00::100]:80 from fd00::1"
        );
        // The peer is behind another link. The source is still on the clients' link.
        let across = to(hop("10.9.0.2", 3), None);
        assert_eq!(
            asked(&[vip], true, &Scope::default(), &across),
            "10.0.0.100:80 from 10.0.0.1"
        );
    }

    #[test]
    fn asks_from_what_is_the_likeliest_to_be_its_own() {
        let peer = to(hop("10.0.0.2", 2), None);
        let from = |here: &Here| {
            let served = [served("10.0.0.100", &[80])];
            enquiries(&served, true, &Scope::default(), &peer, here)[0].from
        };
        let mut many = here();
        let other = |address: &str, has_network| HostAddress {
            address: address.parse().unwrap(),
            device: 2,
            has_network,
            global: true,
        };
        many.own.insert(0, other("10.0.0.101", false));
        many.own.push(other("10.0.0.102", false));
        assert_eq!(from(&many), Some([10, 0, 0, 1].into()), "others are shared");
        let on_x = HostAddress {
            device: 3,
            ..other("10.9.0.7", true)
        };
        many.own.insert(0, on_x);
        let vip = [served("10.9.0.1", &[80])];
        let asked = enquiries(&vip, true, &Scope::default(), &peer, &many);
        let clients = Some([10, 9, 0, 7].into());
        assert_eq!(asked[0].from, clients, "on the clients' link");
        many.own.push(other("10.0.0.7", true));
        many.routes = vec![route("10.0.0.2", Some([10, 0, 0, 1]), None)];
        assert_eq!(
            from(&many),
            Some([10, 0, 0, 1].into()),
            "as the kernel does"
        );
    }

    #[test]
    fn a_shared_address_may_be_on_the_loopback_as_well() {
        let mut both = here();
        let vip = both.own[2].clone();
        both.own.insert(0, HostAddress { device: 1, ..vip });
        let across = to(hop("10.9.0.2", 3), None);
        let served = [served("10.0.0.100", &[80])];
        let all = enquiries(&served, true, &Scope::default(), &across, &both);
        let [question] = &all[..] else {
            panic!("{all:?}")
        };
        assert_eq!(
            question.from,
            Some([10, 0, 0, 1].into()),
            "as clients come in"
        );
        assert!(remarks(&all, &both, |_| false)[0].contains("eth0"));
    }

    #[test]
    fn tells_which_ip_version_has_no_peer() {
        let peer = to(hop("10.0.0.2", 2), None);
        let lacks = |address: &str, scope: &Scope| {
            without_peer(&[served(address, &[80])], scope, &peer, &here())
        };
        assert_eq!(lacks("::", &Scope::default()), [Family::V6]);
        assert_eq!(lacks("0.0.0.0", &Scope::default()), []);
        assert_eq!(lacks("::", &scope("10.0.0.100")), []);
        // This host has no such address.
        assert_eq!(lacks("::", &scope("fd00::77")), []);
        let mut link_local = here();
        link_local
            .own
            .retain(|own| own.address != IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]));
        link_local
            .own
            .retain(|own| !own.global || own.address.is_ipv4());
        let six = [served("::", &[80])];
        let lacks = without_peer(&six, &Scope::default(), &peer, &link_local);
        assert_eq!(lacks, [], "a link-local address is no client's");
    }

    #[test]
    fn clients_of_an_address_on_the_loopback_come_in_by_any_link_that_is_up() {
        let mut both = here();
        both.own[2].device = 1;
        both.links[2].up = false;
        let near = to(hop("10.0.0.2", 2), None);
        let vip = served("10.0.0.100", &[80]);
        let all = enquiries(&[vip], true, &Scope::default(), &near, &both);
        let joined = remarks(&all, &both, |_| true);
        assert_eq!(joined.len(), 1, "{joined:?}");
        assert!(joined[0].starts_with("eth0 joins"), "{joined:?}");
    }

    #[test]
    fn tells_what_would_make_it_fail() {
        let said = |to: &Diversion, mtu, lro| {
            let vip = served("10.0.0.100", &[80]);
            let all = enquiries(&[vip], true, &Scope::default(), to, &here());
            let here = Here {
                routes: vec![route("10.0.0.2", None, mtu)],
                ..here()
            };
            remarks(&all, &here, |_| lro)
        };
        let near = to(hop("10.0.0.2", 2), None);
        assert_eq!(said(&near, None, false), Vec::<String>::new());
        let across = to(hop("10.9.0.2", 3), None);
        let [mtu] = &said(&across, None, false)[..] else {
            panic!()
        };
        assert!(
            mtu.contains("room for 1400 bytes (x)") && mtu.contains("eth0 takes in up to 1500")
        );
        assert!(said(&near, Some(1280), false)[0].contains("room for 1280"));
        assert!(said(&near, None, true)[0].contains("ethtool -K eth0 lro off"));
    }
}

//! The peer that takes the diverted connections: parses its address, and checks by the kernel's
//! route that it is a neighbour. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use nix::libc;

use crate::kernel::route::{Link, Route};

use crate::words::family::Family;
use crate::words::hop::NextHop;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerAddress {
    /// The peer's own address, not the one that both hosts share.
    pub address: IpAddr,
    /// The interface to the peer. `None`: the route decides.
    pub interface: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Peers {
    pub v4: Option<PeerAddress>,
    pub v6: Option<PeerAddress>,
}

const EXPECTED: &str = "expected the peer's address, as in divert=10.0.0.2, \
                        divert=fe80::2%eth0 or, for both IP versions, divert=10.0.0.2,fd00::2";

impl Peers {
    /// Parses one address, or one of each IP version.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what would be right.
    pub(crate) fn parse(text: &str) -> Result<Peers, String> {
        let mut peers = Peers::default();
        for item in text.split(',') {
            let peer = PeerAddress::parse(item.trim())?;
            let (place, version) = match peer.address {
                IpAddr::V4(_) => (&mut peers.v4, "IPv4"),
                IpAddr::V6(_) => (&mut peers.v6, "IPv6"),
            };
            if place.replace(peer).is_some() {
                return Err(format!("two {version} addresses; {EXPECTED}"));
            }
        }
        Ok(peers)
    }

    pub(crate) fn of(&self, family: Family) -> Option<&PeerAddress> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &PeerAddress> {
        [&self.v4, &self.v6].into_iter().flatten()
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.all().map(PeerAddress::to_string).collect();
        f.write_str(&all.join(","))
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        match &self.interface {
            Some(interface) => write!(f, "%{interface}"),
            None => Ok(()),
        }
    }
}

fn is_for_many(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

impl PeerAddress {
    fn parse(item: &str) -> Result<PeerAddress, String> {
        let (address, interface) = match item.split_once('%') {
            Some((address, interface)) => (address, Some(interface.to_owned())),
            None => (item, None),
        };
        let Ok(parsed) = address.parse::<IpAddr>() else {
            let names = match address.is_empty() {
                true => "",
                false => " (names are not looked up)",
            };
            return Err(format!(
                "'{address}' is not an IP address{names}; {EXPECTED}"
            ));
        };
        if interface.as_ref().is_some_and(String::is_empty) {
            return Err(format!("no interface behind the %; {EXPECTED}"));
        }
        let needs_one = |v6: std::net::Ipv6Addr| v6.is_unicast_link_local() && interface.is_none();
        match parsed {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                Err(format!("write {} for it", parsed.to_canonical()))
            }
            IpAddr::V6(v6) if needs_one(v6) => Err(format!(
                "{address} is different on each link: name the interface, as in {address}%eth0"
            )),
            _ if parsed.is_unspecified() || is_for_many(parsed) || parsed.is_loopback() => {
                Err(format!("{address} is no other host's address; {EXPECTED}"))
            }
            _ => Ok(PeerAddress {
                address: parsed,
                interface,
            }),
        }
    }

    /// The index of the named interface.
    ///
    /// # Errors
    /// There is no interface of that name.
    pub(crate) fn named(&self, links: &[Link]) -> Result<Option<u32>, String> {
        let Some(name) = &self.interface else {
            return Ok(None);
        };
        let link = links.iter().find(|link| link.device.to_string() == *name);
        match link {
            Some(link) => Ok(Some(link.device.index)),
            None => Err(format!("no interface is named {name}")),
        }
    }

    /// The next hop, if the route to the peer is direct.
    ///
    /// # Errors
    /// Why the peer is not a neighbour.
    pub(crate) fn neighbour(&self, route: &Route, links: &[Link]) -> Result<NextHop, String> {
        let PeerAddress { address, .. } = self;
        match (route.kind, route.gateway) {
            (libc::RTN_LOCAL, _) => {
                return Err(format!(
                    "{address} is an address of this host itself; name one that only the peer has"
                ));
            }
            (libc::RTN_UNICAST, None) => (),
            (libc::RTN_UNICAST, Some(router)) => {
                return Err(format!(
                    "{address} is not on a link of this host's, but behind the router {router}: name an \
                     address of the peer's on a network that both are in"
                ));
            }
            _ => return Err(format!("{address} is not the address of one host")),
        }
        let link = links.iter().find(|link| link.device.index == route.device);
        match link {
            Some(link) if link.loopback => Err(format!("{address} is routed to {}", link.device)),
            Some(link) => Ok(NextHop {
                address: *address,
                device: link.device,
                ether: None,
            }),
            None => Err(format!("the interface to {address} is not known")),
        }
    }
}

/// Checks the properties of the parser for any text.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    if let Ok(peers) = Peers::parse(&String::from_utf8_lossy(bytes)) {
        assert_eq!(Peers::parse(&peers.to_string()).as_ref(), Ok(&peers));
        assert!(peers.all().all(|peer| !peer.address.is_unspecified()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::hop::Device;

    #[test]
    fn what_people_write() {
        for text in [
            "10.0.0.2",
            "10.0.0.2%eth0",
            "fe80::2%eth0",
            "10.0.0.2,fd00::2",
            "10.0.0.2%a,fd00::2%b",
        ] {
            assert_eq!(Peers::parse(text).unwrap().to_string(), text);
        }
        let turned = Peers::parse("fd00::2, 10.0.0.2").unwrap();
        assert_eq!(turned.to_string(), "10.0.0.2,fd00::2");
        let of = |family| turned.of(family).map(PeerAddress::to_string);
        assert_eq!(of(Family::V4).as_deref(), Some("10.0.0.2"));
        assert_eq!(of(Family::V6).as_deref(), Some("fd00::2"));
    }

    #[test]
    fn what_is_refused_and_why() {
        for (text, says) in [
            ("", "'' is not an IP address; expected"),
            ("lb2.example.org", "names are not looked up"),
            ("10.0.0.2:80", "is not an IP address"),
            ("10.0.0.2,10.0.0.3", "two IPv4 addresses"),
            ("fd00::2,fd00::3", "two IPv6 addresses"),
            ("10.0.0.2,", "'' is not an IP address"),
            ("10.0.0.2%", "no interface behind the %"),
            ("fe80::2", "as in fe80::2%eth0"),
            ("127.0.0.1", "no other host's"),
            ("0.0.0.0", "no other host's"),
            ("ff02::1", "no other host's"),
            ("255.255.255.255", "no other host's"),
            ("::ffff:10.0.0.2", "write 10.0.0.2"),
        ] {
            let error = Peers::parse(text).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn only_a_neighbour_will_do() {
        let link = |index, name: &str, loopback| Link {
            device: Device::new(index, name),
            mtu: 1500,
            up: true,
            loopback,
        };
        let links = [link(1, "lo", true), link(2, "eth0", false)];
        let route = |kind, device, gateway: Option<[u8; 4]>| Route {
            kind,
            device,
            gateway: gateway.map(IpAddr::from),
            source: None,
            mtu: None,
        };
        let peer = PeerAddress::parse("10.0.0.2%eth0").unwrap();
        assert_eq!(peer.named(&links), Ok(Some(2)));
        let elsewhere = PeerAddress::parse("10.0.0.2%eth9").unwrap();
        assert!(elsewhere.named(&links).unwrap_err().contains("eth9"));
        let hop = peer.neighbour(&route(libc::RTN_UNICAST, 2, None), &links);
        assert_eq!(hop.unwrap().device.to_string(), "eth0");
        for (route, says) in [
            (route(libc::RTN_LOCAL, 1, None), "this host itself"),
            (
                route(libc::RTN_UNICAST, 2, Some([10, 0, 0, 1])),
                "behind the router 10.0.0.1",
            ),
            (route(libc::RTN_BROADCAST, 2, None), "of one host"),
            (route(libc::RTN_UNICAST, 1, None), "routed to lo"),
            (route(libc::RTN_UNICAST, 7, None), "not known"),
        ] {
            let error = peer.neighbour(&route, &links).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}

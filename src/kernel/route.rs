//! Where the kernel sends packets to an address, and which links, addresses and neighbours this host
//! has (linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h).

use std::net::IpAddr;

use anyhow::{Context, Result};
use nix::libc;

use crate::kernel::interface::{Interface, interface};
use crate::kernel::netlink::{Bus, Netlink, Refusal, attribute, attributes, get, put_attribute};
use crate::words::hop::{Device, Ether, NextHop};

/// What the kernel does with a packet to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// Whether the packet goes to this host, to another one, or nowhere (`RTN_LOCAL`, `RTN_UNICAST`, …).
    pub(crate) kind: u8,
    /// The number of the interface by which the packet leaves.
    pub(crate) device: u32,
    /// The first router on the way, if there is one.
    pub(crate) gateway: Option<IpAddr>,
    /// The packet's source address, unless the sender chooses one.
    pub(crate) source: Option<IpAddr>,
    /// The largest packet that fits, where the route has a value of its own.
    pub(crate) mtu: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) device: Device,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostAddress {
    pub(crate) address: IpAddr,
    /// The number of the interface that has it.
    pub(crate) device: u32,
    /// The prefix is shorter than the address. Addresses that several hosts share have /32 or /128.
    pub(crate) has_network: bool,
    /// The address is valid beyond the link (RT_SCOPE_UNIVERSE, RT_SCOPE_SITE).
    pub(crate) global: bool,
}

pub(crate) struct Routing {
    socket: Netlink,
}

impl Routing {
    pub(crate) fn open() -> Result<Routing> {
        let socket = Netlink::open(Bus::Route);
        Ok(Routing {
            socket: socket.context("this kernel does not tell its routes")?,
        })
    }

    /// What the kernel does with a packet to `address`, by the interface `by` if one is named. `None`:
    /// its answer makes no sense.
    ///
    /// # Errors
    /// What the kernel refuses with: ENETUNREACH, EHOSTUNREACH, …
    pub(crate) fn to(
        &mut self,
        address: IpAddr,
        by: Option<u32>,
    ) -> Result<Option<Route>, Refusal> {
        const RTA_DST: u16 = 1;
        const RTA_OIF: u16 = 4;
        let bytes = octets(address);
        // struct rtmsg: family and how many bits of the destination are given.
        let mut body = vec![family(address), (bytes.len() * 8) as u8];
        body.resize(12, 0);
        put_attribute(&mut body, RTA_DST, &bytes);
        if let Some(index) = by {
            put_attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
        }
        let mut found = None;
        let acknowledged = libc::NLM_F_ACK as u16;
        self.socket
            .request(libc::RTM_GETROUTE, acknowledged, &body, |_, row| {
                found = found.take().or_else(|| route(row));
            })?;
        Ok(found)
    }

    /// Whether packets to `address` are for this host itself. `false` also if the kernel can't tell.
    pub(crate) fn is_here(&mut self, address: IpAddr) -> bool {
        matches!(self.to(address, None), Ok(Some(route)) if route.kind == libc::RTN_LOCAL)
    }

    pub(crate) fn links(&mut self) -> Result<Vec<Link>, Refusal> {
        self.dump(libc::RTM_GETLINK, link)
    }

    /// The same links: what they are called, and what they belong to.
    pub(crate) fn interfaces(&mut self) -> Result<Vec<Interface>, Refusal> {
        self.dump(libc::RTM_GETLINK, interface)
    }

    pub(crate) fn addresses(&mut self) -> Result<Vec<HostAddress>, Refusal> {
        self.dump(libc::RTM_GETADDR, own)
    }

    /// The Ethernet address of a neighbour, if the kernel knows it now.
    pub(crate) fn ether(
        &mut self,
        address: IpAddr,
        device: Device,
    ) -> Result<Option<Ether>, Refusal> {
        let known = self.neighbours(address, device)?;
        Ok(known.into_iter().find_map(|neighbour| neighbour.ether))
    }

    /// Whether the kernel has asked for a neighbour, and has had no answer.
    pub(crate) fn is_absent(&mut self, hop: &NextHop) -> Result<bool, Refusal> {
        let known = self.neighbours(hop.address, hop.device)?;
        Ok(known.iter().any(|neighbour| neighbour.silent))
    }

    fn neighbours(&mut self, address: IpAddr, on: Device) -> Result<Vec<Neighbour>, Refusal> {
        let mut known = self.dump(libc::RTM_GETNEIGH, neighbour)?;
        known.retain(|n| (n.address, n.device) == (address, on.index));
        Ok(known)
    }

    fn dump<T>(&mut self, kind: u16, read: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>, Refusal> {
        // All families; as long as the longest header, struct ifinfomsg.
        let body = [libc::AF_UNSPEC as u8; 16];
        let rows = |row: &[u8]| read(row).into_iter().collect();
        self.socket.dump(kind, &body, rows)
    }
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// The address as it is in packets.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => get::<4>(bytes, 0).map(IpAddr::from),
        16 => get::<16>(bytes, 0).map(IpAddr::from),
        _ => None,
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    get(bytes, 0).map(u32::from_ne_bytes)
}

/// A `struct rtmsg` and its attributes.
fn route(row: &[u8]) -> Option<Route> {
    const RTA_OIF: u16 = 4;
    const RTA_GATEWAY: u16 = 5;
    const RTA_PREFSRC: u16 = 7;
    const RTA_METRICS: u16 = 8;
    const RTA_VIA: u16 = 18;
    const RTAX_MTU: u16 = 2;
    let (kind, rest) = (*row.get(7)?, row.get(12..)?);
    let via = attribute(rest, RTA_VIA).and_then(|via| address(via.get(2..)?));
    let metrics = attribute(rest, RTA_METRICS).unwrap_or_default();
    Some(Route {
        kind,
        device: attribute(rest, RTA_OIF).and_then(number).unwrap_or(0),
        gateway: attribute(rest, RTA_GATEWAY).and_then(address).or(via),
        source: attribute(rest, RTA_PREFSRC).and_then(address),
        mtu: attribute(metrics, RTAX_MTU).and_then(number),
    })
}

/// A `struct ifinfomsg` and its attributes.
fn link(row: &[u8]) -> Option<Link> {
    const IFLA_IFNAME: u16 = 3;
    const IFLA_MTU: u16 = 4;
    let index = number(row.get(4..)?)?;
    let flags = number(row.get(8..)?)? as libc::c_int;
    let rest = row.get(16..)?;
    let name = attribute(rest, IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name));
    Some(Link {
        device: Device::new(index, &name),
        mtu: attribute(rest, IFLA_MTU).and_then(number)?,
        up: flags & libc::IFF_UP != 0,
        loopback: flags & libc::IFF_LOOPBACK != 0,
    })
}

/// A `struct ifaddrmsg` and its attributes. On a point-to-point link IFA_ADDRESS is the other end's.
fn own(row: &[u8]) -> Option<HostAddress> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    let (prefix, scope) = (*row.get(1)?, *row.get(3)?);
    let (device, rest) = (number(row.get(4..)?)?, row.get(8..)?);
    let mut all: Vec<(u16, &[u8])> = attributes(rest).collect();
    all.retain(|(kind, _)| [IFA_ADDRESS, IFA_LOCAL].contains(kind));
    let local = all.iter().max_by_key(|(kind, _)| *kind)?;
    Some(HostAddress {
        address: address(local.1)?,
        device,
        has_network: u32::from(prefix) < local.1.len() as u32 * 8,
        global: scope < libc::RT_SCOPE_LINK,
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Neighbour {
    address: IpAddr,
    device: u32,
    ether: Option<Ether>,
    /// The kernel has asked for it, and has had no answer.
    silent: bool,
}

/// A `struct ndmsg` and its attributes.
fn neighbour(row: &[u8]) -> Option<Neighbour> {
    // linux/neighbour.h
    const NDA_DST: u16 = 1;
    const NDA_LLADDR: u16 = 2;
    const NUD_INCOMPLETE: u16 = 0x01;
    const NUD_FAILED: u16 = 0x20;
    let state = get(row, 8).map(u16::from_ne_bytes)?;
    let rest = row.get(12..)?;
    let ether = attribute(rest, NDA_LLADDR).and_then(|ether| ether.try_into().ok());
    Some(Neighbour {
        address: attribute(rest, NDA_DST).and_then(address)?,
        device: number(row.get(4..)?)?,
        ether: ether.map(Ether),
        silent: state & (NUD_INCOMPLETE | NUD_FAILED) != 0,
    })
}

/// What holds for any row of any table.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    crate::kernel::interface::withstand(bytes);
    if let Some(link) = link(bytes) {
        let name = link.device.to_string();
        assert!(!name.contains('\0') && name.chars().count() < crate::words::hop::NAME_LENGTH);
    }
    let addresses = [
        route(bytes).and_then(|route| route.gateway),
        own(bytes).map(|own| own.address),
        neighbour(bytes).map(|neighbour| neighbour.address),
    ];
    for address in addresses.into_iter().flatten() {
        let octets = octets(address);
        assert!(bytes.windows(octets.len()).any(|part| part == octets));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first four bytes of a header, and the number of an interface.
    fn of_device(begin: [u8; 4], device: u32) -> Vec<u8> {
        [begin, device.to_ne_bytes()].concat()
    }

    /// `struct ndmsg` of a neighbour behind interface 3.
    fn ndmsg(state: u16) -> Vec<u8> {
        let rest = [state.to_ne_bytes(), [0, 1]].concat();
        [of_device([2, 0, 0, 0], 3), rest].concat()
    }

    fn row(header: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut row = header.to_vec();
        for (kind, value) in attributes {
            put_attribute(&mut row, *kind, value);
        }
        row
    }

    #[test]
    fn loopback_is_there_and_local() {
        let mut routing = Routing::open().unwrap();
        let links = routing.links().unwrap();
        let lo = links.iter().find(|link| link.loopback).unwrap();
        assert_eq!(lo.device.to_string(), "lo");
        let here = routing.to([127, 0, 0, 1].into(), None).unwrap().unwrap();
        assert_eq!((here.kind, here.device), (libc::RTN_LOCAL, lo.device.index));
        assert_eq!(here.gateway, None);
        let own = routing.addresses().unwrap();
        let ours = own.iter().find(|own| own.address.is_loopback()).unwrap();
        assert_eq!(ours.device, lo.device.index);
        assert!(!ours.global);
    }

    #[test]
    fn reads_what_a_route_has() {
        let header = [2, 32, 0, 0, 254, 0, 0, 1, 0, 2, 0, 0];
        let metrics = row(&[], &[(2, &1400u32.to_ne_bytes())]);
        let bytes = row(
            &header,
            &[
                (1, &[10, 0, 0, 2]),
                (4, &7u32.to_ne_bytes()),
                (5, &[10, 0, 0, 254]),
                (7, &[10, 0, 0, 1]),
                (8, &metrics),
            ],
        );
        let expected = Route {
            kind: libc::RTN_UNICAST,
            device: 7,
            gateway: Some([10, 0, 0, 254].into()),
            source: Some([10, 0, 0, 1].into()),
            mtu: Some(1400),
        };
        assert_eq!(route(&bytes), Some(expected));
        // RTA_VIA, a router of the other IP version: its family, and its address.
        let mut via = vec![10, 0];
        via.extend([0xfd; 16]);
        let bytes = row(&header, &[(4, &7u32.to_ne_bytes()), (18, &via)]);
        assert_eq!(route(&bytes).unwrap().gateway, Some([0xfd; 16].into()));
    }

    #[test]
    fn an_own_address_is_not_the_other_ends() {
        let header = of_device([2, 32, 0, 0], 3);
        let bytes = row(&header, &[(1, &[10, 0, 0, 9]), (2, &[10, 0, 0, 1])]);
        let own = own(&bytes).unwrap();
        assert_eq!(own.address, IpAddr::from([10, 0, 0, 1]));
        assert!(own.global && own.device == 3 && !own.has_network);
    }

    #[test]
    fn a_neighbour_has_an_ethernet_address_or_none() {
        let ether = [0x02, 0xa, 0, 0, 0, 0xff];
        let bytes = row(&ndmsg(2), &[(1, &[10, 0, 0, 2]), (2, &ether)]);
        let known = neighbour(&bytes).unwrap();
        assert_eq!((known.address, known.device), ([10, 0, 0, 2].into(), 3));
        assert_eq!(known.ether.unwrap().to_string(), "02:0a:00:00:00:ff");
        assert!(!known.silent);
        let unknown = neighbour(&row(&ndmsg(0x20), &[(1, &[10, 0, 0, 2])])).unwrap();
        assert!(unknown.silent && unknown.ether.is_none());
    }

    #[test]
    fn names_fit() {
        assert_eq!(Device::new(1, "eth0").to_string(), "eth0");
        let long = Device::new(1, "a-name-that-is-too-long");
        assert_eq!(long.to_string(), "a-name-that-is-");
    }
}

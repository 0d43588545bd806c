//! For a run: each socket that is bound to its ports gets SO_REUSEPORT, and is noted.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Result;

use super::on_ports_programs::{
    ADDRESS, BOUND, DEVICE, GROUP, Inner, NOTED_LENGTH, OWNER, PORT, SHARES, USER, V6ONLY,
    note_bound, note_closed, share_ports,
};
use crate::kernel::bpf::{Kind, Map, MapKind, Program};
use crate::kernel::instructions::Instruction;
use crate::kernel::netlink::get;
use crate::kernel::room::{Place, programs};
use crate::words::family::Family;

/// How many sockets are known at a time. The one that was bound first is forgotten first.
const SOCKETS: u32 = 1_024;
/// No socket has the cookie 0.
const NO_COOKIE: [u8; 8] = [0; 8];

/// What the programs have noted of a socket as a process has bound it, or has tried to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Binding {
    /// The control group of the process.
    pub(crate) group: u64,
    /// The user whose socket it is: that of the process where the kernel does not tell.
    pub(crate) uid: u32,
    /// The user that runs the process.
    pub(crate) user: u32,
    /// The socket had SO_REUSEPORT by itself.
    pub(crate) shares: bool,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// It takes no connections of IPv4. False where the kernel does not tell.
    pub(crate) v6only: bool,
    /// The number of the device that it is bound to; 0: to none.
    pub(crate) device: u32,
    /// bind(2) has succeeded. The socket may be closed.
    pub(crate) bound: bool,
}

impl Binding {
    /// Whether the kernel lets a listener at that place, bound to the device with that number, share its
    /// connections with sockets of the same user only (inet_rcv_saddr_equal(), inet_bind_conflict()).
    pub(crate) fn meets(&self, place: &Place, device: u32) -> bool {
        let devices = self.device == 0 || device == 0 || self.device == device;
        self.port == place.port && devices && self.meets_address(place)
    }

    fn meets_address(&self, place: &Place) -> bool {
        match (self.address, place.address.to_canonical()) {
            (IpAddr::V4(_), IpAddr::V6(there)) => there.is_unspecified() && !place.v6only,
            (IpAddr::V6(own), IpAddr::V4(_)) => own.is_unspecified() && !self.v6only,
            (own, there) => own == there || own.is_unspecified() || there.is_unspecified(),
        }
    }
}

/// The sockets that were bound while the programs were in their places, by their cookies.
#[derive(Debug)]
pub(crate) struct Bindings(Map<8, NOTED_LENGTH>);

impl Bindings {
    /// # Errors
    /// This process may not make such a map.
    pub(crate) fn new() -> Result<Bindings> {
        Ok(Bindings(Map::new(MapKind::ForgetfulHash, SOCKETS)?))
    }

    /// Those of another process.
    ///
    /// # Errors
    /// It is no such map.
    pub(crate) fn adopt(map: OwnedFd) -> Result<Bindings> {
        Ok(Bindings(Map::adopt(map)?))
    }

    /// `None`: no process has tried to bind the socket meanwhile.
    pub(crate) fn of(&self, cookie: u64) -> Option<Binding> {
        let value = self.0.get(cookie.to_ne_bytes())?;
        let word = |at: i16| get(&value, at as usize).map(u32::from_ne_bytes);
        let address: [u8; 16] = get(&value, ADDRESS as usize)?;
        Some(Binding {
            group: get(&value, GROUP as usize).map(u64::from_ne_bytes)?,
            uid: word(OWNER)?,
            user: word(USER)?,
            shares: word(SHARES)? != 0,
            address: IpAddr::from(address).to_canonical(),
            port: port_of(word(PORT)?),
            v6only: word(V6ONLY)? != 0,
            device: word(DEVICE)?,
            bound: word(BOUND)? != 0,
        })
    }

    /// All of them, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u64, Binding)> {
        let cookies = self.0.keys(NO_COOKIE).into_iter().map(u64::from_ne_bytes);
        cookies.filter_map(|cookie| Some((cookie, self.of(cookie)?)))
    }
}

/// How many sockets were bound to each port meanwhile and are not closed, as far as the kernel can count that.
#[derive(Debug)]
pub(crate) struct Newcomers(Map<4, 4>);

impl Newcomers {
    /// # Errors
    /// This process may not make such a map.
    pub(crate) fn new(ports: &[u16]) -> Result<Newcomers> {
        let map = Map::new(MapKind::Hash, 2 * ports.len().max(1) as u32)?;
        for port in ports {
            map.put(by_hooks(*port).to_ne_bytes(), [0; 4])?;
        }
        Ok(Newcomers(map))
    }

    /// The program of a group finds no listeners for a moment, since they are just being put elsewhere.
    pub(crate) fn set_moving(&self, port: u16, moving: bool) {
        let value = u32::from(moving).to_ne_bytes();
        let _ = self.0.put(while_moving(port).to_ne_bytes(), value);
    }

    /// For the program of a group at that port.
    pub(crate) fn of(&self, port: u16) -> programs::Newcomers {
        programs::Newcomers {
            map: self.0.number(),
            keys: [by_hooks(port), while_moving(port)],
        }
    }
}

/// As a program finds the port in struct bpf_sock_addr.
fn by_hooks(port: u16) -> u32 {
    u32::from(port.to_be())
}

/// The port that [`by_hooks`] turns into this.
fn port_of(by_hooks: u32) -> u16 {
    u16::from_be(by_hooks as u16)
}

fn while_moving(port: u16) -> u32 {
    by_hooks(port) | 1 << 16
}

impl AsFd for Bindings {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The programs for TCP sockets that are bound to these ports in the network namespace with that cookie, before and
/// after each bind(2), of each IP version, and as they are closed. Loaded, and linked to nothing.
///
/// # Errors
/// The kernel lets no such program set the option (Linux 6.1), or this process may not load it.
pub(crate) fn programs(
    ports: &[u16],
    netns: u64,
    bindings: &Bindings,
    newcomers: &Newcomers,
) -> Result<[(Kind, Program); 5]> {
    let (map, newcomers) = (bindings.0.number(), newcomers.0.number());
    let (bound, inner) = (note_bound(map, newcomers), Inner::of_kernel());
    let share = |family| share_ports(family, ports, netns, map, inner);
    let load = |kind, name, program: &[Instruction]| {
        Ok::<_, anyhow::Error>((kind, Program::load(kind, name, program)?))
    };
    Ok([
        load(Kind::Bind4, "gate_bind4", &share(Family::V4))?,
        load(Kind::Bind6, "gate_bind6", &share(Family::V6))?,
        load(Kind::Bound4, "gate_bound4", &bound)?,
        load(Kind::Bound6, "gate_bound6", &bound)?,
        load(Kind::Release, "gate_closed", &note_closed(map, newcomers))?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::sockets::Device;

    /// A program stores what it has loaded, all four bytes.
    #[test]
    fn a_port_is_read_as_the_programs_note_it() {
        assert_eq!(port_of(by_hooks(8080)), 8080);
        assert_ne!(by_hooks(8080), while_moving(8080));
    }

    #[test]
    fn a_socket_meets_a_room_where_they_would_share_connections() {
        let tries = |address: &str, v6only| Binding {
            group: 1,
            uid: 1,
            user: 1,
            shares: false,
            address: address.parse().unwrap(),
            port: 80,
            v6only,
            device: 0,
            bound: false,
        };
        let at = |address: &str, v6only| Place {
            address: address.parse().unwrap(),
            port: 80,
            v6only,
            device: Device::Any,
            uid: 0,
        };
        let meets = |own: (&str, bool), there: (&str, bool)| {
            tries(own.0, own.1).meets(&at(there.0, there.1), 0)
        };
        for (own, there, expected) in [
            (("0.0.0.0", false), ("0.0.0.0", false), true),
            (("127.0.0.1", false), ("0.0.0.0", false), true),
            (("0.0.0.0", false), ("127.0.0.1", false), true),
            (("127.0.0.2", false), ("127.0.0.1", false), false),
            (("::", true), ("0.0.0.0", false), false),
            (("::", false), ("0.0.0.0", false), true),
            (("::", false), ("127.0.0.1", false), true),
            (("::1", false), ("0.0.0.0", false), false),
            (("0.0.0.0", false), ("::", true), false),
            (("127.0.0.1", false), ("::", false), true),
            (("127.0.0.1", false), ("::ffff:127.0.0.1", false), true),
            (("::1", false), ("::", true), true),
        ] {
            assert_eq!(meets(own, there), expected, "{own:?} {there:?}");
        }
        let room = at("0.0.0.0", false);
        let mut tried = tries("0.0.0.0", false);
        tried.device = 7;
        assert!(tried.meets(&room, 0) && tried.meets(&room, 7) && !tried.meets(&room, 8));
        tried.port = 81;
        assert!(!tried.meets(&room, 0));
    }
}

//! For `syngate keep --any`: SO_REUSEPORT for a service each time it comes back. One socket at a time has it at each
//! place: the first that is bound there.
//!
//! Nobody announces a crash, and the next process may bind a millisecond later, before a keep has looked. So the
//! programs of the control groups are linked all the time, and know by themselves whether the service listens. A map
//! has the socket that has each place, from its bind(2) until its last descriptor is closed, which a program for
//! BPF_CGROUP_INET_SOCK_RELEASE notes. The first socket that is bound to a free place gets SO_REUSEPORT. Others are
//! refused with EADDRINUSE, also if they set the option: the kernel would let them in, since the service has it.
//!
//! A service may begin to set the option itself, as nginx does in a reload with `reuseport` added: its new sockets are
//! bound beside the old one. With `--unit` processes of the unit are let in, which its control group tells. Without, a
//! process that has the listener itself is, from its second try on: it is refused and noted, and the keep looks at its
//! files. nginx tries five times. Not taken: a program for each setsockopt(2) of the host, which would see the option set.
//!
//! Two things could keep the service itself out. Rooms are bound to the same place, and set the option, so the hook
//! tells them apart by that. And a copy of a listener keeps its place taken while its process is dead. So a keep says
//! in a map whether it has copies (`Lent::set_busy`), and then the hook lets the next socket have the place. The guard of
//! a dead keep says so in the same map.
//!
//! The price for all sockets of the host: closing a socket takes 0.1 to 0.2 µs more, and 2 µs more if it is one of
//! TCP that was never connected (on a machine where such a socket takes 6 µs). A connection, 37 µs, showed no
//! difference.
//!
//! Not taken: to link the hook in gaps only (too late for a fast restart); bpf_sk_lookup_tcp() in the hook (it chooses
//! a member of the group by a hash, rooms included); a map of sockets that programs can look up
//! (BPF_MAP_TYPE_SOCKHASH puts operations of its own into the service's listener).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::libc;

use super::first_comer_programs::{
    Maps, PLACE_GROUP, PLACE_REFUSALS, PLACE_REFUSED, PLACE_SHARED, PLACE_SIZE, PLACE_USER,
    SOCKET_SHARES, SOCKET_SIZE, note_release, share_with_first,
};
use super::on_ports_programs::Inner;
use crate::kernel::bpf::{Kind, Map, MapKind, Program};
use crate::kernel::maps::Counter;
use crate::kernel::netlink::get;
use crate::kernel::room::Place;
use crate::words::family::Family;

/// How many places, and sockets that have one, the programs know.
pub(crate) const MOST_PLACES: u32 = 1_024;

/// IP version, port and address, four bytes each or, of the address, four times four, as the programs read them.
const KEY_SIZE: usize = 6 * 4;

/// The sockets that have SO_REUSEPORT from syngate, and the places where the next ones get it.
#[derive(Debug)]
pub(crate) struct Lent {
    sockets: Map<8, SOCKET_SIZE>,
    /// None in a process that has not been given them.
    places: Option<Map<KEY_SIZE, PLACE_SIZE>>,
    busy: Option<Counter>,
}

impl Lent {
    /// # Errors
    /// This process may not make such maps.
    pub(crate) fn new() -> Result<Lent> {
        Ok(Lent {
            sockets: Map::new(MapKind::Hash, MOST_PLACES)?,
            places: Some(Map::new(MapKind::Hash, MOST_PLACES)?),
            busy: Some(Counter::new()?),
        })
    }

    /// The sockets that another process knows.
    ///
    /// # Errors
    /// It is no such map.
    pub(crate) fn adopt(sockets: OwnedFd) -> Result<Lent> {
        Ok(Lent {
            sockets: Map::adopt(sockets)?,
            places: None,
            busy: None,
        })
    }

    /// The places that the other process knows.
    ///
    /// # Errors
    /// It is no such map.
    pub(crate) fn know_places(&mut self, places: OwnedFd) -> Result<()> {
        self.places = Some(Map::adopt(places)?);
        Ok(())
    }

    /// Where the other process says whether it is busy. From now on this one says so.
    ///
    /// # Errors
    /// It is no such map.
    pub(crate) fn know_busy(&mut self, busy: OwnedFd) -> Result<()> {
        self.busy = Some(Counter::adopt(busy)?);
        Ok(())
    }

    /// The same sockets and places once more.
    ///
    /// # Errors
    /// This process may open no more files.
    pub(crate) fn again(&self) -> io::Result<Lent> {
        Ok(Lent {
            sockets: self.sockets.again()?,
            places: self.places.as_ref().map(Map::again).transpose()?,
            busy: self.busy.as_ref().map(Counter::again).transpose()?,
        })
    }

    /// For another process.
    pub(crate) fn places(&self) -> Option<BorrowedFd<'_>> {
        self.places.as_ref().map(AsFd::as_fd)
    }

    /// For another process, which goes on when this one has died.
    pub(crate) fn busy(&self) -> Option<BorrowedFd<'_>> {
        self.busy.as_ref().map(AsFd::as_fd)
    }

    /// The programs, loaded, and linked to nothing.
    ///
    /// # Errors
    /// The kernel lets no such program set the option (Linux 6.1), or this process may not load it.
    pub(crate) fn programs(&self, netns: u64) -> Result<[(Kind, Program); 3]> {
        let maps = Maps {
            places: self.places.as_ref().map_or(-1, Map::number),
            sockets: self.sockets.number(),
            busy: self.busy.as_ref().map_or(-1, Counter::number),
        };
        let load = |kind, name, program: &[_]| {
            Ok::<_, anyhow::Error>((kind, Program::load(kind, name, program)?))
        };
        let inner = Inner::of_kernel();
        let share = |family| share_with_first(family, netns, maps, inner);
        Ok([
            load(Kind::Release, "gate_release", &note_release(maps))?,
            load(Kind::Bind4, "gate_lend4", &share(Family::V4))?,
            load(Kind::Bind6, "gate_lend6", &share(Family::V6))?,
        ])
    }

    /// The socket with that cookie has the place. The caller has a copy of it: it must not be closed yet. `unit`: the
    /// control group whose processes may bind sockets there that set SO_REUSEPORT themselves.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn lend(&self, place: &Place, cookie: u64, unit: Option<u64>) -> Result<()> {
        self.give(place, cookie, false, unit)
    }

    /// The same with one that has set SO_REUSEPORT itself: the kernel decides who may bind beside it.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn claim(&self, place: &Place, cookie: u64, unit: Option<u64>) -> Result<()> {
        self.give(place, cookie, true, unit)
    }

    fn give(&self, place: &Place, cookie: u64, shares: bool, unit: Option<u64>) -> Result<()> {
        let key = key(place);
        let mut socket = [0; SOCKET_SIZE];
        socket[..KEY_SIZE].copy_from_slice(&key);
        let shares = u32::from(shares).to_ne_bytes();
        socket[SOCKET_SHARES..SOCKET_SHARES + 4].copy_from_slice(&shares);
        let mut value = [0; PLACE_SIZE];
        value[..PLACE_USER].copy_from_slice(&cookie.to_ne_bytes());
        value[PLACE_USER..PLACE_SHARED].copy_from_slice(&place.uid.to_ne_bytes());
        if let Some(group) = unit {
            value[PLACE_SHARED..PLACE_GROUP].copy_from_slice(&1u32.to_ne_bytes());
            value[PLACE_GROUP..PLACE_REFUSED].copy_from_slice(&group.to_ne_bytes());
        }
        let put = self.sockets.put(cookie.to_ne_bytes(), socket);
        let put = put.and_then(|()| match &self.places {
            Some(places) => places.put(key, value),
            None => Ok(()),
        });
        put.context("too many listeners lack SO_REUSEPORT")
    }

    /// The cookie of the socket that has the place; it need not listen.
    pub(crate) fn owner(&self, place: &Place) -> Option<u64> {
        let value = self.places.as_ref()?.get(key(place))?;
        let cookie = get(&value, 0).map(u64::from_ne_bytes);
        cookie.filter(|cookie| *cookie != 0)
    }

    /// When the process was started that was refused there the last time although its socket has SO_REUSEPORT, in ns since
    /// boot, and how often that was. `None`: none was, or the kernel does not tell.
    pub(crate) fn refused(&self, place: &Place) -> Option<(u64, u32)> {
        let value = self.places.as_ref()?.get(key(place))?;
        let refusals = get(&value, PLACE_REFUSALS).map(u32::from_ne_bytes)?;
        let started = get(&value, PLACE_REFUSED).map(u64::from_ne_bytes)?;
        (refusals > 0).then_some((started, refusals))
    }

    /// The place is free, if that socket has it: the next one that is bound there has it then. The option stays.
    pub(crate) fn free(&self, place: &Place, owner: u64) {
        let Some(places) = &self.places else {
            return;
        };
        let value = places.get(key(place));
        let value = value.filter(|v| get(v, 0).map(u64::from_ne_bytes) == Some(owner));
        if let Some(mut value) = value {
            value[..PLACE_USER].fill(0);
            // Else the socket keeps it.
            let _ = places.put(key(place), value);
        }
    }

    /// From now on nobody gets the option there, and nobody is refused.
    pub(crate) fn forget(&self, place: &Place) {
        if let Some(places) = &self.places {
            places.remove(key(place));
        }
    }

    /// Whether the socket has SO_REUSEPORT from syngate.
    pub(crate) fn has(&self, cookie: u64) -> bool {
        let socket = self.sockets.get(cookie.to_ne_bytes());
        let shares = socket.and_then(|socket| get(&socket, SOCKET_SHARES).map(u32::from_ne_bytes));
        shares == Some(0)
    }

    /// This process binds rooms or has copies of listeners, or does so no longer.
    pub(crate) fn set_busy(&self, busy: bool) {
        self.busy.iter().for_each(|it| it.set(busy.into()));
    }
}

impl AsFd for Lent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sockets.as_fd()
    }
}

/// As struct bpf_sock_addr has the address and the port of bind(2): in network byte order.
fn key(place: &Place) -> [u8; KEY_SIZE] {
    let (family, address) = match place.address {
        IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
    };
    let port = u32::from(place.port.to_be());
    let mut key = [0; KEY_SIZE];
    key[..4].copy_from_slice(&family.to_ne_bytes());
    key[4..8].copy_from_slice(&port.to_ne_bytes());
    key[8..8 + address.len()].copy_from_slice(&address);
    key
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    use nix::errno::Errno;
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockname, setsockopt, socket,
        sockopt,
    };
    use nix::unistd::geteuid;

    use super::*;
    use crate::kernel::control_group::{self, open_root};
    use crate::kernel::instructions::Helper;
    use crate::kernel::instructions::Instruction::{
        Add, Call, Copy, Exit, Set, SetMap, StoreValue,
    };
    use crate::kernel::instructions::Register::{R0, R1, R2, Stack};
    use crate::kernel::maps::Listeners;
    use crate::kernel::room::copy;
    use crate::kernel::sockets::Device;
    use crate::kernel::sockets::holders::{self, ticks};
    use crate::kernel::sockets::netns;

    fn place(address: &str) -> Place {
        Place {
            address: address.parse().unwrap(),
            port: 80,
            v6only: true,
            device: Device::Any,
            uid: 33,
        }
    }

    #[test]
    fn the_kernel_takes_the_programs_and_the_maps() {
        let lent = Lent::new().unwrap();
        assert_eq!(lent.programs(1).unwrap().len(), 3);
        lent.lend(&place("10.0.0.1"), 7, None).unwrap();
        lent.lend(&place("::1"), 8, None).unwrap();
        lent.forget(&place("::1"));
        assert!(lent.has(7) && lent.has(8) && !lent.has(9));
        let other = Lent::adopt(lent.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert!(other.has(7) && !other.has(9));
    }

    #[test]
    fn a_place_is_known_as_bind_names_it() {
        let bytes = |address| key(&place(address));
        let v4 = bytes("10.0.0.1");
        assert_eq!(v4[..4], (libc::AF_INET as u32).to_ne_bytes());
        assert_eq!(v4[8..], [[10, 0, 0, 1].as_slice(), &[0; 12]].concat());
        assert_eq!(v4[4..8], u32::from(80u16.to_be()).to_ne_bytes());
        let v6 = bytes("fd00::2");
        assert_eq!((v6[8], v6[9], v6[23]), (0xfd, 0, 2));
    }

    /// A socket that is bound to the address, and listens; and whether it has SO_REUSEPORT.
    fn bound(to: SocketAddr, shares: bool) -> nix::Result<(OwnedFd, bool)> {
        let family = match to {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&made, sockopt::ReuseAddr, &true)?;
        setsockopt(&made, sockopt::ReusePort, &shares)?;
        bind(made.as_raw_fd(), &SockaddrStorage::from(to))?;
        copy::set_backlog(&made, 1)?;
        let has = copy::shares_port(&made).unwrap();
        Ok((made, has))
    }

    /// The rules of the programs, one by one, on an address of this host's.
    #[test]
    fn one_socket_at_a_time_gets_the_option() {
        for address in ["127.0.0.1", "::1"] {
            // Nobody else has its port, as long as it is open.
            let (first, _) = bound(SocketAddr::new(address.parse().unwrap(), 0), false).unwrap();
            let to: SockaddrStorage = getsockname(first.as_raw_fd()).unwrap();
            let port = to.as_sockaddr_in().map(|v4| v4.port());
            let port = port.or(to.as_sockaddr_in6().map(|v6| v6.port())).unwrap();
            let place = Place {
                port,
                uid: geteuid().as_raw(),
                ..place(address)
            };
            let to = SocketAddr::new(place.address, port);
            let lent = Lent::new().unwrap();
            let programs = lent.programs(netns::identity()).unwrap();
            let root = open_root().unwrap();
            let _links = programs.map(|(kind, program)| program.link(kind, root.as_fd()).unwrap());

            let cookie = |socket: &OwnedFd| copy::cookie(socket).unwrap();
            lent.lend(&place, cookie(&first), None).unwrap();
            copy::set_shares_port(&first, true).unwrap();
            let refused = |shares| bound(to, shares).unwrap_err();
            assert_eq!(refused(false), Errno::EADDRINUSE);
            assert_eq!(lent.refused(&place), None, "it has no option");
            assert_eq!(
                refused(true),
                Errno::EADDRINUSE,
                "the kernel would let it in"
            );
            let (started, refusals) = lent.refused(&place).unwrap();
            let me = holders::started(std::process::id() as i32);
            assert_eq!((Some(ticks(started)), refusals), (me, 1));

            let here = control_group::own().unwrap().metadata().unwrap().ino();
            let elsewhere = here + 1;
            lent.lend(&place, cookie(&first), Some(elsewhere)).unwrap();
            assert_eq!(refused(true), Errno::EADDRINUSE, "of another unit");
            lent.lend(&place, cookie(&first), Some(here)).unwrap();
            let (beside, _) = bound(to, true).expect("of the same unit");
            assert!(!lent.has(cookie(&beside)), "it had the option");
            assert_eq!(refused(false), Errno::EADDRINUSE, "the kernel decides");
            drop(beside);
            lent.lend(&place, cookie(&first), None).unwrap();

            lent.set_busy(true);
            let (room, _) = bound(to, true).unwrap();
            assert!(!lent.has(cookie(&room)), "it had the option");
            let (second, shares) = bound(to, false).unwrap();
            assert!(
                shares && lent.has(cookie(&second)),
                "the first may be just a copy"
            );
            lent.set_busy(false);
            assert_eq!(refused(false), Errno::EADDRINUSE);
            drop(first);
            assert_eq!(
                refused(false),
                Errno::EADDRINUSE,
                "the second has the place"
            );
            let gone = cookie(&second);
            drop(second);
            assert!(!lent.has(gone));
            let (third, shares) = bound(to, false).unwrap();
            assert!(shares, "beside the room");
            drop((third, room));

            let (own, _) = bound(to, true).unwrap();
            assert!(!lent.has(cookie(&own)));
            bound(to, true).expect("it had the option itself, so the kernel decides");
            drop(own);
            lent.forget(&place);
            let (_alone, shares) = bound(to, false).unwrap();
            assert!(!shares);
        }
    }

    #[test]
    fn an_array_of_listeners_is_closed_to_programs_for_bind() {
        let array = Listeners::new(1).unwrap();
        let look = |map| {
            let program = [
                StoreValue(Stack, -4, 0),
                SetMap(R1, map),
                Copy(R2, Stack),
                Add(R2, -4),
                Call(Helper::MapLookup),
                Set(R0, 1),
                Exit,
            ];
            Program::load(Kind::Bind4, "gate_try", &program)
        };
        assert!(look(array.number()).is_err());
        assert!(look(Counter::new().unwrap().number()).is_ok());
    }
}

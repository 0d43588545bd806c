//! What makes listeners members of one SO_REUSEPORT group.

use std::net::IpAddr;

use crate::kernel::sockets::{Device, Listener, serves};
use crate::words::family::Family;

/// The kernel puts two listeners with SO_REUSEPORT into one group if they have all of this in common
/// (inet_reuseport_add_sock()), and makes no choice across groups.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) v6only: bool,
    pub(crate) device: Device,
    /// The user that has made the socket.
    pub(crate) uid: u32,
}

impl Place {
    pub(crate) fn of(listener: &Listener) -> Place {
        Place {
            address: listener.address,
            port: listener.port,
            v6only: listener.v6only,
            device: listener.device.clone(),
            uid: listener.uid,
        }
    }

    /// Whether [`Place::of`] the listener is this one.
    pub(crate) fn is_of(&self, listener: &Listener) -> bool {
        self.port == listener.port
            && self.address == listener.address
            && self.v6only == listener.v6only
            && self.uid == listener.uid
            && self.device == listener.device
    }

    /// Whether all connections to this place reach that other listener if nobody listens here, and no room does.
    pub(crate) fn is_covered_by(&self, listener: &Listener) -> bool {
        let there = (self.address, self.port, &self.device);
        let mut families = Family::ALL.into_iter();
        families.all(|family| {
            !serves(self.address, self.v6only, family) || listener.covers_at(there, family)
        })
    }

    /// Whether the listener is in another group, and takes connections from a listener here. The kernel prefers an
    /// address to a wildcard, a device to none, and IPv4 to IPv6 that takes IPv4, too (__inet_lookup_listener()).
    pub(crate) fn is_before(&self, listener: &Listener) -> bool {
        let there = (self.address, self.port, &self.device);
        let mut families = Family::ALL.into_iter();
        !self.is_of(listener)
            && families.any(|family| {
                serves(self.address, self.v6only, family) && listener.covers_at(there, family)
            })
    }

    /// As ss(8) shows it.
    pub(crate) fn shown(&self) -> String {
        let device = self.device.name();
        crate::kernel::sockets::shown(self.address, self.port, device.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: &str, v6only: bool) -> Listener {
        Listener::made_up(address, 80, v6only)
    }

    #[test]
    fn a_wildcard_covers_the_addresses_of_its_families() {
        let covers = |wide: (&str, bool), narrow: (&str, bool)| {
            Place::of(&listener(narrow.0, narrow.1)).is_covered_by(&listener(wide.0, wide.1))
        };
        let (v4, v6, dual) = (("0.0.0.0", false), ("::", true), ("::", false));
        let (one4, one6) = (("127.0.0.1", false), ("::1", false));
        assert!(covers(v4, one4) && covers(dual, one4) && covers(dual, v4));
        assert!(covers(v6, one6) && covers(dual, one6) && covers(dual, v6));
        assert!(!covers(v6, one4) && !covers(v4, one6) && !covers(v6, v4));
        assert!(!covers(v4, dual) && !covers(v6, dual), "one family only");
        assert!(!covers(one4, v4) && !covers(one4, ("127.0.0.2", false)));
        let place = Place::of(&listener("127.0.0.1", false));
        let mut other = listener("0.0.0.0", false);
        other.device = Device::Named("lo".to_owned());
        assert!(!place.is_covered_by(&other), "one device only");
        other.device = Device::Any;
        other.port = 81;
        assert!(!place.is_covered_by(&other));
    }

    #[test]
    fn what_is_before_which_listener() {
        let at = |address: &str, v6only| Listener::made_up(address, 80, v6only);
        let v4 = "0.0.0.0";
        for (room, listener, is_before) in [
            (at(v4, false), at("::", false), true),
            (at(v4, false), at("::", true), false),
            (at(v4, false), at(v4, false), false), // one group
            (at("10.0.0.1", false), at(v4, false), true),
            (at("10.0.0.1", false), at("::", false), true),
            (at("10.0.0.1", false), at("10.0.0.2", false), false),
            (at(v4, false), at("10.0.0.1", false), false),
            (at("::", true), at("::", false), true),
            (at("::", false), at("::", true), true),
            (at("::", false), at(v4, false), true),
            (at("fd00::1", false), at("::", true), true),
            (at("fd00::1", false), at(v4, false), false),
            (at("::ffff:10.0.0.1", false), at("10.0.0.1", false), true),
        ] {
            let shown = (room.shown(), room.v6only, listener.shown(), listener.v6only);
            assert_eq!(
                Place::of(&room).is_before(&listener),
                is_before,
                "{shown:?}"
            );
        }
        let on = |device: &str| Listener {
            device: Device::Named(device.to_owned()),
            ..at(v4, false)
        };
        let is_before = |room: Listener, listener: Listener| Place::of(&room).is_before(&listener);
        assert!(is_before(on("eth0"), at(v4, false)));
        assert!(!is_before(at(v4, false), on("eth0")), "it has these");
        assert!(!is_before(on("eth0"), on("eth1")));
        let user = Listener {
            uid: 33,
            ..at(v4, false)
        };
        assert!(is_before(at(v4, false), user));
        let port = Listener {
            port: 81,
            ..at("::", false)
        };
        assert!(!is_before(at(v4, false), port));
    }
}

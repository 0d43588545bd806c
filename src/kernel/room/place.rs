//! What makes listeners members of one SO_REUSEPORT group.

use std::net::IpAddr;

use crate::kernel::sockets::{Device, Listener};

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

    /// As ss(8) shows it.
    pub(crate) fn shown(&self) -> String {
        let device = self.device.name();
        crate::kernel::sockets::shown(self.address, self.port, device.as_deref())
    }
}

//! Services that have not come back. Pure.

use crate::decide::readiness::places;
use crate::kernel::sockets::Listener;
use crate::words::gated::Gated;
use crate::words::ports::PortSet;

#[derive(Debug, Clone, Default)]
pub(crate) struct Missing {
    /// The gated ports that wait for a listener.
    pub ports: PortSet,
    /// The gated ports on which anybody listens.
    pub shared: PortSet,
    /// The listeners that these services had.
    pub listeners: Vec<Listener>,
}

impl Missing {
    /// Adds what is missing at another time.
    pub(crate) fn add(&mut self, other: Missing) {
        let shared = other.shared.intersection(&other.ports);
        self.shared = self.shared.union(&shared);
        self.ports = self.ports.union(&other.ports);
        for listener in other.listeners {
            if !self.listeners.iter().any(|known| known.id == listener.id) {
                self.listeners.push(listener);
            }
        }
    }

    /// The ports, and on those where others still listen the addresses.
    pub(crate) fn shown(&self, gated: &Gated) -> String {
        let deserted = self.ports.minus(&self.shared);
        let is_shared = |l: &&Listener| {
            let served = gated.served_by(l.port);
            served.intersection(&deserted).is_empty()
        };
        let ports = (!deserted.is_empty()).then(|| gated.listen_ports.shown(&deserted));
        let addresses = places(self.listeners.iter().filter(is_shared));
        ports
            .into_iter()
            .chain(addresses)
            .collect::<Vec<_>>()
            .join(" ")
    }

    pub(crate) fn inodes(&self) -> Vec<u32> {
        self.listeners.iter().map(|l| l.inode).collect()
    }
}

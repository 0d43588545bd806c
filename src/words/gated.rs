//! What a run gates: ports, and which packets to them.

use crate::words::family::Family;
use crate::words::listen_ports::ListenPorts;
use crate::words::ports::PortSet;
use crate::words::scope::{Scope, Where};

/// What a run gates, and where its listeners are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gated {
    pub ports: PortSet,
    /// `--listen-port`.
    pub listen_ports: ListenPorts,
    /// Which packets to the ports.
    pub scope: Scope,
    /// The listeners live in our own network namespace.
    pub listeners_are_here: bool,
}

impl Gated {
    /// Whether packets reach their listeners as they come to the gate.
    pub(crate) fn listeners_are_addressed(&self) -> bool {
        self.scope.hook == Where::Input && self.addresses_are_known()
    }

    /// Whether clients connect to the addresses that the listeners have. Others' NAT comes behind ours,
    /// so the hook makes no difference.
    pub(crate) fn addresses_are_known(&self) -> bool {
        self.listeners_are_here && self.listen_ports.is_plain()
    }

    /// The listeners' ports.
    pub(crate) fn listener_ports(&self) -> PortSet {
        self.listen_ports.listeners_of(&self.ports)
    }

    /// Which local addresses the listeners may have. Where something changes a packet's destination
    /// between the gate and them, all: `--to` names the address that clients connect to.
    pub(crate) fn listener_scope(&self) -> Scope {
        match self.listeners_are_addressed() {
            true => self.scope.clone(),
            false => Scope::default(),
        }
    }

    /// The gated ports that listeners on this port serve.
    pub(crate) fn served_by(&self, port: u16) -> PortSet {
        self.listen_ports.served_by(port, &self.ports)
    }

    /// The gated ports that any of these listeners' ports serve.
    pub(crate) fn served_by_any(&self, ports: &PortSet) -> PortSet {
        let served = ports.iter().map(|port| self.served_by(port));
        served.fold(PortSet::EMPTY, |all, ports| all.union(&ports))
    }

    pub(crate) fn families(&self) -> impl Iterator<Item = Family> {
        let families = Family::ALL.into_iter();
        families.filter(|family| self.scope.gates(*family))
    }
}

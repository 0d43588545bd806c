//! The ports that a run gates, which packets to them, and where their listeners are.

use crate::words::family::Family;
use crate::words::listen_ports::ListenPorts;
use crate::words::ports::PortSet;
use crate::words::scope::{Scope, Where};

#[derive(Debug, Clone, Default)]
pub(crate) struct Gated {
    pub ports: PortSet,
    pub listen_ports: ListenPorts,
    pub scope: Scope,
    /// The listeners are in syngate's own network namespace.
    pub listeners_are_here: bool,
    /// The gate is in the prerouting hook, but nothing changes addresses behind it.
    pub early: bool,
}

impl Gated {
    /// Whether packets reach the listeners with the address and port that the gate sees.
    pub(crate) fn listeners_are_addressed(&self) -> bool {
        (self.early || self.scope.hook == Where::Input) && self.addresses_are_known()
    }

    /// Whether clients connect to the addresses that the listeners have. Other programs' NAT comes
    /// after the gate, so the hook makes no difference.
    pub(crate) fn addresses_are_known(&self) -> bool {
        self.listeners_are_here && self.listen_ports.is_plain()
    }

    pub(crate) fn listener_ports(&self) -> PortSet {
        self.listen_ports.listeners_of(&self.ports)
    }

    /// The local addresses that the listeners may have. Any address, where the packet's destination
    /// changes between the gate and them: `--to` names the address that clients connect to.
    pub(crate) fn listener_scope(&self) -> Scope {
        match self.listeners_are_addressed() {
            true => self.scope.clone(),
            false => Scope::default(),
        }
    }

    pub(crate) fn served_by(&self, port: u16) -> PortSet {
        self.listen_ports.served_by(port, &self.ports)
    }

    pub(crate) fn served_by_any(&self, ports: &PortSet) -> PortSet {
        let served = ports.iter().map(|port| self.served_by(port));
        served.fold(PortSet::EMPTY, |all, ports| all.union(&ports))
    }

    pub(crate) fn families(&self) -> impl Iterator<Item = Family> {
        let families = Family::ALL.into_iter();
        families.filter(|family| self.scope.gates(*family))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> PortSet {
        PortSet::parse(text, |_| None).unwrap()
    }

    #[test]
    fn where_the_gate_sees_the_addresses_of_listeners() {
        for (hook, early, here, listen_ports, addressed, known) in [
            (Where::Input, false, true, "", true, true),
            (Where::Prerouting, true, true, "", true, true),
            (Where::Prerouting, false, true, "", false, true),
            (Where::Input, false, false, "", false, false),
            (Where::Input, false, true, "80=8080", false, false),
        ] {
            let scope = Scope {
                hook,
                allow_local: true,
                ..Scope::default()
            };
            let listen_ports = match listen_ports {
                "" => ListenPorts::default(),
                text => ListenPorts::parse(text, |_| None).unwrap(),
            };
            let gated = Gated {
                ports: ports("80,443"),
                listen_ports,
                scope: scope.clone(),
                listeners_are_here: here,
                early,
            };
            let told = (gated.listeners_are_addressed(), gated.addresses_are_known());
            assert_eq!(told, (addressed, known), "{gated:?}");
            let any = Scope::default();
            let expected = if addressed { scope } else { any };
            assert_eq!(gated.listener_scope(), expected, "{gated:?}");
        }
    }

    #[test]
    fn ports_and_those_of_their_listeners() {
        let gated = Gated {
            ports: ports("80,81,443"),
            listen_ports: ListenPorts::parse("80=8080,81=8080", |_| None).unwrap(),
            ..Gated::default()
        };
        assert_eq!(gated.listener_ports(), ports("443,8080"));
        assert_eq!(gated.served_by_any(&ports("8080")), ports("80,81"));
        assert_eq!(gated.served_by_any(&ports("443,8080")), gated.ports);
        assert_eq!(gated.families().collect::<Vec<_>>(), Family::ALL);
    }
}

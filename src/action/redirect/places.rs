//! The addresses on which a standby has to listen.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::decide::readiness::uncovered;
use crate::kernel::sockets::Listener;
use crate::words::family::Family;
use crate::words::scope::Scope;

/// The addresses within `scope` on which the service listens and the standby does not. Without a
/// scope the service's addresses are not known here. In that case, and where the service does not
/// listen, any listener of the standby is enough.
pub(crate) fn missing(
    service: &[Listener],
    standby: &[Listener],
    port: u16,
    scope: Option<&Scope>,
) -> Vec<String> {
    let Some(scope) = scope.filter(|_| !service.is_empty()) else {
        return match standby {
            [] => vec![format!("port {port}")],
            _ => Vec::new(),
        };
    };
    let needed: Vec<Listener> = service
        .iter()
        .flat_map(|listener| needed(listener, port, scope))
        .collect();
    uncovered(&needed, standby)
}

/// The listeners that the standby needs to replace one of the service's, one for each gated IP
/// version. A wildcard listener is narrowed to the addresses of the gate.
fn needed(listener: &Listener, port: u16, scope: &Scope) -> Vec<Listener> {
    let families = Family::ALL.into_iter();
    let served = families.filter(|family| scope.gates(*family) && listener.serves(*family));
    let at = |address: IpAddr| Listener {
        address,
        port,
        v6only: true,
        ..listener.clone()
    };
    let of = |family| {
        let to = scope.to.of(family);
        let anywhere = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        if !listener.address.is_unspecified() {
            return vec![at(listener.address.to_canonical())];
        }
        match to.is_empty() || to.iter().any(|net| net.prefix_len() < net.max_prefix_len()) {
            true => vec![at(anywhere)],
            false => to.iter().map(|net| at(net.addr())).collect(),
        }
    };
    served.flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::scope::{Networks, parse_networks};

    #[test]
    fn the_standby_has_to_listen_wherever_the_service_does() {
        let any = || Listener::made_up("0.0.0.0", 80, false);
        let any6 = || Listener::made_up("::", 80, true);
        let standby = |address| Listener::made_up(address, 8080, false);
        for (service, there, lacks) in [
            (vec![any()], vec![standby("0.0.0.0")], ""),
            (vec![any()], vec![standby("::")], ""),
            (vec![any()], vec![standby("127.0.0.1")], "0.0.0.0:8080"),
            (vec![any(), any6()], vec![standby("0.0.0.0")], "[::]:8080"),
            (vec![any(), any6()], vec![standby("::")], ""),
            (
                vec![
                    Listener::made_up("10.0.0.1", 80, false),
                    Listener::made_up("10.0.0.2", 443, false),
                ],
                vec![standby("10.0.0.1")],
                "10.0.0.2:8080",
            ),
            (vec![any()], vec![], "0.0.0.0:8080"),
            (vec![], vec![], "port 8080"),
            (vec![], vec![standby("127.0.0.1")], ""),
        ] {
            let all = Scope::default();
            let lacking = missing(&service, &there, 8080, Some(&all)).join(" ");
            assert_eq!(lacking, lacks, "{service:?} {there:?}");
        }
        let elsewhere = missing(&[any()], &[standby("127.0.0.1")], 8080, None);
        assert!(elsewhere.is_empty());

        let dual = || Listener::made_up("::", 80, false);
        for (to, service, there, lacks) in [
            ("10.0.0.9", any(), "10.0.0.9", ""),
            ("10.0.0.9", any(), "10.0.0.8", "10.0.0.9:8080"),
            ("10.0.0.0/24", any(), "10.0.0.9", "0.0.0.0:8080"),
            ("0.0.0.0/0", dual(), "0.0.0.0", ""),
            ("0.0.0.0/0", dual(), "::", ""),
            ("10.0.0.9,fd00::9", dual(), "10.0.0.9", "[fd00::9]:8080"),
        ] {
            let scope = Scope {
                to: Networks::new(parse_networks(to).unwrap()),
                ..Scope::default()
            };
            let lacking = missing(&[service], &[standby(there)], 8080, Some(&scope));
            assert_eq!(lacking.join(" "), lacks, "--to {to}: {there}");
        }
        let scope = Scope {
            to: Networks::new(parse_networks("fd00::/64").unwrap()),
            ..Scope::default()
        };
        let six = Listener::made_up("::", 8080, true);
        let lacking = missing(&[dual()], &[six], 8080, Some(&scope));
        assert!(lacking.is_empty(), "IPv4 is not gated: {lacking:?}");
    }
}

use anyhow::Result;

use crate::host::Host;
use crate::pair::steer_by_flow;
use crate::trio::lan;

/// Some servers, and a client that reaches all of them.
///
/// ```text
///      client 10.82.0.254  fd82::fe
///         | eth0
///    +----+---------------- Host "switch", a bridge ---- ...
///    | eth0                    | eth0
///    server 10.82.0.1 fd82::1  server 10.82.0.2 fd82::2  ...
/// ```
#[derive(Debug)]
pub struct Fleet {
    /// Who connects.
    pub client: Host,
    /// Who is connected to, each at its [`address`](Self::address).
    pub servers: Vec<Host>,
    _switch: Host,
}

impl Fleet {
    /// Makes all of them, addresses up, and all packets of a connection on one CPU: see
    /// [`Pair::steered_by_flow`](crate::Pair::steered_by_flow).
    pub fn steered_by_flow(servers: usize) -> Result<Self> {
        let switch = Host::new()?;
        let client = switch.neighbour()?;
        let servers = (0..servers).map(|_| switch.neighbour());
        let servers = servers.collect::<Result<Vec<Host>>>()?;
        let addresses: Vec<[String; 2]> = (0..servers.len())
            .map(|n| [Self::address(n), format!("fd82::{:x}", n + 1)])
            .collect();
        let hosts = servers.iter().zip(&addresses);
        let hosts = hosts.map(|(host, [v4, v6])| (host, v4.as_str(), v6.as_str()));
        lan(&switch, hosts.chain([(&client, "10.82.0.254", "fd82::fe")]))?;
        servers
            .iter()
            .chain([&client])
            .try_for_each(steer_by_flow)?;
        Ok(Self {
            client,
            servers,
            _switch: switch,
        })
    }

    /// The IPv4 address of a server, counted from 0.
    pub fn address(server: usize) -> String {
        format!("10.82.0.{}", server + 1)
    }
}

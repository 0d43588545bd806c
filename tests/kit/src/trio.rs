use anyhow::Result;

use crate::host::Host;
use crate::pair::steer_by_flow;

/// The address that both nodes have, IPv4.
pub const VIP: &str = "10.79.0.100";
/// The address that both nodes have, IPv6.
pub const VIP6: &str = "fd79::100";
/// The addresses of the first node's own.
pub const NODE_A: &str = "10.79.0.1";
/// See [`NODE_A`].
pub const NODE_A6: &str = "fd79::1";
/// The addresses of the second node's own.
pub const NODE_B: &str = "10.79.0.2";
/// See [`NODE_B`].
pub const NODE_B6: &str = "fd79::2";
/// The address of the second node's own on the cable between the nodes.
pub const CROSS_B: &str = "10.80.0.2";
/// See [`CROSS_B`].
pub const CROSS_B6: &str = "fd80::2";

/// A pair of load balancers that share an address, and a client.
///
/// ```text
///      client 10.79.0.9  fd79::9
///         | eth0
///    +----+----- Host "switch", a bridge ----+
///    | eth0                                  | eth0
///    a 10.79.0.1  fd79::1                    b 10.79.0.2  fd79::2
///      10.79.0.100  fd79::100                  the same two on lo, not told to anybody
///    | cross 10.80.0.1  fd80::1              | cross 10.80.0.2  fd80::2
///    +---------------------------------------+
/// ```
///
/// A host that asks who has the shared addresses is told that `a` has; `b` takes packets to them all the
/// same.
#[derive(Debug)]
pub struct Trio {
    /// Who connects.
    pub client: Host,
    /// The node that has the shared addresses.
    pub a: Host,
    /// The other one.
    pub b: Host,
    _switch: Host,
}

impl Trio {
    /// Makes all of them, addresses up.
    pub fn new() -> Result<Self> {
        let switch = Host::new()?;
        let [client, a, b] = [
            switch.neighbour()?,
            switch.neighbour()?,
            switch.neighbour()?,
        ];
        let hosts = [
            (&client, "10.79.0.9", "fd79::9"),
            (&a, NODE_A, NODE_A6),
            (&b, NODE_B, NODE_B6),
        ];
        lan(&switch, hosts)?;
        a.plug("cross", &b, "cross")?;
        up(&a, "cross", "10.80.0.1", "fd80::1")?;
        up(&b, "cross", CROSS_B, CROSS_B6)?;
        shared(&a, "eth0")?;
        // Before the addresses are there: it neither answers for what is on lo, nor asks in its name.
        let quiet = [
            "net.ipv4.conf.all.arp_ignore=1",
            "net.ipv4.conf.all.arp_announce=2",
        ];
        b.run(["sysctl", "-q"].into_iter().chain(quiet))?;
        shared(&b, "lo")?;
        Ok(Self {
            client,
            a,
            b,
            _switch: switch,
        })
    }

    /// The same, and all packets of a connection are on one CPU: see
    /// [`Pair::steered_by_flow`](crate::Pair::steered_by_flow).
    pub fn steered_by_flow() -> Result<Self> {
        let trio = Self::new()?;
        [&trio.client, &trio.a, &trio.b]
            .map(steer_by_flow)
            .into_iter()
            .collect::<Result<()>>()?;
        Ok(trio)
    }

    /// How large packets on the cable between the nodes can be.
    pub fn cross_mtu(&self, bytes: u32) -> Result<()> {
        for host in [&self.a, &self.b] {
            host.run(["ip", "link", "set", "cross", "mtu", &bytes.to_string()])?;
        }
        Ok(())
    }
}

/// Plugs hosts, by their `eth0`, with these addresses, into a switch of theirs.
pub(crate) fn lan<'a>(
    switch: &Host,
    hosts: impl IntoIterator<Item = (&'a Host, &'a str, &'a str)>,
) -> Result<()> {
    let bridge = ["ip", "link", "add", "lan", "type", "bridge"];
    switch.run(bridge.iter().chain(&["stp_state", "0"]))?;
    switch.run(["ip", "link", "set", "lan", "up"])?;
    for (n, (host, v4, v6)) in hosts.into_iter().enumerate() {
        // Duplicate address detection would hold link-local addresses back, and so a host that looks for
        // a neighbour, for up to two seconds.
        host.run(["sysctl", "-q", "net.ipv6.conf.default.accept_dad=0"])?;
        let port = format!("port{}", n + 1);
        switch.plug(&port, host, "eth0")?;
        switch.run(["ip", "link", "set", &port, "master", "lan", "up"])?;
        up(host, "eth0", v4, v6)?;
    }
    Ok(())
}

fn up(host: &Host, port: &str, v4: &str, v6: &str) -> Result<()> {
    let (v4, v6) = (format!("{v4}/24"), format!("{v6}/64"));
    host.run(["ip", "address", "add", &v4, "dev", port])?;
    host.run(["ip", "address", "add", &v6, "dev", port, "nodad"])?;
    host.run(["ip", "link", "set", port, "up"])?;
    Ok(())
}

/// `/32` and `/128`, and never a source that is chosen by itself.
fn shared(host: &Host, port: &str) -> Result<()> {
    host.run(["ip", "address", "add", &format!("{VIP}/32"), "dev", port])?;
    let v6 = format!("{VIP6}/128");
    let add = ["ip", "address", "add", &v6, "dev", port, "nodad"];
    host.run(add.into_iter().chain(["preferred_lft", "0"]))?;
    Ok(())
}

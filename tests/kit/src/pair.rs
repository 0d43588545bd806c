use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};

use crate::host::{Host, rootless};

/// The server's IPv4 address.
pub const SERVER: &str = "10.77.0.1";
/// The server's IPv6 address.
pub const SERVER6: &str = "fd77::1";
/// The client's IPv4 address.
pub const CLIENT: &str = "10.77.0.2";
/// The client's IPv6 address.
pub const CLIENT6: &str = "fd77::2";
/// Addresses that the server routes to the client, who drops what comes for
/// them without a word: what connects from there leaves SYN_RECV behind.
pub const SCANNERS: &str = "10.78.0.0/16";
/// Where [`Pair::client_addresses`] are from.
pub const CLIENTS: &str = "10.81.0.0/16";
/// Where [`Pair::client_addresses6`] are from.
pub const CLIENTS6: &str = "fd81::/64";
/// How many addresses a client can have: all of [`CLIENTS`] but the first and the last.
const MOST: u32 = 65_534;

/// Two hosts and a cable between them, `eth0` on both.
#[derive(Debug)]
pub struct Pair {
    /// [`SERVER`] and [`SERVER6`].
    pub server: Host,
    /// [`CLIENT`] and [`CLIENT6`].
    pub client: Host,
}

impl Pair {
    /// Makes both hosts, addresses up.
    pub fn new() -> Result<Self> {
        let server = Host::new()?;
        let client = server.neighbour()?;
        server.plug("eth0", &client, "eth0")?;
        address(&server, SERVER, SERVER6)?;
        address(&client, CLIENT, CLIENT6)?;
        server.run(["ip", "route", "add", SCANNERS, "via", CLIENT])?;
        Ok(Self { server, client })
    }

    /// The same, and all packets of a connection are on one CPU, as network cards have it
    /// (Documentation/networking/scaling.rst). A veth has the sender's: then the last ACK of a
    /// handshake and the first data can be on two at once, and now and then the data finds neither
    /// the half-open connection nor the new one, and is answered with a reset (seen on Linux 6.18:
    /// `tcp_send_reset` by a socket in LISTEN). But packets of several connections do not stay in
    /// their order.
    pub fn steered_by_flow() -> Result<Self> {
        let pair = Self::new()?;
        steer_by_flow(&pair.server)?;
        steer_by_flow(&pair.client)?;
        Ok(pair)
    }

    /// Gives the client so many more IPv4 addresses, at most 65,534, in order from the first of
    /// [`CLIENTS`], for [`Load::sources`](crate::Load::sources).
    ///
    /// The whole range is the client's by a local route, which takes no longer for many.
    pub fn client_addresses(&self, n: u32) -> Result<Vec<String>> {
        let (local, via) = (["local", CLIENTS], [CLIENTS, CLIENT]);
        self.route_clients(n, "-4", local, via)?;
        let first = Ipv4Addr::new(10, 81, 0, 0).to_bits();
        let address = |n| Ipv4Addr::from_bits(first + n).to_string();
        Ok((1..=n).map(address).collect())
    }

    /// As [`client_addresses`](Self::client_addresses), IPv6 and from [`CLIENTS6`].
    pub fn client_addresses6(&self, n: u32) -> Result<Vec<String>> {
        // For IPv6, a local route is not enough to bind to its addresses.
        self.client
            .run(["sysctl", "-q", "net.ipv6.ip_nonlocal_bind=1"])?;
        // On their behalf, neighbours are asked for from a link-local address, and the link's own
        // comes up to two seconds later than the link.
        let of_link = ["fe80::77:2/64", "dev", "eth0", "nodad"];
        let replace = ["ip", "address", "replace"];
        self.client.run(replace.into_iter().chain(of_link))?;
        let (local, via) = (["local", CLIENTS6], [CLIENTS6, CLIENT6]);
        self.route_clients(n, "-6", local, via)?;
        let first = Ipv6Addr::new(0xfd81, 0, 0, 0, 0, 0, 0, 0).to_bits();
        let address = |n| Ipv6Addr::from_bits(first + u128::from(n)).to_string();
        Ok((1..=n).map(address).collect())
    }

    /// The range is local to the client, and the server reaches it there.
    fn route_clients(
        &self,
        n: u32,
        family: &str,
        local: [&str; 2],
        [range, client]: [&str; 2],
    ) -> Result<()> {
        ensure!(n <= MOST, "a client has at most {MOST} more addresses");
        let [kind, all] = local;
        self.client
            .run(["ip", family, "route", "replace", kind, all, "dev", "lo"])?;
        self.server
            .run(["ip", family, "route", "replace", range, "via", client])
            .map(drop)
    }
}

/// Receive packet steering.
pub(crate) fn steer_by_flow(host: &Host) -> Result<()> {
    if rootless() {
        return Ok(()); // it is for the machine's root alone
    }
    // The machine's own /sys, which this one hides for a moment, has the control groups.
    let script = "mount -t sysfs none /sys && n=$(nproc) &&
        printf %x $(((1 << (n < 32 ? n : 32)) - 1)) >/sys/class/net/eth0/queues/rx-0/rps_cpus &&
        umount /sys";
    let ran = host.sh(script)?;
    ensure!(ran.ok(), "receive packet steering: {}", ran.stderr);
    Ok(())
}

fn address(host: &Host, v4: &str, v6: &str) -> Result<()> {
    host.run(["ip", "address", "add", &format!("{v4}/24"), "dev", "eth0"])?;
    // Duplicate address detection would hold the address back for a second.
    host.run([
        "ip",
        "address",
        "add",
        &format!("{v6}/64"),
        "dev",
        "eth0",
        "nodad",
    ])?;
    host.run(["ip", "link", "set", "eth0", "up"])?;
    Ok(())
}

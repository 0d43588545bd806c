use anyhow::Result;

use crate::Host;

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

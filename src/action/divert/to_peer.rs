//! The peer, and the settings of the diversion.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::peer::{PeerAddress, Peers};
use crate::kernel::route::Routing;
use crate::words::hop::NextHop;
use crate::words::steer::Diversion;

#[derive(Debug, Clone)]
pub(crate) struct ToPeer {
    pub peers: Peers,
    pub linger: Duration,
    pub most: u32,
    /// How long the rules may stand. The set entries of connections live at least as long.
    pub idle: Duration,
    /// How long the peer may take to answer. `None`: it is not asked.
    pub ask: Option<Duration>,
}

impl ToPeer {
    /// The next hops to the peer.
    ///
    /// # Errors
    /// The peer is not a neighbour of this host: one line that names the option.
    pub(crate) fn diversion(&self) -> Result<Diversion> {
        let mut routing = Routing::open()?;
        let mut find = |peer: &Option<PeerAddress>| {
            let peer = peer.as_ref();
            peer.map(|peer| next_hop(&mut routing, peer)).transpose()
        };
        Ok(Diversion {
            v4: find(&self.peers.v4)?,
            v6: find(&self.peers.v6)?,
            most: self.most,
            idle: self.idle,
        })
    }
}

fn next_hop(routing: &mut Routing, peer: &PeerAddress) -> Result<NextHop> {
    let option = || format!("--syn divert={peer}");
    let links = routing.links().with_context(option)?;
    let named = peer.named(&links);
    let named = named.map_err(|why| anyhow!("{}: {why}", option()))?;
    let route = routing.to(peer.address, named);
    let route = route.map_err(|refusal| anyhow!("{}: no way there: {refusal}", option()))?;
    let route =
        route.with_context(|| format!("{}: the kernel's answer can't be read", option()))?;
    let found = peer.neighbour(&route, &links);
    let found = found.map_err(|why| anyhow!("{}: {why}", option()))?;
    let ether = routing.ether(found.address, found.device);
    Ok(NextHop {
        ether: ether.with_context(option)?,
        ..found
    })
}

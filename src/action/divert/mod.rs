//! `--syn divert=ADDR`: new connections go to a peer, another host that has the same address, while
//! the gate is closed, and stay there until they end. The kernel does it; here it is found out who the
//! peer is, and kept what became of them.

pub mod peer;
pub mod probe;
pub mod way;

use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use self::peer::{PeerAddress, Peers};
use crate::gate::backend::Flows;
use crate::kernel::route::Routing;
use crate::words::hop::NextHop;
use crate::words::steer::Diversion;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToPeer {
    /// Who takes them.
    pub peers: Peers,
    /// `--linger`.
    pub linger: Duration,
    /// `--max-diverted`.
    pub most: u32,
    /// How long the rules may stand: no connection is forgotten before.
    pub idle: Duration,
    /// How long the peer may take to answer, if it is to be asked.
    pub ask: Option<Duration>,
}

/// The connections that were diverted.
pub struct Divert {
    to: Diversion,
    /// As they were seen last.
    pub flows: Flows,
}

impl ToPeer {
    /// Where packets to the peer go.
    ///
    /// # Errors
    /// It is no neighbour of this host's: one line that names the option.
    pub fn diversion(&self) -> Result<Diversion> {
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

impl Divert {
    /// None yet.
    ///
    /// # Errors
    /// The peer is no neighbour of this host's.
    pub fn begin(to: &ToPeer) -> Result<Divert> {
        Ok(Divert {
            to: to.diversion()?,
            flows: Flows::default(),
        })
    }

    /// Where they go.
    pub fn to(&self) -> Diversion {
        self.to
    }
}

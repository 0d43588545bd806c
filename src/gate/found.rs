//! A gate that stands in the kernel, whoever made it: what `status` shows, `clear` opens and the
//! next run sweeps.

use std::time::Duration;

use anyhow::Result;

use super::choice::Kind;
use super::scope::Scope;
use super::who::Who;
use super::{iptables, nft};
use crate::ports::PortSet;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The kind of backend that made it, and can erase it.
    pub kind: Kind,
    /// The run's id.
    pub run: String,
    /// The kernel removes it when its run ends.
    pub owned: bool,
    /// Who made it, as far as the comment tells.
    pub who: Option<Who>,
    /// The ports that are shut now.
    pub ports: PortSet,
    /// Which packets to them.
    pub scope: Scope,
    /// How many SYNs were stopped.
    pub syns_stopped: Option<u64>,
    /// When the kernel opens it by itself.
    pub opens_in: Option<Duration>,
}

/// What was found, and what could not be looked at.
#[derive(Debug, Default)]
pub struct Sight {
    /// The gates.
    pub gates: Vec<Found>,
    /// Why some may be missing.
    pub unseen: Vec<String>,
}

/// Looks for gates of all kinds, without leaving a trace.
pub fn find() -> Sight {
    let mut sight = Sight::default();
    match nft::find() {
        Ok(gates) => sight.gates.extend(gates),
        Err(error) => sight.unseen.push(format!("nf_tables: {error:#}")),
    }
    let (gates, unseen) = iptables::find();
    sight.gates.extend(gates);
    sight.unseen.extend(unseen);
    sight
}

/// Removes it.
///
/// # Errors
/// Something may still stand.
pub fn erase(gate: &Found) -> Result<()> {
    gate.kind.erase(&gate.run)
}

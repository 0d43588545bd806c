//! A gate that stands in the kernel, whoever made it: what `status` shows, `clear` opens and the
//! next run sweeps.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::choice::{Choice, Kind};
use super::scope::Scope;
use super::who::Who;
use super::{iptables, nft};
use crate::lock::{self, Living};
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

impl Found {
    /// Who made it, in words.
    pub fn whose(&self) -> String {
        match &self.who {
            Some(who) => format!("pid {} ({})", who.pid, who.command),
            None => format!("run {}", self.run),
        }
    }
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
    if !crate::caps::net_admin() {
        sight
            .unseen
            .push("the rules: that needs the capability CAP_NET_ADMIN (root)".to_owned());
        return sight;
    }
    match nft::find() {
        Ok(gates) => sight.gates.extend(gates),
        Err(error) => sight.unseen.push(format!("nf_tables: {error:#}")),
    }
    let (gates, unseen) = iptables::find();
    sight.gates.extend(gates);
    sight.unseen.extend(unseen);
    sight
}

/// Looks for gates that a run with these backends may find, as far as that costs little.
fn find_cheaply(choice: Choice) -> Vec<Found> {
    let kinds = choice.kinds();
    let mut gates = Vec::new();
    if kinds.contains(&Kind::Nft) {
        gates.extend(nft::find().unwrap_or_default());
    }
    if !kinds.contains(&Kind::Nft) || iptables::has_signs() {
        gates.extend(iptables::find().0);
    }
    gates
}

/// Removes it.
///
/// # Errors
/// Something may still stand.
pub fn erase(gate: &Found) -> Result<()> {
    gate.kind.erase(&gate.run)
}

/// Removes what dead runs have left; what became of each.
pub fn sweep(choice: Choice) -> Vec<(Found, Result<()>)> {
    let mut census = Census::default();
    let gates = find_cheaply(choice).into_iter();
    let stale = gates.filter(|gate| census.is_stale(gate) == Some(true));
    let stale: Vec<Found> = stale.collect();
    stale
        .into_iter()
        .map(|gate| {
            let erased = erase(&gate);
            (gate, erased)
        })
        .collect()
}

/// Which runs live, by the directory that they keep their locks in. A run's lock is free when it is
/// dead: pids are no evidence, they come again, and differ between pid namespaces.
#[derive(Debug, Default)]
pub struct Census {
    living: HashMap<Option<PathBuf>, Option<Vec<Living>>>,
}

impl Census {
    /// The runs that keep their locks there, `None`: where we would. `None` comes back if that can't
    /// be told.
    pub fn living(&mut self, directory: Option<&Path>) -> Option<&[Living]> {
        let key = directory.map(Path::to_owned);
        let look = || lock::living(directory).ok();
        self.living.entry(key).or_insert_with(look).as_deref()
    }

    /// The run that has made the gate, if it lives.
    pub fn run_of(&mut self, gate: &Found) -> Option<Living> {
        let directory = gate.who.as_ref().and_then(|who| who.locks.clone());
        let living = self.living(directory.as_deref())?;
        living.iter().find(|l| l.holder.run == gate.run).cloned()
    }

    /// Whether the gate's run is dead; `None` if that can't be told.
    pub fn is_stale(&mut self, gate: &Found) -> Option<bool> {
        if gate.owned {
            return Some(false);
        }
        let directory = gate.who.as_ref().and_then(|who| who.locks.clone());
        // A directory that is not here may be elsewhere: in another mount namespace.
        if directory
            .as_ref()
            .is_some_and(|directory| !directory.is_dir())
        {
            return None;
        }
        let living = self.living(directory.as_deref())?;
        // Whoever can't be named could be anybody.
        if living.iter().any(|l| l.holder.run.is_empty()) {
            return None;
        }
        Some(!living.iter().any(|l| l.holder.run == gate.run))
    }
}

//! A gate that stands in the kernel, whoever made it: what `status` shows, `clear` opens and the
//! next run sweeps.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::choice::{Choice, Kind};

use super::who::Who;
use super::{iptables, nft};
use crate::process::lock::{self, LOCK_DIR, Living, Lock, Roll, directory_in_use};
use crate::words::lacking::Lacking;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;

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
    /// Whether its run is dead, by the locks that are held in the file that it keeps its own in.
    /// `None`: that can't be told, since these are another file's.
    fn is_stale(&self, roll: &Roll) -> Option<bool> {
        if self.owned {
            return Some(false);
        }
        let file = self.who.as_ref()?.lock?;
        // Whoever can't be named could be anybody.
        let nameless = roll.living.iter().any(|l| l.holder.run.is_empty());
        if roll.file != Some(file) || nameless {
            return None;
        }
        Some(!roll.living.iter().any(|l| l.holder.run == self.run))
    }

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
    if !crate::kernel::caps::net_admin() {
        sight
            .unseen
            .push("the rules: that needs the capability CAP_NET_ADMIN (root)".to_owned());
        return sight;
    }
    let mut has_nft = true;
    match nft::find() {
        Ok(gates) => sight.gates.extend(gates),
        // What is not there holds no gates.
        Err(error) if error.is::<Lacking>() => has_nft = false,
        Err(error) => sight.unseen.push(format!("nf_tables: {error:#}")),
    }
    let (gates, unseen) = iptables::find(has_nft);
    sight.gates.extend(gates);
    sight.unseen.extend(unseen);
    sight
}

/// Looks for gates that a run with these backends may find, as far as that costs little.
fn find_cheaply(choice: Choice) -> Vec<Found> {
    let by_nft = nft::find();
    let has_nft = by_nft.is_ok();
    let mut gates = by_nft.unwrap_or_default();
    if !has_nft || !choice.kinds().contains(&Kind::Nft) || iptables::has_signs() {
        gates.extend(iptables::find(has_nft).0);
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

/// Removes what dead runs have left; what became of each. For a run that holds its locks.
pub fn sweep(choice: Choice, lock: &Lock) -> Vec<(Found, Result<()>)> {
    let gates = find_cheaply(choice);
    let Ok(roll) = lock.roll() else {
        return Vec::new();
    };
    let stale = gates.into_iter();
    let stale = stale.filter(|gate| gate.is_stale(&roll) == Some(true));
    stale
        .map(|gate| {
            let erased = erase(&gate);
            (gate, erased)
        })
        .collect()
}

/// Which runs live, for a process that holds no locks itself. A run's lock is free when it is dead:
/// pids are no evidence, they come again, and differ between pid namespaces.
#[derive(Debug, Default)]
pub struct Census {
    rolls: HashMap<PathBuf, Roll>,
}

impl Census {
    /// The runs that keep their locks where we would.
    pub fn living(&mut self) -> &[Living] {
        &self.roll(directory_in_use()).living
    }

    /// The run that has made the gate, if it lives.
    pub fn run_of(&mut self, gate: &Found) -> Option<Living> {
        let living = &self.roll_for(gate).living;
        living.iter().find(|l| l.holder.run == gate.run).cloned()
    }

    /// Whether the gate's run is dead; `None` if that can't be told.
    pub fn is_stale(&mut self, gate: &Found) -> Option<bool> {
        gate.is_stale(self.roll_for(gate))
    }

    fn roll_for(&mut self, gate: &Found) -> &Roll {
        let locks = gate.who.as_ref().and_then(|who| who.locks.clone());
        self.roll(locks.unwrap_or_else(|| PathBuf::from(LOCK_DIR)))
    }

    fn roll(&mut self, directory: PathBuf) -> &Roll {
        let entry = self.rolls.entry(directory);
        entry.or_insert_with_key(|directory| lock::roll(directory).unwrap_or_default())
    }
}

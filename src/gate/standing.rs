//! Finds the gates in the kernel, which `status` shows, `clear` opens and the next run sweeps.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Result;

use super::backends;
use super::found::Found;
use super::kinds::{Choice, Kind};
use super::{iptables, nft};
use crate::process::lock::{self, LOCK_DIR, Living, Lock, Roll, directory_in_use};
use crate::words::lacking::Lacking;

#[derive(Debug, Default)]
pub(crate) struct Sight {
    pub gates: Vec<Found>,
    /// Why `gates` may be incomplete.
    pub unseen: Vec<String>,
}

/// Looks for gates of all kinds without leaving a trace.
pub(crate) fn find() -> Sight {
    let mut sight = Sight::default();
    if !crate::kernel::caps::net_admin() {
        sight
            .unseen
            .push("the rules: that needs the capability CAP_NET_ADMIN (root)".to_owned());
        return sight;
    }
    let mut has_nft = true;
    match nft::list::find() {
        Ok(gates) => sight.gates.extend(gates),
        // A kernel without nf_tables has no gates in it.
        Err(error) if error.is::<Lacking>() => has_nft = false,
        Err(error) => sight.unseen.push(format!("nf_tables: {error:#}")),
    }
    let (gates, unseen) = iptables::list::find(has_nft);
    sight.gates.extend(gates);
    sight.unseen.extend(unseen);
    sight
}

/// Looks for gates that a run with these backends may meet. Asks iptables only where its gates are
/// likely, because that takes long.
fn find_cheaply(choice: Choice) -> Vec<Found> {
    let by_nft = nft::list::find();
    let has_nft = by_nft.is_ok();
    let mut gates = by_nft.unwrap_or_default();
    if !has_nft || !choice.kinds().contains(&Kind::Nft) || iptables::list::has_signs() {
        gates.extend(iptables::list::find(has_nft).0);
    }
    gates
}

pub(crate) fn erase(gate: &Found) -> Result<()> {
    backends::erase(gate.kind, &gate.run)
}

/// Removes the gates of dead runs, for a run that holds its locks. Returns each gate, and whether
/// it is gone.
pub(crate) fn sweep(choice: Choice, lock: &Lock) -> Vec<(Found, Result<()>)> {
    let gates = find_cheaply(choice);
    let Ok(roll) = lock.roll() else {
        return Vec::new();
    };
    let stale = gates.into_iter();
    let stale = stale.filter(|gate| is_stale(gate, &roll) == Some(true));
    stale
        .map(|gate| {
            let erased = erase(&gate);
            (gate, erased)
        })
        .collect()
}

/// Whether the gate's run is dead: it holds no lock in the lock file that the gate's comment names.
/// `None`: the roll is of another file, so nobody can tell.
fn is_stale(gate: &Found, roll: &Roll) -> Option<bool> {
    if gate.owned {
        return Some(false);
    }
    let file = gate.who.as_ref()?.lock?;
    // A lock holder without a run id may be the gate's run.
    let nameless = roll.living.iter().any(|l| l.holder.run.is_empty());
    if roll.file != Some(file) || nameless {
        return None;
    }
    Some(!roll.living.iter().any(|l| l.holder.run == gate.run))
}

/// The living runs, for a process that holds no locks itself. A dead run holds no lock. Pids prove
/// nothing: the kernel reuses them, and they differ between pid namespaces.
#[derive(Debug, Default)]
pub(crate) struct Census {
    rolls: HashMap<PathBuf, Roll>,
}

impl Census {
    /// The runs that hold locks in the default directory of this process.
    pub(crate) fn living(&mut self) -> &[Living] {
        &self.roll(directory_in_use()).living
    }

    /// The gate's run, if it is alive.
    pub(crate) fn run_of(&mut self, gate: &Found) -> Option<Living> {
        let living = &self.roll_for(gate).living;
        living.iter().find(|l| l.holder.run == gate.run).cloned()
    }

    /// `None`: nobody can tell.
    pub(crate) fn is_stale(&mut self, gate: &Found) -> Option<bool> {
        is_stale(gate, self.roll_for(gate))
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

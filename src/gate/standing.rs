//! Finds the gates in the kernel, which `status` shows, `clear` opens and the next run sweeps.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use anyhow::Result;

use super::backends;
use super::found::{By, Found};
use super::kinds::{Choice, Kind};
use super::rooms::LeftGroup;
use super::{iptables, nft, rooms};
use crate::kernel::room::known::guards;
use crate::process::living;
use crate::process::lock::{self, LOCK_DIR, Living, Lock, LocksOf, Roll, directory_in_use};
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
    let has_nft = sight.look_in_nft();
    sight.look_in_iptables(has_nft);
    sight.look_for_rooms();
    sight
}

/// Looks for gates that a run with these backends may meet. Asks iptables only where its gates are
/// likely, because that takes long.
fn find_cheaply(choice: Choice) -> Sight {
    let mut sight = Sight::default();
    let has_nft = sight.look_in_nft();
    if !has_nft || !choice.kinds().contains(&Kind::Nft) || iptables::list::has_signs() {
        sight.look_in_iptables(has_nft);
    }
    sight.look_for_rooms();
    sight
}

impl Sight {
    /// Returns whether the kernel has nf_tables, as far as can be told.
    fn look_in_nft(&mut self) -> bool {
        match nft::list::find() {
            Ok(gates) => self.gates.extend(gates),
            // A kernel without nf_tables has no gates in it.
            Err(error) if error.is::<Lacking>() => return false,
            Err(error) => self.unseen.push(format!("nf_tables: {error:#}")),
        }
        true
    }

    fn look_for_rooms(&mut self) {
        let (gates, unseen) = rooms::find();
        self.gates.extend(gates);
        self.unseen.extend(unseen);
    }

    /// iptables-nft lists no table that it does not understand, and may not be installed any more:
    /// nf_tables tells which runs have chains there. A run that comes or goes meanwhile does not count.
    fn look_in_iptables(&mut self, has_nft: bool) {
        let runs_before = self.runs_of_iptables(has_nft);
        let (gates, unseen) = iptables::list::find(has_nft);
        self.gates.extend(gates);
        self.unseen.extend(unseen);
        let listed = |run: &String| self.gates.iter().any(|gate| gate.run == *run);
        if runs_before.iter().all(listed) {
            return;
        }
        let runs = self.runs_of_iptables(has_nft);
        for run in runs.intersection(&runs_before) {
            if !self.gates.iter().any(|gate| gate.run == *run) {
                self.unseen.push(format!(
                    "iptables-nft: run {run} has rules there, and iptables-nft-save does not list them"
                ));
            }
        }
    }

    fn runs_of_iptables(&mut self, has_nft: bool) -> BTreeSet<String> {
        if !has_nft {
            return BTreeSet::new();
        }
        nft::list::runs_of_iptables().unwrap_or_else(|error| {
            self.unseen
                .push(format!("the chains of iptables-nft: {error:#}"));
            BTreeSet::new()
        })
    }
}

/// Whether a dead run may have left a gate. True where that can't be seen at little cost.
pub(crate) fn may_be_left() -> bool {
    let by_nft = match nft::list::find() {
        Ok(gates) => gates.iter().any(|gate| !gate.owned),
        Err(error) => !error.is::<Lacking>(),
    };
    by_nft
        || iptables::list::has_signs()
        || guards().iter().any(|guard| guard.orders.keeps.is_none())
}

/// Opens a gate whose run is dead.
///
/// # Errors
/// Something may still be closed.
pub(crate) fn erase(gate: &Found) -> Result<()> {
    match &gate.by {
        By::Rules(kind) => backends::erase(*kind, &gate.run),
        By::Rooms(rooms) => rooms::hand_over(&rooms.guard),
    }
}

/// The gates of dead runs, and whether each is gone.
pub(crate) struct Swept {
    pub(crate) erased: Vec<(Found, Result<()>)>,
    /// Why there may be others.
    pub(crate) unseen: Vec<String>,
}

/// Removes the gates of dead runs, for a run that holds its locks.
pub(crate) fn sweep(choice: Choice, lock: &Lock) -> Swept {
    let Sight { gates, mut unseen } = find_cheaply(choice);
    let roll = match lock.roll() {
        Ok(roll) => roll,
        Err(error) => {
            unseen.push(format!("the locks of other runs: {error}"));
            Roll::default()
        }
    };
    // A keep stands back by itself, and from the ports of this run only; so does the guard of a dead one.
    let stale = gates.into_iter().filter(|gate| !gate.is_keep_s());
    let stale = stale.filter(|gate| is_stale(gate, &roll) == Some(true));
    // Connections may wait for a service that only this run starts. They are handed over once it has started.
    let stale = stale.filter(|gate| gate.by.rooms().is_none_or(|rooms| rooms.served));
    let erased = stale.map(|gate| {
        let erased = erase(&gate);
        (gate, erased)
    });
    Swept {
        erased: erased.collect(),
        unseen,
    }
}

/// In which file its run has its locks.
fn locks_of(gate: &Found) -> LocksOf {
    match gate.is_keep_s() {
        true => LocksOf::Keeps,
        false => LocksOf::Runs,
    }
}

/// Whether the gate's run is dead. Then it holds no lock in the lock file that the gate's comment names. Or it ran in
/// another boot of the host, and somebody has saved the rules and restored them. `None`: nobody can tell, since the
/// roll is of another file, and the run may be in another container.
fn is_stale(gate: &Found, roll: &Roll) -> Option<bool> {
    if gate.owned {
        return Some(false);
    }
    let who = gate.who.as_ref()?;
    if who.of_this_boot() == Some(false) {
        return Some(true);
    }
    // A lock holder without a run id may be the gate's run.
    let nameless = roll.living.iter().any(|l| l.holder.run.is_empty());
    if roll.file == Some(who.lock?) && !nameless {
        return Some(!roll.living.iter().any(|l| l.holder.run == *gate.run_id()));
    }
    (living::may_live(who.pid) == Some(false)).then_some(true)
}

/// The living runs, for a process that holds no locks itself. A dead run holds no lock. Pids prove
/// nothing: the kernel reuses them, and they differ between pid namespaces.
#[derive(Debug, Default)]
pub(crate) struct Census {
    rolls: HashMap<(LocksOf, PathBuf), Roll>,
    /// Why there may be more living runs.
    pub(crate) unseen: Vec<String>,
}

impl Census {
    /// The runs that hold locks in the default directory of this process.
    pub(crate) fn living(&mut self) -> &[Living] {
        &self.roll(LocksOf::Runs, directory_in_use()).living
    }

    /// The same for keeps.
    pub(crate) fn keeps(&mut self) -> &[Living] {
        &self.roll(LocksOf::Keeps, directory_in_use()).living
    }

    /// The gate's run, if it is alive.
    pub(crate) fn run_of(&mut self, gate: &Found) -> Option<Living> {
        let living = &self.roll_for(gate).living;
        living
            .iter()
            .find(|l| l.holder.run == *gate.run_id())
            .cloned()
    }

    /// The control groups of runs that are dead.
    pub(crate) fn left_groups(&mut self) -> Vec<LeftGroup> {
        let mut left = rooms::left_groups();
        let living = self.rolls.values().flat_map(|roll| &roll.living);
        let living: BTreeSet<&String> = living.map(|run| &run.holder.run).collect();
        left.retain(|group| !living.contains(&group.run));
        left
    }

    /// `None`: nobody can tell.
    pub(crate) fn is_stale(&mut self, gate: &Found) -> Option<bool> {
        is_stale(gate, self.roll_for(gate))
    }

    fn roll_for(&mut self, gate: &Found) -> &Roll {
        let locks = gate.who.as_ref().and_then(|who| who.locks.clone());
        self.roll(
            locks_of(gate),
            locks.unwrap_or_else(|| PathBuf::from(LOCK_DIR)),
        )
    }

    fn roll(&mut self, of: LocksOf, directory: PathBuf) -> &Roll {
        let unseen = &mut self.unseen;
        let entry = self.rolls.entry((of, directory));
        entry.or_insert_with_key(|(of, directory)| {
            lock::roll(*of, directory).unwrap_or_else(|error| {
                unseen.push(format!("the locks in {}: {error}", directory.display()));
                Roll::default()
            })
        })
    }
}

//! The gate: what the kernel shall contain while it is closed (`Rules`), who puts it there
//! (`Backend`), and the guard that takes it away again whatever happens (`Gate`).

pub mod nft;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::ports::PortSet;

/// What the kernel shall contain while the gate is closed. Pure data, the same for all backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The gated ports.
    pub ports: PortSet,
    /// What becomes of a new SYN to one of them.
    pub steer: Steer,
}

/// Where the kernel sends a new SYN to a gated port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    /// Nowhere: its client sends it again.
    Drop,
}

/// The moment at which the kernel opens the gate by itself.
pub type Deadline = Instant;

/// What stands in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The ports to which new SYNs are stopped now.
    pub ports: PortSet,
    /// How many SYNs were stopped so far.
    pub syns_stopped: u64,
}

/// A way to put rules into the kernel. What it has put there is gone when it is dropped and when
/// this process ends, in whatever way.
pub trait Backend {
    /// Its name in the report.
    fn name(&self) -> &'static str;

    /// Puts the rules there in one atomic change. Called once.
    ///
    /// # Errors
    /// Nothing was changed.
    fn install(&mut self, rules: &Rules, until: Deadline) -> Result<()>;

    /// Changes the gated ports in one atomic change; the empty set opens the gate.
    ///
    /// # Errors
    /// Nothing was changed.
    fn set_ports(&mut self, ports: &PortSet, until: Deadline) -> Result<()>;

    /// Reads back what stands.
    ///
    /// # Errors
    /// It can't be read.
    fn standing(&mut self) -> Result<Standing>;

    /// Removes everything. Doing it again is no error.
    ///
    /// # Errors
    /// It may still stand.
    fn remove(&mut self) -> Result<()>;
}

/// The backend for a run. `comment` says who it is, for whoever lists the rules.
///
/// # Errors
/// None works here.
pub fn choose(run: &str, comment: String) -> Result<Box<dyn Backend>> {
    Ok(Box::new(nft::Nft::new(run, comment)?))
}

/// The rules in the admin's own syntax, as that backend would make them.
pub fn script(rules: &Rules, run: &str, comment: &str, timeout: Duration) -> String {
    nft::compile::compile(rules, run, comment).script(timeout)
}

/// A gate that was closed. It opens when it is dropped, so on every way out of a run, a panic's
/// included; the good path opens it explicitly, so that an error reaches the user.
pub struct Gate {
    backend: Box<dyn Backend>,
    shut: PortSet,
    closed_at: Instant,
    until: Deadline,
    removed: bool,
}

impl Gate {
    /// Closes the gate in one change and reads back that it stands.
    ///
    /// # Errors
    /// The gate is open, as it was.
    pub fn close(backend: Box<dyn Backend>, rules: &Rules, until: Deadline) -> Result<Gate> {
        // The guard comes first: from here on each way out removes what may have been made.
        let mut gate = Gate {
            backend,
            shut: rules.ports.clone(),
            closed_at: Instant::now(),
            until,
            removed: false,
        };
        gate.backend.install(rules, until)?;
        gate.closed_at = Instant::now();
        let standing = gate
            .backend
            .standing()
            .context("the gate can't be read back")?;
        anyhow::ensure!(
            standing.ports == rules.ports,
            "the kernel took the rules, but lists {} as the gated ports",
            printed(&standing.ports)
        );
        Ok(gate)
    }

    /// When the rules were in the kernel.
    pub fn closed_at(&self) -> Instant {
        self.closed_at
    }

    /// The ports that are shut, as far as we made them so (the kernel opens all at the deadline).
    pub fn shut(&self) -> &PortSet {
        &self.shut
    }

    /// Whether all ports that should be shut are.
    ///
    /// # Errors
    /// It can't be told.
    pub fn stands(&mut self) -> Result<bool> {
        Ok(self.backend.standing()?.ports == self.shut)
    }

    /// Shuts exactly `ports` from now on: opens others, closes some again.
    ///
    /// # Errors
    /// What was shut still is.
    pub fn shut_only(&mut self, ports: PortSet) -> Result<()> {
        self.backend.set_ports(&ports, self.until)?;
        self.shut = ports;
        Ok(())
    }

    /// Opens every port, at once and for good. Counting and clearing away come after, in
    /// [`Gate::remove`].
    ///
    /// # Errors
    /// The gate may be shut until this is dropped, or until the deadline.
    pub fn open(&mut self) -> Result<()> {
        let opened = self.backend.set_ports(&PortSet::EMPTY, self.until);
        // Second way, should the first fail: take everything away.
        if opened.is_err() {
            self.remove()?;
        }
        self.shut = PortSet::EMPTY;
        Ok(())
    }

    /// Removes what is left of an open gate; tells how many SYNs it had stopped.
    ///
    /// # Errors
    /// Something may be left behind until this is dropped.
    pub fn remove(&mut self) -> Result<Option<u64>> {
        if self.removed {
            return Ok(None);
        }
        let counted = self.backend.standing().ok().map(|s| s.syns_stopped);
        self.backend.remove()?;
        self.removed = true;
        Ok(counted)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if !self.removed {
            // Nobody is left to tell; and dropping the backend makes the kernel do it.
            let _ = self.backend.remove();
        }
    }
}

fn printed(ports: &PortSet) -> String {
    if ports.is_empty() {
        "none".to_owned()
    } else {
        ports.brief()
    }
}

#[cfg(test)]
mod tests;

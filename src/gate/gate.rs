//! A closed gate, as a value: it opens when it is dropped.

use std::time::Instant;

use anyhow::{Context, Result};

use super::backend::{Backend, Deadline, Flows};
use super::rules::Rules;
use crate::kernel::sockets::Connection;
use crate::words::ports::PortSet;

/// A closed gate. Dropping it opens it, so it opens on each way out of a run, also when the run panics.
/// A run that goes well opens it by a call, so that the user sees an error.
pub(crate) struct Gate {
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
    pub(crate) fn close(backend: Box<dyn Backend>, rules: &Rules, until: Deadline) -> Result<Gate> {
        // The value exists before the first change: from here on each way out removes the rules.
        let mut gate = Gate {
            backend,
            shut: rules.ports.clone(),
            closed_at: Instant::now(),
            until,
            removed: false,
        };
        gate.backend.install(rules, until)?;
        gate.note_deadline();
        gate.closed_at = Instant::now();
        let shut = gate.backend.shut().context("the gate can't be read back")?;
        anyhow::ensure!(
            shut == rules.ports,
            "the kernel took the rules, but lists {} as the gated ports",
            printed(&shut)
        );
        Ok(gate)
    }

    /// Its backend's name.
    pub(crate) fn backend(&self) -> &'static str {
        self.backend.name()
    }

    /// What the user should know of how its backend closed it.
    pub(crate) fn remarks(&self) -> &[String] {
        self.backend.remarks()
    }

    /// Whether other programs can remove its rules.
    pub(crate) fn exposed(&self) -> bool {
        self.backend.exposed()
    }

    /// Whether its rules are there, as far as a cheap look tells.
    pub(crate) fn intact(&mut self) -> bool {
        self.backend.intact()
    }

    /// Whether removing it makes the kernel drop the packets in other runs' queues.
    pub(crate) fn empties_queues(&self) -> bool {
        self.backend.empties_queues()
    }

    /// How many SYNs it has stopped so far, if the count can be read.
    pub(crate) fn syns_stopped(&mut self) -> Option<u64> {
        self.backend.syns_stopped().ok()
    }

    /// Excepts these half-open connections from being steered elsewhere.
    ///
    /// # Errors
    /// The rules may steer them elsewhere.
    pub(crate) fn spare(&mut self, connections: &[Connection]) -> Result<()> {
        self.backend.spare(connections)
    }

    /// Counts of the connections that the rules have steered elsewhere.
    ///
    /// # Errors
    /// They can't be read.
    pub(crate) fn flows(&mut self) -> Result<Flows> {
        self.backend.flows()
    }

    /// When the backend had put the rules into the kernel.
    pub(crate) fn closed_at(&self) -> Instant {
        self.closed_at
    }

    /// When the kernel opens it by itself, or somewhat later; never later than the deadline that was
    /// asked for.
    pub(crate) fn deadline(&self) -> Deadline {
        self.until
    }

    fn note_deadline(&mut self) {
        let opens = self.backend.opens();
        self.until = opens.map_or(self.until, |opens| opens.min(self.until));
    }

    /// The ports that this process has shut. The kernel opens them all at the deadline.
    pub(crate) fn shut(&self) -> &PortSet {
        &self.shut
    }

    /// Whether the kernel shuts exactly the ports that it should.
    ///
    /// # Errors
    /// That can't be read.
    pub(crate) fn stands(&mut self) -> Result<bool> {
        Ok(self.backend.shut()? == self.shut)
    }

    /// Shuts exactly `ports` from now on: opens others, and may close some again.
    ///
    /// # Errors
    /// The ports that were shut still are.
    pub(crate) fn shut_only(&mut self, ports: PortSet) -> Result<()> {
        self.backend.set_ports(&ports, self.until)?;
        self.note_deadline();
        self.shut = ports;
        Ok(())
    }

    /// Opens every port, at once and for good. [`Gate::remove`] then counts and clears away.
    ///
    /// # Errors
    /// The gate may stay shut until this is dropped, or until the deadline.
    pub(crate) fn open(&mut self) -> Result<()> {
        let opened = self.backend.set_ports(&PortSet::EMPTY, self.until);
        // If that fails, removing all rules opens the gate as well.
        if opened.is_err() {
            self.remove()?;
        }
        self.shut = PortSet::EMPTY;
        Ok(())
    }

    /// Removes the rules of an open gate. How many SYNs the gate has stopped.
    ///
    /// # Errors
    /// Rules may be left until this is dropped.
    pub(crate) fn remove(&mut self) -> Result<Option<u64>> {
        if self.removed {
            return Ok(None);
        }
        let counted = self.syns_stopped();
        self.backend.remove()?;
        self.removed = true;
        Ok(counted)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if !self.removed {
            // An error can't be told here. Dropping the backend makes the kernel or a watchdog do it.
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
#[path = "tests.rs"]
mod tests;

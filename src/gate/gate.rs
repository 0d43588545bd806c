//! A closed gate as a value, which opens when it is dropped.

use std::time::Instant;

use anyhow::{Context, Result};

use super::backend::{Backend, Deadline, Flows, Remark};
use crate::kernel::sockets::Connection;
use crate::words::ports::PortSet;

/// Dropping it opens the gate, so it opens on each way out of a run, also on a panic. A run without
/// failures opens it by [`Gate::open`], so that the user sees an error.
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
    /// The gate is still open.
    pub(crate) fn close(
        backend: Box<dyn Backend>,
        ports: &PortSet,
        until: Deadline,
    ) -> Result<Gate> {
        // The value exists before the first change: from here on each way out removes the rules.
        let mut gate = Gate {
            backend,
            shut: ports.clone(),
            closed_at: Instant::now(),
            until,
            removed: false,
        };
        gate.backend.install(ports, until)?;
        gate.note_deadline();
        gate.closed_at = Instant::now();
        let shut = gate.backend.shut().context("the gate can't be read back")?;
        anyhow::ensure!(
            shut == *ports,
            "the kernel took the rules, but lists {} as the gated ports",
            printed(&shut)
        );
        Ok(gate)
    }

    pub(crate) fn backend(&self) -> &'static str {
        self.backend.name()
    }

    /// Remarks for the user about how the backend closed the gate.
    pub(crate) fn remarks(&self) -> &[Remark] {
        self.backend.remarks()
    }

    /// Whether other programs can remove the rules.
    pub(crate) fn exposed(&self) -> bool {
        self.backend.exposed()
    }

    /// Whether the rules are there, as far as a cheap check tells.
    pub(crate) fn intact(&mut self) -> bool {
        self.backend.intact()
    }

    /// See [`Backend::found_late`].
    pub(crate) fn found_late(&mut self) -> Option<String> {
        self.backend.found_late()
    }

    /// Puts another watchdog in the place of one that is lost. Returns a sentence about that, once it is
    /// there.
    ///
    /// # Errors
    /// There is none now. Told once for each that is lost.
    pub(crate) fn keep_watched(&mut self) -> Result<Option<String>> {
        self.backend.keep_watched(self.until)
    }

    /// See [`Backend::unwatched`].
    pub(crate) fn unwatched(&self, max_closed: &str) -> String {
        self.backend.unwatched(max_closed)
    }

    /// Whether removing it makes the kernel drop the packets in other runs' queues.
    pub(crate) fn empties_queues(&self) -> bool {
        self.backend.empties_queues()
    }

    /// `None`: the count can't be read.
    pub(crate) fn syns_stopped(&mut self) -> Option<u64> {
        self.backend.syns_stopped().ok()
    }

    /// See [`Backend::arrived`].
    ///
    /// # Errors
    /// The count can't be read.
    pub(crate) fn arrived(&mut self) -> Result<u64> {
        self.backend.arrived()
    }

    /// Excepts these half-open connections from being steered elsewhere.
    ///
    /// # Errors
    /// The rules may steer them elsewhere.
    pub(crate) fn spare(&mut self, connections: &[Connection]) -> Result<()> {
        self.backend.spare(connections)
    }

    pub(crate) fn flows(&mut self) -> Result<Flows> {
        self.backend.flows()
    }

    /// When the backend had finished the change.
    pub(crate) fn closed_at(&self) -> Instant {
        self.closed_at
    }

    /// When the kernel opens the gate at the latest. Never later than the deadline that was asked
    /// for.
    pub(crate) fn deadline(&self) -> Deadline {
        self.until
    }

    fn note_deadline(&mut self) {
        let opens = self.backend.opens();
        self.until = opens.map_or(self.until, |opens| opens.min(self.until));
    }

    /// The ports that this process has shut. It does not ask the kernel, which opens them all at
    /// the deadline.
    pub(crate) fn shut(&self) -> &PortSet {
        &self.shut
    }

    /// Whether the kernel closes exactly the ports that it should.
    ///
    /// # Errors
    /// The ports can't be read.
    pub(crate) fn stands(&mut self) -> Result<bool> {
        Ok(self.backend.shut()? == self.shut)
    }

    /// Closes exactly `ports` from now on: opens others, and may close some again.
    ///
    /// # Errors
    /// The ports that were closed still are.
    pub(crate) fn shut_only(&mut self, ports: PortSet) -> Result<()> {
        self.backend.set_ports(&ports, self.until)?;
        self.note_deadline();
        self.shut = ports;
        Ok(())
    }

    /// Opens all ports for good. [`Gate::remove`] then removes the rules.
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

    /// Removes the rules of an open gate. Returns how many SYNs the gate has stopped.
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
            // A drop can't return an error. Dropping the backend makes the kernel or a watchdog
            // remove the rules.
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

//! The gate: what the kernel shall contain while it is closed (`Rules`), who puts it there
//! (`Backend`), and the guard that takes it away again whatever happens (`Gate`).

pub mod choice;
pub mod found;
pub mod iptables;
pub mod nft;
pub mod watchdog;
pub mod who;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use self::choice::{Choice, Kind};

use self::who::Who;
use crate::kernel::sockets::Connection;
use crate::words::lacking::Lacking;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;
use crate::words::steer::Steer;

/// The names of what we put into the kernel begin with this; a run's id follows.
pub const PREFIX: &str = "syngate_";

/// How long the lock of iptables is waited for, where nothing else was asked for.
pub const XTABLES_WAIT: Duration = Duration::from_secs(5);

/// What a backend has to know of a run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The run's id.
    pub run: String,
    /// Who it is, for whoever lists the rules.
    pub who: Who,
    /// `--xtables-wait`.
    pub xtables_wait: Duration,
    /// How long the rules may stay once the gate is open. The kernel opens it at the deadline all the
    /// same; a watchdog leaves a living run its rules until then and so much longer.
    pub lingers: Duration,
}

/// What the kernel shall contain while the gate is closed. Pure data, the same for all backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The gated ports.
    pub ports: PortSet,
    /// Which packets to them.
    pub scope: Scope,
    /// What becomes of a new SYN to one of them.
    pub steer: Steer,
}

/// Connections that were steered elsewhere, as far as the rules know of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flows {
    /// How many there were.
    pub all: u64,
    /// How many are waited for.
    pub left: usize,
    /// How many of them are known to go on: their clients have not closed their side.
    pub open: usize,
    /// How many packets of theirs came that were not SYNs.
    pub went_on: u64,
    /// How many SYNs there was no room for.
    pub no_room: u64,
}

/// As on a host that has no NAT, if a test wants it.
fn fail_on_demand(steer: Steer) -> Result<()> {
    let fails = steer.translates() && crate::words::fault::is("no-nat");
    anyhow::ensure!(!fails, Lacking::nat("not here, for a test"));
    Ok(())
}

/// The moment at which the kernel opens the gate by itself.
pub type Deadline = Instant;

/// A way to put rules into the kernel. What it has put there is gone, now or in a moment, when it is
/// dropped and when this process ends, in whatever way.
pub trait Backend {
    /// Its name in the report.
    fn name(&self) -> &'static str;

    /// Puts the rules there in one atomic change. Called once.
    ///
    /// # Errors
    /// Nothing was changed.
    fn install(&mut self, rules: &Rules, until: Deadline) -> Result<()>;

    /// Changes the gated ports in one atomic change; the empty set opens the gate. Should others
    /// have removed the rules, they are made once more.
    ///
    /// # Errors
    /// Nothing was changed; but rules that others have harmed may be gone.
    fn set_ports(&mut self, ports: &PortSet, until: Deadline) -> Result<()>;

    /// When the kernel opens the gate, where that may be before the deadline that it was given.
    fn opens(&self) -> Option<Deadline> {
        None
    }

    /// The ports to which new SYNs are stopped now: read back from the kernel.
    ///
    /// # Errors
    /// It can't be read.
    fn shut(&mut self) -> Result<PortSet>;

    /// How many SYNs were stopped so far.
    ///
    /// # Errors
    /// It can't be read.
    fn syns_stopped(&mut self) -> Result<u64>;

    /// Leaves these half-open connections here, where new ones are steered elsewhere before it is known
    /// whose they are.
    ///
    /// # Errors
    /// They may be steered elsewhere.
    fn spare(&mut self, _: &[Connection]) -> Result<()> {
        Ok(())
    }

    /// What is known of connections that were steered elsewhere; nothing, where none can be.
    ///
    /// # Errors
    /// It can't be read.
    fn flows(&mut self) -> Result<Flows> {
        Ok(Flows::default())
    }

    /// Whether others can take the rules away: then whether they are [intact](Backend::intact) has
    /// to be looked at again and again.
    fn exposed(&self) -> bool;

    /// Whether the rules are there, as far as a cheap look tells.
    fn intact(&mut self) -> bool;

    /// Whether [`Backend::remove`] takes hooks away, a base chain's or those of connection tracking:
    /// then the kernel drops what is in any queue of the network namespace
    /// (nf_queue_nf_hook_drop()).
    fn empties_queues(&self) -> bool;

    /// What the user should know of how it is done here.
    fn remarks(&self) -> &[String];

    /// Removes everything. Doing it again is no error.
    ///
    /// # Errors
    /// It may still stand.
    fn remove(&mut self) -> Result<()>;
}

/// Closes the gate with the first backend that can: the gate, and why others could not.
///
/// # Errors
/// The gate is open, as it was.
pub fn close(
    choice: Choice,
    settings: &Settings,
    rules: &Rules,
    until: Deadline,
) -> Result<(Gate, Vec<String>)> {
    let kinds = choice.kinds();
    let mut lacking = Vec::new();
    for kind in &kinds {
        let closed = kind
            .backend(settings)
            .and_then(|backend| Gate::close(backend, rules, until));
        match closed {
            Ok(gate) => return Ok((gate, lacking)),
            // What is wrong with this backend only is no reason not to try the next.
            Err(error) if error.is::<Lacking>() && kinds.len() > 1 => {
                lacking.push(format!("{}: {error:#}", kind.name()));
            }
            Err(error) if lacking.is_empty() => return Err(error),
            Err(error) => lacking.push(format!("{}: {error:#}", kind.name())),
        }
    }
    Err(anyhow!("{}", lacking.join("; ")))
}

/// The rules in the admin's own syntax, as the backend of that kind would make them.
pub fn script(kind: Kind, rules: &Rules, settings: &Settings, max_closed: Duration) -> String {
    let comment = settings.who.to_string();
    match kind {
        Kind::Nft => {
            let compiled = nft::compile::compile(rules, &settings.run, &comment);
            let script = compiled.script(max_closed);
            match compiled.with_target() {
                None => script,
                Some(_) => format!(
                    "{script}# in a kernel without nft's queue, by the target NFQUEUE of x_tables\n"
                ),
            }
        }
        Kind::Iptables(variant) => {
            iptables::compile::script(variant, rules, &settings.run, &comment, max_closed)
        }
    }
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

    /// The backend's name.
    pub fn backend(&self) -> &'static str {
        self.backend.name()
    }

    /// What the user should know of how it was closed.
    pub fn remarks(&self) -> &[String] {
        self.backend.remarks()
    }

    /// Whether others can take its rules away.
    pub fn exposed(&self) -> bool {
        self.backend.exposed()
    }

    /// Whether its rules are there, as far as a cheap look tells.
    pub fn intact(&mut self) -> bool {
        self.backend.intact()
    }

    /// Whether removing it drops what is in other runs' queues.
    pub fn empties_queues(&self) -> bool {
        self.backend.empties_queues()
    }

    /// How many SYNs it has stopped so far, if that can be read.
    pub fn syns_stopped(&mut self) -> Option<u64> {
        self.backend.syns_stopped().ok()
    }

    /// Leaves these half-open connections here.
    ///
    /// # Errors
    /// They may be steered elsewhere.
    pub fn spare(&mut self, connections: &[Connection]) -> Result<()> {
        self.backend.spare(connections)
    }

    /// What is known of connections that were steered elsewhere.
    ///
    /// # Errors
    /// It can't be read.
    pub fn flows(&mut self) -> Result<Flows> {
        self.backend.flows()
    }

    /// When the rules were in the kernel.
    pub fn closed_at(&self) -> Instant {
        self.closed_at
    }

    /// When the kernel opens it by itself, or somewhat later: not after the deadline that was asked for.
    pub fn deadline(&self) -> Deadline {
        self.until
    }

    fn note_deadline(&mut self) {
        let opens = self.backend.opens();
        self.until = opens.map_or(self.until, |opens| opens.min(self.until));
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
        Ok(self.backend.shut()? == self.shut)
    }

    /// Shuts exactly `ports` from now on: opens others, closes some again.
    ///
    /// # Errors
    /// What was shut still is.
    pub fn shut_only(&mut self, ports: PortSet) -> Result<()> {
        self.backend.set_ports(&ports, self.until)?;
        self.note_deadline();
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
        let counted = self.syns_stopped();
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

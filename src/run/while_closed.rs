//! The tasks of a run that change its gate or concern COMMAND.

use std::time::Instant;

use nix::errno::Errno;

use crate::decide::event::Event;
use crate::gate::gate::Gate;
use crate::kernel::nfqueue;
use crate::process::child::Child;
use crate::process::signals::Caught;
use crate::run::drive::Run;
use crate::run::plan::Plan;
use crate::words::ending::Ending;
use crate::words::exit::{NOT_EXECUTABLE, NOT_FOUND, NOT_RUN};
use crate::words::ports::PortSet;

impl Run<'_> {
    /// Releases the SYNs for ports that are open now.
    pub(super) fn let_go(&mut self) {
        let shut = self.gate.as_ref().map(|gate| gate.shut().clone());
        let ports = &self.call.plan.gated().ports;
        self.action.opened(&ports.minus(&shut.unwrap_or_default()));
    }

    pub(super) fn gate_stands(&mut self) -> bool {
        let Some(gate) = &mut self.gate else {
            return false;
        };
        gate.stands().unwrap_or_else(|error| {
            self.warn(format!("the gate can't be read back: {error:#}"));
            false
        })
    }

    pub(super) fn shut_only(&mut self, ports: PortSet) {
        let Some(gate) = &mut self.gate else {
            return;
        };
        let was = gate.shut().clone();
        match gate.shut_only(ports) {
            Ok(()) => {
                let is = gate.shut().clone();
                if !is.minus(&was).is_empty() {
                    self.action.closed_again();
                }
                self.note_shut(&was, &is);
            }
            Err(error) => self.warn(format!("the gated ports could not be changed: {error:#}")),
        }
    }

    /// Closes the gate after somebody has removed the rules, or after the kernel's deadline. The
    /// time in between counts as open.
    pub(super) fn close_again(&mut self, ports: PortSet) -> bool {
        let remarks = |gate: &Option<Gate>| gate.as_ref().map_or(0, |gate| gate.remarks().len());
        let known = remarks(&self.gate);
        self.closed.now_shut(false, Instant::now());
        self.shut_only(ports);
        let stands = self.gate_stands();
        self.closed.now_shut(stands, Instant::now());
        let gate = self.gate.as_ref();
        let new = gate.map_or_else(Vec::new, |gate| gate.remarks()[known..].to_vec());
        new.iter()
            .for_each(|remark| self.warn(remark.text().to_owned()));
        stands
    }

    fn note_shut(&mut self, was: &PortSet, is: &PortSet) {
        self.closed.now_shut(!is.is_empty(), Instant::now());
        for (what, ports) in [("opened", was.minus(is)), ("closed", is.minus(was))] {
            if !ports.is_empty() {
                let say = self.call.say;
                say.phase(&format!("{what} {}", ports.brief()));
            }
        }
    }

    /// Starts COMMAND, unless a signal has come in the meantime.
    pub(super) fn start(&mut self) -> Event {
        let (plan, say) = (self.call.plan, self.call.say);
        if let Some(Caught::Stop(signal, sender)) = self.call.signals.wait(Some(Instant::now())) {
            return Event::Signal(signal, sender);
        }
        say.done_waiting();
        say.phase(&format!("running {}", plan.command_line()));
        let spawned = Child::spawn(
            &plan.program,
            &plan.command,
            self.call.environment,
            self.call.signals.inherited(),
        );
        match spawned {
            Ok(child) => self.child = Some(child),
            Err(error) => self.trouble.spawn = Some(not_spawned(plan, error)),
        }
        self.record.command_was_run = self.child.is_some();
        Event::Started(self.record.command_was_run)
    }

    pub(super) fn open(&mut self) {
        let Some(gate) = &mut self.gate else {
            return;
        };
        let was = gate.shut().clone();
        let decided = Instant::now();
        let opened = gate.open();
        self.record.open_took = Some(decided.elapsed());
        if let Err(error) = opened {
            self.trouble.open = Some(format!("{error:#}"));
        }
        self.note_shut(&was, &PortSet::EMPTY);
    }

    /// Whether removing the rest of the gate would drop SYNs that another run holds.
    pub(super) fn others_hold(&mut self) -> bool {
        let own = self.action.steer().queue();
        let gate = self.gate.as_ref();
        gate.is_some_and(Gate::empties_queues) && nfqueue::others_hold(own)
    }

    /// Reads the counters and removes the rules. If that fails, dropping the `Gate` removes them.
    pub(super) fn remove(&mut self) {
        if let Some(mut gate) = self.gate.take() {
            match gate.remove() {
                Ok(counted) => {
                    self.closed.syns_stopped = counted;
                    self.action.removed();
                }
                // The gate is open, or `open` has reported the failure.
                Err(error) => self.warn(format!(
                    "the gate's rules could not be removed ({error:#}): syngate clear does"
                )),
            }
        }
    }
}

/// The statuses of a shell: 127 also for a missing interpreter, 126 for a file that the kernel
/// can't execute.
fn not_spawned(plan: &Plan, error: Errno) -> Ending {
    let status = match error {
        Errno::ENOENT => NOT_FOUND,
        Errno::EAGAIN | Errno::ENOMEM => NOT_RUN,
        _ => NOT_EXECUTABLE,
    };
    let hint = if error == Errno::ENOENT {
        " (a missing interpreter?)"
    } else {
        ""
    };
    let message = format!(
        "{} can't be run: {}{hint}",
        plan.program.display(),
        error.desc()
    );
    Ending::not_run_with(status, "spawn_failed", message)
}

//! The tasks of a run that change its gate or concern COMMAND.

use std::time::Instant;

use nix::errno::Errno;

use crate::decide::event::Event;
use crate::decide::looks::GUARD_EVERY;
use crate::gate::gate::Gate;
use crate::process::signals::Caught;
use crate::run::drive::Run;
use crate::run::leave::keep_refusing;
use crate::run::plan::Plan;
use crate::run::world::Program;
use crate::words::ending::Ending;
use crate::words::exit::{NOT_EXECUTABLE, NOT_FOUND, NOT_RUN};
use crate::words::ports::PortSet;
use crate::words::scope::Where;
use crate::words::steer::Steer;

impl Run<'_> {
    /// Releases the SYNs for ports that are open now.
    pub(super) fn let_go(&mut self) {
        let shut = self.gate.as_ref().map(|gate| gate.shut().clone());
        let ports = &self.plan.gated().ports;
        self.action.opened(&ports.minus(&shut.unwrap_or_default()));
    }

    /// The last look before COMMAND starts. Rules that are gone may have been gone for a while.
    pub(super) fn check(&mut self) -> bool {
        let stands = self.gate_stands();
        let now = self.world.now();
        let gate = self
            .gate
            .as_ref()
            .filter(|gate| gate.exposed() && now < gate.deadline());
        self.trouble.fell |= gate.is_some() && stands == Some(false);
        if stands == Some(false) {
            self.closed.now_shut(&PortSet::EMPTY, now);
        }
        stands == Some(true)
    }

    /// `None`: the gate can't be read back.
    fn gate_stands(&mut self) -> Option<bool> {
        let Some(gate) = &mut self.gate else {
            return Some(false);
        };
        let stands = gate.stands();
        let unread = stands.as_ref().err();
        let unread = unread.map(|error| format!("syngate can't read the gate back: {error:#}"));
        unread.into_iter().for_each(|text| self.warn(text));
        stands.ok()
    }

    /// Rules that are intact count as closed, also after a closing that could not be read back.
    pub(super) fn gate_is_intact(&mut self) -> bool {
        let Some(gate) = &mut self.gate else {
            return true;
        };
        let (intact, shut) = (gate.intact(), gate.shut());
        if !shut.is_empty() {
            let shut = shut.clone();
            let stands = if intact { shut } else { PortSet::EMPTY };
            self.closed.now_shut(&stands, self.world.now());
        }
        intact
    }

    /// The out-of-memory killer or an administrator may have killed the watchdog, or stopped it.
    pub(super) fn keep_watched(&mut self) {
        self.keep_refusing();
        let Some(gate) = &mut self.gate else {
            return;
        };
        match gate.keep_watched() {
            Ok(None) => (),
            Ok(Some(lost)) => self.warn(lost),
            Err(error) => {
                let limit = humantime::format_duration(self.plan.max_closed).to_string();
                let follows = gate.unwatched(&limit);
                self.warn(format!(
                    "{error:#}: if syngate is killed now too, {follows}"
                ));
            }
        }
    }

    /// Others may have removed the rules since the last check. A change of the ports hides that, as it
    /// puts the rules back or opens the gate, so it is noted before.
    pub(super) fn note_if_fallen(&mut self) {
        let closed = self.gate.as_mut().filter(|gate| !gate.shut().is_empty());
        self.trouble.fell |= closed.is_some_and(|gate| gate.exposed() && !gate.intact());
    }

    /// A regular check may have been too long ago to know what others did in the last moment. Nobody
    /// waits for this one.
    pub(super) fn look_back(&mut self) {
        let found = self.gate.as_mut().and_then(Gate::found_late);
        if let Some(found) = found.filter(|_| !self.trouble.fell) {
            self.trouble.fell = true;
            self.warn(found);
        }
    }

    pub(super) fn shut_only(&mut self, ports: PortSet) {
        self.forget_handshakes_in_mid_command();
        let Some(gate) = &mut self.gate else {
            return;
        };
        let was = gate.shut().clone();
        match gate.shut_only(ports) {
            Ok(()) => {
                self.trouble.change = None;
                let is = gate.shut().clone();
                if !is.minus(&was).is_empty() {
                    self.onlooker.begin_anew(self.world.now());
                    self.action.closed_again();
                }
                self.note_shut(&was, &is);
            }
            Err(error) => {
                let text = format!("syngate could not change the gated ports: {error:#}");
                // The run tries again at once. A lock may have been held for a moment.
                if self.trouble.change.replace(text.clone()).is_some() {
                    self.warn(text);
                }
            }
        }
    }

    /// Closes the gate after somebody has removed the rules, or after the kernel's deadline. The time
    /// since that was seen counts as open.
    pub(super) fn close_again(&mut self, ports: PortSet) -> bool {
        let remarks = |gate: &Option<Gate>| gate.as_ref().map_or(0, |gate| gate.remarks().len());
        let known = remarks(&self.gate);
        self.shut_only(ports);
        let stands = self.gate_stands();
        self.onlooker.begin_anew(self.world.now());
        // What the kernel took and could not be read back counts as closed.
        if let Some(stands) = stands {
            let gate = self.gate.as_ref().filter(|_| stands);
            let shut = gate.map_or(PortSet::EMPTY, |gate| gate.shut().clone());
            self.closed.now_shut(&shut, self.world.now());
        }
        let gate = self.gate.as_ref();
        let new = gate.map_or_else(Vec::new, |gate| gate.remarks()[known..].to_vec());
        new.iter()
            .for_each(|remark| self.warn(remark.text().to_owned()));
        stands == Some(true)
    }

    fn note_shut(&mut self, was: &PortSet, is: &PortSet) {
        self.closed.now_shut(is, self.world.now());
        for (what, ports) in [("opened", was.minus(is)), ("closed", is.minus(was))] {
            if !ports.is_empty() {
                let say = self.say;
                say.phase(&format!("{what} {}", ports.brief()));
            }
        }
    }

    /// COMMAND may have moved the service to another address, as that of a new container. NAT sends what belongs to a
    /// connection where it has sent the first packet: a client that the old one has not answered would send its SYN
    /// there again. While the gate is closed, nobody else's handshake goes through NAT.
    pub(super) fn forget_handshakes(&mut self) {
        let drops = matches!(self.steer, Some(Steer::Drop | Steer::Queue(_)));
        let place = &self.plan.place;
        let behind_nat = place.hook == Where::Prerouting && !place.early;
        let shut = self.gate.as_ref().map(|gate| gate.shut().clone());
        let Some(shut) = shut.filter(|_| drops && behind_nat) else {
            return;
        };
        match self.world.forget_handshakes(&shut) {
            Ok(0) => (),
            Ok(count) => self.say.phase(&format!(
                "NAT forgets where {count} SYNs went that were not answered: they may come again"
            )),
            Err(error) => self.say.phase(&format!(
                "NAT may send SYNs that were not answered to the old address: conntrack: {error:#}"
            )),
        }
    }

    /// Before ports open while COMMAND runs.
    fn forget_handshakes_in_mid_command(&mut self) {
        if self.record.command_was_run && !self.command_has_ended {
            self.forget_handshakes();
        }
    }

    /// Starts COMMAND, unless a signal has come in the meantime that stops the run or opens the gate.
    pub(super) fn start(&mut self) -> Event {
        let (plan, say) = (self.plan, self.say);
        match self.world.caught() {
            Some(Caught::Stop(signal, sender)) => return Event::Signal(signal, sender),
            Some(Caught::OpenNow) => return Event::OpenNow,
            Some(Caught::Child | Caught::Readable) | None => (),
        }
        let due = self.onlooker.due(None, self.world.now());
        if due.is_some_and(|at| at <= self.world.now()) {
            self.look_on();
        }
        say.done_waiting();
        say.phase(&format!("running {}", plan.command_line()));
        let starter = self.world.starter();
        if let Some(pid) = starter {
            self.action.command(pid);
        }
        let started = self.world.start(Program::Command);
        let pid = self.world.pid_of_command();
        if let Some(pid) = pid.filter(|_| starter.is_none()) {
            self.action.command(pid);
        }
        self.record.command_was_run = started.is_ok();
        if self.record.command_was_run {
            self.action.command_began();
        }
        self.trouble.spawn = started.err().map(|error| not_spawned(plan, error));
        Event::Started(self.record.command_was_run)
    }

    pub(super) fn open(&mut self) {
        self.forget_handshakes_in_mid_command();
        let Some(gate) = &mut self.gate else {
            return;
        };
        let was = gate.shut().clone();
        let decided = self.world.now();
        if let Err(error) = gate.open() {
            self.trouble.open = Some(format!("{error:#}"));
            self.drop_gate();
        }
        self.record.open_took = Some(self.world.now() - decided);
        self.note_shut(&was, &PortSet::EMPTY);
    }

    /// The last way to open: the kernel removes the rules when their socket is closed, or the watchdog
    /// does. No linger is worth a gate that stays shut.
    fn drop_gate(&mut self) {
        self.action.opened(&self.plan.gated().ports);
        self.gate = None;
        self.action.removed();
    }

    /// Whether removing the rest of the gate would drop SYNs that another run holds.
    pub(super) fn others_hold(&mut self) -> bool {
        let own = self.steer.and_then(Steer::queue);
        let mut gates = [&self.gate, &self.leave].into_iter().flatten();
        gates.any(Gate::empties_queues) && self.world.others_hold(own)
    }

    /// Health checks are refused for as long as the gate is closed.
    fn keep_refusing(&mut self) {
        let found = self.leave.as_mut().map(keep_refusing);
        found.into_iter().flatten().for_each(|text| self.warn(text));
    }

    /// When to look again at the rules that refuse health checks, where others can remove them. An action without rules
    /// of its own has no other reason to wake.
    pub(super) fn refusals_due(&self) -> Option<Instant> {
        let leave = self.leave.as_ref()?;
        let stands = leave.exposed() && !leave.shut().is_empty();
        stands.then(|| self.world.now() + GUARD_EVERY)
    }

    /// The gate is open: health checks are answered again.
    pub(super) fn answer_checks(&mut self) {
        if let Some(Err(error)) = self.leave.as_mut().map(Gate::open) {
            // Dropping it leaves that to the kernel, or to the watchdog.
            self.leave = None;
            self.warn(format!(
                "--leave: health checks may still be refused: {error:#}"
            ));
        }
    }

    /// Removes the rules that have refused health checks.
    pub(super) fn remove_refusals(&mut self) {
        let Some(mut leave) = self.leave.take() else {
            return;
        };
        match leave.remove() {
            Ok(refused) => {
                let row = self.record.leave.as_mut();
                row.into_iter().for_each(|row| row.refused = refused);
            }
            Err(error) => self.warn(format!(
                "syngate could not remove the rules of --leave ({error:#}): syngate clear removes them"
            )),
        }
    }

    /// Reads the counters and removes the rules. If that fails, dropping the `Gate` removes them.
    pub(super) fn remove(&mut self) {
        self.remove_refusals();
        if let Some(mut gate) = self.gate.take() {
            match gate.remove() {
                Ok(counted) => {
                    self.closed.syns_stopped = counted;
                    self.action.removed();
                }
                // The gate is open, or `open` has reported the failure.
                Err(error) => self.warn(format!(
                    "the gate is open, but syngate could not remove its rules ({error:#}): syngate clear \
                     removes them"
                )),
            }
        }
    }
}

/// The statuses of a shell: 127 also for a missing interpreter, 126 for a file that the kernel
/// can't execute.
pub(super) fn not_spawned(plan: &Plan, error: Errno) -> Ending {
    let status = match error {
        Errno::ENOENT => NOT_FOUND,
        Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE => NOT_RUN,
        _ => NOT_EXECUTABLE,
    };
    let hint = match error {
        Errno::ENOENT => " (a missing interpreter?)",
        Errno::EMFILE => " (ulimit -n, LimitNOFILE=)",
        Errno::EAGAIN => " (no further process may be started: ulimit -u, LimitNPROC=, TasksMax=)",
        _ => "",
    };
    let message = format!(
        "{} can't be run: {}{hint}",
        plan.program.display(),
        error.desc()
    );
    Ending::not_run_with(status, "spawn_failed", message)
}

//! After the gate has opened: completes the record and warns of what went wrong.

use std::time::Duration;

use crate::decide::config::{OpenOn, Settle};
use crate::decide::drain::DrainUntil;
use crate::decide::facts::Facts;
use crate::decide::readiness::{is_covered, other_users, places, uncovered};
use crate::decide::service::SETTLE_PATIENCE;
use crate::decide::state::State;
use crate::kernel::sockets::{Listener, Want};
use crate::process::executable::executable;
use crate::process::own_unit;
use crate::run::drive::Run;
use crate::run::in_place::reloads_in_place;
use crate::run::plan::Listeners;
use crate::run::record::Course;
use crate::run::report::verdict::{Evidence, conclude, tells_who_is_down};
use crate::words::count::counted;
use crate::words::ended::CommandExit;
use crate::words::ending::{Ending, Outcome};
use crate::words::ms::ms_words;
use crate::words::ports::PortSet;
use crate::words::ready::Ready;

/// A service that listens so long before COMMAND ends is told of.
const EARLY: Duration = Duration::from_millis(500);

impl Run<'_> {
    pub(super) fn conclude(mut self, state: State) -> Ending {
        // Without a gate nobody has asked for its removal.
        self.remove_refusals();
        let left = self.prepared.leave();
        self.tell_output_of_check();
        self.look_after(&state);
        self.look_for_idle(&state.facts);
        self.warn_of_the_gate(&state);
        self.warn_of_a_fall(&state);
        let (noted, stopped) = (state.noted(), self.closed.syns_stopped);
        let (action, mut now) = self.action();
        let account = action.account(&noted, stopped, &mut now);
        self.warn_of_the_rest(&state);
        self.record.listen_netns = self.world.sockets().netns().map(ToString::to_string);
        let plan = self.plan;
        let ready = plan.ready.as_ref().map(Ready::shown);
        let log = own_unit::log_of(&plan.command);
        let may_be_down = tells_who_is_down(&state.facts) || !state.facts.missing.ports.is_empty();
        let kept = may_be_down && self.world.is_kept(&plan.gated().listener_ports());
        let ending = conclude(&Evidence {
            facts: &state.facts,
            gated: plan.gated(),
            command: &plan.command_line(),
            pid: self.world.pid_of_command(),
            closed: &self.closed,
            ready_timeout: plan.config.ready_timeout,
            before: &self.record.before,
            after: self.looked_after.then_some(&self.record.after),
            log: log.as_deref(),
            kept,
            helped_after: plan.by_name.is_some(),
            spawn_error: self.trouble.spawn.as_ref(),
            open_error: self.trouble.open.as_deref(),
            verb: account.verb,
            words: account.words.as_deref(),
            failure: account.failures.first(),
            held_up: self.onlooker.held_up,
            in_rooms: self.action.bridges_gaps(),
            ready: ready.as_deref().unwrap_or_default(),
            check_said: self.world.check_said(),
        });
        if ending.outcome == Outcome::Ok {
            self.tell_of_no_change(&state.facts, log.as_deref());
            self.tell_of_slow_command(&state.facts);
        }
        let told = usize::from(ending.outcome == Outcome::ActionFailed);
        let failures = account.failures.into_iter().skip(told);
        failures.for_each(|failure| self.warn(failure.why));
        self.record.course = Some(Course {
            facts: state.facts,
            closed: self.closed,
            rows: account.rows.into_iter().chain(left).collect(),
        });
        ending
    }

    /// The exit status of many a reload does not tell that it has failed. That new processes are missing tells it, unless
    /// none are expected.
    fn tell_of_no_change(&mut self, facts: &Facts, log: Option<&str>) {
        let within = humantime::format_duration(SETTLE_PATIENCE);
        let log = log.unwrap_or("the service's log");
        let unchanged = facts.same.union(&facts.unchanged);
        if let Some(name) = self.reloaded_in_place(&unchanged) {
            self.say.result(&format!(
                "{name} reloads in place: the same processes listen on {} as before ({log} tells whether they \
                 took the new configuration)",
                unchanged.brief()
            ));
            return;
        }
        let ports = [
            (&facts.same, "the same processes listen as before"),
            (&facts.unchanged, "the listeners are the same as before"),
        ];
        for (ports, what) in ports.into_iter().filter(|(ports, _)| !ports.is_empty()) {
            let text = format!(
                "nothing changed on {} within {within} of COMMAND's exit: {what}, so a reload that starts new \
                 processes may have failed (see {log}; if it reloads in place, give --settle 0)",
                ports.brief()
            );
            self.record.warnings.warn_urgently(self.say, &text);
        }
    }

    /// Init scripts often sleep for a second after the start.
    fn tell_of_slow_command(&mut self, facts: &Facts) {
        let config = &self.plan.config;
        let by_exit = config.open_on == OpenOn::Exit && !config.ready_timeout.is_zero();
        let by_exit = by_exit && !config.ready_check && !self.onlooker.held_up.command;
        let (Some(listened), Some((exited, _))) = (self.onlooker.replaced_at, facts.exited) else {
            return;
        };
        let early = exited.saturating_duration_since(listened);
        if by_exit && !facts.opened_early && early >= EARLY {
            self.say.result(&format!(
                "the service listened again {} before COMMAND ended, and clients waited for that too: with \
                 --open-on ready, the gate opens once the service listens",
                ms_words(early)
            ));
        }
    }

    /// The service that listens on these ports, if COMMAND reloads it, and it is known to do that without a new process or
    /// socket.
    fn reloaded_in_place(&self, ports: &PortSet) -> Option<String> {
        let (plan, after) = (self.plan, &self.record.after);
        let by_name = plan.by_name.as_ref();
        let reloads = plan.reload || by_name.is_some_and(|one| one.reloads);
        let gated = plan.gated();
        let is_meant = |l: &&Listener| !gated.served_by(l.port).intersection(ports).is_empty();
        let inodes: Vec<u32> = { after.listeners.iter() }
            .filter(is_meant)
            .map(|l| l.inode)
            .collect();
        let mut holders = after
            .holders
            .iter()
            .filter(|_| reloads && self.looked_after);
        holders.find_map(|(pid, holder)| {
            let holds = holder.inodes.iter().any(|inode| inodes.contains(inode));
            let known = holds && executable(*pid).is_some_and(|file| reloads_in_place(&file));
            known.then(|| by_name.map_or(&holder.name, |one| &one.name).clone())
        })
    }

    fn look_after(&mut self, state: &State) {
        let want = Want {
            holders: true,
            ..Want::default()
        };
        let Ok(after) = self.world.sockets().look(want) else {
            return;
        };
        self.looked_after = true;
        let record = &mut *self.record;
        record.after = after;
        let facts = &state.facts;
        let config = &self.plan.config;
        if facts.started_at.is_none() || config.ready_timeout.is_zero() {
            return;
        }
        let (before, after) = (
            record.before.lasting(&record.before.sessions),
            &record.after.listeners,
        );
        record.listeners_lost = uncovered(&before, after);
        // Services that have not come back belong to the verdict.
        let gated = &config.gated;
        let judged = |l: &Listener| facts.missing.listeners.iter().any(|old| old.id == l.id);
        let lost = uncovered(before.iter().filter(|l| !judged(l)), after);
        let others = other_users(&before, after);
        let seen = record.before.listeners.iter().chain(after);
        let seen = seen.map(|l| l.port).collect();
        let never_seen = facts.never_seen.minus(&gated.served_by_any(&seen));
        if !lost.is_empty() {
            let text = format!(
                "nobody listens on {} any more: new connections there are refused",
                lost.join(" ")
            );
            match tells_who_is_down(facts) {
                true => self.record.warnings.note(text),
                false => self.warn(text),
            }
        }
        for (place, before, now) in others {
            self.warn(format!(
                "the listener on {place} now belongs to uid {now}; before COMMAND it belonged to uid {before}"
            ));
        }
        if !never_seen.is_empty() && !config.ready_check && !facts.opened_early {
            self.warn(self.only_settled(&never_seen));
        }
    }

    /// How many idle connections the restart has ended.
    fn look_for_idle(&mut self, facts: &Facts) {
        let plan = self.plan;
        let drains = plan.config.drain_until;
        let idle = self.record.idle.take();
        let looked = facts.started_at.is_some() && drains >= DrainUntil::Requests;
        let Some(idle) = idle.filter(|_| looked) else {
            return;
        };
        let closed = match idle.is_empty() {
            true => Some(0),
            false => self.world.sockets().closed_by_service(&idle).ok(),
        };
        self.record.idle_closed = closed;
        let Some(closed @ 1..) = closed else {
            return;
        };
        let what = counted(closed, "idle connection");
        match &plan.drain_cmd {
            None => self.say.phase(&format!(
                "the restart closed {what}: a client that sent a request at that moment has lost it \
                 (--drain-cmd can prevent that)"
            )),
            // Else a warning tells of all that are left.
            Some(_) if drains < DrainUntil::Connections && facts.left.is_nothing() => {
                self.warn(format!(
                    "the service kept {what} after --drain-cmd had ended, and closed them later: a request on them may be lost \
                     (--drain-until connections waits for them)"
                ));
            }
            Some(_) => (),
        }
    }

    fn only_settled(&self, ports: &PortSet) -> String {
        let config = &self.plan.config;
        let waited = match config.settle {
            Settle::Fixed(settle) if !settle.is_zero() => {
                let settle = humantime::format_duration(settle);
                format!("waited only for --settle {settle}")
            }
            _ => "did not wait for the service".to_owned(),
        };
        format!(
            "syngate saw no listener on {}, neither before COMMAND nor after it, and so {waited}; if the \
             listener is in a container or on another port, give --listen-netns or --listen-port",
            config.gated.listen_ports.shown(ports),
        )
    }

    fn warn_of_the_gate(&mut self, state: &State) {
        let facts = &state.facts;
        if !facts.left.is_nothing() && facts.started_at.is_some() {
            let drain = humantime::format_duration(self.plan.config.drain);
            self.warn(format!(
                "--drain {drain} was over, and connections were left: {}; COMMAND may have cut them (raise \
                 --drain if they need longer)",
                facts.left
            ));
        }
        if facts.ran_open && self.closed.time().is_some() {
            self.warn(
                "the gate did not stand any more, and COMMAND ran all the same (--best-effort)"
                    .to_owned(),
            );
        }
        if facts.reclosed > 0 {
            let times = match facts.reclosed {
                1 => String::new(),
                n => format!(", {n} times"),
            };
            self.warn(format!(
                "another program removed or changed the gate's rules while the gate was closed, or put others before \
                 them (a firewall's reload, iptables -F, iptables -I?): syngate closed the gate again at once{times}"
            ));
        }
    }

    fn warn_of_a_fall(&mut self, state: &State) {
        if self.trouble.fell || state.is_fallen() {
            self.warn(
                "another program removed or changed the gate's rules while the gate was closed, or put others before \
                 them (a firewall's reload, iptables -F, iptables -I?), and syngate noticed it late: until then, new \
                 connections reached the service, or were refused where nobody listened"
                    .to_owned(),
            );
        }
    }

    fn warn_of_the_rest(&mut self, state: &State) {
        let facts = &state.facts;
        let plan = self.plan;
        if let Some(abandoned) = facts.abandoned {
            self.warn(abandoned.warning());
        }
        if let (Some(why), Listeners::From(line)) = (&self.search_trouble, &plan.listeners) {
            let line = line.to_string_lossy();
            self.warn(format!("--listen-netns-from '{line}' {why}"));
        }
        if facts.opened_early && facts.started_at.is_some() {
            self.warn(
                "SIGUSR1 (syngate clear sends it) opened the gate early: new connections may have \
                       been refused"
                    .to_owned(),
            );
        }
        if let (Some((ports, at)), Some((exited, _))) = (&facts.late, facts.exited) {
            self.warn(format!(
                "COMMAND exited before the restart was done: a listener on {} ended {} later, and syngate \
                 closed the gate again; COMMAND should return when the restart is done",
                ports.brief(),
                ms_words(*at - exited)
            ));
        }
        self.warn_of_listeners(state);
        let succeeded = matches!(facts.exited, Some((_, CommandExit::Code(0))));
        if let Some(error) = self.trouble.open.clone().filter(|_| !succeeded) {
            self.warn(format!("the gate did not open as it should: {error}"));
        }
    }

    /// Of those that ended while their ports were open.
    fn warn_of_listeners(&mut self, state: &State) {
        let facts = &state.facts;
        let plan = self.plan;
        let bridged = self.action.bridges_gaps();
        let (count, ports) = state.unaccepted();
        if count > 0 && !bridged {
            self.warn(format!(
                "{} in the accept queue of a listener on {} shortly before that ended: the kernel resets \
                 connections that nobody has accepted",
                counted(count, "connection") + " waited",
                ports.brief()
            ));
        }
        let late = facts.late.as_ref().map(|(ports, _)| ports);
        let told = late.unwrap_or(&PortSet::EMPTY).union(&facts.missing.ports);
        let unserved = facts.unserved.minus(&told);
        let met = if bridged { "waited" } else { "were refused" };
        if !unserved.is_empty() {
            self.warn(format!(
                "a listener on {} ended after its port had opened: new connections {met} until there was \
                 another one",
                unserved.brief()
            ));
        }
        // Where nobody listens still, that is told already.
        let told = told.union(&unserved);
        let came_later = |l: &&Listener| {
            let ports = plan.config.gated.served_by(l.port);
            ports.intersection(&told).is_empty() && is_covered(l, &self.record.after.listeners)
        };
        let came_later = places(facts.left_out.iter().filter(came_later));
        if !came_later.is_empty() {
            self.warn(format!(
                "nobody listened on {} for a time after its port had opened: new connections there {met}",
                came_later.join(" ")
            ));
        }
    }
}

//! Connections that are elsewhere, on a standby or a peer: what is done for them once the gate is open,
//! and what is told of them. When, is decided in `step/linger.rs`.

use std::time::Instant;

use anyhow::Result;

use super::Run;
use crate::action::Work;
use crate::action::redirect::Redirect;
use crate::action::redirect::standby::Standby;
use crate::decide::{Event, LingerEnd, Lingered, State};
use crate::gate::gate::Gate;
use crate::kernel::conntrack;
use crate::run::report::{StandbyEnd, StandbyRow};

impl Run<'_> {
    /// How many connections are left elsewhere?
    pub(super) fn linger(&mut self) -> Event {
        let began = Instant::now();
        let left = match self.work {
            Work::Divert(_) => self.left_on_peer(),
            _ => self.left_on_standby(),
        };
        let left = left.unwrap_or_else(|error| {
            self.warn(format!("{error:#}"));
            None
        });
        let gate = self.gate.as_mut();
        if gate.is_some_and(|gate| gate.exposed() && !gate.intact()) {
            self.warn(
                "somebody removed the gate's rules while connections elsewhere finished: they may have \
                 been cut"
                    .to_owned(),
            );
        }
        Event::Lingers(left, began.elapsed())
    }

    fn left_on_standby(&mut self) -> Result<Option<usize>> {
        self.look_after_who_was_redirected();
        self.work.redirect().map(Redirect::unfinished).transpose()
    }

    fn left_on_peer(&mut self) -> Result<Option<usize>> {
        let (Some(gate), Some(divert)) = (&mut self.gate, self.work.divert()) else {
            return Ok(None);
        };
        divert.flows = gate.flows()?;
        Ok(Some(divert.flows.left))
    }

    /// What has gone wrong for them, each told once.
    fn look_after_who_was_redirected(&mut self) {
        let Some(redirect) = self.work.redirect() else {
            return;
        };
        let port = redirect.port();
        let gate = self.gate.as_mut();
        let first_look = !std::mem::replace(&mut self.looked_for_answers, true);
        // Later there may be no trace of those that are over.
        if first_look
            && self.closed.since_closed() < conntrack::KEPT
            && gate.and_then(Gate::syns_stopped).is_some_and(|n| n > 0)
            && redirect.nobody_was_answered()
        {
            self.warn(format!(
                "none of the SYNs that went to port {port} was answered: does a firewall of this host \
                 drop them? (ct status dnat accept lets them in)"
            ));
        }
    }

    /// While the rules stand, so that those who are cut hear of it.
    pub(super) fn stop_standby(&mut self) -> Event {
        let Some(standby) = &mut self.standby else {
            return Event::StandbyStopped;
        };
        if standby.stopped().is_some() {
            self.note_standby(StandbyEnd::Ended);
            return Event::StandbyStopped;
        }
        self.say.phase("stopping the standby");
        self.stopping = Some(Instant::now());
        standby.begin_stop();
        Event::Done
    }

    /// Whether the standby that is being stopped has gone.
    pub(super) fn standby_gone(&mut self) -> Option<Event> {
        self.stopping.filter(|_| self.standby_row.is_none())?;
        let stop = self.standby.as_mut()?.stopped()?;
        if stop.left {
            self.warn("some of --standby may still be there".to_owned());
        }
        if stop.killed {
            let grace = humantime::format_duration(self.plan.standby.grace);
            self.warn(format!(
                "--standby did not end within --standby-grace {grace}: killed"
            ));
        }
        self.note_standby(match stop.killed {
            true => StandbyEnd::Killed,
            false => StandbyEnd::Terminated,
        });
        Some(Event::StandbyStopped)
    }

    fn note_standby(&mut self, end: StandbyEnd) {
        let pid = self.standby.as_ref().map_or(0, Standby::pid);
        let took = self.stopping.map(|since| since.elapsed());
        self.standby_row = Some(StandbyRow::new(pid, end, took));
    }

    /// In the end: it was stopped, or is to be kept, or nobody waits for its end.
    pub(super) fn leave_standby(&mut self) {
        self.say.done_waiting();
        let Some(mut standby) = self.standby.take() else {
            return;
        };
        if self.standby_row.is_some() {
            return;
        }
        let end = match (standby.stopped(), self.plan.standby.keep) {
            (Some(_), _) => StandbyEnd::Ended,
            (None, true) => StandbyEnd::Kept,
            (None, false) => StandbyEnd::Stopping,
        };
        self.standby_row = Some(StandbyRow::new(standby.pid(), end, None));
        if end == StandbyEnd::Kept {
            standby.keep();
        }
    }

    /// Once: who wanted the run to end sees why it has not.
    pub(super) fn tell_of_linger(&mut self, state: &State) {
        let Some(place) = state.lingers_in_spite_of_a_signal() else {
            return;
        };
        if !std::mem::replace(&mut self.told_of_linger, true) {
            let linger = humantime::format_duration(self.plan.syn.linger());
            self.say.result(&format!(
                "the gate is open; connections to the {place} have --linger {linger} to finish: one \
                 more signal cuts them"
            ));
        }
    }

    pub(super) fn note_lingered(&mut self, lingered: Option<Lingered>) {
        let Some(Lingered {
            left: Some(left),
            end,
            ..
        }) = lingered
        else {
            return;
        };
        let flows = self.work.divert().map(|divert| divert.flows);
        let left = flows.map_or(left, |flows| flows.open);
        if left == 0 {
            return;
        }
        let linger = humantime::format_duration(self.plan.syn.linger());
        let why = match end {
            LingerEnd::Stopped => "when a signal ended the linger".to_owned(),
            _ => format!("when --linger {linger} was over"),
        };
        let some = match left {
            1 => "1 connection was".to_owned(),
            n => format!("{n} connections were"),
        };
        let apart = match self
            .work
            .redirect()
            .is_none_or(|redirect| redirect.tells_apart())
        {
            true => "",
            false => {
                " (among them those that went there by themselves: without nf_conntrack_netlink \
                      they can't be told apart)"
            }
        };
        let place = match self.work {
            Work::Divert(_) => "peer",
            _ => "standby",
        };
        self.warn(format!("{some} still on the {place} {why}{apart}"));
    }

    /// What became of diverted connections otherwise than it should.
    pub(super) fn note_diverted(&mut self) {
        let Some(divert) = self.work.divert() else {
            return;
        };
        let (flows, most) = (divert.flows, divert.to().most);
        // Those that are left may still be on their way.
        if flows.all > 0 && flows.went_on == 0 && flows.left == 0 {
            self.warn(
                "none of the connections that went to the peer got further than its SYN: does nobody \
                 listen there, does a firewall drop their packets, here on their way out or there, or \
                 has the peer no way to the clients?"
                    .to_owned(),
            );
        }
        if flows.no_room > 0 {
            self.warn(format!(
                "--max-diverted {most} was reached: {} SYNs were dropped, and their clients send them \
                 again",
                flows.no_room
            ));
        }
    }
}

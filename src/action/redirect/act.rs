//! `--syn redirect` while the gate is closed and during the linger.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::account::{RedirectRow, StandbyEnd, redirected_words};
use super::mistake::{TwoInstances, two_instances};
use super::policy::RedirectPolicy;
use super::redirected::Redirected;
use super::standby::Standby;
use super::to_standby::{SharedStandby, ToStandby};
use super::wire::Stop;
use crate::action::contract::{Account, Action, Means, Now};
use crate::action::elsewhere::{warn_if_fallen, warn_of_cut};
use crate::decide::policy::{Answer, Noted, Policy, Question};
use crate::gate::gate::Gate;
use crate::kernel::conntrack;
use crate::kernel::sockets::Want;
use crate::process::signals::{Caught, Signals};
use crate::tell::say::Say;
use crate::words::ports::PortSet;
use crate::words::steer::Steer;

pub(crate) struct RedirectAction {
    linger: Duration,
    grace: Duration,
    keep: bool,
    redirected: Redirected,
    standby: SharedStandby,
    closed_at: Option<Instant>,
    /// The run has checked whether any SYN was answered.
    looked_for_answers: bool,
    /// When the stop of the standby began.
    stopping: Option<Instant>,
    /// The gate has opened, at least for some ports.
    opened: bool,
    command_began: bool,
    /// Since COMMAND began, somebody else has stopped the standby, or it does not listen any more.
    gone: bool,
}

impl RedirectAction {
    pub(crate) fn new(
        to: &ToStandby,
        redirected: Redirected,
        standby: SharedStandby,
    ) -> RedirectAction {
        RedirectAction {
            linger: to.linger,
            grace: to.grace,
            keep: to.keep,
            redirected,
            standby,
            closed_at: None,
            looked_for_answers: false,
            stopping: None,
            opened: false,
            command_began: false,
            gone: false,
        }
    }

    fn left(&mut self, now: &mut Now) -> Option<usize> {
        self.warn_if_unanswered(now);
        let left = self.redirected.unfinished();
        left.inspect_err(|error| now.warn(format!("{error:#}")))
            .ok()
    }

    /// Runs at the first look only: later there may be no trace of connections that have ended.
    fn warn_if_unanswered(&mut self, now: &mut Now) {
        let first_look = !std::mem::replace(&mut self.looked_for_answers, true);
        let since_closed = self.closed_at.map_or(Duration::ZERO, |at| at.elapsed());
        let gate = now.gate.as_deref_mut();
        if first_look
            && since_closed < conntrack::KEPT
            && gate.and_then(Gate::syns_stopped).is_some_and(|n| n > 0)
            && self.redirected.nobody_was_answered()
        {
            let port = self.redirected.port();
            now.warn(format!(
                "nobody answered the SYNs that went to port {port}: does a firewall of this host drop them?"
            ));
        }
    }

    /// Runs while the rules stand, so that clients of cut connections get the standby's reset.
    fn stop(&mut self, now: &mut Now) -> Answer {
        self.ended_unasked(now);
        let mut own = self.standby.borrow_mut();
        let Some(own) = own.as_mut() else {
            return Answer::Stopped;
        };
        if own.standby.stopped().is_some() {
            own.has_ended(StandbyEnd::Ended, None);
            return Answer::Stopped;
        }
        now.say.phase("stopping the standby");
        self.stopping = Some(Instant::now());
        own.standby.begin_stop();
        Answer::Stopping
    }

    /// The standby has ended, and this run has not asked it to. If its guard was killed, nobody can tell.
    fn ended_unasked(&mut self, now: &mut Now) -> Option<Answer> {
        let mut own = self.standby.borrow_mut();
        let own = own.as_mut().filter(|own| own.row.is_none())?;
        own.standby.stopped().filter(|stop| !stop.left)?;
        // While the gate is closed, the run tells why it opens it.
        if self.opened {
            now.warn("the standby ended, and syngate had not stopped it".to_owned());
        }
        own.has_ended(StandbyEnd::Ended, None);
        self.gone = self.command_began;
        Some(Answer::Ended)
    }

    fn warn_of_mistake(&self, now: &mut Now) {
        let want = Want {
            holders: true,
            ..Want::default()
        };
        let there = self.gone.then(|| now.sockets.look(want).ok()).flatten();
        let two = there.and_then(|there| two_instances(now.before, &there));
        if let Some(TwoInstances { old, new }) = two {
            now.warn(format!(
                "two instances of the service listen: {old}, the old one, and {new}, the new one; the standby is \
                 gone, so COMMAND seems to have stopped that in place of the old one: stop the old one"
            ));
        }
    }

    fn warn_of_guard(&self, now: &mut Now) {
        let mut own = self.standby.borrow_mut();
        let trouble = own.as_mut().and_then(|own| own.standby.trouble());
        trouble
            .into_iter()
            .for_each(|text| now.warn(text.to_owned()));
    }

    fn warn_of_stop(&self, stop: Stop, now: &mut Now) {
        if stop.left {
            now.warn("processes of --standby may still run".to_owned());
        }
        if stop.killed {
            let grace = humantime::format_duration(self.grace);
            now.warn(format!(
                "--standby did not end within --standby-grace {grace}, and syngate killed it"
            ));
        }
    }
}

impl Action for RedirectAction {
    fn means(&mut self) -> Means {
        Means::Rules(Steer::Redirect(self.redirected.port()))
    }

    fn closed_words(&self) -> String {
        format!(", new connections go to port {}", self.redirected.port())
    }

    fn policy(&self, closed_at: Instant) -> Box<dyn Policy> {
        let then_stop = self.standby.borrow().is_some() && !self.keep;
        Box::new(RedirectPolicy::new(self.linger, then_stop, closed_at))
    }

    /// Errors are ignored: they are as rare as a kernel without nf_conntrack_netlink.
    fn closing(&mut self, say: &Say) {
        match self.redirected.forget_ended() {
            Ok(0) => (),
            Ok(count) => say.phase(&format!(
                "removed {count} connections that were over from connection tracking"
            )),
            Err(error) => say.phase(&format!(
                "connections that are over may still be tracked: {error:#}"
            )),
        }
    }

    fn closed(&mut self, now: &mut Now) {
        self.closed_at = now.gate.as_deref().map(Gate::closed_at);
    }

    fn ask(&mut self, question: Question, now: &mut Now) -> Answer {
        match question {
            Question::Taken => {
                let listens = self.redirected.standby_listens();
                self.gone = self.command_began && !listens;
                Answer::Taken(listens)
            }
            Question::Stop => self.stop(now),
            Question::Left | Question::LetGo { .. } => {
                let left = self.left(now);
                warn_if_fallen(now);
                Answer::Left(left)
            }
        }
    }

    fn wait(
        &self,
        signals: &Signals,
        until: Option<Instant>,
        beside: Option<BorrowedFd>,
    ) -> Option<Caught> {
        let own = self.standby.borrow();
        let standby = own.as_ref().map(|own| &own.standby);
        let due = standby.and_then(Standby::due);
        let until = until.into_iter().chain(due).min();
        let news = standby.and_then(Standby::news);
        signals.wait_beside(until, beside.into_iter().chain(news))
    }

    fn command_began(&mut self) {
        self.command_began = true;
    }

    fn opened(&mut self, _: &PortSet) {
        self.opened = true;
    }

    fn read(&mut self) {
        if let Some(own) = self.standby.borrow_mut().as_mut() {
            let _ = own.standby.stopped();
        }
    }

    /// Whether the standby has ended.
    fn news(&mut self, now: &mut Now) -> Option<Answer> {
        self.warn_of_guard(now);
        let Some(since) = self.stopping else {
            return self.ended_unasked(now);
        };
        let mut own = self.standby.borrow_mut();
        let own = own.as_mut().filter(|own| own.row.is_none())?;
        let stop = own.standby.stopped()?;
        self.warn_of_stop(stop, now);
        let end = match stop.killed {
            true => StandbyEnd::Killed,
            false => StandbyEnd::Terminated,
        };
        own.has_ended(end, Some(since.elapsed()));
        Some(Answer::Stopped)
    }

    fn account(&mut self, noted: &Noted, stopped: Option<u64>, now: &mut Now) -> Account {
        let apart = match self.redirected.tells_apart() {
            true => "",
            false => {
                " (clients that had connected to the standby directly count too: without \
                 nf_conntrack_netlink syngate can't tell them apart)"
            }
        };
        let left = noted.lingered.and_then(|lingered| lingered.left);
        warn_of_cut("standby", left, noted, self.linger, apart, now);
        self.warn_of_mistake(now);
        if noted.missed {
            let port = self.redirected.port();
            now.warn(format!(
                "for a moment nobody listened on the standby's port {port}, and new connections were refused"
            ));
        }
        let row = RedirectRow::new(self.redirected.port(), stopped, noted.lingered);
        Account {
            rows: vec![row.named()],
            verb: "redirected",
            words: Some(redirected_words(&row)),
            failures: Vec::new(),
        }
    }
}

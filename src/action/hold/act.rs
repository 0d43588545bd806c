//! `--syn hold` while the gate is closed, and the release of the held SYNs.

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::account::{HoldRow, held_words, refused, warn_of_what_went_wrong};
use super::held::{Figures, Hold};
use super::pace::{self, Pace, Translation};
use super::policy::HoldPolicy;
use crate::action::contract::{Account, Action, Means, Now};
use crate::decide::policy::{Answer, Noted, Policy, Question, Waiting};
use crate::decide::rate::Rate;
use crate::kernel::sockets::{Looks, Sample, SynLimits, Want};
use crate::process::meanwhile::Meanwhile;
use crate::process::signals::{Caught, Signals};
use crate::words::gated::Gated;
use crate::words::ports::PortSet;
use crate::words::steer::Steer;

pub(crate) struct HoldAction {
    hold: Rc<RefCell<Hold>>,
    release_timeout: Duration,
    rate: Rate,
    translation: Translation,
    /// The limits of half-open connections in the listeners' network namespace.
    limits: Option<SynLimits>,
    /// SYNs that were released when no listener could be seen any more.
    to_nobody: usize,
    /// SYNs that were released when the gate had opened all at once, and nobody had looked who listens.
    unlooked: usize,
    /// Set once the rules are gone.
    figures: Option<Figures>,
}

impl HoldAction {
    pub(crate) fn new(
        hold: Hold,
        release_timeout: Duration,
        release_rate: Option<NonZeroU32>,
        gated: &Gated,
    ) -> HoldAction {
        HoldAction {
            hold: Rc::new(RefCell::new(hold)),
            release_timeout,
            rate: Rate::new(release_rate),
            translation: Translation {
                listen_ports: gated.listen_ports.clone(),
                of_addresses: !gated.listeners_are_addressed(),
                seen: PortSet::EMPTY,
            },
            limits: None,
            to_nobody: 0,
            unlooked: 0,
            figures: None,
        }
    }

    /// One round: releases as many SYNs as the listeners have room for, and `--release-rate` allows. If the sockets can't be
    /// read, the next round tries again.
    fn release(&mut self, ports: &PortSet, finally: bool, sockets: &mut dyn Looks) -> Result<()> {
        self.hold.borrow_mut().read_all();
        if self.hold.borrow().waited_for(ports).is_empty() {
            return Ok(());
        }
        // All SYNs released so far may still be in their handshakes.
        let comers = self.hold.borrow().gone() + self.hold.borrow().waiting_for(ports) as u64;
        let limits = *self.limits.get_or_insert_with(|| sockets.syn_limits());
        let sample = look_for_room(sockets, limits, comers)?;
        let now = Instant::now();
        let mut pace = Pace::new(&sample, limits, &self.translation, finally);
        pace.most(self.rate.allows(now));
        let gone = self.hold.borrow_mut().release_all(ports, &mut pace);
        self.rate.spend(gone, now);
        let nobody = sample.listeners.is_empty();
        if nobody && finally && !self.translation.seen.is_empty() {
            self.to_nobody += gone;
        } else if nobody {
            // Clients whose listener has gone may send a new SYN.
            self.hold.borrow_mut().forget_who_has_gone();
        }
        Ok(())
    }

    fn waiting(&self, ports: &PortSet) -> Waiting {
        Waiting {
            ports: self.hold.borrow().waited_for(ports),
            count: self.hold.borrow().waiting_for(ports),
            gone: self.hold.borrow().gone(),
        }
    }
}

impl Action for HoldAction {
    fn means(&mut self) -> Means {
        Means::Rules(Steer::Queue(self.hold.borrow().queue()))
    }

    /// Weak: held SYNs go on when the action is dropped, before the rules.
    fn meanwhile(&self) -> Meanwhile {
        let hold = Rc::downgrade(&self.hold);
        Meanwhile::new(move || {
            if let Some(hold) = hold.upgrade() {
                if let Ok(mut hold) = hold.try_borrow_mut() {
                    hold.read();
                }
            }
        })
    }

    fn closed_words(&self) -> String {
        format!(", SYNs wait in queue {}", self.hold.borrow().queue())
    }

    fn policy(&self, closed_at: Instant) -> Box<dyn Policy> {
        Box::new(HoldPolicy::new(self.release_timeout, closed_at))
    }

    fn closed(&mut self, now: &mut Now) {
        self.translation.seen = now.before.listeners.iter().map(|l| l.port).collect();
        self.limits = Some(now.sockets.syn_limits());
    }

    fn ask(&mut self, question: Question, now: &mut Now) -> Answer {
        let Question::LetGo { ports, finally } = question else {
            return Answer::Waiting(Waiting::default());
        };
        let _ = self.release(&ports, finally, now.sockets);
        Answer::Waiting(self.waiting(&ports))
    }

    /// Releases the SYNs that arrived while the gate opened, and those left after
    /// `--release-timeout`.
    fn opened(&mut self, open: &PortSet) {
        self.unlooked += self.hold.borrow_mut().let_go(open);
    }

    fn closed_again(&mut self) {
        self.hold.borrow_mut().forget_who_has_gone();
    }

    fn listeners_moved(&mut self, sockets: &dyn Looks) {
        self.limits = Some(sockets.syn_limits());
    }

    /// Waits between reads, so that packets are read in batches.
    fn wait(
        &self,
        signals: &Signals,
        until: Option<Instant>,
        beside: Option<BorrowedFd>,
    ) -> Option<Caught> {
        let hold = self.hold.borrow();
        match hold.not_before().filter(|at| *at > Instant::now()) {
            Some(at) => {
                let until = until.map_or(at, |until| until.min(at));
                signals.wait_beside(Some(until), beside)
            }
            None => signals.wait_beside(until, beside.into_iter().chain([hold.as_fd()])),
        }
    }

    fn read(&mut self) {
        self.hold.borrow_mut().read();
    }

    fn removed(&mut self) {
        self.figures = Some(self.hold.borrow_mut().figures());
    }

    fn account(&mut self, noted: &Noted, _: Option<u64>, now: &mut Now) -> Account {
        if self.unlooked > 0 && !self.translation.seen.is_empty() {
            let there = now.sockets.look(Want::default());
            let nobody = there.is_ok_and(|there| there.listeners.is_empty());
            self.to_nobody += if nobody { self.unlooked } else { 0 };
        }
        let row = self.figures.map(|figures| HoldRow::new(figures, noted));
        warn_of_what_went_wrong(noted.release_cut, self.release_timeout, self.figures, now);
        Account {
            rows: row.map(|row| row.named()).into_iter().collect(),
            verb: "closed",
            words: self.figures.map(|figures| held_words(&figures)),
            failures: refused(self.to_nobody).into_iter().collect(),
        }
    }
}

/// Looks at the listeners. Handshakes are counted only where the listeners might lack room.
fn look_for_room(sockets: &mut dyn Looks, limits: SynLimits, comers: u64) -> Result<Sample> {
    let listeners = sockets.look(Want::default())?;
    if pace::has_plenty(&listeners, limits, comers) {
        return Ok(listeners);
    }
    sockets.look(Want {
        handshakes: true,
        ..Want::default()
    })
}

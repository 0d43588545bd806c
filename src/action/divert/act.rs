//! `--syn divert` while the gate is closed and during the linger.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::account::{DivertRow, diverted_words, warn_of_what_went_wrong};
use crate::action::contract::{Account, Action, Means, Now};
use crate::action::elsewhere::{warn_if_fallen, warn_of_cut};
use crate::action::linger::Linger;
use crate::decide::policy::{Answer, Noted, Policy, Question};
use crate::gate::backend::Flows;
use crate::words::steer::{Diversion, Steer};

pub(crate) struct DivertAction {
    to: Diversion,
    linger: Duration,
    /// The counts of the last look.
    flows: Flows,
}

impl DivertAction {
    pub(crate) fn new(to: Diversion, linger: Duration) -> DivertAction {
        DivertAction {
            to,
            linger,
            flows: Flows::default(),
        }
    }

    fn left(&mut self, now: &mut Now) -> Result<Option<usize>> {
        let Some(gate) = now.gate.as_deref_mut() else {
            return Ok(None);
        };
        self.flows = gate.flows()?;
        Ok(Some(self.flows.left))
    }
}

impl Action for DivertAction {
    fn means(&mut self) -> Means {
        Means::Rules(Steer::Divert(self.to))
    }

    fn closed_words(&self) -> String {
        format!(
            ", new connections go to the peer: {}",
            Steer::Divert(self.to)
        )
    }

    fn policy(&self, closed_at: Instant) -> Box<dyn Policy> {
        Box::new(Linger::new("peer", self.linger, false, closed_at))
    }

    fn closed(&mut self, now: &mut Now) {
        let Some(gate) = now.gate.as_deref_mut() else {
            return;
        };
        let half_open = now.sockets.half_open();
        if let Err(error) = half_open.and_then(|all| gate.spare(&all)) {
            now.warn(format!("half-open connections may be cut: {error:#}"));
        }
    }

    fn ask(&mut self, _: Question, now: &mut Now) -> Answer {
        let left = self.left(now).unwrap_or_else(|error| {
            now.warn(format!("{error:#}"));
            None
        });
        warn_if_fallen(now);
        Answer::Left(left)
    }

    fn account(&mut self, noted: &Noted, _: Option<u64>, now: &mut Now) -> Account {
        let seen = noted.lingered.and_then(|lingered| lingered.left);
        let left = seen.map(|_| self.flows.open);
        warn_of_cut("peer", left, noted, self.linger, "", now);
        warn_of_what_went_wrong(&self.flows, self.to.most, now);
        let row = DivertRow::new(&self.to, &self.flows, noted.lingered);
        Account {
            rows: vec![row.named()],
            verb: "diverted",
            words: Some(diverted_words(&row)),
            failures: Vec::new(),
        }
    }
}

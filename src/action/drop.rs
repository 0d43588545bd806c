//! `--syn drop`: the kernel drops the SYNs of new connections. The client's kernel sends its SYN
//! again after 1 s. Linux 6.5 and newer then sends three times more at intervals of 1 s
//! (tcp_syn_linear_timeouts); other kernels send after 3, 7 and 15 s (RFC 6298, 5.7).

use std::sync::Arc;

use anyhow::Result;

use super::contract::{
    Account, Action, ActionEntry, Before, Description, Means, Now, Planned, Prepared, Request,
    Seen, Standing, Wanted,
};
use crate::decide::policy::{Answer, Noted, Question, Waiting};
use crate::words::count::counted;
use crate::words::ending::Ending;
use crate::words::gated::Gated;
use crate::words::steer::Steer;

pub(crate) const ENTRY: ActionEntry = ActionEntry {
    name: "drop",
    value: "drop",
    help: "They are dropped, and their clients send them again",
    options: |command| command,
    parse: |_| Ok(Arc::new(Dropping)),
    rows: &[],
    standing: Standing::STOPS,
    limits: &[],
    guard: |_| None,
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Dropping;

impl Wanted for Dropping {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn plan(&self, _: &Request) -> Result<Box<dyn Planned>, String> {
        Ok(Box::new(Dropping))
    }
}

impl Planned for Dropping {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn describe(&self, _: &Gated) -> Description {
        Description::default()
    }

    fn steer(&self) -> Result<Option<Steer>> {
        Ok(Some(Steer::Drop))
    }

    fn prepare(&self, _: &mut Before) -> Result<Box<dyn Prepared>, Ending> {
        Ok(Box::new(Dropping))
    }
}

impl Prepared for Dropping {
    fn begin(&self, _: &Seen) -> Result<Box<dyn Action>> {
        Ok(Box::new(Dropping))
    }
}

impl Action for Dropping {
    fn means(&mut self) -> Means {
        Means::Rules(Steer::Drop)
    }

    /// Never called, because the policy asks nothing.
    fn ask(&mut self, _: Question, _: &mut Now) -> Answer {
        Answer::Waiting(Waiting::default())
    }

    fn account(&mut self, _: &Noted, stopped: Option<u64>, _: &mut Now) -> Account {
        Account {
            rows: Vec::new(),
            verb: "closed",
            words: stopped.map(dropped_words),
            failures: Vec::new(),
        }
    }
}

/// How many SYNs the gate dropped, and what that means for their clients.
fn dropped_words(count: u64) -> String {
    let dropped = counted(count, "SYN") + " dropped";
    match count {
        0 => dropped,
        1 => dropped + ": its client connects at least 1 s late",
        _ => dropped + ": their clients connect at least 1 s late",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_syn_is_told_to_make_its_client_late() {
        assert_eq!(dropped_words(0), "0 SYNs dropped");
        let one = dropped_words(1);
        assert_eq!(one, "1 SYN dropped: its client connects at least 1 s late");
        let many = dropped_words(4);
        assert_eq!(
            many,
            "4 SYNs dropped: their clients connect at least 1 s late"
        );
    }
}

//! The results of diverted connections, as report rows and as text.

use serde::Serialize;
use serde_json::Value;

use crate::action::contract::Now;
use crate::action::elsewhere::went;
use crate::decide::policy::{LingerEnd, Lingered};
use crate::gate::backend::Flows;
use crate::words::count::counted;
use crate::words::ms::Ms;
use crate::words::steer::Diversion;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DivertRow {
    peers: Vec<String>,
    diverted: Option<u64>,
    finished: Option<u64>,
    cut: Option<usize>,
    no_room: u64,
    linger_ms: Option<Ms>,
    linger_timed_out: bool,
}

impl DivertRow {
    /// Without a linger nothing was counted.
    pub(crate) fn new(to: &Diversion, flows: &Flows, lingered: Option<Lingered>) -> DivertRow {
        let cut = lingered.and_then(|lingered| lingered.left.map(|_| flows.open));
        DivertRow {
            peers: to.peers().map(|peer| peer.to_string()).collect(),
            diverted: lingered.map(|_| flows.all),
            finished: cut.map(|cut| flows.all.saturating_sub(cut as u64)),
            cut,
            no_room: flows.no_room,
            linger_ms: lingered.map(|lingered| lingered.took.into()),
            linger_timed_out: lingered.is_some_and(|l| l.end == LingerEnd::TimedOut),
        }
    }

    pub(crate) fn named(&self) -> (&'static str, Value) {
        ("divert", serde_json::json!(self))
    }
}

pub(crate) fn diverted_words(row: &DivertRow) -> String {
    let mut words = went(row.diverted, &row.peers.join(", "), row.cut);
    match row.no_room {
        0 => (),
        n => words.push_str(&format!(", {} dropped (--max-diverted)", counted(n, "SYN"))),
    }
    words
}

pub(crate) fn warn_of_what_went_wrong(flows: &Flows, most: u32, now: &mut Now) {
    // Connections that are still open may yet get further than their SYN.
    if flows.all > 0 && flows.went_on == 0 && flows.left == 0 {
        now.warn(
            "the peer answered no connection that went there: does nobody listen, does a firewall here or there drop \
             packets, or has the peer no way to the clients?"
                .to_owned(),
        );
    }
    if flows.no_room > 0 {
        now.warn(format!(
            "the gate dropped {} that exceeded --max-diverted {most} (clients send them again)",
            counted(flows.no_room, "SYN")
        ));
    }
}

//! The times and limits that the manual names.

use std::time::Duration;

use crate::action::divert::options as peers;
use crate::action::divert::probe;
use crate::action::hold::{held, options as holding, pace, policy as releasing, release};
use crate::action::linger;
use crate::action::redirect::{guard, policy as standby, wire};
use crate::commands::clear;
use crate::decide::{beside, draining, looks, opening, service};
use crate::gate::iptables::backend as iptables;
use crate::gate::nft::{divert, ruleset};
use crate::gate::watchdog;
use crate::kernel::nfqueue;
use crate::kernel::nfqueue::packet;
use crate::kernel::sockets::{holders, row};
use crate::process::lock;
use crate::words::duration;

/// Times, each with the item that it stands under in the manual.
const TIMES: &[(&str, Duration)] = &[
    ("Longest duration", duration::LONGEST),
    ("Lock retry", lock::RETRY),
    ("Look", looks::LOOK_EVERY),
    ("Quiet", looks::QUIET),
    ("Young half-open", row::YOUNG),
    ("Cookie grace", draining::COOKIE_GRACE),
    ("Ready check", beside::CHECK_PAUSE),
    ("Search", beside::SEARCH_PAUSE),
    ("Settle, one socket", service::SETTLE_ONE),
    ("Settle, group", service::SETTLE_GROUP),
    ("Settle, first change", service::SETTLE_PATIENCE),
    ("Settle, addresses", service::SETTLE_PLACES),
    ("Guard", looks::GUARD_EVERY),
    ("Guard", iptables::LIST_EVERY),
    ("Watchdog's start", watchdog::START_TIMEOUT),
    ("Watchdog's grace", watchdog::GRACE),
    ("Watchdog's end", watchdog::DISMISS_TIMEOUT),
    ("Watchdog's patience", watchdog::RETRY_FOR),
    ("Watchdog's patience", watchdog::RETRY_EVERY),
    ("Clear's look", clear::LOOK_EVERY),
    ("Linger's look", linger::LINGER_LOOK),
    ("Linger's look", linger::LINGER_QUIET),
    ("Diverted", divert::SYN_LIFE),
    ("Diverted", divert::CLOSING_LIFE),
    ("Diverted", divert::ENDED_AFTER),
    ("Diverted", divert::OVER_LIFE),
    ("Standby's look", standby::STANDBY_EVERY),
    ("Standby's end", guard::DESERTED),
    ("Standby's end", wire::KILL_EVERY),
    ("Standby's end", wire::KILL_FOR),
    ("Held, reading", held::READ_EVERY),
    ("Release", releasing::RELEASE_EVERY),
    ("Release, stall", release::STALL),
    ("Held, lost", held::COUNT_EVERY),
    ("Others", opening::OTHERS_PATIENCE),
    ("Others", opening::OTHERS_LOOK),
];

/// All limits, as the manual has them.
pub fn limits() -> Vec<(&'static str, String)> {
    let times = TIMES.iter().map(|(item, time)| (*item, in_words(*time)));
    let numbers = [
        ("Diverted", divert::CLOSING_ROOM.to_string()),
        ("Diverted", peers::MAX_DIVERTED.to_string()),
        ("Diverted", peers::LARGEST_DIVERTED.to_string()),
        ("Peer", probe::AT_A_TIME.to_string()),
        ("Held", holding::MAX_HELD.to_string()),
        ("Held", holding::LARGEST_HELD.to_string()),
        ("Held, reading", format!("{} bytes", packet::COPIED)),
        ("Held, queue", nfqueue::FIRST_NUMBER.to_string()),
        (
            "Held, queue",
            (nfqueue::FIRST_NUMBER + nfqueue::NUMBERS - 1).to_string(),
        ),
        (
            "Held, buffer",
            format!("{} MiB", nfqueue::RECEIVE_BUFFER >> 20),
        ),
        ("Release, unseen", pace::BLIND.to_string()),
        ("Port sets", ruleset::MANY_RANGES.to_string()),
        ("Holders", holders::FILES[0].to_string()),
        ("Holders", holders::FILES[1].to_string()),
        ("Holders", holders::FILES[2].to_string()),
    ];
    times.chain(numbers).collect()
}

fn in_words(limit: Duration) -> String {
    match limit.as_millis() {
        0 => format!("{} ms", limit.as_micros() as f64 / 1e3),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
        ms => format!("{ms} ms"),
    }
}

//! The times and limits that the manual names.

use std::time::Duration;

use crate::action::divert::probe;
use crate::action::hold;
use crate::action::hold::pace;
use crate::action::redirect::standby;
use crate::cli;
use crate::commands::clear;
use crate::decide;
use crate::gate::nft::{compile, divert};
use crate::gate::{iptables, watchdog};
use crate::kernel::nfqueue;
use crate::kernel::nfqueue::packet;
use crate::kernel::sockets::{diag, holders};
use crate::process::lock;
use crate::words::duration;

/// Times, each with the item that it stands under in the manual.
const TIMES: &[(&str, Duration)] = &[
    ("Longest duration", duration::LONGEST),
    ("Lock retry", lock::RETRY),
    ("Look", decide::LOOK_EVERY),
    ("Quiet", decide::QUIET),
    ("Young half-open", diag::YOUNG),
    ("Cookie grace", decide::COOKIE_GRACE),
    ("Ready check", decide::CHECK_PAUSE),
    ("Search", decide::SEARCH_PAUSE),
    ("Settle, one socket", decide::SETTLE_ONE),
    ("Settle, group", decide::SETTLE_GROUP),
    ("Settle, first change", decide::SETTLE_PATIENCE),
    ("Settle, addresses", decide::SETTLE_PLACES),
    ("Guard", decide::GUARD_EVERY),
    ("Guard", iptables::LIST_EVERY),
    ("Watchdog's start", watchdog::START_TIMEOUT),
    ("Watchdog's grace", watchdog::GRACE),
    ("Watchdog's end", watchdog::DISMISS_TIMEOUT),
    ("Watchdog's patience", watchdog::RETRY_FOR),
    ("Watchdog's patience", watchdog::RETRY_EVERY),
    ("Clear's look", clear::LOOK_EVERY),
    ("Linger's look", decide::LINGER_LOOK),
    ("Linger's look", decide::LINGER_QUIET),
    ("Diverted", divert::SYN_LIFE),
    ("Diverted", divert::CLOSING_LIFE),
    ("Diverted", divert::ENDED_AFTER),
    ("Diverted", divert::OVER_LIFE),
    ("Standby's look", decide::STANDBY_EVERY),
    ("Standby's end", standby::DESERTED),
    ("Standby's end", standby::KILL_EVERY),
    ("Standby's end", standby::KILL_FOR),
    ("Held, reading", hold::READ_EVERY),
    ("Release", decide::RELEASE_EVERY),
    ("Release, stall", decide::STALL),
    ("Held, lost", hold::COUNT_EVERY),
    ("Others", decide::OTHERS_PATIENCE),
    ("Others", decide::OTHERS_LOOK),
];

/// All limits, as the manual has them.
pub fn limits() -> Vec<(&'static str, String)> {
    let times = TIMES.iter().map(|(item, time)| (*item, in_words(*time)));
    let numbers = [
        ("Diverted", divert::CLOSING_ROOM.to_string()),
        ("Diverted", cli::MAX_DIVERTED.to_string()),
        ("Diverted", cli::LARGEST_DIVERTED.to_string()),
        ("Peer", probe::AT_A_TIME.to_string()),
        ("Held", cli::MAX_HELD.to_string()),
        ("Held", cli::LARGEST_HELD.to_string()),
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
        ("Port sets", compile::MANY_RANGES.to_string()),
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

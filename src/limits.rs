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
use crate::kernel::sockets::{holders, row};
use crate::process::lock;
use crate::words::duration;

/// Each limit: the item that it stands under in the manual, and its value as the manual has it.
pub fn limits() -> Vec<(&'static str, String)> {
    vec![
        ("Longest duration", time(duration::LONGEST)),
        ("Lock retry", time(lock::RETRY)),
        ("Look", time(decide::LOOK_EVERY)),
        ("Quiet", time(decide::QUIET)),
        ("Young half-open", time(row::YOUNG)),
        ("Cookie grace", time(decide::COOKIE_GRACE)),
        ("Ready check", time(decide::CHECK_PAUSE)),
        ("Search", time(decide::SEARCH_PAUSE)),
        ("Settle, one socket", time(decide::SETTLE_ONE)),
        ("Settle, group", time(decide::SETTLE_GROUP)),
        ("Settle, first change", time(decide::SETTLE_PATIENCE)),
        ("Settle, addresses", time(decide::SETTLE_PLACES)),
        ("Guard", time(decide::GUARD_EVERY)),
        ("Guard", time(iptables::LIST_EVERY)),
        ("Watchdog's start", time(watchdog::START_TIMEOUT)),
        ("Watchdog's grace", time(watchdog::GRACE)),
        ("Watchdog's end", time(watchdog::DISMISS_TIMEOUT)),
        ("Watchdog's patience", time(watchdog::RETRY_FOR)),
        ("Watchdog's patience", time(watchdog::RETRY_EVERY)),
        ("Clear's look", time(clear::LOOK_EVERY)),
        ("Linger's look", time(decide::LINGER_LOOK)),
        ("Linger's look", time(decide::LINGER_QUIET)),
        ("Diverted", time(divert::SYN_LIFE)),
        ("Diverted", time(divert::CLOSING_LIFE)),
        ("Diverted", time(divert::ENDED_AFTER)),
        ("Diverted", time(divert::OVER_LIFE)),
        ("Diverted", divert::CLOSING_ROOM.to_string()),
        ("Diverted", cli::MAX_DIVERTED.to_string()),
        ("Diverted", cli::LARGEST_DIVERTED.to_string()),
        ("Peer", probe::AT_A_TIME.to_string()),
        ("Standby's look", time(decide::STANDBY_EVERY)),
        ("Standby's end", time(standby::DESERTED)),
        ("Standby's end", time(standby::KILL_EVERY)),
        ("Standby's end", time(standby::KILL_FOR)),
        ("Held", cli::MAX_HELD.to_string()),
        ("Held", cli::LARGEST_HELD.to_string()),
        ("Held, reading", time(hold::READ_EVERY)),
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
        ("Release", time(decide::RELEASE_EVERY)),
        ("Release, stall", time(decide::STALL)),
        ("Release, unseen", pace::BLIND.to_string()),
        ("Held, lost", time(hold::COUNT_EVERY)),
        ("Others", time(decide::OTHERS_PATIENCE)),
        ("Others", time(decide::OTHERS_LOOK)),
        ("Port sets", compile::MANY_RANGES.to_string()),
        ("Holders", holders::FILES[0].to_string()),
        ("Holders", holders::FILES[1].to_string()),
        ("Holders", holders::FILES[2].to_string()),
    ]
}

fn time(limit: Duration) -> String {
    match limit.as_millis() {
        0 => format!("{} ms", limit.as_micros() as f64 / 1e3),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
        ms => format!("{ms} ms"),
    }
}

//! The times and limits that the manual names.

use std::time::Duration;

use crate::action::divert::options as peers;
use crate::action::divert::probe;
use crate::action::hold::{held, options as holding, pace, policy as releasing, release};
use crate::action::linger;
use crate::action::redirect::{guard, policy as standby, wire};
use crate::commands::clear;
use crate::decide::{beside, draining, looks, opening, service};
use crate::gate::nft::{divert, ruleset};
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
        ("Look", time(looks::LOOK_EVERY)),
        ("Quiet", time(looks::QUIET)),
        ("Young half-open", time(row::YOUNG)),
        ("Cookie grace", time(draining::COOKIE_GRACE)),
        ("Ready check", time(beside::CHECK_PAUSE)),
        ("Search", time(beside::SEARCH_PAUSE)),
        ("Settle, one socket", time(service::SETTLE_ONE)),
        ("Settle, group", time(service::SETTLE_GROUP)),
        ("Settle, first change", time(service::SETTLE_PATIENCE)),
        ("Settle, addresses", time(service::SETTLE_PLACES)),
        ("Guard", time(looks::GUARD_EVERY)),
        ("Guard", time(iptables::LIST_EVERY)),
        ("Watchdog's start", time(watchdog::START_TIMEOUT)),
        ("Watchdog's grace", time(watchdog::GRACE)),
        ("Watchdog's end", time(watchdog::DISMISS_TIMEOUT)),
        ("Watchdog's patience", time(watchdog::RETRY_FOR)),
        ("Watchdog's patience", time(watchdog::RETRY_EVERY)),
        ("Clear's look", time(clear::LOOK_EVERY)),
        ("Linger's look", time(linger::LINGER_LOOK)),
        ("Linger's look", time(linger::LINGER_QUIET)),
        ("Diverted", time(divert::SYN_LIFE)),
        ("Diverted", time(divert::CLOSING_LIFE)),
        ("Diverted", time(divert::ENDED_AFTER)),
        ("Diverted", time(divert::OVER_LIFE)),
        ("Diverted", divert::CLOSING_ROOM.to_string()),
        ("Diverted", peers::MAX_DIVERTED.to_string()),
        ("Diverted", peers::LARGEST_DIVERTED.to_string()),
        ("Peer", probe::AT_A_TIME.to_string()),
        ("Standby's look", time(standby::STANDBY_EVERY)),
        ("Standby's end", time(guard::DESERTED)),
        ("Standby's end", time(wire::KILL_EVERY)),
        ("Standby's end", time(wire::KILL_FOR)),
        ("Held", holding::MAX_HELD.to_string()),
        ("Held", holding::LARGEST_HELD.to_string()),
        ("Held, reading", time(held::READ_EVERY)),
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
        ("Release", time(releasing::RELEASE_EVERY)),
        ("Release, stall", time(release::STALL)),
        ("Release, unseen", pace::BLIND.to_string()),
        ("Held, lost", time(held::COUNT_EVERY)),
        ("Others", time(opening::OTHERS_PATIENCE)),
        ("Others", time(opening::OTHERS_LOOK)),
        ("Port sets", ruleset::MANY_RANGES.to_string()),
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

//! The times and limits that the manual names.

use crate::action::rooms::{bound, handshakes, in_the_way, moved, old_listeners, resident};
use crate::action::{linger, list};
use crate::commands::restart::{LARGEST_SCRIPT, MOST_PID_FILES};
use crate::commands::{clear, container, keep};
use crate::decide::{beside, draining, looks, removal, service, sessions, wishes};
use crate::gate::iptables::programs::PROGRAM_WITHIN;
use crate::gate::iptables::running::LONG;
use crate::gate::iptables::standing::LIST_EVERY;
use crate::gate::nft::{divert, ruleset};
use crate::gate::rooms;
use crate::gate::watchdog;
use crate::kernel::control_group;
use crate::kernel::nfqueue::{self, packet};
use crate::kernel::sockets::{holders, row};
use crate::process::{ask, child, lock, pid_file, pulse, rlimits, systemctl};
use crate::run::{leave, onlooker, way_round};
use crate::words::duration;
use crate::words::limit::Limit::{self, Bytes, MiB, Number, Time};
use crate::words::profile::LARGEST;

/// The limits of no single action, each with the item that it stands under in the manual.
const SHARED: &[(&str, Limit)] = &[
    ("Longest duration", Time(duration::LONGEST)),
    ("Lock retry", Time(lock::RETRY)),
    ("Look", Time(looks::LOOK_EVERY)),
    ("Second signal", Time(wishes::SECOND_AFTER)),
    ("Quiet", Time(looks::QUIET)),
    ("Onlook", Time(onlooker::ONLOOK_EVERY)),
    ("Onlook", Time(onlooker::ONLOOK_OVERDUE)),
    ("Onlook", Time(onlooker::ONLOOK_DOUBT)),
    ("Onlook", Number(way_round::ONLOOK_CONNECTIONS as u64)),
    ("Young half-open", Time(row::YOUNG)),
    ("SYN-ACK timer", Time(row::SYNACK_TIMEOUT)),
    ("Cookie grace", Time(draining::COOKIE_GRACE)),
    ("Ready check", Time(beside::CHECK_PAUSE)),
    ("Ready URL", Time(ask::ANSWERS_WITHIN)),
    ("Search", Time(beside::SEARCH_PAUSE)),
    ("Container", Time(container::ANSWERS_WITHIN)),
    ("Container", Time(container::ANSWERS_AT_LAST)),
    ("Container", MiB(container::ANSWER_MAX)),
    ("Settle, one socket", Time(service::SETTLE_ONE)),
    ("Settle, group", Time(service::SETTLE_GROUP)),
    ("Settle, first change", Time(service::SETTLE_PATIENCE)),
    ("Settle, addresses", Time(service::SETTLE_PLACES)),
    (
        "Session's listener",
        Number(sessions::SESSION_BACKLOG as u64),
    ),
    ("Late restart", Time(service::SETTLE_PATIENCE)),
    ("Late restart", Time(looks::HOLDERS_EVERY)),
    ("Leave", Time(leave::COUNT_EVERY)),
    ("Leave", Time(leave::LEAVE_SLACK)),
    ("Guard", Time(looks::GUARD_EVERY)),
    ("Guard", Time(LIST_EVERY)),
    ("Watchdog's start", Time(watchdog::START_TIMEOUT)),
    ("Watchdog's grace", Time(watchdog::GRACE)),
    ("Watchdog's end", Time(watchdog::DISMISS_TIMEOUT)),
    ("Start of a program", Time(child::PATIENCE)),
    ("Guards' pulse", Time(pulse::PULSE_EVERY)),
    ("Guards' pulse", Time(pulse::PULSE_WITHIN)),
    ("iptables", Time(PROGRAM_WITHIN)),
    ("Least stack and memory", MiB(rlimits::LEAST_STACK as usize)),
    (
        "Least stack and memory",
        MiB(rlimits::LEAST_MEMORY as usize),
    ),
    ("Least stack and memory", MiB(rlimits::LEAST_DATA as usize)),
    ("Least files", Number(rlimits::LEAST_FILES)),
    ("CPU time", Time(rlimits::CPU_LEFT)),
    ("iptables", Time(LONG)),
    ("iptables", Time(looks::CHANGE_AGAIN)),
    ("Watchdog's patience", Time(watchdog::RETRY_FOR)),
    ("Watchdog's patience", Time(watchdog::RETRY_EVERY)),
    ("Clear's look", Time(clear::LOOK_EVERY)),
    ("Parked, release", Time(handshakes::HANDSHAKES_FIRST)),
    ("Parked, release", Number(old_listeners::MOST_COPIES as u64)),
    ("Parked, cleared", Time(rooms::HANDS_OVER_WITHIN)),
    ("Parked, cleared", Time(rooms::LOOK_EVERY)),
    (
        "Parked, control group",
        Time(control_group::DISSOLVES_WITHIN),
    ),
    ("Parked, control group", Time(control_group::DISSOLVE_EVERY)),
    ("Kept", Number(keep::MOST_WAITING as u64)),
    ("Kept, files", Number(keep::FILES_OF_ADDRESS)),
    ("Kept, files", Number(keep::FILES_OF_LOOK)),
    ("Kept, looks", Time(keep::LOOK_EVERY)),
    ("Kept, looks", Time(keep::LOOK_AT_LEAST)),
    ("Kept, looks", Time(keep::LOOK_AGAIN)),
    ("Kept, looks", Time(keep::LOOK_WAITING)),
    ("Kept, looks", Time(resident::SETTLES_AFTER)),
    ("Kept, moved", Time(moved::MOVES_WITHIN)),
    ("Kept, moved", Time(moved::COVERED_WITHIN)),
    ("Kept, moved", Time(moved::KNOWN_FOR)),
    ("Kept, moved", Time(in_the_way::RELOADS_WITHIN)),
    ("Parked, moved", Time(in_the_way::MOVED_FOR)),
    ("Parked, moved", Time(service::SETTLE_PLACES)),
    ("Kept, bound", Time(bound::LISTENS_WITHIN)),
    ("Kept, told", Time(keep::TOLD_WITHIN)),
    ("Kept, told", Number(keep::MOST_TOLD as u64)),
    ("Kept, told", Time(keep::QUIET_FOR)),
    ("Kept, told", Number(keep::MOST_GAPS_TOLD as u64)),
    ("Kept, told", Time(keep::TOGETHER_FOR)),
    ("Kept, again", Time(keep::RETRY_AFTER)),
    ("Kept, unit", Time(keep::ASK_EVERY)),
    ("Kept, unit", Time(keep::RESTART_TOLD_WITHIN)),
    ("Kept, unit", Time(systemctl::ANSWERS_WITHIN)),
    ("Services by name", Time(systemctl::ANSWERS_WITHIN)),
    ("Services by name", MiB(LARGEST_SCRIPT)),
    ("Services by name", Bytes(pid_file::LONGEST)),
    ("Services by name", Number(MOST_PID_FILES as u64)),
    ("Profile", Bytes(LARGEST)),
    ("Kept, runs", Time(rooms::STANDS_BACK_WITHIN)),
    ("Linger's look", Time(linger::LINGER_LOOK)),
    ("Linger's look", Time(linger::LINGER_QUIET)),
    ("Diverted", Time(divert::SYN_LIFE)),
    ("Diverted", Time(divert::CLOSING_LIFE)),
    ("Diverted", Time(divert::ENDED_AFTER)),
    ("Diverted", Time(divert::OVER_LIFE)),
    ("Diverted", Number(divert::CLOSING_ROOM as u64)),
    ("Others", Time(removal::OTHERS_PATIENCE)),
    ("Others", Time(removal::OTHERS_LOOK)),
    ("Held, reading", Bytes(packet::COPIED as usize)),
    ("Held, queue", Number(nfqueue::FIRST_NUMBER as u64)),
    (
        "Held, queue",
        Number(nfqueue::FIRST_NUMBER as u64 + nfqueue::NUMBERS as u64 - 1),
    ),
    ("Held, buffer", MiB(nfqueue::RECEIVE_BUFFER)),
    ("Port sets", Number(ruleset::MANY_RANGES as u64)),
    ("Holders", Number(holders::FILES[0] as u64)),
    ("Holders", Number(holders::FILES[1] as u64)),
    ("Holders", Number(holders::FILES[2] as u64)),
];

/// All limits, as the manual has them.
pub fn limits() -> Vec<(&'static str, String)> {
    let all = SHARED.iter().chain(list::limits());
    all.map(|(item, limit)| (*item, limit.to_string()))
        .collect()
}

//! The processes that a run starts beside itself: one becomes COMMAND, one asks a URL, and the others are the
//! watchdog and the guards of actions. They are syngate too, called with command lines that no person types and no
//! help shows.

use std::ffi::OsString;

use crate::action::contract::GuardWork;
use crate::action::list;
use crate::gate::backends;
use crate::gate::watchdog::WatchOrders;
use crate::process::ask::Ask;
use crate::process::starter::Become;

/// Becomes COMMAND, if the command line asks for that. Returns the exit status if COMMAND was not to run, or
/// can't be.
pub(crate) fn become_command(words: &[OsString]) -> Option<u8> {
    Become::parse(words).map(|wanted| wanted.carry_out())
}

/// Asks the URL of `--ready-url`, if the command line asks for that. Returns the exit status.
pub(crate) fn ask(words: &[OsString]) -> Option<u8> {
    Ask::parse(words).map(|ask| ask.carry_out())
}

/// What such a command line asks for; returns when there is nothing left to guard.
pub(crate) fn work(words: &[OsString]) -> Option<GuardWork> {
    if let Some(orders) = WatchOrders::parse(words) {
        return Some(Box::new(move || backends::watch(&orders)));
    }
    list::guard(words)
}

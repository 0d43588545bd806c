//! The processes that a run starts beside itself: the watchdog and the guards of actions. They are
//! syngate too, called with command lines that no person types and no help shows.

use std::ffi::OsString;

use crate::action::contract::GuardWork;
use crate::action::list;
use crate::gate::backends;
use crate::gate::watchdog::WatchOrders;

/// What such a command line asks for; returns when there is nothing left to guard.
pub(crate) fn work(words: &[OsString]) -> Option<GuardWork> {
    if let Some(orders) = WatchOrders::parse(words) {
        return Some(Box::new(move || backends::watch(&orders)));
    }
    list::guard(words)
}

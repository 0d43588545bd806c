//! The gate in iptables, for hosts without nf_tables and hosts whose firewall is iptables. Each IP version
//! has rules of its own, and iptables-restore(8) changes each version's rules in one go. The kernel does
//! not remove these rules when syngate ends, so a watchdog starts before the first change. The kernel stops
//! matching after a time.
//!
//! The gate closes when syngate arms the rules, and opens when it disarms them, through xt_recent: at once,
//! and without the lock of iptables. Where that can't be used, syngate adds and removes rules instead.

pub(crate) mod backend;
pub(crate) mod compile;
pub(crate) mod erase;
mod failures;
pub(crate) mod holdings;
pub(crate) mod list;
mod look;
pub(crate) mod present;
pub(crate) mod programs;
mod recent;
pub(crate) mod save;

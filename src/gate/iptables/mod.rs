//! The gate in iptables, for hosts without nf_tables and hosts whose firewall is iptables. Each IP
//! version has its own rules, which iptables-restore(8) changes in one step. The kernel does not
//! remove the rules when syngate ends, so a watchdog starts before the first change. The rules stop
//! matching at the deadline.
//!
//! The gate closes when syngate arms the rules through xt_recent, and opens when it disarms them:
//! at once, and without the xtables lock. Where xt_recent can't be used, syngate adds and removes
//! rules instead.

pub(crate) mod around;
pub(crate) mod backend;
mod by_port;
pub(crate) mod compile;
pub(crate) mod erase;
mod failures;
pub(crate) mod holdings;
pub(crate) mod list;
mod listing;
mod look;
pub(crate) mod present;
pub(crate) mod programs;
mod recent;
mod rule;
pub(crate) mod running;
pub(crate) mod save;
pub(crate) mod standing;

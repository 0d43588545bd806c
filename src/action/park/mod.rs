//! `--syn park`: new connections are established while the gate is closed, and wait in a listening socket of
//! syngate's own, the waiting room. When the service listens again, the kernel moves them to its accept
//! queue. No rules, no firewall: the kernel's own SO_REUSEPORT groups (Linux 5.14).

mod account;
mod act;
mod backend;
mod guard;
mod hook;
mod make;
mod options;
mod policy;
mod rooms;
mod watch;

pub(crate) use self::options::ENTRY;

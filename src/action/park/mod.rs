//! `--syn park`: new connections are established while the gate is closed, and wait in a listening socket of
//! syngate's own, the waiting room. When the service listens again, the kernel moves them to its accept
//! queue. No rules, no firewall: the kernel's own SO_REUSEPORT groups (Linux 5.14).

mod act;
mod options;

pub(crate) use self::options::ENTRY;

//! Netlink: how syngate speaks to nf_tables, NFQUEUE, conntrack, sock_diag and the routing tables.
//!
//! `mnl` carries the sockets. Messages are written and read here, because no crate does it as a run needs it:
//! netlink-packet-sock-diag can't filter by byte code; the crate nfq has no close-on-exec, and asserts on the kernel's
//! bytes; netlink-packet-route refuses a whole message for one attribute that it does not know.

mod socket;
mod wire;

pub(crate) use mnl::Bus;

pub(crate) use self::socket::Netlink;
#[cfg(any(fuzzing, test))]
pub(crate) use self::wire::withstand;
pub(crate) use self::wire::{
    HEADER, Refusal, attribute, attributes, get, message_bytes, messages, put_attribute,
};

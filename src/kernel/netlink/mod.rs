//! Netlink: how nf_tables, NFQUEUE, conntrack, sock_diag and the routing tables are spoken to.

mod socket;
mod wire;

pub(crate) use mnl::Bus;

pub(crate) use self::socket::Netlink;
#[cfg(any(fuzzing, test))]
pub(crate) use self::wire::withstand;
pub(crate) use self::wire::{
    HEADER, Refusal, attribute, attributes, get, message_bytes, messages, put_attribute,
};

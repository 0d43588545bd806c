//! The TCP sockets of the service: what the kernel lists (sock_diag), in this or another network
//! namespace, and which processes hold the listeners (/proc).

mod counters;
mod device;
pub(crate) mod diag;
mod filter;
pub(crate) mod holders;
mod listener;
pub(crate) mod netns;
pub(crate) mod row;
mod sample;

pub(crate) use self::counters::netstat;
#[cfg(any(fuzzing, test))]
pub(crate) use self::counters::withstand;
pub(crate) use self::device::Device;
pub(crate) use self::listener::{Listener, SocketId, shown};
#[cfg(test)]
pub(crate) use self::sample::Connections;
pub(crate) use self::sample::{Connection, Cookies, HalfOpen, Sample, SynLimits, Want};

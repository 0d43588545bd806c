//! The TCP sockets of the service: what the kernel lists (sock_diag), in this or another network
//! namespace, and which processes hold the listeners (/proc).

pub(crate) mod arrivals;
mod counters;
mod device;
pub(crate) mod diag;
pub(crate) mod ends;
mod filter;
pub(crate) mod holders;
mod listener;
pub(crate) mod netns;
pub(crate) mod passing;
pub(crate) mod row;
mod sample;

use anyhow::Result;

pub(crate) use self::counters::netstat;
#[cfg(any(fuzzing, test))]
pub(crate) use self::counters::withstand;
pub(crate) use self::device::Device;
pub(crate) use self::listener::{Listener, SocketId, serves, shown};
use self::netns::{Netns, NoEntry};
#[cfg(test)]
pub(crate) use self::sample::Connections;
pub(crate) use self::sample::{Connection, Cookies, HalfOpen, Sample, SynLimits, Want};

/// Looks at the sockets on the watched ports. Each look asks the kernel anew.
pub(crate) trait Looks {
    /// One look. A network namespace that is not there, because its container is just being replaced,
    /// has no sockets.
    ///
    /// # Errors
    /// The kernel does not list its sockets.
    fn look(&mut self, want: Want) -> Result<Sample>;

    fn syn_limits(&self) -> SynLimits;

    /// Half-open connections of any age, in this process's own network namespace.
    ///
    /// # Errors
    /// The kernel does not list its sockets.
    fn half_open(&mut self) -> Result<Vec<Connection>>;

    /// How many of these connections the service has closed. One counts, too, that is gone because its client
    /// has closed it: the kernel keeps nothing of that.
    ///
    /// # Errors
    /// The kernel does not list its sockets.
    fn closed_by_service(&mut self, connections: &[SocketId]) -> Result<usize>;

    /// From now on looks into that network namespace.
    ///
    /// # Errors
    /// Everything stays as it was.
    fn look_in(&mut self, netns: &Netns) -> Result<(), NoEntry>;

    /// From now on these listeners are not seen: they are rooms. Connections that no process has accepted
    /// are not counted any more, since they wait in rooms, or move there.
    fn hide_rooms(&mut self, cookies: &[u64]);

    /// `None`: the listeners live in this process's own network namespace.
    fn netns(&self) -> Option<&Netns>;
}

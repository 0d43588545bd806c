//! Gives SO_REUSEPORT to services that do not set it, as they bind their sockets.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Result;

use super::programs::share_ports;
use crate::kernel::bpf::{Hash, Kind, Program};
use crate::kernel::netlink::get;

/// How many sockets are known at a time. The one that was bound first is forgotten first.
const SOCKETS: u32 = 1_024;

/// What the programs have noted of a socket as it was bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Binding {
    /// The control group of the process.
    pub(crate) group: u64,
    /// The user that runs it.
    pub(crate) uid: u32,
    /// The socket had SO_REUSEPORT by itself.
    pub(crate) shares: bool,
    pub(crate) port: u16,
}

/// The sockets that were bound while the programs were in their places, by their cookies.
#[derive(Debug)]
pub(crate) struct Bindings(Hash<u64, 24>);

impl Bindings {
    /// # Errors
    /// This process may not make such a map.
    pub(crate) fn new() -> Result<Bindings> {
        Ok(Bindings(Hash::forgetful(SOCKETS)?))
    }

    /// Those of another process.
    ///
    /// # Errors
    /// It is no such map.
    pub(crate) fn adopt(map: OwnedFd) -> Result<Bindings> {
        Ok(Bindings(Hash::adopt(map)?))
    }

    /// `None`: the socket was not bound meanwhile.
    pub(crate) fn of(&self, cookie: u64) -> Option<Binding> {
        let value = self.0.get(cookie)?;
        let word = |at| get(&value, at).map(u32::from_ne_bytes);
        Some(Binding {
            group: get(&value, 0).map(u64::from_ne_bytes)?,
            uid: word(8)?,
            shares: word(12)? != 0,
            // As the network has it, in the first two of four bytes.
            port: get(&value, 16).map(u16::from_be_bytes)?,
        })
    }

    /// All of them, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u64, Binding)> {
        let cookies = self.0.keys().into_iter();
        cookies.filter_map(|cookie| Some((cookie, self.of(cookie)?)))
    }
}

impl AsFd for Bindings {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The programs for TCP sockets that are bound to these ports in the network namespace with that cookie, one
/// for each IP version. Loaded, and linked to nothing.
///
/// # Errors
/// The kernel lets no such program set the option (Linux 6.1), or this process may not load it.
pub(crate) fn lending(
    ports: &[u16],
    netns: u64,
    bindings: &Bindings,
) -> Result<[(Kind, Program); 2]> {
    let program = share_ports(ports, netns, bindings.0.number());
    let load = |kind, name| Ok::<_, anyhow::Error>((kind, Program::load(kind, name, &program)?));
    Ok([
        load(Kind::Bind4, "gate_bind4")?,
        load(Kind::Bind6, "gate_bind6")?,
    ])
}

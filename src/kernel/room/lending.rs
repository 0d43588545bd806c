//! Gives SO_REUSEPORT to services that do not set it, as they bind their sockets.

use anyhow::Result;

use super::programs::share_ports;
use crate::kernel::bpf::{Kind, Program};

/// The programs for TCP sockets that are bound to these ports in the network namespace with that cookie, one
/// for each IP version. Loaded, and linked to nothing.
///
/// # Errors
/// The kernel lets no such program set the option (Linux 6.1), or this process may not load it.
pub(crate) fn lending(ports: &[u16], netns: u64) -> Result<[(Kind, Program); 2]> {
    let program = share_ports(ports, netns);
    let load = |kind, name| Ok::<_, anyhow::Error>((kind, Program::load(kind, name, &program)?));
    Ok([
        load(Kind::Bind4, "gate_bind4")?,
        load(Kind::Bind6, "gate_bind6")?,
    ])
}

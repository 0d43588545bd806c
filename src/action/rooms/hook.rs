//! Programs of control groups. One sets SO_REUSEPORT for services that do not, as they bind. Another notes
//! COMMAND's own connections, which must not wait: an order to stop would be the new process's.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};

use crate::kernel::bpf::{Kind, Link, Program};
use crate::kernel::control_group::open_root;
use crate::kernel::maps::Connections;
use crate::kernel::room::programs::note_connections;
use crate::kernel::room::reuseport::{self, Bindings, Lent, Newcomers};
use crate::kernel::sockets::netns::{self, Netns};

const LENDS: &str = "the service does not set SO_REUSEPORT, and can't be given that (Linux 6.1)";

/// Until the links are dropped, TCP sockets that are bound to these ports in that network namespace get
/// SO_REUSEPORT, are noted, and counted while they are open.
///
/// # Errors
/// There are no control groups of version 2, or the kernel lets no program of theirs set the option
/// (Linux 6.1).
pub(crate) fn share(
    ports: &[u16],
    netns: Option<&Netns>,
    newcomers: &Newcomers,
) -> Result<(Vec<Link>, Bindings)> {
    let cookie = netns::identity_of(netns)?;
    let bindings = Bindings::new().context(LENDS)?;
    let programs = reuseport::programs(ports, cookie, &bindings, newcomers).context(LENDS)?;
    Ok((linked(programs)?, bindings))
}

/// Until the links are dropped, one TCP socket at a time has SO_REUSEPORT at each place that is put into the
/// answer, in that network namespace.
///
/// # Errors
/// As of [`share`].
pub(crate) fn share_with_first(netns: Option<&Netns>) -> Result<(Vec<Link>, Lent)> {
    let cookie = netns::identity_of(netns)?;
    let lent = Lent::new().context(LENDS)?;
    let programs = lent.programs(cookie).context(LENDS)?;
    Ok((linked(programs)?, lent))
}

/// In the uppermost control group.
fn linked(programs: impl IntoIterator<Item = (Kind, Program)>) -> Result<Vec<Link>> {
    let root = open_root().context(LENDS)?;
    let programs = programs.into_iter();
    let links = programs.map(|(kind, program)| program.link(kind, root.as_fd()));
    links.collect::<Result<_>>().context(LENDS)
}

/// While the link is open, the connections to these ports that begin in that control group are noted. No port stands
/// for all.
///
/// # Errors
/// This process may not do that.
pub(crate) fn note(group: BorrowedFd, connections: &Connections, ports: &[u16]) -> Result<Link> {
    let program = note_connections(connections.number(), ports);
    let program = Program::load(Kind::SockOps, "gate_note", &program)?;
    program.link(Kind::SockOps, group)
}

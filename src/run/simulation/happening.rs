//! What happens in the model by itself.

use crate::process::signals::Caught;
use crate::run::world::Program;
use crate::words::ended::CommandExit;

/// What happens by itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Happening {
    /// A new socket listens.
    Listens(Place),
    /// Every socket that is as old as `generation` or older stops listening on the port.
    Leaves {
        port: u16,
        generation: u64,
    },
    /// A reload leaves out one address of several: its socket stops listening, and the others stay.
    LeavesOut(u16),
    /// A new process holds the sockets of the port as well: a reload, or a child for a client.
    Forks(u16),
    /// The oldest of the processes ends. Another one keeps the sockets.
    Retires(u16),
    /// A session's own listener goes with it.
    SessionEnds,
    Ends(Program, CommandExit),
    Arrives(Caught),
    /// Another program removes the gate's rules.
    Flush,
    StandbyEnds,
    StandbyReturns,
    /// One more SYN is stopped, or one more connection goes to the standby.
    Connects(u16),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    pub port: u16,
    pub address: &'static str,
    pub generation: u64,
}

//! `--syn handover`: for reloads, and for what mostly hands its sockets over by itself. New connections reach
//! the service as long as it listens. When one of the service's listeners closes, the kernel moves its connections to
//! the others. When no listener is left, connections wait in a room of syngate's own until the service listens again.

mod act;
mod options;

pub(crate) use self::options::ENTRY;

//! Where the kernel sends the SYN of a new connection while the gate is closed.

use std::time::Duration;

use crate::words::family::Family;
use crate::words::hop::NextHop;

/// The number of an NFQUEUE.
pub type QueueNum = u16;

/// Where the kernel sends a new SYN to a gated port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    /// Nowhere: its client sends it again.
    Drop,
    /// Into this queue, NFQUEUE, where it waits for a verdict; on, if nobody reads the queue.
    Queue(QueueNum),
    /// To this port of the same address (NAT), where a standby listens. In prerouting and output,
    /// whatever the scope's hook is. What was redirected goes on after the gate has opened, until
    /// its rules are removed. What is counted are connections: NAT sees only their first SYN.
    Redirect(u16),
    /// To a peer, another host that has the same address: before connection tracking, whatever the
    /// scope's hook is. What was diverted goes on after the gate has opened, until its rules are
    /// removed. What has no peer, or no room, is dropped.
    Divert(Diversion),
}

/// Who takes the connections that are diverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diversion {
    /// Those of IPv4.
    pub v4: Option<NextHop>,
    /// Those of IPv6.
    pub v6: Option<NextHop>,
    /// So many at a time, of each IP version.
    pub most: u32,
    /// A connection that says nothing for so long is forgotten.
    pub idle: Duration,
}

impl Diversion {
    /// Who takes those of that IP version.
    pub fn of(&self, family: Family) -> Option<NextHop> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Both, as far as there are.
    pub fn peers(&self) -> impl Iterator<Item = NextHop> {
        [self.v4, self.v6].into_iter().flatten()
    }
}

/// As the action is given, `--syn`.
impl std::fmt::Display for Steer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.action())?;
        match self {
            Steer::Redirect(port) => write!(f, "={port}"),
            Steer::Divert(to) => {
                let peers: Vec<String> = to.peers().map(|peer| peer.to_string()).collect();
                write!(f, "={}", peers.join(","))
            }
            Steer::Drop | Steer::Queue(_) => Ok(()),
        }
    }
}

impl Steer {
    /// The name of the action that steers there, as the report has it.
    pub fn action(self) -> &'static str {
        match self {
            Steer::Drop => "drop",
            Steer::Queue(_) => "hold",
            Steer::Redirect(_) => "redirect",
            Steer::Divert(_) => "divert",
        }
    }

    /// Whether it translates addresses (NAT).
    pub fn translates(self) -> bool {
        matches!(self, Steer::Redirect(_))
    }
}

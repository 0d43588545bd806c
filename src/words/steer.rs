//! Where the kernel sends the SYN of a new connection while the gate is closed.

use std::time::Duration;

use crate::words::family::Family;
use crate::words::hop::NextHop;

pub(crate) type QueueNum = u16;

/// What stands in the place of the action for the rules of `--leave`.
pub(crate) const LEAVE: &str = "leave";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steer {
    /// Nowhere: the kernel drops it and the client sends it again.
    Drop,
    /// Into this NFQUEUE, where it waits for a verdict. If nobody reads the queue, the kernel accepts it.
    Queue(QueueNum),
    /// To this port of the same address, by NAT, where a standby listens. The rules stand in prerouting
    /// and output, regardless of the scope's hook. After the gate has opened, redirected connections
    /// go on until the rules are removed. The rules count connections: NAT sees only their first SYN.
    Redirect(u16),
    /// To a peer, another host that has the same address. The rules stand before connection tracking,
    /// regardless of the scope's hook. After the gate has opened, diverted connections go on until the
    /// rules are removed. A SYN is dropped if its IP version has no peer, or the table is full.
    Divert(Diversion),
    /// Back to its client, as a refusal: for a health check, while a run leaves its load balancer.
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Diversion {
    pub(crate) v4: Option<NextHop>,
    pub(crate) v6: Option<NextHop>,
    /// The largest number of diverted connections of each IP version at a time.
    pub(crate) most: u32,
    /// The kernel forgets a connection after this time without packets.
    pub(crate) idle: Duration,
}

impl Diversion {
    pub(crate) fn of(&self, family: Family) -> Option<NextHop> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = NextHop> {
        [self.v4, self.v6].into_iter().flatten()
    }
}

/// In the syntax of `--syn`.
impl std::fmt::Display for Steer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.action())?;
        match self {
            Steer::Redirect(port) => write!(f, "={port}"),
            Steer::Divert(to) => {
                let peers: Vec<String> = to.peers().map(|peer| peer.to_string()).collect();
                write!(f, "={}", peers.join(","))
            }
            Steer::Drop | Steer::Queue(_) | Steer::Refuse => Ok(()),
        }
    }
}

impl Steer {
    /// The name of the action in the report.
    pub(crate) fn action(self) -> &'static str {
        match self {
            Steer::Drop => "drop",
            Steer::Queue(_) => "hold",
            Steer::Redirect(_) => "redirect",
            Steer::Divert(_) => "divert",
            Steer::Refuse => LEAVE,
        }
    }

    pub(crate) fn queue(self) -> Option<QueueNum> {
        match self {
            Steer::Queue(number) => Some(number),
            Steer::Drop | Steer::Redirect(_) | Steer::Divert(_) | Steer::Refuse => None,
        }
    }

    pub(crate) fn translates(self) -> bool {
        matches!(self, Steer::Redirect(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::hop::Device;

    #[test]
    fn each_is_shown_as_the_option_names_it() {
        let hop = |address: &str| {
            Some(NextHop {
                address: address.parse().unwrap(),
                device: Device::new(2, "eth0"),
                ether: None,
            })
        };
        let both = Diversion {
            v4: hop("10.0.0.2"),
            v6: hop("fe80::2"),
            most: 1,
            idle: Duration::from_secs(1),
        };
        for (steer, shown, translates) in [
            (Steer::Drop, "drop", false),
            (Steer::Queue(7), "hold", false),
            (Steer::Redirect(81), "redirect=81", true),
            (Steer::Divert(both), "divert=10.0.0.2,fe80::2%eth0", false),
            (Steer::Refuse, "leave", false),
        ] {
            assert_eq!(steer.to_string(), shown);
            assert_eq!(steer.translates(), translates, "{shown}");
        }
        assert_eq!(Family::V4.to_string(), "IPv4");
        assert_eq!(Family::V6.to_string(), "IPv6");
    }
}

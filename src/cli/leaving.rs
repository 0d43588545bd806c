//! The options by which a run leaves its load balancer.

use std::time::Duration;

use clap::ArgAction;

use super::help::WHEN;
use super::values::{Nets, networks};
use crate::kernel::services::ports;
use crate::words::duration::duration;
use crate::words::ports::PortSet;

/// `--leave-quiet`, if it is not given: haproxy takes a server out after three checks, one every 2 s.
pub(crate) const LEAVE_QUIET: Duration = Duration::from_secs(6);
/// `--leave-timeout`, if it is not given.
pub(crate) const LEAVE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LeaveOptions {
    /// Ports whose health checks fail first
    ///
    /// Ports that a load balancer checks, and that are not gated. New connections to them are refused until the gate
    /// is open again. Before it closes, the run waits until no new connections come to the gated ports.
    /// Separated by commas; may be repeated.
    #[arg(long = "leave", value_name = "PORTS", env = "SYNGATE_LEAVE", action = ArgAction::Append, value_parser = ports, allow_hyphen_values = true, hide_short_help = true, help_heading = WHEN)]
    pub(crate) leave_ports: Vec<PortSet>,

    /// A load balancer's addresses
    ///
    /// With --leave: only its checks fail. Without: it checks the gated ports themselves, so its new connections to
    /// them are refused, and it has to try another server. Separated by commas; may be repeated.
    #[arg(long, value_name = "ADDRS", env = "SYNGATE_LEAVE_FROM", action = ArgAction::Append, value_parser = networks, hide_short_help = true, help_heading = WHEN)]
    pub(crate) leave_from: Vec<Nets>,

    /// How long no new connection must have come
    ///
    /// It should be as long as the load balancer needs to take a server out: 6s if it is not given, as haproxy
    /// needs by default.
    #[arg(long, value_name = "DUR", env = "SYNGATE_LEAVE_QUIET", value_parser = duration, allow_hyphen_values = true, hide_short_help = true, help_heading = WHEN)]
    pub(crate) leave_quiet: Option<Duration>,

    /// Max. time to leave the load balancer
    ///
    /// The run goes on then, and a warning says that new connections still came. 1m if it is not given.
    #[arg(long, value_name = "DUR", env = "SYNGATE_LEAVE_TIMEOUT", value_parser = duration, allow_hyphen_values = true, hide_short_help = true, help_heading = WHEN)]
    pub(crate) leave_timeout: Option<Duration>,
}

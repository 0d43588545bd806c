//! Looks where the service listens, and what restarts it.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::endpoint::{Control, Endpoint, endpoints};
use crate::kernel::room::copy;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::{Listener, Looks, Sample, Want};
use crate::process::ancestry::parent;
use crate::process::unit::Unit;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;

/// The program whose workers leave their sockets to the next ones, by way of their master.
const HAPROXY: &str = "haproxy";

/// Looks at the listeners on `ports`. `closely`: at their options, too.
///
/// # Errors
/// The kernel does not list its sockets.
pub(crate) fn look(ports: &PortSet, closely: bool) -> Result<Vec<Endpoint>> {
    let want = Want {
        holders: true,
        ..Want::default()
    };
    let sample = Sockets::new(ports, &Scope::default())?.look(want)?;
    let reuseport = |listener: &Listener| match closely {
        true => Some(shares_port(listener, &sample)),
        false => None,
    };
    Ok(endpoints(
        &sample.listeners,
        &sample.holders,
        reuseport,
        control,
        has_master,
    ))
}

/// By a copy of the listener, which is closed at once; or why its connections can't be parked.
fn shares_port(listener: &Listener, there: &Sample) -> Result<bool, String> {
    let shares = || Ok(copy::shares_port(&copy::movable(listener, there)?)?);
    shares().map_err(|error: anyhow::Error| format!("{error:#}"))
}

/// By the parent: not the command line alone asks for a master, but the configuration may, too.
fn has_master(pid: i32, name: &str) -> bool {
    let name_of = |pid| fs::read_to_string(format!("/proc/{pid}/comm"));
    name == HAPROXY
        && parent(pid)
            .and_then(|parent| name_of(parent).ok())
            .is_some_and(|master| master.trim_end() == HAPROXY)
}

fn control(pid: i32, name: &str) -> Option<Control> {
    let unit = Unit::of(pid);
    let unit = unit.as_ref().and_then(Unit::service_of_system);
    let script = || Path::new("/etc/init.d").join(name).is_file() && !name.contains('/');
    unit.map(|unit| Control::Systemd(unit.to_owned()))
        .or_else(|| script().then(|| Control::Init(name.to_owned())))
}

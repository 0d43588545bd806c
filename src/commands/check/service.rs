//! Looks where the service listens, and what restarts it.

use std::path::Path;

use anyhow::Result;

use super::endpoint::{Control, Endpoint, endpoints};
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::{Looks, Want};
use crate::process::unit::Unit;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;

/// Looks at the listeners on `ports`.
///
/// # Errors
/// The kernel does not list its sockets.
pub(crate) fn look(ports: &PortSet) -> Result<Vec<Endpoint>> {
    let want = Want {
        holders: true,
        ..Want::default()
    };
    let sample = Sockets::new(ports, &Scope::default())?.look(want)?;
    Ok(endpoints(&sample.listeners, &sample.holders, control))
}

fn control(pid: i32, name: &str) -> Option<Control> {
    let unit = Unit::of(pid);
    let unit = unit.as_ref().and_then(Unit::service_of_system);
    let script = || Path::new("/etc/init.d").join(name).is_file() && !name.contains('/');
    unit.map(|unit| Control::Systemd(unit.to_owned()))
        .or_else(|| script().then(|| Control::Init(name.to_owned())))
}

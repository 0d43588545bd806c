//! Looks where the service listens, and what restarts it.

use std::fs;

use anyhow::Result;

use super::endpoint::{Control, Endpoint, endpoints};
use crate::action::rooms::looked::shares_port;
use crate::kernel::service_files::script;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::{Listener, Looks, Want};
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
    unit.map(|unit| Control::Systemd(unit.to_owned()))
        .or_else(|| script(name).map(|_| Control::Init(name.to_owned())))
}

//! Ports by name: what the services database of this host makes of the values of options.

use std::cell::RefCell;

use crate::kernel::service_files::{is_unit, script};
use crate::kernel::sys::{service_names, service_port};
use crate::words::listen_ports::ListenPorts;
use crate::words::meant::{meant, question};
use crate::words::ports::PortSet;

/// Parses a value of `--port`.
pub(crate) fn ports(text: &str) -> Result<PortSet, String> {
    with_services(|service| PortSet::parse(text, service))
}

/// Parses a value that is a single port.
pub(crate) fn one_port(text: &str) -> Result<u16, String> {
    let ports = ports(text)?;
    let mut ports = ports.iter();
    match (ports.next(), ports.next()) {
        (Some(port), None) => Ok(port),
        _ => Err(format!("'{text}': expected one port")),
    }
}

/// Parses the value of `--listen-port`.
pub(crate) fn listen_ports(text: &str) -> Result<ListenPorts, String> {
    with_services(|service| ListenPorts::parse(text, service))
}

/// Lets `parse` look names up. If that fails because of a misspelt name, the error asks for the name
/// that was probably meant.
fn with_services<T>(
    parse: impl FnOnce(&dyn Fn(&str) -> Option<u16>) -> Result<T, String>,
) -> Result<T, String> {
    let unknown = RefCell::new(None);
    let port = |name: &str| {
        let port = service_port(name);
        if port.is_none() {
            unknown.replace(Some(name.to_owned()));
        }
        port
    };
    let parsed = parse(&port);
    parsed.map_err(|why| {
        let Some(name) = unknown.take() else {
            return why;
        };
        match is_unit(&name) || script(&name).is_some() {
            true => format!("{why}; syngate restart {name} finds the ports of a service"),
            false => format!("{why}{}", question(meant(&name, service_names()))),
        }
    })
}

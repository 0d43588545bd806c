//! Which ports the kernel gives to sockets that name none, in this thread's network namespace.

use std::fs;

use anyhow::{Context, Result};

use crate::words::ports::PortSet;

/// The first and the last of them (ip_local_port_range in ip-sysctl.rst of the kernel).
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The ports of that range that the kernel gives to nobody, as `--port` takes them; often none (ip_local_reserved_ports).
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// # Errors
/// The kernel does not tell, or not in the form that is known.
pub(crate) fn chosen_by_kernel() -> Result<PortSet> {
    let read = |file| fs::read_to_string(file).context(file);
    let range = read(RANGE)?;
    let range = parse(&range).with_context(|| format!("{RANGE}: '{}'", range.trim()))?;
    let reserved = read(RESERVED)?;
    let reserved = match reserved.trim() {
        "" => PortSet::EMPTY,
        ports => {
            PortSet::parse(ports, |_| None).map_err(|why| anyhow::anyhow!("{RESERVED}: {why}"))?
        }
    };
    Ok(range.minus(&reserved))
}

fn parse(range: &str) -> Option<PortSet> {
    let mut ends = range.split_whitespace().map(|end| end.parse().ok());
    let (first, last) = (ends.next()??, ends.next()??);
    Some(PortSet::from_ranges([first..=last]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_read() {
        let range = PortSet::from_ranges([32768..=60999]);
        assert_eq!(parse("32768\t60999\n"), Some(range));
        assert_eq!(parse("32768"), None);
        assert!(chosen_by_kernel().is_ok());
    }
}

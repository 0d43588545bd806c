//! The next host on the way of a packet, and the interface that leads to it.

use std::fmt;
use std::net::IpAddr;

/// The size of an interface's name, with the NUL at its end (linux/if.h, IFNAMSIZ).
pub(crate) const NAME_LENGTH: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) index: u32,
    name: [u8; NAME_LENGTH],
}

/// A neighbour, and the interface that leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextHop {
    pub(crate) address: IpAddr,
    pub(crate) device: Device,
    /// Its Ethernet address, if it has one and the kernel knows it at the moment.
    pub(crate) ether: Option<Ether>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ether(pub(crate) [u8; 6]);

impl Device {
    /// Cuts a name that is too long.
    pub(crate) fn new(index: u32, name: &str) -> Device {
        let mut bytes = [0; NAME_LENGTH];
        let length = name.len().min(NAME_LENGTH - 1);
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        Device { index, name: bytes }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.name.iter().position(|b| *b == 0);
        let name = &self.name[..end.unwrap_or(NAME_LENGTH)];
        f.write_str(&String::from_utf8_lossy(name))
    }
}

/// As in the value of `--syn divert`: a link-local address with its interface.
impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        match self.address {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => write!(f, "%{}", self.device),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Ether {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}({})", self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_shown_as_the_option_names_them() {
        let hop = |address: &str| {
            let hop = NextHop {
                address: address.parse().unwrap(),
                device: Device::new(2, "eth0"),
                ether: None,
            };
            hop.to_string()
        };
        assert_eq!(hop("10.0.0.2"), "10.0.0.2");
        assert_eq!(hop("fd00::2"), "fd00::2");
        assert_eq!(hop("fe80::2"), "fe80::2%eth0");
        let long = Device::new(3, "a-name-of-twenty-two-b");
        assert_eq!(format!("{long:?}"), "a-name-of-twent(3)");
    }
}

//! Which packets to the gated ports are meant: where the gate looks, and what it lets through. As
//! given on the command line, and as every backend makes it. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::words::family::Family;

/// An interface's name has room for this many bytes and a NUL (linux/if.h, IFNAMSIZ).
const INTERFACE_NAME_MAX: usize = 15;

/// Where in a packet's way the gate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Where {
    /// Before sockets of this host
    #[default]
    Input,
    /// Before NAT: also for ports that are published by containers
    Prerouting,
}

/// Which packets to the gated ports are meant. Empty lists restrict nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// `--hook`.
    pub hook: Where,
    /// `--to`: the destination addresses that are gated.
    pub to: Networks,
    /// `--allow-from`: the sources that are let through.
    pub allow_from: Networks,
    /// `--allow-local`: what comes in over the loopback interface is let through.
    pub allow_local: bool,
    /// `--interface`: the interfaces that are gated.
    pub interfaces: Vec<String>,
}

/// Networks of both IP versions, none of them inside another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks {
    /// IPv4.
    pub v4: Vec<Ipv4Net>,
    /// IPv6.
    pub v6: Vec<Ipv6Net>,
}

impl Scope {
    /// Whether packets of that IP version can be stopped at all: `--to` may name only the other.
    pub fn gates(&self, family: Family) -> bool {
        self.to.is_empty() || !self.to.of(family).is_empty()
    }

    /// Whether connections to a listener on that address are in scope. A wildcard always is.
    pub fn reaches(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.to.is_empty() || address.is_unspecified() || self.to.contain(address)
    }
}

impl Networks {
    /// Both IP versions, overlaps merged.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Networks {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(network) => v4.push(network),
                IpNet::V6(network) => v6.push(network),
            }
        }
        Networks {
            v4: Ipv4Net::aggregate(&v4),
            v6: Ipv6Net::aggregate(&v6),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Those of one IP version.
    pub fn of(&self, family: Family) -> Vec<IpNet> {
        match family {
            Family::V4 => self.v4.iter().copied().map(IpNet::V4).collect(),
            Family::V6 => self.v6.iter().copied().map(IpNet::V6).collect(),
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<IpNet> {
        Family::ALL.into_iter().flat_map(|f| self.of(f)).collect()
    }

    fn contain(&self, address: IpAddr) -> bool {
        self.all().iter().any(|network| network.contains(&address))
    }
}

impl fmt::Display for Networks {
    /// As the options take them: single addresses without their length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.all().iter().map(short).collect();
        f.write_str(&all.join(","))
    }
}

/// A network of one address without its length, as people write it.
pub fn short(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

impl fmt::Display for Scope {
    /// As options: `--hook prerouting --to 10.0.0.1`. Nothing for the default.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut options = Vec::new();
        if self.hook == Where::Prerouting {
            options.push("--hook prerouting".to_owned());
        }
        for (option, networks) in [("--to", &self.to), ("--allow-from", &self.allow_from)] {
            if !networks.is_empty() {
                options.push(format!("{option} {networks}"));
            }
        }
        if self.allow_local {
            options.push("--allow-local".to_owned());
        }
        if !self.interfaces.is_empty() {
            options.push(format!("--interface {}", self.interfaces.join(",")));
        }
        f.write_str(&options.join(" "))
    }
}

/// Parses addresses and prefixes, separated by commas.
///
/// # Errors
/// A sentence that says which item is wrong and what would be right.
pub fn parse_networks(text: &str) -> Result<Vec<IpNet>, String> {
    text.split(',').map(|item| network(item.trim())).collect()
}

fn network(item: &str) -> Result<IpNet, String> {
    const EXPECTED: &str = "expected IP addresses or prefixes, such as 10.0.0.1, 10.0.0.0/8 or \
                            2001:db8::/32, separated by commas";
    if item.is_empty() {
        return Err(format!("an empty item; {EXPECTED}"));
    }
    if let Ok(address) = IpAddr::from_str(item) {
        return Ok(address.into());
    }
    let Ok(network) = IpNet::from_str(item) else {
        return Err(match item.split_once('/') {
            Some((address, length)) => bad_prefix(item, address, length),
            None => format!("'{item}' is not an IP address (names are not looked up); {EXPECTED}"),
        });
    };
    if network.trunc() != network {
        return Err(format!(
            "'{item}' has bits set behind its prefix; write {} for the network, or {} for the address",
            network.trunc(),
            network.addr()
        ));
    }
    Ok(network)
}

fn bad_prefix(item: &str, address: &str, length: &str) -> String {
    match IpAddr::from_str(address) {
        Ok(address) => format!(
            "'{item}': '{length}' is not a prefix length; for {address} it is a number from 0 to {}",
            if address.is_ipv4() { 32 } else { 128 }
        ),
        Err(_) => format!("'{item}': '{address}' is not an IP address"),
    }
}

/// Parses interface names, separated by commas.
///
/// # Errors
/// A sentence that says which one is wrong.
pub fn parse_interfaces(text: &str) -> Result<Vec<String>, String> {
    text.split(',').map(|item| interface(item.trim())).collect()
}

/// What the kernel takes as a name (dev_valid_name()), less what iptables and nft would read as a
/// pattern or as the end of a string.
fn interface(name: &str) -> Result<String, String> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "/:+*\"'\\!,".contains(c);
    if name.is_empty() || name == "." || name == ".." {
        return Err(format!(
            "'{name}' is not an interface's name; expected names such as eth0, separated by commas"
        ));
    }
    if name.len() > INTERFACE_NAME_MAX {
        return Err(format!(
            "'{name}' is not an interface's name: those have at most {INTERFACE_NAME_MAX} bytes"
        ));
    }
    match name.chars().find(|c| odd(*c)) {
        Some(c) => Err(format!(
            "'{name}' is not an interface's name: it has '{c}' in it (patterns are not taken)"
        )),
        None => Ok(name.to_owned()),
    }
}

/// What holds for any text as addresses, or names.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(networks) = parse_networks(&text).map(Networks::new) {
        assert!(!networks.is_empty());
        let again = parse_networks(&networks.to_string()).map(Networks::new);
        assert_eq!(again.as_ref(), Ok(&networks), "{networks}");
        let mut all = networks.all().into_iter();
        assert!(all.all(|network| networks.contain(network.addr())));
    }
    if let Ok(names) = parse_interfaces(&text) {
        let fits = |name: &String| (1..=INTERFACE_NAME_MAX).contains(&name.len());
        assert!(names.iter().all(fits));
        assert_eq!(parse_interfaces(&names.join(",")), Ok(names));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(text: &str) -> Networks {
        Networks::new(parse_networks(text).unwrap())
    }

    #[test]
    fn what_people_write() {
        assert_eq!(networks("10.0.0.1").to_string(), "10.0.0.1");
        assert_eq!(
            networks("10.0.0.0/8, 10.1.0.0/16,fd00::/8,::1").to_string(),
            "10.0.0.0/8,::1,fd00::/8",
            "one inside another is one"
        );
        assert_eq!(networks("10.0.0.1/32").to_string(), "10.0.0.1");
        assert_eq!(networks("0.0.0.0/0").to_string(), "0.0.0.0/0");
        assert_eq!(parse_interfaces("eth0, br-1.2@x").unwrap().len(), 2);
    }

    #[test]
    fn what_is_refused_and_why() {
        for (text, says) in [
            ("", "an empty item"),
            ("10.0.0.1,", "an empty item"),
            ("example.org", "names are not looked up"),
            ("10.0.0.256", "not an IP address"),
            ("10.0.0.0/33", "'33' is not a prefix length"),
            ("10.0.0.0/", "'' is not a prefix length"),
            ("fd00::/129", "from 0 to 128"),
            ("web/24", "'web' is not an IP address"),
            ("10.0.0.5/24", "write 10.0.0.0/24"),
            ("10.0.0.1%eth0", "not an IP address"),
        ] {
            let error = parse_networks(text).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
        for (text, says) in [
            ("", "not an interface's name"),
            ("eth0,", "not an interface's name"),
            ("eth+", "'+' in it"),
            ("a name", "' ' in it"),
            ("sixteen-letters-", "at most 15 bytes"),
        ] {
            let error = parse_interfaces(text).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn reaches_what_it_names_and_wildcards() {
        let scope = Scope {
            to: networks("10.0.0.1"),
            ..Scope::default()
        };
        for (address, expected) in [
            ("10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("10.0.0.2", false),
            ("0.0.0.0", true),
            ("::", true),
            ("fd00::1", false),
        ] {
            assert_eq!(
                scope.reaches(address.parse().unwrap()),
                expected,
                "{address}"
            );
        }
        assert!(scope.gates(Family::V4) && !scope.gates(Family::V6));
        assert!(Scope::default().gates(Family::V6));
        assert!(Scope::default().reaches("fd00::1".parse().unwrap()));
    }

    #[test]
    fn prints_as_options() {
        assert_eq!(Scope::default().to_string(), "");
        let scope = Scope {
            hook: Where::Prerouting,
            to: networks("10.0.0.1,fd00::1"),
            allow_from: networks("10.9.0.0/16"),
            allow_local: true,
            interfaces: vec!["eth0".to_owned(), "eth1".to_owned()],
        };
        assert_eq!(
            scope.to_string(),
            "--hook prerouting --to 10.0.0.1,fd00::1 --allow-from 10.9.0.0/16 --allow-local \
             --interface eth0,eth1"
        );
    }
}

//! The scope of a gate: its hook, the packets to gated ports that it stops, and those that it lets
//! through. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::words::family::Family;

/// The longest name of an interface (linux/if.h, IFNAMSIZ without the NUL).
pub(crate) const INTERFACE_NAME_MAX: usize = 15;
/// The longest alternative name (linux/if.h, ALTIFNAMSIZ without the NUL). Rules take the other one.
const ALTERNATIVE_NAME_MAX: usize = 127;

/// The loopback interface can be renamed, but nobody does.
pub(crate) const LOOPBACK: &str = "lo";

/// `--hook`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum HookChoice {
    /// input, or prerouting where your firewall would use dropped SYNs up
    #[default]
    Auto,
    /// Before sockets of this host
    Input,
    /// Before NAT: also for ports that are published by containers
    Prerouting,
}

impl HookChoice {
    /// The hook before the firewall was looked at.
    pub(crate) fn given(self) -> Where {
        match self {
            HookChoice::Auto | HookChoice::Input => Where::Input,
            HookChoice::Prerouting => Where::Prerouting,
        }
    }
}

/// The hook in which the gate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Where {
    #[default]
    Input,
    Prerouting,
}

/// Which packets to the gated ports the gate stops. An empty list restricts nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Scope {
    pub(crate) hook: Where,
    pub(crate) to: Networks,
    pub(crate) allow_from: Networks,
    /// The gate lets packets from the loopback interface pass.
    pub(crate) allow_local: bool,
    pub(crate) interfaces: Vec<String>,
}

/// Networks of both IP versions. None contains another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Networks {
    pub(crate) v4: Vec<Ipv4Net>,
    pub(crate) v6: Vec<Ipv6Net>,
}

impl Scope {
    /// Whether the gate stops packets of this IP version: `--to` may name addresses of the other one only.
    pub(crate) fn gates(&self, family: Family) -> bool {
        self.to.is_empty() || !self.to.of(family).is_empty()
    }

    /// Why no packet can be one that this gate stops, in the words of the options.
    pub(crate) fn contradicts(&self) -> Option<String> {
        let never = |network: &&IpNet| {
            let address = network.addr();
            let one = network.prefix_len() == network.max_prefix_len();
            (one && address.is_unspecified()) || address.is_multicast()
        };
        if let Some(network) = self.to.all().iter().find(never) {
            let network = short(network);
            return Some(format!(
                "--to {network}: no connection goes to it; expected addresses of this host, or no --to \
                 for all of them"
            ));
        }
        let local = self.interfaces.iter().any(|name| name == LOOPBACK);
        if self.allow_local && local {
            return Some(format!(
                "--interface {LOOPBACK} and --allow-local exclude each other: one gates what comes \
                 over it, the other lets it through"
            ));
        }
        let mut gated = Family::ALL.into_iter().filter(|family| self.gates(*family));
        let lets_all = |family| {
            self.allow_from
                .of(family)
                .iter()
                .any(|n| n.prefix_len() == 0)
        };
        gated.all(lets_all).then(|| {
            format!(
                "--allow-from {}: that lets every connection through",
                self.allow_from
            )
        })
    }

    /// Whether the gate stops connections to a listener on this address. A wildcard address always counts.
    pub(crate) fn reaches(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.to.is_empty() || address.is_unspecified() || self.to.contain(address)
    }
}

impl Networks {
    /// Merges overlaps.
    pub(crate) fn new(networks: impl IntoIterator<Item = IpNet>) -> Networks {
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

    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    pub(crate) fn of(&self, family: Family) -> Vec<IpNet> {
        match family {
            Family::V4 => self.v4.iter().copied().map(IpNet::V4).collect(),
            Family::V6 => self.v6.iter().copied().map(IpNet::V6).collect(),
        }
    }

    pub(crate) fn all(&self) -> Vec<IpNet> {
        Family::ALL.into_iter().flat_map(|f| self.of(f)).collect()
    }

    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        self.all().iter().any(|network| network.contains(&address))
    }
}

impl fmt::Display for Networks {
    /// In the syntax of the options.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.all().iter().map(short).collect();
        f.write_str(&all.join(","))
    }
}

/// A network of a single address has no prefix length.
pub(crate) fn short(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

impl fmt::Display for Scope {
    /// As options, such as `--hook prerouting --to 10.0.0.1`. Empty for the default.
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
pub(crate) fn parse_networks(text: &str) -> Result<Vec<IpNet>, String> {
    text.split(',').map(|item| network(item.trim())).collect()
}

fn network(item: &str) -> Result<IpNet, String> {
    const EXPECTED: &str = "expected IP addresses or prefixes, such as 10.0.0.1, 10.0.0.0/8 or \
                            2001:db8::/32, separated by commas";
    if item.is_empty() {
        return Err(format!("an empty item; {EXPECTED}"));
    }
    if let Ok(address) = IpAddr::from_str(item) {
        return Ok(address.to_canonical().into());
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
    Ok(unmapped(network))
}

/// `ss` shows the IPv4 addresses of a dual-stack socket as `::ffff:10.0.0.1` (RFC 4291, 2.5.5.2). No
/// packet has such an address: IPv4 is meant.
fn unmapped(network: IpNet) -> IpNet {
    const BEFORE_IPV4: u8 = 96;
    let IpNet::V6(v6) = network else {
        return network;
    };
    let length = v6.prefix_len().checked_sub(BEFORE_IPV4);
    let v4 = v6.addr().to_ipv4_mapped().zip(length);
    v4.and_then(|(address, length)| Ipv4Net::new(address, length).ok())
        .map_or(network, IpNet::V4)
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
pub(crate) fn parse_interfaces(text: &str) -> Result<Vec<String>, String> {
    text.split(',').map(|item| interface(item.trim())).collect()
}

/// A name that the kernel accepts (dev_valid_name()), without the characters that iptables and nft
/// read as a pattern or as the end of a string.
fn interface(name: &str) -> Result<String, String> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "/:+*\"'\\!,".contains(c);
    if name.is_empty() || name == "." || name == ".." {
        return Err(format!(
            "'{name}' is not an interface's name; expected names such as eth0, separated by commas"
        ));
    }
    if name.len() > ALTERNATIVE_NAME_MAX {
        return Err(format!(
            "'{name}' is not an interface's name: those have at most {INTERFACE_NAME_MAX} bytes, and \
             alternative names {ALTERNATIVE_NAME_MAX}"
        ));
    }
    match name.chars().find(|c| odd(*c)) {
        Some(c) => Err(format!(
            "'{name}' is not an interface's name: it has '{c}' in it (patterns are not taken)"
        )),
        None => Ok(name.to_owned()),
    }
}

/// Checks the properties of both parsers for any text.
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
        let fits = |name: &String| (1..=ALTERNATIVE_NAME_MAX).contains(&name.len());
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
        assert_eq!(networks("::ffff:10.0.0.1").to_string(), "10.0.0.1");
        assert_eq!(networks("::ffff:a00:0/104").to_string(), "10.0.0.0/8");
        assert_eq!(networks("::ffff:0:0/96").to_string(), "0.0.0.0/0");
        assert_eq!(networks("::/0").to_string(), "::/0");
        assert_eq!(
            networks("::ffff:10.0.0.1,10.0.0.0/8").to_string(),
            "10.0.0.0/8"
        );
        assert_eq!(networks("0.0.0.0/0").to_string(), "0.0.0.0/0");
        assert_eq!(parse_interfaces("eth0, br-1.2@x").unwrap().len(), 2);
        let longest = "x".repeat(ALTERNATIVE_NAME_MAX);
        assert_eq!(parse_interfaces(&longest), Ok(vec![longest]));
        assert_eq!(HookChoice::Prerouting.given(), Where::Prerouting);
        assert_eq!(HookChoice::Auto.given(), Where::Input);
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
            (".", "not an interface's name"),
            ("..", "not an interface's name"),
            ("eth+", "'+' in it"),
            ("a name", "' ' in it"),
            (&"long".repeat(32), "at most 15 bytes"),
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
    fn a_gate_that_stops_nothing_is_told() {
        let scope = |to: &str, from: &str, local: bool, interface: &str| Scope {
            to: match to {
                "" => Networks::default(),
                to => networks(to),
            },
            allow_from: match from {
                "" => Networks::default(),
                from => networks(from),
            },
            allow_local: local,
            interfaces: vec![interface.to_owned()],
            ..Scope::default()
        };
        for (scope, says) in [
            (scope("10.0.0.1", "10.0.0.0/8", true, "eth0"), None),
            (scope("0.0.0.0/0", "", false, "lo"), None),
            (scope("0.0.0.0", "", false, "eth0"), Some("--to 0.0.0.0:")),
            (scope("::", "", false, "eth0"), Some("--to :::")),
            (
                scope("10.0.0.1,224.0.0.0/4", "", false, "eth0"),
                Some("--to 224.0.0.0/4:"),
            ),
            (
                scope("", "", true, "lo"),
                Some("--interface lo and --allow-local"),
            ),
            (scope("", "0.0.0.0/0", false, "eth0"), None),
            (
                scope("", "0.0.0.0/0,::/0", false, "eth0"),
                Some("--allow-from 0.0.0.0/0,::/0:"),
            ),
            (
                scope("10.0.0.1", "0.0.0.0/0", false, "eth0"),
                Some("--allow-from 0.0.0.0/0:"),
            ),
        ] {
            let why = scope.contradicts();
            let said = why
                .as_deref()
                .zip(says)
                .is_some_and(|(why, says)| why.starts_with(says));
            assert!(
                said || (why.is_none() && says.is_none()),
                "{why:?}, not {says:?}"
            );
        }
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

//! Which variants of iptables are here, and which of them hold rules: what a firewall is made of
//! decides what else may touch it. Leaves no trace: iptables-legacy makes its tables when it is
//! asked for them, so it is asked only for those that are there.

use std::fs;
use std::io::{self, ErrorKind};

use nix::errno::Errno;

use super::save::words;
use super::variant::Programs;
use super::{has_ipv6, installed_variants};
use crate::gate::kinds::Variant;
use crate::gate::nat::NAT_TARGETS;
use crate::gate::rules::PREFIX;
use crate::words::family::Family;
use crate::words::ports::PortSet;

/// A variant that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Which.
    pub variant: Variant,
    /// What holds for each IP version that it is installed for.
    pub holdings: Vec<(Family, Result<Holding, String>)>,
}

/// What one IP version of it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// The rules, and the built-in chains that do not accept.
    pub rules: usize,
    /// Ports sent elsewhere before the input hook: the port, and by which chain.
    pub redirected: Vec<(u16, String)>,
    /// A rule that is not ours does NAT.
    pub nat: bool,
}

/// Which variant plain `iptables` is.
pub fn default_variant() -> Option<Variant> {
    let path = std::env::var_os("PATH");
    let programs = Variant::Default.programs(path.as_deref()).ok()?;
    Some(programs.truly())
}

/// All that are installed. Without privilege they are not asked what they hold.
pub fn take(privileged: bool) -> Vec<Installed> {
    installed_variants()
        .into_iter()
        .map(|(variant, programs)| Installed {
            variant,
            holdings: Family::ALL
                .into_iter()
                .filter(|family| programs.has(*family) && (*family == Family::V4 || has_ipv6()))
                .map(|family| {
                    let asked = match privileged {
                        true => holding(variant, &programs, family),
                        false => Err("asking needs CAP_NET_ADMIN".to_owned()),
                    };
                    (family, asked)
                })
                .collect(),
        })
        .collect()
}

fn holding(variant: Variant, programs: &Programs, family: Family) -> Result<Holding, String> {
    if variant == Variant::Legacy {
        let tables = legacy_tables(family).map_err(unreadable)?;
        if tables.is_empty() {
            return Ok(Holding::default());
        }
    }
    match programs.save(family) {
        Ok(saved) => Ok(read(&saved)),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// The tables of x_tables in this network namespace.
///
/// # Errors
/// The file, and why it can't be read: it is for root only.
pub fn legacy_tables(family: Family) -> Result<Vec<String>, (&'static str, io::Error)> {
    let file = match family {
        Family::V4 => "/proc/net/ip_tables_names",
        Family::V6 => "/proc/net/ip6_tables_names",
    };
    match fs::read_to_string(file) {
        Ok(names) => Ok(names.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err((file, error)),
    }
}

fn unreadable((file, error): (&str, io::Error)) -> String {
    let errno = error.raw_os_error().map(Errno::from_raw);
    format!("{file}: {}", errno.unwrap_or(Errno::EIO).desc())
}

/// What iptables-save(8) prints. Pure.
fn read(saved: &str) -> Holding {
    let mut holding = Holding::default();
    let mut table = "";
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(chain) = line.strip_prefix(':') {
            let policy = chain.split(' ').nth(1);
            holding.rules += usize::from(!matches!(policy, Some("ACCEPT" | "-") | None));
        } else if let Some(at) = line.find("-A ") {
            holding.rules += 1;
            if table == "nat" {
                holding.redirected.extend(redirected(&line[at..]));
                holding.nat |= does_nat(&line[at..]);
            }
        }
    }
    holding
}

fn does_nat(rule: &str) -> bool {
    let words = words(rule);
    let mut pairs = words.windows(2);
    !rule.contains(PREFIX)
        && pairs.any(|pair| pair[0] == "-j" && NAT_TARGETS.contains(&pair[1].as_str()))
}

/// `-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80`.
fn redirected(rule: &str) -> Vec<(u16, String)> {
    let words = words(rule);
    let value = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        // "! --dport 80" is all the others.
        let negated = at > 0 && words[at - 1] == "!";
        words.get(at + 1).filter(|_| !negated).map(String::as_str)
    };
    let (Some(chain), Some("tcp")) = (value("-A"), value("-p")) else {
        return Vec::new();
    };
    if !matches!(value("-j"), Some("DNAT" | "REDIRECT")) || chain == "OUTPUT" {
        return Vec::new();
    }
    let ports = value("--dport").or(value("--dports")).unwrap_or_default();
    let ports = PortSet::parse(&ports.replace(':', "-"), |_| None).unwrap_or_default();
    let by = format!("iptables table nat, chain {chain}");
    ports.iter().map(|port| (port, by.clone())).collect()
}

/// What holds for any text of iptables-save's.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    let holding = read(text);
    assert!(holding.rules <= text.lines().count());
    assert!(holding.redirected.iter().all(|(port, _)| *port > 0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_saved() {
        let saved = "\
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
[0:0] -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
[0:0] -A OUTPUT -p tcp -m tcp --dport 79 -j DNAT --to-destination 172.17.0.2:80
[0:0] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
[0:0] -A DOCKER -p tcp -m multiport --dports 90,91:92 -j REDIRECT --to-ports 100
[0:0] -A DOCKER -p udp -m udp --dport 53 -j DNAT --to-destination 172.17.0.2:53
[0:0] -A DOCKER -p tcp -m tcp ! --dport 22 -j DNAT --to-destination 172.17.0.2
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
[0:0] -A INPUT -p tcp -m tcp --dport 81 -j ACCEPT
COMMIT
";
        let holding = read(saved);
        assert_eq!(holding.rules, 8);
        let ports: Vec<u16> = holding.redirected.iter().map(|(port, _)| *port).collect();
        assert_eq!(ports, [8080, 90, 91, 92]);
        assert_eq!(holding.redirected[0].1, "iptables table nat, chain DOCKER");
        assert_eq!(read(""), Holding::default());
    }
}

//! The rules in the installed variants of iptables. `check` uses them to tell which firewall the
//! host has, and what could interfere with a gate.

use super::present::{has_ipv6, installed_variants, tables_of};
use super::programs::Programs;
use super::save::words;
use crate::gate::kinds::Variant;
use crate::gate::nat::{NAT_TARGETS, RedirectedPort};
use crate::gate::rules::PREFIX;
use crate::words::family::Family;
use crate::words::ports::PortSet;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VariantHoldings {
    pub(crate) variant: Variant,
    /// One entry for each IP version that is installed.
    pub(crate) holdings: Vec<(Family, Result<Holding, String>)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    /// The number of rules, plus the built-in chains whose policy is not ACCEPT.
    pub(crate) rules: usize,
    pub(crate) redirected: Vec<RedirectedPort>,
    /// A rule that is not syngate's does NAT.
    pub(crate) nat: bool,
}

/// Reads all installed variants without leaving a trace. Without privilege the programs can't list
/// rules, so they are not asked.
pub(crate) fn take(privileged: bool) -> Vec<VariantHoldings> {
    installed_variants()
        .into_iter()
        .map(|(variant, programs)| VariantHoldings {
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
    let mut saved = String::new();
    for table in tables_of(variant, family)? {
        let table = programs.save_table(family, &table);
        saved.push_str(&table.map_err(|error| format!("{error:#}"))?);
    }
    Ok(read(&saved))
}

/// Parses the output of iptables-save(8).
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
fn redirected(rule: &str) -> Vec<RedirectedPort> {
    let words = words(rule);
    let value = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        // "! --dport 80" means all other ports.
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
    let redirected = |port| RedirectedPort {
        port,
        by: by.clone(),
    };
    ports.iter().map(redirected).collect()
}

/// Checks the properties of the parser for any text.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    let holding = read(text);
    assert!(holding.rules <= text.lines().count());
    assert!(holding.redirected.iter().all(|to| to.port > 0));
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
        let ports: Vec<u16> = holding.redirected.iter().map(|to| to.port).collect();
        assert_eq!(ports, [8080, 90, 91, 92]);
        assert_eq!(holding.redirected[0].by, "iptables table nat, chain DOCKER");
        assert_eq!(read(""), Holding::default());
    }
}

//! The rules in the installed variants of iptables. `check` uses them to tell which firewall the
//! host has, and what could interfere with a gate.

use super::by_port;
use super::present::{has_ipv6, installed_variants, tables_of};
use super::programs::Programs;
use super::rule::Rule;
use crate::gate::by_port::PortRule;
use crate::gate::consumers::{Consuming, Effect, by_match, by_target, logs};
use crate::gate::kinds::Variant;
use crate::gate::nat::{NAT_TARGETS, ProxiedPort, RedirectedPort};
use crate::gate::rules::PREFIX;
use crate::words::family::Family;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VariantHoldings {
    pub(crate) variant: Variant,
    /// One entry for each IP version that is installed.
    pub(crate) holdings: Vec<(Family, Held)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    /// The number of rules, plus the built-in chains whose policy is not ACCEPT.
    pub(crate) rules: usize,
    pub(crate) redirected: Vec<RedirectedPort>,
    pub(crate) proxied: Vec<ProxiedPort>,
    /// A rule that is not syngate's does NAT.
    pub(crate) nat: bool,
    /// The effects of others' rules that incoming packets can meet. Not of iptables-nft, whose rules
    /// nf_tables lists.
    pub(crate) consuming: Vec<Consuming>,
    /// Rules that act on a destination port. Not of iptables-nft either.
    pub(crate) by_port: Vec<PortRule>,
}

/// What was listed, or why it could not be.
pub(crate) type Held = Result<Holding, String>;

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

/// Lists each table once.
fn holding(variant: Variant, programs: &Programs, family: Family) -> Held {
    let (mut all, mut consuming, mut by_port) = (String::new(), Vec::new(), Vec::new());
    for table in tables_of(variant, family)? {
        let saved = programs.census(family, &table);
        let saved = saved.map_err(|error| format!("{error:#}"))?;
        if variant == Variant::Legacy {
            consuming.extend(saved.lines().filter_map(|line| effect_of(&table, line)));
            by_port.extend(by_port::read(family, &table, &saved));
        }
        all.push_str(&saved);
    }
    Ok(Holding {
        consuming,
        by_port,
        ..read(&all)
    })
}

/// What iptables-legacy holds for each IP version. Without tables of x_tables no program is asked.
pub(crate) fn legacy() -> Vec<Held> {
    let tables = |family| tables_of(Variant::Legacy, family);
    let may_have_some = |family: &Family| tables(*family).map_or(true, |tables| !tables.is_empty());
    let families: Vec<Family> = Family::ALL.into_iter().filter(may_have_some).collect();
    if families.is_empty() {
        return Vec::new();
    }
    let variants = installed_variants();
    let legacy = variants.iter().find(|(v, _)| *v == Variant::Legacy);
    let held = families.into_iter().filter_map(|family| {
        match legacy.filter(|(_, programs)| programs.has(family)) {
            Some((variant, programs)) => Some(holding(*variant, programs, family)),
            None => tables(family).err().map(Err),
        }
    });
    held.collect()
}

/// The effect of a rule as iptables-save(8) prints it.
fn effect_of(table: &str, line: &str) -> Option<Consuming> {
    let rule = Rule::read(&line[line.find("-A ")?..]);
    let chain = rule.chain()?;
    let elsewhere = ["FORWARD", "OUTPUT", "POSTROUTING"].contains(&chain);
    if elsewhere || line.contains(PREFIX) {
        return None;
    }
    let helps = rule.has("--helper");
    let mut effect = None;
    for pair in rule.words().windows(2) {
        match pair[0].as_str() {
            // A limit of log messages decides nothing.
            "-j" if logs(&pair[1]) => return None,
            "-j" => effect = effect.or(by_target(&pair[1], helps)),
            "-m" => effect = effect.or(by_match(&pair[1])),
            _ => (),
        }
    }
    let by = format!("iptables table {table}, chain {chain}");
    effect.map(|effect: Effect| Consuming {
        effect,
        by,
        early: false,
    })
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
            holding.proxied.extend(proxied(table, &line[at..]));
            if table == "nat" {
                holding.redirected.extend(redirected(&line[at..]));
                holding.nat |= does_nat(&line[at..]);
            }
        }
    }
    holding
}

fn does_nat(text: &str) -> bool {
    let rule = Rule::read(text);
    let target = rule.target();
    !text.contains(PREFIX) && target.is_some_and(|target| NAT_TARGETS.contains(&target))
}

/// `-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80`.
fn redirected(rule: &str) -> Vec<RedirectedPort> {
    let rule = Rule::read(rule);
    let (Some(chain), Some("tcp")) = (rule.chain(), rule.value("-p")) else {
        return Vec::new();
    };
    if !matches!(rule.target(), Some("DNAT" | "REDIRECT")) || chain == "OUTPUT" {
        return Vec::new();
    }
    let ports = rule.listed_ports().unwrap_or_default();
    let by = format!("iptables table nat, chain {chain}");
    let redirected = |port| RedirectedPort {
        port,
        by: by.clone(),
    };
    ports.iter().map(redirected).collect()
}

/// `-A PREROUTING -p tcp -m tcp --dport 80 -j TPROXY --on-port 8080 --on-ip 0.0.0.0 --tproxy-mark 0x1/0x1`.
fn proxied(table: &str, rule: &str) -> Option<ProxiedPort> {
    let rule = Rule::read(rule);
    let port = rule.value("--on-port")?.parse().ok()?;
    let by = format!("iptables table {table}, chain {}", rule.chain()?);
    let named = (rule.target() == Some("TPROXY") && port > 0).then_some(port)?;
    Some(ProxiedPort {
        port: named,
        asked_for: rule.ports(),
        by,
    })
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
    use crate::words::ports::PortSet;

    #[test]
    fn finds_what_uses_a_syn_up() {
        use crate::gate::consumers::Consumes::{Expectation, Rate, Set, SynProxy};
        for (rule, expected) in [
            (
                "-A INPUT -p tcp -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --mss 1460",
                Some(Effect::Consumes(SynProxy)),
            ),
            (
                "-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp",
                Some(Effect::Consumes(Expectation)),
            ),
            (
                "-A PREROUTING -p tcp -m tcp --dport 80 -j CT --notrack",
                None,
            ),
            (
                "-A INPUT -p tcp -m hashlimit --hashlimit-above 9/sec --hashlimit-name x -j DROP",
                Some(Effect::Consumes(Rate)),
            ),
            ("-A INPUT -m limit --limit 5/min -j LOG", None),
            (
                "-A ssh -m recent --update --seconds 60 --name s --rsource -j DROP",
                Some(Effect::Consumes(Set)),
            ),
            ("-A FORWARD -m limit --limit 5/min -j ACCEPT", None),
            (
                "-A DOCKER -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80",
                Some(Effect::Translates),
            ),
            (
                "-A INPUT -m recent --name syngate_0123456789abcdef_4 -j syngate_0123456789abcdef",
                None,
            ),
        ] {
            let found = effect_of("t", &format!("[0:0] {rule}"));
            assert_eq!(found.map(|found| found.effect), expected, "{rule}");
        }
    }

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
*mangle
[0:0] -A PREROUTING -p tcp -m tcp --dport 80 -j TPROXY --on-port 8080 --on-ip 0.0.0.0 --tproxy-mark 0x1/0x1
COMMIT
";
        let holding = read(saved);
        assert_eq!(holding.rules, 9);
        let proxied = ProxiedPort {
            port: 8080,
            asked_for: Some(PortSet::from_iter([80])),
            by: "iptables table mangle, chain PREROUTING".to_owned(),
        };
        assert_eq!(holding.proxied, [proxied]);
        let ports: Vec<u16> = holding.redirected.iter().map(|to| to.port).collect();
        assert_eq!(ports, [8080, 90, 91, 92]);
        assert_eq!(holding.redirected[0].by, "iptables table nat, chain DOCKER");
        assert_eq!(read(""), Holding::default());
    }
}

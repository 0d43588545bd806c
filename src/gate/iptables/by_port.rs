//! Finds rules, as iptables-save(8) prints them, that refuse packets by their destination port after NAT,
//! or keep them from connection tracking. Pure.

use super::rule::{Rule, ports_in};
use crate::gate::by_port::{Does, Matched, PortRule, is_met};
use crate::gate::nat::{REFUSING_TARGETS, UNTRACKING_TARGETS};
use crate::gate::rules::PREFIX;
use crate::words::family::Family;
use crate::words::ports::PortSet;

/// Tables whose chain INPUT comes after NAT.
const FILTERING: [&str; 3] = ["filter", "mangle", "security"];
/// Tables whose chain OUTPUT comes after NAT.
const FILTERING_OWN: [&str; 2] = ["filter", "security"];
/// Prerouting in the table raw is before connection tracking.
const TRACKING: &str = "raw";
const TRANSLATING: &str = "nat";
/// Options of NAT rules that are for all clients of a port.
const FOR_ALL: [&str; 12] = [
    "-A",
    "-p",
    "-m",
    "-d",
    "-j",
    "--dport",
    "--dports",
    "--dst-type",
    "--comment",
    "--to-destination",
    "--to-ports",
    "--random",
];
/// Matches whose conditions are not read. They may be about a port.
const UNREAD: [&str; 2] = ["u32", "bpf"];

/// The rules of one table.
pub(super) fn read(family: Family, table: &str, saved: &str) -> Vec<PortRule> {
    let chains = saved.lines().filter_map(|line| line.strip_prefix(':'));
    let chains = chains.filter_map(|line| line.split_once(' '));
    let (own, built_in): (Vec<_>, Vec<_>) = chains.partition(|(_, rest)| rest.starts_with('-'));
    let own: Vec<&str> = own.into_iter().map(|(name, _)| name).collect();
    let built_in: Vec<String> = built_in
        .into_iter()
        .map(|(name, _)| name.to_owned())
        .collect();
    let away = |met: &str| -> Vec<String> {
        let others = built_in.iter().filter(|name| *name != met);
        others.cloned().collect()
    };
    let from_others = away(match table {
        TRACKING | TRANSLATING => "PREROUTING",
        _ => "INPUT",
    });
    let own_clients = FILTERING_OWN.contains(&table).then(|| away("OUTPUT"));
    let rules = saved
        .lines()
        .filter_map(|line| line.find("-A ").map(|at| &line[at..]));
    let rules: Vec<Rule> = rules.map(Rule::read).collect();
    let jump = |rule: &Rule| Some((rule.chain()?.to_owned(), goes_to(rule, &own)?.to_owned()));
    let jumps: Vec<_> = rules.iter().filter_map(jump).collect();
    let found = rules.iter().filter_map(|rule| {
        let chain = rule.chain()?.to_owned();
        let does = does(rule, table, &own)?;
        let (ports, original) = compared(rule, does)?;
        let meets = |away: &[String]| is_met(&chain, away, &jumps);
        let local = !meets(&from_others);
        let is_met = !local || own_clients.as_deref().is_some_and(meets);
        is_met.then(|| PortRule {
            does,
            local,
            by: format!("iptables table {table}, chain {chain}"),
            table: format!("{family} {table}"),
            to: goes_to(rule, &own).map(str::to_owned),
            ports,
            original,
        })
    });
    found.collect()
}

/// The chain of the table's own that a rule goes to.
fn goes_to<'a>(rule: &'a Rule, own: &[&str]) -> Option<&'a str> {
    rule.target().filter(|target| own.contains(target))
}

fn does(rule: &Rule, table: &str, own: &[&str]) -> Option<Does> {
    let target = rule.target()?;
    if rule.is_for_another_protocol() || target.starts_with(PREFIX) {
        return None;
    }
    if table == TRACKING {
        let [notrack, ct] = UNTRACKING_TARGETS;
        let untracks = target == notrack || target == ct && rule.has("--notrack");
        return untracks.then_some(Does::Untracks);
    }
    if table == TRANSLATING {
        let elsewhere = ["DNAT", "REDIRECT", "NETMAP"].contains(&target);
        let mut options = rule.words().iter().filter(|word| word.starts_with('-'));
        let some = options.any(|option| !FOR_ALL.contains(&option.as_str()));
        return (elsewhere && some).then_some(Does::SendsSomeElsewhere);
    }
    if !FILTERING.contains(&table) {
        return None;
    }
    let states = rule.value("--ctstate").unwrap_or_default();
    let translated = states.split(',').any(|state| state == "DNAT");
    match target {
        "ACCEPT" | "RETURN" => translated.then_some(Does::AcceptsTranslated),
        target => {
            let refuses = REFUSING_TARGETS.contains(&target) || own.contains(&target);
            refuses.then_some(Does::Refuses)
        }
    }
}

/// The destination ports that a rule compares, and whether these are from before NAT. All, if the rule has
/// no condition.
fn compared(rule: &Rule, does: Does) -> Option<(Matched, bool)> {
    if let Some(original) = rule.value("--ctorigdstport") {
        return Some((Matched::These(ports_in(original)?), true));
    }
    if let Some(ports) = rule.ports() {
        return Some((Matched::These(ports), false));
    }
    if let Some(either) = rule.value("--ports") {
        return Some((Matched::These(ports_in(either)?), false));
    }
    if is_by_a_set_of_ports(rule) || UNREAD.iter().any(|name| rule.uses(name)) {
        return Some((Matched::Unread, false));
    }
    let plain = ["-A", "-p", "tcp", "-j", "CT", "NOTRACK", "--notrack"];
    let is_plain = |word: &String| plain.contains(&word.as_str()) || rule.chain() == Some(word);
    let all = || (Matched::These(PortSet::all()), false);
    let all_or_none = match does {
        Does::Refuses => false,
        Does::Untracks => rule.words().iter().all(is_plain),
        Does::AcceptsTranslated | Does::SendsSomeElsewhere => true,
    };
    all_or_none.then(all)
}

/// One of the parts that an ipset compares is the packet's destination, which may be the port:
/// `--match-set banned src,dst`.
fn is_by_a_set_of_ports(rule: &Rule) -> bool {
    let Some(set) = rule.value("--match-set") else {
        return false;
    };
    let words = rule.words();
    let at = words.iter().rposition(|word| word == set);
    let parts = at.and_then(|at| words.get(at + 1));
    parts.is_some_and(|parts| parts.split(',').any(|part| part == "dst"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_act_on_a_port() {
        for (table, rule, ports) in [
            (
                "filter",
                "-A INPUT -p tcp -m multiport --dports 80,443 -j f2b",
                Some("80,443"),
            ),
            (
                "filter",
                "-A INPUT -p tcp -m tcp --dport 80 -j REJECT",
                Some("80"),
            ),
            (
                "filter",
                "-A INPUT -p tcp -m tcp --dport 79:81 -g f2b",
                Some("79-81"),
            ),
            (
                "filter",
                "-A web -p tcp -m tcp --dport 80 -j DROP",
                Some("80"),
            ),
            (
                "filter",
                "-A INPUT -p tcp -m conntrack --ctorigdstport 80 -j DROP",
                Some("80"),
            ),
            (
                "filter",
                "-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT",
                None,
            ),
            ("filter", "-A INPUT -p udp -m udp --dport 443 -j DROP", None),
            ("filter", "-A INPUT -s 10.0.0.9/32 -j DROP", None),
            (
                "filter",
                "-A OUTPUT -p tcp -m tcp --dport 80 -m owner --uid-owner 33 -j REJECT",
                Some("80"),
            ),
            (
                "mangle",
                "-A OUTPUT -p tcp -m tcp --dport 80 -m owner --uid-owner 33 -j DROP",
                None,
            ),
            (
                "nat",
                "-A PREROUTING -s 10.0.0.9/32 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 81",
                Some("80"),
            ),
            (
                "nat",
                "-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 81",
                None,
            ),
            (
                "nat",
                "-A OUTPUT -s 10.0.0.9/32 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 81",
                None,
            ),
            (
                "filter",
                "-A FORWARD -p tcp -m tcp --dport 80 -j DROP",
                None,
            ),
            ("filter", "-A user -p tcp -m tcp --dport 80 -j DROP", None),
            (
                "raw",
                "-A PREROUTING -p tcp -m tcp --dport 80 -j CT --notrack",
                Some("80"),
            ),
            (
                "raw",
                "-A PREROUTING -p tcp -j CT --notrack",
                Some("0-65535"),
            ),
            ("raw", "-A PREROUTING -i lo -j CT --notrack", None),
            (
                "filter",
                "-A INPUT -p tcp -m tcp ! --dport 8080 -j DROP",
                Some("0-8079,8081-65535"),
            ),
            (
                "filter",
                "-A INPUT -p tcp -m multiport --ports 80,443 -j f2b",
                Some("80,443"),
            ),
            (
                "filter",
                "-A INPUT -m set --match-set banned src,dst -j DROP",
                Some("?"),
            ),
            (
                "filter",
                "-A INPUT -m set --match-set banned src -j DROP",
                None,
            ),
            ("filter", "-A INPUT -m u32 --u32 0=1 -j DROP", Some("?")),
            (
                "filter",
                "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
                Some("0-65535"),
            ),
            (
                "filter",
                "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                None,
            ),
            (
                "raw",
                "-A PREROUTING -p tcp -m tcp --sport 80 -j CT --notrack",
                None,
            ),
            (
                "raw",
                "-A PREROUTING -p tcp -m tcp --dport 80 -j CT --helper ftp",
                None,
            ),
        ] {
            let saved = format!(
                "*{table}\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                 :f2b - [0:0]\n:web - [0:0]\n:user - [0:0]\n[0:0] -A INPUT -j web\n\
                 [0:0] -A FORWARD -j user\n[0:0] {rule}\nCOMMIT\n"
            );
            let found = read(Family::V4, table, &saved);
            let ports_of = |rule: &PortRule| match &rule.ports {
                Matched::These(ports) => ports.to_string(),
                Matched::Unread => "?".to_owned(),
            };
            let found: Vec<String> = found.iter().map(ports_of).collect();
            assert_eq!(
                found.first().map(String::as_str),
                ports,
                "{rule}: {found:?}"
            );
        }
    }
}

//! The findings as a page for people. Pure.

use super::answer::answer;
use super::findings::Findings;
use super::host::{Host, VariantSummary};
use crate::commands::restart::Stands;

use super::endpoint::{Endpoint, ListeningProcess};
use crate::kernel::support::Support;
use crate::words::count::counted;

/// The longest line, unless a single word is longer.
const WIDTH: usize = 100;
/// Where the second column of "this host" begins.
const SECOND: usize = 18;
/// How many pids of a program are shown.
const PIDS: usize = 4;

pub(crate) fn page(findings: &Findings) -> String {
    let mut page = wrapped("", &answer(findings), 2) + "\n";
    page += &findings.name.as_ref().map(named).unwrap_or_default();
    page += "this host\n";
    for (label, text) in host_rows(findings) {
        page += &wrapped(
            &format!("  {label:<width$}", width = SECOND - 2),
            &text,
            SECOND,
        );
    }
    page += "\nthe service\n";
    page += &listeners(findings);
    page += "\nwhat follows\n";
    for advice in &findings.advice {
        match &advice.command {
            None => page += &wrapped("  - ", &advice.text, 4),
            // On a line of its own, not wrapped, so that people can copy it.
            Some(command) => {
                page += &wrapped("  - ", &format!("{}:", advice.text), 4);
                page += &format!("      {command}\n");
            }
        }
    }
    page
}

/// The calls are not wrapped, so that people can copy them.
fn named(stands: &Stands) -> String {
    let mut page = String::from("the name\n");
    for line in [&stands.what].into_iter().chain(&stands.remarks) {
        page += &wrapped("  - ", line, 4);
    }
    let calls = [
        ("restart", Some(&stands.restart)),
        ("reload", stands.reload.as_ref()),
        ("run", stands.run.as_ref()),
    ];
    for (word, call) in calls {
        page += &call.map_or_else(String::new, |call| {
            format!("  - {word} is:\n      {call}\n")
        });
    }
    page + "\n"
}

fn host_rows(findings: &Findings) -> Vec<(&'static str, String)> {
    let host = &findings.host;
    let mut rows = vec![
        ("kernel", host.kernel.clone()),
        ("privileges", privileges(host)),
        ("nf_tables", yes_or(&host.nf_tables, "")),
        (
            "timed sets",
            yes_or(
                &host.timed_sets,
                ": the kernel opens the gate at --max-closed",
            ),
        ),
        (
            "owner tables",
            yes_or(
                &host.owner_tables,
                ": the kernel removes the gate if syngate dies",
            ),
        ),
        (
            "prerouting",
            yes_or(&host.prerouting, ": --hook prerouting, for published ports"),
        ),
        (
            "nft dup",
            yes_or(&host.nft_dup, ": --syn divert, for a pair of hosts"),
        ),
        (
            "nft reject",
            yes_or(&host.nft_reject, ": --leave, behind a load balancer"),
        ),
        ("NFQUEUE", nfqueue(findings)),
        ("waiting rooms", rooms(host)),
        ("--syn auto", auto(findings)),
        ("iptables", iptables(host)),
        ("xt_recent", yes_or(&host.xt_recent, "")),
        ("backend", backend(findings)),
        ("sock_diag", yes_or(&host.sock_diag, "")),
        ("IPVS", ipvs(host)),
        ("conntrack", conntrack(host)),
    ];
    rows.extend(
        host.published_unseen
            .as_ref()
            .map(|why| ("published ports", format!("not all known: {why}"))),
    );
    rows.push(("settings", settings(host)));
    rows.push(("counts so far", counts(host)));
    rows
}

/// `meaning` follows a yes only.
fn yes_or(answer: &Support, meaning: &str) -> String {
    match answer {
        Support::Yes => format!("yes{meaning}"),
        Support::No(why) => format!("no: {why}"),
        Support::Unknown(why) => format!("not known: {why}"),
    }
}

fn privileges(host: &Host) -> String {
    let of = &host.privileges;
    let who = match (of.uid, of.host_root) {
        (0, true) => "root".to_owned(),
        (0, false) => "root of a user namespace".to_owned(),
        (uid, _) => format!("user {uid}"),
    };
    let admin = if of.net_admin {
        "CAP_NET_ADMIN"
    } else {
        "no CAP_NET_ADMIN"
    };
    let processes = if of.sys_ptrace {
        ""
    } else {
        "; other users' processes can't be looked into"
    };
    format!("{who}, {admin}{processes}")
}

/// Whether SYNs can be held, and by which backend.
fn nfqueue(findings: &Findings) -> String {
    let hold = &findings.hold;
    match (hold.backend, hold.because.as_deref()) {
        (Some(backend), None) => format!("yes: --syn hold, by {backend}"),
        (Some(backend), Some(why)) => format!("yes: --syn hold, by {backend} ({why})"),
        (None, _) if !findings.host.nfqueue.is_yes() => yes_or(&findings.host.nfqueue, ""),
        (None, why) => format!("not for --syn hold: {}", why.unwrap_or_default()),
    }
}

/// Whether connections can be parked, and what is missing for some services.
fn rooms(host: &Host) -> String {
    if let Some(why) = host.rooms.refusal() {
        return format!("not for --syn park and --syn handover: {why}");
    }
    let mut text = "yes: --syn park and --syn handover".to_owned();
    if let Some(why) = host.rooms.lends.why() {
        text += &format!("; only for services that set SO_REUSEPORT ({why})");
    }
    if let Some(why) = host.rooms.own_group.why() {
        text += &format!("; COMMAND's own connections wait, too ({why})");
    }
    text
}

fn auto(findings: &Findings) -> String {
    let auto = &findings.auto;
    match auto.lacking[..] {
        [] => auto.action.to_owned(),
        _ => format!("{} ({})", auto.action, auto.lacking.join("; ")),
    }
}

fn iptables(host: &Host) -> String {
    let all: Vec<String> = host.iptables.iter().map(variant).collect();
    if all.is_empty() {
        return "not installed".to_owned();
    }
    all.join("; ")
}

fn variant(installed: &VariantSummary) -> String {
    let holds = match (&installed.rules, &installed.unseen) {
        (Some(0), _) => "no rules".to_owned(),
        (Some(rules), _) => counted(*rules, "rule"),
        (None, why) => format!("rules not known: {}", why.as_deref().unwrap_or_default()),
    };
    let default = if installed.default {
        " (plain iptables)"
    } else {
        ""
    };
    let ipv6 = if installed.ipv6 { "" } else { ", IPv4 only" };
    format!("{}{default}: {holds}{ipv6}", installed.variant)
}

fn backend(findings: &Findings) -> String {
    match (&findings.backend, &findings.refusal) {
        (Some(backend), _) => match &backend.because {
            Some(why) => format!("{}: {why}", backend.name),
            None => backend.name.to_owned(),
        },
        (None, why) => format!("none: {}", why.as_deref().unwrap_or_default()),
    }
}

fn ipvs(host: &Host) -> String {
    match host.ipvs.as_deref() {
        None => "not loaded".to_owned(),
        Some([]) => "yes, without virtual TCP services".to_owned(),
        Some(services) => format!("yes: {}", services.join(", ")),
    }
}

fn conntrack(host: &Host) -> String {
    host.conntrack.map_or_else(
        || "not loaded".to_owned(),
        |tracked| format!("yes, {} of {} entries", tracked.count, tracked.max),
    )
}

fn settings(host: &Host) -> String {
    let shown = host.sysctls.iter().map(|(name, value)| {
        let name = name.rsplit('.').next().unwrap_or(name);
        match value {
            Some(value) => format!("{name} {value}"),
            None => format!("{name} not in this kernel"),
        }
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn counts(host: &Host) -> String {
    let known = host
        .counts
        .iter()
        .filter_map(|(name, count)| Some(format!("{name} {}", (*count)?)));
    let known: Vec<String> = known.collect();
    if known.is_empty() {
        return "not known".to_owned();
    }
    known.join(", ")
}

fn listeners(findings: &Findings) -> String {
    let Some(endpoints) = &findings.listeners else {
        return "  not known: the kernel does not list its sockets\n".to_owned();
    };
    if endpoints.is_empty() {
        return "  nobody listens\n".to_owned();
    }
    let shown: Vec<String> = endpoints.iter().map(Endpoint::shown).collect();
    let longest = shown
        .iter()
        .map(String::len)
        .max()
        .unwrap_or(0)
        .max("address".len());
    let head = format!("  {:<longest$}  sockets  backlog  waiting  ", "address");
    let mut table = format!("{head}held by\n");
    for (endpoint, address) in endpoints.iter().zip(shown) {
        let backlog = capped(endpoint.backlog, findings.host.sysctl("net.core.somaxconn"));
        let numbers = format!(
            "{:>7}  {backlog:>7}  {:>7}",
            endpoint.sockets, endpoint.accept_queue
        );
        let start = format!("  {address:<longest$}  {numbers}  ");
        table += &wrapped(&start, &held_by(&endpoint.processes), head.len());
    }
    if endpoints
        .iter()
        .any(|p| Some(u64::from(p.backlog)) == findings.host.sysctl("net.core.somaxconn"))
    {
        table += "  * all that net.core.somaxconn allows: the service may have asked for more\n";
    }
    table
}

fn capped(backlog: u32, somaxconn: Option<u64>) -> String {
    let star = if Some(u64::from(backlog)) == somaxconn {
        "*"
    } else {
        ""
    };
    format!("{backlog}{star}")
}

/// `nginx (pids 12, 13, 14, 15, … 9 in all)`.
fn held_by(processes: &[ListeningProcess]) -> String {
    let mut names: Vec<&str> = processes.iter().map(|p| p.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let of = |name: &&str| {
        let pids = processes.iter().filter(|p| p.name == *name);
        let pids: Vec<String> = pids.map(|p| p.pid.to_string()).collect();
        let s = if pids.len() == 1 { "" } else { "s" };
        if pids.len() > PIDS {
            format!(
                "{name} (pids {}, … {} in all)",
                pids[..PIDS].join(", "),
                pids.len()
            )
        } else {
            format!("{name} (pid{s} {})", pids.join(", "))
        }
    };
    match names.iter().map(of).collect::<Vec<_>>().join(" and ") {
        none if none.is_empty() => "can't be seen".to_owned(),
        some => some,
    }
}

/// `start` and `text` in lines; the second and later ones begin at column `indent`.
fn wrapped(start: &str, text: &str, indent: usize) -> String {
    let (mut lines, mut line) = (String::new(), start.to_owned());
    let mut first = true;
    for word in text.split_whitespace() {
        if !first && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += &line;
            lines.push('\n');
            line = " ".repeat(indent);
            first = true;
        }
        if !first {
            line.push(' ');
        }
        line += &clean(word);
        first = false;
    }
    lines + line.trim_end() + "\n"
}

/// The name of a process may contain characters that control a terminal.
fn clean(word: &str) -> String {
    word.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped() {
        let text = "word ".repeat(50);
        let lines = wrapped("  label  ", &text, 9);
        for line in lines.lines() {
            assert!(line.len() <= WIDTH, "{line}");
        }
        assert_eq!(lines.split_whitespace().count(), 51);
        assert!(lines.lines().nth(1).unwrap().starts_with("         word"));
        assert_eq!(wrapped("  - ", "", 4), "  -\n");
        assert_eq!(wrapped("  - ", "a\u{1b}[2J", 4), "  - a?[2J\n");
    }

    #[test]
    fn many_pids_are_counted() {
        let process = |pid| ListeningProcess {
            name: "web".to_owned(),
            pid,
            control: None,
            has_master: false,
        };
        let some: Vec<ListeningProcess> = (1..=6).map(process).collect();
        assert_eq!(held_by(&some), "web (pids 1, 2, 3, 4, … 6 in all)");
        assert_eq!(held_by(&some[..1]), "web (pid 1)");
        assert_eq!(held_by(&[]), "can't be seen");
    }
}

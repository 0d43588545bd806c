//! Finds gates in the output of iptables-save(8): syngate's own chains, and the jumps to them,
//! among the rules of other programs. Pure.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::rule::{ports_in, words};
use crate::gate::rules::PREFIX;
use crate::gate::who::Who;
use crate::words::ports::PortSet;
use crate::words::run_id::ID_LENGTH;
use crate::words::scope::{Networks, Scope, Where};

/// When the kernel opens the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// So long after the arming, by a clock that nobody can set.
    For(Duration),
    /// When so much time has passed since 1970, by the wall clock.
    Date(Duration),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) table: String,
    pub(super) chains: Vec<String>,
    /// The rules in other chains that jump to the run's chains, as they were saved: `-A INPUT …`.
    pub(super) jumps: Vec<String>,
    /// The rules in the run's own chains.
    pub(super) rules: Vec<String>,
    pub(super) ports: PortSet,
    pub(super) scope: Scope,
    /// The rules refuse these sources.
    pub(super) leave_from: Networks,
    pub(super) syns_stopped: u64,
    /// The new connections that were counted and let through.
    pub(super) arrived: u64,
    pub(super) who: Option<Who>,
    pub(super) until: Option<Until>,
}

/// The part of each run, by run id.
pub(super) fn parts(saved: &str) -> BTreeMap<String, Part> {
    let mut parts: BTreeMap<String, Part> = BTreeMap::new();
    // Joined at the end, because there may be thousands of rules.
    let mut ports: BTreeMap<String, Vec<RangeInclusive<u16>>> = BTreeMap::new();
    let mut table = "";
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(declared) = line.strip_prefix(':') {
            let chain = declared.split(' ').next().unwrap_or_default();
            if let Some(id) = id_of(chain) {
                let part = parts.entry(id.to_owned()).or_default();
                table.clone_into(&mut part.table);
                part.chains.push(chain.to_owned());
            }
        } else if line.contains(PREFIX) {
            rule(line, &mut parts, &mut ports);
        }
    }
    for (id, ranges) in ports {
        if let Some(part) = parts.get_mut(&id) {
            part.ports = PortSet::from_ranges(ranges);
        }
    }
    parts
}

pub(in crate::gate) fn id_of(chain: &str) -> Option<&str> {
    let id = chain.strip_prefix(PREFIX)?;
    let id = id
        .strip_suffix("_s")
        .or(id.strip_suffix("_c"))
        .unwrap_or(id);
    (id.len() == ID_LENGTH && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

/// A rule with its counters: `[packets:bytes] -A CHAIN …`.
fn rule(
    line: &str,
    parts: &mut BTreeMap<String, Part>,
    ports: &mut BTreeMap<String, Vec<RangeInclusive<u16>>>,
) {
    let Some((counters, rule)) = line.split_once(' ') else {
        return;
    };
    let words = words(rule);
    let value = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1).map(String::as_str)
    };
    let (Some(chain), target) = (value("-A"), value("-j")) else {
        return;
    };
    let Some(id) = id_of(chain).or(target.and_then(id_of)) else {
        return;
    };
    let part = parts.entry(id.to_owned()).or_default();
    if id_of(chain).is_none() {
        jump(rule, &value, part);
        return;
    }
    part.rules.push(rule.to_owned());
    let counts = |name: &str| name.ends_with("_c");
    if chain.ends_with("_s") || counts(chain) {
        let packets = counters.trim_start_matches('[').split(':').next();
        let packets: u64 = packets.and_then(|n| n.parse().ok()).unwrap_or(0);
        let all = match counts(chain) {
            true => &mut part.arrived,
            false => &mut part.syns_stopped,
        };
        *all = all.saturating_add(packets);
    } else if target == Some("RETURN") {
        part.scope.allow_local |= value("-i") == Some("lo");
        add(&mut part.scope.allow_from, value("-s"));
    } else {
        add(&mut part.scope.to, value("-d"));
        add(&mut part.leave_from, value("-s"));
        let known = &mut part.scope.interfaces;
        if let Some(interface) = value("-i").filter(|i| !known.iter().any(|k| k == i)) {
            known.push(interface.to_owned());
        }
        // What is only counted is not shut.
        let shut = !target.is_some_and(counts);
        let listed = value("--dports").filter(|_| shut).and_then(ports_in);
        let ranges = listed.iter().flat_map(PortSet::ranges).cloned();
        ports.entry(id.to_owned()).or_default().extend(ranges);
    }
}

fn jump<'a>(rule: &str, value: &impl Fn(&str) -> Option<&'a str>, part: &mut Part) {
    part.jumps.push(rule.to_owned());
    part.who = value("--comment").and_then(Who::parse);
    // In the table nat the jump is one of two, and the user has not chosen its hook.
    if part.table == "raw" {
        part.scope.hook = Where::Prerouting;
    }
    let seconds = value("--seconds").and_then(|seconds| seconds.parse().ok());
    part.until = seconds.map(|seconds| Until::For(Duration::from_secs(seconds)));
    if let Some(stop) = value("--datestop") {
        let stop = humantime::parse_rfc3339(&format!("{stop}Z"));
        let stop = stop
            .ok()
            .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        // The second itself is included.
        part.until = stop.map(|at| Until::Date(at + Duration::from_secs(1)));
    }
}

fn add(networks: &mut Networks, network: Option<&str>) {
    if let Some(Ok(network)) = network.map(str::parse) {
        *networks = Networks::new(networks.all().into_iter().chain([network]));
    }
}

impl Part {
    pub(super) fn jumps_deleted(&self) -> impl Iterator<Item = String> {
        self.jumps.iter().map(|rule| rule.replacen("-A ", "-D ", 1))
    }

    pub(super) fn delete(&self) -> String {
        let flushes = self.chains.iter().map(|chain| format!("-F {chain}"));
        let deletes = self.chains.iter().map(|chain| format!("-X {chain}"));
        let lines: Vec<String> = self.jumps_deleted().chain(flushes).chain(deletes).collect();
        format!("*{}\n{}\nCOMMIT\n", self.table, lines.join("\n"))
    }
}

/// Checks for any text that syngate deletes only chains with a name of its own.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    for (id, part) in parts(text) {
        assert!(part.chains.iter().all(|chain| id_of(chain) == Some(&id)));
        for rule in &part.jumps {
            // A name may be between quotes.
            assert!(words(rule).iter().any(|word| id_of(word) == Some(&id)));
        }
        let script = part.delete();
        assert!(script.starts_with('*') && script.ends_with("COMMIT\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As iptables-save 1.8.9 printed it.
    const SAVED: &str = "\
# Generated by iptables-save v1.8.9 on Sat Nov 21 06:34:49 2026
*filter
:INPUT ACCEPT [24:1299]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [28:1539]
:syngate_0123456789abcdef - [0:0]
:syngate_0123456789abcdef_s - [0:0]
:syngate_not_ours - [0:0]
[4:240] -A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m recent --rcheck --seconds 2 --name syngate_0123456789abcdef_4 --mask 0.0.0.0 --rsource -m comment --comment \"syngate pid=1 since=2 syn=drop command=x \\'y\\' -z\" -j syngate_0123456789abcdef
[0:0] -A INPUT -j syngate_not_ours
[0:0] -A syngate_0123456789abcdef -i lo -j RETURN
[0:0] -A syngate_0123456789abcdef -s 10.0.0.0/8 -j RETURN
[4:240] -A syngate_0123456789abcdef -d 10.0.0.1/32 -i eth9 -p tcp -m multiport --dports 80,443,8000:8010 -j syngate_0123456789abcdef_s
[3:180] -A syngate_0123456789abcdef_s -j DROP
COMMIT
";

    #[test]
    fn reads_what_a_run_has_made() {
        let parts = parts(SAVED);
        assert_eq!(parts.len(), 1, "what only looks like ours is not");
        let part = &parts["0123456789abcdef"];
        assert_eq!(part.table, "filter");
        assert_eq!(part.ports.to_string(), "80,443,8000-8010");
        assert_eq!(part.syns_stopped, 3);
        assert_eq!(part.until, Some(Until::For(Duration::from_secs(2))));
        assert_eq!(
            part.scope.to_string(),
            "--to 10.0.0.1 --allow-from 10.0.0.0/8 --allow-local --interface eth9"
        );
        let who = part.who.as_ref().unwrap();
        assert_eq!((who.pid, who.command.as_str()), (1, "x 'y' -z"));
    }

    /// As `--leave` makes them: what is counted is not shut.
    #[test]
    fn reads_what_refuses_health_checks() {
        let chain = "syngate_0123456789abcdef";
        let saved = format!(
            "*filter\n:{chain} - [0:0]\n:{chain}_s - [0:0]\n:{chain}_c - [0:0]\n\
             [0:0] -A {chain} -s 10.0.0.0/24 -p tcp -m multiport --dports 8081 -j {chain}_s\n\
             [0:0] -A {chain} -s 10.9.0.0/24 -j RETURN\n\
             [7:420] -A {chain} -d 10.0.0.1/32 -p tcp -m multiport --dports 80 -j {chain}_c\n\
             [2:120] -A {chain}_s -p tcp -j REJECT --reject-with tcp-reset\n\
             [7:420] -A {chain}_c -j RETURN\nCOMMIT\n"
        );
        let part = &parts(&saved)["0123456789abcdef"];
        assert_eq!(
            (part.ports.to_string().as_str(), part.chains.len()),
            ("8081", 3)
        );
        assert_eq!((part.syns_stopped, part.arrived), (2, 7));
        assert_eq!(part.leave_from.to_string(), "10.0.0.0/24");
        assert_eq!(
            part.scope.to_string(),
            "--to 10.0.0.1 --allow-from 10.9.0.0/24"
        );
    }

    #[test]
    fn what_only_looks_like_a_chain_of_a_run_is_nobodys() {
        for name in [
            "syngate_0123",
            "syngate_0123456789abcdez",
            "web_0123456789abcdef",
            "syngate_0123456789abcdef0",
        ] {
            assert_eq!(id_of(name), None, "{name}");
        }
        for end in ["", "_s", "_c"] {
            let name = &format!("syngate_0123456789abcdef{end}");
            assert_eq!(id_of(name), Some("0123456789abcdef"), "{name}");
        }
    }

    /// xt_time keeps the gate closed through the second that the rule names.
    #[test]
    fn a_date_counts_to_its_end() {
        let by_date = SAVED.replace(
            "-m recent --rcheck --seconds 2 --name syngate_0123456789abcdef_4 --mask 0.0.0.0 --rsource",
            "-m time --datestop 1970-01-02T00:00:09",
        );
        let part = &parts(&by_date)["0123456789abcdef"];
        let end = Duration::from_secs(24 * 60 * 60 + 10);
        assert_eq!(part.until, Some(Until::Date(end)));
        let never = SAVED.replace("--seconds 2", "");
        assert_eq!(parts(&never)["0123456789abcdef"].until, None);
    }

    #[test]
    fn what_is_let_through_may_be_named_twice() {
        let lo = "[0:0] -A syngate_0123456789abcdef -i lo -j RETURN\n";
        let twice = SAVED.replace(lo, &format!("{lo}{lo}"));
        assert!(parts(&twice)["0123456789abcdef"].scope.allow_local);
        let none = SAVED.replace(lo, "");
        assert!(!parts(&none)["0123456789abcdef"].scope.allow_local);
        let raw = SAVED.replace("*filter", "*raw");
        let scope = |text: &str| parts(text)["0123456789abcdef"].scope.clone();
        assert_eq!(scope(&raw).hook, Where::Prerouting);
        assert_eq!(scope(SAVED).hook, Where::Input);
    }

    /// iptables-restore --counters takes any counters from any program.
    #[test]
    fn counters_may_be_anything() {
        let all = u64::MAX.to_string();
        let twice = SAVED.replace("[3:180]", &format!("[{all}:0]"));
        let twice = twice.replace(
            "-j DROP",
            "-j DROP\n[1:0] -A syngate_0123456789abcdef_s -j DROP",
        );
        assert_eq!(parts(&twice)["0123456789abcdef"].syns_stopped, u64::MAX);
    }

    #[test]
    fn deletes_what_was_saved() {
        let script = parts(SAVED)["0123456789abcdef"].delete();
        let lines: Vec<&str> = script.lines().collect();
        assert_eq!(lines[0], "*filter");
        assert!(lines[1].starts_with("-D INPUT -p tcp ") && lines[1].ends_with("abcdef"));
        assert_eq!(
            lines[2..],
            [
                "-F syngate_0123456789abcdef",
                "-F syngate_0123456789abcdef_s",
                "-X syngate_0123456789abcdef",
                "-X syngate_0123456789abcdef_s",
                "COMMIT"
            ]
        );
    }

    /// As iptables-save 1.8.9 printed it.
    const REDIRECTED: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:syngate_0123456789abcdef - [0:0]
:syngate_0123456789abcdef_s - [0:0]
[2:120] -A PREROUTING -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL -m comment --comment \"syngate pid=1 since=2 syn=redirect command=x\" -j syngate_0123456789abcdef
[1:60] -A OUTPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL -m comment --comment \"syngate pid=1 since=2 syn=redirect command=x\" -j syngate_0123456789abcdef
[0:0] -A syngate_0123456789abcdef -i lo -j RETURN
[0:0] -A syngate_0123456789abcdef -o lo -j RETURN
[2:120] -A syngate_0123456789abcdef -i eth9 -p tcp -m multiport --dports 80 -j syngate_0123456789abcdef_s
[0:0] -A syngate_0123456789abcdef -o eth9 -p tcp -m multiport --dports 80 -j syngate_0123456789abcdef_s
[2:120] -A syngate_0123456789abcdef_s -p tcp -j DNAT --to-destination :81
COMMIT
";

    #[test]
    fn reads_and_deletes_both_ways_of_a_redirect() {
        let part = &parts(REDIRECTED)["0123456789abcdef"];
        assert_eq!(part.ports.to_string(), "80");
        assert_eq!((part.jumps.len(), part.syns_stopped), (2, 2));
        assert_eq!(part.scope.to_string(), "--allow-local --interface eth9");
        let script = part.delete();
        assert!(
            script.starts_with("*nat\n-D PREROUTING -p tcp "),
            "{script}"
        );
        assert!(script.contains("\n-D OUTPUT -p tcp "), "{script}");
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics(text in "\\PC*", at in 0..SAVED.len(), cut in 0usize..40) {
            let end = (at + cut).min(SAVED.len());
            if SAVED.is_char_boundary(at) && SAVED.is_char_boundary(end) {
                withstand(&format!("{}{}{}", &SAVED[..at], text, &SAVED[end..]));
            }
        }
    }
}

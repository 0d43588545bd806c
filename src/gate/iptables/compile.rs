//! Compiles [`Rules`] to the input of iptables-restore(8). Pure.
//!
//! A run has a chain of its own. A built-in chain jumps to it with new SYNs, until the kernel's
//! deadline. The run's chain lets through what the scope excludes, and sends gated SYNs to a second
//! chain. That has one rule, which counts a SYN and drops it or steers it elsewhere. To open and
//! close single ports, syngate replaces the rules of the first chain, so the second keeps its
//! count.

use std::fmt::Write as _;
use std::time::Duration;

use super::save::Part;
use crate::gate::rules::{Leaving, PASS_MARK, PREFIX, Rules};
use crate::words::family::Family;
use crate::words::ports::PortSet;
use crate::words::scope::Where;
use crate::words::steer::{QueueNum, Steer};

/// How many ports multiport takes; a range counts as two (xt_multiport.h, XT_MULTI_PORTS).
const MULTIPORT_MAX: usize = 15;
/// A comment has room for 256 bytes with its NUL (xt_comment.h, XT_MAX_COMMENT_LEN).
const COMMENT_MAX: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Clock {
    /// The kernel opens the gate this many seconds after syngate has armed it through a file of
    /// xt_recent. The kernel counts jiffies, which nobody can set.
    Recent(u64),
    /// The kernel opens the gate at this time, in UTC, by the wall clock (xt_time).
    Until(String),
}

/// The input of iptables-restore(8) for one run and one IP version.
pub(super) struct Script<'a> {
    pub(super) id: &'a str,
    pub(super) family: Family,
    pub(super) rules: &'a Rules,
    pub(super) place: Place,
}

/// Where the jumps to the run's chain stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) table: &'static str,
    /// The built-in chains that jump.
    pub(super) built_in: &'static [&'static str],
    pub(super) end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The first rule of its chain: no ACCEPT before it lets a SYN pass.
    First,
    /// The last rule of its chain, for SYNs that wait in a queue: the verdict ACCEPT, and the bypass
    /// of a queue that nobody reads, end the chain. So each rule of the host's comes before them.
    Last,
}

fn chain(id: &str) -> String {
    format!("{PREFIX}{id}")
}

/// The second chain, which counts and steers.
fn stop_chain(id: &str) -> String {
    format!("{PREFIX}{id}_s")
}

/// The chain that counts new connections which are let through.
fn count_chain(id: &str) -> String {
    format!("{PREFIX}{id}_c")
}

pub(super) fn recent_name(id: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{PREFIX}{id}_4"),
        Family::V6 => format!("{PREFIX}{id}_6"),
    }
}

/// The places where the rules can stand, the best one first.
pub(super) fn places(rules: &Rules) -> Vec<Place> {
    let place = |table, built_in, end| Place {
        table,
        built_in,
        end,
    };
    match (rules.steer, rules.scope.hook) {
        // Packets that come in, and packets that this host sends to itself.
        (Steer::Redirect(_), _) => vec![place("nat", &["PREROUTING", "OUTPUT"], End::First)],
        // x_tables refuses packets in this table alone (reject_tg_reg).
        (Steer::Refuse, _) => vec![place("filter", &["INPUT"], End::First)],
        // A queue in the table filter would let SYNs pass the host's own rules there. The table
        // security comes after filter: a SYN that the host refuses is never held. Some kernels lack
        // it. The table mangle comes before filter: a released SYN goes on through filter.
        (Steer::Queue(_), Where::Input) => ["security", "mangle"]
            .map(|table| place(table, &["INPUT"], End::Last))
            .into(),
        (_, Where::Input) => vec![place("filter", &["INPUT"], End::First)],
        // Before connection tracking and NAT.
        (Steer::Queue(_), Where::Prerouting) => vec![place("raw", &["PREROUTING"], End::Last)],
        // NAT sends what this host's own clients ask of it elsewhere as it leaves.
        (_, Where::Prerouting) => vec![place("raw", &["PREROUTING", "OUTPUT"], End::First)],
    }
}

impl Place {
    /// Where SYNs are dropped that can't be held there.
    pub(super) fn first(self) -> Place {
        Place {
            end: End::First,
            ..self
        }
    }

    /// The queue that SYNs go to from here.
    fn queue(self, steer: Steer) -> Option<QueueNum> {
        steer.queue().filter(|_| self.end == End::Last)
    }
}

impl Script<'_> {
    /// Makes both chains and the jumps to the first one. The same change replaces the run's old
    /// rules, because NAT of redirected connections may end with its last rule.
    pub(super) fn install(&self, comment: &str, clock: &Clock, standing: &Part) -> String {
        let Place {
            table,
            built_in,
            end,
        } = self.place;
        let (chain, stop) = (chain(self.id), stop_chain(self.id));
        let verdict = match (self.rules.steer, self.place.queue(self.rules.steer)) {
            (_, Some(number)) => format!("-j NFQUEUE --queue-num {number} --queue-bypass"),
            // Without an address, so that the packet keeps its own.
            (Steer::Redirect(port), _) => format!("-p tcp -j DNAT --to-destination :{port}"),
            // The backend refuses to divert, so a divert never comes here.
            (Steer::Refuse, _) => "-p tcp -j REJECT --reject-with tcp-reset".to_owned(),
            (Steer::Drop | Steer::Queue(_) | Steer::Divert(_), None) => "-j DROP".to_owned(),
        };
        let insert = |built_in: &str| match end {
            End::First => format!("-I {built_in} 1"),
            End::Last => format!("-A {built_in}"),
        };
        // To declare a chain empties it (iptables-restore(8), --noflush).
        let mut script = format!("*{table}\n:{chain} - [0:0]\n:{stop} - [0:0]\n");
        if self.rules.leaving.is_some() {
            let count = count_chain(self.id);
            let _ = writeln!(script, ":{count} - [0:0]\n-A {count} -j RETURN");
        }
        for jump in standing.jumps_deleted() {
            let _ = writeln!(script, "{jump}");
        }
        let _ = writeln!(script, "-A {stop} {verdict}");
        script.push_str(&self.chain_rules(&self.rules.ports));
        for built_in in built_in {
            let _ = writeln!(
                script,
                "{insert} -p tcp{whole} -m tcp --tcp-flags FIN,SYN,RST,ACK SYN{local}{clock} -m \
                 comment --comment \"{comment}\" -j {chain}",
                insert = insert(built_in),
                // The match without options drops a fragment that lacks a part of TCP's header
                // (tcp_mt(), RFC 1858). With them, iptables-nft has rules of nf_tables' own, which
                // let it pass. Elsewhere the kernel has put packets together before.
                whole = match table {
                    "raw" => " -m tcp",
                    _ => "",
                },
                local = match *built_in {
                    "INPUT" => "",
                    _ => " -m addrtype --dst-type LOCAL",
                },
                clock = self.clock(clock),
                comment = fit_comment(comment),
            );
        }
        script.push_str("COMMIT\n");
        script
    }

    /// Gates exactly `ports`.
    pub(super) fn replace_ports(&self, ports: &PortSet) -> String {
        let table = self.place.table;
        let rules = self.chain_rules(ports);
        format!("*{table}\n:{} - [0:0]\n{rules}COMMIT\n", chain(self.id))
    }

    fn clock(&self, clock: &Clock) -> String {
        match clock {
            // With this mask all sources are equal, so the list has one entry while the gate is
            // armed.
            Clock::Recent(seconds) => format!(
                " -m recent --name {} --mask {} --rsource --rcheck --seconds {seconds}",
                recent_name(self.id, self.family),
                match self.family {
                    Family::V4 => "0.0.0.0",
                    Family::V6 => "::",
                }
            ),
            Clock::Until(time) => format!(" -m time --datestop {time}"),
        }
    }

    fn chain_rules(&self, ports: &PortSet) -> String {
        match &self.rules.leaving {
            None => self.gate_rules(ports, &stop_chain(self.id)),
            // Refused clients are not counted.
            Some(leaving) => {
                let counted = match self.rules.scope.gates(self.family) {
                    true => self.gate_rules(&leaving.counted, &count_chain(self.id)),
                    false => String::new(),
                };
                self.refusals(leaving, ports) + &counted
            }
        }
    }

    fn refusals(&self, leaving: &Leaving, ports: &PortSet) -> String {
        let (chain, stop) = (chain(self.id), stop_chain(self.id));
        let from = leaving.from.of(self.family);
        let from: Vec<String> = from.iter().map(|n| format!(" -s {n}")).collect();
        let (to, interfaces) = match leaving.narrowed {
            true => self.addressed(),
            false => Default::default(),
        };
        let mut rules = String::new();
        if !self.rules.stop(self.family) {
            return rules;
        }
        for from in or_nothing(&from) {
            for to in or_nothing(&to) {
                for interface in or_nothing(&interfaces) {
                    for ports in portions(ports) {
                        let _ = writeln!(
                            rules,
                            "-A {chain}{from}{to}{interface} -p tcp -m multiport --dports {ports} -j {stop}"
                        );
                    }
                }
            }
        }
        rules
    }

    /// The matches of the scope's addresses and of its interfaces.
    fn addressed(&self) -> (Vec<String>, Vec<String>) {
        let scope = &self.rules.scope;
        let to = scope.to.of(self.family);
        let to = to.iter().map(|n| format!(" -d {n}")).collect();
        let interfaces = scope.interfaces.iter();
        let interfaces = interfaces
            .flat_map(|name| self.ways().iter().map(move |way| format!(" {way} {name}")))
            .collect();
        (to, interfaces)
    }

    /// Sends SYNs to these ports in the scope to `stop`.
    fn gate_rules(&self, ports: &PortSet, stop: &str) -> String {
        let chain = chain(self.id);
        let scope = &self.rules.scope;
        let mut rules = String::new();
        if scope.allow_local {
            for way in self.ways() {
                let _ = writeln!(rules, "-A {chain} {way} lo -j RETURN");
            }
        }
        if self.rules.passes_marked {
            let _ = writeln!(rules, "-A {chain} -m mark --mark {PASS_MARK:#x} -j RETURN");
        }
        if self.rules.passes_proxied {
            for way in self.ways() {
                let _ = writeln!(
                    rules,
                    "-A {chain} {way} lo -m addrtype ! --src-type LOCAL -j RETURN"
                );
            }
        }
        for network in scope.allow_from.of(self.family) {
            let _ = writeln!(rules, "-A {chain} -s {network} -j RETURN");
        }
        let (to, interfaces) = self.addressed();
        for to in or_nothing(&to) {
            for interface in or_nothing(&interfaces) {
                for ports in portions(ports) {
                    let _ = writeln!(
                        rules,
                        "-A {chain}{to}{interface} -p tcp -m multiport --dports {ports} -j {stop}"
                    );
                }
            }
        }
        rules
    }

    /// The options that match an interface. An incoming packet has no output interface yet, and a
    /// packet from this host has no input interface.
    fn ways(&self) -> &'static [&'static str] {
        match self.place.built_in.contains(&"OUTPUT") {
            true => &["-i", "-o"],
            false => &["-i"],
        }
    }
}

/// The input of the programs of both IP versions, for `--dry-run`.
pub(crate) fn script(
    variant: crate::gate::kinds::Variant,
    rules: &Rules,
    id: &str,
    comment: &str,
    max_closed: Duration,
) -> String {
    let clock = Clock::Recent(max_closed.as_secs_f64().ceil() as u64);
    let suffix = variant.name().trim_start_matches("iptables");
    let mut text = String::new();
    for (family, program, any) in [
        (Family::V4, "iptables", "0.0.0.0"),
        (Family::V6, "ip6tables", "::"),
    ] {
        if rules.are_for(family) {
            let place = places(rules)[0];
            let script = Script {
                id,
                family,
                rules,
                place,
            };
            let script = script.install(comment, &clock, &Part::default());
            let _ = write!(
                text,
                "# {program}{suffix}-restore --noflush, then echo +{any} \
                 >/proc/net/xt_recent/{}\n{script}",
                recent_name(id, family)
            );
        }
    }
    text
}

/// The words, or a single empty one.
fn or_nothing(words: &[String]) -> Vec<&str> {
    match words {
        [] => vec![""],
        words => words.iter().map(String::as_str).collect(),
    }
}

/// Splits the ports into portions that multiport accepts.
fn portions(ports: &PortSet) -> Vec<String> {
    let mut portions: Vec<(usize, String)> = Vec::new();
    for range in ports.ranges() {
        let (text, weight) = match (range.start(), range.end()) {
            (one, other) if one == other => (one.to_string(), 1),
            (first, last) => (format!("{first}:{last}"), 2),
        };
        match portions.last_mut() {
            Some((used, portion)) if *used + weight <= MULTIPORT_MAX => {
                *used += weight;
                let _ = write!(portion, ",{text}");
            }
            _ => portions.push((weight, text)),
        }
    }
    portions.into_iter().map(|(_, portion)| portion).collect()
}

/// Makes a text fit for a comment. Between double quotes a backslash and a quote are special.
/// iptables-save escapes single quotes with a backslash, which some versions can't read back.
fn fit_comment(text: &str) -> String {
    let mut clean: String = text
        .chars()
        .map(|c| {
            if c.is_control() || "\"'\\`".contains(c) {
                '?'
            } else {
                c
            }
        })
        .collect();
    while clean.len() > COMMENT_MAX {
        clean.pop();
    }
    clean
}

/// The kernel's deadline for xt_time: UTC, in whole seconds. xt_time includes the second itself, so
/// the gate opens at most a second later.
pub(super) fn date_stop(since_1970: Duration) -> String {
    let whole = Duration::from_secs(since_1970.as_secs());
    let time = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + whole).to_string();
    time.trim_end_matches('Z').to_owned()
}

/// iptables-save(8) gives a comment back as it was written.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    let comment = fit_comment(text);
    let rule = format!("-A INPUT -m comment --comment \"{comment}\" -j ACCEPT");
    assert_eq!(super::rule::words(&rule)[5], comment);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::kinds::Variant;
    use crate::words::scope::{Networks, Scope, parse_networks};

    fn rules(ports: &str, scope: Scope) -> Rules {
        Rules {
            ports: PortSet::parse(ports, |_| None).unwrap(),
            scope,
            steer: Steer::Drop,
            passes_proxied: false,
            passes_marked: false,
            leaving: None,
        }
    }

    fn script(rules: &Rules, family: Family) -> Script<'_> {
        Script {
            id: "0123456789abcdef",
            family,
            rules,
            place: places(rules)[0],
        }
    }

    #[test]
    fn held_syns_have_met_each_rule_of_the_hosts() {
        let mut rules = rules("80", Scope::default());
        rules.steer = Steer::Queue(7);
        let queue = "-A syngate_0123456789abcdef_s -j NFQUEUE --queue-num 7 --queue-bypass\n";
        for (hook, first, jump) in [
            (Where::Input, "*security\n", "\n-A INPUT -p tcp "),
            (Where::Prerouting, "*raw\n", "\n-A PREROUTING -p tcp "),
        ] {
            rules.scope.hook = hook;
            let mut script = script(&rules, Family::V4);
            let install =
                |script: &Script| script.install("who", &Clock::Recent(30), &Part::default());
            let text = install(&script);
            assert!(text.starts_with(first) && text.contains(jump), "{text}");
            assert!(text.contains(queue), "{text}");
            script.place = script.place.first();
            let text = install(&script);
            assert!(
                text.contains(&jump.replace("-A", "-I").replace(" -p", " 1 -p")),
                "{text}"
            );
            assert!(text.contains("_s -j DROP\n"), "{text}");
        }
        rules.scope.hook = Where::Input;
        let tables: Vec<&str> = places(&rules).iter().map(|place| place.table).collect();
        assert_eq!(tables, ["security", "mangle"]);
    }

    fn leaving(from: &str, narrowed: bool, scope: Scope) -> Rules {
        let mut rules = rules("8081", scope);
        rules.steer = Steer::Refuse;
        rules.leaving = Some(Leaving {
            from: match from {
                "" => Networks::default(),
                from => Networks::new(parse_networks(from).unwrap()),
            },
            narrowed,
            counted: PortSet::from_iter([80]),
        });
        rules
    }

    fn chain_rules(rules: &Rules, family: Family) -> Vec<String> {
        let text = script(rules, family).replace_ports(&rules.ports);
        let rules = text.lines().filter(|line| line.starts_with("-A "));
        let short = |line: &str| line.replace("syngate_0123456789abcdef", "RUN");
        rules
            .map(|line| short(line.trim_start_matches("-A ")))
            .collect()
    }

    #[test]
    fn health_checks_are_refused_and_those_let_through_are_counted() {
        let scope = Scope {
            to: Networks::new(parse_networks("10.0.0.1").unwrap()),
            allow_local: true,
            interfaces: vec!["eth0".to_owned()],
            ..Scope::default()
        };
        let all = leaving("", false, Scope::default());
        assert_eq!(
            chain_rules(&all, Family::V6),
            [
                "RUN -p tcp -m multiport --dports 8081 -j RUN_s",
                "RUN -p tcp -m multiport --dports 80 -j RUN_c",
            ]
        );
        // The checks of a port of its own may come to other addresses.
        let some = leaving("10.0.0.9,10.1.0.0/16", false, scope.clone());
        assert_eq!(
            chain_rules(&some, Family::V4),
            [
                "RUN -s 10.0.0.9/32 -p tcp -m multiport --dports 8081 -j RUN_s",
                "RUN -s 10.1.0.0/16 -p tcp -m multiport --dports 8081 -j RUN_s",
                "RUN -i lo -j RETURN",
                "RUN -d 10.0.0.1/32 -i eth0 -p tcp -m multiport --dports 80 -j RUN_c",
            ]
        );
        assert_eq!(chain_rules(&some, Family::V6), [""; 0]);
        assert!(!some.are_for(Family::V6) && all.are_for(Family::V6));
        let narrowed = leaving("10.0.0.9,fd00::1", true, scope);
        assert_eq!(
            chain_rules(&narrowed, Family::V4)[0],
            "RUN -s 10.0.0.9/32 -d 10.0.0.1/32 -i eth0 -p tcp -m multiport --dports 8081 -j RUN_s"
        );
        assert!(
            !narrowed.are_for(Family::V6),
            "nothing comes to the scope by it"
        );

        let text = script(&all, Family::V4).install("who", &Clock::Recent(30), &Part::default());
        for line in [
            "*filter",
            ":syngate_0123456789abcdef_c - [0:0]",
            "-A syngate_0123456789abcdef_c -j RETURN",
            "-A syngate_0123456789abcdef_s -p tcp -j REJECT --reject-with tcp-reset",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
    }

    #[test]
    fn multiport_takes_fifteen() {
        let many: PortSet = (1..=32u16).map(|n| n * 2).collect();
        let counts: Vec<usize> = portions(&many)
            .iter()
            .map(|p| p.split(',').count())
            .collect();
        assert_eq!(counts, [15, 15, 2]);
        let ranges = PortSet::from_ranges((1..=8u16).map(|n| n * 10..=n * 10 + 3));
        assert_eq!(portions(&ranges).len(), 2, "a range counts as two");
        assert!(portions(&PortSet::EMPTY).is_empty());
    }

    #[test]
    fn a_scope_is_let_through_or_matched() {
        let networks = |text| Networks::new(parse_networks(text).unwrap());
        let rules = rules(
            "80,8000-8010",
            Scope {
                hook: Where::Prerouting,
                to: networks("10.0.0.1,10.0.0.2,fd00::1"),
                allow_from: networks("10.9.0.0/16,::1"),
                allow_local: true,
                interfaces: vec!["eth0".to_owned(), "eth1".to_owned()],
            },
        );
        let none = Part::default();
        let text = script(&rules, Family::V4).install("who", &Clock::Recent(30), &none);
        assert!(text.starts_with("*raw\n"), "{text}");
        assert!(text.contains("-i lo -j RETURN\n"), "{text}");
        assert!(text.contains("-s 10.9.0.0/16 -j RETURN\n"), "{text}");
        assert!(!text.contains("::1"), "{text}");
        assert!(text.contains(" -m addrtype --dst-type LOCAL "), "{text}");
        // By each address and each interface, coming in and going out.
        assert_eq!(text.matches("--dports 80,8000:8010 ").count(), 8, "{text}");
        assert!(
            text.contains("-I OUTPUT 1 ") && text.contains("-o lo -j RETURN\n"),
            "{text}"
        );
        let until = Clock::Until("T".to_owned());
        let text = script(&rules, Family::V6).install("who", &until, &none);
        assert!(text.contains("-m time --datestop T "), "{text}");
        assert_eq!(text.matches("--dports").count(), 4, "{text}");
    }

    #[test]
    fn a_redirect_is_nat_of_what_comes_in_and_of_what_this_host_sends_itself() {
        let scope = Scope {
            hook: Where::Prerouting,
            allow_local: true,
            interfaces: vec!["eth0".to_owned()],
            ..Scope::default()
        };
        let rules = Rules {
            steer: Steer::Redirect(81),
            ..rules("80", scope)
        };
        let standing = Part {
            jumps: vec!["-A OUTPUT -j syngate_0123456789abcdef".to_owned()],
            ..Part::default()
        };
        let clock = Clock::Until("T".to_owned());
        let text = script(&rules, Family::V6).install("who", &clock, &standing);
        let chain = "syngate_0123456789abcdef";
        let jump = format!(
            "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL -m time \
             --datestop T -m comment --comment \"who\" -j {chain}"
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "*nat".to_owned(),
                format!(":{chain} - [0:0]"),
                format!(":{chain}_s - [0:0]"),
                format!("-D OUTPUT -j {chain}"),
                format!("-A {chain}_s -p tcp -j DNAT --to-destination :81"),
                format!("-A {chain} -i lo -j RETURN"),
                format!("-A {chain} -o lo -j RETURN"),
                format!("-A {chain} -i eth0 -p tcp -m multiport --dports 80 -j {chain}_s"),
                format!("-A {chain} -o eth0 -p tcp -m multiport --dports 80 -j {chain}_s"),
                format!("-I PREROUTING 1 {jump}"),
                format!("-I OUTPUT 1 {jump}"),
                "COMMIT".to_owned(),
            ]
        );
    }

    #[test]
    fn comments_end_no_quotes() {
        assert_eq!(fit_comment("sh -c 'a \"b\"\\\n'"), "sh -c ?a ?b????");
        assert!(fit_comment(&"é".repeat(200)).len() <= COMMENT_MAX);
        let longest = "x".repeat(COMMENT_MAX);
        assert_eq!(fit_comment(&longest), longest);
    }

    /// The kernel empties each chain that the input declares.
    #[test]
    fn new_ports_replace_the_old_ones_alone() {
        let rules = rules("80", Scope::default());
        let text = script(&rules, Family::V4).replace_ports(&PortSet::from_iter([443]));
        let chain = "syngate_0123456789abcdef";
        let lines: Vec<&str> = text.lines().collect();
        let gates = format!("-A {chain} -p tcp -m multiport --dports 443 -j {chain}_s");
        let declares = format!(":{chain} - [0:0]");
        assert_eq!(lines, ["*filter", &declares, &gates, "COMMIT"]);
    }

    #[test]
    fn what_dry_run_prints_arms_the_list_that_the_rule_looks_at() {
        let rules = rules("80", Scope::default());
        let (id, time) = ("0123456789abcdef", Duration::from_millis(1_500));
        let text = super::script(Variant::Legacy, &rules, id, "who", time);
        for (program, any, name) in [
            (
                "# iptables-legacy-restore",
                "0.0.0.0",
                "syngate_0123456789abcdef_4",
            ),
            (
                "# ip6tables-legacy-restore",
                "::",
                "syngate_0123456789abcdef_6",
            ),
        ] {
            let arms =
                format!("{program} --noflush, then echo +{any} >/proc/net/xt_recent/{name}\n");
            let of_program = text.split(&arms).nth(1).expect(&text);
            let rule = of_program.lines().find(|line| line.starts_with("-I INPUT"));
            let rule = rule.expect(&text);
            assert!(rule.contains(&format!(" --name {name} ")), "{rule}");
            assert!(rule.contains(" --rcheck --seconds 2 "), "{rule}");
        }
    }

    #[test]
    fn dates_are_whole_seconds() {
        assert_eq!(
            date_stop(Duration::from_millis(1_999)),
            "1970-01-01T00:00:01"
        );
        assert_eq!(
            date_stop(Duration::from_secs(86_400)),
            "1970-01-02T00:00:00"
        );
    }
}

//! What follows from what was found, in words. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::host::{Answer, Host};
use super::service::Place;
use crate::gate::kinds::Variant;
use crate::words::command_line::command_line;
use crate::words::family::Family;
use crate::words::ports::PortSet;
use crate::words::ports::as_ranges;

/// A backlog that holds less connections is told.
const SMALL_BACKLOG: u32 = 256;
/// So full a connection tracking is told.
const NEARLY_FULL: (u64, u64) = (9, 10);
/// SYNs that are sent again are told so often.
const RETRIES: usize = 4;

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// A word for machines.
    pub code: &'static str,
    /// The ports that it is about; empty: the host.
    #[serde(serialize_with = "as_ranges")]
    pub ports: PortSet,
    /// For people: one line.
    pub text: String,
    /// The call that it advises, if any.
    pub command: Option<String>,
}

/// Everything that follows. `wanted`: the ports that were asked for, if any were.
pub fn advise(host: &Host, places: &[Place], wanted: Option<&PortSet>) -> Vec<Advice> {
    let listening: PortSet = places.iter().map(|place| place.port).collect();
    let mut all = Vec::new();
    all.extend(published(host, wanted.unwrap_or(&listening)));
    all.extend(wanted.and_then(|wanted| deserted(host, &wanted.minus(&listening))));
    for service in services(places) {
        all.push(service.hand_over(host));
        all.extend(service.queue(host));
        all.extend(service.backlog(host));
    }
    all.extend(director(host));
    all.extend(backend(host));
    all.extend(kernel(host));
    all.push(retries(host));
    all.extend(standby(host));
    all
}

/// Places that the same processes hold in the same way.
struct Service<'a> {
    places: Vec<&'a Place>,
}

fn services(places: &[Place]) -> Vec<Service<'_>> {
    let mut services: Vec<(_, Service)> = Vec::new();
    for place in places {
        let pids: BTreeSet<i32> = place.processes.iter().map(|p| p.pid).collect();
        // Those of which nobody can be seen are not one because of that.
        let port = pids.is_empty().then_some(place.port);
        let key = (pids, place.is_group(), place.backlog, port);
        match services.iter_mut().find(|(known, _)| *known == key) {
            Some((_, service)) => service.places.push(place),
            None => services.push((
                key,
                Service {
                    places: vec![place],
                },
            )),
        }
    }
    services.into_iter().map(|(_, service)| service).collect()
}

impl Service<'_> {
    fn ports(&self) -> PortSet {
        self.places.iter().map(|place| place.port).collect()
    }

    fn advice(&self, code: &'static str, text: &str) -> Advice {
        about(code, self.ports(), text)
    }

    /// The names, each once, and how many processes.
    fn holders(&self) -> (String, usize) {
        let processes = &self.places[0].processes;
        let names: BTreeSet<&str> = processes.iter().map(|p| p.name.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        (names.join(" and "), processes.len())
    }

    /// The call that wraps `restart` or `reload`.
    fn call(&self, verb: &str, host: &Host) -> String {
        let mut processes = self.places[0].processes.iter();
        let control = processes.find_map(|p| p.control.as_ref());
        let command = match control {
            Some(control) => command_line(&control.command(verb)),
            None => "COMMAND".to_owned(),
        };
        let drain = if verb == "reload" {
            " --drain-until handshakes"
        } else {
            ""
        };
        let ports = self.ports();
        let published = host.published.iter().any(|p| ports.contains(p.port));
        let hook = if published { " --hook prerouting" } else { "" };
        format!("syngate --port {ports}{hook}{drain} -- {command}")
    }

    fn one_socket(&self) -> &'static str {
        if self.places.len() == 1 {
            "one socket"
        } else {
            "one socket for each address"
        }
    }

    /// Socket activation.
    fn is_of_systemd(&self) -> bool {
        let mut processes = self.places[0].processes.iter();
        processes.any(|p| p.pid == 1 && p.name == "systemd")
    }

    /// What a restart and a reload do to its sockets.
    fn hand_over(&self, host: &Host) -> Advice {
        let (names, count) = self.holders();
        let one = self.one_socket();
        if self.is_of_systemd() {
            return self.advice(
                "socket_activation",
                "systemd holds the socket: it outlives the service, so no gate is needed, not even \
                 for restarts",
            );
        }
        if self.places[0].is_group() {
            return self.group(host);
        }
        let advice = match count {
            0 => self.advice(
                "holders_unseen",
                &format!(
                    "{one}; who holds it can't be seen{}; wrap restarts",
                    if host.privileges.sys_ptrace {
                        " (a process elsewhere, or the kernel itself)"
                    } else {
                        " without privilege"
                    }
                ),
            ),
            1 => self.advice(
                "one_process",
                &format!(
                    "{one}, held by {names} alone: a restart closes it, and so does a reload that \
                     starts a new process; wrap these"
                ),
            ),
            count => self.advice(
                "shared_socket",
                &format!(
                    "{one}, held by {names} ({count} processes): it survives a reload that leaves \
                     the first of them running, so no gate is needed for that; wrap restarts"
                ),
            ),
        };
        advice.by(self.call("restart", host))
    }

    fn group(&self, host: &Host) -> Advice {
        let (names, _) = self.holders();
        let held = if names.is_empty() {
            String::new()
        } else {
            format!(", held by {names}")
        };
        let size = self.places.iter().map(|place| place.sockets).max();
        let of = format!("a SO_REUSEPORT group of {}{held}", size.unwrap_or(0));
        let migrate = host.sysctl("net.ipv4.tcp_migrate_req");
        if migrate == Some(1) {
            let text = format!(
                "{of}: what waits in the queue of a socket that a reload closes is moved to another \
                 one (tcp_migrate_req is 1); wrap restarts"
            );
            let advice = self.advice("reuseport_migrated", &text);
            return advice.by(self.call("restart", host));
        }
        let text = format!(
            "{of}: a reload that closes some of them resets what waits in their queues \
             (tcp_migrate_req is {}); wrap reloads too",
            shown(migrate)
        );
        let advice = self.advice("reuseport_group", &text);
        advice.by(self.call("reload", host))
    }

    fn queue(&self, host: &Host) -> Option<Advice> {
        let fullest = self.places.iter().max_by_key(|place| place.accept_queue)?;
        let (waiting, backlog) = (fullest.accept_queue, fullest.backlog);
        (waiting > backlog / 2 && waiting > 0).then(|| {
            self.advice(
                "accept_queue",
                &format!(
                    "{waiting} connections wait to be accepted, and {backlog} may: the service is \
                     behind; what comes once it is full is {}",
                    overflow(host)
                ),
            )
        })
    }

    fn backlog(&self, host: &Host) -> Option<Advice> {
        let backlog = self.places.iter().map(|place| place.backlog).min()?;
        if backlog >= SMALL_BACKLOG {
            return None;
        }
        let raise = match host.sysctl("net.core.somaxconn") {
            Some(most) if u64::from(backlog) >= most => {
                format!("net.core.somaxconn is {most}: raise it, and restart the service")
            }
            Some(most) => {
                format!("the service asked for no more (net.core.somaxconn allows {most})")
            }
            None => "the service, or net.core.somaxconn, asks for no more".to_owned(),
        };
        Some(self.advice(
            "small_backlog",
            &format!(
                "backlog {backlog}: at 1,000 new connections a second it holds those of {backlog} \
                 ms; what comes while it is full is {}; {raise}",
                overflow(host)
            ),
        ))
    }
}

/// What becomes of a connection that meets a full accept queue.
fn overflow(host: &Host) -> &'static str {
    match host.sysctl("net.ipv4.tcp_abort_on_overflow") {
        Some(1..) => "reset (tcp_abort_on_overflow)",
        _ => "dropped, and tried again a second later",
    }
}

impl Advice {
    fn by(self, command: String) -> Advice {
        Advice {
            command: Some(command),
            ..self
        }
    }
}

/// About some ports, which the text begins with.
fn about(code: &'static str, ports: PortSet, text: &str) -> Advice {
    Advice {
        code,
        text: format!("{}: {text}", ports.brief()),
        ports,
        command: None,
    }
}

fn on_host(code: &'static str, text: impl Into<String>) -> Advice {
    Advice {
        code,
        ports: PortSet::EMPTY,
        text: text.into(),
        command: None,
    }
}

/// A packet whose address is changed before it gets to the input hook is not stopped there.
fn published(host: &Host, ports: &PortSet) -> Vec<Advice> {
    let mut by_rule: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    for published in host.published.iter().filter(|p| ports.contains(p.port)) {
        by_rule
            .entry(&published.by)
            .or_default()
            .push(published.port);
    }
    let works = match &host.prerouting {
        Answer::Yes => "",
        Answer::No(_) => " (not in this kernel: it lacks a part of that)",
        Answer::Unknown(_) => " (whether this kernel can is not known)",
    };
    let advice = |(by, ports): (&str, Vec<u16>)| {
        let ports: PortSet = ports.into_iter().collect();
        let text = format!(
            "sent elsewhere before the input hook ({by}), as for a container: gate it with --hook \
             prerouting{works}"
        );
        about("published", ports, &text)
    };
    by_rule.into_iter().map(advice).collect()
}

fn deserted(host: &Host, deserted: &PortSet) -> Option<Advice> {
    let published: PortSet = host.published.iter().map(|p| p.port).collect();
    let ports = deserted.minus(&published);
    let text = "nobody listens: nothing to wait for after COMMAND; a typo, or a first start?";
    (!ports.is_empty()).then(|| about("no_listener", ports, text))
}

fn director(host: &Host) -> Option<Advice> {
    let services = host.ipvs.as_ref().filter(|services| !services.is_empty())?;
    let ports = services
        .iter()
        .filter_map(|s| s.rsplit_once(':')?.1.parse().ok());
    let text = format!(
        "an IPVS director ({}): SYNs to these meet the gate before IPVS sends them on (the gate is \
         at priority 10 of the input hook, IPVS at 98): name the service's own addresses with --to",
        services.join(", ")
    );
    Some(about("ipvs_director", ports.collect(), &text))
}

fn backend(host: &Host) -> Vec<Advice> {
    let mut all = Vec::new();
    let Ok(backend) = host.backend() else {
        return all;
    };
    if backend.name != "nft" {
        all.push(on_host(
            "iptables_backend",
            format!(
                "the gate is made with {} (whether it works is not tried here: that would leave \
                 its tables behind); a watchdog process removes the rules should syngate be \
                 killed, and should that be killed too, {}",
                backend.name,
                match &host.xt_recent {
                    Answer::Yes => "the kernel does, by xt_recent",
                    _ => "the kernel opens it by the wall clock",
                }
            ),
        ));
    } else if let Answer::No(_) = host.owner_tables {
        all.push(on_host(
            "no_owner_tables",
            "the gate is a table without an owner: a watchdog process removes it should syngate be \
             killed, and nft flush ruleset by others opens it (syngate closes it again)",
        ));
    }
    let legacy = Variant::Legacy.name();
    let holds = |variant: &str| {
        let of = host.iptables.iter().filter(move |i| i.variant == variant);
        of.filter_map(|i| i.rules).any(|rules| rules > 0)
    };
    if backend.name == "nft" && holds(legacy) {
        all.push(on_host(
            "legacy_rules",
            "the host's own rules are in iptables-legacy; the gate is in nf_tables, and both see \
             each packet: that is no conflict",
        ));
    }
    all
}

fn kernel(host: &Host) -> Vec<Advice> {
    let mut all = Vec::new();
    let (overflows, cookies) = (host.count("ListenOverflows"), host.count("SyncookiesSent"));
    if overflows > 0 {
        all.push(on_host(
            "listen_overflows",
            format!("connections have met a full accept queue {overflows} times so far: see `nstat -az TcpExtListenOverflows`"),
        ));
    }
    if cookies > 0 {
        all.push(on_host(
            "syncookies_sent",
            format!(
                "{cookies} SYN cookies were sent so far: each run first watches for new ones for up \
                 to 300 ms, gate open; if there are any, its drain lasts at least 300 ms"
            ),
        ));
    }
    if host.sysctl("net.ipv4.tcp_syncookies") == Some(0) {
        all.push(on_host(
            "syncookies_off",
            format!(
                "tcp_syncookies is 0: a listener takes no more half-open connections than \
                 tcp_max_syn_backlog ({}) and its backlog allow",
                shown(host.sysctl("net.ipv4.tcp_max_syn_backlog"))
            ),
        ));
    }
    if let Some(tracked) = host.conntrack
        && tracked.count * NEARLY_FULL.1 >= tracked.max * NEARLY_FULL.0
    {
        all.push(on_host(
            "conntrack_full",
            format!(
                "connection tracking has {} of {} entries: when it is full the kernel drops new \
                 connections, gate or no gate",
                tracked.count, tracked.max
            ),
        ));
    }
    all
}

/// When a client sends again what the gate has dropped.
fn retries(host: &Host) -> Advice {
    let linear = host.sysctl("net.ipv4.tcp_syn_linear_timeouts");
    let times: Vec<String> = retry_times(linear.unwrap_or(0))
        .iter()
        .map(u32::to_string)
        .collect();
    on_host(
        "syn_retries",
        format!(
            "a client whose SYN is dropped sends it again a second later at the earliest; one like \
             this host after {} s{}",
            times.join(", "),
            match holds(host) {
                true => "; SYNs can be held here: with --syn hold they wait for the new listener",
                false => "",
            }
        ),
    )
}

/// What becomes of connections that `--syn redirect` has sent to a standby, when its rules go.
fn standby(host: &Host) -> Option<Advice> {
    let families = host.nat.as_ref()?;
    let fate = match families[..] {
        [Family::V4, Family::V6] => "they go on, since NAT rules of your own stand here".to_owned(),
        [] => "they are cut, since no NAT rule of your own stands here".to_owned(),
        [one, ..] => {
            let (has, lacks) = match one {
                Family::V4 => ("IPv4", "IPv6"),
                Family::V6 => ("IPv6", "IPv4"),
            };
            format!(
                "those over {has} go on, since NAT rules of your own stand here; those over {lacks} are cut"
            )
        }
    };
    Some(on_host(
        "redirected_left",
        format!(
            "--syn redirect: what becomes of connections that are still on the standby when --linger is \
             over, or syngate is killed: {fate}"
        ),
    ))
}

/// Whether `--syn hold` can be expected to work: there are queues, and a rule that sends SYNs there.
/// The target of x_tables is that of iptables as well.
fn holds(host: &Host) -> bool {
    let by_rule = match host.backend() {
        Ok(backend) if backend.name == "nft" => [&host.nft_queue, &host.nft_nfqueue_target],
        Ok(_) => [&host.nft_nfqueue_target; 2],
        Err(_) => return false,
    };
    host.nfqueue.is_yes() && by_rule.into_iter().any(Answer::is_yes)
}

/// The first so many SYNs wait a second each, then the time doubles (tcp_retransmit_timer()).
fn retry_times(linear: u64) -> [u32; RETRIES] {
    let (mut at, mut wait) = (0, 1);
    std::array::from_fn(|n| {
        if n as u64 > linear {
            wait *= 2;
        }
        at += wait;
        at
    })
}

fn shown(value: Option<u64>) -> String {
    value.map_or_else(
        || "not in this kernel".to_owned(),
        |value| value.to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::usual;
    use super::super::host::{Conntrack, Published};
    use super::super::service::{Control, Process};
    use super::*;

    fn process(name: &str, pid: i32) -> Process {
        Process {
            name: name.to_owned(),
            pid,
            control: Some(Control::Systemd(name.to_owned())),
        }
    }

    /// A place of port 80 with so many sockets, held by so many processes of nginx.
    fn place(sockets: usize, processes: i32) -> Place {
        Place {
            address: "0.0.0.0".parse().unwrap(),
            port: 80,
            interface: None,
            sockets,
            backlog: 511,
            accept_queue: 0,
            processes: (1..=processes).map(|pid| process("nginx", pid)).collect(),
        }
    }

    fn ports(text: &str) -> PortSet {
        PortSet::parse(text, |_| None).unwrap()
    }

    /// What is said beyond what is always said.
    fn said(host: &Host, places: &[Place]) -> Vec<Advice> {
        let mut all = advise(host, places, None);
        let of_each_host = ["syn_retries", "redirected_left"];
        all.retain(|advice| !of_each_host.contains(&advice.code));
        all
    }

    fn whole(advice: &Advice) -> String {
        let command = advice.command.iter().map(|call| format!(": {call}"));
        advice.text.clone() + &command.collect::<String>()
    }

    #[test]
    fn what_follows_from_a_place() {
        type Case = (
            Place,
            fn(&mut Host, &mut Place),
            &'static [(&'static str, &'static str)],
        );
        let cases: [Case; 12] = [
            (
                place(1, 3),
                |_, _| (),
                &[(
                    "shared_socket",
                    "80: one socket, held by nginx (3 processes): it survives",
                )],
            ),
            (
                place(1, 3),
                |_, _| (),
                &[(
                    "shared_socket",
                    "wrap restarts: syngate --port 80 -- systemctl restart nginx",
                )],
            ),
            (
                place(1, 1),
                |_, _| (),
                &[("one_process", "held by nginx alone: a restart closes it")],
            ),
            (
                place(1, 0),
                |h, _| h.privileges.sys_ptrace = false,
                &[(
                    "holders_unseen",
                    "can't be seen without privilege; wrap restarts: syngate --port 80 -- COMMAND",
                )],
            ),
            (
                place(4, 5),
                |_, _| (),
                &[(
                    "reuseport_group",
                    "a SO_REUSEPORT group of 4, held by nginx: a reload that closes some of them resets what waits in their queues (tcp_migrate_req is 0); wrap reloads too: syngate --port 80 --drain-until handshakes -- systemctl reload nginx",
                )],
            ),
            (
                place(4, 5),
                |h, _| {
                    h.sysctls.insert("net.ipv4.tcp_migrate_req", None);
                },
                &[("reuseport_group", "tcp_migrate_req is not in this kernel")],
            ),
            (
                place(4, 5),
                |h, _| {
                    h.sysctls.insert("net.ipv4.tcp_migrate_req", Some(1));
                },
                &[("reuseport_migrated", "is moved to another one")],
            ),
            (
                place(1, 0),
                |_, p| p.processes = vec![process("systemd", 1), process("app", 7)],
                &[(
                    "socket_activation",
                    "it outlives the service, so no gate is needed",
                )],
            ),
            (
                place(1, 1),
                |_, p| p.backlog = 128,
                &[
                    ("one_process", ""),
                    (
                        "small_backlog",
                        "80: backlog 128: at 1,000 new connections a second it holds those of 128 ms; what comes while it is full is dropped, and tried again a second later; the service asked for no more (net.core.somaxconn allows 4096)",
                    ),
                ],
            ),
            (
                place(1, 1),
                |h, p| {
                    p.backlog = 128;
                    h.sysctls.insert("net.core.somaxconn", Some(128));
                    h.sysctls.insert("net.ipv4.tcp_abort_on_overflow", Some(1));
                },
                &[
                    ("one_process", ""),
                    (
                        "small_backlog",
                        "is reset (tcp_abort_on_overflow); net.core.somaxconn is 128: raise it",
                    ),
                ],
            ),
            (
                place(1, 1),
                |_, p| p.accept_queue = 300,
                &[
                    ("one_process", ""),
                    (
                        "accept_queue",
                        "300 connections wait to be accepted, and 511 may",
                    ),
                ],
            ),
            (
                place(1, 1),
                |h, _| {
                    h.published = vec![Published {
                        port: 80,
                        by: "nft table t, chain c".to_owned(),
                    }]
                },
                &[
                    (
                        "published",
                        "80: sent elsewhere before the input hook (nft table t, chain c)",
                    ),
                    (
                        "one_process",
                        "syngate --port 80 --hook prerouting -- systemctl restart nginx",
                    ),
                ],
            ),
        ];
        for (n, (mut place, change, expected)) in cases.into_iter().enumerate() {
            let mut host = usual();
            change(&mut host, &mut place);
            let all = said(&host, &[place]);
            let codes: Vec<&str> = all.iter().map(|advice| advice.code).collect();
            let wanted: Vec<&str> = expected.iter().map(|(code, _)| *code).collect();
            assert_eq!(codes, wanted, "case {n}");
            for (advice, (_, says)) in all.iter().zip(expected) {
                let whole = whole(advice);
                assert!(whole.contains(says), "case {n}: {whole}");
                assert!(!advice.text.contains('\n'), "case {n}");
                assert_eq!(advice.ports, ports("80"), "case {n}");
            }
        }
    }

    #[test]
    fn what_follows_from_the_host() {
        type Change = fn(&mut Host);
        let cases: [(Change, &[&str]); 9] = [
            (|_| (), &[]),
            (|h| h.iptables[0].rules = Some(3), &["legacy_rules"]),
            (
                |h| {
                    h.counts.insert("ListenOverflows", Some(2));
                },
                &["listen_overflows"],
            ),
            (
                |h| {
                    h.counts.insert("SyncookiesSent", Some(2));
                },
                &["syncookies_sent"],
            ),
            (
                |h| {
                    h.sysctls.insert("net.ipv4.tcp_syncookies", Some(0));
                },
                &["syncookies_off"],
            ),
            (
                |h| {
                    h.conntrack = Some(Conntrack {
                        count: 90,
                        max: 100,
                    })
                },
                &["conntrack_full"],
            ),
            (
                |h| {
                    h.conntrack = Some(Conntrack {
                        count: 89,
                        max: 100,
                    })
                },
                &[],
            ),
            (|h| h.ipvs = Some(Vec::new()), &[]),
            (
                |h| h.ipvs = Some(vec!["10.0.0.1:80".to_owned()]),
                &["ipvs_director"],
            ),
        ];
        for (n, (change, expected)) in cases.into_iter().enumerate() {
            let mut host = usual();
            change(&mut host);
            let codes: Vec<&str> = said(&host, &[]).iter().map(|a| a.code).collect();
            assert_eq!(codes, expected, "case {n}");
        }
        let mut host = usual();
        host.owner_tables = no();
        assert_eq!(said(&host, &[])[0].code, "no_owner_tables");
        (host.nf_tables, host.timed_sets, host.xt_recent) = (no(), no(), no());
        let told = &said(&host, &[])[0];
        assert_eq!(told.code, "iptables_backend");
        assert!(told.text.contains("iptables-legacy"), "{}", told.text);
        assert!(told.text.contains("by the wall clock"), "{}", told.text);
    }

    #[test]
    fn one_service_is_told_once() {
        let mut other = place(1, 3);
        other.port = 443;
        let mut v6 = place(1, 3);
        v6.address = "::".parse().unwrap();
        let mut alone = place(1, 0);
        alone.port = 22;
        let texts: Vec<String> = said(&usual(), &[alone, place(1, 3), v6, other])
            .into_iter()
            .map(|advice| whole(&advice))
            .collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(
            texts[1].starts_with("80,443: one socket for each address"),
            "{texts:?}"
        );
        assert!(texts[1].contains("--port 80,443 --"), "{texts:?}");
    }

    #[test]
    fn ports_that_nobody_listens_on() {
        let wanted = ports("80-82");
        let mut host = usual();
        host.published = vec![Published {
            port: 81,
            by: "somebody".to_owned(),
        }];
        let all = advise(&host, &[place(1, 1)], Some(&wanted));
        let none: Vec<_> = all.iter().filter(|a| a.code == "no_listener").collect();
        assert_eq!(none.len(), 1);
        assert_eq!(none[0].ports, ports("82"));
    }

    #[test]
    fn hold_is_advised_where_it_can_be_done() {
        type Change = fn(&mut Host);
        let cases: [(Change, bool); 6] = [
            (|_| (), true),
            (|h| h.nft_queue = no(), true),
            (|h| h.nft_nfqueue_target = no(), true),
            (
                |h| (h.nft_queue, h.nft_nfqueue_target) = (no(), no()),
                false,
            ),
            (|h| h.nfqueue = no(), false),
            (
                |h| (h.nf_tables, h.nft_nfqueue_target) = (no(), no()),
                false,
            ),
        ];
        for (n, (change, can)) in cases.into_iter().enumerate() {
            let mut host = usual();
            change(&mut host);
            assert_eq!(retries(&host).text.contains("--syn hold"), can, "case {n}");
        }
    }

    #[test]
    fn who_is_left_on_a_standby() {
        let (v4, v6) = (Family::V4, Family::V6);
        for (families, fate) in [
            (Some(vec![]), "they are cut"),
            (Some(vec![v4, v6]), "they go on"),
            (Some(vec![v4]), "those over IPv4 go on"),
            (Some(vec![v6]), "those over IPv4 are cut"),
        ] {
            let mut host = usual();
            host.nat = families;
            let text = standby(&host).unwrap().text;
            assert!(text.contains(fate), "{text}");
        }
        let mut host = usual();
        host.nat = None;
        assert!(standby(&host).is_none());
    }

    fn no() -> Answer {
        Answer::No("not in this kernel".to_owned())
    }

    /// As measured: a SYN that is dropped each time it is sent.
    #[test]
    fn syns_are_sent_again() {
        for (linear, times) in [
            (0, [1, 3, 7, 15]),
            (1, [1, 2, 4, 8]),
            (2, [1, 2, 3, 5]),
            (4, [1, 2, 3, 4]),
        ] {
            assert_eq!(
                retry_times(linear),
                times,
                "tcp_syn_linear_timeouts {linear}"
            );
        }
    }
}

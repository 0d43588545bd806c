//! What follows from what was found, in words. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::host::{Answer, Host};
use super::service::{Control, Place};
use crate::gate::iptables::variant::Variant;
use crate::ports::PortSet;
use crate::report::as_ranges;

/// The rate of new connections by which a backlog is judged.
const RATE: u32 = 1_000;
/// A backlog that holds less of them is told.
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
        let ports = self.ports();
        let text = format!("{}: {text}", ports.brief());
        Advice { code, ports, text }
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
        let control = self.places[0]
            .processes
            .iter()
            .find_map(|p| p.control.as_ref());
        let command = control.map_or_else(
            || "COMMAND".to_owned(),
            |control: &Control| control.command(verb),
        );
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

    /// What a restart and a reload do to its sockets.
    fn hand_over(&self, host: &Host) -> Advice {
        let (names, count) = self.holders();
        let restart = self.call("restart", host);
        if self.places[0]
            .processes
            .iter()
            .any(|p| p.pid == 1 && p.name == "systemd")
        {
            return self.advice(
                "socket_activation",
                "systemd holds the socket: it outlives the service, so no gate is needed, not even \
                 for restarts",
            );
        }
        if self.places[0].is_group() {
            return self.group(host);
        }
        match count {
            0 => self.advice(
                "holders_unseen",
                &format!(
                    "one socket; who holds it can't be seen{}; wrap restarts: {restart}",
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
                    "one socket, held by {names} alone: a restart closes it, and so does a reload \
                     that starts a new process; wrap these: {restart}"
                ),
            ),
            count => self.advice(
                "shared_socket",
                &format!(
                    "one socket, held by {names} ({count} processes): it survives a reload that \
                     leaves the first of them running, so no gate is needed for that; wrap \
                     restarts: {restart}"
                ),
            ),
        }
    }

    fn group(&self, host: &Host) -> Advice {
        let (names, _) = self.holders();
        let held = if names.is_empty() {
            String::new()
        } else {
            format!(", held by {names}")
        };
        let size = self
            .places
            .iter()
            .map(|place| place.sockets)
            .max()
            .unwrap_or(0);
        let of = format!("a SO_REUSEPORT group of {size}{held}");
        if host.sysctl("net.ipv4.tcp_migrate_req") == Some(1) {
            return self.advice(
                "reuseport_migrated",
                &format!(
                    "{of}: what waits in the queue of a socket that a reload closes is moved to \
                     another one (tcp_migrate_req 1); wrap restarts: {}",
                    self.call("restart", host)
                ),
            );
        }
        self.advice(
            "reuseport_group",
            &format!(
                "{of}: a reload that closes some of them resets what waits in their queues \
                 (tcp_migrate_req is {}): wrap reloads too: {}",
                shown(host.sysctl("net.ipv4.tcp_migrate_req")),
                self.call("reload", host)
            ),
        )
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
                "backlog {backlog}: at {RATE} new connections a second it holds those of {} ms; \
                 what comes while it is full is {}; {raise}",
                backlog * 1_000 / RATE,
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

fn on_host(code: &'static str, text: impl Into<String>) -> Advice {
    Advice {
        code,
        ports: PortSet::EMPTY,
        text: text.into(),
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
            "{}: sent elsewhere before the input hook ({by}), as for a container: gate it with \
             --hook prerouting{works}",
            ports.brief()
        );
        Advice {
            code: "published",
            ports,
            text,
        }
    };
    by_rule.into_iter().map(advice).collect()
}

fn deserted(host: &Host, deserted: &PortSet) -> Option<Advice> {
    let published: PortSet = host.published.iter().map(|p| p.port).collect();
    let ports = deserted.minus(&published);
    (!ports.is_empty()).then(|| Advice {
        code: "no_listener",
        text: format!(
            "{}: nobody listens: nothing to wait for after COMMAND; a typo, or a first start?",
            ports.brief()
        ),
        ports,
    })
}

fn director(host: &Host) -> Option<Advice> {
    let services = host.ipvs.as_ref().filter(|services| !services.is_empty())?;
    let ports = services
        .iter()
        .filter_map(|s| s.rsplit_once(':')?.1.parse().ok());
    Some(Advice {
        code: "ipvs_director",
        ports: ports.collect(),
        text: format!(
            "an IPVS director ({}): SYNs to these meet the gate before IPVS sends them on (the \
             gate is at priority 10 of the input hook, IPVS at 98): name the service's own addresses \
             with --to",
            services.join(", ")
        ),
    })
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
             this host after {} s",
            times.join(", ")
        ),
    )
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

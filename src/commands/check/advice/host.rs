//! What follows from the host.

use std::collections::BTreeMap;

use super::item::{Advice, shown};
use crate::commands::check::host::{ConntrackUse, Host};
use crate::gate::by_port::{bypassed, lets_in_what_was_translated};
use crate::gate::consumers::Consumes;
use crate::gate::kinds::Variant;
use crate::kernel::room::releases;
use crate::kernel::support::Support;
use crate::words::family::Family;
use crate::words::ports::PortSet;
use crate::words::scope::Where;

/// A connection tracking that is fuller than this is worth advice.
const NEARLY_FULL: (u64, u64) = (9, 10);
/// How many of a client's SYNs are listed.
const RETRIES: usize = 4;

/// About the ports that were asked for, or else all that are listened on. `listening` is `None` if
/// nobody can tell which are.
pub(crate) fn advise_ports(
    host: &Host,
    wanted: Option<&PortSet>,
    listening: Option<&PortSet>,
) -> Vec<Advice> {
    let mut all = match wanted.or(listening) {
        Some(ports) => published(host, ports)
            .into_iter()
            .chain(bypassed_by_redirect(host, ports))
            .collect(),
        None => Vec::new(),
    };
    if let (Some(wanted), Some(listening)) = (wanted, listening) {
        all.extend(deserted(host, &wanted.minus(listening)));
    }
    all
}

/// About the host as a whole.
pub(crate) fn advise(host: &Host) -> Vec<Advice> {
    let mut all = Vec::new();
    all.extend(director(host));
    all.extend(used_up(host));
    all.extend(backend(host));
    all.extend(kernel(host));
    all.extend(bugs(host));
    all.push(retries(host));
    all.extend(standby(host));
    all
}

/// A gate in the input hook does not stop packets whose address was changed before.
fn published(host: &Host, ports: &PortSet) -> Vec<Advice> {
    let mut by_rule: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    for published in host.published.iter().filter(|p| ports.contains(p.port)) {
        by_rule
            .entry(&published.by)
            .or_default()
            .push(published.port);
    }
    let works = match &host.prerouting {
        Support::Yes => "",
        Support::No(_) => " (not in this kernel: it lacks a part of that)",
        Support::Unknown(_) => " (whether this kernel can is not known)",
    };
    let advice = |(by, ports): (&str, Vec<u16>)| {
        let ports: PortSet = ports.into_iter().collect();
        let text = format!(
            "sent elsewhere before the input hook ({by}), as for a container: gate it with --hook \
             prerouting{works}"
        );
        Advice::about("published", ports, &text)
    };
    by_rule.into_iter().map(advice).collect()
}

/// NAT comes before the input hook, and changes the port that rules compare there.
fn bypassed_by_redirect(host: &Host, ports: &PortSet) -> Option<Advice> {
    if let Some(rule) = lets_in_what_was_translated(&host.by_port, None) {
        let text = format!(
            "a rule accepts what NAT sends elsewhere ({}): --syn redirect would lead clients past your other \
             rules by it, and is refused unless it names the port before NAT",
            rule.by
        );
        return Some(Advice::about("accepts_translated", ports.clone(), &text));
    }
    let rule = bypassed(&host.by_port, ports, None)?;
    let text = format!(
        "a rule may refuse clients by this port ({}): syngate refuses --syn redirect, which would lead them past it, \
         unless that table refuses the standby's port too, or the port before NAT",
        rule.by
    );
    let ports = rule.ports.among(ports);
    Some(Advice::about("refused_by_port", ports, &text))
}

fn deserted(host: &Host, deserted: &PortSet) -> Option<Advice> {
    let published: PortSet = host.published.iter().map(|p| p.port).collect();
    let ports = deserted.minus(&published);
    let text = "nobody listens: nothing to wait for after COMMAND; is the service down, or the port wrong?";
    (!ports.is_empty()).then(|| Advice::about("no_listener", ports, text))
}

fn director(host: &Host) -> Option<Advice> {
    let services = host.ipvs.as_ref().filter(|services| !services.is_empty())?;
    let ports = services
        .iter()
        .filter_map(|s| s.rsplit_once(':')?.1.parse().ok());
    let text = format!(
        "an IPVS director ({}): the gate also stops SYNs that IPVS would send on (it is at priority 10 of the input \
         hook, IPVS at 98): name the service's own addresses with --to",
        services.join(", ")
    );
    Some(Advice::about("ipvs_director", ports.collect(), &text))
}

/// Rules that use a SYN up before a gate in the input hook drops it.
fn used_up(host: &Host) -> Vec<Advice> {
    let safe = match &host.firewall.translates {
        None => "--hook auto, the default, puts the gate before that".to_owned(),
        Some(by) => format!(
            "since NAT may send packets elsewhere ({by}), the gate stays in the input hook: use --syn hold, or \
             --hook prerouting, which also gates what NAT sends elsewhere"
        ),
    };
    let advice = |(what, by): &(Consumes, String), hook, safe: &str| {
        Advice::on_host("syn_used_up", format!("{} ({by}): {safe}", what.harm(hook)))
    };
    let late = host.firewall.consumers.iter();
    let late = late.map(|consumer| advice(consumer, Where::Input, &safe));
    let early = host.firewall.early.iter();
    let first = "no gate comes before that rule: use --syn hold";
    late.chain(early.map(|consumer| advice(consumer, Where::Prerouting, first)))
        .collect()
}

fn backend(host: &Host) -> Vec<Advice> {
    let mut all = Vec::new();
    let Ok(backend) = host.backend() else {
        return all;
    };
    if backend.name != "nft" {
        all.push(Advice::on_host(
            "iptables_backend",
            format!(
                "the gate is made with {} (not tried here, since that would leave its tables behind); if syngate is \
                 killed, a watchdog process removes the rules; if that is killed too, {}",
                backend.name,
                match &host.xt_recent {
                    Support::Yes => "the kernel does, by xt_recent",
                    _ => "the kernel opens it by the wall clock",
                }
            ),
        ));
    } else if let Support::No(_) = host.owner_tables {
        all.push(Advice::on_host(
            "no_owner_tables",
            "the gate is a table without an owner: if syngate is killed, a watchdog process removes it; nft flush \
             ruleset by others opens it, and syngate closes it again",
        ));
    }
    let legacy = Variant::Legacy.name();
    let holds = |variant: &str| {
        let of = host.iptables.iter().filter(move |i| i.variant == variant);
        of.filter_map(|i| i.rules).any(|rules| rules > 0)
    };
    if backend.name == "nft" && holds(legacy) {
        all.push(Advice::on_host(
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
        all.push(Advice::on_host(
            "listen_overflows",
            format!("connections have met a full accept queue {overflows} times so far: see `nstat -az TcpExtListenOverflows`"),
        ));
    }
    if cookies > 0 {
        all.push(Advice::on_host(
            "syncookies_sent",
            format!(
                "{cookies} SYN cookies were sent so far: each run first watches for new ones for up \
                 to 300 ms, gate open; if there are any, its drain lasts at least 300 ms"
            ),
        ));
    }
    if host.sysctl("net.ipv4.tcp_syncookies") == Some(0) {
        all.push(Advice::on_host(
            "syncookies_off",
            format!(
                "tcp_syncookies is 0: a listener takes no more half-open connections than \
                 tcp_max_syn_backlog ({}) and its backlog allow",
                shown(host.sysctl("net.ipv4.tcp_max_syn_backlog"))
            ),
        ));
    }
    let nearly_full = |of: &ConntrackUse| of.count * NEARLY_FULL.1 >= of.max * NEARLY_FULL.0;
    if let Some(tracked) = host.conntrack.filter(nearly_full) {
        all.push(Advice::on_host(
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

/// What no trial shows, of a kernel on which connections can be parked.
fn bugs(host: &Host) -> Option<Advice> {
    let bugs = releases::bugs(&host.made_from);
    if host.rooms.refusal().is_some() || bugs.is_empty() {
        return None;
    }
    let text = format!(
        "with --syn park: this kernel's release may have bugs in moving connections, unless its distribution has mended \
         them: {}",
        bugs.join(", ")
    );
    Some(Advice::on_host("kernel_bugs", text))
}

/// When clients send a SYN again that the gate has dropped.
fn retries(host: &Host) -> Advice {
    let linear = host.sysctl("net.ipv4.tcp_syn_linear_timeouts");
    let times: Vec<String> = retry_times(linear.unwrap_or(0))
        .iter()
        .map(u32::to_string)
        .collect();
    Advice::on_host(
        "syn_retries",
        format!(
            "a client whose SYN is dropped sends it again a second later at the earliest; one like \
             this host after {} s{}",
            times.join(", "),
            match host.holding().backend.is_some() {
                true => "; SYNs can be held here: with --syn hold they wait for the new listener",
                false => "",
            }
        ),
    )
}

/// What becomes of connections to a standby when the rules that redirect them go.
fn standby(host: &Host) -> Option<Advice> {
    let families = host.nat.as_ref()?;
    let fate = match families[..] {
        [Family::V4, Family::V6] => "go on, since you have NAT rules".to_owned(),
        [] => "are cut (they would go on if you had NAT rules)".to_owned(),
        [one, ..] => {
            let (has, lacks) = match one {
                Family::V4 => ("IPv4", "IPv6"),
                Family::V6 => ("IPv6", "IPv4"),
            };
            format!("go on over {has}, since you have NAT rules, and are cut over {lacks}")
        }
    };
    Some(Advice::on_host(
        "redirected_left",
        format!(
            "with --syn redirect: connections that are left on the standby after --linger, or when \
             syngate is killed, {fate}"
        ),
    ))
}

/// When a SYN is sent again, in seconds after the first one. Each of the first `linear` waits takes one
/// second, then each wait is twice as long as the last (tcp_retransmit_timer()).
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::host::tests::{no, usual};

    #[test]
    fn hold_is_advised_where_it_can_be_done() {
        type Change = fn(&mut Host);
        let cases: [(Change, bool); 3] = [
            (|_| (), true),
            (|h| h.nft_queue = no(), true),
            (|h| h.nfqueue = no(), false),
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
            (Some(vec![]), "killed, are cut"),
            (Some(vec![v4, v6]), "killed, go on, since"),
            (Some(vec![v4]), "go on over IPv4"),
            (Some(vec![v6]), "cut over IPv4"),
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

//! `--hook auto`: where the gate stands. The decision is pure.

use crate::gate::consumers::{Consumes, Firewall};
use crate::gate::nat::ProxiedPort;
use crate::words::ports::PortSet;
use crate::words::scope::{HookChoice, Where};
use crate::words::steer::Steer;

/// Where the gate stands, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) hook: Where,
    /// The gate stands in prerouting without having been told to: nothing changes addresses here.
    pub(crate) early: bool,
    /// The reason for prerouting.
    pub(crate) why: Option<String>,
    /// SYNPROXY answers SYNs behind the gate, and what it sends on passes the gate.
    pub(crate) passes_proxied: bool,
    /// What becomes of clients if the gate drops SYNs in the input hook.
    pub(crate) used_up: Option<String>,
    /// Clients come to harm.
    pub(crate) warnings: Vec<String>,
}

/// What is redirected has a hook of its own. What can't be diverted is dropped. What is held goes on by
/// itself, so no rule sees it twice. `vrf`: the name of a VRF, if the backend may not see its packets in
/// prerouting.
pub(crate) fn place(
    choice: HookChoice,
    steer: Option<Steer>,
    ports: &PortSet,
    look: impl FnOnce() -> Firewall,
    vrf: impl FnOnce() -> Option<String>,
) -> Place {
    let Some(steer) = steer else {
        return Place::at(choice.given());
    };
    let firewall = look();
    let proxied = firewall.proxied.iter().filter_map(|p| proxied(p, ports));
    let proxied: Vec<String> = proxied.collect();
    let mut place = match (choice, steer) {
        (_, Steer::Redirect(_)) | (HookChoice::Prerouting, Steer::Queue(_)) => {
            let mut place = Place::at(choice.given());
            place.warnings = proxied;
            return place;
        }
        (HookChoice::Prerouting, _) => Place::at(Where::Prerouting),
        (HookChoice::Auto, Steer::Divert(_)) => of_a_divert(ports, &firewall),
        (_, Steer::Drop | Steer::Divert(_)) => between(choice, &firewall, vrf),
        (_, Steer::Queue(_) | Steer::Refuse) => Place::default(),
    };
    place.warnings.extend(proxied);
    let first = firewall.consumers.first();
    place.used_up = first.map(|(what, by)| format!("{} ({by})", what.harm(Where::Input)));
    // Whom SYNPROXY has answered before the gate closed.
    place.passes_proxied = place.hook == Where::Prerouting && firewall.has_synproxy();
    if place.hook == Where::Input {
        place.warnings.extend(published(&firewall, ports));
    }
    place
}

impl Place {
    /// For a gate that drops SYNs in the input hook, against the plan. `better`: an option that avoids that.
    pub(crate) fn harm_of_dropping(&self, better: &str) -> Option<String> {
        let harm = self.used_up.as_ref()?;
        Some(format!("{harm}; {better} avoids that"))
    }

    fn at(hook: Where) -> Place {
        Place {
            hook,
            ..Place::default()
        }
    }
}

/// In the input hook a SYN meets the host's own rules before it is diverted. It does not come there
/// unchanged where SYNPROXY or NAT has taken it.
fn of_a_divert(ports: &PortSet, firewall: &Firewall) -> Place {
    let all = || firewall.consumers.iter().chain(&firewall.early);
    let proxy = all().find(|(what, _)| *what == Consumes::SynProxy);
    let sent = || firewall.published.iter().find(|p| ports.contains(p.port));
    let by = proxy
        .map(|(_, by)| by)
        .or_else(|| sent().map(|sent| &sent.by));
    let mut place = Place::default();
    if let Some(by) = by {
        place.hook = Where::Prerouting;
        place.warnings.push(format!(
            "--hook auto: the gate is in the prerouting hook, since a rule changes new connections before the input \
             hook ({by}): it diverts even clients that this host's firewall refuses, so the peer's has to refuse them"
        ));
    }
    place
}

/// Before the rules that would use dropped SYNs up, if that is possible.
fn between(choice: HookChoice, firewall: &Firewall, vrf: impl FnOnce() -> Option<String>) -> Place {
    let of = |(what, by): &(Consumes, String), hook| format!("{} ({by})", what.harm(hook));
    let mut place = Place::default();
    if let Some(consumer) = firewall.consumers.first() {
        let harm = of(consumer, Where::Input);
        match (choice, &firewall.translates) {
            (HookChoice::Auto, None) => match vrf() {
                None => {
                    place.hook = Where::Prerouting;
                    place.early = true;
                    place.why = Some(format!("--hook auto: prerouting, since {harm}"));
                }
                Some(vrf) => place.warnings.push(format!(
                    "{harm}; the gate stays in the input hook, since iptables can't stop packets before \
                     routing that come in by the VRF {vrf}; --backend nft avoids that"
                )),
            },
            (HookChoice::Auto, Some(other)) => place.warnings.push(format!(
                "{harm}; the gate stays in the input hook, since a rule may send packets elsewhere \
                 ({other}); --syn hold or --hook prerouting avoids that"
            )),
            _ => place
                .warnings
                .push(format!("--hook input: {harm}; --hook auto avoids that")),
        }
    }
    if let Some(consumer) = firewall.early.first() {
        let harm = of(consumer, Where::Prerouting);
        place.warnings.push(format!(
            "{harm}; no gate can come before that rule; --syn hold avoids that"
        ));
    }
    place
}

/// A gate in the input hook does not meet what was sent elsewhere before.
fn published(firewall: &Firewall, ports: &PortSet) -> Option<String> {
    let gated = firewall.published.iter().filter(|p| ports.contains(p.port));
    let by = &gated.clone().next()?.by;
    let ports: PortSet = gated.map(|published| published.port).collect();
    Some(format!(
        "a rule may send packets to {} elsewhere before they reach the gate in the input hook ({by}): use --hook \
         prerouting, and say by --listen-port or --listen-netns where the listeners are",
        ports.brief()
    ))
}

/// No hook shows such packets with the port of the listener.
fn proxied(proxied: &ProxiedPort, ports: &PortSet) -> Option<String> {
    let ProxiedPort {
        port,
        asked_for,
        by,
    } = proxied;
    let others = asked_for.as_ref().map(|asked| asked.minus(ports));
    let all_gated = others.as_ref().is_some_and(PortSet::is_empty);
    if !ports.contains(*port) || all_gated {
        return None;
    }
    let (which, example) = match &others {
        Some(others) => (
            others.brief(),
            others
                .iter()
                .next()
                .map_or_else(String::new, |other| other.to_string()),
        ),
        None => ("other ports".to_owned(), "PORT".to_owned()),
    };
    Some(format!(
        "TPROXY hands packets to {which} to the listener on {port} ({by}), but the gate sees the port that the \
         client asked for: gate that, as by --port {example} --listen-port {example}={port}"
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gate::nat::RedirectedPort;
    use crate::words::steer::Diversion;

    const HELD: Option<Steer> = Some(Steer::Queue(7));
    const DROPPED: Option<Steer> = Some(Steer::Drop);

    /// On a host without VRFs.
    fn place(
        choice: HookChoice,
        steer: Option<Steer>,
        ports: &PortSet,
        look: impl FnOnce() -> Firewall,
    ) -> Place {
        super::place(choice, steer, ports, look, || None)
    }

    #[test]
    fn where_iptables_would_not_see_a_vrf_the_gate_stays() {
        let (ports, vrf) = (&PortSet::EMPTY, || Some("red".to_owned()));
        let look = || firewall(true, false);
        let place = super::place(HookChoice::Auto, DROPPED, ports, look, vrf);
        assert_eq!(place.hook, Where::Input);
        let warning = &place.warnings[0];
        assert!(warning.contains("the VRF red") && warning.ends_with("--backend nft avoids that"));
    }

    fn firewall(consumes: bool, translates: bool) -> Firewall {
        let by = || "nft table t, chain c".to_owned();
        Firewall {
            consumers: consumes
                .then(|| (Consumes::SynProxy, by()))
                .into_iter()
                .collect(),
            translates: translates.then(by),
            ..Firewall::default()
        }
    }

    #[test]
    fn the_gate_is_early_where_a_syn_would_be_used_up() {
        use HookChoice::{Auto, Input, Prerouting};
        for (choice, drops, consumes, translates, hook, early, warns) in [
            (Auto, true, false, false, Where::Input, false, false),
            (Auto, true, true, false, Where::Prerouting, true, false),
            (Auto, true, true, true, Where::Input, false, true),
            (Auto, false, true, false, Where::Input, false, false),
            (Input, true, true, false, Where::Input, false, true),
            (Input, true, false, false, Where::Input, false, false),
            (
                Prerouting,
                true,
                true,
                true,
                Where::Prerouting,
                false,
                false,
            ),
        ] {
            let steer = if drops { DROPPED } else { HELD };
            let place = place(choice, steer, &PortSet::EMPTY, || {
                firewall(consumes, translates)
            });
            let told = (place.hook, place.early, !place.warnings.is_empty());
            assert_eq!(told, (hook, early, warns), "{choice:?} {drops} {consumes}");
            let passes = drops && consumes && hook == Where::Prerouting;
            assert_eq!(place.passes_proxied, passes, "{choice:?}");
            assert_eq!(place.why.is_some(), early);
        }
    }

    /// Who uses up the SYN, what that does to clients, and what avoids it.
    #[test]
    fn the_reason_is_told() {
        let why = |choice, translates| {
            let place = place(choice, DROPPED, &PortSet::EMPTY, || {
                firewall(true, translates)
            });
            place.why.or(place.warnings.first().cloned()).unwrap()
        };
        for (choice, translates, says) in [
            (HookChoice::Auto, false, "--hook auto: prerouting"),
            (HookChoice::Auto, true, "stays in the input hook"),
            (HookChoice::Auto, true, "--hook prerouting avoids that"),
            (HookChoice::Input, true, "--hook auto avoids that"),
        ] {
            let why = why(choice, translates);
            for part in [says, "SYNPROXY", "nft table t, chain c"] {
                assert!(why.contains(part), "{part}: {why}");
            }
        }
    }

    /// What is diverted has met the host's rules, if it comes to the input hook as it came in.
    #[test]
    fn a_divert_stays_behind_the_firewall_where_it_can() {
        let divert = Some(Steer::Divert(Diversion {
            v4: None,
            v6: None,
            most: 1,
            idle: Duration::from_secs(1),
        }));
        let published = Firewall {
            published: vec![RedirectedPort {
                port: 80,
                by: "nft table n, chain p".to_owned(),
            }],
            ..Firewall::default()
        };
        for (firewall, hook) in [
            (Firewall::default(), Where::Input),
            (firewall(false, true), Where::Input),
            (firewall(true, false), Where::Prerouting),
            (published, Where::Prerouting),
        ] {
            let ports = &PortSet::from_iter([80]);
            let place = place(HookChoice::Auto, divert, ports, || firewall);
            let told = !place.warnings.is_empty();
            assert_eq!(
                (place.hook, told),
                (hook, hook == Where::Prerouting),
                "{place:?}"
            );
        }
    }

    /// A limit at priority -400 of prerouting has counted the SYN already.
    #[test]
    fn a_rule_that_comes_first_is_told() {
        let early = || Firewall {
            early: vec![(Consumes::Rate, "nft table t, chain c".to_owned())],
            ..Firewall::default()
        };
        for (steer, warns) in [(DROPPED, true), (HELD, false)] {
            let place = place(HookChoice::Auto, steer, &PortSet::EMPTY, early);
            assert_eq!(place.hook, Where::Input);
            assert_eq!(!place.warnings.is_empty(), warns, "{place:?}");
        }
    }

    #[test]
    fn ports_that_rules_send_elsewhere_are_told() {
        let sends = || Firewall {
            published: vec![RedirectedPort {
                port: 80,
                by: "nft table n, chain p".to_owned(),
            }],
            ..Firewall::default()
        };
        for (choice, steer, port, warns) in [
            (HookChoice::Auto, DROPPED, 80, true),
            (HookChoice::Auto, HELD, 80, true),
            (HookChoice::Input, DROPPED, 80, true),
            (HookChoice::Auto, DROPPED, 81, false),
            (HookChoice::Prerouting, DROPPED, 80, false),
        ] {
            let place = place(choice, steer, &PortSet::from_iter([port]), sends);
            let told = place
                .warnings
                .iter()
                .any(|w| w.contains("may send packets to 80 elsewhere"));
            assert_eq!(told, warns, "{choice:?} {steer:?} {port}");
        }
    }

    #[test]
    fn what_tproxy_hands_to_a_gated_port_is_told() {
        let hands = |asked_for: Option<&[u16]>| Firewall {
            proxied: vec![ProxiedPort {
                port: 8080,
                asked_for: asked_for.map(|ports| ports.iter().copied().collect()),
                by: "iptables table mangle, chain PREROUTING".to_owned(),
            }],
            ..Firewall::default()
        };
        let redirects = Some(Steer::Redirect(8081));
        for (choice, steer, gated, asked_for, says) in [
            (
                HookChoice::Auto,
                DROPPED,
                &[8080][..],
                Some(&[80][..]),
                Some("by --port 80 --listen-port 80=8080"),
            ),
            (
                HookChoice::Auto,
                HELD,
                &[8080],
                Some(&[80]),
                Some("packets to 80 to"),
            ),
            (
                HookChoice::Prerouting,
                HELD,
                &[8080],
                Some(&[80]),
                Some("packets to 80 to"),
            ),
            (
                HookChoice::Auto,
                redirects,
                &[8080],
                None,
                Some("packets to other ports"),
            ),
            (HookChoice::Auto, None, &[8080], Some(&[80]), None),
            (HookChoice::Auto, DROPPED, &[80], Some(&[80]), None),
            (HookChoice::Auto, DROPPED, &[80, 8080], Some(&[80]), None),
        ] {
            let ports = gated.iter().copied().collect();
            let place = place(choice, steer, &ports, || hands(asked_for));
            let told: Vec<&String> = place
                .warnings
                .iter()
                .filter(|w| w.contains("TPROXY"))
                .collect();
            assert_eq!(
                told.len(),
                usize::from(says.is_some()),
                "{choice:?} {steer:?} {gated:?}"
            );
            assert!(
                told.iter()
                    .all(|text| text.contains(says.unwrap_or_default())),
                "{told:?}"
            );
        }
    }

    /// `--syn hold`, where no queue could be had.
    #[test]
    fn who_drops_after_all_is_told_who_uses_up_the_syn() {
        let held = |look: fn() -> Firewall| place(HookChoice::Auto, HELD, &PortSet::EMPTY, look);
        let harm = held(|| firewall(true, false)).harm_of_dropping("--syn drop");
        for part in ["SYNPROXY", "nft table t, chain c", "--syn drop avoids that"] {
            assert!(harm.as_ref().unwrap().contains(part), "{part}: {harm:?}");
        }
        assert_eq!(held(Firewall::default).harm_of_dropping("--syn drop"), None);
    }

    #[test]
    fn what_would_use_syns_up_does_not_matter_to_syns_that_are_held_early() {
        let look = || firewall(true, false);
        let place = place(HookChoice::Prerouting, HELD, &PortSet::EMPTY, look);
        assert_eq!(place, Place::at(Where::Prerouting));
    }
}

//! What follows from what was found, in words. Pure.

mod host;
mod item;
mod service;

pub(crate) use self::item::Advice;

use super::endpoint::Endpoint;
use super::host::Host;
use crate::words::ports::PortSet;

/// Everything that follows. `endpoints`: who listens, if that could be seen. `wanted`: the ports that
/// were asked for, if any were.
pub(crate) fn advise(
    host: &Host,
    endpoints: Option<&[Endpoint]>,
    wanted: Option<&PortSet>,
) -> Vec<Advice> {
    let listening = endpoints.map(|all| all.iter().map(|endpoint| endpoint.port).collect());
    let mut all = host::advise_ports(host, wanted, listening.as_ref());
    all.extend(service::advise(host, endpoints.unwrap_or_default()));
    all.extend(host::advise(host));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::endpoint::{Control, ListeningProcess};
    use crate::commands::check::host::tests::{no, usual};
    use crate::commands::check::host::{ConntrackUse, Published};
    use crate::gate::consumers::Consumes;

    fn process(name: &str, pid: i32) -> ListeningProcess {
        ListeningProcess {
            name: name.to_owned(),
            pid,
            control: Some(Control::Systemd(name.to_owned())),
        }
    }

    /// On port 80; processes of nginx hold the sockets.
    fn endpoint(sockets: usize, processes: i32) -> Endpoint {
        Endpoint {
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

    /// Without the advice that each host gets.
    fn said(host: &Host, endpoints: &[Endpoint]) -> Vec<Advice> {
        let mut all = advise(host, Some(endpoints), None);
        let of_each_host = ["syn_retries", "redirected_left"];
        all.retain(|advice| !of_each_host.contains(&advice.code));
        all
    }

    fn whole(advice: &Advice) -> String {
        let command = advice.command.iter().map(|call| format!(": {call}"));
        advice.text.clone() + &command.collect::<String>()
    }

    #[test]
    fn what_follows_from_an_endpoint() {
        type Case = (
            Endpoint,
            fn(&mut Host, &mut Endpoint),
            &'static [(&'static str, &'static str)],
        );
        let cases: [Case; 12] = [
            (
                endpoint(1, 3),
                |_, _| (),
                &[(
                    "shared_socket",
                    "80: one socket, held by nginx (3 processes): it survives",
                )],
            ),
            (
                endpoint(1, 3),
                |_, _| (),
                &[(
                    "shared_socket",
                    "wrap restarts: syngate --port 80 -- systemctl restart nginx",
                )],
            ),
            (
                endpoint(1, 1),
                |_, _| (),
                &[("one_process", "held by nginx alone: a restart closes it")],
            ),
            (
                endpoint(1, 0),
                |h, _| h.privileges.sys_ptrace = false,
                &[(
                    "holders_unseen",
                    "can't be seen without privilege; wrap restarts: syngate --port 80 -- COMMAND",
                )],
            ),
            (
                endpoint(4, 5),
                |_, _| (),
                &[(
                    "reuseport_group",
                    "a SO_REUSEPORT group of 4, held by nginx: a reload that closes some of them resets what waits in their queues (tcp_migrate_req is 0); wrap reloads too: syngate --port 80 --drain-until handshakes -- systemctl reload nginx",
                )],
            ),
            (
                endpoint(4, 5),
                |h, _| {
                    h.sysctls.insert("net.ipv4.tcp_migrate_req", None);
                },
                &[("reuseport_group", "tcp_migrate_req is not in this kernel")],
            ),
            (
                endpoint(4, 5),
                |h, _| {
                    h.sysctls.insert("net.ipv4.tcp_migrate_req", Some(1));
                },
                &[("reuseport_migrated", "is moved to another one")],
            ),
            (
                endpoint(1, 0),
                |_, p| p.processes = vec![process("systemd", 1), process("app", 7)],
                &[(
                    "socket_activation",
                    "it outlives the service, so no gate is needed",
                )],
            ),
            (
                endpoint(1, 1),
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
                endpoint(1, 1),
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
                endpoint(1, 1),
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
                endpoint(1, 1),
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
        for (n, (mut endpoint, change, expected)) in cases.into_iter().enumerate() {
            let mut host = usual();
            change(&mut host, &mut endpoint);
            let all = said(&host, &[endpoint]);
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
        let cases: [(Change, &[&str]); 10] = [
            (|_| (), &[]),
            (
                |h| h.firewall.consumers = vec![(Consumes::Rate, String::new())],
                &["syn_used_up"],
            ),
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
                    h.conntrack = Some(ConntrackUse {
                        count: 90,
                        max: 100,
                    })
                },
                &["conntrack_full"],
            ),
            (
                |h| {
                    h.conntrack = Some(ConntrackUse {
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
        let mut other = endpoint(1, 3);
        other.port = 443;
        let mut v6 = endpoint(1, 3);
        v6.address = "::".parse().unwrap();
        let mut alone = endpoint(1, 0);
        alone.port = 22;
        let texts: Vec<String> = said(&usual(), &[alone, endpoint(1, 3), v6, other])
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
        let all = advise(&host, Some(&[endpoint(1, 1)]), Some(&wanted));
        let none: Vec<_> = all.iter().filter(|a| a.code == "no_listener").collect();
        assert_eq!(none.len(), 1);
        assert_eq!(none[0].ports, ports("82"));
        // Nobody is said not to listen where the listeners can't be seen.
        let unseen = advise(&host, None, Some(&wanted));
        assert!(unseen.iter().all(|a| a.code != "no_listener"), "{unseen:?}");
        assert!(unseen.iter().any(|a| a.code == "published"), "{unseen:?}");
    }
}

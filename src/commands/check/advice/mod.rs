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
    let asked = wanted.is_some();
    all.extend(service::advise(host, endpoints.unwrap_or_default(), asked));
    all.extend(host::advise(host));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::endpoint::{Control, ListeningProcess};
    use crate::commands::check::host::tests::{no, usual};
    use crate::commands::check::host::{ConntrackUse, Published};
    use crate::gate::by_port::{Does, Matched, PortRule};
    use crate::gate::consumers::Consumes;
    use crate::kernel::support::Support;

    fn process(name: &str, pid: i32) -> ListeningProcess {
        ListeningProcess {
            name: name.to_owned(),
            pid,
            control: Some(Control::Systemd(name.to_owned())),
            has_master: false,
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
            uid: Some(0),
            reuseport: None,
            unparkable: None,
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
        let cases: [Case; 15] = [
            (
                endpoint(1, 3),
                |_, _| (),
                &[(
                    "shared_socket",
                    "80: one socket, held by nginx (3 processes): a reload",
                )],
            ),
            (
                endpoint(1, 3),
                |_, _| (),
                &[(
                    "shared_socket",
                    "use syngate for restarts: syngate --port 80 --syn auto -- systemctl restart nginx",
                )],
            ),
            (
                endpoint(1, 3),
                |h, _| h.rooms.moves = no(),
                &[(
                    "shared_socket",
                    "use syngate for restarts: syngate --port 80 -- systemctl restart nginx",
                )],
            ),
            (
                endpoint(4, 5),
                |h, _| h.rooms.copies = no(),
                &[(
                    "reuseport_group",
                    ": syngate --port 80 --syn auto --reload -- systemctl reload nginx",
                )],
            ),
            (
                endpoint(1, 1),
                |_, p| p.processes[0].has_master = true,
                &[(
                    "master_worker",
                    "the master hands it on at a reload, so no gate is needed for that; use syngate for restarts: syngate",
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
                    "can't be seen without privilege; use syngate for restarts: syngate --port 80 --syn auto -- COMMAND",
                )],
            ),
            (
                endpoint(4, 5),
                |_, _| (),
                &[(
                    "reuseport_group",
                    "a SO_REUSEPORT group of 4, held by nginx: a reload that closes some of them resets what waits in their queues (tcp_migrate_req is 0); use syngate for reloads too: syngate --port 80 --syn auto --reload -- systemctl reload nginx",
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
                        "80: backlog 128: a service that accepts nothing for 128 ms fills it, at 1,000 new connections a second; those that come then are dropped, and tried again a second later; the service asked for no more (net.core.somaxconn allows 4096)",
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
                        "are reset (tcp_abort_on_overflow); net.core.somaxconn is 128: raise it",
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
                        "300 connections wait to be accepted, of 511 at most",
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

    /// What the advice with this code says, if it is given.
    fn told(all: &[Advice], code: &str) -> Option<String> {
        let mut of_code = all.iter().filter(|advice| advice.code == code);
        let first = of_code.next().map(whole);
        assert!(of_code.next().is_none(), "{code} is told twice");
        first
    }

    #[test]
    fn only_systemd_itself_activates_sockets() {
        for (name, pid, activates) in [
            ("systemd", 1, true),
            ("nginx", 1, false),
            ("systemd", 800, false),
        ] {
            let mut endpoint = endpoint(1, 0);
            endpoint.processes = vec![process(name, pid)];
            let all = said(&usual(), &[endpoint]);
            let told = told(&all, "socket_activation").is_some();
            assert_eq!(told, activates, "{name}, pid {pid}");
        }
    }

    #[test]
    fn a_queue_is_full_when_more_than_half_of_it_is() {
        let of = |waiting, backlog| {
            let mut endpoint = endpoint(1, 1);
            (endpoint.accept_queue, endpoint.backlog) = (waiting, backlog);
            told(&said(&usual(), &[endpoint]), "accept_queue").is_some()
        };
        assert!(of(257, 512));
        assert!(!of(256, 512));
        assert!(!of(0, 0), "nobody waits");
    }

    #[test]
    fn a_small_backlog_is_told_with_what_keeps_it_small() {
        let of = |backlog, most| {
            let mut host = usual();
            host.sysctls.insert("net.core.somaxconn", most);
            let mut endpoint = endpoint(1, 1);
            endpoint.backlog = backlog;
            told(&said(&host, &[endpoint]), "small_backlog")
        };
        assert_eq!(of(256, Some(4096)), None);
        for (backlog, most, says) in [
            (255, Some(4096), "the service asked for no more"),
            (200, Some(200), "net.core.somaxconn is 200: raise it"),
            (200, Some(128), "net.core.somaxconn is 128: raise it"),
            (200, None, "the service, or net.core.somaxconn, asks"),
        ] {
            let told = of(backlog, most).unwrap();
            assert!(told.contains(says), "{told}");
        }
    }

    #[test]
    fn services_are_told_apart_by_their_processes_and_sockets() {
        let on = |port: u16, processes: &[i32], sockets| {
            let mut endpoint = endpoint(sockets, 0);
            endpoint.port = port;
            let process = |pid: &i32| process(if *pid < 10 { "nginx" } else { "php" }, *pid);
            endpoint.processes = processes.iter().map(process).collect();
            endpoint
        };
        let services = |endpoints: &[Endpoint]| -> Vec<String> {
            let all = said(&usual(), endpoints);
            all.iter().map(|advice| advice.ports.to_string()).collect()
        };
        assert_eq!(
            services(&[on(80, &[1, 2], 1), on(81, &[1, 2], 1)]),
            ["80-81"]
        );
        assert_eq!(
            services(&[on(80, &[1, 2], 1), on(81, &[1, 3], 1)]),
            ["80", "81"]
        );
        assert_eq!(
            services(&[on(80, &[1, 2], 1), on(81, &[1, 2], 2)]),
            ["80", "81"]
        );
        assert_eq!(
            services(&[on(80, &[], 1), on(81, &[], 1)]),
            ["80", "81"],
            "unseen"
        );
        let both = said(&usual(), &[on(80, &[3, 12], 1)]);
        assert!(whole(&both[0]).contains("held by nginx and php (2 processes)"));
        let group = said(&usual(), &[on(80, &[], 2), on(81, &[], 4)]);
        assert!(whole(&group[0]).contains("group of 2: "), "nobody is named");
    }

    #[test]
    fn a_full_queue_resets_where_the_host_says_so() {
        for (abort, says) in [
            (Some(1), "are reset (tcp_abort_on_overflow)"),
            (Some(0), "are dropped, and tried again"),
            (None, "are dropped, and tried again"),
        ] {
            let mut host = usual();
            host.sysctls.insert("net.ipv4.tcp_abort_on_overflow", abort);
            let mut endpoint = endpoint(1, 1);
            endpoint.accept_queue = 511;
            let told = told(&said(&host, &[endpoint]), "accept_queue").unwrap();
            assert!(told.contains(says), "{told}");
        }
    }

    #[test]
    fn ports_that_are_sent_elsewhere_are_told_by_rule() {
        let published = |port, by: &str| Published {
            port,
            by: by.to_owned(),
        };
        let mut host = usual();
        host.published = vec![
            published(80, "docker"),
            published(443, "docker"),
            published(81, "ours"),
            published(22, "docker"),
        ];
        let of = |host: &Host| {
            let mut all = advise(host, None, Some(&ports("80-443")));
            all.retain(|advice| advice.code == "published");
            all
        };
        let all = of(&host);
        let told: Vec<String> = all.iter().map(|advice| advice.ports.to_string()).collect();
        assert_eq!(told, ["80,443", "81"]);
        assert!(all[0].text.contains("(docker)"));
        assert!(all[0].text.ends_with("--hook prerouting"), "it works");
        host.prerouting = no();
        assert!(of(&host)[0].text.contains("not in this kernel"));
        host.prerouting = Support::Unknown("it refuses".to_owned());
        assert!(of(&host)[0].text.contains("is not known"));
    }

    #[test]
    fn rules_that_a_redirect_would_lead_past_are_told() {
        let mut host = usual();
        host.by_port = vec![PortRule {
            does: Does::Refuses,
            by: "iptables table filter, chain f2b".to_owned(),
            table: "filter".to_owned(),
            to: None,
            ports: Matched::These(ports("80,8080")),
            original: false,
            local: false,
        }];
        let of = |wanted: &str| advise(&host, None, Some(&ports(wanted)));
        let all = of("80,443");
        let advice = all.iter().find(|advice| advice.code == "refused_by_port");
        let advice = advice.expect("a rule refuses by port 80");
        assert_eq!(advice.ports, ports("80"));
        assert!(advice.text.contains("chain f2b"), "{}", advice.text);
        assert!(told(&of("443"), "refused_by_port").is_none());
        // Without ports, those that are listened on count.
        let listening = advise(&host, Some(&[endpoint(1, 1)]), None);
        assert!(told(&listening, "refused_by_port").is_some());
    }

    #[test]
    fn the_services_of_a_director_are_told_with_their_ports() {
        let mut host = usual();
        let services = ["10.0.0.1:80", "[fd00::1]:443"];
        host.ipvs = Some(services.map(str::to_owned).to_vec());
        let all = said(&host, &[]);
        assert_eq!(all[0].ports, ports("80,443"));
        assert!(all[0].text.contains("(10.0.0.1:80, [fd00::1]:443)"));
    }

    #[test]
    fn what_helps_where_rules_use_syns_up() {
        let of = |change: fn(&mut Host)| {
            let mut host = usual();
            change(&mut host);
            told(&said(&host, &[]), "syn_used_up").unwrap()
        };
        let late = of(|h| h.firewall.consumers = vec![(Consumes::Rate, "by a rule".to_owned())]);
        assert!(
            late.contains("(by a rule): --hook auto, the default"),
            "{late}"
        );
        let translated = of(|h| {
            h.firewall.consumers = vec![(Consumes::Rate, String::new())];
            h.firewall.translates = Some("docker".to_owned());
        });
        assert!(translated.contains("NAT may send packets elsewhere (docker)"));
        let early = of(|h| h.firewall.early = vec![(Consumes::Rate, String::new())]);
        assert!(early.contains("no gate comes before"), "{early}");
    }

    #[test]
    fn what_opens_a_gate_of_iptables_is_told() {
        let mut host = usual();
        (host.nf_tables, host.timed_sets) = (no(), no());
        let of = |host: &Host| told(&said(host, &[]), "iptables_backend").unwrap();
        assert!(of(&host).contains("by xt_recent"));
        host.xt_recent = Support::Unknown(String::new());
        assert!(of(&host).contains("by the wall clock"));
        // The gate is there too.
        host.iptables[0].rules = Some(3);
        assert!(told(&said(&host, &[]), "legacy_rules").is_none());
        let mut other = usual();
        other.iptables[1].rules = Some(3);
        assert!(told(&said(&other, &[]), "legacy_rules").is_none());
    }

    #[test]
    fn counts_are_told_with_their_numbers() {
        let mut host = usual();
        host.counts.insert("ListenOverflows", Some(7));
        host.counts.insert("SyncookiesSent", Some(8));
        host.sysctls.insert("net.ipv4.tcp_syncookies", Some(0));
        let all = said(&host, &[]);
        let says =
            |code: &str, what: &str| told(&all, code).is_some_and(|text| text.contains(what));
        assert!(says("listen_overflows", " 7 times"));
        assert!(says("syncookies_sent", "8 SYN cookies"));
        assert!(says("syncookies_off", "tcp_max_syn_backlog (2048)"));
    }

    #[test]
    fn whether_connections_can_be_parked_is_told_for_ports_that_were_asked_for() {
        let of = |host: &Host, reuseport| {
            let mut endpoint = endpoint(1, 1);
            endpoint.reuseport = reuseport;
            let why = "its listener is one of MPTCP".to_owned();
            endpoint.unparkable = reuseport.is_none().then_some(why);
            let all = advise(host, Some(&[endpoint]), Some(&ports("80")));
            all.into_iter()
                .find(|advice| advice.code.ends_with("parked"))
        };
        let told = |host: &Host, reuseport| of(host, reuseport).map(|advice| whole(&advice));
        let mut host = usual();
        let sets = told(&host, Some(true)).unwrap();
        assert!(
            sets.ends_with("at once: the service sets SO_REUSEPORT"),
            "{sets}"
        );
        let lent = told(&host, Some(false)).unwrap();
        assert!(lent.ends_with("gets it for the time of the run"), "{lent}");
        let cannot = of(&host, None).unwrap();
        assert_eq!(cannot.code, "not_parked");
        let why = "not possible: its listener is one of MPTCP";
        assert!(cannot.text.contains(why), "{}", cannot.text);
        // 64 rooms have room for 65,536 together.
        let mut most = |most| {
            host.sysctls.insert("net.core.somaxconn", Some(most));
            told(&host, Some(true)).unwrap()
        };
        assert!(!most(2048).contains("may wait"));
        let few = most(1000);
        let says = "no more than 32000 may wait, since net.core.somaxconn is 1000";
        assert!(few.contains(says), "{few}");

        host.rooms.moves = no();
        assert_eq!(told(&host, Some(true)), None, "the host's rows tell why");
        let mut activated = endpoint(1, 0);
        activated.processes = vec![process("systemd", 1)];
        let all = advise(&usual(), Some(&[activated]), Some(&ports("80")));
        assert!(all.iter().all(|advice| !advice.code.ends_with("parked")));
        let unasked = said(&usual(), &[endpoint(1, 1)]);
        assert!(
            unasked
                .iter()
                .all(|advice| !advice.code.ends_with("parked"))
        );
    }

    #[test]
    fn bugs_of_the_kernel_in_moving_connections_are_told() {
        let mut host = usual();
        assert_eq!(told(&said(&host, &[]), "kernel_bugs"), None);
        host.made_from = "6.1.119".to_owned();
        let bugs = told(&said(&host, &[]), "kernel_bugs").unwrap();
        assert!(bugs.starts_with("with --syn park: "), "{bugs}");
        host.rooms.moves = no();
        assert_eq!(told(&said(&host, &[]), "kernel_bugs"), None);
    }
}

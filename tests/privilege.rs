//! The least that syngate needs, and that it has no more than its caller; with the unit in
//! contrib/systemd, which gives it just that.

mod harness;

/// Each host has several users: these tests need root.
mod of_several_users {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use testkit::services::Serve;
    use testkit::{
        Host, Load, NODE_B, NODE_B6, Pair, Ran, SERVER, Trio, VIP, VIP6, slow, wait_until,
    };

    use crate::harness::instance::ask;
    use crate::harness::keep::{Keep, waiting_client};
    use crate::harness::latch::Latch;
    use crate::harness::rooms::all_served;
    use crate::harness::{
        Backend, Call, Outcome, SOON, SYNGATE, call, gated, queues, stopped_syns, wait_shut, words,
    };

    /// An ordinary user.
    const USER: &str = "setpriv --reuid 4711 --regid 4711 --clear-groups --no-new-privs";
    /// The same, who may listen on port 80.
    const BINDING_USER: &str = "setpriv --reuid 4711 --regid 4711 --clear-groups --inh-caps +net_bind_service \
                                --ambient-caps +net_bind_service";
    const LONG: Duration = Duration::from_secs(60);

    /// As that user, with these capabilities handed on, and none but these within reach.
    fn user_with(capabilities: &str) -> Vec<String> {
        let sets = ["--inh-caps", "--ambient-caps", "--bounding-set"];
        let sets = sets.map(|set| format!("{set} -all{capabilities}"));
        words(&format!("{USER} {}", sets.join(" ")))
    }

    /// As root with these capabilities.
    fn root_with(capabilities: &str) -> Vec<String> {
        words(&format!(
            "setpriv --inh-caps -all --bounding-set -all{capabilities} --no-new-privs"
        ))
    }

    /// The host's directory is the user's, with a place for its locks.
    fn of_user(host: &Host) -> String {
        host.must(["chown", "4711:4711", host.dir().to_str().unwrap()]);
        host.dir().join("locks").display().to_string()
    }

    /// Neither was anything changed, nor COMMAND run; the line that says why.
    #[track_caller]
    fn not_run(host: &Host, outcome: &Outcome) -> String {
        assert_eq!(outcome.code, 125, "{outcome:?}");
        assert!(!gated(host), "{outcome:?}");
        assert!(!host.dir().join("ran").exists(), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        outcome.stderr.clone()
    }

    fn touch(host: &Host) -> [PathBuf; 2] {
        ["touch".into(), host.dir().join("ran")]
    }

    // Limits ---------------------------------------------------------------------------------------

    /// However few processes the user may have: the run is whole, or does not begin.
    #[test]
    fn a_limit_of_processes_ends_no_run_in_its_middle() {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let _server = Serve::on("0.0.0.0:80").start(host).unwrap();
        let locks = of_user(host);
        // The kernel counts the processes of this number on the whole host.
        let user = user_with(",+net_admin").join(" ").replace("4711", "4713");
        host.must(["chown", "-R", "4713:4713", host.dir().to_str().unwrap()]);
        for backend in [Backend::Nft, Backend::NftPlain] {
            let mut statuses = BTreeSet::new();
            for processes in 0..6 {
                let options = words("--port 80 --drain 0 --settle 0 --ready-check true");
                let call = call(host, options)
                    .on(backend)
                    .env("SYNGATE_LOCK_DIR", &locks)
                    .by(words(&format!(
                        "prlimit --nproc={processes}:{processes} {user}"
                    )));
                let outcome = call.run(["true"]);
                assert!([0, 125].contains(&outcome.code), "{processes}: {outcome:?}");
                assert_eq!(
                    outcome.stderr.lines().count(),
                    1,
                    "{processes}: {outcome:?}"
                );
                ask(&pair.client, &format!("{SERVER}:80"));
                statuses.insert(outcome.code);
            }
            assert_eq!(statuses.len(), 2, "{backend:?}");
        }
    }

    // The least ----------------------------------------------------------------------------------

    /// A service of the user's own, restarted by the user while a client comes.
    fn restarted_by_user(backend: Backend, syn: &str) {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let locks = of_user(host);
        let pid = host.dir().join("server.pid");
        let start = Serve::on("0.0.0.0:8080").daemon_argv(&pid).unwrap();
        host.must(user_with("").iter().chain(&start));
        let mut latch = Latch::new(host, "down");
        let command = format!(
            "kill $(cat {}); {}; exec {}",
            pid.display(),
            latch.hold(),
            start.join(" ")
        );
        let standby = Serve::on("0.0.0.0:8081").argv().unwrap().join(" ");
        let mut call = call(host, ["--port", "8080", "--max-closed", "2m", "--syn", syn])
            .on(backend)
            .env("SYNGATE_LOCK_DIR", &locks)
            .by(user_with(",+net_admin"));
        if syn.starts_with("redirect") {
            call = call.args(["--standby", &standby]);
        }
        let run = call.start(["sh", "-c", &command]);
        latch.wait();
        wait_shut(host, &[8080]);

        let to = format!("{SERVER}:8080");
        let client = Load::to(&to).rate(1_000).timeout(LONG);
        let client = client.duration(Duration::from_millis(1));
        let client = client.start(&pair.client).unwrap();
        // The fourth column: how many wait.
        let waits = || match syn {
            "drop" => stopped_syns(host) > 0,
            "hold" => {
                let queues = queues(host);
                let row: Vec<&str> = queues.split_whitespace().collect();
                row.get(2).is_some_and(|n| *n != "0")
            }
            _ => true,
        };
        wait_until(SOON, "a SYN at the gate", waits).unwrap();
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.report["backend"], backend.reported());
        assert_eq!(outcome.report["action"], syn.split('=').next().unwrap());
        let served = client.finish().unwrap();
        assert_eq!((served.failed(), served.ok), (0, served.sent), "{served}");
        ask(&pair.client, &to);
    }

    /// Not on a kernel without nft's queue: see `iptables_legacy_needs_root_and_cap_net_raw`.
    fn makes_what_holds(backend: Backend) -> bool {
        backend.to_hold() == backend
    }

    #[test]
    fn cap_net_admin_is_all_that_nft_needs() {
        for backend in [Backend::Nft, Backend::NftPlain] {
            restarted_by_user(backend, "drop");
            if makes_what_holds(backend) {
                restarted_by_user(backend, "hold");
            }
        }
        restarted_by_user(Backend::Nft, "redirect=8081");
    }

    #[test]
    fn cap_net_admin_is_all_that_diverting_needs() {
        let trio = Trio::new().unwrap();
        let serve = || Serve::on("0.0.0.0:80").and_on("[::]:80");
        let _both = [&trio.a, &trio.b].map(|host| serve().start(host).unwrap());
        let locks = of_user(&trio.a);
        let options = format!(
            "--port 80 --syn divert={NODE_B},{NODE_B6} --to {VIP},{VIP6} --drain 0s --settle 0s \
             --peer-timeout {}s",
            2 * slow()
        );
        let call = call(&trio.a, words(&options)).on(Backend::Nft);
        let call = call
            .env("SYNGATE_LOCK_DIR", &locks)
            .by(user_with(",+net_admin"));
        let mut latch = Latch::new(&trio.a, "down");
        let run = call.start(["sh", "-c", &latch.hold()]);
        latch.wait();
        ask(&trio.client, &format!("{VIP}:80"));
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let diverted = outcome.report["divert"]["diverted"].as_u64();
        assert!(diverted.is_some_and(|n| n > 0), "{outcome:?}");
    }

    #[test]
    fn cap_net_admin_is_all_that_iptables_nft_needs() {
        let backend = Backend::IptablesNft;
        for syn in ["drop", "hold", "redirect=8081"] {
            if syn != "hold" || makes_what_holds(backend) {
                restarted_by_user(backend, syn);
            }
        }
    }

    /// /proc/net/ip_tables_names and /run/xtables.lock are root's, and it uses a raw socket. So it is where
    /// it takes the place of nft, to hold SYNs.
    #[test]
    fn iptables_legacy_needs_root_and_cap_net_raw() {
        let options = words("-q --port 80 --drain 0 --ready-timeout 0");
        iptables_legacy_needs(|host| call(host, options.clone()).on(Backend::IptablesLegacy));
        iptables_legacy_needs(|host| {
            let call = call(host, options.clone()).on(Backend::Nft);
            call.args(["--syn", "hold"]).fault("no-nft-queue")
        });
    }

    fn iptables_legacy_needs(call: impl for<'a> Fn(&'a Host) -> Call<'a>) {
        let host = Host::new().unwrap();
        Backend::IptablesLegacy.prime(&host);
        let locks = of_user(&host);
        let run = |by: Vec<String>| {
            let call = call(&host).by(by);
            call.env("SYNGATE_LOCK_DIR", &locks).run(touch(&host))
        };
        let dir = host.dir().to_str().unwrap();
        for (owner, by) in [
            ("4711", user_with(",+net_admin,+net_raw")),
            ("0", root_with(",+net_admin")),
        ] {
            // Root does not take its locks among the user's.
            let _ = fs::remove_dir_all(&locks);
            host.must(["chown", owner, dir]);
            let why = not_run(&host, &run(by));
            assert!(
                why.contains("needs root") && why.contains("CAP_NET_RAW"),
                "{why}"
            );
        }
        let outcome = run(root_with(",+net_admin,+net_raw"));
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.report["backend"], "iptables-legacy");
    }

    #[test]
    fn a_user_without_a_place_for_locks_is_told() {
        let host = Host::new().unwrap();
        of_user(&host);
        let call = call(&host, words("--port 80")).by(user_with(",+net_admin"));
        let why = not_run(&host, &call.run(touch(&host)));
        for word in ["/run/syngate", "SYNGATE_LOCK_DIR", "Permission denied"] {
            assert!(why.contains(word), "{word}: {why}");
        }
        // The folder that root's runs have made is no place either.
        let mut of_root = host.command(SYNGATE);
        of_root.args(words("-q --port 80 --drain 0 --ready-timeout 0 -- true"));
        assert!(of_root.status().unwrap().success());
        let why = not_run(&host, &call.run(touch(&host)));
        assert!(why.contains("SYNGATE_LOCK_DIR"), "{why}");
    }

    /// Processes of others can't be looked into; what is known of their sockets remains.
    #[test]
    fn without_cap_sys_ptrace_holders_of_others_have_no_name() {
        let host = Host::new().unwrap();
        let locks = of_user(&host);
        let _server = Serve::on("0.0.0.0:80").start(&host).unwrap();
        let holder = |by: Vec<String>| {
            let _ = fs::remove_dir_all(&locks);
            let call = call(&host, words("--port 80 --settle 0s --ready-timeout 1s"));
            let outcome = call.env("SYNGATE_LOCK_DIR", &locks).by(by).run(["true"]);
            assert_eq!(outcome.code, 0, "{outcome:?}");
            let listeners = &outcome.report["listeners_before"];
            assert_eq!(listeners.as_array().unwrap().len(), 1, "{listeners}");
            listeners[0].clone()
        };
        let unseen = holder(user_with(",+net_admin"));
        host.must(["chown", "0", host.dir().to_str().unwrap()]);
        assert_eq!(unseen, holder(root_with(",+net_admin")), "root or not");
        let seen = holder(root_with(",+net_admin,+sys_ptrace"));
        assert_ne!(unseen, seen, "{unseen}");
        assert!(seen.to_string().contains("testkit"), "{seen}");
        assert!(!unseen.to_string().contains("testkit"), "{unseen}");
    }

    /// Nor can their listeners be copied, beside which waiting rooms stand.
    #[test]
    fn without_cap_sys_ptrace_park_names_what_is_missing() {
        let host = Host::new().unwrap();
        let _server = Serve::on("0.0.0.0:80").start(&host).unwrap();
        let call = call(&host, words("--port 80 --syn park"));
        let by = words("setpriv --bounding-set -sys_ptrace");
        let why = not_run(&host, &call.by(by).run(touch(&host)));
        let says = "hold the listener on 0.0.0.0:80 (that needs CAP_SYS_PTRACE)";
        assert!(why.contains(says), "{why}");
    }

    // No more than the caller --------------------------------------------------------------------

    /// A copy whose owner, mode and capabilities are the test's to choose.
    fn copy(host: &Host) -> String {
        let dir = host.dir().join("sbin");
        let script = format!(
            "mkdir {0} && mount -t tmpfs -o mode=755 none {0} && cp {SYNGATE} {0}/syngate",
            dir.display()
        );
        host.must(["sh", "-c", &script]);
        dir.join("syngate").display().to_string()
    }

    fn by(host: &Host, caller: &[String], program: &str, arguments: &str) -> Ran {
        let mut call = host.command("env");
        call.arg(format!(
            "SYNGATE_LOCK_DIR={}",
            host.dir().join("locks").display()
        ));
        call.args(caller).arg(program).args(words(arguments));
        call.output().unwrap().into()
    }

    /// The user, whom files may give rights.
    const PLAIN_USER: &str = "setpriv --reuid 4711 --regid 4711 --clear-groups";

    /// What makes a file give more than its caller has, and what undoes it.
    const GIVEN: [(&str, &str, &str); 6] = [
        ("chmod u+s", "chmod u-s", "ug-s"),
        ("chmod g+s", "chmod g-s", "ug-s"),
        ("chmod ug+s", "chmod ug-s", "ug-s"),
        ("setcap cap_net_admin+ep", "setcap -r", "setcap -r"),
        ("setcap cap_net_admin+p", "setcap -r", "setcap -r"),
        (
            "setcap cap_net_admin,cap_sys_admin+ep",
            "setcap -r",
            "setcap -r",
        ),
    ];

    #[test]
    fn it_refuses_to_have_more_rights_than_its_caller() {
        let host = Host::new().unwrap();
        of_user(&host);
        let program = copy(&host);
        let before = host.ruleset();
        let (ran, report) = (host.dir().join("ran"), host.dir().join("report"));
        let run = format!(
            "--port 80 --drain 0 --ready-timeout 0 --report-file {} -- touch {}",
            report.display(),
            ran.display()
        );
        let change = |how: &str| host.must(words(&format!("{how} {program}")));
        let nobody = words(PLAIN_USER);
        let admin = words("--inh-caps +net_admin --ambient-caps +net_admin");
        let admin = [nobody.clone(), admin].concat();
        for (give, take, cure) in GIVEN {
            change(give);
            // The one with CAP_NET_ADMIN has what it takes, but not what a set-user-ID file gives.
            let gains = give != "setcap cap_net_admin+p" && give != "setcap cap_net_admin+ep";
            let callers: &[_] = if gains {
                &[&nobody, &admin]
            } else {
                &[&nobody]
            };
            for caller in callers {
                for arguments in [
                    &run,
                    "--help",
                    "--no-such",
                    "check",
                    "status",
                    "clear",
                    "watchdog",
                ] {
                    let told = by(&host, caller, &program, arguments);
                    assert_eq!(told.code(), 125, "{give}: {arguments}: {told:?}");
                    assert_eq!(told.stdout, "", "{give}: {arguments}");
                    assert_eq!(told.stderr.lines().count(), 1, "{give}: {told:?}");
                    assert!(told.stderr.contains(cure), "{give}: {told:?}");
                    assert!(told.stderr.starts_with("syngate: "), "{give}: {told:?}");
                }
            }
            assert_eq!(host.ruleset(), before, "{give}");
            for file in [&ran, &report, &host.dir().join("locks")] {
                assert!(!file.exists(), "{give}: {}", file.display());
            }
            // Root gains nothing by it.
            let told = by(&host, &[], &program, "--version");
            assert_eq!(told.code(), 0, "{give}: {told:?}");
            change(take);
        }
        // And what the caller hands on is the caller's.
        let told = by(&host, &admin, &program, &run);
        assert_eq!(told.code(), 0, "{told:?}");
        assert!(ran.exists() && report.exists());
    }

    /// Where a file can give nothing, there is nothing to refuse.
    #[test]
    fn a_caller_that_gains_nothing_is_not_refused() {
        let host = Host::new().unwrap();
        of_user(&host);
        let program = copy(&host);
        host.must(["chmod", "ug+s", &program]);
        let told = by(&host, &words(USER), &program, "--version");
        assert_eq!(told.code(), 0, "no_new_privs: {told:?}");
        // Its own: it is who it was.
        host.must(["chown", "4711:4711", &program]);
        host.must(["chmod", "ug+s", &program]);
        let plain = words(PLAIN_USER);
        let told = by(&host, &plain, &program, "--version");
        assert_eq!(told.code(), 0, "the owner: {told:?}");
        // Root of a user namespace, with a network of its own.
        let inside = words("unshare --user --map-root-user --net");
        let caller = [plain, inside].concat();
        let run = "--port 80 --drain 0 --ready-timeout 0 -- true";
        let told = by(&host, &caller, SYNGATE, run);
        assert_eq!(told.code(), 0, "{told:?}");
    }

    // The unit -----------------------------------------------------------------------------------

    const UNIT: &str = "contrib/systemd/syngate-restart@.service";
    const KEEPING_UNIT: &str = "contrib/systemd/syngate-keep@.service";

    fn read(file: &str) -> String {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
    }

    /// The settings of the unit for the instance `app`, in their order.
    fn settings(unit: &str) -> Vec<(String, String)> {
        let unit = read(unit).replace("%i", "app");
        let settings = unit.lines().filter(|line| !line.starts_with('#'));
        settings
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    fn setting(unit: &str, name: &str) -> String {
        let values = settings(unit).into_iter().filter(|(n, _)| n == name);
        let values: Vec<String> = values.map(|(_, value)| value).collect();
        assert_eq!(values.len(), 1, "{name}: {values:?}");
        values.into_iter().next().unwrap()
    }

    #[test]
    fn systemd_finds_no_fault_with_the_units() {
        let host = Host::new().unwrap();
        // Where systemd looks for programs without a path.
        let script = format!(
            "mount -t tmpfs none /usr/local/sbin && ln -s {SYNGATE} /usr/local/sbin/syngate"
        );
        host.must(["sh", "-c", &script]);
        for (unit, worst) in [
            (UNIT, 41),
            (KEEPING_UNIT, 39),
            ("contrib/systemd/syngate-closed@.service", 43),
            ("contrib/systemd/syngate-gate@.service", 11),
        ] {
            let name = Path::new(unit).file_name().unwrap().to_str().unwrap();
            let file = host.write(name, read(unit));
            for command in [
                "systemd-analyze verify --man=no",
                &format!("systemd-analyze security --no-pager --offline=true --threshold={worst}"),
            ] {
                let call = [words(command), vec![file.display().to_string()]].concat();
                let ran = Ran::from(host.command(&call[0]).args(&call[1..]).output().unwrap());
                assert!(ran.ok(), "{ran:?}");
                if call[1] == "verify" {
                    assert_eq!((ran.stdout, ran.stderr), (String::new(), String::new()));
                }
            }
        }
    }

    /// As root with what the unit gives it.
    fn root_of(unit: &str) -> Vec<String> {
        assert_eq!(setting(unit, "NoNewPrivileges"), "yes");
        let capabilities = words(&setting(unit, "CapabilityBoundingSet"));
        let names = capabilities.iter().map(|one| one.strip_prefix("CAP_"));
        let names = names.map(|one| format!(",+{}", one.unwrap().to_lowercase()));
        root_with(&names.collect::<String>())
    }

    /// The call of the unit's, with what it may do there: root with its bounding set.
    fn as_the_unit<'a>(host: &'a Host, systemctl: &str, variables: &[&str]) -> Call<'a> {
        let bin = host.dir().join("bin");
        fs::create_dir_all(&bin).unwrap();
        let systemctl = format!("#!/bin/sh\n{systemctl}\n");
        fs::write(bin.join("systemctl"), systemctl).unwrap();
        fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut by = root_of(UNIT);
        by.extend(words("env -i"));
        by.push(format!(
            "PATH={}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            bin.display()
        ));
        by.extend(variables.iter().map(|&variable| variable.to_owned()));
        let directory = format!("/run/{}", setting(UNIT, "RuntimeDirectory"));
        host.must(["install", "-d", "-m", "0755", &directory]);
        let call = call(host, Vec::<String>::new()).by(by);
        call.on(Backend::Nft)
    }

    /// What it runs after its `--`.
    fn command_of_the_unit() -> Vec<String> {
        let line = words(&setting(UNIT, "ExecStart"));
        let (syngate, rest) = line.split_first().unwrap();
        assert_eq!(syngate, "syngate");
        let (separator, command) = rest.split_first().unwrap();
        assert_eq!(separator, "--", "the options are the environment's");
        command.to_vec()
    }

    #[test]
    fn the_unit_may_do_all_that_it_has_to() {
        assert_eq!(setting(UNIT, "EnvironmentFile"), "/etc/default/syngate-app");
        for (syn, backend) in [
            ("drop", Backend::Nft),
            ("hold", Backend::Nft),
            ("auto", Backend::IptablesNft),
        ] {
            if syn == "hold" && !makes_what_holds(backend) {
                continue;
            }
            let pair = Pair::new().unwrap();
            let host = &pair.server;
            let pid = host.dir().join("server.pid");
            let serve = Serve::on("0.0.0.0:80");
            host.must(serve.daemon_argv(&pid).unwrap());
            let asked = host.dir().join("asked");
            let mut latch = Latch::new(host, "down");
            let systemctl = format!(
                "echo \"$@\" >{0}; grep ^Cap /proc/self/status >>{0}; {1}",
                asked.display(),
                latch.hold()
            );
            backend.prime(host);
            let variables = [
                "SYNGATE_PORT=80",
                &format!("SYNGATE_SYN={syn}"),
                &format!("SYNGATE_BACKEND={}", backend.reported()),
            ];
            let call = as_the_unit(host, &systemctl, &variables);
            let run = call.start(command_of_the_unit());
            latch.wait();
            wait_shut(host, &[80]);
            // The test is systemd, with all rights of its own.
            host.must(serve.restart_argv(&pid).unwrap());
            latch.release();
            let outcome = call.end(run);
            assert_eq!(outcome.code, 0, "{outcome:?}");
            assert_eq!(outcome.report["backend"], backend.reported());
            let asked = fs::read_to_string(asked).unwrap();
            assert!(asked.starts_with("restart app.service\n"), "{asked}");
            // By the numbers of linux/capability.h.
            let only: u64 = [0, 2, 7, 10, 12, 19, 21, 39]
                .map(|one| 1 << one)
                .iter()
                .sum();
            for set in ["CapBnd", "CapPrm", "CapEff"] {
                let only = format!("{set}:\t{only:016x}\n");
                assert!(asked.contains(&only), "{asked}");
            }
            ask(&pair.client, &format!("{SERVER}:80"));
        }
    }

    /// `SYNGATE_SYN=auto` as the unit has it, of a service that runs as another user.
    #[test]
    fn the_unit_can_park() {
        let host = Host::new().unwrap();
        host.must(["chmod", "-R", "a+rwX", &host.dir().display().to_string()]);
        host.must(words("sysctl -qw net.ipv4.ip_unprivileged_port_start=80"));
        let pid = host.dir().join("server.pid");
        let serve = Serve::on("0.0.0.0:80");
        let start = [words(USER), serve.daemon_argv(&pid).unwrap()].concat();
        host.must(start.clone());
        let variables = ["SYNGATE_PORT=80", "SYNGATE_SYN=auto"];
        let mut latch = Latch::new(&host, "down");
        let call = as_the_unit(&host, &latch.hold(), &variables);
        let run = call.start(command_of_the_unit());
        latch.wait();
        host.must(["sh", "-c", &format!("kill $(cat {})", pid.display())]);
        host.must(start);
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.report["action"], "park", "{outcome:?}");
    }

    /// The sets of system calls, as systemd has them.
    fn call_sets() -> BTreeMap<String, Vec<String>> {
        let listed = std::process::Command::new("systemd-analyze")
            .args(["--no-pager", "syscall-filter"])
            .output()
            .unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let mut sets = BTreeMap::new();
        let mut name = String::new();
        for line in listed.lines() {
            match line.strip_prefix("    ") {
                None if line.starts_with('@') => name = line.to_owned(),
                Some(call) if !call.starts_with('#') => {
                    let set: &mut Vec<String> = sets.entry(name.clone()).or_default();
                    set.push(call.to_owned());
                }
                _ => (),
            }
        }
        sets
    }

    fn calls_in(set: &str, sets: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
        match sets.get(set) {
            Some(members) => members.iter().flat_map(|m| calls_in(m, sets)).collect(),
            None => [set.to_owned()].into(),
        }
    }

    /// What its system call filter lets through; the rest fails with EPERM.
    fn calls_allowed(unit: &str) -> BTreeSet<String> {
        let sets = call_sets();
        let mut allowed = BTreeSet::new();
        let settings = settings(unit);
        for (_, value) in settings.iter().filter(|(n, _)| n == "SystemCallFilter") {
            match value.strip_prefix('~') {
                Some(set) => allowed = &allowed - &calls_in(set, &sets),
                None => allowed.extend(value.split(' ').flat_map(|one| calls_in(one, &sets))),
            }
        }
        allowed
    }

    /// There is no systemd here that would enforce it: seen from outside, nothing else is asked for.
    #[test]
    fn the_unit_asks_for_nothing_that_it_may_not() {
        let host = Host::new().unwrap();
        let pid = host.dir().join("server.pid");
        let serve = Serve::on("0.0.0.0:80");
        host.must(serve.daemon_argv(&pid).unwrap());
        let log = host.dir().join("strace").display().to_string();
        for syn in ["drop", "hold", "park"] {
            if syn == "hold" && !makes_what_holds(Backend::Nft) {
                continue;
            }
            let variables = [
                "SYNGATE_PORT=80",
                "SYNGATE_SETTLE=10ms",
                &format!("SYNGATE_SYN={syn}"),
                "strace",
                "-qq",
                "-f",
                "-o",
                &log,
            ];
            let outcome = as_the_unit(&host, "true", &variables).run(command_of_the_unit());
            assert_eq!(outcome.code, 0, "{outcome:?}");
            only_allowed(UNIT, &log);
        }
    }

    /// The same of the unit that keeps, while its service is restarted as another user. Its own gaps, and the systemctl of
    /// a unit, are the test of tests/ci/test-systemd.
    #[test]
    fn the_keeping_unit_asks_for_nothing_that_it_may_not() {
        let host = Host::new().unwrap();
        host.must(["chmod", "-R", "a+rwX", &host.dir().display().to_string()]);
        let pid = host.dir().join("server.pid");
        let log = host.dir().join("strace").display().to_string();
        for (options, shares) in [("--port 80", true), ("--port 80 --any", false)] {
            let serve = Serve::on("0.0.0.0:80").reuseport_if(shares);
            let start = [words(BINDING_USER), serve.daemon_argv(&pid).unwrap()].concat();
            let stop = format!("kill $(cat {})", pid.display());
            let trace = words(&format!("strace -D -qq -f -o {log}"));
            host.must(start.clone());
            for by in [root_of(KEEPING_UNIT), trace] {
                let keep = Keep::begun_by(&host, &by, options, &[]);
                host.must(["sh", "-c", &stop]);
                let waits = waiting_client(&host);
                host.must(start.clone());
                all_served(&waits.finish().unwrap());
                keep.ends(1);
            }
            only_allowed(KEEPING_UNIT, &log);
            host.must(["sh", "-c", &stop]);
        }
    }

    /// Of what strace has seen.
    #[track_caller]
    fn only_allowed(unit: &str, log: &str) {
        let allowed = calls_allowed(unit);
        assert!(
            allowed.contains("execve") && !allowed.contains("mount"),
            "{allowed:?}"
        );
        let families = setting(unit, "RestrictAddressFamilies");
        let families: Vec<&str> = families.split(' ').collect();
        let traced = fs::read_to_string(log).unwrap();
        for line in traced.lines() {
            let Some((call, arguments)) = line
                .split_once(' ')
                .and_then(|(_, rest)| rest.trim_start().split_once('('))
            else {
                continue;
            };
            if !call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                continue;
            }
            assert!(allowed.contains(call), "{unit}: {line}");
            if call == "socket" {
                let family = arguments.split(',').next().unwrap();
                assert!(families.contains(&family), "{line}");
            }
        }
        assert!(traced.contains("AF_NETLINK"), "it was traced");
    }

    // The unit that it is a part of ----------------------------------------------------------------

    /// A control group as systemd would make one for a unit: a real one, in the kernel's only hierarchy
    /// of version 2, with a name of our own.
    struct OwnUnit<'a> {
        host: &'a Host,
        name: String,
        directory: PathBuf,
    }

    impl OwnUnit<'_> {
        fn new(host: &Host) -> OwnUnit<'_> {
            let hierarchy = host.dir().join("cgroup");
            fs::create_dir(&hierarchy).unwrap();
            host.must([
                "mount",
                "-t",
                "cgroup2",
                "none",
                hierarchy.to_str().unwrap(),
            ]);
            let name = format!("syngate-test-{}", host.pid());
            let directory = hierarchy.join(format!("{name}.service"));
            host.must(["mkdir", directory.to_str().unwrap()]);
            OwnUnit {
                host,
                name,
                directory,
            }
        }

        /// The words before a call that is to be a part of it.
        fn enter(&self) -> Vec<String> {
            let script = format!(
                "echo $$ >{}/cgroup.procs && exec \"$@\"",
                self.directory.display()
            );
            ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
        }
    }

    impl Drop for OwnUnit<'_> {
        fn drop(&mut self) {
            let removed = self.host.run(["rmdir", self.directory.to_str().unwrap()]);
            if !std::thread::panicking() {
                removed.unwrap();
            }
        }
    }

    #[test]
    fn a_unit_can_not_restart_or_reload_itself() {
        let host = Host::new().unwrap();
        let own = OwnUnit::new(&host);
        let bin = host.dir().join("bin");
        fs::create_dir(&bin).unwrap();
        for name in ["systemctl", "service"] {
            let script = format!("#!/bin/sh\nexec touch {}/ran\n", host.dir().display());
            fs::write(bin.join(name), script).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let quick = "-q --port 80 --drain 0 --ready-timeout 0";
        let run = |by: &[String], options: &str, command: &str| {
            let _ = fs::remove_file(host.dir().join("ran"));
            let call = call(&host, words(options)).env("PATH", &path);
            call.by(by.to_vec()).run(words(command))
        };
        let refused = |options: &str, command: &str| {
            let outcome = run(&own.enter(), options, command);
            let why = not_run(&host, &outcome);
            assert_eq!(outcome.report["reason"], "own_unit", "{why}");
            for word in [&*format!("{}.service", own.name), "ExecReload=", "$MAINPID"] {
                assert!(why.contains(word), "{word}: {why}");
            }
        };
        let done = |by: &[String], command: &str| {
            let outcome = run(by, quick, command);
            assert_eq!(outcome.code, 0, "{command}: {outcome:?}");
            assert!(host.dir().join("ran").exists(), "{command}");
        };
        let name = &own.name;
        let restart = format!("systemctl restart {name}");
        refused(quick, &restart);
        refused(
            quick,
            &format!("systemctl reload --no-block {name}.service"),
        );
        // Nothing makes it right, and no precheck is run before.
        refused(&format!("{quick} --best-effort"), &restart);
        refused(&format!("{quick} --precheck=exit"), &restart);
        done(&own.enter(), "systemctl restart another");
        done(&own.enter(), &format!("systemctl -M box restart {name}"));
        done(&[], &restart);

        // By service(8), where systemd is the init.
        let service = format!("service {name} restart");
        done(&own.enter(), &service);
        let booted = host.dir().join("booted");
        fs::create_dir_all(booted.join("systemd/system")).unwrap();
        host.bind(&booted, "/run").unwrap();
        refused(quick, &service);
        done(&[], &service);
    }

    /// `syngate -- systemctl reload x`, where ExecReload= of x calls syngate as well: the one would wait
    /// for the other's lock, gate closed.
    #[test]
    fn a_reload_that_is_gated_already_is_not_gated_once_more() {
        let host = Host::new().unwrap();
        let own = OwnUnit::new(&host);
        let mut latch = Latch::new(&host, "reloading");
        let bin = host.dir().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(
            bin.join("systemctl"),
            format!("#!/bin/sh\n{}\n", latch.hold()),
        )
        .unwrap();
        fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let outer = call(&host, words("--port 80 --drain 0 --ready-timeout 0")).env("PATH", &path);
        let run = outer.start(["systemctl", "reload", &own.name]);
        latch.wait();
        let inner = call(&host, words("-q --port 80 --lock-timeout 1s"));
        let inner = inner.report_to(host.dir().join("inner.json"));
        for (by, reason) in [(own.enter(), "nested"), (Vec::new(), "lock_timeout")] {
            let outcome = inner.clone().by(by).run(touch(&host));
            assert_eq!(outcome.code, 125, "{outcome:?}");
            assert_eq!(outcome.report["reason"], reason, "{outcome:?}");
            assert!(!host.dir().join("ran").exists());
        }
        latch.release();
        assert_eq!(outer.end(run).code, 0);
    }
}

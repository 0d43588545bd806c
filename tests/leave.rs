//! `--leave`: health checks fail first, so that a load balancer takes the host out before its gate closes.

mod harness;

use std::ffi::OsStr;
use std::time::Duration;

use harness::latch::Latch;
use harness::{
    Backend, Call, SOON, all_refused, call, gated, ms, status, syngate, tell, wait_open, words,
};
use nix::sys::signal::Signal;
use serde_json::json;
use testkit::services::{Haproxy, HaproxyConfig, Serve};
use testkit::{
    CLIENT, Fleet, Host, Load, LoadReport, Pair, Running, SERVER, SERVER6, slow, wait_until,
};

const LONG: Duration = Duration::from_secs(60);
/// What curl(1) exits with if it could not connect.
const REFUSED: i32 = 7;

/// What becomes of a connection: curl's exit status.
fn asked(from: &Host, to: &str, port: u16) -> i32 {
    let ask = format!("curl -gsSo /dev/null --max-time 10 http://{to}:{port}/");
    from.sh(&ask).unwrap().code()
}

/// A pair whose server has a service on port 80 and its health checks on 8081.
fn served() -> (Pair, [Running; 2]) {
    let pair = Pair::new().unwrap();
    let on = |port| Serve::on(format!("0.0.0.0:{port}")).and_on(format!("[::]:{port}"));
    let services = [80, 8081].map(|port| on(port).start(&pair.server).unwrap());
    (pair, services)
}

fn leave<'a>(host: &'a Host, options: &str) -> Call<'a> {
    call(host, words("--port 80 --leave 8081 --drain 0s --settle 0s")).args(words(options))
}

/// Waits until health checks are refused.
#[track_caller]
fn wait_refused(pair: &Pair) {
    let refused = || asked(&pair.client, SERVER, 8081) == REFUSED;
    wait_until(SOON, "refused health checks", refused).unwrap();
}

#[test]
fn health_checks_fail_first_and_answer_last_on_each_backend() {
    for backend in Backend::ALL {
        let (pair, _services) = served();
        let mut latch = Latch::new(&pair.server, "down");
        let call = leave(&pair.server, "--leave-quiet 500ms --leave-timeout 20s").on(backend);
        let before = pair.server.ruleset();
        let run = call.start(["sh", "-c", &latch.hold()]);
        wait_refused(&pair);
        // The service is served meanwhile, and those connections are counted.
        for address in [SERVER, &format!("[{SERVER6}]")] {
            assert_eq!(asked(&pair.client, address, 80), 0, "{backend:?}");
            assert_eq!(asked(&pair.client, address, 8081), REFUSED, "{backend:?}");
        }
        latch.wait();
        assert_eq!(asked(&pair.client, SERVER, 8081), REFUSED, "{backend:?}");
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{backend:?}: {outcome:?}");
        assert_eq!(asked(&pair.client, SERVER, 8081), 0, "{backend:?}");
        assert_eq!(pair.server.ruleset(), before, "{backend:?}");
        let left = &outcome.report["leave"];
        assert_eq!(left["ports"], json!(["8081"]));
        assert_eq!(
            (&left["quiet"], &left["connections"]),
            (&json!(true), &json!(2)),
            "{left}"
        );
        assert!(left["refused"].as_u64().unwrap() >= 3, "{left}");
        assert!(ms(left, "wait_ms") >= 500.0, "{left}");
        let said = "syngate: left the load balancer in ";
        assert!(outcome.stderr.contains(said), "{outcome:?}");
    }
}

/// As long as new connections come, the run waits, and goes on when its time is over.
#[test]
fn a_load_balancer_that_does_not_leave_is_told() {
    let (pair, _services) = served();
    let load = Load::to(format!("{SERVER}:80")).rate(100).duration(LONG);
    let mut load = load.start(&pair.client).unwrap();
    load.wait_flowing().unwrap();
    let call = leave(&pair.server, "--leave-quiet 1s --leave-timeout 2s");
    let outcome = call.run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let told =
        "--leave-timeout 2s is over, and the load balancer may still send connections here: ";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
    let warning = outcome.report["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with(told), "{warning}");
    let left = &outcome.report["leave"];
    assert_eq!(left["quiet"], false, "{left}");
    assert!(
        left["connections"].as_u64().unwrap() > 50 / u64::from(slow()),
        "{left}"
    );
    assert!(ms(left, "wait_ms") >= 2_000.0, "{left}");
    assert_eq!(load.stop().unwrap().failed(), 0);
}

/// `--leave-from` with `--leave`: the others' checks are answered, and their connections are counted.
#[test]
fn only_the_load_balancer_s_checks_fail() {
    for backend in Backend::ALL {
        let (pair, _services) = served();
        let latch = Latch::new(&pair.server, "down");
        let from = format!("--leave-from {CLIENT},fd00::/8 --leave-quiet 300ms");
        let call = leave(&pair.server, &from).on(backend);
        let mut run = call.start(["sh", "-c", &latch.hold()]);
        wait_refused(&pair);
        let v6 = format!("[{SERVER6}]");
        assert_eq!(asked(&pair.client, &v6, 8081), REFUSED, "{backend:?}");
        assert_eq!(asked(&pair.server, "127.0.0.1", 8081), 0, "{backend:?}");
        let (gates, code) = status(&pair.server);
        assert_eq!(code, 3, "{gates:?}");
        latch.wait();
        let (gates, _) = status(&pair.server);
        let leaving = gates
            .iter()
            .find(|gate| gate["state"] == "leaving")
            .unwrap();
        assert_eq!(
            leaving["leave_from"],
            json!([CLIENT, "fd00::/8"]),
            "{leaving}"
        );
        assert_eq!(leaving["ports"], json!(["8081"]));
        run.signal(Signal::SIGKILL).unwrap();
        wait_open(&pair.server, SOON);
    }
}

/// `--leave-from` alone: the load balancer checks the gated port, and its connections are refused there, through
/// the closed gate, too.
#[test]
fn a_load_balancer_is_refused_on_the_gated_port() {
    for backend in Backend::ALL {
        let (pair, _services) = served();
        let mut latch = Latch::new(&pair.server, "down");
        let options = format!("--port 80 --drain 0s --leave-from {CLIENT} --leave-quiet 500ms");
        let call = call(&pair.server, words(&options)).on(backend);
        let run = call.start(["sh", "-c", &latch.hold()]);
        let refused = || asked(&pair.client, SERVER, 80) == REFUSED;
        wait_until(SOON, "a refused load balancer", refused).unwrap();
        latch.wait();
        assert_eq!(asked(&pair.client, SERVER, 80), REFUSED, "{backend:?}");
        // The gate does not let others in.
        let v6 = format!("curl -gsSo /dev/null --connect-timeout 0.3 http://[{SERVER6}]:80/");
        assert_eq!(pair.client.sh(&v6).unwrap().code(), 28, "{backend:?}");
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{backend:?}: {outcome:?}");
        assert_eq!(asked(&pair.client, SERVER, 80), 0, "{backend:?}");
    }
}

// Ends in the phase -------------------------------------------------------------------------------

/// A run that waits for quiet, as long as it is let.
fn waiting<'a>(pair: &'a Pair, backend: Backend) -> (Call<'a>, Running) {
    let call = leave(&pair.server, "--leave-quiet 30s --leave-timeout 60s").on(backend);
    let mark = pair.server.dir().join("ran");
    let run = call.start([OsStr::new("touch"), mark.as_os_str()]);
    wait_refused(pair);
    (call, run)
}

#[test]
fn killed_it_refuses_nobody() {
    for backend in Backend::ALL {
        let (pair, _services) = served();
        backend.prime(&pair.server);
        let before = pair.server.ruleset();
        let (_call, mut run) = waiting(&pair, backend);
        run.signal(Signal::SIGKILL).unwrap();
        wait_open(&pair.server, SOON);
        assert_eq!(asked(&pair.client, SERVER, 8081), 0, "{backend:?}");
        assert_eq!(pair.server.ruleset(), before, "{backend:?}");
    }
}

#[test]
fn a_signal_ends_it_at_once() {
    for (signal, code, reason) in [
        (Signal::SIGINT, 130, "before_command"),
        (Signal::SIGTERM, 143, "before_command"),
        (Signal::SIGUSR1, 125, "opened_early"),
    ] {
        for backend in Backend::ALL {
            let (pair, _services) = served();
            backend.prime(&pair.server);
            let before = pair.server.ruleset();
            let (call, mut run) = waiting(&pair, backend);
            run.signal(signal).unwrap();
            let outcome = call.end(run);
            assert_eq!(outcome.code, code, "{backend:?}: {outcome:?}");
            assert_eq!(outcome.report["reason"], reason, "{outcome:?}");
            assert_eq!(asked(&pair.client, SERVER, 8081), 0, "{backend:?}");
            assert_eq!(pair.server.ruleset(), before, "{backend:?}");
            assert!(!pair.server.dir().join("ran").exists(), "{outcome:?}");
        }
    }
}

/// Stopped, with its watchdog: the kernel lets health checks through by itself.
#[test]
fn a_hung_run_refuses_nobody_for_ever() {
    let all = Backend::ALL.map(|backend| {
        let (pair, services) = served();
        let options = "--leave-quiet 5s --leave-timeout 8s --max-closed 2s";
        let call = leave(&pair.server, options).on(backend);
        let mut run = call.start(["sleep", "60"]);
        wait_refused(&pair);
        run.signal(Signal::SIGSTOP).unwrap();
        let watchdog = pair.server.sh("pkill -STOP gate-watchdog").unwrap().ok();
        assert_eq!(watchdog, backend != Backend::Nft, "{backend:?}");
        assert_eq!(asked(&pair.client, SERVER, 8081), REFUSED, "{backend:?}");
        (run, pair, services)
    });
    for (_run, pair, _services) in &all {
        let answers = || asked(&pair.client, SERVER, 8081) == 0;
        wait_until(SOON * 3, "health checks that answer", answers).unwrap();
    }
}

#[test]
fn clear_ends_it() {
    for (backend, port) in [(Backend::Nft, 80), (Backend::IptablesNft, 8081)] {
        let (pair, _services) = served();
        let (call, run) = waiting(&pair, backend);
        let cleared = syngate(&pair.server, &format!("clear --port {port}"));
        assert_eq!(cleared.code(), 0, "{cleared:?}");
        assert_eq!(asked(&pair.client, SERVER, 8081), 0, "{backend:?}");
        assert_eq!(call.end(run).code, 125);
    }
}

/// What a dead run has left is found: its watchdog was killed with it.
#[test]
fn what_a_dead_run_refuses_is_cleared_and_swept() {
    for backend in Backend::EXPOSED {
        for by_clear in [true, false] {
            let (pair, _services) = served();
            let (_call, mut run) = waiting(&pair, backend);
            pair.server.must(["pkill", "-STOP", "gate-watchdog"]);
            run.signal(Signal::SIGKILL).unwrap();
            pair.server.must(["pkill", "-KILL", "gate-watchdog"]);
            let (gates, _) = status(&pair.server);
            assert_eq!(
                (gates.len(), &gates[0]["stale"]),
                (1, &json!(true)),
                "{gates:?}"
            );
            if by_clear {
                let cleared = syngate(&pair.server, "clear");
                assert_eq!(cleared.code(), 0, "{cleared:?}");
            } else {
                let outcome = call(&pair.server, words("--port 80"))
                    .on(backend)
                    .start(["true"]);
                drop(outcome.output().unwrap());
            }
            assert!(!gated(&pair.server), "{backend:?}");
            assert_eq!(asked(&pair.client, SERVER, 8081), 0, "{backend:?}");
        }
    }
}

/// As somebody does who loads a firewall.
fn flush(host: &Host, backend: Backend) {
    let line = match backend {
        Backend::NftPlain => "nft flush ruleset",
        Backend::IptablesNft => "iptables-nft -F; ip6tables-nft -F",
        _ => "iptables-legacy -F; ip6tables-legacy -F",
    };
    host.must(["sh", "-c", line]);
}

#[test]
fn rules_that_others_remove_stand_again() {
    for backend in Backend::EXPOSED {
        let (pair, _services) = served();
        let (call, mut run) = waiting(&pair, backend);
        flush(&pair.server, backend);
        wait_refused(&pair);
        run.signal(Signal::SIGTERM).unwrap();
        let outcome = call.end(run);
        let told = "another program removed or changed the rules of --leave";
        assert!(outcome.stderr.contains(told), "{backend:?}: {outcome:?}");
    }
}

// Each action -------------------------------------------------------------------------------------

#[test]
fn each_action_leaves_first() {
    for options in [
        "--syn drop",
        "--syn hold",
        "--syn auto",
        "--syn redirect=8080",
        "--syn park --reload",
        "--syn handover",
    ] {
        let pair = Pair::new().unwrap();
        let on = |port| Serve::on(format!("0.0.0.0:{port}")).and_on(format!("[::]:{port}"));
        let _others = [8080, 8081].map(|port| on(port).start(&pair.server).unwrap());
        let service = on(80).reuseport().start_daemon(&pair.server).unwrap();
        let options = format!("--port 80 --leave 8081 --leave-quiet 200ms {options}");
        let options = options.replace(" --reload", "");
        let mark = pair.server.dir().join("refused");
        let command = service.restart_argv().join(" ");
        let script = format!(
            "curl -sSo /dev/null http://{SERVER}:8081/; echo $? >{}; {command}",
            mark.display()
        );
        let outcome = call(&pair.server, words(&options)).run(["sh", "-c", &script]);
        assert_eq!(outcome.code, 0, "{options}: {outcome:?}");
        assert_eq!(std::fs::read_to_string(&mark).unwrap(), "7\n", "{options}");
        assert_eq!(outcome.report["leave"]["quiet"], true, "{options}");
        assert_eq!(asked(&pair.client, SERVER, 8081), 0, "{options}");
        assert_eq!(asked(&pair.client, SERVER, 80), 0, "{options}");
    }
}

/// A health check that is published for a container comes to the prerouting hook only.
#[test]
fn published_health_checks_are_refused_before_routing() {
    let (pair, _services) = served();
    pair.server.must([
        "sh",
        "-c",
        "nft add table ip n; \
        nft 'add chain ip n p { type nat hook prerouting priority -100; }'; \
        nft add rule ip n p tcp dport 9000 dnat to 10.77.0.1:8081",
    ]);
    let latch = Latch::new(&pair.server, "down");
    let options = "--port 80 --hook prerouting --leave 9000 --leave-quiet 200ms";
    let run = call(&pair.server, words(options)).on(Backend::Nft);
    let mut run = run.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    assert_eq!(asked(&pair.client, SERVER, 9000), REFUSED);
    run.signal(Signal::SIGKILL).unwrap();
    wait_open(&pair.server, SOON);
    assert_eq!(asked(&pair.client, SERVER, 9000), 0);
}

/// The service has a network namespace of its own, as a container's, and its health checks are answered here.
#[test]
fn a_service_elsewhere_leaves_first() {
    let pair = Pair::new().unwrap();
    let (server, client) = (&pair.server, &pair.client);
    let _health = Serve::on("0.0.0.0:8081").start(server).unwrap();
    server.must([
        "sh",
        "-ec",
        "ip netns add web
         ip link add web0 type veth peer name eth0 netns web
         ip address add 172.30.0.1/24 dev web0
         ip link set web0 up
         sysctl -qw net.ipv4.ip_forward=1
         nsenter --net=/run/netns/web sh -c 'ip link set lo up; ip address add 172.30.0.2/24 dev eth0; \
             ip link set eth0 up; ip route add default via 172.30.0.1'
         nft add table ip n
         nft 'add chain ip n p { type nat hook prerouting priority -100; }'
         nft add rule ip n p tcp dport 80 dnat to 172.30.0.2:8080",
    ]);
    let within = words("nsenter --net=/run/netns/web");
    let _service = Serve::on("0.0.0.0:8080").start_by(server, &within).unwrap();
    let served = || asked(client, SERVER, 80) == 0;
    wait_until(SOON, "the service", served).unwrap();
    let mut latch = Latch::new(server, "down");
    let options = "--hook prerouting --listen-port 80=8080 --listen-netns web --leave-quiet 500ms";
    let call = leave(server, options).on(Backend::Nft);
    let run = call.start(["sh", "-c", &latch.hold()]);
    wait_refused(&pair);
    assert_eq!(asked(client, SERVER, 80), 0, "it is served meanwhile");
    latch.wait();
    assert_eq!(asked(client, SERVER, 8081), REFUSED);
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let left = &outcome.report["leave"];
    let of = (&left["quiet"], &left["connections"]);
    assert_eq!(of, (&json!(true), &json!(1)), "{left}");
    assert_eq!([80, 8081].map(|port| asked(client, SERVER, port)), [0, 0]);
}

/// An action without rules of its own has no other reason to look at them. Rooms exclude `--backend`.
#[test]
fn rules_that_others_remove_stand_again_while_connections_are_parked() {
    let (pair, _services) = served();
    let mut latch = Latch::new(&pair.server, "down");
    let options = "--port 80 --leave 8081 --syn park --ready-timeout 0 --leave-quiet 200ms";
    let call = call(&pair.server, words(options)).on(Backend::NftPlain);
    let run = call.start(["sh", "-c", &latch.hold()]);
    latch.wait();
    assert_eq!(asked(&pair.client, SERVER, 8081), REFUSED);
    flush(&pair.server, Backend::NftPlain);
    wait_refused(&pair);
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let told = "another program removed or changed the rules of --leave";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
    assert_eq!(outcome.report["action"], "park", "{outcome:?}");
}

// Bad input and plans -----------------------------------------------------------------------------

#[test]
fn what_makes_no_sense_is_refused() {
    let host = Host::new().unwrap();
    all_refused(
        &host,
        &[
            ("--leave 0", "", "--leave: '0'"),
            ("--leave 65536", "", "--leave: '65536'"),
            ("--leave 80", "options", "--leave 80: --port 80 gates that"),
            (
                "--leave-from x",
                "",
                "--leave-from: 'x' is not an IP address",
            ),
            (
                "--leave-from 0.0.0.0/0",
                "options",
                "that refuses every client",
            ),
            (
                "--leave-quiet 3s",
                "options",
                "--leave-quiet 3s has no effect without --leave",
            ),
            (
                "--leave-timeout 3s",
                "options",
                "--leave-timeout 3s has no effect without --leave",
            ),
            (
                "--leave 81 --leave-quiet 0s",
                "options",
                "--leave-quiet 0s: ",
            ),
            (
                "--leave 81 --leave-quiet 5s --leave-timeout 5s",
                "options",
                "--leave-quiet 5s is not shorter than --leave-timeout 5s: ",
            ),
            (
                "--leave 81 --leave-timeout 5s",
                "options",
                "--leave-quiet 6s is not shorter than --leave-timeout 5s: ",
            ),
            (
                "--leave 81 --hook prerouting --backend iptables-nft",
                "options",
                "iptables refuses",
            ),
        ],
    );
}

#[test]
fn nft_takes_the_rules_of_a_dry_run() {
    let host = Host::new().unwrap();
    let options = "--dry-run --port 80 --leave 8081 --leave-from 10.0.0.0/24,fd00::1 --to 10.0.0.1";
    let shown = syngate(&host, &format!("{options} -- true"));
    assert_eq!(shown.code(), 0, "{shown:?}");
    for line in [
        "# leave the load balancer: refuse new connections to 8081 from 10.0.0.0/24,fd00::1, until the gate is open again",
        "# wait at most 1m until no new connections have come to 80 for 6s",
        "reject with tcp reset",
    ] {
        assert!(shown.stdout.contains(line), "{line}: {}", shown.stdout);
    }
    let file = host.write("rules.nft", shown.stdout);
    host.must([
        OsStr::new("nft"),
        OsStr::new("-c"),
        OsStr::new("-f"),
        file.as_os_str(),
    ]);
}

#[test]
fn a_port_s_status_tells_a_run_from_none() {
    let (pair, _services) = served();
    let quiet = |port: u16| {
        let ran = syngate(&pair.server, &format!("status --quiet --port {port}"));
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
        ran.code()
    };
    assert_eq!(quiet(80), 0);
    let mut latch = Latch::new(&pair.server, "down");
    let call = leave(&pair.server, "--leave-quiet 2s");
    let run = call.start(["sh", "-c", &latch.hold()]);
    wait_refused(&pair);
    assert_eq!([80, 8081, 81].map(quiet), [3, 3, 0], "it leaves");
    latch.wait();
    assert_eq!([80, 8081, 81].map(quiet), [3, 3, 0], "it is closed");
    latch.release();
    assert_eq!(call.end(run).code, 0);
    assert_eq!([80, 8081, 81].map(quiet), [0, 0, 0]);
    let blind = pair.server.must(["sh", "-c", &format!(
        "setpriv --bounding-set -net_admin --inh-caps -net_admin {} status --quiet --port 80; echo $?",
        harness::SYNGATE
    )]);
    assert_eq!(blind, "1\n", "it could not look");
}

// A load balancer ---------------------------------------------------------------------------------

/// haproxy before the two last servers of a fleet.
struct Balanced {
    fleet: Fleet,
    _balancer: Running,
}

impl Balanced {
    fn new(backend: &str, servers: &str) -> Balanced {
        let fleet = Fleet::steered_by_flow(3).unwrap();
        for server in &fleet.servers[1..] {
            let config = HaproxyConfig::bind("0.0.0.0:80").and_bind("0.0.0.0:8081");
            Haproxy::debian_init(server, &config)
                .unwrap()
                .start()
                .unwrap();
        }
        let lines: String = (1..3)
            .map(|n| format!("server s{n} {}:80 {servers}\n", Fleet::address(n)))
            .collect();
        let config = format!(
            "defaults\nmode http\ntimeout connect 5s\ntimeout client 50s\ntimeout server 50s\n\
             frontend web\nbind :80\nstats enable\nstats uri /stats\ndefault_backend app\n\
             backend app\n{backend}\n{lines}"
        );
        let file = fleet.servers[0].write("lb.cfg", config);
        let mut balancer = fleet.servers[0].command("haproxy");
        let balancer = fleet.servers[0]
            .spawn(balancer.arg("-db").arg("-f").arg(file))
            .unwrap();
        let balanced = Balanced {
            fleet,
            _balancer: balancer,
        };
        balanced.fleet.servers[0].wait_listen(80).unwrap();
        balanced.wait_up();
        balanced
    }

    /// Waits until both servers take part.
    fn wait_up(&self) {
        let stats = "curl -fsS 'http://127.0.0.1/stats;csv' | grep -c '^app,s.*,UP,'";
        let up = || self.fleet.servers[0].sh(stats).unwrap().stdout == "2\n";
        wait_until(SOON * 2, "both servers up", up).unwrap();
    }

    /// Restarts both, one after the other, under load.
    fn restart(&self, mut restart: impl FnMut(&Host)) -> LoadReport {
        let load = Load::to(format!("{}:80", Fleet::address(0)));
        let load = load.rate(200).duration(LONG * 2);
        let mut load = load.start(&self.fleet.client).unwrap();
        load.wait_flowing().unwrap();
        for server in &self.fleet.servers[1..] {
            restart(server);
            self.wait_up();
        }
        load.stop().unwrap()
    }
}

const RESTART: [&str; 3] = ["service", "haproxy", "restart"];

/// Each behind syngate.
fn restarts(balanced: &Balanced, options: &str) -> LoadReport {
    balanced.restart(|server| {
        let options = format!("--port 80 {options} --leave-quiet 1s");
        let outcome = call(server, words(&options)).run(RESTART);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.report["leave"]["quiet"], true, "{outcome:?}");
        assert_eq!(
            outcome.report["syns_stopped"], 0,
            "nobody waits at the gate: {outcome:?}"
        );
    })
}

/// Nobody has failed or waited; and without syngate the load finds what would be found.
#[test]
fn rolling_restarts_behind_haproxy_that_checks_a_port_of_its_own() {
    let servers = "check port 8081 inter 200ms fall 3 rise 2";
    let balanced = Balanced::new("option httpchk GET /", servers);
    let left = restarts(&balanced, "--leave 8081");
    let bare = balanced.restart(|server| {
        server.must(RESTART);
    });
    tell(&format!("left: {left}\nbare: {bare}"));
    assert_eq!(left.failed(), 0, "{left}");
    let most = 50.0 * f64::from(slow());
    assert!(left.total.max_ms < most, "{left}");
    let worst = left.total.max_ms.max(most);
    assert!(bare.failed() > 0 || bare.total.max_ms > worst, "{bare}");
}

/// The checks go to the port of the service: haproxy tries what is refused on the other server. Where only one is
/// left, it waits a second first (`back_handle_st_cer()`), as it does without syngate.
#[test]
fn rolling_restarts_behind_haproxy_that_checks_the_gated_port() {
    let backend = "option httpchk GET /\noption redispatch 1\nretries 3";
    let balanced = Balanced::new(backend, "check inter 200ms fall 3 rise 2");
    let options = format!("--leave-from {}", Fleet::address(0));
    let left = restarts(&balanced, &options);
    tell(&format!("left: {left}"));
    assert_eq!(left.failed(), 0, "{left}");
}

/// nginx takes a server out by the first connection that is refused, and asks the next one at once.
#[test]
fn rolling_restarts_behind_nginx() {
    let fleet = Fleet::steered_by_flow(3).unwrap();
    for server in &fleet.servers[1..] {
        let haproxy = Haproxy::debian_init(server, &HaproxyConfig::bind("0.0.0.0:80")).unwrap();
        haproxy.start().unwrap();
    }
    let balancer = &fleet.servers[0];
    let servers: String = (1..3)
        .map(|n| {
            format!(
                "server {}:80 max_fails=1 fail_timeout=1s;\n",
                Fleet::address(n)
            )
        })
        .collect();
    let dir = balancer.dir().display();
    let config = format!(
        "pid {dir}/nginx.pid;\nerror_log stderr crit;\nevents {{}}\nhttp {{\naccess_log off;\n\
         upstream app {{\n{servers}}}\nserver {{\nlisten 80;\nlocation / {{ proxy_pass http://app; }}\n}}\n}}\n"
    );
    let file = balancer.write("lb.conf", config);
    let mut nginx = balancer.command("nginx");
    let _nginx = balancer
        .spawn(nginx.args(["-g", "daemon off;", "-c"]).arg(file))
        .unwrap();
    balancer.wait_listen(80).unwrap();
    let load = Load::to(format!("{}:80", Fleet::address(0)));
    let mut load = load
        .rate(200)
        .duration(LONG * 2)
        .start(&fleet.client)
        .unwrap();
    load.wait_flowing().unwrap();
    for server in &fleet.servers[1..] {
        let from = Fleet::address(0);
        let options = format!("--port 80 --leave-from {from} --leave-quiet 1s");
        let outcome = call(server, words(&options)).run(RESTART);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let refused = outcome.report["leave"]["refused"].as_u64();
        assert!(refused > Some(0), "{outcome:?}");
        // nginx asks again after fail_timeout: the server takes part when it has accepted.
        let before = server.tcp_counter("PassiveOpens").unwrap();
        let again = || server.tcp_counter("PassiveOpens").unwrap() > before + 10;
        wait_until(SOON, "requests to the server", again).unwrap();
    }
    let report = load.stop().unwrap();
    tell(&format!("left: {report}"));
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.total.max_ms < 50.0 * f64::from(slow()), "{report}");
}

//! `--syn park`: new connections are established while the gate is closed, and wait until the service
//! listens again. Real clients tell whether they noticed.

mod harness;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use harness::keep::wait_queued;
use harness::latch::Latch;
use harness::rooms::{
    GROUPS_HIDDEN, ONE_BY_ONE, SHARES_PORT, all_served, another_can_share, are_parked, figure,
    listeners, no_syn_was_lost, notes, nothing_is_left, queued, with_a_deadline,
};
use harness::{Call, Outcome, SOON, SYNGATE, all_refused, call, ms, queues, words};
use nix::sys::signal::Signal;
use testkit::services::{Haproxy, HaproxyConfig, Nginx, NginxConfig, Serve};
use testkit::{Delay, Host, Load, Pair, Running, SERVER, SERVER6, slow, wait_until};

const LONG: Duration = Duration::from_secs(60);
/// A service that is down for as long as the test wants.
struct Restarted<'a> {
    host: &'a Host,
    start: String,
    pid: PathBuf,
    latch: Latch,
    /// How many listeners it has.
    sockets: usize,
    /// Whom it has accepted.
    accepted: PathBuf,
}

impl<'a> Restarted<'a> {
    fn new(host: &'a Host, server: Serve) -> Restarted<'a> {
        Restarted::by(host, server, "")
    }

    /// The server is started by way of another program, such as setpriv(1).
    fn by(host: &'a Host, server: Serve, by: &str) -> Restarted<'a> {
        let accepted = host.dir().join("accepted");
        std::fs::write(&accepted, "").unwrap();
        host.must(["chmod", "-R", "a+rwX", &host.dir().display().to_string()]);
        let pid = host.dir().join("server.pid");
        let server = server.log_accepts(&accepted).daemon_argv(&pid).unwrap();
        let start = format!("{by} {}", server.join(" "));
        host.must(["sh", "-c", &start]);
        Restarted {
            host,
            start,
            pid,
            latch: Latch::new(host, "down"),
            sockets: listeners(host).len(),
            accepted,
        }
    }

    /// The service is down when this returns.
    fn begin(&self, call: &Call) -> Running {
        let run = call.start(self.command());
        self.latch.wait();
        run
    }

    fn command(&self) -> [String; 3] {
        let (pid, hold, start) = (self.pid.display(), self.latch.hold(), &self.start);
        let script = format!("kill $(cat {pid}); {hold}; exec {start}");
        ["sh".to_owned(), "-c".to_owned(), script]
    }

    fn finish(&mut self, call: &Call, run: Running) -> Outcome {
        self.latch.release();
        let outcome = call.end(run);
        nothing_is_left(self.host, self.sockets);
        outcome
    }

    fn accepted(&self) -> Vec<SocketAddr> {
        let log = std::fs::read_to_string(&self.accepted).unwrap();
        log.lines().map(|line| line.parse().unwrap()).collect()
    }
}

fn park<'a>(host: &'a Host, options: &str) -> Call<'a> {
    let call = call(host, words("--port 80 --syn park --drain 0s")).unhurried();
    call.args(words(options))
}

fn burst(to: &str, count: u32) -> Load {
    let load = Load::to(to).rate(count * 50).timeout(LONG);
    load.duration(Duration::from_millis(20))
}

#[track_caller]
fn wait_parked(host: &Host, count: u64) {
    assert!(are_parked(host, count), "the gate has opened");
}

// Who waits ---------------------------------------------------------------------------------------

#[test]
fn who_comes_meanwhile_is_connected_at_once_and_served_later() {
    for reuseport in [true, false] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let server = Serve::on("0.0.0.0:80")
            .and_on("[::]:80")
            .reuseport_if(reuseport);
        let mut service = Restarted::new(host, server);
        let call = park(host, "");
        let run = service.begin(&call);
        let loads = [
            (&pair.client, format!("{SERVER}:80")),
            (&pair.client, format!("[{SERVER6}]:80")),
            (host, "127.0.0.1:80".to_owned()),
            (host, "[::1]:80".to_owned()),
        ]
        .map(|(from, to)| burst(&to, 20).start(from).unwrap());
        wait_parked(host, 80);
        service.latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        for load in loads {
            all_served(&load.finish().unwrap());
        }
        no_syn_was_lost(&pair.client);
        no_syn_was_lost(host);
        nothing_is_left(host, 2);
        assert_eq!(service.accepted().len(), 80);
        let counts = ["parked", "handed_over", "reset", "no_room"];
        let counts = counts.map(|name| figure(&outcome, "park", name));
        assert_eq!(counts, [80, 80, 0, 0], "{outcome:?}");
        assert_eq!(outcome.report["action"], "park");
        assert_eq!(outcome.report["backend"], "room");
        let says = format!("{}", outcome.report["message"]);
        assert!(says.contains("80 connections parked (for "), "{says}");
        let longest = ms(&outcome.report["park"], "longest_ms");
        // The first port is closed before the last one, from which on the report counts.
        let since = ms(&outcome.report, "closed_after_ms") + ms(&outcome.report, "closed_ms");
        assert!(longest > 0.0 && longest <= since + 1.0, "{outcome:?}");
    }
}

/// Nobody comes for a while after the gate has closed.
#[test]
fn the_longest_wait_is_a_client_s() {
    for action in ["park", "handover"] {
        let host = Host::new().unwrap();
        let mut service = Restarted::new(&host, Serve::on("0.0.0.0:80").reuseport());
        let call = call(&host, words(&format!("--port 80 --syn {action}"))).unhurried();
        let run = service.begin(&call);
        let nobody = Duration::from_secs(1);
        std::thread::sleep(nobody);
        let came = Instant::now();
        let load = burst("127.0.0.1:80", 3).start(&host).unwrap();
        wait_parked(&host, 3);
        let all_wait = Instant::now();
        std::thread::sleep(nobody / 4);
        let least = all_wait.elapsed();
        service.latch.release();
        all_served(&load.finish().unwrap());
        let most = came.elapsed() + nobody / 2;
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let longest = ms(&outcome.report[action], "longest_ms");
        let longest = Duration::from_secs_f64(longest / 1_000.0);
        assert!(
            least <= longest && longest < most,
            "{longest:?}, {most:?}: {outcome:?}"
        );
        nothing_is_left(&host, 1);
    }
}

/// The option that was given to the old listener and the new one is gone again.
#[test]
fn a_service_without_so_reuseport_has_none_afterwards() {
    let host = Host::new().unwrap();
    let mut service = Restarted::new(&host, Serve::on("0.0.0.0:80"));
    assert!(!another_can_share(&host));
    let call = park(&host, "");
    let run = service.begin(&call);
    assert_eq!(service.finish(&call, run).code, 0);
    assert_eq!(shares_port(&service), "0");
    assert!(
        !another_can_share(&host),
        "the kernel remembers of the port that it was shared"
    );
    assert_eq!(call.run(["false"]).code, 1);
    assert!(!another_can_share(&host));
}

#[test]
fn a_listener_of_mptcp_is_refused_by_its_name() {
    const MPTCP: &str = "import socket, time
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
listener.bind(('127.0.0.1', 80)); listener.listen(5); time.sleep(60)";
    let host = Host::new().unwrap();
    let service = host.command("python3").args(["-c", MPTCP]).spawn();
    let mut service = service.unwrap();
    host.wait_listen(80).unwrap();
    let outcome = park(&host, "").run(["true"]);
    service.kill().unwrap();
    service.wait().unwrap();
    assert_eq!(outcome.code, 125, "{outcome:?}");
    let why = "it is an MPTCP socket, whose connections can't be moved";
    assert!(outcome.stderr.contains(why), "{outcome:?}");
}

fn shares_port(service: &Restarted) -> String {
    let pid = std::fs::read_to_string(&service.pid).unwrap();
    let shares = ["python3", "-c", SHARES_PORT, pid.trim()];
    service.host.must(shares).trim().to_owned()
}

/// As in `ip netns exec`, which mounts a /sys of its own. The run mounts the hierarchy for itself; where it may not, a
/// service that sets SO_REUSEPORT can be parked all the same.
#[test]
fn control_groups_are_hidden() {
    for may_mount in [true, false] {
        let host = Host::new().unwrap();
        let server = Serve::on("0.0.0.0:80").reuseport_if(!may_mount);
        let mut service = Restarted::new(&host, server);
        let call = park(&host, "").by(GROUPS_HIDDEN);
        let call = match may_mount {
            true => call,
            false => call.fault("no-own-mount"),
        };
        let run = service.begin(&call);
        let waiting = burst("127.0.0.1:80", 5).start(&host).unwrap();
        wait_parked(&host, 5);
        let outcome = service.finish(&call, run);
        all_served(&waiting.finish().unwrap());
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let warnings = outcome.report["warnings"].to_string();
        let told = "syngate can't tell COMMAND's own connections from others";
        assert_eq!(warnings.contains(told), !may_mount, "{outcome:?}");
    }
}

/// So many wait for a service with a backlog of 16, and `later` ones come as it is back. All are served, no SYN is
/// lost, and the service has its own backlog back.
#[track_caller]
fn a_crowd_is_served(
    pair: &Pair,
    many: u32,
    (longest_queue, accept_rate): (u32, u32),
    later: impl FnOnce(&str) -> Load,
) -> (Outcome, Vec<SocketAddr>) {
    let host = &pair.server;
    host.must(words(&format!(
        "sysctl -qw net.core.somaxconn={longest_queue}"
    )));
    let server = Serve::on("0.0.0.0:80").backlog(16).accept_rate(accept_rate);
    let mut service = Restarted::new(host, server);
    let call = park(host, "--max-held 10000");
    let run = service.begin(&call);
    let to = format!("{SERVER}:80");
    let load = Load::to(&to).rate(2_000).timeout(LONG);
    let load = load.duration(Duration::from_millis(u64::from(many) / 2));
    let load = load.start(&pair.client).unwrap();
    wait_parked(host, u64::from(many));
    let overflows = || host.tcp_counter("ListenOverflows").unwrap();
    let before = overflows();
    service.latch.release();
    let later = later(&to).start(&pair.client).unwrap();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    for report in [load.finish().unwrap(), later.stop().unwrap()] {
        all_served(&report);
    }
    no_syn_was_lost(&pair.client);
    assert_eq!(overflows(), before, "no SYN found the listener full");
    assert!(listeners(host)[0].contains(" 16 "), "{:?}", listeners(host));
    (outcome, service.accepted())
}

#[test]
fn as_many_as_come_are_served_in_their_order_by_a_short_backlog() {
    const MANY: u32 = 1_000;
    let pair = Pair::new().unwrap();
    // One room, and a listener, for more than usual.
    let (_, accepted) = a_crowd_is_served(&pair, MANY, (16_384, 2_000), |to| burst(to, 20));
    assert!(accepted.len() >= MANY as usize, "{}", accepted.len());
    in_their_order(MANY as usize);
}

fn in_their_order(many: usize) {
    let pair = Pair::steered_by_flow().unwrap();
    let host = &pair.server;
    host.must(words("sysctl -qw net.core.somaxconn=16384"));
    let mut service = Restarted::new(host, Serve::on("0.0.0.0:80").backlog(16));
    let call = park(host, "--max-held 10000");
    let run = service.begin(&call);
    let [came, got] = ["came", "got"].map(|name| host.dir().join(name));
    let mut clients = pair.client.command("python3");
    clients.args(["-c", ONE_BY_ONE, &many.to_string()]);
    let mut clients = pair
        .client
        .spawn(clients.args([&came, &got]).arg(SERVER))
        .unwrap();
    wait_parked(host, many as u64);
    assert_eq!(service.finish(&call, run).code, 0);
    clients.wait().unwrap();
    let came = std::fs::read_to_string(came).unwrap();
    let came: Vec<SocketAddr> = came.lines().map(|line| line.parse().unwrap()).collect();
    let accepted = service.accepted();
    let places = accepted
        .iter()
        .filter_map(|one| came.iter().position(|other| other == one));
    let places: Vec<usize> = places.collect();
    assert_eq!(places.len(), many, "all are served, and once");
    // A handshake whose last ACK has met its data on another CPU ends later: see Pair::steered_by_flow.
    let moved = places
        .iter()
        .enumerate()
        .filter(|(n, place)| n.abs_diff(**place) > 20);
    let moved = moved.count();
    assert!(
        moved <= 20,
        "{moved} were not served in the order of their arrival"
    );
}

/// The kernel's longest queue has no place for all who wait and for new connections.
#[test]
fn more_than_the_longest_queue_takes_leave_place_for_new_connections() {
    let pair = Pair::new().unwrap();
    let later = |to: &str| Load::to(to).rate(100).timeout(LONG).duration(LONG);
    let (outcome, _) = a_crowd_is_served(&pair, 600, (128, 1_000), later);
    assert_eq!(figure(&outcome, "park", "reset"), 0);
}

/// It is given its own backlog back when it has accepted enough, which may be long after COMMAND has ended.
#[test]
fn a_slow_service_has_its_own_backlog_back() {
    let host = Host::new().unwrap();
    let server = Serve::on("0.0.0.0:80").backlog(4).accept_rate(8);
    let mut service = Restarted::new(&host, server);
    let call = park(&host, "");
    let run = service.begin(&call);
    let load = burst("127.0.0.1:80", 30).start(&host).unwrap();
    wait_parked(&host, 30);
    let outcome = service.finish(&call, run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(
        listeners(&host)[0].contains(" 4 "),
        "{:?}",
        listeners(&host)
    );
    all_served(&load.finish().unwrap());
}

/// Its own backlog would have it drop SYNs for as long as it hangs.
#[test]
fn a_service_that_hangs_keeps_the_longer_backlog_and_that_is_told() {
    let host = Host::new().unwrap();
    let server = Serve::on("0.0.0.0:80").backlog(4).accept_rate(1);
    let mut service = Restarted::new(&host, server);
    with_a_deadline(|deadline| {
        let call = park(&host, deadline);
        let run = service.begin(&call);
        let load = burst("127.0.0.1:80", 30).start(&host).unwrap();
        if !are_parked(&host, 30) {
            return false;
        }
        let outcome = service.finish(&call, run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let warnings = outcome.report["warnings"].as_array().unwrap();
        let told = " wait in the accept queue of 0.0.0.0:80, more than the service's own backlog of 4: syngate leaves the longer one of 34";
        assert!(warnings[0].as_str().unwrap().contains(told), "{outcome:?}");
        assert_eq!(warnings.len(), 1, "{outcome:?}");
        assert!(
            listeners(&host)[0].contains(" 34 "),
            "{:?}",
            listeners(&host)
        );
        drop(load);
        true
    });
}

/// Rooms are files.
#[test]
fn a_limit_of_open_files_that_is_too_low_is_named() {
    let host = Host::new().unwrap();
    let _service = Restarted::new(&host, Serve::on("0.0.0.0:80"));
    for limit in [30, 60] {
        let run = format!("ulimit -n {limit}; {SYNGATE} --port 80 --syn park -- true");
        let ran = host.sh(&run).unwrap();
        assert!(ran.stderr.contains("ulimit -n, LimitNOFILE="), "{ran:?}");
    }
}

/// A service may have limits of its own, as sshd has with MaxStartups.
#[test]
fn those_who_wait_are_let_go_no_faster_than_asked() {
    for action in ["park", "handover", "hold"] {
        const MANY: u32 = 31;
        let host = Host::new().unwrap();
        let mut service = Restarted::new(&host, Serve::on("0.0.0.0:80"));
        let options = format!("--port 80 --syn {action} --drain 0s --release-rate 20");
        let call = call(&host, words(&options));
        let run = service.begin(&call);
        let load = burst("127.0.0.1:80", MANY).start(&host).unwrap();
        match action {
            "hold" => wait_until(SOON, "held SYNs", || {
                let queues = queues(&host);
                let held = queues
                    .lines()
                    .filter_map(|line| words(line)[2].parse::<u32>().ok());
                held.sum::<u32>() == MANY
            })
            .unwrap(),
            _ => wait_parked(&host, MANY.into()),
        }
        let outcome = service.finish(&call, run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let report = load.finish().unwrap();
        all_served(&report);
        let took = report.total.max_ms - report.total.min_ms;
        // The first goes at once.
        let least = f64::from(MANY - 1) * 1e3 / 20.0;
        assert!(took > least - 100.0, "{action}: {took} ms: {report}");
        assert!(
            ms(&outcome.report[action], "release_ms") > least - 100.0,
            "{outcome:?}"
        );
    }
}

/// New connections do not wait for those who do.
#[test]
fn a_slow_release_goes_on_when_syngate_is_killed() {
    let host = Host::new().unwrap();
    let mut service = Restarted::new(&host, Serve::on("0.0.0.0:80"));
    let call = park(&host, "--release-rate 10");
    let mut run = service.begin(&call);
    let load = burst("127.0.0.1:80", 20).start(&host).unwrap();
    wait_parked(&host, 20);
    service.latch.release();
    wait_until(SOON, "the first to be let go", || {
        service.accepted().len() > 1
    })
    .unwrap();
    run.signal(Signal::SIGKILL).unwrap();
    run.wait().unwrap();
    let later = burst("127.0.0.1:80", 5)
        .start(&host)
        .unwrap()
        .finish()
        .unwrap();
    all_served(&later);
    assert!(later.total.max_ms < 900.0, "{later}");
    let report = load.finish().unwrap();
    all_served(&report);
    let took = report.total.max_ms - report.total.min_ms;
    assert!(took > 1_500.0, "the guard lets them go as slowly: {report}");
    let gone = || listeners(&host).len() == 1;
    wait_until(SOON, "the end of the rooms", gone).unwrap();
    nothing_is_left(&host, 1);
}

/// Its socket is another user's: only a socket of the same user's shares its port.
#[test]
fn a_service_of_another_user() {
    let host = Host::new().unwrap();
    let by = "setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps +net_bind_service \
              --ambient-caps +net_bind_service";
    let mut service = Restarted::by(&host, Serve::on("0.0.0.0:80"), by);
    let call = park(&host, "");
    let run = service.begin(&call);
    let load = burst("127.0.0.1:80", 20).start(&host).unwrap();
    wait_parked(&host, 20);
    assert_eq!(service.finish(&call, run).code, 0);
    all_served(&load.finish().unwrap());
}

/// Their handshakes are under way when the gate closes, when the old process ends and when those who wait
/// are handed over.
#[test]
fn far_clients_are_lost_nowhere() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let mut service = Restarted::new(host, Serve::on("0.0.0.0:80"));
    let _far = Delay::start(&pair.client, Duration::from_millis(100)).unwrap();
    let load = Load::to(format!("{SERVER}:80"))
        .rate(200 / slow())
        .timeout(LONG);
    let mut load = load.duration(LONG).start(&pair.client).unwrap();
    load.wait_flowing().unwrap();
    let mut before = Latch::new(host, "before");
    let [sh, c, restart] = service.command();
    let call = park(host, "");
    let run = call.start([sh, c, format!("{}; {restart}", before.hold())]);
    before.wait();
    // Packets keep their order: the handshakes are over that had begun before these.
    wait_parked(host, 100 / u64::from(slow()));
    // The end of the old process would cut those that it has accepted.
    let answered = || {
        let sockets = host.must(words("ss -Htnap sport = :80"));
        let mut its_own = sockets.lines().filter(|line| line.contains("pid="));
        its_own.all(|line| line.split_ascii_whitespace().take(2).eq(["LISTEN", "0"]))
    };
    wait_until(SOON, "the old process's last answer", answered).unwrap();
    before.release();
    service.latch.wait();
    wait_parked(host, 120 / u64::from(slow()));
    assert_eq!(service.finish(&call, run).code, 0);
    all_served(&load.stop().unwrap());
    no_syn_was_lost(&pair.client);
}

/// An order to stop must reach the old process: the new one would carry it out, too.
#[test]
fn commands_own_connections_reach_the_old_process_and_no_others_do() {
    for (reuseport, to, told_apart) in [
        (true, "127.0.0.1", true),
        (false, "127.0.0.1", true),
        (false, "[::1]", true),
        (true, "127.0.0.1", false),
        (true, "[::1]", false),
    ] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let server = Serve::on("0.0.0.0:80")
            .and_on("[::]:80")
            .reuseport_if(reuseport);
        let mut service = Restarted::new(host, server);
        let mut before = Latch::new(host, "before");
        let [sh, c, restart] = service.command();
        let ask = format!("curl -s -o /dev/null http://{to}/");
        let call = match told_apart {
            true => park(host, ""),
            false => park(host, "").by(GROUPS_HIDDEN).fault("no-own-mount"),
        };
        let run = call.start([sh, c, format!("{}; {ask}; {restart}", before.hold())]);
        before.wait();
        let load = burst(&format!("{SERVER}:80"), 20)
            .start(&pair.client)
            .unwrap();
        wait_parked(host, 20);
        assert_eq!(service.accepted(), []);
        before.release();
        // It would hang, had it to wait for the new process.
        service.latch.wait();
        assert_eq!(service.accepted().len(), 1);
        let outcome = service.finish(&call, run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        all_served(&load.finish().unwrap());
        assert_eq!(figure(&outcome, "park", "parked"), 20);
        no_group_is_left(host, &outcome);
    }
}

/// It is asked while clients still wait.
#[test]
fn a_ready_check_that_asks_a_gated_port_reaches_the_new_process() {
    for (reuseport, to) in [(true, "127.0.0.1"), (false, "127.0.0.1"), (false, "[::1]")] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let server = Serve::on("0.0.0.0:80")
            .and_on("[::]:80")
            .reuseport_if(reuseport);
        let mut service = Restarted::new(host, server);
        let mut answered = Latch::new(host, "answered");
        // It runs again if COMMAND ended after its success.
        let once = host.dir().join("once");
        let check = format!(
            "curl -s -o /dev/null http://{to}/ && {{ [ -e {0} ] || {{ {1}; touch {0}; }}; }}",
            once.display(),
            answered.hold()
        );
        let call = park(host, "").args(["--ready-check", &check]);
        let run = service.begin(&call);
        let load = burst(&format!("{SERVER}:80"), 20)
            .start(&pair.client)
            .unwrap();
        wait_parked(host, 20);
        service.latch.release();
        answered.wait();
        assert_eq!(service.accepted().len(), 1, "the check's connection alone");
        wait_parked(host, 20);
        answered.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        all_served(&load.finish().unwrap());
        assert_eq!(figure(&outcome, "park", "parked"), 20);
        no_group_is_left(host, &outcome);
        nothing_is_left(host, service.sockets);
    }
}

/// An order to stop would be the new process's. A COMMAND that waits until nobody listens, or until somebody does,
/// would wait for ever.
#[test]
fn commands_own_connections_are_refused_while_nobody_listens() {
    for action in ["park", "handover"] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let service = Restarted::new(host, Serve::on("0.0.0.0:80"));
        let accepted = host.dir().join("accepted-by-new");
        std::fs::write(&accepted, "").unwrap();
        let start = Serve::on("0.0.0.0:80").log_accepts(&accepted);
        let start = start.daemon_argv(&host.dir().join("new.pid")).unwrap();
        let mut refused = Latch::new(host, "refused");
        let script = format!(
            "kill $(cat {}); while curl -s -o /dev/null http://127.0.0.1/; do :; done; {}; {} & \
             until curl -s -o /dev/null http://127.0.0.1/; do sleep 0.01; done",
            service.pid.display(),
            refused.hold(),
            start.join(" ")
        );
        let call = call(host, words(&format!("--port 80 --syn {action}"))).unhurried();
        let run = call.start(["sh", "-c", &script]);
        refused.wait();
        let load = burst(&format!("{SERVER}:80"), 20)
            .start(&pair.client)
            .unwrap();
        wait_parked(host, 20);
        refused.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        all_served(&load.finish().unwrap());
        let by_new = std::fs::read_to_string(&accepted).unwrap();
        assert_eq!(
            by_new.lines().count(),
            21,
            "those who waited, and one of COMMAND"
        );
        nothing_is_left(host, 1);
    }
}

/// COMMAND's connection waits to be accepted as the old process dies. COMMAND may wait for its end, before it starts the
/// new one.
#[test]
fn commands_own_connection_ends_with_the_listener_that_it_waits_for() {
    for (action, to) in [
        ("park", "127.0.0.1"),
        ("handover", "127.0.0.1"),
        ("park", "[::1]"),
    ] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let both = || Serve::on("0.0.0.0:80").and_on("[::]:80");
        let service = Restarted::new(host, both());
        let start = both().daemon_argv(&host.dir().join("new.pid")).unwrap();
        let mut waiting = Latch::new(host, "waiting");
        let script = format!(
            "old=$(cat {}); kill -STOP $old; curl -s -o /dev/null http://{to}/ & curl=$!; {}; \
             kill -KILL $old; wait $curl; [ $? != 0 ] && {}",
            service.pid.display(),
            waiting.hold(),
            start.join(" ")
        );
        let call = call(host, words(&format!("--port 80 --syn {action}"))).unhurried();
        let run = call.start(["sh", "-c", &script]);
        waiting.wait();
        wait_queued(host, 1);
        waiting.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        nothing_is_left(host, service.sockets);
    }
}

/// As `nginx -t` before the start, or a service that ends as it starts: those who waited come back to the room.
#[test]
fn a_listener_that_stays_for_a_moment_takes_nobody_along() {
    /// Python: listens, accepts nobody, and ends.
    const FOR_A_MOMENT: &str = "
import socket, sys, time
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('0.0.0.0', 80)); listener.listen(512)
time.sleep(float(sys.argv[1]))
";
    for (killed, seconds) in [
        (false, "0"),
        (false, "0.003"),
        (false, "0.1"),
        (true, "0.1"),
    ] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let mut service = Restarted::new(host, Serve::on("0.0.0.0:80"));
        let script = host.write("for-a-moment.py", FOR_A_MOMENT);
        let mut between = Latch::new(host, "between");
        let (moment, hold) = (
            format!("python3 {} {seconds}", script.display()),
            between.hold(),
        );
        let (start, pid) = (&service.start, service.pid.display());
        let down = service.latch.hold();
        let command =
            format!("kill $(cat {pid}); {down}; {moment}; {moment}; {hold}; exec {start}");
        let call = park(host, "");
        let mut run = call.start(["sh", "-c", &command]);
        service.latch.wait();
        let load = burst(&format!("{SERVER}:80"), 20)
            .start(&pair.client)
            .unwrap();
        wait_parked(host, 20);
        if killed {
            run.signal(Signal::SIGKILL).unwrap();
            run.wait().unwrap();
        }
        service.latch.release();
        between.wait();
        wait_parked(host, 20);
        let more = burst(&format!("{SERVER}:80"), 20)
            .start(&pair.client)
            .unwrap();
        wait_parked(host, 40);
        between.release();
        all_served(&load.finish().unwrap());
        all_served(&more.finish().unwrap());
        no_syn_was_lost(&pair.client);
        if killed {
            let gone = || listeners(host).len() == 1;
            wait_until(SOON, "the end of the rooms", gone).unwrap();
        } else {
            let outcome = call.end(run);
            assert_eq!(outcome.code, 0, "{outcome:?}");
            assert_eq!(figure(&outcome, "park", "reset"), 0, "{outcome:?}");
        }
        nothing_is_left(host, 1);
    }
}

/// Nobody is left in the place of the run to let the check in.
#[test]
fn a_run_that_is_killed_while_it_checks_leaves_a_guard_that_hands_over() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let mut service = Restarted::new(host, Serve::on("0.0.0.0:80"));
    let mut answered = Latch::new(host, "answered");
    let check = format!(
        "curl -s -o /dev/null http://127.0.0.1/ && {{ {}; }}",
        answered.hold()
    );
    let call = park(host, "").args(["--ready-check", &check]);
    let mut run = service.begin(&call);
    let load = burst(&format!("{SERVER}:80"), 20)
        .start(&pair.client)
        .unwrap();
    wait_parked(host, 20);
    service.latch.release();
    answered.wait();
    run.signal(Signal::SIGKILL).unwrap();
    run.wait().unwrap();
    all_served(&load.finish().unwrap());
    answered.release();
    let gone = || listeners(host).len() == 1;
    wait_until(SOON, "the end of the rooms", gone).unwrap();
    nothing_is_left(host, 1);
}

#[track_caller]
fn no_group_is_left(host: &Host, outcome: &Outcome) {
    let name = outcome.report["run"].as_str().unwrap();
    let groups = format!("find /sys/fs/cgroup -name 'syngate_{name}*'");
    assert_eq!(host.sh(&groups).unwrap().stdout, "");
}

// Real services -----------------------------------------------------------------------------------

#[test]
fn restarts_of_haproxy_and_nginx_are_noticed_by_nobody() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let haproxy = Haproxy::debian_init(host, &HaproxyConfig::port(80)).unwrap();
    haproxy.start().unwrap();
    under_load(&pair, &haproxy.restart_argv());
    haproxy.stop().unwrap();
    let nginx = Nginx::new(host, &NginxConfig::default()).unwrap();
    nginx.start().unwrap();
    under_load(&pair, &nginx.restart_argv());
}

fn under_load(pair: &Pair, restart: &[String]) {
    let host = &pair.server;
    let load = Load::to(format!("{SERVER}:80"))
        .rate(500 / slow())
        .timeout(LONG);
    let mut load = load.duration(LONG).start(&pair.client).unwrap();
    load.wait_flowing().unwrap();
    for _ in 0..3 {
        let outcome = call(host, words("--port 80 --syn park"))
            .unhurried()
            .run(restart);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert!(figure(&outcome, "park", "parked") > 0, "{outcome:?}");
    }
    all_served(&load.stop().unwrap());
    no_syn_was_lost(&pair.client);
    nothing_is_left(host, 2);
}

// What others notice -------------------------------------------------------------------------------

/// Python: for each `KIND PORT`, whether two sockets can be bound there that do not ask for that.
const TWICE: &str = "
import errno, socket, sys
for kind, port in zip(sys.argv[1::2], sys.argv[2::2]):
    made = [socket.socket(type=getattr(socket, 'SOCK_' + kind)) for _ in range(2)]
    try:
        for one in made:
            one.bind(('127.0.0.1', int(port)))
        print('both')
    except OSError as error:
        print(errno.errorcode[error.errno])
";

/// A second socket that must fail would steal from the first one.
#[test]
fn only_tcp_sockets_of_the_port_in_that_network_namespace_get_so_reuseport() {
    let (host, other) = (Host::new().unwrap(), Host::new().unwrap());
    let mut service = Restarted::new(&host, Serve::on("0.0.0.0:80"));
    let call = park(&host, "");
    let run = service.begin(&call);
    let twice = |host: &Host| {
        let argv = ["python3", "-c", TWICE].into_iter();
        host.must(argv.chain("STREAM 80 DGRAM 80 STREAM 81 DGRAM 81".split(' ')))
    };
    let here = twice(&host);
    let there = twice(&other);
    assert_eq!(service.finish(&call, run).code, 0);
    let in_use = "EADDRINUSE\n";
    assert_eq!(here, format!("both\n{}", in_use.repeat(3)));
    assert_eq!(there, in_use.repeat(4));
    assert_eq!(twice(&host).lines().next(), Some("EADDRINUSE"));
}

/// Python: a program of the same kind, at the same place, that lets nobody bind port 81 in this network
/// namespace. It is gone with its process, or at the end of stdin.
const NEIGHBOUR: &str = "
import ctypes, os, socket, struct, sys
SO_NETNS_COOKIE, BPF_PROG_LOAD, BPF_LINK_CREATE = 71, 5, 28
CGROUP_SOCK_ADDR, CGROUP_INET4_BIND = 18, 8
def one(code, registers, offset=0, value=0):
    return struct.pack('BBhi', code, registers, offset, value)
with socket.socket() as any:
    cookie = any.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
port = struct.unpack('i', struct.pack('!H2x', 81))[0]
low, high = struct.unpack('ii', cookie)
code = b''.join([
    one(0x61, 0x12, 24),          # r2 = the port
    one(0x55, 0x02, 6, port),     # another one: let it be bound
    one(0x85, 0, 0, 122),         # r0 = the cookie of the network namespace
    one(0x18, 0x02, 0, low), one(0, 0, 0, high),
    one(0x5d, 0x20, 2),           # another one: let it be bound
    one(0xb7, 0), one(0x95, 0),   # refuse
    one(0xb7, 0, 0, 1), one(0x95, 0),
])
def bpf(command, attributes):
    memory = ctypes.create_string_buffer(attributes.ljust(128, b'\\0'))
    fd = ctypes.CDLL(None, use_errno=True).syscall(NUMBER, command, memory, 128)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd
NUMBER = {'x86_64': 321, 'aarch64': 280}[os.uname().machine]
text, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b'GPL')
program = bpf(BPF_PROG_LOAD, struct.pack('IIQQIIQII16sII', CGROUP_SOCK_ADDR, len(code) // 8, ctypes.addressof(text),
              ctypes.addressof(licence), 0, 0, 0, 0, 0, b'', 0, CGROUP_INET4_BIND))
mounts = (line.split() for line in open('/proc/mounts'))
group = os.open(next(fields[1] for fields in mounts if fields[2] == 'cgroup2'), os.O_RDONLY)
link = bpf(BPF_LINK_CREATE, struct.pack('IIII', program, group, CGROUP_INET4_BIND, 0))
print('linked', flush=True)
sys.stdin.read()
";

#[test]
fn another_program_at_the_same_place_goes_on() {
    let host = Host::new().unwrap();
    let mut neighbour = host.command("python3");
    neighbour
        .args(["-c", NEIGHBOUR])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut neighbour = neighbour.spawn().unwrap();
    let mut line = String::new();
    let told = neighbour.stdout.take().unwrap();
    BufReader::new(told).read_line(&mut line).unwrap();
    assert_eq!(line, "linked\n");
    let on_81 = || {
        let bind = "import socket; socket.socket().bind(('127.0.0.1', 81))";
        let ran = host.sh(&format!("python3 -c \"{bind}\"")).unwrap();
        ran.stderr.contains("Operation not permitted")
    };
    assert!(on_81());
    let mut service = Restarted::new(&host, Serve::on("0.0.0.0:80"));
    let call = park(&host, "");
    let run = service.begin(&call);
    let load = burst("127.0.0.1:80", 20).start(&host).unwrap();
    wait_parked(&host, 20);
    let refused_meanwhile = on_81();
    assert_eq!(service.finish(&call, run).code, 0);
    all_served(&load.finish().unwrap());
    assert_eq!(shares_port(&service), "0");
    assert!(refused_meanwhile && on_81());
    drop(neighbour.stdin.take());
    neighbour.wait().unwrap();
    assert!(!on_81());
}

// However it ends ---------------------------------------------------------------------------------

#[test]
fn nobody_notices_a_panic_and_nothing_is_left_of_it() {
    std::thread::scope(|threads| {
        for (place, code) in [
            ("Look", 125),
            ("Check", 125),
            ("Start", 125),
            ("Ask", 124),
            ("Open", 124),
        ] {
            threads.spawn(move || panics(place, code));
        }
    });
}

fn panics(place: &str, code: i32) {
    let host = Host::new().unwrap();
    let server = Serve::on("0.0.0.0:80");
    let mut service = Restarted::new(&host, server);
    let call = call(&host, words("--port 80 --syn park")).fault(&format!("panic:{place}"));
    let load = Load::to("127.0.0.1:80").rate(100 / slow()).timeout(LONG);
    let mut load = load.duration(LONG).start(&host).unwrap();
    load.wait_flowing().unwrap();
    let run = call.start(service.command());
    if code == 124 {
        service.latch.wait();
        wait_parked(&host, 10);
        service.latch.release();
    }
    let outcome = call.end(run);
    assert_eq!(outcome.code, code, "{place}: {outcome:?}");
    assert!(outcome.stderr.contains("as a bug would"), "{outcome:?}");
    host.wait_listen(80).unwrap();
    all_served(&load.stop().unwrap());
    nothing_is_left(&host, 1);
    assert_eq!(shares_port(&service), "0");
}

#[test]
fn a_killed_or_stopped_run_leaves_a_guard_that_hands_over() {
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        for reuseport in [true, false] {
            let host = Host::new().unwrap();
            let server = Serve::on("0.0.0.0:80").reuseport_if(reuseport);
            let mut service = Restarted::new(&host, server);
            let mut run = service.begin(&park(&host, ""));
            let load = burst("127.0.0.1:80", 20).start(&host).unwrap();
            wait_parked(&host, 20);
            run.signal(signal).unwrap();
            service.latch.release();
            all_served(&load.finish().unwrap());
            let _ = run.signal(Signal::SIGKILL);
            run.wait().unwrap();
            let gone = || listeners(&host).len() == 1;
            wait_until(SOON, "the end of the rooms", gone).unwrap();
            nothing_is_left(&host, 1);
        }
    }
}

/// COMMAND goes on, and ends the service later than the guard waits for that.
#[test]
fn a_killed_runs_guard_stands_by_as_long_as_command_goes_on() {
    for reuseport in [true, false] {
        let host = Host::new().unwrap();
        let server = Serve::on("0.0.0.0:80").reuseport_if(reuseport);
        let mut service = Restarted::new(&host, server);
        let mut late = Latch::new(&host, "late");
        let [sh, c, restart] = service.command();
        let mut run = park(&host, "").start([sh, c, format!("{}; {restart}", late.hold())]);
        late.wait();
        let first = burst("127.0.0.1:80", 20).start(&host).unwrap();
        wait_parked(&host, 20);
        run.signal(Signal::SIGKILL).unwrap();
        run.wait().unwrap();
        // By the old process.
        all_served(&first.finish().unwrap());
        late.release();
        service.latch.wait();
        let second = burst("127.0.0.1:80", 20).start(&host).unwrap();
        wait_parked(&host, 20);
        service.latch.release();
        all_served(&second.finish().unwrap());
        let gone = || listeners(&host).len() == 1;
        wait_until(SOON, "the end of the rooms", gone).unwrap();
        nothing_is_left(&host, 1);
    }
}

fn kill_with_guard(host: &Host, run: &mut Running) {
    // It would put another one in the place of its guard.
    run.signal(Signal::SIGSTOP).unwrap();
    host.must(["sh", "-c", "kill -9 $(pgrep gate-room)"]);
    run.signal(Signal::SIGKILL).unwrap();
    run.wait().unwrap();
}

#[test]
fn nothing_is_left_of_a_run_that_is_killed_with_its_guard() {
    let host = Host::new().unwrap();
    let mut service = Restarted::new(&host, Serve::on("0.0.0.0:80"));
    let mut run = service.begin(&park(&host, ""));
    kill_with_guard(&host, &mut run);
    let gone = || listeners(&host).is_empty();
    wait_until(SOON, "the end of the rooms", gone).unwrap();
    service.latch.release();
    host.wait_listen(80).unwrap();
    let report = burst("127.0.0.1:80", 20).start(&host).unwrap();
    all_served(&report.finish().unwrap());
    // COMMAND's control group, which the next run takes back. It goes as the first should have.
    let left = notes(&host);
    let group = left.lines().find(|line| line.contains("/syngate_"));
    let group = PathBuf::from(group.expect(&left));
    assert!(group.exists(), "{left}");
    let call = park(&host, "");
    let run = service.begin(&call);
    let outcome = service.finish(&call, run);
    assert_eq!(outcome.code, 0);
    assert!(
        outcome
            .stderr
            .contains("removed from the service's listeners what the killed run"),
        "{outcome:?}"
    );
    assert!(!group.exists(), "{left}");
}

/// The old listener stays, with an option that it did not ask for.
#[test]
fn clear_takes_back_what_a_killed_run_has_lent() {
    for reuseport in [true, false] {
        let host = Host::new().unwrap();
        let server = Serve::on("0.0.0.0:80").reuseport_if(reuseport);
        let service = Restarted::new(&host, server);
        let own = shares_port(&service);
        let mut latch = Latch::new(&host, "idle");
        let call = park(&host, "");
        let mut run = call.start(["sh", "-c", &latch.hold()]);
        latch.wait();
        assert_eq!(shares_port(&service), "1");
        kill_with_guard(&host, &mut run);
        let cleared = host.sh(&format!("{SYNGATE} clear")).unwrap();
        let says = "removed from the service's listeners what the killed run";
        assert!(cleared.stderr.contains(says), "{cleared:?}");
        assert_eq!(shares_port(&service), own);
        assert_eq!(another_can_share(&host), reuseport);
        let load = burst("127.0.0.1:80", 20).start(&host).unwrap();
        all_served(&load.finish().unwrap());
        latch.release();
        nothing_is_left(&host, 1);
    }
}

/// The kernel keeps no deadline for a room.
#[test]
fn clear_opens_where_a_run_and_its_guard_are_both_stopped() {
    let host = Host::new().unwrap();
    let mut service = Restarted::new(&host, Serve::on("0.0.0.0:80"));
    let call = park(&host, "");
    let mut run = service.begin(&call);
    let load = burst("127.0.0.1:80", 20).start(&host).unwrap();
    wait_parked(&host, 20);
    run.signal(Signal::SIGSTOP).unwrap();
    host.must(["sh", "-c", "kill -STOP $(pgrep gate-room)"]);
    service.latch.release();
    let back = || host.must(words("ss -Hltnp sport = :80")).contains("users:");
    wait_until(SOON, "the new process", back).unwrap();
    let cleared = host.sh(&format!("{SYNGATE} clear")).unwrap();
    assert!(
        cleared.stderr.contains("80 is open: the guard of "),
        "{cleared:?}"
    );
    all_served(&load.finish().unwrap());
    run.signal(Signal::SIGCONT).unwrap();
    run.wait().unwrap();
    nothing_is_left(&host, 1);
}

#[test]
fn a_stopped_guard_is_replaced() {
    let host = Host::new().unwrap();
    let mut service = Restarted::new(&host, Serve::on("0.0.0.0:80"));
    let mut run = service.begin(&park(&host, ""));
    let load = burst("127.0.0.1:80", 20).start(&host).unwrap();
    wait_parked(&host, 20);
    host.must(["sh", "-c", "kill -STOP $(pgrep gate-room)"]);
    let mut said = BufReader::new(run.stderr().unwrap()).lines();
    let silent = "guard of the waiting rooms does not answer";
    assert!(said.any(|line| line.unwrap().contains(silent)));
    run.signal(Signal::SIGKILL).unwrap();
    service.latch.release();
    all_served(&load.finish().unwrap());
    let gone = || listeners(&host).len() == 1;
    wait_until(SOON, "the end of the rooms", gone).unwrap();
    nothing_is_left(&host, 1);
}

/// The run is stopped. Those who wait go to who listens then: nobody.
#[test]
fn a_guard_whose_run_is_stopped_acts_when_it_is_told_to_and_at_the_deadline() {
    let told = guard_acts_though_its_run_is_stopped("", |host| {
        host.must(["sh", "-c", "kill $(pgrep gate-room)"]);
    });
    let outcome = told.expect("parked connections");
    let says = "waiting rooms has opened the gate";
    assert!(outcome.stderr.contains(says), "{outcome:?}");
    with_a_deadline(|deadline| {
        let Some(outcome) = guard_acts_though_its_run_is_stopped(deadline, |_| ()) else {
            return false;
        };
        let says = "--max-closed opened the gate";
        assert!(outcome.stderr.contains(says), "{outcome:?}");
        true
    });
}

/// `None`: the gate had opened before the run was stopped.
fn guard_acts_though_its_run_is_stopped(options: &str, tell: fn(&Host)) -> Option<Outcome> {
    let host = Host::new().unwrap();
    let mut service = Restarted::new(&host, Serve::on("0.0.0.0:80"));
    let call = park(&host, options);
    let mut run = service.begin(&call);
    let lost = burst("127.0.0.1:80", 20).start(&host).unwrap();
    if !are_parked(&host, 20) {
        return None;
    }
    run.signal(Signal::SIGSTOP).unwrap();
    if queued(&host) < 20 {
        return None;
    }
    tell(&host);
    let gone = || listeners(&host).is_empty();
    wait_until(SOON * 3, "the end of the rooms", gone).unwrap();
    service.latch.release();
    host.wait_listen(80).unwrap();
    let load = burst("127.0.0.1:80", 20).start(&host).unwrap();
    all_served(&load.finish().unwrap());
    run.signal(Signal::SIGCONT).unwrap();
    let outcome = call.end(run);
    assert_eq!(figure(&outcome, "park", "reset"), 20, "{outcome:?}");
    assert_eq!(lost.finish().unwrap().failed(), 20);
    nothing_is_left(&host, 1);
    Some(outcome)
}

/// They look for the processes that hold a socket of the port.
#[test]
fn a_command_that_kills_who_listens_kills_the_service_only() {
    for kill in [
        "fuser -s -k 80/tcp",
        "kill -9 $(lsof -t -i :80)",
        "kill $(lsof -t -i :80)",
    ] {
        let host = Host::new().unwrap();
        let mut service = Restarted::new(&host, Serve::on("0.0.0.0:80"));
        let [sh, c, restart] = service.command();
        let restart = restart.split_once("; ").unwrap().1.to_owned();
        let call = park(&host, "");
        let run = call.start([sh, c, format!("{kill}; {restart}")]);
        service.latch.wait();
        let load = burst("127.0.0.1:80", 20).start(&host).unwrap();
        wait_parked(&host, 20);
        let outcome = service.finish(&call, run);
        assert_eq!(outcome.code, 0, "{kill}: {outcome:?}");
        all_served(&load.finish().unwrap());
        assert_eq!(
            outcome.report["warnings"].as_array().unwrap().len(),
            0,
            "{outcome:?}"
        );
    }
}

#[test]
fn who_waits_goes_back_if_command_changes_nothing_and_is_reset_if_nobody_comes() {
    let host = Host::new().unwrap();
    let service = Restarted::new(&host, Serve::on("0.0.0.0:80"));
    let mut latch = Latch::new(&host, "idle");
    let call = park(&host, "");
    let run = call.start(["sh", "-c", &format!("{}; exit 3", latch.hold())]);
    latch.wait();
    let load = burst("127.0.0.1:80", 20).start(&host).unwrap();
    wait_parked(&host, 20);
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 3, "{outcome:?}");
    all_served(&load.finish().unwrap());
    assert_eq!(figure(&outcome, "park", "handed_over"), 20);
    nothing_is_left(&host, 1);

    let stop = format!(
        "kill $(cat {}); {}; exit 3",
        service.pid.display(),
        latch.hold()
    );
    let run = call.start(["sh", "-c", &stop]);
    latch.wait();
    let load = burst("127.0.0.1:80", 20).start(&host).unwrap();
    wait_parked(&host, 20);
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 3, "{outcome:?}");
    let report = load.finish().unwrap();
    assert_eq!(report.reset + report.cut, 20, "{report}");
    assert_eq!(figure(&outcome, "park", "reset"), 20);
    assert!(
        outcome.stderr.contains("20 connections were reset"),
        "{outcome:?}"
    );
    let unmoved = figure(&outcome, "park", "unmoved");
    assert_eq!(unmoved, 20, "by the kernel's own count: {outcome:?}");
    assert!(!outcome.stderr.contains(UNMOVED), "{outcome:?}");
    nothing_is_left(&host, 0);
}

const UNMOVED: &str = "the kernel could not move";

/// Those of another service, whose listener shares its port, and closes. The kernel counts them where it would move
/// them.
#[test]
fn what_the_kernel_could_not_move_beyond_those_who_were_reset_is_told() {
    const CLOSES: &str = "
import socket
other = socket.socket()
other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
other.bind(('127.0.0.1', 81))
other.listen(9)
clients = [socket.create_connection(('127.0.0.1', 81)) for _ in range(3)]
other.close()";
    let host = Host::new().unwrap();
    host.must(words("sysctl -qw net.ipv4.tcp_migrate_req=1"));
    let _service = Serve::on("0.0.0.0:80").start(&host).unwrap();
    for action in ["park", "handover"] {
        let options = format!("--port 80 --ready-timeout 0s --syn {action}");
        let outcome = call(&host, words(&options)).run(["python3", "-c", CLOSES]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(figure(&outcome, action, "unmoved"), 3, "{outcome:?}");
        let says = format!("{UNMOVED} 3 connections or handshakes");
        assert!(outcome.stderr.contains(&says), "{outcome:?}");
    }
}

#[test]
fn what_makes_no_sense_with_sockets_is_refused() {
    let host = Host::new().unwrap();
    let _service = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let refused = |options| (options, "options", "--syn park and ");
    all_refused(
        &host,
        &[
            refused("--syn park --allow-local"),
            refused("--syn park --allow-from 10.0.0.0/8"),
            refused("--syn park --interface lo"),
            refused("--syn park --hook prerouting"),
            refused("--syn park --backend nft"),
            refused("--syn park --queue-num 7"),
            refused("--syn park --max-held-per-source 7"),
            refused("--syn park --release-timeout 1s"),
            refused("--syn park --open-on exit"),
        ],
    );
    let by_variable = call(&host, words("--port 80 --syn park"))
        .env("SYNGATE_RELEASE_TIMEOUT", "1s")
        .run(["true"]);
    assert_eq!(by_variable.code, 125, "{by_variable:?}");
    let says = "--syn park and --release-timeout exclude each other";
    assert!(by_variable.stderr.contains(says), "{by_variable:?}");
    // It changes nothing.
    let open_on = park(&host, "--open-on ready").run(["true"]);
    assert_eq!(open_on.code, 0, "{open_on:?}");
}

#[test]
fn where_nobody_listens_it_tells_what_to_do() {
    let host = Host::new().unwrap();
    let outcome = park(&host, "").run(["true"]);
    assert_eq!(outcome.code, 125, "{outcome:?}");
    let says = "no place for a waiting room: start the service without syngate, or use --syn auto";
    assert!(outcome.stderr.contains(says), "{outcome:?}");
    let auto = call(&host, words("--port 80 --syn auto --ready-timeout 0s")).run(["true"]);
    assert_eq!(auto.code, 0, "{auto:?}");
    let why = auto.report["not_taken"][0]["why"].to_string();
    assert!(why.ends_with("waiting room\""), "{why}");
}

/// The others send their SYNs again.
#[test]
fn who_finds_no_room_is_told_of() {
    let host = Host::new().unwrap();
    let mut service = Restarted::new(&host, Serve::on("0.0.0.0:80"));
    let call = park(&host, "--max-held 5");
    let run = service.begin(&call);
    let load = burst("127.0.0.1:80", 20).start(&host).unwrap();
    let dropped = || host.tcp_counter("ListenOverflows").unwrap() > 0;
    wait_until(SOON, "a SYN without room", dropped).unwrap();
    let outcome = service.finish(&call, run);
    all_served(&load.finish().unwrap());
    let none = figure(&outcome, "park", "no_room");
    assert!(none > 0, "{outcome:?}");
    let says = "(clients send them again): raise --max-held 5";
    assert!(outcome.stderr.contains(says), "{outcome:?}");
}

/// `-v` and --dry-run tell where rooms take more than rules would, or fewer than --max-held.
#[test]
fn what_rooms_take_beyond_the_options_is_told_beforehand() {
    let host = Host::new().unwrap();
    let _service = Serve::on("0.0.0.0:80").start(&host).unwrap();
    host.must(words("sysctl -qw net.core.somaxconn=128"));
    let beyond = "connections to others than --to 127.0.0.1 wait as well";
    let outcome = park(&host, "--to 127.0.0.1 --ready-timeout 0 -v --max-held 5000").run(["true"]);
    assert!(outcome.stderr.contains(beyond), "{outcome:?}");
    let fewer = "no more than 4096 connections may wait beside a listener (--max-held 5000)";
    assert!(outcome.stderr.contains(fewer), "{outcome:?}");
    let plan = park(&host, "--to 127.0.0.1 --dry-run").run(["true"]);
    assert!(plan.stdout.contains(beyond), "{plan:?}");
    let outcome = park(&host, "--ready-timeout 0 -v --max-held 100").run(["true"]);
    for told in ["wait as well", "no more than"] {
        assert!(!outcome.stderr.contains(told), "{outcome:?}");
    }
}

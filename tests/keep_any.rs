//! `syngate keep --any`: services that do not set SO_REUSEPORT.

mod harness;

use std::time::Duration;

use harness::deaths::{Deaths, Failed};
use harness::keep::{
    Keep, LONG, SHARES, TAKEN, client, looks, monotonic_ms, nobody_noticed, second, wait_kept,
    wait_queued, waiting_client,
};
use harness::kept;
use harness::rooms::{
    GUARD, all_served, at_most_a_program_is_left, listeners, load, nothing_is_left, shares_port,
};
use harness::{SOON, syngate, tell, words};
use nix::sys::signal::Signal;
use testkit::services::{Nginx, NginxConfig, Serve};
use testkit::{Host, Load, Pair, Running, SERVER, wait_until};

fn alone() -> Serve {
    Serve::on("0.0.0.0:80")
}

#[test]
fn crashes_and_restarts_of_a_service_without_so_reuseport_are_noticed_by_nobody() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let server = alone().start_daemon(host).unwrap();
    let keep = Keep::on(host, "--any");
    keep.says(1, "--any gives SO_REUSEPORT to listeners that lack it");
    let pid = host.dir().join("serve.pid");
    let kill = format!("kill -9 $(cat {})", pid.display());
    for times in [1, 2] {
        let clients = load(&pair, 500);
        host.must(["sh", "-c", &kill]);
        let died = monotonic_ms();
        std::thread::sleep(Duration::from_millis(300)); // as a supervisor may wait
        // Its own kill finds nobody.
        host.must(server.restart_argv());
        keep.says(times, "nobody listened");
        nobody_noticed(&clients.stop().unwrap(), died);
    }
    assert_eq!(shares_port(host), "1");
    keep.ends(1);
    assert_eq!(shares_port(host), "0");
    // Nor does a later one get it.
    host.must(server.restart_argv());
    assert_eq!(shares_port(host), "0");
}

/// As without keep. One on an address that overlaps is what the manual tells of.
#[test]
fn a_second_instance_is_refused_while_the_service_listens() {
    let host = &Host::new().unwrap();
    let tried = |overlaps: &str, when: &str| {
        for (address, more, expected) in [
            ("0.0.0.0", "", TAKEN),
            ("0.0.0.0", SHARES, TAKEN),
            ("127.0.0.1", "", TAKEN),
            ("127.0.0.1", SHARES, overlaps),
        ] {
            assert_eq!(
                second(host, address, more),
                expected,
                "{when} {address} {more}"
            );
        }
    };
    let server = alone().start(host).unwrap();
    tried(TAKEN, "without keep");
    let keep = Keep::on(host, "--any");
    tried("bound", "kept from the start");
    drop(server);
    let server = alone().start(host).unwrap();
    tried("bound", "it has come back");
    let other = format!("os.setuid(65534)\n{SHARES}");
    assert_eq!(
        second(host, "127.0.0.1", &other),
        "Permission denied",
        "a port below 1024"
    );
    drop(server);
    assert_eq!(second(host, "0.0.0.0", ""), "bound", "nobody listens");
    let _server = alone().start(host).unwrap();
    keep.ends(1);
}

/// nginx sets SO_REUSEPORT on the socket that it has, and binds new ones beside it: it is refused at first, and tries again.
/// A process that does not have that socket is refused each time.
#[test]
fn a_reload_that_adds_reuseport_works_as_without_keep() {
    let host = &Host::new().unwrap();
    let config = |reuseport| NginxConfig {
        workers: 3,
        reuseport,
        ..NginxConfig::default()
    };
    let nginx = Nginx::new(host, &config(false)).unwrap();
    host.must(nginx.start_argv());
    let own = || {
        let shown = host.must(words("ss -Hltnp sport = :80"));
        shown.lines().filter(|line| line.contains("nginx")).count()
    };
    let before = own();
    let keep = Keep::on(host, "--any");
    for _ in 0..3 {
        assert_eq!(second(host, "0.0.0.0", SHARES), "Address already in use");
        looks(host);
    }
    let load = kept::flowing(host, 100);
    nginx.configure(&config(true)).unwrap();
    nginx.reload().unwrap();
    let all = || own() == 3 * before;
    wait_until(SOON, "a listener of each worker", all).unwrap();
    all_served(&load.stop().unwrap());
    keep.ends(3 * before);
    assert_eq!(shares_port(host), "1", "it is nginx's own");
    nginx.stop().unwrap();
}

/// The next process may bind before the keep has noticed that the one before has gone: the kernel knows it.
#[test]
fn a_restart_may_be_faster_than_keep_can_look() {
    let restarts: u32 = std::env::var("SYNGATE_RESTARTS").map_or(20, |n| n.parse().unwrap());
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let mut server = alone().greeting().start(host).unwrap();
    let (bare, reset) = fast_restarts(&pair, &mut server, restarts);
    assert!(bare.refused > 0 && reset > 0, "{bare:?}, {reset} reset");
    let keep = Keep::on(host, "--any");
    let (kept, reset) = fast_restarts(&pair, &mut server, restarts);
    tell(&format!(
        "{restarts} restarts: bare {bare:?}, kept {kept:?}"
    ));
    assert_eq!(
        kept.refused + kept.others + reset,
        0,
        "{kept:?}, {reset} reset"
    );
    keep.ends(1);
}

/// Each process binds at once when the one before is dead. Returns how many were reset that none had accepted, besides.
fn fast_restarts(pair: &Pair, server: &mut Running, restarts: u32) -> (Failed, u64) {
    // A client that is reset before the greeting had not been accepted.
    let clients = Load::to(format!("{SERVER}:80")).greeting().rate(1_000);
    let clients = clients.timeout(LONG).duration(LONG);
    let mut clients = clients.start(&pair.client).unwrap();
    clients.wait_flowing().unwrap();
    let mut deaths = Deaths::default();
    for _ in 0..restarts {
        deaths.of(|| {
            server.signal(Signal::SIGKILL).unwrap();
            server.wait().unwrap();
        });
        *server = alone().greeting().start(&pair.server).unwrap();
    }
    let report = clients.stop().unwrap();
    (Failed::of(&report, &deaths), report.reset)
}

/// The guard has the rooms and the programs, too: in a gap, and outside. It takes everything back.
#[test]
fn a_keep_that_is_killed_leaves_nobody_alone_and_nothing_behind() {
    let host = &Host::new().unwrap();
    for in_gap in [true, false] {
        let (server, waits) = kept::killed(host, &alone(), "--any", in_gap);
        if server.is_some() {
            assert_eq!(second(host, "0.0.0.0", SHARES), "Address already in use");
        }
        drop(server);
        let waits = waits.unwrap_or_else(|| client(host));
        wait_queued(host, 1);
        let _server = alone().start(host).unwrap();
        all_served(&waits.finish().unwrap());
        assert_eq!(syngate(host, "clear").code(), 0);
        nothing_is_left(host, 1);
        assert_eq!(shares_port(host), "0");
    }
}

#[test]
fn runs_work_on_a_kept_port() {
    kept::beside_runs(&alone(), "--any");
}

#[test]
fn a_run_on_one_port_leaves_the_others_kept() {
    for is_dead in [false, true] {
        kept::beside_runs_on_one_port(|at| Serve::on(at), "--any", is_dead);
    }
}

/// The option stays then, and the next call takes it back: also from a listener that has come while keep was there.
#[test]
fn what_a_keep_leaves_that_is_killed_with_its_guard_is_taken_back() {
    let host = &Host::new().unwrap();
    for killed in ["before a gap", "in a gap", "after a gap"] {
        let mut server = alone().start(host).unwrap();
        let mut keep = Keep::on(host, "--any");
        if killed != "before a gap" {
            drop(server);
            if killed == "in a gap" {
                let noticed = || {
                    host.sh("grep -q '\"cookie\":0' /run/syngate/*rooms-*")
                        .unwrap()
                        .ok()
                };
                wait_until(SOON, "keep to notice", noticed).unwrap();
            }
            server = alone().start(host).unwrap();
        }
        // Lest it starts another one.
        keep.running.signal(Signal::SIGSTOP).unwrap();
        host.must(["pkill", "-KILL", GUARD]);
        keep.running.signal(Signal::SIGKILL).unwrap();
        keep.running.wait().unwrap();
        let rooms = || listeners(host).len() == 1;
        wait_until(SOON, "the end of the rooms", rooms).unwrap();
        assert_eq!(shares_port(host), "1");
        let ran = syngate(host, "clear");
        assert_eq!(ran.code(), 0, "{ran:?}");
        assert_eq!(shares_port(host), "0", "{killed}: {ran:?}");
        at_most_a_program_is_left(host, 1);
        drop(server);
    }
}

/// Then the port is anybody's.
#[test]
fn nobody_waits_longer_than_max_wait_and_the_port_is_free_then() {
    let host = &Host::new().unwrap();
    let server = alone().start(host).unwrap();
    let keep = Keep::on(host, "--any --max-wait 300ms");
    drop(server);
    let waits = client(host);
    keep.says(1, "1 connection waited, for ");
    assert_eq!(waits.finish().unwrap().failed(), 1);
    let other = "import os; os.setegid(65534)";
    assert_eq!(second(host, "0.0.0.0", other), "bound");
    let _server = alone().start(host).unwrap();
    wait_kept(host);
    assert_eq!(shares_port(host), "1", "it is taken up again");
    keep.ends(1);
    assert_eq!(shares_port(host), "0");
}

/// It has the port as its own, and is never going to listen there.
#[test]
fn a_client_with_the_port_does_not_keep_the_service_out() {
    let host = &Host::new().unwrap();
    let server = alone().start(host).unwrap();
    let keep = Keep::on(host, "--any");
    drop(server);
    let waits = waiting_client(host);
    let (bound, go) = (host.dir().join("bound"), host.dir().join("go"));
    let bind = format!(
        "import os, socket, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('0.0.0.0', 80)); open('{}', 'w')
while not os.path.exists('{}'): time.sleep(0.01)",
        bound.display(),
        go.display()
    );
    let mut command = host.command("python3");
    let mut other = host.spawn(command.args(["-c", &bind])).unwrap();
    wait_until(SOON, "the client", || bound.exists()).unwrap();
    let mut server = None;
    let starts = || {
        server = alone().start(host).ok();
        server.is_some()
    };
    wait_until(SOON, "the service to listen", starts).unwrap();
    all_served(&waits.finish().unwrap());
    std::fs::write(go, "").unwrap();
    assert!(other.wait().unwrap().success());
    assert_eq!(second(host, "0.0.0.0", SHARES), "Address already in use");
    keep.ends(1);
}

/// Each address has a listener of its own, and each gets its own clients back.
#[test]
fn several_addresses_of_both_versions_are_kept() {
    let host = &Host::new().unwrap();
    let both = alone().and_on("[::]:80");
    let server = both.start(host).unwrap();
    let keep = Keep::on(host, "--any");
    drop(server);
    let ask = |to: &str| {
        let load = Load::to(to).rate(1_000).timeout(LONG);
        load.duration(Duration::from_millis(1)).start(host).unwrap()
    };
    let waiting = [ask("127.0.0.1:80"), ask("[::1]:80")];
    wait_queued(host, 2);
    let _server = both.start(host).unwrap();
    for waits in waiting {
        all_served(&waits.finish().unwrap());
    }
    keep.ends(2);
    assert_eq!(shares_port(host), "0");
}

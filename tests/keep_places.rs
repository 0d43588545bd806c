//! `syngate keep`, and listeners on other addresses of its port.

mod harness;

use std::time::Duration;

use harness::keep::{Keep, LONG, client, shared, wait_kept, waiting_client};
use harness::rooms::{all_served, listeners, nothing_is_left};
use harness::{SOON, syngate};
use nix::sys::signal::Signal;
use testkit::services::Serve;
use testkit::{Host, Load, wait_until};

fn narrow() -> Serve {
    Serve::on("127.0.0.1:80").reuseport()
}

fn wait_rooms(host: &Host, address: &str) {
    let lines = || listeners(host).into_iter();
    let rooms = || lines().filter(|l| l.contains(address)).count() > 1;
    wait_until(SOON, "rooms there", rooms).unwrap();
}

/// Without keep, the kernel gives connections to the wildcard listener at once.
#[test]
fn an_address_that_the_service_gives_up_is_left_to_its_wildcard_listener() {
    let host = &Host::new().unwrap();
    let _wide = shared().start(host).unwrap();
    let server = narrow().start(host).unwrap();
    let keep = Keep::on(host, "");
    wait_rooms(host, "127.0.0.1:80");
    let load = Load::to("127.0.0.1:80").rate(100).timeout(LONG);
    let mut load = load.duration(LONG).start(host).unwrap();
    load.wait_flowing().unwrap();
    drop(server);
    keep.says(
        1,
        "the service listens on 0.0.0.0:80 now; the kernel can't move connections to there",
    );
    keep.says(1, "; 0.0.0.0:80 gets new connections");
    all_served(&client(host).finish().unwrap());
    let report = load.stop().unwrap();
    assert_eq!(report.refused, 0, "{report}");
    let _server = narrow().start(host).unwrap();
    wait_rooms(host, "127.0.0.1:80");
    keep.ends(2);
}

/// So does the guard of a dead keep.
#[test]
fn the_guard_leaves_an_address_that_the_service_gives_up_to_its_wildcard_listener() {
    let host = &Host::new().unwrap();
    let _wide = shared().start(host).unwrap();
    let server = narrow().start(host).unwrap();
    let mut keep = Keep::on(host, "--max-wait 60s");
    wait_rooms(host, "127.0.0.1:80");
    keep.running.signal(Signal::SIGKILL).unwrap();
    keep.running.wait().unwrap();
    drop(server);
    let there = || {
        listeners(host)
            .into_iter()
            .any(|l| l.contains("127.0.0.1:80"))
    };
    wait_until(SOON, "the rooms there to go", || !there()).unwrap();
    all_served(&client(host).finish().unwrap());
    assert_eq!(syngate(host, "clear").code(), 0);
    nothing_is_left(host, 1);
}

/// As two services have it that are restarted together.
#[test]
fn a_service_that_listened_on_another_address_before_ends_no_wait() {
    let host = &Host::new().unwrap();
    let on_another = Serve::on("127.0.0.2:80");
    let server = narrow().start(host).unwrap();
    let keep = Keep::on(host, "");
    let another = on_another.start(host).unwrap();
    keep.says(1, "127.0.0.2:80 is not kept");
    drop((another, server));
    let waits = waiting_client(host);
    let _another = on_another.start(host).unwrap();
    std::thread::sleep(Duration::from_secs(1)); // beyond the time after which a move is one
    let _server = narrow().start(host).unwrap();
    all_served(&waits.finish().unwrap());
    keep.says(1, " 1 connection waited");
    keep.ends(2);
}

#[test]
fn one_that_listens_on_another_address_for_a_moment_ends_no_wait() {
    let host = &Host::new().unwrap();
    let server = narrow().start(host).unwrap();
    let keep = Keep::on(host, "");
    drop(server);
    let waits = waiting_client(host);
    drop(Serve::on("127.0.0.2:80").start(host).unwrap());
    std::thread::sleep(Duration::from_secs(1)); // beyond the time after which a move is one
    let _server = narrow().start(host).unwrap();
    all_served(&waits.finish().unwrap());
    keep.says(1, " 1 connection waited");
    keep.ends(1);
}

/// Anybody may listen on another address of a port above 1023.
#[test]
fn a_listener_that_can_t_be_kept_keeps_no_keep_from_another_address() {
    let host = &Host::new().unwrap();
    let _another = Serve::on("127.0.0.2:80").start(host).unwrap();
    let ran = syngate(host, "keep --port 80");
    assert_eq!(ran.code(), 125, "nobody else listens: {ran:?}");
    let server = narrow().start(host).unwrap();
    let keep = Keep::on(host, "");
    keep.says(1, "127.0.0.2:80 is not kept");
    wait_kept(host);
    drop(server);
    let waits = waiting_client(host);
    let _server = narrow().start(host).unwrap();
    all_served(&waits.finish().unwrap());
    keep.ends(2);
}

/// Another service may fill a range of ports, as one of FTP does.
#[test]
fn a_crowd_of_listeners_that_can_t_be_kept_is_told_in_a_few_lines() {
    let host = &Host::new().unwrap();
    let _server = narrow().start(host).unwrap();
    let crowd = (2..=30).map(|n| format!("127.0.0.{n}:80"));
    let crowd = crowd.reduce(|all, one| format!("{all} {one}")).unwrap();
    let mut crowd = crowd.split(' ');
    let first = Serve::on(crowd.next().unwrap());
    let _crowd = crowd.fold(first, Serve::and_on).start(host).unwrap();
    let keep = Keep::on(host, "");
    keep.says(8, "is not kept: ");
    keep.says(1, "; keep names other such addresses only after 1m");
    keep.ends(30);
}

/// The service has two addresses, and comes back on one.
#[test]
fn a_line_has_the_address_where_another_one_of_the_port_is_kept() {
    let host = &Host::new().unwrap();
    let server = shared().and_on("[::1]:80").start(host).unwrap();
    let keep = Keep::on(host, "--max-wait 3s");
    drop(server);
    let waits = waiting_client(host);
    let _server = shared().start(host).unwrap();
    all_served(&waits.finish().unwrap());
    keep.says(1, "0.0.0.0:80: nobody listened for ");
    keep.says(1, "[::1]:80: nobody has listened for ");
    keep.ends(1);
}

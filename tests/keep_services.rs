//! `syngate keep` under load, with services as they are: killed and started, restarted by somebody who knows nothing
//! of syngate, and in a crash loop. Nobody is refused or reset but who had been accepted by a process that died, and
//! without keep the same fails.

mod harness;

use harness::deaths::{Deaths, Failed};
use harness::keep::Keep;
use harness::rooms::{listeners, queued};
use harness::services::Service;
use harness::{SOON, tell, words};
use testkit::{Host, Pair, wait_until};

/// As many are in progress at a time, and more after a gap.
const FEW: usize = 20;

/// Established ones.
fn connections(server: &Host) -> usize {
    let listed = server.must(words("ss -Htn state established sport = :80"));
    listed.lines().count()
}

/// What becomes of 1,000 clients a second meanwhile.
fn course(service: &Service, pair: &Pair) -> Failed {
    let load = service.clients(&pair.client, 1_000);
    let mut deaths = Deaths::default();
    // One that dies sooner had accepted those who waited, and answered none.
    let starts = || {
        service.starts();
        let server = &pair.server;
        let served = || queued(server) == 0 && connections(server) < FEW;
        wait_until(SOON, "those who waited to be served", served).unwrap();
    };
    // As by a supervisor; then by a colleague.
    service.dies(&mut deaths);
    starts();
    service.stops(&mut deaths);
    starts();
    for _ in 0..5 {
        service.dies(&mut deaths);
        starts();
    }
    let report = load.stop().unwrap();
    let failed = Failed::of(&report, &deaths);
    tell(&format!("{}: {failed:?} of {report}", service.name));
    failed
}

/// Bare, then kept.
fn nobody_notices(pair: &Pair, options: &str, service: &Service) {
    service.starts();
    let bare = course(service, pair);
    assert!(bare.refused > 0, "{bare:?}");
    let listeners = listeners(&pair.server).len();
    let keep = Keep::on(&pair.server, options);
    let kept = course(service, pair);
    assert_eq!(kept.refused + kept.others, 0, "{kept:?}");
    // By chance a process that dies is in the middle of more.
    assert!(kept.cut <= bare.cut + 10, "bare {bare:?}, kept {kept:?}");
    keep.ends(listeners);
}

#[test]
fn haproxy() {
    let pair = Pair::new().unwrap();
    nobody_notices(&pair, "", &Service::haproxy(&pair.server));
}

#[test]
fn nginx_with_reuseport() {
    let pair = Pair::new().unwrap();
    nobody_notices(&pair, "", &Service::nginx(&pair.server, true));
}

#[test]
fn nginx_as_it_is_installed() {
    let pair = Pair::new().unwrap();
    nobody_notices(&pair, "--any", &Service::nginx(&pair.server, false));
}

#[test]
fn redis() {
    let pair = Pair::new().unwrap();
    nobody_notices(&pair, "--any", &Service::redis(&pair.server));
}

//! `--ready-check` asks the service behind the closed gate, and nobody else gets there. Real clients tell.

mod harness;

use harness::instance::Instance;
use harness::latch::Latch;
use harness::rooms::GROUPS_HIDDEN;
use harness::{Backend, Call, Outcome, call, words};
use serde_json::json;
use testkit::services::Serve;
use testkit::{Host, Pair, SERVER};

const STANDBY: u16 = 8080;

/// An answer, or exit status 28 in time, before the kernel sends a SYN again (curl(1)).
const ASK: &str = "curl -sf -m 0.8 -o /dev/null";

/// What a client has got at port 80.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Served,
    Silent,
}

fn fate(client: &Host, to: &str) -> Fate {
    let asked = client.sh(&format!("{ASK} http://{to}/; echo $?")).unwrap();
    match asked.stdout.trim() {
        "0" => Fate::Served,
        "28" => Fate::Silent,
        other => panic!("{to}: {other}"),
    }
}

fn service(host: &Host) -> Instance {
    let server = Serve::on("0.0.0.0:80").and_on("[::]:80");
    Instance::start(host, "main", server)
}

/// No control group of the run's own.
fn no_group_is_left(host: &Host, outcome: &Outcome) {
    let name = outcome.report["run"].as_str().unwrap();
    let groups = format!("find /sys/fs/cgroup -name 'syngate_{name}*'");
    assert_eq!(host.sh(&groups).unwrap().stdout, "");
}

/// Runs it with a check that asks the service and then waits until `meanwhile` has been.
fn checked(host: &Host, call: Call, meanwhile: impl FnOnce()) -> Outcome {
    let mut asked = Latch::new(host, "asked");
    let check = format!(
        "{ASK} http://127.0.0.1/ && {ASK} 'http://[::1]/' && {{ {}; }}",
        asked.hold()
    );
    let call = call.args(["--ready-check", &check]);
    let run = call.start(["true"]);
    asked.wait();
    meanwhile();
    asked.release();
    call.end(run)
}

#[test]
fn a_check_passes_the_rules_and_nobody_else_does() {
    std::thread::scope(|threads| {
        for backend in Backend::ALL {
            for options in ["", "--hook prerouting", "--syn hold"] {
                threads.spawn(move || {
                    let pair = Pair::new().unwrap();
                    let host = &pair.server;
                    let main = service(host);
                    let options = format!("--port 80 --drain 0 --settle 0 {options}");
                    let call = call(host, words(&options)).on(backend);
                    let outcome = checked(host, call, || {
                        assert_eq!(main.count(), 2, "the check alone");
                        assert_eq!(
                            fate(host, "127.0.0.1"),
                            Fate::Silent,
                            "{backend:?} {options}"
                        );
                        assert_eq!(fate(host, "[::1]"), Fate::Silent, "{backend:?} {options}");
                        assert_eq!(
                            fate(&pair.client, SERVER),
                            Fate::Silent,
                            "{backend:?} {options}"
                        );
                        assert_eq!(main.count(), 2, "{backend:?} {options}");
                    });
                    assert_eq!(outcome.code, 0, "{backend:?} {options}: {outcome:?}");
                    assert!(!outcome.stderr.contains("way round"), "{outcome:?}");
                    assert_eq!(fate(host, "127.0.0.1"), Fate::Served);
                    no_group_is_left(host, &outcome);
                });
            }
        }
    });
}

#[test]
fn a_check_asks_the_service_while_the_standby_serves_all_others() {
    for backend in Backend::ALL {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let main = service(host);
        let server = Serve::on(format!("0.0.0.0:{STANDBY}")).and_on(format!("[::]:{STANDBY}"));
        let standby = Instance::start(host, "standby", server);
        let options = format!("--port 80 --drain 0 --settle 0 --syn redirect={STANDBY}");
        let call = call(host, words(&options)).on(backend);
        let before = standby.count();
        let outcome = checked(host, call, || {
            assert_eq!(
                (main.count(), standby.count()),
                (2, before),
                "the check alone"
            );
            assert_eq!(fate(host, "127.0.0.1"), Fate::Served);
            assert_eq!(fate(&pair.client, SERVER), Fate::Served);
            assert_eq!((main.count(), standby.count()), (2, before + 2));
        });
        assert_eq!(outcome.code, 0, "{backend:?}: {outcome:?}");
        assert_eq!(outcome.report["warnings"], json!([]), "{outcome:?}");
        no_group_is_left(host, &outcome);
    }
}

/// Nobody can tell the check's connections from those of others, so they wait.
#[test]
fn where_there_are_no_control_groups_a_check_waits_as_all_others_do() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let main = service(host);
    let options = "--port 80 --drain 0 --settle 0 --ready-timeout 1500ms -v";
    let call = call(host, words(options))
        .by(GROUPS_HIDDEN)
        .fault("no-own-mount");
    let outcome = call
        .args([
            "--ready-check",
            "curl -s -m 9 -o /dev/null http://127.0.0.1/",
        ])
        .run(["true"]);
    assert_eq!(outcome.code, 124, "{outcome:?}");
    assert!(
        outcome
            .stderr
            .contains("--ready-check can't pass the gate's rules here"),
        "{outcome:?}"
    );
    assert!(
        outcome
            .stderr
            .contains("--ready-check waits for the gate: curl"),
        "{outcome:?}"
    );
    assert_eq!(main.count(), 0);
}

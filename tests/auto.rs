//! `--syn auto`: the first action that can be done here.

mod harness;

use harness::rooms::{GROUPS_HIDDEN, Kernel, SHARES_PORT};
use harness::{Call, Outcome, SYNGATE, all_refused, call, syngate, words};
use testkit::Host;
use testkit::services::Serve;

fn auto<'a>(host: &'a Host, options: &str) -> Call<'a> {
    call(
        host,
        words("--port 80 --drain 0s --ready-timeout 0s --syn auto -v"),
    )
    .args(words(options))
}

/// The actions that could not be taken, with what was missing.
fn not_taken(outcome: &Outcome) -> Vec<(String, String)> {
    let all = outcome.report["not_taken"].as_array().unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    all.iter()
        .map(|one| (text(&one["action"]), text(&one["why"])))
        .collect()
}

/// By a syngate that may not load programs of eBPF.
fn without_bpf(call: Call<'_>) -> Call<'_> {
    call.by(words("setpriv --bounding-set -bpf,-sys_admin"))
}

#[test]
fn the_first_that_can_be_done_is_taken_and_the_others_are_told_of() {
    let host = Host::new().unwrap();
    let _service = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let listeners = || host.must(words("ss -Hltne sport = :80"));
    let before = listeners();
    for (options, first) in [("", "park"), ("--reload", "handover")] {
        let outcome = auto(&host, options).run(["true"]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.report["action"], first, "{outcome:?}");
        assert_eq!(not_taken(&outcome), []);
        let says = format!("--syn auto: {first}, since it can be done here");
        assert!(outcome.stderr.contains(&says), "{outcome:?}");

        let outcome = without_bpf(auto(&host, options)).run(["true"]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.report["action"], "hold", "{outcome:?}");
        let [(action, why)] = &not_taken(&outcome)[..] else {
            panic!("{outcome:?}");
        };
        assert_eq!(action, first);
        let says = format!("--syn auto: hold, since others can't be done here: {first}: {why}");
        assert!(outcome.stderr.contains(&says), "{outcome:?}");
        let told = format!("syngate: {says}\n");
        let quiet = without_bpf(call(&host, words("--port 80 --syn auto")).args(words(options)));
        let quiet = quiet.run(["true"]).stderr;
        assert!(quiet.starts_with(&told), "without -v: {quiet}");
        assert_eq!(outcome.report["warnings"].as_array().unwrap().len(), 0);

        let outcome = without_bpf(auto(&host, options))
            .fault("no-nfqueue")
            .run(["true"]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.report["action"], "drop", "{outcome:?}");
        let passed = not_taken(&outcome);
        let names: Vec<&str> = passed.iter().map(|(action, _)| &**action).collect();
        assert_eq!(names, [first, "hold"]);
        assert!(outcome.stderr.contains("drops SYNs"), "{outcome:?}");
    }
    assert_eq!(listeners(), before);
}

/// The kernel is tried before anything is changed. One that moves a queue in silence would leave the service
/// asleep, with all who waited.
#[test]
fn a_kernel_that_moves_nobody_or_wakes_nobody_is_not_used() {
    let host = Host::new().unwrap();
    let _service = Serve::on("0.0.0.0:80").start(&host).unwrap();
    for (fault, why) in [
        (
            "moves-nobody",
            "does not move connections between listeners",
        ),
        (
            "wakes-nobody",
            "does not wake a service when it moves connections",
        ),
    ] {
        for (options, first) in [("", "park"), ("--reload", "handover")] {
            let outcome = auto(&host, options).fault(fault).run(["true"]);
            assert_eq!(outcome.code, 0, "{outcome:?}");
            assert_eq!(outcome.report["action"], "hold", "{outcome:?}");
            let passed = not_taken(&outcome);
            assert_eq!(passed[0].0, first, "{passed:?}");
            assert!(passed[0].1.contains(why), "{passed:?}");

            let named = call(&host, words(&format!("--port 80 --syn {first}")));
            let marker = host.dir().join("command ran");
            let outcome = named.fault(fault).run(["touch", marker.to_str().unwrap()]);
            assert_eq!(outcome.code, 125, "{outcome:?}");
            assert!(outcome.stderr.contains(why), "{outcome:?}");
            assert!(!marker.exists());
        }
    }
}

/// Nothing is changed by what this kernel can't do.
#[test]
fn the_kernel_decides_whether_connections_can_be_moved() {
    let host = Host::new().unwrap();
    let _service = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let listeners = || host.must(words("ss -Hltne sport = :80"));
    let before = listeners();
    let lacks = match Kernel::here() {
        Kernel::MovesConnections => None,
        Kernel::WakesNobody => Some("does not wake a service when it moves connections to it"),
        Kernel::ResetsThem => Some("does not move connections between listeners (Linux 5.14)"),
    };
    let check = syngate(&host, "check --port 80 --json").stdout;
    let check: serde_json::Value = serde_json::from_str(&check).unwrap();
    let moves = &check["host"]["rooms"]["moves"];
    assert_eq!(moves["state"] == "yes", lacks.is_none(), "{moves}");
    for (action, options) in [("park", ""), ("handover", "--reload")] {
        let mark = host.dir().join(action);
        let call = call(&host, words("--port 80 --ready-timeout 0s --syn")).arg(action);
        let outcome = call.run(["touch".as_ref(), mark.as_os_str()]);
        let auto = auto(&host, options).run(["true"]);
        assert_eq!(auto.code, 0, "{auto:?}");
        if let Some(why) = lacks {
            assert_eq!(outcome.code, 125, "{outcome:?}");
            assert!(outcome.stderr.contains(why), "{outcome:?}");
            assert!(!mark.exists());
            assert_eq!(auto.report["action"], "hold", "{auto:?}");
            let [(passed, told)] = &not_taken(&auto)[..] else {
                panic!("{auto:?}");
            };
            assert!(passed == action && told.contains(why), "{auto:?}");
            assert!(moves["why"].as_str().unwrap().contains(why), "{moves}");
        } else {
            assert_eq!(outcome.code, 0, "{outcome:?}");
            assert!(mark.exists());
            assert_eq!(outcome.report["action"], action, "{outcome:?}");
            assert_eq!(auto.report["action"], action, "{auto:?}");
        }
        assert_eq!(listeners(), before);
    }
}

/// What is tried and can't be done leaves the service as it was.
#[test]
fn what_fails_at_the_last_moment_is_undone_before_command_runs() {
    let host = Host::new().unwrap();
    let _service = Serve::on("0.0.0.0:80").start(&host).unwrap();
    // There the socket can't be given SO_REUSEPORT for as long as COMMAND runs.
    let script = host.write("shares", SHARES_PORT);
    let asks = format!("python3 {} $(pgrep -of 'testkit serve')", script.display());
    let outcome = auto(&host, "")
        .by(GROUPS_HIDDEN)
        .fault("no-own-mount")
        .run(["sh", "-c", &asks]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.report["action"], "hold", "{outcome:?}");
    assert_eq!(outcome.stdout, "0\n", "{outcome:?}");
}

/// An option about rules leaves the actions with rules.
#[test]
fn options_rule_actions_out() {
    let host = Host::new().unwrap();
    let _service = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let outcome = auto(&host, "--allow-local --max-held 7").run(["true"]);
    assert_eq!(outcome.report["action"], "hold", "{outcome:?}");
    let passed = not_taken(&outcome);
    assert!(passed[0].1.contains("--allow-local"), "{passed:?}");
    // Those of one action do not rule out another one.
    for (options, first) in [
        (
            "--queue-num 7 --max-held-per-source 7 --release-timeout 1s --open-on exit",
            "park",
        ),
        (
            "--reload --queue-num 7 --drain 1s --drain-until handshakes --open-on exit",
            "handover",
        ),
    ] {
        let call = call(&host, words("--port 80 --ready-timeout 0s --syn auto"));
        let outcome = call.args(words(options)).run(["true"]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.report["action"], first, "{outcome:?}");
    }
}

#[test]
fn reload_is_for_actions_that_can_choose() {
    let host = Host::new().unwrap();
    let _service = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let refused = |options, told| (options, "options", told);
    all_refused(
        &host,
        &[
            refused("--reload", "--reload needs --syn auto"),
            refused("--syn drop --reload", "--reload needs --syn auto"),
            refused(
                "--syn park --reload",
                "--reload and --syn park exclude each other",
            ),
        ],
    );
    let outcome = call(&host, words("--port 80 --syn handover --reload")).run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let plan = |options: &str| {
        let options = format!("--port 80 --syn auto {options} --dry-run");
        call(&host, words(&options)).run(["true"]).stdout
    };
    assert!(plan("--reload").contains("until handshakes are over, unless it is handover\n"));
    assert!(plan("--reload --drain-until connections").contains("until connections are over"));
    assert!(plan("").contains("until requests are over\n"));
}

/// A dry run tells of the rules that the run makes, and of no others.
#[test]
fn a_dry_run_has_the_rules_of_what_will_be_taken() {
    let host = Host::new().unwrap();
    let plan = |options: &str| {
        let options = format!("--port 80 {options} --dry-run");
        call(&host, words(&options)).run(["true"]).stdout
    };
    let nobody = plan("--syn auto");
    let told = "# the rules, since park can't be done here (nobody listens):\n";
    assert!(
        nobody.contains(told) && nobody.contains("queue"),
        "{nobody}"
    );
    let service = Serve::on("0.0.0.0:80").start(&host).unwrap();
    for (options, first) in [("", "park"), ("--reload", "handover")] {
        let planned = plan(&format!("--syn auto {options}"));
        let told = format!("# no rules: {first} can be done here, and has none (--syn hold shows");
        assert!(planned.contains(&told), "{planned}");
        let mut lines = planned.lines();
        assert!(
            lines.all(|line| line.is_empty() || line.starts_with('#')),
            "{planned}"
        );
    }
    let other = plan("--syn auto --allow-local");
    assert!(
        !other.contains("the rules, since") && other.contains("queue"),
        "{other}"
    );
    let blind = host.sh(&format!(
        "setpriv --bounding-set -sys_admin --inh-caps -sys_admin {SYNGATE} -n --port 80 --syn auto -- true"
    ));
    let blind = blind.unwrap();
    let told = "# the rules, only if park can't be done here:\n";
    assert!(
        blind.stdout.contains(told) && blind.stdout.contains("queue"),
        "{blind:?}"
    );
    drop(service);
}

#[test]
fn the_environment_may_say_that_it_is_a_reload() {
    let host = Host::new().unwrap();
    let _service = Serve::on("0.0.0.0:80").start(&host).unwrap();
    for (value, first) in [("1", "handover"), ("no", "park")] {
        let outcome = auto(&host, "").env("SYNGATE_RELOAD", value).run(["true"]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.report["action"], first, "{outcome:?}");
    }
}

//! What others see of waiting rooms: `status`, `clear`, `check` and other runs. A room is a listener to the
//! kernel, and must be one to nobody else. A park may end in many ways: real clients tell what became of them.

mod harness;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::latch::Latch;
use harness::rooms::{
    ONE_BY_ONE, SHARES_PORT, all_served, are_parked, listeners, notes, nothing_is_left, queued,
    with_a_deadline,
};
use harness::{
    Call, Outcome, SOON, SYNGATE, call, costed, ms, read_cost, status, syngate, tell, words,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::services::Serve;
use testkit::{Host, Load, LoadReport, Pair, Running, RunningLoad, SERVER, wait_until};

const LONG: Duration = Duration::from_secs(60);
const WAITING: u32 = 20;

/// A run of park whose COMMAND waits, and clients that wait in its rooms.
struct Parked<'a> {
    run: Running,
    latch: Latch,
    call: Call<'a>,
    load: RunningLoad,
    /// As long as it is there, the service listens.
    service: Option<Running>,
}

impl<'a> Parked<'a> {
    fn new(host: &'a Host, options: &str) -> Parked<'a> {
        Parked::before_it_opens(host, options).expect("parked connections")
    }

    /// `None`: the gate has opened before all were parked.
    fn before_it_opens(host: &'a Host, options: &str) -> Option<Parked<'a>> {
        let service = Serve::on("0.0.0.0:80").start(host).unwrap();
        let call = call(
            host,
            words("--port 80 --syn park --drain 0s --ready-timeout 0"),
        );
        let call = call.unhurried().args(words(options));
        let latch = Latch::new(host, "parked");
        let run = call.start(["sh", "-c", &format!("{}; exit 3", latch.hold())]);
        latch.wait();
        let load = Load::to("127.0.0.1:80").rate(WAITING * 50).timeout(LONG);
        let load = load
            .duration(Duration::from_millis(20))
            .start(host)
            .unwrap();
        are_parked(host, WAITING.into()).then_some(Parked {
            run,
            latch,
            call,
            load,
            service: Some(service),
        })
    }

    /// The same after the end of the service.
    fn deserted(host: &'a Host, options: &str) -> Parked<'a> {
        let mut parked = Parked::new(host, options);
        assert!(parked.are_deserted(host), "parked connections");
        parked
    }

    /// Ends the service; false if the gate has opened before.
    fn are_deserted(&mut self, host: &Host) -> bool {
        let before = listeners(host).len();
        drop(self.service.take());
        let gone = || listeners(host).len() < before;
        wait_until(SOON, "the end of the service", gone).unwrap();
        queued(host) == u64::from(WAITING)
    }

    /// The run is killed, and its guard is left.
    fn is_orphaned(&mut self) {
        self.run.signal(Signal::SIGKILL).unwrap();
        self.run.wait().unwrap();
    }

    fn end(mut self) -> (Outcome, LoadReport) {
        self.latch.release();
        let outcome = self.call.end(self.run);
        (outcome, self.load.finish().unwrap())
    }
}

#[track_caller]
fn wait_for_end_of_guard(host: &Host) {
    let gone = || host.sh("pgrep -x gate-room").unwrap().stdout.is_empty();
    wait_until(SOON, "the end of the guard", gone).unwrap();
}

#[track_caller]
fn only(host: &Host) -> Value {
    let (gates, code) = status(host);
    assert_eq!((gates.len(), code), (1, 3), "{gates:#?}");
    gates[0].clone()
}

#[track_caller]
fn all_reset(report: &LoadReport) {
    assert_eq!(report.reset + report.cut, u64::from(WAITING), "{report}");
}

// Who has parked what ------------------------------------------------------------------------------

#[test]
fn status_tells_who_has_parked_what_and_until_when() {
    let host = Host::new().unwrap();
    let parked = Parked::new(&host, "--max-closed 60s");
    let gate = only(&host);
    for (field, value) in [
        ("state", Value::from("shut")),
        ("stale", Value::from(false)),
        ("ports", serde_json::json!(["80"])),
        ("backend", Value::from("room")),
        ("action", Value::from("park")),
        ("waiting", Value::from(WAITING)),
        ("owned", Value::from(false)),
        ("syns_stopped", Value::Null),
    ] {
        assert_eq!(gate[field], value, "{field}: {gate:#}");
    }
    let pid = host.must(["pgrep", "-x", "syngate"]);
    assert_eq!(gate["pid"].to_string(), pid.trim(), "{gate:#}");
    assert!(
        gate["since"].is_string() && gate["run"].is_string(),
        "{gate:#}"
    );
    let opens_in = gate["opens_in_ms"].as_u64().unwrap();
    assert!((30_000..=60_500).contains(&opens_in), "{gate:#}");
    let said = syngate(&host, "status").stdout;
    for part in [
        "80 is closed: new connections wait until the service listens\n",
        "room, park: 20 connections wait",
        "by the guard",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (outcome, report) = parked.end();
    assert_eq!(outcome.code, 3, "{outcome:?}");
    all_served(&report);
    assert_eq!(status(&host), (Vec::new(), 0));
}

/// Its rooms stay for a while, should the service close it once more.
#[test]
fn a_port_that_is_open_again_is_not_told_to_be_shut() {
    let host = &Host::new().unwrap();
    let pid = host.dir().join("server.pid");
    let both = Serve::on("0.0.0.0:80").and_on("0.0.0.0:8080");
    host.must(both.daemon_argv(&pid).unwrap());
    let one = Serve::on("0.0.0.0:8080").daemon_argv(&pid).unwrap();
    let command = format!("kill $(cat {}); exec {}", pid.display(), one.join(" "));
    let options = "--port 80,8080 --syn park --drain 0s --ready-timeout 60s --max-closed 60s";
    let call = call(host, words(options)).unhurried();
    let run = call.start(["sh", "-c", &command]);
    let is_open = || {
        let shut =
            |gate: &Value| gate["state"] == "shut" && gate["ports"] == serde_json::json!(["80"]);
        status(host).0.first().is_some_and(shut)
    };
    wait_until(SOON, "8080 is open again", is_open).unwrap();
    let load = |port: u16| {
        let load = Load::to(format!("127.0.0.1:{port}"))
            .rate(1_000)
            .timeout(LONG);
        load.duration(Duration::from_millis(20))
            .start(host)
            .unwrap()
    };
    let waiting = load(80);
    assert!(are_parked(host, WAITING.into()), "80 is shut");
    all_served(&load(8080).finish().unwrap());
    let quiet = |port: u16| syngate(host, &format!("status -q -p {port}")).code();
    assert_eq!([80, 8080].map(quiet), [3, 0]);
    let said = syngate(host, "status").stdout;
    assert!(
        said.starts_with("80 is closed: new connections wait until the service listens\n"),
        "{said}"
    );
    let said = syngate(host, "status -p 8080").stdout;
    assert!(
        said.starts_with("8080 is open; a run still works on it\n"),
        "{said}"
    );
    let ran = syngate(host, "clear -p 8080");
    assert_eq!((ran.code(), ran.stdout.as_str()), (0, ""), "{ran:?}");
    assert!(is_open(), "80 is as it was");
    let _rest = Serve::on("0.0.0.0:80").start(host).unwrap();
    assert_eq!(call.end(run).code, 0);
    all_served(&waiting.finish().unwrap());
    assert_eq!(status(host), (Vec::new(), 0));
    host.must(["sh", "-c", &format!("kill $(cat {})", pid.display())]);
}

#[test]
fn the_guard_of_a_dead_run_is_told_of_and_clear_has_it_hand_over() {
    for served in [true, false] {
        let host = Host::new().unwrap();
        let mut parked = match served {
            // A stopped guard does not hand over by itself, and is woken up.
            true => Parked::new(&host, ""),
            false => Parked::deserted(&host, ""),
        };
        host.must(["sh", "-c", "kill -STOP $(pgrep -x gate-room)"]);
        parked.is_orphaned();
        let gate = only(&host);
        assert_eq!(gate["stale"], true, "{gate:#}");
        assert_eq!(gate["waiting"], WAITING, "{gate:#}");
        let said = syngate(&host, "status").stdout;
        let part = match served {
            true => "(syngate clear does it now)",
            false => {
                "(start the service; syngate clear ends the wait now, and resets the 20 that wait if nobody \
                 listens)"
            }
        };
        let part = format!(
            "80 is closed by a run that is dead: its guard hands the waiting connections over once the service \
             listens {part}"
        );
        assert!(said.contains(&part), "{said}");
        let ran = syngate(&host, "clear");
        assert_eq!(ran.code(), 0, "{ran:?}");
        let report = parked.load.finish().unwrap();
        let fate = if served {
            all_served(&report);
            "20 connections handed over to the service"
        } else {
            all_reset(&report);
            "20 connections reset, since nobody listens"
        };
        assert!(ran.stderr.contains(fate), "{ran:?}");
        assert!(ran.stderr.contains("left by a dead run"), "{ran:?}");
        assert_eq!(listeners(&host).len(), usize::from(served));
        assert_eq!(status(&host), (Vec::new(), 0));
        assert_eq!(left(&host), Value::from(Vec::<Value>::new()));
    }
}

fn left(host: &Host) -> Value {
    let json = syngate(host, "status --json").stdout;
    serde_json::from_str::<Value>(&json).unwrap()["left"].clone()
}

/// Nothing keeps the port then. What is left is told, and clear removes it.
#[test]
fn after_the_death_of_both_a_control_group_is_left() {
    let host = Host::new().unwrap();
    let mut parked = Parked::new(&host, "");
    let run = only(&host)["run"].clone();
    parked.run.signal(Signal::SIGSTOP).unwrap();
    host.must(["sh", "-c", "kill -KILL $(pgrep -x gate-room)"]);
    parked.is_orphaned();
    all_served(&parked.load.finish().unwrap());
    assert_eq!(status(&host), (Vec::new(), 0));
    let there = left(&host);
    let group = there[0]["control_group"].as_str().unwrap();
    let note = there[1]["note"].as_str().unwrap();
    for one in [0, 1] {
        assert_eq!(there[one]["run"], run, "{there:#}");
    }
    let said = syngate(&host, "status").stdout;
    assert!(
        said.starts_with("no gate is closed\n") && said.contains(group) && said.contains(note),
        "{said}"
    );
    let ran = syngate(&host, "clear");
    assert_eq!(ran.code(), 0, "{ran:?}");
    assert!(ran.stderr.contains(group), "{ran:?}");
    assert!(!std::path::Path::new(group).exists());
    assert_eq!(left(&host), Value::from(Vec::<Value>::new()));
    assert_eq!(notes(&host), "");
}

/// A run that is about to start its guard, and does not come to that.
fn unguarded(host: &Host) -> Running {
    let call = call(host, words("--port 80 --syn park")).fault("hang:Guard");
    let run = call.start(["true"]);
    let all_lent = || !notes(host).is_empty() && listeners(host).len() == 1 && has_group(host);
    wait_until(SOON, "a note and a control group", all_lent).unwrap();
    run
}

fn has_group(host: &Host) -> bool {
    notes(host).contains("/syngate_")
}

/// SO_REUSEPORT of the sockets on port 80, as a copy of each has it.
fn shares_port(host: &Host) -> String {
    let ask =
        "python3 -c \"$0\" $(ss -Hltnp sport = :80 | grep -o 'pid=[0-9]*' | cut -c 5- | sort -u)";
    host.must(["sh", "-c", ask, SHARES_PORT])
}

#[test]
fn a_run_that_is_killed_before_its_guard_is_there_leaves_nothing() {
    for reuseport in [true, false] {
        let host = Host::new().unwrap();
        let service = Serve::on("0.0.0.0:80").reuseport_if(reuseport);
        let _service = service.start(&host).unwrap();
        let own = shares_port(&host);
        let mut run = unguarded(&host);
        assert_eq!(shares_port(&host), "1\n");
        run.signal(Signal::SIGKILL).unwrap();
        run.wait().unwrap();
        nothing_is_left(&host, 1);
        assert_eq!(shares_port(&host), own);
        assert_eq!(left(&host), Value::from(Vec::<Value>::new()));
    }
}

/// Its early guard is killed, too. What is left is told, and a run on another port takes it back.
#[test]
fn what_a_run_without_any_guard_leaves_is_taken_back_by_the_next() {
    let host = Host::new().unwrap();
    let _service = Serve::on("0.0.0.0:80").start(&host).unwrap();
    let own = shares_port(&host);
    let mut run = unguarded(&host);
    host.must(["sh", "-c", "kill -KILL $(pgrep -x gate-room)"]);
    run.signal(Signal::SIGKILL).unwrap();
    run.wait().unwrap();
    let there = left(&host);
    assert!(
        there[0]["control_group"].is_string() && there[1]["note"].is_string(),
        "{there:#}"
    );
    let next = call(&host, words("--port 81 --drain 0s --ready-timeout 0"));
    let outcome = next.run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(
        outcome.stderr.contains("left there: SO_REUSEPORT"),
        "{outcome:?}"
    );
    nothing_is_left(&host, 1);
    assert_eq!(shares_port(&host), own);
    assert_eq!(left(&host), Value::from(Vec::<Value>::new()));
}

/// Runs of that network namespace will never come. Those of others that live keep theirs.
#[test]
fn a_control_group_whose_network_namespace_has_gone_is_removed_from_another_one() {
    let pid = Path::new("/run/server.pid");
    let start = Serve::on("0.0.0.0:80").daemon_argv(pid).unwrap().join(" ");
    let run = format!(
        "mount -t tmpfs none /run; ip link set lo up; {start}
         $SYNGATE --port 80 --syn park --ready-timeout 0 -- true; kill $(cat /run/server.pid)"
    );
    let alive = Host::new().unwrap();
    let living = Parked::new(&alive, "");
    let others = "find /sys/fs/cgroup -name 'syngate_*'";
    let others = alive.must(["sh", "-c", others]);
    let its_own = only(&alive)["run"].as_str().unwrap().to_owned();
    let others = others.lines().filter(|path| path.contains(&its_own));
    let others: Vec<&str> = others.collect();
    assert_eq!(others.len(), 1, "{others:?}");
    for script in ["exec $SYNGATE clear", &run] {
        let host = Host::new().unwrap();
        let mut parked = Parked::new(&host, "");
        parked.run.signal(Signal::SIGSTOP).unwrap();
        host.must(["sh", "-c", "kill -KILL $(pgrep -x gate-room)"]);
        parked.is_orphaned();
        all_served(&parked.load.finish().unwrap());
        let there = left(&host);
        let group = there[0]["control_group"].as_str().unwrap().to_owned();
        drop((parked.latch, parked.service, parked.call));
        drop(host);
        assert!(Path::new(&group).exists());
        let mut elsewhere = Command::new("unshare");
        elsewhere
            .args(["--net", "--mount", "sh", "-ec", script])
            .env("SYNGATE", SYNGATE);
        let ran = elsewhere.output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        assert!(!Path::new(&group).exists(), "{group}: {ran:?}");
    }
    assert!(Path::new(others[0]).exists(), "{others:?}");
    let (outcome, report) = living.end();
    assert_eq!(outcome.code, 3, "{outcome:?}");
    all_served(&report);
}

// What ends a park ---------------------------------------------------------------------------------

#[test]
fn each_end_of_a_park_hands_over_to_who_listens_and_resets_if_nobody_does() {
    std::thread::scope(|threads| {
        for served in [true, false] {
            for end in ["clear", "clear --force", "USR1", "INT", "--max-closed"] {
                threads.spawn(move || ends(end, served));
            }
        }
    });
}

fn ends(end: &str, served: bool) {
    match end {
        "--max-closed" => with_a_deadline(|deadline| has_ended(end, deadline, served)),
        _ => assert!(has_ended(end, "", served), "parked connections"),
    }
}

/// Whether it was that end: false if the gate had opened before.
fn has_ended(end: &str, options: &str, served: bool) -> bool {
    let host = Host::new().unwrap();
    let Some(mut parked) = Parked::before_it_opens(&host, options) else {
        return false;
    };
    if !served && !parked.are_deserted(&host) {
        return false;
    }
    match end {
        "USR1" => parked.run.signal(Signal::SIGUSR1).unwrap(),
        "INT" => parked.run.signal(Signal::SIGINT).unwrap(),
        "--max-closed" => (),
        clear => {
            let said = syngate(&host, "status").stdout;
            let warns = "nobody listens now, so syngate clear would reset 20";
            assert_eq!(said.contains(warns), !served, "{said}");
            let ran = syngate(&host, clear);
            assert_eq!(ran.code(), 0, "{ran:?}");
            let fate = match served {
                true => "20 connections handed over to the service",
                false => "20 connections reset, since nobody listens",
            };
            assert!(ran.stderr.contains(fate), "{ran:?}");
        }
    }
    let Parked {
        run,
        load,
        mut latch,
        call,
        service: _service,
    } = parked;
    // They do not wait for COMMAND.
    let report = load.finish().unwrap();
    latch.release();
    let outcome = call.end(run);
    let fate = if served {
        all_served(&report);
        "handed_over"
    } else {
        all_reset(&report);
        "reset"
    };
    let counted = &outcome.report["park"];
    assert_eq!(counted["parked"], WAITING, "{end}: {outcome:?}");
    assert_eq!(counted[fate], WAITING, "{end}: {outcome:?}");
    assert_ne!(outcome.code, 0, "{end}: {outcome:?}");
    let says = "20 connections parked";
    assert!(outcome.stderr.contains(says), "{end}: {outcome:?}");
    wait_for_end_of_guard(&host);
    assert_eq!(listeners(&host).len(), usize::from(served), "{end}");
    true
}

/// With drop nobody knows who was refused.
#[test]
fn a_cleared_run_that_has_lost_clients_says_so_by_its_exit_status() {
    for (action, code) in [("drop", 0), ("hold", 124), ("park", 124)] {
        let host = Host::new().unwrap();
        let serve = Serve::on("0.0.0.0:80");
        let pid = serve.start_daemon(&host).unwrap().pid_file().to_owned();
        let start = serve.daemon_argv(&pid).unwrap().join(" ");
        let mut latch = Latch::new(&host, action);
        let stop = format!(
            "pid=$(cat {}); kill $pid; while kill -0 $pid 2>&-; do sleep 0.01; done",
            pid.display()
        );
        let call = call(&host, words(&format!("--port 80 --drain 0 --syn {action}")));
        let run = call.start([
            "sh".to_owned(),
            "-c".to_owned(),
            format!("{stop}; {}; {start}", latch.hold()),
        ]);
        latch.wait();
        let load = Load::to("127.0.0.1:80")
            .rate(1_000)
            .duration(Duration::from_millis(1));
        let load = load.start(&host).unwrap();
        let waits = |field: &str| status(&host).0[0][field].as_u64().unwrap_or(0) > 0;
        wait_until(SOON, "a client", || {
            waits("syns_stopped") || waits("waiting")
        })
        .unwrap();
        assert_eq!(syngate(&host, "clear").code(), 0);
        latch.release();
        let lost = load.finish().unwrap().failed();
        let outcome = call.end(run);
        assert_eq!(outcome.code, code, "{action}: {outcome:?}");
        assert!(lost == 1 || code == 0, "{action}: {outcome:?}");
        let warnings = outcome.report["warnings"].to_string();
        assert!(
            warnings.contains("opened the gate early"),
            "{action}: {outcome:?}"
        );
    }
}

// Rooms are nobody's service -----------------------------------------------------------------------

#[test]
fn others_do_not_take_a_room_for_the_service() {
    let host = Host::new().unwrap();
    let mut parked = Parked::deserted(&host, "");
    parked.is_orphaned();
    let ran = syngate(&host, "check --port 80 --json");
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        json["listeners"],
        Value::from(Vec::<Value>::new()),
        "{json:#}"
    );

    // A run that took it for the service would have seen listeners before.
    let mut down = Latch::new(&host, "down");
    let pid = host.dir().join("server.pid");
    let start = Serve::on("0.0.0.0:80").daemon_argv(&pid).unwrap().join(" ");
    let next = call(&host, words("--port 80"))
        .unhurried()
        .report_to(host.dir().join("next.json"));
    let run = next.start(["sh", "-c", &format!("{}; exec {start}", down.hold())]);
    down.wait();
    let (gates, _) = status(&host);
    let actions: Vec<&Value> = gates.iter().map(|gate| &gate["action"]).collect();
    assert_eq!(actions, ["drop", "park"], "{gates:#?}");
    down.release();
    let outcome = next.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let before = &outcome.report["listeners_before"];
    assert_eq!(*before, Value::from(Vec::<Value>::new()), "{outcome:?}");
    // The guard of the dead run has handed over to what this run has started.
    all_served(&parked.load.finish().unwrap());
    wait_for_end_of_guard(&host);
    assert_eq!(listeners(&host).len(), 1);
}

/// Both would attach a program to the service's group.
#[test]
fn a_run_has_the_guard_of_a_dead_one_hand_over_first() {
    let host = Host::new().unwrap();
    let mut parked = Parked::new(&host, "");
    parked.is_orphaned();
    let next = call(&host, words("--port 80 --syn park --ready-timeout 0"));
    let outcome = next
        .unhurried()
        .report_to(host.dir().join("next.json"))
        .run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(
        outcome.stderr.contains("that a dead run had left"),
        "{outcome:?}"
    );
    all_served(&parked.load.finish().unwrap());
    wait_for_end_of_guard(&host);
    assert_eq!(listeners(&host).len(), 1);
}

// Figures ------------------------------------------------------------------------------------------

/// A listener whose queue is longer than the host's longest (net.core.somaxconn) takes no SYN until the service
/// has accepted what is too much.
#[test]
#[ignore = "figures, of an optimised build; see docs/park.md"]
fn costs_of_ten_thousand_that_wait() {
    const MANY: u64 = 10_000;
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    host.must(words("sysctl -qw net.core.somaxconn=16384"));
    let [pid, accepted, came, got] =
        ["server.pid", "accepted", "came", "got"].map(|name| host.dir().join(name));
    let server = Serve::on("0.0.0.0:80").backlog(16).log_accepts(&accepted);
    let start = server.daemon_argv(&pid).unwrap().join(" ");
    host.must(["sh", "-c", &start]);
    let call = call(host, words("--port 80 --syn park --max-held 12000"));
    let (call, cost) = costed(host, call);
    let mut down = Latch::new(host, "down");
    let hold = down.hold();
    let script = format!("kill $(cat {}); {hold}; exec {start}", pid.display());
    let run = call.start(["sh", "-c", &script]);
    down.wait();
    let mut clients = pair.client.command("python3");
    clients.args(["-c", ONE_BY_ONE, &MANY.to_string()]);
    let clients = clients.args([&came, &got]).arg(SERVER);
    let mut clients = pair.client.spawn(clients).unwrap();
    wait_until(LONG, "parked connections", || {
        queued(host) >= MANY && came.exists()
    })
    .unwrap();
    let lost = || ["ListenOverflows", "ListenDrops"].map(|n| host.tcp_counter(n).unwrap());
    let before = lost();
    let later = Load::to(format!("{SERVER}:80")).rate(200).timeout(LONG);
    let later = later.duration(LONG).start(&pair.client).unwrap();
    down.release();
    clients.wait().unwrap();
    let outcome = call.end(run);
    let later = later.stop().unwrap();
    all_served(&later);
    assert!(later.connect.max_ms < 900.0, "{later}");
    let read = |file: &std::path::Path| std::fs::read_to_string(file).unwrap();
    assert_eq!(read(&got), MANY.to_string(), "all are served");
    let (came, accepted) = (read(&came), read(&accepted));
    let mut arrived: BTreeMap<&str, usize> = came.lines().zip(0..).collect();
    // A later client may have the port of one that is done.
    let places = accepted.lines().filter_map(|one| arrived.remove(one));
    let places: Vec<usize> = places.collect();
    assert_eq!(places.len() as u64, MANY);
    // A handshake whose last ACK has met its data on another CPU ends later: see Pair::steered_by_flow.
    let apart = |(n, place): (usize, &usize)| n.abs_diff(*place);
    let moved = places.iter().enumerate().map(apart);
    let moved = moved.filter(|places| *places > 20).count();
    assert!(
        moved <= 20,
        "{moved} were not served in the order of their arrival"
    );
    assert_eq!(lost(), before, "the kernel dropped none");
    let [closed, opening] = ["closed_ms", "open_took_ms"].map(|name| ms(&outcome.report, name));
    let (cpu, kib) = read_cost(&cost);
    tell(&format!(
        "{MANY} parked, closed for {closed:.0} ms, handed over in {opening:.1} ms: {cpu} s of CPU, {kib} KiB"
    ));
}

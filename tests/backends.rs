//! What is special about each way to make the gate: what the kernel does not do by itself has to be
//! done by a watchdog, by a clock of another kind, by looking again and again.

mod harness;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use harness::latch::Latch;
use harness::{
    Backend, Outcome, SOON, SYNGATE, call, gated, lease, ms, noted, shut, stopped_syns, wait_open,
    wait_shut, words,
};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use testkit::services::Serve;
use testkit::{CLIENT, Host, Load, Pair, Running, SERVER, SERVER6, slow, wait_until};

/// As iptables lists it.
const ACCEPT: &str = "-p tcp -m tcp --dport 80 -j ACCEPT";

/// How long a gate may outlive its owner.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// A pair with a plain server on port 80, on both IP versions.
fn served() -> (Pair, Running) {
    let pair = Pair::new().unwrap();
    let server = Serve::on("0.0.0.0:80")
        .and_on("[::]:80")
        .start(&pair.server)
        .unwrap();
    (pair, server)
}

/// How long one request takes to connect, over each IP version.
fn ask(pair: &Pair) -> [f64; 2] {
    [format!("{SERVER}:80"), format!("[{SERVER6}]:80")].map(|to| {
        let load = Load::to(to)
            .rate(100)
            .duration(Duration::from_millis(10))
            .timeout(SOON);
        let report = load.start(&pair.client).unwrap().finish().unwrap();
        assert_eq!(report.ok, report.sent, "{report}");
        report.connect.max_ms
    })
}

#[track_caller]
fn assert_open(pair: &Pair) {
    let connect_ms = ask(pair);
    assert!(connect_ms.iter().all(|ms| *ms < 500.0), "{connect_ms:?}");
}

fn sh(script: impl Into<String>) -> [String; 3] {
    ["sh".to_owned(), "-c".to_owned(), script.into()]
}

/// The pids of the watchdogs on the host, as the host sees them.
fn watchdogs(host: &Host) -> Vec<String> {
    let pids = host.sh("pgrep -x gate-watchdog").unwrap().stdout;
    pids.lines().map(str::to_owned).collect()
}

/// The same test on several backends, each on hosts of its own.
fn each(backends: &[Backend], test: impl Fn(Backend)) {
    backends.iter().copied().for_each(test);
}

// What is in the kernel ----------------------------------------------------------------------------

/// The report names the backend; SYNs over both IP versions are stopped, and counted.
#[test]
fn stops_and_counts_on_both_ip_versions() {
    each(&Backend::ALL, |backend| {
        let (pair, _server) = served();
        let host = &pair.server;
        let mut latch = Latch::new(host, "latch");
        let call = call(host, words("--port 80,8000-8010 --ready-timeout 0")).on(backend);
        let run = call.start(sh(latch.hold()));
        latch.wait();
        let loads = [format!("{SERVER}:80"), format!("[{SERVER6}]:80")].map(|to| {
            let load = Load::to(to).rate(100).duration(Duration::from_millis(50));
            load.start(&pair.client).unwrap()
        });
        wait_until(SOON, "stopped SYNs", || stopped_syns(host) >= 10).unwrap();
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.report["backend"], backend.reported());
        assert!(outcome.report["syns_stopped"].as_u64().unwrap() >= 10);
        for load in loads {
            let report = load.finish().unwrap();
            assert_eq!((report.ok, report.delayed), (5, 5), "{report}");
        }
        assert_eq!(watchdogs(host), Vec::<String>::new());
    });
}

/// What --dry-run prints is what iptables takes, and what stands while the gate is closed.
#[test]
fn iptables_has_what_a_dry_run_prints() {
    for (backend, variant) in [
        (Backend::IptablesLegacy, "legacy"),
        (Backend::IptablesNft, "nft"),
    ] {
        let host = Host::new().unwrap();
        let save = format!("iptables-{variant}-save; ip6tables-{variant}-save");
        let options = words(
            "--port 80,443,8000-8010 --to 10.0.0.0/8,fd00::/8 --allow-from 10.1.1.1 --allow-local \
             --interface eth0,eth1",
        );
        let closed = call(&host, options.clone())
            .on(backend)
            .run(sh(save.clone()));
        let mut dry = host.command(SYNGATE);
        dry.args(["-n", "--backend", backend.name()]).args(&options);
        let dry = dry.args(["--", "true"]).output().unwrap();
        let dry = String::from_utf8(dry.stdout).unwrap();

        let scratch = Host::new().unwrap();
        backend.prime(&scratch);
        let scripts: Vec<&str> = dry
            .split("# iptables")
            .nth(1)
            .unwrap()
            .split("# ip6tables")
            .collect();
        for (script, program) in scripts.iter().zip(["iptables", "ip6tables"]) {
            let rules = script.split_once('\n').unwrap().1;
            let file = scratch.write(program, rules);
            let restore = format!("{program}-{variant}-restore --noflush <{}", file.display());
            scratch.must(sh(restore));
        }
        let loaded = scratch.must(sh(save));
        assert_eq!(
            essence(&closed.stdout),
            essence(&loaded),
            "{}",
            backend.name()
        );
    }
}

/// Rules without the random part of their names, who made them, and counts.
fn essence(saved: &str) -> Vec<String> {
    let lines = saved.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.map(|line| line.split(" [").next().unwrap());
    lines
        .map(|line| {
            let mut line = line.to_owned();
            while let Some(at) = line.find("syngate_") {
                line.replace_range(at..at + "syngate_".len() + 16, "OURS");
            }
            if let (Some(from), Some(to)) = (line.find("--comment "), line.rfind('"')) {
                line.replace_range(from..to, "");
            }
            line
        })
        .collect()
}

/// More ports than one rule of iptables takes: all of them are gated, over both IP versions.
#[test]
fn many_ports_are_split() {
    let odd: Vec<u64> = (1..2_002).step_by(2).collect();
    let listed: Vec<String> = odd.iter().map(u64::to_string).collect();
    for backend in [Backend::IptablesLegacy, Backend::IptablesNft] {
        let host = Host::new().unwrap();
        let call = call(&host, ["--port", &listed.join(",")])
            .args(["--ready-timeout", "0"])
            .on(backend);
        let mut latch = Latch::new(&host, "latch");
        let run = call.start(sh(latch.hold()));
        latch.wait();
        assert_eq!(shut(&host), odd, "{}", backend.name());
        latch.release();
        assert_eq!(call.end(run).code, 0);
    }
}

/// Killed while its iptables-restore waits for the lock: what that does in the end is removed too.
#[test]
fn killed_while_it_waits_for_the_lock_of_iptables() {
    let host = Host::new().unwrap();
    let call = call(&host, words("--port 80 --xtables-wait 20s")).on(Backend::IptablesLegacy);
    let before = host.ruleset();
    let mut holder = hold_xtables_lock(&host, 30);
    let mut run = call.start(["true"]);
    let waits = || {
        host.sh("pgrep -f '[i]ptables-legacy-restore'")
            .unwrap()
            .ok()
    };
    wait_until(SOON, "iptables-restore to wait", waits).unwrap();
    run.signal(Signal::SIGKILL).unwrap();
    let _ = run.wait();
    // What iptables-restore waits to do, nobody must do any more.
    wait_until(SOON, "no iptables-restore", || !waits()).unwrap();
    let none = || watchdogs(&host).is_empty();
    wait_until(SOON, "no watchdog", none).unwrap();
    holder.signal(Signal::SIGKILL).unwrap();
    assert_eq!(host.ruleset(), before);
}

/// iptables as before 1.8: one variant, without a name for it.
#[test]
fn iptables_without_variants_is_found_again() {
    let (pair, _server) = served();
    let host = &pair.server;
    Backend::IptablesLegacy.prime(host);
    let before = host.ruleset();
    let plain = host.dir().join("sbin");
    let plain = plain.display();
    host.must(sh(format!(
        "mkdir {plain} && cd {plain} && for v in '' 6; do for p in restore save; do \
         cp /usr/sbin/ip${{v}}tables-legacy-$p ip${{v}}tables-$p; done; done && \
         cp /usr/sbin/nft . && mount -t tmpfs tmpfs /usr/sbin && cp * /usr/sbin/"
    )));
    let call = call(host, words("--port 80 --backend iptables"));
    let latch = Latch::new(host, "latch");
    let mut run = call.start(sh(latch.hold()));
    latch.wait();
    run.signal(Signal::SIGKILL).unwrap();
    let _ = run.wait();
    wait_until(GONE_WITHIN, "no watchdog", || watchdogs(host).is_empty()).unwrap();
    let left = host.must(["iptables-save"]);
    assert!(!left.contains("syngate_"), "{left}");
    host.must(["umount", "/usr/sbin"]);
    assert_eq!(host.ruleset(), before);
    assert_open(&pair);
}

/// A backend that can't be used leaves nothing, no watchdog either.
#[test]
fn what_does_not_work_leaves_nothing() {
    let host = Host::new().unwrap();
    Backend::IptablesNft.prime(&host);
    let path = shadow(
        &host,
        "iptables-nft-restore",
        "cat >/dev/null; echo 'RULE_INSERT failed (No such file or directory)' >&2; exit 4",
    );
    let outcome = call(&host, words("--port 80"))
        .on(Backend::IptablesNft)
        .env("PATH", &path)
        .run(["true"]);
    assert_eq!(outcome.code, 125, "{outcome:?}");
    assert!(outcome.stderr.contains("RULE_INSERT failed"), "{outcome:?}");
    assert!(!outcome.stderr.contains("--xtables-wait"), "{outcome:?}");
    assert_eq!(watchdogs(&host), Vec::<String>::new());
}

// Killed -------------------------------------------------------------------------------------------

/// The whole process group is killed: the watchdog has a session of its own.
#[test]
fn killed_with_its_process_group() {
    each(&Backend::ALL, |backend| {
        let (pair, _server) = served();
        let host = &pair.server;
        let call = call(host, words("--port 80")).on(backend);
        let before = host.ruleset();
        let latch = Latch::new(host, "latch");
        let mut setsid = host.command("setsid");
        setsid
            .args(["--wait", "--"])
            .args(call.argv(sh(latch.hold())));
        setsid.envs(call.variables());
        let mut run = host.spawn(setsid.stdin(Stdio::null())).unwrap();
        latch.wait();
        assert_eq!(shut(host), [80]);
        let pids = host.must(["pgrep", "-x", "syngate"]);
        let pid: i32 = host_pid(host, pids.trim());
        killpg(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        wait_open(host, GONE_WITHIN);
        assert_eq!(host.ruleset(), before);
        assert_open(&pair);
        wait_until(SOON, "no watchdog", || watchdogs(host).is_empty()).unwrap();
        let _ = run.wait();
    });
}

/// What a process of the host is called outside of it.
fn host_pid(host: &Host, inside: &str) -> i32 {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ns = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let theirs = ns(host.pid() as i32);
    pids.find(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        inner.is_some_and(|pids| pids.split_whitespace().last() == Some(inside))
            && ns(*pid) == theirs
    })
    .expect("a process of the host")
}

/// A watchdog that somebody kills is replaced, and that is told. The new one does what the first one had
/// to do.
#[test]
fn a_watchdog_that_is_killed_is_replaced() {
    each(&Backend::EXPOSED, |backend| {
        let (pair, _server) = served();
        let host = &pair.server;
        let latch = Latch::new(host, "replaced");
        let mut run = call(host, words("--port 80 --max-closed 5m --drain 0"))
            .on(backend)
            .start(sh(latch.hold()));
        latch.wait();
        let first = watchdogs(host);
        host.must(["kill", "-KILL", &first[0]]);
        let another = || watchdogs(host).len() == 1 && watchdogs(host) != first;
        wait_until(SOON, "another watchdog", another).unwrap();
        let mut said = BufReader::new(run.stderr().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("started another one")));
        run.signal(Signal::SIGKILL).unwrap();
        let _ = run.wait();
        wait_until(GONE_WITHIN, "an open port", || connects(&pair, SERVER)).unwrap();
    });
}

/// Nor does one that somebody has stopped do anything: it does not answer.
#[test]
fn a_watchdog_that_is_stopped_is_replaced() {
    let (pair, _server) = served();
    let host = &pair.server;
    let latch = Latch::new(host, "replaced");
    let mut run = call(host, words("--port 80 --max-closed 5m --drain 0"))
        .on(Backend::NftPlain)
        .start(sh(latch.hold()));
    latch.wait();
    let first = watchdogs(host);
    host.must(["kill", "-STOP", &first[0]]);
    let mut said = BufReader::new(run.stderr().unwrap()).lines();
    let warning = said.find_map(|line| line.ok().filter(|line| line.contains("watchdog")));
    assert!(warning.unwrap().contains("does not answer"));
    run.signal(Signal::SIGKILL).unwrap();
    let _ = run.wait();
    wait_until(GONE_WITHIN, "an open port", || connects(&pair, SERVER)).unwrap();
    wait_until(SOON, "no watchdog", || watchdogs(host).is_empty()).unwrap();
}

/// Nobody can open COMMAND's file (a lease on it, as on a file server that is gone). Signals are heard all
/// the same, and the gate goes with the run.
#[test]
fn a_command_whose_file_hangs() {
    each(&Backend::ALL, |backend| {
        let (pair, _server) = served();
        let host = &pair.server;
        for (signal, name) in [(Signal::SIGUSR1, "opened"), (Signal::SIGKILL, "killed")] {
            let file = host.write(name, std::fs::read("/bin/true").unwrap());
            host.must(["chmod", "755", file.to_str().unwrap()]);
            let mut lease = lease(host, &file);
            let call = call(host, words("--port 80 --max-closed 5m --drain 0")).on(backend);
            let mut run = call.start([&file]);
            wait_until(SOON, "execve(2) of COMMAND", || noted(&file, "tried")).unwrap();
            assert!(!connects(&pair, SERVER), "it is closed");
            run.signal(signal).unwrap();
            wait_until(GONE_WITHIN, "an open port", || connects(&pair, SERVER)).unwrap();
            // Killed already, in the second round.
            let _ = run.signal(Signal::SIGKILL);
            let _ = run.wait();
            lease.signal(Signal::SIGKILL).unwrap();
        }
    });
}

/// Nobody is left to remove the rules: the kernel stops matching, within a second of its clock.
#[test]
fn killed_with_its_watchdog() {
    each(&Backend::EXPOSED, |backend| {
        let (pair, _server) = served();
        let host = &pair.server;
        let call = closed_briefly(host, backend);
        opens_by_itself(&pair, &call, || ());

        // What is left is marked, and the next run removes it.
        let status = host.sh(&format!("{SYNGATE} status")).unwrap();
        assert!(status.stdout.contains("stale"), "{status:?}");
        assert_eq!(status.code(), 0, "no gate is closed: {status:?}");
        let next = self::call(host, words("--port 81 --ready-timeout 0"))
            .on(backend)
            .start(["true"]);
        let outcome = call.end(next);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert!(
            outcome.stderr.contains("a dead run had left"),
            "{outcome:?}"
        );
    });
}

/// The same when somebody sets the clock back by a day: the kernel's deadline is none of the wall
/// clock's. There is one clock for the whole machine, so this is for virtual ones.
#[test]
#[ignore = "sets the machine's clock: run it in a virtual machine"]
fn killed_with_its_watchdog_and_the_clock_set_back() {
    each(&Backend::EXPOSED, |backend| {
        let (pair, _server) = served();
        let yesterday = || drop(pair.server.must(["date", "-s", "-1 day"]));
        let call = closed_briefly(&pair.server, backend);
        opens_by_itself(&pair, &call, yesterday);
    });
}

/// How long a gate is closed whose run is killed.
fn briefly() -> Duration {
    Duration::from_secs(2) * slow()
}

fn closed_briefly(host: &Host, backend: Backend) -> harness::Call<'_> {
    let options = format!("--port 80 --max-closed {}s --drain 0", briefly().as_secs());
    call(host, words(&options)).on(backend)
}

/// Closes, kills the run and its watchdog, and sees when the port opens.
fn opens_by_itself(pair: &Pair, call: &harness::Call, meanwhile: impl Fn()) {
    // What a look takes, on a busy machine.
    let late = Duration::from_millis(700) * slow();
    let host = &pair.server;
    let latch = Latch::new(host, "dies");
    let mut run = call.start(sh(latch.hold()));
    latch.wait();
    let closed_at = Instant::now();
    kill_both(host, &mut run);
    assert!(gated(host), "nobody has removed it");
    meanwhile();
    for address in [SERVER, SERVER6] {
        assert!(!connects(pair, address), "{address}: it was closed");
    }
    for address in [SERVER, SERVER6] {
        wait_until(SOON, "an open port", || connects(pair, address)).unwrap();
        let open_after = closed_at.elapsed();
        let latest = briefly() + Duration::from_secs(1) + late;
        assert!(open_after < latest, "{open_after:?}");
    }
    assert_open(pair);
}

/// Whether a SYN is answered at once; it is given up before it is sent again.
fn connects(pair: &Pair, address: &str) -> bool {
    let connect = format!("timeout 0.3 bash -c 'exec 3<>/dev/tcp/{address}/80'");
    pair.client.sh(&connect).unwrap().ok()
}

/// The watchdog first: it would notice the other one's end. The run is stopped, so that it starts no other.
fn kill_both(host: &Host, run: &mut Running) {
    run.signal(Signal::SIGSTOP).unwrap();
    for watchdog in watchdogs(host) {
        host.must(["kill", "-KILL", &watchdog]);
    }
    run.signal(Signal::SIGKILL).unwrap();
    let _ = run.wait();
}

/// It is there before the gate is closed, in a session of its own, with no file of anybody's, and
/// takes no signals that end runs.
#[test]
fn a_watchdog_is_nobodys_child_and_keeps_nothing() {
    each(&Backend::EXPOSED, |backend| {
        let (pair, _server) = served();
        let host = &pair.server;
        let call = call(host, words("--port 80")).on(backend);
        let latch = Latch::new(host, "latch");
        let own = host.write("own-file", "");
        let mut shell = host.command("bash");
        let keeps = format!("exec 9>{}; exec \"$@\"", own.display());
        shell
            .args(["-c", &keeps, "sh"])
            .args(call.argv(sh(latch.hold())));
        shell.envs(call.variables());
        let mut run = host.spawn(shell.stdin(Stdio::null())).unwrap();
        latch.wait();
        let pid = watchdogs(host).pop().unwrap();
        let session = host.must(["ps", "-o", "sid=", "-p", &pid]);
        assert_eq!(session.trim(), pid, "it leads a session");
        let files = host.must(["ls", "-l", &format!("/proc/{pid}/fd")]);
        assert!(
            !files.contains("own-file") && !files.contains("lock"),
            "{files}"
        );
        for signal in ["TERM", "HUP", "INT", "QUIT", "PIPE", "USR1"] {
            host.must(["kill", &format!("-{signal}"), &pid]);
        }
        run.signal(Signal::SIGKILL).unwrap();
        wait_open(host, GONE_WITHIN);
        wait_until(SOON, "no watchdog", || watchdogs(host).is_empty()).unwrap();
        assert_open(&pair);
    });
}

// Neighbours ---------------------------------------------------------------------------------------

/// Somebody removes the rules in mid-run, as a firewall's reload does: the gate is closed again at
/// once, and the run says so.
#[test]
fn flushed_in_mid_run_it_is_closed_again() {
    each(&Backend::EXPOSED, |backend| {
        let (pair, _server) = served();
        let host = &pair.server;
        let call = call(host, words("--port 80 --ready-timeout 0")).on(backend);
        let mut latch = Latch::new(host, "latch");
        let run = call.start(sh(latch.hold()));
        latch.wait();
        let before = our_names(host);
        host.must(sh(match backend {
            Backend::IptablesLegacy => {
                "iptables-legacy -F; iptables-legacy -X; ip6tables-legacy -F; ip6tables-legacy -X"
            }
            _ => "nft flush ruleset",
        }));
        wait_until(SOON, "a gate that stands again", || {
            shut(host) == [80] && gated(host)
        })
        .unwrap();
        assert_eq!(our_names(host), before, "it is this run's");
        let load = Load::to(format!("{SERVER}:80"))
            .rate(100)
            .duration(Duration::from_millis(50));
        let load = load.start(&pair.client).unwrap();
        wait_until(SOON, "stopped SYNs", || stopped_syns(host) >= 5).unwrap();
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(load.finish().unwrap().delayed, 5);
        assert!(
            outcome
                .stderr
                .contains("removed or changed the gate's rules"),
            "{outcome:?}"
        );
        // Each IP version is flushed by itself, so it may be noticed twice.
        let reclosed = outcome.report["reclosed"].as_u64().unwrap();
        assert!((1..=4).contains(&reclosed), "{outcome:?}");
        assert!(outcome.report["syns_stopped"].as_u64().unwrap() >= 5);
    });
}

/// Somebody puts a rule before the gate's that accepts, or changes the gate's own: it is noticed, and
/// the gate is as it was.
#[test]
fn rules_that_open_the_gate_are_noticed() {
    for (backend, hook, table, chain) in [
        (Backend::IptablesLegacy, "input", "filter", "INPUT"),
        (Backend::IptablesNft, "prerouting", "raw", "PREROUTING"),
    ] {
        let (pair, _server) = served();
        let host = &pair.server;
        let tool = format!("{} -t {table}", backend.name());
        let call = call(host, words("--port 80 --ready-timeout 0 --drain 0"))
            .args(["--hook", hook])
            .on(backend);
        let mut latch = Latch::new(host, "latch");
        let run = call.start(sh(latch.hold()));
        latch.wait();
        let own = &our_names(host)[0];
        // iptables-nft fails, or prints half of it, when the rules change meanwhile.
        let listing = format!("{tool} -S {own} && {tool} -S {own}_s");
        let rules = || host.sh(&listing).unwrap().stdout;
        let before = rules();
        let first = format!("{tool} -S {chain} 1 | grep {own}");
        let moved = format!(
            "{tool} -S {chain} 1 | sed 's/^-A/{tool} -D/' >jump; . ./jump; \
                                 {tool} -I {chain} 1 {ACCEPT}; sed 's/ -D / -A /' jump >again; . ./again"
        );
        for (tampers, undo) in [
            (
                format!("{tool} -I {chain} 1 {ACCEPT}"),
                format!("{tool} -D {chain} {ACCEPT}"),
            ),
            (
                format!(
                    "{tool} -N theirs; {tool} -A theirs {ACCEPT}; {tool} -I {chain} 1 -j theirs"
                ),
                format!("{tool} -D {chain} -j theirs; {tool} -F theirs; {tool} -X theirs"),
            ),
            (format!("{tool} -F {own}"), String::new()),
            (format!("{tool} -I {own} 1 -j RETURN"), String::new()),
            (format!("{tool} -R {own}_s 1 -j ACCEPT"), String::new()),
            // As what saves a rule and restores it at the end.
            (moved, format!("{tool} -D {chain} {ACCEPT}")),
        ] {
            // The run arms the rules when it has seen them back; the list has the time of that.
            let list = format!("cat /proc/net/xt_recent/{own}_6");
            let armed = || host.sh(&list).unwrap().stdout;
            let before_it = armed();
            host.must(sh(format!("cd {}; {tampers}", host.dir().display())));
            let stands = || host.sh(&first).unwrap().ok() && rules() == before;
            let closed = || stands() && !armed().is_empty() && armed() != before_it;
            wait_until(SOON, &tampers, closed).unwrap();
            host.must(sh(undo));
        }
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let warnings = outcome.report["warnings"].to_string();
        assert!(warnings.contains("or put others before them"), "{warnings}");
        let rule = format!("lets SYNs pass: -A {chain} {ACCEPT}");
        assert!(warnings.contains(&rule), "{warnings}");
        // A jump that is deleted and restored may be noticed twice.
        assert!(
            outcome.report["reclosed"].as_u64().unwrap() >= 6,
            "{outcome:?}"
        );
    }
}

/// A rule that accepts comes before the gate's in the last moment, between two looks: who came in by it
/// may have been refused, and no run that ends with 0 hides that.
#[test]
fn a_rule_put_before_the_gate_s_in_the_last_moment_is_told() {
    let (pair, _server) = served();
    let host = &pair.server;
    for backend in [Backend::IptablesNft, Backend::IptablesLegacy] {
        let tool = backend.name();
        let call = call(host, words("--port 80 --ready-timeout 0 --drain 0")).on(backend);
        let run = call.start(sh(format!("{tool} -I INPUT 1 {ACCEPT}")));
        let outcome = call.end(run);
        host.must(sh(format!("{tool} -D INPUT {ACCEPT}")));
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let warnings = outcome.report["warnings"].to_string();
        let rule = format!("lets SYNs pass: -A INPUT {ACCEPT}");
        assert!(warnings.contains(&rule), "{warnings}");
        assert!(warnings.contains("put others before them"), "{warnings}");
    }
}

/// Somebody changes a table without an owner so that it lets clients in: it is noticed, and the gate is as
/// it was.
#[test]
fn changes_of_a_plain_table_are_noticed() {
    let (pair, _server) = served();
    let host = &pair.server;
    let options = "--port 80 --ready-timeout 0 --drain 0 --max-closed 5m --allow-from 192.0.2.1";
    let call = call(host, words(options)).on(Backend::NftPlain);
    let mut latch = Latch::new(host, "latch");
    let run = call.start(sh(latch.hold()));
    latch.wait();
    let table = format!("inet {}", our_names(host)[0]);
    let rule = "sed -n '/counter/s/.*handle //p' | head -1";
    let replaced = format!(
        "nft replace rule {table} input handle $(nft -a list chain {table} input | {rule}) accept"
    );
    let tampers = [
        replaced,
        format!("nft insert rule {table} input accept"),
        format!("nft flush chain {table} input"),
        format!("nft flush set {table} ports"),
        format!("nft 'delete element {table} ports {{ 80 }}'"),
        format!("nft 'add element {table} allowed4 {{ {CLIENT} }}'"),
        format!("nft 'add table {table} {{ flags dormant; }}'"),
    ];
    for tampers in &tampers {
        host.must(sh(tampers.as_str()));
        let closed = || !connects(&pair, SERVER) && !connects(&pair, SERVER6);
        wait_until(SOON, tampers, closed).unwrap();
    }
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let reclosed = outcome.report["reclosed"].as_u64().unwrap();
    assert!(reclosed >= tampers.len() as u64, "{outcome:?}");
    let warnings = outcome.report["warnings"].to_string();
    assert!(
        warnings.contains("removed or changed the gate's rules"),
        "{warnings}"
    );
}

/// Somebody saves the ruleset with a table without an owner in it. Loaded again when --max-closed is over,
/// it shuts nothing.
#[test]
fn a_plain_table_that_is_loaded_again_shuts_nothing() {
    let (pair, _server) = served();
    let host = &pair.server;
    let seconds = slow();
    let options = format!("--port 80 --ready-timeout 0 --drain 0 --max-closed {seconds}s");
    let call = call(host, words(&options)).on(Backend::NftPlain);
    let saved = host.dir().join("saved").display().to_string();
    let outcome = call.run(sh(format!("nft list ruleset >{saved}")));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    // The rules end by a date in whole seconds.
    let ended = Instant::now() + Duration::from_secs(u64::from(seconds) + 2);
    wait_until(SOON * 2, "the end of the rules", || Instant::now() > ended).unwrap();
    host.must(["nft", "-f", &saved]);
    for address in [SERVER, SERVER6] {
        assert!(connects(&pair, address), "{address}");
    }
    assert!(gated(host), "it was loaded");
    let status = host.sh(&format!("{SYNGATE} status")).unwrap();
    assert_eq!(status.code(), 0, "no gate is closed: {status:?}");
    assert!(status.stdout.contains("a gate is open"), "{status:?}");
}

/// The clock is set forwards, so that the rules of a table without an owner end: the gate is closed again.
#[test]
fn a_clock_that_is_set_forwards_does_not_keep_the_gate_open() {
    let (pair, _server) = served();
    let host = &pair.server;
    let options = "--port 80 --ready-timeout 0 --drain 0 --max-closed 5m";
    let plain = call(host, words(options)).on(Backend::NftPlain);
    let call = plain.clone().fault("clock-set-forwards");
    let mut latch = Latch::new(host, "latch");
    let run = call.start(sh(latch.hold()));
    latch.wait();
    let end = || {
        host.sh("nft list ruleset | grep -o 'meta time.*\"'")
            .unwrap()
            .stdout
    };
    let first = end();
    assert!(first.starts_with("meta time < \"20"), "{first}");
    wait_until(SOON, "a later end", || end() > first).unwrap();
    assert!(!connects(&pair, SERVER));
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(outcome.report["reclosed"], 1, "{outcome:?}");
    let warnings = outcome.report["warnings"].to_string();
    assert!(
        warnings.contains("somebody set the clock beyond"),
        "{warnings}"
    );

    // Before Linux 5.4 the rules have no end of their own.
    let without = plain.fault("no-meta-time").run(["nft", "list", "ruleset"]);
    assert_eq!(without.code, 0, "{without:?}");
    assert!(
        without.stdout.contains("tcp dport @ports counter"),
        "{without:?}"
    );
}

fn our_names(host: &Host) -> Vec<String> {
    let ruleset = host.ruleset();
    let mut names: Vec<String> = ruleset
        .match_indices("syngate_")
        .map(|(at, _)| ruleset[at..at + 24].to_owned())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Another process holds the lock of iptables for a while: it is waited for, gate open, within a
/// bound; then the run fails before anything is changed.
#[test]
fn the_lock_of_iptables_is_waited_for() {
    let (pair, _server) = served();
    let host = &pair.server;
    let backend = Backend::IptablesLegacy;
    let call = |options: &str| self::call(host, words(options)).on(backend);
    let patient = call("--port 80 --xtables-wait 10s --max-closed 20s");
    let mut holder = hold_xtables_lock(host, 3);
    let began = Instant::now();
    let outcome = patient.run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(began.elapsed() > Duration::from_millis(2_000), "it waited");
    assert!(
        ms(&outcome.report, "closed_ms") < 1_000.0,
        "gate open: {outcome:?}"
    );
    holder.wait().unwrap();

    let mut holder = hold_xtables_lock(host, 3);
    let marker = host.dir().join("ran");
    let outcome = call("--port 80 --xtables-wait 1s").run(["touch", marker.to_str().unwrap()]);
    assert_eq!(outcome.code, 125, "{outcome:?}");
    assert!(outcome.stderr.contains("--xtables-wait 1s"), "{outcome:?}");
    assert!(!marker.exists());
    assert!(holder.is_running(), "it did not wait for it");
    assert_eq!(watchdogs(host), Vec::<String>::new());
    holder.signal(Signal::SIGKILL).unwrap();
}

/// One port of two is ready, and another program holds the lock: it opens as soon as the other is ready
/// too, which takes no lock.
#[test]
fn ports_open_though_others_hold_the_lock_of_iptables() {
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let pid_file = |port: u16| host.dir().join(format!("{port}.pid"));
    for port in [80, 82] {
        let serve = Serve::on(format!("0.0.0.0:{port}"));
        host.must(serve.daemon_argv(&pid_file(port)).unwrap());
    }
    let again = Serve::on("0.0.0.0:80").restart_argv(&pid_file(80)).unwrap();
    let late = Serve::on("0.0.0.0:82").start_delay(Duration::from_secs(1));
    let late = late.argv().unwrap().join(" ");
    let locked = host.dir().join("locked");
    let script = format!(
        "flock -o /run/xtables.lock sh -c 'touch {locked}; exec sleep 8' & \
         until [ -e {locked} ]; do sleep 0.01; done; kill $(cat {other}); {late} & {}",
        again.last().unwrap(),
        locked = locked.display(),
        other = pid_file(82).display(),
    );
    let load = Load::to(format!("{SERVER}:80")).rate(50).duration(SOON * 6);
    let mut load = load.start(&pair.client).unwrap();
    load.wait_flowing().unwrap();
    let call = call(host, words("--port 80,82")).on(Backend::IptablesLegacy);
    let outcome = call.run(sh(format!("({script}) >/dev/null 2>&1")));
    let report = load.stop().unwrap();
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(report.failed(), 0, "{report}");
    let closed = ms(&outcome.report, "closed_ms");
    assert!(closed < 4_000.0 * f64::from(slow()), "{outcome:?}");
}

/// flock(2) on the file that iptables-legacy locks.
fn hold_xtables_lock(host: &Host, seconds: u32) -> Running {
    let ready = host.dir().join("locked");
    let _ = std::fs::remove_file(&ready);
    let script = format!("touch {}; exec sleep {seconds}", ready.display());
    let mut flock = host.command("flock");
    // -o: it alone holds the lock, and not what it runs.
    flock.args(["-o", "/run/xtables.lock", "sh", "-c", &script]);
    let running = host.spawn(&mut flock).unwrap();
    wait_until(SOON, "the lock", || ready.exists()).unwrap();
    running
}

/// Twenty runs on twenty ports, on all backends at once: they change the same tables.
#[test]
fn twenty_runs_at_once() {
    let host = Host::new().unwrap();
    for backend in Backend::ALL {
        backend.prime(&host);
    }
    let before = host.ruleset();
    let calls: Vec<_> = (0..20u16)
        .map(|n| {
            let (port, patience) = (100 + n, 30 * slow());
            let options = format!(
                "--port {port} --ready-timeout 0 --xtables-wait {patience}s --max-closed {patience}s"
            );
            let report = host.dir().join(format!("report-{n}"));
            call(&host, words(&options))
                .on(Backend::ALL[usize::from(n) % 4])
                .report_to(report)
        })
        .collect();
    let go = host.dir().join("go");
    let here = |n| host.dir().join(format!("here-{n}"));
    let command = |n| {
        let (here, go) = (here(n), go.display());
        sh(format!(
            "touch {}; until [ -e {go} ]; do sleep 0.01; done",
            here.display()
        ))
    };
    let runs = calls.iter().enumerate();
    let runs: Vec<_> = runs.map(|(n, call)| call.start(command(n))).collect();
    let all = || (0..20).all(|n| here(n).exists());
    wait_until(SOON * 3, "all twenty to run", all).unwrap();
    std::fs::write(&go, "").unwrap();
    for (call, mut run) in calls.iter().zip(runs) {
        let status = run.wait().unwrap();
        let outcome = call.outcome(run.output().unwrap().into());
        assert_eq!(status.code(), Some(0), "{outcome:?}");
        assert_eq!(outcome.report["outcome"], "ok", "{outcome:?}");
    }
    assert_eq!(host.ruleset(), before);
    assert_eq!(watchdogs(&host), Vec::<String>::new());
}

/// Two on one port: one after the other, and the second is told whom it waits for.
#[test]
fn two_on_one_port_take_turns() {
    each(&Backend::EXPOSED, |backend| {
        let host = Host::new().unwrap();
        let call = call(&host, words("--port 80 --ready-timeout 0")).on(backend);
        let mut latch = Latch::new(&host, "latch");
        let mut first = call.start(sh(latch.hold()));
        latch.wait();
        let second = call.clone().report_to(host.dir().join("second"));
        let mut waiting = second.start(["true"]);
        let mut said = std::io::BufReader::new(waiting.stderr().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        assert!(line.contains("waiting for pid"), "{line}");
        latch.release();
        assert_eq!(first.wait().unwrap().code(), Some(0));
        assert_eq!(waiting.wait().unwrap().code(), Some(0));
        assert_eq!(call.report()["outcome"], "ok");
        assert!(!gated(&host));
    });
}

// Dead runs ----------------------------------------------------------------------------------------

/// The next run removes what a dead one has left, and nothing of a living one's.
#[test]
fn the_next_run_sweeps_what_a_dead_one_has_left() {
    each(&Backend::EXPOSED, |backend| {
        let host = Host::new().unwrap();
        let mut latch = Latch::new(&host, "latch");
        let living = call(&host, words("--port 81 --ready-timeout 0")).on(backend);
        let lives = living.start(sh(latch.hold()));
        latch.wait();
        let with_living = host.ruleset();

        let dead = call(&host, words("--port 80 --ready-timeout 0"))
            .on(backend)
            .report_to(host.dir().join("dead"));
        let other = Latch::new(&host, "other");
        let mut dies = dead.start(sh(other.hold()));
        other.wait();
        let keeps: Vec<String> = watchdogs(&host);
        assert_eq!(keeps.len(), 2);
        // A run that goes on would start another one.
        dies.signal(Signal::SIGSTOP).unwrap();
        // Only the dead one's watchdog: the younger one.
        let youngest = host.must(["pgrep", "-n", "-x", "gate-watchdog"]);
        host.must(["kill", "-KILL", youngest.trim()]);
        dies.signal(Signal::SIGKILL).unwrap();
        let _ = dies.wait();
        assert_ne!(host.ruleset(), with_living, "its rules are left");

        let next = call(&host, words("--port 82 --ready-timeout 0"))
            .on(backend)
            .report_to(host.dir().join("next"));
        let mut run = next.start(["true"]);
        assert_eq!(run.wait().unwrap().code(), Some(0));
        assert_eq!(host.ruleset(), with_living);
        let warnings = next.report()["warnings"].to_string();
        assert!(warnings.contains("a dead run had left"), "{warnings}");
        latch.release();
        assert_eq!(living.end(lives).code, 0);
    });
}

/// A run that finds the gate of another one keeps its own lock: closing any descriptor of the lock
/// file would set it free.
#[test]
fn a_run_that_finds_others_keeps_its_lock() {
    let host = Host::new().unwrap();
    let held = |port: u16, backend| {
        let options = format!("--port {port} --ready-timeout 0");
        let call = call(&host, words(&options))
            .on(backend)
            .report_to(host.dir().join(port.to_string()));
        let latch = Latch::new(&host, &port.to_string());
        let run = call.start(sh(latch.hold()));
        latch.wait();
        (run, latch)
    };
    let first = held(81, Backend::NftPlain);
    let second = held(80, Backend::Nft);
    let outcome = call(&host, words("--port 80 --lock-timeout 0")).run(["true"]);
    assert_eq!(outcome.code, 125, "{outcome:?}");
    assert_eq!(outcome.report["reason"], "lock_timeout", "{outcome:?}");
    for (mut run, mut latch) in [first, second] {
        latch.release();
        assert_eq!(run.wait().unwrap().code(), Some(0));
    }
}

/// Where the lock file of a run can't be seen, whether the run lives can't be told: it is left alone.
#[test]
fn what_may_live_elsewhere_is_left_alone() {
    let host = Host::new().unwrap();
    let call = call(&host, words("--port 80 --ready-timeout 0")).on(Backend::NftPlain);
    let mut latch = Latch::new(&host, "latch");
    let mut elsewhere = host.command("unshare");
    // A /run of its own, as in another container of the same pod.
    let script = "mount -t tmpfs tmpfs /run && exec \"$@\"";
    elsewhere.args(["--mount", "sh", "-c", script, "sh"]);
    elsewhere
        .args(call.argv(sh(latch.hold())))
        .envs(call.variables());
    let mut run = host.spawn(elsewhere.stdin(Stdio::null())).unwrap();
    latch.wait();
    let before = host.ruleset();
    let next = self::call(&host, words("--port 81 --ready-timeout 0"))
        .report_to(host.dir().join("next"))
        .run(["true"]);
    assert_eq!(next.code, 0, "{next:?}");
    assert_eq!(host.ruleset(), before, "not swept");
    let ran = host.sh(&format!("{SYNGATE} clear")).unwrap();
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(ran.stderr.contains("leaves the gate alone"), "{ran:?}");
    assert_eq!(shut(&host), [80]);
    latch.release();
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert!(!gated(&host));
}

// What is not there --------------------------------------------------------------------------------

/// Programs that this host's calls find instead of the real ones.
fn shadow(host: &Host, program: &str, script: &str) -> String {
    let directory = host.dir().join("shadow");
    std::fs::create_dir_all(&directory).unwrap();
    let file = host.write(
        &format!("shadow/{program}"),
        format!("#!/bin/sh\n{script}\n"),
    );
    host.must(["chmod", "755", file.to_str().unwrap()]);
    format!("{}:{}", directory.display(), std::env::var("PATH").unwrap())
}

/// Where it takes iptables seconds to make rules, since many are there, the gate closes all the same, and
/// the kernel would open it in time.
#[test]
fn slow_programs_are_reckoned_with() {
    for backend in [Backend::IptablesLegacy, Backend::IptablesNft] {
        let host = Host::new().unwrap();
        let program = format!("iptables-{}-restore", &backend.name()["iptables-".len()..]);
        let real = host.sh(&format!("command -v {program}")).unwrap().stdout;
        let path = shadow(
            &host,
            &program,
            &format!("sleep 2; exec {} \"$@\"", real.trim()),
        );
        let call = call(&host, words("--port 80 --max-closed 30s"))
            .on(backend)
            .env("PATH", &path);
        let outcome = call.run(["true"]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
    }
}

/// A gate whose rules are made again stays closed meanwhile, and passes nobody.
#[test]
fn slow_programs_make_rules_again_behind_a_closed_gate() {
    let backend = Backend::IptablesNft.to_hold();
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let _server = Serve::on("0.0.0.0:80").start(host).unwrap();
    let program = format!("iptables-{}-restore", &backend.name()["iptables-".len()..]);
    let real = host.sh(&format!("command -v {program}")).unwrap().stdout;
    let slow = format!("sleep 1.6; exec {} \"$@\"", real.trim());
    let options = "--syn hold --hook prerouting --drain 0s --ready-timeout 0 --max-closed 1m";
    let call = call(host, words(options))
        .args(["--port", "80"])
        .on(backend)
        .env("PATH", &shadow(host, &program, &slow));
    let mut latch = Latch::new(host, "latch");
    let mut run = call.start(sh(latch.hold()));
    latch.wait();
    let load = Load::to(format!("{SERVER}:80")).rate(50);
    let load = load.timeout(Duration::from_millis(300));
    let load = load.duration(Duration::from_secs(60)).start(&pair.client);
    let table = format!("{} -t raw", backend.name());
    host.must(words(&format!(
        "{table} -A PREROUTING -s 10.9.9.9/32 -j DROP"
    )));
    let mut said = BufReader::new(run.stderr().unwrap()).lines();
    assert!(said.any(|line| {
        line.unwrap()
            .contains("put the gate's rules in their place again")
    }));
    let report = load.unwrap().stop().unwrap();
    latch.release();
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert!(report.sent > 0 && report.ok == 0, "{report}");
    host.must(words(&format!(
        "{table} -D PREROUTING -s 10.9.9.9/32 -j DROP"
    )));
}

/// Where they were slow only once, the kernel opens earlier than it would have to, and the run knows.
#[test]
fn programs_that_were_slow_once_open_the_gate_earlier() {
    for backend in [Backend::IptablesLegacy, Backend::IptablesNft] {
        let host = Host::new().unwrap();
        let program = format!("iptables-{}-restore", &backend.name()["iptables-".len()..]);
        let real = host.sh(&format!("command -v {program}")).unwrap().stdout;
        let once = host.dir().join("once");
        let path = shadow(
            &host,
            &program,
            &format!(
                "mkdir {} 2>/dev/null && sleep 3; exec {} \"$@\"",
                once.display(),
                real.trim()
            ),
        );
        let call = call(&host, words("--port 80 --max-closed 6s"))
            .on(backend)
            .env("PATH", &path);
        // All of the three seconds that were left would be told.
        let outcome = call.run(["sleep", "4"]);
        assert_eq!(outcome.code, 124, "{outcome:?}");
        assert_eq!(outcome.report["outcome"], "deadline", "{outcome:?}");
        let closed_ms = ms(&outcome.report, "closed_ms");
        assert!(closed_ms < 2_500.0, "{outcome:?}");
    }
}

/// IPv6 is refused: what was made for IPv4 is undone.
#[test]
fn what_the_second_family_refuses_the_first_does_not_keep() {
    for backend in [Backend::IptablesLegacy, Backend::IptablesNft] {
        let host = Host::new().unwrap();
        let program = format!("ip6tables-{}-restore", &backend.name()["iptables-".len()..]);
        let path = shadow(
            &host,
            &program,
            "cat >/dev/null; echo 'out of luck' >&2; exit 2",
        );
        let call = call(&host, words("--port 80"))
            .on(backend)
            .env("PATH", &path);
        let outcome = call.run(["true"]);
        assert_eq!(outcome.code, 125, "{outcome:?}");
        assert_eq!(outcome.report["reason"], "close_failed");
        assert!(outcome.stderr.contains("out of luck"), "{outcome:?}");
        let errors = outcome
            .stderr
            .lines()
            .filter(|line| !line.contains("warning:"));
        assert_eq!(errors.count(), 1, "{outcome:?}");
    }
}

/// A kernel without the table security: SYNs are held in the table mangle, which comes before filter, and
/// meet the host's rules when they are let go.
#[test]
fn without_the_table_security_syns_are_held_in_mangle() {
    let (pair, _server) = served();
    let host = &pair.server;
    let [good, refused]: [String; 2] = pair.client_addresses(2).unwrap().try_into().unwrap();
    let rule = format!("iptables-legacy -A INPUT -p tcp --syn -s {refused} -j DROP");
    host.must(words(&rule));
    let mut path = String::new();
    for family in ["iptables", "ip6tables"] {
        let program = format!("{family}-legacy-restore");
        let real = host.sh(&format!("command -v {program}")).unwrap().stdout;
        let script = format!(
            "text=$(cat)
             case $text in '*security'*)
                 echo \"{program}: unable to initialize table 'security'\" >&2; exit 1;;
             esac
             printf '%s\\n' \"$text\" | {} \"$@\"",
            real.trim()
        );
        path = shadow(host, &program, &script);
    }
    let call = call(
        host,
        words("--port 80 --syn hold --drain 0 --ready-timeout 0"),
    )
    .on(Backend::IptablesLegacy)
    .env("PATH", &path);
    let mut latch = Latch::new(host, "latch");
    let run = call.start(sh(latch.hold()));
    latch.wait();
    let begin = |source: &String, timeout| {
        let load = Load::to(format!("{SERVER}:80")).rate(100).timeout(timeout);
        let load = load.duration(Duration::from_millis(30)).sources([source]);
        load.start(&pair.client).unwrap()
    };
    let (first, second) = (begin(&good, SOON), begin(&refused, SOON / 20));
    wait_until(SOON, "stopped SYNs", || stopped_syns(host) >= 6).unwrap();
    latch.release();
    let outcome = call.end(run);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(
        outcome.report["warnings"],
        serde_json::json!([]),
        "{outcome:?}"
    );
    assert_eq!(outcome.report["hold"]["released"], 6, "{outcome:?}");
    assert_eq!(first.finish().unwrap().ok, 3);
    assert_eq!(second.finish().unwrap().ok, 0);
}

/// A kernel without ip6_tables: told, and IPv4 is gated.
#[test]
fn a_kernel_without_ip6tables_is_told() {
    let host = Host::new().unwrap();
    let says = "cat >/dev/null
                echo \"ip6tables-restore: unable to initialize table 'filter'\" >&2; exit 1";
    let path = shadow(&host, "ip6tables-legacy-restore", says);
    let outcome = call(&host, words("--port 80"))
        .on(Backend::IptablesLegacy)
        .env("PATH", &path)
        .run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("IPv6 is not gated"), "{outcome:?}");
    let warnings = outcome.report["warnings"].to_string();
    assert!(warnings.contains("IPv6 is not gated"), "{warnings}");
}

/// Covers the host's /usr/sbin with copies of the named programs only.
fn only(host: &Host, programs: &[&str]) {
    let kept = host.dir().join("sbin");
    let kept = kept.display();
    let mut script = format!("mkdir {kept}");
    for program in programs {
        script.push_str(&format!(" && cp /usr/sbin/{program} {kept}/"));
    }
    script.push_str(&format!(
        " && mount -t tmpfs tmpfs /usr/sbin && cp {kept}/* /usr/sbin/"
    ));
    host.must(sh(script));
}

#[test]
fn a_backend_that_is_not_installed_is_named() {
    let host = Host::new().unwrap();
    let call = |backend: &str| call(&host, ["--port", "80", "--backend", backend]);
    let legacy = ["iptables-legacy-restore", "iptables-legacy-save"];
    Backend::IptablesLegacy.prime(&host);
    only(&host, &legacy);
    for backend in ["iptables", "iptables-nft"] {
        let mut run = call(backend).start(["true"]);
        assert_eq!(run.wait().unwrap().code(), Some(125));
        let said = String::from_utf8(run.output().unwrap().stderr).unwrap();
        assert!(
            said.starts_with(&format!("syngate: --backend {backend}: ")),
            "{said}"
        );
        assert!(said.contains("is iptables installed?"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    // iptables is there, ip6tables is not: told.
    let mut run = call("iptables-legacy").start(["true"]);
    assert_eq!(run.wait().unwrap().code(), Some(0));
    let said = String::from_utf8(run.output().unwrap().stderr).unwrap();
    assert!(
        said.contains("IPv6 is not gated: ip6tables is not installed"),
        "{said}"
    );
}

/// On a kernel without nft's queue only iptables-legacy holds SYNs. Where that is not installed, or can't,
/// `hold` ends with the reason, and `auto` drops.
#[test]
fn without_nfts_queue_and_iptables_legacy_no_syn_is_held() {
    let cannot =
        "grep -q NFQUEUE && { echo \"Couldn't load target \\`NFQUEUE'\" >&2; exit 2; }; exit 0";
    for (installed, reason) in [
        (false, "iptables-legacy-restore is neither in PATH"),
        (true, "Couldn't load target `NFQUEUE'"),
    ] {
        let host = Host::new().unwrap();
        let _server = Serve::on("0.0.0.0:80").start(&host).unwrap();
        Backend::IptablesLegacy.prime(&host);
        let mut path = std::env::var("PATH").unwrap();
        match installed {
            true => path = shadow(&host, "iptables-legacy-restore", cannot),
            false => host
                .must(sh("for p in /usr/sbin/ip*tables-legacy*; do \
                                   mount --bind /dev/null $p; done"))
                .truncate(0),
        }
        let run = |syn: &str| {
            let options = format!("--port 80 --drain 0 --syn {syn}");
            let call = call(&host, words(&options)).fault("no-nft-queue");
            let call = call.env("PATH", &path);
            let mut run = call.start(["true"]);
            run.wait().unwrap();
            call.outcome(run.output().unwrap().into())
        };
        let outcome = run("hold");
        assert_eq!(outcome.code, 125, "{outcome:?}");
        let why = "only iptables-legacy holds SYNs here, since this kernel lacks nft's queue: ";
        assert!(outcome.stderr.contains(why), "{outcome:?}");
        assert!(outcome.stderr.contains(reason), "{outcome:?}");
        // With a backend that is given it takes no waiting room.
        let outcome = run("auto --backend nft");
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.report["action"], "drop", "{outcome:?}");
        assert_eq!(outcome.report["backend"], "nft", "{outcome:?}");
        assert!(outcome.stderr.contains(why), "{outcome:?}");
    }
}

#[test]
fn an_unknown_backend_is_refused() {
    let host = Host::new().unwrap();
    let outcome = call(&host, words("--port 80 --backend pf")).run(["true"]);
    assert_eq!(outcome.code, 125, "{outcome:?}");
    for word in ["--backend", "'pf'", "iptables-legacy"] {
        assert!(outcome.stderr.contains(word), "{outcome:?}");
    }
}

/// `auto` takes iptables where there is no nf_tables, and says with -v what and why.
#[test]
fn auto_takes_what_works() {
    let host = Host::new().unwrap();
    let auto = call(&host, words("-v --port 80")).run(["true"]);
    assert_eq!(auto.report["backend"], "nft", "{auto:?}");
    assert!(
        auto.stderr.contains("auto: nft, since it works here"),
        "{auto:?}"
    );

    Backend::IptablesLegacy.prime(&host);
    Backend::IptablesNft.prime(&host);
    let without = call(&host, words("-v --port 80")).env("SYNGATE_FAULT", "no-nf-tables");
    let outcome = without.run(["true"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let taken = outcome.report["backend"].as_str().unwrap();
    assert!(taken.starts_with("iptables-"), "{outcome:?}");
    let why = format!("auto: {taken}, since others do not work here: nft: ");
    assert!(outcome.stderr.contains(&why), "{outcome:?}");
    assert!(
        outcome.stderr.contains(&format!("({taken})")),
        "{outcome:?}"
    );
}

/// Where xt_recent can't be used, the kernel's deadline is a date.
#[test]
fn without_xt_recent_the_deadline_is_a_date() {
    for backend in [Backend::IptablesLegacy, Backend::IptablesNft] {
        let (pair, _server) = served();
        let host = &pair.server;
        let options = "-v --port 80 --max-closed 10m --drain 0 --ready-timeout 0";
        let call = call(host, words(options))
            .on(backend)
            .env("SYNGATE_FAULT", "no-xt-recent");
        let mut latch = Latch::new(host, "latch");
        let run = call.start(sh(latch.hold()));
        latch.wait();
        assert_eq!(shut(host), [80]);
        let rules = host.ruleset();
        assert!(
            backend != Backend::IptablesLegacy || rules.contains("--datestop"),
            "{rules}"
        );
        // Removed by somebody else, it is noticed all the same.
        host.must(sh(match backend {
            Backend::IptablesLegacy => "iptables-legacy -F; ip6tables-legacy -F",
            _ => "nft flush ruleset",
        }));
        wait_shut(host, &[80]);
        latch.release();
        let outcome = call.end(run);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert!(outcome.stderr.contains("by the wall clock"), "{outcome:?}");

        // Nobody is left to remove it.
        let call = closed_briefly(host, backend).env("SYNGATE_FAULT", "no-xt-recent");
        opens_by_itself(&pair, &call, || ());
    }
}

/// A run that is stopped can't open: its watchdog does, at --max-closed, and the run says so later.
#[test]
fn a_stopped_run_is_opened_by_its_watchdog() {
    each(&Backend::EXPOSED, |backend| {
        let (pair, _server) = served();
        let host = &pair.server;
        let call = call(host, words("--port 80 --max-closed 1s --drain 0")).on(backend);
        let mut latch = Latch::new(host, "latch");
        let mut run = call.start(sh(latch.hold()));
        latch.wait();
        run.signal(Signal::SIGSTOP).unwrap();
        wait_until(SOON, "an open port", || shut(host).is_empty()).unwrap();
        assert_open(&pair);
        run.signal(Signal::SIGCONT).unwrap();
        latch.release();
        let outcome: Outcome = call.end(run);
        assert_eq!(outcome.code, 124, "{outcome:?}");
        assert_eq!(outcome.report["outcome"], Value::from("deadline"));
    });
}

//! What an operator can ask, and do, about gates: `syngate status` and `syngate clear`.

mod harness;

use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use harness::latch::Latch;
use harness::{Backend, SOON, SYNGATE, call, gated, shut, status, syngate, wait_open, words};
use nix::sys::signal::Signal;
use testkit::{Host, Ran, Running};

/// COMMAND that is held until the test is done.
fn sh(script: impl Into<String>) -> [String; 3] {
    ["sh".to_owned(), "-c".to_owned(), script.into()]
}

/// A run that is held while its gate is closed.
struct Held<'a> {
    run: Running,
    latch: Latch,
    call: harness::Call<'a>,
}

fn held<'a>(host: &'a Host, backend: Backend, options: &str) -> Held<'a> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("held-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let call = call(host, words(options))
        .args(["--ready-timeout", "0"])
        .on(backend)
        .report_to(host.dir().join(format!("{name}.json")));
    let latch = Latch::new(host, &name);
    let run = call.start(sh(latch.hold()));
    latch.wait();
    Held { run, latch, call }
}

impl Held<'_> {
    fn end(mut self) -> harness::Outcome {
        self.latch.release();
        self.call.end(self.run)
    }

    /// Dead, its rules left behind: all watchdogs die first, and it starts no other.
    fn dies(mut self, host: &Host) {
        self.run.signal(Signal::SIGSTOP).unwrap();
        host.sh("pkill -KILL -x gate-watchdog").unwrap();
        self.run.signal(Signal::SIGKILL).unwrap();
        let _ = self.run.wait();
    }
}

// Restored rules -----------------------------------------------------------------------------------

/// Rules that were saved while a gate was closed, and are restored at the next boot, are nobody's: they shut
/// nothing, status says so, and the next run, or clear, removes them.
#[test]
fn rules_that_are_restored_at_boot_are_nobodys() {
    for backend in [Backend::IptablesLegacy, Backend::IptablesNft] {
        let host = Host::new().unwrap();
        for (backend, options) in [
            (backend, "--port 80"),
            (backend.to_hold(), "--port 80 --syn hold"),
        ] {
            let run = held(&host, backend, options);
            let save = format!(
                "cd {}; {name}-save >saved",
                host.dir().display(),
                name = backend.name()
            );
            host.must(sh(save));
            assert_eq!(run.end().code, 0);
            // The kernel draws another name at each boot.
            let restore = format!(
                "cd {}; sed -i 's/ boot=[0-9a-f]*/ boot=00000000/' saved; grep -q boot= saved && {}-restore <saved",
                host.dir().display(),
                backend.name()
            );
            host.must(sh(restore.clone()));
            let (gates, code) = status(&host);
            assert_eq!((gates.len(), code), (1, 0), "{gates:#?}");
            assert_eq!(gates[0]["state"], "open");
            assert_eq!(gates[0]["stale"], true);
            let said = syngate(&host, "status").stdout;
            assert!(said.contains("a dead run has left rules"), "{said}");
            let ran = syngate(&host, "clear");
            assert_eq!(ran.code(), 0, "{ran:?}");
            assert!(!host.ruleset().contains("syngate_"));

            host.must(sh(restore));
            let next = held(&host, backend, "--port 81").end();
            let warnings = next.report["warnings"].to_string();
            assert!(warnings.contains("a dead run had left"), "{warnings}");
            assert!(!host.ruleset().contains("syngate_"));
        }
    }
}

/// Where nobody can tell whether a run lives, status and clear say so.
#[test]
fn rules_of_a_run_that_may_live_are_told() {
    let host = Host::new().unwrap();
    held(
        &host,
        Backend::IptablesLegacy,
        "--port 80 --drain 0 --max-closed 2s",
    )
    .dies(&host);
    // As the lock file of another container.
    host.must(sh(
        "cd /run/syngate && for lock in *; do mv $lock before-$lock; done",
    ));
    let open = || status(&host).1 == 0;
    testkit::wait_until(SOON, "the kernel to open", open).unwrap();
    let said = syngate(&host, "status").stdout;
    assert!(
        said.contains("can't see whether their run is alive"),
        "{said}"
    );
    let ran = syngate(&host, "clear");
    assert_eq!(ran.code(), 0, "{ran:?}");
    assert!(ran.stderr.contains("leaves rules alone"), "{ran:?}");
    assert_eq!(syngate(&host, "clear --force").code(), 0);
    assert_eq!(status(&host), (Vec::new(), 0));
}

// status -------------------------------------------------------------------------------------------

#[test]
fn status_tells_who_has_shut_what_and_until_when() {
    let host = Host::new().unwrap();
    let (none, code) = status(&host);
    assert_eq!((none.len(), code), (0, 0));
    assert_eq!(syngate(&host, "status").stdout, "no gate is closed\n");

    for backend in Backend::ALL {
        let options = "--port 80,8000-8010 --max-closed 20s --to 10.0.0.0/8,fd00::1 \
                       --allow-from 10.1.1.1,fd00:1::/32 --allow-local --interface eth0,eth1";
        let mut run = held(&host, backend, options);
        let (gates, code) = status(&host);
        let [gate] = &gates[..] else {
            panic!("{gates:#?}");
        };
        assert_eq!(code, 3);
        assert_eq!(gate["state"], "shut", "{gate:#}");
        assert_eq!(gate["stale"], false, "{gate:#}");
        assert_eq!(gate["ports"], serde_json::json!(["80", "8000-8010"]));
        assert_eq!(gate["backend"], backend.reported(), "{gate:#}");
        assert_eq!(gate["owned"], backend == Backend::Nft, "{gate:#}");
        assert_eq!(gate["action"], "drop");
        let pid = host.must(["pgrep", "-x", "syngate"]);
        assert_eq!(gate["pid"].to_string(), pid.trim(), "{gate:#}");
        let command = gate["command"].as_str().unwrap();
        assert!(command.contains("--port 80,8000-8010"), "{gate:#}");
        let scope = serde_json::json!({
            "hook": "input", "to": ["10.0.0.0/8", "fd00::1"],
            "allow_from": ["10.1.1.1", "fd00:1::/32"],
            "allow_local": true, "interfaces": ["eth0", "eth1"],
        });
        assert_eq!(gate["scope"], scope, "{}", backend.name());
        let opens_in = gate["opens_in_ms"].as_u64().unwrap();
        assert!((10_000..=20_000).contains(&opens_in), "{gate:#}");

        let said = syngate(&host, "status").stdout;
        for part in [
            "80,8000-8010 is closed",
            "by the kernel",
            "--allow-local",
            "0 SYNs",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(run.run.is_running());
        assert_eq!(run.end().code, 0);
        assert_eq!(status(&host), (Vec::new(), 0), "{}", backend.name());
    }
}

#[test]
fn status_marks_what_dead_runs_have_left() {
    let host = Host::new().unwrap();
    // All first, since each new one sweeps what the dead have left.
    let runs: Vec<Held> = [80, 81, 82]
        .iter()
        .zip(Backend::EXPOSED)
        .map(|(port, backend)| held(&host, backend, &format!("--port {port}")))
        .collect();
    runs.into_iter().for_each(|run| run.dies(&host));
    let (gates, code) = status(&host);
    assert_eq!(code, 3, "{gates:#?}");
    let stale = gates.iter().filter(|gate| gate["stale"] == true);
    let stale = stale.filter(|gate| gate["state"] == "shut");
    assert_eq!(stale.count(), 3, "{gates:#?}");
    let said = syngate(&host, "status").stdout;
    assert_eq!(said.matches("is dead: stale").count(), 3, "{said}");
    // COMMAND is another process than the run.
    let by = said.matches(", which is dead; its COMMAND: sh -c ");
    assert_eq!(by.count(), 3, "{said}");

    let ran = syngate(&host, "clear");
    assert_eq!(ran.code(), 0, "{ran:?}");
    assert_eq!(
        ran.stderr.matches("left by a dead run").count(),
        3,
        "{ran:?}"
    );
    assert_eq!(status(&host), (Vec::new(), 0));
    assert!(!gated(&host));
}

/// Without root: the runs, by their locks, and a word on what can't be seen.
#[test]
fn status_without_root_tells_what_it_can() {
    let host = Host::new().unwrap();
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set=-all";
    if testkit::rootless() {
        // Nobody else is mapped there: the same without the capability.
        let ran = host
            .sh(&format!(
                "setpriv --bounding-set=-net_admin {SYNGATE} status"
            ))
            .unwrap();
        assert!(ran.stderr.contains("CAP_NET_ADMIN"), "{ran:?}");
        return;
    }
    let ask = || host.sh(&format!("{nobody} {SYNGATE} status")).unwrap();
    let ran = ask();
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(ran.stdout.contains("is not known"), "{ran:?}");
    assert!(ran.stderr.contains("CAP_NET_ADMIN"), "{ran:?}");
    let run = held(&host, Backend::Nft, "--port 80,443");
    let ran = ask();
    assert_eq!(ran.code(), 3, "{ran:?}");
    let pid = host.must(["pgrep", "-x", "syngate"]);
    for part in ["80,443", &format!("pid {}", pid.trim()), "--port 80,443"] {
        assert!(ran.stdout.contains(part), "{part}: {ran:?}");
    }
    run.end();
}

/// Runs a command line after `before`, Python that takes something away from it.
#[track_caller]
fn deprived(host: &Host, before: &str, command: &str) -> Ran {
    let script = host.write(
        "deprived",
        format!("import ctypes, os, resource, struct, sys\n{before}\nos.execvp(sys.argv[1], sys.argv[1:])\n"),
    );
    host.sh(&format!("python3 {} {command}", script.display()))
        .unwrap()
}

/// socket(AF_NETLINK) fails with EAFNOSUPPORT, as by RestrictAddressFamilies= of a unit: a seccomp
/// filter for this architecture.
fn no_netlink() -> String {
    format!(
        "
op = lambda code, yes, no, k: struct.pack('HBBI', code, yes, no, k)
program = b''.join([op(0x20, 0, 0, 0), op(0x15, 0, 3, {}), op(0x20, 0, 0, 16), op(0x15, 0, 1, 16),
                    op(6, 0, 0, 0x50061), op(6, 0, 0, 0x7fff0000)])
code = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure): _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_void_p)]
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Filter(6, ctypes.addressof(code))), 0, 0) == 0",
        nix::libc::SYS_socket
    )
}

/// What could not be asked is not told as "no gate is closed", nor is it cleared.
#[test]
fn no_answer_is_not_told_as_open() {
    let host = Host::new().unwrap();
    let run = held(&host, Backend::Nft, "--port 80");
    let few_files = "resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))";
    let locks = host.dir().join("locks-of-nobody");
    std::fs::create_dir(&locks).unwrap();
    // A link in the lock file's place can't be opened (O_NOFOLLOW): who lives is not known.
    let namespace = host.must(["stat", "-L", "-c", "%i", "/proc/self/ns/net"]);
    let lock = locks.join(format!("net-{}.lock", namespace.trim()));
    std::os::unix::fs::symlink("nowhere", lock).unwrap();
    for before in [&no_netlink(), few_files] {
        let ran = deprived(&host, before, &format!("{SYNGATE} status"));
        // The locks show that there is a run, where they can be read.
        assert!([1, 3].contains(&ran.code()), "{before}: {ran:?}");
        assert!(!ran.stderr.is_empty(), "{before}: {ran:?}");
        assert!(
            !ran.stdout.contains("no gate is closed"),
            "{before}: {ran:?}"
        );
        assert!(!ran.stdout.contains("is open"), "{before}: {ran:?}");
    }
    run.end();
    let elsewhere = format!("SYNGATE_LOCK_DIR={} {SYNGATE}", locks.display());
    for command in ["status", "clear"] {
        let ran = host.sh(&format!("{elsewhere} {command}")).unwrap();
        assert_eq!(ran.code(), 1, "{command}: {ran:?}");
        assert!(ran.stderr.contains("the locks in"), "{command}: {ran:?}");
        let ran = deprived(&host, &no_netlink(), &format!("{SYNGATE} {command}"));
        assert_eq!(ran.code(), 1, "{command}: {ran:?}");
        assert!(
            ran.stderr.contains("nf_tables: no netlink"),
            "{command}: {ran:?}"
        );
    }
}

/// A gate of iptables-nft whose program does not list it: a rule of nft's own is in the table.
#[test]
fn a_table_that_iptables_does_not_list_is_not_told_as_open() {
    let host = Host::new().unwrap();
    let run = held(&host, Backend::IptablesNft, "--port 80 --to 10.77.0.1");
    let rule = "add rule ip filter INPUT tcp dport { 1, 2 } fib daddr type unicast counter";
    host.must(["nft", rule]);
    let listed = host.must(["iptables-nft-save"]);
    assert!(!listed.contains("syngate_"), "{listed}");
    let ran = syngate(&host, "status");
    assert_eq!(ran.code(), 3, "its run holds the port: {ran:?}");
    assert!(
        ran.stdout.contains("belongs to a run that has closed"),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("iptables-nft: run"), "{ran:?}");
    run.dies(&host);
    let ran = syngate(&host, "status");
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(ran.stdout.contains("is not known"), "{ran:?}");
}

/// The gate's comment has no room for the whole name of such a directory, and an admin sees only the
/// comment. Others find the run all the same.
#[test]
fn a_long_lock_directory_hides_no_run() {
    for backend in [Backend::Nft, Backend::NftPlain, Backend::IptablesNft] {
        let host = Host::new().unwrap();
        let locks = host
            .dir()
            .join("the-locks-of-a-deployment-by-somebody-who-is-not-root");
        std::fs::create_dir(&locks).unwrap();
        let call = call(&host, words("--port 80 --ready-timeout 0 --settle 0"))
            .on(backend)
            .env("SYNGATE_LOCK_DIR", locks.to_str().unwrap());
        let mut latch = Latch::new(&host, "held");
        let mut run = call.start(sh(latch.hold()));
        latch.wait();
        if backend != Backend::IptablesNft {
            let listed = host.write("saved", host.must(["nft", "list", "ruleset"]));
            let another = Host::new().unwrap();
            another.must(["nft", "-c", "-f", listed.to_str().unwrap()]);
        }
        let ran = syngate(&host, "status");
        assert_eq!(ran.code(), 3, "{ran:?}");
        let knows = ["by       pid ", "since    2"];
        assert!(
            knows.iter().all(|part| ran.stdout.contains(part)),
            "{ran:?}"
        );
        let ran = syngate(&host, "clear");
        assert_eq!(ran.code(), 0, "{ran:?}");
        assert!(shut(&host).is_empty(), "{ran:?}");
        latch.release();
        run.wait().unwrap();
    }
}

/// What was asked for and can't be written is an error, not a success.
#[test]
fn output_that_is_lost_is_a_failure() {
    let host = Host::new().unwrap();
    for (command, status) in [
        ("status", 1),
        ("status --json", 1),
        ("check", 1),
        ("check --json", 1),
        ("--help", 125),
        ("-h", 125),
        ("--version", 125),
        ("-n -p 80 -- true", 125),
        ("listening-ports", 1),
        ("listening-services", 1),
        ("profiles", 1),
    ] {
        let ran = syngate(&host, &format!("{command} >/dev/full"));
        let completes = ["listening-ports", "listening-services", "profiles"];
        let nothing_to_write = completes.contains(&command) && ran.code() == 0;
        assert!(
            ran.code() == status || nothing_to_write,
            "{command}: {ran:?}"
        );
        let said = ran
            .stderr
            .contains("syngate: stdout can't be written: No space left");
        assert!(said || nothing_to_write, "{command}: {ran:?}");
    }
}

/// Hundreds of tables of others: they are not looked into, and stay as they are.
#[test]
fn status_among_hundreds_of_tables() {
    let host = Host::new().unwrap();
    // In portions, as nobody but the host's root may send all of it at once.
    for portion in 0..3 {
        let tables: String = (1..=100)
            .map(|n| {
                format!(
                    "table inet t{portion}_{n} {{ chain c {{ type filter hook input priority 0; \
                     tcp dport {n} counter; }}; }};\n"
                )
            })
            .collect();
        let file = host.write("tables.nft", tables);
        host.must(["nft", "-f", file.to_str().unwrap()]);
    }
    let before = host.ruleset();
    let run = held(&host, Backend::Nft, "--port 80");
    let began = Instant::now();
    let ran = syngate(&host, "status");
    let took = began.elapsed();
    assert_eq!(ran.code(), 3, "{ran:?}");
    // Beside nft(8), which lists them all, on the same machine at the same time.
    let began = Instant::now();
    host.must(["nft", "list", "ruleset"]);
    assert!(
        took < began.elapsed() + Duration::from_millis(500),
        "{took:?}"
    );
    run.end();
    assert_eq!(syngate(&host, "clear").code(), 0);
    assert_eq!(host.ruleset(), before);
}

/// Asking leaves nothing behind: no table of iptables-legacy, no lock file, nothing.
#[test]
fn asking_leaves_no_trace() {
    let host = Host::new().unwrap();
    let trace = "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>&1; ls -R /run";
    let before = (host.ruleset(), host.sh(trace).unwrap().stdout);
    assert_eq!(syngate(&host, "status").code(), 0);
    assert_eq!(syngate(&host, "clear").code(), 0);
    assert_eq!((host.ruleset(), host.sh(trace).unwrap().stdout), before);
}

// clear --------------------------------------------------------------------------------------------

#[test]
fn clear_is_quiet_when_there_is_nothing() {
    let host = Host::new().unwrap();
    for _ in 0..2 {
        let ran = syngate(&host, "clear");
        assert_eq!((ran.code(), &*ran.stdout, &*ran.stderr), (0, "", ""));
    }
}

/// A living run opens its gate, and its command goes on; others on other ports are left alone.
#[test]
fn clear_opens_the_gates_of_living_runs() {
    let host = Host::new().unwrap();
    for backend in Backend::ALL {
        let one = held(&host, backend, "--port 80");
        let mut two = held(&host, Backend::Nft, "--port 443");
        let ran = syngate(&host, "clear --port 79-81");
        assert_eq!(ran.code(), 0, "{ran:?}");
        assert!(ran.stderr.contains("80 is open: pid "), "{ran:?}");
        assert_eq!(shut(&host), [443], "{}", backend.name());
        assert!(two.run.is_running());
        let (gates, code) = status(&host);
        assert_eq!(code, 3, "443 is shut: {gates:#?}");
        let ran = syngate(&host, "clear --port 80");
        assert_eq!((ran.code(), &*ran.stderr), (0, ""), "idempotent");

        two.latch.release();
        assert_eq!(two.run.wait().unwrap().code(), Some(0));
        let outcome = one.end();
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let warnings = outcome.report["warnings"].to_string();
        assert!(warnings.contains("opened the gate early"), "{warnings}");
    }
}

/// What only looks like ours is somebody else's.
#[test]
fn clear_touches_only_what_syngate_made() {
    let host = Host::new().unwrap();
    Backend::IptablesLegacy.prime(&host);
    Backend::IptablesNft.prime(&host);
    host.must(sh(
        "nft add table inet syngate; nft add table inet my_syngate_0123456789abcdef
         nft add table ip syngate_0123456789abcdef
         iptables-legacy -N syngate_mine; iptables-legacy -A INPUT -j syngate_mine
         iptables-nft -A INPUT -m comment --comment 'syngate pid=1 since=1 command=x' -j ACCEPT",
    ));
    let before = host.ruleset();
    held(&host, Backend::IptablesLegacy, "--port 80").dies(&host);
    held(&host, Backend::NftPlain, "--port 81").dies(&host);
    let ran = syngate(&host, "clear");
    assert_eq!(ran.code(), 0, "{ran:?}");
    assert_eq!(host.ruleset(), before);
}

/// A run that does not answer, because it is stopped: told; --force ends it.
#[test]
fn clear_force_ends_what_does_not_answer() {
    let host = Host::new().unwrap();
    for backend in Backend::ALL {
        let mut stopped = held(&host, backend, "--port 80");
        stopped.run.signal(Signal::SIGSTOP).unwrap();
        let ran = syngate(&host, "clear --timeout 300ms");
        assert_eq!(ran.code(), 1, "{ran:?}");
        assert!(ran.stderr.contains("--force ends it"), "{ran:?}");
        let ran = syngate(&host, "clear --force --timeout 300ms");
        assert_eq!(ran.code(), 0, "{ran:?}");
        assert!(ran.stderr.contains("was ended by SIGKILL"), "{ran:?}");
        assert!(ran.stderr.contains("COMMAND goes on: "), "{ran:?}");
        wait_open(&host, SOON);
        assert_eq!(status(&host), (Vec::new(), 0), "it is gone");
    }
}

/// One that does is ended as a user would end it, and says what became of COMMAND.
#[test]
fn clear_force_ends_runs() {
    let host = Host::new().unwrap();
    let mut run = held(&host, Backend::Nft, "--port 80");
    let ran = syngate(&host, "clear --force");
    assert_eq!(ran.code(), 0, "{ran:?}");
    assert!(ran.stderr.contains("was ended by SIGTERM"), "{ran:?}");
    assert_eq!(run.run.wait().unwrap().code(), Some(128 + 15));
    assert!(!gated(&host));
}

/// A run in another pid namespace can't be signalled from here: told.
#[test]
fn clear_leaves_runs_of_other_pid_namespaces_alone() {
    let host = Host::new().unwrap();
    let call = call(&host, words("--port 80 --ready-timeout 0"));
    let mut latch = Latch::new(&host, "latch");
    let mut unshare = host.command("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    unshare
        .args(call.argv(sh(latch.hold())))
        .stdin(Stdio::null());
    let mut run = host.spawn(&mut unshare).unwrap();
    latch.wait();
    // It sees ours; from inside, ours is nobody's.
    let inside = format!("unshare --pid --fork --mount-proc {SYNGATE} clear --timeout 300ms");
    let ran = host.sh(&inside).unwrap();
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(ran.stderr.contains("another pid namespace"), "{ran:?}");
    assert_eq!(shut(&host), [80]);
    latch.release();
    assert_eq!(run.wait().unwrap().code(), Some(0));
}

#[test]
fn clear_needs_privilege() {
    let host = Host::new().unwrap();
    let mut call = host.command("setpriv");
    call.args([
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
        SYNGATE,
        "clear",
    ]);
    let output = call.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("CAP_NET_ADMIN"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn bad_input_is_one_line() {
    let host = Host::new().unwrap();
    for (arguments, says) in [
        ("clear --port 0", "'0' is not a port"),
        ("clear --port", "--port"),
        ("clear --timeout 1", "without a unit"),
        ("clear now", "now"),
        ("status --yaml", "--yaml"),
        ("status 80", "80"),
    ] {
        let ran = syngate(&host, arguments);
        assert_eq!(ran.code(), 125, "{arguments}: {ran:?}");
        assert!(ran.stderr.contains(says), "{arguments}: {ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{arguments}: {ran:?}");
    }
}

//! One `syngate keep` after the other: the next one has the rooms of one that was killed, or that systemd restarts, so
//! that a crash of the service finds rooms at any moment.

mod harness;
mod killing;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use harness::group::Group;
use harness::keep::{Keep, monotonic_ms, nobody_noticed, shared, wait_kept, waiting_client};
use harness::kept::{self, flowing};
use harness::rooms::{GUARD, all_served, load, nothing_is_left, queued, shares_port};
use harness::{SOON, SYNGATE, python, syngate, tell, words};
use killing::Moment;
use nix::sys::signal::Signal;
use testkit::services::Serve;
use testkit::{Host, Pair, slow, wait_until};

/// The sockets on port 80 that no process has among its files, by the kernel's names for them.
fn rooms(host: &Host) -> BTreeSet<String> {
    let shown = host.must(words("ss -Hltnpe sport = :80"));
    let rooms = shown.lines().filter(|line| !line.contains("users:"));
    let name = |line: &str| {
        line.split_whitespace()
            .find(|w| w.starts_with("sk:"))
            .map(str::to_owned)
    };
    rooms.filter_map(name).collect()
}

fn guards(host: &Host) -> usize {
    let shown = host.sh(&format!("pgrep -x {GUARD}")).unwrap().stdout;
    shown.lines().count()
}

fn guarded_by(host: &Host, many: usize) {
    wait_until(SOON, "one guard", || guards(host) == many).unwrap();
}

/// One guard, and one note: nothing is there twice. Rooms that a client came to in the take-over are shut for a moment, and
/// keep their names.
#[track_caller]
fn taken_over(host: &Host, before: &BTreeSet<String>) {
    wait_until(SOON, "the same rooms", || rooms(host) == *before).unwrap();
    guarded_by(host, 1);
    let notes = host.must(["sh", "-c", "ls /run/syngate | grep -c rooms-"]);
    assert_eq!(notes.trim(), "1");
}

#[test]
fn the_next_keep_has_the_rooms_of_one_that_was_killed() {
    for (service, options) in [(shared(), ""), (Serve::on("0.0.0.0:80"), "--any")] {
        let host = &Host::new().unwrap();
        let mut server = service.start(host).unwrap();
        let shares = shares_port(host);
        let mut keep = Keep::on(host, options);
        let before = rooms(host);
        assert!(before.len() > 1, "{before:?}");
        for _ in 0..2 {
            keep.running.signal(Signal::SIGKILL).unwrap();
            keep.running.wait().unwrap();
            let load = flowing(host, 100);
            keep = Keep::on(host, options);
            taken_over(host, &before);
            all_served(&load.stop().unwrap());
            drop(server);
            let waits = waiting_client(host);
            server = service.start(host).unwrap();
            all_served(&waits.finish().unwrap());
            keep.says(1, "nobody listened");
        }
        keep.ends(1);
        assert_eq!(shares_port(host), shares, "{options}");
    }
}

/// The guard goes on as the keep would: the service may end again when it has been back for a while.
#[test]
fn the_guard_of_a_dead_keep_bridges_one_crash_after_the_other() {
    let host = &Host::new().unwrap();
    let (_, waits) = kept::killed(host, &shared(), "", true);
    let mut server = shared().start(host).unwrap();
    all_served(&waits.unwrap().finish().unwrap());
    for _ in 0..2 {
        std::thread::sleep(Duration::from_secs(1)); // a time is what is meant: nothing is to happen
        drop(server);
        let waits = waiting_client(host);
        server = shared().start(host).unwrap();
        all_served(&waits.finish().unwrap());
    }
    let keep = Keep::on(host, "");
    let _server = keep.bridges(server);
    keep.ends(1);
}

/// Another guard follows it when a run has taken some of its ports. Clients on the others may wait as long as before.
#[test]
fn the_guard_of_a_dead_keep_has_its_patience_after_a_run() {
    let host = &Host::new().unwrap();
    let services = ["0.0.0.0:80", "0.0.0.0:81"].map(|at| Serve::on(at).reuseport());
    let [server, _other] = services
        .each_ref()
        .map(|service| service.start(host).unwrap());
    let mut keep = Keep::begun(host, "--port 80,81 --max-wait 4s", &[]);
    keep.running.signal(Signal::SIGKILL).unwrap();
    keep.running.wait().unwrap();
    std::thread::sleep(Duration::from_secs(2)); // a time is what is meant: half of what the guard has by itself
    let run = syngate(host, "--port 81 --ready-timeout 0 -- true");
    assert_eq!(run.code(), 0, "{run:?}");
    guarded_by(host, 1);
    drop(server);
    let waits = waiting_client(host);
    std::thread::sleep(Duration::from_secs(3)); // a time is what is meant
    let _server = services[0].start(host).unwrap();
    all_served(&waits.finish().unwrap());
}

/// A process whose name and command line are those of a guard: a set-user-ID program has both from its caller, who is
/// nobody here. It stands as long as nobody reads what it writes.
const FORGED: &str = "
import os, fcntl
line = open('/proc/GUARD/cmdline').read().rstrip('\\0').split('\\0')
line[2], line[3], line[12], line[13] = '99999999999', 'feedfeedfeedfeed', '/run/syngate/victim', ''
os.symlink('/usr/bin/su', 'gate-room')
os.setgid(65534); os.setuid(65534)
unread, full = os.pipe()
os.set_inheritable(unread, True)
os.set_blocking(full, False)
for size in (4096, 1):
    try:
        while True: os.write(full, b'x' * size)
    except BlockingIOError: pass
os.set_blocking(full, True)
os.dup2(full, 2)
print('up', flush=True)
os.execv('./gate-room', line)
";

#[test]
fn a_process_that_poses_as_a_guard_is_not_believed() {
    let host = &Host::new().unwrap();
    let _server = shared().start(host).unwrap();
    let mut keep = Keep::on(host, "");
    guarded_by(host, 1);
    let guard = host.must(["pgrep", "-x", GUARD]);
    host.must(["sh", "-c", "echo mine > /run/syngate/victim"]);
    let folder = host.dir().join("forged");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let forged = format!(
        "import os; os.chdir({folder:?}){}",
        FORGED.replace("GUARD", guard.trim())
    );
    let forged = python(host, &forged);
    guarded_by(host, 2);

    // It does not keep runs off.
    let run = syngate(host, "--port 80 --ready-timeout 0 -- true");
    assert_eq!(run.code(), 0, "{run:?}");
    // Nor does the guard of a dead keep do as it says, nor the next keep.
    keep.running.signal(Signal::SIGKILL).unwrap();
    keep.running.wait().unwrap();
    let keep = Keep::on(host, "");
    guarded_by(host, 2);
    assert_eq!(host.must(["cat", "/run/syngate/victim"]), "mine\n");
    host.must(["rm", "/run/syngate/victim"]);
    drop(forged);
    keep.ends(1);
}

/// If no keep comes, it ends.
#[test]
fn the_guard_of_a_dead_keep_ends_by_itself() {
    let host = &Host::new().unwrap();
    let (_server, _) = kept::killed(host, &shared(), "--max-wait 1s", false);
    guarded_by(host, 0);
    nothing_is_left(host, 1);
}

/// A stand-in for systemctl, which tells of the unit of keep what a test has written; tests/ci/test-systemd tries it
/// under a real systemd.
struct Systemctl<'a> {
    host: &'a Host,
    name: String,
    group: Group,
}

impl<'a> Systemctl<'a> {
    fn of(host: &'a Host) -> Systemctl<'a> {
        let name = format!("syngate-keep@{}.service", host.pid());
        let script = format!(
            "#!/bin/sh\nexec cat {}/systemctl.$1\n",
            host.dir().display()
        );
        let file = host.write("systemctl", script);
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
        let group = Group::called(host, &name);
        Systemctl { host, name, group }
    }

    fn tells(&self, job: &str) {
        let name = &self.name;
        self.host.write(
            "systemctl.list-jobs",
            format!("4711 {name} {job} running\n"),
        );
        let shown = format!("Id={name}\nLoadState=loaded\nActiveState=deactivating\nJob=4711\n");
        self.host.write("systemctl.show", shown);
    }

    fn keeps(&self) -> Keep<'a> {
        let path = format!(
            "{}:{}",
            self.host.dir().display(),
            std::env::var("PATH").unwrap()
        );
        let by = words(&self.group.entered(self.host));
        Keep::begun_by(self.host, &by, "--port 80", &[("PATH", &path)])
    }
}

#[test]
fn the_next_keep_has_the_rooms_of_one_that_systemd_restarts() {
    let host = &Host::new().unwrap();
    let systemctl = Systemctl::of(host);
    let server = shared().start(host).unwrap();
    let mut keep = systemctl.keeps();
    let before = rooms(host);
    systemctl.tells("restart");
    keep.running.signal(Signal::SIGTERM).unwrap();
    assert!(keep.running.wait().unwrap().success(), "{}", keep.said());
    assert_eq!(rooms(host), before, "its guard has them");
    // The service ends in this moment.
    drop(server);
    let waits = waiting_client(host);
    let server = shared().start(host).unwrap();
    all_served(&waits.finish().unwrap());
    wait_until(SOON, "the end of the wait", || queued(host) == 0).unwrap();
    let before = rooms(host);
    let keep = systemctl.keeps();
    taken_over(host, &before);
    let _server = keep.bridges(server);
    systemctl.tells("stop");
    keep.ends(1);
}

/// The same process. It keeps no files of the program before: three times these are far more than a few programs for the
/// kernel, which are loaded once.
#[test]
fn a_keep_becomes_the_program_that_is_installed_now() {
    let host = &Host::new().unwrap();
    let mut server = shared().start(host).unwrap();
    let program = host.dir().join("syngate");
    fs::copy(SYNGATE, &program).unwrap();
    let mut keep = Keep::of_program(host, &program, "--port 80");
    let before = rooms(host);
    let pid = host.must(["pgrep", "-x", "syngate"]);
    let of_keep = |what: &str| host.must(["sh", "-c", &what.replace("PID", pid.trim())]);
    let files = || -> usize { of_keep("ls /proc/PID/fd | wc -l").trim().parse().unwrap() };
    let had = files();
    for times in 1..=3 {
        // As a package does it: the file from before is gone.
        let new = host.dir().join("syngate.new");
        fs::copy(SYNGATE, &new).unwrap();
        fs::rename(new, &program).unwrap();
        let load = flowing(host, 100);
        keep.running.signal(Signal::SIGUSR1).unwrap();
        keep.says(times + 1, "keeping 80: ");
        taken_over(host, &before);
        all_served(&load.stop().unwrap());
        assert_eq!(
            of_keep("readlink /proc/PID/exe").trim(),
            program.to_str().unwrap()
        );
        server = keep.bridges(server);
    }
    let few = || files() <= had + 3;
    wait_until(SOON, "as many files as before", few).unwrap();
    // In a gap, it is the one before that hands over.
    drop(server);
    let waits = waiting_client(host);
    keep.running.signal(Signal::SIGUSR1).unwrap();
    let _server = shared().start(host).unwrap();
    all_served(&waits.finish().unwrap());
    keep.says(5, "keeping 80: ");
    keep.ends(1);
}

#[test]
fn a_keep_goes_on_whose_new_program_can_t_be_executed() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let program = host.dir().join("syngate");
    fs::copy(SYNGATE, &program).unwrap();
    let mut keep = Keep::of_program(host, &program, "--port 80");
    let before = rooms(host);
    fs::remove_file(&program).unwrap();
    keep.running.signal(Signal::SIGUSR1).unwrap();
    keep.says(1, "keep goes on as the old program: ");
    keep.says(2, "keeping 80: ");
    taken_over(host, &before);
    let _server = keep.bridges(server);
    keep.ends(1);
}

/// While one keep follows another, a crash finds rooms: the guard's, or those of the next keep.
#[test]
fn a_crash_at_any_moment_meanwhile_is_noticed_by_nobody() {
    let rounds: u32 = std::env::var("SYNGATE_CRASHES").map_or(5, |n| n.parse().unwrap());
    for (service, options) in [(shared(), ""), (Serve::on("0.0.0.0:80"), "--any")] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let server = service.start_daemon(host).unwrap();
        let kill = format!("kill -9 $(cat {})", host.dir().join("serve.pid").display());
        let mut keep = Keep::on(host, options);
        for _ in 0..rounds {
            let clients = load(&pair, 300);
            keep.running.signal(Signal::SIGKILL).unwrap();
            keep.running.wait().unwrap();
            let next = Keep::start(host, &format!("--port 80 {options}"));
            let Moment::After(moment) = Moment::random(Duration::from_millis(200) * slow()) else {
                unreachable!("a random moment is a time");
            };
            std::thread::sleep(moment); // a moment is what is wanted here, not a state
            host.must(["sh", "-c", &kill]);
            let died = monotonic_ms();
            host.must(server.restart_argv());
            let begun = || next.said().contains("keeping ") && guards(host) == 1;
            wait_until(SOON, "the next keep", begun).unwrap();
            wait_until(SOON, "those who waited to be served", || queued(host) == 0).unwrap();
            wait_kept(host);
            let report = clients.stop().unwrap();
            tell(&format!(
                "killed {moment:?} after the next keep was started: {report}"
            ));
            nobody_noticed(&report, died);
            keep = next;
        }
        keep.ends(1);
    }
}

/// Its guard has rooms that are not for the next keep.
#[test]
fn one_that_can_t_be_taken_over_gives_way() {
    let host = &Host::new().unwrap();
    let server = shared().start(host).unwrap();
    let other = Serve::on("0.0.0.0:81").reuseport().start(host).unwrap();
    let mut keep = Keep::begun(host, "--port 80,81", &[]);
    keep.running.signal(Signal::SIGKILL).unwrap();
    keep.running.wait().unwrap();
    // The guard has rooms on another port, too.
    let before = rooms(host);
    let keep = Keep::on(host, "");
    assert!(rooms(host).is_disjoint(&before), "others");
    keep.says(
        1,
        "can't take over the waiting rooms of the earlier one: the earlier one also has rooms on 0.0.0.0:81, where",
    );
    let _server = keep.bridges(server);
    assert_eq!(syngate(host, "clear").code(), 0);
    keep.ends(1);
    drop(other);
}

//! `syngate keep --unit`: which listeners are the unit's, and what becomes of those who wait when it is stopped.
//! A stand-in for systemctl tells what a test has written; tests/ci/test-systemd tries it under a real systemd.

mod harness;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use harness::group::Group;
use harness::keep::{Keep, client, shared, waiting_client};
use harness::kept::flowing;
use harness::rooms::{all_served, another_can_share, shares_port};
use harness::{SOON, SYNGATE, call, syngate, words};
use testkit::services::{Nginx, NginxConfig, Serve};
use testkit::{Host, Ran, Running, wait_until};

/// A service that systemd would have started, and a systemctl that tells of it.
struct Unit<'a> {
    host: &'a Host,
    name: String,
    serve: Serve,
    running: Option<Running>,
    /// Dropped when the process has ended.
    group: Option<Group>,
}

impl<'a> Unit<'a> {
    fn of(host: &'a Host, serve: Serve) -> Unit<'a> {
        let folder = host.dir().join("bin");
        fs::create_dir(&folder).unwrap();
        let script = format!(
            "#!/bin/sh\ncd {}\necho $1 >>asked\n[ ! -e hangs ] || exec sleep 60\nexec cat $1\n",
            folder.display()
        );
        let systemctl = folder.join("systemctl");
        fs::write(&systemctl, script).unwrap();
        fs::set_permissions(systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let unit = Unit {
            host,
            name: format!("testkit-{}.service", host.pid()),
            serve,
            group: None,
            running: None,
        };
        unit.tell("", "inactive");
        unit
    }

    fn write(&self, name: &str, text: &str) {
        let folder = self.host.dir().join("bin");
        fs::write(folder.join("new"), text).unwrap();
        fs::rename(folder.join("new"), folder.join(name)).unwrap();
    }

    /// What systemctl says from now on. A job that is `new` has begun since the jobs were listed.
    fn tell(&self, job: &str, state: &str) {
        let name = &self.name;
        let line = format!("4711 {name} {job} running\n");
        let (listed, shown) = match job {
            "" => ("", ""),
            "new" => ("", "Job=4711\n"),
            _ => (line.as_str(), "Job=4711\n"),
        };
        self.write("list-jobs", listed);
        let group = self.group.as_ref().map(Group::path).unwrap_or_default();
        self.write(
            "show",
            &format!(
                "Id={name}\nLoadState=loaded\nActiveState={state}\nControlGroup={group}\nSlice=-.slice\n{shown}"
            ),
        );
    }

    /// Each start makes another control group.
    fn start(&mut self) {
        self.group = Some(Group::called(self.host, &self.name));
        self.tell("", "active");
        self.running = Some(self.serve.start_by(self.host, &self.within()).unwrap());
    }

    /// Before a command line that is to be in the unit.
    fn within(&self) -> Vec<String> {
        words(&self.group.as_ref().unwrap().entered(self.host))
    }

    fn ends(&mut self) {
        self.running = None;
        self.group = None;
    }

    fn asked(&self) -> usize {
        let asked = fs::read_to_string(self.host.dir().join("bin/asked")).unwrap_or_default();
        asked.lines().filter(|line| *line == "show").count()
    }

    fn path(&self) -> String {
        let bin = self.host.dir().join("bin");
        format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
    }

    fn kept(&self, options: &str) -> Keep<'a> {
        let name = self.name.trim_end_matches(".service");
        let call = format!("--unit {name} {options}");
        Keep::begun(self.host, &call, &[("PATH", &self.path())])
    }

    /// Keep's whole answer, where it does not begin.
    fn refused(&self, options: &str) -> Ran {
        let mut call = self.host.command(SYNGATE);
        call.args(["keep", "--unit", &self.name])
            .args(words(options));
        let ran = Ran::from(call.env("PATH", self.path()).output().unwrap());
        assert_eq!(ran.code(), 125, "{ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        ran
    }
}

/// How many sockets listen on that port: the service's, and rooms.
fn on(host: &Host, port: u16) -> usize {
    let shown = host.must(words(&format!("ss -Hltn sport = :{port}")));
    shown.lines().count()
}

fn wait_kept(host: &Host, port: u16) {
    let kept = || on(host, port) > 1;
    wait_until(SOON, "the port to be kept", kept).unwrap();
}

fn shared_on(port: u16) -> Serve {
    Serve::on(format!("0.0.0.0:{port}")).reuseport()
}

/// The control groups of the sockets tell which they are.
#[test]
fn it_keeps_all_ports_of_the_unit_and_no_others() {
    let host = &Host::new().unwrap();
    let _other = shared_on(82).start(host).unwrap();
    let mut unit = Unit::of(host, shared().and_on("[::]:81"));
    unit.start();
    let keep = unit.kept("");
    assert!(on(host, 80) > 1 && on(host, 81) > 1);
    assert_eq!(on(host, 82), 1, "that of another service");
    let later = shared_on(83).start_by(host, &unit.within()).unwrap();
    wait_kept(host, 83);
    assert_eq!(unit.asked(), 1, "only at the beginning");
    let shown = || {
        let said = syngate(host, "status").stdout;
        said.contains("80-81,83 is kept: ") && said.contains("syngate keep --unit testkit-")
    };
    wait_until(SOON, "status to show them", shown).unwrap();
    assert!(
        !keep.said().contains("nobody listens yet"),
        "{}",
        keep.said()
    );
    keep.ends(1);
    drop(later);
}

/// nginx sets SO_REUSEPORT on the socket that it has, and binds new ones beside it. Others may not.
#[test]
fn a_reload_that_adds_reuseport_works() {
    let host = &Host::new().unwrap();
    let mut unit = Unit::of(host, shared());
    let config = |reuseport| NginxConfig {
        workers: 3,
        reuseport,
        ..NginxConfig::default()
    };
    let nginx = Nginx::new(host, &config(false)).unwrap();
    unit.group = Some(Group::called(host, &unit.name));
    unit.tell("", "active");
    host.must([unit.within(), nginx.start_argv()].concat());
    let keep = unit.kept("--any");
    let load = flowing(host, 100);
    nginx.configure(&config(true)).unwrap();
    nginx.reload().unwrap();
    let own = || {
        let shown = host.must(words("ss -Hltnp sport = :80"));
        shown.lines().filter(|line| line.contains("nginx")).count()
    };
    wait_until(SOON, "a listener of each worker on both addresses", || {
        own() == 6
    })
    .unwrap();
    assert!(!another_can_share(host), "it is none of the unit's");
    all_served(&load.stop().unwrap());
    keep.ends(6);
    assert_eq!(shares_port(host), "1", "it is nginx's own");
    nginx.stop().unwrap();
}

/// Of the ports that the unit has, only those that are named; these it must be able to keep.
#[test]
fn ports_narrow_it() {
    let host = &Host::new().unwrap();
    let mut unit = Unit::of(host, shared().and_on("0.0.0.0:81"));
    unit.start();
    let keep = unit.kept("--port 80,84");
    keep.says(1, "nobody listens yet on 84, where");
    assert_eq!(on(host, 81), 1);
    keep.ends(1);
}

/// A port that the unit has given up is free again after `--max-wait`: for others, too.
#[test]
fn a_port_that_the_unit_no_longer_has_is_given_up() {
    let host = &Host::new().unwrap();
    let mut unit = Unit::of(host, shared());
    unit.start();
    let other = shared_on(81).start_by(host, &unit.within()).unwrap();
    let keep = unit.kept("--max-wait 300ms");
    wait_kept(host, 81);
    drop(other);
    keep.says(1, "81: nobody has listened");
    let alone = Serve::on("0.0.0.0:81").start(host).unwrap();
    assert_eq!(on(host, 81), 1);
    drop(alone);
    let locks = || host.must(words("cat /proc/locks")).contains(" 81 81");
    assert!(!locks(), "another keep may have it");
    keep.ends(1);
}

/// Keep stands back for a run, and comes again; a run on another port is none of its business.
#[test]
fn runs_work_on_a_port_of_the_unit() {
    let host = &Host::new().unwrap();
    let mut unit = Unit::of(host, shared());
    unit.start();
    let _other = shared_on(82).start(host).unwrap();
    let keep = unit.kept("");
    for port in [80, 82] {
        let call = call(
            host,
            words(&format!("--port {port} --drain 0 --ready-timeout 0")),
        );
        let rooms = format!(
            "ss -Hltn sport = :80 | wc -l >{}",
            host.dir().join("seen").display()
        );
        let outcome = call.run(["sh", "-c", &rooms]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let seen = fs::read_to_string(host.dir().join("seen")).unwrap();
        assert_eq!(seen == "1\n", port == 80, "{seen}");
        wait_kept(host, 80);
    }
    keep.ends(1);
}

/// Clients that come meanwhile wait, also if systemctl hangs. It is asked only while nobody listens.
#[test]
fn a_restart_is_bridged() {
    let host = &Host::new().unwrap();
    let mut unit = Unit::of(host, shared());
    unit.start();
    let keep = unit.kept("");
    for (times, (job, state)) in [
        ("restart", "deactivating"),
        ("start", "inactive"),
        ("new", "inactive"),
        ("", "activating"),
        ("", "hangs"),
    ]
    .into_iter()
    .enumerate()
    {
        let before = unit.asked();
        if state == "hangs" {
            unit.write("hangs", "");
        }
        unit.tell(job, state);
        unit.ends();
        let waits = waiting_client(host);
        let asked = || state == "hangs" || unit.asked() > before;
        wait_until(SOON, "a question", asked).unwrap();
        unit.start();
        all_served(&waits.finish().unwrap());
        keep.says(times + 1, "; 1 connection waited, ");
        wait_kept(host, 80);
    }
    keep.ends(1);
}

/// As without syngate: the port refuses, until somebody starts the unit again.
#[test]
fn who_waits_when_the_unit_is_stopped_is_reset() {
    let host = &Host::new().unwrap();
    let mut unit = Unit::of(host, shared());
    unit.start();
    let keep = unit.kept("");
    for (times, (job, state)) in [("stop", "deactivating"), ("", "inactive"), ("", "failed")]
        .into_iter()
        .enumerate()
    {
        unit.tell("restart", "deactivating");
        unit.ends();
        let waits = waiting_client(host);
        unit.tell(job, state);
        let report = waits.finish().unwrap();
        assert_eq!(report.cut + report.reset, 1, "{report}");
        keep.says(times + 1, " was stopped, and nobody has listened for ");
        assert_eq!(on(host, 80), 0);
        assert_eq!(client(host).finish().unwrap().refused, 1);
        unit.start();
        wait_kept(host, 80);
    }
    assert!(!keep.said().contains("--max-wait"), "{}", keep.said());
    keep.ends(1);
}

#[test]
fn a_unit_that_is_started_later_is_waited_for() {
    let host = &Host::new().unwrap();
    let mut unit = Unit::of(host, shared());
    let keep = unit.kept("");
    keep.says(
        1,
        &format!("keeping {}: nobody listens there yet", unit.name),
    );
    unit.start();
    wait_kept(host, 80);
    assert_eq!(unit.asked(), 1, "its control group tells");
    keep.ends(1);
}

#[test]
fn what_is_no_unit_is_refused() {
    let host = &Host::new().unwrap();
    for (call, says) in [
        (
            "keep",
            "--port or --unit is missing: which service to keep, ",
        ),
        (
            "keep --unit a.socket",
            "--unit: 'a.socket': it is no service; ",
        ),
        ("keep --unit a*", "--unit: 'a*': it is no unit's name; "),
        (
            "keep --unit a@",
            "expected one of its instances, such as a@1",
        ),
    ] {
        let ran = syngate(host, call);
        assert_eq!(ran.code(), 125, "{ran:?}");
        assert!(ran.stderr.contains(says), "{ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }
    let mut unit = Unit::of(host, Serve::on("0.0.0.0:80"));
    for (load, says) in [
        ("not-found", "there is no such unit"),
        ("masked", "the unit is masked"),
    ] {
        unit.write(
            "show",
            &format!("Id=x.service\nLoadState={load}\nActiveState=inactive\n"),
        );
        let said = unit.refused("").stderr;
        let named = format!("syngate: --unit {}: {says}", unit.name);
        assert!(said.starts_with(&named), "{said}");
    }
    unit.write(
        "show",
        "Id=x.service\nLoadState=error\nActiveState=inactive\nSlice=\n",
    );
    let said = unit.refused("").stderr;
    assert!(said.contains("names no control group"), "{said}");
    fs::remove_file(host.dir().join("bin/show")).unwrap();
    host.must(words("mkdir -p /run/systemd"));
    host.must(words("mount -t tmpfs none /run/systemd"));
    let said = unit.refused("").stderr;
    let no_systemd = "systemd does not run here; use --port";
    assert!(said.contains(no_systemd), "{said}");
    host.must(words("mkdir /run/systemd/system"));
    let said = unit.refused("").stderr;
    assert!(said.contains("systemctl: cat: show: "), "{said}");
    unit.start();
    let said = unit.refused("").stderr;
    assert!(said.contains("does not set SO_REUSEPORT"), "{said}");
    unit.ends();
    // Of two keeps of one unit, the second has nothing to keep.
    unit.serve = shared();
    unit.start();
    let keep = unit.kept("");
    let said = unit.refused("").stderr;
    assert!(said.contains("another keep has port 80: pid "), "{said}");
    keep.ends(1);
}

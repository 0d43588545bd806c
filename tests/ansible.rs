//! contrib/ansible as its users have it: built and installed by ansible-galaxy, run by the real Ansible,
//! over SSH, on hosts with Debian's sshd and haproxy. `make test` installs that Ansible
//! (tests/ci/ansible-venv).

mod harness;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::iter;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use clap::CommandFactory;
use harness::{SOON, SYNGATE, gated, words};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use syngate::Args;
use testkit::services::HaproxyConfig;
use testkit::{Fleet, Host, Load, LoadReport, Ran, Running, RunningLoad, rootless, wait_until};

const LONG: Duration = Duration::from_secs(500);
const MODULE: &str = "syngate.syngate.syngate";

/// The module's own options, besides those of runs.
const OWN: [&str; 7] = [
    "cmd",
    "argv",
    "service",
    "profile",
    "no_precheck",
    "state",
    "executable",
];

/// What the module returns only where it has called syngate.
const OF_A_CALL: [&str; 5] = ["cmd", "rc", "stdout", "stderr", "report"];

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn contrib(file: &str) -> PathBuf {
    source("contrib/ansible").join(file)
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

// The host with Ansible ------------------------------------------------------------------------------

/// A program of Ansible's on that host, in its folder.
fn ansible(host: &Host, program: &str) -> Command {
    ansible_in(host.dir(), host, program)
}

/// With nothing of the machine's or of ours in its environment.
fn ansible_in(folder: &Path, host: &Host, program: &str) -> Command {
    let bin = source("target/ansible-venv/bin");
    let path = bin.join(program);
    assert!(path.exists(), "tests/ci/ansible-venv has not been called");
    let dir = host.dir();
    // What runs on a host begins in the host's working directory.
    let mut command = host.command("env");
    command.arg("-C").args([folder, &path]);
    command.env_clear().stdin(Stdio::null());
    command
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .env("LANG", "C.UTF-8")
        .env("HOME", dir)
        .env("ANSIBLE_HOME", dir.join("ansible"))
        .env("ANSIBLE_CONFIG", dir.join("ansible.cfg"));
    command
}

fn run(command: &mut Command) -> Ran {
    Ran::from(command.output().unwrap())
}

#[track_caller]
fn must(command: &mut Command) -> String {
    let ran = run(command);
    assert!(ran.ok(), "{command:?}: {}\n{}", ran.stdout, ran.stderr);
    ran.stdout
}

/// The collection, built and installed as its README says, where nothing else of syngate's is; the host
/// has no network to help it.
fn install_collection(host: &Host) {
    static BUILT: OnceLock<Vec<u8>> = OnceLock::new();
    host.write("ansible.cfg", config(host));
    let tarball = format!("syngate-syngate-{}.tar.gz", env!("CARGO_PKG_VERSION"));
    let built = BUILT.get_or_init(|| {
        let copy = copy_of_contrib(host, "alone");
        let build = ["collection", "build", "--output-path", "built"];
        must(ansible(host, "ansible-galaxy").args(build).arg(copy));
        fs::read(host.dir().join("built").join(&tarball)).unwrap()
    });
    host.write(&tarball, built);
    let install = ["collection", "install", &tarball];
    must(ansible(host, "ansible-galaxy").args(install));
}

fn copy_of_contrib(host: &Host, name: &str) -> PathBuf {
    let copy = host.dir().join(name);
    must(Command::new("cp").arg("-r").arg(contrib("")).arg(&copy));
    copy
}

fn config(host: &Host) -> String {
    let dir = host.dir().display();
    format!(
        "[defaults]\n\
         inventory = inventory.ini\n\
         collections_path = {dir}/collections\n\
         interpreter_python = /usr/bin/python3\n\
         remote_tmp = /run/ansible\n\
         nocolor = true\n\
         internal_poll_interval = 0.02\n\
         [ssh_connection]\n\
         pipelining = true\n\
         ssh_args = -F {dir}/ssh_config -o ControlMaster=auto -o ControlPersist=60s\n"
    )
}

// Whom it is for -----------------------------------------------------------------------------------

/// A control node, with the collection, and some load balancers, each with haproxy on port 80.
struct Site {
    fleet: Fleet,
    _sshd: Vec<Running>,
}

impl Site {
    fn new(hosts: usize) -> Site {
        assert!(!rootless(), "sshd takes a real root");
        let fleet = Fleet::steered_by_flow(hosts).unwrap();
        let control = &fleet.client;
        let key = new_key(control, "id");
        for host in &fleet.servers {
            // It hides what was bound into /etc before.
            host.own_etc().unwrap();
        }
        let sshd = fleet.servers.iter().enumerate();
        let sshd = sshd.map(|(n, host)| start_sshd(host, &Fleet::address(n), &key));
        let site = Site {
            _sshd: sshd.collect(),
            fleet,
        };
        site.trust();
        let reloads = site.control().write(RELOADS, "");
        for (n, host) in site.fleet.servers.iter().enumerate() {
            furnish(host);
            let script = format!(
                "#!/bin/sh\n\
                 tell() {{ [ \"$2\" != reload ] || echo \"{n} $3\" >>'{}'; }}\n\
                 tell \"$@\" begins; /usr/sbin/service \"$@\"; status=$?; tell \"$@\" ends; exit $status\n",
                reloads.display()
            );
            install(host, "service", &script);
        }
        install_collection(site.control());
        for entry in fs::read_dir(contrib("examples")).unwrap() {
            let file = entry.unwrap().path();
            fs::copy(&file, site.control().dir().join(file.file_name().unwrap())).unwrap();
        }
        site.inventory(&BTreeMap::new());
        site
    }

    fn control(&self) -> &Host {
        &self.fleet.client
    }

    fn hosts(&self) -> &[Host] {
        &self.fleet.servers
    }

    /// The hosts' keys are known, and our own SSH configuration is the only one.
    fn trust(&self) {
        let known = self.hosts().iter().enumerate().map(|(n, host)| {
            let key = read(host.dir().join("host_key.pub"));
            format!("{} {key}", Fleet::address(n))
        });
        let (control, dir) = (self.control(), self.control().dir().display());
        control.write("known_hosts", known.collect::<String>());
        let config = format!(
            "User root\nIdentityFile {dir}/id\nIdentitiesOnly yes\nBatchMode yes\n\
             UserKnownHostsFile {dir}/known_hosts\nGlobalKnownHostsFile /dev/null\n\
             StrictHostKeyChecking yes\n"
        );
        control.write("ssh_config", config);
    }

    /// The hosts as lb1, lb2, …, some with variables of their own.
    fn inventory(&self, variables: &BTreeMap<usize, &str>) {
        let mut text = "[loadbalancers]\n".to_owned();
        for n in 0..self.hosts().len() {
            let own = variables.get(&n).unwrap_or(&"");
            text += &format!("lb{} ansible_host={} {own}\n", n + 1, Fleet::address(n));
        }
        self.control().write("inventory.ini", text);
    }

    fn playbook(&self, arguments: &str) -> Ran {
        run(ansible(self.control(), "ansible-playbook").args(words(arguments)))
    }

    /// What the module makes of each of these, as tasks of a playbook with what else is said of them, on
    /// the first host; and what Ansible has printed.
    fn tasks(&self, keywords: &Value, arguments: &[Value]) -> (Vec<Value>, Ran) {
        let task = |(n, arguments): (usize, &Value)| {
            let mut task = keywords.clone();
            task[MODULE] = arguments.clone();
            task["register"] = format!("result{n}").into();
            task["ignore_errors"] = true.into();
            task
        };
        let mut tasks: Vec<Value> = arguments.iter().enumerate().map(task).collect();
        let names = (0..tasks.len()).map(|n| format!("result{n}"));
        let all = format!(
            "{{{{ [{}] | to_json }}}}",
            names.collect::<Vec<_>>().join(", ")
        );
        let file = self.control().dir().join("results");
        let keep = json!({"content": all, "dest": file, "mode": "0600"});
        tasks.push(json!({"ansible.builtin.copy": keep, "delegate_to": "localhost"}));
        let play = json!([{"hosts": "lb1", "gather_facts": false, "tasks": tasks}]);
        self.control().write("tasks.yml", play.to_string());
        let ran = self.playbook("tasks.yml");
        assert!(ran.ok(), "{ran:?}");
        let results: Vec<Value> = serde_json::from_str(&read(file)).unwrap();
        assert_eq!(results.len(), arguments.len());
        (results, ran)
    }

    fn load(&self) -> Vec<RunningLoad> {
        let hosts = 0..self.hosts().len();
        hosts
            .map(|n| {
                let load = Load::to(format!("{}:80", Fleet::address(n)));
                let mut load = load.rate(100).duration(LONG).start(self.control()).unwrap();
                load.wait_flowing().unwrap();
                load
            })
            .collect()
    }

    /// What its clients get.
    fn greeting(&self, n: usize) -> String {
        let address = format!("http://{}/", Fleet::address(n));
        self.control().must(["curl", "-fsS", &address])
    }

    /// Which hosts' reloads of haproxy have begun (true) and ended since the last time.
    fn reloads(&self) -> Vec<(usize, bool)> {
        let file = self.control().dir().join(RELOADS);
        let told = read(&file);
        fs::write(file, "").unwrap();
        let event = |line: &str| {
            let (host, what) = line.split_once(' ').unwrap();
            (host.parse().unwrap(), what == "begins")
        };
        told.lines().map(event).collect()
    }

    fn states(&self) -> Vec<State> {
        self.hosts().iter().map(State::of).collect()
    }
}

/// What `service haproxy reload` writes, on each host.
const RELOADS: &str = "reloads";
const CONFIG: &str = "/etc/haproxy/haproxy.cfg";

/// What a roll-out changes on a host, and what it must not.
#[derive(Debug, PartialEq)]
struct State {
    config: String,
    /// Mode, owner and group of the configuration.
    access: String,
    pid: String,
}

impl State {
    fn of(host: &Host) -> State {
        State {
            config: read(host.dir().join("haproxy/haproxy.cfg")),
            access: host.must(["stat", "-c", "%a %U:%G", CONFIG]),
            pid: host.must(["cat", "/run/haproxy.pid"]),
        }
    }
}

fn new_key(host: &Host, name: &str) -> String {
    let file = host.dir().join(name);
    let make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"];
    host.must(make.into_iter().chain(file.to_str()));
    read(file.with_extension("pub"))
}

/// Debian's, on that address alone, with a key and a configuration of its own; and a root that is not
/// locked, as the machine's may be, and whose shell reads nothing of the machine's root.
fn start_sshd(host: &Host, address: &str, authorized: &str) -> Running {
    new_key(host, "host_key");
    host.write("authorized_keys", authorized);
    let dir = host.dir().display();
    let config = format!(
        "ListenAddress {address}\nHostKey {dir}/host_key\nAuthorizedKeysFile {dir}/authorized_keys\n\
         StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n\
         PidFile none\nSubsystem sftp internal-sftp\n"
    );
    let config = host.write("sshd_config", config);
    let shadow = host.write("shadow", "root:*:::::::\n");
    host.bind(shadow, "/etc/shadow").unwrap();
    let others = read("/etc/passwd");
    let others = others.lines().filter(|user| !user.starts_with("root:"));
    let users = iter::once(format!("root:x:0:0:root:{dir}:/bin/sh"));
    let users = users.chain(others.map(str::to_owned));
    let passwd = host.write("passwd", users.map(|user| user + "\n").collect::<String>());
    host.bind(passwd, "/etc/passwd").unwrap();
    host.must(["mkdir", "-m", "755", "/run/sshd"]);
    let log = File::create(host.dir().join("sshd.log")).unwrap();
    let mut sshd = host.command("/usr/sbin/sshd");
    sshd.args(["-D", "-e", "-f"]).arg(config);
    let sshd = host.spawn(sshd.stdin(Stdio::null()).stderr(log)).unwrap();
    host.wait_listen(22).unwrap();
    let shell = host.must(["getent", "passwd", "root"]);
    assert!(shell.trim_end().ends_with(":/bin/sh"), "{shell}");
    sshd
}

/// Its own `/etc/haproxy` and `/usr/local`, with syngate, and haproxy running.
fn furnish(host: &Host) {
    for (name, place) in [("haproxy", "/etc/haproxy"), ("local", "/usr/local")] {
        let own = host.dir().join(name);
        fs::create_dir(&own).unwrap();
        host.bind(own, place).unwrap();
    }
    for dir in ["local/sbin", "local/share"] {
        fs::create_dir(host.dir().join(dir)).unwrap();
    }
    symlink(SYNGATE, host.dir().join("local/sbin/syngate")).unwrap();
    host.write("haproxy/haproxy.cfg", HaproxyConfig::port(80).text());
    // Not for everybody to read.
    host.must(["chown", "root:haproxy", CONFIG]);
    host.must(["chmod", "640", CONFIG]);
    host.must(["service", "haproxy", "start"]);
    host.wait_listen(80).unwrap();
}

/// A program of its own, which comes before the machine's.
fn install(host: &Host, name: &str, script: &str) {
    host.write(&format!("local/sbin/{name}"), script);
    host.must(["chmod", "755", &format!("/usr/local/sbin/{name}")]);
}

#[track_caller]
fn unnoticed(load: Vec<RunningLoad>) -> Vec<LoadReport> {
    let reports: Vec<_> = load.into_iter().map(|load| load.stop().unwrap()).collect();
    for report in &reports {
        assert_eq!(report.failed(), 0, "{report}");
    }
    reports
}

/// What the kernels of some hosts tell of tables that come and go.
struct Gates<'a> {
    hosts: &'a [Host],
    /// On which host; which one; whether it has come.
    events: Receiver<(usize, String, bool)>,
    marks: Cell<u32>,
    _monitors: Vec<Running>,
}

impl Gates<'_> {
    fn watch(hosts: &[Host]) -> Gates<'_> {
        let (tell, events) = channel();
        let monitors = hosts.iter().enumerate().map(|(n, host)| {
            let mut monitor = host.command("nft");
            monitor.arg("monitor").stdin(Stdio::null());
            let mut monitor = host.spawn(monitor.stdout(Stdio::piped())).unwrap();
            let lines = BufReader::new(monitor.stdout().unwrap()).lines();
            let tell = tell.clone();
            thread::spawn(move || {
                for (table, comes) in lines.map_while(Result::ok).filter_map(|l| table(&l)) {
                    let _ = tell.send((n, table, comes));
                }
            });
            monitor
        });
        let gates = Gates {
            hosts,
            _monitors: monitors.collect(),
            events,
            marks: Cell::new(0),
        };
        for (n, host) in hosts.iter().enumerate() {
            let heard = || {
                gates.mark(host);
                let soon = Duration::from_millis(100);
                let next = || gates.events.recv_timeout(soon).ok();
                // Of its own: the marks of those before it may still come.
                iter::from_fn(next).any(|(host, ..)| host == n)
            };
            wait_until(SOON, "nft monitor", heard).unwrap();
        }
        gates.told();
        gates
    }

    /// A table of a new name, which is gone again.
    fn mark(&self, host: &Host) -> String {
        self.marks.set(self.marks.get() + 1);
        let mark = format!("mark_{}", self.marks.get());
        let both = format!("add table inet {mark}; delete table inet {mark}");
        host.must(["nft", &both]);
        mark
    }

    /// Which hosts' gates have come and gone since the last time.
    fn told(&self) -> Vec<(usize, bool)> {
        let mut told = Vec::new();
        for (n, host) in self.hosts.iter().enumerate() {
            let last = (n, self.mark(host), false);
            loop {
                let event = self.events.recv_timeout(SOON).unwrap();
                if event == last {
                    break;
                }
                told.push(event);
            }
        }
        told.retain(|(_, table, _)| table.starts_with("syngate_"));
        told.into_iter().map(|(n, _, comes)| (n, comes)).collect()
    }
}

/// `create table inet NAME`, of nft monitor.
fn table(line: &str) -> Option<(String, bool)> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["add" | "create", "table", _, name, ..] => Some((name.to_owned(), true)),
        ["delete", "table", _, name, ..] => Some((name.to_owned(), false)),
        _ => None,
    }
}

// A fleet ------------------------------------------------------------------------------------------

#[test]
fn a_roll_out_over_ssh_goes_through_a_fleet_unnoticed() {
    let site = Site::new(3);
    let gates = Gates::watch(site.hosts());
    let before = site.states();
    let load = site.load();

    let check = site.playbook("rollout.yml -e greeting=hey --check --diff");
    assert!(check.ok(), "{check:?}");
    for line in [
        "string ok\n",
        "string hey\n",
        "rules while the gate is closed\n",
    ] {
        assert!(check.stdout.contains(line), "{line}: {check:?}");
    }
    assert_eq!((site.reloads(), site.states()), (Vec::new(), before));

    let before = site.states();
    let call = "rollout.yml -e greeting=hello";
    let first = site.playbook(call);
    assert!(first.ok(), "{first:?}");
    let in_turn = (0..3).flat_map(|n| [(n, true), (n, false)]);
    assert_eq!(site.reloads(), in_turn.collect::<Vec<_>>());
    let after = site.states();
    for n in 0..3 {
        assert_eq!(site.greeting(n), "hello");
        assert!(after[n].config.contains("string hello"), "{after:?}");
        assert_ne!(after[n].pid, before[n].pid);
        assert_eq!(after[n].access, before[n].access);
    }
    let new = site.hosts()[0].must(["stat", "-c", "%a", "/etc/haproxy/haproxy.cfg.new"]);
    assert_eq!(new, "600\n");

    // Nor is its mode a reason to reload.
    site.hosts()[0].must(["chmod", "600", CONFIG]);
    let after = site.states();
    let second = site.playbook(call);
    assert!(second.ok(), "{second:?}");
    assert_eq!(
        second.stdout.matches(" changed=0 ").count(),
        3,
        "{second:?}"
    );
    assert_eq!((site.reloads(), site.states()), (Vec::new(), after));

    let mut text = format!("$ ansible-playbook {call}\n{}", first.stdout);
    text += "# meanwhile, at 100 new connections a second to each:\n";
    let reports = unnoticed(load);
    for (n, load) in reports.iter().enumerate() {
        let (sent, failed) = (load.sent, load.failed());
        text += &format!("# lb{}: {sent} connections, {failed} failed\n", n + 1);
    }
    // Nothing stood in the load's way, by syngate's account and the kernel's.
    assert_eq!(
        first.stdout.matches("80 was watched for").count(),
        3,
        "{first:?}"
    );
    assert_eq!(gates.told(), []);
    text += &format!("\n$ ansible-playbook {call}\n[…]\n{}", recap(&second));
    transcript("rollout", &text);
}

/// A reload refuses nobody even without a gate; a restart does.
#[test]
fn a_restart_over_ssh_is_unnoticed_where_a_bare_one_is_not() {
    let site = Site::new(1);
    let gates = Gates::watch(site.hosts());
    let bare = site.load();
    site.hosts()[0].must(["service", "haproxy", "restart"]);
    let [bare] = <[_; 1]>::try_from(bare).unwrap();
    let bare = bare.stop().unwrap();
    assert!(bare.refused > 0, "{bare}");
    assert_eq!(gates.told(), []);

    let load = site.load();
    let task = json!({"port": 80, "service": "haproxy", "state": "restarted"});
    let (results, _) = site.tasks(&json!({}), &[task]);
    assert_eq!(results[0]["failed"], false, "{results:#?}");
    assert_eq!(gates.told(), []);
    unnoticed(load);
    let parked = &results[0]["report"]["park"]["parked"];
    assert!(parked.as_u64() > Some(0), "{results:#?}");
}

/// What a host is told of its own configuration is invalid; that of the others is not.
#[test]
fn an_invalid_configuration_stops_a_roll_out_over_ssh() {
    let site = Site::new(3);
    let before = site.states();
    let load = site.load();
    site.inventory(&BTreeMap::from([(1, "client_timeout=50x")]));

    // Check mode tests them too.
    let ran = site.playbook("rollout.yml -e greeting=hey --check");
    assert_eq!(ran.code(), 2, "{ran:?}");
    assert!(ran.stdout.contains("unexpected character 'x'"), "{ran:?}");

    // All are tested before any is touched.
    let call = "rollout.yml -e greeting=hello";
    let ran = site.playbook(call);
    assert_eq!(ran.code(), 2, "{ran:?}");
    assert!(ran.stdout.contains("unexpected character 'x'"), "{ran:?}");
    assert!(!ran.stdout.contains("[Roll it out]"), "{ran:?}");
    assert_eq!((site.reloads(), site.states()), (Vec::new(), before));
    let said = format!("$ ansible-playbook {call}\n[…]\n{}", recap(&ran));
    transcript("invalid", &said);

    // Without that test, --precheck stops it at that host, before anything is gated there.
    let before = site.states();
    let ran = site.playbook(&format!("{call} --skip-tags test"));
    assert_eq!(ran.code(), 2, "{ran:?}");
    assert!(ran.stdout.contains("--precheck"), "{ran:?}");
    assert_eq!(site.reloads(), [(0, true), (0, false)]);
    let after = site.states();
    assert_ne!(after[0], before[0]);
    assert_eq!(after[1..], before[1..]);

    // Once it is mended, the next run does the rest.
    site.inventory(&BTreeMap::new());
    let ran = site.playbook(call);
    assert!(ran.ok(), "{ran:?}");
    let rest = [(1, true), (1, false), (2, true), (2, false)];
    assert_eq!(site.reloads(), rest);
    unnoticed(load);
}

/// With a configuration that is valid, but serves elsewhere, nobody listens after the reload.
#[test]
fn a_reload_over_ssh_that_ran_and_failed_is_taken_back() {
    let site = Site::new(2);
    let template = site.control().dir().join("haproxy.cfg.j2");
    let elsewhere = read(&template).replace(":80", ":{{ web | default(80) }}");
    fs::write(template, elsewhere).unwrap();
    let [before, other] = <[State; 2]>::try_from(site.states()).unwrap();
    let call = "rollout.yml -e greeting=hello";
    site.inventory(&BTreeMap::from([(0, "web=81")]));
    let ran = site.playbook(call);
    assert_eq!(ran.code(), 2, "{ran:?}");
    assert!(ran.stdout.contains("\"rc\": 124"), "{ran:?}");
    let twice = [(0, true), (0, false), (0, true), (0, false)];
    assert_eq!(site.reloads(), twice, "{ran:?}");
    let host = &site.hosts()[0];
    let after = State::of(host);
    assert_eq!(
        (&after.config, &after.access),
        (&before.config, &before.access)
    );
    assert_ne!(after.pid, before.pid);
    assert_eq!(site.greeting(0), "ok");
    assert_eq!(State::of(&site.hosts()[1]), other);
    assert!(!pending(host));

    // It may have seen the new one, where nobody knows.
    site.inventory(&BTreeMap::new());
    replace_syngate(host, &lost_at_first());
    let before = after;
    let ran = site.playbook(&format!("{call} --limit lb1"));
    assert_eq!(ran.code(), 2, "{ran:?}");
    assert!(ran.stdout.contains("\"msg\": \"lost\""), "{ran:?}");
    assert_eq!(site.reloads(), twice, "{ran:?}");
    let after = State::of(host);
    assert_eq!(
        (&after.config, &after.access),
        (&before.config, &before.access)
    );
    assert_eq!(site.greeting(0), "ok");
    assert!(!pending(host));

    // It has seen the new one, and ended by a status that syngate has for what was not run.
    let script = format!(
        "#!/bin/sh\nseen=/usr/local/seen\n[ ! -e $seen ] || exec {SYNGATE} \"$@\"\n: >$seen\n\
         until [ \"$1\" = -- ]; do\n\
         case $1 in --precheck=*) ;; *) options=\"$options $1\" ;; esac; shift\n\
         done; shift\n\
         exec {SYNGATE} $options -- sh -c '\"$@\"; nosuchhelper' sh \"$@\"\n"
    );
    replace_syngate(host, &script);
    let ran = site.playbook(&format!("{call} --limit lb1"));
    assert_eq!(ran.code(), 2, "{ran:?}");
    assert!(ran.stdout.contains("exited with status 127"), "{ran:?}");
    assert_eq!(site.reloads(), twice, "{ran:?}");
    assert_eq!(State::of(host).config, before.config);
    assert_eq!(site.greeting(0), "ok");
    assert!(!pending(host));

    // Where there was none, none is left; haproxy runs on.
    site.inventory(&BTreeMap::from([(0, "client_timeout=50x")]));
    let config = host.dir().join("haproxy/haproxy.cfg");
    fs::remove_file(&config).unwrap();
    let ran = site.playbook(&format!("{call} --skip-tags test"));
    assert_eq!(ran.code(), 2, "{ran:?}");
    assert!(ran.stdout.contains("--precheck"), "{ran:?}");
    assert_eq!(site.reloads(), []);
    assert!(!config.exists() && !pending(host));
    assert_eq!(site.greeting(0), "ok");

    site.inventory(&BTreeMap::new());
    let ran = site.playbook(call);
    assert!(ran.ok(), "{ran:?}");
    assert_eq!(
        (site.greeting(0), site.greeting(1)),
        ("hello".into(), "hello".into())
    );
}

/// The program that rolls out is killed when the new configuration is installed, and not yet in use.
#[test]
fn a_roll_out_over_ssh_that_is_broken_off_goes_on_where_it_was() {
    let site = Site::new(3);
    let call = "rollout.yml -e greeting=hello";
    let host = &site.hosts()[1];
    let reached = host.dir().join("reached");
    let hangs = format!("#!/bin/sh\n: >'{}'\nexec sleep 1000\n", reached.display());
    replace_syngate(host, &hangs);
    let mut playbook = ansible(site.control(), "ansible-playbook");
    let playbook = playbook.args(words(call)).stdout(Stdio::null());
    let mut playbook = site.control().spawn(playbook).unwrap();
    wait_until(LONG, "the second host", || reached.exists()).unwrap();
    playbook.signal(Signal::SIGKILL).unwrap();
    playbook.wait().unwrap();
    assert_eq!(site.reloads(), [(0, true), (0, false)]);
    assert!(State::of(host).config.contains("string hello") && pending(host));
    assert_eq!(site.greeting(1), "ok");

    replace_syngate(host, &format!("#!/bin/sh\nexec {SYNGATE} \"$@\"\n"));
    let ran = site.playbook(call);
    assert!(ran.ok(), "{ran:?}");
    assert_eq!(
        site.reloads(),
        [(1, true), (1, false), (2, true), (2, false)]
    );
    for n in 0..3 {
        assert_eq!(site.greeting(n), "hello");
        assert!(!pending(&site.hosts()[n]));
    }
    let ran = site.playbook(call);
    assert_eq!(ran.stdout.matches(" changed=0 ").count(), 3, "{ran:?}");
    assert_eq!(site.reloads(), []);
}

/// A syngate whose module does not live to tell that it was run; that of the second run does.
fn lost_at_first() -> String {
    format!(
        "#!/bin/sh\n\
         lost=/usr/local/lost\n\
         [ ! -e $lost ] || exec {SYNGATE} \"$@\"\n\
         : >$lost\n\
         {SYNGATE} \"$@\"\n\
         echo '{{\"failed\": true, \"msg\": \"lost\"}}' >/proc/$PPID/fd/1\n\
         kill -KILL $PPID\n"
    )
}

fn replace_syngate(host: &Host, script: &str) {
    host.must(["rm", "/usr/local/sbin/syngate"]);
    install(host, "syngate", script);
}

/// Whether a roll-out has left there what it would put back.
fn pending(host: &Host) -> bool {
    host.dir().join("haproxy/haproxy.cfg.old").exists()
}

#[test]
fn a_plain_handler_over_ssh_reloads_without_a_rule_or_a_delay() {
    let site = Site::new(1);
    let gates = Gates::watch(site.hosts());
    let load = site.load();
    for changed in [2, 0] {
        let ran = site.playbook("handler.yml -e greeting=hello");
        assert!(ran.ok(), "{ran:?}");
        assert!(
            ran.stdout.contains(&format!(" changed={changed} ")),
            "{ran:?}"
        );
        assert_eq!(gates.told(), [], "{ran:?}");
        assert_eq!(site.greeting(0), "hello");
    }
    unnoticed(load);
    let call = "ansible.builtin.command: syngate --port 80,443 --syn auto --reload -- service haproxy reload";
    for file in ["README.md", "examples/handler.yml"] {
        assert!(read(contrib(file)).contains(call), "{file}");
    }
}

// Transcripts ------------------------------------------------------------------------------------

fn recap(ran: &Ran) -> &str {
    &ran.stdout[ran.stdout.find("PLAY RECAP").unwrap()..]
}

/// What README shows between the marks of that name is what was said, but for the figures.
/// SYNGATE_TRANSCRIPT=write makes it so.
fn transcript(name: &str, text: &str) {
    let [begin, end] = ["begin", "end"].map(|mark| format!("<!-- {name}: {mark} -->\n"));
    let lines = text.trim_end().lines().map(|line| match line.trim_end() {
        "" => "\n".to_owned(),
        line => format!("    {line}\n"),
    });
    let block = format!("\n{}\n", lines.collect::<String>());

    // Tests run side by side.
    static FILE: Mutex<()> = Mutex::new(());
    let _turn = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let file = contrib("README.md");
    let readme = read(&file);
    let (head, rest) = readme.split_once(&begin).expect("where it begins");
    let (shown, tail) = rest.split_once(&end).expect("where it ends");
    if std::env::var("SYNGATE_TRANSCRIPT").is_ok_and(|v| v == "write") {
        fs::write(&file, format!("{head}{begin}{block}{end}{tail}")).unwrap();
        return;
    }
    let hint = "SYNGATE_TRANSCRIPT=write writes it";
    assert_eq!(masked(shown), masked(&block), "{hint}");
}

/// Without figures, and the order of what hosts do side by side, which differ from run to run; the
/// recap's figures are exact.
fn masked(text: &str) -> String {
    let word = |word: &str| match word.trim_end_matches([',', ';']) {
        "SYN" | "SYNs" => "SYNs".to_owned(),
        "s" | "ms" => "ms".to_owned(),
        number if number.parse::<f64>().is_ok() => "0".to_owned(),
        _ => word.to_owned(),
    };
    let line = |line: &str| {
        // Whether a connection waited differs, too.
        let (told, _) = line.split_once(" was watched for ").unwrap_or((line, ""));
        told.split(' ').map(word).collect::<Vec<_>>().join(" ")
    };
    let mut lines: Vec<String> = text.lines().map(line).collect();
    lines
        .chunk_by_mut(|a, b| is_host(a) && is_host(b))
        .for_each(<[String]>::sort);
    lines.join("\n")
}

/// `changed: [lb1]`.
fn is_host(line: &str) -> bool {
    let line = line.trim();
    line.starts_with("ok: [") || line.starts_with("changed: [")
}

// The module ---------------------------------------------------------------------------------------

#[test]
fn the_module_over_ssh_tells_what_the_report_tells() {
    let site = Site::new(1);
    let host = &site.hosts()[0];
    let [mark, kept] = ["ran", "kept.json"].map(|name| host.dir().join(name));
    let (rules, pid) = (host.ruleset(), State::of(host).pid);
    let touch = format!("touch '{}'", mark.display());
    let command = json!({"port": 80, "cmd": touch, "settle": "10ms", "report_file": kept});
    let service = json!({"port": ["80"], "service": "haproxy", "state": "restarted", "syn": "drop",
        "drain_until": "handshakes", "best_effort": false, "verbose": true});
    let warned = json!({"port": "80,8443", "argv": ["true"], "settle": "10ms"});
    let latin1 = r"printf 'caf\351\n'; printf 'caf\351\n' >&2";
    let latin1 = json!({"port": 80, "argv": ["sh", "-c", latin1], "settle": "10ms"});
    let words = json!({"port": 80, "argv": ["echo", "$HOME", "~"], "settle": "10ms"});
    let (results, ran) = site.tasks(&json!({}), &[command, service, warned, latin1, words]);
    for result in &results {
        assert_eq!(result["changed"], true, "{result:#}");
        assert_eq!(
            (&result["failed"], &result["rc"]),
            (&json!(false), &json!(0))
        );
        assert_eq!(result["msg"], result["report"]["message"]);
    }

    // A command, and a report that stays.
    let report: Value = serde_json::from_str(&read(&kept)).unwrap();
    assert_eq!(results[0]["report"], report);
    assert_eq!(report["command"], json!(["touch", mark]));
    assert!(mark.exists());
    // A service, whose new process serves.
    let command = &results[1]["report"]["command"];
    assert_eq!(*command, json!(["service", "haproxy", "restart"]));
    assert!(results[1]["stderr"].as_str().unwrap().contains("drained"));
    assert_ne!(State::of(host).pid, pid);
    assert_eq!(site.greeting(0), "ok");
    // What is not UTF-8 is no part of a result, and no reason to have none.
    assert_eq!(results[3]["stdout"], "caf\u{fffd}\n");
    let said = results[3]["stderr"].as_str().unwrap();
    assert!(said.contains("caf\u{fffd}\n"), "{said}");
    // No shell is in between.
    assert_eq!(results[4]["stdout"], "$HOME ~\n");
    // syngate's warnings are Ansible's.
    assert!(ran.stderr.contains("nobody listens on 8443"), "{ran:?}");
    assert_eq!(host.ruleset(), rules);
}

#[test]
fn the_module_over_ssh_fails_as_syngate_does() {
    let site = Site::new(1);
    let host = &site.hosts()[0];
    let mark = host.dir().join("ran");
    let older = host.write(
        "older.json",
        r#"{"message": "of another run", "outcome": "ok"}"#,
    );
    let touch = json!(["touch", mark]);
    let gone = host.dir().join("gone");
    fs::create_dir(&gone).unwrap();
    let mut cases = [
        // It ran, and failed.
        (json!({"cmd": "sh -c 'exit 7'"}), 7, "exited with status 7"),
        // By a status of syngate's own. The second one has no report, as its folder is gone.
        (
            json!({"cmd": "sh -c nosuchhelper"}),
            127,
            "exited with status 127",
        ),
        (
            json!({"argv": ["sh", "-c", format!("rm -r {gone}; exit 126", gone = gone.display())],
                "report_file": gone.join("report.json")}),
            126,
            "exited with status 126",
        ),
        // It was not run.
        (
            json!({"argv": touch, "precheck": "echo maxcorn; false"}),
            125,
            "--precheck",
        ),
        (json!({"argv": touch, "drain": "5"}), 125, "--drain: '5'"),
        (
            json!({"argv": touch, "drain": "5", "report_file": older}),
            125,
            "--drain: '5'",
        ),
        (json!({"argv": ["nosuch"]}), 127, "nosuch is not in PATH"),
        (json!({"argv": []}), 125, "COMMAND"),
        // syngate was not even called.
        (json!({"argv": touch, "hook": "output"}), 0, "hook"),
        (
            json!({"argv": touch, "cmd": "true"}),
            0,
            "mutually exclusive",
        ),
        (json!({"cmd": "echo 'half"}), 0, "quotation"),
        (json!({"service": "haproxy"}), 0, "state"),
        (
            json!({"argv": touch, "state": "restarted"}),
            0,
            "mutually exclusive",
        ),
        (json!({"argv": touch, "no_precheck": true}), 0, "profile"),
        (
            json!({"profile": "nobody"}),
            125,
            "there is no profile /etc/syngate/nobody.conf",
        ),
        (
            json!({"profile": "nobody", "state": "restarted"}),
            125,
            "nobody is no service here",
        ),
        (json!({}), 0, "service"),
        (
            json!({"argv": touch, "executable": "nosuch"}),
            127,
            "no program nosuch",
        ),
    ];
    cases
        .iter_mut()
        .for_each(|(task, ..)| task["port"] = 80.into());
    let tasks = cases.each_ref().map(|(task, ..)| task.clone());
    let (results, _) = site.tasks(&json!({}), &tasks);
    for ((task, status, says), result) in cases.iter().zip(results) {
        assert_eq!(result["failed"], true, "{task}: {result:#}");
        let was_run = says.starts_with("exited with status");
        assert_eq!(result["changed"], was_run, "{task}: {result:#}");
        assert_eq!(
            result["rc"].as_i64().unwrap_or(0),
            *status,
            "{task}: {result:#}"
        );
        for name in OF_A_CALL {
            let called = task.get("executable").is_none() || name == "rc";
            let is = result.get(name).is_some();
            assert_eq!(is, *status != 0 && called, "{name}: {task}: {result:#}");
        }
        let message = result["msg"].as_str().unwrap();
        assert!(message.contains(says), "{task}: {result:#}");
    }
    assert!(!mark.exists() && !gated(host));

    // Nothing was run, so that is no success.
    let dry = json!({"environment": {"SYNGATE_DRY_RUN": "1"}});
    let (results, _) = site.tasks(&dry, &[json!({"port": 80, "argv": touch})]);
    assert_eq!(results[0]["failed"], true, "{results:#?}");
    assert_eq!(results[0]["changed"], false, "{results:#?}");
    assert!(!mark.exists());
}

#[test]
fn check_mode_over_ssh_shows_the_rules_and_does_nothing() {
    let site = Site::new(1);
    let host = &site.hosts()[0];
    let [mark, checked] = ["ran", "checked"].map(|name| host.dir().join(name));
    let gates = Gates::watch(site.hosts());
    let touch = json!(["touch", mark]);
    let good = json!({"port": "80", "argv": touch, "syn": "drop", "allow_from": ["192.0.2.7", "2001:db8::/64"],
        "precheck": format!("touch {}", checked.display())});
    let bad = json!({"port": "80", "argv": touch, "drain": "5"});
    // As systemd's own sd_booted(3) sees it.
    host.must(["mkdir", "-p", "/run/systemd/system"]);
    let unit = json!({"port": "80", "service": "haproxy", "state": "reloaded"});
    let keywords = json!({"check_mode": true, "diff": true});
    let (results, ran) = site.tasks(&keywords, &[good, bad, unit]);
    assert!(!mark.exists() && !checked.exists());
    assert_eq!(gates.told(), []);

    assert_eq!(results[0]["changed"], true, "{results:#?}");
    assert_eq!(results[0]["failed"], false, "{results:#?}");
    assert_eq!(results[0]["report"], Value::Null);
    let plan = results[0]["stdout"].as_str().unwrap();
    assert!(plan.contains("# drain at most"), "{plan}");
    // The rules are lines that would be added; of the plan there is none.
    for line in [
        "+table inet syngate_",
        "elements = { 80 timeout 30s }",
        "192.0.2.7",
    ] {
        assert!(ran.stdout.contains(line), "{line}: {ran:?}");
    }
    assert!(!ran.stdout.contains("drain at most"), "{ran:?}");

    assert_eq!(results[1]["changed"], false, "{results:#?}");
    assert_eq!(results[1]["failed"], true, "{results:#?}");
    let message = results[1]["msg"].as_str().unwrap();
    assert!(message.contains("--drain: '5'"), "{message}");
    let message = results[2]["msg"].as_str().unwrap();
    assert!(message.contains("systemctl reload haproxy"), "{message}");
}

/// What is given counts, `false` and `[]` too, also where the environment has another value.
#[test]
fn options_over_ssh_that_are_given_are_not_the_environments() {
    let site = Site::new(1);
    let given = json!({"port": "80", "argv": ["true"], "syn": "drop", "allow_local": false, "allow_from": []});
    let left = json!({"port": "80", "argv": ["true"], "syn": "drop"});
    let keywords = json!({"check_mode": true, "environment":
        {"SYNGATE_ALLOW_LOCAL": "1", "SYNGATE_ALLOW_FROM": "192.0.2.7"}});
    let (results, _) = site.tasks(&keywords, &[given, left]);
    for (result, theirs) in results.iter().zip([false, true]) {
        assert_eq!(result["failed"], false, "{result:#}");
        let rules = result["stdout"].as_str().unwrap();
        for rule in ["\"lo\"", "192.0.2.7"] {
            assert_eq!(rules.contains(rule), theirs, "{rule}: {rules}");
        }
    }
}

/// A client notices least by `auto`, and of a reload by what is for reloads.
#[test]
fn the_module_over_ssh_takes_what_delays_clients_least() {
    let site = Site::new(1);
    let task = |state: &str| json!({"port": 80, "service": "haproxy", "state": state});
    let with = |state: &str, more: Value| {
        let mut task = task(state);
        let more = more.as_object().unwrap().clone();
        task.as_object_mut().unwrap().extend(more);
        task
    };
    let tasks = [
        (task("reloaded"), "handover"),
        (task("restarted"), "park"),
        (with("reloaded", json!({"reload": false})), "park"),
        (with("reloaded", json!({"syn": "drop"})), "drop"),
    ];
    let (results, _) = site.tasks(&json!({}), &tasks.clone().map(|(task, _)| task));
    for ((task, action), result) in tasks.iter().zip(&results) {
        assert_eq!(result["failed"], false, "{task}: {result:#}");
        assert_eq!(result["report"]["action"], *action, "{task}: {result:#}");
    }
    // What the host is told counts more than the module's default.
    let keywords = json!({"environment": {"SYNGATE_SYN": "drop"}});
    let (results, _) = site.tasks(&keywords, &[task("reloaded")]);
    assert_eq!(results[0]["report"]["action"], "drop", "{results:#?}");
}

/// Ports and test are found, and options stand in a profile.
#[test]
fn a_service_over_ssh_is_called_by_its_name() {
    let site = Site::new(1);
    let host = &site.hosts()[0];
    let profiles = "mkdir -p /etc/syngate; echo settle=100ms >/etc/syngate/haproxy.conf;
                    printf '%s\\n' port=80 'command=echo done' >/etc/syngate/shop.conf";
    host.must(["sh", "-ec", profiles]);
    let test = "--precheck 'haproxy -c -f /etc/haproxy/haproxy.cfg'";
    let tasks = [
        (
            json!({"profile": "haproxy", "state": "restarted"}),
            "park",
            "service haproxy restart",
        ),
        (
            json!({"profile": "haproxy", "state": "reloaded", "no_precheck": true}),
            "handover",
            "service haproxy reload",
        ),
        (
            json!({"profile": "shop", "syn": "drop"}),
            "drop",
            "echo done",
        ),
    ];
    let called = tasks.clone().map(|(task, ..)| task);
    let (results, _) = site.tasks(&json!({}), &called);
    for ((task, action, command), result) in tasks.iter().zip(&results) {
        assert_eq!(result["failed"], false, "{task}: {result:#}");
        assert_eq!(result["changed"], true, "{task}: {result:#}");
        let report = &result["report"];
        assert_eq!(report["action"], *action, "{task}: {result:#}");
        assert_eq!(
            report["command"],
            json!(words(command)),
            "{task}: {result:#}"
        );
        assert_eq!(report["ports"], json!(["80"]), "{task}: {result:#}");
    }
    let (results, _) = site.tasks(&json!({"check_mode": true}), &called);
    for ((task, _, command), result) in tasks.iter().zip(&results) {
        assert_eq!(
            result["msg"],
            format!("{command} would be run by syngate"),
            "{task}: {result:#}"
        );
    }
    let plan = results[0]["stdout"].as_str().unwrap();
    let form = format!(
        "# syngate --port 80 --syn auto --settle 100ms {test} -- service haproxy restart\n"
    );
    assert!(plan.starts_with(&form), "{plan}");
}

// The role -----------------------------------------------------------------------------------------

/// Nothing is installed, by its own dpkg and apt, whose lists are yet to be fetched; and nftables can be
/// had from a folder, where it is an empty package.
fn has_no_packages(host: &Host) {
    let built = r#"
        mkdir -p dpkg/info dpkg/updates lists/lists/partial cache/archives/partial etc/apt.conf.d log
        mkdir -p offer/nftables/DEBIAN
        printf '%s\n' 'Package: nftables' 'Version: 1' 'Architecture: all' \
            'Maintainer: nobody <nobody@localhost>' 'Description: empty' >offer/nftables/DEBIAN/control
        dpkg-deb --root-owner-group --build offer/nftables offer
        (cd offer && dpkg-scanpackages . >Packages)
        : >dpkg/status
        echo "deb [trusted=yes] file:$PWD/offer ./" >etc/sources.list
        echo 'APT::Sandbox::User "root";' >etc/apt.conf
        touch -d @0 lists/lists
    "#;
    let apt = host.dir().join("apt");
    fs::create_dir(&apt).unwrap();
    must(Command::new("sh").args(["-ec", built]).current_dir(&apt));
    for (own, place) in [
        ("dpkg", "/var/lib/dpkg"),
        ("lists", "/var/lib/apt"),
        ("cache", "/var/cache/apt"),
        ("etc", "/etc/apt"),
        ("log", "/var/log"),
    ] {
        host.bind(apt.join(own), place).unwrap();
    }
}

#[test]
fn the_role_over_ssh_installs_what_make_installs() {
    let site = Site::new(1);
    let (control, host) = (site.control(), &site.hosts()[0]);
    has_no_packages(host);
    let local = host.dir().join("local");
    for own in ["syngate", "service"] {
        fs::remove_file(local.join("sbin").join(own)).unwrap();
    }
    let [binary, dist] = ["syngate", "dist"].map(|name| control.dir().join(name));
    // Without what debuggers want, as a release.
    must(Command::new("strip").arg("-o").arg(&binary).arg(SYNGATE));
    let mut make = Command::new("make");
    make.args(["--silent", "install", "PREFIX="])
        .current_dir(source(""));
    make.arg(format!("BUILT={}", binary.display()));
    must(make.arg(format!("DESTDIR={}", dist.display())));

    let call = format!("install.yml -e syngate_from={}", dist.display());
    let check = site.playbook(&format!("{call} --check --diff"));
    assert!(check.stdout.contains(" changed=3 "), "{check:?}");
    assert!(!local.join("sbin/syngate").exists());
    for changed in [4, 0] {
        let ran = site.playbook(&call);
        assert!(ran.ok(), "{ran:?}");
        assert!(
            ran.stdout.contains(&format!(" changed={changed} ")),
            "{ran:?}"
        );
    }
    must(Command::new("diff").arg("-r").args([&dist, &local]));
    let query = "dpkg-query -W -f '${Package} ${Status}'";
    let installed = host.sh(query).unwrap().stdout;
    assert_eq!(installed, "nftables install ok installed");
    let mode = "stat -c '%a %U' /usr/local/sbin/syngate /usr/local/share/man/man8/syngate.8";
    assert_eq!(host.sh(mode).unwrap().stdout, "755 root\n644 root\n");

    // With no archive in reach, and lists that are old; folders that are not there are made.
    let gone = "rm -r offer lists/periodic; touch -d @0 lists/lists";
    must(
        Command::new("sh")
            .args(["-c", gone])
            .current_dir(host.dir().join("apt")),
    );
    host.must(["mkdir", "-m", "750", "/usr/local/own"]);
    let installs = |changed: usize| {
        let ran = site.playbook(&format!("{call} -e syngate_prefix=/usr/local/own"));
        let said = format!(" changed={changed} ");
        assert!(ran.ok() && ran.stdout.contains(&said), "{ran:?}");
        must(
            Command::new("diff")
                .arg("-r")
                .arg(&dist)
                .arg(local.join("own")),
        );
    };
    installs(3);
    let mode = "cd /usr/local/own && stat -c %a . sbin share";
    assert_eq!(host.sh(mode).unwrap().stdout, "750\n755\n755\n");

    // The tarball brings libraries.
    fs::create_dir_all(dist.join("lib/syngate")).unwrap();
    fs::write(dist.join("lib/syngate/libmnl.so.0"), "a library").unwrap();
    installs(1);

    // The tarball as it is has the same.
    let machine = must(Command::new("uname").arg("-m"));
    let tarball = format!("syngate-1-{}-linux-gnu.tar.gz", machine.trim());
    let mut tar = Command::new("tar");
    tar.arg("-czf").arg(control.dir().join(&tarball));
    must(tar.arg("-C").arg(control.dir()).arg("dist"));
    let prefix = "-e syngate_prefix=/usr/local/own";
    let from = |file: &str| {
        let file = control.dir().join(file);
        site.playbook(&format!(
            "install.yml {prefix} -e syngate_from={}",
            file.display()
        ))
    };
    let ran = from(&tarball);
    assert!(ran.ok() && ran.stdout.contains(" changed=0 "), "{ran:?}");
    must(Command::new("rm").args(["-r"]).arg(local.join("own/sbin")));
    let ran = from(&tarball);
    assert!(ran.ok() && ran.stdout.contains(" changed=1 "), "{ran:?}");
    let same = [&dist, &local.join("own")];
    must(Command::new("diff").arg("-r").args(same));

    // Nowhere to install from, and what is for others.
    let other = if machine.trim() == "aarch64" {
        "amd64"
    } else {
        "arm64"
    };
    let ran = from(&format!("syngate_1_{other}.deb"));
    let says = format!("and this host is {}", machine.trim());
    assert!(!ran.ok() && ran.stdout.contains(&says), "{ran:?}");
    let ran = site.playbook("install.yml");
    assert!(!ran.ok() && ran.stdout.contains("syngate_from"), "{ran:?}");
}

/// Its files go to a /usr/sbin of the host's own.
#[test]
fn the_role_over_ssh_installs_a_package() {
    let site = Site::new(1);
    let (control, host) = (site.control(), &site.hosts()[0]);
    has_no_packages(host);
    let overlay = "mkdir /run/sbin /run/sbin.work && mount -t overlay overlay -o \
                   lowerdir=/usr/sbin,upperdir=/run/sbin,workdir=/run/sbin.work /usr/sbin";
    assert!(host.sh(overlay).unwrap().ok());
    let built = r#"
        mkdir -p tree/DEBIAN tree/usr/sbin
        printf '%s\n' 'Package: syngate' "Version: $1" 'Architecture: all' 'Depends: nftables' \
            'Maintainer: nobody <nobody@localhost>' 'Description: a package' >tree/DEBIAN/control
        printf '#!/bin/sh\necho package %s\n' "$1" >tree/usr/sbin/syngate
        chmod 755 tree/usr/sbin/syngate
        dpkg-deb --root-owner-group --build tree "syngate_$1.deb"
    "#;
    for version in ["1", "2"] {
        let mut sh = Command::new("sh");
        sh.args(["-ec", built, "sh", version]);
        must(sh.current_dir(control.dir()));
    }
    let install = |file: &str, arguments: &str| {
        let file = control.dir().join(file);
        let call = format!("install.yml -e syngate_from={} {arguments}", file.display());
        site.playbook(&call)
    };
    let installed = || host.sh("/usr/sbin/syngate; ls -d /tmp/*.syngate").unwrap();
    for (file, arguments, changed, now) in [
        ("syngate_1.deb", "", 1, "package 1\n"),
        ("syngate_2.deb", "--check", 1, "package 1\n"),
        ("syngate_2.deb", "", 1, "package 2\n"),
        ("syngate_2.deb", "", 0, "package 2\n"),
    ] {
        let ran = install(file, arguments);
        let said = format!(" changed={changed} ");
        assert!(ran.ok() && ran.stdout.contains(&said), "{file}: {ran:?}");
        assert_eq!(installed().stdout, now, "{file} {arguments}");
    }

    // This is no host for an rpm, but it is dnf that is asked.
    control.write("syngate-1.noarch.rpm", "");
    let ran = install("syngate-1.noarch.rpm", "");
    let asked = ran.stdout.find("Install it with dnf] ").unwrap();
    assert!(!ran.ok() && ran.stdout[asked..].contains("dnf"), "{ran:?}");
    assert!(ran.stdout[asked..].contains("Remove the folder"), "{ran:?}");
    let no_apt = "Install it by the lists of packages that are there] ***\nskipping: [lb1]";
    assert!(ran.stdout.contains(no_apt), "{ran:?}");
}

// Documents ----------------------------------------------------------------------------------------

/// Its documentation has syngate's options of a run, as clap has them, where check mode is Ansible's
/// word for --dry-run; and it takes what it documents.
#[test]
fn the_module_has_each_option_of_syngate_and_no_other() {
    let host = Host::new().unwrap();
    install_collection(&host);
    let doc = must(ansible(&host, "ansible-doc").args(["--json", MODULE]));
    let doc: Value = serde_json::from_str(&doc).unwrap();
    let options = doc[MODULE]["doc"]["options"].as_object().unwrap();

    let script = "import json, sys; sys.path.insert(0, sys.argv[1]); import syngate; \
                  print(json.dumps(syngate.ARGUMENTS))";
    let mut python = ansible(&host, "python");
    python
        .args(["-B", "-c", script])
        .arg(contrib("plugins/modules"));
    let taken: Value = serde_json::from_str(&must(&mut python)).unwrap();
    let spec = options.iter().map(|(name, option)| {
        let mut option = option.as_object().unwrap().clone();
        option.remove("description").unwrap();
        (name.clone(), Value::from(option))
    });
    assert_eq!(taken, Value::Object(spec.collect()));

    let mut program = Args::command();
    program.build();
    let of_runs = program.get_arguments().filter(|arg| {
        let not_ours = ["help", "version", "dry_run"];
        !arg.is_positional() && !not_ours.contains(&arg.get_id().as_str())
    });
    let mut real = BTreeSet::from(OWN.map(str::to_owned));
    for arg in of_runs {
        let name = arg.get_long().unwrap().replace('-', "_");
        let option = options.get(&name).unwrap_or_else(|| panic!("no {name}"));
        assert_told(arg, &name, option);
        real.insert(name);
    }
    assert_eq!(options.keys().cloned().collect::<BTreeSet<_>>(), real);

    for (name, value) in doc[MODULE]["return"].as_object().unwrap() {
        let always = !OF_A_CALL.contains(&name.as_str());
        assert_eq!(value["returned"] == "always", always, "{name}");
    }
}

/// Type, words and default are those of the option of syngate's.
#[track_caller]
fn assert_told(arg: &clap::Arg, name: &str, option: &Value) {
    let takes_value = arg.get_action().takes_values();
    let kind = match arg.get_value_names().map(|names| names[0].as_str()) {
        _ if !takes_value => "bool",
        _ if matches!(arg.get_action(), clap::ArgAction::Append) => "list",
        Some("N" | "NUM") => "int",
        Some("PATH") => "path",
        _ => "str",
    };
    assert_eq!(option["type"], kind, "{name}");
    if !takes_value {
        return;
    }
    let told = option["description"].to_string();
    let values = arg.get_possible_values();
    let values: Vec<&str> = values.iter().map(|value| value.get_name()).collect();
    for value in &values {
        assert!(
            told.contains(&format!("V({value})")) || name == "backend",
            "{name}: {value}"
        );
    }
    // One of --syn's has an argument of its own, and its default is the module's.
    if name == "syn" {
        assert!(told.contains("The module's default is V(auto)"), "{told}");
        return;
    }
    if !values.is_empty() {
        assert_eq!(option["choices"], json!(values), "{name}");
    }
    if let Some(default) = arg.get_default_values().first() {
        let phrase = format!("default is V({})", default.to_str().unwrap());
        assert!(told.contains(&phrase), "{name}: {phrase}");
    }
}

/// README names the oldest Python that it needs; one that is older than ours can but read it.
#[test]
fn the_module_is_written_in_the_python_that_its_readme_names() {
    let host = Host::new().unwrap();
    let script = "import ast, pathlib, sys; \
                  ast.parse(pathlib.Path(sys.argv[1]).read_text(), feature_version=(3, 8))";
    let mut python = ansible(&host, "python");
    python.args(["-c", script]);
    must(python.arg(contrib("plugins/modules/syngate.py")));
    assert!(read(contrib("README.md")).contains("Python 3.8 or newer"));
}

#[test]
fn the_readme_names_the_ansible_that_is_tested() {
    let pinned = read(contrib("requirements-test.txt"));
    let mut pinned = pinned.lines();
    let version = pinned.find_map(|line| line.strip_prefix("ansible-core=="));
    let tested = format!("ansible-core {} ", version.unwrap());
    assert!(read(contrib("README.md")).contains(&tested), "{tested}");
}

/// No markup is left, as `C(true)`.
#[track_caller]
fn assert_rendered(page: &str) {
    let bytes = page.as_bytes().windows(2);
    let markup = |two: &[u8]| two[0].is_ascii_uppercase() && two[1] == b'(';
    assert!(!bytes.into_iter().any(markup), "{page}");
}

#[test]
fn ansible_doc_and_ansible_lint_have_no_complaint() {
    let host = Host::new().unwrap();
    install_collection(&host);
    let page = run(ansible(&host, "ansible-doc").arg(MODULE));
    assert!(page.ok() && page.stderr.is_empty(), "{page:?}");
    for part in [
        "OPTIONS",
        "precheck",
        "EXAMPLES",
        "RETURN VALUES",
        "ATTRIBUTES",
    ] {
        assert!(page.stdout.contains(part), "{part}: {}", page.stdout);
    }
    assert_rendered(&page.stdout);
    let role = run(ansible(&host, "ansible-doc").args(["--type", "role", MODULE]));
    assert!(role.ok() && role.stderr.is_empty(), "{role:?}");
    assert!(role.stdout.contains("syngate_from"), "{role:?}");
    assert_rendered(&role.stdout);

    // In a copy, since it leaves things about.
    let copy = copy_of_contrib(&host, "copy");
    let mut lint = ansible_in(&copy, &host, "ansible-lint");
    lint.args(["--nocolor", "-c", "ansible-lint.yml"]);
    let ran = run(&mut lint);
    assert!(ran.ok(), "{ran:?}");
    assert!(
        ran.stderr.contains("Passed: 0 failure(s), 0 warning(s)"),
        "{ran:?}"
    );
    assert!(
        ran.stderr
            .contains("Profile 'production' was required, and it passed"),
        "{ran:?}"
    );

    let galaxy = read(contrib("galaxy.yml"));
    let version = format!("version: {}\n", env!("CARGO_PKG_VERSION"));
    assert!(galaxy.contains(&version), "{galaxy}");
}

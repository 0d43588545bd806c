//! `--container`: what podman tells of a container becomes a call, and nobody notices that the container is replaced:
//! not outside, not on the host, and not in another container.

mod harness;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use harness::named::{by_name, long_form, program, refused};
use harness::{SOON, SYNGATE, report_in, words};
use nix::sys::signal::Signal;
use testkit::{Host, Load, LoadReport, Pair, Ran, Running, SERVER, wait_until};

/// podman on a host. All that it keeps is in the host's directory.
struct Podman<'a> {
    host: &'a Host,
}

/// The image: busybox, which is a static program, and a page.
const BUSYBOX: &str = "/bin/busybox";
/// The port in the container.
const HTTPD: &str = "exec /bin/busybox httpd -f -p 8080 -h /www";

impl<'a> Podman<'a> {
    fn on(host: &'a Host) -> Podman<'a> {
        let dir = host.dir().display().to_string();
        // Limits as the caller's: to raise them takes a capability that a test may lack.
        let config = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nlock_type = \"file\"\n\
             tmp_dir = \"{dir}/podman/tmp\"\n\
             [network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = \"{dir}/podman/networks\"\n"
        );
        let config = host.write("containers.conf", config);
        let script = format!(
            "#!/bin/sh\nexport CONTAINERS_CONF={}\nexec /usr/bin/podman --root {dir}/podman/root --runroot \
             {dir}/podman/run --runtime /usr/sbin/runc --storage-driver vfs --log-level fatal \"$@\"\n",
            config.display()
        );
        program(host, "podman", &script);
        // podman keeps a cache in /var/lib/containers, also with another --root.
        let own = "mkdir /run/lib /run/lib.work && mount -t overlay overlay -o \
                   lowerdir=/var/lib,upperdir=/run/lib,workdir=/run/lib.work /var/lib && \
                   mkdir -p /var/lib/containers/storage/libpod";
        host.must(["sh", "-ec", own]);
        host.must(words("sysctl -qw net.ipv4.ip_forward=1"));
        let podman = Podman { host };
        podman.import();
        podman
    }

    fn import(&self) {
        let image = self.host.dir().join("image");
        fs::create_dir_all(image.join("bin")).unwrap();
        fs::create_dir_all(image.join("www")).unwrap();
        fs::copy(BUSYBOX, image.join("bin/busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", image.join("bin/sh")).unwrap();
        fs::write(image.join("www/index.html"), "here").unwrap();
        self.must(&format!(
            "tar -C {} -c . | podman import -q - web",
            image.display()
        ));
    }

    /// A shell on the host, in which `podman` is this one.
    fn sh(&self, line: &str) -> Ran {
        let mut shell = self.host.command("sh");
        shell
            .args(["-c", line])
            .env("PATH", self.path())
            .stdin(Stdio::null());
        Ran::from(shell.output().unwrap())
    }

    fn path(&self) -> String {
        let own = self.host.dir().join("bin");
        format!("{}:{}", own.display(), std::env::var("PATH").unwrap())
    }

    #[track_caller]
    fn must(&self, line: &str) -> String {
        let ran = self.sh(line);
        assert_eq!(ran.code(), 0, "{line}: {ran:?}");
        ran.stdout
    }

    fn pid(&self, name: &str) -> i32 {
        let pid = self.must(&format!(
            "podman container inspect -f '{{{{.State.Pid}}}}' {name}"
        ));
        pid.trim().parse().unwrap()
    }

    fn report(&self) -> PathBuf {
        self.host.dir().join("report.json")
    }
}

impl Drop for Podman<'_> {
    /// The control groups of containers are the machine's. What is in them ends a moment later.
    fn drop(&mut self) {
        self.sh("podman rm -fa -t 0");
        let remove = "find /sys/fs/cgroup -depth -type d -path '*/libpod_parent*' -exec rmdir {} +";
        let _ = testkit::wait_until(SOON, "their end", || self.sh(remove).code() == 0);
    }
}

/// Those of containers.
fn control_groups() -> String {
    let find = ["/sys/fs/cgroup", "-type", "d", "-path", "*/libpod_parent*"];
    let found = std::process::Command::new("find").args(find).output();
    String::from_utf8(found.unwrap().stdout).unwrap()
}

/// The line that runs the container, which listens after so many seconds.
fn run(after: u32) -> String {
    format!(
        "podman run -d --name web -p 80:8080 web /bin/sh -c '/bin/busybox sleep {after}; {HTTPD}'"
    )
}

/// The line that replaces it.
fn replace() -> String {
    format!("podman rm -f -t 0 web && {}", run(1))
}

/// Clients from outside, of the host by two of its addresses, and in another container; and what they ask.
fn clients(podman: &Podman, pair: &Pair) -> Vec<(&'static str, testkit::RunningLoad)> {
    let load = |to: &str| Load::to(format!("{to}:80")).rate(40).duration(SOON * 6);
    let other = podman.pid("other");
    let of = [
        ("outside", load(SERVER), &pair.client),
        ("on the host", load(SERVER), &pair.server),
        ("on the host, by loopback", load("127.0.0.1"), &pair.server),
        (
            "in another container",
            load(SERVER).of_process(other),
            &pair.server,
        ),
    ];
    of.map(|(who, load, host)| {
        let mut load = load.start(host).unwrap();
        load.wait_flowing().unwrap();
        (who, load)
    })
    .into()
}

fn stopped(clients: Vec<(&'static str, testkit::RunningLoad)>) -> Vec<(&'static str, LoadReport)> {
    let stopped = clients.into_iter();
    stopped
        .map(|(who, load)| (who, load.stop().unwrap()))
        .collect()
}

#[test]
fn nobody_notices_that_a_container_is_replaced() {
    let groups = control_groups();
    let pair = Pair::new().unwrap();
    let podman = Podman::on(&pair.server);
    podman.must("podman run -d --name other web /bin/busybox sleep 3600");
    podman.must(&run(0));
    pair.server.wait_listen(80).unwrap();
    let what_it_stands_for = podman.sh(&format!("{SYNGATE} -n --container web -- true"));
    assert_eq!(
        long_form(&what_it_stands_for),
        "--port 80 --hook prerouting --listen-port 80=8080 --listen-netns-from 'podman container inspect -f \
         '\\''{{.State.Pid}}'\\'' web' -- true"
    );
    let before = podman.pid("web");
    let under_way = clients(&podman, &pair);
    let report = podman.report();
    let ran = podman.sh(&format!(
        "{SYNGATE} --container web --report-file {} -- sh -c \"{}\"",
        report.display(),
        replace()
    ));
    let clients_saw = stopped(under_way);
    assert_eq!(ran.code(), 0, "{ran:?}");
    for (who, saw) in &clients_saw {
        assert_eq!(saw.failed(), 0, "{who}: {saw}; {ran:?}");
        assert!(saw.delayed > 0, "{who} met the gate: {saw}");
    }
    let report = report_in(&report);
    assert_eq!(report["scope"], "--hook prerouting", "{report:#}");
    assert_eq!(report["listen_ports"], "80=8080", "{report:#}");
    assert_eq!(report["listeners_before"][0]["port"], 8080, "{report:#}");
    let first = format!("syngate: web (podman, pid {before}): port 80 (listener 8080)\n");
    assert!(ran.stderr.contains(&first), "{ran:?}");
    assert!(
        ran.stderr
            .contains("syngate: not covered: clients of its own address"),
        "{ran:?}"
    );
    assert_ne!(podman.pid("web"), before);

    // The control: each of them notices it otherwise.
    let under_way = clients(&podman, &pair);
    podman.must(&replace());
    let new = podman.pid("web");
    let listens = format!("nsenter --net=/proc/{new}/ns/net ss -Hltn 'sport = 8080' | grep -q .");
    testkit::wait_until(SOON, "the new one", || podman.sh(&listens).code() == 0).unwrap();
    for (who, saw) in stopped(under_way) {
        assert!(saw.failed() > 0, "{who}: {saw}");
    }
    drop(podman);
    assert_eq!(control_groups(), groups);
}

/// Has the container lose SYNs, as where its queue is full: those of a client of each kind, which are returned.
fn unanswered(podman: &Podman, pair: &Pair) -> [Running; 4] {
    let (web, other) = (podman.pid("web"), podman.pid("other"));
    let deaf = "table ip deaf { set lost { type ipv4_addr . inet_service; flags dynamic; }; \
                chain input { type filter hook input priority 0; \
                tcp dport 8080 tcp flags syn add @lost { ip saddr . tcp sport } drop; }; }";
    let within = format!("nsenter --net=/proc/{web}/ns/net nft");
    podman.must(&format!("{within} '{deaf}'"));
    let asks = |host: &Host, within: &str, to: &str| {
        let mut client = host.command("sh");
        let line = format!("exec {within} curl -sS --max-time 60 http://{to}/");
        client.args(["-c", &line]).stdout(Stdio::piped());
        host.spawn(client.stderr(Stdio::piped())).unwrap()
    };
    let in_other = format!("nsenter --net=/proc/{other}/ns/net");
    let clients = [
        asks(&pair.client, "", SERVER),
        asks(&pair.server, "", SERVER),
        asks(&pair.server, "", "127.0.0.1"),
        asks(&pair.server, &in_other, SERVER),
    ];
    let lost = format!("{within} list set ip deaf lost | grep -o '[0-9] \\. [0-9]' | wc -l");
    let all = || podman.must(&lost).trim() == clients.len().to_string();
    wait_until(SOON, "their SYNs to be lost", all).unwrap();
    clients
}

/// For NAT, the connection of such a client has begun: what it sends again would go to the address of the container that
/// has gone.
#[test]
fn who_was_not_answered_by_the_old_container_reaches_the_new_one() {
    let pair = Pair::new().unwrap();
    let podman = Podman::on(&pair.server);
    podman.must("podman run -d --name other web /bin/busybox sleep 3600");
    podman.must(&run(0));
    pair.server.wait_listen(80).unwrap();
    let served = pair.server.dir().join("served");
    // The port opens after COMMAND, or while it still runs.
    let waits = format!("; while [ ! -e {} ]; do sleep 0.1; done", served.display());
    for (options, waits) in [("", ""), ("--open-on ready", &waits)] {
        let clients = unanswered(&podman, &pair);
        let command = format!("{}{waits}", replace());
        let line = format!("exec {SYNGATE} --container web {options} -- sh -c \"{command}\"");
        let mut call = pair.server.command("sh");
        call.args(["-c", &line]).env("PATH", podman.path());
        let call = call.stdin(Stdio::null()).stderr(Stdio::piped());
        let run = pair.server.spawn(call.stdout(Stdio::null())).unwrap();
        let saw = clients.map(|client| Ran::from(client.output().unwrap()));
        fs::write(&served, "").unwrap();
        let ran = Ran::from(run.output().unwrap());
        for saw in saw {
            assert_eq!(saw.code(), 0, "{options}: {saw:?}; {ran:?}");
            assert_eq!(saw.stdout, "here", "{options}");
        }
        assert_eq!(ran.code(), 0, "{ran:?}");
    }
}

/// docker and podman that say what they would, without any container.
fn engines(host: &Host, docker: &str, podman: &str) {
    let there = "[ -e /run/docker.sock ] || { mount -t tmpfs tmpfs /var/lib && touch /run/docker.sock && \
                 mkdir -p /var/lib/containers/storage/libpod; }";
    host.must(["sh", "-ec", there]);
    for (name, says) in [("docker", docker), ("podman", podman)] {
        program(host, name, &format!("#!/bin/sh\n{says}\n"));
    }
}

/// What such a program prints of a container, whose process is this test's host's first one.
fn printed(host: &Host, name: &str) -> String {
    let text = fs::read_to_string(format!("tests/fuzz/corpus/container/{name}")).unwrap();
    let pid = text
        .split("\"Pid\":")
        .nth(1)
        .unwrap()
        .split([',', '}'])
        .next()
        .unwrap();
    let text = text.replace(&format!("\"Pid\":{pid}"), "\"Pid\":1");
    let file = host.write(&format!("inspect-{name}"), text);
    format!("cat {}", file.display())
}

const NO_DOCKER: &str = "echo '[]'; echo 'Error: No such container: web' >&2; exit 1";
const NO_PODMAN: &str =
    "echo '[]'; echo 'Error: inspecting object: no such container web' >&2; exit 125";
const DEAD: &str = "echo 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?' >&2; exit 1";

#[test]
fn which_program_has_the_container_is_found_out() {
    let host = &Host::new().unwrap();
    let (docker, podman) = (printed(host, "docker"), printed(host, "podman"));
    let form = |call: &str| long_form(&by_name(host, &format!("-n {call} -- true")));
    let no = |call: &str, says: &str| refused(&by_name(host, &format!("{call} -- true")), says);
    for (docker, podman, asks) in [
        (docker.as_str(), NO_PODMAN, "docker"),
        (NO_DOCKER, podman.as_str(), "podman"),
        (DEAD, &podman, "podman"),
        ("exit 127", &podman, "podman"),
    ] {
        engines(host, docker, podman);
        let form = form("--container web");
        assert!(
            form.contains(&format!(
                "--listen-netns-from '{asks} container inspect -f "
            )),
            "{form}"
        );
    }
    engines(host, &docker, &podman);
    no(
        "--container web",
        "both docker and podman have one of that name; expected docker:web or podman:web",
    );
    assert!(form("--container podman:web").contains("'podman container inspect"));
    engines(host, NO_DOCKER, NO_PODMAN);
    no(
        "--container web",
        "there is no such container for this user; expected one that docker ps or podman ps lists",
    );
    // What could not be looked up is not taken for what is not there.
    engines(host, DEAD, NO_PODMAN);
    no(
        "--container web",
        "could not be looked up: docker: Cannot connect to the Docker daemon",
    );
    engines(host, "echo oops", NO_PODMAN);
    no(
        "--container web",
        "syngate does not understand what docker container inspect web printed",
    );
    engines(host, "exit 127", "exit 127");
    no("--container web", "neither docker nor podman is in PATH");
    no(
        "--container docker:web",
        "docker:web: docker is not in PATH",
    );
    no(
        "--container 'a b'",
        "--container: 'a b': it is no container's name",
    );
}

#[test]
fn a_container_is_restarted_by_its_name_and_by_a_profile() {
    let host = &Host::new().unwrap();
    host.own_etc().unwrap();
    host.must(words("rm -rf /etc/syngate"));
    host.must(words("mkdir -m 755 /etc/syngate"));
    engines(host, &printed(host, "docker-loopback"), NO_PODMAN);
    let found = |command: &str| {
        format!(
            "--port 82 --hook prerouting --to 127.0.0.1 --listen-port 82=8080 --listen-netns-from 'docker container \
             inspect -f '\\''{{{{.State.Pid}}}}'\\'' web' -- {command}"
        )
    };
    let ran = by_name(host, "restart web -n");
    assert_eq!(long_form(&ran), found("docker restart web"));
    assert!(
        ran.stderr
            .starts_with("syngate: web (docker, pid 1): port 82 (listener 8080)\n"),
        "{ran:?}"
    );
    let profile = host.write(
        "profile",
        "container=web\nsyn=drop\ncommand=docker compose up -d web\n",
    );
    host.must(words(&format!(
        "install -m 644 {} /etc/syngate/shop.conf",
        profile.display()
    )));
    let expected = found("docker compose up -d web").replace("--port 82", "--port 82 --syn drop");
    assert_eq!(long_form(&by_name(host, "run shop -n")), expected);
    engines(host, DEAD, NO_PODMAN);
    let says = "web is no service here: there is no unit web.service";
    let ran = by_name(host, "restart web");
    refused(&ran, says);
    assert!(
        ran.stderr
            .contains("could not be looked up: docker: Cannot connect"),
        "{ran:?}"
    );
    engines(host, NO_DOCKER, NO_PODMAN);
    refused(&by_name(host, "restart web"), says);
}

/// podman makes its storage when it is asked for the first time.
#[test]
fn a_question_leaves_nothing_behind() {
    let host = &Host::new().unwrap();
    host.must(words("mount -t tmpfs tmpfs /var/lib"));
    let empty = host.sh("find /var/lib").unwrap().stdout;
    for (call, says) in [
        ("restart nobody", "nobody is no service here"),
        ("check nobody", "nobody is no service here"),
        (
            "-n --container nobody -- true",
            "podman was not asked, since it has no containers in /var/lib/containers/storage",
        ),
    ] {
        refused(&by_name(host, call), says);
        assert_eq!(host.sh("find /var/lib").unwrap().stdout, empty, "{call}");
    }
    // The control; and the caller wants to know.
    let ran = by_name(host, "-n --container podman:nobody -- true");
    assert_eq!(ran.code(), 125, "{ran:?}");
    assert_ne!(host.sh("find /var/lib").unwrap().stdout, empty, "{ran:?}");
}

/// The storage may be elsewhere, and docker another machine's.
#[test]
fn who_is_asked_is_found_out_without_asking() {
    let host = &Host::new().unwrap();
    engines(
        host,
        "touch /run/asked-docker; exit 1",
        "touch /run/asked-podman; exit 1",
    );
    let asked = |call: &str| {
        host.must(words("rm -f /run/asked-docker /run/asked-podman"));
        let own = host.dir().join("bin").display().to_string();
        let line = format!("PATH={own}:$PATH {call}");
        let ran = host.sh(&line.replace("ASK", &format!("{SYNGATE} -n --container web -- true")));
        assert_eq!(ran.unwrap().code(), 125, "{call}");
        ["docker", "podman"].map(|engine| {
            host.sh(&format!("test -e /run/asked-{engine}"))
                .unwrap()
                .ok()
        })
    };
    assert_eq!(asked("ASK"), [true, true]);
    host.must(words("rm -r /run/docker.sock /var/lib/containers"));
    assert_eq!(asked("ASK"), [false, false]);
    assert_eq!(asked("DOCKER_HOST=ssh://other ASK"), [true, false]);
    assert_eq!(asked("CONTAINER_HOST=ssh://other ASK"), [false, true]);
    let config = host.write(
        "storage.conf",
        "[storage]\ngraphroot = \"/run/elsewhere\"\n",
    );
    let named = format!("CONTAINERS_STORAGE_CONF={} ASK", config.display());
    assert_eq!(asked(&named), [false, false]);
    host.must(words("mkdir -p /run/elsewhere/libpod"));
    assert_eq!(asked(&named), [false, true]);
    // podman 6 reads drop-ins.
    host.own_etc().unwrap();
    host.must(words("rm -rf /etc/containers /run/elsewhere"));
    host.must(words(
        "mkdir -p /etc/containers/storage.conf.d /run/elsewhere",
    ));
    let drop_in = format!(
        "cp {} /etc/containers/storage.conf.d/10-ours.conf",
        config.display()
    );
    host.must(words(&drop_in));
    assert_eq!(asked("ASK"), [false, false]);
    host.must(words("mkdir /run/elsewhere/libpod"));
    assert_eq!(asked("ASK"), [false, true]);
    host.must(words("rm -r /etc/containers"));
    // A `docker` that is podman.
    let script = "#!/bin/sh\ntouch /run/asked-docker; exit 1 # exec podman\n";
    program(host, "docker", script);
    host.must(words("touch /run/docker.sock"));
    assert_eq!(asked("ASK"), [false, false]);
    assert_eq!(asked(&named), [true, true]);
    let user = "setpriv --reuid 4321 --regid 4321 --clear-groups env HOME=/run/home ASK";
    assert_eq!(asked(user), [false, false]);
}

/// After a run that has failed.
#[test]
fn a_container_that_is_down_is_told_at_last() {
    let host = &Host::new().unwrap();
    let up = printed(host, "docker-loopback");
    let down = up.replace(
        "cat ",
        "sed 's/\"Pid\":1/\"Pid\":0/; s/\"Status\":\"running\"/\"Status\":\"exited\"/' ",
    );
    let docker = format!("[ -e /run/is-down ] && {{ {down}; exit; }}; {up}");
    engines(host, &docker, NO_PODMAN);
    let call = "--container web --listen-netns 1 --ready-timeout 0 --syn drop --drain 0 -- sh -c 'touch /run/is-down; exit 3'";
    let ran = by_name(host, call);
    assert_eq!(ran.code(), 3, "{ran:?}");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let expected = [
        "syngate: web is exited (docker), so new clients of its ports are refused",
        "syngate: docker logs web tells why; docker start web starts it",
    ];
    assert_eq!(lines[lines.len() - 2..], expected, "{ran:?}");
}

/// After a run that has failed. Only who had the container knows that it is gone.
#[test]
fn a_container_that_can_t_be_looked_up_at_last_is_not_told_to_be_gone() {
    let host = &Host::new().unwrap();
    let up = printed(host, "docker-loopback");
    let docker = format!(
        "[ -e /run/is-gone ] && {{ {NO_DOCKER}; }}; [ -e /run/is-dead ] && {{ {DEAD}; }}; {up}"
    );
    engines(host, &docker, NO_PODMAN);
    let unknown =
        "syngate: whether the container web runs is not known: docker could not be asked: ";
    for (command, says) in [
        (
            "touch /run/is-gone",
            "syngate: there is no container web any more, so new clients of its ports are refused: COMMAND has not made a \
             new one",
        ),
        (
            "touch /run/is-dead",
            &format!("{unknown}Cannot connect to the Docker daemon at "),
        ),
        (
            "rm /run/docker.sock",
            &format!("{unknown}/run/docker.sock is not there, so its daemon does not run"),
        ),
    ] {
        let call =
            "--container web --listen-netns 1 --ready-timeout 0 --syn drop --drain 0 -- sh -c";
        let ran = by_name(host, &format!("{call} '{command}; exit 3'"));
        assert_eq!(ran.code(), 3, "{ran:?}");
        host.must(words("rm -f /run/is-gone /run/is-dead"));
        let last = ran.stderr.lines().last().unwrap();
        assert!(last.starts_with(says), "{says}: {ran:?}");
    }
}

/// The run is over: how it has ended stays, however long docker takes to tell what became of the container.
#[test]
fn a_signal_at_last_does_not_change_the_exit_status() {
    let host = &Host::new().unwrap();
    let up = printed(host, "docker-loopback");
    let docker = format!("[ -e /run/is-over ] && {{ touch /run/asked; exec sleep 100; }}; {up}");
    engines(host, &docker, NO_PODMAN);
    let mut call = host.command(SYNGATE);
    call.args(words(
        "--container web --listen-netns 1 --ready-timeout 0 --syn drop --drain 0 -- sh -c",
    ));
    let own = host.dir().join("bin").display().to_string();
    call.env("PATH", format!("{own}:{}", std::env::var("PATH").unwrap()));
    let call = call.arg("touch /run/is-over; exit 3");
    let mut run = host.spawn(call.stderr(Stdio::piped())).unwrap();
    let asked = || host.sh("test -e /run/asked").unwrap().ok();
    wait_until(SOON, "the last question", asked).unwrap();
    run.signal(Signal::SIGTERM).unwrap();
    let ran = Ran::from(run.output().unwrap());
    assert_eq!(ran.code(), 3, "{ran:?}");
    let says = "docker could not be asked: a signal has ended the question";
    assert!(ran.stderr.trim_end().ends_with(says), "{ran:?}");
}

#[test]
fn a_container_s_name_that_is_misspelt_is_told() {
    let host = &Host::new().unwrap();
    let lists =
        |containers: &str, no: &str| format!("[ $1 = ps ] && {{ echo {containers}; exit; }}; {no}");
    engines(
        host,
        &lists("shop-db", NO_DOCKER),
        &lists("shop-web", NO_PODMAN),
    );
    let says = "one that docker ps or podman ps lists; did you mean shop-web?";
    refused(&by_name(host, "-n --container shop-wbe -- true"), says);
    let says = "no profile /etc/syngate/shop-bd.conf; did you mean shop-db?";
    refused(&by_name(host, "restart shop-bd"), says);
}

//! `syngate restart NAME` and `reload NAME` with init scripts and units: which ports and which test they find, that
//! the call in the long form is the same run, and that nobody notices. A stand-in for systemctl tells what a test has
//! written; tests/ci/test-systemd tries it under a real systemd.

mod harness;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use harness::latch::Latch;
use harness::named::{NamedUnit, by_name, done, long_form, program, refused};
use harness::{SOON, SYNGATE, report_in, words};
use testkit::services::{Haproxy, HaproxyConfig, Serve};
use testkit::{Host, Load, Pair, Ran, RunningLoad, SERVER, wait_until};

const LONG: Duration = Duration::from_secs(100);

fn load(pair: &Pair, ask: Option<&str>) -> RunningLoad {
    let load = Load::to(format!("{SERVER}:80")).rate(300).duration(LONG);
    let load = ask.iter().fold(load, |load, ask| load.ask(ask));
    let mut load = load.start(&pair.client).unwrap();
    load.wait_flowing().unwrap();
    load
}

#[track_caller]
fn unnoticed(load: RunningLoad) {
    let report = load.stop().unwrap();
    assert_eq!(report.failed(), 0, "{report}");
}

fn haproxy<'a>(host: &'a Host, config: &HaproxyConfig) -> Haproxy<'a> {
    let haproxy = Haproxy::debian_init(host, config).unwrap();
    haproxy.start().unwrap();
    haproxy
}

fn pids(host: &Host, name: &str) -> String {
    host.must(["pgrep", "-x", name])
}

const TEST: &str = "--precheck 'haproxy -c -f /etc/haproxy/haproxy.cfg'";

// Init scripts -------------------------------------------------------------------------------------

#[test]
fn nobody_notices_a_restart_of_haproxy_by_its_name() {
    let pair = Pair::steered_by_flow().unwrap();
    let host = &pair.server;
    let haproxy = haproxy(host, &HaproxyConfig::port(80).and_bind("127.0.0.1:8404"));
    let clients = load(&pair, None);
    for _ in 0..3 {
        let old = pids(host, "haproxy");
        let ran = by_name(host, "restart haproxy");
        done(&ran);
        let said: Vec<&str> = ran.stderr.lines().collect();
        let expected = [
            &format!(
                "syngate: /etc/init.d/haproxy: ports 80,8404 of haproxy (pid {})",
                old.trim()
            ),
            "syngate: 8404: on loopback alone, for clients of this host",
            "syngate: precheck: haproxy -c -f /etc/haproxy/haproxy.cfg",
        ];
        assert_eq!(said[..3], expected, "{ran:?}");
        let ended = "syngate: service haproxy restart exited with status 0; 80,8404 was closed";
        assert!(said.last().unwrap().starts_with(ended), "{ran:?}");
        assert_ne!(pids(host, "haproxy"), old);
    }
    unnoticed(clients);

    let clients = load(&pair, None);
    haproxy.restart().unwrap();
    let bare = clients.stop().unwrap();
    assert!(bare.refused > 0, "the control has to fail: {bare}");
}

/// Nobody listens while the first one is at work. So the second one finds the ports when that has ended.
#[test]
fn two_restarts_of_a_service_take_turns() {
    let pair = Pair::steered_by_flow().unwrap();
    let host = &pair.server;
    let haproxy = haproxy(host, &HaproxyConfig::port(80));
    let (mut latch, once) = (Latch::new(host, "gap"), host.dir().join("once"));
    let script = format!(
        "#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\nservice $1 stop\nif mkdir {} 2>/dev/null; then {}; fi\n\
         service $1 start\n",
        once.display(),
        latch.hold()
    );
    program(host, "service", &script);
    let clients = load(&pair, None);
    let said = host.dir().join("said");
    let second = format!("restart haproxy --no-precheck 2>{}", said.display());
    let ran = std::thread::scope(|threads| {
        let first = threads.spawn(|| by_name(host, "restart haproxy"));
        latch.wait();
        let second = threads.spawn(|| by_name(host, &second));
        let waits =
            || fs::read_to_string(&said).is_ok_and(|said| said.contains("waiting for pid "));
        wait_until(SOON, "the second one to wait", waits).unwrap();
        latch.release();
        [first, second].map(|run| run.join().unwrap())
    });
    let said = fs::read_to_string(said).unwrap();
    ran.iter().for_each(done);
    let expected = "exited with status 0; 80 was closed for ";
    assert!(said.contains(expected), "{said}");
    unnoticed(clients);
    drop(haproxy);
}

#[test]
fn nobody_notices_a_reload_of_nginx_by_its_name() {
    let pair = Pair::steered_by_flow().unwrap();
    let host = &pair.server;
    let log = host.dir().join("error.log").display().to_string();
    let config = format!(
        "user root root; pid /run/nginx.pid; error_log {log}; events {{ worker_connections 8000; }}\n\
         http {{ access_log off; server {{ listen 80 reuseport; return 200 ok; }} }}\n"
    );
    let config = host.write("nginx.conf", config);
    host.bind(config, "/etc/nginx/nginx.conf").unwrap();
    host.must(words("service nginx start"));
    let clients = load(&pair, None);
    for _ in 0..3 {
        let old = pids(host, "nginx");
        let ran = by_name(host, "reload nginx -v");
        done(&ran);
        assert!(
            ran.stderr.contains("syngate: precheck: nginx -t\n"),
            "{ran:?}"
        );
        assert!(ran.stderr.contains("COMMAND ended: status 0"), "{ran:?}");
        assert_ne!(pids(host, "nginx"), old, "its workers are others");
    }
    unnoticed(clients);
    let form = long_form(&by_name(host, "reload nginx -n"));
    assert_eq!(
        form,
        "--port 80 --syn auto --reload --precheck 'nginx -t' -- service nginx reload"
    );
}

/// It is none of those that are known to reload in place.
#[test]
fn a_reload_by_name_that_nothing_shows_is_warned_of() {
    let host = &Host::new().unwrap();
    host.own_etc().unwrap();
    let script = "DAEMON=/usr/bin/redis-server\ncase $1 in\nreload) ;;\nesac\n";
    init_script(host, "web", script);
    let mut redis = host.command("redis-server");
    let _redis = host
        .spawn(redis.args(words("--port 80 --daemonize no --dir /run")))
        .unwrap();
    host.wait_listen(80).unwrap();
    let ran = by_name(host, "reload web -q");
    done(&ran);
    let says = "syngate: warning: nothing changed on 80 within 3s of COMMAND's exit: ";
    assert!(ran.stderr.contains(says), "{ran:?}");
    // For one that is, its profile says so.
    host.must([
        "sh",
        "-c",
        "rm -rf /etc/syngate; mkdir /etc/syngate && echo settle=0s >/etc/syngate/web.conf",
    ]);
    let ran = by_name(host, "reload web -q");
    done(&ran);
    assert_eq!(ran.stderr, "");
}

/// As cron calls it.
#[test]
fn under_a_short_path_it_finds_what_it_needs() {
    let host = &Host::new().unwrap();
    let _haproxy = haproxy(host, &HaproxyConfig::port(80));
    let old = pids(host, "haproxy");
    let called = |options: &str| {
        let line = format!("-i PATH=/usr/bin:/bin {SYNGATE} restart haproxy {options}");
        let mut call = host.command("env");
        call.args(words(&line)).stdin(Stdio::null());
        Ran::from(call.output().unwrap())
    };
    let test = "--precheck '/usr/sbin/haproxy -c -f /etc/haproxy/haproxy.cfg'";
    let expected = format!("--port 80 --syn auto {test} -- /usr/sbin/service haproxy restart");
    assert_eq!(long_form(&called("-n")), expected);
    let ran = called("-q");
    done(&ran);
    assert_ne!(pids(host, "haproxy"), old);
    assert!(!ran.stderr.contains("syngate: "), "{ran:?}");
    assert!(
        !ran.stderr.contains("valid"),
        "the test has passed: {ran:?}"
    );
}

/// People learn it from there, and it is the same run.
#[test]
fn a_dry_run_prints_the_call_in_the_long_form() {
    let host = &Host::new().unwrap();
    let _haproxy = haproxy(host, &HaproxyConfig::port(80));
    let old = pids(host, "haproxy");
    let dry = by_name(host, "restart haproxy -n");
    let form = long_form(&dry);
    let expected = format!("--port 80 --syn auto {TEST} -- service haproxy restart");
    assert_eq!(form, expected);
    assert!(!dry.stderr.contains("precheck"), "it was not run: {dry:?}");
    let (_, rest) = dry.stdout.split_once('\n').unwrap();
    let plan = |text: &str| {
        // Each run has an id of its own.
        let lines = text
            .lines()
            .filter(|line| line.starts_with('#') && !line.contains("syngate_"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let same = by_name(host, &format!("-n {form}"));
    assert_eq!(plan(rest), plan(&same.stdout));
    assert!(plan(rest).len() > 4, "{rest}");
    assert_eq!(pids(host, "haproxy"), old, "nothing was run");

    let ran = by_name(host, &form);
    done(&ran);
    assert_ne!(pids(host, "haproxy"), old);
    // A stop is told by its output, too.
    let full = by_name(host, "restart haproxy -n >/dev/full");
    assert_eq!(full.code(), 125, "{full:?}");
}

#[test]
fn options_win_over_what_is_found() {
    let host = &Host::new().unwrap();
    let _haproxy = haproxy(host, &HaproxyConfig::port(80).and_bind(":81"));
    for (call, expected) in [
        (
            "restart haproxy -n --no-precheck",
            "--port 80-81 --syn auto",
        ),
        (
            "restart -n --port 81 haproxy.service --syn=drop --drain 2s --precheck 'true; true'",
            "--port 81 --syn drop --drain 2s --precheck 'true; true'",
        ),
        (
            "reload haproxy -n --no-precheck",
            "--port 80-81 --syn auto --reload",
        ),
        (
            "reload haproxy -n --no-precheck --syn hold -p 80 -p 82",
            "--port 80 --port 82 --syn hold",
        ),
        (
            "restart haproxy -nv --no-precheck --to 10.0.0.0/8 --max-closed 20s",
            "--port 80-81 --syn auto --to 10.0.0.0/8 --max-closed 20s",
        ),
    ] {
        let ran = by_name(host, call);
        let verb = call.split(' ').next().unwrap();
        let form = format!("{expected} -- service haproxy {verb}");
        assert_eq!(long_form(&ran), form, "{call}");
    }
    // The environment is as good as the command line, and says how much is told.
    let call = "SYNGATE_PORT=81 SYNGATE_DRY_RUN=1 SYNGATE_QUIET=1 SYNGATE_SETTLE=1s";
    let ran = host.sh(&format!(
        "{call} {} restart haproxy --no-precheck",
        harness::SYNGATE
    ));
    let ran = ran.unwrap();
    let form = "--port 81 --syn auto --settle 1s -- service haproxy restart";
    assert_eq!(long_form(&ran), form);
    assert!(ran.stderr.contains("so this is a dry run"), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
}

/// The old one goes on.
#[test]
fn a_configuration_that_is_broken_stops_it() {
    let host = &Host::new().unwrap();
    let haproxy = haproxy(host, &HaproxyConfig::port(80));
    let old = pids(host, "haproxy");
    haproxy
        .configure(&HaproxyConfig::port(80).global("nonsense"))
        .unwrap();
    let report = host.dir().join("report.json");
    let ran = by_name(
        host,
        &format!("restart haproxy --report-file {}", report.display()),
    );
    assert_eq!(ran.code(), 125, "{ran:?}");
    let says = "the test 'haproxy -c -f /etc/haproxy/haproxy.cfg' exited with status 1: haproxy was not restarted, and runs as \
                before; correct the file (--no-precheck leaves the test out)";
    assert!(ran.stderr.contains(says), "{ran:?}");
    assert_eq!(pids(host, "haproxy"), old);
    assert_eq!(report_in(&report)["reason"], "precheck");
    // Debian's script tests it, too.
    let ran = by_name(host, "restart haproxy --no-precheck");
    assert_eq!(ran.code(), 1, "{ran:?}");
}

/// Where a script has no file of pids, the program that it names is looked for.
#[test]
fn a_service_without_a_file_of_pids_is_found_by_its_program() {
    let host = &Host::new().unwrap();
    let _haproxy = haproxy(host, &HaproxyConfig::port(80));
    let _other = Serve::on("0.0.0.0:81").start(host).unwrap();
    host.must(words("rm /run/haproxy.pid"));
    let form = long_form(&by_name(host, "restart haproxy -n"));
    let expected = format!("--port 80 --syn auto {TEST} -- service haproxy restart");
    assert_eq!(form, expected);
}

/// The file may be an old one. As a descendant of pid 1, each process of this host would be the service's.
#[test]
fn a_file_of_pids_that_names_others_is_passed_over() {
    let host = &Host::new().unwrap();
    let haproxy = haproxy(host, &HaproxyConfig::port(80));
    let _other = Serve::on("0.0.0.0:81").start(host).unwrap();
    let other = "ss -Hltnp sport = :81 | grep -o 'pid=[0-9]*' | cut -d= -f2";
    let own = host.must(["cat", "/run/haproxy.pid"]);
    for pid in ["echo 1", other] {
        host.must(["sh", "-c", &format!("({pid}) >/run/haproxy.pid")]);
        let form = long_form(&by_name(host, "restart haproxy -n --no-precheck"));
        assert_eq!(
            form, "--port 80 --syn auto -- service haproxy restart",
            "{pid}"
        );
    }
    host.must([
        "sh",
        "-c",
        &format!("echo {} >/run/haproxy.pid", own.trim()),
    ]);
    haproxy.stop().unwrap();
    for pid in ["echo 1", other] {
        host.must(["sh", "-c", &format!("({pid}) >/run/haproxy.pid")]);
        let says = "syngate: haproxy listens on no TCP port: ";
        refused(&by_name(host, "restart haproxy -n"), says);
    }
}

/// An init script of that name.
fn init_script(host: &Host, name: &str, text: &str) {
    let script = host.write(name, text);
    let install = format!("install -m 755 {} /etc/init.d/{name}", script.display());
    host.must(words(&install));
}

/// The folder belongs to the service's user, who may put anything there. The script names no program, so any process may
/// be the service.
#[test]
fn what_the_service_s_user_writes_names_no_process_of_others() {
    let host = &Host::new().unwrap();
    host.own_etc().unwrap();
    init_script(host, "web", "case $1 in\nrestart) ;;\nesac\n");
    let _other = Serve::on("0.0.0.0:81").start(host).unwrap();
    let make = "mkdir /run/web && cd /run/web && mkfifo a.pid && ln -s /dev/zero b.pid\n\
                ss -Hltnp sport = :81 | grep -o 'pid=[0-9]*' | cut -d= -f2 >c.pid\n";
    host.must(["sh", "-ec", make]);
    let form = |port: u16| {
        let expected = format!("--port {port} --syn auto -- service web restart");
        assert_eq!(long_form(&by_name(host, "restart web -n")), expected);
    };
    // It is root's as long as nobody else can change it.
    form(81);
    let check = by_name(host, "check web --json");
    assert!(check.stdout.contains("--port 81"), "{check:?}");
    host.must(words("chown -h 4321 /run/web /run/web/c.pid"));
    let says = "folder of that name; not at other users' processes in /run/web/c.pid, which others than root can change)";
    refused(&by_name(host, "restart web -n"), says);
    let line = "echo $$ >/run/web/d.pid; exec python3 -m http.server 8080";
    let mut own = host.command("setpriv");
    own.args(words("--reuid 4321 --regid 4321 --clear-groups sh -c"));
    let _own = host.spawn(own.arg(line)).unwrap();
    wait_until(SOON, "it listens", || host.listens(8080)).unwrap();
    form(8080);
}

/// Others execute the same interpreter, or even the same script.
#[test]
fn a_process_is_not_the_service_by_its_interpreter_alone() {
    let host = &Host::new().unwrap();
    host.own_etc().unwrap();
    let text = "import socket, sys, time\na = socket.create_server(('', int(sys.argv[1])))\ntime.sleep(1000)\n";
    let file = host.write("app.py", text).display().to_string();
    let script = format!("DAEMON=/usr/bin/python3\n$DAEMON {file} 80 &\n");
    init_script(host, "web", &script);
    let python = |args: &str| {
        let mut python = host.command("/usr/bin/python3");
        host.spawn(python.args(words(args))).unwrap()
    };
    let listens = |port: u16| wait_until(SOON, "it listens", || host.listens(port)).unwrap();
    let _others = [81, 82].map(|port| python(&format!("-m http.server {port}")));
    [81, 82].into_iter().for_each(listens);
    let says = "web listens on no TCP port";
    refused(&by_name(host, "restart web -n"), says);
    let _web = python(&format!("{file} 80"));
    listens(80);
    let form = "--port 80 --syn auto -- service web restart";
    assert_eq!(long_form(&by_name(host, "restart web -n")), form);
    let _second = python(&format!("{file} 83"));
    listens(83);
    let pids = host.must(["pgrep", "-f", &file]);
    let pids: Vec<&str> = pids.split_whitespace().collect();
    let says = format!(
        "/etc/init.d/web: several processes may be it (python3 (pids {})): name its ports: syngate restart web \
         --port PORT",
        pids.join(", ")
    );
    refused(&by_name(host, "restart web -n"), &says);
    assert_eq!(long_form(&by_name(host, "restart web -n -p 80")), form);
}

/// A program of that path, which listens on a port.
fn listens_as(host: &Host, program: &str, port: u16) -> testkit::Running {
    let folder = program.rsplit_once('/').unwrap().0;
    host.must(["mkdir", "-p", folder]);
    host.must(["cp", "/bin/busybox", program]);
    let line = format!("exec -a httpd {program} -f -p {port} -h /run");
    host.spawn(host.command("bash").args(["-c", &line]))
        .unwrap()
}

/// What is written there goes with the host.
fn own_usr_lib(host: &Host) {
    let mount = "mkdir /run/lib /run/lib.work && mount -t overlay overlay -o \
                 lowerdir=/usr/lib,upperdir=/run/lib,workdir=/run/lib.work /usr/lib";
    host.must(["sh", "-ec", mount]);
}

/// Debian's script of postfix names neither the program that listens nor its file of pids.
#[test]
fn a_service_is_found_by_its_folder_of_programs_or_of_pids() {
    let host = &Host::new().unwrap();
    host.own_etc().unwrap();
    own_usr_lib(host);
    let script = "DAEMON=/usr/sbin/postfix\nNAME=Postfix\nrunning() {\n  \
                  daemon_directory=$($POSTCONF -hx daemon_directory || echo /usr/lib/postfix/sbin)\n}\n\
                  case \"$1\" in\nstart)\n  CMD=\"/usr/sbin/postmulti -- -i $INSTANCE -x ${DAEMON}\"\n;;\n\
                  restart) ;;\nforce-reload|reload) ${DAEMON} reload ;;\nesac\n";
    let script = host.write("postfix", script);
    host.must(words(&format!(
        "cp {} /etc/init.d/postfix",
        script.display()
    )));
    let _master = listens_as(host, "/usr/lib/postfix/sbin/master", 25);
    let _other = listens_as(host, "/usr/lib/policy/postfix-policy", 26);
    let listens = || host.listens(25) && host.listens(26);
    wait_until(SOON, "they listen", listens).unwrap();
    let form = |port: u16| {
        let expected = format!("--port {port} --syn auto -- service postfix restart");
        let form = long_form(&by_name(host, "restart postfix -n --no-precheck"));
        assert_eq!(form, expected);
    };
    form(25);
    // By its file of pids, what it has not started is another's.
    let own_spool = "mount -t tmpfs tmpfs /var/spool && mkdir -p /var/spool/postfix/pid";
    host.must(["sh", "-ec", own_spool]);
    let note = "printf '%20d\\n' $(pgrep -f 'httpd -f -p 25 ') >/var/spool/postfix/pid/master.pid";
    host.must(["sh", "-c", note]);
    let _moved = listens_as(host, "/usr/lib/postfix/sbin/other", 27);
    wait_until(SOON, "it listens", || host.listens(27)).unwrap();
    form(25);
}

/// An interpreter executes it, its workers have the listener, too, and nobody knows where its file of pids is.
#[test]
fn nobody_notices_a_restart_of_gunicorn_by_its_name() {
    let pair = Pair::steered_by_flow().unwrap();
    let host = &pair.server;
    host.own_etc().unwrap();
    let app =
        "def app(e, start):\n    start('200 OK', [('Content-Length', '2')])\n    return [b'ok']\n";
    host.write("app.py", app);
    let dir = host.dir().display().to_string();
    let pid_file = "/run/elsewhere.pid";
    let script = format!(
        "#!/bin/sh\nDAEMON=/usr/bin/gunicorn\nat=$(echo /run/elsewhere)\n\
         stop() {{ kill $(cat $at.pid) && while [ -e $at.pid ]; do sleep 0.02; done; }}\n\
         start() {{ $DAEMON -D -w 2 -b 0.0.0.0:80 --pid $at.pid --chdir {dir} app:app; }}\n\
         case $1 in\nstart) start ;;\nstop) stop ;;\nrestart) stop; start ;;\nesac\n"
    );
    let script = host.write("web", script);
    host.must(words(&format!(
        "install -m 755 {} /etc/init.d/web",
        script.display()
    )));
    host.must(words("service web start"));
    let _other = host
        .spawn(host.command("python3").args(["-m", "http.server", "81"]))
        .unwrap();
    let listens = || host.listens(80) && host.listens(81);
    wait_until(SOON, "they listen", listens).unwrap();
    let clients = load(&pair, None);
    for _ in 0..2 {
        let old = host.must(["cat", pid_file]);
        let ran = by_name(host, "restart web");
        done(&ran);
        let first = ran.stderr.lines().next().unwrap();
        let expected = "syngate: /etc/init.d/web: port 80 of ";
        assert!(first.starts_with(expected), "81 is another's: {ran:?}");
        assert!(first.contains(old.trim()), "{ran:?}");
        assert_ne!(host.must(["cat", pid_file]), old);
    }
    unnoticed(clients);
    host.must(words("service web stop"));
}

/// The last lines tell whether the service is down, what clients meet, and what helps.
#[test]
fn a_restart_that_leaves_the_service_down_says_so_at_last() {
    let host = &Host::new().unwrap();
    host.own_etc().unwrap();
    let haproxy = haproxy(host, &HaproxyConfig::port(80).and_bind(":81"));
    let unit = NamedUnit::of(host, "web");
    let last = |ran: &testkit::Ran| {
        let lines: Vec<String> = ran.stderr.lines().map(str::to_owned).collect();
        lines[lines.len() - 2..].to_vec()
    };
    // The old one goes, and no new one comes.
    let stops = "end() { kill $1; while [ -e /proc/$1 ]; do sleep 0.02; done; exit 1; }\n";
    let script = host.write("haproxy", format!(
        "#!/bin/sh\n{stops}DAEMON=/usr/sbin/haproxy\n[ \"$1\" = restart ] && end $(cat /run/haproxy.pid)\n"
    ));
    host.must(words(&format!(
        "install -m 755 {} /etc/init.d/haproxy",
        script.display()
    )));
    let ran = by_name(
        host,
        "restart haproxy --no-precheck --ready-timeout 300ms -q",
    );
    assert_eq!(ran.code(), 1, "{ran:?}");
    let expected = [
        "syngate: /etc/init.d/haproxy is down: nobody listens on 80-81, so its new clients are refused",
        "syngate: to see why: haproxy -c -f /etc/haproxy/haproxy.cfg, or its log; correct that first, then service haproxy \
         start",
    ];
    assert_eq!(last(&ran), expected, "{ran:?}");
    drop(haproxy);

    let within = words(&unit.within());
    let service = Serve::on("0.0.0.0:82").start_by(host, &within).unwrap();
    let script = host.write(
        "web",
        format!(
            "#!/bin/sh\n{stops}cd {}/bin\nsed -i s/=active/=failed/ told\n\
         end $(ss -Hltnp sport = :82 | grep -o 'pid=[0-9]*' | cut -d= -f2)\n",
            host.dir().display()
        ),
    );
    host.must(words(&format!(
        "install -m 755 {} /etc/init.d/web",
        script.display()
    )));
    let ran = by_name(host, "restart web --ready-timeout 300ms");
    let expected = [
        "syngate: web.service is down (failed): nobody listens on 82, so its new clients are refused",
        "syngate: systemctl status web.service and journalctl -u web.service tell why: correct that first, then systemctl \
         start web.service",
    ];
    assert_eq!(last(&ran), expected, "{ran:?}");
    drop(service);
}

/// Where the old one still serves, nothing is wrong with the port.
#[test]
fn a_restart_that_fails_and_leaves_the_service_up_says_nothing_more() {
    let host = &Host::new().unwrap();
    host.own_etc().unwrap();
    let _haproxy = haproxy(host, &HaproxyConfig::port(80));
    let fails = host.write("haproxy", "#!/bin/sh\n# /usr/sbin/haproxy\nexit 1\n");
    host.must(words(&format!(
        "install -m 755 {} /etc/init.d/haproxy",
        fails.display()
    )));
    let ran = by_name(host, "restart haproxy");
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(!ran.stderr.contains("is down"), "{ran:?}");
    let served = format!(
        "80 is served as before by haproxy (pid {})",
        pids(host, "haproxy").trim()
    );
    assert!(ran.stderr.contains(&served), "{ran:?}");
}

/// Its clients would be refused, and the run would end well.
#[test]
fn a_port_that_was_forgotten_is_told() {
    let host = &Host::new().unwrap();
    let config = HaproxyConfig::port(80)
        .and_bind(":8080")
        .and_bind("127.0.0.1:8404");
    let _haproxy = haproxy(host, &config);
    let report = host.dir().join("report.json");
    let told = |line: &str| {
        let pid = pids(host, "haproxy");
        let ran = by_name(host, &format!("{line} --report-file {}", report.display()));
        done(&ran);
        let warnings = report_in(&report)["warnings"].as_array().unwrap().clone();
        let also = |text: &str| text.contains("also listens on");
        let count = ran.stderr.lines().filter(|line| also(line)).count();
        let expected = format!(
            "haproxy (pid {}) also listens on 8080, which is not gated: its clients may be refused; add it: --port \
             80,8080",
            pid.trim()
        );
        assert!(
            count == 0
                || ran
                    .stderr
                    .contains(&format!("syngate: warning: {expected}\n")),
            "{ran:?}"
        );
        let noted = warnings.iter().filter(|one| *one == &expected).count();
        assert_eq!(noted, count, "{warnings:?}");
        count
    };
    assert_eq!(told("restart haproxy -p 80"), 1);
    assert_eq!(told("restart haproxy"), 0);
    assert_eq!(told("reload haproxy -p 80"), 0, "nobody is refused");
    let long = |ports: &str| {
        let pid = pids(host, "haproxy");
        let options = format!(
            "--port {ports} --syn auto --report-file {}",
            report.display()
        );
        let ran = by_name(host, &format!("{options} -- service haproxy restart"));
        done(&ran);
        let told = format!("haproxy (pid {}) also listens on 8080,", pid.trim());
        ran.stderr.matches(&told).count()
    };
    assert_eq!([long("80"), long("80,8080")], [1, 0]);
}

#[test]
fn a_port_that_is_none_of_the_service_s_is_refused() {
    let host = &Host::new().unwrap();
    let _haproxy = haproxy(host, &HaproxyConfig::port(80).and_bind(":8080"));
    let old = pids(host, "haproxy");
    let says = "haproxy does not listen on 9999; it listens on 80,8080";
    refused(&by_name(host, "restart haproxy -p 9999"), says);
    assert_eq!(pids(host, "haproxy"), old);
}

/// It runs, and a port of it could not be had.
#[test]
fn a_service_that_comes_back_without_a_port_is_not_told_to_be_down() {
    let host = &Host::new().unwrap();
    let haproxy = haproxy(host, &HaproxyConfig::port(80).and_bind(":8080"));
    haproxy
        .configure(&HaproxyConfig::port(8080).and_bind(":81"))
        .unwrap();
    let ran = by_name(host, "restart haproxy --ready-timeout 300ms -q");
    assert_eq!(ran.code(), 124, "{ran:?}");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let expected = [
        &format!(
            "syngate: haproxy (pid {}) runs, but listens on 81,8080 and not on 80: there its new clients are refused",
            pids(host, "haproxy").trim()
        ),
        "syngate: if that is meant, gate it by --port 81,8080; else correct its configuration, then service haproxy \
         restart",
    ];
    assert_eq!(lines[lines.len() - 2..], expected, "{ran:?}");
}

/// sshd's sessions start servers that its restart leaves alone.
#[test]
fn what_a_service_that_listens_has_started_is_not_the_service() {
    let listens = "import os, socket, subprocess, time\n\
                   def on(port): return socket.create_server(('', port))\n";
    let session = "subprocess.Popen(['redis-server', '--port', '9000', '--save', ''], stdout=subprocess.DEVNULL)\n";
    let worker = "a = on(80) if os.fork() else on(81)\nif a.getsockname()[1] == 80: ";
    let wrapper = "if os.fork(): time.sleep(1000)\na = on(80), on(81)\n";
    for (start, ports) in [(worker, "80-81"), (wrapper, "80-81,9000")] {
        let host = &Host::new().unwrap();
        host.own_etc().unwrap();
        let script = host.write("web", "case $1 in\nrestart) ;;\nesac\n");
        host.must(words(&format!("cp {} /etc/init.d/web", script.display())));
        let file = host.write(
            "web.py",
            format!("{listens}{start}{session}time.sleep(1000)\n"),
        );
        let line = format!("echo $$ >/run/web.pid; exec python3 {}", file.display());
        let _service = host.spawn(host.command("sh").args(["-c", &line])).unwrap();
        let listens = || [80, 81, 9000].iter().all(|port| host.listens(*port));
        wait_until(SOON, "it listens", listens).unwrap();
        let form = long_form(&by_name(host, "restart web -n"));
        assert_eq!(
            form,
            format!("--port {ports} --syn auto -- service web restart")
        );
    }
}

/// Nobody listens on the old one again.
#[test]
fn a_port_that_the_kernel_chooses_is_left_out() {
    let host = &Host::new().unwrap();
    host.own_etc().unwrap();
    let file = host.write(
        "web.py",
        "import socket, time\na = socket.create_server(('', 80)), socket.create_server(('', 0))\ntime.sleep(1000)\n",
    );
    let script = format!(
        "#!/bin/sh\nold=$(cat /run/web.pid 2>/dev/null) && kill $old && tail --pid=$old -s 0.01 -f /dev/null\n\
         python3 {} >/dev/null 2>&1 & echo $! >/run/web.pid\n",
        file.display()
    );
    let script = host.write("web", script);
    host.must(words(&format!(
        "install -m 755 {} /etc/init.d/web",
        script.display()
    )));
    host.must(words("service web start"));
    let random = || {
        let ports = host.must(words("ss -Hltn sport gt :1000"));
        ports
            .split_whitespace()
            .nth(3)
            .and_then(|at| at.rsplit(':').next())
            .map(str::to_owned)
    };
    wait_until(SOON, "it listens", || random().is_some()).unwrap();
    let old = random().unwrap();
    let ran = by_name(host, &format!("restart web -n -p 80,{old}"));
    assert!(!ran.stderr.contains("left out"), "{ran:?}");
    let ran = by_name(host, "restart web");
    done(&ran);
    let told = format!("syngate: {old}: left out, since the kernel may have chosen it");
    assert!(ran.stderr.contains(&told), "{ran:?}");
    assert!(host.listens(80) && random() != Some(old), "{ran:?}");
}

#[test]
fn what_can_t_be_done_by_name_is_told_in_one_line() {
    let host = &Host::new().unwrap();
    let report = host.dir().join("report.json");
    let file = format!("restart nobody --report-file {}", report.display());
    for (call, says) in [
        (
            file.as_str(),
            "nobody is no service here: there is no unit nobody.service, no init script \
             /etc/init.d/nobody, and no profile /etc/syngate/nobody.conf",
        ),
        (
            "restart hapoxy",
            "no profile /etc/syngate/hapoxy.conf; did you mean haproxy?",
        ),
        ("check hapoxy", "; did you mean haproxy?"),
        (
            "run nobody",
            "there is no profile /etc/syngate/nobody.conf; syngate restart nobody is for a service",
        ),
        (
            "restart haproxy",
            "haproxy listens on no TCP port: if it is down, start it: service haproxy start; if it runs, name its \
             ports: syngate restart haproxy --port PORT (looked at the processes of /run/haproxy.pid, ",
        ),
        (
            "restart 80",
            "ports come behind --port, as in syngate check --port 80",
        ),
        ("haproxy restart", "did you mean syngate restart haproxy?"),
        (
            "reload redis-server",
            "/etc/init.d/redis-server can't reload: syngate restart redis-server restarts it",
        ),
        (
            "restart",
            "NAME is missing: which service to restart, as in syngate restart haproxy",
        ),
        ("restart ''", "<NAME>: '': no unit is named"),
        (
            "restart ../x",
            "it is no unit's name; expected the name of a service",
        ),
        ("restart haproxy.socket", "it is no service"),
        (
            "restart -p 80 443 haproxy",
            "unexpected argument 'haproxy': ports come behind --port, with commas between: --port 80,443",
        ),
        (
            "restart haproxy nginx",
            "unexpected argument 'nginx': one NAME at a time; call syngate once for each service",
        ),
        (
            "restart haproxy -- -v",
            "'-v': nothing may come behind --: syngate restart runs its own COMMAND",
        ),
        (
            "--dry-run restart haproxy",
            "put restart first: syngate restart --dry-run haproxy",
        ),
        (
            "stop haproxy",
            "stop: no such command (restart, reload, run, status, clear, check, keep)",
        ),
        ("unlock", "did you mean clear?"),
        ("--reload haproxy", "did you mean syngate reload haproxy?"),
        ("status haproxy", "as in syngate status --port 80"),
        ("restart /etc/init.d/haproxy", "did you mean haproxy?"),
        (
            "restart haproxy --drian 1s",
            "unknown option '--drian'; did you mean --drain?",
        ),
        (
            "restart haproxy --drain 5",
            "--drain: '5': a number without a unit",
        ),
        (
            "restart haproxy --precheck true --no-precheck",
            "--precheck and --no-precheck exclude each other",
        ),
        (
            "restrat haproxy",
            "unexpected argument 'restrat'; did you mean restart?",
        ),
    ] {
        refused(&by_name(host, call), says);
    }
    // What does not fit together shows when the call is known.
    let ran = by_name(host, "restart haproxy -p 80 --reload --syn drop");
    assert_eq!(ran.code(), 125, "{ran:?}");
    assert!(
        ran.stderr
            .contains("--reload needs --syn auto, and not --syn drop"),
        "{ran:?}"
    );
    let report = report_in(&report);
    assert_eq!(
        (&report["outcome"], &report["reason"]),
        (&"not_run".into(), &"name".into())
    );
    for verb in ["restart", "reload", "run"] {
        let ran = by_name(host, &format!("{verb} --help"));
        done(&ran);
        assert!(
            ran.stdout.contains("All options of a run work, too"),
            "{ran:?}"
        );
        assert!(!ran.stdout.contains("--drain"), "{ran:?}");
    }
}

// Units --------------------------------------------------------------------------------------------

#[test]
fn a_unit_comes_before_an_init_script() {
    let pair = Pair::steered_by_flow().unwrap();
    let host = &pair.server;
    let unit = NamedUnit::of(host, "haproxy");
    let _haproxy = Haproxy::debian_init(host, &HaproxyConfig::port(80)).unwrap();
    host.must(words(&format!("{} service haproxy start", unit.within())));
    let _others = Serve::on("0.0.0.0:81")
        .and_on("[::]:82")
        .start(host)
        .unwrap();
    let clients = load(&pair, None);
    for (verb, action) in [("restart", "--syn auto"), ("reload", "--syn auto --reload")] {
        let form = long_form(&by_name(host, &format!("{verb} haproxy -n")));
        let expected = format!("--port 80 {action} {TEST} -- systemctl {verb} haproxy.service");
        assert_eq!(form, expected, "81 and 82 are others'");
        let ran = by_name(host, &format!("{verb} haproxy"));
        done(&ran);
        let first = "syngate: haproxy.service: port 80 of haproxy (pid ";
        assert!(ran.stderr.starts_with(first), "{ran:?}");
    }
    unnoticed(clients);
    assert_eq!(
        unit.asked(),
        "restart haproxy.service\nreload haproxy.service\n"
    );
}

#[test]
fn what_a_unit_can_t_do_is_told() {
    let host = &Host::new().unwrap();
    let unit = NamedUnit::of(host, "haproxy");
    let _service = Serve::on("0.0.0.0:80")
        .start_by(host, &words(&unit.within()))
        .unwrap();
    unit.tell("CanReload=no\n");
    let says = "haproxy.service can't reload: syngate restart haproxy restarts it";
    refused(&by_name(host, "reload haproxy"), says);
    unit.tell("LoadState=masked\n");
    let says = "haproxy.service: the unit is masked, so nobody can start it";
    refused(&by_name(host, "restart haproxy"), says);
    assert_eq!(unit.asked(), "");
}

#[test]
fn a_unit_without_listeners_is_told_with_what_was_looked_at() {
    let host = &Host::new().unwrap();
    let unit = NamedUnit::of(host, "haproxy");
    let _other = Serve::on("0.0.0.0:80").start(host).unwrap();
    let says = "haproxy.service listens on no TCP port: name its ports: syngate restart haproxy --port PORT (looked at \
                the control group /testkit-";
    refused(&by_name(host, "restart haproxy"), says);
    unit.tell("ActiveState=\n");
    let told = fs::read_to_string(host.dir().join("bin/told")).unwrap();
    fs::write(
        host.dir().join("bin/told"),
        told.replace("=active", "=failed"),
    )
    .unwrap();
    let ran = by_name(host, "restart haproxy");
    refused(
        &ran,
        "haproxy.service is failed, so nobody listens on its ports: systemctl start",
    );
    let form = long_form(&by_name(host, "restart haproxy --port 80 -n"));
    assert_eq!(
        form,
        "--port 80 --syn auto -- systemctl restart haproxy.service"
    );
}

/// A restart of sshd leaves its sessions, and what they forward.
#[test]
fn of_a_unit_that_spares_its_children_the_main_process_counts() {
    let host = &Host::new().unwrap();
    let unit = NamedUnit::of(host, "ssh");
    let within = words(&unit.within());
    let main = Serve::on("0.0.0.0:22").start_by(host, &within).unwrap();
    let _session = Serve::on("127.0.0.1:9000").start_by(host, &within).unwrap();
    drop(main);
    let main = Serve::on("0.0.0.0:22").start_by(host, &within).unwrap();
    let pid = host.must([
        "sh",
        "-c",
        "ss -Hltnp sport = :22 | grep -o 'pid=[0-9]*' | cut -d= -f2",
    ]);
    let form = |mode: &str| {
        unit.tell(&format!("KillMode={mode}\nMainPID={pid}"));
        long_form(&by_name(host, "restart ssh -n"))
    };
    assert!(form("process").starts_with("--port 22 "));
    assert!(form("control-group").starts_with("--port 22,9000 "));
    drop(main);
}

/// "I could not look" is not "there is none": the init script must not take its place.
#[test]
fn a_systemd_that_does_not_answer_is_no_missing_unit() {
    let host = &Host::new().unwrap();
    let _haproxy = haproxy(host, &HaproxyConfig::port(80));
    program(
        host,
        "systemctl",
        "#!/bin/sh\necho 'Failed to connect to bus'\nexit 1\n",
    );
    let form = long_form(&by_name(host, "restart haproxy -n"));
    assert!(
        form.ends_with("-- service haproxy restart"),
        "another init: {form}"
    );
    host.must(words("mkdir -p /run/systemd/system"));
    let says = "haproxy.service: systemctl: Failed to connect to bus";
    refused(&by_name(host, "restart haproxy -n"), says);
}

// What listens -------------------------------------------------------------------------------------

/// Starts the service in a unit `web`, and compares what syngate finds: the port, and the test, which succeeds.
#[track_caller]
fn finds(host: &Host, service: &str, port: u16, test: Option<&str>) {
    let unit = NamedUnit::of(host, "web");
    let dir = host.dir().display().to_string();
    let line = service.replace("DIR", &dir);
    let mut service = host.command("sh");
    service.args([
        "-c",
        &format!("exec {} {line} >{dir}/log 2>&1", unit.within()),
    ]);
    let _service = host.spawn(&mut service).unwrap();
    wait_until(SOON, &line, || host.listens(port)).unwrap();
    let form = long_form(&by_name(host, "restart web -n"));
    let test = test.map(|test| test.replace("DIR", &dir));
    let told = test.iter().map(|test| format!(" --precheck '{test}'"));
    let told: String = told.collect();
    let expected = format!("--port {port} --syn auto{told} -- systemctl restart web.service");
    assert_eq!(form, expected);
    if let Some(test) = test {
        assert_eq!(host.must(["sh", "-c", &test]), "", "{test}");
    }
    unit.ends();
    wait_until(SOON, "its end", || !host.listens(port)).unwrap();
}

#[test]
fn redis_is_found() {
    let host = &Host::new().unwrap();
    let service = "redis-server --port 6379 --save '' --bind 127.0.0.1 ::1 --dir DIR";
    finds(host, service, 6379, None);
}

#[test]
fn sshd_is_found() {
    let host = &Host::new().unwrap();
    let dir = host.dir().display().to_string();
    host.must([
        "ssh-keygen",
        "-q",
        "-t",
        "ed25519",
        "-N",
        "",
        "-f",
        &format!("{dir}/key"),
    ]);
    let config = format!("Port 2222\nListenAddress 127.0.0.1\nHostKey {dir}/key\nPidFile none\n");
    host.write("sshd", config);
    host.must(words("mkdir -p /run/sshd"));
    let service = "/usr/sbin/sshd -D -f DIR/sshd";
    finds(host, service, 2222, Some("/usr/sbin/sshd -t -f DIR/sshd"));
}

#[test]
fn a_go_program_is_found() {
    let host = &Host::new().unwrap();
    host.write("prometheus.yml", "");
    let service = "prometheus --config.file=DIR/prometheus.yml --storage.tsdb.path=DIR/tsdb \
                   --web.listen-address=:9090";
    let test = "promtool check config DIR/prometheus.yml >/dev/null";
    finds(host, service, 9090, Some(test));
}

#[test]
fn gunicorn_is_found() {
    let host = &Host::new().unwrap();
    host.write(
        "app.py",
        "def app(e, start):\n    start('200 OK', [])\n    return [b'ok']\n",
    );
    let service = "/usr/bin/python3 /usr/bin/gunicorn -w 2 -b 127.0.0.1:8000 --chdir DIR app:app";
    finds(host, service, 8000, None);
}

mod of_root {
    use super::*;

    #[test]
    fn postgresql_is_found() {
        let host = &Host::new().unwrap();
        let programs = "export PATH=$(echo /usr/lib/postgresql/*/bin):$PATH";
        let as_its_user = "setpriv --reuid postgres --regid postgres --init-groups";
        let made = format!(
            "{programs}; install -d -o postgres -g postgres -m 700 /run/pg && cd / &&
             {as_its_user} initdb -D /run/pg -A trust -N >/dev/null"
        );
        host.must(["sh", "-c", &made]);
        let service =
            format!("sh -c '{programs}; exec {as_its_user} postgres -D /run/pg -k /run/pg'");
        finds(host, &service, 5432, None);
    }

    /// Starts a service by Debian's script, and compares what is found.
    #[track_caller]
    fn finds_by_script(host: &Host, script: &str, port: u16, found: &str) {
        host.must(["service", script, "start"]);
        host.wait_listen(port).unwrap();
        let form = long_form(&by_name(host, &format!("restart {script} -n")));
        let expected = format!("--port {port} --syn auto{found} -- service {script} restart");
        assert_eq!(form, expected);
        host.must(["service", script, "stop"]);
    }

    /// An empty directory in the place of one of the machine's.
    fn own_folder(host: &Host, of: &str, folder: &str) {
        let own = host.dir().join(folder.replace('/', "-"));
        fs::create_dir(&own).unwrap();
        host.must(["chown".as_ref(), of.as_ref(), own.as_os_str()]);
        host.must(["chmod".as_ref(), "755".as_ref(), own.as_os_str()]);
        host.must(["mkdir", "-p", folder]);
        host.bind(own, folder).unwrap();
    }

    #[test]
    fn sshd_is_found_by_its_script() {
        let host = &Host::new().unwrap();
        let key = host.dir().join("key").display().to_string();
        host.must(
            words(&format!("ssh-keygen -q -t ed25519 -f {key}"))
                .into_iter()
                .chain(["-N", ""].map(str::to_owned)),
        );
        host.own_etc().unwrap();
        let config = format!("ListenAddress 127.0.0.1\nHostKey {key}\n");
        let config = host.write("sshd", config).display().to_string();
        host.must(["cp", &config, "/etc/ssh/sshd_config"]);
        host.must(words("rm -f /etc/ssh/sshd_not_to_be_run"));
        finds_by_script(host, "ssh", 22, " --precheck '/usr/sbin/sshd -t'");
    }

    #[test]
    fn prometheus_is_found_by_its_script() {
        let host = &Host::new().unwrap();
        own_folder(host, "prometheus:", "/var/lib/prometheus");
        own_folder(host, "prometheus:", "/var/log/prometheus");
        let config = host.write("prometheus.yml", "");
        host.bind(config, "/etc/prometheus/prometheus.yml").unwrap();
        finds_by_script(host, "prometheus", 9090, "");
    }

    #[test]
    fn postgresql_is_found_by_its_script() {
        let host = &Host::new().unwrap();
        host.own_etc().unwrap();
        host.must(["sh", "-c", "rm -rf /etc/postgresql/*"]);
        own_folder(host, "postgres:", "/var/lib/postgresql");
        own_folder(host, "postgres:", "/var/log/postgresql");
        let version = host.must(["sh", "-c", "ls /usr/lib/postgresql | tail -1"]);
        host.must([
            "pg_createcluster",
            version.trim(),
            "main",
            "--",
            "-A",
            "trust",
            "-N",
        ]);
        finds_by_script(host, "postgresql", 5432, "");
    }

    /// Its user could have root execute a program of its own, or load code by a configuration.
    #[test]
    fn what_another_user_can_change_is_not_tested() {
        let host = &Host::new().unwrap();
        let config = HaproxyConfig::port(80).text();
        host.must(words("install -d -o 1234 /run/theirs"));
        let theirs = host.write("haproxy.cfg", config).display().to_string();
        host.must(words(&format!("cp {theirs} /run/theirs/haproxy.cfg")));
        host.must(words("cp /usr/sbin/haproxy /run/theirs/haproxy"));
        finds(
            host,
            "/usr/sbin/haproxy -db -f /run/theirs/haproxy.cfg",
            80,
            None,
        );
        finds(
            host,
            &format!("/run/theirs/haproxy -db -f {theirs}"),
            80,
            None,
        );
    }

    /// Debian's script runs it as a user of its own.
    #[test]
    fn nobody_notices_a_restart_of_redis_by_its_name() {
        let pair = Pair::steered_by_flow().unwrap();
        let host = &pair.server;
        let config = "port 80\nbind 0.0.0.0\nprotected-mode no\nsave \"\"\ndaemonize yes\n\
                      pidfile /run/redis/redis-server.pid\ndir /run/redis\nlogfile \"\"\n";
        let config = host.write("redis.conf", config);
        fs::set_permissions(&config, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        host.bind(config, "/etc/redis/redis.conf").unwrap();
        host.must(words("sysctl -qw net.ipv4.ip_unprivileged_port_start=0"));
        host.must(words("service redis-server start"));
        host.wait_listen(80).unwrap();
        let clients = load(&pair, Some("redis"));
        for _ in 0..3 {
            let old = pids(host, "redis-server");
            let ran = by_name(host, "restart redis-server");
            done(&ran);
            let first = "syngate: /etc/init.d/redis-server: port 80 of redis-server (pid ";
            assert!(ran.stderr.starts_with(first), "{ran:?}");
            assert!(!ran.stderr.contains("precheck"), "it has none: {ran:?}");
            assert_ne!(pids(host, "redis-server"), old);
        }
        unnoticed(clients);
    }
}

//! What is in contrib for where people already work, run as it is there: by cron, as certbot and lego
//! call their hooks, by logrotate, and read by promtool.

mod harness;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::{SOON, SYNGATE, call, ms};
use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::services::{HaproxyConfig, Nginx, NginxConfig, Serve};
use testkit::{Host, Load, Pair, Ran, Running, RunningLoad, SERVER, rootless, wait_until};

const LONG: Duration = Duration::from_secs(100);

fn contrib(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("contrib")
        .join(file)
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn load(pair: &Pair) -> RunningLoad {
    let load = Load::to(format!("{SERVER}:80")).rate(300).duration(LONG);
    let mut load = load.start(&pair.client).unwrap();
    load.wait_flowing().unwrap();
    load
}

#[track_caller]
fn unnoticed(load: RunningLoad) {
    let report = load.stop().unwrap();
    assert_eq!(report.failed(), 0, "{report}");
}

/// What a host with haproxy has in `/etc/haproxy`, `/etc/default` and `/usr/local/sbin`, with contrib
/// and syngate installed; the load is to port 80.
struct Site {
    pair: Pair,
}

impl Site {
    fn new() -> Site {
        let pair = Pair::steered_by_flow().unwrap();
        let site = Site { pair };
        for (name, place) in [
            ("haproxy", "/etc/haproxy"),
            ("default", "/etc/default"),
            ("sbin", "/usr/local/sbin"),
        ] {
            fs::create_dir(site.path(name)).unwrap();
            site.host().bind(site.path(name), place).unwrap();
        }
        symlink(SYNGATE, site.path("sbin/syngate")).unwrap();
        for script in ["cron/syngate-push", "hooks/haproxy-certificate"] {
            let name = Path::new(script).file_name().unwrap();
            symlink(contrib(script), site.path("sbin").join(name)).unwrap();
        }
        site
    }

    /// With haproxy running, and the settings of contrib, which fetch the file `source`.
    fn pushing() -> Site {
        let site = Site::new();
        site.write("haproxy/haproxy.cfg", &config("one").text());
        site.host().must(["service", "haproxy", "start"]);
        site.settings("", "");
        site.source(&config("one").text());
        site
    }

    fn host(&self) -> &Host {
        &self.pair.server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host().dir().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        self.host().write(name, text);
    }

    /// contrib's settings with another of one name, which has to be there.
    fn settings(&self, name: &str, value: &str) {
        let source = self.path("source");
        let mut text = read(contrib("cron/syngate-push.default"))
            .replace("--port 80,443", "--port 80")
            .replace(
                "curl -fsS --max-time 20 https://config.example.org/haproxy.cfg",
                &format!("cat {}", source.display()),
            );
        assert!(
            text.contains("--port 80 ") && text.contains("cat "),
            "{text}"
        );
        if !name.is_empty() {
            assert!(text.contains(&format!("{name}=")), "{text}");
            text += &format!("{name}={value}\n");
        }
        self.write("default/syngate-push", &text);
    }

    fn source(&self, text: &str) {
        self.write("source", text);
    }

    fn installed(&self) -> String {
        read(self.path("haproxy/haproxy.cfg"))
    }

    fn push(&self) -> Ran {
        self.host().sh("exec syngate-push").unwrap()
    }

    fn start_push(&self) -> Running {
        let mut push = self.host().command("syngate-push");
        push.stdin(Stdio::null()).stdout(Stdio::piped());
        self.host().spawn(push.stderr(Stdio::piped())).unwrap()
    }

    /// Which generation serves: each has a name that it tells on a port of its own.
    fn serves(&self, name: &str) -> bool {
        self.host().listens(port_of(name))
    }

    /// Nothing is left beside the configuration.
    #[track_caller]
    fn tidy(&self) {
        let files = fs::read_dir(self.path("haproxy")).unwrap();
        let hidden = files
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with('.'));
        assert_eq!(hidden.collect::<Vec<_>>(), Vec::<String>::new());
    }
}

fn config(name: &str) -> HaproxyConfig {
    HaproxyConfig::port(80).and_bind(format!("ipv4@:{}", port_of(name)))
}

fn port_of(name: &str) -> u16 {
    match name {
        "one" => 8101,
        "two" => 8102,
        "three" => 8103,
        _ => panic!("{name}"),
    }
}

/// It said this one line, which has these words.
#[track_caller]
fn one_line(text: &str, words: &[&str]) {
    assert_eq!(text.lines().count(), 1, "{text}");
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[track_caller]
fn refused(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!((ran.code(), ran.stdout.as_str()), (code, ""), "{ran:?}");
    one_line(&ran.stderr, words);
}

/// The files of contrib that call syngate, or say how.
fn callers(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == "completions" {
            continue;
        }
        if path.is_dir() {
            callers(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// A reload that delays nobody by itself is not delayed by what is to protect it.
#[test]
fn what_calls_syngate_asks_for_what_delays_clients_least() {
    let mut files = Vec::new();
    callers(&contrib(""), &mut files);
    let (mut calls, mut tasks) = (0, 0);
    for file in files {
        let text = read(&file).replace("\\\n", " ");
        // The template's unit has it in its environment.
        let of_template = |call: &str| call.contains("%i.service");
        for call in text.lines().filter_map(called) {
            calls += 1;
            let auto = call.contains("--syn auto") || of_template(call);
            let reloads = ["reload", "kill -USR2", "kill -HUP"];
            let reloads = reloads.iter().any(|how| command(call).contains(how));
            assert!(auto, "{}: {call}", file.display());
            assert_eq!(
                call.contains("--reload"),
                reloads,
                "{}: {call}",
                file.display()
            );
        }
        // Tasks of Ansible; the module's defaults are the same.
        for task in text.split("syngate.syngate.syngate:").skip(1) {
            let task = task.split("\n\n").next().unwrap();
            // By its name, a service is reloaded so anyway.
            if task.contains("state: reloaded") && !task.contains("profile:") {
                tasks += 1;
                let said = task.contains("syn: auto") && task.contains("reload: true");
                assert!(said, "{}: {task}", file.display());
            }
        }
    }
    assert!(calls >= 10 && tasks >= 3, "{calls} calls, {tasks} tasks");
    let template = read(contrib("systemd/syngate-restart@.service"));
    assert!(template.contains("\nEnvironment=SYNGATE_SYN=auto\n"));
}

/// The call of syngate in a line, from its name on.
fn called(line: &str) -> Option<&str> {
    let call = &line[line.find("syngate ")?..];
    call.contains(" -- ").then_some(call)
}

fn command(call: &str) -> &str {
    call.split_once(" -- ").unwrap().1
}

#[test]
fn scripts_are_for_any_sh() {
    for script in [
        "apt/needrestart-restart",
        "cron/syngate-push",
        "hooks/haproxy-certificate",
        "keepalived/syngate-vrrp-check",
    ] {
        for checker in [&["shellcheck"][..], &["dash", "-n"]] {
            let ran = Command::new(checker[0])
                .args(&checker[1..])
                .arg(contrib(script))
                .output();
            let ran = ran.unwrap_or_else(|e| panic!("{checker:?}: {e}"));
            assert!(ran.status.success(), "{script}: {ran:?}");
        }
    }
}

// Pushes -----------------------------------------------------------------------------------------

#[test]
fn a_push_installs_and_reloads_or_says_nothing() {
    let site = Site::pushing();
    let file = site.path("haproxy/haproxy.cfg");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let owner = if rootless() { 0 } else { 123 };
    std::os::unix::fs::chown(&file, Some(owner), Some(owner)).unwrap();
    let load = load(&site.pair);

    let ran = site.push();
    assert_eq!(
        (ran.code(), ran.stdout.as_str(), ran.stderr.as_str()),
        (0, "", "")
    );
    let same = fs::metadata(&file).unwrap();

    site.source(&config("two").text());
    let ran = site.push();
    assert_eq!((ran.code(), ran.stderr.as_str()), (0, ""), "{ran:?}");
    one_line(&ran.stdout, &["haproxy.cfg", "installed", "80 was watched"]);
    assert_eq!(site.installed(), config("two").text());
    assert!(site.serves("two"));
    let new = fs::metadata(&file).unwrap();
    assert_ne!(same.ino(), new.ino(), "renamed, not written into");
    assert_eq!(
        (new.mode() & 0o7777, new.uid(), new.gid()),
        (0o640, owner, owner)
    );
    // haproxy, which it has started, has not inherited the lock.
    site.settings("LOCK_TIMEOUT", "0");
    let ran = site.push();
    assert_eq!((ran.code(), ran.stdout.as_str()), (0, ""), "{ran:?}");
    site.tidy();
    unnoticed(load);
}

/// cron mails what is on stderr, and the line of contrib throws stdout away.
#[test]
fn a_push_whose_reload_may_have_failed_warns_on_stderr() {
    let site = Site::pushing();
    site.settings("RELOAD", "'syngate --port 80 --syn auto --reload -- true'");
    site.source(&config("two").text());
    let ran = site.push();
    assert_eq!(ran.code(), 0, "{ran:?}");
    one_line(&ran.stdout, &["haproxy.cfg", "installed"]);
    let warning = "syngate: warning: nothing changed on 80 within 3s of COMMAND's exit: ";
    one_line(&ran.stderr, &[warning]);
}

#[test]
fn a_push_that_can_t_be_made_changes_nothing() {
    let site = Site::pushing();
    let load = load(&site.pair);
    let before = fs::metadata(site.path("haproxy/haproxy.cfg")).unwrap();
    let unchanged = || {
        let now = fs::metadata(site.path("haproxy/haproxy.cfg")).unwrap();
        assert_eq!((before.ino(), before.mtime()), (now.ino(), now.mtime()));
        site.tidy();
    };

    site.source(&config("two").text().replace("maxconn", "maxcorn"));
    refused(
        &site.push(),
        1,
        &["VALIDATE", "maxcorn", "nothing was changed"],
    );
    unchanged();
    site.source("");
    refused(&site.push(), 1, &["RENDER printed nothing"]);
    unchanged();
    fs::remove_file(site.path("source")).unwrap();
    refused(&site.push(), 1, &["RENDER failed with status 1", "source"]);
    unchanged();
    site.settings("RENDER", "'echo half; exit 7'");
    refused(&site.push(), 1, &["RENDER failed with status 7"]);
    unchanged();
    site.settings("RELOAD", "");
    refused(&site.push(), 1, &["RELOAD is not set"]);
    for (name, value, word) in [
        ("LOCK_TIMEOUT", "soon", "LOCK_TIMEOUT=soon"),
        ("RELOAD", "'no end", "quote"),
        ("RELOAD", "$NOT_SET", "NOT_SET"),
    ] {
        site.settings(name, value);
        refused(&site.push(), 1, &[word]);
        unchanged();
    }
    let ran = site.host().sh("exec syngate-push --timeout=5").unwrap();
    refused(&ran, 1, &["--timeout=5", "settings file"]);
    fs::remove_file(site.path("default/syngate-push")).unwrap();
    refused(&site.push(), 1, &["no such settings file"]);
    unchanged();
    unnoticed(load);
}

/// `haproxy -c` does not see that somebody else has the port.
#[test]
fn a_reload_that_fails_is_rolled_back() {
    let site = Site::pushing();
    let taken = Serve::on(format!("0.0.0.0:{}", port_of("two")));
    let _other = taken.start(site.host()).unwrap();
    let before = fs::metadata(site.path("haproxy/haproxy.cfg")).unwrap();
    let load = load(&site.pair);
    site.source(&config("two").text());
    refused(
        &site.push(),
        2,
        &["RELOAD failed", "cannot bind", "is back"],
    );
    let now = fs::metadata(site.path("haproxy/haproxy.cfg")).unwrap();
    assert_eq!(before.ino(), now.ino(), "the very file that was there");
    assert!(site.serves("one"));
    site.tidy();

    // Neither does the old one load any more: so it says, each time.
    site.settings("RELOAD", "'echo sorry; exit 4'");
    for _ in 0..2 {
        let ran = site.push();
        refused(&ran, 3, &["status 4", "sorry", "is back", "failed again"]);
        assert_eq!(
            before.ino(),
            fs::metadata(site.path("haproxy/haproxy.cfg"))
                .unwrap()
                .ino()
        );
    }
    site.settings("", "");

    // The next one is not in the way of that.
    site.source(&config("three").text());
    assert_eq!(site.push().code(), 0);
    assert!(site.serves("three"));
    unnoticed(load);
}

/// syngate's report says that nothing was run: there is nothing to reload, and the next push tries again.
#[test]
fn a_reload_that_was_not_run_is_not_repeated() {
    let site = Site::pushing();
    let calls = site.path("calls");
    let check = format!("echo >>{}; echo nowhere; exit 1", calls.display());
    let check = site.host().write("check", &check);
    let reload = format!(
        "syngate --port 80 --precheck \"sh {}\" -- true",
        check.display()
    );
    site.settings("RELOAD", &format!("'{reload}'"));
    site.source(&config("two").text());
    refused(
        &site.push(),
        2,
        &["status 125", "the gate was not closed", "is back"],
    );
    assert_eq!(site.installed(), config("one").text());
    assert_eq!(read(&calls).lines().count(), 1);
    site.tidy();
    site.settings("", "");
    assert_eq!(site.push().code(), 0);
    assert!(site.serves("two"));
}

/// Its ports are found, and its options stand in a profile.
#[test]
fn a_push_names_a_service() {
    let site = Site::pushing();
    let profile = "port=80\nready_timeout=9s\n";
    site.host().own_etc().unwrap();
    // What was bound there is hidden now.
    for (name, place) in [("haproxy", "/etc/haproxy"), ("default", "/etc/default")] {
        site.host().bind(site.path(name), place).unwrap();
    }
    site.write("profile", profile);
    let file = site.path("profile");
    let install = format!(
        "install -D -m 644 {} /etc/syngate/haproxy.conf",
        file.display()
    );
    site.host().must(["sh", "-ec", &install]);
    site.settings("RELOAD", "\nPROFILE=haproxy");
    site.source(&config("two").text());
    let ran = site.push();
    assert_eq!(ran.code(), 0, "{ran:?}");
    one_line(
        &ran.stdout,
        &["RELOAD: syngate: service haproxy reload exited with status 0; 80 was "],
    );
    assert!(site.serves("two"));
    site.settings("RELOAD", "\nPROFILE='haproxy; id'");
    refused(
        &site.push(),
        1,
        &["PROFILE=haproxy; id: no name of a service"],
    );
    site.settings("RELOAD", "\nPROFILE=nobody");
    site.source(&config("three").text());
    refused(
        &site.push(),
        2,
        &[
            "RELOAD failed with status 125",
            "nobody is no service here",
            "is back",
        ],
    );
    assert!(site.serves("two"));
    site.tidy();
}

/// Another command of RELOAD has loaded the new configuration before syngate had run nothing.
#[test]
fn a_reload_of_several_commands_is_repeated() {
    let site = Site::pushing();
    let reload = format!(
        "service haproxy reload && \
         syngate --port 80 --precheck \"! grep -q {} /etc/haproxy/haproxy.cfg\" -- true",
        port_of("two")
    );
    site.settings("RELOAD", &format!("'{reload}'"));
    site.source(&config("two").text());
    refused(&site.push(), 2, &["status 125", "is back"]);
    assert_eq!(site.installed(), config("one").text());
    assert!(site.serves("one"));
    site.tidy();
}

/// COMMAND ends with the statuses that syngate has for what was not run. It has stopped the service, and
/// only one more reload brings that back.
#[test]
fn a_reload_that_ended_with_a_status_of_syngate_s_own_is_repeated() {
    let site = Site::pushing();
    let host = site.host();
    for (status, fails) in [(127, "nosuchhelper"), (126, "exit 126"), (125, "exit 125")] {
        // As a script that stops the service, and then finds no helper to start it.
        let script = format!(
            "grep -q {} /etc/haproxy/haproxy.cfg || exec service haproxy start\n\
             service haproxy stop\n{fails}\n",
            port_of("two")
        );
        let script = host.write("reload", &script);
        let reload = format!(
            "syngate --port 80 --lock-timeout 0 -- sh {}",
            script.display()
        );
        site.settings("RELOAD", &format!("'{reload}'"));
        site.source(&config("two").text());
        refused(&site.push(), 2, &[&format!("status {status}"), "is back"]);
        assert_eq!(site.installed(), config("one").text());
        assert!(site.serves("one"), "{status}: the service is back");
        site.tidy();
    }
}

#[test]
fn two_pushes_at_once_take_turns() {
    let site = Site::pushing();
    let go = site.path("go");
    let wait = format!(
        "'until [ -e {0} ]; do sleep 0.01; done; cat {1}'",
        go.display(),
        site.path("source").display()
    );
    site.settings("RENDER", &wait);
    site.source(&config("two").text());
    let load = load(&site.pair);
    let first = site.start_push();
    let said = site.path("haproxy/.haproxy.cfg.push-said");
    wait_until(SOON, "the first push", || said.exists()).unwrap();

    site.settings("LOCK_TIMEOUT", "0");
    refused(&site.push(), 1, &["another push", "nothing was changed"]);
    site.settings("", "");
    let second = site.start_push();
    fs::write(&go, "").unwrap();
    let [first, second] = [first, second].map(|push| Ran::from(push.output().unwrap()));
    assert_eq!(
        (first.code(), second.code()),
        (0, 0),
        "{first:?} {second:?}"
    );
    one_line(&first.stdout, &["installed"]);
    assert_eq!(second.stdout, "", "nothing was left to do");
    assert!(site.serves("two"));
    site.tidy();
    unnoticed(load);
}

#[test]
fn a_push_that_was_killed_is_finished_by_the_next() {
    let site = Site::pushing();
    let load = load(&site.pair);
    let mark = site.path("mark");
    let kill_at_mark = || {
        let mut push = site.start_push();
        wait_until(SOON, "the moment", || mark.exists()).unwrap();
        push.signal(Signal::SIGKILL).unwrap();
        push.wait().unwrap();
        fs::remove_file(&mark).unwrap();
    };
    let hang = format!("touch {}; exec sleep 60", mark.display());

    // With half of the new one there.
    site.source(&config("two").text());
    site.settings("RENDER", &format!("'echo global; {hang}'"));
    kill_at_mark();
    assert_eq!(site.installed(), config("one").text());
    site.settings("", "");
    let ran = site.push();
    one_line(&ran.stdout, &["a new configuration is installed"]);
    assert!(site.serves("two"));
    site.tidy();

    // With the new one installed, and the service not reloaded: nothing is new to the next push.
    site.source(&config("three").text());
    site.settings("RELOAD", &format!("'{hang}'"));
    kill_at_mark();
    assert_eq!(site.installed(), config("three").text());
    assert!(!site.serves("three"));
    site.settings("", "");
    let ran = site.push();
    assert_eq!(ran.code(), 0, "{ran:?}");
    one_line(&ran.stdout, &["finished a push that was broken off"]);
    assert!(site.serves("three"));
    site.tidy();
    unnoticed(load);
}

/// With cron's PATH and environment, from contrib's own line; cron wakes once a minute.
#[test]
fn cron_makes_a_push() {
    let site = Site::pushing();
    let host = site.host();
    for dir in ["cron.d", "crontabs"] {
        fs::create_dir(site.path(dir)).unwrap();
    }
    site.write("crontab", "");
    // The machine's own jobs must not be run here.
    host.bind(site.path("crontab"), "/etc/crontab").unwrap();
    host.bind(site.path("cron.d"), "/etc/cron.d").unwrap();
    host.bind(site.path("crontabs"), "/var/spool/cron/crontabs")
        .unwrap();
    site.write(
        "cron.d/syngate-push",
        &read(contrib("cron/syngate-push.cron")),
    );
    site.source(&config("two").text());
    let load = load(&site.pair);
    let mut cron = host.command("/usr/sbin/cron");
    cron.arg("-f").env_clear().env("PATH", "/usr/bin:/bin");
    let _cron = host.spawn(cron.stdin(Stdio::null())).unwrap();
    let patience = Duration::from_secs(80);
    let two = config("two").text();
    wait_until(patience, "cron's push", || site.installed() == two).unwrap();
    wait_until(SOON, "a reload", || site.serves("two")).unwrap();
    wait_until(SOON, "its end", || {
        !site.path("haproxy/.haproxy.cfg.push-old").exists()
    })
    .unwrap();
    assert_eq!(site.installed(), two);
    unnoticed(load);
}

// Hooks ------------------------------------------------------------------------------------------

/// Certificate and key, new ones, in these files.
fn certificate(host: &Host, chain: &Path, key: &Path) {
    let [chain, key] = [chain, key].map(|path| path.to_str().unwrap());
    let made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=web";
    let words = ["openssl"].into_iter().chain(made.split(' '));
    host.must(words.chain(["-out", chain, "-keyout", key]));
}

fn fingerprint(host: &Host, certificate: &Path) -> String {
    let file = certificate.to_str().unwrap();
    host.must([
        "openssl",
        "x509",
        "-noout",
        "-fingerprint",
        "-sha256",
        "-in",
        file,
    ])
}

/// Of the certificate that clients get.
fn served(host: &Host) -> String {
    let ask = "openssl s_client -connect 127.0.0.1:443 </dev/null 2>/dev/null |
               openssl x509 -noout -fingerprint -sha256";
    host.must(["sh", "-c", ask])
}

#[test]
fn deploy_hooks_of_certbot_and_lego() {
    let site = Site::new();
    let host = site.host();
    for dir in ["haproxy/certs", "live", "live/web", "lego"] {
        fs::create_dir(site.path(dir)).unwrap();
    }
    let settings = read(contrib("hooks/syngate-certificate.default"));
    let settings = settings.replace("--port 443", "--port 80,443");
    site.write("default/syngate-certificate", &settings);
    let (chain, key) = (
        site.path("live/web/fullchain.pem"),
        site.path("live/web/privkey.pem"),
    );
    let pem = site.path("haproxy/certs/web.pem");
    certificate(host, &chain, &key);
    fs::write(&pem, read(&chain) + &read(&key)).unwrap();
    fs::set_permissions(&pem, fs::Permissions::from_mode(0o600)).unwrap();
    let config = HaproxyConfig::port(80).and_bind("ipv4@:443 ssl crt /etc/haproxy/certs/");
    site.write("haproxy/haproxy.cfg", &config.text());
    host.must(["service", "haproxy", "start"]);
    assert_eq!(served(host), fingerprint(host, &chain));
    let load = load(&site.pair);
    let hook = |name: &str, value: &Path| {
        let mut hook = host.command("/usr/local/sbin/haproxy-certificate");
        hook.env(name, value).env("RENEWED_DOMAINS", "web");
        Ran::from(hook.stdin(Stdio::null()).output().unwrap())
    };

    // certbot: one folder, with links to the newest files.
    certificate(host, &chain, &key);
    let ran = hook("RENEWED_LINEAGE", &site.path("live/web/"));
    assert_eq!(ran.code(), 0, "{ran:?}");
    one_line(&ran.stdout, &["web.pem", "installed"]);
    assert_eq!(served(host), fingerprint(host, &chain));
    assert_eq!(fs::metadata(&pem).unwrap().mode() & 0o7777, 0o600);

    // lego: two files side by side. A key that is not the certificate's changes nothing.
    let (chain, key) = (site.path("lego/web.crt"), site.path("lego/web.key"));
    certificate(host, &chain, &key);
    let right = read(&key);
    certificate(host, &site.path("other.crt"), &key);
    let before = read(&pem);
    let ran = hook("LEGO_CERT_PATH", &chain);
    refused(&ran, 2, &["web.pem", "status 125", "is back"]);
    assert_eq!(read(&pem), before);
    fs::write(&key, right.trim_end()).unwrap();
    let ran = hook("LEGO_CERT_PATH", &chain);
    assert_eq!(ran.code(), 0, "{ran:?}");
    assert_eq!(served(host), fingerprint(host, &chain));

    // A certificate that haproxy has not got yet, and no caller at all.
    fs::rename(&chain, site.path("lego/new.crt")).unwrap();
    fs::rename(&key, site.path("lego/new.key")).unwrap();
    let ran = hook("LEGO_CERT_PATH", &site.path("lego/new.crt"));
    assert_eq!(ran.code(), 0, "{ran:?}");
    let new = fs::metadata(site.path("haproxy/certs/new.pem")).unwrap();
    assert_eq!(new.mode() & 0o7777, 0o600);
    refused(
        &hook("NOBODY", &chain),
        1,
        &["RENEWED_LINEAGE", "LEGO_CERT_PATH"],
    );
    unnoticed(load);
}

#[test]
fn logrotate_restarts_what_has_its_logs_open() {
    let pair = Pair::steered_by_flow().unwrap();
    let host = &pair.server;
    let logs = host.dir().join("logs");
    fs::create_dir(&logs).unwrap();
    fs::set_permissions(&logs, fs::Permissions::from_mode(0o755)).unwrap();
    let (log, rotated) = (logs.join("app.log"), logs.join("app.log.1"));
    let config = NginxConfig {
        port: 8080,
        http: format!(
            "server {{ listen 80; access_log {}; location / {{ return 200 ok; }} }}",
            log.display()
        ),
        ..NginxConfig::default()
    };
    let nginx = Nginx::new(host, &config).unwrap();
    nginx.start().unwrap();
    let load = load(&pair);

    let restart = host.write(
        "restart",
        format!("#!/bin/sh\n{}\n", nginx.restart_argv()[2]),
    );
    let snippet = read(contrib("hooks/logrotate"))
        .replace("/var/log/app", logs.to_str().unwrap())
        .replace("--port 8080", "--port 80,8080")
        .replace("syngate --quiet", &format!("{SYNGATE} --quiet"))
        .replace("service app restart", &format!("sh {}", restart.display()));
    let snippet = host.write("rotate.conf", snippet);
    fs::set_permissions(&snippet, fs::Permissions::from_mode(0o644)).unwrap();
    let state = host.dir().join("rotate.state");
    let rotate = format!("logrotate -f -s {} {}", state.display(), snippet.display());
    let ran = host.sh(&rotate).unwrap();
    assert_eq!(
        (ran.code(), ran.stdout.as_str(), ran.stderr.as_str()),
        (0, "", "")
    );
    // Who was answered since is in the new one, and nobody writes to the old one.
    let written = || fs::metadata(&log).is_ok_and(|log| log.len() > 0);
    wait_until(SOON, "a line in the new log", written).unwrap();
    let holders = host.sh("ls -l /proc/[0-9]*/fd 2>/dev/null").unwrap();
    assert!(holders.stdout.contains(log.to_str().unwrap()));
    assert!(!holders.stdout.contains(rotated.to_str().unwrap()));
    unnoticed(load);
}

// Metrics ----------------------------------------------------------------------------------------

/// The metrics of these reports; what went wrong; whether all went well.
fn metrics(arguments: &[&Path]) -> (String, String, bool) {
    let ran = Command::new(contrib("prometheus/syngate-metrics"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(ran.stdout), text(ran.stderr), ran.status.success())
}

#[track_caller]
fn promtool(arguments: &[&str], input: &str) {
    let mut promtool = Command::new("promtool");
    let promtool = promtool.args(arguments).stdin(Stdio::piped());
    let mut promtool = promtool
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("promtool is needed (Debian: prometheus): {e}"));
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let ran = Ran::from(promtool.wait_with_output().unwrap());
    assert!(ran.ok(), "{ran:?}\n{input}");
    assert!(
        input.is_empty() || ran.stderr.is_empty(),
        "{ran:?}\n{input}"
    );
}

/// The value of the one sample that begins so.
#[track_caller]
fn sample(metrics: &str, begins: &str) -> f64 {
    let values: Vec<&str> = metrics
        .lines()
        .filter_map(|l| l.strip_prefix(begins))
        .collect();
    assert_eq!(values.len(), 1, "{begins}: {metrics}");
    values[0].trim().parse().unwrap()
}

/// A report of a run that went well, and one of a COMMAND that failed.
fn reports(host: &Host) -> (PathBuf, PathBuf, Value) {
    let _server = Serve::on("0.0.0.0:80").start(host).unwrap();
    let [web, app] = ["web.json", "app.json"].map(|name| host.dir().join(name));
    let held = call(host, ["--port", "80", "--syn", "auto", "--settle", "10ms"]);
    let good = held.report_to(web.clone()).run(["true"]);
    assert_eq!(good.code, 0, "{good:?}");
    let bad = call(host, ["--port", "443,8000-8010"]).report_to(app.clone());
    assert_eq!(bad.run(["sh", "-c", "exit 7"]).code, 7);
    (web, app, good.report)
}

#[test]
fn metrics_are_what_the_reports_say() {
    let host = Host::new().unwrap();
    let (web, app, good) = reports(&host);
    let (text, said, ok) = metrics(&[&web, &app]);
    assert!(ok && said.is_empty(), "{said}");
    promtool(&["check", "metrics"], &text);

    let of_web = "{report=\"web\",ports=\"80\"";
    let last = |metric: &str, more: &str| {
        let begins = format!("syngate_last_run_{metric}{of_web}{more}}}");
        sample(&text, &begins)
    };
    assert!((last("closed_seconds", "") * 1e3 - ms(&good, "closed_ms")).abs() < 1e-6);
    assert_eq!(last("outcome", ",outcome=\"ok\""), 1.0);
    assert_eq!(last("outcome", ",outcome=\"not_ready\""), 0.0);
    let action = format!(",action=\"{}\"", good["action"].as_str().unwrap());
    assert_eq!(last("stopped_syns", &action), ms(&good, "syns_stopped"));
    let started = good["started_at"].as_str().unwrap();
    let date = host.must(["date", "-d", started, "+%s.%3N"]);
    let off = last("timestamp_seconds", "") - date.trim().parse::<f64>().unwrap();
    assert!(off.abs() < 0.002, "{off}");

    let of_app = "{report=\"app\",ports=\"443,8000-8010\"";
    let status = format!("syngate_last_run_exit_status{of_app}}}");
    assert_eq!(sample(&text, &status), 7.0);
    let failed = format!("syngate_last_run_outcome{of_app},outcome=\"command_failed\"}}");
    assert_eq!(sample(&text, &failed), 1.0);

    // A folder is its reports; the file is there in one step, for all to read, and alone.
    let dir = host.dir().join("reports");
    fs::create_dir(&dir).unwrap();
    for name in ["web.json", "app.json"] {
        fs::copy(host.dir().join(name), dir.join(name)).unwrap();
    }
    let prom = dir.join("syngate.prom");
    let (printed, said, ok) = metrics(&[Path::new("--output"), &prom, &dir]);
    assert!(ok && said.is_empty() && printed.is_empty(), "{said}");
    assert_eq!(fs::metadata(&prom).unwrap().mode() & 0o7777, 0o644);
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&read(&prom)), sorted(&text));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);

    // One that is not there yet has none; one for the output has to be there.
    let nowhere = host.dir().join("nowhere");
    let none = metrics(&[&nowhere]);
    assert_eq!(none, (String::new(), String::new(), true));
    let (_, said, ok) = metrics(&[Path::new("--output"), &nowhere.join("x.prom"), &dir]);
    assert!(!ok);
    one_line(&said, &["No such file", "/nowhere'"]);
}

#[test]
fn a_broken_report_takes_nothing_from_the_others() {
    let host = Host::new().unwrap();
    let (web, _, good) = reports(&host);
    let (alone, ..) = metrics(&[&web]);
    let of_web: Vec<&str> = alone.lines().filter(|l| l.contains("\"web\"")).collect();
    let broken = host.dir().join("new\"line\n.json");
    let check = || {
        let (text, said, ok) = metrics(&[&broken, &web]);
        assert!(!ok, "{text}");
        one_line(&said, &["syngate-metrics: ", "line"]);
        promtool(&["check", "metrics"], &text);
        let name = r#"syngate_report_readable{report="new\"line\n"}"#;
        assert_eq!(sample(&text, name), 0.0);
        for line in &of_web {
            assert!(text.lines().any(|l| l == *line), "{line}: {text}");
        }
        let others = text.lines().filter(|l| l.contains("new\\\"line"));
        assert_eq!(others.count(), 1, "{text}");
    };

    check(); // not there
    let whole = read(&web);
    for part in [0, 1, whole.len() / 2, whole.trim_end().len() - 1] {
        fs::write(&broken, &whole[..part]).unwrap();
        check();
    }
    let deep = "[".repeat(200_000);
    for text in [b"\xff\xfe", &b"null"[..], b"[]", b"{}", deep.as_bytes()] {
        fs::write(&broken, text).unwrap();
        check();
    }
    for (field, value) in [
        ("version", "2"),
        ("exit_status", "\"0\""),
        ("exit_status", "true"),
        ("exit_status", &"9".repeat(400)),
        ("closed_ms", "NaN"),
        ("closed_ms", "1e999"),
        ("closed_ms", "[]"),
        ("syns_stopped", "{}"),
        ("outcome", "\"o\\\"k\""),
        ("outcome", "null"),
        ("started_at", "\"yesterday\""),
        ("started_at", "7"),
        ("ports", "[80]"),
        ("ports", "\"80\""),
        ("phases", "[1]"),
        ("hold", "\"\""),
        ("warnings", "null"),
        ("reclosed", "null"),
    ] {
        let mut report = good.clone();
        report[field] = "the value".into();
        let text = report.to_string().replace("\"the value\"", value);
        fs::write(&broken, text).unwrap();
        check();
    }
    fs::remove_file(&broken).unwrap();
    nix::unistd::mkfifo(&broken, nix::sys::stat::Mode::S_IRWXU).unwrap();
    check(); // and does not wait for somebody to write
}

/// keep needs more than a user namespace has.
mod of_root {
    use super::*;
    use crate::harness::keep::{Keep, shared, waiting_client};

    /// What a living keep tells of itself, and that it is gone.
    #[test]
    fn metrics_of_keeps_are_what_status_says() {
        let host = &Host::new().unwrap();
        let server = shared().start(host).unwrap();
        let look = || {
            let mut script = host.command(contrib("prometheus/syngate-metrics"));
            let ran = script.args(["--syngate", SYNGATE]).output().unwrap();
            let ran = Ran::from(ran);
            assert!(ran.ok() && ran.stderr.is_empty(), "{ran:?}");
            promtool(&["check", "metrics"], &ran.stdout);
            assert_eq!(sample(&ran.stdout, "syngate_status_readable "), 1.0);
            ran.stdout
        };
        assert_eq!(look().lines().count(), 6, "no keep, and no report");
        let keep = Keep::on(host, "--port 443 --max-wait 4s");
        let of = |text: &str, metric: &str| {
            let begins =
                format!("syngate_keep_{metric}{{keep=\"--port 80 --port 443 --max-wait 4s\"}}");
            sample(text, &begins)
        };
        let up =
            |text: &str, port: u16| sample(text, &format!("syngate_keep_up{{port=\"{port}\"}}"));
        let text = look();
        assert_eq!(
            (up(&text, 80), up(&text, 443)),
            (1.0, 1.0),
            "443: nobody listens"
        );
        assert_eq!(
            (of(&text, "gaps_total"), of(&text, "longest_wait_seconds")),
            (0.0, 0.0)
        );

        let server = keep.bridges(server);
        drop(server);
        let waits = waiting_client(host);
        assert_eq!(of(&look(), "waiting_connections"), 1.0);
        keep.says(1, "(--max-wait)");
        assert_eq!(waits.finish().unwrap().failed(), 1);
        let counted = || of(&look(), "gaps_total") == 2.0;
        wait_until(SOON, "two gaps", counted).unwrap();
        let text = look();
        let counts = [
            "waited_connections_total",
            "reset_connections_total",
            "waiting_connections",
        ];
        assert_eq!(counts.map(|metric| of(&text, metric)), [2.0, 1.0, 0.0]);
        let longest = of(&text, "longest_wait_seconds");
        assert!(
            0.5 < longest && longest < 8.0 * f64::from(testkit::slow() as u32),
            "{longest}"
        );
        keep.ends(0);
        assert_eq!(sample(&look(), "syngate_keeps "), 0.0);

        let server = shared().start(host).unwrap();
        let mut keep = Keep::on(host, "");
        keep.running.signal(Signal::SIGKILL).unwrap();
        keep.running.wait().unwrap();
        let text = look();
        assert_eq!(up(&text, 80), 0.0, "the guard goes on");
        assert_eq!(sample(&text, "syngate_keeps "), 0.0);
        assert!(!text.contains("total"), "{text}");
        Keep::on(host, "").ends(1);
        drop(server);
    }
}

#[test]
fn a_status_that_can_t_be_read_takes_nothing_from_the_reports() {
    let host = Host::new().unwrap();
    let (web, ..) = reports(&host);
    let (alone, ..) = metrics(&[&web]);
    let program = host.write("status", "");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let gate = |kept: &str| {
        format!(
            r#"echo '{{"version": 1, "gates": [{{"stale": false, "waiting": 0, "kept": {kept}}}]}}'"#
        )
    };
    for (script, says) in [
        ("exit 1".to_owned(), "exit status 1: it said nothing"),
        ("echo no privilege >&2; exit 1".to_owned(), "no privilege"),
        ("echo '{'".to_owned(), "no JSON"),
        (
            "echo '{\"version\": 2}'".to_owned(),
            "not a status of version 1",
        ),
        (gate(r#"{"ports": 80}"#), "it has no ports"),
        (
            gate(r#"{"ports": ["\"80"], "gaps": 0}"#),
            "its ports are none",
        ),
        (
            gate(r#"{"ports": ["80"], "gaps": "many"}"#),
            "gaps is 'many'",
        ),
    ] {
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        let (text, said, ok) = metrics(&[Path::new("--syngate"), &program, &web]);
        assert!(!ok, "{script}: {text}");
        one_line(&said, &["syngate-metrics: '/", says]);
        promtool(&["check", "metrics"], &text);
        assert_eq!(sample(&text, "syngate_status_readable "), 0.0, "{script}");
        assert!(text.starts_with(&alone), "{text}");
    }
    let (_, said, ok) = metrics(&[Path::new("--syngate"), Path::new("/nowhere/syngate")]);
    assert!(!ok);
    one_line(&said, &["/nowhere/syngate", "No such file"]);
    let (.., said, ok) = metrics(&[]);
    assert!(!ok && said.contains("--syngate"), "{said}");
}

#[test]
fn alert_rules_are_rules_and_fire() {
    let rules = contrib("prometheus/syngate.rules.yml");
    promtool(&["check", "rules", rules.to_str().unwrap()], "");
    let tests = contrib("prometheus/syngate.rules.test.yml");
    promtool(&["test", "rules", tests.to_str().unwrap()], "");
}

/// A crash between the two would otherwise leave an empty file of that name.
#[test]
fn what_replaces_a_file_is_on_the_disk_before_it_takes_the_name() {
    let host = Host::new().unwrap();
    let dir = host.dir().display().to_string();
    host.write(
        "settings",
        format!("TARGET={dir}/target\nRENDER='echo new'\nVALIDATE=true\nRELOAD=true\n"),
    );
    let syngate = format!("{SYNGATE} -q -p80 --drain 0 --report-file {dir}/report -- true");
    let metrics = contrib("prometheus/syngate-metrics");
    let metrics = format!("{} --output {dir}/prom /nowhere", metrics.display());
    let push = format!("{} {dir}/settings", contrib("cron/syngate-push").display());
    for (call, file) in [(syngate, "report"), (metrics, "prom"), (push, "target")] {
        let trace = host.dir().join("trace");
        let calls = "trace=fsync,rename,renameat,renameat2";
        let strace = format!("strace -f -qq -y -o {} -e {calls} {call}", trace.display());
        let ran = host.sh(&strace).unwrap();
        assert!(ran.ok(), "{ran:?}");
        // `PID fsync(3</…/.syngate-1>) = 0`, `PID renameat(3</…>, ".syngate-1", 3</…>, "report") = 0`
        let trace = read(&trace);
        let done: Vec<&str> = trace.lines().filter(|l| l.ends_with(" = 0")).collect();
        let names_it = format!("{file}\"");
        let is_rename = |line: &&str| line.contains("rename") && line.contains(&names_it);
        let renamed = done.iter().position(is_rename).expect(&trace);
        let draft = done[renamed]
            .split('"')
            .nth(1)
            .unwrap()
            .rsplit('/')
            .next()
            .unwrap();
        let synced = format!("{draft}>)");
        let synced = |line: &&str| line.contains("fsync(") && line.contains(&synced);
        assert!(done[..renamed].iter().any(synced), "{file}: {trace}");
    }
}

// Drop-ins of systemd ----------------------------------------------------------------------------

/// A unit of Debian's with our drop-in.
struct Unit {
    name: &'static str,
}

impl Unit {
    fn of_debian(&self) -> PathBuf {
        PathBuf::from(format!("/lib/systemd/system/{}.service", self.name))
    }

    fn drop_in(&self) -> PathBuf {
        contrib(&format!("systemd/{}.service.d/syngate.conf", self.name))
    }

    /// The values of a setting, in their order; an empty one takes back those before it.
    fn values(&self, setting: &str) -> Vec<String> {
        let text = read(self.of_debian()) + &read(self.drop_in());
        let mut values = Vec::new();
        for line in text.lines() {
            match line.strip_prefix(setting).and_then(|l| l.strip_prefix('=')) {
                Some("") => values.clear(),
                Some(value) => values.push(value.to_owned()),
                None => (),
            }
        }
        values
    }

    /// A call of the unit's, for sh: it takes quotes and variables as systemd does, as they are there.
    fn script(&self, call: &str, main_pid: &str) -> String {
        let mut script =
            "set -a; PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin\n".to_owned();
        for values in self.values("Environment") {
            script += &format!("export {values}\n");
        }
        for file in self.values("EnvironmentFile") {
            let file = file
                .strip_prefix('-')
                .expect("the service starts without it");
            script += &format!("[ ! -e {file} ] || . {file}\n");
        }
        let call = call.trim_start_matches(['+', '-']);
        script + &format!("MAINPID={main_pid}\nexec {call}\n")
    }

    /// `systemctl reload`.
    #[track_caller]
    fn reload(&self, host: &Host, main_pid: &str) {
        let calls = self.values("ExecReload");
        assert!(calls.len() == 2, "a test, and the reload: {calls:?}");
        for call in calls {
            let ran = host.sh(&self.script(&call, main_pid)).unwrap();
            assert!(ran.ok(), "{call}: {ran:?}");
        }
    }
}

const HAPROXY: Unit = Unit { name: "haproxy" };
const NGINX: Unit = Unit { name: "nginx" };

/// Together with Debian's own units; and it would say so if there were any.
#[test]
fn systemd_finds_no_fault_with_the_drop_ins() {
    let site = Site::new();
    for unit in [HAPROXY, NGINX] {
        let name = format!("{}.service", unit.name);
        fs::copy(unit.of_debian(), site.path(&name)).unwrap();
        let drop_ins = site.path(&format!("{name}.d"));
        fs::create_dir(&drop_ins).unwrap();
        fs::copy(unit.drop_in(), drop_ins.join("syngate.conf")).unwrap();
        let verify = || {
            let file = site.path(&name);
            let mut verify = site.host().command("systemd-analyze");
            verify.args(["verify", "--man=no"]).arg(file);
            let ran = Ran::from(verify.output().unwrap());
            (ran.ok(), ran.stdout + &ran.stderr)
        };
        assert_eq!(verify(), (true, String::new()), "{name}");
        fs::write(drop_ins.join("z.conf"), "[Service]\nNoSuchSetting=1\n").unwrap();
        let (_, said) = verify();
        assert!(said.contains("NoSuchSetting"), "{said}");
        fs::remove_file(drop_ins.join("z.conf")).unwrap();
    }
}

/// As systemd would call them: nobody notices, and nobody was stopped.
fn reloaded_by(unit: &Unit, site: &Site, configure: impl Fn(&str), main_pid: &str) {
    let report = site.path("report.json");
    let settings = format!(
        "SYNGATE_PORT=80\nSYNGATE_REPORT_FILE={}\n",
        report.display()
    );
    site.write(&format!("default/syngate-{}", unit.name), &settings);
    let load = load(&site.pair);
    for name in ["two", "three", "one"] {
        configure(name);
        unit.reload(site.host(), main_pid);
        wait_until(SOON, name, || site.serves(name)).unwrap();
        let report: Value = serde_json::from_str(&read(&report)).unwrap();
        assert_eq!(report["outcome"], "ok", "{report:#}");
        // In a user namespace, handover is not to be had.
        assert_eq!(report["action"] == "handover", !rootless(), "{report:#}");
        fs::remove_file(site.path("report.json")).unwrap();
    }
    unnoticed(load);
}

/// Starts what the unit starts; its main process, as the host knows it.
fn started(unit: &Unit, site: &Site, pid_file: &str) -> (Running, String) {
    let calls = unit.values("ExecStart");
    let [call] = &calls[..] else {
        panic!("{calls:?}");
    };
    let mut start = site.host().command("sh");
    start
        .args(["-c", &unit.script(call, "")])
        .stdin(Stdio::null());
    let running = site.host().spawn(start.stderr(Stdio::null())).unwrap();
    let cat = || site.host().sh(&format!("cat {pid_file}")).unwrap();
    wait_until(SOON, pid_file, || cat().stdout.ends_with('\n')).unwrap();
    site.host().wait_listen(80).unwrap();
    (running, cat().stdout.trim().to_owned())
}

#[test]
fn haproxy_s_drop_in_reloads_it() {
    let site = Site::new();
    let configure = |name: &str| site.write("haproxy/haproxy.cfg", &config(name).text());
    configure("one");
    let (_haproxy, pid) = started(&HAPROXY, &site, "/run/haproxy.pid");
    reloaded_by(&HAPROXY, &site, configure, &pid);
}

#[test]
fn nginx_s_drop_in_reloads_it() {
    let site = Site::new();
    for (name, place) in [("nginx", "/etc/nginx"), ("log", "/var/log/nginx")] {
        fs::create_dir(site.path(name)).unwrap();
        site.host().bind(site.path(name), place).unwrap();
    }
    let configure = |name: &str| {
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|of| {
                format!(
                    "{of}_temp_path {}/nginx-temp;\n",
                    site.host().dir().display()
                )
            })
            .concat();
        let text = format!(
            "user root root; worker_processes 2; pid /run/nginx.pid;
             events {{ worker_connections 4000; }}
             http {{
                 access_log off; {temporary}
                 server {{ listen 80 reuseport; listen {}; return 200 ok; }}
             }}",
            port_of(name)
        );
        site.write("nginx/nginx.conf", &text);
    };
    configure("one");
    let (_nginx, pid) = started(&NGINX, &site, "/run/nginx.pid");
    reloaded_by(&NGINX, &site, configure, &pid);
}

/// The unit that closes a gate for a restart by somebody else, and the one that restarts by itself.
#[test]
fn both_units_that_close_gates_may_do_the_same() {
    let may = |unit: &str| {
        let text = read(contrib(&format!("systemd/{unit}@.service")));
        let at = text.find("\nCapabilityBoundingSet=").expect(unit);
        text[at..].to_owned()
    };
    let restart = may("syngate-restart");
    assert!(restart.lines().count() > 15, "{restart}");
    assert_eq!(may("syngate-closed"), restart);
}

// needrestart ------------------------------------------------------------------------------------

/// As needrestart 3.6 to 3.9 call it (restart_cmd): by its path alone, with NR_VERBOSE=1 if they are to be verbose.
/// tests/ci/test-systemd has needrestart itself.
#[test]
fn the_hook_for_needrestart_restarts_the_unit_whose_name_it_has() {
    let host = Host::new().unwrap();
    let hook = contrib("apt/needrestart-restart");
    let bin = host.dir().join("bin");
    fs::create_dir(&bin).unwrap();
    let systemctl = host.write(
        "bin/systemctl",
        "#!/bin/sh\necho \"$@\" >>$CALLS\nexit ${STATUS-0}\n",
    );
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let calls = host.dir().join("calls");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
    let defaults = host.dir().join("default");
    fs::create_dir(&defaults).unwrap();
    host.bind(&defaults, "/etc/default").unwrap();
    for name in ["haproxy", "postgresql@15-main"] {
        host.write(&format!("default/syngate-{name}"), "SYNGATE_PORT=80\n");
    }
    let called_as = |name: &str, variable: (&str, &str)| {
        let link = host.dir().join(name);
        symlink(&hook, &link).unwrap();
        let mut call = host.command(&link);
        call.env("PATH", &path).env("CALLS", &calls);
        let ran = Ran::from(call.env(variable.0, variable.1).output().unwrap());
        fs::remove_file(&link).unwrap();
        let called = fs::read_to_string(&calls).unwrap_or_default();
        let _ = fs::remove_file(&calls);
        (ran, called)
    };
    for name in ["haproxy", "postgresql@15-main"] {
        let (ran, called) = called_as(&format!("{name}.service"), ("NR_VERBOSE", "0"));
        let said = (ran.code(), ran.stdout.as_str(), ran.stderr.as_str());
        assert_eq!(said, (0, "", ""), "{ran:?}");
        assert_eq!(called, format!("start syngate-restart@{name}.service\n"));
    }
    let (ran, _) = called_as("haproxy.service", ("NR_VERBOSE", "1"));
    assert!(
        ran.ok() && ran.stderr.contains("+ systemctl start "),
        "{ran:?}"
    );
    let (ran, called) = called_as("haproxy.service", ("STATUS", "5"));
    let journal = "journalctl -u syngate-restart@haproxy";
    refused(&ran, 5, &["haproxy.service was not restarted", journal]);
    assert_eq!(called.lines().count(), 1, "never without a gate: {called}");
    let (ran, _) = called_as("nginx.service", ("STATUS", "1"));
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert!(
        ran.stderr.contains("no /etc/default/syngate-nginx"),
        "{ran:?}"
    );
    let (ran, called) = called_as("haproxy", ("NR_VERBOSE", "0"));
    refused(&ran, 64, &["needs the name of a unit"]);
    assert_eq!(called, "");
}

/// What a drop-in must not do, the unit's name in the place of another.
#[test]
fn no_drop_in_asks_systemd_for_its_own_unit() {
    for unit in [HAPROXY, NGINX] {
        for call in unit.values("ExecReload") {
            assert!(
                !call.contains("systemctl") && !call.contains("service "),
                "{call}"
            );
        }
    }
}

//! Profiles in /etc/syngate: what they say wins over what is found, others can't write them, and what is wrong in one
//! is told before anything is done.

mod harness;

use std::fs;

use harness::named::{by_name, done, long_form, program, refused};
use harness::{call, report_in, words};
use testkit::services::{Haproxy, HaproxyConfig, Serve};
use testkit::{Host, Load, Pair, SERVER};

/// A host with a folder for profiles of its own.
fn host() -> Host {
    let host = Host::new().unwrap();
    with_folder(&host);
    host
}

fn with_folder(host: &Host) {
    host.own_etc().unwrap();
    host.must(words("rm -rf /etc/syngate"));
    host.must(words("mkdir -m 755 /etc/syngate"));
}

fn write(host: &Host, name: &str, text: &str) {
    let file = host.write("profile", text);
    let install = format!("install -m 644 {} /etc/syngate/{name}.conf", file.display());
    host.must(words(&install));
}

/// Its port and its command are its own.
#[test]
fn nobody_notices_the_run_of_a_profile() {
    let pair = Pair::steered_by_flow().unwrap();
    let host = &pair.server;
    with_folder(host);
    let haproxy = Haproxy::debian_init(host, &HaproxyConfig::port(80)).unwrap();
    haproxy.start().unwrap();
    let report = host.dir().join("report.json");
    let text = format!(
        "# what the shop needs\nport = 80\ndrain=2s\nprecheck='haproxy -c -f /etc/haproxy/haproxy.cfg'\n\
         REPORT_FILE={}\ncommand=sh -c 'service haproxy restart; exit 0'\n",
        report.display()
    );
    write(host, "shop", &text);
    let load = Load::to(format!("{SERVER}:80")).rate(300);
    let mut clients = load.start(&pair.client).unwrap();
    clients.wait_flowing().unwrap();
    for word in ["run", "restart"] {
        let old = host.must(words("pgrep -x haproxy"));
        let ran = by_name(host, &format!("{word} shop"));
        done(&ran);
        assert!(
            ran.stderr
                .starts_with("syngate: /etc/syngate/shop.conf: port 80\n"),
            "{ran:?}"
        );
        assert_ne!(host.must(words("pgrep -x haproxy")), old);
        let report = report_in(&report);
        assert_eq!(report["outcome"], "ok", "{report:#}");
        assert_eq!(report["command"][0], "sh", "{report:#}");
    }
    let clients = clients.stop().unwrap();
    assert_eq!(clients.failed(), 0, "{clients}");
    let says = "shop is a profile alone (/etc/syngate/shop.conf), and no service that can reload: syngate run shop";
    refused(&by_name(host, "reload shop"), says);
    let form = long_form(&by_name(host, "run shop -n --no-precheck --port 81"));
    let expected = format!(
        "--port 81 --syn auto --drain 2s --report-file {} -- sh -c 'service haproxy restart; exit 0'",
        report.display()
    );
    assert_eq!(form, expected);
}

#[test]
fn a_profile_of_a_service_has_its_options() {
    let host = &host();
    let haproxy = Haproxy::debian_init(host, &HaproxyConfig::port(80).and_bind(":81")).unwrap();
    haproxy.start().unwrap();
    write(
        host,
        "haproxy",
        "syn=hold\nsettle=1s\nno_precheck=yes\nallow_local=yes\nbest_effort=no\n",
    );
    let form = |call: &str| {
        let ran = by_name(host, call);
        let form = long_form(&ran);
        let what = "syngate: /etc/init.d/haproxy with /etc/syngate/haproxy.conf: port";
        assert!(ran.stderr.starts_with(what), "{ran:?}");
        form
    };
    let found = "--port 80-81 --syn hold --settle 1s --allow-local -- service haproxy restart";
    assert_eq!(form("restart haproxy -n"), found);
    let given = "--port 80-81 --syn drop --settle 2s --allow-local -- service haproxy restart";
    assert_eq!(form("restart haproxy -n --syn drop --settle 2s"), given);
    write(host, "haproxy", "port=81\nprecheck=true\ncommand=false\n");
    let own = "--port 81 --syn auto --precheck true -- service haproxy restart";
    assert_eq!(form("restart haproxy -n"), own);
    let ran = host.sh(&format!(
        "SYNGATE_PORT=82 SYNGATE_SYN=drop {} run haproxy -n",
        harness::SYNGATE
    ));
    let form = long_form(&ran.unwrap());
    assert_eq!(
        form, "--port 82 --syn drop --precheck true -- false",
        "the environment wins"
    );
}

#[test]
fn the_environment_turns_off_a_switch_of_a_profile() {
    let host = &host();
    write(
        host,
        "shop",
        "port=80\nreload=yes\nbest_effort=yes\ncommand=true\n",
    );
    let form = |variables: &str| {
        let call = format!("{variables} {} run shop -n", harness::SYNGATE);
        long_form(&host.sh(&call).unwrap())
    };
    let expected = "--port 80 --syn auto --reload --best-effort -- true";
    assert_eq!(form(""), expected);
    assert_eq!(form("SYNGATE_RELOAD="), expected);
    let expected = "--port 80 --syn auto --best-effort -- true";
    assert_eq!(form("SYNGATE_RELOAD=no"), expected);
}

/// Where the run would refuse both. Each dry run is planned, so it would be refused here, too.
#[test]
fn what_is_given_wins_over_what_it_excludes_in_a_profile() {
    let host = &host();
    for (profile, call, expected) in [
        (
            "ready-check=true",
            "--ready-url tcp:80",
            "--syn auto --ready-url tcp:80",
        ),
        (
            "ready-url=tcp:80",
            "--ready-check true",
            "--syn auto --ready-check true",
        ),
        ("syn=redirect=8080\nstandby=web", "--syn hold", "--syn hold"),
        (
            "syn=redirect=8080\nstandby=web",
            "--reload",
            "--syn auto --reload",
        ),
        ("drain-cmd=bye", "--drain 0", "--syn auto --drain 0"),
        ("drain-cmd=bye", "--reload", "--syn auto --reload"),
        (
            "drain-cmd=bye\ndrain=5s",
            "--syn handover",
            "--syn handover",
        ),
        ("reload=yes", "--syn hold", "--syn hold"),
        ("quiet=yes", "-v", "--syn auto"),
        (
            "ready-check=true",
            "--ready-timeout 0",
            "--syn auto --ready-timeout 0",
        ),
    ] {
        write(host, "web", &format!("port=80\ncommand=true\n{profile}\n"));
        let form = long_form(&by_name(host, &format!("run web -n {call}")));
        assert_eq!(
            form,
            format!("--port 80 {expected} -- true"),
            "{profile}: {call}"
        );
    }
    // As do variables.
    write(
        host,
        "web",
        "port=80\ncommand=true\nquiet=yes\nready-check=false\n",
    );
    let call = "SYNGATE_VERBOSE=1 SYNGATE_READY_URL=tcp:80";
    let ran = host.sh(&format!("{call} {} run web -n", harness::SYNGATE));
    let ran = ran.unwrap();
    let form = long_form(&ran);
    assert_eq!(form, "--port 80 --syn auto --ready-url tcp:80 -- true");
    assert!(ran.stderr.contains("web.conf: port 80"), "{ran:?}");
}

/// The service comes first, and what it does is no hand-over.
#[test]
fn a_restart_of_a_service_is_neither_the_profile_s_reload_nor_its_command() {
    let host = &host();
    let haproxy = Haproxy::debian_init(host, &HaproxyConfig::port(80)).unwrap();
    haproxy.start().unwrap();
    let text = "reload=yes\nno_precheck=yes\ncommand=true\n";
    write(host, "haproxy", text);
    let unused = "syngate: /etc/syngate/haproxy.conf: its command is not run, since \
                  /etc/init.d/haproxy is there; syngate run haproxy runs it\n";
    for (word, action) in [("restart", "--syn auto"), ("reload", "--syn auto --reload")] {
        let ran = by_name(host, &format!("{word} haproxy -n"));
        let expected = format!("--port 80 {action} -- service haproxy {word}");
        assert_eq!(long_form(&ran), expected);
        assert!(ran.stderr.contains(unused), "{ran:?}");
    }
    let ran = by_name(host, "run haproxy -n -p 80");
    assert_eq!(long_form(&ran), "--port 80 --syn auto --reload -- true");
    assert!(!ran.stderr.contains("not run"), "{ran:?}");
}

/// It is left out only where connections are handed over.
#[test]
fn a_reload_by_hold_has_the_drain_of_the_profile() {
    let host = &host();
    let haproxy = Haproxy::debian_init(host, &HaproxyConfig::port(80)).unwrap();
    haproxy.start().unwrap();
    let text = "syn=hold\ndrain=5s\ndrain-until=connections\nno_precheck=yes\n";
    write(host, "haproxy", text);
    let form = |options: &str| long_form(&by_name(host, &format!("reload haproxy -n {options}")));
    let drains =
        "--port 80 --syn hold --drain 5s --drain-until connections -- service haproxy reload";
    assert_eq!(form(""), drains);
    let hands_over = "--port 80 --syn auto --reload -- service haproxy reload";
    assert_eq!(form("--syn auto"), hands_over);
}

#[test]
fn what_is_wrong_in_a_profile_is_told_with_file_and_line() {
    let host = &host();
    for (text, says) in [
        (
            "port=80\n\ndrain=5\n",
            ", line 3: drain: '5': a number without a unit; expected ",
        ),
        (
            "prot=80\n",
            ", line 1: prot: there is no such key; expected the name of an option",
        ),
        (
            "port=80\nport=81\n",
            ", line 2: port is given twice, first in line 1",
        ),
        (
            "command=a && b\n",
            ", line 1: command: 'a && b': & is for a shell",
        ),
        ("nonsense\n", ", line 1: 'nonsense': expected KEY=value"),
        (
            "port=80\n",
            " has no command; expected one, such as command=service web restart",
        ),
        (
            "command=true\n",
            " has no port; expected one, such as port=80,443",
        ),
    ] {
        write(host, "web", text);
        for word in ["run web", "restart web", "check web"] {
            refused(
                &by_name(host, word),
                &format!("syngate: /etc/syngate/web.conf{says}"),
            );
        }
    }
    let long = format!("# {}\n", "x".repeat(70_000));
    write(host, "web", &long);
    refused(
        &by_name(host, "run web"),
        "web.conf: it has more than 65536 bytes",
    );
}

/// It has command lines, which root runs.
#[test]
fn a_profile_that_others_can_write_is_refused() {
    let host = &host();
    let _service = Serve::on("0.0.0.0:80").start(host).unwrap();
    for (done_to_it, says) in [
        (
            "chmod 666 /etc/syngate/web.conf",
            "others may write to it (mode 666): chmod go-w",
        ),
        (
            "chmod 777 /etc/syngate",
            "others may write to /etc/syngate (mode 777): chmod go-w",
        ),
        (
            "rm /etc/syngate/web.conf; mkfifo /etc/syngate/web.conf",
            "it is no regular file",
        ),
        (
            "rm /etc/syngate/web.conf; mkdir /etc/syngate/web.conf",
            "it is no regular file",
        ),
    ] {
        host.must(words("rm -rf /etc/syngate"));
        host.must(words("rm -rf /etc/syngate"));
        host.must(words("mkdir -m 755 /etc/syngate"));
        write(host, "web", "port=80\ncommand=true\n");
        done(&by_name(host, "run web --ready-timeout 0"));
        host.must(["sh", "-ec", done_to_it]);
        for word in ["run", "restart", "check"] {
            let ran = by_name(host, &format!("{word} web"));
            refused(&ran, &format!("/etc/syngate/web.conf: {says}"));
        }
    }
}

#[test]
fn check_shows_what_a_name_stands_for() {
    let host = &host();
    let haproxy = Haproxy::debian_init(host, &HaproxyConfig::port(80)).unwrap();
    haproxy.start().unwrap();
    write(
        host,
        "haproxy",
        "drain=2s\nport=80\nno_precheck=yes\ncommand=true\n",
    );
    let ran = by_name(host, "check haproxy");
    done(&ran);
    let form = "syngate --port 80 --syn auto --drain 2s -- service haproxy restart";
    let shown = format!("  - restart is:\n      {form}\n");
    let answer = "yes: syngate restart haproxy gates 80 by ";
    assert!(ran.stdout.starts_with(answer), "{ran:?}");
    let name = "\nthe name\n  - /etc/init.d/haproxy with /etc/syngate/";
    assert!(ran.stdout.contains(name), "{ran:?}");
    assert!(ran.stdout.contains(&shown), "{ran:?}");
    let advised = "use syngate for restarts:\n      syngate restart haproxy\n";
    let one_line = ran.stdout.replace("\n        ", " ");
    assert!(one_line.contains(advised), "{ran:?}");
    assert!(
        ran.stdout.contains("\nthe service\n") && ran.stdout.contains(":80 "),
        "{ran:?}"
    );
    let ran = by_name(host, "check haproxy --json");
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let name = &json["name"];
    assert_eq!(name["restart"], form);
    assert_eq!(name["ports"], serde_json::json!(["80"]));
    let reload = "syngate --port 80 --syn auto --reload -- service haproxy reload";
    assert_eq!(name["reload"], reload);
    assert_eq!(
        name["run"],
        "syngate --port 80 --syn auto --drain 2s -- true"
    );
    refused(&by_name(host, "check nobody"), "nobody is no service here");
    let ran = call(host, ["-p", "80"]).run(["true"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let plain = by_name(host, "check --json");
    let json: serde_json::Value = serde_json::from_str(&plain.stdout).unwrap();
    assert_eq!(json["name"], serde_json::Value::Null);
}

mod of_root {
    use super::*;

    /// Of another user's folder nothing is taken, not even through a link of root's.
    #[test]
    fn a_profile_of_another_user_is_refused() {
        let host = &host();
        write(host, "web", "port=80\ncommand=true\n");
        host.must(words("chown 1234 /etc/syngate/web.conf"));
        let says = "web.conf: it belongs to user 1234, who could change what is in it";
        refused(&by_name(host, "run web"), says);
        host.must(words("rm -r /etc/syngate"));
        let theirs = "install -d -o 1234 /run/theirs; ln -s /run/theirs /etc/syngate;
                      echo port=80 >/run/theirs/web.conf";
        host.must(["sh", "-ec", theirs]);
        refused(
            &by_name(host, "run web"),
            "/run/theirs belongs to user 1234",
        );
        let file = fs::read_to_string("/etc/syngate/web.conf");
        assert!(file.is_err(), "the machine has none");
    }
}

/// contrib/profiles, as they are.
#[test]
fn the_examples_are_profiles() {
    let host = &host();
    let haproxy = Haproxy::debian_init(host, &HaproxyConfig::port(80)).unwrap();
    haproxy.start().unwrap();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/profiles");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        if file
            .extension()
            .is_some_and(|extension| extension == "conf")
        {
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            write(host, &name, &fs::read_to_string(&file).unwrap());
            found.push(name);
        }
    }
    found.sort();
    assert_eq!(found, ["haproxy", "postgresql", "web"]);
    let form = long_form(&by_name(host, "restart haproxy -n --no-precheck"));
    assert!(form.contains(" --drain 10s "), "{form}");
    let form = long_form(&by_name(host, "restart postgresql -n --no-precheck"));
    assert!(form.contains(" --ready-check 'pg_isready -q' "), "{form}");
    program(host, "supervisorctl", "#!/bin/sh\n");
    let form = long_form(&by_name(host, "run web -n"));
    assert!(
        form.contains(" --ready-url http://127.0.0.1:8080/health "),
        "{form}"
    );
    assert!(form.ends_with(" -- supervisorctl restart web"), "{form}");
}

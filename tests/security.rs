//! What other users do to be in the way: they put something else where the locks, or the report, are to
//! be. Nothing of a third party's is harmed, and the run ends as it should.

mod harness;

/// Each host has several users: these tests need root.
mod of_several_users {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::{Path, PathBuf};

    use serde_json::Value;
    use testkit::{Host, Ran, Running, wait_until};

    use crate::harness::keep::{Keep, shared};
    use crate::harness::latch::Latch;
    use crate::harness::{Call, Outcome, SOON, SYNGATE, call, gated, words};

    const QUICK: &str = "-q --port 80 --drain 0 --ready-timeout 0";
    /// Who is in the way.
    const OTHER: &str = "4711";
    const AS_OTHER: &str = "setpriv --reuid 4711 --regid 4711 --clear-groups";

    fn sh(script: impl Into<String>) -> Vec<String> {
        vec!["sh".to_owned(), "-c".to_owned(), script.into()]
    }

    /// Somebody's file, which nobody has asked to be written.
    struct Victim(PathBuf);

    impl Victim {
        const CONTENT: &str = "what matters\n";

        fn new(host: &Host) -> Victim {
            Victim(host.write("victim", Victim::CONTENT))
        }

        fn path(&self) -> &str {
            self.0.to_str().unwrap()
        }

        #[track_caller]
        fn is_whole(&self, what: &str) {
            let content = fs::read_to_string(&self.0).unwrap();
            assert_eq!(content, Victim::CONTENT, "{what}");
        }
    }

    // Locks --------------------------------------------------------------------------------------

    /// A folder of locks with a mode and an owner of its own.
    fn locks(host: &Host, mode: &str, owner: &str) -> PathBuf {
        let dir = host.dir().join("locks");
        let _ = fs::remove_dir_all(&dir);
        let path = dir.to_str().unwrap();
        host.must(["install", "-d", "-m", mode, "-o", owner, path]);
        dir
    }

    fn locked_in<'a>(host: &'a Host, dir: &Path) -> Call<'a> {
        call(host, words(QUICK)).env("SYNGATE_LOCK_DIR", dir.to_str().unwrap())
    }

    /// COMMAND was not run, no gate was made, and the line says these words.
    #[track_caller]
    fn refused(host: &Host, outcome: &Outcome, what: &str, says: &[&str]) {
        assert_eq!(outcome.code, 125, "{what}: {outcome:?}");
        assert_eq!(outcome.report["reason"], "lock", "{what}: {outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{what}: {outcome:?}");
        for word in says.iter().chain(&["SYNGATE_LOCK_DIR"]) {
            assert!(outcome.stderr.contains(word), "{what}: {word}: {outcome:?}");
        }
        assert!(!ran(host) && !gated(host), "{what}");
    }

    fn mark(host: &Host) -> [PathBuf; 2] {
        ["touch".into(), host.dir().join("ran")]
    }

    fn ran(host: &Host) -> bool {
        host.dir().join("ran").exists()
    }

    #[test]
    fn a_lock_folder_that_others_can_change_is_refused() {
        let host = Host::new().unwrap();
        for (mode, owner, says) in [
            ("755", OTHER, "belongs to user 4711"),
            ("700", OTHER, "belongs to user 4711"),
            ("777", "0", "(mode 777): chmod go-w"),
            ("1777", "0", "(mode 1777): chmod go-w"),
            ("775", "0", "(mode 775): chmod go-w"),
        ] {
            let dir = locks(&host, mode, owner);
            let what = format!("{mode} of {owner}");
            let outcome = locked_in(&host, &dir).run(mark(&host));
            refused(&host, &outcome, &what, &[says, dir.to_str().unwrap()]);
            // A link of the other's leads there as well.
            let link = host.dir().join("link");
            let _ = fs::remove_file(&link);
            symlink(&dir, &link).unwrap();
            let outcome = locked_in(&host, &link).run(mark(&host));
            refused(&host, &outcome, &what, &[says]);
            // Nothing was made in it.
            assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "{what}");
        }
        // The usual place is looked at as well.
        host.must(["install", "-d", "-o", OTHER, "/run/syngate"]);
        let outcome = call(&host, words(QUICK)).run(mark(&host));
        refused(&host, &outcome, "/run/syngate", &["belongs to user 4711"]);

        // A link that leads to a good one today.
        let dir = locks(&host, "755", "0");
        let link = host.dir().join("link");
        host.must(["chown", "-h", OTHER, link.to_str().unwrap()]);
        let outcome = locked_in(&host, &link).run(mark(&host));
        refused(&host, &outcome, "a link", &["belongs to user 4711"]);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);

        // Only its owner can lock it.
        let modes = format!("stat -c %a {}/*", dir.display());
        let outcome = locked_in(&host, &dir).run(sh(modes));
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(outcome.stdout, "600\n");
    }

    #[test]
    fn what_stands_in_place_of_the_lock_file_is_refused() {
        let host = Host::new().unwrap();
        let victim = Victim::new(&host);
        let dir = locks(&host, "755", "0");
        let namespace = host.must(["stat", "-L", "-c", "%i", "/proc/self/ns/net"]);
        let file = dir.join(format!("net-{}.lock", namespace.trim()));
        let path = file.to_str().unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        for (make, says) in [
            (
                format!("ln -s {} {path}", victim.path()),
                "is a symbolic link",
            ),
            (
                format!("ln -s {}/new {path}", dir.display()),
                "is a symbolic link",
            ),
            (format!("ln {} {path}", victim.path()), "a hard link"),
            (format!("mkfifo {path}"), "is no regular file"),
            (format!("mkdir {path}"), "directory"),
            (
                format!("install -m 666 -o {OTHER} /dev/null {path}"),
                "belongs to user 4711",
            ),
        ] {
            host.must(sh(&make));
            let outcome = locked_in(&host, &dir).run(mark(&host));
            let names_it = if says == "directory" { says } else { name };
            refused(&host, &outcome, &make, &[says, names_it]);
            victim.is_whole(&make);
            // Neither does anybody who only looks wait for it: the locks are seen, or said not to be.
            let locks = format!("SYNGATE_LOCK_DIR={}", dir.display());
            let look = ["env", &locks, "timeout", "10", SYNGATE, "status"];
            let status = host.command(look[0]).args(&look[1..]).output().unwrap();
            let said = String::from_utf8_lossy(&status.stderr);
            match status.status.code() {
                Some(0) => (),
                Some(1) => assert!(said.contains("not seen: the locks"), "{make}: {said}"),
                _ => panic!("{make}: {status:?}"),
            }
            host.must(["rm", "-r", path]);
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "nothing was made");
    }

    /// With a file of its own in a folder that was open to it once, another user locks all ports.
    #[test]
    fn a_lock_that_another_user_holds_keeps_nobody_waiting() {
        let host = Host::new().unwrap();
        let dir = locks(&host, "777", "0");
        let namespace = host.must(["stat", "-L", "-c", "%i", "/proc/self/ns/net"]);
        let file = dir.join(format!("net-{}.lock", namespace.trim()));
        let latch = Latch::new(&host, "locked");
        let here = host.dir().join("locked.here");
        host.must(["install", "-m", "666", "/dev/null", here.to_str().unwrap()]);
        let script = format!(
            "import fcntl, os, time\n\
             f = open('{}', 'w')\n\
             os.chmod(f.name, 0o666)\n\
             fcntl.lockf(f, fcntl.LOCK_EX)\n\
             print(os.getpid(), file=open('{}', 'w'), flush=True)\n\
             time.sleep(600)",
            file.display(),
            here.display()
        );
        let mut python = host.command("setpriv");
        python
            .args(&words(AS_OTHER)[1..])
            .args(["/usr/bin/python3", "-c", &script]);
        let _holder = host.spawn(&mut python).unwrap();
        latch.wait();
        host.must(["chmod", "755", dir.to_str().unwrap()]);
        let outcome = locked_in(&host, &dir).run(mark(&host));
        refused(&host, &outcome, "held", &["belongs to user 4711"]);
        // The way out is the one that it names.
        fs::remove_file(&file).unwrap();
        let outcome = locked_in(&host, &dir).run(mark(&host));
        assert_eq!(outcome.code, 0, "{outcome:?}");
    }

    // Reports ------------------------------------------------------------------------------------

    /// A folder like /tmp.
    fn common(host: &Host) -> PathBuf {
        let dir = host.dir().join("tmp");
        host.must(["install", "-d", "-m", "1777", dir.to_str().unwrap()]);
        dir
    }

    fn as_other(host: &Host, script: &str) {
        host.must([words(AS_OTHER), sh(script)].concat());
    }

    /// The run went well, but for its report.
    #[track_caller]
    fn unreported(host: &Host, outcome: &Outcome, what: &str) {
        assert_eq!(outcome.code, 7, "{what}: {outcome:?}");
        assert!(!gated(host), "{what}");
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        let told = lines.iter().filter(|line| line.contains("--report-file"));
        assert_eq!(told.count(), 1, "{what}: {lines:?}");
    }

    /// keep adds lines to a file. It must not be one that somebody else has put there, by a link or a second
    /// name, also while keep lives.
    #[test]
    fn keep_adds_to_no_stranger_s_file() {
        let host = Host::new().unwrap();
        let mut server = shared().start(&host).unwrap();
        let victim = Victim::new(&host);
        let report = common(&host).join("gaps.jsonl");
        let path = report.to_str().unwrap();
        let options = format!("--report-file {path}");
        let refused = |says: &str| {
            let keep = format!("timeout 10 {SYNGATE} keep --port 80 {options}");
            let ran = host.sh(&keep).unwrap();
            assert_eq!(ran.code(), 125, "{ran:?}");
            assert!(ran.stderr.contains(says), "{ran:?}");
            victim.is_whole(says);
            host.must(["rm", path]);
        };
        as_other(&host, &format!("ln -s {} {path}", victim.path()));
        refused("is not followed");
        fs::hard_link(&victim.0, &report).unwrap();
        refused("it is not written to, as it has another name, too");
        as_other(&host, &format!("touch {path}"));
        refused("it is not written to, as others may write to");

        let link = format!("ln -s {} {path}", victim.path());
        let link = || as_other(&host, &link);
        let name = || fs::hard_link(&victim.0, &report).unwrap();
        for plant in [&link as &dyn Fn(), &name] {
            let keep = Keep::on(&host, &options);
            plant();
            server = keep.bridges(server);
            keep.says(1, "warning: --report-file: '");
            victim.is_whole("beside a keep");
            host.must(["rm", path]);
            server = keep.bridges(server);
            keep.ends(1);
            assert!(fs::read_to_string(path).unwrap().ends_with("}\n"));
            host.must(["rm", path]);
        }
    }

    /// Also where fs.protected_symlinks is off: such hosts need the protection.
    #[test]
    fn a_stranger_s_link_is_not_followed() {
        let host = Host::new().unwrap();
        let victim = Victim::new(&host);
        let dir = common(&host);
        let report = dir.join("report.json");
        let path = report.to_str().unwrap();
        let run = || {
            let command = format!("{} {QUICK} --report-file {path} -- sh -c 'exit 7'", SYNGATE);
            let ran = host.sh(&command).unwrap();
            Outcome {
                code: ran.code(),
                stdout: ran.stdout,
                stderr: ran.stderr,
                report: Value::Null,
            }
        };
        let new = host.dir().join("new");
        for target in [victim.path(), new.to_str().unwrap(), "/dev/full"] {
            as_other(&host, &format!("ln -s {target} {path}"));
            let outcome = run();
            assert_eq!(outcome.code, 125, "{target}: {outcome:?}");
            assert!(outcome.stderr.contains("is not followed"), "{outcome:?}");
            assert!(!gated(&host), "{target}");
            victim.is_whole(target);
            assert!(!new.exists(), "{target}");
            assert!(report.is_symlink(), "{target}: it is the other's");
            fs::remove_file(&report).unwrap();
        }
        // Our own is what we asked for.
        symlink(&new, &report).unwrap();
        let outcome = run();
        assert_eq!(outcome.code, 7, "{outcome:?}");
        assert!(!outcome.stderr.contains("--report-file"), "{outcome:?}");
        assert!(
            fs::read_to_string(&new)
                .unwrap()
                .contains("\"exit_status\": 7")
        );
        assert!(report.is_symlink());
        fs::remove_file(&report).unwrap();

        // A name of the victim's is replaced, and the victim left alone.
        fs::hard_link(&victim.0, &report).unwrap();
        assert_eq!(run().code, 7);
        victim.is_whole("a hard link");
        assert_eq!(fs::metadata(&report).unwrap().uid(), 0);
        fs::remove_file(&report).unwrap();

        // Nobody reads from it; and a folder is seen before anything is changed.
        for (make, code) in [("mkfifo", 7), ("mkdir", 125)] {
            as_other(&host, &format!("{make} {path}"));
            let outcome = run();
            assert_eq!(outcome.code, code, "{make}: {outcome:?}");
            assert!(outcome.stderr.contains("--report-file"), "{outcome:?}");
            assert!(!gated(&host), "{make}");
            host.must(["rm", "-r", path]);
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "no draft is left");
    }

    /// Its name is a secret until COMMAND runs, and then it does no good either.
    #[test]
    fn the_draft_of_the_report_is_no_way_in() {
        let host = Host::new().unwrap();
        let victim = Victim::new(&host);
        let dir = common(&host);
        let report = dir.join("report.json");
        let draft = format!("{}/.syngate-$SYNGATE_RUN", dir.display());
        for make in [
            format!("ln -s {} {draft}", victim.path()),
            format!("ln {} {draft}", victim.path()),
            format!("mkfifo {draft}"),
            format!("echo mine >{draft}"),
        ] {
            let call = call(&host, words(QUICK)).report_to(report.clone());
            let outcome = call.run(sh(format!("{make} || exit 1; exit 7")));
            unreported(&host, &outcome, &make);
            victim.is_whole(&make);
            assert!(!report.exists(), "{make}");
            let left = fs::read_dir(&dir).unwrap().count();
            assert_eq!(left, 1, "{make}: what is not ours is left alone");
            host.must(sh(format!("rm {}/.syngate-*", dir.display())));
        }
    }

    #[test]
    fn a_full_disk_keeps_the_last_report() {
        let host = Host::new().unwrap();
        let dir = host.dir().join("small");
        let script = format!(
            "mkdir {0} && mount -t tmpfs -o size=8k none {0}",
            dir.display()
        );
        host.must(sh(script));
        let report = dir.join("report.json");
        // As the host sees it: the mount is its own.
        let inside = |script: &str| host.must(sh(format!("cd {} && {script}", dir.display())));
        inside("echo last >report.json; head -c 4096 /dev/zero >rest");
        let call = call(&host, words(QUICK)).report_to(report);
        let outcome = call.run(sh("exit 7"));
        unreported(&host, &outcome, "a full disk");
        assert!(outcome.stderr.contains("No space left"), "{outcome:?}");
        assert_eq!(
            inside("ls -A; cat report.json"),
            "report.json\nrest\nlast\n"
        );
        // One that can't be written to at all is told before anything is changed.
        inside("mount -o remount,ro .");
        let outcome = call.run(mark(&host));
        assert_eq!(outcome.code, 125, "{outcome:?}");
        assert!(outcome.stderr.contains("--report-file"), "{outcome:?}");
        assert!(!ran(&host) && !gated(&host));
        assert_eq!(
            inside("ls -A; cat report.json"),
            "report.json\nrest\nlast\n"
        );
    }

    // Files that root writes in folders of others ---------------------------------------------------

    /// A file that root alone reads, in a folder where nobody else makes files.
    struct Secret {
        folder: PathBuf,
        was: (u64, u32, u32, u64),
    }

    impl Secret {
        fn new(host: &Host) -> Secret {
            let folder = host.dir().join("private");
            host.must(sh(format!(
                "mkdir {0} && echo secret >{0}/file && chmod 600 {0}/file",
                folder.display()
            )));
            let was = Secret::facts(&folder);
            Secret { folder, was }
        }

        /// Inode, owner, mode, names.
        fn facts(folder: &Path) -> (u64, u32, u32, u64) {
            let file = fs::metadata(folder.join("file")).unwrap();
            (file.ino(), file.uid(), file.mode(), file.nlink())
        }

        #[track_caller]
        fn is_untouched(&self, what: &str) {
            let content = fs::read_to_string(self.folder.join("file")).unwrap();
            assert_eq!(content, "secret\n", "{what}");
            assert_eq!(Secret::facts(&self.folder), self.was, "{what}");
            let names = fs::read_dir(&self.folder).unwrap().count();
            assert_eq!(names, 1, "{what}: something was made beside it");
        }
    }

    /// Another user who puts links to the secret in the place of files as fast as can be: of those with
    /// these names, of every draft that appears, and of the folder `door`, whose place is taken by a link
    /// to the folder of the secret every other time.
    fn planting(host: &Host, secret: &Secret, folder: &Path, names: &[&str]) -> Running {
        let began = host.dir().join("planting");
        let _ = fs::remove_file(&began);
        host.must(["install", "-m", "666", "/dev/null", began.to_str().unwrap()]);
        let script = r#"
import os, sys, time
began, secret, folder, *names = sys.argv[1:]
door = os.path.join(folder, "door")
def attempt(do, *arguments):
    try: do(*arguments)
    except OSError: pass
def plant(name):
    attempt(os.unlink, name)
    attempt(os.symlink, secret + "/file", name)
rounds = 0
while True:
    for place in folder, door:
        for name in names:
            plant(os.path.join(place, name))
        try: there = os.listdir(place)
        except OSError: there = []
        for name in there:
            if name.startswith(".") and not os.path.islink(os.path.join(place, name)):
                plant(os.path.join(place, name))
    attempt(os.rename, door, door + ".aside")
    attempt(os.symlink, secret, door)
    attempt(os.unlink, door)
    attempt(os.rename, door + ".aside", door)
    rounds += 1
    time.sleep(0.001)
    if rounds == 3: print("began", file=open(began, "w"), flush=True)
"#;
        let mut python = host.command("setpriv");
        python.args(&words(AS_OTHER)[1..]);
        python.args(["/usr/bin/python3", "-c", script]);
        python
            .arg(&began)
            .arg(&secret.folder)
            .arg(folder)
            .args(names);
        let running = host.spawn(&mut python).unwrap();
        let has_begun = || fs::metadata(&began).is_ok_and(|file| file.len() > 0);
        wait_until(SOON, "the other user", has_begun).unwrap();
        running
    }

    const DRAFTS: [&str; 3] = [".file.push-new", ".file.push-said", ".file.push-old"];
    /// How often the other user gets a chance. One is mostly enough where nothing prevents it.
    const CHANCES: usize = 3;

    /// A push by root of that target, and what it says.
    fn push(host: &Host, target: &Path) -> Ran {
        let settings = host.write(
            "settings",
            format!(
                "TARGET={}\nRENDER='sleep 0.02; echo new; date +%N'\nVALIDATE='sleep 0.02'\nRELOAD=true\n",
                target.display()
            ),
        );
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/cron/syngate-push");
        host.sh(&format!("sh {script} {}", settings.display()))
            .unwrap()
    }

    #[test]
    fn a_push_writes_only_where_nobody_else_leads_it() {
        let host = Host::new().unwrap();
        let secret = Secret::new(&host);
        let at = |name: &str| host.dir().join(name);
        let make = |script: &str| host.must(sh(format!("cd {} && {script}", host.dir().display())));
        make(&format!(
            "mkdir safe theirs && mkdir theirs/door && chown -R {OTHER} theirs && mkdir theirs/ours"
        ));
        make(&format!(
            "for m in 777 1777; do mkdir $m; chmod $m $m; done; mkdir 2775; chgrp {OTHER} 2775; chmod 2775 2775"
        ));
        make(&format!(
            "mkdir theirs/linked; ln -s {}/file theirs/linked/file",
            secret.folder.display()
        ));
        make(&format!(
            "chown -R -h {OTHER} theirs/linked; ln -s ../theirs/linked/file safe/through"
        ));
        for (target, says) in [
            ("theirs/file", "belongs to user 4711"),
            ("theirs/door/file", "belongs to user 4711"),
            ("theirs/ours/file", "belongs to user 4711"),
            ("theirs/linked/file", "belongs to user 4711"),
            ("safe/through", "belongs to user 4711"),
            ("777/file", "(mode 777)"),
            ("1777/file", "(mode 1777)"),
            ("2775/file", "(mode 2775)"),
        ] {
            let target = at(target);
            let _other = planting(&host, &secret, target.parent().unwrap(), &DRAFTS);
            for _ in 0..CHANCES {
                let ran = push(&host, &target);
                secret.is_untouched(&format!("{}: {ran:?}", target.display()));
                assert_eq!((ran.code(), ran.stdout.as_str()), (1, ""), "{ran:?}");
                assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
                for word in [says, "nothing was changed"] {
                    assert!(ran.stderr.contains(word), "{word}: {ran:?}");
                }
            }
        }
        // A link of root's stays one, and the file that it leads to is replaced.
        make("mkdir safe/other; echo old >safe/other/file; ln -s other/file safe/link");
        for target in ["safe/file", "safe/link"] {
            let ran = push(&host, &at(target));
            assert_eq!((ran.code(), ran.stderr.as_str()), (0, ""), "{ran:?}");
            assert!(fs::read_to_string(at(target)).unwrap().starts_with("new\n"));
        }
        assert!(at("safe/link").is_symlink());
        // Settings of another user's are code that root would run.
        push(&host, &at("theirs/file"));
        make(&format!(
            "chown {OTHER} settings; echo 'touch {}/ran' >>settings",
            host.dir().display()
        ));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/cron/syngate-push");
        let ran = host
            .sh(&format!("sh {script} {}", at("settings").display()))
            .unwrap();
        assert!(
            ran.code() == 1 && ran.stderr.contains("belongs to user 4711"),
            "{ran:?}"
        );
        assert!(!at("ran").exists());
    }

    #[test]
    fn a_report_and_metrics_go_only_where_nobody_else_leads_them() {
        let host = Host::new().unwrap();
        let secret = Secret::new(&host);
        let theirs = host.dir().join("theirs");
        host.must(sh(format!(
            "mkdir -p {0}/door && chown -R {OTHER} {0}",
            theirs.display()
        )));
        let names = ["report.json", "new", "syngate.prom"];
        let _other = planting(&host, &secret, &theirs, &names);
        let metrics = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/contrib/prometheus/syngate-metrics"
        );
        for folder in [theirs.clone(), theirs.join("door")] {
            let at = |name: &str| folder.join(name).display().to_string();
            for _ in 0..CHANCES {
                for name in ["report.json", "file"] {
                    let report = at(name);
                    let run = format!("{SYNGATE} {QUICK} --report-file {report} -- sh -c 'exit 7'");
                    let ran = host.sh(&run).unwrap();
                    // Told before the gate is closed, if the folder is not there at that moment.
                    assert!([7, 125].contains(&ran.code()), "{ran:?}");
                    secret.is_untouched(&format!("{report}: {ran:?}"));
                }
                for name in ["syngate.prom", "file"] {
                    let prom = at(name);
                    let ran = host
                        .sh(&format!("{metrics} --output {prom} /nowhere"))
                        .unwrap();
                    secret.is_untouched(&format!("{prom}: {ran:?}"));
                }
            }
        }
    }

    /// Where nobody plants links, a folder of another user's is as good as any.
    #[test]
    fn reports_and_metrics_get_into_the_folder_of_another_user() {
        let host = Host::new().unwrap();
        let theirs = host.dir().join("theirs");
        host.must(["install", "-d", "-o", OTHER, theirs.to_str().unwrap()]);
        let [report, prom] = ["report.json", "syngate.prom"].map(|name| theirs.join(name));
        let call = call(&host, words(QUICK)).report_to(report.clone());
        let outcome = call.run(["true"]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert!(outcome.report["outcome"] == "ok", "{outcome:?}");
        let metrics = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/contrib/prometheus/syngate-metrics"
        );
        let (report, prom) = (report.to_str().unwrap(), prom.to_str().unwrap());
        host.must([metrics, "--output", prom, report]);
        assert!(
            fs::read_to_string(prom)
                .unwrap()
                .contains("syngate_last_run_outcome")
        );
        assert_eq!(
            fs::read_dir(&theirs).unwrap().count(),
            2,
            "no draft is left"
        );
    }

    /// In a folder of the other's, or through one, the folder of the locks could be another one tomorrow.
    #[test]
    fn a_lock_folder_that_others_can_take_away_is_refused() {
        let host = Host::new().unwrap();
        let theirs = host.dir().join("theirs");
        let script = format!(
            "mkdir {0} && cd {0} && mkdir ours ../locks ../sticky && ln -s ../locks link && \
             chown -h {OTHER} . link && ln -s theirs/link ../way && chmod 1777 ../sticky",
            theirs.display()
        );
        host.must(sh(script));
        for (dir, says) in [
            ("theirs/ours", "belongs to user 4711"),
            ("theirs/link", "belongs to user 4711"),
            ("way", "belongs to user 4711"),
            ("theirs/new", "belongs to user"),
        ] {
            let dir = host.dir().join(dir);
            let outcome = locked_in(&host, &dir).run(mark(&host));
            refused(&host, &outcome, says, &[says]);
        }
        for dir in ["locks", "sticky/new"] {
            let outcome = locked_in(&host, &host.dir().join(dir)).run(mark(&host));
            assert_eq!(outcome.code, 0, "{outcome:?}");
            fs::remove_file(host.dir().join("ran")).unwrap();
        }
    }
}

//! What other users do to be in the way: they put something else where the locks, or the report, are to
//! be. Nothing of a third party's is harmed, and the run ends as it should.

mod harness;

/// Each host has several users: these tests need root.
mod of_several_users {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::{Path, PathBuf};

    use serde_json::Value;
    use testkit::Host;

    use crate::harness::latch::Latch;
    use crate::harness::{Call, Outcome, SYNGATE, call, gated, words};

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

        let outcome = locked_in(&host, &dir).run(mark(&host));
        assert_eq!(outcome.code, 0, "{outcome:?}");
        // Only its owner can lock it.
        let made: Vec<_> = fs::read_dir(&dir).unwrap().map(Result::unwrap).collect();
        assert_eq!(made.len(), 1);
        assert_eq!(made[0].metadata().unwrap().mode() & 0o7777, 0o600);
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
            // Neither does anybody who only looks wait for it.
            let locks = format!("SYNGATE_LOCK_DIR={}", dir.display());
            let look = ["env", &locks, "timeout", "10", SYNGATE, "status"];
            let status = host.command(look[0]).args(&look[1..]).output().unwrap();
            assert_eq!(status.status.code(), Some(0), "{make}: {status:?}");
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

    /// Whatever fs.protected_symlinks is here: hosts without it are the ones to be protected.
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
            unreported(&host, &outcome, target);
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
}

//! Keeps that are killed at random moments, under load: as they begin, follow one that was killed, stand by, are in a
//! gap, give way to a run, or end. While the guard lives, no client notices it, and neither `clear` nor the next keep
//! leaves anything of it. `make kill-keep` does it 200 times.

mod harness;
mod killing;

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use harness::keep::{Keep, shared, waiting_client};
use harness::kept::flowing;
use harness::rooms::{GUARD, all_served, nothing_is_left, shares_port};
use harness::{SOON, SYNGATE, syngate, tell, words};
use killing::Moment;
use nix::sys::signal::Signal;
use testkit::services::Serve;
use testkit::{Host, Running, slow, wait_until};

/// What the keep does when it is killed.
#[derive(Debug, Clone, Copy)]
enum Doing {
    Begins,
    /// In the place of one that was killed.
    Follows,
    StandsBy,
    Bridges,
    StandsBack,
    Ends,
}

impl Doing {
    const ALL: [Doing; 6] = [
        Doing::Begins,
        Doing::Follows,
        Doing::StandsBy,
        Doing::Bridges,
        Doing::StandsBack,
        Doing::Ends,
    ];

    /// How long it takes, about.
    fn span(self) -> Duration {
        let ms = match self {
            Doing::StandsBy => 50,
            Doing::Begins | Doing::Follows | Doing::Ends => 200,
            Doing::Bridges => 250,
            Doing::StandsBack => 500,
        };
        Duration::from_millis(ms * u64::from(slow()))
    }
}

struct Service<'a> {
    host: &'a Host,
    restart: Vec<String>,
    options: &'a str,
    shares_port: String,
}

impl<'a> Service<'a> {
    /// Its restart has a gap of 60 ms.
    fn start(host: &'a Host, serve: &Serve, options: &'a str) -> Service<'a> {
        let serve = serve.clone().start_delay(Duration::from_millis(60));
        let restart = serve.start_daemon(host).unwrap().reload_argv();
        Service {
            host,
            restart,
            options,
            shares_port: shares_port(host),
        }
    }

    /// Has it do that, and kills it a moment later.
    fn kill(&self, doing: Doing, moment: Duration) -> Keep<'_> {
        let mut keep = match doing {
            Doing::Begins => self.start_keep(),
            Doing::Follows => {
                let mut before = Keep::on(self.host, self.options);
                before.running.signal(Signal::SIGKILL).unwrap();
                before.running.wait().unwrap();
                self.start_keep()
            }
            _ => Keep::on(self.host, self.options),
        };
        let beside = match doing {
            Doing::Begins | Doing::Follows | Doing::StandsBy => None,
            Doing::Bridges => Some(self.call(&self.restart)),
            Doing::StandsBack => {
                let run = format!("{SYNGATE} --port 80 --syn handover --ready-timeout 0s -- true");
                Some(self.call(&words(&run)))
            }
            Doing::Ends => {
                keep.running.signal(Signal::SIGTERM).unwrap();
                None
            }
        };
        std::thread::sleep(moment); // a moment is what is wanted here, not a state
        // It may have ended.
        let _ = keep.running.signal(Signal::SIGKILL);
        keep.running.wait().unwrap();
        if let Some(mut beside) = beside {
            assert!(beside.wait().unwrap().success(), "{doing:?} {moment:?}");
        }
        keep
    }

    fn start_keep(&self) -> Keep<'_> {
        Keep::start(self.host, &format!("--port 80 {}", self.options))
    }

    fn call(&self, words: &[String]) -> Running {
        let mut command = self.host.command(&words[0]);
        self.host.spawn(command.args(&words[1..])).unwrap()
    }

    /// All of it goes, by `clear` or by the next keep.
    fn clear(&self, by_keep: bool) {
        match by_keep {
            true => drop(Keep::on(self.host, self.options).ends(1)),
            false => assert_eq!(syngate(self.host, "clear").code(), 0),
        }
        nothing_is_left(self.host, 1);
        assert_eq!(shares_port(self.host), self.shares_port);
    }
}

/// One line for each kill: those that are there are not repeated.
struct Log(Option<(File, usize)>);

impl Log {
    fn of(name: &str) -> Log {
        let Ok(folder) = std::env::var("SYNGATE_KILL_LOG") else {
            return Log(None);
        };
        let path = format!("{folder}/kill-keep-{name}.txt");
        let before = fs::read_to_string(&path).unwrap_or_default();
        let file = File::options().create(true).append(true).open(path);
        Log(Some((file.unwrap(), before.lines().count())))
    }

    fn done(&self) -> usize {
        self.0.as_ref().map_or(0, |(_, lines)| *lines)
    }

    fn add(&mut self, line: &str) {
        if let Some((file, _)) = &mut self.0 {
            writeln!(file, "{line}").unwrap();
        }
    }
}

fn kill_again_and_again(name: &str, serve: &Serve, options: &str) {
    let times: usize = std::env::var("SYNGATE_KILLS").map_or(5, |n| n.parse().unwrap());
    let host = &Host::new().unwrap();
    let service = Service::start(host, serve, options);
    let mut log = Log::of(name);
    for n in log.done()..times {
        let doing = Doing::ALL[n % Doing::ALL.len()];
        let Moment::After(moment) = Moment::random(doing.span()) else {
            unreachable!("a random moment is a time");
        };
        let load = flowing(host, 300 / slow());
        let keep = service.kill(doing, moment);
        let by_keep = n / Doing::ALL.len() % 2 == 1;
        service.clear(by_keep);
        let report = load.stop().unwrap();
        let line =
            format!("{doing:?}, killed after {moment:?}, cleared by a keep: {by_keep}: {report}");
        assert_eq!(report.failed(), 0, "{line}: {}", keep.said());
        log.add(&line);
    }
    tell(&format!("{name}: {times} kills, no client failed"));
}

#[test]
fn a_keep_that_is_killed_at_any_moment_costs_no_client() {
    kill_again_and_again("shared", &shared(), "");
}

#[test]
fn a_keep_of_a_service_without_so_reuseport_that_is_killed_at_any_moment_costs_no_client() {
    kill_again_and_again("any", &Serve::on("0.0.0.0:80"), "--any");
}

fn wait_traced(host: &Host, pid: &str) {
    let is_traced = || {
        let status = host.must(["cat", &format!("/proc/{pid}/status")]);
        !status.contains("TracerPid:\t0\n")
    };
    wait_until(SOON, "strace to see it", is_traced).unwrap();
}

/// The kernel resets a connection whose handshake ends just as its room is shut. `strace` delays the first of these, so
/// that a room that is chosen meanwhile has connections, which the kernel counts as it moves them.
#[test]
fn no_client_reaches_the_rooms_of_a_dead_keep_as_its_guard_shuts_them() {
    for (serve, options) in [(shared(), ""), (Serve::on("0.0.0.0:80"), "--any")] {
        let host = &Host::new().unwrap();
        let _server = serve.start(host).unwrap();
        let mut keep = Keep::on(host, options);
        keep.running.signal(Signal::SIGKILL).unwrap();
        keep.running.wait().unwrap();
        let guard = host.must(["pgrep", "-x", GUARD]);
        let guard = guard.trim();
        let delay = "-e trace=shutdown,bpf -e inject=shutdown:delay_enter=400ms:when=1";
        let calls = host.dir().join("calls");
        let strace = words(&format!(
            "strace -qq -o {} {delay} -p {guard}",
            calls.display()
        ));
        let mut strace = host
            .spawn(host.command(&strace[0]).args(&strace[1..]))
            .unwrap();
        wait_traced(host, guard);

        let load = flowing(host, 300 / slow());
        let moved = || host.tcp_counter("TCPMigrateReqSuccess").unwrap();
        let before = moved();
        assert_eq!(syngate(host, "clear").code(), 0);
        let moved = moved() - before;
        let report = load.stop().unwrap();
        assert_eq!((moved, report.failed()), (0, 0), "{options}: {report}");
        strace.wait().unwrap();
        // It waits for no array that the dead keep's program has.
        let calls = fs::read_to_string(calls).unwrap();
        let busy = calls.lines().filter(|line| line.contains("EBUSY")).count();
        assert!(
            busy < 10 && calls.contains("shutdown("),
            "{busy} times: {calls}"
        );
        nothing_is_left(host, 1);
    }
}

/// How long a client that waits has to wait for its answer once the service starts, if the keep dies before, or as it
/// hands over: the kernel has the listener in the array of the keep's program by then.
fn answered_after(serve: &Serve, options: &str, as_it_hands_over: bool) -> Duration {
    let host = &Host::new().unwrap();
    let server = serve.start(host).unwrap();
    let mut keep = Keep::on(host, options);
    let pid = host.must(["pgrep", "-x", "syngate"]);
    drop(server);
    let waits = waiting_client(host);
    let mut killer = None;
    if as_it_hands_over {
        let at_shutdown = "-e trace=shutdown -e inject=shutdown:signal=KILL";
        let strace = words(&format!(
            "strace -qq -o /dev/null {at_shutdown} -p {}",
            pid.trim()
        ));
        let traced = host.spawn(host.command(&strace[0]).args(&strace[1..]));
        killer = Some(traced.unwrap());
        wait_traced(host, pid.trim());
    } else {
        keep.running.signal(Signal::SIGKILL).unwrap();
        keep.running.wait().unwrap();
    }
    let _server = serve.start(host).unwrap();
    let began = Instant::now();
    all_served(&waits.finish().unwrap());
    let took = began.elapsed();
    assert!(!keep.running.wait().unwrap().success(), "{}", keep.said());
    killer.map(|mut killer| killer.wait().unwrap());
    assert_eq!(syngate(host, "clear").code(), 0);
    nothing_is_left(host, 1);
    took
}

#[test]
fn who_waits_for_a_keep_that_dies_as_it_hands_over_waits_no_longer() {
    for (serve, options) in [(shared(), ""), (Serve::on("0.0.0.0:80"), "--any")] {
        let fastest = |as_it_hands_over| {
            let times = (0..3).map(|_| answered_after(&serve, options, as_it_hands_over));
            times.min().unwrap()
        };
        let [before, meanwhile] = [false, true].map(fastest);
        tell(&format!(
            "{options}: {before:?}, as it hands over {meanwhile:?}"
        ));
        assert!(
            meanwhile < before * 8,
            "{options}: {before:?}, {meanwhile:?}"
        );
    }
}

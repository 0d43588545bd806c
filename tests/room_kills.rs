//! Runs with waiting rooms that are killed at random moments, under load. While the guard lives, no client
//! notices it, as long as the service comes back, and nothing is left. Killed together with the guard, a run
//! leaves nothing that `clear` does not take back. `make kill-rooms` does it 200 and 100 times.

mod harness;
mod killing;

use std::time::Duration;

use harness::rooms::{
    GUARD, all_served, at_most_a_program_is_left, listeners, nothing_is_left, shares_port,
};
use harness::{Call, SOON, call, syngate, tell, words};
use killing::Moment;
use nix::sys::signal::Signal;
use testkit::services::{Haproxy, HaproxyConfig, Serve};
use testkit::{Host, Load, LoadReport, Pair, SERVER, slow, wait_until};

const LONG: Duration = Duration::from_secs(60);
/// How COMMAND is named among the processes.
const COMMAND: &str = "restarts-the-service";

/// A service that a run restarts or reloads.
struct Service<'a> {
    host: &'a Host,
    call: Call<'a>,
    command: [String; 4],
    sockets: usize,
    shares_port: String,
}

impl<'a> Service<'a> {
    fn new(host: &'a Host, options: &str, restart: &str) -> Service<'a> {
        let options = words("--port 80 -v --syn")
            .into_iter()
            .chain(words(options));
        let [sh, c] = ["sh", "-c"].map(str::to_owned);
        let mut service = Service {
            host,
            call: call(host, options).unhurried(),
            command: [sh, c, format!("{restart}; true"), COMMAND.to_owned()],
            sockets: listeners(host).len(),
            shares_port: String::new(),
        };
        service.shares_port = shares_port(host);
        service
    }

    /// How long a run takes that is not killed.
    fn span(&self) -> Duration {
        let began = std::time::Instant::now();
        let outcome = self.call.run(self.command.clone());
        assert_eq!(outcome.code, 0, "{outcome:?}");
        began.elapsed()
    }

    /// Whether rooms stood when it was killed, and what clients saw.
    fn killed(&self, pair: &Pair, kill: Kill, moment: &Moment) -> (bool, LoadReport) {
        let load = Load::to(format!("{SERVER}:80"))
            .rate(500 / slow())
            .timeout(LONG);
        let mut load = load.duration(LONG).start(&pair.client).unwrap();
        load.wait_flowing().unwrap();
        let mut run = self.call.start(self.command.clone());
        let Moment::After(pause) = moment else {
            panic!("{moment:?}");
        };
        std::thread::sleep(*pause); // a moment is what is wanted here, not a state
        let guarded = self.there(&[GUARD]);
        match kill {
            Kill::Run => drop(run.signal(Signal::SIGKILL)),
            // The older one first: it would put another guard in the place of the dead one.
            Kill::Both => {
                let script = "kill -9 $(pgrep 'syngate|gate-room')";
                self.host.sh(script).unwrap();
            }
        }
        run.output().unwrap();
        let over = || !self.there(&["syngate", GUARD, COMMAND]) && !listeners(self.host).is_empty();
        let what = "the end of the run, its guard and COMMAND";
        wait_until(SOON * 3, what, over).unwrap();
        (guarded, load.stop().unwrap())
    }

    fn there(&self, names: &[&str]) -> bool {
        let processes = self.host.must(words("ps -eo comm,args"));
        let mut lines = processes.lines();
        lines.any(|line| {
            names
                .iter()
                .any(|name| line.starts_with(name) || line.ends_with(name))
        })
    }

    #[track_caller]
    fn is_as_it_was(&self, guarded: bool, moment: &Moment) {
        match guarded {
            true => nothing_is_left(self.host, self.sockets),
            false => at_most_a_program_is_left(self.host, self.sockets),
        }
        assert_eq!(shares_port(self.host), self.shares_port, "{moment:?}");
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kill {
    Run,
    Both,
}

/// Of each kind of service its part of the kills.
fn kill_again_and_again(kill: Kill) {
    let times: usize = std::env::var("SYNGATE_KILLS").map_or(6, |n| n.parse().unwrap());
    std::thread::scope(|threads| {
        for reuseport in [true, false] {
            threads.spawn(move || {
                let pair = Pair::steered_by_flow().unwrap();
                let server = Serve::on("0.0.0.0:80").reuseport_if(reuseport);
                let server = server.start_delay(Duration::from_millis(50));
                let restart = server.start_daemon(&pair.server).unwrap().restart_argv();
                let restart = restart[2].replace("exec ", "");
                let service = Service::new(&pair.server, "park", &restart);
                kill_each(&pair, &service, kill, times.div_ceil(3));
            });
        }
        threads.spawn(move || {
            let pair = Pair::steered_by_flow().unwrap();
            let haproxy = Haproxy::debian_init(&pair.server, &HaproxyConfig::port(80)).unwrap();
            haproxy.start().unwrap();
            let service = Service::new(&pair.server, "handover", "service haproxy reload");
            kill_each(&pair, &service, kill, times.div_ceil(3));
        });
    });
}

fn kill_each(pair: &Pair, service: &Service, kill: Kill, times: usize) {
    let mut span = service.span();
    let (mut kills, mut guarded, mut failed) = (0, 0, 0);
    while killing::go_on(kills, guarded, times) {
        kills += 1;
        let moment = Moment::random(span);
        let (was_guarded, report) = service.killed(pair, kill, &moment);
        guarded += u64::from(was_guarded);
        if guarded == 0 {
            // Perhaps all runs are slower than the first one.
            span = span.mul_f64(1.2);
        }
        failed += report.failed();
        if kill == Kill::Run {
            all_served(&report);
        }
        if kill == Kill::Both {
            served_afterwards(service, &moment);
        }
        service.is_as_it_was(kill == Kill::Run, &moment);
    }
    tell(&format!(
        "{kill:?}: {kills} kills, {guarded} of them with a guard, {failed} clients failed"
    ));
    assert!(guarded > 0, "none of {kills} kills met a guard");
}

/// The kernel has reset the clients that waited where nobody listened. The service serves those that come later.
/// `clear` takes back what the kernel does not.
fn served_afterwards(service: &Service, moment: &Moment) {
    let host = service.host;
    let load = Load::to("127.0.0.1:80").rate(1_000).timeout(LONG);
    let load = load
        .duration(Duration::from_millis(20))
        .start(host)
        .unwrap();
    all_served(&load.finish().unwrap());
    let ran = syngate(host, "clear");
    assert_eq!(ran.code(), 0, "{moment:?}: {ran:?}");
}

#[test]
fn a_run_that_is_killed_at_any_moment_costs_no_client() {
    kill_again_and_again(Kill::Run);
}

#[test]
fn a_run_that_is_killed_with_its_guard_leaves_nothing() {
    kill_again_and_again(Kill::Both);
}

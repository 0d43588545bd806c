//! `syngate keep` on a host, and clients that tell whether they noticed.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use testkit::services::Serve;
use testkit::{Failure, Host, Load, LoadReport, Running, RunningLoad, wait_until};

use super::rooms::{GUARD, all_served, listeners, nothing_is_left};
use super::{SOON, SYNGATE, words};

pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Keep<'a> {
    host: &'a Host,
    pub(crate) running: Running,
}

impl<'a> Keep<'a> {
    /// Started there for port 80, and its rooms stand if somebody listens.
    pub(crate) fn on(host: &'a Host, options: &str) -> Keep<'a> {
        Keep::begun(host, &format!("--port 80 {options}"), &[])
    }

    /// With these arguments and variables.
    pub(crate) fn begun(host: &'a Host, arguments: &str, variables: &[(&str, &str)]) -> Keep<'a> {
        Keep::begun_by(host, &[], arguments, variables)
    }

    /// The same, with these words before the call.
    pub(crate) fn begun_by(
        host: &'a Host,
        by: &[String],
        arguments: &str,
        variables: &[(&str, &str)],
    ) -> Keep<'a> {
        Keep::start_by(host, by, arguments, variables).wait_begun()
    }

    /// The same by a copy of the program.
    pub(crate) fn of_program(host: &'a Host, program: &Path, arguments: &str) -> Keep<'a> {
        let keep = Keep::called(host, &[], program.to_str().unwrap(), arguments, &[]);
        keep.wait_begun()
    }

    fn wait_begun(self) -> Keep<'a> {
        let keeps = || self.said().contains("keeping ");
        let began = wait_until(SOON, "keep to begin", keeps);
        began.unwrap_or_else(|error| panic!("{error:#}: {}", self.said()));
        self
    }

    /// It may not have looked yet.
    pub(crate) fn start(host: &'a Host, arguments: &str) -> Keep<'a> {
        Keep::start_by(host, &[], arguments, &[])
    }

    fn start_by(
        host: &'a Host,
        by: &[String],
        arguments: &str,
        variables: &[(&str, &str)],
    ) -> Keep<'a> {
        // Figures are those of another build: the optimised one.
        let binary = std::env::var("SYNGATE_TEST_BINARY");
        let binary = binary.unwrap_or_else(|_| SYNGATE.to_owned());
        Keep::called(host, by, &binary, arguments, variables)
    }

    fn called(
        host: &'a Host,
        by: &[String],
        binary: &str,
        arguments: &str,
        variables: &[(&str, &str)],
    ) -> Keep<'a> {
        let said = File::create(host.dir().join("keep.err")).unwrap();
        let call = [by, &words(&format!("{binary} keep {arguments}"))].concat();
        let mut command = host.command(&call[0]);
        command.args(&call[1..]);
        command.envs(variables.iter().copied());
        let running = host
            .spawn(command.stdin(Stdio::null()).stderr(said))
            .unwrap();
        Keep { host, running }
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.host.dir().join("keep.err")).unwrap()
    }

    pub(crate) fn lines(&self, with: &str) -> usize {
        self.said()
            .lines()
            .filter(|line| line.contains(with))
            .count()
    }

    #[track_caller]
    pub(crate) fn says(&self, times: usize, with: &str) {
        let said = || self.lines(with) >= times;
        let what = format!("'{with}' {times} times");
        wait_until(SOON, &what, said).unwrap_or_else(|error| panic!("{error}: {}", self.said()));
        assert_eq!(self.lines(with), times, "{}", self.said());
    }

    /// The service dies, one client waits, and has its answer when the service is there again.
    #[track_caller]
    pub(crate) fn bridges(&self, server: Running) -> Running {
        let before = self.lines("nobody listened");
        drop(server);
        let waits = waiting_client(self.host);
        // One that is over before keep looks may not be told.
        looks(self.host);
        let server = shared().start(self.host).unwrap();
        all_served(&waits.finish().unwrap());
        self.says(before + 1, "nobody listened");
        wait_kept(self.host);
        server
    }

    /// By SIGTERM.
    #[track_caller]
    pub(crate) fn ends(mut self, services: usize) -> String {
        self.running.signal(Signal::SIGTERM).unwrap();
        assert!(self.running.wait().unwrap().success(), "{}", self.said());
        nothing_is_left(self.host, services);
        let files = self.host.sh("ls /run/syngate | grep keep").unwrap().stdout;
        assert_eq!(files, "");
        self.said()
    }
}

/// A process that dies cuts the connections that it has accepted, as without syngate. All others are served.
#[track_caller]
pub(crate) fn nobody_noticed(report: &LoadReport, died: f64) {
    assert_eq!(report.refused + report.timed_out, 0, "{report}");
    let came = |failure: &&Failure| report.started_ms + failure.due_ms > died;
    let later: Vec<&Failure> = report.failures.iter().filter(came).collect();
    assert!(later.is_empty(), "{report}: {later:?}");
    assert!(report.ok > report.sent / 2, "{report}");
    // A client without time of its own tells nothing of that.
    let prompt = report.connect.max_ms < 900.0;
    assert!(prompt || report.late > 0, "no SYN was lost: {report}");
}

pub(crate) fn monotonic_ms() -> f64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    Duration::from(now).as_secs_f64() * 1e3
}

pub(crate) fn shared() -> Serve {
    Serve::on("0.0.0.0:80").reuseport()
}

/// One client that waits for its answer.
pub(crate) fn client(host: &Host) -> RunningLoad {
    let load = Load::to("127.0.0.1:80").rate(1_000).timeout(LONG);
    load.duration(Duration::from_millis(1)).start(host).unwrap()
}

/// The same, once it waits to be accepted, by the service or in a room.
pub(crate) fn waiting_client(host: &Host) -> RunningLoad {
    let waits = client(host);
    wait_queued(host, 1);
    waits
}

pub(crate) fn wait_queued(host: &Host, many: usize) {
    let queued = || {
        let queues = listeners(host);
        let queued = queues
            .iter()
            .filter_map(|line| line.split_whitespace().nth(1));
        queued
            .filter_map(|n| n.parse::<usize>().ok())
            .sum::<usize>()
            >= many
    };
    wait_until(SOON, "clients to wait", queued).unwrap();
}

/// Waits until keep has looked some times.
pub(crate) fn looks(host: &Host) {
    let told = "awk '/^voluntary/ {print $2}' /proc/$(pgrep -x syngate)/status";
    let sleeps = || {
        host.must(["sh", "-c", told])
            .trim()
            .parse::<usize>()
            .unwrap()
    };
    let before = sleeps();
    wait_until(SOON, "some looks", || sleeps() >= before + 4).unwrap();
}

/// Rooms stand beside the service, and nobody waits.
pub(crate) fn wait_kept(host: &Host) {
    let kept = || listeners(host).len() > 1 && host.sh(&format!("pgrep -x {GUARD}")).unwrap().ok();
    wait_until(SOON, "the port to be kept", kept).unwrap();
}

/// What comes of a second instance on port 80, by a client of the kernel's own: "bound", or the error.
pub(crate) fn second(host: &Host, address: &str, more: &str) -> String {
    let listen = format!(
        "import os, socket
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
{more}
try:
    s.bind(('{address}', 80)); s.listen(); print('bound')
except OSError as error:
    print(error.strerror)"
    );
    host.must(["python3", "-c", &listen]).trim().to_owned()
}

pub(crate) const SHARES: &str = "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)";
pub(crate) const TAKEN: &str = "Address already in use";

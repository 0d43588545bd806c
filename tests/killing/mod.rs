//! Kill a run at some moment, then look: is the gate gone, how soon? For a new backend or
//! action, give it another call and another COMMAND.
#![allow(dead_code)] // each test file uses a part of it

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::{Host, wait_until};

use crate::harness::{Call, queues};

/// When a run is killed.
#[derive(Debug, Clone)]
pub(crate) enum Moment {
    /// So long after its start.
    After(Duration),
    /// When it makes the n-th system call of that name.
    Call {
        /// As strace names it.
        name: &'static str,
        /// Counted from 1.
        nth: u32,
    },
}

impl Moment {
    /// A random moment of a run that takes `span`.
    pub(crate) fn random(span: Duration) -> Moment {
        use std::hash::{BuildHasher, Hasher};
        let random = std::collections::hash_map::RandomState::new();
        let share = (random.build_hasher().finish() >> 11) as f64 / (1u64 << 53) as f64;
        Moment::After(span.mul_f64(share))
    }
}

/// Whether another kill is due: after so many `times` only if all came too early, since a slow machine
/// takes its time until the gate is closed.
pub(crate) fn go_on(kills: usize, closed: u64, times: usize) -> bool {
    kills < times || closed == 0 && kills < 10 * times
}

/// What was seen after a kill.
#[derive(Debug, Clone)]
pub(crate) struct Killed {
    /// It was killed before it had come to its end.
    pub in_time: bool,
    /// Its gate was closed then.
    pub was_closed: bool,
    /// How long after its end a rule was still there.
    pub gone_after: Duration,
}

/// A run to be killed again and again. Call it with `-v`: its phases tell whether the gate was
/// closed.
pub(crate) struct Killing<'a> {
    /// Where.
    pub host: &'a Host,
    /// How syngate is called.
    pub call: Call<'a>,
    /// COMMAND.
    pub command: Vec<String>,
    /// How long a rule may outlive the run.
    pub gone_within: Duration,
}

impl Killing<'_> {
    /// How long a run takes that is not killed.
    pub(crate) fn span(&self) -> Duration {
        let began = Instant::now();
        let mut run = self.call.start(self.command.clone());
        assert_eq!(run.wait().unwrap().code(), Some(0));
        began.elapsed()
    }

    /// Kills one and waits until no rule is left.
    #[track_caller]
    pub(crate) fn kill(&self, moment: &Moment) -> Killed {
        let before = self.host.ruleset();
        let (status, said) = match moment {
            Moment::After(pause) => self.kill_after(*pause),
            Moment::Call { name, nth } => self.kill_at_call(name, *nth),
        };
        let in_time = status.signal() == Some(Signal::SIGKILL as i32);
        assert!(
            in_time || status.success(),
            "neither killed nor done: {status} {said}"
        );
        let ended = Instant::now();
        let what = format!("no rule after {moment:?}");
        wait_until(self.gone_within, &what, || self.host.ruleset() == before).unwrap();
        assert_eq!(queues(self.host), "", "no queue is bound after {moment:?}");
        Killed {
            in_time,
            was_closed: in_time && said.contains("closed ") && !said.contains("opened "),
            gone_after: ended.elapsed(),
        }
    }

    fn kill_after(&self, pause: Duration) -> (ExitStatus, String) {
        let mut run = self.call.start(self.command.clone());
        std::thread::sleep(pause); // a moment is what is wanted here, not a state
        let _ = run.signal(Signal::SIGKILL);
        said(run.output().unwrap())
    }

    /// strace kills it as it enters the call, and ends as it ended; COMMAND is not followed.
    fn kill_at_call(&self, name: &str, nth: u32) -> (ExitStatus, String) {
        let inject = format!("inject={name}:signal=SIGKILL:when={nth}");
        let mut strace = self.host.command("strace");
        strace
            .args(["-qq", "-o", "/dev/null", "-e"])
            .args([&format!("trace={name}"), "-e", &inject])
            .args(self.call.argv(self.command.clone()))
            .stdin(Stdio::null());
        said(strace.output().unwrap())
    }
}

fn said(output: Output) -> (ExitStatus, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status, said)
}

/// Appends a line to the file that SYNGATE_KILL_LOG names, if it does: the distribution.
pub(crate) fn record(what: &str, moment: &Moment, killed: &Killed) {
    let Some(file) = std::env::var_os("SYNGATE_KILL_LOG") else {
        return;
    };
    let mut log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .unwrap();
    let gone_ms = killed.gone_after.as_secs_f64() * 1e3;
    let Killed {
        in_time,
        was_closed,
        ..
    } = killed;
    writeln!(
        log,
        "{what}\t{moment:?}\t{in_time}\t{was_closed}\t{gone_ms:.1}"
    )
    .unwrap();
}

//! Kill a run at some moment, then look: is the gate gone, how soon? For whoever adds a backend or
//! an action: give it another call and another COMMAND.
#![allow(dead_code)] // each test file uses a part of it

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::{Host, wait_until};

use crate::harness::Call;

/// When a run is killed.
#[derive(Debug, Clone)]
pub enum Moment {
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
    pub fn random(span: Duration) -> Moment {
        use std::hash::{BuildHasher, Hasher};
        let random = std::collections::hash_map::RandomState::new();
        let share = (random.build_hasher().finish() >> 11) as f64 / (1u64 << 53) as f64;
        Moment::After(span.mul_f64(share))
    }
}

/// What was seen after a kill.
#[derive(Debug, Clone)]
pub struct Killed {
    /// It was killed before it had come to its end.
    pub in_time: bool,
    /// How long after its end a rule was still there.
    pub gone_after: Duration,
}

/// A run to be killed again and again.
pub struct Killing<'a> {
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
    pub fn span(&self) -> Duration {
        let began = Instant::now();
        let mut run = self.call.start(self.command.clone());
        assert_eq!(run.wait().unwrap().code(), Some(0));
        began.elapsed()
    }

    /// Kills one and waits until no rule is left.
    #[track_caller]
    pub fn kill(&self, moment: &Moment) -> Killed {
        let before = self.host.ruleset();
        let in_time = match moment {
            Moment::After(pause) => self.kill_after(*pause),
            Moment::Call { name, nth } => self.kill_at_call(name, *nth),
        };
        let ended = Instant::now();
        let what = format!("no rule after {moment:?}");
        wait_until(self.gone_within, &what, || self.host.ruleset() == before).unwrap();
        Killed {
            in_time,
            gone_after: ended.elapsed(),
        }
    }

    fn kill_after(&self, pause: Duration) -> bool {
        let mut run = self.call.start(self.command.clone());
        std::thread::sleep(pause); // a moment is what is wanted here, not a state
        let _ = run.signal(Signal::SIGKILL);
        !run.wait().unwrap().success()
    }

    /// strace kills it as it enters the call; COMMAND is not followed.
    fn kill_at_call(&self, name: &str, nth: u32) -> bool {
        let inject = format!("inject={name}:signal=SIGKILL:when={nth}");
        let mut strace = self.host.command("strace");
        strace
            .args(["-qq", "-o", "/dev/null", "-e"])
            .args([&format!("trace={name}"), "-e", &inject])
            .args(self.call.argv(self.command.clone()))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        !strace.status().unwrap().success()
    }
}

/// Appends a line to the file that SYNGATE_KILL_LOG names, if it does: the distribution.
pub fn record(what: &str, moment: &Moment, killed: &Killed) {
    let Some(file) = std::env::var_os("SYNGATE_KILL_LOG") else {
        return;
    };
    let mut log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .unwrap();
    let gone_ms = killed.gone_after.as_secs_f64() * 1e3;
    writeln!(log, "{what}\t{moment:?}\t{}\t{gone_ms:.1}", killed.in_time).unwrap();
}

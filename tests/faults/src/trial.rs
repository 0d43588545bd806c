//! One thing to try, and what it has shown.

use std::{fmt, time::Duration};

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::{
    account::Account,
    fault::Fault,
    neighbour::Neighbour,
    point::Point,
    setting::{Scene, max_closed},
    subject::Subject,
};

/// What is done to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Deed {
    /// At a system call.
    Fault(Fault),
    /// By somebody else, meanwhile or all the time.
    Neighbour(Neighbour),
}

impl Deed {
    /// The signal that syngate may be ended by, or COMMAND, which looks the same to a shell.
    pub fn signal(self) -> Option<i32> {
        match self {
            Deed::Fault(fault) => fault.kills().then_some(libc::SIGKILL),
            Deed::Neighbour(neighbour) => neighbour.signal(),
        }
    }

    /// What it does, in words.
    pub fn words(self) -> String {
        match self {
            Deed::Fault(fault) => fault.words(),
            Deed::Neighbour(by) => by.words().to_owned(),
        }
    }

    /// Whether it takes seconds.
    pub fn is_slow(self) -> bool {
        match self {
            Deed::Fault(fault) => fault.is_slow(),
            Deed::Neighbour(neighbour) => neighbour.is_slow(),
        }
    }

    /// Whether it keeps a run from ending before `--max-closed`.
    pub fn meets_max_closed(self) -> bool {
        self == Deed::Neighbour(Neighbour::Stops) || self == Deed::Fault(Fault::Hang)
    }

    /// Whether there may be no report: what fails may be what would have written it.
    pub fn may_lose_report(self) -> bool {
        match self {
            Deed::Fault(_) => true,
            Deed::Neighbour(neighbour) => neighbour.may_lose_report(),
        }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = serde_json::to_value(self).map_err(|_| fmt::Error)?;
        f.write_str(name.as_str().unwrap_or_default())
    }
}

/// A deed, and where it is done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hit {
    /// Where.
    #[serde(flatten)]
    pub point: Point,
    /// What.
    pub deed: Deed,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hit { point, deed } = self;
        write!(f, "{deed} at {point}")
    }
}

/// One thing to try: what syngate is told to do, how far away its clients are, and one hit or two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Trial {
    /// See [`Setting`](crate::setting::Setting).
    pub setting: String,
    /// See [`Subject`].
    #[serde(default, skip_serializing_if = "is_plain")]
    pub subject: Subject,
    /// See [`Scene`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rtt_ms: u32,
    /// See [`Hit`].
    #[serde(flatten)]
    pub hit: Hit,
    /// What happens later in the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<Hit>,
}

fn is_plain(subject: &Subject) -> bool {
    *subject == Subject::Plain
}

fn is_zero(ms: &u32) -> bool {
    *ms == 0
}

impl Trial {
    /// This deed, at this point of a run in this scene.
    pub fn new(scene: &Scene, point: &Point, deed: Deed) -> Trial {
        Trial {
            setting: scene.setting.name.to_owned(),
            subject: scene.subject,
            rtt_ms: scene.rtt_ms,
            hit: Hit {
                point: point.clone(),
                deed,
            },
            then: None,
        }
    }

    /// All of it, in order.
    pub fn hits(&self) -> impl Iterator<Item = &Hit> {
        [&self.hit].into_iter().chain(&self.then)
    }

    /// The faults and neighbours, in order.
    pub fn deeds(&self) -> impl Iterator<Item = Deed> {
        self.hits().map(|hit| hit.deed)
    }

    /// Who comes by, if anybody does.
    pub fn neighbour(&self) -> Option<Neighbour> {
        self.deeds().find_map(|deed| match deed {
            Deed::Neighbour(by) => Some(by),
            Deed::Fault(_) => None,
        })
    }

    /// `--max-closed`.
    pub fn max_closed(&self) -> Duration {
        max_closed(self.deeds().any(Deed::meets_max_closed))
    }

    /// Whether it takes seconds.
    pub fn is_slow(&self) -> bool {
        self.deeds().any(Deed::is_slow)
    }

    /// Whether the run's own process may have been killed, and nothing else was done to it or its guards.
    pub fn only_kills_run(&self) -> bool {
        let hit = &self.hit;
        self.then.is_none()
            && match hit.deed {
                Deed::Fault(fault) => fault.kills() && hit.point.process == "syngate",
                Deed::Neighbour(by) => by.signal() == Some(libc::SIGKILL),
            }
    }

    /// Whether the run and its guard may have been killed: then the next run, or `syngate clear`, removes what
    /// is left.
    pub fn may_kill_both(&self) -> bool {
        let kills = |hit: &Hit| hit.deed.signal() == Some(libc::SIGKILL);
        let run = |hit: &Hit| hit.point.process == "syngate";
        self.hits().any(|hit| kills(hit) && run(hit))
            && self.hits().any(|hit| {
                kills(hit) && !run(hit) || hit.deed == Deed::Neighbour(Neighbour::KillsGuards)
            })
    }

    /// Whether syngate may have been ended by this signal.
    pub fn may_end_by(&self, signal: i32) -> bool {
        self.deeds().any(|deed| deed.signal() == Some(signal))
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trial {
            setting,
            subject,
            rtt_ms,
            hit,
            then,
        } = self;
        write!(f, "{setting}: ")?;
        if !is_plain(subject) {
            write!(f, "{subject}: ")?;
        }
        write!(f, "{hit}")?;
        if let Some(then) = then {
            write!(f, ", then {then}")?;
        }
        if *rtt_ms > 0 {
            write!(f, ", clients {rtt_ms} ms away")?;
        }
        Ok(())
    }
}

/// All faults at all points.
pub fn all_faults(scene: &Scene, points: &[Point]) -> Vec<Trial> {
    let of = |point: &Point| {
        let faults = Fault::ALL.into_iter().filter(|fault| fault.fits(point));
        let trial = |fault| Trial::new(scene, point, Deed::Fault(fault));
        faults.map(trial).collect::<Vec<_>>()
    };
    points.iter().flat_map(of).collect()
}

/// All that neighbours do, in a run with these points.
pub fn all_neighbours(scene: &Scene, points: &[Point], own_kernel: bool) -> Vec<Trial> {
    let trial = |point: &Point, who| Trial::new(scene, point, Deed::Neighbour(who));
    let moments = points.iter().filter(|point| point.takes_visits());
    let harmful = if own_kernel {
        &Neighbour::HARMFUL[..]
    } else {
        &[]
    };
    let visitors = || Neighbour::VISITORS.iter().chain(harmful);
    let visits = moments.flat_map(|point| visitors().map(move |who| trial(point, *who)));
    let visits = visits.filter(|trial| {
        let by = trial.neighbour();
        by.is_none_or(|by| by.suits(&scene.setting))
    });
    let whole_run = Point::whole_run();
    let hardships = Neighbour::HARDSHIPS
        .iter()
        .filter(|what| what.suits(&scene.setting))
        .map(|what| trial(&whole_run, *what));
    visits.chain(hardships).collect()
}

/// What a trial has shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shown {
    /// What was tried.
    #[serde(flatten)]
    pub trial: Trial,
    /// Under which kernel.
    pub kernel: String,
    /// Which build of syngate: the beginning of its SHA-256.
    pub syngate: String,
    /// Whether all points were reached: runs differ a little.
    pub hit: bool,
    /// The exit status.
    pub code: i32,
    /// The report's word for why it ended so.
    pub reason: Option<String>,
    /// How often COMMAND ran.
    pub ran: usize,
    /// How long after the end of syngate nothing was left of it, in ms: guards have their work.
    pub gone_after_ms: f64,
    /// How many SYNs a second came in beside, in a flood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syns_per_second: Option<u64>,
    /// How many connections clients made meanwhile.
    #[serde(default)]
    pub connections: u64,
    /// How many of them failed.
    #[serde(default)]
    pub failed: u64,
    /// Whether all that they saw tells of syngate: only refusals do if the machine has dropped packets of
    /// anybody's.
    #[serde(default)]
    pub judged: bool,
    /// What would be a violation, had the machine dropped nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excused: Vec<String>,
    /// What was not as promised.
    pub violations: Vec<String>,
    /// What it said, where something was wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
}

/// What was seen inside the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tried {
    /// Without what clients saw.
    pub shown: Shown,
    /// What the run has told of its gate.
    pub account: Account,
    /// When COMMAND began, in ms of CLOCK_MONOTONIC, to 10 ms.
    pub ran_ms: Option<f64>,
    /// When it knew that its service listens, if it waits for that, and the run was as fast as others by then.
    pub listens_ms: Option<f64>,
    /// Whether the run was killed, and left a guard.
    pub guarded: bool,
    /// When the service answered, and all was looked at, in ms of CLOCK_MONOTONIC.
    pub settled_ms: f64,
    /// What it said.
    pub said: String,
    /// Which part of the time some process waited for a processor.
    pub busy: f64,
    /// See [`counters::grown`](crate::counters::grown).
    pub counted: Vec<String>,
}

//! One thing to try, and what it has shown.

use std::fmt;

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::{
    neighbour::Neighbour,
    point::{Fault, Point},
    setting::Setting,
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

/// One thing to try: a deed, a point, and what syngate is told to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Trial {
    /// See [`Setting`].
    pub setting: String,
    /// Where.
    #[serde(flatten)]
    pub point: Point,
    /// What.
    pub deed: Deed,
}

impl Trial {
    /// This deed, at this point of a run of this setting.
    pub fn new(setting: &Setting, point: &Point, deed: Deed) -> Trial {
        Trial {
            setting: setting.name.to_owned(),
            point: point.clone(),
            deed,
        }
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trial {
            setting,
            point,
            deed,
        } = self;
        write!(f, "{setting}: {deed} at {point}")
    }
}

/// All faults at all points.
pub fn all_faults(setting: &Setting, points: &[Point]) -> Vec<Trial> {
    let of = |point: &Point| {
        let faults = Fault::ALL
            .into_iter()
            .filter(|fault| fault.fits(&point.call));
        let trial = |fault| Trial::new(setting, point, Deed::Fault(fault));
        faults.map(trial).collect::<Vec<_>>()
    };
    points.iter().flat_map(of).collect()
}

/// All that neighbours do, in a run with these points.
pub fn all_neighbours(setting: &Setting, points: &[Point], own_kernel: bool) -> Vec<Trial> {
    let trial = |point: &Point, who| Trial::new(setting, point, Deed::Neighbour(who));
    // While it waits for something, and before it says that it is further.
    let moments = points.iter().filter(|point| {
        point.process == "syngate" && ["write", "ppoll"].contains(&point.call.as_str())
    });
    let harmful = if own_kernel {
        &Neighbour::HARMFUL[..]
    } else {
        &[]
    };
    let visitors = || Neighbour::VISITORS.iter().chain(harmful);
    let visits = moments.flat_map(|point| visitors().map(move |who| trial(point, *who)));
    // Nobody else needs a queue.
    let visits = visits.filter(|trial| {
        trial.deed != Deed::Neighbour(Neighbour::WantsQueue) || setting.syn == "hold"
    });
    let whole_run = Point::whole_run();
    let hardships = Neighbour::HARDSHIPS
        .iter()
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
    /// Whether the point was reached: runs differ a little.
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
    /// What was not as promised.
    pub violations: Vec<String>,
    /// What it said, where something was wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
}

//! What the service and COMMAND are like. Real ones ask, connect to themselves, and move: a campaign whose COMMANDs do
//! nothing but restart can't find what syngate does to these.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A service, and a COMMAND for it: [`words`](Subject::words) say which.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    #[default]
    Plain,
    Asks,
    LeavesPorts,
    AsksItself,
    MovesToV6,
    MovesToAddresses,
    GivesUpAddress,
    BringsProgram,
    LeavesFirst,
    HasManyPorts,
    Follows,
}

use Subject::*;

impl Subject {
    /// What it does, in words.
    pub fn words(self) -> &'static str {
        match self {
            Plain => "COMMAND restarts the service, and does nothing else",
            Asks => {
                "COMMAND asks the service before it stops it, and asks the new process as soon as that listens"
            }
            LeavesPorts => {
                "COMMAND connects from each local port, to the service and elsewhere; other clients have these ports next"
            }
            AsksItself => {
                "the service is a haproxy whose backend is its own other port, in a control group of its own"
            }
            MovesToV6 => {
                "the service goes from `0.0.0.0` to `[::]`, which takes IPv4 too, and back the next time; COMMAND goes on"
            }
            MovesToAddresses => {
                "it goes from `0.0.0.0` to two addresses of the host, and back the next time; COMMAND goes on"
            }
            GivesUpAddress => "it listens on one address fewer, and on that, too, the next time",
            BringsProgram => {
                "the new process gives its listeners a program of its own (SO_ATTACH_REUSEPORT_CBPF)"
            }
            LeavesFirst => "COMMAND starts a second instance, and does not stop the first",
            HasManyPorts => "the service listens on 128 ports",
            Follows => "a keep before this one was killed, and its guard has the rooms",
        }
    }

    /// `--port`.
    pub fn ports(self) -> &'static str {
        match self {
            AsksItself => "80,81",
            HasManyPorts => "80,10001-10127",
            _ => "80",
        }
    }

    /// How much longer a run may take whose system calls are watched: it makes some for each port.
    pub fn times_slower(self) -> u32 {
        match self {
            HasManyPorts => 5,
            _ => 1,
        }
    }

    /// Whether those who waited can't be moved: they may be reset, and that is told.
    pub fn moves(self) -> bool {
        matches!(self, MovesToV6 | MovesToAddresses | GivesUpAddress)
    }

    /// Whether two instances may be there afterwards.
    pub fn is_two(self) -> bool {
        self == LeavesFirst
    }

    /// Whether the service may have a program afterwards.
    pub fn brings_program(self) -> bool {
        self == BringsProgram
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = serde_json::to_value(self).map_err(|_| fmt::Error)?;
        f.write_str(name.as_str().unwrap_or_default())
    }
}

/// One, or several that have a name.
#[derive(Debug, Clone)]
pub struct Subjects(pub Vec<Subject>);

/// Of that name, for the command line.
pub fn asked(name: &str) -> Result<Subjects, String> {
    let all = Subject::value_variants().iter().copied();
    if name == "others" {
        return Ok(Subjects(all.filter(|one| *one != Plain).collect()));
    }
    let one = Subject::from_str(name, false);
    one.map(|one| Subjects(vec![one])).map_err(|_| {
        let names: Vec<String> = all.map(|one| one.to_string()).collect();
        format!("there are: others, {}", names.join(", "))
    })
}

//! What is measured, as it stands in the files of results: one JSON object on each line.

use serde::{Deserialize, Serialize};
use testkit::Latency;

use crate::ways::Way;

/// What the clients do.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// A connection for each request
    #[default]
    Fresh,
    /// Connections that are kept
    KeepAlive,
}

/// The version of IP.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// IPv4
    #[default]
    Ipv4,
    /// IPv6
    Ipv6,
}

/// One restart under load. Times on the load's clock are from its start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Which repetition.
    pub round: u32,
    /// Of what.
    pub subject: String,
    /// In which way.
    pub way: Way,
    /// The clients: see [`crate::restart::Clients`].
    pub mode: Mode,
    /// See there.
    pub family: Family,
    /// See there.
    pub rate: u32,
    /// See there.
    pub sources: u32,
    /// Requests that were due.
    pub sent: u64,
    /// Sent once more, because a kept connection was closed meanwhile.
    pub resent: u64,
    /// Answered in full.
    pub ok: u64,
    /// Connections refused.
    pub refused: u64,
    /// Reset before the request went out.
    pub reset: u64,
    /// Reset or closed before the whole answer was in.
    pub cut: u64,
    /// Given up after 20 s.
    pub timed_out: u64,
    /// Anything else.
    pub other: u64,
    /// Answered after 0.9 s or more.
    pub delayed: u64,
    /// Begun more than 20 ms after they were due, by the client's fault.
    pub late: u64,
    /// The clients' processor time.
    pub cpu_ms: f64,
    /// Time until connected.
    pub connect: Latency,
    /// Time until answered.
    pub total: Latency,
    /// The longest time without a listener (IPv4), waiting rooms aside, by the kernel's list of sockets.
    pub gap_ms: f64,
    /// How long SYNs were stopped, as far as the way tells.
    pub closed_ms: Option<f64>,
    /// How long syngate drained of that.
    pub drain_ms: Option<f64>,
    /// From when syngate had closed until the service listened again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_ms: Option<f64>,
    /// When the way's script began, and ended.
    pub began_ms: f64,
    /// See `began_ms`.
    pub ended_ms: f64,
    /// When those were due that failed; the first 1,000.
    pub failed_at_ms: Vec<f64>,
    /// The longest time until connected in each 10 ms of due time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline_ms: Vec<f64>,
    /// The same until answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers_ms: Vec<f64>,
}

impl Sample {
    /// How many requests weren't answered.
    pub fn failed(&self) -> u64 {
        self.refused + self.reset + self.cut + self.timed_out + self.other
    }

    /// No picture shows them.
    pub fn forget_timelines(&mut self) {
        self.timeline_ms.clear();
        self.answers_ms.clear();
    }
}

/// What one run of a command cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Which repetition.
    pub round: u32,
    /// What grows: see [`crate::costs`].
    pub series: String,
    /// How large it was.
    pub size: u64,
    /// `syngate`, or what does as much.
    pub way: String,
    /// From the start of its process(es) to the end; not of a run that was watched for what follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<f64>,
    /// From its start until it says that the gate is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close_ms: Option<f64>,
    /// From the decision to open until it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_ms: Option<f64>,
    /// The largest resident set of its process(es), in KiB.
    pub peak_kib: u64,
}

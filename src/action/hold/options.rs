//! The options of `--syn hold`.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use clap::parser::ValueSource;

use super::act::HoldAction;
use super::held::{COUNT_EVERY, Hold, READ_EVERY};
use super::line::Limits;
use super::pace::BLIND;
use super::policy::RELEASE_EVERY;
use super::release::STALL;
use crate::action::contract::{
    Action, ActionEntry, Before, Description, HEADING, Planned, Prepared, Request, Seen, Standing,
    Wanted, options,
};
use crate::action::rooms::choice::LARGEST_HELD;
use crate::decide::rate::MADE_UP_FOR;
use crate::kernel::nfqueue::FIRST_NUMBER;
use crate::words::duration::duration;
use crate::words::ending::Ending;
use crate::words::gated::Gated;
use crate::words::limit::Limit::{Number, Time};
use crate::words::number::number_in;
use crate::words::steer::{QueueNum, Steer};

pub(crate) const MAX_HELD: u32 = 65_536;
/// The largest `--release-rate`.
pub(crate) const FASTEST: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();
/// The default of `--max-held-per-source` is `--max-held` divided by this.
pub(crate) const PART_OF_SOURCE: u32 = 4;

pub(crate) const ENTRY: ActionEntry = ActionEntry {
    name: "hold",
    value: "hold",
    help: "They wait in a queue of the kernel, and go on when the gate opens",
    options: HoldOptions::augment_args,
    parse: |_| Ok(Arc::new(HoldWanted)),
    rows: &["hold"],
    standing: Standing::STOPS,
    limits: &[
        ("Held", Number(MAX_HELD as u64)),
        ("Held", Number(LARGEST_HELD as u64)),
        ("Held, reading", Time(READ_EVERY)),
        ("Held, lost", Time(COUNT_EVERY)),
        ("Release", Time(RELEASE_EVERY)),
        ("Release, stall", Time(STALL)),
        ("Release, rate", Number(FASTEST.get() as u64)),
        ("Release, rate", Time(MADE_UP_FOR)),
        ("Release, unseen", Number(BLIND as u64)),
    ],
    guard: |_| None,
};

#[derive(Debug, Clone, Args)]
struct HoldOptions {
    /// hold, park, handover: max. number that may wait
    ///
    /// SYNs that come when so many wait are dropped, and sent again by their clients.
    #[arg(long, value_name = "N", env = "SYNGATE_MAX_HELD", default_value_t = MAX_HELD, value_parser = held, allow_hyphen_values = true, hide_short_help = true, help_heading = HEADING)]
    max_held: u32,

    /// hold: max. number of them from one source [default: a quarter of --max-held]
    ///
    /// A source is an IPv4 address, or an IPv6 /64.
    #[arg(long, value_name = "N", env = "SYNGATE_MAX_HELD_PER_SOURCE", value_parser = held, allow_hyphen_values = true, hide_short_help = true, help_heading = HEADING)]
    max_held_per_source: Option<u32>,

    /// hold: max. time to let them go; then the gate opens all the same
    #[arg(long, value_name = "DUR", env = "SYNGATE_RELEASE_TIMEOUT", default_value = "2s", value_parser = duration, allow_hyphen_values = true, hide_short_help = true, help_heading = HEADING)]
    release_timeout: Duration,

    /// hold, park: max. number of connections a second to let go [default: as many as there is place for]
    ///
    /// For a service with limits of its own, as sshd has with MaxStartups.
    #[arg(long, value_name = "N", env = "SYNGATE_RELEASE_RATE", value_parser = rate, allow_hyphen_values = true, hide_short_help = true, help_heading = HEADING)]
    release_rate: Option<NonZeroU32>,

    /// hold: number of the queue (NFQUEUE) where they wait [default: one that is free]
    #[arg(long, value_name = "NUM", env = "SYNGATE_QUEUE_NUM", value_parser = queue_number, allow_hyphen_values = true, hide_short_help = true, help_heading = HEADING)]
    queue_num: Option<QueueNum>,
}

/// A rate says how long it takes, so the deadline alone bounds it then.
fn release_timeout(options: &HoldOptions, request: &Request) -> Duration {
    let source = request.given.value_source("release_timeout");
    match options.release_rate.is_some() && source == Some(ValueSource::DefaultValue) {
        true => request.max_closed,
        false => options.release_timeout,
    }
}

fn held(text: &str) -> Result<u32, String> {
    number_in(1..=LARGEST_HELD, text)
}

fn rate(text: &str) -> Result<NonZeroU32, String> {
    number_in(NonZeroU32::MIN..=FASTEST, text)
}

fn queue_number(text: &str) -> Result<QueueNum, String> {
    number_in(0..=QueueNum::MAX, text)
}

#[derive(Debug)]
struct HoldWanted;

impl Wanted for HoldWanted {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn plan(&self, request: &Request) -> Result<Box<dyn Planned>, String> {
        let options: HoldOptions = options(request.given)?;
        let shared = options.max_held.div_ceil(PART_OF_SOURCE);
        Ok(Box::new(ToHold {
            queue: options.queue_num,
            limits: Limits {
                held: options.max_held,
                per_source: options.max_held_per_source.unwrap_or(shared),
            },
            release_timeout: release_timeout(&options, request),
            release_rate: options.release_rate,
        }))
    }
}

#[derive(Debug, Clone)]
struct ToHold {
    /// `--queue-num`. `None`: any free queue.
    queue: Option<QueueNum>,
    limits: Limits,
    release_timeout: Duration,
    release_rate: Option<NonZeroU32>,
}

impl Planned for ToHold {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn describe(&self, _: &Gated) -> Description {
        let timeout = humantime::format_duration(self.release_timeout);
        let rate = self.release_rate.map(|rate| format!(", {rate} a second,"));
        let rate = rate.unwrap_or_default();
        Description {
            close: match self.queue {
                None => ", hold their SYNs in this queue or the next that is free",
                Some(_) => ", hold their SYNs",
            },
            open: format!("let the held SYNs go{rate} within {timeout}, and open"),
            ..Description::default()
        }
    }

    fn steer(&self) -> Result<Option<Steer>> {
        Ok(Some(Steer::Queue(self.queue.unwrap_or(FIRST_NUMBER))))
    }

    fn prepare(&self, _: &mut Before) -> Result<Box<dyn Prepared>, Ending> {
        Ok(Box::new(self.clone()))
    }
}

impl Prepared for ToHold {
    fn begin(&self, seen: &Seen) -> Result<Box<dyn Action>> {
        let hold = Hold::begin(self.queue, self.limits, &seen.gated.ports)?;
        Ok(Box::new(HoldAction::new(
            hold,
            self.release_timeout,
            self.release_rate,
            seen.gated,
        )))
    }
}

//! The results of held SYNs, as report rows and as text.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::held::Figures;
use super::release::STALL;
use crate::action::contract::Now;
use crate::decide::policy::{Cut, Noted};
use crate::words::count::{counted, counted_does};
use crate::words::ending::Failure;
use crate::words::ms::{Ms, ms_words};

#[derive(Debug, Serialize)]
pub(crate) struct HoldRow {
    held: u64,
    released: u64,
    duplicates: u64,
    overflow: u64,
    lost: u64,
    longest_ms: Ms,
    release_ms: Option<Ms>,
    release_timed_out: bool,
    release_stalled: bool,
}

impl HoldRow {
    pub(crate) fn new(held: Figures, noted: &Noted) -> HoldRow {
        HoldRow {
            held: held.held,
            released: held.released,
            duplicates: held.duplicates,
            overflow: held.overflow,
            lost: held.lost,
            longest_ms: held.longest.into(),
            release_ms: noted.released_in.map(Into::into),
            release_timed_out: noted.release_cut == Some(Cut::TimedOut),
            release_stalled: noted.release_cut == Some(Cut::Stalled),
        }
    }

    pub(crate) fn named(&self) -> (&'static str, Value) {
        ("hold", serde_json::json!(self))
    }
}

pub(crate) fn held_words(held: &Figures) -> String {
    let longest = ms_words(held.longest);
    let mut words = match held.held {
        0 => "no SYN held".to_owned(),
        1 => format!("1 SYN held (for {longest})"),
        n => format!("{n} SYNs held (the longest for {longest})"),
    };
    for (count, what) in [(held.overflow, "dropped"), (held.lost, "lost")] {
        if count > 0 {
            words.push_str(&format!(", {count} {what}"));
        }
    }
    words
}

pub(crate) fn warn_of_what_went_wrong(
    cut: Option<Cut>,
    timeout: Duration,
    figures: Option<Figures>,
    now: &mut Now,
) {
    if let Some(why) = cut.and_then(|cut| cut_words(cut, timeout)) {
        now.warn(format!(
            "syngate could not let all held SYNs go one after the other {why}, and let the rest go at once"
        ));
    }
    let Some(held) = figures else {
        return;
    };
    if held.lost > 0 {
        now.warn(format!(
            "the kernel dropped {}, since another program removed a chain of the firewall (clients send \
             them again, after a second at the earliest)",
            counted(held.lost, "held SYN")
        ));
    }
    if held.overflow > 0 {
        let option = match held.of_one_source > 0 {
            true => "--max-held-per-source",
            false => "--max-held",
        };
        now.warn(format!(
            "the kernel dropped {} that exceeded {option} (clients send them again)",
            counted(held.overflow, "SYN")
        ));
    }
    if held.not_ours > 0 {
        now.warn(format!(
            "rules of other programs sent {} packets to syngate's queue, and they were dropped: name a \
             queue that no other rule uses (--queue-num)",
            held.not_ours
        ));
    }
}

/// `to_nobody`: how many SYNs were let go although nobody listened.
pub(crate) fn refused(to_nobody: usize) -> Option<Failure> {
    (to_nobody > 0).then(|| Failure {
        reason: "refused",
        why: format!(
            "{}, since nobody listened when they were let go",
            counted_does(
                to_nobody as u64,
                "held SYN",
                ["was refused", "were refused"]
            )
        ),
    })
}

/// `None`: `--release-timeout 0` was given, so there was no release to end.
fn cut_words(cut: Cut, timeout: Duration) -> Option<String> {
    match cut {
        Cut::TimedOut if timeout.is_zero() => None,
        Cut::TimedOut => Some(format!(
            "within --release-timeout {}",
            humantime::format_duration(timeout)
        )),
        Cut::Stalled => Some(format!(
            "since for {} more came than the service accepted",
            humantime::format_duration(STALL)
        )),
    }
}

//! The results of parked connections, as a report row and as text.

use serde::Serialize;
use serde_json::Value;

use super::figures::Figures;
use crate::words::ms::{Ms, ms_words};

#[derive(Debug, Serialize)]
pub(super) struct RoomRow {
    parked: usize,
    handed_over: usize,
    reset: usize,
    /// SYNs that the kernel dropped.
    no_room: usize,
    longest_ms: Ms,
}

impl RoomRow {
    pub(super) fn new(figures: Figures) -> RoomRow {
        RoomRow {
            parked: figures.handed_over + figures.reset,
            handed_over: figures.handed_over,
            reset: figures.reset,
            no_room: figures.no_room,
            longest_ms: figures.longest.into(),
        }
    }

    pub(super) fn named(&self, action: &'static str) -> (&'static str, Value) {
        (action, serde_json::json!(self))
    }
}

pub(super) fn parked_words(figures: &Figures) -> String {
    let longest = ms_words(figures.longest);
    let mut words = match figures.handed_over + figures.reset {
        0 => "no connection parked".to_owned(),
        1 => format!("1 connection parked (for {longest} at most)"),
        n => format!("{n} connections parked (for {longest} at most)"),
    };
    if figures.reset > 0 {
        words.push_str(&format!(", {} reset", figures.reset));
    }
    words
}

/// What to warn of, if connections were reset.
pub(super) fn reset_words(figures: &Figures) -> Option<String> {
    (figures.reset > 0).then(|| {
        format!(
            "nobody listened when the waiting rooms were shut: {} connections were reset",
            figures.reset
        )
    })
}

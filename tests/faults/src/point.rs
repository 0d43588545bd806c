//! Where a run can be hit, and how.

use std::{collections::HashSet, fmt};

use serde::{Deserialize, Serialize};

use crate::account::{has_closed, phase};

/// A system call of a run: the first of its kind, by one of its processes, since the run last said
/// what it does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Point {
    /// What the run has said last with `-v`: `start`, `locked`, `closed`, `draining`, ...
    pub phase: String,
    /// `syngate` itself, a `child` that is to become another program, or a guard, by its name.
    pub process: String,
    /// The system call's name.
    pub call: String,
}

impl Point {
    /// No point, but the whole run.
    pub fn whole_run() -> Point {
        let all = || "all".to_owned();
        Point {
            phase: all(),
            process: all(),
            call: all(),
        }
    }

    /// Whether somebody can come by then: syngate waits for something, or is about to say that it is
    /// further.
    pub fn takes_visits(&self) -> bool {
        self.process == "syngate" && ["write", "ppoll"].contains(&self.call.as_str())
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Point {
            phase,
            process,
            call,
        } = self;
        write!(f, "{call} of {process} after '{phase}'")
    }
}

/// Counts the calls of a run, and so tells which point each is.
#[derive(Debug)]
pub struct Course {
    phase: String,
    passed: HashSet<Point>,
    /// The points that were passed, in this order.
    pub points: Vec<Point>,
    /// When the run began, in ms of CLOCK_MONOTONIC, as far as its words tell: they have been written
    /// later rather than earlier.
    pub began_ms: Option<f64>,
    /// How many of its lines tell a time.
    pub lines: usize,
}

impl Course {
    /// Before the first word.
    pub fn new() -> Course {
        Course {
            phase: "start".to_owned(),
            passed: HashSet::new(),
            points: Vec::new(),
            began_ms: None,
            lines: 0,
        }
    }

    /// What it does from now on.
    pub fn is_in(&mut self, phase: &str) {
        phase.clone_into(&mut self.phase);
    }

    /// The point that this call is, if it is the first such.
    pub fn call(&mut self, process: &str, call: &str) -> Option<Point> {
        let point = Point {
            phase: self.phase.clone(),
            process: process.to_owned(),
            call: call.to_owned(),
        };
        if !self.passed.insert(point.clone()) {
            return None;
        }
        self.points.push(point.clone());
        Some(point)
    }

    /// What the run has written to stderr, and when: lines such as `syngate: +0.0039s closed 80 (nft)`.
    pub fn said(&mut self, text: &str, now_ms: f64) {
        for (at_ms, words) in text.lines().filter_map(phase) {
            let began = now_ms - at_ms;
            self.lines += 1;
            self.began_ms = Some(self.began_ms.map_or(began, |known| known.min(began)));
            if let Some(word) = words.split_whitespace().next() {
                word.trim_end_matches(':').clone_into(&mut self.phase);
            }
        }
        if has_closed(text) && self.lines == 0 {
            self.is_in("keeping");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_the_first_call_of_its_kind_in_a_phase() {
        let mut course = Course::new();
        let first = course.call("syngate", "read").unwrap();
        assert_eq!(first.phase, "start");
        assert_eq!(course.call("syngate", "read"), None);
        assert!(course.call("watchdog", "read").is_some());
        course.said(
            "syngate: +0.0015s locked 80\nsyngate: +0.0033s listeners: 0.0.0.0:80\n",
            103.0,
        );
        assert_eq!(course.began_ms.map(f64::round), Some(100.0));
        let after = course.call("syngate", "read").unwrap();
        assert_eq!(after.phase, "listeners");
        course.said("syngate: warning: nobody listens\n", 104.0);
        assert_eq!(course.call("syngate", "read"), None);
        assert_eq!(course.points.first(), Some(&first));
    }

    #[test]
    fn a_keep_tells_no_times() {
        let mut course = Course::new();
        course.said("syngate: keeping 80\n", 100.0);
        assert_eq!(course.call("syngate", "read").unwrap().phase, "keeping");
        course.is_in("restart");
        assert_eq!(course.call("syngate", "read").unwrap().phase, "restart");
    }
}

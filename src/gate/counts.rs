//! The gaps that a keep has seen so far. Pure.

use serde::{Deserialize, Serialize};

use crate::words::count::counted;

/// Since the keep began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub gaps: u64,
    /// Connections that have waited, those that were reset and those that left included.
    pub waited: u64,
    pub reset: u64,
    /// Their clients closed them while they waited.
    #[serde(default)]
    pub left: u64,
    /// No connection waited longer, in milliseconds.
    pub longest_ms: u64,
}

impl Counts {
    pub(crate) fn words(&self) -> String {
        let (gaps, waited) = (
            counted(self.gaps, "gap"),
            counted(self.waited, "connection"),
        );
        let (reset, longest) = (self.reset, self.longest_ms);
        let left = match self.left {
            0 => String::new(),
            n => format!("; {n} left"),
        };
        format!("{gaps}, in which {waited} waited ({longest} ms at most; {reset} reset{left})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_told_in_one_line() {
        let mut counts = Counts {
            gaps: 1,
            waited: 585,
            reset: 2,
            left: 0,
            longest_ms: 510,
        };
        let words = "1 gap, in which 585 connections waited (510 ms at most; 2 reset)";
        assert_eq!(counts.words(), words);
        counts.left = 4;
        assert!(counts.words().ends_with("; 2 reset; 4 left)"));
        (counts.gaps, counts.waited) = (3, 1);
        let words = "3 gaps, in which 1 connection waited (";
        assert!(counts.words().starts_with(words));
    }
}

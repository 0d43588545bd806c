//! A gap, as a keep tells of it. Pure.

use std::time::Duration;

use crate::gate::counts::Counts;
use crate::words::count::{counted, counted_does};
use crate::words::ms::ms_words;
use crate::words::ports::PortSet;

/// What became of a time in which nobody listened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gap {
    pub ports: PortSet,
    /// When it began, in words.
    pub began: String,
    pub took: Duration,
    pub waited: usize,
    /// Of them, how many were reset.
    pub reset: usize,
    /// SYNs that the kernel dropped, since too many waited.
    pub no_room: usize,
    pub longest: Duration,
}

impl Gap {
    /// Gaps of several places that have ended together are one.
    pub(super) fn add(&mut self, other: Gap) {
        self.ports = self.ports.union(&other.ports);
        if other.took > self.took {
            (self.began, self.took) = (other.began, other.took);
        }
        self.waited += other.waited;
        self.reset += other.reset;
        self.no_room += other.no_room;
        self.longest = self.longest.max(other.longest);
    }

    pub(super) fn count(&self, counts: &mut Counts) {
        counts.gaps += 1;
        counts.waited += self.waited as u64;
        counts.reset += self.reset as u64;
        counts.longest_ms = counts.longest_ms.max(self.longest.as_millis() as u64);
    }

    /// `now`: who listens.
    pub(super) fn over_words(&self, now: &str) -> String {
        let (ports, took, began) = (self.ports.brief(), ms_words(self.took), &self.began);
        let waited = self.waited_words();
        format!("{ports}: nobody listened for {took}, from {began} on; {waited}; {now} listens now")
    }

    pub(super) fn given_up_words(&self) -> String {
        let (ports, took) = (self.ports.brief(), ms_words(self.took));
        let reset = match self.reset {
            0 => String::new(),
            n => {
                counted_does(n, "connection", ["that waited was", "that waited were"])
                    + " reset, and "
            }
        };
        format!(
            "{ports}: nobody has listened for {took} (--max-wait): {reset}new ones are refused until somebody \
             listens"
        )
    }

    fn waited_words(&self) -> String {
        let longest = ms_words(self.longest);
        let mut words = match self.waited {
            0 => "no connection waited".to_owned(),
            n => format!("{} waited, for {longest} at most", counted(n, "connection")),
        };
        match self.no_room {
            0 => (),
            n => {
                let dropped = counted_does(n, "SYN", ["was dropped", "were dropped"]);
                words.push_str(&format!(", and too many came: {dropped}"));
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(waited: usize, reset: usize) -> Gap {
        Gap {
            ports: [80].into_iter().collect(),
            began: "2026-01-01T00:00:00.000Z".to_owned(),
            took: Duration::from_millis(512),
            waited,
            reset,
            no_room: 0,
            longest: Duration::from_millis(510),
        }
    }

    #[test]
    fn one_line_tells_a_gap() {
        let haproxy = "haproxy (pid 7)";
        assert_eq!(
            gap(585, 0).over_words(haproxy),
            "80: nobody listened for 512 ms, from 2026-01-01T00:00:00.000Z on; 585 connections waited, for 510 ms \
             at most; haproxy (pid 7) listens now"
        );
        let one = gap(1, 0).over_words(haproxy);
        assert!(one.contains("; 1 connection waited, for 510 ms"), "{one}");
        let none = gap(0, 0).over_words(haproxy);
        assert!(none.contains("; no connection waited; "), "{none}");
        let mut full = gap(3, 0);
        full.no_room = 4;
        let full = full.over_words(haproxy);
        assert!(full.contains("too many came: 4 SYNs"), "{full}");
        for (reset, words) in [
            (0, "(--max-wait): new ones"),
            (1, ": 1 connection that waited was reset"),
            (2, ": 2 connections that waited were reset"),
        ] {
            let told = gap(reset, reset).given_up_words();
            assert!(told.contains(words), "{told}");
        }
    }

    #[test]
    fn gaps_that_end_together_are_one() {
        let mut all = gap(2, 1);
        let mut other = gap(3, 1);
        (other.ports, other.began) = ([443].into_iter().collect(), "before".to_owned());
        (other.took, other.no_room) = (Duration::from_secs(1), 5);
        all.add(other);
        assert_eq!((all.waited, all.reset, all.no_room), (5, 2, 5));
        assert_eq!(
            (all.began.as_str(), all.took),
            ("before", Duration::from_secs(1))
        );
        assert_eq!(all.ports.brief(), "80,443");
        let mut shorter = gap(0, 0);
        (shorter.began, shorter.took) = ("later".to_owned(), Duration::ZERO);
        all.add(shorter);
        assert_eq!(all.began, "before");
    }
}

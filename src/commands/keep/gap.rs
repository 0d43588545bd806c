//! A gap, as a keep tells of it. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::action::rooms::figures::Figures;
use crate::gate::counts::Counts;
use crate::words::count::{counted, counted_does};
use crate::words::ms::ms_words;
use crate::words::ports::PortSet;

/// The most addresses that a line names.
const MOST_NAMED: usize = 4;

/// What became of a time in which nobody listened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Gap {
    pub ports: PortSet,
    pub addresses: BTreeSet<String>,
    /// All that are kept on these ports.
    pub kept: BTreeSet<String>,
    /// When it began, in words.
    pub began: String,
    /// Until the connections that waited had been handed over.
    pub took: Duration,
    /// Until somebody listened.
    pub unserved: Duration,
    pub waited: usize,
    /// Of them, how many were reset.
    pub reset: usize,
    /// And how many had left before: their clients had closed the connection.
    pub left: usize,
    /// SYNs that the kernel dropped, since too many waited.
    pub no_room: usize,
    /// What the kernel could not move, as far as it tells.
    pub unmoved: Option<u64>,
    pub longest: Duration,
}

/// How a gap ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Who listens now.
    Over(BTreeSet<String>),
    /// The same. It was over before a look could show it.
    Unseen(BTreeSet<String>),
    /// After `--max-wait`. Who gets new connections, if somebody does.
    GivenUp(Option<String>),
    /// The unit of that name was stopped. Who gets new connections, if somebody does.
    Stopped(String, Option<String>),
    /// The service listens there, where the kernel can't move connections. Who gets new connections, if somebody does.
    Moved(String, Option<String>),
    KeepEnds,
    /// Keep gives way to a run. A moment before, nobody listened.
    StoodBack,
}

impl End {
    /// Another place has come to an end in the same way.
    pub(super) fn add(&mut self, other: End) {
        match (self, other) {
            (End::Over(now), End::Over(more)) | (End::Unseen(now), End::Unseen(more)) => {
                now.extend(more);
            }
            (this, other) => *this = other,
        }
    }

    /// Whether somebody listens again.
    pub(super) fn is_served(&self) -> bool {
        matches!(self, End::Over(_) | End::Unseen(_))
    }

    /// For the report.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            End::Over(_) | End::Unseen(_) => "over",
            End::GivenUp(_) => "given_up",
            End::Stopped(..) => "stopped",
            End::Moved(..) => "moved",
            End::KeepEnds => "keep_ended",
            End::StoodBack => "stood_back",
        }
    }
}

impl Gap {
    /// Gaps of several places that have ended together are one.
    pub(super) fn add(&mut self, other: Gap) {
        self.ports = self.ports.union(&other.ports);
        if other.took > self.took {
            (self.began, self.took) = (other.began, other.took);
        }
        self.addresses.extend(other.addresses);
        self.kept.extend(other.kept);
        self.unserved = self.unserved.max(other.unserved);
        self.unmoved = self.unmoved.max(other.unmoved);
        self.waited += other.waited;
        self.reset += other.reset;
        self.left += other.left;
        self.no_room += other.no_room;
        self.longest = self.longest.max(other.longest);
    }

    pub(super) fn waited_more(&mut self, more: Figures) {
        self.waited += more.waited();
        self.reset += more.reset;
        self.left += more.left;
        self.no_room += more.no_room;
        self.longest = self.longest.max(more.longest);
    }

    /// Whether somebody has to look at that. A stop resets the waiting connections, as it would without syngate.
    pub(super) fn is_trouble(&self, end: &End) -> bool {
        self.reset > 0 && !matches!(end, End::Stopped(..)) || self.lost() > 0
    }

    /// How many the service has.
    pub(super) fn handed_over(&self) -> usize {
        self.waited.saturating_sub(self.reset + self.left)
    }

    /// How many connections the kernel could not move, beside those that are known of.
    fn lost(&self) -> u64 {
        let unmoved = self.unmoved.unwrap_or_default();
        unmoved.saturating_sub((self.reset + self.left) as u64)
    }

    pub(super) fn count(&self, counts: &mut Counts) {
        counts.gaps += 1;
        counts.waited += self.waited as u64;
        counts.reset += self.reset as u64;
        counts.left += self.left as u64;
        counts.longest_ms = counts.longest_ms.max(self.longest.as_millis() as u64);
    }

    pub(super) fn words(&self, end: &End) -> String {
        let (ports, took, began) = (self.place_words(), ms_words(self.unserved), &self.began);
        let waited = self.waiters_words();
        match end {
            End::Over(now) => format!(
                "{ports}: nobody listened for {took}, from {began} on; {waited}; {} now",
                who_listens(now)
            ),
            End::Unseen(now) => format!(
                "{ports}: for a moment, at {began}, keep knew of no listener; {waited}; {} now",
                who_listens(now)
            ),
            End::GivenUp(gets) => format!(
                "{ports}: nobody has listened for {took} (--max-wait), from {began} on; {waited}; {}",
                new_ones(gets)
            ),
            End::Stopped(unit, gets) => format!(
                "{ports}: {unit} was stopped, and nobody has listened for {took}, from {began} on; {waited}; {}",
                new_ones(gets)
            ),
            End::Moved(to, gets) => format!(
                "{ports}: nobody has listened there for {took}, from {began} on, and the service listens on {to} now; \
                 the kernel can't move connections to there; {waited}; {}",
                new_ones(gets)
            ),
            End::KeepEnds => format!(
                "{ports}: nobody has listened for {took}, from {began} on, and keep ends; {waited}"
            ),
            End::StoodBack => format!(
                "{ports}: nobody listened for {took}, from {began} on; {waited}; keep stands back for a run"
            ),
        }
    }

    /// While it goes on: `waited` are the connections that wait now.
    pub(super) fn begun_words(&self) -> String {
        let waits = match self.waited {
            0 => "nobody waits yet".to_owned(),
            n => counted_does(n, "connection", ["waits", "wait"]),
        };
        format!(
            "{}: nobody listens, since {}; {waits}",
            self.place_words(),
            self.began
        )
    }

    /// The ports, or the addresses if others on these ports are kept, too.
    fn place_words(&self) -> String {
        let all = self.kept.is_subset(&self.addresses);
        match self.addresses.len() {
            _ if all => self.ports.brief(),
            n if n > MOST_NAMED => format!("{n} addresses of {}", self.ports.brief()),
            _ => {
                let addresses: Vec<&str> = self.addresses.iter().map(String::as_str).collect();
                addresses.join(" ")
            }
        }
    }

    /// How many waited, and what became of them.
    pub(super) fn waiters_words(&self) -> String {
        self.waited_words() + &self.fate_words()
    }

    /// What became of those who were not handed over.
    fn fate_words(&self) -> String {
        let mut words = match (self.reset, self.left) {
            (0, 0) => String::new(),
            (n, 0) if n == self.waited => ", and then reset".to_owned(),
            (n, 0) => format!(", and {n} of them reset"),
            (0, n) if n == self.waited => ", and then left by their clients".to_owned(),
            (0, n) => format!(", and {n} of them left by their clients"),
            (reset, left) => format!(", {reset} of them reset, and {left} left by their clients"),
        };
        if self.lost() > 0 {
            words.push_str(&format!(
                "; the kernel counts {} or handshakes that it could not move (TCPMigrateReqFailure): their clients may \
                 have been reset",
                counted(self.lost(), "connection")
            ));
        }
        words
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

fn who_listens(now: &BTreeSet<String>) -> String {
    let listens = if now.len() == 1 { "listens" } else { "listen" };
    let now: Vec<&str> = now.iter().map(String::as_str).collect();
    format!("{} {listens}", now.join(" and "))
}

fn new_ones(gets: &Option<String>) -> String {
    match gets {
        Some(gets) => format!("{gets} gets new connections"),
        None => "new connections are refused until somebody listens".to_owned(),
    }
}

#[cfg(test)]
pub(super) use self::tests::gap as made_up;

#[cfg(test)]
mod tests {
    use super::*;

    pub(in crate::commands::keep) fn gap(waited: usize, reset: usize) -> Gap {
        Gap {
            ports: [80].into_iter().collect(),
            began: "2026-01-01T00:00:00.000Z".to_owned(),
            addresses: ["0.0.0.0:80".to_owned()].into(),
            kept: ["0.0.0.0:80".to_owned()].into(),
            took: Duration::from_millis(600),
            unserved: Duration::from_millis(512),
            waited,
            reset,
            left: 0,
            no_room: 0,
            unmoved: None,
            longest: Duration::from_millis(510),
        }
    }

    #[test]
    fn one_line_tells_a_gap() {
        let listens = |name: &str| End::Over([name.to_owned()].into());
        let over = listens("haproxy (pid 7)");
        let from = "from 2026-01-01T00:00:00.000Z on";
        let waited = "585 connections waited, for 510 ms at most";
        for (end, outcome, words) in [
            (
                &over,
                "over",
                format!(
                    "80: nobody listened for 512 ms, {from}; {waited}; haproxy (pid 7) listens now"
                ),
            ),
            (
                &End::Unseen(["haproxy (pid 7)".to_owned()].into()),
                "over",
                format!(
                    "80: for a moment, at 2026-01-01T00:00:00.000Z, keep knew of no listener; {waited}; haproxy (pid \
                     7) listens now"
                ),
            ),
            (
                &End::GivenUp(None),
                "given_up",
                format!(
                    "80: nobody has listened for 512 ms (--max-wait), {from}; {waited}; new connections are refused \
                     until somebody listens"
                ),
            ),
            (
                &End::Stopped("app.service".to_owned(), None),
                "stopped",
                format!(
                    "80: app.service was stopped, and nobody has listened for 512 ms, {from}; {waited}; new \
                     connections are refused until somebody listens"
                ),
            ),
            (
                &End::Moved("[::]:80".to_owned(), None),
                "moved",
                format!(
                    "80: nobody has listened there for 512 ms, {from}, and the service listens on [::]:80 now; \
                     the kernel can't move connections to there; {waited}; new connections are refused until somebody \
                     listens"
                ),
            ),
            (
                &End::Moved("0.0.0.0:80".to_owned(), Some("0.0.0.0:80".to_owned())),
                "moved",
                format!(
                    "80: nobody has listened there for 512 ms, {from}, and the service listens on 0.0.0.0:80 now; \
                     the kernel can't move connections to there; {waited}; 0.0.0.0:80 gets new connections"
                ),
            ),
            (
                &End::KeepEnds,
                "keep_ended",
                format!("80: nobody has listened for 512 ms, {from}, and keep ends; {waited}"),
            ),
            (
                &End::StoodBack,
                "stood_back",
                format!(
                    "80: nobody listened for 512 ms, {from}; {waited}; keep stands back for a run"
                ),
            ),
        ] {
            assert_eq!(gap(585, 0).words(end), words);
            assert_eq!(end.outcome(), outcome);
            assert!(!gap(585, 0).is_trouble(end));
            assert_eq!(gap(585, 1).is_trouble(end), outcome != "stopped");
        }
        let mut both = over.clone();
        both.add(listens("nginx (pid 8)"));
        both.add(listens("haproxy (pid 7)"));
        let words = gap(1, 0).words(&both);
        let last = "; haproxy (pid 7) and nginx (pid 8) listen now";
        assert!(words.ends_with(last), "{words}");
        let one = gap(1, 0).words(&over);
        assert!(one.contains("; 1 connection waited, for 510 ms"), "{one}");
        let none = gap(0, 0).words(&over);
        assert!(none.contains("; no connection waited; "), "{none}");
        let mut full = gap(3, 0);
        full.no_room = 4;
        let full = full.words(&over);
        assert!(full.contains("too many came: 4 SYNs"), "{full}");
        for (waited, reset, words) in [
            (
                2,
                2,
                "2 connections waited, for 510 ms at most, and then reset;",
            ),
            (
                3,
                2,
                "3 connections waited, for 510 ms at most, and 2 of them reset;",
            ),
        ] {
            let told = gap(waited, reset).words(&End::GivenUp(None));
            assert!(told.contains(words), "{told}");
        }
    }

    #[test]
    fn a_gap_that_goes_on_is_told() {
        let words = |waiting| gap(waiting, 0).begun_words();
        let begins = "80: nobody listens, since 2026-01-01T00:00:00.000Z; ";
        assert_eq!(words(0), format!("{begins}nobody waits yet"));
        assert_eq!(words(1), format!("{begins}1 connection waits"));
        assert_eq!(words(12), format!("{begins}12 connections wait"));
    }

    #[test]
    fn who_left_was_not_reset() {
        let words = |waited, reset, left| {
            let gap = Gap {
                left,
                unmoved: Some((reset + left) as u64),
                ..gap(waited, reset)
            };
            assert_eq!(gap.handed_over(), waited - reset - left);
            let is_trouble = gap.is_trouble(&End::GivenUp(None));
            assert_eq!(is_trouble, reset > 0, "nobody has to look at one who left");
            gap.words(&End::GivenUp(None))
        };
        for (waited, reset, left, says) in [
            (
                1,
                0,
                1,
                "1 connection waited, for 510 ms at most, and then left by their clients; new",
            ),
            (
                3,
                0,
                1,
                "for 510 ms at most, and 1 of them left by their clients; new",
            ),
            (
                5,
                2,
                3,
                "at most, 2 of them reset, and 3 left by their clients; new",
            ),
        ] {
            let told = words(waited, reset, left);
            assert!(told.contains(says), "{told}");
        }
        let mut counts = Counts::default();
        let some = Gap {
            left: 3,
            ..gap(5, 2)
        };
        some.count(&mut counts);
        assert_eq!((counts.waited, counts.reset, counts.left), (5, 2, 3));
        let mut both = some.clone();
        both.add(some);
        assert_eq!(both.left, 6);
    }

    #[test]
    fn addresses_are_named_where_others_are_kept() {
        let end = End::GivenUp(None);
        let mut v4 = gap(1, 0);
        v4.kept.insert("[::]:80".to_owned());
        let words = v4.words(&end);
        assert!(words.starts_with("0.0.0.0:80: nobody has"), "{words}");
        let mut v6 = v4.clone();
        v6.addresses = ["[::]:80".to_owned()].into();
        v4.add(v6);
        let both = v4.words(&end);
        assert!(both.starts_with("80: nobody has"), "{both}");
        let many = |count: u16| {
            let mut gap = v4.clone();
            gap.kept.insert("192.0.2.1:80".to_owned());
            let more = (3..=count).map(|n| format!("192.0.2.2{n}:80"));
            gap.addresses.extend(more);
            gap.words(&end)
        };
        let four = many(4);
        let all = "0.0.0.0:80 192.0.2.23:80 192.0.2.24:80 [::]:80: nobody";
        assert!(four.starts_with(all), "{four}");
        let five = many(5);
        assert!(five.starts_with("5 addresses of 80: nobody"), "{five}");
    }

    #[test]
    fn what_the_kernel_could_not_move_is_told() {
        let end = End::Over(["nginx (pid 8)".to_owned()].into());
        let mut lost = gap(30, 0);
        lost.unmoved = Some(21);
        assert!(lost.is_trouble(&end));
        let words = lost.words(&end);
        let told = "; the kernel counts 21 connections or handshakes that it could not move";
        assert!(words.contains(told), "{words}");
        lost.reset = 21;
        assert!(!lost.words(&end).contains("TCPMigrateReqFailure"), "known");
        lost.reset = 0;
        lost.unmoved = Some(0);
        assert!(!lost.is_trouble(&end));
    }

    #[test]
    fn gaps_that_end_together_are_one() {
        let mut all = gap(2, 1);
        let mut other = gap(3, 1);
        (other.ports, other.began) = ([443].into_iter().collect(), "before".to_owned());
        (other.took, other.no_room) = (Duration::from_secs(1), 5);
        (other.unserved, other.unmoved) = (Duration::from_millis(700), Some(7));
        all.add(other);
        assert_eq!((all.waited, all.reset, all.no_room), (5, 2, 5));
        assert_eq!(
            (all.began.as_str(), all.took),
            ("before", Duration::from_secs(1))
        );
        assert_eq!(all.ports.brief(), "80,443");
        assert_eq!(all.unserved, Duration::from_millis(700));
        assert_eq!(all.unmoved, Some(7));
        let mut shorter = gap(0, 0);
        (shorter.began, shorter.took) = ("later".to_owned(), Duration::ZERO);
        all.add(shorter);
        assert_eq!(all.began, "before");
    }
}

//! Clients whose connections wait in rooms. Pure.

use super::{BUCKET_MS, Course, RESENT_MS, Rooms, Seen};

/// A guard whose run is dead gives those who wait back to an old listener that stays for so long: "Parked,
/// deserted" in the manual. Some met a room before its program was there.
const DESERTED_MS: f64 = 1000.0;

/// So long after the service is there, rooms that are in its way may still be: "Parked, moved" in the manual, and what a
/// busy machine adds. A guard whose run is dead looks less often.
const GIVES_WAY_MS: f64 = 200.0;
const GUARD_GIVES_WAY_MS: f64 = 1500.0;

impl Course<'_> {
    /// Whether the new process listened when that client came, and nothing was to keep it from that.
    pub(super) fn was_served(&self, due: f64) -> bool {
        let listens = self.rooms.and_then(|rooms| rooms.listens_ms);
        let within = match self.account.code {
            137 => GUARD_GIVES_WAY_MS,
            _ => GIVES_WAY_MS,
        };
        listens.is_some_and(|since| due > since + within * self.slow * self.busy)
    }

    /// Who has waited to be connected, or too long for an answer.
    pub(super) fn waited_in_rooms(&self, rooms: Rooms, seen: &Seen) -> Option<String> {
        if self.excuse.waiting || self.excuse.lossy || self.excuse.resent {
            return None;
        }
        self.waited_to_connect(seen)
            .or_else(|| self.waited_for_an_answer(rooms, seen))
    }

    /// A SYN is answered at once, or lost.
    fn waited_to_connect(&self, seen: &Seen) -> Option<String> {
        let mut waits = waits(seen, &seen.report.timeline_ms);
        let (due, took) = waits.find(|(_, took)| *took >= RESENT_MS * self.busy + seen.rtt_ms)?;
        Some(self.words(seen, "was connected", due, took))
    }

    fn waited_for_an_answer(&self, rooms: Rooms, seen: &Seen) -> Option<String> {
        let began = rooms.ran_ms.unwrap_or(f64::INFINITY) - self.margin();
        // A handshake, and a request.
        let slack = self.slack() + BUCKET_MS + 3.0 * seen.rtt_ms;
        let deserted = if self.account.code == 137 {
            DESERTED_MS
        } else {
            0.0
        };
        let latest = |due: f64| match rooms.for_gaps && due < began {
            true if rooms.early && (rooms.keeps || self.begins(seen, due)) => {
                self.open_ms().max(due)
            }
            true => due + deserted,
            false => self.open_ms().max(due),
        };
        let mut waits = waits(seen, &seen.report.answers_ms);
        let (due, took) = waits.find(|(due, took)| due + took > latest(*due) + slack)?;
        Some(self.words(seen, "was answered", due, took))
    }

    /// Whether that client may have come as the gate began to stand.
    fn begins(&self, seen: &Seen, due: f64) -> bool {
        let first = self.account.shut.first().map(|span| span.from_ms);
        let (before, after) = (self.margin() + 2.0 * seen.rtt_ms, self.margin());
        first.is_some_and(|from| due > from - before && due < from + after)
    }

    fn words(&self, seen: &Seen, what: &str, due: f64, took: f64) -> String {
        format!(
            "a client {} {what} only after {took:.0} ms, due {:+.0} ms from its end; it told {:?}",
            seen.from,
            due - self.account.ended_ms,
            self.account.shut_from_its_end()
        )
    }
}

/// When clients were due, and how long it took.
fn waits<'a>(seen: &'a Seen, timeline: &'a [f64]) -> impl Iterator<Item = (f64, f64)> + 'a {
    let started = seen.report.started_ms;
    let timeline = timeline.iter().enumerate();
    timeline.map(move |(n, took)| (started + n as f64 * BUCKET_MS, *took))
}

#[cfg(test)]
mod tests {
    use testkit::{Fate, LoadReport};

    use super::super::tests::{account, course, failed, finds};
    use super::*;

    const PARKED: Rooms = Rooms {
        for_gaps: false,
        early: false,
        ran_ms: Some(1100.0),
        listens_ms: None,
        moves: false,
        keeps: false,
        guarded: false,
    };

    /// Connected and answered after these times, and due then.
    fn waited(due_ms: f64, connected_ms: f64, answered_ms: f64) -> Seen {
        let timeline = |took| {
            let mut timeline = vec![0.0; (due_ms / BUCKET_MS) as usize];
            timeline.push(took);
            timeline
        };
        Seen {
            from: "outside",
            rtt_ms: 0.0,
            dropped: false,
            report: LoadReport {
                timeline_ms: timeline(connected_ms),
                answers_ms: timeline(answered_ms),
                ..LoadReport::default()
            },
        }
    }

    #[test]
    fn nobody_waits_to_be_connected() {
        let mut account = account();
        account.code = 137;
        let parked = Course {
            rooms: Some(PARKED),
            ..course(&account)
        };
        finds(&parked, waited(1100.0, 900.0, 900.0), "");
        finds(
            &parked,
            waited(1100.0, 1000.0, 1000.0),
            "was connected only",
        );
    }

    #[test]
    fn an_answer_waits_for_the_service() {
        let account = account();
        let parked = Course {
            rooms: Some(PARKED),
            ..course(&account)
        };
        finds(&parked, waited(1000.0, 1.0, 1200.0), "");
        finds(&parked, waited(1000.0, 1.0, 1220.0), "was answered only");
        finds(&parked, waited(1300.0, 1.0, 1020.0), "was answered only");
    }

    #[test]
    fn where_only_a_gap_makes_clients_wait_none_waits_before() {
        let mut account = account();
        account.shut[0].until_ms = 5000.0;
        account.ended_ms = 5000.0;
        let watched = Course {
            rooms: Some(Rooms {
                for_gaps: true,
                ..PARKED
            }),
            ..course(&account)
        };
        finds(&watched, waited(1000.0, 1.0, 1000.0), "");
        finds(&watched, waited(1000.0, 1.0, 1100.0), "was answered only");
        finds(&watched, waited(1100.0, 1.0, 3000.0), "");
        let early = |early| Course {
            rooms: Some(Rooms {
                for_gaps: true,
                early,
                ran_ms: Some(3000.0),
                ..PARKED
            }),
            ..course(&account)
        };
        finds(&early(true), waited(980.0, 1.0, 4000.0), "");
        finds(
            &early(true),
            waited(1100.0, 1.0, 1900.0),
            "was answered only",
        );
        finds(
            &early(false),
            waited(980.0, 1.0, 4000.0),
            "was answered only",
        );
        let unrun = Course {
            rooms: Some(Rooms {
                for_gaps: true,
                ran_ms: None,
                ..PARKED
            }),
            ..course(&account)
        };
        finds(&unrun, waited(1100.0, 1.0, 1100.0), "was answered only");
    }

    #[test]
    fn who_comes_when_the_service_is_there_is_served() {
        let mut account = account();
        account.code = 124;
        let moved = Course {
            rooms: Some(Rooms {
                listens_ms: Some(1000.0),
                moves: true,
                ..PARKED
            }),
            ..course(&account)
        };
        finds(&moved, failed(Fate::Cut, 990.0, 1205.0), "");
        finds(
            &moved,
            failed(Fate::Cut, 1210.0, 1230.0),
            "though the service listened",
        );
    }

    #[test]
    fn who_is_reset_as_the_service_moves_is_told_of() {
        let mut account = account();
        account.code = 124;
        account.message = "2 connections were reset: COMMAND exited with status 0".to_owned();
        let course = |moves| Course {
            rooms: Some(Rooms { moves, ..PARKED }),
            ..course(&account)
        };
        let reset = || failed(Fate::Cut, 1050.0, 1100.0);
        finds(&course(true), reset(), "");
        finds(&course(false), reset(), "while the port was shut");
    }

    #[test]
    fn a_guard_refuses_nobody() {
        let mut account = account();
        account.code = 137;
        let guarded = |guarded| Course {
            rooms: Some(Rooms { guarded, ..PARKED }),
            ..course(&account)
        };
        let refused = || failed(Fate::Refused, 1260.0, 1260.0);
        finds(&guarded(false), refused(), "");
        finds(&guarded(true), refused(), "though there was a guard");
    }
}

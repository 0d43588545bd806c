//! The results of parked connections, as a report row and as text.

use serde::Serialize;
use serde_json::Value;

use super::choice::{LARGEST_HELD, MOST_ROOMS, largest_room};
use super::figures::Figures;
use crate::words::count::{counted, counted_does};
use crate::words::ending::Failure;
use crate::words::ms::{Ms, ms_words};

#[derive(Debug, Serialize)]
pub(super) struct RoomRow {
    parked: usize,
    handed_over: usize,
    reset: usize,
    /// SYNs that the kernel dropped.
    no_room: usize,
    /// What the kernel could not move, as far as it tells.
    unmoved: Option<u64>,
    longest_ms: Ms,
    release_ms: Ms,
}

impl RoomRow {
    pub(super) fn new(figures: Figures, unmoved: Option<u64>) -> RoomRow {
        RoomRow {
            parked: figures.handed_over + figures.reset,
            handed_over: figures.handed_over,
            reset: figures.reset,
            no_room: figures.no_room,
            unmoved,
            longest_ms: figures.longest.into(),
            release_ms: figures.release.into(),
        }
    }

    pub(super) fn named(&self, action: &'static str) -> (&'static str, Value) {
        (action, serde_json::json!(self))
    }
}

/// `did`: what connections did in rooms.
pub(super) fn waited_words(did: &str, figures: &Figures) -> String {
    let longest = ms_words(figures.longest);
    let mut words = match figures.handed_over + figures.reset {
        0 => "no connection had to wait".to_owned(),
        n => format!("{} {did} (for {longest} at most)", counted(n, "connection")),
    };
    if figures.reset > 0 {
        words.push_str(&format!(", {} reset", figures.reset));
    }
    words
}

/// `elsewhere`: where the service listens that could not have the connections that waited.
pub(super) fn reset(figures: &Figures, elsewhere: &[String]) -> Option<Failure> {
    let many = match figures.reset {
        0 => return None,
        n => counted_does(n, "connection", ["was reset", "were reset"]),
    };
    let why = match elsewhere {
        [] => "nobody listened when the waiting rooms were closed".to_owned(),
        there => format!(
            "the service listens on {} now, and the kernel can't move the connections that waited to it",
            there.join(" ")
        ),
    };
    let hint = match elsewhere {
        [] => "",
        _ => " (--syn hold loses none there)",
    };
    Some(Failure {
        reason: "reset",
        why: format!("{why}: {many}{hint}"),
    })
}

/// What bounds how many may wait in a group of listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// `--max-held`.
    Asked(u32),
    /// The longest queue of a listener, net.core.somaxconn.
    Queue(u32),
    /// [`LARGEST_HELD`].
    Largest,
}

impl Room {
    /// `queue`: the longest that a listener can have.
    pub(super) fn of(max_held: u32, queue: u32) -> Room {
        if largest_room(queue).saturating_mul(MOST_ROOMS) < max_held {
            return Room::Queue(queue);
        }
        match max_held < LARGEST_HELD {
            true => Room::Asked(max_held),
            false => Room::Largest,
        }
    }
}

/// What to warn of, if SYNs found the rooms full.
pub(super) fn no_room_words(figures: &Figures, room: Room) -> Option<String> {
    let syns = match figures.no_room {
        0 => return None,
        n => counted(n, "SYN"),
    };
    let what = match room {
        Room::Asked(max_held) => format!("raise --max-held {max_held}"),
        Room::Queue(queue) => format!("raise net.core.somaxconn, which is {queue}"),
        Room::Largest => format!("no more than {LARGEST_HELD} connections can wait"),
    };
    Some(format!(
        "the kernel dropped {syns}, since the waiting rooms were full (clients send them again): {what}"
    ))
}

/// What to warn of, if the kernel has counted more than the run. `unmoved`: its count.
pub(super) fn unmoved_words(figures: &Figures, unmoved: Option<u64>) -> Option<String> {
    let more = unmoved?.saturating_sub(figures.reset as u64);
    (more > 0).then(|| {
        format!(
            "the kernel could not move {} (TCPMigrateReqFailure, which counts the whole network namespace): it may \
             have reset clients of this service or of another one; a flood of half-open connections counts too",
            match figures.reset {
                0 => format!("{more} connections or handshakes"),
                reset => format!("{more} more connections or handshakes than the {reset} that were reset"),
            }
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn they_are_told_in_numbers_and_words() {
        let of = |handed_over, reset| Figures {
            handed_over,
            reset,
            left: 0,
            no_room: 7,
            longest: Duration::from_millis(250),
            release: Duration::from_millis(3),
        };
        let row = RoomRow::new(of(3, 1), Some(1)).named("park");
        let numbers = serde_json::json!({
            "parked": 4, "handed_over": 3, "reset": 1, "no_room": 7, "unmoved": 1, "longest_ms": 250.0,
            "release_ms": 3.0,
        });
        assert_eq!(row, ("park", numbers));

        let words = |handed_over, reset| waited_words("parked", &of(handed_over, reset));
        assert_eq!(words(0, 0), "no connection had to wait");
        assert_eq!(words(1, 0), "1 connection parked (for 250 ms at most)");
        assert_eq!(
            words(2, 3),
            "5 connections parked (for 250 ms at most), 3 reset"
        );

        let told = waited_words("waited", &of(1, 0));
        assert_eq!(told, "1 connection waited (for 250 ms at most)");

        assert_eq!(reset(&of(3, 0), &[]), None);
        let says = |n| reset(&of(3, n), &[]).unwrap().why;
        assert!(says(1).ends_with(": 1 connection was reset"));
        assert!(says(2).ends_with(": 2 connections were reset"));
        let there = ["[::]:80".to_owned()];
        let moved = reset(&of(0, 1), &there).unwrap();
        assert!(moved.why.contains("listens on [::]:80 now"), "{moved:?}");
    }

    #[test]
    fn what_the_kernel_has_counted_beyond_the_run_is_told() {
        let told = |reset, unmoved| {
            let figures = Figures {
                reset,
                ..Figures::default()
            };
            unmoved_words(&figures, unmoved)
        };
        for (reset, unmoved) in [(0, None), (0, Some(0)), (3, Some(3)), (3, Some(2))] {
            assert_eq!(told(reset, unmoved), None);
        }
        let says = told(0, Some(2)).unwrap();
        assert!(
            says.contains("move 2 connections or handshakes (TCPMigrateReqFailure"),
            "{says}"
        );
        let says = told(3, Some(5)).unwrap();
        assert!(says.contains("move 2 more connections"), "{says}");
        assert!(says.contains("than the 3 that were reset"), "{says}");
    }

    #[test]
    fn what_to_raise_where_rooms_were_full() {
        let of = |no_room, room| {
            let figures = Figures {
                no_room,
                ..Figures::default()
            };
            no_room_words(&figures, room)
        };
        assert_eq!(of(0, Room::Largest), None);
        for (max_held, queue, says) in [
            (
                5,
                4_096,
                "the kernel dropped 1 SYN, since the waiting rooms were full",
            ),
            (65_535, 4_096, ": raise --max-held 65535"),
            (65_536, 4_096, ": no more than 65536 connections can wait"),
            (65_536, 128, ": raise net.core.somaxconn, which is 128"),
            (4_097, 128, "somaxconn"),
            (4_096, 128, "--max-held 4096"),
        ] {
            let told = of(1, Room::of(max_held, queue)).unwrap();
            assert!(told.ends_with(says) || told.contains(says), "{told}");
        }
        assert!(of(31, Room::Largest).unwrap().contains("dropped 31 SYNs, "));
    }
}

//! Whether what clients saw is as syngate promises, and as the run has told. Pure.
//!
//! What is promised is in the manual, and no more is asserted:
//!
//! ```text
//!   the run     |-- begins --|== closed ==|-- ends ---|
//!   is settled                                            |--- from here on
//!
//!   refused or  never, if the run has ended with 0 and warned of nothing that cuts clients
//!   cut         never, while the run says that the port was shut, unless it has warned of that
//!               never, if COMMAND was not run: the service has listened all the time
//!               never, once it is settled: the service answers
//!               with rooms: never, once the new process listens, wherever that is, and the rooms have given way
//!   waiting     until the port opens, and its client sends its SYN again where that was dropped
//!   with rooms: never for its connect; if these are for gaps, for no answer before COMMAND begins; and
//!               nobody is refused or cut by the death of a run that leaves a guard
//! ```
//!
//! A run that is killed opens its gate by that, and tells nothing any more. What is refused after its
//! end, while the service still restarts, is nobody's broken promise.

use testkit::{Failure, Fate, LoadReport};

use crate::account::{Account, Span};

mod rooms;

/// Clocks of several processes, and lines that are written a little later than what they tell of.
const MARGIN_MS: f64 = 50.0;
/// What a busy machine adds to a wait.
const SLACK_MS: f64 = 1000.0;
/// A SYN is sent again after this time (RFC 6298, 2.1).
const RESENT_MS: f64 = 1000.0;
/// The kernel's own deadline may be so much early: xt_recent counts whole seconds.
const EARLY_MS: f64 = 1000.0;
/// Of a LoadReport's timeline.
const BUCKET_MS: f64 = 10.0;

/// When a client sends its SYN, after the first. Since Linux 6.5 (net.ipv4.tcp_syn_linear_timeouts),
/// and before that.
const LINEAR_MS: [f64; 10] = [
    0.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0, 7000.0, 11_000.0, 19_000.0, 35_000.0,
];
const DOUBLING_MS: [f64; 6] = [0.0, 1000.0, 3000.0, 7000.0, 15_000.0, 31_000.0];

/// Words of warnings, and of the last line, that account for clients who were refused or cut.
const TELLING: [&str; 12] = [
    "--drain",
    "opened early",
    "opened the gate",
    "--best-effort",
    "could not change the gated ports",
    "can't read the gate back",
    "nobody listens",
    "standby",
    "were refused",
    "still on the",
    "without a gate",
    "nobody listened",
];
/// The same, if the service comes back elsewhere.
const MOVED: [&str; 2] = ["was reset", "were reset"];
/// The same, where there is somebody.
const BLAMING: &str = "another program removed or changed the gate's rules";
/// Words of handover's question to somebody who restarts, which accounts for nobody: those who waited are served.
const ASKING: &str = "was COMMAND a restart?";

/// Clients of one place, and what they saw.
pub struct Seen {
    /// Which place.
    pub from: &'static str,
    /// The way to the service and back, in ms.
    pub rtt_ms: f64,
    /// Whether their SYNs are dropped while the gate is closed.
    pub dropped: bool,
    pub report: LoadReport,
}

/// What a trial excuses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Excuse {
    /// Somebody else makes clients wait: a second gate.
    pub waiting: bool,
    /// Some SYNs are lost, as an interface is something else for a moment.
    pub resent: bool,
    /// Packets are lost, as in a flood. That makes clients wait, and cuts some; but nobody is refused by it.
    pub lossy: bool,
    /// Somebody else refuses and cuts clients.
    pub refused: bool,
}

/// How connections wait in rooms.
#[derive(Debug, Clone, Copy)]
pub struct Rooms {
    /// Only while nobody listens.
    pub for_gaps: bool,
    /// The service lacks SO_REUSEPORT: a room joins its group before a program can, and may be met meanwhile.
    pub early: bool,
    /// When COMMAND began to restart the service, to 10 ms.
    pub ran_ms: Option<f64>,
    /// When COMMAND knew that the new process listens, to 10 ms; nothing where it does not wait for that, or the run was
    /// kept from looking.
    pub listens_ms: Option<f64>,
    /// The service comes back where those who wait can't be moved: they are reset, and that is told.
    pub moves: bool,
    /// It is no run: it bridges gaps until it is told to end.
    pub keeps: bool,
    /// The run was killed, and left a guard.
    pub guarded: bool,
}

/// What clients met.
pub struct Course<'a> {
    pub account: &'a Account,
    /// How often COMMAND has begun.
    pub ran: usize,
    /// From when on the service answered and nothing of the run was left.
    pub settled_ms: f64,
    pub max_closed_ms: f64,
    /// Whether new connections went to a standby or a peer.
    pub elsewhere: bool,
    /// If connections wait in rooms.
    pub rooms: Option<Rooms>,
    /// Whether only calls of the run were disturbed: nobody else had a gate.
    pub alone: bool,
    pub excuse: Excuse,
    /// The release of the kernel.
    pub kernel: &'a str,
    /// How much slower the machine is.
    pub slow: f64,
    /// How much longer things take, as others keep the machine busy.
    pub busy: f64,
}

/// What is not as promised, in words; the first of each kind from each place.
pub fn violations(course: &Course, all: &[Seen]) -> Vec<String> {
    let mut wrong: Vec<String> = course.shut_for_long().into_iter().collect();
    for seen in all {
        let mut of_place: Vec<String> = Vec::new();
        let failed = seen.report.failures.iter();
        for (kind, what) in failed.filter_map(|failure| course.judge(seen, failure)) {
            let text = format!("a client {}, {kind}", seen.from);
            if !of_place.iter().any(|known| known.starts_with(&text)) {
                of_place.push(format!("{text}: {what}"));
            }
        }
        wrong.extend(of_place);
        wrong.extend(match course.rooms {
            Some(rooms) => course.waited_in_rooms(rooms, seen),
            None => course.waited(seen),
        });
    }
    wrong
}

impl Course<'_> {
    /// What a machine adds to a wait.
    fn slack(&self) -> f64 {
        SLACK_MS * self.slow * self.busy
    }

    fn margin(&self) -> f64 {
        MARGIN_MS * self.slow
    }

    /// Whether the run has told of something that refuses or cuts clients.
    fn has_told(&self) -> bool {
        let texts = self.warnings_of_run().chain([&self.account.message]);
        let told = |text: &String| {
            TELLING.iter().any(|words| text.contains(words))
                || self.moves() && MOVED.iter().any(|words| text.contains(words))
                || !self.alone && text.contains(BLAMING)
        };
        // A killed run can't name the clients that it failed to hand over.
        let died = self.moves() && self.account.code == 137;
        died || texts.into_iter().any(told)
    }

    /// Whether the service comes back elsewhere.
    fn moves(&self) -> bool {
        self.rooms.is_some_and(|rooms| rooms.moves)
    }

    /// Whether it is a keep that has ended, and was not killed.
    fn keeps_no_more(&self, at: f64) -> bool {
        let keeps = self.rooms.is_some_and(|rooms| rooms.keeps);
        keeps && self.account.code != 137 && at > self.account.ended_ms - self.margin()
    }

    /// Whether nothing has gone wrong, by its own account.
    fn is_well(&self) -> bool {
        self.account.code == 0 && self.warnings_of_run().next().is_none()
    }

    fn warnings_of_run(&self) -> impl Iterator<Item = &String> {
        let warnings = self.account.warnings.iter();
        warnings.filter(|text| !text.contains(ASKING))
    }

    fn shut_for_long(&self) -> Option<String> {
        let limit = self.max_closed_ms + self.slack();
        let long = self
            .account
            .shut_ms
            .filter(|shut| *shut > limit && !self.excuse.waiting)?;
        Some(format!(
            "the port was shut for {long:.0} ms, by its own account"
        ))
    }

    /// What a failure breaks, if it does: which promise, and more of it.
    fn judge(&self, seen: &Seen, failure: &Failure) -> Option<(&'static str, String)> {
        let lost = self.excuse.lossy && failure.kind != Fate::Refused;
        if self.excuse.refused || lost {
            return None;
        }
        let started = seen.report.started_ms;
        let (due, at) = (started + failure.due_ms, started + failure.at_ms);
        let kind = match failure.kind {
            _ if due > self.settled_ms => "after the end of the run",
            _ if self.was_served(due) => "though the service listened",
            Fate::TimedOut if !self.is_lost(due) => "that was never answered",
            _ if self.keeps_no_more(at) => return None,
            _ if self.ran == 0 && !self.is_of_others(at) => "though nothing was restarted",
            _ if self.while_shut(seen, at) && !self.has_told() => "while the port was shut",
            _ if self.account.code == 0 && !self.has_told() => "without a word, and status 0",
            _ if self.rooms.is_some_and(|rooms| rooms.guarded) => "though there was a guard",
            _ => return None,
        };
        let account = self.account;
        let after = |ms: f64| format!("{:+.0}", ms - account.ended_ms);
        let what = format!(
            "{:?}, due {} ms, failed {} ms from its end: {}; it told {:?}",
            failure.kind,
            after(due),
            after(at),
            failure.detail,
            account.shut_from_its_end()
        );
        Some((kind, what))
    }

    /// A connection that was elsewhere, or on its way there, when the run was killed or others removed its
    /// rules, and nobody knew any more where.
    fn is_lost(&self, due: f64) -> bool {
        let knew = self.account.code == 0 && !self.has_told();
        self.elsewhere && !knew && due < self.settled_ms
    }

    /// Whether it can be the standby or the peer that has failed, and not the service.
    fn is_of_others(&self, at: f64) -> bool {
        let over = at > self.account.ended_ms - self.margin();
        self.elsewhere && (over || self.has_told())
    }

    /// Whether the run says that the port was shut at all times at which the server can have refused it.
    fn while_shut(&self, seen: &Seen, at: f64) -> bool {
        let margin = self.margin();
        let (earliest, latest) = (at - seen.rtt_ms, at);
        self.account.shut.iter().any(|span| {
            // At the latest then the kernel opens.
            let until = span
                .until_ms
                .min(span.from_ms + self.max_closed_ms - EARLY_MS);
            earliest > span.from_ms && latest < until - margin
        })
    }

    /// Who has waited for too long, first of all, and how many more; none may, if nobody else makes clients
    /// wait.
    fn waited(&self, seen: &Seen) -> Option<String> {
        let timeline = seen.report.timeline_ms.iter().enumerate();
        let waits = timeline.map(|(n, took)| {
            let due = seen.report.started_ms + n as f64 * BUCKET_MS;
            (due, *took)
        });
        let waits = waits.filter(|_| !self.excuse.waiting && !self.excuse.lossy);
        let mut long = waits.filter(|(due, took)| {
            due + took > self.latest(seen, *due) || self.was_dropped(seen, *due, *took)
        });
        let (due, took) = long.next()?;
        Some(format!(
            "a client {} waited for {took:.0} ms, due {:+.0} ms from its end, and {} more for too long; it \
             told {:?}",
            seen.from,
            due - self.account.ended_ms,
            long.count(),
            self.account.shut_from_its_end()
        ))
    }

    /// When the port is open for good, by what is known; a client that is due later waits for nothing.
    fn open_ms(&self) -> f64 {
        let opened = self.account.shut.last().map(|span| span.until_ms);
        match opened {
            Some(opened) if self.is_well() && self.alone => opened,
            _ => self.settled_ms,
        }
    }

    /// When a client that is due then has connected, at the latest.
    fn latest(&self, seen: &Seen, due: f64) -> f64 {
        let open = self.open_ms();
        let sent = self.attempts().iter().map(|after| due + after);
        // A SYN that came in just before the opening was dropped.
        let sent = sent.into_iter().find(|at| *at >= open || due >= open);
        sent.unwrap_or(f64::INFINITY) + BUCKET_MS + seen.rtt_ms + self.slack()
    }

    fn attempts(&self) -> &'static [f64] {
        let mut numbers = self.kernel.split(['.', '-']);
        let mut number = || numbers.next().and_then(|n| n.parse::<u32>().ok());
        match (number(), number()) {
            (Some(major), Some(minor)) if (major, minor) < (6, 5) => &DOUBLING_MS,
            _ => &LINEAR_MS,
        }
    }

    /// Whether its SYN seems to have been sent again, and nothing is known that dropped it.
    fn was_dropped(&self, seen: &Seen, due: f64, took: f64) -> bool {
        let open = self.open_ms();
        let calm = self.is_well() && self.alone && self.account.not_held == 0;
        calm && !seen.dropped
            && took >= RESENT_MS + seen.rtt_ms
            && open - due < RESENT_MS - 3.0 * self.margin()
    }
}

impl Account {
    /// For messages.
    fn shut_from_its_end(&self) -> Vec<String> {
        let spans = self.shut.iter();
        let words = |span: &Span| {
            let [from, until] = [span.from_ms, span.until_ms].map(|ms| ms - self.ended_ms);
            format!("shut {from:+.0} to {until:+.0}")
        };
        let shut = spans.map(words);
        shut.chain(self.warnings.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shut from 1000 to 1200, ended at 1250, settled at 1300.
    pub fn account() -> Account {
        Account {
            shut: vec![Span {
                from_ms: 1000.0,
                until_ms: 1200.0,
            }],
            ended_ms: 1250.0,
            ..Account::default()
        }
    }

    pub fn course(account: &Account) -> Course<'_> {
        Course {
            account,
            ran: 1,
            settled_ms: 1300.0,
            max_closed_ms: 30_000.0,
            elsewhere: false,
            rooms: None,
            alone: true,
            excuse: Excuse::default(),
            kernel: "6.18.1",
            slow: 1.0,
            busy: 1.0,
        }
    }

    /// The client begins at 0.
    pub fn failed(kind: Fate, due_ms: f64, at_ms: f64) -> Seen {
        let failure = Failure {
            due_ms,
            at_ms,
            kind,
            detail: String::new(),
        };
        let mut seen = waited(0.0, 1.0);
        seen.report.failures.push(failure);
        seen
    }

    fn waited(due_ms: f64, took_ms: f64) -> Seen {
        let mut timeline_ms = vec![0.0; (due_ms / BUCKET_MS) as usize];
        timeline_ms.push(took_ms);
        Seen {
            from: "outside",
            rtt_ms: 0.0,
            dropped: true,
            report: LoadReport {
                timeline_ms,
                ..LoadReport::default()
            },
        }
    }

    #[track_caller]
    pub fn finds(course: &Course, seen: Seen, words: &str) {
        let found = violations(course, &[seen]);
        match words {
            "" => assert!(found.is_empty(), "{found:?}"),
            _ => assert!(found.len() == 1 && found[0].contains(words), "{found:?}"),
        }
    }

    #[test]
    fn refused_though_the_run_says_all_went_well() {
        let mut account = account();
        let refused = || failed(Fate::Refused, 1190.0, 1190.0);
        finds(&course(&account), refused(), "without a word");
        finds(
            &course(&account),
            failed(Fate::Cut, 900.0, 1190.0),
            "without a word",
        );
        account.code = 143;
        finds(&course(&account), refused(), "");
        account.code = 0;
        account.warnings =
            vec!["SIGUSR1 (syngate clear sends it) opened the gate early".to_owned()];
        finds(&course(&account), refused(), "");
        for other in [
            "the report could not be written",
            "nobody listened on 0.0.0.0:80 for a time, and clients waited: was COMMAND a restart?",
        ] {
            account.warnings = vec![other.to_owned()];
            finds(&course(&account), refused(), "without a word");
        }
    }

    #[test]
    fn refused_while_the_port_was_shut() {
        let mut account = account();
        account.code = 137;
        let refused = || failed(Fate::Refused, 1100.0, 1100.0);
        finds(&course(&account), refused(), "while the port was shut");
        finds(&course(&account), failed(Fate::Refused, 1230.0, 1230.0), "");
        // It may have been refused before.
        let from_afar = Seen {
            rtt_ms: 250.0,
            ..refused()
        };
        finds(&course(&account), from_afar, "");
        account.warnings =
            vec!["another program removed or changed the gate's rules, ...".to_owned()];
        let neighbour = Course {
            alone: false,
            ..course(&account)
        };
        finds(&neighbour, refused(), "");
        // There was nobody.
        finds(&course(&account), refused(), "while the port was shut");
    }

    #[test]
    fn where_packets_are_lost_only_refusals_tell() {
        let account = account();
        let lossy = Course {
            excuse: Excuse {
                lossy: true,
                ..Excuse::default()
            },
            ..course(&account)
        };
        finds(&lossy, failed(Fate::Cut, 900.0, 1190.0), "");
        finds(&lossy, failed(Fate::TimedOut, 1100.0, 41_100.0), "");
        finds(&lossy, waited(1100.0, 9000.0), "");
        let refused = failed(Fate::Refused, 1190.0, 1190.0);
        finds(&lossy, refused, "without a word");
    }

    #[test]
    fn the_kernel_opens_after_max_closed() {
        let mut account = account();
        account.code = 124;
        account.shut[0].until_ms = 9000.0;
        account.ended_ms = 9000.0;
        let late = |at| Course {
            max_closed_ms: 5000.0,
            settled_ms: at,
            ..course(&account)
        };
        let refused = |at| failed(Fate::Refused, at, at);
        finds(&late(9100.0), refused(4000.0), "while the port was shut");
        // A run that was stopped says late that the port is open.
        finds(&late(9100.0), refused(7000.0), "");
    }

    #[test]
    fn nobody_is_refused_where_nothing_was_restarted() {
        let mut account = account();
        account.code = 125;
        let none = Course {
            ran: 0,
            ..course(&account)
        };
        finds(
            &none,
            failed(Fate::Refused, 1240.0, 1240.0),
            "nothing was restarted",
        );
        let elsewhere = Course {
            ran: 0,
            elsewhere: true,
            ..course(&account)
        };
        finds(&elsewhere, failed(Fate::Reset, 1240.0, 1240.0), "");
        finds(
            &elsewhere,
            failed(Fate::Reset, 1050.0, 1050.0),
            "nothing was restarted",
        );
    }

    #[test]
    fn everybody_is_served_afterwards() {
        let mut account = account();
        account.code = 137;
        let late = || failed(Fate::Refused, 1310.0, 1310.0);
        finds(&course(&account), late(), "after the end of the run");
        let excused = Course {
            excuse: Excuse {
                refused: true,
                ..Excuse::default()
            },
            ..course(&account)
        };
        finds(&excused, late(), "");
        finds(
            &course(&account),
            failed(Fate::TimedOut, 1100.0, 41_100.0),
            "never answered",
        );
        let elsewhere = Course {
            elsewhere: true,
            ..course(&account)
        };
        finds(&elsewhere, failed(Fate::TimedOut, 1100.0, 41_100.0), "");
    }

    #[test]
    fn nobody_waits_for_longer_than_promised() {
        let account = account();
        let old = Course {
            kernel: "6.1.0-56",
            ..course(&account)
        };
        // Sent again at 2100.
        finds(&course(&account), waited(1100.0, 1000.0), "");
        finds(
            &course(&account),
            waited(1100.0, 3200.0),
            "waited for 3200 ms",
        );
        finds(
            &course(&account),
            waited(1250.0, 2100.0),
            "waited for 2100 ms",
        );
        let mut long = account.clone();
        long.shut[0].until_ms = 2500.0;
        long.ended_ms = 2500.0;
        let long_on_old = Course {
            account: &long,
            ..old
        };
        finds(&long_on_old, waited(1100.0, 3000.0), "");
        finds(&course(&long), waited(1100.0, 3100.0), "waited for 3100 ms");
        let mut killed = account.clone();
        killed.code = 137;
        let late = Course {
            settled_ms: 5000.0,
            ..course(&killed)
        };
        finds(&late, waited(1100.0, 4000.0), "");
        finds(&late, waited(1100.0, 6000.0), "waited for 6000 ms");
    }

    #[test]
    fn what_is_held_is_not_sent_again() {
        let mut account = account();
        let held = |took| Seen {
            dropped: false,
            ..waited(1100.0, took)
        };
        finds(&course(&account), held(900.0), "");
        finds(&course(&account), held(1010.0), "waited for 1010 ms");
        account.not_held = 1;
        finds(&course(&account), held(1010.0), "");
    }

    #[test]
    fn a_long_gate_is_seen_in_its_own_account() {
        let mut account = account();
        account.shut_ms = Some(30_500.0);
        finds(&course(&account), waited(1000.0, 1.0), "");
        account.shut_ms = Some(31_500.0);
        finds(&course(&account), waited(1000.0, 1.0), "for 31500 ms");
    }
}

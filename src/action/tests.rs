//! Plays courses of events in which actions take part, with their times.

use std::time::Duration;

use super::hold::policy::HoldPolicy;
use super::redirect::policy::RedirectPolicy;
use crate::decide::config::{Config, OpenOn};
use crate::decide::event::{Event, Task};
use crate::decide::policy::{Answer, LingerEnd, Question, Waiting};
use crate::decide::tale::*;
use crate::kernel::sockets::Sample;
use crate::words::ended::{CommandExit, Sender};
use crate::words::ports::PortSet;

#[test]
fn looks_that_are_dear_leave_time_for_the_rest() {
    let mut tale = Tale::new(config(), &on_80(&[1]));
    tale.state.guard();
    tale.has(RedirectPolicy::new(
        Duration::from_secs(1),
        false,
        tale.closed_at,
    ));
    let mut action = tale.at(0, Event::Closed);
    let dear = Duration::from_millis(30);
    let mut steps = 0;
    let started = loop {
        let now = tale.now_ms;
        action = match action {
            None => {
                let next = tale.wakes_at().unwrap().max(now);
                tale.at(next, Event::Time)
            }
            Some(Task::Guard) => tale.at(now + 30, Event::Intact(true, dear)),
            Some(Task::Ask(Question::Taken)) => {
                tale.at(now + 30, Event::Answered(Answer::Taken(true), dear))
            }
            Some(Task::Look(_)) => {
                // One handshake is in progress for the first 100 ms.
                let mut sample = Sample {
                    connections: busy(0),
                    ..on_80(&[1])
                };
                sample.half_open.young = u32::from(now < 100);
                tale.saw(now + 1, sample)
            }
            Some(Task::Check) => break tale.at(now, Event::Stands(true)),
            Some(other) => panic!("{other:?} at {now} ms"),
        };
        steps += 1;
        assert!(steps < 1_000, "nothing but looks");
    };
    assert_eq!(started, Some(Task::Start));
    assert!(tale.now_ms < 300, "{} ms", tale.now_ms);
}

/// A run whose COMMAND has exited and whose gate has opened, with two connections on the standby or
/// the peer.
fn lingering() -> Tale {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.has(RedirectPolicy::new(
        Duration::from_secs(1),
        true,
        tale.closed_at,
    ));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_80(&[2])), Some(Task::Open));
    assert_eq!(tale.at(60, Event::Done), Some(Task::Ask(Question::Left)));
    assert_eq!(
        tale.at(61, Event::Answered(Answer::Left(Some(2)), COST)),
        None
    );
    assert_eq!(tale.wakes_at(), Some(111));
    waits_for(
        &tale,
        "the gate is open; waiting for connections to the standby: 2 left",
    );
    tale
}

#[track_caller]
fn waits_for(tale: &Tale, what: &str) {
    assert_eq!(tale.state.waiting_for().as_deref(), Some(what));
}

#[test]
fn rules_stay_until_nobody_is_left_elsewhere() {
    let mut tale = lingering();
    assert_eq!(tale.at(111, Event::Time), Some(Task::Ask(Question::Left)));
    let unseen = Event::Answered(Answer::Left(None), COST);
    assert_eq!(tale.at(111, unseen), None);
    waits_for(
        &tale,
        "the gate is open; waiting for connections to the standby",
    );
    assert_eq!(
        tale.at(111, Event::Answered(Answer::Left(Some(0)), COST)),
        None
    );
    assert_eq!(tale.at(411, Event::Time), Some(Task::Ask(Question::Left)));
    let stops = Some(Task::Ask(Question::Stop));
    assert_eq!(
        tale.at(411, Event::Answered(Answer::Left(Some(0)), COST)),
        stops
    );
    assert_eq!(tale.at(411, Event::Answered(Answer::Stopping, COST)), None);
    assert_eq!(tale.wakes_at(), None, "the standby has its time");
    waits_for(&tale, "the gate is open; stopping the standby");
    let removes = Some(Task::Remove { anyway: false });
    assert_eq!(
        tale.at(450, Event::Answered(Answer::Stopped, COST)),
        removes
    );
    assert_eq!(tale.at(451, Event::Done), Some(Task::End));
    let lingered = tale.state.noted().lingered.unwrap();
    assert_eq!(
        (lingered.left, lingered.end),
        (Some(0), LingerEnd::Finished)
    );
}

#[test]
fn the_second_signal_cuts_who_is_left_elsewhere() {
    let mut tale = lingering();
    assert_eq!(tale.state.in_spite_of_a_signal(), None);
    assert_eq!(tale.at(70, Event::Signal(INT, Sender::Terminal)), None);
    assert_eq!(tale.state.facts.interrupted, None);
    let why = tale.state.in_spite_of_a_signal().unwrap();
    assert!(
        why.contains("(--linger) for connections to the standby; interrupt again"),
        "{why}"
    );
    let echo = tale.at(80, Event::Signal(INT, Sender::Terminal));
    assert_eq!(echo, None, "the same wish");
    assert_eq!(tale.at(560, Event::Time), Some(Task::Ask(Question::Left)));
    let two = Event::Answered(Answer::Left(Some(2)), COST);
    assert_eq!(tale.at(560, two), None);
    let second = tale.at(570, Event::Signal(INT, Sender::Terminal));
    assert_eq!(
        second,
        Some(Task::Ask(Question::Left)),
        "to count who is cut"
    );
    let stops = Some(Task::Ask(Question::Stop));
    assert_eq!(
        tale.at(570, Event::Answered(Answer::Left(Some(2)), COST)),
        stops
    );
    assert_eq!(tale.at(570, Event::Answered(Answer::Stopping, COST)), None);
    let third = tale.at(1_070, Event::Signal(INT, Sender::Terminal));
    let removes = Some(Task::Remove { anyway: false });
    assert_eq!(third, removes, "it is not waited for");
    let facts = &tale.state.facts;
    assert_eq!(facts.interrupted, Some((INT, Sender::Terminal)));
    assert_eq!(tale.state.noted().lingered.unwrap().end, LingerEnd::Stopped);
    assert!(facts.linger_cut);
}

/// The gate was opened early: the linger begins and does not end the run.
#[test]
fn a_linger_beside_a_command_that_still_runs() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.has(RedirectPolicy::new(
        Duration::from_secs(1),
        false,
        tale.closed_at,
    ));
    assert_eq!(tale.at(20, Event::OpenNow), Some(Task::Open));
    assert_eq!(tale.at(20, Event::Done), Some(Task::Ask(Question::Left)));
    assert_eq!(
        tale.at(20, Event::Answered(Answer::Left(Some(1)), COST)),
        None
    );
    assert_eq!(tale.wakes_at(), Some(70));
    tale.at(600, Event::Signal(INT, Sender::Terminal));
    assert_eq!(tale.state.in_spite_of_a_signal(), None, "COMMAND runs");
    let over = tale.at(1_020, Event::Time);
    assert_eq!(over, Some(Task::Ask(Question::Left)));
    let removes = Some(Task::Remove { anyway: false });
    assert_eq!(
        tale.at(1_020, Event::Answered(Answer::Left(Some(1)), COST)),
        removes
    );
    assert_eq!(tale.at(1_021, Event::Done), None, "COMMAND is waited for");
    assert!(matches!(tale.exits(1_030, 0), Some(Task::Look(_))));
    assert_eq!(tale.saw(1_031, on_80(&[2])), Some(Task::End));
}

/// USR1 has opened the gate. The message names what still keeps the run from ending.
#[test]
fn a_linger_beside_a_listener_that_is_missing() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    let linger = Duration::from_secs(1);
    tale.has(RedirectPolicy::new(linger, false, tale.closed_at));
    assert_eq!(tale.at(20, Event::OpenNow), Some(Task::Open));
    assert_eq!(tale.at(20, Event::Done), Some(Task::Ask(Question::Left)));
    let one = Event::Answered(Answer::Left(Some(1)), COST);
    assert_eq!(tale.at(20, one), None);
    assert_eq!(tale.state.waiting_for(), None, "COMMAND speaks for itself");
    assert!(matches!(tale.exits(30, 0), Some(Task::Look(_))));
    assert_eq!(tale.saw(31, on_80(&[])), None);
    waits_for(&tale, "waiting for a listener on 80");
}

/// A standby that is missing in one look may be replacing its process. Missing in two, it serves
/// nobody.
#[test]
fn nobody_is_sent_where_nobody_listens() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.has(RedirectPolicy::new(
        Duration::from_secs(1),
        false,
        tale.closed_at,
    ));
    for (at, listens) in [(20, true), (30, false), (40, true), (50, false)] {
        assert_eq!(tale.at(at, Event::Time), Some(Task::Ask(Question::Taken)));
        assert_eq!(
            tale.at(at, Event::Answered(Answer::Taken(listens), COST)),
            None
        );
        assert_eq!(tale.wakes_at(), Some(at + 10));
        assert_eq!(tale.state.noted().missed, at >= 40, "it is back");
    }
    assert_eq!(tale.at(60, Event::Time), Some(Task::Ask(Question::Taken)));
    let opens = tale.at(60, Event::Answered(Answer::Taken(false), COST));
    assert_eq!(opens, Some(Task::Open));
    assert_eq!(tale.state.facts.abandoned.unwrap().reason, "standby_gone");
}

/// A standby that has ended does not come back, so the gate opens at once. Once the gate is open, its end matters no more.
#[test]
fn a_standby_that_ends_opens_the_gate_at_once() {
    let tale = || {
        let mut tale = Tale::running(config(), &on_80(&[1]));
        let linger = Duration::from_secs(1);
        tale.has(RedirectPolicy::new(linger, true, tale.closed_at));
        tale
    };
    let ended = || Event::Answered(Answer::Ended, COST);
    let mut closed = tale();
    assert_eq!(closed.at(20, ended()), Some(Task::Open));
    let abandoned = closed.state.facts.abandoned.unwrap();
    assert_eq!(abandoned.reason, "standby_gone");
    let says = "the standby ended, and syngate had not stopped it: syngate opened the gate early";
    assert_eq!(abandoned.warning(), says);

    let mut open = tale();
    assert_eq!(open.at(20, Event::OpenNow), Some(Task::Open));
    assert_eq!(open.at(20, Event::Done), Some(Task::Ask(Question::Left)));
    assert_eq!(open.at(21, ended()), Some(Task::Ask(Question::Left)));
    assert!(open.state.facts.abandoned.is_none());
}

// Held SYNs ---------------------------------------------------------------------------------------

/// COMMAND has replaced the service and exited, so the port is about to open.
fn held(config: Config) -> Tale {
    let mut tale = Tale::running(config, &on_80(&[1]));
    tale.has(HoldPolicy::new(Duration::from_secs(2), tale.closed_at));
    tale.exits(60, 0);
    tale
}

fn releases(text: &str, finally: bool) -> Option<Task> {
    Some(Task::Ask(Question::LetGo {
        ports: ports(text),
        finally,
    }))
}

/// `count` SYNs are still held for these ports.
fn after(text: &str, count: usize) -> Event {
    let waiting = match text {
        "" => PortSet::EMPTY,
        text => ports(text),
    };
    let waiting = Waiting {
        ports: waiting,
        count,
        gone: 0,
    };
    Event::Answered(Answer::Waiting(waiting), COST)
}

fn waiting(text: &str) -> Event {
    after(text, 9)
}

#[test]
fn the_gate_opens_when_nobody_waits_any_more() {
    let mut tale = held(config());
    let release = releases("80", true);
    assert_eq!(tale.saw(60, on_80(&[2])), release);
    waits_for(&tale, "letting the held SYNs go");
    assert_eq!(tale.at(60, waiting("80")), None, "listeners need a moment");
    assert_eq!(tale.wakes_at(), Some(61));
    assert_eq!(tale.at(61, Event::Time), release);
    let action = tale.at(61, after("", 0));
    tale.opens_and_ends(action);
    let took = tale.state.noted().released_in.unwrap();
    assert!(took >= Duration::from_millis(1), "{took:?}");
    assert!(tale.state.noted().release_cut.is_none());
}

/// The old listener ends during the release: the SYNs that are still held wait for the new one.
#[test]
fn a_listener_that_ends_during_the_release() {
    let mut tale = held(config());
    assert_eq!(tale.saw(60, on_80(&[1])), None);
    assert_eq!(tale.saw(160, on_80(&[1])), releases("80", false));
    assert_eq!(tale.at(160, waiting("80")), None);
    let [ended, other] = [1, 7].map(|cookie| vec![listener(80, cookie).id]);
    assert!(tale.state.minds(&ended) && !tale.state.minds(&other));
    assert_eq!(tale.at(161, Event::Ended(ended)), None);
    assert!(tale.state.facts.late.is_none(), "it was never open");
    assert_eq!(tale.saw(170, on_80(&[])), None);
    assert_eq!(tale.saw(200, on_80(&[2])), releases("80", true));
}

#[test]
fn the_release_is_bounded() {
    let mut tale = held(config());
    assert!(tale.saw(60, on_80(&[2])).is_some());
    assert_eq!(tale.at(60, waiting("80")), None);
    let fewer = |left| after("80", left);
    for (ms, left) in [(500, 8), (900, 7), (1_300, 6), (1_700, 5), (2_059, 4)] {
        assert!(tale.at(ms, Event::Time).is_some(), "{ms}");
        assert_eq!(tale.at(ms, fewer(left)), None, "{ms}");
    }
    let action = tale.at(2_060, fewer(3));
    tale.opens_and_ends(action);
    assert!(tale.state.noted().release_cut.is_some());
}

/// After the first signal, held SYNs are still released in rounds. The second signal opens at once.
#[test]
fn the_second_signal_does_not_wait_for_held_syns() {
    let signal = || Event::Signal(TERM, Sender::Process);
    let mut tale = held(config());
    assert_eq!(tale.saw(60, on_80(&[])), None);
    assert_eq!(tale.at(70, signal()), releases("80", true));
    let action = tale.at(600, Event::Signal(INT, Sender::Terminal));
    let first = Some((TERM, Sender::Process));
    assert_eq!(tale.state.facts.interrupted, first, "that one ended it");
    tale.opens_and_ends(action);

    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.has(HoldPolicy::new(Duration::from_secs(2), tale.closed_at));
    assert_eq!(tale.at(20, signal()), Some(Task::Pass(TERM)));
    let action = tale.at(2_000, signal());
    tale.opens_and_ends(action);
}

/// The service was ready before the deadline. Only the release of held SYNs went on beyond it.
#[test]
fn a_deadline_during_the_last_release_cuts_nothing_short() {
    let mut tale = held(config());
    tale.state
        .opens_by(tale.closed_at + Duration::from_millis(100));
    assert_eq!(tale.saw(60, on_80(&[2])), releases("80", true));
    let action = tale.at(100, waiting("80"));
    assert!(!tale.state.facts.deadline_hit);
    tale.opens_and_ends(action);

    // The same where USR1 opens while COMMAND runs.
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.has(HoldPolicy::new(Duration::from_secs(2), tale.closed_at));
    tale.state
        .opens_by(tale.closed_at + Duration::from_millis(100));
    assert_eq!(tale.at(20, Event::OpenNow), releases("80", true));
    assert_eq!(tale.at(100, waiting("80")), Some(Task::Open));
    assert!(!tale.state.facts.deadline_hit);
}

#[test]
fn a_signal_during_the_release_opens_now() {
    let mut tale = held(config());
    assert!(tale.saw(60, on_80(&[2])).is_some());
    assert_eq!(tale.at(60, waiting("80")), None);
    let action = tale.at(61, Event::Signal(INT, Sender::Process));
    tale.opens_and_ends(action);
}

#[test]
fn each_port_opens_when_its_own_have_gone() {
    let mut two = config();
    two.gated.ports = ports("80,443");
    let mut both = on_80(&[1]);
    both.listeners.push(listener(443, 2));
    let mut tale = Tale::running(two, &both);
    tale.has(HoldPolicy::new(Duration::from_secs(2), tale.closed_at));
    tale.exits(60, 0);
    // 443 has no listener yet.
    assert_eq!(tale.saw(60, on_80(&[3])), releases("80", false));
    assert_eq!(tale.at(60, waiting("80,443")), None);
    assert_eq!(tale.saw(61, on_80(&[3])), releases("80", false));
    let opens = tale.at(61, waiting("443"));
    assert_eq!(opens, Some(Task::ShutOnly(ports("443"))));
    assert!(matches!(
        tale.at(61, Event::Shut(ports("443"))),
        None | Some(Task::Look(_))
    ));
    let mut all = on_80(&[3]);
    all.listeners.push(listener(443, 4));
    let last = tale.saw(70, all);
    assert_eq!(last, releases("80,443", true), "late ones of 80 too");
    let action = tale.at(70, after("", 0));
    tale.opens_and_ends(action);
}

#[test]
fn who_waits_goes_before_an_early_opening_too() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.has(HoldPolicy::new(Duration::from_secs(2), tale.closed_at));
    assert_eq!(tale.at(20, Event::OpenNow), releases("80", true));
    assert_eq!(tale.at(20, waiting("80")), None);
    assert_eq!(tale.at(21, Event::Time), releases("80", true));
    assert_eq!(tale.at(21, waiting("443")), Some(Task::Open));
    tale.removes();
    assert_eq!(tale.at(21, Event::Done), None, "COMMAND runs on");
}

// Any course --------------------------------------------------------------------------------------

mod any_course {
    use super::*;
    use proptest::prelude::*;

    fn any_sample() -> impl Strategy<Value = Sample> {
        (
            prop::collection::vec(1u64..6, 0..4),
            0u32..3,
            prop::collection::vec(1i32..4, 0..3),
        )
            .prop_map(|(cookies, busy, pids)| {
                let mut sample = held_by(on_80(&cookies), &pids);
                sample.connections = super::busy(busy);
                sample
            })
    }

    /// An event from outside. The action's answers come from the simulation below.
    fn any_event() -> impl Strategy<Value = Option<Event>> {
        prop_oneof![
            6 => Just(None),
            1 => Just(Some(Event::OpenNow)),
            1 => Just(Some(Event::Signal(TERM, Sender::Process))),
            1 => Just(Some(Event::Signal(INT, Sender::Terminal))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// For any order of events: the gate is opened for good exactly once, before the end;
        /// COMMAND is started at most once, and never behind an open gate; and no port is closed
        /// after the gate was opened for good.
        #[test]
        fn ends_open(
            follow in any::<bool>(),
            exposed in any::<bool>(),
            others in 0i32..1_000,
            waits in prop::option::of(prop::collection::vec(any::<bool>(), 1..6)),
            left in prop::option::of(prop::collection::vec(prop::option::of(0usize..2), 1..6)),
            stops in any::<bool>(),
            (drain_command, ready_check, search) in any::<(bool, bool, bool)>(),
            beside in prop::collection::vec(prop::option::of(any::<bool>()), 1..6),
            best_effort in any::<bool>(),
            samples in prop::collection::vec(any_sample(), 1..8),
            events in prop::collection::vec((any_event(), 0u64..4_000), 0..60),
            stands in prop::collection::vec(any::<bool>(), 2),
            starts in any::<bool>(),
            exits in 0u8..2,
            runs_for in 0usize..30,
        ) {
            let config = Config {
                open_on: if follow { OpenOn::Ready } else { OpenOn::Exit },
                best_effort,
                drain_command,
                ready_check,
                search,
                ..config()
            };
            // A run has one action.
            let left = left.filter(|_| waits.is_none());
            let mut tale = Tale::new(config, &samples[0]);
            if exposed {
                tale.state.guard();
            }
            if waits.is_some() {
                tale.has(HoldPolicy::new(Duration::from_millis(5), tale.closed_at));
            }
            if left.is_some() {
                tale.has(RedirectPolicy::new(Duration::from_millis(500), stops, tale.closed_at));
            }
            let (mut removed, mut rounds, mut counts) = (0, 0, 0usize);
            let mut stopping = false;
            let (mut others, mut hurried) = (others, false);
            // The ports without held SYNs.
            let mut released = waits.is_none();
            let (mut opened, mut started, mut looks, mut checks) = (0, 0, 0usize, 0usize);
            // The programs that run beside COMMAND. Each may end in some way, or never.
            let mut told_to_drain = false;
            let (mut checking, mut searching, mut passed, mut nth) = (false, false, false, 0usize);
            let mut until_exit = None;
            let mut events = events.into_iter();
            let mut event = Event::Closed;
            let mut now = 0;
            let mut ended = false;
            for _ in 0..60_000 {
                let action = tale.at(now, event.clone());
                event = match action {
                    Some(Task::End) => { ended = true; break }
                    Some(Task::Open) => {
                        let facts = &tale.state.facts;
                        let cut = facts.interrupted.is_some() || tale.state.noted().release_cut.is_some();
                        let hurried = hurried || cut;
                        prop_assert!(released || hurried);
                        opened += 1;
                        Event::Done
                    }
                    Some(Task::Ask(Question::LetGo { ports, .. })) => {
                        prop_assert!(opened == 0 && !ports.is_empty());
                        let waits = waits.as_ref().expect("nothing is held");
                        rounds += 1;
                        let waiting = match waits[rounds % waits.len()] {
                            true => ports,
                            false => PortSet::EMPTY,
                        };
                        released = waiting.is_empty();
                        now += 1;
                        Event::Answered(
                            Answer::Waiting(Waiting {
                                count: usize::from(!waiting.is_empty()),
                                ports: waiting,
                                gone: rounds as u64,
                            }),
                            COST,
                            )
                    }
                    Some(Task::ShutOnly(shut)) => {
                        prop_assert_eq!(opened, 0);
                        prop_assert!(passed || !ready_check || !shut.is_empty());
                        Event::Done
                    }
                    Some(Task::ReadyCheck) => {
                        prop_assert!(ready_check && !checking && started == 1);
                        checking = true;
                        Event::Done
                    }
                    Some(Task::DrainCommand) => {
                        prop_assert!(drain_command && !told_to_drain && started == 0);
                        told_to_drain = true;
                        Event::DrainCommandEnded
                    }
                    Some(Task::Search) => {
                        prop_assert!(search && !searching && started == 1);
                        searching = true;
                        Event::Done
                    }
                    Some(Task::Ask(Question::Taken)) => {
                        prop_assert_eq!(opened, 0);
                        checks += 1;
                        let listens = stands[checks % 2];
                        hurried |= !listens;
                        Event::Answered(Answer::Taken(listens), COST)
                    }
                    Some(Task::Ask(Question::Stop)) => {
                        prop_assert!(stops && !stopping && opened == 1 && removed == 0);
                        stopping = true;
                        Event::Answered(Answer::Stopping, COST)
                    }
                    Some(Task::Ask(Question::Left)) => {
                        prop_assert_eq!((opened, removed), (1, 0));
                        let left = left.as_ref().expect("nobody is elsewhere");
                        counts += 1;
                        Event::Answered(Answer::Left(left[counts % left.len()]), COST)
                    }
                    Some(Task::Remove { anyway }) => {
                        prop_assert_eq!(opened, 1);
                        prop_assert!(left.is_none() || tale.state.noted().lingered.is_some());
                        others -= i32::from(others > 0);
                        if others > 0 && !anyway {
                            Event::OthersHold
                        } else {
                            removed += 1;
                            Event::Done
                        }
                    }
                    Some(Task::Pass(_)) => Event::Done,
                    Some(Task::Look(_)) => {
                        looks += 1;
                        Event::Saw(samples[looks % samples.len()].clone(), 100 * COST)
                    }
                    Some(Task::Guard) => {
                        prop_assert!(exposed && opened == 0);
                        checks += 1;
                        Event::Intact(stands[checks % 2], COST)
                    }
                    Some(Task::Check | Task::Rearm(_)) => {
                        prop_assert_eq!(opened, 0);
                        checks += 1;
                        Event::Stands(stands[(checks - 1).min(1)])
                    }
                    Some(Task::Start) => {
                        started += 1;
                        prop_assert_eq!(opened, 0);
                        if starts { until_exit = Some(runs_for) }
                        Event::Started(starts)
                    }
                    None => {
                        // COMMAND ends, an event comes from outside, or time passes.
                        let (outside, pause) = events.next().unwrap_or((None, 4_000));
                        nth += 1;
                        let ends = beside[nth % beside.len()];
                        if let Some(found) = ends.filter(|_| checking || searching) {
                            event = if checking {
                                checking = false;
                                passed |= found;
                                Event::ReadyChecked(CommandExit::Code(u8::from(!found)))
                            } else {
                                searching = false;
                                Event::Searched(found)
                            };
                            continue;
                        }
                        match (&mut until_exit, outside) {
                            (None, None) if std::mem::take(&mut stopping) => Event::Answered(Answer::Stopped, COST),
                            (Some(0), _) => {
                                until_exit = None;
                                Event::Exited(CommandExit::Code(exits))
                            }
                            (_, Some(outside)) => {
                                now += pause;
                                hurried |= outside == Event::OpenNow;
                                outside
                            }
                            (left, None) => {
                                if let Some(left) = left { *left -= 1 }
                                now = tale.wakes_at().unwrap_or(now + pause).max(now);
                                Event::Time
                            }
                        }
                    }
                };
            }
            prop_assert!(ended, "the run comes to its end");
            prop_assert_eq!((opened, removed), (1, 1));
            prop_assert!(started <= 1);
        }
    }
}

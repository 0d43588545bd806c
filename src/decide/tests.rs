//! Plays courses of events with their times.

use std::time::{Duration, Instant};

use super::config::*;
use super::drain::DrainUntil;
use super::event::*;
use super::policy::NoPolicy;
use super::readiness::places;
use super::state::State;
use super::tale::*;
use crate::kernel::sockets::row::YOUNG;
use crate::kernel::sockets::{Connections, HalfOpen, Listener, Sample, Want};
use crate::words::ended::{CommandExit, Sender};
use crate::words::gated::Gated;
use crate::words::listen_ports::ListenPorts;
use crate::words::ports::PortSet;

// Drain -------------------------------------------------------------------------------------------

/// The rules were put back, but could not be read: the next check shows that they are there.
#[test]
fn a_closing_that_could_not_be_read_back_is_counted_once_it_is_seen() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.state.guard();
    let again = tale.at(20, Event::Intact(false, COST));
    assert_eq!(again, Some(Task::Rearm(ports("80"))));
    tale.at(21, Event::Stands(false));
    assert_eq!(tale.state.facts.reclosed, 0);
    tale.at(31, Event::Intact(true, COST));
    tale.at(41, Event::Intact(true, COST));
    assert_eq!(tale.state.facts.reclosed, 1);
}

/// What the old service has not accepted yet would be reset when it ends.
#[test]
fn the_drain_waits_for_the_accept_queue() {
    let mut tale = Tale::new(config(), &on_80(&[1]));
    tale.closes();
    let mut queued = on_80(&[1]);
    queued.listeners[0].accept_queue = 1;
    assert_eq!(tale.saw(5, queued), None);
    assert_eq!(tale.state.facts.left.accept_queue, 1);
    let next = tale.at(6, Event::Time);
    assert_eq!(next, Some(Task::Look(NO_CONNECTIONS)), "not all are there");
    assert_eq!(tale.saw(7, on_80(&[1])), Some(Task::Check));
}

/// Where others can remove the rules, the gate closes again with the ports that are shut then.
#[test]
fn closes_again_what_somebody_has_opened() {
    let mut config = config();
    config.gated.ports = ports("80,443");
    let mut both = on_80(&[1]);
    both.listeners.push(listener(443, 2));
    let mut tale = Tale::running(config, &both);
    assert!(
        !matches!(tale.wakes_at(), Some(0..=1_000)),
        "it need not be looked at"
    );
    tale.state.guard();
    let next = tale.wakes_at().unwrap();
    assert_eq!(tale.at(next.max(10), Event::Time), Some(Task::Guard));
    assert_eq!(tale.at(11, Event::Intact(true, COST)), None);
    assert_eq!(tale.at(31, Event::Time), Some(Task::Guard));
    let again = tale.at(31, Event::Intact(false, COST));
    assert_eq!(again, Some(Task::Rearm(ports("80,443"))));
    assert!(tale.state.is_fallen());
    assert_eq!(tale.at(40, Event::Stands(true)), None);
    assert!(!tale.state.is_fallen());
    // 443 is ready first.
    assert!(matches!(
        tale.at(50, Event::Exited(CommandExit::Code(0))),
        Some(Task::Look(_))
    ));
    let mut half = on_80(&[]);
    half.listeners.push(listener(443, 3));
    assert_eq!(
        tale.saw(51, half.clone()),
        Some(Task::ShutOnly(ports("80")))
    );
    assert_eq!(tale.at(52, Event::Done), Some(Task::Guard));
    let again = tale.at(52, Event::Intact(false, COST));
    assert_eq!(again, Some(Task::Rearm(ports("80"))));
    // The gate could not be closed: the next check tries again, and only a success counts.
    let mut action = tale.at(53, Event::Stands(false));
    assert!(tale.state.is_fallen());
    assert_eq!(tale.state.facts.reclosed, 1);
    while let Some(Task::Look(_)) = action {
        action = tale.saw(tale.now_ms, half.clone());
        if action.is_none() {
            let next = tale.wakes_at().unwrap();
            action = tale.at(next, Event::Time);
        }
    }
    assert_eq!(action, Some(Task::Guard));
    let now = tale.now_ms;
    assert_eq!(
        tale.at(now, Event::Intact(false, COST)),
        Some(Task::Rearm(ports("80")))
    );
    tale.at(now, Event::Stands(true));
    assert_eq!(tale.state.facts.reclosed, 2);
}

/// For example when another program holds the xtables lock.
#[test]
fn what_could_not_be_changed_is_tried_again() {
    let mut config = config();
    config.gated.ports = ports("80,443");
    let mut both = on_80(&[1]);
    both.listeners.push(listener(443, 2));
    let mut tale = Tale::running(config, &both);
    tale.at(50, Event::Exited(CommandExit::Code(0)));
    let mut half = on_80(&[]);
    half.listeners.push(listener(443, 3));
    let opens = Some(Task::ShutOnly(ports("80")));
    assert_eq!(tale.saw(51, half.clone()), opens);
    assert_eq!(tale.at(52, Event::Shut(ports("80,443"))), None);
    assert_eq!(tale.wakes_at(), Some(152), "a moment later");
    assert!(matches!(tale.at(152, Event::Time), Some(Task::Look(_))));
    assert_eq!(tale.saw(152, half), opens);
}

const ALL_CONNECTIONS: Want = Want {
    handshakes: false,
    half_open: true,
    connections: true,
    holders: false,
};

const NO_CONNECTIONS: Want = Want {
    connections: false,
    ..ALL_CONNECTIONS
};

/// A CPU may apply the old rules for a moment longer.
#[test]
fn an_idle_service_is_drained_at_one_look_5_ms_later() {
    let mut tale = Tale::new(config(), &on_80(&[1]));
    assert_eq!(tale.at(0, Event::Closed), None);
    assert_eq!(tale.wakes_at(), Some(5));
    let look = Some(Task::Look(ALL_CONNECTIONS));
    assert_eq!(tale.at(5, Event::Time), look);
    assert_eq!(tale.saw(6, on_80(&[1])), Some(Task::Check));
}

/// A look at many connections takes long, so it waits until handshakes are over.
#[test]
fn connections_are_looked_at_when_all_are_there() {
    let mut tale = Tale::new(config(), &on_80(&[1]));
    tale.closes();
    let mut shaking = on_80(&[1]);
    shaking.half_open.young = 1;
    assert_eq!(tale.saw(6, shaking.clone()), None);
    let want = NO_CONNECTIONS;
    assert_eq!(tale.at(8, Event::Time), Some(Task::Look(want)));
    shaking.connections = None;
    assert_eq!(tale.saw(8, shaking), None);
    assert_eq!(tale.at(10, Event::Time), Some(Task::Look(want)));
    let look = Some(Task::Look(ALL_CONNECTIONS));
    assert_eq!(tale.saw(10, no_connections_seen(&[1])), look, "at once");
    let mut sample = on_80(&[1]);
    sample.connections = busy(2);
    assert_eq!(tale.saw(11, sample), None);
    assert_eq!(tale.at(12, Event::Time), look, "until none is busy");
    assert_eq!(tale.saw(12, on_80(&[1])), Some(Task::Check));
}

/// A look at connections is slow where there are many, and a reload cuts none.
#[test]
fn a_drain_until_handshakes_are_over_looks_at_no_connections() {
    let config = Config {
        drain_until: DrainUntil::Handshakes,
        ..config()
    };
    let mut tale = Tale::new(config, &on_80(&[1]));
    tale.at(0, Event::Closed);
    assert_eq!(tale.at(5, Event::Time), Some(Task::Look(NO_CONNECTIONS)));
    assert_eq!(tale.saw(6, no_connections_seen(&[1])), Some(Task::Check));
}

/// The service's kernel refuses what the old rules still let in.
#[test]
fn where_nobody_listens_it_is_drained_at_the_first_look() {
    let mut tale = Tale::new(config(), &Sample::default());
    let look = Some(Task::Look(ALL_CONNECTIONS));
    assert_eq!(tale.at(0, Event::Closed), look);
    assert_eq!(tale.saw(1, on_80(&[])), Some(Task::Check));
}

/// For example a container that was just being replaced.
#[test]
fn a_listener_that_was_not_seen_at_first_is_drained_all_the_same() {
    let mut tale = Tale::new(config(), &Sample::default());
    tale.at(0, Event::Closed);
    assert_eq!(tale.saw(1, on_80(&[1])), None);
    assert_eq!(tale.wakes_at(), Some(5));
    assert!(matches!(tale.at(5, Event::Time), Some(Task::Look(_))));
    assert_eq!(tale.saw(6, on_80(&[1])), Some(Task::Check));
}

/// The drain reports what it still waited for, connections included.
#[test]
fn a_drain_too_short_for_all_looks_at_connections_in_the_end() {
    let mut config = config();
    config.drain = Duration::from_millis(10);
    let mut tale = Tale::new(config, &on_80(&[1]));
    tale.closes();
    let mut shaking = on_80(&[1]);
    shaking.half_open.young = 1;
    assert_eq!(tale.saw(6, shaking.clone()), None);
    assert!(matches!(tale.at(9, Event::Time), Some(Task::Look(_))));
    shaking.connections = None;
    let look = Some(Task::Look(ALL_CONNECTIONS));
    assert_eq!(tale.saw(12, shaking.clone()), look);
    shaking.connections = busy(3);
    assert_eq!(tale.saw(15, shaking), Some(Task::Check));
    assert_eq!(tale.state.facts.left.busy, 3);
}

#[test]
fn the_drain_is_bounded_and_says_what_is_left() {
    let mut tale = Tale::new(config(), &on_80(&[1]));
    tale.at(0, Event::Closed);
    let mut busy = on_80(&[1]);
    busy.connections = Some(Connections {
        established: 9,
        busy: 4,
    });
    assert_eq!(tale.saw(6, busy.clone()), None);
    assert_eq!(tale.saw(999, busy.clone()), None);
    assert_eq!(tale.wakes_at(), Some(1000));
    assert!(matches!(tale.at(1000, Event::Time), Some(Task::Look(_))));
    assert_eq!(tale.saw(1000, busy), Some(Task::Check));
    assert_eq!(tale.state.facts.left.busy, 4);
    assert_eq!(tale.state.facts.left.established, 0, "not waited for");
}

/// `--drain-cmd` begins before the first look, and the drain lasts as long as it does.
#[test]
fn the_drain_waits_until_the_service_was_told() {
    let told = || Config {
        drain_command: true,
        ..config()
    };
    let mut tale = Tale::new(told(), &on_80(&[1]));
    assert_eq!(tale.at(0, Event::Closed), Some(Task::DrainCommand));
    assert_eq!(tale.at(1, Event::Done), None);
    assert!(matches!(tale.at(5, Event::Time), Some(Task::Look(_))));
    assert_eq!(tale.saw(6, on_80(&[1])), None, "it has not ended");
    let look = tale.at(7, Event::DrainCommandEnded);
    assert!(matches!(look, Some(Task::Look(_))), "{look:?}");
    assert_eq!(tale.saw(8, on_80(&[1])), Some(Task::Check));

    let mut tale = Tale::new(told(), &on_80(&[1]));
    assert_eq!(tale.at(0, Event::Closed), Some(Task::DrainCommand));
    assert_eq!(tale.at(1, Event::Done), None);
    assert_eq!(tale.saw(6, on_80(&[1])), None);
    assert!(matches!(tale.at(1000, Event::Time), Some(Task::Look(_))));
    assert_eq!(
        tale.saw(1000, on_80(&[1])),
        Some(Task::Check),
        "the drain is over"
    );

    // Nothing is drained.
    let none = Config {
        drain: Duration::ZERO,
        ..told()
    };
    let mut tale = Tale::new(none, &on_80(&[1]));
    assert_eq!(tale.at(0, Event::Closed), Some(Task::Check));
}

#[test]
fn scanners_are_counted_and_not_waited_for() {
    let mut tale = Tale::new(config(), &on_80(&[1]));
    tale.at(0, Event::Closed);
    let mut scanned = on_80(&[1]);
    scanned.half_open = HalfOpen {
        stale: 7,
        ..HalfOpen::default()
    };
    assert_eq!(tale.saw(6, scanned), Some(Task::Check));
    assert_eq!(tale.state.facts.stale_half_open, 7);
}

/// Where nobody scans, the last ACK of a slow handshake is awaited until the SYN-ACK is sent again.
#[test]
fn slow_handshakes_are_waited_for() {
    let slow = HalfOpen {
        slow: 3,
        ..HalfOpen::default()
    };
    let mut tale = Tale::new(config(), &on_80(&[1]));
    tale.at(0, Event::Closed);
    let mut sample = on_80(&[1]);
    sample.half_open = slow;
    assert_eq!(tale.saw(6, sample.clone()), None);
    assert_eq!(tale.state.facts.left.handshakes, 3);
    assert_eq!(tale.saw(590, sample), None);
    assert_eq!(tale.saw(600, on_80(&[1])), Some(Task::Check));
    assert_eq!(tale.state.facts.stale_half_open, 0);
}

/// Connections tell how far away clients are: a reload looks at them once, if there are scanners.
#[test]
fn among_scanners_slow_handshakes_are_waited_for_if_clients_are_far_away() {
    for (farthest_ms, over) in [(40, true), (600, false)] {
        let config = Config {
            drain_until: DrainUntil::Handshakes,
            ..config()
        };
        let mut tale = Tale::new(config, &on_80(&[1]));
        tale.at(0, Event::Closed);
        let mut sample = no_connections_seen(&[1]);
        sample.half_open = HalfOpen {
            slow: 3,
            stale: 7,
            ..HalfOpen::default()
        };
        let look = Some(Task::Look(ALL_CONNECTIONS));
        assert_eq!(tale.saw(6, sample.clone()), look);
        sample.connections = busy(0);
        sample.farthest = Duration::from_millis(farthest_ms);
        let next = tale.saw(7, sample);
        assert_eq!(next, over.then_some(Task::Check), "{farthest_ms} ms");
        let stale = tale.state.facts.stale_half_open;
        assert_eq!(stale, if over { 10 } else { 7 }, "{farthest_ms} ms");
    }
}

#[test]
fn syn_cookies_prolong_the_drain() {
    let mut tale = Tale::new(config(), &on_80(&[1]));
    tale.at(0, Event::Closed);
    let mut cookies = on_80(&[1]);
    cookies.cookies_sent = true;
    assert_eq!(tale.saw(6, cookies.clone()), None);
    assert_eq!(tale.wakes_at(), Some(300));
    assert_eq!(tale.saw(300, cookies.clone()), Some(Task::Check));

    // A client is far away: an ACK may take one and a half times the longest round trip, and where
    // nobody scans it has until the SYN-ACK is sent again.
    for (farthest_us, until) in [(YOUNG_US * 2 / 3, 300), (YOUNG_US, 1_000)] {
        let mut tale = Tale::new(config(), &on_80(&[1]));
        tale.at(0, Event::Closed);
        cookies.farthest = Duration::from_micros(farthest_us);
        assert_eq!(tale.saw(6, cookies.clone()), None);
        assert_eq!(tale.wakes_at(), Some(until), "{farthest_us} µs");
    }
}

const YOUNG_US: u64 = YOUNG.as_micros() as u64;

/// Their handshakes are known not to end, so connections need not tell how far away they are.
#[test]
fn among_scanners_alone_a_reload_looks_at_no_connections() {
    let config = Config {
        drain_until: DrainUntil::Handshakes,
        ..config()
    };
    let mut tale = Tale::new(config, &on_80(&[1]));
    tale.at(0, Event::Closed);
    let mut scanned = no_connections_seen(&[1]);
    scanned.half_open.stale = 7;
    assert_eq!(tale.saw(6, scanned), Some(Task::Check));
}

#[test]
fn dear_looks_are_rarer() {
    let mut tale = Tale::new(config(), &on_80(&[1]));
    tale.at(0, Event::Closed);
    let mut sample = on_80(&[1]);
    sample.connections = busy(1);
    tale.at(10, Event::Saw(sample, Duration::from_millis(10)));
    assert_eq!(tale.wakes_at(), Some(20), "at most half of the time");

    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.exits(100, 0);
    tale.at(110, Event::Saw(on_80(&[]), Duration::from_millis(10)));
    assert_eq!(tale.wakes_at(), Some(150), "at most a fifth of the time");
}

#[test]
fn without_eyes_it_tries_again_within_its_bounds() {
    let mut tale = Tale::new(config(), &on_80(&[1]));
    tale.at(0, Event::Closed);
    assert_eq!(tale.at(1, Event::Blind), None);
    assert_eq!(tale.wakes_at(), Some(11));
    assert!(matches!(tale.at(11, Event::Time), Some(Task::Look(_))));
    assert_eq!(tale.at(1000, Event::Blind), Some(Task::Check));
    assert_eq!(tale.at(1001, Event::Stands(true)), Some(Task::Start));
    tale.at(1002, Event::Started(true));
    tale.exits(1_100, 0);
    assert_eq!(tale.at(1_100, Event::Blind), None);
    let action = tale.at(11_100, Event::Blind);
    assert!(tale.state.facts.unseen, "nobody knows whether it listens");
    tale.opens_and_ends(action);
}

#[test]
fn the_last_look_of_a_drain_is_at_its_end() {
    let mut tale = Tale::new(config(), &on_80(&[1]));
    tale.at(0, Event::Closed);
    let mut sample = on_80(&[1]);
    sample.connections = busy(1);
    tale.at(990, Event::Saw(sample, Duration::from_millis(300)));
    assert_eq!(tale.wakes_at(), Some(1000));
    assert!(matches!(tale.at(1000, Event::Time), Some(Task::Look(_))));
    assert_eq!(tale.saw(1_001, on_80(&[1])), Some(Task::Check));
    assert!(tale.state.facts.left.is_nothing(), "it was over in time");
}

// The last look before COMMAND --------------------------------------------------------------------

#[test]
fn a_fallen_gate_is_closed_again_once() {
    let mut config = config();
    config.drain = Duration::ZERO;
    let mut tale = Tale::new(config.clone(), &on_80(&[1]));
    assert_eq!(tale.at(0, Event::Closed), Some(Task::Check));
    assert_eq!(
        tale.at(1, Event::Stands(false)),
        Some(Task::Rearm(ports("80")))
    );
    assert_eq!(tale.at(2, Event::Stands(true)), Some(Task::Start));

    let mut tale = Tale::new(config, &on_80(&[1]));
    tale.at(0, Event::Closed);
    tale.at(1, Event::Stands(false));
    let action = tale.at(2, Event::Stands(false));
    assert_eq!(tale.state.facts.not_run, Some(NotRun::Fallen));
    tale.opens_and_ends(action);
}

#[test]
fn command_is_not_run_when_time_is_over() {
    // syngate was stopped by Ctrl-Z during the drain and continued too late.
    let mut tale = Tale::new(config(), &on_80(&[1]));
    tale.at(0, Event::Closed);
    assert_eq!(tale.saw(30_000, on_80(&[1])), Some(Task::Check));
    let action = tale.at(30_000, Event::Stands(false));
    assert_eq!(tale.state.facts.not_run, Some(NotRun::Deadline));
    assert!(tale.state.facts.deadline_hit);
    tale.opens_and_ends(action);

    // In time; but half of the span between the drain (1 s) and the settle time (25 s) has passed.
    for (ms, runs) in [(13_000, true), (13_001, false)] {
        let mut config = config();
        config.settle = Settle::Fixed(Duration::from_secs(5));
        let mut tale = Tale::new(config, &on_80(&[1]));
        tale.at(0, Event::Closed);
        tale.saw(ms, on_80(&[1]));
        let action = tale.at(ms, Event::Stands(true));
        if runs {
            assert_eq!(action, Some(Task::Start));
        } else {
            assert_eq!(tale.state.facts.not_run, Some(NotRun::Deadline));
            tale.opens_and_ends(action);
        }
    }
}

#[test]
fn best_effort_runs_command_all_the_same() {
    let mut config = config();
    config.drain = Duration::ZERO;
    config.best_effort = true;
    let mut tale = Tale::new(config, &on_80(&[1]));
    tale.at(0, Event::Closed);
    tale.at(1, Event::Stands(false));
    assert_eq!(tale.at(2, Event::Stands(false)), Some(Task::Start));
    assert!(tale.state.facts.ran_open);
}

#[test]
fn without_a_gate_command_just_runs() {
    let closed_at = Instant::now();
    let mut tale = Tale {
        state: State::new(config(), &on_80(&[1]), closed_at, None, Box::new(NoPolicy)),
        closed_at,
        now_ms: 0,
    };
    assert_eq!(tale.at(0, Event::Closed), Some(Task::Start));
    assert_eq!(tale.at(1, Event::Started(true)), None);
    assert_eq!(tale.wakes_at(), None, "there is no deadline");
    assert_eq!(tale.exits(90_000, 0), Some(Task::End));
    assert!(tale.state.facts.ran_open);
    assert!(!tale.state.facts.deadline_hit);
}

#[test]
fn a_command_that_cannot_start_opens_the_gate() {
    let mut config = config();
    config.drain = Duration::ZERO;
    let mut tale = Tale::new(config, &on_80(&[1]));
    tale.at(0, Event::Closed);
    tale.at(1, Event::Stands(true));
    let action = tale.at(2, Event::Started(false));
    assert_eq!(tale.state.facts.not_run, Some(NotRun::Spawn));
    tale.opens_and_ends(action);
}

// Ready and settle --------------------------------------------------------------------------------

#[test]
fn a_restart_opens_when_the_new_process_listens() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    assert_eq!(
        tale.wakes_at(),
        Some(30_000),
        "nothing to look at while COMMAND runs"
    );
    assert!(matches!(tale.exits(60, 0), Some(Task::Look(_))));
    assert_eq!(tale.saw(60, on_80(&[])), None);
    assert_eq!(tale.wakes_at(), Some(61));
    let action = tale.saw(75, on_80(&[2]));
    tale.opens_and_ends(action);
    assert!(tale.state.facts.missing.ports.is_empty());
}

#[test]
fn one_inherited_socket_settles_for_100_ms() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_80(&[1])), None);
    assert_eq!(tale.saw(159, on_80(&[1])), None);
    assert_eq!(tale.wakes_at(), Some(160));
    assert_eq!(tale.saw(160, on_80(&[1])), OPENS_ALL);
    tale.at(160, Event::Shut(PortSet::EMPTY));
    // Whether the restart is still to come is watched for, gate open.
    assert_eq!(tale.saw(3_059, on_80(&[1])), None);
    assert_eq!(tale.wakes_at(), Some(3_060));
    let action = tale.saw(3_060, on_80(&[1]));
    tale.opens_and_ends(action);
}

const OPENS_ALL: Option<Task> = Some(Task::ShutOnly(PortSet::EMPTY));

/// Opened after 100 ms, with processes that can be seen.
fn open_in_doubt() -> Tale {
    let old = held_by(on_80(&[1]), &[10]);
    let mut tale = Tale::running(config(), &old);
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_80(&[1])), None);
    assert_eq!(tale.saw(160, old), OPENS_ALL);
    tale.at(160, Event::Shut(PortSet::EMPTY));
    tale
}

/// COMMAND has returned before the restart began: systemctl --no-block, a signal to a supervised
/// process.
#[test]
fn a_listener_that_ends_late_closes_its_port_again() {
    let ended = |cookie| Event::Ended(vec![listener(80, cookie).id]);
    let shuts = Some(Task::ShutOnly(ports("80")));
    let mut tale = open_in_doubt();
    assert!(tale.state.minds_ends());
    let other = tale.at(500, ended(7));
    assert!(matches!(other, Some(Task::Look(_))), "somebody else's");
    assert_eq!(tale.saw(500, on_80(&[1])), None);
    assert_eq!(tale.at(500, ended(1)), shuts);
    tale.at(501, Event::Shut(ports("80")));
    // --ready-timeout counts anew.
    assert_eq!(tale.saw(10_400, on_80(&[])), None);
    let action = tale.saw(10_401, on_80(&[2]));
    let (late, _) = tale.state.facts.late.clone().unwrap();
    assert_eq!(late, ports("80"));
    assert!(tale.state.facts.missing.ports.is_empty());
    tale.opens_and_ends(action);

    // Without news from the kernel a look finds out. What could not be closed is tried again.
    let mut tale = open_in_doubt();
    assert_eq!(tale.saw(500, on_80(&[])), shuts);
    tale.at(501, Event::Shut(PortSet::EMPTY));
    assert_eq!(tale.saw(510, on_80(&[])), shuts);
    tale.at(511, Event::Shut(ports("80")));
    let action = tale.saw(520, on_80(&[2]));
    tale.opens_and_ends(action);

    // It never comes back.
    let mut tale = open_in_doubt();
    assert_eq!(tale.saw(500, on_80(&[])), shuts);
    tale.at(501, Event::Shut(ports("80")));
    assert_eq!(tale.saw(10_499, on_80(&[])), None);
    let action = tale.saw(10_500, on_80(&[]));
    assert_eq!(tale.state.facts.missing.ports, ports("80"));
    tale.opens_and_ends(action);
}

/// A reload that keeps its sockets, but for one address that was removed from the configuration.
#[test]
fn an_address_that_was_missing_already_closes_nothing() {
    let opens_without_the_third = || {
        let mut tale = Tale::running(config(), &on_addresses(&[1, 2, 3]));
        tale.exits(60, 0);
        assert_eq!(tale.saw(60, on_two(1, 2)), None);
        assert_eq!(tale.saw(1_060, on_two(1, 2)), OPENS_ALL);
        tale.at(1_060, Event::Shut(PortSet::EMPTY));
        assert_eq!(tale.saw(1_160, on_two(1, 2)), None);
        tale
    };
    let mut tale = opens_without_the_third();
    let action = tale.saw(3_060, on_two(1, 2));
    assert_eq!(tale.state.facts.late, None);
    tale.opens_and_ends(action);

    // Another one goes, and once more it is waited for a moment.
    let shuts = Some(Task::ShutOnly(ports("80")));
    let mut tale = opens_without_the_third();
    assert_eq!(tale.saw(2_000, on_two(1, 0)), shuts);
    tale.at(2_000, Event::Shut(ports("80")));
    assert_eq!(tale.saw(3_000, on_two(1, 0)), OPENS_ALL);
    tale.at(3_000, Event::Shut(PortSet::EMPTY));
    assert_eq!(tale.saw(3_100, on_two(1, 0)), None);
    let action = tale.saw(5_000, on_two(1, 0));
    tale.opens_and_ends(action);

    // A listener that came back counts as missing when it goes again.
    let mut tale = opens_without_the_third();
    assert_eq!(tale.saw(1_200, on_addresses(&[1, 2, 6])), None);
    assert_eq!(tale.saw(1_300, on_addresses(&[1, 2, 6])), None);
    assert_eq!(tale.saw(1_400, on_two(1, 2)), shuts);
}

/// The restart of this service is done, although the run still watches another port.
#[test]
fn a_new_listener_that_ends_is_not_a_late_restart() {
    let both = |on_80: u64, on_443: u64| {
        let mut sample = on_addresses(&[on_80]);
        sample.listeners.push(listener(443, on_443));
        sample
    };
    let mut config = config();
    config.gated = gated("80,443");
    let mut tale = Tale::running(config, &both(1, 2));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, both(1, 2)), None);
    assert_eq!(tale.saw(160, both(1, 2)), OPENS_ALL);
    tale.at(160, Event::Shut(PortSet::EMPTY));
    assert_eq!(tale.saw(500, both(3, 2)), None);
    assert_eq!(tale.saw(700, both(0, 2)), None);
    assert_eq!(tale.state.facts.late, None);
    assert_eq!(tale.state.facts.unserved, ports("80"));
}

/// By the news of the end, or by a look. The look before the drain says nothing about it.
#[test]
fn who_was_not_accepted_when_the_listener_ended_is_counted() {
    let queued = |count| {
        let mut sample = on_80(&[1]);
        sample.listeners[0].accept_queue = count;
        sample
    };
    let none = (0, PortSet::EMPTY);
    for by_news in [true, false] {
        let mut tale = open_in_doubt();
        tale.saw(300, queued(7));
        tale.saw(400, queued(2));
        assert_eq!(tale.state.unaccepted(), none);
        match by_news {
            true => tale.at(500, Event::Ended(vec![listener(80, 1).id])),
            false => tale.saw(500, on_80(&[])),
        };
        assert_eq!(tale.state.unaccepted(), (2, ports("80")));
        tale.at(501, Event::Shut(ports("80")));
        tale.saw(520, on_80(&[2]));
        assert_eq!(tale.state.unaccepted().0, 2, "once");
    }
    let config = Config {
        drain: Duration::ZERO,
        ..config()
    };
    let mut tale = Tale::running(config, &held_by(queued(9), &[10]));
    tale.exits(60, 0);
    tale.saw(60, on_80(&[2]));
    assert_eq!(tale.state.unaccepted(), none);
}

#[test]
fn a_listener_that_stays_is_told_of() {
    let old = held_by(on_80(&[1]), &[10]);
    let mut tale = open_in_doubt();
    let action = tale.saw(3_060, old.clone());
    assert_eq!(tale.state.facts.same, ports("80"));
    assert!(tale.state.facts.unchanged.is_empty(), "it is no group");
    tale.opens_and_ends(action);

    // A new process has it in place of the old one: the reload is done, and what ends later is none of this
    // run's. One that started both may stay.
    for (old, new) in [(vec![10], vec![11]), (vec![1, 10, 11], vec![1, 12, 13])] {
        let old = held_by(on_80(&[1]), &old);
        let mut tale = Tale::running(config(), &old);
        tale.exits(60, 0);
        assert_eq!(tale.saw(160, old), OPENS_ALL);
        tale.at(160, Event::Shut(PortSet::EMPTY));
        assert_eq!(tale.saw(1_000, held_by(on_80(&[1]), &new)), None);
        assert!(!tale.state.minds_ends());
        let action = tale.saw(1_100, held_by(on_80(&[1]), &new));
        assert!(tale.state.facts.same.is_empty());
        tale.opens_and_ends(action);
    }

    // A process that has left the listener proves nothing.
    let two = held_by(on_80(&[1]), &[10, 11]);
    let mut tale = Tale::running(config(), &two);
    tale.exits(60, 0);
    tale.saw(60, two);
    assert_eq!(tale.saw(100, old), None);
    assert!(tale.state.minds_ends());
}

/// Only they tell when a group has settled by itself. Such a look is slow where there are many processes.
#[test]
fn the_processes_of_a_group_are_looked_at_after_commands_exit() {
    let group = held_by(on_80(&[1, 2]), &[10]);
    let mut tale = Tale::new(config(), &group);
    tale.at(0, Event::Closed);
    let look = Some(Task::Look(ALL_CONNECTIONS));
    assert_eq!(tale.at(5, Event::Time), look, "not in the drain");

    let listeners = || Some(Task::Look(Want::default()));
    let follow = Config {
        open_on: OpenOn::Ready,
        ..config()
    };
    let mut tale = Tale::running(follow, &group);
    assert_eq!(tale.at(11, Event::Time), listeners(), "not meanwhile");

    let fixed = Config {
        settle: Settle::Fixed(Duration::from_secs(1)),
        ..config()
    };
    let mut tale = Tale::running(fixed, &group);
    assert_eq!(tale.exits(60, 0), listeners(), "not if it settles by time");
}

/// Such a look is slow where there are many processes, and would delay the news that a listener has gone.
#[test]
fn the_processes_of_one_socket_are_looked_at_each_100_ms() {
    let asks = |tale: &mut Tale, ms| match tale.at(ms, Event::Time) {
        Some(Task::Look(want)) => want.holders,
        other => panic!("{other:?} at {ms} ms"),
    };
    let old = held_by(on_80(&[1]), &[10]);
    let mut tale = Tale::running(config(), &old);
    tale.exits(60, 0);
    tale.saw(60, on_80(&[1]));
    assert!(asks(&mut tale, 61));
    assert_eq!(tale.saw(62, old.clone()), None);
    assert!(!asks(&mut tale, 161));
    assert_eq!(tale.saw(161, on_80(&[1])), OPENS_ALL);
    tale.at(161, Event::Shut(PortSet::EMPTY));
    assert!(asks(&mut tale, 162));
    // A new process has it: the reload is done, and nothing more is to be seen.
    assert_eq!(tale.saw(163, held_by(on_80(&[1]), &[11])), None);
    assert!(!asks(&mut tale, 263));
}

/// Only what is looked at for its processes each time waits for as long as such a look takes.
#[test]
fn a_dear_look_at_processes_does_not_delay_the_next_look_at_sockets() {
    let dear = Duration::from_millis(30);
    let next_look = |cookies: &[u64]| {
        let old = held_by(on_80(cookies), &[10]);
        let mut tale = Tale::running(config(), &old);
        tale.exits(60, 0);
        assert_eq!(tale.at(60, Event::Saw(old, dear)), None);
        tale.wakes_at().unwrap()
    };
    assert_eq!(next_look(&[1]), 61);
    assert!(next_look(&[1, 2]) >= 90);
}

/// After a fixed time, or once USR1 has opened the gate.
#[test]
fn a_change_that_was_not_waited_for_is_not_missed() {
    for cookies in [&[1][..], &[1, 2]] {
        let old = held_by(on_80(cookies), &[10]);
        let none_is_missed = |tale: &Tale| {
            let facts = &tale.state.facts;
            facts.same.is_empty() && facts.unchanged.is_empty()
        };
        let fixed = Config {
            settle: Settle::Fixed(Duration::ZERO),
            ..config()
        };
        let mut tale = Tale::running(fixed, &old);
        tale.exits(60, 0);
        let action = tale.saw(60, old.clone());
        assert!(none_is_missed(&tale));
        tale.opens_and_ends(action);

        let mut tale = Tale::running(config(), &old);
        assert_eq!(tale.at(20, Event::OpenNow), Some(Task::Open));
        tale.removes();
        assert_eq!(tale.at(20, Event::Done), None);
        tale.exits(60, 0);
        assert_eq!(tale.saw(60, old), Some(Task::End));
        assert!(none_is_missed(&tale));
    }
}

/// A reload may make a group of one listener, or leave one of a group.
#[test]
fn the_processes_of_what_is_or_was_a_group_are_looked_at_each_time() {
    for (before, after) in [(&[1][..], &[1, 2][..]), (&[1, 2], &[1])] {
        let (before, after) = (held_by(on_80(before), &[10]), held_by(on_80(after), &[10]));
        let mut tale = Tale::running(config(), &before);
        tale.exits(60, 0);
        assert_eq!(tale.saw(60, after.clone()), None);
        let look = Some(Task::Look(Want {
            holders: true,
            ..Want::default()
        }));
        assert_eq!(tale.at(61, Event::Time), look);
        assert_eq!(tale.saw(61, after), None);
        assert_eq!(tale.at(62, Event::Time), look);
    }
}

/// Open in doubt, they can't be opened by others.
#[test]
fn rules_are_not_checked_while_no_port_is_shut() {
    let mut tale = open_in_doubt();
    tale.state.guard();
    assert!(matches!(tale.at(300, Event::Time), Some(Task::Look(_))));
}

/// Apache's prefork, or a server with a process for each client: the restart may still come.
#[test]
fn a_newborn_process_shows_no_restart() {
    let worker_more = held_by(on_80(&[1]), &[10, 11]);
    let mut tale = open_in_doubt();
    assert_eq!(tale.saw(1_000, worker_more.clone()), None);
    assert_eq!(tale.saw(1_200, worker_more), None);
    assert!(tale.state.minds_ends());
    let ended = Event::Ended(vec![listener(80, 1).id]);
    assert_eq!(tale.at(1_300, ended), Some(Task::ShutOnly(ports("80"))));

    // Others of its kind end now and then, too.
    let mut tale = Tale::running(config(), &held_by(on_80(&[1]), &[10, 11, 12]));
    tale.exits(60, 0);
    let one_for_one = held_by(on_80(&[1]), &[10, 12, 13]);
    assert_eq!(tale.saw(60, one_for_one.clone()), None);
    assert_eq!(tale.saw(160, one_for_one), OPENS_ALL);
    tale.at(160, Event::Shut(PortSet::EMPTY));
    assert!(tale.state.minds_ends());

    // A SO_REUSEPORT group has not begun to change either.
    let mut tale = Tale::running(config(), &held_by(on_80(&[1, 2]), &[10]));
    tale.exits(60, 0);
    let worker_more = held_by(on_80(&[1, 2]), &[10, 11]);
    assert_eq!(tale.saw(200, worker_more.clone()), None);
    assert_eq!(tale.saw(3_059, worker_more.clone()), None);
    let action = tale.saw(3_060, worker_more);
    tale.opens_and_ends(action);
}

/// A group that has settled may still be restarted. What a reload ends is only a part of it.
#[test]
fn a_group_is_watched_behind_the_open_gate() {
    let ended = |cookie| Event::Ended(vec![listener(80, cookie).id]);
    let mut tale = Tale::running(config(), &on_80(&[1, 2, 3]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(100, on_80(&[1, 2])), None);
    assert_eq!(tale.saw(400, on_80(&[1, 2])), OPENS_ALL);
    tale.at(400, Event::Shut(PortSet::EMPTY));
    assert_eq!(tale.at(1_000, ended(1)), None);
    assert!(tale.state.facts.late.is_none());
    assert_eq!(tale.at(1_100, ended(2)), Some(Task::ShutOnly(ports("80"))));
    tale.at(1_101, Event::Shut(ports("80")));
    let action = tale.saw(1_200, on_80(&[4, 5]));
    tale.opens_and_ends(action);
}

/// Nothing closes any more once the kernel has opened the gate, or the user.
#[test]
fn what_was_opened_for_good_is_never_closed_again() {
    let mut tale = open_in_doubt();
    assert_eq!(tale.at(500, Event::OpenNow), Some(Task::Open));
    tale.removes();
    tale.at(500, Event::Done);
    assert_eq!(tale.at(501, Event::Ended(vec![listener(80, 1).id])), None);
    assert_eq!(tale.saw(502, on_80(&[])), None);
    assert!(tale.state.facts.late.is_none());
}

#[test]
fn old_and_new_side_by_side_until_the_old_one_is_gone() {
    // haproxy -sf: the new process listens beside the old one for a moment.
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_80(&[1, 2])), None);
    let action = tale.saw(64, on_80(&[2]));
    tale.opens_and_ends(action);
}

#[test]
fn a_group_settles_after_its_last_change() {
    // nginx, 4 workers to 2: the processes change first, the sockets 107 ms later.
    let old = held_by(on_80(&[1, 2, 3, 4]), &[10, 11]);
    let mut tale = Tale::running(config(), &old);
    let want = Task::Look(Want {
        holders: true,
        ..Want::default()
    });
    assert_eq!(tale.exits(60, 0), Some(want));
    assert_eq!(tale.saw(60, old.clone()), None);
    // A large configuration: no change is seen for 1.3 s.
    assert_eq!(tale.saw(1_300, old.clone()), None);
    assert_eq!(
        tale.saw(1_360, held_by(on_80(&[1, 2, 3, 4]), &[10, 11, 12])),
        None
    );
    assert_eq!(tale.saw(1_467, held_by(on_80(&[1, 2]), &[10, 12])), None);
    assert_eq!(tale.saw(1_766, held_by(on_80(&[1, 2]), &[10, 12])), None);
    let action = tale.saw(1_767, held_by(on_80(&[1, 2]), &[10, 12]));
    assert!(tale.state.facts.unchanged.is_empty());
    tale.opens_and_ends(action);
}

#[test]
fn a_group_that_never_changes_opens_when_patience_is_over() {
    let old = held_by(on_80(&[1, 2]), &[10]);
    let mut tale = Tale::running(config(), &old);
    tale.exits(60, 0);
    assert_eq!(tale.saw(3_059, old.clone()), None);
    let action = tale.saw(3_060, old);
    assert_eq!(tale.state.facts.unchanged, ports("80"));
    assert!(tale.state.facts.same.is_empty());
    tale.opens_and_ends(action);
}

#[test]
fn a_group_whose_processes_cannot_be_seen() {
    // Without holders to compare, a look is not a change.
    let mut tale = Tale::running(config(), &held_by(on_80(&[1, 2]), &[10]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_80(&[1, 2])), None);
    assert_eq!(tale.saw(1_000, on_80(&[1, 2])), None);
    let action = tale.saw(3_060, on_80(&[1, 2]));
    tale.opens_and_ends(action);
}

#[test]
fn a_fixed_settle_time_replaces_auto() {
    let fixed = |ms| Config {
        settle: Settle::Fixed(Duration::from_millis(ms)),
        ..config()
    };
    let mut tale = Tale::running(fixed(500), &on_80(&[1]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(80, on_80(&[2])), None);
    assert_eq!(tale.saw(579, on_80(&[2])), None);
    let action = tale.saw(580, on_80(&[2]));
    tale.opens_and_ends(action);

    // An inherited socket; and no listener at all, where the timeout cuts the wait short.
    let mut tale = Tale::running(fixed(0), &on_80(&[1]));
    tale.exits(60, 0);
    let action = tale.saw(60, on_80(&[1]));
    tale.opens_and_ends(action);
}

#[test]
fn a_port_that_stays_down_keeps_only_itself_shut() {
    let config = Config {
        gated: gated("80,81,90"),
        ..config()
    };
    let both = Sample {
        listeners: vec![listener(80, 1), listener(81, 2)],
        ..Sample::default()
    };
    let mut tale = Tale::running(config, &both);
    tale.exits(60, 0);
    let action = tale.saw(60, Sample::default());
    assert_eq!(
        action,
        Some(Task::ShutOnly(ports("80,81"))),
        "90 had no listener"
    );
    tale.at(60, Event::Done);
    assert_eq!(tale.saw(70, on_80(&[3])), Some(Task::ShutOnly(ports("81"))));
    assert_eq!(tale.wakes_at(), Some(71));
    assert_eq!(tale.saw(10_059, on_80(&[3])), None);
    assert_eq!(tale.wakes_at(), Some(10_060));
    let action = tale.saw(10_060, on_80(&[3]));
    assert_eq!(tale.state.facts.missing.ports, ports("81"));
    tale.opens_and_ends(action);
}

#[test]
fn an_ip_version_that_is_gone_is_waited_for_a_moment() {
    let mut before = on_80(&[1]);
    before.listeners.push(Listener {
        address: "::".parse().unwrap(),
        v6only: true,
        ..listener(80, 2)
    });
    let mut tale = Tale::running(config(), &before);
    tale.exits(60, 0);
    assert_eq!(tale.saw(500, on_80(&[3])), None);
    assert_eq!(tale.saw(1_499, on_80(&[3])), None);
    let action = tale.saw(1_500, on_80(&[3]));
    assert!(tale.state.facts.missing.ports.is_empty());
    tale.opens_and_ends(action);
}

/// Listeners on 10.0.0.1, 10.0.0.2 and so on, by cookie. 0: no listener.
fn on_addresses(cookies: &[u64]) -> Sample {
    let mut sample = on_80(cookies);
    for (listener, last) in sample.listeners.iter_mut().zip(1..) {
        listener.address = [10, 0, 0, last].into();
    }
    sample.listeners.retain(|l| l.id.cookie != 0);
    sample
}

fn on_two(one: u64, other: u64) -> Sample {
    on_addresses(&[one, other])
}

#[test]
fn a_second_address_is_waited_for_a_moment() {
    // COMMAND has returned before the service listened on both addresses.
    let mut tale = Tale::running(config(), &on_two(1, 2));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_two(3, 0)), None);
    let action = tale.saw(260, on_two(3, 4));
    tale.opens_and_ends(action);

    // Another service has the first address, so its socket proves nothing.
    let mut tale = Tale::running(config(), &on_two(1, 2));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_two(1, 0)), None);
    assert_eq!(
        tale.saw(500, on_two(1, 4)),
        None,
        "settles, as it is inherited"
    );
    assert_eq!(tale.saw(600, on_two(1, 4)), OPENS_ALL);
    tale.at(600, Event::Shut(PortSet::EMPTY));
    // The old socket may still end.
    let action = tale.saw(3_060, on_two(1, 4));
    tale.opens_and_ends(action);

    // The address was removed from the configuration, which is no failure.
    let mut tale = Tale::running(config(), &on_two(1, 2));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_two(3, 0)), None);
    assert_eq!(tale.saw(1_059, on_two(3, 0)), None);
    let action = tale.saw(1_060, on_two(3, 0));
    assert!(tale.state.facts.missing.ports.is_empty());
    tale.opens_and_ends(action);
}

/// Two services on the port, each of its own process. 0: no listener.
fn on_two_services(one: u64, other: u64) -> Sample {
    let mut sample = on_two(one, other);
    for listener in &sample.listeners {
        let pid = 10 + listener.id.cookie as i32;
        let only = Sample {
            listeners: vec![listener.clone()],
            ..Sample::default()
        };
        sample.holders.extend(held_by(only, &[pid]).holders);
    }
    sample
}

/// The second service has moved to a third address, or a newcomer listens there.
fn and_on_a_third(cookie: u64, mut sample: Sample) -> Sample {
    let mut third = on_two_services(cookie, 0);
    third.listeners[0].address = "10.0.0.3".parse().unwrap();
    sample.listeners.extend(third.listeners);
    sample.holders.extend(third.holders);
    sample
}

#[test]
fn an_address_that_comes_back_behind_the_open_gate_is_noted() {
    let mut tale = Tale::running(config(), &on_two_services(1, 2));
    tale.exits(60, 0);
    let moved = || and_on_a_third(5, on_two_services(1, 0));
    assert_eq!(tale.saw(60, moved()), None);
    assert_eq!(tale.saw(1_059, moved()), None);
    assert!(tale.state.facts.left_out.is_empty(), "it was shut");
    assert_eq!(tale.saw(1_060, moved()), OPENS_ALL);
    tale.at(1_060, Event::Shut(PortSet::EMPTY));
    assert_eq!(tale.saw(1_100, moved()), None);
    assert_eq!(tale.saw(1_200, moved()), None);
    let action = tale.saw(3_060, and_on_a_third(5, on_two_services(1, 4)));
    assert_eq!(places(&tale.state.facts.left_out), ["10.0.0.2:80"]);
    tale.opens_and_ends(action);

    // Each is noted once, and where nobody listens at all is told in another way.
    let mut tale = Tale::running(config(), &on_addresses(&[1, 2, 3]));
    tale.exits(60, 0);
    tale.saw(60, on_two(1, 0));
    tale.saw(1_060, on_two(1, 0));
    tale.at(1_060, Event::Shut(PortSet::EMPTY));
    tale.saw(1_100, on_two(1, 0));
    tale.saw(1_200, on_two(1, 0));
    let left_out = &tale.state.facts.left_out;
    let shown: Vec<String> = left_out.iter().map(Listener::shown).collect();
    assert_eq!(shown, ["10.0.0.2:80", "10.0.0.3:80"]);
    let mut tale = open_in_doubt();
    assert_eq!(tale.saw(500, on_80(&[])), Some(Task::ShutOnly(ports("80"))));
    assert_eq!(tale.state.facts.left_out, []);
}

#[test]
fn another_service_on_the_port_vouches_for_nobody() {
    let before = on_two_services(1, 2);
    let mut tale = Tale::running(config(), &before);
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_two_services(1, 0)), None);
    assert_eq!(
        tale.state.waiting_for().as_deref(),
        Some("waiting for a listener on 10.0.0.2:80")
    );
    assert_eq!(tale.saw(5_000, on_two_services(1, 0)), None);
    let action = tale.saw(5_001, on_two_services(1, 3));
    assert!(tale.state.facts.missing.ports.is_empty());
    tale.opens_and_ends(action);

    let mut tale = Tale::running(config(), &before);
    tale.exits(60, 0);
    let action = tale.saw(10_060, on_two_services(1, 0));
    let missing = &tale.state.facts.missing;
    assert_eq!(missing.ports, ports("80"));
    assert_eq!(missing.shown(&gated("80")), "10.0.0.2:80");
    tale.opens_and_ends(action);

    // Once it is given up, nothing is closed again because of it, as long as the other one is watched.
    let mut config = config();
    config.ready_timeout = Duration::from_millis(300);
    let mut tale = Tale::running(config, &before);
    tale.exits(60, 0);
    assert_eq!(tale.saw(360, on_two_services(1, 0)), OPENS_ALL);
    tale.at(360, Event::Shut(PortSet::EMPTY));
    assert_eq!(tale.saw(400, on_two_services(1, 0)), None);
    let action = tale.saw(3_060, on_two_services(1, 0));
    assert_eq!(tale.state.facts.missing.ports, ports("80"));
    tale.opens_and_ends(action);
}

/// It does not wait to open: a SO_REUSEPORT group that was left alone would settle for 3 s. It is watched
/// all the same, because its restart may still be to come.
#[test]
fn a_service_that_was_left_alone_delays_nobody() {
    let before = on_two_services(1, 2);
    let with_the_other_new = || {
        let mut tale = Tale::running(config(), &before);
        tale.exits(60, 0);
        assert_eq!(tale.saw(60, on_two_services(1, 3)), OPENS_ALL);
        tale.at(60, Event::Shut(PortSet::EMPTY));
        tale
    };
    let mut tale = with_the_other_new();
    let action = tale.saw(3_060, on_two_services(1, 3));
    assert!(tale.state.facts.same.is_empty());
    tale.opens_and_ends(action);
    let mut tale = with_the_other_new();
    let ended = Event::Ended(vec![before.listeners[0].id]);
    assert_eq!(tale.at(500, ended), Some(Task::ShutOnly(ports("80"))));
    tale.at(501, Event::Shut(ports("80")));
    let action = tale.saw(900, on_two_services(4, 3));
    tale.opens_and_ends(action);

    // A group that has changed, too, settles.
    let mut tale = Tale::running(config(), &before);
    tale.exits(60, 0);
    let mut changed = on_two_services(1, 3);
    changed.holders.insert(50, changed.holders[&11].clone());
    assert_eq!(tale.saw(60, changed.clone()), None);
    assert_eq!(tale.saw(160, changed), OPENS_ALL);

    let mut config = config();
    config.gated.ports = ports("80,443");
    let with_group = |cookie| {
        let group = [listener(443, 11), listener(443, 12)];
        let mut sample = on_two_services(cookie, 0);
        sample.listeners.extend(group);
        let of_443 = Sample {
            listeners: sample.listeners[1..].to_vec(),
            ..Sample::default()
        };
        sample.holders.extend(held_by(of_443, &[99]).holders);
        sample
    };
    let mut tale = Tale::running(config, &with_group(1));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, with_group(2)), OPENS_ALL);
    tale.at(60, Event::Shut(PortSet::EMPTY));
    let action = tale.saw(3_060, with_group(2));
    assert!(tale.state.facts.unchanged.is_empty());
    tale.opens_and_ends(action);
}

#[test]
fn a_newcomer_of_another_user_is_not_the_service() {
    let newcomer = |address: &str| {
        let mut sample = on_80(&[9]);
        sample.listeners[0].address = address.parse().unwrap();
        sample.listeners[0].uid = 33;
        sample
    };
    let mut tale = Tale::running(config(), &on_two(1, 0));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, newcomer("127.0.0.1")), None);
    assert_eq!(tale.saw(5_000, newcomer("127.0.0.1")), None);
    let mut both = newcomer("127.0.0.1");
    both.listeners.extend(on_two(3, 0).listeners);
    let action = tale.saw(5_001, both);
    tale.opens_and_ends(action);

    // Nobody else can bind the address any more: an update has given the service another user.
    let mut tale = Tale::running(config(), &on_two(1, 0));
    tale.exits(60, 0);
    let action = tale.saw(60, newcomer("0.0.0.0"));
    tale.opens_and_ends(action);
}

#[test]
fn from_ipv4_to_dual_stack_is_a_replacement() {
    let dual = Sample {
        listeners: vec![Listener {
            address: "::".parse().unwrap(),
            ..listener(80, 2)
        }],
        ..Sample::default()
    };
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.exits(60, 0);
    let action = tale.saw(61, dual);
    tale.opens_and_ends(action);
}

#[test]
fn a_first_start_opens_at_once() {
    let mut tale = Tale::running(config(), &Sample::default());
    tale.exits(60, 0);
    let action = tale.saw(60, on_80(&[1]));
    tale.opens_and_ends(action);
}

#[test]
fn an_intended_stop_is_not_waited_for() {
    let mut config = config();
    config.ready_timeout = Duration::ZERO;
    let mut tale = Tale::running(config.clone(), &on_80(&[1]));
    let action = tale.exits(60, 0);
    assert!(tale.state.facts.missing.ports.is_empty());
    tale.opens_and_ends(action);

    config.settle = Settle::Fixed(Duration::from_millis(200));
    let mut tale = Tale::running(config, &on_80(&[1]));
    assert_eq!(tale.exits(60, 0), None);
    assert_eq!(tale.wakes_at(), Some(260));
    let action = tale.at(260, Event::Time);
    tale.opens_and_ends(action);
}

#[test]
fn a_command_that_fails_opens_everything_at_once() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    let action = tale.exits(60, 3);
    tale.opens_and_ends(action);
    let mut tale = Tale::running(config(), &on_80(&[1]));
    let action = tale.at(60, Event::Exited(CommandExit::Signal(9)));
    tale.opens_and_ends(action);
}

// --open-on ready ---------------------------------------------------------------------------------

#[test]
fn open_on_ready_follows_the_service_while_command_runs() {
    let follow = Config {
        open_on: OpenOn::Ready,
        ..config()
    };
    let mut tale = Tale::running(follow.clone(), &on_80(&[1]));
    assert_eq!(tale.wakes_at(), Some(11), "it looks");
    assert_eq!(tale.saw(12, on_80(&[1])), None, "the old one");
    assert_eq!(tale.saw(20, on_80(&[])), None);
    assert_eq!(
        tale.saw(30, on_80(&[2])),
        Some(Task::ShutOnly(PortSet::EMPTY))
    );
    assert_eq!(tale.at(30, Event::Done), None);
    assert_eq!(
        tale.saw(40, on_80(&[])),
        Some(Task::ShutOnly(ports("80"))),
        "it crashed"
    );
    assert_eq!(tale.state.facts.unserved, ports("80"));
    assert_eq!(
        tale.saw(50, on_80(&[3])),
        Some(Task::ShutOnly(PortSet::EMPTY))
    );
    tale.exits(60, 0);
    let action = tale.saw(60, on_80(&[3]));
    tale.opens_and_ends(action);

    // A COMMAND that stays in the foreground and was not there before.
    let mut tale = Tale::running(follow, &on_80(&[]));
    assert_eq!(tale.saw(20, on_80(&[])), None);
    assert_eq!(
        tale.saw(30, on_80(&[1])),
        Some(Task::ShutOnly(PortSet::EMPTY))
    );
}

#[test]
fn open_on_ready_waits_for_the_settle_time_and_for_all_addresses() {
    let follow = |settle| Config {
        open_on: OpenOn::Ready,
        settle,
        ..config()
    };
    let fixed = Settle::Fixed(Duration::from_millis(500));
    let mut tale = Tale::running(follow(fixed), &on_80(&[1]));
    assert_eq!(tale.saw(30, on_80(&[2])), None);
    assert_eq!(tale.saw(529, on_80(&[2])), None);
    assert_eq!(tale.saw(530, on_80(&[2])), OPENS_ALL);

    let mut tale = Tale::running(follow(Settle::Auto), &on_two(1, 2));
    assert_eq!(tale.saw(30, on_two(3, 0)), None);
    assert_eq!(tale.saw(40, on_two(3, 4)), OPENS_ALL);

    let mut tale = Tale::running(follow(Settle::Auto), &on_two(1, 2));
    assert_eq!(tale.saw(30, on_two(3, 0)), None);
    assert_eq!(tale.saw(1_029, on_two(3, 0)), None);
    assert_eq!(tale.saw(1_030, on_two(3, 0)), OPENS_ALL, "given up");
}

#[test]
fn a_foreground_command_may_outlive_the_deadline() {
    let follow = Config {
        open_on: OpenOn::Ready,
        ..config()
    };
    let mut tale = Tale::running(follow, &on_80(&[1]));
    assert_eq!(
        tale.saw(30, on_80(&[2])),
        Some(Task::ShutOnly(PortSet::EMPTY))
    );
    assert_eq!(tale.at(30, Event::Done), None);
    assert_eq!(
        tale.at(30_000, Event::Time),
        Some(Task::Open),
        "never shut again"
    );
    tale.removes();
    assert_eq!(tale.at(30_000, Event::Done), None);
    assert!(!tale.state.facts.deadline_hit, "it had opened long before");
    assert!(matches!(tale.exits(90_000, 0), Some(Task::Look(_))));
    assert_eq!(tale.saw(90_000, on_80(&[2])), Some(Task::End));
}

#[test]
fn a_port_opened_early_and_deserted_at_the_end_is_a_failure() {
    let follow = Config {
        open_on: OpenOn::Ready,
        ..config()
    };
    let mut tale = Tale::running(follow, &on_80(&[1]));
    tale.saw(30, on_80(&[2]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_80(&[])), None, "stays open, is waited for");
    let action = tale.saw(10_060, on_80(&[]));
    assert_eq!(tale.state.facts.missing.ports, ports("80"));
    tale.opens_and_ends(action);
}

// --ready-check -----------------------------------------------------------------------------------

fn with_check() -> Config {
    Config {
        ready_check: true,
        ..config()
    }
}

const PASSED: Event = Event::ReadyChecked(CommandExit::Code(0));
const FAILED: Event = Event::ReadyChecked(CommandExit::Code(7));

#[test]
fn nothing_opens_before_the_check_has_passed() {
    let mut tale = Tale::running(with_check(), &on_80(&[1]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_80(&[])), None, "nobody to check");
    assert_eq!(tale.saw(70, on_80(&[2])), None, "it listens");
    assert_eq!(tale.at(70, Event::Time), Some(Task::ReadyCheck));
    assert_eq!(tale.at(70, Event::Done), None);
    assert_eq!(tale.saw(80, on_80(&[2])), None, "one at a time");
    assert!(matches!(tale.at(90, FAILED), Some(Task::Look(_))));
    assert_eq!(tale.saw(91, on_80(&[2])), None);
    assert!(matches!(tale.at(189, Event::Time), Some(Task::Look(_))));
    assert_eq!(tale.saw(189, on_80(&[2])), None, "100 ms later");
    assert_eq!(tale.at(190, Event::Time), Some(Task::ReadyCheck));
    tale.at(190, Event::Done);
    assert!(matches!(tale.at(200, PASSED), Some(Task::Look(_))));
    let action = tale.saw(200, on_80(&[2]));
    assert_eq!(
        tale.state.facts.checked_in,
        Some(Duration::from_millis(130))
    );
    assert!(!tale.state.facts.unchecked);
    tale.opens_and_ends(action);
}

#[test]
fn a_check_that_never_passes_ends_with_the_ready_timeout() {
    for how in [None, Some(FAILED)] {
        let mut tale = Tale::running(with_check(), &on_80(&[1]));
        tale.exits(60, 0);
        tale.saw(60, on_80(&[2]));
        assert_eq!(tale.at(60, Event::Time), Some(Task::ReadyCheck));
        tale.at(60, Event::Done);
        if let Some(failed) = how.clone() {
            tale.at(70, failed);
        }
        assert_eq!(tale.saw(10_059, on_80(&[2])), None);
        let action = tale.saw(10_060, on_80(&[2]));
        assert!(tale.state.facts.unchecked);
        assert_eq!(tale.state.facts.check_exit.is_some(), how.is_some());
        assert!(tale.state.facts.missing.ports.is_empty());
        tale.opens_and_ends(action);
    }
}

/// The gate stops the check. At the timeout it opens, and the old listener is watched for longer.
#[test]
fn a_check_that_passes_by_the_opened_gate_comes_too_late() {
    let short = Config {
        ready_timeout: Duration::from_millis(1_500),
        ..with_check()
    };
    let mut tale = Tale::running(short, &on_80(&[1]));
    tale.exits(60, 0);
    tale.saw(60, on_80(&[1]));
    assert_eq!(tale.at(60, Event::Time), Some(Task::ReadyCheck));
    tale.at(60, Event::Done);
    let opens = Some(Task::ShutOnly(PortSet::EMPTY));
    assert_eq!(tale.saw(1_560, on_80(&[1])), opens);
    assert_eq!(tale.at(1_560, Event::Shut(PortSet::EMPTY)), None);
    assert!(matches!(tale.at(1_570, PASSED), Some(Task::Look(_))));
    assert_eq!(tale.saw(1_570, on_80(&[1])), None, "watched");
    let action = tale.saw(3_060, on_80(&[1]));
    assert!(tale.state.facts.unchecked);
    assert_eq!(tale.state.facts.check_exit, None);
    assert_eq!(tale.state.facts.checked_in, None);
    tale.opens_and_ends(action);
}

/// The gate opens at the end of `--ready-timeout`, and the old listener is watched for longer.
#[test]
fn a_look_that_fails_behind_the_opened_gate_is_tried_again() {
    let opened = |config: Config, passes: bool| {
        let short = Config {
            ready_timeout: Duration::from_millis(1_500),
            ..config
        };
        let mut tale = Tale::running(short, &on_80(&[1]));
        tale.exits(60, 0);
        tale.saw(60, on_80(&[1]));
        tale.saw(160, on_80(&[1]));
        tale.saw(1_560, on_80(&[1]));
        tale.at(1_560, Event::Shut(PortSet::EMPTY));
        if passes {
            tale.at(1_570, PASSED);
        }
        assert_eq!(tale.at(1_580, Event::Blind), None);
        assert!(!tale.state.facts.unseen);
        tale
    };
    let mut tale = opened(config(), false);
    let action = tale.saw(3_060, on_80(&[1]));
    assert!(!tale.state.facts.unseen, "it was seen in the end");
    tale.opens_and_ends(action);

    let mut tale = opened(config(), false);
    assert_eq!(tale.at(3_059, Event::Blind), None);
    let action = tale.at(3_060, Event::Blind);
    assert!(tale.state.facts.unseen);
    assert!(!tale.state.facts.unchecked, "there is no check");
    tale.opens_and_ends(action);

    // What passes the check too late has not passed it.
    for passes in [true, false] {
        let mut tale = opened(with_check(), passes);
        let action = tale.at(3_060, Event::Blind);
        assert!(tale.state.facts.unchecked && tale.state.facts.unseen);
        tale.opens_and_ends(action);
    }
}

#[test]
fn a_check_is_not_begun_behind_the_opened_gate() {
    let short = Config {
        ready_timeout: Duration::from_millis(1_500),
        ..with_check()
    };
    let mut tale = Tale::running(short, &on_80(&[1]));
    tale.exits(60, 0);
    tale.saw(60, on_80(&[1]));
    tale.at(60, Event::Time);
    tale.at(60, Event::Done);
    assert!(matches!(tale.at(1_550, FAILED), Some(Task::Look(_)) | None));
    tale.saw(1_560, on_80(&[1]));
    tale.at(1_560, Event::Shut(PortSet::EMPTY));
    assert!(matches!(tale.at(1_650, Event::Time), Some(Task::Look(_))));
    // The restart comes after all: the port is closed again, and waits for the check.
    let closes = Some(Task::ShutOnly(ports("80")));
    assert_eq!(tale.saw(1_700, on_80(&[])), closes);
    tale.at(1_700, Event::Shut(ports("80")));
    assert_eq!(tale.saw(1_710, on_80(&[2])), None);
    assert_eq!(tale.at(1_710, Event::Time), Some(Task::ReadyCheck));
    tale.at(1_710, Event::Done);
    tale.at(1_720, PASSED);
    let action = tale.saw(1_720, on_80(&[2]));
    assert!(tale.state.facts.unchecked, "clients came before");
    tale.opens_and_ends(action);
}

#[test]
fn a_listener_that_comes_after_the_opening_comes_too_late() {
    let short = Config {
        gated: gated("80,81"),
        ready_timeout: Duration::from_millis(1_500),
        ..config()
    };
    let on = |listeners: &[(u16, u64)]| Sample {
        listeners: listeners.iter().map(|(p, c)| listener(*p, *c)).collect(),
        connections: Some(Connections::default()),
        ..Sample::default()
    };
    let opened = || {
        let mut tale = Tale::running(short.clone(), &on(&[(80, 1), (81, 2)]));
        tale.exits(60, 0);
        tale.saw(60, on(&[(80, 1)]));
        tale.saw(160, on(&[(80, 1)]));
        tale.at(160, Event::Shut(ports("81")));
        assert_eq!(tale.saw(1_560, on(&[(80, 1)])), OPENS_ALL);
        tale.at(1_560, Event::Shut(PortSet::EMPTY));
        tale
    };
    let mut tale = opened();
    assert_eq!(tale.saw(1_600, on(&[(80, 1), (81, 3)])), None);
    let action = tale.saw(3_060, on(&[(80, 1), (81, 3)]));
    assert_eq!(tale.state.facts.missing.ports, ports("81"));
    assert_eq!(tale.state.facts.missing.listeners.len(), 1);
    tale.opens_and_ends(action);

    // The listener never comes, and one message tells of it.
    let mut tale = opened();
    let action = tale.saw(3_060, on(&[(80, 1)]));
    assert_eq!(tale.state.facts.missing.ports, ports("81"));
    assert_eq!(tale.state.facts.missing.listeners.len(), 1);
    tale.opens_and_ends(action);
}

#[test]
fn a_check_needs_no_listener_that_can_be_seen() {
    let mut tale = Tale::running(with_check(), &Sample::default());
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, Sample::default()), None);
    assert_eq!(tale.at(60, Event::Time), Some(Task::ReadyCheck));
    tale.at(60, Event::Done);
    assert!(matches!(tale.at(500, PASSED), Some(Task::Look(_))));
    let action = tale.saw(500, Sample::default());
    assert_eq!(tale.state.facts.never_seen, ports("80"));
    tale.opens_and_ends(action);
}

#[test]
fn settling_counts_from_the_later_of_ready_and_check() {
    let fixed = Config {
        settle: Settle::Fixed(Duration::from_millis(500)),
        ..with_check()
    };
    let mut tale = Tale::running(fixed, &on_80(&[1]));
    tale.exits(60, 0);
    tale.saw(60, on_80(&[2]));
    tale.at(60, Event::Time);
    tale.at(60, Event::Done);
    tale.at(300, PASSED);
    assert_eq!(tale.saw(799, on_80(&[2])), None);
    let action = tale.saw(800, on_80(&[2]));
    tale.opens_and_ends(action);
}

/// The old process answers the check and exits a moment later.
#[test]
fn what_the_old_process_passes_does_not_count() {
    let mut tale = Tale::running(with_check(), &on_80(&[1]));
    tale.exits(60, 0);
    tale.saw(60, on_80(&[1]));
    assert_eq!(tale.at(60, Event::Time), Some(Task::ReadyCheck));
    tale.at(60, Event::Done);
    tale.at(70, PASSED);
    assert_eq!(tale.saw(70, on_80(&[1])), None, "settles");
    assert_eq!(tale.saw(100, on_80(&[2])), None, "another one");
    assert_eq!(tale.at(170, Event::Time), Some(Task::ReadyCheck));
    tale.at(170, Event::Done);
    // A check that has begun before the next listener does not count either.
    assert_eq!(tale.saw(180, on_80(&[3])), None);
    tale.at(190, PASSED);
    assert_eq!(tale.saw(191, on_80(&[3])), None);
    assert!(!tale.state.facts.unchecked);
    assert_eq!(tale.at(290, Event::Time), Some(Task::ReadyCheck));
    tale.at(290, Event::Done);
    tale.at(300, PASSED);
    let action = tale.saw(300, on_80(&[3]));
    tale.opens_and_ends(action);
}

#[test]
fn open_on_ready_checks_while_command_runs() {
    let follow = Config {
        open_on: OpenOn::Ready,
        ..with_check()
    };
    let mut tale = Tale::running(follow, &on_80(&[1]));
    assert_eq!(tale.saw(12, on_80(&[1])), None);
    assert_eq!(tale.wakes_at(), Some(13), "nobody to check");
    assert_eq!(tale.saw(30, on_80(&[2])), Some(Task::ReadyCheck));
    assert_eq!(tale.at(30, Event::Done), None);
    assert_eq!(tale.saw(31, on_80(&[2])), None, "shut");
    assert!(matches!(tale.at(40, PASSED), Some(Task::Look(_))));
    assert_eq!(
        tale.saw(40, on_80(&[2])),
        Some(Task::ShutOnly(PortSet::EMPTY))
    );
    // A check that has succeeded need not succeed again.
    tale.exits(60, 0);
    let action = tale.saw(60, on_80(&[2]));
    tale.opens_and_ends(action);
}

/// Where looks are dear, the next one would be a while away.
#[test]
fn what_has_passed_opens_at_once() {
    let dear = Duration::from_millis(50);
    for open_on in [OpenOn::Exit, OpenOn::Ready] {
        for (answer, looks) in [(PASSED, true), (FAILED, false)] {
            let config = Config {
                open_on,
                ..with_check()
            };
            let mut tale = Tale::running(config, &on_80(&[1]));
            if open_on == OpenOn::Exit {
                tale.exits(60, 0);
            }
            let checks = tale.at(60, Event::Saw(on_80(&[2]), dear));
            let checks = checks.or_else(|| tale.at(60, Event::Time));
            assert_eq!(checks, Some(Task::ReadyCheck));
            tale.at(60, Event::Done);
            let next = tale.at(70, answer.clone());
            let as_told = match looks {
                true => matches!(next, Some(Task::Look(_))),
                false => next.is_none(),
            };
            assert!(as_told, "{open_on:?} {answer:?}: {next:?}");
        }
    }
}

/// Nothing depends on the check before COMMAND has exited.
#[test]
fn behind_a_gate_that_usr1_has_opened_a_running_command_is_not_checked() {
    for answer in [PASSED, FAILED] {
        let follow = Config {
            open_on: OpenOn::Ready,
            ..with_check()
        };
        let mut tale = Tale::running(follow, &on_80(&[1]));
        assert_eq!(tale.saw(30, on_80(&[2])), Some(Task::ReadyCheck));
        assert_eq!(tale.at(30, Event::Done), None);
        assert_eq!(tale.at(40, Event::OpenNow), Some(Task::Open));
        tale.removes();
        assert_eq!(tale.at(40, Event::Done), None);
        assert_eq!(tale.at(50, answer), None);
        assert_eq!(tale.wakes_at(), None, "only COMMAND is waited for");
    }
}

#[test]
fn a_command_that_fails_is_not_checked() {
    let mut tale = Tale::running(with_check(), &on_80(&[1]));
    let action = tale.exits(60, 1);
    assert!(!tale.state.facts.unchecked);
    tale.opens_and_ends(action);
}

// --listen-netns-from -----------------------------------------------------------------------------

/// A script that asks the service that it has started.
#[test]
fn a_command_that_waits_for_the_gate_opens_it_by_the_new_listener() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    assert!(
        tale.wakes_at().unwrap() > 20_000,
        "nobody looks while it runs"
    );
    let look = tale.at(50, Event::HeldUp);
    assert!(matches!(look, Some(Task::Look(_))), "{look:?}");
    assert_eq!(tale.saw(51, on_80(&[1])), None, "the old one");
    let next = tale.wakes_at().unwrap();
    assert!(matches!(tale.at(next, Event::Time), Some(Task::Look(_))));
    assert_eq!(
        tale.saw(next, on_80(&[2])),
        Some(Task::ShutOnly(PortSet::EMPTY))
    );
}

fn with_search() -> Config {
    Config {
        search: true,
        ..config()
    }
}

#[test]
fn the_new_container_is_searched_for_until_it_listens() {
    let mut tale = Tale::running(with_search(), &on_80(&[1]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_80(&[])), None, "the old one is gone");
    assert_eq!(tale.at(60, Event::Time), Some(Task::Search));
    tale.at(60, Event::Done);
    assert!(matches!(
        tale.at(80, Event::Searched(false)),
        Some(Task::Look(_))
    ));
    assert_eq!(tale.saw(80, on_80(&[])), None);
    assert_eq!(tale.at(180, Event::Time), Some(Task::Search));
    tale.at(180, Event::Done);
    assert!(matches!(
        tale.at(200, Event::Searched(true)),
        Some(Task::Look(_))
    ));
    assert_eq!(tale.saw(200, on_80(&[])), None, "it does not listen yet");
    let action = tale.saw(210, on_80(&[2]));
    tale.opens_and_ends(action);
}

/// A COMMAND that stays in the foreground has made the new container.
#[test]
fn open_on_ready_searches_while_command_runs() {
    let follow = Config {
        open_on: OpenOn::Ready,
        ..with_search()
    };
    let mut tale = Tale::running(follow, &on_80(&[1]));
    assert_eq!(tale.saw(12, on_80(&[1])), None, "nobody is missed");
    assert_eq!(tale.saw(20, on_80(&[])), Some(Task::Search));
    assert_eq!(tale.at(20, Event::Done), None);
    let looks = tale.at(40, Event::Searched(true));
    assert!(matches!(looks, Some(Task::Look(_))), "at once");
    assert_eq!(tale.saw(40, on_80(&[2])), OPENS_ALL);
}

/// The old container still listens. Its listeners say nothing until it is known where the new one
/// is.
#[test]
fn it_is_searched_for_once_though_somebody_listens() {
    let mut tale = Tale::running(with_search(), &on_80(&[1]));
    tale.exits(60, 0);
    tale.saw(60, on_80(&[1]));
    assert_eq!(tale.at(60, Event::Time), Some(Task::Search));
    tale.at(60, Event::Done);
    assert_eq!(tale.saw(500, on_80(&[1])), None, "the answer is waited for");
    tale.at(510, Event::Searched(true));
    assert_eq!(tale.saw(510, on_80(&[])), None, "there it does not listen");
    let action = tale.saw(520, on_80(&[2]));
    tale.opens_and_ends(action);

    // The same namespace: the port settles, and the search does not run again.
    let mut tale = Tale::running(with_search(), &on_80(&[1]));
    tale.exits(60, 0);
    tale.saw(60, on_80(&[1]));
    tale.at(60, Event::Time);
    tale.at(60, Event::Done);
    tale.at(80, Event::Searched(true));
    assert_eq!(tale.saw(81, on_80(&[1])), None);
    assert_eq!(tale.saw(160, on_80(&[1])), OPENS_ALL);
}

#[test]
fn a_search_without_an_answer_ends_with_the_ready_timeout() {
    let mut tale = Tale::running(with_search(), &on_80(&[1]));
    tale.exits(60, 0);
    tale.saw(60, on_80(&[]));
    assert_eq!(tale.at(60, Event::Time), Some(Task::Search));
    tale.at(60, Event::Done);
    assert_eq!(tale.saw(10_059, on_80(&[])), None);
    let action = tale.saw(10_060, on_80(&[]));
    assert_eq!(tale.state.facts.missing.ports, ports("80"));
    assert!(tale.state.facts.unseen);
    tale.opens_and_ends(action);

    // The old container still listens, and the new one is not known.
    let mut tale = Tale::running(with_search(), &on_80(&[1]));
    tale.exits(60, 0);
    tale.saw(60, on_80(&[1]));
    assert_eq!(tale.at(60, Event::Time), Some(Task::Search));
    tale.at(60, Event::Done);
    tale.at(70, Event::Searched(false));
    assert_eq!(tale.saw(169, on_80(&[1])), None);
    assert_eq!(tale.at(170, Event::Time), Some(Task::Search));
    tale.at(170, Event::Done);
    tale.at(180, Event::Searched(false));
    assert_eq!(tale.saw(180, on_80(&[1])), None);
    let action = tale.saw(10_060, on_80(&[1]));
    assert!(tale.state.facts.unseen);
    tale.opens_and_ends(action);
}

/// At the end of `--ready-timeout`. Once USR1 has opened it, the new listeners are still to be found.
#[test]
fn nothing_is_searched_for_once_the_gate_has_opened_without_it() {
    let short = Config {
        ready_timeout: Duration::from_millis(1_500),
        ..with_search()
    };
    let mut tale = Tale::running(short, &on_80(&[1]));
    tale.exits(60, 0);
    tale.saw(60, on_80(&[1]));
    assert_eq!(tale.at(60, Event::Time), Some(Task::Search));
    tale.at(60, Event::Done);
    tale.at(1_500, Event::Searched(false));
    assert_eq!(tale.saw(1_560, on_80(&[1])), OPENS_ALL);
    tale.at(1_560, Event::Shut(PortSet::EMPTY));
    assert!(matches!(tale.at(1_650, Event::Time), Some(Task::Look(_))));

    let mut tale = Tale::running(with_search(), &on_80(&[1]));
    tale.exits(60, 0);
    tale.saw(60, on_80(&[]));
    assert_eq!(tale.at(60, Event::OpenNow), Some(Task::Open));
    tale.removes();
    assert_eq!(tale.at(60, Event::Done), Some(Task::Search));
}

#[test]
fn who_watches_no_listeners_searches_for_none() {
    let mut config = with_search();
    config.ready_timeout = Duration::ZERO;
    let mut tale = Tale::running(config, &on_80(&[1]));
    let action = tale.exits(60, 0);
    assert!(!tale.state.facts.unseen);
    tale.opens_and_ends(action);
}

// --listen-port -----------------------------------------------------------------------------------

/// Messages name gated ports; looks go to their listeners' ports.
#[test]
fn gated_ports_open_when_their_listeners_are_ready() {
    let config = Config {
        gated: Gated {
            listen_ports: ListenPorts::parse("80=8080,443=8443", |_| None).unwrap(),
            ..gated("80,443,90")
        },
        ..config()
    };
    let on = |all: &[(u16, u64)]| Sample {
        listeners: all.iter().map(|(port, c)| listener(*port, *c)).collect(),
        ..Sample::default()
    };
    let mut tale = Tale::running(config, &on(&[(8080, 1), (8443, 2), (90, 3)]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on(&[])), None);
    assert_eq!(
        tale.state.waiting_for().as_deref(),
        Some("waiting for a listener on 80,90,443 (listeners 90,8080,8443)")
    );
    assert_eq!(
        tale.saw(70, on(&[(8080, 4)])),
        Some(Task::ShutOnly(ports("90,443")))
    );
    assert_eq!(
        tale.saw(80, on(&[(8080, 4), (90, 5)])),
        Some(Task::ShutOnly(ports("443")))
    );
    let action = tale.saw(10_060, on(&[(8080, 4), (90, 5)]));
    assert_eq!(tale.state.facts.missing.ports, ports("443"));
    tale.opens_and_ends(action);
}

/// Nobody waits for a port that is open, but its clients are refused.
#[test]
fn a_listener_that_ends_behind_an_open_port_is_told_of() {
    let on = |port: u16, cookies: &[u64]| Sample {
        listeners: cookies.iter().map(|c| listener(port, *c)).collect(),
        ..Sample::default()
    };
    let both = |on_80: &[u64], on_443: &[u64]| Sample {
        listeners: [on(80, on_80).listeners, on(443, on_443).listeners].concat(),
        connections: busy(0),
        ..Sample::default()
    };
    let two = Config {
        gated: gated("80,443"),
        ..config()
    };
    let mut tale = Tale::running(two, &both(&[1], &[2]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, both(&[], &[])), None);
    let opens = Some(Task::ShutOnly(ports("443")));
    assert_eq!(tale.saw(70, both(&[3], &[])), opens);
    tale.at(70, Event::Shut(ports("443")));
    assert_eq!(tale.state.facts.unserved, PortSet::EMPTY, "it was shut");
    assert_eq!(tale.saw(80, both(&[], &[])), None);
    assert_eq!(tale.state.facts.unserved, ports("80"));
    let action = tale.saw(90, both(&[4], &[5]));
    assert_eq!(tale.state.facts.unserved, ports("80"));
    tale.opens_and_ends(action);

    // The deadline has cut nothing short, since the port was open; and nothing is closed again.
    let follow = Config {
        open_on: OpenOn::Ready,
        ..config()
    };
    let mut tale = Tale::running(follow, &on_80(&[1]));
    tale.saw(20, on_80(&[]));
    assert_eq!(tale.saw(30, on_80(&[2])), OPENS_ALL);
    tale.at(30, Event::Shut(PortSet::EMPTY));
    assert_eq!(tale.at(30_000, Event::Time), Some(Task::Open));
    tale.removes();
    tale.exits(40_000, 0);
    tale.saw(40_000, on_80(&[]));
    assert_eq!(tale.state.facts.unserved, ports("80"));

    // USR1 asks for an open gate all the same.
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.exits(60, 0);
    tale.saw(60, on_80(&[]));
    assert_eq!(tale.at(70, Event::OpenNow), Some(Task::Open));
    tale.saw(80, on_80(&[]));
    assert_eq!(tale.state.facts.unserved, PortSet::EMPTY);
}

#[test]
fn one_listener_may_serve_all_ports() {
    let config = Config {
        gated: Gated {
            listen_ports: ListenPorts::parse("8080", |_| None).unwrap(),
            ..gated("80,443,9000-9010")
        },
        ..config()
    };
    let on = |cookies: &[u64]| Sample {
        listeners: cookies.iter().map(|c| listener(8080, *c)).collect(),
        ..Sample::default()
    };
    let mut tale = Tale::running(config.clone(), &on(&[1]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on(&[])), None);
    let action = tale.saw(70, on(&[2]));
    tale.opens_and_ends(action);

    let mut tale = Tale::running(config.clone(), &on(&[1]));
    tale.exits(60, 0);
    let action = tale.saw(10_060, on(&[]));
    assert_eq!(tale.state.facts.missing.ports, config.gated.ports);
    tale.opens_and_ends(action);
}

#[test]
fn what_no_listener_was_seen_of_is_told() {
    let config = Config {
        gated: gated("80,81"),
        ..config()
    };
    let mut tale = Tale::running(config, &on_80(&[1]));
    tale.exits(60, 0);
    let action = tale.saw(60, on_80(&[2]));
    assert_eq!(tale.state.facts.never_seen, ports("81"));
    tale.opens_and_ends(action);
}

// The deadline ------------------------------------------------------------------------------------

#[test]
fn the_deadline_opens_and_command_is_still_waited_for() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    assert_eq!(tale.at(30_000, Event::Time), Some(Task::Open));
    tale.removes();
    assert_eq!(tale.at(30_000, Event::Done), None);
    assert_eq!(tale.wakes_at(), None, "only COMMAND is waited for");
    assert!(tale.state.facts.deadline_hit);
    assert_eq!(tale.exits(40_000, 0), Some(Task::End));
}

/// As with iptables, whose clock may run out a little earlier than asked for.
#[test]
fn the_kernels_deadline_may_come_earlier() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.state
        .opens_by(tale.closed_at + Duration::from_secs(29));
    assert_eq!(tale.at(20, Event::Time), None);
    assert_eq!(tale.wakes_at(), Some(29_000));
    assert_eq!(tale.at(29_000, Event::Time), Some(Task::Open));
    assert!(tale.state.facts.deadline_hit);
}

#[test]
fn the_deadline_ends_the_wait_for_listeners() {
    let mut config = config();
    config.ready_timeout = Duration::from_secs(60);
    let mut tale = Tale::running(config, &on_80(&[1]));
    tale.exits(60, 0);
    tale.saw(60, on_80(&[]));
    let action = tale.saw(30_000, on_80(&[]));
    let action = action.or_else(|| tale.at(30_000, Event::Time));
    assert!(tale.state.facts.deadline_hit);
    tale.opens_and_ends(action);
}

// Signals -----------------------------------------------------------------------------------------

#[test]
fn a_signal_during_the_drain_opens_and_does_not_run_command() {
    let mut tale = Tale::new(config(), &on_80(&[1]));
    tale.at(0, Event::Closed);
    let action = tale.at(5, Event::Signal(TERM, Sender::Process));
    assert_eq!(tale.state.facts.not_run, Some(NotRun::Signal));
    assert_eq!(tale.state.facts.interrupted, Some((TERM, Sender::Process)));
    tale.opens_and_ends(action);
}

#[test]
fn the_first_signal_is_passed_on_and_the_second_ends_the_run() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    let first = tale.at(20, Event::Signal(TERM, Sender::Process));
    assert_eq!(first, Some(Task::Pass(TERM)));
    assert_eq!(tale.at(20, Event::Done), None);
    assert_eq!(tale.state.facts.interrupted, None);
    let action = tale.at(520, Event::Signal(TERM, Sender::Process));
    tale.opens_and_ends(action);
    assert_eq!(tale.state.facts.exited, None, "left running");
}

#[test]
fn what_comes_right_after_a_signal_is_the_same_wish() {
    for (at, signal, is_new) in [
        (20, TERM, false),
        (519, TERM, false),
        (519, INT, false),
        (520, INT, true),
        (520, HUP, false),
        (5_000, HUP, false),
    ] {
        let mut tale = Tale::running(config(), &on_80(&[1]));
        tale.at(20, Event::Signal(TERM, Sender::Process));
        tale.at(20, Event::Done);
        let task = tale.at(at, Event::Signal(signal, Sender::Process));
        assert_eq!(task.is_some(), is_new, "{at} ms: {signal}");
        assert_eq!(tale.state.facts.interrupted.is_some(), is_new);
    }
    // COMMAND has ended by the first of them.
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.at(20, Event::Signal(HUP, Sender::Process));
    tale.at(20, Event::Done);
    tale.exits(60, 0);
    tale.saw(60, on_80(&[]));
    tale.at(70, Event::Signal(HUP, Sender::Terminal));
    assert_eq!(tale.state.facts.interrupted, None);
}

#[test]
fn an_event_knows_its_signal() {
    assert_eq!(Event::Signal(TERM, Sender::Terminal).signal(), Some(TERM));
    assert_eq!(Event::Time.signal(), None);
}

#[test]
fn a_terminal_has_told_command_itself() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    assert_eq!(tale.at(20, Event::Signal(INT, Sender::Terminal)), None);
    let action = tale.at(30, Event::Exited(CommandExit::Signal(INT)));
    tale.opens_and_ends(action);
    assert_eq!(tale.state.facts.interrupted, None, "COMMAND's end tells");
}

#[test]
fn a_terminal_that_command_does_not_hear_is_passed_on() {
    // COMMAND in a process group of its own, or a hang-up that only the session leader receives.
    let mut tale = Tale::running(config(), &on_80(&[1]));
    let first = tale.at(20, Event::Signal(INT, Sender::TerminalToUs));
    assert_eq!(first, Some(Task::Pass(INT)));
}

#[test]
fn a_signal_while_waiting_for_the_listener_opens_now() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.exits(60, 0);
    tale.saw(60, on_80(&[]));
    let action = tale.at(70, Event::Signal(INT, Sender::Terminal));
    tale.opens_and_ends(action);
    assert_eq!(tale.state.facts.interrupted, Some((INT, Sender::Terminal)));
}

#[test]
fn usr1_opens_and_waits_on() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    assert_eq!(tale.at(20, Event::OpenNow), Some(Task::Open));
    tale.removes();
    assert_eq!(tale.at(20, Event::Done), None);
    assert_eq!(tale.at(21, Event::OpenNow), None, "it is open");
    // The listeners are still checked, without a settle time.
    assert!(matches!(tale.exits(60, 0), Some(Task::Look(_))));
    assert_eq!(tale.saw(60, on_80(&[])), None);
    assert_eq!(tale.saw(70, on_80(&[2])), Some(Task::End));
    assert!(tale.state.facts.opened_early);

    // The same while the listener is awaited.
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.exits(60, 0);
    tale.saw(60, on_80(&[]));
    assert_eq!(tale.at(70, Event::OpenNow), Some(Task::Open));
    tale.removes();
    assert!(matches!(tale.at(70, Event::Done), Some(Task::Look(_))));
    assert_eq!(tale.saw(70, on_80(&[])), None);
    assert_eq!(tale.saw(10_060, on_80(&[])), Some(Task::End));
    assert_eq!(tale.state.facts.missing.ports, ports("80"));

    // Before COMMAND: it is never started behind an open gate.
    let mut tale = Tale::new(config(), &on_80(&[1]));
    tale.at(0, Event::Closed);
    let action = tale.at(5, Event::OpenNow);
    assert_eq!(tale.state.facts.not_run, Some(NotRun::OpenedEarly));
    tale.opens_and_ends(action);
}

/// COMMAND returned before the restart had begun, and the port was closed again. USR1 opens it for good.
#[test]
fn usr1_opens_what_was_closed_again() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_80(&[1])), None);
    let opens = tale.saw(160, on_80(&[1]));
    assert_eq!(opens, Some(Task::ShutOnly(PortSet::EMPTY)));
    tale.at(160, Event::Shut(PortSet::EMPTY));
    let closes = tale.saw(170, on_80(&[]));
    assert_eq!(closes, Some(Task::ShutOnly(ports("80"))));
    tale.at(170, Event::Shut(ports("80")));
    assert_eq!(tale.at(180, Event::OpenNow), Some(Task::Open));
    tale.removes();
    assert!(matches!(tale.at(180, Event::Done), Some(Task::Look(_))));
    assert_eq!(tale.saw(181, on_80(&[])), None, "it stays open");
    assert_eq!(tale.saw(190, on_80(&[2])), Some(Task::End));
}

/// syngate was stopped for longer than `--max-closed`. The report says that the gate was open, even
/// if COMMAND has succeeded.
#[test]
fn the_deadline_is_noted_however_late_we_wake() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    let action = tale.at(40_000, Event::Exited(CommandExit::Code(0)));
    tale.opens_and_ends(action);
    assert!(tale.state.facts.deadline_hit);
}

// What people are told ----------------------------------------------------------------------------

#[track_caller]
fn waits_for(tale: &Tale, what: &str) {
    assert_eq!(tale.state.waiting_for().as_deref(), Some(what));
}

#[test]
fn what_a_run_waits_for_is_told() {
    let mut tale = Tale::new(config(), &on_80(&[1]));
    tale.closes();
    waits_for(&tale, "draining");
    let mut sample = on_80(&[1]);
    sample.half_open.young = 2;
    sample.connections = busy(4);
    assert_eq!(tale.saw(6, sample), None);
    waits_for(&tale, "draining: 2 in the handshake, 4 busy");

    let mut tale = Tale::running(config(), &on_80(&[1]));
    assert_eq!(tale.state.waiting_for(), None, "COMMAND speaks for itself");
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_80(&[])), None);
    waits_for(&tale, "waiting for a listener on 80");
    assert_eq!(tale.at(70, Event::OpenNow), Some(Task::Open));
    tale.removes();
    assert!(matches!(tale.at(70, Event::Done), Some(Task::Look(_))));
    assert_eq!(tale.saw(70, on_80(&[])), None);
    waits_for(&tale, "waiting for a listener on 80");

    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_80(&[1])), None);
    waits_for(&tale, "settling: 80");
    assert_eq!(tale.saw(160, on_80(&[1])), OPENS_ALL);
    assert_eq!(tale.state.waiting_for(), None, "nobody waits any more");

    let mut tale = Tale::running(with_check(), &on_80(&[1]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_80(&[2])), None);
    waits_for(&tale, "waiting until the ready check succeeds");

    let mut tale = Tale::running(with_search(), &on_80(&[1]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_80(&[1])), None);
    waits_for(&tale, "waiting for --listen-netns-from");
}

// Other runs -------------------------------------------------------------------------------------

/// Another run holds SYNs, which the removal would drop: the rules stay for a limited time.
#[test]
fn what_is_left_stays_while_another_run_holds() {
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_80(&[2])), Some(Task::Open));
    let remove = |anyway| Some(Task::Remove { anyway });
    assert_eq!(tale.at(60, Event::Done), remove(false));
    assert_eq!(tale.at(60, Event::OthersHold), None);
    waits_for(
        &tale,
        "the gate is open; waiting to remove its rules until another run has let its held SYNs go",
    );
    assert_eq!(tale.wakes_at(), Some(70));
    assert_eq!(tale.at(70, Event::Time), remove(false));
    assert_eq!(tale.at(70, Event::OthersHold), None);
    assert_eq!(tale.at(5_060, Event::Time), remove(true));
    assert_eq!(tale.at(5_060, Event::Done), Some(Task::End));

    // A signal ends the wait.
    let mut tale = Tale::running(config(), &on_80(&[1]));
    tale.exits(60, 0);
    assert_eq!(tale.saw(60, on_80(&[2])), Some(Task::Open));
    assert_eq!(tale.at(60, Event::Done), remove(false));
    assert_eq!(tale.at(60, Event::OthersHold), None);
    assert_eq!(
        tale.at(61, Event::Signal(INT, Sender::Process)),
        remove(true)
    );
}

//! What a seed says: the options, what listens before, what COMMAND does to the service, what others do.

use std::time::Duration;

use super::dice::Dice;
use super::happening::{Happening, Place};
use crate::decide::config::{Config, OpenOn, Settle};
use crate::decide::drain::DrainUntil;
use crate::process::signals::Caught;
use crate::run::world::Program;
use crate::words::ended::{CommandExit, Sender};
use crate::words::gated::Gated;
use crate::words::ports::PortSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Drop,
    Hold,
    Redirect,
    Divert,
}

#[derive(Debug)]
pub(super) struct Story {
    pub config: Config,
    pub kind: Kind,
    pub max_closed: Duration,
    /// The run's time for releases and for the linger.
    pub patience: Duration,
    /// A standby of the run's own is stopped after the linger.
    pub stops_standby: bool,
    pub before: Vec<Place>,
    pub had_listeners: Vec<u16>,
    /// A session of the service has a listener for its data on this gated port.
    pub session: Option<u16>,
    /// It can be seen which processes hold the sockets.
    pub sees_holders: bool,
    /// The kernel tells when a socket has ended.
    pub tells_of_ends: bool,
    /// So long before `max_closed` the kernel opens the gate.
    pub opens_sooner: Duration,
    /// From the closed gate on.
    pub happenings: Vec<(Duration, Happening)>,
    /// From COMMAND's start on.
    pub course: Vec<(Duration, Happening)>,
    pub command_starts: bool,
    pub command_obeys: bool,
    /// Other programs can remove the rules.
    pub exposed: bool,
    /// Of 1000 calls.
    pub slow_calls: u64,
    pub failing_calls: u64,
    pub blind_looks: u64,
    /// Of 100.
    pub handshakes: u64,
    pub hanging_checks: u64,
    pub others_hold: u64,
    pub cookies: bool,
    /// How late a wait ends.
    pub lateness: Duration,
}

const GATED: [u16; 2] = [80, 443];
const ADDRESSES: [&str; 4] = ["0.0.0.0", "::", "10.0.0.1", "10.0.0.2"];
const STOPPING: [i32; 4] = [1, 2, 3, 15];
const SECOND: Duration = Duration::from_secs(1);

impl Story {
    pub(super) fn new(dice: &mut Dice) -> Story {
        let gated = &GATED[..1 + dice.below(2) as usize];
        let max_closed = dice.one(&[1, 2, 5, 30]) * SECOND;
        let exposed = dice.chance(40);
        let before = before(gated, dice);
        let mut happenings = signals(dice);
        others(gated, exposed, &mut happenings, dice);
        Story {
            config: config(gated, max_closed, dice),
            kind: dice.one(&[Kind::Drop, Kind::Hold, Kind::Redirect, Kind::Divert]),
            max_closed,
            patience: dice.time(5 * SECOND),
            stops_standby: dice.chance(50),
            course: course(gated, &before, dice),
            had_listeners: before.iter().map(|place| place.port).collect(),
            session: None,
            sees_holders: false,
            tells_of_ends: false,
            opens_sooner: Duration::ZERO,
            before,
            happenings,
            command_starts: !dice.chance(3),
            command_obeys: dice.chance(70),
            exposed,
            slow_calls: rarely(dice, 20),
            failing_calls: rarely(dice, 100),
            blind_looks: rarely(dice, 300),
            handshakes: dice.one(&[0, 0, 20, 90, 100]),
            hanging_checks: dice.one(&[0, 0, 30]),
            others_hold: dice.one(&[0, 0, 0, 50, 100]),
            cookies: dice.chance(10),
            lateness: if dice.chance(4) {
                dice.time(60 * SECOND)
            } else {
                Duration::ZERO
            },
        }
    }
}

impl Story {
    /// What the stories of old do not have.
    pub(super) fn with_more(mut self, dice: &mut Dice) -> Story {
        let gated: Vec<u16> = self.config.gated.ports.iter().collect();
        self.sees_holders = dice.chance(80);
        self.tells_of_ends = dice.chance(70);
        if dice.chance(20) {
            self.opens_sooner = dice.time(SECOND - Duration::from_millis(1));
        }
        if dice.chance(20) {
            self.session = Some(dice.one(&gated));
            let ends = (dice.time(8 * SECOND), Happening::SessionEnds);
            self.happenings.extend(dice.chance(70).then_some(ends));
        }
        for port in gated {
            let processes = dice.one(&[0, 0, 1, 1, 3]);
            for _ in 0..processes {
                let forks = dice.time(5 * SECOND);
                self.course.push((forks, Happening::Forks(port)));
                let retires = (forks + dice.time(SECOND), Happening::Retires(port));
                self.course.extend(dice.chance(80).then_some(retires));
            }
            if dice.chance(10) {
                self.reloads_without_one_address(port, dice);
            }
        }
        self
    }
}

impl Story {
    /// In place of a restart, on this port.
    fn reloads_without_one_address(&mut self, port: u16, dice: &mut Dice) {
        self.before.retain(|place| place.port != port);
        let at = |address| Place {
            port,
            address,
            generation: 0,
        };
        self.before.extend(["10.0.0.1", "10.0.0.2"].map(at));
        self.had_listeners.push(port);
        self.course.retain(|(_, happening)| match happening {
            Happening::Listens(place) => place.port != port,
            Happening::Leaves { port: one, .. } => *one != port,
            _ => true,
        });
        let reload = (dice.time(3 * SECOND), Happening::LeavesOut(port));
        self.course.push(reload);
    }
}

/// 0 in most stories.
fn rarely(dice: &mut Dice, most: u64) -> u64 {
    if dice.chance(80) {
        0
    } else {
        1 + dice.below(most)
    }
}

fn config(gated: &[u16], max_closed: Duration, dice: &mut Dice) -> Config {
    let settle = match dice.below(4) {
        0 => Settle::Fixed(dice.time(max_closed / 3)),
        _ => Settle::Auto,
    };
    let open_on = dice.one(&[OpenOn::Exit, OpenOn::Exit, OpenOn::Ready]);
    let ready_timeout = match dice.below(5) {
        0 if open_on == OpenOn::Exit => Duration::ZERO,
        _ => Duration::from_millis(1) + dice.time(20 * SECOND),
    };
    Config {
        gated: Gated {
            ports: gated.iter().copied().collect::<PortSet>(),
            ..Gated::default()
        },
        drain: dice.time(max_closed / 2),
        drain_until: dice.one(&[
            DrainUntil::Handshakes,
            DrainUntil::Requests,
            DrainUntil::Connections,
        ]),
        drain_command: dice.chance(10),
        settle,
        ready_timeout,
        open_on,
        best_effort: dice.chance(10),
        ready_check: !ready_timeout.is_zero() && dice.chance(20),
        search: dice.chance(15),
    }
}

fn before(gated: &[u16], dice: &mut Dice) -> Vec<Place> {
    let mut places = Vec::new();
    for port in gated {
        let sockets = dice.one(&[0, 1, 1, 1, 1, 2, 3]);
        let one_address = dice.chance(70);
        let address = dice.one(&ADDRESSES);
        for _ in 0..sockets {
            let address = if one_address {
                address
            } else {
                dice.one(&ADDRESSES)
            };
            places.push(Place {
                port: *port,
                address,
                generation: 0,
            });
        }
    }
    places
}

/// What COMMAND does to the service, and how it ends.
fn course(gated: &[u16], before: &[Place], dice: &mut Dice) -> Vec<(Duration, Happening)> {
    let mut course = Vec::new();
    for port in gated {
        let of_port: Vec<Place> = before.iter().filter(|p| p.port == *port).copied().collect();
        let generations = dice.one(&[0, 1, 1, 1, 1, 1, 2, 3]);
        for generation in 1..=generations {
            let leaves = Happening::Leaves {
                port: *port,
                generation: generation - 1,
            };
            let (leave, come) = (dice.time(3 * SECOND), dice.time(4 * SECOND));
            course.push((leave, leaves));
            if dice.chance(8) {
                continue; // It fails to start.
            }
            for place in &of_port {
                let moves = dice.chance(5);
                let address = if moves {
                    dice.one(&ADDRESSES)
                } else {
                    place.address
                };
                let place = Place {
                    address,
                    generation,
                    ..*place
                };
                course.push((come, Happening::Listens(place)));
            }
            if dice.chance(10) {
                let crash = Happening::Leaves {
                    port: *port,
                    generation,
                };
                course.push((come + dice.time(2 * SECOND), crash));
            }
        }
    }
    let exit = match dice.below(20) {
        0 => CommandExit::Code(1),
        1 => CommandExit::Signal(9),
        _ => CommandExit::Code(0),
    };
    if !dice.chance(5) {
        course.push((
            dice.time(6 * SECOND),
            Happening::Ends(Program::Command, exit),
        ));
    }
    course
}

fn signals(dice: &mut Dice) -> Vec<(Duration, Happening)> {
    let count = dice.one(&[0, 0, 0, 0, 1, 1, 2, 3]);
    let one = |dice: &mut Dice| {
        let sender = dice.one(&[Sender::Process, Sender::Terminal]);
        let caught = match dice.below(4) {
            0 => Caught::OpenNow,
            _ => Caught::Stop(dice.one(&STOPPING), sender),
        };
        (dice.time(8 * SECOND), Happening::Arrives(caught))
    };
    (0..count).map(|_| one(dice)).collect()
}

fn others(
    gated: &[u16],
    exposed: bool,
    happenings: &mut Vec<(Duration, Happening)>,
    dice: &mut Dice,
) {
    if exposed && dice.chance(40) {
        for _ in 0..=dice.below(3) {
            happenings.push((dice.time(6 * SECOND), Happening::Flush));
        }
    }
    if dice.chance(15) {
        let ends = dice.time(6 * SECOND);
        happenings.push((ends, Happening::StandbyEnds));
        if dice.chance(50) {
            happenings.push((ends + dice.time(SECOND), Happening::StandbyReturns));
        }
    }
    for port in gated {
        for _ in 0..dice.one(&[0, 3, 30]) {
            happenings.push((dice.time(5 * SECOND), Happening::Connects(*port)));
        }
    }
}

//! The decisions of a run, from the closing of the gate to its end: `step(event, now)` says what to
//! do next. Pure: it reads no clock, asks no kernel and touches nothing, so that each course of
//! events can be told in a test.
//!
//! `run.rs` does what is asked and comes back with the event that answers it; when nothing is asked
//! it waits for a signal, for COMMAND's exit, or for [`State::wake`].

mod again;
pub mod drain;
mod linger;
mod release;
pub mod service;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::again::Again;
use self::linger::{Linger, Next};
use self::release::Release;
use crate::words::ended::CommandExit;
use crate::words::ended::Sender;

pub use self::linger::{LINGER_LOOK, LINGER_QUIET, LingerEnd, Lingered};
pub use self::release::{Cut, STALL, Waiting};
use crate::decide::drain::{DrainUntil, Left, left};
use crate::decide::service::{Readiness, has_group, readiness, uncovered};
use crate::kernel::sockets::holders::Holders;
use crate::kernel::sockets::{Listener, Sample, SocketId, Want};
use crate::words::listen_ports::ListenPorts;
use crate::words::ports::PortSet;

/// Whether anything is under way is not looked at before: a CPU may still run the old rules for a
/// moment after the new ones stand. Afterwards nobody joins those who are, and one look tells.
pub const QUIET: Duration = Duration::from_millis(5);
/// A handshake answered with a SYN cookie leaves no trace; its last ACK is given this long.
pub const COOKIE_GRACE: Duration = Duration::from_millis(300);
/// The sockets are looked at this often, or less often where a look is dear: see `pause`.
pub const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How much longer than a look the pause after it is: while the service is watched, which may be
/// for long, and while it drains, when the gate is closed and each moment counts.
const WATCH_PAUSE: u32 = 4;
const DRAIN_PAUSE: u32 = 1;
/// Where others can remove the gate's rules, it is looked at this often whether they have.
pub const GUARD_EVERY: Duration = Duration::from_millis(10);
/// When the sockets can't be looked at, it is tried again this often.
const BLIND_RETRY: Duration = Duration::from_millis(10);
/// `--settle auto`: an inherited socket is settled when it has not changed for this long.
pub const SETTLE_ONE: Duration = Duration::from_millis(100);
/// `--settle auto`: a SO_REUSEPORT group is settled when, after a change, neither its listeners nor
/// their processes have changed for this long (nginx gives its old workers 100 ms).
pub const SETTLE_GROUP: Duration = Duration::from_millis(300);
/// `--settle auto`: how long the first change of such a group is waited for: a service reads its
/// configuration before it does anything that can be seen.
pub const SETTLE_PATIENCE: Duration = Duration::from_secs(3);
/// `--settle auto`: how long an address that had a listener is waited for when its port has others.
pub const SETTLE_PLACES: Duration = Duration::from_secs(1);

/// Held SYNs are let go in rounds, this far apart, or as far as a round took: what has gone takes
/// places until the service has accepted it.
pub const RELEASE_EVERY: Duration = Duration::from_micros(200);
const RELEASE_PAUSE: u32 = 1;

/// Whether the standby listens, to which new connections are steered, is looked at this often.
pub const STANDBY_EVERY: Duration = Duration::from_millis(10);

/// The kernel drops what is in any queue when a chain goes. So what is left of an open gate stays for
/// a while if another run holds SYNs, and that is looked at again and again.
pub const OTHERS_PATIENCE: Duration = Duration::from_secs(5);
/// See [`OTHERS_PATIENCE`].
pub const OTHERS_LOOK: Duration = Duration::from_millis(10);

/// `--ready-check` is run again so long after it has failed.
pub const CHECK_PAUSE: Duration = Duration::from_millis(100);
/// `--listen-netns-from` is run again so long after it has ended, while no listener is seen.
pub const SEARCH_PAUSE: Duration = Duration::from_millis(100);

/// `--open-on`: when a port whose service was replaced opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OpenOn {
    /// Once COMMAND has exited with status 0
    Exit,
    /// As soon as the new process listens, also while COMMAND runs
    Ready,
}

/// `--settle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// By what is seen: 0 for a replaced socket, and see the constants above.
    Auto,
    /// This long after the port was ready.
    Fixed(Duration),
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The gate has just been closed.
    Closed,
    /// The answer to [`Action::Look`], and how long the look took.
    Saw(Sample, Duration),
    /// The other answer to it: the sockets can't be looked at.
    Blind,
    /// The answer to [`Action::Check`] and [`Action::Rearm`]: whether the gate stands.
    Stands(bool),
    /// The answer to [`Action::ShutOnly`]: what is shut now, whether it is what was asked for or not.
    Shut(PortSet),
    /// The answer to [`Action::Guard`], and how long the look took.
    Intact(bool, Duration),
    /// The answer to [`Action::Start`].
    Started(bool),
    /// COMMAND ended.
    Exited(CommandExit),
    /// `--ready-check` ended.
    ReadyChecked(CommandExit),
    /// `--listen-netns-from` ended: whether it named a network namespace, which is looked into now.
    Searched(bool),
    /// INT, TERM, HUP or QUIT.
    Signal(i32, Sender),
    /// The answer to [`Action::Release`]: who waits still, and how long it took.
    Released(Waiting, Duration),
    /// The answer to [`Action::Linger`]: how many are left, if that can be seen, and how long the look
    /// took.
    Lingers(Option<usize>, Duration),
    /// The answer to [`Action::WatchStandby`], and how long the look took.
    StandbyListens(bool, Duration),
    /// The standby of the run's own has been stopped.
    StandbyStopped,
    /// The other answer to [`Action::Remove`]: another run holds SYNs.
    OthersHold,
    /// USR1: somebody wants the gate open.
    OpenNow,
    /// What was asked for is done: shut, open, pass.
    Done,
    /// The time that [`State::wake`] had asked for.
    Time,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Look at the sockets.
    Look(Want),
    /// See whether the gate stands.
    Check,
    /// Close it once more, for what is left of its time, and see whether it stands.
    Rearm(PortSet),
    /// See whether somebody has removed the rules.
    Guard,
    /// Run COMMAND.
    Start,
    /// Shut exactly these ports.
    ShutOnly(PortSet),
    /// Let go of held SYNs to these ports, as far as their listeners have room.
    Release {
        /// The ports.
        ports: PortSet,
        /// They open in any case, whether anybody listens there or not.
        finally: bool,
    },
    /// Open everything, for good. The very next thing after the decision.
    Open,
    /// See whether anybody listens where new connections are steered to.
    WatchStandby,
    /// See how many connections are left that were steered elsewhere.
    Linger,
    /// Begin to stop the standby of the run's own.
    StopStandby,
    /// Take away what is left of the gate; not yet, unless `anyway`, if that would take SYNs from
    /// another run that holds some.
    Remove {
        /// Whoever holds some has had its time.
        anyway: bool,
    },
    /// Start `--ready-check`, and do not wait for it.
    ReadyCheck,
    /// Start `--listen-netns-from`, and do not wait for it.
    Search,
    /// Pass a signal on to COMMAND.
    Pass(i32),
    /// The run is over.
    End,
}

/// Why COMMAND was not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRun {
    /// A signal came before.
    Signal,
    /// USR1 came before.
    OpenedEarly,
    /// `--max-closed` was over, or nearly, before it could be run.
    Deadline,
    /// The gate did not stand any more.
    Fallen,
    /// It could not be started.
    Spawn,
    /// Nobody took the new connections that were steered elsewhere.
    StandbyGone,
}

/// What was asked for; constant during the run.
#[derive(Debug, Clone)]
pub struct Config {
    /// The gated ports.
    pub ports: PortSet,
    /// `--drain`.
    pub drain: Duration,
    /// `--drain-until`.
    pub drain_until: DrainUntil,
    /// `--settle`.
    pub settle: Settle,
    /// `--ready-timeout`.
    pub ready_timeout: Duration,
    /// `--open-on`.
    pub open_on: OpenOn,
    /// `--best-effort`.
    pub best_effort: bool,
    /// `--listen-port`.
    pub listen_ports: ListenPorts,
    /// Whether there is a `--ready-check`.
    pub ready_check: bool,
    /// Whether there is a `--listen-netns-from`.
    pub search: bool,
}

/// What came of the run so far: read by the report.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// What was still under way when the drain's time was over.
    pub left: Left,
    /// The largest number of stale half-open connections seen.
    pub stale_half_open: u32,
    /// When the drain was over.
    pub drained_at: Option<Instant>,
    /// When COMMAND was started.
    pub started_at: Option<Instant>,
    /// When COMMAND ended, and how.
    pub exited: Option<(Instant, CommandExit)>,
    /// Why COMMAND was not run.
    pub not_run: Option<NotRun>,
    /// The signal that ended the run, and whether the terminal sent it.
    pub interrupted: Option<(i32, Sender)>,
    /// INT, TERM, HUP and QUIT as they came.
    pub signals: Vec<(i32, Sender)>,
    /// How often the gate was closed again because somebody had removed its rules.
    pub reclosed: u32,
    /// `--max-closed` was reached with the gate closed.
    pub deadline_hit: bool,
    /// USR1 opened the gate.
    pub opened_early: bool,
    /// It was opened because nobody took the new connections that were steered elsewhere.
    pub standby_gone: bool,
    /// COMMAND was run although the gate did not stand.
    pub ran_open: bool,
    /// Ports on which nobody listened at the end of `--ready-timeout`.
    pub not_ready: PortSet,
    /// Ports on which nothing changed, though several sockets (SO_REUSEPORT) were to be expected to.
    pub unchanged: PortSet,
    /// Whether anybody listened then could not be seen.
    pub unseen: bool,
    /// `--ready-check` had not succeeded at the end of `--ready-timeout`.
    pub unchecked: bool,
    /// How it ended last.
    pub check_exit: Option<CommandExit>,
    /// How long it took from its first run to its success.
    pub checked_in: Option<Duration>,
    /// Gated ports of which no listener was seen, neither before nor after.
    pub never_seen: PortSet,
    /// How long it took to let go of the held SYNs.
    pub released_in: Option<Duration>,
    /// Why not all of them could go in their turn.
    pub release_cut: Option<Cut>,
    /// What became of connections that were steered elsewhere.
    pub lingered: Option<Lingered>,
    /// The signal that ended the run came when there was nothing left to do but to wait for them.
    pub linger_cut: bool,
}

/// The state of a run.
#[derive(Debug)]
pub struct State {
    config: Config,
    /// The listeners' ports that had, or have by now, a listener.
    watches: BTreeMap<u16, Watch>,
    closed_at: Instant,
    deadline: Instant,
    phase: Phase,
    /// Nobody has been seen to listen.
    deserted: bool,
    shut: PortSet,
    /// The gate was opened for good, or never closed.
    opened: bool,
    removed: bool,
    /// Another run holds SYNs: when that is looked at again, and what is left is removed anyway.
    others: Option<(Instant, Instant)>,
    remove_anyway: bool,
    next_look: Instant,
    /// Whether the rules are there, where others can remove them.
    guard: Option<Regular>,
    /// `--ready-check`.
    check: Again,
    /// `--listen-netns-from`.
    search: Again,
    /// Somebody has removed the rules, and they are not back yet.
    fallen: bool,
    /// Where SYNs are held.
    release: Option<Release>,
    /// Where they are steered elsewhere.
    linger: Option<Linger>,
    /// Whether anybody listens there.
    standby: Option<Regular>,
    /// At the last look nobody did.
    standby_missed: bool,
    /// What came of it.
    pub facts: Facts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Gate closed, the old service finishes what is under way.
    Draining,
    /// The last look before COMMAND is run.
    Checking { rearmed: bool },
    /// COMMAND runs.
    Running,
    /// COMMAND has exited with 0: each port opens when it is ready and settled.
    Readying { since: Instant },
    /// Nothing is left to decide.
    Over,
}

/// What became of the listeners on one port.
#[derive(Debug)]
struct Watch {
    /// The gated ports that its listeners serve.
    ports: PortSet,
    before: Vec<Listener>,
    now: Vec<Listener>,
    readiness: Readiness,
    /// An address that had a listener has none any more.
    misses_places: bool,
    /// Since when a new process listens there.
    up_since: Option<Instant>,
    seen: Fingerprint,
    changed_at: Instant,
    ever_changed: bool,
}

/// Sockets; processes by pid and start.
type Fingerprint = (Vec<SocketId>, Vec<(i32, u64)>);

impl State {
    /// The state of a run whose gate was closed at `closed_at`; `before` was seen just before.
    /// Without a deadline there is no gate (`--best-effort`): COMMAND just runs.
    pub fn new(
        config: Config,
        before: &Sample,
        closed_at: Instant,
        deadline: Option<Instant>,
    ) -> State {
        let watches = by_port(&before.listeners)
            .into_iter()
            .map(|(port, listeners)| {
                let ports = config.listen_ports.served_by(port, &config.ports);
                let watch = Watch::new(ports, listeners, &before.holders, closed_at);
                (port, watch)
            })
            .collect();
        State {
            shut: match deadline {
                Some(_) => config.ports.clone(),
                None => PortSet::EMPTY,
            },
            config,
            watches,
            closed_at,
            deadline: deadline.unwrap_or(closed_at),
            phase: Phase::Draining,
            opened: deadline.is_none(),
            removed: deadline.is_none(),
            others: None,
            remove_anyway: false,
            // Where nobody listens, whatever the old rules still let in is refused.
            deserted: before.listeners.is_empty(),
            next_look: match before.listeners.is_empty() {
                true => closed_at,
                false => closed_at + QUIET,
            },
            guard: None,
            fallen: false,
            release: None,
            linger: None,
            standby: None,
            standby_missed: false,
            check: Again::default(),
            search: Again::default(),
            facts: Facts {
                ran_open: deadline.is_none(),
                ..Facts::default()
            },
        }
    }

    /// The kernel opens the gate at `deadline`.
    pub fn opens_by(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Others can remove the gate's rules: from now on it is looked at whether they are there.
    pub fn guard(&mut self) {
        self.guard = Some(Regular::new(GUARD_EVERY, self.closed_at));
    }

    /// SYNs are held: from now on they are let go before their ports open, within `timeout`.
    pub fn holds(&mut self, timeout: Duration) {
        self.release = Some(Release::new(timeout, self.closed_at));
    }

    /// SYNs are steered to a standby: as [`State::lingers`], and it is watched whether it is there;
    /// `then_stop`: and in the end it is stopped.
    pub fn lingers_on_standby(&mut self, timeout: Duration, then_stop: bool) {
        let linger = Linger::new("standby", timeout, then_stop, self.closed_at);
        self.linger = Some(linger);
        self.standby = Some(Regular::new(STANDBY_EVERY, self.closed_at));
    }

    /// SYNs are steered to `place`: once the gate is open, their connections have `timeout` to finish
    /// before what steers them is removed.
    pub fn lingers(&mut self, place: &'static str, timeout: Duration) {
        self.linger = Some(Linger::new(place, timeout, false, self.closed_at));
    }

    /// When [`Event::Time`] is wanted at the latest, if at all.
    pub fn wake(&self) -> Option<Instant> {
        let releases = self.releases().map(|(at, _)| at);
        if self.opening() {
            return releases;
        }
        let opens = (!self.opened && self.phase != Phase::Over).then_some(self.deadline);
        let beside = self.beside().map(|(at, _)| at);
        let removes = self.others.map(|(at, _)| at).filter(|_| !self.removed);
        [
            self.looks_at(),
            self.guards_at(),
            self.watches_standby_at(),
            beside,
            releases,
            self.linger_due().map(|(at, _)| at),
            removes,
            opens,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// When held SYNs are to be let go, and whose.
    fn releases(&self) -> Option<(Instant, &PortSet)> {
        self.release.as_ref().and_then(Release::due)
    }

    /// When it is to be looked who is left elsewhere.
    fn linger_due(&self) -> Option<(Instant, Next)> {
        let linger = self.linger.as_ref().filter(|_| !self.removed);
        linger.and_then(Linger::due)
    }

    /// The gate is open, and its rules stay for those whom they have steered elsewhere.
    pub fn is_lingering(&self) -> bool {
        let goes_on = self.linger.as_ref().is_some_and(Linger::goes_on);
        self.opened && !self.removed && goes_on
    }

    /// Where connections are that are waited for although a signal has come, when there is nothing
    /// else left to do.
    pub fn lingers_in_spite_of_a_signal(&self) -> Option<&'static str> {
        let signalled = !self.facts.signals.is_empty();
        let waits = self.phase == Phase::Over && self.is_lingering() && signalled;
        self.linger.as_ref().filter(|_| waits).map(Linger::place)
    }

    /// Everything is to open as soon as the held SYNs have gone.
    fn opening(&self) -> bool {
        !self.opened && self.release.as_ref().is_some_and(Release::is_of_all)
    }

    /// When the sockets are to be looked at.
    fn looks_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Draining => Some(self.next_look.min(self.drain_end())),
            Phase::Readying { .. } => Some(self.next_look),
            Phase::Running if self.follows() => Some(self.next_look),
            Phase::Running | Phase::Checking { .. } | Phase::Over => None,
        }
    }

    /// When the rules are to be looked at.
    fn guards_at(&self) -> Option<Instant> {
        self.looks_regularly_at(&self.guard)
    }

    fn looks_regularly_at(&self, regular: &Option<Regular>) -> Option<Instant> {
        let regular = regular.as_ref().filter(|_| self.is_shut());
        regular.map(|regular| regular.next)
    }

    /// Whether a port is shut, and something is left to decide.
    fn is_shut(&self) -> bool {
        !self.opened && !self.shut.is_empty() && self.phase != Phase::Over
    }

    /// When it is to be looked whether the standby is there, as long as connections go to it.
    fn watches_standby_at(&self) -> Option<Instant> {
        self.looks_regularly_at(&self.standby)
    }

    /// What is being waited for, for the people who watch. COMMAND speaks for itself.
    pub fn waiting_for(&self) -> Option<String> {
        if self.opening() {
            return Some("letting the held SYNs go".to_owned());
        }
        if self.phase == Phase::Over && self.others.is_some() && !self.removed {
            return Some("waiting for another run, which holds SYNs".to_owned());
        }
        if let Some(linger) = &self.linger
            && self.phase == Phase::Over
            && self.is_lingering()
        {
            return Some(linger.shown());
        }
        match self.phase {
            Phase::Draining if self.facts.left.is_nothing() => Some("draining".to_owned()),
            Phase::Draining => Some(format!("draining: {}", self.facts.left)),
            Phase::Readying { .. } => {
                let waiting = self.ports_that(|watch| watch.readiness == Readiness::Waiting);
                Some(if !waiting.is_empty() {
                    let waiting = self.config.listen_ports.shown(&waiting);
                    format!("waiting for a listener on {waiting}")
                } else if self.searching() {
                    "waiting for --listen-netns-from".to_owned()
                } else if self.checked_at().is_none() {
                    "waiting for --ready-check".to_owned()
                } else {
                    format!("settling: {}", self.shut.brief())
                })
            }
            _ => None,
        }
    }

    /// Takes an event in and says what to do now; `None` is to wait.
    pub fn step(&mut self, event: Event, now: Instant) -> Option<Action> {
        self.note_deadline(now);
        match event {
            Event::Closed if self.opened => Some(self.start_command()),
            Event::Closed if self.config.drain.is_zero() => self.end_drain(now),
            Event::Closed => self.go_on(now),
            Event::Saw(sample, cost) => self.saw(&sample, cost, now),
            Event::Blind => self.blind(now),
            Event::Stands(stands) => {
                self.closed_again(stands);
                self.checked(stands, now)
            }
            Event::Shut(ports) => {
                self.shut = ports;
                self.go_on(now)
            }
            Event::Intact(intact, cost) => self.guarded(intact, cost, now),
            Event::Started(started) => self.started(started, now),
            Event::Exited(exit) => self.exited(exit, now),
            Event::ReadyChecked(exit) => self.ready_checked(exit, now),
            Event::Searched(found) => self.searched(found, now),
            Event::Signal(signal, sender) => self.signalled(signal, sender, now),
            Event::Lingers(left, cost) => self.lingered(left, cost, now),
            Event::StandbyListens(listens, cost) => self.watched_standby(listens, cost, now),
            Event::StandbyStopped => {
                self.linger.iter_mut().for_each(Linger::standby_gone);
                self.go_on(now)
            }
            Event::OthersHold => self.remove_later(now),
            Event::Released(after, cost) => self.released(after, cost, now),
            Event::OpenNow => self.open_now(),
            Event::Done | Event::Time => self.go_on(now),
        }
    }

    /// The kernel has opened the gate, whatever has happened since (we may have been stopped).
    fn note_deadline(&mut self, now: Instant) {
        let shut = !self.opened && !self.shut.is_empty();
        let undecided = !self.opening() && self.phase != Phase::Over;
        // With --open-on ready all ports may be open already: nothing was cut short then.
        self.facts.deadline_hit |= shut && undecided && now >= self.deadline;
    }

    fn go_on(&mut self, now: Instant) -> Option<Action> {
        if let Some((at, ports)) = self.releases() {
            if at <= now {
                return Some(self.release_now(ports.clone()));
            }
            if self.opening() {
                return None;
            }
        }
        if let Some(action) = self.linger_on(now) {
            return Some(action);
        }
        let later = self.removes_later(now) || self.is_lingering();
        if later && self.phase == Phase::Over {
            return None;
        }
        if self.phase == Phase::Over || (self.opened && !self.removed && !later) {
            return self.close_down();
        }
        if !self.opened && now >= self.deadline {
            return Some(self.open_early(NotRun::Deadline));
        }
        if self.guards_at().is_some_and(|at| at <= now) {
            return Some(Action::Guard);
        }
        if self.watches_standby_at().is_some_and(|at| at <= now) {
            return Some(Action::WatchStandby);
        }
        if let Some(action) = self.start_beside(now) {
            return Some(action);
        }
        match self.phase {
            Phase::Readying { .. } if self.config.ready_timeout.is_zero() => {
                self.open_what_is_ready(Duration::ZERO, now)
            }
            _ if self.looks_at().is_some_and(|at| at <= now) => Some(self.look(now)),
            _ => None,
        }
    }

    // Beside ------------------------------------------------------------------------------------

    /// What is to be started beside, and when.
    fn beside(&self) -> Option<(Instant, Action)> {
        let at = |again: &Again| again.due(self.closed_at);
        let check = self.wants_check().then(|| at(&self.check)).flatten();
        let search = self.wants_search().then(|| at(&self.search)).flatten();
        let both = [
            search.map(|at| (at, Action::Search)),
            check.map(|at| (at, Action::ReadyCheck)),
        ];
        both.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn start_beside(&mut self, now: Instant) -> Option<Action> {
        let (_, action) = self.beside().filter(|(at, _)| *at <= now)?;
        match action {
            Action::Search => self.search.begin(now),
            _ => self.check.begin(now),
        }
        Some(action)
    }

    /// Once there is something that could pass: a port that is not waited for any more.
    fn wants_check(&self) -> bool {
        if !self.config.ready_check || self.check.passed_at.is_some() {
            return false;
        }
        match self.phase {
            Phase::Readying { .. } => {
                let waiting = self.ports_that(|w| w.readiness == Readiness::Waiting);
                !self.config.ports.minus(&waiting).is_empty()
            }
            Phase::Running if self.follows() => self.watches.values().any(|w| w.up_since.is_some()),
            _ => false,
        }
    }

    /// While nobody listens where the listeners lived so far; and once after COMMAND's exit, in case
    /// the old ones stay for a while.
    fn wants_search(&self) -> bool {
        if !self.config.search {
            return false;
        }
        let looks = match self.phase {
            Phase::Readying { .. } => !self.config.ready_timeout.is_zero(),
            Phase::Running => self.follows(),
            _ => false,
        };
        let deserted = self.watches.values().all(|w| w.now.is_empty());
        looks && (deserted || self.searching())
    }

    /// Where the listeners live now is not known before it was answered after COMMAND's exit.
    fn searching(&self) -> bool {
        let readying = matches!(self.phase, Phase::Readying { .. });
        let watches = self.config.search && !self.config.ready_timeout.is_zero();
        watches && readying && self.search.passed_at.is_none()
    }

    fn ready_checked(&mut self, exit: CommandExit, now: Instant) -> Option<Action> {
        self.facts.check_exit = Some(exit);
        self.check
            .end(exit == CommandExit::Code(0), CHECK_PAUSE, now);
        if let (Some(began), Some(passed)) = (self.check.began_at, self.check.passed_at) {
            self.facts.checked_in = Some(passed - began);
        }
        // What it has kept shut may open.
        self.look_again(self.check.passed_at.is_some(), now)
    }

    fn searched(&mut self, found: bool, now: Instant) -> Option<Action> {
        self.search.end(found, SEARCH_PAUSE, now);
        self.look_again(true, now)
    }

    fn look_again(&mut self, wanted: bool, now: Instant) -> Option<Action> {
        match self.phase {
            Phase::Readying { .. } if wanted => Some(self.look(now)),
            Phase::Running if wanted && self.follows() => Some(self.look(now)),
            _ => self.go_on(now),
        }
    }

    /// When `--ready-check` had succeeded; `None`: it has not.
    fn checked_at(&self) -> Option<Instant> {
        if self.config.ready_check {
            self.check.passed_at
        } else {
            Some(self.closed_at)
        }
    }

    /// Whether nobody has removed the rules.
    fn guarded(&mut self, intact: bool, cost: Duration, now: Instant) -> Option<Action> {
        if let Some(guard) = &mut self.guard {
            guard.looked(cost, now);
        }
        if intact {
            return self.go_on(now);
        }
        self.fallen = true;
        Some(Action::Rearm(self.shut.clone()))
    }

    /// The rules were put back, or could not be: then the next look tries again.
    fn closed_again(&mut self, stands: bool) {
        if self.fallen && stands {
            self.fallen = false;
            self.facts.reclosed += 1;
        }
    }

    /// Whether the listeners are looked at while COMMAND runs.
    fn follows(&self) -> bool {
        let wanted = self.config.open_on == OpenOn::Ready && !self.config.ready_timeout.is_zero();
        wanted && !self.opened && !self.opening()
    }

    /// The sockets could not be looked at: try again, within the bounds of the phase.
    fn blind(&mut self, now: Instant) -> Option<Action> {
        self.next_look = now + BLIND_RETRY;
        match self.phase {
            Phase::Draining if now >= self.drain_end() => self.end_drain(now),
            Phase::Readying { since } if now >= since + self.config.ready_timeout => {
                self.facts.unseen = true;
                self.facts.unchecked = self.checked_at().is_none();
                self.finish()
            }
            _ => self.go_on(now),
        }
    }

    // Opening -----------------------------------------------------------------------------------

    /// Opens everything; where SYNs are held, once they have gone.
    fn open(&mut self) -> Action {
        if let Some(release) = &mut self.release {
            release.aim_at_all(self.config.ports.clone());
            if let Some((_, ports)) = release.due() {
                return Action::Release {
                    ports: ports.clone(),
                    finally: true,
                };
            }
        }
        self.opened = true;
        self.shut = PortSet::EMPTY;
        Action::Open
    }

    fn release_now(&self, ports: PortSet) -> Action {
        Action::Release {
            ports,
            finally: self.opening(),
        }
    }

    /// Some of the held SYNs have gone. A port opens once nobody waits for it: who comes meanwhile
    /// lines up behind those who do.
    fn released(&mut self, after: Waiting, cost: Duration, now: Instant) -> Option<Action> {
        let release = self.release.as_mut()?;
        let rest = RELEASE_EVERY.max(cost * RELEASE_PAUSE);
        let round = release.round(after, [cost, rest], self.deadline, now);
        self.facts.release_cut = round.cut.or(self.facts.release_cut);
        if let Some(took) = round.took {
            *self.facts.released_in.get_or_insert_default() += took;
        }
        if round.done.is_empty() {
            return self.go_on(now);
        }
        if release.is_of_all() {
            return Some(self.open());
        }
        self.shut = self.shut.minus(&round.done);
        Some(Action::ShutOnly(self.shut.clone()))
    }

    /// An open gate serves clients no worse than a port where nobody listens; but one that is just
    /// being handed on may be missed once.
    fn watched_standby(&mut self, listens: bool, cost: Duration, now: Instant) -> Option<Action> {
        if let Some(standby) = &mut self.standby {
            standby.looked(cost, now);
        }
        let gone = !listens && self.standby_missed;
        self.standby_missed = !listens;
        if self.opened || !gone {
            return self.go_on(now);
        }
        self.facts.standby_gone = true;
        Some(self.open_early(NotRun::StandbyGone))
    }

    /// What the linger, which begins with the open gate, has to do now.
    fn linger_on(&mut self, now: Instant) -> Option<Action> {
        let lingers = self.is_lingering();
        let linger = self.linger.as_mut().filter(|_| lingers)?;
        linger.begin(now);
        let (_, next) = linger.due().filter(|(at, _)| *at <= now)?;
        Some(match next {
            Next::Look => Action::Linger,
            Next::Stop => {
                linger.stopping();
                Action::StopStandby
            }
        })
    }

    fn lingered(&mut self, left: Option<usize>, cost: Duration, now: Instant) -> Option<Action> {
        let linger = self.linger.as_mut()?;
        self.facts.lingered = linger.saw(left, cost, now).or(self.facts.lingered);
        self.go_on(now)
    }

    fn finish(&mut self) -> Option<Action> {
        self.phase = Phase::Over;
        self.close_down()
    }

    /// Opens, removes, ends: in this order, each once.
    fn close_down(&mut self) -> Option<Action> {
        if !self.opened {
            return Some(self.open());
        }
        // What is left to do for others is done in its time.
        if self.is_lingering() {
            return self.linger.as_ref()?.due().map(|_| Action::Linger);
        }
        if !self.removed {
            self.removed = true;
            return Some(Action::Remove {
                anyway: self.remove_anyway,
            });
        }
        Some(Action::End)
    }

    fn remove_later(&mut self, now: Instant) -> Option<Action> {
        self.removed = false;
        let give_up = self.others.map_or(now + OTHERS_PATIENCE, |(_, at)| at);
        self.others = Some((now + OTHERS_LOOK, give_up));
        self.go_on(now)
    }

    /// Whether another run is given time still.
    fn removes_later(&mut self, now: Instant) -> bool {
        let Some((look, give_up)) = self.others.filter(|_| !self.removed) else {
            return false;
        };
        self.remove_anyway |= now >= give_up;
        now < look && !self.remove_anyway
    }

    /// Opens before the run has come to its end. COMMAND, if it runs, is still waited for, and after
    /// USR1 its listeners as well; it is not run behind an open gate.
    fn open_early(&mut self, why: NotRun) -> Action {
        if self.command_pending() {
            self.facts.not_run = Some(why);
        }
        if self.command_pending() || self.facts.deadline_hit && self.phase != Phase::Running {
            self.phase = Phase::Over;
        }
        self.open()
    }

    fn command_pending(&self) -> bool {
        matches!(self.phase, Phase::Draining | Phase::Checking { .. })
    }

    // Draining and starting ---------------------------------------------------------------------

    fn drain_end(&self) -> Instant {
        self.closed_at + self.config.drain
    }

    fn end_drain(&mut self, now: Instant) -> Option<Action> {
        self.facts.drained_at = Some(now);
        self.phase = Phase::Checking { rearmed: false };
        Some(Action::Check)
    }

    /// Connections are dear to look at where there are many: while there are handshakes still, it is
    /// not done, but at the very end, to say what is left.
    fn looks_at_connections(&self, now: Instant) -> bool {
        self.phase == Phase::Draining
            && self.config.drain_until >= DrainUntil::Requests
            && (!self.facts.left.has_handshakes() || now >= self.drain_end())
    }

    fn drain_saw(&mut self, sample: &Sample, cost: Duration, now: Instant) -> Option<Action> {
        self.facts.left = left(sample, self.config.drain_until);
        self.facts.stale_half_open = self.facts.stale_half_open.max(sample.half_open.stale);
        let seen = sample.connections.is_some() || self.config.drain_until < DrainUntil::Requests;
        let (quiet_at, cookies_until) = (self.closed_at + QUIET, self.closed_at + COOKIE_GRACE);
        // Looked at too early, as nobody was to be seen before.
        let early = self.deserted && !sample.listeners.is_empty();
        self.deserted &= !early;
        if seen && now >= self.drain_end() {
            return self.end_drain(now);
        } else if self.facts.left.has_handshakes() {
            self.next_look = now + pause(cost, DRAIN_PAUSE);
        } else if early {
            self.next_look = quiet_at;
        } else if sample.cookies_sent && now < cookies_until {
            // Some may still come back as handshakes.
            self.next_look = cookies_until;
        } else if !seen {
            self.next_look = now;
        } else if self.facts.left.is_nothing() {
            return self.end_drain(now);
        } else {
            self.next_look = now + pause(cost, DRAIN_PAUSE);
        }
        self.go_on(now)
    }

    fn checked(&mut self, stands: bool, now: Instant) -> Option<Action> {
        let Phase::Checking { rearmed } = self.phase else {
            return self.go_on(now);
        };
        if now > self.latest_start() {
            self.facts.deadline_hit = now >= self.deadline;
            self.do_without_gate(NotRun::Deadline)
        } else if stands {
            Some(self.start_command())
        } else if !rearmed {
            self.phase = Phase::Checking { rearmed: true };
            Some(Action::Rearm(self.config.ports.clone()))
        } else {
            self.do_without_gate(NotRun::Fallen)
        }
    }

    /// When COMMAND may be run at the latest: when half of the time that was left for it, between
    /// the longest drain and the settle time, is gone.
    fn latest_start(&self) -> Instant {
        let last = self.deadline - self.fixed_settle();
        let spare = last.saturating_duration_since(self.drain_end());
        last - spare / 2
    }

    fn start_command(&mut self) -> Action {
        self.phase = Phase::Checking { rearmed: true };
        Action::Start
    }

    fn do_without_gate(&mut self, why: NotRun) -> Option<Action> {
        if self.config.best_effort {
            self.facts.ran_open = true;
            return Some(self.start_command());
        }
        self.facts.not_run = Some(why);
        self.finish()
    }

    fn started(&mut self, started: bool, now: Instant) -> Option<Action> {
        if !started {
            self.facts.not_run = Some(NotRun::Spawn);
            return self.finish();
        }
        self.facts.started_at = Some(now);
        self.phase = Phase::Running;
        self.next_look = now + LOOK_EVERY;
        self.go_on(now)
    }

    // Running and readying ----------------------------------------------------------------------

    fn exited(&mut self, exit: CommandExit, now: Instant) -> Option<Action> {
        self.facts.exited = Some((now, exit));
        // Without a gate there is nothing that a listener could open.
        if exit != CommandExit::Code(0) || self.facts.deadline_hit || self.facts.ran_open {
            return self.finish();
        }
        self.phase = Phase::Readying { since: now };
        for watch in self.watches.values_mut() {
            watch.changed_at = now;
        }
        self.search.expire();
        if self.config.ready_timeout.is_zero() {
            return self.open_what_is_ready(Duration::ZERO, now);
        }
        Some(self.look(now))
    }

    fn look(&self, now: Instant) -> Action {
        Action::Look(Want {
            half_open: self.phase == Phase::Draining,
            connections: self.looks_at_connections(now),
            holders: matches!(self.phase, Phase::Readying { .. })
                && self.config.settle == Settle::Auto
                && self.watches.values().any(Watch::has_group),
            ..Want::default()
        })
    }

    fn saw(&mut self, sample: &Sample, cost: Duration, now: Instant) -> Option<Action> {
        match self.phase {
            Phase::Draining => self.drain_saw(sample, cost, now),
            Phase::Running => {
                self.next_look = now + pause(cost, WATCH_PAUSE);
                self.note(sample, now);
                self.follow_the_service(now)
            }
            Phase::Readying { .. } => {
                self.note(sample, now);
                self.open_what_is_ready(cost, now)
            }
            Phase::Checking { .. } | Phase::Over => self.go_on(now),
        }
    }

    /// Compares what is seen with what was there before.
    fn note(&mut self, sample: &Sample, now: Instant) {
        let mut seen = by_port(&sample.listeners);
        for port in seen.keys() {
            self.watches.entry(*port).or_insert_with(|| {
                let ports = self
                    .config
                    .listen_ports
                    .served_by(*port, &self.config.ports);
                Watch::new(ports, Vec::new(), &Holders::new(), now)
            });
        }
        let mut changed = false;
        for (port, watch) in &mut self.watches {
            let listeners = seen.remove(port).unwrap_or_default();
            changed |= watch.compare(listeners, &sample.holders, now);
        }
        // Another process may be there now: what the old one has passed says nothing of it.
        if changed {
            self.check.expire();
        }
    }

    /// `--open-on ready`, while COMMAND runs: a port opens when a new process listens, and closes
    /// again when nobody does.
    fn follow_the_service(&mut self, now: Instant) -> Option<Action> {
        let checked = self.checked_at();
        let opens = |w: &Watch| {
            Some(w.up_since?.max(checked?) + self.settle_places(w) + self.fixed_settle())
        };
        let up = self.ports_that(|w| opens(w).is_some_and(|at| now >= at));
        let down = self.ports_that(|w| w.now.is_empty());
        let fallen = self.config.ports.minus(&self.shut).intersection(&down);
        let shut = self.shut.minus(&up).union(&fallen);
        self.shut_only(shut, now).or_else(|| self.go_on(now))
    }

    /// What is to open waits for the held SYNs to go.
    fn shut_only(&mut self, shut: PortSet, now: Instant) -> Option<Action> {
        let mut shut = shut;
        if let Some(release) = &mut self.release {
            release.aim(self.shut.minus(&shut));
            shut = self.shut.union(&shut);
        }
        if shut == self.shut {
            let (_, ports) = self.releases().filter(|(at, _)| *at <= now)?;
            return Some(self.release_now(ports.clone()));
        }
        self.shut = shut.clone();
        Some(Action::ShutOnly(shut))
    }

    /// After COMMAND's exit with 0: each port opens as soon as it is ready and settled.
    fn open_what_is_ready(&mut self, cost: Duration, now: Instant) -> Option<Action> {
        let Phase::Readying { since } = self.phase else {
            return self.go_on(now);
        };
        let give_up = since + self.config.ready_timeout;
        let others_open = self.cleared_at(since).map(|at| self.settled_at(at));
        let others_open = others_open.unwrap_or(give_up);
        let mut next = if self.config.ready_timeout.is_zero() {
            others_open
        } else {
            now + pause(cost, WATCH_PAUSE)
        };
        let mut pending = Vec::new();
        for watch in self.watches.values() {
            let opens = self.opens_at(watch, since).unwrap_or(give_up);
            if opens > now {
                pending.extend(watch.ports.ranges().iter().cloned());
                next = next.min(opens);
            }
        }
        let mut pending = PortSet::from_ranges(pending);
        if others_open > now {
            let watched = self.ports_that(|_| true);
            pending = pending.union(&self.config.ports.minus(&watched));
            next = next.min(others_open);
        }
        if pending.is_empty() {
            self.facts.not_ready = self.deserted_ports();
            self.facts.unchanged = self.unchanged_groups();
            self.facts.unchecked = self.checked_at().is_none();
            self.facts.unseen = self.searching();
            self.facts.never_seen = self.never_seen();
            return self.finish();
        }
        self.next_look = next;
        // What is open already (--open-on ready) stays open.
        let shut = self.shut.intersection(&pending);
        self.shut_only(shut, now)
    }

    /// When the port may open; `None` while its listener is waited for.
    fn opens_at(&self, watch: &Watch, since: Instant) -> Option<Instant> {
        let cleared = self.cleared_at(since)?;
        let at_once = self.settled_at(cleared);
        if self.config.ready_timeout.is_zero() {
            return Some(at_once);
        }
        if self.opened && watch.readiness != Readiness::Waiting {
            return Some(cleared);
        }
        let opens = match (watch.readiness, self.config.settle) {
            (Readiness::Waiting, _) => return None,
            (Readiness::Unwatched, _) => at_once,
            (Readiness::Replaced, _) => {
                self.settled_at(watch.up_since.unwrap_or(since).max(cleared))
            }
            (Readiness::Inherited { .. }, Settle::Fixed(_)) => at_once,
            (Readiness::Inherited { group: false }, Settle::Auto) => watch.changed_at + SETTLE_ONE,
            (Readiness::Inherited { group: true }, Settle::Auto) if watch.ever_changed => {
                watch.changed_at + SETTLE_GROUP
            }
            (Readiness::Inherited { group: true }, Settle::Auto) => since + SETTLE_PATIENCE,
        };
        Some(opens.max(cleared).max(since + self.settle_places(watch)))
    }

    /// When nothing but the listeners kept the ports shut any more; `None` while something does.
    fn cleared_at(&self, since: Instant) -> Option<Instant> {
        if self.searching() {
            return None;
        }
        self.checked_at().map(|at| at.max(since))
    }

    /// Gated ports that were opened without a look at who listens.
    fn never_seen(&self) -> PortSet {
        if self.config.ready_timeout.is_zero() {
            return PortSet::EMPTY;
        }
        self.config.ports.minus(&self.ports_that(|_| true))
    }

    /// What is granted to the addresses that are still missing on a port that has a listener.
    fn settle_places(&self, watch: &Watch) -> Duration {
        if self.config.settle == Settle::Auto && watch.misses_places {
            SETTLE_PLACES
        } else {
            Duration::ZERO
        }
    }

    /// SO_REUSEPORT groups that were watched for [`SETTLE_PATIENCE`] in vain.
    fn unchanged_groups(&self) -> PortSet {
        let group = Readiness::Inherited { group: true };
        let waited = !self.opened && self.config.settle == Settle::Auto;
        self.ports_that(|watch| waited && watch.readiness == group && !watch.ever_changed)
    }

    /// When a port that is ready at `ready` has settled; there is no point in it once all is open.
    fn settled_at(&self, ready: Instant) -> Instant {
        if self.opened {
            ready
        } else {
            ready + self.fixed_settle()
        }
    }

    /// Ports that had a listener and have none.
    fn deserted_ports(&self) -> PortSet {
        if self.config.ready_timeout.is_zero() {
            return PortSet::EMPTY;
        }
        self.ports_that(|watch| !watch.before.is_empty() && watch.now.is_empty())
    }

    fn fixed_settle(&self) -> Duration {
        match self.config.settle {
            Settle::Auto => Duration::ZERO,
            Settle::Fixed(settle) => settle,
        }
    }

    /// The gated ports whose listeners are so.
    fn ports_that(&self, condition: impl Fn(&Watch) -> bool) -> PortSet {
        let those = self.watches.values().filter(|watch| condition(watch));
        PortSet::from_ranges(those.flat_map(|watch| watch.ports.ranges().iter().cloned()))
    }

    // Signals -----------------------------------------------------------------------------------

    /// The first one before COMMAND: COMMAND is not run. While it runs: passed on. Any other: the
    /// run ends here and now, and COMMAND, if it runs, goes on alone.
    fn signalled(&mut self, signal: i32, sender: Sender, now: Instant) -> Option<Action> {
        if self.phase == Phase::Over && self.is_lingering() {
            return self.signalled_while_lingering(signal, sender, now);
        }
        if self.phase == Phase::Running && self.facts.signals.is_empty() {
            self.facts.signals.push((signal, sender));
            return (sender != Sender::Terminal).then_some(Action::Pass(signal));
        }
        if self.opening() || !self.facts.signals.is_empty() {
            self.release = None; // whoever waits is let go at once
        }
        if let Some(linger) = self.linger.as_mut()
            && !self.facts.signals.is_empty()
        {
            linger.stop();
        }
        self.remove_anyway |= self.opened;
        if self.command_pending() {
            self.facts.not_run = Some(NotRun::Signal);
        }
        self.facts.signals.push((signal, sender));
        self.facts.interrupted = Some((signal, sender));
        self.finish()
    }

    /// The gate is open and all is decided: the first signal harms nobody, the second cuts who is left.
    fn signalled_while_lingering(
        &mut self,
        signal: i32,
        sender: Sender,
        now: Instant,
    ) -> Option<Action> {
        let first = self.facts.signals.is_empty();
        self.facts.signals.push((signal, sender));
        if first {
            return self.go_on(now);
        }
        self.facts.linger_cut |= self.facts.interrupted.is_none();
        self.facts.interrupted = self.facts.interrupted.or(Some((signal, sender)));
        self.linger.as_mut()?.stop();
        self.go_on(now)
    }

    fn open_now(&mut self) -> Option<Action> {
        if self.opened {
            return None;
        }
        if self.opening() {
            self.release = None; // whoever waits is let go at once
            return Some(self.open());
        }
        self.facts.opened_early = true;
        Some(self.open_early(NotRun::OpenedEarly))
    }
}

impl Watch {
    fn new(ports: PortSet, before: Vec<Listener>, holders: &Holders, now: Instant) -> Watch {
        Watch {
            ports,
            seen: fingerprint(&before, holders),
            now: before.clone(),
            before,
            changed_at: now,
            ever_changed: false,
            readiness: Readiness::Unwatched,
            misses_places: false,
            up_since: None,
        }
    }

    /// Takes in what listens now, and tells whether that is something else than before.
    fn compare(&mut self, now_listening: Vec<Listener>, holders: &Holders, now: Instant) -> bool {
        let seen = fingerprint(&now_listening, holders);
        // Holders are not always asked for: then only the sockets are compared.
        let same_processes = holders.is_empty() || seen.1 == self.seen.1;
        let changed = seen.0 != self.seen.0 || !same_processes;
        if changed {
            self.changed_at = now;
            self.ever_changed = true;
        }
        if !holders.is_empty() || seen.0 != self.seen.0 {
            self.seen = seen;
        }
        self.now = now_listening;
        self.readiness = readiness(&self.before, &self.now);
        self.misses_places = !uncovered(&self.before, &self.now).is_empty();
        let new_process = match self.readiness {
            Readiness::Replaced => true,
            Readiness::Unwatched => !self.now.is_empty(),
            Readiness::Inherited { .. } | Readiness::Waiting => false,
        };
        if !new_process {
            self.up_since = None;
        } else {
            self.up_since.get_or_insert(now);
        }
        changed
    }

    fn has_group(&self) -> bool {
        has_group(&self.before) || has_group(&self.now)
    }
}

fn fingerprint(listeners: &[Listener], holders: &Holders) -> Fingerprint {
    let mut sockets: Vec<SocketId> = listeners.iter().map(|l| l.id).collect();
    sockets.sort_unstable();
    let holds = |inodes: &[u32]| listeners.iter().any(|l| inodes.contains(&l.inode));
    let processes = holders
        .iter()
        .filter(|(_, holder)| holds(&holder.inodes))
        .map(|(pid, holder)| (*pid, holder.started))
        .collect();
    (sockets, processes)
}

fn by_port(listeners: &[Listener]) -> BTreeMap<u16, Vec<Listener>> {
    let mut ports: BTreeMap<u16, Vec<Listener>> = BTreeMap::new();
    for listener in listeners {
        ports
            .entry(listener.port)
            .or_default()
            .push(listener.clone());
    }
    ports
}

/// Something that is looked at again and again while a port is shut: so often, or less often where
/// a look is dear, since the rest has to get its turn.
#[derive(Debug)]
struct Regular {
    every: Duration,
    next: Instant,
}

impl Regular {
    fn new(every: Duration, now: Instant) -> Regular {
        Regular {
            every,
            next: now + every,
        }
    }

    fn looked(&mut self, cost: Duration, now: Instant) {
        self.next = now + self.every.max(pause(cost, WATCH_PAUSE));
    }
}

/// How long to wait after a look that took `cost`: not long, but so many times as long as that.
fn pause(cost: Duration, times: u32) -> Duration {
    LOOK_EVERY.max(cost * times)
}

#[cfg(test)]
mod tests;

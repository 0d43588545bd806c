//! A model of a machine: its listeners, the rules of the gate, the pending signals, and what happens when. Its time
//! moves only where a run asks for something or waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::dice::Dice;
use super::happening::{Happening, Place};
use super::story::Story;
use crate::kernel::sockets::holders::{Holder, Holders};
use crate::kernel::sockets::{Listener, Sample, SocketId, Want};
use crate::process::signals::Caught;
use crate::run::world::Program;
use crate::words::ended::{CommandExit, Sender};
use crate::words::ports::PortSet;

/// The gate's rules.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub ports: PortSet,
    pub until: Option<Instant>,
    /// Another program has removed them.
    pub fallen: bool,
    pub fell_at: Option<Instant>,
}

/// What becomes of a client that connects to a port now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stopped,
    Accepted,
    Refused,
}

/// Clients connect all the time: each port has their fates one behind the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub port: u16,
    pub fate: Fate,
    pub from: Instant,
    pub to: Instant,
}

#[derive(Debug)]
pub(super) struct Model {
    pub story: Story,
    pub dice: Dice,
    pub base: Instant,
    pub now: Instant,
    timeline: BTreeMap<(Instant, u64), Happening>,
    happenings: u64,
    listeners: Vec<(u64, Listener)>,
    pub sessions: Vec<SocketId>,
    /// The processes of each port, from the oldest to the newest.
    processes: BTreeMap<u16, Vec<i32>>,
    holders: Holders,
    pids: i32,
    /// The run hears of sockets that end.
    pub hears: bool,
    pub ended_sockets: Vec<SocketId>,
    cookies: u64,
    pub rules: Rules,
    /// Since when the process holds each port to be shut, and when it did before.
    held_shut: BTreeMap<u16, Instant>,
    pub held_shut_before: Vec<(u16, Instant, Instant)>,
    pending: BTreeSet<i32>,
    senders: BTreeMap<i32, Sender>,
    running: BTreeSet<&'static str>,
    ended: BTreeMap<&'static str, CommandExit>,
    pub starts: u32,
    /// The run has heard of a signal that stops it, or of USR1.
    pub heard: u32,
    fates: BTreeMap<u16, (Fate, Instant)>,
    pub spans: Vec<Span>,
    pub last_seen: Option<Sample>,
    /// The last look before the run was over.
    pub seen_last: Option<Sample>,
    pub standby_lives: bool,
    pub standby_stops: bool,
    pub standby_told: bool,
    pub held: BTreeMap<u16, usize>,
    pub gone: u64,
    pub elsewhere: usize,
    /// Ports that a look has seen open and without a listener.
    pub seen_deserted: BTreeSet<u16>,
    pub flushes: u32,
    /// When the run has looked at the rules last.
    pub looked_at_rules: Instant,
    /// The rules were removed and put back between a look and a change.
    pub fell_unseen: bool,
    /// Time spent in calls that change the gate.
    pub changing: Duration,
    pub failures: u32,
    /// Calls in the second that began at the time.
    busy: (Instant, u32),
    pub stuck: u32,
    /// What happened, for somebody who looks into one seed.
    pub diary: Option<Vec<String>>,
}

pub(super) fn name(program: Program) -> &'static str {
    match program {
        Program::Command => "command",
        Program::DrainCommand => "drain",
        Program::ReadyCheck => "check",
        Program::Search => "search",
    }
}

const SIGCHLD: i32 = 17;
const SIGUSR1: i32 = 10;

/// More calls than this in one second are a busy loop. A round of releases may take place every 200 µs.
const BUSY: u32 = 12_000;

impl Model {
    pub(super) fn new(mut story: Story, dice: Dice, base: Instant) -> Model {
        let happenings = std::mem::take(&mut story.happenings);
        let before = std::mem::take(&mut story.before);
        let mut model = Model {
            story,
            dice,
            base,
            now: base,
            timeline: BTreeMap::new(),
            happenings: 0,
            listeners: Vec::new(),
            sessions: Vec::new(),
            processes: BTreeMap::new(),
            holders: Holders::new(),
            pids: 100,
            hears: false,
            ended_sockets: Vec::new(),
            cookies: 0,
            rules: Rules::default(),
            held_shut: BTreeMap::new(),
            held_shut_before: Vec::new(),
            pending: BTreeSet::new(),
            senders: BTreeMap::new(),
            running: BTreeSet::new(),
            ended: BTreeMap::new(),
            starts: 0,
            heard: 0,
            fates: BTreeMap::new(),
            spans: Vec::new(),
            last_seen: None,
            seen_last: None,
            standby_lives: true,
            standby_stops: false,
            standby_told: false,
            held: BTreeMap::new(),
            gone: 0,
            elsewhere: 0,
            seen_deserted: BTreeSet::new(),
            flushes: 0,
            looked_at_rules: base,
            fell_unseen: false,
            changing: Duration::ZERO,
            failures: 0,
            busy: (base, 0),
            stuck: 0,
            diary: None,
        };
        for place in before {
            model.listen(place);
        }
        if let Some(port) = model.story.session {
            model.begin_session(port);
        }
        for (after, happening) in happenings {
            model.schedule(after, happening);
        }
        model
    }

    pub(super) fn note(&mut self, what: &dyn std::fmt::Debug) {
        let at = self.now - self.base;
        if let Some(diary) = &mut self.diary {
            diary.push(format!("{at:?} {what:?}"));
        }
    }

    /// `after` now.
    pub(super) fn schedule(&mut self, after: Duration, happening: Happening) {
        self.happenings += 1;
        let at = (self.now + after, self.happenings);
        self.timeline.insert(at, happening);
    }

    fn listen(&mut self, place: Place) {
        self.cookies += 1;
        let mut listener = Listener::made_up(place.address, place.port, false);
        listener.id = SocketId {
            netns: 1,
            cookie: self.cookies,
        };
        listener.inode = self.cookies as u32;
        let pid = self.process(place.port, place.generation);
        self.holds(pid, listener.inode);
        self.listeners.push((place.generation, listener));
    }

    /// The process of a generation holds the sockets of one port.
    fn process(&mut self, port: u16, generation: u64) -> i32 {
        let of_generation = self.listeners.iter().filter(|(age, _)| *age == generation);
        let inodes: Vec<u32> = of_generation.map(|(_, l)| l.inode).collect();
        let processes = self.processes.entry(port).or_default();
        let holds = |pid: &&i32| {
            let held = self.holders.get(pid).map_or(&[][..], |h| &h.inodes);
            held.iter().any(|inode| inodes.contains(inode))
        };
        if let Some(pid) = processes.iter().rev().find(holds) {
            return *pid;
        }
        self.pids += 1;
        processes.push(self.pids);
        self.pids
    }

    fn holds(&mut self, pid: i32, inode: u32) {
        let holder = self.holders.entry(pid).or_insert_with(|| Holder {
            name: "service".to_owned(),
            started: 1,
            inodes: Vec::new(),
            files: Vec::new(),
        });
        holder.inodes.push(inode);
    }

    /// A listener that no restart brings back.
    fn begin_session(&mut self, port: u16) {
        let place = Place {
            port,
            address: "10.0.0.9",
            generation: u64::MAX,
        };
        self.listen(place);
        self.sessions = vec![SocketId {
            netns: 1,
            cookie: self.cookies,
        }];
    }

    /// The service listens on the port.
    pub(super) fn listens(&self, port: u16) -> bool {
        let lasting = |l: &Listener| !self.sessions.contains(&l.id);
        self.listeners
            .iter()
            .any(|(_, l)| l.port == port && lasting(l))
    }

    /// Ends these listeners.
    fn leave(&mut self, goes: impl Fn(u64, &Listener) -> bool) {
        let listeners = std::mem::take(&mut self.listeners);
        let (gone, left) = listeners.into_iter().partition(|(age, l)| goes(*age, l));
        self.listeners = left;
        let gone: Vec<(u64, Listener)> = gone;
        for holder in self.holders.values_mut() {
            holder
                .inodes
                .retain(|inode| !gone.iter().any(|(_, l)| l.inode == *inode));
        }
        self.holders.retain(|_, holder| !holder.inodes.is_empty());
        let holders = &self.holders;
        for pids in self.processes.values_mut() {
            pids.retain(|pid| holders.contains_key(pid));
        }
        if self.hears {
            self.ended_sockets.extend(gone.iter().map(|(_, l)| l.id));
        }
    }

    fn fork(&mut self, port: u16) {
        let newest = self.processes.get(&port).and_then(|pids| pids.last());
        let held = newest.and_then(|pid| self.holders.get(pid));
        let Some(inodes) = held.map(|holder| holder.inodes.clone()) else {
            return;
        };
        self.pids += 1;
        self.processes.entry(port).or_default().push(self.pids);
        inodes
            .iter()
            .for_each(|inode| self.holds(self.pids, *inode));
    }

    fn retire(&mut self, port: u16) {
        let pids = self.processes.entry(port).or_default();
        let Some(oldest) = pids.first().copied() else {
            return;
        };
        let others = || self.holders.iter().filter(|(pid, _)| **pid != oldest);
        let kept = |inode: &u32| others().any(|(_, holder)| holder.inodes.contains(inode));
        let keeps_all = self
            .holders
            .get(&oldest)
            .is_some_and(|h| h.inodes.iter().all(kept));
        if keeps_all {
            pids.remove(0);
            self.holders.remove(&oldest);
        }
    }

    /// The kernel stops SYNs to the port now.
    pub(super) fn stops(&self, port: u16) -> bool {
        let rules = &self.rules;
        let in_time = rules.until.is_some_and(|until| self.now < until);
        in_time && !rules.fallen && rules.ports.contains(port)
    }

    /// When the kernel opens the gate by itself.
    pub(super) fn latest(&self) -> Instant {
        self.base + self.story.max_closed - self.story.opens_sooner
    }

    /// A look sees which ports are open and have no listener.
    pub(super) fn note_deserted(&mut self) {
        let deserted = self.story.had_listeners.iter().copied();
        let deserted = deserted.filter(|port| !self.stops(*port) && !self.listens(*port));
        let deserted: Vec<u16> = deserted.collect();
        self.seen_deserted.extend(deserted);
    }

    /// A call begins that takes some time. What happens meanwhile has happened when it returns.
    pub(super) fn call(&mut self) -> Duration {
        let (second, calls) = &mut self.busy;
        if self.now >= *second + Duration::from_secs(1) {
            (*second, *calls) = (self.now, 0);
        }
        *calls += 1;
        assert!(
            *calls < BUSY,
            "a busy loop: {calls} calls since {:?}",
            *second - self.base
        );
        let cost = if self.dice.below(1_000) < self.story.slow_calls {
            Duration::from_secs(5)
        } else {
            self.dice.micros(20..200)
        };
        self.pass(cost);
        cost
    }

    pub(super) fn fails(&mut self) -> bool {
        let fails = self.dice.below(1_000) < self.story.failing_calls;
        self.failures += u32::from(fails);
        fails
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.advance(self.now + time);
    }

    /// Lets everything happen that happens up to then.
    pub(super) fn advance(&mut self, to: Instant) {
        loop {
            let next = self.timeline.first_key_value().map(|((at, _), _)| *at);
            let expires = self.rules.until.filter(|until| *until > self.now);
            let Some(at) = [next, expires]
                .into_iter()
                .flatten()
                .min()
                .filter(|at| *at <= to)
            else {
                break;
            };
            self.now = at.max(self.now);
            if next == Some(at) {
                let (_, happening) = self.timeline.pop_first().expect("it is next");
                self.happen(happening);
            }
            self.note_fates();
        }
        self.now = to.max(self.now);
    }

    /// When something happens next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.timeline.first_key_value().map(|((at, _), _)| *at)
    }

    fn happen(&mut self, happening: Happening) {
        self.note(&happening);
        match happening {
            Happening::Listens(place) => self.listen(place),
            Happening::Leaves { port, generation } => {
                self.leave(|age, l| l.port == port && age <= generation);
            }
            Happening::LeavesOut(port) => {
                let of_port = self.listeners.iter().filter(|(_, l)| l.port == port);
                let lasting = of_port.filter(|(_, l)| !self.sessions.contains(&l.id));
                let lasting: Vec<SocketId> = lasting.map(|(_, l)| l.id).collect();
                if let [_, .., last] = lasting[..] {
                    self.leave(|_, l| l.id == last);
                }
            }
            Happening::Forks(port) => self.fork(port),
            Happening::Retires(port) => self.retire(port),
            Happening::SessionEnds => {
                let sessions = self.sessions.clone();
                self.leave(|_, l| sessions.contains(&l.id));
            }
            Happening::Ends(program, exit) => {
                if self.running.remove(name(program)) {
                    self.ended.insert(name(program), exit);
                    self.pending.insert(SIGCHLD);
                }
            }
            Happening::Arrives(Caught::Stop(signal, sender)) => {
                self.pending.insert(signal);
                self.senders.insert(signal, sender);
                if sender == Sender::Terminal {
                    self.command_hears(signal);
                }
            }
            Happening::Arrives(_) => _ = self.pending.insert(SIGUSR1),
            Happening::Flush if !self.rules.ports.is_empty() => {
                self.rules.fallen = true;
                self.rules.fell_at = Some(self.now);
                self.flushes += 1;
            }
            Happening::Flush => (),
            Happening::StandbyEnds => {
                self.standby_lives = false;
                self.pending.insert(SIGCHLD);
            }
            Happening::StandbyReturns => self.standby_lives |= !self.standby_stops,
            Happening::Connects(port) if self.stops(port) => {
                *self.held.entry(port).or_default() += 1;
                self.elsewhere += 1;
            }
            Happening::Connects(_) => (),
        }
    }

    /// COMMAND gets a signal.
    pub(super) fn command_hears(&mut self, signal: i32) {
        if self.story.command_obeys {
            let after = self.dice.time(Duration::from_secs(3));
            self.schedule(
                after,
                Happening::Ends(Program::Command, CommandExit::Signal(signal)),
            );
        }
    }

    pub(super) fn note_fates(&mut self) {
        for port in self.story.config.gated.ports.clone().iter() {
            let fate = match (self.stops(port), self.listens(port)) {
                (true, _) => Fate::Stopped,
                (false, true) => Fate::Accepted,
                (false, false) => Fate::Refused,
            };
            let now = self.now;
            let (was, since) = *self.fates.entry(port).or_insert((fate, now));
            if was != fate {
                if now > since {
                    self.spans.push(Span {
                        port,
                        fate: was,
                        from: since,
                        to: now,
                    });
                }
                self.fates.insert(port, (fate, now));
            }
        }
    }

    /// Ends the account of the clients' fates.
    pub(super) fn end_fates(&mut self) {
        let fates = std::mem::take(&mut self.fates);
        let to = self.now;
        let spans = fates.into_iter().map(|(port, (fate, from))| Span {
            port,
            fate,
            from,
            to,
        });
        self.spans.extend(spans);
    }

    /// From now on the process holds exactly these ports to be shut.
    pub(super) fn holds_shut(&mut self, ports: &PortSet) {
        let now = self.now;
        // At its deadline the kernel opens the gate, and the run knows that.
        let ended = self.rules.until.map_or(now, |until| until.min(now));
        let was = std::mem::take(&mut self.held_shut);
        for (port, since) in was {
            if ports.contains(port) {
                self.held_shut.insert(port, since);
            } else {
                self.held_shut_before.push((port, since, ended));
            }
        }
        for port in ports.iter() {
            self.held_shut.entry(port).or_insert(now);
        }
    }

    pub(super) fn sample(&mut self, want: Want) -> Sample {
        let half_open = u32::from(self.dice.chance(self.story.handshakes));
        let mut sample = Sample {
            listeners: self.listeners.iter().map(|(_, l)| l.clone()).collect(),
            ..Sample::default()
        };
        if want.holders && self.story.sees_holders {
            sample.holders = self.holders.clone();
        }
        if want.half_open {
            sample.half_open.young = half_open;
            sample.cookies_sent = self.story.cookies;
        }
        if want.connections {
            let busy = u32::from(self.dice.chance(self.story.handshakes));
            sample.connections = Some(crate::kernel::sockets::Connections {
                established: busy,
                busy,
            });
        }
        sample
    }

    /// The signal with the lowest number, as signalfd(2) gives them.
    pub(super) fn take_signal(&mut self) -> Option<Caught> {
        let signal = self.pending.pop_first()?;
        Some(match signal {
            SIGCHLD => Caught::Child,
            SIGUSR1 => {
                self.heard += 1;
                Caught::OpenNow
            }
            signal => {
                self.heard += 1;
                Caught::Stop(signal, self.senders[&signal])
            }
        })
    }

    pub(super) fn start(&mut self, program: Program) {
        self.running.insert(name(program));
        match program {
            Program::Command => {
                self.starts += 1;
                let course = std::mem::take(&mut self.story.course);
                for (after, happening) in course {
                    self.schedule(after, happening);
                }
            }
            Program::DrainCommand | Program::ReadyCheck | Program::Search => {
                let after = self.dice.time(Duration::from_secs(2));
                let status = u8::from(self.dice.chance(40));
                if !self.dice.chance(self.story.hanging_checks) {
                    let exit = CommandExit::Code(status);
                    self.schedule(after, Happening::Ends(program, exit));
                }
            }
        }
    }

    pub(super) fn is_running(&self, program: Program) -> bool {
        self.running.contains(name(program))
    }

    pub(super) fn end(&mut self, program: Program) -> Option<CommandExit> {
        self.ended.remove(name(program))
    }
}

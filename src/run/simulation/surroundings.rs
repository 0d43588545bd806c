//! The model as a run meets it: the world, the backend of its gate, and an action.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, ensure};
use nix::errno::Errno;

use super::happening::Happening;
use super::model::{Model, Rules};
use super::story::Kind;
use crate::action::contract::{Account, Action, Means, Now, Prepared, Seen};
use crate::action::drop::Dropping;
use crate::action::hold::policy::HoldPolicy;
use crate::action::linger::Linger;
use crate::action::redirect::policy::RedirectPolicy;
use crate::decide::policy::{Answer, NoPolicy, Noted, Policy, Question, Waiting};
use crate::gate::backend::{Backend, Deadline, Remark};
use crate::kernel::sockets::netns::{Netns, NoEntry};
use crate::kernel::sockets::{Connection, Cookies, Looks, Sample, SocketId, SynLimits, Want};
use crate::process::signals::Caught;
use crate::run::world::{Program, World};
use crate::words::ended::{CommandExit, Sender};
use crate::words::ports::PortSet;
use crate::words::steer::Steer;

pub(super) type Shared = Rc<RefCell<Model>>;

pub(super) struct Surroundings {
    pub model: Shared,
    pub sockets: SeenSockets,
}

impl World for Surroundings {
    fn now(&self) -> Instant {
        self.model.borrow().now
    }

    fn sockets(&mut self) -> &mut dyn Looks {
        &mut self.sockets
    }

    fn wait(&mut self, _: &dyn Action, until: Option<Instant>) -> Option<Caught> {
        let mut model = self.model.borrow_mut();
        model.call();
        loop {
            if let Some(caught) = model.take_signal() {
                return Some(caught);
            }
            if !model.ended_sockets.is_empty() {
                return Some(Caught::Readable);
            }
            if until.is_some_and(|until| until <= model.now) {
                return None;
            }
            let next = model.next();
            match [next, until].into_iter().flatten().min() {
                Some(at) if next == Some(at) => model.advance(at),
                Some(at) => {
                    let late = model.story.lateness;
                    let late = if model.dice.chance(2) {
                        late
                    } else {
                        model.dice.micros(0..100)
                    };
                    model.advance(at + late);
                }
                None => stuck(&mut model),
            }
        }
    }

    fn hear_of_ends(&mut self) {
        let mut model = self.model.borrow_mut();
        model.hears = model.story.tells_of_ends;
    }

    fn ended_sockets(&mut self) -> Vec<SocketId> {
        std::mem::take(&mut self.model.borrow_mut().ended_sockets)
    }

    fn caught(&mut self) -> Option<Caught> {
        let mut model = self.model.borrow_mut();
        model.call();
        model.take_signal()
    }

    fn start(&mut self, program: Program) -> Result<(), Errno> {
        let mut model = self.model.borrow_mut();
        model.call();
        if program == Program::Command {
            assert_eq!(model.heard, 0, "COMMAND starts after a signal");
            assert_eq!(model.starts, 0, "COMMAND starts twice");
            if !model.story.command_starts {
                return Err(Errno::ENOENT);
            }
        }
        model.note(&program);
        model.start(program);
        Ok(())
    }

    fn ended(&mut self, program: Program) -> Option<CommandExit> {
        self.model.borrow_mut().end(program)
    }

    fn answer(&mut self) -> String {
        "/proc/1/ns/net".to_owned()
    }

    fn pid_of_command(&self) -> Option<i32> {
        (self.model.borrow().starts > 0).then_some(4711)
    }

    fn signal_command(&mut self, signal: i32) {
        self.model.borrow_mut().command_hears(signal);
    }

    fn who_sent(&self, _: i32, sender: Sender) -> Sender {
        sender
    }

    fn others_hold(&self, _: Option<u16>) -> bool {
        let mut model = self.model.borrow_mut();
        let others = model.story.others_hold;
        model.dice.chance(others)
    }
}

/// The run waits, and nothing will happen any more. It may wait for COMMAND, with an open gate. Signals
/// end that.
fn stuck(model: &mut Model) {
    let gated = model.story.config.gated.ports.clone();
    let shut: Vec<u16> = gated.iter().filter(|port| model.stops(*port)).collect();
    assert!(shut.is_empty(), "it waits for ever with {shut:?} shut");
    assert!(
        model.is_running(Program::Command),
        "it waits for ever, for nothing"
    );
    model.stuck += 1;
    assert!(model.stuck <= 5, "signals do not end it");
    let terminate = Caught::Stop(15, Sender::Process);
    model.schedule(
        std::time::Duration::from_secs(1),
        Happening::Arrives(terminate),
    );
}

pub(super) struct SeenSockets {
    pub model: Shared,
    pub netns: Option<Netns>,
}

impl Looks for SeenSockets {
    fn look(&mut self, want: Want) -> Result<Sample> {
        let mut model = self.model.borrow_mut();
        model.call();
        let blind = model.story.blind_looks;
        ensure!(
            model.dice.below(1_000) >= blind,
            "the kernel lists no sockets"
        );
        let sample = model.sample(want);
        let ports: Vec<u16> = sample.listeners.iter().map(|l| l.port).collect();
        model.note_deserted();
        model.note(&format_args!("seen: {ports:?}"));
        model.last_seen = Some(sample.clone());
        Ok(sample)
    }

    fn syn_limits(&self) -> SynLimits {
        SynLimits {
            cookies: Cookies::WhenFull,
            max_syn_backlog: 1_024,
        }
    }

    fn hide_rooms(&mut self, _: &[u64]) {}

    fn half_open(&mut self) -> Result<Vec<Connection>> {
        Ok(Vec::new())
    }

    fn closed_by_service(&mut self, _: &[SocketId]) -> Result<usize> {
        Ok(0)
    }

    fn look_in(&mut self, netns: &Netns) -> Result<(), NoEntry> {
        self.netns = Some(netns.clone());
        Ok(())
    }

    fn netns(&self) -> Option<&Netns> {
        self.netns.as_ref()
    }
}

pub(super) struct ModelBackend(pub Shared);

impl ModelBackend {
    /// A change that takes effect somewhere in the time that the call takes.
    fn change(&self, change: impl FnOnce(&mut Model)) -> Result<()> {
        let mut model = self.0.borrow_mut();
        let began = model.now;
        model.call();
        let fails = model.fails();
        if !fails {
            model.note_fates();
            change(&mut model);
            model.note_fates();
        }
        let rest = model.dice.micros(1..100);
        model.pass(rest);
        let took = model.now - began;
        model.changing += took;
        ensure!(!fails, "the kernel refuses");
        Ok(())
    }

    fn put(&self, ports: &PortSet, until: Deadline) -> Result<()> {
        self.change(|model| {
            let latest = model.latest();
            assert!(
                until <= latest,
                "closed for longer than the kernel keeps it"
            );
            model.fell_unseen |= model.rules.fell_at > Some(model.looked_at_rules);
            model.holds_shut(ports);
            model.rules = Rules {
                ports: ports.clone(),
                until: Some(until),
                ..Rules::default()
            };
            model.note(&format_args!("only {ports:?} is shut"));
        })
    }
}

impl Backend for ModelBackend {
    fn name(&self) -> &'static str {
        "model"
    }

    fn install(&mut self, ports: &PortSet, until: Deadline) -> Result<()> {
        let mut model = self.0.borrow_mut();
        let until = until.min(model.latest());
        model.rules = Rules {
            ports: ports.clone(),
            until: Some(until),
            ..Rules::default()
        };
        model.holds_shut(ports);
        model.note_fates();
        Ok(())
    }

    fn set_ports(&mut self, ports: &PortSet, until: Deadline) -> Result<()> {
        self.put(ports, until)
    }

    fn opens(&self) -> Option<Deadline> {
        Some(self.0.borrow().latest())
    }

    fn shut(&mut self) -> Result<PortSet> {
        let mut model = self.0.borrow_mut();
        if model.now == model.base {
            return Ok(model.rules.ports.clone()); // The gate was just closed.
        }
        model.call();
        ensure!(!model.fails(), "the kernel does not list the rules");
        let ports = model.rules.ports.iter().filter(|port| model.stops(*port));
        Ok(ports.collect())
    }

    fn syns_stopped(&mut self) -> Result<u64> {
        Ok(0)
    }

    fn exposed(&self) -> bool {
        self.0.borrow().story.exposed
    }

    fn intact(&mut self) -> bool {
        let mut model = self.0.borrow_mut();
        model.call();
        model.looked_at_rules = model.now;
        let fallen = model.rules.fallen;
        model.note(&format_args!("the rules are looked at: fallen: {fallen}"));
        !model.rules.fallen
    }

    fn empties_queues(&self) -> bool {
        true
    }

    fn remarks(&self) -> &[Remark] {
        &[]
    }

    fn remove(&mut self) -> Result<()> {
        self.change(|model| {
            model.holds_shut(&PortSet::EMPTY);
            model.rules = Rules::default();
        })
    }
}

impl Drop for ModelBackend {
    /// The kernel removes the rules, or the watchdog does.
    fn drop(&mut self) {
        if let Ok(mut model) = self.0.try_borrow_mut() {
            model.rules = Rules::default();
            model.note_fates();
        }
    }
}

pub(super) struct ModelAction(pub Shared);

impl ModelAction {
    /// As many held SYNs go as the listeners have room for.
    fn let_go(model: &mut Model, ports: &PortSet, finally: bool) -> Waiting {
        for port in ports.iter() {
            let room = match (model.listens(port), finally) {
                (true, _) => model.dice.below(20) as usize,
                (false, true) => usize::MAX,
                (false, false) => 0,
            };
            let held = model.held.entry(port).or_default();
            let gone = room.min(*held);
            *held -= gone;
            model.gone += gone as u64;
        }
        let held = |port: &u16| model.held.get(port).copied().unwrap_or_default();
        Waiting {
            ports: ports.iter().filter(|port| held(port) > 0).collect(),
            count: ports.iter().map(|port| held(&port)).sum(),
            gone: model.gone,
        }
    }
}

impl Action for ModelAction {
    fn means(&mut self) -> Means {
        Means::Rules(Steer::Drop)
    }

    fn policy(&self, closed_at: Instant) -> Box<dyn Policy> {
        let model = self.0.borrow();
        let (patience, stops) = (model.story.patience, model.story.stops_standby);
        match model.story.kind {
            Kind::Drop => Box::new(NoPolicy),
            Kind::Hold => Box::new(HoldPolicy::new(patience, closed_at)),
            Kind::Redirect => Box::new(RedirectPolicy::new(patience, stops, closed_at)),
            Kind::Divert => Box::new(Linger::new("peer", patience, false, closed_at)),
        }
    }

    fn ask(&mut self, question: Question, _: &mut Now) -> Answer {
        let mut model = self.0.borrow_mut();
        model.call();
        match question {
            Question::Taken => Answer::Taken(model.standby_lives),
            Question::LetGo { ports, finally } => {
                Answer::Waiting(ModelAction::let_go(&mut model, &ports, finally))
            }
            Question::Left => {
                let finish = model.dice.below(3) as usize;
                model.elsewhere = model.elsewhere.saturating_sub(finish);
                let unseen = model.dice.chance(5);
                Answer::Left((!unseen).then_some(model.elsewhere))
            }
            Question::Stop => {
                let after = model.dice.time(std::time::Duration::from_secs(12));
                model.schedule(after, Happening::StandbyEnds);
                model.standby_stops = true;
                Answer::Stopping
            }
        }
    }

    fn opened(&mut self, open: &PortSet) {
        let mut model = self.0.borrow_mut();
        for port in open.iter() {
            model.held.remove(&port);
        }
    }

    /// The run's own standby has ended.
    fn news(&mut self, _: &mut Now) -> Option<Answer> {
        let mut model = self.0.borrow_mut();
        let ended = model.standby_stops && !model.standby_lives;
        (ended && !std::mem::replace(&mut model.standby_told, true)).then_some(Answer::Stopped)
    }

    fn account(&mut self, _: &Noted, _: Option<u64>, _: &mut Now) -> Account {
        Account {
            rows: Vec::new(),
            verb: "closed",
            words: None,
            failures: Vec::new(),
        }
    }
}

pub(super) struct Nothing;

impl Prepared for Nothing {
    fn begin(&self, _: &Seen) -> Result<Box<dyn Action>> {
        Ok(Box::new(Dropping))
    }
}

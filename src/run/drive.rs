//! Drives a run whose gate is closed: carries out the tasks that `decide` returns, and waits
//! between them.

use std::time::Duration;

use crate::action::contract::{Action, Now, Prepared};
use crate::decide::drain::Left;
use crate::decide::event::{Event, Task};
use crate::decide::policy::Question;
use crate::decide::state::State;
use crate::decide::wishes::SECOND_AFTER;
use crate::gate::door::Door;
use crate::gate::gate::Gate;
use crate::kernel::sockets::Want;
use crate::process::signals::Caught;
use crate::run::close::Closing;
use crate::run::onlooker::Onlooker;
use crate::run::plan::Plan;
use crate::run::record::Record;
use crate::run::report::time::Closed;
use crate::run::scene::View;
use crate::run::world::{Program, World};
use crate::tell::say::Say;
use crate::words::ended::{exit_words, signal_name};
use crate::words::ending::Ending;
use crate::words::fault;
use crate::words::steer::Steer;

pub(super) struct Run<'a> {
    pub plan: &'a Plan,
    pub say: &'a Say,
    pub record: &'a mut Record,
    /// Declared before the gate, so that it is dropped first: held SYNs are released before their
    /// queue goes.
    pub action: Box<dyn Action>,
    pub gate: Option<Gate>,
    /// What refuses health checks, until the gate is open.
    pub leave: Option<Gate>,
    /// Where the gate's rules steer SYNs, if it has any.
    pub steer: Option<Steer>,
    /// By which `--drain-cmd`, `--ready-check` or `--ready-url` passes the gate's rules.
    pub door: Option<Door>,
    /// Declared after the gate, so that it is dropped later: the gate's rules steer connections to
    /// it.
    pub prepared: Box<dyn Prepared>,
    pub world: Box<dyn World + 'a>,
    /// Why the last answer of `--listen-netns-from` named no network namespace.
    pub search_trouble: Option<String>,
    pub command_has_ended: bool,
    /// After all, the listeners were seen.
    pub looked_after: bool,
    pub closed: Closed,
    pub trouble: Trouble,
    pub onlooker: Onlooker,
    pub told: Told,
}

/// Failures that the verdict needs.
#[derive(Default)]
pub(super) struct Trouble {
    pub spawn: Option<Ending>,
    /// Why the gate did not open properly.
    pub open: Option<String>,
    /// Why the last change of the ports has failed.
    pub change: Option<String>,
    /// Others had removed the rules, and no regular check of them found that out.
    pub fell: bool,
}

/// What was already said, so that it is said once.
#[derive(Default)]
pub(super) struct Told {
    deadline: bool,
    linger: bool,
    signal: bool,
    /// The kind of wait that `-v` has printed last.
    waiting: String,
    /// What `-v` has said last of a ready check.
    pub check: String,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        (plan, say): (&'a Plan, &'a Say),
        record: &'a mut Record,
        world: Box<dyn World + 'a>,
        closed: Closing,
        prepared: Box<dyn Prepared>,
    ) -> Run<'a> {
        let Closing {
            action,
            gate,
            closed_at,
            steer,
            door,
        } = closed;
        let stands = gate.as_ref().map(|gate| (gate.deadline(), gate.shut()));
        let closed = Closed::new(closed_at, stands);
        let gated_by = steer.filter(|_| gate.is_some());
        let mut run = Run {
            plan,
            say,
            record,
            action,
            gate,
            leave: None,
            steer,
            door,
            prepared,
            world,
            search_trouble: None,
            command_has_ended: false,
            looked_after: false,
            closed,
            trouble: Trouble::default(),
            onlooker: Onlooker::new(closed_at, gated_by),
            told: Told::default(),
        };
        if plan.place.passes_proxied {
            run.onlooker.ignore_connections();
        }
        let (action, mut now) = run.action();
        action.closed(&mut now);
        run
    }

    pub(super) fn action(&mut self) -> (&mut dyn Action, Now<'_>) {
        let now = Now {
            say: self.say,
            before: &self.record.before,
            sockets: self.world.sockets(),
            gate: self.gate.as_mut(),
            warnings: &mut self.record.warnings,
        };
        (&mut *self.action, now)
    }

    pub(super) fn warn(&mut self, text: String) {
        self.record.warnings.warn(self.say, text);
    }

    /// Carries out tasks until the run is over.
    pub(super) fn drive(&mut self, state: &mut State) {
        let say = self.say;
        let mut event = Event::Closed;
        loop {
            if let Event::Exited(exit) = &event {
                self.command_has_ended = true;
                say.phase(&format!("COMMAND ended: {}", exit_words(*exit)));
                self.forget_handshakes();
            }
            let signal = event.signal();
            let task = state.step(event, self.world.now());
            if let Some(signal) = signal {
                self.answer(signal, state);
            }
            event = match task {
                Some(Task::End) => break,
                Some(task) => {
                    if task == Task::Check {
                        say.phase(&match self.action.drains() {
                            true => drain_words(&state.facts.left),
                            false => NOTHING_TO_DRAIN.to_owned(),
                        });
                    }
                    match self.ended_before(&task, state) {
                        Some(ended) => ended,
                        None => self.perform(task),
                    }
                }
                None => self.wait(state),
            };
            if let Some(gate) = &self.gate {
                // After a new closing the gate may open earlier.
                self.closed.opens_by(gate.deadline());
                state.opens_by(gate.deadline());
            }
            self.warn_of_deadline(state);
        }
        say.done_waiting();
    }

    /// Held SYNs are not let go to a listener that has just gone.
    fn ended_before(&mut self, task: &Task, state: &State) -> Option<Event> {
        let lets_go = matches!(task, Task::Ask(Question::LetGo { .. }));
        if !lets_go || !state.minds_ends() {
            return None;
        }
        let ended = self.world.ended_sockets();
        state.minds(&ended).then_some(Event::Ended(ended))
    }

    fn perform(&mut self, task: Task) -> Event {
        fault::before(&task);
        let began = self.world.now();
        match task {
            Task::Look(want) => self.look(want),
            Task::Check => {
                self.cut_drain_command();
                Event::Stands(self.check())
            }
            Task::Rearm(ports) => Event::Stands(self.close_again(ports)),
            Task::Guard => {
                let intact = self.gate_is_intact();
                Event::Intact(intact, self.world.now() - began)
            }
            Task::Start => self.start(),
            Task::ShutOnly(ports) => {
                self.look_round();
                self.note_if_fallen();
                self.shut_only(ports);
                self.let_go();
                let shut = self.gate.as_ref().map(|gate| gate.shut().clone());
                Event::Shut(shut.unwrap_or_default())
            }
            Task::Open => {
                self.look_round();
                self.note_if_fallen();
                self.open();
                self.let_go();
                self.answer_checks();
                self.look_back();
                Event::Done
            }
            Task::Ask(question) => {
                if matches!(question, Question::LetGo { .. }) {
                    self.look_round();
                    self.onlooker.ignore_connections();
                }
                let (action, mut now) = self.action();
                let answer = action.ask(question, &mut now);
                Event::Answered(answer, self.world.now() - began)
            }
            Task::Remove { anyway } => {
                self.let_go();
                if !anyway && self.others_hold() {
                    return Event::OthersHold;
                }
                self.remove();
                Event::Done
            }
            Task::DrainCommand => self.start_drain_command(),
            Task::ReadyCheck => self.start_check(),
            Task::Search => self.start_search(),
            Task::Pass(signal) => {
                self.pass(signal);
                Event::Done
            }
            Task::End => Event::Done,
        }
    }

    fn look(&mut self, want: Want) -> Event {
        let began = self.world.now();
        match self.world.sockets().look(want) {
            Ok(mut sample) => {
                if want.connections {
                    self.record.idle = Some(std::mem::take(&mut sample.idle));
                }
                Event::Saw(sample, self.world.now() - began)
            }
            Err(error) => {
                self.warn(format!("{error:#}"));
                Event::Blind
            }
        }
    }

    fn pass(&mut self, signal: i32) {
        let say = self.say;
        say.phase(&format!("passing {} on", signal_name(signal)));
        self.world.signal_command(signal);
    }

    /// What has become of a signal while COMMAND runs, and what the next one does.
    fn answer(&mut self, signal: i32, state: &State) {
        let facts = &state.facts;
        let runs = facts.started_at.is_some() && facts.exited.is_none();
        if runs && facts.interrupted.is_none() && !std::mem::replace(&mut self.told.signal, true) {
            let pid = self.world.pid_of_command().unwrap_or(0);
            let gate = self.gate.as_ref().filter(|_| !facts.deadline_hit);
            let is_closed = gate.is_some_and(|gate| !gate.shut().is_empty());
            self.say.result(&signal_words(signal, pid, is_closed));
        }
    }

    /// Waits for a signal, for COMMAND's exit or for the time that `decide` asked for.
    fn wait(&mut self, state: &State) -> Event {
        loop {
            if let Some(event) = self.beside_ended().or_else(|| self.news()) {
                return event;
            }
            if let Some(why) = self.world.must_give_up() {
                // At once: COMMAND may run for weeks.
                self.warn(why.warning());
                return Event::GiveUp(why);
            }
            self.keep_watched();
            self.tell_what_is_waited_for(state);
            let wake = state.wake();
            let look_on = self.onlooker.due(wake, self.world.now());
            let dues = [wake, self.say.due(), look_on, self.refusals_due()];
            let until = dues.into_iter().flatten().min();
            if state.minds_ends() {
                self.world.hear_of_ends();
            }
            match self.world.wait(&*self.action, until) {
                Some(Caught::Readable) => {
                    self.action.read();
                    let ended = self.world.ended_sockets();
                    if !ended.is_empty() {
                        return Event::Ended(ended);
                    }
                }
                Some(Caught::Stop(signal, sender)) => {
                    let sender = self.world.who_sent(signal, sender);
                    return Event::Signal(signal, sender);
                }
                Some(Caught::OpenNow) => return Event::OpenNow,
                Some(Caught::Child) => {
                    if let Some(exit) = self.world.ended(Program::Command) {
                        return Event::Exited(exit);
                    }
                }
                None if wake.is_some_and(|at| at <= self.world.now()) => return Event::Time,
                None if look_on.is_some_and(|at| at <= self.world.now()) => {
                    let held_up = self.onlooker.held_up.command;
                    self.look_on();
                    if self.onlooker.held_up.command && !held_up {
                        return Event::HeldUp;
                    }
                }
                None => (),
            }
        }
    }

    /// Sees what no decision depends on, and warns of it at once.
    pub(super) fn look_on(&mut self) {
        self.look_on_by(|world, onlooker, view| world.look_on(onlooker, view));
    }

    /// Whether clients have come by a way round the gate: a run may be over before it has looked on.
    fn look_round(&mut self) {
        self.look_on_by(|world, onlooker, view| {
            let found = world.look_round(onlooker, view);
            found.into_iter().collect()
        });
    }

    fn look_on_by(
        &mut self,
        look: impl FnOnce(&mut dyn World, &mut Onlooker, &View) -> Vec<String>,
    ) {
        let now = self.world.now();
        let Some(gate) = self.gate.as_mut().filter(|gate| now < gate.deadline()) else {
            return self.onlooker.stop();
        };
        // Who comes in while others have removed the rules does not come by a way round.
        if gate.exposed() && !gate.intact() {
            return self.onlooker.begin_anew(now);
        }
        let view = View {
            gated: self.plan.gated(),
            shut: gate.shut(),
            before: &self.record.before,
            command_runs: !self.command_has_ended,
            watches: !self.plan.config.ready_timeout.is_zero(),
            check_passes: self.door.is_some(),
        };
        for text in look(&mut *self.world, &mut self.onlooker, &view) {
            self.warn(text);
        }
    }

    /// An answer that the action gives without a question.
    fn news(&mut self) -> Option<Event> {
        let (action, mut now) = self.action();
        let answer = action.news(&mut now)?;
        Some(Event::Answered(answer, Duration::ZERO))
    }

    fn tell_what_is_waited_for(&mut self, state: &State) {
        let say = self.say;
        // Once: the user who sent the signal reads why the run goes on.
        if let Some(why) = state.in_spite_of_a_signal() {
            if !std::mem::replace(&mut self.told.linger, true) {
                say.result(&why);
            }
        }
        let Some(what) = state.waiting_for() else {
            say.done_waiting();
            return;
        };
        say.waiting(&what);
        // `-v` prints each kind of wait once, without the figures that change.
        let kind = what.split(':').next().unwrap_or(&what);
        if kind != self.told.waiting {
            say.phase(&what);
            kind.clone_into(&mut self.told.waiting);
        }
    }

    /// Warns at once, because COMMAND may run for weeks.
    fn warn_of_deadline(&mut self, state: &State) {
        let facts = &state.facts;
        let runs = facts.started_at.is_some() && facts.exited.is_none();
        if !facts.deadline_hit || !runs || std::mem::replace(&mut self.told.deadline, true) {
            return;
        }
        let limit = humantime::format_duration(self.plan.max_closed);
        let pid = self.world.pid_of_command().unwrap_or(0);
        let advice = self.onlooker.held_up.advice(self.action.bridges_gaps());
        self.warn(format!(
            "--max-closed {limit} is over: the kernel has opened the gate, and COMMAND (pid {pid}) still runs; \
             {advice}"
        ));
    }
}

/// COMMAND has got the signal too: from the terminal, or from syngate.
fn signal_words(signal: i32, pid: i32, gate_is_closed: bool) -> String {
    let (signal, again) = (
        signal_name(signal),
        humantime::format_duration(SECOND_AFTER),
    );
    let (stays, opens) = match gate_is_closed {
        true => (
            ", and the gate stays closed until it ends",
            "opens the gate and ",
        ),
        false => (", and syngate waits until it ends", "ends syngate and "),
    };
    format!(
        "{signal}: COMMAND (pid {pid}) got it too{stays}; one more signal (Ctrl-C), at least {again} later, \
         {opens}leaves COMMAND running"
    )
}

/// What `-v` says of `--drain` where the action stops nobody.
const NOTHING_TO_DRAIN: &str = "nothing to drain: new connections go on to the service";

fn drain_words(left: &Left) -> String {
    match left.is_nothing() {
        true => "drained".to_owned(),
        false => format!("the drain is over, with connections left: {left}"),
    }
}

//! The story of a run, from the top to the bottom. What to do next, once the gate is closed, is
//! decided in `step.rs`; here it is done.

mod elsewhere;
pub mod plan;
pub mod prepare;
pub mod report;

use std::ffi::CString;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;

use crate::action::hold::Hold;
use crate::action::hold::pace::{self, Pace, Translation};
use crate::action::redirect::Redirect;
use crate::action::redirect::standby::Standby;
use crate::action::{SynAction, Work};
use crate::cli::{Args, mistaken_variables};
use crate::decide::service::uncovered;
use crate::decide::{Action, Cut, Event, STALL, Settle, State, Waiting};
use crate::gate::choice::{Choice, Kind};
use crate::gate::{self, Gate};
use crate::kernel::nfqueue;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::{Sample, SynLimits, Want};
use crate::process::beside::Beside;
use crate::process::child::Child;
use crate::process::environment::environment;
use crate::process::own_unit;
use crate::process::signals::{Caught, Signals};
use crate::run::plan::{Listeners, Plan, Refused};
use crate::run::prepare::{Before, answered, unseen};
use crate::run::report::{
    Closed, DivertRow, Evidence, HoldRow, RedirectRow, Report, StandbyRow, conclude,
};
use crate::tell::say::{Level, Say};
use crate::words::ended::CommandExit;
use crate::words::ended::{exit_words, signal_name};
use crate::words::ending::{Ending, Outcome};
use crate::words::exit::{Exit, NOT_EXECUTABLE, NOT_FOUND, NOT_RUN};
use crate::words::ports::PortSet;
use crate::words::run_id::new_id;
use crate::words::steer::Steer;

/// Carries out one call. `started` is when syngate was.
pub fn run(args: &Args, started: Instant) -> Exit {
    let say = Say::new(level(args), started);
    let path = std::env::var_os("PATH");
    let planned = Plan::new(args, path.as_deref());
    let mistaken = mistaken_variables();
    mistaken.iter().for_each(|what| say.warning(what));
    if args.dry_run {
        return dry_run(planned, &say);
    }
    let ports = args
        .ports
        .iter()
        .fold(PortSet::EMPTY, |all, p| all.union(p));
    let mut report = Report::new(new_id(), &args.command, &ports);
    report.warnings = mistaken;
    let ending = match planned {
        Ok(plan) => surviving_bugs(&plan, &say, &mut report, started),
        Err(refused) => refusal(refused),
    };
    tell(&ending, args, &say, &mut report);
    ending.exit
}

/// A bug must not look like COMMAND's exit status: a panic ends as an ending of ours, after it has
/// dropped the guard, and so opened the gate, on its way here.
fn surviving_bugs(plan: &Plan, say: &Say, report: &mut Report, started: Instant) -> Ending {
    let carried_out = catch_unwind(AssertUnwindSafe(|| carry_out(plan, say, report, started)));
    match carried_out {
        Ok(Ok(ending) | Err(ending)) => ending,
        Err(_) => Ending::bug(report.command_was_run),
    }
}

/// Everything from the lock to the verdict. An early end is an error here: the gate was not closed.
fn carry_out(
    plan: &Plan,
    say: &Say,
    report: &mut Report,
    started: Instant,
) -> Result<Ending, Ending> {
    report.plan(plan);
    if let Some(why) = own_unit::refusal_here(&plan.command) {
        return Err(Ending::not_run("own_unit", why));
    }
    if !plan.config.best_effort && !crate::kernel::caps::net_admin() {
        return Err(Ending::not_run("privilege", crate::kernel::caps::NEEDED));
    }
    let trouble = |error: std::io::Error| Ending::not_run("signals", format!("signalfd: {error}"));
    let signals = Signals::block().map_err(trouble)?;
    let mut sockets =
        Sockets::new(&plan.listener_ports(), &plan.listener_scope()).map_err(unseen)?;
    let mut looking_since = Instant::now();
    let environment = environment(&report.run);

    let on_the_way = Before {
        plan,
        say,
        signals: &signals,
    };
    on_the_way.look_in_netns(&mut sockets)?;
    let lock = on_the_way.lock(report)?;
    on_the_way.sweep(&lock, report);
    on_the_way.precheck(&environment, report)?;
    if on_the_way.ask_for_netns(&environment, &mut sockets)? {
        looking_since = Instant::now();
    }
    on_the_way.ask_peer(&mut sockets, report)?;
    let standby = on_the_way.stand_by(&environment, &mut sockets, report)?;
    let mut warnings = Vec::new();
    let closed = (|| {
        if !plan.config.drain.is_zero() {
            on_the_way.watch_for_cookies(&sockets, looking_since)?;
        }
        let before = on_the_way.look(&mut sockets, report)?;
        on_the_way.warn_of_interfaces(report);
        on_the_way.go_ahead()?;
        let (mut gate, work) = close(plan, say, report, &mut warnings)?;
        if let (Some(gate), Work::Divert(_)) = (&mut gate, &work) {
            let spared = sockets.half_open().and_then(|all| gate.spare(&all));
            if let Err(error) = spared {
                let text = format!("half-open connections may be cut: {error:#}");
                say.warning(&text);
                warnings.push(text);
            }
        }
        Ok((before, gate, work))
    })();
    let (before, gate, work) = match closed {
        Ok(closed) => closed,
        Err(ending) => {
            on_the_way.dismiss(standby);
            return Err(ending);
        }
    };
    let closed_at = gate.as_ref().map_or_else(Instant::now, Gate::closed_at);
    let deadline = gate.as_ref().map(Gate::deadline);
    report.closed_after_ms = deadline.map(|_| (closed_at - started).into());
    let mut run = Run {
        plan,
        say,
        signals: &signals,
        syn_limits: sockets.syn_limits(),
        translation: Translation {
            seen: before.listeners.iter().map(|l| l.port).collect(),
            ..plan.translation()
        },
        to_nobody: 0,
        sockets,
        environment,
        work,
        standby,
        stopping: None,
        standby_row: None,
        closed: Closed::new(closed_at, deadline),
        gate,
        child: None,
        check: None,
        search: None,
        search_trouble: None,
        spawn_error: None,
        open_error: None,
        warnings,
        told_of_deadline: false,
        told_of_linger: false,
        looked_for_answers: false,
        told_waiting: String::new(),
    };
    let mut state = State::new(plan.config.clone(), &before, closed_at, deadline);
    if run.gate.as_ref().is_some_and(Gate::exposed) {
        state.guard();
    }
    if run.work.hold().is_some() {
        state.holds(plan.release_timeout);
    }
    if run.work.redirect().is_some() {
        let then_stop = run.standby.is_some() && !plan.standby.keep;
        state.lingers_on_standby(plan.syn.linger(), then_stop);
    }
    if run.work.divert().is_some() {
        state.lingers("peer", plan.syn.linger());
    }
    run.drive(&mut state, report);
    run.leave_standby();
    Ok(run.conclude(&state, &before, report))
}

/// Closes the gate. `None`: it can't be closed, and `--best-effort` was given.
fn close(
    plan: &Plan,
    say: &Say,
    report: &mut Report,
    warnings: &mut Vec<String>,
) -> Result<(Option<Gate>, Work), Ending> {
    let closed = close_with(&plan.syn, plan, say, report).or_else(|error| {
        if !plan.syn.or_drop() {
            return Err(error);
        }
        let text =
            format!("--syn auto: SYNs are dropped, since they can't be held here: {error:#}");
        say.warning(&text);
        warnings.push(text);
        close_with(&SynAction::Drop, plan, say, report)
    });
    match closed {
        Ok((gate, work)) => {
            note_remarks(&gate, say, warnings);
            Ok((Some(gate), work))
        }
        Err(error) if plan.config.best_effort => {
            let text = format!("the gate can't be closed, COMMAND runs without: {error:#}");
            say.error(&format!("warning: {text}"));
            report.warnings.push(text);
            Ok((None, Work::None))
        }
        Err(error) => Err(Ending::not_run(
            "close_failed",
            format!("the gate can't be closed: {error:#}"),
        )),
    }
}

/// Whoever is to wait has a place to wait in before the first SYN is stopped.
fn close_with(
    action: &SynAction,
    plan: &Plan,
    say: &Say,
    report: &mut Report,
) -> Result<(Gate, Work)> {
    let mut work = action.begin(&plan.config.ports, &plan.listener_scope())?;
    forget_ended(&mut work, say);
    let rules = plan.rules(work.steer());
    let settings = plan.settings(&report.run, work.steer());
    let until = Instant::now() + plan.max_closed;
    let (gate, lacking) = gate::close(plan.backend, &settings, &rules, until)?;
    say.must_not_block();
    report.backend = Some(gate.backend());
    report.action = work.steer().action();
    if plan.backend == Choice::Auto {
        say.phase(&why_taken(gate.backend(), &lacking));
    }
    let steered = match work.steer() {
        Steer::Drop => String::new(),
        Steer::Queue(number) => format!(", SYNs wait in queue {number}"),
        Steer::Redirect(port) => format!(", new connections go to port {port}"),
        Steer::Divert(_) => format!(", new connections go to the peer: {}", work.steer()),
    };
    say.phase(&format!(
        "closed {} ({}{steered})",
        rules.ports.brief(),
        gate.backend()
    ));
    Ok((gate, work))
}

/// What can't be told, or forgotten, is as rare as a kernel without nf_conntrack_netlink.
fn forget_ended(work: &mut Work, say: &Say) {
    match work.redirect().map(Redirect::forget_ended) {
        None | Some(Ok(0)) => (),
        Some(Ok(count)) => say.phase(&format!(
            "forgot {count} connections that were over, and still tracked"
        )),
        Some(Err(error)) => say.phase(&format!(
            "connections that are over may still be tracked: {error:#}"
        )),
    }
}

fn note_remarks(gate: &Gate, say: &Say, warnings: &mut Vec<String>) {
    for remark in gate.remarks() {
        if remark.starts_with("IPv6 is not gated") {
            say.warning(remark);
            warnings.push(remark.clone());
        } else {
            say.phase(remark);
        }
    }
}

/// Why `--backend auto` took what it took.
fn why_taken(backend: &str, lacking: &[String]) -> String {
    match lacking {
        [] => format!("--backend auto: {backend}, since it works here"),
        lacking => format!(
            "--backend auto: {backend}, since others do not work here: {}",
            lacking.join("; ")
        ),
    }
}

// While it is closed ------------------------------------------------------------------------------

struct Run<'a> {
    plan: &'a Plan,
    say: &'a Say,
    signals: &'a Signals,
    sockets: Sockets,
    environment: Vec<CString>,
    /// Before the gate, so that it goes before: whoever waits goes on, and is not dropped with it.
    work: Work,
    syn_limits: SynLimits,
    translation: Translation,
    /// How many held SYNs were let go when none could be seen any more.
    to_nobody: usize,
    gate: Option<Gate>,
    /// Behind the gate, so that it goes after: nobody is sent to it any more.
    standby: Option<Standby>,
    /// Since when it is being stopped.
    stopping: Option<Instant>,
    /// What became of it.
    standby_row: Option<StandbyRow>,
    child: Option<Child>,
    /// `--ready-check`, while it runs.
    check: Option<Beside>,
    /// `--listen-netns-from`, while it runs.
    search: Option<Beside>,
    /// Why it has named no network namespace, the last time that it was asked.
    search_trouble: Option<String>,
    closed: Closed,
    spawn_error: Option<Ending>,
    open_error: Option<String>,
    warnings: Vec<String>,
    told_of_deadline: bool,
    told_of_linger: bool,
    looked_for_answers: bool,
    /// What `-v` has told last of what is waited for.
    told_waiting: String,
}

impl Run<'_> {
    /// Does what is decided, and waits in between, until the run is over.
    fn drive(&mut self, state: &mut State, report: &mut Report) {
        let mut event = Event::Closed;
        loop {
            if let Event::Exited(exit) = &event {
                self.say
                    .phase(&format!("COMMAND ended: {}", exit_words(*exit)));
            }
            event = match state.step(event, Instant::now()) {
                Some(Action::End) => break,
                Some(action) => self.perform(action, report),
                None => self.wait(state),
            };
            if let Some(gate) = &self.gate {
                // Closed again, it may open earlier.
                self.closed.opens_by(gate.deadline());
                state.opens_by(gate.deadline());
            }
            self.warn_of_deadline(state);
        }
        self.say.done_waiting();
    }

    /// At once, and not when COMMAND ends: that may be in weeks.
    fn warn_of_deadline(&mut self, state: &State) {
        let facts = &state.facts;
        let runs = facts.started_at.is_some() && facts.exited.is_none();
        if !facts.deadline_hit || !runs || std::mem::replace(&mut self.told_of_deadline, true) {
            return;
        }
        let limit = humantime::format_duration(self.plan.max_closed);
        let pid = self.child.as_ref().map_or(0, Child::pid);
        self.warn(format!(
            "--max-closed {limit} is over, the gate is open; COMMAND (pid {pid}) still runs: if it \
             stays in the foreground, use --open-on ready"
        ));
    }

    fn perform(&mut self, action: Action, report: &mut Report) -> Event {
        crate::words::fault::before(&action);
        match action {
            Action::Look(want) => self.look(want),
            Action::Check => {
                self.say.phase("drained");
                Event::Stands(self.gate_stands())
            }
            Action::Rearm(ports) => Event::Stands(self.close_again(ports)),
            Action::Guard => {
                let began = Instant::now();
                let intact = self.gate.as_mut().is_none_or(Gate::intact);
                Event::Intact(intact, began.elapsed())
            }
            Action::Start => self.start(report),
            Action::Release { ports, finally } => self.release(&ports, finally),
            Action::ShutOnly(ports) => {
                self.shut_only(ports);
                self.let_go();
                let shut = self.gate.as_ref().map(|gate| gate.shut().clone());
                Event::Shut(shut.unwrap_or_default())
            }
            Action::Open => {
                self.open(report);
                self.let_go();
                Event::Done
            }
            Action::WatchStandby => {
                let began = Instant::now();
                let listens = self.work.redirect();
                let listens = listens.is_none_or(Redirect::standby_listens);
                Event::StandbyListens(listens, began.elapsed())
            }
            Action::Linger => self.linger(),
            Action::StopStandby => self.stop_standby(),
            Action::Remove { anyway } => {
                self.let_go();
                if !anyway && self.others_hold() {
                    return Event::OthersHold;
                }
                self.remove();
                Event::Done
            }
            Action::ReadyCheck => self.start_check(),
            Action::Search => self.start_search(),
            Action::Pass(signal) => {
                self.say
                    .phase(&format!("passing {} on", signal_name(signal)));
                if let Some(child) = &self.child {
                    child.signal(signal);
                }
                Event::Done
            }
            Action::End => Event::Done,
        }
    }

    fn look(&mut self, want: Want) -> Event {
        let began = Instant::now();
        match self.sockets.look(want) {
            Ok(sample) => Event::Saw(sample, began.elapsed()),
            Err(error) => {
                self.warn(format!("{error:#}"));
                Event::Blind
            }
        }
    }

    /// One round: those go for whom there is room.
    fn release(&mut self, ports: &PortSet, finally: bool) -> Event {
        let began = Instant::now();
        let Some(hold) = self.work.hold() else {
            return Event::Released(Waiting::default(), Duration::ZERO);
        };
        hold.read_all();
        // All who have gone may still be in their handshakes.
        let comers = hold.gone() + hold.waiting_for(ports) as u64;
        // What can't be looked at is tried again in the next round.
        if !hold.waited_for(ports).is_empty()
            && let Ok(sample) = look_for_room(&mut self.sockets, self.syn_limits, comers)
        {
            let mut pace = Pace::new(&sample, self.syn_limits, &self.translation, finally);
            let gone = hold.release_all(ports, &mut pace);
            let nobody = sample.listeners.is_empty();
            if nobody && finally && !self.translation.seen.is_empty() {
                self.to_nobody += gone;
            } else if nobody {
                // Whoever has gone to listeners that are no more may come again.
                hold.forget_who_has_gone();
            }
        }
        let after = Waiting {
            ports: hold.waited_for(ports),
            count: hold.waiting_for(ports),
            gone: hold.gone(),
        };
        Event::Released(after, began.elapsed())
    }

    /// Whoever waits for what is open now goes on: who came in the moment of opening, or had to wait
    /// for longer than `--release-timeout`.
    fn let_go(&mut self) {
        let shut = self.gate.as_ref().map(|gate| gate.shut().clone());
        let open = self.plan.config.ports.minus(&shut.unwrap_or_default());
        if let Some(hold) = self.work.hold() {
            hold.let_go(&open);
        }
    }

    fn gate_stands(&mut self) -> bool {
        let Some(gate) = &mut self.gate else {
            return false;
        };
        gate.stands().unwrap_or_else(|error| {
            self.warn(format!("the gate can't be read back: {error:#}"));
            false
        })
    }

    fn shut_only(&mut self, ports: PortSet) {
        let Some(gate) = &mut self.gate else {
            return;
        };
        let was = gate.shut().clone();
        match gate.shut_only(ports) {
            Ok(()) => {
                let is = gate.shut().clone();
                if let Some(hold) = self.work.hold().filter(|_| !is.minus(&was).is_empty()) {
                    hold.forget_who_has_gone();
                }
                self.note_shut(&was, &is);
            }
            Err(error) => self.warn(format!("the gated ports could not be changed: {error:#}")),
        }
    }

    /// Somebody has removed the rules, or the kernel's time was over. What has been open meanwhile was
    /// not closed.
    fn close_again(&mut self, ports: PortSet) -> bool {
        let remarks = |gate: &Option<Gate>| gate.as_ref().map_or(0, |gate| gate.remarks().len());
        let known = remarks(&self.gate);
        self.closed.now_shut(false, Instant::now());
        self.shut_only(ports);
        let stands = self.gate_stands();
        self.closed.now_shut(stands, Instant::now());
        let gate = self.gate.as_ref();
        let new = gate.map_or_else(Vec::new, |gate| gate.remarks()[known..].to_vec());
        new.into_iter().for_each(|remark| self.warn(remark));
        stands
    }

    fn note_shut(&mut self, was: &PortSet, is: &PortSet) {
        self.closed.now_shut(!is.is_empty(), Instant::now());
        for (what, ports) in [("opened", was.minus(is)), ("closed", is.minus(was))] {
            if !ports.is_empty() {
                self.say.phase(&format!("{what} {}", ports.brief()));
            }
        }
    }

    /// Starts COMMAND, unless a signal has come in the meantime.
    fn start(&mut self, report: &mut Report) -> Event {
        if let Some(Caught::Stop(signal, sender)) = self.signals.wait(Some(Instant::now())) {
            return Event::Signal(signal, sender);
        }
        self.say.done_waiting();
        self.say
            .phase(&format!("running {}", self.plan.command_line()));
        let spawned = Child::spawn(
            &self.plan.program,
            &self.plan.command,
            &self.environment,
            self.signals.inherited(),
        );
        match spawned {
            Ok(child) => self.child = Some(child),
            Err(error) => self.spawn_error = Some(not_spawned(self.plan, error)),
        }
        report.command_was_run = self.child.is_some();
        Event::Started(report.command_was_run)
    }

    fn start_check(&mut self) -> Event {
        let Some(line) = &self.plan.ready_check else {
            return Event::Done;
        };
        match Beside::check(line, &self.environment, self.signals.inherited()) {
            Ok(check) => {
                self.check = Some(check);
                Event::Done
            }
            Err(error) => {
                self.warn(format!("--ready-check can't be run: {}", error.desc()));
                Event::ReadyChecked(CommandExit::Code(NOT_EXECUTABLE))
            }
        }
    }

    fn start_search(&mut self) -> Event {
        let Listeners::From(line) = &self.plan.listeners else {
            return Event::Done;
        };
        match Beside::ask(line, &self.environment, self.signals.inherited()) {
            Ok(search) => {
                self.search = Some(search);
                Event::Done
            }
            Err(error) => {
                self.search_trouble = Some(format!("can't be run ({})", error.desc()));
                Event::Searched(false)
            }
        }
    }

    /// Whether something that runs beside has ended.
    fn beside_ended(&mut self) -> Option<Event> {
        if let Some(exit) = self.check.as_ref().and_then(Beside::ended) {
            self.check = None;
            self.say
                .phase(&format!("ready check: {}", exit_words(exit)));
            return Some(Event::ReadyChecked(exit));
        }
        let exit = self.search.as_ref().and_then(Beside::ended)?;
        let answer = self.search.take().map(|mut search| search.answer());
        let found = answered(exit, &answer.unwrap_or_default()).and_then(|netns| {
            let known = self.sockets.netns().map(ToString::to_string);
            let entered = self.sockets.look_in(&netns);
            entered.map_err(|why| format!("printed '{netns}': {why}"))?;
            if known != Some(netns.to_string()) {
                self.say.phase(&format!("looking for listeners in {netns}"));
            }
            Ok(())
        });
        self.search_trouble = found.err();
        self.syn_limits = self.sockets.syn_limits();
        Some(Event::Searched(self.search_trouble.is_none()))
    }

    fn open(&mut self, report: &mut Report) {
        let Some(gate) = &mut self.gate else {
            return;
        };
        let was = gate.shut().clone();
        let decided = Instant::now();
        let opened = gate.open();
        report.open_took_ms = Some(decided.elapsed().into());
        if let Err(error) = opened {
            self.open_error = Some(format!("{error:#}"));
        }
        self.note_shut(&was, &PortSet::EMPTY);
    }

    /// Whether what is left of the gate can't go without taking SYNs from another run.
    fn others_hold(&mut self) -> bool {
        let own = self.work.hold().map(|hold| hold.queue());
        let gate = self.gate.as_ref();
        gate.is_some_and(Gate::empties_queues) && nfqueue::others_hold(own)
    }

    /// Counts, and clears away. A backend that can't do it by itself goes with its `Gate` here.
    fn remove(&mut self) {
        if let Some(mut gate) = self.gate.take() {
            match gate.remove() {
                Ok(counted) => {
                    self.closed.syns_stopped = counted;
                    self.closed.held = self.work.hold().map(Hold::figures);
                }
                // It is open, or `open` has told otherwise.
                Err(error) => self.warn(format!(
                    "the gate's rules could not be removed ({error:#}): syngate clear does"
                )),
            }
        }
    }

    /// Nothing to do: waits for a signal, COMMAND's exit or the time that was asked for.
    fn wait(&mut self, state: &State) -> Event {
        loop {
            if let Some(event) = self.beside_ended().or_else(|| self.standby_gone()) {
                return event;
            }
            self.tell_of_linger(state);
            match state.waiting_for() {
                Some(what) => {
                    self.say.waiting(&what);
                    self.tell_waiting(&what);
                }
                None => self.say.done_waiting(),
            }
            let wake = state.wake();
            let until = [wake, self.say.due()].into_iter().flatten().min();
            match self.wait_for_packets(until) {
                Some(Caught::Readable) => {
                    let _ = self.work.hold().map(Hold::read);
                }
                Some(Caught::Stop(signal, sender)) => {
                    let child = self.child.as_ref();
                    let sender = child.map_or(sender, |child| child.hears_of(signal, sender));
                    return Event::Signal(signal, sender);
                }
                Some(Caught::OpenNow) => return Event::OpenNow,
                Some(Caught::Child) => {
                    if let Some(exit) = self.child.as_ref().and_then(Child::ended) {
                        return Event::Exited(exit);
                    }
                }
                None if wake.is_some_and(|at| at <= Instant::now()) => return Event::Time,
                None => (),
            }
        }
    }

    /// Or for a signal. Packets are not read one by one.
    fn wait_for_packets(&mut self, until: Option<Instant>) -> Option<Caught> {
        let Some(hold) = self.work.hold() else {
            let stopping = self.standby.as_ref().filter(|_| self.stopping.is_some());
            let news = stopping.and_then(Standby::news);
            return self.signals.wait_beside(until, news);
        };
        match hold.not_before().filter(|at| *at > Instant::now()) {
            Some(at) => {
                let sooner = until.map_or(at, |until| until.min(at));
                self.signals.wait(Some(sooner))
            }
            None => self.signals.wait_beside(until, Some(hold.as_fd())),
        }
    }

    /// With `-v`: each kind of wait once, without its changing figures.
    fn tell_waiting(&mut self, what: &str) {
        let kind = what.split(':').next().unwrap_or(what);
        if kind != self.told_waiting {
            self.say.phase(what);
            kind.clone_into(&mut self.told_waiting);
        }
    }

    // When it is over -----------------------------------------------------------------------------

    fn conclude(mut self, state: &State, before: &Sample, report: &mut Report) -> Ending {
        self.look_after(before, state, report);
        self.note_warnings(state);
        let facts = &state.facts;
        report.facts(facts, &self.closed);
        report.hold = self.closed.held.map(|held| HoldRow::new(held, facts));
        let redirect = self.work.redirect();
        report.redirect = redirect.map(|redirect| {
            let redirected = self.closed.syns_stopped;
            RedirectRow::new(redirect.port(), redirected, facts.lingered)
        });
        let divert = self.work.divert();
        report.divert =
            divert.map(|divert| DivertRow::new(&divert.to(), &divert.flows, facts.lingered));
        report.standby = self.standby_row;
        report.listen_netns = self.sockets.netns().map(ToString::to_string);
        report.warnings.append(&mut self.warnings);
        conclude(&Evidence {
            facts,
            ports: &self.plan.config.ports,
            listen_ports: &self.plan.config.listen_ports,
            command: &self.plan.command_line(),
            pid: self.child.as_ref().map(Child::pid),
            closed: &self.closed,
            ready_timeout: self.plan.config.ready_timeout,
            before,
            spawn_error: self.spawn_error.as_ref(),
            open_error: self.open_error.as_deref(),
            redirect: report.redirect.as_ref(),
            divert: report.divert.as_ref(),
        })
    }

    fn look_after(&mut self, before: &Sample, state: &State, report: &mut Report) {
        let want = Want {
            holders: true,
            ..Want::default()
        };
        let Ok(after) = self.sockets.look(want) else {
            return;
        };
        report.after(&after);
        let facts = &state.facts;
        if facts.started_at.is_none() || self.plan.config.ready_timeout.is_zero() {
            return;
        }
        report.listeners_lost = uncovered(&before.listeners, &after.listeners);
        // Ports without any listener are the verdict's business, if it is one on readiness.
        let unjudged = before.listeners.iter();
        let config = &self.plan.config;
        let served = |port| config.listen_ports.served_by(port, &config.ports);
        let unjudged = unjudged.filter(|l| !served(l.port).minus(&facts.not_ready).is_empty());
        let lost = uncovered(unjudged, &after.listeners);
        if !lost.is_empty() {
            self.warn(format!("nobody listens any more on {}", lost.join(" ")));
        }
        let appeared: PortSet = after.listeners.iter().map(|l| l.port).collect();
        let appeared = appeared
            .iter()
            .flat_map(|port| served(port).ranges().to_vec());
        let never_seen = facts.never_seen.minus(&PortSet::from_ranges(appeared));
        if !never_seen.is_empty() && !config.ready_check && !facts.opened_early {
            self.warn(self.only_settled(&never_seen));
        }
    }

    fn only_settled(&self, ports: &PortSet) -> String {
        let config = &self.plan.config;
        let waited = match config.settle {
            Settle::Fixed(settle) if !settle.is_zero() => {
                let settle = humantime::format_duration(settle);
                format!("only the settle time ({settle}) was waited for")
            }
            _ => "nothing was waited for".to_owned(),
        };
        format!(
            "no listener of {} was seen before or after COMMAND: {waited} (--listen-netns, \
             --listen-port?)",
            config.listen_ports.shown(ports),
        )
    }

    fn note_warnings(&mut self, state: &State) {
        let facts = &state.facts;
        if !facts.left.is_nothing() && facts.started_at.is_some() {
            let drain = humantime::format_duration(self.plan.config.drain);
            self.warn(format!(
                "--drain {drain} was over with connections left: {}",
                facts.left
            ));
        }
        if facts.ran_open && self.closed.time().is_some() {
            self.warn("COMMAND was run behind an open gate (--best-effort)".to_owned());
        }
        if facts.reclosed > 0 {
            let times = match facts.reclosed {
                1 => String::new(),
                n => format!(", {n} times"),
            };
            self.warn(format!(
                "somebody removed the gate's rules while it was closed (a firewall's reload, iptables \
                 -F?): it was closed again at once{times}"
            ));
        }
        self.note_held(facts.release_cut);
        self.note_lingered(facts.lingered);
        self.note_diverted();
        if facts.standby_gone {
            self.warn(
                "nobody listened on the standby's port any more: the gate was opened early"
                    .to_owned(),
            );
        }
        if let (Some(why), Listeners::From(line)) = (&self.search_trouble, &self.plan.listeners) {
            let line = line.to_string_lossy();
            self.warn(format!("--listen-netns-from '{line}' {why}"));
        }
        if facts.opened_early && facts.started_at.is_some() {
            self.warn("SIGUSR1 (syngate clear) opened the gate early".to_owned());
        }
        let succeeded = matches!(facts.exited, Some((_, CommandExit::Code(0))));
        if !facts.unchanged.is_empty() {
            self.warn(format!(
                "nothing changed on {} within {} of COMMAND's exit: did the reload take effect?",
                facts.unchanged.brief(),
                humantime::format_duration(crate::decide::SETTLE_PATIENCE)
            ));
        }
        if let Some(error) = self.open_error.clone().filter(|_| !succeeded) {
            self.warn(format!("the gate did not open as it should: {error}"));
        }
    }

    /// What became of held SYNs otherwise than it should.
    fn note_held(&mut self, cut: Option<Cut>) {
        let timeout = self.plan.release_timeout;
        let why = match cut {
            Some(Cut::TimedOut) if timeout.is_zero() => None,
            Some(Cut::TimedOut) => Some(format!(
                "within --release-timeout {}",
                humantime::format_duration(timeout)
            )),
            Some(Cut::Stalled) => Some(format!(
                "since more came than the service took for {}",
                humantime::format_duration(STALL)
            )),
            None => None,
        };
        if let Some(why) = why {
            self.warn(format!(
                "not all held SYNs could go in their turn {why}: the rest was let go at once"
            ));
        }
        let Some(held) = self.closed.held else {
            return;
        };
        if held.lost > 0 {
            self.warn(format!(
                "{} held SYNs were lost, since somebody removed a chain of the firewall: their clients \
                 send them again, after a second at the earliest",
                held.lost
            ));
        }
        if held.overflow > 0 {
            let option = match held.of_one_source > 0 {
                true => "--max-held-per-source",
                false => "--max-held",
            };
            self.warn(format!(
                "there was no room for {} SYNs ({option}): they were dropped, and their clients send \
                 them again",
                held.overflow
            ));
        }
        if self.to_nobody > 0 {
            self.warn(format!(
                "nobody listened when {} held SYNs were let go: they were refused",
                self.to_nobody
            ));
        }
    }

    /// Once: what goes wrong again and again is not told again and again.
    fn warn(&mut self, text: String) {
        if !self.warnings.contains(&text) {
            self.say.warning(&text);
            self.warnings.push(text);
        }
    }
}

/// As a shell would say it: 127 for a missing interpreter too, 126 for what the kernel won't run.
fn not_spawned(plan: &Plan, error: Errno) -> Ending {
    let status = match error {
        Errno::ENOENT => NOT_FOUND,
        Errno::EAGAIN | Errno::ENOMEM => NOT_RUN,
        _ => NOT_EXECUTABLE,
    };
    let hint = if error == Errno::ENOENT {
        " (a missing interpreter?)"
    } else {
        ""
    };
    let message = format!(
        "{} can't be run: {}{hint}",
        plan.program.display(),
        error.desc()
    );
    Ending::not_run_with(status, "spawn_failed", message)
}

/// The listeners, and, unless they have plenty of room anyway, how many are in their handshakes.
fn look_for_room(sockets: &mut Sockets, limits: SynLimits, comers: u64) -> anyhow::Result<Sample> {
    let listeners = sockets.look(Want::default())?;
    if pace::has_plenty(&listeners, limits, comers) {
        return Ok(listeners);
    }
    sockets.look(Want {
        handshakes: true,
        ..Want::default()
    })
}

fn refusal(refused: Refused) -> Ending {
    match refused {
        Refused::Options(why) => Ending::not_run("options", why),
        // It could not be written: once is enough to say so.
        Refused::ReportFile(why) => Ending::not_run("report_file", why),
        Refused::Command(why) => {
            let reason = match why.status() {
                NOT_FOUND => "not_found",
                _ => "not_executable",
            };
            Ending::not_run_with(why.status(), reason, why.to_string())
        }
    }
}

/// The line for people and the report for machines. The gate is gone; what is slow now, or blocks,
/// may be ended by a signal.
fn tell(ending: &Ending, args: &Args, say: &Say, report: &mut Report) {
    Signals::unblock();
    report.ending(ending);
    if let Some(file) = &args.report_file
        && ending.reason != "report_file"
        && let Err(error) = report.write(file)
    {
        say.error(&format!("--report-file: {}: {error}", file.display()));
    }
    say.may_block();
    match ending.outcome {
        Outcome::Ok => say.result(&ending.message),
        _ => say.error(&ending.message),
    }
}

fn dry_run(planned: Result<Plan, Refused>, say: &Say) -> Exit {
    let planned = planned.and_then(|plan| match plan.syn.steer() {
        Ok(steer) => Ok((plan, steer)),
        Err(error) => Err(Refused::Options(format!("{error:#}"))),
    });
    match planned {
        Ok((plan, steer)) => {
            let kind = plan.backend.kinds().first().copied().unwrap_or(Kind::Nft);
            let settings = plan.settings(&new_id(), steer);
            let rules = plan.rules(steer);
            let rules = gate::script(kind, &rules, &settings, plan.max_closed);
            crate::tell::say::print(&format!("{}\n{rules}", plan.describe()));
            Exit::Status(0)
        }
        Err(refused) => {
            let ending = refusal(refused);
            say.error(&ending.message);
            ending.exit
        }
    }
}

fn level(args: &Args) -> Level {
    match (args.quiet, args.verbose) {
        (true, _) => Level::Errors,
        (_, true) => Level::Phases,
        _ => Level::Normal,
    }
}

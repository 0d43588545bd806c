//! The surroundings of a run whose gate is closed: the clock, the sockets, signals, and the programs that
//! the run starts. `simulation/` has surroundings without a kernel.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use anyhow::Result;
use nix::errno::Errno;

use crate::action::contract::Action;
use crate::decide::policy::Abandoned;
use crate::gate::rooms;
use crate::gate::rules::PASS_MARK;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::nfqueue;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::ends::Ends;
use crate::kernel::sockets::{Looks, SocketId, Want};
use crate::process::beside::Beside;
use crate::process::child::{Child, PATIENCE};
use crate::process::rlimits::CpuTime;
use crate::process::signals::Caught;
use crate::process::starter::Starter;
use crate::run::call::Call;
use crate::run::onlooker::Onlooker;
use crate::run::plan::Listeners;
use crate::run::scene::{Scene, View};
use crate::words::ended::{CommandExit, Sender};
use crate::words::ports::PortSet;
use crate::words::ready::Ready;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Command,
    DrainCommand,
    ReadyCheck,
    /// `--listen-netns-from`.
    Search,
}

pub(super) trait World {
    fn now(&self) -> Instant;

    fn sockets(&mut self) -> &mut dyn Looks;

    /// Waits for a signal, or for input of the action, until `until` at the latest.
    fn wait(&mut self, action: &dyn Action, until: Option<Instant>) -> Option<Caught>;

    /// From now on a wait also ends when sockets have ended, where the kernel tells of that.
    fn hear_of_ends(&mut self) {}

    /// The sockets that have ended since the last call.
    fn ended_sockets(&mut self) -> Vec<SocketId> {
        Vec::new()
    }

    /// The next signal, if one has come.
    fn caught(&mut self) -> Option<Caught>;

    /// Starts it without waiting for it.
    ///
    /// # Errors
    /// It does not run.
    fn start(&mut self, program: Program) -> Result<(), Errno>;

    /// The same for `--drain-cmd` or `--ready-check`, in the control group whose `cgroup.procs` this is.
    ///
    /// # Errors
    /// It does not run.
    fn start_with(&mut self, program: Program, _pass: Option<OwnedFd>) -> Result<(), Errno> {
        self.start(program)
    }

    /// Ends `--drain-cmd`, if it has not ended by itself. Returns whether it had to.
    fn cut_drain_command(&mut self) -> bool {
        false
    }

    /// The process that becomes COMMAND. `None`: it can't be had, and COMMAND is started without it.
    fn starter(&mut self) -> Option<i32> {
        None
    }

    /// How the program ended, if it has. Told once.
    fn ended(&mut self, program: Program) -> Option<CommandExit>;

    /// What `--listen-netns-from` has printed.
    fn answer(&mut self) -> String;

    /// What became of `--ready-url` when it was asked last. Nothing is known of what `--ready-check` found.
    fn check_said(&self) -> &str {
        ""
    }

    /// What `--ready-check` has printed, if that is not what it had printed before.
    fn check_printed(&mut self) -> Option<String> {
        None
    }

    fn pid_of_command(&self) -> Option<i32>;

    /// Makes NAT forget where it has sent the handshakes to the gated ones of these ports that are not over. Returns how
    /// many there were.
    ///
    /// # Errors
    /// The kernel does not list them, or does not delete them.
    fn forget_handshakes(&mut self, _ports: &PortSet) -> Result<usize> {
        Ok(0)
    }

    /// Passes a signal on to COMMAND.
    fn signal_command(&mut self, signal: i32);

    /// Whether COMMAND has received the signal as well.
    fn who_sent(&self, signal: i32, sender: Sender) -> Sender;

    /// Looks at what no decision depends on, and returns what to warn of.
    fn look_on(&mut self, onlooker: &mut Onlooker, _: &View) -> Vec<String> {
        onlooker.stop();
        Vec::new()
    }

    /// Whether clients have come by a way round the gate, and what to warn of.
    fn look_round(&mut self, _: &mut Onlooker, _: &View) -> Option<String> {
        None
    }

    /// Why the gate has to open now, if the kernel is about to end syngate. Told once.
    fn must_give_up(&mut self) -> Option<Abandoned> {
        None
    }

    /// Whether another run than that with the queue `own` holds SYNs.
    fn others_hold(&self, own: Option<u16>) -> bool;

    /// Whether new connections to all these ports wait in the rooms of a keep while nobody listens.
    fn is_kept(&self, _ports: &PortSet) -> bool {
        false
    }
}

/// The machine that syngate runs on.
pub(super) struct Machine<'a> {
    call: &'a Call<'a>,
    sockets: Sockets,
    starter: Option<Starter>,
    /// `Some(None)`: there is no such news to be had.
    ends: Option<Option<Ends>>,
    command: Option<Child>,
    drain_command: Option<Beside>,
    check: Option<Beside>,
    check_said: String,
    /// What `--ready-check` has printed, until that is told.
    check_output: Option<String>,
    check_told: String,
    search: Option<Beside>,
    answer: String,
    /// `None`: it was told that it is nearly over.
    cpu_time: Option<CpuTime>,
}

const CPU_TIME: Abandoned = Abandoned {
    reason: "cpu_time",
    why: "syngate has nearly used up the CPU time that it may have",
    hint: "ulimit -t, LimitCPU=",
};

impl<'a> Machine<'a> {
    pub(super) fn new(
        call: &'a Call<'a>,
        sockets: Sockets,
        starter: Option<Starter>,
    ) -> Machine<'a> {
        Machine {
            call,
            sockets,
            starter,
            ends: None,
            command: None,
            drain_command: None,
            check: None,
            check_said: String::new(),
            check_output: None,
            check_told: String::new(),
            search: None,
            answer: String::new(),
            cpu_time: Some(CpuTime::limited()),
        }
    }

    fn start_command(&mut self) -> Result<(), Errno> {
        let Call { plan, signals, .. } = self.call;
        let mask = signals.inherited();
        self.command = Some(match self.starter.take().and_then(Starter::go) {
            Some(started) => started?,
            None => Child::spawn(&plan.program, &plan.command, self.call.environment, mask)?,
        });
        Ok(())
    }

    fn scene<'b>(&'b self, view: &'b View<'b>) -> Scene<'b> {
        let command = self.command.as_ref().map(Child::pid);
        Scene {
            view,
            sockets: &self.sockets,
            command: command.filter(|_| view.command_runs),
            // What asks a URL asks by way of nobody.
            check: self
                .check
                .as_ref()
                .filter(|_| matches!(self.call.plan.ready, Some(Ready::Check(_))))
                .map(|check| check.child().pid()),
        }
    }

    /// What `--ready-check` has printed so far.
    fn output_of_check(&self) -> Option<String> {
        let is_line = matches!(self.call.plan.ready, Some(Ready::Check(_)));
        let check = self.check.as_ref().filter(|_| is_line)?;
        Some(String::from_utf8_lossy(&check.output()).into_owned())
    }

    /// Tells what the run could not wait for.
    fn tell_refusal(&mut self) {
        if let Some(refusal) = self.command.as_ref().and_then(Child::refusal) {
            let (program, why) = (self.call.plan.program.display(), refusal.desc());
            let text = format!("{program} can't be run: {why}");
            self.call.say.error(&text);
        }
    }
}

impl World for Machine<'_> {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sockets(&mut self) -> &mut dyn Looks {
        &mut self.sockets
    }

    fn wait(&mut self, action: &dyn Action, until: Option<Instant>) -> Option<Caught> {
        let ends = self.ends.as_ref().and_then(Option::as_ref);
        action.wait(self.call.signals, until, ends.map(AsFd::as_fd))
    }

    fn hear_of_ends(&mut self) {
        self.ends.get_or_insert_with(|| self.sockets.ends());
    }

    fn ended_sockets(&mut self) -> Vec<SocketId> {
        let ends = self.ends.as_mut().and_then(Option::as_mut);
        ends.map_or_else(Vec::new, Ends::read)
    }

    fn forget_handshakes(&mut self, ports: &PortSet) -> Result<usize> {
        let scope = &self.call.plan.gated().scope;
        let is_gated = |to: SocketAddr| ports.contains(to.port()) && scope.reaches(to.ip());
        Ok(Conntrack::open()?.forget_handshakes(is_gated)?)
    }

    fn caught(&mut self) -> Option<Caught> {
        self.call.signals.wait(Some(Instant::now()))
    }

    fn start(&mut self, program: Program) -> Result<(), Errno> {
        let Call { plan, signals, .. } = self.call;
        let (environment, mask) = (self.call.environment, signals.inherited());
        match (program, &plan.listeners) {
            (Program::Command, _) => self.start_command()?,
            (Program::DrainCommand | Program::ReadyCheck, _) => self.start_with(program, None)?,
            (Program::Search, Listeners::From(line)) => {
                self.search = Some(Beside::ask(line, environment, mask)?);
            }
            // Without the option nobody asks for it.
            (Program::Search, _) => (),
        }
        Ok(())
    }

    fn start_with(&mut self, program: Program, pass: Option<OwnedFd>) -> Result<(), Errno> {
        let Call { plan, signals, .. } = self.call;
        let mask = signals.inherited();
        let environment = self.call.environment;
        // Without the options nobody asks for them.
        if program == Program::DrainCommand {
            let line = plan.drain_cmd.as_ref();
            let started = line.map(|line| Beside::line(line, environment, mask, pass));
            self.drain_command = started.transpose()?;
            return Ok(());
        }
        self.check = match &plan.ready {
            Some(Ready::Check(line)) => Some(Beside::check(line, environment, mask, pass)?),
            Some(Ready::Url(url)) => {
                Some(Beside::ask_url(url, PASS_MARK, environment, mask, pass)?)
            }
            None => None,
        };
        Ok(())
    }

    /// One that has died, or was not ready in time, is started anew: what is done with the process has to be done before
    /// it is COMMAND.
    fn starter(&mut self) -> Option<i32> {
        let pid = self.starter.as_ref().and_then(Starter::pid);
        if pid.is_none() {
            self.starter = self.call.try_starter(PATIENCE).ok();
        }
        self.starter.as_ref().and_then(Starter::pid)
    }

    fn ended(&mut self, program: Program) -> Option<CommandExit> {
        match program {
            Program::Command => {
                let exit = self.command.as_ref().and_then(Child::ended)?;
                self.tell_refusal();
                Some(exit)
            }
            Program::DrainCommand => {
                let exit = self.drain_command.as_ref().and_then(Beside::ended)?;
                self.drain_command = None;
                Some(exit)
            }
            Program::ReadyCheck => {
                let exit = self.check.as_ref().and_then(Beside::ended)?;
                self.check_output = self.output_of_check();
                let asked = self.check.take().filter(|_| self.check_output.is_none());
                self.check_said = asked.map(|check| check.answer()).unwrap_or_default();
                Some(exit)
            }
            Program::Search => {
                let exit = self.search.as_ref().and_then(Beside::ended)?;
                let answer = self.search.take().map(|search| search.answer());
                self.answer = answer.unwrap_or_default();
                Some(exit)
            }
        }
    }

    fn answer(&mut self) -> String {
        std::mem::take(&mut self.answer)
    }

    fn cut_drain_command(&mut self) -> bool {
        self.drain_command.take().is_some()
    }

    fn check_said(&self) -> &str {
        &self.check_said
    }

    fn is_kept(&self, ports: &PortSet) -> bool {
        rooms::kept(ports)
    }

    fn check_printed(&mut self) -> Option<String> {
        let output = self.check_output.take();
        let output = output.or_else(|| self.output_of_check())?;
        let is_new = output != self.check_told;
        self.check_told.clone_from(&output);
        is_new.then_some(output)
    }

    fn look_on(&mut self, onlooker: &mut Onlooker, view: &View) -> Vec<String> {
        if view.command_runs {
            if let Ok(sample) = self.sockets.look(Want::default()) {
                onlooker.compare(view.before, &sample, Instant::now());
            }
        }
        onlooker.look(&self.scene(view), Instant::now())
    }

    fn look_round(&mut self, onlooker: &mut Onlooker, view: &View) -> Option<String> {
        onlooker.look_round(&self.scene(view))
    }

    fn pid_of_command(&self) -> Option<i32> {
        self.command.as_ref().map(Child::pid)
    }

    fn signal_command(&mut self, signal: i32) {
        if let Some(command) = &self.command {
            command.signal(signal);
        }
    }

    fn who_sent(&self, signal: i32, sender: Sender) -> Sender {
        let command = self.command.as_ref();
        command.map_or(sender, |command| command.hears_of(signal, sender))
    }

    fn must_give_up(&mut self) -> Option<Abandoned> {
        let over = |time: &mut CpuTime| time.is_nearly_over();
        self.cpu_time.take_if(over).map(|_| CPU_TIME)
    }

    fn others_hold(&self, own: Option<u16>) -> bool {
        nfqueue::others_hold(own)
    }
}

//! What runs beside COMMAND: `--ready-check` or `--ready-url`, and `--listen-netns-from`.

use crate::decide::event::Event;
use crate::run::drive::Run;
use crate::run::prepare::answered;
use crate::run::world::Program;
use crate::words::ended::{CommandExit, exit_words};
use crate::words::exit::NOT_EXECUTABLE;
use crate::words::ready::Ready;

impl Run<'_> {
    pub(super) fn start_check(&mut self) -> Event {
        let door = || self.door.as_ref()?.entrance();
        let pass = self.action.let_check_in().or_else(door);
        match self.world.start_with(Program::ReadyCheck, pass) {
            Ok(()) => Event::Done,
            Err(error) => {
                let option = self.plan.ready.as_ref().map_or("", Ready::option);
                self.warn(format!("{option} can't be run: {}", error.desc()));
                Event::ReadyChecked(CommandExit::Code(NOT_EXECUTABLE))
            }
        }
    }

    pub(super) fn start_drain_command(&mut self) -> Event {
        let door = || self.door.as_ref()?.entrance();
        let pass = self.action.let_drain_command_in().or_else(door);
        match self.world.start_with(Program::DrainCommand, pass) {
            Ok(()) => Event::Done,
            Err(error) => {
                self.warn(format!("--drain-cmd can't be run: {}", error.desc()));
                Event::DrainCommandEnded
            }
        }
    }

    /// The drain is over.
    pub(super) fn cut_drain_command(&mut self) {
        if self.world.cut_drain_command() {
            self.warn("--drain-cmd still ran when --drain was over, and syngate killed it (raise --drain \
                       if it needs longer)".to_owned());
        }
    }

    pub(super) fn start_search(&mut self) -> Event {
        match self.world.start(Program::Search) {
            Ok(()) => Event::Done,
            Err(error) => {
                self.search_trouble = Some(format!("can't be run ({})", error.desc()));
                Event::Searched(false)
            }
        }
    }

    /// What `--ready-check` has printed, unless it is the same as before.
    pub(super) fn tell_output_of_check(&mut self) {
        let printed = self.world.check_printed();
        printed.iter().for_each(|text| self.say.printed(text));
    }

    pub(super) fn beside_ended(&mut self) -> Option<Event> {
        let say = self.say;
        if let Some(exit) = self.world.ended(Program::DrainCommand) {
            say.phase(&format!("--drain-cmd: {}", exit_words(exit)));
            if exit != CommandExit::Code(0) {
                self.warn(format!("--drain-cmd failed: {}", exit_words(exit)));
            }
            return Some(Event::DrainCommandEnded);
        }
        if let Some(exit) = self.world.ended(Program::ReadyCheck) {
            self.tell_output_of_check();
            let said = match self.world.check_said() {
                "" => exit_words(exit),
                said => said.to_owned(),
            };
            // It may fail a hundred times for the same reason.
            if self.told.check != said {
                say.phase(&format!("ready check: {said}"));
                self.told.check = said;
            }
            return Some(Event::ReadyChecked(exit));
        }
        let exit = self.world.ended(Program::Search)?;
        let answer = self.world.answer();
        let found = answered(exit, &answer).and_then(|netns| {
            let sockets = self.world.sockets();
            let known = sockets.netns().map(ToString::to_string);
            let entered = sockets.look_in(&netns);
            entered.map_err(|why| format!("printed '{netns}': {why}"))?;
            if known != Some(netns.to_string()) {
                say.phase(&format!("looking for listeners in {netns}"));
            }
            Ok(())
        });
        self.search_trouble = found.err();
        self.action.listeners_moved(self.world.sockets());
        Some(Event::Searched(self.search_trouble.is_none()))
    }
}

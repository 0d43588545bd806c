//! What runs beside COMMAND: `--ready-check` and `--listen-netns-from`.

use crate::decide::event::Event;
use crate::process::beside::Beside;
use crate::run::drive::Run;
use crate::run::plan::Listeners;
use crate::run::prepare::answered;
use crate::words::ended::{CommandExit, exit_words};
use crate::words::exit::NOT_EXECUTABLE;

impl Run<'_> {
    pub(super) fn start_check(&mut self) -> Event {
        let call = self.call;
        let Some(line) = &call.plan.ready_check else {
            return Event::Done;
        };
        match Beside::check(line, call.environment, call.signals.inherited()) {
            Ok(check) => {
                self.beside.check = Some(check);
                Event::Done
            }
            Err(error) => {
                self.warn(format!("--ready-check can't be run: {}", error.desc()));
                Event::ReadyChecked(CommandExit::Code(NOT_EXECUTABLE))
            }
        }
    }

    pub(super) fn start_search(&mut self) -> Event {
        let call = self.call;
        let Listeners::From(line) = &call.plan.listeners else {
            return Event::Done;
        };
        match Beside::ask(line, call.environment, call.signals.inherited()) {
            Ok(search) => {
                self.beside.search = Some(search);
                Event::Done
            }
            Err(error) => {
                self.beside.search_trouble = Some(format!("can't be run ({})", error.desc()));
                Event::Searched(false)
            }
        }
    }

    pub(super) fn beside_ended(&mut self) -> Option<Event> {
        let say = self.call.say;
        if let Some(exit) = self.beside.check.as_ref().and_then(Beside::ended) {
            self.beside.check = None;
            say.phase(&format!("ready check: {}", exit_words(exit)));
            return Some(Event::ReadyChecked(exit));
        }
        let exit = self.beside.search.as_ref().and_then(Beside::ended)?;
        let answer = self.beside.search.take().map(|mut search| search.answer());
        let found = answered(exit, &answer.unwrap_or_default()).and_then(|netns| {
            let known = self.sockets.netns().map(ToString::to_string);
            let entered = self.sockets.look_in(&netns);
            entered.map_err(|why| format!("printed '{netns}': {why}"))?;
            if known != Some(netns.to_string()) {
                say.phase(&format!("looking for listeners in {netns}"));
            }
            Ok(())
        });
        self.beside.search_trouble = found.err();
        self.action.listeners_moved(&self.sockets);
        Some(Event::Searched(self.beside.search_trouble.is_none()))
    }
}

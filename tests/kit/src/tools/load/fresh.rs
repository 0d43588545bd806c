use std::{
    collections::{HashMap, VecDeque},
    io,
    thread::Scope,
    time::Instant,
};

use anyhow::Result;
use mio::{Events, Token, event::Event};
use nix::libc::EMFILE;
use testkit::Fate;

use super::{
    connection::{Connection, Progress},
    plan::Plan,
    schedule::{STOP, Schedule, TIMER},
    standby::Standby,
};
use crate::tools::first_if;

/// A connection for each request. One thread's part: it makes them until it can't open any more
/// files, when its standby goes on with that, and sees to its own until they are over.
pub struct Fresh<'s, 'e> {
    plan: &'e Plan<'e>,
    next: Standby<'s>,
    schedule: Schedule<'e>,
    open: HashMap<usize, Connection>,
    /// When the open ones, and some that are done, time out; in order.
    timeouts: VecDeque<(Instant, usize)>,
}

impl<'s, 'e> Fresh<'s, 'e> {
    pub fn new(plan: &'e Plan<'e>, scope: &'s Scope<'s, 'e>, next: u64) -> Result<Self> {
        let go_on = move |next| Fresh::new(plan, scope, next)?.run();
        Ok(Self {
            plan,
            // First, so that it doesn't keep our files open with its own.
            next: Standby::new(scope, go_on)?,
            schedule: Schedule::new(plan, next)?,
            open: HashMap::new(),
            timeouts: VecDeque::new(),
        })
    }

    pub fn run(mut self) -> Result<()> {
        // Many: as long as all that has come is seen to before the next is issued, a client that is too
        // slow for the answers is late as well.
        let mut events = Events::with_capacity(4096);
        while !self.schedule.is_over() || !self.open.is_empty() {
            self.schedule.wait(&mut events)?;
            for event in &events {
                match event.token() {
                    TIMER => self.schedule.ticked(),
                    STOP => self.schedule.stop()?,
                    Token(id) => self.advance(id, event)?,
                }
            }
            self.issue_due()?;
            self.time_out();
        }
        self.next.join()
    }

    fn issue_due(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some(due) = self.schedule.due(now) {
            if !self.issue(due)? {
                self.schedule.stop()?;
                return self.next.begin(self.schedule.next());
            }
        }
        Ok(())
    }

    /// Begins a connection, unless the open ones leave no file for it.
    fn issue(&mut self, due: Instant) -> Result<bool> {
        let id = self.schedule.next() as usize;
        let opened = self.plan.open(&self.schedule.poll, Token(id), id, due);
        if is_full(&opened) && !self.open.is_empty() {
            return Ok(false);
        }
        self.schedule.issued()?;
        let mut tally = self.plan.tally();
        tally.sent(due);
        tally.connects();
        match opened {
            Ok(connection) => {
                self.open.insert(id, connection);
                let end = due + self.plan.args.timeout;
                self.timeouts.push_back((end, id));
            }
            Err(error) => {
                let detail = self.plan.not_opened(&error, self.open.len());
                tally.failed(due, Fate::Other, detail);
            }
        }
        Ok(true)
    }

    fn advance(&mut self, id: usize, event: &Event) -> Result<()> {
        let Some(connection) = self.open.get_mut(&id) else {
            return Ok(());
        };
        match connection.advance(event) {
            Progress::Waiting => return Ok(()),
            Progress::Answered => self.plan.answered(connection)?,
            Progress::Failed(kind, detail) => self.plan.tally().broken(connection, kind, detail),
        }
        // Dropping it closes it, which also takes it off the epoll.
        self.open.remove(&id);
        Ok(())
    }

    fn time_out(&mut self) {
        let now = Instant::now();
        while let Some((_, id)) = first_if(&mut self.timeouts, |(end, _)| *end <= now) {
            if let Some(connection) = self.open.remove(&id) {
                self.plan.tally().timed_out(&connection);
            }
        }
    }
}

fn is_full<T>(opened: &io::Result<T>) -> bool {
    let error = opened.as_ref().err().and_then(io::Error::raw_os_error);
    error == Some(EMFILE)
}

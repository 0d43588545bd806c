use std::{collections::VecDeque, num::NonZeroU32, time::Instant};

use anyhow::Result;
use mio::{Events, Token, event::Event};
use testkit::Fate;

use super::{
    connection::{Connection, Progress},
    line::Line,
    plan::Plan,
    schedule::{STOP, Schedule, TIMER},
};
use crate::tools::first_if;

/// All requests over a few connections, in one thread.
pub struct KeepAlive<'e> {
    plan: &'e Plan<'e>,
    schedule: Schedule<'e>,
    /// `None`: to be made when it is needed.
    connections: Vec<Option<Connection>>,
    /// Who is idle, made or not, and which requests wait for that.
    line: Line,
    /// When each request that went to a connection was due, in order. Some are done.
    asked: VecDeque<(Instant, usize)>,
    /// How many connections there were.
    connects: usize,
}

impl<'e> KeepAlive<'e> {
    pub fn new(plan: &'e Plan<'e>, connections: NonZeroU32) -> Result<Self> {
        let n = connections.get() as usize;
        Ok(Self {
            plan,
            schedule: Schedule::new(plan, 0)?,
            connections: (0..n).map(|_| None).collect(),
            line: Line::new(n),
            asked: VecDeque::new(),
            connects: 0,
        })
    }

    pub fn run(mut self) -> Result<()> {
        let mut events = Events::with_capacity(4096);
        while !self.schedule.is_over() || !self.line.is_quiet() {
            self.schedule.wait(&mut events)?;
            for event in &events {
                match event.token() {
                    TIMER => self.schedule.ticked(),
                    STOP => self.schedule.stop()?,
                    Token(id) => self.advance(id, event)?,
                }
            }
            self.time_out();
            self.line_up()?;
            self.hand_out()?;
        }
        Ok(())
    }

    fn line_up(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some(due) = self.schedule.due(now) {
            self.plan.tally().sent(due);
            self.line.wait(due);
            self.schedule.issued()?;
        }
        Ok(())
    }

    fn hand_out(&mut self) -> Result<()> {
        while let Some((id, due)) = self.line.next() {
            self.asked.push_back((due, id));
            let asked = self.connections[id].as_mut().map(|c| c.again(due));
            match asked {
                // Nobody had asked when it broke, so that nobody has failed.
                None | Some(Progress::Failed(Fate::Reset, _)) => self.connect(id, due),
                Some(progress) => self.settle(id, progress)?,
            }
        }
        Ok(())
    }

    fn connect(&mut self, id: usize, due: Instant) {
        // The old one is closed first: there may be no file for both.
        self.connections[id] = None;
        let mut tally = self.plan.tally();
        tally.connects();
        let poll = &self.schedule.poll;
        match self.plan.open(poll, Token(id), self.connects, due) {
            Ok(connection) => self.connections[id] = Some(connection),
            Err(error) => {
                let open = self.connections.iter().flatten().count();
                tally.failed(due, Fate::Other, self.plan.not_opened(&error, open));
                self.line.back(id);
            }
        }
        self.connects += 1;
    }

    fn advance(&mut self, id: usize, event: &Event) -> Result<()> {
        let Some(connection) = &mut self.connections[id] else {
            return Ok(());
        };
        let was_idle = connection.is_idle();
        match connection.advance(event) {
            Progress::Failed(..) if was_idle => self.connections[id] = None,
            progress => self.settle(id, progress)?,
        }
        Ok(())
    }

    /// What a request has come to.
    fn settle(&mut self, id: usize, progress: Progress) -> Result<()> {
        let Some(connection) = &self.connections[id] else {
            return Ok(());
        };
        let stays = match progress {
            Progress::Waiting => return Ok(()),
            Progress::Answered => {
                self.plan.answered(connection)?;
                connection.is_idle()
            }
            Progress::Failed(..) if connection.was_stale() => {
                let due = connection.due;
                self.plan.tally().resent();
                self.connect(id, due);
                return Ok(());
            }
            Progress::Failed(kind, detail) => {
                self.plan.tally().broken(connection, kind, detail);
                false
            }
        };
        self.release(id, stays);
        Ok(())
    }

    /// It is free for the next request, who finds it closed unless it stays.
    fn release(&mut self, id: usize, stays: bool) {
        self.connections[id].take_if(|_| !stays);
        self.line.back(id);
    }

    fn time_out(&mut self) {
        let (now, timeout) = (Instant::now(), self.plan.args.timeout);
        let is_over = |(due, _): &(Instant, usize)| *due + timeout <= now;
        while let Some((due, id)) = first_if(&mut self.asked, is_over) {
            let waits = |c: &&Connection| c.due == due && !c.is_idle();
            if let Some(connection) = self.connections[id].as_ref().filter(waits) {
                self.plan.tally().timed_out(connection);
                self.release(id, false);
            }
        }
        while let Some(due) = self.line.give_up(now, timeout) {
            let detail = "waiting for a connection".to_owned();
            self.plan.tally().failed(due, Fate::TimedOut, detail);
        }
    }
}
